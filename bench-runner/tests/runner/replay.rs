//! Traces as a load, through the program: rows of every arm, what is refused, a trace that is damaged on the way.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bench_runner::bench::Bench;
use bench_runner::cli;
use bench_runner::plan::Request;
use bench_runner::results::{MetricRow, RunData};
use bench_runner::session;
use clap::Parser;
use serde_json::Value;

use crate::support;

const DEVICE_BYTES: u64 = 96 << 20;
const SPAN_BYTES: u64 = 8 << 20;
/// What a replay may take beside for a long trace: what is read ahead of what is played, and the window that it is sorted in, both of
/// which are full then. To keep the requests of two million would take six times as much.
const GROWTH_KIB: u64 = 8 * 1024;

/// Runs the program; gives its exit code, stdout and stderr.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-runner")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../workloads/tests/fixtures").join(name)
}

/// Two thousand requests in two seconds, made here: a third reads, writes of sectors around eight hot places, some of them over
/// what others write, and volume 2 elsewhere.
fn made(folder: &Path) -> PathBuf {
    let mut text = String::new();
    let mut state = 88_172_645_463_325_252_u64;
    for number in 0..2_000_u64 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let kind = if state.is_multiple_of(3) { 'R' } else { 'W' };
        let offset = (state >> 8) % 8 * 65_536 + (state >> 16) % 64 * 512;
        let len = (1 + (state >> 24) % 40) * 512;
        let volume = 1 + u64::from(number % 10 == 9);
        text.push_str(&format!("{volume},{kind},{offset},{len},{}\n", number * 1_000));
    }
    let path = folder.join("made.csv");
    fs::write(&path, text).unwrap();
    path
}

/// The rows of blocks with that metric and stat.
fn values(data: &RunData, metric: &str, stat: &str) -> Vec<(String, String, f64)> {
    let wanted =
        |row: &&MetricRow| row.run.is_some() && row.metric == metric && row.stat == stat && row.op == "all";
    let value = |row: &MetricRow| (row.arm.clone(), row.phase.clone(), row.value.unwrap());
    data.metrics.iter().filter(wanted).map(value).collect()
}

#[test]
fn every_arm_plays_a_trace_and_says_what_became_of_it() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (trace, out) = (made(folder.path()), folder.path().join("out"));
    let (code, stdout, stderr) = run(&[
        "replay",
        trace.to_str().unwrap(),
        "--volume",
        "1",
        "--speed",
        "10,max",
        "--device",
        folder.path().join("disk").to_str().unwrap(),
        "--create",
        &DEVICE_BYTES.to_string(),
        "--backend",
        "direct,log,cow,overlay,ring",
        "--repeats",
        "1",
        "--seed",
        "4",
        "--out",
        out.to_str().unwrap(),
        "--json",
    ]);
    // How busy the machine is decides whether a load on a schedule counts.
    assert!([Some(0), Some(2)].contains(&code), "{stdout}\n{stderr}");
    let data = RunData::read(&out).unwrap();
    assert!(data.manifest.complete);
    assert_eq!(data.runs.len(), 2 * 5);
    assert_eq!(data.manifest.dropped.len(), 2, "the ring plays none: {:?}", data.manifest.dropped);
    for run in &data.runs {
        assert_eq!((run.workload.as_str(), run.bs_bytes), ("made.csv", 20_480));
        assert_eq!(run.operations, Some(1_800), "{run:?}");
        assert_eq!(run.verified_blocks, Some(run.span_bytes / 4096), "{run:?}");
        assert!(run.valid || run.invalid_reason.contains("began operations late"), "{run:?}");
        assert!(["replay-10x", "replay-max"].contains(&run.phase.as_str()));
        // What is 1.999 s long takes a tenth of that at least; without its schedule it takes what it takes.
        assert!(run.phase == "replay-max" || run.measured_ns >= Some(199_800_000), "{run:?}");
    }
    for (arm, phase, begun) in values(&data, "trace_requests", "begun") {
        assert_eq!(begun, 1_800.0, "{arm} {phase}");
    }
    assert_eq!(values(&data, "trace_requests", "is_whole").len(), 10);
    assert_eq!(values(&data, "lateness", "max").len(), 5, "of those on a schedule");
    let achieved = values(&data, "achieved_of_offered", "mean");
    assert_eq!(achieved.len(), 5);
    let facts = data.manifest.trace.as_ref().unwrap();
    assert_eq!((facts.requests, facts.goes_on, facts.addresses.as_str()), (1_800, false, "as they are"));
    assert_eq!((facts.alignment_bytes, facts.piece_bytes_max, &facts.volumes[..]), (512, 20_480, &[1][..]));
    assert_eq!(facts.files[0].size_bytes, fs::metadata(&trace).unwrap().len());
    let object: Value = serde_json::from_str(&stdout).unwrap();
    let told =
        object["figures"].as_array().unwrap().len() + object["open"]["loads"].as_array().unwrap().len();
    assert!(told >= 5, "{object}");
    let replays = object["replays"].as_array().unwrap();
    assert_eq!(replays.len(), 10, "{object}");
    for replay in replays {
        assert_eq!((&replay["begun"], &replay["passed_over"]), (&1_800.into(), &0.into()), "{replay}");
        let line =
            format!("{} depth 32 {}: 1800 requests begun", replay["phase"], replay["arm"]).replace('"', "");
        assert!(stderr.contains(&line), "{line}: {stderr}");
        let report = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(report.contains("made.csv: 1800 requests in 1.998 s") && report.contains(&line), "{line}");
    }
}

