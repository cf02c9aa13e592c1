//! Emptying segments: which are worth it, where their blocks go, and moving them.
//!
//! A segment is emptied by moving all rows that lie in it, whole: a part of theirs in another segment goes along and
//! leaves that one emptier. Moved rows follow each other in a *target* which stays open from one round to the next
//! until it is full; what passes its end goes on in the next one. Blocks that have lived long and those that have not
//! go to targets of their own, so that what dies together lies together.
//!
//! Invariants: blocks are in their new place and flushed before a row says so; a target is known to memory alone and
//! filled further only while a row that was moved into it is there, so that it has never been free since; each round
//! frees more segments than it takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use crate::device::{Cause, Io};
use crate::error::Result;
use crate::format::journal::Change;
use crate::pool::contents::Reading;
use crate::pool::layout::RESERVED_SEGMENTS;
use crate::pool::metadata::{HOME_FIRST, Metadata, SegmentRow};
use crate::units::ByteOffset;

/// The pieces in which live blocks are moved.
const MOVE_BYTES: usize = 1 << 20;
/// How long emptying waits for readers of what it emptied before.
const READER_WAIT_NS: u64 = 1_000_000;
/// A third of what the log leases, free beside the reserved segments, is enough: it has leased some ahead, and the
/// later a segment is emptied the less lives in it.
const FREE_ENOUGH_OF_LEASES: usize = 3;
/// Targets that are open at the same time: for what has lived long, and for what has not.
const AGES: usize = 2;
/// So that worths of little differ.
const WORTH_SCALE: u128 = 1 << 32;

/// A segment that is being filled with moved rows.
#[derive(Debug)]
struct Target {
    physical: u32,
    /// Blocks, from the first one on.
    filled: u32,
    /// The rows that have been moved into it.
    rows: Vec<u32>,
}

/// The targets that are open, one for each age.
#[derive(Debug, Default)]
pub(super) struct Targets([Option<Target>; AGES]);

impl Targets {
    /// Forgets those that may have been free meanwhile. Their number is used once, so a row that is there has been there.
    fn keep_held(&mut self, state: &Metadata) {
        for place in &mut self.0 {
            let is_held = |target: &mut Target| {
                let mut rows = target.rows.iter().filter_map(|number| state.rows.get(number));
                rows.any(|row| row.segments().any(|physical| physical == target.physical))
            };
            *place = place.take().and_then(|mut target| is_held(&mut target).then_some(target));
        }
    }

    fn physical(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flatten().map(|target| target.physical)
    }

    /// Segments that so many more blocks of each age need.
    fn needed(&self, blocks: &[u32; AGES], segment_blocks: u32) -> u32 {
        let needed = |(blocks, target): (&u32, &Option<Target>)| {
            let left = target.as_ref().map_or(0, |target| segment_blocks - target.filled);
            blocks.saturating_sub(left).div_ceil(segment_blocks)
        };
        blocks.iter().zip(&self.0).map(needed).sum()
    }

    /// The row at its new place, behind what is there; `free` gives segments for more targets.
    fn place(
        &mut self,
        age: usize,
        (number, row): (u32, &SegmentRow),
        segment_blocks: u32,
        free: &mut impl Iterator<Item = u32>,
    ) -> Option<SegmentRow> {
        let empty = |physical| Target { physical, filled: 0, rows: Vec::new() };
        let open = &mut self.0[age];
        let mut target = match open.take().filter(|target| target.filled < segment_blocks) {
            Some(target) => target,
            None => empty(free.next()?),
        };
        let (physical, first_block) = (target.physical, target.filled);
        target.filled += row.live_slots();
        let continued = if target.filled > segment_blocks { Some(free.next()?) } else { None };
        if let Some(continued) = continued {
            target = Target { filled: target.filled - segment_blocks, ..empty(continued) };
        }
        target.rows.push(number);
        *open = Some(target);
        Some(row.moved(physical, first_block, continued))
    }
}

/// A segment and the rows that have to move for it to be free.
#[derive(Debug, Default)]
struct Used {
    rows: Vec<u32>,
    /// Live blocks of these rows, those in other segments included.
    live: u32,
    /// The log's sequence at which they were written, added up for every block.
    written: u128,
}

impl Used {
    /// What emptying it is worth (Rosenblum and Ousterhout, "The design and implementation of a log-structured file
    /// system", 1992): the space won times its age, over the cost of reading all and writing what lives. What has not
    /// died for long is going to live longer, so that its space stays won.
    fn worth(&self, now: u64, segment_blocks: u32) -> u128 {
        let live = u128::from(self.live);
        let blocks = u128::from(segment_blocks);
        let written = self.written.checked_div(live).unwrap_or(0);
        let age = (u128::from(now).saturating_sub(written) + 1).isqrt();
        blocks.saturating_sub(live) * age * WORTH_SCALE / (blocks + live)
    }
}

