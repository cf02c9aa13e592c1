//! `peers`: snapshots beside other systems, on the same device.
//!
//! In each block every arm of a suite has the whole device to itself once, in random order: ours claim it and let it go, a peer's
//! program makes what it needs on it and takes it away. Ratios are of ours to a peer in the same block. A peer behind NBD pays for a server's
//! hop, which ours do not: so a peer is also held against its own kind of raw, the same server without snapshots, and that ratio against ours of
//! the bare device.
//!
//! Invariants: the device is held, or lent to one peer; a peer is taken away before anybody else has it, also after an error or a signal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::beside::{Beside, SUITES};
use super::*;
use icecore::device::identity::confirm_destroy;

use crate::cli::{OverwriteOptions, PeerOptions};
use crate::results::RunRow;
use crate::stats;

/// The span if none is given: every arm fills and compares it several times.
const SPAN_BYTES: u64 = 256 << 20;
/// The peers that are there, as `scripts/peers/setup` lists them.
const PEERS: [&str; 9] = [
    "raw-qemu-nbd",
    "qcow2-internal",
    "qcow2-overlay",
    "qcow2-overlay-extl2",
    "qcow2-overlay-writeback",
    "raw-nbdkit",
    "nbdkit-cow",
    "xfs-reflink",
    "btrfs-reflink",
];
/// The table that is kept beside the others.
const TABLE_FILE: &str = "peers.csv";
/// What ours promise.
const OURS: &str = "direct I/O; durable after a flush";

/// Runs the suites and leaves a run folder with its report; gives the table of ratios too.
///
/// # Errors
/// Refusals of the device or folder, before anything is written. What stops it later is told in the [`Session`].
pub fn run(options: &PeerOptions, out: &Path, after_arm: AfterArm) -> Result<(Session, String), Failure> {
    let mut dropped = Vec::new();
    let lists = (&options.backend[..], &options.snapshots[..]);
    let mut plan = SnapshotPlan::of(lists, &options.load, (options.warmup, options.seconds), options.span)?;
    let suites = suites(&options.suite)?;
    let path = options.device.as_deref().unwrap_or(Path::new(""));
    let OverwriteOptions { destroy, force } = &options.overwrite;
    if options.resume.is_some() {
        // What a peer had made when the run was killed has the device still.
        confirm_destroy(&Identity::of(path)?, destroy.as_deref())?;
        for peer in found(options, path, &mut Vec::new())? {
            peer.remove()?;
        }
    }
    let bench = Bench::claim(path, destroy.as_deref(), plan.queue_depth, *force)?;
    plan.peers = found(options, path, &mut dropped)?;
    let is_given = plan.span_bytes > 0;
    plan.on(path, bench.identity().size_bytes)?;
    if !is_given {
        plan.span_bytes = plan.span_bytes.min(SPAN_BYTES);
    }
    let mut manifest = manifest(&bench, &plan, Vec::new());
    manifest.plan.workloads = suites.iter().map(|suite| suite.0.to_owned()).collect();
    match &options.resume {
        None => RunFolder::check_empty(out)?,
        Some(_) => resume::check(out, &manifest)?,
    }
    let mut ours = vec![Who::Raw];
    for kept in &plan.backends {
        let can = Abilities::of(&bench, *kept, plan.span_bytes)?;
        match can.take.and(can.image) {
            Ok(()) => ours.push(Who::Engine(*kept)),
            Err(why) => dropped.push(Dropped { what: kept.name().to_owned(), why }),
        }
    }
    let arms: Vec<Who> = ours.into_iter().chain(plan.peers.iter().cloned().map(Who::Peer)).collect();
    for one in &dropped {
        eprintln!("left out: {}: {}", one.what, one.why);
    }
    eprintln!(
        "{}: {} blocks of {} suites on {} arms, span of {} bytes, seed {}",
        path.display(),
        plan.repeats,
        suites.len(),
        arms.len(),
        plan.span_bytes,
        plan.seed
    );
    let (mut folder, there) = match &options.resume {
        None => (RunFolder::create(out, Manifest { dropped, ..manifest })?, Vec::new()),
        Some(_) => RunFolder::resume(out, stays)?,
    };
    precondition(&bench, &plan)?;
    drop(bench);
    let work: Vec<Work> = suites.into_iter().map(|suite| work(suite, &arms)).collect();
    let end = in_turns(&plan, &work, (&mut folder, &there), after_arm, &mut |who, turn| {
        let bench = match who {
            Who::Peer(_) => Bench::lent_out(path, plan.queue_depth),
            // What a peer has left there was made by us.
            _ => Bench::claim(path, destroy.as_deref(), plan.queue_depth, true),
        };
        match bench {
            Ok(bench) => turn(&bench),
            Err(failure) => Ok(Some(failure)),
        }
    })?;
    let session = Session::end(folder, end)?;
    let table = table(&session.data.runs, &arms, plan.seed);
    write_csv(&out.join(TABLE_FILE), &table)?;
    let is_file = Identity::of(path)?.device_number.is_none();
    let text = shown(&table, &arms, is_file);
    Ok((session, text))
}

