//! Assigns the messages of a schedule to connections as they become due. Pure: time is an argument.
//!
//! A connection is *free* when it has fewer than `depth` messages in flight and the kernel has
//! accepted all of them in full. The messages wait in queues, each with its own connections:
//!
//! | pacing | queues | message k of the schedule belongs to |
//! |---|---|---|
//! | global | one per target | target k mod targets |
//! | first-free | one | the only queue |
//! | per-connection | one per connection | connection k mod connections, at a constant rate |
//!
//! A thread takes a share of each queue's messages in proportion to its share of the queue's
//! connections. The next message of a queue is assigned to the connection of that queue that has
//! been free the longest. A message that is due while no connection is free waits. It is late, is
//! never skipped, and delays only messages of its own queue.
//!
//! Waiting messages are not stored: they are the part of the schedule between the messages taken
//! and the current time. Each queue iterates over the schedule separately, so with Poisson arrivals
//! every gap is computed once per queue.
//!
//! Invariants:
//! - due by now = taken + waiting, computed from the schedule.
//! - the messages of a queue are taken in the order in which they are due.
//! - `ready` contains exactly once each queue that has a free connection and a next message.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use crate::load::plan::schedule::{Arrivals, Cursor, Part, ScheduleIter, Stride};
use crate::load::plan::{Pace, Pacing, Plan};
use crate::reactor::slots::Token;

/// The assignment of the messages of one thread to its connections.
#[derive(Debug)]
pub struct Pacer {
    start: Instant,
    taken: u64,
    queues: Vec<Queue>,
    /// Number of queues whose messages have not all been taken.
    open: usize,
    /// Queues with a free connection, by the due time of their next message.
    ready: BinaryHeap<Reverse<Ready>>,
}

/// A connection that can take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// The connection.
    pub token: Token,
    /// The index of its line among the lines of this thread.
    pub line: usize,
    /// The time from which it has been free.
    pub since: Instant,
}

/// A message that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// The connection that the message is sent on.
    pub token: Token,
    /// The time at which the message was due.
    pub due: Instant,
    /// The time from which the connection has been free.
    pub free_since: Instant,
    /// The index of its queue in this thread.
    pub queue: usize,
}

/// A sequence of messages, and the connections that they may be assigned to.
#[derive(Debug)]
struct Queue {
    series: ScheduleIter,
    next: Cursor,
    /// The first message that was not due when waiting messages were last counted, and the number
    /// of messages from `next` to it.
    ahead: Cursor,
    waiting: u64,
    /// The free connections, the one that has been free the longest first.
    free: VecDeque<Free>,
    /// The last period in which a message could be sent, and was not.
    behind: (Instant, Instant),
}

impl Queue {
    fn new(series: ScheduleIter, start: Instant) -> Queue {
        let next = series.start();
        Queue {
            series,
            next,
            ahead: next,
            waiting: 0,
            free: VecDeque::with_capacity(1), // Per-connection pacing never needs more.
            behind: (start, start),
        }
    }

    fn due(&self) -> Option<Duration> {
        self.series.due(self.next)
    }

    fn advance(&mut self) {
        self.series.advance(&mut self.next);
        match self.waiting.checked_sub(1) {
            Some(left) => self.waiting = left,
            None => self.ahead = self.next,
        }
    }

    fn waiting(&mut self, elapsed: Duration) -> u64 {
        if let Some(waiting) = self.series.count(self.next, elapsed) {
            return waiting;
        }
        while self
            .series
            .due(self.ahead)
            .is_some_and(|due| due <= elapsed)
        {
            self.series.advance(&mut self.ahead);
            self.waiting += 1;
        }
        self.waiting
    }

    /// Returns when the next message is due, if a connection is free for it.
    fn ready(&self) -> Option<Duration> {
        self.due().filter(|_| !self.free.is_empty())
    }

    /// See [`Pacer::sendable`].
    fn sendable(&mut self, due: Instant, free_since: Instant, now: Instant) -> Instant {
        let sendable = due.max(free_since);
        let (from, to) = self.behind;
        if sendable <= to {
            self.behind = (from.min(sendable), now);
        } else if due >= to || now - sendable > to - from {
            self.behind = (sendable, now);
        }
        let own = to.min(sendable).saturating_duration_since(from.max(due));
        sendable - own
    }
}

/// A queue whose next message has a free connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    /// The time at which that message is due, after the start.
    due: Duration,
    queue: usize,
}

