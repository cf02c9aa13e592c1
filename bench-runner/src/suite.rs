//! The suite: paired blocks of arms, verified one by one.
//!
//! For each block and each workload and depth, every arm runs once on the same span with the same seed, in random
//! order, each on a device that was formatted and filled anew. The rounds go over all workloads and depths before
//! the next block begins, so that a run cut short has blocks of everything.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use icecore::store::Backend;
use icecore_workloads::Workload;
use icecore_workloads::trace::Speed;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::arms::{Arm, fio, reference};
use crate::bench::Bench;
use crate::content;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::measure::{ArmOutcome, ArmTask};
use crate::method::Method;
use crate::precondition::{self, Precondition};
use crate::replay::{Replay, TracePlan};
use crate::results::{self, ArmRun, Dropped, MEASURE, RunFolder, RunRow};
use crate::validity::{self, ForeignWatch};
use crate::{resume, stats};

/// What the phases of open loads begin with.
pub(crate) const OPEN: &str = "open-";
/// What the phases of traces begin with.
const REPLAY: &str = "replay-";
/// The phase of a trace without its schedule.
const REPLAY_MAX: &str = "replay-max";

/// How operations are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Load {
    /// One begins when one has completed.
    #[default]
    Closed,
    /// So many a second, whatever becomes of them.
    PerSecond(f64),
    /// So many percent of what the arm did under the closed load of the same block.
    PercentOfClosed(f64),
    /// A trace on its schedule, so many times as fast as recorded.
    Replay(Speed),
    /// A trace in its order, where one begins when one has completed.
    ReplayMax,
}

impl Load {
    /// The phase of its rows.
    pub fn phase(self) -> String {
        match self {
            Load::Closed => MEASURE.to_owned(),
            Load::PerSecond(per_second) => format!("{OPEN}{per_second}-per-s"),
            Load::PercentOfClosed(percent) => format!("{OPEN}{percent}%"),
            Load::Replay(speed) => format!("{REPLAY}{}x", speed.factor()),
            Load::ReplayMax => REPLAY_MAX.to_owned(),
        }
    }

    /// Whether rows of this phase are of an open load.
    pub fn is_open_phase(phase: &str) -> bool {
        phase.starts_with(OPEN) || (Self::is_replay_phase(phase) && phase != REPLAY_MAX)
    }

    /// Whether rows of this phase are of a closed load.
    pub fn is_closed_phase(phase: &str) -> bool {
        phase == MEASURE || phase == REPLAY_MAX
    }

    /// Whether rows of this phase are of a trace.
    pub fn is_replay_phase(phase: &str) -> bool {
        phase.starts_with(REPLAY)
    }

    /// Whether it is a trace that is played.
    pub fn is_replay(self) -> bool {
        matches!(self, Load::Replay(_) | Load::ReplayMax)
    }
}

/// One thing that every arm is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The workload.
    pub workload: Workload,
    /// Requests in flight, at most where the load is open.
    pub queue_depth: u32,
    /// How they are asked for.
    pub load: Load,
}

impl Cell {
    /// A closed load.
    pub fn closed(workload: Workload, queue_depth: u32) -> Self {
        Self { workload, queue_depth, load: Load::Closed }
    }

    /// In words.
    pub fn name(&self) -> String {
        let name = format!("{} depth {}", self.workload.name(), self.queue_depth);
        if self.load == Load::Closed { name } else { format!("{name} {}", self.load.phase()) }
    }

    /// Whether a row is of it, of whichever arm and block.
    fn has(&self, row: &RunRow) -> bool {
        (row.workload.as_str(), row.queue_depth) == (self.workload.name(), self.queue_depth)
            && row.phase == self.load.phase()
    }

