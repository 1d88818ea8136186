//! A live capture: the packets of an interface as frames, like those of a file.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::sniff::file::Frame;
use crate::sniff::file::linktype::Link;
use crate::sys::packet_socket::{Headers, PacketSocket};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: PacketSocket,
}

impl Capture {
    /// Starts a capture of the TCP segments from and to `port` on an interface, or on `any`.
    /// Errors: no such interface, or CAP_NET_RAW is missing.
    pub fn start(interface: &str, port: u16) -> anyhow::Result<Capture> {
        let socket = PacketSocket::open(interface, port)?;
        Ok(Capture { socket })
    }

    /// Returns the number of the frames' link type in a capture file.
    pub fn link_number(&self) -> u16 {
        link(self.socket.headers()).1
    }

    /// Returns the next packet; `None` when none is waiting.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let (link, _) = link(self.socket.headers());
        let packet = self.socket.receive()?;
        Ok(packet.map(|packet| Frame {
            time: packet.time,
            link: Ok(link),
            bytes: packet.bytes,
            on_wire: packet.length,
            trailer: 0,
        }))
    }

    /// Returns the number of packets that the kernel has dropped so far, for want of buffer space.
    pub fn dropped(&mut self) -> io::Result<u64> {
        self.socket.dropped()
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Returns the link type of packets with these headers, and its number in a capture file.
fn link(headers: Headers) -> (Link, u16) {
    match headers {
        Headers::Ethernet => (Link::Ethernet, 1),
        Headers::Cooked => (Link::Cooked2, 276),
        Headers::Ip => (Link::Ip, 101),
    }
}
