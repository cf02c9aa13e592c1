//! What a read of a named moment costs in pages of the index, right after the volume was opened, with 1 and with 256
//! snapshots: counted at the device. And what it shows.

use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, Volume};

use crate::vlog::{BLOCK, MANUAL, MIB, Rig, small};

const BLOCKS: u64 = 8192;
/// Writes between two snapshots.
const CHANGES: u64 = 256;
/// Reads after the volume was opened, of different blocks as good as always.
const READS: u64 = 100;

async fn write(volume: &Volume, block: u64, number: u64) {
    let mut buf = volume.context().buffers().zeroed(BLOCK as usize).unwrap();
    buf[..8].copy_from_slice(&number.to_le_bytes());
    volume.write(ByteOffset(block * BLOCK), buf, Durability::OnFlush).await.0.unwrap();
}

/// Pages of the index that have been read so far.
fn index_pages(volume: &Volume) -> u64 {
    let ledger = volume.status().ledger;
    ledger.iter().find(|(name, _)| *name == "index").map_or(0, |(_, tally)| tally.read_bytes / 4096)
}

/// Closes it, until nobody has the device.
async fn leave(rig: &Rig, volume: Volume) {
    volume.close().await.unwrap();
    drop(volume);
    rig.runtime.context().sleep(50_000_000).await;
}

/// Pages of the index that so many reads of a snapshot read.
async fn cold_reads(rig: &Rig, name: &str, model: &[u64]) -> u64 {
    let volume = rig.open(MANUAL).await;
    let sequence = Some(volume.snapshot(name).unwrap().sequence);
    let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
    let (before, random) = (index_pages(&volume), &mut Random::from_seed(READS));
    for _ in 0..READS {
        let block = random.below(BLOCKS);
        let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
        let (result, buf) = image.read(ByteOffset(block * BLOCK), buf).await;
        result.unwrap();
        let found = u64::from_le_bytes(buf[..8].try_into().unwrap());
        assert_eq!(found, model[block as usize], "{name}, block {block}");
    }
    let pages = index_pages(&volume) - before;
    drop(image);
    leave(rig, volume).await;
    pages
}

#[test]
fn a_cold_read_of_a_moment_reads_the_versions_of_its_block_alone() {
    for backend in [Backend::Log, Backend::Cow, Backend::Overlay] {
        for snapshots in [1, 256] {
            let options = CreateOptions {
                size_bytes: Some(BLOCKS * BLOCK),
                segment_bytes: Some(MIB as u32),
                checkpoint_bytes: Some(16 * MIB),
                ..small(backend)
            };
            let rig = Rig::new(7, 1024 * MIB, options);
            rig.runtime.block_on(async {
                let random = &mut Random::from_seed(3);
                let volume = rig.open(MANUAL).await;
                let mut model = vec![1; BLOCKS as usize];
                for block in 0..BLOCKS {
                    write(&volume, block, 1).await;
                }
                let mut oldest = Vec::new();
                for number in 1..=snapshots {
                    for _ in 0..CHANGES {
                        let block = random.below(BLOCKS);
                        write(&volume, block, number + 1).await;
                        model[block as usize] = number + 1;
                    }
                    volume.flush().await.unwrap();
                    volume.create_snapshot(&format!("s{number}")).await.unwrap();
                    if number == 1 {
                        oldest = model.clone();
                    }
                }
                let newest = model.clone();
                // What each of them shows has been overwritten since, in part.
                for _ in 0..CHANGES {
                    write(&volume, random.below(BLOCKS), 1000).await;
                }
                leave(&rig, volume).await;
                let newest_pages = cold_reads(&rig, &format!("s{snapshots}"), &newest).await;
                let oldest_pages = cold_reads(&rig, "s1", &oldest).await;
                println!(
                    "{backend:?}, {snapshots} snapshots: {READS} cold reads of the newest read {newest_pages} pages of the \
                     index, of the oldest {oldest_pages}"
                );
                // One for each run that may hold a version of the block, less those that are in memory by now. All
                // versions of its neighbours are four times as many.
                assert!(newest_pages.max(oldest_pages) < 2 * READS, "{backend:?}");
            });
        }
    }
}
