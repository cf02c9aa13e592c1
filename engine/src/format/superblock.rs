//! The superblock: what a pool is, where its parts lie, and which build may open it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::crc32c;

/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Where the two copies lie, in bytes from the start of the device. Far enough apart that a partition tool
/// or a stray write to the first sectors leaves the second one whole.
pub const COPY_OFFSETS: [u64; 2] = [0, 512 << 10];
/// The format version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// What a superblock begins with.
pub const MAGIC: [u8; 8] = *b"ICECORE\0";
/// Entries of the role table.
pub const ROLES: usize = 16;

/// Incompatible features that this build knows; a pool that uses others is not opened.
pub const KNOWN_INCOMPATIBLE: u64 = FEATURE_LOG
    | FEATURE_VOLUME_DEVICE
    | FEATURE_ROLLBACK
    | FEATURE_SNAPSHOTS
    | FEATURE_BASE
    | FEATURE_BRANCHES
    | FEATURE_MANY_SNAPSHOTS
    | FEATURE_LOCKS
    | FEATURE_OBJECTS
    | FEATURE_GROUPS
    | FEATURE_VOLUMES
    | FEATURE_OBJECTS_DEVICE;
/// Incompatible feature: the pool has a log, an index and a metadata journal.
pub const FEATURE_LOG: u64 = 1;
/// Incompatible feature: the log and the linear volume behind it lie on devices of their own.
pub const FEATURE_VOLUME_DEVICE: u64 = 2;
/// Incompatible feature: the volume has gone back to an earlier moment; what it discarded is still in log and index.
pub const FEATURE_ROLLBACK: u64 = 4;
/// Incompatible feature: moments of the volume have names, which keep what they see.
pub const FEATURE_SNAPSHOTS: u64 = 8;
/// Incompatible feature: the volume has a base, where every block has its place, beside the segments of its log.
pub const FEATURE_BASE: u64 = 16;
/// Incompatible feature: the volume has writable snapshots, or has had some: log and index may hold entries of them.
pub const FEATURE_BRANCHES: u64 = 32;
/// Incompatible feature: the metadata has room for as many snapshots as `snapshots_max` says.
pub const FEATURE_MANY_SNAPSHOTS: u64 = 64;
/// Incompatible feature: snapshots of the volume have been locked.
pub const FEATURE_LOCKS: u64 = 128;
/// Incompatible feature: snapshots have linear objects, where every block that they keep has its place.
pub const FEATURE_OBJECTS: u64 = 256;
/// Incompatible feature: snapshots have been taken in groups.
pub const FEATURE_GROUPS: u64 = 512;
/// Incompatible feature: the pool has further volumes, or has had some: log and index may hold entries of them.
pub const FEATURE_VOLUMES: u64 = 1024;
/// Incompatible feature: the linear objects of snapshots lie on a device of their own.
pub const FEATURE_OBJECTS_DEVICE: u64 = 4096;
/// In `volume_flags`: space is taken when a block is first applied, and the volume may be larger than its pool.
pub const VOLUME_THIN: u32 = 1;
/// In `volume_flags`: the log is in memory. Writes complete there, and a flush forces them to the volume.
pub const VOLUME_VOLATILE_LOG: u32 = 2;
/// In `volume_flags`: where there is no room for what snapshots keep, the oldest is broken.
pub const VOLUME_BREAKS_SNAPSHOTS: u32 = 4;
/// In `volume_flags`, on the device of a base that lies apart: its blocks are no one image, since some were written in
/// place while the log held others.
pub const VOLUME_BASE_MIXED: u32 = 8;
/// In `volume_flags`, on the device of a base that lies apart: it has been written without its log, which is refused from
/// then on.
pub const VOLUME_LOG_LOST: u32 = 16;
/// Features that this build knows for writing; a pool that uses others is opened for reading only.
pub const KNOWN_READ_ONLY: u64 = 0;

/// `state` while a volume is open, and after a crash.
pub const STATE_OPEN: u32 = 1;
/// `state` after an orderly close.
pub const STATE_CLOSED: u32 = 2;

/// `role` of an unused entry of the role table.
pub const ROLE_NONE: u32 = 0;
/// `role` of the device that holds a volume's data.
pub const ROLE_VOLUME: u32 = 1;
/// `role` of the device that holds the log and all metadata, where the volume's data lies elsewhere.
pub const ROLE_LOG: u32 = 2;
/// `role` of the device that holds the linear objects of snapshots, where these lie elsewhere.
pub const ROLE_OBJECTS: u32 = 3;

