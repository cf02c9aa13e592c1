//! Reading the log's tail at open.
//!
//! From the checkpoint on, batch after batch is checked and taken in, until one is not there. What that means is
//! decided by [`judge`]: a batch that was promised is missing (damage), or the log simply ends (a torn tail).
//! Promised is what a later batch of the same opening, or a watermark, says is durable.
//!
//! Invariants: nothing is written; recovering again gives the same; what lies behind the end is never taken in
//! later, because the next opening's nonce is another one.

use std::rc::Rc;

use super::window::Window;
use super::{Geometry, Tail};
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{
    self, Batch, BatchEntry, Decoded, KIND_DISCARD, KIND_ROLLBACK, has_payload, is_in_place,
};
use crate::format::journal::{Lease, Opening};
use crate::pool::contents::Contents;
use crate::pool::metadata::ROLLBACKS_MAX;
use crate::pool::objects::OBJECT_FIRST;
use crate::units::ByteOffset;

/// How far behind the end a later batch is looked for: several of the largest.
const LOOK_BYTES: u64 = 4 << 20;

/// What the end of the log means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends here; nothing behind it was promised.
    Tail,
    /// An entry that was durable is missing.
    Damage,
}

/// The decision table: what the watermark promises, what the best later batch promises → what the end means.
pub fn judge(sequence: u64, watermark: u64, later_durable_through: Option<u64>) -> Verdict {
    if watermark > sequence || later_durable_through.is_some_and(|through| through > sequence) {
        Verdict::Damage
    } else {
        Verdict::Tail
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the log goes on.
    pub tail: Tail,
    /// Batches behind the checkpoint.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the end means.
    pub verdict: Verdict,
    /// Whole batches of the same opening lie behind the end.
    pub has_later: bool,
    /// The last sequence that anything found says is durable.
    pub promised_through: u64,
    /// Address and bytes of the batches that nothing says are durable.
    pub in_doubt: Vec<(u64, u64)>,
}

fn nonce_of(openings: &[Opening], batch: u64) -> Option<[u8; 16]> {
    openings.iter().rev().find(|opening| opening.first_batch.get() <= batch).map(|opening| opening.nonce)
}

/// Takes in everything that the log holds behind the checkpoint of a pool whose own volume has so many blocks.
///
/// # Errors
/// `MetadataDamaged` where the checkpoint contradicts the leases, `LogDamaged` where a sealed batch writes beyond the
/// volume or goes back to no moment, `UnknownVersion`, and what the device says.
pub async fn recover(
    device: &Device,
    geometry: Geometry,
    volume_blocks: u64,
    contents: &Rc<Contents>,
) -> Result<Recovered> {
    let (checkpoint, leases, openings, watermark) = {
        let state = contents.journal().state();
        let leases: Vec<Lease> = state.leases.iter().copied().collect();
        (state.checkpoint, leases, state.openings.clone(), state.watermark)
    };
    let damaged = || Error::new("read log", Reason::MetadataDamaged).on(device.name());
    let first = leases.first().ok_or_else(damaged)?;
    let start = geometry.address(first.physical.get(), 0);
    let from = checkpoint.address.get().checked_sub(start).ok_or_else(damaged)?;
    if from > geometry.segment_bytes() || !from.is_multiple_of(u64::from(geometry.block_bytes)) {
        return Err(damaged());
    }
    let mut tail = Tail {
        lease: *first,
        block: (from / u64::from(geometry.block_bytes)) as u32,
        batch: checkpoint.batch.get(),
        sequence: checkpoint.sequence.get(),
        time_unix_ns: checkpoint.time_unix_ns.get(),
        previous: checkpoint.previous.get(),
    };
    let mut at = 0;
    let (mut batches, mut entries, mut bytes) = (0, 0, 0);
    let mut taken = Vec::new();
    let mut durable_through = watermark.max(checkpoint.sequence.get());
    let mut window = Window::new(device, geometry);
    'batches: loop {
        let here = (at, tail.block);
        for (lease, block) in [here, (at + 1, 0)] {
            let Some(next) = leases.get(lease) else { break };
            let Some(batch) = window.batch(next.physical.get(), block).await? else { continue };
            if !follows(&batch, &tail, &openings) {
                continue;
            }
            let fits = |(sequence, entry): (u64, &BatchEntry)| match entry.kind.get() {
                // What it discards is in the index.
                KIND_ROLLBACK => {
                    sequence == checkpoint.sequence.get() + 1 && goes_back(contents, entry, sequence)
                }
                kind if is_in_place(kind) => {
                    ends_within(contents, entry, geometry, volume_blocks) && is_in_object(contents, entry)
                }
                kind if kind > KIND_DISCARD && !has_payload(kind) => true,
                _ => {
                    is_known(contents, entry.branch.get())
                        && ends_within(contents, entry, geometry, volume_blocks)
                }
            };
            if !(tail.sequence + 1..).zip(&batch.entries).all(fits) {
                let reason = Reason::LogDamaged { good_through: tail.sequence };
                return Err(Error::new("read log", reason).on(device.name()));
            }
            take_in(contents, &batch, next.virtual_segment.get(), block, geometry).await?;
            batches += 1;
            entries += batch.entries.len() as u64;
            bytes += batch.header.total_bytes();
            durable_through = durable_through.max(batch.header.durable_through.get());
            at = lease;
            tail = Tail {
                lease: *next,
                block: block + (batch.header.total_bytes() / u64::from(geometry.block_bytes)) as u32,
                batch: tail.batch + 1,
                sequence: tail.sequence + batch.entries.len() as u64,
                time_unix_ns: batch.header.time_unix_ns.get(),
                previous: batch.header.checksum.get(),
            };
            taken.push((tail.sequence, batch.header.address.get(), batch.header.total_bytes()));
            continue 'batches;
        }
        break;
    }
    let later = later_promise(&mut window, &leases[at..], &tail, &openings).await?;
    let verdict = judge(tail.sequence, watermark, later);
    let in_doubt = taken.iter().filter(|(last, ..)| *last > durable_through);
    let in_doubt = in_doubt.map(|(_, address, bytes)| (*address, *bytes)).collect();
    let promised_through = durable_through.max(later.unwrap_or(0));
    let has_later = later.is_some();
    Ok(Recovered { tail, batches, entries, bytes, verdict, promised_through, has_later, in_doubt })
}

