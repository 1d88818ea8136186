//! systemd integration: listening sockets passed by the service manager, and notifications to it.
//!
//! **Activation**, sd_listen_fds(3): systemd, or another manager that uses its protocol, creates
//! the listening sockets and passes them to this process as descriptors from 3 on, `LISTEN_FDS` of
//! them. The manager keeps its own descriptors: when the server stops, only our copies are closed.
//! The clients in the accept queue stay there for the next process, so none is lost over a restart;
//! while no process runs, they wait. Closing our copy does not remove it from epoll, since the
//! socket is still open elsewhere: it is removed first.
//!
//! **Notification**, sd_notify(3): with `Type=notify`, systemd delays the units ordered after this
//! service until the service sends `READY=1`, and learns from `STOPPING=1` that it is going to end.
//! The messages are datagrams to the Unix socket that `NOTIFY_SOCKET` names. That socket is
//! connected before the process enters the sandbox, which is why the protocol is implemented here:
//! the usual library opens a socket for every message.
//!
//! `LISTEN_FDS` and `LISTEN_PID` are removed from the environment, as sd_listen_fds(3) does on
//! request. There is no watchdog: a reactor that hangs cannot be distinguished from an idle one
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

/// Time limit for sending a message to a service manager that is busy: long enough not to lose
/// `READY=1`, and short enough that a manager that hangs does not delay the server for long.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the sockets that were passed to this process; empty if there are none. A descriptor that
/// is not a TCP socket is an error. Their options are unchanged: see [`crate::sys::socket::adopt`].
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
    /// Number of shards that are not ready yet.
    awaited: AtomicUsize,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names. If that fails, logs a warning and returns
    /// a notifier that does nothing: the server can serve without it.
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

    /// Records that a shard serves its clients. Notifies the manager when the last shard does.
    pub fn ready(&self) {
        if self.awaited.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.send("READY=1\nSTATUS=serving\n");
        }
    }

    /// Records that a shard was asked to stop, or failed. Notifies the manager at the first call.
    pub fn stopping(&self) {
        if !self.is_stopping.swap(true, Ordering::SeqCst) {
            self.send("STOPPING=1\nSTATUS=draining connections\n");
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

/// Connects to the Unix socket of this name. A name that begins with `@` is an abstract one,
/// unix(7).
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}
