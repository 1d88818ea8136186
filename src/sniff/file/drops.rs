//! Counts the packets that were dropped before they could be captured, as a pcapng file declares
//! them. Pure.
//!
//! A file declares drops in two ways. A packet block has the number of packets dropped since the
//! previous packet of its interface. An Interface Statistics Block has the number since the capture
//! began, so that the last one of an interface is valid. Both may count the same packets: of each
//! interface the larger number is used, and drops that packet blocks declare after the statistics
//! are added to the number of the statistics.
//!
//! Invariant: memory is bounded by `INTERFACES_MAX` and `PLACES_MAX`. Beyond these limits, dropped
//! packets are counted together and none is left out.

use std::collections::BTreeMap;
use std::fmt;

use crate::units::{agreeing, counted};

/// Maximum number of interfaces of a section whose drops are counted separately. Each takes some 70
/// bytes.
const INTERFACES_MAX: usize = 1 << 16;

/// The key that all further interfaces of a section share.
const FURTHER: u32 = u32::MAX;

/// Maximum number of places that are named separately; the drops of further places are summed.
const PLACES_MAX: usize = 16;

/// The counters of an Interface Statistics Block, since the capture began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// isb_ifdrop: dropped by the interface.
    pub by_interface: Option<u64>,
    /// isb_osdrop: dropped by the system.
    pub by_system: Option<u64>,
    /// isb_filteraccept: accepted by the filter of the capture.
    pub accepted: Option<u64>,
    /// isb_usrdeliv: delivered to the program that captured.
    pub delivered: Option<u64>,
}

impl Statistics {
    /// Returns the number of dropped packets, if the block declares any number. Packets that were
    /// accepted and not delivered may still be in the buffers of the system when the capture ends;
    /// they count as dropped if the block does not declare what the system dropped.
    fn dropped(&self) -> Option<u64> {
        let by_system = self.by_system.or_else(|| {
            let undelivered = self.accepted?.checked_sub(self.delivered?)?;
            Some(undelivered)
        });
        match (self.by_interface, by_system) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
        }
    }
}

/// The kind of packet block that declares drops before its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketBlock {
    /// An Enhanced Packet Block, which declares them in the option epb_dropcount.
    Enhanced,
    /// The obsolete Packet Block, which declares them in a field.
    Obsolete,
}

/// The drops that are declared of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Declared {
    /// Number of drops declared by all packet blocks.
    by_packets: u64,
    /// Number of drops declared by the last statistics.
    by_statistics: u64,
    /// Number of drops declared by packet blocks after the last statistics.
    since: u64,
    /// The time of the last statistics, in units of the interface.
    statistics_time: u64,
    /// The first packet block that declares drops: its kind and the number of its packet.
    first: Option<(PacketBlock, u64)>,
}

impl Declared {
    fn count(&self) -> u64 {
        self.by_packets
            .max(self.by_statistics.saturating_add(self.since))
    }
}

/// An interface of a section, with the drops that are declared of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    section: u64,
    interface: u32,
    declared: Declared,
}

/// The drops that a file declares.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    /// The interfaces of the section that is being read.
    interfaces: BTreeMap<u32, Declared>,
    /// The number of that section, from 1.
    section: u64,
    /// Number of dropped packets in all sections.
    total: u128,
    /// The places in earlier sections, up to [`PLACES_MAX`].
    places: Vec<Place>,
    /// Number of drops declared at further places.
    elsewhere: u64,
}

impl Drops {
    /// Returns the number of dropped packets, as far as the file was read.
    pub fn total(&self) -> u64 {
        u64::try_from(self.total).unwrap_or(u64::MAX)
    }

    /// Begins another section, which has interfaces of its own.
    pub fn next_section(&mut self) {
        for (interface, declared) in std::mem::take(&mut self.interfaces) {
            let place = Place {
                section: self.section,
                interface,
                declared,
            };
            match (declared.count(), self.places.len()) {
                (0, _) => {}
                (_, ..PLACES_MAX) => self.places.push(place),
                (count, _) => self.elsewhere = self.elsewhere.saturating_add(count),
            }
        }
        self.section += 1;
    }

    /// Records packets that were dropped before this one.
    pub fn before_packet(
        &mut self,
        (interface, time): (u32, u64),
        (block, packet): (PacketBlock, u64),
        count: u64,
    ) {
        self.change(interface, |declared| {
            declared.first.get_or_insert((block, packet));
            declared.by_packets = declared.by_packets.saturating_add(count);
            if time >= declared.statistics_time {
                declared.since = declared.since.saturating_add(count);
            }
        });
    }

    /// Records the statistics of an interface.
    pub fn statistics(&mut self, (interface, time): (u32, u64), statistics: &Statistics) {
        let Some(count) = statistics.dropped() else {
            return;
        };
        self.change(interface, |declared| {
            declared.by_statistics = count;
            declared.since = 0;
            declared.statistics_time = time;
        });
    }

