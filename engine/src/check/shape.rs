//! Where the parts of a log pool lie, as a sound superblock says it, and which number is whose.
//!
//! Place: what [`super::superblock`] finds; every other part of the check and of salvage asks it for addresses.

use crate::format::index_page::INHERITED;

/// Everything below belongs to superblocks and roots.
pub(super) const HEAD_BYTES: u64 = 1 << 20;
pub(super) const ROOTS_BYTES: u64 = 128 << 10;
/// Named moments that the metadata has room for, where nothing is said of them.
pub(super) const SNAPSHOTS_MIN: u32 = 256;
/// The first number of a row that others were gathered in.
const GATHERED_FIRST: u32 = 1 << 30;
/// The first number of a row that is an extent of a linear volume. The highest number of all is no row's.
pub(super) const HOME_FIRST: u32 = 1 << 31;

/// Where the parts of a log pool lie, and its units.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub pool_id: [u8; 16],
    pub epoch: u64,
    pub closed: bool,
    pub volume_blocks: u64,
    pub block_bytes: u32,
    pub region_bytes: u32,
    pub segment_blocks: u32,
    /// In all.
    pub segments: u32,
    /// Of the pool's own device; those of the device beside it that has segments, if there is one, follow.
    pub own_segments: u32,
    /// Where the segments on that device begin.
    pub home_offset: u64,
    pub data_offset: u64,
    pub roots_offset: u64,
    pub metadata_offset: u64,
    pub image_bytes: u64,
    pub index_offset: u64,
    pub index_pages: u32,
    /// There is a linear volume behind the log.
    pub linear: bool,
    /// It takes space when a block is first applied.
    pub thin: bool,
    /// What is overwritten in its base is saved in the log, which holds nothing else.
    pub saves: bool,
    /// What is written over its base lies in the log, until it is brought there.
    pub overlays: bool,
    /// What the log brings to the base overwrites nothing that has not been copied.
    pub copies: bool,
    /// Superseded blocks are kept.
    pub keeps_past: bool,
    /// It has gone back to an earlier moment, or was about to.
    pub goes_back: bool,
    /// Moments have names, or one was about to.
    pub has_snapshots: bool,
    /// Moments can be written, or one was about to.
    pub has_branches: bool,
    /// Names that there is room for.
    pub snapshots_max: u32,
    /// There are further volumes, or there was about to be one.
    pub has_volumes: bool,
    /// Snapshots have been locked, or one was about to.
    pub has_locks: bool,
    /// Snapshots have been taken in groups, or were about to.
    pub has_groups: bool,
    /// Snapshots have linear objects.
    pub objects: bool,
    /// First byte of the base, where there is one.
    pub base_offset: u64,
    /// Of a base apart: whether it says that it is no one image.
    pub says_mixed: Option<bool>,
}

impl Shape {
    /// Of a log of which no superblock is left: what its batches are held against.
    pub fn guessed(block_bytes: u32, volume_blocks: u64) -> Self {
        Self {
            pool_id: [0; 16],
            epoch: 0,
            closed: false,
            volume_blocks,
            block_bytes,
            region_bytes: block_bytes,
            segment_blocks: 0,
            segments: 0,
            own_segments: 0,
            home_offset: 0,
            data_offset: HEAD_BYTES,
            roots_offset: 0,
            metadata_offset: 0,
            image_bytes: 0,
            index_offset: 0,
            index_pages: 0,
            saves: false,
            overlays: false,
            copies: false,
            linear: false,
            thin: false,
            keeps_past: false,
            goes_back: true,
            has_snapshots: false,
            has_branches: true,
            snapshots_max: SNAPSHOTS_MIN,
            has_locks: false,
            objects: false,
            has_groups: false,
            has_volumes: true,
            base_offset: 0,
            says_mixed: None,
        }
    }

    /// Whether there is a base beside the log.
    pub fn has_base(&self) -> bool {
        self.saves || self.overlays
    }

    /// Whether what lies in a segment of this number may be overwritten there without a word: nobody knows its checksum.
    pub fn is_unverified(&self, number: u32) -> bool {
        self.overlays && !self.copies && self.is_object(number)
    }

