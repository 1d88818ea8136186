//! An echo server with one thread per client and blocking I/O.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;

/// The stack of a client's thread, which needs no more; the default would be 2 MiB.
const STACK_BYTES: usize = 32 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// Serves until standard input ends.
pub fn serve() -> io::Result<()> {
    super::end_with_input();
    for client in super::listener()?.incoming() {
        let client = client?;
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || echo(client))?;
    }
    Ok(())
}

/// Echoes until the client closes its side or the connection fails; errors are ignored.
fn echo(mut client: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = client.read(&mut buffer)
        && count > 0
    {
        let bytes = &mut buffer[..count];
        bytes.make_ascii_uppercase();
        if client.write_all(bytes).is_err() {
            return;
        }
    }
}
