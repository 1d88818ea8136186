//! `upcase send` from the outside, against our server and against others.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use common::{Ended, PATIENCE, Process, Serve, noise, run, upcase};

/// A server for one client, that does what the test says and then ends.
fn server(behave: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
fn takes_lines_from_standard_input_without_their_endings_and_skips_empty_ones() {
    let serve = Serve::start("");
    let input = b"first\r\n\n\r\nsecond \xff\xfe\nlast";
    let ended = with_input(&format!("send {}", serve.address()), input).expect(0);
    assert_eq!(ended.stdout, "FIRST\nSECOND \u{fffd}\u{fffd}\nLAST\n");
    assert!(serve.stop().ends_with("18 bytes in, 18 bytes out"));
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
fn verbose_tells_addresses_mss_and_round_trips() {
    let serve = Serve::start("");
    let address = serve.address();
    let ended = run(&format!("send {address} abc -v --mss 1000")).expect(0);
    for told in [
        format!("-> {address} in"),
        "MSS in force: 988 bytes of payload".to_string(),
        "message 1: 3 bytes, round trip".to_string(),
        "closed in order by both sides".to_string(),
    ] {
        assert!(ended.stderr.contains(&told), "{told}: {ended:#?}");
    }
}

#[test]
fn lines_typed_at_a_console_are_answered_one_by_one() {
    let serve = Serve::start("");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = upcase(&format!("send {}", serve.address()));
    command.stdin(terminal.slave.try_clone().unwrap());
    command.stdout(terminal.slave.try_clone().unwrap());
    let mut send = Process::start(command);
    drop(terminal.slave);
    let mut console = Console(terminal.master, String::new());
    for (typed, shown) in [("good morning\n", "GOOD MORNING"), ("again\n", "AGAIN")] {
        console.types(typed);
        console.shows(shown);
    }
    console.types("\u{4}"); // Control-D: the end.
    assert!(send.wait().success());
}

struct Console(OwnedFd, String);

impl Console {
    fn types(&self, text: &str) {
        nix::unistd::write(&self.0, text.as_bytes()).unwrap();
    }

    /// Reads until this was shown. The program's end shows as an error, and fails the test.
    fn shows(&mut self, text: &str) {
        let mut bytes = [0; 256];
        while !self.1.contains(text) {
            let count = nix::unistd::read(&self.0, &mut bytes).unwrap();
            self.1.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
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
        "what came is printed, and nothing more is sent"
    );
    let told = "message 1: the reply is not the message in upper case: \
                byte 1 is 'b' (0x62), not 'B' (0x42)";
    assert!(ended.stderr.contains(told), "{ended:#?}");
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
    let told = "message 1: the server closed the connection after 3 of 5 bytes of the reply";
    assert!(ended.stderr.contains(told), "{ended:#?}");
}

#[test]
fn a_silent_server_is_given_up_after_the_timeout() {
    let (address, server) = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ended = run(&format!("send {address} hello --timeout 50ms")).expect(1);
    server.join().unwrap();
    let told = "no more of the reply within 50ms: 0 of 5 bytes came";
    assert!(ended.stderr.contains(told), "{ended:#?}");
}

#[test]
fn a_server_that_keeps_its_side_open_is_told() {
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
    let told = "the server did not close its side within 50ms";
    assert!(ended.stderr.contains(told), "{ended:#?}");
}

#[test]
fn bytes_that_nobody_asked_for_are_told() {
    let (address, server) = server(|mut stream| {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"OK, and more").unwrap();
    });
    let ended = run(&format!("send {address} ok")).expect(1);
    server.join().unwrap();
    assert_eq!(ended.stdout, "OK\n");
    let told = "the server sent more bytes than it was sent";
    assert!(ended.stderr.contains(told), "{ended:#?}");
}

#[test]
fn nobody_listening_is_exit_code_3_and_one_line() {
    let address = common::deserted();
    let ended = run(&format!("send {address} hello")).expect(3);
    assert_eq!(
        ended.stderr,
        format!("upcase: cannot connect to {address}: connection refused, nothing listens there\n")
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
