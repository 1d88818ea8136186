//! The faults of a run and their probabilities: each run draws its own, so that some runs have no
//! fault at all, some only one kind, and some all kinds at once.

use std::net::SocketAddr;
use std::time::Duration;

use upcase::server::limits::Limits;

use crate::chance::Chance;
use crate::clients::{draw_greedy_habit, draw_habit, draw_honest_habit};
use crate::kernel::{Happening, State};

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1_000_000;

/// The faults of a run. Unless stated otherwise, a fault occurs once in so many times; 0: never.
#[derive(Clone, Debug)]
pub struct Faults {
    pub interrupts: u64,
    /// Calls on a connection that fail for lack of memory.
    pub calls: u64,
    pub registrations: u64,
    /// Clients that are lost in the accept queue.
    pub aborts: u64,
    /// Calls of accept(2) that break the listener.
    pub fatal: u64,
    /// Writes that are partial although there is room.
    pub squeezes: u64,
    /// Keep-alive probes that are lost, or whose answer is lost.
    pub lost_probes: u64,
    pub spurious: u64,
    pub stale: u64,
    pub split: u64,
    /// Turns whose timers are delivered a turn late.
    pub postponed: u64,
    /// Number of descriptors for clients.
    pub descriptors: usize,
    pub no_memory: bool,
    /// Maximum number of events of one poll.
    pub batch: u64,
    /// Whether the events of different sources are reported in random order.
    pub shuffle: bool,
    /// Whether clients and network also act within a turn, during the server's calls.
    pub interleave: bool,
    /// Nanoseconds for which clients may still connect to a listener that is about to close.
    pub grace: u64,
    /// Maximum length of the times with and without resources, in nanoseconds; 0: there are always
    /// enough.
    descriptors_change: u64,
    memory_changes: u64,
    /// Number of clients that are still to connect, the gaps between them, and the number of
    /// machines that they come from.
    clients: u64,
    arrivals: (u64, u64),
    machines: u64,
    honest: bool,
    /// The share of greedy clients: one in so many.
    greedy: u64,
}

impl Faults {
    pub const NONE: Faults = Faults {
        interrupts: 0,
        calls: 0,
        registrations: 0,
        aborts: 0,
        fatal: 0,
        squeezes: 0,
        lost_probes: 0,
        spurious: 0,
        stale: 0,
        split: 0,
        postponed: 0,
        descriptors: usize::MAX,
        no_memory: false,
        batch: 1024,
        shuffle: false,
        interleave: false,
        grace: 0,
        descriptors_change: 0,
        memory_changes: 0,
        clients: 0,
        arrivals: (1, 1),
        machines: 1,
        honest: false,
        greedy: 0,
    };

    pub fn draw(chance: &mut Chance) -> Faults {
        let none = chance.one_in(8);
        let mut rate = |rates: &[u64]| match none || !chance.one_in(3) {
            true => 0,
            false => chance.pick(rates),
        };
        Faults {
            interrupts: rate(&[2, 10, 100]),
            calls: rate(&[50, 1000]),
            registrations: rate(&[3, 20]),
            aborts: rate(&[2, 10]),
            fatal: rate(&[0, 0, 0, 0, 0, 0, 100]),
            squeezes: rate(&[2, 10, 100]),
            lost_probes: rate(&[1, 2, 3]),
            spurious: rate(&[1, 5, 50]),
            stale: rate(&[1, 5, 50]),
            split: rate(&[2, 10]),
            postponed: rate(&[2, 10]),
            descriptors_change: rate(&[MILLISECOND, 50 * MILLISECOND]),
            memory_changes: rate(&[MILLISECOND, 50 * MILLISECOND]),
            batch: chance.pick(&[1, 2, 8, 1024]),
            shuffle: chance.one_in(2),
            interleave: chance.one_in(2),
            grace: chance.pick(&[0, 0, MILLISECOND, 20 * MILLISECOND]),
            clients: chance.pick(&[1, 3, 10, 10, 40]),
            arrivals: chance.pick(&[
                (1, 1),
                (MICROSECOND, 50 * MICROSECOND),
                (MICROSECOND, MILLISECOND),
                (MILLISECOND, 20 * MILLISECOND),
            ]),
            machines: chance.pick(&[1, 3, 6]),
            honest: chance.one_in(4),
            greedy: chance.pick(&[0, 0, 0, 2, 10]),
            ..Faults::NONE
        }
    }

    /// Ends all faults and new connections. The manner in which epoll reports stays: it is no
    /// fault.
    pub fn end(&mut self) {
        *self = Faults {
            batch: self.batch,
            shuffle: self.shuffle,
            interleave: self.interleave,
            grace: self.grace,
            ..Faults::NONE
        };
    }

