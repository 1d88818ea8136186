//! Implements [`World`] with the kernel's clock and sockets and the reactor's timers.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::load::engine::world::{KernelTimes, Socket, Timer, World};
use crate::load::results::evidence::Path;
use crate::load::results::step::{Failure, Step};
use crate::reactor::Reactor;
use crate::reactor::slots::Token;
use crate::stream::Stream;
use crate::sys::cpu_sample;
use crate::sys::socket::{self, Options, Outgoing};
use crate::sys::timestamps::Timestamps;

/// The clock, connections and timers of one thread.
#[derive(Debug)]
pub struct Kernel {
    /// The event loop of the thread.
    pub reactor: Reactor<Timer>,
    options: Options,
}

impl Kernel {
    /// Creates an event loop. All connections will have these socket options.
    pub fn new(options: Options) -> io::Result<Kernel> {
        Ok(Kernel {
            reactor: Reactor::new()?,
            options,
        })
    }
}

/// A TCP connection of the kernel.
#[derive(Debug)]
pub struct KernelSocket {
    stream: TcpStream,
    /// The kernel's timestamps of the connection, when they are recorded.
    times: Option<Box<Timestamps>>,
}

impl World for Kernel {
    type Socket = KernelSocket;

    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn cpu(&self) -> Duration {
        cpu_sample::thread_cpu()
    }

    fn connect(
        &mut self,
        target: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<KernelSocket, Failure> {
        let socket = Outgoing::new(target).map_err(Step::Open.failed())?;
        let configured = socket.configure(&self.options);
        configured.map_err(Step::Configure.failed())?;
        if let Some(source) = source {
            socket.bind(source).map_err(Step::Bind.failed())?;
        }
        let stream = socket.connect(target).map_err(Step::Connect.failed())?;
        let times = None;
        Ok(KernelSocket { stream, times })
    }

    fn register(&mut self, socket: &mut KernelSocket, token: Token) -> io::Result<()> {
        self.reactor.add_stream(&socket.stream, token)
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        self.reactor.set_timer(deadline, timer);
    }
}

impl Stream for KernelSocket {
    #[inline(always)]
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.times {
            None => self.stream.recv(buffer),
            Some(times) => times.recv(&self.stream, buffer),
        }
    }

    #[inline(always)]
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.send(bytes)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.stream.shutdown_write()
    }
}

impl Socket for KernelSocket {
    fn is_up(&self) -> io::Result<bool> {
        Ok(socket::connected(&self.stream)?.is_some())
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        socket::reset_on_close(&self.stream)
    }

    fn path(&self) -> io::Result<Path> {
        let info = socket::tcp_info(&self.stream)?;
        Ok(Path {
            segments: info.data_segs_out.into(),
            acknowledged: info.delivered.into(),
            // On a connection that this side opened, the kernel counts the SYN as one byte.
            acknowledged_bytes: info.acknowledged().saturating_sub(1),
            unsent_bytes: info.notsent_bytes.into(),
            resent: info.total_retrans.into(),
            resent_in_vain: info.dsack_dups.into(),
            out_of_order: info.rcv_ooopack.into(),
            quiet: Duration::from_millis(info.last_data_sent.into()),
            busy: Duration::from_micros(info.busy_time),
            window_limited: Duration::from_micros(info.rwnd_limited),
            buffer_limited: Duration::from_micros(info.sndbuf_limited),
            round_trip: Duration::from_micros(info.rtt.into()),
            round_trip_deviation: Duration::from_micros(info.rttvar.into()),
            round_trip_least: Duration::from_micros(info.min_rtt.into()),
            delivery_rate: info.delivery_rate,
        })
    }

    fn keep_times(&mut self) -> io::Result<()> {
        self.times = Some(Box::new(Timestamps::enable(&self.stream)?));
        Ok(())
    }

    fn times(&mut self, end: u64) -> io::Result<Option<KernelTimes>> {
        let Some(times) = self.times.as_mut() else {
            return Ok(None);
        };
        let ends = (times.sent(&self.stream, end)?, times.received());
        Ok(match ends {
            (Some(sent), Some(received)) => Some(KernelTimes { sent, received }),
            _ => None,
        })
    }
}
