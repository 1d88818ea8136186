//! Plays every short sequence of events of one connection, and checks each against all the rules.

use std::net::SocketAddr;
use std::time::Duration;

use upcase::server::limits::Limits;
use upcase::stream::Hints;

use crate::chance::Chance;
use crate::kernel::Events;
use crate::run::Simulation;
use crate::swarm::Faults;

/// An event of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Three bytes: more than one read, and more than one budget.
    Arrive,
    Urgent,
    Fin,
    Reset,
    /// The client reads two bytes, which is the size of the send buffer.
    Room,
    Turn,
    /// A turn like [`Step::Turn`], with a false event.
    Spurious,
    /// The time until the next timer passes.
    Timer,
    /// A request to stop, and a turn in which it is delivered.
    Stop,
}

const STEPS: [Step; 9] = [
    Step::Arrive,
    Step::Urgent,
    Step::Fin,
    Step::Reset,
    Step::Room,
    Step::Turn,
    Step::Spurious,
    Step::Timer,
    Step::Stop,
];

/// Limits so small that a short sequence reaches them.
const LIMITS: Limits = Limits {
    max_connections: 2,
    max_connections_per_ip: None,
    idle_timeout: Some(Duration::from_millis(20)),
    stall_timeout: Some(Duration::from_millis(40)),
    min_rate: 0,
    keepalive: Some(Duration::from_millis(16)),
    keepalive_pause_least: Duration::from_millis(1),
    probe_burst: (1, 1),
    probe_gap: Duration::from_millis(1),
    read_bytes: 2,
    large_read_bytes: 3,
    large_read_clients: 1,
    turn_bytes: 2,
    group_clients: 2,
    whole_turn_bytes: 3,
    turn_accepts: 2,
    accept_pause: (Duration::from_millis(1), Duration::from_millis(4)),
    drain_look: Duration::from_millis(5),
    drain_silence: Duration::from_millis(8),
    linger: Duration::from_millis(10),
    drain_timeout: Duration::from_millis(50),
};

const FALSE: Hints = Hints {
    readable: true,
    writable: true,
    exceptional: false,
    ended: false,
};

/// Plays all sequences of this length; returns how many there are, and the number of events.
pub fn play_all(length: u32) -> (u64, Events) {
    let count = (STEPS.len() as u64).pow(length);
    let mut events = Events::default();
    for number in 0..count {
        let mut rest = number;
        let steps: Vec<Step> = (0..length)
            .map(|_| {
                let step = STEPS[(rest % STEPS.len() as u64) as usize];
                rest /= STEPS.len() as u64;
                step
            })
            .collect();
        let played = std::panic::catch_unwind(|| play(&steps, number));
        events += played.unwrap_or_else(|failure| {
            eprintln!("the steps: {steps:?}");
            std::panic::resume_unwind(failure)
        });
    }
    (count, events)
}

/// Plays one sequence. Then the client reads everything and closes, and the server is stopped.
fn play(steps: &[Step], seed: u64) -> Events {
    let mut simulation = Simulation::new(1, LIMITS, Faults::NONE, Chance::new(seed));
    let address = SocketAddr::from(([10, 0, 0, 1], 1024));
    let client = simulation.state().connect_by_hand(0, address);
    let client = client.expect("the listener is open");
    simulation.state().ends[client].habit.send_buffer = 2;
    simulation.turn();
    for &step in steps {
        if simulation.is_done() {
            break;
        }
        take(&mut simulation, client, step);
    }
    simulation.state().arrive_fin(client);
    let mut rounds = 0;
    while !simulation.is_done() {
        simulation.state().take_by_hand(client, u64::MAX);
        simulation.advance(Duration::from_micros(1));
        let mut state = simulation.state();
        let is_closed = state.ends[client].is_closed;
        if is_closed && state.ledger.stopping.is_none() {
            state.stops += 1;
        }
        drop(state);
        if is_closed && !simulation.is_done() {
            simulation.advance(LIMITS.drain_timeout);
        }
        rounds += 1;
        assert!(rounds < 100, "the server does not end");
    }
    simulation.finish().events
}

fn take(simulation: &mut Simulation, client: usize, step: Step) {
    let mut state = simulation.state();
    match step {
        Step::Arrive => state.send_by_hand(client, b"abc"),
        Step::Urgent => state.urge_by_hand(client, b'!'),
        Step::Fin => state.arrive_fin(client),
        Step::Reset => state.arrive_reset(client),
        Step::Room => drop(state.take_by_hand(client, 2)),
        Step::Timer => {
            let next = state.agenda.next();
            let now = state.now;
            drop(state);
            if let Some(next) = next {
                simulation.advance(Duration::from_nanos(next.saturating_sub(now)));
            }
        }
        Step::Stop => {
            state.stops += 1;
            drop(state);
            simulation.turn();
        }
        Step::Turn | Step::Spurious => {
            let reported = state.ends[client].reported(client as u32, FALSE);
            let is_lie = step == Step::Spurious && !state.ends[client].is_closed;
            drop(state);
            if let (Some(reported), true) = (reported, is_lie) {
                simulation.event(reported);
            }
            simulation.advance(Duration::from_micros(1));
        }
    }
}
