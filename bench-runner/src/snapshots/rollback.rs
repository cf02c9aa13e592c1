//! `rollback`: how long it takes to go back to a snapshot after so many writes, and the first read afterwards.

use super::stage::{Stage, figure};
use crate::arms::target::Target;
use crate::failure::Failure;

/// Writes after the snapshot, as parts of the span's blocks.
const PARTS: [u64; 3] = [64, 8, 1];
const NAME: &str = "back";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    for part in PARTS {
        let writes = (stage.blocks() / part).max(1);
        let before = load.completed();
        if let Some(keeper) = &keeper {
            stage.patiently("taking a snapshot", keeper.take(NAME))?;
        }
        load.once(writes);
        let last = {
            stage.to_its_end(&mut load)?;
            load.touched().last().copied().unwrap_or(0)
        };
        stage.settle(&subject)?;
        let since = stage.mark();
        let mut figures = Vec::new();
        if let Some(keeper) = &keeper {
            let begun_ns = stage.now_ns();
            stage.patiently("going back", keeper.go_back(NAME))?;
            figures.push(figure("rollback", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)));
            stage.happened("rolled_back", &format!("{writes} writes"));
            load.went_back(&before);
        }
        let begun_ns = stage.now_ns();
        let buf = stage.bench.runtime().context().buffers().get(4096)?;
        stage.wait(subject.read(u64::from(last) * 4096, buf)).0?;
        figures.push(figure("first_read", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)));
        if keeper.is_some() {
            stage.settle(&subject)?;
            // Of the whole step, background work included.
            figures.extend(stage.device_figures(&since, 1));
        }
        stage.part_of_figures(&format!("after-{writes}-writes"), Some(1), &since, figures);
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &subject, (&now, &now))?;
        if let Some(keeper) = &keeper {
            stage.patiently("deleting", keeper.delete(NAME))?;
        }
    }
    match keeper {
        Some(keeper) => stage.patiently("closing", keeper.0.close()),
        None => Ok(()),
    }
}
