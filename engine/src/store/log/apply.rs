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
use std::collections::BTreeSet;
use std::rc::Rc;

use super::bringing::Bringing;
use super::{Core, LogStore};
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{Batch, KIND_DATA, KIND_DISCARD, KIND_ZERO};
use crate::format::journal::{Applied, Change};
use crate::pool::contents::Contents;
use crate::pool::index::Pinned;
use crate::pool::index::current::Version;
use crate::pool::log::append::Log;
use crate::pool::log::window::Window;
use crate::pool::metadata::{ALL_ACCEPTED, HOME_FIRST, Metadata};
use crate::runtime::{Context, Signal};
use crate::units::Seq;

/// Payload of a step: what is in memory at a time.
pub(super) const STEP_BYTES: usize = 4 << 20;
/// What a block that reads as zero counts in a step.
const ZERO_BYTES: usize = 64;
/// How long applying waits before it tries again what could not be done.
pub(super) const STALL_NS: u64 = 50_000_000;

/// Why damage keeps entries from being applied.
const DAMAGED: &str =
    "its log is damaged behind what has been applied; restore it from a replica or a backup";

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
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { mode: ApplyMode::Absorb, automatic: true, at_open: false }
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
    pub(super) told: Cell<u64>,
    /// A step is under way.
    applying: Cell<bool>,
    /// How many keep the next one from beginning.
    holds: Cell<u32>,
    /// The return to an earlier moment whose revived blocks have been brought home.
    pub(super) home_again: Cell<u64>,
    /// Extents that it writes to.
    pub(super) busy: RefCell<BTreeSet<u32>>,
    /// Extents that have been discarded.
    emptied: RefCell<BTreeSet<u32>>,
    /// Those of them that a commit under way gives up.
    pub(super) leaving: RefCell<BTreeSet<u32>>,
    thin: bool,
}

/// No step begins while this exists.
pub(super) struct Holding(Rc<Core>);

impl Holding {
    pub fn new(core: &Rc<Core>, linear: &Linear) -> Self {
        linear.holds.set(linear.holds.get() + 1);
        Self(Rc::clone(core))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let (Some(linear), Some(log)) = (&self.0.linear, &self.0.log) else { return };
        linear.holds.set(linear.holds.get() - 1);
        log.progress.give();
        linear.changed.give();
    }
}

/// Blocks with their new content.
pub(super) struct Write {
    pub lba: u64,
    pub sequence: u64,
    pub bytes: Vec<u8>,
}

/// One thing to do at home, in the order of the log.
pub(super) enum Action {
    Write(Write),
    Zero { lba: u64, blocks: u64, sequence: u64, discard: bool },
}

/// What a step is going to do.
#[derive(Default)]
pub(super) struct Step {
    pub actions: Vec<Action>,
    bytes: usize,
    /// The pages of what is written stay in memory.
    pinned: Vec<Pinned>,
    /// Extents that have no space yet, and segments there are for them: a step takes in no more, but for its first
    /// entry.
    missing: BTreeSet<u32>,
    free: usize,
    is_full: bool,
}

impl Step {
    /// One more write; its page of the index is pinned.
    pub fn add(&mut self, write: Write, pinned: Pinned) {
        self.bytes += write.bytes.len();
        self.actions.push(Action::Write(write));
        self.pinned.push(pinned);
    }

    /// Payload so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Linear {
    pub fn new(context: &Context, options: ApplyOptions, extents: u32, thin: bool, cursor: Applied) -> Self {
        Self {
            options,
            promised: if thin { 0 } else { extents },
            cursor: Cell::new(cursor),
            wanted: Cell::new(0),
            stalled: Cell::new(None),
            changed: Signal::new(context),
            told: Cell::new(0),
            applying: Cell::new(false),
            holds: Cell::new(0),
            home_again: Cell::new(0),
            busy: RefCell::default(),
            emptied: RefCell::default(),
            leaving: RefCell::default(),
            thin,
        }
    }

    /// Where it stands: what a checkpoint that begins now makes durable.
    pub fn cursor(&self) -> Applied {
        self.cursor.get()
    }

