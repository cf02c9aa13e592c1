//! The two superblock copies and the areas that they name.
//!
//! A copy that a power cut tore has a wrong checksum, and the other one is whole: that is a warning. A copy that
//! is sealed and yet wrong was never left by a cut.

use zerocopy::IntoBytes;

use super::apart::{self, Homes, OBJECTS, VOLUME};
use super::shape::{HEAD_BYTES, HOME_FIRST, ROOTS_BYTES, SNAPSHOTS_MIN, Shape};
use super::{Checker, Code, Place, is_sealed, is_zero};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    Area, COPY_OFFSETS, FEATURE_BASE, FEATURE_BRANCHES, FEATURE_GROUPS, FEATURE_LOCKS, FEATURE_LOG,
    FEATURE_MANY_SNAPSHOTS, FEATURE_OBJECTS, FEATURE_ROLLBACK, FEATURE_SNAPSHOTS, FEATURE_VOLUMES,
    KNOWN_INCOMPATIBLE, KNOWN_READ_ONLY, MAGIC, ROLE_LOG, ROLE_OBJECTS, ROLE_VOLUME, STATE_CLOSED,
    STATE_OPEN, SUPERBLOCK_BYTES, Superblock, VERSION, VOLUME_BASE_MIXED, VOLUME_BREAKS_SNAPSHOTS,
    VOLUME_THIN, VOLUME_VOLATILE_LOG,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const ROOTS_OFFSET: u64 = 64 * KIB;
const BACKEND_DIRECT: u32 = 1;
const BACKEND_LOG: u32 = 2;
const BACKEND_LINEAR: u32 = 3;
const BACKEND_COW: u32 = 4;
const BACKEND_OVERLAY: u32 = 5;
const BACKEND_LOGGED_COW: u32 = 6;
pub(super) const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 512..=64 << 10;
const REGION_BYTES_MAX: u32 = 1 << 30;
const SEGMENT_BLOCKS: std::ops::RangeInclusive<u32> = 8..=1 << 16;
/// Named moments that the metadata has room for, at most.
const SNAPSHOTS_MAX: u32 = 16_384;
/// The alignment of the parts of a log pool.
const LOG_ALIGNMENT: u64 = 64 * KIB;

/// What a whole superblock says.
pub(super) struct Found {
    /// Where things lie, if there is a log.
    pub log: Option<Shape>,
}

enum Copy {
    /// No magic, no checksum.
    Absent,
    /// Torn, or with a finding of its own.
    Broken,
    Newer(u32),
    Whole(Box<Superblock>),
}

/// What the copies on a device are worth.
pub(super) enum Copies {
    /// The newer one that is whole.
    Whole(Box<Superblock>),
    /// None is; that has been told.
    Damaged,
}

/// Checks both copies on each device. `None` where they cannot be believed.
pub(super) async fn check(checker: &mut Checker<'_>) -> Result<Option<Found>> {
    let device = checker.device;
    let Copies::Whole(record) = copies(checker, "check", 0).await? else { return Ok(None) };
    if let Some(reason) = not_judged(&record) {
        return Err(Error::new("check", reason).on(device.name()));
    }
    let Some(homes) = apart::find(checker, "check", &record).await? else { return Ok(None) };
    let found_bytes = device.geometry().size_bytes;
    let mut sound = is_sound(checker, &record, found_bytes);
    sound &= apart::are_sound(checker, &record, &homes, |device| device.geometry().size_bytes);
    Ok(sound.then(|| Found { log: has_log(&record).then(|| shape(&record, &homes)) }))
}

