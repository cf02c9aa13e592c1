//! `delete`: foreground writes while a snapshot is deleted, beside the same writes without that; and how long it takes
//! until its space is back.
//!
//! Of five snapshots the oldest, one in the middle and the newest are deleted. Between two of them the same set of blocks
//! is overwritten, so that each alone keeps just those blocks. The writes beside go to these blocks too: they have been
//! written since the newest snapshot, so that nothing but the deletion changes how much lives.

use std::cell::Cell;

use super::load::{Load, Seen};
use super::stage::{Mark, Stage, figure};
use crate::failure::Failure;

/// The set of blocks is this part of the span.
const SET: u64 = 8;
const SNAPSHOTS: u32 = 5;
/// Which are deleted, and their names.
const DELETED: [(&str, &str); 3] = [("oldest", "s1"), ("middle", "s3"), ("newest", "s5")];
/// Space that is not back after this long is not coming.
const SPACE_NS: u64 = 30_000_000_000;
/// Share of what the snapshot kept that must be free; the rest is writes in flight.
const BACK: f64 = 0.98;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let in_flight = u64::from(stage.plan.queue_depth);
    load.once((stage.blocks() / SET).max(2 * in_flight));
    stage.to_its_end(&mut load)?;
    let set = load.touched();
    let mut generations = vec![load.completed()];
    for number in 1..=SNAPSHOTS {
        if let Some(keeper) = &keeper {
            stage.patiently("taking a snapshot", keeper.take(&format!("s{number}")))?;
        }
        load.once_to(set.clone());
        stage.to_its_end(&mut load)?;
        generations.push(load.completed());
    }
    load.among(set.clone());
    let set_bytes = set.len() as f64 * 4096.0;
    let mut held = SNAPSHOTS;
    for (which, name) in DELETED {
        held -= 1;
        stage.settle(&subject)?;
        let mut without = None;
        let is_first = stage.coin();
        if is_first {
            without = Some(plain(stage, &mut load)?);
            stage.settle(&subject)?;
        }
        let before = keeper.as_ref().and_then(|keeper| keeper.space());
        load.start()?;
        // Under way when it is asked for.
        stage.let_go_on(&load, stage.plan.warmup_ns / 4, || false)?;
        load.look();
        let since = stage.mark();
        let mut figures = Vec::new();
        let seen = if let Some(keeper) = &keeper {
            let begun_ns = stage.now_ns();
            stage.happened("delete_asked", which);
            stage.patiently("deleting", keeper.delete(name))?;
            figures.push(figure("snapshot_deletion", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)));
            let back_ns = Cell::new(None);
            let is_back = || {
                let freed = before.zip(keeper.space()).map(|(before, now)| {
                    before.live_bytes.saturating_sub(now.live_bytes) as f64 >= set_bytes * BACK
                });
                if freed == Some(true) && back_ns.get().is_none() {
                    back_ns.set(Some(stage.now_ns() - begun_ns));
                    stage.happened("space_back", which);
                }
                false
            };
            let spent_ns = stage.now_ns() - begun_ns;
            stage.let_go_on(&load, stage.plan.measure_ns.saturating_sub(spent_ns), is_back)?;
            let seen = load.look();
            let work = stage.mark();
            if before.is_some() && back_ns.get().is_none() {
                // What the oldest snapshot of an overlay alone sees lies in the base: nothing comes back then.
                stage.let_go_on(&load, stage.at_most(SPACE_NS), || is_back() || back_ns.get().is_some())?;
            }
            let back = back_ns.get().map(|ns| ns as f64);
            figures.push(figure("space_back", "mean", "ns", back));
            (seen, work)
        } else {
            stage.let_go_on(&load, stage.plan.measure_ns, || false)?;
            (load.look(), stage.mark())
        };
        stage.stop(&mut load)?;
        let without = match without {
            Some(without) => without,
            None => {
                stage.settle(&subject)?;
                plain(stage, &mut load)?
            }
        };
        finish(stage, which, held, (since, seen), without, figures);
    }
    stage.meddle();
    let now = load.completed();
    stage.verify("the volume", &subject, (&now, &now))?;
    if let Some(keeper) = &keeper {
        for (name, kept) in [("s2", &generations[1]), ("s4", &generations[3])] {
            let image = stage.patiently("opening an image", keeper.image(name))?;
            stage.verify(name, &image, (kept, kept))?;
        }
        stage.patiently("closing", keeper.0.close())?;
    }
    Ok(())
}

type Measured = (Mark, (Seen, Mark));

/// The same writes with nothing beside them.
fn plain(stage: &Stage, load: &mut Load) -> Result<Measured, Failure> {
    load.start()?;
    stage.let_go_on(load, stage.plan.warmup_ns / 4, || false)?;
    load.look();
    let since = stage.mark();
    stage.let_go_on(load, stage.plan.measure_ns, || false)?;
    let (seen, end) = (load.look(), stage.mark());
    stage.stop(load)?;
    Ok((since, (seen, end)))
}

fn finish(
    stage: &Stage,
    which: &str,
    held: u32,
    (since, (seen, end)): Measured,
    (plain_since, (plain_seen, plain_end)): Measured,
    mut figures: Vec<crate::measure::Figure>,
) {
    let ratio = seen.rate() / plain_seen.rate().max(f64::MIN_POSITIVE);
    figures.push(figure("foreground_ratio", "median", "1", Some(ratio)));
    stage.part_until(
        &format!("{which}-without"),
        Some(held),
        (&plain_since, &plain_end),
        plain_seen,
        Vec::new(),
    );
    stage.part_until(&format!("{which}-with"), Some(held), (&since, &end), seen, figures);
}
