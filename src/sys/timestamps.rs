//! Reads the kernel's timestamps of the bytes of a connection, and of received datagrams:
//! SO_TIMESTAMPING, socket(7) and the kernel's networking/timestamping document.
//!
//! Sending: when the last byte of a send(2) is handed to the device, the kernel puts a timestamp
//! into the socket's error queue, with the offset of that byte from the point at which timestamps
//! were enabled. Receiving: each recvmsg(2) returns the time at which the last segment that it read
//! from arrived from the device. Both are times of CLOCK_REALTIME. They are converted to instants
//! of the monotonic clock by reading both clocks together, so that only a step of the wall clock
//! between timestamp and conversion makes them wrong. The kernel begins to record receive times a
//! moment after the first socket of a machine has enabled them.

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

/// `ee_origin` of a transmit timestamp, linux/errqueue.h.
const ORIGIN_TIMESTAMPING: u8 = 4;

/// Maximum number of transmit timestamps that are kept until they are requested. A message has one
/// for each send(2) that it took. Further ones are discarded, so that a caller that does not
/// request them uses no more memory.
const NOTES_MAX: usize = 4096;

/// The kernel's timestamps of one connection.
#[derive(Debug)]
pub struct Timestamps {
    control: Vec<u8>,
    /// Transmit timestamps, each with the number of bytes that had been sent by then.
    sent: VecDeque<(u64, Instant)>,
    /// Number of bytes that had been sent by the last transmit timestamp.
    noted: u64,
    /// Receive time of the bytes that were read last.
    received: Option<Instant>,
}

impl Timestamps {
    /// Enables timestamps for a connection that has sent nothing yet. Errors are those of
    /// setsockopt(2).
    pub fn enable(socket: &impl AsFd) -> io::Result<Timestamps> {
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

    /// Receives as recv(2) does, and stores the receive time.
    pub fn recv(&mut self, socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
        let mut parts = [IoSliceMut::new(buffer)];
        let control = Some(&mut self.control[..]);
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, control, MsgFlags::empty())?;
        self.received = time(&message).map(monotonic);
        Ok(message.bytes)
    }

    /// Returns the time at which the kernel received the bytes that were read last, if it recorded
    /// one.
    pub fn received(&self) -> Option<Instant> {
        self.received
    }

    /// Returns the time at which the byte before offset `end` was handed to the device, if it is
    /// known. Must be called with increasing values of `end`.
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

    /// Returns the next transmit timestamp of the error queue, with the number of bytes sent by
    /// then.
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
                // The kernel's offset has 32 bits: it means the nearest matching byte after the
                // last one.
                self.noted += u64::from(byte.wrapping_add(1).wrapping_sub(self.noted as u32));
                return Ok(Some((self.noted, monotonic(at))));
            }
        }
    }
}

/// The receive times of the datagrams of a socket.
#[derive(Debug)]
pub struct Arrivals {
    control: Vec<u8>,
}

/// A received datagram, or an error that was reported for a sent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Length of the datagram in bytes.
    pub bytes: usize,
    /// Time at which it arrived from the device; `None` if the kernel recorded none.
    pub at: Option<Instant>,
    /// From the error queue: the error number, and the host that reported it.
    pub error: Option<(i32, IpAddr)>,
}

impl Arrivals {
    /// Enables receive times for a datagram socket. Errors are those of setsockopt(2).
    pub fn enable(socket: &impl AsFd) -> io::Result<Arrivals> {
        let flags = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
        setsockopt(socket, sockopt::Timestamping, &flags)?;
        Ok(Arrivals { control: control() })
    }

    /// Receives a datagram, or an entry of the error queue if `from_errors`; `None` if there is
    /// none.
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

/// Returns a buffer for the control messages of one datagram: its timestamps, and an error.
fn control() -> Vec<u8> {
    let times = nix::cmsg_space!([TimeSpec; 3]);
    let error = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    vec![0; times.capacity() + error.capacity()]
}

/// Returns the software timestamp among the control messages, since the epoch.
fn time(message: &RecvMsg<'_, '_, ()>) -> Option<Duration> {
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampsns(times) => {
            let time = Duration::from(times.system);
            (!time.is_zero()).then_some(time)
        }
        _ => None,
    })
}

/// Returns the offset of the byte that a transmit timestamp is about.
fn byte(message: &RecvMsg<'_, '_, ()>) -> Option<u32> {
    let (note, _) = error(message)?;
    (note.ee_origin == ORIGIN_TIMESTAMPING).then_some(note.ee_data)
}

/// Returns the error in an entry of the error queue, and the host that reported it, if one did.
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

/// Converts a time of the wall clock to an instant of the monotonic clock.
fn monotonic(time: Duration) -> Instant {
    let (now, wall) = both_clocks();
    match wall.checked_sub(time) {
        Some(age) => now.checked_sub(age).unwrap_or(now),
        None => now + (time - wall),
    }
}

/// Returns one moment on both clocks. The wall clock is read between two readings of the monotonic
/// clock. A long gap between these shows that the thread was preempted, and the reading is
/// repeated.
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
    fn the_kernel_records_when_bytes_left_and_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut stamps = Timestamps::enable(&near).unwrap();
        let mut bytes = [0; 100];
        let deadline = Instant::now() + Duration::from_secs(30);
        let (mut number, mut complete) = (0, 0);
        while complete < 3 {
            assert!(Instant::now() < deadline, "the kernel records no times");
            number += 1;
            let before = Instant::now();
            near.write_all(&[b'x'; 100]).unwrap();
            far.read_exact(&mut bytes).unwrap();
            far.write_all(&bytes).unwrap();
            assert_eq!(stamps.recv(&near, &mut bytes).unwrap(), 100);
            let after = Instant::now();
            let sent = stamps.sent(&near, 100 * number).unwrap().unwrap();
            // The kernel begins to record receive times a while after they were enabled.
            let Some(received) = stamps.received() else {
                continue;
            };
            complete += 1;
            let slack = Duration::from_micros(2);
            assert!(before <= sent + slack, "{:?}", before - sent);
            assert!(sent <= received + slack, "{:?}", sent - received);
            assert!(received <= after + slack, "{:?}", received - after);
        }
        assert_eq!(stamps.sent(&near, 100 * number + 1).unwrap(), None);
    }
}