/// Writes again, in their places, the batches that nothing says are durable. After a flush that failed they can
/// still be read, and no later flush saves them; what was taken in must not vanish later.
///
/// # Errors
/// What the device says.
pub async fn secure(device: &Device, in_doubt: &[(u64, u64)]) -> Result<()> {
    for (address, bytes) in in_doubt {
        let buf = device.context().buffers().reserved().get(*bytes as usize)?;
        let (result, buf) = device.read(ByteOffset(*address), buf, Io::of(Cause::Log)).await;
        result?;
        device.write(ByteOffset(*address), buf, Io::of(Cause::Log)).await.0?;
    }
    Ok(())
}

/// Whether a batch is the next one.
fn follows(batch: &Batch, tail: &Tail, openings: &[Opening]) -> bool {
    let header = &batch.header;
    #[cfg(feature = "mutations")]
    if crate::mutation::is_on(crate::mutation::Mutation::StaleLapAccepted) {
        return header.batch.get() >= tail.batch;
    }
    header.batch.get() == tail.batch
        && header.first_sequence.get() == tail.sequence + 1
        && header.previous.get() == tail.previous
        && nonce_of(openings, tail.batch) == Some(header.nonce)
}

/// Whether there is a branch of this number.
fn is_known(contents: &Contents, branch: u32) -> bool {
    branch == 0 || contents.journal().state().branches.get(branch).is_some()
}

/// Whether there is, or was, an object with the place that an entry names.
fn is_in_object(contents: &Contents, entry: &BatchEntry) -> bool {
    let state = contents.journal().state();
    let numbers = OBJECT_FIRST..state.objects.next_first();
    entry.place(state.segment_blocks()).is_some_and(|(number, _)| numbers.contains(&number))
}

