//! The metadata journal: records, each a list of changes that take effect together.
//!
//! A record is a [`RecordHeader`] and changes, padded with zeroes to 4096 bytes. A change is a [`ChangeHeader`]
//! and a body, padded to 8 bytes. The metadata image that a root names is a list of changes too.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::crc32c;

/// What a record begins with.
pub const MAGIC: [u8; 8] = *b"ICEJRNL\0";
/// The version that this build writes, and the newest that it reads.
pub const VERSION: u32 = 1;
/// Records begin at multiples of this.
pub const RECORD_ALIGNMENT_BYTES: usize = 4096;

/// The header of a journal record, 64 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `magic`: `ICEJRNL\0` |
/// | 8 | 4 | `version`: 1 |
/// | 12 | 4 | `checksum`: CRC-32C of header and changes with this field zero |
/// | 16 | 8 | `address`: where the record belongs, in bytes from the start of the device |
/// | 24 | 8 | `generation`: of the root it follows |
/// | 32 | 8 | `number`: 0 for the first record of a generation, then one more each |
/// | 40 | 8 | `bytes`: header and changes, without padding |
/// | 48 | 16 | `pool_id` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct RecordHeader {
    pub magic: [u8; 8],
    pub version: U32,
    pub checksum: U32,
    pub address: U64,
    pub generation: U64,
    pub number: U64,
    pub bytes: U64,
    pub pool_id: [u8; 16],
}

/// The header of a change, 8 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `kind`: 1 opening, 2 lease, 3 checkpoint, 4 row, 5 row removed, 6 dead slots, 7 run, 8 run removed, 9 watermark, 10 window, 11 applied, 12 accepted, 13 rollback, 14 snapshot, 15 snapshot removed, 16 branch, 17 branch removed, 18 snapshot lock, 19 object, 20 volume |
/// | 4 | 4 | `bytes`: of the body, without padding |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct ChangeHeader {
    pub kind: U32,
    pub bytes: U32,
}

/// Kind 1: an opening begins to append to the log.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 16 | `nonce`: in every batch of this opening |
/// | 16 | 8 | `first_batch`: the number of its first batch |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Opening {
    pub nonce: [u8; 16],
    pub first_batch: U64,
}

/// Kind 2: the log goes on in this segment once the one leased before is full.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `physical`: index of the segment in the data area |
/// | 4 | 4 | `virtual_segment`: its number, used once, below 1,073,741,824 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Lease {
    pub physical: U32,
    pub virtual_segment: U32,
}

/// Kind 3: everything before this place of the log is in the index.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `address`: where the log is read from at open; it lies in the first leased segment |
/// | 8 | 8 | `batch`: the number of the batch there |
/// | 16 | 8 | `sequence`: of the last entry before it |
/// | 24 | 8 | `time_unix_ns`: of the last batch before it |
/// | 32 | 4 | `previous`: the `checksum` of the batch before it |
/// | 36 | 4 | `released`: leases taken from the front of the list; their segments are rows now, or free |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Checkpoint {
    pub address: U64,
    pub batch: U64,
    pub sequence: U64,
    pub time_unix_ns: U64,
    pub previous: U32,
    pub released: U32,
}

/// Kind 4: where a virtual segment lies and which of its slots live. Two bitmaps follow, each of whole 8 bytes:
/// the slots that live and, unless `identity`, the slots that are present. A slot's place is `first_block` plus
/// its number or, unless `identity`, the number of present slots before it; what passes the end of the segment
/// goes on at the beginning of `continued`. In an extent of an object, the second bitmap has the slots that have been
/// used, and a slot's place is its number.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `virtual_segment` |
/// | 4 | 4 | `physical`: index of the segment in the data area |
/// | 8 | 4 | `first_block`: block of the physical segment where it begins |
/// | 12 | 4 | `slots` |
/// | 16 | 4 | `identity`: 1 for a segment as the log wrote it, 0 for a moved one, 2 for an extent of an object |
/// | 20 | 4 | `continued`: index of the segment where it goes on; 4294967295 if it does not |
/// | 24 | 8 | `written`: the log's sequence when it was written or last moved |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Row {
    pub virtual_segment: U32,
    pub physical: U32,
    pub first_block: U32,
    pub slots: U32,
    pub identity: U32,
    pub continued: U32,
    pub written: U64,
}

