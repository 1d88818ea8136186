//! Tests the connection state machines of `serve` and `load` on a scripted stream that behaves as
//! the kernel does under edge-triggered epoll: it blocks, transfers fewer bytes than requested,
//! interrupts calls, resets, merges edges, and reports each edge once.
//!
//! proptest prints the script of a failure and keeps its seed, so every failure can be replayed.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use upcase::echo::Difference;
use upcase::load::engine::connection::{Connection as LoadConnection, Fault};
use upcase::load::plan::payload::{Content, Payload};
use upcase::server::connection::{Connection, Progress};
use upcase::server::stats::{CloseReason, Traffic};
use upcase::stream::{Hints, Received, Stream};

/// The kernel's side of one TCP socket.
#[derive(Debug, Default)]
struct Pipe {
    /// Bytes that have arrived and were not read yet.
    inbound: VecDeque<u8>,
    /// Number of bytes before the urgent mark, at which a read stops.
    mark: Option<usize>,
    fin: bool,
    reset: bool,
    /// Whether a signal interrupts the next call.
    interrupt: bool,
    /// Free bytes in the send buffer.
    room: usize,
    /// Whether the last write was short, so that the next free bytes are an edge: SOCK_NOSPACE.
    short_of_room: bool,
    outbound: Vec<u8>,
    fins_sent: u32,
    /// Edges that were not reported yet.
    edges: Hints,
}

impl Pipe {
    fn arrives(&mut self, bytes: &[u8]) {
        self.inbound.extend(bytes);
        self.edges.readable = true;
    }

    fn gets_mark(&mut self) {
        self.mark = Some(self.inbound.len());
        self.edges.readable = true;
        self.edges.exceptional = true;
    }

    fn gets_fin(&mut self) {
        self.fin = true;
        self.edges.readable = true;
        self.edges.exceptional = true;
    }

    fn gets_reset(&mut self) {
        self.reset = true;
        self.inbound.clear();
        self.edges = Hints {
            readable: true,
            writable: true,
            exceptional: true,
            ended: true,
        };
    }

    fn gets_room(&mut self, bytes: usize) {
        self.room += bytes;
        if self.short_of_room {
            self.short_of_room = false;
            self.edges.writable = true;
        }
    }

    /// Takes the event that epoll would report. Its flags show the whole state, not the edge only.
    fn event(&mut self) -> Option<Hints> {
        let edges = std::mem::take(&mut self.edges);
        (edges != Hints::default()).then_some(Hints {
            readable: edges.readable || !self.inbound.is_empty(),
            writable: edges.writable || self.room > 0,
            exceptional: edges.exceptional || self.fin,
            ended: self.fin,
        })
    }

