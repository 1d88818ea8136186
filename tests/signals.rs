//! Tests the reaction of the commands to signals: whenever they arrive, however the process was
//! started, and whatever its outputs do.

mod common;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    ANY_PACE, Ended, Process, Serve, Temporary, connect, installed, read, skip, stalled, until,
    upcase,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

/// Maximum time for an end in order: silence of a second, and a slow machine.
const END: Duration = Duration::from_secs(20);

/// Returns a command that is started by another one.
fn by(starter: &str, command: &Command) -> Command {
    let mut words = starter.split_whitespace();
    let mut started = Command::new(words.next().unwrap());
    started.args(words).arg(command.get_program());
    started.args(command.get_args()).stdin(Stdio::null());
    started
}

fn threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).map_or(0, |tasks| tasks.count())
}

fn ends_soon(process: &mut Process) -> ExitStatus {
    let begun = Instant::now();
    let status = process.wait();
    assert!(begun.elapsed() < END, "{:?}", begun.elapsed());
    status
}

/// However early the signal arrives, it has an effect: before it is handled it ends the process,
/// and afterwards the run.
#[test]
fn a_signal_while_the_threads_of_a_run_start_is_not_lost() {
    let serve = Serve::start("-q");
    let load = format!(
        "load {} --connections 64 --threads 64 --duration 1h -q --allow failed",
        serve.address()
    );
    let mut in_order = 0;
    for started in [0, 1, 2, 3, 8, 32, 64, 66] {
        let mut process = Process::piped(upcase(&load));
        until("so many threads are there", || {
            threads(process.id()) >= started
        });
        process.signal(Signal::SIGTERM);
        let status = ends_soon(&mut process);
        let is_by_default = status.signal() == Some(Signal::SIGTERM as i32);
        assert!(status.code().is_some() || is_by_default, "{status:?}");
        in_order += usize::from(status.code().is_some());
    }
    assert!(in_order >= 4, "{in_order} runs ended in order");
}

#[test]
#[ignore = "measures a second, and takes 512 threads"]
fn five_hundred_threads_start_within_a_second() {
    let serve = Serve::start("-q");
    let load = format!(
        "load {} --connections 512 --threads 512 --messages 512 {ANY_PACE}",
        serve.address()
    );
    let times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            common::run(&load).expect(0);
            begun.elapsed()
        })
        .collect();
    println!("512 threads, each with a message: {times:?}");
    // The start is the first part of the run; on a shared machine the best run counts.
    assert!(times.iter().min().unwrap() < &Duration::from_secs(1));
}

/// Programs that start a process: a parent that blocks or ignores signals passes that on.
const STARTERS: [&str; 3] = [
    "env",
    "env --block-signal=TERM,INT,HUP,USR1",
    "env --ignore-signal=TERM,INT",
];

#[test]
fn what_the_parent_blocked_or_ignored_works_all_the_same() {
    for starter in STARTERS {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut serve = Serve::launch(by(starter, &upcase("serve --listen 127.0.0.1:0")), 1);
            serve.process.signal(Signal::SIGUSR1);
            serve.process.wait_for_stderr("0 open, ");
            let load = format!(
                "load {} --connections 2 --duration 1h --interval 100ms -v {ANY_PACE}",
                serve.address()
            );
            let mut load = Process::piped(by(starter, &upcase(&load)));
            load.wait_for_stderr("[DEBUG]");
            load.signal(signal);
            assert!(ends_soon(&mut load).code().is_some(), "{starter} {signal}");
            serve.process.signal(signal);
            assert_eq!(ends_soon(&mut serve.process).code(), Some(0), "{starter}");

            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let send = format!("send {}", listener.local_addr().unwrap());
            let mut command = by(starter, &upcase(&send));
            command.stdin(Stdio::piped());
            let mut send = Process::piped(command);
            let _connected = listener.accept().unwrap();
            send.signal(signal);
            let status = ends_soon(&mut send);
            // The connection was accepted, perhaps before `send` noticed.
            let in_order = status.code() == Some(4);
            let at_once = status.signal() == Some(signal as i32);
            assert!(in_order || at_once, "{starter} {status}");
        }
    }
}

#[test]
fn a_capture_ends_in_order_however_it_was_started() {
    if !Uid::effective().is_root() {
        return skip("live capture needs root");
    }
    for (starter, signal) in
        STARTERS
            .into_iter()
            .zip([Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT])
    {
        let sniff = upcase("sniff --interface lo --port 1");
        let mut sniff = Process::piped(by(starter, &sniff));
        sniff.wait_for_stderr("capturing TCP port 1");
        sniff.signal(signal);
        let ended = sniff.ended();
        assert!(ended.stdout.contains("verdict: "), "{starter}: {ended:?}");
    }
}

