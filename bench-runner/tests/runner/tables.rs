//! `scripts/readme-tables`: the README's tables are those of the reference set, and their numbers those of its CSV files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bench_runner::results::RunData;

use crate::claims;

const MARKS: &str = "before\n\n<!-- Made by scripts/readme-tables from results/reference; what stands here is written over. -->\nold\n\
                     <!-- Here end the tables. -->\nafter\n";
const PEERS: &str = "suite,phase,chain_depth,ours,peer,blocks,iops_ratio,ci_low,ci_high,reference,of_own_raw,of_own_raw_ci_low,\
                     of_own_raw_ci_high,durability_ours,durability_peer,measured_in\n\
                     cliff,first-touch,1,overlay,qcow2-overlay,5,2.51,2.4,2.6,raw-qemu-nbd,1.52,1.4,1.7,a,b,device\n\
                     cliff,first-touch,1,cow,dm-thin,5,4.44,4,5,raw,4.45,4,5,a,\"b, c\",guest\n\
                     chain,oldest-warm,1,cow,qcow2-overlay,5,8.88,8,9,raw-qemu-nbd,1.1,1,1.2,a,b,device\n\
                     chain,oldest-warm,16,cow,qcow2-overlay,5,3.25,3,3.5,raw-qemu-nbd,,,,a,b,device\n";

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn readme_tables(arguments: &[&Path]) -> Output {
    Command::new(checkout().join("scripts/readme-tables")).args(arguments).output().unwrap()
}

