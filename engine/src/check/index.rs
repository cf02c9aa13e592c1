//! The runs of the index: that their pages are theirs, whole, in order and complete; and reading them in order.

use zerocopy::FromBytes;

use super::shape::Shape;
use super::state::{RunState, State};
use super::{Checker, Code, Place, is_sealed, is_zero};
use crate::error::Result;
use crate::format::index_page::{
    BASE, IndexDeath, IndexEntry, IndexFence, Item, MAGIC, PAGE_BYTES, PageHeader, VERSION, ZERO,
};
use crate::format::journal::Run;
use crate::units::{branch_of, lba_of};

/// Pages read at a time.
const READ_PAGES: u32 = 16;
const HEADER_BYTES: usize = size_of::<PageHeader>();

type Key = (u64, u64);

/// How many pages a run has of each kind.
#[derive(Clone, Copy)]
struct Counts {
    entries: u32,
    deaths: u32,
    fences: u32,
}

fn pages_of<T: Item>(items: u64) -> Option<u32> {
    u32::try_from(items.div_ceil(T::PER_PAGE as u64)).ok()
}

fn counts(run: &Run) -> Option<Counts> {
    let entries = pages_of::<IndexEntry>(run.entries.get())?;
    let deaths = pages_of::<IndexDeath>(run.deaths.get())?;
    Some(Counts { entries, deaths, fences: pages_of::<IndexFence>(entries.into())? })
}

/// Checks all runs. Whether what they say can be believed.
pub(super) async fn check(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> Result<bool> {
    let before = checker.report.damage;
    check_extents(checker, shape, state);
    if checker.report.damage != before {
        return Ok(false);
    }
    for run in &state.runs {
        check_run(checker, shape, state, run).await?;
    }
    Ok(checker.report.damage == before)
}

/// Whether a run has just the pages that it needs, all in the index area.
pub(super) fn fits(shape: &Shape, run: &Run, extents: &[(u32, u32)]) -> bool {
    let needed = counts(run)
        .map(|counts| u64::from(counts.entries) + u64::from(counts.deaths) + u64::from(counts.fences));
    let pages: u64 = extents.iter().map(|(_, pages)| u64::from(*pages)).sum();
    let inside = extents.iter().all(|(first, pages)| {
        *pages > 0 && u64::from(*first) + u64::from(*pages) <= u64::from(shape.index_pages)
    });
    needed == Some(pages) && pages > 0 && inside
}

/// Every page belongs to one run.
fn check_extents(checker: &mut Checker<'_>, shape: &Shape, state: &State) {
    let mut taken: Vec<(u32, u32, u64)> = Vec::new();
    for known in &state.runs {
        let number = known.run.run.get();
        taken.extend(known.extents.iter().map(|(first, pages)| (*first, *pages, number)));
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        let ((first, pages, one), (next, _, other)) = (pair[0], pair[1]);
        if u64::from(first) + u64::from(pages) > u64::from(next) {
            let address = shape.index_offset + u64::from(next) * PAGE_BYTES as u64;
            checker.found(Code::Index, Place::at(address), format!("runs {one} and {other} share a page"));
        }
    }
}

/// The items of pages of a run, a few pages at a time.
pub(super) struct Pages<T> {
    number: u64,
    /// Of each extent: the page of the run that follows it, its first page, its pages.
    extents: Vec<(u64, u32, u32)>,
    page: u32,
    end: u32,
    /// Items of the pages from `page` on, and how many there are.
    left: u64,
    items: std::vec::IntoIter<T>,
    /// A page was not what belongs there; nothing follows.
    pub broken: bool,
}

impl<T: Item> Pages<T> {
    fn new(run: &RunState, first: u32, pages: u32, items: u64) -> Self {
        let mut end = 0;
        let extents = run.extents.iter().map(|(first, pages)| {
            end += u64::from(*pages);
            (end, *first, *pages)
        });
        Self {
            number: run.run.run.get(),
            extents: extents.collect(),
            page: first,
            end: first + pages,
            left: items,
            items: Vec::new().into_iter(),
            broken: false,
        }
    }

    /// Where a page lies, and how many follow it there.
    fn place(&self, page: u32) -> Option<(u32, u32)> {
        let at = self.extents.partition_point(|(end, ..)| *end <= page.into());
        let (end, first, pages) = *self.extents.get(at)?;
        let left = (end - u64::from(page)) as u32;
        Some((first + (pages - left), left))
    }

    /// The address of the page that the next read begins with.
    pub fn address(&self, shape: &Shape) -> u64 {
        let place = self.place(self.page).map_or(0, |(place, _)| place);
        shape.index_offset + u64::from(place) * PAGE_BYTES as u64
    }

    pub async fn next(&mut self, checker: &mut Checker<'_>, shape: &Shape) -> Result<Option<T>> {
        if let Some(item) = self.items.next() {
            return Ok(Some(item));
        }
        if self.page == self.end || self.broken {
            return Ok(None);
        }
        let Some((_, row)) = self.place(self.page) else { return Ok(None) };
        let pages = row.min(self.end - self.page).min(READ_PAGES);
        let address = self.address(shape);
        let Some(bytes) = checker.read(address, u64::from(pages) * PAGE_BYTES as u64).await? else {
            self.broken = true;
            return Ok(None);
        };
        let mut items = Vec::new();
        for (at, page) in (0..u64::from(pages)).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let address = address + at * PAGE_BYTES as u64;
            let count = self.left.min(T::PER_PAGE as u64);
            match decode::<T>(page, self.number, self.page, address, count) {
                Some(found) => items.extend_from_slice(found),
                None => {
                    self.broken = true;
                    let text = format!("it is not page {} of run {}", self.page, self.number);
                    checker.found(Code::IndexPage, Place::at(address), text);
                    break;
                }
            }
            self.left -= count;
            self.page += 1;
        }
        self.items = items.into_iter();
        Ok(self.items.next())
    }
}

