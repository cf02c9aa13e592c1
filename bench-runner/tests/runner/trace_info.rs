//! `trace-info` from the outside: what it prints, and its exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::{expect, program, run, text};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../workloads/tests/fixtures").join(name)
}

fn trace_info(path: &Path, options: &[&str]) -> Output {
    run(&[&["trace-info", text(path)], options].concat())
}

fn object(path: &Path, options: &[&str]) -> Value {
    let (stdout, _) = expect(&trace_info(path, &[options, &["--json"]].concat()), 0);
    serde_json::from_str(&stdout).unwrap()
}

/// 3,000 requests: the first two thousand within a second, one after another on volume 1; the others, reads of one
/// block of volume 2, ten a second.
fn made(folder: &Path) -> PathBuf {
    let mut text = String::new();
    for number in 0..2_000_u64 {
        text.push_str(&format!("1,W,{},8192,{}\n", number * 8192, 1_000_000 + number * 400));
    }
    for number in 0..1_000_u64 {
        text.push_str(&format!("2,R,{},4096,{}\n", 1_u64 << 40, 2_000_000 + number * 100_000));
    }
    let path = folder.join("a-rather-long-name-of-a-folder".repeat(4));
    std::fs::create_dir(&path).unwrap();
    let path = path.join("trace.csv");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_picture_fits_into_100_columns_and_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let (stdout, stderr) = expect(&trace_info(&path, &[]), 0);
    assert_eq!(stderr, "");
    for part in [
        "trace.csv (alibaba, ",
        "3,000 in 101 s",
        "read              1,000   33.3 %    3.91 MiB   4 KiB to 4 KiB",
        "write             2,000   66.7 %    15.6 MiB   8 KiB to 8 KiB",
        // 1,999 of 3,000: all writes but the first; the reads stay where they are.
        "66.6 % begin where",
        "most 2,000 in second 0",
        "touched 15.6 MiB",
        "17 regions",
    ] {
        assert!(stdout.contains(part), "{part:?} is not in\n{stdout}");
    }
    for line in stdout.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for name in ["blkparse.txt", "fio-v2.log", "cloudphysics-vscsi1.gz", "msr.csv", "sample", "tencent.csv"] {
        let (stdout, _) = expect(&trace_info(&fixture(name), &[]), 0);
        assert!(stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");
    }
}

#[test]
fn the_object_holds_what_was_worked_out_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let found = object(&path, &[]);
    assert_eq!(found["requests"], 3000);
    assert_eq!(found["kinds"]["write"]["bytes"], 2000 * 8192);
    assert_eq!(found["kinds"]["read"]["sizes"][0]["from_bytes"], 4096);
    assert_eq!(found["footprint_bytes"], 2000 * 8192 + 4096);
    assert_eq!(found["footprint_exact"], true);
    assert_eq!(found["end_bytes"], (1_u64 << 40) + 4096);
    assert_eq!(found["duration_ns"], 1_000_000_000_u64 + 999 * 100_000_000);
    assert_eq!(found["peak_second"], 2000);
    assert_eq!(found["hot_regions"], 17);
    // The hottest of 17 regions has the 1,000 reads.
    assert_eq!(found["hot_shares"]["hottest_1_percent"], 1000.0 / 3000.0);
    // Of 100 whole seconds the first has 2,000 requests and the others ten each.
    let (n, sum, squares) = (100.0, 2000.0 + 99.0 * 10.0, 4e6 + 99.0 * 100.0);
    let mean = sum / n;
    let dispersion = (squares / n - mean * mean) / mean;
    assert!((found["dispersion"].as_f64().unwrap() - dispersion).abs() < 1e-9, "{found}");
    let over_time = found["over_time"]["requests"].as_array().unwrap();
    assert_eq!(over_time.iter().map(|bin| bin.as_u64().unwrap()).sum::<u64>(), 3000);
    assert_eq!(found["volumes"][0]["volume"], 1);
    assert_eq!(found["volumes"][1]["read_requests"], 1000);

    let one = object(&path, &["--volume", "2"]);
    assert_eq!((&one["requests"], &one["records_of_other_volumes"]), (&1000.into(), &2000.into()));
    let some = object(&path, &["--limit", "10"]);
    assert_eq!((&some["requests"], &some["limited"]), (&10.into(), &true.into()));
}

