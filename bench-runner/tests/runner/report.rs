//! The run folder and its report, from a synthetic run: written through the same calls as a real one, read back,
//! rendered, damaged and compared with `results/SCHEMA.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bench_runner::measure::{
    ArmOutcome, ArmTask, BandCount, BareKind, BareRate, LogBatches, OpenFigures, OperationFigures, Second,
    Written,
};
use bench_runner::report;
use bench_runner::results::{
    ArmRun, DeviceFacts, Dropped, Ending, EnvironmentFacts, Manifest, MetricRow, Plan, RecoveryRow,
    ResultsError, RunData, RunFolder, Stopping, TraceFacts, TraceFile, WindowRow,
};
use bench_runner::suite::Load;
use hdrhistogram::Histogram;
use icecore_workloads::{Generations, Workload};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

const SECOND_NS: u64 = 1_000_000_000;

/// A value between 0 and 1, both excluded.
fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    (-2.0 * uniform(random).ln()).sqrt() * (std::f64::consts::TAU * uniform(random)).cos()
}

/// Log-normal latencies with a slow tail of 1 in 500.
fn figures(random: &mut Xoshiro256PlusPlus, operations: u64, median_ns: f64, bytes: u64) -> OperationFigures {
    let mut latency_ns = Histogram::new(3).unwrap();
    let draws = operations.min(40_000);
    for draw in 0..draws {
        let tail = if draw % 500 == 0 { 8.0 + 12.0 * uniform(random) } else { 1.0 };
        let value = median_ns * (0.18 * normal(random)).exp() * tail;
        let times = operations / draws + u64::from(draw < operations % draws);
        latency_ns.record_n(value as u64, times).unwrap();
    }
    OperationFigures { operations, bytes: operations * bytes, latency_ns }
}

/// Latencies of each second in four bands around their median.
fn bands(seconds: &[Second], median_ns: f64) -> Vec<BandCount> {
    let edges = [0.7, 0.9, 1.1, 1.4, 9.0].map(|share| (median_ns * share) as u64);
    let of_second = |second: &Second| {
        let shares = [second.operations / 10, second.operations / 4, second.operations / 1_500];
        let rest = second.operations - shares.iter().sum::<u64>();
        let counts = [shares[0], rest, shares[1], shares[2]];
        let second = second.second;
        let band = |(index, operations): (usize, u64)| BandCount {
            second,
            from_ns: edges[index],
            below_ns: edges[index + 1],
            operations,
        };
        counts.into_iter().enumerate().map(band).filter(|count| count.operations > 0).collect::<Vec<_>>()
    };
    seconds.iter().flat_map(of_second).collect()
}

/// What an arm would measure that is `speed` times as fast as the bare device.
pub fn outcome(random: &mut Xoshiro256PlusPlus, task: &ArmTask, arm: &str, speed: f64) -> ArmOutcome {
    let bare_ns = match task.workload.name() {
        "durable-4k" => 900_000.0,
        "mixed-4k" => 80_000.0,
        _ => 60_000.0,
    };
    let depth = f64::from(task.queue_depth);
    let median_ns = bare_ns * depth.powf(0.45) / speed;
    let seconds_measured = task.measure_ns / SECOND_NS;
    let rate = depth / (median_ns * 1.05) * 1e9;
    let seconds: Vec<Second> = (0..seconds_measured)
        .map(|second| {
            let operations = (rate * (1.0 + 0.015 * normal(random))) as u64;
            let latency_ns_sum = operations * (median_ns * 1.05) as u64;
            Second {
                second: second as u32,
                operations,
                latency_ns_sum,
                latency_ns_max: (median_ns * 18.0) as u64,
            }
        })
        .collect();
    let operations: u64 = seconds.iter().map(|second| second.operations).sum();
    let reads = operations * u64::from(task.workload.parts()[0].read_percent) / 100;
    let bytes = u64::from(task.workload.operation_bytes_max());
    let flushes = if task.workload.name() == "durable-4k" && arm == "raw" { operations } else { 0 };
    ArmOutcome {
        replayed: None,
        rounds: None,
        clock: None,
        read: figures(random, reads, median_ns, bytes),
        write: figures(random, operations - reads, median_ns * 0.9, bytes),
        flush: figures(random, flushes, median_ns * 0.6, 0),
        elapsed_ns: task.measure_ns + 1_234_567,
        cpu_user_ns: Some((operations as f64 * 620.0 / speed) as u64),
        cpu_system_ns: (arm != "fio").then_some((operations as f64 * 2_900.0 / speed) as u64),
        allocations: (arm != "fio").then_some(0),
        bands: bands(&seconds, median_ns),
        seconds,
        io_path: "io_uring, registered buffers, registered files".to_string(),
        written: (reads < operations && arm != "fio" && arm != "ring").then(|| {
            let own = operations * bytes;
            let by_cause = match arm {
                "log" => {
                    vec![("application", 0), ("log", own + own / 16), ("index", own / 50), ("clean", own / 5)]
                }
                _ => vec![("application", own)],
            };
            Written { application_bytes: own, by_cause }
        }),
        log: (reads < operations && arm == "log").then(|| LogBatches {
            batches: operations / 4,
            entries: operations,
            bytes: operations / 4 * 20_480,
            in_flight: operations / 4,
        }),
        bare: if arm == "log" && task.workload.name() == "durable-4k" {
            vec![
                BareRate { kind: BareKind::PersistFlush, per_second: rate / 4.0 / 0.93, p50_ns: 800_000 },
                BareRate { kind: BareKind::PersistDsync, per_second: rate / 4.0 / 1.2, p50_ns: 900_000 },
            ]
        } else {
            Vec::new()
        },
        generations: Generations::default(),
        open: None,
    }
}

