//! Which image is salvaged, from what, and where a newer version may have been lost.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::index;
use super::super::log::payload_blocks;
use super::super::returns::Returns;
use super::super::shape::Shape;
use super::canvas::{Canvas, Held, Place, Version};
use super::image::{Image, Wanted};
use super::known::Known;
use super::scan::{self, Area, Openings};
use super::sequences::Sequences;
use super::{SalvageOptions, refusal};
use crate::check::{Checker, Code};
use crate::error::{Reason, Result};
use crate::format::batch::{
    Batch, BatchEntry, KIND_DATA, KIND_DISCARD, KIND_PLACED, KIND_ROLLBACK, KIND_SAVED, KIND_SAVED_IN_PLACE,
    KIND_ZERO,
};
use crate::format::index_page::{BASE, ZERO};
use crate::format::journal::Rollback;
use crate::units::{address_of, branch_of, lba_of};

/// Everything below belongs to superblocks and roots.
const HEAD_BYTES: u64 = 1 << 20;
/// A volume whose size nobody knows has no more blocks than that.
const BLOCKS_MAX: u64 = 1 << 46;
/// Ranges of blocks whose entries are lost, for each run; what follows the last one counts as lost with it.
const LOST_MAX: usize = 1 << 12;
/// Batches that nothing has promised.
const BEYOND_MAX: usize = 1 << 20;
/// Returns to earlier moments: a pool has no more.
const ROLLBACKS_MAX: usize = 128;

/// What is done.
pub(super) struct Plan {
    pub area: Area,
    pub openings: Openings,
    pub known: Known,
    pub returns: Returns,
    pub volume_blocks: u64,
    pub moment: u64,
    /// The last sequence that anything tells of.
    pub newest: u64,
    /// Durable sequences behind the moment of which nothing tells, unless the moment was asked for.
    pub lost: u64,
    pub is_scanned: bool,
    image: Image,
    /// Behind the checkpoint, nothing is missing up to this sequence.
    reached: u64,
    /// Where no version of a block is known, what the base has of it is known to be what the image shows.
    is_base_certain: bool,
    /// Blocks, by their numbers in the index, of which a run may have entries that cannot be had: apart, in order.
    not_indexed: Vec<Range<u64>>,
    /// The highest sequence up to the moment of which nothing tells.
    floor: u64,
    /// The same for blocks whose entries in the index are lost: ranges apart, in order.
    holes: Vec<(Range<u64>, u64)>,
    /// Runs that have let go of nothing that the moment sees.
    says_all: Vec<SaysAll>,
}

/// A run that has every version of its sequences that the moment sees, but for zeroes that nothing older lies under.
struct SaysAll {
    run: u64,
    first: u64,
    last: u64,
    /// Blocks whose entries cannot be had.
    lost: Vec<Range<u64>>,
}

impl SaysAll {
    fn tells_of(&self, lba: u64, sequence: u64) -> bool {
        let at = self.lost.partition_point(|blocks| blocks.end <= lba);
        (self.first..=self.last).contains(&sequence)
            && self.lost.get(at).is_none_or(|blocks| lba < blocks.start)
    }
}

impl Plan {
    /// Of a log whose superblock is whole.
    pub async fn new(
        checker: &mut Checker<'_>,
        options: &SalvageOptions,
        shape: Shape,
        created_unix_s: u64,
    ) -> Result<Self> {
        let mut known = Known::load(checker, &shape).await?;
        let wanted = Wanted::find(options, &known, &shape);
        let wanted = wanted.map_err(|reason| refusal(checker.device, reason))?;
        let by_log = wanted != Wanted::Base;
        if !by_log {
            known.runs.clear();
        } else if options.scan {
            let Known { watermark, openings, rollbacks, names, objects, .. } = known;
            known = Known { watermark, openings, rollbacks, names, objects, ..Known::default() };
        }
        let mut lost = Vec::new();
        for at in 0..known.runs.len() {
            lost.push(lost_blocks(checker, &shape, &known, at).await?);
        }
        let is_scanned = by_log && (!known.is_complete || lost.iter().any(|lost| !lost.is_empty()));
        let mut ranges = if is_scanned { vec![shape.data()] } else { known.tail.clone() };
        let device_bytes = checker.device.geometry().size_bytes;
        let block_bytes = u64::from(shape.block_bytes);
        for range in &mut ranges {
            range.end = range.end.min(device_bytes - device_bytes % block_bytes);
        }
        ranges.retain(|range| range.start < range.end);
        let area = Area { shape, is_guessed: false, ranges };
        let created_unix_ns = created_unix_s.saturating_mul(1_000_000_000);
        Self::finish(checker, wanted, area, known, lost, is_scanned, created_unix_ns).await
    }

