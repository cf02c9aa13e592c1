//! `read-home`: what it costs to bring a block of an overlay home as it is read. A snapshot is taken, everything is overwritten, and
//! the snapshot deleted, so that all of the newest image lies in overlays and nothing keeps it from going home. Then each block is
//! read once, one at a time in random order: by a volume that moves what it reads, and by one that does not.

use super::stage::Stage;
use super::subject::{Keeper, Subject};
use crate::arms::target::Bare;
use crate::failure::Failure;
use crate::suite::shuffle;

const NAME: &str = "away";

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let mut ways = [("staying", false), ("moving", true)];
    if stage.coin() {
        ways.swap(0, 1);
    }
    for (phase, moves) in ways {
        let (subject, keeper) = stage.prepare()?;
        let Some(keeper) = keeper else { return Ok(()) };
        let mut load = stage.load(&subject);
        stage.patiently("taking a snapshot", keeper.take(NAME))?;
        load.once(stage.blocks());
        stage.to_its_end(&mut load)?;
        stage.patiently("deleting", keeper.delete(NAME))?;
        stage.settle(&subject)?;
        load.turn_to(&Subject::Bare(Bare::new(stage.bench.device(), 0)));
        drop(subject);
        stage.patiently("closing", keeper.0.close())?;
        drop(keeper);
        let keeper = stage.patiently("opening", Keeper::open_moving(stage.bench.device(), moves))?;
        let read = keeper.subject();
        let since = stage.mark();
        let mut blocks: Vec<u64> = (0..stage.blocks()).collect();
        shuffle(&mut blocks, &mut stage.random.borrow_mut());
        let outcome = stage.read_places(&read, blocks.into_iter().map(|block| block * 4096), 4096)?;
        // What is moved is written behind the reads, and is theirs.
        stage.settle(&read)?;
        let figures = stage.device_figures(&since, outcome.read.operations);
        stage.part_of_outcome(phase, Some(0), &since, outcome, figures);
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &read, (&now, &now))?;
        drop(read);
        stage.patiently("closing", keeper.0.close())?;
    }
    Ok(())
}
