//! What differs between two moments: the blocks that got a version which one of them sees and the other does not.
//!
//! Only runs that hold such versions are read, and no block is: a block that was given the same content counts.
//!
//! Invariant: both moments are pinned, so that what they see is still in the index.

use std::ops::Range;

use super::Index;
use super::merge::Readers;
use crate::error::Result;
use crate::pool::history::Line;
use crate::units::{branch_of, lba_of};

/// What a moment sees: of its branch, of the branch that this one began as a moment of, and so on.
pub type View = [(u32, Line)];

fn line_of(view: &View, branch: u32) -> Option<&Line> {
    view.iter().find(|(of, _)| *of == branch).map(|(_, line)| line)
}

/// The blocks that differ between what two moments see: ranges, in order, apart by one block at least.
///
/// # Errors
/// `MetadataDamaged`, and what the device says.
pub async fn difference(index: &Index, one: &View, other: &View) -> Result<Vec<Range<u64>>> {
    let shared = one.iter().filter_map(|(branch, line)| Some(line.common(line_of(other, *branch)?)));
    let common = shared.min().unwrap_or(0);
    let sees = |view: &View, branch, sequence| line_of(view, branch).is_some_and(|line| line.sees(sequence));
    let differs = |address: u64, sequence: u64| {
        let branch = branch_of(address);
        sees(one, branch, sequence) != sees(other, branch, sequence)
    };
    // What is in no run yet, and then the runs: between the two nothing else happens.
    let fresh = index.fresh_versions().filter(|(address, sequence)| differs(*address, *sequence));
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut add = |address| match found.last_mut() {
        Some(last) if (last.start..last.end).contains(&lba_of(address)) => {}
        Some(last) if last.end == lba_of(address) => last.end += 1,
        _ => found.push(lba_of(address)..lba_of(address) + 1),
    };
    let runs = index.runs();
    fresh.for_each(|(address, _)| add(address));
    let mut readers = Readers::open(runs.iter().filter(|run| run.last_sequence() > common)).await?;
    while let Some(entry) = readers.next().await? {
        if differs(entry.lba.get(), entry.sequence.get()) {
            add(entry.lba.get());
        }
    }
    found.sort_unstable_by_key(|range| range.start);
    found.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    Ok(found)
}
