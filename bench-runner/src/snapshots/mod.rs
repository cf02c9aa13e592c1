//! `snapshots`: what keeping snapshots costs, as suites of their own.
//!
//! For each block and each suite every backend that can do it runs once, and the bare device beside it, in random order,
//! with the same seed, on a span that has been filled anew; of other systems, those that the user brings. An arm leaves one run for each part of its suite: the time
//! before the snapshot, the first touches after it, and so on. What a backend cannot do is found by asking it, named, and
//! left out.
//!
//! Invariants: everything that a suite has written or kept is read back and compared before its runs count; background
//! work that a part has caused is waited for before the device's work is counted, unless the part says otherwise.

mod aging;
mod backup;
mod beside;
mod chain;
mod cliff;
mod creation;
mod delete;
mod foreground;
mod full;
mod guest;
mod home;
mod load;
mod merge;
mod overwrite;
mod peer;
pub mod peers;
mod ratios;
mod record;
mod rollback;
mod stage;
mod subject;
mod touch;

use std::path::Path;
use std::rc::Rc;

use icecore::device::Identity;
use icecore::store::Backend;
use icecore_workloads::Stamper;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use self::peer::Peer;
use self::stage::{Part, Stage, random_4k};
use self::subject::{Abilities, Kept, Who};
use crate::arms::Arm;
use crate::arms::target::Bare;
use crate::bench::{Bench, DataSpan, data_span};
use crate::cli::{OverwriteOptions, SnapshotLoadOptions, SnapshotOptions};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::measure::SuitePart;
use crate::results::{ArmRun, Dropped, Manifest, Plan, RunFolder, RunRow};
use crate::session::Session;
use crate::suite::{AfterArm, Load, SuiteEnd, shuffle};
use crate::{content, environment, plan, resume};

const MIB: u64 = 1 << 20;
/// The span if none is given: snapshots need room beside it.
const SPAN_BYTES_DEFAULT: u64 = 1 << 30;
const SPAN_SHARE: u64 = 4;
/// The larger volumes of creation.
const SIZES_IN_SPANS: [u64; 2] = [8, 1_024];
/// A larger device is not written in full before, and not filled up: that would take longer than everything else.
const WHOLE_BYTES_MAX: u64 = 64 << 30;

/// How the device is prepared, in words for results.
const PRECONDITIONING: &str = "the device (up to 64 GiB) written once; before each arm a new volume of the span's size, \
                               written once in 1 MiB writes at depth 8 and flushed, and background work waited for";

/// A suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Random writes before, while and after a snapshot is taken.
    Cliff,
    /// Reads and creation as snapshots become many.
    Chain,
    /// Taking them as they become many and volumes large.
    Creation,
    /// First writes as snapshots become many.
    FirstTouch,
    /// Foreground writes while snapshots are deleted.
    Delete,
    /// Going back.
    Rollback,
    /// A pool that fills up.
    Full,
    /// Overwriting a part of the volume.
    OverwriteFraction,
    /// Reads that bring what they read home.
    ReadHome,
    /// Bringing an overlay into the base.
    Merge,
    /// Reading a snapshot in order, beside a foreground.
    Backup,
    /// Many snapshots that have come and gone.
    Aging,
}

impl Suite {
    /// All of them.
    pub const ALL: [Suite; 12] = [
        Suite::Cliff,
        Suite::Chain,
        Suite::Creation,
        Suite::FirstTouch,
        Suite::Delete,
        Suite::Rollback,
        Suite::Full,
        Suite::OverwriteFraction,
        Suite::ReadHome,
        Suite::Merge,
        Suite::Backup,
        Suite::Aging,
    ];

