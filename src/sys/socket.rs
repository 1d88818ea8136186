//! Creates, configures and connects TCP sockets. Every option of a TCP socket is set in this file,
//! under its name in setsockopt(2), except SO_TIMESTAMPING ([`crate::sys::timestamps`]) and the
//! write timeout of [`crate::send`].
//!
//! Accepted sockets inherit the options of their listener, so that a new client needs no call here.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::Duration;
use std::{fmt, panic};

use mio::net::{TcpListener, TcpStream};
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::utsname::uname;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use serde::{Deserialize, Serialize};

use crate::stream::Stream;
use crate::sys::sysctl;

/// The values that TCP_MAXSEG accepts, in bytes: Linux refuses less than 88 and more than 32767
/// (`EINVAL`).
pub const MSS_RANGE: RangeInclusive<u16> = 88..=32767;

/// The default backlog: the number of clients that may wait to be accepted. It is Linux' own
/// default of `net.core.somaxconn`; with std's 128, SYNs are dropped when thousands of clients
/// connect at once.
pub const BACKLOG_DEFAULT: u32 = 4096;

/// The socket options of a connection. `None` leaves an option at the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// TCP_MAXSEG in bytes, see [`MSS_RANGE`]. It limits both directions: the MSS that is announced
    /// to the peer, and the segments that are sent. With timestamps a segment carries 12 bytes less
    /// (RFC 7323).
    pub mss: Option<u16>,
    /// SO_RCVBUF in bytes, before the kernel doubles it for its own bookkeeping.
    pub recv_buffer: Option<usize>,
    /// SO_SNDBUF in bytes, before the kernel doubles it for its own bookkeeping.
    pub send_buffer: Option<usize>,
    /// Whether Nagle's algorithm stays enabled (RFC 896). Otherwise TCP_NODELAY is set.
    pub nagle: bool,
    /// SO_KEEPALIVE, with times so long that the kernel sends probes only on request, see
    /// [`probe`].
    pub probes: bool,
    /// TCP_USER_TIMEOUT: maximum time that sent data may stay unacknowledged, or the peer's window
    /// closed, before the kernel aborts the connection.
    pub user_timeout: Option<Duration>,
    /// TCP_NOTSENT_LOWAT in bytes: limit on the unsent data that the kernel accepts.
    pub notsent_lowat: Option<u32>,
}

/// The longest TCP_KEEPIDLE and TCP_KEEPINTVL: 9 hours.
const KEEPALIVE_LONGEST: Duration = Duration::from_secs(32_767);

/// The largest TCP_KEEPCNT.
const KEEPALIVE_COUNT_MOST: u32 = 127;

/// An option whose requested value the kernel did not grant. The kernel does not report that, so
/// upcase does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionMismatch {
    option: &'static str,
    requested: usize,
    granted: usize,
    sysctl: &'static str,
}

impl fmt::Display for OptionMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OptionMismatch {
            option,
            requested,
            granted,
            sysctl,
        } = self;
        write!(
            f,
            "{option}: requested {requested}, the kernel granted {granted}"
        )?;
        if granted < requested {
            write!(f, "; the limit is sysctl {sysctl}")
        } else {
            write!(f, ", which is its minimum")
        }
    }
}

/// The address families of an IPv6 wildcard listener's clients: IPV6_V6ONLY, ipv6(7). The option is
/// set in either case, since its default is a sysctl. On other addresses it has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv6 only: another socket listens on IPv4 addresses with the same port.
    Ipv6,
    /// IPv6 and IPv4.
    Both,
}

impl Families {
    fn set(self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        match address {
            SocketAddr::V4(_) => Ok(()),
            SocketAddr::V6(_) => socket.set_only_v6(self == Families::Ipv6),
        }
    }
}

/// Returns a listening socket, and the options that the kernel did not grant as requested. Without
/// `backlog` the backlog is [`BACKLOG_DEFAULT`], or less where the kernel allows less.
///
/// With [`Families::Both`] an IPv6 wildcard address accepts IPv4 clients as well. SO_REUSEADDR lets
/// a server start while connections of its predecessor are in TIME_WAIT. With SO_REUSEPORT other
/// listeners may share the port, each with its own accept queue.
pub fn listen(
    address: SocketAddr,
    families: Families,
    options: &Options,
    backlog: Option<u32>,
    reuse_port: bool,
) -> io::Result<(TcpListener, Vec<OptionMismatch>)> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    families.set(&socket, address)?;
    let mut option_mismatches = configure(&socket, options)?;
    socket.bind(&address.into())?;
    let mismatch = start_listening(&socket, backlog.unwrap_or(BACKLOG_DEFAULT))?;
    option_mismatches.extend(mismatch.filter(|_| backlog.is_some()));
    Ok((TcpListener::from_std(socket.into()), option_mismatches))
}

