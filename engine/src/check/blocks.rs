//! Every block that lives, against the index entry that names it and the batch that wrote it.
//!
//! Rows are taken in groups of at most [`SLOTS_MAX`] slots. For each group the index is read once, in the order of
//! blocks and sequences, so that it is known which version superseded which; then the group's segments are read in
//! their order on the device.

use std::collections::BTreeMap;

use super::index::{Merged, deaths};
use super::log::{Tail, Window, contradiction};
use super::returns::Returns;
use super::rows::{RowState, count, ones};
use super::shape::Shape;
use super::state::{ALL_ACCEPTED, State};
use super::{Checker, Code, Place, Progress, SLOTS_MAX, bit};
use crate::error::Result;
use crate::format::batch::{self, Batch, Decoded, KIND_COPIED, KIND_SAVED, has_payload};
use crate::format::crc32c;
use crate::format::index_page::{IndexEntry, has_slots};
use crate::units::branch_of;

/// What the index says of a slot.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// It says something.
    named: bool,
    lba: u64,
    sequence: u64,
    /// The sequence that superseded it.
    death: u64,
    checksum: u32,
    /// A run has its death.
    has_death: bool,
    /// A moment that can be opened sees it.
    wanted: bool,
    /// Its block must be whole.
    checked: bool,
    /// Nothing names it, and it is going to be written over when what has changed there is applied.
    explained: bool,
}

impl Slot {
    /// Of an index entry whose block lives here or does not.
    fn of(entry: &IndexEntry, death: u64, wanted: bool, checked: bool) -> Self {
        let (lba, sequence) = (entry.lba.get(), entry.sequence.get());
        Self {
            named: true,
            lba,
            sequence,
            death,
            checksum: entry.checksum.get(),
            wanted,
            checked,
            ..Self::default()
        }
    }
}

/// What the index says of a version, and what follows from it.
struct Version {
    entry: IndexEntry,
    death: u64,
    /// A moment that can be opened sees it.
    wanted: bool,
    /// No run knows a later one.
    newest: bool,
}

/// The slots of some rows.
struct Group {
    /// Where each row's slots begin.
    rows: BTreeMap<u32, usize>,
    slots: Vec<Slot>,
    /// The first of them: what no row holds is told once.
    is_first: bool,
}

impl Group {
    fn slot(&mut self, number: u32, slot: u32) -> Option<&mut Slot> {
        let start = self.rows.get(&number)?;
        self.slots.get_mut(start + slot as usize)
    }
}

/// Checks all blocks.
pub(super) async fn check(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    tail: &Tail,
) -> Result<()> {
    let total = state.rows.values().map(|row| u64::from(count(&row.live))).sum();
    let mut done = 0;
    (checker.progress)(Progress { done, total });
    let numbers: Vec<u32> = state.rows.keys().copied().collect();
    let room = shape.segment_blocks as usize;
    let window = earliest(shape, state, tail);
    let returns = Returns::new(&state.rollbacks, tail.rollback);
    for (at, chunk) in numbers.chunks((SLOTS_MAX / room).max(1)).enumerate() {
        let rows = chunk.iter().zip((0..).step_by(room)).map(|(number, start)| (*number, start)).collect();
        let slots = vec![Slot::default(); chunk.len() * room];
        let mut group = Group { rows, slots, is_first: at == 0 };
        fill(checker, shape, state, tail, &returns, window, &mut group).await?;
        check_deaths(checker, shape, state, &returns, window, &mut group).await?;
        let mut in_order: Vec<(u32, u32, u32)> = chunk
            .iter()
            .filter_map(|number| state.rows.get(number).map(|row| (row.physical, row.first_block, *number)))
            .collect();
        in_order.sort_unstable();
        for (_, _, number) in in_order {
            let (Some(row), Some(start)) = (state.rows.get(&number), group.rows.get(&number)) else {
                continue;
            };
            let slots = &group.slots[*start..][..room];
            let mut rows = Row { number, row, slots, covered: 0, missing: 0 };
            rows.check(checker, shape, tail).await?;
            done += u64::from(count(&row.live));
            (checker.progress)(Progress { done, total });
        }
    }
    Ok(())
}

