//! The versioned index: where every version of every block lies that can still be read.
//!
//! Three parts. The *runs* on the device hold the versions up to the last checkpoint, sorted by block and
//! sequence ([`run`]). The *fresh* list holds the versions since, in memory, and becomes the next run. The
//! *current image* in front holds for pages of blocks where the newest version lies ([`current`]).
//!
//! Invariants: a page of the current image with versions that are in no run yet stays in memory; what a newer run
//! says of a block is newer than what older ones say, or says anew where a version lies; a superseded version that a moment can still see is in the list of deaths until no moment can.

pub mod current;
pub mod difference;
pub mod merge;
pub mod run;

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;

use super::history::{History, Line, Rollback};
use crate::error::Result;
use crate::format::index_page::{BASE, IndexDeath, IndexEntry, ZERO};
use crate::units::{Moment, branch_of};
use current::{Current, Held, PAGE_BLOCKS, Version};
use run::{Pages, Run, RunWriter};

/// Versions that are in no run yet.
#[derive(Debug, Default)]
struct Fresh {
    entries: Vec<IndexEntry>,
    deaths: Vec<IndexDeath>,
    /// Versions that the base had and that have been saved since, by block and sequence: images look for them.
    saved: BTreeMap<(u64, u64), Version>,
}

/// The index of one pool.
#[derive(Debug)]
pub struct Index {
    pages: Rc<Pages>,
    current: RefCell<Current>,
    fresh: RefCell<Fresh>,
    /// What a checkpoint is writing.
    frozen: RefCell<Fresh>,
    /// Replaced as a whole, so that who looks something up shares it.
    runs: RefCell<Rc<[Rc<Run>]>>,
    /// Counts checkpoints; pages changed since number n are dirty while n has not ended.
    checkpoint: Cell<u64>,
    /// Counts what a page that is being read meanwhile would miss: versions that came into a run, new names.
    changes: Cell<u64>,
    history: RefCell<History>,
    /// What a block is that no entry names.
    blank: Version,
    /// Branches with nothing behind them.
    volumes: RefCell<BTreeSet<u32>>,
}

/// Holds pages of the current image in memory while a write is under way.
#[derive(Debug)]
pub struct Pinned {
    index: Rc<Index>,
    /// Most writes lie in one page.
    first: Option<Held>,
    /// The others, in the order of their numbers.
    more: Vec<Held>,
}

impl Pinned {
    fn none(index: &Rc<Index>) -> Self {
        Self { index: Rc::clone(index), first: None, more: Vec::new() }
    }

    fn add(&mut self, held: Held) {
        match self.first {
            None => self.first = Some(held),
            Some(_) => self.more.push(held),
        }
    }