/// Checks that no socket listens on this address, with or without SO_REUSEPORT.
pub fn check_free(address: SocketAddr, families: Families) -> io::Result<()> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    families.set(&socket, address)?;
    socket.bind(&address.into())
}

/// Checks that connections can be bound to a local address, whose port is 0.
pub fn check_source(source: SocketAddr) -> io::Result<()> {
    bind_source(&new(source)?, source)
}

/// Returns whether an address belongs to this host: the kernel also chooses it as the source of
/// packets to it, and these never reach a wire. No packet is sent: connect(2) on a datagram socket
/// only chooses a route.
pub fn is_local(address: SocketAddr) -> bool {
    let route = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).ok()?;
        socket.connect(&address.into()).ok()?;
        socket.local_addr().ok()?.as_socket()
    };
    let ip = address.ip().to_canonical();
    ip.is_loopback() || route().is_some_and(|from| from.ip().to_canonical() == ip)
}

/// Configures a listening socket that another program has created, and returns it as [`listen`]
/// does. Without `backlog` its backlog is not changed. Fails if the socket does not listen.
pub fn adopt(
    listener: std::net::TcpListener,
    options: &Options,
    backlog: Option<u32>,
) -> io::Result<(TcpListener, Vec<OptionMismatch>)> {
    let socket = Socket::from(listener);
    if !socket.is_listener()? {
        let text = "the socket does not listen";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    socket.set_nonblocking(true)?;
    let mut option_mismatches = configure(&socket, options)?;
    if let Some(backlog) = backlog {
        option_mismatches.extend(start_listening(&socket, backlog)?);
    }
    Ok((TcpListener::from_std(socket.into()), option_mismatches))
}

/// Accepts the client that has waited longest, and returns its address if `wants_address`: that
/// takes 0.5 % of the CPU time of a client with one message. See accept(2).
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
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    Ok((TcpStream::from_std(socket.into()), address.map(canonical)))
}

/// Returns the address of a client; that of an IPv4 client of an IPv6 wildcard listener is
/// converted from IPv6 to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// A socket for an outgoing connection that has not begun to connect. Each step is a separate call,
/// so that a caller can report which one failed.
#[derive(Debug)]
pub struct Outgoing(Socket);

impl Outgoing {
    /// Returns a nonblocking socket of the family of `target`: socket(2).
    pub fn new(target: SocketAddr) -> io::Result<Outgoing> {
        Ok(Outgoing(new(target)?))
    }

    /// Sets the options. Values that the kernel does not grant are not reported.
    pub fn configure(&self, options: &Options) -> io::Result<()> {
        configure(&self.0, options).map(drop)
    }

    /// Binds it to a local address, whose port is 0: connecting chooses the port.
    pub fn bind(&self, source: SocketAddr) -> io::Result<()> {
        bind_source(&self.0, source)
    }

    /// Begins to connect: the socket is writable once the connection is up or has failed, which
    /// [`connected`] distinguishes.
    pub fn connect(self, target: SocketAddr) -> io::Result<TcpStream> {
        match self.0.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(TcpStream::from_std(self.0.into())),
        }
    }
}

/// Connects to `target`: all steps of [`Outgoing`] in one.
pub fn connect(
    target: SocketAddr,
    source: Option<SocketAddr>,
    options: &Options,
) -> io::Result<TcpStream> {
    let socket = Outgoing::new(target)?;
    socket.configure(options)?;
    if let Some(source) = source {
        socket.bind(source)?;
    }
    socket.connect(target)
}

/// Returns whether a connection attempt has succeeded; `None` while it is under way. A connection
/// with itself is refused, see `refuse_itself`.
pub fn connected(stream: &TcpStream) -> io::Result<Option<()>> {
    // A connection that has failed, even after it was established, has no peer: its error is
    // pending.
    match stream.peer_addr() {
        Ok(peer) => refuse_itself(stream, peer).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            stream.take_error()?.map_or(Ok(None), Err)
        }
        Err(error) => Err(error),
    }
}

