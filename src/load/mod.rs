//! Carries out a load run: starts threads with an engine and a reactor each, and adds up their
//! results.
//!
//! While messages are due the threads share only a few counters, which the progress display reads.
//! Each thread sends its intervals and its result to the thread that started it. That thread merges
//! them and passes them to the caller, so the threads that send messages never write any output.
//!
//! ```text
//!   main      reactors, signals ─► start threads ─► merge what they send ──────────► summary
//!   threads        └─► connect ─► ready ┄┄ the last one sets the start ┄┄► messages ─► done
//! ```
//!
//! All reactors are created first, then the signal handling, then the threads, so a request to stop
//! reaches every thread however early it arrives. A thread that ends for any reason counts as
//! ready, so that the others do not wait for it. The last thread to become ready wakes the others;
//! there is no polling.

pub mod engine;
pub mod judge;
pub mod latency;
pub mod own_server;
pub mod plan;
pub mod preflight;
pub mod probe;
pub mod results;

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use crate::load::engine::kernel::Kernel;
use crate::load::engine::world::World;
use crate::load::engine::{Engine, Stage, ThreadResult};
use crate::load::plan::{Plan, START_DELAY};
use crate::load::probe::Prober;
use crate::load::results::evidence::Probe;
use crate::load::results::recorder::Interval;
use crate::load::results::summary::Summary;
use crate::reactor::Event;
use crate::reactor::signals::{Relay, Remote};
use crate::sys::cpu_sample::CpuSample;
use crate::sys::cpu_sample::CpuUsage;
use crate::sys::socket;

/// The interval at which [`run`] reports the progress: short enough for a display, too long to cost
/// measurable CPU time.
const TICK: Duration = Duration::from_millis(200);

/// A report of a run in progress.
#[derive(Debug)]
pub enum RunProgress<'a> {
    /// All connections are up; messages are due from this moment on. Once, before any interval.
    Started(Instant),
    /// The progress of the run, several times a second.
    Snapshot(ProgressSnapshot),
    /// An interval is over.
    Interval(&'a Interval),
}

/// A snapshot of a run in progress.
#[derive(Clone, Copy, Debug)]
pub struct ProgressSnapshot {
    /// The time from which messages are due; `None` while connections are being opened.
    pub start: Option<Instant>,
    /// Connections that are up; once the run closes them, those that are not closed yet.
    pub up: u32,
    /// Messages verified so far.
    pub verified: u64,
}

/// The state that the threads share.
#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// The time of the last FIN or end of a connection of any thread while connections are closed,
    /// in nanoseconds since `begun`.
    last_close: AtomicU64,
    /// One flag per thread: whether the thread counts as ready.
    is_ready: Vec<AtomicBool>,
    ready: AtomicU32,
    has_been_up: AtomicBool,
    /// Set once all threads are ready: the time from which messages are due; `None` when no thread
    /// has a connection.
    start: OnceLock<Option<Instant>>,
    /// Whether a thread has ended its sending.
    has_sent: AtomicBool,
    /// One handle per thread, which wakes the thread.
    remotes: Arc<[Remote]>,
    /// Connections that are up, one counter per thread, written only by that thread.
    up: Vec<AtomicU32>,
    verified: Vec<AtomicU64>,
}

/// A message from a thread of the run to the thread that started it.
#[derive(Debug)]
enum ThreadReport {
    Interval(u32, Box<Interval>),
    Done(u32, Box<anyhow::Result<(ThreadResult, CpuUsage)>>),
}

