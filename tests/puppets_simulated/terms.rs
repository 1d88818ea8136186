//! The conditions under which a script is played: the server's arguments on the command line, and
//! disturbances that must not change the result.

use upcase::server::limits::Limits;

use crate::chance::Chance;
use crate::common::puppet::{Action, Payload, Script, Step};
use crate::swarm::Faults;
use crate::wire::SEGMENT_MOST;

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1_000_000;

/// The buffers of a socket of the server.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    pub send: u64,
    pub receive: u64,
    /// Maximum number of bytes of a segment.
    pub mss: usize,
}

/// The disturbances of a script. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Disturbances {
    pub faults: Faults,
    /// Minimum and maximum time of a client's action; 0: the server sees it together with the next
    /// one.
    pub pace: (u64, u64),
    /// Number of arriving items of which one, on average, is followed by a turn of the server; 0:
    /// none.
    pub apart: u64,
    /// Minimum and maximum delay of an item, which may arrive within a turn of the server.
    pub delay: (u64, u64),
    /// Maximum number of bytes that a client's kernel accepts before the client reads them.
    pub window: u64,
}

/// Parses the server's arguments into limits and buffers. Nagle's algorithm is not simulated: it
/// can only delay bytes, which the disturbances do as well.
pub fn read_arguments(arguments: &str) -> Result<(Limits, Buffers), String> {
    let mut limits = Limits::default();
    let mut buffers = Buffers {
        send: u64::from(upcase::server::limits::UNSENT_MOST),
        receive: 128 << 10,
        mss: SEGMENT_MOST,
    };
    let mut words = arguments.split_whitespace();
    while let Some(name) = words.next() {
        if name == "--nagle" {
            continue;
        }
        let value = words.next().ok_or(format!("{name} has no value"))?;
        let time = || humantime::parse_duration(value).map_err(|error| error.to_string());
        let size = || {
            value
                .parse::<bytesize::ByteSize>()
                .map(|size| size.as_u64())
        };
        let number = || value.parse::<usize>().map_err(|error| error.to_string());
        match name {
            "--send-buffer" => buffers.send = size()?,
            "--recv-buffer" => buffers.receive = size()?,
            "--mss" => buffers.mss = number()?,
            "--max-connections" => limits.max_connections = number()?,
            "--max-connections-per-ip" => limits.max_connections_per_ip = Some(number()? as u32),
            "--idle-timeout" => limits.idle_timeout = Some(time()?),
            "--stall-timeout" => limits.stall_timeout = Some(time()?),
            "--min-rate" => limits.min_rate = size()?,
            "--drain-timeout" => limits.drain_timeout = time()?,
            "--turn-accepts" => limits.turn_accepts = number()?,
            "--turn-bytes" => limits.turn_bytes = size()? as usize,
            _ => return Err(format!("the simulation does not support {name}")),
        }
    }
    Ok((limits, buffers))
}

impl Disturbances {
    /// Returns no disturbances: each item that arrives is reported before the next one arrives.
    pub fn fair() -> Disturbances {
        let mut faults = Faults::NONE;
        faults.grace = 50 * MILLISECOND;
        Disturbances {
            faults,
            pace: (10 * MICROSECOND, 10 * MICROSECOND),
            apart: 1,
            delay: (0, 0),
            window: 64 << 10,
        }
    }

    /// Draws anything that can occur without an error: events that are split, merged, false or
    /// stale, partial reads and writes, and buffers as small as the length of the script permits.
    pub fn draw(
        chance: &mut Chance,
        script: &Script,
        limits: &mut Limits,
        buffers: &mut Buffers,
    ) -> Disturbances {
        let bytes = volume(&script.steps);
        let (for_calls, for_rounds) = (bytes / 20_000 + 1, bytes / 1000 + 1);
        let sizes = [1, 3, 64, 1000, 4096, 64 << 10];
        let mut draw = |least: u64| match chance.one_in(3) {
            true => u64::MAX,
            false => chance.pick(&sizes).max(least),
        };
        buffers.mss = buffers.mss.min(draw(for_calls) as usize);
        buffers.receive = buffers.receive.min(draw(for_calls));
        buffers.send = buffers.send.min(draw(for_rounds));
        limits.read_bytes = limits.read_bytes.min(draw(for_calls) as usize);
        limits.large_read_bytes = limits.large_read_bytes.min(limits.read_bytes * 4);
        limits.turn_bytes = limits.turn_bytes.min(draw(for_calls) as usize);
        let window = draw(for_rounds).min(64 << 10);
        limits.turn_accepts = limits.turn_accepts.min(chance.pick(&[1, 2, 50, 256]));
        Disturbances {
            faults: draw_faults(chance),
            pace: chance.pick(&[
                (0, 0),
                (0, 1),
                (1, 100),
                (0, 20 * MICROSECOND),
                (MICROSECOND, 100 * MICROSECOND),
            ]),
            apart: chance.pick(&[0, 1, 2, 10]),
            delay: chance.pick(&[(0, 0), (0, 0), (0, 3 * MICROSECOND), (0, 30 * MICROSECOND)]),
            window,
        }
    }
}

fn draw_faults(chance: &mut Chance) -> Faults {
    let mut rate = |rates: &[u64]| match chance.one_in(2) {
        true => 0,
        false => chance.pick(rates),
    };
    let mut faults = Faults::NONE;
    faults.interrupts = rate(&[2, 10, 100]);
    faults.squeezes = rate(&[2, 10, 100]);
    faults.spurious = rate(&[1, 5, 50]);
    faults.stale = rate(&[1, 5, 50]);
    faults.split = rate(&[2, 10]);
    faults.postponed = rate(&[2, 10]);
    faults.batch = chance.pick(&[1, 1, 2, 8, 1024]);
    faults.shuffle = chance.one_in(2);
    faults.interleave = chance.one_in(2);
    faults.grace = chance.pick(&[0, MILLISECOND, 50 * MILLISECOND]);
    faults
}

/// Returns the approximate number of bytes that a client sends.
fn volume(steps: &[Step]) -> u64 {
    let of_step = |step: &Step| match &step.action {
        Action::Send(payload) | Action::SendAndShut(payload) => match payload {
            Payload::Text(text) => text.len() as u64,
            Payload::Pattern(count) => *count as u64,
        },
        Action::Exchange(count) => *count as u64,
        // The client's send buffer, and the buffers on both sides of the server.
        Action::Full => 3 << 19,
        Action::Repeat(count, steps) => *count as u64 * volume(steps),
        _ => 0,
    };
    steps.iter().map(of_step).sum()
}
