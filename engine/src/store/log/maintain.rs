//! What goes on in the background: checkpoints, leases, merging of runs, emptying of segments, the idle mark.
//!
//! A checkpoint writes the versions since the last one as a run and lets the log be read from here on. Emptying
//! moves the live blocks of the segments with the fewest of them together into a free one and rewrites their
//! rows, never an index entry. Only when the rows of old segments have become too many are entries rewritten.
//!
//! Invariants: the last [`RESERVED_SEGMENTS`] free segments are for emptying alone; blocks are in their new place
//! and flushed before a row says so; a segment is free only once the journal says that nothing lies there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

use super::Core;
use super::apply::{Linear, STALL_NS};
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
#[cfg(feature = "mutations")]
use crate::format::journal::Checkpoint;
use crate::format::journal::{Change, Lease};
use crate::pool::contents::Reading;
use crate::pool::gathered::Gathered;
use crate::pool::history::Rollback;
use crate::pool::index::merge;
use crate::pool::index::run::Run;
use crate::pool::layout::RESERVED_SEGMENTS;
use crate::pool::log::append::Log;
use crate::pool::metadata::{Metadata, SegmentRow};
use crate::runtime::Task;
use crate::units::ByteOffset;

/// How often the idle mark looks whether anything has happened.
const IDLE_NS: u64 = 1_000_000_000;
/// The pieces in which live blocks are moved.
const MOVE_BYTES: usize = 1 << 20;
/// How long emptying waits for readers of what it emptied before.
const READER_WAIT_NS: u64 = 1_000_000;

/// What is moved together: the rows of some physical segments.
struct Moving {
    rows: Vec<(u32, SegmentRow)>,
    /// Segments that they fill.
    targets: u32,
}

/// Rows that can only be emptied together, because they share segments: a row may go on in the next one.
#[derive(Debug, Default)]
struct Group {
    rows: Vec<u32>,
    /// Segments that are free once these rows have moved.
    segments: u32,
    live: u32,
    /// The log's sequence when the youngest of them was written.
    written: u64,
}

impl Group {
    /// What emptying it is worth (Rosenblum and Ousterhout, "The design and implementation of a log-structured file
    /// system", 1992): the space won times its age, over the cost of reading all and writing what lives. What has not
    /// died for long is going to live longer, so that its space stays won.
    fn worth(&self, now: u64, segment_blocks: u32) -> u128 {
        let (blocks, live) = (u128::from(self.segments) * u128::from(segment_blocks), u128::from(self.live));
        let age = (u128::from(now.saturating_sub(self.written)) + 1).isqrt();
        blocks.saturating_sub(live) * age * WORTH_SCALE / (blocks + live)
    }
}

/// So that worths of little differ.
const WORTH_SCALE: u128 = 1 << 32;

fn groups_of<'a>(rows: impl Iterator<Item = (u32, &'a SegmentRow)> + Clone) -> Vec<Group> {
    let mut follows: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, row) in rows.clone() {
        follows.extend(row.continued.map(|continued| (continued, row.physical)));
    }
    // Segments are filled one after the other, so that each goes on from one other at most.
    let first = |mut segment: u32| {
        for _ in 0..follows.len() {
            match follows.get(&segment) {
                Some(before) => segment = *before,
                None => break,
            }
        }
        segment
    };
    let mut groups: BTreeMap<u32, (Group, BTreeSet<u32>)> = BTreeMap::new();
    for (number, row) in rows {
        let (group, segments) = groups.entry(first(row.physical)).or_default();
        group.rows.push(number);
        group.live += row.live_slots();
        group.written = group.written.max(row.written);
        segments.extend(row.segments());
    }
    let counted =
        |(group, segments): (Group, BTreeSet<u32>)| Group { segments: segments.len() as u32, ..group };
    groups.into_values().map(counted).collect()
}

