//! The state that an image and records make: openings, leases, the checkpoint, rows, runs and marks.
//!
//! Each change is held against the state before it. What contradicts it is told as a text; the state is then of
//! no use any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use super::index;
use super::names::{self, Names};
use super::objects::{self, Objects};
use super::returns::Returns;
use super::rows::RowState;
use super::shape::Shape;
use crate::format::journal::{Applied, Change, Checkpoint, Lease, Opening, Rollback, Run};

/// Runs of a pool at most: merging keeps a handful of each size.
const RUNS_MAX: usize = 1024;
/// Returns to earlier moments at most.
const ROLLBACKS_MAX: usize = 128;
/// No sequence and no number of a batch comes so far; what says so is damaged, and could not be counted on from.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// A pinned base may take everything, which is to say that it is not pinned.
pub(super) const ALL_ACCEPTED: u64 = u64::MAX;
/// What contradicts the state.
pub(super) type Judged<T = ()> = Result<T, String>;

/// A run, as the journal names it.
#[derive(Clone, Debug)]
pub(super) struct RunState {
    pub run: Run,
    pub extents: Vec<(u32, u32)>,
}

/// Everything that the journal keeps.
#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: u32,
    pub(super) segment_blocks: u32,
    pub(super) shape: Shape,
    /// By their first batch: one that has not written a batch before the next one began has none.
    pub openings: Vec<Opening>,
    pub leases: VecDeque<Lease>,
    pub checkpoint: Checkpoint,
    pub rows: BTreeMap<u32, RowState>,
    pub runs: Vec<RunState>,
    /// Behind its last record, or at the other root, lies something that is not whole and may be a later one: a power
    /// cut leaves that, and so does damage.
    pub may_go_on: bool,
    pub watermark: u64,
    pub window: u64,
    /// How far the linear volume is, where there is one.
    pub applied: Applied,
    pub accepted: u64,
    /// Returns to earlier moments.
    pub rollbacks: Vec<Rollback>,
    /// Named moments and writable snapshots.
    pub names: Names,
    /// Linear objects.
    pub objects: Objects,
    /// Rows that lie in each segment that has any.
    pub(super) users: BTreeMap<u32, BTreeSet<u32>>,
    /// Words of bitmaps that may still be looked at while rows are gathered. Each row is gathered once, and looked at
    /// in two segments at most, so that what image and journal have room for is enough.
    pub(super) gathering: u64,
}

pub(super) fn require(holds: bool, text: &str) -> Judged {
    if holds { Ok(()) } else { Err(text.to_string()) }
}

/// The place of a change in an image's order.
fn rank(change: &Change) -> Option<u32> {
    Some(match change {
        Change::Opening(_) => 0,
        Change::Checkpoint(_) => 1,
        Change::Lease(_) => 2,
        Change::Row(..) => 3,
        Change::Run(..) => 4,
        Change::Watermark(_) => 5,
        Change::Window(_) => 6,
        Change::Applied(_) => 7,
        Change::Accepted(_) => 8,
        Change::Rollback(_) => 9,
        Change::Snapshot(..) => 10,
        Change::SnapshotLock(_) => 11,
        // Branches, whatever they began as, by their numbers.
        Change::Branch(..) | Change::Volume(..) => 12,
        Change::Object(..) => 13,
        Change::RowRemoved(_)
        | Change::Dead(..)
        | Change::RunRemoved(_)
        | Change::SnapshotRemoved(_)
        | Change::BranchRemoved(_) => return None,
    })
}

impl State {
    fn empty(shape: &Shape) -> Self {
        Self {
            segments: shape.segments,
            segment_blocks: shape.segment_blocks,
            shape: shape.clone(),
            openings: Vec::new(),
            leases: VecDeque::new(),
            checkpoint: Checkpoint::default(),
            rows: BTreeMap::new(),
            runs: Vec::new(),
            may_go_on: false,
            watermark: 0,
            window: 0,
            applied: Applied::default(),
            accepted: ALL_ACCEPTED,
            rollbacks: Vec::new(),
            names: Names::default(),
            objects: Objects::default(),
            users: BTreeMap::new(),
            gathering: shape.journal_bytes(),
        }
    }