/// Kind 6: slots that no moment needs any more. Their numbers follow, 2 bytes each.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | `virtual_segment` |
/// | 4 | 4 | `slots`: how many |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Dead {
    pub virtual_segment: U32,
    pub slots: U32,
}

/// Kind 7: a run of the index. Its extents follow: first page and pages, 4 bytes each.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `run`: its number, used once |
/// | 8 | 8 | `first_sequence`: of the log that it covers |
/// | 16 | 8 | `last_sequence`: one less where it covers none |
/// | 24 | 8 | `order`: runs are newer the higher it is; a merged one has that of the newest run in it |
/// | 32 | 8 | `entries` |
/// | 40 | 8 | `deaths` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Run {
    pub run: U64,
    pub first_sequence: U64,
    pub last_sequence: U64,
    pub order: U64,
    pub entries: U64,
    pub deaths: U64,
}

/// Kind 11: a linear volume holds everything up to a sequence. Applying goes on with the entry after it.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `sequence`: of the last entry that has been applied |
/// | 8 | 8 | `batch`: the number of the batch that is read next |
/// | 16 | 8 | `first_sequence`: of its first entry |
/// | 24 | 4 | `virtual_segment`: where it lies, unless it did not fit there |
/// | 28 | 4 | `block`: where it begins in the segment |
/// | 32 | 4 | `previous`: the `checksum` of the batch before it |
/// | 36 | 4 | `reserved`: 0 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Applied {
    pub sequence: U64,
    pub batch: U64,
    pub first_sequence: U64,
    pub virtual_segment: U32,
    pub block: U32,
    pub previous: U32,
    pub reserved: U32,
}

/// Kind 13: the volume went back to an earlier moment. What it was given in between is its content no more.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `at`: the sequence of the log's entry that says so |
/// | 8 | 8 | `to`: the sequence that it went back to |
/// | 16 | 8 | `settled`: 1 once runs have the deaths of what was discarded, else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Rollback {
    pub at: U64,
    pub to: U64,
    pub settled: U64,
}

/// Kind 14: a moment has a name, which follows in UTF-8; behind it the group, where it is of one.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `number`: of the snapshot; a later change with the same one replaces it |
/// | 8 | 8 | `sequence`: of the last entry that it sees |
/// | 16 | 8 | `time_unix_ns`: when it was taken |
/// | 24 | 4 | `removed`: 1 once it has been given up and what it alone kept is to be let go of; 2 the same, because it was broken for want of room; 3 broken; 4 while the base of a copy-on-write volume is being made what it shows, one at most; else 0 |
/// | 28 | 2 | `name_bytes`: of the name, 1 to 64 |
/// | 30 | 2 | `branch`: whose moment it is; 0, the volume itself |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Snapshot {
    pub number: U64,
    pub sequence: U64,
    pub time_unix_ns: U64,
    pub removed: U32,
    pub name_bytes: U16,
    pub branch: U16,
}

/// Behind the name of a snapshot that was taken together with others: of how many, and which, wherever these lie.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 16 | `id`: drawn for the group; the same in all of its snapshots |
/// | 16 | 4 | `members`: how many snapshots the group has, this one among them; 2 or more |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct SnapshotGroup {
    pub id: [u8; 16],
    pub members: U32,
}