pub fn manifest(arms: &[&str], workloads: &[&str]) -> Manifest {
    Manifest {
        command_line: ["bench-runner", "run", "--device", "/dev/synthetic <&>"].map(String::from).to_vec(),
        seed: 42,
        device: DeviceFacts {
            path: "/dev/synthetic <&>".into(),
            serial: "SYNTHETIC".into(),
            size_bytes: 64 << 30,
            kind: "block device".into(),
            model: Some("Synthetic device, nothing was measured".into()),
            scheduler: Some("none".into()),
            nr_requests: Some(1023),
            write_cache: Some("write back".into()),
            logical_block_bytes: Some(512),
            physical_block_bytes: Some(4096),
            rotational: Some(false),
            ..DeviceFacts::default()
        },
        environment: EnvironmentFacts {
            kernel: "6.12.0".into(),
            kernel_command_line: Some("quiet ".repeat(30)),
            cpu_model: Some("Synthetic CPU".into()),
            cores: 8,
            governor: "performance".into(),
            rustc: "rustc 1.90.0".into(),
            git_commit: "0123456789abcdef".into(),
            git_dirty: Some(false),
            ..EnvironmentFacts::default()
        },
        plan: Plan {
            steady_state: Some("five rounds".to_owned()),
            slo_ns: None,
            arms: arms.iter().map(|arm| arm.to_string()).collect(),
            workloads: workloads.iter().map(|workload| workload.to_string()).collect(),
            queue_depths: vec![1, 32],
            repeats: 5,
            measure_ns: 10 * SECOND_NS,
            warmup_ns: 2 * SECOND_NS,
            span_offset_bytes: 1 << 20,
            span_bytes: 8 << 30,
            preconditioning: "span written once, then 2 s of the workload".into(),
            digest: "0123456789abcdef".into(),
        },
        stopping: Some(Stopping::default()),
        trace: Some(TraceFacts { files: vec![TraceFile::default()], ..TraceFacts::default() }),
        dropped: vec![Dropped { what: "seqwrite-1m".into(), why: "does not fit the time asked for".into() }],
        ..Manifest::default()
    }
}

fn task(workload: &str, queue_depth: u32, seed: u64) -> ArmTask {
    ArmTask {
        offered_per_second: None,
        replay: None,
        until_steady: false,
        path: PathBuf::from("/dev/synthetic"),
        span_offset_bytes: 1 << 20,
        span_bytes: 8 << 30,
        workload: Workload::from_name(workload).unwrap(),
        queue_depth,
        warmup_ns: 2 * SECOND_NS,
        measure_ns: 10 * SECOND_NS,
        seed,
    }
}

