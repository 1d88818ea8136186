//! Runs a server in this process, for a load run without a target. The server has its own thread
//! and reactor, and listens on a free port of the loopback address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};

use crate::server::stats::Totals;
use crate::server::{Config, Ended, Server, Stopper};

/// A running server, which is stopped when this value is dropped.
#[derive(Debug)]
pub struct OwnServer {
    address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<io::Result<Ended>>>,
}

impl OwnServer {
    /// Starts the server. It accepts connections when this returns.
    pub fn start() -> anyhow::Result<OwnServer> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(&Config::new(vec![loopback]))?;
        let address = server
            .addresses()
            .next()
            .context("the built-in server has no listener")?;
        let stopper = server.stopper()?;
        let thread = thread::Builder::new()
            .name("server".to_string())
            .spawn(move || server.run())
            .context("cannot start a thread for the built-in server")?;
        Ok(OwnServer {
            address,
            stopper,
            thread: Some(thread),
        })
    }

    /// Returns the address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server as SIGTERM would, and waits for its end.
    pub fn stop(mut self) -> Served {
        self.stopper.stop();
        self.served()
    }

    /// Stops the server at once, as a second SIGTERM would, and waits for its end.
    pub fn stop_at_once(mut self) -> Served {
        self.stopper.stop();
        self.stopper.stop();
        self.served()
    }

    /// Waits for the end of the server's thread.
    fn served(&mut self) -> Served {
        let Some(thread) = self.thread.take() else {
            return Served::default();
        };
        let (totals, failure) = match thread.join() {
            Ok(Ok(Ended { totals, failure })) => (
                Some(totals),
                failure.map(|error| anyhow!(error).context("the built-in server failed")),
            ),
            Ok(Err(error)) => {
                let error = anyhow!(error).context("cannot start the built-in server");
                (None, Some(error))
            }
            Err(_) => (
                None,
                Some(anyhow!("the built-in server panicked, see above")),
            ),
        };
        Served { totals, failure }
    }
}

/// The outcome of a server that has ended.
#[derive(Debug, Default)]
pub struct Served {
    /// The server's counters, if it started and its thread did not panic.
    pub totals: Option<Totals>,
    /// The error that ended the server, if one did.
    pub failure: Option<anyhow::Error>,
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stopper.stop();
            self.stopper.stop();
            self.served();
        }
    }
}
