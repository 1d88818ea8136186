//! Tests that `load` locates wrong replies: a proxy puts a hundred faults into a hundred reply
//! streams; each is found where it begins, its connection is closed, and the others continue.

mod common;

use std::sync::mpsc;

use common::Serve;
use common::peers::proxy;
use common::report::load;
use serde_json::json;
use upcase::load::plan::payload::{Content, Payload};

/// Number of connections with a fault, and of all connections.
const FAULTS: usize = 100;
const CONNECTIONS: usize = 120;

/// Number of messages of a connection, and of bytes of a message.
const MESSAGES: usize = 100;
const SIZE: usize = 100;

const SEED: u64 = 7;

/// A change of a reply stream, at an offset.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// One bit is flipped.
    Flip,
    /// The byte is left out.
    Drop,
    /// The byte is sent twice.
    Repeat,
    /// The byte is exchanged with that of another connection's stream.
    Swap { partner: usize },
}

/// A fault and where it begins.
type Placed = (Fault, usize);

/// Returns the correct reply stream of a connection.
fn stream(connection: usize) -> Vec<u8> {
    let payload = Payload::new(&Content::Bytes, SEED, SIZE);
    let mut bytes = vec![0; MESSAGES * SIZE];
    payload.fill(payload.source(connection as u32), 0, &mut bytes);
    bytes.make_ascii_uppercase();
    bytes
}

/// Returns the fault of a connection. There are equally many of every kind, spread over the stream.
/// None is in the last bytes of a message: bytes that follow it must reach the client before its
/// next message.
fn fault(connection: usize) -> Option<Placed> {
    let place = |number: usize| number * 7919 % (MESSAGES - 10) * SIZE + number * 31 % 60;
    let placed = match connection % 5 {
        _ if connection >= FAULTS => return None,
        0 => (Fault::Flip, place(connection)),
        1 => (Fault::Drop, place(connection)),
        2 => (Fault::Repeat, place(connection)),
        3 => swap(connection, connection + 1),
        _ => swap(connection, connection - 1),
    };
    Some(placed)
}

/// Returns a swap at the first offset at which two streams differ, from a start that is the same
/// for both.
fn swap(connection: usize, partner: usize) -> Placed {
    let (one, two) = (stream(connection), stream(partner));
    let start = connection.min(partner) * 83;
    let unequal = (start..).find(|at| one[*at] != two[*at]);
    (Fault::Swap { partner }, unequal.unwrap())
}

/// Returns the bytes that the proxy sends for `reply`, which begins at `offset` of its stream.
fn spoil((fault, place): Placed, offset: usize, mut reply: Vec<u8>) -> Vec<u8> {
    let Some(at) = place.checked_sub(offset).filter(|at| *at < reply.len()) else {
        return reply;
    };
    match fault {
        Fault::Flip => reply[at] ^= 4,
        Fault::Drop => drop(reply.remove(at)),
        Fault::Repeat => reply.insert(at, reply[at]),
        Fault::Swap { partner } => reply[at] = stream(partner)[place],
    }
    reply
}

/// Returns the first byte that differs from the correct stream: its offset, the expected and the
/// actual byte.
fn difference(connection: usize) -> Option<(usize, u8, u8)> {
    let expected = stream(connection);
    let found = spoil(fault(connection)?, 0, expected.clone());
    let mut pairs = expected.iter().zip(&found).enumerate();
    let (offset, (expected, found)) = pairs.find(|(_, (one, two))| one != two)?;
    Some((offset, *expected, *found))
}

/// Returns the number of the connection whose stream begins with these bytes. A server accepts
/// connections in the order of their numbers as a rule; only the bytes identify one for certain.
fn number_of(reply: &[u8]) -> usize {
    let is = |number: &usize| stream(*number)[..16] == reply[..16];
    (0..CONNECTIONS)
        .find(is)
        .expect("the stream of a connection")
}

#[test]
fn a_hundred_faults_are_found_where_they_begin() {
    let serve = Serve::start("");
    let (sender, seen) = mpsc::channel();
    let address = proxy(
        serve.address(),
        |_| (None, 0),
        |_, _| {},
        move |(number, offset), reply| {
            let number = *number.get_or_insert_with(|| {
                let number = number_of(&reply);
                sender.send(number).unwrap();
                number
            });
            let start = *offset;
            *offset += reply.len();
            match fault(number) {
                Some(placed) => spoil(placed, start, reply),
                None => reply,
            }
        },
    );
    let arguments = format!(
        "{address} --connections {CONNECTIONS} --messages {} --size {SIZE} --depth 4 \
         --payload bytes --seed {SEED}",
        CONNECTIONS * MESSAGES
    );
    let report = load(&arguments);
    let mut numbers: Vec<usize> = seen.try_iter().collect();
    numbers.sort_unstable();
    assert!(
        numbers.into_iter().eq(0..CONNECTIONS),
        "no connection was reopened"
    );

    let mut found = report.0["differences"].as_array().unwrap().clone();
    found.sort_by_key(|difference| difference["connection"].as_u64());
    let places: Vec<_> = (0..FAULTS)
        .map(|number| difference(number).unwrap())
        .collect();
    for (number, (found, place)) in found.iter().zip(&places).enumerate() {
        let (offset, expected, byte) = place;
        let truth = json!({
            "connection": number, "offset": offset, "expected": expected, "found": byte,
        });
        assert_eq!(*found, truth, "{:?}", fault(number));
    }
    assert_eq!(found.len(), FAULTS);
    assert_eq!(report.count("mismatched"), FAULTS as u64);
    assert_eq!(report.0["errors"], json!({ "wrong reply": FAULTS }));
    // Messages before a fault are verified, and connections without a fault complete.
    let before: usize = places.iter().map(|(offset, _, _)| offset / SIZE).sum();
    let whole = (CONNECTIONS - FAULTS) * MESSAGES;
    assert_eq!(report.count("verified"), (before + whole) as u64);
    assert_eq!(report.verdict(), "failed");
}