    fn fails(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.interrupt) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Stream for Pipe {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fails()?;
        let until_mark = match self.mark {
            Some(0) | None => self.inbound.len(),
            Some(mark) => mark,
        };
        let count = until_mark.min(buffer.len());
        if count == 0 && !self.fin {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in self.inbound.drain(..count).enumerate() {
            buffer[place] = byte;
        }
        self.mark = self.mark.filter(|&mark| mark > 0).map(|mark| mark - count);
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert_eq!(self.fins_sent, 0, "bytes after FIN");
        self.fails()?;
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.short_of_room = count < bytes.len();
        self.outbound.extend(&bytes[..count]);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    /// Counts a FIN. A signal never interrupts shutdown(2).
    fn shutdown_write(&mut self) -> io::Result<()> {
        if self.reset {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.fins_sent += 1;
        Ok(())
    }
}

/// One step of a script for a server's connection.
#[derive(Clone, Debug)]
enum Step {
    Arrive(Vec<u8>),
    Mark,
    Room(usize),
    Interrupt,
    /// The reactor reports the edges since the last turn.
    Turn,
    /// The reactor reports readiness that the stream does not have.
    Spurious(Hints),
    /// A stopping server checks whether the connection is silent.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..300).prop_map(Step::Arrive),
        1 => Just(Step::Mark),
        3 => (1usize..400).prop_map(Step::Room),
        1 => Just(Step::Interrupt),
        6 => Just(Step::Turn),
        1 => (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(readable, writable, exceptional)| Step::Spurious(Hints {
                readable,
                writable,
                exceptional,
                ended: false,
            })
        ),
    ]
}

/// A server's connection on a pipe, with the invariants of both.
struct Server {
    pipe: Pipe,
    connection: Connection,
    scratch: Vec<u8>,
    traffic: Traffic,
    input: Vec<u8>,
    /// Number of checks since the connection sent its FIN, if it has.
    lingers: Option<u32>,
    closed: Option<CloseReason>,
}

const READ_BYTES: usize = 64;
const BUDGET: usize = 150;

impl Server {
    fn new() -> Server {
        Server {
            pipe: Pipe {
                room: 100,
                ..Pipe::default()
            },
            connection: Connection::new(),
            scratch: vec![0; READ_BYTES],
            traffic: Traffic::default(),
            input: Vec::new(),
            lingers: None,
            closed: None,
        }
    }

    fn takes(&mut self, step: &Step) {
        match step {
            Step::Arrive(bytes) => {
                self.input.extend(bytes);
                self.pipe.arrives(bytes);
            }
            Step::Mark => self.pipe.gets_mark(),
            Step::Room(bytes) => self.pipe.gets_room(*bytes),
            Step::Interrupt => self.pipe.interrupt = true,
            Step::Turn => self.turn(),
            Step::Spurious(hints) => {
                self.connection.note(*hints);
                self.serve();
            }
            Step::Look => {
                self.connection.check_drain(true, false);
                self.serve();
                self.lingers = self.lingers.map(|looks| looks + 1);
                if self.lingers == Some(3) {
                    self.connection.end_linger();
                    self.serve();
                }
            }
        }
        self.check();
    }

    fn turn(&mut self) {
        if let Some(hints) = self.pipe.event() {
            self.connection.note(hints);
        }
        self.serve();
    }

    /// Runs turns until the connection waits or is closed. Each turn stays within its budget and
    /// moves bytes, so that the loop ends.
    fn serve(&mut self) {
        while self.closed.is_none() {
            let before = self.traffic.bytes_in;
            let progress =
                self.connection
                    .serve(&mut self.pipe, &mut self.scratch, BUDGET, &mut self.traffic);
            let taken = self.traffic.bytes_in - before;
            assert!(
                taken < (BUDGET + READ_BYTES) as u64,
                "{taken} bytes in one turn"
            );
            match progress {
                Progress::Waiting => return,
                Progress::Unfinished => assert!(taken > 0, "another turn without data"),
                Progress::Lingers => self.lingers = Some(0),
                Progress::Closed(reason) => self.closed = Some(reason),
                Progress::Failed(_) => self.closed = Some(CloseReason::Failed),
            }
        }
    }

    fn check(&self) {
        let expected = self.input.to_ascii_uppercase();
        let answered = self.pipe.outbound.len();
        assert_eq!(
            self.pipe.outbound,
            expected[..answered],
            "bytes altered or out of order"
        );
        assert!(
            self.connection.pending() <= READ_BYTES,
            "more than one read is pending"
        );
        assert_eq!(self.traffic.bytes_out, answered as u64);
    }

    /// Checks that no work is left when all edges were reported: bytes may stay unread only while
    /// pending bytes cannot be sent, and pending bytes may stay unsent only while a writable edge
    /// is due.
    fn check_settled(&self) {
        if self.closed.is_none() && self.pipe.edges == Hints::default() {
            let blocked = self.pipe.short_of_room && self.connection.pending() > 0;
            assert!(
                blocked || self.pipe.inbound.is_empty(),
                "stranded: {:?}",
                self.pipe
            );
            assert!(
                blocked || self.connection.pending() == 0,
                "unsent: {:?}",
                self.pipe
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_byte_is_answered_in_order_and_the_end_follows_the_last(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut server = Server::new();
        for step in &steps {
            server.takes(step);
            if matches!(step, Step::Turn) {
                server.check_settled();
            }
        }
        prop_assert_eq!(server.closed, None, "no step closes it");
        server.pipe.gets_fin();
        server.turn();
        for _ in 0..server.input.len() {
            server.check_settled();
            server.pipe.gets_room(37);
            server.turn();
        }
        server.check();
        prop_assert_eq!(server.pipe.outbound.len(), server.input.len());
        prop_assert_eq!(server.closed, Some(CloseReason::Finished));
        prop_assert_eq!(server.pipe.fins_sent, 0, "closing sends it");
    }

    #[test]
    fn a_reset_closes_from_every_state(
        steps in prop::collection::vec(step(), 0..40),
        fin: bool,
        looks in 0usize..4,
    ) {
        let mut server = Server::new();
        for step in &steps {
            server.takes(step);
        }
        for _ in 0..looks {
            server.takes(&Step::Look);
        }
        if fin {
            server.pipe.gets_fin();
            server.turn();
        }
        let closed_before = server.closed;
        server.pipe.gets_reset();
        server.turn();
        prop_assert_eq!(server.closed, closed_before.or(Some(CloseReason::Reset)));
    }

    #[test]
    fn a_stopping_server_answers_all_that_came_before_it_sends_fin(
        steps in prop::collection::vec(prop_oneof![4 => step(), 1 => Just(Step::Look)], 0..60),
    ) {
        let mut server = Server::new();
        for step in &steps {
            let fins_before = server.pipe.fins_sent;
            server.takes(step);
            if server.pipe.fins_sent > fins_before {
                prop_assert_eq!(server.pipe.outbound.len(), server.input.len());
            }
            if server.closed.is_some() {
                return Ok(());
            }
        }
        // Silence, buffer space and checks close the connection, whatever the steps before.
        server.turn();
        for _ in 0..20 {
            server.pipe.gets_room(100_000);
            server.turn();
            server.takes(&Step::Look);
        }
        let answered_all = server.pipe.outbound.len() == server.input.len();
        let reason = if answered_all { CloseReason::Stopped } else { CloseReason::Late };
        prop_assert_eq!(server.closed, Some(reason));
    }
}

/// A stream from a client that sends without end: no read of it ever blocks.
struct Flood;

impl Stream for Flood {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(b'x');
        Ok(buffer.len())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_that_sends_without_end_is_closed_when_its_linger_is_over() {
    let mut connection = Connection::new();
    connection.note(Hints {
        readable: true,
        writable: true,
        exceptional: false,
        ended: false,
    });
    let (mut scratch, mut traffic) = (vec![0; READ_BYTES], Traffic::default());
    let mut serve = |connection: &mut Connection| {
        connection.serve(&mut Flood, &mut scratch, BUDGET, &mut traffic)
    };
    for _ in 0..10 {
        assert_eq!(serve(&mut connection), Progress::Unfinished);
    }
    connection.check_drain(false, true);
    assert_eq!(serve(&mut connection), Progress::Lingers);
    for _ in 0..10 {
        assert_eq!(serve(&mut connection), Progress::Unfinished);
    }
    connection.end_linger();
    assert_eq!(serve(&mut connection), Progress::Closed(CloseReason::Late));
}

/// A load connection on a pipe whose peer echoes in upper case, in pieces of any size.
struct Client {
    pipe: Pipe,
    connection: LoadConnection,
    payload: Payload,
    scratch: Vec<u8>,
    echoed: usize,
}

impl Client {
    fn new(seed: u64) -> Client {
        let payload = Payload::new(&Content::Bytes, seed, 1);
        Client {
            pipe: Pipe {
                room: 200,
                ..Pipe::default()
            },
            connection: LoadConnection::new(payload.source(5)),
            payload,
            scratch: vec![0; 128],
            echoed: 0,
        }
    }

    fn queue(&mut self, size: usize) {
        let now = Instant::now();
        self.connection.queue(size, now, now, now);
    }

    /// Reads and echoes up to `bytes` bytes as the peer; `spoil` changes the byte at an offset.
    fn echo(&mut self, bytes: usize, spoil: Option<(usize, u8)>) {
        let end = (self.echoed + bytes).min(self.pipe.outbound.len());
        let mut reply = self.pipe.outbound[self.echoed..end].to_ascii_uppercase();
        if let Some((offset, change)) = spoil
            && (self.echoed..end).contains(&offset)
        {
            reply[offset - self.echoed] ^= change;
        }
        self.echoed = end;
        if !reply.is_empty() {
            self.pipe.arrives(&reply);
        }
        self.pipe.gets_room(bytes);
    }

    fn turn(&mut self) -> Result<(), Fault> {
        if let Some(hints) = self.pipe.event() {
            self.connection.note(hints);
        }
        let (connection, pipe) = (&mut self.connection, &mut self.pipe);
        connection
            .transmit(
                pipe,
                &self.payload,
                &mut self.scratch,
                usize::MAX,
                Instant::now,
            )
            .unwrap();
        while let Received::Bytes(count) = connection.receive(pipe, &mut self.scratch).unwrap() {
            connection.accept(&self.scratch[..count], &self.payload)?;
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn messages_are_answered_in_order_however_the_bytes_are_cut(
        seed: u64,
        sizes in prop::collection::vec(1usize..700, 1..20),
        pieces in prop::collection::vec(1usize..300, 1..20),
    ) {
        let mut client = Client::new(seed);
        let start = Instant::now();
        let due = |number: usize| start + Duration::from_nanos(number as u64);
        for (number, &size) in sizes.iter().enumerate() {
            client.connection.queue(size, due(number), due(number), due(number));
        }
        let mut answered = Vec::new();
        let mut pieces = pieces.iter().cycle();
        for _ in 0..2 * sizes.iter().sum::<usize>() {
            client.turn().unwrap();
            answered.extend(std::iter::from_fn(|| client.connection.next_answered()));
            let complete: usize = sizes[..answered.len()].iter().sum();
            prop_assert!(complete <= client.echoed, "answered before its reply was complete");
            client.echo(*pieces.next().unwrap(), None);
        }
        let dues: Vec<Instant> = answered.iter().map(|message| message.due).collect();
        prop_assert_eq!(dues, (0..sizes.len()).map(due).collect::<Vec<_>>());
        prop_assert_eq!(client.connection.unanswered(), 0);
    }

    #[test]
    fn a_spoiled_byte_is_located_and_the_messages_before_it_stand(
        seed: u64,
        count in 1usize..20,
        size in 1usize..300,
        place: prop::sample::Index,
        change in 1u8..,
        piece in 1usize..300,
    ) {
        let mut client = Client::new(seed);
        let wrong = place.index(count * size);
        for _ in 0..count {
            client.queue(size);
        }
        let mut outcome = Ok(());
        for _ in 0..2 * count * size {
            outcome = client.turn();
            if outcome.is_err() {
                break;
            }
            client.echo(piece, Some((wrong, change)));
        }
        let Err(Fault::Differs(Difference { offset, expected, found })) = outcome else {
            panic!("{outcome:?}");
        };
        prop_assert_eq!(offset, wrong as u64);
        prop_assert_eq!(expected ^ found, change);
        let answered = std::iter::from_fn(|| client.connection.next_answered()).count();
        prop_assert_eq!(answered, wrong / size);
    }

    #[test]
    fn what_was_not_begun_is_withdrawn_and_the_rest_is_answered(
        seed: u64,
        sizes in prop::collection::vec(1usize..300, 1..20),
    ) {
        let mut client = Client::new(seed);
        for &size in &sizes {
            client.queue(size);
        }
        client.turn().unwrap(); // The pipe takes 200 bytes.
        let starts = sizes.iter().scan(0, |end, &size| {
            let start = *end;
            *end += size;
            Some(start)
        });
        let begun = starts.filter(|&start| start < client.pipe.outbound.len()).count();
        let mut withdrawn = 0;
        client.connection.withdraw(|_| withdrawn += 1);
        prop_assert_eq!(withdrawn, sizes.len() - begun);
        for _ in 0..sizes.len() * 300 {
            client.echo(100, None);
            client.turn().unwrap();
        }
        let answered = std::iter::from_fn(|| client.connection.next_answered()).count();
        prop_assert_eq!(answered, begun);
        prop_assert_eq!(client.pipe.outbound.len(), sizes[..begun].iter().sum::<usize>());
    }

    #[test]
    fn bytes_beyond_what_was_sent_are_surplus(seed: u64, size in 1usize..200, more in 1usize..50) {
        let mut client = Client::new(seed);
        client.queue(size);
        client.turn().unwrap();
        client.echo(size, None);
        client.pipe.arrives(&vec![b'X'; more]);
        prop_assert_eq!(client.turn(), Err(Fault::Surplus(size as u64)));
        prop_assert!(client.connection.next_answered().is_some(), "its reply was right");
    }
}
