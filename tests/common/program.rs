//! A server in the test's process whose delays follow a program: every delay is drawn from a seeded
//! generator, computed before it begins, and recorded, so that a client's measurements can be
//! compared with it.
//!
//! One thread serves all connections. The time at which a reply is due is computed from the arrival
//! of its message ([`Course`], pure), and no work is done in between: a queue empties exactly as
//! fast as the program says, however late the thread wakes up. That lateness is recorded as well.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::f64::consts::TAU;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustix::event::epoll;
use socket2::{Domain, Socket, Type};

use super::TIMEOUT;
use super::peers::settle;

/// The behaviour of a server.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Bytes of a message.
    pub size: usize,
    /// The time that the server takes for a message.
    pub work: Work,
    pub lanes: Lanes,
    /// The pauses of the whole server: the time between two pauses, and their length.
    pub pauses: Option<(Work, Work)>,
    /// The additional time for the first message of a connection.
    pub first: Duration,
    /// Minimum time between two accepted connections.
    pub accepting: Duration,
    /// The length of the accept queue.
    pub backlog: i32,
    pub seed: u64,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    Always(Duration),
    /// Uniform between 0 and this time.
    Uniform(Duration),
    /// The first time with this probability, else the second.
    Some(f64, Duration, Duration),
    /// Lognormal with this median, and this sigma of its logarithm.
    Lognormal(Duration, f64),
    /// Exponential with this mean.
    Exponential(Duration),
    /// Linear from the first time to the second; the third is the duration of the change.
    Ramp(Duration, Duration, Duration),
}

/// The messages that wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Only messages of the same connection.
    Apart,
    /// All messages, one after the other in the order of arrival.
    InTurn,
}

impl Program {
    /// Returns the program of a server with this work for each message of 64 bytes, and nothing
    /// else.
    pub fn of(lanes: Lanes, work: Work, seed: u64) -> Program {
        Program {
            size: 64,
            work,
            lanes,
            pauses: None,
            first: Duration::ZERO,
            accepting: Duration::ZERO,
            backlog: 4096,
            seed,
        }
    }

    /// Starts the server on one CPU; `first`: with real-time priority, see [`settle`].
    pub fn start(self, cpu: u32, first: bool) -> Programmed {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(self.backlog).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let serve = move || {
            settle(cpu, first);
            Server::new(self, listener, stopped).run()
        };
        Programmed {
            address,
            seed: self.seed,
            stop: Some(stop),
            thread: Some(thread::spawn(serve)),
        }
    }
}

/// A pseudo-random generator, with the same numbers for the same seed: SplitMix64.
#[derive(Clone, Copy, Debug)]
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a uniform number above 0 and at most 1.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }
}

impl Work {
    /// Draws a time; `at` is the time since the start of the server.
    pub fn draw(self, random: &mut Rng, at: Duration) -> Duration {
        match self {
            Work::Always(time) => time,
            Work::Uniform(most) => most.mul_f64(random.unit()),
            Work::Some(share, slow, usual) => {
                let is_slow = random.unit() <= share;
                if is_slow { slow } else { usual }
            }
            Work::Lognormal(median, sigma) => median.mul_f64((sigma * random.normal()).exp()),
            Work::Exponential(mean) => mean.mul_f64(-random.unit().ln()),
            Work::Ramp(from, to, time) => {
                let part = at.div_duration_f64(time).min(1.0);
                from.mul_f64(1.0 - part) + to.mul_f64(part)
            }
        }
    }
}

/// Computes the time at which each reply is due. All times count from the start of the server.
#[derive(Clone, Debug)]
pub struct Course {
    program: Program,
    work: Rng,
    gaps: Rng,
    /// The time at which all earlier work is done, where messages wait for each other.
    free: Duration,
    /// The begin and end of the pauses that may still matter, in order.
    pauses: VecDeque<(Duration, Duration)>,
    /// The end of the last pause that was drawn.
    drawn: Duration,
}

impl Course {
    pub fn new(program: Program) -> Course {
        Course {
            program,
            work: Rng(program.seed),
            gaps: Rng(!program.seed),
            free: Duration::ZERO,
            pauses: VecDeque::new(),
            drawn: Duration::ZERO,
        }
    }

