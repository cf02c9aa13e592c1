//! A program that embeds the engine and listens: others reach its volume while it writes, and what they were told
//! survives a power cut.
//!
//! The program is this one, run once more: it writes through a device whose unflushed writes lie in its own memory, so
//! that SIGKILL is a power cut.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use icecore::buf::BufPoolOptions;
use icecore::device::{Access, Caching, Device};
use icecore::error::Kind;
use icecore::export::control::{Answer, ControlClient, ControlSocket, Request};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions, join_all};
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{Durability, OpenMode, Volume, VolumeHandle};
use serde_json::Value;

use crate::support::*;

const BLOCK: u64 = 4096;
/// Blocks that are written again and again, in this order.
const BLOCKS: u64 = 8;
/// Where what is not flushed is written, right before the power is cut.
const MARK: u64 = 64 * BLOCK;
const HELD: &str = "ICECORE_TEST_HELD";

fn runtime() -> Runtime {
    let io_mode = if io_flags().is_empty() { IoMode::Uring } else { IoMode::Blocking };
    let buffers = BufPoolOptions { arena_bytes: 0, ..BufPoolOptions::default() };
    Runtime::new(RuntimeOptions { io_mode, buffers, ..RuntimeOptions::default() }).unwrap()
}

fn log_volume(more: &[&str]) -> Image {
    let image = Image::new(512 * MIB);
    let base = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "log"];
    icecore(&[&base, more].concat()).ok();
    image
}

/// No test but the program that is killed: it does nothing unless it is told which volume to hold.
#[test]
fn held() {
    let Ok(path) = std::env::var(HELD) else { return };
    let runtime = runtime();
    runtime.block_on(async {
        let path = Path::new(&path);
        let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct).unwrap();
        let volume = Volume::open(device.with_volatile_cache(), OpenMode::ReadWrite).await.unwrap();
        let (handle, serving) = volume.handle();
        let run = path.with_file_name("run");
        let socket = ControlSocket::bind(&run, path, &volume.info().pool_id).unwrap();
        let served = handle.clone();
        std::thread::spawn(move || socket.serve(&served));
        std::thread::spawn(move || write_generations(&handle));
        serving.await;
    });
}

/// Writes until it is told to write the mark; tells each generation once it is complete. Nothing is flushed.
fn write_generations(handle: &VolumeHandle) {
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        sender.send(()).unwrap();
    });
    for generation in 1_u64.. {
        let bytes = generation.to_le_bytes().repeat(BLOCK as usize / 8);
        for block in 0..BLOCKS {
            handle.write(ByteOffset(block * BLOCK), bytes.clone(), Durability::OnFlush).unwrap();
        }
        println!("\ngeneration {generation}");
        if told.recv_timeout(Duration::from_millis(10)).is_ok() {
            break;
        }
    }
    handle.write(ByteOffset(MARK), b"not flushed".to_vec(), Durability::OnFlush).unwrap();
    assert_eq!(handle.read(ByteOffset(MARK), 11).unwrap(), b"not flushed");
    println!("\nmarked");
    std::thread::sleep(Duration::from_secs(60));
}

/// Keeps up with what the program tells.
fn follow(stdout: ChildStdout, complete: &AtomicU64, marked: &mpsc::Sender<()>) {
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        match line.strip_prefix("generation ") {
            Some(generation) => complete.store(generation.parse().unwrap(), Ordering::SeqCst),
            None if line == "marked" => marked.send(()).unwrap(),
            None => {}
        }
    }
}

/// The generations of the blocks, which must be those of one moment: each block is as new as the one behind it, or
/// one generation newer. The oldest of them.
#[track_caller]
fn generation_of(image: &[u8]) -> u64 {
    let blocks = image.as_chunks::<8>().0.chunks(BLOCK as usize / 8);
    let blocks: Vec<u64> = blocks
        .map(|words| {
            assert!(words.iter().all(|word| word == &words[0]), "a block of one write");
            u64::from_le_bytes(words[0])
        })
        .collect();
    let last = blocks[BLOCKS as usize - 1];
    let newer = blocks.iter().take_while(|generation| **generation == last + 1).count();
    assert!(blocks[newer..].iter().all(|generation| *generation == last), "{blocks:?} is no moment");
    last
}