/// The segments that rows lie in and that can be emptied: all but `kept`, and those whose rows lie in these too.
fn used_segments<'a>(
    rows: impl Iterator<Item = (u32, &'a SegmentRow)>,
    kept: &BTreeSet<u32>,
) -> BTreeMap<u32, Used> {
    let mut used: BTreeMap<u32, Used> = BTreeMap::new();
    let mut fixed = BTreeSet::new();
    for (number, row) in rows {
        let is_fixed = row.segments().any(|physical| kept.contains(&physical));
        for physical in row.segments() {
            if is_fixed {
                fixed.insert(physical);
            }
            let one = used.entry(physical).or_default();
            one.rows.push(number);
            one.live += row.live_slots();
            one.written += u128::from(row.written) * u128::from(row.live_slots());
        }
    }
    used.retain(|physical, _| !fixed.contains(physical));
    used
}

/// The rows that may move: what lies in a linear object stays.
fn mapped_rows(state: &Metadata) -> impl Iterator<Item = (u32, &SegmentRow)> {
    state.rows.range(..HOME_FIRST).map(|(number, row)| (*number, row))
}

/// A step towards more free segments.
pub(super) enum Emptying {
    /// These rows are moved.
    Move(Moving),
    /// No segment is won by itself, since rows tie it to others: they are gathered.
    Untie,
}

/// What is moved together, by age, and how many segments it needs beside the open targets.
pub(super) struct Moving {
    rows: [Vec<(u32, SegmentRow)>; AGES],
    targets: u32,
}

/// From the segment on that is worth it most: as few as free one more than they need. They need `targets_max` at most.
/// What was written `cold_after` sequences before `now` is old.
fn choose(
    state: &Metadata,
    targets: &Targets,
    worth: impl Fn(&Used) -> u128,
    (now, cold_after): (u64, u64),
    targets_max: u32,
) -> Option<Moving> {
    let mut kept: BTreeSet<u32> = state.leases.iter().map(|lease| lease.physical.get()).collect();
    kept.extend(targets.physical());
    let segment_blocks = state.segment_blocks();
    let used = used_segments(mapped_rows(state), &kept);
    let mut by_worth: Vec<&Used> = used.values().collect();
    by_worth.sort_by_cached_key(|one| Reverse(worth(one)));
    let (mut chosen, mut blocks, mut won) = (BTreeMap::new(), [0; AGES], 0);
    for one in by_worth {
        let new = one.rows.iter().filter(|number| !chosen.contains_key(*number));
        let new: Vec<(u32, &SegmentRow, usize)> = new
            .filter_map(|number| {
                let row = state.rows.get(number)?;
                Some((*number, row, usize::from(now.saturating_sub(row.written) > cold_after)))
            })
            .collect();
        let mut more = blocks;
        new.iter().for_each(|(_, row, age)| more[*age] += row.live_slots());
        let needed = targets.needed(&more, segment_blocks);
        if needed > targets_max {
            continue;
        }
        blocks = more;
        won += 1;
        chosen.extend(new.into_iter().map(|(number, row, age)| (number, (row, age))));
        if won > needed {
            let mut moving = Moving { rows: Default::default(), targets: needed };
            for (number, (row, age)) in chosen {
                moving.rows[age].push((number, row.clone()));
            }
            return Some(moving);
        }
    }
    None
}

/// The rows that share a segment with another one, or lie in two.
pub(super) fn tied_rows(state: &Metadata) -> Vec<u32> {
    let leased: BTreeSet<u32> = state.leases.iter().map(|lease| lease.physical.get()).collect();
    let used = used_segments(mapped_rows(state), &leased);
    let is_alone = |row: &SegmentRow| {
        row.continued.is_none() && used.get(&row.physical).is_none_or(|one| one.rows.len() == 1)
    };
    mapped_rows(state).filter(|(_, row)| !is_alone(row)).map(|(number, _)| number).collect()
}

/// What was written so many sequences ago is cold: the log has written half of what lives since.
fn cold_after(state: &Metadata, now: u64) -> u64 {
    let log_blocks = u128::from(state.next_virtual().start) * u128::from(state.segment_blocks());
    let sequences = u128::from(state.mapped_blocks()) * u128::from(now) / (2 * log_blocks).max(1);
    u64::try_from(sequences).unwrap_or(u64::MAX)
}

impl Core {
    /// Whether free segments run short.
    pub(super) fn is_scarce(&self) -> bool {
        let enough = RESERVED_SEGMENTS as usize + self.leases_wanted().div_ceil(FREE_ENOUGH_OF_LEASES);
        self.free_for_log_up_to(&self.contents.journal().state(), enough + 1) <= enough
    }

