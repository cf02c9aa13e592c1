//! Bringing what lies in the log to the base though snapshots see what is there: a log in front of copy-on-write.
//!
//! Every write is an entry of the log, and current there. Rounds go through what the index has learnt since the last one, by
//! address, and bring the newest version of each block to its place; what is superseded meanwhile never goes there. What a
//! moment that is kept sees in the base is copied first, once however many see it: to the log, or, with linear objects, to its
//! place in that of the newest snapshot that sees it. What a moment sees in the log stays there and needs no copy.
//!
//! Order for each batch: its entries are durable in the log; the copies are, and a checkpoint says where they lie; the base is
//! overwritten and flushed; the next checkpoint says so, and gives up the slots in the log. A crash between any of these leaves the
//! current image, in the log, and every snapshot, in the base or in its copies.
//!
//! Place: behind [`super::moving`], which moves; beside it the overlay moves what is read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

use super::apply::{ApplyOptions, ApplyStatus, STALL_NS};
use super::moving::{Batch, Moved, Moving, split_at};
use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::format::batch::KIND_COPIED;
use crate::pool::index::current::Version;
use crate::pool::index::merge::Readers;
use crate::pool::log::append::Log;
use crate::runtime::{Context, Signal, join_all};
use crate::units::{Seq, branch_of};

/// Payload of a batch: what is in memory at a time, and what two checkpoints are made for.
const BATCH_BYTES: usize = 4 << 20;

/// Where free segments run short, rounds begin after this part of what they wait for else: each costs two checkpoints.
const SCARCE_PARTS: u64 = 8;

/// Why blocks stay in the log.
const LEFT: &str = "blocks of the log or the base cannot be read or written, or there is no room for copies; delete snapshots, or see what the device says";

/// Blocks that are copied together: the extent of a linear object that they go to, or else the log, and their newest versions.
type Copied = (Option<u32>, Vec<(u64, Version)>);

/// How far the base is.
#[derive(Debug)]
pub(super) struct Bringing {
    options: ApplyOptions,
    /// The newest version of no block is older than this and in the log, but for what a return to an earlier moment has
    /// brought back.
    applied: Cell<u64>,
    /// What somebody has asked for.
    wanted: Cell<u64>,
    /// Why the last round left blocks in the log, if it did.
    failed: RefCell<Option<Error>>,
    /// Rounds that have ended.
    changed: Signal,
    /// A round has failed without moving anything since there was room in the log.
    is_stuck: Cell<bool>,
    /// Room has been made, or may have been, since the last round began: what that says of room is old.
    may_have_room: Cell<bool>,
    /// No round begins any more.
    is_closed: Cell<bool>,
    /// Bytes of the log when the last round began.
    log_bytes: Cell<u64>,
}

impl Bringing {
    pub fn new(context: &Context, options: ApplyOptions) -> Self {
        Self {
            options,
            applied: Cell::new(0),
            wanted: Cell::new(0),
            failed: RefCell::default(),
            changed: Signal::new(context),
            is_stuck: Cell::new(false),
            may_have_room: Cell::new(false),
            is_closed: Cell::new(false),
            log_bytes: Cell::new(0),
        }
    }

    /// How far it is.
    pub fn status(&self) -> ApplyStatus {
        let stalled = self.failed.borrow().as_ref().map(|_| LEFT);
        ApplyStatus { applied: self.applied.get(), accepted: None, extents: 0, stalled }
    }
}

impl LogStore {
    /// Brings everything that has completed to the base, and makes that durable.
    pub(super) async fn bring(&self, bringing: &Bringing, through: Option<Seq>) -> Result<Seq> {
        let core = &self.core;
        let last = core.sequence();
        if let Some(moment) = through.map(|through| through.0).filter(|moment| *moment > last) {
            let reason = Reason::UnknownMoment { moment, last };
            return Err(Error::new("apply", reason).on(core.device.name()));
        }
        self.bring_through(bringing, through.map_or(last, |through| through.0)).await?;
        if through.is_none() && core.sequence() > bringing.applied.get() {
            // Copies are entries too, and change no block.
            self.bring_through(bringing, core.sequence()).await?;
        }
        core.checkpoint().await?;
        Ok(Seq(bringing.applied.get()))
    }

