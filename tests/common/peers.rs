//! Servers and proxies in the test's own process, whose effect on a stream is known, so that the
//! expected report of `load` can be computed; and control over CPUs and processes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};

use super::{Process, TIMEOUT, connect, until};

/// Starts a server that handles each client by `behave` in a thread of its own. `behave` gets the
/// client's number in the order of accepting. The server ends with the test's process.
pub fn server(behave: impl Fn(usize, TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let behave = behave.clone();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || behave(number, stream));
        }
    });
    address
}

/// Starts a server that handles one read of any connection at a time and takes `work` for each, as
/// a server with one thread and so much work per message would.
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

/// Starts a proxy before a server. `before` gets what a client sent, and may delay it; `after` gets
/// the server's reply and returns what is sent to the client. Both get a state of the connection,
/// which `begin` creates from its number in the order of accepting.
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

/// Returns the command, changed to run on one CPU only and, where that is permitted, with real-time
/// priority (SCHED_RR): the test is not about other processes. Processes with the same priority get
/// time slices of 100 ms, see sched(7).
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

/// Returns the command, changed to run on one CPU only with normal priority: other processes get
/// their share of the CPU.
pub fn pinned_among_others(cpu: u32, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &cpu.to_string()]);
    pinned.arg(command.get_program()).args(command.get_args());
    pinned.stdin(Stdio::null());
    pinned
}

/// Moves the calling thread to one CPU; if `first`, with real-time priority where that is
/// permitted.
pub fn settle(cpu: u32, first: bool) {
    settle_with(cpu, u32::from(first));
}

/// Moves the calling thread to one CPU, with this real-time priority where that is permitted; 0:
/// with normal priority.
pub fn settle_with(cpu: u32, priority: u32) {
    let mut only = CpuSet::new();
    only.set(cpu as usize).unwrap();
    // If there is no such CPU, the thread stays where it is.
    let _ = sched_setaffinity(Pid::from_raw(0), &only);
    if priority > 0 {
        let mut chrt = Command::new("chrt");
        let (priority, thread) = (priority.to_string(), gettid().to_string());
        let _ = chrt.args(["--rr", "--pid", &priority, &thread]).output();
    }
}

/// Starts busy loops on one CPU, which run until they are dropped.
pub fn busy_loops(cpu: u32, count: usize) -> Vec<Process> {
    let mut busy_loop = Command::new("sh");
    busy_loop.args(["-c", "while :; do :; done"]);
    let start = |_| Process::start(pinned(cpu, &busy_loop));
    (0..count).map(start).collect()
}

/// Starts busy loops on one CPU with normal priority.
pub fn busy_loops_among_others(cpu: u32, count: usize) -> Vec<Process> {
    let mut busy_loop = Command::new("sh");
    busy_loop.args(["-c", "while :; do :; done"]);
    let start = |_| Process::start(pinned_among_others(cpu, &busy_loop));
    (0..count).map(start).collect()
}

/// Stops a process for a time. Returns the minimum and the maximum of the time for which it did not
/// run: from when the kernel showed it as stopped until SIGCONT was sent, and from when SIGSTOP was
/// sent until the kernel showed it as running again.
pub fn freeze(process: &Process, time: Duration) -> (Duration, Duration) {
    let reported = Instant::now();
    halt(process);
    let stopped = Instant::now();
    thread::sleep(time);
    let least = stopped.elapsed();
    process.signal(Signal::SIGCONT);
    while is_stopped(process) {
        std::hint::spin_loop();
    }
    (least, reported.elapsed())
}

/// Stops a process; returns when the kernel shows it as stopped.
pub fn halt(process: &Process) {
    process.signal(Signal::SIGSTOP);
    let deadline = Instant::now() + TIMEOUT;
    while !is_stopped(process) {
        assert!(Instant::now() < deadline, "it does not stop");
    }
}

/// Returns whether the kernel shows a process as stopped: state T in proc_pid_stat(5).
fn is_stopped(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Waits until a load run with `-v` has printed this number of intervals.
#[track_caller]
pub fn intervals(load: &Process, count: usize) {
    until("intervals are reported", || {
        load.stderr().matches("run ").count() >= count
    });
}

/// Answers messages in upper case until `go_on` returns false. `go_on` gets the number of earlier
/// reads and may corrupt the reply.
pub fn echo_while(mut stream: TcpStream, mut go_on: impl FnMut(usize, &mut [u8]) -> bool) {
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