/// Checks both copies on a device, whose first byte has this address, and which is no volume's where there is none.
pub(super) async fn copies(checker: &mut Checker<'_>, action: &'static str, from: u64) -> Result<Copies> {
    let (device, _) = checker.device_at(from);
    let refuse = |reason| Err(Error::new(action, reason).on(device.name()));
    let copies = [read_copy(checker, from, 0).await?, read_copy(checker, from, 1).await?];
    Ok(match copies {
        [Copy::Whole(first), Copy::Whole(second)] => {
            compare(checker, from, &first, &second);
            Copies::Whole(if first.generation >= second.generation { first } else { second })
        }
        [Copy::Whole(whole), other] => {
            tell_other(checker, from + COPY_OFFSETS[1], &other);
            Copies::Whole(whole)
        }
        [other, Copy::Whole(whole)] => {
            tell_other(checker, from + COPY_OFFSETS[0], &other);
            Copies::Whole(whole)
        }
        [Copy::Newer(found), _] | [_, Copy::Newer(found)] => {
            return refuse(Reason::UnknownVersion { found, known: VERSION });
        }
        [Copy::Absent, Copy::Absent] => return refuse(Reason::NoSuperblock),
        _ => {
            checker.found(Code::Superblock, Place::at(from + COPY_OFFSETS[0]), "no copy is whole");
            Copies::Damaged
        }
    })
}

/// One copy is whole, and this is the other.
fn tell_other(checker: &mut Checker<'_>, address: u64, other: &Copy) {
    if let Copy::Newer(version) = other {
        let text = format!("this copy has version {version}, the other one {VERSION}");
        checker.found(Code::Superblock, Place::at(address), text);
    } else {
        checker.found(Code::SuperblockCopy, Place::at(address), "this copy is not whole; the other one is");
    }
}

/// Why this build cannot judge what a whole copy says.
fn not_judged(record: &Superblock) -> Option<Reason> {
    let unknown = (record.features_incompatible.get() & !KNOWN_INCOMPATIBLE)
        | (record.features_read_only.get() & !KNOWN_READ_ONLY);
    if unknown != 0 {
        return Some(Reason::UnknownFeatures { unknown });
    }
    let is_backend = (BACKEND_DIRECT..=BACKEND_LOGGED_COW).contains(&record.backend.get());
    (!is_backend).then(|| Reason::UnknownBackend { found: record.backend.get() })
}

/// Whether nothing in a copy contradicts the rest of it, on a device of so many bytes.
fn is_sound(checker: &mut Checker<'_>, record: &Superblock, found_bytes: u64) -> bool {
    let before = checker.report.damage;
    check_fields(checker, record);
    check_areas(checker, record, has_log(record), found_bytes);
    checker.report.damage == before
}

/// What a superblock says to who wants all that can still be had.
pub(super) enum Readable {
    /// A pool with a log, and when it was made, in seconds since 1970.
    Log(Box<Shape>, u64),
    /// The volume's blocks lie behind each other.
    Direct { offset: u64, bytes: u64, block_bytes: u32 },
    /// No copy can be believed.
    Gone,
}

/// The newest copy that can be believed. The device may have become shorter since.
pub(super) async fn readable(checker: &mut Checker<'_>) -> Result<Readable> {
    let refuse = |checker: &Checker<'_>, reason| Err(Error::new("salvage", reason).on(checker.device.name()));
    let mut whole = Vec::new();
    for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
        match read_copy(checker, 0, copy).await? {
            Copy::Whole(record) => whole.push(record),
            Copy::Newer(found) => return refuse(checker, Reason::UnknownVersion { found, known: VERSION }),
            Copy::Absent | Copy::Broken => {
                checker.found(Code::SuperblockCopy, Place::at(offset), "this copy is not whole");
            }
        }
    }
    whole.sort_by_key(|record| std::cmp::Reverse(record.generation.get()));
    for record in whole {
        if let Some(reason) = not_judged(&record) {
            return refuse(checker, reason);
        }
        let Some(homes) = apart::find(checker, "salvage", &record).await? else {
            let why = "the superblock of one of its devices, which says where blocks lie, is lost";
            return refuse(checker, Reason::NotSalvaged { why });
        };
        let sound = apart::are_sound(checker, &record, &homes, |_| u64::MAX);
        if !is_sound(checker, &record, u64::MAX) || !sound {
            continue;
        }
        return Ok(match has_log(&record) {
            true => Readable::Log(Box::new(shape(&record, &homes)), record.created_unix_s.get()),
            false => Readable::Direct {
                offset: record.data.offset.get(),
                bytes: record.volume_bytes.get(),
                block_bytes: record.block_bytes.get(),
            },
        });
    }
    Ok(Readable::Gone)
}