/// One entry of the role table: which device plays which part in this pool.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `role`: 0 unused, 1 volume, 2 log, 3 objects |
/// | 4 | 4 | `flags`: 0 |
/// | 8 | 16 | `device_id`: the identity stored on that device |
/// | 24 | 8 | `reserved`: 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RoleEntry {
    /// The part it plays.
    pub role: U32,
    /// None defined yet.
    pub flags: U32,
    /// The identity stored on that device.
    pub device_id: [u8; 16],
    /// Zero.
    pub reserved: [u8; 8],
}

/// A run of bytes on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Area {
    /// First byte, from the start of the device.
    pub offset: U64,
    /// Bytes.
    pub bytes: U64,
}

impl Area {
    /// The area of `bytes` from `offset`.
    pub fn new(offset: u64, bytes: u64) -> Self {
        Self { offset: offset.into(), bytes: bytes.into() }
    }

    /// The first byte after it; saturates on a damaged record.
    pub fn end(&self) -> u64 {
        self.offset.get().saturating_add(self.bytes.get())
    }
}

/// One copy of the superblock, 4096 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `ICECORE\0` |
/// | 8 | 4 | `version`: 1 |
/// | 12 | 4 | `checksum`: CRC-32C of the 4096 bytes with this field zero |
/// | 16 | 8 | `address`: where this copy belongs, so that a misdirected one is told |
/// | 24 | 8 | `generation`: raised at every rewrite; the copy with the higher one is newer |
/// | 32 | 16 | `pool_id` |
/// | 48 | 16 | `volume_id` |
/// | 64 | 8 | `features_compatible`: may be ignored |
/// | 72 | 8 | `features_read_only`: unknown ones forbid writing |
/// | 80 | 8 | `features_incompatible`: unknown ones forbid opening |
/// | 88 | 4 | `backend`: 1 direct, 2 log, 3 linear, 4 cow, 5 overlay, 6 logged-cow |
/// | 92 | 4 | `state`: 1 open, 2 closed |
/// | 96 | 8 | `device_bytes`: the device's size when the pool was made or last grown |
/// | 104 | 8 | `volume_bytes` |
/// | 112 | 4 | `block_bytes`: unit of I/O and checksum |
/// | 116 | 4 | `region_bytes`: unit of tracking |
/// | 120 | 8 | `epoch` |
/// | 128 | 8 | `created_unix_s`: seconds since 1970, UTC |
/// | 136 | 16 | `roots`: area of the two alternating roots |
/// | 152 | 16 | `metadata`: area of metadata images, journals and index, or reserved for them |
/// | 168 | 16 | `checksums`: area reserved for the checksums of a linear volume |
/// | 184 | 16 | `data`: area of the volume's blocks |
/// | 200 | 4 | `segment_bytes`: unit in which a log takes space; 0 without a log |
/// | 204 | 4 | `volume_flags`: 1 thin: space is taken when a block is first applied; 2 volatile log: writes are kept in memory until a flush; 4 breaks snapshots: the oldest, where there is no room for what they keep; of a base apart: 8 mixed: its blocks are no one image, 16 log lost: it has been written without its log |
/// | 208 | 8 | `checkpoint_bytes`: of log between checkpoints |
/// | 216 | 8 | `retention_bytes`: superseded blocks kept at most; 0 keeps none |
/// | 224 | 8 | `retention_age_s`: and no longer than this; 0 does not limit it |
/// | 232 | 8 | `home_bytes`: of the data area of the device of a linear volume, or of linear objects, that lie apart; 0 where there is none |
/// | 240 | 16 | `base`: area of the volume's base; 0 where it has none |
/// | 256 | 8 | `snapshot_bytes`: that snapshots of a volume with a base may take; 0: all of the data area |
/// | 264 | 4 | `snapshots_max`: named moments that the metadata has room for, 257 to 16,384; 0: 256 |
/// | 268 | 244 | `reserved_0`: 0 |
/// | 512 | 512 | `roles`: 16 entries |
/// | 1024 | 2560 | `reserved_1`: 0 |
/// | 3584 | 16 | `device_id`: this device's identity in the role table |
/// | 3600 | 8 | `generation_tail`: equals `generation` |
/// | 3608 | 488 | `reserved_2`: 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Superblock {
    pub magic: [u8; 8],
    pub version: U32,
    pub checksum: U32,
    pub address: U64,
    pub generation: U64,
    pub pool_id: [u8; 16],
    pub volume_id: [u8; 16],
    pub features_compatible: U64,
    pub features_read_only: U64,
    pub features_incompatible: U64,
    pub backend: U32,
    pub state: U32,
    pub device_bytes: U64,
    pub volume_bytes: U64,
    pub block_bytes: U32,
    pub region_bytes: U32,
    pub epoch: U64,
    pub created_unix_s: U64,
    pub roots: Area,
    pub metadata: Area,
    pub checksums: Area,
    pub data: Area,
    pub segment_bytes: U32,
    pub volume_flags: U32,
    pub checkpoint_bytes: U64,
    pub retention_bytes: U64,
    pub retention_age_s: U64,
    pub home_bytes: U64,
    pub base: Area,
    pub snapshot_bytes: U64,
    pub snapshots_max: U32,
    pub reserved_0: [u8; 244],
    pub roles: [RoleEntry; ROLES],
    pub reserved_1: [u8; 2560],
    pub device_id: [u8; 16],
    pub generation_tail: U64,
    pub reserved_2: [u8; 488],
}

