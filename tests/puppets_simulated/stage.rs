//! A stage for scripts on the simulated kernel, in virtual time. It simulates the clients' kernels:
//! what they buffer, and what a client receives.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::libc;

use crate::chance::Chance;
use crate::common::puppet::{Manner, Order, Setup, Stage};
use crate::kernel::State;
use crate::run::{Ended, Simulation};
use crate::terms::{Buffers, Disturbances};
use crate::wire::Wire;

/// The default size of a client's send buffer. On Linux it can grow to four times as much; the
/// scripts need this much.
const SEND_BUFFER: usize = 1 << 20;

/// Maximum time between the request to stop and the end of the server.
const END_MOST: Duration = Duration::from_secs(30);

/// The simulated server, and the clients' side of its connections.
pub struct Model {
    pub simulation: Simulation,
    buffers: Buffers,
    disturbances: Disturbances,
    chance: Chance,
    /// The wires of the clients, by client number.
    wires: Vec<Wire>,
    /// Numbers of the clients on whose wire something waits.
    busy: Vec<usize>,
    is_frozen: bool,
    stops: u32,
}

fn failure<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

/// Returns whether the client gets RST: the server closed with RST, or with unread data, or before
/// it accepted the connection.
fn is_reset(state: &State, number: usize) -> bool {
    let end = &state.ends[number];
    end.is_closed && (end.facts.resets || !end.is_accepted || end.unread() > 0)
}

impl Model {
    pub fn new(
        simulation: Simulation,
        buffers: Buffers,
        disturbances: Disturbances,
        chance: Chance,
    ) -> Model {
        Model {
            simulation,
            buffers,
            disturbances,
            chance,
            wires: Vec::new(),
            busy: Vec::new(),
            is_frozen: false,
            stops: 0,
        }
    }

    /// Stops the server, unless it is being stopped, and runs it to its end.
    pub fn finish(mut self) -> Ended {
        if self.stops == 0 {
            self.order(Order::Stop);
        }
        let latest = self.now() + END_MOST;
        while !self.simulation.is_done() {
            assert!(self.now() < latest, "the server does not end");
            self.wait(Duration::from_millis(10));
        }
        self.simulation.finish()
    }

    /// Lets the time of a client's action pass.
    fn act(&mut self, number: usize) {
        if !self.busy.contains(&number) && !self.wires[number].is_idle() {
            self.busy.push(number);
        }
        self.pass_some();
    }

    fn pass_some(&mut self) {
        let pace = self.chance.between(self.disturbances.pace);
        if pace > 0 {
            self.pass(pace);
        }
    }

    /// Lets time pass: data on the wires arrives, and the server gets its turns.
    fn pass(&mut self, time: u64) {
        let end = self.simulation.state().now + time;
        loop {
            let has_arrived = self.deliver();
            let state = self.simulation.state();
            let now = state.now;
            let next = state.agenda.next().unwrap_or(u64::MAX).max(now);
            drop(state);
            if has_arrived {
                self.turn(0);
            } else if next <= end {
                self.turn(next - now);
            } else {
                return self.turn(end.saturating_sub(now));
            }
        }
    }

    /// Lets this time pass at the server.
    fn turn(&mut self, time: u64) {
        if self.is_frozen || self.simulation.is_done() {
            let mut state = self.simulation.state();
            state.now += time;
            state.happen();
        } else {
            self.simulation.advance(Duration::from_nanos(time));
        }
    }

    /// Delivers what is on the wires, as far as there is room; returns whether anything arrived.
    fn deliver(&mut self) -> bool {
        let mut has_arrived = false;
        let busy = std::mem::take(&mut self.busy);
        for number in busy {
            has_arrived |= self.deliver_from(number);
            if !self.wires[number].is_idle() {
                self.busy.push(number);
            }
        }
        has_arrived
    }

