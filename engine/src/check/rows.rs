//! The state as a whole: every segment is leased, holds one row as the log wrote it, or moved rows side by side.

use std::collections::BTreeMap;

use super::state::{State, count};
use super::superblock::Shape;
use super::{Checker, Code, Place};

/// Blocks of a segment that a row takes: where from, how many, which row.
type Taken = (u32, u32, u32);

/// Whether rows and leases share no block, and runs lie behind the log's checkpoint.
pub(super) fn check(checker: &mut Checker<'_>, shape: &Shape, state: &State) -> bool {
    let before = checker.report.damage;
    let mut taken: BTreeMap<u32, Vec<Taken>> = BTreeMap::new();
    for (number, row) in &state.rows {
        let room = shape.segment_blocks;
        let blocks = row.present.as_ref().map_or(room, |present| count(present));
        let here = blocks.min(room - row.first_block);
        taken.entry(row.physical).or_default().push((row.first_block, here, *number));
        if let Some(continued) = row.continued {
            taken.entry(continued).or_default().push((0, blocks - here, *number));
        }
    }
    for (physical, rows) in &mut taken {
        rows.sort_unstable();
        for pair in rows.windows(2) {
            let ((first, blocks, one), (next, _, other)) = (pair[0], pair[1]);
            if first + blocks > next {
                let text = format!("rows {one} and {other} lie in the same blocks of segment {physical}");
                checker.found(Code::State, Place::at(shape.address(*physical, next)), text);
            }
        }
    }
    for (physical, text) in state.shared_with_objects() {
        checker.found(Code::State, Place::at(shape.address(physical, 0)), text);
    }
    let last = state.checkpoint.sequence.get();
    for known in &state.runs {
        if known.run.last_sequence.get() > last {
            let text = format!("run {} ends behind the checkpoint at sequence {last}", known.run.run);
            let place = Place::default().sequence(known.run.last_sequence.get());
            checker.found(Code::State, place, text);
        }
    }
    checker.report.damage == before
}
