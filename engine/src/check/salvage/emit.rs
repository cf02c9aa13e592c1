//! The image, part by part: each block is read where its newest version is said to lie, and judged.

use super::super::reading::Piece;
use super::canvas::{Canvas, Held, Place, Version};
use super::output::{Output, PIECE_BYTES};
use super::plan::Plan;
use super::{Given, SalvageOptions, SalvageReport, Status, VERSIONS_MAX};
use crate::check::{Checker, Progress};
use crate::error::Result;
use crate::format::crc32c;

/// A volume without a log, from this byte of the device on.
pub(super) async fn copy(
    checker: &mut Checker<'_>,
    from: u64,
    output: &mut Output<'_>,
    report: &mut SalvageReport,
) -> Result<()> {
    let (size_bytes, unit) = (report.size_bytes, u64::from(report.block_bytes));
    let mut at = 0;
    while at < size_bytes {
        let length = PIECE_BYTES.min(size_bytes - at);
        let Piece { bytes, unreadable } = checker.read_around(from + at, length, unit).await?;
        output.put(at, &bytes).await?;
        let mut good = 0;
        for range in unreadable {
            let blocks = good / unit..range.start / unit;
            let lost = blocks.end..range.end.min(length).div_ceil(unit);
            tell_good(report, at / unit, blocks);
            report.add(
                at / unit + lost.start,
                lost.end - lost.start,
                Status::Unreadable,
                false,
                Given::Zeroes,
            );
            good = lost.end * unit;
        }
        tell_good(report, at / unit, good / unit..length / unit);
        at += length;
        (checker.progress)(Progress { done: at / unit, total: size_bytes / unit });
    }
    Ok(())
}

fn tell_good(report: &mut SalvageReport, first: u64, blocks: std::ops::Range<u64>) {
    if !blocks.is_empty() {
        report.add(first + blocks.start, blocks.end - blocks.start, Status::Good, false, Given::Whole);
    }
}

/// A volume with a log.
pub(super) async fn emit(
    checker: &mut Checker<'_>,
    plan: &Plan,
    options: &SalvageOptions,
    output: &mut Output<'_>,
    report: &mut SalvageReport,
) -> Result<()> {
    let limit = options.versions_max.unwrap_or(VERSIONS_MAX).max(4);
    let mut emitter =
        Emitter { checker, plan, doubtful: options.doubtful, output, report, pending: Vec::new() };
    let mut next = 0;
    while next < plan.volume_blocks {
        let mut canvas = Canvas::new(next..plan.volume_blocks, limit, plan.moves_to_base());
        plan.fill(emitter.checker, &mut canvas).await?;
        canvas.settle();
        emitter.part(&canvas).await?;
        next = canvas.part.end;
    }
    Ok(())
}

/// A block that has a version, waiting to be read with its neighbours.
#[derive(Clone, Copy)]
struct Block {
    lba: u64,
    held: Held,
    /// The newest sequence that made it zero, older than the version.
    zero: u64,
    is_certain: bool,
}

struct Emitter<'a, 'b, 'c> {
    checker: &'a mut Checker<'b>,
    plan: &'a Plan,
    doubtful: bool,
    output: &'a mut Output<'c>,
    report: &'a mut SalvageReport,
    pending: Vec<Block>,
}