fn suites(names: &[String]) -> Result<Vec<Beside>, Failure> {
    let one = |name: &String| {
        SUITES.into_iter().find(|suite| suite.0 == name).ok_or_else(|| {
            let names = SUITES.map(|suite| suite.0).join(", ");
            Failure::usage(format!("unknown suite {name:?}; there are: {names}"))
        })
    };
    names.iter().map(one).collect()
}

/// A suite with these arms, and fio beside them in `quick`, where it is there.
fn work((name, suite): Beside, arms: &[Who]) -> Work {
    let fio = (name == "quick" && fio_is_here()).then_some(Who::Fio);
    let run = move |stage: &Stage| {
        let ended = suite(stage);
        let removed = match &stage.arm {
            Who::Peer(peer) => peer.remove(),
            _ => Ok(()),
        };
        ended.and(removed).map(|()| Vec::new())
    };
    let arms = arms.iter().cloned().chain(fio).collect();
    Work { name, arms, leaves_out_raw: false, run: Box::new(run) }
}

/// The peers that can run here, with those that they are held against. What is missing for the others is told.
fn found(options: &PeerOptions, path: &Path, dropped: &mut Vec<Dropped>) -> Result<Vec<Rc<Peer>>, Failure> {
    let scripts = options.scripts.clone().unwrap_or_else(|| {
        let of_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/peers");
        if of_checkout.is_dir() { of_checkout } else { PathBuf::from("scripts/peers") }
    });
    let device = path.canonicalize();
    let device = device.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut names: Vec<String> = options.peers.clone();
    if names.is_empty() {
        names = PEERS.map(str::to_owned).to_vec();
    }
    let mut peers: Vec<Rc<Peer>> = Vec::new();
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        at += 1;
        if peers.iter().any(|peer| peer.name == name) {
            continue;
        }
        match Peer::of(&scripts.join(&name))?.lent(&device) {
            Ok(peer) => {
                names.extend(peer.description.reference.clone());
                peers.push(Rc::new(peer));
            }
            Err(failure) if failure.exit_code == EXIT_INTERRUPTED => return Err(failure),
            Err(failure) => dropped.push(Dropped { what: name, why: failure.message }),
        }
    }
    Ok(peers)
}

