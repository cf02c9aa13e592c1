//! `compare` from the outside, over run folders made through the calls that a run makes: verdicts, exit codes, what is
//! warned of, and that nothing is printed of results that are gone.

use std::fs;
use std::path::Path;
use std::process::Output;

use bench_runner::measure::{ArmOutcome, ArmTask, OperationFigures};
use bench_runner::results::{ArmRun, DeviceFacts, Ending, Manifest, Plan, RunFolder};
use bench_runner::stats::steady::Rounds;
use bench_runner::suite::Load;
use hdrhistogram::Histogram;
use icecore_workloads::{Generations, Workload};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{expect, folder, run};

const SECOND_NS: u64 = 1_000_000_000;

/// How far the blocks of an arm lie from each other, in thousandths; the same numbers in another order for another arm.
const SPREAD: [i64; 8] = [0, 3, -2, 1, -3, 2, -1, 4];

/// A run folder to be made.
struct Made<'a> {
    seed: u64,
    serial: &'a str,
    blocks: u32,
    /// Arms with their IOPS.
    arms: &'a [(&'a str, u64)],
    /// Arms whose runs do not count.
    invalid: &'a [&'a str],
    /// Arms with their blocks that were not steady.
    unsteady: &'a [(&'a str, &'a [u32])],
    ending: Ending,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Made {
            seed: 1,
            serial: "one",
            blocks: 8,
            arms: &[("raw", 20_000), ("direct", 19_000)],
            invalid: &[],
            unsteady: &[],
            ending: Ending::Complete,
        }
    }
}

impl Made<'_> {
    fn at(&self, path: &Path) {
        let manifest = Manifest {
            seed: self.seed,
            device: DeviceFacts { serial: self.serial.to_owned(), ..DeviceFacts::default() },
            plan: Plan {
                arms: self.arms.iter().map(|(arm, _)| (*arm).to_owned()).collect(),
                workloads: vec!["randread-4k".to_owned()],
                queue_depths: vec![4],
                repeats: self.blocks,
                ..Plan::default()
            },
            ..Manifest::default()
        };
        let mut folder = RunFolder::create(path, manifest).unwrap();
        for block in 1..=self.blocks {
            for (place, (arm, iops)) in (1..).zip(self.arms) {
                let spread = SPREAD[(block as usize * (2 * place + 1)) % SPREAD.len()] + self.seed as i64 % 2;
                let operations = iops * (1_000 + spread) as u64 / 1_000;
                let task = task(self.seed * 1_000 + u64::from(block));
                let is_it = |(name, blocks): &&(&str, &[u32])| name == arm && blocks.contains(&block);
                let is_steady = !self.unsteady.iter().any(|one| is_it(&one));
                // Not steady is a tenth of what it is otherwise.
                let outcome = outcome(if is_steady { operations } else { operations / 10 });
                let rounds = if is_steady { vec![100; 5] } else { vec![100, 0, 100, 0, 100] };
                let rounds = (!self.unsteady.is_empty()).then_some(Rounds { operations: rounds });
                folder
                    .append_arm(&ArmRun {
                        load: Load::Closed,
                        block,
                        arm_order: place as u32,
                        arm,
                        task: &task,
                        started_ns: 0,
                        outcome: Some(&ArmOutcome { rounds, ..outcome }),
                        verified_blocks: None,
                        foreign_percent: None,
                        invalid_reason: self.invalid.contains(arm).then(|| "block 7 is wrong".to_owned()),
                        part: None,
                    })
                    .unwrap();
            }
        }
        folder.finish(self.ending).unwrap();
    }
}

fn task(seed: u64) -> ArmTask {
    ArmTask {
        offered_per_second: None,
        replay: None,
        until_steady: false,
        path: "/dev/synthetic".into(),
        span_offset_bytes: 0,
        span_bytes: 1 << 30,
        workload: Workload::from_name("randread-4k").unwrap(),
        queue_depth: 4,
        warmup_ns: 0,
        measure_ns: SECOND_NS,
        seed,
    }
}

/// A second of reads whose latencies follow from their number.
fn outcome(operations: u64) -> ArmOutcome {
    let figures = |operations: u64, latency: u64| {
        let mut latency_ns = Histogram::new(3).unwrap();
        latency_ns.record_n(latency, operations * 98 / 100).unwrap();
        latency_ns.record_n(3 * latency, operations - operations * 98 / 100).unwrap();
        OperationFigures { operations, bytes: operations * 4096, latency_ns }
    };
    let none = || OperationFigures { operations: 0, bytes: 0, latency_ns: Histogram::new(3).unwrap() };
    ArmOutcome {
        replayed: None,
        rounds: None,
        clock: None,
        open: None,
        read: figures(operations, 4 * SECOND_NS / operations),
        write: none(),
        flush: none(),
        elapsed_ns: SECOND_NS,
        cpu_user_ns: Some(200_000_000),
        cpu_system_ns: Some(300_000_000),
        allocations: Some(0),
        seconds: Vec::new(),
        bands: Vec::new(),
        io_path: "synthetic".to_owned(),
        written: None,
        log: None,
        bare: Vec::new(),
        generations: Generations::default(),
    }
}