/// Five blocks of each arm at each workload and depth, one of them invalid, with events and the runner's cost.
fn synthetic_run(path: &Path, workloads: &[&str], depths: &[u32]) -> Vec<MetricRow> {
    let arms = [("raw", 1.0), ("ring", 1.004), ("direct", 0.985), ("log", 1.9), ("fio", 0.997)];
    let mut folder = RunFolder::create(path, manifest(&arms.map(|(arm, _)| arm), workloads)).unwrap();
    append_closed(&mut folder, &arms, workloads, depths);
    folder.append_event("frequency_drop", "CPU 3 fell, \"2.1\" GHz").unwrap();
    folder.finish(Ending::Complete).unwrap()
}

/// Five blocks of each arm, which is so many times as fast as the bare device, and the runner's cost.
pub fn append_closed(folder: &mut RunFolder, arms: &[(&str, f64)], workloads: &[&str], depths: &[u32]) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    for (depth, cost_ns) in [(1, 310.4), (32, 96.25)] {
        folder.append_metric(&MetricRow::runner_cost("ring", depth, cost_ns, 1_000_000, 42)).unwrap();
    }
    let mut started_ns = 0;
    for (workload, depth) in workloads.iter().flat_map(|name| depths.iter().map(move |depth| (*name, *depth)))
    {
        for block in 1..=5u32 {
            let drift = (0.08 * normal(&mut random)).exp();
            for place in 0..arms.len() {
                let (arm, speed) = arms[(place + block as usize) % arms.len()];
                let speed = if workload != "durable-4k" && arm == "log" { 0.8 } else { speed };
                let speed = speed * drift * (0.006 * normal(&mut random)).exp();
                let task = task(workload, depth, 1_000 + u64::from(block));
                let outcome = outcome(&mut random, &task, arm, speed);
                let broken = arm == "log" && block == 3 && depth == 32;
                let run = ArmRun {
                    load: Load::Closed,
                    block,
                    arm_order: place as u32 + 1,
                    arm,
                    task: &task,
                    started_ns,
                    outcome: Some(&outcome),
                    verified_blocks: Some(1_000),
                    foreign_percent: None,
                    invalid_reason: broken.then(|| "foreign I/O <b>1.2 %</b> of the device's".to_string()),
                    part: None,
                };
                folder.append_arm(&run).unwrap();
                started_ns += 16 * SECOND_NS;
            }
        }
    }
}

/// A small run folder of one workload in a temporary folder.
fn small_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    synthetic_run(folder.path(), &["randread-4k"], &[32]);
    folder
}

/// Rewrites a file of the folder line by line.
fn edit(path: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed: String = text.lines().map(|line| change(line) + "\n").collect();
    assert_ne!(text, changed, "the edit must change something");
    fs::write(path, changed).unwrap();
}

