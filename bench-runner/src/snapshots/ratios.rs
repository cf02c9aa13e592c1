//! The table of ratios that `peers` ends with: ours beside each peer in each part of a suite, in `peers.csv` and for people.
//!
//! Invariant: a ratio is of two arms in the same block on the same device. What was measured in the guest comes from the
//! table of the guest's own run, as it stands there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::subject::Who;
use crate::failure::Failure;
use crate::results::RunRow;
use crate::stats;

/// The table that is kept beside the others.
pub(super) const TABLE_FILE: &str = "peers.csv";
/// What ours promise.
const OURS: &str = "direct I/O; durable after a flush";
/// Where a row was measured: on the run's device, or on a guest's memory disk.
const ON_DEVICE: &str = "device";
const IN_GUEST: &str = "guest";

/// A row of the table: ours beside a peer in one part of a suite. Numbers are as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    suite: String,
    phase: String,
    chain_depth: String,
    ours: String,
    peer: String,
    blocks: usize,
    /// Of operations a second.
    iops_ratio: String,
    ci_low: String,
    ci_high: String,
    reference: String,
    /// Both as shares of their own kind of raw.
    of_own_raw: String,
    of_own_raw_ci_low: String,
    of_own_raw_ci_high: String,
    durability_ours: String,
    durability_peer: String,
    measured_in: String,
}

/// Part of a suite, and arm: operations a second by block.
type Rates = BTreeMap<(String, String, Option<u32>), BTreeMap<String, BTreeMap<u32, f64>>>;

/// The rows of a run on its device.
pub(super) fn table(runs: &[RunRow], arms: &[Who], seed: u64) -> Vec<Line> {
    let mut rates: Rates = BTreeMap::new();
    // What was not steady is kept, and not ranked.
    for run in runs.iter().filter(|run| run.valid && run.steady != Some(false)) {
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
                let ratio = stats::paired_ratio(&a, &b, seed);
                let [iops_ratio, ci_low, ci_high] = ends(ratio.as_ref());
                let [of_own_raw, of_own_raw_ci_low, of_own_raw_ci_high] =
                    ends(stats::paired_ratio(&c, &d, seed).as_ref());
                lines.push(Line {
                    suite: suite.clone(),
                    phase: phase.clone(),
                    chain_depth: chain_depth.map_or(String::new(), |depth| depth.to_string()),
                    ours: ours.name().to_owned(),
                    peer: peer.name.clone(),
                    blocks: ratio.as_ref().map_or(0, |ratio| ratio.n),
                    iops_ratio,
                    ci_low,
                    ci_high,
                    reference: reference.to_owned(),
                    of_own_raw,
                    of_own_raw_ci_low,
                    of_own_raw_ci_high,
                    durability_ours: OURS.to_owned(),
                    durability_peer: peer.description.durability.clone(),
                    measured_in: ON_DEVICE.to_owned(),
                });
            }
        }
    }
    lines
}

/// A ratio and both ends of its interval, where it has some.
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

/// The rows of a guest's run folder, labelled so.
///
/// # Errors
/// There is no such table, or it is none.
pub(super) fn of_guest(folder: &Path) -> Result<Vec<Line>, Failure> {
    let path = folder.join(TABLE_FILE);
    let failed = |error: csv::Error| Failure::environment(format!("{}: {error}", path.display()));
    let mut lines: Vec<Line> = csv::Reader::from_path(&path)
        .map_err(failed)?
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    for line in &mut lines {
        IN_GUEST.clone_into(&mut line.measured_in);
    }
    Ok(lines)
}

/// Writes the table.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write_csv(path: &Path, lines: &[Line]) -> Result<(), Failure> {
    let failed = |error: csv::Error| Failure::environment(format!("{}: {error}", path.display()));
    // The header is there without rows, too; it is taken from the row type itself.
    let mut header = csv::Writer::from_writer(Vec::new());
    header.serialize(Line::default()).map_err(failed)?;
    let header = header.into_inner().map_err(|error| failed(error.into_error().into()))?;
    let mut file = csv::WriterBuilder::new().has_headers(false).from_path(path).map_err(failed)?;
    let header = String::from_utf8_lossy(&header);
    file.write_record(header.lines().next().unwrap_or_default().split(',')).map_err(failed)?;
    for line in lines {
        file.serialize(line).map_err(failed)?;
    }
    file.flush().map_err(|error| Failure::environment(format!("{}: {error}", path.display())))
}

/// The table for people.
pub(super) fn shown(lines: &[Line], unsteady: usize, is_file: bool) -> String {
    let mut text = String::from(
        "Operations a second, ours over the peer's in the same block: median and 95 % interval.\n\
         of own raw: the same with each as a share of its own kind of raw, ours of the bare device: that takes a server's hop out.\n",
    );
    let (of_guest, of_device): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.measured_in == IN_GUEST);
    rows(&mut text, &of_device);
    text.push_str(
        "Snapshots are taken at rest, and the peers' time to take one has the start of programs in it.\n",
    );
    if unsteady > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{unsteady} runs were not steady: they are kept, and in no ratio.");
    }
    if is_file {
        text.push_str(
            "The device is a file: peers have a loop device between it and them, ours have none.\n",
        );
    }
    if !of_guest.is_empty() {
        text.push_str(
            "\nIn a User-Mode-Linux guest, on a memory disk; ours there too, and not those above. Such a disk says nothing of what a flush \
             costs, and a system call costs ours ten times what it costs elsewhere.\n",
        );
        rows(&mut text, &of_guest);
    }
    text
}

/// Rows with their heading, and what their figures promise below.
fn rows(text: &mut String, lines: &[&Line]) {
    let cell = |median: &str, low: &str, high: &str| match (median.is_empty(), low.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => median.to_owned(),
        (false, false) => format!("{median} ({low}-{high})"),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<7} {:<16} {:>5} {:<9} {:<24} {:<26} {:<26} own raw",
        "suite", "phase", "depth", "ours", "peer", "ours / peer", "of own raw"
    );
    let mut promises: Vec<(&str, &str)> = Vec::new();
    for line in lines {
        let _ = writeln!(
            text,
            "{:<7} {:<16} {:>5} {:<9} {:<24} {:<26} {:<26} {}",
            line.suite,
            line.phase,
            line.chain_depth,
            line.ours,
            line.peer,
            cell(&line.iops_ratio, &line.ci_low, &line.ci_high),
            cell(&line.of_own_raw, &line.of_own_raw_ci_low, &line.of_own_raw_ci_high),
            line.reference
        );
        let promise = (line.peer.as_str(), line.durability_peer.as_str());
        if !promises.contains(&promise) {
            promises.push(promise);
        }
    }
    let _ = writeln!(text, "\nWhat the figures promise:\n  ours: {OURS}");
    for (peer, durability) in promises {
        let _ = writeln!(text, "  {peer}: {durability}");
    }
}
