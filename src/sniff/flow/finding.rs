//! Defines the judgement on a connection: its findings, which are faults and gaps in the capture,
//! its notes, and the conclusion. Pure.
//!
//! A fault is something wrong that the capture shows: a wrong byte, a reset, a close that leaves a
//! request unanswered. A gap is the absence of something that may have been sent and not captured.
//! So a gap makes a connection incomplete, never wrong. A note reports an anomaly that had no
//! effect.

use std::fmt;

use crate::echo::Difference;
use crate::sniff::flow::account::{Conclusion, Missing};
use crate::units::{agreeing, counted};

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened it.
    Client,
    /// The end that accepted it.
    Server,
}

impl Role {
    /// Returns the other end.
    pub fn other(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }

    /// Returns its name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
        }
    }
}

/// The judgement on a connection after its last segment.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Faults, and gaps in the capture.
    pub findings: Vec<Finding>,
    /// Anomalies that had no effect.
    pub notes: Vec<Note>,
    /// The conclusion from the findings and from the accounts of both directions.
    pub conclusion: Conclusion,
}

/// A fault or gap, and the packet that shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The number of the packet; `None` when no single packet shows it. Gaps in the handshake are
    /// reported with the first packet of the flow.
    pub packet: Option<u64>,
    /// The kind of fault or gap.
    pub fault: Fault,
}

/// A fault of a flow, or a gap in what was captured of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No SYN was seen.
    NoSyn,
    /// No SYN,ACK was seen.
    NoSynAck,
    /// The handshake was never completed.
    NoHandshakeAck,
    /// A byte of the reply is not the expected one.
    WrongReply(Difference),
    /// This side retransmitted a byte with another value, before it was acknowledged.
    Altered(Role, Difference),
    /// The server acknowledged this many bytes of the request, and closed without answering them.
    Unanswered(u64),
    /// This many bytes of the request have no reply so far.
    NotAnsweredYet(u64),
    /// This many bytes of the reply answer no request.
    Surplus(u64),
    /// This many sequence numbers of this side were not acknowledged.
    Unacknowledged(Role, u64),
    /// Bytes of this side that are not in the capture, though they were sent.
    NotCaptured(Role, Missing),
    /// No segment of this side and no acknowledgment of the peer has the number after this side's
    /// SYN: the capture lacks bytes, or the SYN of another connection.
    NotAfterSyn(Role),
    /// This many bytes of the reply could not be compared.
    Unchecked(u64),
    /// This side sent more after its FIN.
    AfterFin(Role),
    /// This side reset the connection.
    Reset(Role),
    /// This side never closed.
    NotClosed(Role),
    /// The FIN of this side is not in the capture, though it was acknowledged.
    FinNotCaptured(Role),
}

impl Fault {
    /// Returns true when the fault is that something was not seen, which is no evidence that it did
    /// not happen.
    pub fn is_gap(&self) -> bool {
        match self {
            Fault::WrongReply(_)
            | Fault::Altered(..)
            | Fault::Unanswered(_)
            | Fault::Surplus(_)
            | Fault::AfterFin(_)
            | Fault::Reset(_) => false,
            Fault::NoSyn
            | Fault::NoSynAck
            | Fault::NoHandshakeAck
            | Fault::NotAnsweredYet(_)
            | Fault::Unacknowledged(..)
            | Fault::NotCaptured(..)
            | Fault::NotAfterSyn(_)
            | Fault::Unchecked(_)
            | Fault::NotClosed(_)
            | Fault::FinNotCaptured(_) => true,
        }
    }

    /// Returns true when both are of the same kind and side, at whatever offset.
    pub fn is_like(&self, other: &Fault) -> bool {
        match (self, other) {
            (Fault::WrongReply(_), Fault::WrongReply(_)) => true,
            (Fault::Altered(role, _), Fault::Altered(other, _)) => role == other,
            _ => self == other,
        }
    }