    /// The device address of a block of the base.
    pub fn in_base(&self, lba: u64) -> u64 {
        self.base_offset + lba * u64::from(self.block_bytes)
    }

    /// Where roots and metadata end.
    pub fn metadata_end(&self) -> u64 {
        let index_end = self.index_offset + u64::from(self.index_pages) * 4096;
        index_end.max(self.roots_offset + ROOTS_BYTES)
    }

    /// The data area.
    pub fn data(&self) -> std::ops::Range<u64> {
        self.data_offset..self.data_offset + u64::from(self.own_segments) * self.segment_bytes()
    }

    /// Whether the log may lie in a segment.
    pub fn is_for_log(&self, physical: u32) -> bool {
        physical < self.own_segments
    }

    /// Whether an extent of the linear volume may, or one of a linear object.
    pub fn is_for_home(&self, physical: u32) -> bool {
        self.own_segments == self.segments || !self.is_for_log(physical)
    }

    /// Whether a row's number is that of an extent of the linear volume.
    pub fn is_extent(&self, number: u32) -> bool {
        let extents = self.volume_blocks.div_ceil(self.segment_blocks.into());
        self.linear && number >= HOME_FIRST && u64::from(number - HOME_FIRST) < extents
    }

    /// Whether a row's number is that of one that others were gathered in.
    pub fn is_gathered(&self, number: u32) -> bool {
        !self.linear && (GATHERED_FIRST..HOME_FIRST).contains(&number)
    }

    /// Whether a row may have this number as a segment of the log.
    pub fn is_of_log(&self, number: u32) -> bool {
        number < GATHERED_FIRST
    }

    /// Whether a number is that of an extent of a linear object, whichever that is.
    pub fn is_object(&self, number: u32) -> bool {
        self.objects && (HOME_FIRST..INHERITED).contains(&number)
    }

    /// Extents of a linear object, as many as the volume has segments.
    pub fn object_extents(&self) -> u64 {
        self.volume_blocks.div_ceil(u64::from(self.segment_blocks.max(1)))
    }

    /// Whether a place in a linear object is that of a block.
    pub fn is_place_of(&self, number: u32, slot: u32, lba: u64) -> bool {
        let blocks = u64::from(self.segment_blocks.max(1));
        self.is_object(number)
            && u64::from(number - HOME_FIRST) % self.object_extents().max(1) == lba / blocks
            && u64::from(slot) == lba % blocks
    }

    /// The extent of a block and its slot there.
    pub fn home(&self, lba: u64) -> (u32, u32) {
        let blocks = u64::from(self.segment_blocks);
        (HOME_FIRST + (lba / blocks) as u32, (lba % blocks) as u32)
    }

    /// The block that a slot of an extent is.
    pub fn block_at_home(&self, number: u32, slot: u32) -> u64 {
        u64::from(number - HOME_FIRST) * u64::from(self.segment_blocks) + u64::from(slot)
    }

    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * u64::from(self.block_bytes)
    }

    /// The device address of a block of a segment.
    pub fn address(&self, physical: u32, block: u32) -> u64 {
        let (start, at) = match physical.checked_sub(self.own_segments) {
            Some(at) if self.own_segments < self.segments => (self.home_offset, at),
            _ => (self.data_offset, physical),
        };
        start + u64::from(at) * self.segment_bytes() + u64::from(block) * u64::from(self.block_bytes)
    }

    /// Where root `place` lies.
    pub fn root(&self, place: usize) -> u64 {
        self.roots_offset + place as u64 * ROOTS_BYTES / 2
    }

    /// First byte of the image of a generation.
    pub fn image(&self, generation: u64) -> u64 {
        self.metadata_offset + generation % 2 * self.image_bytes
    }

    /// First byte of the journal of a generation; it has room for twice an image.
    pub fn journal(&self, generation: u64) -> u64 {
        self.metadata_offset + 2 * self.image_bytes + generation % 2 * self.journal_bytes()
    }

    pub fn journal_bytes(&self) -> u64 {
        2 * self.image_bytes
    }
}
