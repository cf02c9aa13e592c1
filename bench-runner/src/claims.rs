//! `claims`: what is said of the cost of logs, snapshots and recovery, with what was measured here beside it.
//!
//! Values come from the rows of blocks in run folders, never from pooled ones or from a report, so that without raw results there
//! is nothing to tell. Each statement has a line; where no folder says anything of it, the line says which command measures it.
//! Nothing is asserted: a factor that was true of the disks of its time is told for the disk at hand.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::ClaimsOptions;
use crate::failure::{EXIT_INVALID_RUN, EXIT_OK, Failure};
use crate::report::text::{percent, size};
use crate::results::{MEASURE, METRICS_FILE, MetricRow, RECOVERY_FILE, RecoveryRow, RunData};
use crate::stats::{self, Estimate};

/// A statement about cost.
struct Statement {
    /// Its name in results.
    name: &'static str,
    /// What is said.
    says: &'static str,
    /// What to look at in a run folder.
    measure: fn(&Folder) -> Vec<Finding>,
    /// What measures it.
    command: &'static str,
}

/// The statements, in the order of a volume's life.
const STATEMENTS: [Statement; 9] = [
    Statement {
        name: "sequential-log",
        says: "Persisting data one after another in a log takes 7 to 8 times less time than writing it at random places.",
        measure: sequential_log,
        command: "run --backend log --workload randwrite-4k,seqwrite-1m",
    },
    Statement {
        name: "recovery-grows",
        says: "Much data in the log makes the start after a crash long.",
        measure: recovery_grows,
        command: "recovery --tail 10,98",
    },
    Statement {
        name: "instant-creation",
        says: "An instant snapshot can be used at once, however large the volume.",
        measure: instant_creation,
        command: "snapshots --suite creation",
    },
    Statement {
        name: "copy-on-write",
        says: "Copy-on-write is expensive: writes need further I/O.",
        measure: |folder| first_touches(folder, "cow"),
        command: "snapshots --suite cliff --backend cow",
    },
    Statement {
        name: "overlay-writes",
        says: "Writes to an overlay are cheap: nothing is copied to keep the version before.",
        measure: overlay_writes,
        command: "snapshots --suite cliff --backend cow,overlay",
    },
    Statement {
        name: "fold-on-read",
        says: "Moving data from an overlay home as it is read is expensive.",
        measure: fold_on_read,
        command: "snapshots --suite read-home --backend overlay",
    },
    Statement {
        name: "many-snapshots",
        says: "As snapshots become many, I/O may suffer.",
        measure: many_snapshots,
        command: "snapshots --suite chain",
    },
    Statement {
        name: "deletion-moves-nothing",
        says: "The oldest copy-on-write snapshot is deleted without moving data.",
        measure: deletion_moves_nothing,
        command: "snapshots --suite delete --backend cow",
    },
    Statement {
        name: "space-as-changed",
        says: "Space taken for each write as it comes is used better than space reserved for all of the volume.",
        measure: space_as_changed,
        command: "snapshots --suite overwrite-fraction",
    },
];

/// A run folder with its name.
struct Folder {
    path: PathBuf,
    data: RunData,
}

/// A measured value.
struct Finding {
    what: String,
    estimate: Estimate,
    unit: Unit,
    /// The table that it comes from.
    file: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Times,
    Share,
    PerWrite,
    BytesPerByte,
    BytesPerWrite,
    BytesPerRead,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Times => "times",
            Unit::Share => "share",
            Unit::PerWrite => "1/write",
            Unit::BytesPerByte => "bytes/byte",
            Unit::BytesPerWrite => "bytes/write",
            Unit::BytesPerRead => "bytes/read",
        }
    }

    fn text(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value:.2} times"),
            Unit::Share => format!("{} %", percent(value)),
            Unit::PerWrite => format!("{value:.3} for each write"),
            Unit::BytesPerByte => format!("{value:.3} bytes for each byte"),
            Unit::BytesPerWrite => format!("{} for each write", size(value.round() as u64)),
            Unit::BytesPerRead => format!("{} for each read", size(value.round() as u64)),
        }
    }
}

/// Values by block.
type Blocks = BTreeMap<u32, f64>;

impl Folder {
    /// Valid blocks of an arm at a place.
    fn blocks(&self, holds: impl Fn(&MetricRow) -> bool) -> Blocks {
        let rows = self.data.metrics.iter().filter(|row| row.run.is_some() && row.valid && holds(row));
        rows.filter_map(|row| Some((row.block?, row.value?))).collect()
    }

    /// Blocks of a part of a suite of snapshots, over all of its operations.
    fn part(
        &self,
        suite: &str,
        arm: &str,
        (phase, depth): (&str, Option<u32>),
        metric: (&str, &str),
    ) -> Blocks {
        self.blocks(|row| {
            row.workload == suite
                && row.arm == arm
                && row.op == "all"
                && row.phase == phase
                && row.chain_depth == depth
                && (row.metric.as_str(), row.stat.as_str()) == metric
        })
    }

