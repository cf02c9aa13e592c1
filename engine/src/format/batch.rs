//! A batch of the record log: one header, then the payload blocks that its entries name.
//!
//! On the device: `[header | payload]`, written with one request. The header is a [`BatchHeader`], the entries,
//! and a CRC-32C of every payload block, padded with zeroes to whole blocks.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::crc32c;
use crate::units::address_of;

/// What a header begins with.
pub const MAGIC: [u8; 8] = *b"ICEBATCH";
/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Entries of a batch at most.
pub const ENTRIES_MAX: u32 = 4096;

/// `kind` of an entry with payload.
pub const KIND_DATA: u32 = 1;
/// `kind` of a range that reads as zero from now on and keeps its space.
pub const KIND_ZERO: u32 = 2;
/// `kind` of a range that reads as zero from now on and gives its space back.
pub const KIND_DISCARD: u32 = 3;
/// `kind` of a named moment; `tag` is its number.
pub const KIND_SNAPSHOT_MARK: u32 = 4;
/// `kind` of the first entry of a write group; `tag` is the group's number.
pub const KIND_GROUP_BEGIN: u32 = 5;
/// `kind` of the entry that makes a write group take effect; `tag` is the group's number.
pub const KIND_GROUP_COMMIT: u32 = 6;
/// `kind` of a return to an earlier moment; `tag` is the sequence returned to. It is the first entry behind a
/// checkpoint, so that all it discards is in the index.
pub const KIND_ROLLBACK: u32 = 7;

/// `kind` of an entry whose payload is what the base held and a moment still needs: the range may have new content
/// there from this sequence on.
pub const KIND_SAVED: u32 = 8;

/// `kind` of data that lies in its place in a linear object; `tag` is the extent's virtual segment. Nobody knows its
/// checksum: it may be overwritten there without a word.
pub const KIND_PLACED: u32 = 9;
/// `kind` of what the base held, as [`KIND_SAVED`], one block of it, copied to its place in a linear object; `tag` is the
/// extent's virtual segment and, in its upper half, the checksum.
pub const KIND_SAVED_IN_PLACE: u32 = 10;

/// `kind` of an entry whose payload is what the base held of blocks that have newer versions in the log. The run of a
/// checkpoint says of which version each is; until then nobody refers to them, and after a crash nobody will.
pub const KIND_COPIED: u32 = 11;

/// Whether what an entry of this kind tells of lies in a linear object.
pub fn is_in_place(kind: u32) -> bool {
    matches!(kind, KIND_PLACED | KIND_SAVED_IN_PLACE)
}

/// Whether entries of this kind have payload.
pub fn has_payload(kind: u32) -> bool {
    matches!(kind, KIND_DATA | KIND_SAVED | KIND_COPIED)
}

/// One entry of a batch. Its sequence is the batch's `first_sequence` and its position.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `kind`: 1 data, 2 zero, 3 discard, 4 snapshot mark, 5 group begin, 6 group commit, 7 rollback, 8 saved, 9 placed, 10 saved in place, 11 copied |
/// | 4 | 4 | `branch`: whose blocks they are; 0, the volume itself |
/// | 8 | 8 | `lba`: first block |
/// | 16 | 4 | `blocks`: of the range |
/// | 20 | 4 | `payload`: index of its first block in the payload; 0 without payload, and not looked at then |
/// | 24 | 8 | `tag`: what the kind says; else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct BatchEntry {
    pub kind: U32,
    pub branch: U32,
    pub lba: U64,
    pub blocks: U32,
    pub payload: U32,
    pub tag: U64,
}

impl BatchEntry {
    /// The number in the index of its first block.
    pub fn address(&self) -> u64 {
        address_of(self.branch.get(), self.lba.get())
    }

    /// Of an entry [in place](is_in_place): virtual segment and slot of its first block, where a segment has so many
    /// blocks; `None` where it lies in no one extent.
    pub fn place(&self, segment_blocks: u32) -> Option<(u32, u32)> {
        let slot = (self.lba.get() % u64::from(segment_blocks.max(1))) as u32;
        let ends_there = slot.checked_add(self.blocks.get()).is_some_and(|end| end <= segment_blocks);
        let blocks_fit = self.kind.get() == KIND_PLACED || self.blocks.get() == 1;
        (ends_there && blocks_fit && self.branch.get() == 0).then_some((self.tag.get() as u32, slot))
    }

    /// Of an entry of the kind [`KIND_SAVED_IN_PLACE`]: the checksum of its block.
    pub fn checksum_in_place(&self) -> u32 {
        (self.tag.get() >> 32) as u32
    }
}