    /// What to do for free segments, if they run short and it wins any. `may_untie`: rows may be gathered.
    pub(super) fn choose_emptying(&self, may_untie: bool) -> Option<Emptying> {
        if self.linear.is_some() || !self.is_scarce() {
            return None;
        }
        let state = self.contents.journal().state();
        // Looking costs as much as there are rows; little can have died since nothing was found to be won.
        let (now, is_short) = (self.sequence(), self.is_short());
        if now < self.look_again.get() && !is_short {
            return None;
        }
        let blocks = state.segment_blocks();
        self.look_again.set(now + u64::from(blocks));
        let mut targets = self.targets.borrow_mut();
        targets.keep_held(&state);
        let targets_max = self.free_for_log_up_to(&state, RESERVED_SEGMENTS as usize) as u32;
        let cold_after = cold_after(&state, now);
        // What is old and almost full can take all targets before anything is won; then the emptiest go first.
        let choose = |targets: &Targets| {
            [now, 0].into_iter().find_map(|aged_at| {
                choose(&state, targets, |used| used.worth(aged_at, blocks), (now, cold_after), targets_max)
            })
        };
        let mut moving = choose(&targets);
        if moving.is_none() && is_short && targets.physical().next().is_some() {
            // What the targets still have room for may be all that there is to be won.
            *targets = Targets::default();
            moving = choose(&targets);
        }
        let emptying = match moving {
            Some(moving) => Emptying::Move(moving),
            None if may_untie && is_short && state.can_gather() && !tied_rows(&state).is_empty() => {
                Emptying::Untie
            }
            None => return None,
        };
        self.look_again.set(now);
        Some(emptying)
    }