fn has_log(record: &Superblock) -> bool {
    has_base(record) || matches!(record.backend.get(), BACKEND_LOG | BACKEND_LINEAR)
}

pub(super) fn has_base(record: &Superblock) -> bool {
    matches!(record.backend.get(), BACKEND_COW | BACKEND_OVERLAY | BACKEND_LOGGED_COW)
}

pub(super) fn has_state(record: &Superblock) -> bool {
    matches!(record.state.get(), STATE_OPEN | STATE_CLOSED)
}

/// Bytes of segments on a device beside the pool's.
fn home_bytes(record: &Superblock) -> u64 {
    if record.has_volume_device() || record.has_objects_device() { record.home_bytes.get() } else { 0 }
}

fn breaks_snapshots(record: &Superblock) -> bool {
    record.volume_flags.get() & VOLUME_BREAKS_SNAPSHOTS != 0
}

fn is_thin(record: &Superblock) -> bool {
    record.volume_flags.get() == VOLUME_THIN
}

async fn read_copy(checker: &mut Checker<'_>, from: u64, copy: usize) -> Result<Copy> {
    let (offset, at) = (COPY_OFFSETS[copy], from + COPY_OFFSETS[copy]);
    if offset + SUPERBLOCK_BYTES as u64 > checker.device_at(from).0.geometry().size_bytes {
        return Ok(Copy::Absent);
    }
    let Some(buf) = checker.read(at, SUPERBLOCK_BYTES as u64).await? else { return Ok(Copy::Broken) };
    let Some(bytes) = buf.first_chunk::<SUPERBLOCK_BYTES>() else { unreachable!("the buffer has that size") };
    let record: Superblock = zerocopy::transmute!(*bytes);
    if !is_sealed(bytes) {
        return Ok(if record.magic == MAGIC { Copy::Broken } else { Copy::Absent });
    }
    if record.magic != MAGIC || record.address.get() != offset {
        checker.found(Code::Superblock, Place::at(at), "it is sealed, and does not belong here");
        return Ok(Copy::Broken);
    }
    if record.version.get() != VERSION {
        return Ok(Copy::Newer(record.version.get()));
    }
    Ok(Copy::Whole(Box::new(record)))
}

/// Features that a pool begins to use after it was made: they are noted before.
pub(super) const NOTED_FIRST: u64 = FEATURE_ROLLBACK
    | FEATURE_SNAPSHOTS
    | FEATURE_BRANCHES
    | FEATURE_LOCKS
    | FEATURE_GROUPS
    | FEATURE_VOLUMES;

/// Two whole copies are the same; after a power cut between the two writes, one is a rewrite ahead.
fn compare(checker: &mut Checker<'_>, from: u64, first: &Superblock, second: &Superblock) {
    let has_grown = first.device_bytes != second.device_bytes
        && (first.device_bytes > second.device_bytes) == (first.generation > second.generation);
    let plain = |record: &Superblock, with_state: bool| {
        let mut plain = *record;
        plain.address = 0.into();
        plain.checksum = 0.into();
        if !with_state {
            plain.state = 0.into();
            plain.generation = 0.into();
            plain.generation_tail = 0.into();
            // What is used for the first time is noted before it is used.
            plain.features_incompatible &= !NOTED_FIRST;
            plain.volume_flags &= !VOLUME_BASE_MIXED;
            if has_grown {
                (plain.device_bytes, plain.roots, plain.metadata) =
                    (0.into(), Area::default(), Area::default());
                plain.data.bytes = 0.into();
            }
        }
        plain
    };
    let tail_agrees = |record: &Superblock| record.generation == record.generation_tail;
    let (first_tail, second_tail) = (tail_agrees(first), tail_agrees(second));
    let apart = first.generation.get().abs_diff(second.generation.get());
    let is_newer = second.generation.get() > first.generation.get();
    let (mut first, mut second) = (plain(first, apart == 0), plain(second, apart == 0));
    if apart == 1 {
        if is_newer { grow(&mut first, &second) } else { grow(&mut second, &first) }
    }
    let differs = first.as_bytes().iter().zip(second.as_bytes()).position(|(one, other)| one != other);
    if [first_tail, second_tail].contains(&false) {
        checker.found(Code::Superblock, Place::at(from), "the two generations of a copy differ");
    } else if apart > 1 {
        checker.found(Code::Superblock, Place::at(from), format!("its copies are {apart} rewrites apart"));
    } else if let Some(at) = differs {
        let text = format!("its copies differ at byte {at}");
        checker.found(Code::Superblock, Place::at(from + at as u64), text);
    }
}

