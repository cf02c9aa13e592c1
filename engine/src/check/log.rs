//! The log behind its checkpoint: batch after batch, where it ends, and whether more was promised.
//!
//! A power cut leaves a batch that is not whole, and perhaps whole ones behind it that nobody was promised. A
//! batch at the end that is sealed and differs from the next one in one field alone, or whose lengths cannot be,
//! was never left by a cut; what lay there before differs in more.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::FromBytes;

use super::reading::Piece;
use super::returns::Returns;
use super::shape::Shape;
use super::state::{NUMBER_MAX, State};
use super::{Checker, Code, Place, is_sealed, is_zero};
use crate::error::Result;
pub(super) use crate::format::batch::Batch;
use crate::format::batch::{
    BatchEntry, BatchHeader, Decoded, ENTRIES_MAX, KIND_COPIED, KIND_DATA, KIND_DISCARD, KIND_PLACED,
    KIND_ROLLBACK, KIND_SAVED, KIND_SAVED_IN_PLACE, KIND_ZERO, MAGIC, VERSION, decode, has_payload,
    header_bytes, is_in_place,
};
use crate::format::crc32c;

/// Bytes of a batch at most.
pub(super) const BATCH_BYTES_MAX: u64 = 1 << 20;
/// Bytes read at a time.
const WINDOW_BYTES: u64 = 2 << 20;

/// How far the log has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub address: u64,
    pub virtual_segment: u32,
    pub block: u32,
    pub batch: u64,
    pub sequence: u64,
    pub time_unix_ns: u64,
    pub previous: u32,
}

/// What lies behind the checkpoint.
pub(super) struct Tail {
    pub end: End,
    /// Slots that its entries name, by virtual segment.
    pub named: BTreeMap<u32, BTreeSet<u32>>,
    /// By first block: the end of the range, and the first sequence that gave it new content.
    ranges: BTreeMap<u64, (u64, u64)>,
    /// The blocks of all ranges: first block and end, none touching another.
    covered: BTreeMap<u64, u64>,
    /// The return to an earlier moment that it begins with: where it stands, and the moment.
    pub rollback: Option<(u64, u64)>,
    /// It ends where the device cannot be read, and may go on.
    pub is_cut: bool,
}

impl Tail {
    fn new(end: End) -> Self {
        let (named, ranges, covered) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { end, named, ranges, covered, rollback: None, is_cut: false }
    }

    /// The first sequence behind the checkpoint that gave a block new content.
    pub fn first_change(&self, lba: u64) -> Option<u64> {
        let (_, (end, sequence)) = self.ranges.range(..=lba).next_back()?;
        (lba < *end).then_some(*sequence)
    }

    /// Notes a range, but for what an earlier entry has changed.
    fn note(&mut self, lba: u64, blocks: u64, sequence: u64) {
        let (mut at, end) = (lba, lba + blocks);
        let before = self.covered.range(..=lba).next_back().filter(|(_, end)| **end >= lba);
        let start = before.map_or(lba, |(start, _)| *start);
        // What it touches becomes one with it, so that nothing is gone through twice.
        while let Some((first, covered)) = self.covered.range(start..=end).next().map(|(at, end)| (*at, *end))
        {
            self.covered.remove(&first);
            if at < first {
                self.ranges.insert(at, (first, sequence));
            }
            at = at.max(covered);
        }
        if at < end {
            self.ranges.insert(at, (end, sequence));
            at = end;
        }
        self.covered.insert(start, at);
    }
}

/// A piece of a segment in memory.
pub(super) struct Window {
    physical: u32,
    first_block: u32,
    piece: Option<Piece>,
}

/// What a segment holds from a block on: at least the largest batch, if the segment goes on so far.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Up to the first block that cannot be read.
    pub bytes: &'a [u8],
    /// There is such a block: what lies behind it is not known.
    pub is_cut: bool,
}

impl Window {
    pub fn new() -> Self {
        Self { physical: 0, first_block: 0, piece: None }
    }

