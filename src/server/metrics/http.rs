//! One exchange with a client of the metrics page: a request and its response, with as much of
//! HTTP/1.1 (RFC 9112) as the page needs. Pure: the socket is an argument.
//!
//! ```text
//!   Requesting ── complete, or invalid ──► Replying ── all sent, FIN sent ──► Leaving
//! ```
//!
//! Every connection carries one request. After the reply, further input is read and dropped, since
//! closing a socket with unread input would reset the connection, and the client could lose the
//! reply.

use std::io;

use httparse::{EMPTY_HEADER, Error, Status as Parsed};

use crate::stream::{Hints, Readiness, Received, Stream};

/// Maximum size of a request in bytes: browsers and scrapers send far less than 1 KiB.
pub const REQUEST_MOST: usize = 8 * 1024;

/// Maximum number of header lines of a request.
const HEADERS_MOST: usize = 64;

/// Maximum number of bytes that are read and dropped after a reply: enough for the rest of a
/// request that was refused while it was being sent, and a bound for one that never ends.
const DROPPED_MOST: usize = 64 * 1024;

/// A resource that can be requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
}

/// The content of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Whether the status is 200; otherwise it is 503.
    pub is_well: bool,
    /// The media type, without its character set.
    pub kind: &'static str,
    /// The body.
    pub text: String,
}

/// The state of a request, as parsed from the bytes received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Incomplete(Method),
    Asks(Resource, Method),
    Refused(Refusal, Method),
}

/// The method, as far as it affects the reply: HEAD gets the reply to GET without the body, also
/// when the request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Malformed,
    Unknown,
    NotAllowed,
    TooSlow,
    TooLarge,
    Version,
}

impl Refusal {
    /// Returns the status, RFC 9110 and, for 431, RFC 6585.
    fn status(self) -> &'static str {
        match self {
            Refusal::Malformed => "400 Bad Request",
            Refusal::Unknown => "404 Not Found",
            Refusal::NotAllowed => "405 Method Not Allowed",
            Refusal::TooSlow => "408 Request Timeout",
            Refusal::TooLarge => "431 Request Header Fields Too Large",
            Refusal::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// The state of one exchange.
#[derive(Debug)]
pub struct Exchange {
    readiness: Readiness,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Requesting { request: Vec<u8> },
    Replying { reply: Vec<u8>, sent: usize },
    Leaving { dropped: usize },
}

/// The outcome of [`Exchange::serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// An event will follow.
    Waiting,
    /// The socket is to be closed.
    Over,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            readiness: Readiness::new(),
            phase: Phase::Requesting {
                request: Vec::new(),
            },
        }
    }
}

impl Exchange {
    /// Records an event.
    pub fn note(&mut self, hints: Hints) {
        self.readiness.note(hints);
    }

    /// Does what can be done now without blocking. `find` returns the content of a resource. An
    /// error of the socket ends the exchange.
    pub fn serve(
        &mut self,
        stream: &mut impl Stream,
        find: impl FnMut(Resource) -> Content,
    ) -> Progress {
        self.advance(stream, find).unwrap_or(Progress::Over)
    }

    /// Ends an exchange whose time is over. If a part of a request has arrived, sends the status
    /// 408, as far as the kernel takes it now.
    pub fn end(&mut self, stream: &mut impl Stream) {
        if let Phase::Requesting { request } = &self.phase
            && !request.is_empty()
        {
            let method = match understand(request) {
                Request::Incomplete(method) => method,
                Request::Asks(_, method) | Request::Refused(_, method) => method,
            };
            let reply = refusal(Refusal::TooSlow, method);
            let _ = self.readiness.send(stream, &reply);
        }
    }

