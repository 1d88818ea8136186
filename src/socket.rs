//! TCP sockets: made, configured, connected. Every socket option is set in this file, under the
//! name of its setsockopt(2).
//!
//! Accepted sockets inherit the options of their listener, so a new client costs no call here.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::Duration;
use std::{fmt, fs};

use mio::net::{TcpListener, TcpStream};
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::stream::Stream;

/// What TCP_MAXSEG takes, in bytes: Linux refuses less than 88 and more than 32767 (`EINVAL`).
pub const MSS_RANGE: RangeInclusive<u16> = 88..=32767;

/// Clients that may wait to be accepted, unless the user says otherwise. It is Linux' own default
/// of `net.core.somaxconn`; std's 128 loses SYNs when thousands connect at once.
pub const BACKLOG_DEFAULT: u32 = 4096;

/// The options of a connection, each `None` or false: the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// TCP_MAXSEG in bytes, see [`MSS_RANGE`]. It caps both directions: what is announced to the
    /// peer and what is sent. With timestamps a segment carries 12 bytes less (RFC 7323).
    pub mss: Option<u16>,
    /// SO_RCVBUF in bytes, before the kernel doubles it for its own bookkeeping.
    pub recv_buffer: Option<usize>,
    /// SO_SNDBUF in bytes, before the kernel doubles it for its own bookkeeping.
    pub send_buffer: Option<usize>,
    /// Leave Nagle's algorithm on (RFC 896). Otherwise TCP_NODELAY is set.
    pub nagle: bool,
    /// SO_KEEPALIVE: how long a connection is silent before the kernel asks whether its peer is
    /// still there; it asks [`KEEPALIVE_PROBES`] times, each after a quarter of that time.
    pub keepalive: Option<Duration>,
    /// TCP_USER_TIMEOUT: how long what was sent may stay unacknowledged, or the peer's window shut,
    /// before the kernel gives the connection up.
    pub user_timeout: Option<Duration>,
    /// TCP_NOTSENT_LOWAT in bytes: how much of what is not sent yet the kernel takes.
    pub unsent_most: Option<u32>,
}

/// Unanswered questions after which the kernel gives a silent peer up: TCP_KEEPCNT.
pub const KEEPALIVE_PROBES: u32 = 4;

/// A value that the kernel did not grant as asked. It does so silently; we do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regrant {
    option: &'static str,
    asked: usize,
    granted: usize,
    sysctl: &'static str,
}

impl fmt::Display for Regrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Regrant {
            option,
            asked,
            granted,
            sysctl,
        } = self;
        write!(
            f,
            "{option}: asked for {asked}, the kernel granted {granted}"
        )?;
        if granted < asked {
            write!(f, "; the limit is sysctl {sysctl}")
        } else {
            write!(f, ", which is its minimum")
        }
    }
}

/// A listening socket, and what was not granted as asked. Without `backlog`,
/// [`BACKLOG_DEFAULT`] or what the kernel allows.
///
/// An IPv6 wildcard takes IPv6 clients only, so that both families can be listened on.
/// SO_REUSEADDR lets a server start while connections of its predecessor are in TIME_WAIT.
/// With SO_REUSEPORT other listeners may share the port, each with a queue of its own.
pub fn listen(
    address: SocketAddr,
    options: &Options,
    backlog: Option<u32>,
    reuse_port: bool,
) -> io::Result<(TcpListener, Vec<Regrant>)> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let mut regrants = configure(&socket, options)?;
    socket.bind(&address.into())?;
    let regrant = start_listening(&socket, backlog.unwrap_or(BACKLOG_DEFAULT))?;
    regrants.extend(regrant.filter(|_| backlog.is_some()));
    Ok((TcpListener::from_std(socket.into()), regrants))
}

