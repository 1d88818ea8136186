//! The console client: sends messages one after the other and prints the replies.
//!
//! It uses blocking sockets of the standard library. It shares no I/O code with the server, and so
//! is an independent check of what the server does.
//!
//! Every line of the input, without its LF, is a message, and its reply is printed as a line. An
//! empty line is not sent, and is printed as an empty line. So the output is the input in upper
//! case, byte for byte, including a CR.
//!
//! Whenever the client waits, it also waits for a signal, and at the prompt for the connection, on
//! which the server must not send anything then. So a dead server is reported at once, not with the
//! next message. Output is written by a separate thread, since a pipe or a terminal that no process
//! reads may block it indefinitely.

pub mod editor;
pub mod lines;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use log::{debug, error};

use crate::address::happy_eyeballs::{self, ConnectParameters, reasons};
use crate::address::resolve::display_address;
use crate::causes;
use crate::echo::Difference;
use crate::reactor::interrupt::Interrupts;
use crate::send::editor::Editor;
use crate::send::lines::{Lines, NextLine};
use crate::sys::worker::Worker;
use crate::sys::{poll, socket};
use crate::units::{Counted, counted, grouped, short};

/// The messages to send, and the server to send them to.
#[derive(Clone, Debug)]
pub struct SendJob {
    /// The addresses of the server, to be tried as in [`happy_eyeballs`].
    pub targets: Vec<SocketAddr>,
    /// The messages; an empty list means the lines of the input.
    pub messages: Vec<Vec<u8>>,
    /// Options of the connection.
    pub options: socket::Options,
    /// Maximum time to wait for the connection, for each part of a reply, and for the server's
    /// close.
    pub timeout: Duration,
}

/// The source of messages that are not part of the job.
#[derive(Debug)]
pub enum Input {
    /// A file, a pipe, or a terminal without an editor.
    Lines(Lines),
    /// A terminal with an editor.
    Editor(Editor),
}

impl Input {
    /// Returns standard input, with an editor where a person types.
    pub fn with_editor() -> io::Result<Input> {
        match Editor::open()? {
            Some(editor) => Ok(Input::Editor(editor)),
            None => Input::plain(),
        }
    }

    /// Returns standard input without an editor.
    pub fn plain() -> io::Result<Input> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Input::Lines(Lines::new(stdin)))
    }

    fn take(&mut self) -> NextLine {
        match self {
            Input::Lines(lines) => lines.take(),
            Input::Editor(editor) => editor.take(),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        match self {
            Input::Lines(lines) => lines.fill(),
            Input::Editor(editor) => editor.fill(),
        }
    }

    /// Ends the prompt, if there is one. Returns whether its line still needs a line break.
    fn stop(&mut self) -> bool {
        match self {
            Input::Lines(_) => false,
            Input::Editor(editor) => editor.stop(),
        }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Input::Lines(lines) => lines.as_fd(),
            Input::Editor(editor) => editor.as_fd(),
        }
    }
}

/// The outcome of a job whose connection was established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Every reply was right and the connection was closed in order.
    Good,
    /// A fault was found and logged.
    Bad,
    /// Every reply so far was right, but the job was not completed: a signal arrived before a
    /// reply was complete and printed or the server had closed its side, or the reader of the
    /// output has closed it.
    Unfinished,
}

/// The reason why a conversation ended early.
enum Stop {
    /// A fault of the server or of the connection.
    Fault(anyhow::Error),
    /// A signal arrived while something was outstanding, which the text describes.
    Interrupted(String),
    /// The reader of the output has closed it, and needs no more.
    Unread,
    /// A failure of this process, such as an error of standard input or output.
    Failure(anyhow::Error),
}

/// A message of at most this length fits into the socket buffers of both ends, so that it can be
/// sent in full before its reply is read. A longer one is sent by a separate thread while its reply
/// is read.
const INLINE_SEND_BYTES_MAX: usize = 4 * 1024;

/// Maximum time after a signal for the server to close its side, and for the output to accept what
/// was printed, while the user waits.
const TIME_AFTER_SIGNAL: Duration = Duration::from_secs(1);

/// Maximum number of bytes of one read of a reply.
const READ_BYTES: usize = 64 * 1024;

