//! Where the parts of a pool lie, computed once at creation and then read from the superblock.

use super::journal::Places;
use super::metadata::ROWS_PER_SEGMENT;
use super::snapshots::SNAPSHOTS_MIN;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{Area, COPY_OFFSETS, FEATURE_BASE, SUPERBLOCK_BYTES, Superblock};

/// Everything below this belongs to superblocks and roots.
pub const HEAD_BYTES: u64 = 1 << 20;
const ROOTS_OFFSET: u64 = 64 << 10;
const ROOTS_BYTES: u64 = 128 << 10;
/// Areas begin at multiples of this, which suits every device's own unit.
const AREA_ALIGNMENT_BYTES: u64 = 1 << 20;
/// One part in this many of the volume (of the device, where it fills it) is reserved for metadata, so that a volume can be converted in place.
const METADATA_SHARE: u64 = 64;
const METADATA_BYTES_MAX: u64 = 4 << 30;
/// A checksum page of 4096 bytes describes this many blocks: a header of 64 bytes and 8 bytes a block.
const BLOCKS_PER_CHECKSUM_PAGE: u64 = (4096 - 64) / 8;
/// Checksums are kept for blocks of this size or larger ones.
const CHECKSUM_BLOCK_BYTES: u64 = 4096;

const _: () = assert!(COPY_OFFSETS[0] + SUPERBLOCK_BYTES as u64 <= ROOTS_OFFSET);
const _: () = assert!(ROOTS_OFFSET + ROOTS_BYTES <= COPY_OFFSETS[1]);
const _: () = assert!(COPY_OFFSETS[1] + SUPERBLOCK_BYTES as u64 <= HEAD_BYTES);

/// The areas of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The two alternating roots.
    pub roots: Area,
    /// Reserved for journal, log and index.
    pub metadata: Area,
    /// Reserved for checksums.
    pub checksums: Area,
    /// The volume's blocks.
    pub data: Area,
    /// Where every block of the volume has its place, beside the segments in `data`; empty where it has no base.
    pub base: Area,
}

impl Layout {
    /// The layout of a volume of `volume_bytes`, or of the largest that fits, on a device of `device_bytes`.
    /// Sizes are whole multiples of `region_bytes`.
    ///
    /// # Errors
    /// `DeviceTooSmall` with the bytes needed.
    pub fn plan(device_bytes: u64, volume_bytes: Option<u64>, region_bytes: u64) -> Result<Self> {
        let metadata_bytes = (volume_bytes.unwrap_or(device_bytes) / METADATA_SHARE)
            .next_multiple_of(AREA_ALIGNMENT_BYTES)
            .clamp(AREA_ALIGNMENT_BYTES, METADATA_BYTES_MAX);
        let metadata = Area::new(HEAD_BYTES, metadata_bytes);
        let volume_bytes = volume_bytes.unwrap_or_else(|| {
            let rest = device_bytes.saturating_sub(metadata.end());
            // Room for the checksums of all of the rest is enough for what remains of it.
            let checksums = checksum_bytes(rest).next_multiple_of(AREA_ALIGNMENT_BYTES);
            rest.saturating_sub(checksums) / region_bytes * region_bytes
        });
        let volume_bytes = volume_bytes.max(region_bytes);
        let checksums = Area::new(
            metadata.end(),
            checksum_bytes(volume_bytes).checked_next_multiple_of(AREA_ALIGNMENT_BYTES).unwrap_or(u64::MAX),
        );
        let data = Area::new(checksums.end(), volume_bytes);
        if data.end() > device_bytes {
            let reason = Reason::DeviceTooSmall { needed_bytes: data.end(), found_bytes: device_bytes };
            return Err(Error::new("create", reason));
        }
        let base = Area::default();
        Ok(Self { roots: Area::new(ROOTS_OFFSET, ROOTS_BYTES), metadata, checksums, data, base })
    }
}

