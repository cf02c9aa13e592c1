//! Applying the log to a linear volume, oldest change first.
//!
//! A block that has been applied lies *home*: in the extent of the volume that its address says, not in the log.
//! A step reads some batches behind the cursor, takes space for extents that have none, writes the blocks home,
//! flushes, and then lets the index find them there. The cursor becomes durable with the next checkpoint,
//! together with the index that says so, and only with it is the log's space free.
//!
//! Invariants: what is applied is durable in the log; a block at home that a moment can still see is overwritten
//! only after the window that gives this moment up is durable, and never under an open image; applying again what
//! was applied before a crash gives the same volume.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::{Core, LogStore};
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{Batch, KIND_DATA, KIND_DISCARD, KIND_ZERO};
use crate::format::journal::{Applied, Change};
use crate::pool::contents::Reading;
use crate::pool::index::Pinned;
use crate::pool::index::current::Version;
use crate::pool::log::append::Log;
use crate::pool::log::window::Window;
use crate::pool::metadata::{ALL_ACCEPTED, HOME_FIRST, SegmentRow};
use crate::runtime::{Signal, join_all};
use crate::units::{ByteOffset, Seq};

/// Payload of a step: what is in memory at a time.
const STEP_BYTES: usize = 4 << 20;
/// The largest write to the volume.
const WRITE_BYTES: usize = 1 << 20;
/// Writes to the volume in flight.
const WRITES: usize = 8;
/// How long applying waits before it tries again what could not be done.
const STALL_NS: u64 = 50_000_000;

/// Why damage keeps entries from being applied.
const DAMAGED: &str =
    "its log is damaged behind what has been applied; restore it from a replica or a backup";

/// Why entries cannot be applied for want of space.
const NO_SEGMENT: &str = "the pool has no free segment for the volume; grow it";

/// Which entries are written to the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyMode {
    /// Of the entries of a block that are applied together, the newest alone.
    #[default]
    Absorb,
    /// Each one, in order.
    Strict,
}

/// How a log is applied to its linear volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Which entries are written.
    pub mode: ApplyMode,
    /// In the background; otherwise only when asked to.
    pub automatic: bool,
    /// Once before the volume is served, all of it.
    pub at_open: bool,
    /// When the log is full and nothing can be applied: writes are refused, rather than wait.
    pub refuse_when_full: bool,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { mode: ApplyMode::Absorb, automatic: true, at_open: false, refuse_when_full: true }
    }
}

/// How far applying is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyStatus {
    /// The last sequence that the linear volume holds.
    pub applied: u64,
    /// The last one that may be applied, where the base is pinned.
    pub accepted: Option<u64>,
    /// Extents of the volume that have space in the pool, of a segment's size each.
    pub extents: u32,
    /// Why it stands still, if it does.
    pub stalled: Option<&'static str>,
}

/// The linear volume behind a log.
#[derive(Debug)]
pub(super) struct Linear {
    options: ApplyOptions,
    /// Extents that the volume has, taken or not; none of them is promised in a thin volume.
    promised: u32,
    cursor: Cell<Applied>,
    /// What somebody has asked for.
    wanted: Cell<u64>,
    stalled: Cell<Option<&'static str>>,
    changed: Signal,
    /// The window that is known to be durable.
    told: Cell<u64>,
    /// A step is under way.
    applying: Cell<bool>,
    /// Extents that it writes to.
    busy: RefCell<BTreeSet<u32>>,
    /// Extents that have been discarded.
    emptied: RefCell<BTreeSet<u32>>,
    thin: bool,
}

/// Blocks with their new content.
struct Write {
    lba: u64,
    sequence: u64,
    bytes: Vec<u8>,
}

/// One thing to do at home, in the order of the log.
enum Action {
    Write(Write),
    Zero { lba: u64, blocks: u64, sequence: u64, discard: bool },
}

/// What a step is going to do.
#[derive(Default)]
struct Step {
    actions: Vec<Action>,
    bytes: usize,
    /// The pages of what is written stay in memory.
    pinned: Vec<Pinned>,
}

/// Whether there is room at home for a step.
enum Room {
    Taken,
    /// Not for the entry of this sequence, nor what follows it; and why.
    Missing {
        from: u64,
        why: &'static str,
    },
}

