//! raw block volumes with O_DIRECT and io_uring, on a file and on loop devices of 512 and 4096 bytes.
//!
//! What is asserted is read from the device, from `/proc` or from a trace of system calls, never only from what
//! the engine reports about itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use icecore::device::{Access, Caching, Device};
use icecore::error::{Kind, Reason};
use icecore::format::superblock::{COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock};
use icecore::runtime::{IoMode, Random, Runtime, join_all};
use icecore::store::Backend;
use icecore::units::{ByteOffset, RegionIndex};
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

use crate::support::{Place, any_runtime, is_root, open, run, runtime};

const MIB: u64 = 1 << 20;
const LETTERS: &[u8; 8] = b"abcdefgh";

fn create(runtime: &Runtime, place: &Place, region_bytes: u32) -> bool {
    let device = open(runtime, &place.path).unwrap();
    if region_bytes < device.geometry().logical_block_bytes {
        println!("skipped: {} takes no regions of {region_bytes} bytes", place.name);
        return false;
    }
    let options = CreateOptions { region_bytes, ..CreateOptions::new(Backend::Direct) };
    runtime.block_on(Volume::create(&device, options)).unwrap();
    true
}

fn open_volume(runtime: &Runtime, path: &Path) -> Volume {
    let device = open(runtime, path).unwrap();
    runtime.block_on(Volume::open(device, OpenMode::ReadWrite)).unwrap()
}

/// Where the regions of an image lie and what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The first eight regions, each full of its letter.
    Plain,
    /// The same, beginning with the volume's id, the region and a sequence.
    Tagged,
    /// Regions all over the volume.
    Scattered,
}

/// The eight regions of an image: index and contents.
fn image(volume: &Volume, form: Form) -> Vec<(RegionIndex, Vec<u8>)> {
    let info = volume.info();
    let regions = info.size_bytes / u64::from(info.region_bytes);
    let of = |(index, letter): (usize, &u8)| {
        let region = match form {
            Form::Scattered => u64::from(*letter) * 4099 % regions,
            _ => index as u64,
        };
        let mut bytes = vec![*letter; info.region_bytes as usize];
        if form == Form::Tagged {
            bytes[..8].copy_from_slice(&info.id[..8]);
            bytes[8..12].copy_from_slice(&(region as u32).to_le_bytes());
            bytes[12..16].copy_from_slice(&(index as u32 + 1).to_le_bytes());
        }
        (RegionIndex(region), bytes)
    };
    LETTERS.iter().enumerate().map(of).collect()
}

async fn read(volume: &Volume, region: RegionIndex) -> Vec<u8> {
    let region_bytes = volume.info().region_bytes;
    let buf = volume.context().buffers().get(region_bytes as usize).unwrap();
    let (result, buf) = volume.read(region.offset(region_bytes), buf).await;
    result.unwrap();
    buf.to_vec()
}

async fn write(volume: &Volume, region: RegionIndex, bytes: &[u8]) {
    let buf = volume.context().buffers().copy_of(bytes).unwrap();
    let at = region.offset(volume.info().region_bytes);
    volume.write(at, buf, Durability::OnFlush).await.0.unwrap();
}

#[test]
fn eight_letters_come_back_after_a_reopen_in_every_form() {
    let runtime = any_runtime();
    for place in Place::all(1 << 30) {
        for region_bytes in [512, 4096, 65536] {
            if !create(&runtime, &place, region_bytes) {
                continue;
            }
            for form in [Form::Plain, Form::Tagged, Form::Scattered] {
                let volume = open_volume(&runtime, &place.path);
                let image = image(&volume, form);
                runtime.block_on(async {
                    join_all(image.iter().map(|(region, bytes)| write(&volume, *region, bytes))).await;
                    volume.flush().await.unwrap();
                    volume.close().await.unwrap();
                });
                let data_offset = volume.info().data_offset_bytes;
                drop(volume);
                let volume = open_volume(&runtime, &place.path);
                let device = std::fs::File::open(&place.path).unwrap();
                for (region, bytes) in &image {
                    let what = format!("{}, {region_bytes}, {form:?}, region {region}", place.name);
                    assert!(runtime.block_on(read(&volume, *region)) == *bytes, "{what}");
                    // And on the device itself, by another way.
                    let mut found = vec![0; bytes.len()];
                    let at = data_offset + region.offset(region_bytes).0;
                    device.read_exact_at(&mut found, at).unwrap();
                    assert!(found == *bytes, "{what} on the device");
                }
                // What was never written reads as zero.
                if form == Form::Scattered {
                    let between = RegionIndex(image[0].0.0 + 1);
                    assert!(runtime.block_on(read(&volume, between)).iter().all(|byte| *byte == 0));
                }
                runtime.block_on(volume.close()).unwrap();
            }
        }
    }
}