/// The full synthetic report stays in the target folder, to be looked at in a browser.
#[test]
fn a_full_report_is_one_closed_file() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("synthetic-report");
    let _ = fs::remove_dir_all(&path);
    synthetic_run(&path, &["randread-4k", "mixed-4k", "durable-4k"], &[1, 32]);
    // An event within a measured second of the first run, as a run in real time would leave it.
    edit(&path.join("events.csv"), |line| {
        line.replacen("Z,", "Z,4500000000#", 1)
            .split_once('#')
            .map_or(line.to_string(), |(head, tail)| format!("{head},{}", tail.split_once(',').unwrap().1))
    });
    let report = report::write(&path).unwrap();
    assert_eq!(report, path.join("report.html"));
    let html = fs::read_to_string(report).unwrap();
    for forbidden in ["<script", "http://", "https://", "url(", "@import", "NaN", "inf,", "<b>1.2", "<&>"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for expected in [
        "direct reaches 98.",
        "the bare device’s 4 KiB random-read IOPS at depth 32 (95 % interval",
        "durable 4 KiB write IOPS with 32 writers",
        "Synthetic device",
        "frequency_drop: CPU 3 fell, &quot;2.1&quot; GHz",
        "foreign I/O &lt;b&gt;",
        "seqwrite-1m: does not fit",
        "prefers-color-scheme: dark",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    // Four forests for each of three references (fio's CPU is not known); six panels of percentiles, distributions, seconds and
    // their latencies, and each of five arms over time in them; three of latency over IOPS; CPU, and what was written.
    assert_eq!(html.matches("<svg").count(), 11 + 6 * 4 + 6 * 5 + 3 + 1 + 1);
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

#[test]
fn pooled_rows_follow_the_contract() {
    let folder = small_run();
    let data = RunData::read(folder.path()).unwrap();
    assert!(data.manifest.complete && !data.manifest.interrupted && data.manifest.ended_utc.is_some());
    let pooled = |arm: &str, metric: &str, stat: &str| {
        let row = data.metrics.iter().find(|row| {
            row.run.is_none() && row.arm == arm && row.op == "all" && row.metric == metric && row.stat == stat
        });
        row.unwrap_or_else(|| panic!("{arm} {metric} {stat}")).clone()
    };
    let iops = pooled("raw", "iops", "mean");
    assert_eq!((iops.block, iops.backend.as_str(), iops.unit.as_str(), iops.n), (None, "raw", "1/s", 5));
    let value = iops.value.unwrap();
    assert!(iops.ci_low.unwrap() < value && value < iops.ci_high.unwrap());
    // The invalid block of `log` is in the folder and in no pooled value.
    assert_eq!(data.runs.iter().filter(|run| run.arm == "log").count(), 5);
    assert_eq!((pooled("log", "iops", "mean").n, pooled("log/raw", "iops_ratio", "median").n), (4, 4));
    // The blocks drift by 8 %, the ratio within a block by less than 1 %.
    let ratio = pooled("direct/raw", "iops_ratio", "median");
    assert!((ratio.value.unwrap() - 0.985).abs() < 0.02, "{ratio:?}");
    assert!(ratio.ci_high.unwrap() - ratio.ci_low.unwrap() < 0.05, "{ratio:?}");
    // Latencies come from the merged histograms.
    let blocks: Vec<_> = data.runs.iter().filter(|run| run.arm == "raw").collect();
    let merged = bench_runner::results::merged(
        blocks.iter().map(|run| data.histograms[&run.run].read.as_ref().unwrap()),
    );
    let p99 = merged.unwrap().value_at_quantile(0.99) as f64;
    assert_eq!(pooled("raw", "latency", "p99").value, Some(p99));
    // Every pair appears once, seen from the arm that is the less independent.
    let pairs: BTreeSet<&str> =
        data.metrics.iter().map(|row| row.arm.as_str()).filter(|arm| arm.contains('/')).collect();
    let expected = [
        "direct/fio",
        "direct/raw",
        "direct/ring",
        "log/fio",
        "log/raw",
        "log/ring",
        "raw/fio",
        "raw/ring",
        "ring/fio",
    ];
    assert_eq!(pairs.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn too_few_samples_leave_the_row_and_no_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut run_folder = RunFolder::create(&path, manifest(&["raw"], &["seqread-1m"])).unwrap();
    let task = ArmTask { measure_ns: SECOND_NS, ..task("seqread-1m", 1, 1) };
    let outcome = outcome(&mut Xoshiro256PlusPlus::seed_from_u64(1), &task, "raw", 0.1);
    let run = ArmRun {
        load: Load::Closed,
        block: 1,
        arm_order: 1,
        arm: "raw",
        task: &task,
        started_ns: 0,
        outcome: Some(&outcome),
        verified_blocks: None,
        foreign_percent: None,
        invalid_reason: None,
        part: None,
    };
    run_folder.append_arm(&run).unwrap();
    run_folder.append_arm(&ArmRun { block: 2, outcome: None, ..run }).unwrap();
    run_folder.finish(Ending::Interrupted).unwrap();
    let data = RunData::read(&path).unwrap();
    assert!(data.manifest.interrupted && !data.manifest.complete);
    let of_block = |block: Option<u32>, stat: &str| {
        let mut rows = data.metrics.iter().filter(|row| row.metric == "latency" && row.op == "all");
        rows.find(|row| row.block == block && row.stat == stat).unwrap().value
    };
    assert!(of_block(Some(1), "p50").is_some() && of_block(Some(1), "max").is_some());
    assert_eq!((of_block(Some(1), "p99.9"), of_block(None, "p99.9")), (None, None));
    assert_eq!((of_block(Some(2), "p50"), data.runs[1].valid), (None, false));
    let iops = data.metrics.iter().find(|row| row.run.is_none() && row.metric == "iops").unwrap();
    assert!(iops.value.is_some() && iops.ci_low.is_none(), "one block has a value and no interval");
    report::write(&path).unwrap();
}

#[test]
fn a_run_cut_short_still_gives_a_report() {
    let folder = small_run();
    let metrics = folder.path().join("metrics.csv");
    // As a kill would leave it: no pooled rows, the manifest as it was at the beginning.
    let text = fs::read_to_string(&metrics).unwrap();
    let blocks: String =
        text.lines().filter(|line| !line.starts_with(",,")).map(|line| format!("{line}\n")).collect();
    fs::write(&metrics, blocks).unwrap();
    edit(&folder.path().join("manifest.json"), |line| {
        line.replace("\"complete\": true", "\"complete\": false")
    });
    let html = fs::read_to_string(report::write(folder.path()).unwrap()).unwrap();
    assert!(html.contains("This run did not end") && html.contains("direct reaches"));
}

#[test]
fn a_run_stopped_before_its_first_arm_gives_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = RunFolder::create(folder.path(), manifest(&["raw"], &["randread-4k"])).unwrap();
    assert!(run_folder.finish(Ending::Interrupted).unwrap().is_empty());
    let html = fs::read_to_string(report::write(folder.path()).unwrap()).unwrap();
    assert!(html.contains("was interrupted") && html.contains("nothing to compare"));
}

#[test]
fn a_load_that_is_not_steady_is_not_ranked() {
    let folder = small_run();
    edit(&folder.path().join("metrics.csv"), |line| {
        if line.starts_with(",,direct/raw,") {
            line.replace(",true,true,", ",false,true,")
        } else {
            line.to_string()
        }
    });
    let headlines = report::headlines(&RunData::read(folder.path()).unwrap());
    assert!(headlines[0].starts_with("log reaches") && !headlines[0].contains("Not ranked"), "{headlines:?}");
    assert!(
        headlines[1].starts_with("direct reaches") && headlines[1].contains("Not ranked"),
        "{headlines:?}"
    );
}

#[test]
fn a_folder_that_holds_something_is_refused() {
    let folder = small_run();
    let Err(error) = RunFolder::create(folder.path(), Manifest::default()) else { panic!("must be refused") };
    assert!(matches!(error, ResultsError::NotEmpty { .. }));
    assert_eq!(error.exit_code(), 3);
    let Err(error) = RunFolder::create(&folder.path().join("runs.csv/below"), Manifest::default()) else {
        panic!("must be refused")
    };
    assert_eq!(error.exit_code(), 4);
    let empty = tempfile::tempdir().unwrap();
    assert!(RunFolder::create(empty.path(), Manifest::default()).is_ok());
}

#[test]
fn a_missing_file_is_named() {
    let folder = small_run();
    let histogram = fs::read_dir(folder.path().join("hist")).unwrap().next().unwrap().unwrap();
    let histogram = format!("hist/{}", histogram.file_name().display());
    for name in ["manifest.json", "runs.csv", "metrics.csv", "timeseries.csv", "events.csv", &histogram] {
        let (path, aside) = (folder.path().join(name), folder.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        let error = report::write(folder.path()).unwrap_err();
        assert!(matches!(error, ResultsError::Missing { .. }) && error.to_string().contains(name), "{error}");
        fs::rename(&aside, &path).unwrap();
    }
    report::write(folder.path()).unwrap();
}

#[test]
fn damage_is_named() {
    let folder = small_run();
    let runs = folder.path().join("runs.csv");
    let before = fs::read_to_string(&runs).unwrap();
    edit(&runs, |line| line.replace("hist/0001", "../0001"));
    assert!(report::write(folder.path()).unwrap_err().to_string().contains("leaves the folder"));
    fs::write(&runs, before.replace("randread-4k,4096", "randread-4k,many")).unwrap();
    assert!(report::write(folder.path()).unwrap_err().to_string().contains("runs.csv"));
    fs::write(&runs, before).unwrap();
    edit(&folder.path().join("manifest.json"), |line| {
        line.replace("\"format_version\": 1", "\"format_version\": 9")
    });
    assert!(report::write(folder.path()).unwrap_err().to_string().contains("format version 9"));
}

#[test]
fn the_report_follows_its_tables() {
    let folder = small_run();
    let render = || fs::read_to_string(report::write(folder.path()).unwrap()).unwrap();
    let before = render();
    assert_eq!(before, render(), "the same folder gives the same report");
    // The pooled p50 of `direct` in metrics.csv.
    edit(&folder.path().join("metrics.csv"), |line| {
        if !line.starts_with(",,direct,direct,randread-4k,all") || !line.contains(",latency,p50,") {
            return line.to_string();
        }
        let mut fields: Vec<&str> = line.split(',').collect();
        fields[13] = "7654321";
        fields.join(",")
    });
    let after = render();
    assert!(after.contains("7.65 ms") && !before.contains("7.65 ms"));
    // One second of the first run.
    edit(&folder.path().join("timeseries.csv"), |line| match line.split_once(",32,4,") {
        Some((head, tail)) if line.starts_with("1,") => {
            let mut fields: Vec<&str> = tail.split(',').collect();
            fields[1] = "1";
            format!("{head},32,4,{}", fields.join(","))
        }
        _ => line.to_string(),
    });
    assert_ne!(after, render());
}

/// The first column of the table below a heading of SCHEMA.md.
fn documented(schema: &str, heading: &str) -> Vec<String> {
    let title = format!("## `{heading}`");
    let section = schema.split_once(&title).unwrap_or_else(|| panic!("SCHEMA.md has no {title}")).1;
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_string())
        .collect()
}

/// The keys of a JSON value with dots between levels; lists by their first element.
fn keys(prefix: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            fields.iter().for_each(|(name, value)| keys(&format!("{prefix}{dot}{name}"), value, found));
        }
        serde_json::Value::Array(items) if items.first().is_some_and(|item| item.is_object()) => {
            keys(&format!("{prefix}[]"), &items[0], found);
        }
        _ => {
            found.insert(prefix.to_string());
        }
    }
}