/// Of the first groups, as many as free segments at the least cost: a full segment of copying for each one that is
/// free in the end, and what stays empty of the last segment is lost like one. They fit `targets_max` segments. And
/// how many they fill; `None` if nothing is won.
fn choose_groups(groups: &[Group], room: u32, targets_max: u32) -> Option<(Vec<&Group>, u32)> {
    let (mut blocks, mut segments) = (0_u32, 0);
    let mut chosen = Vec::new();
    let mut best: Option<(usize, u32, u32)> = None;
    for group in groups {
        let targets = (blocks + group.live).div_ceil(room);
        if targets > targets_max {
            continue;
        }
        blocks += group.live;
        segments += group.segments;
        chosen.push(group);
        let won = segments - targets.min(segments);
        if won > 0 && best.is_none_or(|(_, best_targets, best_won)| targets * best_won < best_targets * won) {
            best = Some((chosen.len(), targets, won));
        }
    }
    let (count, targets, _) = best?;
    chosen.truncate(count);
    Some((chosen, targets))
}

/// The changes that put a merged run in the place of those that it was made of.
fn replacement(runs: &[Rc<Run>], merged: Option<&Rc<Run>>) -> impl Iterator<Item = Change> {
    let gone = runs.iter().map(|run| Change::RunRemoved(run.info().run.run.get()));
    gone.chain(merged.map(|run| Change::Run(run.info().run, run.info().extents.clone())))
}

