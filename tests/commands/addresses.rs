//! Tests the forms of an address that the command line accepts, and their effect on sockets: zones,
//! host names, and IPv4 and IPv6 on one port.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use crate::common::lab::Lab;
use crate::common::{
    ANY_PACE, Ended, Process, Serve, TIMEOUT, read, until, unused_address, upcase,
};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

/// Returns whether a client that connects to this address is served.
fn is_served(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"x").unwrap();
    read(&mut stream, 1) == b"X"
}

#[test]
fn an_ipv6_wildcard_takes_ipv4_clients_and_says_so() {
    for listen in ["[::]:0", ":0", "*:0", "0"] {
        let serve = Serve::launch(upcase(&format!("serve --listen {listen}")), 1);
        let port = serve.address().port();
        serve
            .process
            .wait_for_stderr(&format!("[::]:{port} accepts IPv4 clients as well"));
        assert!(is_served(&format!("127.0.0.1:{port}")), "{listen}");
        assert!(is_served(&format!("[::1]:{port}")), "{listen}");
    }
}

#[test]
fn both_wildcards_can_be_listened_on_with_one_port() {
    for (ipv4, shards) in [("0.0.0.0", 1), ("127.0.0.1", 1), ("0.0.0.0", 3)] {
        // Another process may bind the port first.
        let serve = (0..10).find_map(|_| {
            let port = unused_address().port();
            let addresses = format!("--listen [::]:{port} --listen {ipv4}:{port}");
            let command = upcase(&format!("serve {addresses} --shards {shards}"));
            let mut process = Process::piped(command);
            let mut ended = false;
            until("it listens or has ended", || {
                ended = process.child().try_wait().unwrap().is_some();
                ended || process.stderr().contains("serving at most")
            });
            (!ended).then_some((process, port))
        });
        let (process, port) = serve.expect("a free port");
        process.wait_for_stderr(&format!("[::]:{port} accepts IPv6 clients only"));
        assert!(is_served(&format!("127.0.0.1:{port}")));
        assert!(is_served(&format!("[::1]:{port}")));
        drop(process);
    }
}

#[test]
fn ipv4_clients_of_an_ipv6_wildcard_are_counted_by_their_address() {
    let serve = Serve::launch(
        upcase("serve --listen [::]:0 --max-connections-per-ip 1"),
        1,
    );
    let port = serve.address().port();
    let mut clients: Vec<TcpStream> = ["127.0.0.1", "127.0.0.2"]
        .iter()
        .map(|ip| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let from: SocketAddr = format!("{ip}:0").parse().unwrap();
            socket.bind(&from.into()).unwrap();
            let to: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
            socket.connect(&to.into()).unwrap();
            socket.into()
        })
        .collect();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
        assert_eq!(read(client, 1), b"X");
    }
}

#[test]
fn a_name_of_this_host_is_listened_on() {
    let serve = Serve::launch(upcase("serve --listen localhost:0"), 1);
    assert!(serve.address().ip().is_loopback());
    assert!(is_served(&serve.address().to_string()));
}

/// Gives both ends of the link a link-local address that can be used at once.
fn link_local(lab: &Lab) {
    let add = |address: &str| {
        let mut command = Command::new("ip");
        command.args(["address", "add", address, "dev", "wire", "nodad"]);
        command
    };
    for mut command in [
        lab.on_server(&add("fe80::1/64")),
        lab.on_client(&add("fe80::2/64")),
    ] {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn link_local_addresses_have_a_zone_wherever_an_address_is_taken() {
    let Some(lab) = Lab::build() else { return };
    link_local(&lab);
    let on_client = |arguments: &str| {
        let mut command = lab.on_client(&upcase(arguments));
        Ended::from(command.output().unwrap())
    };
    let arguments = "serve --listen [fe80::1%wire]:12000 --metrics [fe80::1%wire]:9100";
    let mut serve = Process::piped(lab.on_server(&upcase(arguments)));
    serve.wait_for_stderr("serving at most");
    let index = {
        let mut command = Command::new("cat");
        command.arg("/sys/class/net/wire/ifindex");
        let output = lab.on_client(&command).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    for target in [
        "[fe80::1%wire]:12000".to_string(),
        "[fe80::1%wire]".to_string(),
        format!("[fe80::1%{index}]:12000"),
        "tcp://[fe80::1%25wire]:12000".to_string(),
    ] {
        let ended = on_client(&format!("send {target} hello -v")).expect(0);
        assert_eq!(ended.stdout, "HELLO\n", "{target}");
        let reported = "-> [fe80::1%wire]:12000 in";
        assert!(ended.stderr.contains(reported), "{target}: {ended:#?}");
    }
    let load = "load [fe80::1%wire] --source fe80::2%wire --connections 3 --messages 30";
    let ended = on_client(&format!("{load} {ANY_PACE}")).expect(0);
    assert!(ended.stdout.contains("30 verified"), "{ended:#?}");
    // No server listens on this port: the error names the zone as well.
    let ended = on_client("send [fe80::1%wire]:1 x").expect(3);
    let reported = "cannot connect to [fe80::1%wire]:1: connection refused";
    assert!(ended.stderr.contains(reported), "{ended:#?}");

    serve.signal(Signal::SIGTERM);
    let ended = serve.ended().expect(0);
    assert_eq!(
        ended.stdout,
        "listening on [fe80::1%wire]:12000\nmetrics on http://[fe80::1%25wire]:9100/metrics\n"
    );
}