/// Gives the older copy what growing the pool changes, in one rewrite, where the newer one is of a pool that has grown.
fn grow(older: &mut Superblock, newer: &Superblock) {
    let has_grown = newer.data.bytes.get() > older.data.bytes.get();
    if has_grown && newer.device_bytes.get() >= older.device_bytes.get() {
        (older.device_bytes, older.data.bytes) = (newer.device_bytes, newer.data.bytes);
        (older.roots, older.metadata) = (newer.roots, newer.metadata);
    }
}

fn check_fields(checker: &mut Checker<'_>, record: &Superblock) {
    let (block_bytes, region_bytes) = (record.block_bytes.get(), record.region_bytes.get());
    let volume_bytes = record.volume_bytes.get();
    let reserved: [&[u8]; 3] = [&record.reserved_0, &record.reserved_1, &record.reserved_2];
    let role = |at: usize| record.roles[at].role.get();
    let count = |wanted| (0..record.roles.len()).filter(|at| role(*at) == wanted).count();
    let is_apart = record.has_volume_device();
    let objects_apart = record.has_objects_device();
    let ids = [ROLE_VOLUME, ROLE_LOG, ROLE_OBJECTS].map(|role| record.device_of(role));
    let is_other = |one: usize, other: usize| ids[one].is_none() || ids[one] != ids[other];
    let are_others = is_other(0, 1) && is_other(1, 2) && is_other(2, 0);
    let is_clean = |at: usize| {
        let entry = &record.roles[at];
        entry.flags.get() == 0
            && is_zero(&entry.reserved)
            && (matches!(role(at), ROLE_VOLUME | ROLE_LOG | ROLE_OBJECTS) || is_zero(entry.as_bytes()))
    };
    let has_home = objects_apart || is_apart && !has_base(record);
    let is_log = has_log(record);
    let log_fields =
        record.checkpoint_bytes.get() | record.retention_bytes.get() | record.retention_age_s.get();
    let known_flags = match record.backend.get() {
        BACKEND_DIRECT => VOLUME_VOLATILE_LOG,
        BACKEND_LINEAR => VOLUME_THIN,
        _ => VOLUME_BREAKS_SNAPSHOTS,
    };
    let rules = [
        (record.generation == record.generation_tail, "its two generations differ"),
        (record.generation.get() >= 1, "its generation is 0"),
        (has_state(record), "its state is neither open nor closed"),
        (
            block_bytes.is_power_of_two()
                && BLOCK_BYTES.contains(&block_bytes)
                && block_bytes >= checker.device.geometry().logical_block_bytes,
            "its block size is none",
        ),
        (
            region_bytes.is_power_of_two() && (block_bytes..=REGION_BYTES_MAX).contains(&region_bytes),
            "its region size is none",
        ),
        (
            volume_bytes > 0 && volume_bytes.is_multiple_of(u64::from(region_bytes.max(1))),
            "its size is no whole number of regions",
        ),
        (record.epoch.get() >= 1, "its epoch is 0"),
        (reserved.iter().all(|bytes| is_zero(bytes)), "bytes that no field names are not zero"),
        (
            count(ROLE_VOLUME) == 1
                && count(ROLE_LOG) == usize::from(is_apart)
                && count(ROLE_OBJECTS) == usize::from(objects_apart)
                && are_others,
            "its role table does not name the devices that it has",
        ),
        (
            apart::own_role(record) == apart::role_of_pool(record),
            "its role table does not name this device as what it is",
        ),
        ((0..record.roles.len()).all(is_clean), "its role table has an entry that is none"),
        (
            match has_home {
                true => {
                    (record.backend.get() == BACKEND_LINEAR || objects_apart)
                        && record.home_bytes.get() > 0
                        && record
                            .home_bytes
                            .get()
                            .is_multiple_of(u64::from(record.segment_bytes.get().max(1)))
                        && record.home_bytes.get() < 1 << 62
                }
                false => record.home_bytes.get() == 0,
            },
            "the room on a device beside the pool's is none",
        ),
        (
            (record.features_incompatible.get() & FEATURE_LOG != 0) == is_log,
            "its features and its backend contradict each other",
        ),
        (
            (record.features_incompatible.get() & FEATURE_BASE != 0) == has_base(record),
            "its features say of a base what its backend does not",
        ),
        (
            has_base(record) || record.snapshot_bytes.get() == 0,
            "it has no base, and a limit for its snapshots",
        ),
        (
            record.snapshot_bytes.get().is_multiple_of(record.block_bytes.get().into()),
            "the limit for its snapshots is no whole number of blocks",
        ),
        (
            !has_base(record) || record.retention_bytes.get() | record.retention_age_s.get() == 0,
            "it has a base, and keeps moments without names",
        ),
        (
            is_log || record.features_incompatible.get() & NOTED_FIRST == 0,
            "it has no log, and has gone back to an earlier moment or has snapshots",
        ),
        (
            match record.features_incompatible.get() & FEATURE_OBJECTS != 0 {
                true => has_base(record) && record.snapshot_bytes.get() == 0 && !breaks_snapshots(record),
                false => !objects_apart,
            },
            "its snapshots have linear objects, which do not fit its other settings",
        ),
        (
            is_log || (log_fields == 0 && record.segment_bytes.get() == 0),
            "it has no log, and settings of one",
        ),
        (record.volume_flags.get() & !known_flags == 0, "its flags are none that its backend has"),
        (
            match record.features_incompatible.get() & FEATURE_MANY_SNAPSHOTS != 0 {
                true => {
                    is_log
                        && record.backend.get() != BACKEND_LINEAR
                        && (SNAPSHOTS_MIN + 1..=SNAPSHOTS_MAX).contains(&record.snapshots_max.get())
                }
                false => record.snapshots_max.get() == 0,
            },
            "it cannot have room for as many snapshots as it says",
        ),
    ];
    for (holds, text) in rules {
        if !holds {
            checker.found(Code::Superblock, Place::at(record.address.get()), text);
        }
    }
}

