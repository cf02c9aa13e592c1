//! A page of the versioned index: 4096 bytes of one run, of one of three kinds.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::crc32c;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// What a page begins with.
pub const MAGIC: [u8; 8] = *b"ICEINDEX";
/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// `virtual_segment` of an entry that reads as zero.
pub const ZERO: u32 = u32::MAX;
/// `virtual_segment` of an entry that lies at its place in the volume's base; its slot and checksum are 0.
pub const BASE: u32 = u32::MAX - 1;
/// `virtual_segment` of a block that a branch has not written, so that it is what its parent moment sees. In memory
/// alone.
pub const INHERITED: u32 = u32::MAX - 2;

/// Whether this is a virtual segment, with slots, and none of the words above.
pub fn has_slots(virtual_segment: u32) -> bool {
    !matches!(virtual_segment, ZERO | BASE | INHERITED)
}

/// The header of a page, 64 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `ICEINDEX` |
/// | 8 | 4 | `version`: 1 |
/// | 12 | 4 | `checksum`: CRC-32C of the 4096 bytes with this field zero |
/// | 16 | 8 | `address`: where the page belongs, in bytes from the start of the device |
/// | 24 | 8 | `run`: the number of the run |
/// | 32 | 4 | `page`: its index in the run |
/// | 36 | 4 | `kind`: 1 entries, 2 deaths, 3 fences |
/// | 40 | 4 | `count`: of what it holds |
/// | 44 | 20 | `reserved`: 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct PageHeader {
    pub magic: [u8; 8],
    pub version: U32,
    pub checksum: U32,
    pub address: U64,
    pub run: U64,
    pub page: U32,
    pub kind: U32,
    pub count: U32,
    pub reserved: [u8; 20],
}

/// One version of a block. Entries of a run are sorted by branch and LBA, and by sequence.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `lba`: of a branch, 281,474,976,710,656 times its number and the LBA |
/// | 8 | 8 | `sequence`: at which it became the block's content |
/// | 16 | 4 | `reserved`: 0 |
/// | 20 | 4 | `virtual_segment`: where it lies; 4294967295 reads as zero, 4294967294 lies in the base |
/// | 24 | 4 | `slot`: block of the virtual segment |
/// | 28 | 4 | `checksum`: CRC-32C of the block |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct IndexEntry {
    pub lba: U64,
    pub sequence: U64,
    pub reserved: U32,
    pub virtual_segment: U32,
    pub slot: U32,
    pub checksum: U32,
}

/// A version that was superseded while moments that see it can still be opened. Sorted by `death`.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `birth`: the version's sequence |
/// | 8 | 8 | `death`: the sequence that superseded it |
/// | 16 | 4 | `virtual_segment` |
/// | 20 | 2 | `slot` |
/// | 22 | 2 | `branch`: whose version it was; 0, the volume itself |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct IndexDeath {
    pub birth: U64,
    pub death: U64,
    pub virtual_segment: U32,
    pub slot: U16,
    pub branch: U16,
}

impl IndexDeath {
    /// The death at `death` of a branch's version that was born at `birth` and lies in a slot of a virtual segment.
    pub fn new(branch: u32, birth: u64, death: u64, (virtual_segment, slot): (u32, u32)) -> Self {
        Self {
            birth: birth.into(),
            death: death.into(),
            virtual_segment: virtual_segment.into(),
            slot: (slot as u16).into(),
            branch: (branch as u16).into(),
        }
    }

    /// Whether the version was the volume's own, not a branch's.
    pub fn is_of_volume(&self) -> bool {
        self.branch.get() == 0
    }

    /// The row's number and the slot that died.
    pub fn place(&self) -> (u32, u32) {
        (self.virtual_segment.get(), self.slot.get().into())
    }
}

/// The first entry of each entry page, in order, so that a look-up reads one page.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `lba` |
/// | 8 | 8 | `sequence` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct IndexFence {
    pub lba: U64,
    pub sequence: U64,
}

const HEADER: usize = size_of::<PageHeader>();
const BODY: usize = PAGE_BYTES - HEADER;

const _: () = {
    assert!(HEADER == 64 && size_of::<IndexEntry>() == 32);
    assert!(size_of::<IndexDeath>() == 24 && size_of::<IndexFence>() == 16);
};

/// What a page may hold.
pub trait Item: FromBytes + IntoBytes + KnownLayout + Immutable + Copy {
    /// `kind` of a page of these.
    const KIND: u32;
    /// How many fit a page.
    const PER_PAGE: usize = BODY / size_of::<Self>();
}

impl Item for IndexEntry {
    const KIND: u32 = 1;
}

impl Item for IndexDeath {
    const KIND: u32 = 2;
}

impl Item for IndexFence {
    const KIND: u32 = 3;
}

