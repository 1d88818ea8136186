//! Fuzzes the rule of the echo and the verification of replies, and compares them with code that
//! takes one byte after the other. The first 24 bytes of the input describe a connection and a
//! change of its reply (`Case::new`); the rest gives the sizes of messages and reads, and is itself
//! a message.
//!
//! Properties:
//! - `convert` changes the letters from `a` to `z`, and nothing else.
//! - A stream is the same bytes, however it is cut into pieces.
//! - Of a reply, the difference that is found is the first one: in one piece, in pieces, and by
//!   each function that compares. Without verification there is none.
//! - A connection, whatever the kernel accepts at a time, sends its stream. It finds the first
//!   wrong byte or the first surplus one, and the messages that are answered are those that end
//!   before it.

#![no_main]

use std::io::{self, ErrorKind};
use std::iter;
use std::ops::Range;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use upcase::echo::{Difference, Expect, convert};
use upcase::load::engine::connection::{Connection, Fault};
use upcase::load::plan::payload::{Content, Payload, Source};
use upcase::stream::{Hints, Stream};

fuzz_target!(|input: &[u8]| check(input));

/// The stream of a connection is shorter than this, in bytes: more than twice what `convert` takes
/// for many bytes.
const LENGTH_END: usize = 10_000;

fn check(input: &[u8]) {
    let case = Case::new(input);
    check_slices(&case);
    check_stream(&case);
    check_connection(&case);
}

/// A connection, and what is wrong with the reply to it.
struct Case<'a> {
    payload: Payload,
    source: Source,
    /// The part of the stream that is tested.
    offset: u64,
    length: usize,
    /// The place of a changed byte, the bits that are changed, and the number of surplus bytes.
    place: usize,
    change: u8,
    surplus: usize,
    rest: &'a [u8],
}

impl Case<'_> {
    /// Takes the numbers from the beginning of the input, the highest byte first.
    fn new(input: &[u8]) -> Case<'_> {
        let mut rest = input;
        let kind = number(&mut rest, 1);
        let seed = number(&mut rest, 8);
        let connection = number(&mut rest, 2) as u32;
        let offset = number(&mut rest, 6);
        let length = number(&mut rest, 2) as usize % LENGTH_END;
        let place = number(&mut rest, 2) as usize;
        let change = number(&mut rest, 1) as u8;
        let surplus = number(&mut rest, 1) as usize;
        let smallest_message = 1 + number(&mut rest, 1) as usize;
        let content = match kind % 3 {
            0 => Content::Text,
            2 if !rest.is_empty() => Content::Given(rest.into()),
            _ => Content::Bytes,
        };
        let payload = Payload::new(&content, seed, smallest_message);
        Case {
            source: payload.source(connection),
            payload,
            offset,
            length,
            place,
            change,
            surplus,
            rest,
        }
    }

    /// Returns the stream from an offset on, each byte generated on its own.
    fn sent(&self, offset: u64) -> Vec<u8> {
        let places = offset..offset + self.length as u64;
        let byte = |place| {
            let mut byte = [0];
            self.payload.fill(self.source, place, &mut byte);
            byte[0]
        };
        places.map(byte).collect()
    }

    /// Returns the reply to these bytes, with the change.
    fn reply(&self, sent: &[u8]) -> Vec<u8> {
        let mut reply = upper(sent);
        if !reply.is_empty() {
            let place = self.place % reply.len();
            reply[place] ^= self.change;
        }
        reply
    }
}

/// Takes a number of this many bytes, or of those that are left, from the beginning of the input.
fn number(rest: &mut &[u8], bytes: usize) -> u64 {
    let (head, tail) = rest.split_at(bytes.min(rest.len()));
    *rest = tail;
    let head = head.iter().map(|byte| u64::from(*byte));
    head.fold(0_u64, |number, byte| (number << 8) | byte)
}

/// Returns the ranges of pieces that cover `length` bytes, with sizes from these bytes in turn.
fn pieces(sizes: &[u8], length: usize) -> Vec<Range<usize>> {
    let mut sizes = sizes.iter().map(|size| 1 + 4 * usize::from(*size)).cycle();
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < length {
        let end = length.min(start + sizes.next().unwrap_or(length));
        pieces.push(start..end);
        start = end;
    }
    pieces
}

/// Returns the bytes in upper case.
fn upper(bytes: &[u8]) -> Vec<u8> {
    let upper = |byte: &u8| match *byte {
        97..=122 => *byte - 32,
        byte => byte,
    };
    bytes.iter().map(upper).collect()
}

/// Returns the first difference between the common parts of two slices.
fn first_difference(offset: u64, expected: &[u8], found: &[u8]) -> Option<Difference> {
    for (offset, (expected, found)) in (offset..).zip(expected.iter().zip(found)) {
        if expected != found {
            return Some(Difference {
                offset,
                expected: *expected,
                found: *found,
            });
        }
    }
    None
}

