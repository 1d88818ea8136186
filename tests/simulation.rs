//! The whole load client (engine, schedule, connections) against a simulated network, in virtual
//! time: thousands of runs with faults that the dice choose, and after every step the identity
//! that nothing vanishes.
//!
//! A failure prints its seed; `UPCASE_SEED=n cargo test --test simulation` runs that one alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use upcase::load::books::Interval;
use upcase::load::engine::{Done, Engine, Stage};
use upcase::load::evidence::{Machine, Path};
use upcase::load::payload::Content;
use upcase::load::plan::{Churn, Close, GROUP_CONNECTIONS, LEAD, Pace, Pacing, Plan, Stop};
use upcase::load::random::{Dice, Purpose};
use upcase::load::results::{Counts, ErrorKind};
use upcase::load::schedule::{Arrivals, Part, Rate, Series};
use upcase::load::sizes::Sizes;
use upcase::load::summary::Summary;
use upcase::load::verdict::{Judged, Verdict, judge};
use upcase::load::world::{KernelTimes, Socket, Timer, World};
use upcase::reactor::Wait;
use upcase::reactor::slots::Token;
use upcase::stream::{Hints, Stream};

/// Dice that are thrown one after the other.
#[derive(Clone, Debug)]
struct Chance {
    dice: Dice,
    thrown: u64,
}

impl Chance {
    fn new(seed: u64) -> Chance {
        let dice = Dice::new(seed, Purpose::Gaps, u64::MAX);
        Chance { dice, thrown: 0 }
    }