fn check_areas(checker: &mut Checker<'_>, record: &Superblock, is_log: bool, found_bytes: u64) {
    let (metadata, checksums, data) = (record.metadata, record.checksums, record.data);
    let volume_bytes = record.volume_bytes.get();
    let alignment = if is_log { LOG_ALIGNMENT } else { MIB };
    let (roots, base) = (record.roots, record.base);
    let has_base = has_base(record);
    let base_here = has_base && !record.has_volume_device();
    let data_offset = match base_here {
        true => base.end().checked_next_multiple_of(LOG_ALIGNMENT),
        false => Some(checksums.end()),
    };
    // Behind the metadata as they were made; growing puts them elsewhere.
    let base_follows = !base_here || Some(base.offset.get()) == metadata.end().checked_next_multiple_of(MIB);
    // As it was made; or roots and metadata behind the data, where growing puts them.
    let at_front = roots.offset.get() == ROOTS_OFFSET
        && metadata.offset.get() == HEAD_BYTES
        && checksums.offset.get() == metadata.end()
        && base_follows;
    let at_end = is_log
        && roots.offset.get() >= data.end()
        && roots.offset.get().is_multiple_of(alignment)
        && metadata.offset.get() == roots.end()
        && checksums.offset.get() >= HEAD_BYTES + MIB
        && checksums.offset.get().is_multiple_of(alignment);
    let in_order = (at_front || at_end)
        && roots.bytes.get() == ROOTS_BYTES
        && metadata.bytes.get().is_multiple_of(alignment)
        && metadata.bytes.get() >= MIB
        && checksums.bytes.get().is_multiple_of(alignment)
        && Some(data.offset.get()) == data_offset
        && base.bytes.get() == if base_here { volume_bytes } else { 0 }
        && base.offset.get().is_multiple_of(MIB)
        && (base.offset.get() == 0) != base_here;
    let mut rules = vec![
        (in_order, "its areas do not follow each other".to_string()),
        (
            record.end() <= record.device_bytes.get() && record.end() <= found_bytes,
            format!("its areas end at {}, the device at {found_bytes}", record.end()),
        ),
        (
            record.device_bytes.get() <= found_bytes,
            format!("the device had {} bytes and has {found_bytes}", record.device_bytes),
        ),
    ];
    if is_log {
        let (block_bytes, segment_bytes) = (record.block_bytes.get(), record.segment_bytes.get());
        let blocks = segment_bytes.checked_div(block_bytes).unwrap_or(0);
        let is_segment = segment_bytes.is_power_of_two() && SEGMENT_BLOCKS.contains(&blocks);
        let home_bytes = home_bytes(record);
        let room_bytes = if home_bytes > 0 { home_bytes } else { data.bytes.get() };
        let own_segments = data.bytes.get() / u64::from(segment_bytes.max(1));
        let segments = own_segments.saturating_add(home_bytes / u64::from(segment_bytes.max(1)));
        rules.push((is_segment, "its segment size is none".to_string()));
        rules.push((
            data.bytes.get().is_multiple_of(u64::from(segment_bytes.max(1)))
                && own_segments > 0
                && segments < 1 << 32
                && (volume_bytes <= room_bytes || is_thin(record) || has_base)
                && volume_bytes.div_ceil(u64::from(segment_bytes.max(1))) < u64::from(HOME_FIRST)
                && checksums.bytes.get() == 0,
            "its data area is no whole number of segments for the volume".to_string(),
        ));
        let fits = |entries: &u64| {
            metadata_bytes(record, segments, blocks.into(), *entries) == Some(metadata.bytes.get())
        };
        let entries = if has_base { ENTRIES_PER_SAVED_BLOCK } else { ENTRIES_PER_BLOCK };
        rules.push((
            is_segment && entries.iter().any(fits),
            "its metadata area is not what its segments need".to_string(),
        ));
    } else {
        let pages = volume_bytes.div_ceil(4096).div_ceil(504);
        let checksum_bytes = pages.saturating_mul(4096).checked_next_multiple_of(MIB);
        rules.push((
            data.bytes.get() == volume_bytes && Some(checksums.bytes.get()) == checksum_bytes,
            "its areas do not fit its size".to_string(),
        ));
    }
    for (holds, text) in rules {
        if !holds {
            checker.found(Code::Superblock, Place::at(record.address.get()), text);
        }
    }
}

