//! The behaviour of the server and the network in a run: without faults, or with random ones.

use std::time::Duration;

use crate::chance::Chance;

/// The behaviour of the server and the network in a run.
#[derive(Clone, Debug)]
pub struct Faults {
    /// One in this many connects is refused; 0: none.
    pub refuses: u64,
    /// One in this many replies is altered, or followed by a surplus byte, by a reset, or by FIN;
    /// 0: none.
    pub spoils: u64,
    pub adds: u64,
    pub resets: u64,
    pub ends: u64,
    /// A freeze of the server: when it begins, and how long it lasts.
    pub freeze: Option<(Duration, Duration)>,
    /// A freeze of the client, in a wait for events: when it begins, and how long it lasts.
    pub away: Option<(Duration, Duration)>,
    /// The maximum number of bytes of a segment, and the size of the send buffer.
    pub segment: usize,
    pub room: usize,
    /// The range of the delay of a reply, in microseconds.
    pub delay: (u64, u64),
    /// The number of connections, from the first on, that are slower, and by how much.
    pub slow: (usize, Duration),
    /// The time by which the last target is slower.
    pub slow_target: Duration,
    /// The time that the client spends on a read, and on a send.
    pub calls: (Duration, Duration),
    /// One in this many of the calls that the run makes for a connection fails, other than reads
    /// and sends; 0: none.
    pub fails: u64,
    /// The time between two closes of the server, once clients close, and the number of its closes.
    pub closes: (Duration, usize),
    /// A period in which the path is longer: its beginning, its length, and the additional delay.
    pub way: Option<(Duration, Duration, Duration)>,
    /// One in this many replies is lost, and retransmitted; 0: none.
    pub loses: u64,
    /// The maximum number of bytes that a connection sends in a round trip; further bytes wait in
    /// its send buffer.
    pub window: u64,
    /// The time after which the server of the last target dies, and the time until it is back, if
    /// it returns.
    pub dies: Option<(Duration, Option<Duration>)>,
}

pub fn faults(chance: &mut Chance) -> Faults {
    let mut sometimes = |times: u64| if chance.one_in(3) { times } else { 0 };
    let (refuses, spoils, adds) = (sometimes(4), sometimes(200), sometimes(200));
    let (resets, ends) = (sometimes(50), sometimes(50));
    let freeze = (
        chance.microseconds(0, 200_000),
        chance.microseconds(1000, 400_000),
    );
    let slow_target = chance.one_in(3).then(|| chance.microseconds(0, 30_000));
    Faults {
        refuses,
        spoils,
        adds,
        resets,
        ends,
        freeze: chance.one_in(3).then_some(freeze),
        away: None,
        segment: chance.between(1, 1448) as usize,
        room: [100, 4000, 1 << 20][chance.below(3) as usize],
        delay: (10, chance.between(20, 2000)),
        slow: (0, Duration::ZERO),
        slow_target: slow_target.unwrap_or_default(),
        calls: (chance.microseconds(0, 2), chance.microseconds(0, 10)),
        fails: if chance.one_in(4) { 10 } else { 0 },
        ..quick()
    }
}

/// Returns the behaviour of a server without faults that replies in a tenth of a millisecond.
pub fn quick() -> Faults {
    Faults {
        refuses: 0,
        spoils: 0,
        adds: 0,
        resets: 0,
        ends: 0,
        freeze: None,
        away: None,
        segment: 1448,
        room: 1 << 20,
        delay: (100, 100),
        slow: (0, Duration::ZERO),
        slow_target: Duration::ZERO,
        calls: (Duration::ZERO, Duration::ZERO),
        fails: 0,
        closes: (Duration::ZERO, usize::MAX),
        way: None,
        loses: 0,
        window: u64::MAX,
        dies: None,
    }
}
