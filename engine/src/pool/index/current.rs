//! The current image: for pages of blocks, where the newest version of each lies.
//!
//! Invariants: a page that is pinned, or that has versions in no run yet (dirty), is never evicted; the others
//! are, the least used first, when the budget is passed. A page stays in its place until it is evicted, so that
//! whoever holds it ([`Held`]) finds it there without looking for it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::format::index_page::{BASE, INHERITED, IndexEntry, ZERO, has_slots};
use crate::units::address_of;

/// Blocks of a page.
pub const PAGE_BLOCKS: u64 = 64;

/// A version of a block: where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The sequence at which it became the block's content; 0 for a block never written.
    pub birth: u64,
    /// [`ZERO`] where it reads as zero.
    pub virtual_segment: u32,
    /// Block of the virtual segment.
    pub slot: u32,
    /// CRC-32C of the block.
    pub checksum: u32,
}

impl Version {
    /// A block never written.
    pub const NONE: Self = Self { birth: 0, virtual_segment: ZERO, slot: 0, checksum: 0 };

    /// A block of a volume with a base, as it was when the volume was made: at its place there.
    pub const IN_BASE: Self = Self { virtual_segment: BASE, ..Self::NONE };

    /// A block of a branch that the branch has not written.
    pub const INHERITED: Self = Self { virtual_segment: INHERITED, ..Self::NONE };

    /// The version that an entry names.
    pub fn of(entry: &IndexEntry) -> Self {
        Self {
            birth: entry.sequence.get(),
            virtual_segment: entry.virtual_segment.get(),
            slot: entry.slot.get(),
            checksum: entry.checksum.get(),
        }
    }

    /// The entry of this version of a block.
    pub fn entry(&self, lba: u64) -> IndexEntry {
        IndexEntry {
            lba: lba.into(),
            sequence: self.birth.into(),
            reserved: 0.into(),
            virtual_segment: self.virtual_segment.into(),
            slot: self.slot.into(),
            checksum: self.checksum.into(),
        }
    }

    /// Gives its place the new name.
    pub fn rename(&mut self, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
        let before = (self.virtual_segment, self.slot);
        let now = rename(self.birth, before);
        if now != before {
            (self.virtual_segment, self.slot) = now;
            if self.is_in_base() {
                *self = Self::IN_BASE;
            }
        }
    }

    /// Whether it reads as zero.
    pub fn is_zero(&self) -> bool {
        self.virtual_segment == ZERO
    }

    /// Whether it is what the branch's parent moment sees.
    pub fn is_inherited(&self) -> bool {
        self.virtual_segment == INHERITED
    }

    /// Whether it has a slot of its own.
    pub fn has_slot(&self) -> bool {
        has_slots(self.virtual_segment)
    }

    /// Whether it lies at its place in the base. Nobody knows its checksum.
    pub fn is_in_base(&self) -> bool {
        self.virtual_segment == BASE
    }
}

/// A page that is held in memory: which one, and its place there.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its number.
    pub page: u64,
    /// Counted from 1, so that the option of one takes no more room: it travels with each write.
    place: NonZeroU32,
}

#[derive(Debug)]
struct Page {
    number: u64,
    /// Of its blocks; none where the place is free.
    versions: Box<[Version]>,
    /// The checkpoint that will hold its newest version; 0 when runs hold all.
    dirty: u64,
    pins: u32,
    used: bool,
}

/// Of a node of the tree, a page takes a share: 11 have room in a node, 5 at least are there, and the nodes above.
const NODE_SHARE_BYTES: usize = (11 * (size_of::<u64>() + size_of::<u32>()) + 16).div_ceil(5) * 6 / 5;
const PAGE_MEMORY_BYTES: usize =
    NODE_SHARE_BYTES + size_of::<Page>() + PAGE_BLOCKS as usize * size_of::<Version>();

/// The pages in memory.
#[derive(Debug)]
pub struct Current {
    pages: Vec<Page>,
    /// Where in `pages` a page lies.
    places: BTreeMap<u64, u32>,
    /// Places where none lies.
    free: Vec<u32>,
    pages_max: usize,
    dirty: usize,
    /// Where the search for a page to evict goes on.
    hand: u64,
}

impl Current {
    /// No pages, and room for `budget_bytes` of them.
    pub fn new(budget_bytes: usize) -> Self {
        let pages_max = (budget_bytes / PAGE_MEMORY_BYTES).max(4);
        Self { pages: Vec::new(), places: BTreeMap::new(), free: Vec::new(), pages_max, dirty: 0, hand: 0 }
    }