impl Linear {
    pub fn new(options: ApplyOptions, extents: u32, thin: bool, cursor: Applied) -> Self {
        Self {
            options,
            promised: if thin { 0 } else { extents },
            cursor: Cell::new(cursor),
            wanted: Cell::new(0),
            stalled: Cell::new(None),
            changed: Signal::default(),
            told: Cell::new(0),
            applying: Cell::new(false),
            busy: RefCell::default(),
            emptied: RefCell::default(),
            thin,
        }
    }

    /// Where it stands: what a checkpoint that begins now makes durable.
    pub fn cursor(&self) -> Applied {
        self.cursor.get()
    }

    /// Segments that the log leaves to extents which have none yet.
    pub fn reserved(&self, extents: usize) -> usize {
        (self.promised as usize).saturating_sub(extents)
    }

    /// Extents that hold nothing any more and that nobody writes to.
    pub fn take_emptied(&self) -> Vec<u32> {
        let busy = self.busy.borrow();
        let (kept, free) = self.emptied.borrow().iter().partition(|number| busy.contains(number));
        *self.emptied.borrow_mut() = kept;
        let free: BTreeSet<u32> = free;
        free.into_iter().collect()
    }

    pub fn applies_at_open(&self) -> bool {
        self.options.at_open
    }
}

impl LogStore {
    fn linear(&self) -> Result<(&Linear, &Log)> {
        let name = self.backend().name();
        let refused = || Error::new("apply", Reason::NotLinear { backend: name }).on(self.core.device.name());
        Ok((self.core.linear.as_ref().ok_or_else(refused)?, self.core.log()?))
    }

    /// Applies everything up to a sequence, or all there is, and makes that durable. How far it is then.
    pub async fn apply(&self, through: Option<Seq>) -> Result<Seq> {
        let (linear, log) = self.linear()?;
        let name = self.core.device.name();
        // Only what is durable is applied.
        let last = log.sequence();
        log.flush().await?;
        let through = through.map_or(last, |through| through.0);
        if through > last {
            let reason = Reason::UnknownMoment { moment: through, last };
            return Err(Error::new("apply", reason).on(name));
        }
        let accepted = self.core.contents.journal().state().accepted;
        if through > accepted {
            return Err(Error::new("apply", Reason::Pinned { accepted }).on(name));
        }
        linear.wanted.set(linear.wanted.get().max(through));
        linear.stalled.set(None);
        log.progress.give();
        while linear.cursor.get().sequence.get() < through {
            if self.core.failed.is_raised() {
                return Err(Error::new("apply", Reason::Poisoned).on(name));
            }
            if let Some(why) = linear.stalled.get() {
                linear.wanted.set(0);
                if why == DAMAGED {
                    let good_through = linear.cursor.get().sequence.get();
                    return Err(Error::new("apply", Reason::LogDamaged { good_through }).on(name));
                }
                return Err(Error::new("apply", Reason::ApplyStalled { why }).on(name));
            }
            linear.changed.wait().await;
        }
        self.core.checkpoint().await?;
        if !self.core.is_short() {
            log.set_full(None);
        }
        Ok(Seq(linear.cursor.get().sequence.get()))
    }

    /// Leaves the base as it is from now on, until more is accepted.
    pub async fn pin_base(&self) -> Result<Seq> {
        let (linear, _) = self.linear()?;
        // What is under way ends in the base; nothing begins after this.
        let journal = self.core.contents.journal();
        journal.commit(|_| vec![Change::Accepted(linear.cursor.get().sequence.get())]).await?;
        while linear.applying.get() {
            linear.changed.wait().await;
        }
        let applied = linear.cursor.get().sequence.get();
        journal.commit(|_| vec![Change::Accepted(applied)]).await?;
        self.core.checkpoint().await?;
        Ok(Seq(applied))
    }

    /// Lets the base take changes up to this sequence; all, if none is given.
    pub async fn accept(&self, through: Option<Seq>) -> Result<()> {
        let (_, log) = self.linear()?;
        let last = log.sequence();
        if let Some(moment) = through.map(|through| through.0).filter(|moment| *moment > last) {
            let reason = Reason::UnknownMoment { moment, last };
            return Err(Error::new("accept", reason).on(self.core.device.name()));
        }
        let journal = self.core.contents.journal();
        let before = journal.state().accepted;
        // What has been accepted may be in the base already.
        let accepted = match through {
            None => ALL_ACCEPTED,
            Some(through) if before == ALL_ACCEPTED => through.0,
            Some(through) => through.0.max(before),
        };
        journal.commit(|_| vec![Change::Accepted(accepted)]).await?;
        log.progress.give();
        Ok(())
    }

