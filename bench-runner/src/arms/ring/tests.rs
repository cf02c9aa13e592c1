//! The ring arm on a temporary file: what it counted is what lies on the medium.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;

use icecore_workloads::{Found, Workload};

use super::*;

const SPAN_OFFSET_BYTES: u64 = 1 << 20;
const SPAN_BYTES: u64 = 64 << 20;

fn task(path: &Path, name: &str, queue_depth: u32) -> ArmTask {
    ArmTask {
        path: path.to_owned(),
        span_offset_bytes: SPAN_OFFSET_BYTES,
        span_bytes: SPAN_BYTES,
        workload: Workload::from_name(name).expect("a known name"),
        queue_depth,
        warmup_ns: 20_000_000,
        measure_ns: 100_000_000,
        seed: 77,
        offered_per_second: None,
        replay: None,
        until_steady: false,
    }
}

/// A file whose span holds generation 0 of the task's content, or `None` (and the reason on stderr) where
/// direct I/O or io_uring is missing. Under the build's own folder: /tmp is often a tmpfs without O_DIRECT.
fn prefilled() -> Option<tempfile::NamedTempFile> {
    let folder = std::env::current_exe().expect("the test's own path");
    let folder = folder.parent().expect("a folder");
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
    let stamper = Stamper::new(77);
    file.write_all(&vec![0xee; SPAN_OFFSET_BYTES as usize]).expect("space");
    let mut blocks = vec![0; 1 << 20];
    stamper.prepare(&mut blocks);
    for offset_bytes in (0..SPAN_BYTES).step_by(blocks.len()) {
        stamper.stamp(&mut blocks, offset_bytes, 0);
        file.write_all(&blocks).expect("space");
    }
    file.write_all(&[0xee; 8192]).expect("space");
    file.as_file().sync_all().expect("a flush");
    match Setup::new(&task(file.path(), "randread-4k", 1), 1) {
        Ok(_) => Some(file),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Every block holds its last generation, and nothing outside the span was touched.
fn assert_content(path: &Path, generations: &Generations) {
    let stamper = Stamper::new(77);
    let content = fs::read(path).expect("readable");
    let (before, rest) = content.split_at(SPAN_OFFSET_BYTES as usize);
    let (span, after) = rest.split_at(SPAN_BYTES as usize);
    assert!(before.iter().chain(after).all(|byte| *byte == 0xee));
    for (block, bytes) in span.chunks(4096).enumerate() {
        let generation = generations.counts().get(block).copied().unwrap_or(0);
        if let Err(mismatch) = stamper.verify(bytes, block as u64 * 4096, generation) {
            panic!("block {block}: {mismatch}");
        }
    }
}

#[test]
fn every_workload_counts_what_it_did() {
    let Some(file) = prefilled() else { return };
    let stamper = Stamper::new(77);
    let of_blocks = |workload: &&Workload| workload.unit_bytes() == 4096 && !workload.name().contains(':');
    for workload in Workload::all().iter().filter(of_blocks) {
        for queue_depth in [1, 8] {
            let outcome = run(&task(file.path(), workload.name(), queue_depth)).expect("a measurement");
            let figures = [(&outcome.read, workload.reads()), (&outcome.write, workload.writes())];
            for (figures, expected) in figures {
                assert_eq!(figures.operations > 0, expected, "{workload}");
                let most = figures.operations * u64::from(workload.operation_bytes_max());
                let all_alike = workload.operation_bytes().is_some();
                assert!(if all_alike { figures.bytes == most } else { figures.bytes <= most }, "{workload}");
                assert_eq!(figures.latency_ns.len(), figures.operations);
            }
            let operations = outcome.read.operations + outcome.write.operations;
            let flushes = if workload.durability() == Durability::WriteThenFlush {
                outcome.write.operations
            } else {
                0
            };
            assert_eq!(outcome.flush.operations, flushes, "{workload}");
            assert_eq!(outcome.seconds.iter().map(|second| second.operations).sum::<u64>(), operations);
            assert_eq!(outcome.elapsed_ns, 100_000_000);
            assert!(outcome.cpu_user_ns.is_some() && outcome.io_path.contains("io_uring"));

            // Warm-up and drain write too, so that at least what was counted is there.
            assert_eq!(outcome.generations.counts().is_empty(), !workload.writes());
            assert!(outcome.generations.written_bytes() >= outcome.write.bytes);
            assert_content(file.path(), &outcome.generations);

            // Back to generation 0 for the next arm.
            let mut block = vec![0; 4096];
            stamper.prepare(&mut block);
            for (index, _) in outcome.generations.counts().iter().enumerate().filter(|(_, count)| **count > 0)
            {
                let offset_bytes = index as u64 * 4096;
                stamper.stamp(&mut block, offset_bytes, 0);
                file.as_file().write_all_at(&block, SPAN_OFFSET_BYTES + offset_bytes).expect("writable");
            }
            file.as_file().sync_all().expect("a flush");
        }
    }
}

/// The negative control: one write taken back on the medium is noticed.
#[test]
fn a_lost_write_is_found() {
    let Some(file) = prefilled() else { return };
    let outcome = run(&task(file.path(), "randwrite-4k", 4)).expect("a measurement");
    assert_content(file.path(), &outcome.generations);
    let block =
        outcome.generations.counts().iter().position(|count| *count > 0).expect("something was written");
    let stamper = Stamper::new(77);
    let mut bytes = vec![0; 4096];
    stamper.prepare(&mut bytes);
    stamper.stamp(&mut bytes, block as u64 * 4096, 0);
    let offset_bytes = SPAN_OFFSET_BYTES + block as u64 * 4096;
    file.as_file().write_all_at(&bytes, offset_bytes).expect("writable");
    file.as_file().read_exact_at(&mut bytes, offset_bytes).expect("readable");
    let mismatch = stamper.verify(&bytes, block as u64 * 4096, outcome.generations.counts()[block]);
    assert!(matches!(mismatch.expect_err("stale").found, Found::StaleGeneration(_)));
}

#[test]
fn tasks_that_cannot_be_measured_are_refused() {
    let Some(file) = prefilled() else { return };
    let good = task(file.path(), "randwrite-4k", 8);
    let refused = |change: &dyn Fn(&mut ArmTask)| {
        let mut task = good.clone();
        change(&mut task);
        run(&task).expect_err("refused").to_string()
    };
    assert!(refused(&|task| task.queue_depth = 0).contains("queue depth 0"));
    assert!(refused(&|task| task.queue_depth = 1 << 20).contains("queue depth"));
    assert!(refused(&|task| task.span_offset_bytes = 512).contains("aligned"));
    assert!(refused(&|task| task.span_bytes = 15 * 4096).contains("too short"));
    assert!(refused(&|task| task.span_bytes = 1 << 40).contains("does not fit"));
    assert!(refused(&|task| task.path = "/nonexistent/device".into()).contains("/nonexistent/device"));
    let read_only = ArmTask { span_bytes: 0, ..task(file.path(), "randread-4k", 1) };
    assert!(run(&read_only).expect_err("no place").to_string().contains("too short"));
}

/// A file that loses its tail while it is read: the error names the place.
#[test]
fn a_short_transfer_names_its_place() {
    let Some(file) = prefilled() else { return };
    let mut task = task(file.path(), "randread-4k", 4);
    task.measure_ns = 20_000_000_000;
    let path = file.path().to_owned();
    let measurement = std::thread::spawn(move || run(&task));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let shortened = fs::OpenOptions::new().write(true).open(&path).expect("writable");
    shortened.set_len(SPAN_OFFSET_BYTES).expect("truncated");
    let error = measurement.join().expect("no panic").expect_err("the span is gone");
    assert_eq!(error.action, "read");
    assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof);
    let offset_bytes = error.offset_bytes.expect("an offset");
    assert!((SPAN_OFFSET_BYTES..SPAN_OFFSET_BYTES + SPAN_BYTES).contains(&offset_bytes));
    assert!(error.to_string().contains(&format!("read at byte {offset_bytes} failed")), "{error}");
}
