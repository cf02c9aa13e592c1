//! The engine's units as distinct types, so that a byte is never taken for a block.
//!
//! Every conversion has a name and states which unit it multiplies by. Nothing here does I/O.

/// Bytes in the smallest piece a device writes or tears as one: 512.
pub const SECTOR_BYTES: u64 = 512;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit! {
    /// A position on a device or in a volume, in bytes from its start.
    ByteOffset
}
unit! {
    /// A length in bytes.
    ByteLen
}
unit! {
    /// A block's index in its volume; the volume's block size turns it into bytes.
    Lba
}
unit! {
    /// A region's index in its volume; the volume's region size turns it into bytes.
    RegionIndex
}
unit! {
    /// A position in the order of changes within an epoch. Never used twice.
    Seq
}
unit! {
    /// The generation of a volume's write authority, raised at each promotion.
    Epoch
}

/// Blocks that lie between the same block of two branches in the index: a branch's blocks are numbered from its own
/// multiple of this on, and no volume has more.
pub const BRANCH_BLOCKS: u64 = 1 << 48;

/// The number in the index of a block of a branch; the volume itself is branch 0.
pub fn address_of(branch: u32, lba: u64) -> u64 {
    u64::from(branch) * BRANCH_BLOCKS + lba
}

/// The branch that a block of this number in the index is of.
pub fn branch_of(address: u64) -> u32 {
    (address / BRANCH_BLOCKS) as u32
}

/// The block of its branch that has this number in the index.
pub fn lba_of(address: u64) -> u64 {
    address % BRANCH_BLOCKS
}

/// What a branch was right after the entry of this sequence, and before any later one. In the order of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The branch: 0 for the volume itself.
    pub branch: u32,
    /// The sequence.
    pub sequence: u64,
}

impl ByteOffset {
    /// The offset `len` bytes further on, or `None` past the end of the 64-bit range.
    pub fn checked_add(self, len: u64) -> Option<Self> {
        self.0.checked_add(len).map(Self)
    }

    /// The block this byte lies in, for blocks of `block_bytes` (a power of two).
    pub fn lba(self, block_bytes: u32) -> Lba {
        Lba(self.0 / u64::from(block_bytes))
    }

    /// The region this byte lies in, for regions of `region_bytes` (a power of two).
    pub fn region(self, region_bytes: u32) -> RegionIndex {
        RegionIndex(self.0 / u64::from(region_bytes))
    }

    /// Whether this offset is a multiple of `granularity_bytes`.
    pub fn is_aligned(self, granularity_bytes: u64) -> bool {
        self.0.is_multiple_of(granularity_bytes)
    }
}

impl Lba {
    /// The first byte of this block, for blocks of `block_bytes`.
    pub fn offset(self, block_bytes: u32) -> ByteOffset {
        ByteOffset(self.0 * u64::from(block_bytes))
    }
}

impl RegionIndex {
    /// The first byte of this region, for regions of `region_bytes`.
    pub fn offset(self, region_bytes: u32) -> ByteOffset {
        ByteOffset(self.0 * u64::from(region_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_name_their_unit() {
        assert_eq!(ByteOffset(8192).lba(4096), Lba(2));
        assert_eq!(Lba(2).offset(512), ByteOffset(1024));
        assert_eq!(ByteOffset(65537).region(65536), RegionIndex(1));
        assert_eq!(RegionIndex(3).offset(65536), ByteOffset(196_608));
        assert!(ByteOffset(1024).is_aligned(512));
        assert!(!ByteOffset(1025).is_aligned(512));
        assert_eq!(ByteOffset(u64::MAX).checked_add(1), None);
    }
}
