//! Puts records in order of time within a window, in memory that the window bounds.
//!
//! Invariant: what is taken out never has an earlier time than what was taken before; a record that would break this is
//! refused. Records of one time keep the order in which they came.
//!
//! Most traces are almost in order. A record that is not earlier than the latest one goes to the end of a queue; only
//! the others go into a heap. So a sorted trace costs no comparisons but one, and no order costs more than a heap does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::record::Record;

#[derive(Clone, Copy, Debug)]
struct Entry {
    record: Record,
    sequence: u64,
}

impl Entry {
    fn key(&self) -> (u64, u64) {
        (self.record.arrival_ns, self.sequence)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// The window.
#[derive(Debug)]
pub(super) struct Sorter {
    window_records: usize,
    in_order: VecDeque<Entry>,
    late: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    /// The time of what was taken last.
    taken_ns: u64,
    /// Records that did not come in order.
    late_count: u64,
}

impl Sorter {
    pub fn new(window_records: usize) -> Self {
        Self {
            window_records,
            in_order: VecDeque::new(),
            late: BinaryHeap::new(),
            sequence: 0,
            taken_ns: 0,
            late_count: 0,
        }
    }

    /// Takes a record in; `Err` is by how much it comes too late.
    #[inline]
    pub fn push(&mut self, record: Record) -> Result<(), u64> {
        if record.arrival_ns < self.taken_ns {
            return Err(self.taken_ns - record.arrival_ns);
        }
        let entry = Entry { record, sequence: self.sequence };
        self.sequence += 1;
        if self.in_order.back().is_none_or(|latest| latest.record.arrival_ns <= record.arrival_ns) {
            self.in_order.push_back(entry);
        } else {
            self.late_count += 1;
            self.late.push(Reverse(entry));
        }
        Ok(())
    }

    /// Whether the window is full, so that a record can be taken out.
    #[inline]
    pub fn full(&self) -> bool {
        self.in_order.len() + self.late.len() > self.window_records
    }

    /// The earliest record.
    #[inline]
    pub fn pop(&mut self) -> Option<Record> {
        let from_late = match (self.in_order.front(), self.late.peek()) {
            (Some(in_order), Some(Reverse(late))) => late < in_order,
            (None, Some(_)) => true,
            _ => false,
        };
        let entry =
            if from_late { self.late.pop().map(|Reverse(entry)| entry) } else { self.in_order.pop_front() }?;
        self.taken_ns = entry.record.arrival_ns;
        Some(entry.record)
    }

    pub fn late_count(&self) -> u64 {
        self.late_count
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;
    use crate::trace::RecordKind;

    fn record(time_ns: u64, offset: u64) -> Record {
        Record::new(time_ns, 0, RecordKind::Read, offset, 1)
    }

    fn sorted(window: usize, records: &[Record]) -> Result<Vec<Record>, usize> {
        let mut sorter = Sorter::new(window);
        let mut out = Vec::new();
        for (index, record) in records.iter().enumerate() {
            sorter.push(*record).map_err(|_| index)?;
            while sorter.full() {
                out.extend(sorter.pop());
            }
        }
        while let Some(record) = sorter.pop() {
            out.push(record);
        }
        Ok(out)
    }

    /// Against the sort of the standard library, which is stable too.
    #[test]
    fn what_is_displaced_within_the_window_comes_out_sorted() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for window in [1, 2, 7, 64] {
            // Blocks of the window's length in any order: nothing is displaced by more than the window.
            let mut records = Vec::new();
            for block in 0..50_u64 {
                for index in 0..window as u64 {
                    let within = random.next_u64() % window as u64;
                    records.push(record((block * window as u64 + within) / 2, block << 32 | index));
                }
            }
            let mut expected = records.clone();
            expected.sort_by_key(|record| record.arrival_ns);
            assert_eq!(sorted(window, &records), Ok(expected), "window {window}");
        }
    }

    /// A record that is overtaken by as many as the window holds can be put right; by one more, it cannot.
    #[test]
    fn the_window_is_exact() {
        for window in [1_usize, 5, 100] {
            let overtaken = |by: usize| {
                let mut records: Vec<_> = (0..by as u64).map(|index| record(10 + index, index)).collect();
                records.push(record(1, 0));
                records.push(record(1000, 0));
                sorted(window, &records).map(|sorted| sorted[0].arrival_ns)
            };
            assert_eq!(overtaken(window), Ok(1), "window {window}");
            assert_eq!(overtaken(window + 1), Err(window + 1), "window {window}");
        }
        assert_eq!(sorted(0, &[record(2, 0), record(1, 0)]), Err(1), "no window, no disorder");
        assert_eq!(sorted(0, &[record(2, 0), record(2, 1)]).map(|sorted| sorted.len()), Ok(2));
    }

    /// One time far ahead sends everything after it to the heap, and nothing goes wrong.
    #[test]
    fn a_time_far_ahead_comes_last() {
        let mut records = vec![record(u64::MAX, 9)];
        records.extend((0..90).map(|index| record(index, index)));
        let out = sorted(100, &records).expect("within the window");
        assert_eq!(out.last().map(|record| record.offset_bytes), Some(9));
        assert!(out.is_sorted_by_key(|record| record.arrival_ns));
    }
}