    /// The newest version of a block, if its page is in memory.
    #[inline]
    pub fn get(&mut self, lba: u64) -> Option<Version> {
        let place = *self.places.get(&(lba / PAGE_BLOCKS))?;
        let page = &mut self.pages[place as usize];
        page.used = true;
        Some(page.versions[(lba % PAGE_BLOCKS) as usize])
    }

    /// Takes a page in, unless it is there.
    pub fn insert(&mut self, number: u64, versions: [Version; PAGE_BLOCKS as usize]) {
        if self.places.contains_key(&number) {
            return;
        }
        // More than one goes where pages had to stay that may go by now.
        let mut last = None;
        while self.places.len() >= self.pages_max
            && let Some(place) = self.evict()
        {
            if let Some(place) = last.replace(place) {
                self.pages[place as usize].versions = Box::default();
                self.free.push(place);
            }
        }
        let place = match last.or_else(|| self.free.pop()) {
            Some(place) => {
                let page = &mut self.pages[place as usize];
                match page.versions.len() {
                    0 => page.versions = Box::new(versions),
                    _ => page.versions.copy_from_slice(&versions),
                }
                (page.number, page.used) = (number, true);
                place
            }
            None => {
                let versions = Box::new(versions);
                self.pages.push(Page { number, versions, dirty: 0, pins: 0, used: true });
                self.pages.len() as u32 - 1
            }
        };
        self.places.insert(number, place);
    }

    /// Evicts one page that may go and was not used since the hand last passed it, and tells its place; none, if none
    /// may go.
    fn evict(&mut self) -> Option<u32> {
        if self.dirty == self.places.len() {
            return None;
        }
        for _ in 0..2 * self.places.len() {
            let next = self.places.range(self.hand..).next().or_else(|| self.places.iter().next());
            let (&number, &place) = next?;
            self.hand = number + 1;
            let page = &mut self.pages[place as usize];
            if page.dirty != 0 || page.pins > 0 {
                continue;
            }
            if std::mem::take(&mut page.used) {
                continue;
            }
            self.places.remove(&number);
            return Some(place);
        }
        None
    }

    /// Gives all pages up. None is pinned or dirty.
    pub fn forget(&mut self) {
        let is_needed = |page: &Page| page.pins > 0 || page.dirty != 0;
        assert!(!self.pages.iter().any(is_needed), "nobody writes while the volume goes back");
        self.places.clear();
        self.pages.clear();
        self.free.clear();
    }

    /// Gives the pages of a branch up. None is pinned or dirty.
    pub fn forget_branch(&mut self, branch: u32) {
        let pages = address_of(branch, 0) / PAGE_BLOCKS..address_of(branch + 1, 0) / PAGE_BLOCKS;
        let gone: Vec<(u64, u32)> = self.places.range(pages).map(|(page, place)| (*page, *place)).collect();
        for (number, place) in gone {
            let page = &mut self.pages[place as usize];
            assert!(page.pins == 0 && page.dirty == 0, "nobody writes a branch that has been given up");
            page.versions = Box::default();
            self.places.remove(&number);
            self.free.push(place);
        }
    }

    /// Where a page is that is in memory.
    pub fn find(&self, number: u64) -> Option<Held> {
        let place = NonZeroU32::new(self.places.get(&number)? + 1)?;
        Some(Held { page: number, place })
    }

    /// Holds a page in memory; `None` if it is not there.
    pub fn pin(&mut self, number: u64) -> Option<Held> {
        let held = self.find(number)?;
        self.held(held).pins += 1;
        Some(held)
    }

    /// Holds a page in memory if any block of it does not read as zero; `None` if the page is not there.
    pub fn pin_if_written(&mut self, number: u64) -> Option<Option<Held>> {
        let held = self.find(number)?;
        let page = self.held(held);
        let written = page.versions.iter().any(|version| !version.is_zero());
        page.pins += u32::from(written);
        Some(written.then_some(held))
    }

    #[inline]
    fn held(&mut self, held: Held) -> &mut Page {
        let page = &mut self.pages[held.place.get() as usize - 1];
        assert_eq!(page.number, held.page, "a page that is held stays where it is");
        page
    }

    /// The first page in memory at or after this one.
    pub fn next_page(&self, number: u64) -> Option<u64> {
        self.places.range(number..).next().map(|(number, _)| *number)
    }

