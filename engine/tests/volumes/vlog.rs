//! V-LOG, the worked example: eight regions, six writes, and what they make. On a simulated disk.
//!
//! Included by the tests of logs and of what lies behind them. A region is a block that holds its letter throughout.

use std::pin::pin;
use std::task::Poll;

use icecore::check::{Code, check};
use icecore::device::Device;
use icecore::device::simulated::SimulatedDisk;
use icecore::error::Error;
use icecore::object::ObjectKind;
use icecore::runtime::sim::Calendar;
use icecore::runtime::{Context, Random, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

use crate::on_disk::superblock;

/// A way of keeping named moments, and with which objects.
pub type Kept = (Backend, ObjectKind);

pub const BLOCK: u64 = 4096;
pub const MIB: u64 = 1 << 20;
pub const SEGMENT_BYTES: u64 = 64 << 10;
/// What the regions hold before the first write.
pub const BASE: &str = PREFIXES[0];
/// W1 to W6: region and letter.
pub const WRITES: [(u64, u8); 6] = [(0, b'x'), (3, b'z'), (0, b'1'), (2, b'F'), (3, b'y'), (5, b'G')];
/// The image after each of them, the base first.
pub const PREFIXES: [&str; 7] =
    ["abcdefgh", "xbcdefgh", "xbczefgh", "1bczefgh", "1bFzefgh", "1bFyefgh", "1bFyeGgh"];
/// Nothing is applied until somebody asks for it.
pub const MANUAL: ApplyOptions = ApplyOptions { mode: ApplyMode::Absorb, automatic: false, at_open: false };

/// Small segments, and a checkpoint every two of them.
pub fn small(backend: Backend) -> CreateOptions {
    CreateOptions {
        region_bytes: BLOCK as u32,
        segment_bytes: Some(SEGMENT_BYTES as u32),
        checkpoint_bytes: Some(2 * SEGMENT_BYTES),
        ..CreateOptions::new(backend)
    }
}

/// A linear volume of this size.
pub fn linear(size_bytes: u64) -> CreateOptions {
    CreateOptions { size_bytes: Some(size_bytes), ..small(Backend::Linear) }
}

/// A volume on one disk.
pub struct Rig {
    pub runtime: Runtime,
    pub calendar: Calendar,
    pub disk: SimulatedDisk,
}

impl Rig {
    pub fn new(seed: u64, disk_bytes: u64, options: CreateOptions) -> Self {
        let (runtime, calendar) = Runtime::simulated(seed).unwrap();
        let disk = SimulatedDisk::new(&calendar, seed, "disk", disk_bytes, BLOCK as u32);
        let rig = Self { runtime, calendar, disk };
        rig.runtime.block_on(Volume::create(&rig.device(), options)).unwrap();
        rig
    }

    pub fn device(&self) -> Device {
        self.disk.open(self.runtime.context()).unwrap()
    }

    pub async fn open(&self, apply: ApplyOptions) -> Volume {
        self.open_with(OpenOptions { apply, ..OpenOptions::default() }).await
    }

    pub async fn open_with(&self, options: OpenOptions) -> Volume {
        Volume::open_with(self.device(), OpenMode::ReadWrite, options).await.unwrap()
    }

    /// The power is cut while it is open. What is left is sound, and is opened again.
    pub async fn cut_and_open(&self, volume: Volume) -> Volume {
        drop(volume);
        self.disk.cut_power();
        is_sound(self).await;
        self.open(MANUAL).await
    }

    /// Runs `work` until the disk has seen so many more requests. Whether it ended.
    pub async fn run_until<T>(&self, requests: u64, work: impl Future<Output = T>) -> bool {
        run_until(self.runtime.context(), || self.disk.requests(), requests, work).await
    }

    /// A linear volume with the base written and applied, and where its first region lies on the disk.
    pub async fn with_base(&self, apply: ApplyOptions) -> (Volume, u64) {
        let volume = self.open(apply).await;
        write_base(&volume).await;
        volume.apply(None).await.unwrap();
        let segments = u64::from(volume.status().log.unwrap().segments);
        let end = volume.info().data_offset_bytes + segments * SEGMENT_BYTES - 8 * BLOCK;
        let is_base = |at: &u64| self.disk.peek(*at, 1) == b"a" && letters(&self.disk, *at) == BASE;
        let home = (0..end).step_by(BLOCK as usize).find(is_base);
        (volume, home.expect("the base lies somewhere on the disk"))
    }
}

/// Runs `work` until so many more requests have been counted, and drops it then. Whether it ended.
pub async fn run_until<T>(
    context: &Context,
    counted: impl Fn() -> u64,
    requests: u64,
    work: impl Future<Output = T>,
) -> bool {
    let limit = counted() + requests;
    let mut work = pin!(work);
    let mut cut = pin!(async {
        while counted() < limit {
            context.sleep(1_000).await;
        }
    });
    std::future::poll_fn(|poll| match work.as_mut().poll(poll) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => cut.as_mut().poll(poll).map(|()| false),
    })
    .await
}