#[test]
fn what_cannot_be_played_is_refused_before_anything_is_written() {
    let folder = folder();
    let disk = folder.path().join("disk");
    let flushes = folder.path().join("flushes.log");
    fs::write(&flushes, "fio version 3 iolog\n1 a add\n2 a open\n3 a sync 0 0\n4 a close\n").unwrap();
    let device = ["--device", disk.to_str().unwrap(), "--create", "100663296"];
    let refused = |trace: &Path, options: &[&str], exit_code: i32, part: &str| {
        let arguments = [&["run", "--trace", trace.to_str().unwrap()], &device[..], options].concat();
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, Some(exit_code), "{stdout}{stderr}");
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        assert!(!disk.exists());
    };
    let alibaba = fixture("alibaba.csv");
    refused(&alibaba, &[], 64, "its addresses end at byte 13909287424");
    refused(&alibaba, &["--workload", "oltp"], 64, "takes the place of --workload");
    refused(&alibaba, &["--speed", "0"], 64, "a speed is a number");
    refused(&alibaba, &["--volume", "9"], 64, "no request is for a volume asked for");
    refused(&flushes, &[], 64, "nothing but flushes");
    refused(folder.path(), &[], 64, "is no file");
    refused(&fixture("damaged-field.csv"), &["--addresses", "fold"], 1, "damaged-field.csv: line 2: length");
    refused(Path::new("/nonexistent/trace"), &[], 4, "/nonexistent/trace");
    let (code, _, stderr) = run(&[&["run", "--speed", "2"], &device[..]].concat());
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("are for a --trace"), "{stderr}");
    let (code, stdout, stderr) = run(&[
        &["plan", "--json", "--addresses", "scale", "--trace", alibaba.to_str().unwrap()],
        &device[..],
    ]
    .concat());
    assert_eq!(code, Some(0), "{stderr}");
    let plan: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&plan["trace"]["addresses"], &plan["trace"]["requests"]), (&"scale".into(), &3.into()));
}

/// The trace is damaged once the first arm has played it: the file, the line, the reason; what was measured is kept.
#[test]
fn damage_on_the_way_ends_the_run_and_keeps_what_was_measured() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (trace, disk, out) = (made(folder.path()), folder.path().join("disk"), folder.path().join("out"));
    let text = fs::read_to_string(&trace).unwrap();
    let cli = cli::Cli::try_parse_from([
        "bench-runner",
        "run",
        "--device",
        disk.to_str().unwrap(),
        "--trace",
        trace.to_str().unwrap(),
        "--span",
        &SPAN_BYTES.to_string(),
        "--speed",
        "max",
        "--repeats",
        "3",
    ]);
    let cli::Command::Run(options) = cli.unwrap().command else { unreachable!("that is its name") };
    let request = Request::parse(&options).unwrap();
    let bench = Bench::create(&disk, DEVICE_BYTES, request.queue_depth_max()).unwrap();
    let plan = request.on(&disk, DEVICE_BYTES, 512).unwrap();
    let session = session::run(&bench, &plan, &out, Vec::new(), &mut |_, _| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[1_234] = "1,W,4096,twelve,1234000";
        fs::write(&trace, lines.join("\n")).unwrap();
    })
    .unwrap();
    assert_eq!(session.exit_code(), 1);
    let stopped = session.stopped.as_ref().unwrap();
    assert!(stopped.message.contains("made.csv: line 1235: length"), "{stopped}");
    let runs = &session.data.runs;
    assert_eq!(runs.iter().map(|run| run.valid).collect::<Vec<_>>(), [true, false]);
    assert_eq!(runs.iter().map(|run| run.operations).collect::<Vec<_>>(), [Some(2_000), Some(1_234)]);
    assert!(
        runs[1].invalid_reason.contains("line 1235") && runs[1].verified_blocks.is_some(),
        "{:?}",
        runs[1]
    );
    assert!(!session.data.manifest.complete && session.report.exists());
}

