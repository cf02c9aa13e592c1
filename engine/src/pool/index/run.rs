//! A run: versions sorted by block and sequence, in pages of the pool's index area; written once.
//!
//! In order: entry pages, death pages, fence pages. The fences are in memory while the run is open, so that a
//! look-up reads one page. Pages are kept within a budget.
//!
//! Invariants: a page belongs to one run at most; the pages of a replaced run are given back when nobody reads
//! it any more; a page with a wrong checksum, run, number or address is damage and never taken for data.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::index_page::{self, IndexDeath, IndexEntry, IndexFence, Item, PAGE_BYTES};
use crate::format::journal;
use crate::format::superblock::Area;
use crate::pool::metadata::RunInfo;
use crate::units::ByteOffset;

/// Pages written with one request, and read ahead.
const WRITE_PAGES: usize = 64;
/// Pages of deaths that are looked at together.
const DEATH_PAGES: u32 = 16;

/// The index area: its device, its free pages, its pages in memory.
#[derive(Debug)]
pub struct Pages {
    device: Device,
    area: Area,
    used: RefCell<Vec<bool>>,
    next: Cell<usize>,
    cache: RefCell<Cache>,
}

/// A page of entries in memory.
#[derive(Debug)]
struct Cached {
    /// The number of its run, and its own there.
    key: (u64, u32),
    entries: Rc<[IndexEntry]>,
    /// Since the hand passed.
    used: bool,
}

#[derive(Debug, Default)]
struct Cache {
    /// Each in its place until another one takes that.
    pages: Vec<Cached>,
    pages_max: usize,
    hand: usize,
}

impl Pages {
    /// The pages of this area, all free; `budget_bytes` of memory for some of them.
    pub fn new(device: &Device, area: Area, budget_bytes: usize) -> Rc<Self> {
        let pages = (area.bytes.get() / PAGE_BYTES as u64) as usize;
        let cache = Cache { pages_max: (budget_bytes / PAGE_BYTES).max(4), ..Cache::default() };
        Rc::new(Self {
            device: device.clone(),
            area,
            used: RefCell::new(vec![false; pages]),
            next: Cell::new(0),
            cache: RefCell::new(cache),
        })
    }

    /// Pages in all.
    pub fn len(&self) -> u32 {
        self.used.borrow().len() as u32
    }

    /// Pages that nothing lies in.
    pub fn free(&self) -> u32 {
        self.used.borrow().iter().filter(|used| !**used).count() as u32
    }

    /// Whether there is no page at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of pages in memory.
    pub fn memory_bytes(&self) -> usize {
        self.cache.borrow().pages.len() * (PAGE_BYTES + 64)
    }

    fn address(&self, page: u32) -> u64 {
        self.area.offset.get() + u64::from(page) * PAGE_BYTES as u64
    }

    /// Up to `pages` free pages in a row.
    fn take(&self, pages: usize) -> Result<(u32, u32)> {
        let mut used = self.used.borrow_mut();
        let free = |at: &usize| !used[*at];
        let start = (self.next.get()..used.len()).chain(0..self.next.get()).find(free);
        let Some(start) = start else {
            let room_bytes = self.area.bytes.get();
            let reason = Reason::MetadataFull { needed_bytes: room_bytes + PAGE_BYTES as u64, room_bytes };
            return Err(Error::new("write index", reason).on(self.device.name()));
        };
        let end = (start..used.len().min(start + pages)).take_while(free).count() + start;
        used[start..end].fill(true);
        self.next.set(end % used.len());
        Ok((start as u32, (end - start) as u32))
    }

    /// Marks the pages of a run that the journal names. False where another run has one of them.
    fn claim(&self, extents: &[(u32, u32)]) -> bool {
        let mut used = self.used.borrow_mut();
        for (first, pages) in extents {
            let end = *first as usize + *pages as usize;
            let Some(range) = used.get_mut(*first as usize..end) else { return false };
            if range.contains(&true) {
                return false;
            }
            range.fill(true);
        }
        true
    }