    /// Returns its offset in the stream, if it has one.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Fault::WrongReply(difference) | Fault::Altered(_, difference) => {
                Some(difference.offset)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoSyn => write!(
                f,
                "the capture has no SYN: it begins in the middle of the connection"
            ),
            Fault::NoSynAck => write!(f, "the server's SYN,ACK is missing"),
            Fault::NoHandshakeAck => write!(f, "the handshake was not completed"),
            Fault::WrongReply(difference) => write!(f, "the reply is wrong at {difference}"),
            Fault::Altered(role, difference) => write!(
                f,
                "the {} retransmits with different content at {difference}",
                role.name()
            ),
            Fault::Unanswered(bytes) => write!(
                f,
                "{} not answered: the server acknowledged them and closed",
                were(*bytes, "byte")
            ),
            Fault::NotAnsweredYet(bytes) => {
                write!(f, "{} not answered in this capture", were(*bytes, "byte"))
            }
            Fault::Surplus(bytes) => write!(
                f,
                "{} no request",
                of(*bytes, "byte", Role::Server, ["answers", "answer"])
            ),
            Fault::Unacknowledged(role, numbers) => write!(
                f,
                "{} not acknowledged",
                of(*numbers, "sequence number", *role, ["was", "were"])
            ),
            Fault::NotCaptured(role, missing) => {
                let bytes = of(missing.count, "byte", *role, ["is", "are"]);
                let sent = ["it was sent", "they were sent"][usize::from(missing.count > 1)];
                write!(f, "{bytes} not in the capture, though {sent}")?;
                match missing.may_include_fin {
                    true => write!(f, " (the last may be the FIN)"),
                    false => Ok(()),
                }
            }
            Fault::NotAfterSyn(role) => write!(
                f,
                "the capture has no segment of the {} at the number after its SYN",
                role.name()
            ),
            Fault::Unchecked(bytes) => write!(
                f,
                "{} of the reply {} not compared",
                counted(*bytes, "byte"),
                agreeing(*bytes, "was", "were")
            ),
            Fault::AfterFin(role) => write!(f, "the {} sent more after its FIN", role.name()),
            Fault::Reset(role) => write!(f, "the {} reset the connection", role.name()),
            Fault::NotClosed(role) => write!(f, "the {} did not close its side", role.name()),
            Fault::FinNotCaptured(role) => write!(
                f,
                "the FIN of the {} is not in the capture: a number after its last byte was \
                 acknowledged",
                role.name()
            ),
        }
    }
}

/// Returns "1 byte was", "9 bytes were".
fn were(count: u64, noun: &str) -> String {
    let were = agreeing(count, "was", "were");
    format!("{} {were}", counted(count, noun))
}

/// Returns "1 byte of the client is", "9 bytes of the client are".
fn of(count: u64, noun: &str, role: Role, [one, several]: [&str; 2]) -> String {
    let (role, verb) = (role.name(), agreeing(count, one, several));
    format!("{} of the {role} {verb}", counted(count, noun))
}

/// An anomaly that had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Segments of this side lay outside the receiver's window; a receiver drops them.
    Outside {
        /// The sender.
        role: Role,
        /// Number of these segments.
        count: u64,
        /// The number of the first of their packets.
        first: u64,
    },
    /// This side sent an RST within the window but not with the expected number, in this packet,
    /// and the connection went on: such an RST is only answered with a challenge ACK (RFC 5961,
    /// section 3).
    ChallengedReset(Role, u64),
    /// This side acknowledged numbers that its peer never sent; a receiver drops such a segment.
    AcknowledgedUnsent(Role),
    /// This packet of this side brought one byte that may be that of a keep-alive, and is not taken
    /// for data.
    UncertainByte(Role, u64),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Outside { role, count, first } => {
                let lie = of(*count, "segment", *role, ["lies", "lie"]);
                let verb = ["it changes", "they change"][usize::from(*count > 1)];
                write!(
                    f,
                    "{lie} outside the window of the {}: {verb} nothing (packet {first})",
                    role.other().name()
                )
            }
            Note::ChallengedReset(role, packet) => write!(
                f,
                "an RST of the {} does not have the sequence number that the {} expects: the \
                 connection continued (packet {packet})",
                role.name(),
                role.other().name()
            ),
            Note::AcknowledgedUnsent(role) => write!(
                f,
                "the {} acknowledged numbers that the {} never sent: that changes nothing",
                role.name(),
                role.other().name()
            ),
            Note::UncertainByte(role, packet) => write!(
                f,
                "a single byte of the {} may be that of a keep-alive: it is not counted as data \
                 (packet {packet})",
                role.name()
            ),
        }
    }
}
