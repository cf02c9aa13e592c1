//! `recovery`: a process that is really killed, what its volume has afterwards, and that a loss voids the recovery.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bench_runner::cli::{Cli, Command as Subcommand, RecoveryOptions};
use bench_runner::recovery::{self, Acknowledged};
use bench_runner::session::Session;
use clap::Parser;
use icecore::format::batch::{self, Decoded};

use crate::support::{self, expect, folder, run, run_in, text};

const CHECKPOINT: &str = "2097152";

fn options(folder: &Path, more: &[&str]) -> RecoveryOptions {
    let disk = folder.join("disk");
    let base = ["bench-runner", "recovery", "--device", disk.to_str().unwrap(), "--create", "134217728"];
    let base = [&base[..], &["--checkpoint", CHECKPOINT, "--repeats", "1", "--seed", "3"], more].concat();
    let Subcommand::Recovery(options) = Cli::parse_from(base).command else {
        unreachable!("it was asked for")
    };
    options
}

fn measure(folder: &Path, more: &[&str], after_kill: recovery::AfterKill) -> Session {
    let program = Path::new(env!("CARGO_BIN_EXE_bench-runner"));
    recovery::run(&options(folder, more), program, &folder.join("out"), after_kill).unwrap()
}

#[test]
fn a_killed_process_leaves_all_that_was_acknowledged() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let arguments = ["--tail", "30,95", "--queue-depth", "1,8", "--size", "33554432"];
    let mut kills = 0;
    let session = measure(folder.path(), &arguments, &mut |_, _| kills += 1);
    assert_eq!((session.exit_code(), kills), (0, 4), "{:?} {:?}", session.invalid, session.stopped);
    let rows = &session.data.recovery;
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert!(row.valid && row.lost == Some(0) && row.acknowledged > 0 && row.cut == "sigkill", "{row:?}");
        assert_eq!((row.volume_bytes, row.checkpoint_bytes), (33_554_432, 2_097_152));
        let steps = [row.detected_ns, row.opened_ns, row.first_read_ns, row.applied_ns];
        assert!(steps[0].is_some() && steps.is_sorted(), "{row:?}");
        // Something was read of the log; how much is lost with the memory of the process is not known.
        assert!(row.tail_bytes.unwrap() >= 8192 * row.tail_batches.unwrap().min(1), "{row:?}");
        // While a checkpoint is written, the log goes on behind the one before it.
        assert!(row.tail_bytes <= Some(2 * row.checkpoint_bytes + (2 << 20)), "{row:?}");
    }
    let page = fs::read_to_string(&session.report).unwrap();
    assert!(page.contains("<h2>Recovery</h2>") && page.contains("nothing acknowledged was lost"));
    assert_eq!(page.matches("<svg").count(), 2);
    // The report is made again from the folder alone.
    expect(&run(&["report", text(&folder.path().join("out"))]), 0);
}

#[test]
fn a_loss_voids_the_recovery() {
    if support::lacks_io_uring() {
        return;
    }
    // One block is said to have been acknowledged once more than it was.
    let other = folder();
    let mut forget = |_: &Path, acknowledged: &mut Acknowledged| {
        *acknowledged.first_entry().unwrap().into_mut() += 1_000;
    };
    let session = measure(other.path(), &["--tail", "50", "--queue-depth", "4"], &mut forget);
    assert_eq!(
        (session.exit_code(), session.data.recovery[0].lost),
        (2, Some(1)),
        "{:?}",
        session.data.recovery
    );
    assert!(session.invalid[0].contains("not there"));
    // A batch in the middle of the log is damaged: the volume does not open, and that is the result.
    let folder = folder();
    let mut damage = |path: &Path, _: &mut Acknowledged| {
        let bytes = fs::read(path).unwrap();
        let found = |at: &usize| match batch::decode(&bytes[*at..], *at as u64, 4096) {
            Decoded::Valid(batch) => Some((batch.header.batch.get(), *at)),
            _ => None,
        };
        let newest = (0..bytes.len()).step_by(4096).filter_map(|at| found(&at)).max().unwrap();
        // Far enough back that later ones have promised it, near enough to lie behind the checkpoint.
        let (_, at) = (0..bytes.len())
            .step_by(4096)
            .filter_map(|at| found(&at))
            .find(|one| one.0 + 80 == newest.0)
            .unwrap();
        fs::File::options().write(true).open(path).unwrap().write_all_at(&[0xEE; 64], at as u64).unwrap();
    };
    let session = measure(folder.path(), &["--tail", "90", "--queue-depth", "1"], &mut damage);
    let row = &session.data.recovery[0];
    assert_eq!((session.exit_code(), row.valid, row.lost), (2, false, None), "{row:?}");
    assert!(row.invalid_reason.contains("its log is damaged behind sequence"), "{row:?}");
}

#[test]
fn refusals_write_nothing() {
    if support::lacks_io_uring() {
        return;
    }
    let folder = folder();
    let disk = folder.path().join("disk");
    let refused = |arguments: &[&str], exit_code: i32| {
        let places = ["recovery", "--device", "disk", "--out", "out"];
        expect(&run_in(folder.path(), &[&places, arguments].concat()), exit_code).1
    };
    let says = refused(&["--create", "134217728", "--size", "134217728"], 3);
    assert!(says.contains("at least"), "{says}");
    assert!(!disk.exists());
    fs::write(&disk, vec![7; 64 << 20]).unwrap();
    let says = refused(&[], 3);
    assert!(says.contains("--destroy disk:67108864"), "{says}");
    refused(&["--tail", "100"], 64);
    assert!(fs::read(&disk).unwrap().iter().all(|byte| *byte == 7) && !folder.path().join("out").exists());
}

#[cfg(feature = "sim")]
#[test]
fn a_simulated_cut_says_so_and_repeats() {
    let rows = || {
        let folder = folder();
        let base = ["bench-runner", "recovery", "--simulated", "--create", "134217728", "--size", "16777216"];
        let more = ["--checkpoint", CHECKPOINT, "--repeats", "1", "--seed", "3", "--tail", "90"];
        let cli = Cli::parse_from([&base[..], &more].concat());
        let Subcommand::Recovery(options) = cli.command else { unreachable!("it was asked for") };
        let session =
            recovery::run(&options, Path::new(""), &folder.path().join("out"), &mut |_, _| {}).unwrap();
        assert_eq!(session.exit_code(), 0, "{:?} {:?}", session.invalid, session.stopped);
        session.data.recovery
    };
    let first = rows();
    assert_eq!(first.len(), 2);
    for row in &first {
        assert!(
            row.valid && row.cut == "simulated" && row.acknowledged > 0 && row.lost == Some(0),
            "{row:?}"
        );
        assert!(row.first_read_ns > Some(0) && row.tail_batches > Some(0), "{row:?}");
    }
    // Virtual time follows from the seed.
    assert_eq!(first, rows());
}