/// The open flags of each of this process's descriptors of `path`.
fn flags_of_descriptors(path: &Path) -> Vec<i32> {
    let mut flags = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap().path();
        if std::fs::read_link(&entry).is_ok_and(|target| target == path) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            flags.push(i32::from_str_radix(line.trim(), 8).unwrap());
        }
    }
    flags
}

fn has_ring() -> bool {
    let mut entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries.any(|entry| {
        let target = std::fs::read_link(entry.unwrap().path());
        target.is_ok_and(|target| target.to_string_lossy() == "anon_inode:[io_uring]")
    })
}

#[test]
fn the_data_descriptor_is_direct_and_a_ring_is_there() {
    let Some(runtime) = runtime(IoMode::Uring) else { return };
    assert!(has_ring());
    for place in Place::all(16 * MIB) {
        assert!(create(&runtime, &place, 65536));
        let volume = open_volume(&runtime, &place.path);
        let flags = flags_of_descriptors(&place.path);
        let writable = |flags: &&i32| **flags & libc::O_ACCMODE != libc::O_RDONLY;
        let direct = |flags: &i32| flags & libc::O_DIRECT != 0;
        assert!(flags.iter().any(|flags| writable(&flags)), "{flags:x?}");
        // The other one keeps others out, and nothing is done with it.
        assert!(flags.iter().filter(writable).all(direct), "{flags:x?}");
        drop(volume);
        assert!(flags_of_descriptors(&place.path).is_empty(), "a dropped volume gives its device back");
        // The control: without the request for direct I/O the bit is not there.
        let cached =
            Device::open(runtime.context(), &place.path, Access::ReadOnly, Caching::PageCache).unwrap();
        assert!(flags_of_descriptors(&place.path).iter().all(|flags| flags & libc::O_DIRECT == 0));
        drop(cached);
    }
}

#[test]
fn wrong_requests_change_nothing() {
    let runtime = any_runtime();
    for place in Place::all(16 * MIB) {
        assert!(create(&runtime, &place, 65536));
        let volume = open_volume(&runtime, &place.path);
        let (size, region) = (volume.size_bytes(), 65536);
        let (first, bytes) = image(&volume, Form::Plain).remove(0);
        runtime.block_on(async {
            write(&volume, first, &bytes).await;
            volume.flush().await.unwrap();
        });
        let before = place.bytes();
        let cases = [
            (0, region + 1),
            (1, region),
            (size - region as u64, region + 512),
            (size - region as u64, 2 * region),
            (size, 512),
            (u64::MAX - 511, 512),
        ];
        for (offset, length) in cases {
            let buf = || volume.context().buffers().zeroed(length).unwrap();
            let at = ByteOffset(offset);
            let written = volume.write(at, buf(), Durability::OnFlush);
            let (written, buf_back) = runtime.block_on(written);
            assert_eq!(buf_back.len(), length, "the buffer comes back");
            let zeroed = runtime.block_on(volume.write_zeroes(at, length as u64));
            let discarded = runtime.block_on(volume.discard(at, length as u64));
            let (read, _) = runtime.block_on(volume.read(at, buf()));
            for result in [written, zeroed, discarded, read] {
                assert_eq!(result.unwrap_err().kind(), Kind::InvalidArgument, "{offset} {length}");
            }
        }
        assert_eq!(place.bytes(), before, "{}", place.name);
        runtime.block_on(volume.close()).unwrap();
    }
}

#[test]
fn a_second_opener_is_busy_and_an_onlooker_is_not() {
    let runtime = any_runtime();
    for place in Place::all(16 * MIB) {
        assert!(create(&runtime, &place, 65536));
        let volume = open_volume(&runtime, &place.path);
        let again = || Device::open(runtime.context(), &place.path, Access::Exclusive, Caching::Direct);
        let error = again().unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::Busy, &Reason::AlreadyOpen));
        assert!(error.to_string().contains(&*place.path.to_string_lossy()), "{error}");
        let look = Device::open(runtime.context(), &place.path, Access::ReadOnly, Caching::Direct).unwrap();
        let reader = runtime.block_on(Volume::open(look, OpenMode::ReadOnly)).unwrap();
        let refused = runtime.block_on(reader.write_bytes(ByteOffset(0), b"x", Durability::OnFlush));
        assert_eq!(*refused.unwrap_err().reason(), Reason::ReadOnly);
        drop((volume, reader));
        open(&runtime, &place.path).unwrap();
    }
}

