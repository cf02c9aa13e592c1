//! `snapshots`: every suite leaves its parts; what the ledger says is what the kernel counted; damage voids.

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use bench_runner::cli::{Cli, Command as Subcommand};
use bench_runner::results::{MetricRow, RunData, RunRow};
use bench_runner::session::Session;
use bench_runner::snapshots;
use clap::Parser;
use icecore::store::Backend;

const SPAN_BYTES: u64 = 16 << 20;
const CAUSES: [&str; 8] = ["application", "merge", "metadata", "zero", "log", "index", "clean", "apply"];

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn program(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-runner"));
    command.args(["snapshots", "--device", "disk", "--out", "out"]).current_dir(folder);
    command.args(arguments).output().unwrap()
}

/// The value of a run of one arm in one part.
fn value(data: &RunData, run: &RunRow, metric: &str, stat: &str) -> Option<f64> {
    let is_it = |row: &&MetricRow| {
        row.run == Some(run.run) && row.op == "all" && row.metric == metric && row.stat == stat
    };
    data.metrics.iter().find(is_it)?.value
}

fn part<'a>(data: &'a RunData, suite: &str, phase: &str, arm: &str) -> &'a RunRow {
    let is_it = |run: &&RunRow| run.workload == suite && run.phase == phase && run.arm == arm;
    data.runs.iter().find(is_it).unwrap_or_else(|| panic!("no {suite} {phase} of {arm}"))
}