    /// The name on the command line, and in the column `workload` of results.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Cliff => "cliff",
            Suite::Chain => "chain",
            Suite::Creation => "creation",
            Suite::FirstTouch => "first-touch",
            Suite::Delete => "delete",
            Suite::Rollback => "rollback",
            Suite::Full => "full",
            Suite::OverwriteFraction => "overwrite-fraction",
            Suite::ReadHome => "read-home",
            Suite::Merge => "merge",
            Suite::Backup => "backup",
            Suite::Aging => "aging",
        }
    }

    fn from_name(name: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|suite| suite.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Suite::name).join(", ");
            Failure::usage(format!("unknown suite {name:?}; there are: {names}"))
        })
    }

    /// Why a backend cannot do it.
    fn lacks(self, abilities: &Abilities) -> Option<&str> {
        let needs = match self {
            Suite::Cliff | Suite::Chain | Suite::Creation | Suite::FirstTouch | Suite::OverwriteFraction => {
                vec![&abilities.take, &abilities.image]
            }
            Suite::Delete | Suite::Full => vec![&abilities.take, &abilities.delete],
            Suite::Rollback => vec![&abilities.take, &abilities.go_back],
            Suite::ReadHome => vec![&abilities.move_home, &abilities.delete],
            Suite::Merge => vec![&abilities.fold, &abilities.delete],
            Suite::Backup | Suite::Aging => vec![&abilities.take, &abilities.image, &abilities.delete],
        };
        needs.into_iter().find_map(|ability| ability.as_ref().err()).map(String::as_str)
    }

    /// Whether the bare device runs it as an arm of its own.
    fn has_raw(self, plan: &SnapshotPlan) -> bool {
        match self {
            // In a chain it is measured beside each part, and it takes no snapshots.
            Suite::Chain | Suite::Creation | Suite::ReadHome => false,
            // Without a foreground nothing is left of it there.
            Suite::Merge => !plan.loads.is_empty(),
            _ => true,
        }
    }

    /// Whether it can be run under load.
    fn takes_load(self) -> bool {
        matches!(
            self,
            Suite::Delete
                | Suite::Rollback
                | Suite::Full
                | Suite::OverwriteFraction
                | Suite::Merge
                | Suite::Backup
        )
    }

    /// Those that can be run under load, by their names.
    fn under_load() -> String {
        let names: Vec<&str> =
            Self::ALL.into_iter().filter(|suite| suite.takes_load()).map(Suite::name).collect();
        names.join(", ")
    }

    /// As [`Work::run`].
    fn run(self, stage: &Stage) -> Result<Vec<Part>, Failure> {
        match self {
            Suite::Cliff => cliff::run(stage)?,
            Suite::Chain => return chain::run(stage),
            Suite::Creation => creation::run(stage)?,
            Suite::FirstTouch => touch::run(stage)?,
            Suite::Delete => delete::run(stage)?,
            Suite::Rollback => rollback::run(stage)?,
            Suite::Full => full::run(stage)?,
            Suite::OverwriteFraction => overwrite::run(stage)?,
            Suite::ReadHome => home::run(stage)?,
            Suite::Merge => merge::run(stage)?,
            Suite::Backup => backup::run(stage)?,
            Suite::Aging => aging::run(stage)?,
        }
        Ok(Vec::new())
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct SnapshotPlan {
    suites: Vec<Suite>,
    backends: Vec<Kept>,
    peers: Vec<Rc<Peer>>,
    /// Depths of the chain, snapshots held at first touches, and ends of the parts of creation; ascending.
    snapshots: Vec<u32>,
    /// Bytes of the volumes of creation, beside one as large as the span; ascending.
    sizes: Vec<u64>,
    /// Writes between two of these snapshots.
    changes: u64,
    /// What is written once by first touches.
    unit_bytes: u64,
    /// Shares of what an arm does of the foreground as fast as it can, in percent; empty where suites have loads of their own.
    loads: Vec<f64>,
    queue_depth: u32,
    /// Writes that are begun together.
    batch: u32,
    measure_ns: u64,
    warmup_ns: u64,
    repeats: u32,
    seed: u64,
    span_offset_bytes: u64,
    span_bytes: u64,
}

impl SnapshotPlan {
    /// What `snapshots` and `peers` are asked for in the same words: backends, lengths of the chain, the load, times and the span.
    ///
    /// # Errors
    /// A usage failure that says what is unknown or does not go together.
    fn of(
        (backends, snapshots): (&[String], &[u32]),
        load: &SnapshotLoadOptions,
        (warmup_s, measure_s): (f64, f64),
        span: Option<u64>,
    ) -> Result<Self, Failure> {
        if load.batch > load.queue_depth {
            return Err(Failure::usage("--batch may not be larger than --queue-depth"));
        }
        if span.is_some_and(|bytes| bytes == 0 || !bytes.is_multiple_of(MIB)) {
            return Err(Failure::usage("--span must be a multiple of 1048576 bytes, and not 0"));
        }
        Ok(Self {
            suites: Vec::new(),
            backends: each_once(backends, Kept::from_name)?,
            peers: Vec::new(),
            snapshots: ascending(snapshots),
            sizes: Vec::new(),
            changes: load.changes,
            unit_bytes: 4096,
            loads: Vec::new(),
            queue_depth: load.queue_depth,
            batch: load.batch,
            measure_ns: (measure_s * 1e9) as u64,
            warmup_ns: (warmup_s * 1e9) as u64,
            repeats: load.repeats,
            seed: load.seed.unwrap_or_else(plan::random_seed),
            span_offset_bytes: 0,
            span_bytes: span.unwrap_or(0),
        })
    }

    /// Understands names and numbers; looks at no device.
    fn parse(options: &SnapshotOptions) -> Result<Self, Failure> {
        let suites = each_once(&options.suite, Suite::from_name)?;
        let lists = (&options.backend[..], &options.snapshots[..]);
        let plan = Self::of(lists, &options.load, (options.warmup, options.seconds), options.span)?;
        let mut peers: Vec<Rc<Peer>> = Vec::new();
        for program in &options.peer {
            let peer = Peer::of(program)?;
            if peers.iter().any(|other| other.name == peer.name) {
                return Err(Failure::usage(format!("two peers are called {:?}", peer.name)));
            }
            peers.push(Rc::new(peer));
        }
        if !(peers.is_empty() || suites.is_empty() || suites.contains(&Suite::FirstTouch)) {
            return Err(Failure::usage("peers take part in the suite first-touch alone"));
        }
        let mut loads = options.loads.clone();
        loads.sort_by(f64::total_cmp);
        loads.dedup();
        if let Some(suite) = suites.iter().find(|suite| !loads.is_empty() && !suite.takes_load()) {
            let under_load = Suite::under_load();
            return Err(Failure::usage(format!("{} has no --load; these have: {under_load}", suite.name())));
        }
        let every =
            || Suite::ALL.into_iter().filter(|suite| loads.is_empty() || suite.takes_load()).collect();
        let all = || Backend::ALL.map(Kept::mapped).to_vec();
        Ok(Self {
            suites: if suites.is_empty() { every() } else { suites },
            loads: loads.clone(),
            backends: if plan.backends.is_empty() { all() } else { plan.backends },
            peers,
            sizes: ascending(&options.sizes),
            unit_bytes: options.unit,
            ..plan
        })
    }

    fn on(&mut self, path: &Path, device_bytes: u64) -> Result<(), Failure> {
        let arms: Vec<Arm> = self.backends.iter().map(|kept| Arm::Engine(kept.backend)).collect();
        let DataSpan { offset_bytes, bytes, least } = data_span(device_bytes, path, &arms)?;
        let largest = bytes / SPAN_SHARE / MIB * MIB;
        let wanted = if self.span_bytes == 0 { largest.min(SPAN_BYTES_DEFAULT) } else { self.span_bytes };
        // As many blocks as a load needs that writes to an eighth of them.
        let needed = (u64::from(self.queue_depth) * 2 * 8 * 4096).next_multiple_of(MIB);
        if wanted > largest || wanted < needed {
            return Err(Failure::usage(format!(
                "{} has room for a span of {largest} bytes with its snapshots on {}, and {needed} are needed, not {wanted}",
                path.display(),
                least.name()
            )));
        }
        (self.span_offset_bytes, self.span_bytes) = (offset_bytes, wanted);
        if self.sizes.is_empty() {
            self.sizes = SIZES_IN_SPANS.map(|spans| wanted.saturating_mul(spans)).to_vec();
        }
        Ok(())
    }
}

/// What names mean, in their order and each once.
fn each_once<T: PartialEq>(
    names: &[String],
    meaning: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut meanings = Vec::new();
    for name in names {
        let one = meaning(name)?;
        if !meanings.contains(&one) {
            meanings.push(one);
        }
    }
    Ok(meanings)
}

fn ascending<T: Ord + Copy>(numbers: &[T]) -> Vec<T> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Runs the suites as the options say and leaves a run folder with its report.
///
/// # Errors
/// Refusals of the device or folder, before anything is written. What stops it later is told in the [`Session`].
pub fn run(options: &SnapshotOptions, out: &Path, after_arm: AfterArm) -> Result<Session, Failure> {
    let mut plan = SnapshotPlan::parse(options)?;
    let path = options.device.as_deref().unwrap_or(Path::new(""));
    let bench = match options.create {
        Some(bytes) if !path.exists() => {
            plan.clone().on(path, bytes)?;
            Bench::create(path, bytes, plan.queue_depth)?
        }
        _ => {
            let OverwriteOptions { destroy, force } = &options.overwrite;
            Bench::claim(path, destroy.as_deref(), plan.queue_depth, *force)?
        }
    };
    plan.on(path, bench.identity().size_bytes)?;
    if options.resume.is_none() {
        RunFolder::check_empty(out)?;
    }
    eprintln!(
        "{}: {} blocks of {} suites on {} backends, span of {} bytes, seed {}",
        path.display(),
        plan.repeats,
        plan.suites.len(),
        plan.backends.len(),
        plan.span_bytes,
        plan.seed
    );
    let now = manifest(&bench, &plan, Vec::new());
    if options.resume.is_some() {
        resume::check(out, &now)?;
    }
    let (work, dropped) = choose(&bench, &plan)?;
    for one in &dropped {
        eprintln!("left out: {}: {}", one.what, one.why);
    }
    // Before the device is written in full: a folder that cannot be written is told at once.
    let (mut folder, there) = match &options.resume {
        None => (RunFolder::create(out, Manifest { dropped, ..now })?, Vec::new()),
        Some(_) => RunFolder::resume(out, stays)?,
    };
    precondition(&bench, &plan)?;
    let end = in_turns(&plan, &work, (&mut folder, &there), after_arm, &mut |_, turn| turn(&bench))?;
    Session::end(folder, end)
}

/// Of an arm's rows, its parts, some may be missing if it was the last one; and one that failed is measured again.
fn stays(row: &RunRow, all: &[RunRow]) -> bool {
    let arm_of = |row: &RunRow| (row.block, row.workload.clone(), row.arm_order);
    row.measured_ns.is_some() && all.last().map(arm_of) != Some(arm_of(row))
}

/// Writes the device once: what has never been written reads faster than anything else.
fn precondition(bench: &Bench, plan: &SnapshotPlan) -> Result<(), Failure> {
    let size_bytes = bench.identity().size_bytes;
    let (offset_bytes, bytes) = if size_bytes <= WHOLE_BYTES_MAX {
        (0, size_bytes / MIB * MIB)
    } else {
        (plan.span_offset_bytes, plan.span_bytes)
    };
    content::fill(bench.runtime(), &Bare::new(bench.device(), offset_bytes), bytes, Stamper::new(plan.seed))
}

type RunSuite = dyn Fn(&Stage) -> Result<Vec<Part>, Failure>;

/// A suite and the arms that run it.
struct Work {
    name: &'static str,
    arms: Vec<Who>,
    /// Whether the bare device is no arm of its own.
    leaves_out_raw: bool,
    /// Gives the bare device's parts, where it is measured beside an arm rather than as one.
    run: Box<RunSuite>,
}

/// Which backend runs which suite, and what is left out.
fn choose(bench: &Bench, plan: &SnapshotPlan) -> Result<(Vec<Work>, Vec<Dropped>), Failure> {
    let mut dropped = Vec::new();
    let mut abilities = Vec::new();
    for backend in &plan.backends {
        abilities.push((*backend, Abilities::of(bench, *backend, plan.span_bytes)?));
    }
    let mut work = Vec::new();
    for suite in &plan.suites {
        let too_large = "the device is too large to be filled up".to_owned();
        if *suite == Suite::Full && bench.identity().size_bytes > WHOLE_BYTES_MAX {
            dropped.push(Dropped { what: suite.name().to_owned(), why: too_large });
            continue;
        }
        let mut arms = vec![Who::Raw];
        for (backend, can) in &abilities {
            match suite.lacks(can) {
                None => arms.push(Who::Engine(*backend)),
                Some(why) => dropped.push(Dropped {
                    what: format!("{} on {}", suite.name(), backend.name()),
                    why: why.to_owned(),
                }),
            }
        }
        if *suite == Suite::FirstTouch {
            arms.extend(plan.peers.iter().cloned().map(Who::Peer));
        }
        if arms.len() > 1 {
            let suite = *suite;
            let (name, leaves_out_raw) = (suite.name(), !suite.has_raw(plan));
            work.push(Work { name, arms, leaves_out_raw, run: Box::new(move |stage| suite.run(stage)) });
        }
    }
    if work.is_empty() {
        let why: Vec<String> = dropped.iter().map(|one| format!("{}: {}", one.what, one.why)).collect();
        return Err(Failure::usage(format!("nothing can be measured: {}", why.join("; "))));
    }
    Ok((work, dropped))
}

/// What stops the run, if anything does.
type Stopped = Result<Option<Failure>, Failure>;
/// What a turn does with its bench.
type Turn<'a> = &'a mut dyn FnMut(&Bench) -> Stopped;

/// Every suite of every block, each arm in its turn on the bench that it is given. A failure of an arm stops nothing: the others go on.
fn in_turns(
    plan: &SnapshotPlan,
    work: &[Work],
    (folder, there): (&mut RunFolder, &[RunRow]),
    after_arm: AfterArm,
    give_bench: &mut dyn FnMut(&Who, Turn) -> Stopped,
) -> Result<SuiteEnd, Failure> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let mut invalid = Vec::new();
    for block in 1..=plan.repeats {
        for Work { name, arms, leaves_out_raw, run } in work {
            let seed = random.next_u64();
            let mut arms = arms.clone();
            shuffle(&mut arms, &mut random);
            arms.retain(|arm| !leaves_out_raw || *arm != Who::Raw);
            for (arm, place) in arms.iter().zip(1..) {
                let is_it = |row: &&RunRow| {
                    (row.block, row.workload.as_str(), row.arm.as_str()) == (block, *name, arm.name())
                };
                if let Some(row) = there.iter().find(is_it) {
                    resume::check_row(row, seed, place)?;
                    invalid.extend((!row.valid).then(|| row.invalid_reason.clone()));
                    continue;
                }
                let stopped = give_bench(arm, &mut |bench| {
                    let begun_ns = folder.since_start_ns();
                    let stage =
                        Stage::new(bench, plan, arm.clone(), (name, seed, block), begun_ns, after_arm);
                    let ended = run(&stage);
                    if let Err(failure) = &ended
                        && failure.exit_code == EXIT_INTERRUPTED
                    {
                        return Ok(Some(failure.clone()));
                    }
                    // One arm's failure is its own, unless there is no device left for the others.
                    let gone = ended.as_ref().err().filter(|_| bench.is_gone()).cloned();
                    let reason = append(folder, &stage, block, place, ended)?;
                    let state = reason.as_ref().map_or_else(
                        || format!("{} blocks verified", stage.verified_blocks.borrow()),
                        |reason| format!("DOES NOT COUNT: {reason}"),
                    );
                    eprintln!("block {block} {name} {}: {state}", arm.name());
                    invalid.extend(reason);
                    Ok(gone)
                })?;
                if stopped.is_some() {
                    return Ok(SuiteEnd { invalid, stopped });
                }
            }
        }
    }
    Ok(SuiteEnd { invalid, stopped: None })
}

