//! How a run is made: purge and preconditioning of the device, loads that go on until they are steady; what is said of it before,
//! meanwhile and afterwards.

use std::fs;

use bench_runner::arms::Arm;
use bench_runner::bench::Bench;
use bench_runner::method::Method;
use bench_runner::precondition::Precondition;
use bench_runner::results::{MetricRow, RunData, RunRow};
use bench_runner::session::{self, Session};
use bench_runner::suite::{Cell, SuitePlan};
use icecore_workloads::Workload;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, expect, folder, make_file, run, text, words};

const FILE_BYTES: u64 = 32 << 20;
const MS: u64 = 1_000_000;
const ROUND_NS: u64 = 40 * MS;

/// A run of two arms on one workload and depth.
fn measured(method: Method) -> (TempDir, Session) {
    let folder = folder();
    let bench = Bench::create(&folder.path().join("disk"), FILE_BYTES, 2).unwrap();
    let arms: Vec<Arm> = ["raw", "ring", "direct"].map(|arm| Arm::from_name(arm).unwrap()).into();
    let span = bench.data_span(&arms).unwrap();
    let plan = SuitePlan {
        trace: None,
        slo_ns: None,
        arms,
        cells: vec![Cell::closed(Workload::from_name("randwrite-4k").unwrap(), 2)],
        repeats: 1,
        warmup_ns: 10 * MS,
        measure_ns: 5 * ROUND_NS,
        seed: 5,
        span_offset_bytes: span.offset_bytes,
        span_bytes: 8 << 20,
        references: false,
        method,
    };
    let session =
        session::run(&bench, &plan, &folder.path().join("out"), Vec::new(), &mut |_, _| {}).unwrap();
    (folder, session)
}

fn steady_state<'a>(data: &'a RunData, run: &RunRow, stat: &str) -> Option<&'a MetricRow> {
    data.metrics
        .iter()
        .find(|row| row.run == Some(run.run) && row.metric == "steady_state" && row.stat == stat)
}

#[test]
fn loads_go_on_until_they_are_steady() {
    if support::lacks_io_uring() {
        return;
    }
    let (_folder, session) =
        measured(Method { until_steady: true, precondition: Precondition::Run, ..Method::default() });
    let data = &session.data;
    assert_eq!((session.exit_code(), data.runs.len()), (0, 3), "{:?}", session.invalid);
    let rule = data.manifest.plan.steady_state.as_ref().unwrap();
    assert!(rule.contains("20 %") && rule.ends_with("rounds of 0.04 s, at most 25 of them"), "{rule}");
    for run in &data.runs {
        let value = |stat: &str| steady_state(data, run, stat).unwrap().value;
        let rounds = value("rounds").unwrap() as u64;
        assert!((5..=25).contains(&rounds), "{run:?}");
        // What the columns say follows from the rule.
        let is_steady = value("range") <= Some(0.2) && value("slope") <= Some(0.1);
        assert_eq!(run.steady, Some(is_steady), "{run:?}");
        assert!(is_steady || rounds == 25, "{run:?}");
        assert_eq!(run.measured_ns, Some(5 * ROUND_NS));
        assert_eq!(run.warmup_ns, 10 * MS + (rounds - 5) * ROUND_NS);
        // Of every round, also of those that were not measured, the content is known.
        assert!(run.valid && run.verified_blocks == Some(2_048), "{run:?}");
    }
    let events: Vec<&str> = data.events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["preconditioned"], "before the run, once");
    let words = &data.manifest.plan.preconditioning;
    assert!(words.contains("before the run") && words.contains("2 times over in 128 KiB"), "{words}");
    let said = &data.events[0].detail;
    assert!(said.contains("written 64 MiB in "), "{said}");
    // Where the file system does not give space back, that is named.
    let left_out = data.manifest.dropped.iter().any(|one| one.what == "the purge");
    assert_eq!(left_out, said.contains("not discarded"), "{said}");
    let page = fs::read_to_string(&session.report).unwrap();
    assert!(page.contains("2 times over in 128 KiB") && page.contains("at most 25 of them"));
}