    fn advance(
        &mut self,
        stream: &mut impl Stream,
        mut find: impl FnMut(Resource) -> Content,
    ) -> io::Result<Progress> {
        let mut buffer = [0; 4096];
        loop {
            match &mut self.phase {
                Phase::Requesting { request } => {
                    let has_ended = match self.readiness.recv(stream, &mut buffer)? {
                        Received::Bytes(count) => {
                            request.extend_from_slice(&buffer[..count]);
                            false
                        }
                        Received::End if request.is_empty() => return Ok(Progress::Over),
                        Received::End => true,
                        Received::Blocked => return Ok(Progress::Waiting),
                    };
                    let reply = match understand(request) {
                        Request::Asks(resource, method) => reply(&find(resource), method),
                        Request::Refused(why, method) => refusal(why, method),
                        Request::Incomplete(method) if has_ended => {
                            refusal(Refusal::Malformed, method)
                        }
                        Request::Incomplete(_) => continue,
                    };
                    self.phase = Phase::Replying { reply, sent: 0 };
                }
                Phase::Replying { reply, sent } => {
                    *sent += self.readiness.send(stream, &reply[*sent..])?;
                    if *sent < reply.len() {
                        return Ok(Progress::Waiting);
                    }
                    stream.shutdown_write()?;
                    self.phase = Phase::Leaving { dropped: 0 };
                }
                Phase::Leaving { dropped } => match self.readiness.recv(stream, &mut buffer)? {
                    Received::Bytes(count) if *dropped < DROPPED_MOST => *dropped += count,
                    Received::Bytes(_) | Received::End => return Ok(Progress::Over),
                    Received::Blocked => return Ok(Progress::Waiting),
                },
            }
        }
    }
}

/// Parses the bytes received so far on a connection. The result does not depend on the pieces in
/// which they arrive.
fn understand(bytes: &[u8]) -> Request {
    let bytes = &bytes[..bytes.len().min(REQUEST_MOST)];
    let mut headers = [EMPTY_HEADER; HEADERS_MOST];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes);
    let method = match request.method {
        Some("HEAD") => Method::Head,
        _ => Method::Get,
    };
    let refused = |why| Request::Refused(why, method);
    match parsed {
        Ok(Parsed::Complete(_)) => {}
        Ok(Parsed::Partial) if bytes.len() < REQUEST_MOST => return Request::Incomplete(method),
        Ok(Parsed::Partial) | Err(Error::TooManyHeaders) => return refused(Refusal::TooLarge),
        Err(Error::Version) => return refused(Refusal::Version),
        Err(_) => return refused(Refusal::Malformed),
    }
    let is_host = |header: &&httparse::Header| header.name.eq_ignore_ascii_case("host");
    let hosts = request.headers.iter().filter(is_host).count();
    // RFC 9112, section 3.2.
    if hosts > 1 || hosts == 0 && request.version == Some(1) {
        return refused(Refusal::Malformed);
    }
    let resource = match path(request.path.unwrap_or_default()) {
        "/metrics" => Resource::Metrics,
        "/healthz" => Resource::Health,
        _ => return refused(Refusal::Unknown),
    };
    match request.method {
        Some("GET" | "HEAD") => Request::Asks(resource, method),
        _ => refused(Refusal::NotAllowed),
    }
}

/// Returns the path of a request target, which may also be a whole URL: RFC 9112, section 3.2.
fn path(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => {
            &rest[rest.find('/').unwrap_or(rest.len())..]
        }
        _ => target,
    };
    path.split('?').next().unwrap_or_default()
}

