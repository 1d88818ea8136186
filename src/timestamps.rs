//! The kernel's own times of a connection's bytes, and of datagrams: SO_TIMESTAMPING, socket(7) and
//! the kernel's networking/timestamping document.
//!
//! Sending: when the last byte of a send(2) was handed to the device, the kernel puts a note into
//! the socket's error queue, with the offset of that byte from where this was switched on.
//! Receiving: each recvmsg(2) tells when the last segment it read from came off the device. Both
//! are times of CLOCK_REALTIME; they are turned into instants of the monotonic clock by reading
//! both clocks at once, so that a step of the wall clock meanwhile is all that could go wrong.
//! The kernel begins with receive times a moment after the first socket of a machine asked.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, RecvMsg, TimestampingFlag, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// `ee_origin` of a note about a time, linux/errqueue.h.
const ORIGIN_TIMESTAMPING: u8 = 4;

/// Notes that may wait to be asked for. A message has one for each send that it took; whoever does
/// not ask shall not pay for more.
const NOTES_MAX: usize = 4096;

/// What the kernel tells of one connection.
#[derive(Debug)]
pub struct Timestamps {
    control: Vec<u8>,
    /// How many bytes had left, and when.
    sent: VecDeque<(u64, Instant)>,
    /// Bytes that had left by the last note.
    noted: u64,
    /// When what was read last was received.
    received: Option<Instant>,
}

impl Timestamps {
    /// Switches them on for a connection that has sent nothing. Errors are those of setsockopt(2).
    pub fn switch_on(socket: &impl AsFd) -> io::Result<Timestamps> {
        let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID
            | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY;
        setsockopt(socket, sockopt::Timestamping, &flags)?;
        Ok(Timestamps {
            control: control(),
            sent: VecDeque::new(),
            noted: 0,
            received: None,
        })
    }

    /// Receives as recv(2) does, and keeps the time.
    pub fn recv(&mut self, socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(&mut self.control[..]);
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, control, MsgFlags::empty())?;
        self.received = time(&message).map(monotonic);
        Ok(message.bytes)
    }

    /// When the kernel received what was read last.
    pub fn received(&self) -> Option<Instant> {
        self.received
    }

    /// When the byte before `end` was handed to the device; to be asked with ever larger ends.
    pub fn sent(&mut self, socket: &impl AsRawFd, end: u64) -> io::Result<Option<Instant>> {
        while let Some(note) = self.next_note(socket)? {
            if self.sent.len() < NOTES_MAX {
                self.sent.push_back(note);
            }
        }
        while let Some((bytes, at)) = self.sent.front() {
            if *bytes >= end {
                return Ok(Some(*at));
            }
            self.sent.pop_front();
        }
        Ok(None)
    }

    /// The next note of the error queue.
    fn next_note(&mut self, socket: &impl AsRawFd) -> io::Result<Option<(u64, Instant)>> {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        loop {
            let control = Some(&mut self.control[..]);
            let message = match recvmsg::<()>(socket.as_raw_fd(), &mut [], control, flags) {
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                received => received?,
            };
            if let (Some(at), Some(byte)) = (time(&message), byte(&message)) {
                // The kernel counts in 32 bits: the nearest such byte after the last one is meant.
                self.noted += u64::from(byte.wrapping_add(1).wrapping_sub(self.noted as u32));
                return Ok(Some((self.noted, monotonic(at))));
            }
        }
    }
}

/// When datagrams came.
#[derive(Debug)]
pub struct Arrivals {
    control: Vec<u8>,
}

/// A datagram, or the error that one came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its bytes.
    pub bytes: usize,
    /// When it came off the device; `None`: the kernel does not tell.
    pub at: Option<Instant>,
    /// From the queue for errors: the error, and the host that reported it.
    pub error: Option<(i32, IpAddr)>,
}

impl Arrivals {
    /// Switches them on for a datagram socket. Errors are those of setsockopt(2).
    pub fn switch_on(socket: &impl AsFd) -> io::Result<Arrivals> {
        let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
        setsockopt(socket, sockopt::Timestamping, &flags)?;
        Ok(Arrivals { control: control() })
    }

