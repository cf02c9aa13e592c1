//! `first-touch`: what the first write of a place costs as snapshots become many. Between two snapshots lie scattered
//! writes; after the last one every write goes to a unit that has not been written since, until each has been or time is
//! over. A unit is what a system keeps as one: with units as large as the largest of those that are compared, every
//! write is a first touch for each of them. The only suite that other systems take part in.

use super::chain;
use super::stage::{Stage, figure};
use crate::arms::target::Target;
use crate::failure::Failure;

/// First touches may take this many times the time of the parts of other suites.
const TOUCH_TIMES: u64 = 4;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    stage.plan.snapshots.iter().try_for_each(|depth| touch(stage, *depth))
}

fn touch(stage: &Stage, depth: u32) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let mut oldest = Vec::new();
    for number in 1..=depth {
        if number > 1 {
            load.once(stage.plan.changes.min(stage.blocks()));
            stage.to_its_end(&mut load)?;
        }
        stage.patiently("a flush", subject.flush())?;
        if let Err(failure) = stage.take(keeper.as_ref(), &format!("s{number}")) {
            if stage.parts.borrow().is_empty() {
                return Err(failure);
            }
            // What was measured with fewer of them stands.
            chain::ends(stage, number - 1, depth, failure)?;
            drop((load, subject));
            return stage.leave(keeper);
        }
        if number == 1 {
            oldest = load.completed();
        }
    }
    stage.settle(&subject)?;
    load.once_to(stage.one_of_each(stage.plan.unit_bytes));
    let since = stage.mark();
    load.start()?;
    stage.let_go_on(&load, TOUCH_TIMES * stage.plan.measure_ns, || false)?;
    stage.stop(&mut load)?;
    let seen = load.look();
    let flush_ns = stage.now_ns();
    stage.patiently("a flush", subject.flush())?;
    let flush_ns = stage.now_ns() - flush_ns;
    stage.settle(&subject)?;
    let flushing = figure("flush_after", "mean", "ns", Some(flush_ns as f64));
    stage.part("first-touch", Some(depth), &since, seen, vec![flushing]);
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    if let Some(image) = stage.image(keeper.as_ref(), "s1")? {
        stage.verify("the oldest snapshot", &image, (&oldest, &oldest))?;
    }
    drop((load, subject));
    stage.leave(keeper)
}