/// The header of a batch, 128 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `ICEBATCH` |
/// | 8 | 4 | `version`: 1 |
/// | 12 | 4 | `checksum`: CRC-32C of the `header_bytes` with this field zero |
/// | 16 | 8 | `address`: where the batch belongs, in bytes from the start of the device |
/// | 24 | 16 | `nonce`: of the opening that wrote it |
/// | 40 | 8 | `batch`: its number; each is one more than the one before |
/// | 48 | 8 | `first_sequence`: of its first entry |
/// | 56 | 8 | `durable_through`: the sequence known to be durable when it was written |
/// | 64 | 8 | `epoch` |
/// | 72 | 8 | `time_unix_ns`: the writer's clock, never going back |
/// | 80 | 4 | `previous`: the `checksum` of the batch before |
/// | 84 | 4 | `header_bytes`: header, entries and checksums, padded to whole blocks |
/// | 88 | 4 | `payload_blocks` |
/// | 92 | 4 | `entries` |
/// | 96 | 4 | `block_bytes` |
/// | 100 | 28 | `reserved`: 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct BatchHeader {
    pub magic: [u8; 8],
    pub version: U32,
    pub checksum: U32,
    pub address: U64,
    pub nonce: [u8; 16],
    pub batch: U64,
    pub first_sequence: U64,
    pub durable_through: U64,
    pub epoch: U64,
    pub time_unix_ns: U64,
    pub previous: U32,
    pub header_bytes: U32,
    pub payload_blocks: U32,
    pub entries: U32,
    pub block_bytes: U32,
    pub reserved: [u8; 28],
}

const HEADER: usize = size_of::<BatchHeader>();
const ENTRY: usize = size_of::<BatchEntry>();

const _: () = {
    assert!(HEADER == 128 && ENTRY == 32);
    assert!(std::mem::offset_of!(BatchHeader, checksum) == 12);
    assert!(std::mem::offset_of!(BatchHeader, previous) == 80);
    assert!(std::mem::offset_of!(BatchHeader, reserved) == 100);
};

/// What the bytes at a batch's place are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No header of a batch that belongs here.
    Absent,
    /// A whole header of a version that this build does not know.
    UnknownVersion(u32),
    /// A whole header; its payload has not been looked at.
    Valid(Box<Batch>),
}

/// A batch's header with its entries and the checksums of its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The fixed part.
    pub header: BatchHeader,
    /// What it says.
    pub entries: Vec<BatchEntry>,
    /// CRC-32C of each payload block.
    pub checksums: Vec<u32>,
}

/// Bytes of the header of a batch, padded to whole blocks.
pub fn header_bytes(entries: usize, payload_blocks: usize, block_bytes: usize) -> usize {
    (HEADER + entries * ENTRY + payload_blocks * 4).next_multiple_of(block_bytes)
}

impl BatchHeader {
    /// All fields zero but magic and version.
    pub fn empty() -> Self {
        let mut empty = Self::new_zeroed();
        empty.magic = MAGIC;
        empty.version = VERSION.into();
        empty
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.header_bytes.get())
            + u64::from(self.payload_blocks.get()) * u64::from(self.block_bytes.get())
    }

    /// Writes header, entries and checksums to the front of `to` and seals them. Returns the seal.
    ///
    /// # Panics
    /// When `to` is shorter than `header_bytes` says.
    pub fn encode(&mut self, entries: &[BatchEntry], checksums: &[u32], to: &mut [u8]) -> u32 {
        let to = &mut to[..self.header_bytes.get() as usize];
        self.checksum = 0.into();
        let (fixed, rest) = to.split_at_mut(HEADER);
        let (list, rest) = rest.split_at_mut(entries.len() * ENTRY);
        fixed.copy_from_slice(self.as_bytes());
        list.copy_from_slice(entries.as_bytes());
        let (sums, padding) = rest.split_at_mut(checksums.len() * 4);
        for (place, checksum) in sums.chunks_exact_mut(4).zip(checksums) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        padding.fill(0);
        let seal = crc32c(&[to]);
        self.checksum = seal.into();
        to[12..16].copy_from_slice(&seal.to_le_bytes());
        seal
    }
}

