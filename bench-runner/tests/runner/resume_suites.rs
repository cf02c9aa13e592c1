//! Suites that are killed and gone on with: snapshots, peers, recoveries, the scratch file of `quick`. Each ends with the rows that it has when
//! it is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bench_runner::cli::{QuickOptions, ResultOptions};
use bench_runner::quick::{self, Extent};
use bench_runner::results::{RecoveryRow, RunData, RunRow};

use crate::resume::{
    FILE_BYTES, begun, copy, kill, kill_after, out, resumed, rows, start, unfinished, wait_for_rows,
};
use crate::support::{self, COPIES, expect, folder_with_disk, run_in, words};

/// Takes the last so many lines off a table.
fn shorten(table: &Path, lines: usize) {
    let text = fs::read_to_string(table).unwrap();
    let kept: Vec<&str> = text.lines().collect();
    fs::write(table, kept[..kept.len() - lines].join("\n") + "\n").unwrap();
}

#[test]
fn killed_suites_of_snapshots_end_with_the_same_rows() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    let plan = words(
        "snapshots --backend log --suite cliff,chain --snapshots 1,2 --changes 16 --seconds 0.1 --warmup 0.05 --repeats 1 \
         --span 8388608 --seed 5",
    );
    expect(&run_in(here, &begun(&plan, "alone")), 0);
    let (out, resume) = (out(here), resumed("snapshots"));
    let mut child = start(here, &begun(&plan, "out"));
    for (runs, moment) in [(2, 20), (9, 5)] {
        assert!(kill_after(child, here, runs, Duration::from_millis(moment)), "it ended before {runs} runs");
        child = start(here, &resume);
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(rows(&out), rows(&here.join("alone")));
    // Killed while the parts of an arm were written down.
    unfinished(&out);
    shorten(&out.join("runs.csv"), 1);
    expect(&run_in(here, &resume), 0);
    assert_eq!(rows(&out), rows(&here.join("alone")));
}

/// A peer that has the device until it is taken away, as a mount or a server has.
const HOLDS: &str = "prepare) truncate -s $2 $here/copied; echo $here/copied; exec 9<$PEERS_DEVICE; flock 9
    sleep 300 </dev/null >/dev/null 2>&1 & echo $! >$here/holder ;;
    remove) rm -f $here/copied; [ ! -e $here/holder ] || kill $(cat $here/holder); rm -f $here/holder ;;\n";

/// The table of ratios has every part of a suite in which both were measured, in so many blocks.
fn expect_whole_table(folder: &Path) {
    let mut blocks: BTreeMap<Vec<String>, u32> = BTreeMap::new();
    let runs = RunData::read(folder).unwrap().runs;
    let is_measured = |run: &&RunRow| run.valid && run.operations > Some(0) && run.measured_ns > Some(0);
    for ours in runs.iter().filter(is_measured).filter(|run| run.backend != "peer") {
        let part = |run: &RunRow| (run.block, run.workload.clone(), run.phase.clone(), run.chain_depth);
        for peer in
            runs.iter().filter(is_measured).filter(|run| run.backend == "peer" && part(run) == part(ours))
        {
            let depth = ours.chain_depth.map_or(String::new(), |depth| depth.to_string());
            let row = [&ours.workload, &ours.phase, &depth, &ours.arm, &peer.arm];
            *blocks.entry(row.map(String::to_owned).into()).or_default() += 1;
        }
    }
    let text = fs::read_to_string(folder.join("peers.csv")).unwrap();
    let cells = |line: &str| line.split(',').take(6).map(str::to_owned).collect::<Vec<_>>();
    let found: BTreeSet<Vec<String>> = text.lines().skip(1).map(cells).collect();
    let expected = blocks.into_iter().map(|(row, blocks)| [row, vec![blocks.to_string()]].concat());
    assert_eq!(found, expected.collect());
}

