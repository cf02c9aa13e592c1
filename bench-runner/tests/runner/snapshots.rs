//! `snapshots`: every suite leaves its parts; what the ledger says is what the kernel counted; damage voids.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Output;

use bench_runner::cli::{Cli, Command as Subcommand};
use bench_runner::results::{Dropped, MetricRow, RunData, RunRow};
use bench_runner::session::Session;
use bench_runner::snapshots;
use clap::Parser;
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Volume};

use crate::support::{self, expect, folder, run_in};

const SPAN_BYTES: u64 = 16 << 20;
const CAUSES: [&str; 8] = ["application", "merge", "metadata", "zero", "log", "index", "clean", "apply"];

fn program(folder: &Path, arguments: &[&str]) -> Output {
    run_in(folder, &[&["snapshots", "--device", "disk", "--out", "out"], arguments].concat())
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
    let arguments = ["--create", "134217728", "--span", "16777216", "--seconds", "0.1", "--warmup", "0.05"];
    let more = ["--repeats", "1", "--seed", "3", "--snapshots", "1,3", "--changes", "64", "--json"];
    // The second one has no room.
    let sizes = ["--sizes", "33554432,1099511627776"];
    // Those with a foreground are looked at in `under_load`.
    let suites =
        ["--suite", "cliff,chain,creation,first-touch,delete,rollback,full,overwrite-fraction,read-home"];
    let (stdout, stderr) =
        expect(&program(folder.path(), &[&arguments[..], &more, &sizes, &suites].concat()), 0);
    let object: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(object["suites"].as_array().is_some_and(|rows| rows.len() > 100), "{object}");
    let data = RunData::read(&folder.path().join("out")).unwrap();
    assert!(data.manifest.complete && data.runs.iter().all(|run| run.valid), "{stderr}");
    // Whoever can do nothing of it is named.
    assert!(stderr.contains("left out: cliff on direct: "), "{stderr}");
    assert!(data.manifest.dropped.iter().any(|one| one.what == "chain on direct"));
    let expected = [
        ("cliff", &["before", "first-touch", "settled"][..]),
        ("chain", &["newest-warm", "oldest-warm", "newest-cold", "oldest-cold"]),
        ("creation", &["volume-16-MiB", "volume-32-MiB"]),
        ("first-touch", &["first-touch"]),
        ("delete", &["oldest-with", "oldest-without", "middle-with", "newest-without"]),
        ("rollback", &["after-64-writes", "after-4096-writes"]),
        ("full", &["filling"]),
        ("overwrite-fraction", &["overwrite-1", "overwrite-5", "overwrite-25", "overwrite-100"]),
    ];
    for (suite, phases) in expected {
        for phase in phases {
            for arm in ["raw", "log"] {
                if arm == "raw" && suite == "creation" {
                    continue;
                }
                let run = part(&data, suite, phase, arm);
                if arm == "log" || suite != "chain" {
                    assert!(run.verified_blocks >= Some(SPAN_BYTES / 4096), "{run:?}");
                }
                if !["rollback", "creation"].contains(&suite) {
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
    assert_eq!(page.matches("<svg").count(), 2 + 4 + 2 + 2 + 2 + 2 + 2 + 2, "pictures");
    assert!(!page.contains("NaN") && !page.contains("inf,"));
    // The windows of a load are its operations.
    for run in data.runs.iter().filter(|run| ["cliff", "delete"].contains(&run.workload.as_str())) {
        let windows = data.windows.iter().filter(|window| window.run == run.run);
        assert_eq!(Some(windows.map(|window| window.operations).sum()), run.operations, "{run:?}");
    }
}

/// Reading each block once brings all of it home, or nothing.
#[test]
fn reads_bring_overlays_home() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let arguments = [
        "--create",
        "134217728",
        "--span",
        "16777216",
        "--seconds",
        "60",
        "--warmup",
        "0.1",
        "--repeats",
        "1",
    ];
    let more = ["--seed", "3", "--suite", "read-home", "--backend", "overlay,cow"];
    let output = program(folder.path(), &[&arguments[..], &more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("left out: read-home on cow: nothing moves home"), "{stderr}");
    let data = RunData::read(&folder.path().join("out")).unwrap();
    assert_eq!(data.runs.len(), 2);
    for (phase, moved) in [("staying", 0.0), ("moving", 1.0)] {
        let run = part(&data, "read-home", phase, "overlay");
        assert!(run.valid && run.verified_blocks >= Some(SPAN_BYTES / 4096), "{run:?}");
        assert_eq!(run.operations, Some(SPAN_BYTES / 4096), "each block once");
        // Whatever else is written for it, the block itself is, and once.
        let applied = value(&data, run, "device_write_bytes", "apply").unwrap();
        assert!((applied / 4096.0 - moved).abs() < 0.001, "{phase}: {applied} bytes a read");
        let all = value(&data, run, "device_write_bytes", "total").unwrap();
        assert!(if moved > 0.0 { all > 4096.0 } else { all < 64.0 }, "{phase}: {all} bytes a read");
    }
    let page = fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    assert!(page.contains("<h2>Snapshots: read-home</h2>"));
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
    // Every block once, if there was time; not a read of what was there, whatever there is of snapshots.
    let touching = data.runs.iter().filter(|run| run.phase == "first-touch" && run.workload == "first-touch");
    assert_eq!(touching.clone().filter(|run| run.arm == "log").count(), 2, "with 1 and with 3 snapshots");
    for run in touching {
        assert!(run.operations <= Some(SPAN_BYTES / 4096), "{run:?}");
        let reads = value(data, run, "device_reads", "application");
        assert!(
            reads == Some(0.0) && (run.arm != "cow" || value(data, run, "device_reads", "copy") > Some(0.9))
        );
    }
    // A first touch reads nothing of what was there.
    assert_eq!(log("cliff", "first-touch", "device_reads", "application"), 0.0);
    assert!(log("cliff", "creation", "snapshot_creation", "mean") > 0.0);
    assert_eq!(log("chain", "newest-warm", "snapshot_creation_bytes", "mean"), 4096.0, "one record");
    let left_out =
        |one: &&Dropped| one.what.starts_with("volume-1048576-MiB on log") && one.why.contains("bytes");
    assert!(data.manifest.dropped.iter().any(|one| left_out(&one)), "{:?}", data.manifest.dropped);
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
        // Behind a log, a batch on its way to the base too.
        let batches = if run.arm == "logged-cow" { 8.0 * 1048576.0 } else { 2.0 * 32.0 * 8192.0 };
        let slack = batches / run.operations.unwrap() as f64;
        assert!((total - kernel).abs() <= slack + total * 1e-3, "{run:?}: {total} {kernel}");
        if total > 10.0 * slack {
            // In place, or in the log; some go both ways.
            let most = |one: &&str, other: &&str| of(one).partial_cmp(&of(other)).unwrap();
            let ways = if run.workload == "read-home" { &["apply"][..] } else { &["application", "log"] };
            let payload = ways.iter().copied().max_by(most).unwrap();
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

/// A system that keeps snapshots as copies of a file, and writes down what it is asked for. `take` is how it copies.
fn copies(folder: &Path, take: &str) -> String {
    let program = folder.join("copies");
    let text = format!(
        "#!/bin/sh\nset -eu\ncd '{}'\necho \"$*\" >> calls\ncase $1 in\n\
         prepare) rm -f volume s[0-9]*; truncate -s \"$2\" volume; echo \"$PWD/volume\" ;;\n\
         take) {take} ;;\nshow) echo \"$PWD/$2\" ;;\nesac\n",
        folder.display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program.to_str().unwrap().to_owned()
}

#[test]
fn another_system_takes_part_in_first_touch() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let peer = copies(folder.path(), "cp volume \"$2\"");
    let more = ["--suite", "first-touch", "--snapshots", "1,3", "--changes", "50", "--unit", "65536"];
    let peers = ["--peer", &peer, "--seconds", "30"];
    let session = measure(folder.path(), &[&more[..], &peers].concat(), &mut |_, _| {});
    assert_eq!((session.exit_code(), &session.invalid[..]), (0, &[][..]));
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let whole = |takes: &str| format!("prepare {SPAN_BYTES}\n{takes}show s1\nremove\n");
    assert_eq!(calls, whole("take s1\n") + &whole("take s1\ntake s2\ntake s3\n"));
    // What it has kept: between two snapshots so many blocks differ, after the last one in each unit.
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let changed = |one: &str, other: &str| -> Vec<usize> {
        let (one, other) = (read(one), read(other));
        let pairs = one.chunks(4096).zip(other.chunks(4096)).enumerate();
        pairs.filter(|(_, (one, other))| one != other).map(|(block, _)| block).collect()
    };
    assert_eq!((changed("s1", "s2").len(), changed("s2", "s3").len()), (50, 50));
    let touched = changed("s3", "volume");
    let units: Vec<usize> = touched.iter().map(|block| block / 16).collect();
    assert_eq!(units, (0..SPAN_BYTES as usize / 65536).collect::<Vec<_>>());
    assert!(touched.iter().any(|block| block % 16 != touched[0] % 16), "not always at the same place");
    let runs = || session.data.runs.iter().filter(|run| run.arm == "copies");
    assert_eq!(runs().count(), 2);
    for run in runs() {
        assert_eq!((run.backend.as_str(), run.operations), ("peer", Some(SPAN_BYTES / 65536)));
        assert_eq!(
            run.verified_blocks,
            Some(2 * 2 * SPAN_BYTES / 4096),
            "volume and snapshot, of both parts"
        );
        assert_eq!(value(&session.data, run, "device_writes", "total"), None, "nothing is known of it");
    }
    // The backend is set beside it, and both beside the bare device.
    let pooled = |arm: &str| {
        let is_it = |row: &&MetricRow| row.run.is_none() && row.metric == "iops_ratio" && row.arm == arm;
        session.data.metrics.iter().filter(is_it).filter(|row| row.value > Some(0.0)).count()
    };
    assert_eq!(["log/copies", "log/raw", "copies/raw", "copies/log"].map(pooled), [2, 2, 2, 0]);
}

#[test]
fn a_system_whose_snapshots_change_does_not_count() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let more = ["--suite", "first-touch", "--snapshots", "1", "--peer"];
    let told = |take: &str, says: &str| {
        let peer = copies(folder.path(), take);
        let session = measure(folder.path(), &[&more[..], &[&peer]].concat(), &mut |_, _| {});
        assert_eq!(session.exit_code(), 2, "{:?}", session.invalid);
        assert!(session.invalid.len() == 1 && session.invalid[0].contains(says), "{:?}", session.invalid);
        for run in &session.data.runs {
            assert_eq!(run.valid, run.arm != "copies", "{run:?}");
        }
        fs::remove_dir_all(folder.path().join("out")).unwrap();
        fs::remove_file(folder.path().join("disk")).unwrap();
    };
    told("ln volume \"$2\"", "the oldest snapshot: wrong content in block");
    told("echo no room here >&2; exit 7", "take s1: exit status: 7: no room here");
    told("truncate -s 4096 \"$2\"", "has 4096 bytes, not 16777216");
}

#[test]
fn a_system_that_keeps_fewer_snapshots_is_left_out_of_more() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let peer = copies(folder.path(), "test $2 = s1 || { echo one is enough >&2; exit 1; }; cp volume $2");
    let more =
        ["--suite", "first-touch", "--changes", "50", "--unit", "65536", "--peer", &peer, "--snapshots"];
    let session = measure(folder.path(), &[&more[..], &["1,2"]].concat(), &mut |_, _| {});
    assert_eq!((session.exit_code(), &session.invalid[..]), (0, &[][..]));
    let of_peer = session.data.runs.iter().filter(|run| run.arm == "copies");
    assert_eq!(of_peer.map(|run| (run.valid, run.chain_depth)).collect::<Vec<_>>(), [(true, Some(1))]);
    let dropped = &session.data.manifest.dropped;
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert!(
        dropped[0].what.contains("2 snapshots and more on copies")
            && dropped[0].why.contains("one is enough")
    );
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(calls.ends_with("take s1\ntake s2\nremove\n"), "taken away all the same: {calls}");
    // Where nothing is left of it, it has failed.
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    fs::remove_file(folder.path().join("disk")).unwrap();
    let session = measure(folder.path(), &[&more[..], &["2"]].concat(), &mut |_, _| {});
    assert_eq!(session.exit_code(), 2);
    assert!(
        session.invalid.len() == 1 && session.invalid[0].contains("one is enough"),
        "{:?}",
        session.invalid
    );
}

fn measure(folder: &Path, more: &[&str], damage: &mut dyn FnMut(&Path, u64)) -> Session {
    let disk = folder.join("disk");
    let base = ["bench-runner", "snapshots", "--device", disk.to_str().unwrap(), "--create", "134217728"];
    let rest = ["--span", "16777216", "--warmup", "0.05", "--repeats", "1", "--seed", "9"];
    let backend = if more.contains(&"--backend") { &[][..] } else { &["--backend", "log"] };
    let seconds = if more.contains(&"--seconds") { &[][..] } else { &["--seconds", "0.1"] };
    let cli = Cli::parse_from([&base[..], &rest, backend, seconds, more].concat());
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
        // The first blocks of the span; under a log, of what the snapshot keeps, wherever that has gone in the time there was.
        for block in 64..2048 {
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

/// On a sparse file that is larger than what is written in full before: its holes are the volumes' own, and whoever looks
/// at what the file takes finds little.
#[test]
fn creation_on_volumes_of_any_size() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let arguments = ["--create", "137438953472", "--suite", "creation", "--span", "16777216", "--seed", "4"];
    let sizes =
        ["--sizes", "16777216,68719476736", "--snapshots", "2,70", "--changes", "64", "--repeats", "1"];
    let backends = ["--backend", "log,cow,overlay,cow-linear,logged-cow-linear,overlay-linear"];
    expect(&program(folder.path(), &[&arguments[..], &sizes, &backends].concat()), 0);
    let data = RunData::read(&folder.path().join("out")).unwrap();
    let parts = |arm: &str, phase: &str| -> Vec<&RunRow> {
        let of_it = |run: &&RunRow| run.arm == arm && run.phase == phase;
        data.runs.iter().filter(of_it).collect()
    };
    let ends = |runs: &[&RunRow]| runs.iter().filter_map(|run| run.chain_depth).collect::<Vec<_>>();
    for arm in ["log", "cow", "overlay"] {
        for phase in ["volume-16-MiB", "volume-65536-MiB"] {
            let runs = parts(arm, phase);
            assert_eq!(ends(&runs), [2, 70], "{arm} {phase}");
            // Of both volumes, what it holds and what the first snapshot shows.
            assert!(
                runs.iter().all(|run| run.verified_blocks == Some(2 * 2 * SPAN_BYTES / 4096)),
                "{runs:?}"
            );
            let last = |metric: &str, stat: &str| value(&data, runs[1], metric, stat).unwrap();
            assert_eq!(last("snapshot_creation_bytes", "median"), 4096.0, "{arm} {phase}: one record");
            assert!(last("one_record", "mean") > 0.75, "{arm} {phase}");
            let [ledger, kernel, mean] = [
                ("device_write_bytes", "total"),
                ("device_write_bytes", "kernel"),
                ("snapshot_creation_bytes", "mean"),
            ]
            .map(|(metric, stat)| last(metric, stat));
            assert!(
                (ledger - mean).abs() <= 1.0 && (ledger - kernel).abs() <= 4096.0,
                "{ledger} {kernel} {mean}"
            );
            let first = |metric: &str| value(&data, runs[0], metric, "median").unwrap();
            assert_eq!(first("creation_of_fewest"), 1.0);
            assert!(phase != "volume-16-MiB" || first("creation_of_smallest") == 1.0);
            assert!(
                last("creation_of_fewest", "median") > 0.0 && last("creation_of_smallest", "median") > 0.0
            );
        }
    }
    for arm in ["cow-linear", "logged-cow-linear", "overlay-linear"] {
        assert_eq!(ends(&parts(arm, "volume-16-MiB")), [2, 64], "{arm}: as many as there are objects");
        // Of the large volume, two whole ones have no room in the file.
        assert!(parts(arm, "volume-65536-MiB").is_empty(), "{arm}");
        let dropped = |one: &&Dropped| one.what.starts_with(&format!("volume-65536-MiB on {arm}"));
        assert_eq!(data.manifest.dropped.iter().filter(dropped).count(), 1, "{:?}", data.manifest.dropped);
    }
    let taken_bytes = fs::metadata(folder.path().join("disk")).unwrap().blocks() * 512;
    assert!(taken_bytes < 1 << 30, "{taken_bytes}");
    let page = fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    let sentence = |volume: &str| {
        let begin =
            page.find(&format!("Up to 70 snapshots of {volume} on overlay, taking one takes ")).unwrap();
        page[begin..].split_once(".<").unwrap().0
    };
    assert!(sentence("volume-65536-MiB").contains("smallest"), "{page}");
    assert!(!sentence("volume-16-MiB").contains("smallest"), "not of itself: {page}");
}

#[test]
fn a_wrong_byte_below_a_volume_of_creation_voids_its_arm() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let options = CreateOptions {
        size_bytes: Some(SPAN_BYTES),
        snapshots_max: Some(1 << 14),
        ..CreateOptions::new(Backend::Overlay)
    };
    let (_, behind_base) = Volume::capacity(128 << 20, 512, &options).unwrap();
    let mut flip = |path: &Path, _: u64| {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        // Of the base, which holds what the oldest snapshot shows.
        let at = behind_base.0 - SPAN_BYTES + 77 * 4096 + 5;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.sync_all().unwrap();
    };
    let more = ["--suite", "creation", "--backend", "overlay", "--snapshots", "1,5", "--changes", "32"];
    let session = measure(folder.path(), &more, &mut flip);
    assert_eq!((session.exit_code(), session.invalid.len()), (2, 1), "{:?}", session.invalid);
    assert!(session.invalid[0].contains("wrong content in block 77"), "{:?}", session.invalid);
    assert!(session.data.runs.len() == 2 && session.data.runs.iter().all(|run| !run.valid));
}

#[test]
fn refusals_write_nothing() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = folder.path().join("disk");
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let (_, stderr) = expect(&program(folder.path(), arguments), code);
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(!folder.path().join("out").exists());
    };
    refused(
        &["--create", "67108864", "--suite", "cliffs"],
        64,
        "cliff, chain, creation, first-touch, delete",
    );
    refused(&["--create", "67108864", "--backend", "raw"], 64, "raw always runs");
    refused(&["--create", "67108864", "--batch", "64"], 64, "--batch");
    refused(&["--create", "67108864", "--unit", "5000"], 64, "powers of two");
    refused(&["--create", "67108864", "--peer", "nobody"], 64, "nobody: No such file");
    fs::write(folder.path().join("raw"), "").unwrap();
    refused(&["--create", "67108864", "--peer", "raw"], 64, "of no arm of this build");
    fs::write(folder.path().join("other"), "").unwrap();
    refused(&["--create", "67108864", "--peer", "other", "--suite", "cliff"], 64, "first-touch alone");
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
