//! Tests the whole load client (engine, schedule, connections) against a simulated network, in
//! virtual time: thousands of runs with random faults, and after every step the identity that each
//! message that is due is settled or outstanding.
//!
//! A failure prints its seed; `UPCASE_SEED=n cargo test --test simulation` runs that one alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use upcase::load::engine::world::{KernelTimes, Socket, Timer, World};
use upcase::load::engine::{Engine, Stage, ThreadResult};
use upcase::load::judge::assertion::Demand;
use upcase::load::judge::verdict::{Judged, RunOutcome, Verdict, judge};
use upcase::load::plan::payload::Content;
use upcase::load::plan::random::{Purpose, RandomStream};
use upcase::load::plan::schedule::{Arrivals, Part, Rate, ScheduleIter};
use upcase::load::plan::sizes::Sizes;
use upcase::load::plan::{Churn, Close, GROUP_CONNECTIONS, Pace, Pacing, Plan, START_DELAY, Stop};
use upcase::load::results::evidence::Path;
use upcase::load::results::recorder::Interval;
use upcase::load::results::step::{Failure, Step};
use upcase::load::results::summary::Summary;
use upcase::load::results::targets::Target;
use upcase::load::results::{Counts, ErrorKind};
use upcase::reactor::Wait;
use upcase::reactor::slots::Token;
use upcase::server::stats::Totals;
use upcase::stream::{Hints, Stream};
use upcase::sys::cpu_sample::CpuUsage;

/// Random numbers that are drawn one after the other.
#[derive(Clone, Debug)]
struct Chance {
    random: RandomStream,
    thrown: u64,
}

impl Chance {
    fn new(seed: u64) -> Chance {
        let random = RandomStream::new(seed, Purpose::Gaps, u64::MAX);
        Chance { random, thrown: 0 }
    }

    /// Returns a number from 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        self.random.at(self.thrown) % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    fn microseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_nanos(self.between(least * 1000, most * 1000))
    }
}

/// An event of the network that lies in the future.
#[derive(Debug)]
enum Happening {
    /// The handshake of a connection is over.
    Connected(usize),
    Refused(usize),
    /// The server's bytes arrive.
    Arrives(usize, Vec<u8>),
    /// The client's bytes leave its send buffer.
    Taken(usize, usize),
    /// The server's FIN arrives.
    Ends(usize),
    Resets(usize),
    /// The server dies: all connections are reset.
    Dies,
    Timer(Timer),
    /// A request to stop.
    Stop,
}

/// The client's end of a connection, as its kernel sees it.
#[derive(Debug, Default)]
struct End {
    token: Option<Token>,
    target: Option<SocketAddr>,
    up: bool,
    refused: bool,
    reset: bool,
    inbound: VecDeque<u8>,
    ended: bool,
    room: usize,
    short_of_room: bool,
    fin_sent: bool,
    closed: bool,
    /// The number of bytes that the server has received and answers, and the offset of the first
    /// wrong one, if there is one.
    served: u64,
    wrong_at: Option<u64>,
    /// The number of bytes that the client has read, and of those before its FIN the number before
    /// the first wrong one.
    delivered: u64,
    right: u64,
    /// The fault that the client must report for the bytes that it has read.
    fault: Option<ErrorKind>,
    last_arrival: Option<Instant>,
    edges: Hints,
    /// The state of its path in the kernel, as of the acknowledgments that have arrived.
    path: Path,
    /// The time at which data left last, and the bytes in the send buffer with the times at which
    /// they leave.
    left_at: Option<Instant>,
    leaving: VecDeque<(Instant, u64)>,
    /// The last window: the time at which it leaves, and its bytes.
    window: Option<(Instant, u64)>,
    /// Future acknowledgments: their times, their round trips, and the bytes that they acknowledge.
    acknowledgments: VecDeque<(Instant, Duration, u64)>,
}

/// The behaviour of the server and the network in a run.
#[derive(Clone, Debug)]
struct Faults {
    /// One in this many connects is refused; 0: none.
    refuses: u64,
    /// One in this many replies is altered, or followed by a surplus byte, by a reset, or by FIN;
    /// 0: none.
    spoils: u64,
    adds: u64,
    resets: u64,
    ends: u64,
    /// A freeze of the server: when it begins, and how long it lasts.
    freeze: Option<(Duration, Duration)>,
    /// A freeze of the client, in a wait for events: when it begins, and how long it lasts.
    away: Option<(Duration, Duration)>,
    /// The maximum number of bytes of a segment, and the size of the send buffer.
    segment: usize,
    room: usize,
    /// The range of the delay of a reply, in microseconds.
    delay: (u64, u64),
    /// The number of connections, from the first on, that are slower, and by how much.
    slow: (usize, Duration),
    /// The time by which the last target is slower.
    slow_target: Duration,
    /// The time that the client spends on a read, and on a send.
    calls: (Duration, Duration),
    /// One in this many of the calls that the run makes for a connection fails, other than reads
    /// and sends; 0: none.
    fails: u64,
    /// The time between two closes of the server, once clients close, and the number of its closes.
    closes: (Duration, usize),
    /// A period in which the path is longer: its beginning, its length, and the additional delay.
    way: Option<(Duration, Duration, Duration)>,
    /// One in this many replies is lost, and retransmitted; 0: none.
    loses: u64,
    /// The maximum number of bytes that a connection sends in a round trip; further bytes wait in
    /// its send buffer.
    window: u64,
    /// The time after which the server of the last target dies, and the time until it is back, if
    /// it returns.
    dies: Option<(Duration, Option<Duration>)>,
}

/// The network and the server in it.
#[derive(Debug)]
struct Net {
    begun: Instant,
    /// The target that may be slow or die.
    last_target: SocketAddr,
    happenings: BTreeMap<(Instant, u64), Happening>,
    order: u64,
    ends: Vec<End>,
    chance: Chance,
    faults: Faults,
    ever_up: bool,
    /// The maximum number of bytes that a connection may have in flight.
    in_flight_most: u64,
    /// The number of calls that were made to fail.
    failed: BTreeMap<Step, u64>,
    /// The time of the server's last close, and the number of its closes.
    closed: (Option<Instant>, usize),
}

/// The error of a call that was made to fail.
const ENOBUFS: i32 = 105;

/// The world of the engine: virtual time, and the network.
#[derive(Clone, Debug)]
struct Virtual {
    /// The CPU time of the client.
    worked: Rc<Cell<Duration>>,
    now: Rc<Cell<Instant>>,
    net: Rc<RefCell<Net>>,
}

#[derive(Debug)]
struct Wire {
    number: usize,
    world: Virtual,
}

impl End {
    /// Records that the client has read this many more bytes.
    fn was_read(&mut self, count: u64) {
        self.delivered += count;
        if !self.fin_sent {
            self.right = self.delivered.min(self.wrong_at.unwrap_or(u64::MAX));
        }
        // Bytes after the client's FIN are counted, and no longer compared.
        let differs = !self.fin_sent && self.right < self.delivered.min(self.served);
        let fault = match differs {
            true => Some(ErrorKind::WrongReply),
            false if self.delivered > self.served => Some(ErrorKind::SurplusBytes),
            false => None,
        };
        self.fault = self.fault.or(fault);
    }
}

impl Virtual {
    /// Advances the time while the client works.
    fn spend(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.worked.set(self.worked.get() + time);
    }
}

impl Net {
    /// Makes one in [`Faults::fails`] calls of this step fail.
    fn may_fail(&mut self, step: Step) -> io::Result<()> {
        if self.faults.fails > 0 && self.chance.one_in(self.faults.fails) {
            *self.failed.entry(step).or_default() += 1;
            return Err(io::Error::from_raw_os_error(ENOBUFS));
        }
        Ok(())
    }

    /// Returns how much longer than usual the path takes for what is sent now and its reply, whose
    /// acknowledgment arrives with it.
    fn delayed(&mut self, number: usize, now: Instant) -> Duration {
        /// The smallest retransmission timeout.
        const RTO: Duration = Duration::from_millis(200);
        let path = &mut self.ends[number].path;
        path.segments += 1;
        if self.faults.loses > 0 && self.chance.one_in(self.faults.loses) {
            path.resent += 1;
            path.resent_in_vain += 1;
            return RTO;
        }
        self.longer(now)
    }