#[test]
fn nohup_is_obeyed() {
    let mut serve = Serve::launch(
        by(
            "env --ignore-signal=HUP",
            &upcase("serve --listen 127.0.0.1:0"),
        ),
        1,
    );
    let load = format!(
        "load {} --connections 2 --duration 1h --interval 100ms -v {ANY_PACE}",
        serve.address()
    );
    let mut load = Process::piped(by("env --ignore-signal=HUP", &upcase(&load)));
    load.wait_for_stderr("[DEBUG]");
    serve.process.signal(Signal::SIGHUP);
    load.signal(Signal::SIGHUP);
    let intervals = load.stderr().matches("[DEBUG]").count();
    until("the run continues", || {
        load.stderr().matches("[DEBUG]").count() >= intervals + 2
    });
    load.signal(Signal::SIGTERM);
    ends_soon(&mut load);
    serve.process.signal(Signal::SIGTERM);
    serve.ends(0);
}

#[test]
fn a_hangup_ends_a_run_and_a_server_without_a_log_file_in_order() {
    let mut serve = Serve::start("--shards 2");
    let load = format!(
        "load {} --connections 2 --duration 1h --interval 100ms -v {ANY_PACE}",
        serve.address()
    );
    let mut load = Process::piped(upcase(&load));
    load.wait_for_stderr("[DEBUG]");
    load.signal(Signal::SIGHUP);
    let ended = load.ended().expect(0);
    assert!(ended.stdout.contains("ended by a signal"), "{ended:?}");
    let mut client = serve.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 5), b"HELLO");
    serve.process.signal(Signal::SIGHUP);
    common::expect_fin(&mut client);
    drop(client);
    serve.ends(0);
}

/// Rotates the log file as logrotate(8) does, also in the sandbox, and when it cannot be opened.
#[test]
fn a_hangup_opens_the_log_file_again() {
    for arguments in ["", "--sandbox off", "--shards 3"] {
        let log = Temporary::new(b"");
        let old = Temporary::new(b"");
        let path = log.0.display();
        let serve = Serve::start(&format!("--log-file {path} {arguments}"));
        let content = |file: &Temporary| fs::read_to_string(&file.0).unwrap_or_default();
        until("it is written", || {
            content(&log).contains("serving at most")
        });
        fs::rename(&log.0, &old.0).unwrap();
        serve.process.signal(Signal::SIGHUP);
        until("there is a new one", || {
            content(&log).contains("was reopened")
        });
        assert_eq!(content(&log).lines().count(), 1, "{}", content(&log));

        fs::remove_file(&log.0).unwrap();
        fs::create_dir(&log.0).unwrap();
        serve.process.signal(Signal::SIGHUP);
        serve.process.wait_for_stderr(&format!(
            "cannot reopen the log file {path}: Is a directory"
        ));
        fs::remove_dir(&log.0).unwrap();
        serve.process.signal(Signal::SIGHUP);
        until("there is a new one", || {
            content(&log).contains("was reopened")
        });
        let mut client = serve.connect();
        client.write_all(b"hello").unwrap();
        assert_eq!(read(&mut client, 5), b"HELLO");
        drop(client);
        serve.stop();
        assert!(content(&log).contains("stopped: accepted 1"));
        assert!(!content(&old).contains("stopped"));
    }
}

/// The name of the log file may be a link into another folder.
#[test]
fn a_hangup_opens_the_log_file_behind_a_link() {
    let log = Temporary::new(b"");
    let folder = Temporary::new(b"");
    fs::remove_file(&folder.0).unwrap();
    fs::create_dir(&folder.0).unwrap();
    std::os::unix::fs::symlink(&log.0, folder.0.join("link")).unwrap();
    let path = folder.0.join("link");
    let serve = Serve::start(&format!("--log-file {}", path.display()));
    fs::remove_file(&log.0).unwrap();
    serve.process.signal(Signal::SIGHUP);
    until("there is a new one", || {
        let log = fs::read_to_string(&log.0).unwrap_or_default();
        log.contains("was reopened")
    });
    serve.stop();
    fs::remove_dir_all(&folder.0).unwrap();
}