/// Kind 16: a writable snapshot, a branch; its name follows in UTF-8. A block that it has not written is what its parent
/// is.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `parent`: number of the snapshot that it began as |
/// | 8 | 8 | `time_unix_ns`: when it was made |
/// | 16 | 2 | `branch`: its number, above 0; a later change with the same one replaces it |
/// | 18 | 2 | `name_bytes`: of the name, 1 to 64 |
/// | 20 | 4 | `removed`: 1 once it has been given up and its blocks are to be let go of, else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Branch {
    pub parent: U64,
    pub time_unix_ns: U64,
    pub branch: U16,
    pub name_bytes: U16,
    pub removed: U32,
}

/// Kind 20: a further volume of the pool, which is a branch with nothing behind it; its name follows in UTF-8.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `size_bytes`: whole regions |
/// | 8 | 8 | `sequence`: of the last entry before it was made |
/// | 16 | 8 | `time_unix_ns`: when it was made |
/// | 24 | 2 | `branch`: its number, above 0; a later change with the same one replaces it |
/// | 26 | 2 | `name_bytes`: of the name, 1 to 64 |
/// | 28 | 4 | `removed`: 1 once it has been given up and its blocks are to be let go of, else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Volume {
    pub size_bytes: U64,
    pub sequence: U64,
    pub time_unix_ns: U64,
    pub branch: U16,
    pub name_bytes: U16,
    pub removed: U32,
}

/// Kind 18: a snapshot is locked, or is not any more.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `number`: of the snapshot |
/// | 8 | 8 | `until_unix_ns`: it is not given up before this time; 0 where there is none |
/// | 16 | 8 | `held`: 1 if it is not given up before it is unlocked, else 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct SnapshotLock {
    pub number: U64,
    pub until_unix_ns: U64,
    pub held: U64,
}

/// Kind 19: a linear object: an area with a place for every block of the volume, taken for a snapshot. The segments that it
/// takes follow: first one and how many, 4 bytes each, in the order of the volume's blocks. One without any has been
/// given back.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `snapshot`: number of the snapshot that it was taken for |
/// | 8 | 8 | `sequence`: the moment of that snapshot |
/// | 16 | 4 | `first`: the virtual segment of its first extent, from 2147483648 on |
/// | 20 | 4 | `extents`: how many it has; the number of each is one more than that of the one before, used once |
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "the table above describes every field")]
pub struct Object {
    pub snapshot: U64,
    pub sequence: U64,
    pub first: U32,
    pub extents: U32,
}

const _: () = {
    assert!(size_of::<Object>() == 24);
    assert!(size_of::<Snapshot>() == 32 && size_of::<Branch>() == 24 && size_of::<SnapshotLock>() == 24);
    assert!(size_of::<SnapshotGroup>() == 20 && size_of::<Volume>() == 32);
    assert!(size_of::<Applied>() == 40 && size_of::<Rollback>() == 24);
    assert!(size_of::<RecordHeader>() == 64 && size_of::<ChangeHeader>() == 8);
    assert!(size_of::<Opening>() == 24 && size_of::<Lease>() == 8 && size_of::<Checkpoint>() == 40);
    assert!(size_of::<Row>() == 32 && size_of::<Dead>() == 8 && size_of::<Run>() == 48);
};