    /// Of a log of which no superblock is left: its batches say where they lie.
    pub async fn without_superblock(
        checker: &mut Checker<'_>,
        options: &SalvageOptions,
        size_bytes: Option<u64>,
    ) -> Result<Self> {
        let device = checker.device;
        let range = HEAD_BYTES..device.geometry().size_bytes & !(HEAD_BYTES / 16 - 1);
        let why = "no superblock is left, and no batch of a log either; if its volume had no log, say where its \
                   blocks lie with --size and --direct-offset";
        let found = match range.is_empty() {
            true => None,
            false => scan::block_bytes(checker, range.clone()).await?,
        };
        let Some(block_bytes) = found else { return Err(refusal(device, Reason::NotSalvaged { why })) };
        let blocks = size_bytes.map_or(BLOCKS_MAX, |bytes| bytes / u64::from(block_bytes));
        let shape = Shape::guessed(block_bytes, blocks.min(BLOCKS_MAX));
        let known = Known::default();
        let wanted = Wanted::find(options, &known, &shape).map_err(|reason| refusal(device, reason))?;
        let area = Area { shape, is_guessed: true, ranges: vec![range] };
        let mut plan = Self::finish(checker, wanted, area, known, Vec::new(), true, 0).await?;
        if !options.no_base {
            plan.floor = u64::MAX;
            let text = "nothing says that the volume had no base, so that nothing of it is certain; --no-base says so";
            checker.found(Code::Superblock, crate::check::Place::default(), text);
        }
        if size_bytes.is_some() {
            plan.volume_blocks = blocks.min(BLOCKS_MAX);
        } else {
            let text = "nothing says how large the volume was: it is taken to end with the last block that was written";
            checker.found(Code::Superblock, crate::check::Place::default(), text);
        }
        Ok(plan)
    }

