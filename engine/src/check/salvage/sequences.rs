//! Sets of sequences: which changes are accounted for.
//!
//! Invariant: at most [`RANGES_MAX`] ranges are kept. What would need one more is not taken in, and so counts as not
//! accounted for: that makes blocks uncertain, never certain.

use std::collections::BTreeMap;

const RANGES_MAX: usize = 1 << 20;

/// Ranges of sequences, first and last, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sequences(BTreeMap<u64, u64>);

impl Sequences {
    /// Adds what lies between the two, both included.
    pub fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.max(1), last);
        if first > last || self.last_from(first).is_some_and(|known| known >= last) {
            return;
        }
        if let Some((start, end)) = self.0.range(..first).next_back()
            && end.saturating_add(1) >= first
        {
            first = *start;
        }
        while let Some((start, end)) = self.0.range(first..=last.saturating_add(1)).next() {
            let (start, end) = (*start, *end);
            self.0.remove(&start);
            last = last.max(end);
        }
        if self.0.len() < RANGES_MAX {
            self.0.insert(first, last);
        }
    }

    /// The end of the range that a sequence lies in.
    pub fn last_from(&self, sequence: u64) -> Option<u64> {
        let (_, last) = self.0.range(..=sequence).next_back()?;
        (*last >= sequence).then_some(*last)
    }

    /// The highest one up to here.
    pub fn highest_to(&self, sequence: u64) -> u64 {
        self.0.range(..=sequence).next_back().map_or(0, |(_, last)| sequence.min(*last))
    }

    /// The highest sequence between the two that is missing; 0 if none is.
    pub fn highest_missing(&self, first: u64, last: u64) -> u64 {
        let missing = match self.0.range(..=last).next_back() {
            Some((start, end)) if *end >= last => start - 1,
            _ => last,
        };
        if missing >= first { missing } else { 0 }
    }

    /// How many between the two are missing.
    pub fn missing(&self, first: u64, last: u64) -> u64 {
        let (mut missing, mut at) = (0, last);
        while at >= first && at > 0 {
            match self.0.range(..=at).next_back() {
                Some((start, end)) if *end >= at => at = start - 1,
                before => {
                    let end = before.map_or(0, |(_, end)| *end).max(first - 1);
                    missing += at - end;
                    at = end;
                }
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Random;

    #[test]
    fn it_is_a_set() {
        const LAST: u64 = 60;
        for seed in 0..300 {
            let mut random = Random::from_seed(seed);
            let (mut set, mut model) = (Sequences::default(), [false; LAST as usize + 1]);
            for _ in 0..random.below(12) {
                let first = random.below(LAST);
                let last = (first + random.below(9)).min(LAST);
                set.insert(first, last);
                (first.max(1)..=last).for_each(|at| model[at as usize] = true);
            }
            let ends: Vec<(u64, u64)> = set.0.iter().map(|(first, last)| (*first, *last)).collect();
            assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "seed {seed}: {ends:?}");
            for first in 1..=LAST {
                let has = |at: &u64| model[*at as usize];
                let run = (first..=LAST).take_while(has).last();
                assert_eq!(set.last_from(first), run, "seed {seed}, {first}");
                assert_eq!(
                    set.highest_to(first),
                    (1..=first).rfind(has).unwrap_or(0),
                    "seed {seed}, {first}"
                );
                for last in first..=LAST {
                    let highest = (first..=last).rfind(|at| !has(at)).unwrap_or(0);
                    assert_eq!(set.highest_missing(first, last), highest, "seed {seed}, {first} to {last}");
                    let missing = (first..=last).filter(|at| !has(at)).count() as u64;
                    assert_eq!(set.missing(first, last), missing, "seed {seed}, {first} to {last}");
                }
            }
        }
    }
}
