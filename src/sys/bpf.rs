//! Generates the filter of a live capture: a classic BPF program (linux/filter.h) with which the
//! kernel accepts what may be a segment of one TCP port. Pure.
//!
//! The program drops what certainly does not belong to the port: TCP of other ports, and everything
//! that neither is TCP nor carries it. What such a program cannot parse is accepted, and the
//! dissector decides: tunnels, labels, fragments without ports, IPv6 extension headers. So other
//! traffic on a busy machine costs nothing in this process, unless it is in tunnels.
//!
//! The program repeats the same checks for each position at which IP may begin, which is after up
//! to `TAGS_MAX` VLAN tags. Jumps go to labels. A label is the end of the program or the beginning
//! of a later check, since BPF only jumps forward.

use nix::libc;

/// Maximum number of VLAN tags in the frame after which the filter still finds IP; the kernel
/// stores the outermost tag separately. Frames with more tags are accepted.
const TAGS_MAX: u32 = 2;

/// One BPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Number of instructions to skip when a comparison holds.
    pub then: u8,
    /// Number of instructions to skip when it does not hold.
    pub otherwise: u8,
    /// The operand.
    pub value: u32,
}

/// The header with which the frames of a capture begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// An Ethernet header.
    Ethernet,
    /// The header after that of the link; the kernel supplies the Ethernet type.
    Network,
    /// An IP header; frames with anything else are dropped.
    Ip,
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_HALF_INDEXED: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_IPV4_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// The offset from which values that the kernel keeps beside the frame are loaded (SKF_AD_OFF).
const ANCILLARY: u32 = 0xffff_f000;
const PROTOCOL: u32 = ANCILLARY;
const PACKET_TYPE: u32 = ANCILLARY + 4;
const INTERFACE: u32 = ANCILLARY + 8;
const HARDWARE_TYPE: u32 = ANCILLARY + 28;

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const TAGS: [u32; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// Ethernet types whose payload may contain IP: MPLS, PPPoE, bridging, NSH, tags.
const CARRIERS: [u32; 9] = [
    0x8847, 0x8848, 0x8864, 0x6558, 0x88e7, 0x894f, 0x8926, 0x892f, 0x8909,
];

const TCP: u32 = 6;
const UDP: u32 = 17;
/// IP protocols that are tunnels, and the authentication header.
const IP_CARRIERS: [u32; 9] = [4, 41, 47, 51, 55, 94, 97, 137, 143];
/// IPv6 extension headers; the ports are at some offset after them.
const EXTENSIONS: [u32; 7] = [0, 43, 44, 60, 135, 139, 140];
/// UDP ports of tunnels: those that count as the destination only, and those that count as either
/// port.
const UDP_TO: [u32; 7] = [4789, 8472, 4790, 6081, 6635, 4754, 4341];
const UDP_EITHER: [u32; 3] = [2152, 1701, 3544];

/// Returns the program that accepts what may belong to the port, on one interface only if its index
/// is given.
pub fn program(start: Start, port: u16, interface: Option<u32>) -> Vec<Instruction> {
    let mut program = Program::default();
    if let Some(index) = interface {
        program.load(LOAD_WORD, INTERFACE);
        program.compare(IF_EQUAL, index, To::Next, To::Drop);
    }
    program.drop_loopback_copy();
    let port = port.into();
    match start {
        Start::Ethernet => program.ether_type(LOAD_HALF, 12, 14, TAGS_MAX, port),
        Start::Network => program.ether_type(LOAD_HALF, PROTOCOL, 0, TAGS_MAX, port),
        Start::Ip => program.ip_only(port),
    }
    program.finish()
}

/// Returns the program that accepts nothing.
pub fn nothing() -> Vec<Instruction> {
    vec![instruction(RETURN, 0)]
}

/// The target of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    Accept,
    Drop,
    Label(usize),
}

/// A program whose jumps are not resolved yet.
#[derive(Debug, Default)]
struct Program {
    lines: Vec<(Instruction, To, To)>,
    /// The position of each label, once it is known.
    labels: Vec<usize>,
}

fn instruction(code: u32, value: u32) -> Instruction {
    Instruction {
        code: code as u16,
        then: 0,
        otherwise: 0,
        value,
    }
}

impl Program {
    fn load(&mut self, code: u32, place: u32) {
        self.lines
            .push((instruction(code, place), To::Next, To::Next));
    }

