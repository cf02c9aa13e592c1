//! `backup`: what reading a snapshot in order costs the foreground, and how fast it is. The snapshot is taken right before, at rest;
//! it is read in pieces of 1 MiB, one at a time, again from its beginning once it has been read, for as long as is measured. The same
//! without a foreground, and the foreground without a reader, each after a snapshot of its own, so that first touches are in all of them.
//!
//! On the bare device, which has no snapshots, the span itself is read.

use super::foreground::{Foreground, phase};
use super::load::Load;
use super::stage::Stage;
use super::subject::{Keeper, Subject};
use crate::failure::Failure;

/// Bytes of a read.
pub(super) const PIECE_BYTES: u32 = 1 << 20;
const NAME: &str = "backup";
/// The load if none is asked for, in percent.
const LOAD_DEFAULT: f64 = 50.0;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let foreground = Foreground::measure(stage, &mut load, 0)?;
    with_snapshot(stage, (&subject, keeper.as_ref()), &mut load, |_, image| {
        let since = stage.mark();
        let outcome = read(stage, image)?;
        stage.part_of_reads("backup-alone", Some(1), &since, outcome, PIECE_BYTES);
        Ok(())
    })?;
    let loads = if stage.plan.loads.is_empty() { &[LOAD_DEFAULT][..] } else { &stage.plan.loads };
    for percent in loads {
        let alone = with_snapshot(stage, (&subject, keeper.as_ref()), &mut load, |load, _| {
            foreground.alone(stage, load, ("foreground-alone", *percent), 1)
        })?;
        with_snapshot(stage, (&subject, keeper.as_ref()), &mut load, |load, image| {
            foreground.begin(stage, load, *percent)?;
            stage.happened("backup_begun", &phase("with", *percent));
            let since = stage.mark();
            let outcome = read(stage, image)?;
            let (seen, until) = (load.look(), stage.mark());
            stage.stop(load)?;
            let part = ("foreground-beside", *percent);
            foreground.was_beside(stage, part, 1, (&since, &until), (seen, &alone), Vec::new());
            stage.part_of_reads(&phase("backup-beside", *percent), Some(1), &since, outcome, PIECE_BYTES);
            Ok(())
        })?;
    }
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    drop((load, subject));
    stage.leave(keeper)
}

/// Takes a snapshot at rest, where there are any, lets something be done with it, and deletes it once it is seen to show what it must.
fn with_snapshot<T>(
    stage: &Stage,
    (subject, keeper): (&Subject, Option<&Keeper>),
    load: &mut Load,
    what: impl FnOnce(&mut Load, &Subject) -> Result<T, Failure>,
) -> Result<T, Failure> {
    stage.settle(subject)?;
    stage.take(keeper, NAME)?;
    let kept = load.completed();
    let Some(image) = stage.image(keeper, NAME)? else {
        return what(load, subject);
    };
    let given = what(load, &image)?;
    stage.meddle();
    stage.verify("the snapshot", &image, (&kept, &kept))?;
    drop(image);
    if let Some(keeper) = keeper {
        stage.patiently("deleting", keeper.delete(NAME))?;
    }
    Ok(given)
}

fn read(stage: &Stage, image: &Subject) -> Result<crate::measure::ArmOutcome, Failure> {
    let pieces = stage.plan.span_bytes / u64::from(PIECE_BYTES);
    let places = (0..pieces).cycle().map(|piece| piece * u64::from(PIECE_BYTES));
    stage.read_places(image, places, PIECE_BYTES)
}