/// Whether nobody listens at this address, with or without SO_REUSEPORT.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// The same for a socket that somebody else has made and that listens already. Without `backlog`
/// its queue stays as it is.
pub fn adopt(
    listener: std::net::TcpListener,
    options: &Options,
    backlog: Option<u32>,
) -> io::Result<(TcpListener, Vec<Regrant>)> {
    let socket = Socket::from(listener);
    if !socket.is_listener()? {
        let text = "the socket does not listen";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    socket.set_nonblocking(true)?;
    let mut regrants = configure(&socket, options)?;
    if let Some(backlog) = backlog {
        regrants.extend(start_listening(&socket, backlog)?);
    }
    Ok((TcpListener::from_std(socket.into()), regrants))
}

/// Takes the client that has waited longest, and tells its address when that is wanted: that takes
/// half a hundredth of the CPU time of a client with one message. See accept(2).
#[inline(always)]
pub fn accept(
    listener: &TcpListener,
    wants_address: bool,
) -> io::Result<(TcpStream, Option<SocketAddr>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = if wants_address {
        net::acceptfrom_with(listener, flags)?
    } else {
        (net::accept_with(listener, flags)?, None)
    };
    let address = address.and_then(|address| address.try_into().ok());
    Ok((TcpStream::from_std(socket.into()), address))
}

/// A socket on its way to `target`: writable once the connection is up or has failed, which
/// [`connected`] tells.
pub fn connect(
    target: SocketAddr,
    source: Option<IpAddr>,
    options: &Options,
) -> io::Result<TcpStream> {
    let socket = new(target)?;
    configure(&socket, options)?;
    if let Some(source) = source {
        bind_source(&socket, source)?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Whether a connection attempt has succeeded; `None` while it is under way.
pub fn connected(stream: &TcpStream) -> io::Result<Option<()>> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel would not grant of `options`, found out on a socket made for it.
pub fn regrants(options: &Options) -> io::Result<Vec<Regrant>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    configure(&socket, options)
}

/// A blocking socket, connected within `timeout`.
pub fn connect_blocking(
    target: SocketAddr,
    options: &Options,
    timeout: Duration,
) -> io::Result<std::net::TcpStream> {
    let socket = new(target)?;
    socket.set_nonblocking(false)?;
    configure(&socket, options)?;
    socket.connect_timeout(&target.into(), timeout)?;
    Ok(socket.into())
}

/// The payload bytes of a full segment on this connection: TCP_MAXSEG of a connected socket.
pub fn mss_in_force(stream: &std::net::TcpStream) -> io::Result<u32> {
    SockRef::from(stream).tcp_mss()
}

/// What the kernel knows of a connection: TCP_INFO, tcp(7).
pub fn tcp_info(stream: &TcpStream) -> io::Result<TcpInfo> {
    Ok(getsockopt(stream, TcpInformation)?)
}

/// From now on the kernel drops every SYN that comes to this listener; handshakes that have begun
/// go on. A client asks again after a second (RFC 6298), and may then find another server.
pub fn drop_syns(listener: &TcpListener) -> io::Result<()> {
    // In the language of socket filters (linux/filter.h); the packet begins with its TCP header.
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const WHOLE: u32 = u32::MAX;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE as u16, 0, 0, FLAGS),
        SockFilter::new(IF_ANY_BIT as u16, 0, 1, SYN),
        SockFilter::new(RETURN as u16, 0, 0, 0),
        SockFilter::new(RETURN as u16, 0, 0, WHOLE),
    ])
}

/// How many clients wait to be accepted: `tcpi_unacked` of a listener.
pub fn clients_in_queue(listener: &TcpListener) -> io::Result<u64> {
    Ok(getsockopt(listener, TcpInformation)?.unacked.into())
}

/// Closing this connection resets it: SO_LINGER with a time of 0, socket(7).
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// The beginning of `struct tcp_info`, linux/tcp.h; Linux has all of it since 5.4. Times are in
/// microseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    states: [u8; 8],
    times: [u32; 4],
    unacked: u32,
    counters: [u32; 4],
    /// In milliseconds, as all of `last_*`.
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    path: [u32; 2],
    /// The smoothed round-trip time.
    pub rtt: u32,
    more_counters: [u32; 7],
    /// Segments sent again, SYNs included.
    pub total_retrans: u32,
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segments: [u32; 2],
    notsent_bytes: u32,
    /// The smallest round-trip time seen.
    pub min_rtt: u32,
    data_segs_in: u32,
    /// Segments with data that were sent.
    pub data_segs_out: u32,
    delivery_rate: u64,
    /// Time with data in flight.
    pub busy_time: u64,
    /// The part of it in which the peer's window was the limit.
    pub rwnd_limited: u64,
    /// The part of it in which the send buffer was the limit.
    pub sndbuf_limited: u64,
    delivered: [u32; 2],
    bytes_sent: u64,
    bytes_retrans: u64,
    /// Segments sent again that the peer had already: it said so by D-SACK (RFC 2883).
    pub dsack_dups: u32,
    reord_seen: u32,
    /// Segments with data that came out of their order.
    pub rcv_ooopack: u32,
    snd_wnd: u32,
}

impl TcpInfo {
    /// Bytes that the peer has acknowledged: `tcpi_bytes_acked` (RFC 4898).
    pub fn acknowledged(&self) -> u64 {
        self.bytes_acked
    }

    /// Bytes that the kernel was given and the peer has not acknowledged.
    pub fn outstanding(&self) -> u64 {
        let sent = self.bytes_sent.saturating_sub(self.bytes_retrans);
        sent.saturating_sub(self.bytes_acked) + u64::from(self.notsent_bytes)
    }

