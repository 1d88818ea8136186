//! The peers of the comparison: the same upper-case echo, each as a competent user of its
//! technology would write it. Those in Rust run in a process of their own, which is the benchmark's
//! binary called with their name; the others lie here as source and are compiled when they can be.

pub mod epoll;
pub mod threads;
pub mod tokio;

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::thread;

use socket2::{Domain, Socket, Type};

/// As many clients may wait as with `upcase serve`.
const BACKLOG: i32 = 4096;

/// A listener on any free port of the loopback, which has told where it is. What it accepts
/// inherits TCP_NODELAY.
fn listener() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

/// The process ends with its standard input: with whoever started it.
fn end_with_input() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
        process::exit(0);
    });
}
