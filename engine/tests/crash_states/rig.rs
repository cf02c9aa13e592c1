//! A tiny pool on a simulated disk, brought into several states; operations played on it up to a chosen request
//! of the disk; recovery.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::Rc;

use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::Result;
use icecore::format::batch::{self, Batch};
use icecore::format::root::{self, ROOT_BYTES, Root};
use icecore::runtime::sim::Calendar;
use icecore::runtime::{Context, OperationKind, Runtime};
use icecore::store::Backend;
use icecore::store::log::RecoveryReport;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, OpenOptions, Volume};

use crate::REQUESTS_MAX;
use crate::oracle::{Image, Op, Oracle, REGIONS};

/// The volume's block and region, and the disk's sector: what is torn is told to the block.
pub const BLOCK: usize = 512;
pub const SEGMENT_BYTES: u32 = 16 * BLOCK as u32;
const CHECKPOINT_BYTES: u64 = 2 * SEGMENT_BYTES as u64;
/// Room for 32 segments beside the metadata of so small a pool.
const DEVICE_BYTES: u64 = 3 << 20;
/// So many overwrites are kept that every moment of a play can be opened.
const RETENTION_BYTES: u64 = 128 * BLOCK as u64;
const INDEX_BYTES: usize = 1 << 20;
const ROOTS: [u64; 2] = [64 << 10, 128 << 10];
/// Longer than any request and any step of background work takes.
const SETTLE_NS: u64 = 30_000_000;
/// Longer than the log waits until it notes that everything is durable.
const IDLE_NS: u64 = 3_000_000_000;

fn options() -> OpenOptions {
    OpenOptions { index_bytes: INDEX_BYTES, ..OpenOptions::default() }
}

/// The state in which a pool is opened, and what is done before the operations that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Nothing is in doubt.
    Plain,
    /// Three writes have completed and were not flushed: with three more, six.
    InDoubt,
    /// A checkpoint is due with the next bytes.
    Checkpoint,
    /// The same, and the journal has no room for its record.
    CheckpointOverflows,
    /// The journal has no room for the record of the next opening.
    RecoveryOverflows,
    /// The idle mark has been written.
    Marked,
}

impl Setting {
    pub const ALL: [Setting; 6] = [
        Setting::Plain,
        Setting::InDoubt,
        Setting::Checkpoint,
        Setting::CheckpointOverflows,
        Setting::RecoveryOverflows,
        Setting::Marked,
    ];

    /// When all triples are played, each so-many-th is played here.
    pub fn share(self) -> usize {
        if matches!(self, Setting::Plain | Setting::InDoubt) { 1 } else { 8 }
    }

    fn prelude(self) -> Vec<Op> {
        match self {
            Setting::Plain | Setting::RecoveryOverflows => vec![],
            Setting::InDoubt => vec![Op::Write(0, 1), Op::Write(6, 2), Op::Write(0, 2)],
            Setting::Checkpoint | Setting::CheckpointOverflows => {
                (0..7).map(|at| Op::DurableWrite(at % 6, 3)).chain([Op::DurableWrite(7, 1)]).collect()
            }
            Setting::Marked => vec![Op::DurableWrite(1, 2), Op::DurableWrite(5, 2)],
        }
    }
}

/// Pools to begin with, made once, and what they hold.
pub struct Bases {
    plain: SimulatedDisk,
    /// The next opening takes the journal's last room.
    journal_full: SimulatedDisk,
    pub image: Image,
    pub data_offset: u64,
    _runtime: Runtime,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub sequence: u64,
    pub image: Image,
}

/// A runtime of its own for each play, so that a play does not depend on those before it.
pub struct Rig {
    pub calendar: Calendar,
    pub context: Context,
}

/// What was there when the disk stopped answering.
pub struct Played {
    pub disk: SimulatedDisk,
    pub oracle: Oracle,
    /// The sequence before the first entry of the oracle.
    pub base_sequence: u64,
    /// The request that it stopped at; `None` if the play came to its end.
    pub stopped_at: Option<OperationKind>,
    /// Of the root when it began.
    pub generation: u64,
    pub volume: Volume,
}

pub async fn open(rig: &Rig, disk: &SimulatedDisk, mode: OpenMode) -> Result<Volume> {
    Volume::open_with(disk.open(&rig.context)?, mode, options()).await
}

pub async fn image_of(volume: &Volume) -> Image {
    let mut bytes = vec![0; REGIONS * BLOCK];
    volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
    contents(&bytes)
}

/// The number that fills each region.
pub fn contents(bytes: &[u8]) -> Image {
    let mut image = [0; REGIONS];
    for (content, region) in image.iter_mut().zip(bytes.chunks_exact(BLOCK)) {
        assert!(region.chunks_exact(8).all(|word| word == &region[..8]), "a region is of one piece");
        *content = u64::from_le_bytes(region[..8].try_into().unwrap());
    }
    image
}

