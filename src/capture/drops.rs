//! Packets that passed and were dropped before they could be captured, as a pcapng file declares
//! them. Pure.
//!
//! There are two places for that. A packet block has the number since the packet before it on its
//! interface, and an Interface Statistics Block has the number since the capture began, so that the
//! last one of an interface holds. Both may speak of the same packets: of each interface the larger
//! number counts, and what packet blocks declare after the statistics is added to those.
//!
//! Invariant: what is kept is bounded by `INTERFACES_MAX` and `PLACES_MAX`; no packet that is
//! declared as dropped is forgotten for it.

use std::collections::BTreeMap;
use std::fmt;

use crate::units::{agreeing, counted};

/// Interfaces of a section of which drops are kept one by one. Each takes some 70 bytes.
const INTERFACES_MAX: usize = 1 << 16;

/// Stands for all further interfaces of a section.
const FURTHER: u32 = u32::MAX;

/// Places that are named one by one; what further places declare is added up.
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
    /// Returns how many packets were dropped, if anything is said of that. What was accepted and
    /// not delivered may wait in the buffers of the system when the capture ends; but a file that
    /// is silent on what the system dropped does not say that it waits.
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

/// The block of a packet that declares drops before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketBlock {
    /// An Enhanced Packet Block, by its option epb_dropcount.
    Enhanced,
    /// The obsolete Packet Block, by a field.
    Obsolete,
}

/// What is declared of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Declared {
    /// By all packet blocks.
    by_packets: u64,
    /// By the last statistics.
    by_statistics: u64,
    /// By packet blocks after the last statistics.
    since: u64,
    /// The time of the last statistics, in units of the interface.
    statistics_time: u64,
    /// The first packet block: its kind and the number of its packet.
    first: Option<(PacketBlock, u64)>,
}

impl Declared {
    fn count(&self) -> u64 {
        self.by_packets
            .max(self.by_statistics.saturating_add(self.since))
    }
}

/// A place of the file at which drops are declared.
#[derive(Clone, Copy, Debug)]
struct Place {
    section: u64,
    interface: u32,
    declared: Declared,
}

/// All that a file declares.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    /// Of the section that is read.
    interfaces: BTreeMap<u32, Declared>,
    /// The number of that section, from 1.
    section: u64,
    /// In all sections.
    total: u128,
    /// Those of the sections before, up to [`PLACES_MAX`].
    places: Vec<Place>,
    /// What was declared at the other places.
    elsewhere: u64,
}

impl Drops {
    /// Returns how many packets were dropped, as far as the file was read.
    pub fn total(&self) -> u64 {
        u64::try_from(self.total).unwrap_or(u64::MAX)
    }

    /// Begins another section, whose interfaces are others.
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

    /// Takes note of packets that were dropped before this one.
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

    /// Takes note of the statistics of an interface.
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

    /// Returns what is declared of an interface of this section.
    pub fn of_interface(&self, interface: u32) -> u64 {
        self.interfaces.get(&interface).map_or(0, Declared::count)
    }

    /// Returns what is declared and where, a sentence for each place.
    pub fn sentences(mut self) -> Vec<String> {
        let sections = self.section;
        self.next_section();
        let places = self.places.iter();
        let mut sentences: Vec<String> = places.map(|place| place.sentence(sections)).collect();
        if self.elsewhere > 0 {
            let packets = counted(self.elsewhere, "packet");
            let were = agreeing(self.elsewhere, "was", "were");
            sentences.push(format!(
                "{packets} {were} dropped on further interfaces, as the file declares"
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
        // Before the packets in the file, by its time as well or not.
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
            // Nothing is said of drops here.
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
