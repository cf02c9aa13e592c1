//! `overwrite-fraction`: what it costs to overwrite a part of a volume once after a snapshot, in bytes of the device and
//! in space. Under load it is the foreground that overwrites it, for as long as that takes; what is seen then is how its
//! latency changes with the part that has been written since.

use super::foreground::{self, Foreground};
use super::stage::{PATIENCE_NS, Stage, figure};
use super::subject::{Keeper, Space};
use crate::failure::Failure;
use crate::measure::Figure;

/// Percent of the span.
const FRACTIONS: [u64; 4] = [1, 5, 25, 100];
/// The same under load: places are drawn again and again, so that the last of them are long in coming.
const FRACTIONS_UNDER_LOAD: [u64; 3] = [1, 5, 25];
const NAME: &str = "overwrite";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    if stage.plan.loads.is_empty() { at_once(stage) } else { under_load(stage) }
}

fn at_once(stage: &Stage) -> Result<(), Failure> {
    for percent in FRACTIONS {
        let (subject, keeper) = stage.prepare()?;
        let mut load = stage.load(&subject);
        if let Some(keeper) = &keeper {
            stage.patiently("taking a snapshot", keeper.take(NAME))?;
            stage.settle(&subject)?;
        }
        let space = || keeper.as_ref().and_then(|keeper| keeper.space());
        let before = space();
        load.once((stage.blocks() * percent).div_ceil(100));
        let since = stage.mark();
        let seen = stage.to_its_end(&mut load)?;
        stage.settle(&subject)?;
        let space = if keeper.is_some() { grown(before, space(), seen.writes()) } else { Vec::new() };
        stage.part(&format!("overwrite-{percent}"), Some(1), &since, seen, space);
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &subject, (&now, &now))?;
        if let Some(keeper) = &keeper {
            let image = stage.patiently("opening an image", keeper.image(NAME))?;
            stage.verify("the snapshot", &image, (&[], &[]))?;
            drop(image);
            stage.patiently("closing", keeper.0.close())?;
        }
    }
    Ok(())
}

/// The growth of the space for each byte of so many blocks that have changed.
fn grown(before: Option<Space>, after: Option<Space>, changed_blocks: u64) -> Vec<Figure> {
    let changed = (changed_blocks * 4096) as f64;
    let grown = before.zip(after).map(|(before, after)| {
        let since = |then: u64, now: u64| (now as f64 - then as f64) / changed;
        (since(before.live_bytes, after.live_bytes), since(before.segment_bytes, after.segment_bytes))
    });
    let of = |stat, value| figure("space_per_changed_byte", stat, "1", value);
    vec![of("live", grown.map(|grown| grown.0)), of("segments", grown.map(|grown| grown.1))]
}

fn under_load(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let foreground = Foreground::measure(stage, &mut load, 0)?;
    for percent in stage.plan.loads.iter().copied() {
        let alone = foreground.alone(stage, &mut load, ("without", percent), 0)?;
        stage.settle(&subject)?;
        stage.take(keeper.as_ref(), NAME)?;
        let kept = load.completed();
        let before = keeper.as_ref().and_then(Keeper::space);
        load.watch();
        // What it becomes warm with are first touches already.
        foreground.begin(stage, &mut load, percent)?;
        let mut since = stage.mark();
        for fraction in FRACTIONS_UNDER_LOAD {
            let wanted = (stage.blocks() * fraction).div_ceil(100);
            stage.let_go_on(&load, stage.at_most(PATIENCE_NS), || load.changed() >= wanted)?;
            let changed = load.changed();
            let name = foreground::phase(&format!("overwrite-{fraction}"), percent);
            if changed < wanted {
                let why =
                    format!("{changed} of {wanted} blocks were written in the time there is: more --seconds");
                stage.dropped.borrow_mut().push((format!("{name} on {}", stage.arm.name()), why));
                break;
            }
            let (seen, until) = (load.look(), stage.mark());
            let after = keeper.as_ref().and_then(Keeper::space);
            let space = if keeper.is_some() { grown(before, after, changed) } else { Vec::new() };
            let part = (&format!("overwrite-{fraction}")[..], percent);
            foreground.was_beside(stage, part, 1, (&since, &until), (seen, &alone), space);
            since = until;
        }
        stage.stop(&mut load)?;
        stage.settle(&subject)?;
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &subject, (&now, &now))?;
        if let Some(image) = stage.image(keeper.as_ref(), NAME)? {
            stage.verify("the snapshot", &image, (&kept, &kept))?;
        }
        if let Some(keeper) = &keeper {
            stage.patiently("deleting", keeper.delete(NAME))?;
        }
    }
    drop((load, subject));
    stage.leave(keeper)
}