    /// Gives a page up.
    pub fn unpin(&mut self, held: Held) {
        self.held(held).pins -= 1;
    }

    /// Sets the newest version of a block of a page and tells the one before.
    pub fn replace(&mut self, held: Held, lba: u64, version: Version, checkpoint: u64) -> Version {
        let page = self.held(held);
        let was_clean = std::mem::replace(&mut page.dirty, checkpoint) == 0;
        let before = std::mem::replace(&mut page.versions[(lba % PAGE_BLOCKS) as usize], version);
        self.dirty += usize::from(was_clean);
        before
    }

    /// Gives places their new names.
    pub fn rename(&mut self, rename: impl Fn(u64, (u32, u32)) -> (u32, u32)) {
        for version in self.pages.iter_mut().flat_map(|page| page.versions.iter_mut()) {
            version.rename(&rename);
        }
    }

    /// Where a version of a block lies now, if it is the newest one and its page in memory. Runs say so already.
    pub fn rename_one(&mut self, lba: u64, before: Version, now: Version) {
        let Some(held) = self.find(lba / PAGE_BLOCKS) else { return };
        let version = &mut self.held(held).versions[(lba % PAGE_BLOCKS) as usize];
        if *version == before {
            *version = now;
        }
    }

    /// Runs now hold everything of the checkpoints before this one.
    pub fn clean_before(&mut self, checkpoint: u64) {
        self.dirty = 0;
        for page in &mut self.pages {
            if page.dirty < checkpoint {
                page.dirty = 0;
            }
            self.dirty += usize::from(page.dirty != 0);
        }
    }

    /// Whether dirty pages fill more than half of the budget.
    pub fn is_crowded(&self) -> bool {
        self.dirty * 2 > self.pages_max
    }

    /// Whether dirty pages fill the budget.
    pub fn is_full(&self) -> bool {
        self.dirty >= self.pages_max
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.places.len() * PAGE_MEMORY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(birth: u64) -> Version {
        Version { birth, virtual_segment: 1, slot: birth as u32, checksum: 0 }
    }

    #[test]
    fn pinned_and_dirty_pages_stay_and_the_rest_keeps_within_the_budget() {
        let mut current = Current::new(8 * PAGE_MEMORY_BYTES);
        current.insert(0, [Version::NONE; 64]);
        assert!(current.pin(1).is_none());
        let held = current.pin(0).unwrap();
        assert_eq!(current.replace(held, 3, version(9), 1), Version::NONE);
        current.unpin(held);
        for number in 1..100 {
            current.insert(number, [version(number); 64]);
        }
        assert!(current.memory_bytes() <= 9 * PAGE_MEMORY_BYTES);
        assert_eq!(current.get(3), Some(version(9)), "its only copy is here");
        current.clean_before(1);
        for number in 100..200 {
            current.insert(number, [Version::NONE; 64]);
        }
        assert_eq!(current.get(3), Some(version(9)), "the checkpoint that holds it has not ended");
        current.clean_before(2);
        for number in 200..300 {
            current.insert(number, [Version::NONE; 64]);
        }
        assert_eq!(current.get(3), None);
    }

    #[test]
    fn a_held_page_is_found_in_its_place_however_many_come_and_go() {
        let mut current = Current::new(8 * PAGE_MEMORY_BYTES);
        for number in 0..5 {
            current.insert(number, [version(number); 64]);
        }
        let held = current.pin(3).unwrap();
        for number in 5..200 {
            current.insert(number, [version(number); 64]);
            let lba = 64 * number;
            assert_eq!(current.get(lba), Some(version(number)));
            assert_eq!(current.replace(held, 3 * 64 + 1, version(number), 1), {
                if number == 5 { version(3) } else { version(number - 1) }
            });
            current.clean_before(2);
        }
        assert_eq!(current.get(3 * 64), Some(version(3)));
        assert_eq!(current.get(3 * 64 + 1), Some(version(199)));
        assert_eq!((current.pages.len(), current.places.len()), (8, 8));
        current.unpin(held);
    }

    #[test]
    #[should_panic(expected = "stays where it is")]
    fn a_page_that_has_gone_is_not_taken_for_the_one_in_its_place() {
        let mut current = Current::new(4 * PAGE_MEMORY_BYTES);
        current.insert(0, [Version::NONE; 64]);
        let held = current.find(0).unwrap();
        for number in 1..20 {
            current.insert(number, [Version::NONE; 64]);
        }
        current.replace(held, 0, version(1), 1);
    }
}
