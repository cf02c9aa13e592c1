//! `aging`: how fast a volume is read in order when it is new, and after many snapshots have come and gone: a hundred times a snapshot
//! is taken, a twentieth of the blocks, drawn at random, is overwritten, and the oldest snapshot is deleted, of which five are kept.
//! Before and after that the span is read in pieces of 1 MiB, one at a time, once, or for as long as is measured.

use std::collections::VecDeque;

use super::backup::PIECE_BYTES;
use super::stage::{Stage, figure};
use crate::failure::Failure;

const CYCLES: u32 = 100;
/// Snapshots that are kept.
const KEPT: usize = 5;
/// One of so many blocks is overwritten in a cycle.
const PART: u64 = 20;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let read = || {
        let pieces = stage.plan.span_bytes / u64::from(PIECE_BYTES);
        stage.read_places(&subject, (0..pieces).map(|piece| piece * u64::from(PIECE_BYTES)), PIECE_BYTES)
    };
    let since = stage.mark();
    let fresh = read()?;
    let fresh_rate = fresh.per_second();
    stage.part_of_reads("fresh", Some(0), &since, fresh, PIECE_BYTES);
    // By name, what each snapshot must show.
    let mut kept: VecDeque<(String, Vec<u32>)> = VecDeque::new();
    for cycle in 1..=CYCLES {
        if let Some(keeper) = &keeper {
            let name = format!("s{cycle}");
            stage.patiently("taking a snapshot", keeper.take(&name))?;
            kept.push_back((name, load.completed()));
        }
        load.once((stage.blocks() / PART).max(1));
        stage.to_its_end(&mut load)?;
        if kept.len() > KEPT
            && let Some(((oldest, _), keeper)) = kept.pop_front().zip(keeper.as_ref())
        {
            stage.patiently("deleting", keeper.delete(&oldest))?;
        }
    }
    stage.settle(&subject)?;
    let since = stage.mark();
    let aged = read()?;
    let ratio = (fresh_rate > 0.0).then(|| aged.per_second() / fresh_rate);
    stage.part_of_reads("aged", Some(kept.len() as u32), &since, aged, PIECE_BYTES);
    stage.figure_of_part(figure("aged_of_fresh", "median", "1", ratio));
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    for (name, generations) in &kept {
        if let Some(image) = stage.image(keeper.as_ref(), name)? {
            stage.verify(name, &image, (generations, generations))?;
        }
    }
    drop((load, subject));
    stage.leave(keeper)
}
