//! Volumes that hold every kind of record, left as a power cut leaves them.

use icecore::device::Device;
use icecore::device::simulated::SimulatedDisk;
use icecore::object::ObjectKind;
use icecore::runtime::{Context, Random, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{
    ApplyOptions, CreateOptions, Devices, Durability, LockTime, OpenMode, OpenOptions, Volume,
};

pub const BLOCK: u64 = 4096;

/// A volume on its disk.
pub struct Made {
    pub name: &'static str,
    pub runtime: Runtime,
    pub disk: SimulatedDisk,
    pub device_bytes: u64,
    /// All disks of a pool that has several, this one too.
    pub pool: Option<SimulatedDisk>,
    pub volume: Option<SimulatedDisk>,
    pub objects: Option<SimulatedDisk>,
}

/// Opens the disk once what an earlier opener left in flight has ended.
async fn open(disk: &SimulatedDisk, context: &Context) -> Device {
    loop {
        match disk.open(context) {
            Ok(device) => return device,
            Err(_busy) => context.sleep(100_000).await,
        }
    }
}

async fn open_volume(disk: &SimulatedDisk, context: &Context) -> Volume {
    let device = open(disk, context).await;
    // A linear volume is applied when that is asked for, or the log is full.
    let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
    let options = OpenOptions { apply, refuse_when_full: false, ..OpenOptions::default() };
    Volume::open_with(device, OpenMode::ReadWrite, options).await.unwrap()
}

async fn write(volume: &Volume, random: &mut Random, first: u64, blocks: u64, durability: Durability) {
    let mut buf = volume.context().buffers().get((blocks * BLOCK) as usize).unwrap();
    for block in buf.chunks_mut(BLOCK as usize) {
        block.fill(random.below(256) as u8);
        block[..8].copy_from_slice(&random.next_u64().to_le_bytes());
    }
    volume.write(ByteOffset(first * BLOCK), buf, durability).await.0.unwrap();
}

async fn work(volume: &Volume, random: &mut Random, rounds: u64) {
    let blocks = volume.size_bytes() / BLOCK;
    for round in 0..rounds {
        let (first, count) = (random.below(blocks - 2), 1 + random.below(2));
        let durability = if round % 8 == 0 { Durability::Durable } else { Durability::OnFlush };
        write(volume, random, first, count, durability).await;
        if matches!(volume.info().backend, Backend::Linear | Backend::LoggedCow) && round % 50 == 49 {
            volume.apply(None).await.unwrap();
        }
        if volume.info().backend.has_base() && round.is_multiple_of(20) {
            name_a_moment(volume, round).await;
        }
        if round % 13 == 0 {
            volume.write_zeroes(ByteOffset(random.below(blocks - 2) * BLOCK), 2 * BLOCK).await.unwrap();
        }
    }
}

/// Takes a snapshot; the oldest of three is deleted before, and its overlay folded now and then.
async fn name_a_moment(volume: &Volume, round: u64) {
    let there = volume.snapshots();
    if let [oldest, second, _, ..] = &there[..] {
        volume.delete_snapshot(&oldest.name).await.unwrap();
        if volume.info().backend == Backend::Overlay && round.is_multiple_of(60) {
            volume.fold(Some(&second.name)).await.unwrap();
        }
    }
    volume.create_snapshot(&format!("at {}", volume.info().sequence.0 * 1000 + round)).await.unwrap();
}

/// Writes and goes back from that, and writes on.
async fn go_back(volume: &Volume, random: &mut Random) {
    let before = volume.info().sequence;
    for number in 0..5 {
        write(volume, random, number * 2, 1 + number % 2, Durability::OnFlush).await;
    }
    volume.write_zeroes(ByteOffset(11 * BLOCK), 3 * BLOCK).await.unwrap();
    volume.rollback(before).await.unwrap();
}

/// Clones snapshots: one clone stays, and has a snapshot of its own; the other one goes.
async fn write_branches(volume: &Volume, random: &mut Random) {
    for (of, name) in [("second", "tree"), ("third", "gone")] {
        volume.clone_snapshot(of, name).await.unwrap();
        let branch = volume.open_writable(name).await.unwrap();
        for first in [4, 5, 40] {
            write(&branch, random, first, 2, Durability::Durable).await;
        }
        if name == "tree" {
            let members = [(branch.clone(), "leaf"), (volume.clone(), "with leaf")];
            Volume::create_group(&members).await.unwrap();
            write(&branch, random, 5, 2, Durability::Durable).await;
            branch.write_zeroes(ByteOffset(41 * BLOCK), BLOCK).await.unwrap();
        }
        branch.close().await.unwrap();
    }
    volume.delete_snapshot("gone").await.unwrap();
    // A further volume that is larger than the pool's own, one with a snapshot, and one that goes.
    for (name, blocks) in [("db", 90), ("small", 8), ("past", 8)] {
        volume.create_volume(name, blocks * BLOCK).await.unwrap();
        let further = volume.open_volume(name).await.unwrap();
        for first in [2, 3, blocks - 2] {
            write(&further, random, first, 2, Durability::Durable).await;
        }
        if name == "small" {
            further.create_snapshot("of small").await.unwrap();
            write(&further, random, 3, 1, Durability::Durable).await;
        }
        further.close().await.unwrap();
    }
    volume.delete_volume("past").await.unwrap();
}

fn made(
    name: &'static str,
    device_bytes: u64,
    options: CreateOptions,
    openings: &[u64],
    ahead: u64,
    marked: bool,
) -> Made {
    let goes_back = name.starts_with("returned");
    let (runtime, calendar) = Runtime::simulated(7).unwrap();
    let disk = SimulatedDisk::new(&calendar, 7, name, device_bytes, 4096);
    let context = runtime.context().clone();
    let mut random = Random::from_seed(7);
    runtime.block_on(async {
        Volume::create(&open(&disk, &context).await, options).await.unwrap();
        for rounds in openings {
            let volume = open_volume(&disk, &context).await;
            work(&volume, &mut random, *rounds).await;
            if options.backend != Backend::Direct {
                // The idle mark.
                volume.flush().await.unwrap();
                context.sleep(3_000_000_000).await;
                volume.close().await.unwrap();
            }
        }
        let volume = open_volume(&disk, &context).await;
        if goes_back {
            for name in ["first", "second"] {
                volume.create_snapshot(name).await.unwrap();
                go_back(&volume, &mut random).await;
                write(&volume, &mut random, 3, 2, Durability::Durable).await;
            }
            volume.delete_snapshot("first").await.unwrap();
            volume.create_snapshot("third").await.unwrap();
            volume.lock_snapshot("second", LockTime::For(1 << 40)).await.unwrap();
            volume.lock_snapshot("third", LockTime::Held).await.unwrap();
            write_branches(&volume, &mut random).await;
            // The checkpoint before the next one tells that these are settled.
            context.sleep(3_000_000_000).await;
        }
        for number in 0..ahead {
            write(&volume, &mut random, number * 3, 1 + number % 2, Durability::Durable).await;
            context.sleep(1_000_000).await;
        }
        if options.backend == Backend::Linear {
            // Some of what lies behind the cursor is in the index already.
            volume.apply(Some(Seq(volume.info().sequence.0 - 2))).await.unwrap();
            volume.pin_base().await.unwrap();
            let last = volume.info().sequence.0;
            write(&volume, &mut random, 40, 1, Durability::Durable).await;
            write(&volume, &mut random, 2, 2, Durability::Durable).await;
            volume.accept(Some(Seq(last + 1))).await.unwrap();
            // Opening an image makes a checkpoint.
            drop(volume.image(ImageOptions::default()).await.unwrap());
        }
        if goes_back {
            // It is cut short behind that, before a checkpoint tells of it.
            go_back(&volume, &mut random).await;
            drop(volume);
            disk.cut_power();
            return;
        }
        if options.backend.has_base() {
            // What follows goes to the log, or is saved there.
            if options.objects == ObjectKind::Linear {
                let oldest = volume.snapshots().swap_remove(0).name;
                volume.clone_snapshot(&oldest, "tree").await.unwrap();
                let tree = volume.open_writable("tree").await.unwrap();
                Volume::create_group(&[(volume.clone(), "last"), (tree, "leaf")]).await.unwrap();
            } else {
                volume.create_snapshot("last").await.unwrap();
            }
        }
        // A last batch of several entries: data, zeroes, and data of two blocks. They queue up behind a durable one.
        if options.backend != Backend::Direct {
            let first = {
                let (volume, mut random) = (volume.clone(), Random::from_seed(9));
                context.spawn(async move { write(&volume, &mut random, 50, 1, Durability::Durable).await })
            };
            context.sleep(1_000).await;
            let tasks = [0, 1, 2, 3].map(|which| {
                let volume = volume.clone();
                context.spawn(async move {
                    let mut random = Random::from_seed(which);
                    match which {
                        1 => volume.write_zeroes(ByteOffset(20 * BLOCK), 3 * BLOCK).await.unwrap(),
                        _ => {
                            write(&volume, &mut random, 30 + 4 * which, 1 + which % 3, Durability::Durable)
                                .await
                        }
                    }
                })
            });
            for task in std::iter::once(first).chain(tasks) {
                task.await;
            }
            if marked {
                // The idle mark is the journal's last record then, and the last batch is promised.
                context.sleep(3_000_000_000).await;
            }
            drop(volume);
            disk.cut_power();
        } else {
            volume.close().await.unwrap();
        }
    });
    drop(runtime.block_on(open(&disk, &context)));
    Made { name, runtime, disk, device_bytes, pool: None, volume: None, objects: None }
}

fn log() -> CreateOptions {
    CreateOptions {
        size_bytes: Some(64 * BLOCK),
        region_bytes: BLOCK as u32,
        segment_bytes: Some(64 << 10),
        checkpoint_bytes: Some(128 << 10),
        ..CreateOptions::new(Backend::Log)
    }
}

/// Every version that was ever written is kept: nothing has been emptied.
pub fn kept() -> Made {
    let options = CreateOptions { retention_bytes: 32 << 20, ..log() };
    made("kept", (6 << 20) + 4096, options, &[40, 130], 4, false)
}

/// It has gone back to earlier moments, the last time after its last checkpoint; all of the past is kept, or none.
pub fn returned(keeps_past: bool) -> Made {
    let retention_bytes = if keeps_past { 32 << 20 } else { 12 * BLOCK };
    let name = if keeps_past { "returned" } else { "returned, little kept" };
    made(name, (6 << 20) + 4096, CreateOptions { retention_bytes, ..log() }, &[40, 60], 4, false)
}

/// Little is kept, and segments have been emptied many times.
pub fn emptied() -> Made {
    let options = CreateOptions { size_bytes: Some(120 * BLOCK), retention_bytes: 24 * BLOCK, ..log() };
    made("emptied", (4 << 20) + (320 << 10), options, &[500, 700, 215], 5, true)
}

/// A log in front of a thin linear volume that keeps some of the past: some of it is at home, some of it in the log.
pub fn linear() -> Made {
    let options = CreateOptions {
        backend: Backend::Linear,
        thin: true,
        retention_bytes: 24 * BLOCK,
        size_bytes: Some(120 * BLOCK),
        ..log()
    };
    made("linear", (6 << 20) + 4096, options, &[120, 160], 4, false)
}

/// A base and snapshots: what they see was saved before it was overwritten, or what is newer lies beside it.
pub fn with_base(backend: Backend) -> Made {
    let options = CreateOptions { backend, ..log() };
    made(backend.name(), (8 << 20) + 4096, options, &[40, 130], 4, false)
}

/// The same, in linear objects; some of them have been given back.
pub fn with_objects(backend: Backend) -> Made {
    let options = CreateOptions { backend, objects: ObjectKind::Linear, ..log() };
    let name = match backend {
        Backend::Cow => "linear copies",
        Backend::LoggedCow => "linear copies behind a log",
        _ => "linear overlays",
    };
    made(name, (10 << 20) + 4096, options, &[40, 130], 4, false)
}

/// Every block in its place.
pub fn direct() -> Made {
    let options = CreateOptions {
        size_bytes: Some(64 * BLOCK),
        region_bytes: 16 << 10,
        block_bytes: Some(4096),
        ..CreateOptions::new(Backend::Direct)
    };
    made("direct", 6 << 20, options, &[20], 2, false)
}

/// Which of the disks of a pool.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pool,
    Volume,
    Objects,
}

