//! `full`: a pool that fills up while snapshots are held. What the writer sees, whether anything that was acknowledged is
//! lost (every block is read back, before and after the volume has been opened again), and when it takes writes again
//! once a snapshot is deleted. Under load the foreground then fills up what has come free, with further snapshots, and the same is
//! asked of it.

use icecore::error::{Error, Kind};

use super::foreground::{self, Alone, Foreground};
use super::load::Load;
use super::record::Seen;
use super::stage::{PATIENCE_NS, Stage, figure};
use super::subject::Keeper;
use crate::failure::Failure;
use crate::interrupt;
use crate::measure::Figure;

/// How often it is looked whether writes have ended.
const TRY_NS: u64 = 5_000_000;
/// A deletion that has not made room after this long makes none.
const ROOM_NS: u64 = 10_000_000_000;
/// Of the blocks, one of so many shows whether there is room.
const PROBE_EVERY: usize = 64;
/// Under load a snapshot is taken each time that one of so many blocks has changed.
const CHANGED_BETWEEN: u64 = 8;
/// More snapshots than this do not fit on any device that the suite takes.
const SNAPSHOTS_MAX: u32 = 200;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
    let mut alone: Vec<Alone> = Vec::new();
    let mut foreground = None;
    if !stage.plan.loads.is_empty() {
        let measured = Foreground::measure(stage, &mut load, 0)?;
        for percent in &stage.plan.loads {
            alone.push(measured.alone(stage, &mut load, ("before", *percent), 0)?);
        }
        stage.settle(&subject)?;
        foreground = Some(measured);
    }
    let since = stage.mark();
    let Some(mut keeper) = keeper else {
        load.once(stage.blocks());
        let seen = stage.to_its_end(&mut load)?;
        stage.settle(&subject)?;
        stage.part("filling", None, &since, seen, Vec::new());
        stage.meddle();
        let now = load.completed();
        return stage.verify("the span", &subject, (&now, &now));
    };
    // Snapshots and overwrites of everything, until something is refused.
    let mut kept: Vec<Vec<u32>> = Vec::new();
    load.to_span();
    load.start()?;
    load.look();
    let refusal = loop {
        if kept.len() as u32 == SNAPSHOTS_MAX {
            return Err(Failure::environment("the pool does not fill up"));
        }
        stage.patiently("writing", load.stop())?;
        let taking = stage.patiently("taking a snapshot", async {
            Ok::<_, Failure>(keeper.take(&format!("s{}", kept.len() + 1)).await)
        })?;
        if let Err(error) = taking {
            break error;
        }
        kept.push(load.completed());
        load.once(stage.blocks());
        load.resume()?;
        if let Err(error) = to_its_end(stage, &mut load)? {
            break error;
        }
    };
    let seen = load.look();
    let figures = refused(stage, refusal, &seen, (load.refused(), kept.len()))?;
    stage.part("filling", None, &since, seen, figures);
    // Nothing is lost: not in this process, and not when it is opened again.
    stage.meddle();
    let now = load.completed();
    stage.verify("the full volume", &keeper.subject(), (&now, &now))?;
    drop(subject);
    stage.patiently("closing the full volume", keeper.0.close())?;
    drop(keeper);
    load.turn_to(&super::subject::Subject::Bare(crate::arms::target::Bare::new(stage.bench.device(), 0)));
    keeper = stage.patiently("opening the full volume", Keeper::open(stage.bench.device()))?;
    load.turn_to(&keeper.subject());
    stage.verify("the full volume, opened again", &keeper.subject(), (&now, &now))?;
    let mut kept: Vec<Kept> =
        kept.into_iter().map(|generations| (generations.clone(), generations)).collect();
    let mut deleted = 0;
    make_room(stage, &mut load, &keeper, (&kept, &mut deleted), "again")?;
    if let Some(foreground) = &foreground {
        for (percent, alone) in stage.plan.loads.iter().zip(&alone) {
            fill_again(stage, &mut load, &keeper, &mut kept, (foreground, *percent, alone))?;
            let again = foreground::phase("again", *percent);
            make_room(stage, &mut load, &keeper, (&kept, &mut deleted), &again)?;
        }
    }
    let (now, begun) = (load.completed(), load.begun());
    // A write that was refused is not there; one that a later write of its block has followed neither.
    stage.verify("the volume", &keeper.subject(), (&now, &begun))?;
    for (index, (oldest, newest)) in kept.iter().enumerate().skip(deleted) {
        let name = format!("s{}", index + 1);
        let image = stage.patiently("opening an image", keeper.image(&name))?;
        stage.verify(&name, &image, (oldest, newest))?;
    }
    stage.patiently("closing", keeper.0.close())
}

/// The lowest and the highest generation of each block that a snapshot may show.
type Kept = (Vec<u32>, Vec<u32>);

