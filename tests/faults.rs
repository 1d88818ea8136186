//! Tests the real server while its system calls fail: strace makes the nth call of a kind return an
//! error.
//!
//! After the faults every waiting client and every new one is served within 100 ms, nothing panics,
//! and the totals balance. A case is printed as strace's own expression, so that it can be repeated
//! by hand:
//!
//! ```text
//! strace -f -p PID -e inject=accept4:error=EMFILE:when=3
//! ```
//!
//! `UPCASE_FAULT=accept4:error=EMFILE:when=3` runs only the cases that begin with this text.
//!
//! Left out, since no kernel does it and no server can survive it:
//! - `EAGAIN` of accept4, recvfrom and sendto when the call could have proceeded: an edge-triggered
//!   epoll does not report the readiness again.
//! - Endless `EINTR`, and endless errors of accept4 after which the next call may succeed: an
//!   immediate retry is the right response to each one.
//! - A failing `sendto` in a signal handler, or `recvfrom` on its pipe: the request to stop is
//!   lost. So the server is stopped after strace has detached.
//! - `ENOMEM` of mmap and brk: Rust's allocator ends the process.
//! - A `close` of a client that is not executed: Linux releases the descriptor and sends FIN
//!   whatever close(2) returns, and strace can only suppress the call.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::log::check_rate;
use common::totals::Totals;
use common::{Process, Serve, TIMEOUT, Temporary, connect, noise};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

/// The system call with which mio waits.
const WAIT: &str = if cfg!(target_arch = "x86_64") {
    "epoll_wait"
} else {
    "epoll_pwait"
};

/// Arguments of every server in this file. The small buffer makes the server send in parts. The
/// sandbox is off, since it would kill the process for a call that strace replaces.
const ARGUMENTS: &str = "--send-buffer 16KiB --sandbox off";

/// Maximum time that a client may wait once the fault is over.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

/// Number of attempts of which one must hold where time is concerned: the machine is shared.
const ATTEMPTS: u32 = 3;

/// Number of cases that run at a time.
const WORKERS: usize = 3;

/// Number of calls of a kind that are made to fail, each one in a case of its own.
const CALLS: u32 = 20;

/// Number of rounds of clients in one case: enough for as many calls of each kind.
const ROUNDS: usize = 8;
const CLIENTS_PER_ROUND: usize = 3;

/// Maximum duration of a fault that lasts until strace detaches.
const LASTING: Duration = Duration::from_millis(1200);

/// Maximum CPU time of one case: a server that spins through [`LASTING`] takes 120 ticks.
const CPU_TICKS_MAX: u64 = 40;

/// The harm that a failing call may do to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// No harm that a client could see.
    None,
    /// Each fault may end one client, for a named reason.
    OneClient,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    errors: &'static [&'static str],
    harm: Harm,
}

