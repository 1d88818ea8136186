//! Packets of an interface, as they pass: a packet socket, packet(7).
//!
//! The socket hands over IP packets without their link header (SOCK_DGRAM), so all interfaces look
//! alike. A filter in the kernel lets through TCP of one port only: other traffic costs nothing
//! here. Each packet carries the kernel's own time stamp.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, bail};
use log::warn;
use nix::cmsg_space;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockaddrLike, getsockopt, recvmsg,
    setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::capture::file::Frame;
use crate::capture::segment::Link;

/// What the kernel hands over at most: a packet before the offload cuts it, BIG TCP included.
const PACKET_BYTES_MAX: usize = 512 * 1024;

/// Room for packets that wait to be read: half a second of a busy loopback.
const QUEUE_BYTES: usize = 64 << 20;

/// The link type of the frames of this capture in a file: LINKTYPE_RAW.
pub const LINK_NUMBER: u16 = 101;

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
    buffer: Box<[u8]>,
    control: Vec<u8>,
    dropped: u64,
}

/// What packet(7) counts, since it was asked last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    packets: u32,
    drops: u32,
}

const PACKET_STATISTICS: libc::c_int = 6;

/// PACKET_STATISTICS, by the way in which nix makes all socket options.
#[derive(Clone, Copy, Debug)]
struct Statistics;

nix::getsockopt_impl!(
    Statistics,
    libc::SOL_PACKET,
    PACKET_STATISTICS,
    Counters,
    sockopt::GetStruct<Counters>
);

impl Capture {
    /// Captures TCP segments from and to `port` on an interface, or on `any`.
    pub fn start(interface: &str, port: u16) -> anyhow::Result<Capture> {
        let socket = open().map_err(explain)?;
        // From its making until it is bound, the socket gets packets of all interfaces.
        socket.attach_filter(&[instruction(RETURN, 0)])?;
        if interface != "any" {
            bind(&socket, interface)?;
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
            socket.set_recv_buffer_size(QUEUE_BYTES)?;
        }
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let mut capture = Capture {
            socket,
            buffer: vec![0; PACKET_BYTES_MAX].into_boxed_slice(),
            control: cmsg_space!(TimeSpec),
            dropped: 0,
        };
        while capture.next_frame()?.is_some() {}
        capture.dropped()?;
        capture.dropped = 0;
        capture.socket.attach_filter(&filter(port))?;
        Ok(capture)
    }

    /// The next packet; `None` when there is none now.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let (count, time) = loop {
            let mut parts = [io::IoSliceMut::new(&mut self.buffer)];
            let received = recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_TRUNC,
            );
            match received {
                Ok(message) => break (message.bytes, time_stamp(&message)),
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::ENETDOWN) => {
                    warn!("the interface is down: nothing is captured until it is up again");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Some(Frame {
            time,
            link: Ok(Link::Ip),
            bytes: &self.buffer[..count.min(PACKET_BYTES_MAX)],
            on_wire: count,
        }))
    }

    /// Packets that the kernel had no room for, so far.
    pub fn dropped(&mut self) -> io::Result<u64> {
        let counters = getsockopt(&self.socket, Statistics)?;
        self.dropped += u64::from(counters.drops);
        Ok(self.dropped)
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn open() -> io::Result<Socket> {
    // ETH_P_ALL, since another protocol gets only what comes in; in the network's byte order.
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let kind = Type::DGRAM.nonblocking();
    Socket::new(Domain::PACKET, kind, Some(Protocol::from(protocol)))
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

/// Binds to an interface by its link address; SO_BINDTODEVICE does not restrict a packet socket.
fn bind(socket: &Socket, interface: &str) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for address in getifaddrs().context("cannot list the interfaces")? {
        let link = address
            .address
            .filter(|address| address.family() == Some(AddressFamily::Packet));
        let Some(link) = link else { continue };
        if address.interface_name == interface {
            let raw = socket.as_raw_fd();
            return nix::sys::socket::bind(raw, &link)
                .with_context(|| format!("cannot capture on {interface}"));
        }
        names.push(address.interface_name);
    }
    let names = names.join(", ");
    bail!("there is no interface {interface}: there are {names}, and `any` for all of them")
}

fn time_stamp<S>(message: &nix::sys::socket::RecvMsg<'_, '_, S>) -> Duration {
    let mut messages = message.cmsgs().into_iter().flatten();
    let stamp = messages.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    // The kernel stamps every packet once it was asked to; the clock is for the first ones.
    stamp.unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
    })
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_HALF_INDEXED: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_IPV4_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn instruction(code: u32, value: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, value)
}

