//! The fio arm: its command line, its reading of reports, and a run where fio is installed.

use std::io::Write;

use super::*;

fn task(name: &str, queue_depth: u32) -> ArmTask {
    ArmTask {
        path: "/dev/a:b".into(),
        span_offset_bytes: 1 << 20,
        span_bytes: 16 << 20,
        workload: Workload::from_name(name).expect("a known name"),
        queue_depth,
        warmup_ns: 1_500_000_000,
        measure_ns: 250_000_000,
        seed: 9,
        offered_per_second: None,
        replay: None,
        until_steady: false,
    }
}

fn line_of(task: &ArmTask) -> Vec<String> {
    arguments(task, expressible(task).expect("what fio can be asked"))
}

#[test]
fn the_command_line_says_all_that_defines_the_load() {
    let line = line_of(&task("mixed-4k", 32)).join(" ");
    for option in [
        "--filename=/dev/a\\:b",
        "--offset=1048576",
        "--size=16777216",
        "--rw=randrw",
        "--rwmixread=70",
        "--bs=4096",
        "--numjobs=1",
        "--iodepth=32",
        "--iodepth_batch_submit=32",
        "--iodepth_batch_complete_max=32",
        "--randseed=4",
        "--ramp_time=1500000us",
        "--runtime=250000us",
        "--disable_clat=1",
        "--allow_file_create=0",
    ] {
        assert!(line.split(' ').any(|given| given == option), "{option} is not in {line}");
    }
}

#[test]
fn durable_writers_are_jobs_and_patterns_follow_the_workload() {
    let line = line_of(&task("durable-4k", 16)).join(" ");
    assert!(line.contains("--numjobs=16") && line.contains("--iodepth=1 ") && line.contains("--fdatasync=1"));
    assert!(!line.contains("--disable_clat"));
    let line = line_of(&task("durable-4k-dsync", 16)).join(" ");
    assert!(line.contains("--numjobs=1 ") && line.contains("--iodepth=16 ") && line.contains("--sync=dsync"));
    for (name, pattern) in [
        ("randread-4k", "--rw=randread "),
        ("randwrite-4k", "--rw=randwrite "),
        ("seqread-1m", "--rw=read "),
        ("seqwrite-1m", "--rw=write "),
    ] {
        assert!(line_of(&task(name, 1)).join(" ").contains(pattern), "{name}");
    }
}

fn sample(error: i32) -> String {
    format!(
        r#"note: something fio wanted to say {{once}}
{{ "fio version": "fio-3.33", "jobs": [ {{
  "error": {error}, "job_runtime": 4000, "usr_cpu": 1.5, "sys_cpu": 20.0,
  "read": {{ "total_ios": 3, "io_bytes": 12288, "runtime": 2001,
             "lat_ns": {{ "N": 3, "bins": {{ "48384": 1, "52480": 2 }} }} }},
  "write": {{ "total_ios": 1, "io_bytes": 4096, "runtime": 2000, "lat_ns": {{ "bins": {{ "90000000000": 1 }} }} }},
  "sync": {{ "total_ios": 0, "lat_ns": {{ "N": 0, "mean": 0.0 }} }}
}} ] }}
fio: a last word
"#
    )
}

#[test]
fn a_report_is_read() {
    let outcome = outcome(&sample(0), &task("mixed-4k", 1).workload).expect("a report");
    assert_eq!((outcome.read.operations, outcome.read.bytes, outcome.read.latency_ns.len()), (3, 12_288, 3));
    assert!(outcome.read.latency_ns.max().abs_diff(52_480) < 53);
    assert!(outcome.write.latency_ns.max() >= 60_000_000_000);
    assert_eq!(outcome.flush.operations, 0);
    assert_eq!(outcome.elapsed_ns, 2_001_000_000);
    assert_eq!((outcome.cpu_user_ns, outcome.cpu_system_ns), (Some(60_000_000), Some(800_000_000)));
    assert!(outcome.io_path.starts_with("fio-3.33"));
    assert!(outcome.generations.counts().is_empty());
}

#[test]
fn a_bad_report_is_an_error() {
    let workload = task("mixed-4k", 1).workload;
    let message = |text: &str| outcome(text, &workload).expect_err("a bad report").to_string();
    assert!(message("").contains("no JSON"));
    assert!(message("{ \"jobs\": [").contains("does not parse"));
    assert!(message("{ \"jobs\": [] }").contains("0 groups"));
    assert!(message(&sample(5)).contains("error 5"));
    assert!(message(&sample(0).replace("io_bytes", "bytes")).contains("/read/io_bytes"));
    assert!(message(&sample(0).replace("bins", "boxes")).contains("no latency bins"));
    assert!(message(&sample(0).replace("\"48384\"", "\"many\"")).contains("many"));
}

fn scratch_file() -> tempfile::NamedTempFile {
    let folder = std::env::current_exe().expect("the test's own path");
    let folder = folder.parent().expect("a folder");
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
    file.write_all(&vec![0xee; 18 << 20]).expect("space");
    file.as_file().sync_all().expect("a flush");
    file
}

#[test]
fn a_missing_fio_is_told_with_its_remedy() {
    let file = scratch_file();
    let task = ArmTask { path: file.path().to_owned(), ..task("randread-4k", 1) };
    let error = run_program(Path::new("/nonexistent/fio"), &task).expect_err("no such program");
    assert!(error.to_string().contains("apt-get install fio"), "{error}");
    let long = ArmTask { span_bytes: 1 << 40, ..task };
    assert!(matches!(run_program(Path::new("/nonexistent/fio"), &long), Err(FioError::Span { .. })));
    let absent = ArmTask { path: "/nonexistent/device".into(), ..long };
    assert!(run(&absent).expect_err("no such device").to_string().contains("/nonexistent/device"));
}

#[test]
fn a_real_fio_is_understood() {
    if Command::new("fio").arg("--version").output().is_err() {
        eprintln!("skipped: fio is not installed");
        return;
    }
    if let Err(error) = icecore::runtime::Runtime::new(icecore::runtime::RuntimeOptions::default()) {
        eprintln!("skipped: {error}");
        return;
    }
    let file = scratch_file();
    for workload in &Workload::all()[..7] {
        let mut task = task(workload.name(), 2);
        task.path = file.path().to_owned();
        task.warmup_ns = 0;
        let outcome = match run(&task) {
            Ok(outcome) => outcome,
            Err(FioError::Failed { message, .. }) if message.contains("Invalid argument") => {
                eprintln!("skipped: no O_DIRECT here: {message}");
                return;
            }
            Err(error) => panic!("{workload}: {error}"),
        };
        assert_eq!(outcome.read.operations > 0, workload.reads(), "{workload}");
        assert_eq!(outcome.write.operations > 0, workload.writes(), "{workload}");
        let separate_flush = workload.durability() == Durability::WriteThenFlush;
        assert_eq!(outcome.flush.operations > 0, separate_flush, "{workload}");
        assert_eq!(outcome.write.latency_ns.is_empty(), separate_flush || !workload.writes(), "{workload}");
        // In its own unit; how late a busy machine ends is not what is tested.
        let expected = task.measure_ns * 9 / 10..task.measure_ns * 100;
        assert!(expected.contains(&outcome.elapsed_ns), "{}", outcome.elapsed_ns);
        assert!(outcome.cpu_user_ns.is_some());
    }
}