/// Pages of a run, and what they hold; `None` for one that is not what belongs there. It goes on behind that.
pub(super) async fn visit(
    checker: &mut Checker<'_>,
    shape: &Shape,
    run: &RunState,
    visit: &mut dyn FnMut(u64, Option<&[IndexEntry]>),
) -> Result<()> {
    let mut pages = entries(run);
    while pages.page < pages.end
        && let Some((_, row)) = pages.place(pages.page)
    {
        let length = row.min(pages.end - pages.page).min(READ_PAGES);
        let start = pages.address(shape);
        let length_bytes = u64::from(length) * PAGE_BYTES as u64;
        let piece = checker.read_around(start, length_bytes, PAGE_BYTES as u64).await?;
        for (at, page) in (0..length_bytes).step_by(PAGE_BYTES).zip(piece.bytes.chunks_exact(PAGE_BYTES)) {
            let count = pages.left.min(IndexEntry::PER_PAGE as u64);
            // What cannot be read is zeroes, and no page.
            visit(start + at, decode::<IndexEntry>(page, pages.number, pages.page, start + at, count));
            pages.left -= count;
            pages.page += 1;
        }
    }
    Ok(())
}

fn decode<T: Item>(page: &[u8], run: u64, number: u32, address: u64, count: u64) -> Option<&[T]> {
    let (header, body) = PageHeader::read_from_prefix(page).ok()?;
    let body_start = &page[HEADER_BYTES..];
    let used = count as usize * size_of::<T>();
    let belongs = is_sealed(page)
        && header.magic == MAGIC
        && header.version.get() == VERSION
        && header.address.get() == address
        && header.run.get() == run
        && header.page.get() == number
        && header.kind.get() == T::KIND
        && u64::from(header.count.get()) == count
        && is_zero(&header.reserved)
        && is_zero(body.get(used..)?);
    if belongs { <[T]>::ref_from_bytes(&body_start[..used]).ok() } else { None }
}

/// The entries of a run, in order.
pub(super) fn entries(run: &RunState) -> Pages<IndexEntry> {
    let pages = counts(&run.run).map_or(0, |counts| counts.entries);
    Pages::new(run, 0, pages, run.run.entries.get())
}

/// The deaths of a run, in order.
pub(super) fn deaths(run: &RunState) -> Pages<IndexDeath> {
    let (first, pages) = counts(&run.run).map_or((0, 0), |counts| (counts.entries, counts.deaths));
    Pages::new(run, first, pages, run.run.deaths.get())
}

fn fences(run: &RunState) -> Pages<IndexFence> {
    let (first, pages, items) = counts(&run.run)
        .map_or((0, 0, 0), |counts| (counts.entries + counts.deaths, counts.fences, counts.entries));
    Pages::new(run, first, pages, items.into())
}

