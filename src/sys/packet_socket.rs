//! Receives the packets of an interface from a packet socket, packet(7).
//!
//! On an interface with Ethernet headers, the loopback included, frames have these headers
//! (SOCK_RAW), so that a file of them holds what was on the wire; a VLAN tag that the kernel
//! removed is put back. On `any` a cooked header (LINKTYPE_LINUX_SLL2) is built from the kernel's
//! data on the packet, and on interfaces with headers of another kind packets begin with IP
//! (SOCK_DGRAM). A filter in the kernel accepts what may be TCP of one port: other traffic costs
//! nothing here. Each packet has the kernel's own time stamp.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, bail};
use log::warn;
use nix::cmsg_space;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockaddrLike, getsockopt, recvmsg,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::sys::bpf::{self, Instruction, Start};

/// Maximum length of a packet from the kernel, in bytes: one that segmentation offload has not cut
/// yet, BIG TCP included.
const PACKET_BYTES_MAX: usize = 512 * 1024;

/// Size of the socket's receive buffer, in bytes: half a second of a busy loopback.
const QUEUE_BYTES: usize = 64 << 20;

/// Bytes of the cooked header, version 2.
const COOKED_BYTES: usize = 20;

/// Bytes of a VLAN tag.
const TAG_BYTES: usize = 4;

/// The space before a received packet in the buffer: room for a cooked header and a VLAN tag.
const ROOM_BYTES: usize = COOKED_BYTES + TAG_BYTES;

/// A packet socket that is bound to an interface, with its filter.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    headers: Headers,
    buffer: Box<[u8]>,
    control: Vec<u8>,
    dropped: u64,
}

/// The counters of packet(7) since they were read last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    packets: u32,
    drops: u32,
}

const PACKET_STATISTICS: libc::c_int = 6;

const PACKET_AUXDATA: libc::c_int = 8;

/// A received packet.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The kernel's time stamp, since 1970.
    pub time: Duration,
    /// The bytes, from the first header of [`Headers`] on.
    pub bytes: &'a [u8],
    /// The length of the packet in bytes; larger than that of `bytes` if the packet was longer than
    /// the buffer.
    pub length: usize,
}

/// The first header of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Ethernet, as on the wire.
    Ethernet,
    /// A cooked header, since interfaces of all kinds are captured.
    Cooked,
    /// IP, since the interface has headers of another kind, or none.
    Ip,
}

/// The socket option PACKET_AUXDATA, which requests the VLAN tag of each packet.
#[derive(Clone, Copy, Debug)]
struct Auxiliary;

nix::setsockopt_impl!(
    Auxiliary,
    libc::SOL_PACKET,
    PACKET_AUXDATA,
    bool,
    sockopt::SetBool
);

/// The socket option PACKET_STATISTICS, defined in the way in which nix defines all socket options.
#[derive(Clone, Copy, Debug)]
struct Statistics;

nix::getsockopt_impl!(
    Statistics,
    libc::SOL_PACKET,
    PACKET_STATISTICS,
    Counters,
    sockopt::GetStruct<Counters>
);

/// The interfaces to capture on.
#[derive(Clone, Copy, Debug)]
enum CaptureInterface {
    /// On all interfaces.
    Any,
    /// On the interface with this link address, to which the socket is bound: SO_BINDTODEVICE does
    /// not restrict a packet socket.
    Address(LinkAddr),
    /// On the interface with this index. It has no link address (tunnels have none), so the filter
    /// selects its packets.
    Index(u32),
}

impl CaptureInterface {
    fn of(interface: &str) -> anyhow::Result<CaptureInterface> {
        if interface == "any" {
            return Ok(CaptureInterface::Any);
        }
        let Ok(index) = if_nametoindex(interface) else {
            let all = if_nameindex().context("cannot list the interfaces")?;
            let names: Vec<_> = all.iter().map(|one| one.name().to_string_lossy()).collect();
            let names = names.join(", ");
            bail!("there is no interface {interface}: choose one of {names}, or `any` for all")
        };
        let mut addresses = getifaddrs().context("cannot list the interfaces")?;
        let address = addresses.find_map(|one| {
            let address = one.address.filter(|_| one.interface_name == interface)?;
            let is_link = address.family() == Some(AddressFamily::Packet);
            address.as_link_addr().copied().filter(|_| is_link)
        });
        Ok(address.map_or(CaptureInterface::Index(index), CaptureInterface::Address))
    }

    fn headers(self) -> Headers {
        match self {
            CaptureInterface::Any => Headers::Cooked,
            CaptureInterface::Address(address) => Headers::of_hardware(address.hatype()),
            CaptureInterface::Index(_) => Headers::Ip,
        }
    }