const fn fault(call: &'static str, harm: Harm, errors: &'static [&'static str]) -> Fault {
    Fault { call, errors, harm }
}

/// Faults after which the client stays in the accept queue until there is room for it.
#[rustfmt::skip]
const EXHAUSTED: Fault =
    fault("accept4", Harm::None, &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"]);

/// The faults of the sweeps.
#[rustfmt::skip]
const FAULTS: [Fault; 8] = [
    EXHAUSTED,
    // accept(2), "Error handling": network errors of a lost client; the next call may succeed.
    fault("accept4", Harm::None, &[
        "EINTR", "ECONNABORTED", "EPROTO", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH",
        "ENONET", "ENOPROTOOPT", "EOPNOTSUPP", "ETIMEDOUT",
    ]),
    fault("recvfrom", Harm::None, &["EINTR"]),
    fault("recvfrom", Harm::OneClient, &[
        "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ENOMEM", "ENOBUFS",
    ]),
    fault("sendto", Harm::None, &["EINTR"]),
    fault("sendto", Harm::OneClient, &[
        "EPIPE", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ENOMEM", "ENOBUFS",
    ]),
    fault("epoll_ctl", Harm::OneClient, &["ENOMEM", "ENOSPC"]),
    fault(WAIT, Harm::None, &["EINTR"]),
];

impl Fault {
    fn cases(&self, when: &str) -> impl Iterator<Item = Case> {
        let Fault { call, errors, harm } = *self;
        errors.iter().map(move |error| Case {
            inject: format!("{call}:error={error}:when={when}"),
            call,
            harm,
        })
    }
}

/// One fault at certain calls.
#[derive(Clone, Debug)]
struct Case {
    /// The fault in strace's syntax: `accept4:error=EMFILE:when=3`.
    inject: String,
    call: &'static str,
    harm: Harm,
}

impl Case {
    /// Returns the close reason under which the totals count a client that this fault ended.
    fn end(&self) -> &'static str {
        let error = self.inject.split(['=', ':']).nth(2).unwrap_or_default();
        match error {
            "ECONNRESET" | "EPIPE" | "ENOTCONN" => "reset",
            "ETIMEDOUT" | "EHOSTUNREACH" | "ENETUNREACH" => "timed out",
            _ => "failed",
        }
    }
}

#[test]
#[ignore = "sweeps system calls under strace"]
fn after_each_call_that_fails_every_client_is_served() {
    let mut cases = Vec::new();
    for fault in FAULTS {
        for n in 1..=CALLS {
            cases.extend(fault.cases(&n.to_string()));
            // Several calls in a row as well, since the accept pause grows with each failure.
            cases.extend(fault.cases(&format!("{n}..{}", n + 3)));
        }
    }
    sweep(cases);
}

#[test]
#[ignore = "sweeps system calls under strace"]
fn after_faults_that_last_every_client_is_served() {
    let lasting = |fault: &&Fault| {
        fault.call != "accept4" && fault.errors != ["EINTR"] || fault.errors == EXHAUSTED.errors
    };
    let mut cases = Vec::new();
    for fault in FAULTS.iter().filter(lasting) {
        cases.extend(["1+", "6+"].iter().flat_map(|when| fault.cases(when)));
    }
    sweep(cases);
}

/// The event loop cannot continue without these calls: the process ends with a line that names the
/// error, and its clients receive the end of their connections.
#[test]
#[ignore = "sweeps system calls under strace"]
fn a_loop_that_has_lost_its_descriptors_ends_with_a_line_that_says_so() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    for call in ["accept4", WAIT] {
        for (error, meaning) in [
            ("EBADF", "Bad file descriptor"),
            ("EINVAL", "Invalid argument"),
            ("EFAULT", "Bad address"),
        ] {
            let mut serve = Serve::start(ARGUMENTS);
            let mut client = serve.connect();
            client.write_all(b"abc").unwrap();
            assert_eq!(common::read(&mut client, 3), b"ABC");
            let inject = format!("{call}:error={error}:when=1");
            let strace = Strace::attach(&serve.process, &inject);
            let other = TcpStream::connect(serve.address());
            assert_eq!(serve.process.wait().code(), Some(3), "{inject}");
            drop((strace, other));
            common::expect_fin(&mut client);
            let log = serve.process.stderr();
            let last = log.lines().last().unwrap_or_default();
            assert!(last.starts_with("upcase: "), "{inject}: {log}");
            assert!(last.contains(meaning), "{inject}: {log}");
            assert!(!log.contains("panicked"), "{inject}: {log}");
        }
    }
}

/// System calls at the start, and the errors that they may return.
#[rustfmt::skip]
const START: [(&str, &[&str]); 10] = [
    ("epoll_create1", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("timerfd_create", &["EMFILE", "ENFILE", "ENOMEM"]),
    ("socketpair", &["EMFILE", "ENFILE"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    ("socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES", "EAFNOSUPPORT"]),
    ("setsockopt", &["ENOBUFS", "ENOMEM", "ENOPROTOOPT"]),
    ("getsockopt", &["ENOBUFS"]),
    ("bind", &["EADDRINUSE", "EADDRNOTAVAIL", "EACCES"]),
    ("listen", &["EADDRINUSE"]),
    ("getsockname", &["ENOBUFS"]),
];

#[test]
#[ignore = "sweeps system calls under strace"]
fn a_start_that_fails_is_one_line_and_exit_code_3() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    for (call, errors) in START {
        for error in errors {
            let failed = (1..=CALLS).take_while(|n| start_fails(call, error, *n));
            assert!(failed.count() > 0, "no {call} was made to fail");
        }
    }
}

/// Returns whether the server fails to start because of this call. Otherwise there is no nth call.
fn start_fails(call: &str, error: &str, n: u32) -> bool {
    let binary = env!("CARGO_BIN_EXE_upcase");
    let listen = "serve --listen 127.0.0.1:0 --listen [::1]:0";
    let inject = format!("inject={call}:error={error}:when={n}");
    let mut command = Command::new("strace");
    // strace runs as a grandchild (`-D`), so that the started process becomes the server.
    command.args(["-D", "-f", "-o", "/dev/null", "-e", &inject, binary]);
    command.args(
        listen
            .split_whitespace()
            .chain(ARGUMENTS.split_whitespace()),
    );
    command.stdout(Stdio::piped());
    let mut process = Process::start(command);
    let mut first = [0; 12];
    let stdout = process.child().stdout.as_mut().expect("a pipe");
    if stdout.read_exact(&mut first).is_ok() {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait().code(), Some(0), "{inject}");
        return false;
    }
    assert_eq!(
        process.wait().code(),
        Some(3),
        "{inject}: {}",
        process.stderr()
    );
    process.wait_for_stderr("\n");
    let reported = process.stderr();
    assert!(
        reported.starts_with("upcase: ") && reported.contains("os error"),
        "{inject}: {reported}"
    );
    assert_eq!(reported.lines().count(), 1, "{inject}: {reported}");
    true
}

