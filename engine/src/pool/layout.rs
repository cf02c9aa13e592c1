//! Where the parts of a pool lie, computed once at creation and then read from the superblock.

use crate::error::{Error, Reason, Result};
use crate::format::superblock::{Area, COPY_OFFSETS, SUPERBLOCK_BYTES};

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
        Ok(Self { roots: Area::new(ROOTS_OFFSET, ROOTS_BYTES), metadata, checksums, data })
    }
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
