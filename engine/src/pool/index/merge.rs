//! Merging runs: adjacent ones become one, without the versions that no moment can see.
//!
//! A version that was born at b and superseded or discarded at d is seen by the moments m with b ≤ m < d. It goes
//! when none of these can be opened: d lies at or before the window's start, and no pinned moment lies between. The
//! newest version of a block always stays, but in the oldest run, where it says what no entry says too: zeroes, or, in a
//! volume with a base, that it lies there.
//!
//! Invariant: memory does not grow with the runs: they are read and written a piece at a time. It holds the deaths that
//! are still wanted, and the fences of the new run.

use std::collections::VecDeque;
use std::rc::Rc;

use super::Index;
use super::run::{Run, RunWriter};
use crate::error::Result;
use crate::format::index_page::{BASE, IndexDeath, IndexEntry};
use crate::pool::history::{History, Rollback};
use crate::units::{Moment, branch_of};

/// Pages read from a run at a time.
const READ_PAGES: u32 = 16;
/// Runs of about the same size that are merged to one.
const FAN_IN: usize = 4;

/// Which moments can still be opened.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// All from this sequence on.
    pub window: u64,
    /// And these, in order.
    pub moments: Vec<Moment>,
    /// A branch that has been given up: nothing of it is wanted.
    pub gone: Option<u32>,
}

impl Wanted {
    /// Whether a moment that can be opened sees a branch's version of these sequences.
    pub fn sees(&self, branch: u32, birth: u64, death: u64) -> bool {
        let [birth, end] = [birth, death].map(|sequence| Moment { branch, sequence });
        let next = self.moments.partition_point(|moment| *moment < birth);
        death > self.window || self.moments.get(next).is_some_and(|moment| *moment < end)
    }

    fn is_gone(&self, branch: u32) -> bool {
        self.gone == Some(branch)
    }
}

/// The runs to merge next, oldest first; empty if there is nothing to do. Of the newest runs, as many as are
/// not much smaller than what comes before them, so that each entry is rewritten once a level. `room`: pages that there are
/// for it, where they are few; what runs are merged to takes no more than they do.
pub fn choose(runs: &[Rc<Run>], room: Option<u32>) -> Vec<Rc<Run>> {
    let pages = |run: &Rc<Run>| u64::from(run.entry_pages()).max(1);
    for start in 0..runs.len() {
        let rest: u64 = runs[start + 1..].iter().map(pages).sum();
        let fits = room.is_none_or(|room| runs[start..].iter().map(|run| run.pages()).sum::<u32>() <= room);
        if fits && runs.len() - start >= FAN_IN && rest * 2 >= pages(&runs[start]) {
            return runs[start..].to_vec();
        }
    }
    Vec::new()
}

/// The entries of one run, in order.
struct Reader {
    run: Rc<Run>,
    next_page: u32,
    entries: std::vec::IntoIter<IndexEntry>,
    head: Option<IndexEntry>,
}

impl Reader {
    /// At the first entry of this block or a later one.
    async fn open(run: Rc<Run>, address: u64) -> Result<Self> {
        let next_page = run.first_page(address);
        let mut reader = Self { run, next_page, entries: Vec::new().into_iter(), head: None };
        reader.advance().await?;
        while reader.head.is_some_and(|head| head.lba.get() < address) {
            reader.advance().await?;
        }
        Ok(reader)
    }

    async fn advance(&mut self) -> Result<()> {
        self.head = self.entries.next();
        if self.head.is_none() && self.next_page < self.run.entry_pages() {
            let pages = READ_PAGES.min(self.run.entry_pages() - self.next_page);
            self.entries = self.run.entries(self.next_page, pages).await?.into_iter();
            self.next_page += pages;
            self.head = self.entries.next();
        }
        Ok(())
    }
}

/// The entries of several runs, in order; of those of one version the newest run's, which says where it lies now.
pub struct Readers(Vec<Reader>);

impl Readers {
    /// At the beginning of these runs.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn open(runs: impl Iterator<Item = &Rc<Run>>) -> Result<Self> {
        Self::open_from(runs, 0).await
    }

    /// At the first entry of a block or a later one.
    ///
    /// # Errors
    /// As [`Readers::open`].
    pub async fn open_from(runs: impl Iterator<Item = &Rc<Run>>, address: u64) -> Result<Self> {
        let mut readers = Vec::new();
        for run in runs {
            readers.push(Reader::open(Rc::clone(run), address).await?);
        }
        Ok(Self(readers))
    }

    /// The next entry.
    ///
    /// # Errors
    /// As [`Readers::open`].
    pub async fn next(&mut self) -> Result<Option<IndexEntry>> {
        let key = |entry: &IndexEntry| (entry.lba.get(), entry.sequence.get());
        let heads = self.0.iter().filter_map(|reader| reader.head.as_ref());
        let Some(smallest) = heads.map(key).min() else { return Ok(None) };
        let mut found = None;
        for reader in self.0.iter_mut().filter(|reader| reader.head.as_ref().map(key) == Some(smallest)) {
            found = reader.head;
            reader.advance().await?;
        }
        Ok(found)
    }
}

/// A version that is not decided on yet, or waits for an older one that is not.
struct Waiting {
    entry: IndexEntry,
    /// The return that discarded it.
    discarded_at: u64,
    stays: Option<bool>,
}

/// The versions of one block at a time, in order: which of them a moment that can be opened sees.
///
/// A version dies when it is discarded, or by the next one that was not discarded before it.
struct Judge<'a> {
    wanted: &'a Wanted,
    history: &'a History,
    waiting: VecDeque<Waiting>,
}