    /// Why an arm cannot be asked for it; `None` if it can.
    pub fn refusal(&self, arm: Arm) -> Option<String> {
        let known = self.workload.only_part().is_some_and(|(part, _)| fio::can_be_asked(part));
        match arm {
            Arm::Ring | Arm::Fio if self.load.is_replay() => Some("it plays no traces".to_owned()),
            Arm::Ring | Arm::Fio if self.load != Load::Closed => Some("it has closed loads alone".to_owned()),
            Arm::Fio if !known => {
                Some("fio is asked for requests of one length, uniform or sequential, alone".to_owned())
            }
            _ => None,
        }
    }
}

/// What is to be measured, and for how long.
#[derive(Clone, Debug)]
pub struct SuitePlan {
    /// The arms of each block.
    pub arms: Vec<Arm>,
    /// Workloads with their depths and loads. Of one workload and depth the closed load comes first, if a share of it is asked for.
    pub cells: Vec<Cell>,
    /// Blocks of each.
    pub repeats: u32,
    /// Warm-up of an arm, in nanoseconds.
    pub warmup_ns: u64,
    /// Measured time of an arm, in nanoseconds.
    pub measure_ns: u64,
    /// Seed of addresses, content and order.
    pub seed: u64,
    /// First byte of the data span.
    pub span_offset_bytes: u64,
    /// Its length in bytes.
    pub span_bytes: u64,
    /// Whether the bare device is measured in a log's place, right after the log.
    pub references: bool,
    /// Bound of the p99 of intended latency that loads are to meet, for the results.
    pub slo_ns: Option<u64>,
    /// Whether arms are measured twice, and when there are blocks enough.
    pub method: Method,
    /// The trace that cells with a load of one play.
    pub trace: Option<Arc<TracePlan>>,
}

impl SuitePlan {
    /// Arms that will run, over all blocks.
    pub fn runs(&self) -> usize {
        self.cells.iter().map(|cell| self.runs_of(cell)).sum()
    }

    /// Those of a cell.
    pub fn runs_of(&self, cell: &Cell) -> usize {
        self.arms_of(cell).len() * self.repeats as usize
    }

    /// Measurements of the bare device in a log's place, over all blocks.
    pub fn reference_runs(&self) -> usize {
        let logs = self.arms.iter().filter(|arm| **arm == Arm::Engine(Backend::Log)).count();
        let closed = self.cells.iter().filter(|cell| cell.load == Load::Closed);
        let kinds = closed.map(|cell| reference::kinds(&cell.workload).len()).sum::<usize>();
        if self.references { logs * kinds * self.repeats as usize } else { 0 }
    }

    /// The deepest queue.
    pub fn queue_depth_max(&self) -> u32 {
        self.cells.iter().map(|cell| cell.queue_depth).max().unwrap_or(1)
    }

    /// Refuses what no arm could run.
    ///
    /// # Errors
    /// A usage failure that names the workload and the span it needs.
    pub fn check(&self) -> Result<(), Failure> {
        // Changes of a trace wait for their place.
        for Cell { workload, queue_depth: depth, .. } in
            self.cells.iter().filter(|cell| !cell.load.is_replay())
        {
            // Two writes of one place are never in flight together, so that there must be places to choose from.
            let needed_bytes = u64::from(workload.operation_bytes_max()) * u64::from(2 * *depth).max(1);
            if self.span_bytes < needed_bytes {
                return Err(Failure::usage(format!(
                    "{} at depth {depth} needs a span of {needed_bytes} bytes and has {}: use a larger device, a larger \
                     --span or a smaller --queue-depth",
                    workload.name(),
                    self.span_bytes
                )));
            }
        }
        Ok(())
    }

    /// Whether a cell's load goes on until it is steady.
    fn goes_on(&self, cell: &Cell) -> bool {
        self.method.until_steady && cell.load == Load::Closed
    }

    /// Why an arm cannot be asked for a cell; `None` if it can.
    fn refusal(&self, cell: &Cell, arm: Arm) -> Option<String> {
        let has_rounds = || "it cannot be asked to go on until it is steady".to_owned();
        cell.refusal(arm).or_else(|| (arm == Arm::Fio && self.goes_on(cell)).then(has_rounds))
    }