/// Returns the error ECONNREFUSED when both ends of a connection are the same socket.
///
/// Where no socket listens on a port of the local range (net.ipv4.ip_local_port_range), the kernel
/// may choose that very port for the client. Its SYN then reaches itself, which is a simultaneous
/// open (RFC 9293, 3.5), and the socket would read what it sent. It is closed by a reset, since in
/// TIME_WAIT it would keep a server from that port.
fn refuse_itself(socket: &impl AsFd, peer: SocketAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let near = socket.local_addr()?.as_socket();
    if near.map(|near| (near.ip(), near.port())) != Some((peer.ip(), peer.port())) {
        return Ok(());
    }
    socket.set_linger(Some(Duration::ZERO))?;
    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

/// Returns the options that the kernel would not grant as requested, determined on a socket created
/// for this purpose.
pub fn option_mismatches(options: &Options) -> io::Result<Vec<OptionMismatch>> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    configure(&socket, options)
}

/// Returns the payload bytes of a full segment on this connection: TCP_MAXSEG of a connected
/// socket.
pub fn mss_in_force(stream: &std::net::TcpStream) -> io::Result<u32> {
    SockRef::from(stream).tcp_mss()
}

/// The oldest kernel that fills all of [`TcpInfo`]: major and minor version.
const KERNEL_LEAST: (u32, u32) = (5, 4);

/// Checks that this kernel fills all of [`TcpInfo`]. The error describes in one line what it lacks.
/// To be called before any call of [`tcp_info`], and before there are threads.
pub fn check_kernel() -> io::Result<()> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let is_old = version(&release).is_some_and(|version| version < KERNEL_LEAST);
    if !is_old && is_tcp_info_whole()? {
        return Ok(());
    }
    let (major, minor) = KERNEL_LEAST;
    let text = format!(
        "Linux {major}.{minor} or newer is required (its TCP_INFO has {} bytes); this is {release}",
        size_of::<TcpInfo>()
    );
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// Returns the major and minor version of a release such as `5.4.0-42-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Returns whether the kernel returns all of [`TcpInfo`]. The version alone is not reliable: an
/// emulated kernel has one as well, and distributions backport features. The crate nix treats a
/// shorter result as a fault of this program and panics; that panic is caught, and its message is
/// suppressed.
fn is_tcp_info_whole() -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(|| getsockopt(&socket, TcpInformation));
    panic::set_hook(hook);
    match outcome {
        Ok(requested) => requested.map(|_| true).map_err(io::Error::from),
        Err(_) => Ok(false),
    }
}

/// A kind of request that the kernel of a host answers by itself, without a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// ICMP echo from a datagram socket, which sysctl net.ipv4.ping_group_range may allow: icmp(7).
    Echo,
    /// ICMP echo from a raw socket, which needs CAP_NET_RAW: raw(7).
    RawEcho,
    /// A UDP datagram to a port on which no socket listens. The response is an error in the
    /// socket's error queue: IP_RECVERR, ip(7).
    ClosedPort,
}

impl ProbeKind {
    /// Returns the name of the kind in messages.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Echo | ProbeKind::RawEcho => "ICMP echo",
            ProbeKind::ClosedPort => "UDP to a closed port",
        }
    }
}

/// The UDP port on which no socket is expected to listen: the first one of traceroute(8).
const CLOSED_PORT: u16 = 33_434;

