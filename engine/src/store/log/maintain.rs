//! What goes on in the background: checkpoints, leases, merging of runs, emptying of segments, the idle mark.
//!
//! A checkpoint writes the versions since the last one as a run and lets the log be read from here on. Emptying
//! ([`super::empty`]) moves live blocks and rewrites their rows, never an index entry. Only when the rows of old segments
//! have become too many are entries rewritten.
//!
//! Invariants: the last [`RESERVED_SEGMENTS`] free segments are for emptying alone; a segment is free only once the
//! journal says that nothing lies there.

use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;

use super::Core;
use super::apply::{Linear, STALL_NS};
use super::empty::{Emptying, tied_rows};
use super::moving::Moving;
use crate::error::{Error, Reason, Result};
use crate::format::batch::KIND_COPIED;
#[cfg(feature = "mutations")]
use crate::format::journal::Checkpoint;
use crate::format::journal::{Change, Lease};
use crate::pool::contents::Reading;
use crate::pool::gathered::Gathered;
use crate::pool::history::Rollback;
use crate::pool::index::merge::{self, Wanted};
use crate::pool::index::run::Run;
use crate::pool::layout::RESERVED_SEGMENTS;
use crate::pool::log::append::Log;
use crate::pool::metadata::{HOME_FIRST, Metadata};
use crate::runtime::Task;

/// How often the idle mark looks whether anything has happened.
const IDLE_NS: u64 = 1_000_000_000;

/// Why there is no room in the log.
const FULL: &str = "snapshots, open images and the volume itself fill it; delete snapshots or close images";

/// The changes that put a merged run in the place of those that it was made of.
fn replacement(runs: &[Rc<Run>], merged: Option<&Rc<Run>>) -> impl Iterator<Item = Change> {
    let gone = runs.iter().map(|run| Change::RunRemoved(run.info().run.run.get()));
    gone.chain(merged.map(|run| Change::Run(run.info().run, run.info().extents.clone())))
}

impl Core {
    pub(super) fn start_maintenance(self: &Rc<Self>) -> Vec<Task<()>> {
        let context = self.device.context();
        let [checkpoints, background, idle, applied, moving] = [(); 5].map(|()| Rc::clone(self));
        vec![
            context.spawn(async move { checkpoints.keep_checkpoints().await }),
            context.spawn(async move { background.keep_room().await }),
            context.spawn(async move { idle.keep_idle_mark().await }),
            context.spawn(async move { applied.keep_applied().await }),
            context.spawn(async move { moving.keep_moving().await }),
        ]
    }

    /// Runs one step of background work. An error has poisoned the volume or will come again.
    pub(super) async fn step(&self, work: impl Future<Output = Result<()>>) -> bool {
        match work.await {
            Ok(()) => true,
            Err(_) => {
                self.failed.raise();
                self.wake_all();
                false
            }
        }
    }

    /// The same for work that writes the index anew, beside what it is. Where there is no room for that, nothing has changed, and it
    /// is tried again when there is more.
    async fn step_in_index(&self, work: impl Future<Output = Result<()>>) -> bool {
        let done = work.await;
        let has_no_room =
            done.as_ref().is_err_and(|error| matches!(error.reason(), Reason::MetadataFull { .. }));
        // A commit that has found no room has poisoned the volume.
        if has_no_room && !self.failed.is_raised() {
            self.index_room.set(Some(self.contents.index().pages().free()));
            return true;
        }
        self.step(async { done }).await
    }

    /// The free pages of the index, where it could not be written anew and there are no more since.
    fn little_index_room(&self) -> Option<u32> {
        let before = self.index_room.get()?;
        let free = self.contents.index().pages().free();
        if free > before {
            self.index_room.set(None);
        }
        self.index_room.get().and(Some(free))
    }

    /// The volume has been poisoned, by whomever: all who wait look at it.
    fn wake_all(&self) {
        self.checkpoint_ended.give();
        self.settled.give();
        if let Some(log) = &self.log {
            log.go_on();
            log.progress.give();
        }
    }

