//! Merging runs: adjacent ones become one, without the versions that no moment can see.
//!
//! A version that was born at b and superseded at d is seen by the moments m with b ≤ m < d. It goes when none of
//! these can be opened: d lies at or before the window's start, and no pinned moment lies between. The newest
//! version of a block always stays, but for zeroes in the oldest run, which say what no entry says too.
//!
//! Invariant: memory does not grow with the runs: they are read and written a piece at a time. It holds the deaths that
//! are still wanted, and the fences of the new run.

use std::rc::Rc;

use super::Index;
use super::run::{Run, RunWriter};
use crate::error::Result;
use crate::format::index_page::{IndexDeath, IndexEntry, ZERO};

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
    pub moments: Vec<u64>,
}

impl Wanted {
    /// Whether a moment that can be opened sees a version of these sequences.
    pub fn sees(&self, birth: u64, death: u64) -> bool {
        let next = self.moments.partition_point(|moment| *moment < birth);
        death > self.window || self.moments.get(next).is_some_and(|moment| *moment < death)
    }
}

/// The runs to merge next, oldest first; empty if there is nothing to do. Of the newest runs, as many as are
/// not much smaller than what comes before them, so that each entry is rewritten once a level.
pub fn choose(runs: &[Rc<Run>]) -> Vec<Rc<Run>> {
    let pages = |run: &Rc<Run>| u64::from(run.entry_pages()).max(1);
    for start in 0..runs.len() {
        let rest: u64 = runs[start + 1..].iter().map(pages).sum();
        if runs.len() - start >= FAN_IN && rest * 2 >= pages(&runs[start]) {
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
    async fn open(run: Rc<Run>) -> Result<Self> {
        let mut reader = Self { run, next_page: 0, entries: Vec::new().into_iter(), head: None };
        reader.advance().await?;
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

/// Gives a death's place its new name.
pub fn rename_death(death: &mut IndexDeath, rename: impl Fn((u32, u32)) -> (u32, u32)) {
    let (virtual_segment, slot) = rename(death.place());
    (death.virtual_segment, death.slot) = (virtual_segment.into(), slot.into());
}

/// Merges runs that follow each other. `oldest`: no run is older than these. `rename` gives the name that a place
/// (virtual segment and slot) goes by from now on. `None` if nothing is left.
///
/// # Errors
/// `MetadataDamaged`, `MetadataFull`, and what the device says.
pub async fn merge(
    index: &Index,
    runs: &[Rc<Run>],
    number: u64,
    oldest: bool,
    wanted: &Wanted,
    rename: impl Fn((u32, u32)) -> (u32, u32),
) -> Result<Option<Rc<Run>>> {
    let mut readers = Vec::with_capacity(runs.len());
    let mut deaths: Vec<IndexDeath> = Vec::new();
    for run in runs {
        let wanted = |death: &IndexDeath| wanted.sees(death.birth.get(), death.death.get());
        run.deaths(|death| deaths.extend(Some(death).filter(wanted))).await?;
        readers.push(Reader::open(Rc::clone(run)).await?);
    }
    deaths.sort_unstable_by_key(|death| death.death.get());
    deaths.iter_mut().for_each(|death| rename_death(death, &rename));
    let key = |entry: &IndexEntry| (entry.lba.get(), entry.sequence.get());
    let mut writer = RunWriter::new(index.pages(), number);
    let mut before: Option<IndexEntry> = None;
    // Whether an older version of the block at hand has been written.
    let mut has_older = false;
    loop {
        let smallest = readers
            .iter_mut()
            .filter(|reader| reader.head.is_some())
            .min_by_key(|reader| reader.head.as_ref().map(key));
        let next = match smallest {
            Some(reader) => {
                let head = reader.head;
                reader.advance().await?;
                head
            }
            None => None,
        };
        if let Some(entry) = before.take() {
            let superseded = next.filter(|next| next.lba == entry.lba);
            // The same version in a newer run has moved: its entry there counts.
            let seen = superseded.is_none_or(|next| {
                next.sequence != entry.sequence && wanted.sees(entry.sequence.get(), next.sequence.get())
            });
            let says_nothing = oldest && !has_older && entry.virtual_segment.get() == ZERO;
            if seen && !says_nothing {
                let (virtual_segment, slot) = rename((entry.virtual_segment.get(), entry.slot.get()));
                let (virtual_segment, slot) = (virtual_segment.into(), slot.into());
                writer.push(&IndexEntry { virtual_segment, slot, ..entry }).await?;
                has_older = true;
            }
            has_older &= superseded.is_some();
        }
        match next {
            Some(_) => before = next,
            None => break,
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