/// Asks `cut` to run an operation anew and cut the power at each of its requests in turn, with the number of the request,
/// until the operation had ended before. How many cuts there were.
pub fn cut_at_each_request(mut cut: impl FnMut(u64) -> bool) -> u64 {
    let mut cuts = 0;
    while !cut(cuts) {
        cuts += 1;
    }
    cuts + 1
}

/// Where the base of a volume begins on its disk.
pub fn base_at(rig: &Rig) -> u64 {
    superblock(&rig.disk).base.offset.get()
}

/// Writes a block of one letter.
pub async fn write_at(volume: &Volume, at: u64, letter: u8, durability: Durability) -> Result<(), Error> {
    let buf = volume.context().buffers().copy_of(&[letter; BLOCK as usize]).unwrap();
    volume.write(ByteOffset(at), buf, durability).await.0
}

/// Writes a region, durably.
pub async fn write(volume: &Volume, region: u64, letter: u8) -> Result<(), Error> {
    write_at(volume, region * BLOCK, letter, Durability::Durable).await
}

/// W1 to W6.
pub async fn write_all(volume: &Volume, durability: Durability) {
    for (region, letter) in WRITES {
        write_at(volume, region * BLOCK, letter, durability).await.unwrap();
    }
}

/// The base, each region of it durable.
pub async fn write_base(volume: &Volume) {
    for (region, letter) in (0..).zip(BASE.bytes()) {
        write(volume, region, letter).await.unwrap();
    }
}

/// The byte that fills the block at this offset.
pub async fn byte_at(volume: &Volume, at: u64) -> Result<u8, Error> {
    let mut bytes = [0; BLOCK as usize];
    volume.read_bytes(ByteOffset(at), &mut bytes).await?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "the block at {at} is of one piece");
    Ok(bytes[0])
}

/// The byte that fills a region.
pub async fn byte(volume: &Volume, region: u64) -> Result<u8, Error> {
    byte_at(volume, region * BLOCK).await
}

/// The letters with which the eight regions begin, `region_bytes` apart; a dot for zeroes.
pub async fn current_of(volume: &Volume, region_bytes: u64) -> String {
    let mut letters = String::new();
    for region in 0..8 {
        let byte = byte_at(volume, region * region_bytes).await.unwrap();
        letters.push(if byte == 0 { '.' } else { char::from(byte) });
    }
    letters
}

/// The image as it is now.
pub async fn current(volume: &Volume) -> String {
    current_of(volume, BLOCK).await
}

/// What eight neighbouring regions of a disk begin with.
pub fn letters(disk: &SimulatedDisk, at: u64) -> String {
    (0..8).map(|region| char::from(disk.peek(at + region * BLOCK, 1)[0])).collect()
}

/// Blocks that live in the log; behind a log in front, once all of it is in the base.
pub async fn live_blocks(volume: &Volume) -> u64 {
    if volume.info().backend == Backend::LoggedCow {
        volume.apply(None).await.unwrap();
    }
    volume.status().log.unwrap().live_blocks
}

/// The disk as it is has no damage, and no block that nothing names. A cut may take one copy of the superblock.
pub async fn is_sound(rig: &Rig) {
    // What was in flight has ended then, and the disk is free.
    rig.runtime.context().sleep(50_000_000).await;
    let device = rig.device();
    let mut findings = check(&device, &mut |_| {}).await.unwrap().findings;
    findings.retain(|finding| finding.code != Code::SuperblockCopy);
    assert!(findings.is_empty(), "{findings:#?}");
}

/// The letters with which the eight regions begin at a moment, or why it is not shown.
pub async fn image_at(volume: &Volume, sequence: Seq) -> Result<String, Error> {
    let options = ImageOptions { sequence: Some(sequence), ..ImageOptions::default() };
    let image = volume.image(options).await?;
    let buf = volume.context().buffers().get(8 * BLOCK as usize)?;
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result?;
    let letter = |block: &[u8]| if block[0] == 0 { '.' } else { char::from(block[0]) };
    Ok(buf.chunks_exact(BLOCK as usize).map(letter).collect())
}

/// Those of a snapshot.
pub async fn shown(volume: &Volume, name: &str) -> Result<String, Error> {
    image_at(volume, volume.snapshot(name)?.sequence).await
}

/// Goes back to one of the oldest `among` snapshots, if there is that one and it can be gone back to.
pub async fn go_back_to_one(volume: &Volume, random: &mut Random, among: u64) {
    if let Some(one) = volume.snapshots().get(random.below(among) as usize) {
        // It may have been gone back from.
        let _ = volume.rollback(one.sequence).await;
    }
}
