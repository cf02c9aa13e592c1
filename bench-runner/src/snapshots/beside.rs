//! The suites that other systems take part in, the same for all arms: `cliff`, `chain` and `quick`.
//!
//! Snapshots are taken at rest: many systems cannot do it under load, and of an export nobody may be connected meanwhile. The time
//! to take one counts from asking for it until the target can be used again. What another system has no way to do is left out, named.

use icecore_workloads::Stamper;

use super::load::Load;
use super::stage::{Stage, figure, random_4k};
use super::subject::{Keeper, Subject, Who};
use super::{chain, cliff};
use crate::arms::engine::{self, Content};
use crate::arms::fio;
use crate::arms::target::Target;
use crate::content;
use crate::failure::Failure;
use crate::interrupt;

/// The suites, by their names.
pub(super) const SUITES: [Beside; 3] = [("cliff", at_rest), ("chain", growing), ("quick", quick)];

/// A suite, by its name.
pub(super) type Beside = (&'static str, fn(&Stage) -> Result<(), Failure>);

/// A prepared target, which may have to be connected to anew after each snapshot.
struct Held {
    subject: Subject,
    keeper: Option<Keeper>,
}

impl Held {
    fn prepare(stage: &Stage) -> Result<Self, Failure> {
        let (subject, keeper) = stage.prepare()?;
        Ok(Self { subject, keeper })
    }

    fn keeps_snapshots(stage: &Stage) -> bool {
        match &stage.arm {
            Who::Raw | Who::Fio => false,
            Who::Engine(_) => true,
            Who::Peer(peer) => !peer.is_reference(),
        }
    }

    /// Takes a snapshot of a target that is at rest. Gives the time until it could be used again; `None` where there are no snapshots.
    fn take(&mut self, stage: &Stage, load: &mut Load, name: &str) -> Result<Option<u64>, Failure> {
        stage.settle(&self.subject)?;
        if !Self::keeps_snapshots(stage) {
            return Ok(None);
        }
        let begun_ns = stage.now_ns();
        if let (Who::Peer(peer), Subject::Export(export)) = (&stage.arm, &self.subject) {
            stage.patiently("closing", export.close())?;
            let address = peer.take(name)?.ok_or_else(|| {
                Failure::environment(format!("{} take {name} printed no address to go on with", peer.name))
            })?;
            self.subject = peer.connect(stage.bench.runtime(), &address, stage.plan.span_bytes, false)?;
            load.turn_to(&self.subject);
        } else {
            stage.take(self.keeper.as_ref(), name)?;
        }
        let took_ns = stage.now_ns() - begun_ns;
        stage.happened("snapshot_taken", &format!("in {:.3} ms", took_ns as f64 / 1e6));
        Ok(Some(took_ns))
    }

    /// Compares the volume and, where there is one, a snapshot with what they must show; ends it.
    fn verify(self, stage: &Stage, load: Load, snapshot: Option<(&str, &[u32])>) -> Result<(), Failure> {
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &self.subject, (&now, &now))?;
        if let Some((name, generations)) = snapshot
            && let Some(image) = stage.image(self.keeper.as_ref(), name)?
        {
            stage.verify("the snapshot", &image, (generations, generations))?;
        }
        drop(load);
        self.leave(stage)
    }

    fn leave(self, stage: &Stage) -> Result<(), Failure> {
        drop(self.subject);
        // A peer is taken away by whoever has lent it the device, also after an error.
        match self.keeper {
            Some(keeper) => stage.leave(Some(keeper)),
            None => Ok(()),
        }
    }
}

