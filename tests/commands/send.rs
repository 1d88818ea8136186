//! Tests `upcase send` as a process, against `upcase serve` and against other servers.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::stalled::fill;
use crate::common::terminal::Terminal;
use crate::common::{
    self, ANY_PACE, Ended, Process, Serve, TIMEOUT, Temporary, noise, run, until, upcase,
};
use nix::libc::SYS_write;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

/// Starts a server for one client that behaves as the test says and then ends.
fn server(behave: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        behave(stream);
    });
    (address, thread)
}

fn with_input(arguments: &str, input: &[u8]) -> Ended {
    let mut child = upcase(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input).unwrap());
        Ended::from(child.wait_with_output().unwrap())
    })
}

#[test]
fn prints_a_reply_a_line_for_messages_on_the_command_line() {
    let serve = Serve::start("");
    let ended = run(&format!("send {} hello id-one:30a", serve.address())).expect(0);
    assert_eq!(ended.stdout, "HELLO\nID-ONE:30A\n");
    assert_eq!(ended.stderr, "");
    let totals = serve.stop();
    assert_eq!(
        totals,
        "accepted 1, closed 1 (finished 1), 15 bytes in, 15 bytes out"
    );
}

#[test]
fn a_line_in_is_a_line_out_byte_for_byte() {
    let serve = Serve::start("");
    let input = b"first\r\n\n\r\nsecond \xff\xfe\na\rb\nlast";
    let ended = with_input(&format!("send {}", serve.address()), input).expect(0);
    let expected = "FIRST\r\n\n\r\nSECOND \u{fffd}\u{fffd}\nA\rB\nLAST\n";
    assert_eq!(ended.stdout, expected);
    // Everything but the LFs.
    assert!(serve.stop().ends_with("23 bytes in, 23 bytes out"));
}

#[test]
fn an_empty_message_is_an_empty_line() {
    let serve = Serve::start("");
    let mut command = upcase(&format!("send {}", serve.address()));
    command.args(["a", "", "b"]);
    let ended = Ended::from(command.output().unwrap()).expect(0);
    assert_eq!(ended.stdout, "A\n\nB\n");
}

/// Starts a `send` whose standard input stays open, and waits for its first reply.
fn at_the_prompt(address: SocketAddr) -> (Process, ChildStdin) {
    let mut command = upcase(&format!("send {address} -v"));
    command.stdin(Stdio::piped());
    let mut send = Process::piped(command);
    let mut input = send.child().stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    send.wait_for_stderr("message 1: 5 bytes");
    (send, input)
}

#[test]
fn a_server_that_goes_away_is_noticed_at_the_prompt() {
    for (signal, reported) in [
        (
            Signal::SIGTERM,
            "the server closed the connection while no reply was outstanding",
        ),
        (Signal::SIGKILL, "while no reply was outstanding"),
    ] {
        let serve = Serve::start("");
        let (mut send, _input) = at_the_prompt(serve.address());
        serve.process.signal(signal);
        let ended = send.ended().expect(1);
        assert_eq!(ended.stdout, "HELLO\n");
        assert!(ended.stderr.contains(reported), "{ended:#?}");
    }
}

#[test]
fn bytes_that_come_at_the_prompt_are_reported() {
    let (release, released) = mpsc::channel::<()>();
    let (address, server) = server(move |mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"HELLO").unwrap();
        released.recv().unwrap();
        stream.write_all(b"?").unwrap();
    });
    let (mut send, _input) = at_the_prompt(address);
    release.send(()).unwrap();
    let ended = send.ended().expect(1);
    server.join().unwrap();
    let reported = "the server sent more bytes than it received";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn a_signal_at_the_prompt_closes_in_order() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let serve = Serve::start("");
        let (mut send, _input) = at_the_prompt(serve.address());
        send.signal(signal);
        let ended = send.ended().expect(0);
        assert!(
            ended
                .stderr
                .contains("both sides closed the connection cleanly"),
            "{ended:#?}"
        );
        assert!(serve.stop().contains("(finished 1)"));
    }
}