/// Notes what the index says of the group's slots.
async fn fill(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    tail: &Tail,
    returns: &Returns,
    window: u64,
    group: &mut Group,
) -> Result<()> {
    let mut merged = Merged::open(checker, shape, state).await?;
    let mut next = merged.next(checker, shape).await?;
    // Versions of the block at hand that nothing has superseded so far, and when they were discarded: ever earlier.
    let mut living: Vec<(IndexEntry, u64)> = Vec::new();
    let wanted = |entry: &IndexEntry, death| {
        let branch = branch_of(entry.lba.get());
        death > window || state.names.sees(branch, entry.sequence.get(), death)
    };
    while let Some(entry) = next {
        next = merged.next(checker, shape).await?;
        let (lba, sequence) = (entry.lba.get(), entry.sequence.get());
        if shape.linear && entry.sequence > state.applied.sequence {
            let (number, slot) = shape.home(lba);
            group.slot(number, slot).into_iter().for_each(|slot| slot.explained = true);
        }
        let discarded_at = if branch_of(lba) == 0 { returns.discarded_at(sequence) } else { u64::MAX };
        while let Some((older, end)) = living.pop_if(|(_, end)| *end <= discarded_at) {
            let death = sequence.min(end);
            let version = Version { entry: older, death, wanted: wanted(&older, death), newest: false };
            place(checker, shape, state, returns, group, &version);
        }
        living.push((entry, discarded_at));
        if next.is_some_and(|next| next.lba == entry.lba) {
            continue;
        }
        for (older, end) in living.drain(..) {
            let newest = end == u64::MAX;
            let death = if newest { tail.first_change(lba).unwrap_or(end) } else { end };
            let version = Version { entry: older, death, wanted: wanted(&older, death), newest };
            place(checker, shape, state, returns, group, &version);
        }
    }
    Ok(())
}

/// The earliest moment that can be opened. What a linear volume has taken in may have been written over without a
/// word where no past is kept and its base is not pinned.
fn earliest(shape: &Shape, state: &State, tail: &Tail) -> u64 {
    let keeps_none = shape.linear && !shape.keeps_past && state.accepted == ALL_ACCEPTED;
    if keeps_none { state.window.max(tail.end.sequence) } else { state.window }
}

/// Notes a version where it lies.
fn place(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    returns: &Returns,
    group: &mut Group,
    version: &Version,
) {
    let Version { entry, death, wanted, newest } = version;
    if !has_slots(entry.virtual_segment.get()) {
        return;
    }
    let (number, slot) = (entry.virtual_segment.get(), entry.slot.get());
    let at = Place::default().sequence(entry.sequence.get()).block(entry.lba.get());
    let lives = |number, slot| state.rows.get(&number).is_some_and(|row| bit(&row.live, slot));
    let (is_home, is_live) = (shape.is_extent(number), lives(number, slot));
    let is_applied = entry.sequence <= state.applied.sequence;
    let is_passed = returns.may_be_passed(entry.sequence.get());
    if shape.linear && !is_home && *newest && is_applied && !is_passed && group.is_first {
        checker.found(Code::Index, at, "it is said to be applied, and is not at home");
    }
    // Brought home, and the index is not told yet, or never because it has been superseded since.
    let may_be_home = shape.linear && !is_home && !is_live && *wanted;
    let home = may_be_home.then(|| shape.home(entry.lba.get())).filter(|home| lives(home.0, home.1));
    if let Some(home) = home {
        // It died in the log.
        let slot = Slot { has_death: true, ..Slot::of(entry, *death, true, true) };
        note(checker, group, home, slot, true);
    }
    let came_home = home.is_some();
    let is_there = state.rows.contains_key(&number);
    if !is_there && !came_home {
        if *wanted && group.is_first {
            checker.found(Code::DeadBlock, at, format!("virtual segment {number} has no row any more"));
        }
        return;
    }
    // What is not said to be applied is read in the log.
    // What may be overwritten in its place without a word has no checksum.
    let is_unverified = shape.is_unverified(number);
    let checked = if is_unverified {
        false
    } else if is_home {
        is_live && *wanted
    } else {
        is_live || (came_home && !is_applied)
    };
    let known = note(checker, group, (number, slot), Slot::of(entry, *death, *wanted, checked), is_home);
    if known && *wanted && !is_live && !came_home {
        let text = format!("slot {slot} of virtual segment {number} is dead, and a moment needs it");
        checker.found(Code::DeadBlock, at, text);
    }
}

/// Notes what lies in a slot of the group; false if it is none of them, or taken. A slot at home holds one version
/// after the other, of which one at most is wanted.
fn note(
    checker: &mut Checker<'_>,
    group: &mut Group,
    (number, slot): (u32, u32),
    new: Slot,
    is_home: bool,
) -> bool {
    let Some(known) = group.slot(number, slot) else { return false };
    if known.named && (!is_home || (known.wanted && new.wanted)) {
        let at = Place::default().sequence(new.sequence).block(new.lba);
        let text = format!("slot {slot} of virtual segment {number} is block {} too", known.lba);
        checker.found(Code::Index, at, text);
        return false;
    }
    if !known.named || new.wanted {
        *known = Slot { explained: known.explained, ..new };
    }
    true
}