    async fn keep_checkpoints(&self) {
        let Some(log) = &self.log else { return };
        while !self.failed.is_raised() {
            let checkpoints = self.checkpoints.get();
            let due = log.backlog_bytes() >= self.checkpoint_bytes
                || self.contents.index().is_crowded(self.index_entries_max())
                || checkpoints.wanted > checkpoints.ended;
            let done = if due {
                self.step(self.write_checkpoint()).await
            } else if log.leases_ahead() < self.leases_wanted().div_ceil(2) && self.can_lease() {
                self.step(self.extend_leases()).await
            } else {
                log.progress.wait().await;
                true
            };
            if !done {
                return;
            }
        }
        self.checkpoint_ended.give();
    }

    fn can_lease(&self) -> bool {
        self.has_segments() && self.contents.journal().state().rows_left() > 0
    }

    fn has_segments(&self) -> bool {
        let state = self.contents.journal().state();
        !state.next_virtual().is_empty() && self.free_for_log(&state, 0).len() > self.reserved(&state)
    }

    /// Free segments that the log may not lease: for emptying, or for extents that the volume was promised.
    pub(super) fn reserved(&self, state: &Metadata) -> usize {
        // Extents on a device of their own take nothing from the log.
        let linear = self.linear.as_ref().filter(|_| self.home.is_none());
        let promised = linear.map_or(0, |linear| linear.reserved(state.home_rows().count()));
        promised.max(RESERVED_SEGMENTS as usize)
    }

