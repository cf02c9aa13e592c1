//! `cliff`: what taking a snapshot does to steady random writes. Before it; while it is taken; then every write goes to a
//! block that has not been written since, until the span has been or time is over; then to those blocks again.

use super::load::Load;
use super::record::Seen;
use super::stage::{PATIENCE_NS, Stage, figure};
use super::subject::Subject;
use crate::failure::Failure;

/// First touches may take this many times the time of the other parts.
const TOUCH_TIMES: u64 = 4;
const NAME: &str = "cliff";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    before(stage, &mut load)?;
    let mut kept = None;
    let mut since = stage.mark();
    if let Some(keeper) = &keeper {
        // The load goes on meanwhile: of what is in flight, either is right.
        let oldest = load.completed();
        let begun_ns = stage.now_ns();
        stage.patiently("taking a snapshot", keeper.take(NAME))?;
        let took_ns = stage.now_ns() - begun_ns;
        stage.happened("snapshot_taken", &format!("in {:.3} ms", took_ns as f64 / 1e6));
        kept = Some((oldest, load.begun()));
        let taking = figure("snapshot_creation", "mean", "ns", Some(took_ns as f64));
        stage.part("creation", Some(1), &since, load.look(), vec![taking]);
        since = stage.mark();
    }
    load.once(stage.blocks());
    let (seen, touched) = touch(stage, &mut load)?;
    stage.settle(&subject)?;
    stage.part("first-touch", Some(1), &since, seen, Vec::new());
    settled(stage, &mut load, &subject, touched)?;
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    if let (Some(keeper), Some((oldest, newest))) = (&keeper, kept) {
        let image = stage.patiently("opening an image", keeper.image(NAME))?;
        stage.verify("the snapshot", &image, (&oldest, &newest))?;
        drop(image);
        stage.patiently("closing", keeper.0.close())?;
    }
    Ok(())
}

/// Starts random writes to the span, and measures them once they are warm; they go on.
pub(super) fn before(stage: &Stage, load: &mut Load) -> Result<(), Failure> {
    load.to_span();
    load.start()?;
    stage.let_go_on(load, stage.plan.warmup_ns, || false)?;
    load.look();
    let since = stage.mark();
    stage.let_go_on(load, stage.plan.measure_ns, || false)?;
    stage.part("before", Some(0), &since, load.look(), Vec::new());
    Ok(())
}

/// Lets first touches go on until there are enough of them, and ends them; gives what was seen and touched.
pub(super) fn touch(stage: &Stage, load: &mut Load) -> Result<(Seen, Vec<u32>), Failure> {
    stage.let_go_on(load, TOUCH_TIMES * stage.plan.measure_ns, || false)?;
    // A device may take next to nothing for so long; what it has taken is written again.
    stage.let_go_on(load, PATIENCE_NS, || load.has_touched_enough())?;
    if !load.has_touched_enough() {
        return Err(Failure::environment("the device takes too few writes; give it more --seconds"));
    }
    stage.stop(load)?;
    Ok((load.look(), load.touched()))
}

/// Measures random writes to what has been touched.
pub(super) fn settled(
    stage: &Stage,
    load: &mut Load,
    subject: &Subject,
    touched: Vec<u32>,
) -> Result<(), Failure> {
    load.among(touched);
    let since = stage.mark();
    load.start()?;
    stage.let_go_on(load, stage.plan.measure_ns, || false)?;
    stage.stop(load)?;
    let seen = load.look();
    stage.settle(subject)?;
    stage.part("settled", Some(1), &since, seen, Vec::new());
    Ok(())
}