/// System calls during the stop, and errors of theirs that no client may notice.
#[rustfmt::skip]
const STOPPING: [(&str, &[&str]); 6] = [
    (WAIT, &["EINTR"]),
    ("recvfrom", &["EINTR"]),
    ("accept4", &["EINTR", "ECONNABORTED", "EMFILE", "ENOMEM"]),
    ("getsockopt", &["ENOBUFS", "ENOMEM"]),
    ("close", &["EINTR", "EIO"]),
    ("write", &["EPIPE", "EIO", "ENOSPC", "EAGAIN"]),
];

#[test]
#[ignore = "sweeps system calls under strace"]
fn a_call_that_fails_while_the_server_stops_costs_no_client_its_replies() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let cases: Vec<(&str, String)> = STOPPING
        .iter()
        .flat_map(|(call, errors)| errors.iter().map(move |error| (call, error)))
        .flat_map(|(call, error)| {
            let inject = move |when| (*call, format!("{call}:error={error}:when={when}"));
            ["1", "2", "3", "5", "8", "1..4"].map(inject)
        })
        .collect();
    let share = cases.len().div_ceil(4 * WORKERS);
    thread::scope(|scope| {
        for cases in cases.chunks(share) {
            scope.spawn(|| {
                cases
                    .iter()
                    .for_each(|(call, inject)| stop_under(call, inject))
            });
        }
    });
}

/// Stops a server with one client in its accept queue, a silent one and one that reads late.
fn stop_under(call: &str, inject: &str) {
    let mut serve = Serve::start(ARGUMENTS);
    let mut silent = serve.connect();
    silent.write_all(b"abc").unwrap();
    assert_eq!(common::read(&mut silent, 3), b"ABC");
    let mut late = slow_reader(serve.address());
    let message = noise(100_000);
    late.write_all(&message).unwrap();
    common::peers::halt(&serve.process);
    let mut queued = serve.connect();
    queued.write_all(b"def").unwrap();
    let strace = Strace::attach(&serve.process, inject);
    serve.process.signal(Signal::SIGTERM);
    serve.process.signal(Signal::SIGCONT);
    assert_eq!(common::read(&mut queued, 3), b"DEF", "{inject}");
    common::expect_fin(&mut silent);
    // The server has checked its clients by now, and has many bytes pending for this one.
    let replies = common::read(&mut late, message.len());
    assert!(replies == message.to_ascii_uppercase(), "{inject}");
    common::expect_fin(&mut late);
    common::expect_fin(&mut queued);
    drop((silent, late, queued));
    assert_eq!(serve.process.wait().code(), Some(0), "{inject}");
    let log = serve.process.stderr();
    assert!(!log.contains("panicked"), "{inject}: {log}");
    if call != "write" {
        let totals: Totals = serve.ends(0).parse().unwrap();
        assert_eq!(totals.closed("stopped"), 3, "{inject}: {totals:?}");
        assert_eq!(totals.bytes_out, 100_006, "{inject}: {totals:?}");
    }
    let faults = strace.ended().times.len();
    assert!(
        faults > 0 || !inject.ends_with("when=1"),
        "{inject}: no call was made to fail"
    );
}

/// Returns a client with a small receive buffer.
fn slow_reader(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.into()
}

