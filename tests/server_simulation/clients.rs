//! Simulates the clients of the server: their behaviour, and their actions when they are due.

use nix::libc;

use crate::chance::Chance;
use crate::kernel::{End, Happening, State};

/// The behaviour of a client. Times are in nanoseconds, amounts in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// Number of bytes that it sends in all; minimum and maximum of a piece, and of the gap after
    /// it.
    pub total: u64,
    pub piece: (u64, u64),
    pub gap: (u64, u64),
    /// Maximum number of unanswered bytes; with 1 the client waits for the reply to each byte.
    pub ahead: u64,
    /// Minimum and maximum of the bytes that it reads at a time, and of the gap after it; with a
    /// maximum of 0 bytes the client never reads.
    pub take: (u64, u64),
    pub take_gap: (u64, u64),
    /// Receive window: the number of bytes that its kernel acknowledges before the client reads
    /// them.
    pub window: u64,
    /// Number of pieces of which one, on average, is followed by an urgent byte; 0: none.
    pub urgent: u64,
    pub ending: Ending,
    pub farewell: ReactionToFin,
    /// Sizes of the server's buffers for this connection.
    pub send_buffer: u64,
    pub receive_buffer: u64,
}

/// The action of a client that has sent everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Sends FIN at once, and then reads.
    HalfClose,
    /// Reads all replies, and then sends FIN.
    CloseAnswered,
    /// Closes the socket; a reset answers any data that still arrives.
    CloseUnread,
    Reset,
    /// Vanishes: its machine no longer answers.
    Vanish,
    Silence,
}

/// The action of a client that gets FIN before it has sent its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReactionToFin {
    Close,
    /// Continues as if nothing had happened.
    GoOn,
    /// Sends this number of further pieces, and then FIN.
    SendMore(u8),
    Reset,
    Nothing,
}

impl Habit {
    /// The behaviour of a client that acts only when the test makes it act.
    pub const BY_HAND: Habit = Habit {
        total: 0,
        piece: (1, 1),
        gap: (1, 1),
        ahead: u64::MAX,
        take: (0, 0),
        take_gap: (1, 1),
        window: 0,
        urgent: 0,
        ending: Ending::Silence,
        farewell: ReactionToFin::Nothing,
        send_buffer: 1 << 20,
        receive_buffer: 1 << 20,
    };
}

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1_000_000;
const ALL: u64 = 1 << 30;

/// Draws a client of any kind; `unit` is the number of bytes of one read of the server.
pub fn draw_habit(chance: &mut Chance, unit: u64) -> Habit {
    let total = chance.pick(&[
        0,
        1,
        3,
        unit,
        2 * unit + 1,
        20 * unit,
        20 * unit,
        150 * unit,
    ]);
    let piece_max = chance.pick(&[1, 3, unit, unit + 1, 3 * unit, 20 * unit]);
    let gap_max = chance.pick(&[2, 20, 20, 500, 10_000]) * MICROSECOND;
    let take_max = chance.pick(&[0, 1, unit, 5 * unit, ALL, ALL, ALL]);
    let take_gap = chance.pick(&[1, 1, 50, 3000, 30_000]) * MICROSECOND;
    let buffers = [1, 7, unit, 4 * unit, 40 * unit, 1 << 20];
    Habit {
        total,
        piece: (1, piece_max),
        gap: (MICROSECOND, gap_max),
        ahead: chance.pick(&[1, 1, unit, 10 * unit, u64::MAX, u64::MAX]),
        take: (take_max.min(1), take_max),
        take_gap: (take_gap, 2 * take_gap),
        window: chance.pick(&buffers),
        urgent: chance.pick(&[0, 0, 0, 2, 10]),
        ending: chance.pick(&[
            Ending::HalfClose,
            Ending::HalfClose,
            Ending::CloseAnswered,
            Ending::CloseAnswered,
            Ending::CloseUnread,
            Ending::Reset,
            Ending::Vanish,
            Ending::Silence,
        ]),
        farewell: chance.pick(&[
            ReactionToFin::Close,
            ReactionToFin::Close,
            ReactionToFin::GoOn,
            ReactionToFin::SendMore(3),
            ReactionToFin::Reset,
            ReactionToFin::Nothing,
        ]),
        send_buffer: chance.pick(&buffers),
        receive_buffer: chance.pick(&buffers),
    }
}