/// Judges the bytes found at `address`; they may go on past the header. Whatever they are, it neither fails nor
/// panics.
pub fn decode(bytes: &[u8], address: u64, block_bytes: u32) -> Decoded {
    let Ok((header, _)) = BatchHeader::read_from_prefix(bytes) else { return Decoded::Absent };
    if header.magic != MAGIC || header.address.get() != address {
        return Decoded::Absent;
    }
    let Some(sealed) = bytes.get(..header.header_bytes.get() as usize) else { return Decoded::Absent };
    if sealed.len() < HEADER || crc32c(&[&sealed[..12], &[0; 4], &sealed[16..]]) != header.checksum.get() {
        return Decoded::Absent;
    }
    // A newer version may lay the rest out anew.
    if header.version.get() != VERSION {
        return Decoded::UnknownVersion(header.version.get());
    }
    let (entries, blocks) = (header.entries.get() as usize, header.payload_blocks.get() as usize);
    if header.entries.get() > ENTRIES_MAX
        || header.block_bytes.get() != block_bytes
        || blocks > 1 << 20
        || header_bytes(entries, blocks, block_bytes as usize) != sealed.len()
    {
        return Decoded::Absent;
    }
    let list = &sealed[HEADER..HEADER + entries * ENTRY];
    let Ok(entries) = <[BatchEntry]>::ref_from_bytes(list) else { return Decoded::Absent };
    let in_payload = |entry: &BatchEntry| {
        !has_payload(entry.kind.get())
            || u64::from(entry.payload.get()) + u64::from(entry.blocks.get()) <= blocks as u64
    };
    if !entries.iter().all(in_payload) {
        return Decoded::Absent;
    }
    let sums = &sealed[HEADER + list.len()..][..blocks * 4];
    let checksums = sums.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]));
    Decoded::Valid(Box::new(Batch { header, entries: entries.to_vec(), checksums: checksums.collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut header = BatchHeader::empty();
        header.address = (3_u64 << 20).into();
        header.nonce = [0x5A; 16];
        header.batch = 9.into();
        header.first_sequence = 41.into();
        header.durable_through = 40.into();
        header.epoch = 1.into();
        header.previous = 0x0102_0304.into();
        header.header_bytes = (header_bytes(2, 1, 512) as u32).into();
        header.payload_blocks = 1.into();
        header.entries = 2.into();
        header.block_bytes = 512.into();
        let data = BatchEntry {
            kind: KIND_DATA.into(),
            branch: 0.into(),
            lba: 7.into(),
            blocks: 1.into(),
            payload: 0.into(),
            tag: 0.into(),
        };
        let zero = BatchEntry { kind: KIND_ZERO.into(), blocks: 5.into(), ..data };
        let mut bytes = vec![0xEE; 1024];
        header.encode(&[data, zero], &[0xAABB_CCDD], &mut bytes);
        bytes
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample();
        assert_eq!(&bytes[..12], b"ICEBATCH\x01\0\0\0");
        assert_eq!(&bytes[16..40], [&[0, 0, 0x30, 0, 0, 0, 0, 0][..], &[0x5A; 16]].concat());
        assert_eq!(
            &bytes[40..64],
            [[9, 0, 0, 0, 0, 0, 0, 0], [41, 0, 0, 0, 0, 0, 0, 0], [40, 0, 0, 0, 0, 0, 0, 0]].concat()
        );
        assert_eq!(&bytes[80..100], [4, 3, 2, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0]);
        assert_eq!(
            &bytes[128..160],
            [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(&bytes[192..200], [0xDD, 0xCC, 0xBB, 0xAA, 0, 0, 0, 0]);
        let Decoded::Valid(batch) = decode(&bytes, 3 << 20, 512) else { panic!("it is whole") };
        assert_eq!((batch.entries.len(), batch.checksums.as_slice()), (2, &[0xAABB_CCDD][..]));
        assert_eq!(batch.header.total_bytes(), 1024);
    }

    #[test]
    fn an_entry_in_place_lies_in_one_extent() {
        let mut entry = BatchEntry::new_zeroed();
        (entry.kind, entry.lba, entry.blocks) = (KIND_PLACED.into(), (3 * 64 + 60).into(), 4.into());
        entry.tag = 0x8000_0007_u64.into();
        assert_eq!(entry.place(64), Some((0x8000_0007, 60)));
        entry.blocks = 5.into();
        assert_eq!(entry.place(64), None);
        entry.kind = KIND_SAVED_IN_PLACE.into();
        entry.tag = 0xAABB_CCDD_8000_0007_u64.into();
        assert_eq!(entry.place(64), None, "one block each");
        entry.blocks = 1.into();
        assert_eq!((entry.place(64), entry.checksum_in_place()), (Some((0x8000_0007, 60)), 0xAABB_CCDD));
    }

    #[test]
    fn every_changed_byte_is_noticed_and_other_places_are_refused() {
        let bytes = sample();
        for at in 0..512 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(!matches!(decode(&damaged, 3 << 20, 512), Decoded::Valid(_)), "byte {at}");
        }
        assert_eq!(decode(&bytes, 4 << 20, 512), Decoded::Absent);
        assert_eq!(decode(&bytes, 3 << 20, 4096), Decoded::Absent);
        for length in [0, 100, 511] {
            assert_eq!(decode(&bytes[..length], 3 << 20, 512), Decoded::Absent);
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = sample();
        bytes[8] = 9;
        bytes[12..16].fill(0);
        let seal = crc32c(&[&bytes[..512]]);
        bytes[12..16].copy_from_slice(&seal.to_le_bytes());
        assert_eq!(decode(&bytes, 3 << 20, 512), Decoded::UnknownVersion(9));
    }
}
