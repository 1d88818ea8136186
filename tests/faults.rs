//! The real server while system calls fail: strace makes the nth call of a kind return an error.
//!
//! After the faults every client that waits and every new one is served within 100 ms, nothing
//! panics, and the books balance. A case is told as strace's own expression, so that it can be
//! repeated by hand:
//!
//! ```text
//! strace -f -p PID -e inject=accept4:error=EMFILE:when=3
//! ```
//!
//! `UPCASE_FAULT=accept4:error=EMFILE:when=3` sweeps only the cases that begin so.
//!
//! Left out, since no kernel does it and no server can survive it:
//! - `EAGAIN` of accept4, recvfrom and sendto when there was something to do: an edge-triggered
//!   epoll does not tell it again.
//! - Errors that say "the next may be well" of accept4, and `EINTR`, for ever: trying again at once
//!   is the right answer to each one.
//! - A failing `sendto` in a signal's handler, or `recvfrom` on its pipe: the request to stop is
//!   lost. So the server is stopped when strace has left it.
//! - `ENOMEM` of mmap and brk: Rust's allocator ends the process.
//! - A `close` of a client that is not made: Linux gives the descriptor back and sends FIN whatever
//!   close(2) says, and strace can only leave the call out.

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
use common::{PATIENCE, Process, Serve, Temporary, connect, noise};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

/// What every server here is started with. The small buffer makes it send in parts. A call that
/// strace replaces would be one that the sandbox kills.
const ARGUMENTS: &str = "--send-buffer 16KiB --sandbox off";

/// The most that a client may wait once the fault is over.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

/// A case must hold in one of so many attempts where time is concerned: the machine is shared.
const ATTEMPTS: u32 = 3;

/// Cases at a time.
const WORKERS: usize = 3;

/// Each call of a kind is made to fail once, from the first to this one.
const CALLS: u32 = 20;

/// Clients of one case: enough for as many calls of each kind.
const ROUNDS: usize = 8;
const CLIENTS_PER_ROUND: usize = 3;

/// How long a fault lasts, at most, that goes on until strace leaves.
const LASTING: Duration = Duration::from_millis(1200);

/// CPU time of one case: a server that spins through [`LASTING`] takes 120 ticks.
const CPU_TICKS_MAX: u64 = 40;

/// What a failing call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Nothing that a client could see.
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

