//! Tests `upcase serve` with clients written in other languages and by others: Python, netcat,
//! socat. Replies must be exact for text, for all 256 byte values and for UTF-8.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use crate::common::{self, Serve, noise};

/// Starts `program` with the server's host and port in its arguments, feeds its standard input and
/// checks its standard output, for each kind of content.
fn answers(program: &str, arguments: &[&str]) {
    if !common::installed(program) {
        return common::skip(&format!("no {program}"));
    }
    let serve = Serve::start("");
    let port = serve.address().port().to_string();
    let all_values: Vec<u8> = (0..=255).collect();
    let inputs = [
        b"hello, World 123\n".to_vec(),
        "grüße aus Köln, ça va? ﬁn żółw\n".as_bytes().to_vec(),
        all_values,
        noise(1_000_000),
    ];
    for input in inputs {
        let mut child = Command::new(program)
            .args(
                arguments
                    .iter()
                    .map(|argument| argument.replace("PORT", &port)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = thread::scope(|scope| {
            let input = &input;
            scope.spawn(move || stdin.write_all(input).unwrap());
            child.wait_with_output().unwrap()
        });
        assert!(output.status.success(), "{program}: {}", output.status);
        let expected = input.to_ascii_uppercase();
        assert!(
            output.stdout == expected,
            "{program}: {} bytes",
            output.stdout.len()
        );
    }
    assert!(
        serve
            .stop()
            .starts_with("accepted 4, closed 4 (finished 4)")
    );
}

#[test]
fn netcat() {
    answers("nc", &["-N", "127.0.0.1", "PORT"]);
}

#[test]
fn socat() {
    answers("socat", &["-t30", "-", "TCP:127.0.0.1:PORT"]);
}

#[test]
fn python() {
    let script = "
import socket, sys, threading
stream = socket.create_connection(('127.0.0.1', PORT))
message = sys.stdin.buffer.read()
def send():
    stream.sendall(message)
    stream.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while data := stream.recv(65536):
    sys.stdout.buffer.write(data)
";
    answers("python3", &["-c", script]);
}