#[test]
fn the_schema_page_says_what_the_code_writes() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/SCHEMA.md");
    let schema = fs::read_to_string(schema).unwrap();
    let folder = tempfile::tempdir().unwrap();
    drop(RunFolder::create(folder.path(), manifest(&["raw"], &["randread-4k"])).unwrap());
    for name in ["runs.csv", "metrics.csv", "timeseries.csv", "events.csv"] {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
        assert_eq!(documented(&schema, name), header, "{name}");
    }
    let mut recoveries = RunFolder::create(&folder.path().join("recovery"), Manifest::default()).unwrap();
    recoveries.append_recovery(&RecoveryRow::default()).unwrap();
    let text = fs::read_to_string(folder.path().join("recovery/recovery.csv")).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    assert_eq!(documented(&schema, "recovery.csv"), header);
    let mut windows = RunFolder::create(&folder.path().join("series"), Manifest::default()).unwrap();
    windows.append_windows(&[WindowRow::default()]).unwrap();
    let text = fs::read_to_string(folder.path().join("series/series.csv")).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    assert_eq!(documented(&schema, "series.csv"), header);
    let small = small_run();
    let text = fs::read_to_string(small.path().join("latencies.csv")).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    assert_eq!(documented(&schema, "latencies.csv"), header);
    let manifest = fs::read_to_string(folder.path().join("manifest.json")).unwrap();
    let mut found = BTreeSet::new();
    keys("", &serde_json::from_str(&manifest).unwrap(), &mut found);
    assert_eq!(documented(&schema, "manifest.json").into_iter().collect::<BTreeSet<_>>(), found);
}

