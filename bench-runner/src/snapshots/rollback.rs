//! `rollback`: how long it takes to go back to a snapshot after so many writes, and the first read afterwards. Under load, after as many
//! as the foreground makes while it is measured; it goes on meanwhile, and is seen to wait.

use super::foreground::{Foreground, phase};
use super::load::Load;
use super::stage::{Stage, figure};
use super::subject::{Keeper, Subject};
use crate::arms::target::Target;
use crate::failure::Failure;
use crate::measure::Figure;

/// Writes after the snapshot, as parts of the span's blocks.
const PARTS: [u64; 3] = [64, 8, 1];
const NAME: &str = "back";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    if stage.plan.loads.is_empty() {
        for part in PARTS {
            after_writes(stage, (&subject, keeper.as_ref()), &mut load, (stage.blocks() / part).max(1))?;
        }
    } else {
        let foreground = Foreground::measure(stage, &mut load, 0)?;
        for percent in &stage.plan.loads {
            under_load(stage, (&subject, keeper.as_ref()), &mut load, (&foreground, *percent))?;
        }
    }
    drop((load, subject));
    stage.leave(keeper)
}

fn after_writes(
    stage: &Stage,
    (subject, keeper): (&Subject, Option<&Keeper>),
    load: &mut Load,
    writes: u64,
) -> Result<(), Failure> {
    let before = load.completed();
    if let Some(keeper) = keeper {
        stage.patiently("taking a snapshot", keeper.take(NAME))?;
    }
    load.once(writes);
    stage.to_its_end(load)?;
    let last = load.touched().last().copied().unwrap_or(0);
    stage.settle(subject)?;
    let since = stage.mark();
    let mut figures = Vec::new();
    if let Some(keeper) = keeper {
        figures.push(go_back(stage, keeper, &format!("{writes} writes"))?);
        load.went_back(&before);
    }
    let begun_ns = stage.now_ns();
    let buf = stage.bench.runtime().context().buffers().get(4096)?;
    stage.wait(subject.read(u64::from(last) * 4096, buf)).0?;
    figures.push(figure("first_read", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)));
    if keeper.is_some() {
        stage.settle(subject)?;
        // Of the whole step, background work included.
        figures.extend(stage.device_figures(&since, 1));
    }
    stage.part_of_figures(&format!("after-{writes}-writes"), Some(1), &since, figures);
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", subject, (&now, &now))?;
    match keeper {
        Some(keeper) => stage.patiently("deleting", keeper.delete(NAME)),
        None => Ok(()),
    }
}

fn go_back(stage: &Stage, keeper: &Keeper, what: &str) -> Result<Figure, Failure> {
    let begun_ns = stage.now_ns();
    stage.happened("rollback_asked", what);
    stage.patiently("going back", keeper.go_back(NAME))?;
    stage.happened("rolled_back", what);
    Ok(figure("rollback", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)))
}

/// Takes a snapshot, measures the foreground, and goes back while it goes on.
fn under_load(
    stage: &Stage,
    (subject, keeper): (&Subject, Option<&Keeper>),
    load: &mut Load,
    (foreground, percent): (&Foreground, f64),
) -> Result<(), Failure> {
    stage.settle(subject)?;
    stage.take(keeper, NAME)?;
    let kept = load.completed();
    foreground.begin(stage, load, percent)?;
    let since = stage.mark();
    stage.let_go_on(load, stage.plan.measure_ns, || false)?;
    let (seen, until) = (load.look(), stage.mark());
    let alone = foreground.was_alone(stage, ("before", percent), 1, (&since, &until), seen);
    let (asked, begun_ns) = (load.completed(), stage.now_ns());
    let figures = match keeper {
        Some(keeper) => vec![go_back(stage, keeper, &phase("under", percent))?],
        None => Vec::new(),
    };
    let returned = load.begun();
    let spent_ns = stage.now_ns() - begun_ns;
    stage.let_go_on(load, stage.plan.measure_ns.saturating_sub(spent_ns), || false)?;
    let (seen, end) = (load.look(), stage.mark());
    stage.stop(load)?;
    foreground.was_beside(stage, ("going-back", percent), 1, (&until, &end), (seen, &alone), figures);
    stage.settle(subject)?;
    stage.meddle();
    if keeper.is_some() {
        let (oldest, newest) = shown_after(&kept, (&asked, &returned), &load.completed());
        stage.verify("the volume", subject, (&oldest, &newest))?;
        let open: Vec<u32> = (0..oldest.len() as u32)
            .filter(|block| oldest[*block as usize] != newest[*block as usize])
            .collect();
        load.went_back(&oldest);
        // From here on it is known again what they hold.
        load.once_to(open);
        stage.to_its_end(load)?;
    }
    let now = load.completed();
    stage.verify("the volume", subject, (&now, &now))?;
    match keeper {
        Some(keeper) => stage.patiently("deleting", keeper.delete(NAME)),
        None => Ok(()),
    }
}

/// The lowest and the highest generation that each block may show after going back to `kept`: what had been written when that was
/// `asked` for is gone; what was begun since it `returned` is there; of what was under way between the two either is right.
fn shown_after(kept: &[u32], (asked, returned): (&[u32], &[u32]), end: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let one = |block: usize| {
        if end[block] > returned[block] {
            (end[block], end[block])
        } else if end[block] > asked[block] {
            (kept[block], end[block])
        } else {
            (kept[block], kept[block])
        }
    };
    (0..kept.len()).map(one).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_follows_from_when_it_was_written() {
        // Never written; before it was asked for; in flight then; begun meanwhile; begun since, once and after each of these.
        let kept = [1, 1, 1, 1, 1, 1, 1];
        let asked = [1, 3, 1, 1, 1, 3, 1];
        let returned = [1, 3, 2, 2, 1, 3, 2];
        let end = [1, 3, 2, 2, 2, 4, 5];
        let shown = shown_after(&kept, (&asked, &returned), &end);
        assert_eq!(shown, (vec![1, 1, 1, 1, 2, 4, 5], vec![1, 1, 2, 2, 2, 4, 5]));
    }
}