fn reply(content: &Content, method: Method) -> Vec<u8> {
    let status = match content.is_well {
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    message(status, "", content.kind, &content.text, method)
}

fn refusal(why: Refusal, method: Method) -> Vec<u8> {
    let allow = match why {
        Refusal::NotAllowed => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    let text = format!("{}\n", why.status());
    message(why.status(), allow, "text/plain", &text, method)
}

fn message(status: &str, more: &str, kind: &str, body: &str, method: Method) -> Vec<u8> {
    let mut message = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: {kind}; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method == Method::Get {
        message.push_str(body);
    }
    message.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: Refusal) -> Request {
        Request::Refused(why, Method::Get)
    }

    #[test]
    fn a_request_is_what_it_says() {
        let asks = |resource| Request::Asks(resource, Method::Get);
        let cases = [
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                asks(Resource::Metrics),
            ),
            ("GET /metrics HTTP/1.0\r\n\r\n", asks(Resource::Metrics)),
            (
                "GET /metrics?a=b HTTP/1.1\nhOST:a\n\n",
                asks(Resource::Metrics),
            ),
            (
                "\r\nGET http://a:1/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
                asks(Resource::Health),
            ),
            (
                "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
                refused(Refusal::Unknown),
            ),
            ("GET /metrics HTTP/1.1\r\n\r\n", refused(Refusal::Malformed)),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                refused(Refusal::Malformed),
            ),
            ("GET /metrics/ HTTP/1.0\r\n\r\n", refused(Refusal::Unknown)),
            (
                "PUT /metrics HTTP/1.0\r\n\r\n",
                refused(Refusal::NotAllowed),
            ),
            ("PUT /nowhere HTTP/1.0\r\n\r\n", refused(Refusal::Unknown)),
            ("GET /metrics HTTP/2.0\r\n\r\n", refused(Refusal::Version)),
            ("GET /metrics\r\n\r\n", refused(Refusal::Malformed)),
            ("\u{16}\u{3}\u{1}", refused(Refusal::Malformed)),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\n",
                Request::Incomplete(Method::Get),
            ),
            ("HEAD /metrics", Request::Incomplete(Method::Head)),
            ("", Request::Incomplete(Method::Get)),
        ];
        for (text, meant) in cases {
            assert_eq!(understand(text.as_bytes()), meant, "{text:?}");
        }
        assert_eq!(
            understand(b"HEAD /nowhere HTTP/1.0\r\n\r\n"),
            Request::Refused(Refusal::Unknown, Method::Head)
        );
    }

    #[test]
    fn a_request_has_an_end() {
        let begun = format!("GET /metrics HTTP/1.0\r\na: {}", "b".repeat(REQUEST_MOST));
        assert_eq!(
            understand(&begun.as_bytes()[..REQUEST_MOST - 1]),
            Request::Incomplete(Method::Get)
        );
        let too_large = refused(Refusal::TooLarge);
        assert_eq!(understand(&begun.as_bytes()[..REQUEST_MOST]), too_large);
        assert_eq!(understand(format!("{begun}\r\n\r\n").as_bytes()), too_large);
        let many = format!(
            "GET / HTTP/1.0\r\n{}\r\n",
            "a: b\r\n".repeat(HEADERS_MOST + 1)
        );
        assert_eq!(understand(many.as_bytes()), too_large);
    }

    /// A client whose request arrives in pieces, followed by a FIN.
    struct Client<'a> {
        pieces: std::vec::IntoIter<&'a [u8]>,
        received: Vec<u8>,
    }

    impl Stream for Client<'_> {
        fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = self.pieces.next().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }

        fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn shutdown_write(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the reply to a request that arrives in pieces of this size and ends with a FIN.
    fn answer(request: &str, piece: usize) -> String {
        let pieces: Vec<&[u8]> = request.as_bytes().chunks(piece).collect();
        let mut client = Client {
            pieces: pieces.into_iter(),
            received: Vec::new(),
        };
        let mut exchange = Exchange::default();
        let find = |_| Content {
            is_well: true,
            kind: "text/plain",
            text: "all".to_string(),
        };
        for _ in 0..=request.len() + 1 {
            exchange.note(Hints {
                readable: true,
                writable: true,
                exceptional: true,
                ended: true,
            });
            if exchange.serve(&mut client, find) == Progress::Over {
                break;
            }
        }
        String::from_utf8(client.received).unwrap()
    }

    #[test]
    fn the_reply_does_not_depend_on_the_pieces_of_the_request() {
        let filler = "b".repeat(REQUEST_MOST);
        let requests = [
            ("GET /metrics HTTP/1.0\r\n\r\n".to_string(), "200"),
            (format!("GET / HTTP/1.0\r\na: {filler}\0\r\n\r\n"), "431"),
            (format!("GET / HTTP/1.0\r\na\0: {filler}\r\n\r\n"), "400"),
            ("HEAD /metrics HTTP/1.0\r\n".to_string(), "400"),
        ];
        for (request, status) in requests {
            let whole = answer(&request, 4096);
            assert!(whole.starts_with(&format!("HTTP/1.1 {status} ")), "{whole}");
            for piece in [1, 2, 7, 1000, 4000] {
                assert_eq!(answer(&request, piece), whole);
            }
        }
    }

    #[test]
    fn a_reply_to_head_has_no_body_also_when_the_request_is_cut_off() {
        let reply = answer("HEAD /metrics HTTP/1.1\r\nHost: a\r\n", 5);
        assert!(reply.ends_with("\r\n\r\n"), "{reply}");
    }

    #[test]
    fn the_length_is_that_of_the_body_also_when_there_is_none() {
        let content = Content {
            is_well: false,
            kind: "text/plain",
            text: "grüße".to_string(),
        };
        let get = String::from_utf8(reply(&content, Method::Get)).unwrap();
        let head = String::from_utf8(reply(&content, Method::Head)).unwrap();
        assert!(
            get.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{get}"
        );
        assert!(get.contains("\r\nContent-Length: 7\r\n"), "{get}");
        assert_eq!(get, format!("{head}grüße"));
    }
}
