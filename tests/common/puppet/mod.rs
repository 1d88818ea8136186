//! Puppets: scripted clients of the server, and what must become of them. A script knows nothing of
//! sockets: it is played on a [`Stage`], which is the kernel's or that of a simulation.
//!
//! A script is a chain of actions and, behind `=>`, the reasons for which the server may close:
//!
//! ```text
//! connect; send "abc"; read "ABC"; shut; end => finished
//! ```
//!
//! Before connecting:
//!   `mss 88`, `receive-buffer 2KiB`, `send-buffer 2KiB`
//! A client's actions:
//!   `connect`            a connection; one that the same client had before is closed
//!   `send "abc"`         these bytes, waiting for room; nothing is read meanwhile
//!   `send 64KiB`         as many bytes of a pattern that differs from place to place
//!   `send every-byte`    all 256 values
//!   `send-and-shut ...`  the same, with FIN in the segment of the last byte
//!   `exchange 1MiB`      sends so much of the pattern while it reads all replies
//!   `full`               sends the pattern until nothing more has been taken for a while
//!   `urgent "!"`         one byte of urgent data
//!   `read "ABC"`         waits for exactly these bytes
//!   `read 100`           waits for so many bytes
//!   `read-all`           waits for all replies that are owed
//!   `end`                waits for FIN, with nothing before it
//!   `gone`               waits for FIN or RST; replies may come before it
//!   `shut`               sends FIN
//!   `reset`              sends RST
//!   `close`              closes: FIN, or RST where replies are unread
//! For everybody:
//!   `pause 20ms`         time passes
//!   `repeat 5 (...)`
//!   `stop`               the operator asks the server to stop, for the second time at once
//!   `freeze`, `thaw`     the server gets no time in between: what happens there, it sees at once
//!
//! `a: connect; b: connect; a: ...` are several clients, each one the subject until another is
//! named; `a*100: connect` are a hundred, who do every action one after the other. Then the end may
//! differ: `=> a finished, b reset|finished`. `=> nobody`: no client was accepted.
//!
//! Whatever is read is held against what was sent, in upper case, byte by byte.

pub mod play;
pub mod read;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::totals::Totals;
use play::Played;

/// One script.
#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    /// The server's further arguments on the command line.
    pub arguments: String,
    pub steps: Vec<Step>,
    /// For each client by name, the reasons of which one must be its end.
    pub ends: BTreeMap<String, Vec<String>>,
}

/// One action of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub client: String,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// From here on there are so many clients of this name.
    Crowd(usize),
    Mss(u32),
    ReceiveBuffer(usize),
    SendBuffer(usize),
    Connect,
    Send(Payload),
    SendAndShut(Payload),
    Exchange(usize),
    Full,
    Urgent(u8),
    Read(Vec<u8>),
    ReadCount(usize),
    ReadAll,
    End,
    Gone,
    Shut,
    Reset,
    Close,
    Pause(Duration),
    Repeat(usize, Vec<Step>),
    Operator(Order),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Text(Vec<u8>),
    /// So many bytes of [`pattern`], from where the client's stream stands.
    Pattern(usize),
}

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Stop,
    Freeze,
    Thaw,
}

/// The byte of the pattern at this place of a stream: all 256 values, in no order that a shift, a
/// gap or a repetition would keep.
pub fn pattern(place: usize) -> u8 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// What a client asks of its socket before it connects; `None`: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub mss: Option<u32>,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
}

/// How bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Plain,
    /// The last byte is urgent: MSG_OOB, send(2).
    Urgent,
    /// FIN follows and is to share their segment: MSG_MORE, send(2).
    Last,
}

/// What a script is played on. Nothing here waits but [`Stage::wait`]: what cannot be done now is
/// [`io::ErrorKind::WouldBlock`].
pub trait Stage {
    type Client;

    /// A client that the server's kernel has taken, or that waits in its queue.
    fn connect(&mut self, setup: Setup) -> io::Result<Self::Client>;
    /// Sends a prefix and tells its length.
    fn send(
        &mut self,
        client: &mut Self::Client,
        bytes: &[u8],
        manner: Manner,
    ) -> io::Result<usize>;
    /// Receives into the buffer; 0 is FIN.
    fn receive(&mut self, client: &mut Self::Client, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sends FIN.
    fn shut(&mut self, client: &mut Self::Client) -> io::Result<()>;
    /// Closes with RST.
    fn reset(&mut self, client: Self::Client);
    /// Closes: with FIN, or with RST where something is unread.
    fn close(&mut self, client: Self::Client);
    /// Carries out an order; returns when the server knows of it, unless it is frozen. The first
    /// [`Order::Stop`] it knows when it drains, the second when it has ended.
    fn order(&mut self, order: Order);
    /// Lets time pass.
    fn wait(&mut self, time: Duration);
    /// The time since some beginning.
    fn now(&self) -> Duration;
}

impl Script {
    /// Whether these totals can be those of the server on whose stage it was played.
    pub fn judge(&self, played: &Played, totals: &Totals) -> Result<(), String> {
        if !totals.balance() {
            return Err(format!("the books do not balance: {totals:?}"));
        }
        let clients: u64 = played.connects.values().sum();
        if totals.accepted != clients {
            return Err(format!("{clients} clients came, and {totals:?}"));
        }
        if !self.explains(played, totals) {
            return Err(format!("{totals:?} are not {:?}", self.ends));
        }
        let all_finished = totals.closed("finished") == clients;
        if totals.bytes_out < played.received {
            return Err(format!("{} bytes came, of {totals:?}", played.received));
        }
        if all_finished && totals.bytes_in != totals.bytes_out {
            return Err(format!("finished, and not all is answered: {totals:?}"));
        }
        Ok(())
    }

    /// Whether each client can be given one of its ends so that the counts come out. By Hall's
    /// theorem that is so when no set of reasons has more closes than there are clients for them.
    fn explains(&self, played: &Played, totals: &Totals) -> bool {
        let reasons: Vec<(&String, &u64)> = totals.closed.iter().collect();
        (0_u32..1 << reasons.len()).all(|set| {
            let chosen: Vec<_> = (0..reasons.len())
                .filter(|bit| set & 1 << bit != 0)
                .map(|bit| reasons[bit])
                .collect();
            let closes: u64 = chosen.iter().map(|(_, count)| **count).sum();
            let clients: u64 = played
                .connects
                .iter()
                .filter(|(name, _)| {
                    let ends = self.ends.get(*name).map_or(&[][..], Vec::as_slice);
                    chosen.iter().any(|(reason, _)| ends.contains(reason))
                })
                .map(|(_, count)| count)
                .sum();
            closes <= clients
        })
    }
}