    /// Returns how much longer than usual the path is now.
    fn longer(&self, now: Instant) -> Duration {
        match self.faults.way {
            Some((from, length, longer)) if now >= self.begun + from => {
                let is_over = now >= self.begun + from + length;
                if is_over { Duration::ZERO } else { longer }
            }
            _ => Duration::ZERO,
        }
    }

    /// Sends bytes, a window in each round trip. Returns the time at which the last ones leave.
    fn leave(&mut self, number: usize, bytes: u64, now: Instant, round_trip: Duration) -> Instant {
        let end = &mut self.ends[number];
        let most = self.faults.window;
        let mut left = bytes;
        loop {
            let open = end.window.filter(|(at, _)| *at + round_trip > now);
            let (at, used) = match open {
                None => (now, 0),
                Some((at, used)) if used == most => (at + round_trip, 0),
                Some(window) => window,
            };
            let count = left.min(most - used);
            let leaves = at.max(now);
            end.window = Some((at, used + count));
            end.leaving.push_back((leaves, count));
            // The kernel of the server acknowledges also while its program is frozen.
            let acknowledged = (leaves + round_trip, round_trip, count);
            end.acknowledgments.push_back(acknowledged);
            left -= count;
            if left == 0 {
                return leaves;
            }
        }
    }

    /// Returns whether the server of a connection is dead.
    fn is_dead(&self, target: SocketAddr, now: Instant) -> bool {
        let dead = |(from, length): (Duration, Option<Duration>)| {
            let from = self.begun + from;
            now >= from && length.is_none_or(|length| now < from + length)
        };
        target == self.last_target && self.faults.dies.is_some_and(dead)
    }

    /// Returns the time at which the server's FIN arrives at a client that has closed; `None`:
    /// never.
    fn next_close(&mut self, at: Instant) -> Option<Instant> {
        let (gap, most) = self.faults.closes;
        if self.closed.1 == most {
            return None;
        }
        if gap.is_zero() {
            return Some(at);
        }
        let at = self.closed.0.map_or(at, |last| at.max(last + gap));
        self.closed = (Some(at), self.closed.1 + 1);
        Some(at)
    }

    fn later(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    /// Returns a time, or the end of the freeze if the time lies behind its beginning.
    fn thawed(&self, at: Instant) -> Instant {
        match self.faults.freeze {
            Some((from, length)) if at >= self.begun + from => at.max(self.begun + from + length),
            _ => at,
        }
    }

    /// Lets the server read what a client sent, and reply.
    fn serve(&mut self, number: usize, bytes: &[u8], now: Instant) {
        let (least, most) = self.faults.delay;
        let mut at = now + self.chance.microseconds(least, most);
        let (count, slower) = self.faults.slow;
        if number < count {
            at += slower;
        }
        if self.ends[number].target == Some(self.last_target) {
            at += self.faults.slow_target;
        }
        at = self.thawed(at);
        let spoil = self.faults.spoils > 0 && self.chance.one_in(self.faults.spoils);
        let mut reply = bytes.to_ascii_uppercase();
        if spoil {
            let place = self.chance.below(reply.len() as u64) as usize;
            reply[place] ^= 1 << self.chance.below(8);
        }
        let end = &mut self.ends[number];
        if spoil && end.wrong_at.is_none() {
            let differs = reply
                .iter()
                .zip(bytes)
                .position(|(a, b)| *a != b.to_ascii_uppercase());
            end.wrong_at = differs.map(|place| end.served + place as u64);
        }
        end.served += bytes.len() as u64;
        at = at.max(end.last_arrival.unwrap_or(at));
        while !reply.is_empty() {
            let length = self.chance.between(1, self.faults.segment as u64) as usize;
            let rest = reply.split_off(length.min(reply.len()));
            self.later(at, Happening::Arrives(number, reply));
            reply = rest;
            at += Duration::from_nanos(self.chance.below(2000));
        }
        if self.faults.adds > 0 && self.chance.one_in(self.faults.adds) {
            // No byte of a right reply is a small letter, so this one is wrong also where a byte is
            // due.
            at += self.chance.microseconds(0, 100);
            self.later(at, Happening::Arrives(number, vec![b'x']));
            let end = &mut self.ends[number];
            end.wrong_at.get_or_insert(end.served);
        }
        if self.faults.resets > 0 && self.chance.one_in(self.faults.resets) {
            self.later(at, Happening::Resets(number));
        } else if self.faults.ends > 0 && self.chance.one_in(self.faults.ends) {
            self.later(at, Happening::Ends(number));
        }
        self.ends[number].last_arrival = Some(at);
    }

    /// Applies an event to the client's end, and adds to the edges that epoll would report.
    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Connected(number) => {
                self.ever_up = true;
                let end = &mut self.ends[number];
                end.up = true;
                end.edges.writable = true;
            }
            Happening::Refused(number) => {
                let end = &mut self.ends[number];
                end.refused = true;
                end.edges = ALL;
            }
            Happening::Arrives(number, bytes) => {
                let end = &mut self.ends[number];
                if !end.reset {
                    end.inbound.extend(bytes);
                    end.edges.readable = true;
                }
            }
            Happening::Taken(number, count) => {
                let end = &mut self.ends[number];
                end.room += count;
                if std::mem::take(&mut end.short_of_room) {
                    end.edges.writable = true;
                }
            }
            Happening::Ends(number) => {
                let end = &mut self.ends[number];
                end.ended = true;
                end.edges.readable = true;
                end.edges.exceptional = true;
                end.edges.ended = true;
            }
            Happening::Resets(number) => {
                let end = &mut self.ends[number];
                end.reset = true;
                end.inbound.clear();
                end.edges = ALL;
            }
            Happening::Dies => {
                let target = Some(self.last_target);
                let up = self.ends.iter().enumerate();
                let up = up.filter(|(_, end)| end.up && end.target == target);
                let up: Vec<usize> = up.map(|(number, _)| number).collect();
                for number in up {
                    self.happens(Happening::Resets(number));
                }
            }
            Happening::Timer(_) | Happening::Stop => {}
        }
    }
}

const ALL: Hints = Hints {
    readable: true,
    writable: true,
    exceptional: true,
    ended: true,
};

impl Stream for Wire {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut net = self.world.net.borrow_mut();
        self.world.spend(net.faults.calls.0);
        let end = &mut net.ends[self.number];
        if end.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = end.inbound.len().min(buffer.len());
        if count == 0 && !end.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in end.inbound.drain(..count).enumerate() {
            buffer[place] = byte;
        }
        end.was_read(count as u64);
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut net = self.world.net.borrow_mut();
        self.world.spend(net.faults.calls.1);
        let now = self.world.now();
        let end = &mut net.ends[self.number];
        assert!(
            end.up && !end.fin_sent,
            "bytes on a connection that accepts none"
        );
        if end.reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(end.room);
        end.room -= count;
        end.short_of_room = count < bytes.len();
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // While the server is frozen its window closes, and the send buffer stays full.
        let passed = net.chance.microseconds(5, 50);
        let delayed = net.delayed(self.number, now);
        let leaves = net.leave(self.number, count as u64, now, passed + delayed);
        let taken = net.thawed(leaves + passed + delayed);
        net.later(taken, Happening::Taken(self.number, count));
        net.serve(self.number, &bytes[..count], taken);
        let end = &net.ends[self.number];
        let in_flight = end.served.saturating_sub(end.delivered);
        let most = net.in_flight_most;
        assert!(in_flight <= most, "{in_flight} bytes in flight, of {most}");
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let now = self.world.now();
        let mut net = self.world.net.borrow_mut();
        let number = self.number;
        let end = &mut net.ends[number];
        if end.reset {
            return Err(io::ErrorKind::NotConnected.into());
        }
        net.may_fail(Step::Finish)?;
        let end = &mut net.ends[number];
        end.fin_sent = true;
        let at = end.last_arrival.unwrap_or(now).max(now);
        let at = at + net.chance.microseconds(10, 100);
        if let Some(at) = net.next_close(at) {
            net.later(at, Happening::Ends(number));
        }
        Ok(())
    }
}