    /// The arms and parts of a suite in the order of the table.
    fn parts(&self, suite: &str) -> Vec<(&str, &str, Option<u32>)> {
        let mut parts = Vec::new();
        for run in self.data.runs.iter().filter(|run| run.workload == suite && run.valid) {
            let part = (run.arm.as_str(), run.phase.as_str(), run.chain_depth);
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        parts.sort();
        parts
    }

    fn seed(&self) -> u64 {
        self.data.manifest.seed
    }

    fn finding(&self, what: String, unit: Unit, estimate: Option<Estimate>) -> Option<Finding> {
        Some(Finding { what, estimate: estimate?, unit, file: METRICS_FILE })
    }

    /// The mean of blocks.
    fn mean(&self, what: String, unit: Unit, blocks: &Blocks) -> Option<Finding> {
        let values: Vec<f64> = blocks.values().copied().collect();
        self.finding(what, unit, stats::block_mean(&values, self.seed()))
    }

    /// The median of values that are ratios already.
    fn median(&self, what: String, unit: Unit, blocks: &Blocks) -> Option<Finding> {
        let values: Vec<f64> = blocks.values().copied().collect();
        self.finding(what, unit, stats::block_median(&values, self.seed()))
    }

    /// The ratio of two arms in the same blocks.
    fn ratio(&self, what: String, unit: Unit, of: &Blocks, by: &Blocks) -> Option<Finding> {
        let pairs = of.iter().filter_map(|(block, value)| Some((*value, *by.get(block)?)));
        let (of, by): (Vec<f64>, Vec<f64>) = pairs.unzip();
        self.finding(what, unit, stats::paired_ratio(&of, &by, self.seed()).map(estimate))
    }
}

fn estimate(ratio: stats::Ratio) -> Estimate {
    let stats::Ratio { median, ci_low, ci_high, half_width, n } = ratio;
    Estimate { value: median, ci_low, ci_high, half_width, n }
}

fn sequential_log(folder: &Folder) -> Vec<Finding> {
    let mut depths: Vec<u32> = folder.data.runs.iter().map(|run| run.queue_depth).collect();
    depths.sort_unstable();
    depths.dedup();
    let of = |arm: &str, workload: &str, depth: u32, metric: &str| {
        folder.blocks(|row| {
            row.phase == MEASURE
                && row.arm == arm
                && row.workload == workload
                && row.queue_depth == Some(depth)
                && (row.op.as_str(), row.metric.as_str()) == ("all", metric)
        })
    };
    let mut findings = Vec::new();
    for depth in depths {
        // These were not measured beside each other, so that blocks do not belong together.
        let rate =
            |workload: &str| -> Vec<f64> { of("raw", workload, depth, "bandwidth").into_values().collect() };
        let sequential = stats::unpaired_ratio(&rate("seqwrite-1m"), &rate("randwrite-4k"), folder.seed());
        findings.extend(folder.finding(
            format!("time for 4 KiB at random over that within 1 MiB one after another, bare device, depth {depth}"),
            Unit::Times,
            sequential.map(estimate),
        ));
        findings.extend(folder.ratio(
            format!(
                "random 4 KiB writes a second through a log over those of the bare device, depth {depth}"
            ),
            Unit::Times,
            &of("log", "randwrite-4k", depth, "iops"),
            &of("raw", "randwrite-4k", depth, "iops"),
        ));
    }
    findings
}

fn recovery_grows(folder: &Folder) -> Vec<Finding> {
    type Kind<'a> = (&'a str, u64, u64, u32);
    let mut kinds: BTreeMap<Kind, BTreeMap<u32, Vec<&RecoveryRow>>> = BTreeMap::new();
    for row in folder.data.recovery.iter().filter(|row| row.valid) {
        let kind = (row.cut.as_str(), row.volume_bytes, row.checkpoint_bytes, row.queue_depth);
        kinds.entry(kind).or_default().entry(row.tail_percent).or_default().push(row);
    }
    let mut findings = Vec::new();
    for ((cut, volume, checkpoint, depth), tails) in kinds {
        let (Some((least, short)), Some((most, long))) = (tails.first_key_value(), tails.last_key_value())
        else {
            continue;
        };
        if least == most {
            continue;
        }
        let opened = |rows: &[&RecoveryRow]| -> Vec<f64> {
            rows.iter().filter_map(|row| row.opened_ns).map(|ns| ns as f64).collect()
        };
        let ratio = stats::unpaired_ratio(&opened(long), &opened(short), folder.seed());
        let what = format!(
            "time to open with {most} % of a checkpoint's log behind over that with {least} % ({cut}, {} volume, checkpoint every {}, \
             depth {depth})",
            size(volume),
            size(checkpoint)
        );
        findings.extend(
            folder
                .finding(what, Unit::Times, ratio.map(estimate))
                .map(|finding| Finding { file: RECOVERY_FILE, ..finding }),
        );
    }
    findings
}

