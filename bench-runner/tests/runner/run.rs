//! `run`, `plan` and `quick` from the outside: rows, refusals, exit codes, Ctrl-C.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bench_runner::arms::Arm;
use bench_runner::method::{BLOCKS_MAX, BLOCKS_MIN, Method};
use bench_runner::results::RunData;
use bench_runner::session;
use bench_runner::suite::{Cell, SuitePlan};
use icecore_workloads::Workload;
use serde_json::Value;

use crate::support::{self, expect, folder, make_file, program, run, text, words};

const FILE_BYTES: u64 = 64 << 20;

#[test]
fn a_run_leaves_every_row_and_a_report() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (disk, out) = (make_file(folder.path(), FILE_BYTES), folder.path().join("out"));
    let destroy = format!("disk:{FILE_BYTES}");
    let plan = words(
        "run --backend ring,direct --workload randread-4k,mixed-4k,durable-4k --queue-depth 4 --seconds 1 --warmup 0 \
         --repeats 2 --seed 7",
    );
    let places = ["--device", text(&disk), "--destroy", &destroy, "--out", text(&out)];
    let output = run(&[&plan[..], &places].concat());
    let (stdout, stderr) = expect(&output, 0);
    assert_eq!(
        stdout.lines().last(),
        Some(format!("report: {}", out.join("report.html").display()).as_str())
    );
    assert!(stderr.contains("[18/18]") && stderr.contains("seed 7"), "{stderr}");
    let data = RunData::read(&out).unwrap();
    assert!(data.manifest.complete && !data.manifest.interrupted);
    assert_eq!((data.manifest.seed, data.manifest.device.serial.as_str()), (7, "disk"));
    assert_eq!(data.manifest.plan.arms, ["raw", "ring", "direct"]);
    assert_eq!(data.runs.len(), 18);
    for row in &data.runs {
        assert!(row.valid && row.operations > Some(0), "{row:?}");
        assert_eq!(row.verified_blocks, Some(data.manifest.plan.span_bytes / 4096), "{row:?}");
        assert_eq!(row.allocations.map(|count| count < 50), Some(true), "{row:?}");
        assert!(row.io_path.contains("O_DIRECT"), "{}", row.io_path);
    }
    // The arms of a block share their seed, and blocks do not.
    let seeds: BTreeSet<u64> = data.runs.iter().map(|row| row.seed).collect();
    assert_eq!(seeds.len(), 6);
    let has = |arm: &str, op: &str, metric: &str, stat: &str| {
        data.metrics.iter().any(|row| {
            (row.arm.as_str(), row.op.as_str(), row.metric.as_str(), row.stat.as_str())
                == (arm, op, metric, stat)
        })
    };
    assert!(has("raw", "flush", "latency", "p50") && has("raw", "write", "iops", "mean"));
    assert!(!has("direct", "flush", "latency", "p50"), "a durable write of the engine is one operation");
    assert!(has("direct/raw", "all", "iops_ratio", "median"));
    assert!(has("direct/ring", "all", "cpu_ratio", "median"));
    let costs = data.metrics.iter().filter(|row| row.metric == "runner_cost").count();
    assert_eq!(costs, 6, "depths 1, 4 and 32, without and with content");
}

#[test]
fn json_is_one_object_and_nothing_else() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (disk, out) = (folder.path().join("new"), folder.path().join("out"));
    let plan = words(
        "run --create 67108864 --workload randwrite-4k --queue-depth 1 --seconds 1 --warmup 0 --repeats 1 --json",
    );
    let output = run(&[&plan[..], &["--device", text(&disk), "--out", text(&out)]].concat());
    let (stdout, _) = expect(&output, 0);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(object["valid"], true);
    assert_eq!(object["figures"].as_array().unwrap().len(), 2);
    assert!(Path::new(object["report"].as_str().unwrap()).is_file());
}