/// A change, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// See [`Opening`].
    Opening(Opening),
    /// See [`Lease`].
    Lease(Lease),
    /// See [`Checkpoint`].
    Checkpoint(Checkpoint),
    /// See [`Row`]: the slots that live, the slots that are present or have been used (empty with `identity` 1).
    Row(Row, Vec<u64>, Vec<u64>),
    /// Kind 5: this virtual segment has no live slot left (4 bytes).
    RowRemoved(u32),
    /// See [`Dead`]: of a virtual segment, these slots.
    Dead(u32, Vec<u16>),
    /// See [`Run`].
    Run(Run, Vec<(u32, u32)>),
    /// Kind 8: this run has been replaced (8 bytes).
    RunRemoved(u64),
    /// Kind 9: everything up to this sequence is durable (8 bytes).
    Watermark(u64),
    /// Kind 10: no moment before this sequence can be opened any more (8 bytes).
    Window(u64),
    /// See [`Applied`].
    Applied(Applied),
    /// Kind 12: the base of a linear volume takes changes up to this sequence and no further (8 bytes);
    /// `u64::MAX` where it is not pinned.
    Accepted(u64),
    /// See [`Rollback`].
    Rollback(Rollback),
    /// See [`Snapshot`]: its name, and the group that it is of.
    Snapshot(Snapshot, Vec<u8>, Option<SnapshotGroup>),
    /// Kind 15: the snapshot of this number is gone (8 bytes).
    SnapshotRemoved(u64),
    /// See [`Branch`]: and its name.
    Branch(Branch, Vec<u8>),
    /// Kind 17: the branch of this number is gone, and no entry of the index is of it (4 bytes).
    BranchRemoved(u32),
    /// See [`SnapshotLock`].
    SnapshotLock(SnapshotLock),
    /// See [`Object`]: and its segments.
    Object(Object, Vec<(u32, u32)>),
    /// See [`Volume`]: and its name.
    Volume(Volume, Vec<u8>),
}