fn ends_within(contents: &Contents, entry: &BatchEntry, geometry: Geometry, volume_blocks: u64) -> bool {
    let blocks = |bytes: u64| bytes / u64::from(geometry.block_bytes);
    let volume_blocks = match entry.branch.get() {
        0 => volume_blocks,
        branch => {
            let state = contents.journal().state();
            match state.volume_of(branch) {
                Some((_, size_bytes)) => size_bytes.map_or(volume_blocks, blocks),
                // It has been given up, and so has what it began as: nobody looks at its blocks.
                None => {
                    let sizes =
                        state.branches.values().filter_map(|branch| state.volume_of(branch.number)?.1);
                    sizes.map(blocks).fold(volume_blocks, u64::max)
                }
            }
        }
    };
    let end = entry.lba.get().checked_add(entry.blocks.get().into());
    end.is_some_and(|end| end <= volume_blocks)
}

/// Whether the volume can have gone back like this.
fn goes_back(contents: &Contents, entry: &BatchEntry, sequence: u64) -> bool {
    let history = contents.index().history();
    let is_next = history.rollbacks().last().is_none_or(|last| last.at < sequence);
    let has_room = history.rollbacks().len() < ROLLBACKS_MAX;
    has_room && is_next && entry.tag.get() < sequence && history.is_current(entry.tag.get())
}

async fn take_in(
    contents: &Rc<Contents>,
    batch: &Batch,
    virtual_segment: u32,
    block: u32,
    geometry: Geometry,
) -> Result<()> {
    let mut slot = block + batch.header.header_bytes.get() / geometry.block_bytes;
    let mut checksums = batch.checksums.as_slice();
    for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
        let (address, blocks) = (entry.address(), u64::from(entry.blocks.get()));
        let data = has_payload(entry.kind.get());
        let pinned = if data || is_in_place(entry.kind.get()) {
            contents.index().pin(address, blocks).await?
        } else {
            contents.index().pin_written(address, blocks).await?
        };
        let payload = if data { blocks as usize } else { 0 };
        let Some((own, rest)) = checksums.split_at_checked(payload) else { break };
        contents.take_in(entry, sequence, virtual_segment, slot, own, &pinned);
        slot += payload as u32;
        checksums = rest;
    }
    contents.note_time(
        batch.header.first_sequence.get() + batch.entries.len() as u64 - 1,
        batch.header.time_unix_ns.get(),
    );
    Ok(())
}

/// The greatest `durable_through` of a batch behind the end. The next whole batch is looked for nearby; from there on
/// each says where the one after it lies. A segment leased later may begin with one.
async fn later_promise(
    window: &mut Window<'_>,
    leases: &[Lease],
    tail: &Tail,
    openings: &[Opening],
) -> Result<Option<u64>> {
    let geometry = window.geometry;
    let reach = (LOOK_BYTES / u64::from(geometry.block_bytes)) as u32;
    let mut promise = None;
    let mut left = reach;
    let mut block = tail.block;
    for lease in leases {
        while block == 0 || (block < geometry.segment_blocks && left > 0) {
            let physical = lease.physical.get();
            let address = geometry.address(physical, block);
            let bytes = window.bytes(physical, block).await?;
            let later = match batch::decode(bytes, address, geometry.block_bytes) {
                Decoded::Valid(batch) => Some(batch.header).filter(|header| {
                    let number = header.batch.get();
                    number > tail.batch && nonce_of(openings, number) == Some(header.nonce)
                }),
                _ => None,
            };
            match later {
                Some(header) => {
                    promise = promise.max(Some(header.durable_through.get()));
                    let blocks = header.total_bytes() / u64::from(geometry.block_bytes);
                    block = block.saturating_add(blocks as u32);
                    left = reach;
                }
                None => {
                    block += 1;
                    left = left.saturating_sub(1);
                }
            }
        }
        block = 0;
    }
    Ok(promise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_damage_exactly_when_more_was_promised() {
        for (watermark, later, expected) in [
            (0, None, Verdict::Tail),
            (5, None, Verdict::Tail),
            (6, None, Verdict::Damage),
            (0, Some(5), Verdict::Tail),
            (0, Some(6), Verdict::Damage),
            (5, Some(4), Verdict::Tail),
            (9, Some(9), Verdict::Damage),
        ] {
            assert_eq!(judge(5, watermark, later), expected, "{watermark} {later:?}");
        }
    }
}