    async fn finish(
        checker: &mut Checker<'_>,
        wanted: Wanted,
        area: Area,
        known: Known,
        lost: Vec<Vec<Range<u64>>>,
        is_scanned: bool,
        created_unix_ns: u64,
    ) -> Result<Self> {
        let openings = Openings::find(checker, &area, &known.openings, created_unix_ns).await?;
        let told = Told::find(checker, &area, &openings).await?;
        let mut rollbacks: BTreeMap<u64, Rollback> = told.rollbacks;
        rollbacks.extend(known.rollbacks.iter().map(|one| (one.at.get(), *one)));
        let rollbacks: Vec<Rollback> = rollbacks.into_values().take(ROLLBACKS_MAX).collect();
        let returns = Returns::new(&rollbacks, None);
        let covers = |at: usize| {
            let run = &known.runs[at].0.run;
            (run.first_sequence.get(), run.last_sequence.get())
        };
        let of_runs = (0..known.runs.len()).map(|at| covers(at).1).max().unwrap_or(0);
        let promised = told.promised.max(known.base).max(known.watermark).max(of_runs);
        // With a checkpoint, what leads from there without a gap is one image; without, the newest of all is taken.
        let has_checkpoint = known.base > 0 || known.is_complete;
        let mut usable: Vec<usize> = (0..known.runs.len()).collect();
        let is_named = wanted.is_named(&known);
        let (moment, lost_sequences, newest) = loop {
            let mut all = told.batches.clone();
            all.insert(1, known.base);
            usable.iter().map(|at| covers(*at)).for_each(|(first, last)| all.insert(first, last));
            let mut end = match has_checkpoint {
                true => all.last_from(known.base + 1).unwrap_or(known.base).min(promised),
                false => all.highest_to(promised),
            };
            if end == promised {
                for (first, (address, last)) in &told.beyond {
                    if *first > end + 1 || !area.is_whole(checker, *address).await? {
                        break;
                    }
                    end = end.max(*last);
                }
            }
            let newest = promised.max(end);
            let (moment, lost) = match wanted {
                Wanted::Now(_) => (end, all.missing(end + 1, newest)),
                Wanted::Base => (end, 0),
                Wanted::Then(moment) => (moment.sequence, 0),
            };
            // A later run need not have what only moments before its window saw.
            let before = usable.len();
            usable.retain(|at| {
                let window = known.runs[*at].1;
                window <= moment || (window <= known.window && is_named)
            });
            if usable.len() == before {
                break (moment, lost, newest);
            }
        };
        let (is_kept, earliest) = (moment >= known.window || is_named, known.window);
        if !is_kept && matches!(wanted, Wanted::Then(_)) {
            return Err(refusal(checker.device, Reason::Expired { moment, earliest }));
        }
        if moment > newest {
            return Err(refusal(checker.device, Reason::UnknownMoment { moment, last: newest }));
        }
        let image = Image::new(wanted, &known, &area.shape, moment);
        let image = image.map_err(|reason| refusal(checker.device, reason))?;
        let (headers, tail_end) = (told.batches.highest_to(u64::MAX), told.tail_end);
        let mut reliable = told.batches;
        let of_volume = image.of_volume.unwrap_or(0);
        returns.discarded_before(of_volume).for_each(|(first, last)| reliable.insert(first, last));
        let is_whole = |at: &&usize| lost[**at].is_empty();
        let whole = usable.iter().filter(is_whole).map(|at| covers(*at));
        whole.for_each(|(first, last)| reliable.insert(first, last));
        let mut all = reliable.clone();
        if is_kept {
            all.insert(1, known.base);
        }
        usable.iter().map(|at| covers(*at)).for_each(|(first, last)| all.insert(first, last));
        let mut behind = reliable.clone();
        behind.insert(1, known.base);
        let reached = behind.last_from(1).unwrap_or(0);
        let floor = match image.needs_index {
            false => all.highest_missing(1, moment),
            true if known.is_complete && known.is_sure => behind.highest_missing(1, moment),
            true => u64::MAX,
        };
        let holes = lost.iter().enumerate().flat_map(|(at, ranges)| {
            let (first, last) = covers(at);
            let hole = match image.needs_index {
                true => known.base + 1,
                false => reliable.highest_missing(first, last.min(moment)),
            };
            ranges.iter().flat_map(|range| image.blocks(range)).map(move |blocks| (blocks, hole))
        });
        let holes = apart(holes.filter(|(_, hole)| *hole > floor).collect());
        let not_indexed = apart(lost.iter().flatten().map(|range| (range.clone(), 0)).collect());
        let not_indexed = not_indexed.into_iter().map(|(range, _)| range).collect();
        let is_base_certain = match wanted {
            Wanted::Base => known.is_sure || !area.shape.goes_back,
            // The next overwrite of a block may be among what is missing.
            _ if area.shape.saves => {
                let is_read = known.tail_ends(tail_end).all(|at| checker.unreadable.end_at(at).is_none());
                is_read && headers.max(promised) <= reached
            }
            // What is written in place has no sequence: it is not known to be older than what is missing.
            Wanted::Now(0) => lost_sequences == 0,
            _ => true,
        };
        let floor = if wanted == Wanted::Base { 0 } else { floor };
        let says_all = |at: usize| {
            let (run, (first, last)) = (known.runs[at].0.run.run.get(), covers(at));
            SaysAll { run, first, last, lost: lost[at].clone() }
        };
        let says_all = usable.iter().map(|at| says_all(*at)).collect();
        let volume_blocks = match area.is_guessed {
            true => told.end_block,
            false => known.names.blocks_of(&area.shape, wanted.branch()),
        };
        Ok(Self {
            area,
            openings,
            known,
            returns,
            volume_blocks,
            moment,
            newest,
            lost: lost_sequences,
            is_scanned,
            image,
            reached,
            is_base_certain,
            not_indexed,
            floor,
            holes,
            says_all,
        })
    }