    fn give_back(&self, extents: &[(u32, u32)]) {
        let mut used = self.used.borrow_mut();
        for (first, pages) in extents {
            used[*first as usize..(*first + *pages) as usize].fill(false);
        }
    }

    /// The page of this key, if it still is where it was put.
    fn cached(&self, key: (u64, u32), place: u32) -> Option<Rc<[IndexEntry]>> {
        let mut cache = self.cache.borrow_mut();
        let cached = cache.pages.get_mut(place as usize).filter(|cached| cached.key == key)?;
        cached.used = true;
        Some(Rc::clone(&cached.entries))
    }

    /// Keeps a page that was put at `place` last time, and tells where it is now.
    fn keep(&self, key: (u64, u32), place: u32, entries: &Rc<[IndexEntry]>) -> u32 {
        if self.cached(key, place).is_some() {
            // Somebody else has read it meanwhile.
            return place;
        }
        let cache = &mut *self.cache.borrow_mut();
        let cached = Cached { key, entries: Rc::clone(entries), used: false };
        if cache.pages.len() < cache.pages_max {
            cache.pages.push(cached);
            return cache.pages.len() as u32 - 1;
        }
        loop {
            let place = cache.hand;
            cache.hand = (place + 1) % cache.pages.len();
            if !std::mem::take(&mut cache.pages[place].used) {
                cache.pages[place] = cached;
                return place as u32;
            }
        }
    }

    fn damaged(&self, address: u64) -> Error {
        Error::new("read index", Reason::MetadataDamaged).on(self.device.name()).at(address)
    }

    async fn read(&self, page: u32, pages: u32) -> Result<Buf> {
        let buf = self.device.context().buffers().reserved().get(pages as usize * PAGE_BYTES)?;
        let at = ByteOffset(self.address(page));
        let (result, buf) = self.device.read(at, buf, Io::of(Cause::Index)).await;
        result.map(|()| buf)
    }
}

/// A run that can be read.
#[derive(Debug)]
pub struct Run {
    pages: Rc<Pages>,
    info: RunInfo,
    fences: Box<[IndexFence]>,
    /// Where each entry page was put last time; another one may have taken that place.
    places: Box<[Cell<u32>]>,
    /// The journal does not name it any more: its pages are free once nobody reads it.
    replaced: Cell<bool>,
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.replaced.get() {
            self.pages.give_back(&self.info.extents);
        }
    }
}

fn pages_of<T: Item>(items: u64) -> u32 {
    items.div_ceil(T::PER_PAGE as u64) as u32
}