impl Pacer {
    /// Creates the pacer of one thread's part of the schedule, which begins at `start`. Returns
    /// `None` for a closed loop, which has no schedule.
    pub fn new(plan: &Plan, part: Part, start: Instant) -> Option<Pacer> {
        let Pace::Open {
            arrivals, pacing, ..
        } = plan.pace
        else {
            return None;
        };
        let rate = plan.rate_over_time()?;
        let (end, of, queues) = (plan.schedule_end(), plan.connections, plan.queues(pacing));
        let series = |place| match (pacing, arrivals) {
            (Pacing::PerConnection, Arrivals::Poisson) => {
                let index = part.member(place);
                ScheduleIter::line(rate.clone(), arrivals, plan.seed, end, Part { index, of })
            }
            _ => {
                let turns = Stride::of_queue(part, of, queues, place);
                ScheduleIter::new(rate.clone(), arrivals, plan.seed, end, turns)
            }
        };
        let places = 0..Stride::queues_of(part, of, queues);
        let mut pacer = Pacer {
            start,
            taken: 0,
            queues: places
                .map(|place| Queue::new(series(place), start))
                .collect(),
            open: 0,
            ready: BinaryHeap::new(),
        };
        pacer.recount();
        Some(pacer)
    }

    /// Adds a connection that can take a message.
    pub fn free(&mut self, connection: Free) {
        let place = match self.queues.len() {
            0 | 1 => 0, // Saves the division.
            queues => connection.line % queues,
        };
        let Some(queue) = self.queues.get_mut(place) else {
            return;
        };
        queue.free.push_back(connection);
        if queue.free.len() == 1
            && let Some(due) = queue.due()
        {
            self.ready.push(Reverse(Ready { due, queue: place }));
        }
    }

    /// Returns when the next message is due that has a free connection; `None` while there is no
    /// such message.
    pub fn next_due(&self) -> Option<Instant> {
        let Reverse(Ready { due, .. }) = self.ready.peek()?;
        Some(self.start + *due)
    }

    /// Takes the next message that is due and has a free connection. `lives` returns whether a
    /// connection is still up; a free connection that has broken is dropped.
    pub fn take(&mut self, now: Instant, lives: impl Fn(Token) -> bool) -> Option<Dispatch> {
        loop {
            let mut top = self.ready.peek_mut()?;
            let Reverse(Ready { due, queue: place }) = *top;
            let due = self.start + due;
            if due > now {
                return None;
            }
            let queue = self.queues.get_mut(place)?;
            let free = queue.free.pop_front()?;
            let takes = lives(free.token);
            if takes {
                queue.advance();
                self.taken += 1;
                self.open -= usize::from(queue.due().is_none());
            }
            match queue.ready() {
                Some(due) => top.0.due = due,
                None => drop(PeekMut::pop(top)),
            }
            if takes {
                return Some(Dispatch {
                    token: free.token,
                    due,
                    free_since: free.since,
                    queue: place,
                });
            }
        }
    }

    /// Returns the time from which a message that is sent at `now` could have been sent.
    ///
    /// While a message waits that could be sent, the run is behind. Messages of the same queue that
    /// become due during that time find no free connection, because the late message occupies it
    /// only now. The time for which they wait because the run is behind is attributed to the run as
    /// well, and not to the server.
    pub fn sendable(&mut self, dispatch: &Dispatch, now: Instant) -> Instant {
        let (due, free_since) = (dispatch.due, dispatch.free_since);
        match self.queues.get_mut(dispatch.queue) {
            Some(queue) => queue.sendable(due, free_since, now),
            None => due.max(free_since),
        }
    }

    /// Returns the number of messages that were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the number of messages that are due by now and were not taken.
    pub fn waiting(&mut self, now: Instant) -> u64 {
        let elapsed = now.checked_duration_since(self.start);
        let Some(elapsed) = elapsed else { return 0 };
        let queues = self.queues.iter_mut();
        queues.map(|queue| queue.waiting(elapsed)).sum()
    }

    /// Returns when the oldest message that was not taken is due; `None` when the schedule has
    /// ended.
    pub fn oldest(&self) -> Option<Instant> {
        let due = self.queues.iter().filter_map(Queue::due).min();
        due.map(|due| self.start + due)
    }

    /// Takes the messages that were due before `deadline` and were not assigned to a connection.
    /// Calls `show` for each with the index of its queue, which is the index of the queue's first
    /// line in this thread; the time at which the message was due; and the time from which a
    /// connection has been free for it, if one is free.
    pub fn give_up(
        &mut self,
        deadline: Instant,
        lives: impl Fn(Token) -> bool,
        mut show: impl FnMut(usize, Instant, Option<Instant>),
    ) {
        for (place, queue) in self.queues.iter_mut().enumerate() {
            let free = queue.free.iter().find(|free| lives(free.token));
            let free = free.map(|free| free.since);
            while let Some(due) = queue.due()
                && self.start + due < deadline
            {
                queue.advance();
                self.taken += 1;
                show(place, self.start + due, free);
            }
        }
        self.recount();
    }

