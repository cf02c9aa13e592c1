//! An export as a device: `run` and `plan` over NBD, from the command line to the run folder, and the peers' programs.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bench_runner::results::RunData;

use crate::nbd_server::{Offer, Server, memory};
use crate::support::{self, COPIES, expect, run_in, text, words};

fn folder() -> tempfile::TempDir {
    // Sockets have short names.
    tempfile::tempdir().unwrap()
}

const SHORT: [&str; 8] = ["--queue-depth", "8", "--seconds", "1", "--warmup", "0", "--repeats", "1"];

fn run(folder: &Path, uri: &str, destroy: &str, workloads: &str, more: &[&str]) -> Output {
    let base = ["run", "--device", uri, "--destroy", destroy, "--out", "out", "--span", "8388608"];
    run_in(folder, &[&base[..], &SHORT, &["--workload", workloads], more].concat())
}

fn offer() -> Offer {
    Offer { size_bytes: 16 << 20, ..Offer::default() }
}

#[test]
fn an_export_is_measured_and_verified_and_a_wrong_byte_voids_the_run() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let server = Server::start(there.path(), memory(&offer(), |_, _| {}));
    // Without the argument nothing is written, and the refusal prints it.
    let refused = run_in(there.path(), &["run", "--device", &server.uri(), "--out", "out"]);
    let (_, stderr) = expect(&refused, 3);
    assert!(stderr.contains("--destroy disk:16777216"), "{stderr}");
    let planned = run_in(there.path(), &["plan", "--device", &server.uri(), "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(object["destroy"], "disk:16777216", "{object}");
    assert_eq!(object["arms"], serde_json::json!(["nbd"]));
    let output =
        run(there.path(), &server.uri(), "disk:16777216", "randwrite-4k,randread-4k,durable-4k", &[]);
    expect(&output, 0);
    let data = RunData::read(&there.path().join("out")).unwrap();
    assert_eq!(data.manifest.device.kind, "NBD export");
    assert_eq!(data.runs.len(), 3);
    for row in &data.runs {
        assert!(row.arm == "nbd" && row.valid && row.verified_blocks == Some(2048), "{row:?}");
        assert!(row.operations > Some(0) && row.io_path.starts_with("NBD over 1 connections"), "{row:?}");
    }
    // The control: one bit of one block, as it is read back.
    let elsewhere = folder();
    let meddle = |offset: u64, bytes: &mut [u8]| {
        let at = 5_000_000_u64;
        if (offset..offset + bytes.len() as u64).contains(&at) {
            bytes[(at - offset) as usize] ^= 4;
        }
    };
    let wrong = Server::start(elsewhere.path(), memory(&offer(), meddle));
    let output = run(elsewhere.path(), &wrong.uri(), "disk:16777216", "randwrite-4k", &[]);
    let (_, stderr) = expect(&output, 2);
    let data = RunData::read(&elsewhere.path().join("out")).unwrap();
    assert!(data.runs.iter().all(|row| !row.valid && row.invalid_reason.contains("block 1220")), "{stderr}");
}

#[test]
fn what_an_export_cannot_is_refused() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let silent = Offer { flags: icecore::format::nbd::HAS_FLAGS, ..offer() };
    let server = Server::start(there.path(), memory(&silent, |_, _| {}));
    let refusal = |code: i32, more: &[&str]| {
        let output = run(there.path(), &server.uri(), "disk:16777216", "durable-4k", more);
        let (_, stderr) = expect(&output, code);
        assert!(!there.path().join("out").join("runs.csv").exists(), "nothing was measured");
        stderr
    };
    let stderr = refusal(4, &[]);
    assert!(stderr.contains("takes no flushes") && stderr.contains("durable-4k"), "{stderr}");
    let stderr = refusal(64, &["--backend", "log"]);
    assert!(stderr.contains("log needs a block device"), "{stderr}");
    let stderr = refusal(4, &["--connections", "2"]);
    assert!(stderr.contains("CAN_MULTI_CONN"), "{stderr}");
    // Somebody else's: a file system's mark where ext4 has it.
    let elsewhere = folder();
    let ext4 = |offset: u64, bytes: &mut [u8]| {
        if offset == 0 && bytes.len() > 1400 {
            bytes[1080..1082].copy_from_slice(&[0x53, 0xEF]);
            bytes[1024..1028].copy_from_slice(&128_u32.to_le_bytes());
            bytes[1028..1032].copy_from_slice(&4096_u32.to_le_bytes());
            bytes[1056..1060].copy_from_slice(&32_768_u32.to_le_bytes());
            bytes[1064..1068].copy_from_slice(&128_u32.to_le_bytes());
            bytes[1100..1104].copy_from_slice(&1_u32.to_le_bytes());
        }
    };
    let other = Server::start(elsewhere.path(), memory(&offer(), ext4));
    let output = run(elsewhere.path(), &other.uri(), "disk:16777216", "randwrite-4k", &[]);
    let (_, stderr) = expect(&output, 3);
    assert!(stderr.contains("signature"), "{stderr}");
}

/// A server of somebody else, ended with the test.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ended_before = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn foreign(folder: &Path, program: &str, arguments: &[&str]) -> Option<(Foreign, String)> {
    let socket = folder.join("s");
    let child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = match child {
        Ok(child) => Foreign(child),
        Err(error) => {
            println!("skipped: {program}: {error}");
            return None;
        }
    };
    let since = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(since.elapsed() < Duration::from_secs(20), "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((child, format!("nbd+unix:///?socket={}", socket.display())))
}

fn image(folder: &Path) {
    std::fs::File::create(folder.join("disk.img")).unwrap().set_len(32 << 20).unwrap();
}

