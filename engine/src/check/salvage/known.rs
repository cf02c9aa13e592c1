//! What roots, images and journals tell, as far as they can be believed.
//!
//! Where all of it is whole, that is the state. Else the state of the newest image up to the first record that is
//! missing or does not fit, and behind that, record by record, what helps to find blocks: rows, runs, openings.
//! Nothing of it is relied on by itself: pages of the index are sealed, and each block has its checksum.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::journal::{self, AtRoot, HEADER_BYTES, Judged, UNIT};
use super::super::names::Names;
use super::super::objects::Objects;
use super::super::rows::{RowState, count};
use super::super::shape::Shape;
use super::super::state::{RunState, State};
use super::super::{Checker, bit, index, is_sealed};
use crate::error::Result;
use crate::format::journal::{Change, Opening, Rollback, Row};

/// What is known of a pool.
#[derive(Default)]
pub(super) struct Known {
    /// Nothing is missing.
    pub is_complete: bool,
    /// Nor does anything look as if a later record had been there.
    pub is_sure: bool,
    /// Everything up to this sequence is in the index.
    pub base: u64,
    /// Everything up to here was durable.
    pub watermark: u64,
    /// No moment before it is kept, but for those that have names.
    pub window: u64,
    /// Where each virtual segment lies or may lie, the likeliest place last.
    pub rows: BTreeMap<u32, Vec<RowState>>,
    /// The state's own first; and the moment before which each may have let go of versions.
    pub runs: Vec<(RunState, u64)>,
    /// As they follow each other.
    pub openings: Vec<Opening>,
    pub rollbacks: Vec<Rollback>,
    pub names: Names,
    pub objects: Objects,
    /// Where the log lies behind its checkpoint, in bytes of the device.
    pub tail: Vec<Range<u64>>,
    /// The window that the records behind the damage tell of.
    pub told_window: u64,
}

impl Known {
    pub async fn load(checker: &mut Checker<'_>, shape: &Shape) -> Result<Self> {
        if shape.metadata_end() > checker.device.geometry().size_bytes {
            return Ok(Self::default());
        }
        if let Some(state) = journal::load(checker, shape).await? {
            let is_sure = !state.may_go_on;
            return Ok(Self { is_complete: true, is_sure, ..Self::of(shape, state) });
        }
        let mut roots = Vec::new();
        for place in 0..2 {
            if let AtRoot::Root(root) = journal::read_root(checker, shape, place).await? {
                roots.push(root);
            }
        }
        roots.sort_by_key(|root| std::cmp::Reverse(root.generation.get()));
        for root in roots {
            let Some(mut state) = journal::load_image(checker, shape, &root).await? else { continue };
            let first = root.generation.get();
            // A record that does not fit leaves the state of no use: first it is counted how many do.
            let (mut fit, mut fits) = (0, true);
            walk(checker, shape, first, &mut |changes, follows| {
                fits = fits && follows && state.apply_record(&changes).is_ok();
                fit += u64::from(fits);
            })
            .await?;
            let Some(mut state) = journal::load_image(checker, shape, &root).await? else { continue };
            let (mut at, mut later) = (0, Vec::new());
            walk(checker, shape, first, &mut |changes, _| {
                if at < fit {
                    let _counted = state.apply_record(&changes);
                } else {
                    later.extend(changes.into_iter().filter(helps));
                }
                at += 1;
            })
            .await?;
            let mut known = Self::of(shape, state);
            later.into_iter().for_each(|change| known.take(shape, change));
            return Ok(known);
        }
        // No image: what the records say by themselves.
        let mut known = Self::default();
        let mut later = Vec::new();
        for area in 0..2 {
            let keep = &mut |generation, changes: Vec<Change>| {
                later.extend(changes.into_iter().filter(helps).map(|change| (generation, change)));
            };
            loose(checker, shape, area, 0, |_| true, keep).await?;
        }
        later.sort_by_key(|(generation, _)| *generation);
        later.into_iter().for_each(|(_, change)| known.take(shape, change));
        Ok(known)
    }

