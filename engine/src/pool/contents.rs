//! What a pool holds and what may be thrown away: the index, the live slots, and the past still wanted.
//!
//! A superseded version is born at b and dies at d. While a moment m with b ≤ m < d can be opened, its slot
//! lives. Moments from the *window's* start on can be opened, and those that are *pinned*: they have names, or somebody
//! has an image of them open. When death leaves the window, the slot dies, unless a pinned moment sees the version.
//! When such a moment is given up, what died behind it and before the next one that is kept is looked at again
//! (*swept*), in the index: nothing of it is in memory.
//!
//! Invariants: entries are taken in by sequence, at run time and at recovery alike; a slot's death reaches the
//! journal only together with a window that no longer wants it, after the log that caused it is durable.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::copies::Copies;
use super::gathered::Gathered;
use super::history::Rollback;
use super::homecoming::Homecoming;
use super::index::current::Version;
use super::index::merge::{Wanted, discarded, rename_death};
use super::index::{Index, Pinned};
use super::journal::Journal;
use super::metadata::{ALL_ACCEPTED, GATHERED_FIRST, HOME_FIRST, Metadata};
use super::snapshots::{Keeping, Snapshot};
use crate::error::Result;
use crate::format::batch::{
    BatchEntry, KIND_COPIED, KIND_DATA, KIND_DISCARD, KIND_PLACED, KIND_ROLLBACK, KIND_SAVED,
    KIND_SAVED_IN_PLACE, KIND_ZERO,
};
use crate::format::index_page::{BASE, IndexDeath, IndexEntry, has_slots};
use crate::format::journal::Change;
use crate::units::{Moment, branch_of};

/// How much of the past is kept for opening any moment of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of superseded blocks at most; 0 keeps none.
    pub bytes: u64,
    /// Nanoseconds at most, if limited.
    pub age_ns: Option<u64>,
}

/// Times are noted so far apart at least, and so many at most: retention by age is not finer than that.
const TIMES_APART_NS: u64 = 1_000_000_000;
const TIMES_MAX: u64 = 1 << 14;

/// What the journal has to learn of a row.
#[derive(Debug)]
enum Touched {
    /// All of it.
    Whole,
    /// These slots have died.
    Dead(Vec<u16>),
}

/// The contents of one pool.
#[derive(Debug)]
pub struct Contents {
    journal: Rc<Journal>,
    index: Rc<Index>,
    block_bytes: u64,
    retention: Cell<Retention>,
    window: Cell<u64>,
    /// Where the window's start stays, whatever retention allows: the pinned base of a linear volume.
    floor: Cell<u64>,
    /// Deaths inside the window, in order.
    pending: RefCell<VecDeque<IndexDeath>>,
    /// Pinned moments and how often.
    pins: RefCell<BTreeMap<Moment, u32>>,
    /// Moments before the window that are not pinned any more, and have not been swept.
    given_up: RefCell<BTreeSet<Moment>>,
    /// Deaths before the window that nothing in the metadata keeps: an image was open when the volume ended. Until the
    /// log has been read, which may take them back.
    held_back: RefCell<Vec<IndexDeath>>,
    touched: RefCell<BTreeMap<u32, Touched>>,
    pub(super) homecoming: RefCell<Homecoming>,
    /// What is being copied of the base.
    pub(super) copies: RefCell<Copies>,
    /// Reads under way, by physical segment.
    readers: RefCell<Vec<u32>>,
    /// Sequences and the times they were written at, some time apart.
    times: RefCell<VecDeque<(u64, u64)>>,
}

/// The first moment that may have seen a version that has died, and the first that does not any more.
pub fn moments_of(death: &IndexDeath) -> [Moment; 2] {
    let moment = |sequence: u64| Moment { branch: death.branch.get().into(), sequence };
    [moment(death.birth.get()), moment(death.death.get())]
}

/// A moment that stays readable while this exists.
#[derive(Debug)]
pub struct Pin {
    contents: Rc<Contents>,
    moment: Moment,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.contents.unpin(self.moment);
    }
}

/// A physical segment that is not used anew while this exists.
#[derive(Debug)]
pub struct Reading<'a> {
    contents: &'a Contents,
    physical: u32,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.contents.readers.borrow_mut()[self.physical as usize] -= 1;
    }
}