pub async fn apply(volume: &Volume, op: Op, content: u64) -> Result<()> {
    let range = |first: usize, count: usize| (ByteOffset((first * BLOCK) as u64), count * BLOCK);
    let write = async |(offset, length), durability| {
        let bytes = content.to_le_bytes().repeat(length / 8);
        let buf = volume.context().buffers().copy_of(&bytes)?;
        volume.write(offset, buf, durability).await.0
    };
    match op {
        Op::Write(first, count) => write(range(first, count), Durability::OnFlush).await,
        Op::DurableWrite(first, count) => write(range(first, count), Durability::Durable).await,
        Op::Zero(first, count) => {
            let (offset, length) = range(first, count);
            volume.write_zeroes(offset, length as u64).await
        }
        Op::Discard(first, count) => {
            let (offset, length) = range(first, count);
            volume.discard(offset, length as u64).await
        }
        Op::Flush => volume.flush().await,
    }
}

/// The newest root's generation.
pub fn generation(disk: &SimulatedDisk) -> u64 {
    let generation = |at: u64| {
        let bytes: [u8; ROOT_BYTES] = disk.peek(at, ROOT_BYTES).try_into().unwrap();
        match Root::decode(&bytes, at) {
            root::Decoded::Valid(root) => root.generation.get(),
            _ => 0,
        }
    };
    ROOTS.map(generation).into_iter().max().unwrap_or(0)
}

/// Every whole batch header on the disk, by its number.
pub fn batches(disk: &SimulatedDisk, data_offset: u64) -> Vec<Batch> {
    let mut found = Vec::new();
    for at in (data_offset..DEVICE_BYTES).step_by(BLOCK) {
        let bytes = disk.peek(at, BLOCK);
        if let batch::Decoded::Valid(batch) = batch::decode(&bytes, at, BLOCK as u32) {
            found.push(*batch);
        }
    }
    found.sort_by_key(|batch| batch.header.batch.get());
    found
}

impl Bases {
    pub fn make() -> Self {
        let (runtime, calendar) = Runtime::simulated(7).unwrap();
        let rig = Rig { calendar: calendar.clone(), context: runtime.context().clone() };
        let disk = SimulatedDisk::new(&calendar, 7, "disk", DEVICE_BYTES, BLOCK as u32);
        let (image, data_offset, journal_full) = runtime.block_on(async {
            let options = CreateOptions {
                size_bytes: Some((REGIONS * BLOCK) as u64),
                block_bytes: Some(BLOCK as u32),
                region_bytes: BLOCK as u32,
                segment_bytes: Some(SEGMENT_BYTES),
                checkpoint_bytes: Some(CHECKPOINT_BYTES),
                retention_bytes: RETENTION_BYTES,
                ..CreateOptions::new(Backend::Log)
            };
            Volume::create(&disk.open(&rig.context).unwrap(), options).await.unwrap();
            let volume = open(&rig, &disk, OpenMode::ReadWrite).await.unwrap();
            // More than the pool has room for: wherever the log goes on, it meets an earlier lap.
            for round in 0..400 {
                apply(&volume, Op::Write(round % 6, 3), 1_000_000 + round as u64).await.unwrap();
            }
            let image = image_of(&volume).await;
            let data_offset = volume.info().data_offset_bytes;
            volume.close().await.unwrap();
            drop(volume);
            disk.cut_power();
            // Openings fill the journal, until one has no room.
            let mut before = vec![disk.after_cut(&rig.calendar, |_, _| true)];
            loop {
                let last = &before[before.len() - 1];
                if generation(last) != generation(&disk) {
                    break;
                }
                let next = last.after_cut(&rig.calendar, |_, _| true);
                drop(open(&rig, &next, OpenMode::ReadWrite).await.unwrap());
                rig.context.sleep(SETTLE_NS).await;
                next.cut_power();
                before.push(next);
            }
            // The last but one was opened without room; the one before it took the last of it.
            (image, data_offset, before.swap_remove(before.len() - 3))
        });
        Self { plain: disk, journal_full, image, data_offset, _runtime: runtime }
    }

    fn of(&self, setting: Setting) -> &SimulatedDisk {
        match setting {
            Setting::CheckpointOverflows | Setting::RecoveryOverflows => &self.journal_full,
            _ => &self.plain,
        }
    }

