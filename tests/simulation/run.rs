//! One run of the simulation: the load generator's engine on the simulated network, turn by turn,
//! and the checks of its results.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use upcase::load::engine::world::{Timer, World};
use upcase::load::engine::{Engine, Stage, ThreadResult};
use upcase::load::judge::verdict::Judged;
use upcase::load::plan::schedule::{Part, ScheduleIter};
use upcase::load::plan::sizes::Sizes;
use upcase::load::plan::{Pace, Pacing, Plan, START_DELAY};
use upcase::load::results::recorder::Interval;
use upcase::load::results::step::Step;
use upcase::load::results::summary::Summary;
use upcase::load::results::targets::Target;
use upcase::load::results::{Counts, ErrorKind};
use upcase::reactor::Wait;
use upcase::reactor::slots::Token;
use upcase::stream::Hints;
use upcase::sys::cpu_sample::CpuUsage;

use crate::chance::Chance;
use crate::faults::Faults;
use crate::network::{ENOBUFS, Happening, Net, Virtual, Wire};

/// One run.
pub struct Simulation {
    seed: u64,
    plan: Arc<Plan>,
    pub world: Virtual,
    pub engine: Engine<Wire>,
    start: Option<Instant>,
    /// The times after the start at which the messages of the schedule are due, in order; `None` in
    /// a closed loop.
    dues: Option<Vec<Duration>>,
    stopped: bool,
    intervals: Vec<Interval>,
}

impl Simulation {
    /// Creates the only thread of a run.
    pub fn new(
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
    pub fn of_thread(
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

    pub fn run(mut self) -> (ThreadResult, Ended) {
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
    pub fn step(&mut self) {
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
pub struct Ended {
    pub plan: Arc<Plan>,
    pub intervals: Vec<Interval>,
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
    pub fn check_faults(&self, seed: u64, done: &ThreadResult) {
        let results = &done.recorder.run;
        for (connection, difference) in &results.differences {
            let wrong = self.wrong[*connection as usize];
            let reported = Some(difference.offset);
            assert_eq!(wrong, reported, "seed {seed}: connection {connection}");
        }
        for kind in [ErrorKind::WrongReply, ErrorKind::SurplusBytes] {
            let reported = results.errors.get(&kind).copied().unwrap_or(0);
            let read = self.faults.iter().filter(|fault| **fault == kind).count();
            assert_eq!(reported, read as u64, "seed {seed}: {kind}");
        }
    }

    /// Checks that every call that failed is reported by its step and its errno, and no other.
    pub fn check_calls(&self, seed: u64, done: &ThreadResult) {
        let mut reported: BTreeMap<Step, u64> = BTreeMap::new();
        for (kind, count) in &done.recorder.run.errors {
            if let ErrorKind::Call(step, errno) = *kind {
                assert_eq!(errno, ENOBUFS, "seed {seed}: {kind}");
                *reported.entry(step).or_default() += count;
            }
        }
        if let Some(count) = done.evidence.network.unread.get(&ENOBUFS) {
            reported.insert(Step::ReadInfo, *count);
        }
        assert_eq!(reported, self.failed, "seed {seed}");
    }

    /// Checks that the segments of each connection are counted once, if they could be read.
    pub fn check_ways(&self, seed: u64, done: &ThreadResult) {
        let network = &done.evidence.network;
        if network.unread.is_empty() {
            assert_eq!(network.segments, self.segments, "seed {seed}");
        }
    }

    /// Checks that the counts of the targets add up to those of the run, and that no target has
    /// more of a schedule than its share.
    pub fn check_targets(&self, seed: u64, done: &ThreadResult) {
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
    pub fn check_verified(&self, seed: u64, counts: Counts) {
        let right: u64 = self.right.iter().sum();
        assert!(counts.verified_bytes <= right, "seed {seed}: {counts:?}");
        if let (Sizes::Fixed(size), None) = (&self.plan.sizes, self.plan.timeout) {
            let whole: u64 = self.right.iter().map(|right| right / *size as u64).sum();
            assert_eq!(counts.verified, whole, "seed {seed}: {counts:?}");
        }
    }

    pub fn judged(&self, done: ThreadResult) -> Judged {
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
        arrivals, pacing, ..
    } = plan.pace
    else {
        return None;
    };
    let rate = plan.rate_over_time()?;
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
                .map(|index| Part { index, of })
                .map(|line| ScheduleIter::line(rate.clone(), arrivals, plan.seed, end, line))
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

pub fn carry_out(plan: Plan, faults: Faults) -> Judged {
    let (done, rest) = Simulation::new(1, Instant::now(), plan, faults, &[]).run();
    rest.judged(done)
}
