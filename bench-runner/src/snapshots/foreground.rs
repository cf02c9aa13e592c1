//! What stands in the foreground of suites under load (`--load`): the workload `oltp`, at a rate that is a share of what the same arm
//! does of it as fast as it can, on the suite's own volume. Its operations are begun by a schedule, whatever becomes of those
//! before them, so that whatever holds them up shows in the latency from when they were to begin.
//!
//! A suite measures it with nothing beside it and with what the suite is about beside it; both are parts of their own, and the
//! figures of the second one say how the two compare.
//!
//! Invariant: a part with nothing beside it counts only where the machine did not make it late. Beside something else lateness is told in
//! its rows and voids nothing.

use icecore_workloads::Workload;

use super::load::Load;
use super::record::Seen;
use super::stage::{Mark, PATIENCE_NS, Stage, figure};
use crate::failure::Failure;
use crate::measure::Figure;

/// The workload.
pub(super) const WORKLOAD: &str = "oltp";
/// Operations by which is seen what an arm can do.
const OPERATIONS_MIN: u64 = 256;

/// The foreground of one arm.
pub(super) struct Foreground {
    workload: Workload,
    /// Operations a second that the arm does as fast as it can.
    capacity: f64,
}

/// What it was with nothing beside it.
pub(super) struct Alone {
    p50_ns: Option<f64>,
    p99_ns: Option<f64>,
    rate: f64,
    counts: bool,
}

/// The phase of a part at a load.
pub(super) fn phase(part: &str, percent: f64) -> String {
    format!("{part}-{WORKLOAD}-{percent}%")
}

impl Foreground {
    /// Measures what the arm does of the workload as fast as it can, as a part of its own.
    ///
    /// # Errors
    /// The first operation that failed.
    pub fn measure(stage: &Stage, load: &mut Load, snapshots: u32) -> Result<Self, Failure> {
        let workload = Workload::from_name(WORKLOAD)?;
        load.mix(&workload)?;
        load.start()?;
        stage.let_go_on(load, stage.plan.warmup_ns, || false)?;
        load.look();
        let since = stage.mark();
        stage.let_go_on(load, stage.plan.measure_ns, || false)?;
        // A rate of a few operations is none.
        stage.let_go_on(load, PATIENCE_NS, || load.done() >= OPERATIONS_MIN)?;
        let (seen, until) = (load.look(), stage.mark());
        stage.stop(load)?;
        let capacity = seen.rate();
        stage.part_until(
            &format!("{WORKLOAD}-capacity"),
            Some(snapshots),
            (&since, &until),
            seen,
            Vec::new(),
        );
        stage.of_workload(&workload);
        Ok(Self { workload, capacity })
    }

    /// Begins it at a share of that.
    ///
    /// # Errors
    /// There are no buffers.
    pub fn start(&self, load: &mut Load, percent: f64) -> Result<(), Failure> {
        load.at(&self.workload, (self.capacity * percent / 100.0).max(1.0))?;
        load.start()
    }

    /// Begins it, and lets it become warm.
    ///
    /// # Errors
    /// The first operation that failed.
    pub fn begin(&self, stage: &Stage, load: &mut Load, percent: f64) -> Result<(), Failure> {
        self.start(load, percent)?;
        stage.let_go_on(load, stage.plan.warmup_ns, || false)?;
        load.look();
        Ok(())
    }

    /// Measures it with nothing beside it, from its beginning to its end.
    ///
    /// # Errors
    /// The first operation that failed.
    pub fn alone(
        &self,
        stage: &Stage,
        load: &mut Load,
        (part, percent): (&str, f64),
        snapshots: u32,
    ) -> Result<Alone, Failure> {
        self.begin(stage, load, percent)?;
        let since = stage.mark();
        stage.let_go_on(load, stage.plan.measure_ns, || false)?;
        let (seen, until) = (load.look(), stage.mark());
        stage.stop(load)?;
        Ok(self.was_alone(stage, (part, percent), snapshots, (&since, &until), seen))
    }

    /// Adds what it was with nothing beside it.
    pub fn was_alone(
        &self,
        stage: &Stage,
        (part, percent): (&str, f64),
        snapshots: u32,
        between: (&Mark, &Mark),
        seen: Seen,
    ) -> Alone {
        let refusal = seen.refusal();
        let alone = Alone {
            p50_ns: seen.intended_ns(0.5),
            p99_ns: seen.intended_ns(0.99),
            rate: seen.rate(),
            counts: refusal.is_none(),
        };
        stage.part_until(&phase(part, percent), Some(snapshots), between, seen, Vec::new());
        stage.of_workload(&self.workload);
        stage.refuse_part(refusal);
        alone
    }

    /// Adds what it was with something beside it, with further figures of that.
    pub fn was_beside(
        &self,
        stage: &Stage,
        (part, percent): (&str, f64),
        snapshots: u32,
        between: (&Mark, &Mark),
        (seen, alone): (Seen, &Alone),
        mut figures: Vec<Figure>,
    ) {
        figures.extend(alone.compared_with(&seen));
        stage.part_until(&phase(part, percent), Some(snapshots), between, seen, figures);
        stage.of_workload(&self.workload);
    }
}

impl Alone {
    /// How the same compares with it.
    fn compared_with(&self, seen: &Seen) -> Vec<Figure> {
        let over = |mine: Option<f64>, theirs: Option<f64>| {
            let ratio = mine? / theirs.filter(|theirs| *theirs > 0.0)?;
            self.counts.then_some(ratio)
        };
        let of = |metric, mine, theirs| figure(metric, "median", "1", over(mine, theirs));
        vec![
            of("foreground_ratio", Some(seen.rate()), Some(self.rate)),
            of("foreground_p50_ratio", seen.intended_ns(0.5), self.p50_ns),
            of("foreground_p99_ratio", seen.intended_ns(0.99), self.p99_ns),
        ]
    }
}