    fn change(&mut self, interface: u32, change: impl FnOnce(&mut Declared)) {
        let is_full = self.interfaces.len() >= INTERFACES_MAX;
        let key = match is_full && !self.interfaces.contains_key(&interface) {
            true => FURTHER,
            false => interface,
        };
        let declared = self.interfaces.entry(key).or_default();
        let before = declared.count();
        change(declared);
        self.total = self.total - u128::from(before) + u128::from(declared.count());
    }

    /// Returns the number of drops that are declared of an interface of this section.
    pub fn of_interface(&self, interface: u32) -> u64 {
        self.interfaces.get(&interface).map_or(0, Declared::count)
    }

    /// Returns a sentence on the drops of each place.
    pub fn sentences(mut self) -> Vec<String> {
        let sections = self.section;
        self.next_section();
        let places = self.places.iter();
        let mut sentences: Vec<String> = places.map(|place| place.sentence(sections)).collect();
        if self.elsewhere > 0 {
            let packets = counted(self.elsewhere, "packet");
            let were = agreeing(self.elsewhere, "was", "were");
            sentences.push(format!(
                "the file declares that {packets} {were} dropped on further interfaces"
            ));
        }
        sentences
    }
}

impl Place {
    fn sentence(&self, sections: u64) -> String {
        let count = self.declared.count();
        let (packets, were) = (counted(count, "packet"), agreeing(count, "was", "were"));
        let interface = match self.interface {
            FURTHER => "further interfaces".to_string(),
            number => format!("interface {number}"),
        };
        let section = match sections {
            1 => String::new(),
            _ => format!(" of section {}", self.section),
        };
        let declared = &self.declared;
        format!("{packets} {were} dropped on {interface}{section}, as {declared}")
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            Some((block, packet)) if self.count() > self.by_statistics => match block {
                PacketBlock::Enhanced => write!(
                    f,
                    "its Enhanced Packet Blocks declare (epb_dropcount), that of packet {packet} \
                     first"
                ),
                PacketBlock::Obsolete => write!(
                    f,
                    "its Packet Blocks declare (drops count), that of packet {packet} first"
                ),
            },
            _ => write!(f, "its Interface Statistics Block declares"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (u32, u64) = (0, 100);

    fn by_system(count: u64) -> Statistics {
        Statistics {
            by_system: Some(count),
            ..Statistics::default()
        }
    }

    fn dropped(change: impl FnOnce(&mut Drops)) -> u64 {
        let mut drops = Drops::default();
        change(&mut drops);
        drops.total()
    }

    #[test]
    fn the_same_drops_count_once() {
        let packet = (PacketBlock::Enhanced, 1);
        let both = |statistics: u64| {
            dropped(|drops| {
                drops.before_packet(HERE, packet, 2);
                drops.before_packet(HERE, packet, 3);
                drops.statistics((0, 200), &by_system(statistics));
            })
        };
        assert_eq!([both(5), both(9), both(0)], [5, 9, 5]);
        // The statistics precede the packet in the file; their time is earlier, equal or later.
        let first = |time| {
            dropped(|drops| {
                drops.statistics((0, time), &by_system(4));
                drops.before_packet(HERE, packet, 2);
            })
        };
        assert_eq!([first(50), first(100), first(150)], [6, 6, 4]);
    }

    #[test]
    fn later_statistics_of_an_interface_replace_the_earlier_ones() {
        let count = dropped(|drops| {
            drops.statistics((0, 1), &by_system(4));
            drops.statistics((1, 1), &by_system(7));
            drops.statistics((0, 2), &by_system(5));
            // These statistics declare no drops.
            drops.statistics((0, 3), &Statistics::default());
            drops.next_section();
            drops.statistics((0, 1), &by_system(1));
        });
        assert_eq!(count, 13);
    }

    #[test]
    fn what_was_accepted_and_not_delivered_is_dropped_unless_the_file_says_otherwise() {
        let statistics = |by_system, accepted, delivered| Statistics {
            by_interface: None,
            by_system,
            accepted,
            delivered,
        };
        for (statistics, count) in [
            (statistics(None, Some(9), Some(7)), Some(2)),
            (statistics(Some(0), Some(9), Some(7)), Some(0)),
            (statistics(Some(3), Some(9), Some(7)), Some(3)),
            (statistics(None, Some(9), None), None),
            (statistics(None, Some(7), Some(9)), None),
        ] {
            assert_eq!(statistics.dropped(), count, "{statistics:?}");
        }
        let both = Statistics {
            by_interface: Some(1),
            ..by_system(2)
        };
        assert_eq!(both.dropped(), Some(3));
    }

    #[test]
    fn no_count_is_too_large_and_no_place_is_forgotten() {
        let mut drops = Drops::default();
        for interface in 0..INTERFACES_MAX as u32 + 2 {
            drops.statistics((interface, 0), &by_system(1));
        }
        drops.next_section();
        for _ in 0..2 {
            drops.before_packet(HERE, (PacketBlock::Obsolete, 1), u64::MAX);
        }
        assert_eq!(drops.total(), u64::MAX);
        let sentences = drops.sentences();
        assert_eq!(sentences.len(), PLACES_MAX + 1);
    }
}