#[test]
fn a_plan_names_the_argument_and_writes_nothing() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = make_file(folder.path(), FILE_BYTES);
    fs::write(&disk, vec![0x5a; FILE_BYTES as usize]).unwrap();
    let before = fs::read(&disk).unwrap();
    let (stdout, _) = expect(&run(&["plan", "--device", text(&disk), "--json"]), 0);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(object["destroy"], format!("disk:{FILE_BYTES}"));
    assert_eq!(object["signature"], Value::Null);
    assert!(object["duration_s"].as_u64() > Some(0) && object["filled_bytes"].as_u64() > Some(0));
    assert!(fs::read(&disk).unwrap() == before, "the plan wrote to the device");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the plan made a file");
}

#[test]
fn refusals_have_their_codes_and_leave_everything_as_it_was() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = make_file(folder.path(), FILE_BYTES);
    let out = folder.path().join("out");
    let expected = format!("--destroy disk:{FILE_BYTES}");
    let refused = |arguments: &[&str], exit_code: i32, says: &str| {
        let all: Vec<&str> = ["run", "--out", text(&out)].iter().chain(arguments).copied().collect();
        let (_, stderr) = expect(&run(&all), exit_code);
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(!out.exists(), "{arguments:?} made a run folder");
        assert!(fs::read(&disk).unwrap().iter().all(|&byte| byte == 0), "{arguments:?} wrote to the device");
    };
    let device = text(&disk);
    refused(&["--device", device], 3, &expected);
    refused(&["--device", device, "--destroy", "other:1"], 3, &format!("disk:{FILE_BYTES}"));
    let missing = folder.path().join("missing");
    refused(&["--device", text(&missing)], 3, "--create");
    assert!(!missing.exists());
    let right = format!("disk:{FILE_BYTES}");
    refused(&["--device", device, "--destroy", &right, "--backend", "nothing"], 64, "direct");
    refused(&["--device", device, "--destroy", &right, "--workload", "nothing"], 64, "randread-4k");
    refused(&["--device", device, "--destroy", &right, "--queue-depth", "0"], 64, "queue-depth");
    refused(
        &["--device", device, "--destroy", &right, "--workload", "seqwrite-1m"],
        64,
        "seqwrite-1m at depth 32",
    );
    refused(&["--device", text(&missing), "--create", "4096"], 3, "at least");
    assert!(!missing.exists(), "a file was made for a run that cannot be");
    let held = fs::File::open(&disk).unwrap();
    held.lock().unwrap();
    refused(&["--device", device, "--destroy", &right], 3, "already open");
    drop(held);
    let (stdout, _) = expect(&run(&["run", "--device", device, "--json"]), 3);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(object["error"]["exit_code"], 3);
    assert!(object["error"]["message"].as_str().unwrap().contains(&expected));
    expect(&run(&["run"]), 64);
    expect(&run(&["nothing"]), 64);
    expect(&run(&["--help"]), 0);
}

#[test]
fn a_folder_with_something_in_it_and_a_foreign_signature_are_refused() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = make_file(folder.path(), FILE_BYTES);
    let destroy = format!("disk:{FILE_BYTES}");
    let (_, stderr) = expect(
        &run(&["run", "--device", text(&disk), "--destroy", &destroy, "--out", text(folder.path())]),
        3,
    );
    assert!(stderr.contains("is not empty"), "{stderr}");
    // The magic number of an ext superblock, with the fields that the probe looks at.
    let mut image = vec![0_u8; FILE_BYTES as usize];
    image[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
    image[1024..1028].copy_from_slice(&16_u32.to_le_bytes());
    image[1028..1032].copy_from_slice(&16_384_u32.to_le_bytes());
    image[1024 + 0x4c..1024 + 0x50].copy_from_slice(&1_u32.to_le_bytes());
    fs::write(&disk, &image).unwrap();
    let out = folder.path().join("out");
    let (_, stderr) =
        expect(&run(&["run", "--device", text(&disk), "--destroy", &destroy, "--out", text(&out)]), 3);
    assert!(stderr.contains("signature") && stderr.contains("--force"), "{stderr}");
    assert!(fs::read(&disk).unwrap() == image && !out.exists());
}

/// Sends SIGINT to one process.
#[allow(unsafe_code)]
fn interrupt(process: u32) {
    // SAFETY: kill takes numbers; the process is our child and not yet reaped.
    assert_eq!(unsafe { libc::kill(process as libc::pid_t, libc::SIGINT) }, 0);
}