    async fn bring_through(&self, bringing: &Bringing, through: u64) -> Result<()> {
        let core = &self.core;
        let refused = |reason| Err(Error::new("apply", reason).on(core.device.name()));
        bringing.wanted.set(bringing.wanted.get().max(through));
        bringing.failed.take();
        core.look_for_room(core.log()?);
        while bringing.applied.get() < through {
            if core.failed.is_raised() {
                return refused(Reason::Poisoned);
            }
            if bringing.is_closed.get() {
                return refused(Reason::Closed);
            }
            let failed = bringing.failed.borrow().clone();
            // Where room comes, the next round goes on, as writes do.
            let room_comes = || core.room_comes() || core.to_break(true).is_some();
            if let Some(failed) = failed.filter(|failed| !is_full(failed) || !room_comes()) {
                bringing.wanted.set(0);
                return Err(failed);
            }
            bringing.changed.wait().await;
        }
        Ok(())
    }

    /// Where that is wanted, brings everything to the base before the volume is served.
    pub(super) async fn bring_at_open(&self) -> Result<()> {
        let Some(bringing) = self.core.bringing().filter(|bringing| bringing.options.at_open) else {
            return Ok(());
        };
        match self.bring(bringing, None).await {
            // It can be read and written all the same, and says so.
            Err(_) if bringing.failed.borrow().is_some() => Ok(()),
            done => done.map(drop),
        }
    }
}

impl Core {
    pub(super) fn bringing(&self) -> Option<&Bringing> {
        self.moving.as_ref()?.bringing.as_ref()
    }

    /// From now on nothing is brought to the base; nothing is under way when it returns.
    pub(super) async fn rest(&self) {
        if let Some(bringing) = self.bringing() {
            bringing.is_closed.set(true);
            bringing.changed.give();
            let _turn = self.base_turn.lock(0, 1).await;
        }
    }

    /// Whether room comes free by itself: what the log holds goes to the base, and only copies stay.
    pub(super) fn has_to_bring(&self) -> bool {
        self.bringing().is_some_and(|bringing| {
            let applied = bringing.applied.get();
            let is_asked = bringing.options.automatic || applied < bringing.wanted.get();
            is_asked && applied < self.sequence() && !bringing.is_stuck.get() && !bringing.is_closed.get()
        })
    }

    /// There is room in the log, or may be.
    pub(super) fn bring_again(&self) {
        if let Some(bringing) = self.bringing() {
            bringing.is_stuck.set(false);
            bringing.may_have_room.set(true);
        }
    }

    pub(super) async fn keep_bringing(&self, moving: &Moving, bringing: &Bringing) {
        let Some(log) = &self.log else { return };
        while !self.failed.is_raised() {
            let target = self.bring_target(bringing, log);
            if target <= bringing.applied.get() {
                log.progress.wait().await;
                continue;
            }
            bringing.log_bytes.set(log.figures().bytes);
            match self.bring_round(moving, bringing, target).await {
                Ok(failed) => {
                    if failed.is_none() && !bringing.is_closed.get() {
                        bringing.applied.set(target);
                    }
                    bringing.failed.replace(failed);
                }
                Err(error) => {
                    self.step(async { Err(error) }).await;
                    break;
                }
            }
            bringing.changed.give();
            self.settled.give();
            log.progress.give();
            if bringing.failed.borrow().is_some() {
                self.device.context().sleep(STALL_NS).await;
            }
        }
        bringing.changed.give();
        self.settled.give();
    }

    /// How far to go now: as far as there is anything, where the log has grown enough or there is no room.
    fn bring_target(&self, bringing: &Bringing, log: &Log) -> u64 {
        let grown = log.figures().bytes.saturating_sub(bringing.log_bytes.get());
        let is_due = || {
            grown >= self.checkpoint_bytes
                || (grown >= self.checkpoint_bytes / SCARCE_PARTS && self.is_scarce())
                || self.is_short()
                || self.space.is_waiting()
        };
        if bringing.is_closed.get() {
            return 0;
        }
        let automatic = if bringing.options.automatic && is_due() { log.sequence() } else { 0 };
        automatic.max(bringing.wanted.get()).min(log.sequence())
    }

    /// Brings to the base what has come since the last round, up to `target`. Why some blocks had to stay, if they had.
    async fn bring_round(&self, moving: &Moving, bringing: &Bringing, target: u64) -> Result<Option<Error>> {
        let since = bringing.applied.get();
        bringing.may_have_room.set(false);
        // All of it is in runs, and durable.
        if self.contents.journal().state().checkpoint.sequence.get() < target {
            self.checkpoint().await?;
        }
        let mut readers = {
            let runs = self.contents.index().runs();
            Readers::open(runs.iter().filter(|run| run.last_sequence() > since)).await?
        };
        let most = BATCH_BYTES / self.geometry.block_bytes as usize;
        let (mut failed, mut moved, mut is_end) = (None, 0, false);
        while !bringing.is_closed.get() {
            // Blocks that were named anew: the readers have passed them.
            let mut blocks: Vec<u64> = moving.take(most);
            while !is_end && blocks.len() < most {
                // Branches come behind the volume.
                let entry = readers.next().await?.filter(|entry| branch_of(entry.lba.get()) == 0);
                let Some(entry) = entry else {
                    is_end = true;
                    break;
                };
                if entry.sequence.get() > since && blocks.last() != Some(&entry.lba.get()) {
                    blocks.push(entry.lba.get());
                }
            }
            if !blocks.is_empty() {
                let batch = self.move_home(moving, blocks, target).await?;
                failed = failed.or(batch.failed);
                moved += batch.moved;
            } else if moving.has_news() {
                self.checkpoint().await?;
            } else {
                break;
            }
        }
        if moving.has_news() {
            self.checkpoint().await?;
        }
        let is_old = failed.as_ref().is_some_and(is_full) && bringing.may_have_room.get();
        bringing.is_stuck.set(failed.is_some() && moved == 0 && !is_old);
        if moved > 0 {
            self.look_for_room(self.log()?);
        }
        Ok(failed)
    }