/// A write beyond the limit returns EFBIG instead of a signal that kills: each file is given up,
/// and the error is reported.
#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_end() {
    if !installed("prlimit") {
        return skip("no prlimit (package util-linux)");
    }
    let limited = |command: &Command| by("prlimit --fsize=2048", command);
    let log = Temporary::new(b"");
    let serve = format!(
        "serve --listen 127.0.0.1:0 -v --log-file {}",
        log.0.display()
    );
    let mut serve = Serve::launch(limited(&upcase(&serve)), 1);
    for _ in 0..20 {
        common::exchange_and_close(&serve.connect(), b"hello");
    }
    serve
        .process
        .wait_for_stderr("File too large (os error 27); its lines are dropped");
    assert_eq!(fs::metadata(&log.0).unwrap().len(), 2048);
    fs::remove_file(&log.0).unwrap();
    serve.process.signal(Signal::SIGHUP);
    until("the new log reports missing lines", || {
        let log = fs::read_to_string(&log.0).unwrap_or_default();
        log.contains(" missing here, which could not be written: File too large")
    });

    let intervals = Temporary::new(b"");
    let load = format!(
        "load {} --connections 2 --duration 500ms --interval 10ms {ANY_PACE} --interval-log {}",
        serve.address(),
        intervals.0.display()
    );
    let ended = Ended::from(limited(&upcase(&load)).output().unwrap()).expect(1);
    assert!(
        ended
            .stderr
            .contains("the interval log, which ends here: File too large")
    );
    assert!(ended.stdout.contains("verdict "), "{ended:?}");

    let output = Temporary::new(b"");
    let mut send = limited(&upcase(&format!("send {}", serve.address())));
    send.args(vec!["x".repeat(900); 5]);
    send.stdout(fs::File::create(&output.0).unwrap());
    let ended = Ended::from(send.output().unwrap());
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    assert!(ended.stderr.contains("File too large"), "{ended:?}");

    if Uid::effective().is_root() {
        let kept = Temporary::new(b"");
        let port = serve.address().port();
        let sniff = format!(
            "sniff --interface lo --port {port} --flows 20 --write {}",
            kept.0.display()
        );
        let mut sniff = Process::piped(limited(&upcase(&sniff)));
        sniff.wait_for_stderr("capturing TCP port");
        for _ in 0..20 {
            common::exchange_and_close(&serve.connect(), b"hello");
        }
        let ended = sniff.ended();
        assert!(ended.code.is_some(), "{ended:?}");
        assert!(ended.stdout.contains("File too large"), "{ended:?}");
    }
    serve.process.signal(Signal::SIGTERM);
    assert_eq!(ends_soon(&mut serve.process).code(), Some(0));
    serve.process.wait_for_stderr(" not written to ");
}

/// The kernel applies no default action of a signal to the first process of a container.
#[test]
fn the_first_process_of_a_container_obeys() {
    if !Uid::effective().is_root() {
        return skip("a PID namespace needs root");
    }
    let starter = "unshare --pid --fork --kill-child";
    let mut serve = Serve::launch(by(starter, &upcase("serve --listen 127.0.0.1:0")), 1);
    kill(child(&serve.process), Signal::SIGTERM).unwrap();
    serve.ends(0);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let send = upcase(&format!("send {}", listener.local_addr().unwrap()));
    let mut command = by(starter, &send);
    command.stdin(Stdio::piped());
    let mut send = Process::start(command);
    let _connected = listener.accept().unwrap();
    kill(child(&send), Signal::SIGTERM).unwrap();
    assert!(!ends_soon(&mut send).success());
}

/// The only child of a process.
fn child(process: &Process) -> Pid {
    let id = process.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    Pid::from_raw(children.trim().parse().expect("one child"))
}

/// A process whose output blocks without end still reacts to signals.
#[test]
fn a_stalled_output_does_not_keep_a_process_alive() {
    // A server prints its address, and serves although its output is not read.
    let (_reader, writer) = stalled::pipe();
    let (listener, address) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    drop(listener);
    let mut command = upcase(&format!("serve --listen {address}"));
    command.stdout(writer);
    let mut serve = Process::start(command);
    serve.wait_for_stderr("serving at most");
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 5), b"HELLO");
    drop(client);
    serve.signal(Signal::SIGTERM);
    assert_eq!(ends_soon(&mut serve).code(), Some(0), "{}", serve.stderr());

    // A finished run cannot print its report: a signal ends it.
    let (_reader, writer) = stalled::pipe();
    let mut command = upcase("load --connections 1 --messages 1 -v");
    command.stdout(writer);
    let mut load = Process::start(command);
    load.wait_for_stderr("1 due = 1 answered");
    until("it is blocked", || is_blocked_in_write(&load));
    load.signal(Signal::SIGTERM);
    assert_eq!(ends_soon(&mut load).signal(), Some(Signal::SIGTERM as i32));

    if !Uid::effective().is_root() {
        return skip("live capture needs root");
    }
    // A capture that cannot print its transcript ends with the third signal.
    let (_reader, writer) = stalled::pipe();
    let serve = Serve::start("-q");
    let port = serve.address().port();
    let mut command = upcase(&format!("sniff --interface lo --port {port}"));
    command.stdout(writer);
    let mut sniff = Process::start(command);
    sniff.wait_for_stderr("capturing TCP port");
    common::exchange_and_close(&serve.connect(), b"hello");
    until("it is blocked", || is_blocked_in_write(&sniff));
    for _ in 0..3 {
        sniff.signal(Signal::SIGTERM);
        // Two pending signals of a kind are one, see signal(7).
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ends_soon(&mut sniff).signal(), Some(Signal::SIGTERM as i32));
}

/// Returns whether the main thread waits for space in a pipe.
fn is_blocked_in_write(process: &Process) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", process.id()));
    let number = nix::libc::SYS_write.to_string();
    call.is_ok_and(|call| call.split_whitespace().next() == Some(&number[..]))
}
