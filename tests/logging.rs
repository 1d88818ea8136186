//! Tests the log: no thread waits for it, lost lines are counted at the place where they are
//! missing, and all other lines are written.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::terminal::Terminal;
use common::{ANY_PACE, Process, Serve, Temporary, connect, read, run, stalled, until, upcase};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::ioctl_fionbio;
use upcase::logging::queue::{CAPACITY_BYTES, Urgency};
use upcase::logging::writer::Output;

/// A server whose standard error the test chooses.
struct Quiet {
    child: Child,
    address: std::net::SocketAddr,
}

impl Quiet {
    fn start(arguments: &str, stderr: impl Into<Stdio>) -> Quiet {
        let mut command = upcase(&format!("serve --listen 127.0.0.1:0 {arguments}"));
        Quiet::launch(command.stderr(stderr))
    }

    fn launch(command: &mut Command) -> Quiet {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        let line = String::from_utf8(line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let address = address.parse().unwrap();
        Quiet { child, address }
    }

    /// Serves this many clients, one after the other.
    fn serves(&self, clients: usize) {
        for _ in 0..clients {
            let mut client = connect(self.address);
            client.write_all(b"hello").unwrap();
            assert_eq!(read(&mut client, 5), b"HELLO");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Stops the server; returns its exit code and the time that it took.
    fn stop(mut self) -> (Option<i32>, Duration) {
        self.signal(Signal::SIGTERM);
        let begun = Instant::now();
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        (status.unwrap().code(), begun.elapsed())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reader loses log lines only: those about clients, and the server's own.
#[test]
fn a_stalled_reader_of_standard_error_costs_lines_and_nothing_else() {
    for arguments in ["-v", "-v --shards 3", "-v --sandbox off"] {
        let (_reader, writer) = stalled::pipe();
        let serve = Quiet::start(arguments, writer);
        serve.serves(2000);
        let (code, time) = serve.stop();
        assert_eq!(code, Some(0), "{arguments}");
        assert!(time < Duration::from_secs(8), "{arguments}: {time:?}");
    }
}

#[test]
fn refused_clients_do_not_fill_it_from_outside() {
    let (_reader, writer) = stalled::pipe();
    let serve = Quiet::start("--max-connections-per-ip 1", writer);
    let mut first = connect(serve.address);
    for _ in 0..3000 {
        drop(TcpStream::connect(serve.address));
    }
    first.write_all(b"hello").unwrap();
    assert_eq!(read(&mut first, 5), b"HELLO");
    drop(first);
    assert_eq!(serve.stop().0, Some(0));
}

/// A log file that stalls holds up neither the server nor standard error.
#[test]
fn a_stalled_log_file_leaves_standard_error_alone() {
    let (path, _both_ends) = stalled::full_fifo();
    let mut serve = Serve::start(&format!("-v --log-file {}", path.0.display()));
    for _ in 0..200 {
        common::exchange_and_close(&serve.connect(), b"hello");
    }
    serve
        .process
        .wait_for_stderr("connection 200 closed: finished");
    serve.process.signal(Signal::SIGTERM);
    serve.ends(0);
}

/// Every line is written before the process ends, to a reader that is slow but works.
#[test]
fn a_slow_reader_gets_every_line() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let serve = Quiet::start("-v", writer);
    let slow = thread::spawn(move || {
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match reader.read(&mut piece).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                count => text.extend_from_slice(&piece[..count]),
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    serve.serves(2000);
    assert_eq!(serve.stop().0, Some(0));
    let text = slow.join().unwrap();
    assert_eq!(text.matches(" closed: finished").count(), 2000);
    assert!(
        text.lines()
            .last()
            .unwrap()
            .contains("stopped: accepted 2,000")
    );
}

/// The number of lines that did not fit is written where they are missing.
#[test]
fn a_reader_that_comes_back_is_reported_how_many_lines_are_missing() {
    let (path, mut both_ends) = stalled::full_fifo();
    let output = Output::file(&path.0, |_, _, _| {}).unwrap();
    let count = CAPACITY_BYTES / 1000 + 500;
    for number in 0..count {
        output.line(&format!("{number:0>999}\n"), Urgency::Ordinary);
    }
    assert!(!output.flush(), "no process reads");
    let dropped = output.dropped() as usize;
    assert!((400..=500).contains(&dropped), "{dropped} of {count}");

    // The last line marks the end of the output.
    output.line("the end\n", Urgency::Urgent);
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        while !text.ends_with(b"the end\n") {
            let mut piece = [0; 65536];
            let length = both_ends.read(&mut piece).unwrap();
            text.extend_from_slice(&piece[..length]);
        }
        stalled::lines(&text[..])
    });
    let lines = reader.join().unwrap();
    assert!(output.flush());
    assert_eq!(output.dropped() as usize, dropped);
    let kept = count - dropped;
    assert_eq!(lines.len(), kept + 2);
    for (number, line) in lines[..kept].iter().enumerate() {
        assert_eq!(line, &format!("{number:0>999}"));
    }
    let reported = format!("[WARN] {dropped} log lines were dropped here: the log file ");
    assert!(lines[kept].contains(&reported), "{}", lines[kept]);
}

/// Another process that shares standard error may have made it non-blocking.
#[test]
fn an_output_in_non_blocking_mode_gets_every_line() {
    let (reader, writer) = stalled::pipe();
    ioctl_fionbio(&writer, true).unwrap();
    let mut command = upcase("serve --listen 127.0.0.1:0 -v");
    let serve = Quiet::launch(command.stderr(writer.try_clone().unwrap()));
    drop((command, writer));
    serve.serves(500);
    let lines = thread::spawn(move || stalled::lines(reader));
    assert_eq!(serve.stop().0, Some(0));
    let lines = lines.join().unwrap();
    let closed = lines
        .iter()
        .filter(|line| line.contains(" closed: finished"));
    assert_eq!(closed.count(), 500);
}

/// A full device, or a reader that has closed, is no reason to stop serving.
#[test]
fn an_output_that_fails_is_reported_on_the_other() {
    let mut command = upcase("serve --listen 127.0.0.1:0 --metrics 127.0.0.1:0");
    command
        .args(["--log-file", "/dev/full"])
        .stdout(Stdio::piped());
    let mut serve = Process::start(command);
    serve.wait_for_stderr("cannot write to the log file /dev/full: No space left on device");
    let stdout = BufReader::new(serve.child().stdout.take().unwrap());
    let mut lines = stdout.lines().map_while(Result::ok);
    let page = lines.find_map(|line| {
        let address = line.strip_prefix("metrics on http://")?;
        Some(address.strip_suffix("/metrics")?.to_string())
    });
    let mut scraper = TcpStream::connect(page.unwrap()).unwrap();
    scraper.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    scraper.read_to_string(&mut text).unwrap();
    let figure = text
        .lines()
        .find_map(|line| line.strip_prefix("upcase_log_lines_dropped_total "));
    assert!(figure.unwrap().parse::<u64>().unwrap() >= 1, "{text}");
    serve.signal(Signal::SIGTERM);
    assert_eq!(serve.wait().code(), Some(0));
    serve.wait_for_stderr("not written to the log file /dev/full");

    let log = Temporary::new(b"");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let serve = Quiet::start(&format!("-v --log-file {}", log.0.display()), writer);
    serve.serves(10);
    assert_eq!(serve.stop().0, Some(0));
    let log = fs::read_to_string(&log.0).unwrap();
    assert!(
        log.contains("cannot write to standard error: Broken pipe"),
        "{log}"
    );
    assert_eq!(log.matches(" closed: finished").count(), 10);
    assert!(log.contains("stopped: accepted 10"), "{log}");
}

/// Every option that names a file to write to. A capture opens its file before it needs a
/// privilege.
#[test]
fn a_fifo_that_nobody_reads_is_named_in_one_line() {
    let fifo = stalled::fifo();
    let path = fifo.0.display();
    for arguments in [
        format!("serve --listen 127.0.0.1:0 --log-file {path}"),
        format!("send 127.0.0.1:9 x --log-file {path}"),
        format!("load --connections 1 --messages 1 --interval-log {path}"),
        format!("sniff --interface lo --count 1 --write {path}"),
    ] {
        let mut process = Process::start(upcase(&arguments));
        assert_eq!(process.wait().code(), Some(3), "{arguments}");
        let reported = process.stderr();
        assert_eq!(reported.lines().count(), 1, "{reported}");
        let reason = format!("{path}: no process reads from this FIFO (start its reader first)");
        assert!(reported.contains(&reason), "{reported}");
    }
}

#[test]
fn a_fifo_with_a_reader_is_a_log_file_as_well() {
    let fifo = stalled::fifo();
    let path = fifo.0.display();
    let mut options = fs::File::options();
    let mut reader = options.read(true).write(true).open(&fifo.0).unwrap();
    let serve = Serve::start(&format!("-v --log-file {path}"));
    let mut next = || {
        let mut bytes = [0; 4096];
        let count = reader.read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut reported = String::new();
    until("the first lines", || {
        reported += &next();
        reported.contains("serving at most")
    });
    serve.process.signal(Signal::SIGHUP);
    until("it is opened again, in the sandbox", || {
        reported += &next();
        reported.contains("the log file was reopened")
    });
    serve.stop();
    assert!(next().contains("stopped: "));
    let load = format!("load --connections 1 --duration 50ms {ANY_PACE}");
    run(&format!("{load} --interval 10ms --interval-log {path}")).expect(0);
    assert!(next().starts_with("{\""));
}

/// The run and its report do not wait for the file. Once the file takes bytes again it gets
/// everything, in fewer and longer intervals.
#[test]
fn an_interval_log_that_hangs_delays_no_run() {
    let load = format!("load --connections 1 --duration 300ms --interval 10ms {ANY_PACE}");
    let (fifo, mut both) = stalled::full_fifo();
    let load = format!("{load} --interval-log {}", fifo.0.display());
    let ended = run(&load).expect(1);
    let lacks = "the interval log is incomplete: it lacks what was measured from 0.0 s on";
    assert!(ended.stdout.contains(lacks), "{ended:?}");
    assert!(ended.stdout.contains("300 ms"), "{ended:?}");

    let mut process = Process::piped(upcase(&format!("{load} --format json")));
    let mut text = String::new();
    let mut next = || {
        let mut bytes = [0; 4096];
        let count = both.read(&mut bytes).unwrap();
        text += &String::from_utf8_lossy(&bytes[..count]);
        text.contains("{")
    };
    until("the first interval", &mut next);
    // Now the pipe has room for all others.
    let ended = process.ended().expect(0);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    ioctl_fionbio(&both, true).unwrap();
    let mut rest = Vec::new();
    both.read_to_end(&mut rest).expect_err("it stays open");
    text += &String::from_utf8(rest).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let lines: Vec<serde_json::Value> = lines.map(|it| serde_json::from_str(it).unwrap()).collect();
    let mut end = 0.0;
    for line in &lines {
        assert_eq!(line["from_s"], end, "{text}");
        end = line["to_s"].as_f64().unwrap();
    }
    assert_eq!(lines.last().unwrap()["due"], report["scheduled"]);
}

/// Reopening the log file fails then, in the sandbox, without further effect.
#[test]
fn a_fifo_whose_reader_has_gone_ends_no_server() {
    let fifo = stalled::fifo();
    let mut options = fs::File::options();
    let reader = options.read(true).write(true).open(&fifo.0).unwrap();
    let mut serve = Serve::start(&format!("--log-file {}", fifo.0.display()));
    drop(reader);
    serve.process.signal(Signal::SIGHUP);
    serve
        .process
        .wait_for_stderr("no process reads from this FIFO");
    let mut client = serve.connect();
    client.write_all(b"abc").unwrap();
    assert_eq!(read(&mut client, 3), b"ABC");
    serve.process.signal(Signal::SIGTERM);
    assert_eq!(serve.process.wait().code(), Some(0));
}

/// The last message of a failing command is one line that begins with `upcase:`; a log file has the
/// message as well.
#[test]
fn the_last_message_is_one_line_on_every_output() {
    let log = Temporary::new(b"");
    let arguments = format!("--log-file {}", log.0.display());
    let ended = run(&format!("serve --listen 192.0.2.1:9 {arguments}")).expect(3);
    let message = "cannot listen on 192.0.2.1:9: ";
    assert!(
        ended.stderr.starts_with(&format!("upcase: {message}")),
        "{ended:?}"
    );
    assert_eq!(ended.stderr.lines().count(), 1);
    let log = fs::read_to_string(&log.0).unwrap();
    assert!(log.contains(&format!("[ERROR] {message}")), "{log}");
    // The process does not wait without limit for a reader.
    let (_reader, writer) = stalled::pipe();
    let mut command = upcase("serve --listen 192.0.2.1:9");
    let begun = Instant::now();
    assert_eq!(command.stderr(writer).status().unwrap().code(), Some(3));
    assert!(begun.elapsed() < Duration::from_secs(8));
}

/// Returns the lines of a server whose standard error is the stream that JOURNAL_STREAM names, or
/// another one.
fn journal_lines(arguments: &str, is_named: bool) -> Vec<String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let file = fs::File::from(theirs.try_clone().unwrap())
        .metadata()
        .unwrap();
    let inode = file.ino() + u64::from(!is_named);
    let mut command = upcase(&format!("serve {arguments}"));
    command.env("JOURNAL_STREAM", format!("{}:{inode}", file.dev()));
    command.stderr(theirs).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    if arguments.contains(":0") {
        let status = || fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        until("the seccomp filter is active", || {
            let mask = status();
            let mask = mask.lines().find_map(|line| line.strip_prefix("Seccomp:"));
            mask.is_some_and(|mask| mask.trim() != "0")
        });
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    }
    child.wait().unwrap();
    stalled::lines(ours)
}

#[test]
fn the_journal_gets_priorities_and_no_time() {
    let lines = journal_lines("--listen 127.0.0.1:0", true);
    assert!(
        lines.iter().all(|line| line.starts_with("<6>")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("<6>serving at most"))
    );
    let lines = journal_lines("--listen 192.0.2.1:9", true);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("<3>cannot listen on 192.0.2.1:9"),
        "{lines:?}"
    );
    let lines = journal_lines("--listen 192.0.2.1:9", false);
    assert!(lines[0].starts_with("upcase: cannot listen"), "{lines:?}");
    let lines = journal_lines("--listen 127.0.0.1:0", false);
    assert!(lines[0].contains("Z [INFO] "), "{lines:?}");
}

/// A terminal has colours, unless `NO_COLOR` is set.
#[test]
fn a_terminal_has_colours() {
    for (variable, is_colored) in [("UPCASE_TEST", true), ("NO_COLOR", false)] {
        let terminal = Terminal::new();
        let mut command = upcase("load --connections 1 --messages 1");
        command.env("TERM", "xterm").env(variable, "1");
        command.stdout(Stdio::null()).stderr(terminal.slave());
        let mut child = command.spawn().unwrap();
        drop(command);
        let shown = terminal.shown();
        child.wait().unwrap();
        assert!(shown.contains("no target was given"), "{shown}");
        assert_eq!(
            shown.contains("\x1b[34m[INFO] \x1b[0m"),
            is_colored,
            "{shown}"
        );
    }
}

/// The thread that writes the log must not slow down the reactor: it shares no table of descriptors
/// with it.
#[test]
fn the_writer_has_descriptors_of_its_own() {
    let serve = Serve::start("");
    let open = fs::read_dir(serve.process.thread("log").join("fd")).unwrap();
    let targets: Vec<_> = open
        .map(|link| fs::read_link(link.unwrap().path()).unwrap())
        .filter(|target| target.to_string_lossy().contains("eventpoll"))
        .collect();
    assert!(targets.is_empty(), "{targets:?}");
}
