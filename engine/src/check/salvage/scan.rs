//! Batches of the log, wherever they lie: which openings wrote them, which of those are this pool's, and which
//! batches count.
//!
//! A header that is sealed, at its own address and of an opening of this pool says what was written, also where its
//! segment is used for other things by now. Not so what an earlier opening left behind the place where a later one
//! began: its numbers are those of the later one. An opening is this pool's if the journal names it, if a batch of
//! it follows one of another opening of the pool or goes before it, or if it wrote after the pool was made; else
//! the newest one is taken, since nothing says more.
//!
//! Invariant: memory is a piece of the device, and [`OPENINGS_MAX`] openings.

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::FromBytes;

use super::super::log::{BATCH_BYTES_MAX, contradiction};
use super::super::reading::Piece;
use super::super::shape::Shape;
use super::super::{Checker, Code, Place};
use crate::error::Result;
use crate::format::batch::{Batch, BatchHeader, Decoded, MAGIC, decode};
use crate::format::journal::Opening;

/// A header at most: 4096 entries and the checksums of 1 MiB of blocks of 512 bytes.
const HEADER_BYTES_MAX: u64 = 256 << 10;
const PIECE_BYTES: u64 = 2 << 20;
/// Openings that are told apart.
const OPENINGS_MAX: usize = 1 << 16;
/// No block is smaller.
const BLOCK_BYTES_MIN: u32 = 512;

/// What is looked for, and where.
pub(super) struct Area {
    pub shape: Shape,
    /// The superblock is lost: any epoch, and nothing says what may have happened.
    pub is_guessed: bool,
    /// Ranges of the device.
    pub ranges: Vec<Range<u64>>,
}

impl Area {
    fn is_sound(&self, batch: &Batch) -> bool {
        if !self.is_guessed {
            return contradiction(batch, &self.shape).is_none();
        }
        let shape = Shape { epoch: batch.header.epoch.get(), ..self.shape.clone() };
        contradiction(batch, &shape).is_none()
    }

    /// The batch whose header these bytes begin with, at this address.
    fn batch(&self, bytes: &[u8], address: u64) -> Option<Box<Batch>> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        match decode(bytes, address, self.shape.block_bytes) {
            Decoded::Valid(batch) if self.is_sound(&batch) => Some(batch),
            _ => None,
        }
    }

    /// Every batch, in the order of the device. What a batch wrote is not looked into.
    pub async fn visit(&self, checker: &mut Checker<'_>, visit: &mut dyn FnMut(&Batch, u64)) -> Result<()> {
        let unit = u64::from(self.shape.block_bytes);
        let step = |bytes: &[u8], address: u64| match self.batch(bytes, address) {
            Some(batch) => {
                visit(&batch, address);
                batch.header.total_bytes().max(unit)
            }
            None => unit,
        };
        walk(checker, &self.ranges, self.shape.block_bytes, step).await
    }

    /// Whether the batch at an address has all that it wrote, but for what cannot be read.
    pub async fn is_whole(&self, checker: &mut Checker<'_>, address: u64) -> Result<bool> {
        let unit = u64::from(self.shape.block_bytes);
        let end =
            self.ranges.iter().find(|range| range.contains(&address)).map_or(address, |range| range.end);
        let length = BATCH_BYTES_MAX.min(end - address);
        let Piece { bytes, unreadable } = checker.read_around(address, length, unit).await?;
        let Some(batch) = self.batch(&bytes, address) else { return Ok(false) };
        let header_bytes = u64::from(batch.header.header_bytes.get());
        let is_read = |at: u64| unreadable.iter().all(|range| range.end <= at || at + unit <= range.start);
        let payload = bytes.get(header_bytes as usize..).unwrap_or_default();
        let blocks = (header_bytes..).step_by(unit as usize).zip(payload.chunks_exact(unit as usize));
        let wrong = blocks
            .zip(&batch.checksums)
            .any(|((at, block), sum)| is_read(at) && crate::format::crc32c(&[block]) != *sum);
        Ok(!wrong && batch.header.total_bytes() <= length)
    }
}

