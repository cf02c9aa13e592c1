//! Room for what snapshots keep: a limit of their own, and what happens when it, or the pool, is full.
//!
//! A volume with a base may give them so many bytes and no more. A write that would take a block beyond that is refused,
//! or the oldest snapshot is *broken*: its name stays and says so, it is never read again, and what it alone kept comes
//! free. Which of the two was chosen when the volume was made. The pool itself may be full before; then the same holds.
//!
//! Invariants: what is being written is counted before it is there; a snapshot is broken, durably, before anything that
//! it keeps is given up; one that is broken stays so.

use std::cell::Cell;

use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::pool::snapshots::{Keeping, Snapshot};

/// Space of snapshots counts as short from this part of it on.
pub(super) const SHORT_PARTS: u64 = 4;
pub(super) const SHORT_OF: u64 = 5;

/// What is done when there is no room for what snapshots keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Writes that need it are refused; the volume and its snapshots stay what they are.
    #[default]
    Refuse,
    /// The oldest snapshots are broken for good, as many as have to be.
    BreakSnapshots,
}

/// The room that snapshots have and take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSpace {
    /// What they may take at most; as much as the pool has, if not given.
    pub limit_bytes: Option<u64>,
    /// What lies in the log, saved or redirected blocks, and all of every linear object.
    pub used_bytes: u64,
    /// Four fifths of it are taken: delete snapshots, or grow the pool.
    pub is_short: bool,
    /// What happens then.
    pub when_full: WhenFull,
}

/// Limits of one volume, and what is on its way there.
#[derive(Debug)]
pub(super) struct Space {
    pub limit_blocks: Option<u64>,
    pub when_full: WhenFull,
    reserved_blocks: Cell<u64>,
    /// No more blocks than this live or are on their way: to count them each time would take too long.
    used_blocks_max: Cell<u64>,
    /// Somebody waits until a snapshot is broken.
    break_wanted: Cell<bool>,
    /// Writes and snapshots that wait for room.
    waiting: Cell<u32>,
}

impl Space {
    pub fn new(limit_blocks: Option<u64>, when_full: WhenFull) -> Self {
        let used_blocks_max = Cell::new(u64::MAX);
        let (reserved_blocks, break_wanted, waiting) = (Cell::default(), Cell::default(), Cell::default());
        Self { limit_blocks, when_full, reserved_blocks, used_blocks_max, break_wanted, waiting }
    }

    /// Whether somebody waits for room.
    pub fn is_waiting(&self) -> bool {
        self.waiting.get() > 0
    }
}

/// Room for blocks that are being written.
#[derive(Debug)]
pub(in crate::store) struct Reserved<'a> {
    core: &'a Core,
    blocks: u64,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let reserved = &self.core.space.reserved_blocks;
        reserved.set(reserved.get() - self.blocks);
        if self.core.space.limit_blocks.is_some() {
            self.core.settled.give();
        }
    }
}

/// Something that waits for room. What is dropped meanwhile asks for nothing any more.
#[derive(Debug)]
struct Waiting<'a> {
    core: &'a Core,
    is_over: bool,
}

impl<'a> Waiting<'a> {
    fn new(core: &'a Core) -> Self {
        core.space.waiting.set(core.space.waiting.get() + 1);
        Self { core, is_over: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.core.space.waiting.set(self.core.space.waiting.get() - 1);
        if !self.is_over {
            self.core.ask_again();
        }
    }
}

impl LogStore {
    /// Whether what snapshots take has a limit of its own.
    pub(in crate::store) fn has_limit(&self) -> bool {
        self.core.space.limit_blocks.is_some()
    }

