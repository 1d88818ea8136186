//! Tests `serve` against thousands of clients that send and never read: the memory that they cost
//! the server and the kernel, the response times of well-behaved clients beside them, and the time
//! until they are reset.

mod common;

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::crowd::{Client, Crowd, End, Habit};
use common::ratio::Median;
use common::totals::number;
use common::{Process, Serve, lab, peers, upcase};
use nix::sys::signal::Signal;

/// Attackers send without end and have small socket buffers, so that the server's side holds all
/// bytes.
const ATTACKER: Habit = Habit {
    bytes: u64::MAX,
    closes: false,
    reads: false,
    buffers: Some(4 << 10),
};

const HEALTHY: &str = "--connections 100 --rate 2000";

/// Maximum number of bytes of one read, which is the most that a server may have pending for a
/// client.
const READ: u64 = 64 << 10;

/// File with the limits of the memory of all TCP sockets, in pages; the third number is the
/// maximum: tcp(7).
const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";
const PAGE: u64 = 4096;

#[test]
#[ignore = "half a minute, 30,000 descriptors, half a gigabyte"]
fn fifteen_thousand_that_never_read_against_small_buffers() {
    const STALL: Duration = Duration::from_secs(8);
    upcase::sys::descriptor_limit::raise_descriptor_limit().unwrap();
    lab::alone(|| {
        let arguments = "--recv-buffer 16KiB --send-buffer 16KiB --stall-timeout 8s";
        let mut serve = Serve::start(arguments);
        let attack = Attack::carry_out(&serve, 15_000, STALL);
        println!("{attack}");
        assert!(attack.pending <= READ, "{attack:#?}");
        assert!(attack.resident <= READ, "{attack:#?}");
        serve.process.signal(Signal::SIGTERM);
        let totals: common::totals::Totals = serve.ends(0).parse().unwrap();
        assert_eq!(
            (totals.closed("stalled"), totals.balance()),
            (15_000, true),
            "{totals:?}"
        );
    });
}

#[test]
#[ignore = "a minute and a half: ten pairs of quiet and attack"]
fn attackers_hardly_slow_well_behaved_clients() {
    const PAIRS: usize = 10;
    const QUIET: Duration = Duration::from_secs(2);
    upcase::sys::descriptor_limit::raise_descriptor_limit().unwrap();
    let clients = std::env::var("UPCASE_ARMY").map_or(2000, |count| count.parse().unwrap());
    // All attackers must have connected before the first one is reset.
    let stall = Duration::from_secs(1 + clients as u64 / 1000);
    lab::alone(|| {
        let serve = Serve::start(&format!(
            "--recv-buffer 16KiB --send-buffer 16KiB --stall-timeout {}s",
            stall.as_secs()
        ));
        let mut ratios = Vec::new();
        for pair in 0..PAIRS {
            let quiet = || {
                let healthy = Healthy::start(&serve);
                thread::sleep(QUIET);
                healthy.median_response()
            };
            let attacked = || Attack::carry_out(&serve, clients, stall).healthy_micros;
            let (quiet, attacked) = if pair % 2 == 0 {
                let quiet = quiet();
                (quiet, attacked())
            } else {
                let attacked = attacked();
                (quiet(), attacked)
            };
            println!("healthy p50: {quiet:.0} us quiet, {attacked:.0} us beside {clients}");
            ratios.push(attacked / quiet);
        }
        let ratio = Median::of(&ratios).expect("ten pairs");
        println!("healthy p50 beside {clients} attackers to quiet: {ratio:.2}");
        assert!(ratio.middle <= 2.0, "{ratio:.2}");
    });
}

#[test]
#[ignore = "half a minute; a few hundred clients against default buffers"]
fn a_few_thousand_that_never_read_cannot_exhaust_the_kernel() {
    const CLIENTS: usize = 100;
    const STALL: Duration = Duration::from_secs(8);
    let limits = fs::read_to_string(TCP_MEM).unwrap();
    let limit: u64 = limits.split_whitespace().nth(2).unwrap().parse().unwrap();
    let limit = limit * PAGE;
    lab::alone(|| {
        let mut by_default = None;
        for value in ["", "off", "64KiB", "256KiB"] {
            let option = match value {
                "" => String::new(),
                _ => format!("--notsent-lowat {value}"),
            };
            let serve = Serve::start(&format!("--stall-timeout 8s {option}"));
            let attack = Attack::carry_out(&serve, CLIENTS, STALL);
            let enough = limit / attack.kernel;
            println!("serve {option}: {attack}; {enough} would reach tcp_mem");
            by_default = by_default.or(Some(enough));
        }
        let by_default = by_default.unwrap();
        assert!(by_default >= 3000, "{by_default} clients");
    });
}