#[test]
fn killed_peers_are_taken_away_and_end_with_the_same_rows() {
    let Some(folder) = folder_with_disk(FILE_BYTES) else { return };
    let here = folder.path();
    fs::create_dir(here.join("peers")).unwrap();
    support::peer(&here.join("peers"), here, "copies", COPIES);
    let holds = COPIES.replace("prepare)", &format!("{HOLDS}prepare)"));
    support::peer(&here.join("peers"), here, "holds", &holds);
    let plan = words(
        "peers --backend log --scripts peers --peers copies,holds --suite cliff --span 8388608 --repeats 2 --seconds 0.1 \
         --warmup 0.05 --snapshots 1 --seed 5",
    );
    expect(&run_in(here, &begun(&plan, "alone")), 0);
    let out = out(here);
    let mut child = start(here, &begun(&plan, "out"));
    // While a peer has the device: nobody else can claim it until the peer is taken away.
    let begun_at = Instant::now();
    while !here.join("holder").exists() && begun_at.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(kill(child, Duration::from_millis(5)) && here.join("holder").exists());
    assert!(fs::File::open(here.join("disk")).unwrap().try_lock().is_err(), "nobody has the device");
    child = start(here, &resumed("peers"));
    assert!(wait_for_rows(&mut child, &out.join("runs.csv"), 7));
    assert!(kill(child, Duration::from_millis(30)), "it ended before");
    // What the kernel still does for the runner holds the device for a moment; what a peer does, until it is taken away.
    let is_held = || fs::File::open(here.join("disk")).unwrap().try_lock().is_err();
    while is_held() && !here.join("holder").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (_, stderr) = expect(&run_in(here, &resumed("peers")), 0);
    assert!(stderr.contains("What the figures promise"), "{stderr}");
    assert_eq!(rows(&out), rows(&here.join("alone")));
    expect_whole_table(&out);
    assert!(!here.join("holder").exists());
    // Another peer than those of the plan is another plan.
    unfinished(&out);
    fs::remove_file(here.join("peers/copies")).unwrap();
    let (_, stderr) = expect(&run_in(here, &resumed("peers")), 64);
    assert!(stderr.contains("peers/copies"), "{stderr}");
    support::peer(&here.join("peers"), here, "copies", &COPIES.replace("a copy", "another"));
    let (_, stderr) = expect(&run_in(here, &resumed("peers")), 3);
    assert!(stderr.contains("plan.digest: "), "{stderr}");
}

/// What a recovery is of, beside its figures.
type Kill = (u64, String, u64, u64, u32, u32, u64);

fn kills(folder: &Path) -> BTreeSet<Kill> {
    let data = RunData::read(folder).unwrap();
    assert!(data.manifest.complete && data.manifest.ended_utc.is_some());
    let kill = |row: &RecoveryRow| {
        assert!(row.valid && row.lost == Some(0) && row.acknowledged > 0, "{row:?}");
        let sizes = (row.volume_bytes, row.checkpoint_bytes);
        (row.run, row.cut.clone(), sizes.0, sizes.1, row.queue_depth, row.tail_percent, row.seed)
    };
    let kills: BTreeSet<Kill> = data.recovery.iter().map(kill).collect();
    assert_eq!(kills.len(), data.recovery.len(), "one is there twice");
    kills
}

#[test]
fn killed_recoveries_end_with_the_same_rows() {
    let Some(folder) = folder_with_disk(2 * FILE_BYTES) else { return };
    let here = folder.path();
    let destroy = "--destroy disk:134217728";
    let plan = format!(
        "recovery --device disk --size 33554432 --checkpoint 2097152 --queue-depth 2 --tail 30,60 --repeats 2 --seed 5 {destroy}"
    );
    let begin = |out: &'static str| [&words(&plan)[..], &["--out", out]].concat();
    let resume = format!("recovery --resume out {destroy}");
    expect(&run_in(here, &begin("alone")), 0);
    assert_eq!(kills(&here.join("alone")).len(), 4);
    let out = out(here);
    let mut child = start(here, &begin("out"));
    for recoveries in [1, 2] {
        assert!(wait_for_rows(&mut child, &out.join("recovery.csv"), recoveries));
        // Its own victim may have the device still, and is waited for.
        assert!(kill(child, Duration::from_millis(60)), "it ended before");
        child = start(here, &words(&resume));
    }
    let (_, stderr) = expect(&child.wait_with_output().unwrap(), 0);
    assert!(stderr.contains("[4/4]") && !stderr.contains("[1/4]"), "{stderr}");
    assert_eq!(kills(&out), kills(&here.join("alone")));
    // Killed within a row; a row of another plan is refused.
    unfinished(&out);
    let table = out.join("recovery.csv");
    let text = fs::read_to_string(&table).unwrap();
    fs::write(&table, &text[..text.len() - 30]).unwrap();
    expect(&run_in(here, &words(&resume)), 0);
    assert_eq!(kills(&out), kills(&here.join("alone")));
    unfinished(&out);
    shorten(&table, 1);
    let text = fs::read_to_string(&table).unwrap();
    fs::write(&table, text.replacen(",30,", ",31,", 1)).unwrap();
    let (_, stderr) = expect(&run_in(here, &words(&resume)), 3);
    assert!(stderr.contains("tail 31 %") && stderr.contains("the folder has been changed"), "{stderr}");
}