/// Checks the functions that compare two slices: with halves of the rest, which have nothing to do
/// with each other, and with a half and the whole, which are the same as far as both go.
fn check_slices(case: &Case<'_>) {
    let (first, second) = case.rest.split_at(case.rest.len() / 2);
    for (message, reply) in [(first, second), (case.rest, first), (first, case.rest)] {
        let expected = first_difference(case.offset, message, reply);
        assert_eq!(Difference::first(case.offset, message, reply), expected);
        let expected = first_difference(case.offset, &upper(message), reply);
        let found = Difference::first_of_reply(case.offset, message, reply);
        assert_eq!(found, expected);
    }
    check_convert(case.rest, case.surplus);
}

/// Checks that bytes are converted wherever they begin, and that those before them are not.
fn check_convert(bytes: &[u8], start: usize) {
    let start = start.min(bytes.len());
    let mut converted = bytes.to_vec();
    convert(&mut converted[start..]);
    assert_eq!(converted[..start], bytes[..start]);
    assert_eq!(converted[start..], upper(&bytes[start..]));
}

/// Checks that a part of the stream is generated, and its reply verified, as byte by byte.
fn check_stream(case: &Case<'_>) {
    let Case {
        payload,
        source,
        offset,
        ..
    } = case;
    let (source, offset) = (*source, *offset);
    let sent = case.sent(offset);
    let pieces = pieces(case.rest, case.length);
    let at = |piece: &Range<usize>| offset + piece.start as u64;
    let mut filled = vec![0; case.length];
    payload.fill(source, offset, &mut filled);
    assert_eq!(filled, sent);
    filled.fill(0);
    for piece in &pieces {
        payload.fill(source, at(piece), &mut filled[piece.clone()]);
    }
    assert_eq!(filled, sent);
    check_convert(&sent, case.surplus);

    let reply = case.reply(&sent);
    let expected = first_difference(offset, &upper(&sent), &reply);
    assert_eq!(expected.is_some(), case.change != 0 && !reply.is_empty());
    assert_eq!(payload.check(source, offset, &reply).err(), expected);
    let check = |piece: &Range<usize>| {
        let reply = &reply[piece.clone()];
        payload.check(source, at(piece), reply).err()
    };
    assert_eq!(pieces.iter().find_map(check), expected);
    let found = Difference::first_of_reply(offset, &sent, &reply);
    assert_eq!(found, expected);
    let unverified = payload.clone().expecting(Expect::Anything);
    assert_eq!(unverified.check(source, offset, &reply), Ok(()));
}

/// The kernel's side of a connection: it accepts half of what it is offered, and then no more until
/// the next event.
#[derive(Default)]
struct Socket {
    sent: Vec<u8>,
}

impl Stream for Socket {
    fn recv(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().div_ceil(2);
        self.sent.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks a connection from its first byte on: the bytes that it sends, the fault that it finds and
/// the messages that it takes for answered.
fn check_connection(case: &Case<'_>) {
    let (messages, reads) = case.rest.split_at(case.rest.len() / 2);
    let messages = pieces(messages, case.length);
    let now = Instant::now();
    let mut connection = Connection::new(case.source);
    for message in &messages {
        connection.queue(message.len(), now, now, now);
    }
    let mut socket = Socket::default();
    let mut scratch = [0; 512];
    while !connection.is_flushed() {
        connection.note(Hints {
            writable: true,
            ..Hints::default()
        });
        let sent = connection.transmit(&mut socket, &case.payload, &mut scratch, 2048, || now);
        assert!(sent.expect("the socket has no error") > 0);
    }
    let sent = case.sent(0);
    assert_eq!(socket.sent, sent);

    let mut reply = case.reply(&sent);
    reply.extend(iter::repeat_n(b'x', case.surplus));
    let expected = match first_difference(0, &upper(&sent), &reply) {
        Some(difference) => Some(Fault::Differs(difference)),
        None if case.surplus > 0 => Some(Fault::Surplus(sent.len() as u64)),
        None => None,
    };
    let mut reads = pieces(reads, reply.len()).into_iter();
    let fault = reads.find_map(|read| connection.accept(&reply[read], &case.payload).err());
    assert_eq!(fault, expected);
    let verified = match expected {
        Some(Fault::Differs(difference)) => difference.offset as usize,
        _ => sent.len(),
    };
    let answered = iter::from_fn(|| connection.next_answered()).count();
    let expected = messages.iter().filter(|message| message.end <= verified);
    assert_eq!(answered, expected.count());
    assert_eq!(connection.unanswered(), messages.len() - answered);
}