/// Goes through ranges of the device; `step` says how far to go on.
async fn walk(
    checker: &mut Checker<'_>,
    ranges: &[Range<u64>],
    block_bytes: u32,
    mut step: impl FnMut(&[u8], u64) -> u64,
) -> Result<()> {
    let total = ranges.iter().map(|range| range.end - range.start).sum::<u64>() / u64::from(block_bytes);
    let mut before = 0;
    for range in ranges {
        let mut at = range.start;
        while at + u64::from(block_bytes) <= range.end {
            let start = at;
            let length = PIECE_BYTES.min(range.end - start);
            let piece = checker.read_around(start, length, block_bytes.into()).await?;
            let end = start + length;
            // The last header of a piece may go on behind it, and is read again with the next one.
            let last = if end == range.end { end } else { end - HEADER_BYTES_MAX };
            while at < last {
                at += step(&piece.bytes[(at - start) as usize..], at);
            }
            let done = before + (at - range.start) / u64::from(block_bytes);
            (checker.progress)(super::super::Progress { done: done.min(total), total });
        }
        before += (range.end - range.start) / u64::from(block_bytes);
    }
    Ok(())
}

/// The unit of most batches that lie anywhere in a range, where nothing else says it.
pub(super) async fn block_bytes(checker: &mut Checker<'_>, range: Range<u64>) -> Result<Option<u32>> {
    let mut found: BTreeMap<u32, u64> = BTreeMap::new();
    let step = |bytes: &[u8], address| {
        let unit = u64::from(BLOCK_BYTES_MIN);
        if !bytes.starts_with(&MAGIC) {
            return unit;
        }
        let Ok((header, _)) = BatchHeader::read_from_prefix(bytes) else { return unit };
        let block_bytes = header.block_bytes.get();
        let is_one =
            block_bytes.is_power_of_two() && super::super::superblock::BLOCK_BYTES.contains(&block_bytes);
        match decode(bytes, address, block_bytes.max(1)) {
            Decoded::Valid(_) if is_one => {
                *found.entry(block_bytes).or_default() += 1;
                header.total_bytes().clamp(unit, BATCH_BYTES_MAX)
            }
            _ => unit,
        }
    };
    walk(checker, &[range], BLOCK_BYTES_MIN, step).await?;
    Ok(found.into_iter().max_by_key(|(_, batches)| *batches).map(|(block_bytes, _)| block_bytes))
}

/// One opening, as its batches tell of it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Its first batch that is left: number, first sequence, and what it follows.
    first: u64,
    first_sequence: u64,
    previous: u32,
    /// Its last one: number, seal, and the sequence behind it.
    last: u64,
    seal: u32,
    next_sequence: u64,
    time_min: u64,
    time_max: u64,
    batches: u64,
}

/// The openings of the pool.
pub(super) struct Openings {
    /// By their nonce: the number from which on a later opening wrote.
    limits: BTreeMap<[u8; 16], u64>,
}

impl Openings {
    /// Whether a batch is one of the pool's.
    pub fn counts(&self, batch: &BatchHeader) -> bool {
        self.limits.get(&batch.nonce).is_some_and(|limit| batch.batch.get() < *limit)
    }

    /// Looks at every batch; `created_unix_ns` of 0 is not known.
    pub async fn find(
        checker: &mut Checker<'_>,
        area: &Area,
        of_journal: &[Opening],
        created_unix_ns: u64,
    ) -> Result<Self> {
        let mut seen: BTreeMap<[u8; 16], Seen> = BTreeMap::new();
        let mut links: Vec<([u8; 16], [u8; 16])> = Vec::new();
        let mut before: Option<(u64, BatchHeader, u64)> = None;
        let mut left_out = 0_u64;
        area.visit(checker, &mut |batch, address| {
            let header = batch.header;
            let next_sequence = header.first_sequence.get() + batch.entries.len() as u64;
            if let Some((end, one, next)) = &before
                && *end == address
                && one.nonce != header.nonce
                && follows(one.batch.get(), one.checksum.get(), *next, &header)
                && links.len() < OPENINGS_MAX
            {
                links.push((one.nonce, header.nonce));
            }
            before = Some((address + header.total_bytes(), header, next_sequence));
            let is_known = seen.contains_key(&header.nonce);
            if !is_known && seen.len() >= OPENINGS_MAX {
                left_out += 1;
                return;
            }
            note(&mut seen, &header, next_sequence);
        })
        .await?;
        // Where an opening begins elsewhere than the one before it ends.
        let ends: BTreeMap<(u64, u32, u64), [u8; 16]> =
            seen.iter().map(|(nonce, one)| ((one.last, one.seal, one.next_sequence), *nonce)).collect();
        for (nonce, one) in &seen {
            let end = one.first.checked_sub(1).map(|last| (last, one.previous, one.first_sequence));
            if let Some(earlier) = end.and_then(|end| ends.get(&end)).filter(|earlier| *earlier != nonce) {
                links.push((*earlier, *nonce));
            }
        }
        let own = belonging(&seen, &links, of_journal, created_unix_ns);
        let others: u64 =
            seen.iter().filter(|(nonce, _)| !own.contains_key(*nonce)).map(|(_, one)| one.batches).sum();
        if others + left_out > 0 && of_journal.is_empty() {
            let text = format!(
                "{} batches are passed over: nothing says that those who wrote them had this pool open",
                others + left_out
            );
            checker.found(Code::Log, Place::default(), text);
        }
        Ok(Self { limits: limits(&own, of_journal) })
    }
}