/// The client stays in the queue until there is room for it.
#[rustfmt::skip]
const EXHAUSTED: Fault =
    fault("accept4", Harm::None, &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"]);

/// What is swept, call by call.
#[rustfmt::skip]
const FAULTS: [Fault; 8] = [
    EXHAUSTED,
    // accept(2), "Error handling": network errors of a client that is lost; the next may be well.
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
    fault("epoll_pwait", Harm::None, &["EINTR"]),
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
    /// As strace wants it: `accept4:error=EMFILE:when=3`.
    inject: String,
    call: &'static str,
    harm: Harm,
}

impl Case {
    /// How the books name the end of a client whom this fault hit.
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
            // Several in a row as well: the pauses before accepting grow.
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

/// The loop cannot go on without these calls: it says so, and its clients hear the end.
#[test]
#[ignore = "sweeps system calls under strace"]
fn a_loop_that_has_lost_its_descriptors_ends_with_a_line_that_says_so() {
    if !common::installed("strace") {
        return common::skip("no strace");
    }
    for call in ["accept4", "epoll_pwait"] {
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
            common::hears_end(&mut client);
            let log = serve.process.stderr();
            let last = log.lines().last().unwrap_or_default();
            assert!(last.starts_with("upcase: "), "{inject}: {log}");
            assert!(last.contains(meaning), "{inject}: {log}");
            assert!(!log.contains("panicked"), "{inject}: {log}");
        }
    }
}

/// Calls of the start, and what they may say.
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

/// Whether the server does not come up because this call fails; otherwise there is no nth call.
fn start_fails(call: &str, error: &str, n: u32) -> bool {
    let binary = env!("CARGO_BIN_EXE_upcase");
    let listen = "serve --listen 127.0.0.1:0 --listen [::1]:0";
    let inject = format!("inject={call}:error={error}:when={n}");
    let mut command = Command::new("strace");
    // As a grandchild, so that the process that is started becomes the server.
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
    process.says("\n");
    let told = process.stderr();
    assert!(
        told.starts_with("upcase: ") && told.contains("os error"),
        "{inject}: {told}"
    );
    assert_eq!(told.lines().count(), 1, "{inject}: {told}");
    true
}

/// What fails while the server stops is seen by nobody either.
#[rustfmt::skip]
const STOPPING: [(&str, &[&str]); 6] = [
    ("epoll_pwait", &["EINTR"]),
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

/// The server is stopped with a client in its queue, one who is silent and one who reads late.
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
    common::hears_end(&mut silent);
    // The server has looked at its clients meanwhile, and owes this one much.
    let replies = common::read(&mut late, message.len());
    assert!(replies == message.to_ascii_uppercase(), "{inject}");
    common::hears_end(&mut late);
    common::hears_end(&mut queued);
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

/// A client with a receive buffer that holds little.
fn slow_reader(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Only a server that takes the first step sends FIN by itself: here to clients that idle.
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

/// Runs all cases, some at a time, and tells the longest that a client waited after a fault.
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

/// One case, until it holds in time; the books must balance in every attempt.
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

/// Clients come and go while calls fail, and afterwards. Tells the longest wait.
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
    // A fault that lasts until strace leaves is over then; another with its last call.
    let ends = times
        .iter()
        .copied()
        .chain(case.inject.ends_with('+').then_some(over));
    let ends: Vec<SystemTime> = ends.collect();
    let waits = visits.iter().flatten().map(|visit| visit.wait(&ends));
    Ok(waits.max().unwrap_or_default())
}

/// A client that was answered: when it had sent its message, and when the last byte was back.
#[derive(Clone, Copy, Debug)]
struct Visit {
    sent: SystemTime,
    answered: SystemTime,
}

impl Visit {
    /// How long it waited while no fault kept the server from answering.
    fn wait(&self, ends: &[SystemTime]) -> Duration {
        let before = ends.iter().filter(|end| **end < self.answered).max();
        let since = before.map_or(self.sent, |end| self.sent.max(*end));
        self.answered.duration_since(since).unwrap_or_default()
    }
}

/// Some clients at a time, one of them with a message that is sent in parts. `None` is one that
/// was lost; a wrong byte or a client that hears nothing at all is an error.
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
                _ => Err(format!("a client was left alone: {error}")),
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

/// Stops the server, and holds its totals against what the clients saw. Gives its log.
fn check_books(
    mut serve: Serve,
    case: &Case,
    visits: &[Option<Visit>],
    faults: usize,
) -> Result<String, String> {
    serve.process.signal(Signal::SIGTERM);
    let code = serve.process.wait().code();
    serve.process.says("stopped: ");
    let log = serve.process.stderr();
    let line = log.rsplit_once("stopped: ").map_or("", |(_, line)| line);
    let totals: Totals = line.trim_end().parse()?;
    let told = || format!("{faults} faults, exit code {code:?}: {log}");
    let lost = visits.iter().filter(|visit| visit.is_none()).count();
    let unfinished = totals.accepted - totals.closed("finished");
    let most = match case.harm {
        Harm::None => 0,
        Harm::OneClient => faults,
    };
    if code != Some(0) || log.contains("panicked") {
        return Err(told());
    }
    if !totals.balance() || totals.accepted != visits.len() as u64 {
        return Err(format!("the books of {} clients: {}", visits.len(), told()));
    }
    if lost > most || unfinished > most as u64 {
        return Err(format!("{lost} clients lost: {}", told()));
    }
    let strange = |reason: &&String| *reason != "finished" && *reason != case.end();
    if totals.closed.keys().any(|reason| strange(&reason)) {
        return Err(format!("an end of another name: {}", told()));
    }
    if faults == 0 {
        return Err(format!("no call was made to fail: {}", told()));
    }
    Ok(log)
}

/// strace beside a server.
struct Strace {
    process: Process,
    log: Temporary,
}

/// The faults that there were.
struct Faults {
    /// When each call failed.
    times: Vec<SystemTime>,
    /// When it was certain that no other would.
    over: SystemTime,
}

impl Strace {
    /// Makes calls fail from now on.
    fn attach(server: &Process, inject: &str) -> Strace {
        let log = Temporary::new(b"");
        let mut command = Command::new("strace");
        let call = inject.split(':').next().unwrap_or_default();
        command.args(["-f", "-ttt", "-o"]).arg(&log.0);
        command.args(["-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={inject}")]);
        command.args(["-p", &server.id().to_string()]);
        let process = Process::start(command);
        process.says("attached");
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
