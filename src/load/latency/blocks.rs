//! Keeps the samples of a run in blocks of equal time, which show how much the parts of the run
//! differ from each other. Pure.
//!
//! A sample belongs to the block in which its outcome became known. So only the last block is open,
//! and a stall counts as one event, together with the burst of replies at its end. Replies that
//! arrive after the last message was due belong to the last block.
//!
//! Invariants, so that the memory does not grow with the length of the run:
//!
//! - There are at most `BLOCKS_MAX` blocks, of equal length. When the limit is reached, each two
//!   neighbours are merged and the length doubles. The blocks of all threads begin at the same
//!   time, and their lengths are multiples of each other.
//! - A block has samples in at most `STEPS_MAX` steps. When the limit is reached in one of them,
//!   each two neighbouring steps are merged in all blocks: their width doubles.

use std::time::Duration;

use crate::load::latency::recent::steps_middle;
use crate::load::latency::statistics::{Point, Share};

/// Maximum number of blocks. A merge leaves half of them, which are sixteen groups of four.
const BLOCKS_MAX: usize = 128;

/// The initial length of a block. Ending a block takes some microseconds, so shorter blocks would
/// add visibly to the CPU time of a run; a run of a quarter of a second has enough of this length.
const LENGTH_LEAST: Duration = Duration::from_millis(10);

/// Maximum number of steps of a block that hold samples, which limits the memory of the blocks to a
/// quarter of a megabyte. Samples over eight octaves, from 100 µs to 25 ms, are then known to 2 %,
/// and samples within half an octave to one part in a thousand.
const STEPS_MAX: usize = 512;

/// The number of steps of an octave, so that all steps that are merged are of one octave.
const WIDTH_MOST: usize = 1024;

/// The number of low bits of an entry that hold its count.
const COUNT_BITS: u32 = 16;

/// The largest count of one entry; a larger count takes several entries.
const COUNT_MOST: u64 = (1 << COUNT_BITS) - 1;

/// The blocks of a run, from its beginning. The last block is open.
#[derive(Clone, Debug)]
pub struct Blocks {
    blocks: Vec<Block>,
    length: Duration,
    /// The number of neighbouring steps that count as one, a power of two. The steps of all entries
    /// are multiples of it.
    width: usize,
}

/// The samples of a block, as entries of a step (high bits) and the number of its samples (low
/// bits). For steps see [`crate::load::latency::recent`].
#[derive(Clone, Debug, Default)]
pub struct Block {
    entries: Vec<u32>,
    /// The number of entries after the entries of equal steps were last merged.
    compact: usize,
}

/// Minimum number of entries by which a block grows before entries of equal steps are merged. The
/// merging keeps a run that ends with a million unanswered messages from storing an entry for each.
const LOOSE_MAX: usize = 4096;

impl Default for Blocks {
    fn default() -> Self {
        Blocks {
            blocks: vec![Block::default()],
            length: LENGTH_LEAST,
            width: 1,
        }
    }
}

impl Blocks {
    /// Adds all samples of `samples` to the open block.
    pub fn add(&mut self, samples: &Block) {
        let width = self.width;
        if let Some(open) = self.blocks.last_mut() {
            let entries = samples.entries.iter();
            open.entries
                .extend(entries.map(|entry| widened(*entry, width)));
        }
        self.limit();
    }

    /// Adds a sample of this step to the open block.
    pub fn record(&mut self, step: usize) {
        if let Some(open) = self.blocks.last_mut() {
            open.push(step - step % self.width, 1);
        }
        self.limit();
    }

    /// Returns the number of neighbouring steps that count as one: only multiples of it can be the
    /// argument of [`shares`](Blocks::shares).
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the length of a block, and the entries of each block.
    pub(super) fn entries(&self) -> (Duration, impl Iterator<Item = &[u32]>) {
        let blocks = self.blocks.iter();
        (self.length, blocks.map(|block| block.entries.as_slice()))
    }