/// Appends what an arm has measured, and gives the reason why it does not count.
fn append(
    folder: &mut RunFolder,
    stage: &Stage,
    block: u32,
    arm_order: u32,
    ended: Result<Vec<Part>, Failure>,
) -> Result<Option<String>, Failure> {
    let task = stage.plan.task(stage.bench, stage.name, stage.seed);
    let (beside, failed) = match ended {
        Ok(beside) => (beside, None),
        Err(failure) => (Vec::new(), Some(failure.message)),
    };
    for happened in stage.events.borrow().iter() {
        folder.append_event_at(happened.at_ns, happened.event, &happened.detail)?;
    }
    if let Some(message) = &failed {
        folder.append_event("failed", &format!("{}, {}: {message}", stage.arm.name(), stage.name))?;
    }
    let reason = failed.or_else(|| stage.wrong.borrow().clone());
    for (what, why) in stage.dropped.borrow_mut().drain(..) {
        eprintln!("left out: {what}: {why}");
        folder.drop_part(&what, &why)?;
    }
    let verified = Some(*stage.verified_blocks.borrow());
    let parts = stage.parts.borrow();
    let own = parts.iter().map(|part| {
        let reason = reason.clone().or_else(|| part.refusal.clone());
        (stage.arm.name(), part, verified, reason)
    });
    // Of what the bare device read under a volume nothing is known.
    let beside = beside.iter().map(|part| (Arm::Raw.name(), part, None, None));
    let is_peer = matches!(stage.arm, Who::Peer(_));
    let none = SuitePart { phase: "none", snapshots: None, figures: &[], windows: &[], is_peer };
    let nothing = ArmRun {
        load: Load::Closed,
        block,
        arm_order,
        arm: stage.arm.name(),
        task: &task,
        started_ns: stage.base_ns,
        outcome: None,
        verified_blocks: None,
        foreign_percent: None,
        invalid_reason: reason.clone(),
        part: Some(none),
    };
    for (arm, part, verified_blocks, invalid_reason) in own.chain(beside) {
        let mut task = task.clone();
        match &part.workload {
            Some(workload) => task.workload = workload.renamed(stage.name),
            None if part.outcome.read.operations > 0 => task.workload = random_4k(stage.name, 100),
            None => {}
        }
        let of_suite = SuitePart {
            phase: &part.phase,
            snapshots: part.snapshots,
            figures: &part.figures,
            windows: &part.windows,
            ..none
        };
        folder.append_arm(&ArmRun {
            arm,
            task: &task,
            started_ns: part.started_ns,
            outcome: Some(&part.outcome),
            verified_blocks,
            invalid_reason,
            part: Some(of_suite),
            ..nothing.clone()
        })?;
    }
    if parts.is_empty() {
        folder.append_arm(&nothing)?;
    }
    let refused = parts.iter().find_map(|part| Some(format!("{}: {}", part.phase, part.refusal.as_ref()?)));
    Ok(reason.or(refused))
}

fn manifest(bench: &Bench, plan: &SnapshotPlan, dropped: Vec<Dropped>) -> Manifest {
    let backends = plan.backends.iter().map(|backend| backend.name());
    let peers = plan.peers.iter().map(|peer| peer.name.as_str());
    Manifest {
        command_line: std::env::args().collect(),
        seed: plan.seed,
        device: environment::bench_facts(bench),
        environment: environment::environment_facts(),
        plan: Plan {
            slo_ns: None,
            steady_state: None,
            digest: Plan::digest_of(plan),
            arms: [Arm::Raw.name()].into_iter().chain(backends).chain(peers).map(str::to_owned).collect(),
            workloads: plan.suites.iter().map(|suite| suite.name().to_owned()).collect(),
            queue_depths: vec![plan.queue_depth],
            repeats: plan.repeats,
            measure_ns: plan.measure_ns,
            warmup_ns: plan.warmup_ns,
            span_offset_bytes: plan.span_offset_bytes,
            span_bytes: plan.span_bytes,
            preconditioning: PRECONDITIONING.to_owned(),
        },
        dropped,
        ..Manifest::default()
    }
}
