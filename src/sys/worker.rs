//! A thread for work that may block, with a descriptor that is readable when a result is available.
//!
//! So the caller can poll for the result together with other descriptors. When the caller ends
//! first, the thread is not joined, even if it is blocked.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// A thread that carries out orders one after the other, each with one result.
pub struct Worker<O, R> {
    orders: Sender<O>,
    results: Receiver<R>,
    /// Readable while a result is available: holds one byte for each of them.
    ready: UnixStream,
}

impl<O: Send + 'static, R: Send + 'static> Worker<O, R> {
    /// Starts a thread with this name. It ends when the worker is dropped and its last order is
    /// carried out.
    pub fn start(
        name: &str,
        mut work: impl FnMut(O) -> R + Send + 'static,
    ) -> io::Result<Worker<O, R>> {
        let (orders, ordered) = mpsc::channel();
        let (result, results) = mpsc::channel();
        let (ready, mut notifier) = UnixStream::pair()?;
        let run = move || {
            while let Ok(order) = ordered.recv() {
                if result.send(work(order)).is_err() || notifier.write_all(&[0]).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name(name.to_string()).spawn(run)?;
        Ok(Worker {
            orders,
            results,
            ready,
        })
    }

    /// Queues an order for the thread.
    pub fn submit(&self, order: O) {
        // If the thread has ended, `take` returns the error.
        let _ = self.orders.send(order);
    }

    /// Takes the result of the oldest order; blocks unless the descriptor is readable. Fails if the
    /// thread has ended.
    pub fn take(&self) -> io::Result<R> {
        (&self.ready).read_exact(&mut [0])?;
        self.results.recv().map_err(io::Error::other)
    }
}

impl<O, R> AsFd for Worker<O, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl<O, R> fmt::Debug for Worker<O, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