    fn compare(&mut self, code: u32, value: u32, then: To, otherwise: To) {
        self.lines.push((instruction(code, value), then, otherwise));
    }

    /// Jumps when the loaded value is one of these.
    fn any_of(&mut self, values: &[u32], then: To) {
        for value in values {
            self.compare(IF_EQUAL, *value, then, To::Next);
        }
    }

    /// Adds a label whose position is set later, by [`Program::here`].
    fn label(&mut self) -> usize {
        self.labels.push(usize::MAX);
        self.labels.len() - 1
    }

    fn here(&mut self, label: usize) {
        self.labels[label] = self.lines.len();
    }

    fn leave(&mut self, accept: bool) {
        let value = if accept { u32::MAX } else { 0 };
        self.load(RETURN, value);
    }

    /// Drops the outgoing copy of a packet on the loopback interface, where every packet is
    /// captured twice.
    fn drop_loopback_copy(&mut self) {
        const LOOPBACK: u32 = 772;
        const OUTGOING: u32 = 4;
        let go_on = self.label();
        self.load(LOAD_HALF, HARDWARE_TYPE);
        self.compare(IF_EQUAL, LOOPBACK, To::Next, To::Label(go_on));
        self.load(LOAD_WORD, PACKET_TYPE);
        self.compare(IF_EQUAL, OUTGOING, To::Drop, To::Next);
        self.here(go_on);
    }

    /// Checks the Ethernet type at `place`; the header that it names begins at `start`.
    fn ether_type(&mut self, load: u32, place: u32, start: u32, tags: u32, port: u32) {
        const LENGTH_MAX: u32 = 1500;
        let (ipv4, ipv6, tagged) = (self.label(), self.label(), self.label());
        self.load(load, place);
        self.compare(IF_EQUAL, IPV4, To::Label(ipv4), To::Next);
        self.compare(IF_EQUAL, IPV6, To::Label(ipv6), To::Next);
        self.any_of(
            &TAGS,
            if tags == 0 {
                To::Accept
            } else {
                To::Label(tagged)
            },
        );
        self.any_of(&CARRIERS, To::Accept);
        // This is a length: LLC follows, which may carry IP.
        self.compare(IF_GREATER, LENGTH_MAX, To::Drop, To::Accept);
        self.here(ipv4);
        self.ipv4(start, port);
        self.here(ipv6);
        self.ipv6(start, port);
        self.leave(true);
        self.here(tagged);
        if tags > 0 {
            self.ether_type(LOAD_HALF, start + 2, start + 4, tags - 1, port);
        }
    }

    /// Checks a frame that begins with IP and has no link header.
    fn ip_only(&mut self, port: u32) {
        let (ipv4, ipv6) = (self.label(), self.label());
        self.load(LOAD_HALF, PROTOCOL);
        self.compare(IF_EQUAL, IPV4, To::Label(ipv4), To::Next);
        self.compare(IF_EQUAL, IPV6, To::Label(ipv6), To::Drop);
        self.here(ipv4);
        self.ipv4(0, port);
        self.here(ipv6);
        self.ipv6(0, port);
    }

    fn ipv4(&mut self, start: u32, port: u32) {
        // An offset, or more fragments to come: only the first fragment has the ports.
        const FRAGMENT: u32 = 0x3fff;
        let (tcp, udp) = (self.label(), self.label());
        self.load(LOAD_BYTE, start + 9);
        self.compare(IF_EQUAL, TCP, To::Label(tcp), To::Next);
        self.compare(IF_EQUAL, UDP, To::Label(udp), To::Next);
        self.any_of(&IP_CARRIERS, To::Accept);
        self.leave(false);
        for (label, is_tcp) in [(tcp, true), (udp, false)] {
            self.here(label);
            self.load(LOAD_HALF, start + 6);
            self.compare(IF_ANY_BIT, FRAGMENT, To::Accept, To::Next);
            self.load(LOAD_IPV4_LENGTH, start);
            self.ports(is_tcp, (LOAD_HALF_INDEXED, start), port);
        }
    }

    fn ipv6(&mut self, start: u32, port: u32) {
        let (tcp, udp) = (self.label(), self.label());
        self.load(LOAD_BYTE, start + 6);
        self.compare(IF_EQUAL, TCP, To::Label(tcp), To::Next);
        self.compare(IF_EQUAL, UDP, To::Label(udp), To::Next);
        self.any_of(&IP_CARRIERS, To::Accept);
        self.any_of(&EXTENSIONS, To::Accept);
        self.leave(false);
        for (label, is_tcp) in [(tcp, true), (udp, false)] {
            self.here(label);
            self.ports(is_tcp, (LOAD_HALF, start + 40), port);
        }
    }

