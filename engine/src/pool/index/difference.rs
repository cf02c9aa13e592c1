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

/// Ranges of blocks, in order, apart by one block at least.
#[derive(Debug, Default)]
struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// One more block; none of the others lies behind it.
    fn add(&mut self, lba: u64) {
        match self.0.last_mut() {
            Some(last) if lba < last.end => {}
            Some(last) if lba == last.end => last.end += 1,
            _ => self.0.push(lba..lba + 1),
        }
    }
}

/// The blocks that differ between what two lines see.
///
/// # Errors
/// `MetadataDamaged`, and what the device says.
pub async fn difference(index: &Index, one: &Line, other: &Line) -> Result<Vec<Range<u64>>> {
    let common = one.common(other);
    let differs = |sequence: u64| one.sees(sequence) != other.sees(sequence);
    // What is in no run yet, and then the runs: between the two nothing else happens.
    let mut fresh: Vec<u64> =
        index.fresh_versions().filter(|(_, sequence)| differs(*sequence)).map(|(lba, _)| lba).collect();
    fresh.sort_unstable();
    let runs = index.runs();
    let mut readers = Readers::open(runs.iter().filter(|run| run.last_sequence() > common)).await?;
    let (mut found, mut fresh) = (Ranges::default(), fresh.into_iter().peekable());
    while let Some(entry) = readers.next().await? {
        let lba = entry.lba.get();
        while let Some(earlier) = fresh.next_if(|fresh| *fresh <= lba) {
            found.add(earlier);
        }
        if differs(entry.sequence.get()) {
            found.add(lba);
        }
    }
    fresh.for_each(|lba| found.add(lba));
    Ok(found.0)
}