#[test]
fn an_interrupted_quick_keeps_its_results_and_no_scratch_file() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let out = folder.path().join("out");
    let mut child = program(&["quick", "--scratch", text(folder.path()), "--out", text(&out), "--json"])
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let rows = || fs::read_to_string(out.join("runs.csv")).map_or(0, |text| text.lines().count());
    let begun = Instant::now();
    while rows() < 3 && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    interrupt(child.id());
    let asked = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?} to stop", asked.elapsed());
    let (stdout, _) = expect(&output, 130);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&object["interrupted"], &object["complete"]), (&Value::Bool(true), &Value::Bool(false)));
    let data = RunData::read(&out).unwrap();
    assert!(data.manifest.interrupted && data.runs.len() >= 2 && data.runs.iter().all(|row| row.valid));
    assert!(data.events.iter().any(|event| event.event == "interrupted"));
    assert!(out.join("report.html").is_file());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["out"]);
}

#[test]
fn memory_is_no_disk() {
    if support::lacks_io_uring() {
        return;
    }
    // On systems without this mount there is nothing to refuse.
    let memory = Path::new("/dev/shm");
    if icecore::device::sys::filesystem_name(memory) != "tmpfs" {
        eprintln!("skipped: /dev/shm is no tmpfs");
        return;
    }
    let folder = folder();
    let out = folder.path().join("out");
    let (_, stderr) = expect(&run(&["quick", "--scratch", text(memory), "--out", text(&out)]), 4);
    assert!(stderr.contains("tmpfs"), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn a_log_is_measured_beside_the_bare_device_in_its_place() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (disk, out) = (folder.path().join("disk"), folder.path().join("out"));
    let plan = words(
        "run --create 134217728 --backend direct,log --seconds 1 --warmup 0 --repeats 1 --queue-depth 8",
    );
    let arguments = [&plan[..], &["--device", text(&disk), "--out", text(&out)]].concat();
    // A log has room for less than the others, and says so before the file is made.
    let span = [&arguments[..], &["--span", "125829120"]].concat();
    let (_, stderr) = expect(&run(&span), 64);
    assert!(stderr.contains("bytes on log, not 125829120"), "{stderr}");
    assert!(!disk.exists() && !out.exists());
    let (stdout, _) = expect(
        &run(&[&arguments[..], &["--workload", "durable-4k,randwrite-4k", "--span", "33554432"]].concat()),
        0,
    );
    assert!(stdout.contains("report: "));
    let data = RunData::read(&out).unwrap();
    assert!(data.runs.len() == 6 && data.runs.iter().all(|row| row.valid && row.verified_blocks.is_some()));
    assert!(data.runs.iter().all(|row| row.span_bytes == data.manifest.plan.span_bytes));
    let value = |arm: &str, workload: &str, metric: &str, stat: &str| {
        let mut rows = data.metrics.iter().filter(|row| row.run.is_none());
        rows.find(|row| {
            (row.arm.as_str(), row.workload.as_str(), row.metric.as_str(), row.stat.as_str())
                == (arm, workload, metric, stat)
        })?
        .value
    };
    for workload in ["durable-4k", "randwrite-4k"] {
        for arm in ["raw", "direct"] {
            assert_eq!(value(arm, workload, "write_amplification", "application"), Some(1.0), "{arm}");
            assert_eq!(value(arm, workload, "batch_entries", "mean"), None, "{arm} has no batches");
        }
        let log = |metric: &str, stat: &str| value("log", workload, metric, stat).unwrap();
        assert_eq!(log("write_amplification", "application"), 0.0, "everything goes through the log");
        // The device's ledger and the log's own figures are counted at different places.
        let by_batches = log("batch_bytes", "mean") / (log("batch_entries", "mean") * 4096.0);
        let by_ledger = log("write_amplification", "log");
        assert!((by_ledger / by_batches - 1.0).abs() < 0.001, "{by_ledger} {by_batches}");
        assert!(log("write_amplification", "index") > 0.0, "the checkpoint at the end is counted");
        let causes = ["application", "merge", "metadata", "zero", "log", "index", "clean"];
        let sum: f64 = causes.iter().map(|cause| log("write_amplification", cause)).sum();
        assert!((log("write_amplification", "total") / sum - 1.0).abs() < 0.001);
    }
    let of = |metric: &str, rate: f64| {
        let log = |metric: &str| value("log", metric, "iops", "mean").unwrap();
        let workload = if metric == "iops_of_persist" { "durable-4k" } else { "randwrite-4k" };
        let bound = value("log", workload, "batch_entries", "mean").unwrap() * rate;
        let share = value("log", workload, metric, "median").unwrap();
        assert!((share / (log(workload) / bound) - 1.0).abs() < 0.001, "{metric}: {share}");
    };
    let bare = |workload: &str, metric: &str| value("log", workload, metric, "mean").unwrap();
    of(
        "iops_of_persist",
        bare("durable-4k", "bare_persist_flush").max(bare("durable-4k", "bare_persist_dsync")),
    );
    of("iops_of_sequential", bare("randwrite-4k", "bare_sequential"));
    assert!(value("log", "durable-4k", "latency_p50_of_persist", "median") > Some(0.0));
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("What was written") && page.contains("Batches of the log"));
}