    /// Checks the ports of TCP or UDP, which are the first fields in both.
    fn ports(&mut self, is_tcp: bool, (load, place): (u32, u32), port: u32) {
        self.load(load, place);
        if is_tcp {
            self.any_of(&[port], To::Accept);
            self.load(load, place + 2);
            self.any_of(&[port], To::Accept);
        } else {
            self.any_of(&UDP_EITHER, To::Accept);
            self.load(load, place + 2);
            self.any_of(&UDP_EITHER, To::Accept);
            self.any_of(&UDP_TO, To::Accept);
        }
        self.leave(false);
    }

    /// Resolves the jumps: to a label, or to the next instruction that accepts or drops. A jump
    /// reaches 255 instructions, which is enough since each check ends with one of either kind.
    fn finish(mut self) -> Vec<Instruction> {
        self.leave(true);
        self.leave(false);
        let leaves = |from: usize, accept: bool| {
            let value = if accept { u32::MAX } else { 0 };
            let wanted = instruction(RETURN, value);
            let found = self.lines[from..]
                .iter()
                .position(|(line, ..)| *line == wanted);
            from + found.unwrap_or_default()
        };
        let distance = |to: To, from: usize| {
            let target = match to {
                To::Next => from,
                To::Accept => leaves(from, true),
                To::Drop => leaves(from, false),
                To::Label(label) => self.labels[label],
            };
            u8::try_from(target.saturating_sub(from)).unwrap_or(u8::MAX)
        };
        let lines = self.lines.iter().enumerate();
        lines
            .map(|(place, (instruction, then, otherwise))| Instruction {
                then: distance(*then, place + 1),
                otherwise: distance(*otherwise, place + 1),
                ..*instruction
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 12_000;

    /// The values that the kernel keeps of a frame beside its bytes.
    #[derive(Clone, Copy)]
    struct Beside {
        protocol: u16,
        packet_type: u32,
        hardware: u16,
        interface: u32,
    }

    const WIRE: Beside = Beside {
        protocol: 0x0800,
        packet_type: 0,
        hardware: 1,
        interface: 3,
    };

    /// Runs a program as the kernel does: loads beyond the frame end it, dropping the frame.
    fn accepts(program: &[Instruction], frame: &[u8], beside: Beside) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        let number = |place: u32, size: usize| {
            let bytes = frame.get(place as usize..place as usize + size)?;
            Some(
                bytes
                    .iter()
                    .fold(0, |number, byte| (number << 8) | u32::from(*byte)),
            )
        };
        loop {
            let Instruction {
                code,
                then,
                otherwise,
                value,
            } = program[at];
            at += 1;
            let loaded = match u32::from(code) {
                RETURN => return value != 0,
                LOAD_HALF if value == PROTOCOL => Some(beside.protocol.into()),
                LOAD_HALF if value == HARDWARE_TYPE => Some(beside.hardware.into()),
                LOAD_WORD if value == INTERFACE => Some(beside.interface),
                LOAD_WORD if value == PACKET_TYPE => Some(beside.packet_type),
                LOAD_BYTE => number(value, 1),
                LOAD_HALF => number(value, 2),
                LOAD_HALF_INDEXED => number(value + x, 2),
                LOAD_IPV4_LENGTH => {
                    let Some(byte) = number(value, 1) else {
                        return false;
                    };
                    x = (byte & 15) * 4;
                    continue;
                }
                jump => {
                    let holds = match jump {
                        IF_EQUAL => a == value,
                        IF_GREATER => a > value,
                        IF_ANY_BIT => a & value != 0,
                        other => panic!("{other:#x}"),
                    };
                    at += usize::from(if holds { then } else { otherwise });
                    continue;
                }
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    fn ipv4(protocol: u8, options: usize, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut ip = vec![0; 20 + options];
        ip[0] = 0x40 | (5 + options / 4) as u8;
        ip[6..8].copy_from_slice(&fragment.to_be_bytes());
        ip[9] = protocol;
        ip.extend(ports.map(u16::to_be_bytes).concat());
        ip
    }

    fn ipv6(next: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut ip = vec![0; 40];
        (ip[0], ip[6]) = (0x60, next);
        ip.extend(ports.map(u16::to_be_bytes).concat());
        ip
    }

    /// Runs both programs on a packet behind up to two VLAN tags, and checks that they agree.
    #[track_caller]
    fn accepted(kind: u16, ip: &[u8]) -> bool {
        let mut verdicts = Vec::new();
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let mut frame = vec![0; 12];
            for tag in tags {
                frame.extend([(tag >> 8) as u8, *tag as u8, 0, 7]);
            }
            frame.extend(kind.to_be_bytes());
            frame.extend(ip);
            let ethernet = program(Start::Ethernet, PORT, None);
            verdicts.push(accepts(&ethernet, &frame, WIRE));
            let protocol = u16::from_be_bytes([frame[12], frame[13]]);
            let network = program(Start::Network, PORT, None);
            verdicts.push(accepts(&network, &frame[14..], Beside { protocol, ..WIRE }));
        }
        assert!(
            verdicts.iter().all(|verdict| *verdict == verdicts[0]),
            "{verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn segments_of_the_port_are_taken_and_others_are_not() {
        for (ports, own) in [([PORT, 9], true), ([9, PORT], true), ([9, 10], false)] {
            for options in [0, 4, 40] {
                assert_eq!(accepted(0x0800, &ipv4(6, options, 0, ports)), own);
                // Don't fragment.
                assert_eq!(accepted(0x0800, &ipv4(6, options, 0x4000, ports)), own);
            }
            assert_eq!(accepted(0x86dd, &ipv6(6, ports)), own);
            assert!(!accepted(0x0800, &ipv4(17, 0, 0, ports)), "UDP");
            assert!(!accepted(0x86dd, &ipv6(17, ports)), "UDP");
            assert!(!accepted(0x0800, &ipv4(1, 0, 0, ports)), "ICMP");
            assert!(!accepted(0x86dd, &ipv6(58, ports)), "ICMP");
        }
        assert!(!accepted(0x0806, &[0; 28]), "ARP");
    }

    #[test]
    fn what_may_carry_a_segment_is_taken() {
        let other = [9, 10];
        assert!(
            accepted(0x0800, &ipv4(6, 0, 0x0010, other)),
            "a later fragment"
        );
        assert!(
            accepted(0x0800, &ipv4(17, 0, 0x0010, other)),
            "a later fragment"
        );
        for protocol in IP_CARRIERS {
            assert!(accepted(0x0800, &ipv4(protocol as u8, 0, 0, other)));
            assert!(accepted(0x86dd, &ipv6(protocol as u8, other)));
        }
        for header in EXTENSIONS {
            assert!(accepted(0x86dd, &ipv6(header as u8, other)));
        }
        for port in UDP_TO {
            assert!(accepted(0x0800, &ipv4(17, 4, 0, [9, port as u16])));
            assert!(!accepted(0x0800, &ipv4(17, 0, 0, [port as u16, 9])));
        }
        for port in UDP_EITHER {
            assert!(accepted(0x86dd, &ipv6(17, [9, port as u16])));
            assert!(accepted(0x86dd, &ipv6(17, [port as u16, 9])));
        }
        for kind in CARRIERS {
            assert!(accepted(kind as u16, &[0; 40]));
        }
        assert!(accepted(100, &[0xaa; 40]), "LLC");
    }

    #[test]
    fn the_loopback_shows_each_packet_once() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend(ipv4(6, 0, 0, [PORT, 9]));
        let program = program(Start::Ethernet, PORT, None);
        for (hardware, packet_type, taken) in
            [(772, 0, true), (772, 4, false), (1, 0, true), (1, 4, true)]
        {
            let beside = Beside {
                hardware,
                packet_type,
                ..WIRE
            };
            assert_eq!(accepts(&program, &frame, beside), taken);
        }
    }

    #[test]
    fn every_jump_reaches_its_end() {
        for start in [Start::Ethernet, Start::Network, Start::Ip] {
            for (place, line) in (1..).zip(program(start, PORT, Some(3))) {
                let far = line.then.max(line.otherwise);
                assert!(far < u8::MAX, "{start:?}: {place}");
            }
        }
        let program = program(Start::Ip, PORT, Some(3));
        let segment = ipv4(6, 0, 0, [PORT, 9]);
        for (protocol, taken) in [(0x0800, true), (0x8100, false), (0x8847, false), (4, false)] {
            assert_eq!(
                accepts(&program, &segment, Beside { protocol, ..WIRE }),
                taken
            );
        }
    }
}