fn instant_creation(folder: &Folder) -> Vec<Finding> {
    let parts = folder.parts("creation");
    let last = |arm: &str, phase: &str| {
        parts.iter().filter(|part| (part.0, part.1) == (arm, phase)).map(|part| part.2).max()
    };
    let at_most = parts.iter().filter(|(arm, phase, depth)| last(arm, phase) == Some(*depth));
    at_most
        .filter_map(|(arm, phase, depth)| {
            let blocks = folder.part("creation", arm, (phase, *depth), ("creation_of_smallest", "median"));
            if blocks.values().all(|ratio| *ratio == 1.0) {
                // The smallest itself.
                return None;
            }
            let what = format!(
                "time to take one of up to {} snapshots of {phase} over that of the smallest volume, {arm}",
                depth.unwrap_or_default()
            );
            folder.median(what, Unit::Times, &blocks)
        })
        .collect()
}

/// What a first touch after a snapshot asks of the device, what the next write of that block does, and the rate beside the bare
/// device.
fn first_touches(folder: &Folder, arm: &str) -> Vec<Finding> {
    let of = |arm: &str, phase: &str, metric: (&str, &str)| {
        // Their depth is empty in the suite and the number of snapshots beside peers.
        let depth = folder
            .parts("cliff")
            .iter()
            .find(|part| (part.0, part.1) == (arm, phase))
            .and_then(|part| part.2);
        folder.part("cliff", arm, (phase, depth), metric)
    };
    let mut findings = Vec::new();
    for (phase, words) in
        [("first-touch", "first writes after a snapshot"), ("settled", "the next writes there")]
    {
        for (metric, unit) in [("device_reads", "reads"), ("device_writes", "writes")] {
            let what = format!("{unit} of the device, {words}, {arm}");
            findings.extend(folder.mean(what, Unit::PerWrite, &of(arm, phase, (metric, "total"))));
        }
        let rate = ("iops", "mean");
        let what = format!("{words} a second over random writes of the bare device, {arm}");
        findings.extend(folder.ratio(what, Unit::Times, &of(arm, phase, rate), &of("raw", phase, rate)));
    }
    findings
}

fn overlay_writes(folder: &Folder) -> Vec<Finding> {
    let mut findings = first_touches(folder, "overlay");
    let rate = |arm: &str| folder.part("cliff", arm, ("first-touch", Some(1)), ("iops", "mean"));
    let without = |arm: &str| folder.part("cliff", arm, ("first-touch", None), ("iops", "mean"));
    let either = |arm: &str| if without(arm).is_empty() { rate(arm) } else { without(arm) };
    findings.extend(folder.ratio(
        "first writes after a snapshot a second, overlay over cow".to_owned(),
        Unit::Times,
        &either("overlay"),
        &either("cow"),
    ));
    findings
}

fn fold_on_read(folder: &Folder) -> Vec<Finding> {
    let of = |arm: &str, phase: &str, metric: (&str, &str)| {
        folder.part("read-home", arm, (phase, Some(0)), metric)
    };
    let mut findings = Vec::new();
    for (arm, ..) in folder.parts("read-home").iter().filter(|part| part.1 == "moving") {
        findings.extend(folder.ratio(
            format!("time of a read that moves its block home over that of one that does not, {arm}"),
            Unit::Times,
            &of(arm, "staying", ("iops", "mean")),
            &of(arm, "moving", ("iops", "mean")),
        ));
        let written = of(arm, "moving", ("device_write_bytes", "total"));
        findings.extend(folder.mean(
            format!("bytes written for such a read, {arm}"),
            Unit::BytesPerRead,
            &written,
        ));
    }
    findings
}

fn many_snapshots(folder: &Folder) -> Vec<Finding> {
    let parts = folder.parts("chain");
    let longest = parts.iter().filter_map(|part| part.2).max();
    parts
        .iter()
        .filter(|(arm, _, depth)| *arm != "raw" && *depth == longest && longest.is_some())
        .filter_map(|(arm, phase, depth)| {
            let blocks = folder.part("chain", arm, (phase, *depth), ("reads_of_least", "median"));
            let what = format!(
                "rate of reads ({phase}) with {} snapshots over that with the fewest, both beside the bare device, {arm}",
                depth.unwrap_or_default()
            );
            folder.median(what, Unit::Share, &blocks)
        })
        .collect()
}