    /// The arms of a cell with their names.
    fn arms_of(&self, cell: &Cell) -> Vec<(Arm, String)> {
        let possible: Vec<Arm> =
            self.arms.iter().copied().filter(|arm| self.refusal(cell, *arm).is_none()).collect();
        self.method.arms(&possible)
    }

    /// What is left out of it: pairs of a cell and an arm that cannot be asked for it.
    pub fn left_out(&self) -> Vec<Dropped> {
        let pairs = self.cells.iter().flat_map(|cell| self.arms.iter().map(move |arm| (cell, *arm)));
        let refused = |(cell, arm): (&Cell, Arm)| {
            let why = self.refusal(cell, arm)?;
            Some(Dropped { what: format!("{} on {}", cell.name(), arm.name()), why })
        };
        pairs.filter_map(refused).collect()
    }

    /// What each arm is asked for on this device; of a share of the closed load all but the rate.
    pub(crate) fn task(&self, path: &Path, cell: &Cell, seed: u64) -> ArmTask {
        ArmTask {
            path: path.to_owned(),
            span_offset_bytes: self.span_offset_bytes,
            span_bytes: self.span_bytes,
            workload: cell.workload.clone(),
            queue_depth: cell.queue_depth,
            warmup_ns: self.warmup_ns,
            measure_ns: self.measure_ns,
            seed,
            offered_per_second: None,
            until_steady: self.goes_on(cell),
            replay: self.trace.as_ref().and_then(|trace| {
                let speed = match cell.load {
                    Load::Replay(speed) => Some(speed),
                    Load::ReplayMax => None,
                    Load::Closed | Load::PerSecond(_) | Load::PercentOfClosed(_) => return None,
                };
                Some(Replay { trace: Arc::clone(trace), speed })
            }),
        }
    }
}

/// How a suite ended, apart from what lies in the run folder.
#[derive(Clone, Debug, Default)]
pub struct SuiteEnd {
    /// Why runs do not count, one entry a run.
    pub invalid: Vec<String>,
    /// What stopped it early.
    pub stopped: Option<Failure>,
}

/// Called between an arm and its verification with the device's path and the first byte of the span: the place for
/// a test to damage the data.
pub type AfterArm<'a> = &'a mut dyn FnMut(&Path, u64);