    /// Creates blocks of this length and this width of steps from the entries of each; `None` where
    /// [`entries`](Blocks::entries) cannot have returned these.
    pub(super) fn from_entries(
        length: Duration,
        width: usize,
        entries: Vec<Vec<u32>>,
    ) -> Option<Blocks> {
        let count = entries.len();
        let doublings = length.as_nanos().checked_div(LENGTH_LEAST.as_nanos())?;
        let is_length = doublings.is_power_of_two() && LENGTH_LEAST * doublings as u32 == length;
        let is_width = width.is_power_of_two() && width <= WIDTH_MOST;
        let mut all = entries.iter().flatten();
        let is_valid = is_length
            && is_width
            && (1..=BLOCKS_MAX).contains(&count)
            && all.all(|entry| widened(*entry, width) == *entry);
        let blocks = entries.into_iter().map(|entries| Block {
            compact: entries.len(),
            entries,
        });
        is_valid.then(|| Blocks {
            blocks: blocks.collect(),
            length,
            width,
        })
    }

    /// Appends the blocks of a later part of the same run, as if no time had passed between the
    /// two.
    pub fn append(&mut self, later: &Blocks) {
        let mut later = later.clone();
        if let Some(open) = self.blocks.last_mut() {
            open.put_together();
        }
        self.limit_steps();
        self.align(&mut later);
        self.blocks.append(&mut later.blocks);
        while self.blocks.len() > BLOCKS_MAX {
            self.double();
        }
    }

    /// Ends the open block and opens the next one. Returns when the new one ends, as a time after
    /// the beginning of the first block.
    pub fn end(&mut self) -> Duration {
        if let Some(open) = self.blocks.last_mut() {
            open.put_together();
        }
        self.limit_steps();
        self.blocks.push(Block::default());
        if self.blocks.len() > BLOCKS_MAX {
            self.double();
        }
        self.open_until()
    }

    /// Returns when the open block ends, as a time after the beginning of the first block.
    pub fn open_until(&self) -> Duration {
        self.length.saturating_mul(self.blocks.len() as u32)
    }

    /// Adds the blocks of another thread.
    pub fn merge(&mut self, other: &Blocks) {
        let mut other = other.clone();
        self.align(&mut other);
        let longer = self.blocks.len().max(other.blocks.len());
        self.blocks.resize(longer, Block::default());
        for (ours, theirs) in self.blocks.iter_mut().zip(other.blocks) {
            ours.merge(&theirs);
        }
        self.limit_steps();
    }

    /// Merges blocks and steps until both have the same length of blocks and width of steps.
    fn align(&mut self, other: &mut Blocks) {
        while self.length < other.length {
            self.double();
        }
        while other.length < self.length {
            other.double();
        }
        while self.width < other.width {
            self.widen();
        }
        while other.width < self.width {
            other.widen();
        }
    }

    /// Merges each two neighbouring blocks.
    fn double(&mut self) {
        let mut halves = std::mem::take(&mut self.blocks).into_iter();
        while let Some(mut block) = halves.next() {
            block.merge(&halves.next().unwrap_or_default());
            self.blocks.push(block);
        }
        self.length = self.length.saturating_mul(2);
        self.limit_steps();
    }

    /// Keeps the memory of the open block within its limits.
    fn limit(&mut self) {
        let open = self.blocks.last_mut().filter(|open| open.is_loose());
        if let Some(open) = open {
            open.put_together();
            self.limit_steps();
        }
    }

    /// Merges steps until no block has samples in more than `STEPS_MAX`.
    fn limit_steps(&mut self) {
        while self.blocks.iter().any(|block| block.has_many_steps()) {
            self.widen();
        }
    }

    /// Merges each two neighbouring steps.
    fn widen(&mut self) {
        self.width *= 2;
        for block in &mut self.blocks {
            block.widen(self.width);
        }
    }

    /// Returns for each block the number of its samples, and how many of them are in step `from` or
    /// above, a multiple of [`width`](Blocks::width).
    pub fn shares(&self, from: usize) -> Vec<Share> {
        let share = |block: &Block| {
            let mut share = Share::default();
            block.each(|step, count| {
                share.all += count as f64;
                share.beyond += if step >= from { count as f64 } else { 0.0 };
            });
            share
        };
        self.blocks.iter().map(share).collect()
    }

