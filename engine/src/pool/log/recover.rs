//! Reading the log's tail at open.
//!
//! From the checkpoint on, batch after batch is checked and taken in, until one is not there. What that means is
//! decided by [`judge`]: a batch that was promised is missing (damage), or the log simply ends (a torn tail).
//! Promised is what a later batch of the same opening, or a watermark, says is durable.
//!
//! Invariants: nothing is written; recovering again gives the same; what lies behind the end is never taken in
//! later, because the next opening's nonce is another one.

use std::rc::Rc;

use super::{Geometry, Tail};
use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{self, Batch, Decoded, KIND_DATA};
use crate::format::crc32c;
use crate::format::journal::{Lease, Opening};
use crate::pool::contents::Contents;
use crate::units::ByteOffset;

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 2 << 20;
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
    /// The last sequence that anything found says is durable.
    pub promised_through: u64,
    /// Address and bytes of the batches that nothing says are durable.
    pub in_doubt: Vec<(u64, u64)>,
}

/// Pieces of segments in memory.
struct Window<'a> {
    device: &'a Device,
    geometry: Geometry,
    physical: u32,
    first_block: u32,
    buf: Option<Buf>,
}

impl Window<'_> {
    /// The bytes of a segment from this block on: all that is in memory, and at least the largest batch if the
    /// segment goes on so far.
    async fn bytes(&mut self, physical: u32, block: u32) -> Result<&[u8]> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let left_bytes = u64::from(self.geometry.segment_blocks - block) * block_bytes;
        let wanted = left_bytes.min(self.geometry.batch_bytes_max() as u64);
        let skip = u64::from(block.wrapping_sub(self.first_block)) * block_bytes;
        let held = self.buf.as_ref().map_or(0, |buf| buf.len() as u64);
        if self.buf.is_none() || self.physical != physical || block < self.first_block || skip + wanted > held
        {
            self.buf = None;
            let length = left_bytes.min(WINDOW_BYTES) as usize;
            let buf = self.device.context().buffers().get(length)?;
            let at = ByteOffset(self.geometry.address(physical, block));
            let (result, buf) = self.device.read(at, buf, Io::of(Cause::Log)).await;
            result?;
            (self.physical, self.first_block) = (physical, block);
            self.buf = Some(buf);
        }
        let skip = u64::from(block - self.first_block) * block_bytes;
        match &self.buf {
            Some(buf) => Ok(&buf[skip as usize..]),
            None => unreachable!("it was read just now"),
        }
    }

    /// The batch that lies there, whole, if one does.
    async fn batch(&mut self, physical: u32, block: u32) -> Result<Option<Box<Batch>>> {
        if block >= self.geometry.segment_blocks {
            return Ok(None);
        }
        let geometry = self.geometry;
        let address = geometry.address(physical, block);
        let name = self.device.name().to_string();
        let bytes = self.bytes(physical, block).await?;
        match batch::decode(bytes, address, geometry.block_bytes) {
            Decoded::Absent => Ok(None),
            Decoded::UnknownVersion(found) => {
                Err(Error::new("open", Reason::UnknownVersion { found, known: batch::VERSION }).on(name))
            }
            Decoded::Valid(batch) => {
                let header = batch.header.header_bytes.get() as usize;
                let Some(payload) = bytes.get(header..batch.header.total_bytes() as usize) else {
                    return Ok(None);
                };
                let blocks = payload.chunks_exact(geometry.block_bytes as usize);
                let whole = blocks.zip(&batch.checksums).all(|(block, sum)| crc32c(&[block]) == *sum);
                #[cfg(feature = "mutations")]
                let whole = whole || crate::mutation::is_on(crate::mutation::Mutation::LogPayloadUnchecked);
                Ok(whole.then_some(batch))
            }
        }
    }
}

fn nonce_of(openings: &[Opening], batch: u64) -> Option<[u8; 16]> {
    openings.iter().rev().find(|opening| opening.first_batch.get() <= batch).map(|opening| opening.nonce)
}

/// Takes in everything that the log holds behind the checkpoint.
///
/// # Errors
/// `MetadataDamaged` where the checkpoint contradicts the leases, `UnknownVersion`, and what the device says.
pub async fn recover(device: &Device, geometry: Geometry, contents: &Rc<Contents>) -> Result<Recovered> {
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
    let mut window = Window { device, geometry, physical: 0, first_block: 0, buf: None };
    'batches: loop {
        let here = (at, tail.block);
        for (lease, block) in [here, (at + 1, 0)] {
            let Some(next) = leases.get(lease) else { break };
            let Some(batch) = window.batch(next.physical.get(), block).await? else { continue };
            if !follows(&batch, &tail, &openings) {
                continue;
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
    Ok(Recovered { tail, batches, entries, bytes, verdict, promised_through, in_doubt })
}

/// Writes again, in their places, the batches that nothing says are durable. After a flush that failed they can
/// still be read, and no later flush saves them; what was taken in must not vanish later.
///
/// # Errors
/// What the device says.
pub async fn secure(device: &Device, in_doubt: &[(u64, u64)]) -> Result<()> {
    for (address, bytes) in in_doubt {
        let buf = device.context().buffers().get(*bytes as usize)?;
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
        let (lba, blocks) = (entry.lba.get(), u64::from(entry.blocks.get()));
        let data = entry.kind == KIND_DATA;
        let pinned = if data {
            contents.index().pin(lba, blocks).await?
        } else {
            contents.index().pin_written(lba, blocks).await?
        };
        let payload = if data { blocks as usize } else { 0 };
        let Some((own, rest)) = checksums.split_at_checked(payload) else { break };
        contents.take_in(entry, sequence, virtual_segment, slot, own);
        slot += payload as u32;
        checksums = rest;
        drop(pinned);
    }
    contents.note_time(
        batch.header.first_sequence.get() + batch.entries.len() as u64 - 1,
        batch.header.time_unix_ns.get(),
    );
    Ok(())
}

/// The greatest `durable_through` of a batch behind the end. A batch that was written later lies within a few
/// batches of it, or at the beginning of a segment leased later.
async fn later_promise(
    window: &mut Window<'_>,
    leases: &[Lease],
    tail: &Tail,
    openings: &[Opening],
) -> Result<Option<u64>> {
    let geometry = window.geometry;
    let reach = (LOOK_BYTES / u64::from(geometry.block_bytes)) as u32;
    let end = geometry.segment_blocks.min(tail.block.saturating_add(reach));
    let here = leases.first().map(|lease| lease.physical.get());
    let near = here.into_iter().flat_map(|physical| (tail.block..end).map(move |block| (physical, block)));
    let far = leases.iter().skip(1).map(|lease| (lease.physical.get(), 0));
    let mut promise = None;
    for (physical, block) in near.chain(far) {
        let address = geometry.address(physical, block);
        let Decoded::Valid(batch) =
            batch::decode(window.bytes(physical, block).await?, address, geometry.block_bytes)
        else {
            continue;
        };
        let number = batch.header.batch.get();
        if number > tail.batch && nonce_of(openings, number) == Some(batch.header.nonce) {
            promise = promise.max(Some(batch.header.durable_through.get()));
        }
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
