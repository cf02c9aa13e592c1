//! The current image: for pages of blocks, where the newest version of each lies.
//!
//! Invariants: a page that is pinned, or that has versions in no run yet (dirty), is never evicted; the others
//! are, the least used first, when the budget is passed.

use std::collections::BTreeMap;

use crate::format::index_page::{IndexEntry, ZERO};

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
            branch: 0.into(),
            virtual_segment: self.virtual_segment.into(),
            slot: self.slot.into(),
            checksum: self.checksum.into(),
        }
    }

    /// Whether it reads as zero.
    pub fn is_zero(&self) -> bool {
        self.virtual_segment == ZERO
    }
}

#[derive(Debug)]
struct Page {
    versions: Box<[Version; PAGE_BLOCKS as usize]>,
    /// The checkpoint that will hold its newest version; 0 when runs hold all.
    dirty: u64,
    pins: u32,
    used: bool,
}

/// Of a node of the tree, a page takes a share: 11 have room in a node, 5 at least are there, and the nodes above.
const NODE_SHARE_BYTES: usize = (11 * (size_of::<u64>() + size_of::<Page>()) + 16).div_ceil(5) * 6 / 5;
const PAGE_MEMORY_BYTES: usize = NODE_SHARE_BYTES + PAGE_BLOCKS as usize * size_of::<Version>();

/// The pages in memory.
#[derive(Debug)]
pub struct Current {
    pages: BTreeMap<u64, Page>,
    pages_max: usize,
    dirty: usize,
    /// Where the search for a page to evict goes on.
    hand: u64,
}

impl Current {
    /// No pages, and room for `budget_bytes` of them.
    pub fn new(budget_bytes: usize) -> Self {
        let pages_max = (budget_bytes / PAGE_MEMORY_BYTES).max(4);
        Self { pages: BTreeMap::new(), pages_max, dirty: 0, hand: 0 }
    }

    /// The newest version of a block, if its page is in memory.
    #[inline]
    pub fn get(&mut self, lba: u64) -> Option<Version> {
        let page = self.pages.get_mut(&(lba / PAGE_BLOCKS))?;
        page.used = true;
        Some(page.versions[(lba % PAGE_BLOCKS) as usize])
    }

    /// Takes a page in, unless it is there.
    pub fn insert(&mut self, number: u64, versions: [Version; PAGE_BLOCKS as usize]) {
        if self.pages.contains_key(&number) {
            return;
        }
        // More than one, where pages had to stay that may go by now.
        while self.pages.len() >= self.pages_max && self.evict() {}
        let page = Page { versions: Box::new(versions), dirty: 0, pins: 0, used: true };
        self.pages.insert(number, page);
    }

    /// Evicts one page that may go and was not used since the hand last passed it. False if none may go.
    fn evict(&mut self) -> bool {
        if self.dirty == self.pages.len() {
            return false;
        }
        for _ in 0..2 * self.pages.len() {
            let next = self.pages.range(self.hand..).next().or_else(|| self.pages.iter().next());
            let Some((&number, _)) = next else { return false };
            self.hand = number + 1;
            let Some(page) = self.pages.get_mut(&number) else { return false };
            if page.dirty != 0 || page.pins > 0 {
                continue;
            }
            if std::mem::take(&mut page.used) {
                continue;
            }
            self.pages.remove(&number);
            return true;
        }
        false
    }

    /// Gives all pages up. None is pinned or dirty.
    pub fn forget(&mut self) {
        let is_needed = |page: &Page| page.pins > 0 || page.dirty != 0;
        assert!(!self.pages.values().any(is_needed), "nobody writes while the volume goes back");
        self.pages.clear();
    }

    /// Holds a page in memory. False if it is not there.
    pub fn pin(&mut self, number: u64) -> bool {
        self.pages.get_mut(&number).map(|page| page.pins += 1).is_some()
    }

    /// Holds a page in memory if any block of it does not read as zero, and tells whether; `None` if the page is
    /// not there.
    pub fn pin_if_written(&mut self, number: u64) -> Option<bool> {
        let page = self.pages.get_mut(&number)?;
        let written = page.versions.iter().any(|version| !version.is_zero());
        page.pins += u32::from(written);
        Some(written)
    }

    /// The first page in memory at or after this one.
    pub fn next_page(&self, number: u64) -> Option<u64> {
        self.pages.range(number..).next().map(|(number, _)| *number)
    }

    /// Gives a page up.
    pub fn unpin(&mut self, number: u64) {
        if let Some(page) = self.pages.get_mut(&number) {
            page.pins -= 1;
        }
    }

    /// Sets the newest version of a block and tells the one before. Its page is in memory.
    pub fn replace(&mut self, lba: u64, version: Version, checkpoint: u64) -> Version {
        let Some(page) = self.pages.get_mut(&(lba / PAGE_BLOCKS)) else {
            unreachable!("the page of a block that is written is pinned")
        };
        self.dirty += usize::from(page.dirty == 0);
        page.dirty = checkpoint;
        std::mem::replace(&mut page.versions[(lba % PAGE_BLOCKS) as usize], version)
    }

    /// Gives places their new names.
    pub fn rename(&mut self, rename: impl Fn((u32, u32)) -> (u32, u32)) {
        let versions = self.pages.values_mut().flat_map(|page| page.versions.iter_mut());
        for version in versions.filter(|version| !version.is_zero()) {
            (version.virtual_segment, version.slot) = rename((version.virtual_segment, version.slot));
        }
    }

    /// Runs now hold everything of the checkpoints before this one.
    pub fn clean_before(&mut self, checkpoint: u64) {
        self.dirty = 0;
        for page in self.pages.values_mut() {
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
        self.pages.len() * PAGE_MEMORY_BYTES
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
        assert!(current.pin(0) && !current.pin(1));
        assert_eq!(current.replace(3, version(9), 1), Version::NONE);
        current.unpin(0);
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
}