/// Runs the plan and appends each arm to the folder; those that are there already are passed over.
///
/// # Errors
/// The results cannot be written. What stops the measuring itself is in the [`SuiteEnd`], because what was measured
/// by then stays.
pub fn run(
    bench: &Bench,
    plan: &SuitePlan,
    folder: &mut RunFolder,
    there: &[RunRow],
    after_arm: AfterArm,
) -> Result<SuiteEnd, Failure> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let mut end = SuiteEnd::default();
    let mut progress =
        Progress { started: Instant::now(), there: there.len(), done: there.len(), runs: plan.runs() };
    for block in 1..=plan.repeats {
        // By arm, operations a second of the closed load.
        let mut closed: Vec<(String, f64)> = Vec::new();
        for cell in &plan.cells {
            let task = plan.task(bench.path(), cell, random.next_u64());
            let mut arms = plan.arms_of(cell);
            shuffle(&mut arms, &mut random);
            if cell.load == Load::Closed {
                closed.clear();
            }
            for ((arm, name), place) in arms.into_iter().zip(1..) {
                let is_it = |row: &&RunRow| row.block == block && row.arm == name && cell.has(row);
                if let Some(row) = there.iter().find(is_it) {
                    resume::check_row(row, task.seed, place)?;
                    end.invalid.extend((!row.valid).then(|| row.invalid_reason.clone()));
                    closed.extend(
                        row.per_second().filter(|_| cell.load == Load::Closed).map(|rate| (name, rate)),
                    );
                    continue;
                }
                let own = closed.iter().find(|(other, _)| *other == name).map(|(_, per_second)| *per_second);
                let offered_per_second = match cell.load {
                    Load::Closed | Load::Replay(_) | Load::ReplayMax => None,
                    Load::PerSecond(per_second) => Some(per_second),
                    // Of an arm that did nothing nothing is asked.
                    Load::PercentOfClosed(percent) => Some((own.unwrap_or(1.0) * percent / 100.0).max(1.0)),
                };
                let task = ArmTask { offered_per_second, ..task.clone() };
                let prepared = match plan.method.precondition {
                    Precondition::Arm => precondition(bench, task.seed, folder)?,
                    Precondition::Never | Precondition::Run => Ok(()),
                };
                let measured =
                    prepared.and_then(|()| one_arm(bench, arm, &task, plan.references, folder, after_arm));
                let run = match &measured {
                    Err(failure) if failure.exit_code == EXIT_INTERRUPTED => {
                        end.stopped = Some(failure.clone());
                        return Ok(end);
                    }
                    Err(failure) => ArmRun {
                        block,
                        arm_order: place,
                        arm: &name,
                        task: &task,
                        started_ns: folder.since_start_ns(),
                        outcome: None,
                        verified_blocks: None,
                        foreign_percent: None,
                        invalid_reason: Some(failure.message.clone()),
                        load: cell.load,
                        part: None,
                    },
                    Ok(measured) => ArmRun {
                        block,
                        arm_order: place,
                        arm: &name,
                        task: &task,
                        started_ns: measured.started_ns,
                        outcome: Some(&measured.outcome),
                        verified_blocks: measured.verified_blocks,
                        foreign_percent: measured.foreign_percent,
                        invalid_reason: measured.wrong.clone(),
                        load: cell.load,
                        part: None,
                    },
                };
                folder.append_arm(&run)?;
                progress.tell(&run);
                end.invalid.extend(run.invalid_reason);
                if let (Load::Closed, Ok(measured)) = (cell.load, &measured) {
                    closed.push((name, measured.outcome.per_second()));
                }
                let failure = match measured {
                    Err(failure) => Some(failure),
                    // A trace that this arm could not read to its end no other one can.
                    Ok(measured) => measured.outcome.replayed.and_then(|replayed| replayed.failure),
                };
                if let Some(failure) = failure {
                    folder.append_event("failed", &failure.message)?;
                    end.stopped = Some(failure);
                    return Ok(end);
                }
            }
        }
        // With a further block there it was not settled.
        let is_last = there.iter().all(|row| row.block <= block);
        if is_last && plan.method.is_settled(folder, block)? {
            break;
        }
    }
    Ok(end)
}

/// Purges the device and writes it over, and says so in the folder.
///
/// # Errors
/// The folder cannot be written. The inner one: what the device says, or that a signal stopped it.
pub(crate) fn precondition(
    bench: &Bench,
    seed: u64,
    folder: &mut RunFolder,
) -> Result<Result<(), Failure>, Failure> {
    eprintln!("{}: discarding and writing over all of it", bench.path().display());
    let done = match precondition::precondition(bench, seed) {
        Ok(done) => done,
        Err(failure) => return Ok(Err(failure)),
    };
    eprintln!("{}: {}", bench.path().display(), done.words);
    folder.append_event("preconditioned", &done.words)?;
    if let Some(why) = done.not_purged {
        folder.drop_part("the purge", &why)?;
    }
    Ok(Ok(()))
}

struct Measured {
    started_ns: u64,
    outcome: ArmOutcome,
    verified_blocks: Option<u64>,
    foreign_percent: Option<f64>,
    wrong: Option<String>,
}