/// Only a server that closes first sends FIN by itself: here, because its clients are idle.
#[test]
#[ignore = "sweeps system calls under strace"]
fn a_fin_that_cannot_be_sent_ends_that_client_alone() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    for (error, end) in [
        ("ENOTCONN", "reset"),
        ("ENOBUFS", "failed"),
        ("EINTR", "failed"),
    ] {
        let mut serve = Serve::start(&format!("{ARGUMENTS} --idle-timeout 400ms"));
        let inject = format!("shutdown:error={error}:when=1");
        let strace = Strace::attach(&serve.process, &inject);
        let mut clients = [serve.connect(), serve.connect()];
        for client in &mut clients {
            client.write_all(b"abc").unwrap();
            assert_eq!(common::read(client, 3), b"ABC", "{inject}");
        }
        for client in &mut clients {
            let rest = client.read_to_end(&mut Vec::new());
            let kind = rest.as_ref().map_err(io::Error::kind);
            let is_over = matches!(kind, Ok(0) | Err(io::ErrorKind::ConnectionReset));
            assert!(is_over, "{inject}: {rest:?}");
        }
        drop(clients);
        assert_eq!(strace.detach().times.len(), 1, "{inject}");
        serve.process.signal(Signal::SIGTERM);
        let totals: Totals = serve.ends(0).parse().unwrap();
        assert_eq!(totals.closed(end), 1, "{inject}: {totals:?}");
        assert_eq!(totals.closed("idle"), 1, "{inject}: {totals:?}");
    }
}

/// Runs all cases, some at a time, and prints the longest time that a client waited after a fault.
fn sweep(mut cases: Vec<Case>) {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    let wanted = std::env::var("UPCASE_FAULT").unwrap_or_default();
    cases.retain(|case| case.inject.starts_with(&wanted));
    let count = cases.len();
    let cases = Mutex::new(cases);
    let failures = Mutex::new(Vec::new());
    let waits = Mutex::new(BTreeMap::<&str, Duration>::new());
    let next = || cases.lock().unwrap().pop();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = next() {
                    match hold(&case) {
                        Ok(wait) => {
                            let mut waits = waits.lock().unwrap();
                            let longest = waits.entry(case.call).or_default();
                            *longest = wait.max(*longest);
                        }
                        Err(failure) => {
                            let inject = &case.inject;
                            let failure = format!("strace -e inject={inject}: {failure}");
                            failures.lock().unwrap().push(failure);
                        }
                    }
                }
            });
        }
    });
    let waits = waits.into_inner().unwrap();
    println!("{count} cases; the longest wait after a fault: {waits:?}");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Repeats a case until it holds in time. The totals must balance in every attempt.
fn hold(case: &Case) -> Result<Duration, String> {
    let mut waits = Vec::new();
    for _ in 0..ATTEMPTS {
        let wait = attempt(case)?;
        if wait <= SERVED_WITHIN {
            return Ok(wait);
        }
        waits.push(wait);
    }
    Err(format!("clients waited {waits:?} after the fault"))
}

/// Runs clients while calls fail, and afterwards. Returns the longest wait.
fn attempt(case: &Case) -> Result<Duration, String> {
    let serve = Serve::start(ARGUMENTS);
    let strace = Strace::attach(&serve.process, &case.inject);
    let address = serve.address();
    let ticks = serve.process.cpu_ticks();
    let (mut visits, over) = thread::scope(|scope| {
        let day = scope.spawn(move || {
            let rounds = (0..ROUNDS).map(|_| round(address));
            rounds.collect::<Result<Vec<_>, String>>()
        });
        let begun = Instant::now();
        while !day.is_finished() && begun.elapsed() < LASTING {
            thread::sleep(Duration::from_millis(1));
        }
        let faults = strace.detach();
        Ok::<_, String>((day.join().expect("no panic")?.concat(), faults))
    })?;
    let spent = serve.process.cpu_ticks() - ticks;
    let Faults { times, over } = over;
    visits.extend(round(address)?);
    let log = check_books(serve, case, &visits, times.len())?;
    if spent > CPU_TICKS_MAX {
        return Err(format!("{spent} ticks of CPU time"));
    }
    check_rate(&log)?;
    // A lasting fault ends when strace detaches; any other fault ends with its last call.
    let ends = times
        .iter()
        .copied()
        .chain(case.inject.ends_with('+').then_some(over));
    let ends: Vec<SystemTime> = ends.collect();
    let waits = visits.iter().flatten().map(|visit| visit.wait(&ends));
    Ok(waits.max().unwrap_or_default())
}

/// A client that received its reply, with the times at which it had sent its message and received
/// the last byte.
#[derive(Clone, Copy, Debug)]
struct Visit {
    sent: SystemTime,
    answered: SystemTime,
}