impl Run {
    /// Opens a run that the journal names: its pages are taken, its fences read.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn open(pages: &Rc<Pages>, info: RunInfo) -> Result<Rc<Self>> {
        let (entries, deaths) = (info.run.entries.get(), info.run.deaths.get());
        let entry_pages = pages_of::<IndexEntry>(entries);
        let fence_pages = pages_of::<IndexFence>(u64::from(entry_pages));
        let first_fence = entry_pages + pages_of::<IndexDeath>(deaths);
        let length: u64 = info.extents.iter().map(|(_, pages)| u64::from(*pages)).sum();
        let sound = entries < 1 << 38 && deaths < 1 << 38 && length == u64::from(first_fence + fence_pages);
        if !sound || !pages.claim(&info.extents) {
            return Err(pages.damaged(pages.area.offset.get()));
        }
        let mut run = Self {
            pages: Rc::clone(pages),
            info,
            fences: Box::default(),
            places: vec![Cell::new(0); entry_pages as usize].into(),
            replaced: Cell::new(false),
        };
        run.fences = run.items::<IndexFence>(first_fence, fence_pages).await?.into();
        if run.fences.len() != entry_pages as usize {
            return Err(pages.damaged(run.address(first_fence)));
        }
        Ok(Rc::new(run))
    }

    /// What the journal says of it.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The first sequence of the log that it covers.
    pub fn first_sequence(&self) -> u64 {
        self.info.run.first_sequence.get()
    }

    /// The last one; one less where it covers none.
    pub fn last_sequence(&self) -> u64 {
        self.info.run.last_sequence.get()
    }

    /// Runs are newer the higher it is.
    pub fn order(&self) -> u64 {
        self.info.run.order.get()
    }

    /// Pages in all: of entries, deaths and fences.
    pub fn pages(&self) -> u32 {
        self.info.extents.iter().map(|(_, pages)| pages).sum()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.fences.len() * (size_of::<IndexFence>() + size_of::<u32>())
    }

    /// The journal has forgotten it.
    pub fn set_replaced(&self) {
        self.replaced.set(true);
    }

    fn place(&self, mut page: u32) -> u32 {
        for (first, pages) in &self.info.extents {
            if page < *pages {
                return first + page;
            }
            page -= pages;
        }
        unreachable!("a run's extents hold all of its pages")
    }

    fn address(&self, page: u32) -> u64 {
        self.pages.address(self.place(page))
    }

    /// The items of pages `first..first + count`, whole.
    async fn items<T: Item>(&self, first: u32, count: u32) -> Result<Vec<T>> {
        let mut items = Vec::new();
        self.each_page(first, count, |page: Vec<T>| items.extend(page)).await?;
        Ok(items)
    }

    /// Tells the items of pages `first..first + count`, page after page.
    async fn each_page<T: Item>(&self, first: u32, count: u32, mut tell: impl FnMut(Vec<T>)) -> Result<()> {
        let mut page = first;
        while page < first + count {
            let place = self.place(page);
            let row = (1..WRITE_PAGES as u32)
                .take_while(|next| page + next < first + count && self.place(page + next) == place + next)
                .count() as u32
                + 1;
            let buf = self.pages.read(place, row).await?;
            for (index, bytes) in (0..row).zip(buf.chunks_exact(PAGE_BYTES)) {
                let address = self.pages.address(place + index);
                let found = index_page::decode::<T>(bytes, self.info.run.run.get(), page + index, address);
                tell(found.ok_or_else(|| self.pages.damaged(address))?);
            }
            page += row;
        }
        Ok(())
    }

    async fn entry_page(&self, pages: &Pages, page: u32) -> Result<Rc<[IndexEntry]>> {
        let (key, place) = ((self.info.run.run.get(), page), &self.places[page as usize]);
        if let Some(entries) = pages.cached(key, place.get()) {
            return Ok(entries);
        }
        let entries: Rc<[IndexEntry]> = self.items::<IndexEntry>(page, 1).await?.into();
        place.set(pages.keep(key, place.get(), &entries));
        Ok(entries)
    }

    /// The page that holds the last entry at or before this key, if any does.
    fn page_of(&self, lba: u64, sequence: u64) -> Option<u32> {
        let after =
            self.fences.partition_point(|fence| (fence.lba.get(), fence.sequence.get()) <= (lba, sequence));
        after.checked_sub(1).map(|page| page as u32)
    }

    /// The newest version of a block at or before a sequence.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn find(&self, pages: &Pages, lba: u64, sequence: u64) -> Result<Option<IndexEntry>> {
        let Some(page) = self.page_of(lba, sequence) else { return Ok(None) };
        let entries = self.entry_page(pages, page).await?;
        let after =
            entries.partition_point(|entry| (entry.lba.get(), entry.sequence.get()) <= (lba, sequence));
        Ok(after.checked_sub(1).map(|at| entries[at]).filter(|entry| entry.lba.get() == lba))
    }

    /// Tells all versions of the blocks `first..end`, in order.
    ///
    /// # Errors
    /// As [`Run::find`].
    pub async fn range(
        &self,
        pages: &Pages,
        first: u64,
        end: u64,
        mut tell: impl FnMut(&IndexEntry),
    ) -> Result<()> {
        let mut page = self.first_page(first);
        while (page as usize) < self.fences.len() && self.fences[page as usize].lba.get() < end {
            let entries = self.entry_page(pages, page).await?;
            let from = entries.partition_point(|entry| entry.lba.get() < first);
            entries[from..].iter().take_while(|entry| entry.lba.get() < end).for_each(&mut tell);
            page += 1;
        }
        Ok(())
    }

    /// The page that the entries of a block begin in, if there are any.
    pub fn first_page(&self, address: u64) -> u32 {
        self.page_of(address, 0).unwrap_or(0)
    }

    /// The first block at or after `lba` that it may know something of.
    pub fn next_block(&self, lba: u64) -> Option<u64> {
        let page = self.page_of(lba, u64::MAX).map_or(0, |page| page as usize);
        // The page itself may end before it; then the next one begins after it.
        let fence = self.fences.get(page)?;
        Some(fence.lba.get().max(lba))
    }

    /// Entry pages.
    pub fn entry_pages(&self) -> u32 {
        self.fences.len() as u32
    }

    /// All entries of some pages, past the cache.
    ///
    /// # Errors
    /// As [`Run::find`].
    pub async fn entries(&self, first_page: u32, pages: u32) -> Result<Vec<IndexEntry>> {
        self.items(first_page, pages).await
    }

    /// Tells all deaths, in order. They may be many more than are still wanted.
    ///
    /// # Errors
    /// As [`Run::find`].
    pub async fn deaths(&self, mut tell: impl FnMut(IndexDeath)) -> Result<()> {
        let pages = pages_of::<IndexDeath>(self.info.run.deaths.get());
        self.each_page(self.entry_pages(), pages, |page: Vec<IndexDeath>| {
            page.into_iter().for_each(&mut tell)
        })
        .await
    }

    /// Tells the deaths behind `first` and up to `last`, and some more: of the pages that hold them.
    ///
    /// # Errors
    /// As [`Run::find`].
    pub async fn deaths_between(
        &self,
        first: u64,
        last: u64,
        mut tell: impl FnMut(IndexDeath),
    ) -> Result<()> {
        let pages = pages_of::<IndexDeath>(self.info.run.deaths.get());
        // The last page that begins at or before `first`, or the first one.
        let (mut page, mut end) = (0, pages);
        while page + 1 < end {
            let middle = page + (end - page) / 2;
            let items = self.items::<IndexDeath>(self.entry_pages() + middle, 1).await?;
            match items.first().is_some_and(|death| death.death.get() <= first) {
                true => page = middle,
                false => end = middle,
            }
        }
        let mut is_past = false;
        while page < pages && !is_past {
            let count = DEATH_PAGES.min(pages - page);
            self.each_page(self.entry_pages() + page, count, |items: Vec<IndexDeath>| {
                is_past |= items.last().is_some_and(|death| death.death.get() > last);
                items.into_iter().for_each(&mut tell);
            })
            .await?;
            page += count;
        }
        Ok(())
    }
}

