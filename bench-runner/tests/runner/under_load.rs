//! Suites of snapshots with a foreground: each leaves its parts, what is offered follows from what was seen to be possible, and what
//! is shown by a volume and its snapshots is what must be, whatever was done to them beside it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bench_runner::cli::{Cli, Command};
use bench_runner::results::{MetricRow, RunData, RunRow};
use bench_runner::session::Session;
use bench_runner::snapshots;
use clap::Parser;

use crate::support::{self, expect, folder, run, text, words};

const SPAN_BYTES: u64 = 16 << 20;
const BLOCKS: u64 = SPAN_BYTES / 4096;

fn measure(folder: &Path, more: &str, damage: &mut dyn FnMut(&Path, u64)) -> Session {
    let line = format!(
        "bench-runner snapshots --device {} --create 134217728 --span {SPAN_BYTES} --seconds 0.1 --warmup 0.05 --repeats 1 --seed 7 {more}",
        text(&folder.join("disk"))
    );
    let Command::Snapshots(options) = Cli::parse_from(words(&line)).command else {
        unreachable!("it was asked for")
    };
    snapshots::run(&options, &folder.join("out"), damage).unwrap()
}

#[track_caller]
fn part<'a>(data: &'a RunData, suite: &str, phase: &str, arm: &str) -> &'a RunRow {
    let is_it =
        |run: &&RunRow| (run.workload.as_str(), run.phase.as_str(), run.arm.as_str()) == (suite, phase, arm);
    let mut found = data.runs.iter().filter(is_it);
    let one = found.next().unwrap_or_else(|| panic!("no {suite} {phase} of {arm}"));
    assert!(found.next().is_none(), "{suite} {phase} of {arm} is there twice");
    one
}

fn value(data: &RunData, run: &RunRow, metric: &str, stat: &str) -> Option<f64> {
    let is_it = |row: &&MetricRow| {
        row.run == Some(run.run) && row.op == "all" && row.metric == metric && row.stat == stat
    };
    data.metrics.iter().find(is_it)?.value
}

/// Everything counts, but for what the machine was too busy for.
#[track_caller]
fn expect_counts(session: &Session) {
    for run in session.data.runs.iter().filter(|run| !run.valid) {
        assert!(run.invalid_reason.contains("the runner began operations late"), "{run:?}");
        assert!(
            run.phase.contains("without") || run.phase.contains("alone") || run.phase.contains("before"),
            "{run:?}"
        );
    }
    assert!(session.data.manifest.complete && session.stopped.is_none());
}

/// Of a foreground: what was offered is that share of what this arm could do, requests are the workload's.
#[track_caller]
fn expect_foreground(data: &RunData, run: &RunRow, percent: f64) {
    let capacity = part(data, &run.workload, "oltp-capacity", &run.arm);
    assert_eq!((run.bs_bytes, capacity.bs_bytes), (8_192, 8_192));
    let offered = |row: &&MetricRow| row.run == Some(run.run) && row.metric == "achieved_of_offered";
    let offered = data.metrics.iter().find(offered).unwrap().offered_iops.unwrap() as f64;
    let possible = value(data, capacity, "iops", "mean").unwrap();
    assert!((offered / possible - percent / 100.0).abs() < 0.01, "{offered} of {possible}: {run:?}");
    // Reads and writes, two for one within five deviations.
    let of = |op: &str| {
        let is_it = |row: &&MetricRow| row.run == Some(run.run) && row.op == op && row.metric == "iops";
        data.metrics.iter().find(is_it).map_or(0.0, |row| row.n as f64)
    };
    let (reads, writes) = (of("read"), of("write"));
    let all = reads + writes;
    assert!((reads - all * 0.67).abs() <= 5.0 * (all * 0.67 * 0.33).sqrt() + 32.0, "{reads} {writes}");
    let windows = data.windows.iter().filter(|window| window.run == run.run);
    assert_eq!(Some(windows.map(|window| window.operations).sum()), run.operations);
}

