//! Reading, judging, repairing and rewriting the two superblock copies.
//!
//! What was found in the two places decides what is done, as one table ([`judge`]) that a test walks through
//! completely. A rewrite goes to one copy, is flushed, and only then to the other, so that at every moment one
//! copy is whole.

use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    COPY_OFFSETS, Decoded, KNOWN_INCOMPATIBLE, SUPERBLOCK_BYTES, Superblock, VERSION,
};
use crate::runtime::FailureFlag;
use crate::units::ByteOffset;

/// What the two copies mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one of them lives for a moment at open")]
pub enum Verdict {
    /// Both copies are whole and the same.
    Use(Superblock),
    /// Use this one; the copy with this index is to be written again.
    Repair(Superblock, usize),
    /// No superblock anywhere.
    NoSuperblock,
    /// At least one copy was there, and none is whole.
    Damaged,
    /// Both are whole, of the same generation, and different.
    Conflict,
    /// A newer build wrote at least one of them.
    UnknownVersion(u32),
}

/// The decision table: found in the first place, found in the second → what to do.
pub fn judge(first: &Decoded, second: &Decoded) -> Verdict {
    use Decoded::{Absent, Damaged, UnknownVersion, Valid};
    match (first, second) {
        (UnknownVersion(version), _) | (_, UnknownVersion(version)) => Verdict::UnknownVersion(*version),
        (Valid(first), Valid(second)) => match first.generation.get().cmp(&second.generation.get()) {
            std::cmp::Ordering::Less => Verdict::Repair(*second, 0),
            std::cmp::Ordering::Greater => Verdict::Repair(*first, 1),
            std::cmp::Ordering::Equal if first.encode(0) == second.encode(0) => Verdict::Use(*first),
            std::cmp::Ordering::Equal => Verdict::Conflict,
        },
        (Valid(first), Absent | Damaged) => Verdict::Repair(*first, 1),
        (Absent | Damaged, Valid(second)) => Verdict::Repair(*second, 0),
        (Absent, Absent) => Verdict::NoSuperblock,
        (Damaged, Absent | Damaged) | (Absent, Damaged) => Verdict::Damaged,
    }
}

/// The superblock of a device, and whether a copy has to be written again. Writes nothing.
///
/// # Errors
/// `NoSuperblock`, `SuperblockDamaged`, `SuperblockConflict`, `UnknownVersion`, `UnknownFeatures`,
/// `DeviceTooSmall` where the device has shrunk, and what the device says.
pub async fn read(device: &Device) -> Result<(Superblock, Option<usize>)> {
    let refuse = |reason| Error::new("open", reason).on(device.name());
    let found = [read_copy(device, 0).await?, read_copy(device, 1).await?];
    let (superblock, repair) = match judge(&found[0], &found[1]) {
        Verdict::Use(superblock) => (superblock, None),
        Verdict::Repair(superblock, copy) => (superblock, Some(copy)),
        Verdict::NoSuperblock => return Err(refuse(Reason::NoSuperblock)),
        Verdict::Damaged => return Err(refuse(Reason::SuperblockDamaged)),
        Verdict::Conflict => return Err(refuse(Reason::SuperblockConflict)),
        Verdict::UnknownVersion(found) => {
            return Err(refuse(Reason::UnknownVersion { found, known: VERSION }));
        }
    };
    let unknown = superblock.features_incompatible.get() & !KNOWN_INCOMPATIBLE;
    if unknown != 0 {
        return Err(refuse(Reason::UnknownFeatures { unknown }));
    }
    let (needed_bytes, found_bytes) = (superblock.end(), device.geometry().size_bytes);
    if needed_bytes > found_bytes {
        return Err(refuse(Reason::DeviceTooSmall { needed_bytes, found_bytes }));
    }
    Ok((superblock, repair))
}

async fn read_copy(device: &Device, copy: usize) -> Result<Decoded> {
    let offset = COPY_OFFSETS[copy];
    if offset + SUPERBLOCK_BYTES as u64 > device.geometry().size_bytes {
        return Ok(Decoded::Absent);
    }
    let buf = device.context().buffers().get(SUPERBLOCK_BYTES)?;
    let (result, buf) = device.read(ByteOffset(offset), buf, Io::of(Cause::Metadata)).await;
    match result {
        Ok(()) => {}
        // An unreadable copy is a damaged one; the other may be whole.
        Err(error) if error.kind() == crate::error::Kind::DeviceFailed => return Ok(Decoded::Damaged),
        Err(error) => return Err(error),
    }
    let Some(bytes) = buf.first_chunk::<SUPERBLOCK_BYTES>() else { unreachable!("the buffer has that size") };
    Ok(Superblock::decode(bytes, offset))
}