    fn of(shape: &Shape, state: State) -> Self {
        let mut tail = Vec::new();
        let first = state.checkpoint_block().unwrap_or(0);
        for (lease, block) in state.leases.iter().zip(std::iter::once(first).chain(std::iter::repeat(0))) {
            let physical = lease.physical.get();
            tail.push(shape.address(physical, block)..shape.address(physical + 1, 0));
        }
        Self {
            is_complete: false,
            is_sure: false,
            base: state.checkpoint.sequence.get(),
            watermark: state.watermark,
            window: state.window,
            rows: state.rows.into_iter().map(|(number, row)| (number, vec![row])).collect(),
            runs: state.runs.into_iter().map(|run| (run, state.window)).collect(),
            openings: state.openings,
            rollbacks: state.rollbacks,
            names: state.names,
            objects: state.objects,
            tail,
            told_window: state.window,
        }
    }

    /// Takes up what a record behind the damage says.
    fn take(&mut self, shape: &Shape, change: Change) {
        match change {
            Change::Opening(opening) => {
                self.openings.retain(|known| known.nonce != opening.nonce);
                self.openings.push(opening);
            }
            Change::Row(row, live, present) => {
                if let Some(made) = row_state(shape, &row, live, present) {
                    self.rows.entry(row.virtual_segment.get()).or_default().push(made);
                }
            }
            Change::Run(run, extents) => {
                let is_sound = index::fits(shape, &run, &extents) && run.last_sequence.get() < 1 << 62;
                if is_sound && self.runs.iter().all(|(known, _)| known.run.run != run.run) {
                    self.runs.push((RunState { run, extents }, self.told_window));
                }
            }
            Change::Window(window) => self.told_window = self.told_window.max(window),
            Change::Rollback(rollback) => {
                let is_new = self.rollbacks.last().is_none_or(|last| last.at < rollback.at);
                if is_new && rollback.to < rollback.at {
                    self.rollbacks.push(rollback);
                }
            }
            // What does not fit is of no use, and has changed nothing.
            Change::Snapshot(snapshot, name, group) => {
                drop(self.names.snapshot(shape, &snapshot, &name, group));
            }
            Change::SnapshotRemoved(number) => drop(self.names.forget_snapshot(number)),
            Change::Branch(branch, name) => drop(self.names.branch(shape, &branch, &name, false)),
            Change::Volume(volume, name) => drop(self.names.volume(shape, &volume, &name, false)),
            Change::BranchRemoved(number) => drop(self.names.forget_branch(number)),
            _ => {}
        }
    }

    /// Where the log may go on behind its last batch, which ends here.
    pub fn tail_ends(&self, end: Option<u64>) -> impl Iterator<Item = u64> {
        let end = end.or(self.tail.first().map(|range| range.start)).unwrap_or(0);
        let at = self.tail.iter().position(|range| (range.start..=range.end).contains(&end));
        let next = at.and_then(|at| self.tail.get(at + 1)).map(|range| range.start);
        [end].into_iter().chain(next)
    }

    /// The blocks of the data area where a slot may lie: segment and block, the likeliest first.
    pub fn places(&self, shape: &Shape, number: u32, slot: u32) -> impl Iterator<Item = (u32, u32)> {
        let rows = self.rows.get(&number).map_or(&[][..], Vec::as_slice);
        // What lies in a linear object may not have a row yet.
        let in_object = self.objects.segment(number).filter(|_| shape.is_object(number));
        let of_object = in_object.map(|physical| (physical, slot));
        let of_rows = rows.iter().rev().filter_map(move |row| {
            let block = match &row.present {
                None => slot,
                Some(present) if bit(present, slot) => {
                    let (word, in_word) = (slot as usize / 64, slot % 64);
                    row.first_block
                        + count(&present[..word])
                        + (present[word] & ((1 << in_word) - 1)).count_ones()
                }
                Some(_) => return None,
            };
            let (physical, block) = row.place(block, shape.segment_blocks);
            (block < shape.segment_blocks).then_some((physical, block))
        });
        of_object.into_iter().chain(of_rows)
    }
}