    #[inline]
    fn find(&self, page: u64) -> Option<Held> {
        self.first.filter(|held| held.page == page).or_else(|| {
            let at = self.more.binary_search_by_key(&page, |held| held.page).ok()?;
            Some(self.more[at])
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut current = self.index.current.borrow_mut();
        self.first.iter().chain(&self.more).for_each(|held| current.unpin(*held));
    }
}

impl Index {
    /// An index over these runs, oldest first, of a volume with this history; `budget_bytes` of memory for pages and
    /// the current image. `blank`: what a block is that no entry names.
    pub fn new(
        pages: Rc<Pages>,
        runs: Vec<Rc<Run>>,
        history: History,
        budget_bytes: usize,
        blank: Version,
    ) -> Rc<Self> {
        Rc::new(Self {
            current: RefCell::new(Current::new(budget_bytes / 4 * 3)),
            pages,
            fresh: RefCell::default(),
            frozen: RefCell::default(),
            runs: RefCell::new(runs.into()),
            checkpoint: Cell::new(1),
            changes: Cell::new(0),
            history: RefCell::new(history),
            blank,
            volumes: RefCell::default(),
        })
    }

    /// What a block of this number is that no entry names.
    pub fn blank(&self, address: u64) -> Version {
        match branch_of(address) {
            0 => self.blank,
            branch if self.volumes.borrow().contains(&branch) => Version::NONE,
            _ => Version::INHERITED,
        }
    }

    /// From now on a branch of this number has nothing behind it.
    pub fn begin_volume(&self, branch: u32) {
        self.volumes.borrow_mut().insert(branch);
    }

    /// What a moment sees of the entries of its branch: returns to earlier moments are the volume's alone.
    pub fn line(&self, moment: Moment) -> Line {
        match moment.branch {
            0 => self.history.borrow().line(moment.sequence),
            _ => History::default().line(moment.sequence),
        }
    }

    /// Gives up what is in memory of a branch that nobody uses any more.
    pub fn forget_branch(&self, branch: u32) {
        self.current.borrow_mut().forget_branch(branch);
        self.volumes.borrow_mut().remove(&branch);
        self.changes.set(self.changes.get() + 1);
    }

    /// Where the current version of a block lies, if that is in memory.
    #[inline]
    pub fn current_now(&self, lba: u64) -> Option<Version> {
        self.current.borrow_mut().get(lba)
    }

    /// Where the current version of a block lies.
    ///
    /// # Errors
    /// `MetadataDamaged` and what the device says.
    pub async fn current(&self, lba: u64) -> Result<Version> {
        loop {
            if let Some(version) = self.current_now(lba) {
                return Ok(version);
            }
            self.fill(lba / PAGE_BLOCKS).await?;
        }
    }

    /// Brings a page into memory. Boxed, because it is long and seldom: in place it would lie in every request.
    fn fill(&self, page: u64) -> Pin<Box<dyn Future<Output = Result<()>> + '_>> {
        Box::pin(self.read_page(page))
    }

    async fn read_page(&self, page: u64) -> Result<()> {
        let first = page * PAGE_BLOCKS;
        let mut versions = [self.blank(first); PAGE_BLOCKS as usize];
        let is_of_volume = branch_of(first) == 0;
        let changes = self.changes.get();
        let runs = self.runs();
        for run in runs.iter() {
            // Oldest run first, and within a run the oldest version first: the last one stays.
            run.range(&self.pages, first, first + PAGE_BLOCKS, |entry| {
                let is_current = !is_of_volume || self.history.borrow().is_current(entry.sequence.get());
                #[cfg(feature = "mutations")]
                let is_current =
                    is_current || crate::mutation::is_on(crate::mutation::Mutation::DiscardedShown);
                if !is_current {
                    return;
                }
                versions[(entry.lba.get() - first) as usize] = Version::of(entry);
            })
            .await?;
        }
        // A page that came, changed and went while this one was read is in a run that was not looked at, and names
        // that were read may be old ones.
        if self.changes.get() == changes {
            self.current.borrow_mut().insert(page, versions);
        }
        Ok(())
    }

    /// Brings the pages of a range into memory and holds them there, so that [`Index::note`] finds them.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn pin(self: &Rc<Self>, lba: u64, blocks: u64) -> Result<Pinned> {
        let (mut page, end) = (lba / PAGE_BLOCKS, (lba + blocks).div_ceil(PAGE_BLOCKS));
        let mut pinned = Pinned::none(self);
        while page < end {
            let held = self.current.borrow_mut().pin(page);
            if let Some(held) = held {
                pinned.add(held);
                page += 1;
            } else {
                self.fill(page).await?;
            }
        }
        Ok(pinned)
    }

