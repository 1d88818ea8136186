//! The world as it is: the kernel's clock, its sockets, and the reactor's timers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::load::evidence::Path;
use crate::load::world::{Socket, Timer, World};
use crate::reactor::Reactor;
use crate::reactor::slots::Token;
use crate::socket::{self, Options};

/// The world of one thread.
#[derive(Debug)]
pub struct Kernel {
    /// What happens in it.
    pub reactor: Reactor<Timer>,
    options: Options,
}

impl Kernel {
    /// A world with connections of these options.
    pub fn new(options: Options) -> io::Result<Kernel> {
        Ok(Kernel {
            reactor: Reactor::new()?,
            options,
        })
    }
}

impl World for Kernel {
    type Socket = TcpStream;

    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn connect(&mut self, target: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
        socket::connect(target, source, &self.options)
    }

    fn watch(&mut self, socket: &mut TcpStream, token: Token) -> io::Result<()> {
        self.reactor.add_stream(socket, token)
    }

    fn set_timer(&mut self, deadline: Instant, timer: Timer) {
        self.reactor.set_timer(deadline, timer);
    }
}

impl Socket for TcpStream {
    fn is_up(&self) -> io::Result<bool> {
        Ok(socket::connected(self)?.is_some())
    }

    fn reset_on_close(&mut self) -> io::Result<()> {
        socket::reset_on_close(self)
    }

    fn path(&self) -> io::Result<Path> {
        let info = socket::tcp_info(self)?;
        Ok(Path {
            segments: info.data_segs_out.into(),
            resent: info.total_retrans.into(),
            out_of_order: info.rcv_ooopack.into(),
            busy: Duration::from_micros(info.busy_time),
            window_limited: Duration::from_micros(info.rwnd_limited),
            buffer_limited: Duration::from_micros(info.sndbuf_limited),
            round_trip: Duration::from_micros(info.rtt.into()),
            round_trip_least: Duration::from_micros(info.min_rtt.into()),
        })
    }
}