fn compare(arguments: &[&str]) -> Output {
    run(&[&["compare"], arguments].concat())
}

/// Two folders and their paths as arguments.
struct Two {
    folder: TempDir,
    a: String,
    b: String,
}

fn two(a: &Made, b: &Made) -> Two {
    let folder = folder();
    let [one, other] = ["a", "b"].map(|name| folder.path().join(name).display().to_string());
    a.at(Path::new(&one));
    b.at(Path::new(&other));
    Two { folder, a: one, b: other }
}

/// The verdicts of a comparison as JSON, by arm and metric.
#[track_caller]
fn verdicts(output: &Output, exit_code: i32) -> (Value, Vec<(String, String, String)>) {
    let object: Value = serde_json::from_str(&expect(output, exit_code).0).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = object["comparisons"].as_array().unwrap();
    let lines = lines
        .iter()
        .map(|line| (text(&line["arm"]), text(&line["metric"]), text(&line["verdict"])))
        .collect();
    (object, lines)
}

fn verdict<'a>(lines: &'a [(String, String, String)], arm: &str, metric: &str) -> &'a str {
    let found = lines.iter().find(|line| line.0 == arm && line.1 == metric);
    &found.unwrap_or_else(|| panic!("no {metric} of {arm}: {lines:?}")).2
}

/// What was not steady is kept and not ranked: the verdict is that of the other blocks, and of none where there are too few.
#[test]
fn blocks_that_were_not_steady_are_not_ranked() {
    // Of one seed, so that blocks pair by number.
    let steady = Made { unsteady: &[("nobody", &[])], ..Made::default() };
    let three = Made { unsteady: &[("direct", &[2, 5, 7])], ..Made::default() };
    let found = two(&steady, &three);
    let (object, lines) = verdicts(&compare(&[&found.a, &found.b, "--json"]), 0);
    assert_eq!(verdict(&lines, "direct", "iops"), "no difference", "{object}");
    let of = |name: &str| {
        let lines = object["comparisons"].as_array().unwrap();
        lines.iter().find(|line| line["arm"] == "direct" && line["metric"] == "iops").unwrap()[name].clone()
    };
    assert_eq!(
        [of("blocks_a"), of("blocks_b"), of("unsteady_a"), of("unsteady_b")],
        [5, 5, 0, 3].map(Value::from)
    );
    assert_eq!(of("pairing"), "paired by seed", "with the others they would be a tenth: {object}");
    let (text, _) = expect(&compare(&[&found.a, &found.b]), 0);
    assert!(text.contains("0 and 3 blocks were not steady, and are not ranked"), "{text}");
    // One steady block less, and nothing can be said; without any, nothing is compared.
    let four = Made { unsteady: &[("direct", &[1, 2, 5, 7])], ..Made::default() };
    let found = two(&steady, &four);
    assert_eq!(
        verdict(&verdicts(&compare(&[&found.a, &found.b, "--json"]), 0).1, "direct", "iops"),
        "undecided"
    );
    let none = Made { unsteady: &[("direct", &[1, 2, 3, 4, 5, 6, 7, 8])], ..Made::default() };
    let found = two(&steady, &none);
    let (text, _) = expect(&compare(&[&found.a, &found.b, "--arm", "direct"]), 2);
    assert!(text.contains("not ranked: in no block of B was the load steady"), "{text}");
    // The reports of the folder say it, too.
    let page = fs::read_to_string(bench_runner::report::write(Path::new(&found.b)).unwrap()).unwrap();
    assert!(page.contains("no, not ranked") && page.contains("(not steady)"));
    assert!(page.contains("Not ranked: the load was not steady."));
}

