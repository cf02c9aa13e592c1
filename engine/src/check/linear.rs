//! What a linear volume adds: the log from its cursor up to the checkpoint, and which place of a version counts.
//!
//! A block that has been applied lies at home, in the extent that its address says. Rows may be told before the
//! checkpoint that tells the index: then the log's slot of a version that is not said to be applied yet is dead
//! already, its block is whole there all the same, and the slot at home lives before any run names it.

use super::log::{self, Batch, Before, End, Window};
use super::shape::Shape;
use super::state::{ALL_ACCEPTED, State};
use super::{Checker, Code, Place};
use crate::error::Result;
use crate::format::batch::header_bytes;

/// Where applying goes on, and that everything is there from there to the checkpoint.
pub(super) async fn check(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> Result<()> {
    let (applied, checkpoint) = (&state.applied, &state.checkpoint);
    let (Some(newest), first) = (state.leases.back(), applied.virtual_segment.get()) else { return Ok(()) };
    let numbers = first..=newest.virtual_segment.get();
    if state.rows.range(numbers.clone()).count() != numbers.count() {
        let place = Place::default().sequence(applied.first_sequence.get());
        checker.found(Code::State, place, "a segment of the log that has not been applied has no row");
        return Ok(());
    }
    let mut at = End {
        address: 0,
        virtual_segment: first,
        block: applied.block.get(),
        batch: applied.batch.get(),
        sequence: applied.first_sequence.get() - 1,
        time_unix_ns: 0,
        previous: applied.previous.get(),
    };
    let mut window = Window::new();
    if !begins_there(checker, shape, state, &mut window, &at).await? {
        let text = "no batch before the cursor of the linear volume ends there with what it says";
        checker.found(Code::Log, Place::default().sequence(at.sequence), text);
        return Ok(());
    }
    let mut is_first = true;
    while at.batch < checkpoint.batch.get() {
        let (number, block, batch) = match next(checker, shape, state, &mut window, &at).await? {
            Next::Batch(number, block, batch) => (number, block, batch),
            Next::Unreadable => return Ok(()),
            Next::Missing => {
                let text = format!("batch {} is to be applied, and is not where the log goes on", at.batch);
                checker.found(Code::Log, Place::default().sequence(at.sequence + 1), text);
                return Ok(());
            }
        };
        let entries = batch.entries.len() as u64;
        if is_first && applied.sequence.get() >= at.sequence + entries {
            let text = "the cursor of the linear volume is behind the batch that it is said to be in";
            checker.found(Code::State, Place::default().sequence(applied.sequence.get()), text);
        }
        is_first = false;
        let blocks = (batch.header.total_bytes() / u64::from(shape.block_bytes)) as u32;
        at = End {
            virtual_segment: number,
            block: block + blocks,
            batch: at.batch + 1,
            sequence: at.sequence + entries,
            previous: batch.header.checksum.get(),
            ..at
        };
    }
    let lease = state.leases.front().map(|lease| lease.virtual_segment.get());
    let ends = (Some(at.virtual_segment), Some(at.block), at.sequence, at.previous);
    let (sequence, previous) = (checkpoint.sequence.get(), checkpoint.previous.get());
    if ends != (lease, state.checkpoint_block(), sequence, previous) {
        let text = "what is to be applied does not lead to the checkpoint";
        checker.found(Code::Log, Place::at(checkpoint.address.get()).sequence(sequence), text);
    }
    Ok(())
}

/// Whether a batch ends where the cursor is, or applying has stopped within the first one of a segment.
async fn begins_there(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    window: &mut Window,
    at: &End,
) -> Result<bool> {
    if at.block == 0 {
        return Ok(log::is_start(at) || state.applied.sequence.get() > at.sequence);
    }
    let Some(row) = state.rows.get(&at.virtual_segment).filter(|_| at.block <= shape.segment_blocks) else {
        return Ok(false);
    };
    Ok(!matches!(log::batch_before(checker, shape, window, row.physical, at).await?, Before::Other))
}

/// What follows a place of the log.
enum Next {
    /// The batch, whole: its virtual segment and block.
    Batch(u32, u32, Box<Batch>),
    /// It cannot be read, and has been told.
    Unreadable,
    Missing,
}

/// The batch that follows. It is in the next segment only if it did not fit.
async fn next(
    checker: &mut Checker<'_>,
    shape: &Shape,
    state: &State,
    window: &mut Window,
    at: &End,
) -> Result<Next> {
    let mut unreadable = false;
    for (number, block) in [(at.virtual_segment, at.block), (at.virtual_segment + 1, 0)] {
        let Some(row) = state.rows.get(&number).filter(|_| block < shape.segment_blocks) else { continue };
        let address = shape.address(row.physical, block);
        let seen = window.seen(checker, shape, row.physical, block).await?;
        let Some(batch) = log::whole_batch(seen, address, shape) else {
            unreadable |= seen.is_cut;
            continue;
        };
        let header = &batch.header;
        let follows = header.batch.get() == at.batch
            && header.first_sequence.get() == at.sequence + 1
            && header.previous.get() == at.previous;
        if !follows {
            continue;
        }
        let payload = batch.entries.first().map_or(0, log::payload_blocks);
        let needed =
            header_bytes(1, payload, shape.block_bytes as usize) / shape.block_bytes as usize + payload;
        let did_not_fit = at.block as usize + needed > shape.segment_blocks as usize;
        let belongs = number == at.virtual_segment || did_not_fit;
        return Ok(if belongs { Next::Batch(number, block, batch) } else { Next::Missing });
    }
    Ok(if unreadable { Next::Unreadable } else { Next::Missing })
}

/// The pin names a sequence that there is.
pub(super) fn check_pin(checker: &mut Checker<'_>, state: &State, end: &End) {
    if state.accepted != ALL_ACCEPTED && state.accepted > end.sequence {
        let text = format!("the log ends here, and everything up to {} is accepted", state.accepted);
        checker.found(Code::State, Place::at(end.address).sequence(end.sequence), text);
    }
}
