//! `delete`: foreground writes while a snapshot is deleted, beside the same writes without that; and how long it takes
//! until its space is back.
//!
//! Of five snapshots the oldest, one in the middle and the newest are deleted. Between two of them the same set of blocks
//! is overwritten, so that each alone keeps just those blocks. The writes beside go to these blocks too: they have been
//! written since the newest snapshot, so that nothing but the deletion changes how much lives. Under load all of the span has been.

use std::cell::Cell;

use super::foreground::Foreground;
use super::load::Load;
use super::record::Seen;
use super::stage::{Mark, Stage, figure};
use super::subject::{Keeper, Subject};
use crate::failure::Failure;
use crate::measure::Figure;

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
    let suite = Deletions { stage, subject, keeper };
    if stage.plan.loads.is_empty() {
        suite.beside(&mut load, None)?;
    } else {
        let foreground = Foreground::measure(stage, &mut load, 0)?;
        for percent in &stage.plan.loads {
            suite.beside(&mut load, Some((&foreground, *percent)))?;
        }
    }
    let Deletions { subject, keeper, .. } = suite;
    drop((load, subject));
    stage.leave(keeper)
}

struct Deletions<'a, 'b> {
    stage: &'a Stage<'b>,
    subject: Subject,
    keeper: Option<Keeper>,
}

impl Deletions<'_, '_> {
    /// Takes the snapshots, and deletes some of them beside the writes, or beside a foreground at a share of what it can be.
    fn beside(&self, load: &mut Load, foreground: Option<(&Foreground, f64)>) -> Result<(), Failure> {
        let Deletions { stage, subject, keeper } = self;
        let in_flight = u64::from(stage.plan.queue_depth);
        load.once((stage.blocks() / SET).max(2 * in_flight));
        stage.to_its_end(load)?;
        let set = load.touched();
        let mut generations = vec![load.completed()];
        for number in 1..=SNAPSHOTS {
            if let Some(keeper) = keeper {
                stage.patiently("taking a snapshot", keeper.take(&format!("s{number}")))?;
            }
            load.once_to(set.clone());
            stage.to_its_end(load)?;
            generations.push(load.completed());
        }
        if foreground.is_some() {
            load.once(stage.blocks());
            stage.to_its_end(load)?;
        } else {
            load.among(set.clone());
        }
        let mut held = SNAPSHOTS;
        for deleted in DELETED {
            held -= 1;
            stage.settle(subject)?;
            match foreground {
                None => self.beside_writes(load, deleted, (held, set.len()))?,
                Some(foreground) => self.beside_foreground(load, deleted, (held, set.len()), foreground)?,
            }
        }
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", subject, (&now, &now))?;
        if let Some(keeper) = keeper {
            for (name, kept) in [("s2", &generations[1]), ("s4", &generations[3])] {
                let image = stage.patiently("opening an image", keeper.image(name))?;
                stage.verify(name, &image, (kept, kept))?;
                drop(image);
                stage.patiently("deleting", keeper.delete(name))?;
            }
        }
        Ok(())
    }

    fn beside_writes(
        &self,
        load: &mut Load,
        (which, name): (&str, &str),
        (held, kept_blocks): (u32, usize),
    ) -> Result<(), Failure> {
        let Deletions { stage, subject, .. } = self;
        let mut without = None;
        if stage.coin() {
            without = Some(plain(stage, load)?);
            stage.settle(subject)?;
        }
        let live = self.live_bytes();
        load.start()?;
        // Under way when it is asked for.
        stage.let_go_on(load, stage.plan.warmup_ns / 4, || false)?;
        load.look();
        let since = stage.mark();
        let ((seen, end), figures) = self.delete(load, (which, name), (live, kept_blocks))?;
        stage.stop(load)?;
        let without = match without {
            Some(without) => without,
            None => {
                stage.settle(subject)?;
                plain(stage, load)?
            }
        };
        finish(stage, which, held, (since, (seen, end)), without, figures);
        Ok(())
    }

    fn beside_foreground(
        &self,
        load: &mut Load,
        (which, name): (&str, &str),
        (held, kept_blocks): (u32, usize),
        (foreground, percent): (&Foreground, f64),
    ) -> Result<(), Failure> {
        let Deletions { stage, subject, .. } = self;
        let without = format!("{which}-without");
        let alone = foreground.alone(stage, load, (&without, percent), held)?;
        stage.settle(subject)?;
        let live = self.live_bytes();
        foreground.begin(stage, load, percent)?;
        let since = stage.mark();
        let ((seen, end), figures) = self.delete(load, (which, name), (live, kept_blocks))?;
        stage.stop(load)?;
        let with = format!("{which}-with");
        foreground.was_beside(stage, (&with, percent), held, (&since, &end), (seen, &alone), figures);
        Ok(())
    }

    /// Of all blocks that live; `None` where the backend does not say.
    fn live_bytes(&self) -> Option<u64> {
        Some(self.keeper.as_ref()?.space()?.live_bytes)
    }

    /// Deletes a snapshot beside the load, and measures what that does for as long as is measured; then waits for its space.
    fn delete(
        &self,
        load: &Load,
        (which, name): (&str, &str),
        (live, kept_blocks): (Option<u64>, usize),
    ) -> Result<((Seen, Mark), Vec<Figure>), Failure> {
        let Deletions { stage, keeper, .. } = self;
        let mut figures = Vec::new();
        let Some(keeper) = keeper else {
            stage.let_go_on(load, stage.plan.measure_ns, || false)?;
            return Ok(((load.look(), stage.mark()), figures));
        };
        let begun_ns = stage.now_ns();
        stage.happened("delete_asked", which);
        stage.patiently("deleting", keeper.delete(name))?;
        figures.push(figure("snapshot_deletion", "mean", "ns", Some((stage.now_ns() - begun_ns) as f64)));
        let kept_bytes = kept_blocks as f64 * 4096.0;
        let back_ns = Cell::new(None);
        let is_back = || {
            let freed = live
                .zip(self.live_bytes())
                .map(|(before, now)| before.saturating_sub(now) as f64 >= kept_bytes * BACK);
            if freed == Some(true) && back_ns.get().is_none() {
                back_ns.set(Some(stage.now_ns() - begun_ns));
                stage.happened("space_back", which);
            }
            false
        };
        let spent_ns = stage.now_ns() - begun_ns;
        stage.let_go_on(load, stage.plan.measure_ns.saturating_sub(spent_ns), is_back)?;
        let seen = load.look();
        let work = stage.mark();
        if live.is_some() && back_ns.get().is_none() {
            // What the oldest snapshot of an overlay alone sees lies in the base: nothing comes back then.
            stage.let_go_on(load, stage.at_most(SPACE_NS), || is_back() || back_ns.get().is_some())?;
        }
        let back = back_ns.get().map(|ns| ns as f64);
        figures.push(figure("space_back", "mean", "ns", back));
        Ok(((seen, work), figures))
    }
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
    mut figures: Vec<Figure>,
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