/// Writes both copies, one after the other, each flushed and read back before the next step; a copy that is
/// not whole goes first, so that the whole one is never at risk alone. After it returned, this superblock
/// survives; if it fails or is cut short, the one before it or this one is found.
///
/// # Errors
/// What the device says.
pub async fn write(device: &Device, superblock: &Superblock, failed: &FailureFlag) -> Result<()> {
    let second_is_whole = matches!(read_copy(device, 1).await?, Decoded::Valid(_));
    for copy in if second_is_whole { [0, 1] } else { [1, 0] } {
        write_copy(device, superblock, copy, failed).await?;
        // Before the other copy is given up: a disk that dropped, changed or misplaced the write is found out.
        if read_copy(device, copy).await? != decoded(superblock, copy) {
            write_copy(device, superblock, copy, failed).await?;
            if read_copy(device, copy).await? != decoded(superblock, copy) {
                return Err(Error::new("write superblock", Reason::SuperblockDamaged).on(device.name()));
            }
        }
    }
    Ok(())
}

fn decoded(superblock: &Superblock, copy: usize) -> Decoded {
    Superblock::decode(&superblock.encode(COPY_OFFSETS[copy]), COPY_OFFSETS[copy])
}

/// Writes one copy and flushes it.
///
/// # Errors
/// What the device says.
pub async fn write_copy(
    device: &Device,
    superblock: &Superblock,
    copy: usize,
    failed: &FailureFlag,
) -> Result<()> {
    let offset = COPY_OFFSETS[copy];
    let buf = device.context().buffers().copy_of(&superblock.encode(offset))?;
    let io = Io { failed: Some(failed.clone()), ..Io::of(Cause::Metadata) };
    device.write(ByteOffset(offset), buf, io.clone()).await.0?;
    device.flush(io).await
}

/// Makes both places read as no superblock, durably.
///
/// # Errors
/// What the device says.
pub async fn erase(device: &Device) -> Result<()> {
    for offset in COPY_OFFSETS {
        let buf = device.context().buffers().zeroed(SUPERBLOCK_BYTES)?;
        device.write(ByteOffset(offset), buf, Io::of(Cause::Metadata)).await.0?;
    }
    device.flush(Io::of(Cause::Metadata)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(generation: u64, id: u8) -> Decoded {
        let mut superblock = Superblock::empty();
        superblock.generation = generation.into();
        superblock.pool_id = [id; 16];
        Decoded::Valid(superblock)
    }

    /// What an action does, without the superblock it carries.
    fn action(first: Decoded, second: Decoded) -> (&'static str, Option<(u64, u8)>) {
        let of = |superblock: Superblock| Some((superblock.generation.get(), superblock.pool_id[0]));
        match judge(&first, &second) {
            Verdict::Use(superblock) => ("use", of(superblock)),
            Verdict::Repair(superblock, 0) => ("repair first", of(superblock)),
            Verdict::Repair(superblock, _) => ("repair second", of(superblock)),
            Verdict::NoSuperblock => ("none", None),
            Verdict::Damaged => ("damaged", None),
            Verdict::Conflict => ("conflict", None),
            Verdict::UnknownVersion(_) => ("unknown version", None),
        }
    }

    #[test]
    fn the_table_is_complete() {
        let newer = valid(8, 1);
        let older = valid(7, 1);
        let rival = valid(8, 2);
        let strange = Decoded::UnknownVersion(9);
        let (absent, damaged) = (Decoded::Absent, Decoded::Damaged);
        let table = [
            (newer, newer, ("use", Some((8, 1)))),
            (newer, older, ("repair second", Some((8, 1)))),
            (older, newer, ("repair first", Some((8, 1)))),
            (newer, rival, ("conflict", None)),
            (newer, absent, ("repair second", Some((8, 1)))),
            (newer, damaged, ("repair second", Some((8, 1)))),
            (absent, newer, ("repair first", Some((8, 1)))),
            (damaged, newer, ("repair first", Some((8, 1)))),
            (absent, absent, ("none", None)),
            (absent, damaged, ("damaged", None)),
            (damaged, absent, ("damaged", None)),
            (damaged, damaged, ("damaged", None)),
            (strange, newer, ("unknown version", None)),
            (newer, strange, ("unknown version", None)),
            (strange, absent, ("unknown version", None)),
            (absent, strange, ("unknown version", None)),
            (strange, damaged, ("unknown version", None)),
            (damaged, strange, ("unknown version", None)),
            (strange, strange, ("unknown version", None)),
        ];
        for (first, second, expected) in table {
            assert_eq!(action(first, second), expected, "{first:?} {second:?}");
        }
    }
}