#[test]
fn what_was_answered_while_it_wrote_survives_a_power_cut() {
    let image = log_volume(&["--checkpoint", "128M", "--retention", "128M"]);
    let run = image.folder().join("run");
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder.args(["--exact", "control_embedded::held", "--nocapture"]).env(HELD, &image.path);
    let child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let Process(child) = &mut Process(child);
    let (stdout, complete) = (child.stdout.take().unwrap(), Arc::new(AtomicU64::new(0)));
    let (sender, marked) = mpsc::channel();
    let now = Arc::clone(&complete);
    let follower = std::thread::spawn(move || follow(stdout, &now, &sender));
    let reach = |generation: u64| {
        let begun = Instant::now();
        while complete.load(Ordering::SeqCst) < generation {
            assert!(begun.elapsed() < Duration::from_secs(60), "the holder writes");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let snapshot = |what: &str, more: &[&str]| -> Value {
        let arguments = [&["snapshot", what, &image.path, "--json"], more, io_flags()].concat();
        let mut command = command(&arguments);
        Ran::of(command.env("ICECORE_RUN_DIR", &run).stdin(Stdio::null()).output().unwrap()).ok().json()
    };
    reach(1);
    let mut taken = Vec::new();
    for number in 0..10 {
        let before = complete.load(Ordering::SeqCst);
        let name = format!("s{number}");
        let sequence = snapshot("create", &[&name])["sequence"].as_u64().unwrap();
        taken.push((name, before, sequence));
        reach(before + 2);
    }
    let changed = snapshot("diff", &["s0", "s9"]);
    assert_eq!(changed["changed"][0]["offset"], 0);
    let (gone, ..) = taken.remove(5);
    snapshot("delete", &[&gone]);
    let back = snapshot("rollback", &["s3"]);
    let at = back["at"].as_u64().unwrap();
    assert_eq!(back["discarded"].as_u64().unwrap(), at - back["to"].as_u64().unwrap() - 1);
    reach(complete.load(Ordering::SeqCst) + 3);
    let before = complete.load(Ordering::SeqCst);
    let sequence = snapshot("create", &["end"])["sequence"].as_u64().unwrap();
    taken.push(("end".to_string(), before, sequence));

    child.stdin.take().unwrap().write_all(b"mark\n").unwrap();
    marked.recv_timeout(Duration::from_secs(30)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    follower.join().unwrap();

    // Nobody has it open any more.
    let listed = snapshot("list", &[]);
    let names: Vec<(&str, u64)> = listed["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["sequence"].as_u64().unwrap()))
        .collect();
    let expected: Vec<(&str, u64)> = taken.iter().map(|(name, _, at)| (name.as_str(), *at)).collect();
    assert_eq!(names, expected);
    let length = (BLOCKS * BLOCK).to_string();
    let read = |moment: &[&str]| {
        let arguments = ["read", image.path.as_str(), "--offset", "0", "--length", length.as_str()];
        icecore(&[&arguments, moment].concat()).ok().stdout
    };
    for (name, before, _) in &taken {
        let generation = generation_of(&read(&["--at", name]));
        assert!(generation >= *before, "{name} lacks generation {before}, which had completed: {generation}");
    }
    assert_eq!(read(&["--sequence", &at.to_string()]), read(&["--at", "s3"]), "it went back");
    // What nobody flushed is gone: the power was really cut.
    let mark = icecore(&["read", &image.path, "--offset", &MARK.to_string(), "--length", "11"]);
    assert_eq!(mark.ok().stdout, [0; 11]);
    icecore(&["check", &image.path]).ok();
}

#[test]
fn handle_and_client_do_what_the_volume_does() {
    let image = log_volume(&["--retention", "1M"]);
    let (path, run) = (Path::new(&image.path), image.folder().join("run"));
    let runtime = runtime();
    runtime.block_on(async {
        let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct).unwrap();
        let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
        let (handle, serving) = volume.handle();
        let pool_id = volume.info().pool_id;
        let socket = ControlSocket::bind(&run, path, &pool_id).unwrap();
        let (stopper, served) = (socket.stopper(), handle.clone());
        let server = std::thread::spawn(move || socket.serve(&served));
        let (path, run) = (path.to_owned(), run.clone());
        let asking = std::thread::spawn(move || {
            let first = handle.create_snapshot("first").unwrap();
            handle.write(ByteOffset(0), vec![1; BLOCK as usize], Durability::OnFlush).unwrap();
            let changed = handle.difference(first.sequence, Seq(first.sequence.0 + 1)).unwrap();
            assert_eq!(changed[0].start, 0);
            let client = ControlClient::connect(&run, &path, &pool_id).unwrap().unwrap();
            assert_eq!(client.process(), std::process::id());
            assert_eq!(client.call(&Request::Flush).unwrap(), Answer::Flushed);
            // Many requests on one connection: each gets its own answer.
            for number in 0..200 {
                let name = format!("s{number}");
                let Answer::Taken(taken) =
                    client.call(&Request::Take { name: name.clone(), of: None }).unwrap()
                else {
                    panic!()
                };
                assert_eq!(taken.name, name);
                assert_eq!(client.call(&Request::Delete(name)).unwrap(), Answer::Deleted(taken));
            }
            let all = handle.snapshots().unwrap();
            assert_eq!(
                client.call(&Request::Snapshots { with_space: false }).unwrap(),
                Answer::Snapshots(all.clone())
            );
            assert_eq!(all.as_slice(), std::slice::from_ref(&first));
            let at = handle.rollback(first.sequence).unwrap();
            assert_eq!(handle.read(ByteOffset(0), 1).unwrap(), [0]);
            assert_eq!(at, handle.status().unwrap().info.sequence);
            handle.delete_snapshot("first").unwrap();
            let refused = client.call(&Request::Delete("first".to_string())).unwrap_err();
            assert_eq!(
                (refused.kind(), refused.reason().name().as_str()),
                (Kind::InvalidArgument, "NoSnapshot")
            );
            stopper.stop();
            // Nobody listens any more.
            server.join().unwrap().unwrap();
            assert!(client.call(&Request::Status).is_err());
            assert!(ControlClient::connect(&run, &path, &pool_id).unwrap().is_none());
        });
        // It ends with the last handle.
        serving.await;
        asking.join().unwrap();
        assert_eq!(volume.snapshots(), []);
        volume.close().await.unwrap();
    });
}

#[test]
fn a_client_that_does_not_take_its_answer_holds_up_nobody() {
    const REGIONS: u64 = 40_000;
    let image = log_volume(&["--region-bytes", "4096"]);
    icecore(&["snapshot", "create", &image.path, "empty"]).ok();
    let runtime = runtime();
    runtime.block_on(async {
        let path = Path::new(&image.path);
        let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct).unwrap();
        let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
        for first in (0..REGIONS).step_by(500) {
            let writes = (first..first + 500).map(|region| {
                let volume = volume.clone();
                async move {
                    let offset = ByteOffset(region * 2 * BLOCK);
                    volume.write_bytes(offset, &[1; BLOCK as usize], Durability::OnFlush).await.unwrap();
                }
            });
            join_all(writes).await;
        }
        volume.close().await.unwrap();
    });
    drop(runtime);
    let run = image.folder().join("run");
    let with_sockets = |arguments: &[&str]| {
        let mut command = command(&[arguments, io_flags()].concat());
        command.env("ICECORE_RUN_DIR", &run).stdin(Stdio::null());
        command
    };
    let mut attach = with_sockets(&["attach", &image.path, "--json"]);
    let holder = attach.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let Process(holder) = &mut Process(holder);
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    // A request for the difference of `empty` and now, as docs/FORMATS.md describes it.
    let body: Vec<u8> = [&2_u64.to_le_bytes()[..], &5_u64.to_le_bytes(), b"empty", &[0; 8]].concat();
    let numbers = [1, 6, body.len() as u32].map(u32::to_le_bytes).concat();
    let mut clients: Vec<UnixStream> = (0..15)
        .map(|_| {
            let mut stream = UnixStream::connect(ready["control_socket"].as_str().unwrap()).unwrap();
            stream.write_all(&[b"ICTL", &numbers[..], &body].concat()).unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let diff = with_sockets(&["snapshot", "diff", &image.path, "empty", "--json"]).output().unwrap();
    let diff = Ran::of(diff).ok().json();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let changed = diff["changed"].as_array().unwrap();
    assert_eq!((changed.len() as u64, &diff["changed_bytes"]), (REGIONS, &(REGIONS * BLOCK).into()));
    let is_it = |(number, one): (usize, &Value)| one["offset"] == number as u64 * 2 * BLOCK;
    assert!(changed.iter().enumerate().all(is_it));
    // They are dropped with most of their answer untaken.
    std::thread::sleep(Duration::from_secs(11).saturating_sub(begun.elapsed()));
    let mut answer = Vec::new();
    clients[0].set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _dropped = clients[0].read_to_end(&mut answer);
    assert!((answer.len() as u64) < REGIONS * 16, "{}", answer.len());
    must(&format!("kill -TERM {}", holder.id()));
    assert_eq!(holder.wait().unwrap().code(), Some(0));
}