impl Socket for Wire {
    fn is_up(&self) -> io::Result<bool> {
        let net = self.world.net.borrow();
        let end = &net.ends[self.number];
        if end.refused {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(end.up)
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        self.world.net.borrow_mut().may_fail(Step::Linger)
    }

    fn path(&self) -> io::Result<Path> {
        let mut net = self.world.net.borrow_mut();
        net.may_fail(Step::ReadInfo)?;
        let end = &mut net.ends[self.number];
        assert!(!end.fin_sent, "the path is sampled after FIN");
        let now = self.world.now.get();
        while let Some((at, round_trip, bytes)) = end.acknowledgments.front()
            && *at <= now
        {
            let path = &mut end.path;
            path.round_trip = path.round_trip * 7 / 8 + *round_trip / 8;
            path.round_trip_least = path.round_trip_least.min(*round_trip);
            path.acknowledged += 1;
            path.acknowledged_bytes += bytes;
            end.acknowledgments.pop_front();
        }
        while let Some((at, _)) = end.leaving.front()
            && *at <= now
        {
            end.left_at = Some(*at);
            end.leaving.pop_front();
        }
        Ok(Path {
            unsent_bytes: end.leaving.iter().map(|(_, bytes)| bytes).sum(),
            quiet: end.left_at.map_or(Duration::ZERO, |at| now - at),
            ..end.path
        })
    }

    fn keep_times(&mut self) -> io::Result<()> {
        self.world.net.borrow_mut().may_fail(Step::KeepTimes)
    }

    fn times(&mut self, _: u64) -> io::Result<Option<KernelTimes>> {
        Ok(None)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The simulation itself may be over, and being dropped.
        if let Ok(mut net) = self.world.net.try_borrow_mut() {
            net.ends[self.number].closed = true;
        }
    }
}

impl World for Virtual {
    type Socket = Wire;

    fn now(&self) -> Instant {
        // Reading the clock takes time.
        self.spend(Duration::from_nanos(30));
        self.now.get()
    }

    fn cpu(&self) -> Duration {
        self.worked.get()
    }

    fn connect(&mut self, target: SocketAddr, _: Option<SocketAddr>) -> Result<Wire, Failure> {
        let now = self.now();
        let mut net = self.net.borrow_mut();
        for step in [Step::Open, Step::Configure, Step::Bind] {
            if let Err(error) = net.may_fail(step) {
                // The failed connection has a number of its own, too.
                let closed = true;
                net.ends.push(End {
                    closed,
                    ..End::default()
                });
                return Err(Failure { step, error });
            }
        }
        let number = net.ends.len();
        let room = net.faults.room;
        let round_trip = net.chance.microseconds(20, 200) + net.longer(now);
        net.ends.push(End {
            target: Some(target),
            room,
            path: Path {
                round_trip,
                round_trip_least: round_trip,
                ..Path::default()
            },
            ..End::default()
        });
        let at = now + round_trip;
        // A refusal before any connection is up ends the run, which other tests cover.
        let refuses = net.faults.refuses;
        let refused = net.ever_up && refuses > 0 && net.chance.one_in(refuses);
        let happening = match refused || net.is_dead(target, at) {
            true => Happening::Refused(number),
            false => Happening::Connected(number),
        };
        net.later(at, happening);
        let world = self.clone();
        Ok(Wire { number, world })
    }

    fn watch(&mut self, socket: &mut Wire, token: Token) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        net.may_fail(Step::Register)?;
        net.ends[socket.number].token = Some(token);
        Ok(())
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        let at = deadline.max(self.now.get());
        self.net.borrow_mut().later(at, Happening::Timer(timer));
    }
}

/// One run.
struct Simulation {
    seed: u64,
    plan: Arc<Plan>,
    world: Virtual,
    engine: Engine<Wire>,
    start: Option<Instant>,
    /// The times after the start at which the messages of the schedule are due, in order; `None` in
    /// a closed loop.
    dues: Option<Vec<Duration>>,
    stopped: bool,
    intervals: Vec<Interval>,
}

impl Simulation {
    /// Creates the only thread of a run.
    fn new(
        seed: u64,
        begun: Instant,
        plan: Plan,
        faults: Faults,
        stops: &[Duration],
    ) -> Simulation {
        let dues = dues(&plan);
        Simulation {
            dues,
            ..Simulation::of_thread(0, seed, begun, plan, faults, stops)
        }
    }

    /// Creates one of several threads, which is not compared with the schedule.
    fn of_thread(
        thread: u32,
        seed: u64,
        begun: Instant,
        plan: Plan,
        faults: Faults,
        stops: &[Duration],
    ) -> Simulation {
        let mut net = Net {
            begun,
            last_target: *plan.targets.last().unwrap(),
            happenings: BTreeMap::new(),
            order: 0,
            ends: Vec::new(),
            chance: Chance::new(seed),
            faults,
            ever_up: false,
            in_flight_most: plan.sizes.largest() as u64 * u64::from(plan.depth),
            failed: BTreeMap::new(),
            closed: (None, 0),
        };
        if let Some((at, _)) = net.faults.dies {
            net.later(begun + at, Happening::Dies);
        }
        for stop in stops {
            net.later(begun + *stop, Happening::Stop);
        }
        let mut world = Virtual {
            worked: Rc::default(),
            now: Rc::new(Cell::new(begun)),
            net: Rc::new(RefCell::new(net)),
        };
        let plan = Arc::new(plan);
        Simulation {
            seed,
            dues: None,
            engine: Engine::new(Arc::clone(&plan), thread, &mut world),
            plan,
            world,
            start: None,
            stopped: false,
            intervals: Vec::new(),
        }
    }

    fn run(mut self) -> (ThreadResult, Ended) {
        let mut steps = 0;
        while self.engine.stage() != Stage::Done {
            self.step();
            self.check();
            steps += 1;
            assert!(steps < 3_000_000, "seed {}: it never ends", self.seed);
        }
        let done = self.engine.finish();
        let net = self.world.net.borrow();
        check_absences(self.seed, net.faults.away, &done);
        let left = net.ends.iter().filter(|end| !end.closed).count();
        assert_eq!(left, 0, "seed {}: sockets are left open", self.seed);
        let wrong = net.ends.iter().map(|end| end.wrong_at).collect();
        let right = net.ends.iter().map(|end| end.right).collect();
        let faults = net.ends.iter().filter_map(|end| end.fault).collect();
        let segments = net.ends.iter().map(|end| end.path.segments).sum();
        let failed = net.failed.clone();
        drop(net);
        let rest = Ended {
            plan: self.plan,
            intervals: self.intervals,
            wrong,
            right,
            faults,
            failed,
            segments,
        };
        (done, rest)
    }

    /// Runs one turn of the loop.
    fn step(&mut self) {
        let (timers, stops, mut ready) = self.wait();
        self.engine.begin_turn(&mut self.world);
        for _ in 0..stops {
            self.stopped = true;
            self.engine.on_stop(&mut self.world);
        }
        // Timers may expire between events.
        let before = self
            .world
            .net
            .borrow_mut()
            .chance
            .below(ready.len() as u64 + 1);
        let behind = ready.split_off(before as usize);
        for (token, hints) in ready {
            self.engine.on_io(&mut self.world, token, hints);
        }
        for timer in timers {
            self.engine.on_timer(&mut self.world, timer);
        }
        for (token, hints) in behind {
            self.engine.on_io(&mut self.world, token, hints);
        }
        self.engine.end_turn(&mut self.world);
        if self.engine.stage() == Stage::Ready {
            let start = self.world.now() + START_DELAY;
            self.engine.start(&mut self.world, start);
            self.start = Some(start);
        }
        while let Some(interval) = self.engine.take_interval() {
            self.intervals.push(interval);
        }
    }