#[test]
fn a_signal_at_the_prompt_does_not_wait_long_for_a_server_that_keeps_its_side_open() {
    let (release, released) = mpsc::channel::<()>();
    let (address, server) = server(move |mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"HELLO").unwrap();
        let _ = released.recv(); // Until the client is gone.
    });
    let (mut send, _input) = at_the_prompt(address);
    let begun = Instant::now();
    send.signal(Signal::SIGTERM);
    let ended = send.ended().expect(4);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "the timeout is 10 s"
    );
    drop(release);
    server.join().unwrap();
    let reported = "interrupted: the server did not close its side within 1s";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn a_signal_before_a_reply_is_inconclusive() {
    let (release, released) = mpsc::channel::<()>();
    let (address, server) = server(move |mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"HE").unwrap();
        let _ = released.recv();
    });
    let mut send = Process::piped(upcase(&format!("send {address} hello --timeout 30s -v")));
    send.wait_for_stderr("MSS in force");
    send.signal(Signal::SIGTERM);
    let ended = send.ended().expect(4);
    drop(release);
    server.join().unwrap();
    assert!(
        ended.stderr.contains("interrupted: message 1: "),
        "{ended:#?}"
    );
    assert!(
        ended.stderr.contains("of 5 bytes of the reply"),
        "{ended:#?}"
    );
}

/// The first process of a PID namespace, as in a container: without a handler the kernel drops its
/// signals. The process that makes the namespace is another one.
#[test]
fn the_first_process_of_a_container_obeys_signals() {
    if !common::installed("unshare") {
        return common::skip("no `unshare` (package util-linux)");
    }
    for (signal, connects) in [
        (Signal::SIGTERM, true),
        (Signal::SIGINT, true),
        (Signal::SIGTERM, false),
    ] {
        let serve = Serve::start("");
        let full = FullQueue::new();
        let target = if connects {
            serve.address()
        } else {
            full.address
        };
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            env!("CARGO_BIN_EXE_upcase"),
        ]);
        command.args(["send", &target.to_string(), "-v", "--timeout", "1h"]);
        command.stdin(Stdio::piped());
        let mut unshare = Process::piped(command);
        let _input = unshare.child().stdin.take().unwrap();
        if !is_permitted(&mut unshare) {
            return common::skip("no PID namespace, it needs root");
        }
        if connects {
            unshare.wait_for_stderr("MSS in force");
        }
        let first = child_of(unshare.id(), "upcase");
        kill(first, signal).unwrap();
        let code = unshare.ended().code;
        let expected = if connects { 0 } else { 128 + signal as i32 };
        assert_eq!(code, Some(expected), "{signal}: {}", unshare.stderr());
    }
}

/// Returns whether a namespace could be created: `unshare` has a child then.
fn is_permitted(unshare: &mut Process) -> bool {
    let mut has_ended = false;
    common::until("unshare has made a child or given up", || {
        has_ended = unshare.child().try_wait().unwrap().is_some();
        has_ended || children(unshare.id()).next().is_some()
    });
    !has_ended
}

/// Returns the child of this name, once it has begun to catch SIGTERM.
fn child_of(parent: u32, name: &str) -> Pid {
    const SIGTERM_BIT: u64 = 1 << (Signal::SIGTERM as u32 - 1);
    let mut found = None;
    common::until("the child catches SIGTERM", || {
        found = children(parent).find(|child| {
            let status = std::fs::read_to_string(format!("/proc/{child}/status"));
            let status = status.unwrap_or_default();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            status.contains(name) && mask.is_some_and(|mask| mask & SIGTERM_BIT != 0)
        });
        found.is_some()
    });
    Pid::from_raw(found.unwrap())
}

fn children(parent: u32) -> impl Iterator<Item = i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children: Vec<i32> = children
        .split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect();
    children.into_iter()
}