    fn deliver_from(&mut self, number: usize) -> bool {
        let mut state = self.simulation.state();
        let wire = &mut self.wires[number];
        let mut has_arrived = false;
        loop {
            let end = &state.ends[number];
            if end.is_over() {
                wire.lose();
                return has_arrived;
            }
            let unread = end.unread() + state.coming(number) as u64;
            let room = end.habit.receive_buffer.saturating_sub(unread);
            let Some(coming) = wire.next(room as usize) else {
                return has_arrived;
            };
            let delay = self.chance.between(self.disturbances.delay);
            state.come_by_hand(number, delay, coming);
            if delay == 0 {
                state.happen();
            }
            has_arrived = true;
            if self.chance.one_in(self.disturbances.apart) && !wire.fin_is_next() {
                return true;
            }
        }
    }
}

impl Stage for Model {
    type Client = usize;

    fn connect(&mut self, setup: Setup) -> io::Result<usize> {
        let mut state = self.simulation.state();
        let port = 1024 + (state.ends.len() % 60_000) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let Some(number) = state.connect_by_hand(0, address) else {
            return failure(libc::ECONNREFUSED);
        };
        let window = setup.receive_buffer.unwrap_or(usize::MAX) as u64;
        let habit = &mut state.ends[number].habit;
        habit.window = window.min(self.disturbances.window);
        habit.send_buffer = self.buffers.send;
        habit.receive_buffer = self.buffers.receive;
        drop(state);
        let mss = setup.mss.unwrap_or(u32::MAX) as usize;
        let capacity = setup.send_buffer.unwrap_or(SEND_BUFFER);
        assert_eq!(self.wires.len(), number, "each client has a wire");
        self.wires
            .push(Wire::new(capacity, mss.min(self.buffers.mss)));
        self.pass_some();
        Ok(number)
    }

    fn send(&mut self, client: &mut usize, bytes: &[u8], manner: Manner) -> io::Result<usize> {
        let wire = &mut self.wires[*client];
        if wire.is_shut() || wire.is_lost() {
            return failure(libc::EPIPE);
        }
        if is_reset(&self.simulation.state(), *client) {
            return failure(libc::ECONNRESET);
        }
        let is_urgent = manner == Manner::Urgent;
        let count = wire.take(bytes, is_urgent, manner == Manner::Last);
        self.act(*client);
        match count {
            0 => failure(libc::EAGAIN),
            count => Ok(count),
        }
    }

    fn receive(&mut self, client: &mut usize, buffer: &mut [u8]) -> io::Result<usize> {
        self.pass_some();
        let mut state = self.simulation.state();
        let is_reset = is_reset(&state, *client);
        if state.ends[*client].is_closed && !is_reset {
            // The server's kernel continues to send after the server has closed.
            state.acknowledge(*client);
        }
        let end = &state.ends[*client];
        let came = end.acked - end.taken;
        if came > 0 {
            let bytes = state.take_by_hand(*client, came.min(buffer.len() as u64));
            buffer[..bytes.len()].copy_from_slice(&bytes);
            return Ok(bytes.len());
        }
        let fin_came = end.taken == end.sent && (end.shut || end.is_closed && !is_reset);
        match (fin_came, is_reset || self.wires[*client].is_lost()) {
            (true, _) => Ok(0),
            (_, true) => failure(libc::ECONNRESET),
            _ => failure(libc::EAGAIN),
        }
    }

    fn shut(&mut self, client: &mut usize) -> io::Result<()> {
        self.wires[*client].shut();
        self.act(*client);
        Ok(())
    }

    fn reset(&mut self, client: usize) {
        self.wires[client].lose();
        self.simulation.state().arrive_reset(client);
        self.pass_some();
    }

    fn close(&mut self, client: usize) {
        let mut state = self.simulation.state();
        let end = &mut state.ends[client];
        if end.acked > end.taken {
            drop(state);
            return self.reset(client);
        }
        end.resets_data = true;
        drop(state);
        self.wires[client].shut();
        self.act(client);
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Stop => {
                self.stops += 1;
                self.simulation.state().stops += 1;
                self.pass(0);
            }
            Order::Freeze => self.is_frozen = true,
            Order::Thaw => self.is_frozen = false,
        }
    }

    fn wait(&mut self, time: Duration) {
        self.pass(time.as_nanos() as u64);
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.simulation.state().now)
    }
}