#[test]
fn a_slower_arm_is_worse_and_a_faster_one_better() {
    let slower = Made { seed: 2, arms: &[("raw", 20_000), ("direct", 15_200)], ..Made::default() };
    let two = two(&Made::default(), &slower);
    let (object, lines) = verdicts(&compare(&[&two.a, &two.b, "--json"]), 1);
    assert_eq!(verdict(&lines, "direct", "iops"), "worse");
    assert_eq!(verdict(&lines, "direct", "latency_p99"), "worse");
    assert_eq!(verdict(&lines, "raw", "iops"), "no difference");
    assert_eq!(object["exit_code"], 1);
    let line = &object["comparisons"][0];
    assert_eq!((&line["pairing"], &line["reference"]), (&Value::from("unpaired"), &Value::from("raw")));
    assert!((line["normalised"]["ratio"].as_f64().unwrap() - 0.8).abs() < 0.01, "{line}");
    let (stdout, _) = expect(&compare(&[&two.a, &two.b]), 1);
    assert!(stdout.contains("worse: ") && stdout.contains("8+8 unpaired"), "{stdout}");
    // The other way round it is better, which is no reason to fail.
    let (_, lines) = verdicts(&compare(&[&two.b, &two.a, "--json"]), 0);
    assert_eq!(verdict(&lines, "direct", "iops"), "better");
    // What is asked for, alone.
    let (_, lines) = verdicts(&compare(&[&two.a, &two.b, "--json", "--arm", "raw", "--metric", "iops"]), 0);
    assert_eq!(lines.len(), 1);
}

#[test]
fn one_seed_and_plan_pair_the_blocks() {
    let same = Made { arms: &[("raw", 20_000), ("direct", 15_200)], ..Made::default() };
    let two = two(&Made::default(), &same);
    let (object, _) = verdicts(&compare(&[&two.a, &two.b, "--json"]), 1);
    assert_eq!(object["comparisons"][0]["pairing"], "paired by seed");
}

#[test]
fn two_arms_of_one_folder_pair_by_block() {
    let two = two(&Made::default(), &Made::default());
    let (object, lines) = verdicts(&compare(&[&two.a, &two.a, "--json", "--arm", "raw=direct"]), 1);
    assert_eq!(verdict(&lines, "raw", "iops"), "worse");
    let line = &object["comparisons"][0];
    assert_eq!((&line["pairing"], &line["arm_b"]), (&Value::from("paired by block"), &Value::from("direct")));
    assert_eq!(line["normalised"], Value::Null);
    let (object, _) = verdicts(&compare(&[&two.a, &two.a, "--json"]), 0);
    assert!(object["warnings"][0].as_str().unwrap().contains("one folder"), "{object}");
}

/// With an arm beside that has nothing of ours in it, a slower machine makes nothing worse, and is told.
#[test]
fn a_slower_machine_is_no_regression() {
    let fast = Made { arms: &[("ring", 22_000), ("raw", 20_000), ("direct", 19_000)], ..Made::default() };
    let slow =
        Made { seed: 2, arms: &[("ring", 17_600), ("raw", 16_000), ("direct", 15_200)], ..Made::default() };
    let two = two(&fast, &slow);
    let (object, lines) = verdicts(&compare(&[&two.a, &two.b, "--json"]), 0);
    assert_eq!(verdict(&lines, "direct", "iops"), "no difference");
    assert_eq!(verdict(&lines, "raw", "iops"), "no difference");
    assert_eq!(verdict(&lines, "ring", "iops"), "worse");
    let warnings = object["warnings"].to_string();
    assert!(warnings.contains("the machine itself is another"), "{warnings}");
    // Both ratios are told.
    let line = &object["comparisons"][0];
    assert!((line["plain"]["ratio"].as_f64().unwrap() - 0.8).abs() < 0.01, "{line}");
    assert!((line["normalised"]["ratio"].as_f64().unwrap() - 1.0).abs() < 0.01, "{line}");
}

#[test]
fn noise_raises_what_counts() {
    let slower = Made { seed: 2, arms: &[("raw", 20_000), ("direct", 18_240)], ..Made::default() };
    let two = two(&Made::default(), &slower);
    let (object, lines) = verdicts(&compare(&[&two.a, &two.b, "--json"]), 1);
    assert_eq!(verdict(&lines, "direct", "iops"), "worse");
    assert!(object["warnings"].to_string().contains("--noise"));
    // Measured twice, the same arm differs by 10 %.
    let noise = two.folder.path().join("noise");
    let arms = [("raw", 20_000), ("direct", 19_000), ("raw-again", 20_000), ("direct-again", 20_900)];
    Made { arms: &arms, ..Made::default() }.at(&noise);
    let noise = noise.display().to_string();
    let (object, lines) = verdicts(&compare(&[&two.a, &two.b, "--noise", &noise, "--json"]), 0);
    assert_eq!(verdict(&lines, "direct", "iops"), "undecided");
    assert_eq!(lines.len(), 8, "the second run of an arm is no arm of its own");
    let line = &object["comparisons"][0];
    assert!(line["noise"].as_f64().unwrap() > 0.08 && line["noise_arm"] == "direct", "{line}");
    // A folder that was measured so itself brings its own.
    let (object, _) =
        verdicts(&compare(&[&noise, &two.b, "--json", "--arm", "direct", "--metric", "iops"]), 0);
    assert!(object["comparisons"][0]["noise"].as_f64().unwrap() > 0.08);
}