    /// The state of an image.
    pub fn from_image(shape: &Shape, changes: &[Change]) -> Judged<Self> {
        let mut state = Self::empty(shape);
        let ranks: Option<Vec<u32>> = changes.iter().map(rank).collect();
        let ranks = ranks.ok_or("it removes what nothing has made")?;
        require(ranks.is_sorted(), "its changes are not in their order")?;
        let linear = usize::from(shape.linear);
        for (rank, name, wanted) in [
            (1, "checkpoint", 1..=1),
            (5, "watermark", 1..=1),
            (6, "window", 1..=1),
            (7, "cursor of a linear volume", linear..=linear),
            (8, "pin of its base", 0..=linear),
        ] {
            let found = ranks.iter().filter(|one| **one == rank).count();
            require(wanted.contains(&found), &format!("it has {found} changes that are a {name}"))?;
        }
        for change in changes {
            match change {
                Change::Opening(opening) => state.open(opening),
                Change::Checkpoint(checkpoint) => {
                    require(checkpoint.released.get() == 0, "an image's checkpoint releases leases")?;
                    state.checkpoint = *checkpoint;
                }
                Change::Lease(lease) => state.lease(lease)?,
                Change::Row(row, live, present) => state.image_row(row, live, present)?,
                Change::Run(run, extents) => state.run(run, extents)?,
                Change::Watermark(sequence) => state.watermark = *sequence,
                Change::Window(sequence) => state.window = *sequence,
                Change::RowRemoved(_)
                | Change::Dead(..)
                | Change::RunRemoved(_)
                | Change::SnapshotRemoved(_)
                | Change::BranchRemoved(_) => {}
                Change::Applied(applied) => state.apply_home(applied)?,
                Change::Accepted(sequence) => state.accepted = *sequence,
                Change::Rollback(rollback) => state.rollback(rollback)?,
                Change::Snapshot(snapshot, name, group) => {
                    state.names.snapshot(shape, snapshot, name, *group)?;
                }
                Change::SnapshotLock(lock) => state.names.lock(shape, lock)?,
                Change::Branch(branch, name) => state.names.branch(shape, branch, name, true)?,
                Change::Object(object, runs) => state.objects.of_image(shape, object, runs)?,
                Change::Volume(volume, name) => state.names.volume(shape, volume, name, true)?,
            }
        }
        let is_pin = !ranks.contains(&8) || state.accepted != ALL_ACCEPTED;
        require(is_pin, "its pin accepts everything, and is none")?;
        let batch = state.checkpoint.batch.get();
        let mut openings = changes.iter().map_while(|change| match change {
            Change::Opening(opening) => Some(opening.first_batch.get()),
            _ => None,
        });
        let in_order =
            openings.next().is_some_and(|first| first <= batch) && openings.all(|later| later >= batch);
        require(in_order, "its openings do not fit its checkpoint")?;
        state.checkpoint_lies_in_its_lease()?;
        let rows = state.leases.iter().all(|lease| state.rows.contains_key(&lease.virtual_segment.get()));
        require(rows, "a leased segment has no row")?;
        state.cursor_fits()?;
        require(state.names.fits(), "a snapshot or a writable snapshot is of none")?;
        state.objects_fit()?;
        Ok(state)
    }

