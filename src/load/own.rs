//! A server in this process, for a run without a target: it has a thread and a reactor of its own,
//! and listens on a free port of the loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};

use crate::server::stats::Totals;
use crate::server::{Config, Ended, Server, Stopper};

/// The server, running; stopped when this is dropped.
#[derive(Debug)]
pub struct OwnServer {
    address: SocketAddr,
    stopper: Stopper,
    thread: Option<JoinHandle<io::Result<Ended>>>,
}

impl OwnServer {
    /// Starts it. When this returns, connections are accepted.
    pub fn start() -> anyhow::Result<OwnServer> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(&Config::new(vec![loopback]))?;
        let address = server.addresses().next().context("no listener")?;
        let stopper = server.stopper()?;
        let thread = thread::Builder::new()
            .name("server".to_string())
            .spawn(move || server.run())
            .context("cannot start a thread for the server")?;
        Ok(OwnServer {
            address,
            stopper,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it as SIGTERM would.
    pub fn stop(mut self) -> Served {
        self.stopper.stop();
        self.served()
    }

    /// Stops it at once, as a second SIGTERM would.
    pub fn break_off(mut self) -> Served {
        self.stopper.stop();
        self.stopper.stop();
        self.served()
    }

    /// Waits for its end.
    fn served(&mut self) -> Served {
        let Some(thread) = self.thread.take() else {
            return Served::default();
        };
        let (totals, failure) = match thread.join() {
            Ok(Ok(Ended { totals, failure })) => (
                Some(totals),
                failure.map(|error| anyhow!(error).context("the server of this run failed")),
            ),
            Ok(Err(error)) => {
                let error = anyhow!(error).context("the server of this run did not start");
                (None, Some(error))
            }
            Err(_) => (None, Some(anyhow!("the server of this run broke off"))),
        };
        Served { totals, failure }
    }
}

/// What became of the server.
#[derive(Debug, Default)]
pub struct Served {
    /// What it counted, if it came so far.
    pub totals: Option<Totals>,
    /// Why it could not go on, if it could not.
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