/// Carries out a plan, and calls `watch` with reports of its progress. SIGINT, SIGTERM and SIGHUP
/// end the run early. Fails when the event loop or the signal handling cannot be set up, when a
/// thread cannot be started or panics, when no connection could be opened, or when the poll fails.
pub fn run(plan: Plan, mut watch: impl FnMut(RunProgress)) -> anyhow::Result<Summary> {
    let plan = Arc::new(plan);
    let world = |_| Kernel::new(plan.options);
    let worlds: Vec<Kernel> = (0..plan.threads)
        .map(world)
        .collect::<io::Result<_>>()
        .context("cannot set up the event loop")?;
    let remotes = worlds.iter().map(|world| world.reactor.remote());
    let remotes: Arc<[Remote]> = remotes.collect::<io::Result<_>>()?;
    let _relay = Relay::start(Arc::clone(&remotes)).context("cannot set up signal handling")?;
    let shared = Arc::new(Shared::new(Arc::clone(&remotes)));
    let stages = plan.profile.as_ref();
    let stages = stages.map_or(1, |profile| profile.stages().len());
    let (sending, of_plan) = (Arc::clone(&shared), Arc::clone(&plan));
    let due_in = move |now| sending.stage_at(now, &of_plan);
    let prober = Prober::start(&plan.targets, &plan.sources, stages, due_in);
    let mut merger = Merger::new(Arc::clone(&plan), remotes);
    let (sender, reports) = mpsc::channel();
    for (world, number) in worlds.into_iter().zip(0..) {
        let (plan, shared, sender) = (Arc::clone(&plan), Arc::clone(&shared), sender.clone());
        if let Err(error) = start(world, plan, number, Arc::clone(&shared), sender) {
            let error = anyhow::Error::new(error).context("cannot start a load thread");
            merger.take(ThreadReport::Done(number, Box::new(Err(error))), &mut watch);
            shared.ready(number, false);
        }
    }
    drop(sender);

    let mut next_snapshot = Instant::now() + TICK;
    let mut is_announced = false;
    loop {
        let report = reports.recv_timeout(next_snapshot.saturating_duration_since(Instant::now()));
        if !is_announced && let Some(start) = shared.start.get().copied().flatten() {
            is_announced = true;
            watch(RunProgress::Started(start));
        }
        match report {
            Ok(report) => merger.take(report, &mut watch),
            Err(RecvTimeoutError::Timeout) => {
                next_snapshot = Instant::now() + TICK;
                watch(RunProgress::Snapshot(shared.snapshot()));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return merger.finish(prober.and_then(Prober::finish));
            }
        }
    }
}

/// Starts a thread of the run. When it ends, for any reason, it counts as ready and sends its
/// result.
fn start(
    world: Kernel,
    plan: Arc<Plan>,
    number: u32,
    shared: Arc<Shared>,
    reports: Sender<ThreadReport>,
) -> io::Result<()> {
    let part = move || {
        let part = || carry_out(world, &plan, number, &shared, &reports);
        let done = panic::catch_unwind(AssertUnwindSafe(part));
        let done =
            done.unwrap_or_else(|_| Err(anyhow!("load thread {number} panicked, see above")));
        shared.ready(number, false);
        let _ = reports.send(ThreadReport::Done(number, Box::new(done)));
    };
    thread::Builder::new()
        .name(format!("load {number}"))
        .spawn(part)?;
    Ok(())
}

/// Carries out the part of one thread.
fn carry_out(
    mut world: Kernel,
    plan: &Arc<Plan>,
    number: u32,
    shared: &Shared,
    reports: &Sender<ThreadReport>,
) -> anyhow::Result<(ThreadResult, CpuUsage)> {
    let mut engine = Engine::new(Arc::clone(plan), number, &mut world);
    let (mut sample, mut machine) = (None, CpuUsage::default());
    let mut of_stages = UsageOfStages::default();
    while engine.stage() != Stage::Done {
        let before = engine.stage();
        world.reactor.turn(engine.wait(world.now()))?;
        engine.begin_turn(&mut world);
        while let Some(event) = world.reactor.next_event() {
            match event {
                Event::Io(token, hints) => engine.on_io(&mut world, token, hints),
                Event::Timer(timer) => engine.on_timer(&mut world, timer),
                Event::Stop => engine.on_stop(&mut world),
                // `Shared::ready` requests a report to wake the threads once all are ready.
                Event::Drain | Event::Report | Event::Inquiry | Event::Hangup => {}
            }
        }
        if engine.stage() == Stage::Closing {
            engine.note_close(shared.last_close(engine.last_close()));
        }
        engine.end_turn(&mut world);
        if engine.stage() >= Stage::Closing {
            shared.last_close(engine.last_close()); // Other threads need the last one as well.
        }
        if engine.stage() == Stage::Ready {
            let unreachable = engine.unreachable();
            if before != Stage::Ready {
                shared.ready(number, unreachable.is_none());
            }
            match (shared.start.get(), unreachable) {
                (None, _) => {} // The thread is woken when `start` is set.
                (Some(None), Some(why)) => bail!("{why}"),
                (Some(None), None) => bail!("no connection could be established"),
                (Some(Some(start)), _) => {
                    engine.start(&mut world, *start);
                    sample = Some(CpuSample::read());
                    of_stages.begun = sample.filter(|_| plan.profile.is_some());
                }
            }
        }
        if engine.stage() > Stage::Running
            && let Some(sample) = sample.take()
        {
            machine = sample.since();
            of_stages.end_before(usize::MAX);
            shared.has_sent.store(true, Ordering::Relaxed);
        }
        if let Some(stage) = engine.profile_stage() {
            of_stages.end_before(stage);
        }
        while let Some(interval) = engine.take_interval() {
            let _ = reports.send(ThreadReport::Interval(number, Box::new(interval)));
        }
        shared.show(number, engine.progress());
    }
    let mut done = engine.finish();
    for (stage, usage) in done.stages.iter_mut().zip(of_stages.ended) {
        stage.evidence.machine = usage;
    }
    Ok((done, machine))
}