    /// The bytes of a segment from this block on; none where this block cannot be read.
    pub async fn seen(
        &mut self,
        checker: &mut Checker<'_>,
        shape: &Shape,
        physical: u32,
        block: u32,
    ) -> Result<Seen<'_>> {
        let block_bytes = u64::from(shape.block_bytes);
        let left = u64::from(shape.segment_blocks - block) * block_bytes;
        let skip = u64::from(block.saturating_sub(self.first_block)) * block_bytes;
        let held = self.piece.as_ref().map_or(0, |piece| piece.bytes.len() as u64);
        let within = self.physical == physical && block >= self.first_block;
        if !within || skip + left.min(BATCH_BYTES_MAX) > held {
            let address = shape.address(physical, block);
            self.piece = Some(checker.read_around(address, left.min(WINDOW_BYTES), block_bytes).await?);
            (self.physical, self.first_block) = (physical, block);
        }
        let Some(piece) = &self.piece else { unreachable!("it has just been read") };
        let skip = u64::from(block - self.first_block) * block_bytes;
        let cut = piece.unreadable.iter().find(|range| range.end > skip);
        let end = cut.map_or(piece.bytes.len() as u64, |range| range.start.max(skip));
        Ok(Seen { bytes: &piece.bytes[skip as usize..end as usize], is_cut: cut.is_some() })
    }
}

/// What is wrong with the entries of a batch that is sealed, if anything.
pub(super) fn contradiction(batch: &Batch, shape: &Shape) -> Option<&'static str> {
    let mut payload = 0;
    for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
        let (lba, blocks) = (entry.lba.get(), entry.blocks.get());
        if entry.kind.get() == KIND_ROLLBACK {
            let names = [entry.branch.get(), blocks, entry.payload.get()];
            let alone = batch.entries.len() == 1 && lba == 0 && names == [0; 3];
            if !shape.goes_back {
                return Some("it goes back to an earlier moment, and the superblock knows nothing of that");
            }
            if !alone || entry.tag.get() >= sequence {
                return Some("it goes back to a later moment, or says more than that");
            }
            continue;
        }
        // How large a further volume is, its name says.
        let is_of_branch = entry.branch.get() != 0;
        let most = if is_of_branch && shape.has_volumes { 1 << 48 } else { shape.volume_blocks };
        let inside = lba.checked_add(blocks.into()).is_some_and(|end| end <= most);
        if blocks == 0 || !inside {
            return Some("an entry lies outside of the volume");
        }
        if is_of_branch && !shape.has_branches && !shape.has_volumes {
            return Some("an entry is of a branch, and the superblock knows nothing of that");
        }
        if is_in_place(entry.kind.get()) {
            if let Some(text) = contradiction_in_place(entry, shape) {
                return Some(text);
            }
            continue;
        }
        if entry.tag.get() != 0 {
            return Some("an entry has a tag, and this version has none");
        }
        match entry.kind.get() {
            kind if (shape.saves && !is_of_branch) != (kind == KIND_SAVED)
                || (kind == KIND_COPIED && (!shape.copies || is_of_branch)) =>
            {
                return Some("an entry is of a kind that its backend writes none of");
            }
            KIND_DATA | KIND_SAVED | KIND_COPIED if entry.payload.get() == payload => payload += blocks,
            KIND_ZERO | KIND_DISCARD if entry.payload.get() == payload || entry.payload.get() == 0 => {}
            KIND_DATA | KIND_SAVED | KIND_COPIED | KIND_ZERO | KIND_DISCARD => {
                return Some("an entry has not the payload that follows");
            }
            _ => return Some("an entry is of a kind that this version writes none of"),
        }
    }
    let header = &batch.header;
    if header.batch.get().max(header.first_sequence.get()) >= NUMBER_MAX {
        return Some("its numbers cannot be");
    }
    let used =
        size_of::<BatchHeader>() + size_of::<BatchEntry>() * batch.entries.len() + 4 * batch.checksums.len();
    if payload != header.payload_blocks.get() || batch.entries.is_empty() {
        return Some("its payload is not that of its entries");
    }
    if !is_zero(&header.reserved)
        || header.total_bytes() > BATCH_BYTES_MAX
        || used as u64 > u64::from(header.header_bytes.get())
    {
        return Some("bytes that no field names are not zero");
    }
    (header.epoch.get() != shape.epoch).then_some("it is of another epoch than the volume")
}