    /// Moves rows and says so in the journal.
    pub(super) async fn empty(&self, moving: Moving) -> Result<()> {
        // What lies in the open targets may die while rows are moved there. They would be free, and the log would write over
        // what is being moved: so nobody takes them before the journal knows that it is there.
        let open: Vec<u32> = self.targets.borrow().physical().collect();
        #[cfg(feature = "mutations")]
        let open = if crate::mutation::is_on(crate::mutation::Mutation::OpenTargetUnheld) {
            Vec::new()
        } else {
            open
        };
        let held: Vec<Reading<'_>> = open.iter().map(|target| self.contents.reading(*target)).collect();
        self.targets.borrow_mut().keep_held(&self.contents.journal().state());
        if self.targets.borrow().physical().count() < open.len() {
            // Chosen with room that is not there any more.
            return Ok(());
        }
        let free = self.free_for_log(&self.contents.journal().state(), 0);
        let Some(new) = free.get(..moving.targets as usize) else {
            // Somebody still reads what was emptied before.
            self.device.context().sleep(READER_WAIT_NS).await;
            return Ok(());
        };
        let reserved: Vec<Reading<'_>> = new.iter().map(|target| self.contents.reading(*target)).collect();
        let mut new = new.iter().copied();
        let mut moved = Vec::new();
        for (age, rows) in moving.rows.into_iter().enumerate() {
            for (number, row) in rows {
                if row.live_slots() == 0 {
                    moved.push((number, row));
                    continue;
                }
                let room = self.geometry.segment_blocks;
                let target = self.targets.borrow_mut().place(age, (number, &row), room, &mut new);
                let Some(target) = target else { unreachable!("as many targets as were counted") };
                self.move_row(&row, &target).await?;
                moved.push((number, target));
            }
        }
        self.contents
            .journal()
            .commit(|state| {
                let is_moved_to = |physical: u32| moved.iter().any(|(_, row)| row.segments().any(|at| at == physical));
                let is_taken = || state.leases.iter().any(|lease| is_moved_to(lease.physical.get()));
                debug_assert!(!is_taken(), "rows have been moved to a segment that the log has leased");
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
        drop((held, reserved));
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
    use crate::format::journal::Lease;

    const BLOCKS: u32 = 16;

    fn by_age(used: &Used) -> u128 {
        used.worth(100, BLOCKS)
    }

    /// A state of so many segments with these rows: segment, first block, where they go on, live slots, age.
    fn state(segments: u32, rows: &[(u32, u32, Option<u32>, u32, u64)]) -> Metadata {
        let mut state = Metadata::new(segments, BLOCKS);
        for (number, (physical, first_block, continued, live, written)) in (0..).zip(rows) {
            let mut row = SegmentRow::of_log(*physical, BLOCKS, *written);
            (0..*live).for_each(|slot| row.revive(slot));
            state.apply(&row.moved(*physical, *first_block, *continued).change(number)).unwrap();
        }
        state
    }

    fn numbers(moving: &Moving, age: usize) -> Vec<u32> {
        moving.rows[age].iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn the_rows_of_a_segment_move_whole_and_what_they_share_counts_once() {
        // Segments 0, 1 and 2 hold a row each and two that go on from one to the next; segment 3 is full.
        let rows = [
            (0, 0, None, 5, 0),
            (0, 10, Some(1), 8, 0),
            (1, 2, Some(2), 16, 0),
            (3, 0, None, 16, 0),
            (2, 4, None, 1, 0),
        ];
        let state = state(9, &rows);
        let used = used_segments(state.rows.iter().map(|(number, row)| (*number, row)), &BTreeSet::new());
        assert_eq!((used[&1].rows.as_slice(), used[&1].live), (&[1, 2][..], 24));
        // Segment 0 takes one target for its 13 blocks, and segment 2 with its 17 needs one more. With these, nothing is
        // left in segment 1: three are free, and two are full but for two blocks.
        let moving = choose(&state, &Targets::default(), by_age, (100, 1000), 5).unwrap();
        assert_eq!((numbers(&moving, 0), moving.targets), (vec![0, 1, 2, 4], 2));
        assert!(choose(&state, &Targets::default(), by_age, (100, 1000), 1).is_none(), "too few targets");
        assert_eq!(tied_rows(&state), [0, 1, 2, 4]);
        let full = [(3, 0, None, 16, 0), (4, 0, None, 15, 0)];
        assert!(
            choose(&self::state(9, &full), &Targets::default(), by_age, (100, 0), 5).is_none(),
            "nothing is won"
        );
    }

    #[test]
    fn a_target_is_filled_over_several_rounds_as_long_as_a_row_holds_it() {
        let mut state = state(9, &[(0, 0, None, 10, 0), (1, 0, None, 9, 0), (2, 0, None, 3, 90)]);
        let mut targets = Targets::default();
        let mut free = 5..9;
        for (number, age, place) in [(0, 1, (5, 0, None)), (1, 1, (5, 10, Some(6))), (2, 0, (7, 0, None))] {
            let row = targets.place(age, (number, &state.rows[&number]), BLOCKS, &mut free).unwrap();
            let (physical, block) = row.place(0, BLOCKS).unwrap();
            assert_eq!((physical, block, row.continued), place);
            state.apply(&row.change(number)).unwrap();
        }
        targets.keep_held(&state);
        assert_eq!(targets.physical().collect::<Vec<_>>(), [7, 6]);
        assert_eq!(targets.needed(&[13, 13], BLOCKS), 0);
        assert_eq!(targets.needed(&[14, 30], BLOCKS), 3);
        assert!(choose(&state, &targets, by_age, (100, 0), 5).is_none(), "what lies in a target stays");
        // All that lay in one of them has died: somebody else may have taken it.
        state.apply(&Change::RowRemoved(2)).unwrap();
        state.apply(&Change::Lease(Lease { physical: 7.into(), virtual_segment: 9.into() })).unwrap();
        targets.keep_held(&state);
        assert_eq!(targets.physical().collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn what_is_old_goes_to_another_target_and_is_worth_more() {
        let rows = [(0, 0, None, 6, 90), (1, 0, None, 6, 10), (2, 0, None, 6, 80), (3, 0, None, 6, 80)];
        let state = state(9, &rows);
        let moving = choose(&state, &Targets::default(), by_age, (100, 50), 5).unwrap();
        assert_eq!((numbers(&moving, 1), numbers(&moving, 0)), (vec![1], vec![2, 3]));
        assert_eq!(moving.targets, 2);
        let used = used_segments(state.rows.iter().map(|(number, row)| (*number, row)), &BTreeSet::new());
        assert!(used[&1].worth(100, BLOCKS) > used[&0].worth(100, BLOCKS));
    }

    #[test]
    fn the_emptiest_are_found_behind_old_and_almost_full_ones() {
        // Two old segments would take both targets; three young ones fit these.
        let [old, young] = [(15, 0), (10, 100)];
        let rows = [old, old, young, young, young];
        let rows: Vec<_> =
            (0..).zip(rows).map(|(at, (live, written))| (at, 0, None, live, written)).collect();
        let state = state(9, &rows);
        assert!(choose(&state, &Targets::default(), by_age, (100, 1000), 2).is_none());
        let by_room = |used: &Used| used.worth(0, BLOCKS);
        let moving = choose(&state, &Targets::default(), by_room, (100, 1000), 2).unwrap();
        assert_eq!((numbers(&moving, 0), moving.targets), (vec![2, 3, 4], 2));
    }

    #[test]
    fn cold_is_what_was_written_before_half_a_volume() {
        // Thirty-two blocks live. The log has written 8 segments with two sequences for each block.
        let mut state = state(9, &[(0, 0, None, 16, 0), (1, 0, None, 16, 0)]);
        state.apply(&Change::Lease(Lease { physical: 7.into(), virtual_segment: 7.into() })).unwrap();
        assert_eq!(cold_after(&state, 8 * 16 * 2), 32);
    }
}
