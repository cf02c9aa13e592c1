//! Runs that are cut short: killed, with no room for their results, or with their device gone. What was measured by then is kept, and
//! `--resume` ends with the rows of a run that was left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bench_runner::arms::Arm;
use bench_runner::bench::Bench;
use bench_runner::method::Method;
use bench_runner::results::{MetricRow, RunData, RunRow};
use bench_runner::session;
use bench_runner::suite::{Cell, Load, SuitePlan};
use icecore_workloads::Workload;
use serde_json::Value;

use crate::nbd_server::{Offer, Server, memory};
use crate::support::{self, expect, folder_with_disk, program, run_in, words};

pub const FILE_BYTES: u64 = 64 << 20;
pub const DESTROY: [&str; 2] = ["--destroy", "disk:67108864"];

/// What a row is of, and that it came in the same place from the same seed.
pub type Key = (u32, String, String, u32, String, Option<u32>, u64, u32);

fn key(row: &RunRow) -> Key {
    let (arm, workload, phase) = (row.arm.clone(), row.workload.clone(), row.phase.clone());
    (row.block, arm, workload, row.queue_depth, phase, row.chain_depth, row.seed, row.arm_order)
}

/// The rows of a folder that ended; every one is there once, with its values, seconds and histograms.
#[track_caller]
pub fn rows(folder: &Path) -> BTreeSet<Key> {
    let data = RunData::read(folder).unwrap();
    assert!(data.manifest.complete && !data.manifest.interrupted && data.manifest.ended_utc.is_some());
    let keys: BTreeSet<Key> = data.runs.iter().map(key).collect();
    assert_eq!(keys.len(), data.runs.len(), "a row is there twice");
    let numbers: BTreeSet<u64> = data.runs.iter().map(|row| row.run).collect();
    assert_eq!(numbers.len(), data.runs.len(), "a number is there twice");
    let mut values: BTreeMap<_, u32> = BTreeMap::new();
    for row in &data.metrics {
        let place = (row.run, row.arm.clone(), row.workload.clone(), row.op.clone(), row.queue_depth);
        let what = (row.phase.clone(), row.chain_depth, row.metric.clone(), row.stat.clone());
        *values.entry((place, what)).or_default() += 1;
    }
    assert!(values.values().all(|times| *times == 1), "a value is there twice");
    let seconds: BTreeSet<(u64, u32)> = data.seconds.iter().map(|row| (row.run, row.second)).collect();
    assert_eq!(seconds.len(), data.seconds.len(), "a second is there twice");
    let windows: BTreeSet<(u64, u64)> =
        data.windows.iter().map(|row| (row.run, row.since_start_ns)).collect();
    assert_eq!(windows.len(), data.windows.len(), "a window is there twice");
    // Nothing of arms that are not listed, which readers would leave out.
    let table = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(table("metrics.csv").lines().count(), 1 + data.metrics.len());
    assert_eq!(table("timeseries.csv").lines().count(), 1 + data.seconds.len());
    if !data.bands.is_empty() {
        assert_eq!(table("latencies.csv").lines().count(), 1 + data.bands.len());
    }
    let bands: BTreeSet<_> = data.bands.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
    assert_eq!(bands.len(), data.bands.len(), "a band is there twice");
    let files = fs::read_dir(folder.join("hist")).unwrap().count();
    assert_eq!(files, data.runs.iter().filter(|row| !row.hist_file.is_empty()).count());
    keys
}

/// The time axis goes on over all processes: what was measured later began later.
#[track_caller]
fn expect_in_order(folder: &Path) {
    let begun: Vec<u64> = RunData::read(folder).unwrap().runs.iter().map(|row| row.started_ns).collect();
    assert!(begun.is_sorted(), "{begun:?}");
}

/// What is pooled over the blocks.
fn pooled(folder: &Path) -> BTreeSet<(String, String, String, String, String)> {
    let of = |row: &MetricRow| {
        let text = |text: &String| text.clone();
        (text(&row.arm), text(&row.workload), text(&row.phase), text(&row.metric), text(&row.stat))
    };
    RunData::read(folder).unwrap().metrics.iter().filter(|row| row.run.is_none()).map(of).collect()
}