#[test]
fn what_does_not_count_is_not_compared() {
    let wrong = Made { seed: 2, invalid: &["direct"], ..Made::default() };
    let two = two(&Made::default(), &wrong);
    let (object, lines) = verdicts(&compare(&[&two.a, &two.b, "--json"]), 0);
    assert!(lines.iter().all(|line| line.0 == "raw"), "{lines:?}");
    assert!(object["warnings"].to_string().contains("8 of 16 runs do not count"), "{object}");
    assert_eq!(object["not_compared"][0]["invalid"], true);
    let (stdout, _) = expect(&compare(&[&two.a, &two.b, "--arm", "direct"]), 2);
    assert!(stdout.contains("not compared: no block of B counts: block 7 is wrong"), "{stdout}");
}

#[test]
fn what_else_differs_is_named() {
    let other = Made { seed: 2, serial: "other", ending: Ending::Interrupted, ..Made::default() };
    let two = two(&Made::default(), &other);
    let (stdout, _) = expect(&compare(&[&two.a, &two.b]), 0);
    assert!(stdout.contains("differs: device.serial: one in A, other in B"), "{stdout}");
    assert!(stdout.contains("was interrupted") && stdout.contains(&two.b), "{stdout}");
    // A table by itself says nothing of where it comes from.
    let table = two.folder.path().join("alone.csv");
    fs::copy(Path::new(&two.b).join("metrics.csv"), &table).unwrap();
    let (stdout, _) = expect(&compare(&[&two.a, &table.display().to_string()]), 0);
    assert!(stdout.contains("a table alone"), "{stdout}");
    // In its folder it is the folder.
    let inside = Path::new(&two.b).join("metrics.csv").display().to_string();
    let (stdout, _) = expect(&compare(&[&two.a, &inside]), 0);
    assert!(stdout.contains("was interrupted"), "{stdout}");
}

#[test]
fn without_raw_results_nothing_is_printed() {
    let names = ["metrics.csv", "runs.csv", "manifest.json", "timeseries.csv"];
    for name in names {
        let two = two(&Made::default(), &Made { seed: 2, ..Made::default() });
        fs::remove_file(Path::new(&two.b).join(name)).unwrap();
        let (stdout, stderr) = expect(&compare(&[&two.a, &two.b]), 4);
        assert!(stdout.is_empty() && stderr.contains(name), "{stderr}");
    }
    let two = two(&Made::default(), &Made { seed: 2, ..Made::default() });
    fs::remove_dir_all(Path::new(&two.b).join("hist")).unwrap();
    let (stdout, stderr) = expect(&compare(&[&two.a, &two.b]), 4);
    assert!(stdout.is_empty() && stderr.contains(".hlog"), "{stderr}");
    // The pooled rows alone are old numbers.
    let metrics = Path::new(&two.a).join("metrics.csv");
    let text = fs::read_to_string(&metrics).unwrap();
    let pooled: Vec<&str> = text
        .lines()
        .enumerate()
        .filter(|(place, line)| *place == 0 || line.starts_with(",,"))
        .map(|(_, line)| line)
        .collect();
    assert!(pooled.len() > 10);
    fs::write(&metrics, pooled.join("\n")).unwrap();
    let (stdout, stderr) = expect(&compare(&[&two.a, &two.a]), 64);
    assert!(stdout.is_empty() && stderr.contains("in common"), "{stderr}");
}

#[test]
fn refusals_have_their_codes() {
    let two = two(&Made::default(), &Made { seed: 2, arms: &[("fio", 20_000)], ..Made::default() });
    let (_, stderr) = expect(&compare(&[&two.a, &two.b]), 64);
    assert!(stderr.contains("in common"), "{stderr}");
    let (_, stderr) = expect(&compare(&[&two.a, &two.a, "--metric", "speed"]), 64);
    assert!(stderr.contains("latency_p99"), "{stderr}");
    let (_, stderr) = expect(&compare(&[&two.a, &two.a, "--arm", "raw=log"]), 64);
    assert!(stderr.contains("direct, raw"), "{stderr}");
    expect(&compare(&[&two.a]), 64);
    expect(&compare(&[&two.a, "/nowhere"]), 4);
    // Another version of the format is refused by name.
    let path = Path::new(&two.b).join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"format_version\": 1", "\"format_version\": 2", 1)).unwrap();
    let (stdout, stderr) = expect(&compare(&[&two.a, &two.b]), 4);
    assert!(stdout.is_empty() && stderr.contains("format version 2") && stderr.contains(&two.b), "{stderr}");
}