const _: () = {
    assert!(size_of::<Superblock>() == SUPERBLOCK_BYTES);
    assert!(size_of::<RoleEntry>() == 32);
    assert!(std::mem::offset_of!(Superblock, checksum) == 12);
    assert!(std::mem::offset_of!(Superblock, backend) == 88);
    assert!(std::mem::offset_of!(Superblock, roots) == 136);
    assert!(std::mem::offset_of!(Superblock, roles) == 512);
    assert!(std::mem::offset_of!(Superblock, device_id) == 3584);
    assert!(std::mem::offset_of!(Superblock, generation_tail) == 3600);
};

/// What 4096 bytes read from a copy's place are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "two of them live for a moment at open")]
pub enum Decoded {
    /// No superblock: the magic is not there.
    Absent,
    /// A superblock that is torn, damaged, or belongs elsewhere.
    Damaged,
    /// A whole superblock of a version that this build does not know.
    UnknownVersion(u32),
    /// A whole superblock.
    Valid(Superblock),
}

impl Superblock {
    /// All fields zero but magic, version and an empty role table.
    pub fn empty() -> Self {
        let mut empty = Self::new_zeroed();
        empty.magic = MAGIC;
        empty.version = VERSION.into();
        empty
    }

    /// Whether the volume's data lies on a device of its own.
    pub fn has_volume_device(&self) -> bool {
        self.features_incompatible.get() & FEATURE_VOLUME_DEVICE != 0
    }

    /// Whether the linear objects of snapshots lie on a device of their own.
    pub fn has_objects_device(&self) -> bool {
        self.features_incompatible.get() & FEATURE_OBJECTS_DEVICE != 0
    }

    /// The identity of the device that plays this part.
    pub fn device_of(&self, role: u32) -> Option<[u8; 16]> {
        self.roles.iter().find(|entry| entry.role.get() == role).map(|entry| entry.device_id)
    }

    /// The first byte behind all areas.
    pub fn end(&self) -> u64 {
        [self.roots, self.metadata, self.checksums, self.data, self.base]
            .iter()
            .map(Area::end)
            .max()
            .unwrap_or(0)
    }

    /// The bytes of the copy that belongs at `address`, sealed.
    pub fn encode(&self, address: u64) -> [u8; SUPERBLOCK_BYTES] {
        let mut copy = *self;
        copy.address = address.into();
        copy.generation_tail = copy.generation;
        copy.checksum = 0.into();
        copy.checksum = crc32c(&[copy.as_bytes()]).into();
        zerocopy::transmute!(copy)
    }