    /// How far applying is, where there is a linear volume.
    pub fn apply_status(&self) -> Option<ApplyStatus> {
        let linear = self.core.linear.as_ref()?;
        let state = self.core.contents.journal().state();
        Some(ApplyStatus {
            applied: linear.cursor.get().sequence.get(),
            accepted: Some(state.accepted).filter(|accepted| *accepted != ALL_ACCEPTED),
            extents: state.home_rows().count() as u32,
            stalled: linear.stalled.get(),
        })
    }
}

impl Core {
    /// Applies in the background, and tells the log when it is full for good.
    pub(super) async fn keep_applied(&self) {
        let (Some(linear), Some(log)) = (&self.linear, &self.log) else { return };
        while !self.failed.is_raised() {
            let target = self.apply_target(linear, log);
            let behind = linear.cursor.get().sequence.get() < target;
            let mut stalled = None;
            if behind {
                linear.applying.set(true);
                let applied = self.apply_some(linear, log, target).await;
                linear.busy.borrow_mut().clear();
                linear.applying.set(false);
                match applied {
                    Ok(why) => stalled = why,
                    // What the index took in can be read or not, block by block; it goes no further home.
                    Err(error) if matches!(error.reason(), Reason::LogDamaged { .. }) => {
                        stalled = Some(DAMAGED)
                    }
                    Err(error) => {
                        if !self.step(async { Err(error) }).await {
                            break;
                        }
                    }
                }
            }
            linear.stalled.set(stalled);
            linear.changed.give();
            if behind && stalled.is_none() {
                continue;
            }
            let short = self.is_short();
            if short && self.has_news(linear, log) {
                // Frees what has been applied, and makes durable what is to be applied.
                if !self.step(self.checkpoint()).await {
                    break;
                }
                continue;
            }
            let full = short && linear.options.refuse_when_full && self.contents.past_bytes() == 0;
            log.set_full(
                full.then(|| stalled.unwrap_or("the base is pinned, or applying waits to be asked")),
            );
            if stalled.is_some() {
                self.device.context().sleep(STALL_NS).await;
            } else {
                log.progress.wait().await;
            }
        }
        linear.changed.give();
    }

    /// Whether a checkpoint would say anything new.
    fn has_news(&self, linear: &Linear, log: &Log) -> bool {
        let state = self.contents.journal().state();
        state.checkpoint.sequence.get() < log.sequence() || state.applied != linear.cursor.get()
    }

    /// How far to apply now: what was asked for, or what no moment that is kept lies before.
    fn apply_target(&self, linear: &Linear, log: &Log) -> u64 {
        let state = self.contents.journal().state();
        let durable = log.durable_through().max(state.checkpoint.sequence.get());
        let automatic = match linear.options.automatic {
            false => 0,
            true if self.is_short() => durable,
            true if self.contents.keeps_past() => self.contents.window(),
            true => state.checkpoint.sequence.get(),
        };
        automatic.max(linear.wanted.get()).min(durable).min(state.accepted)
    }