#[test]
fn the_metrics_header_is_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    drop(RunFolder::create(folder.path(), Manifest::default()).unwrap());
    let text = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    assert_eq!(
        text,
        "run,block,arm,backend,workload,op,bs_bytes,queue_depth,offered_iops,chain_depth,phase,metric,stat,value,unit,\
         n,ci_low,ci_high,steady,valid,invalid_reason,seed\n"
    );
}

/// Five blocks of a closed load and, if asked for, of four open ones of which the last is beyond what can be done.
fn run_of_loads(path: &Path, with_open: bool) -> String {
    let manifest = Manifest {
        plan: Plan { slo_ns: Some(1_000_000), ..manifest(&["raw", "direct"], &["randread-4k"]).plan },
        ..manifest(&["raw", "direct"], &["randread-4k"])
    };
    let mut folder = RunFolder::create(path, manifest).unwrap();
    append_loads(&mut folder, with_open);
    folder.finish(Ending::Complete).unwrap();
    fs::read_to_string(report::write(path).unwrap()).unwrap()
}

/// The same in a folder that holds other runs.
pub fn append_loads(folder: &mut RunFolder, with_open: bool) {
    let mut started_ns = 0;
    let closed = ["raw", "direct"].map(|arm| (arm, Load::Closed));
    let shares = [20.0, 50.0, 90.0, 120.0].map(Load::PercentOfClosed);
    let open = shares.into_iter().flat_map(|load| [("raw", load), ("direct", load)]);
    for block in 1..=5_u32 {
        for (arm, load) in closed.into_iter().chain(open.clone().filter(|_| with_open)) {
            // Each arm of a block from a seed of its own, so that what stands beside it changes nothing.
            let share = if let Load::PercentOfClosed(percent) = load { percent / 100.0 } else { 1.0 };
            let mut random = Xoshiro256PlusPlus::seed_from_u64(
                u64::from(block) << 20 | (share * 1e3) as u64 | arm.len() as u64,
            );
            let offered = 40_000.0 * share;
            let offered_per_second = (load != Load::Closed).then_some(offered);
            let task =
                ArmTask { offered_per_second, warmup_ns: 0, ..task("randread-4k", 32, u64::from(block)) };
            let mut outcome = outcome(&mut random, &task, arm, 1.0);
            if load != Load::Closed {
                let operations = (offered.min(40_000.0) * 10.0) as u64;
                // The service is as slow as nothing of the closed load, so that a mixture of the two would show.
                outcome.read = figures(&mut random, operations, 5e7, 4096);
                let waiting_ns = if share > 1.0 { 8e8 } else { 1e5 / (1.0 - share.min(0.95)) };
                outcome.open = Some(OpenFigures {
                    offered_per_second: offered,
                    read_ns: figures(&mut random, operations, waiting_ns, 0).latency_ns,
                    write_ns: Histogram::new(3).unwrap(),
                    lateness_ns: figures(&mut random, operations, 900.0, 0).latency_ns,
                    backlog_max: 7,
                    overflow: 0,
                    taken_ns: Some(10_000_000),
                });
            }
            let run = ArmRun {
                load,
                block,
                arm_order: 1,
                arm,
                task: &task,
                started_ns,
                outcome: Some(&outcome),
                verified_blocks: Some(1_000),
                foreign_percent: None,
                invalid_reason: None,
                part: None,
            };
            folder.append_arm(&run).unwrap();
            started_ns += 16 * SECOND_NS;
        }
    }
}

