//! Tests a server under mixed load while it and its clients are stopped, clients are killed,
//! connections are destroyed in the kernel and descriptors run out: its totals must agree with the
//! clients' own counts and with the kernel's, and its memory must stay flat.
//!
//! `UPCASE_SOAK=30m` sets the duration, `UPCASE_SOAK_SEED=N` repeats a run's random choices. A run
//! consists of lives. In a gentle life no action may cost a connection, so that both ends must have
//! counted the same. In a rough one the remaining inequalities must hold, and no byte may be wrong.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::totals::{self, Totals};
use common::{ANY_PACE, Process, Serve, lab, peers, until, upcase};
use nix::sys::signal::Signal;
use upcase::load::plan::random::{Purpose, RandomStream};

const ADDRESS: &str = "127.0.0.1:12000";

/// The clients: bytes of a message, and the other arguments. Together they keep a CPU busy for a
/// small part of the time.
const CLIENTS: [(u64, &str); 5] = [
    (64, "--connections 100 --think 50ms"),
    (100_000, "--connections 20 --rate 100"),
    (1 << 20, "--connections 2 --think 200ms"),
    (64, "--connections 50 --rate 200 --churn 3 --close rst"),
    (1000, "--connections 200 --think 5s --churn 2"),
];

/// Maximum growth of a server's memory after a while at the same load: what its allocator kept of
/// the most that clients ever had pending.
const GROWTH: u64 = 2 << 20;

/// Number of samples of the memory, 100 ms apart.
const LOOKS: usize = 20;