impl Change {
    /// Appends the change's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let at = to.len();
        to.extend_from_slice(&[0; 8]);
        let kind = match self {
            Change::Opening(body) => put(to, body.as_bytes(), 1),
            Change::Lease(body) => put(to, body.as_bytes(), 2),
            Change::Checkpoint(body) => put(to, body.as_bytes(), 3),
            Change::Row(body, live, present) => {
                to.extend_from_slice(body.as_bytes());
                for word in live.iter().chain(present) {
                    to.extend_from_slice(&word.to_le_bytes());
                }
                4
            }
            Change::RowRemoved(number) => put(to, &number.to_le_bytes(), 5),
            Change::Dead(number, slots) => {
                let body = Dead { virtual_segment: (*number).into(), slots: (slots.len() as u32).into() };
                to.extend_from_slice(body.as_bytes());
                for slot in slots {
                    to.extend_from_slice(&slot.to_le_bytes());
                }
                6
            }
            Change::Run(body, extents) => {
                put(to, body.as_bytes(), 7);
                put_pairs(to, extents);
                7
            }
            Change::RunRemoved(run) => put(to, &run.to_le_bytes(), 8),
            Change::Watermark(sequence) => put(to, &sequence.to_le_bytes(), 9),
            Change::Window(sequence) => put(to, &sequence.to_le_bytes(), 10),
            Change::Applied(body) => put(to, body.as_bytes(), 11),
            Change::Accepted(sequence) => put(to, &sequence.to_le_bytes(), 12),
            Change::Rollback(body) => put(to, body.as_bytes(), 13),
            Change::Snapshot(body, name, group) => {
                to.extend_from_slice(body.as_bytes());
                to.extend_from_slice(name);
                to.extend_from_slice(group.as_ref().map_or(&[], |group| group.as_bytes()));
                14
            }
            Change::SnapshotRemoved(number) => put(to, &number.to_le_bytes(), 15),
            Change::Branch(body, name) => {
                to.extend_from_slice(body.as_bytes());
                to.extend_from_slice(name);
                16
            }
            Change::BranchRemoved(number) => put(to, &number.to_le_bytes(), 17),
            Change::Volume(body, name) => {
                to.extend_from_slice(body.as_bytes());
                to.extend_from_slice(name);
                20
            }
            Change::SnapshotLock(body) => put(to, body.as_bytes(), 18),
            Change::Object(body, segments) => {
                put(to, body.as_bytes(), 19);
                put_pairs(to, segments);
                19
            }
        };
        let header = ChangeHeader { kind: kind.into(), bytes: ((to.len() - at - 8) as u32).into() };
        to[at..at + 8].copy_from_slice(header.as_bytes());
        to.resize(to.len().next_multiple_of(8), 0);
    }

    /// The changes of a list; `None` if it is no list of changes. Whatever the bytes are, it does not panic.
    pub fn decode_list(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut changes = Vec::new();
        while !bytes.is_empty() {
            let (header, rest) = ChangeHeader::read_from_prefix(bytes).ok()?;
            let length = header.bytes.get() as usize;
            changes.push(Self::decode(header.kind.get(), rest.get(..length)?)?);
            bytes = rest.get(length.next_multiple_of(8)..)?;
        }
        Some(changes)
    }

    fn decode(kind: u32, body: &[u8]) -> Option<Self> {
        Some(match kind {
            1 => Change::Opening(Opening::read_from_bytes(body).ok()?),
            2 => Change::Lease(Lease::read_from_bytes(body).ok()?),
            3 => Change::Checkpoint(Checkpoint::read_from_bytes(body).ok()?),
            4 => {
                let (row, rest) = Row::read_from_prefix(body).ok()?;
                let words: Vec<u64> = <[U64]>::ref_from_bytes(rest).ok()?.iter().map(|w| w.get()).collect();
                let length = (row.slots.get() as usize).div_ceil(64);
                let (live, present) = words.split_at_checked(length)?;
                let expected = if row.identity.get() == 1 { 0 } else { length };
                if present.len() != expected {
                    return None;
                }
                Change::Row(row, live.to_vec(), present.to_vec())
            }
            5 => Change::RowRemoved(U32::read_from_bytes(body).ok()?.get()),
            6 => {
                let (dead, rest) = Dead::read_from_prefix(body).ok()?;
                let slots = <[U16]>::ref_from_bytes(rest).ok()?;
                if slots.len() != dead.slots.get() as usize {
                    return None;
                }
                Change::Dead(dead.virtual_segment.get(), slots.iter().map(|slot| slot.get()).collect())
            }
            7 => {
                let (run, rest) = Run::read_from_prefix(body).ok()?;
                Change::Run(run, pairs(rest)?)
            }
            8 => Change::RunRemoved(U64::read_from_bytes(body).ok()?.get()),
            9 => Change::Watermark(U64::read_from_bytes(body).ok()?.get()),
            10 => Change::Window(U64::read_from_bytes(body).ok()?.get()),
            11 => Change::Applied(Applied::read_from_bytes(body).ok()?),
            12 => Change::Accepted(U64::read_from_bytes(body).ok()?.get()),
            13 => Change::Rollback(Rollback::read_from_bytes(body).ok()?),
            14 => {
                let (snapshot, rest) = Snapshot::read_from_prefix(body).ok()?;
                let (name, group) = rest.split_at_checked(snapshot.name_bytes.get() as usize)?;
                let group = match group {
                    [] => None,
                    group => Some(SnapshotGroup::read_from_bytes(group).ok()?),
                };
                Change::Snapshot(snapshot, name.to_vec(), group)
            }
            15 => Change::SnapshotRemoved(U64::read_from_bytes(body).ok()?.get()),
            16 => {
                let (branch, name) = Branch::read_from_prefix(body).ok()?;
                if name.len() != branch.name_bytes.get() as usize {
                    return None;
                }
                Change::Branch(branch, name.to_vec())
            }
            17 => Change::BranchRemoved(U32::read_from_bytes(body).ok()?.get()),
            18 => Change::SnapshotLock(SnapshotLock::read_from_bytes(body).ok()?),
            19 => {
                let (object, rest) = Object::read_from_prefix(body).ok()?;
                Change::Object(object, pairs(rest)?)
            }
            20 => {
                let (volume, name) = Volume::read_from_prefix(body).ok()?;
                if name.len() != volume.name_bytes.get() as usize {
                    return None;
                }
                Change::Volume(volume, name.to_vec())
            }
            _ => return None,
        })
    }
}

