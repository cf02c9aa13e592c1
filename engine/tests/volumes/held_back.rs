//! What is held back comes free, and what is dropped half way does no harm: space behind an open image, through a close
//! and a power cut; commits of metadata whose callers went away.

use std::cell::Cell;
use std::rc::Rc;

use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::Reason;
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;
/// Of a short record of the metadata journal.
const RECORD_BYTES: u64 = 4096;
const MANUAL: ApplyOptions = ApplyOptions { mode: ApplyMode::Absorb, automatic: false, at_open: false };

struct Rig {
    runtime: Runtime,
    disk: SimulatedDisk,
}

impl Rig {
    fn new(backend: Backend, device_bytes: u64) -> Self {
        let (runtime, calendar) = Runtime::simulated(3).unwrap();
        let disk = SimulatedDisk::new(&calendar, 3, "disk", device_bytes, BLOCK as u32);
        let options = CreateOptions {
            size_bytes: Some(BLOCKS * BLOCK),
            region_bytes: BLOCK as u32,
            segment_bytes: Some(64 << 10),
            checkpoint_bytes: Some(128 << 10),
            ..CreateOptions::new(backend)
        };
        let device = disk.open(runtime.context()).unwrap();
        runtime.block_on(Volume::create(&device, options)).unwrap();
        Self { runtime, disk }
    }

    async fn open(&self, apply: ApplyOptions) -> Volume {
        // What the volume before left in flight ends first.
        let device = loop {
            match self.disk.open(self.runtime.context()) {
                Ok(device) => break device,
                Err(_) => self.runtime.context().sleep(1_000_000).await,
            }
        };
        let options = OpenOptions { apply, refuse_when_full: true, ..OpenOptions::default() };
        Volume::open_with(device, OpenMode::ReadWrite, options).await.unwrap()
    }
}

async fn write(volume: &Volume, number: u64) -> Result<(), icecore::error::Error> {
    let buf = volume.context().buffers().copy_of(&[(number % 251) as u8; BLOCK as usize]).unwrap();
    volume.write(ByteOffset(number % BLOCKS * BLOCK), buf, Durability::Durable).await.0
}

/// Every block holds the newest of the first `count` writes to it.
async fn holds(volume: &Volume, count: u64) {
    for block in 0..BLOCKS.min(count) {
        let last = count - 1 - (count - 1 - block) % BLOCKS;
        let mut bytes = [0; BLOCK as usize];
        volume.read_bytes(ByteOffset(block * BLOCK), &mut bytes).await.unwrap();
        assert_eq!(bytes, [(last % 251) as u8; BLOCK as usize], "block {block}");
    }
}

#[test]
fn blocks_behind_an_image_that_was_never_closed_come_free_at_the_next_opening() {
    for closed in [true, false] {
        let rig = Rig::new(Backend::Log, 8 << 20);
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            for number in 0..BLOCKS {
                write(&volume, number).await.unwrap();
            }
            let image = volume.image(ImageOptions::default()).await.unwrap();
            for number in BLOCKS..2 * BLOCKS {
                write(&volume, number).await.unwrap();
            }
            // Another image's checkpoint: what is held back is on the device.
            drop(volume.image(ImageOptions::default()).await.unwrap());
            assert_eq!(volume.status().log.unwrap().live_blocks, 2 * BLOCKS);
            if closed {
                volume.close().await.unwrap();
            }
            drop((image, volume));
            if !closed {
                rig.disk.cut_power();
            }
            let volume = rig.open(MANUAL).await;
            assert_eq!(volume.status().log.unwrap().live_blocks, BLOCKS, "closed: {closed}");
            holds(&volume, 2 * BLOCKS).await;
            // And it stays so.
            volume.close().await.unwrap();
            drop(volume);
            let volume = rig.open(MANUAL).await;
            assert_eq!(volume.status().log.unwrap().live_blocks, BLOCKS);
            holds(&volume, 2 * BLOCKS).await;
        });
    }
}

#[test]
fn a_full_log_before_a_linear_volume_goes_on_when_the_image_that_filled_it_is_closed() {
    let rig = Rig::new(Backend::Linear, 5 << 20);
    rig.runtime.block_on(async {
        let volume = rig.open(ApplyOptions::default()).await;
        let mut count = 0;
        while count < BLOCKS {
            write(&volume, count).await.unwrap();
            count += 1;
        }
        let image = volume.image(ImageOptions::default()).await.unwrap();
        let full = loop {
            match write(&volume, count).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(count < 20_000, "it never fills");
        };
        assert!(matches!(full.reason(), Reason::LogFull { .. }), "{full}");
        drop(image);
        rig.runtime.context().sleep(1_000_000_000).await;
        for _ in 0..200 {
            write(&volume, count).await.unwrap();
            count += 1;
        }
        holds(&volume, count).await;
    });
}

#[test]
fn a_commit_whose_caller_has_gone_ends_before_the_next_one_begins() {
    for accepts in [false, true] {
        let rig = Rig::new(Backend::Linear, 8 << 20);
        let context = rig.runtime.context().clone();
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            for number in 0..BLOCKS {
                write(&volume, number).await.unwrap();
            }
            if accepts {
                volume.pin_base().await.unwrap();
            }
            // Its record is held by the disk when the caller goes.
            let held = Rc::new(Cell::new(false));
            let seen = Rc::clone(&held);
            rig.disk.set_plan(Box::new(move |request, _| {
                let is_record = matches!(request.kind, OperationKind::Write { durable: false })
                    && request.length == RECORD_BYTES;
                (is_record && !seen.replace(true)).then_some(Fault::Hold)
            }));
            let caller = context.spawn({
                let volume = volume.clone();
                async move {
                    if accepts {
                        volume.accept(None).await.unwrap();
                    } else {
                        volume.pin_base().await.unwrap();
                    }
                }
            });
            while !held.get() {
                context.sleep(1_000).await;
            }
            caller.abort();
            drop(caller);
            // A checkpoint has a record to write, too.
            let another = volume.clone();
            let checkpoint = context.spawn(async move {
                for number in BLOCKS..2 * BLOCKS {
                    write(&another, number).await.unwrap();
                }
                drop(another.image(ImageOptions::default()).await.unwrap());
            });
            context.sleep(1_000_000_000).await;
            rig.disk.tickets().into_iter().for_each(|ticket| rig.disk.release_held(ticket));
            checkpoint.await.unwrap();
            // And the next one: from here on nobody reads what lies before it in the log.
            write(&volume, 2 * BLOCKS).await.unwrap();
            drop(volume.image(ImageOptions::default()).await.unwrap());
            drop(volume);
            rig.disk.cut_power();
            let volume = rig.open(MANUAL).await;
            holds(&volume, 2 * BLOCKS + 1).await;
        });
    }
}