    /// Returns the mean of each block that has samples, at the middle of the block in seconds after
    /// the beginning of the first block. Left out are the blocks that begin before `lead`, but at
    /// most half of all, since they cannot contain a sample longer than the time since the start;
    /// the open block; and blocks at the end with few samples.
    pub fn means(&self, lead: Duration) -> Vec<Point> {
        let length = self.length.as_secs_f64();
        let first = ((lead.as_secs_f64() / length).ceil() as usize).min(self.blocks.len() / 2);
        let closed = self.blocks.len() - 1;
        let mut points: Vec<(u64, Point)> = Vec::new();
        for (place, block) in self.blocks.iter().enumerate().take(closed).skip(first) {
            let (mut count, mut sum) = (0, 0.0);
            block.each(|step, of_step| {
                count += of_step;
                sum += of_step as f64 * steps_middle(step, self.width);
            });
            let at = (place as f64 + 0.5) * length;
            points.push((
                count,
                Point {
                    at,
                    value: sum / count as f64,
                },
            ));
        }
        let mut counts: Vec<u64> = points.iter().map(|(count, _)| *count).collect();
        counts.sort_unstable();
        let usual = counts.get(counts.len() / 2).copied().unwrap_or(0);
        while points.last().is_some_and(|(count, _)| count * 2 < usual) {
            points.pop();
        }
        points.retain(|(count, _)| *count > 0);
        points.into_iter().map(|(_, point)| point).collect()
    }
}

/// Returns an entry with the step that stands for its step where `width` steps count as one.
fn widened(entry: u32, width: usize) -> u32 {
    let dropped = (width as u32 - 1) << COUNT_BITS;
    entry & !dropped
}

impl Block {
    /// Adds `count` samples of a step.
    #[inline]
    pub fn push(&mut self, step: usize, mut count: u64) {
        while count > 0 {
            let part = count.min(COUNT_MOST);
            self.entries.push((step << COUNT_BITS) as u32 | part as u32);
            count -= part;
        }
    }

    /// Calls `call` with the step and the count of each entry.
    fn each(&self, mut call: impl FnMut(usize, u64)) {
        for entry in &self.entries {
            call(
                (entry >> COUNT_BITS) as usize,
                u64::from(*entry) & COUNT_MOST,
            );
        }
    }

    fn merge(&mut self, other: &Block) {
        self.entries.extend_from_slice(&other.entries);
        self.put_together();
    }

    /// Returns whether so many entries were added that their merging is worth its time.
    fn is_loose(&self) -> bool {
        self.entries.len() - self.compact > self.compact.max(LOOSE_MAX)
    }

    /// Returns whether more than `STEPS_MAX` steps have samples; `false` before entries of equal
    /// steps are merged. A step with many samples may have several entries even then.
    fn has_many_steps(&self) -> bool {
        let is_merged = self.entries.len() == self.compact;
        let steps = self
            .entries
            .chunk_by(|one, next| one >> COUNT_BITS == next >> COUNT_BITS);
        is_merged && self.entries.len() > STEPS_MAX && steps.count() > STEPS_MAX
    }

    /// Merges entries whose steps count as one.
    fn widen(&mut self, width: usize) {
        for entry in &mut self.entries {
            *entry = widened(*entry, width);
        }
        self.put_together();
    }

