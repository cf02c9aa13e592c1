//! Workloads of many sizes and open loads, through the program: what is verified, what is said of it, what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use bench_runner::results::RunData;
use serde_json::Value;

use crate::support::{self, expect, folder, run, text, words};

/// Requests of sectors, of many sizes, of several parts, hot, popular, read before written: what every arm wrote is there
/// afterwards. The workload of a file is one of them.
#[test]
fn mixes_are_verified_on_every_arm() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let own = folder.path().join("own.toml");
    let spec = "name = \"own\"\nquestion = \"Does a file do?\"\n[[part]]\naccess = { zipf = 0.9 }\nread_percent = 20\n\
                sizes = { \"512\" = 1, \"3.5K\" = 1, \"12K\" = 1 }\nregion_percent = [10, 60]\n";
    fs::write(&own, spec).unwrap();
    let out = folder.path().join("out");
    let plan = words(
        "run --create 100663296 --backend ring,direct,log,cow,overlay --queue-depth 8 --seconds 1 --warmup 0 \
         --repeats 1 --span 16777216 --seed 4 --json",
    );
    let disk = folder.path().join("disk");
    let workloads = format!("jesd219,database,ycsb-f,{}", own.display());
    let places = ["--workload", &workloads, "--device", text(&disk), "--out", text(&out)];
    expect(&run(&[&plan[..], &places].concat()), 0);
    let data = RunData::read(&out).unwrap();
    assert_eq!(data.runs.len(), 4 * 6);
    for run in &data.runs {
        assert!(run.valid && run.verified_blocks.is_some_and(|blocks| blocks >= 4_096), "{run:?}");
        assert!(run.operations.is_some_and(|operations| operations > 0), "{run:?}");
    }
    let longest: BTreeSet<(&str, u64)> =
        data.runs.iter().map(|run| (run.workload.as_str(), run.bs_bytes)).collect();
    assert!(longest.contains(&("jesd219", 65_536)) && longest.contains(&("own", 12_288)), "{longest:?}");
}

/// An open load is told apart from the closed one: its phase, what was offered, both latencies. Whether it counts is up to how
/// busy the machine is, and is said.
#[test]
fn open_loads_have_rows_of_their_own() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let out = folder.path().join("out");
    let disk = folder.path().join("disk");
    let plan = words(
        "run --create 67108864 --backend ring --workload randread-4k --queue-depth 4 --load 20 --offered 500 \
         --slo-us 1000 --seconds 1 --warmup 0 --repeats 1 --span 16777216 --seed 4 --json",
    );
    let output = run(&[&plan[..], &["--device", text(&disk), "--out", text(&out)]].concat());
    let exit_code = if output.status.code() == Some(2) { 2 } else { 0 };
    let (stdout, _) = expect(&output, exit_code);
    let data = RunData::read(&out).unwrap();
    let phases: Vec<(&str, &str)> =
        data.runs.iter().map(|run| (run.arm.as_str(), run.phase.as_str())).collect();
    assert_eq!(phases.iter().filter(|(_, phase)| *phase == "measure").count(), 2);
    assert!(
        phases.contains(&("raw", "open-20%")) && phases.contains(&("raw", "open-500-per-s")),
        "{phases:?}"
    );
    assert_eq!(phases.len(), 4, "the ring has closed loads alone: {phases:?}");
    assert_eq!(data.manifest.dropped.len(), 2, "{:?}", data.manifest.dropped);
    let row = |metric: &str, phase: &str| {
        let found =
            data.metrics.iter().find(|row| row.metric == metric && row.phase == phase && row.run.is_some());
        found.unwrap_or_else(|| panic!("no {metric} of {phase}"))
    };
    assert_eq!(row("achieved_of_offered", "open-500-per-s").offered_iops, Some(500));
    let closed = row("iops", "measure");
    assert_eq!(closed.offered_iops, None);
    let offered = row("latency_intended", "open-20%").offered_iops.unwrap() as f64;
    let raw = data.metrics.iter().find(|row| {
        row.metric == "iops"
            && row.phase == "measure"
            && row.arm == "raw"
            && row.op == "all"
            && row.run.is_some()
    });
    assert!((offered / raw.unwrap().value.unwrap() - 0.2).abs() < 0.01, "{offered} {raw:?}");
    // From when it was to begin is never shorter than from when it was begun.
    for phase in ["open-20%", "open-500-per-s"] {
        let of = |metric: &str| {
            data.metrics.iter().find(|row| {
                row.metric == metric && row.phase == phase && row.stat == "max" && row.op == "all"
            })
        };
        assert!(of("latency_intended").unwrap().value >= of("latency").unwrap().value);
    }
    for run in data.runs.iter().filter(|run| !run.valid) {
        assert!(run.invalid_reason.contains("the runner began operations late"), "{run:?}");
    }
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert!(object["open"]["loads"].is_array(), "{object}");
}

/// The control: something else on the same processor makes the load late, and it does not count.
#[test]
fn a_load_beside_something_else_on_its_processor_does_not_count() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let (disk, out) = (folder.path().join("disk"), folder.path().join("out"));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let processor = allowed.split(['-', ',']).next().unwrap();
    let on_it = || {
        let mut command = Command::new("taskset");
        command.args(["-c", processor]);
        command
    };
    let mut other = on_it().args(["sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let plan = words(
        "run --create 67108864 --workload randread-4k --queue-depth 4 --seconds 1 --warmup 0 --repeats 1 --span 16777216 \
         --offered 1000 --seed 4",
    );
    let places = ["--device", text(&disk), "--out", text(&out)];
    let output = on_it().arg(env!("CARGO_BIN_EXE_bench-runner")).args(plan).args(places).output().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    expect(&output, 2);
    let data = RunData::read(&out).unwrap();
    let open = data.runs.iter().find(|run| run.phase.starts_with("open")).unwrap();
    assert!(!open.valid && open.invalid_reason.contains("and the machine took "), "{open:?}");
    let taken = data.metrics.iter().find(|row| row.metric == "processor_taken").unwrap();
    assert!(taken.value > Some(0.05), "{taken:?}");
}

#[test]
fn workloads_are_listed_and_unknown_ones_refused() {
    let (stdout, _) = expect(&run(&["workloads", "--json"]), 0);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    let workloads = object["workloads"].as_array().unwrap();
    let jesd = workloads.iter().find(|workload| workload["name"] == "jesd219").unwrap();
    assert_eq!(jesd["operation_bytes_max"], 65_536);
    assert_eq!(jesd["digest"].as_str().unwrap().len(), 16);
    let (stdout, _) = expect(&run(&["workloads"]), 0);
    assert!(stdout.contains("snia-matrix") && stdout.contains("r65-8K"), "{stdout}");

    let refused =
        |workload: &str| expect(&run(&["run", "--device", "/nonexistent", "--workload", workload]), 64).1;
    assert!(refused("randread").contains("randread-4k"));
    assert!(refused("./none.toml").contains("No such file"));
    let folder = folder();
    let wrong = folder.path().join("wrong.toml");
    fs::write(&wrong, "name = \"wrong\"\nquestion = \"?\"\n[[part]]\naccess = \"uniform\"\nread_percent = 101\nsizes = { \"4K\" = 1 }\n")
        .unwrap();
    let stderr = refused(text(&wrong));
    assert!(stderr.contains("part 1: read_percent is 101, above 100"), "{stderr}");
}