/// The parts of a log pool are whole multiples of this.
const LOG_ALIGNMENT_BYTES: u64 = 64 << 10;
/// The index area has room for so many entries for each block of the data area: what lives, which is an entry and, where only
/// the past sees it, a death of three quarters of its length; a merged copy of both; and almost as much again.
const INDEX_ENTRIES_PER_BLOCK: u64 = 5;
const INDEX_BYTES_MIN: u64 = 1 << 20;
/// With a base, a saved block has two entries and a death: what was saved, and since when the base holds newer content.
const INDEX_ENTRIES_PER_SAVED_BLOCK: u64 = 8;
/// A volume with a base takes this part of a device that it is to fill; the rest is for what is changed or saved.
pub const BASE_PARTS: u64 = 3;
/// The part is of so many.
pub const BASE_OF: u64 = 4;
/// Bytes of a row in a metadata image, without its bitmaps.
const ROW_BYTES: u64 = 64;
/// Bytes of a named moment in a metadata image at most, with all that is told of it. The room for any pool's has been
/// there from the beginning.
const SNAPSHOT_BYTES: u64 = 160;
/// Segments of the smallest log pool.
const SEGMENTS_MIN: u64 = 16;
/// Free segments that only the emptying of others may take.
pub const RESERVED_SEGMENTS: u64 = 5;
/// Besides what the log leases and what is reserved, a volume fills at most four fifths of the segments: as many as
/// reserved are then emptied into one less.
const FILL_PARTS: u64 = 4;
const FILL_OF: u64 = 5;

/// What a volume takes of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So much that segments with dead blocks can still be emptied.
    Cleaned,
    /// All but what the log needs: every block has its place.
    Whole,
    /// Space is taken when it is needed; the volume may be larger than the pool.
    Thin,
    /// Nothing: the volume has its place beside them, a base, and they hold what has been changed or saved.
    Beside,
    /// As `Beside`, and the base has so many bytes on a device of its own.
    BesideApart(u64),
    /// Nothing: the volume has the segments that lie apart. In a thin one it may be larger.
    Apart {
        /// Whether the volume may be larger.
        thin: bool,
    },
}

/// Where the metadata of a log pool lies.
#[derive(Clone, Copy, Debug)]
pub struct MetadataPlaces {
    /// Roots, images and journals.
    pub journal: Places,
    /// The pages of the index.
    pub index: Area,
}

/// Bytes of one metadata image of so many segments and snapshots; a journal is twice as long.
fn image_bytes(segments: u64, segment_blocks: u64, snapshots_max: u32) -> u64 {
    let row_bytes = ROW_BYTES + 2 * segment_blocks.div_ceil(64) * 8;
    let more_snapshots = u64::from(snapshots_max.saturating_sub(SNAPSHOTS_MIN));
    (segments * ROWS_PER_SEGMENT as u64 * row_bytes + more_snapshots * SNAPSHOT_BYTES + LOG_ALIGNMENT_BYTES)
        .next_multiple_of(LOG_ALIGNMENT_BYTES)
}

/// Named moments that the metadata of this pool has room for.
pub fn snapshots_max(superblock: &Superblock) -> u32 {
    superblock.snapshots_max.get().max(SNAPSHOTS_MIN)
}

/// The parts of the metadata area of a log pool, from its superblock.
pub fn metadata_places(superblock: &Superblock) -> MetadataPlaces {
    let segment_bytes = u64::from(superblock.segment_bytes.get()).max(1);
    let segments = superblock.data.bytes.get() / segment_bytes + superblock.home_bytes.get() / segment_bytes;
    let segment_blocks = segment_bytes / u64::from(superblock.block_bytes.get()).max(1);
    let image = image_bytes(segments, segment_blocks, snapshots_max(superblock));
    let start = superblock.metadata.offset.get();
    let area = |parts: u64, length: u64| Area::new(start + parts * image, length);
    let roots = superblock.roots.offset.get();
    let index = area(6, superblock.metadata.bytes.get().saturating_sub(6 * image));
    MetadataPlaces {
        journal: Places {
            roots: [roots, roots + ROOTS_BYTES / 2],
            images: [area(0, image), area(1, image)],
            journals: [area(2, 2 * image), area(4, 2 * image)],
        },
        index,
    }
}