/// The CPU time of a thread in each stage of a rate profile.
#[derive(Default)]
struct UsageOfStages {
    /// The sample at the beginning of the current stage; `None` without a profile.
    begun: Option<CpuSample>,
    ended: Vec<CpuUsage>,
}

impl UsageOfStages {
    /// Ends the stages before the one with this index, if that was not done yet.
    fn end_before(&mut self, stage: usize) {
        if self.ended.len() >= stage {
            return;
        }
        let Some(begun) = self.begun.take() else {
            return;
        };
        self.ended.push(begun.since());
        if stage < usize::MAX {
            // A thread that was not running may have missed whole stages.
            self.ended.resize(stage, CpuUsage::default());
            self.begun = Some(CpuSample::read());
        }
    }
}

impl Shared {
    fn new(remotes: Arc<[Remote]>) -> Shared {
        Shared {
            is_ready: remotes.iter().map(|_| AtomicBool::new(false)).collect(),
            begun: Instant::now(),
            last_close: AtomicU64::new(0),
            ready: AtomicU32::new(0),
            has_been_up: AtomicBool::new(false),
            start: OnceLock::new(),
            has_sent: AtomicBool::new(false),
            up: remotes.iter().map(|_| AtomicU32::new(0)).collect(),
            verified: remotes.iter().map(|_| AtomicU64::new(0)).collect(),
            remotes,
        }
    }

    /// Records that a thread is ready, or has ended. The last thread sets the start, if any thread
    /// has had a connection, and wakes all threads.
    fn ready(&self, number: u32, has_been_up: bool) {
        let flag = self.is_ready.get(number as usize);
        if flag.is_none_or(|flag| flag.swap(true, Ordering::SeqCst)) {
            return;
        }
        self.has_been_up.fetch_or(has_been_up, Ordering::SeqCst);
        let others = self.ready.fetch_add(1, Ordering::SeqCst) as usize;
        if others + 1 == self.remotes.len() {
            let any = self.has_been_up.load(Ordering::SeqCst);
            let _ = self.start.set(any.then(|| Instant::now() + START_DELAY));
            self.remotes.iter().for_each(Remote::report);
        }
    }

    /// Returns the index of the stage in which messages are due that are part of the result; 0
    /// without a profile. `None`: no such messages are due.
    fn stage_at(&self, now: Instant, plan: &Plan) -> Option<usize> {
        let start = self.start.get().copied().flatten()?;
        let is_due = now >= start + plan.warmup && !self.has_sent.load(Ordering::Relaxed);
        let profile = plan.profile.as_ref();
        is_due.then(|| profile.map_or(0, |profile| profile.stage_at(now - start)))
    }

    /// Records when this thread last closed a connection. Returns when any thread last did.
    fn last_close(&self, own: Instant) -> Instant {
        let own = own.saturating_duration_since(self.begun).as_nanos();
        let own = u64::try_from(own).unwrap_or(u64::MAX);
        let before = self.last_close.fetch_max(own, Ordering::Relaxed);
        self.begun + Duration::from_nanos(before.max(own))
    }

    fn show(&self, thread: u32, (up, verified): (u32, u64)) {
        let thread = thread as usize;
        if let (Some(place), Some(count)) = (self.up.get(thread), self.verified.get(thread)) {
            place.store(up, Ordering::Relaxed);
            count.store(verified, Ordering::Relaxed);
        }
    }

