//! Memory stays within the budget of the index and what docs/ARCHITECTURE.md ("Memory") states beside it, counted by
//! the allocator itself.
//!
//! What is allocated with the alignment of a buffer is one, and counted apart: the rest is what the engine keeps in
//! mind. The disk is a sparse file, because a simulated one would lie in the same memory. What the kernel holds for the
//! ring, and what the allocator adds to each piece, is not counted. One test alone in this file: the count is the whole
//! process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::device::{Access, Caching, Device, create_file};
use icecore::runtime::{IoMode, Random, Runtime, RuntimeOptions};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, OpenOptions, Volume};

struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);
static BUFFER_BYTES: AtomicUsize = AtomicUsize::new(0);
static BUFFER_PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Nothing but buffers is aligned to this or more.
const BUFFER_ALIGNMENT_BYTES: usize = 512;

fn counters(layout: Layout) -> (&'static AtomicUsize, &'static AtomicUsize) {
    match layout.align() >= BUFFER_ALIGNMENT_BYTES {
        true => (&BUFFER_BYTES, &BUFFER_PEAK_BYTES),
        false => (&HELD_BYTES, &PEAK_BYTES),
    }
}

fn took(layout: Layout, bytes: usize) {
    let (held, peak) = counters(layout);
    let now = held.fetch_add(bytes, Ordering::Relaxed) + bytes;
    peak.fetch_max(now, Ordering::Relaxed);
}

fn gave(layout: Layout) {
    counters(layout).0.fetch_sub(layout.size(), Ordering::Relaxed);
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout, layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        gave(layout);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Old and new may exist beside each other for a moment.
        took(layout, bytes);
        gave(layout);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const DEPTH: u64 = 32;
/// Buffers for so many small writes and the engine's own work, which the pool bounds by itself.
const BUFFERS_BYTES: u64 = 32 * MIB;
/// What is kept of the past, where any is.
const PAST_BYTES: u64 = 32 * MIB;

/// What is written to which volume.
#[derive(Clone, Copy, Debug)]
struct Load {
    backend: Backend,
    device_bytes: u64,
    volume_bytes: u64,
    segment_bytes: u64,
    checkpoint_bytes: u64,
    retention_bytes: u64,
    index_bytes: u64,
    /// Blocks that are written, evenly scattered over the volume.
    blocks: u64,
    writes: u64,
    /// How often all of it is discarded on the way.
    discards: u64,
    /// Nine of ten writes go to one of ten blocks.
    skewed: bool,
    /// An image of the beginning stays open.
    image: bool,
    /// So many snapshots are taken, one behind each write of the second opening.
    snapshots: u64,
    /// A snapshot is taken at each opening, and then each block is written once, so that it has to be saved.
    first_touches: bool,
}

/// What the engine held.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    peak_bytes: u64,
    buffer_peak_bytes: u64,
    segments: u64,
    segments_used: u64,
}

impl Load {
    /// What docs/ARCHITECTURE.md allows beside the buffers.
    fn allowed_bytes(&self, measured: &Measured) -> u64 {
        let segment_blocks = self.segment_bytes / BLOCK;
        let waiting =
            (4 * self.checkpoint_bytes / BLOCK).min(2 * self.writes * (self.discards + 1) + self.snapshots);
        // Of two snapshots everything is kept.
        let saved = if self.first_touches && self.backend == Backend::Cow { 2 * self.blocks } else { 0 };
        let held = if self.image { self.blocks } else { 0 } + self.snapshots + saved;
        let past = self.retention_bytes / BLOCK + held;
        let zeroed = if self.discards > 0 { self.blocks.min(1 << 16) } else { 0 };
        self.index_bytes
            + if saved > 0 { 400 } else { 192 } * waiting
            + 144 * past
            + (self.blocks + past + saved + waiting) / 2
            + measured.segments_used * (2048 + 3 * segment_blocks)
            + measured.segments * (12 + segment_blocks / 32)
            + DEPTH * 4096
            + zeroed * 256
            + self.snapshots * 1280
            + MIB
    }
}

async fn write(volume: &Volume, load: &Load, random: &mut Random) {
    let block = match load.skewed && random.below(10) < 9 {
        true => random.below(load.blocks / 10) * 10,
        false => random.below(load.blocks),
    };
    write_one(volume, load, block).await;
}