    /// Copies what kept moments see of the base below these blocks, durably, and the index on the device says where the
    /// copies lie. Afterwards `pieces` are what may go there.
    pub(super) async fn copy_seen(
        &self,
        moving: &Moving,
        batch: &mut Batch,
        pieces: &mut Vec<Vec<Moved>>,
    ) -> Result<()> {
        let mut stays = BTreeSet::new();
        let mut is_news = moving.has_news();
        let mut unsure: Vec<(u64, Version)> = pieces.iter().flatten().map(Moved::place).collect();
        while !unsure.is_empty() {
            let mut seen = Vec::new();
            for (lba, version) in unsure.drain(..) {
                if !self.is_newest_or_note(moving, lba, version) {
                    stays.insert(lba);
                    continue;
                }
                match self.contents.expect_copy(lba, version).await {
                    Ok(Some(moments)) => seen.push((lba, version, moments)),
                    Ok(None) => {}
                    Err(error) => {
                        stays.insert(lba);
                        batch.failed = Some(error);
                    }
                }
            }
            is_news |= !seen.is_empty();
            // Nothing else runs between choosing places and holding their objects.
            let together = self.copied_together(seen);
            let copying: Vec<_> = together.iter().map(|(goes, blocks)| self.copy(*goes, blocks)).collect();
            for (copied, (_, blocks)) in join_all(copying).await.into_iter().zip(together) {
                let missed: Vec<_> =
                    blocks.into_iter().filter(|(lba, _)| !self.contents.take_copied(*lba)).collect();
                match copied {
                    // Something has happened meanwhile.
                    Ok(()) => unsure.extend(missed),
                    Err(error) => {
                        stays.extend(missed.into_iter().map(|(lba, _)| lba));
                        batch.failed = Some(error);
                    }
                }
            }
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::BroughtBeforeTold) {
            return Ok(());
        }
        // Of the batch before, too.
        if is_news {
            self.checkpoint().await?;
        }
        let all = std::mem::take(pieces);
        pieces
            .extend(all.into_iter().flat_map(|piece| split_at(piece, |one| stays.contains(&one.place().0))));
        Ok(())
    }

    /// Blocks that are to be copied, with the moments that see each: neighbours that go to one extent of an object, or to the
    /// log, together.
    fn copied_together(&self, seen: Vec<(u64, Version, Range<u64>)>) -> Vec<Copied> {
        let most = self.geometry.entry_blocks_max() as usize;
        let mut together: Vec<Copied> = Vec::new();
        for (lba, version, moments) in seen {
            let goes = self.free_place_of(lba, &moments);
            let follows = |(to, blocks): &&mut Copied| {
                let is_next = blocks.last().is_some_and(|last| last.0 + 1 == lba);
                *to == goes && is_next && blocks.len() < most
            };
            match together.last_mut().filter(follows) {
                Some((_, blocks)) => blocks.push((lba, version)),
                None => together.push((goes, vec![(lba, version)])),
            }
        }
        together
    }

    /// Copies blocks of the base that follow each other.
    async fn copy(&self, goes: Option<u32>, blocks: &[(u64, Version)]) -> Result<()> {
        let first = blocks.first().map_or(0, |block| block.0);
        let bytes = blocks.len() * self.geometry.block_bytes as usize;
        let buf = self.device.context().buffers().reserved().get(bytes)?;
        if let Some(number) = goes {
            return self.copy_in_place(number, first, buf).await;
        }
        let entry = self.entry_of_base(KIND_COPIED, first, buf).await?;
        self.log()?.append(entry).await.0.map(drop)
    }
}

/// Whether it says that there was no room in the log.
fn is_full(error: &Error) -> bool {
    matches!(error.reason(), Reason::LogFull { .. })
}