/// What a log pool is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments that the log leases at most.
    pub leases: u64,
    /// Named moments that there is room for.
    pub snapshots_max: u32,
    /// Segments on another device, numbered behind those of this one: their metadata lies here.
    pub segments_apart: u64,
}

impl Layout {
    /// The layout of a log pool. The data area takes all that the metadata leaves; the bytes of the volume are told
    /// beside it.
    ///
    /// # Errors
    /// `DeviceTooSmall` with the bytes needed.
    pub fn plan_log(
        device_bytes: u64,
        volume_bytes: Option<u64>,
        region_bytes: u64,
        parts: Parts,
        fill: Fill,
    ) -> Result<(Self, u64)> {
        let Parts { block_bytes, segment_bytes, leases, snapshots_max, segments_apart } = parts;
        let segment_blocks = segment_bytes / block_bytes;
        let (apart, may_exceed) = match fill {
            Fill::Apart { thin } => (Some(segments_apart), thin),
            _ => (None, fill == Fill::Thin),
        };
        let part = device_bytes / BASE_OF * BASE_PARTS / region_bytes * region_bytes;
        let beside = match fill {
            Fill::Beside => Some(volume_bytes.unwrap_or(part).max(region_bytes)),
            Fill::BesideApart(bytes) => Some(bytes / region_bytes * region_bytes),
            _ => None,
        };
        let entries = if beside.is_some() { INDEX_ENTRIES_PER_SAVED_BLOCK } else { INDEX_ENTRIES_PER_BLOCK };
        let layout = |segments: u64| {
            let image = image_bytes(segments + segments_apart, segment_blocks, snapshots_max);
            let metadata_bytes =
                log_metadata_bytes(segments + segments_apart, segment_blocks, entries, image);
            let metadata = Area::new(HEAD_BYTES, metadata_bytes);
            let checksums = Area::new(metadata.end(), 0);
            let roots = Area::new(ROOTS_OFFSET, ROOTS_BYTES);
            let (base, data_offset) = match beside.filter(|_| fill == Fill::Beside) {
                Some(bytes) => {
                    let base = Area::new(metadata.end().next_multiple_of(AREA_ALIGNMENT_BYTES), bytes);
                    (base, base.end().checked_next_multiple_of(LOG_ALIGNMENT_BYTES).unwrap_or(u64::MAX))
                }
                None => (Area::default(), metadata.end()),
            };
            let data = Area::new(data_offset, segments * segment_bytes);
            Self { roots, metadata, checksums, data, base }
        };
        let segments = segments_that_fit(device_bytes, segment_bytes, |segments| layout(segments).data.end());
        let taken = leases + RESERVED_SEGMENTS + 1;
        let (parts, of) = if fill == Fill::Cleaned { (FILL_PARTS, FILL_OF) } else { (1, 1) };
        let most = apart.unwrap_or(segments.saturating_sub(taken) * parts / of) * segment_bytes;
        let most = beside.unwrap_or(most / region_bytes * region_bytes);
        let volume_bytes = volume_bytes.unwrap_or(most).max(region_bytes);
        let fits = volume_bytes <= most || may_exceed;
        if segments < SEGMENTS_MIN || segments <= taken || !fits {
            let volume_segments =
                if apart.is_some() || beside.is_some() { 1 } else { volume_bytes.div_ceil(segment_bytes) };
            let wanted = taken + (volume_segments * of).div_ceil(parts);
            let needed_bytes = layout(wanted.clamp(SEGMENTS_MIN, 1 << 32)).data.end();
            return Err(Error::new(
                "create",
                Reason::DeviceTooSmall { needed_bytes, found_bytes: device_bytes },
            ));
        }
        Ok((layout(segments), volume_bytes))
    }