    /// The highest sequence of which nothing tells that may have changed a block, and up to where that is so.
    pub fn hole(&self, lba: u64) -> (u64, u64) {
        let at = self.holes.partition_point(|(blocks, _)| blocks.end <= lba);
        match self.holes.get(at) {
            Some((blocks, hole)) if blocks.start <= lba => (*hole, blocks.end),
            Some((blocks, _)) => (self.floor, blocks.start),
            None => (self.floor, u64::MAX),
        }
    }

    /// Whether a run newer than this one would have this version if the moment saw it. Merging drops zeroes that
    /// nothing older lies under, and what they superseded must not live again.
    fn is_replaced(&self, lba: u64, sequence: u64, run: Option<u64>) -> bool {
        let mut newer = self.says_all.iter().filter(|one| run.is_none_or(|run| one.run > run));
        newer.any(|one| one.tells_of(lba, sequence))
    }

    /// Every version that the image sees.
    pub async fn fill(&self, checker: &mut Checker<'_>, canvas: &mut Canvas) -> Result<()> {
        if self.image.levels.is_empty() {
            return Ok(());
        }
        let shape = &self.area.shape;
        for (run, _) in &self.known.runs {
            index::visit(checker, shape, run, &mut |_, entries| {
                for entry in entries.into_iter().flatten() {
                    let (address, sequence) = (entry.lba.get(), entry.sequence.get());
                    if !self.image.sees(&self.returns, branch_of(address), sequence)
                        || self.is_replaced(address, sequence, Some(run.run.run.get()))
                    {
                        continue;
                    }
                    let place = match entry.virtual_segment.get() {
                        ZERO => Place::Zero,
                        BASE => Place::Base,
                        number => Place::Slot(number, entry.slot.get()),
                    };
                    let may_be_overwritten = shape.is_unverified(entry.virtual_segment.get());
                    let has_checksum = place != Place::Base && !may_be_overwritten;
                    let checksum = has_checksum.then_some(entry.checksum.get());
                    canvas.put(lba_of(address), Version { sequence, checksum, place });
                }
            })
            .await?;
        }
        self.area
            .visit(checker, &mut |batch, address| {
                if !self.openings.counts(&batch.header) {
                    return;
                }
                let mut payload = 0;
                for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
                    let first = payload;
                    payload += payload_blocks(entry);
                    self.put(canvas, batch, address, (sequence, entry, first));
                }
            })
            .await
    }

    /// What an entry of a batch at an address says; its blocks begin with this one of the payload.
    fn put(
        &self,
        canvas: &mut Canvas,
        batch: &Batch,
        address: u64,
        (sequence, entry, payload): (u64, &BatchEntry, usize),
    ) {
        let (lba, blocks) = (entry.lba.get(), u64::from(entry.blocks.get()));
        let block_bytes = u64::from(self.area.shape.block_bytes);
        let of_payload = |at: usize| {
            let from = address + u64::from(batch.header.header_bytes.get());
            (Some(batch.checksums[at]), Place::At(from + at as u64 * block_bytes))
        };
        let in_place = |at: u64| {
            let place = entry.place(self.area.shape.segment_blocks);
            place.map(|(number, slot)| Place::Slot(number, slot + at as u32))
        };
        let is_seen = self.image.sees(&self.returns, entry.branch.get(), sequence);
        let is_saved = entry.branch == 0 && self.image.of_volume.is_some_and(|moment| sequence > moment);
        let ranges = self.not_told_by_index(entry.address(), blocks, sequence);
        match entry.kind.get() {
            KIND_ZERO | KIND_DISCARD if is_seen => {
                ranges.for_each(|blocks| canvas.put_zeroes(blocks, sequence));
            }
            KIND_DATA if is_seen => {
                for lba_at in ranges.flatten() {
                    let (checksum, place) = of_payload(payload + (lba_at - lba) as usize);
                    let number = address_of(entry.branch.get(), lba_at);
                    if !self.is_replaced(number, sequence, None) {
                        canvas.put(lba_at, Version { sequence, checksum, place });
                    }
                }
            }
            KIND_PLACED if is_seen => {
                for lba_at in ranges.flatten() {
                    if let Some(place) = in_place(lba_at - lba) {
                        canvas.put(lba_at, Version { sequence, checksum: None, place });
                    }
                }
            }
            KIND_SAVED if is_saved => {
                for lba_at in ranges.flatten() {
                    let (checksum, place) = of_payload(payload + (lba_at - lba) as usize);
                    canvas.put_saved(lba_at, Version { sequence, checksum, place });
                }
            }
            KIND_SAVED_IN_PLACE if is_saved => {
                for lba_at in ranges.flatten() {
                    if let Some(place) = in_place(0) {
                        let checksum = Some(entry.checksum_in_place());
                        canvas.put_saved(lba_at, Version { sequence, checksum, place });
                    }
                }
            }
            _ => {}
        }
    }

    /// The blocks of a range, given by its number in the index, of which a batch has anything to say: what the index
    /// covers and a batch alone would know is out of date where blocks are overwritten in their places.
    fn not_told_by_index(
        &self,
        address: u64,
        blocks: u64,
        sequence: u64,
    ) -> impl Iterator<Item = Range<u64>> {
        let is_told = self.image.needs_index && self.known.is_complete && sequence <= self.known.base;
        let all = (!is_told).then_some(address..address + blocks);
        let first = self.not_indexed.partition_point(|range| range.end <= address);
        let lost = self.not_indexed[first..].iter().filter(move |_| is_told);
        let lost = lost.take_while(move |range| range.start < address + blocks);
        let lost = lost.map(move |range| range.start.max(address)..range.end.min(address + blocks));
        all.into_iter().chain(lost).map(|range| {
            let first = lba_of(range.start);
            first..first + (range.end - range.start)
        })
    }

    /// What is taken of what is known of a block, and whether that is certain. `hole`: as [`Plan::hole`] says.
    pub fn chosen(&self, held: Held, hole: u64) -> (Held, bool) {
        let is_newest = held.newest.sequence >= hole;
        match held.saved.filter(|_| held.newest.place == Place::Base) {
            Some(saved) => (Held::of(saved), is_newest && saved.sequence <= self.reached),
            None if held.newest.place == Place::Base => (held, is_newest && self.is_base_certain),
            None => (held, is_newest),
        }
    }

    /// Whether the base has what no version is known of.
    pub fn is_over_base(&self) -> bool {
        self.image.over_base
    }

    /// Whether what a version was before it came to the base lies elsewhere too.
    pub fn moves_to_base(&self) -> bool {
        self.area.shape.overlays
    }

    /// Where on the device a version of a block may lie.
    pub fn addresses(&self, lba: u64, place: Place, to: &mut Vec<u64>) {
        let shape = &self.area.shape;
        let mut add = |address| {
            if !to.contains(&address) {
                to.push(address);
            }
        };
        match place {
            Place::Zero => return,
            Place::Base => return add(shape.in_base(lba)),
            Place::At(address) => add(address),
            Place::Slot(number, slot) => {
                self.known
                    .places(shape, number, slot)
                    .for_each(|(physical, block)| add(shape.address(physical, block)));
            }
        }
        if shape.linear {
            let (number, slot) = shape.home(lba);
            self.known
                .places(shape, number, slot)
                .for_each(|(physical, block)| add(shape.address(physical, block)));
        }
    }
}