#[test]
fn what_is_wrong_has_the_exit_code_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let made = made(folder.path());
    let late = folder.path().join("late");
    std::fs::write(&late, "1,W,0,512,30\n1,W,0,512,20\n1,W,0,512,40\n").unwrap();
    for (path, options, exit_code, part) in [
        (fixture("damaged-field.csv"), &[][..], 1, "damaged-field.csv: line 2: length"),
        (fixture("damaged-cut.gz"), &[], 1, "ends early"),
        (fixture("no-such-file"), &[], 4, "no-such-file"),
        (fixture("README.md"), &[], 64, "--format says which"),
        (fixture("msr.csv"), &["--format", "ibm"], 64, "vscsi1"),
        (late.clone(), &["--sort-window", "0"], 64, "--sort-window"),
        (made.clone(), &["--volume", "9"], 64, "no request is for a volume asked for"),
        (fixture("sample.blktrace.0"), &["--event", "completed"], 64, "issued"),
    ] {
        let (stdout, stderr) = expect(&trace_info(&path, options), exit_code);
        assert!(stdout.is_empty(), "{stdout}");
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        let (stdout, _) = expect(&trace_info(&path, &[options, &["--json"]].concat()), exit_code);
        let told: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(told["error"]["exit_code"], exit_code);
    }
}

#[test]
fn bad_records_that_are_allowed_are_told() {
    let (stdout, stderr) = expect(&trace_info(&fixture("damaged-field.csv"), &["--bad-records", "1"]), 0);
    assert!(stdout.contains("1 bad and left out"), "{stdout}");
    assert!(stderr.contains("left out") && stderr.contains("line 2"), "{stderr}");
}

/// Requests of 4 KiB all over a thousand volumes, which reach every bound there is.
struct Scattered {
    state: u64,
    number: u64,
}

impl Scattered {
    fn new(seed: u64) -> Self {
        Self { state: 88_172_645_463_325_252 ^ seed, number: 0 }
    }

    /// So many more lines.
    fn write(&mut self, out: impl Write, lines: u64) {
        let mut out = std::io::BufWriter::new(out);
        for _ in 0..lines {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let offset = (self.state >> 20) % (1 << 28) * 4096;
            writeln!(out, "{},W,{offset},4096,{}", self.state % 1000, self.number * 50).unwrap();
            self.number += 1;
        }
        out.flush().unwrap();
    }
}

/// Has traces read, the last of them through a pipe, and gives the most memory that the program had by then. The pipe is kept open, so that
/// the program is asked while it is there.
fn peak_kib(files: &[String], of_pipe: (&mut Scattered, u64), requests: u64) -> u64 {
    let mut arguments = vec!["trace-info", "--json", "/dev/stdin"];
    arguments.extend(files.iter().map(String::as_str));
    let mut child = program(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    of_pipe.0.write(&mut pipe, of_pipe.1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    let (stdout, _) = expect(&output, 0);
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(found["requests"], requests);
    assert_eq!(found["footprint_exact"], false, "the bound was reached");
    println!("{} files: peak {peak_kib} KiB", 1 + files.len());
    peak_kib
}

/// 64 MiB are promised for a trace of any length. What comes after a million requests takes no more.
#[test]
fn memory_is_bounded() {
    const REQUESTS: u64 = 1_000_000;
    let peak_kib = peak_kib(&[], (&mut Scattered::new(0), REQUESTS), REQUESTS);
    assert!(peak_kib <= 64 * 1024, "{peak_kib} KiB");
}

/// And for as many files as there may be. What is in the pipe is later than all of the files, so that they have been read when it has been.
#[test]
fn memory_of_many_files_is_bounded() {
    const OF_PIPE: u64 = 200_000;
    for (files, lines) in [(7, 60_000), (255, 2_000)] {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<String> = (0..files)
            .map(|file| folder.path().join(file.to_string()))
            .map(|path| text(&path).to_owned())
            .collect();
        for (seed, path) in (1..).zip(&paths) {
            Scattered::new(seed).write(std::fs::File::create(path).unwrap(), lines);
        }
        let mut later = Scattered { number: lines, ..Scattered::new(0) };
        let peak_kib = peak_kib(&paths, (&mut later, OF_PIPE), files * lines + OF_PIPE);
        assert!(peak_kib <= 64 * 1024, "{files} files: {peak_kib} KiB");
    }
}
