//! Tests that `examples/reactor.rs`, the smallest correct reactor, obeys the rules that its header
//! lists.

#[allow(dead_code)]
#[path = "../examples/reactor.rs"]
mod reactor;

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use common::{ANY_PACE, connect, expect_fin, noise, read, run};

/// Starts the example's server in a thread that ends with the process.
fn serve() -> SocketAddr {
    let mut server = reactor::Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address().unwrap();
    thread::spawn(move || {
        loop {
            server.turn().unwrap();
        }
    });
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
