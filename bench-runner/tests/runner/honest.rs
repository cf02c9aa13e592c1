//! What makes a figure trustworthy: damage voids a run, and figures move with the device.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bench_runner::arms::Arm;
use bench_runner::arms::engine::Content;
use bench_runner::bench::Bench;
use bench_runner::method::Method;
use bench_runner::runner_cost;
use bench_runner::session::{self, Session};
use bench_runner::suite::{Cell, SuitePlan};
use icecore_workloads::Workload;

use crate::support;

const FILE_BYTES: u64 = 32 << 20;

fn measure(folder: &Path, name: &str, damage: bool) -> Session {
    let bench = Bench::create(&folder.join("disk"), FILE_BYTES, 4).unwrap();
    let arms: Vec<Arm> = ["raw", "ring", "direct"].map(|arm| Arm::from_name(arm).unwrap()).into();
    let span = bench.data_span(&arms).unwrap();
    let plan = SuitePlan {
        trace: None,
        arms,
        cells: vec![Cell::closed(Workload::from_name(name).unwrap(), 4)],
        repeats: 1,
        warmup_ns: 0,
        measure_ns: 200_000_000,
        seed: 5,
        span_offset_bytes: span.offset_bytes,
        span_bytes: span.bytes,
        references: true,
        slo_ns: None,
        method: Method::default(),
    };
    let block = 77;
    let mut flip = |path: &Path, span_offset_bytes: u64| {
        if damage {
            let file = fs::File::options().read(true).write(true).open(path).unwrap();
            let at = span_offset_bytes + block * 4096 + 1_000;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            file.sync_all().unwrap();
        }
    };
    session::run(&bench, &plan, &folder.join("out"), Vec::new(), &mut flip).unwrap()
}

#[test]
fn one_wrong_byte_voids_the_run_of_every_arm() {
    if support::lacks_io_uring() {
        return;
    }
    for workload in ["randwrite-4k", "randread-4k"] {
        let folder = support::folder();
        let session = measure(folder.path(), workload, true);
        assert_eq!((session.exit_code(), session.invalid.len()), (2, 3), "{:?}", session.invalid);
        for row in &session.data.runs {
            assert!(!row.valid && row.invalid_reason.contains("block 77"), "{row:?}");
        }
        let page = fs::read_to_string(&session.report).unwrap();
        assert!(page.contains("block 77"), "the report names the block");
    }
}

#[test]
fn whole_content_is_a_valid_run() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = support::folder();
    let session = measure(folder.path(), "mixed-4k", false);
    assert_eq!((session.exit_code(), session.invalid.len()), (0, 0));
}

/// A device that answers at once must look many times as fast as a file on a disk.
#[test]
fn figures_move_with_the_device() {
    if support::lacks_io_uring() {
        return;
    }
    let null = runner_cost::on_null(4, Content::Stamped, 200_000_000, 5).unwrap();
    let folder = support::folder();
    let session = measure(folder.path(), "randwrite-4k", false);
    let p50 = null.write.latency_ns.value_at_quantile(0.5);
    for run in &session.data.runs {
        let histogram = session.data.histograms[&run.run].write.as_ref().unwrap();
        assert!(histogram.value_at_quantile(0.5) > 3 * p50, "{}: {p50}", run.arm);
        assert!(run.operations.unwrap() * 3 < null.write.operations, "{}", run.arm);
    }
}