    /// The layout of a log pool on a device that has become larger: more segments behind those it has, and behind
    /// these roots and metadata with room for all of them. These lie where the pool as it is has nothing, so that
    /// one superblock makes the one pool the other; what they leave behind is segments, or unused.
    ///
    /// # Errors
    /// `DeviceTooSmall` with the bytes needed for one more segment.
    pub fn grow_log(pool: &Superblock, device_bytes: u64) -> Result<Self> {
        let segment_bytes = u64::from(pool.segment_bytes.get()).max(1);
        let segment_blocks = segment_bytes / u64::from(pool.block_bytes.get()).max(1);
        let used_end = pool.data.end().max(pool.roots.end()).max(pool.metadata.end());
        let layout = |segments: u64| {
            let data = Area::new(pool.data.offset.get(), segments * segment_bytes);
            let roots_offset = data.end().max(used_end).next_multiple_of(LOG_ALIGNMENT_BYTES);
            let roots = Area::new(roots_offset, ROOTS_BYTES);
            let has_base = pool.features_incompatible.get() & FEATURE_BASE != 0;
            let entries = if has_base { INDEX_ENTRIES_PER_SAVED_BLOCK } else { INDEX_ENTRIES_PER_BLOCK };
            let in_all = segments + pool.home_bytes.get() / segment_bytes;
            let image = image_bytes(in_all, segment_blocks, snapshots_max(pool));
            let metadata = Area::new(roots.end(), log_metadata_bytes(in_all, segment_blocks, entries, image));
            Self { roots, metadata, checksums: pool.checksums, data, base: pool.base }
        };
        let segments =
            segments_that_fit(device_bytes, segment_bytes, |segments| layout(segments).metadata.end());
        let before = pool.data.bytes.get() / segment_bytes;
        if segments <= before {
            let needed_bytes = layout(before + 1).metadata.end();
            let reason = Reason::DeviceTooSmall { needed_bytes, found_bytes: device_bytes };
            return Err(Error::new("grow", reason));
        }
        Ok(layout(segments))
    }
}

/// The area on the device of a volume that has one of its own: whole units, segments or regions, as many as fit.
pub fn home_area(device_bytes: u64, unit_bytes: u64) -> Area {
    let bytes = device_bytes.saturating_sub(HEAD_BYTES);
    Area::new(HEAD_BYTES, bytes - bytes % unit_bytes.max(1))
}

/// Bytes of the metadata of a log pool with so many segments, and images of `image_bytes`.
fn log_metadata_bytes(segments: u64, segment_blocks: u64, entries_per_block: u64, image_bytes: u64) -> u64 {
    let index = (segments * segment_blocks * 32 * entries_per_block).max(INDEX_BYTES_MIN);
    (6 * image_bytes + index).next_multiple_of(LOG_ALIGNMENT_BYTES)
}

/// As many segments as fit a device beside their metadata; `end`: of all that goes with so many.
fn segments_that_fit(device_bytes: u64, segment_bytes: u64, end: impl Fn(u64) -> u64) -> u64 {
    let mut segments = device_bytes.saturating_sub(HEAD_BYTES) / segment_bytes;
    while segments > 0 && end(segments) > device_bytes {
        let over = (end(segments) - device_bytes).div_ceil(segment_bytes);
        segments -= over.div_ceil(2).max(1).min(segments);
    }
    segments
}

