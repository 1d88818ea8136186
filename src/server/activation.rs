//! Under systemd: sockets that are handed over, and telling how it goes.
//!
//! **Activation**, sd_listen_fds(3): systemd, or whoever speaks its protocol, makes the listening
//! sockets and hands them to us as descriptors from 3 on, `LISTEN_FDS` of them. They stay its own
//! too: when we stop, our copy is closed and nothing else. The clients in the queue stay there for
//! the next process, so none is lost over a restart; while nobody runs they wait. Closing the copy
//! does not take it out of epoll, since the socket lives on: it is taken out first.
//!
//! **Notification**, sd_notify(3): with `Type=notify`, systemd holds back what comes after this
//! service until it says `READY=1`, and knows by `STOPPING=1` that it will end. These are datagrams
//! to the Unix socket that `NOTIFY_SOCKET` names. It is connected before the sandbox closes, which
//! is why this is written out here: the known library opens a socket for every message.
//!
//! `LISTEN_FDS` and `LISTEN_PID` are removed from the environment, as sd_listen_fds(3) does when it
//! is asked to. There is no watchdog: a reactor that hangs is not told from one that has no work
//! without waking it for the purpose.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use log::warn;

/// How long a message may wait for a service manager that is busy: long enough for `READY=1` not to
/// be lost, and the server is not held up for long by one that hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sockets that were handed to this process; none, when nobody did. Whatever is no TCP socket
/// is an error. They are as they came: see [`crate::socket::adopt`].
pub fn sockets() -> anyhow::Result<Vec<TcpListener>> {
    let mut handed = ListenFd::from_env();
    (0..handed.len())
        .filter_map(|index| handed.take_tcp_listener(index).transpose())
        .collect::<io::Result<_>>()
        .context("cannot use the sockets that LISTEN_FDS names")
}

/// Notifies the service manager of the state of all shards together; does nothing without a
/// manager.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Shards that are not ready yet.
    awaited: AtomicUsize,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// Connects with the socket that `NOTIFY_SOCKET` names. One that cannot be reached is a warning
    /// and no error: a server that serves is worth more than one that says so.
    pub fn from_env() -> Notifier {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(&name)
                .inspect_err(|error| warn!("cannot notify {}: {error}", name.display()))
                .ok()
        });
        Notifier {
            socket,
            ..Notifier::default()
        }
    }

    /// Sets the number of shards that must be ready before the manager is notified.
    pub fn for_shards(mut self, shards: usize) -> Notifier {
        self.awaited = AtomicUsize::new(shards);
        self
    }

    /// Takes note that a shard serves its clients. When the last one does, the manager is notified.
    pub fn ready(&self) {
        if self.awaited.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.send("READY=1\nSTATUS=serving\n");
        }
    }

    /// Takes note that a shard was asked to stop, or failed. The manager is notified of the first
    /// one.
    pub fn stopping(&self) {
        if !self.is_stopping.swap(true, Ordering::SeqCst) {
            self.send("STOPPING=1\nSTATUS=serving clients to their end\n");
        }
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            warn!("cannot notify the service manager: {error}");
        }
    }
}

/// A name that begins with `@` is an abstract one, unix(7).
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