    /// Room for so many more blocks. `None` where it had to be waited for: what they are for may be gone by now.
    pub(in crate::store) async fn reserve(&self, blocks: u64) -> Result<Option<Reserved<'_>>> {
        let core = &*self.core;
        let space = &core.space;
        let reserved = space.reserved_blocks.get();
        let is_over = |limit: &u64| {
            let fits = || space.used_blocks_max.get().saturating_add(blocks) <= *limit;
            if blocks == 0 || fits() {
                return false;
            }
            space.used_blocks_max.set(core.contents.journal().state().live_blocks() + reserved);
            !fits()
        };
        let Some(limit) = space.limit_blocks.filter(is_over) else {
            space.reserved_blocks.set(reserved + blocks);
            space.used_blocks_max.set(space.used_blocks_max.get().saturating_add(blocks));
            return Ok(Some(Reserved { core, blocks }));
        };
        if core.failed.is_raised() {
            return Err(Error::new("write", Reason::Poisoned).on(core.device.name()));
        }
        // What others take may have been counted twice for a moment; what is given up comes free soon.
        if reserved == 0 && !core.room_comes() {
            if space.when_full == WhenFull::Refuse || core.oldest_unlocked().is_none() {
                let limit_bytes = limit * u64::from(core.geometry.block_bytes);
                let full = Reason::SnapshotSpaceFull { limit_bytes };
                return Err(Error::new("write", full).on(core.device.name()));
            }
            space.break_wanted.set(true);
        }
        core.wait_for_room().await?;
        Ok(None)
    }
}

impl Core {
    /// What snapshots take, where they have names.
    pub(super) fn snapshot_space(&self) -> SnapshotSpace {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let state = self.contents.journal().state();
        let blocks_of = |segments: u64| segments * u64::from(state.segment_blocks());
        let (mapped, of_objects) = (state.mapped_blocks(), blocks_of(state.object_segments()));
        let used = mapped + of_objects;
        let limit = self.space.limit_blocks;
        let is_short = |used: u64, all: u64| used * SHORT_OF >= limit.unwrap_or(all) * SHORT_PARTS;
        let (all, of_pool) = (state.segments().into(), self.geometry.segments.into());
        SnapshotSpace {
            limit_bytes: limit.map(|blocks| blocks * block_bytes),
            used_bytes: used * block_bytes,
            is_short: match blocks_of(all - of_pool) {
                0 => is_short(used, blocks_of(all)),
                // What lies on one of two devices is of no use on the other.
                apart => is_short(mapped, blocks_of(of_pool)) || is_short(of_objects, apart),
            },
            when_full: self.space.when_full,
        }
    }

    /// Waits until something has come free, or may have: what goes to the base goes at once.
    pub(super) async fn wait_for_room(&self) -> Result<()> {
        self.log()?.progress.give();
        let mut waiting = Waiting::new(self);
        self.settled.wait().await;
        waiting.is_over = true;
        Ok(())
    }

    /// Whether room comes: what has been given up comes free soon, and so does what goes to the base.
    pub(super) fn room_comes(&self) -> bool {
        self.has_given_up() || self.dropped_branch().is_some() || self.has_to_bring()
    }

    fn oldest_unlocked(&self) -> Option<Snapshot> {
        let state = self.contents.journal().state();
        // What has writable snapshots is theirs too.
        let may_go = |one: &&Snapshot| {
            let is_free = one.keeping == Keeping::Kept && !state.branches.has_of(one.number);
            is_free && self.refuse_if_locked(one).is_ok()
        };
        let oldest = state.snapshots.kept().filter(may_go).min_by_key(|snapshot| snapshot.sequence);
        oldest.cloned()
    }

    /// A snapshot that is to be broken now: somebody waits for its room, or the log does.
    pub(super) fn to_break(&self, is_full: bool) -> Option<Snapshot> {
        let wanted =
            self.space.break_wanted.get() || (is_full && self.space.when_full == WhenFull::BreakSnapshots);
        wanted.then(|| self.oldest_unlocked()).flatten()
    }

    /// Breaks a snapshot, durably: nobody reads it from now on.
    pub(super) async fn break_snapshot(&self, snapshot: Snapshot) -> Result<()> {
        self.space.break_wanted.set(false);
        let broken = Snapshot { keeping: Keeping::Breaking, ..snapshot };
        let number = broken.number;
        let mut was_kept = false;
        self.contents
            .journal()
            .commit(|state| {
                // It may have been deleted meanwhile, or locked.
                let now = state.snapshots.get(number).filter(|now| now.keeping == Keeping::Kept);
                was_kept = now.is_some_and(|now| self.refuse_if_locked(now).is_ok());
                if was_kept { vec![broken.change()] } else { Vec::new() }
            })
            .await?;
        if was_kept {
            self.contents.unpin(broken.moment());
        } else {
            self.ask_again();
        }
        Ok(())
    }

    /// Which snapshots may be broken has changed: whoever waits for one to be broken asks for it again.
    pub(super) fn ask_again(&self) {
        self.space.break_wanted.set(false);
        self.settled.give();
    }
}
