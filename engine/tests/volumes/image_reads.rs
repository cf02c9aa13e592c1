//! What a read of a named moment costs in pages of the index, right after the volume was opened, with 1 and with 256
//! snapshots: counted at the device. And what it shows.

use std::cell::Cell;
use std::rc::Rc;

use icecore::device::simulated::Fault;
use icecore::runtime::{OperationKind, Random};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenOptions, Volume};

use crate::vlog::{BLOCK, MANUAL, MIB, Rig, base_at, small};

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

/// While a read of the base is under way its block is saved and overwritten. `is_cold`: its page was not in memory when it
/// was looked up. `is_evicted`: nor is it when that is looked up again.
async fn read_while_it_is_saved(rig: &Rig, is_cold: bool, is_evicted: bool) {
    // Room for four pages of 64 blocks.
    let open = || rig.open_with(OpenOptions { index_bytes: 1, ..OpenOptions::default() });
    let mut volume = open().await;
    write(&volume, 5, 1).await;
    volume.flush().await.unwrap();
    let sequence = Some(volume.create_snapshot("s1").await.unwrap().sequence);
    if is_cold {
        leave(rig, volume).await;
        volume = open().await;
    }
    let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
    let (place, held) = (base_at(rig) + 5 * BLOCK, Rc::new(Cell::new(None)));
    let holds = Rc::clone(&held);
    rig.disk.set_plan(Box::new(move |request, _| {
        let is_it = request.kind == OperationKind::Read && request.offset == place && holds.get().is_none();
        is_it.then(|| {
            holds.set(Some(request.ticket));
            Fault::Hold
        })
    }));
    let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
    let reading = volume.context().clone().spawn(async move { image.read(ByteOffset(5 * BLOCK), buf).await });
    rig.runtime.context().sleep(50_000_000).await;
    write(&volume, 5, 2).await;
    volume.flush().await.unwrap();
    assert_eq!(rig.disk.peek(place, 1), [2], "it has been overwritten");
    if is_evicted {
        // A checkpoint, and as many other pages.
        drop(volume.image(ImageOptions::default()).await.unwrap());
        for page in 1..10 {
            write(&volume, page * 64, 3).await;
        }
        volume.flush().await.unwrap();
    }
    rig.disk.release_held(held.take().expect("the read was held"));
    let (result, buf) = reading.await.unwrap();
    result.unwrap();
    assert_eq!(buf[0], 1, "cold {is_cold}, evicted {is_evicted}");
}

#[test]
fn a_block_that_is_saved_while_it_is_read_shows_what_it_was() {
    for (is_cold, is_evicted) in [(false, false), (true, false), (true, true)] {
        let options = CreateOptions { size_bytes: Some(1024 * BLOCK), ..small(Backend::Cow) };
        let rig = Rig::new(9, 64 * MIB, options);
        rig.runtime.block_on(read_while_it_is_saved(&rig, is_cold, is_evicted));
    }
}