    /// Plays operations in this setting until the disk has had so many requests of them; later ones it holds.
    pub async fn play(&self, rig: &Rig, setting: Setting, ops: &[Op], requests: u64) -> Played {
        let disk = self.of(setting).after_cut(&rig.calendar, |_, _| true);
        let volume = open(rig, &disk, OpenMode::ReadWrite).await.unwrap();
        assert_eq!(image_of(&volume).await, self.image);
        let base_sequence = volume.info().sequence.0;
        let oracle = Rc::new(RefCell::new(Oracle::new(self.image)));
        run(&volume, &oracle, &setting.prelude()).await;
        if setting == Setting::Marked {
            rig.context.sleep(IDLE_NS).await;
        }
        let generation = generation(&disk);
        let (playing, noted, ops) = (volume.clone(), Rc::clone(&oracle), ops.to_vec());
        let stopped_at =
            until_request(rig, &disk, requests, async move { run(&playing, &noted, &ops).await }).await;
        let oracle = oracle.borrow().clone();
        Played { disk, oracle, base_sequence, stopped_at, generation, volume }
    }
}

/// Does something until the disk has had so many requests of it; later ones it holds. The one that it stopped at; `None`
/// if the work came to its end.
pub async fn until_request(
    rig: &Rig,
    disk: &SimulatedDisk,
    requests: u64,
    work: impl Future<Output = ()> + 'static,
) -> Option<OperationKind> {
    let limit = disk.requests() + requests;
    let stopped_at = Rc::new(Cell::new(None));
    let stop = Rc::clone(&stopped_at);
    disk.set_plan(Box::new(move |request, _| {
        let stops = request.number >= limit;
        if stops && stop.get().is_none() {
            stop.set(Some(request.kind));
        }
        stops.then_some(Fault::Hold)
    }));
    let task = rig.context.spawn(work);
    while !task.has_ended() && stopped_at.get().is_none() {
        rig.context.sleep(100_000).await;
    }
    rig.context.sleep(SETTLE_NS).await;
    task.abort();
    stopped_at.get()
}

async fn run(volume: &Volume, oracle: &RefCell<Oracle>, ops: &[Op]) {
    for op in ops {
        let content = oracle.borrow().content(1);
        oracle.borrow_mut().issue(*op, content);
        apply(volume, *op, content).await.unwrap();
        oracle.borrow_mut().completed();
    }
}

/// Opens a disk after a crash and reads everything.
pub async fn recover(rig: &Rig, disk: &SimulatedDisk) -> (Volume, Found, RecoveryReport) {
    let volume = open(rig, disk, OpenMode::ReadWrite).await.unwrap();
    let image = image_of(&volume).await;
    let found = Found { sequence: volume.info().sequence.0, image };
    let report = volume.status().log.unwrap().recovery;
    (volume, found, report)
}

/// Recovers a disk that stops answering after so many requests. False if recovery was done before.
pub async fn recover_partly(rig: &Rig, disk: &SimulatedDisk, requests: u64) -> bool {
    let stopped = Rc::new(Cell::new(false));
    let stop = Rc::clone(&stopped);
    disk.set_plan(Box::new(move |request, _| {
        let stops = request.number >= requests;
        stop.set(stop.get() || stops);
        stops.then_some(Fault::Hold)
    }));
    let device = disk.open(&rig.context).unwrap();
    let opening = rig.context.spawn(async move {
        let _volume = Volume::open_with(device, OpenMode::ReadWrite, options()).await.unwrap();
    });
    while !opening.has_ended() && !stopped.get() {
        rig.context.sleep(100_000).await;
    }
    rig.context.sleep(SETTLE_NS).await;
    opening.abort();
    stopped.get()
}

/// Crashes at each request of recovery, with everything, nothing, or half of the last write surviving: `find`, which opens
/// a disk, finds what it found the first time.
pub async fn crash_again<F: PartialEq + Debug>(
    rig: &Rig,
    crashed: &SimulatedDisk,
    first: &F,
    find: impl AsyncFn(&SimulatedDisk) -> F,
    which: &str,
) {
    for requests in 0..REQUESTS_MAX {
        let disk = crashed.after_cut(&rig.calendar, |_, _| true);
        if !recover_partly(rig, &disk, requests).await {
            disk.cut_power();
            return;
        }
        let last = disk.unflushed().len().wrapping_sub(1);
        let half = |write, sector: u64| write != last || sector.is_multiple_of(2);
        let fates: [&dyn Fn(usize, u64) -> bool; 3] = [&|_, _| true, &|_, _| false, &half];
        for (fate, keeps) in fates.into_iter().enumerate() {
            let second = find(&disk.after_cut(&rig.calendar, keeps)).await;
            assert_eq!(second, *first, "{which}: crash {fate} at request {requests} of recovery");
        }
        disk.cut_power();
    }
    panic!("{which}: recovery comes to no end");
}