impl Emitter<'_, '_, '_> {
    async fn part(&mut self, canvas: &Canvas) -> Result<()> {
        let room = (PIECE_BYTES / u64::from(self.report.block_bytes)) as usize;
        let (mut at, end) = (canvas.part.start, canvas.part.end);
        while at < end {
            let data = canvas.next_data(at).filter(|(lba, _)| *lba < end);
            let (zero, zero_end) = canvas.zero_at(at);
            let (hole, hole_end) = self.plan.hole(at);
            let newest = data.filter(|(lba, _)| *lba == at).map(|(_, held)| *held);
            let newest = newest.or(self.plan.is_over_base().then_some(Held::of(Version::OF_BASE)));
            let is_later = |held: &Held| zero == 0 || held.newest.sequence > zero;
            let newest = newest.filter(|held| is_later(held) && held.newest.place != Place::Zero);
            if let Some(held) = newest {
                let (held, is_certain) = self.plan.chosen(held, hole);
                self.pending.push(Block { lba: at, held, zero, is_certain });
                at += 1;
                if self.pending.len() >= room {
                    self.read_pending().await?;
                }
                continue;
            }
            self.read_pending().await?;
            let (sequence, stop) = match data {
                Some((lba, held)) if lba == at => (
                    zero.max(if held.newest.place == Place::Zero { held.newest.sequence } else { 0 }),
                    at + 1,
                ),
                Some((lba, _)) => (zero, lba),
                None => (zero, end),
            };
            let stop = stop.min(zero_end).min(hole_end).min(end);
            let status = match sequence {
                0 if hole > 0 => Status::Unknown,
                sequence if sequence >= hole => Status::Zero,
                _ => Status::Uncertain,
            };
            self.report.add(at, stop - at, status, false, Given::Zeroes);
            at = stop;
        }
        self.read_pending().await?;
        (self.checker.progress)(Progress { done: end, total: self.plan.volume_blocks });
        Ok(())
    }

    /// Reads what lies behind each other on the device with one request, and judges each block.
    async fn read_pending(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let unit = u64::from(self.report.block_bytes);
        let mut places: Vec<Vec<u64>> = Vec::with_capacity(pending.len());
        for block in &pending {
            let mut to = Vec::new();
            self.plan.addresses(block.lba, block.held.newest.place, &mut to);
            if let Some(again) = block.held.again {
                self.plan.addresses(block.lba, again, &mut to);
            }
            places.push(to);
        }
        let first_of = |at: usize| places.get(at).and_then(|places| places.first().copied());
        let mut at = 0;
        while at < pending.len() {
            let mut length = 1;
            if let Some(first) = first_of(at) {
                while first_of(at + length) == Some(first + length as u64 * unit) {
                    length += 1;
                }
                let piece = self.checker.read_around(first, length as u64 * unit, unit).await?;
                for (index, bytes) in piece.bytes.chunks_exact(unit as usize).enumerate() {
                    let start = index as u64 * unit;
                    let is_read = piece
                        .unreadable
                        .iter()
                        .all(|range| range.end <= start || start + unit <= range.start);
                    let bytes = is_read.then_some(bytes);
                    self.judge(&pending[at + index], &places[at + index], bytes).await?;
                }
            } else {
                self.judge(&pending[at], &[], None).await?;
            }
            at += length;
        }
        Ok(())
    }

    /// Takes a block, which was read at the first of its places.
    async fn judge(&mut self, block: &Block, places: &[u64], read: Option<&[u8]>) -> Result<()> {
        let Block { lba, held, is_certain, .. } = *block;
        let Some(checksum) = held.newest.checksum else {
            return self.take_unverified(block, places, read).await;
        };
        let is_whole = |bytes: &[u8]| crc32c(&[bytes]) == checksum;
        let offset = lba * u64::from(self.report.block_bytes);
        let elsewhere;
        let mut whole = read.filter(|bytes| is_whole(bytes));
        let mut all_read = read.is_some();
        if whole.is_none() && places.len() > 1 {
            (elsewhere, all_read) = self.find(&places[1..], checksum, all_read).await?;
            whole = elsewhere.as_deref();
        }
        if let Some(bytes) = whole {
            let (status, given) = match (is_certain, self.doubtful) {
                (true, _) => (Status::Good, Given::Whole),
                (false, true) => (Status::Uncertain, Given::Whole),
                (false, false) => (Status::Uncertain, Given::Zeroes),
            };
            if given == Given::Whole {
                self.output.put(offset, bytes).await?;
            }
            self.report.add(lba, 1, status, false, given);
            return Ok(());
        }
        let status = match places.is_empty() {
            true => Status::Unknown,
            false if all_read => Status::Wrong,
            false => Status::Unreadable,
        };
        let (is_older, older) = self.older(block).await?;
        let mut given = Given::Zeroes;
        if self.doubtful && is_older {
            given = Given::Older;
            if let Some(bytes) = older {
                self.output.put(offset, &bytes).await?;
            }
        } else if let Some(bytes) = read.filter(|_| self.doubtful) {
            given = Given::AsFound;
            self.output.put(offset, bytes).await?;
        }
        self.report.add(lba, 1, status, is_older, given);
        Ok(())
    }

    /// Takes a block that has no checksum.
    async fn take_unverified(&mut self, block: &Block, places: &[u64], read: Option<&[u8]>) -> Result<()> {
        let (status, given) = match read {
            Some(_) if block.is_certain => (Status::Unverified, Given::Whole),
            Some(_) if self.doubtful => (Status::Uncertain, Given::Whole),
            Some(_) => (Status::Uncertain, Given::Zeroes),
            None if places.is_empty() => (Status::Unknown, Given::Zeroes),
            None => (Status::Unreadable, Given::Zeroes),
        };
        if let Some(bytes) = read.filter(|_| given == Given::Whole) {
            self.output.put(block.lba * u64::from(self.report.block_bytes), bytes).await?;
        }
        self.report.add(block.lba, 1, status, false, given);
        Ok(())
    }

    /// The block with this checksum at one of these places, and whether all of them could be read.
    async fn find(
        &mut self,
        places: &[u64],
        checksum: u32,
        mut all_read: bool,
    ) -> Result<(Option<Vec<u8>>, bool)> {
        let unit = u64::from(self.report.block_bytes);
        for place in places {
            let piece = self.checker.read_around(*place, unit, unit).await?;
            if !piece.unreadable.is_empty() {
                all_read = false;
            } else if crc32c(&[&piece.bytes]) == checksum {
                return Ok((Some(piece.bytes.to_vec()), all_read));
            }
        }
        Ok((None, all_read))
    }

    /// Whether an older version of a block is whole, and its bytes unless they are zeroes.
    async fn older(&mut self, block: &Block) -> Result<(bool, Option<Vec<u8>>)> {
        let Some(Version { sequence, checksum, place }) = block.held.older else {
            return Ok((block.zero > 0, None));
        };
        let Some(checksum) = checksum.or((place == Place::Zero).then_some(0)) else {
            return Ok((false, None));
        };
        if block.zero > sequence || place == Place::Zero {
            return Ok((true, None));
        }
        let mut places = Vec::new();
        self.plan.addresses(block.lba, place, &mut places);
        let (found, _) = self.find(&places, checksum, true).await?;
        Ok((found.is_some(), found))
    }
}