    /// Raises the number of clients so that a connection limit of this size is reached.
    pub fn crowd(&mut self, cap: usize) {
        if (20..1000).contains(&cap) {
            self.clients = cap as u64 + 20;
            self.greedy *= 10;
            self.arrivals = (1, 2 * MICROSECOND);
        }
    }
}

/// Draws limits so small that each of them is reached.
pub fn draw_limits(chance: &mut Chance) -> Limits {
    let ms = |chance: &mut Chance, choices: &[u64]| Duration::from_millis(chance.pick(choices));
    let maybe = |chance: &mut Chance, choices: &[u64]| {
        let time = ms(chance, choices);
        chance.one_in(2).then_some(time)
    };
    let read_bytes = chance.pick(&[1, 2, 7, 16, 64, 256]);
    let turn_bytes = read_bytes * chance.pick(&[1, 1, 2, 5]);
    // The server must round up a budget that is no whole number of reads.
    let turn_bytes = turn_bytes - chance.below(read_bytes as u64) as usize;
    let share = chance.pick(&[1, 2, 5]);
    Limits {
        max_connections: chance.pick(&[1, 2, 3, 5, 20, 20, usize::MAX, usize::MAX]),
        max_connections_per_ip: chance.one_in(3).then_some(share),
        idle_timeout: maybe(chance, &[20, 100, 500]),
        stall_timeout: maybe(chance, &[20, 100, 500]),
        min_rate: chance.pick(&[0, 100, 512, 5000]),
        keepalive: maybe(chance, &[20, 60, 300]),
        keepalive_pause_least: ms(chance, &[1, 1, 20]),
        probe_burst: chance.pick(&[(1, 1), (1, 4), (16, 16)]),
        probe_gap: ms(chance, &[1, 1, 3]),
        read_bytes,
        large_read_bytes: read_bytes * chance.pick(&[1, 2, 4]),
        large_read_clients: chance.pick(&[0, 1, 2, 4]),
        turn_bytes,
        group_clients: chance.pick(&[1, 2, 3, 16]),
        whole_turn_bytes: chance.pick(&[1, 100, 1000, u64::MAX, u64::MAX]),
        turn_accepts: chance.pick(&[1, 2, 5, 50]),
        accept_pause: (ms(chance, &[1, 10]), ms(chance, &[10, 50])),
        drain_look: ms(chance, &[1, 5, 30]),
        drain_silence: ms(chance, &[2, 10, 50]),
        linger: ms(chance, &[2, 20, 100]),
        drain_timeout: ms(chance, &[2, 20, 200, 500]),
    }
}

impl State {
    /// Schedules the first client and the changes of resources.
    pub fn begin(&mut self) {
        self.later(0, Happening::Connect);
        self.change_descriptors();
        self.change_memory();
    }

    /// Connects the next client, and schedules the one after it.
    pub fn connect_next(&mut self) {
        if self.faults.clients == 0 {
            return;
        }
        self.faults.clients -= 1;
        let listener = self.chance.below(self.listeners.len() as u64) as usize;
        let address = self.draw_address();
        let unit = self.limits.read_bytes as u64;
        let draw = if self.chance.one_in(self.faults.greedy) {
            draw_greedy_habit
        } else if self.faults.honest {
            draw_honest_habit
        } else {
            draw_habit
        };
        let habit = draw(&mut self.chance, unit);
        if let Some(number) = self.connect(listener, address, habit) {
            let gap = self.chance.between(habit.gap);
            self.act_in(number, gap);
        }
        let gap = self.chance.between(self.faults.arrivals);
        self.later(gap, Happening::Connect);
    }

    /// Draws an address of one of a few machines. A machine with IPv6 has several addresses.
    fn draw_address(&mut self) -> SocketAddr {
        let machine = self.chance.below(self.faults.machines);
        let text = match machine % 2 {
            0 => format!("10.0.0.{machine}"),
            _ => format!("2001:db8:0:{machine}::{:x}", self.chance.below(3)),
        };
        let port = 1024 + (self.ends.len() % 60_000) as u16;
        SocketAddr::new(text.parse().expect("an address"), port)
    }

    /// Draws another limit on descriptors, unless the faults have ended.
    pub fn change_descriptors(&mut self) {
        if self.faults.descriptors_change > 0 {
            self.faults.descriptors = self.chance.pick(&[0, 1, 2, 5, usize::MAX]);
            let gap = self.chance.between((1, self.faults.descriptors_change));
            self.later(gap, Happening::Descriptors);
        }
    }

    pub fn change_memory(&mut self) {
        if self.faults.memory_changes > 0 {
            self.faults.no_memory = !self.faults.no_memory;
            let gap = self.chance.between((1, self.faults.memory_changes));
            self.later(gap, Happening::Memory);
        }
    }
}