impl Visit {
    /// Returns how long the client waited while no fault kept the server from replying.
    fn wait(&self, ends: &[SystemTime]) -> Duration {
        let before = ends.iter().filter(|end| **end < self.answered).max();
        let since = before.map_or(self.sent, |end| self.sent.max(*end));
        self.answered.duration_since(since).unwrap_or_default()
    }
}

/// Runs some clients at a time, one of them with a message that is sent in parts. `None` is a
/// client whose connection was lost; a wrong byte, or a client that gets neither a reply nor an
/// end, is an error.
fn round(address: SocketAddr) -> Result<Vec<Option<Visit>>, String> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS_PER_ROUND {
        let message = noise(if number == 0 { 40_000 } else { 100 });
        let mut stream = connect(address);
        let sent = stream.write_all(&message);
        clients.push((stream, message, sent.map(|()| SystemTime::now())));
    }
    let visits = clients.into_iter().map(|(mut stream, message, sent)| {
        match sent.and_then(|sent| converse(&mut stream, &message, sent)) {
            Ok(visit) => Ok(Some(visit)),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(format!("a client was not served: {error}")),
            },
        }
    });
    visits.collect()
}

fn converse(stream: &mut TcpStream, message: &[u8], sent: SystemTime) -> io::Result<Visit> {
    let mut reply = vec![0; message.len()];
    stream.read_exact(&mut reply)?;
    let answered = SystemTime::now();
    if reply != message.to_ascii_uppercase() {
        return Err(io::Error::other("the reply is wrong"));
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut reply)? {
        0 => Ok(Visit { sent, answered }),
        _ => Err(io::Error::other("surplus bytes")),
    }
}

/// Stops the server, and compares its totals with the results of the clients. Returns its log.
fn check_books(
    mut serve: Serve,
    case: &Case,
    visits: &[Option<Visit>],
    faults: usize,
) -> Result<String, String> {
    serve.process.signal(Signal::SIGTERM);
    let code = serve.process.wait().code();
    serve.process.wait_for_stderr("stopped: ");
    let log = serve.process.stderr();
    let line = log.rsplit_once("stopped: ").map_or("", |(_, line)| line);
    let totals: Totals = line.trim_end().parse()?;
    let reported = || format!("{faults} faults, exit code {code:?}: {log}");
    let lost = visits.iter().filter(|visit| visit.is_none()).count();
    let unfinished = totals.accepted - totals.closed("finished");
    let most = match case.harm {
        Harm::None => 0,
        Harm::OneClient => faults,
    };
    if code != Some(0) || log.contains("panicked") {
        return Err(reported());
    }
    if !totals.balance() || totals.accepted != visits.len() as u64 {
        return Err(format!(
            "wrong totals for {} clients: {}",
            visits.len(),
            reported()
        ));
    }
    if lost > most || unfinished > most as u64 {
        return Err(format!("{lost} clients lost: {}", reported()));
    }
    let strange = |reason: &&String| *reason != "finished" && *reason != case.end();
    if totals.closed.keys().any(|reason| strange(&reason)) {
        return Err(format!("an unexpected close reason: {}", reported()));
    }
    if faults == 0 {
        return Err(format!("no call was made to fail: {}", reported()));
    }
    Ok(log)
}

/// A strace process that is attached to a server.
struct Strace {
    process: Process,
    log: Temporary,
}

/// The faults that occurred.
struct Faults {
    /// The time at which each call failed.
    times: Vec<SystemTime>,
    /// The time from which no further call could fail.
    over: SystemTime,
}

impl Strace {
    /// Attaches to a server, and makes its calls fail from now on.
    fn attach(server: &Process, inject: &str) -> Strace {
        let log = Temporary::new(b"");
        let mut command = Command::new("strace");
        let call = inject.split(':').next().unwrap_or_default();
        command.args(["-f", "-ttt", "-o"]).arg(&log.0);
        command.args(["-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={inject}")]);
        command.args(["-p", &server.id().to_string()]);
        let process = Process::start(command);
        process.wait_for_stderr("attached");
        Strace { process, log }
    }

    fn detach(self) -> Faults {
        self.process.signal(Signal::SIGINT);
        self.ended()
    }

    fn ended(mut self) -> Faults {
        self.process.wait();
        let over = SystemTime::now();
        let log = fs::read_to_string(&self.log.0).unwrap();
        let injected = log.lines().filter(|line| line.ends_with("(INJECTED)"));
        let time = |line: &str| {
            let seconds = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
        };
        let times = injected.filter_map(time).collect();
        Faults { times, over }
    }
}
