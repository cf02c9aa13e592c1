//! Rows: where a virtual segment lies and which of its slots live, how a record may change that, and that the rows of a
//! state fit together: every segment is leased, holds one row as the log wrote it, or moved rows side by side.
//!
//! Place: part of [`State`]; what contradicts it is told as a text.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::shape::Shape;
use super::state::{Judged, State, require};
use super::{Checker, Code, Place};
use crate::format::journal::Row;

/// A row, as the device has it.
#[derive(Clone, Debug)]
pub(super) struct RowState {
    pub physical: u32,
    pub continued: Option<u32>,
    pub first_block: u32,
    pub live: Vec<u64>,
    /// In a moved row.
    pub present: Option<Vec<u64>>,
    /// In an extent of a linear object: the slots that have been used.
    pub used: Option<Vec<u64>>,
}

pub(super) fn count(words: &[u64]) -> u32 {
    words.iter().map(|word| word.count_ones()).sum()
}

fn is_subset(part: &[u64], whole: &[u64]) -> bool {
    part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| part & !whole == 0)
}

/// The bits that a bitmap has.
pub(super) fn ones(words: &[u64]) -> impl Iterator<Item = u32> {
    words.iter().enumerate().flat_map(|(index, word)| {
        let mut rest = *word;
        std::iter::from_fn(move || {
            let place = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            Some(index as u32 * 64 + place)
        })
    })
}

impl RowState {
    /// The blocks of a segment where slots of this row live.
    fn live_in(&self, physical: u32, segment_blocks: u32) -> impl Iterator<Item = u32> {
        let blocks = (self.first_block..).zip(self.present.as_deref().into_iter().flat_map(ones));
        let of_log = self.present.is_none().then(|| ones(&self.live)).into_iter().flatten();
        let moved = blocks.filter(|(_, slot)| super::bit(&self.live, *slot)).map(|(block, _)| block);
        let place = move |block| self.place(block, segment_blocks);
        of_log.chain(moved).map(place).filter(move |(at, _)| *at == physical).map(|(_, block)| block)
    }

    /// The segment where a block of it lies, and which one of that: what passes the end goes on in the next.
    pub fn place(&self, block: u32, segment_blocks: u32) -> (u32, u32) {
        match self.continued {
            Some(continued) if block >= segment_blocks => (continued, block - segment_blocks),
            _ => (self.physical, block),
        }
    }

    pub fn segments(&self) -> impl Iterator<Item = u32> + use<> {
        [self.physical].into_iter().chain(self.continued)
    }
}

impl State {
    fn row(&self, row: &Row, live: &[u64], second: &[u64]) -> Judged<RowState> {
        let room = self.segment_blocks;
        require(row.slots.get() == room, "a row has not as many slots as a segment has blocks")?;
        let continued = Some(row.continued.get()).filter(|continued| *continued != u32::MAX);
        let made = RowState {
            physical: row.physical.get(),
            continued,
            first_block: row.first_block.get(),
            live: live.to_vec(),
            present: (row.identity.get() == 0).then(|| second.to_vec()),
            used: (row.identity.get() == 2).then(|| second.to_vec()),
        };
        require(made.segments().all(|physical| physical < self.segments), "a row lies in no segment")?;
        require(continued != Some(made.physical), "a row goes on where it begins")?;
        let stray = |words: &[u64]| {
            words.last().is_some_and(|last| !room.is_multiple_of(64) && last >> (room % 64) != 0)
        };
        require(!stray(live) && !stray(second), "a row has slots beyond its last")?;
        let used = match &made.present {
            None => {
                let of_object = made.used.as_ref();
                require(
                    row.identity.get() == 1 || of_object.is_some(),
                    "a row is neither as written nor moved",
                )?;
                let was_used = of_object.is_none_or(|used| is_subset(live, used));
                require(was_used, "a slot lives that has not been used")?;
                require(made.first_block == 0, "a row as the log wrote it begins in the middle")?;
                room
            }
            Some(present) => {
                require(is_subset(live, present), "a slot lives that is not there")?;
                count(present)
            }
        };
        require(used > 0, "a moved row holds nothing")?;
        require(made.first_block < room, "a row begins behind its segment")?;
        let end = u64::from(made.first_block) + u64::from(used);
        require(end <= 2 * u64::from(room), "a row does not fit its segments")?;
        require((end > room.into()) == continued.is_some(), "a row goes on, or should, and does not fit")?;
        let written = row.written.get() <= self.checkpoint.sequence.get();
        require(written, "a row was written later than the checkpoint")?;
        require(!self.shape.linear || made.present.is_none(), "a row has moved, and none does here")?;
        let number = row.virtual_segment.get();
        let (is_extent, is_object) = (self.shape.is_extent(number), self.shape.is_object(number));
        require(
            is_object == made.used.is_some(),
            "a row is of a linear object, or not, and its number is not",
        )?;
        let is_of_log = !is_extent && !is_object;
        let may_lie_there = |physical| match is_extent || is_object {
            true => self.shape.is_for_home(physical),
            false => self.shape.is_for_log(physical),
        };
        require(made.segments().all(may_lie_there), "a row lies on the other device")?;
        require(is_of_log || row.written.get() == 0, "the log has written an extent")?;
        Ok(made)
    }

