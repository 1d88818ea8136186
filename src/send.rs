//! The console client: sends messages one after the other and prints what comes back.
//!
//! Plain blocking sockets of the standard library. It shares no I/O code with the server, and so
//! is an independent witness of what the server does.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use log::{debug, error};

use crate::socket;

/// What is to be sent, and where.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The addresses of the server, tried in order.
    pub targets: Vec<SocketAddr>,
    /// The messages; none: the lines of standard input.
    pub messages: Vec<Vec<u8>>,
    /// Options of the connection.
    pub options: socket::Options,
    /// How long to wait for the connection, for each part of a reply, and for the end.
    pub timeout: Duration,
}

/// A message of at most this length fits into the buffers of both ends, so that it can be sent in
/// full before its reply is read. A longer one is sent by a thread of its own meanwhile.
const SENT_AT_ONCE_BYTES: usize = 4 * 1024;

/// Does the errand. True: every reply was right and the connection was closed in order. False: it
/// was not, and the log says how. An error: nothing could be sent at all.
pub fn run(errand: &Errand, input: impl BufRead, output: &mut impl Write) -> anyhow::Result<bool> {
    let stream = connect(errand)?;
    let conversation = Conversation {
        stream,
        timeout: errand.timeout,
        output,
        sent: 0,
    };
    match conversation.hold(errand, input) {
        Ok(()) => Ok(true),
        Err(fault) => {
            error!("{fault:#}");
            Ok(false)
        }
    }
}

/// Connects with the first address that answers; the error is that of the last.
fn connect(errand: &Errand) -> anyhow::Result<TcpStream> {
    let mut last = anyhow!("no address to connect to");
    for &target in &errand.targets {
        let begun = Instant::now();
        match socket::connect_blocking(target, &errand.options, errand.timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(errand.timeout))?;
                stream.set_write_timeout(Some(errand.timeout))?;
                debug!(
                    "connected {} -> {target} in {:.3?}",
                    stream.local_addr()?,
                    begun.elapsed()
                );
                debug!(
                    "MSS in force: {} bytes of payload",
                    socket::mss_in_force(&stream)?
                );
                return Ok(stream);
            }
            Err(error) => last = anyhow!("cannot connect to {target}: {}", reason(&error, errand)),
        }
    }
    Err(last)
}

fn reason(error: &io::Error, errand: &Errand) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused, nothing listens there".to_string(),
        io::ErrorKind::TimedOut => format!("no answer within {:?}", errand.timeout),
        _ => error.to_string(),
    }
}

struct Conversation<'a, W> {
    stream: TcpStream,
    timeout: Duration,
    output: &'a mut W,
    /// Messages sent so far.
    sent: usize,
}

impl<W: Write> Conversation<'_, W> {
    fn hold(mut self, errand: &Errand, mut input: impl BufRead) -> anyhow::Result<()> {
        for message in &errand.messages {
            self.exchange(message)?;
        }
        if errand.messages.is_empty() {
            while let Some(line) = next_line(&mut input)? {
                self.exchange(&line)?;
            }
        }
        self.close()
    }

    /// Sends a message, prints its reply and compares them. An empty message has no reply.
    fn exchange(&mut self, message: &[u8]) -> anyhow::Result<()> {
        if message.is_empty() {
            return Ok(());
        }
        self.sent += 1;
        let number = self.sent;
        let begun = Instant::now();
        let (reply, fault) = self.ask(message);
        let round_trip = begun.elapsed();
        let mut line = reply;
        line.push(b'\n');
        if fault.is_none() || line.len() > 1 {
            self.output.write_all(&line)?;
            self.output.flush()?;
        }
        line.pop();
        if let Some(fault) = fault {
            return Err(fault.context(format!("message {number}")));
        }
        compare(message, &line).with_context(|| format!("message {number}"))?;
        debug!(
            "message {number}: {} bytes, round trip {round_trip:.3?}",
            message.len()
        );
        Ok(())
    }

    /// The reply to a message; with a fault, as much of it as came.
    fn ask(&self, message: &[u8]) -> (Vec<u8>, Option<anyhow::Error>) {
        let mut reply = Vec::new();
        let stream = &self.stream;
        let fault = thread::scope(|scope| {
            let send = move || {
                let mut stream = stream;
                stream.write_all(message)
            };
            if message.len() <= SENT_AT_ONCE_BYTES {
                if let Err(error) = send() {
                    return Some(anyhow!("cannot send: {error}"));
                }
            } else {
                // An error of sending shows in the reply as well: it stays incomplete.
                scope.spawn(send);
            }
            let fault = self.read_reply(&mut reply, message.len()).err();
            if fault.is_some() {
                let _ = self.stream.shutdown(Shutdown::Both); // Frees a sender that is blocked.
            }
            fault
        });
        (reply, fault)
    }

    fn read_reply(&self, reply: &mut Vec<u8>, length: usize) -> anyhow::Result<()> {
        let mut rest = (&self.stream).take(length as u64);
        match rest.read_to_end(reply) {
            Ok(_) if reply.len() == length => Ok(()),
            Ok(_) => bail!(
                "the server closed the connection after {} of {length} bytes of the reply",
                reply.len()
            ),
            Err(error) if is_timeout(&error) => bail!(
                "no more of the reply within {:?}: {} of {length} bytes came",
                self.timeout,
                reply.len()
            ),
            Err(error) => bail!(
                "after {} of {length} bytes of the reply: {error}",
                reply.len()
            ),
        }
    }

    /// Our FIN, then the server's; nothing may come between.
    fn close(self) -> anyhow::Result<()> {
        self.stream
            .shutdown(Shutdown::Write)
            .context("cannot close the connection")?;
        let mut surplus = [0; 64];
        match (&self.stream).read(&mut surplus) {
            Ok(0) => {
                debug!("closed in order by both sides");
                Ok(())
            }
            Ok(_) => bail!("the server sent more bytes than it was sent"),
            Err(error) if is_timeout(&error) => {
                bail!(
                    "the server did not close its side within {:?}",
                    self.timeout
                )
            }
            Err(error) => bail!("the connection was not closed in order: {error}"),
        }
    }
}

/// The next line without its ending (LF or CR LF), empty or not; `None` at the end.
fn next_line(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let length = input
        .read_until(b'\n', &mut line)
        .context("cannot read standard input")?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok((length > 0).then_some(line))
}

fn compare(message: &[u8], reply: &[u8]) -> anyhow::Result<()> {
    let expected = message.to_ascii_uppercase();
    let mut pairs = expected.iter().zip(reply);
    match pairs.position(|(expected, found)| expected != found) {
        None => Ok(()),
        Some(place) => bail!(
            "the reply is not the message in upper case: byte {place} is {}, not {}",
            show(reply[place]),
            show(expected[place])
        ),
    }
}

/// A byte for a person: `'x' (0x78)`.
fn show(byte: u8) -> String {
    format!("'{}' (0x{byte:02x})", byte.escape_ascii())
}

/// A blocking socket tells EAGAIN when its timeout is over. See socket(7), SO_RCVTIMEO.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