    /// Lets time pass as the engine requested, and returns the timers, stops and I/O events that
    /// are due.
    fn wait(&mut self) -> (Vec<Timer>, usize, Vec<(Token, Hints)>) {
        let now = self.world.now.get();
        let mut net = self.world.net.borrow_mut();
        let next = net.happenings.keys().next().map(|(at, _)| *at);
        let woken = match (self.engine.wait(now), next) {
            (Wait::Never, _) => now + Duration::from_nanos(300),
            (Wait::Until(end), Some(next)) => end.min(next),
            (Wait::Until(end), None) => end,
            (Wait::Block, Some(next)) => next,
            (Wait::Block, None) => panic!("seed {}: it waits for nothing", self.seed),
        };
        let latency = net.chance.microseconds(0, 20);
        let mut later = woken.max(now) + latency;
        if let Some((from, length)) = net.faults.away
            && (now..later).contains(&(net.begun + from))
        {
            later += length;
        }
        let now = later;
        self.world.now.set(now);
        let (mut timers, mut stops) = (Vec::new(), 0);
        while let Some(entry) = net.happenings.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Happening::Timer(timer) => timers.push(timer),
                Happening::Stop => stops += 1,
                happening => net.happens(happening),
            }
        }
        let mut ready = Vec::new();
        for end in net.ends.iter_mut().filter(|end| !end.closed) {
            let edges = std::mem::take(&mut end.edges);
            if let Some(token) = end.token
                && edges != Hints::default()
            {
                // The flags of an event show the whole state, not the edge only.
                let hints = Hints {
                    readable: edges.readable || !end.inbound.is_empty(),
                    writable: edges.writable || end.room > 0,
                    exceptional: edges.exceptional || end.ended,
                    ended: edges.ended || end.ended,
                };
                ready.push((token, hints));
            }
        }
        (timers, stops, ready)
    }

    /// Checks that each message that is due is settled or outstanding, at any time.
    fn check(&mut self) {
        let now = self.world.now.get();
        let identity = self.engine.identity(now);
        let settled = identity.counts.settled();
        assert_eq!(
            identity.due,
            settled + identity.outstanding,
            "seed {}: {identity:?}",
            self.seed
        );
        let (Some(start), Some(dues)) = (self.start, &self.dues) else {
            return;
        };
        let elapsed = now.checked_duration_since(start);
        let due = elapsed.map_or(0, |elapsed| dues.partition_point(|due| *due <= elapsed));
        // A run that ends early cuts its schedule.
        let cut = self.stopped || self.engine.stage() > Stage::Running;
        assert!(
            identity.due == due as u64 || cut && identity.due <= due as u64,
            "seed {}: {} due, {due} in the schedule",
            self.seed,
            identity.due
        );
    }
}

/// The data of a finished run that the checks need.
struct Ended {
    plan: Arc<Plan>,
    intervals: Vec<Interval>,
    /// The offset of the first wrong byte that each connection was sent.
    wrong: Vec<Option<u64>>,
    /// The number of bytes of each connection before that one, and before the client's FIN.
    right: Vec<u64>,
    /// The faults that connections must have reported.
    faults: Vec<ErrorKind>,
    /// The number of calls that were made to fail.
    failed: BTreeMap<Step, u64>,
    /// The number of segments that all connections have sent.
    segments: u64,
}

impl Ended {
    /// Checks that every wrong byte that the client read is reported, and no other.
    fn check_faults(&self, seed: u64, done: &ThreadResult) {
        let results = &done.recorder.run;
        for (connection, difference) in &results.differences {
            let wrong = self.wrong[*connection as usize];
            let told = Some(difference.offset);
            assert_eq!(wrong, told, "seed {seed}: connection {connection}");
        }
        for kind in [ErrorKind::WrongReply, ErrorKind::SurplusBytes] {
            let told = results.errors.get(&kind).copied().unwrap_or(0);
            let read = self.faults.iter().filter(|fault| **fault == kind).count();
            assert_eq!(told, read as u64, "seed {seed}: {kind}");
        }
    }

    /// Checks that every call that failed is reported by its step and its errno, and no other.
    fn check_calls(&self, seed: u64, done: &ThreadResult) {
        let mut told: BTreeMap<Step, u64> = BTreeMap::new();
        for (kind, count) in &done.recorder.run.errors {
            if let ErrorKind::Call(step, errno) = *kind {
                assert_eq!(errno, ENOBUFS, "seed {seed}: {kind}");
                *told.entry(step).or_default() += count;
            }
        }
        if let Some(count) = done.evidence.network.unread.get(&ENOBUFS) {
            told.insert(Step::ReadInfo, *count);
        }
        assert_eq!(told, self.failed, "seed {seed}");
    }

    /// Checks that the segments of each connection are counted once, if they could be read.
    fn check_ways(&self, seed: u64, done: &ThreadResult) {
        let network = &done.evidence.network;
        if network.unread.is_empty() {
            assert_eq!(network.segments, self.segments, "seed {seed}");
        }
    }

    /// Checks that the counts of the targets add up to those of the run, and that no target has
    /// more of a schedule than its share.
    fn check_targets(&self, seed: u64, done: &ThreadResult) {
        let results = &done.recorder.run;
        let mut all = Target::default();
        done.targets.iter().for_each(|target| all.merge(target));
        assert_eq!(all.errors, results.errors, "seed {seed}");
        let counts = Counts {
            opened: all.opened,
            failed: all.failed,
            ..all.tally.counts
        };
        let Pace::Open { pacing, .. } = self.plan.pace else {
            return assert_eq!(counts, results.counts, "seed {seed}");
        };
        if pacing != Pacing::FirstFree || self.plan.targets.len() == 1 {
            assert_eq!(counts, results.counts, "seed {seed}");
        }
        // Only messages that never got a connection belong to no target.
        let without = results.counts.scheduled - counts.scheduled;
        let lost = |counts: Counts| counts.timed_out + counts.unanswered;
        let lost_without = lost(results.counts) - lost(counts);
        assert_eq!(without, lost_without, "seed {seed}");
        assert_eq!(counts.verified_bytes, results.counts.verified_bytes);
        for target in &done.targets {
            let tally = &target.tally;
            assert_eq!(
                tally.counts.scheduled,
                tally.counts.settled(),
                "seed {seed}"
            );
            assert_eq!(
                tally.response.count(),
                tally.counts.settled(),
                "seed {seed}"
            );
        }
        if pacing == Pacing::Global && self.plan.targets.len() <= self.plan.connections as usize {
            let scheduled = done
                .targets
                .iter()
                .map(|target| target.tally.counts.scheduled);
            let (least, most) = (scheduled.clone().min(), scheduled.max());
            assert!(most.unwrap() - least.unwrap() <= 1, "seed {seed}");
        }
    }

    /// Checks that a message is verified when all of its reply has arrived, and not before.
    fn check_verified(&self, seed: u64, counts: Counts) {
        let right: u64 = self.right.iter().sum();
        assert!(counts.verified_bytes <= right, "seed {seed}: {counts:?}");
        if let (Sizes::Fixed(size), None) = (&self.plan.sizes, self.plan.timeout) {
            let whole: u64 = self.right.iter().map(|right| right / *size as u64).sum();
            assert_eq!(counts.verified, whole, "seed {seed}: {counts:?}");
        }
    }

    fn judged(&self, done: ThreadResult) -> Judged {
        let summary = Summary::new(&self.plan, done, CpuUsage::default());
        Judged::new(summary, &[], Vec::new())
    }
}

/// Checks that a client that was never stopped has no absence, and that one that was stopped has.
fn check_absences(seed: u64, stop: Option<(Duration, Duration)>, done: &ThreadResult) {
    let absent = done.evidence.absences.absent;
    let (least, most) = match stop {
        // Times that are too short for an absence add up.
        None => (Duration::ZERO, Duration::from_millis(1)),
        Some((_, length)) => (length.mul_f64(0.9), length + Duration::from_millis(1)),
    };
    assert!((least..=most).contains(&absent), "seed {seed}: {absent:?}");
}

/// Returns the due times of all messages of a schedule, computed without the pacer.
fn dues(plan: &Plan) -> Option<Vec<Duration>> {
    let Pace::Open {
        rate,
        arrivals,
        pacing,
    } = plan.pace
    else {
        return None;
    };
    let end = plan.schedule_end();
    let series: Vec<ScheduleIter> = match pacing {
        Pacing::Global | Pacing::FirstFree => {
            vec![ScheduleIter::new(
                rate,
                arrivals,
                plan.seed,
                end,
                Part::WHOLE,
            )]
        }
        Pacing::PerConnection => {
            let of = plan.connections;
            (0..of)
                .map(|index| ScheduleIter::line(rate, arrivals, plan.seed, end, Part { index, of }))
                .collect()
        }
    };
    let mut dues = Vec::new();
    for series in series {
        let mut cursor = series.start();
        while let Some(due) = series.due(cursor) {
            dues.push(due);
            series.advance(&mut cursor);
        }
    }
    dues.sort_unstable();
    Some(dues)
}

const PACINGS: [Pacing; 3] = [Pacing::Global, Pacing::FirstFree, Pacing::PerConnection];