impl Judge<'_> {
    /// The next version of the block that the others are of.
    fn take(&mut self, entry: IndexEntry) {
        let (branch, birth) = (branch_of(entry.lba.get()), entry.sequence.get());
        let discarded_at = if branch == 0 { self.history.discarded_at(birth) } else { u64::MAX };
        for older in self.waiting.iter_mut().filter(|older| older.stays.is_none()) {
            let sees = self.wanted.sees(branch, older.entry.sequence.get(), birth.min(older.discarded_at));
            if sees || discarded_at >= older.discarded_at {
                older.stays = Some(sees);
            }
        }
        self.waiting.push_back(Waiting { entry, discarded_at, stays: None });
    }

    /// There are no more of this block.
    fn end(&mut self) {
        for older in self.waiting.iter_mut().filter(|older| older.stays.is_none()) {
            let birth = older.entry.sequence.get();
            let branch = branch_of(older.entry.lba.get());
            let lives = older.discarded_at == u64::MAX;
            older.stays = Some(lives || self.wanted.sees(branch, birth, older.discarded_at));
        }
    }

    /// The next version that stays, as soon as all older ones are decided on.
    fn give(&mut self) -> Option<IndexEntry> {
        while let Some(stays) = self.waiting.front()?.stays {
            let first = self.waiting.pop_front()?;
            if stays {
                return Some(first.entry);
            }
        }
        None
    }
}

/// Gives a death's place its new name.
pub fn rename_death(death: &mut IndexDeath, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
    let (virtual_segment, slot) = rename(death.birth.get(), death.place());
    (death.virtual_segment, death.slot) = (virtual_segment.into(), (slot as u16).into());
}

/// Gives the place of an entry its new name; in the base it has none.
pub fn rename_entry(entry: &mut IndexEntry, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
    let place = (entry.virtual_segment.get(), entry.slot.get());
    let (number, slot) = rename(entry.sequence.get(), place);
    (entry.virtual_segment, entry.slot) = (number.into(), slot.into());
    if number == BASE {
        entry.checksum = 0.into();
    }
}

/// Merges runs that follow each other. `oldest`: no run is older than these. `rename` gives the name that the place
/// (virtual segment and slot) of a version of this birth goes by from now on; in the base it has none. `None` if nothing is left.
///
/// # Errors
/// `MetadataDamaged`, `MetadataFull`, and what the device says.
pub async fn merge(
    index: &Index,
    runs: &[Rc<Run>],
    number: u64,
    oldest: bool,
    wanted: &Wanted,
    rename: impl Fn(u64, (u32, u32)) -> (u32, u32),
) -> Result<Option<Rc<Run>>> {
    let history = index.history().clone();
    let mut deaths: Vec<IndexDeath> = Vec::new();
    for run in runs {
        let counts = |death: &IndexDeath| {
            let (branch, birth, at) = (death.branch.get().into(), death.birth.get(), death.death.get());
            let is_revived = branch == 0 && history.revives(birth, at);
            wanted.sees(branch, birth, at) && !is_revived && !wanted.is_gone(branch)
        };
        run.deaths(|death| deaths.extend(Some(death).filter(counts))).await?;
    }
    deaths.sort_unstable_by_key(|death| death.death.get());
    deaths.iter_mut().for_each(|death| rename_death(death, &rename));
    deaths.retain(|death| death.virtual_segment.get() != BASE);
    let mut readers = Readers::open(runs.iter()).await?;
    let mut writer = RunWriter::new(index.pages(), number);
    let mut judge = Judge { wanted, history: &history, waiting: VecDeque::new() };
    let mut next = readers.next().await?;
    while let Some(first) = next {
        let blank = index.blank(first.lba.get()).virtual_segment;
        let is_gone = wanted.is_gone(branch_of(first.lba.get()));
        // Whether an older version of the block at hand has been written.
        let mut has_older = false;
        while let Some(entry) = next.filter(|entry| entry.lba == first.lba) {
            judge.take(entry);
            next = readers.next().await?;
            if next.is_none_or(|next| next.lba != first.lba) {
                judge.end();
            }
            while let Some(mut entry) = judge.give() {
                rename_entry(&mut entry, &rename);
                let says_nothing = oldest && !has_older && entry.virtual_segment == blank;
                if !says_nothing && !is_gone {
                    writer.push(&entry).await?;
                    has_older = true;
                }
            }
        }
    }
    if writer.entries() == 0 && deaths.is_empty() {
        return Ok(None);
    }
    let order = runs.iter().map(|run| run.order()).max().unwrap_or(number);
    let first = runs.first().map_or(0, |run| run.first_sequence());
    let last = runs.last().map_or(0, |run| run.last_sequence());
    Ok(Some(Rc::new(writer.finish(&deaths, (first, last), order).await?)))
}

/// The newest version of each block that a return has discarded. Nothing of what it discarded has been thrown away.
///
/// # Errors
/// `MetadataDamaged`, and what the device says.
pub async fn discarded(index: &Index, rollback: Rollback) -> Result<Vec<IndexEntry>> {
    let line = index.history().line(rollback.at - 1);
    let runs = index.runs();
    let mut readers = Readers::open(runs.iter().filter(|run| run.last_sequence() > rollback.to)).await?;
    let mut found: Vec<IndexEntry> = Vec::new();
    while let Some(entry) = readers.next().await? {
        let sequence = entry.sequence.get();
        let is_of_volume = branch_of(entry.lba.get()) == 0;
        if !is_of_volume || sequence <= rollback.to || !line.sees(sequence) {
            continue;
        }
        match found.last_mut().filter(|last| last.lba == entry.lba) {
            Some(last) => *last = entry,
            None => found.push(entry),
        }
    }
    Ok(found)
}
