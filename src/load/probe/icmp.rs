//! Builds ICMP echo requests and recognizes their replies (RFC 792 and RFC 4443). Pure.

use std::net::IpAddr;

/// Bytes of a request: the header, and a number that distinguishes it from those of other programs.
const BYTES: usize = 16;

/// The fields of the requests of one sender, by which their replies are recognized.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    request: u8,
    reply: u8,
    number: [u8; 8],
}

impl Echo {
    /// Creates an echo for requests to this address. Replies carry `number`, so that replies to
    /// other programs can be ignored.
    pub fn new(target: IpAddr, number: u64) -> Echo {
        let (request, reply) = match target {
            IpAddr::V4(_) => (8, 0),
            IpAddr::V6(_) => (128, 129),
        };
        Echo {
            request,
            reply,
            number: number.to_be_bytes(),
        }
    }

    /// Returns the request with a sequence number. For an ICMP datagram socket the kernel replaces
    /// the identifier and the checksum. For ICMPv6 it always computes the checksum.
    pub fn request(&self, sequence: u16) -> [u8; BYTES] {
        let mut packet = [0; BYTES];
        packet[0] = self.request;
        packet[4..6].copy_from_slice(&self.number[..2]);
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        packet[8..].copy_from_slice(&self.number);
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// Returns the sequence number of the request that a packet answers; `None` when the packet is
    /// no reply to a request of this sender. A raw socket of IPv4 returns the IP header as well.
    pub fn answered(&self, packet: &[u8]) -> Option<u16> {
        let header = match packet.first()? {
            first if first >> 4 == 4 => usize::from(first & 15) * 4,
            _ => 0,
        };
        let packet = packet.get(header..header + BYTES)?;
        let is_reply = packet[..2] == [self.reply, 0] && packet[8..] == self.number;
        is_reply.then(|| u16::from_be_bytes([packet[6], packet[7]]))
    }
}

/// Computes the Internet checksum of a packet whose checksum field is zero (RFC 1071).
fn checksum(packet: &[u8; BYTES]) -> u16 {
    let words = packet.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a kernel's reply to a request. Only the type is changed; the checksum is not
    /// updated.
    fn answer(request: [u8; BYTES], reply: u8) -> Vec<u8> {
        let mut answer = request.to_vec();
        answer[0] = reply;
        answer
    }

    #[test]
    fn an_answer_is_known_by_its_number_with_and_without_an_ip_header() {
        for (target, reply) in [("10.77.0.1", 0), ("2001:db8::1", 129)] {
            let target = target.parse().unwrap();
            let (mine, other) = (Echo::new(target, 7), Echo::new(target, 8));
            let answer = answer(mine.request(513), reply);
            assert_eq!(mine.answered(&answer), Some(513));
            assert_eq!(other.answered(&answer), None);
            assert_eq!(mine.answered(&mine.request(513)), None, "a request");
            assert_eq!(mine.answered(&answer[..15]), None);
            let header = [[0x46].as_slice(), &[0; 23]].concat();
            assert_eq!(mine.answered(&[header, answer].concat()), Some(513));
            assert_eq!(mine.answered(&[]), None);
        }
    }

    #[test]
    fn the_sum_of_a_packet_with_its_checksum_is_zero() {
        let target = "10.77.0.1".parse().unwrap();
        for sequence in [0, 1, 255, 256, 65_535] {
            let packet = Echo::new(target, u64::MAX - 3).request(sequence);
            assert_eq!(checksum(&packet), 0, "{packet:?}");
        }
    }
}