#[test]
fn a_backup_and_the_ages_of_a_volume() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let session = measure(folder.path(), "--suite backup,aging --backend log,cow", &mut |_, _| {});
    expect_counts(&session);
    let data = &session.data;
    for arm in ["raw", "log", "cow"] {
        for phase in ["backup-alone", "backup-beside-oltp-50%"] {
            let run = part(data, "backup", phase, arm);
            assert!(run.valid && run.bs_bytes == 1 << 20 && run.operations > Some(0), "{run:?}");
            // Each snapshot of three, and the volume at the end.
            let compared = if arm == "raw" { BLOCKS } else { 4 * BLOCKS };
            assert_eq!(run.verified_blocks, Some(compared), "{run:?}");
        }
        for phase in ["foreground-alone-oltp-50%", "foreground-beside-oltp-50%"] {
            expect_foreground(data, part(data, "backup", phase, arm), 50.0);
        }
        let beside = part(data, "backup", "foreground-beside-oltp-50%", arm);
        let alone = part(data, "backup", "foreground-alone-oltp-50%", arm);
        assert_eq!(value(data, beside, "foreground_ratio", "median").is_some(), alone.valid);
        for phase in ["fresh", "aged"] {
            let run = part(data, "aging", phase, arm);
            // Once, where there was time.
            assert!(run.valid && run.operations <= Some(16) && run.operations > Some(0), "{run:?}");
            let compared = if arm == "raw" { 1 } else { 6 };
            assert_eq!(
                run.verified_blocks,
                Some(compared * BLOCKS),
                "the volume and five snapshots: {run:?}"
            );
        }
        let reads =
            |phase: &str| value(data, part(data, "aging", phase, arm), "device_reads", "total").unwrap();
        match arm {
            // In place both.
            "raw" => assert_eq!((reads("fresh"), reads("aged")), (1.0, 1.0)),
            // What was written a block at a time is read so.
            "log" => assert!(reads("aged") > 2.0 * reads("fresh"), "{} {}", reads("fresh"), reads("aged")),
            _ => {}
        }
        assert!(value(data, part(data, "aging", "aged", arm), "aged_of_fresh", "median") > Some(0.0));
    }
    let page = fs::read_to_string(&session.report).unwrap();
    for suite in ["backup", "aging"] {
        assert!(page.contains(&format!("<h2>Snapshots: {suite}</h2>")), "{suite}");
    }
    assert!(page.contains("log: backup begun") && page.contains("Course of backup over time"));
    assert!(!page.contains("NaN") && !page.contains("inf,"));
}

#[test]
fn suites_under_load_leave_their_parts() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let line = "--suite delete,rollback,overwrite-fraction,merge --load 50,80 --backend log,overlay";
    let session = measure(folder.path(), line, &mut |_, _| {});
    expect_counts(&session);
    let data = &session.data;
    let dropped: Vec<&str> = data.manifest.dropped.iter().map(|one| one.what.as_str()).collect();
    assert!(dropped.contains(&"merge on log"), "{dropped:?}");
    for percent in [50.0, 80.0] {
        let foreground = |suite: &str, part_name: &str, arm: &str| {
            let run = part(data, suite, &format!("{part_name}-oltp-{percent}%"), arm);
            expect_foreground(data, run, percent);
            run
        };
        let figure = |run: &RunRow, metric: &str| {
            value(data, run, metric, if metric == "space_per_changed_byte" { "live" } else { "mean" })
        };
        for arm in ["raw", "log", "overlay"] {
            for which in ["oldest", "middle", "newest"] {
                foreground("delete", &format!("{which}-without"), arm);
                let run = foreground("delete", &format!("{which}-with"), arm);
                assert_eq!(figure(run, "snapshot_deletion") > Some(0.0), arm != "raw", "{run:?}");
                assert!(figure(run, "space_back").is_some() || arm != "log", "{run:?}");
            }
            foreground("rollback", "before", arm);
            let run = foreground("rollback", "going-back", arm);
            assert_eq!(figure(run, "rollback") > Some(0.0), arm != "raw", "{run:?}");
            // Before and after what was in doubt was written again.
            assert!(run.verified_blocks >= Some(2 * BLOCKS), "{run:?}");
            foreground("overwrite-fraction", "without", arm);
            for fraction in [1, 5, 25] {
                let phase = format!("overwrite-{fraction}-oltp-{percent}%");
                if dropped.contains(&format!("{phase} on {arm}").as_str()) {
                    // A machine that was too slow for it.
                    break;
                }
                let run = foreground("overwrite-fraction", &format!("overwrite-{fraction}"), arm);
                if arm == "log" {
                    // Each changed block is one more that lives, but for those in flight.
                    let space = figure(run, "space_per_changed_byte").unwrap();
                    let changed = (BLOCKS * fraction).div_ceil(100) as f64;
                    assert!((space - 1.0).abs() <= 2.0 * 32.0 / changed, "{fraction} %: {space}");
                }
            }
            if arm == "log" {
                continue;
            }
            foreground("merge", "without", arm);
            let run = foreground("merge", "with", arm);
            assert_eq!(figure(run, "fold") > Some(0.0), arm == "overlay", "{run:?}");
            if arm == "overlay" {
                // Every block of the overlay was brought to its place.
                let each = value(data, run, "device_write_bytes", "apply").unwrap();
                let brought = each * run.operations.unwrap() as f64;
                assert!(brought >= 0.99 * SPAN_BYTES as f64, "{brought}");
            }
        }
    }
    let events = |event: &str| data.events.iter().filter(|one| one.event == event).count();
    assert_eq!((events("rolled_back"), events("folded"), events("delete_asked")), (4, 2, 2 * 2 * 3));
    let page = fs::read_to_string(&session.report).unwrap();
    assert!(page.contains("Under load the foreground is the workload oltp") && !page.contains("NaN"));
}

