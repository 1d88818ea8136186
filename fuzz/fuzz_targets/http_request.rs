//! Fuzzes the request parser of the metrics server: any bytes are what a client sends before its
//! FIN.
//!
//! Properties:
//! - Nothing panics, and every exchange ends.
//! - The reply does not depend on the pieces in which the request arrives, nor on those in which
//!   the kernel accepts the reply.
//! - A client that sends anything gets one reply and then FIN. The reply is HTTP/1.1, and as long
//!   as it claims; it has no body only if the request begins with HEAD.
//! - A resource is looked up once, for 200 and 503, and only if the request has its name.
//! - If the time of an exchange ends, a client that sent only a part of a request gets 408, and one
//!   that sent nothing gets nothing.

#![no_main]

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use libfuzzer_sys::fuzz_target;
use upcase::server::metrics::http::{Content, Exchange, Progress, REQUEST_MOST, Resource};
use upcase::stream::{Hints, Stream};

fuzz_target!(|request: &[u8]| check(request));

/// Longest request for which every split is tested, in bytes.
const EVERY_SPLIT: usize = 256;

/// Approximate number of splits of a longer request that are tested.
const SPLITS: usize = 64;

/// Maximum number of events of an exchange: each of them lets it advance by a byte or more.
const EVENTS_MOST: usize = 10_000;

fn check(request: &[u8]) {
    // Of a longer request, it depends on the pieces whether the first fault that is found is its
    // length or another one.
    let request = &request[..request.len().min(REQUEST_MOST)];
    let whole = exchange(&[request], usize::MAX);
    check_reply(request, &whole);
    let stride = match request.len() {
        ..=EVERY_SPLIT => 1,
        length => length / SPLITS,
    };
    for split in (0..=request.len()).step_by(stride) {
        let (first, second) = request.split_at(split);
        let room = 1 + split % 97;
        assert_eq!(exchange(&[first, second], room), whole, "split at {split}");
        check_timeout(first);
    }
}

/// The other end of the connection, with the kernel between.
#[derive(Debug, Default)]
struct Client {
    /// The pieces of the request that were not received yet; after the last one is FIN. An empty
    /// piece stands for the time until the next one arrives.
    pieces: VecDeque<Vec<u8>>,
    /// Number of bytes that the kernel accepts now.
    room: usize,
    reply: Vec<u8>,
    has_fin: bool,
}

impl Client {
    fn new(pieces: &[&[u8]], room: usize) -> Client {
        Client {
            pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
            room,
            ..Client::default()
        }
    }
}

impl Stream for Client {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(0);
        };
        if piece.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        piece.drain(..count);
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.has_fin, "bytes are sent after FIN");
        if self.room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = self.room.min(bytes.len());
        self.room -= count;
        self.reply.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        assert!(!self.has_fin, "FIN is sent twice");
        self.has_fin = true;
        Ok(())
    }
}

/// The outcome of an exchange: the reply, whether FIN followed it, and the resources looked up.
#[derive(Debug, PartialEq)]
struct Outcome {
    reply: Vec<u8>,
    has_fin: bool,
    found: Vec<Resource>,
}

/// Returns the outcome of an exchange in which the request arrives in these pieces, and the kernel
/// accepts `room` bytes of the reply after each event.
fn exchange(pieces: &[&[u8]], room: usize) -> Outcome {
    let mut client = Client::new(pieces, room);
    let mut exchange = Exchange::default();
    let mut found = Vec::new();
    for _ in 0..EVENTS_MOST {
        let ended = client.pieces.is_empty();
        exchange.note(Hints {
            readable: true,
            writable: true,
            exceptional: ended,
            ended,
        });
        let find = |resource| {
            found.push(resource);
            content(resource)
        };
        if exchange.serve(&mut client, find) == Progress::Over {
            return Outcome {
                reply: client.reply,
                has_fin: client.has_fin,
                found,
            };
        }
        client.room = room;
        if client.pieces.front().is_some_and(Vec::is_empty) {
            client.pieces.pop_front();
        }
    }
    panic!("the exchange has no end");
}

fn content(resource: Resource) -> Content {
    Content {
        is_well: resource == Resource::Metrics,
        kind: "text/plain",
        text: "one\ntwo\n".to_string(),
    }
}

fn check_reply(request: &[u8], outcome: &Outcome) {
    if request.is_empty() {
        assert!(outcome.reply.is_empty() && !outcome.has_fin && outcome.found.is_empty());
        return;
    }
    assert!(outcome.has_fin, "there is no reply");
    let reply = str::from_utf8(&outcome.reply).expect("the reply is UTF-8");
    let (head, body) = reply.split_once("\r\n\r\n").expect("the reply has a head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|status| status.split(' ').next());
    let expected = match outcome.found[..] {
        [] => None,
        [Resource::Metrics] => Some("200"),
        [Resource::Health] => Some("503"),
        _ => panic!("several resources: {:?}", outcome.found),
    };
    match expected {
        Some(expected) => assert_eq!(status, Some(expected), "{head}"),
        None => assert!(
            matches!(status, Some("400" | "404" | "405" | "431" | "505")),
            "{head}"
        ),
    }
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.and_then(|text| text.parse().ok()).expect("a length");
    let begins_with_head = request.trim_ascii_start().starts_with(b"HEAD ");
    assert!(
        body.len() == length || body.is_empty() && begins_with_head,
        "{reply}"
    );
    for resource in &outcome.found {
        let name: &[u8] = match resource {
            Resource::Metrics => b"/metrics",
            Resource::Health => b"/healthz",
        };
        let mut places = request.windows(name.len());
        assert!(places.any(|place| place == name), "{resource:?}");
    }
}

/// Checks the reply to a client whose time ends when it has sent these bytes.
fn check_timeout(sent: &[u8]) {
    let mut client = Client::new(&[sent], usize::MAX);
    let mut exchange = Exchange::default();
    exchange.note(Hints {
        readable: true,
        ..Hints::default()
    });
    exchange.serve(&mut client, content);
    if client.reply.is_empty() {
        exchange.end(&mut client);
        let is_refused = client.reply.starts_with(b"HTTP/1.1 408 ");
        assert_eq!(is_refused, !sent.is_empty());
        assert_eq!(client.reply.is_empty(), sent.is_empty());
    }
}
