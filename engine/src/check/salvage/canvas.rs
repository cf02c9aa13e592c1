//! The newest versions that are known of the blocks of a part of the volume.
//!
//! Versions come in any order. A block keeps the newest, another place where that one may lie, and the next older one.
//! Ranges of zeroes are kept as they come and are gone through once, newest first.
//!
//! Invariant: at most `limit` blocks and ranges are kept. Where there would be more, the part ends earlier, and
//! what lies behind it is for the next canvas.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where a version lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It reads as zero.
    Zero,
    /// In the base.
    Base,
    /// At a byte of the device.
    At(u64),
    /// In a slot of a virtual segment.
    Slot(u32, u32),
}

/// One version of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub sequence: u64,
    /// None where what lies there may be overwritten in its place.
    pub checksum: Option<u32>,
    pub place: Place,
}

impl Version {
    /// What the base has of a block that no version is known of.
    pub const OF_BASE: Self = Self { sequence: 0, checksum: None, place: Place::Base };
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub newest: Version,
    /// Another place that is said to hold it.
    pub again: Option<Place>,
    pub older: Option<Version>,
    /// What the base had before it was first overwritten, by the entry that says so.
    pub saved: Option<Version>,
}

impl Held {
    pub fn of(newest: Version) -> Self {
        Self { newest, again: None, older: None, saved: None }
    }

    /// `to_base`: a version in the base may be one that was elsewhere before; else one that has been saved since.
    fn take(&mut self, version: Version, to_base: bool) {
        let is_in_base = version.place == Place::Base;
        if version.sequence > self.newest.sequence {
            self.older = Some(std::mem::replace(&mut self.newest, version));
            self.again = None;
        } else if version.sequence == self.newest.sequence && is_in_base != (self.newest.place == Place::Base)
        {
            if is_in_base == to_base {
                self.newest = version;
                self.again = None;
            }
        } else if version.sequence == self.newest.sequence {
            self.again = self.again.or((version.place != self.newest.place).then_some(version.place));
        } else if self.older.is_none_or(|older| older.sequence < version.sequence) {
            self.older = Some(version);
        }
    }
}

/// Part of the volume.
pub(super) struct Canvas {
    /// Its blocks. The end comes nearer when there is too much.
    pub part: Range<u64>,
    data: BTreeMap<u64, Held>,
    /// Blocks and sequence.
    zeroes: Vec<(Range<u64>, u64)>,
    /// So many ranges are left since they were last made few.
    settled: usize,
    limit: usize,
    /// Of a version that has two places, the base has it last.
    to_base: bool,
}

impl Canvas {
    pub fn new(part: Range<u64>, limit: usize, to_base: bool) -> Self {
        Self { part, data: BTreeMap::new(), zeroes: Vec::new(), settled: 0, limit, to_base }
    }

    /// A version of a block.
    pub fn put(&mut self, lba: u64, version: Version) {
        if self.part.contains(&lba) {
            let to_base = self.to_base;
            let known = self.data.entry(lba);
            known.and_modify(|held| held.take(version, to_base)).or_insert(Held::of(version));
            self.bound();
        }
    }

    /// What a block was before it was overwritten in the base; the one that was saved first counts.
    pub fn put_saved(&mut self, lba: u64, version: Version) {
        if self.part.contains(&lba) {
            let held = self.data.entry(lba).or_insert(Held::of(Version::OF_BASE));
            let is_first = held.saved.is_none_or(|saved| version.sequence < saved.sequence);
            held.saved = if is_first { Some(version) } else { held.saved };
            self.bound();
        }
    }

    /// A range that reads as zero since a sequence.
    pub fn put_zeroes(&mut self, blocks: Range<u64>, sequence: u64) {
        let blocks = blocks.start.max(self.part.start)..blocks.end.min(self.part.end);
        if !blocks.is_empty() {
            self.zeroes.push((blocks, sequence));
            self.bound();
        }
    }

    fn bound(&mut self) {
        if self.data.len() + self.zeroes.len() <= self.limit {
            return;
        }
        if self.zeroes.len() > 2 * self.settled.max(self.limit / 8) {
            self.settle();
        }
        while self.data.len() + self.zeroes.len() > self.limit / 2 && self.part.end - self.part.start > 1 {
            let middle = self.data.keys().nth(self.data.len() / 2).copied();
            let of_zeroes = self.zeroes.get(self.zeroes.len() / 2).map(|(blocks, _)| blocks.start);
            let end = if self.data.len() > self.zeroes.len() { middle } else { of_zeroes };
            let half = self.part.start + (self.part.end - self.part.start) / 2;
            let end = end.filter(|end| self.part.start < *end && *end < self.part.end).unwrap_or(half);
            self.part.end = end;
            self.data.split_off(&end);
            self.zeroes.retain_mut(|(blocks, _)| {
                blocks.end = blocks.end.min(end);
                blocks.start < blocks.end
            });
            self.settle();
        }
    }

