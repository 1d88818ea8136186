//! Scripted clients of the server, called puppets, and their expected outcomes. A script does not
//! depend on sockets: it is played on a [`Stage`], which is either the kernel or a simulation.
//!
//! A script is a sequence of actions and, after `=>`, the reasons for which the server may close:
//!
//! ```text
//! connect; send "abc"; read "ABC"; shut; end => finished
//! ```
//!
//! Before connecting:
//!   `mss 88`, `receive-buffer 2KiB`, `send-buffer 2KiB`
//! A client's actions:
//!   `connect`            opens a connection; an earlier one of the same client is closed
//!   `send "abc"`         sends these bytes, waiting for buffer space; reads nothing while waiting
//!   `send 64KiB`         sends this number of bytes of a pattern without repetition
//!   `send every-byte`    sends all 256 values
//!   `send-and-shut ...`  like `send`, with FIN in the segment of the last byte
//!   `exchange 1MiB`      sends so much of the pattern while it reads all replies
//!   `full`               sends the pattern until nothing more is accepted for a while
//!   `urgent "!"`         sends one byte of urgent data
//!   `read "ABC"`         waits for exactly these bytes
//!   `read 100`           waits for this number of bytes
//!   `read-all`           waits for all replies that are outstanding
//!   `end`                waits for FIN, with nothing before it
//!   `gone`               waits for FIN or RST; replies may precede it
//!   `shut`               sends FIN
//!   `reset`              sends RST
//!   `close`              closes: FIN, or RST if replies are unread
//! Not tied to a client:
//!   `pause 20ms`         lets time pass
//!   `repeat 5 (...)`     repeats actions
//!   `stop`               the operator stops the server; the second time, at once
//!   `freeze`, `thaw`     stop and continue the server: it sees all events in between together
//!
//! `a: connect; b: connect; a: ...` are several clients; an action belongs to the last client that
//! was named. `a*100: connect` are 100 clients, which perform every action one after the other.
//! Then the end can differ: `=> a finished, b reset|finished`. `=> nobody`: no client was accepted.
//!
//! All bytes that are read are compared with the upper case of the bytes that were sent.

pub mod play;
pub mod read;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::totals::Totals;
use play::Played;

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    /// The server's further arguments on the command line.
    pub arguments: String,
    pub steps: Vec<Step>,
    /// The reasons, by client name, of which one must be the reason for its end.
    pub ends: BTreeMap<String, Vec<String>>,
}

/// An action of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub client: String,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Sets the number of clients with this name.
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
    /// A number of bytes of [`pattern`], beginning at the current position of the client's stream.
    Pattern(usize),
}

/// An order of the operator to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Stop,
    Freeze,
    Thaw,
}

/// Returns the byte of the pattern at this place of a stream. The pattern has all 256 values, and a
/// shift, a gap or a repetition changes it.
pub fn pattern(place: usize) -> u8 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Socket options that a client sets before it connects; `None`: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub mss: Option<u32>,
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
}

/// The mode in which bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Plain,
    /// The last byte is urgent: MSG_OOB, send(2).
    Urgent,
    /// FIN follows and should share the segment of the last byte: MSG_MORE, send(2).
    Last,
}

/// The environment of a script. Only [`Stage::wait`] and [`Stage::order`] wait: an operation that
/// is not possible now returns [`io::ErrorKind::WouldBlock`].
pub trait Stage {
    type Client;

    /// Connects a client, which the server has accepted or which waits in the accept queue.
    fn connect(&mut self, setup: Setup) -> io::Result<Self::Client>;
    /// Sends a prefix of the bytes and returns its length.
    fn send(
        &mut self,
        client: &mut Self::Client,
        bytes: &[u8],
        manner: Manner,
    ) -> io::Result<usize>;
    /// Receives into the buffer; returns the number of bytes, 0 for FIN.
    fn receive(&mut self, client: &mut Self::Client, buffer: &mut [u8]) -> io::Result<usize>;
    /// Sends FIN.
    fn shut(&mut self, client: &mut Self::Client) -> io::Result<()>;
    /// Closes with RST.
    fn reset(&mut self, client: Self::Client);
    /// Closes with FIN, or with RST if something is unread.
    fn close(&mut self, client: Self::Client);
    /// Carries out an order. Returns when the order has taken effect, unless the server is frozen:
    /// for the first [`Order::Stop`] that is when the server drains, for the second when it has
    /// ended.
    fn order(&mut self, order: Order);
    /// Lets time pass.
    fn wait(&mut self, time: Duration);
    /// Returns the time since a fixed moment.
    fn now(&self) -> Duration;
}

impl Script {
    /// Checks the server's totals against what was played.
    pub fn judge(&self, played: &Played, totals: &Totals) -> Result<(), String> {
        if !totals.balance() {
            return Err(format!("the totals are inconsistent: {totals:?}"));
        }
        let clients: u64 = played.connects.values().sum();
        if totals.accepted != clients {
            return Err(format!("{clients} clients connected, but {totals:?}"));
        }
        if !self.explains(played, totals) {
            return Err(format!("{totals:?} are not {:?}", self.ends));
        }
        let all_finished = totals.closed("finished") == clients;
        if totals.bytes_out < played.received {
            return Err(format!("{} bytes arrived, but {totals:?}", played.received));
        }
        if all_finished && totals.bytes_in != totals.bytes_out {
            return Err(format!("finished, but not all was answered: {totals:?}"));
        }
        Ok(())
    }

    /// Returns whether each client can be assigned one of its ends so that the counts agree. By
    /// Hall's theorem this is possible when no set of reasons has more closes than clients that
    /// allow them.
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