    /// As [`Index::pin`], but only pages with blocks that do not read as zero.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn pin_written(self: &Rc<Self>, lba: u64, blocks: u64) -> Result<Pinned> {
        if !self.blank(lba).is_zero() {
            return self.pin(lba, blocks).await;
        }
        let mut pinned = Pinned::none(self);
        let (mut page, end) = (lba / PAGE_BLOCKS, (lba + blocks).div_ceil(PAGE_BLOCKS));
        while page < end {
            let held = self.current.borrow_mut().pin_if_written(page);
            match held {
                Some(Some(held)) => pinned.add(held),
                Some(None) => {}
                None => {
                    // Neither in memory nor, before the next block of a run, on the device.
                    let next = self.next_page(page);
                    if next == Some(page) {
                        self.fill(page).await?;
                    } else {
                        page = next.unwrap_or(end);
                    }
                    continue;
                }
            }
            page += 1;
        }
        Ok(pinned)
    }

    /// The first page at or after this one that is in memory or that a run may know something of.
    fn next_page(&self, page: u64) -> Option<u64> {
        let in_memory = self.current.borrow().next_page(page);
        let runs = self.runs.borrow();
        let of_runs = runs.iter().filter_map(|run| run.next_block(page * PAGE_BLOCKS));
        of_runs.map(|lba| lba / PAGE_BLOCKS).chain(in_memory).min()
    }

    /// Notes that a block has a new version, and tells which one it supersedes. Its page is pinned; where that is
    /// said by whom, it is not looked for. A version of zeroes over a block that reads as zero is none.
    pub fn note(&self, lba: u64, version: Version, pinned: Option<&Pinned>) -> Version {
        let page = lba / PAGE_BLOCKS;
        let mut current = self.current.borrow_mut();
        let held = pinned.and_then(|pinned| pinned.find(page)).or_else(|| current.find(page));
        let Some(held) = held else { unreachable!("the page of a block that is written is pinned") };
        let before = current.replace(held, lba, version, self.checkpoint.get());
        drop(current);
        if before.virtual_segment == ZERO && version.virtual_segment == ZERO {
            return before;
        }
        let mut fresh = self.fresh.borrow_mut();
        fresh.entries.push(version.entry(lba));
        before
    }

    /// Notes that the base's version of a block, the current one, lies elsewhere from now on, because the base gets new
    /// content at `sequence`. Its page is pinned.
    pub fn note_saved(&self, lba: u64, version: Version, sequence: u64, pinned: &Pinned) {
        {
            let fresh = &mut *self.fresh.borrow_mut();
            fresh.entries.push(version.entry(lba));
            fresh.saved.insert((lba, version.birth), version);
        }
        self.note(lba, Version { birth: sequence, ..Version::IN_BASE }, Some(pinned));
    }

    /// What the base holds of a block whose current version `now` lies elsewhere, and the versions since then, oldest first,
    /// that one included. `None` where that has been copied. All but `now` are in runs.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn in_base(&self, lba: u64, now: &Version) -> Result<Option<(Version, Vec<IndexEntry>)>> {
        let (runs, mut later) = (self.runs(), vec![now.entry(lba)]);
        let held = loop {
            let oldest = later.last().map_or(0, |entry| entry.sequence.get());
            // What the volume was at first lies elsewhere.
            let Some(before) = oldest.checked_sub(1) else { return Ok(None) };
            match self.newest(&runs, lba, before).await? {
                None => break self.blank(lba),
                Some(entry) if entry.virtual_segment.get() == BASE => break Version::of(&entry),
                Some(entry) => later.push(entry),
            }
        };
        later.reverse();
        Ok(Some((held, later)))
    }

    /// Notes where a version of a block lies that the base has held, and anew where the later ones do: what a run says of a
    /// block is believed of all its versions up to the newest one there.
    pub fn note_copied(&self, lba: u64, copy: Version, later: &[IndexEntry]) {
        let fresh = &mut *self.fresh.borrow_mut();
        fresh.entries.push(copy.entry(lba));
        fresh.entries.extend_from_slice(later);
    }

    /// The run of the checkpoint that is about to begin says that the base has this version of a block. The current image
    /// learns of it by [`Index::found_in_base`], once that is durable.
    pub fn note_in_base(&self, lba: u64, birth: u64) {
        self.fresh.borrow_mut().entries.push(Version { birth, ..Version::IN_BASE }.entry(lba));
    }

    /// A run on the device says that the base has these versions. Who has superseded one meanwhile has noted its death where it
    /// lay: nothing lies there any more.
    pub fn found_in_base(&self, moved: &BTreeMap<(u32, u32), (u64, Version)>) {
        self.fresh.borrow_mut().deaths.retain(|death| !moved.contains_key(&death.place()));
        let mut current = self.current.borrow_mut();
        for (lba, version) in moved.values() {
            current.rename_one(*lba, *version, Version { birth: version.birth, ..Version::IN_BASE });
        }
    }

    /// The version of a block that a moment sees, if that was in the base and has been saved since the last checkpoint.
    pub fn saved_since(&self, lba: u64, moment: u64) -> Option<Version> {
        let find = |fresh: &RefCell<Fresh>| {
            let fresh = fresh.borrow();
            fresh.saved.range((lba, 0)..=(lba, moment)).next_back().map(|(_, version)| *version)
        };
        let found = [find(&self.fresh), find(&self.frozen)];
        found.into_iter().flatten().max_by_key(|version| version.birth)
    }

    /// The volume's returns to earlier moments.
    pub fn history(&self) -> Ref<'_, History> {
        self.history.borrow()
    }

    /// Counts checkpoints and new names: while it stands, a page with versions that were in no run is in memory.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Whether runs hold all there is to know.
    pub fn is_clean(&self) -> bool {
        let is_empty = |fresh: &RefCell<Fresh>| fresh.borrow().entries.is_empty();
        is_empty(&self.fresh) && is_empty(&self.frozen)
    }

    /// Whether it names nothing: each block is what one is that no entry names, in every moment.
    pub fn is_blank(&self) -> bool {
        self.is_clean() && self.runs.borrow().is_empty()
    }

    /// The volume has gone back to an earlier moment: the current image is read anew. It is clean.
    pub fn roll_back(&self, rollback: Rollback) {
        assert!(self.is_clean(), "what is discarded is in runs");
        self.history.borrow_mut().add(rollback);
        self.current.borrow_mut().forget();
        self.changes.set(self.changes.get() + 1);
    }

    /// The deaths of what the return at `at` discarded have been noted.
    pub fn settle(&self, at: u64) {
        self.history.borrow_mut().settle(at);
    }

    /// Keeps the death of a version that a moment may still see.
    pub fn note_death(&self, death: IndexDeath) {
        self.fresh.borrow_mut().deaths.push(death);
    }

    /// Every death that is known at the time of the call.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn each_death(&self, mut tell: impl FnMut(IndexDeath)) -> Result<()> {
        let runs = self.runs();
        for fresh in [&self.frozen, &self.fresh] {
            fresh.borrow().deaths.iter().copied().for_each(&mut tell);
        }
        for run in runs.iter() {
            run.deaths(&mut tell).await?;
        }
        Ok(())
    }

    /// The deaths behind `first` and up to `last` that are kept.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn deaths_between(&self, first: u64, last: u64) -> Result<Vec<IndexDeath>> {
        let is_between = |death: &IndexDeath| first < death.death.get() && death.death.get() <= last;
        let mut found = Vec::new();
        for fresh in [&self.frozen, &self.fresh] {
            found.extend(fresh.borrow().deaths.iter().filter(|death| is_between(death)));
        }
        let runs = self.runs();
        for run in runs.iter().filter(|run| run.last_sequence() > first) {
            run.deaths_between(first, last, |death| found.extend(Some(death).filter(is_between))).await?;
        }
        Ok(found)
    }

    /// Block and sequence of each version that is in no run.
    fn fresh_versions(&self) -> impl Iterator<Item = (u64, u64)> {
        let versions = |fresh: &RefCell<Fresh>| {
            let fresh = fresh.borrow();
            let keys = fresh.entries.iter().map(|entry| (entry.lba.get(), entry.sequence.get()));
            keys.collect::<Vec<_>>()
        };
        versions(&self.frozen).into_iter().chain(versions(&self.fresh))
    }

    /// Versions that are in no run.
    fn fresh_entries(&self) -> usize {
        self.fresh.borrow().entries.len() + self.frozen.borrow().entries.len()
    }

    /// Bytes of the index in memory.
    pub fn memory_bytes(&self) -> usize {
        self.current.borrow().memory_bytes()
            + self.pages.memory_bytes()
            + self.runs.borrow().iter().map(|run| run.memory_bytes()).sum::<usize>()
            + self.fresh_entries() * size_of::<IndexEntry>()
    }

    /// Whether so many pages, or versions, wait for a checkpoint that one is due. `entries_max`: versions in memory
    /// at most.
    pub fn is_crowded(&self, entries_max: usize) -> bool {
        self.current.borrow().is_crowded() || self.fresh_entries() * 2 > entries_max
    }

    /// Whether so many wait that nothing may be added before a checkpoint has ended.
    pub fn is_full(&self, entries_max: usize) -> bool {
        self.current.borrow().is_full() || self.fresh_entries() > entries_max
    }

    /// Begins a checkpoint: from now on, new versions belong to the next one.
    pub fn freeze(&self) {
        assert!(self.frozen.borrow().entries.is_empty(), "one checkpoint at a time");
        self.checkpoint.set(self.checkpoint.get() + 1);
        self.frozen.swap(&self.fresh);
    }

    /// Writes what was frozen as a run; `None` if that is nothing.
    ///
    /// # Errors
    /// `MetadataFull` where the index area has no room, and what the device says.
    pub async fn write_frozen(&self, number: u64, sequences: (u64, u64)) -> Result<Option<Rc<Run>>> {
        let (mut entries, mut deaths) = {
            let frozen = self.frozen.borrow();
            (frozen.entries.clone(), frozen.deaths.clone())
        };
        if entries.is_empty() && deaths.is_empty() {
            return Ok(None);
        }
        // A version that has moved home is here twice: the later place counts.
        let key = |entry: &IndexEntry| (entry.lba.get(), entry.sequence.get());
        entries.reverse();
        entries.sort_by_key(key);
        entries.dedup_by_key(|entry| key(entry));
        deaths.sort_unstable_by_key(|death| death.death.get());
        let mut writer = RunWriter::new(&self.pages, number);
        for entry in &entries {
            writer.push(entry).await?;
        }
        Ok(Some(Rc::new(writer.finish(&deaths, sequences, number).await?)))
    }

    /// Ends a checkpoint whose run is durable and named by the journal.
    pub fn thaw(&self, run: Option<Rc<Run>>) {
        *self.frozen.borrow_mut() = Fresh::default();
        let runs = self.runs().iter().cloned().chain(run).collect();
        self.runs.replace(runs);
        self.changes.set(self.changes.get() + 1);
        self.current.borrow_mut().clean_before(self.checkpoint.get());
    }

    /// Gives the places that are in memory their new names. No checkpoint is under way.
    pub fn rename(&self, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
        self.changes.set(self.changes.get() + 1);
        self.current.borrow_mut().rename(&rename);
        let fresh = &mut *self.fresh.borrow_mut();
        fresh.entries.iter_mut().for_each(|entry| merge::rename_entry(entry, &rename));
        fresh.deaths.iter_mut().for_each(|death| merge::rename_death(death, &rename));
        fresh.deaths.retain(|death| death.virtual_segment.get() != BASE);
        fresh.saved.values_mut().for_each(|version| version.rename(&rename));
    }

    /// Replaces adjacent runs by what they were merged to.
    pub fn replace(&self, merged: &[Rc<Run>], by: Option<Rc<Run>>) {
        let mut runs = self.runs().to_vec();
        runs.retain(|run| !merged.iter().any(|gone| Rc::ptr_eq(gone, run)));
        runs.extend(by);
        runs.sort_by_key(|run| run.order());
        self.runs.replace(runs.into());
    }

    /// The runs, oldest first.
    pub fn runs(&self) -> Rc<[Rc<Run>]> {
        Rc::clone(&self.runs.borrow())
    }

    /// Where pages are read, written and kept.
    pub fn pages(&self) -> &Rc<Pages> {
        &self.pages
    }

    /// All versions of a block that the index knows, oldest first, zeroes included.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn versions(&self, lba: u64) -> Result<Vec<IndexEntry>> {
        // A checkpoint may move versions from memory to a run meanwhile: memory is looked at first, and what it
        // says counts, because it is later.
        let mut in_memory = BTreeMap::new();
        for fresh in [&self.frozen, &self.fresh] {
            let fresh = fresh.borrow();
            let of_block = fresh.entries.iter().filter(|entry| entry.lba.get() == lba);
            in_memory.extend(of_block.map(|entry| (entry.sequence.get(), *entry)));
        }
        let mut found = BTreeMap::new();
        let runs = self.runs();
        for run in runs.iter() {
            run.range(&self.pages, lba, lba + 1, |entry| {
                found.insert(entry.sequence.get(), *entry);
            })
            .await?;
        }
        found.extend(in_memory);
        Ok(found.into_values().collect())
    }

    /// The newest version of a block, born at or before `sequence`, that a line sees, in these runs.
    ///
    /// # Errors
    /// As [`Index::current`].
    pub async fn find(
        &self,
        runs: &[Rc<Run>],
        line: &Line,
        lba: u64,
        sequence: u64,
    ) -> Result<Option<IndexEntry>> {
        let mut at = line.last_before(sequence);
        while let Some(sequence) = at {
            let Some(found) = self.newest(runs, lba, sequence).await? else { break };
            if line.sees(found.sequence.get()) {
                return Ok(Some(found));
            }
            at = line.last_before(found.sequence.get());
        }
        Ok(None)
    }

    /// The newest version of a block born at or before a sequence.
    async fn newest(&self, runs: &[Rc<Run>], lba: u64, sequence: u64) -> Result<Option<IndexEntry>> {
        let newest_first = runs.iter().rev();
        #[cfg(feature = "mutations")]
        let newest_first = {
            let oldest_first = crate::mutation::is_on(crate::mutation::Mutation::OldestFirst);
            let mut runs: Vec<_> = newest_first.collect();
            if oldest_first {
                runs.reverse();
            }
            runs.into_iter()
        };
        for run in newest_first {
            // With a base, a later run may say where an earlier version has been saved.
            if (run.first_sequence() <= sequence || self.blank.is_in_base())
                && let Some(entry) = run.find(&self.pages, lba, sequence).await?
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}