/// Room of a metadata image: two rows of 64 bytes and two bitmaps for every segment, 160 bytes for every snapshot
/// beyond 256, and 64 KiB.
fn image_bytes(record: &Superblock, segments: u64, segment_blocks: u64) -> Option<u64> {
    let row_bytes = 64 + 2 * segment_blocks.div_ceil(64) * 8;
    let more_snapshots = u64::from(record.snapshots_max.get().saturating_sub(SNAPSHOTS_MIN));
    segments
        .checked_mul(2 * row_bytes)?
        .checked_add(more_snapshots * 160 + 64 * KIB)?
        .checked_next_multiple_of(LOG_ALIGNMENT)
}

/// Entries of 32 bytes that the index has room for, for each block; three in pools made before that was found to be too few.
const ENTRIES_PER_BLOCK: &[u64] = &[5, 3];
/// Beside a base.
const ENTRIES_PER_SAVED_BLOCK: &[u64] = &[8];

/// Two images, two journals of two images each, and so many entries for each block.
fn metadata_bytes(record: &Superblock, segments: u64, segment_blocks: u64, entries: u64) -> Option<u64> {
    let index = segments.checked_mul(segment_blocks)?.checked_mul(entries * 32)?.max(MIB);
    let images = image_bytes(record, segments, segment_blocks)?.checked_mul(6)?;
    images.checked_add(index)?.checked_next_multiple_of(LOG_ALIGNMENT)
}