    /// Takes in a record: its changes together.
    pub fn apply_record(&mut self, changes: &[Change]) -> Judged {
        let opens = matches!(changes.first(), Some(Change::Opening(_)));
        let has_window = matches!(changes.first(), Some(Change::Window(_)));
        let before = self.checkpoint;
        let has_checkpoint = changes.iter().any(|change| matches!(change, Change::Checkpoint(_)));
        let leased = self.leased();
        let is_group = names::are_one_group(changes);
        let mut removed: Vec<Run> = Vec::new();
        let mut added: Option<Run> = None;
        for (at, change) in changes.iter().enumerate() {
            let free = matches!(
                change,
                Change::Opening(_)
                    | Change::Lease(_)
                    | Change::Watermark(_)
                    | Change::Window(_)
                    | Change::Accepted(_)
                    | Change::Snapshot(..)
                    | Change::Branch(..)
                    | Change::Volume(..)
                    | Change::SnapshotLock(_)
            ) || objects::takes_one(change);
            require(free || has_window, "slots, rows and runs change without a window")?;
            match change {
                Change::Applied(applied) => {
                    require(has_checkpoint, "a linear volume is further without a checkpoint")?;
                    self.apply_home(applied)?;
                }
                Change::Accepted(sequence) => {
                    require(changes.len() == 1 || opens, "its pin stands among other changes")?;
                    require(self.shape.linear, "it pins a base, and there is none")?;
                    self.accepted = *sequence;
                }
                Change::Snapshot(snapshot, name, group) => {
                    // Who accepts a loss gives up the names of what is lost; what a broken one kept is told with it.
                    // Those of one group are taken together.
                    let with_object = objects::goes_with(self, snapshot, changes)?;
                    let is_one = changes.len() == 1 + usize::from(with_object);
                    let alone = is_one || opens || names::is_broken(snapshot) || is_group;
                    require(alone, "a snapshot stands among other changes")?;
                    let is_locked = self.names.is_given_up_locked(snapshot);
                    require(opens || !is_locked, "a locked snapshot is given up")?;
                    self.names.snapshot(&self.shape, snapshot, name, *group)?;
                }
                Change::SnapshotRemoved(number) => self.names.forget_snapshot(*number)?,
                Change::SnapshotLock(lock) => {
                    require(changes.len() == 1, "a lock stands among other changes")?;
                    self.names.lock(&self.shape, lock)?;
                }
                Change::Branch(branch, name) => {
                    require(changes.len() == 1 || opens, "a branch stands among other changes")?;
                    self.names.branch(&self.shape, branch, name, false)?;
                }
                Change::Volume(volume, name) => {
                    require(changes.len() == 1 || opens, "a volume stands among other changes")?;
                    self.names.volume(&self.shape, volume, name, false)?;
                }
                Change::BranchRemoved(number) => self.names.forget_branch(*number)?,
                Change::Object(object, runs) => self.object(changes, object, runs)?,
                Change::Rollback(rollback) => {
                    require(has_checkpoint, "it goes back without a checkpoint")?;
                    self.rollback(rollback)?;
                }
                Change::Opening(opening) => {
                    require(at == 0, "it opens in the middle")?;
                    require(opening.first_batch >= self.checkpoint.batch, "it opens before the checkpoint")?;
                    // Only who gives up what is damaged goes back, and says how far the log is good.
                    let gives_up = matches!(changes.get(1), Some(Change::Watermark(_)));
                    let last = self.openings.last().map_or(0, |last| last.first_batch.get());
                    require(gives_up || opening.first_batch.get() >= last, "it opens before the last one")?;
                    self.open(opening);
                }
                Change::Lease(lease) => self.lease(lease)?,
                Change::Checkpoint(checkpoint) => self.checkpoint(checkpoint)?,
                Change::Row(row, live, present) => {
                    self.changed_row(row, live, present, &leased)?;
                }
                Change::RowRemoved(number) => {
                    let row = self.rows.remove(number).ok_or("it removes a row that is not there")?;
                    self.leave(*number, &row);
                    self.may_be_removed(*number, &row)?;
                }
                Change::Dead(number, slots) => self.dead(*number, slots)?,
                Change::Run(run, extents) => {
                    let made_of = std::mem::take(&mut removed);
                    let (first, last) = match (&made_of[..], has_checkpoint) {
                        ([], true) => (before.sequence.get() + 1, None),
                        // One alone is written anew where rows have been gathered; of older ones nothing may be left.
                        ([_, ..], false) => {
                            let first = made_of.iter().find(|one| one.first_sequence == run.first_sequence);
                            (first.unwrap_or(&made_of[0]).first_sequence.get(), made_of.last())
                        }
                        _ => return Err("it names a run for no reason".to_string()),
                    };
                    let last = last.map(|last| last.last_sequence.get());
                    let fits = run.first_sequence.get() == first
                        && last.is_none_or(|last| run.last_sequence.get() == last);
                    require(fits, "its run does not cover what it was made of")?;
                    self.run(run, extents)?;
                    added = Some(*run);
                }
                Change::RunRemoved(number) => {
                    let at = self.runs.iter().position(|known| known.run.run.get() == *number);
                    removed.push(self.runs.remove(at.ok_or("it removes a run that is not there")?).run);
                    removed.sort_by_key(|run| run.order.get());
                }
                Change::Watermark(sequence) => {
                    let alone = changes.len() == 1 || (opens && at == 1);
                    require(alone, "its watermark stands among other changes")?;
                    require(opens || *sequence >= self.watermark, "its watermark goes back")?;
                    self.watermark = *sequence;
                }
                Change::Window(sequence) => {
                    require(at == 0, "its window stands in the middle")?;
                    // It says what cannot be opened any more, and a lower one takes nothing back: a merge that began
                    // before a checkpoint names the window of its beginning.
                    self.window = self.window.max(*sequence);
                }
            }
        }
        if has_checkpoint {
            let last = self.checkpoint.sequence.get();
            require(added.is_none_or(|own| own.last_sequence.get() == last), "its run does not end at it")?;
            let applies = changes.iter().any(|change| matches!(change, Change::Applied(_)));
            require(applies == self.shape.linear, "a checkpoint does not say how far the linear volume is")?;
        }
        self.cursor_fits()?;
        require(self.names.fits(), "a snapshot or a writable snapshot is of none")
    }