/// A pool that is filled up again by its foreground refuses it, keeps what it has taken, and takes writes once a snapshot has gone.
#[test]
fn a_foreground_fills_a_pool_up() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let line = "--suite full --load 50,80 --backend log,overlay";
    let session = measure(folder.path(), line, &mut |_, _| {});
    expect_counts(&session);
    let data = &session.data;
    for percent in [50.0, 80.0] {
        let of = |phase: &str, arm: &str| part(data, "full", &format!("{phase}-oltp-{percent}%"), arm);
        expect_foreground(data, of("before", "raw"), percent);
        for arm in ["log", "overlay"] {
            expect_foreground(data, of("before", arm), percent);
            let filling = of("filling", arm);
            expect_foreground(data, filling, percent);
            let again = of("again", arm);
            assert!(value(data, again, "works_again", "mean") > Some(0.0), "{again:?}");
            // Refused, or named as what there was no time for.
            let what = format!("filling-oltp-{percent}% on {arm}");
            let is_named = data.manifest.dropped.iter().any(|one| one.what == what);
            let acknowledged = value(data, filling, "acknowledged_bytes", "total");
            assert_eq!(acknowledged.is_none(), is_named, "{filling:?}");
            // The full volume, twice, and all of what there is at the end.
            assert!(filling.verified_blocks >= Some(3 * BLOCKS), "{filling:?}");
        }
    }
}

/// At rest, an overlay of each size is brought in; the bare device has nothing to do there.
#[test]
fn overlays_are_brought_into_the_base() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let session = measure(folder.path(), "--suite merge --backend overlay", &mut |_, _| {});
    assert_eq!((session.exit_code(), session.data.runs.len()), (0, 3), "{:?}", session.invalid);
    for blocks in [BLOCKS / 64, BLOCKS / 8, BLOCKS] {
        let run = part(&session.data, "merge", &format!("of-{blocks}-blocks"), "overlay");
        assert!(run.valid && value(&session.data, run, "fold", "mean") > Some(0.0), "{run:?}");
        let brought = value(&session.data, run, "device_write_bytes", "apply").unwrap();
        assert_eq!(brought, blocks as f64 * 4096.0, "{run:?}");
    }
}

#[test]
fn wrong_bytes_below_a_snapshot_that_is_backed_up_void_the_arm() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let mut flip = |path: &Path, span_offset_bytes: u64| {
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        for block in 64..2_048 {
            let at = span_offset_bytes + block * 4096 + 1_000;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
        file.sync_all().unwrap();
    };
    let session = measure(folder.path(), "--suite backup --backend log", &mut flip);
    assert_eq!((session.exit_code(), session.invalid.len()), (2, 2), "{:?}", session.invalid);
    // A log sees by itself that a block is not what was written.
    let is_seen = |reason: &String| {
        reason.contains("wrong content in block 64") || reason.contains("is not what was written there")
    };
    assert!(session.invalid.iter().all(is_seen), "{:?}", session.invalid);
    assert!(session.data.runs.len() >= 6 && session.data.runs.iter().all(|run| !run.valid));
}

#[test]
fn loads_are_for_suites_that_have_a_foreground() {
    let line = "snapshots --device nothing --suite cliff,delete --load 50";
    let (_, stderr) = expect(&run(&words(line)), 64);
    assert!(
        stderr.contains(
            "cliff has no --load; these have: delete, rollback, full, overwrite-fraction, merge, backup"
        ),
        "{stderr}"
    );
    expect(&run(&words("snapshots --device nothing --load 0")), 64);
}