fn deletion_moves_nothing(folder: &Folder) -> Vec<Finding> {
    let parts = folder.parts("delete");
    let mut findings = Vec::new();
    for (arm, phase, depth) in
        parts.iter().filter(|part| part.0.starts_with("cow") && part.1 == "oldest-with")
    {
        let of = |phase: &str, metric: (&str, &str)| folder.part("delete", arm, (phase, *depth), metric);
        for (phase, words) in
            [(*phase, "while the oldest snapshot is deleted"), ("oldest-without", "without that")]
        {
            let written = of(phase, ("device_write_bytes", "total"));
            findings.extend(folder.mean(
                format!("bytes of the device, {words}, {arm}"),
                Unit::BytesPerWrite,
                &written,
            ));
        }
        let blocks = of(phase, ("foreground_ratio", "median"));
        findings.extend(folder.median(format!("rate of writes meanwhile, {arm}"), Unit::Share, &blocks));
    }
    findings
}

fn space_as_changed(folder: &Folder) -> Vec<Finding> {
    let suite = "overwrite-fraction";
    folder
        .parts(suite)
        .iter()
        .filter_map(|(arm, phase, depth)| {
            let blocks = folder.part(suite, arm, (phase, *depth), ("space_per_changed_byte", "live"));
            let percent = phase.trim_start_matches("overwrite-");
            folder.mean(
                format!("space after {percent} % was overwritten, {arm}"),
                Unit::BytesPerByte,
                &blocks,
            )
        })
        .collect()
}

/// The command.
///
/// # Errors
/// A folder is missing, in parts or altogether, or of another version. The exit code is 2 where nothing was measured.
pub fn tell(options: &ClaimsOptions) -> Result<i32, Failure> {
    let folders: Vec<Folder> = options
        .folders
        .iter()
        .map(|path| Ok(Folder { path: path.clone(), data: RunData::read(path)? }))
        .collect::<Result<_, Failure>>()?;
    let all: Vec<(&Statement, Vec<(&Folder, Finding)>)> = STATEMENTS
        .iter()
        .map(|statement| {
            let found = folders.iter().flat_map(|folder| {
                (statement.measure)(folder).into_iter().map(move |finding| (folder, finding))
            });
            (statement, found.collect())
        })
        .collect();
    if options.json {
        let claims: Vec<Value> = all.iter().map(|(statement, found)| object(statement, found)).collect();
        println!("{}", json!({ "claims": claims }));
    } else {
        print!("{}", text(&all));
    }
    let measured = all.iter().any(|(_, found)| !found.is_empty());
    if !measured {
        eprintln!("bench-runner: these folders say nothing of any statement");
    }
    Ok(if measured { EXIT_OK } else { EXIT_INVALID_RUN })
}

fn source(folder: &Path, file: &str) -> String {
    folder.join(file).display().to_string()
}

/// What is known of an interval; one block has none.
fn interval(estimate: &Estimate) -> Option<(f64, f64)> {
    (estimate.n > 1 && estimate.ci_high.is_finite()).then_some((estimate.ci_low, estimate.ci_high))
}

fn object(statement: &Statement, found: &[(&Folder, Finding)]) -> Value {
    let measured: Vec<Value> = found
        .iter()
        .map(|(folder, finding)| {
            let interval = interval(&finding.estimate);
            json!({
                "what": finding.what, "value": finding.estimate.value, "unit": finding.unit.name(),
                "ci_low": interval.map(|ends| ends.0), "ci_high": interval.map(|ends| ends.1),
                "blocks": finding.estimate.n, "source": source(&folder.path, finding.file),
                "device": folder.data.manifest.device.model.as_ref().unwrap_or(&folder.data.manifest.device.path),
                "started_utc": folder.data.manifest.started_utc,
                "git_commit": folder.data.manifest.environment.git_commit,
            })
        })
        .collect();
    json!({ "name": statement.name, "says": statement.says, "measured": measured, "measured_by": statement.command })
}

fn text(all: &[(&Statement, Vec<(&Folder, Finding)>)]) -> String {
    let mut text = String::new();
    for (statement, found) in all {
        let _ = writeln!(text, "{}: {}", statement.name, statement.says);
        for (folder, finding) in found {
            let estimate = &finding.estimate;
            let certainty = match interval(estimate) {
                Some((low, high)) => {
                    format!(
                        " ({} to {}; {} blocks)",
                        finding.unit.text(low),
                        finding.unit.text(high),
                        estimate.n
                    )
                }
                None => " (one block)".to_owned(),
            };
            let _ = writeln!(
                text,
                "  {}: {}{certainty}, from {}",
                finding.what,
                finding.unit.text(estimate.value),
                source(&folder.path, finding.file)
            );
        }
        if found.is_empty() {
            let _ = writeln!(text, "  not measured here; bench-runner {} measures it", statement.command);
        }
    }
    text
}
