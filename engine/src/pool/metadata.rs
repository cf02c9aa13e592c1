//! The metadata of a pool in memory: leases, rows, runs, marks; changed by journal records alone.
//!
//! A *row* says where a virtual segment lies and which of its slots live; index entries name (virtual segment,
//! slot), so that moving a segment's blocks rewrites its row and no entry. The segments that the log holds by
//! lease have rows from the moment of the lease, which the journal learns at the next checkpoint.
//!
//! The extents of a linear volume are rows too, numbered from [`HOME_FIRST`] on by their place in the volume: slot
//! n of extent e is block e × segment + n, for good. An extent has a row once space has been taken for it.
//!
//! Linear objects have rows too, with numbers from there on ([`super::objects`]).
//!
//! Invariants: a physical segment is free exactly when no lease, no row and no object names it; a virtual segment's number
//! is never used twice; [`Metadata::changes`] of a state, applied to nothing, makes the same state.

use std::collections::{BTreeMap, VecDeque};

use super::branches::{Branch, Branches, LEVELS_MAX, Origin};
use super::history::Rollback;
use super::objects::{Object, Objects};
use super::snapshots::{SNAPSHOTS_MIN, Snapshot, SnapshotLock, Snapshots};
use crate::format::journal::{self as format, Applied, Change, Checkpoint, Lease, Opening, Row, Run};

/// The first number of an extent of a linear volume.
pub const HOME_FIRST: u32 = 1 << 31;
/// The first number of a row that others were gathered in; smaller ones are segments that the log has written.
pub const GATHERED_FIRST: u32 = 1 << 30;
/// Rows that a pool has for each of its segments at most: blocks that live long keep the rows of many segments.
pub const ROWS_PER_SEGMENT: usize = 2;
/// Extents of a linear volume at most: the highest number of all stands for zeroes.
pub const EXTENTS_MAX: u64 = (u32::MAX - HOME_FIRST) as u64;
/// Returns to earlier moments that the metadata has room for.
pub const ROLLBACKS_MAX: usize = 128;
/// Everything is accepted by the base: it is not pinned.
pub const ALL_ACCEPTED: u64 = u64::MAX;

/// What a row says of the places of its slots.
const IDENTITY_MOVED: u32 = 0;
const IDENTITY_AS_WRITTEN: u32 = 1;
const IDENTITY_OF_OBJECT: u32 = 2;

/// Where a virtual segment lies and which of its slots live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// The segment of the data area.
    pub physical: u32,
    /// The segment where it goes on, if the first one ends before it.
    pub continued: Option<u32>,
    first_block: u32,
    slots: u32,
    /// The log's sequence when it was written or last moved.
    pub written: u64,
    live: Vec<u64>,
    /// The slots that are present, in a moved segment.
    present: Option<Vec<u64>>,
    /// The slots that have ever lived, in an extent of an object.
    used: Option<Vec<u64>>,
    live_slots: u32,
}

fn bit(words: &[u64], slot: u32) -> bool {
    words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
}

fn ones(words: &[u64]) -> impl Iterator<Item = u32> {
    words.iter().enumerate().flat_map(|(index, word)| {
        (0..64).filter(move |place| word >> place & 1 == 1).map(move |place| index as u32 * 64 + place)
    })
}

impl SegmentRow {
    /// An empty segment as the log is going to write it.
    pub fn of_log(physical: u32, slots: u32, written: u64) -> Self {
        let live = vec![0; (slots as usize).div_ceil(64)];
        let (present, used) = (None, None);
        Self { physical, continued: None, first_block: 0, slots, written, live, present, used, live_slots: 0 }
    }

    /// An extent of an object in which nothing has been placed.
    pub fn of_object(physical: u32, slots: u32) -> Self {
        let row = Self::of_log(physical, slots, 0);
        Self { used: Some(row.live.clone()), ..row }
    }

    /// Whether something has ever been placed in this slot of an object.
    pub fn is_used(&self, slot: u32) -> bool {
        self.used.as_ref().is_some_and(|used| bit(used, slot))
    }

    /// A row for everything that lies in the first `blocks` of a segment: slot n is block n. Nothing lives.
    pub fn gathered(physical: u32, blocks: u32, slots: u32, written: u64) -> Self {
        let mut row = Self::of_log(physical, slots, written);
        (0..blocks).for_each(|slot| row.revive(slot));
        let present = Some(std::mem::replace(&mut row.live, vec![0; (slots as usize).div_ceil(64)]));
        Self { present, live_slots: 0, ..row }
    }