    /// Judges the bytes found at `address`. Whatever they are, it neither fails nor panics.
    pub fn decode(bytes: &[u8; SUPERBLOCK_BYTES], address: u64) -> Decoded {
        let mut copy: Self = zerocopy::transmute!(*bytes);
        if copy.magic != MAGIC {
            return Decoded::Absent;
        }
        let stored = std::mem::replace(&mut copy.checksum, 0.into());
        let intact = stored.get() == crc32c(&[copy.as_bytes()]);
        copy.checksum = stored;
        #[cfg(feature = "mutations")]
        let intact = intact || crate::mutation::is_on(crate::mutation::Mutation::TornSuperblockAccepted);
        if !intact || copy.address.get() != address {
            return Decoded::Damaged;
        }
        // A newer version may lay the record out anew; only magic, version and checksum keep their place.
        if copy.version.get() != VERSION {
            return Decoded::UnknownVersion(copy.version.get());
        }
        Decoded::Valid(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        let mut sample = Superblock::empty();
        sample.generation = 7.into();
        sample.pool_id = [0x11; 16];
        sample.volume_id = [0x22; 16];
        sample.backend = 1.into();
        sample.state = STATE_CLOSED.into();
        sample.device_bytes = (64_u64 << 20).into();
        sample.volume_bytes = (32_u64 << 20).into();
        sample.block_bytes = 4096.into();
        sample.region_bytes = 65536.into();
        sample.data = Area::new(8 << 20, 32 << 20);
        sample.roles[0] =
            RoleEntry { role: 1.into(), flags: 0.into(), device_id: [0x33; 16], reserved: [0; 8] };
        sample.device_id = [0x33; 16];
        sample
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode(COPY_OFFSETS[1]);
        assert_eq!(&bytes[..8], b"ICECORE\0");
        assert_eq!(&bytes[8..12], [1, 0, 0, 0]);
        assert_eq!(&bytes[16..32], [0, 0, 8, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[32..64], [[0x11; 16], [0x22; 16]].concat());
        assert_eq!(&bytes[88..96], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(&bytes[112..120], [0, 0x10, 0, 0, 0, 0, 1, 0]);
        assert_eq!(&bytes[184..200], [0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(&bytes[512..520], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[3584..3608], [vec![0x33; 16], vec![7, 0, 0, 0, 0, 0, 0, 0]].concat());
        let covered = [&bytes[..12], &[0; 4], &bytes[16..]].concat();
        assert_eq!(bytes[12..16], crc32c(&[&covered]).to_le_bytes());
        // The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(&[b"12345", b"6789"]), 0xE306_9283);
        assert_eq!(u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]), GOLDEN_CHECKSUM);
    }

    const GOLDEN_CHECKSUM: u32 = 0xC5C8_9F0D;

    #[test]
    fn a_copy_reads_back_only_at_its_own_place() {
        let sample = sample();
        let bytes = sample.encode(COPY_OFFSETS[0]);
        let Decoded::Valid(read) = Superblock::decode(&bytes, COPY_OFFSETS[0]) else { panic!("it is whole") };
        assert_eq!(read.pool_id, sample.pool_id);
        assert_eq!(read.encode(COPY_OFFSETS[0]), bytes);
        assert_eq!(Superblock::decode(&bytes, COPY_OFFSETS[1]), Decoded::Damaged);
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = sample().encode(0);
        for at in 0..SUPERBLOCK_BYTES {
            for flip in [0x01, 0x80, 0xFF] {
                let mut damaged = bytes;
                damaged[at] ^= flip;
                let expected = if at < 8 { Decoded::Absent } else { Decoded::Damaged };
                assert_eq!(Superblock::decode(&damaged, 0), expected, "byte {at}");
            }
        }
    }

    #[test]
    fn every_torn_rewrite_is_noticed() {
        let old = sample().encode(0);
        let mut newer = sample();
        newer.generation = 8.into();
        newer.volume_id = [0x44; 16];
        let new = newer.encode(0);
        for sectors in 1..255_u8 {
            let mut torn = old;
            for sector in (0..8).filter(|sector| sectors & (1 << sector) != 0) {
                torn[sector * 512..][..512].copy_from_slice(&new[sector * 512..][..512]);
            }
            if torn != old && torn != new {
                assert_eq!(Superblock::decode(&torn, 0), Decoded::Damaged, "{sectors:08b}");
            }
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut newer = sample();
        newer.version = 2.into();
        assert_eq!(Superblock::decode(&newer.encode(0), 0), Decoded::UnknownVersion(2));
    }

    #[test]
    fn any_bytes_decode_to_something() {
        let mut random = crate::runtime::Random::from_seed(1);
        for _ in 0..10_000 {
            let mut bytes = [0; SUPERBLOCK_BYTES];
            for word in bytes.chunks_mut(8) {
                word.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            if random.chance(1, 2) {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            let decoded = Superblock::decode(&bytes, 0);
            assert!(matches!(decoded, Decoded::Absent | Decoded::Damaged));
        }
    }
}
