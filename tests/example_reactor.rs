//! Tests that `examples/reactor.rs`, the smallest correct reactor, obeys the rules that its header
//! lists.

#[allow(dead_code)]
#[path = "../examples/reactor.rs"]
mod reactor;

mod common;

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{ANY_PACE, Process, connect, expect_fin, noise, read, run};

fn bind() -> reactor::Server {
    reactor::Server::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn turn_for_ever(mut server: reactor::Server) -> ! {
    loop {
        server.turn().unwrap();
    }
}

/// Starts the example's server in a thread that ends with the process.
fn serve() -> SocketAddr {
    let server = bind();
    let address = server.address().unwrap();
    thread::spawn(move || turn_for_ever(server));
    address
}

#[test]
fn verified_load_passes_with_many_connections_and_with_connections_that_are_replaced() {
    let server = serve();
    for options in [
        "--connections 200 --messages 20000 --depth 4",
        "--connections 50 --messages 2000 --churn 3",
    ] {
        run(&format!("load {server} {options} {ANY_PACE}")).expect(0);
    }
}

/// More than the budget and than all buffers, from a client that half-closes while replies are
/// outstanding.
#[test]
fn a_long_stream_is_answered_to_its_last_byte_after_a_half_close() {
    let bytes = noise(32 << 20);
    let mut client = connect(serve());
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).unwrap();
    writing.join().unwrap();
    assert!(replies == bytes.to_ascii_uppercase());
}

/// A client that sends for as long as the server reads must not hold up another one.
#[test]
fn a_client_that_always_has_data_does_not_starve_another_one() {
    let server = serve();
    let flooding = connect(server);
    let mut writer = flooding.try_clone().unwrap();
    thread::spawn(move || while writer.write_all(&[b'a'; 1 << 16]).is_ok() {});
    let mut reader = flooding.try_clone().unwrap();
    thread::spawn(move || while reader.read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
    let mut other = connect(server);
    for _ in 0..100 {
        other.write_all(b"hello").unwrap();
        assert_eq!(read(&mut other, 5), b"HELLO");
    }
    flooding.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_client_that_does_not_read_stops_being_read() {
    let mut client = connect(serve());
    let sent = fill(&mut client);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut client, sent).len(), sent);
    expect_fin(&mut client);
}

/// Writes until the socket has taken nothing for a while; returns the number of bytes.
fn fill(client: &mut TcpStream) -> usize {
    let quiet = std::time::Duration::from_millis(500);
    client.set_write_timeout(Some(quiet)).unwrap();
    let mut sent = 0;
    while let Ok(count) = client.write(&[b'a'; 1 << 16]) {
        sent += count;
        assert!(sent < 256 << 20, "the server reads without limit");
    }
    sent
}

#[test]
fn data_behind_an_urgent_byte_is_answered() {
    let mut client = connect(serve());
    client.write_all(b"before").unwrap();
    socket2::SockRef::from(&client)
        .send_out_of_band(b"!")
        .unwrap();
    client.write_all(b"behind").unwrap();
    assert_eq!(read(&mut client, 12), b"BEFOREBEHIND");
}

/// The server is this test in another process, whose descriptors have all been opened. That they
/// are closed causes no event.
#[test]
fn clients_that_found_no_descriptor_are_accepted_when_there_is_one() {
    const NAME: &str = "clients_that_found_no_descriptor_are_accepted_when_there_is_one";
    const IS_SERVER: &str = "UPCASE_TEST_IS_SERVER";
    if env::var_os(IS_SERVER).is_some() {
        serve_when_descriptors_are_closed();
    }
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 50 && exec "$0" "$@""#]);
    command.arg(env::current_exe().unwrap());
    command.args([NAME, "--exact", "--nocapture"]);
    command.env(IS_SERVER, "1").stdin(Stdio::piped());
    let mut server = Process::start(command);
    server.wait_for_stderr(".\n");
    let stderr = server.stderr();
    let (_, rest) = stderr.split_once("listening on ").unwrap();
    let address = rest.split_once(".\n").unwrap().0.parse().unwrap();
    let mut client = connect(address);
    client.write_all(b"abc").unwrap();
    let timeout = client.read_timeout().unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    client.read(&mut [0]).expect_err("it is not accepted yet");
    client.set_read_timeout(timeout).unwrap();
    drop(server.child().stdin.take());
    assert_eq!(read(&mut client, 3), b"ABC");
}

/// Serves with all descriptors open, until standard input ends.
fn serve_when_descriptors_are_closed() -> ! {
    let server = bind();
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    eprintln!("listening on {}.", server.address().unwrap());
    thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        drop(files);
    });
    turn_for_ever(server);
}