    /// Merges entries of equal steps, as far as one entry can hold their sum.
    fn put_together(&mut self) {
        // The stable sort is fast here: the entries consist of a few runs that are sorted already.
        self.entries.sort();
        self.entries.dedup_by(|next, kept| {
            let sum = kept.wrapping_add(*next & COUNT_MOST as u32);
            let fits = sum >> COUNT_BITS == *next >> COUNT_BITS;
            if fits && *kept >> COUNT_BITS == *next >> COUNT_BITS {
                *kept = sum;
                return true;
            }
            false
        });
        self.entries.shrink_to_fit();
        self.compact = self.entries.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The samples of a run in order: the step of each, and how many blocks end before it.
    type Samples = Vec<(usize, u32)>;

    fn samples() -> impl Strategy<Value = Samples> {
        prop::collection::vec((0usize..20, 0u32..40), 0..60)
    }

    fn kept(samples: &Samples) -> Blocks {
        let mut blocks = Blocks::default();
        let mut now = LENGTH_LEAST / 2;
        for (step, before) in samples {
            now += LENGTH_LEAST * *before;
            while blocks.open_until() <= now {
                blocks.end();
            }
            let mut block = Block::default();
            block.push(*step, 1);
            blocks.add(&block);
        }
        blocks
    }

    proptest! {
        #[test]
        fn each_sample_is_in_the_block_of_its_time(samples in samples(), from in 0usize..20) {
            let blocks = kept(&samples);
            prop_assert!(blocks.blocks.len() <= BLOCKS_MAX);
            let mut wanted = vec![Share::default(); blocks.blocks.len()];
            let mut now = LENGTH_LEAST / 2;
            for (step, before) in samples {
                now += LENGTH_LEAST * before;
                let share = &mut wanted[(now.as_nanos() / blocks.length.as_nanos()) as usize];
                share.all += 1.0;
                share.beyond += if step >= from { 1.0 } else { 0.0 };
            }
            prop_assert_eq!(blocks.shares(from), wanted);
        }

        #[test]
        fn threads_together_are_one_run(one in samples(), two in samples(), from in 0usize..20) {
            let mut merged = kept(&one);
            let other = kept(&two);
            merged.merge(&other);
            let in_length = |samples: &Samples| {
                let mut blocks = kept(samples);
                while blocks.length < merged.length {
                    blocks.double();
                }
                blocks.shares(from)
            };
            let (mut shares, others) = (in_length(&one), in_length(&two));
            shares.resize(shares.len().max(others.len()), Share::default());
            for (share, other) in shares.iter_mut().zip(others) {
                share.all += other.all;
                share.beyond += other.beyond;
            }
            prop_assert_eq!(merged.shares(from), shares);
        }

        #[test]
        fn many_steps_are_merged_and_no_sample_is_lost(
            steps in prop::collection::vec(0usize..56_320, 3000..5000),
            narrow in samples(),
            from in 0usize..56_320,
        ) {
            let steps = steps.into_iter().enumerate();
            let samples = steps.map(|(place, step)| (step, (place % 2000 == 1999).into()));
            let samples: Samples = samples.collect();
            let mut blocks = kept(&samples);
            let width = blocks.width();
            let mut closed = blocks.blocks.iter().rev().skip(1);
            prop_assert!(width > 1 && closed.all(|block| block.entries.len() <= STEPS_MAX));
            let from = from - from % width;
            let sum = |blocks: &Blocks| blocks.shares(from).iter().fold((0.0, 0.0), |sum, share| {
                (sum.0 + share.all, sum.1 + share.beyond)
            });
            let beyond = samples.iter().filter(|(step, _)| *step >= from).count();
            prop_assert_eq!(sum(&blocks), (samples.len() as f64, beyond as f64));
            let wide = blocks.clone();
            blocks.merge(&kept(&narrow));
            prop_assert_eq!(sum(&blocks).0, (samples.len() + narrow.len()) as f64);
            let mut turned = kept(&narrow);
            turned.merge(&wide);
            prop_assert_eq!(turned.width(), blocks.width());
            prop_assert_eq!(sum(&turned), sum(&blocks));
        }
    }

    #[test]
    fn a_step_holds_more_than_an_entry_does() {
        let mut blocks = Blocks::default();
        for _ in 0..3 {
            let mut block = Block::default();
            block.push(7, 100_000);
            blocks.add(&block);
        }
        let wanted = Share {
            all: 300_000.0,
            beyond: 300_000.0,
        };
        assert_eq!(blocks.shares(7), [wanted]);
        assert_eq!(blocks.shares(8)[0].beyond, 0.0);
    }

    #[test]
    fn a_million_samples_without_a_reply_take_little_room() {
        let mut blocks = Blocks::default();
        for place in 0..1_000_000 {
            blocks.record(place * 7 % 1000);
        }
        assert!(blocks.blocks[0].entries.len() <= 2 * LOOSE_MAX);
        assert_eq!(blocks.shares(0)[0].all, 1e6);
        assert_eq!(blocks.width(), 2);
        assert_eq!(blocks.shares(998)[0].beyond, 2000.0);
    }
}