/// Deaths that are still to come out of the window say what the entries say.
async fn check_deaths(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    returns: &Returns,
    window: u64,
    group: &mut Group,
) -> Result<()> {
    for run in &state.runs {
        let mut deaths = deaths(run);
        while let Some(death) = deaths.next(checker, shape).await? {
            let (number, slot) = death.place();
            let sequence = death.death.get();
            let branch = u32::from(death.branch.get());
            let sees = |birth, death| state.names.sees(branch, birth, death);
            let is_kept = sequence > window || sees(death.birth.get(), sequence);
            if !is_kept || (death.is_of_volume() && returns.revives(death.birth.get(), sequence)) {
                continue;
            }
            let agrees = match group.slot(number, slot) {
                Some(known) => {
                    let is_new = !std::mem::replace(&mut known.has_death, true);
                    let (birth, next) = (known.sequence, known.death);
                    // What superseded it may have been thrown away, since no moment that is kept sees that.
                    let is_gone = sequence < next && next <= window && !sees(sequence, next);
                    is_new
                        && branch_of(known.lba) == branch
                        && birth == death.birth.get()
                        && (sequence == next || is_gone)
                }
                // What was brought home before a crash and superseded after it may have died in the log.
                None => {
                    let is_gone = shape.linear && number < state.applied.virtual_segment.get();
                    !group.is_first || is_gone || state.rows.contains_key(&number)
                }
            };
            if !agrees {
                let text = format!(
                    "run {}: the death of slot {slot} of virtual segment {number} is not that of its entry",
                    run.run.run
                );
                checker.found(Code::Index, Place::default().sequence(sequence), text);
            }
        }
    }
    let last = state.checkpoint.sequence.get();
    for slot in &group.slots {
        if slot.wanted && slot.death <= last && !slot.has_death && !returns.may_lack_deaths(slot.death) {
            let place = Place::default().sequence(slot.sequence).block(slot.lba);
            checker.found(Code::Index, place, format!("no run says that it died at {}", slot.death));
        }
    }
    Ok(())
}

/// One row and what the index says of its slots.
struct Row<'a> {
    number: u32,
    row: &'a RowState,
    slots: &'a [Slot],
    /// Slots before this one have been looked at.
    covered: u32,
    /// Named slots that no batch wrote.
    missing: u32,
}