/// The picture whose label begins with this.
fn picture<'a>(html: &'a str, label: &str) -> &'a str {
    let mut pictures = html.split("<svg").filter(|rest| rest.contains(label));
    pictures.next().unwrap_or_else(|| panic!("no picture of {label}")).split("</svg>").next().unwrap()
}

/// The pictures and tables of a closed load are the same whether or not open ones were measured beside it; those have a section of
/// their own, and are no suite of snapshots.
#[test]
fn open_loads_stand_apart_from_closed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let alone = run_of_loads(&folder.path().join("closed"), false);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("synthetic-loads");
    let _ = fs::remove_dir_all(&path);
    let beside = run_of_loads(&path, true);
    for label in [
        "Latency percentiles of randread-4k at depth 32",
        "p50, p99 and p99.9 of randread-4k",
        "IOPS by second",
    ] {
        assert_eq!(picture(&alone, label), picture(&beside, label), "{label}");
    }
    assert!(!alone.contains("<h2>Open loads</h2>") && beside.contains("<h2>Open loads</h2>"));
    assert!(!beside.contains("<h2>Snapshots"));
    picture(&beside, "p50 and p99 of intended latency over the achieved load");
    assert!(
        beside
            .contains("raw takes up to 20.0 k a second of randread-4k at depth 32 with a p99 within 1.00 ms")
    );
    // All blocks of the last load are saturated, of the others none.
    let rows = beside.split("<tr>").filter(|row| row.contains("120%") && row.contains("100.0 %</td></tr>"));
    assert_eq!(rows.count(), 2);
    let data = RunData::read(&path).unwrap();
    let pooled = |metric: &str| {
        let row = data.metrics.iter().find(|row| {
            row.run.is_none()
                && row.arm == "raw"
                && row.phase == "open-120%"
                && row.metric == metric
                && row.stat == "p50"
        });
        row.and_then(|row| row.value).unwrap()
    };
    assert!(pooled("latency_intended") > 5e8 && pooled("latency") < 1e8);
}
