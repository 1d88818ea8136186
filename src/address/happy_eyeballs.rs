//! Connects to the first of several addresses that answers ("happy eyeballs", RFC 8305).
//!
//! A name often has an IPv6 and an IPv4 address, and one of them may be unreachable: its SYNs are
//! lost. The addresses are tried one after the other, alternating between the families. Each
//! attempt has a head start of [`HEAD_START`] before the next one begins in parallel; when an
//! attempt fails, the next one begins at once. The first connection to be established is returned,
//! and the others are closed. So each unreachable address costs 250 ms instead of a timeout.
//!
//! Every attempt has the full timeout, counted from its own SYN, so that a short timeout does not
//! end the search before the last address was tried.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::address::resolve::display_address;
use crate::sys::poll;
use crate::sys::socket::{self, Options};

/// Delay from the start of an attempt to the start of the next one, unless the attempt fails
/// before: the Connection Attempt Delay that RFC 8305 recommends, section 5.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// The parameters of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct ConnectParameters<'a> {
    /// The address to connect from, with port 0.
    pub source: Option<SocketAddr>,
    /// Socket options of the connection.
    pub options: &'a Options,
    /// Maximum duration of each attempt.
    pub timeout: Duration,
}

/// A failed attempt: the address, and the reason.
#[derive(Debug)]
pub struct Failure {
    /// The address that was tried.
    pub address: SocketAddr,
    /// The reason; `TimedOut` also when [`ConnectParameters::timeout`] has expired.
    pub error: io::Error,
}

/// An attempt in progress.
struct Attempt {
    address: SocketAddr,
    stream: TcpStream,
    deadline: Instant,
}

/// Returns the connection that was established first, as a blocking socket, and its address. The
/// error has a failure for each address, in the order in which they failed.
pub fn connect(
    addresses: &[SocketAddr],
    terms: &ConnectParameters,
) -> Result<(std::net::TcpStream, SocketAddr), Vec<Failure>> {
    let mut waiting = in_turn(addresses).into_iter().peekable();
    let mut under_way: Vec<Attempt> = Vec::new();
    let mut failures = Vec::new();
    let mut next_start = Instant::now();
    loop {
        let now = Instant::now();
        if under_way.is_empty() || now >= next_start {
            match waiting.next() {
                Some(address) => {
                    match begin(address, terms, now) {
                        Ok(attempt) => {
                            under_way.push(attempt);
                            next_start = now + HEAD_START;
                        }
                        Err(error) => failures.push(Failure { address, error }),
                    }
                    continue;
                }
                None if under_way.is_empty() => return Err(failures),
                None => {}
            }
        }
        let head_start = waiting.peek().map(|_| next_start);
        let deadlines = under_way.iter().map(|attempt| attempt.deadline);
        let end = deadlines.chain(head_start).min().unwrap_or(now);
        wait(&under_way, end.saturating_duration_since(now));
        let failed = failures.len();
        if let Some(winner) = settle(&mut under_way, &mut failures) {
            return Ok(winner);
        }
        if failures.len() > failed {
            next_start = Instant::now();
        }
    }
}

/// Returns a text that lists every address with the reason why it could not be connected to.
pub fn reasons(failures: &[Failure], timeout: Duration) -> String {
    let reason = |Failure { address, error }: &Failure| {
        let address = display_address(*address);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("{address}: connection refused, no program listens there")
            }
            io::ErrorKind::TimedOut => format!("{address}: no answer within {:?}", timeout),
            io::ErrorKind::AddrNotAvailable => format!(
                "{address}: no local port is free; closed connections keep theirs for a minute \
                 (TIME_WAIT), and `sysctl net.ipv4.ip_local_port_range` shows the range"
            ),
            _ => format!("{address}: {error}"),
        }
    };
    let reasons: Vec<String> = failures.iter().map(reason).collect();
    reasons.join("; ")
}

/// Returns the addresses in an order in which the families alternate, beginning with that of the
/// first address. Within a family the order is kept (RFC 8305, section 4).
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let v6_is_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == v6_is_first);
    let mut second = second.into_iter();
    let mut order = Vec::new();
    for address in first {
        order.push(address);
        order.extend(second.next());
    }
    order.extend(second);
    order
}

fn begin(address: SocketAddr, terms: &ConnectParameters, now: Instant) -> io::Result<Attempt> {
    Ok(Attempt {
        address,
        stream: socket::connect(address, terms.source, terms.options)?,
        deadline: now + terms.timeout,
    })
}

/// Waits until an attempt has succeeded or failed, or until the time has elapsed. An error of
/// poll(2) ends the wait as well: the caller then checks the attempts.
fn wait(under_way: &[Attempt], time: Duration) {
    let sockets: Vec<_> = under_way.iter().map(|one| one.stream.as_fd()).collect();
    let _ = poll::writable(&sockets, Some(time));
}