    /// One step. Why it was not done, if it was not.
    async fn apply_some(&self, linear: &Linear, log: &Log, mut target: u64) -> Result<Option<&'static str>> {
        let applied = linear.cursor.get().sequence.get();
        let (step, cursor) = loop {
            let gathered = self.gather(linear, target).await?;
            match self.make_room(linear, &gathered.0).await? {
                Room::Taken => break gathered,
                // What comes before it is applied all the same.
                Room::Missing { from, .. } if from > applied + 1 => target = from - 1,
                Room::Missing { why, .. } => return Ok(Some(why)),
            }
        };
        match linear.options.mode {
            ApplyMode::Strict => {
                for action in &step.actions {
                    self.perform(action).await?;
                }
            }
            ApplyMode::Absorb => self.perform_sorted(&step.actions).await?,
        }
        let io = Io { failed: Some(self.failed.clone()), ..Io::of(Cause::Apply) };
        self.home_device().flush(io).await?;
        if self.failed.is_raised() {
            return Err(Error::new("apply", Reason::Poisoned).on(self.device.name()));
        }
        // From here to the end nothing else runs: a checkpoint sees all of it or nothing.
        linear.cursor.set(cursor);
        for action in &step.actions {
            match action {
                Action::Write(write) => self.bring_home(write),
                Action::Zero { lba, blocks, discard, .. } => {
                    if *discard && linear.thin {
                        self.note_emptied(linear, *lba, *blocks);
                    }
                }
            }
        }
        log.progress.give();
        Ok(None)
    }

    /// Reads what is to be done next, and where applying goes on afterwards.
    async fn gather(&self, linear: &Linear, target: u64) -> Result<(Step, Applied)> {
        let mut window = Window::new(&self.device, self.geometry);
        let mut cursor = linear.cursor.get();
        let mut step = Step::default();
        while step.bytes < STEP_BYTES && cursor.sequence.get() < target {
            let Some((number, physical, block, batch)) = self.next_batch(&mut window, &cursor).await? else {
                let reason = Reason::LogDamaged { good_through: cursor.sequence.get() };
                return Err(Error::new("apply", reason).on(self.device.name()));
            };
            let payload = window.payload(physical, block, &batch).await?;
            let end = self.gather_batch(&mut step, &batch, payload, cursor.sequence.get(), target, linear);
            let end = end.await?;
            let next = batch.header.first_sequence.get() + batch.entries.len() as u64;
            cursor.sequence = end.into();
            cursor.virtual_segment = number.into();
            cursor.block = block.into();
            if end + 1 == next {
                let blocks = (batch.header.total_bytes() / u64::from(self.geometry.block_bytes)) as u32;
                cursor.batch = (cursor.batch.get() + 1).into();
                cursor.first_sequence = next.into();
                cursor.block = (block + blocks).into();
                cursor.previous = batch.header.checksum;
            }
        }
        Ok((step, cursor))
    }

    /// The batch at the cursor: its virtual segment, segment and block.
    async fn next_batch(
        &self,
        window: &mut Window<'_>,
        cursor: &Applied,
    ) -> Result<Option<(u32, u32, u32, Box<Batch>)>> {
        let here = cursor.virtual_segment.get();
        let places: Vec<(u32, u32, u32)> = {
            let state = self.contents.journal().state();
            let mut rows = state.rows.range(here..HOME_FIRST).map(|(number, row)| (*number, row.physical));
            let first = rows.next().filter(|(number, _)| *number == here);
            let rest = if first.is_some() { rows.next() } else { None };
            let first = first.map(|(number, physical)| (number, physical, cursor.block.get()));
            first.into_iter().chain(rest.map(|(number, physical)| (number, physical, 0))).collect()
        };
        for (number, physical, block) in places {
            if let Some(batch) = window.batch(physical, block).await?
                && batch.header.batch == cursor.batch
                && batch.header.first_sequence == cursor.first_sequence
                && batch.header.previous == cursor.previous
            {
                return Ok(Some((number, physical, block, batch)));
            }
        }
        Ok(None)
    }

    /// Takes in the entries of a batch behind `after` and up to `target`. The last one's sequence.
    async fn gather_batch(
        &self,
        step: &mut Step,
        batch: &Batch,
        payload: Vec<u8>,
        after: u64,
        target: u64,
        linear: &Linear,
    ) -> Result<u64> {
        let block_bytes = self.geometry.block_bytes as usize;
        let mut end = after;
        for (sequence, entry) in (batch.header.first_sequence.get()..).zip(&batch.entries) {
            if sequence <= after {
                continue;
            }
            if sequence > target {
                break;
            }
            end = sequence;
            let (lba, blocks) = (entry.lba.get(), u64::from(entry.blocks.get()));
            match entry.kind.get() {
                KIND_DATA => {
                    let start = entry.payload.get() as usize * block_bytes;
                    let Some(bytes) = payload.get(start..start + blocks as usize * block_bytes) else {
                        continue;
                    };
                    step.pinned.push(self.contents.index().pin(lba, blocks).await?);
                    // What a later entry up to the target supersedes is not needed where entries are absorbed.
                    let absorbed = |at: u64| {
                        linear.options.mode == ApplyMode::Absorb
                            && self
                                .contents
                                .index()
                                .current_now(at)
                                .is_some_and(|now| now.birth > sequence && now.birth <= target)
                    };
                    for (at, bytes) in (lba..).zip(bytes.chunks_exact(block_bytes)) {
                        if absorbed(at) {
                            continue;
                        }
                        step.bytes += block_bytes;
                        match step.actions.last_mut() {
                            Some(Action::Write(write))
                                if write.sequence == sequence
                                    && write.lba + (write.bytes.len() / block_bytes) as u64 == at =>
                            {
                                write.bytes.extend_from_slice(bytes);
                            }
                            _ => step.actions.push(Action::Write(Write {
                                lba: at,
                                sequence,
                                bytes: bytes.to_vec(),
                            })),
                        }
                    }
                }
                kind @ (KIND_ZERO | KIND_DISCARD) => {
                    let discard = kind == KIND_DISCARD;
                    step.actions.push(Action::Zero { lba, blocks, sequence, discard });
                }
                _ => {}
            }
        }
        Ok(end)
    }

    /// Where a version lies now that was once found in the log: it may have been brought home since.
    pub(super) fn now_at(&self, lba: u64, version: Version) -> Version {
        if self.linear.is_none() || version.is_zero() || version.virtual_segment >= HOME_FIRST {
            return version;
        }
        let state = self.contents.journal().state();
        let lives = |number, slot| state.rows.get(&number).is_some_and(|row| row.is_live(slot));
        let (number, slot) = self.home(lba);
        if !lives(version.virtual_segment, version.slot) && lives(number, slot) {
            return Version { virtual_segment: number, slot, ..version };
        }
        version
    }

    /// The extent of a block and its place in it.
    fn home(&self, lba: u64) -> (u32, u32) {
        let blocks = u64::from(self.geometry.segment_blocks);
        (HOME_FIRST + (lba / blocks) as u32, (lba % blocks) as u32)
    }

    /// The extents of a range, each with its first slot and slots.
    fn extents(&self, lba: u64, blocks: u64) -> impl Iterator<Item = (u32, u32, u32)> + use<> {
        let segment = u64::from(self.geometry.segment_blocks);
        (lba / segment..(lba + blocks).div_ceil(segment)).map(move |extent| {
            let (start, end) = (lba.max(extent * segment), (lba + blocks).min((extent + 1) * segment));
            (HOME_FIRST + extent as u32, (start - extent * segment) as u32, (end - start) as u32)
        })
    }

    /// Takes space for the extents of a step, and gives up the moments that see what it overwrites; both are
    /// durable afterwards.
    async fn make_room(&self, linear: &Linear, step: &Step) -> Result<Room> {
        let applied = linear.cursor.get().sequence.get();
        let free = self.free_for_home(&self.contents.journal().state()).len();
        let mut missing = BTreeSet::new();
        // What is overwritten and a moment may see.
        let mut overwritten: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        {
            let state = self.contents.journal().state();
            let mut busy = linear.busy.borrow_mut();
            for action in &step.actions {
                let (lba, blocks, sequence, writes) = match action {
                    Action::Write(write) => {
                        let blocks = write.bytes.len() as u64 / u64::from(self.geometry.block_bytes);
                        (write.lba, blocks, write.sequence, true)
                    }
                    Action::Zero { lba, blocks, sequence, .. } => (*lba, *blocks, *sequence, false),
                };
                for (number, first, slots) in self.extents(lba, blocks) {
                    match state.rows.get(&number) {
                        Some(row) => {
                            let live = (first..first + slots).filter(|slot| row.is_live(*slot));
                            overwritten.extend(live.map(|slot| ((number, slot), sequence)));
                        }
                        None if writes => {
                            missing.insert(number);
                            if missing.len() > free {
                                return Ok(Room::Missing { from: sequence, why: NO_SEGMENT });
                            }
                        }
                        None => continue,
                    }
                    busy.insert(number);
                }
            }
        }
        let given_up = self.contents.last_death(overwritten);
        if self.contents.is_pinned_before(given_up) {
            let why = "an image of an older moment is open; close it";
            return Ok(Room::Missing { from: applied, why });
        }
        self.contents.retire(given_up);
        let tell_window = self.contents.keeps_past() && linear.told.get() < given_up;
        if missing.is_empty() && !tell_window {
            return Ok(Room::Taken);
        }
        let mut held: Vec<Reading<'_>> = Vec::new();
        let mut short = false;
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = self.news_of_rows(state, 0);
                let free = self.free_for_home(state);
                short = free.len() < missing.len();
                if short {
                    return changes;
                }
                for (number, physical) in missing.iter().zip(free) {
                    held.push(self.contents.reading(physical));
                    changes.push(SegmentRow::of_log(physical, state.segment_blocks(), 0).change(*number));
                }
                changes
            })
            .await?;
        linear.told.set(linear.told.get().max(given_up));
        // Somebody else has taken what was free.
        Ok(if short { Room::Missing { from: applied, why: NO_SEGMENT } } else { Room::Taken })
    }

    /// Does one thing at home.
    async fn perform(&self, action: &Action) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        match action {
            Action::Write(write) => {
                let blocks = write.bytes.len() as u64 / block_bytes;
                let mut done = 0;
                for (number, first, slots) in self.extents(write.lba, blocks) {
                    let length = slots as usize * block_bytes as usize;
                    self.write_home(number, first, &write.bytes[done..done + length]).await?;
                    done += length;
                }
            }
            Action::Zero { lba, blocks, .. } => {
                for (number, first, slots) in self.extents(*lba, *blocks) {
                    if let Some((device, address)) = self.home_address(number, first) {
                        let (length, io) = (u64::from(slots) * block_bytes, Io::of(Cause::Apply));
                        device.write_zeroes(ByteOffset(address), length, io).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn home_address(&self, number: u32, slot: u32) -> Option<(&Device, u64)> {
        let state = self.contents.journal().state();
        let (physical, block) = state.rows.get(&number)?.place(slot, self.geometry.segment_blocks)?;
        Some(self.locate(physical, block))
    }

    async fn write_home(&self, number: u32, slot: u32, bytes: &[u8]) -> Result<()> {
        let Some((device, address)) = self.home_address(number, slot) else {
            unreachable!("space for the extent has been taken, and a busy extent stays")
        };
        let mut at = address;
        for piece in bytes.chunks(WRITE_BYTES) {
            let buf = device.context().buffers().copy_of(piece)?;
            device.write(ByteOffset(at), buf, Io::of(Cause::Apply)).await.0?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Does the newest thing for each block, by address, neighbours together.
    async fn perform_sorted(&self, actions: &[Action]) -> Result<()> {
        let block_bytes = self.geometry.block_bytes as usize;
        let mut newest: BTreeMap<u64, Option<&[u8]>> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Write(write) => {
                    let blocks = write.bytes.chunks_exact(block_bytes).map(Some);
                    newest.extend((write.lba..).zip(blocks));
                }
                Action::Zero { lba, blocks, .. } => {
                    // Blocks that have no place at home read as zero without one.
                    for (number, first, slots) in self.extents(*lba, *blocks) {
                        if self.home_address(number, first).is_some() {
                            let segment = u64::from(self.geometry.segment_blocks);
                            let start = u64::from(number - HOME_FIRST) * segment + u64::from(first);
                            newest.extend((start..start + u64::from(slots)).map(|at| (at, None)));
                        }
                    }
                }
            }
        }
        let mut writes: Vec<Action> = Vec::new();
        for (lba, bytes) in newest {
            let follows = self.home(lba).1 != 0;
            match (writes.last_mut(), bytes) {
                (Some(Action::Write(write)), Some(bytes))
                    if follows
                        && write.bytes.len() < WRITE_BYTES
                        && write.lba + (write.bytes.len() / block_bytes) as u64 == lba =>
                {
                    write.bytes.extend_from_slice(bytes);
                }
                (Some(Action::Zero { lba: first, blocks, .. }), None)
                    if follows && *first + *blocks == lba =>
                {
                    *blocks += 1;
                }
                (_, Some(bytes)) => {
                    writes.push(Action::Write(Write { lba, sequence: 0, bytes: bytes.to_vec() }));
                }
                (_, None) => writes.push(Action::Zero { lba, blocks: 1, sequence: 0, discard: false }),
            }
        }
        for some in writes.chunks(WRITES) {
            join_all(some.iter().map(|action| self.perform(action)))
                .await
                .into_iter()
                .collect::<Result<()>>()?;
        }
        Ok(())
    }

    /// From now on the blocks of a write are found at home, unless there is newer content already.
    fn bring_home(&self, write: &Write) {
        let blocks = write.bytes.len() as u64 / u64::from(self.geometry.block_bytes);
        for lba in write.lba..write.lba + blocks {
            let now = self.contents.index().current_now(lba);
            if let Some(now) =
                now.filter(|now| now.birth == write.sequence && now.virtual_segment < HOME_FIRST)
            {
                let (number, slot) = self.home(lba);
                self.contents.move_home(lba, now, number, slot);
            }
        }
    }

    fn note_emptied(&self, linear: &Linear, lba: u64, blocks: u64) {
        let state = self.contents.journal().state();
        let extents = self.extents(lba, blocks).map(|(number, ..)| number);
        let empty = extents.filter(|number| state.rows.get(number).is_some_and(|row| row.live_slots() == 0));
        linear.emptied.borrow_mut().extend(empty);
    }
}