/// Writes a page of these items to `to`, sealed.
///
/// # Panics
/// When there are more than fit, or `to` is no page.
pub fn encode<T: Item>(items: &[T], run: u64, page: u32, address: u64, to: &mut [u8]) {
    assert!(items.len() <= T::PER_PAGE && to.len() == PAGE_BYTES, "a page holds what fits it");
    let mut header = PageHeader::new_zeroed();
    header.magic = MAGIC;
    header.version = VERSION.into();
    header.address = address.into();
    header.run = run.into();
    header.page = page.into();
    header.kind = T::KIND.into();
    header.count = (items.len() as u32).into();
    let bytes = items.as_bytes();
    to[..HEADER].copy_from_slice(header.as_bytes());
    to[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
    to[HEADER + bytes.len()..].fill(0);
    let seal = crc32c(&[to]);
    to[12..16].copy_from_slice(&seal.to_le_bytes());
}

/// The items of the page found at `address`; `None` if it is not this page. Whatever the bytes are, it does not
/// panic.
pub fn decode<T: Item>(bytes: &[u8], run: u64, page: u32, address: u64) -> Option<Vec<T>> {
    let bytes = bytes.get(..PAGE_BYTES)?;
    let (header, body) = PageHeader::read_from_prefix(bytes).ok()?;
    let belongs = header.magic == MAGIC
        && header.version.get() == VERSION
        && header.address.get() == address
        && header.run.get() == run
        && header.page.get() == page
        && header.kind.get() == T::KIND;
    let sealed = || crc32c(&[&bytes[..12], &[0; 4], &bytes[16..]]) == header.checksum.get();
    if !belongs || !sealed() {
        return None;
    }
    let items = body.get(..header.count.get() as usize * size_of::<T>())?;
    Some(<[T]>::ref_from_bytes(items).ok()?.to_vec())
}

/// Makes the page of a run that was found at one address the same page at another. False, and nothing is changed,
/// where the bytes are not that page. Whatever they are, it does not panic.
#[must_use]
pub fn readdress(bytes: &mut [u8], run: u64, from: u64, to: u64) -> bool {
    let Ok((header, _)) = PageHeader::read_from_prefix(bytes) else { return false };
    let sealed = |bytes: &[u8]| crc32c(&[&bytes[..12], &[0; 4], &bytes[16..]]);
    let whole = bytes.len() == PAGE_BYTES
        && header.magic == MAGIC
        && header.version.get() == VERSION
        && header.address.get() == from
        && header.run.get() == run
        && sealed(bytes) == header.checksum.get();
    if whole {
        bytes[16..24].copy_from_slice(&to.to_le_bytes());
        let seal = sealed(bytes);
        bytes[12..16].copy_from_slice(&seal.to_le_bytes());
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lba: u64) -> IndexEntry {
        IndexEntry {
            lba: lba.into(),
            sequence: 9.into(),
            reserved: 0.into(),
            virtual_segment: 2.into(),
            slot: 3.into(),
            checksum: 0x0A0B_0C0D.into(),
        }
    }

    #[test]
    fn golden_bytes() {
        let mut page = [0xEE; PAGE_BYTES];
        encode(&[entry(5)], 7, 1, 8192, &mut page);
        assert_eq!(&page[..12], b"ICEINDEX\x01\0\0\0");
        assert_eq!(&page[16..32], [0, 32, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&page[32..44], [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(
            &page[64..96],
            [
                5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 13, 12,
                11, 10
            ]
        );
        assert_eq!((IndexEntry::PER_PAGE, IndexDeath::PER_PAGE, IndexFence::PER_PAGE), (126, 168, 252));
    }

    #[test]
    fn items_come_back_and_every_changed_byte_is_noticed() {
        let items: Vec<IndexEntry> = (0..126).map(entry).collect();
        let mut page = [0; PAGE_BYTES];
        encode(&items, 7, 1, 8192, &mut page);
        assert_eq!(decode(&page, 7, 1, 8192), Some(items));
        assert_eq!(decode::<IndexDeath>(&page, 7, 1, 8192), None);
        for (run, number, address) in [(6, 1, 8192), (7, 0, 8192), (7, 1, 4096)] {
            assert_eq!(decode::<IndexEntry>(&page, run, number, address), None);
        }
        for at in 0..PAGE_BYTES {
            let mut damaged = page;
            damaged[at] ^= 0x10;
            assert_eq!(decode::<IndexEntry>(&damaged, 7, 1, 8192), None, "byte {at}");
        }
    }

    #[test]
    fn a_readdressed_page_is_the_page_of_its_new_place_and_damage_is_never_sealed() {
        let items: Vec<IndexEntry> = (0..3).map(entry).collect();
        let (mut page, mut expected) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        encode(&items, 7, 1, 8192, &mut page);
        encode(&items, 7, 1, 65536, &mut expected);
        for at in 0..PAGE_BYTES {
            let mut damaged = page;
            damaged[at] ^= 0x10;
            let before = damaged;
            assert!(!readdress(&mut damaged, 7, 8192, 65536) && damaged == before, "byte {at}");
        }
        assert!(!readdress(&mut page, 8, 8192, 65536) && !readdress(&mut page, 7, 4096, 65536));
        assert!(readdress(&mut page, 7, 8192, 65536) && page == expected);
    }
}