async fn write_one(volume: &Volume, load: &Load, block: u64) {
    let block = block * (load.volume_bytes / BLOCK / load.blocks);
    let buf = volume.context().buffers().zeroed(BLOCK as usize).unwrap();
    volume.write(ByteOffset(block * BLOCK), buf, Durability::OnFlush).await.0.unwrap();
}

async fn write_some(volume: &Volume, load: Load, seed: u64, measured: &mut Measured) {
    let tasks: Vec<_> = (0..DEPTH)
        .map(|task| {
            let (volume, load) = (volume.clone(), load);
            volume.context().clone().spawn(async move {
                let mut random = Random::from_seed(seed * DEPTH + task);
                let mut used = 0;
                for number in 0..load.writes / DEPTH {
                    match load.first_touches {
                        true => write_one(&volume, &load, number * DEPTH + task).await,
                        false => write(&volume, &load, &mut random).await,
                    }
                    if number % 8 == 0 {
                        let log = volume.status().log.unwrap();
                        used = used.max(log.segments - log.free_segments);
                    }
                }
                used
            })
        })
        .collect();
    for task in tasks {
        measured.segments_used = measured.segments_used.max(task.await.unwrap().into());
    }
}

/// Opens the file once the tasks of an earlier opening have let it go.
async fn open_device(runtime: &Runtime, path: &Path) -> Device {
    for _ in 0..1000 {
        let opened = Device::open(runtime.context(), path, Access::Exclusive, Caching::PageCache);
        match opened {
            Ok(device) => return device,
            Err(_) => runtime.context().sleep(10_000_000).await,
        }
    }
    panic!("the file is let go")
}