    /// From 0 to below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        self.dice.at(self.thrown) % end
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

/// What will happen in the network.
#[derive(Debug)]
enum Happening {
    /// The handshake of a connection is over.
    Connected(usize),
    Refused(usize),
    /// The server's bytes have come.
    Arrives(usize, Vec<u8>),
    /// The client's bytes have left its send buffer.
    Taken(usize, usize),
    /// The server's FIN has come.
    Ends(usize),
    Resets(usize),
    Timer(Timer),
    /// A request to stop.
    Stop,
}

/// The client's end of a connection, as its kernel sees it.
#[derive(Debug, Default)]
struct End {
    token: Option<Token>,
    up: bool,
    refused: bool,
    reset: bool,
    inbound: VecDeque<u8>,
    ended: bool,
    room: usize,
    short_of_room: bool,
    fin_sent: bool,
    closed: bool,
    /// Bytes that the server has got, and answers: where the first wrong one is, if one is.
    served: u64,
    wrong_at: Option<u64>,
    /// Bytes that the client has read; of those before its FIN, the ones before the wrong one.
    delivered: u64,
    right: u64,
    /// What it must call a fault of what it has read.
    fault: Option<ErrorKind>,
    last_arrival: Option<Instant>,
    edges: Hints,
}

/// What the server and the network do to a run.
#[derive(Clone, Debug)]
struct Faults {
    /// One in so many connects is refused; 0: none.
    refuses: u64,
    /// One in so many replies is spoiled, or followed by a byte that answers nothing, by a reset,
    /// or by FIN; 0: none.
    spoils: u64,
    adds: u64,
    resets: u64,
    ends: u64,
    /// A freeze of the server: from, for how long.
    freeze: Option<(Duration, Duration)>,
    /// Most bytes of a segment, most room of the send buffer.
    segment: usize,
    room: usize,
    /// Of a reply, in microseconds.
    delay: (u64, u64),
    /// The first so many connections are slower by so much.
    slow: (usize, Duration),
    /// What a read and a send take of the run's own time.
    calls: (Duration, Duration),
}

/// The network and the server in it.
#[derive(Debug)]
struct Net {
    begun: Instant,
    happenings: BTreeMap<(Instant, u64), Happening>,
    order: u64,
    ends: Vec<End>,
    chance: Chance,
    faults: Faults,
    ever_up: bool,
    /// Bytes that a connection may have in flight.
    in_flight_most: u64,
}

/// The world of the engine: virtual time, and the network.
#[derive(Clone, Debug)]
struct Virtual {
    now: Rc<Cell<Instant>>,
    net: Rc<RefCell<Net>>,
}

#[derive(Debug)]
struct Wire {
    number: usize,
    world: Virtual,
}

impl End {
    /// The client has read so many bytes more.
    fn was_read(&mut self, count: u64) {
        self.delivered += count;
        if !self.fin_sent {
            self.right = self.delivered.min(self.wrong_at.unwrap_or(u64::MAX));
        }
        // What comes behind FIN is counted, and not compared any more.
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
    /// Time passes.
    fn spend(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

impl Net {
    fn later(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.happenings.insert((at, self.order), happening);
    }

    /// A time, or the end of the freeze if it lies behind its beginning.
    fn thawed(&self, at: Instant) -> Instant {
        match self.faults.freeze {
            Some((from, length)) if at >= self.begun + from => at.max(self.begun + from + length),
            _ => at,
        }
    }

    /// The server reads what a client sent, and answers.
    fn serve(&mut self, number: usize, bytes: &[u8], now: Instant) {
        let (least, most) = self.faults.delay;
        let mut at = now + self.chance.microseconds(least, most);
        let (count, slower) = self.faults.slow;
        if number < count {
            at += slower;
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
            // No byte that is due is a small letter, so it is wrong also where a byte is due.
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

    /// What happens to the client's end; the event that epoll would report, if one.
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
            "bytes on a connection that takes none"
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
        let taken = net.thawed(now + passed);
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
        end.fin_sent = true;
        let at = end.last_arrival.unwrap_or(now).max(now);
        let at = at + net.chance.microseconds(10, 100);
        net.later(at, Happening::Ends(number));
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
        Ok(())
    }

    fn path(&self) -> io::Result<Path> {
        Ok(Path::default())
    }

    fn keep_times(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn times(&mut self, _: u64) -> Option<KernelTimes> {
        None
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
        // Reading the clock takes time, as everything does.
        self.spend(Duration::from_nanos(30));
        self.now.get()
    }

    fn connect(&mut self, _: SocketAddr, _: Option<IpAddr>) -> io::Result<Wire> {
        let now = self.now();
        let mut net = self.net.borrow_mut();
        let number = net.ends.len();
        let room = net.faults.room;
        net.ends.push(End {
            room,
            ..End::default()
        });
        let at = now + net.chance.microseconds(20, 200);
        // Refused before anything was up is the end of a run, which is another test's business.
        let refuses = net.faults.refuses;
        let happening = if net.ever_up && refuses > 0 && net.chance.one_in(refuses) {
            Happening::Refused(number)
        } else {
            Happening::Connected(number)
        };
        net.later(at, happening);
        let world = self.clone();
        Ok(Wire { number, world })
    }

    fn watch(&mut self, socket: &mut Wire, token: Token) -> io::Result<()> {
        self.net.borrow_mut().ends[socket.number].token = Some(token);
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
    /// When each message of the schedule is due after the start, in order; none in a closed loop.
    dues: Option<Vec<Duration>>,
    stopped: bool,
    intervals: Vec<Interval>,
}

impl Simulation {
    fn new(
        seed: u64,
        begun: Instant,
        plan: Plan,
        faults: Faults,
        stops: &[Duration],
    ) -> Simulation {
        let mut net = Net {
            begun,
            happenings: BTreeMap::new(),
            order: 0,
            ends: Vec::new(),
            chance: Chance::new(seed),
            faults,
            ever_up: false,
            in_flight_most: plan.sizes.largest() as u64 * u64::from(plan.depth),
        };
        for stop in stops {
            net.later(begun + *stop, Happening::Stop);
        }
        let mut world = Virtual {
            now: Rc::new(Cell::new(begun)),
            net: Rc::new(RefCell::new(net)),
        };
        let plan = Arc::new(plan);
        Simulation {
            seed,
            dues: dues(&plan),
            engine: Engine::new(Arc::clone(&plan), 0, &mut world),
            plan,
            world,
            start: None,
            stopped: false,
            intervals: Vec::new(),
        }
    }

    fn run(mut self) -> (Done, Ended) {
        let mut steps = 0;
        while self.engine.stage() != Stage::Done {
            self.step();
            self.check();
            steps += 1;
            assert!(steps < 3_000_000, "seed {}: it never ends", self.seed);
        }
        let done = self.engine.finish();
        let net = self.world.net.borrow();
        let left = net.ends.iter().filter(|end| !end.closed).count();
        assert_eq!(left, 0, "seed {}: sockets are left open", self.seed);
        let wrong = net.ends.iter().map(|end| end.wrong_at).collect();
        let right = net.ends.iter().map(|end| end.right).collect();
        let faults = net.ends.iter().filter_map(|end| end.fault).collect();
        drop(net);
        let rest = Ended {
            plan: self.plan,
            intervals: self.intervals,
            wrong,
            right,
            faults,
        };
        (done, rest)
    }

    /// A turn of the loop.
    fn step(&mut self) {
        let (timers, stops, mut ready) = self.wait();
        self.engine.begin_turn(&mut self.world);
        for _ in 0..stops {
            self.stopped = true;
            self.engine.on_stop(&mut self.world);
        }
        // Timers may come between events.
        let before = self
            .world
            .net
            .borrow_mut()
            .chance
            .below(ready.len() as u64 + 1);
        let behind = ready.split_off(before as usize);
        for (token, hints) in ready {
            self.engine.on_io(&mut self.world, token, hints).unwrap();
        }
        for timer in timers {
            self.engine.on_timer(&mut self.world, timer).unwrap();
        }
        for (token, hints) in behind {
            self.engine.on_io(&mut self.world, token, hints).unwrap();
        }
        self.engine.end_turn(&mut self.world).unwrap();
        if self.engine.stage() == Stage::Ready {
            let start = self.world.now() + LEAD;
            self.engine.start(&mut self.world, start);
            self.start = Some(start);
        }
        while let Some(interval) = self.engine.take_interval() {
            self.intervals.push(interval);
        }
    }

    /// Lets time pass as the engine asked for, and collects what happened.
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
        let now = woken.max(now) + latency;
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

    /// Nothing vanishes, at any time.
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

/// What is left of a run.
struct Ended {
    plan: Arc<Plan>,
    intervals: Vec<Interval>,
    /// Where the first wrong byte of each connection was sent.
    wrong: Vec<Option<u64>>,
    /// Bytes of each connection that came before that one, and before the client's FIN.
    right: Vec<u64>,
    /// What connections must have called a fault.
    faults: Vec<ErrorKind>,
}

impl Ended {
    /// Every wrong byte that the client read is told, and no other.
    fn check_faults(&self, seed: u64, done: &Done) {
        let results = &done.books.run;
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

    /// A message is verified when all of its reply has come, and not before.
    fn check_verified(&self, seed: u64, counts: Counts) {
        let right: u64 = self.right.iter().sum();
        assert!(counts.verified_bytes <= right, "seed {seed}: {counts:?}");
        if let (Sizes::Fixed(size), None) = (&self.plan.sizes, self.plan.timeout) {
            let whole: u64 = self.right.iter().map(|right| right / *size as u64).sum();
            assert_eq!(counts.verified, whole, "seed {seed}: {counts:?}");
        }
    }

    fn judged(&self, done: Done) -> Judged {
        let summary = Summary::new(&self.plan, done, Machine::default());
        Judged {
            findings: judge(&summary),
            assertions: Vec::new(),
            allowed: Vec::new(),
            summary,
        }
    }
}

/// Every message of a schedule, worked out without the pacer.
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
    let series: Vec<Series> = match pacing {
        Pacing::Global => vec![Series::new(rate, arrivals, plan.seed, end, Part::WHOLE)],
        Pacing::PerConnection => {
            let of = plan.connections;
            (0..of)
                .map(|index| Series::line(rate, arrivals, plan.seed, end, Part { index, of }))
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

fn plan(chance: &mut Chance) -> Plan {
    // Old messages are looked for ten times a second: some runs must be long enough for that.
    let duration = chance.microseconds(20_000, 300_000);
    let timeout = chance.one_in(3).then(|| Duration::from_millis(3));
    let duration = if timeout.is_some() {
        duration * 3
    } else {
        duration
    };
    let open = chance.one_in(3);
    let total = chance.one_in(3);
    let pace = if open || chance.one_in(2) {
        let rates = ["333.3", "1000", "7777.7", "50000"];
        Pace::Open {
            rate: Rate::parse(rates[chance.below(4) as usize]).unwrap(),
            arrivals: [Arrivals::Constant, Arrivals::Poisson][chance.below(2) as usize],
            pacing: [Pacing::Global, Pacing::PerConnection][chance.below(2) as usize],
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
    Plan {
        // Few, so that a run is short; or more than fit into a group, or into its buffer.
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
        ..Plan::new("10.77.0.1:12000".parse().unwrap(), stop)
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
    Faults {
        refuses,
        spoils,
        adds,
        resets,
        ends,
        freeze: chance.one_in(3).then_some(freeze),
        segment: chance.between(1, 1448) as usize,
        room: [100, 4000, 1 << 20][chance.below(3) as usize],
        delay: (10, chance.between(20, 2000)),
        slow: (0, Duration::ZERO),
        calls: (chance.microseconds(0, 2), chance.microseconds(0, 10)),
    }
}

/// Tells how to repeat a run that broke off, wherever it did.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: UPCASE_SEED={} cargo test --test simulation", self.0);
        }
    }
}

/// A run that the dice choose, to its end; its report.
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
    for results in [&done.books.run, &done.books.warmup] {
        let counts = results.counts;
        assert_eq!(
            counts.scheduled,
            counts.settled(),
            "seed {seed}: {counts:?}"
        );
        assert_eq!(results.response.count(), counts.settled(), "seed {seed}");
        assert_eq!(results.lateness.count(), counts.settled(), "seed {seed}");
    }
    let counts = done.books.counts();
    if let Stop::Messages(total) = rest.plan.stop {
        assert!(counts.scheduled <= total, "seed {seed}: {counts:?}");
    }
    rest.check_faults(seed, &done);
    rest.check_verified(seed, counts);
    for interval in &rest.intervals {
        let identity = interval.identity;
        let settled = identity.counts.settled();
        assert_eq!(identity.due, settled + identity.outstanding, "seed {seed}");
    }
    let judged = rest.judged(done);
    (upcase::report::json::render(&judged), judged)
}

#[test]
fn nothing_vanishes_in_a_thousand_runs_with_faults() {
    let begun = Instant::now();
    let seeds = match std::env::var("UPCASE_SEED") {
        Ok(seed) => seed.parse().unwrap()..=seed.parse().unwrap(),
        Err(_) => 1..=1000,
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

/// A schedule of 1,000 messages a second over a hundred connections.
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

/// A server that answers in a tenth of a millisecond.
fn quick() -> Faults {
    Faults {
        refuses: 0,
        spoils: 0,
        adds: 0,
        resets: 0,
        ends: 0,
        freeze: None,
        segment: 1448,
        room: 1 << 20,
        delay: (100, 100),
        slow: (0, Duration::ZERO),
        calls: (Duration::ZERO, Duration::ZERO),
    }
}

fn carry_out(plan: Plan, faults: Faults) -> Judged {
    let (done, rest) = Simulation::new(1, Instant::now(), plan, faults, &[]).run();
    rest.judged(done)
}

/// A percentile of the response in seconds, and whether it is a lower bound.
fn response(judged: &Judged, percentile: f64) -> (f64, bool) {
    let distribution = judged.summary.results.response.distribution().unwrap();
    let bound = distribution.percentile(percentile).unwrap().bound;
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
    // Of the hundred that were sent into the freeze and the rest that waited for a connection, the
    // service time knows the hundred only: it is the number that hides the freeze.
    let service = judged.summary.results.service.distribution().unwrap();
    let hidden = service.percentile(90.0).unwrap().bound.value;
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
    // A tenth of a millisecond before the freeze is the last message that is answered.
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
    // Two messages on each connection; the first replies of all come at once.
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
    // The first messages are due one send after the other, and their replies come all at once. Read
    // one read after the other, the first has waited longest, less what the reads took; with sends
    // between the reads, all would have waited as long.
    let response = results.response.distribution().unwrap();
    let spread = response.longest().value - response.nearest(51.0).value;
    let others = connections - 1;
    let expected = (send - read) * others;
    let error = spread.abs_diff(expected);
    assert!(error < read / 2 * others, "{spread:?} for {expected:?}");
    // The last of the second messages waits for all others, and that is the run's own doing.
    let own = results.own.distribution().unwrap().longest().value;
    assert!(own >= send * others, "{own:?}");
}
