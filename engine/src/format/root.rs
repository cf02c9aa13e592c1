//! The root of a pool: which image of the metadata is the current one, and where its journal begins.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::crc32c;

/// Bytes of a root.
pub const ROOT_BYTES: usize = 4096;
/// What a root begins with.
pub const MAGIC: [u8; 8] = *b"ICEROOT\0";
/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// One of the two alternating roots, 4096 bytes. The whole one with the higher generation counts.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `ICEROOT\0` |
/// | 8 | 4 | `version`: 1 |
/// | 12 | 4 | `checksum`: CRC-32C of the 4096 bytes with this field zero |
/// | 16 | 8 | `address`: where this root belongs, in bytes from the start of the device |
/// | 24 | 8 | `generation`: one more than the root before |
/// | 32 | 16 | `pool_id` |
/// | 48 | 8 | `image_address`: of the metadata image, a list of changes that make the state from nothing |
/// | 56 | 8 | `image_bytes`: of the list |
/// | 64 | 4 | `image_checksum`: CRC-32C of the list |
/// | 68 | 4 | `reserved_0`: 0 |
/// | 72 | 8 | `journal_address`: where the journal's records of this generation begin |
/// | 80 | 8 | `journal_bytes`: room for them |
/// | 88 | 4008 | `reserved_1`: 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Root {
    pub magic: [u8; 8],
    pub version: U32,
    pub checksum: U32,
    pub address: U64,
    pub generation: U64,
    pub pool_id: [u8; 16],
    pub image_address: U64,
    pub image_bytes: U64,
    pub image_checksum: U32,
    pub reserved_0: U32,
    pub journal_address: U64,
    pub journal_bytes: U64,
    pub reserved_1: [u8; 4008],
}

const _: () = {
    assert!(size_of::<Root>() == ROOT_BYTES);
    assert!(std::mem::offset_of!(Root, journal_address) == 72);
};

/// What the bytes at a root's place are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "two of them live for a moment at open")]
pub enum Decoded {
    /// No whole root that belongs here.
    Absent,
    /// A whole root of a version that this build does not know.
    UnknownVersion(u32),
    /// A whole root.
    Valid(Root),
}

impl Root {
    /// All fields zero but magic and version.
    pub fn empty() -> Self {
        let mut empty = Self::new_zeroed();
        empty.magic = MAGIC;
        empty.version = VERSION.into();
        empty
    }

    /// The bytes of the root that belongs at `address`, sealed.
    pub fn encode(&self, address: u64) -> [u8; ROOT_BYTES] {
        let mut copy = *self;
        copy.address = address.into();
        copy.checksum = 0.into();
        copy.checksum = crc32c(&[copy.as_bytes()]).into();
        zerocopy::transmute!(copy)
    }

    /// Judges the bytes found at `address`. Whatever they are, it neither fails nor panics.
    pub fn decode(bytes: &[u8; ROOT_BYTES], address: u64) -> Decoded {
        let root: Self = zerocopy::transmute!(*bytes);
        let intact = crc32c(&[&bytes[..12], &[0; 4], &bytes[16..]]) == root.checksum.get();
        if root.magic != MAGIC || !intact || root.address.get() != address {
            return Decoded::Absent;
        }
        if root.version.get() != VERSION {
            return Decoded::UnknownVersion(root.version.get());
        }
        Decoded::Valid(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> [u8; ROOT_BYTES] {
        let mut root = Root::empty();
        root.generation = 5.into();
        root.pool_id = [0x11; 16];
        root.image_address = (1_u64 << 20).into();
        root.image_bytes = 96.into();
        root.image_checksum = 0x0A0B_0C0D.into();
        root.journal_address = (2_u64 << 20).into();
        root.journal_bytes = (256_u64 << 10).into();
        root.encode(65536)
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample();
        assert_eq!(&bytes[..12], b"ICEROOT\0\x01\0\0\0");
        assert_eq!(&bytes[16..32], [0, 0, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[48..64], [0, 0, 0x10, 0, 0, 0, 0, 0, 96, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            &bytes[64..88],
            [13, 12, 11, 10, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0]
        );
        assert!(matches!(Root::decode(&bytes, 65536), Decoded::Valid(root) if root.generation.get() == 5));
        assert_eq!(Root::decode(&bytes, 131_072), Decoded::Absent);
    }

    #[test]
    fn every_changed_byte_is_noticed_and_an_unknown_version_is_named() {
        for at in 0..ROOT_BYTES {
            let mut damaged = sample();
            damaged[at] ^= 0x10;
            assert_eq!(Root::decode(&damaged, 65536), Decoded::Absent, "byte {at}");
        }
        let mut newer: Root = zerocopy::transmute!(sample());
        newer.version = 9.into();
        assert_eq!(Root::decode(&newer.encode(65536), 65536), Decoded::UnknownVersion(9));
    }
}