fn reset_peaks() {
    PEAK_BYTES.store(HELD_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
    BUFFER_PEAK_BYTES.store(BUFFER_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Creates, writes, loses the process's memory, opens, writes, closes.
fn run(runtime: &Runtime, path: &Path, load: Load) -> Measured {
    std::fs::remove_file(path).ok();
    create_file(path, load.device_bytes).unwrap();
    runtime.block_on(async {
        let device = || open_device(runtime, path);
        let options = CreateOptions {
            size_bytes: Some(load.volume_bytes),
            region_bytes: BLOCK as u32,
            block_bytes: Some(BLOCK as u32),
            segment_bytes: Some(load.segment_bytes as u32),
            checkpoint_bytes: Some(load.checkpoint_bytes),
            retention_bytes: load.retention_bytes,
            snapshots_max: (load.snapshots > 0).then_some(load.snapshots as u32),
            ..CreateOptions::new(load.backend)
        };
        Volume::create(&device().await, options).await.unwrap();
        let before = HELD_BYTES.load(Ordering::Relaxed);
        let buffers_before = BUFFER_BYTES.load(Ordering::Relaxed);
        reset_peaks();
        let mut measured = Measured::default();
        for seed in 0..2 {
            let options = OpenOptions { index_bytes: load.index_bytes as usize, ..OpenOptions::default() };
            let volume = Volume::open_with(device().await, OpenMode::ReadWrite, options).await.unwrap();
            measured.segments = volume.status().log.unwrap().segments.into();
            let image = match load.image {
                true => Some(volume.image(ImageOptions::default()).await.unwrap()),
                false => None,
            };
            if load.first_touches {
                volume.create_snapshot(&format!("opening {seed}")).await.unwrap();
            }
            for _ in 0..load.discards {
                write_some(&volume, load, seed, &mut measured).await;
                volume.discard(ByteOffset(0), load.volume_bytes).await.unwrap();
            }
            write_some(&volume, load, seed, &mut measured).await;
            for number in (0..load.snapshots).filter(|_| seed == 1) {
                write(&volume, &load, &mut Random::from_seed(number)).await;
                volume.create_snapshot(&format!("{number:05}{}", "n".repeat(59))).await.unwrap();
            }
            let status = volume.status().log.unwrap();
            assert!(
                status.index_memory_bytes > 0 && (load.image || status.past_bytes <= load.retention_bytes)
            );
            drop(image);
            if seed == 1 {
                volume.close().await.unwrap();
            }
        }
        measured.peak_bytes = (PEAK_BYTES.load(Ordering::Relaxed) - before) as u64;
        measured.buffer_peak_bytes = (BUFFER_PEAK_BYTES.load(Ordering::Relaxed) - buffers_before) as u64;
        measured
    })
}

#[test]
fn memory_stays_within_the_budget_and_what_is_stated_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let new = |io_mode| Runtime::new(RuntimeOptions { io_mode, ..RuntimeOptions::default() });
    let runtime = new(IoMode::Uring).or_else(|_| new(IoMode::Blocking)).unwrap();
    let scattered = Load {
        backend: Backend::Log,
        device_bytes: 96 << 30,
        volume_bytes: 64 << 30,
        segment_bytes: 8 * MIB,
        checkpoint_bytes: 4 * MIB,
        retention_bytes: 0,
        index_bytes: MIB,
        blocks: 16384,
        writes: 16384,
        discards: 0,
        skewed: false,
        image: false,
        snapshots: 0,
        first_touches: false,
    };
    let full = Load {
        device_bytes: 128 * MIB,
        volume_bytes: 72 * MIB,
        segment_bytes: 64 << 10,
        blocks: 18432,
        writes: 40960,
        skewed: true,
        ..scattered
    };
    let peak_of = |load: Load| {
        let measured = run(&runtime, &path, load);
        let allowed_bytes = load.allowed_bytes(&measured);
        println!(
            "{:?}: index {:5} KiB, past {:5} KiB, {} discards, image {:5}, {:5} snapshots, {:4} of {} segments: {:5} KiB of {:5}; buffers {:4} KiB",
            load.backend,
            load.index_bytes / 1024,
            load.retention_bytes / 1024,
            load.discards,
            load.image,
            load.snapshots,
            measured.segments_used,
            measured.segments,
            measured.peak_bytes / 1024,
            allowed_bytes / 1024,
            measured.buffer_peak_bytes / 1024,
        );
        assert!(measured.peak_bytes <= allowed_bytes, "{load:?}: {measured:?}");
        assert!(measured.buffer_peak_bytes <= BUFFERS_BYTES, "{measured:?}");
        (measured.peak_bytes, allowed_bytes)
    };
    let mut smaller_allowed_bytes = u64::MAX;
    for index_bytes in [MIB, 16 * MIB] {
        let load = Load { index_bytes, ..scattered };
        let (peak_bytes, allowed_bytes) = peak_of(load);
        // The control: a larger budget is made use of, and a smaller one that is ignored would be found out.
        assert!(index_bytes == MIB || peak_bytes > smaller_allowed_bytes, "{peak_bytes} of {allowed_bytes}");
        smaller_allowed_bytes = allowed_bytes;
        let (with_past_bytes, _) = peak_of(Load { retention_bytes: PAST_BYTES, ..load });
        assert!(
            with_past_bytes > peak_bytes + 24 * PAST_BYTES / BLOCK,
            "what is kept of the past takes memory"
        );
    }
    peak_of(full);
    peak_of(Load { retention_bytes: 8 * MIB, ..full });
    peak_of(Load { discards: 2, ..full });
    let (few_bytes, _) = peak_of(Load { snapshots: 1000, writes: 1024, ..full });
    let (many_bytes, _) = peak_of(Load { snapshots: 10_000, writes: 1024, device_bytes: 256 * MIB, ..full });
    assert!(many_bytes > few_bytes + 9000 * 400, "snapshots take memory");
    peak_of(Load { image: true, volume_bytes: 48 * MIB, blocks: 12288, ..full });
    // Each block is saved and waits, with all others, for one checkpoint.
    let blocks = 8192;
    let touched = Load {
        backend: Backend::Overlay,
        segment_bytes: MIB,
        volume_bytes: blocks * BLOCK,
        checkpoint_bytes: blocks * BLOCK,
        blocks,
        writes: blocks,
        first_touches: true,
        ..full
    };
    let (written_bytes, _) = peak_of(touched);
    let (saved_bytes, _) = peak_of(Load { backend: Backend::Cow, ..touched });
    assert!(saved_bytes > written_bytes + (32 + 40) * blocks, "a saved block is a version more, and a note");
}