/// Rows of a table that have their end.
fn lines(table: &Path) -> usize {
    fs::read_to_string(table).map_or(0, |text| text.lines().count().saturating_sub(1))
}

/// The folder whose run is cut short.
pub fn out(here: &Path) -> PathBuf {
    here.join("out")
}

/// A command on the file `disk`, with its results in this folder.
pub fn begun<'a>(command: &[&'a str], out: &'a str) -> Vec<&'a str> {
    [command, &["--device", "disk", "--out", out], &DESTROY].concat()
}

/// How the run in `out` is gone on with.
pub fn resumed(command: &str) -> Vec<&str> {
    [&[command, "--resume", "out"][..], &DESTROY].concat()
}

/// Starts the program in a folder, and keeps what it says.
pub fn start(folder: &Path, arguments: &[&str]) -> Child {
    // So little that no pipe is ever full of it.
    program(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until a table has so many rows; false if the program has ended before.
pub fn wait_for_rows(child: &mut Child, table: &Path, rows: usize) -> bool {
    let begun = Instant::now();
    while lines(table) < rows && begun.elapsed() < Duration::from_secs(120) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Kills the program a moment later; false if it has ended by itself.
pub fn kill(mut child: Child, moment: Duration) -> bool {
    std::thread::sleep(moment);
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// Kills the program once so many runs of `out` are listed, and a moment later; false if it has ended by itself.
pub fn kill_after(mut child: Child, here: &Path, runs: usize, moment: Duration) -> bool {
    let is_killed = wait_for_rows(&mut child, &out(here).join("runs.csv"), runs) && kill(child, moment);
    // What the kernel still does for it holds the device for a moment.
    fs::File::open(here.join("disk")).unwrap().lock().unwrap();
    is_killed
}

/// A campaign of `ICECORE_RESUME_KILLS` kills at moments all over the run, if that is set; otherwise three.
#[test]
fn a_killed_run_ends_with_the_rows_of_one_that_was_left_alone() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    let plan = words(
        "run --backend direct --workload durable-4k --queue-depth 1 --seconds 1 --warmup 0 --repeats 2 --span 16777216 --seed 7",
    );
    expect(&run_in(here, &begun(&plan, "alone")), 0);
    let kills: usize = std::env::var("ICECORE_RESUME_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let (out, resume) = (out(here), resumed("run"));
    let mut child = start(here, &begun(&plan, "out"));
    for kill in 0..kills {
        // Before the first arm has ended, within a later one, and soon after a row has been written.
        let moment = [700, 500, 1][kill % 3] + 37 * (kill as u64 / 3 % 20);
        if !kill_after(child, here, kill % 3, Duration::from_millis(moment)) {
            // It was too quick for that: from the beginning again.
            assert_eq!(rows(&out), rows(&here.join("alone")), "kill {kill}");
            fs::remove_dir_all(&out).unwrap();
            child = start(here, &begun(&plan, "out"));
            continue;
        }
        if !out.join("manifest.json").exists() {
            // Not even begun: there is nothing to go on with.
            expect(&run_in(here, &resume), 4);
            let _ = fs::remove_dir_all(&out);
            child = start(here, &begun(&plan, "out"));
            continue;
        }
        // What is there can be looked at in between.
        let before = lines(&out.join("runs.csv"));
        expect(&run_in(here, &["report", "out"]), 0);
        assert!(!RunData::read(&out).unwrap().manifest.complete);
        child = start(here, &resume);
        assert_eq!(before, lines(&out.join("runs.csv")).min(before), "nothing that was there is lost");
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(rows(&out), rows(&here.join("alone")));
    assert_eq!(pooled(&out), pooled(&here.join("alone")));
    expect_in_order(&out);
    let events = RunData::read(&out).unwrap().events;
    assert!(events.iter().any(|row| row.event == "resumed" && row.detail.ends_with("runs were there")));
    // What is complete stays as it is.
    let (_, stderr) = expect(&run_in(here, &resume), 3);
    assert!(stderr.contains("out is complete: nothing is left to be measured"), "{stderr}");
}

/// Closed and open loads; the folder cut at every place where a killed process could have left
/// it.
#[test]
fn a_folder_cut_anywhere_is_gone_on_with() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = support::folder();
    let here = folder.path();
    let bench = Bench::create(&here.join("disk"), FILE_BYTES, 4).unwrap();
    let arms: Vec<Arm> = ["raw", "direct"].map(|arm| Arm::from_name(arm).unwrap()).into();
    let workload = Workload::from_name("randread-4k").unwrap();
    let cell = |load: Load| Cell { workload: workload.clone(), queue_depth: 2, load };
    let plan = SuitePlan {
        cells: vec![cell(Load::Closed), cell(Load::PercentOfClosed(30.0)), cell(Load::PerSecond(500.0))],
        repeats: 2,
        warmup_ns: 0,
        measure_ns: 10_000_000,
        seed: 11,
        span_offset_bytes: bench.data_span(&arms).unwrap().offset_bytes,
        span_bytes: 1 << 20,
        references: false,
        slo_ns: None,
        trace: None,
        method: Method::default(),
        arms,
    };
    let alone = here.join("alone");
    session::run(&bench, &plan, &alone, Vec::new(), &mut |_, _| {}).unwrap();
    let expected = rows(&alone);
    assert_eq!(expected.len(), 2 * 3 * 2);
    let text = fs::read_to_string(alone.join("runs.csv")).unwrap();
    let out = out(here);
    // Nothing, whole rows, half a row, a row without its end, all; the other tables are always ahead of this one.
    let line = |number: usize| text.lines().take(number).map(|line| line.len() + 1).sum::<usize>();
    for cut in [line(1), line(2) + 30, line(8) - 1, text.len()] {
        let _ = fs::remove_dir_all(&out);
        copy(&alone, &out);
        fs::write(out.join("runs.csv"), &text.as_bytes()[..cut]).unwrap();
        // Rows that pool blocks are written last; of the last one a part.
        let metrics = fs::read(out.join("metrics.csv")).unwrap();
        fs::write(out.join("metrics.csv"), &metrics[..metrics.len() - 25]).unwrap();
        unfinished(&out);
        let there = RunData::read(&out).unwrap().runs;
        assert_eq!(there.len(), text[..cut].matches('\n').count() - 1, "cut at {cut}");
        let session = session::resume(&bench, &plan, &out, &mut |_, _| {}).unwrap();
        assert_eq!(rows(&out), expected, "cut at {cut}");
        expect_in_order(&out);
        assert_eq!(session.data.runs[..there.len()], there, "cut at {cut}: what was there stays as it is");
        // A share of the closed load is one of what was measured before.
        for open in session.data.runs.iter().filter(|row| row.phase == "open-30%") {
            let same = |row: &&RunRow| {
                (row.block, &row.arm, row.phase.as_str()) == (open.block, &open.arm, "measure")
            };
            let closed = session.data.runs.iter().find(same).unwrap();
            let rate = closed.operations.unwrap() as f64 * 1e9 / closed.measured_ns.unwrap() as f64;
            let offered =
                session.data.metrics.iter().find(|row| row.run == Some(open.run)).unwrap().offered_iops;
            assert!((offered.unwrap() as f64 - 0.3 * rate).abs() <= 1.0, "{offered:?} {rate}");
        }
    }
    // The control: a table whose rows the plan does not lead to.
    unfinished(&out);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (place, other) =
        if lines[3].starts_with("3,1,1,") { ("3,1,1,", "3,1,2,") } else { ("3,1,2,", "3,1,1,") };
    lines[3] = lines[3].replacen(place, other, 1);
    assert_ne!(lines[3], text.lines().nth(3).unwrap());
    fs::write(out.join("runs.csv"), lines.join("\n") + "\n").unwrap();
    let failure = session::resume(&bench, &plan, &out, &mut |_, _| {}).unwrap_err();
    assert!(failure.exit_code == 3 && failure.message.contains("the folder has been changed"), "{failure}");
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("hist")).unwrap();
    for folder in ["", "hist"] {
        for entry in fs::read_dir(from.join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}

/// Says of a folder that its run has not ended.
pub fn unfinished(folder: &Path) {
    edit_manifest(folder, "\"complete\": true", "\"complete\": false");
}

fn edit_manifest(folder: &Path, from: &str, to: &str) {
    let path = folder.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}: {text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn another_device_build_or_plan_is_refused_and_named() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    let own = "name = \"own\"\nquestion = \"Does a file do?\"\n[[part]]\naccess = \"uniform\"\nread_percent = 100\nsizes = { \"4K\" = 1 }\n";
    fs::write(here.join("own.toml"), own).unwrap();
    let plan = words(
        "run --backend ring --workload own.toml --queue-depth 1 --seconds 1 --warmup 0 --repeats 1 --span 1048576 --seed 17",
    );
    expect(&run_in(here, &begun(&plan, "out")), 0);
    let out = out(here);
    unfinished(&out);
    let saved = here.join("saved");
    copy(&out, &saved);
    let refused = |more: &[&str], exit_code: i32, says: &[&str]| {
        let before = fs::read(out.join("metrics.csv")).unwrap();
        let (_, stderr) = expect(&run_in(here, &[&["run", "--resume", "out"], more].concat()), exit_code);
        for part in says {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
        assert!(before == fs::read(out.join("metrics.csv")).unwrap(), "a refusal has changed the folder");
    };
    refused(&[], 3, &["--destroy disk:67108864"]);
    refused(&["--seed", "1"], 64, &["--resume", "--seed"]);
    refused(&["--workload", "randread-4k"], 64, &["--resume"]);
    let again = |from: &str, to: &str| {
        copy(&saved, &out);
        edit_manifest(&out, from, to);
    };
    again("\"format_version\": 1", "\"format_version\": 2");
    refused(&DESTROY, 4, &["format version 2 is not known here"]);
    again("\"rustc\": \"rustc", "\"rustc\": \"older");
    refused(&DESTROY, 3, &["environment.rustc: older", "before, rustc", "now", "another --out"]);
    again("\"serial\": \"disk\"", "\"serial\": \"another\"");
    refused(&DESTROY, 3, &["device.serial: another before, disk now"]);
    again("\"span_bytes\": 1048576", "\"span_bytes\": 2097152");
    refused(&DESTROY, 3, &["plan.span_bytes: 2097152 before, 1048576 now"]);
    copy(&saved, &out);
    fs::write(here.join("own.toml"), own.replace("4K", "8K")).unwrap();
    refused(&DESTROY, 3, &["plan.digest: "]);
    fs::write(here.join("own.toml"), own).unwrap();
    fs::File::options().write(true).open(here.join("disk")).unwrap().set_len(2 * FILE_BYTES).unwrap();
    refused(&["--destroy", "disk:134217728"], 3, &["device.size_bytes: 67108864 before, 134217728 now"]);
    fs::File::options().write(true).open(here.join("disk")).unwrap().set_len(FILE_BYTES).unwrap();
    let (_, stderr) = expect(&run_in(here, &resumed("snapshots")), 3);
    assert!(stderr.contains("was not left by `bench-runner snapshots`"), "{stderr}");
    for command in ["peers", "recovery"] {
        let (_, stderr) = expect(&run_in(here, &resumed(command)), 3);
        assert!(stderr.contains(&format!("was not left by `bench-runner {command}`")), "{stderr}");
    }
    let (_, stderr) = expect(&run_in(here, &["quick", "--resume", "out"]), 3);
    assert!(stderr.contains("was not left by `bench-runner quick`"), "{stderr}");
    let (_, stderr) = expect(&run_in(here, &[&["run", "--resume", "none"][..], &DESTROY].concat()), 4);
    assert!(stderr.contains("none/manifest.json is missing"), "{stderr}");
    let (stdout, _) = expect(&run_in(here, &["plan", "--resume", "out", "--json"]), 0);
    let planned: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&planned["destroy"], &planned["seed"]), (&"disk:67108864".into(), &17.into()));
    // What one side does not know is no difference. With all as it was it goes on, under another name of the device, and there is nothing left but to end.
    let path = out.join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest["environment"]["git_dirty"] = Value::Null;
    fs::write(&path, manifest.to_string()).unwrap();
    fs::create_dir(here.join("moved")).unwrap();
    fs::rename(here.join("disk"), here.join("moved/disk")).unwrap();
    let moved = [&["run", "--resume", "out", "--device", "moved/disk"][..], &DESTROY].concat();
    expect(&run_in(here, &moved), 0);
    assert_eq!(rows(&out).len(), 2);
}

/// Limits the size of every file that the program writes, as a full disk does: its device is no file.
#[allow(unsafe_code)]
fn limited(arguments: &[&str], folder: &Path, bytes: u64) -> std::process::Output {
    let mut command = program(arguments);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    let set = move || {
        // SAFETY: it reads what it is given, and may be called between fork and exec.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it calls nothing but setrlimit.
    unsafe { command.pre_exec(set) };
    command.current_dir(folder).output().unwrap()
}

const OF_EXPORT: &str = "--destroy disk:16777216 --out out \
    --workload randread-4k --queue-depth 1 --seconds 1 --warmup 0 --repeats 3 --span 1048576 --seed 3";

const RESUME_EXPORT: &str = "run --resume out --destroy disk:16777216";

fn export() -> Offer {
    Offer { size_bytes: 16 << 20, ..Offer::default() }
}

#[test]
fn results_that_have_no_room_end_the_run_and_keep_what_is_there() {
    if support::lacks_io_uring() {
        return;
    }
    // Sockets have short names.
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let server = Server::start(here, memory(&export(), |_, _| {}));
    let uri = server.uri();
    let begin = [&["run", "--device", &uri][..], &words(OF_EXPORT)].concat();
    let out = out(here);
    // Room for the first two arms and not for all of them.
    let output = limited(&begin, here, 5_000);
    let (_, stderr) = expect(&output, 4);
    for part in ["cannot write out/metrics.csv", "File too large", "is kept", "--resume out", "report out"] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    let there = RunData::read(&out).unwrap().runs;
    assert!((1..3).contains(&there.len()) && there.iter().all(|row| row.valid), "{there:?}");
    let text = fs::read(out.join("metrics.csv")).unwrap();
    assert!(text.len() == 5_000 && text.last() != Some(&b'\n'), "a row is there in part");
    expect(&run_in(here, &["report", "out"]), 0);
    let (_, stderr) = expect(&run_in(here, &words(RESUME_EXPORT)), 0);
    assert!(stderr.contains("[3/3]") && !stderr.contains("[1/3]"), "{stderr}");
    assert_eq!(RunData::read(&out).unwrap().runs[..there.len()], there);
    assert_eq!(rows(&out).len(), 3);
}

/// A real full disk, which only root can make.
#[test]
#[allow(unsafe_code)]
fn a_full_disk_for_results_is_told() {
    // SAFETY: geteuid always works.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root mounts a small file system");
        return;
    }
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    fs::create_dir(here.join("small")).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
        .arg(here.join("small"))
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: no tmpfs can be mounted");
        return;
    }
    let plan = words(
        "run --backend ring --workload randread-4k --queue-depth 1 --seconds 1 --warmup 0 --repeats 1 --span 1048576",
    );
    let output = run_in(here, &begun(&plan, "small/out"));
    let read = RunData::read(&here.join("small/out"));
    let unmounted = std::process::Command::new("umount").arg(here.join("small")).status().unwrap();
    assert!(unmounted.success());
    let (_, stderr) = expect(&output, 4);
    for part in ["cannot write small/out/", "No space left on device", "is kept", "--resume small/out"] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    assert!(!read.unwrap().manifest.complete);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_anything_is_measured() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    fs::write(here.join("file"), "").unwrap();
    for command in ["snapshots", "run", "recovery"] {
        fs::write(here.join("disk"), vec![0x5a; FILE_BYTES as usize]).unwrap();
        let (_, stderr) = expect(&run_in(here, &begun(&[command], "file/out")), 4);
        assert!(stderr.contains("file/out: Not a directory"), "{stderr}");
    }
    assert!(
        fs::read(here.join("disk")).unwrap().iter().all(|byte| *byte == 0x5a),
        "the device was written to"
    );
}

/// A server that can be ended, and begun again with what it holds.
#[derive(Clone, Default)]
struct Plug(Arc<Mutex<(bool, Vec<UnixStream>)>>);

impl Plug {
    fn pull(&self) {
        let (is_pulled, streams) = &mut *self.0.lock().unwrap();
        *is_pulled = true;
        for stream in streams.drain(..) {
            let _ended_before = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn put_back(&self) {
        self.0.lock().unwrap().0 = false;
    }

    /// Whether the connection may be served.
    fn admits(&self, stream: &UnixStream) -> bool {
        let (is_pulled, streams) = &mut *self.0.lock().unwrap();
        if !*is_pulled {
            streams.push(stream.try_clone().unwrap());
        }
        !*is_pulled
    }
}

#[test]
fn a_server_that_goes_away_ends_the_run_and_keeps_what_is_there() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (plug, serve) = (Plug::default(), memory(&export(), |_, _| {}));
    let server = Server::start(here, {
        let plug = plug.clone();
        move |stream| {
            if plug.admits(&stream) {
                serve(stream);
            }
        }
    });
    let uri = server.uri();
    let out = out(here);
    let mut child = start(here, &[&["run", "--device", &uri][..], &words(OF_EXPORT)].concat());
    assert!(wait_for_rows(&mut child, &out.join("runs.csv"), 1));
    std::thread::sleep(Duration::from_millis(300));
    plug.pull();
    let (_, stderr) = expect(&child.wait_with_output().unwrap(), 4);
    for part in
        ["stopped early: ", uri.as_str(), "what was measured by then is in the report", "--resume out"]
    {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    let data = RunData::read(&out).unwrap();
    assert!(!data.manifest.complete && data.runs.len() == 2, "{:?}", data.runs);
    assert!(data.runs[0].valid && !data.runs[1].valid && data.runs[1].operations.is_none());
    assert!(data.events.iter().any(|event| event.event == "failed"));
    assert!(out.join("report.html").is_file());
    // It is still away, and then it is there again.
    let resume = words(RESUME_EXPORT);
    expect(&run_in(here, &resume), 4);
    plug.put_back();
    expect(&run_in(here, &resume), 0);
    assert_eq!(rows(&out).len(), 3);
    assert!(
        RunData::read(&out).unwrap().runs.iter().all(|row| row.valid),
        "the arm that failed was measured again"
    );
}

/// The file beneath is cut to nothing while it is measured.
#[test]
fn a_device_that_shrinks_to_nothing_ends_the_run() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    let disk = here.join("disk");
    for (command, plan) in [
        (
            "run",
            "--workload randread-4k --backend direct --queue-depth 1 --seconds 2 --warmup 0 --repeats 2 --span 16777216",
        ),
        (
            "snapshots",
            "--suite cliff,first-touch --backend overlay --snapshots 1 --seconds 0.4 --warmup 0.05 --repeats 3 --span 8388608",
        ),
    ] {
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.set_len(FILE_BYTES).unwrap();
        let mut child = start(here, &begun(&[&[command][..], &words(plan)].concat(), command));
        let out = here.join(command);
        assert!(wait_for_rows(&mut child, &out.join("runs.csv"), 1));
        // A write makes the file longer again, so it is cut until the program has seen it.
        while child.try_wait().unwrap().is_none() {
            file.set_len(0).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().unwrap();
        let (_, stderr) = expect(&output, 4);
        let resume =
            format!("`bench-runner {command} --resume {command} --destroy disk:67108864` goes on with it");
        for part in ["stopped early: ", "disk", "what was measured by then is in the report", &resume] {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
        let data = RunData::read(&out).unwrap();
        assert!(!data.manifest.complete && data.runs[0].valid, "{:?}", data.runs);
        let last = data.runs.last().unwrap();
        assert!(!last.valid && last.invalid_reason.contains("disk"), "{last:?}");
        assert!(out.join("report.html").is_file());
    }
}