fn plan(chance: &mut Chance) -> Plan {
    let duration = chance.microseconds(20_000, 300_000);
    let timeout = chance.one_in(3).then(|| Duration::from_millis(3));
    let open = chance.one_in(3);
    let total = chance.one_in(3);
    let pace = if open || chance.one_in(2) {
        let rates = ["333.3", "1000", "7777.7", "50000"];
        Pace::Open {
            rate: Rate::parse(rates[chance.below(4) as usize]).unwrap(),
            arrivals: [Arrivals::Constant, Arrivals::Poisson][chance.below(2) as usize],
            pacing: PACINGS[chance.below(3) as usize],
        }
    } else {
        let think = chance.microseconds(0, 2000);
        Pace::Closed {
            think: if chance.one_in(2) {
                think
            } else {
                Duration::ZERO
            },
        }
    };
    let stop = if total {
        Stop::Messages(chance.between(1, 500))
    } else {
        Stop::After(duration)
    };
    let churn = Churn {
        messages: chance.between(1, 10),
        close: [Close::Fin, Close::Rst][chance.below(2) as usize],
    };
    let target = |port: u64| format!("10.77.0.1:{}", 12_000 + port);
    let targets = match chance.one_in(3) {
        true => 0..chance.between(2, 4),
        false => 0..1,
    };
    Plan {
        targets: targets.map(|port| target(port).parse().unwrap()).collect(),
        // Few connections, so that a run is short; or more than fit into a group, or into its
        // buffer.
        connections: match chance.one_in(8) {
            true => chance.between(9, 80),
            false => chance.between(1, 8),
        } as u32,
        connect_rate: chance.one_in(4).then_some(1000),
        pace,
        depth: chance.between(1, 4) as u32,
        sizes: match chance.below(12) {
            0..4 => Sizes::Fixed(64),
            4 => Sizes::Fixed(8000),
            5..8 => Sizes::Uniform(1, 3000),
            _ => Sizes::Mixed(vec![(10, 90.0), (20_000, 10.0)]),
        },
        content: [Content::Text, Content::Bytes][chance.below(2) as usize].clone(),
        seed: chance.below(u64::MAX),
        warmup: if total || chance.one_in(2) {
            Duration::ZERO
        } else {
            duration / 4
        },
        drain: chance.microseconds(0, 50_000),
        timeout,
        churn: chance.one_in(3).then_some(churn),
        spin: chance.one_in(4),
        interval: chance.microseconds(10_000, 100_000),
        kernel_timestamps: chance.below(4) as u32,
        ..Plan::new(target(0).parse().unwrap(), stop)
    }
}

fn faults(chance: &mut Chance) -> Faults {
    let mut sometimes = |times: u64| if chance.one_in(3) { times } else { 0 };
    let (refuses, spoils, adds) = (sometimes(4), sometimes(200), sometimes(200));
    let (resets, ends) = (sometimes(50), sometimes(50));
    let freeze = (
        chance.microseconds(0, 200_000),
        chance.microseconds(1000, 400_000),
    );
    let slow_target = chance.one_in(3).then(|| chance.microseconds(0, 30_000));
    Faults {
        refuses,
        spoils,
        adds,
        resets,
        ends,
        freeze: chance.one_in(3).then_some(freeze),
        away: None,
        segment: chance.between(1, 1448) as usize,
        room: [100, 4000, 1 << 20][chance.below(3) as usize],
        delay: (10, chance.between(20, 2000)),
        slow: (0, Duration::ZERO),
        slow_target: slow_target.unwrap_or_default(),
        calls: (chance.microseconds(0, 2), chance.microseconds(0, 10)),
        fails: if chance.one_in(4) { 10 } else { 0 },
        ..quick()
    }
}

/// Prints how to repeat a run if it panics, wherever it does.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: UPCASE_SEED={} cargo test --test simulation", self.0);
        }
    }
}

/// Carries out a run with a random plan and random faults; returns its report.
fn run(seed: u64, begun: Instant) -> (String, Judged) {
    let _replay = Replay(seed);
    let mut chance = Chance::new(seed);
    let (plan, faults) = (plan(&mut chance), faults(&mut chance));
    let mut stops = Vec::new();
    if chance.one_in(5) {
        stops.push(chance.microseconds(0, 200_000));
        if chance.one_in(2) {
            stops.push(stops[0] + chance.microseconds(0, 20_000));
        }
    }
    let (done, rest) = Simulation::new(seed, begun, plan, faults, &stops).run();
    for results in [&done.recorder.run, &done.recorder.warmup] {
        let counts = results.counts;
        assert_eq!(
            counts.scheduled,
            counts.settled(),
            "seed {seed}: {counts:?}"
        );
        assert_eq!(results.response.count(), counts.settled(), "seed {seed}");
        assert_eq!(results.lateness.count(), counts.settled(), "seed {seed}");
    }
    let counts = done.recorder.counts();
    if let Stop::Messages(total) = rest.plan.stop {
        assert!(counts.scheduled <= total, "seed {seed}: {counts:?}");
    }
    rest.check_faults(seed, &done);
    rest.check_calls(seed, &done);
    rest.check_targets(seed, &done);
    rest.check_ways(seed, &done);
    rest.check_verified(seed, counts);
    for interval in &rest.intervals {
        let identity = interval.identity;
        let settled = identity.counts.settled();
        assert_eq!(identity.due, settled + identity.outstanding, "seed {seed}");
    }
    let judged = rest.judged(done);
    (upcase::report::json::render(&judged, 0), judged)
}

#[test]
fn nothing_vanishes_in_fifteen_hundred_runs_with_faults() {
    let begun = Instant::now();
    let seeds = match std::env::var("UPCASE_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=1500,
    };
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let all = seeds.clone().count();
    for seed in seeds {
        let (_, judged) = run(seed, begun);
        let (results, warmup) = (&judged.summary.results, &judged.summary.warmup);
        let mut see = |name: &str, count| *seen.entry(name.to_string()).or_default() += count;
        see(judged.findings.verdict.name(), 1);
        for counts in [results.counts, warmup.counts] {
            see("verified messages", counts.verified);
            see("mismatched messages", counts.mismatched);
            see("errored messages", counts.errored);
            see("timed out messages", counts.timed_out);
            see("unanswered messages", counts.unanswered);
        }
        for (kind, count) in &results.errors {
            see(&kind.to_string(), *count);
            if let ErrorKind::Call(..) = kind {
                see("failed calls", *count);
            }
        }
    }
    println!("{seen:#?}");
    for name in [
        "verified messages",
        "mismatched messages",
        "errored messages",
        "timed out messages",
        "unanswered messages",
        "surplus bytes",
        "failed calls",
    ] {
        let count = seen.get(name).copied().unwrap_or(0);
        let is_seen = all < 1000 || count > 100;
        assert!(is_seen, "the runs are to show everything: {count} {name}");
    }
}

#[test]
fn the_same_seed_is_the_same_report() {
    for seed in 1..=100 {
        let (one, _) = run(seed, Instant::now());
        let (two, _) = run(seed, Instant::now() + Duration::from_secs(7));
        assert_eq!(one, two, "seed {seed}");
    }
}

/// Returns a schedule of 1,000 messages a second over a hundred connections.
fn steady(seconds: u64, pacing: Pacing) -> Plan {
    let stop = Stop::After(Duration::from_secs(seconds));
    Plan {
        connections: 100,
        pace: Pace::Open {
            rate: Rate::parse("1000").unwrap(),
            arrivals: Arrivals::Constant,
            pacing,
        },
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    }
}

/// Returns the behaviour of a server without faults that replies in a tenth of a millisecond.
fn quick() -> Faults {
    Faults {
        refuses: 0,
        spoils: 0,
        adds: 0,
        resets: 0,
        ends: 0,
        freeze: None,
        away: None,
        segment: 1448,
        room: 1 << 20,
        delay: (100, 100),
        slow: (0, Duration::ZERO),
        slow_target: Duration::ZERO,
        calls: (Duration::ZERO, Duration::ZERO),
        fails: 0,
        closes: (Duration::ZERO, usize::MAX),
        way: None,
        loses: 0,
        window: u64::MAX,
        dies: None,
    }
}

fn carry_out(plan: Plan, faults: Faults) -> Judged {
    let (done, rest) = Simulation::new(1, Instant::now(), plan, faults, &[]).run();
    rest.judged(done)
}

/// Returns a percentile of the response time in seconds, and whether it is a lower bound.
fn response(judged: &Judged, percentile: f64) -> (f64, bool) {
    let distribution = judged.summary.results.response.distribution().unwrap();
    let bound = distribution.percentile(percentile).unwrap();
    (bound.value.as_secs_f64(), bound.at_least)
}