fn follows(batch: u64, seal: u32, next_sequence: u64, header: &BatchHeader) -> bool {
    (batch + 1, seal, next_sequence)
        == (header.batch.get(), header.previous.get(), header.first_sequence.get())
}

fn note(seen: &mut BTreeMap<[u8; 16], Seen>, header: &BatchHeader, next_sequence: u64) {
    let (number, time) = (header.batch.get(), header.time_unix_ns.get());
    let one = seen.entry(header.nonce).or_insert(Seen {
        first: u64::MAX,
        first_sequence: 0,
        previous: 0,
        last: 0,
        seal: 0,
        next_sequence: 0,
        time_min: u64::MAX,
        time_max: 0,
        batches: 0,
    });
    if number < one.first {
        (one.first, one.first_sequence, one.previous) =
            (number, header.first_sequence.get(), header.previous.get());
    }
    if number >= one.last {
        (one.last, one.seal, one.next_sequence) = (number, header.checksum.get(), next_sequence);
    }
    one.time_min = one.time_min.min(time);
    one.time_max = one.time_max.max(time);
    one.batches += 1;
}

/// The openings that are this pool's.
fn belonging(
    seen: &BTreeMap<[u8; 16], Seen>,
    links: &[([u8; 16], [u8; 16])],
    of_journal: &[Opening],
    created_unix_ns: u64,
) -> BTreeMap<[u8; 16], Seen> {
    let mut own: BTreeMap<[u8; 16], Seen> = BTreeMap::new();
    let mut new: Vec<[u8; 16]> = of_journal.iter().map(|opening| opening.nonce).collect();
    if created_unix_ns > 0 {
        new.extend(seen.iter().filter(|(_, one)| one.time_min >= created_unix_ns).map(|(nonce, _)| *nonce));
    }
    if !new.iter().any(|nonce| seen.contains_key(nonce)) {
        let newest = seen.iter().max_by_key(|(_, one)| (one.time_max, one.last));
        new.extend(newest.map(|(nonce, _)| *nonce));
    }
    let mut beside: BTreeMap<[u8; 16], Vec<[u8; 16]>> = BTreeMap::new();
    for (one, other) in links {
        beside.entry(*one).or_default().push(*other);
        beside.entry(*other).or_default().push(*one);
    }
    while let Some(nonce) = new.pop() {
        if let Some(one) = seen.get(&nonce)
            && own.insert(nonce, *one).is_none()
        {
            new.extend(beside.remove(&nonce).into_iter().flatten());
        }
    }
    own
}

/// From which number on a later opening wrote, for each.
fn limits(own: &BTreeMap<[u8; 16], Seen>, of_journal: &[Opening]) -> BTreeMap<[u8; 16], u64> {
    let mut in_time: Vec<_> = own.iter().map(|(nonce, one)| (one.time_min, one.first, *nonce)).collect();
    in_time.sort_unstable();
    let mut limits = BTreeMap::new();
    let mut limit = u64::MAX;
    for (_, first, nonce) in in_time.into_iter().rev() {
        limits.insert(nonce, limit);
        limit = limit.min(first);
    }
    limit = u64::MAX;
    for opening in of_journal.iter().rev() {
        let of_journal = limit;
        limits.entry(opening.nonce).and_modify(|limit| *limit = (*limit).min(of_journal));
        limit = limit.min(opening.first_batch.get());
    }
    // What began before all that the journal names had ended by then.
    let is_older = |nonce: &[u8; 16]| own.get(nonce).is_some_and(|one| one.first < limit);
    limits.iter_mut().filter(|(nonce, _)| is_older(nonce)).for_each(|(_, own)| *own = (*own).min(limit));
    limits
}