/// Draws a client that sends, reads everything and closes in order.
pub fn draw_honest_habit(chance: &mut Chance, unit: u64) -> Habit {
    let habit = draw_habit(chance, unit);
    Habit {
        take: (1, ALL),
        take_gap: (MICROSECOND, 50 * MICROSECOND),
        ending: chance.pick(&[Ending::HalfClose, Ending::CloseAnswered]),
        farewell: ReactionToFin::Close,
        gap: (MICROSECOND, 20 * MICROSECOND),
        ..habit
    }
}

/// Draws a client that sends and reads as fast as it can.
pub fn draw_greedy_habit(chance: &mut Chance, unit: u64) -> Habit {
    let habit = draw_habit(chance, unit);
    Habit {
        total: 400 * unit,
        piece: (10 * unit, 40 * unit),
        gap: (1, 2 * MICROSECOND),
        ahead: u64::MAX,
        take: (ALL, ALL),
        take_gap: (1, MICROSECOND),
        window: 1 << 20,
        send_buffer: 1 << 20,
        receive_buffer: 40 * unit,
        ..habit
    }
}

impl State {
    /// Makes a client send, or end, at its scheduled time.
    pub fn act(&mut self, number: usize) {
        self.ends[number].is_acting = false;
        let end = &self.ends[number];
        if end.is_over() || end.fin {
            return;
        }
        if end.has_seen_fin && self.bids_farewell(number) {
            return;
        }
        if self.ends[number].left > 0 {
            self.send_piece(number);
        } else {
            self.end_client(number);
        }
    }

    fn send_piece(&mut self, number: usize) {
        let end = &self.ends[number];
        let habit = end.habit;
        let unanswered = end.arrived.saturating_sub(end.taken);
        let room = habit.receive_buffer.saturating_sub(end.unread());
        let ahead = habit.ahead.saturating_sub(unanswered);
        let most = end.left.min(room).min(ahead);
        let count = self.chance.between(habit.piece).min(most);
        if count == 0 {
            self.ends[number].is_blocked = true;
            return;
        }
        self.ends[number].left -= count;
        self.arrive(number, count);
        if self.chance.one_in(habit.urgent) {
            self.arrive_urgent(number);
        }
        let gap = self.chance.between(habit.gap);
        self.act_in(number, gap);
    }

    fn end_client(&mut self, number: usize) {
        let end = &self.ends[number];
        match end.habit.ending {
            Ending::HalfClose => self.arrive_fin(number),
            Ending::CloseAnswered if end.taken < end.arrived => {
                self.ends[number].is_blocked = true;
            }
            Ending::CloseAnswered => self.arrive_fin(number),
            Ending::CloseUnread => {
                self.ends[number].resets_data = true;
                self.arrive_fin(number);
            }
            Ending::Reset => self.arrive_reset(number),
            Ending::Vanish => {
                self.ends[number].has_vanished = true;
                // The server's kernel detects this after a time, or leaves it to the server.
                if self.limits.keepalive.is_none() || self.chance.one_in(2) {
                    let after = self.chance.between((MILLISECOND, 200 * MILLISECOND));
                    self.later(after, Happening::GiveUp(number as u32));
                }
            }
            Ending::Silence => {}
        }
    }

    /// Reacts to a FIN that the server has sent before the client. Returns true if the client does
    /// nothing else now.
    fn bids_farewell(&mut self, number: usize) -> bool {
        match self.ends[number].habit.farewell {
            ReactionToFin::Close | ReactionToFin::SendMore(0) => self.arrive_fin(number),
            ReactionToFin::Reset => self.arrive_reset(number),
            ReactionToFin::Nothing => {}
            ReactionToFin::GoOn => return false,
            ReactionToFin::SendMore(pieces) => {
                let habit = &mut self.ends[number].habit;
                habit.farewell = ReactionToFin::SendMore(pieces - 1);
                let (piece, gap) = (habit.piece, habit.gap);
                let count = self.chance.between(piece);
                self.arrive(number, count);
                let gap = self.chance.between(gap);
                self.act_in(number, gap);
            }
        }
        true
    }