/// Checks every attempt. Returns the first established connection, and moves failed attempts to
/// `failures`.
fn settle(
    under_way: &mut Vec<Attempt>,
    failures: &mut Vec<Failure>,
) -> Option<(std::net::TcpStream, SocketAddr)> {
    let mut still_under_way = Vec::new();
    for attempt in under_way.drain(..) {
        let address = attempt.address;
        match outcome(&attempt) {
            Ok(None) => still_under_way.push(attempt),
            Ok(Some(())) => match blocking(attempt.stream) {
                Ok(stream) => return Some((stream, address)),
                Err(error) => failures.push(Failure { address, error }),
            },
            Err(error) => failures.push(Failure { address, error }),
        }
    }
    *under_way = still_under_way;
    None
}

/// Returns whether an attempt has succeeded; `None` while it is in progress.
fn outcome(attempt: &Attempt) -> io::Result<Option<()>> {
    match socket::connected(&attempt.stream)? {
        None if Instant::now() >= attempt.deadline => Err(io::ErrorKind::TimedOut.into()),
        outcome => Ok(outcome),
    }
}

fn blocking(stream: TcpStream) -> io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::from(OwnedFd::from(stream));
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A listener whose accept queue is full, and the clients that fill it: the kernel drops every
    /// further SYN.
    struct Dead {
        address: SocketAddr,
        _listener: Socket,
        _queued: Vec<std::net::TcpStream>,
    }

    impl Dead {
        fn on(ip: &str) -> Dead {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let address: SocketAddr = format!("{ip}:0").parse().unwrap();
            listener.bind(&address.into()).unwrap();
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let connect = |_| std::net::TcpStream::connect_timeout(&address, HEAD_START).ok();
            let queued = (0..3).map_while(connect).collect();
            Dead {
                address,
                _listener: listener,
                _queued: queued,
            }
        }
    }

    fn race(
        addresses: &[SocketAddr],
        timeout: Duration,
    ) -> (Result<SocketAddr, Vec<Failure>>, Duration) {
        let options = Options::default();
        let terms = ConnectParameters {
            source: None,
            options: &options,
            timeout,
        };
        let begun = Instant::now();
        let outcome = connect(addresses, &terms).map(|(_, address)| address);
        (outcome, begun.elapsed())
    }

    fn deserted() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    }

    #[test]
    fn the_families_come_in_turn() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for (given, expected) in [
            (vec![], vec![]),
            (vec!["1.0.0.1:1"], vec!["1.0.0.1:1"]),
            (
                vec!["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1"],
                vec!["[::1]:1", "1.0.0.1:1", "[::2]:1", "[::3]:1"],
            ),
            (
                vec!["1.0.0.1:1", "[::1]:1", "[::2]:1", "1.0.0.2:1"],
                vec!["1.0.0.1:1", "[::1]:1", "1.0.0.2:1", "[::2]:1"],
            ),
        ] {
            assert_eq!(in_turn(&addresses(&given)), addresses(&expected));
        }
    }

    #[test]
    fn a_dead_address_costs_its_head_start() {
        let (one, other) = (Dead::on("127.0.0.2"), Dead::on("127.0.0.3"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        for (addresses, starts) in [
            (vec![live, one.address], 0),
            (vec![one.address, live], 1),
            (vec![one.address, other.address, live], 2),
            (vec![one.address, deserted(), live], 1),
        ] {
            let (outcome, took) = race(&addresses, TIMEOUT);
            assert_eq!(outcome.unwrap(), live);
            assert!(took >= HEAD_START * starts, "{took:?}");
            let late = HEAD_START * starts + Duration::from_millis(700);
            assert!(took < late, "{starts} head starts: {took:?}");
        }
    }

    #[test]
    fn an_address_that_refuses_costs_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let (outcome, took) = race(&[deserted(), deserted(), live], TIMEOUT);
        assert_eq!(outcome.unwrap(), live);
        assert!(took < HEAD_START, "{took:?}");
    }

    #[test]
    fn every_failure_is_reported_with_its_address() {
        let unreachable = Dead::on("127.0.0.2");
        let refusing = deserted();
        let (outcome, took) = race(&[unreachable.address, refusing], Duration::from_millis(400));
        let failures = outcome.unwrap_err();
        let message: Vec<_> = failures
            .iter()
            .map(|failure| (failure.address, failure.error.kind()))
            .collect();
        let expected = [
            (refusing, io::ErrorKind::ConnectionRefused),
            (unreachable.address, io::ErrorKind::TimedOut),
        ];
        assert_eq!(message, expected);
        assert!(took >= Duration::from_millis(400), "{took:?}");
        assert!(race(&[], TIMEOUT).0.unwrap_err().is_empty());
    }

    #[test]
    fn a_timeout_shorter_than_the_head_start_leaves_no_address_out() {
        let unreachable = Dead::on("127.0.0.2");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        let (outcome, _) = race(&[unreachable.address, live], Duration::from_millis(50));
        assert_eq!(outcome.unwrap(), live);
    }
}
