//! A thread that measures the round trip to the kernels of the targets, some times per second, from
//! before the first message on: the path without the server's program. Targets on this host are not
//! probed, since there is no network between.
//!
//! The probes are ICMP echo requests. Where no socket for these may be opened, an empty UDP
//! datagram is sent to a port on which nothing listens, and an ICMP error is returned; Linux sends
//! about one such error per second (net.ipv4.icmp_ratelimit). A target that never answers is no
//! evidence of anything.
//!
//! The arrival time of an answer is the kernel's receive timestamp, so a late wake-up of the thread
//! does not make the path seem longer.

pub mod icmp;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::load::probe::icmp::Echo;
use crate::load::results::evidence::{PROBE_LOST, Probe};
use crate::sys::errno::ECONNREFUSED;
use crate::sys::poll;
use crate::sys::socket::{self, ProbeKind};
use crate::sys::timestamps::{Arrival, Arrivals};

/// The time between two probes, over all targets together: enough for a 99th percentile in ten
/// seconds, at about 0.2 % of a CPU.
const PERIOD: Duration = Duration::from_millis(20);

/// The minimum time between two probes to a target that limits the rate of its answers.
const PERIOD_LIMITED: Duration = Duration::from_secs(1);

/// Maximum number of hosts that are probed. Each takes a descriptor from the reserve of the run and
/// a share of the probes.
const HOSTS_MAX: usize = 8;

/// The first probes to a target are sent in quick succession, so that its smallest round trip is
/// known before the first message.
const FIRST: u16 = 5;
const PERIOD_FIRST: Duration = Duration::from_millis(1);

/// A running probe thread.
#[derive(Debug)]
pub struct Prober {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Probe>>,
}

impl Prober {
    /// Starts the thread, unless all targets are on this host. Round trips are recorded only for
    /// probes for which `due_in` returned one of `stages` stages when they were sent. `sources`:
    /// the local addresses of the run, of which the first one is used.
    pub fn start(
        targets: &[SocketAddr],
        sources: &[SocketAddr],
        stages: usize,
        due_in: impl Fn(Instant) -> Option<usize> + Send + 'static,
    ) -> Option<Prober> {
        let probed = hosts(targets, socket::is_local);
        if probed.is_empty() {
            return None;
        }
        let source = sources.first().copied();
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let ask = move || ask_all(&probed, source, &flag, stages, due_in);
        let thread = thread::Builder::new().name("probe".to_string()).spawn(ask);
        Some(Prober {
            is_over,
            thread: thread.ok()?,
        })
    }

    /// Stops the thread, and returns its measurements in each stage.
    pub fn finish(self) -> Option<Vec<Probe>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().ok()
    }
}

/// Returns the first targets that are not on this host, each host once, at most [`HOSTS_MAX`].
fn hosts(targets: &[SocketAddr], is_local: impl Fn(SocketAddr) -> bool) -> Vec<SocketAddr> {
    let mut hosts: Vec<SocketAddr> = Vec::new();
    for mut target in targets.iter().copied() {
        target.set_ip(target.ip().to_canonical());
        let is_new = hosts.iter().all(|host| host.ip() != target.ip());
        if hosts.len() < HOSTS_MAX && is_new && !is_local(target) {
            hosts.push(target);
        }
    }
    hosts
}

/// A target, and the probes to it that are in flight.
#[derive(Debug)]
struct ProbedHost {
    target: SocketAddr,
    kind: ProbeKind,
    socket: Socket,
    arrivals: Arrivals,
    echo: Echo,
    sequence: u16,
    next: Instant,
    /// The time between two probes.
    period: Duration,
    under_way: VecDeque<InFlight>,
    least: Option<Duration>,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    sequence: u16,
    sent: Instant,
    /// The stage in which messages were due when it was sent; `None`: none were.
    stage: Option<usize>,
}

fn ask_all(
    targets: &[SocketAddr],
    source: Option<SocketAddr>,
    is_over: &AtomicBool,
    stages: usize,
    due_in: impl Fn(Instant) -> Option<usize>,
) -> Vec<Probe> {
    let mut probe = Probe {
        targets: targets.len() as u32,
        ..Probe::default()
    };
    let period = PERIOD * probe.targets;
    let targets = targets.iter();
    let opened = targets.map(|target| ProbedHost::open(*target, source, period));
    let mut probed: Vec<ProbedHost> = opened.flatten().collect();
    for one in &probed {
        let how = one.kind.name();
        if !probe.how.iter().any(|known| known == how) {
            probe.how.push(how.to_string());
        }
    }
    let mut probes = vec![probe.clone(); stages];
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        for one in probed.iter_mut().filter(|one| one.next <= now) {
            one.ask(&due_in);
        }
        let next = probed.iter().map(|one| one.next).min();
        // The stop flag is read at least once in this period.
        let next = next.map_or(now + PERIOD, |next| next.min(now + PERIOD));
        wait(&probed, next.saturating_duration_since(Instant::now()));
        for one in &mut probed {
            one.hear(&mut probes);
        }
    }
    probe.silent = probe.targets;
    for one in &mut probed {
        one.give_up(Instant::now(), &mut probes);
        probe.silent -= u32::from(one.least.is_some());
        probe.least = probe.least.into_iter().chain(one.least).min();
    }
    for of_stage in &mut probes {
        (of_stage.silent, of_stage.least) = (probe.silent, probe.least);
    }
    probes
}

/// Waits until an answer arrives, but no longer than `time`.
fn wait(probed: &[ProbedHost], time: Duration) {
    let sockets: Vec<_> = probed.iter().map(|one| one.socket.as_fd()).collect();
    if poll::readable(&sockets, Some(time)).is_err() {
        thread::sleep(PERIOD_FIRST); // Out of memory, say: not in a loop without a pause.
    }
}