#[test]
#[ignore = "a minute, or as UPCASE_SOAK says; needs root and ss"]
fn the_books_balance_and_memory_stays_flat() {
    if !common::installed("ss") {
        return common::skip("no ss (package iproute2)");
    }
    let time = env::var("UPCASE_SOAK").unwrap_or("30s".to_string());
    let time = humantime::parse_duration(&time).expect("a time such as 30m");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = env::var("UPCASE_SOAK_SEED").map_or(now.as_secs(), |seed| seed.parse().unwrap());
    println!("UPCASE_SOAK={}s UPCASE_SOAK_SEED={seed}", time.as_secs());
    let lives = (time.as_secs() / 15).clamp(2, 6) as u32;
    lab::alone(|| {
        // A server that ends leaves sockets in FIN_WAIT2 for clients that do not close; not for a
        // minute.
        std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "3").unwrap();
        for number in 0..lives {
            let character = match number % 2 {
                0 => Character::Gentle,
                _ => Character::Rough,
            };
            let random = RandomStream::new(seed, Purpose::Bytes, number.into());
            Life::begin(character, random).live(time / lives);
        }
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Character {
    /// Nothing may be lost.
    Gentle,
    /// Connections and clients are lost, and servers stop under their clients.
    Rough,
}

/// A server and its clients, for a part of the run.
struct Life {
    character: Character,
    random: RandomStream,
    drawn: u64,
    server: Serve,
    /// The sum of the totals of the servers that have ended.
    books: Totals,
    clients: Vec<Process>,
    /// The processes that are stopped, and until when; `None` is the server.
    stopped: BTreeMap<Option<usize>, Instant>,
    done: BTreeMap<&'static str, u64>,
}

impl Life {
    fn begin(character: Character, random: RandomStream) -> Life {
        Life {
            character,
            random,
            drawn: 0,
            server: start_server(),
            books: Totals::default(),
            clients: (0..CLIENTS.len()).map(start_client).collect(),
            stopped: BTreeMap::new(),
            done: BTreeMap::new(),
        }
    }

    fn live(mut self, time: Duration) {
        println!("a {:?} run", self.character);
        if self.character == Character::Gentle {
            self.suffer(time);
        } else {
            self.suffer(time / 2);
            // Another server takes the place of this one; the clients reconnect by themselves.
            self.end_server();
            self.server = start_server();
            self.suffer(time / 2);
        }
        self.end();
    }

    /// Carries out random actions; compares the memory at rest, before and after.
    fn suffer(&mut self, time: Duration) {
        let first = self.rest();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let name = self.act();
            *self.done.entry(name).or_default() += 1;
            let pause = 20 + self.draw(300);
            thread::sleep(Duration::from_millis(pause));
            self.wake(Instant::now());
        }
        let last = self.rest();
        println!("  {:?}", std::mem::take(&mut self.done));
        println!("  resident memory at rest: {first} bytes, at the end {last}");
        assert!(last <= first + GROWTH, "{first} bytes grew to {last}");
    }

    /// A random number below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        self.drawn += 1;
        self.random.at(self.drawn) % bound
    }

    /// Carries out one random action on the server or its clients, and returns its name.
    fn act(&mut self) -> &'static str {
        let kinds = match self.character {
            Character::Gentle => 5,
            Character::Rough => 8,
        };
        match self.draw(kinds) {
            0 => self.halt_server(),
            1 | 2 => self.halt_client(),
            3 => self.limit_descriptors(),
            4 => self.free_descriptors(),
            5 | 6 => self.tear_out(),
            _ => self.kill_client(),
        }
    }

    fn halt_server(&mut self) -> &'static str {
        let time = Duration::from_millis(1 + self.draw(500));
        self.server.process.signal(Signal::SIGSTOP);
        self.stopped.insert(None, Instant::now() + time);
        "server stopped"
    }

    fn halt_client(&mut self) -> &'static str {
        let client = self.draw(CLIENTS.len() as u64) as usize;
        let time = Duration::from_millis(1 + self.draw(3000));
        self.clients[client].signal(Signal::SIGSTOP);
        self.stopped.insert(Some(client), Instant::now() + time);
        "client stopped"
    }

    /// Continues the processes whose stop is over.
    fn wake(&mut self, now: Instant) {
        let (server, clients) = (&self.server, &self.clients);
        self.stopped.retain(|who, &mut until| {
            if until <= now {
                let process = who.map_or(&server.process, |client| &clients[client]);
                process.signal(Signal::SIGCONT);
            }
            until > now
        });
    }

    /// Limits the server to fewer descriptors than it has, or to a few more.
    fn limit_descriptors(&mut self) -> &'static str {
        let limit = 10 + self.draw(600);
        limit_descriptors(&self.server.process, &limit.to_string());
        "descriptors limited"
    }

    fn free_descriptors(&mut self) -> &'static str {
        limit_descriptors(&self.server.process, "");
        "descriptors freed"
    }

    /// Destroys a connection in the kernel, at its server's end or at its client's.
    fn tear_out(&mut self) -> &'static str {
        let ports: Vec<String> = sockets("state established sport = :12000")
            .lines()
            .filter_map(|line| Some(line.split_whitespace().last()?.rsplit_once(':')?.1.into()))
            .collect();
        if ports.is_empty() {
            return "no connection destroyed";
        }
        let port = &ports[self.draw(ports.len() as u64) as usize];
        let (here, there) = match self.draw(2) {
            0 => ("sport", "dport"),
            _ => ("dport", "sport"),
        };
        sockets(&format!("-K {here} = :12000 and {there} = :{port}"));
        "connection destroyed"
    }

    fn kill_client(&mut self) -> &'static str {
        let client = self.draw(CLIENTS.len() as u64) as usize;
        self.stopped.remove(&Some(client));
        // The old process is killed when it is dropped.
        self.clients[client] = start_client(client);
        "client killed"
    }

    /// Ends all disturbances, and waits until the kernel and the server agree on the connected
    /// clients. Returns the server's memory.
    fn rest(&mut self) -> u64 {
        self.wake(Instant::now() + Duration::from_secs(3600));
        limit_descriptors(&self.server.process, "");
        for client in &self.clients {
            peers::intervals(client, 1);
        }
        // The maximum of several samples, since the pending bytes vary.
        let mut resident = 0;
        for _ in 0..LOOKS {
            thread::sleep(Duration::from_millis(100));
            resident = resident.max(self.server.process.resident());
        }
        self.clients.iter().for_each(peers::halt);
        until(
            "the server and the kernel agree on the connected clients",
            || {
                let known = sockets("state established state close-wait sport = :12000");
                self.open() == known.lines().count() as u64
            },
        );
        for client in &self.clients {
            client.signal(Signal::SIGCONT);
        }
        resident
    }

    /// Returns the number of clients that the server reports.
    fn open(&self) -> u64 {
        const MARK: &str = " open, ";
        let line = self.server.log_state(MARK);
        let (open, totals) = line.rsplit_once(MARK).unwrap();
        let open = open
            .rsplit(' ')
            .next()
            .and_then(totals::number)
            .expect(&line);
        let totals: Totals = totals.split_once("pending, ").unwrap().1.parse().unwrap();
        assert_eq!(
            totals.accepted,
            open + totals.closed.values().sum::<u64>(),
            "{line}"
        );
        open
    }

    /// Stops the server, and adds its totals to the sum. Returns its exit code.
    fn end_server(&mut self) -> Option<i32> {
        self.server.process.signal(Signal::SIGTERM);
        let status = self.server.process.wait();
        self.server.process.wait_for_stderr("stopped: ");
        let log = self.server.process.stderr();
        let totals = log.lines().find_map(|line| line.split_once("stopped: "));
        let totals: Totals = totals.expect("the totals").1.parse().unwrap();
        println!("  {totals:?}");
        assert!(totals.balance(), "{totals:?}");
        self.books.accepted += totals.accepted;
        self.books.bytes_in += totals.bytes_in;
        self.books.bytes_out += totals.bytes_out;
        status.code()
    }

    /// Stops the server and the clients, and compares their totals.
    fn end(mut self) {
        let (reports, code) = match self.character {
            Character::Gentle => (self.end_clients(), self.end_server()),
            Character::Rough => {
                let code = self.end_server();
                (self.end_clients(), code)
            }
        };
        let sum = |field: &str| -> u64 {
            let numbers = reports.iter().map(|report| number(report, field));
            numbers.sum()
        };
        let verified = |(report, (size, _))| number(report, "verified") * size;
        let bytes: u64 = reports.iter().zip(CLIENTS).map(verified).sum();
        let (opened, errored) = (sum("connections_opened"), sum("errored"));
        println!("  the clients: {opened} connections, {bytes} bytes verified, {errored} errored");
        assert_eq!(sum("mismatched"), 0, "a wrong byte");
        let books = &self.books;
        match self.character {
            Character::Gentle => {
                assert_eq!(code, Some(0), "{}", self.server.process.stderr());
                assert_eq!(errored + sum("unanswered"), 0, "{reports:#?}");
                assert_eq!(opened, books.accepted);
                assert_eq!((bytes, bytes), (books.bytes_in, books.bytes_out));
            }
            // The counts of killed clients are unknown.
            Character::Rough => {
                assert!(matches!(code, Some(0 | 1)), "{code:?}");
                assert!(opened <= books.accepted, "{opened}, {books:?}");
                assert!(bytes <= books.bytes_out, "{bytes}, {books:?}");
            }
        }
        const HALF_OPEN: &str = "state close-wait state fin-wait-1 state fin-wait-2 state last-ack";
        until("no socket of the server is left", || {
            sockets(&format!("{HALF_OPEN} sport = :12000")).is_empty()
        });
    }

    /// Stops the clients in order, and reads their reports.
    fn end_clients(&mut self) -> Vec<serde_json::Value> {
        for client in &self.clients {
            client.signal(Signal::SIGTERM);
        }
        let ended = |client: &mut Process| client.ended().json();
        self.clients.iter_mut().map(ended).collect()
    }
}

fn start_server() -> Serve {
    Serve::launch(upcase(&format!("serve --listen {ADDRESS}")), 1)
}

fn start_client(number: usize) -> Process {
    let (size, arguments) = CLIENTS[number];
    Process::piped(upcase(&format!(
        "load {ADDRESS} --size {size} {arguments} --duration 24h --drain 10s --seed {number} \
         --format json -v {ANY_PACE}"
    )))
}

#[track_caller]
fn number(report: &serde_json::Value, field: &str) -> u64 {
    let number = report[field].as_u64();
    number.unwrap_or_else(|| panic!("{field} in {report:#}"))
}

/// Changes the soft limit; an empty one stands for the hard limit.
fn limit_descriptors(process: &Process, soft: &str) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line.unwrap().split_whitespace().nth(4).unwrap();
    let soft = if soft.is_empty() { hard } else { soft };
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &process.id().to_string()]);
    prlimit.arg(format!("--nofile={soft}:"));
    assert!(prlimit.status().unwrap().success());
}

/// Returns the output of `ss` about TCP sockets, a line each.
fn sockets(filter: &str) -> String {
    let mut ss = Command::new("ss");
    ss.arg("-Htn").args(filter.split_whitespace());
    let output = ss.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