/// Blocks that a run may have entries of which cannot be had.
async fn lost_blocks(
    checker: &mut Checker<'_>,
    shape: &Shape,
    known: &Known,
    at: usize,
) -> Result<Vec<Range<u64>>> {
    let run = &known.runs[at].0;
    let mut lost: Vec<Range<u64>> = Vec::new();
    let (mut last, mut pending) = (0, false);
    let mut bad = Vec::new();
    index::visit(checker, shape, run, &mut |address, entries| {
        let first = entries.and_then(|entries| entries.first()).map(|entry| entry.lba.get());
        let end = entries.and_then(|entries| entries.last()).map(|entry| entry.lba.get());
        let (Some(first), Some(end)) = (first.filter(|first| *first >= last), end) else {
            bad.push(address);
            pending = true;
            return;
        };
        if std::mem::take(&mut pending) {
            // Versions of one block may lie on both sides of it.
            let blocks = last..first.saturating_add(1);
            let is_full = lost.len() >= LOST_MAX;
            match lost.last_mut() {
                Some(before) if before.end >= blocks.start || is_full => before.end = blocks.end,
                _ => lost.push(blocks),
            }
        }
        last = end.max(last);
    })
    .await?;
    if pending {
        lost.push(last..u64::MAX);
    }
    for address in bad {
        let text = format!("it is not the page of run {} that belongs there", run.run.run);
        checker.found(Code::IndexPage, crate::check::Place::at(address), text);
    }
    Ok(lost)
}