    fn lease(&mut self, lease: &Lease) -> Judged {
        let (physical, number) = (lease.physical.get(), lease.virtual_segment.get());
        require(self.shape.is_for_log(physical), "a leased segment is none of the log's")?;
        require(self.shape.is_of_log(number), "a leased segment has no number")?;
        if let Some(last) = self.leases.back() {
            let follows = last.virtual_segment.get().checked_add(1) == Some(number);
            require(follows, "the numbers of leased segments do not follow each other")?;
        }
        require(!self.users.contains_key(&physical), "a segment is leased that is in use")?;
        require(!self.rows.contains_key(&number), "a segment's number is used twice")?;
        let live = vec![0; (self.segment_blocks as usize).div_ceil(64)];
        let row = RowState { physical, continued: None, first_block: 0, live, present: None, used: None };
        self.leases.push_back(*lease);
        self.put(number, row);
        Ok(())
    }

    /// The numbers of the leased segments, which follow each other.
    pub(super) fn leased(&self) -> RangeInclusive<u32> {
        match (self.leases.front(), self.leases.back()) {
            (Some(first), Some(last)) => first.virtual_segment.get()..=last.virtual_segment.get(),
            _ => RangeInclusive::new(1, 0),
        }
    }

    fn open(&mut self, opening: &Opening) {
        while self.openings.last().is_some_and(|last| last.first_batch >= opening.first_batch) {
            self.openings.pop();
        }
        self.openings.push(*opening);
    }