#[test]
fn arms_may_have_the_device_anew_and_nothing_is_done_unasked() {
    if support::lacks_io_uring() {
        return;
    }
    let (_folder, session) = measured(Method { precondition: Precondition::Arm, ..Method::default() });
    let runs = &session.data.runs;
    assert!(runs.iter().all(|run| run.valid && run.steady.is_none() && run.warmup_ns == 10 * MS), "{runs:?}");
    let events = session.data.events.iter().filter(|event| event.event == "preconditioned").count();
    assert_eq!((events, runs.len()), (3, 3));
    assert!(session.data.manifest.plan.preconditioning.starts_with("before each arm all of the device"));
    assert!(session.data.manifest.plan.steady_state.is_none());
    assert!(session.data.metrics.iter().all(|row| row.metric != "steady_state"));
    let (_folder, session) = measured(Method::default());
    assert!(session.data.events.is_empty(), "{:?}", session.data.events);
    assert!(session.data.manifest.plan.preconditioning.starts_with("formatted, then"));
}

#[test]
fn a_plan_says_what_is_written_and_how_long_it_takes() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = make_file(folder.path(), FILE_BYTES);
    let plan = |more: &str| -> Value {
        let line = format!(
            "plan --json --backend fio,direct --workload randread-4k --queue-depth 1 --seconds 10 --warmup 0 --repeats 2 \
             --span 4194304 --device {} {more}",
            text(&disk)
        );
        serde_json::from_str(&expect(&run(&words(&line)), 0).0).unwrap()
    };
    let number = |object: &Value, name: &str| object[name].as_u64().unwrap();
    let bare = plan("");
    assert_eq!((number(&bare, "filled_bytes"), number(&bare, "preconditioned_bytes")), (24 << 20, 0));
    assert_eq!(number(&bare, "duration_s"), number(&bare, "duration_most_s"));
    assert!(number(&bare, "duration_s") >= 60 && bare["steady_state"].is_null());
    assert_eq!(number(&plan("--precondition"), "preconditioned_bytes"), 2 * FILE_BYTES);
    assert_eq!(number(&plan("--precondition=arm"), "preconditioned_bytes"), 6 * 2 * FILE_BYTES);
    // fio cannot be asked, so that four arms are left, each of 10 to 50 seconds.
    let steady = plan("--until-steady");
    assert_eq!(number(&steady, "filled_bytes"), 16 << 20);
    let most = number(&steady, "duration_most_s") - number(&steady, "duration_s");
    assert!(most.abs_diff(160) <= 1, "{steady}");
    assert!(steady["steady_state"].as_str().unwrap().contains("rounds of 2 s, at most 25"), "{steady}");
    // An open load has its schedule.
    let open = plan("--until-steady --offered 100");
    assert_eq!(number(&open, "duration_s"), number(&open, "duration_most_s"));
    // Nothing of that was done.
    assert!(fs::read(&disk).unwrap().iter().all(|byte| *byte == 0));
    let refused = |more: &str, says: &str| {
        let line = format!("run --device {} {more}", text(&disk));
        let (_, stderr) = expect(&run(&words(&line)), 64);
        assert!(stderr.contains(says), "{stderr}");
    };
    refused("--until-steady --seconds 7", "--seconds 10");
    refused("--until-steady --trace nothing", "a trace has a course of its own");
    refused("--precondition=never", "possible values");
    refused("--resume out --precondition", "cannot be used with");
}

/// Nothing is discarded or written over without leave.
#[test]
fn without_leave_nothing_is_preconditioned() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = folder.path().join("disk");
    fs::write(&disk, vec![7; FILE_BYTES as usize]).unwrap();
    for destroy in ["", "--destroy disk:1", "--destroy other:33554432"] {
        let line = format!("run --precondition --device {} {destroy}", text(&disk));
        expect(&run(&words(&line)), 3);
    }
    assert!(fs::read(&disk).unwrap().iter().all(|byte| *byte == 7));
}