    /// Lets the client's kernel receive what the server has sent, and the client read a part of it.
    pub fn take(&mut self, number: usize) {
        let end = &mut self.ends[number];
        end.is_taking = false;
        if end.is_over() || end.has_vanished {
            return;
        }
        if end.resets_data && end.sent > end.acked {
            return self.arrive_reset(number);
        }
        let habit = end.habit;
        self.acknowledge(number);
        if habit.take.1 > 0 {
            let count = self.chance.between(habit.take);
            let end = &mut self.ends[number];
            end.taken += count.min(end.acked - end.taken);
            self.acknowledge(number);
        }
        let end = &self.ends[number];
        if habit.take.1 > 0 && end.taken < end.sent {
            let gap = self.chance.between(habit.take_gap);
            self.take_in(number, gap);
        }
        self.unblock(number);
        let end = &mut self.ends[number];
        if end.shut && end.acked == end.sent && !end.has_seen_fin {
            end.has_seen_fin = true;
            let gap = self.chance.between(habit.gap);
            self.act_in(number, gap);
        }
    }

    /// Schedules a client that could not send, or that waited for replies, to try again.
    pub fn unblock(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if end.is_blocked {
            end.is_blocked = false;
            let gap = end.habit.gap;
            let gap = self.chance.between(gap);
            self.act_in(number, gap);
        }
    }

    pub fn act_in(&mut self, number: usize, gap: u64) {
        if !std::mem::replace(&mut self.ends[number].is_acting, true) {
            self.later(gap, Happening::Act(number as u32));
        }
    }

    pub fn take_in(&mut self, number: usize, gap: u64) {
        if !std::mem::replace(&mut self.ends[number].is_taking, true) {
            self.later(gap, Happening::Take(number as u32));
        }
    }

    /// Ends all faults. From now on clients send no more data, read everything and close in order.
    pub fn calm(&mut self) {
        self.faults.end();
        self.is_calm = true;
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.calm();
        }
        for number in 0..self.ends.len() {
            let end = &mut self.ends[number];
            end.left = 0;
            end.has_vanished = false;
            end.is_blocked = false;
            end.habit = Habit {
                take: (ALL, ALL),
                take_gap: (MICROSECOND, MICROSECOND),
                gap: (MICROSECOND, MICROSECOND),
                ending: Ending::HalfClose,
                farewell: ReactionToFin::Close,
                ..end.habit
            };
            if !end.is_over() {
                self.act_in(number, MICROSECOND);
                self.take_in(number, MICROSECOND);
            }
        }
    }

    /// Stops the server when the faults have ended and no connection is left.
    pub fn stop_when_drained(&mut self) {
        let is_drained = self.open.is_empty()
            && self
                .listeners
                .iter()
                .all(|listener| listener.queue.is_empty());
        if self.is_calm && is_drained && self.ledger.stopping.is_none() && self.stops == 0 {
            self.stops = 1;
        }
    }

    /// Returns the maximum number of turns until no connection is left.
    pub fn work_left(&self) -> u64 {
        let alive = self.ends.iter().filter(|end| !end.is_closed);
        let turns = |end: &End| 100 + 10 * (end.arrived - end.acked.min(end.arrived));
        1000 + alive.map(turns).sum::<u64>()
    }

    /// Breaks the connection of a client that has vanished, when the server's kernel gives it up.
    pub fn give_up(&mut self, number: usize) {
        let end = &self.ends[number];
        if end.has_vanished && !end.is_over() {
            let errors = [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH];
            let errno = self.chance.pick(&errors);
            self.break_end(number, errno);
        }
    }
}