async fn check_run(checker: &mut Checker<'_>, shape: &Shape, state: &State, known: &RunState) -> Result<()> {
    let sequences = known.run.first_sequence.get()..=known.run.last_sequence.get();
    let last_virtual = state.leases.back().map_or(0, |lease| lease.virtual_segment.get());
    let (number, applied) = (known.run.run.get(), state.applied.sequence.get());
    let wrong = |checker: &mut Checker<'_>, address, sequence, block, text: &str| {
        let place = Place { block, ..Place::at(address).sequence(sequence) };
        checker.found(Code::Index, place, format!("run {number}: {text}"));
    };
    let (mut pages, mut fences) = (entries(known), fences(known));
    let mut before: Option<Key> = None;
    let mut at: u64 = 0;
    loop {
        let address = pages.address(shape);
        let Some(entry) = pages.next(checker, shape).await? else { break };
        checker.report.entries += 1;
        let key = (entry.lba.get(), entry.sequence.get());
        let (branch, lba) = (branch_of(key.0), lba_of(key.0));
        let begins = state.names.begin_of(branch).is_some_and(|begin| branch == 0 || begin < key.1);
        let saves = shape.saves && branch == 0;
        let is_copied = shape.copies && branch == 0;
        let sound = entry.reserved.get() == 0
            && begins
            && lba < state.names.blocks_of(shape, branch)
            && match entry.virtual_segment.get() {
                ZERO if !saves && !is_copied => {
                    sequences.contains(&key.1) && entry.slot.get() == 0 && entry.checksum.get() == 0
                }
                BASE if saves => {
                    sequences.contains(&key.1) && entry.slot.get() == 0 && entry.checksum.get() == 0
                }
                // It is said anew, since an older version has been copied.
                ZERO if is_copied => {
                    (1..=*sequences.end()).contains(&key.1)
                        && entry.slot.get() == 0
                        && entry.checksum.get() == 0
                }
                // It may have been written long before it was moved there, or brought home.
                BASE if shape.overlays => {
                    (1..=*sequences.end()).contains(&key.1)
                        && entry.slot.get() == 0
                        && entry.checksum.get() == 0
                }
                number if shape.is_extent(number) => {
                    (1..=applied.min(*sequences.end())).contains(&key.1)
                        && (number, entry.slot.get()) == shape.home(lba)
                }
                number if shape.is_object(number) => {
                    branch == 0
                        && state.objects.has_number(number)
                        && shape.is_place_of(number, entry.slot.get(), lba)
                        && match saves || is_copied {
                            true => key.1 < *sequences.end(),
                            false => sequences.contains(&key.1) && entry.checksum.get() == 0,
                        }
                }
                number => {
                    // What was saved may be as old as the volume; what is said anew since an older version has been copied to
                    // a linear object may be the newest there is.
                    let is_older =
                        (saves && key.1 < *sequences.end()) || (is_copied && key.1 <= *sequences.end());
                    (sequences.contains(&key.1) || is_older)
                        && (number <= last_virtual || shape.is_gathered(number))
                        && entry.slot.get() < shape.segment_blocks
                }
            };
        if !sound {
            wrong(checker, address, key.1, Some(key.0), "an entry is none");
        }
        if before.is_some_and(|before| before >= key) {
            wrong(checker, address, key.1, Some(key.0), "its entries are not in order");
        }
        before = Some(key);
        if at.is_multiple_of(IndexEntry::PER_PAGE as u64) {
            let fence_address = fences.address(shape);
            match fences.next(checker, shape).await? {
                Some(fence) if (fence.lba.get(), fence.sequence.get()) == key => {}
                _ => wrong(
                    checker,
                    fence_address,
                    key.1,
                    Some(key.0),
                    "a fence is not the first key of its page",
                ),
            }
        }
        at += 1;
    }
    let mut deaths = deaths(known);
    let mut before = 0;
    loop {
        let address = deaths.address(shape);
        let Some(death) = deaths.next(checker, shape).await? else { break };
        let (birth, sequence) = (death.birth.get(), death.death.get());
        let (place, slot) = death.place();
        let is_home = shape.is_extent(place) && shape.block_at_home(place, slot) < shape.volume_blocks;
        let begin = state.names.begin_of(death.branch.get().into());
        // What a return discarded may be told later.
        let is_late = || shape.copies || state.rollbacks.iter().any(|one| one.at.get() == sequence);
        let sound = begin.is_some_and(|begin| death.is_of_volume() || begin < birth)
            && (birth >= 1 || shape.saves || shape.copies)
            && birth < sequence
            && sequence <= *sequences.end()
            && (sequence >= *sequences.start() || is_late())
            && (place <= last_virtual
                || shape.is_gathered(place)
                || (is_home && birth <= applied)
                || (shape.is_object(place) && death.is_of_volume() && state.objects.has_number(place)))
            && slot < shape.segment_blocks;
        if !sound || sequence < before {
            wrong(checker, address, sequence, None, "a death is none, or not in order");
        }
        before = sequence;
    }
    Ok(())
}