    /// How long no byte has come and none has gone out.
    pub fn quiet(&self) -> Duration {
        Duration::from_millis(self.last_data_sent.min(self.last_data_recv).into())
    }
}

/// TCP_INFO, by the way in which nix makes all socket options.
#[derive(Clone, Copy, Debug)]
struct TcpInformation;

nix::getsockopt_impl!(
    TcpInformation,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo,
    sockopt::GetStruct<TcpInfo>
);

/// The addresses of `HOST:PORT`, by getaddrinfo(3).
pub fn resolve(target: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(target.to_socket_addrs()?.collect())
}

impl Stream for TcpStream {
    #[inline(always)]
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = net::recv(self, buffer, RecvFlags::empty())?;
        Ok(count)
    }

    #[inline(always)]
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(net::send(self, bytes, SendFlags::NOSIGNAL)?)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn new(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
}

/// Sets what is asked for. Buffers go before bind and connect: the window scale depends on them.
fn configure(socket: &Socket, options: &Options) -> io::Result<Vec<Regrant>> {
    let mut regrants = Vec::new();
    if !options.nagle {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(mss) = options.mss {
        socket.set_tcp_mss(u32::from(mss))?;
    }
    if let Some(asked) = options.recv_buffer {
        socket.set_recv_buffer_size(clamp_to_int(asked))?;
        regrants.push(Regrant {
            option: "receive buffer in bytes",
            asked,
            granted: socket.recv_buffer_size()? / 2,
            sysctl: "net.core.rmem_max",
        });
    }
    if let Some(asked) = options.send_buffer {
        socket.set_send_buffer_size(clamp_to_int(asked))?;
        regrants.push(Regrant {
            option: "send buffer in bytes",
            asked,
            granted: socket.send_buffer_size()? / 2,
            sysctl: "net.core.wmem_max",
        });
    }
    if let Some(time) = options.keepalive {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(time)
                .with_interval(keepalive_pause(time))
                .with_retries(KEEPALIVE_PROBES),
        )?;
    }
    if let Some(time) = options.user_timeout {
        let most = Duration::from_millis(i32::MAX as u64);
        socket.set_tcp_user_timeout(Some(time.clamp(Duration::from_millis(1), most)))?;
    }
    if let Some(bytes) = options.unsent_most {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    regrants.retain(|regrant| regrant.asked != regrant.granted);
    Ok(regrants)
}

fn keepalive_pause(time: Duration) -> Duration {
    (time / 4).max(Duration::from_secs(1))
}

/// When a peer that has vanished is given up by the keepalive of this time.
pub fn keepalive_end(time: Duration) -> Duration {
    time + keepalive_pause(time) * KEEPALIVE_PROBES
}

/// The kernel reads a C int; socket2 would wrap a larger value around.
fn clamp_to_int(bytes: usize) -> usize {
    bytes.min(i32::MAX as usize)
}

fn start_listening(socket: &Socket, asked: u32) -> io::Result<Option<Regrant>> {
    socket.listen(i32::try_from(asked).unwrap_or(i32::MAX))?;
    let Ok(limit) = fs::read_to_string("/proc/sys/net/core/somaxconn") else {
        return Ok(None);
    };
    let granted = limit.trim().parse().unwrap_or(asked).min(asked);
    let regrant = Regrant {
        option: "backlog in clients",
        asked: asked as usize,
        granted: granted as usize,
        sysctl: "net.core.somaxconn",
    };
    Ok((granted < asked).then_some(regrant))
}

/// Binds the address and leaves the port to connect(2), which may then use one port for several
/// targets: IP_BIND_ADDRESS_NO_PORT, ip(7).
fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cuts_is_told_with_the_sysctl() {
        let options = Options {
            recv_buffer: Some(1 << 40),
            send_buffer: Some(65536),
            ..Options::default()
        };
        let regrants = regrants(&options).unwrap();
        assert_eq!(regrants.len(), 1, "the send buffer was granted as asked");
        let text = regrants[0].to_string();
        assert!(text.contains("asked for 1099511627776"), "{text}");
        assert!(text.contains("sysctl net.core.rmem_max"), "{text}");
    }

    #[test]
    fn both_families_can_be_listened_on_with_one_port() {
        let listen = |address: &str| {
            let address = address.parse().unwrap();
            listen(address, &Options::default(), None, false).unwrap().0
        };
        let v4 = listen("0.0.0.0:0");
        let port = v4.local_addr().unwrap().port();
        listen(&format!("[::]:{port}"));
    }
}