#[test]
fn every_suite_leaves_its_parts() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let arguments = ["--create", "134217728", "--span", "16777216", "--seconds", "0.2", "--warmup", "0.1"];
    let more = ["--repeats", "1", "--seed", "3", "--snapshots", "1,3", "--changes", "64", "--json"];
    let output = program(folder.path(), &[&arguments[..], &more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(object["suites"].as_array().is_some_and(|rows| rows.len() > 100), "{object}");
    let data = RunData::read(&folder.path().join("out")).unwrap();
    assert!(data.manifest.complete && data.runs.iter().all(|run| run.valid), "{stderr}");
    // Whoever can do nothing of it is named.
    assert!(stderr.contains("left out: cliff on direct: "), "{stderr}");
    assert!(data.manifest.dropped.iter().any(|one| one.what == "chain on direct"));
    let expected = [
        ("cliff", &["before", "first-touch", "settled"][..]),
        ("chain", &["newest-warm", "oldest-warm", "newest-cold", "oldest-cold"]),
        ("delete", &["oldest-with", "oldest-without", "middle-with", "newest-without"]),
        ("rollback", &["after-64-writes", "after-4096-writes"]),
        ("full", &["filling"]),
        ("overwrite-fraction", &["overwrite-1", "overwrite-5", "overwrite-25", "overwrite-100"]),
    ];
    for (suite, phases) in expected {
        for phase in phases {
            for arm in ["raw", "log"] {
                let run = part(&data, suite, phase, arm);
                if arm == "log" || suite != "chain" {
                    assert!(run.verified_blocks >= Some(SPAN_BYTES / 4096), "{run:?}");
                }
                if suite != "rollback" {
                    assert!(run.operations > Some(0), "{run:?}");
                }
            }
        }
    }
    figures(&data);
    ledger(&data);
    let page = fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    for (suite, _) in expected {
        assert!(page.contains(&format!("<h2>Snapshots: {suite}</h2>")), "{suite}");
    }
    assert!(
        page.contains("log: snapshot taken") && page.contains("log: space back"),
        "events stand in the pictures"
    );
    assert_eq!(page.matches("<svg").count(), 2 + 4 + 2 + 2 + 2 + 2, "pictures");
    assert!(!page.contains("NaN") && !page.contains("inf,"));
    // The windows of a load are its operations.
    for run in data.runs.iter().filter(|run| ["cliff", "delete"].contains(&run.workload.as_str())) {
        let windows = data.windows.iter().filter(|window| window.run == run.run);
        assert_eq!(Some(windows.map(|window| window.operations).sum()), run.operations, "{run:?}");
    }
}

/// What follows from how a log keeps things, without measuring.
fn figures(data: &RunData) {
    let log = |suite: &str, phase: &str, metric: &str, stat: &str| {
        value(data, part(data, suite, phase, "log"), metric, stat)
            .unwrap_or_else(|| panic!("{suite} {phase} {metric}"))
    };
    // Each changed block is one more that lives.
    for percent in [1, 5, 25, 100] {
        let space =
            log("overwrite-fraction", &format!("overwrite-{percent}"), "space_per_changed_byte", "live");
        assert!((space - 1.0).abs() < 1e-9, "{percent} %: {space}");
    }
    let run = part(data, "overwrite-fraction", "overwrite-25", "log");
    assert_eq!(run.operations, Some(SPAN_BYTES / 4096 / 4), "each block once");
    // A first touch reads nothing of what was there.
    assert_eq!(log("cliff", "first-touch", "device_reads", "application"), 0.0);
    assert!(log("cliff", "creation", "snapshot_creation", "mean") > 0.0);
    assert_eq!(log("chain", "newest-warm", "snapshot_creation_bytes", "mean"), 4096.0, "one record");
    assert!(log("delete", "oldest-with", "space_back", "mean") > 0.0);
    assert!(log("rollback", "after-4096-writes", "rollback", "mean") > 0.0);
    assert!(log("full", "filling", "acknowledged_bytes", "total") > 2.0 * SPAN_BYTES as f64);
    assert_eq!(log("full", "again", "deleted_snapshots", "mean").fract(), 0.0);
    let refused = data.metrics.iter().find(|row| row.metric == "refused_writes").unwrap();
    assert_eq!(refused.stat, "LogFull");
}

/// The engine's ledger beside the kernel's own count of this process's bytes; with a cause left out they differ.
fn ledger(data: &RunData) {
    let mut compared = 0;
    for run in data.runs.iter().filter(|run| run.operations > Some(100)) {
        let of = |stat: &str| value(data, run, "device_write_bytes", stat);
        let (Some(total), Some(kernel)) = (of("total"), of("kernel")) else { continue };
        let by_cause = |causes: &[&str]| causes.iter().filter_map(|cause| of(cause)).sum::<f64>();
        assert!((by_cause(&CAUSES) - total).abs() <= total * 1e-3 + 1e-3, "{run:?}");
        // What was in flight at either end is counted by one of them before the other: a queue of 4 KiB writes, or for
        // a log two batches.
        let slack = 2.0 * 32.0 * 8192.0 / run.operations.unwrap() as f64;
        assert!((total - kernel).abs() <= slack + total * 1e-3, "{run:?}: {total} {kernel}");
        if total > 10.0 * slack {
            // In place, or in the log; some go both ways.
            let most = |one: &&str, other: &&str| of(one).partial_cmp(&of(other)).unwrap();
            let payload = ["application", "log"].into_iter().max_by(most).unwrap();
            let rest: Vec<&str> = CAUSES.into_iter().filter(|cause| *cause != payload).collect();
            assert!((by_cause(&rest) - kernel).abs() > slack + total * 0.4, "{run:?}");
            compared += 1;
        }
        if run.arm == "raw" && run.phase == "overwrite-100" {
            assert_eq!((value(data, run, "device_writes", "total"), total), (Some(1.0), 4096.0));
        }
    }
    assert!(compared >= 10 || !Path::new("/proc/self/io").exists(), "{compared}");
}

fn measure(folder: &Path, more: &[&str], damage: &mut dyn FnMut(&Path, u64)) -> Session {
    let disk = folder.join("disk");
    let base = ["bench-runner", "snapshots", "--device", disk.to_str().unwrap(), "--create", "134217728"];
    let rest =
        ["--span", "16777216", "--seconds", "0.1", "--warmup", "0.05", "--repeats", "1", "--seed", "9"];
    let cli = Cli::parse_from([&base[..], &rest, &["--backend", "log"], more].concat());
    let Subcommand::Snapshots(options) = cli.command else { unreachable!("it was asked for") };
    snapshots::run(&options, &folder.join("out"), damage).unwrap()
}

#[test]
fn one_wrong_byte_voids_every_part_of_the_arm() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let mut flip = |path: &Path, span_offset_bytes: u64| {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        // The first blocks of the span; under a log, of what the snapshot keeps.
        for block in 64..512 {
            let at = span_offset_bytes + block * 4096 + 1_000;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
        file.sync_all().unwrap();
    };
    let session = measure(folder.path(), &["--suite", "cliff"], &mut flip);
    assert_eq!((session.exit_code(), session.invalid.len()), (2, 2), "{:?}", session.invalid);
    assert!(session.data.runs.len() >= 6 && session.data.runs.iter().all(|run| !run.valid));
    let raw = part(&session.data, "cliff", "settled", "raw");
    assert!(raw.invalid_reason.contains("wrong content in block 64"), "{}", raw.invalid_reason);
    let pooled = session.data.metrics.iter().filter(|row| row.run.is_none() && row.phase == "first-touch");
    assert!(pooled.clone().count() > 0 && pooled.clone().all(|row| row.value.is_none() || !row.valid));
}

#[test]
fn refusals_write_nothing() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = folder.path().join("disk");
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let output = program(folder.path(), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(!folder.path().join("out").exists());
    };
    refused(&["--create", "67108864", "--suite", "cliffs"], 64, "cliff, chain, delete");
    refused(&["--create", "67108864", "--backend", "raw"], 64, "raw always runs");
    refused(&["--create", "67108864", "--batch", "64"], 64, "--batch");
    refused(&["--create", "67108864", "--span", "67108864"], 64, "room for a span");
    assert!(!disk.exists());
    fs::write(&disk, vec![7; 64 << 20]).unwrap();
    refused(&[], 3, "--destroy disk:67108864");
    assert!(fs::read(&disk).unwrap().iter().all(|byte| *byte == 7));
    refused(&["--destroy", "disk:67108864", "--backend", "direct"], 64, "nothing can be measured");
}

/// `run` takes every backend there is by its name, so that a new one comes by itself.
#[test]
fn every_backend_is_an_arm() {
    for backend in Backend::ALL {
        assert_eq!(bench_runner::arms::Arm::from_name(backend.name()).unwrap().name(), backend.name());
    }
}
