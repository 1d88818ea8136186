//! Tests a server whose process runs out of descriptors. This is the only test of its binary,
//! because it lowers the limit of its own process. Accept pauses last an hour, so that only a close
//! can end one.

mod common;

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use common::{connect, expect_fin, read};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use upcase::server::limits::Limits;
use upcase::server::stats::CloseReason;
use upcase::server::{Config, Server};

#[test]
fn each_close_lets_the_next_client_in() {
    let hour = Duration::from_secs(3600);
    let server = Server::bind(&Config {
        limits: Limits {
            accept_pause: (hour, hour),
            ..Limits::default()
        },
        ..Config::new(vec!["127.0.0.1:0".parse().unwrap()])
    })
    .unwrap();
    let address = server.addresses().next().unwrap();
    let remote = server.stopper().unwrap();
    let mut clients: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();

    // Reading the folder takes a descriptor itself, so this leaves room for two clients.
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, open + 1, hard).unwrap();
    let server = thread::spawn(move || server.run());

    // A descriptor becomes free only when an earlier client closes; each client is served all the
    // same.
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
        assert_eq!(read(client, 5), b"HELLO");
        client.shutdown(Shutdown::Write).unwrap();
        expect_fin(client);
    }
    remote.stop();
    let totals = server.join().unwrap().unwrap().totals;
    assert_eq!(totals.accepted, 10);
    assert_eq!(totals.closed(CloseReason::Finished), 10);
}