    /// Makes ranges of zeroes lie apart, in their order, each with the newest sequence.
    pub fn settle(&mut self) {
        let mut all = std::mem::take(&mut self.zeroes);
        all.sort_unstable_by_key(|(blocks, sequence)| (std::cmp::Reverse(*sequence), blocks.start));
        // What a newer one covers: ranges that do not touch each other.
        let mut covered: BTreeMap<u64, u64> = BTreeMap::new();
        for (blocks, sequence) in all {
            let before = covered.range(..=blocks.start).next_back().filter(|(_, end)| **end >= blocks.start);
            let start = before.map_or(blocks.start, |(start, _)| *start);
            let mut at = blocks.start;
            while let Some((first, end)) =
                covered.range(start..=blocks.end).next().map(|(first, end)| (*first, *end))
            {
                covered.remove(&first);
                if at < first {
                    self.zeroes.push((at..first, sequence));
                }
                at = at.max(end);
            }
            if at < blocks.end {
                self.zeroes.push((at..blocks.end, sequence));
                at = blocks.end;
            }
            covered.insert(start, at);
        }
        self.zeroes.sort_unstable_by_key(|(blocks, _)| blocks.start);
        self.settled = self.zeroes.len();
    }

    /// The first block from here on that a version is known of, and what is known.
    pub fn next_data(&self, lba: u64) -> Option<(u64, &Held)> {
        self.data.range(lba..).next().map(|(lba, held)| (*lba, held))
    }

    /// The newest sequence that made a block zero, 0 if none did, and up to where that is so. Once settled.
    pub fn zero_at(&self, lba: u64) -> (u64, u64) {
        let at = self.zeroes.partition_point(|(blocks, _)| blocks.end <= lba);
        match self.zeroes.get(at) {
            Some((blocks, sequence)) if blocks.start <= lba => (*sequence, blocks.end),
            Some((blocks, _)) => (0, blocks.start),
            None => (0, u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Random;

    const BLOCKS: u64 = 200;

    /// Random versions; some of the same sequence twice.
    fn versions(seed: u64) -> Vec<(Range<u64>, Version)> {
        let mut random = Random::from_seed(seed);
        let mut all = Vec::new();
        for _ in 0..400 {
            let (lba, sequence) = (random.below(BLOCKS), 1 + random.below(300));
            let is_zero = random.below(3) == 0;
            let end = if is_zero { (lba + 1 + random.below(60)).min(BLOCKS) } else { lba + 1 };
            let place = if is_zero { Place::Zero } else { Place::At(sequence * 4096 + lba) };
            all.push((lba..end, Version { sequence, checksum: Some(0), place }));
        }
        all
    }

    #[test]
    fn the_newest_wins_in_parts_of_any_size() {
        for (seed, limit) in (0..60).zip([4, 16, 60, 10_000].into_iter().cycle()) {
            let all = versions(seed);
            let (mut next, mut parts) = (0, 0);
            while next < BLOCKS {
                let mut canvas = Canvas::new(next..BLOCKS, limit, false);
                for (blocks, version) in &all {
                    match version.place {
                        Place::Zero => canvas.put_zeroes(blocks.clone(), version.sequence),
                        _ => canvas.put(blocks.start, *version),
                    }
                    let held = canvas.data.len() + canvas.zeroes.len();
                    assert!(held <= limit + 1 || canvas.part.end - canvas.part.start == 1);
                }
                canvas.settle();
                for lba in canvas.part.clone() {
                    let of_block = all.iter().filter(|(blocks, _)| blocks.contains(&lba));
                    let newest = |zero: bool| {
                        of_block
                            .clone()
                            .filter(move |(_, one)| (one.place == Place::Zero) == zero)
                            .map(|one| one.1.sequence)
                    };
                    let (zero, end) = canvas.zero_at(lba);
                    assert_eq!(zero, newest(true).max().unwrap_or(0), "seed {seed}, block {lba}");
                    assert!(end > lba);
                    let held = canvas.next_data(lba).filter(|(at, _)| *at == lba).map(|(_, held)| *held);
                    let mut sequences: Vec<u64> = newest(false).collect();
                    sequences.sort_unstable();
                    sequences.dedup();
                    assert_eq!(
                        held.map(|held| held.newest.sequence),
                        sequences.pop(),
                        "seed {seed}, block {lba}"
                    );
                    let older = held.and_then(|held| held.older).map(|older| older.sequence);
                    assert_eq!(older, sequences.pop(), "seed {seed}, block {lba}");
                }
                assert!(canvas.part.end > next);
                next = canvas.part.end;
                parts += 1;
            }
            assert!((parts == 1) == (limit == 10_000), "seed {seed}: {parts} parts");
        }
    }
}