/// Returns a nonblocking socket that is connected to a host, for requests of this kind.
pub fn probe_socket(
    probe: ProbeKind,
    mut target: SocketAddr,
    source: Option<SocketAddr>,
) -> io::Result<Socket> {
    let echo = match target {
        SocketAddr::V4(_) => Protocol::ICMPV4,
        SocketAddr::V6(_) => Protocol::ICMPV6,
    };
    let (kind, protocol, port) = match probe {
        ProbeKind::Echo => (Type::DGRAM, echo, 0),
        ProbeKind::RawEcho => (Type::RAW, echo, 0),
        ProbeKind::ClosedPort => (Type::DGRAM, Protocol::UDP, CLOSED_PORT),
    };
    let socket = Socket::new(Domain::for_address(target), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if probe == ProbeKind::ClosedPort {
        match target {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
        }
    }
    if let Some(source) = source {
        socket.bind(&source.into())?;
    }
    target.set_port(port);
    socket.connect(&target.into())?;
    Ok(socket)
}

/// Returns the kernel's data on a connection: TCP_INFO, tcp(7). See [`check_kernel`].
pub fn tcp_info(stream: &TcpStream) -> io::Result<TcpInfo> {
    Ok(getsockopt(stream, TcpInformation)?)
}

/// Makes the kernel drop every further SYN to this listener; handshakes in progress continue. A
/// client retransmits its SYN after a second (RFC 6298), and may then reach another server.
pub fn drop_syns(listener: &TcpListener) -> io::Result<()> {
    // A program of classic BPF (linux/filter.h); the packet begins with its TCP header.
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

/// Returns the number of clients in the accept queue: `tcpi_unacked` of a listener.
pub fn accept_queue_length(listener: &TcpListener) -> io::Result<u64> {
    Ok(getsockopt(listener, TcpInformation)?.unacked.into())
}

/// Makes the kernel send a keep-alive probe at its next clock tick, or once no segment has arrived
/// for a second. The connection must have [`Options::probes`]: a TCP_KEEPIDLE that has already
/// elapsed when it is set is due at once, and the kernel repeats the probe only after
/// TCP_KEEPINTVL. See tcp(7), and `tcp_sock_set_keepidle_locked` and `tcp_keepalive_timer` in
/// Linux.
pub fn probe(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(stream, sockopt::TcpKeepIdle, &1)?)
}

/// Makes closing this connection reset it: SO_LINGER with a time of 0, socket(7).
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// The beginning of `struct tcp_info`, linux/tcp.h; Linux has all of it since 5.4. Times are in
/// microseconds, unless stated otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    states: [u8; 3],
    probes: u8,
    more_states: [u8; 4],
    times: [u32; 4],
    unacked: u32,
    counters: [u32; 4],
    /// Time since data was last sent, in milliseconds, like all fields `last_*`.
    pub last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    path: [u32; 2],
    /// The smoothed round-trip time.
    pub rtt: u32,
    /// The mean deviation of the round-trip time.
    pub rttvar: u32,
    more_counters: [u32; 6],
    /// Retransmitted segments, including SYNs.
    pub total_retrans: u32,
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segments: [u32; 2],
    /// Bytes in the send buffer that were not sent yet.
    pub notsent_bytes: u32,
    /// The smallest measured round-trip time.
    pub min_rtt: u32,
    data_segs_in: u32,
    /// Segments with data that were sent.
    pub data_segs_out: u32,
    /// The rate at which data was acknowledged most recently, in bytes a second.
    pub delivery_rate: u64,
    /// Time with data in flight.
    pub busy_time: u64,
    /// Part of `busy_time` in which the peer's receive window was the limit.
    pub rwnd_limited: u64,
    /// Part of `busy_time` in which the send buffer was the limit.
    pub sndbuf_limited: u64,
    /// Segments that were acknowledged.
    pub delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    /// Spurious retransmissions: retransmitted segments that the peer had already, as it reported
    /// by D-SACK (RFC 2883).
    pub dsack_dups: u32,
    reord_seen: u32,
    /// Segments with data that arrived out of order.
    pub rcv_ooopack: u32,
    snd_wnd: u32,
}

impl TcpInfo {
    /// Returns the bytes that the peer has acknowledged: `tcpi_bytes_acked` (RFC 4898).
    pub fn acknowledged(&self) -> u64 {
        self.bytes_acked
    }

    /// Returns the bytes in the send buffer that the peer has not acknowledged, sent or not.
    pub fn outstanding(&self) -> u64 {
        let sent = self.bytes_sent.saturating_sub(self.bytes_retrans);
        sent.saturating_sub(self.bytes_acked) + u64::from(self.notsent_bytes)
    }

    /// Returns the time since data was last sent or received.
    pub fn quiet(&self) -> Duration {
        Duration::from_millis(self.last_data_sent.min(self.last_data_recv).into())
    }

    /// Returns the time since the last segment arrived, with or without data.
    pub fn heard(&self) -> Duration {
        Duration::from_millis(self.last_ack_recv.min(self.last_data_recv).into())
    }

    /// Returns the number of keep-alive and window probes that were sent since the last segment
    /// arrived: `tcpi_probes`.
    pub fn unanswered(&self) -> u32 {
        self.probes.into()
    }
}

/// The socket option TCP_INFO, in the form in which nix defines all socket options.
#[derive(Clone, Copy, Debug)]
struct TcpInformation;

nix::getsockopt_impl!(
    TcpInformation,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo,
    sockopt::GetStruct<TcpInfo>
);

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