/// Each arm twice in a block, blocks added until intervals are narrow or there are fifteen; and the run compared with itself.
#[test]
fn arms_twice_and_blocks_until_settled() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (bench, out) = (folder.path().join("disk"), folder.path().join("out"));
    let bench = bench_runner::bench::Bench::create(&bench, FILE_BYTES, 4).unwrap();
    let arms: Vec<Arm> = ["raw", "direct"].map(|arm| Arm::from_name(arm).unwrap()).into();
    let span = bench.data_span(&arms).unwrap();
    let plan = SuitePlan {
        trace: None,
        slo_ns: None,
        arms,
        cells: vec![Cell::closed(Workload::from_name("randread-4k").unwrap(), 4)],
        repeats: BLOCKS_MAX,
        warmup_ns: 0,
        measure_ns: 20_000_000,
        seed: 5,
        span_offset_bytes: span.offset_bytes,
        span_bytes: 16 << 20,
        references: false,
        method: Method { a_a: true, until_settled: true, ..Method::default() },
    };
    let session = session::run(&bench, &plan, &out, Vec::new(), &mut |_, _| {}).unwrap();
    let names = ["raw", "direct", "raw-again", "direct-again"];
    assert_eq!(session.data.manifest.plan.arms, names);
    let stopping = session.data.manifest.stopping.as_ref().unwrap();
    assert!((BLOCKS_MIN..=BLOCKS_MAX).contains(&stopping.blocks), "{stopping:?}");
    assert_eq!(stopping.settled, stopping.open.is_empty(), "{stopping:?}");
    assert!(stopping.settled || stopping.blocks == BLOCKS_MAX, "{stopping:?}");
    assert_eq!(session.data.runs.len(), 4 * stopping.blocks as usize);
    for block in 1..=stopping.blocks {
        let of_block: BTreeSet<&str> =
            session.data.runs.iter().filter(|run| run.block == block).map(|run| run.arm.as_str()).collect();
        assert_eq!(of_block, BTreeSet::from(names), "block {block}");
    }
    for run in &session.data.runs {
        assert!(
            ["raw", "direct"].contains(&run.backend.as_str()),
            "an arm's second run has its backend: {run:?}"
        );
        // A file: nobody knows what else its file system moves.
        assert!(run.foreign_percent.is_none(), "{run:?}");
        // A machine may take all of 20 ms away.
        assert!(run.busy_percent > Some(0.0) || run.operations == Some(0), "{run:?}");
    }
    let page = fs::read_to_string(&session.report).unwrap();
    assert!(page.contains("A/A: each arm twice"));
    let output = run(&["compare", text(&out), text(&out), "--arm", "direct=direct-again", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = object["comparisons"].as_array().unwrap();
    assert!(
        lines.iter().any(|line| line["metric"] == "iops" && line["noise"].as_f64() > Some(0.0)),
        "{object}"
    );
    assert!(lines.iter().all(|line| line["pairing"] == "paired by block"), "{object}");
    let refused = run(&["run", "--device", text(bench.path()), "--until-settled", "--repeats", "9"]);
    expect(&refused, 64);
}
