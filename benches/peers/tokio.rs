//! An echo server with tokio on one thread and one task per client.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const BUFFER_BYTES: usize = 64 * 1024;

/// Serves until standard input ends.
pub fn serve() -> io::Result<()> {
    super::end_with_input();
    let listener = super::listener()?;
    listener.set_nonblocking(true)?;
    Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (client, _) = listener.accept().await?;
                tokio::spawn(echo(client));
            }
        })
}

/// Echoes until the client closes its side or the connection fails; errors are ignored.
async fn echo(mut client: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count) = client.read(&mut buffer).await
        && count > 0
    {
        let bytes = &mut buffer[..count];
        bytes.make_ascii_uppercase();
        if client.write_all(bytes).await.is_err() {
            return;
        }
    }
}