/// What is wrong with an entry of what lies in a linear object, if anything.
fn contradiction_in_place(entry: &BatchEntry, shape: &Shape) -> Option<&'static str> {
    let kind = if shape.saves { KIND_SAVED_IN_PLACE } else { KIND_PLACED };
    if !shape.objects || shape.copies || entry.kind.get() != kind || entry.branch.get() != 0 {
        return Some("an entry is of a kind that its backend writes none of");
    }
    let place = entry.place(shape.segment_blocks);
    let is_own = place.is_some_and(|(number, slot)| shape.is_place_of(number, slot, entry.lba.get()));
    let upper = entry.checksum_in_place();
    let sound = is_own && entry.payload.get() == 0 && (shape.saves || upper == 0);
    (!sound).then_some("an entry names a place in a linear object that is not that of its blocks")
}

/// Blocks of an entry's payload.
pub(super) fn payload_blocks(entry: &BatchEntry) -> usize {
    if has_payload(entry.kind.get()) { entry.blocks.get() as usize } else { 0 }
}

/// The batch that a place begins with, if it belongs there and is whole, its payload too.
pub(super) fn whole_batch(seen: Seen<'_>, address: u64, shape: &Shape) -> Option<Box<Batch>> {
    let Decoded::Valid(batch) = decode(seen.bytes, address, shape.block_bytes) else { return None };
    let whole = has_whole_payload(seen, &batch, shape);
    (whole && contradiction(&batch, shape).is_none()).then_some(batch)
}

/// Whether every block of the payload has its checksum, but for those that cannot be read.
fn has_whole_payload(seen: Seen<'_>, batch: &Batch, shape: &Shape) -> bool {
    let payload = &seen.bytes[batch.header.header_bytes.get() as usize..];
    let mut blocks = payload.chunks_exact(shape.block_bytes as usize).zip(&batch.checksums);
    (seen.is_cut
        || payload.len() as u64 >= batch.header.total_bytes() - u64::from(batch.header.header_bytes.get()))
        && blocks.all(|(block, sum)| crc32c(&[block]) == *sum)
}