/// The entries of all runs by block and sequence.
pub(super) struct Merged {
    readers: Vec<(Pages<IndexEntry>, Option<IndexEntry>)>,
}

impl Merged {
    pub async fn open(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> Result<Self> {
        let mut readers = Vec::with_capacity(state.runs.len());
        for run in &state.runs {
            let mut pages = entries(run);
            let head = pages.next(checker, shape).await?;
            readers.push((pages, head));
        }
        Ok(Self { readers })
    }

    pub async fn next(&mut self, checker: &mut Checker<'_>, shape: &Shape) -> Result<Option<IndexEntry>> {
        let key = |entry: &IndexEntry| (entry.lba.get(), entry.sequence.get());
        let heads = self.readers.iter().filter_map(|(_, head)| head.as_ref());
        let Some(smallest) = heads.map(key).min() else { return Ok(None) };
        let mut found: Option<IndexEntry> = None;
        for (pages, head) in &mut self.readers {
            let Some(entry) = *head else { continue };
            if key(&entry) != smallest {
                continue;
            }
            if found.is_some_and(|before| !counts_again(shape, &before, &entry)) {
                let place = Place::default().sequence(smallest.1).block(smallest.0);
                checker.found(Code::Index, place, "two runs have this version, and it has not come home");
            }
            found = Some(entry);
            *head = pages.next(checker, shape).await?;
        }
        Ok(found)
    }
}

/// Whether a newer run may say this of a version again: that it has come home, has been moved there when it was read, or has been
/// saved. The newer one counts.
fn counts_again(shape: &Shape, before: &IndexEntry, entry: &IndexEntry) -> bool {
    let is_elsewhere = |entry: &IndexEntry| {
        let number = entry.virtual_segment.get();
        shape.is_of_log(number) || shape.is_gathered(number) || shape.is_object(number)
    };
    let is_in_base = |entry: &IndexEntry| entry.virtual_segment.get() == BASE;
    let has_same_content = before.checksum == entry.checksum;
    let comes_home = shape.is_extent(entry.virtual_segment.get())
        && shape.is_of_log(before.virtual_segment.get())
        && has_same_content;
    let is_moved = shape.overlays && is_in_base(entry) && is_elsewhere(before);
    let is_saved = is_in_base(before) && is_elsewhere(entry);
    // What came home was copied, and of that only the copy is said where these two runs were merged.
    let is_copied = is_elsewhere(before) && is_elsewhere(entry) && has_same_content;
    comes_home || is_moved || is_saved || (shape.copies && (before == entry || is_copied))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::pool::metadata::GATHERED_FIRST;

    #[test]
    fn every_page_of_a_run_lies_in_its_extent() {
        let extents = vec![(10, 3), (50, 1), (4, 2)];
        let run = RunState { run: Run::new_zeroed(), extents };
        let pages = Pages::<IndexEntry>::new(&run, 0, 6, 0);
        let places: Vec<_> = (0..7).map(|page| pages.place(page)).collect();
        let expected = [(10, 3), (11, 2), (12, 1), (50, 1), (4, 2), (5, 1)];
        assert_eq!(places[..6], expected.map(Some));
        assert_eq!(places[6], None);
    }

    #[test]
    fn what_a_newer_run_says_again() {
        let entry = |segment: u32, checksum: u32| {
            let (virtual_segment, checksum) = (segment.into(), checksum.into());
            IndexEntry { virtual_segment, checksum, ..IndexEntry::new_zeroed() }
        };
        let (log, later, gathered, base) =
            (entry(7, 5), entry(9, 5), entry(GATHERED_FIRST, 5), entry(BASE, 0));
        let behind_a_log =
            Shape { overlays: true, copies: true, segment_blocks: 64, ..Shape::guessed(4096, 64) };
        let overlay = Shape { copies: false, ..behind_a_log.clone() };
        for from in [log, gathered] {
            assert!(counts_again(&overlay, &from, &base), "moved when it was read");
            assert!(counts_again(&overlay, &base, &from), "saved");
            assert!(counts_again(&behind_a_log, &from, &later), "brought home, and copied");
            assert!(!counts_again(&overlay, &from, &later), "nothing is copied");
            assert!(!counts_again(&behind_a_log, &from, &entry(9, 6)), "the copy is another block");
        }
        let redirected = Shape { overlays: false, ..overlay };
        assert!(!counts_again(&redirected, &log, &base), "nothing goes home");
    }
}