fn fio_is_here() -> bool {
    let found = std::process::Command::new("fio").arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

/// A row of the table: ours beside a peer in one part of a suite.
#[derive(Clone, Debug)]
struct Line {
    suite: String,
    phase: String,
    chain_depth: Option<u32>,
    ours: String,
    peer: String,
    /// Of operations a second.
    ratio: Option<stats::Ratio>,
    /// Both as shares of their own kind of raw.
    of_own_raw: Option<stats::Ratio>,
    reference: String,
    durability: String,
}

/// Part of a suite, and arm: operations a second by block.
type Rates = BTreeMap<(String, String, Option<u32>), BTreeMap<String, BTreeMap<u32, f64>>>;

fn table(runs: &[RunRow], arms: &[Who], seed: u64) -> Vec<Line> {
    let mut rates: Rates = BTreeMap::new();
    for run in runs.iter().filter(|run| run.valid) {
        if let Some(rate) = run.per_second().filter(|rate| *rate > 0.0 && run.measured_ns > Some(0)) {
            let part = (run.workload.clone(), run.phase.clone(), run.chain_depth);
            let of_arm = rates.entry(part).or_default().entry(run.arm.clone()).or_default();
            of_arm.insert(run.block, rate);
        }
    }
    let mut lines = Vec::new();
    for ((suite, phase, chain_depth), of_arms) in &rates {
        for peer in arms {
            let Who::Peer(peer) = peer else { continue };
            let reference = peer.description.reference.as_deref().unwrap_or("raw");
            for ours in arms.iter().filter(|arm| matches!(arm, Who::Raw | Who::Engine(_))) {
                let Some((mine, theirs)) = of_arms.get(ours.name()).zip(of_arms.get(&peer.name)) else {
                    continue;
                };
                let both = |block: &u32| Some((*mine.get(block)?, *theirs.get(block)?));
                let (a, b): (Vec<f64>, Vec<f64>) = mine.keys().filter_map(both).unzip();
                // What keeps no snapshots has no oldest one: reads are reads.
                let of_raw = match phase.as_str() {
                    "oldest-warm" => rates.get(&(suite.clone(), "newest-warm".to_owned(), *chain_depth)),
                    _ => Some(of_arms),
                };
                let own = of_raw.and_then(|of_raw| of_raw.get("raw").zip(of_raw.get(reference)));
                let shares = |block: &u32| {
                    let (raw, theirs_raw) =
                        own.and_then(|(raw, own)| Some((*raw.get(block)?, *own.get(block)?)))?;
                    let (mine, theirs) = both(block)?;
                    Some((mine / raw, theirs / theirs_raw))
                };
                let (c, d): (Vec<f64>, Vec<f64>) = mine.keys().filter_map(shares).unzip();
                lines.push(Line {
                    suite: suite.clone(),
                    phase: phase.clone(),
                    chain_depth: *chain_depth,
                    ours: ours.name().to_owned(),
                    peer: peer.name.clone(),
                    ratio: stats::paired_ratio(&a, &b, seed),
                    of_own_raw: stats::paired_ratio(&c, &d, seed),
                    reference: reference.to_owned(),
                    durability: peer.description.durability.clone(),
                });
            }
        }
    }
    lines
}

/// Both ends of an interval, where it has some.
fn ends(ratio: Option<&stats::Ratio>) -> [String; 3] {
    let Some(ratio) = ratio else { return Default::default() };
    let text = |value: f64| format!("{value:.4}");
    if ratio.ci_high.is_finite() {
        [ratio.median, ratio.ci_low, ratio.ci_high].map(text)
    } else {
        // One block has none.
        [text(ratio.median), String::new(), String::new()]
    }
}

fn write_csv(path: &Path, lines: &[Line]) -> Result<(), Failure> {
    let failed = |error: csv::Error| Failure::environment(format!("{}: {error}", path.display()));
    let mut file = csv::Writer::from_path(path).map_err(failed)?;
    file.write_record([
        "suite",
        "phase",
        "chain_depth",
        "ours",
        "peer",
        "blocks",
        "iops_ratio",
        "ci_low",
        "ci_high",
        "reference",
        "of_own_raw",
        "of_own_raw_ci_low",
        "of_own_raw_ci_high",
        "durability_ours",
        "durability_peer",
    ])
    .map_err(failed)?;
    for line in lines {
        let depth = line.chain_depth.map_or(String::new(), |depth| depth.to_string());
        let blocks = line.ratio.as_ref().map_or(0, |ratio| ratio.n).to_string();
        let [ratio, low, high] = ends(line.ratio.as_ref());
        let [own, own_low, own_high] = ends(line.of_own_raw.as_ref());
        let row = [
            &line.suite,
            &line.phase,
            &depth,
            &line.ours,
            &line.peer,
            &blocks,
            &ratio,
            &low,
            &high,
            &line.reference,
            &own,
            &own_low,
            &own_high,
            OURS,
            &line.durability,
        ]
        .map(|cell: &str| cell);
        file.write_record(row).map_err(failed)?;
    }
    file.flush().map_err(|error| Failure::environment(format!("{}: {error}", path.display())))
}

/// The table for people.
fn shown(lines: &[Line], arms: &[Who], is_file: bool) -> String {
    let cell = |ratio: Option<&stats::Ratio>| {
        let [median, low, high] = ends(ratio);
        match (median.is_empty(), low.is_empty()) {
            (true, _) => "-".to_owned(),
            (false, true) => median,
            (false, false) => format!("{median} ({low}-{high})"),
        }
    };
    let mut text = String::from(
        "Operations a second, ours over the peer's in the same block: median and 95 % interval.\n\
         of own raw: the same with each as a share of its own kind of raw, ours of the bare device: that takes a server's hop out.\n",
    );
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<7} {:<16} {:>5} {:<9} {:<24} {:<26} {:<26} own raw",
        "suite", "phase", "depth", "ours", "peer", "ours / peer", "of own raw"
    );
    for line in lines {
        let _ = writeln!(
            text,
            "{:<7} {:<16} {:>5} {:<9} {:<24} {:<26} {:<26} {}",
            line.suite,
            line.phase,
            line.chain_depth.map_or(String::new(), |depth| depth.to_string()),
            line.ours,
            line.peer,
            cell(line.ratio.as_ref()),
            cell(line.of_own_raw.as_ref()),
            line.reference
        );
    }
    let _ = writeln!(text, "\nWhat the figures promise:\n  ours: {OURS}");
    for arm in arms {
        if let Who::Peer(peer) = arm {
            let _ = writeln!(text, "  {}: {}", peer.name, peer.description.durability);
        }
    }
    text.push_str(
        "Snapshots are taken at rest, and the peers' time to take one has the start of programs in it.\n",
    );
    if is_file {
        text.push_str(
            "The device is a file: peers have a loop device between it and them, ours have none.\n",
        );
    }
    text
}