fn one_arm(
    bench: &Bench,
    arm: Arm,
    task: &ArmTask,
    references: bool,
    folder: &RunFolder,
    after_arm: &mut dyn FnMut(&Path, u64),
) -> Result<Measured, Failure> {
    content::prime(bench, arm, task)?;
    let started_ns = folder.since_start_ns();
    let foreign = ForeignWatch::begin(bench);
    let mut outcome = arm.run(bench, task)?;
    // Behind opening a volume, connecting, reading a trace ahead.
    let started_ns = outcome.clock.map_or(started_ns, |clock| folder.began_ns(&clock));
    let foreign_percent = foreign.and_then(|foreign| foreign.percent());
    after_arm(bench.path(), task.span_offset_bytes);
    if task.workload.writes() && !arm.writes_stamped_content() {
        let wrong = validity::foreign_reason(foreign_percent);
        return Ok(Measured { started_ns, outcome, verified_blocks: None, foreign_percent, wrong });
    }
    let (verified_blocks, mut wrong) = match content::verify(bench, arm, task, &outcome.generations)? {
        Ok(blocks) => (Some(blocks), validity::foreign_reason(foreign_percent)),
        Err(wrong) => (None, Some(wrong.to_string())),
    };
    if let Some(open) = &outcome.open {
        let service = results::merged([&outcome.read.latency_ns, &outcome.write.latency_ns]);
        let refusal = |service: Histogram<u64>| {
            open.refusal(service.value_at_quantile(0.5), outcome.elapsed_ns, task.replay.is_some())
        };
        wrong = wrong.or(service.and_then(refusal));
    }
    if let Some(replayed) = &outcome.replayed {
        wrong = replayed.refusal(outcome.elapsed_ns).or(wrong);
    }
    if let Some(log) = outcome.log.filter(|_| references && task.offered_per_second.is_none()) {
        outcome.bare = reference::measure(bench, task, &log)?;
    }
    Ok(Measured { started_ns, outcome, verified_blocks, foreign_percent, wrong })
}

/// Fisher and Yates.
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut Xoshiro256PlusPlus) {
    for last in (1..items.len()).rev() {
        items.swap(last, stats::index_below(random, last + 1));
    }
}

/// One line an arm on stderr.
struct Progress {
    started: Instant,
    /// Runs that were there when this process began.
    there: usize,
    done: usize,
    runs: usize,
}

impl Progress {
    fn tell(&mut self, run: &ArmRun) {
        self.done += 1;
        let left = self.runs.saturating_sub(self.done) as u32;
        let left = self.started.elapsed() / (self.done - self.there) as u32 * left;
        let told = |outcome: &ArmOutcome| format!(" {:.0} operations/s,", outcome.per_second());
        let figures = run.outcome.map_or(String::new(), told);
        let load = match run.load {
            Load::Closed => String::new(),
            load => format!(" {}", load.phase()),
        };
        let rounds =
            run.outcome.and_then(|outcome| outcome.rounds.as_ref()).map_or(String::new(), |rounds| {
                let state = if rounds.is_steady() { "steady" } else { "NOT STEADY" };
                format!(" {state} after {} rounds,", rounds.operations.len())
            });
        let state = match (&run.invalid_reason, run.verified_blocks) {
            (Some(reason), _) => format!("DOES NOT COUNT: {reason}"),
            (None, Some(blocks)) => format!("{blocks} blocks verified"),
            (None, None) => "content not verified".to_owned(),
        };
        eprintln!(
            "[{}/{}] block {} {} depth {}{load} {}:{figures}{rounds} {state}; {} left",
            self.done,
            self.runs,
            run.block,
            run.task.workload.name(),
            run.task.queue_depth,
            run.arm,
            time_text(left)
        );
    }
}

/// Minutes and seconds.
pub(crate) fn time_text(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_three_arms_comes_up() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6_000 {
            let mut order = [0, 1, 2];
            shuffle(&mut order, &mut random);
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_span_that_is_too_short_is_a_usage_error() {
        let plan = SuitePlan {
            arms: vec![Arm::Raw],
            cells: vec![Cell::closed(Workload::from_name("seqwrite-1m").unwrap(), 32)],
            repeats: 1,
            warmup_ns: 0,
            measure_ns: 1,
            seed: 1,
            span_offset_bytes: 0,
            span_bytes: 63 << 20,
            references: true,
            slo_ns: None,
            method: Method::default(),
            trace: None,
        };
        assert!(plan.check().unwrap_err().message.contains("67108864"));
        assert!(SuitePlan { span_bytes: 64 << 20, ..plan }.check().is_ok());
    }
}