#[test]
fn a_freeze_of_a_second_in_ten_is_a_p99_of_nine_tenths() {
    let second = Duration::from_secs(1);
    let judged = carry_out(
        steady(10, Pacing::Global),
        Faults {
            freeze: Some((4 * second, second)),
            ..quick()
        },
    );
    let (p99, at_least) = response(&judged, 99.0);
    assert!((p99 - 0.9).abs() < 0.005 && !at_least, "{p99}");
    // The service time covers the hundred messages that were sent into the freeze, and not the rest
    // that waited for a connection: it is the number that hides the freeze.
    let service = judged.summary.results.service.distribution().unwrap();
    let hidden = service.percentile(90.0).unwrap().value;
    assert!(hidden < Duration::from_millis(1), "{hidden:?}");
    assert_eq!(judged.findings.verdict, Verdict::ServerBound);
}

#[test]
fn a_server_that_dies_for_the_last_third_is_a_p99_of_at_least_that() {
    let second = Duration::from_secs(1);
    let judged = carry_out(
        steady(15, Pacing::Global),
        Faults {
            freeze: Some((10 * second, 1000 * second)),
            ..quick()
        },
    );
    let (p99, at_least) = response(&judged, 99.0);
    assert!(p99 >= 4.85 && at_least, "{p99}");
    // The last message that is answered is sent a tenth of a millisecond before the freeze.
    let counts = judged.summary.results.counts;
    assert_eq!(counts.scheduled, 15_000);
    assert!((4990..=5010).contains(&counts.unanswered), "{counts:?}");
    assert_eq!(judged.findings.verdict, Verdict::Failed);
    assert!(!judged.is_good());
}

#[test]
fn ninety_slow_connections_of_a_hundred_are_seen_when_each_has_its_line() {
    let slow = (90, Duration::from_millis(50));
    let judged = carry_out(
        steady(10, Pacing::PerConnection),
        Faults { slow, ..quick() },
    );
    let (p50, _) = response(&judged, 50.0);
    assert!((p50 / 0.0502 - 1.0).abs() < 0.01, "{p50}");
}

#[test]
fn a_reply_waits_for_other_reads_and_not_for_other_sends_before_it_is_read() {
    // Two messages on each connection; the first replies of all arrive at once.
    let connections = GROUP_CONNECTIONS as u32;
    let stop = Stop::Messages(u64::from(2 * connections));
    let plan = Plan {
        connections,
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    };
    let (read, send) = (Duration::from_micros(1), Duration::from_micros(20));
    let faults = Faults {
        freeze: Some((Duration::ZERO, Duration::from_millis(10))),
        calls: (read, send),
        ..quick()
    };
    let results = carry_out(plan, faults).summary.results;
    // The first messages are due one send after the other, and their replies arrive all at once. If
    // the replies are read one directly after the other, the first message has waited longest, less
    // the time of the reads; with sends between the reads, all would have waited equally long.
    let response = results.response.distribution().unwrap();
    let spread = response.longest().value - response.nearest(51.0).value;
    let others = connections - 1;
    let expected = (send - read) * others;
    let error = spread.abs_diff(expected);
    assert!(error < read / 2 * others, "{spread:?} for {expected:?}");
    // The last of the second messages waits for all others, which is the run's own lateness.
    let own = results.own.distribution().unwrap().longest().value;
    assert!(own >= send * others, "{own:?}");
}

#[test]
fn closing_goes_on_while_closes_come() {
    // A hundred closes, 200 ms apart: twenty seconds.
    let gap = Duration::from_millis(200);
    let faults = Faults {
        closes: (gap, usize::MAX),
        ..quick()
    };
    let judged = carry_out(steady(1, Pacing::Global), faults);
    assert_eq!(judged.findings.verdict, Verdict::Valid, "{judged:?}");
    assert!(judged.summary.results.errors.is_empty());
}

#[test]
fn closing_is_given_up_when_no_close_has_come_for_five_seconds_or_the_drain() {
    for (drain, seconds) in [(1, 5), (20, 20)] {
        let gap = Duration::from_millis(200);
        let faults = Faults {
            closes: (gap, 40),
            ..quick()
        };
        let plan = Plan {
            drain: Duration::from_secs(drain),
            ..steady(1, Pacing::Global)
        };
        let simulation = Simulation::new(1, Instant::now(), plan, faults, &[]);
        let (begun, now) = (Instant::now(), Rc::clone(&simulation.world.now));
        let (done, rest) = simulation.run();
        let not_closed = done.recorder.run.errors.get(&ErrorKind::NotClosed).copied();
        assert_eq!(not_closed, Some(60));
        // A second of sending, forty closes, and then nothing.
        let took = now.get() - begun;
        let least = Duration::from_secs(1) + gap * 39 + Duration::from_secs(seconds);
        assert!(
            took >= least && took < least + Duration::from_secs(1),
            "{took:?}"
        );
        assert_eq!(rest.judged(done).standing(), RunOutcome::Wrong);
    }
}

#[test]
fn replies_that_came_while_the_run_was_held_up_are_read_before_it_gives_up() {
    for seed in 1..=20 {
        let stop = Stop::After(Duration::from_secs(1));
        let plan = Plan {
            connections: 30,
            pace: Pace::Closed {
                think: Duration::from_secs(10),
            },
            ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
        };
        // All messages are answered half a second after the end of sending, within the drain of a
        // second.
        let faults = Faults {
            freeze: Some((Duration::ZERO, Duration::from_millis(1500))),
            ..quick()
        };
        let mut simulation = Simulation::new(seed, Instant::now(), plan, faults, &[]);
        while simulation.engine.stage() < Stage::Draining {
            simulation.step();
        }
        simulation.world.spend(Duration::from_secs(5));
        let (done, _) = simulation.run();
        let counts = done.recorder.run.counts;
        assert_eq!((counts.verified, counts.unanswered), (30, 0), "seed {seed}");
    }
}

#[test]
fn a_run_that_was_held_up_itself_while_closing_blames_nobody() {
    // Every read takes a fifth of a second: the closes wait for the run, for twenty seconds.
    let faults = Faults {
        calls: (Duration::from_millis(200), Duration::ZERO),
        ..quick()
    };
    let stop = Stop::Messages(100);
    let plan = Plan {
        connections: 100,
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
    };
    let judged = carry_out(plan, faults);
    assert!(judged.summary.results.errors.is_empty(), "{judged:?}");
}

#[test]
fn a_server_that_dies_is_named_with_the_time_and_what_it_did() {
    let (died, second) = (Duration::from_millis(1500), Duration::from_secs(1));
    let of = |dies| {
        let faults = Faults {
            dies: Some(dies),
            ..quick()
        };
        carry_out(steady(10, Pacing::Global), faults)
    };
    let judged = of((died, None));
    let told = judged.findings.evidence.join("\n");
    let expected = "the server at 10.77.0.1:12000 went away at 1.49 s: connection reset, \
                    connection refused since";
    let near = expected.replace("1.49", "1.50");
    assert!(told.contains(expected) || told.contains(&near), "{told}");
    let advice = judged.findings.advice.join("\n");
    assert!(
        advice.contains("find out why the server at 10.77.0.1:12000 went away"),
        "{advice}"
    );
    assert!(!advice.contains("--rate"), "{advice}");
    assert_eq!(judged.standing(), RunOutcome::Wrong);
    // A server that is back is reported as away in between.
    let judged = of((died, Some(3 * second)));
    let told = judged.findings.evidence.join("\n");
    assert!(told.contains("and came back at 4."), "{told}");
}

#[test]
fn a_server_that_stops_is_named_with_the_time_of_its_last_reply() {
    let second = Duration::from_secs(1);
    let faults = Faults {
        freeze: Some((4 * second, 1000 * second)),
        ..quick()
    };
    let judged = carry_out(steady(10, Pacing::Global), faults);
    let told = judged.findings.evidence.join("\n");
    assert!(
        told.contains("the server at 10.77.0.1:12000 stopped answering at 3.99 s")
            || told.contains("the server at 10.77.0.1:12000 stopped answering at 4.00 s"),
        "{told}"
    );
    let advice = judged.findings.advice.join("\n");
    assert!(advice.contains("is stopped or stuck"), "{advice}");
    assert!(!advice.contains("--rate"), "{advice}");
}