    /// Receives what has come, if something has: a datagram, or from the queue for errors.
    pub fn recv(
        &mut self,
        socket: &impl AsRawFd,
        buffer: &mut [u8],
        from_errors: bool,
    ) -> io::Result<Option<Arrival>> {
        let mut flags = MsgFlags::MSG_DONTWAIT;
        flags.set(MsgFlags::MSG_ERRQUEUE, from_errors);
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(&mut self.control[..]);
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, control, flags) {
            Ok(message) => Ok(Some(Arrival {
                bytes: message.bytes,
                at: time(&message).map(monotonic),
                error: error(&message)
                    .and_then(|(error, from)| Some((error.ee_errno as i32, from?))),
            })),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Room for the control messages of one datagram: its times, and an error.
fn control() -> Vec<u8> {
    let times = nix::cmsg_space!([TimeSpec; 3]);
    let error = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    vec![0; times.capacity() + error.capacity()]
}

/// The software time among the control messages, since the epoch.
fn time(message: &RecvMsg<'_, '_, ()>) -> Option<Duration> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampsns(times) => {
            let time = Duration::from(times.system);
            (!time.is_zero()).then_some(time)
        }
        _ => None,
    })
}

/// The offset of the byte that a note is about.
fn byte(message: &RecvMsg<'_, '_, ()>) -> Option<u32> {
    let (note, _) = error(message)?;
    (note.ee_origin == ORIGIN_TIMESTAMPING).then_some(note.ee_data)
}

/// What a message of the queue for errors is about, and the host that it is from, if one is.
fn error(message: &RecvMsg<'_, '_, ()>) -> Option<(libc::sock_extended_err, Option<IpAddr>)> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, from) => {
            let ip = |from: libc::sockaddr_in| Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
            Some((error, from.map(|from| ip(from).into())))
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) => {
            let ip = |from: libc::sockaddr_in6| Ipv6Addr::from(from.sin6_addr.s6_addr);
            Some((error, from.map(|from| ip(from).into())))
        }
        _ => None,
    })
}

/// An instant of the wall clock as one of the monotonic clock.
fn monotonic(time: Duration) -> Instant {
    let (now, wall) = both_clocks();
    match wall.checked_sub(time) {
        Some(age) => now.checked_sub(age).unwrap_or(now),
        None => now + (time - wall),
    }
}

/// One moment on both clocks. The wall clock is read between two readings of the other; being
/// preempted there shows as a long gap, and the reading is made anew.
fn both_clocks() -> (Instant, Duration) {
    const GAP: Duration = Duration::from_nanos(500);
    const ATTEMPTS: u32 = 8;
    let mut best: Option<(Duration, Instant, Duration)> = None;
    for _ in 0..ATTEMPTS {
        let before = Instant::now();
        let wall = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
        let gap = before.elapsed();
        if best.is_none_or(|(least, ..)| gap < least) {
            best = Some((gap, before + gap / 2, wall));
        }
        if gap <= GAP {
            break;
        }
    }
    best.map_or((Instant::now(), Duration::ZERO), |(_, now, wall)| {
        (now, wall)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_when_bytes_left_and_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut stamps = Timestamps::switch_on(&near).unwrap();
        let mut bytes = [0; 100];
        let deadline = Instant::now() + Duration::from_secs(30);
        let (mut number, mut told) = (0, 0);
        while told < 3 {
            assert!(Instant::now() < deadline, "the kernel tells no times");
            number += 1;
            let before = Instant::now();
            near.write_all(&[b'x'; 100]).unwrap();
            far.read_exact(&mut bytes).unwrap();
            far.write_all(&bytes).unwrap();
            assert_eq!(stamps.recv(&near, &mut bytes).unwrap(), 100);
            let after = Instant::now();
            let sent = stamps.sent(&near, 100 * number).unwrap().unwrap();
            // The kernel begins to take the times of what comes a while after it was asked to.
            let Some(received) = stamps.received() else {
                continue;
            };
            told += 1;
            let slack = Duration::from_micros(2);
            assert!(before <= sent + slack, "{:?}", before - sent);
            assert!(sent <= received + slack, "{:?}", sent - received);
            assert!(received <= after + slack, "{:?}", received - after);
        }
        assert_eq!(stamps.sent(&near, 100 * number + 1).unwrap(), None);
    }
}
