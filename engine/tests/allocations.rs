//! No heap allocation per I/O on the data path, counted by the allocator itself.
//!
//! One test alone in this file: the count is the whole process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use icecore::device::{Access, Caching, Device, create_file};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DEPTH: u64 = 32;
const SIZE: u64 = 16 << 20;

/// Reads and writes `rounds` times from each of `DEPTH` tasks. Allocations while they ran.
fn allocations_of(runtime: &Runtime, volume: &Volume, rounds: u64) -> u64 {
    let count = Rc::new(Cell::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..DEPTH)
            .map(|task| {
                let (volume, count) = (volume.clone(), Rc::clone(&count));
                volume.context().clone().spawn(async move {
                    let mut buf = volume.context().buffers().zeroed(4096).unwrap();
                    for round in 0..rounds {
                        let at = ByteOffset((task + DEPTH * (round % 16)) * 4096);
                        let (result, back) = volume.write(at, buf, Durability::OnFlush).await;
                        result.unwrap();
                        let (result, back) = volume.read(at, back).await;
                        result.unwrap();
                        buf = back;
                        count.set(count.get() + 1);
                    }
                })
            })
            .collect();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(count.get(), DEPTH * rounds);
        ALLOCATIONS.load(Ordering::Relaxed) - before
    })
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    create_file(&path, SIZE).unwrap();
    for io_mode in [IoMode::Uring, IoMode::Blocking] {
        let options = RuntimeOptions { io_mode, ..RuntimeOptions::default() };
        let runtime = match Runtime::new(options) {
            Ok(runtime) => runtime,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let device = match Device::open(runtime.context(), &path, Access::Exclusive, Caching::Direct) {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        let volume = runtime.block_on(async {
            Volume::create(&device, CreateOptions::new(Backend::Direct)).await.unwrap();
            Volume::open(device, OpenMode::ReadWrite).await.unwrap()
        });
        let few = allocations_of(&runtime, &volume, 10);
        let many = allocations_of(&runtime, &volume, 210);
        println!("{io_mode:?}: {few} allocations for {} I/Os, {many} for {}", 20 * DEPTH, 420 * DEPTH);
        assert!(many <= few, "200 more rounds of {DEPTH} tasks added {} allocations", many - few);
    }
}