    /// Returns the time at which the reply to a message is due that arrived at `came`. The arrivals
    /// must be passed in order.
    pub fn due(&mut self, came: Duration, is_first: bool) -> Duration {
        let mut work = self.program.work.draw(&mut self.work, came);
        if is_first {
            work += self.program.first;
        }
        let begin = match self.program.lanes {
            Lanes::Apart => came,
            Lanes::InTurn => came.max(self.free),
        };
        let due = self.after_pauses(begin, work);
        self.free = self.free.max(due);
        due
    }

    /// Returns the time at which work is done that begins at `begin` and is suspended during
    /// pauses.
    fn after_pauses(&mut self, begin: Duration, work: Duration) -> Duration {
        while self.pause(0).is_some_and(|(_, to)| to <= begin) {
            self.pauses.pop_front();
        }
        let mut done = begin + work;
        let mut place = 0;
        while let Some((from, to)) = self.pause(place).filter(|(from, _)| *from < done) {
            done += to - from.max(begin);
            place += 1;
        }
        done
    }

    /// Returns the pause at this place among those that are not over.
    fn pause(&mut self, place: usize) -> Option<(Duration, Duration)> {
        let (gap, length) = self.program.pauses?;
        while self.pauses.len() <= place {
            let from = self.drawn + gap.draw(&mut self.gaps, self.drawn);
            self.drawn = from + length.draw(&mut self.gaps, from);
            self.pauses.push_back((from, self.drawn));
        }
        self.pauses.get(place).copied()
    }
}

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub struct Programmed {
    pub address: SocketAddr,
    seed: u64,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Vec<Held>>>,
}

impl Programmed {
    /// Stops the server and returns its record.
    pub fn stop(mut self) -> Log {
        self.stop = None;
        let held = self.thread.take().map(|thread| thread.join().unwrap());
        Log {
            seed: self.seed,
            held: held.unwrap_or_default(),
        }
    }
}

impl Drop for Programmed {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The time between the reading of a message and the writing of its reply.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The time that the program prescribes.
    pub meant: Duration,
    /// The actual time.
    pub really: Duration,
}

/// The record of a server's replies.
#[derive(Clone, Debug)]
pub struct Log {
    pub seed: u64,
    pub held: Vec<Held>,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meant: Vec<Duration> = self.held.iter().map(|held| held.meant).collect();
        let late = self.held.iter().map(|held| held.really - held.meant);
        let (seed, count) = (self.seed, meant.len());
        write!(f, "server with seed {seed}: {count} replies")?;
        let (meant, late) = (Ranks::of(meant), Ranks::of(late.collect()));
        write!(f, ", held for {meant}, and for {late} longer")
    }
}

/// Three percentiles of some times, and the longest.
struct Ranks([Duration; 4]);

impl Ranks {
    fn of(mut times: Vec<Duration>) -> Ranks {
        times.sort_unstable();
        let at = |percentile: f64| {
            let rank = (times.len() as f64 * percentile / 100.0).ceil() as usize;
            times.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        Ranks([at(50.0), at(90.0), at(99.0), at(100.0)])
    }
}

impl fmt::Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] = self.0.map(|time| time.as_secs_f64() * 1e3);
        write!(f, "{p50:.3}/{p90:.3}/{p99:.3}/{max:.3} ms")
    }
}

const LISTENER: u64 = 0;
const TIMER: u64 = 1;
const STOP: u64 = 2;
const FIRST_CLIENT: u64 = 3;

/// The state of a server's thread.
struct Server {
    program: Program,
    course: Course,
    begun: Instant,
    listener: TcpListener,
    /// The earliest time at which the next connection is accepted.
    accepts: Duration,
    stopped: UnixStream,
    poll: rustix::fd::OwnedFd,
    timer: TimerFd,
    /// The clients by their tokens, none of which is used twice.
    clients: HashMap<u64, Client>,
    next: u64,
    /// The pending replies, by the time at which they are due and then by the order of their
    /// messages.
    replies: BTreeMap<(Duration, u64), Reply>,
    log: Vec<Held>,
}

struct Client {
    stream: TcpStream,
    /// The bytes of an incomplete message.
    part: Vec<u8>,
    /// The time at which the last of its replies is due.
    last: Option<Duration>,
}

