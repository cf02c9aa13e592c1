//! A snapshot is taken at a boundary of writes: of a write under way it sees all or nothing, however many entries,
//! batches or places of the base that write has; it sees every write that had completed when it was asked for; and it
//! shows the same at once and when everything has been written, or power has been cut instead.
//!
//! Writers write the whole volume, each time with another number in every block, so that an image of two numbers is one
//! of a write cut through.

use std::cell::Cell;
use std::rc::Rc;

use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::runtime::{Context, OperationKind, Random, Runtime, Task};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, OpenOptions, Volume};

const BLOCK: usize = 4096;
/// A write of all of it is several entries of the log, more than a segment has room for beside another one.
const BLOCKS: usize = 24;
const SEGMENT_BYTES: u32 = 16 * BLOCK as u32;
const WRITERS: u64 = 3;
const WRITES: u64 = 12;
const SNAPSHOTS: u64 = 6;
const SEEDS: u64 = 24;
const SLOW_NS: u64 = 3_000_000;

async fn write_all(volume: &Volume, number: u64, durability: Durability) {
    let bytes = number.to_le_bytes().repeat(BLOCKS * BLOCK / 8);
    let buf = volume.context().buffers().copy_of(&bytes).unwrap();
    volume.write(ByteOffset(0), buf, durability).await.0.unwrap();
}

/// The numbers of an image, each once, in the order of the blocks.
async fn numbers(volume: &Volume, name: &str) -> Vec<u64> {
    let sequence = Some(volume.snapshot(name).unwrap().sequence);
    let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
    let buf = volume.context().buffers().get(BLOCKS * BLOCK).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    let mut numbers: Vec<u64> =
        buf.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    numbers.dedup();
    numbers
}

async fn open(disk: &SimulatedDisk, context: &Context) -> Volume {
    let options = OpenOptions { refuse_when_full: false, ..OpenOptions::default() };
    Volume::open_with(disk.open(context).unwrap(), OpenMode::ReadWrite, options).await.unwrap()
}

/// What is wrong with a snapshot of one play, if anything is, and how many were taken while a write was under way.
fn play(backend: Backend, seed: u64) -> (Option<String>, u64) {
    let (runtime, calendar) = Runtime::simulated(seed).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", 16 << 20, BLOCK as u32);
    let context = runtime.context().clone();
    runtime.block_on(async {
        let options = CreateOptions {
            size_bytes: Some((BLOCKS * BLOCK) as u64),
            block_bytes: Some(BLOCK as u32),
            region_bytes: BLOCK as u32,
            segment_bytes: Some(SEGMENT_BYTES),
            ..CreateOptions::new(backend)
        };
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let volume = open(&disk, &context).await;
        write_all(&volume, 1, Durability::Durable).await;
        // In place, a write of all is one request. Some take longer than a snapshot does.
        disk.set_plan(Box::new(|request, _| {
            let is_in_place = request.length == (BLOCKS * BLOCK) as u64 && request.kind != OperationKind::Read;
            (is_in_place && request.number.is_multiple_of(3)).then_some(Fault::Stall(SLOW_NS))
        }));
        // The number of the write that completed last, and how many are under way. Numbers rise in the order of the calls.
        let (done, last, under_way) = (Rc::new(Cell::new(1)), Rc::new(Cell::new(1)), Rc::new(Cell::new(0)));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (volume, mut random) = (volume.clone(), Random::from_seed(seed * WRITERS + writer));
                let (done, last, under_way) = (Rc::clone(&done), Rc::clone(&last), Rc::clone(&under_way));
                context.spawn(async move {
                    for _ in 0..WRITES {
                        volume.context().sleep(random.below(400_000)).await;
                        last.set(last.get() + 1);
                        let number = last.get();
                        let durable = random.chance(1, 2);
                        under_way.set(under_way.get() + 1);
                        let durability = if durable { Durability::Durable } else { Durability::OnFlush };
                        write_all(&volume, number, durability).await;
                        under_way.set(under_way.get() - 1);
                        done.set(done.get().max(number));
                    }
                })
            })
            .collect();
        let is_cut = !seed.is_multiple_of(2);
        let (mut random, mut amid) = (Random::from_seed(!seed), 0);
        let mut at_once = Vec::new();
        for number in 0..SNAPSHOTS {
            context.sleep(random.below(900_000)).await;
            amid += u64::from(under_way.get() > 0);
            let before = done.get();
            let name = format!("s{number}");
            volume.create_snapshot(&name).await.unwrap();
            // Opening an image waits for writers, and makes durable what they wrote: the last one meets the cut as it is.
            let is_cut = is_cut && number + 1 == SNAPSHOTS;
            let found = if is_cut { None } else { Some(numbers(&volume, &name).await) };
            at_once.push((name, before, found));
        }
        let mut volume = volume;
        if is_cut {
            writers.iter().for_each(Task::abort);
            drop(volume);
            disk.cut_power();
            volume = open(&disk, &context).await;
        } else {
            for writer in writers {
                writer.await;
            }
        }
        for (name, before, found) in at_once {
            let later = numbers(&volume, &name).await;
            if later.len() > 1 || later[0] < before || found.as_ref().is_some_and(|found| later != *found) {
                let wrong = format!(
                    "{backend:?}, seed {seed}: {name} shows {found:?}, later {later:?}; {before} had completed"
                );
                return (Some(wrong), amid);
            }
        }
        (None, amid)
    })
}

const BACKENDS: [Backend; 4] = [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow];

#[test]
fn a_snapshot_sees_all_or_nothing_of_a_write_under_way() {
    for backend in BACKENDS {
        let mut amid = 0;
        for seed in 0..SEEDS {
            let (wrong, while_writing) = play(backend, seed);
            assert_eq!(wrong, None);
            amid += while_writing;
        }
        println!(
            "{backend:?}: {amid} of {} snapshots were asked for while something was written",
            SEEDS * SNAPSHOTS
        );
        assert!(amid > SEEDS, "{backend:?}: {amid}");
    }
}

/// The control.
#[cfg(feature = "mutations")]
#[test]
fn the_planted_fault_of_a_snapshot_amid_writes_is_found_on_every_backend() {
    use icecore::mutation::{Mutation, switch};
    for backend in BACKENDS {
        switch(Some(Mutation::SnapshotAmidWrites));
        let found = (0..SEEDS).find_map(|seed| play(backend, seed).0);
        switch(None);
        println!("{found:?}");
        assert!(found.is_some(), "{backend:?}");
    }
}