fn copy_is_whole(place: &Place, copy: usize) -> bool {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let device = std::fs::File::open(&place.path).unwrap();
    device.read_exact_at(&mut bytes, COPY_OFFSETS[copy]).unwrap();
    matches!(Superblock::decode(&bytes, COPY_OFFSETS[copy]), Decoded::Valid(_))
}

#[test]
fn one_damaged_superblock_copy_is_repaired_and_both_are_refused() {
    let runtime = any_runtime();
    for place in Place::all(16 * MIB) {
        assert!(create(&runtime, &place, 4096));
        for copy in [0, 1] {
            place.poke(COPY_OFFSETS[copy] + 1000, &[0xEE; 16]);
            assert!(!copy_is_whole(&place, copy) && copy_is_whole(&place, 1 - copy));
            // A look repairs nothing.
            let look =
                Device::open(runtime.context(), &place.path, Access::ReadOnly, Caching::Direct).unwrap();
            runtime.block_on(Volume::inspect(&look)).unwrap();
            drop(look);
            assert!(!copy_is_whole(&place, copy));
            drop(open_volume(&runtime, &place.path));
            assert!(copy_is_whole(&place, 0) && copy_is_whole(&place, 1), "{}", place.name);
        }
        for offset in COPY_OFFSETS {
            place.poke(offset + 1000, &[0xEE; 16]);
        }
        let before = place.bytes();
        for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
            let device = open(&runtime, &place.path).unwrap();
            let error = runtime.block_on(Volume::open(device, mode)).unwrap_err();
            assert_eq!((error.kind(), error.reason()), (Kind::Corrupt, &Reason::SuperblockDamaged));
        }
        assert_eq!(place.bytes(), before);
    }
}

#[test]
fn a_closed_volume_takes_no_requests() {
    let runtime = any_runtime();
    let place = Place::file(16 * MIB);
    assert!(create(&runtime, &place, 65536));
    let volume = open_volume(&runtime, &place.path);
    runtime.block_on(async {
        volume.close().await.unwrap();
        let results = [
            volume.write_bytes(ByteOffset(0), b"x", Durability::OnFlush).await,
            volume.read_bytes(ByteOffset(0), &mut [0]).await,
            volume.flush().await,
            volume.discard(ByteOffset(0), 4096).await,
            volume.close().await,
        ];
        for result in results {
            assert_eq!(*result.unwrap_err().reason(), Reason::Closed);
        }
    });
}

#[test]
fn a_failed_durable_write_poisons_until_the_volume_is_opened_again() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().display().to_string();
    if run(&format!("mount -t tmpfs -o size=4m tmpfs {point}")).is_none() {
        println!("skipped: no tmpfs to be mounted");
        return;
    }
    let path = folder.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(64 * MIB).unwrap();
    let fails = || {
        let runtime = any_runtime();
        let open = || Device::open(runtime.context(), &path, Access::Exclusive, Caching::Direct);
        let device = match open() {
            Err(error) if matches!(error.reason(), Reason::NoDirectIo { .. }) => {
                println!("skipped: {error}");
                return;
            }
            device => device.unwrap(),
        };
        let options = CreateOptions::new(Backend::Direct);
        runtime.block_on(async {
            Volume::create(&device, options).await.unwrap();
            let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
            volume.write_bytes(ByteOffset(0), b"before", Durability::Durable).await.unwrap();
            let full = vec![1; 16 << 20];
            let error = volume.write_bytes(ByteOffset(MIB), &full, Durability::Durable).await.unwrap_err();
            assert!(matches!(error.kind(), Kind::NoSpace | Kind::DeviceFailed), "{error}");
            assert!(volume.status().poisoned);
            for refused in [
                volume.write_bytes(ByteOffset(0), b"x", Durability::OnFlush).await,
                volume.flush().await,
                volume.close().await,
            ] {
                let error = refused.unwrap_err();
                assert_eq!((error.kind(), error.reason()), (Kind::Reopen, &Reason::Poisoned));
            }
            let mut bytes = [0; 6];
            volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
            assert_eq!(&bytes, b"before");
        });
        let again = runtime.block_on(Volume::open(open().unwrap(), OpenMode::ReadWrite)).unwrap();
        runtime.block_on(again.write_bytes(ByteOffset(0), b"after!", Durability::OnFlush)).unwrap();
    };
    let outcome = std::panic::catch_unwind(fails);
    run(&format!("umount -l {point}"));
    outcome.unwrap();
}