    /// The live slots of this row at a new place, one after the other.
    pub fn moved(&self, physical: u32, first_block: u32, continued: Option<u32>) -> Self {
        let present = Some(self.live.clone());
        Self { physical, continued, first_block, present, ..self.clone() }
    }

    /// The segments that it lies in.
    pub fn segments(&self) -> impl Iterator<Item = u32> + use<> {
        [self.physical].into_iter().chain(self.continued)
    }

    /// Slots that live.
    pub fn live_slots(&self) -> u32 {
        self.live_slots
    }

    /// The numbers of the slots that live, in order.
    pub fn live(&self) -> impl Iterator<Item = u32> {
        ones(&self.live)
    }

    /// Whether a slot lives.
    pub fn is_live(&self, slot: u32) -> bool {
        bit(&self.live, slot)
    }

    /// Where a slot lies: the segment, and the block of it. `None` for a slot that is not there. `segment_blocks`:
    /// of each segment.
    pub fn place(&self, slot: u32, segment_blocks: u32) -> Option<(u32, u32)> {
        let block = self.first_block + self.position(slot)?;
        match self.continued {
            Some(continued) if block >= segment_blocks => Some((continued, block - segment_blocks)),
            _ => Some((self.physical, block)),
        }
    }

    fn position(&self, slot: u32) -> Option<u32> {
        let Some(present) = &self.present else {
            return (slot < self.slots).then_some(slot);
        };
        if !bit(present, slot) {
            return None;
        }
        let word = slot as usize / 64;
        let before: u32 = present[..word].iter().map(|word| word.count_ones()).sum();
        let within = (present[word] & ((1 << (slot % 64)) - 1)).count_ones();
        Some(before + within)
    }

    /// Marks slots as live.
    pub fn revive(&mut self, slot: u32) {
        let word = &mut self.live[slot as usize / 64];
        let mask = 1 << (slot % 64);
        if let Some(used) = &mut self.used {
            used[slot as usize / 64] |= mask;
        }
        self.live_slots += u32::from(*word & mask == 0);
        *word |= mask;
    }

    /// Marks a slot as dead. Whether it lived.
    pub fn kill(&mut self, slot: u32) -> bool {
        let Some(word) = self.live.get_mut(slot as usize / 64) else { return false };
        let mask = 1 << (slot % 64);
        let lived = *word & mask != 0;
        *word &= !mask;
        self.live_slots -= u32::from(lived);
        lived
    }

    /// The change that makes this row.
    pub fn change(&self, virtual_segment: u32) -> Change {
        let row = Row {
            virtual_segment: virtual_segment.into(),
            physical: self.physical.into(),
            first_block: self.first_block.into(),
            slots: self.slots.into(),
            identity: match (&self.present, &self.used) {
                (Some(_), _) => IDENTITY_MOVED.into(),
                (None, None) => IDENTITY_AS_WRITTEN.into(),
                (None, Some(_)) => IDENTITY_OF_OBJECT.into(),
            },
            continued: self.continued.unwrap_or(u32::MAX).into(),
            written: self.written.into(),
        };
        let second = self.present.as_ref().or(self.used.as_ref());
        Change::Row(row, self.live.clone(), second.cloned().unwrap_or_default())
    }

    fn from_change(row: &Row, live: Vec<u64>, second: Vec<u64>) -> Option<Self> {
        let live_slots = live.iter().map(|word| word.count_ones()).sum();
        let slots = row.slots.get();
        if ones(&live).any(|slot| slot >= slots || (!second.is_empty() && !bit(&second, slot))) {
            return None;
        }
        let (present, used) = match row.identity.get() {
            IDENTITY_MOVED => (Some(second), None),
            IDENTITY_OF_OBJECT => (None, Some(second)),
            _ => (None, None),
        };
        Some(Self {
            physical: row.physical.get(),
            continued: Some(row.continued.get()).filter(|continued| *continued != u32::MAX),
            first_block: row.first_block.get(),
            slots,
            written: row.written.get(),
            live,
            present,
            used,
            live_slots,
        })
    }
}