/// Sets the options, and returns those that the kernel did not grant as requested. Must precede
/// bind and connect, since the window scale depends on the buffers.
fn configure(socket: &Socket, options: &Options) -> io::Result<Vec<OptionMismatch>> {
    let mut option_mismatches = Vec::new();
    if !options.nagle {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(mss) = options.mss {
        socket.set_tcp_mss(u32::from(mss))?;
    }
    if let Some(requested) = options.recv_buffer {
        socket.set_recv_buffer_size(clamp_to_int(requested))?;
        option_mismatches.push(OptionMismatch {
            option: "receive buffer in bytes",
            requested,
            granted: socket.recv_buffer_size()? / 2,
            sysctl: "net.core.rmem_max",
        });
    }
    if let Some(requested) = options.send_buffer {
        socket.set_send_buffer_size(clamp_to_int(requested))?;
        option_mismatches.push(OptionMismatch {
            option: "send buffer in bytes",
            requested,
            granted: socket.send_buffer_size()? / 2,
            sysctl: "net.core.wmem_max",
        });
    }
    if options.probes {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_LONGEST)
                .with_interval(KEEPALIVE_LONGEST)
                .with_retries(KEEPALIVE_COUNT_MOST),
        )?;
    }
    if let Some(time) = options.user_timeout {
        let most = Duration::from_millis(i32::MAX as u64);
        socket.set_tcp_user_timeout(Some(time.clamp(Duration::from_millis(1), most)))?;
    }
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    option_mismatches.retain(|mismatch| mismatch.requested != mismatch.granted);
    Ok(option_mismatches)
}

/// Limits a size to what a C int holds, which the kernel reads; socket2 would wrap a larger value
/// around.
fn clamp_to_int(bytes: usize) -> usize {
    bytes.min(i32::MAX as usize)
}

fn start_listening(socket: &Socket, requested: u32) -> io::Result<Option<OptionMismatch>> {
    socket.listen(i32::try_from(requested).unwrap_or(i32::MAX))?;
    let Some(limit) = sysctl::read_number("net.core.somaxconn") else {
        return Ok(None);
    };
    let granted = u32::try_from(limit).map_or(requested, |limit| limit.min(requested));
    let mismatch = OptionMismatch {
        option: "backlog in clients",
        requested: requested as usize,
        granted: granted as usize,
        sysctl: "net.core.somaxconn",
    };
    Ok((granted < requested).then_some(mismatch))
}

/// Binds the address and leaves the port to connect(2), which may then use one port for several
/// targets: IP_BIND_ADDRESS_NO_PORT, ip(7).
fn bind_source(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&source.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cuts_is_reported_with_the_sysctl() {
        let options = Options {
            recv_buffer: Some(1 << 40),
            send_buffer: Some(65536),
            ..Options::default()
        };
        let option_mismatches = option_mismatches(&options).unwrap();
        assert_eq!(
            option_mismatches.len(),
            1,
            "the send buffer was granted as asked"
        );
        let text = option_mismatches[0].to_string();
        assert!(text.contains("requested 1099511627776"), "{text}");
        assert!(text.contains("sysctl net.core.rmem_max"), "{text}");
    }

    fn bind(address: &str, families: Families) -> (TcpListener, u16) {
        let address = address.parse().unwrap();
        let options = Options::default();
        let (listener, _) = listen(address, families, &options, None, false).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[test]
    fn the_version_of_a_kernel_is_read_from_its_release() {
        assert_eq!(version("5.4.0-42-generic"), Some((5, 4)));
        assert_eq!(version("4.18.0-553.el8_10.x86_64"), Some((4, 18)));
        assert_eq!(version("6.18"), Some((6, 18)));
        assert_eq!(version("none"), None);
        check_kernel().unwrap();
    }

    #[test]
    fn both_families_can_be_listened_on_with_one_port() {
        let (_v4, port) = bind("0.0.0.0:0", Families::Ipv6);
        bind(&format!("[::]:{port}"), Families::Ipv6);
    }

    #[test]
    fn a_client_by_ipv4_of_an_ipv6_listener_has_an_ipv4_address() {
        let (listener, port) = bind("[::]:0", Families::Both);
        for (target, ip) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
            let client = std::net::TcpStream::connect(format!("{target}:{port}")).unwrap();
            let (_, address) = accept(&listener, true).unwrap();
            let address = address.unwrap();
            assert_eq!(address.ip().to_string(), ip);
            assert_eq!(address, client.local_addr().unwrap());
        }
    }

    #[test]
    fn a_source_must_be_an_address_of_this_host() {
        assert!(check_source("127.0.0.9:0".parse().unwrap()).is_ok());
        let error = check_source("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }
}