    fn is_of_lease(&self, number: u32, row: &RowState) -> bool {
        let at = number.checked_sub(*self.leased().start());
        let lease = at.and_then(|at| self.leases.get(at as usize));
        lease.is_none_or(|lease| lease.physical.get() == row.physical && row.present.is_none())
    }

    pub(super) fn put(&mut self, number: u32, row: RowState) {
        if let Some(before) = self.rows.remove(&number) {
            self.leave(number, &before);
        }
        for physical in row.segments() {
            self.users.entry(physical).or_default().insert(number);
        }
        self.rows.insert(number, row);
    }

    /// The segments of a range that rows lie in, and which.
    pub fn users_of(&self, segments: std::ops::Range<u32>) -> impl Iterator<Item = (u32, &BTreeSet<u32>)> {
        self.users.range(segments).map(|(physical, rows)| (*physical, rows))
    }

    /// A row does not lie in its segments any more.
    pub(super) fn leave(&mut self, number: u32, row: &RowState) {
        for physical in row.segments() {
            if let Entry::Occupied(mut users) = self.users.entry(physical) {
                users.get_mut().remove(&number);
                if users.get().is_empty() {
                    users.remove();
                }
            }
        }
    }

    pub(super) fn image_row(&mut self, row: &Row, live: &[u64], present: &[u64]) -> Judged {
        let number = row.virtual_segment.get();
        let made = self.row(row, live, present)?;
        // Which objects there are stands further on.
        if self.shape.is_gathered(number) || self.shape.is_object(number) {
            let is_moved = made.present.is_some() || made.used.is_some();
            require(is_moved, "a row that others were gathered in is as the log writes one")?;
            require(!self.rows.contains_key(&number), "a segment has two rows")?;
            self.put(number, made);
            return Ok(());
        }
        if !self.shape.is_of_log(number) {
            return self.new_extent(number, made);
        }
        let last = self.leases.back().ok_or("nothing is leased")?.virtual_segment.get();
        require(number <= last, "a row has a number that was never leased")?;
        let first = self.leases[0].virtual_segment.get();
        let is_new = number < first && !self.rows.contains_key(&number);
        require(is_new || number >= first, "a segment has two rows")?;
        require(self.is_of_lease(number, &made), "a leased segment's row lies elsewhere")?;
        self.put(number, made);
        Ok(())
    }

    pub(super) fn changed_row(
        &mut self,
        row: &Row,
        live: &[u64],
        present: &[u64],
        leased: &RangeInclusive<u32>,
    ) -> Judged {
        let number = row.virtual_segment.get();
        let made = self.row(row, live, present)?;
        if self.shape.is_object(number) {
            return self.object_row(number, made);
        }
        let is_extent = self.shape.is_extent(number);
        let Some(before) = self.rows.get(&number) else {
            if self.shape.is_gathered(number) {
                return self.gathered_row(number, made);
            }
            require(is_extent, "it changes a row that is not there")?;
            require(count(live) == 0, "an extent holds something before it is written")?;
            return self.new_extent(number, made);
        };
        let is_leased = leased.contains(&number) || is_extent;
        require(is_leased || is_subset(live, &before.live), "a dead slot lives again")?;
        let stays = made.physical == before.physical && made.first_block == before.first_block;
        if stays {
            require(
                made.present == before.present && made.continued == before.continued,
                "a row changes in its place",
            )?;
        } else {
            let present = made.present.as_ref().ok_or("a row as written has moved")?;
            // What died while it was copied may have been told before the move.
            let was_there = before.present.as_ref().is_none_or(|before| is_subset(present, before));
            require(!is_leased && was_there, "a moved row holds what was not there")?;
        }
        self.put(number, made);
        Ok(())
    }