    /// Changes that bring the leases ahead from `ahead` to `wanted`, as far as there are free segments. These are
    /// `held` until the changes have been committed, so that nobody else takes them meanwhile.
    pub(super) fn new_leases<'a>(
        &'a self,
        state: &Metadata,
        ahead: usize,
        held: &mut Vec<Reading<'a>>,
    ) -> Vec<Change> {
        let after = state.leases.back().map_or(0, |lease| lease.physical.get());
        let free = self.free_for_log(state, after);
        let room = free.len().saturating_sub(self.reserved(state)).min(state.rows_left());
        let wanted = self.leases_wanted().saturating_sub(ahead);
        let mut changes = Vec::new();
        for (physical, number) in free[..room.min(wanted)].iter().zip(state.next_virtual()) {
            held.push(self.contents.reading(*physical));
            changes
                .push(Change::Lease(Lease { physical: (*physical).into(), virtual_segment: number.into() }));
        }
        changes
    }

    async fn extend_leases(&self) -> Result<()> {
        let ahead = self.log()?.leases_ahead();
        let mut held = Vec::new();
        self.contents.journal().commit(|state| self.new_leases(state, ahead, &mut held)).await?;
        drop(held);
        self.log()?.go_on();
        Ok(())
    }

    /// Waits until everything that has completed by now is in the index on the device. The work is done in the
    /// background, where nobody's future can be dropped half way.
    ///
    /// # Errors
    /// `Poisoned` where it failed.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let mut checkpoints = self.checkpoints.get();
        let wanted = checkpoints.begun + 1;
        checkpoints.wanted = checkpoints.wanted.max(wanted);
        self.checkpoints.set(checkpoints);
        self.log()?.progress.give();
        while self.checkpoints.get().ended < wanted {
            if self.failed.is_raised() {
                return Err(Error::new("checkpoint", Reason::Poisoned).on(self.device.name()));
            }
            self.checkpoint_ended.wait().await;
        }
        Ok(())
    }

    async fn write_checkpoint(&self) -> Result<()> {
        let _turn = self.run_turn.lock(0, 1).await;
        let mut checkpoints = self.checkpoints.get();
        checkpoints.begun += 1;
        self.checkpoints.set(checkpoints);
        let log = self.log()?;
        let index = self.contents.index();
        // Nothing runs between these: the run holds exactly what lies before the place.
        let moved = self.tell_moved();
        let checkpoint = log.checkpoint();
        self.contents.freeze();
        let rollbacks: Vec<Rollback> = index.history().rollbacks().to_vec();
        let applied = self.linear.as_ref().map(Linear::cursor);
        let first_sequence = self.contents.journal().state().checkpoint.sequence.get() + 1;
        #[cfg(feature = "mutations")]
        let checkpoint = if crate::mutation::is_on(crate::mutation::Mutation::TrimBeforeApply) {
            self.contents.journal().commit(|_| vec![Change::Checkpoint(checkpoint)]).await?;
            Checkpoint { released: 0.into(), ..checkpoint }
        } else {
            checkpoint
        };
        let sequences = (first_sequence, checkpoint.sequence.get());
        let run = index.write_frozen(self.take_run_number(), sequences).await?;
        let ahead = log.leases_ahead();
        let mut held = Vec::new();
        self.contents
            .journal()
            .commit(|state| {
                let released = checkpoint.released.get() as usize;
                let leaving = state.leases.iter().take(released);
                leaving.for_each(|lease| self.contents.touch(lease.virtual_segment.get()));
                self.contents.settle_homecoming(state);
                self.give_up_moved(state, &moved);
                let mut changes = self.news_of_rows(state, released);
                if let (Some(linear), Some(applied)) = (&self.linear, applied) {
                    changes.push(Change::Applied(applied));
                    // The one before is durable so far, and what it still needs is free all the same.
                    #[cfg(feature = "mutations")]
                    if crate::mutation::is_on(crate::mutation::Mutation::FreedBeforeCursor) {
                        changes.pop();
                        changes.push(Change::Applied(state.applied));
                    }
                    // What has not been applied is kept, dead or not: the entries lead from one to the next.
                    let first_leased =
                        state.leases.get(released).map_or(0, |lease| lease.virtual_segment.get());
                    let end = applied.virtual_segment.get().min(first_leased);
                    let written = state.rows.range(..end).filter(|(_, row)| row.live_slots() == 0);
                    let dead =
                        written.map(|(number, _)| *number).chain(linear.take_emptied(state, &self.contents));
                    changes.extend(dead.map(Change::RowRemoved));
                }
                changes.extend(run.as_ref().map(|run| {
                    let info = run.info();
                    Change::Run(info.run, info.extents.clone())
                }));
                changes.push(Change::Checkpoint(checkpoint));
                let told = rollbacks.iter().filter(|rollback| rollback.at <= checkpoint.sequence.get());
                let news = told.filter(|rollback| !state.rollbacks.contains(rollback));
                changes.extend(news.map(Rollback::change));
                changes.extend(self.new_leases(state, ahead, &mut held));
                changes
            })
            .await?;
        drop(held);
        self.linear.iter().for_each(Linear::emptied_are_gone);
        index.thaw(run);
        self.found_in_base(&moved);
        log.checkpoint_ended();
        let mut checkpoints = self.checkpoints.get();
        checkpoints.ended += 1;
        self.checkpoints.set(checkpoints);
        self.checkpoint_ended.give();
        log.go_on();
        log.progress.give();
        Ok(())
    }

    /// What the journal has to learn of rows, and of the window that goes with it: a death that the window has
    /// passed is told with it, or nobody would know of it after a crash. `released`: leases that are given up with
    /// the same commit.
    pub(super) fn news_of_rows(&self, state: &Metadata, released: usize) -> Vec<Change> {
        let leased = state.leases.iter().skip(released);
        let leased: BTreeSet<u32> = leased.map(|lease| lease.virtual_segment.get()).collect();
        // With a linear volume, segments of the log come free in order, at checkpoints. Extents of an object go with it.
        let stays = |number| self.linear.is_some() || number >= HOME_FIRST || leased.contains(&number);
        self.contents.take_touched(state, stays)
    }

    /// Notes in the journal that everything is durable.
    pub(super) async fn mark_durable(&self) -> Result<()> {
        let durable = self.log()?.durable_through();
        self.contents.journal().commit(|_| vec![Change::Watermark(durable)]).await
    }

    async fn keep_idle_mark(&self) {
        let Some(log) = &self.log else { return };
        let mut seen = log.sequence();
        while !self.failed.is_raised() {
            self.device.context().sleep(IDLE_NS).await;
            let now = log.sequence();
            let idle = now == seen && now > self.contents.journal().state().watermark;
            seen = now;
            // Only what somebody has asked to be durable is promised.
            if idle && log.durable_through() >= now && !self.step(self.mark_durable()).await {
                return;
            }
        }
        // Whoever waited for what has failed may be gone, and have told nobody.
        self.wake_all();
    }

    async fn keep_room(&self) {
        let Some(log) = &self.log else { return };
        while !self.failed.is_raised() {
            let index_room = self.little_index_room();
            let runs = merge::choose(&self.contents.index().runs(), index_room);
            let given_up = self.has_given_up();
            let is_settled = self.contents.index().history().unsettled().is_none();
            let is_told = self.returns_are_told();
            let may_merge = self.may_merge();
            let may_rewrite = may_merge && index_room.is_none();
            let done = if let Some(rollback) = self.to_settle() {
                self.step(self.settle(rollback)).await
            } else if is_settled && !is_told {
                self.step(self.checkpoint()).await
            } else if let Some(snapshot) = self.to_break(false).filter(|_| !given_up) {
                self.step(self.break_snapshot(snapshot)).await
            } else if given_up {
                self.index_room.set(None);
                self.step(self.sweep()).await
            } else if let Some(first) = self.to_give_back() {
                self.step(self.give_back(first)).await
            } else if let Some(moment) = self.fold_wanted.get().filter(|_| may_merge) {
                self.step(self.fold_index(moment)).await
            } else if let Some(branch) = self.dropped_branch().filter(|_| may_merge) {
                self.step(self.drop_branch(branch)).await
            } else if may_rewrite && self.contents.journal().state().has_many_rows() {
                self.step_in_index(self.gather_rows()).await
            } else if may_merge && !runs.is_empty() {
                self.step_in_index(self.merge(&runs)).await
            } else if let Some(emptying) = self.choose_emptying(may_rewrite) {
                match emptying {
                    Emptying::Move(moving) => self.step(self.empty(moving)).await,
                    Emptying::Untie => self.step_in_index(self.gather_rows()).await,
                }
            } else if self.is_short() && (self.contents.forget_some() || self.has_news(log)) {
                self.step(self.checkpoint()).await
            } else if let Some(snapshot) = self.to_break(self.why_full(log).is_some()) {
                self.step(self.break_snapshot(snapshot)).await
            } else {
                let is_short = self.is_short();
                match is_short && !self.is_held_by_readers() {
                    // Copies do not wait for what only they could make: the round goes on with those that have found room.
                    true => log.refuse(FULL, |kind| kind == KIND_COPIED),
                    false => self.bring_again(),
                }
                log.set_full(self.why_full(log).filter(|_| self.refuse_when_full));
                // Whoever gives up a moment, or stops reading a free segment, tells nobody.
                if is_short {
                    self.device.context().sleep(STALL_NS).await;
                } else {
                    if log.leases_ahead() == 0 {
                        log.progress.give();
                    }
                    log.progress.wait().await;
                }
                true
            };
            if !done {
                return;
            }
        }
    }

    /// Whether nothing in the index has still to be looked at before it may be merged away: what a return has discarded
    /// until its deaths are noted, what nobody keeps any more until it has been let go of.
    pub(super) fn may_merge(&self) -> bool {
        let is_settled = self.contents.index().history().unsettled().is_none();
        !self.has_given_up() && is_settled && self.returns_are_told()
    }

    /// Gathers the rows that share segments, so that there are no more of them than segments.
    async fn gather_rows(&self) -> Result<()> {
        let gathered = {
            let state = self.contents.journal().state();
            Gathered::new(&state, tied_rows(&state).into_iter())
        };
        let news = |state: &mut Metadata| gathered.changes(state, self.news_of_rows(state, 0));
        self.rewrite_index(None, |_, place| gathered.rename(place), news).await?;
        self.contents.carry_over(&gathered);
        Ok(())
    }

    /// Merges all runs, with new names for places, in one commit with `news`; without the entries of a branch that is
    /// `gone`.
    pub(super) async fn rewrite_index(
        &self,
        gone: Option<u32>,
        rename: impl Fn(u64, (u32, u32)) -> (u32, u32),
        news: impl FnOnce(&mut Metadata) -> Vec<Change>,
    ) -> Result<()> {
        let index = self.contents.index();
        let older = index.runs();
        let (number, wanted) = (self.take_run_number(), Wanted { gone, ..self.contents.wanted() });
        let merged = merge::merge(index, &older, number, true, &wanted, &rename).await?;
        // What checkpoints have written meanwhile is little. None is under way until all names are changed.
        let _turn = self.run_turn.lock(0, 1).await;
        let newer = index.runs()[older.len()..].to_vec();
        // With what was wanted at the beginning: what has been given up since is still to be swept.
        let number = self.take_run_number();
        let merged_newer = if newer.is_empty() {
            None
        } else {
            let newer = merge::merge(index, &newer, number, merged.is_none(), &wanted, &rename).await;
            // Nobody will name it.
            newer.inspect_err(|_| merged.iter().for_each(|run| run.set_replaced()))?
        };
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = news(state);
                changes.extend(replacement(&older, merged.as_ref()));
                changes.extend(replacement(&newer, merged_newer.as_ref()));
                changes
            })
            .await?;
        self.contents.rename(&rename);
        older.iter().chain(&newer).for_each(|run| run.set_replaced());
        index.replace(&older, merged);
        index.replace(&newer, merged_newer);
        Ok(())
    }

    /// Whether the log has no segment to go on in, and none to lease.
    pub(super) fn is_short(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.leases_ahead() == 0) && !self.has_segments()
    }

    /// Something has been given up: writes are not refused before the room that this makes has been looked for.
    pub(super) fn look_for_room(&self, log: &Log) {
        log.set_full(None);
        self.bring_again();
        log.progress.give();
    }

    /// Whether a checkpoint would say anything new.
    fn has_news(&self, log: &Log) -> bool {
        let state = self.contents.journal().state();
        let applied = self.linear.as_ref().map_or(state.applied, Linear::cursor);
        state.checkpoint.sequence.get() < log.sequence()
            || state.applied != applied
            || self.contents.has_touched()
            || self.moving.as_ref().is_some_and(Moving::has_news)
    }

    /// Why no room is going to be made for the log, when nothing is left to be emptied and no past to be given up;
    /// `None` while there is room, or somebody only reads what is free.
    fn why_full(&self, log: &Log) -> Option<&'static str> {
        if !self.is_short() {
            return None;
        }
        if self.contents.journal().state().next_virtual().is_empty() {
            return Some("its log has used up the numbers of its segments; copy the volume to a new pool");
        }
        if self.is_held_by_readers() {
            return None;
        }
        match &self.linear {
            Some(linear) => self.why_not_applied(linear, log),
            None if self.has_to_bring() => None,
            None => Some(FULL),
        }
    }

    /// Whether segments that the log may take are free, and somebody only reads them still.
    fn is_held_by_readers(&self) -> bool {
        let state = self.contents.journal().state();
        state.free_after(0).filter(|at| self.is_for_log(*at)).count() > self.reserved(&state)
    }

    async fn merge(&self, runs: &[Rc<Run>]) -> Result<()> {
        let index = self.contents.index();
        let oldest = index.runs().first().is_some_and(|first| Rc::ptr_eq(first, &runs[0]));
        let wanted = self.contents.wanted();
        let merged =
            merge::merge(index, runs, self.take_run_number(), oldest, &wanted, |_, place| place).await?;
        self.contents
            .journal()
            .commit(|state| {
                // The window that was wanted above, or a later one, goes with what it has thrown away.
                let mut changes = self.news_of_rows(state, 0);
                changes.extend(replacement(runs, merged.as_ref()));
                changes
            })
            .await?;
        runs.iter().for_each(|run| run.set_replaced());
        index.replace(runs, merged);
        Ok(())
    }
}
