//! `merge`: how long it takes to bring an overlay into the base (to fold it), and what that costs the foreground. The oldest overlay holds
//! what was written before the only snapshot there is; a part is so many blocks of it.

use super::foreground::{Foreground, phase};
use super::load::Load;
use super::stage::{Stage, figure};
use super::subject::{Keeper, Subject};
use crate::failure::Failure;
use crate::measure::Figure;

/// What the overlay holds, as parts of the span's blocks.
const PARTS: [u64; 3] = [64, 8, 1];
const NAME: &str = "merge";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    if stage.plan.loads.is_empty() {
        for part in PARTS {
            let Some(keeper) = &keeper else { continue };
            let blocks = (stage.blocks() / part).max(1);
            overlay(stage, keeper, &subject, &mut load, blocks)?;
            let since = stage.mark();
            let mut figures = fold(stage, keeper, &format!("{blocks} blocks"))?;
            stage.settle(&subject)?;
            figures.extend(stage.device_figures(&since, 1));
            stage.part_of_figures(&format!("of-{blocks}-blocks"), Some(1), &since, figures);
            verify(stage, keeper, &load.completed())?;
        }
    } else {
        let foreground = Foreground::measure(stage, &mut load, 0)?;
        for percent in stage.plan.loads.iter().copied() {
            if let Some(keeper) = &keeper {
                overlay(stage, keeper, &subject, &mut load, stage.blocks())?;
            }
            let kept = load.completed();
            let alone = foreground.alone(stage, &mut load, ("without", percent), 1)?;
            stage.settle(&subject)?;
            foreground.begin(stage, &mut load, percent)?;
            let (since, begun_ns) = (stage.mark(), stage.now_ns());
            let figures = match &keeper {
                Some(keeper) => fold(stage, keeper, &phase("with", percent))?,
                None => Vec::new(),
            };
            // What the fold costs is looked at for as long as it takes, and no shorter than anything else.
            let spent_ns = stage.now_ns() - begun_ns;
            stage.let_go_on(&load, stage.plan.measure_ns.saturating_sub(spent_ns), || false)?;
            let (seen, until) = (load.look(), stage.mark());
            stage.stop(&mut load)?;
            let part = ("with", percent);
            foreground.was_beside(stage, part, 1, (&since, &until), (seen, &alone), figures);
            if let Some(keeper) = &keeper {
                stage.settle(&subject)?;
                verify(stage, keeper, &kept)?;
            }
        }
    }
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    drop((load, subject));
    stage.leave(keeper)
}

/// Makes the oldest overlay hold so many blocks, and nothing of what was before it be needed any more.
fn overlay(
    stage: &Stage,
    keeper: &Keeper,
    subject: &Subject,
    load: &mut Load,
    blocks: u64,
) -> Result<(), Failure> {
    const BEFORE: &str = "before";
    stage.patiently("taking a snapshot", keeper.take(BEFORE))?;
    load.once(blocks);
    stage.to_its_end(load)?;
    stage.patiently("taking a snapshot", keeper.take(NAME))?;
    stage.patiently("deleting", keeper.delete(BEFORE))?;
    stage.settle(subject)
}

fn fold(stage: &Stage, keeper: &Keeper, what: &str) -> Result<Vec<Figure>, Failure> {
    let begun_ns = stage.now_ns();
    stage.happened("fold_asked", what);
    stage.patiently("folding", keeper.fold(NAME))?;
    stage.happened("folded", what);
    Ok(vec![figure("fold", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64))])
}

/// The snapshot shows what it did when it was taken; it goes.
fn verify(stage: &Stage, keeper: &Keeper, kept: &[u32]) -> Result<(), Failure> {
    stage.meddle();
    let image = stage.patiently("opening an image", keeper.image(NAME))?;
    stage.verify("the snapshot", &image, (kept, kept))?;
    drop(image);
    stage.patiently("deleting", keeper.delete(NAME))
}
