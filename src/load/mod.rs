//! A load run: threads with an engine and a reactor each, started together, their results added up.
//!
//! The threads share nothing while messages are due but a few numbers that are drawn on a terminal.
//! Each one sends its intervals and its result to the thread that started them, which waits, adds
//! and tells; drawing and writing never happen where messages are sent.

pub mod assertion;
pub mod books;
pub mod connection;
pub mod dial;
pub mod engine;
pub mod evidence;
pub mod gauge;
pub mod kernel;
pub mod latency;
pub mod own;
pub mod pacer;
pub mod payload;
pub mod plan;
pub mod preflight;
pub mod random;
pub mod results;
pub mod row;
pub mod schedule;
pub mod sizes;
pub mod summary;
pub mod verdict;
pub mod world;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::load::books::Interval;
use crate::load::engine::{Done, Engine, Stage};
use crate::load::evidence::Machine;
use crate::load::gauge::Gauge;
use crate::load::kernel::Kernel;
use crate::load::plan::{LEAD, Plan};
use crate::load::summary::Summary;
use crate::load::world::{Timer, World};
use crate::reactor::Event;
use crate::reactor::signals::Remote;

/// How often [`run`] shows where a run stands: often enough to look alive, too seldom to cost
/// anything.
const TICK: Duration = Duration::from_millis(200);

/// How often a thread that is ready looks whether the others are.
const READY_LOOK: Duration = Duration::from_millis(1);

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum News<'a> {
    /// Where it stands, several times a second.
    Glance(Glance),
    /// An interval is over.
    Interval(&'a Interval),
}

/// A look at a run under way.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// Since when messages are due; `None`: connections are still coming up.
    pub start: Option<Instant>,
    /// Connections that are up.
    pub up: u32,
    /// Messages verified so far.
    pub verified: u64,
}

/// What the threads have in common.
#[derive(Debug, Default)]
struct Shared {
    ready: AtomicU32,
    has_been_up: AtomicBool,
    /// Once all are ready: when messages are due from, or that there is nothing to run.
    start: OnceLock<Option<Instant>>,
    /// One a thread, written by it alone.
    up: Vec<AtomicU32>,
    verified: Vec<AtomicU64>,
}

/// What a thread sends.
#[derive(Debug)]
enum Told {
    Begun(Remote),
    Interval(u32, Box<Interval>),
    Done(u32, Box<anyhow::Result<(Done, Machine)>>),
}

/// Carries a plan out. SIGINT and SIGTERM end it early. It is an error when no connection ever came
/// up, or when the poll fails.
pub fn run(plan: Plan, mut watch: impl FnMut(News)) -> anyhow::Result<Summary> {
    let plan = Arc::new(plan);
    let shared = Arc::new(Shared {
        up: (0..plan.threads).map(|_| AtomicU32::new(0)).collect(),
        verified: (0..plan.threads).map(|_| AtomicU64::new(0)).collect(),
        ..Shared::default()
    });
    let (sender, told) = mpsc::channel();
    for number in 0..plan.threads {
        let (plan, shared, sender) = (Arc::clone(&plan), Arc::clone(&shared), sender.clone());
        thread::Builder::new()
            .name(format!("load {number}"))
            .spawn(move || {
                let done = carry_out(&plan, number, &shared, &sender);
                let _ = sender.send(Told::Done(number, Box::new(done)));
            })
            .context("cannot start a thread")?;
    }
    drop(sender);

    let mut gathering = Gathering::new(plan);
    let mut next_glance = Instant::now() + TICK;
    loop {
        match told.recv_timeout(next_glance.saturating_duration_since(Instant::now())) {
            Ok(told) => gathering.take(told, &mut watch),
            Err(RecvTimeoutError::Timeout) => {
                next_glance = Instant::now() + TICK;
                watch(News::Glance(shared.glance()));
            }
            Err(RecvTimeoutError::Disconnected) => return gathering.finish(),
        }
    }
}

/// The part of one thread.
fn carry_out(
    plan: &Arc<Plan>,
    number: u32,
    shared: &Shared,
    told: &Sender<Told>,
) -> anyhow::Result<(Done, Machine)> {
    let mut world = Kernel::new(plan.options).context("cannot set up the event loop")?;
    world.reactor.stop_on_signals()?;
    let _ = told.send(Told::Begun(world.reactor.remote()?));
    let mut engine = Engine::new(Arc::clone(plan), number, &mut world);
    let (mut gauge, mut machine) = (None, Machine::default());
    while engine.stage() != Stage::Done {
        let before = engine.stage();
        world.reactor.turn(engine.wait(world.now()))?;
        engine.begin_turn(&mut world);
        while let Some(event) = world.reactor.next_event() {
            match event {
                Event::Io(token, hints) => engine.on_io(&mut world, token, hints)?,
                Event::Timer(timer) => engine.on_timer(&mut world, timer)?,
                Event::Stop => engine.on_stop(&mut world),
                Event::Drain | Event::Report | Event::Inquiry => {}
            }
        }
        engine.end_turn(&mut world)?;
        if engine.stage() == Stage::Ready {
            let unreachable = engine.unreachable();
            if before != Stage::Ready {
                shared.ready(unreachable.is_none(), plan);
            }
            match (shared.start.get(), unreachable) {
                (None, _) => world.set_timer(world.now() + READY_LOOK, Timer::Ready),
                (Some(None), Some(why)) => bail!("{why}"),
                (Some(None), None) => bail!("no connection is up"),
                (Some(Some(start)), _) => {
                    engine.start(&mut world, *start);
                    gauge = Some(Gauge::read());
                }
            }
        }
        if engine.stage() > Stage::Running
            && let Some(gauge) = gauge.take()
        {
            machine = gauge.since();
        }
        while let Some(interval) = engine.take_interval() {
            let _ = told.send(Told::Interval(number, Box::new(interval)));
        }
        shared.show(number, engine.progress());
    }
    Ok((engine.finish(), machine))
}