impl Client {
    /// Writes a reply. If the client's window is closed, this blocks the whole server.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self.stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.set_nonblocking(false)?;
        self.stream.write_all(bytes)?;
        self.stream.set_nonblocking(true)
    }
}

struct Reply {
    client: u64,
    bytes: Vec<u8>,
    came: Duration,
    meant: Duration,
}

impl Server {
    fn new(program: Program, listener: TcpListener, stopped: UnixStream) -> Server {
        listener.set_nonblocking(true).unwrap();
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
        let readable = epoll::EventFlags::IN;
        let token = epoll::EventData::new_u64;
        if program.accepting.is_zero() {
            epoll::add(&poll, &listener, token(LISTENER), readable).unwrap();
        }
        epoll::add(&poll, &timer, token(TIMER), readable).unwrap();
        epoll::add(&poll, &stopped, token(STOP), readable).unwrap();
        Server {
            program,
            course: Course::new(program),
            begun: Instant::now(),
            listener,
            accepts: Duration::ZERO,
            stopped,
            poll,
            timer,
            clients: HashMap::new(),
            next: FIRST_CLIENT,
            replies: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Held> {
        let mut events = Vec::with_capacity(256);
        loop {
            self.arm();
            events.clear();
            match epoll::wait(
                &self.poll,
                rustix::buffer::spare_capacity(&mut events),
                None,
            ) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    TIMER => drop(self.timer.wait()),
                    STOP => return self.log,
                    client => self.read(client),
                }
            }
            if !self.program.accepting.is_zero() && self.begun.elapsed() >= self.accepts {
                self.accept();
                self.accepts = self.begun.elapsed() + self.program.accepting;
            }
            self.reply();
        }
    }

    /// Sets the timer for the next reply or the next accept.
    fn arm(&mut self) {
        let reply = self.replies.keys().next().map(|(due, _)| *due);
        let accept = (!self.program.accepting.is_zero()).then_some(self.accepts);
        let Some(next) = reply.into_iter().chain(accept).min() else {
            return self.timer.unset().unwrap();
        };
        let left = next.saturating_sub(self.begun.elapsed());
        let left = Expiration::OneShot(left.max(Duration::from_nanos(1)).into());
        self.timer.set(left, TimerSetTimeFlags::empty()).unwrap();
    }

    /// Accepts all waiting connections, or only one if accepting takes time.
    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
            let (token, readable) = (self.next, epoll::EventFlags::IN);
            let data = epoll::EventData::new_u64(token);
            epoll::add(&self.poll, &stream, data, readable).unwrap();
            let client = Client {
                stream,
                part: Vec::new(),
                last: None,
            };
            self.clients.insert(token, client);
            self.next += 1;
            if !self.program.accepting.is_zero() {
                return;
            }
        }
    }

    fn read(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let mut bytes = [0; 16 * 1024];
        match client.stream.read(&mut bytes) {
            Ok(0) => drop(self.clients.remove(&token)),
            Ok(count) => client.part.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => drop(self.clients.remove(&token)),
        }
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let came = self.begun.elapsed();
        while client.part.len() >= self.program.size {
            let rest = client.part.split_off(self.program.size);
            let mut bytes = std::mem::replace(&mut client.part, rest);
            bytes.make_ascii_uppercase();
            let due = self.course.due(came, client.last.is_none());
            // The replies of one connection keep their order.
            let due = due.max(client.last.unwrap_or_default());
            client.last = Some(due);
            self.next += 1;
            let reply = Reply {
                client: token,
                bytes,
                came,
                meant: due - came,
            };
            self.replies.insert((due, self.next), reply);
        }
    }

    /// Writes the replies that are due.
    fn reply(&mut self) {
        let now = self.begun.elapsed();
        while let Some(entry) = self.replies.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let reply = entry.remove();
            let Some(client) = self.clients.get_mut(&reply.client) else {
                continue;
            };
            if client.send(&reply.bytes).is_err() {
                self.clients.remove(&reply.client);
                continue;
            }
            self.log.push(Held {
                meant: reply.meant,
                really: self.begun.elapsed() - reply.came,
            });
        }
    }
}