/// A pool whose volume, or base, lies on a device of its own, and perhaps its linear objects; one of its disks.
pub fn apart(backend: Backend, has_objects: bool, of: Of) -> Made {
    let (runtime, calendar) = Runtime::simulated(7).unwrap();
    let (pool_bytes, volume_bytes) = (6 << 20, 4 << 20);
    let disk = |name, bytes| SimulatedDisk::new(&calendar, 7, name, bytes, 4096);
    let (pool, volume) = (disk("pool", pool_bytes), disk("volume", volume_bytes));
    let objects = has_objects.then(|| disk("objects", volume_bytes));
    let context = runtime.context().clone();
    let options = CreateOptions {
        size_bytes: Some(64 * BLOCK),
        region_bytes: BLOCK as u32,
        segment_bytes: Some(64 << 10),
        checkpoint_bytes: Some(128 << 10),
        objects: if has_objects { ObjectKind::Linear } else { ObjectKind::Mapped },
        ..CreateOptions::new(backend)
    };
    runtime.block_on(async {
        let on_objects = match &objects {
            Some(objects) => Some(open(objects, &context).await),
            None => None,
        };
        let devices = Devices {
            pool: open(&pool, &context).await,
            volume: Some(open(&volume, &context).await),
            objects: on_objects,
        };
        Volume::create_on(&devices, options).await.unwrap();
        let opened = Volume::open(devices, OpenMode::ReadWrite).await.unwrap();
        let mut random = Random::from_seed(7);
        work(&opened, &mut random, 60).await;
        if has_objects {
            opened.create_snapshot("one").await.unwrap();
            work(&opened, &mut random, 60).await;
        }
        write(&opened, &mut random, 3, 1, Durability::Durable).await;
        drop(opened);
        [Some(&pool), Some(&volume), objects.as_ref()]
            .into_iter()
            .flatten()
            .for_each(SimulatedDisk::cut_power);
    });
    let (name, disk, device_bytes) = match of {
        Of::Pool => ("pool of several", pool.clone(), pool_bytes),
        Of::Volume => ("volume of several", volume.clone(), volume_bytes),
        Of::Objects => ("objects of several", objects.clone().expect("it has some"), volume_bytes),
    };
    Made { name, runtime, disk, device_bytes, pool: Some(pool), volume: Some(volume), objects }
}