/// A run of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// Its numbers.
    pub run: Run,
    /// First page and pages of each piece.
    pub extents: Vec<(u32, u32)>,
}

/// Everything that the journal keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Openings whose batches the log may still hold, oldest first.
    pub openings: Vec<Opening>,
    /// Segments of the log, in the order in which it fills them.
    pub leases: VecDeque<Lease>,
    /// Where the log is read from at open.
    pub checkpoint: Checkpoint,
    /// By virtual segment.
    pub rows: BTreeMap<u32, SegmentRow>,
    /// Oldest first.
    pub runs: Vec<RunInfo>,
    /// Everything up to this sequence is known to be durable.
    pub watermark: u64,
    /// The earliest moment that can be opened.
    pub window: u64,
    /// Where applying to a linear volume stands.
    pub applied: Applied,
    /// The last sequence that may be applied; [`ALL_ACCEPTED`] if the base is not pinned.
    pub accepted: u64,
    /// Returns to earlier moments that runs hold what is to be known of.
    pub rollbacks: Vec<Rollback>,
    /// Named moments.
    pub snapshots: Snapshots,
    /// Writable snapshots.
    pub branches: Branches,
    /// Linear objects.
    pub objects: Objects,
    names_max: usize,
    next_virtual: u32,
    next_gathered: u32,
    next_run: u64,
    /// Leases, rows and objects that name each physical segment.
    users: Vec<u32>,
    /// Segments that have none.
    free: u32,
    segment_blocks: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// A moment.
    Snapshot(&'a Snapshot),
    /// A writable snapshot.
    Branch(&'a Branch),
}

impl Metadata {
    /// Nothing, in a data area of so many segments.
    pub fn new(segments: u32, segment_blocks: u32) -> Self {
        let users = vec![0; segments as usize];
        let accepted = ALL_ACCEPTED;
        let next_gathered = GATHERED_FIRST;
        let names_max = SNAPSHOTS_MIN as usize;
        Self { users, free: segments, segment_blocks, accepted, next_gathered, names_max, ..Self::default() }
    }

    /// The same, with room for so many named moments.
    #[must_use]
    pub fn with_room_for(self, snapshots_max: u32) -> Self {
        Self { names_max: snapshots_max as usize, ..self }
    }

    /// Named moments that there is room for.
    pub fn names_max(&self) -> usize {
        self.names_max
    }

    /// Blocks of a segment.
    pub fn segment_blocks(&self) -> u32 {
        self.segment_blocks
    }

    /// Segments of the data area.
    pub fn segments(&self) -> u32 {
        self.users.len() as u32
    }

    /// Segments that nothing uses.
    pub fn free_segments(&self) -> u32 {
        self.free
    }

    /// Free segments after `after`, in order, round and round.
    pub fn free_after(&self, after: u32) -> impl Iterator<Item = u32> {
        let segments = self.segments();
        (1..=segments).map(move |step| (after + step) % segments).filter(|at| self.users[*at as usize] == 0)
    }

    /// Numbers for the next virtual segments: a pool has so many in its life.
    pub fn next_virtual(&self) -> std::ops::Range<u32> {
        self.next_virtual..GATHERED_FIRST
    }

    /// A number for the next row that others are gathered in.
    pub fn next_gathered(&self) -> u32 {
        self.next_gathered
    }

    /// Whether rows have become so many that those which share a segment are to be gathered in one.
    pub fn has_many_rows(&self) -> bool {
        self.rows.len() * 2 > self.users.len() * 3 && self.can_gather()
    }

    /// Whether there are numbers left for gathering.
    pub fn can_gather(&self) -> bool {
        (HOME_FIRST - self.next_gathered) as usize > self.users.len()
    }

    /// Rows for which the journal still has room.
    pub fn rows_left(&self) -> usize {
        (self.users.len() * ROWS_PER_SEGMENT).saturating_sub(self.rows.len())
    }

    /// A number for the next run.
    pub fn next_run(&self) -> u64 {
        self.next_run
    }

    /// The rows of the linear volume's extents.
    pub fn home_rows(&self) -> impl Iterator<Item = (&u32, &SegmentRow)> {
        self.rows.range(HOME_FIRST..)
    }

    /// The volume that a branch is, or is a moment of, or that began as one of those, and so on: its number, 0 for the
    /// pool's own, and its size unless it is that one. None where a branch has lost what it began as.
    pub fn volume_of(&self, branch: u32) -> Option<(u32, Option<u64>)> {
        let mut at = branch;
        // Whatever the device says, it comes to an end.
        for _ in 0..=self.branches.len() {
            if at == 0 {
                return Some((0, None));
            }
            match self.branches.get(at)?.origin {
                Origin::Volume { size_bytes, .. } => return Some((at, Some(size_bytes))),
                Origin::Snapshot(parent) => at = self.snapshots.get(parent)?.branch,
            }
        }
        None
    }

    /// How many writable snapshots there are one below the other, from this branch up; `None` where they are more than
    /// [`LEVELS_MAX`], or where one began as itself.
    pub fn levels(&self, mut branch: u32) -> Option<usize> {
        for levels in 0..=LEVELS_MAX {
            let parent = self.branches.get(branch).and_then(Branch::parent);
            match parent.and_then(|parent| self.snapshots.get(parent)) {
                Some(parent) => branch = parent.branch,
                None => return Some(levels),
            }
        }
        None
    }

    /// Snapshots and writable snapshots, those that have been given up among them.
    pub fn names(&self) -> usize {
        self.snapshots.len() + self.branches.len()
    }

    /// The snapshot or writable snapshot of this name, if there is one.
    pub fn named(&self, name: &str) -> Option<Named<'_>> {
        let snapshot = self.snapshots.named(name).map(Named::Snapshot);
        snapshot.or_else(|| self.branches.named(name).map(Named::Branch))
    }

    /// Blocks that live.
    pub fn live_blocks(&self) -> u64 {
        self.rows.values().map(|row| u64::from(row.live_slots)).sum()
    }

    /// Blocks that live in segments that the log has written.
    pub fn mapped_blocks(&self) -> u64 {
        self.rows.range(..HOME_FIRST).map(|(_, row)| u64::from(row.live_slots)).sum()
    }

    /// Applies one change; `None` where it contradicts the state, which then is of no use any more.
    pub fn apply(&mut self, change: &Change) -> Option<()> {
        match change {
            Change::Opening(opening) => self.openings.push(*opening),
            Change::Lease(lease) => {
                let (physical, number) = (lease.physical.get(), lease.virtual_segment.get());
                if number >= GATHERED_FIRST {
                    return None;
                }
                self.next_virtual = self.next_virtual.max(number + 1);
                self.take(physical)?;
                self.leases.push_back(*lease);
                let row = SegmentRow::of_log(physical, self.segment_blocks, self.checkpoint.sequence.get());
                self.insert(number, row)?;
            }
            Change::Checkpoint(checkpoint) => {
                for _ in 0..checkpoint.released.get() {
                    let lease = self.leases.pop_front()?;
                    self.leave(lease.physical.get());
                }
                self.checkpoint = *checkpoint;
                self.checkpoint.released = 0.into();
                let current = self.openings.iter().rposition(|o| o.first_batch <= checkpoint.batch)?;
                self.openings.drain(..current);
            }
            Change::Row(row, live, present) => {
                let number = row.virtual_segment.get();
                if number < GATHERED_FIRST {
                    self.next_virtual = self.next_virtual.max(number + 1);
                } else if number < HOME_FIRST {
                    self.next_gathered = self.next_gathered.max(number + 1);
                }
                let row = SegmentRow::from_change(row, live.clone(), present.clone())?;
                let end = u64::from(row.first_block)
                    + row.present.as_ref().map_or(row.slots.into(), |present| {
                        present.iter().map(|word| u64::from(word.count_ones())).sum::<u64>()
                    });
                let room = u64::from(self.segment_blocks) * row.segments().count() as u64;
                if end > room || row.first_block >= self.segment_blocks || row.slots != self.segment_blocks {
                    return None;
                }
                self.remove(number);
                self.insert(number, row)?;
            }
            Change::RowRemoved(number) => self.remove(*number)?,
            Change::Dead(number, slots) => {
                let row = self.rows.get_mut(number)?;
                for slot in slots {
                    row.kill(u32::from(*slot));
                }
            }
            Change::Run(run, extents) => {
                self.next_run = self.next_run.max(run.run.get().checked_add(1)?);
                self.runs.push(RunInfo { run: *run, extents: extents.clone() });
                self.runs.sort_by_key(|info| info.run.order);
            }
            Change::RunRemoved(number) => {
                let at = self.runs.iter().position(|info| info.run.run == *number)?;
                self.runs.remove(at);
            }
            Change::Watermark(sequence) => self.watermark = *sequence,
            // A merge names the window of its beginning; a checkpoint may have passed it meanwhile.
            Change::Window(sequence) => self.window = self.window.max(*sequence),
            Change::Applied(applied) => self.applied = *applied,
            Change::Accepted(sequence) => self.accepted = *sequence,
            Change::Rollback(body) => self.rolled_back(body)?,
            Change::Snapshot(body, name, group) => {
                let snapshot = Snapshot::from_change(body, name, *group)?;
                let branch = snapshot.branch;
                self.snapshots.insert(snapshot);
                self.levels(branch)?;
                if self.names() > self.names_max {
                    return None;
                }
            }
            Change::SnapshotRemoved(number) => drop(self.snapshots.remove(*number)?),
            Change::SnapshotLock(lock) => self.snapshots.lock(lock)?,
            Change::Branch(body, name) => {
                let branch = Branch::from_change(body, name)?;
                let has_parent = branch.given_up || self.snapshots.get(body.parent.get()).is_some();
                let number = branch.number;
                self.branches.insert(branch);
                self.levels(number)?;
                if !has_parent || self.names() > self.names_max {
                    return None;
                }
            }
            Change::Volume(body, name) => {
                self.branches.insert(Branch::from_volume(body, name)?);
                if self.names() > self.names_max {
                    return None;
                }
            }
            Change::BranchRemoved(number) => drop(self.branches.remove(*number)?),
            Change::Object(body, runs) => self.object(&Object::from_change(body, runs)?)?,
        }
        Some(())
    }

    /// An object is taken or, where it names no segments, given back.
    fn object(&mut self, object: &Object) -> Option<()> {
        if object.runs.is_empty() {
            let has_rows = self.rows.range(object.first..object.end()).next().is_some();
            let gone = self.objects.remove(object);
            gone.iter().flat_map(Object::segments).for_each(|physical| self.leave(physical));
            return (!has_rows).then_some(());
        }
        object.segments().try_for_each(|physical| self.take(physical))?;
        self.objects.insert(object.clone())
    }

    /// The row of an extent of an object, made where it is not there; `None` where there is no such object any more.
    pub fn object_row(&mut self, number: u32) -> Option<&mut SegmentRow> {
        if !self.rows.contains_key(&number) {
            let physical = self.objects.of_extent(number)?.segment(number)?;
            self.insert(number, SegmentRow::of_object(physical, self.segment_blocks))?;
        }
        self.rows.get_mut(&number)
    }

    /// Segments that objects have.
    pub fn object_segments(&self) -> u64 {
        self.objects.values().map(|object| u64::from(object.extents)).sum()
    }

    /// As [`Metadata::apply`], for a change that this process has just made durable: slots may have come to life
    /// or died since it was written down, and a row keeps what it knows of them.
    pub fn apply_own(&mut self, change: &Change) {
        // These slots died here first, and a block may have come home to one of them meanwhile.
        if let Change::Dead(..) = change {
            return;
        }
        let known = match change {
            Change::Row(row, ..) => self.rows.get(&row.virtual_segment.get()).cloned(),
            _ => None,
        };
        let applied = self.apply(change);
        assert!(applied.is_some(), "a change that this process made fits the state");
        let (Some(known), Change::Row(row, ..)) = (known, change) else { return };
        let Some(now) = self.rows.get_mut(&row.virtual_segment.get()) else { return };
        if now.physical == known.physical && now.first_block == known.first_block {
            *now = known;
        } else {
            let died: Vec<u32> = now.live().filter(|slot| !known.is_live(*slot)).collect();
            died.into_iter().for_each(|slot| {
                now.kill(slot);
            });
        }
    }

    fn rolled_back(&mut self, body: &format::Rollback) -> Option<()> {
        let (at, to) = (body.at.get(), body.to.get());
        let rollback = Rollback { at, to, settled: body.settled.get() == 1 };
        let last = self.rollbacks.last().map_or(0, |last| last.at);
        if at > last {
            let has_room = to < at && self.rollbacks.len() < ROLLBACKS_MAX;
            return has_room.then(|| self.rollbacks.push(rollback));
        }
        let known = self.rollbacks.iter_mut().find(|known| (known.at, known.to) == (at, to))?;
        *known = rollback;
        Some(())
    }

    fn insert(&mut self, number: u32, row: SegmentRow) -> Option<()> {
        for physical in row.segments() {
            self.take(physical)?;
        }
        self.rows.insert(number, row).is_none().then_some(())
    }

    fn remove(&mut self, number: u32) -> Option<()> {
        let row = self.rows.remove(&number)?;
        row.segments().for_each(|physical| self.leave(physical));
        Some(())
    }

    fn take(&mut self, physical: u32) -> Option<()> {
        let users = self.users.get_mut(physical as usize)?;
        self.free -= u32::from(*users == 0);
        *users += 1;
        Some(())
    }

    fn leave(&mut self, physical: u32) {
        let users = &mut self.users[physical as usize];
        *users -= 1;
        self.free += u32::from(*users == 0);
    }

    /// The state that these changes make of this one.
    pub fn with_changes(mut self, changes: &[Change]) -> Option<Self> {
        changes.iter().try_for_each(|change| self.apply(change)).map(|()| self)
    }

    /// The changes that make this state from nothing.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(self.openings.iter().map(|opening| Change::Opening(*opening)));
        changes.push(Change::Checkpoint(self.checkpoint));
        changes.extend(self.leases.iter().map(|lease| Change::Lease(*lease)));
        // A lease makes an empty row; the row as it is replaces it.
        changes.extend(self.rows.iter().map(|(number, row)| row.change(*number)));
        changes.extend(self.runs.iter().map(|info| Change::Run(info.run, info.extents.clone())));
        changes.push(Change::Watermark(self.watermark));
        changes.push(Change::Window(self.window));
        if self.applied != Applied::default() {
            changes.push(Change::Applied(self.applied));
        }
        if self.accepted != ALL_ACCEPTED {
            changes.push(Change::Accepted(self.accepted));
        }
        changes.extend(self.rollbacks.iter().map(|rollback| rollback.change()));
        changes.extend(self.snapshots.values().map(Snapshot::change));
        let locked = self.snapshots.values().filter(|snapshot| snapshot.lock != SnapshotLock::default());
        changes.extend(locked.map(|snapshot| snapshot.lock.change(snapshot.number)));
        changes.extend(self.branches.values().map(Branch::change));
        changes.extend(self.objects.changes());
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(physical: u32, number: u32) -> Change {
        Change::Lease(Lease { physical: physical.into(), virtual_segment: number.into() })
    }

    fn opening(first_batch: u64) -> Change {
        Change::Opening(Opening { nonce: [first_batch as u8; 16], first_batch: first_batch.into() })
    }

    #[test]
    fn a_moved_row_finds_its_slots_and_keeps_their_numbers() {
        let mut row = SegmentRow::of_log(2, 200, 0);
        for slot in [1, 5, 63, 64, 130, 199] {
            row.revive(slot);
        }
        assert_eq!(row.place(130, 200), Some((2, 130)));
        let mut moved = row.moved(7, 197, Some(9));
        let places: Vec<(u32, u32)> = moved.live().map(|slot| moved.place(slot, 200).unwrap()).collect();
        assert_eq!(places, [(7, 197), (7, 198), (7, 199), (9, 0), (9, 1), (9, 2)]);
        assert_eq!(moved.place(2, 200), None);
        assert!(moved.kill(63) && !moved.kill(63));
        assert_eq!((moved.place(64, 200), moved.live_slots()), (Some((9, 0)), 5));
        let again = moved.moved(8, 0, None);
        assert_eq!(again.place(64, 200), Some((8, 2)));
    }

    #[test]
    fn a_state_comes_back_from_its_changes() {
        let mut state = Metadata::new(8, 200);
        for change in [opening(0), lease(3, 0), lease(4, 1)] {
            state.apply(&change).unwrap();
        }
        assert_eq!(state.free_segments(), 6);
        assert_eq!(state.free_after(3).collect::<Vec<_>>(), [5, 6, 7, 0, 1, 2]);
        state.rows.get_mut(&0).unwrap().revive(9);
        let mut row = state.rows[&0].clone();
        row.revive(10);
        let checkpoint = Checkpoint { released: 1.into(), batch: 4.into(), ..Checkpoint::default() };
        for change in [row.moved(5, 0, None).change(0), Change::Checkpoint(checkpoint), Change::Watermark(5)]
        {
            state.apply(&change).unwrap();
        }
        assert_eq!((state.free_segments(), state.leases.len(), state.live_blocks()), (6, 1, 2));
        state.apply(&Change::Dead(0, vec![9])).unwrap();
        assert_eq!(Metadata::new(8, 200).with_changes(&state.changes()).unwrap(), state);
        state.apply(&Change::RowRemoved(0)).unwrap();
        assert_eq!(state.free_segments(), 7);
    }

    #[test]
    fn what_has_come_to_life_while_its_death_was_written_down_lives() {
        let mut state = Metadata::new(8, 200);
        state.apply(&lease(3, 0)).unwrap();
        state.rows.get_mut(&0).unwrap().revive(9);
        state.apply_own(&Change::Dead(0, vec![9]));
        assert!(state.rows[&0].is_live(9));
        state.apply(&Change::Dead(0, vec![9])).unwrap();
        assert!(!state.rows[&0].is_live(9), "as it is read from the device, it is dead");
    }

    #[test]
    fn there_are_no_more_snapshots_than_there_is_room_for() {
        let named = |number: u64| {
            let (sequence, keeping) = (number, crate::pool::snapshots::Keeping::Kept);
            let (name, group, lock) = (format!("{number}"), None, SnapshotLock::default());
            Snapshot { number, branch: 0, sequence, time_unix_ns: 0, keeping, name, group, lock }.change()
        };
        for (mut state, room) in [(Metadata::new(4, 64), 256), (Metadata::new(4, 64).with_room_for(700), 700)]
        {
            assert!((0..room).all(|number| state.apply(&named(number)).is_some()));
            assert!(state.apply(&named(3)).is_some(), "it replaces one");
            assert!(state.apply(&named(room)).is_none());
        }
    }

    #[test]
    fn no_branch_began_as_itself_and_none_is_too_deep() {
        let snapshot = |number: u64, branch| {
            let (sequence, keeping) = (1, crate::pool::snapshots::Keeping::Kept);
            let (name, group, lock) = (format!("{number}"), None, SnapshotLock::default());
            Snapshot { number, branch, sequence, time_unix_ns: 0, keeping, name, group, lock }.change()
        };
        let branch = |number: u32, parent| {
            let origin = super::super::branches::Origin::Snapshot(parent);
            Branch { number, origin, time_unix_ns: 0, given_up: false, name: format!("b{number}") }.change()
        };
        let mut state = Metadata::new(4, 64).with_room_for(1000);
        for change in [snapshot(1, 0), branch(1, 1), snapshot(2, 1), branch(2, 2), snapshot(3, 2)] {
            state.apply(&change).unwrap();
        }
        assert_eq!((0..4).map(|branch| state.levels(branch)).collect::<Vec<_>>(), [0, 1, 2, 0].map(Some));
        assert!(
            state.clone().apply(&branch(1, 3)).is_none(),
            "1 began as a moment of 2, which began as one of 1"
        );
        assert!(state.clone().apply(&snapshot(1, 2)).is_none());
        for number in 3..=LEVELS_MAX as u32 {
            state.apply(&branch(number, number.into())).unwrap();
            state.apply(&snapshot(u64::from(number) + 1, number)).unwrap();
        }
        assert_eq!(state.levels(LEVELS_MAX as u32), Some(LEVELS_MAX));
        assert!(state.apply(&branch(500, LEVELS_MAX as u64 + 1)).is_none());
    }

    #[test]
    fn what_contradicts_the_state_is_refused() {
        let fresh = || Metadata::new(4, 64);
        assert!(fresh().apply(&lease(4, 0)).is_none(), "no such segment");
        assert!(fresh().apply(&Change::RowRemoved(1)).is_none());
        assert!(fresh().apply(&Change::Dead(1, vec![0])).is_none());
        assert!(fresh().apply(&Change::RunRemoved(1)).is_none());
        assert!(fresh().apply(&Change::Checkpoint(Checkpoint::default())).is_none(), "nobody has opened it");
        let row = SegmentRow::of_log(0, 65, 0);
        assert!(fresh().apply(&row.change(1)).is_none(), "longer than a segment");
    }
}