#[test]
fn other_threads_reach_a_volume_through_its_handle() {
    const THREADS: u64 = 4;
    const SLOTS: u64 = 256;
    const SLOT_BYTES: u64 = 3000;
    let runtime = any_runtime();
    let place = Place::file(16 * MIB);
    assert!(create(&runtime, &place, 4096));
    let volume = open_volume(&runtime, &place.path);
    let (handle, task) = volume.handle();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                let mut random = Random::from_seed(thread);
                let mut model = vec![0_u8; (SLOTS * SLOT_BYTES) as usize];
                let base = thread * SLOTS * SLOT_BYTES;
                for number in 0..1000_u64 {
                    let at = random.below(SLOTS * SLOT_BYTES - 5000);
                    let length = 1 + random.below(5000);
                    let bytes = vec![(number % 255) as u8 + 1; length as usize];
                    model[at as usize..(at + length) as usize].copy_from_slice(&bytes);
                    handle.write(ByteOffset(base + at), bytes, Durability::OnFlush).unwrap();
                    if number % 100 == 0 {
                        handle.flush().unwrap();
                    }
                }
                assert!(handle.read(ByteOffset(base), model.len()).unwrap() == model, "thread {thread}");
                (base, model)
            })
        })
        .collect();
    drop(handle);
    runtime.block_on(task);
    runtime.block_on(volume.close()).unwrap();
    let data_offset = volume.info().data_offset_bytes;
    drop(volume);
    let device = std::fs::File::open(&place.path).unwrap();
    for thread in threads {
        let (base, model) = thread.join().unwrap();
        let mut found = vec![0; model.len()];
        device.read_exact_at(&mut found, data_offset + base).unwrap();
        assert!(found == model, "on the device at {base}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// Child processes: this test binary runs itself again, and what the child does is chosen by a variable.

const TASK: &str = "ICECORE_TEST_TASK";
const TARGET: &str = "ICECORE_TEST_PATH";

fn child(task: &str, path: &Path, before: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match before.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["--exact", "raw_volume::child_task", "--nocapture"]).env(TASK, task).env(TARGET, path);
    command
}

/// Not a test: what a child does.
#[test]
fn child_task() {
    let Ok(task) = std::env::var(TASK) else { return };
    let path = std::path::PathBuf::from(std::env::var_os(TARGET).unwrap());
    match task.as_str() {
        "write uring" => ten_thousand_writes(&runtime(IoMode::Uring).unwrap(), &path),
        "write blocking" => ten_thousand_writes(&runtime(IoMode::Blocking).unwrap(), &path),
        "write until killed" => write_until_killed(&path),
        other => panic!("{other}"),
    }
}

fn ten_thousand_writes(runtime: &Runtime, path: &Path) {
    let volume = open_volume(runtime, path);
    runtime.block_on(async {
        for batch in 0..1000_u64 {
            join_all((0..10).map(|index| {
                let region = RegionIndex((batch * 10 + index) % 1000);
                let volume = &volume;
                async move { write(volume, region, &[batch as u8; 4096]).await }
            }))
            .await;
        }
        volume.close().await.unwrap();
    });
}

/// The calls of a trace that wrote to `path` by themselves.
fn write_calls(trace: &str, path: &Path) -> usize {
    let descriptor = format!("<{}>", path.display());
    let is_write = |line: &&str| {
        ["write(", "pwrite64(", "pwritev(", "pwritev2(", "writev(", "io_submit("].iter().any(|call| {
            line.find(call).is_some_and(|at| {
                let starts = at == 0 || line.as_bytes()[at - 1] == b' ';
                let argument = line[at..].split(',').next().unwrap_or_default();
                starts && argument.contains(&descriptor)
            })
        })
    };
    trace.lines().filter(is_write).count()
}

#[test]
fn ten_thousand_writes_make_no_write_call() {
    if run("strace -V").is_none() {
        println!("skipped: no strace");
        return;
    }
    let blocking = runtime(IoMode::Blocking).unwrap();
    let place = Place::file(64 * MIB);
    assert!(create(&blocking, &place, 4096));
    let trace = place.path.with_extension("trace");
    let trace_path = trace.to_str().unwrap();
    let calls = "trace=write,pwrite64,pwritev,pwritev2,writev,io_submit,io_uring_enter";
    let traced = |task| {
        let strace = ["strace", "-f", "-y", "-e", calls, "-o", trace_path];
        let ended = child(task, &place.path, &strace).output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        if text.contains("ptrace") && !ended.status.success() {
            println!("skipped: {text}");
            return None;
        }
        assert!(ended.status.success(), "{text}");
        Some(String::from_utf8_lossy(&std::fs::read(&trace).unwrap()).into_owned())
    };
    // The control first: blocking calls do show.
    let Some(shown) = traced("write blocking") else { return };
    assert!(write_calls(&shown, &place.path) >= 10_000);
    if runtime(IoMode::Uring).is_none() {
        return;
    }
    let shown = traced("write uring").unwrap();
    assert_eq!(write_calls(&shown, &place.path), 0);
    assert!(shown.lines().filter(|line| line.contains("io_uring_enter(")).count() >= 1000);
}

/// Regions that are written, flushed and then told; from `UNFLUSHED` on: written and told, never flushed.
const FLUSHED_MAX: u64 = 500;
const UNFLUSHED: u64 = 1000;

fn stamp(region: u64) -> Vec<u8> {
    let mut bytes = vec![0xC7; 4096];
    bytes[..8].copy_from_slice(&region.to_le_bytes());
    bytes
}

fn write_until_killed(path: &Path) {
    let runtime = any_runtime();
    let device = open(&runtime, path).unwrap().with_volatile_cache();
    let say = |text: String| std::io::stdout().write_all(text.as_bytes()).unwrap();
    runtime.block_on(async {
        let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
        for region in 0..FLUSHED_MAX {
            write(&volume, RegionIndex(region), &stamp(region)).await;
            volume.flush().await.unwrap();
            say(format!("\nflushed {region}\n"));
        }
        for region in UNFLUSHED..UNFLUSHED + 50 {
            write(&volume, RegionIndex(region), &stamp(region)).await;
            assert!(read(&volume, RegionIndex(region)).await == stamp(region), "it can be read back");
            say(format!("\nwritten {region}\n"));
        }
        // The volume stays open, nothing is flushed any more.
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    });
}

/// Lets a child write until it has told `acknowledgements`, kills it, and gives what it told.
fn kill_after(place: &Place, acknowledgements: usize) -> Vec<(bool, u64)> {
    let mut child = child("write until killed", &place.path, &[])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    let note = |line: &str, told: &mut Vec<(bool, u64)>| {
        let Some((what, region)) = line.split_once(' ') else { return };
        if let ("flushed" | "written", Ok(region)) = (what, region.parse()) {
            told.push((what == "flushed", region));
        }
    };
    while told.len() < acknowledgements {
        let line = lines.next().expect("the child tells until it is killed").unwrap();
        note(&line, &mut told);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it told before it died counts too.
    for line in lines {
        note(&line.unwrap(), &mut told);
    }
    told
}

#[test]
fn a_kill_loses_what_was_not_flushed_and_nothing_else() {
    let runtime = any_runtime();
    let mut random = Random::from_seed(7);
    let everything = FLUSHED_MAX as usize + 50;
    let moments = [1, 1 + random.below(400) as usize, 1 + random.below(400) as usize, everything];
    for acknowledgements in moments {
        let place = Place::file(16 * MIB);
        assert!(create(&runtime, &place, 4096));
        let told = kill_after(&place, acknowledgements);
        assert!(told.len() >= acknowledgements);
        let volume = open_volume(&runtime, &place.path);
        let mut lost = 0;
        for (flushed, region) in told {
            let found = runtime.block_on(read(&volume, RegionIndex(region)));
            if flushed {
                assert!(found == stamp(region), "region {region} was flushed and is lost");
            } else {
                assert!(found.iter().all(|byte| *byte == 0), "region {region} was never flushed");
                lost += 1;
            }
        }
        // The control: a kill that lost nothing would prove nothing.
        assert_eq!(lost, if acknowledgements == everything { 50 } else { 0 });
    }
}