/// Ranges with the highest number of those that cover them, apart and in order.
fn apart(ranges: Vec<(Range<u64>, u64)>) -> Vec<(Range<u64>, u64)> {
    let mut turns: Vec<(u64, bool, u64)> = Vec::new();
    for (blocks, hole) in ranges {
        turns.push((blocks.start, true, hole));
        turns.push((blocks.end, false, hole));
    }
    turns.sort_unstable();
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut result, mut at) = (Vec::new(), 0);
    for (turn, begins, hole) in turns {
        if let Some((highest, _)) = open.last_key_value()
            && at < turn
        {
            result.push((at..turn, *highest));
        }
        at = turn;
        let count = open.entry(hole).or_default();
        match begins {
            true => *count += 1,
            false => *count -= 1,
        }
        if *count == 0 {
            open.remove(&hole);
        }
    }
    result
}

/// What the batches of the pool tell together.
struct Told {
    batches: Sequences,
    /// Everything up to here was durable when a later batch was written.
    promised: u64,
    /// Batches behind that, by their first sequence: address and last sequence.
    beyond: BTreeMap<u64, (u64, u64)>,
    rollbacks: BTreeMap<u64, Rollback>,
    /// Behind the last block that was ever changed.
    end_block: u64,
    /// Where the batch with the highest sequences ends, if there is one.
    tail_end: Option<u64>,
}

impl Told {
    async fn find(checker: &mut Checker<'_>, area: &Area, openings: &Openings) -> Result<Self> {
        let mut told = Self {
            batches: Sequences::default(),
            promised: 0,
            beyond: BTreeMap::new(),
            rollbacks: BTreeMap::new(),
            end_block: 0,
            tail_end: None,
        };
        area.visit(checker, &mut |batch, address| {
            if openings.counts(&batch.header) {
                told.take(batch, address);
            }
        })
        .await?;
        Ok(told)
    }

    fn take(&mut self, batch: &Batch, address: u64) {
        let first = batch.header.first_sequence.get();
        let last = first + batch.entries.len() as u64 - 1;
        if self.batches.highest_to(u64::MAX) <= last {
            self.tail_end = Some(address + batch.header.total_bytes());
        }
        self.batches.insert(first, last);
        self.promised = self.promised.max(batch.header.durable_through.get());
        if last > self.promised {
            self.beyond.insert(first, (address, last));
        }
        while let Some(one) = self.beyond.first_entry()
            && (one.get().1 <= self.promised)
        {
            one.remove();
        }
        while self.beyond.len() > BEYOND_MAX {
            self.beyond.pop_last();
        }
        for (sequence, entry) in (first..).zip(&batch.entries).filter(|(_, entry)| entry.branch == 0) {
            self.end_block = self.end_block.max(entry.lba.get() + u64::from(entry.blocks.get()));
            if entry.kind.get() == KIND_ROLLBACK && self.rollbacks.len() < ROLLBACKS_MAX {
                let rollback = Rollback { at: sequence.into(), to: entry.tag, settled: 0.into() };
                self.rollbacks.insert(sequence, rollback);
            }
        }
    }
}