fn checksum_bytes(volume_bytes: u64) -> u64 {
    volume_bytes.div_ceil(CHECKSUM_BLOCK_BYTES).div_ceil(BLOCKS_PER_CHECKSUM_PAGE) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_follow_each_other_and_fit() {
        for device_bytes in [4 << 20, 64 << 20, 1 << 30, (1 << 30) + 12288, 1 << 40, 1 << 50] {
            let layout = Layout::plan(device_bytes, None, 65536).unwrap();
            assert!(layout.roots.end() <= HEAD_BYTES);
            assert_eq!(layout.metadata.offset.get(), HEAD_BYTES);
            assert_eq!(layout.checksums.offset.get(), layout.metadata.end());
            assert_eq!(layout.data.offset.get(), layout.checksums.end());
            assert!(layout.data.end() <= device_bytes);
            let used = layout.data.bytes.get();
            assert!(used.is_multiple_of(65536) && used + (8 << 20) > device_bytes - device_bytes / 40);
        }
    }

    #[test]
    fn a_log_pool_has_room_for_its_metadata_and_spare_segments() {
        for (device_bytes, block_bytes, segment_bytes) in [
            (8 << 20, 512, 65536),
            (64 << 20, 4096, 512 << 10),
            (1 << 30, 4096, 8 << 20),
            (1 << 40, 4096, 8 << 20),
        ] {
            let parts = Parts {
                block_bytes,
                segment_bytes,
                leases: 9,
                snapshots_max: SNAPSHOTS_MIN,
                segments_apart: 0,
            };
            let (layout, volume_bytes) =
                Layout::plan_log(device_bytes, None, 65536, parts, Fill::Cleaned).unwrap();
            assert!(
                layout.data.end() <= device_bytes && layout.data.end() + 4 * segment_bytes > device_bytes
            );
            assert!(volume_bytes + 8 * segment_bytes <= layout.data.bytes.get());
            assert!(
                volume_bytes * 2 > device_bytes || device_bytes < 64 << 20,
                "{volume_bytes} of {device_bytes}"
            );
            let mut superblock = Superblock::empty();
            superblock.roots = layout.roots;
            superblock.metadata = layout.metadata;
            superblock.data = layout.data;
            superblock.block_bytes = (block_bytes as u32).into();
            superblock.segment_bytes = (segment_bytes as u32).into();
            let places = metadata_places(&superblock);
            assert_eq!(places.index.end(), layout.metadata.end());
            assert!(places.index.bytes.get() >= INDEX_BYTES_MIN);
        }
        let parts = Parts {
            block_bytes: 4096,
            segment_bytes: 8 << 20,
            leases: 9,
            snapshots_max: SNAPSHOTS_MIN,
            segments_apart: 0,
        };
        let error = Layout::plan_log(1 << 30, Some(2 << 30), 65536, parts, Fill::Cleaned).unwrap_err();
        let Reason::DeviceTooSmall { needed_bytes, .. } = *error.reason() else { panic!("{error}") };
        assert!(Layout::plan_log(needed_bytes, Some(2 << 30), 65536, parts, Fill::Cleaned).is_ok());
    }

    #[test]
    fn an_image_has_room_for_the_longest_of_every_snapshot() {
        use crate::pool::snapshots::{
            Keeping, NAME_BYTES_MAX, SNAPSHOTS_MAX, Snapshot, SnapshotGroup, SnapshotLock,
        };
        let name = "n".repeat(NAME_BYTES_MAX);
        let (keeping, lock) = (Keeping::Kept, SnapshotLock::default());
        let group = Some(SnapshotGroup { id: [1; 16], members: 3 });
        let longest =
            Snapshot { number: 1, branch: 1, sequence: 1, time_unix_ns: 1, keeping, name, group, lock };
        let mut bytes = Vec::new();
        longest.change().encode(&mut bytes);
        lock.change(1).encode(&mut bytes);
        assert!(bytes.len() as u64 <= SNAPSHOT_BYTES, "{}", bytes.len());
        for snapshots_max in [SNAPSHOTS_MIN, 10_000, SNAPSHOTS_MAX] {
            let room = image_bytes(0, 512, snapshots_max);
            assert!(room >= u64::from(snapshots_max) * bytes.len() as u64, "{snapshots_max}: {room}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_bytes_it_needs() {
        let error = Layout::plan(8 << 20, Some(64 << 20), 4096).unwrap_err();
        let Reason::DeviceTooSmall { needed_bytes, found_bytes } = *error.reason() else { panic!("{error}") };
        assert_eq!(found_bytes, 8 << 20);
        assert!(Layout::plan(needed_bytes, Some(64 << 20), 4096).is_ok());
        for (device_bytes, volume_bytes) in [(0, None), (1 << 20, None), (1 << 30, Some(u64::MAX))] {
            assert!(Layout::plan(device_bytes, volume_bytes, 4096).is_err(), "{device_bytes}");
        }
    }
}