#[test]
fn a_run_whose_only_connection_fails_at_first_for_want_of_memory_goes_on() {
    // One of three calls fails: some attempts are needed until one succeeds.
    let faults = Faults {
        fails: 3,
        ..quick()
    };
    let plan = Plan {
        connections: 1,
        ..steady(20, Pacing::Global)
    };
    let mut failed = 0;
    for seed in 1..=10 {
        let (plan, faults) = (plan.clone(), faults.clone());
        let (done, rest) = Simulation::new(seed, Instant::now(), plan, faults, &[]).run();
        rest.check_calls(seed, &done);
        let counts = done.recorder.run.counts;
        assert!(counts.verified > 0, "seed {seed}: {counts:?}");
        failed += counts.failed;
    }
    assert!(failed > 0);
}

/// Returns a schedule of 1,000 messages a second for this many targets, with ten connections to
/// each.
fn several(targets: u16, pacing: Pacing) -> Plan {
    let address = |port: u16| SocketAddr::from(([10, 77, 0, 1], 12_000 + port));
    Plan {
        targets: (0..targets).map(address).collect(),
        connections: u32::from(targets) * 10,
        ..steady(10, pacing)
    }
}

fn shares(judged: &Judged) -> Vec<u64> {
    let targets = judged.summary.targets.iter();
    targets
        .map(|target| target.tally.counts.scheduled)
        .collect()
}

#[test]
fn targets_of_different_speed_have_equal_shares_unless_the_first_free_is_asked_for() {
    // Ten connections send fifty messages a second to a target that takes 200 ms for each.
    let faults = Faults {
        slow_target: Duration::from_millis(200),
        ..quick()
    };
    let median = |target: &Target| target.tally.response.distribution().unwrap().nearest(50.0);
    let judged = carry_out(several(2, Pacing::Global), faults.clone());
    assert_eq!(shares(&judged), [5000, 5000]);
    let [fast, slow] = &judged.summary.targets[..] else {
        panic!("two targets");
    };
    // The fast target is not delayed by the other one, which is visibly overloaded.
    assert_eq!(fast.tally.counts.verified, 5000);
    let longest = fast.tally.response.distribution().unwrap().longest().value;
    assert!(longest < Duration::from_millis(1), "{longest:?}");
    let slow_median = median(slow);
    assert!(
        slow_median.value > Duration::from_secs(1),
        "{slow_median:?}"
    );
    assert_ne!(judged.findings.verdict, Verdict::ClientBound, "{judged:?}");

    let judged = carry_out(several(2, Pacing::FirstFree), faults.clone());
    let [fast, slow] = shares(&judged)[..] else {
        panic!("two targets");
    };
    assert!(fast > 9000 && fast + slow == 10_000, "{fast} and {slow}");
    let judged = carry_out(several(2, Pacing::PerConnection), faults);
    assert_eq!(shares(&judged), [5000, 5000]);
}

#[test]
fn the_messages_of_a_target_that_is_away_wait_for_it_and_no_others_do() {
    let died = Duration::from_secs(4);
    let faults = Faults {
        dies: Some((died, None)),
        ..quick()
    };
    let judged = carry_out(several(3, Pacing::Global), faults);
    assert_eq!(shares(&judged), [3334, 3333, 3333]);
    let [one, two, dead] = &judged.summary.targets[..] else {
        panic!("three targets");
    };
    for well in [one, two] {
        assert_eq!(well.tally.counts.verified, well.tally.counts.scheduled);
        let longest = well.tally.response.distribution().unwrap().longest().value;
        assert!(longest < Duration::from_millis(1), "{longest:?}");
    }
    let counts = dead.tally.counts;
    let answered = died.as_secs() * 1000 / 3;
    assert!(counts.verified.abs_diff(answered) < 10, "{counts:?}");
    assert!(
        counts.unanswered.abs_diff(3333 - answered) < 10,
        "{counts:?}"
    );
    assert_eq!(judged.findings.verdict, Verdict::Failed);
}

#[test]
fn threads_that_share_connections_unevenly_give_equal_shares_all_the_same() {
    // Thread 0 has no connection to the last target: lines 0, 2, 4, 6 of seven.
    for (threads, connections, targets) in [(2, 7, 3), (3, 10, 4), (4, 5, 2), (2, 3, 3)] {
        let plan = Plan {
            connections,
            threads,
            ..several(targets, Pacing::Global)
        };
        let mut all = vec![Target::default(); targets.into()];
        for thread in 0..threads {
            let plan = plan.clone();
            let run = Simulation::of_thread(thread, 1, Instant::now(), plan, quick(), &[]);
            let (done, _) = run.run();
            all.iter_mut()
                .zip(&done.targets)
                .for_each(|(all, target)| all.merge(target));
        }
        let counts = all.iter().map(|target| target.tally.counts.scheduled);
        let (least, most) = (counts.clone().min().unwrap(), counts.clone().max().unwrap());
        assert!(
            most - least <= 1 && counts.sum::<u64>() == 10_000,
            "{least} to {most}"
        );
        assert!(all.iter().all(|target| target.tally.counts.unanswered == 0));
    }
}

#[test]
fn a_message_is_given_up_at_its_timeout_or_a_tenth_later() {
    let milliseconds = Duration::from_millis;
    for (timeout, most) in [
        (3, 4.0),
        (20, 22.0),
        (100, 110.0),
        (700, 770.0),
        (3000, 3100.0),
    ] {
        let think = milliseconds(10);
        for pace in [steady(6, Pacing::Global).pace, Pace::Closed { think }] {
            let plan = Plan {
                pace,
                timeout: Some(milliseconds(timeout)),
                drain: milliseconds(2 * timeout),
                ..steady(6, Pacing::Global)
            };
            let faults = Faults {
                freeze: Some((milliseconds(1000), milliseconds(100_000))),
                ..quick()
            };
            let judged = carry_out(plan, faults);
            let results = &judged.summary.results;
            let distribution = results.response.distribution().unwrap();
            // Above the answered messages the distribution holds only those that timed out.
            let answered = results.counts.verified as f64 / distribution.count() as f64 * 100.0;
            let first = distribution.nearest(answered + 1e-6);
            let [first, last] = [first, distribution.longest()].map(|bound| {
                assert!(bound.at_least, "{timeout} ms, {pace:?}");
                bound.value.as_secs_f64() * 1e3
            });
            println!(
                "{timeout} ms: {first:.2} to {last:.2} ms, {:?}",
                results.counts
            );
            assert!(results.counts.timed_out >= 100, "{:?}", results.counts);
            // The histogram has a resolution of a thousandth; a wake-up takes a moment.
            assert!(
                first > timeout as f64 * 0.999,
                "{timeout} ms: {first}, {pace:?}"
            );
            assert!(last < most + 0.1, "{timeout} ms: {last}, {pace:?}");
        }
    }
}

/// Carries out a run whose every send takes so long that the messages behind it are late.
fn slow_client() -> Judged {
    let faults = Faults {
        calls: (Duration::ZERO, Duration::from_millis(2)),
        ..quick()
    };
    let plan = Plan {
        pace: Pace::Open {
            rate: Rate::parse("300").unwrap(),
            arrivals: Arrivals::Poisson,
            pacing: Pacing::Global,
        },
        ..steady(10, Pacing::Global)
    };
    carry_out(plan, faults)
}

#[test]
fn a_client_that_was_stopped_is_blamed_as_far_as_it_is_seen() {
    let second = Duration::from_secs(1);
    let stopped = |plan, length, delay| {
        let faults = Faults {
            away: Some((second, length)),
            delay,
            ..quick()
        };
        carry_out(plan, faults).findings
    };
    let closed = || Plan {
        pace: Pace::Closed {
            think: Duration::ZERO,
        },
        ..steady(4, Pacing::Global)
    };
    // For an eighth of the time, no reply was read: the rate is that much too low.
    let findings = stopped(closed(), second / 2, (20_000, 20_000));
    assert_eq!(findings.verdict, Verdict::ClientBound, "{findings:?}");
    // A hundred of 20,000 replies waited, or eighty of 10,000 messages.
    for plan in [closed(), steady(10, Pacing::Global)] {
        let findings = stopped(plan, Duration::from_millis(80), (20_000, 20_000));
        assert_eq!(findings.verdict, Verdict::Valid, "{findings:?}");
        assert_eq!(findings.valid_up_to, Some(("p99", 99.0)), "{findings:?}");
    }
    // Six hundred of 10,000 messages waited.
    let plan = steady(10, Pacing::Global);
    let findings = stopped(plan, second * 3 / 5, (100, 100));
    assert_eq!(findings.verdict, Verdict::ClientBound, "{findings:?}");
}

