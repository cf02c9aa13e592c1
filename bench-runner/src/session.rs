//! One run from a claimed device to its report: folder, runner's cost, suite, pooling, report, exit code.

use std::path::{Path, PathBuf};

use crate::bench::Bench;
use crate::environment;
use crate::failure::{EXIT_INTERRUPTED, EXIT_INVALID_RUN, EXIT_OK, Failure};
use crate::precondition::Precondition;
use crate::results::{Dropped, Ending, Manifest, Plan, RunData, RunFolder, RunRow};
use crate::suite::{self, AfterArm, Cell, SuiteEnd, SuitePlan};
use crate::{interrupt, report, resume, runner_cost};

/// Depths at which the runner's own cost is always measured, beside those of the plan.
const COST_DEPTHS: [u32; 2] = [1, 32];

/// A run that left a folder with a report, whole or in part.
#[derive(Debug)]
pub struct Session {
    /// Where the report is.
    pub report: PathBuf,
    /// The folder's contents.
    pub data: RunData,
    /// Why runs do not count.
    pub invalid: Vec<String>,
    /// What stopped it early.
    pub stopped: Option<Failure>,
}

impl Session {
    /// Ends a run: what stopped it is told in the folder, blocks are pooled, the report is written.
    ///
    /// # Errors
    /// The folder cannot be written or read.
    pub(crate) fn end(mut folder: RunFolder, end: SuiteEnd) -> Result<Self, Failure> {
        let ending = match &end.stopped {
            None => Ending::Complete,
            Some(failure) if failure.exit_code == EXIT_INTERRUPTED => Ending::Interrupted,
            Some(_) => Ending::Failed,
        };
        if ending == Ending::Interrupted {
            folder.append_event("interrupted", "a signal asked the program to stop")?;
        }
        let path = folder.path().to_owned();
        folder.finish(ending)?;
        let SuiteEnd { invalid, stopped } = end;
        Ok(Self { report: report::write(&path)?, data: RunData::read(&path)?, invalid, stopped })
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match &self.stopped {
            Some(failure) => failure.exit_code,
            None if !self.invalid.is_empty() => EXIT_INVALID_RUN,
            None => EXIT_OK,
        }
    }
}

/// Runs the plan on the device and leaves the run folder with its report.
///
/// # Errors
/// The folder is not empty or cannot be written, or the runner's cost cannot be measured. What stops the measuring
/// is told in the [`Session`] instead, with what was measured by then.
pub fn run(
    bench: &Bench,
    plan: &SuitePlan,
    out: &Path,
    dropped: Vec<Dropped>,
    after_arm: AfterArm,
) -> Result<Session, Failure> {
    plan.check()?;
    let dropped = dropped.into_iter().chain(plan.left_out()).collect();
    let folder = RunFolder::create(out, manifest(bench, plan, dropped))?;
    measure(bench, plan, folder, &[], after_arm)
}

/// Goes on with a run that was cut short.
///
/// # Errors
/// As [`run`]; the folder holds no such run, or one that this would not be.
pub fn resume(bench: &Bench, plan: &SuitePlan, out: &Path, after_arm: AfterArm) -> Result<Session, Failure> {
    plan.check()?;
    resume::check(out, &manifest(bench, plan, Vec::new()))?;
    // The arm whose failure ended the run is measured again.
    let (folder, there) = RunFolder::resume(out, |row, _| row.measured_ns.is_some())?;
    measure(bench, plan, folder, &there, after_arm)
}

fn measure(
    bench: &Bench,
    plan: &SuitePlan,
    mut folder: RunFolder,
    there: &[RunRow],
    after_arm: AfterArm,
) -> Result<Session, Failure> {
    let mut depths: Vec<u32> = plan.cells.iter().map(|cell| cell.queue_depth).chain(COST_DEPTHS).collect();
    depths.sort_unstable();
    depths.dedup();
    // They come before all arms.
    let costs = if there.is_empty() { runner_cost::measure(&depths, plan.seed)? } else { Vec::new() };
    for cost in costs {
        if !interrupt::requested() {
            folder.append_metric(&cost.row(plan.seed))?;
        }
    }
    let prepared = match plan.method.precondition {
        Precondition::Run => suite::precondition(bench, plan.seed, &mut folder)?,
        Precondition::Never | Precondition::Arm => Ok(()),
    };
    let end = match prepared {
        Ok(()) => suite::run(bench, plan, &mut folder, there, after_arm)?,
        Err(stopped) => SuiteEnd { stopped: Some(stopped), ..SuiteEnd::default() },
    };
    Session::end(folder, end)
}

fn manifest(bench: &Bench, plan: &SuitePlan, dropped: Vec<Dropped>) -> Manifest {
    let mut workloads: Vec<String> = Vec::new();
    let mut queue_depths: Vec<u32> = Vec::new();
    for Cell { workload, queue_depth: depth, .. } in &plan.cells {
        if !workloads.iter().any(|name| name == workload.name()) {
            workloads.push(workload.name().to_owned());
        }
        if !queue_depths.contains(depth) {
            queue_depths.push(*depth);
        }
    }
    queue_depths.sort_unstable();
    Manifest {
        command_line: std::env::args().collect(),
        seed: plan.seed,
        device: environment::bench_facts(bench),
        environment: environment::environment_facts(),
        plan: Plan {
            arms: plan.method.arms(&plan.arms).into_iter().map(|(_, name)| name).collect(),
            workloads,
            queue_depths,
            repeats: plan.repeats,
            measure_ns: plan.measure_ns,
            warmup_ns: plan.warmup_ns,
            span_offset_bytes: plan.span_offset_bytes,
            span_bytes: plan.span_bytes,
            preconditioning: plan.method.preconditioning(),
            steady_state: plan.method.steady_state(plan.measure_ns),
            slo_ns: plan.slo_ns,
            digest: Plan::digest_of(plan),
        },
        dropped,
        trace: plan.trace.as_ref().map(|trace| trace.facts.clone()),
        ..Manifest::default()
    }
}