#[test]
fn qemu_nbd_and_nbdkit_are_measured_and_refuse_by_name() {
    if support::lacks_io_uring() {
        return;
    }
    let qemu: &[&str] = &["--socket=s", "--persistent", "--shared=4", "--format=raw", "disk.img"];
    let nbdkit: &[&str] = &["--foreground", "--unix", "s", "file", "disk.img"];
    for (program, arguments) in [("qemu-nbd", qemu), ("nbdkit", nbdkit)] {
        let there = folder();
        image(there.path());
        // qemu-nbd wants the socket's whole path.
        let whole = format!("--socket={}", there.path().join("s").display());
        let arguments: Vec<&str> =
            arguments.iter().map(|one| if *one == "--socket=s" { whole.as_str() } else { *one }).collect();
        let Some((_server, uri)) = foreign(there.path(), program, &arguments) else { continue };
        let output = run(there.path(), &uri, "nbd:33554432", "randwrite-4k", &["--connections", "2"]);
        let (_, stderr) = expect(&output, 0);
        let data = RunData::read(&there.path().join("out")).unwrap();
        assert!(data.runs.iter().all(|row| row.valid && row.verified_blocks == Some(2048)), "{stderr}");
        if program == "qemu-nbd" {
            std::fs::remove_dir_all(there.path().join("out")).unwrap();
            let missing = uri.replace(":///?", ":///other?");
            let output = run(there.path(), &missing, "other:1", "randwrite-4k", &[]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains("no export \"other\""), "{stderr}");
        }
    }
    let there = folder();
    image(there.path());
    let whole = format!("--socket={}", there.path().join("s").display());
    let read_only = ["--read-only", &whole, "--persistent", "--format=raw", "disk.img"];
    if let Some((_server, uri)) = foreign(there.path(), "qemu-nbd", &read_only) {
        // The first connection was the one that looked whether it listens.
        let output = run(there.path(), &uri, "nbd:33554432", "randwrite-4k", &[]);
        let (_, stderr) = expect(&output, 3);
        assert!(stderr.contains("read-only"), "{stderr}");
    }
}

/// The table of ratios, from programs that cost nothing: a peer that is a file, and one that is an export of ours.
#[test]
fn peers_are_measured_in_turns_on_the_same_device() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let scripts = there.path().join("peers");
    std::fs::create_dir(&scripts).unwrap();
    let peer = |name: &str, text: &str| support::peer(&scripts, there.path(), name, text);
    peer("copies", COPIES);
    // The control: a snapshot that shows what was written later.
    peer(
        "lies",
        &COPIES
            .replace("take) cp $here/copied $here/$2 ;;", "take) ;;")
            .replace("echo $here/$2", "echo $here/copied"),
    );
    peer("missing", "echo 'the program x is missing: apt-get install y' >&2; exit 1\n");
    let server = Server::start(there.path(), memory(&offer(), |_, _| {}));
    let uri = server.uri();
    peer(
        "exported",
        &format!("case $1 in\ndescribe) echo 'reference: self' ;;\nprepare | take) echo '{uri}' ;;\nesac\n"),
    );
    let device = there.path().join("device.img");
    std::fs::File::create(&device).unwrap().set_len(128 << 20).unwrap();
    let peers = |names: &str, suites: &str, out: &str| {
        let plan = words(
            "peers --device device.img --destroy device.img:134217728 --backend log --span 8388608 --repeats 2 \
             --seconds 0.15 --warmup 0.05 --snapshots 1,2 --seed 5",
        );
        let more = ["--scripts", text(&scripts), "--peers", names, "--suite", suites, "--out", out];
        run_in(there.path(), &[&plan[..], &more].concat())
    };
    let output = peers("copies,exported,missing", "cliff,chain,quick", "out");
    let (_, stderr) = expect(&output, 0);
    assert!(stderr.contains("left out: missing: ") && stderr.contains("apt-get install y"), "{stderr}");
    assert!(stderr.contains("copies: a copy"), "durability stands beside: {stderr}");
    let data = RunData::read(&there.path().join("out")).unwrap();
    assert!(data.manifest.complete && data.runs.iter().all(|row| row.valid), "{stderr}");
    let table = std::fs::read_to_string(there.path().join("out/peers.csv")).unwrap();
    for row in [
        "cliff,first-touch,1,log,copies,2,",
        "cliff,settled,1,raw,exported,2,",
        "chain,newest-warm,2,log,copies,2,",
        "chain,oldest-warm,1,log,copies,2,",
        "quick,randwrite-4k-qd32,,log,exported,2,",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    // Each arm of a suite once in a block, in an order of its own.
    let orders: Vec<Vec<(u32, &str)>> = [1, 2]
        .map(|block| {
            let of_block = data.runs.iter().filter(|row| row.block == block && row.workload == "cliff");
            let mut order: Vec<(u32, &str)> = of_block.map(|row| (row.arm_order, row.arm.as_str())).collect();
            order.sort_unstable();
            order.dedup();
            order
        })
        .into();
    assert!(orders.iter().all(|order| order.len() == 4), "{orders:?}");
    let removed = std::fs::read_to_string(there.path().join("removed")).unwrap();
    assert_eq!(removed.lines().count(), 2 * 3, "taken away after each turn");
    assert_eq!(std::fs::read_to_string(there.path().join("device")).unwrap().trim(), "134217728");
    let output = peers("lies", "cliff", "lied");
    let (_, stderr) = expect(&output, 2);
    assert!(stderr.contains("cliff lies: DOES NOT COUNT") && stderr.contains("wrong content"), "{stderr}");
}