impl Core {
    pub(super) fn start_maintenance(self: &Rc<Self>) -> Vec<Task<()>> {
        let context = self.device.context();
        let [checkpoints, background, idle, applied] = [(); 4].map(|()| Rc::clone(self));
        vec![
            context.spawn(async move { checkpoints.keep_checkpoints().await }),
            context.spawn(async move { background.keep_room().await }),
            context.spawn(async move { idle.keep_idle_mark().await }),
            context.spawn(async move { applied.keep_applied().await }),
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
    fn reserved(&self, state: &Metadata) -> usize {
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
        // Nothing runs between these two: the run holds exactly what lies before the place.
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
        // With a linear volume, segments of the log come free in order, at checkpoints.
        self.contents.take_touched(state, |number| self.linear.is_some() || leased.contains(&number))
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
            let runs = merge::choose(&self.contents.index().runs());
            // What a return has discarded stays in the index until its deaths are noted.
            let may_merge = self.contents.index().history().unsettled().is_none();
            let done = if let Some(rollback) = self.to_settle() {
                self.step(self.settle(rollback)).await
            } else if may_merge && self.contents.journal().state().has_many_rows() {
                self.step(self.gather_rows()).await
            } else if may_merge && !runs.is_empty() {
                self.step(self.merge(&runs)).await
            } else if let Some(moving) = self.choose_moving() {
                self.step(self.empty(moving)).await
            } else if self.is_short() && (self.contents.forget_some() || self.has_news(log)) {
                self.step(self.checkpoint()).await
            } else {
                log.set_full(self.why_full(log).filter(|_| self.refuse_when_full));
                // Whoever gives up a moment, or stops reading a free segment, tells nobody.
                if self.is_short() {
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

    /// Gathers the rows that share segments, so that there are no more of them than segments.
    async fn gather_rows(&self) -> Result<()> {
        let index = self.contents.index();
        let gathered = {
            let state = self.contents.journal().state();
            let leased: BTreeSet<u32> = state.leases.iter().map(|lease| lease.physical.get()).collect();
            let rows = state.rows.iter().filter(|(_, row)| !leased.contains(&row.physical));
            let groups = groups_of(rows.map(|(number, row)| (*number, row)));
            let shared = groups.iter().filter(|group| group.rows.len() > group.segments as usize);
            Gathered::new(&state, shared.flat_map(|group| group.rows.iter().copied()))
        };
        let rename = |place| gathered.rename(place);
        let older = index.runs();
        let (number, wanted) = (self.take_run_number(), self.contents.wanted());
        let merged = merge::merge(index, &older, number, true, &wanted, rename).await?;
        // What checkpoints have written meanwhile is little. None is under way until all names are changed.
        let _turn = self.run_turn.lock(0, 1).await;
        let newer = index.runs().split_off(older.len());
        let (number, wanted) = (self.take_run_number(), self.contents.wanted());
        let merged_newer = if newer.is_empty() {
            None
        } else {
            merge::merge(index, &newer, number, merged.is_none(), &wanted, rename).await?
        };
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = gathered.changes(state, self.news_of_rows(state, 0));
                changes.extend(replacement(&older, merged.as_ref()));
                changes.extend(replacement(&newer, merged_newer.as_ref()));
                changes
            })
            .await?;
        self.contents.rename(&gathered);
        older.iter().chain(&newer).for_each(|run| run.set_replaced());
        index.replace(&older, merged);
        index.replace(&newer, merged_newer);
        Ok(())
    }

    /// Whether the log has no segment to go on in, and none to lease.
    pub(super) fn is_short(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.leases_ahead() == 0) && !self.has_segments()
    }

    /// Whether a checkpoint would say anything new.
    fn has_news(&self, log: &Log) -> bool {
        let state = self.contents.journal().state();
        let applied = self.linear.as_ref().map_or(state.applied, Linear::cursor);
        state.checkpoint.sequence.get() < log.sequence()
            || state.applied != applied
            || self.contents.has_touched()
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
        let held_by_readers = {
            let state = self.contents.journal().state();
            state.free_after(0).filter(|at| self.is_for_log(*at)).count() > self.reserved(&state)
        };
        if held_by_readers {
            return None;
        }
        match &self.linear {
            Some(linear) => self.why_not_applied(linear, log),
            None => Some("open images of the past and the volume itself fill it; close images"),
        }
    }

    async fn merge(&self, runs: &[Rc<Run>]) -> Result<()> {
        let index = self.contents.index();
        let oldest = index.runs().first().is_some_and(|first| Rc::ptr_eq(first, &runs[0]));
        let wanted = self.contents.wanted();
        let merged =
            merge::merge(index, runs, self.take_run_number(), oldest, &wanted, |place| place).await?;
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

    /// What to empty next, if free segments run short: the segments with the fewest live blocks, as many as fit
    /// one segment less together.
    fn choose_moving(&self) -> Option<Moving> {
        if self.linear.is_some() {
            return None;
        }
        let state = self.contents.journal().state();
        let free = state.free_segments() as usize;
        if free > RESERVED_SEGMENTS as usize + self.leases_wanted() {
            return None;
        }
        // Looking costs as much as there are rows; little can have died since nothing was found to be won.
        let now = self.sequence();
        if now < self.look_again.get() && !self.is_short() {
            return None;
        }
        self.look_again.set(now + u64::from(state.segment_blocks()));
        let leased: BTreeSet<u32> = state.leases.iter().map(|lease| lease.physical.get()).collect();
        let rows = state.rows.iter().filter(|(_, row)| !leased.contains(&row.physical));
        let mut groups = groups_of(rows.map(|(number, row)| (*number, row)));
        let room = state.segment_blocks();
        groups.sort_by_cached_key(|group| (Reverse(group.worth(now, room)), group.rows[0]));
        let targets_max = free.min(RESERVED_SEGMENTS as usize) as u32;
        // From the emptiest on; or from a group that is worth it by itself and did not fit beside those.
        let starts = (0..groups.len()).filter(|start| *start == 0 || groups[*start].segments > 1);
        let (chosen, targets) =
            starts.map(|start| &groups[start..]).find_map(|from| choose_groups(from, room, targets_max))?;
        let numbers = chosen.iter().flat_map(|group| &group.rows);
        let rows = numbers.filter_map(|number| Some((*number, state.rows.get(number)?.clone()))).collect();
        self.look_again.set(now);
        Some(Moving { rows, targets })
    }

    async fn empty(&self, moving: Moving) -> Result<()> {
        let free = self.contents.free_segments(0);
        let Some(targets) = free.get(..moving.targets as usize) else {
            // Somebody still reads what was emptied before.
            self.device.context().sleep(READER_WAIT_NS).await;
            return Ok(());
        };
        let reserved: Vec<Reading<'_>> =
            targets.iter().map(|target| self.contents.reading(*target)).collect();
        let room = self.geometry.segment_blocks;
        let mut moved = Vec::with_capacity(moving.rows.len());
        let mut next = 0;
        for (number, row) in &moving.rows {
            let live = row.live_slots();
            if live == 0 {
                moved.push((*number, row.clone()));
                continue;
            }
            let (first, last) = ((next / room) as usize, ((next + live - 1) / room) as usize);
            let continued = (last > first).then(|| targets[last]);
            let target = row.moved(targets[first], next % room, continued);
            self.move_row(row, &target).await?;
            moved.push((*number, target));
            next += live;
        }
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = self.news_of_rows(state, 0);
                // Of these, more is said below.
                changes.retain(|change| {
                    !matches!(change, Change::RowRemoved(number) if moved.iter().any(|(moved, _)| moved == number))
                });
                for (number, mut row) in moved {
                    // Slots that died meanwhile.
                    let Some(now) = state.rows.get(&number) else { continue };
                    let dead: Vec<u32> = row.live().filter(|slot| !now.is_live(*slot)).collect();
                    dead.iter().for_each(|slot| {
                        row.kill(*slot);
                    });
                    changes.push(match row.live_slots() {
                        0 => Change::RowRemoved(number),
                        _ => row.change(number),
                    });
                }
                changes
            })
            .await?;
        drop(reserved);
        let log = self.log()?;
        log.progress.give();
        log.go_on();
        Ok(())
    }

    /// Copies the live blocks of a row to where they are going to lie.
    async fn move_row(&self, from: &SegmentRow, to: &SegmentRow) -> Result<()> {
        let room = self.geometry.segment_blocks;
        let block_bytes = self.geometry.block_bytes as usize;
        let _reading: Vec<Reading<'_>> =
            from.segments().map(|physical| self.contents.reading(physical)).collect();
        let places: Vec<((u32, u32), (u32, u32))> =
            from.live().filter_map(|slot| Some((from.place(slot, room)?, to.place(slot, room)?))).collect();
        let follows = |one: (u32, u32), next: (u32, u32)| one.0 == next.0 && one.1 + 1 == next.1;
        let per_piece = (MOVE_BYTES / block_bytes).max(1);
        for target in places.chunk_by(|one, next| follows(one.1, next.1)) {
            for piece in target.chunks(per_piece) {
                let mut buf = self.device.context().buffers().reserved().get(piece.len() * block_bytes)?;
                let mut filled = 0;
                for source in piece.chunk_by(|one, next| follows(one.0, next.0)) {
                    let length = source.len() * block_bytes;
                    let (physical, block) = source[0].0;
                    let at = ByteOffset(self.geometry.address(physical, block));
                    let part = self.device.context().buffers().reserved().get(length)?;
                    let (result, part) = self.device.read(at, part, Io::of(Cause::Clean)).await;
                    result?;
                    buf[filled..filled + length].copy_from_slice(&part);
                    filled += length;
                }
                let (physical, block) = piece[0].1;
                let at = ByteOffset(self.geometry.address(physical, block));
                self.device.write(at, buf, Io::of(Cause::Clean)).await.0?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(physical: u32, continued: Option<u32>, live: u32) -> SegmentRow {
        let mut row = SegmentRow::of_log(physical, 16, 0).moved(physical, 0, continued);
        (0..live).for_each(|slot| row.revive(slot));
        row
    }

    #[test]
    fn rows_that_share_segments_are_emptied_together_and_all_of_these_count() {
        // Seven segments in which rows begin, twelve that they lie in: 111 blocks fit into seven.
        let rows = [
            (1, row(2, None, 9)),
            (2, row(2, Some(3), 11)),
            (3, row(3, Some(6), 14)),
            (4, row(4, Some(5), 16)),
            (5, row(8, Some(15), 16)),
            (6, row(9, Some(10), 16)),
            (7, row(11, Some(12), 13)),
            (8, row(13, None, 16)),
        ];
        let groups = groups_of(rows.iter().map(|(number, row)| (*number, row)));
        let sizes: Vec<_> =
            groups.iter().map(|group| (group.rows.as_slice(), group.segments, group.live)).collect();
        assert_eq!(sizes[0], (&[1, 2, 3][..], 3, 34));
        assert_eq!(sizes.iter().map(|(_, segments, _)| segments).sum::<u32>(), 12);
        let (chosen, targets) = choose_groups(&groups, 16, 5).unwrap();
        assert!(chosen.iter().map(|group| group.segments).sum::<u32>() > targets && targets <= 5);
        let group = |number, live| Group { rows: vec![number], segments: 1, live, written: 0 };
        let full = [group(1, 16), group(2, 15)];
        assert!(choose_groups(&full, 16, 5).is_none(), "nothing is won");
    }
}