impl ProbedHost {
    /// Opens the best kind of socket that is allowed for this target; `None`: there is none.
    fn open(
        target: SocketAddr,
        source: Option<SocketAddr>,
        period: Duration,
    ) -> Option<ProbedHost> {
        let kinds = [ProbeKind::Echo, ProbeKind::RawEcho, ProbeKind::ClosedPort];
        let (kind, socket) = kinds.into_iter().find_map(|kind| {
            let socket = socket::probe_socket(kind, target, source).ok()?;
            Some((kind, socket))
        })?;
        Some(ProbedHost {
            target,
            kind,
            arrivals: Arrivals::enable(&socket).ok()?,
            socket,
            echo: Echo::new(target.ip(), RandomState::new().hash_one(target)),
            sequence: 0,
            next: Instant::now(),
            period: match kind {
                ProbeKind::Echo | ProbeKind::RawEcho => period,
                ProbeKind::ClosedPort => period.max(PERIOD_LIMITED),
            },
            under_way: VecDeque::new(),
            least: None,
        })
    }

    /// Sends the probe that is due.
    fn ask(&mut self, due_in: impl Fn(Instant) -> Option<usize>) {
        self.sequence = self.sequence.wrapping_add(1);
        let packet = self.echo.request(self.sequence);
        let packet = match self.kind {
            ProbeKind::Echo | ProbeKind::RawEcho => packet.as_slice(),
            ProbeKind::ClosedPort => &[],
        };
        let mut sent = Instant::now();
        let mut outcome = self.socket.send(packet);
        if outcome.is_err() {
            // The first call returned the pending ICMP error of an earlier probe.
            sent = Instant::now();
            outcome = self.socket.send(packet);
        }
        let is_first = self.kind != ProbeKind::ClosedPort && self.sequence < FIRST;
        self.next = sent + if is_first { PERIOD_FIRST } else { self.period };
        if outcome.is_ok() {
            self.under_way.push_back(InFlight {
                sequence: self.sequence,
                sent,
                stage: due_in(sent),
            });
        }
    }

    /// Reads the answers that have arrived, and gives up the probes that are too old.
    fn hear(&mut self, probes: &mut [Probe]) {
        let queues: &[bool] = match self.kind {
            ProbeKind::Echo | ProbeKind::RawEcho => &[false],
            // If something does listen there, its replies must be read too: otherwise every poll
            // would return at once.
            ProbeKind::ClosedPort => &[true, false],
        };
        let mut buffer = [0; 128];
        for from_errors in queues {
            // An error of the socket belongs to a probe that was sent; that probe is lost.
            while let Ok(Some(arrival)) =
                self.arrivals.recv(&self.socket, &mut buffer, *from_errors)
            {
                let bytes = &buffer[..arrival.bytes.min(buffer.len())];
                if let Some(question) = self.question(&arrival, bytes) {
                    self.answered(question, arrival.at, probes);
                }
            }
        }
        self.give_up(Instant::now(), probes);
    }

    /// Removes the probe that was answered from those in flight, and returns it.
    fn question(&mut self, arrival: &Arrival, bytes: &[u8]) -> Option<InFlight> {
        let place = match arrival.error {
            // At most one probe is in flight at a time.
            Some(error) => (error == (ECONNREFUSED, self.target.ip())).then_some(0)?,
            None if self.kind == ProbeKind::ClosedPort => return None,
            None => {
                let sequence = self.echo.answered(bytes)?;
                let mut open = self.under_way.iter();
                open.position(|question| question.sequence == sequence)?
            }
        };
        self.under_way.remove(place)
    }

    fn answered(&mut self, question: InFlight, at: Option<Instant>, probes: &mut [Probe]) {
        let now = Instant::now();
        // The kernel's timestamp is wall-clock time: after a step of that clock it may be out of
        // range.
        let at = at.filter(|at| (question.sent..now).contains(at));
        let round_trip = at.unwrap_or(now) - question.sent;
        let least = self.least.map_or(round_trip, |least| least.min(round_trip));
        self.least = Some(least);
        if let Some(probe) = question.stage.and_then(|stage| probes.get_mut(stage)) {
            probe.round_trips.record(round_trip);
            probe.growth.record(round_trip - least);
        }
    }

    fn give_up(&mut self, now: Instant, probes: &mut [Probe]) {
        while let Some(oldest) = self.under_way.front()
            && now - oldest.sent > PROBE_LOST
        {
            // A missing answer is not a loss where the target limits the rate of its answers.
            let stage = oldest.stage.filter(|_| self.kind != ProbeKind::ClosedPort);
            if let Some(probe) = stage.and_then(|stage| probes.get_mut(stage)) {
                probe.lost += 1;
            }
            self.under_way.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_first_eight_other_hosts_is_asked_once() {
        let address = |text: String| text.parse::<SocketAddr>().unwrap();
        let mut targets: Vec<SocketAddr> = (0..20)
            .flat_map(|host| [1, 2].map(|port| address(format!("10.77.0.{host}:{port}"))))
            .collect();
        targets.insert(1, address("[::ffff:10.77.0.0]:1".to_string()));
        let is_local = |target: SocketAddr| target.ip() == targets[3].ip();
        let expected = [0, 2, 3, 4, 5, 6, 7, 8].map(|host| address(format!("10.77.0.{host}:1")));
        assert_eq!(hosts(&targets, is_local), expected);
        assert_eq!(hosts(&targets, |_| true), []);
    }
}