/// Jumps so many instructions ahead.
fn branch(code: u32, value: u32, then: u8, otherwise: u8) -> SockFilter {
    SockFilter::new(code as u16, then, otherwise, value)
}

/// TCP from or to a port, in the language of socket filters (linux/filter.h). The packet begins
/// with its IP header. On the loopback every packet comes twice, and the one that goes out is not
/// taken. Of IP fragments the first is taken, which shows that there are some.
fn filter(port: u16) -> [SockFilter; 29] {
    const ANCILLARY: u32 = 0xffff_f000;
    const PACKET_TYPE: u32 = ANCILLARY + 4;
    const HARDWARE_TYPE: u32 = ANCILLARY + 28;
    const LOOPBACK: u32 = 772;
    const OUTGOING: u32 = 4;
    const TCP: u32 = 6;
    const FRAGMENT_OFFSET: u32 = 0x1fff;
    const HOP_BY_HOP: u32 = 0;
    const ROUTING: u32 = 43;
    const FRAGMENT: u32 = 44;
    const DESTINATION: u32 = 60;
    let port = u32::from(port);
    [
        /*  0 */ instruction(LOAD_HALF, HARDWARE_TYPE),
        /*  1 */ branch(IF_EQUAL, LOOPBACK, 0, 2),
        /*  2 */ instruction(LOAD_WORD, PACKET_TYPE),
        /*  3 */ branch(IF_EQUAL, OUTGOING, 24, 0),
        /*  4 */ instruction(LOAD_BYTE, 0),
        /*  5 */ instruction(AND, 0xf0),
        /*  6 */ branch(IF_EQUAL, 0x60, 10, 0),
        /*  7 */ branch(IF_EQUAL, 0x40, 0, 20),
        /*  8 */ instruction(LOAD_BYTE, 9),
        /*  9 */ branch(IF_EQUAL, TCP, 0, 18),
        /* 10 */ instruction(LOAD_HALF, 6),
        /* 11 */ branch(IF_ANY_BIT, FRAGMENT_OFFSET, 16, 0),
        /* 12 */ instruction(LOAD_IPV4_LENGTH, 0),
        /* 13 */ instruction(LOAD_HALF_INDEXED, 0),
        /* 14 */ branch(IF_EQUAL, port, 12, 0),
        /* 15 */ instruction(LOAD_HALF_INDEXED, 2),
        /* 16 */ branch(IF_EQUAL, port, 10, 11),
        /* 17 */ instruction(LOAD_BYTE, 6),
        /* 18 */ branch(IF_EQUAL, TCP, 4, 0),
        // An extension header comes first: what follows is sorted out later.
        /* 19 */
        branch(IF_EQUAL, HOP_BY_HOP, 7, 0),
        /* 20 */ branch(IF_EQUAL, ROUTING, 6, 0),
        /* 21 */ branch(IF_EQUAL, FRAGMENT, 5, 0),
        /* 22 */ branch(IF_EQUAL, DESTINATION, 4, 5),
        /* 23 */ instruction(LOAD_HALF, 40),
        /* 24 */ branch(IF_EQUAL, port, 2, 0),
        /* 25 */ instruction(LOAD_HALF, 42),
        /* 26 */ branch(IF_EQUAL, port, 0, 1),
        /* 27 */ instruction(RETURN, u32::MAX),
        /* 28 */ instruction(RETURN, 0),
    ]
}