    fn checkpoint(&mut self, next: &Checkpoint) -> Judged {
        let released = next.released.get() as usize;
        require(released < self.leases.len(), "a checkpoint releases every lease")?;
        let now = &self.checkpoint;
        let same = Checkpoint { released: now.released, ..*next } == *now;
        let later =
            next.batch > now.batch && next.sequence >= now.sequence && next.time_unix_ns >= now.time_unix_ns;
        require(same || later, "a checkpoint goes back")?;
        self.leases.drain(..released);
        self.checkpoint = Checkpoint { released: 0.into(), ..*next };
        let begun = self.openings.partition_point(|opening| opening.first_batch <= next.batch);
        let current = begun.checked_sub(1).ok_or("nobody has written what a checkpoint covers")?;
        self.openings.drain(..current);
        self.checkpoint_lies_in_its_lease()
    }

    /// The checkpoint as a block of the first leased segment.
    pub fn checkpoint_block(&self) -> Option<u32> {
        let start = self.shape.address(self.leases.front()?.physical.get(), 0);
        let from = self.checkpoint.address.get().checked_sub(start)?;
        let fits = from <= self.shape.segment_bytes() && from.is_multiple_of(self.shape.block_bytes.into());
        fits.then(|| (from / u64::from(self.shape.block_bytes)) as u32)
    }

    fn checkpoint_lies_in_its_lease(&self) -> Judged {
        let possible = self.checkpoint.batch.get().max(self.checkpoint.sequence.get()) < NUMBER_MAX;
        require(possible, "the checkpoint's numbers cannot be")?;
        require(self.checkpoint_block().is_some(), "the checkpoint lies outside of the first leased segment")
    }

    /// The linear volume is at this place of the log.
    fn apply_home(&mut self, next: &Applied) -> Judged {
        let now = &self.applied;
        let later = next.sequence >= now.sequence
            && next.batch >= now.batch
            && next.first_sequence >= now.first_sequence
            && next.virtual_segment >= now.virtual_segment;
        require(later, "the cursor of the linear volume goes back")?;
        require(next.reserved.get() == 0, "bytes that no field names are not zero")?;
        self.applied = *next;
        Ok(())
    }

    /// Nothing is applied beyond the checkpoint, or beyond what is accepted.
    fn cursor_fits(&self) -> Judged {
        if !self.shape.linear {
            return Ok(());
        }
        let (applied, checkpoint) = (&self.applied, &self.checkpoint);
        let (sequence, first) = (applied.sequence.get(), applied.first_sequence.get());
        let ends_with_it = (applied.first_sequence.get(), applied.previous)
            == (checkpoint.sequence.get() + 1, checkpoint.previous);
        let fits = (1..=sequence.saturating_add(1)).contains(&first)
            && sequence <= checkpoint.sequence.get()
            && applied.batch <= checkpoint.batch
            && (applied.batch != checkpoint.batch || ends_with_it);
        require(fits, "the cursor of the linear volume does not fit the checkpoint")?;
        require(sequence <= self.accepted, "more is applied than is accepted")?;
        let known = self.leases.back().is_some_and(|last| applied.virtual_segment <= last.virtual_segment);
        require(known, "the cursor of the linear volume lies in no segment of the log")
    }

    fn run(&mut self, run: &Run, extents: &[(u32, u32)]) -> Judged {
        let (first, last) = (run.first_sequence.get(), run.last_sequence.get());
        // Where blocks are brought home, a run may say nothing but that.
        let may_say_nothing = self.shape.linear || self.shape.overlays || self.shape.goes_back;
        let least = if may_say_nothing { first.saturating_sub(1) } else { first };
        require(first >= 1 && least <= last, "a run covers no sequences")?;
        require(index::fits(&self.shape, run, extents), "a run has not the pages that it needs, or others")?;
        let apart = |known: &RunState| {
            known.run.run != run.run
                && (known.run.last_sequence.get() < first || last < known.run.first_sequence.get())
        };
        require(self.runs.iter().all(apart), "two runs have one number, or cover the same sequences")?;
        require(self.runs.len() < RUNS_MAX, "there are more runs than merging leaves")?;
        let order = run.order.get();
        let rank = self.runs.partition_point(|known| known.run.order.get() < order);
        let fits = order <= run.run.get()
            && self.runs[..rank].last().is_none_or(|before| before.run.last_sequence.get() < first)
            && self
                .runs
                .get(rank)
                .is_none_or(|after| order < after.run.order.get() && last < after.run.first_sequence.get());
        require(fits, "a run's order does not fit what it covers")?;
        self.runs.insert(rank, RunState { run: *run, extents: extents.to_vec() });
        Ok(())
    }

