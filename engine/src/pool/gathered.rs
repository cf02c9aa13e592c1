//! Rows that share segments, gathered in one row for each segment.
//!
//! Emptying moves live blocks and keeps their names: where blocks live long, many rows come to share a segment, each
//! with a few of its blocks. The metadata has room for so many rows only. So from time to time the index is merged
//! with new names: what lies in block b of a segment becomes slot b of one new row. No block is copied.
//!
//! Invariant: an old name and the new one stand for the same block of the same segment.

use std::collections::BTreeMap;

use super::metadata::{Metadata, SegmentRow};
use crate::format::journal::Change;

/// What is gathered, and in what.
#[derive(Debug)]
pub struct Gathered {
    /// The old rows, as they were.
    rows: BTreeMap<u32, SegmentRow>,
    /// The number of the new row of each segment.
    numbers: BTreeMap<u32, u32>,
    segment_blocks: u32,
}

impl Gathered {
    /// These rows, and all others that lie in their segments, are to be gathered.
    pub fn new(state: &Metadata, rows: impl Iterator<Item = u32>) -> Self {
        let rows: BTreeMap<u32, SegmentRow> =
            rows.filter_map(|number| Some((number, state.rows.get(&number)?.clone()))).collect();
        let mut numbers = BTreeMap::new();
        for physical in rows.values().flat_map(SegmentRow::segments) {
            let next = state.next_gathered() + numbers.len() as u32;
            numbers.entry(physical).or_insert(next);
        }
        Self { rows, numbers, segment_blocks: state.segment_blocks() }
    }

    /// The numbers of the old rows.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        self.rows.keys().copied()
    }

    /// The new name of a place. One that is not gathered keeps its name, and so does a slot that had died before its
    /// row was last moved.
    pub fn rename(&self, (number, slot): (u32, u32)) -> (u32, u32) {
        let place = self.rows.get(&number).and_then(|row| row.place(slot, self.segment_blocks));
        place.map_or((number, slot), |(physical, block)| (self.numbers[&physical], block))
    }

    /// The changes that put the new rows in the place of the old ones, as these are now. `news`: what else the journal
    /// is about to learn of rows.
    pub fn changes(&self, state: &Metadata, news: Vec<Change>) -> Vec<Change> {
        let is_other = |change: &Change| match change {
            Change::Row(row, ..) => !self.rows.contains_key(&row.virtual_segment.get()),
            Change::Dead(number, _) | Change::RowRemoved(number) => !self.rows.contains_key(number),
            _ => true,
        };
        let other = news.into_iter().filter(is_other);
        let blocks = self.segment_blocks;
        let mut made: BTreeMap<u32, SegmentRow> = BTreeMap::new();
        // As old as its blocks are on an average.
        let mut written: BTreeMap<u32, u128> = BTreeMap::new();
        let still = || self.rows.keys().filter_map(|number| Some((*number, state.rows.get(number)?)));
        for (_, row) in still() {
            for slot in row.live() {
                let Some((physical, block)) = row.place(slot, blocks) else { continue };
                let empty = || SegmentRow::gathered(physical, blocks, blocks, 0);
                made.entry(self.numbers[&physical]).or_insert_with(empty).revive(block);
                *written.entry(self.numbers[&physical]).or_default() += u128::from(row.written);
            }
        }
        for (number, row) in &mut made {
            row.written = (written[number] / u128::from(row.live_slots())) as u64;
        }
        let made = made.iter().map(|(number, row)| row.change(*number));
        // The new ones first: so the record itself shows what lived in the old ones.
        other.chain(made).chain(still().map(|(number, _)| Change::RowRemoved(number))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::journal::Lease;

    #[test]
    fn new_names_stand_for_the_same_blocks() {
        let mut state = Metadata::new(8, 128);
        for number in 0..3_u32 {
            let lease = Lease { physical: number.into(), virtual_segment: number.into() };
            state.apply(&Change::Lease(lease)).unwrap();
            let row = state.rows.get_mut(&number).unwrap();
            [1, 60, 64, 127].into_iter().for_each(|slot| {
                row.revive(slot + number * (slot % 2) - 2 * u32::from(slot + number * (slot % 2) > 127))
            });
        }
        // The second one lies in two segments; the third one shares the later of these.
        for (number, physical, first, continued) in [(0, 5, 0, None), (1, 5, 126, Some(6)), (2, 6, 2, None)] {
            let moved = state.rows[&number].moved(physical, first, continued);
            state.apply(&moved.change(number)).unwrap();
        }
        let gathered = Gathered::new(&state, 0..3);
        let mut places = BTreeMap::new();
        for (number, row) in &state.rows {
            places.extend(row.live().map(|slot| ((*number, slot), row.place(slot, 128).unwrap())));
        }
        assert_eq!(places.len(), 12);
        // One more dies after the names were made.
        state.rows.get_mut(&2).unwrap().kill(64);
        let changes = gathered.changes(&state, vec![Change::Dead(2, vec![64]), Change::Watermark(9)]);
        assert_eq!(changes[0], Change::Watermark(9), "news of others are told");
        changes.iter().for_each(|change| state.apply(change).unwrap());
        assert_eq!(state.rows.len(), 2);
        for (old, place) in places {
            let (number, slot) = gathered.rename(old);
            assert_eq!(state.rows[&number].place(slot, 128), Some(place));
            assert_eq!(state.rows[&number].is_live(slot), old != (2, 64));
        }
        assert_eq!(gathered.rename((7, 1)), (7, 1));
    }
}
