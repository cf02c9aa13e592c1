//! Returns to earlier moments, and what each moment sees through them.
//!
//! Sequences go on after a return, so that every moment keeps its number. The entry at `at` says that the volume is
//! from there on what it was at `to`; the versions born between the two are *discarded*: moments between see them,
//! later ones do not. Nothing is copied and no index entry is written: whoever looks a version up passes over what
//! its moment does not see.
//!
//! A discarded version has died at the return that discarded it. A version that was superseded by a discarded one
//! lives again: its death is taken back.
//!
//! Invariants: a return goes to a moment that is not itself discarded, so that discarded ranges lie in each other
//! or apart.

use crate::format::journal::{self, Change};

/// A return to an earlier moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The sequence of the entry that says so.
    pub at: u64,
    /// The moment that it went back to.
    pub to: u64,
    /// The deaths of what it discarded have been noted.
    pub settled: bool,
}

impl Rollback {
    fn discards(&self, sequence: u64) -> bool {
        self.to < sequence && sequence < self.at
    }

    /// The change that tells the journal of it.
    pub fn change(&self) -> Change {
        let settled = u64::from(self.settled).into();
        Change::Rollback(journal::Rollback { at: self.at.into(), to: self.to.into(), settled })
    }

    /// Whether a version of these sequences lives again after it.
    pub fn revives(&self, birth: u64, death: u64) -> bool {
        birth <= self.to && self.discards(death)
    }
}

/// All returns of a volume, in order.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<Rollback>);

impl History {
    /// These returns, in order.
    pub fn new(rollbacks: Vec<Rollback>) -> Self {
        Self(rollbacks)
    }

    /// The returns, in order.
    pub fn rollbacks(&self) -> &[Rollback] {
        &self.0
    }

    /// The first return whose discarded versions may still count as living.
    pub fn unsettled(&self) -> Option<Rollback> {
        self.0.iter().find(|rollback| !rollback.settled).copied()
    }

    /// The volume has gone back once more.
    pub fn add(&mut self, rollback: Rollback) {
        self.0.push(rollback);
    }

    /// The deaths of what the return at `at` discarded have been noted.
    pub fn settle(&mut self, at: u64) {
        self.0.iter_mut().filter(|rollback| rollback.at == at).for_each(|rollback| rollback.settled = true);
    }

    /// The first return that discarded a version, if one did; `u64::MAX`: it is on the way to the current image.
    pub fn discarded_at(&self, sequence: u64) -> u64 {
        let first = self.0.partition_point(|rollback| rollback.at <= sequence);
        let discards = self.0[first..].iter().find(|rollback| rollback.discards(sequence));
        discards.map_or(u64::MAX, |rollback| rollback.at)
    }

    /// Whether the current image sees a version of this sequence, unless there is a newer one.
    pub fn is_current(&self, sequence: u64) -> bool {
        self.0.is_empty() || self.discarded_at(sequence) == u64::MAX
    }

    /// Whether a death has been taken back.
    pub fn revives(&self, birth: u64, death: u64) -> bool {
        self.0.iter().any(|rollback| rollback.revives(birth, death))
    }

    /// When a version died, if it did: it was discarded, or superseded by the first of the later ones of its block
    /// that was not discarded before it.
    pub fn death(&self, birth: u64, later: &[u64]) -> Option<u64> {
        let end = self.discarded_at(birth);
        let next = later.iter().copied().find(|next| self.discarded_at(*next) >= end);
        Some(next.map_or(end, |next| next.min(end))).filter(|death| *death != u64::MAX)
    }

    /// What a moment sees.
    pub fn line(&self, moment: u64) -> Line {
        let mut ranges = Vec::new();
        let mut last = moment;
        while let Some(rollback) = self.0[..self.0.partition_point(|rollback| rollback.at <= last)].last() {
            ranges.push((rollback.at, last));
            last = rollback.to;
        }
        ranges.push((0, last));
        Line(ranges)
    }
}

/// The sequences whose versions a moment sees, unless there are newer ones: ranges, newest first, each behind its
/// first number and up to its second one. What the volume was at first, of sequence 0, every moment sees.
#[derive(Clone, Debug)]
pub struct Line(Vec<(u64, u64)>);

impl Line {
    /// The last sequence of the line at or before this one.
    pub fn last_before(&self, sequence: u64) -> Option<u64> {
        let is_in = |range: &&(u64, u64)| range.0 < sequence.min(range.1) || range.0 == 0;
        let range = self.0.iter().find(is_in)?;
        Some(sequence.min(range.1))
    }

    /// The last sequence up to which two moments see the same.
    pub fn common(&self, other: &Line) -> u64 {
        let mut common = 0;
        for (one, other) in self.0.iter().rev().zip(other.0.iter().rev()) {
            if one.0 != other.0 {
                break;
            }
            common = one.1.min(other.1);
            if one.1 != other.1 {
                break;
            }
        }
        common
    }

    /// Whether the moment sees it.
    pub fn sees(&self, sequence: u64) -> bool {
        self.last_before(sequence) == Some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Random;

    fn rollback(at: u64, to: u64) -> Rollback {
        Rollback { at, to, settled: false }
    }

    #[test]
    fn a_moment_sees_what_was_not_discarded_before_it() {
        let history = History::new(vec![rollback(5, 3), rollback(9, 1)]);
        let seen = |moment| {
            let line = history.line(moment);
            (1..=12).filter(|sequence| line.sees(*sequence)).collect::<Vec<_>>()
        };
        assert_eq!(seen(4), [1, 2, 3, 4]);
        assert_eq!(seen(5), [1, 2, 3]);
        assert_eq!(seen(8), [1, 2, 3, 6, 7, 8]);
        assert_eq!(seen(9), [1]);
        assert_eq!(seen(11), [1, 10, 11]);
        let current: Vec<u64> = (1..=11).filter(|sequence| history.is_current(*sequence)).collect();
        assert_eq!(current, [1, 9, 10, 11]);
        assert_eq!((history.discarded_at(4), history.discarded_at(3)), (5, 9));
        assert!(history.revives(2, 4) && history.revives(1, 7) && !history.revives(2, 3));
        assert_eq!(history.line(0).last_before(7), Some(0));
        assert!(history.line(9).sees(0));
    }

    /// A block that each sequence writes: what the line of a moment leads to is what a plain replay says.
    #[test]
    fn lines_say_what_a_replay_says() {
        for seed in 0..300 {
            let random = &mut Random::from_seed(seed);
            let (mut history, mut content) = (History::default(), vec![0]);
            for sequence in 1..60 {
                let to = random.below(sequence);
                if random.chance(1, 8) && history.is_current(to) {
                    history.add(rollback(sequence, to));
                    content.push(content[to as usize]);
                } else {
                    content.push(sequence);
                }
            }
            let [one, other] = [random.below(60), random.below(60)].map(|moment| history.line(moment));
            let common = one.common(&other);
            assert!((1..=common).all(|sequence| one.sees(sequence) == other.sees(sequence)), "seed {seed}");
            for (moment, expected) in (0..).zip(&content) {
                let found = history.line(moment).last_before(moment).unwrap_or(0);
                assert_eq!(found, *expected, "seed {seed}, moment {moment}, {history:?}");
            }
        }
    }
}