impl Contents {
    /// Contents over this journal and index. The deaths that the runs know are read.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn open(
        journal: Rc<Journal>,
        index: Rc<Index>,
        block_bytes: u64,
        retention: Retention,
    ) -> Result<Rc<Self>> {
        // Where everything is accepted, nothing is pinned.
        let (window, floor) = (journal.state().window, journal.state().accepted);
        let (mut pending, mut held_back) = (Vec::new(), Vec::new());
        let mut pins: BTreeMap<Moment, u32> = BTreeMap::new();
        for snapshot in journal.state().snapshots.kept() {
            *pins.entry(snapshot.moment()).or_default() += 1;
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::NamesForgotten) {
            pins.clear();
        }
        // What a removed snapshot alone kept is swept.
        let unswept: BTreeSet<Moment> = {
            let state = journal.state();
            let unswept = state.snapshots.values().filter(|one| one.keeping != Keeping::Broken);
            unswept.map(Snapshot::moment).collect()
        };
        let is_kept = |death: &IndexDeath| {
            let [from, to] = moments_of(death);
            from < to && unswept.range(from..to).next().is_some()
        };
        let is_revived = |death: &IndexDeath| {
            death.is_of_volume() && index.history().revives(death.birth.get(), death.death.get())
        };
        // Numbers of other rows may have been given anew since.
        let has_objects = index.blank(0).is_in_base();
        let is_held_back = |(number, slot): (u32, u32)| {
            (number < GATHERED_FIRST || (number >= HOME_FIRST && has_objects))
                && journal.state().rows.get(&number).is_some_and(|row| row.is_live(slot))
        };
        for run in index.runs().iter() {
            run.deaths(|death| match death.death.get() > window {
                _ if is_revived(&death) => {}
                true => pending.push(death),
                false if is_kept(&death) => {}
                false => held_back.extend(Some(death).filter(|death| is_held_back(death.place()))),
            })
            .await?;
        }
        pending.sort_unstable_by_key(|death: &IndexDeath| death.death.get());
        let segments = journal.state().segments() as usize;
        let contents = Rc::new(Self {
            journal,
            index,
            block_bytes,
            retention: Cell::new(retention),
            window: Cell::new(window),
            floor: Cell::new(floor),
            pending: RefCell::new(pending.into()),
            pins: RefCell::new(pins),
            given_up: RefCell::default(),
            held_back: RefCell::new(held_back),
            touched: RefCell::default(),
            homecoming: RefCell::default(),
            copies: RefCell::default(),
            readers: RefCell::new(vec![0; segments]),
            times: RefCell::default(),
        });
        let checkpoint = contents.journal.state().checkpoint;
        contents.note_time(checkpoint.sequence.get(), checkpoint.time_unix_ns.get());
        Ok(contents)
    }

    /// The index.
    pub fn index(&self) -> &Rc<Index> {
        &self.index
    }

    /// The journal.
    pub fn journal(&self) -> &Rc<Journal> {
        &self.journal
    }

    /// Takes in one entry of the log: its range has new content from `sequence` on. The pages of the range are
    /// `pinned`; the payload begins at `slot` of a virtual segment that the log holds.
    pub fn take_in(
        &self,
        entry: &BatchEntry,
        sequence: u64,
        virtual_segment: u32,
        slot: u32,
        checksums: &[u32],
        pinned: &Pinned,
    ) {
        let (address, blocks) = (entry.address(), u64::from(entry.blocks.get()));
        match entry.kind.get() {
            kind @ (KIND_DATA | KIND_SAVED) => {
                {
                    let mut state = self.journal.state_mut();
                    if let Some(row) = state.rows.get_mut(&virtual_segment) {
                        (slot..slot + blocks as u32).for_each(|slot| row.revive(slot));
                    }
                }
                self.touched.borrow_mut().insert(virtual_segment, Touched::Whole);
                for (at, checksum) in (0..blocks).zip(checksums) {
                    let slot = slot + at as u32;
                    let version = Version { birth: sequence, virtual_segment, slot, checksum: *checksum };
                    match kind {
                        KIND_DATA => self.supersede(address + at, version, pinned),
                        _ if self.save(address + at, version, pinned) => {}
                        _ => self.kill((virtual_segment, slot)),
                    }
                }
            }
            KIND_COPIED => {
                for (at, checksum) in (0..).zip(checksums) {
                    self.take_in_copy(address + u64::from(at), (virtual_segment, slot + at), *checksum);
                }
            }
            KIND_PLACED | KIND_SAVED_IN_PLACE => self.take_in_place(entry, sequence, pinned),
            KIND_ZERO | KIND_DISCARD => {
                let zero = Version { birth: sequence, ..Version::NONE };
                let mut at = address;
                while at < address + blocks {
                    match self.index.current_now(at) {
                        Some(now) if !now.is_zero() => self.supersede(at, zero, pinned),
                        Some(_) => {}
                        // A page that was not pinned holds nothing but zeroes.
                        None => at |= super::index::current::PAGE_BLOCKS - 1,
                    }
                    at += 1;
                }
            }
            KIND_ROLLBACK => self.roll_back(Rollback { at: sequence, to: entry.tag.get(), settled: false }),
            // Marks change no block.
            _ => {}
        }
        self.release(sequence);
    }

    /// Blocks have been placed in a linear object. Where that is gone by now, nothing in it lives: what the log says
    /// further on supersedes them.
    fn take_in_place(&self, entry: &BatchEntry, sequence: u64, pinned: &Pinned) {
        let segment_blocks = self.journal.state().segment_blocks();
        let Some((number, first)) = entry.place(segment_blocks) else { return };
        let revive = |slot: u32| {
            if let Some(row) = self.journal.state_mut().object_row(number) {
                row.revive(slot);
                self.touched.borrow_mut().insert(number, Touched::Whole);
            }
        };
        for (lba, slot) in (entry.address()..).zip(first..first + entry.blocks.get()) {
            let version = Version { birth: sequence, virtual_segment: number, slot, checksum: 0 };
            if entry.kind.get() == KIND_PLACED {
                revive(slot);
                self.supersede(lba, version, pinned);
            } else if self.save(lba, Version { checksum: entry.checksum_in_place(), ..version }, pinned) {
                revive(slot);
            }
        }
    }

    /// The volume is again what it was at a moment that can be opened: what was superseded since lives again.
    fn roll_back(&self, rollback: Rollback) {
        let stays = |death: &IndexDeath| {
            !death.is_of_volume() || !rollback.revives(death.birth.get(), death.death.get())
        };
        #[cfg(feature = "mutations")]
        let stays = |death: &IndexDeath| {
            stays(death) || crate::mutation::is_on(crate::mutation::Mutation::RevivedDies)
        };
        self.pending.borrow_mut().retain(stays);
        self.index.roll_back(rollback);
    }

    /// Notes the deaths of what a return has discarded: of the newest version of each block, since the older ones
    /// had died before. All of it or, where the process ends before, nothing: then it is done again.
    pub fn settle(&self, rollback: Rollback, discarded: &[IndexEntry]) {
        let of_window = rollback.at > self.window.get();
        for entry in discarded.iter().filter(|entry| has_slots(entry.virtual_segment.get())) {
            let place = (entry.virtual_segment.get(), entry.slot.get());
            let death = IndexDeath::new(0, entry.sequence.get(), rollback.at, place);
            if !of_window && !self.is_pinned_until(&death) {
                self.kill(death.place());
                continue;
            }
            self.index.note_death(death);
            if of_window {
                let pending = &mut *self.pending.borrow_mut();
                let at = pending.partition_point(|other| other.death.get() <= rollback.at);
                pending.insert(at, death);
            }
        }
        self.index.settle(rollback.at);
    }

    fn supersede(&self, address: u64, version: Version, pinned: &Pinned) {
        let before = self.index.note(address, version, Some(pinned));
        if !before.has_slot() {
            return;
        }
        let place = (before.virtual_segment, before.slot);
        let death = IndexDeath::new(branch_of(address), before.birth, version.birth, place);
        // When the log is read at open, the journal may have told of a later window already.
        let is_past = version.birth <= self.window.get();
        if (is_past || !self.keeps_past()) && !self.is_pinned_until(&death) {
            self.kill(death.place());
            return;
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::PastThrownAway) {
            self.kill(death.place());
        }
        self.index.note_death(death);
        if !is_past {
            self.pending.borrow_mut().push_back(death);
        }
    }

    /// What the base holds of a block has been copied to the place of this version, which is born when the base gets
    /// new content. Nobody may have needed it: another write has saved it before, or who needed it has been given up.
    /// Whether it is needed.
    fn save(&self, lba: u64, copy: Version, pinned: &Pinned) -> bool {
        let now = self.index.current_now(lba).filter(Version::is_in_base);
        let place = (copy.virtual_segment, copy.slot);
        let death = now.map(|now| IndexDeath::new(0, now.birth, copy.birth, place));
        let (Some(now), Some(death)) = (now, death.filter(|death| self.is_pinned_until(death))) else {
            return false;
        };
        self.index.note_saved(lba, Version { birth: now.birth, ..copy }, copy.birth, pinned);
        self.index.note_death(death);
        if copy.birth > self.window.get() {
            self.pending.borrow_mut().push_back(death);
        }
        true
    }

    /// Whether somebody keeps a moment that sees a version of a block which has not been superseded.
    pub fn is_kept(&self, address: u64, version: &Version) -> bool {
        let branch = branch_of(address);
        let later = Moment { branch, sequence: version.birth }..Moment { branch: branch + 1, sequence: 0 };
        let is_kept = self.pins.borrow().range(later).next().is_some();
        #[cfg(feature = "mutations")]
        let is_kept = is_kept && !crate::mutation::is_on(crate::mutation::Mutation::OverwrittenUnsaved);
        is_kept
    }

    /// Whether a pinned moment sees a version that has died like this.
    pub(super) fn is_pinned_until(&self, death: &IndexDeath) -> bool {
        let [from, to] = moments_of(death);
        #[cfg(feature = "mutations")]
        let [from, to] = match crate::mutation::is_on(crate::mutation::Mutation::BranchMixedUp) {
            true => [from, to].map(|moment| Moment { branch: 0, ..moment }),
            false => [from, to],
        };
        // Whatever the device says of a death.
        let is_pinned = from < to && self.pins.borrow().range(from..to).next().is_some();
        #[cfg(feature = "mutations")]
        let is_pinned = is_pinned && !crate::mutation::is_on(crate::mutation::Mutation::OpenMomentIgnored);
        is_pinned
    }

    /// The current version of a block has been copied to its place in a linear volume and is found there from now
    /// on. Its page is pinned.
    pub fn move_home(&self, lba: u64, version: Version, number: u32, slot: u32) {
        self.index.note(lba, Version { virtual_segment: number, slot, ..version }, None);
        let log = Some((version.virtual_segment, version.slot));
        self.homecoming.borrow_mut().add((number, slot), log);
    }

    /// The base has these versions, durably, and so says a run: their slots in the log have been given up.
    pub fn found_in_base(&self, moved: impl Iterator<Item = (u64, Version)>) {
        let moved = moved.map(|(lba, version)| ((version.virtual_segment, version.slot), (lba, version)));
        let moved: BTreeMap<_, _> = moved.collect();
        if !moved.is_empty() {
            self.index.found_in_base(&moved);
            self.pending.borrow_mut().retain(|death| !moved.contains_key(&death.place()));
        }
    }

    /// Begins a checkpoint: what happens from now on belongs to the next one.
    pub fn freeze(&self) {
        self.index.freeze();
        self.homecoming.borrow_mut().freeze();
    }

    /// A checkpoint is about to tell where blocks lie that have come home.
    pub fn settle_homecoming(&self, state: &mut Metadata) {
        for (home, log) in self.homecoming.borrow_mut().take_frozen() {
            if let Some(row) = state.rows.get_mut(&home.0) {
                row.revive(home.1);
            }
            self.touched.borrow_mut().insert(home.0, Touched::Whole);
            log.into_iter().for_each(|log| self.kill_in(state, log));
        }
    }

    /// Whether a place at home holds anything wanted.
    pub fn is_live_at_home(&self, state: &Metadata, home: (u32, u32)) -> bool {
        state.rows.get(&home.0).is_some_and(|row| row.is_live(home.1))
            || self.homecoming.borrow().contains(home)
    }

    /// Whether an extent holds nothing that is wanted.
    pub fn is_empty_at_home(&self, state: &Metadata, number: u32) -> bool {
        let is_dead = state.rows.get(&number).is_some_and(|row| row.live_slots() == 0);
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::CopyNotAwaited) {
            return is_dead;
        }
        is_dead && !self.homecoming.borrow().has_any(number)
    }

    /// The last of the sequences that superseded these places; the one given beside a place that nobody knows to be
    /// superseded. 0 without places.
    pub fn last_death(&self, mut places: BTreeMap<(u32, u32), u64>) -> u64 {
        let mut last = 0;
        for death in self.pending.borrow().iter() {
            if places.is_empty() {
                break;
            }
            if places.remove(&death.place()).is_some() {
                last = last.max(death.death.get());
            }
        }
        places.into_values().fold(last, u64::max)
    }

    /// Whether superseded versions are kept at all.
    pub fn keeps_past(&self) -> bool {
        self.retention.get().bytes > 0 || self.floor.get() != ALL_ACCEPTED
    }

    /// Keeps every moment from `floor` on, whatever retention allows, up to the sequence that the log is at.
    pub fn set_floor(&self, floor: u64, sequence: u64) {
        self.floor.set(floor);
        self.release(sequence);
    }

    /// Whether somebody keeps a moment of the volume before `sequence` readable.
    pub fn is_pinned_before(&self, sequence: u64) -> bool {
        self.pins.borrow().keys().next().is_some_and(|moment| *moment < Moment { branch: 0, sequence })
    }

    /// Notes when a sequence was written, for retention by age.
    pub fn note_time(&self, sequence: u64, time_unix_ns: u64) {
        let Some(age_ns) = self.retention.get().age_ns else { return };
        let apart_ns = TIMES_APART_NS.max(age_ns / TIMES_MAX);
        let mut times = self.times.borrow_mut();
        if times.back().is_none_or(|last| time_unix_ns >= last.1.saturating_add(apart_ns)) {
            times.push_back((sequence, time_unix_ns));
        }
    }

    /// Lets the window's start follow what retention allows, up to `sequence`.
    pub fn release(&self, sequence: u64) {
        let retention = self.retention.get();
        if retention.bytes == 0 {
            self.retire(sequence);
            return;
        }
        let limit = (retention.bytes / self.block_bytes) as usize;
        let over = self.pending.borrow().len().saturating_sub(limit);
        if over > 0 {
            let through = self.pending.borrow()[over - 1].death.get();
            self.retire(through);
        }
        if let Some(age_ns) = retention.age_ns {
            let expired = {
                let mut times = self.times.borrow_mut();
                let newest = times.back().map_or(0, |last| last.1);
                let mut expired = None;
                while times.front().is_some_and(|first| first.1.saturating_add(age_ns) < newest) {
                    expired = times.pop_front();
                }
                expired
            };
            if let Some((through, _)) = expired {
                self.retire(through);
            }
        }
    }

    /// Moves the window's start: no moment before `sequence` can be opened any more, but for pinned ones, and those
    /// that a pinned base keeps. Whether it has moved.
    pub fn retire(&self, sequence: u64) -> bool {
        let sequence = sequence.min(self.floor.get());
        if sequence <= self.window.get() {
            return false;
        }
        self.window.set(sequence);
        // An image is written of the rows as they are in memory: the window that let their slots die goes with it.
        self.journal.state_mut().window = sequence;
        loop {
            let Some(first) = self.pending.borrow().front().copied() else { return true };
            if first.death.get() > sequence {
                return true;
            }
            self.pending.borrow_mut().pop_front();
            if !self.is_pinned_until(&first) {
                self.kill(first.place());
            }
        }
    }

    /// Gives up the older half of the past, because there is no room for it. False if none may be.
    pub fn forget_some(&self) -> bool {
        let middle = {
            let pending = self.pending.borrow();
            pending.get(pending.len() / 2).map(|death| death.death.get())
        };
        middle.is_some_and(|through| self.retire(through))
    }

    /// A slot dies: no moment needs it.
    pub fn kill(&self, place: (u32, u32)) {
        let at_home = place.0 >= HOME_FIRST;
        let place = match at_home.then(|| self.homecoming.borrow_mut().remove(place)).flatten() {
            // Its row has not learnt of it.
            Some(None) => return,
            Some(Some(log)) => log,
            None => place,
        };
        self.kill_in(&mut self.journal.state_mut(), place);
    }

    /// As [`Contents::kill`], inside a commit.
    pub fn kill_in(&self, state: &mut Metadata, (number, slot): (u32, u32)) {
        let lived = state.rows.get_mut(&number).is_some_and(|row| row.kill(slot));
        if lived
            && let Touched::Dead(slots) =
                self.touched.borrow_mut().entry(number).or_insert_with(|| Touched::Dead(Vec::new()))
        {
            slots.push(slot as u16);
        }
    }

    /// The earliest moment that can be opened.
    pub fn window(&self) -> u64 {
        self.window.get()
    }

    /// Bytes of superseded blocks that the window keeps.
    pub fn past_bytes(&self) -> u64 {
        self.pending.borrow().len() as u64 * self.block_bytes
    }

    /// Which moments can be opened.
    pub fn wanted(&self) -> Wanted {
        let moments = self.pins.borrow().keys().copied().collect();
        Wanted { window: self.window.get(), moments, gone: None }
    }

    /// How many blocks each pinned moment alone keeps: what comes free when nobody keeps that one any more, and nothing
    /// else has changed. One that is pinned twice keeps none alone.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn kept_alone(&self) -> Result<BTreeMap<Moment, u64>> {
        let (pins, window) = (self.pins.borrow().clone(), self.window.get());
        let unsettled = self.index.history().unsettled();
        let mut alone: BTreeMap<Moment, u64> = BTreeMap::new();
        let mut count = |death: &IndexDeath| {
            let [from, to] = moments_of(death);
            let mut seen = pins.range(from..to.max(from));
            let is_past = death.death.get() <= window;
            if let (Some((moment, 1)), None, true) = (seen.next(), seen.next(), is_past) {
                *alone.entry(*moment).or_default() += 1;
            }
        };
        let each = self.index.each_death(|death| {
            let has_place = has_slots(death.virtual_segment.get());
            let revives =
                |death: &IndexDeath| self.index.history().revives(death.birth.get(), death.death.get());
            if has_place && !(death.is_of_volume() && revives(&death)) {
                count(&death);
            }
        });
        each.await?;
        // What this one has discarded is dead, and nobody has noted it yet.
        if let Some(rollback) = unsettled {
            let entries = discarded(&self.index, rollback).await?;
            let placed = entries.iter().filter(|one| has_slots(one.virtual_segment.get()));
            let place = |entry: &IndexEntry| (entry.virtual_segment.get(), entry.slot.get());
            placed.for_each(|one| {
                count(&IndexDeath::new(0, one.sequence.get(), rollback.at, place(one)));
            });
        }
        Ok(alone)
    }

    /// Keeps a moment readable.
    pub fn pin(self: &Rc<Self>, moment: Moment) -> Pin {
        self.name(moment);
        Pin { contents: Rc::clone(self), moment }
    }

    /// Keeps a moment readable that a name says.
    pub fn name(&self, moment: Moment) {
        *self.pins.borrow_mut().entry(moment).or_default() += 1;
    }

    /// Whether a moment can be opened.
    pub fn can_open(&self, moment: Moment) -> bool {
        moment.sequence >= self.window.get() || self.pins.borrow().contains_key(&moment)
    }

    /// Gives a moment up: whoever has it pinned still keeps it.
    pub fn unpin(&self, moment: Moment) {
        let mut pins = self.pins.borrow_mut();
        let count = pins.get_mut(&moment).map(|count| {
            *count -= 1;
            *count
        });
        if count == Some(0) {
            pins.remove(&moment);
            if moment.sequence < self.window.get() {
                self.given_up.borrow_mut().insert(moment);
            }
        }
    }

    /// Whether a moment has a name, or somebody has an image of it open.
    pub fn is_pinned(&self, moment: Moment) -> bool {
        self.pins.borrow().contains_key(&moment)
    }

    /// Whether any moment of a branch is pinned.
    pub fn is_branch_pinned(&self, branch: u32) -> bool {
        let moments = Moment { branch, sequence: 0 }..Moment { branch: branch + 1, sequence: 0 };
        self.pins.borrow().range(moments).next().is_some()
    }

    /// Nothing of a branch is wanted any more: its superseded versions that the window keeps are taken from it, and
    /// nothing of it is in memory afterwards. Where they lie.
    pub fn forget_branch(&self, branch: u32) -> Vec<(u32, u32)> {
        self.index.forget_branch(branch);
        self.given_up.borrow_mut().retain(|moment| moment.branch != branch);
        let mut places = Vec::new();
        self.pending.borrow_mut().retain(|death| {
            let stays = u32::from(death.branch.get()) != branch;
            places.extend(Some(death.place()).filter(|_| !stays));
            stays
        });
        places
    }

    /// The log has been read: what was held back for an image that was open when the volume ended dies.
    pub fn let_go(&self) {
        for death in self.held_back.take() {
            let (birth, death_at) = (death.birth.get(), death.death.get());
            if !death.is_of_volume() || !self.index.history().revives(birth, death_at) {
                self.kill(death.place());
            }
        }
    }

    /// A moment that has been given up and is to be swept.
    pub fn given_up(&self) -> Option<Moment> {
        self.given_up.borrow().first().copied()
    }

    /// Lets go of what a moment alone has kept: what died behind it and not behind the next one that is kept.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn sweep(&self, moment: Moment) -> Result<()> {
        let Moment { branch, sequence } = moment;
        let later = Moment { branch, sequence: sequence + 1 }..Moment { branch: branch + 1, sequence: 0 };
        let next = self.pins.borrow().range(later).next().map_or(u64::MAX, |(next, _)| next.sequence);
        let deaths = self.index.deaths_between(sequence, next.min(self.window.get())).await?;
        for death in deaths.into_iter().filter(|death| u32::from(death.branch.get()) == branch) {
            let (birth, death_at) = (death.birth.get(), death.death.get());
            let is_revived = branch == 0 && self.index.history().revives(birth, death_at);
            let was_kept = birth <= sequence && !is_revived;
            let is_kept = self.is_pinned_until(&death);
            #[cfg(feature = "mutations")]
            let is_kept = is_kept && !crate::mutation::is_on(crate::mutation::Mutation::SweptTooMuch);
            if was_kept && death_at <= self.window.get() && !is_kept && !self.is_home_again(death).await? {
                self.kill(death.place());
            }
        }
        self.given_up.borrow_mut().remove(&moment);
        Ok(())
    }

    /// Whether a place at home holds newer content by now. Nothing else runs after the answer.
    async fn is_home_again(&self, death: IndexDeath) -> Result<bool> {
        let (number, slot) = death.place();
        // A place in a linear object is used once.
        if number < HOME_FIRST || self.index.blank(0).is_in_base() {
            return Ok(false);
        }
        let segment_blocks = u64::from(self.journal.state().segment_blocks());
        let lba = u64::from(number - HOME_FIRST) * segment_blocks + u64::from(slot);
        let now = self.index.current(lba).await?;
        Ok((now.virtual_segment, now.slot) == (number, slot))
    }

    /// The places in memory get their new names. No checkpoint is under way.
    pub fn rename(&self, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
        self.index.rename(&rename);
        let pending = &mut *self.pending.borrow_mut();
        pending.iter_mut().for_each(|death| rename_death(death, &rename));
        pending.retain(|death| death.virtual_segment.get() != BASE);
    }

    /// Rows have been gathered, and the places have their new names.
    pub fn carry_over(&self, gathered: &Gathered) {
        // What has died since the journal was told.
        let died = |touched: Option<Touched>| match touched {
            Some(Touched::Dead(slots)) => slots,
            _ => Vec::new(),
        };
        for number in gathered.rows() {
            let slots = died(self.touched.borrow_mut().remove(&number));
            for slot in slots {
                self.kill(gathered.rename((number, u32::from(slot))));
            }
        }
    }

    /// Keeps a physical segment from being used anew while it is read.
    pub fn reading(&self, physical: u32) -> Reading<'_> {
        self.readers.borrow_mut()[physical as usize] += 1;
        Reading { contents: self, physical }
    }

    /// Free segments that nobody reads, after `after`.
    pub fn free_segments_of(&self, state: &Metadata, after: u32) -> Vec<u32> {
        let readers = self.readers.borrow();
        state.free_after(after).filter(|at| readers[*at as usize] == 0).collect()
    }

    /// Has the journal learn all of a row at the next checkpoint.
    pub fn touch(&self, number: u32) {
        self.touched.borrow_mut().insert(number, Touched::Whole);
    }

    /// Whether anything has happened to rows that the journal does not know of.
    pub fn has_touched(&self) -> bool {
        !self.touched.borrow().is_empty()
    }

    /// The changes that tell the journal what has happened to rows since it was last told, and the window that
    /// goes with them. `stays`: segments that stay though nothing in them lives.
    pub fn take_touched(&self, state: &Metadata, stays: impl Fn(u32) -> bool) -> Vec<Change> {
        let mut changes = vec![Change::Window(self.window.get())];
        for (number, touched) in std::mem::take(&mut *self.touched.borrow_mut()) {
            let Some(row) = state.rows.get(&number) else { continue };
            if row.live_slots() == 0 && !stays(number) {
                changes.push(Change::RowRemoved(number));
                continue;
            }
            changes.push(match touched {
                Touched::Whole => row.change(number),
                Touched::Dead(slots) => Change::Dead(number, slots),
            });
        }
        changes
    }
}