    /// Why it stands still, if it does.
    pub fn stalled(&self) -> Option<&'static str> {
        self.stalled.get()
    }

    /// Whoever asks why it stands still hears of what is tried from now on.
    pub fn try_again(&self) {
        self.stalled.set(None);
    }

    /// Waits until no step is under way.
    pub async fn rest(&self) {
        while self.applying.get() {
            self.changed.wait().await;
        }
    }

    /// Segments that the log leaves to extents which have none yet.
    pub fn reserved(&self, extents: usize) -> usize {
        (self.promised as usize).saturating_sub(extents)
    }

    /// Extents that hold nothing any more and that nobody writes to, for a commit to give up.
    pub fn take_emptied(&self, state: &Metadata, contents: &Contents) -> Vec<u32> {
        let busy = self.busy.borrow();
        let (kept, mut free): (BTreeSet<u32>, BTreeSet<u32>) =
            self.emptied.borrow().iter().partition(|number| busy.contains(number));
        *self.emptied.borrow_mut() = kept;
        free.retain(|number| contents.is_empty_at_home(state, *number));
        self.leaving.borrow_mut().clone_from(&free);
        free.into_iter().collect()
    }

    /// That commit has ended.
    pub fn emptied_are_gone(&self) {
        self.leaving.borrow_mut().clear();
    }
}

impl LogStore {
    fn linear(&self, operation: &'static str) -> Result<(&Linear, &Log)> {
        let name = self.backend().name();
        let refused =
            || Error::new(operation, Reason::NotLinear { backend: name }).on(self.core.device.name());
        Ok((self.core.linear.as_ref().ok_or_else(refused)?, self.core.log()?))
    }