    /// The volume has gone back, or that is settled.
    fn rollback(&mut self, next: &Rollback) -> Judged {
        let (at, to) = (next.at.get(), next.to.get());
        let known = self.rollbacks.iter_mut().find(|known| known.at.get() == at);
        let is_news = known.as_ref().is_none_or(|known| known.to == next.to && known.settled.get() == 0);
        let sound = self.shape.goes_back
            && next.settled.get() <= 1
            && is_news
            && at <= self.checkpoint.sequence.get();
        require(sound, "a return to an earlier moment is none, or told twice")?;
        if let Some(known) = known {
            *known = *next;
            return Ok(());
        }
        let before = Returns::new(&self.rollbacks, None).discarded_at(to);
        let follows = to < at && before == u64::MAX;
        require(follows, "it goes back to a later moment, or one that was discarded")?;
        require(self.rollbacks.last().is_none_or(|last| last.at.get() < at), "returns are not in order")?;
        require(self.rollbacks.len() < ROLLBACKS_MAX, "there are more returns than there is room for")?;
        self.rollbacks.push(*next);
        Ok(())
    }

    /// The opening that a batch of this number is of.
    pub fn opening_of(&self, batch: u64) -> Option<&Opening> {
        let begun = self.openings.partition_point(|opening| opening.first_batch.get() <= batch);
        self.openings[..begun].last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT_BLOCKS: u32 = 64;

    /// A state where nothing is but what these rows hold; all of them lie in segment 0.
    fn state(rows: u32, image_bytes: u64) -> State {
        let shape = Shape {
            segment_blocks: SEGMENT_BLOCKS,
            segments: 4,
            own_segments: 4,
            data_offset: 1 << 30,
            image_bytes,
            goes_back: false,
            ..Shape::guessed(4096, 1 << 20)
        };
        let mut state = State::empty(&shape);
        (0..rows).for_each(|number| state.put(number, row(u64::MAX)));
        state
    }

    fn row(live: u64) -> RowState {
        let present = Some(vec![u64::MAX]);
        RowState { physical: 0, continued: None, first_block: 0, live: vec![live], present, used: None }
    }

    #[test]
    fn gathering_the_same_rows_again_and_again_comes_to_an_end() {
        let mut state = state(1000, 64 << 10);
        // As many words as the journal has bytes: 131,072, and each time 2,000 are looked at, and two more.
        let gathered = (0..).position(|at| state.gathered_row((1 << 30) + at, row(1)).is_err());
        assert!((60..=65).contains(&gathered.unwrap()), "{gathered:?}");
    }

    #[test]
    fn an_opening_that_wrote_nothing_has_no_batch() {
        let mut state = state(0, 64 << 10);
        for (first, nonce) in [(0, 1), (5, 2), (9, 3), (9, 4), (7, 5), (12, 6)] {
            state.open(&Opening { first_batch: u64::into(first), nonce: [nonce; 16] });
        }
        let found: Vec<u8> = (0..14).filter_map(|batch| Some(state.opening_of(batch)?.nonce[0])).collect();
        assert_eq!(found, [1, 1, 1, 1, 1, 2, 2, 5, 5, 5, 5, 5, 6, 6]);
    }

    #[test]
    fn what_leaves_a_segment_frees_it() {
        let mut state = state(2, 64 << 10);
        for number in [0, 1] {
            let row = state.rows.remove(&number).unwrap();
            assert!(state.users.contains_key(&0));
            state.leave(number, &row);
        }
        assert!(state.users.is_empty());
    }
}