    fn snapshot(&self) -> ProgressSnapshot {
        let up = self.up.iter().map(|up| up.load(Ordering::Relaxed));
        let verified = self.verified.iter();
        ProgressSnapshot {
            start: self.start.get().copied().flatten(),
            up: up.sum(),
            verified: verified.map(|count| count.load(Ordering::Relaxed)).sum(),
        }
    }
}

/// Merges the intervals and results of the threads.
struct Merger {
    plan: Arc<Plan>,
    remotes: Arc<[Remote]>,
    pending: Vec<ThreadIntervals>,
    summary: Option<Summary>,
    error: Option<anyhow::Error>,
}

/// The intervals of one thread that are not merged yet, since other threads have not sent theirs.
#[derive(Default)]
struct ThreadIntervals {
    intervals: VecDeque<Interval>,
    last: Interval,
    done: bool,
}

impl Merger {
    fn new(plan: Arc<Plan>, remotes: Arc<[Remote]>) -> Merger {
        Merger {
            pending: (0..plan.threads)
                .map(|_| ThreadIntervals::default())
                .collect(),
            plan,
            remotes,
            summary: None,
            error: None,
        }
    }

    fn take(&mut self, reports: ThreadReport, watch: &mut impl FnMut(RunProgress)) {
        match reports {
            ThreadReport::Interval(number, interval) => {
                self.thread(number, |thread| thread.intervals.push_back(*interval));
            }
            ThreadReport::Done(number, done) => match *done {
                Ok((done, machine)) => {
                    self.thread(number, |thread| thread.done = true);
                    match &mut self.summary {
                        Some(summary) => summary.add(done, machine),
                        None => self.summary = Some(self.first(done, machine)),
                    }
                }
                // The run has failed, so the other threads stop as well.
                Err(error) => {
                    self.remotes.iter().for_each(stop_at_once);
                    self.error.get_or_insert(error);
                }
            },
        }
        while let Some(interval) = self.next_interval() {
            watch(RunProgress::Interval(&interval));
        }
    }

    fn first(&self, done: ThreadResult, machine: CpuUsage) -> Summary {
        let mut targets = self.plan.targets.iter();
        Summary {
            is_local: targets.all(|target| socket::is_local(*target)),
            ..Summary::new(&self.plan, done, machine)
        }
    }

    fn thread(&mut self, number: u32, change: impl FnOnce(&mut ThreadIntervals)) {
        if let Some(thread) = self.pending.get_mut(number as usize) {
            change(thread);
        }
    }

    /// Returns the next interval that all threads have sent, merged. For a thread that has ended,
    /// its last interval is used.
    fn next_interval(&mut self) -> Option<Interval> {
        let reports = |thread: &ThreadIntervals| thread.done || !thread.intervals.is_empty();
        let left = self
            .pending
            .iter()
            .any(|thread| !thread.intervals.is_empty());
        if !left || !self.pending.iter().all(reports) {
            return None;
        }
        let mut sum: Option<Interval> = None;
        for thread in &mut self.pending {
            let interval = match thread.intervals.pop_front() {
                Some(interval) => {
                    thread.last = interval.ended();
                    interval
                }
                None => thread.last.clone(),
            };
            match &mut sum {
                Some(sum) => sum.merge(&interval),
                None => sum = Some(interval),
            }
        }
        sum
    }

    /// Returns the result of the run. `probes`: those of each stage.
    fn finish(self, probes: Option<Vec<Probe>>) -> anyhow::Result<Summary> {
        match (self.error, self.summary) {
            (Some(error), _) => Err(error),
            (None, Some(mut summary)) if self.pending.iter().all(|thread| thread.done) => {
                let probes = probes.unwrap_or_default();
                summary.evidence.probe = probes.iter().cloned().reduce(|mut all, of_stage| {
                    all.merge(&of_stage);
                    all
                });
                for (stage, probe) in summary.stages.iter_mut().zip(probes) {
                    stage.evidence.probe = Some(probe);
                }
                Ok(summary)
            }
            _ => bail!("a load thread ended without a result"),
        }
    }
}

fn stop_at_once(stopper: &Remote) {
    stopper.stop();
    stopper.stop();
}
