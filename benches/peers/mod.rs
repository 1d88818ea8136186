//! The servers that `upcase serve` is compared with: the same upper-case echo, each as a competent
//! user of its technology would write it. Those in Rust are parts of the benchmark's binary, which
//! runs itself with their name in a process of its own. The others are sources in this directory
//! and are compiled where their compiler is installed.

pub mod epoll;
pub mod threads;
pub mod tokio;

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::thread;

use socket2::{Domain, Socket, Type};

/// The length of the accept queue, as in `upcase serve`.
const BACKLOG: i32 = 4096;

/// Opens a listener on any free port of the loopback and prints its address. Accepted sockets
/// inherit TCP_NODELAY.
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

/// Ends the process when its standard input ends, which is when its parent closes it or ends.
fn end_with_input() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
        process::exit(0);
    });
}