#[test]
fn a_closed_loop_says_who_set_the_pace() {
    let closed = |think| Plan {
        pace: Pace::Closed { think },
        ..steady(2, Pacing::Global)
    };
    let milliseconds = Duration::from_millis;
    let pace = |plan, faults| {
        let findings = carry_out(plan, faults).findings;
        assert_eq!(findings.verdict, Verdict::Valid, "{findings:?}");
        findings.evidence.join("; ")
    };
    let said = pace(closed(milliseconds(50)), quick());
    assert!(said.contains("the think time, 50.0 ms"), "{said}");
    let slow = Faults {
        delay: (100_000, 200_000),
        ..quick()
    };
    let said = pace(closed(Duration::ZERO), slow.clone());
    assert!(said.contains("the server set the pace"), "{said}");
    // All replies stop at once: that is not the effect of slow replies.
    let frozen = Faults {
        freeze: Some((milliseconds(700), milliseconds(500))),
        ..quick()
    };
    let findings = carry_out(closed(milliseconds(1)), frozen).findings;
    assert_eq!(findings.verdict, Verdict::ServerBound, "{findings:?}");
    let said = findings.evidence.join("; ");
    assert!(said.contains("no reply arrived for"), "{said}");
}

/// Returns a run as a schedule and as a closed loop.
fn both_loops(seconds: u64) -> [Plan; 2] {
    let open = steady(seconds, Pacing::Global);
    let think = Duration::from_millis(5);
    let pace = Pace::Closed { think };
    [open.clone(), Plan { pace, ..open }]
}

#[test]
fn a_longer_path_makes_a_run_network_bound() {
    let second = Duration::from_secs(1);
    for plan in both_loops(8) {
        let longer = |longer| {
            let faults = Faults {
                way: Some((4 * second, 2 * second, longer)),
                ..quick()
            };
            let findings = carry_out(plan.clone(), faults).findings;
            (findings.verdict, findings.evidence.join("; "))
        };
        let (verdict, said) = longer(second / 5);
        assert_eq!(verdict, Verdict::NetworkBound, "{said}");
        let grown = "the round-trip time of TCP exceeded its minimum by 200 ms at p90";
        assert!(said.contains(grown), "{said}");
        // The peer may have delayed an acknowledgment for this long.
        let (verdict, said) = longer(second / 25);
        assert_eq!(verdict, Verdict::Valid, "{said}");
    }
}

#[test]
fn replies_that_were_lost_are_the_networks() {
    for plan in both_loops(20) {
        let lost = |loses| {
            let faults = Faults { loses, ..quick() };
            let findings = carry_out(plan.clone(), faults).findings;
            (findings.verdict, findings.evidence.join("; "))
        };
        let (verdict, said) = lost(200);
        assert_eq!(verdict, Verdict::NetworkBound, "{said}");
        assert!(
            said.contains("were not acknowledged within 100 ms"),
            "{said}"
        );
        let (verdict, said) = lost(2000);
        assert_eq!(verdict, Verdict::Valid, "{said}");
    }
}

#[test]
fn a_large_message_takes_its_time_over_a_long_way_and_nothing_is_held_up() {
    // A window leaves every 30 ms: the last of five after 120 ms, the last of seven after 180 ms.
    // So a sample after 100 to 200 ms may find that the message has left and is not acknowledged
    // yet.
    let milliseconds = Duration::from_millis;
    let window = 10_000;
    for (windows, loses, expected) in [
        (1, 0, Verdict::Valid),
        (5, 0, Verdict::Valid),
        (6, 0, Verdict::Valid),
        (7, 0, Verdict::Valid),
        // A lost message is delayed.
        (1, 100, Verdict::NetworkBound),
    ] {
        let faults = Faults {
            way: Some((Duration::ZERO, milliseconds(100_000), milliseconds(30))),
            window,
            loses,
            ..quick()
        };
        let plan = Plan {
            pace: Pace::Open {
                rate: Rate::parse("100").unwrap(),
                arrivals: Arrivals::Poisson,
                pacing: Pacing::Global,
            },
            sizes: Sizes::Fixed(windows * window as usize),
            ..steady(20, Pacing::Global)
        };
        let judged = carry_out(plan, faults);
        let said = judged.findings.evidence.join("; ");
        let network = &judged.summary.evidence.network;
        println!(
            "{windows}: {} of {} examined are not acknowledged: {said}",
            network.unacknowledged, network.examined
        );
        assert_eq!(judged.findings.verdict, expected, "{windows}: {said}");
        assert_eq!(network.unacknowledged > 0, loses > 0, "{windows}: {said}");
        let is_examined = network.examined > 100;
        assert_eq!(is_examined, windows > 1, "{windows}: {network:?}");
    }
}

#[test]
fn slow_replies_and_the_drain_are_no_stalls() {
    let plan = |rate: &str| Plan {
        pace: Pace::Open {
            rate: Rate::parse(rate).unwrap(),
            arrivals: Arrivals::Poisson,
            pacing: Pacing::Global,
        },
        ..steady(20, Pacing::Global)
    };
    for seed in 0..20 {
        // One connection of a hundred answers half a second late.
        for rate in ["5", "500"] {
            let faults = Faults {
                slow: (1, Duration::from_millis(500)),
                ..quick()
            };
            let simulation = Simulation::new(seed, Instant::now(), plan(rate), faults, &[]);
            let (done, rest) = simulation.run();
            let judged = rest.judged(done);
            assert_eq!(judged.summary.stall(), None, "seed {seed}, {rate}/s");
        }
    }
}

#[test]
fn a_run_that_its_client_limited_is_inconclusive_unless_that_is_allowed() {
    let judged = slow_client();
    assert_eq!(judged.findings.verdict, Verdict::ClientBound);
    assert_eq!(judged.standing(), RunOutcome::Inconclusive);
    let advice = judged.findings.advice.join("\n");
    for word in ["another machine", "--spin", "--allow client-bound"] {
        assert!(advice.contains(word), "{word} in {advice}");
    }
    let rate = judged.summary.rate_share();
    let demand: Demand = "p99<1us".parse().unwrap();
    let assertions = vec![demand.hold(&judged.summary.results, rate)];
    let allowed = vec![Verdict::ClientBound];
    let wrong = Judged {
        assertions,
        ..judged.clone()
    };
    assert_eq!(wrong.standing(), RunOutcome::Wrong);
    let mut unlogged = judged.clone();
    unlogged.summary.unlogged = Some("no space".to_string());
    assert_eq!(unlogged.standing(), RunOutcome::Wrong);
    let good = Judged { allowed, ..judged };
    assert_eq!(good.standing(), RunOutcome::Good);
    assert!(good.is_good());
}

/// Judges a run again, as if its threads and its own server had got this CPU time.
fn with_own_server(judged: &Judged, machine: CpuUsage) -> Verdict {
    let mut summary = judged.summary.clone();
    summary.own_server = Some(Totals::default());
    summary.evidence.machine = machine;
    judge(&summary).verdict
}

#[test]
fn a_server_of_the_runs_own_excuses_waits_for_its_cpu_and_no_other() {
    let seconds = Duration::from_secs_f64;
    // Its server had the CPU for half of the time, and the generator waited as long.
    let shared = CpuUsage {
        cpu: seconds(1.0),
        wall: seconds(2.0),
        busy: 0.5,
        starved: 0.5,
        process: seconds(2.0),
        ..CpuUsage::default()
    };
    let late = slow_client();
    assert_ne!(with_own_server(&late, shared), Verdict::ClientBound);
    // The server had no CPU time, so other processes must have had it.
    let hogged = CpuUsage {
        process: shared.cpu,
        ..shared
    };
    assert_eq!(with_own_server(&late, hogged), Verdict::ClientBound);
    // No process had it: the generator was stopped, or slow by itself.
    let idle = CpuUsage {
        starved: 0.0,
        ..shared
    };
    assert_eq!(with_own_server(&late, idle), Verdict::ClientBound);
    // The CPU time that the generator itself needs is not excused by sharing.
    let prompt = carry_out(steady(2, Pacing::Global), quick());
    assert_eq!(with_own_server(&prompt, shared), Verdict::Valid);
    let saturated = CpuUsage {
        busy: 0.95,
        starved: 0.05,
        ..shared
    };
    assert_eq!(with_own_server(&prompt, saturated), Verdict::ClientBound);
}