    /// Applies everything up to a sequence, or all there is, and makes that durable. How far it is then.
    pub async fn apply(&self, through: Option<Seq>) -> Result<Seq> {
        if let Some(bringing) = self.core.bringing() {
            return self.bring(bringing, through).await;
        }
        let (linear, log) = self.linear("apply")?;
        let name = self.core.device.name();
        // Only what is durable is applied.
        let last = log.sequence();
        log.flush().await?;
        let through = through.map_or(last, |through| through.0);
        if through > last {
            let reason = Reason::UnknownMoment { moment: through, last };
            return Err(Error::new("apply", reason).on(name));
        }
        let check_accepted = || {
            let accepted = self.core.contents.journal().state().accepted;
            let refused = || Error::new("apply", Reason::Pinned { accepted }).on(name);
            if through > accepted { Err(refused()) } else { Ok(()) }
        };
        check_accepted()?;
        linear.wanted.set(linear.wanted.get().max(through));
        linear.try_again();
        log.progress.give();
        while linear.cursor.get().sequence.get() < through {
            if self.core.failed.is_raised() {
                return Err(Error::new("apply", Reason::Poisoned).on(name));
            }
            // Somebody may pin it meanwhile.
            check_accepted()?;
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

    /// Where that is wanted, applies before the volume is served what may be applied and can be.
    pub(super) async fn apply_at_open(&self) -> Result<()> {
        self.bring_at_open().await?;
        let Some(linear) = self.core.linear.as_ref().filter(|linear| linear.options.at_open) else {
            return Ok(());
        };
        let through = self.sequence().min(self.core.contents.journal().state().accepted);
        if through <= linear.cursor.get().sequence.get() {
            return Ok(());
        }
        match self.apply(Some(Seq(through))).await {
            // It can be read and written all the same, and says so.
            Err(error)
                if matches!(error.reason(), Reason::ApplyStalled { .. } | Reason::LogDamaged { .. }) =>
            {
                Ok(())
            }
            done => done.map(drop),
        }
    }

    /// Leaves the base as it is from now on, until more is accepted.
    pub async fn pin_base(&self) -> Result<Seq> {
        let (linear, _) = self.linear("pin")?;
        // What is under way ends in the base; nothing begins after this.
        let holding = Holding::new(&self.core, linear);
        linear.rest().await;
        let applied = linear.cursor.get().sequence.get();
        let core = Rc::clone(&self.core);
        let pinned = async move {
            let _holding = holding;
            core.contents.journal().commit(|_| vec![Change::Accepted(applied)]).await?;
            core.contents.set_floor(applied, core.sequence());
            Ok(())
        };
        self.core.device.context().to_its_end("pin", pinned).await?;
        self.core.checkpoint().await?;
        Ok(Seq(applied))
    }

    /// Lets the base take changes up to this sequence; all, if none is given.
    pub async fn accept(&self, through: Option<Seq>) -> Result<()> {
        self.linear("accept")?;
        let core = Rc::clone(&self.core);
        let context = self.core.device.context();
        context.to_its_end("accept", async move { core.accept(through).await }).await
    }

    /// How far applying is, where there is something that the log is applied to.
    pub fn apply_status(&self) -> Option<ApplyStatus> {
        let Some(linear) = &self.core.linear else { return self.core.bringing().map(Bringing::status) };
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
    async fn accept(&self, through: Option<Seq>) -> Result<()> {
        let log = self.log()?;
        let refused = |reason| Err(Error::new("accept", reason).on(self.device.name()));
        let last = log.sequence();
        if let Some(moment) = through.map(|through| through.0).filter(|moment| *moment > last) {
            return refused(Reason::UnknownMoment { moment, last });
        }
        // A sequence that a crash takes back is given to another change, which nobody has accepted.
        log.flush().await?;
        let journal = self.contents.journal();
        let is_pinned = |state: &Metadata| through.is_none() || state.accepted != ALL_ACCEPTED;
        if !is_pinned(&journal.state()) {
            return refused(Reason::NotPinned);
        }
        // Somebody else may accept everything before this one's turn comes.
        let accept = |state: &mut Metadata| match through {
            _ if !is_pinned(state) => Vec::new(),
            None => vec![Change::Accepted(ALL_ACCEPTED)],
            // What has been accepted may be in the base already.
            Some(through) => vec![Change::Accepted(through.0.max(state.accepted))],
        };
        journal.commit(accept).await?;
        let accepted = journal.state().accepted;
        self.contents.set_floor(accepted, log.sequence());
        log.progress.give();
        Ok(())
    }

    /// Applies in the background.
    pub(super) async fn keep_applied(&self) {
        let (Some(linear), Some(log)) = (&self.linear, &self.log) else { return };
        while !self.failed.is_raised() {
            let target = self.apply_target(linear, log);
            let is_held = linear.holds.get() > 0;
            let unsettled = self.contents.index().history().unsettled();
            let passed = unsettled.filter(|rollback| !is_held && linear.home_again.get() != rollback.at);
            let behind = linear.cursor.get().sequence.get() < target || passed.is_some();
            let mut stalled = None;
            // What is brought home waits for a checkpoint, as what is written does.
            if behind && self.contents.index().is_full(self.index_entries_max()) {
                if !self.step(self.checkpoint()).await {
                    break;
                }
                continue;
            }
            if behind {
                linear.applying.set(true);
                let applied = match passed {
                    Some(rollback) => self.bring_revived_home(linear, rollback).await,
                    None => self.apply_some(linear, log, target).await,
                };
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
            self.settled.give();
            if behind && stalled.is_none() {
                continue;
            }
            if stalled.is_some() {
                self.device.context().sleep(STALL_NS).await;
            } else {
                log.progress.wait().await;
            }
        }
        linear.changed.give();
    }

    /// Why what the log holds cannot be applied, so that nothing comes free; `None` while it can.
    pub(super) fn why_not_applied(&self, linear: &Linear, log: &Log) -> Option<&'static str> {
        let behind = linear.cursor.get().sequence.get() < self.apply_target(linear, log);
        let asked = "the base is pinned, or applying waits to be asked";
        linear.stalled.get().or((!behind).then_some(asked))
    }

    /// How far to apply now: what was asked for, or what no moment that is kept lies before.
    fn apply_target(&self, linear: &Linear, log: &Log) -> u64 {
        if linear.holds.get() > 0 {
            return linear.cursor.get().sequence.get();
        }
        let state = self.contents.journal().state();
        let checkpointed = state.checkpoint.sequence.get();
        let durable = log.durable_through().max(checkpointed);
        let automatic = match linear.options.automatic {
            false => 0,
            true if self.is_short() => durable,
            // Space comes free with checkpoints alone: to apply more often would only take smaller steps.
            true if self.contents.keeps_past() => self.contents.window().min(checkpointed),
            true => checkpointed,
        };
        let accepted = state.accepted;
        #[cfg(feature = "mutations")]
        let accepted = match crate::mutation::is_on(crate::mutation::Mutation::UnacceptedApplied) {
            true => ALL_ACCEPTED,
            false => accepted,
        };
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::AppliedBeforeDurable) {
            return log.sequence().min(accepted);
        }
        automatic.max(linear.wanted.get()).min(durable).min(accepted)
    }

    /// One step. Why it was not done, if it was not.
    async fn apply_some(&self, linear: &Linear, log: &Log, target: u64) -> Result<Option<&'static str>> {
        let (step, cursor) = self.gather(linear, target).await?;
        if let Some(why) = self.make_room(linear, &step).await? {
            return Ok(Some(why));
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::CursorBeforeHome) {
            linear.cursor.set(cursor);
            step.actions.iter().for_each(|action| {
                if let Action::Write(write) = action {
                    self.bring_home(write);
                }
            });
            self.checkpoint().await?;
        }
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
                    // Nothing names what came home before a crash and was superseded after it.
                    for (number, first, slots) in self.extents(*lba, *blocks) {
                        let has_space = self.contents.journal().state().rows.contains_key(&number);
                        let slots = if has_space { slots } else { 0 };
                        (first..first + slots).for_each(|slot| self.contents.kill((number, slot)));
                    }
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
        let free = self.free_for_home(&self.contents.journal().state()).len();
        let mut step = Step { free, ..Step::default() };
        while !step.is_full && step.bytes < STEP_BYTES && cursor.sequence.get() < target {
            let Some((number, physical, block, batch)) = self.next_batch(&mut window, &cursor).await? else {
                let reason = Reason::LogDamaged { good_through: cursor.sequence.get() };
                return Err(Error::new("apply", reason).on(self.device.name()));
            };
            let payload = window.payload(physical, block, &batch).await?;
            let end = self.gather_batch(&mut step, &batch, payload, cursor.sequence.get(), target);
            let end = end.await?;
            if end == cursor.sequence.get() {
                break;
            }
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
            if !self.contents.index().history().is_current(sequence) {
                end = sequence;
                continue;
            }
            let (lba, blocks) = (entry.lba.get(), u64::from(entry.blocks.get()));
            if entry.kind.get() == KIND_DATA && !self.has_room(step, lba, blocks) {
                step.is_full = true;
                break;
            }
            end = sequence;
            match entry.kind.get() {
                KIND_DATA => {
                    let start = entry.payload.get() as usize * block_bytes;
                    let Some(bytes) = payload.get(start..start + blocks as usize * block_bytes) else {
                        continue;
                    };
                    step.pinned.push(self.contents.index().pin(lba, blocks).await?);
                    for (at, bytes) in (lba..).zip(bytes.chunks_exact(block_bytes)) {
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
                    step.bytes += (blocks as usize).saturating_mul(ZERO_BYTES);
                    step.actions.push(Action::Zero { lba, blocks, sequence, discard });
                }
                _ => {}
            }
        }
        Ok(end)
    }

    /// Whether a step can take in a range, too, with the segments that are free for its extents.
    fn has_room(&self, step: &mut Step, lba: u64, blocks: u64) -> bool {
        let state = self.contents.journal().state();
        let extents = self.extents(lba, blocks).map(|(number, ..)| number);
        let new: Vec<u32> = extents.filter(|number| !state.rows.contains_key(number)).collect();
        let more = new.iter().filter(|number| !step.missing.contains(number)).count();
        if more > 0 && !step.actions.is_empty() && step.missing.len() + more > step.free {
            return false;
        }
        step.missing.extend(new);
        true
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

    /// From now on the blocks of a write are found at home, unless there is newer content already.
    pub(super) fn bring_home(&self, write: &Write) {
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
        let empty = extents.filter(|number| self.contents.is_empty_at_home(&state, *number));
        linear.emptied.borrow_mut().extend(empty);
    }
}
