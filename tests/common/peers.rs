//! Servers and proxies of the tests, in the test's own process: what they do to a stream is known,
//! so that what `load` should say of it can be computed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};

use super::{PATIENCE, Process, connect, until};

/// A server that serves every client with `behave` in a thread of its own, which gets the client's
/// place in the order of accepting. It ends with the test's process.
pub fn server(behave: impl Fn(usize, TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let behave = behave.clone();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || behave(number, stream));
        }
    });
    address
}

/// A server that does each message of `size` bytes in turn, all connections one after the other in
/// one thread, as a server with so much work for every message would.
pub fn slow_server(work: Duration) -> SocketAddr {
    let turn = Arc::new(Mutex::new(()));
    server(move |_, mut stream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            let turn = turn.lock().unwrap();
            thread::sleep(work);
            drop(turn);
            bytes[..count].make_ascii_uppercase();
            if stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    })
}

/// A proxy before a server: `before` sees what a client sent, and may take its time; `after` gets
/// the server's reply to it and makes what the client is sent. Both get the connection's place in
/// the order of accepting, and may keep a state of it.
pub fn proxy<S: Send + 'static>(
    upstream: SocketAddr,
    begin: impl Fn(usize) -> S + Send + Sync + Clone + 'static,
    before: impl Fn(&mut S, &[u8]) + Send + Sync + Clone + 'static,
    after: impl Fn(&mut S, Vec<u8>) -> Vec<u8> + Send + Sync + Clone + 'static,
) -> SocketAddr {
    server(move |place, mut client| {
        let mut state = begin(place);
        let mut server = connect(upstream);
        server.set_nodelay(true).unwrap();
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            before(&mut state, &bytes[..count]);
            server.write_all(&bytes[..count]).unwrap();
            let mut reply = vec![0; count];
            server.read_exact(&mut reply).unwrap();
            if client.write_all(&after(&mut state, reply)).is_err() {
                return;
            }
        }
    })
}

/// A command that may run on one CPU only, and there before what else the machine does, where that
/// is allowed: other processes are not what is tested. The scheduler takes turns of 100 ms with
/// those that run in the same way, see sched(7).
pub fn pinned(cpu: u32, command: &Command) -> Command {
    let mut attempt = Command::new("chrt");
    let allowed = attempt.args(["--rr", "1", "true"]).output();
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &cpu.to_string()]);
    if allowed.is_ok_and(|output| output.status.success()) {
        pinned.args(["chrt", "--rr", "1"]);
    }
    pinned.arg(command.get_program()).args(command.get_args());
    pinned.stdin(Stdio::null());
    pinned
}

/// The same without a place before others: what else the machine does takes its share of the CPU.
pub fn pinned_among_others(cpu: u32, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &cpu.to_string()]);
    pinned.arg(command.get_program()).args(command.get_args());
    pinned.stdin(Stdio::null());
    pinned
}

/// Moves the calling thread to one CPU; `first`: before what else this CPU does, where that is
/// allowed.
pub fn settle(cpu: u32, first: bool) {
    let mut only = CpuSet::new();
    only.set(cpu as usize).unwrap();
    // Where there is no such CPU it stays where it is.
    let _ = sched_setaffinity(Pid::from_raw(0), &only);
    if first {
        let mut chrt = Command::new("chrt");
        let thread = gettid().to_string();
        let _ = chrt.args(["--rr", "--pid", "1", &thread]).output();
    }
}

/// Busy loops on one CPU, until they are dropped.
pub fn hogs(cpu: u32, count: usize) -> Vec<Process> {
    let mut hog = Command::new("sh");
    hog.args(["-c", "while :; do :; done"]);
    let start = |_| Process::start(pinned(cpu, &hog));
    (0..count).map(start).collect()
}

/// The same without a place before others.
pub fn hogs_among_others(cpu: u32, count: usize) -> Vec<Process> {
    let mut hog = Command::new("sh");
    hog.args(["-c", "while :; do :; done"]);
    let start = |_| Process::start(pinned_among_others(cpu, &hog));
    (0..count).map(start).collect()
}

/// Stops a process for so long. Tells how long it stood still at least and at most: from when the
/// kernel showed it as stopped until it was told to go on, and from when it was told to stop until
/// it was shown to go on.
pub fn freeze(process: &Process, time: Duration) -> (Duration, Duration) {
    let told = Instant::now();
    halt(process);
    let stopped = Instant::now();
    thread::sleep(time);
    let least = stopped.elapsed();
    process.signal(Signal::SIGCONT);
    while is_stopped(process) {
        std::hint::spin_loop();
    }
    (least, told.elapsed())
}

/// Stops a process, and returns when it stands still.
pub fn halt(process: &Process) {
    process.signal(Signal::SIGSTOP);
    let deadline = Instant::now() + PATIENCE;
    while !is_stopped(process) {
        assert!(Instant::now() < deadline, "it does not stop");
    }
}

/// Whether the kernel shows a process as stopped: state T in proc_pid_stat(5).
fn is_stopped(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Waits until a load run with `-v` has told so many intervals.
#[track_caller]
pub fn intervals(load: &Process, count: usize) {
    until("intervals are told", || {
        load.stderr().matches("run ").count() >= count
    });
}

/// Answers messages in upper case while `go_on` says so, which gets the number of the reads before
/// and may spoil the reply.
pub fn send_and_spoil(mut stream: TcpStream, mut go_on: impl FnMut(usize, &mut [u8]) -> bool) {
    let mut bytes = [0; 4096];
    let mut number = 0;
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let reply = &mut bytes[..count];
        reply.make_ascii_uppercase();
        if !go_on(number, reply) || stream.write_all(reply).is_err() {
            return;
        }
        number += 1;
    }
}
