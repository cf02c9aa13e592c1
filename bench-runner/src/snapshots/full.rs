//! `full`: a pool that fills up while snapshots are held. What the writer sees, whether anything that was acknowledged is
//! lost (every block is read back, before and after the volume has been opened again), and when it takes writes again
//! once a snapshot is deleted.

use icecore::error::{Error, Kind};

use super::load::Load;
use super::stage::{Stage, figure};
use super::subject::Keeper;
use crate::failure::Failure;

/// How often it is looked whether writes have ended.
const TRY_NS: u64 = 5_000_000;
/// A deletion that has not made room after this long makes none.
const ROOM_NS: u64 = 10_000_000_000;
/// Of the blocks, one of so many shows whether there is room.
const PROBE_EVERY: usize = 64;
/// More snapshots than this do not fit on any device that the suite takes.
const SNAPSHOTS_MAX: u32 = 200;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let (subject, keeper) = stage.prepare()?;
    let mut load = stage.load(&subject);
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
    let reason = format!("{:?}", refusal.reason());
    let reason = reason.split(|character: char| !character.is_alphanumeric()).next().unwrap_or_default();
    stage.happened("refused", &format!("{reason}: {refusal}"));
    if refusal.kind() != Kind::NoSpace {
        return Err(refusal.into());
    }
    let acknowledged = figure("acknowledged_bytes", "total", "bytes", Some((seen.writes() * 4096) as f64));
    let refused = figure("refused_writes", reason, "1", Some(load.refused() as f64));
    let held = figure("snapshots_held", "mean", "1", Some(kept.len() as f64));
    let figures = vec![acknowledged, refused, held];
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
    // The oldest one goes, and the next, until there is room.
    let since = stage.mark();
    let begun_ns = stage.now_ns();
    let (mut deleted, mut until_ns) = (0, 0);
    loop {
        load.once_to((0..stage.blocks() as u32).step_by(PROBE_EVERY).collect());
        load.start()?;
        match to_its_end(stage, &mut load)? {
            Ok(()) => break,
            Err(error) if error.kind() != Kind::NoSpace => return Err(error.into()),
            Err(_) if stage.now_ns() < until_ns => {}
            Err(_) if deleted == kept.len() => {
                return Err(Failure::environment("it takes no writes although every snapshot was deleted"));
            }
            Err(_) => {
                stage.patiently("deleting", keeper.delete(&format!("s{}", deleted + 1)))?;
                deleted += 1;
                until_ns = stage.now_ns() + stage.at_most(ROOM_NS);
                stage.happened("snapshot_deleted", &format!("s{deleted}"));
            }
        }
    }
    let again = load.look();
    let works = stage.now_ns() - begun_ns;
    stage.happened("takes_writes", &format!("after {deleted} deletions"));
    let figures = vec![
        figure("works_again", "mean", "ns", Some(works as f64)),
        figure("deleted_snapshots", "mean", "1", Some(deleted as f64)),
    ];
    stage.settle(&keeper.subject())?;
    stage.part("again", None, &since, again, figures);
    let now = load.completed();
    stage.verify("the volume", &keeper.subject(), (&now, &now))?;
    for (index, generations) in kept.iter().enumerate().skip(deleted) {
        let name = format!("s{}", index + 1);
        let image = stage.patiently("opening an image", keeper.image(&name))?;
        stage.verify(&name, &image, (generations, generations))?;
    }
    stage.patiently("closing", keeper.0.close())
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
