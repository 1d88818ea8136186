//! A server in this process, for a run without a target: it has a thread and a reactor of its own,
//! and listens on a free port of the loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::{self, JoinHandle};
use std::{io, mem};

use anyhow::Context;

use crate::reactor::signals::Remote;
use crate::server::stats::Totals;
use crate::server::{Config, Ended, Server};

/// The server, running; stopped when this is dropped.
#[derive(Debug)]
pub struct OwnServer {
    address: SocketAddr,
    stopper: Remote,
    thread: Option<JoinHandle<io::Result<Ended>>>,
}

impl OwnServer {
    /// Starts it. When this returns, connections are accepted.
    pub fn start() -> anyhow::Result<OwnServer> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(&Config::new(vec![loopback]))?;
        let address = server.addresses().next().context("no listener")?;
        let stopper = server.remote()?;
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

    /// Stops it as SIGTERM would, and tells what it counted.
    pub fn stop(mut self) -> anyhow::Result<Totals> {
        self.stopper.stop();
        let thread = mem::take(&mut self.thread).context("the server was stopped before")?;
        match thread.join() {
            Ok(Ok(Ended {
                totals,
                failure: None,
            })) => Ok(totals),
            Ok(Ok(Ended {
                failure: Some(error),
                ..
            })) => Err(error).context("the server of this run failed"),
            Ok(Err(error)) => Err(error).context("the server of this run did not start"),
            Err(_) => anyhow::bail!("the server of this run broke off"),
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Twice: what is left of a run that failed is not waited for.
            self.stopper.stop();
            self.stopper.stop();
            let _ = thread.join();
        }
    }
}