    fn index(self) -> Option<u32> {
        match self {
            CaptureInterface::Any | CaptureInterface::Address(_) => None,
            CaptureInterface::Index(index) => Some(index),
        }
    }
}

impl Headers {
    fn of_hardware(hardware: u16) -> Headers {
        match hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Headers::Ethernet,
            _ => Headers::Ip,
        }
    }

    fn start(self) -> Start {
        match self {
            Headers::Ethernet => Start::Ethernet,
            Headers::Cooked => Start::Network,
            Headers::Ip => Start::Ip,
        }
    }
}

/// The kernel's data on a packet, in addition to its bytes.
#[derive(Clone, Copy, Debug)]
struct PacketMetadata {
    count: usize,
    time: Duration,
    address: Option<LinkAddr>,
    /// The VLAN tag that the kernel removed: its Ethernet type and its value.
    tag: Option<(u16, u16)>,
}

impl PacketSocket {
    /// Opens a socket for the TCP segments from and to `port` on an interface, or on `any`. Errors:
    /// no such interface, or CAP_NET_RAW is missing.
    pub fn open(interface: &str, port: u16) -> anyhow::Result<PacketSocket> {
        let place = CaptureInterface::of(interface)?;
        let headers = place.headers();
        let socket = open(headers).map_err(explain)?;
        // Until it is bound, the new socket receives packets of all interfaces: the filter drops
        // them.
        attach(&socket, &bpf::nothing())?;
        if let CaptureInterface::Address(address) = place {
            nix::sys::socket::bind(socket.as_raw_fd(), &address)
                .with_context(|| format!("cannot capture on {interface}"))?;
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
            socket.set_recv_buffer_size(QUEUE_BYTES)?;
        }
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&socket, Auxiliary, &true)?;
        let mut opened = PacketSocket {
            socket,
            headers,
            buffer: vec![0; ROOM_BYTES + PACKET_BYTES_MAX].into_boxed_slice(),
            control: cmsg_space!(TimeSpec, [u8; AUXILIARY_BYTES]),
            dropped: 0,
        };
        while opened.receive()?.is_some() {}
        opened.dropped()?;
        opened.dropped = 0;
        let program = bpf::program(headers.start(), port, place.index());
        attach(&opened.socket, &program)?;
        Ok(opened)
    }

    /// Returns the first header of the packets.
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// Returns the next packet; `None` when none is waiting.
    pub fn receive(&mut self) -> io::Result<Option<Packet<'_>>> {
        let Some(metadata) = self.receive_raw()? else {
            return Ok(None);
        };
        let start = match self.headers {
            Headers::Ethernet => self.put_tag_back(&metadata),
            Headers::Cooked => self.build_cooked_header(&metadata),
            Headers::Ip => ROOM_BYTES,
        };
        let end = ROOM_BYTES + metadata.count.min(PACKET_BYTES_MAX);
        Ok(Some(Packet {
            time: metadata.time,
            bytes: &self.buffer[start..end],
            length: ROOM_BYTES - start + metadata.count,
        }))
    }

    /// Receives a packet into the buffer, behind the space for its headers.
    fn receive_raw(&mut self) -> io::Result<Option<PacketMetadata>> {
        loop {
            let mut parts = [io::IoSliceMut::new(&mut self.buffer[ROOM_BYTES..])];
            let received = recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_TRUNC,
            );
            match received {
                Ok(message) => {
                    let (time, tag) = metadata_of(&message);
                    return Ok(Some(PacketMetadata {
                        count: message.bytes,
                        time: time.unwrap_or_else(now),
                        address: message.address,
                        tag,
                    }));
                }
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::ENETDOWN) => {
                    warn!("the interface is down: nothing is captured until it is up again");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts a VLAN tag behind the addresses of an Ethernet frame, where it was on the wire. Returns
    /// the offset of the frame in the buffer.
    fn put_tag_back(&mut self, metadata: &PacketMetadata) -> usize {
        const ADDRESSES: usize = 12;
        let Some((kind, tag)) = metadata.tag.filter(|_| metadata.count >= ADDRESSES) else {
            return ROOM_BYTES;
        };
        let start = ROOM_BYTES - TAG_BYTES;
        let addresses = ROOM_BYTES..ROOM_BYTES + ADDRESSES;
        self.buffer.copy_within(addresses, start);
        self.buffer[start + ADDRESSES..][..2].copy_from_slice(&kind.to_be_bytes());
        self.buffer[start + ADDRESSES + 2..][..2].copy_from_slice(&tag.to_be_bytes());
        start
    }

    /// Builds the cooked header of a packet. Returns the offset of the header in the buffer.
    fn build_cooked_header(&mut self, metadata: &PacketMetadata) -> usize {
        let mut header = [0; COOKED_BYTES];
        let mut protocol = 0;
        if let Some(address) = metadata.address {
            // This is in network byte order already.
            protocol = u16::from_be(address.protocol());
            header[4..8].copy_from_slice(&(address.ifindex() as u32).to_be_bytes());
            header[8..10].copy_from_slice(&address.hatype().to_be_bytes());
            header[10] = address.pkttype();
            header[11] = address.halen().min(8) as u8;
            let octets = address.addr().unwrap_or_default();
            header[12..12 + octets.len()].copy_from_slice(&octets);
        }
        let mut start = ROOM_BYTES - COOKED_BYTES;
        if let Some((kind, tag)) = metadata.tag {
            start -= TAG_BYTES;
            let place = ROOM_BYTES - TAG_BYTES;
            self.buffer[place..place + 2].copy_from_slice(&tag.to_be_bytes());
            self.buffer[place + 2..ROOM_BYTES].copy_from_slice(&protocol.to_be_bytes());
            protocol = kind;
        }
        header[..2].copy_from_slice(&protocol.to_be_bytes());
        self.buffer[start..start + COOKED_BYTES].copy_from_slice(&header);
        start
    }

    /// Returns the number of packets that the kernel has dropped so far, for want of buffer space.
    pub fn dropped(&mut self) -> io::Result<u64> {
        let counters = getsockopt(&self.socket, Statistics)?;
        self.dropped += u64::from(counters.drops);
        Ok(self.dropped)
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn open(headers: Headers) -> io::Result<Socket> {
    // ETH_P_ALL in network byte order: with any other protocol, only incoming packets are captured.
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let kind = match headers {
        Headers::Ethernet => Type::RAW,
        Headers::Cooked | Headers::Ip => Type::DGRAM,
    };
    Socket::new(
        Domain::PACKET,
        kind.nonblocking(),
        Some(Protocol::from(protocol)),
    )
}

fn attach(socket: &Socket, program: &[Instruction]) -> io::Result<()> {
    let translated =
        |line: &Instruction| SockFilter::new(line.code, line.then, line.otherwise, line.value);
    let program: Vec<SockFilter> = program.iter().map(translated).collect();
    socket.attach_filter(&program)
}

fn explain(error: io::Error) -> anyhow::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return anyhow::Error::new(error).context("cannot open a packet socket");
    }
    let program = std::env::current_exe();
    let program = program.map_or("upcase".to_string(), |path| path.display().to_string());
    anyhow::anyhow!(
        "capturing needs the capability CAP_NET_RAW: run as root, or \
         `sudo setcap cap_net_raw+ep {program}`"
    )
}

/// Bytes of `struct tpacket_auxdata`.
const AUXILIARY_BYTES: usize = 20;

/// Returns the time stamp and the VLAN tag of a packet.
fn metadata_of<S>(
    message: &nix::sys::socket::RecvMsg<'_, '_, S>,
) -> (Option<Duration>, Option<(u16, u16)>) {
    let (mut time, mut tag) = (None, None);
    for part in message.cmsgs().into_iter().flatten() {
        match part {
            ControlMessageOwned::ScmTimestampns(stamp) => time = Some(Duration::from(stamp)),
            ControlMessageOwned::Unknown(part)
                if part.cmsg_header.cmsg_level == libc::SOL_PACKET
                    && part.cmsg_header.cmsg_type == PACKET_AUXDATA =>
            {
                tag = tag_of(&part.data_bytes);
            }
            _ => {}
        }
    }
    (time, tag)
}

/// Returns the VLAN tag in a `struct tpacket_auxdata`: its Ethernet type and its value. See
/// packet(7).
fn tag_of(auxiliary: &[u8]) -> Option<(u16, u16)> {
    const TAG_IS_VALID: u32 = 1 << 4;
    const TYPE_IS_VALID: u32 = 1 << 6;
    const IEEE_802_1Q: u16 = 0x8100;
    let status = u32::from_ne_bytes(*auxiliary.first_chunk()?);
    let half = |place: usize| {
        let bytes = auxiliary.get(place..place + 2)?;
        Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
    };
    let (tag, kind) = (half(16)?, half(18)?);
    match (status & TAG_IS_VALID, status & TYPE_IS_VALID) {
        (0, _) => None,
        (_, 0) => Some((IEEE_802_1Q, tag)),
        _ => Some((kind, tag)),
    }
}

/// Returns the current time, for the first packets, which may have no time stamp: the kernel stamps
/// all packets once time stamps are enabled.
fn now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