fn put_pairs(to: &mut Vec<u8>, pairs: &[(u32, u32)]) {
    for (first, count) in pairs {
        to.extend_from_slice(&first.to_le_bytes());
        to.extend_from_slice(&count.to_le_bytes());
    }
}

fn pairs(body: &[u8]) -> Option<Vec<(u32, u32)>> {
    let pairs = <[[U32; 2]]>::ref_from_bytes(body).ok()?;
    Some(pairs.iter().map(|[first, count]| (first.get(), count.get())).collect())
}

fn put(to: &mut Vec<u8>, body: &[u8], kind: u32) -> u32 {
    to.extend_from_slice(body);
    kind
}

/// What the bytes at a record's place are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No whole record that belongs here: the journal ends before it.
    Absent,
    /// A whole record of a version that this build does not know.
    UnknownVersion(u32),
    /// A whole record.
    Valid(Vec<Change>),
}

impl RecordHeader {
    /// The bytes of a record with these changes, padded and sealed.
    pub fn encode(
        generation: u64,
        number: u64,
        pool_id: [u8; 16],
        address: u64,
        changes: &[Change],
    ) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Self>()];
        for change in changes {
            change.encode(&mut bytes);
        }
        let mut header = Self::new_zeroed();
        header.magic = MAGIC;
        header.version = VERSION.into();
        header.address = address.into();
        header.generation = generation.into();
        header.number = number.into();
        header.bytes = (bytes.len() as u64).into();
        header.pool_id = pool_id;
        bytes[..size_of::<Self>()].copy_from_slice(header.as_bytes());
        let seal = crc32c(&[&bytes]);
        bytes[12..16].copy_from_slice(&seal.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGNMENT_BYTES), 0);
        bytes
    }

    /// How long the record is that begins with these bytes, if one does; nothing of it has been checked.
    pub fn length(bytes: &[u8]) -> Option<u64> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        (header.magic == MAGIC).then_some(header.bytes.get())
    }

    /// Judges the bytes found at `address`; they may go on past the record. Whatever they are, it neither fails
    /// nor panics.
    pub fn decode(
        bytes: &[u8],
        address: u64,
        generation: u64,
        number: u64,
        pool_id: &[u8; 16],
    ) -> (Decoded, u64) {
        let absent = (Decoded::Absent, 0);
        let Ok((header, _)) = Self::read_from_prefix(bytes) else { return absent };
        let belongs = header.magic == MAGIC
            && header.address.get() == address
            && header.generation.get() == generation
            && header.number.get() == number
            && header.pool_id == *pool_id;
        let length = header.bytes.get();
        if !belongs || length < size_of::<Self>() as u64 || length > bytes.len() as u64 {
            return absent;
        }
        let sealed = &bytes[..length as usize];
        if crc32c(&[&sealed[..12], &[0; 4], &sealed[16..]]) != header.checksum.get() {
            return absent;
        }
        if header.version.get() != VERSION {
            return (Decoded::UnknownVersion(header.version.get()), 0);
        }
        match Change::decode_list(&sealed[size_of::<Self>()..]) {
            Some(changes) => {
                (Decoded::Valid(changes), length.next_multiple_of(RECORD_ALIGNMENT_BYTES as u64))
            }
            None => absent,
        }
    }
}

/// The records of a generation, in order, where each is and what it says: `bytes` are those from `address` on, where its
/// journal begins.
pub fn records_of(
    bytes: &[u8],
    address: u64,
    generation: u64,
    pool_id: &[u8; 16],
) -> Vec<(u64, Vec<Change>)> {
    let (mut records, mut used) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(used as usize..)
        && let (Decoded::Valid(changes), record_bytes) =
            RecordHeader::decode(rest, address + used, generation, records.len() as u64, pool_id)
    {
        records.push((address + used, changes));
        used += record_bytes;
    }
    records
}

#[cfg(test)]
mod tests;