/// The results of an attack. Sizes are in bytes per attacker.
#[derive(Debug)]
struct Attack {
    /// Bytes that were converted and not accepted by the kernel, as the server counts them.
    pending: u64,
    /// Growth of the server's memory in RAM.
    resident: u64,
    /// Buffers of the server's sockets, overhead included: skmem of ss(8).
    kernel: u64,
    /// TCP buffers of the whole machine, both ends: sockstat.
    kernel_of_both: u64,
    /// Growth of the kernel's slab caches on the whole machine, both ends: Slab of meminfo.
    slab_of_both: u64,
    /// Time from the first connect to the last progress of any attacker.
    arrival: Duration,
    /// Shortest time from an attacker's last progress to its reset.
    first_gone: Duration,
    last_gone: Duration,
    /// Median response time of the well-behaved clients, from before the attack until its end.
    healthy_micros: f64,
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attack {
            pending,
            resident,
            kernel,
            kernel_of_both,
            slab_of_both,
            ..
        } = self;
        write!(
            f,
            "bytes each: {pending} pending, {resident} resident, {kernel} in the server's socket \
             buffers ({kernel_of_both} at both ends, {slab_of_both} of slab); all blocked after \
             {:.1?}, closed {:.1?} to {:.1?} after their last progress; healthy p50 {:.0} us",
            self.arrival, self.first_gone, self.last_gone, self.healthy_micros
        )
    }
}

impl Attack {
    #[track_caller]
    fn carry_out(serve: &Serve, clients: usize, stall: Duration) -> Attack {
        let each = |bytes: u64| bytes / clients as u64;
        let healthy = Healthy::start(serve);
        let resident = serve.process.resident();
        let (tcp, slab) = (tcp_pages() * PAGE, slab());
        let begun = Instant::now();
        let mut army = Crowd::new(ATTACKER);
        army.join_all(clients, serve.address());
        // Wait until no client has made progress for 300 ms.
        let mut moved = begun;
        let last_moved = |clients: &[Client]| clients.iter().map(|client| client.moved).max();
        army.until("no attacker makes progress", |clients| {
            moved = last_moved(clients).unwrap_or(begun);
            moved.elapsed() > Duration::from_millis(300)
        });
        let arrival = moved - begun;
        assert_eq!(army.open(), clients, "{}", army.summary());
        let kernel = socket_memory(serve);
        let attack = Attack {
            pending: each(pending(serve)),
            resident: each(serve.process.resident().saturating_sub(resident)),
            kernel: each(kernel),
            kernel_of_both: each((tcp_pages() * PAGE).saturating_sub(tcp)),
            slab_of_both: each(self::slab().saturating_sub(slab)),
            arrival,
            first_gone: Duration::ZERO,
            last_gone: Duration::ZERO,
            healthy_micros: 0.0,
        };
        army.until_all_have_ended();
        let reset = |client: &Client| matches!(client.end, Some((_, End::Broken(_))));
        assert!(army.clients.iter().all(reset), "{}", army.summary());
        let gone = |client: &Client| client.end.unwrap().0 - client.moved;
        let attack = Attack {
            first_gone: army.clients.iter().map(gone).min().unwrap(),
            last_gone: army.clients.iter().map(gone).max().unwrap(),
            healthy_micros: healthy.median_response(),
            ..attack
        };
        assert!(attack.last_gone <= 2 * stall, "{attack:#?}");
        attack
    }
}

/// A load run of well-behaved clients.
struct Healthy(Process);

impl Healthy {
    fn start(serve: &Serve) -> Healthy {
        let target = serve.address();
        let load = format!("load {target} {HEALTHY} --duration 1h --format json -v");
        let load = Process::piped(upcase(&load));
        peers::intervals(&load, 1);
        Healthy(load)
    }

    /// Stops the run and returns its median response time in microseconds.
    #[track_caller]
    fn median_response(mut self) -> f64 {
        self.0.signal(Signal::SIGTERM);
        let report = self.0.ended().json();
        assert_eq!(
            (&report["errored"], &report["mismatched"]),
            (&0.into(), &0.into())
        );
        report["response_us"]["p50"].as_f64().expect("a number")
    }
}

/// Returns the number of pending bytes that the server reports on SIGUSR1.
fn pending(serve: &Serve) -> u64 {
    const MARK: &str = " bytes pending, ";
    let line = serve.log_state(MARK);
    let (words, _) = line.rsplit_once(MARK).unwrap();
    let pending = words.rsplit(' ').next().and_then(number);
    pending.expect(&line)
}

/// Returns the bytes in the buffers of the server's connections: received, queued for sending, and
/// forward-allocated.
fn socket_memory(serve: &Serve) -> u64 {
    let mut ss = Command::new("ss");
    let port = format!(":{}", serve.address().port());
    ss.args(["-Htmn", "state", "established", "sport", "=", &port]);
    let output = ss.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_one = |skmem: &str| -> u64 {
        let fields = skmem.split([',', ')']);
        let counted = fields.filter_map(|field| {
            let number = field.strip_prefix(['r', 'w', 'f'])?;
            number.parse::<u64>().ok()
        });
        counted.sum()
    };
    text.split("skmem:(").skip(1).map(of_one).sum()
}

/// Returns the memory of all TCP sockets of this machine, in pages.
fn tcp_pages() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    let pages = line.rsplit_once("mem ").unwrap().1;
    pages.trim().parse().unwrap()
}

fn slab() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib << 10
}