/// Of superblocks that were found to be sound: the pool's, and those of the devices beside it.
fn shape(record: &Superblock, homes: &Homes) -> Shape {
    let (block_bytes, segment_bytes) = (record.block_bytes.get(), record.segment_bytes.get());
    let segment_blocks = segment_bytes / block_bytes;
    let own_segments = record.data.bytes.get() / u64::from(segment_bytes);
    let segments = own_segments + home_bytes(record) / u64::from(segment_bytes);
    let volume_offset = homes.volume.as_deref().map(|home| VOLUME.from + apart::area(home).offset.get());
    let objects_offset = homes.objects.as_deref().map(|home| OBJECTS.from + apart::area(home).offset.get());
    let Some(image_bytes) = image_bytes(record, segments, segment_blocks.into()) else {
        unreachable!("the metadata area has been found to hold six of them")
    };
    let index_offset = record.metadata.offset.get() + 6 * image_bytes;
    Shape {
        pool_id: record.pool_id,
        epoch: record.epoch.get(),
        closed: record.state.get() == STATE_CLOSED,
        volume_blocks: record.volume_bytes.get() / u64::from(block_bytes),
        block_bytes,
        region_bytes: record.region_bytes.get(),
        segment_blocks,
        segments: segments as u32,
        own_segments: own_segments as u32,
        home_offset: objects_offset.or(volume_offset).unwrap_or(0),
        data_offset: record.data.offset.get(),
        roots_offset: record.roots.offset.get(),
        metadata_offset: record.metadata.offset.get(),
        image_bytes,
        index_offset,
        index_pages: ((record.metadata.end() - index_offset) / 4096).min(u64::from(u32::MAX)) as u32,
        linear: record.backend.get() == BACKEND_LINEAR,
        thin: is_thin(record),
        saves: record.backend.get() == BACKEND_COW,
        overlays: matches!(record.backend.get(), BACKEND_OVERLAY | BACKEND_LOGGED_COW),
        copies: record.backend.get() == BACKEND_LOGGED_COW,
        keeps_past: record.retention_bytes.get() > 0,
        goes_back: record.features_incompatible.get() & FEATURE_ROLLBACK != 0,
        has_snapshots: record.features_incompatible.get() & FEATURE_SNAPSHOTS != 0,
        has_branches: record.features_incompatible.get() & FEATURE_BRANCHES != 0,
        snapshots_max: record.snapshots_max.get().max(SNAPSHOTS_MIN),
        has_locks: record.features_incompatible.get() & FEATURE_LOCKS != 0,
        objects: record.features_incompatible.get() & FEATURE_OBJECTS != 0,
        has_groups: record.features_incompatible.get() & FEATURE_GROUPS != 0,
        has_volumes: record.features_incompatible.get() & FEATURE_VOLUMES != 0,
        base_offset: volume_offset.unwrap_or(record.base.offset.get()),
        says_mixed: homes.volume.as_deref().map(|home| home.volume_flags.get() & VOLUME_BASE_MIXED != 0),
    }
}