/// Whether a change by itself helps to find blocks.
fn helps(change: &Change) -> bool {
    matches!(
        change,
        Change::Opening(_)
            | Change::Row(..)
            | Change::Run(..)
            | Change::Window(_)
            | Change::Rollback(_)
            | Change::Snapshot(..)
            | Change::SnapshotRemoved(_)
            | Change::Branch(..)
            | Change::Volume(..)
            | Change::BranchRemoved(_)
    )
}

fn row_state(shape: &Shape, row: &Row, live: Vec<u64>, present: Vec<u64>) -> Option<RowState> {
    let room = shape.segment_blocks;
    let continued = Some(row.continued.get()).filter(|continued| *continued != u32::MAX);
    let present = (row.identity.get() == 0).then_some(present);
    let made = RowState {
        physical: row.physical.get(),
        continued,
        first_block: row.first_block.get(),
        live,
        present,
        used: None,
    };
    let inside = made.segments().all(|physical| physical < shape.segments);
    (row.slots.get() == room && inside && made.first_block < room).then_some(made)
}

/// The records of a generation and of the next one, whose root may be lost, and whether each follows the one before.
async fn walk(
    checker: &mut Checker<'_>,
    shape: &Shape,
    first: u64,
    visit: &mut dyn FnMut(Vec<Change>, bool),
) -> Result<()> {
    let mut is_whole = true;
    for generation in [first, first.saturating_add(1)] {
        let (mut used, mut number) = (0, 0);
        while used < shape.journal_bytes() {
            let at = shape.journal(generation) + used;
            let Some(record) = journal::read_record(checker, shape, at, shape.journal_bytes() - used).await?
            else {
                break;
            };
            if !matches!(journal::judge(&record, shape, at, generation, number), Judged::Next) {
                break;
            }
            let Ok(changes) = journal::decode(&record.sealed[HEADER_BYTES as usize..]) else { break };
            visit(changes, is_whole);
            used += (record.sealed.len() as u64).next_multiple_of(UNIT);
            number += 1;
        }
        let mut lost = false;
        let keep = &mut |_, changes| {
            lost = true;
            visit(changes, false);
        };
        loose(checker, shape, generation, used, |found| found == generation, keep).await?;
        is_whole &= !lost;
    }
    Ok(())
}

/// Whole records of this pool that begin anywhere behind a place of a journal: generation and changes.
async fn loose(
    checker: &mut Checker<'_>,
    shape: &Shape,
    area: u64,
    used: u64,
    wanted: impl Fn(u64) -> bool,
    visit: &mut dyn FnMut(u64, Vec<Change>),
) -> Result<()> {
    let (mut at, end) = (shape.journal(area) + used, shape.journal(area) + shape.journal_bytes());
    // Each unit may say that it is a record of all that follows.
    let mut budget = shape.journal_bytes();
    while at < end {
        let record = journal::read_record(checker, shape, at, end - at).await?;
        let mut step = UNIT;
        if let Some(record) = record {
            let Some(left) = budget.checked_sub(record.sealed.len() as u64) else { return Ok(()) };
            budget = left;
            let header = &record.header;
            let is_own = header.magic == crate::format::journal::MAGIC
                && header.address.get() == at
                && header.pool_id == shape.pool_id
                && wanted(header.generation.get())
                && record.possible
                && is_sealed(&record.sealed);
            if is_own && let Ok(changes) = journal::decode(&record.sealed[HEADER_BYTES as usize..]) {
                visit(header.generation.get(), changes);
                step = (record.sealed.len() as u64).next_multiple_of(UNIT);
            }
        }
        at += step;
    }
    Ok(())
}