/// Where the log ends. `None` where the checkpoint cannot be believed.
pub(super) async fn check(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> Result<Option<Tail>> {
    let (Some(first), Some(block)) = (state.leases.front(), state.checkpoint_block()) else {
        return Ok(None);
    };
    let checkpoint = &state.checkpoint;
    let mut end = End {
        address: checkpoint.address.get(),
        virtual_segment: first.virtual_segment.get(),
        block,
        batch: checkpoint.batch.get(),
        sequence: checkpoint.sequence.get(),
        time_unix_ns: checkpoint.time_unix_ns.get(),
        previous: checkpoint.previous.get(),
    };
    let mut window = Window::new();
    let follows = match batch_before(checker, shape, &mut window, first.physical.get(), &end).await? {
        Before::Batch(batch) => batch.header.time_unix_ns.get() == end.time_unix_ns,
        Before::Other => is_start(&end) && end.time_unix_ns == 0,
        Before::Unreadable => true,
    };
    if !follows {
        let text = "no batch before the checkpoint ends there with what it says";
        checker.found(Code::Log, Place::at(end.address).sequence(end.sequence), text);
        return Ok(None);
    }
    let mut tail = Tail::new(end);
    let mut promised = 0;
    let mut at = 0;
    'batches: loop {
        tail.is_cut = false;
        for (lease, block) in [(at, end.block), (at + 1, 0)] {
            let Some(next) = state.leases.get(lease).filter(|_| block < shape.segment_blocks) else {
                continue;
            };
            let (physical, number) = (next.physical.get(), next.virtual_segment.get());
            let address = shape.address(physical, block);
            let room = u64::from(shape.segment_blocks - block) * u64::from(shape.block_bytes);
            let seen = window.seen(checker, shape, physical, block).await?;
            let batch = match judge(seen, room, address, shape, state, &end) {
                Judged::Next(batch) => batch,
                Judged::Other => {
                    tail.is_cut |= seen.is_cut;
                    continue;
                }
                Judged::Wrong(text) => {
                    checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
                    continue;
                }
            };
            let header = &batch.header;
            let is_first = state.opening_of(end.batch).is_some_and(|own| own.first_batch == header.batch);
            let durable = header.durable_through.get();
            if durable > end.sequence || durable < promised || (is_first && durable != end.sequence) {
                let text = format!("it says that {durable} is durable, after {promised} was");
                checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
            }
            if header.time_unix_ns.get() < end.time_unix_ns {
                let text = "it was written before the batch that it follows";
                checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
            }
            if let Some(to) = rollback_of(&batch) {
                let begins = header.first_sequence.get() == checkpoint.sequence.get() + 1;
                if !begins || Returns::new(&state.rollbacks, None).discarded_at(to) != u64::MAX {
                    let text =
                        "it goes back to a discarded moment, or is not the first behind the checkpoint";
                    checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
                }
                tail.rollback = Some((header.first_sequence.get(), to));
            }
            let unknown = |entry: &BatchEntry| {
                is_in_place(entry.kind.get()) && !state.objects.has_number(entry.tag.get() as u32)
            };
            if batch.entries.iter().any(unknown) {
                let text = "an entry names a linear object that has never been there";
                checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
            }
            check_copies(checker, shape, state, &batch).await?;
            promised = promised.max(durable);
            let blocks = (header.total_bytes() / u64::from(shape.block_bytes)) as u32;
            take_in(&mut tail, &batch, number, block, shape);
            end = End {
                address: address + header.total_bytes(),
                virtual_segment: number,
                block: block + blocks,
                batch: end.batch + 1,
                sequence: end.sequence + batch.entries.len() as u64,
                time_unix_ns: header.time_unix_ns.get(),
                previous: header.checksum.get(),
            };
            at = lease;
            continue 'batches;
        }
        break;
    }
    let newest = state.openings.last().map_or(0, |opening| opening.first_batch.get());
    if newest > end.batch {
        let text = format!("the log ends with batch {}, and an opening began with {newest}", end.batch);
        checker.found(Code::Log, Place::at(end.address).sequence(end.sequence), text);
    }
    if let Some((address, through)) = later_promise(checker, shape, state, &mut window, at, &end).await?
        && through > end.sequence
    {
        let text = format!(
            "the log ends at sequence {}, and a later batch says {through} was durable",
            end.sequence
        );
        checker.found(Code::Log, Place::at(address).sequence(end.sequence + 1), text);
    }
    tail.end = end;
    Ok(Some(tail))
}

/// Copies in linear objects are what the batch says of them: they were durable before it. A place is used once, so that
/// they are so still, unless the object is gone.
async fn check_copies(checker: &mut Checker<'_>, shape: &Shape, state: &State, batch: &Batch) -> Result<()> {
    for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
        let place = entry.place(shape.segment_blocks).filter(|_| entry.kind.get() == KIND_SAVED_IN_PLACE);
        let segment = place.and_then(|(number, slot)| Some((state.objects.segment(number)?, slot)));
        let Some((physical, slot)) = segment else { continue };
        let address = shape.address(physical, slot);
        // What cannot be read has been told.
        let Some(block) = checker.read(address, shape.block_bytes.into()).await? else { continue };
        if crc32c(&[&block[..]]) != entry.checksum_in_place() {
            let at = Place::at(address).sequence(sequence).block(entry.lba.get());
            checker.found(Code::Block, at, "its checksum is not that of the entry that tells of it");
        }
    }
    Ok(())
}

/// The moment that a batch goes back to, if it does.
fn rollback_of(batch: &Batch) -> Option<u64> {
    batch.entries.first().filter(|entry| entry.kind.get() == KIND_ROLLBACK).map(|entry| entry.tag.get())
}

fn take_in(tail: &mut Tail, batch: &Batch, number: u32, block: u32, shape: &Shape) {
    let mut slot = block + batch.header.header_bytes.get() / shape.block_bytes;
    for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
        if entry.blocks.get() == 0 {
            continue;
        }
        if entry.kind.get() != KIND_COPIED {
            tail.note(entry.address(), entry.blocks.get().into(), sequence);
        }
        if has_payload(entry.kind.get()) {
            tail.named.entry(number).or_default().extend(slot..slot + entry.blocks.get());
            slot += entry.blocks.get();
        }
        if is_in_place(entry.kind.get())
            && let Some((number, first)) = entry.place(shape.segment_blocks)
        {
            tail.named.entry(number).or_default().extend(first..first + entry.blocks.get());
        }
    }
}