/// Carries out the job. Fails when nothing could be sent at all, or when input or output failed.
pub fn run(
    job: &SendJob,
    input: Input,
    mut output: impl Write + Send + 'static,
) -> anyhow::Result<SendOutcome> {
    let write = move |bytes: Vec<u8>| output.write_all(&bytes).and_then(|()| output.flush());
    let output = Worker::start("output", write).context("cannot start a thread")?;
    let begun = Instant::now();
    let (stream, target) = connect(job)?;
    let took = short(begun.elapsed());
    // Once the log lines below are visible, a signal must end the conversation cleanly.
    let interrupts = Interrupts::install().context("cannot handle signals")?;
    let source = display_address(stream.local_addr()?);
    debug!(
        "connected {source} -> {} in {took}",
        display_address(target)
    );
    let mss = socket::mss_in_force(&stream)?;
    debug!("MSS in force: {mss} bytes of payload");
    let conversation = Conversation {
        stream,
        timeout: job.timeout,
        input,
        output,
        interrupts,
        begun: 0,
        sent: 0,
        is_interrupted: false,
    };
    match conversation.hold(&job.messages) {
        Ok(()) => Ok(SendOutcome::Good),
        Err(Stop::Fault(fault)) => {
            error!("{}", causes::with_causes(&fault));
            Ok(SendOutcome::Bad)
        }
        Err(Stop::Interrupted(owed)) => {
            error!("interrupted: {owed}");
            Ok(SendOutcome::Unfinished)
        }
        Err(Stop::Unread) => Ok(SendOutcome::Unfinished),
        Err(Stop::Failure(error)) => Err(error),
    }
}

/// Connects to the address that answers first.
fn connect(job: &SendJob) -> anyhow::Result<(TcpStream, SocketAddr)> {
    let terms = ConnectParameters {
        source: None,
        options: &job.options,
        timeout: job.timeout,
    };
    let (stream, target) = happy_eyeballs::connect(&job.targets, &terms)
        .map_err(|failures| anyhow!("cannot connect to {}", reasons(&failures, job.timeout)))?;
    stream.set_write_timeout(Some(job.timeout))?;
    Ok((stream, target))
}

struct Conversation {
    stream: TcpStream,
    timeout: Duration,
    input: Input,
    output: Worker<Vec<u8>, io::Result<()>>,
    interrupts: Interrupts,
    /// Messages begun so far, including empty ones.
    begun: usize,
    /// Messages sent so far.
    sent: usize,
    /// Whether a signal arrived at the prompt.
    is_interrupted: bool,
}