/// The most memory that a replay of so many requests had, in KiB. They are reads of blocks of a small file, four due in a microsecond: far
/// more than are done, so that most of them go by as fast as they are read, and are given up.
fn peak_kib(records: u64) -> u64 {
    let folder = folder();
    let (trace, out) = (folder.path().join("trace.csv"), folder.path().join("out"));
    let mut text = std::io::BufWriter::new(fs::File::create(&trace).unwrap());
    let mut state = 88_172_645_463_325_252_u64;
    for number in 0..records {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        writeln!(text, "1,R,{},4096,{}", (state >> 20) % (SPAN_BYTES / 4096) * 4096, number / 4).unwrap();
    }
    text.flush().unwrap();
    let seconds = 1 + records / 4_000_000;
    let plan = format!(
        "run --create {DEVICE_BYTES} --backend ring --seconds {seconds} --repeats 1 --seed 4 --queue-depth 4"
    );
    let disk = folder.path().join("disk");
    let paths =
        ["--trace", support::text(&trace), "--device", support::text(&disk), "--out", support::text(&out)];
    let mut child = support::program(&[&support::words(&plan)[..], &paths].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        // Of one that has ended nothing is told any more; what was told is the most until then.
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let told = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak_kib = told.map_or(peak_kib, |told| told.trim().trim_end_matches(" kB").parse().unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
    // On a busy machine it does not count.
    assert!([Some(0), Some(2)].contains(&child.wait().unwrap().code()));
    let data = RunData::read(&out).unwrap();
    assert_eq!(data.manifest.trace.as_ref().unwrap().requests, records);
    let of = |metric: &str, stat: &str| values(&data, metric, stat)[0].2;
    let (begun, given_up) = (of("trace_requests", "begun"), of("overflow", "total"));
    println!("{records} requests, {begun} begun and {given_up} given up: {peak_kib} KiB");
    peak_kib
}

/// With `ICECORE_REPLAY_RECORDS` for longer traces.
#[test]
fn memory_does_not_grow_with_the_trace() {
    if support::lacks_io_uring() {
        return;
    }
    let records =
        std::env::var("ICECORE_REPLAY_RECORDS").map_or(2_000_000, |records| records.parse().unwrap());
    // Both far more than can be done, so that every buffer is in use.
    let (short_kib, long_kib) = (peak_kib(400_000), peak_kib(records));
    assert!(long_kib <= short_kib + GROWTH_KIB, "{short_kib} and {long_kib} KiB");
}

/// A few seconds of a real trace, where there is one.
#[test]
fn a_real_trace_is_played() {
    let Some(traces) = std::env::var_os("ICECORE_TRACES") else {
        println!("skipped: ICECORE_TRACES does not say where real traces are");
        return;
    };
    let trace = Path::new(&traces).join("cloudphysics.vscsi");
    if support::lacks_io_uring() || !trace.exists() {
        println!("skipped: no {}", trace.display());
        return;
    }
    let folder = folder();
    let out = folder.path().join("out");
    let (code, stdout, stderr) = run(&[
        "replay",
        trace.to_str().unwrap(),
        "--device",
        folder.path().join("disk").to_str().unwrap(),
        "--create",
        &DEVICE_BYTES.to_string(),
        "--backend",
        "log",
        "--addresses",
        "fold",
        "--span",
        "16777216",
        "--speed",
        "100,max",
        "--seconds",
        "1",
        "--repeats",
        "1",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!([Some(0), Some(2)].contains(&code), "{stdout}\n{stderr}");
    let data = RunData::read(&out).unwrap();
    assert_eq!(data.runs.len(), 4);
    for run in &data.runs {
        assert!(run.verified_blocks.is_some() && run.operations > Some(100), "{run:?}");
        assert!(run.valid || run.invalid_reason.contains("began operations late"), "{run:?}");
    }
    assert_eq!(data.manifest.trace.unwrap().requests, 113_872, "for its order alone all of it is looked at");
}