enum Judged {
    Next(Box<Batch>),
    Other,
    Wrong(&'static str),
}

/// What the place is that a batch may begin at, with so much room left in its segment.
fn judge(seen: Seen<'_>, room: u64, address: u64, shape: &Shape, state: &State, end: &End) -> Judged {
    let Ok((header, _)) = BatchHeader::read_from_prefix(seen.bytes) else { return Judged::Other };
    // What lay at the log's very first place may be the first batch of another pool.
    let is_own = [
        header.magic == MAGIC,
        header.address.get() == address,
        state.opening_of(end.batch).is_some_and(|own| own.nonce == header.nonce),
        header.batch.get() == end.batch,
        header.first_sequence.get() == end.sequence + 1,
        header.previous.get() == end.previous,
    ];
    let wrong = is_own.iter().filter(|holds| !**holds).count();
    if wrong > 1 || (!is_own[2] && end.batch == 0) {
        return Judged::Other;
    }
    // The fixed part lies in one sector, so that no cut tears it.
    let (entries, blocks) = (header.entries.get() as usize, header.payload_blocks.get() as usize);
    let possible = header.version.get() == VERSION
        && header.block_bytes.get() == shape.block_bytes
        && entries <= ENTRIES_MAX as usize
        && header.total_bytes() <= BATCH_BYTES_MAX.min(room)
        && header_bytes(entries, blocks, shape.block_bytes as usize) == header.header_bytes.get() as usize;
    if !possible {
        return if wrong == 0 {
            Judged::Wrong("its lengths or its version cannot be")
        } else {
            Judged::Other
        };
    }
    // It may be cut by a block that cannot be read.
    let Some(sealed) = seen.bytes.get(..header.header_bytes.get() as usize) else { return Judged::Other };
    if !is_sealed(sealed) {
        return Judged::Other;
    }
    let decoded = decode(seen.bytes, address, shape.block_bytes);
    // An opening began here because what the one before it had written lost its payload.
    let is_torn = matches!(&decoded, Decoded::Valid(batch) if !has_whole_payload(seen, batch, shape));
    if wrong == 1 && !is_own[2] && is_torn {
        return Judged::Other;
    }
    if wrong == 1 {
        return Judged::Wrong("it is sealed, and one field is not what follows");
    }
    let Decoded::Valid(batch) = decoded else {
        return Judged::Wrong("it is sealed, and its entries are none");
    };
    if let Some(text) = contradiction(&batch, shape) {
        return Judged::Wrong(text);
    }
    let begins = |entry: &BatchEntry| state.names.begin_of(entry.branch.get());
    if batch.entries.iter().any(|entry| begins(entry).is_none_or(|begin| begin > end.sequence)) {
        return Judged::Wrong("an entry is of a branch that is not there");
    }
    let inside = |entry: &BatchEntry| {
        let end = entry.lba.get().saturating_add(entry.blocks.get().into());
        entry.kind.get() == KIND_ROLLBACK || end <= state.names.blocks_of(shape, entry.branch.get())
    };
    if !batch.entries.iter().all(inside) {
        return Judged::Wrong("an entry lies outside of the volume");
    }
    let used = size_of::<BatchHeader>() + size_of::<BatchEntry>() * entries + 4 * blocks;
    if !is_zero(&sealed[used..]) {
        return Judged::Wrong("bytes that no field names are not zero");
    }
    if has_whole_payload(seen, &batch, shape) { Judged::Next(batch) } else { Judged::Other }
}

/// Whether this is where the log begins.
pub(super) fn is_start(end: &End) -> bool {
    (end.batch, end.block, end.sequence, end.previous) == (0, 0, 0, 0)
}

/// What ends at a place of a segment of the log.
pub(super) enum Before {
    /// The batch that the place says.
    Batch(Box<Batch>),
    /// Something else.
    Other,
    /// It cannot be read, and has been told.
    Unreadable,
}

/// What ends at a place of a segment of the log, and whether it is what that place says of it.
pub(super) async fn batch_before(
    checker: &mut Checker<'_>,
    shape: &Shape,
    window: &mut Window,
    physical: u32,
    end: &End,
) -> Result<Before> {
    let mut block = 0;
    let mut unreadable = false;
    while block < end.block {
        let address = shape.address(physical, block);
        let seen = window.seen(checker, shape, physical, block).await?;
        let Decoded::Valid(batch) = decode(seen.bytes, address, shape.block_bytes) else {
            // Behind a header that cannot be read the next one is looked for.
            unreadable |= seen.is_cut;
            if !unreadable {
                return Ok(Before::Other);
            }
            block += 1;
            continue;
        };
        let header = &batch.header;
        block += (header.total_bytes() / u64::from(shape.block_bytes)).max(1) as u32;
        if block == end.block {
            let is_it = header.batch.get().checked_add(1) == Some(end.batch)
                && header.first_sequence.get().checked_add(batch.entries.len() as u64)
                    == end.sequence.checked_add(1)
                && header.checksum.get() == end.previous;
            return Ok(if is_it { Before::Batch(batch) } else { Before::Other });
        }
        // What follows a whole batch begins where that ends.
        unreadable = false;
    }
    Ok(if unreadable { Before::Unreadable } else { Before::Other })
}

/// The greatest `durable_through` of a later batch of the same opening behind the end, and where it lies.
async fn later_promise(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    window: &mut Window,
    at: usize,
    end: &End,
) -> Result<Option<(u64, u64)>> {
    let mut promise: Option<(u64, u64)> = None;
    for (lease, next) in state.leases.iter().enumerate().skip(at) {
        let physical = next.physical.get();
        let first = if lease == at { end.block } else { 0 };
        for block in first..shape.segment_blocks {
            let address = shape.address(physical, block);
            let bytes = window.seen(checker, shape, physical, block).await?.bytes;
            // The whole of it is decoded only where it begins like one.
            if !bytes.starts_with(&MAGIC) {
                continue;
            }
            let Decoded::Valid(batch) = decode(bytes, address, shape.block_bytes) else { continue };
            let (number, through) = (batch.header.batch.get(), batch.header.durable_through.get());
            if number > end.batch
                && state.opening_of(number).is_some_and(|own| own.nonce == batch.header.nonce)
                && promise.is_none_or(|(_, best)| best < through)
            {
                promise = Some((address, through));
            }
        }
    }
    Ok(promise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Random;

    #[test]
    fn ranges_say_what_changed_a_block_first_and_are_gone_through_once() {
        let end = End {
            address: 0,
            virtual_segment: 0,
            block: 0,
            batch: 0,
            sequence: 0,
            time_unix_ns: 0,
            previous: 0,
        };
        const BLOCKS: u64 = 64;
        for seed in 0..200 {
            let (mut tail, mut random) = (Tail::new(end), Random::from_seed(seed));
            let mut first = [None; BLOCKS as usize];
            for sequence in 1..20 {
                let lba = random.below(BLOCKS);
                let blocks = 1 + random.below((BLOCKS - lba).min(9));
                tail.note(lba, blocks, sequence);
                (lba..lba + blocks).for_each(|at| {
                    first[at as usize].get_or_insert(sequence);
                });
            }
            let found: Vec<Option<u64>> = (0..BLOCKS).map(|lba| tail.first_change(lba)).collect();
            assert_eq!(found, first, "seed {seed}");
            let apart = tail.covered.iter().zip(tail.covered.keys().skip(1)).all(|(one, next)| one.1 < next);
            assert!(apart, "seed {seed}: {:?}", tail.covered);
        }
        let mut tail = Tail::new(end);
        (0..100_000).for_each(|at| tail.note(2 * at, 1, 1));
        // Each of these would go through a hundred thousand ranges.
        (0..100_000).for_each(|sequence| tail.note(0, 200_000, 2 + sequence));
        assert_eq!(tail.covered, BTreeMap::from([(0, 200_000)]));
    }
}