impl Conversation {
    fn hold(mut self, messages: &[Vec<u8>]) -> Result<(), Stop> {
        let outcome = match messages {
            [] => self.exchange_lines(),
            messages => messages
                .iter()
                .try_for_each(|message| self.exchange(message)),
        };
        if self.input.stop() {
            self.output.submit(b"\n".to_vec());
            // Cosmetic: nothing is lost if the output does not accept it.
            let _ = wait(&[self.output.as_fd()], Some(TIME_AFTER_SIGNAL));
        }
        match outcome {
            Ok(()) => self.close(),
            // The replies so far were right; the connection is closed as after the last message.
            Err(Stop::Unread) => {
                let is_all_sent = !messages.is_empty() && self.begun == messages.len();
                self.close()?;
                is_all_sent.then_some(()).ok_or(Stop::Unread)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Sends the lines of the input and prints their replies, until the input ends or a signal
    /// arrives.
    fn exchange_lines(&mut self) -> Result<(), Stop> {
        loop {
            match self.input.take() {
                NextLine::Line(line) => self.exchange(&line)?,
                NextLine::End => return Ok(()),
                NextLine::NotYet => match self.wait_for_input()? {
                    PromptEvent::Input => {
                        self.input.fill().context("cannot read standard input")?
                    }
                    PromptEvent::Signal => {
                        self.interrupts.take().context("cannot read a signal")?;
                        self.is_interrupted = true;
                        return Ok(());
                    }
                },
            }
        }
    }

    /// Waits at the prompt for input or a signal. The server must not send anything then: bytes, a
    /// close or an error on the connection are a fault.
    fn wait_for_input(&self) -> Result<PromptEvent, Stop> {
        let descriptors = [
            self.interrupts.as_fd(),
            self.stream.as_fd(),
            self.input.as_fd(),
        ];
        match wait(&descriptors, None)? {
            Some(0) => Ok(PromptEvent::Signal),
            Some(1) => Err(Stop::Fault(self.unexpected_event())),
            _ => Ok(PromptEvent::Input),
        }
    }

    /// Reads from the connection, on which nothing was expected, and returns the fault.
    fn unexpected_event(&self) -> anyhow::Error {
        let mut surplus = [0; 64];
        match (&self.stream).read(&mut surplus) {
            Ok(0) => anyhow!("the server closed the connection while no reply was outstanding"),
            Ok(_) => anyhow!("the server sent more bytes than it received"),
            Err(error) => anyhow!("the connection failed while no reply was outstanding: {error}"),
        }
    }

    /// Sends a message, prints its reply and compares them. An empty message has no reply.
    fn exchange(&mut self, message: &[u8]) -> Result<(), Stop> {
        self.begun += 1;
        if message.is_empty() {
            return self.print(b"\n".to_vec());
        }
        self.sent += 1;
        let number = self.sent;
        let begun = Instant::now();
        let (mut line, stop) = self.ask(message);
        let round_trip = begun.elapsed();
        let fault = stop.or_else(|| compare(message, &line).err().map(Stop::Fault));
        let printed = match (&fault, line.is_empty()) {
            (Some(_), true) => Ok(()),
            _ => {
                line.push(b'\n');
                self.print(line)
            }
        };
        if let Some(fault) = fault {
            return Err(fault.of_message(number));
        }
        printed.map_err(|stop| stop.of_message(number))?;
        debug!(
            "message {number}: {}, round trip {}",
            bytes(message.len()),
            short(round_trip)
        );
        Ok(())
    }

    /// Writes a line. After a signal the time for it is bounded; the signal is not consumed, so
    /// that the next wait reports it as well.
    fn print(&self, line: Vec<u8>) -> Result<(), Stop> {
        self.output.submit(line);
        let descriptors = [self.output.as_fd(), self.interrupts.as_fd()];
        if wait(&descriptors, None)? == Some(1)
            && wait(&descriptors[..1], Some(TIME_AFTER_SIGNAL))?.is_none()
        {
            let owed = "standard output is blocked: the reply could not be printed";
            return Err(Stop::Interrupted(owed.to_string()));
        }
        let written = self.output.take().and_then(|outcome| outcome);
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Unread,
            _ => {
                Stop::Failure(anyhow::Error::new(error).context("cannot write to standard output"))
            }
        })
    }

    /// Sends a message and returns its reply; with a stop, the part of the reply that was received.
    fn ask(&self, message: &[u8]) -> (Vec<u8>, Option<Stop>) {
        let mut reply = Vec::new();
        let stream = &self.stream;
        let stop = thread::scope(|scope| {
            let send = move || {
                let mut stream = stream;
                stream.write_all(message)
            };
            if message.len() <= INLINE_SEND_BYTES_MAX {
                if let Err(error) = send() {
                    return Some(Stop::Fault(anyhow!("cannot send: {error}")));
                }
            } else {
                // An error of sending is detected as well: the reply stays incomplete.
                scope.spawn(send);
            }
            let stop = self.read_reply(&mut reply, message.len()).err();
            if stop.is_some() {
                let _ = self.stream.shutdown(Shutdown::Both); // Frees a sender that is blocked.
            }
            stop
        });
        (reply, stop)
    }

    fn read_reply(&self, reply: &mut Vec<u8>, length: usize) -> Result<(), Stop> {
        let mut buffer = vec![0; length.min(READ_BYTES)];
        while reply.len() < length {
            let most = buffer.len().min(length - reply.len());
            let fault = match self.read(&mut buffer[..most], self.timeout)? {
                ServerEvent::Bytes(count) => {
                    reply.extend_from_slice(&buffer[..count]);
                    continue;
                }
                ServerEvent::End => format!(
                    "the server closed the connection after {} of {} of the reply",
                    grouped(reply.len() as u64),
                    bytes(length)
                ),
                ServerEvent::Nothing => format!(
                    "no further bytes of the reply within {:?}: received {} of {}",
                    self.timeout,
                    grouped(reply.len() as u64),
                    bytes(length)
                ),
                ServerEvent::Broken(error) if self.begun == 1 && reply.is_empty() => format!(
                    "the server closed the connection at once: {error}; its limit on connections \
                     of one address may be reached (--max-connections-per-ip)"
                ),
                ServerEvent::Broken(error) => format!(
                    "the connection failed after {} of {} of the reply: {error}",
                    grouped(reply.len() as u64),
                    bytes(length)
                ),
                ServerEvent::Signal => {
                    let received = grouped(reply.len() as u64);
                    let so_far = format!("received {received} of {} of the reply", bytes(length));
                    return Err(Stop::Interrupted(so_far));
                }
            };
            return Err(Stop::Fault(anyhow!(fault)));
        }
        Ok(())
    }

    /// Waits for the server or a signal, and reads once.
    fn read(&self, bytes: &mut [u8], time: Duration) -> anyhow::Result<ServerEvent> {
        let descriptors = [self.interrupts.as_fd(), self.stream.as_fd()];
        Ok(match wait(&descriptors, Some(time))? {
            None => ServerEvent::Nothing,
            Some(0) => ServerEvent::Signal,
            Some(_) => match (&self.stream).read(bytes) {
                Ok(0) => ServerEvent::End,
                Ok(count) => ServerEvent::Bytes(count),
                Err(error) => ServerEvent::Broken(error),
            },
        })
    }

    /// Sends FIN and waits for the server's FIN. Bytes that arrive before it are a fault.
    fn close(self) -> Result<(), Stop> {
        self.stream
            .shutdown(Shutdown::Write)
            .map_err(|error| Stop::Fault(anyhow!("cannot close the connection: {error}")))?;
        let time = match self.is_interrupted {
            true => self.timeout.min(TIME_AFTER_SIGNAL),
            false => self.timeout,
        };
        let fault = match self.read(&mut [0; 64], time)? {
            ServerEvent::End => {
                debug!("both sides closed the connection cleanly");
                return Ok(());
            }
            ServerEvent::Bytes(_) => anyhow!("the server sent more bytes than it received"),
            ServerEvent::Nothing if self.is_interrupted => {
                let owed = format!("the server did not close its side within {time:?}");
                return Err(Stop::Interrupted(owed));
            }
            ServerEvent::Nothing => anyhow!("the server did not close its side within {time:?}"),
            ServerEvent::Broken(error) => anyhow!("the connection was not closed cleanly: {error}"),
            ServerEvent::Signal => {
                let owed = "the server has not closed its side";
                return Err(Stop::Interrupted(owed.to_string()));
            }
        };
        Err(Stop::Fault(fault))
    }
}

/// The first event while the client waits for the server.
enum ServerEvent {
    Bytes(usize),
    End,
    Broken(io::Error),
    /// The timeout has expired.
    Nothing,
    Signal,
}

/// The first event at the prompt.
enum PromptEvent {
    Input,
    Signal,
}

impl Stop {
    /// Returns this stop with the number of its message added.
    fn of_message(self, number: usize) -> Stop {
        match self {
            Stop::Fault(fault) => Stop::Fault(fault.context(format!("message {number}"))),
            Stop::Interrupted(owed) => Stop::Interrupted(format!("message {number}: {owed}")),
            stop => stop,
        }
    }
}

/// Converts an error of this process to a stop.
impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Failure(error)
    }
}

/// Waits until one of the descriptors is readable, see [`poll::readable`].
fn wait(descriptors: &[BorrowedFd], time: Option<Duration>) -> anyhow::Result<Option<usize>> {
    poll::readable(descriptors, time).context("cannot wait for events")
}

fn compare(message: &[u8], reply: &[u8]) -> anyhow::Result<()> {
    match Difference::first_of_reply(0, message, reply) {
        None => Ok(()),
        Some(difference) => bail!("the reply is not the message in upper case at {difference}"),
    }
}

/// Returns a number of bytes with its noun: `2,000 bytes`.
fn bytes(count: usize) -> Counted<'static> {
    counted(count as u64, "byte")
}
