//! Emptying keeps a segment open that it goes on to fill, and all that lies there can die meanwhile: the log, short of room,
//! must not lease that segment before the journal knows what has been moved to it.
//!
//! While rows are gathered, what a log in front of copy-on-write brings home gets other names, and comes home nonetheless
//! . Whoever asks for that while room is coming waits for it, and is not refused.
//!
//! A crowded pool whose writers are refused now and then, in which snapshots are taken and deleted while segments are
//! emptied. Reads take long, and so does what is moved, since nothing else reads.

use std::collections::BTreeSet;

use icecore::check::check;
use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::runtime::{OperationKind, Random, Runtime, join_all};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

pub const BLOCK: u64 = 512;
const BLOCKS: u64 = 2048;
const SEGMENT_BLOCKS: u64 = 64;
/// So that two snapshots fill the pool and a third one does not fit.
const DEVICE_BYTES: u64 = 5632 << 10;
const DEPTH: u64 = 16;
const ROUNDS: u64 = 60;
const READ_NS: u64 = 2_000_000;
const DELETE_NS: u64 = 60_000_000;
const REFUSED_NS: u64 = 3_000_000;
const WAITS: u64 = 20;
const WAIT_NS: u64 = 5_000_000_000;
/// Blocks of rows that were gathered have come home, which the check has to know; the planted fault is found by the last two.
const SEEDS: [u64; 4] = [22, 33, 32, 48];
/// Where a round is short of room when the last snapshots are deleted, or is found to be so after it has begun.
const SHORT_SEEDS: [u64; 6] = [1, 7, 56, 69, 80, 84];

/// A volume of a pool with many small segments.
pub fn crowded(backend: Backend, blocks: u64) -> CreateOptions {
    CreateOptions {
        size_bytes: Some(blocks * BLOCK),
        block_bytes: Some(BLOCK as u32),
        region_bytes: BLOCK as u32,
        segment_bytes: Some((SEGMENT_BLOCKS * BLOCK) as u32),
        checkpoint_bytes: Some(128 << 10),
        ..CreateOptions::new(backend)
    }
}

/// Whether there was room for it.
async fn write(volume: &Volume, block: u64, number: u64) -> bool {
    let buf = volume.context().buffers().copy_of(&[number as u8; BLOCK as usize]).unwrap();
    volume.write(ByteOffset(block * BLOCK), buf, Durability::OnFlush).await.0.is_ok()
}

/// Without snapshots, nothing stays in the log of what has been applied, also where its rows were gathered meanwhile.
async fn comes_home(volume: &Volume) {
    for _ in 0..WAITS {
        // The room that a deletion makes comes a little later.
        volume.context().sleep(WAIT_NS).await;
        let applied = volume.apply(None).await;
        if applied.is_ok() && volume.status().log.unwrap().live_blocks == 0 {
            return;
        }
    }
    panic!("{} blocks stay in the log", volume.status().log.unwrap().live_blocks);
}

/// Panics where something is not as it must be.
fn play(backend: Backend, seed: u64) {
    let (runtime, calendar) = Runtime::simulated(seed).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", DEVICE_BYTES, BLOCK as u32);
    let context = runtime.context().clone();
    let mut random = Random::from_seed(seed);
    runtime.block_on(async {
        let options = crowded(backend, BLOCKS);
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
        disk.set_plan(Box::new(|request, _| {
            (request.kind == OperationKind::Read).then_some(Fault::Stall(READ_NS))
        }));
        // What was refused may be there or not.
        let mut model = vec![Some(0); BLOCKS as usize];
        let (mut number, mut names) = (0, Vec::new());
        for round in 0..ROUNDS {
            if volume.create_snapshot(&format!("s{round}")).await.is_ok() {
                names.push(round);
            }
            let most = random.below(3) as usize;
            let deleting = (names.len() > most).then(|| {
                let name = names.remove(random.below(names.len() as u64) as usize);
                let (volume, after_ns) = (volume.clone(), random.below(DELETE_NS));
                context.spawn(async move {
                    volume.context().sleep(after_ns).await;
                    volume.delete_snapshot(&format!("s{name}")).await.unwrap();
                })
            });
            for _ in 0..random.below(BLOCKS / DEPTH / 2) {
                number += 1;
                let batch: BTreeSet<u64> = (0..DEPTH).map(|_| random.below(BLOCKS)).collect();
                let written = join_all(batch.iter().map(|block| write(&volume, *block, number))).await;
                for (block, is_written) in batch.iter().zip(&written) {
                    model[*block as usize] = is_written.then_some(number);
                }
                if written.contains(&false) {
                    context.sleep(REFUSED_NS).await;
                }
            }
            if let Some(deleting) = deleting {
                deleting.await;
            }
        }
        if backend == Backend::LoggedCow {
            for name in names {
                volume.delete_snapshot(&format!("s{name}")).await.unwrap();
            }
            // What is deleted makes room a little later, and no copies are needed any more.
            volume.apply(None).await.unwrap();
            comes_home(&volume).await;
        }
        for (block, number) in (0..).zip(&model) {
            let mut bytes = [0; BLOCK as usize];
            volume.read_bytes(ByteOffset(block * BLOCK), &mut bytes).await.unwrap();
            assert!(number.is_none_or(|number| bytes == [number as u8; BLOCK as usize]), "block {block}");
        }
        volume.close().await.unwrap();
        drop(volume);
        disk.cut_power();
        let report = check(&disk.open(&context).unwrap(), &mut |_| ()).await.unwrap();
        assert_eq!(report.damage, 0, "{backend:?}, seed {seed}: {:?}", report.findings);
    });
}

#[test]
fn what_emptying_fills_is_nobody_elses() {
    for backend in [Backend::LoggedCow, Backend::Overlay, Backend::Log] {
        SEEDS.iter().for_each(|seed| play(backend, *seed));
    }
}

#[test]
fn what_is_to_come_home_waits_for_the_room_that_a_deletion_makes() {
    SHORT_SEEDS.iter().for_each(|seed| play(Backend::LoggedCow, *seed));
}

#[cfg(feature = "mutations")]
#[test]
fn that_the_log_takes_what_emptying_fills_is_seen() {
    use icecore::mutation::{Mutation, switch};

    let is_found = |seed: &u64| {
        switch(Some(Mutation::OpenTargetUnheld));
        let played = std::panic::catch_unwind(|| play(Backend::LoggedCow, *seed));
        switch(None);
        played.is_err()
    };
    let found = SEEDS.into_iter().find(is_found);
    println!("found by seed {found:?}");
    assert!(found.is_some(), "not found");
}