impl Shared {
    /// A thread is ready. The last one sets the start, if any thread has a connection.
    fn ready(&self, has_been_up: bool, plan: &Plan) {
        self.has_been_up.fetch_or(has_been_up, Ordering::SeqCst);
        let others = self.ready.fetch_add(1, Ordering::SeqCst);
        if others + 1 == plan.threads {
            let any = self.has_been_up.load(Ordering::SeqCst);
            let _ = self.start.set(any.then(|| Instant::now() + LEAD));
        }
    }

    fn show(&self, thread: u32, (up, verified): (u32, u64)) {
        let thread = thread as usize;
        if let (Some(place), Some(count)) = (self.up.get(thread), self.verified.get(thread)) {
            place.store(up, Ordering::Relaxed);
            count.store(verified, Ordering::Relaxed);
        }
    }

    fn glance(&self) -> Glance {
        let up = self.up.iter().map(|up| up.load(Ordering::Relaxed));
        let verified = self.verified.iter();
        Glance {
            start: self.start.get().copied().flatten(),
            up: up.sum(),
            verified: verified.map(|count| count.load(Ordering::Relaxed)).sum(),
        }
    }
}

/// What the threads have told so far.
struct Gathering {
    plan: Arc<Plan>,
    stoppers: Vec<Remote>,
    rows: Vec<Row>,
    summary: Option<Summary>,
    error: Option<anyhow::Error>,
}

/// The intervals of one thread that others have not told yet.
#[derive(Default)]
struct Row {
    intervals: VecDeque<Interval>,
    last: Interval,
    done: bool,
}

impl Gathering {
    fn new(plan: Arc<Plan>) -> Gathering {
        Gathering {
            rows: (0..plan.threads).map(|_| Row::default()).collect(),
            plan,
            stoppers: Vec::new(),
            summary: None,
            error: None,
        }
    }

    fn take(&mut self, told: Told, watch: &mut impl FnMut(News)) {
        match told {
            Told::Begun(stopper) => {
                if self.error.is_some() {
                    stop_at_once(&stopper);
                }
                self.stoppers.push(stopper);
            }
            Told::Interval(number, interval) => {
                self.row(number, |row| row.intervals.push_back(*interval));
            }
            Told::Done(number, done) => match *done {
                Ok((done, machine)) => {
                    self.row(number, |row| row.done = true);
                    match &mut self.summary {
                        Some(summary) => summary.add(done, machine),
                        None => self.summary = Some(Summary::new(&self.plan, done, machine)),
                    }
                }
                // The others would go on for nothing.
                Err(error) => {
                    self.stoppers.iter().for_each(stop_at_once);
                    self.error.get_or_insert(error);
                }
            },
        }
        while let Some(interval) = self.next_interval() {
            watch(News::Interval(&interval));
        }
    }

    fn row(&mut self, number: u32, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.rows.get_mut(number as usize) {
            change(row);
        }
    }

    /// The next interval that all threads have told. One that is done stays where it ended.
    fn next_interval(&mut self) -> Option<Interval> {
        let told = |row: &Row| row.done || !row.intervals.is_empty();
        let left = self.rows.iter().any(|row| !row.intervals.is_empty());
        if !left || !self.rows.iter().all(told) {
            return None;
        }
        let mut sum: Option<Interval> = None;
        for row in &mut self.rows {
            let interval = match row.intervals.pop_front() {
                Some(interval) => {
                    row.last = interval.ended();
                    interval
                }
                None => row.last.clone(),
            };
            match &mut sum {
                Some(sum) => sum.merge(&interval),
                None => sum = Some(interval),
            }
        }
        sum
    }

    fn finish(self) -> anyhow::Result<Summary> {
        match (self.error, self.summary) {
            (Some(error), _) => Err(error),
            (None, Some(summary)) if self.rows.iter().all(|row| row.done) => Ok(summary),
            _ => bail!("a thread of the run broke off"),
        }
    }
}

fn stop_at_once(stopper: &Remote) {
    stopper.stop();
    stopper.stop();
}