    /// Ends the schedule at `now`: messages that are due later are dropped.
    pub fn cut(&mut self, now: Instant) {
        // A message that is due exactly at `now` is kept.
        let end = now.saturating_duration_since(self.start) + Duration::from_nanos(1);
        self.queues
            .iter_mut()
            .for_each(|queue| queue.series.cut(end));
        self.recount();
    }

    /// Returns whether every message of the schedule was taken.
    pub fn is_exhausted(&self) -> bool {
        self.open == 0
    }

    /// Computes `open` and `ready` anew, after the next messages of queues have changed.
    fn recount(&mut self) {
        let queues = self.queues.iter();
        self.open = queues.filter(|queue| queue.due().is_some()).count();
        let queues = self.queues.iter().enumerate();
        let ready = queues.filter_map(|(queue, messages)| {
            let due = messages.ready()?;
            Some(Reverse(Ready { due, queue }))
        });
        self.ready.clear();
        self.ready.extend(ready);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::load::plan::Stop;
    use crate::load::plan::schedule::Rate;

    /// Returns the plan of an open loop with this number of targets and connections.
    fn plan(pacing: Pacing, arrivals: Arrivals, targets: u32, connections: u32) -> Plan {
        let address = |port: u32| format!("10.77.0.1:{}", 12_000 + port).parse().unwrap();
        let rate = Rate::parse("1000").unwrap();
        Plan {
            targets: (0..targets).map(address).collect(),
            connections,
            pace: Pace::Open {
                rate,
                arrivals,
                pacing,
            },
            ..Plan::new(address(0), Stop::Messages(200))
        }
    }

    /// Returns when the messages of each queue are due, computed without the pacer.
    fn dues(plan: &Plan, start: Instant) -> Vec<Vec<Instant>> {
        let Pace::Open {
            rate,
            arrivals,
            pacing,
        } = plan.pace
        else {
            panic!("no schedule");
        };
        let (end, of) = (plan.schedule_end(), plan.queues(pacing));
        let is_apart = pacing == Pacing::PerConnection && arrivals == Arrivals::Poisson;
        let whole = all(&ScheduleIter::new(
            rate,
            arrivals,
            plan.seed,
            end,
            Part::WHOLE,
        ));
        let of_queue = |index: u32| match is_apart {
            true => {
                let line = Part { index, of };
                all(&ScheduleIter::line(rate, arrivals, plan.seed, end, line))
            }
            false => {
                let messages = whole.iter().skip(index as usize);
                messages.step_by(of as usize).copied().collect()
            }
        };
        let queues = (0..of).map(of_queue);
        let after_start = |dues: Vec<Duration>| dues.iter().map(|due| start + *due).collect();
        queues.map(after_start).collect()
    }

    fn all(series: &ScheduleIter) -> Vec<Duration> {
        let mut cursor = series.start();
        let mut dues = Vec::new();
        while let Some(due) = series.due(cursor) {
            dues.push(due);
            series.advance(&mut cursor);
        }
        dues
    }

    /// A message that was sent or given up: the line of its connection, and the time at which it
    /// was due.
    type Dealt = (u32, Instant);

    /// Simulates one thread that sends its messages to connections. `busy` returns how long a line
    /// is busy after each message; `None`: for ever. Returns the messages that were sent, and those
    /// that were given up at the end.
    fn deal(
        plan: &Plan,
        part: Part,
        start: Instant,
        busy: impl Fn(u32) -> Option<Duration>,
    ) -> (Vec<Dealt>, Vec<Dealt>) {
        let mut pacer = Pacer::new(plan, part, start).unwrap();
        let queues = pacer.queues.len();
        let lines = part.share(plan.connections.into()) as usize;
        // The time from which each connection is free; `None`: never again.
        let mut free: Vec<Option<Instant>> = vec![Some(start); lines];
        let mut reported = vec![false; lines];
        let (mut sent, mut given_up) = (Vec::new(), Vec::new());
        let mut now = start;
        loop {
            // Connections that have become free since the last round, in that order.
            let mut vacant: Vec<(Instant, usize)> = (0..lines)
                .filter_map(|line| Some((free[line]?, line)))
                .filter(|(since, line)| *since <= now && !reported[*line])
                .collect();
            vacant.sort();
            for (since, line) in vacant {
                reported[line] = true;
                let token = Token::fixed(line as u32);
                pacer.free(Free { token, line, since });
            }
            while let Some(dispatch) = pacer.take(now, |_| true) {
                let line = dispatch.token.index();
                // A message is sent as soon as it is due and has a free connection, independently
                // of other queues, and on the connection that has been free the longest.
                assert_eq!(now, dispatch.due.max(dispatch.free_since));
                let of_queue = |other: &usize| other % queues == line % queues && reported[*other];
                let longest = (0..lines).filter(of_queue).filter_map(|other| free[other]);
                assert_eq!(longest.min(), free[line]);
                reported[line] = false;
                let line_of_all = part.member(line as u32);
                free[line] = busy(line_of_all).map(|time| now + time);
                sent.push((line_of_all, dispatch.due));
            }
            let untold = (0..lines).filter(|line| !reported[*line]);
            let next_free = untold.filter_map(|line| free[line]).min();
            let Some(next) = pacer.next_due().into_iter().chain(next_free).min() else {
                break;
            };
            if pacer.is_exhausted() {
                break;
            }
            now = next;
        }
        let left = pacer.waiting(now + END);
        pacer.give_up(
            now + END,
            |_| true,
            |queue, due, _| {
                given_up.push((part.member(queue as u32), due));
            },
        );
        assert!(pacer.is_exhausted());
        assert_eq!(left, given_up.len() as u64);
        assert_eq!(pacer.taken(), sent.len() as u64 + left);
        (sent, given_up)
    }

    /// A time after the end of every schedule in these tests.
    const END: Duration = Duration::from_secs(1000);

    proptest! {
        #[test]
        fn every_message_goes_to_its_queue_in_order_and_waits_for_it_alone(
            pacing in 0usize..3, poisson: bool, targets in 1u32..5, more in 0u32..12,
            threads in 1u32..5, seed: u64,
            busy in prop::collection::vec(prop::option::weighted(0.8, 0u64..30_000), 4),
        ) {
            let pacing = [Pacing::Global, Pacing::FirstFree, Pacing::PerConnection][pacing];
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let connections = targets.max(threads) + more;
            let plan = Plan { threads, seed, ..plan(pacing, arrivals, targets, connections) };
            let (start, queues) = (Instant::now(), plan.queues(pacing));
            let busy_of = |line| Some(Duration::from_micros(busy[plan.target_of(line)]?));
            let mut of_queues = vec![Vec::new(); queues as usize];
            for thread in 0..threads {
                let (sent, given_up) = deal(&plan, plan.part(thread), start, busy_of);
                for (queue, messages) in of_queues.iter_mut().enumerate() {
                    let is_of_it = |(line, _): &&Dealt| (line % queues) as usize == queue;
                    let dealt = sent.iter().chain(&given_up).filter(is_of_it);
                    let dealt: Vec<Instant> = dealt.map(|(_, due)| *due).collect();
                    prop_assert!(dealt.is_sorted(), "in the order in which they are due");
                    messages.extend(dealt);
                }
                // A target that answers gets all of its messages, independently of other targets.
                let answers = |(line, _): &Dealt| busy_of(*line).is_some();
                prop_assert!(pacing == Pacing::FirstFree || !given_up.iter().any(answers));
            }
            of_queues.iter_mut().for_each(|messages| messages.sort());
            prop_assert_eq!(&of_queues, &dues(&plan, start));
            if pacing == Pacing::Global {
                let counts = of_queues.iter().map(Vec::len);
                let (least, most) = (counts.clone().min(), counts.max());
                prop_assert!(most.unwrap() - least.unwrap() <= 1, "an equal share to each");
            }
        }
    }

    #[test]
    fn the_run_is_not_behind_for_one_target_because_it_is_for_another() {
        let start = Instant::now();
        let plan = plan(Pacing::Global, Arrivals::Constant, 2, 2);
        let at = |microseconds| start + Duration::from_micros(microseconds);
        let mut pacer = Pacer::new(&plan, Part::WHOLE, start).unwrap();
        let mut send = |line: usize, since: Instant, now: Instant| {
            let token = Token::fixed(line as u32);
            pacer.free(Free { token, line, since });
            let dispatch = pacer.take(now, |_| true).unwrap();
            assert_eq!(dispatch.token, token);
            pacer.sendable(&dispatch, now)
        };
        // The run sends the first message 5 ms late, and the third one was due in that time.
        assert_eq!(send(0, at(0), at(5000)), at(0));
        assert_eq!(send(0, at(5500), at(5500)), at(2500));
        // The second one was due in that time as well, but waited for its own target.
        assert_eq!(send(1, at(5600), at(5600)), at(5600));
    }
}
