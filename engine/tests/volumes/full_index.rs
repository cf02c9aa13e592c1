//! A pool that is full of what snapshots keep has an index of the largest kind: an entry and a death for almost each block. It has
//! room to be written anew, whole, beside what it was; nothing is lost, and writes go on after snapshots were given up.
//!
//! Volumes of blocks that are overwritten in random order under one snapshot after another until there is no room.

use std::collections::BTreeMap;

use icecore::check::check;
use icecore::device::simulated::SimulatedDisk;
use icecore::error::Kind;
use icecore::runtime::{Random, Runtime, join_all};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{Durability, OpenMode, Volume};

use crate::open_targets::{BLOCK, crowded};

const BLOCKS: u64 = 4096;
/// What the area of the index has at least would be enough for a smaller one.
const DEVICE_BYTES: u64 = 20 << 20;
const DEPTH: u64 = 32;
/// More than it has room for.
const SNAPSHOTS: u64 = 40;
const REFUSED_NS: u64 = 3_000_000;
const ROOM_COMES_NS: u64 = 20_000_000_000;

async fn write(volume: &Volume, block: u64, number: u64) -> icecore::error::Result<()> {
    let buf = volume.context().buffers().copy_of(&[number as u8; BLOCK as usize]).unwrap();
    volume.write(ByteOffset(block * BLOCK), buf, Durability::OnFlush).await.0
}

/// Overwrites a part of the blocks, or all, in random order; whether there was room for all. Any other refusal is a panic.
async fn overwrite(volume: &Volume, random: &mut Random, number: u64, model: &mut [Option<u8>]) -> bool {
    let mut order: Vec<u64> = (0..BLOCKS).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let count = order.len() / (1 + random.below(4) as usize);
    for blocks in order[..count].chunks(DEPTH as usize) {
        let written = join_all(blocks.iter().map(|block| write(volume, *block, number))).await;
        let mut refused = false;
        for (block, result) in blocks.iter().zip(written) {
            match result {
                Ok(()) => model[*block as usize] = Some(number as u8),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
                    // It may be there or not.
                    model[*block as usize] = None;
                    refused = true;
                }
            }
        }
        if refused {
            return false;
        }
    }
    true
}

/// `discards`: between snapshots everything is discarded, which others keep too: an entry for each block, and no slot.
fn play(seed: u64, discards: bool) {
    let (runtime, calendar) = Runtime::simulated(seed).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", DEVICE_BYTES, BLOCK as u32);
    let context = runtime.context().clone();
    let mut random = Random::from_seed(seed);
    runtime.block_on(async {
        let options = crowded(Backend::Log, BLOCKS);
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
        let mut model = vec![Some(0); BLOCKS as usize];
        let (mut names, mut images, mut is_full) = (Vec::new(), BTreeMap::new(), false);
        for number in 1..=SNAPSHOTS {
            // What is overwritten twice between two snapshots is kept by nobody, and emptied.
            for _ in 0..1 + random.below(3) {
                is_full |= !overwrite(&volume, &mut random, number, &mut model).await;
            }
            if is_full {
                break;
            }
            volume.create_snapshot(&format!("s{number}")).await.unwrap();
            if discards {
                volume.discard(ByteOffset(0), BLOCKS * BLOCK).await.unwrap();
                volume.create_snapshot(&format!("z{number}")).await.unwrap();
            }
            names.push(number);
            images.insert(number, model.clone());
            if discards {
                model.fill(Some(0));
            }
        }
        assert!(is_full && names.len() > 3, "{} snapshots", names.len());
        for number in 100..120 {
            // Little by little there is room where nobody keeps what was there.
            overwrite(&volume, &mut random, number, &mut model).await;
            context.sleep(REFUSED_NS).await;
        }
        for number in [names[0], names[names.len() / 2]] {
            let image = volume.image_of(&format!("s{number}")).await.unwrap();
            let buf = context.buffers().get((BLOCKS * BLOCK) as usize).unwrap();
            let (read, buf) = image.read(ByteOffset(0), buf).await;
            read.unwrap();
            let blocks = buf.chunks(BLOCK as usize).zip(&images[&number]);
            for (block, wanted) in blocks {
                assert!(wanted.is_none_or(|wanted| block.iter().all(|byte| *byte == wanted)), "s{number}");
            }
        }
        for number in names.drain(..).skip(1) {
            volume.delete_snapshot(&format!("s{number}")).await.unwrap();
            if discards {
                volume.delete_snapshot(&format!("z{number}")).await.unwrap();
            }
        }
        context.sleep(ROOM_COMES_NS).await;
        assert!(overwrite(&volume, &mut random, 200, &mut model).await, "room was given up");
        volume.flush().await.unwrap();
        assert!(!volume.status().poisoned);
        volume.close().await.unwrap();
        drop(volume);
        disk.cut_power();
        let report = check(&disk.open(&context).unwrap(), &mut |_| ()).await.unwrap();
        assert_eq!(report.damage, 0, "seed {seed}: {:?}", report.findings);
    });
}

#[test]
fn a_pool_full_of_kept_versions_has_room_for_its_index() {
    (1..=4).for_each(|seed| play(seed, false));
}

/// Seed 13 comes to it.
#[test]
fn where_the_index_has_no_room_to_be_written_anew_the_volume_goes_on() {
    [1, 13].into_iter().for_each(|seed| play(seed, true));
}