/// Of a simulated disk even the figures are the same.
#[cfg(feature = "sim")]
#[test]
fn simulated_recoveries_are_gone_on_with() {
    let folder = support::folder();
    let here = folder.path();
    let plan = words(
        "recovery --simulated --create 134217728 --size 16777216 --checkpoint 2097152 --queue-depth 1 --repeats 1 --seed 3 \
         --tail 30,60,90 --out out",
    );
    expect(&run_in(here, &plan), 0);
    let out = out(here);
    let alone = RunData::read(&out).unwrap().recovery;
    for left in [0, 1, 2] {
        unfinished(&out);
        shorten(&out.join("recovery.csv"), alone.len() - left);
        expect(&run_in(here, &["recovery", "--resume", "out"]), 0);
        assert_eq!(RunData::read(&out).unwrap().recovery, alone);
    }
}

/// As the command does it, on little and for a short time; the folder is cut as a kill would have cut it, and so is the scratch file.
#[test]
fn a_quick_look_is_gone_on_with_on_the_same_scratch_file() {
    if support::lacks_io_uring() {
        return;
    }
    let extent = Extent {
        scratch_bytes: 80 << 20,
        calibration_bytes: 4 << 20,
        span_bytes_min: 4 << 20,
        priming_max: Duration::ZERO,
        budget: Duration::ZERO,
        warmup: Duration::from_millis(1),
        measure_min: Duration::from_millis(10),
    };
    let folder = support::folder();
    let here = folder.path();
    let results = ResultOptions { out: None, json: false };
    let begin = QuickOptions { resume: None, scratch: Some(here.to_owned()), results };
    let alone = here.join("alone");
    quick::run(&begin, &extent, &alone).unwrap();
    let expected = rows(&alone);
    let manifest = RunData::read(&alone).unwrap().manifest;
    let scratch = Path::new(&manifest.device.path);
    assert!(scratch.starts_with(here) && !scratch.exists());
    let out = out(here);
    let resume = QuickOptions { resume: Some(out.clone()), scratch: None, ..begin };
    for (cut, leaves) in [(1, true), (expected.len() / 2, false)] {
        let _ = fs::remove_dir_all(&out);
        copy(&alone, &out);
        unfinished(&out);
        shorten(&out.join("runs.csv"), cut);
        if leaves {
            fs::File::create_new(scratch).unwrap().set_len(extent.scratch_bytes).unwrap();
        }
        let session = quick::run(&resume, &extent, &out).unwrap();
        assert_eq!((session.exit_code(), rows(&out)), (0, expected.clone()), "{:?}", session.invalid);
        assert!(!scratch.exists());
    }
    // What is no scratch file is left as it is; one that somebody has, too.
    let refused = |says: &str| {
        unfinished(&out);
        let failure = quick::run(&resume, &extent, &out).unwrap_err();
        assert!(failure.exit_code == 3 && failure.message.contains(says), "{failure}");
        let manifest = out.join("manifest.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(manifest, text.replacen("\"complete\": false", "\"complete\": true", 1)).unwrap();
        assert!(scratch.exists());
    };
    fs::write(scratch, "of somebody else").unwrap();
    refused("no scratch file of 83886080 bytes");
    fs::File::options().write(true).open(scratch).unwrap().set_len(extent.scratch_bytes).unwrap();
    let held = fs::File::open(scratch).unwrap();
    held.lock().unwrap();
    refused("another process has it");
    drop(held);
    let failure = quick::run(&resume, &extent, &out).unwrap_err();
    assert!(failure.message.contains("is complete"), "{failure}");
}