/// Random writes before a snapshot; after it to blocks that have not been written since; then to these again.
fn at_rest(stage: &Stage) -> Result<(), Failure> {
    let mut held = Held::prepare(stage)?;
    let mut load = stage.load(&held.subject);
    cliff::before(stage, &mut load)?;
    stage.stop(&mut load)?;
    let oldest = load.completed();
    let since = stage.mark();
    let took_ns = held.take(stage, &mut load, "cliff")?;
    if let Some(took_ns) = took_ns {
        let taking = figure("snapshot_creation", "mean", "ns", Some(took_ns as f64));
        stage.part_of_figures("creation", Some(1), &since, vec![taking]);
    }
    load.once(stage.blocks());
    let since = stage.mark();
    load.start()?;
    let (seen, touched) = cliff::touch(stage, &mut load)?;
    let flush_ns = stage.now_ns();
    stage.patiently("a flush", held.subject.flush())?;
    let flushing = figure("flush_after", "mean", "ns", Some((stage.now_ns() - flush_ns) as f64));
    stage.settle(&held.subject)?;
    stage.part("first-touch", Some(1), &since, seen, vec![flushing]);
    cliff::settled(stage, &mut load, &held.subject, touched)?;
    held.verify(stage, load, took_ns.map(|_| ("cliff", &oldest[..])))
}

/// Reads of the newest image and of the oldest snapshot as snapshots become many, with scattered writes between two of them.
fn growing(stage: &Stage) -> Result<(), Failure> {
    let mut held = Held::prepare(stage)?;
    let mut load = stage.load(&held.subject);
    let (mut taken, mut first) = (0, Vec::new());
    for depth in stage.plan.snapshots.iter().copied() {
        let mut times: Vec<u64> = Vec::new();
        while taken < depth {
            load.once(stage.plan.changes.min(stage.blocks()));
            stage.to_its_end(&mut load)?;
            match held.take(stage, &mut load, &format!("s{}", taken + 1)) {
                Ok(took_ns) => times.extend(took_ns),
                Err(failure) => {
                    chain::ends(stage, taken, depth, failure)?;
                    // What is behind it has gone with the connection.
                    return held.leave(stage);
                }
            }
            taken += 1;
            if taken == 1 {
                first = load.completed();
            }
        }
        let mean = (!times.is_empty()).then(|| times.iter().sum::<u64>() as f64 / times.len() as f64);
        let taking = mean.map(|mean| figure("snapshot_creation", "mean", "ns", Some(mean)));
        stage.settle(&held.subject)?;
        stage.reads(&held.subject, "newest-warm", depth, taking.into_iter().collect())?;
        if Held::keeps_snapshots(stage)
            && let Some(oldest) = stage.image(held.keeper.as_ref(), "s1")?
        {
            stage.reads(&oldest, "oldest-warm", depth, Vec::new())?;
            stage.verify("the oldest snapshot", &oldest, (&first, &first))?;
        }
    }
    held.verify(stage, load, None)
}

/// Reads and writes without snapshots, at depth 1 and at the plan's.
fn quick(stage: &Stage) -> Result<(), Failure> {
    let held = Held::prepare(stage)?;
    let runtime = stage.bench.runtime();
    let is_fio = stage.arm == Who::Fio;
    for (name, read_percent) in [("randread-4k", 100), ("randwrite-4k", 0)] {
        for queue_depth in [1, stage.plan.queue_depth] {
            let mut task = stage.plan.task(stage.bench, stage.name, stage.seed);
            task.workload = random_4k(stage.name, read_percent);
            (task.queue_depth, task.warmup_ns, task.measure_ns) =
                (queue_depth, stage.plan.warmup_ns, stage.plan.measure_ns);
            if read_percent == 0 {
                content::fill(runtime, &held.subject, stage.plan.span_bytes, Stamper::new(stage.seed))?;
                stage.settle(&held.subject)?;
            }
            let since = stage.mark();
            let outcome = if is_fio {
                fio::run(&task)?
            } else {
                engine::run(runtime, held.subject.clone(), &task, Content::Stamped)?
            };
            if interrupt::requested() {
                return Err(Failure::interrupted());
            }
            let written = outcome.generations.clone();
            stage.part_of_outcome(&format!("{name}-qd{queue_depth}"), None, &since, outcome, Vec::new());
            if read_percent == 0 && !is_fio {
                stage.settle(&held.subject)?;
                stage.meddle();
                stage.verify("the volume", &held.subject, (written.counts(), written.counts()))?;
            }
        }
    }
    held.leave(stage)
}