    /// Rows that share a segment are gathered in a new one, whose slots are the blocks of the segment; they go with
    /// the same record.
    pub(super) fn gathered_row(&mut self, number: u32, made: RowState) -> Judged {
        let whole = made.first_block == 0 && made.present.as_deref().map(count) == Some(self.segment_blocks);
        require(whole, "a row that others are gathered in is not a whole segment")?;
        let users = self.users.get(&made.physical).into_iter().flatten();
        let rows = || users.clone().filter_map(|number| self.rows.get(number));
        let words = |row: &RowState| (row.live.len() + row.present.as_ref().map_or(0, Vec::len)) as u64;
        let left = self.gathering.checked_sub(rows().map(words).sum());
        self.gathering = left.ok_or("more rows are gathered than there is room for")?;
        let lived: BTreeSet<u32> =
            rows().flat_map(|row| row.live_in(made.physical, self.segment_blocks)).collect();
        require(ones(&made.live).all(|block| lived.contains(&block)), "a dead slot lives again")?;
        self.put(number, made);
        Ok(())
    }

    /// Space is taken for an extent of the linear volume.
    pub(super) fn new_extent(&mut self, number: u32, row: RowState) -> Judged {
        require(self.shape.is_extent(number), "a row has the number of no extent")?;
        require(!self.users.contains_key(&row.physical), "an extent takes a segment that is in use")?;
        require(!self.rows.contains_key(&number), "an extent has two rows")?;
        self.put(number, row);
        Ok(())
    }

    /// With a linear volume, segments come free empty, those of the log behind the cursor alone, and extents only
    /// where they are taken as they are needed.
    pub(super) fn may_be_removed(&self, number: u32, row: &RowState) -> Judged {
        let (is_object, is_empty) = (self.shape.is_object(number), count(&row.live) == 0);
        require(is_empty || !(self.shape.linear || is_object), "a row is removed whose blocks live")?;
        if !self.shape.linear {
            return Ok(());
        }
        match self.shape.is_of_log(number) {
            true => {
                require(number < self.applied.virtual_segment.get(), "what has not been applied is removed")
            }
            false => require(self.shape.thin, "an extent is given up, and the volume is not thin"),
        }
    }

    pub(super) fn dead(&mut self, number: u32, slots: &[u16]) -> Judged {
        let row = self.rows.get_mut(&number).ok_or("slots die in a row that is not there")?;
        let mut seen = BTreeSet::new();
        for slot in slots {
            let slot = u32::from(*slot);
            // It may have died before the row moved, and not be there any more.
            require(slot < self.segment_blocks && seen.insert(slot), "a slot dies that is none, or twice")?;
            row.live[slot as usize / 64] &= !(1 << (slot % 64));
        }
        Ok(())
    }
}

/// Blocks of a segment that a row takes: where from, how many, which row.
type Taken = (u32, u32, u32);

/// Whether rows and leases share no block, and runs lie behind the log's checkpoint.
pub(super) fn check(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> bool {
    let before = checker.report.damage;
    let mut taken: BTreeMap<u32, Vec<Taken>> = BTreeMap::new();
    for (number, row) in &state.rows {
        let room = shape.segment_blocks;
        let blocks = row.present.as_ref().map_or(room, |present| count(present));
        let here = blocks.min(room - row.first_block);
        taken.entry(row.physical).or_default().push((row.first_block, here, *number));
        if let Some(continued) = row.continued {
            taken.entry(continued).or_default().push((0, blocks - here, *number));
        }
    }
    for (physical, rows) in &mut taken {
        rows.sort_unstable();
        for pair in rows.windows(2) {
            let ((first, blocks, one), (next, _, other)) = (pair[0], pair[1]);
            if first + blocks > next {
                let text = format!("rows {one} and {other} lie in the same blocks of segment {physical}");
                checker.found(Code::State, Place::at(shape.address(*physical, next)), text);
            }
        }
    }
    for (physical, text) in state.shared_with_objects() {
        checker.found(Code::State, Place::at(shape.address(physical, 0)), text);
    }
    let last = state.checkpoint.sequence.get();
    for known in &state.runs {
        if known.run.last_sequence.get() > last {
            let text = format!("run {} ends behind the checkpoint at sequence {last}", known.run.run);
            let place = Place::default().sequence(known.run.last_sequence.get());
            checker.found(Code::State, place, text);
        }
    }
    checker.report.damage == before
}