/// Writes a run, page after page. Pages of a run that is not finished are given back.
#[derive(Debug)]
pub struct RunWriter {
    pages: Rc<Pages>,
    number: u64,
    extents: Vec<(u32, u32)>,
    /// Pages of the last extent not yet filled.
    left: u32,
    written_pages: u32,
    buf: Option<Buf>,
    /// Pages in `buf`, which begin at this page of the area.
    buffered: usize,
    buffered_at: u32,
    waiting: Vec<IndexEntry>,
    fences: Vec<IndexFence>,
    entries: u64,
    finished: bool,
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.pages.give_back(&self.extents);
        }
    }
}

impl RunWriter {
    /// An empty run of this number.
    pub fn new(pages: &Rc<Pages>, number: u64) -> Self {
        Self {
            pages: Rc::clone(pages),
            number,
            extents: Vec::new(),
            left: 0,
            written_pages: 0,
            buf: None,
            buffered: 0,
            buffered_at: 0,
            waiting: Vec::with_capacity(IndexEntry::PER_PAGE),
            fences: Vec::new(),
            entries: 0,
            finished: false,
        }
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds an entry; they come in order.
    ///
    /// # Errors
    /// `MetadataFull`, and what the device says.
    pub async fn push(&mut self, entry: &IndexEntry) -> Result<()> {
        if self.waiting.is_empty() {
            self.fences.push(IndexFence { lba: entry.lba, sequence: entry.sequence });
        }
        self.waiting.push(*entry);
        self.entries += 1;
        if self.waiting.len() == IndexEntry::PER_PAGE {
            self.write_entries().await?;
        }
        Ok(())
    }

    async fn write_entries(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let written = self.page(&waiting).await;
        self.waiting = waiting;
        self.waiting.clear();
        written
    }

    /// Takes the next page and fills it.
    async fn page<T: Item>(&mut self, items: &[T]) -> Result<()> {
        if self.left == 0 {
            self.write_buffered().await?;
            let (first, pages) = self.pages.take(WRITE_PAGES)?;
            self.extents.push((first, pages));
            self.left = pages;
            self.buffered_at = first;
        }
        let page = self.buffered_at + self.buffered as u32;
        let mut buf = match self.buf.take() {
            Some(buf) => buf,
            None => self.pages.device.context().buffers().reserved().get(WRITE_PAGES * PAGE_BYTES)?,
        };
        let bytes = &mut buf[self.buffered * PAGE_BYTES..][..PAGE_BYTES];
        index_page::encode(items, self.number, self.written_pages, self.pages.address(page), bytes);
        self.buf = Some(buf);
        self.buffered += 1;
        self.written_pages += 1;
        self.left -= 1;
        Ok(())
    }

    async fn write_buffered(&mut self) -> Result<()> {
        if self.buffered == 0 {
            return Ok(());
        }
        let Some(mut buf) = self.buf.take() else { unreachable!("buffered pages lie in the buffer") };
        buf.set_len(self.buffered * PAGE_BYTES);
        let at = ByteOffset(self.pages.address(self.buffered_at));
        self.pages.device.write(at, buf, Io::of(Cause::Index)).await.0?;
        self.buffered = 0;
        Ok(())
    }

    /// Writes what is left, the deaths and the fences. The run is durable after the next flush.
    ///
    /// # Errors
    /// As [`RunWriter::push`].
    pub async fn finish(mut self, deaths: &[IndexDeath], sequences: (u64, u64), order: u64) -> Result<Run> {
        if !self.waiting.is_empty() {
            self.write_entries().await?;
        }
        for items in deaths.chunks(IndexDeath::PER_PAGE) {
            self.page(items).await?;
        }
        let fences = std::mem::take(&mut self.fences);
        for items in fences.chunks(IndexFence::PER_PAGE) {
            self.page(items).await?;
        }
        self.write_buffered().await?;
        // The last extent was taken whole.
        if let Some((first, pages)) = self.extents.last_mut() {
            *pages -= self.left;
            let unused = (*first + *pages, self.left);
            self.pages.give_back(&[unused]);
            self.pages.next.set(unused.0 as usize % self.pages.len() as usize);
        }
        self.finished = true;
        let run = journal::Run {
            run: self.number.into(),
            first_sequence: sequences.0.into(),
            last_sequence: sequences.1.into(),
            order: order.into(),
            entries: self.entries.into(),
            deaths: (deaths.len() as u64).into(),
        };
        let info = RunInfo { run, extents: std::mem::take(&mut self.extents) };
        let places = vec![Cell::new(0); fences.len()].into();
        Ok(Run {
            pages: Rc::clone(&self.pages),
            info,
            fences: fences.into(),
            places,
            replaced: Cell::new(false),
        })
    }
}
