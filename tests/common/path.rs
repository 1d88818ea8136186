//! Emulates a network path between two hosts that delays packets or reorders them: a bridge between
//! two packet sockets, because the kernel of a test machine may lack the queueing discipline
//! (netem) for this.
//!
//! Packets keep their order, except those that are chosen to be late: the packets behind them
//! overtake them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockaddrLike};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::peers::settle;
use super::program::Rng;

/// The treatment of the packets of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    pub delay: Duration,
    /// A temporary addition to the delay: its begin and its end, both counted from the first packet
    /// with a payload, and its amount.
    pub spike: Option<(Duration, Duration, Duration)>,
    /// The share of the packets with a payload that are late, and their additional delay.
    pub late: Option<(f64, Duration)>,
}

/// The treatment of both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    pub requests: Way,
    pub replies: Way,
    pub seed: u64,
}

/// The maximum length of a frame without a payload, including a SYN with all its options.
const EMPTY_BYTES: usize = 14 + 20 + 40;

/// The length of the largest frame on a link with an MTU of 1500.
const FRAME_BYTES_MAX: usize = 14 + 1500;

/// The receive buffers of the packet sockets, with room for a window of every connection.
const QUEUE_BYTES: usize = 16 << 20;

/// A running bridge. It stops when it is dropped.
#[derive(Debug)]
pub struct Bridge {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Joins two interfaces, the client's and the server's. They are on the host that the bridge's
    /// thread enters by `enter`.
    pub fn start(
        path: Path,
        enter: impl FnOnce() + Send + 'static,
        interfaces: [&'static str; 2],
        (cpu, first): (u32, bool),
    ) -> Bridge {
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            settle(cpu, first);
            enter();
            let sockets = interfaces.map(open);
            ready.send(()).unwrap();
            Forwarder::new(path, sockets).run(&stopped);
        });
        is_ready.recv().expect("the bridge is ready");
        Bridge {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a packet socket on one interface.
fn open(interface: &str) -> Socket {
    let every = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every)).unwrap();
    let mut addresses = getifaddrs().unwrap();
    let link = addresses.find_map(|one| {
        let address = one.address.filter(|_| one.interface_name == interface)?;
        let is_link = address.family() == Some(AddressFamily::Packet);
        address.as_link_addr().copied().filter(|_| is_link)
    });
    let link = link.unwrap_or_else(|| panic!("there is no {interface}"));
    nix::sys::socket::bind(socket.as_raw_fd(), &link).unwrap();
    let _ = socket.set_recv_buffer_size(QUEUE_BYTES);
    socket.set_nonblocking(true).unwrap();
    socket
}

struct Forwarder {
    path: Path,
    /// The sockets towards the client and towards the server.
    sockets: [Socket; 2],
    random: Rng,
    /// The arrival of the first packet with a payload.
    begun: Option<Instant>,
    /// The departure of the last packet in each direction.
    last: [Option<Instant>; 2],
    number: u64,
    /// The delayed packets, by departure and then by arrival: the socket that sends them, and their
    /// bytes.
    held: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
}

impl Forwarder {
    fn new(path: Path, sockets: [Socket; 2]) -> Forwarder {
        Forwarder {
            path,
            sockets,
            random: Rng(path.seed),
            begun: None,
            last: [None; 2],
            number: 0,
            held: BTreeMap::new(),
        }
    }

    fn run(mut self, stopped: &UnixStream) {
        loop {
            let next = self.held.keys().next().map(|(at, _)| *at);
            let left = next.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let [client, server] = &self.sockets;
            let mut sources = [
                PollFd::new(client, PollFlags::IN),
                PollFd::new(server, PollFlags::IN),
                PollFd::new(stopped, PollFlags::IN),
            ];
            match poll(&mut sources, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
            if !sources[2].revents().is_empty() {
                return;
            }
            for from in 0..2 {
                self.take(from);
            }
            self.release();
        }
    }

    /// Reads all packets that have arrived from one side.
    fn take(&mut self, from: usize) {
        let mut frame = [0; 2048];
        loop {
            let count = match (&self.sockets[from]).read(&mut frame) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The interface is down while the hosts are being removed.
                Err(_) => return,
            };
            assert!(count <= FRAME_BYTES_MAX, "a frame of {count} bytes");
            let now = Instant::now();
            let mut frame = frame[..count].to_vec();
            fill_in_checksum(&mut frame);
            let at = self.leaves(from, count, now);
            self.number += 1;
            self.held.insert((at, self.number), (1 - from, frame));
        }
    }

    /// Returns the departure of a packet that arrives from one side now.
    fn leaves(&mut self, from: usize, bytes: usize, now: Instant) -> Instant {
        let way = [self.path.requests, self.path.replies][from];
        let has_payload = bytes > EMPTY_BYTES;
        if has_payload {
            self.begun.get_or_insert(now);
        }
        let passed = self.begun.map_or(Duration::ZERO, |begun| now - begun);
        let mut delay = way.delay;
        if let Some((begin, end, more)) = way.spike
            && (begin..end).contains(&passed)
        {
            delay += more;
        }
        if let Some((share, more)) = way.late.filter(|_| has_payload)
            && self.random.unit() <= share
        {
            return now + delay + more;
        }
        let at = self.last[from].map_or(now + delay, |last| last.max(now + delay));
        self.last[from] = Some(at);
        at
    }

    /// Sends the packets whose departure is reached.
    fn release(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (to, frame) = entry.remove();
            // A packet that a full queue does not accept is lost, as on any path.
            let _ = (&self.sockets[to]).write(&frame);
        }
    }
}

/// Computes the TCP checksum of an Ethernet frame. A virtual link leaves it to the device.
fn fill_in_checksum(frame: &mut [u8]) {
    const IP: usize = 14;
    let is_tcp = frame.len() >= IP + 40 && frame[12..14] == [8, 0] && frame[IP + 9] == 6;
    if !is_tcp {
        return;
    }
    let header = usize::from(frame[IP] & 15) * 4;
    let length = usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]]));
    let (tcp, end) = (IP + header, IP + length);
    if end > frame.len() || tcp + 20 > end {
        return;
    }
    frame[tcp + 16..tcp + 18].fill(0);
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let addresses = frame[IP + 12..IP + 20].chunks(2).map(word);
    let segment = frame[tcp..end].chunks(2).map(word);
    let mut sum: u32 = addresses.chain(segment).sum();
    sum += 6 + (end - tcp) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[tcp + 16..tcp + 18].copy_from_slice(&(!sum as u16).to_be_bytes());
}