impl Row<'_> {
    async fn check(&mut self, checker: &mut Checker<'_>, shape: &Shape, tail: &Tail) -> Result<()> {
        let mut window = Window::new();
        let end = if tail.end.virtual_segment == self.number { tail.end.block } else { shape.segment_blocks };
        match &self.row.present {
            None if shape.is_extent(self.number) || shape.is_object(self.number) => {
                for slot in 0..shape.segment_blocks {
                    self.check_block(checker, shape, &mut window, slot, (self.row.physical, slot)).await?;
                }
            }
            None if self.slots.iter().any(|slot| slot.named) => {
                self.walk(checker, shape, &mut window, end).await?;
            }
            None => {}
            Some(present) => {
                for (block, slot) in (self.row.first_block..).zip(ones(present)) {
                    let place = self.row.place(block, shape.segment_blocks);
                    self.check_block(checker, shape, &mut window, slot, place).await?;
                }
            }
        }
        self.tell_leaks(checker, shape, tail);
        Ok(())
    }

    /// Follows the batches of a segment as the log wrote it: what they wrote is what the index says.
    async fn walk(
        &mut self,
        checker: &mut Checker<'_>,
        shape: &Shape,
        window: &mut Window,
        end: u32,
    ) -> Result<()> {
        let physical = self.row.physical;
        let mut before: Option<Box<Batch>> = None;
        let mut block = 0;
        while block < end {
            let address = shape.address(physical, block);
            let bytes = window.seen(checker, shape, physical, block).await?.bytes;
            let Decoded::Valid(found) = batch::decode(bytes, address, shape.block_bytes) else { break };
            if contradiction(&found, shape).is_some() {
                break;
            }
            if let Some(before) = &before {
                let (one, next) = (&before.header, &found.header);
                if next.batch.get() != one.batch.get() + 1 {
                    break;
                }
                if next.previous != one.checksum {
                    // Another opening may have written anew what this one follows.
                    if next.nonce == one.nonce {
                        let text = "a batch does not follow the one before it";
                        checker.found(
                            Code::Log,
                            Place::at(address).sequence(next.first_sequence.get()),
                            text,
                        );
                    }
                    break;
                }
            }
            let blocks = (found.header.total_bytes() / u64::from(shape.block_bytes)) as u32;
            if block + blocks > end {
                break;
            }
            let first = block + found.header.header_bytes.get() / shape.block_bytes;
            self.compare(checker, shape, &found, block, first);
            for slot in first..block + blocks {
                self.check_block(checker, shape, window, slot, (physical, slot)).await?;
            }
            block += blocks;
            self.covered = block;
            before = Some(found);
        }
        for slot in self.covered..shape.segment_blocks {
            if self.slots[slot as usize].checked {
                self.missing += 1;
                self.check_block(checker, shape, window, slot, (physical, slot)).await?;
            }
        }
        if self.missing > 0 {
            let text = format!("the batch that wrote {} blocks of this segment cannot be read", self.missing);
            checker.found(Code::OldBatch, Place::at(shape.address(physical, self.covered)), text);
        }
        Ok(())
    }

    /// A batch wrote what the index says its slots are, and nothing else is named in it.
    fn compare(&self, checker: &mut Checker<'_>, shape: &Shape, batch: &Batch, block: u32, first: u32) {
        let mut wrong = |slot: u32, known: &Slot| {
            let place = Place::at(shape.address(self.row.physical, slot));
            let text = "the index and the batch that wrote this block contradict each other";
            checker.found(Code::Index, place.sequence(known.sequence).block(known.lba), text);
        };
        for slot in block..first {
            let known = &self.slots[slot as usize];
            if known.named || bit(&self.row.live, slot) {
                wrong(slot, known);
            }
        }
        let data = (batch.header.first_sequence.get()..)
            .zip(&batch.entries)
            .filter(|(_, entry)| has_payload(entry.kind.get()))
            .flat_map(|(sequence, entry)| {
                let kind = entry.kind.get();
                (0..u64::from(entry.blocks.get())).map(move |at| (sequence, entry.address() + at, kind))
            });
        for ((slot, (sequence, lba, kind)), checksum) in (first..).zip(data).zip(&batch.checksums) {
            let known = &self.slots[slot as usize];
            let is_then = match kind {
                // It is as old as the block that it was saved of, and died no earlier than it was saved.
                KIND_SAVED => known.sequence < sequence && known.death >= sequence,
                // The block had been superseded already, perhaps by what nobody keeps any more.
                KIND_COPIED => known.sequence < sequence,
                _ => known.sequence == sequence,
            };
            if known.named && !(is_then && (known.lba, known.checksum) == (lba, *checksum)) {
                wrong(slot, known);
            }
        }
    }

    async fn check_block(
        &self,
        checker: &mut Checker<'_>,
        shape: &Shape,
        window: &mut Window,
        slot: u32,
        place: (u32, u32),
    ) -> Result<()> {
        let known = &self.slots[slot as usize];
        if !known.checked {
            return Ok(());
        }
        let bytes = window.seen(checker, shape, place.0, place.1).await?.bytes;
        // What cannot be read has been told.
        let Some(block) = bytes.get(..shape.block_bytes as usize) else { return Ok(()) };
        let whole = crc32c(&[block]) == known.checksum;
        checker.report.blocks += 1;
        if !whole {
            let at = Place::at(shape.address(place.0, place.1)).sequence(known.sequence).block(known.lba);
            checker.found(Code::Block, at, "its checksum is not that of its index entry");
        }
        Ok(())
    }

    fn tell_leaks(&self, checker: &mut Checker<'_>, shape: &Shape, tail: &Tail) {
        // What cannot be read may name them.
        if tail.is_cut {
            return;
        }
        let of_tail = tail.named.get(&self.number);
        let is_extent = shape.is_extent(self.number);
        let leaked = (0..shape.segment_blocks).filter(|slot| {
            let known = &self.slots[*slot as usize];
            let is_changed = is_extent
                && (known.explained || tail.first_change(shape.block_at_home(self.number, *slot)).is_some());
            bit(&self.row.live, *slot)
                && !known.named
                && !is_changed
                && !of_tail.is_some_and(|named| named.contains(slot))
        });
        let leaked = leaked.count();
        if leaked > 0 {
            let text =
                format!("{leaked} blocks of virtual segment {} live, and nothing names them", self.number);
            checker.found(
                Code::Leak,
                Place::at(shape.address(self.row.physical, self.row.first_block)),
                text,
            );
        }
    }
}
