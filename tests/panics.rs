//! Tests a panic in one thread: the other threads continue and end in order.
//!
//! Nothing in the product panics on purpose. So strace makes a read from the pipe of requests
//! return more bytes than its buffer holds, which no kernel does. Inside the sandbox, which strace
//! would violate, a logger of this test panics while a client is accepted.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Process, Serve, installed, skip, until, upcase};
use log::{LevelFilter, Log, Metadata, Record};
use nix::sys::signal::Signal;
use upcase::logging;
use upcase::server::{Config, Server};
use upcase::sys::sandbox::Sandbox;

/// Environment variable that makes this process a server in its sandbox, and names the thread that
/// is to panic.
const ATTEMPT: &str = "UPCASE_TEST_PANIC";

/// Number of clients of one server: each shard gets some, except in one case in a billion.
const CLIENTS: usize = 32;

/// A read that returns more bytes than its buffer holds.
const INJECT: &str = "inject=recvfrom:retval=1000:when=1";

/// Returns the thread id of a shard.
fn thread_of(shard: usize, process: &Process) -> String {
    if shard == 0 {
        return process.id().to_string();
    }
    let task = process.thread(&format!("shard {shard}"));
    task.file_name().unwrap().to_str().unwrap().to_string()
}

/// Returns whether a client gets its reply; otherwise its connection has ended.
fn is_answered(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    let asked = client.write_all(b"x");
    match asked.and_then(|()| client.read(&mut byte)) {
        Ok(1) => byte == *b"X",
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => false,
        Err(error) => panic!("a client is not served: {error}"),
    }
}

#[test]
fn whichever_shard_panics_the_others_serve_their_clients_to_the_end() {
    if !installed("strace") {
        return skip("no strace");
    }
    for (shards, victim, backtrace) in [(1, 0, "0"), (2, 0, "1"), (2, 1, "0"), (3, 2, "0")] {
        let reported = format!("shard {victim} of {shards}");
        let mut command = upcase(&format!(
            "serve --listen 127.0.0.1:0 --sandbox off --shards {shards}"
        ));
        command.env("RUST_BACKTRACE", backtrace);
        let mut serve = Serve::launch(command, 1);
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| serve.connect()).collect();
        assert!(clients.iter_mut().all(is_answered), "{reported}");

        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-e", "trace=recvfrom", "-e", INJECT]);
        command.args(["-p", &thread_of(victim, &serve.process)]);
        let strace = Process::start(command);
        strace.wait_for_stderr("attached");
        serve.process.signal(Signal::SIGUSR1);
        serve
            .process
            .wait_for_stderr("panicked at src/reactor/signals.rs");
        if shards > 1 {
            serve.process.wait_for_stderr("stopping: ");
        }
        let answered = clients
            .iter_mut()
            .filter_map(|client| is_answered(client).then_some(()));
        let answered = answered.count();
        drop(clients);
        assert_eq!(serve.process.wait().code(), Some(3), "{reported}");
        drop(strace);
        let log = serve.process.stderr();
        match shards {
            1 => assert_eq!(answered, 0, "{reported}: {log}"),
            _ => assert!(
                (1..CLIENTS).contains(&answered),
                "{reported}: {answered} {log}"
            ),
        }
        let last = format!("upcase: the server failed: shard {victim} panicked, see above");
        serve.process.wait_for_stderr(&last);
        assert!(
            log.contains(&format!("stopped: accepted {CLIENTS}, closed {CLIENTS}")),
            "{log}"
        );
    }
}

/// A thread that panics before the run has begun counts as ready: no other thread waits for it.
#[test]
fn a_run_whose_threads_panic_ends() {
    if !installed("strace") {
        return skip("no strace");
    }
    let serve = Serve::start("-q");
    let load = "--connections 8 --threads 4 --duration 1h";
    let load = upcase(&format!("load {} {load}", serve.address()));
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null"]);
    command.args(["-e", "trace=recvfrom", "-e", INJECT]);
    command.arg(load.get_program()).args(load.get_args());
    command.stdin(Stdio::null());
    let mut run = Process::piped(command);
    let ended = run.ended();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("thread load "), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with("upcase: load thread "), "{ended:?}");
    assert!(last.ends_with(" panicked, see above"), "{ended:?}");
}

/// A logger that panics when a thread accepts its twentieth client: the other thread has some
/// clients by then.
struct Trap {
    thread: String,
    accepted: AtomicUsize,
}

impl Log for Trap {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let is_there = thread::current().name() == Some(&self.thread);
        let is_client = record.args().to_string().contains(" accepted from ");
        if is_there && is_client && self.accepted.fetch_add(1, Ordering::SeqCst) == 19 {
            panic!("this is logged");
        }
    }

    fn flush(&self) {}
}

#[test]
fn in_the_sandbox_the_others_go_on_as_well() {
    // The first shard runs in the thread that starts it, here that of the test.
    for victim in ["attempt", "shard 1"] {
        for backtrace in ["0", "1"] {
            let mut command = common::attempt();
            command.env(ATTEMPT, victim);
            command.env("RUST_BACKTRACE", backtrace);
            let Serve {
                mut process,
                addresses,
            } = Serve::launch(command, 1);
            let mut clients = Vec::new();
            let mut has_panicked = false;
            until("a shard panics", || {
                // The client at which the shard panics gets no reply. The other shard accepts no
                // more SYNs: another connect would last until all clients have been silent for
                // long.
                if !has_panicked {
                    clients.extend(TcpStream::connect(addresses[0]));
                    has_panicked = !clients.last_mut().is_some_and(is_answered);
                }
                has_panicked && process.stderr().contains("panicked at tests/panics.rs")
            });
            assert!(clients.iter_mut().any(is_answered), "{}", process.stderr());
            drop(clients);
            assert_eq!(process.wait().code(), Some(3), "{}", process.stderr());
            let reported = process.stderr();
            assert!(reported.contains("this is logged"), "{reported}");
            let has_no_backtrace = reported.contains("(a backtrace needs --sandbox off)");
            assert_eq!(has_no_backtrace, backtrace == "1", "{reported}");
        }
    }
}

#[test]
#[ignore = "the other tests run it, in a process of its own"]
fn attempt() {
    let Ok(victim) = std::env::var(ATTEMPT) else {
        return;
    };
    let trap = Trap {
        thread: victim,
        accepted: AtomicUsize::new(0),
    };
    log::set_boxed_logger(Box::new(trap)).unwrap();
    logging::install_panic_hook();
    // Starts the outputs. The error is expected, since the trap is the logger already.
    logging::start(LevelFilter::Debug, None).unwrap_err();
    log::set_max_level(LevelFilter::Debug);
    let config = Config {
        shards: 2,
        ..Config::new(vec!["127.0.0.1:0".parse().unwrap()])
    };
    let mut server = Server::bind(&config).unwrap();
    let address = server.addresses().next().unwrap();
    let sandbox = Sandbox::raise().complete().unwrap();
    let walls = sandbox.clone();
    logging::confine(move |folders| walls.enter_log(folders)).unwrap();
    server.confine(&sandbox);
    println!("listening on {address}");
    let failure = server.run().unwrap().failure.unwrap();
    logging::report_error(&format!("{failure}"));
    logging::finish();
    std::process::exit(3);
}