/// The cells of the table row that begins with these.
fn row(readme: &str, begin: &str) -> Vec<String> {
    let line =
        readme.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin} in {readme}"));
    line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn the_readme_says_what_the_reference_set_does() {
    let output = readme_tables(&[Path::new("--check")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tables_are_made_of_the_set_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (set, readme) = (folder.path().join("set"), folder.path().join("README.md"));
    fs::write(&readme, MARKS).unwrap();
    let make = || {
        let output = readme_tables(&[&set, &readme]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(&readme).unwrap()
    };
    let text = make();
    assert!(
        text.contains("no reference result set") && text.ends_with("after\n") && !text.contains("\nold\n"),
        "{text}"
    );
    // One folder has all that is needed here; in a set each part has its own.
    claims::run(&set.join("loads"));
    for part in ["snapshots", "recovery", "peers"] {
        let status =
            Command::new("cp").arg("-r").arg(set.join("loads")).arg(set.join(part)).status().unwrap();
        assert!(status.success());
    }
    fs::write(set.join("peers/peers.csv"), PEERS).unwrap();
    let text = make();
    let data = RunData::read(&set.join("loads")).unwrap();
    let pooled = |arm: &str, workload: &str, metric: &str| {
        let row = data.metrics.iter().find(|row| {
            row.run.is_none()
                && row.arm == arm
                && row.workload == workload
                && row.op == "all"
                && row.metric == metric
        });
        row.unwrap_or_else(|| panic!("{arm} {workload} {metric}")).clone()
    };
    for workload in ["randwrite-4k", "seqwrite-1m"] {
        let cells = row(&text, &format!("| {workload} | 32 |"));
        let (iops, ratio) = (pooled("raw", workload, "iops"), pooled("log/raw", workload, "iops_ratio"));
        assert_eq!(cells[2].replace(',', "").parse(), Ok(iops.value.unwrap().round()));
        let [value, low, high] =
            [ratio.value, ratio.ci_low, ratio.ci_high].map(|value| format!("{:.2}", value.unwrap()));
        assert_eq!(cells[3], format!("{value} ({low}–{high})"), "{workload}");
    }
    let cow = row(&text, "| cow | 0.2");
    assert_eq!(cow[2], "1.00, 2.00");
    assert!(cow[4].starts_with("0.88 (") && cow[5].starts_with("0.94 ("), "{cow:?}");
    assert_eq!(row(&text, "| overlay | 0.7")[2], "0.00, 1.00");
    assert_eq!(row(&text, "| 4 GiB | 64 MiB | 32 | 64 MiB")[4..], ["3", "300.0 ms", "0"]);
    let first = row(&text, "| first writes after a snapshot | overlay");
    assert_eq!(first[2..], ["qcow2-overlay", "2.51 (2.40–2.60)", "1.52 (1.40–1.70)"]);
    let in_guest = row(&text, "| first writes after a snapshot | cow");
    assert_eq!(in_guest[2..4], ["dm-thin (both in a guest, on a memory disk)", "4.44 (4.00–5.00)"]);
    let deepest = row(&text, "| reads of the oldest of 16 snapshots | cow");
    assert_eq!(deepest[2..], ["qcow2-overlay", "3.25 (3.00–3.50)", "–"]);
    assert!(!text.contains("8.88"), "of a chain the longest alone");
    assert!(
        text.contains("Synthetic device, nothing was measured, 68719476736 bytes; Synthetic CPU"),
        "{text}"
    );
    assert!(!text.contains("trial and no reference"));
    assert_eq!(make(), text, "twice is as once");
    let check = || readme_tables(&[Path::new("--check"), &set, &readme]).status.code();
    assert_eq!(check(), Some(0));
    // A number that the set does not have is found, and made good.
    fs::write(&readme, text.replace("1.00, 2.00", "1.00, 1.00")).unwrap();
    assert_eq!(check(), Some(1));
    assert_eq!(make(), text);
    // The tables follow the rows.
    let metrics = set.join("snapshots/metrics.csv");
    let rows = fs::read_to_string(&metrics).unwrap();
    let changed: String = rows
        .lines()
        .map(|line| match line.starts_with(",,cow,cow,cliff,") && line.contains(",device_reads,total,1,") {
            true => line.replace(",device_reads,total,1,", ",device_reads,total,1.5,") + "\n",
            false => format!("{line}\n"),
        })
        .collect();
    assert_ne!(rows, changed);
    fs::write(&metrics, changed).unwrap();
    assert!(make().contains("| 1.50, 2.00 |"));
    // A part that did not end is no part of a set; a part that is not there is said not to be.
    let manifest = set.join("snapshots/manifest.json");
    let complete = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, complete.replace("\"complete\": true", "\"complete\": false")).unwrap();
    let before = fs::read_to_string(&readme).unwrap();
    assert!(!readme_tables(&[&set, &readme]).status.success());
    assert_eq!(fs::read_to_string(&readme).unwrap(), before, "a failure changes nothing");
    fs::remove_dir_all(set.join("snapshots")).unwrap();
    assert!(make().contains("**Snapshots**\n\nNot in this set."));
    // Parts of two builds and days are told with both; those of two machines are no set.
    let manifest = set.join("recovery/manifest.json");
    let alone = fs::read_to_string(&manifest).unwrap();
    let of_loads = RunData::read(&set.join("loads")).unwrap().manifest;
    let (commit, begun) = (&of_loads.environment.git_commit, &of_loads.started_utc);
    let later = alone.replace(commit, "fedcba9876543210").replace(begun, "2099-01-02T00:00:00.000Z");
    fs::write(&manifest, &later).unwrap();
    let text = make();
    assert!(text.contains(&format!("commit {}, fedcba987654;", &commit[..12])), "{text}");
    assert!(text.contains(&format!("{} to 2099-01-02. ", &begun[..10])), "{text}");
    let other = later.replace("Synthetic CPU", "Another CPU");
    assert_ne!(other, later);
    fs::write(&manifest, other).unwrap();
    let output = readme_tables(&[&set, &readme]);
    assert_eq!(output.status.code(), Some(4));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("cpu_model is not the same: Another CPU; Synthetic CPU"), "{told}");
    fs::write(&manifest, alone).unwrap();
    // Few blocks are no reference.
    for part in ["loads", "recovery", "peers"] {
        let manifest = set.join(part).join("manifest.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"repeats\": 5", "\"repeats\": 2")).unwrap();
    }
    assert!(make().contains("**This is a trial and no reference: 2 blocks.**"));
    fs::write(&readme, "no marks\n").unwrap();
    assert_eq!(readme_tables(&[&set, &readme]).status.code(), Some(4));
}