/// What a refusal says, after so many writes that were taken, so many that were not, and so many snapshots.
fn refused(
    stage: &Stage,
    refusal: Error,
    seen: &Seen,
    (refused_writes, snapshots): (u64, usize),
) -> Result<Vec<Figure>, Failure> {
    let reason = format!("{:?}", refusal.reason());
    let reason = reason.split(|character: char| !character.is_alphanumeric()).next().unwrap_or_default();
    stage.happened("refused", &format!("{reason}: {refusal}"));
    if refusal.kind() != Kind::NoSpace {
        return Err(refusal.into());
    }
    Ok(vec![
        figure("acknowledged_bytes", "total", "bytes", Some(seen.outcome.write.bytes as f64)),
        figure("refused_writes", reason, "1", Some(refused_writes as f64)),
        figure("snapshots_held", "mean", "1", Some(snapshots as f64)),
    ])
}

/// Lets the foreground write, with a snapshot each time that a part of the span has changed, until something is refused.
fn fill_again(
    stage: &Stage,
    load: &mut Load,
    keeper: &Keeper,
    kept: &mut Vec<Kept>,
    (foreground, percent, alone): (&Foreground, f64, &Alone),
) -> Result<(), Failure> {
    stage.settle(&keeper.subject())?;
    let before = load.refused();
    // It may be full before it is warm.
    foreground.start(load, percent)?;
    let since = stage.mark();
    let until_ns = stage.now_ns() + stage.at_most(PATIENCE_NS);
    let part = (stage.blocks() / CHANGED_BETWEEN).max(1);
    let refusal = loop {
        let oldest = load.completed();
        let taking = stage.patiently("taking a snapshot", async {
            Ok::<_, Failure>(keeper.take(&format!("s{}", kept.len() + 1)).await)
        })?;
        if let Err(error) = taking {
            break Some(error);
        }
        kept.push((oldest, load.begun()));
        load.watch();
        let ended = stage.patiently("writing", async {
            while load.changed() < part && load.refused() == before && stage.now_ns() < until_ns {
                if interrupt::requested() {
                    return Err(Failure::interrupted());
                }
                stage.bench.runtime().context().sleep(TRY_NS).await;
            }
            Ok(load.refused() > before)
        })?;
        if ended || stage.now_ns() >= until_ns || kept.len() as u32 >= SNAPSHOTS_MAX {
            break None;
        }
    };
    let (seen, until) = (load.look(), stage.mark());
    let stopped = stage.patiently("writing", async { Ok::<_, Failure>(load.stop().await) })?;
    let snapshots = kept.len();
    let figures = match refusal.or(stopped.err()) {
        Some(refusal) => refused(stage, refusal, &seen, (load.refused() - before, snapshots))?,
        None => {
            let what = format!("{} on {}", foreground::phase("filling", percent), stage.arm.name());
            let why = "it was not full in the time there is: more --seconds, or a smaller device".to_owned();
            stage.dropped.borrow_mut().push((what, why));
            Vec::new()
        }
    };
    foreground.was_beside(
        stage,
        ("filling", percent),
        snapshots as u32,
        (&since, &until),
        (seen, alone),
        figures,
    );
    Ok(())
}

/// Deletes the oldest snapshot, and the next, until there is room.
fn make_room(
    stage: &Stage,
    load: &mut Load,
    keeper: &Keeper,
    (kept, deleted): (&[Kept], &mut usize),
    phase: &str,
) -> Result<(), Failure> {
    let since = stage.mark();
    let begun_ns = stage.now_ns();
    let before = *deleted;
    let mut until_ns = 0;
    loop {
        load.once_to((0..stage.blocks() as u32).step_by(PROBE_EVERY).collect());
        load.start()?;
        match to_its_end(stage, load)? {
            Ok(()) => break,
            Err(error) if error.kind() != Kind::NoSpace => return Err(error.into()),
            Err(_) if stage.now_ns() < until_ns => {}
            Err(_) if *deleted == kept.len() => {
                return Err(Failure::environment("it takes no writes although every snapshot was deleted"));
            }
            Err(_) => {
                stage.patiently("deleting", keeper.delete(&format!("s{}", *deleted + 1)))?;
                *deleted += 1;
                until_ns = stage.now_ns() + stage.at_most(ROOM_NS);
                stage.happened("snapshot_deleted", &format!("s{deleted}"));
            }
        }
    }
    let again = load.look();
    let works = stage.now_ns() - begun_ns;
    stage.happened("takes_writes", &format!("after {} deletions", *deleted - before));
    let figures = vec![
        figure("works_again", "mean", "ns", Some(works as f64)),
        figure("deleted_snapshots", "mean", "1", Some((*deleted - before) as f64)),
    ];
    stage.settle(&keeper.subject())?;
    stage.part(phase, None, &since, again, figures);
    Ok(())
}

/// Waits until every write of the load has ended, or one has been refused.
fn to_its_end(stage: &Stage, load: &mut Load) -> Result<Result<(), Error>, Failure> {
    let ended = stage.patiently("writing", async {
        while !load.has_ended() && !crate::interrupt::requested() {
            stage.bench.runtime().context().sleep(TRY_NS).await;
        }
        Ok::<_, Failure>(load.stop().await)
    })?;
    if crate::interrupt::requested() { Err(Failure::interrupted()) } else { Ok(ended) }
}