/// A listener whose accept queue is full: the kernel drops every SYN that arrives.
struct FullQueue {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl FullQueue {
    fn new() -> FullQueue {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let loopback: SocketAddr = "127.0.0.2:0".parse().unwrap();
        listener.bind(&loopback.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        FullQueue {
            address,
            _listener: listener,
            _queued: (0..3).map_while(connect).collect(),
        }
    }
}

/// Names with several addresses need /etc/hosts, which is replaced in a mount namespace.
#[test]
fn a_dead_address_of_a_name_costs_a_quarter_of_a_second() {
    if !common::installed("unshare") {
        return common::skip("no `unshare` (package util-linux)");
    }
    let dead = FullQueue::new();
    let port = dead.address.port();
    let serve = Serve::launch(upcase(&format!("serve --listen 127.0.0.9:{port}")), 1);
    let hosts = Temporary::new(
        b"127.0.0.2 two.test\n127.0.0.9 two.test\n127.0.0.2 dead.test\n\
          127.0.0.3 none.test\n127.0.0.4 none.test\n",
    );
    let with_hosts = |arguments: &str| {
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.arg(&hosts.0).arg(env!("CARGO_BIN_EXE_upcase"));
        command.args(arguments.split_whitespace());
        Ended::from(command.stdin(Stdio::null()).output().unwrap())
    };
    let ended = with_hosts(&format!("send two.test:{port} hello -v"));
    if ended.stderr.contains("unshare") {
        return common::skip("no mount namespace, it needs root");
    }
    let ended = ended.expect(0);
    assert_eq!(ended.stdout, "HELLO\n");
    let took = ended.stderr.split(" in ").nth(1).unwrap_or_default();
    let took = took.lines().next().unwrap_or_default();
    let took: f64 = took
        .strip_suffix(" ms")
        .and_then(|ms| ms.parse().ok())
        .expect(took);
    assert!((250.0..999.0).contains(&took), "{took} ms");
    let begun = Instant::now();
    let load = format!("load two.test:{port} --connections 2 --messages 4 {ANY_PACE}");
    let ended = with_hosts(&load).expect(0);
    assert!(
        ended.stdout.contains(&format!("127.0.0.9:{port}")),
        "{ended:#?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let ended = with_hosts(&format!("send dead.test:{port} x --timeout 100ms")).expect(3);
    let reported = format!("cannot connect to 127.0.0.2:{port}: no answer within 100ms");
    assert!(ended.stderr.contains(&reported), "{ended:#?}");
    for command in ["send none.test", "load none.test"] {
        let ended = with_hosts(&format!("{command}:{port}")).expect(3);
        for address in ["127.0.0.3", "127.0.0.4"] {
            let reported =
                format!("{address}:{port}: connection refused, no program listens there");
            assert!(ended.stderr.contains(&reported), "{ended:#?}");
        }
    }
    drop(serve);
}

#[test]
fn an_output_that_takes_nothing_is_named() {
    let serve = Serve::start("");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = upcase(&format!("send {} hello", serve.address()));
    let ended = Ended::from(command.stdout(full).output().unwrap()).expect(3);
    assert_eq!(
        ended.stderr,
        "upcase: cannot write to standard output: No space left on device (os error 28)\n"
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly_and_in_order() {
    let serve = Serve::start("");
    let mut command = upcase(&format!("send {}", serve.address()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut send = Process::start(command);
    let mut input = send.child().stdin.take().unwrap();
    let mut output = send.child().stdout.take().unwrap();
    input.write_all(b"one\n").unwrap();
    output.read_exact(&mut [0; 4]).unwrap();
    drop(output);
    input.write_all(b"two\nthree\n").unwrap();
    assert_eq!(send.wait().code(), Some(4), "`three` was not sent");
    assert_eq!(send.stderr(), "");
    assert!(serve.stop().contains("(finished 1), 6 bytes in"));
}

#[test]
fn a_reader_that_went_away_after_the_last_message_changes_nothing() {
    let serve = Serve::start("");
    let mut command = upcase(&format!("send {} one two", serve.address()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Ended::from(command.stdout(writer).output().unwrap()).expect(4);
    assert_eq!(ended.stderr, "");
    let mut command = upcase(&format!("send {} one", serve.address()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Ended::from(command.stdout(writer).output().unwrap()).expect(0);
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_message_far_larger_than_every_buffer_comes_back_whole() {
    let serve = Serve::start("--send-buffer 4KiB --recv-buffer 4KiB");
    let mut line = noise(300_000);
    line.retain(|&byte| byte != b'\n' && byte != b'\r');
    let ended = with_input(&format!("send {}", serve.address()), &line).expect(0);
    let expected = String::from_utf8_lossy(&line.to_ascii_uppercase()).into_owned();
    assert!(ended.stdout == expected + "\n");
}

#[test]
fn verbose_prints_addresses_mss_and_round_trips() {
    let serve = Serve::start("");
    let address = serve.address();
    let ended = run(&format!("send {address} abc -v --mss 1000")).expect(0);
    for reported in [
        format!("-> {address} in"),
        "MSS in force: 988 bytes of payload".to_string(),
        "message 1: 3 bytes, round trip".to_string(),
        "both sides closed the connection cleanly".to_string(),
    ] {
        assert!(ended.stderr.contains(&reported), "{reported}: {ended:#?}");
    }
}

#[test]
fn lines_typed_at_a_console_are_answered_one_by_one() {
    for term in ["xterm", "dumb"] {
        let serve = Serve::start("");
        let (mut send, console) = at_a_console(serve.address(), term);
        for (typed, shown) in [("good morning\n", "GOOD MORNING"), ("again\n", "AGAIN")] {
            console.types(typed);
            console.shows(shown);
        }
        console.types("\u{4}"); // Control-D: the end.
        assert!(send.wait().success(), "{term}");
    }
}

#[test]
fn a_line_can_be_edited_and_is_as_long_as_it_is_typed() {
    let serve = Serve::start("");
    let terminal = Terminal::new();
    let (mut send, console) = on_terminal(serve.address(), "xterm", &terminal);
    console.types("hello\u{1b}[D\u{1b}[Dx\r"); // Twice to the left.
    console.shows("HELXLO\r\n");
    console.types("\u{1b}[A!\r"); // Up: the line before.
    console.shows("HELXLO!\r\n");
    console.types("one\rtwo\r\rthree\r");
    console.shows("THREE");
    let screen = console.screen();
    for (upper, shown) in [("ONE\r\n", true), ("TWO\r\n", true), ("GHOST", false)] {
        assert_eq!(screen.contains(upper), shown, "{upper}: {screen}");
    }
    // Without the editor a terminal passes on at most 4,095 bytes.
    console.types(&"z".repeat(5000));
    console.types("\r");
    console.shows(&"Z".repeat(5000));
    // Control-C ends the prompt as well. Before the prompt appears it is a signal, which no process
    // receives here.
    until("Control-C ends it", || {
        console.types("\u{3}");
        send.child().try_wait().unwrap().is_some()
    });
    assert!(send.wait().success());
    assert!(serve.stop().contains("(finished 1)"));
}

#[test]
fn a_terminal_has_its_settings_back_however_the_prompt_ends() {
    for ends_it in [
        None,
        Some(Signal::SIGTERM),
        Some(Signal::SIGINT),
        Some(Signal::SIGHUP),
    ] {
        let serve = Serve::start("");
        let terminal = Terminal::new();
        let before = tcgetattr(&terminal.slave).unwrap();
        let (mut send, console) = on_terminal(serve.address(), "xterm", &terminal);
        console.types("half a line");
        console.shows("half a line");
        assert!(
            tcgetattr(&terminal.slave).unwrap() != before,
            "it is edited"
        );
        let code = match ends_it {
            None => {
                serve.process.signal(Signal::SIGTERM);
                1
            }
            Some(signal) => {
                send.signal(signal);
                0
            }
        };
        assert_eq!(send.wait().code(), Some(code));
        assert!(tcgetattr(&terminal.slave).unwrap() == before);
    }
}

#[test]
fn a_terminal_that_nobody_reads_does_not_hold_a_signal_up() {
    for is_typing in [false, true] {
        let serve = Serve::start("");
        let terminal = Terminal::new();
        let before = tcgetattr(&terminal.slave).unwrap();
        let mut command = upcase(&format!("send {} -v", serve.address()));
        command.env("TERM", "xterm");
        command.stdin(terminal.slave()).stdout(terminal.slave());
        let mut send = Process::start(command);
        let mut screen = File::from(terminal.master.try_clone().unwrap());
        until("the prompt", || {
            let mut bytes = [0; 64];
            let count = screen.read(&mut bytes).unwrap();
            bytes[..count].contains(&b'>')
        });
        // From here on the terminal is not read.
        fill(&terminal.slave);
        if is_typing {
            until("the editor waits for room to show what was typed", || {
                // The kernel moves output from one buffer to the next in the background, so that a
                // full terminal may have room again a moment later.
                fill(&terminal.slave);
                nix::unistd::write(&terminal.master, b"y").unwrap();
                is_writing(&send, "editor")
            });
        }
        send.signal(Signal::SIGTERM);
        assert_eq!(send.wait().code(), Some(0), "{}", send.stderr());
        send.wait_for_stderr("both sides closed the connection cleanly");
        assert!(tcgetattr(&terminal.slave).unwrap() == before);
    }
}

/// Returns whether a thread of this name is blocked in write(2).
fn is_writing(process: &Process, name: &str) -> bool {
    let call = std::fs::read_to_string(process.thread(name).join("syscall"));
    call.unwrap_or_default()
        .starts_with(&format!("{SYS_write} "))
}

#[test]
fn a_reply_that_nobody_reads_does_not_hold_a_signal_up() {
    const LINE_BYTES: usize = 1 << 20;
    let serve = Serve::start("");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = upcase(&format!("send {}", serve.address()));
    command
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().unwrap());
    let mut send = Process::start(command);
    let mut input = send.child().stdin.take().unwrap();
    input.write_all(&vec![b'x'; LINE_BYTES]).unwrap();
    input.write_all(b"\n").unwrap();
    // The reply is being written to the pipe, and does not fit.
    reader.read_exact(&mut [0]).unwrap();
    fill(&writer);
    send.signal(Signal::SIGTERM);
    assert_eq!(send.wait().code(), Some(4));
    let reported =
        "interrupted: message 1: standard output is blocked: the reply could not be printed";
    assert!(send.stderr().contains(reported), "{}", send.stderr());
}

#[test]
fn a_terminal_that_cuts_a_line_is_reported() {
    let serve = Serve::start("");
    let (mut send, console) = at_a_console(serve.address(), "dumb");
    console.types(&"x".repeat(4500));
    console.types("\n");
    console.shows(&"X".repeat(100));
    send.wait_for_stderr("this line has 4,095 bytes, the most that a terminal passes on");
    console.types("\u{4}");
    assert!(send.wait().success());
}

/// Starts a `send` whose standard input and output are this terminal.
fn on_terminal(address: SocketAddr, term: &str, terminal: &Terminal) -> (Process, Console) {
    let mut command = upcase(&format!("send {address}"));
    command.env("TERM", term);
    command.stdin(terminal.slave()).stdout(terminal.slave());
    let console = Console::new(terminal.master.try_clone().unwrap());
    let send = Process::start(command);
    if term != "dumb" {
        console.shows("> ");
    }
    (send, console)
}

/// Starts a `send` on a terminal of its own.
fn at_a_console(address: SocketAddr, term: &str) -> (Process, Console) {
    on_terminal(address, term, &Terminal::new())
}

/// The keyboard and the screen of a terminal.
struct Console {
    keyboard: OwnedFd,
    screen: Arc<Mutex<String>>,
}

impl Console {
    /// Starts to read the screen all the time: a terminal whose output is full takes no input
    /// either.
    fn new(master: OwnedFd) -> Console {
        let screen = Arc::new(Mutex::new(String::new()));
        let keyboard = master.try_clone().unwrap();
        let written = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = nix::unistd::read(&master, &mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                written.lock().unwrap().push_str(&text);
            }
        });
        Console { keyboard, screen }
    }

    fn types(&self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let count = nix::unistd::write(&self.keyboard, rest).unwrap();
            rest = &rest[count..];
        }
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        common::until(text, || self.screen().contains(text));
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }
}

#[test]
fn an_answer_that_is_not_upper_case_is_said_clearly() {
    let (address, server) = server(|mut stream| {
        let mut bytes = [0; 3];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"AbC").unwrap();
    });
    let ended = run(&format!("send {address} abc def")).expect(1);
    server.join().unwrap();
    assert_eq!(
        ended.stdout, "AbC\n",
        "the received bytes are printed, and nothing more is sent"
    );
    let reported = "message 1: the reply is not the message in upper case at \
                offset 1: 'b' (0x62), not 'B' (0x42)";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn a_reply_cut_short_is_said_with_its_length() {
    let (address, server) = server(|mut stream| {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"HEL").unwrap();
    });
    let ended = run(&format!("send {address} hello")).expect(1);
    server.join().unwrap();
    assert_eq!(ended.stdout, "HEL\n");
    let reported = "message 1: the server closed the connection after 3 of 5 bytes of the reply";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn a_silent_server_is_given_up_after_the_timeout() {
    let (address, server) = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ended = run(&format!("send {address} hello --timeout 50ms")).expect(1);
    server.join().unwrap();
    let reported = "no further bytes of the reply within 50ms: received 0 of 5 bytes";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn a_server_that_keeps_its_side_open_is_reported() {
    let (release, released) = mpsc::channel::<()>();
    let (address, server) = server(move |mut stream| {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"OK").unwrap();
        let _ = released.recv(); // Until the client is gone.
    });
    let ended = run(&format!("send {address} ok --timeout 50ms")).expect(1);
    drop(release);
    server.join().unwrap();
    let reported = "the server did not close its side within 50ms";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn bytes_that_nobody_asked_for_are_reported() {
    let (address, server) = server(|mut stream| {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"OK, and more").unwrap();
    });
    let ended = run(&format!("send {address} ok")).expect(1);
    server.join().unwrap();
    assert_eq!(ended.stdout, "OK\n");
    let reported = "the server sent more bytes than it received";
    assert!(ended.stderr.contains(reported), "{ended:#?}");
}

#[test]
fn nobody_listening_is_exit_code_3_and_one_line() {
    let address = common::unused_address();
    let ended = run(&format!("send {address} hello")).expect(3);
    assert_eq!(
        ended.stderr,
        format!(
            "upcase: cannot connect to {address}: connection refused, no program listens there\n"
        )
    );
}

#[test]
fn works_against_a_server_written_in_another_language() {
    if !common::installed("python3") {
        return common::skip("no python3");
    }
    let script = "
import socket
server = socket.create_server(('127.0.0.1', 0))
print('listening on 127.0.0.1:%d' % server.getsockname()[1], flush=True)
client, _ = server.accept()
while data := client.recv(2048):
    client.sendall(data.upper())
client.close()
";
    let mut command = Command::new("python3");
    command.args(["-c", script]);
    let server = Serve::launch(command, 1);
    let ended = run(&format!("send {} one two", server.address())).expect(0);
    assert_eq!(ended.stdout, "ONE\nTWO\n");
}
