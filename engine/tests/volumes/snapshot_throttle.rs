//! While room for snapshots runs short, writers are slowed down before they are refused: in simulated time.

use icecore::error::Reason;
use icecore::store::Backend;
use icecore::store::log::THROTTLE_NS_MAX;
use icecore::volume::{ApplyOptions, CreateOptions, Durability, OpenOptions, Volume, WhenFull};

use crate::vlog::{BLOCK, MIB, Rig, is_sound, small, write_at};

const BLOCKS: u64 = 512;
const BACKENDS: [Backend; 3] = [Backend::Log, Backend::Cow, Backend::Overlay];

fn options(backend: Backend, when_full: WhenFull) -> CreateOptions {
    let snapshot_bytes = backend.has_base().then_some(200 * BLOCK);
    CreateOptions { size_bytes: Some(BLOCKS * BLOCK), snapshot_bytes, when_full, ..small(backend) }
}

async fn open(rig: &Rig, throttle_ns_max: u64) -> Volume {
    let apply = ApplyOptions::default();
    rig.open_with(OpenOptions { apply, throttle_ns_max, ..OpenOptions::default() }).await
}

fn slowed_ns(volume: &Volume) -> u64 {
    volume.status().log.unwrap().slowed_ns
}

/// Writes blocks until one is refused, or so many are written: for each, how long it took and by how much it was slowed.
async fn fill(volume: &Volume, most: u64) -> (Vec<(u64, u64)>, Option<Reason>) {
    let mut taken = Vec::new();
    for number in 0..most {
        if number % BLOCKS == 0 {
            volume.create_snapshot(&format!("{number}")).await.unwrap();
        }
        let (before, slowed) = (volume.context().now().0, slowed_ns(volume));
        let written =
            write_at(volume, number % BLOCKS * BLOCK, b'a' + (number % 23) as u8, Durability::OnFlush).await;
        if let Err(error) = written {
            return (taken, Some(error.reason().clone()));
        }
        taken.push((volume.context().now().0 - before, slowed_ns(volume) - slowed));
    }
    (taken, None)
}

fn mean(all: &[(u64, u64)], which: impl Fn(&(u64, u64)) -> u64) -> u64 {
    all.iter().map(which).sum::<u64>() / all.len().max(1) as u64
}

#[test]
fn writes_become_slower_before_the_first_is_refused() {
    for backend in BACKENDS {
        let filled = [THROTTLE_NS_MAX, 0].map(|throttle_ns_max| {
            let rig = Rig::new(1, 16 * MIB, options(backend, WhenFull::Refuse));
            rig.runtime.block_on(async {
                let volume = open(&rig, throttle_ns_max).await;
                let (taken, refused) = fill(&volume, 1 << 20).await;
                let is_full = |reason: &Reason| {
                    matches!(reason, Reason::LogFull { .. } | Reason::SnapshotSpaceFull { .. })
                };
                assert!(refused.as_ref().is_some_and(is_full), "{backend:?}: {refused:?}");
                // Deleting makes room, and then nothing is slow any more.
                for snapshot in volume.snapshots() {
                    volume.delete_snapshot(&snapshot.name).await.unwrap();
                }
                volume.context().sleep(5_000_000_000).await;
                if backend == Backend::Overlay {
                    volume.fold(None).await.unwrap();
                }
                let before = slowed_ns(&volume);
                volume.create_snapshot("last").await.unwrap();
                for block in 0..32 {
                    write_at(&volume, block * BLOCK, b'!', Durability::OnFlush).await.unwrap();
                }
                assert_eq!(slowed_ns(&volume), before, "{backend:?}");
                volume.close().await.unwrap();
                drop(volume);
                is_sound(&rig).await;
                taken
            })
        });
        let [slowed, not_slowed] = filled;
        let first = slowed.iter().position(|one| one.1 > 0).expect("some are slowed down");
        let (early, late) = slowed.split_at(first);
        let thirds: Vec<u64> =
            late.chunks(late.len().div_ceil(3)).map(|part| mean(part, |one| one.0)).collect();
        println!(
            "{backend:?}: {} writes at {} us, then {} at {thirds:?} ns, by thirds",
            early.len(),
            mean(early, |one| one.0) / 1000,
            late.len()
        );
        assert!(early.len() > late.len(), "{backend:?}: only what is short is dear");
        assert!(
            late.len() > 20 && thirds.is_sorted() && thirds[2] > 2 * thirds[0],
            "{backend:?}: {thirds:?}"
        );
        assert!(late.iter().all(|one| one.1 <= THROTTLE_NS_MAX && one.0 >= one.1), "{backend:?}");
        let last = slowed.last().unwrap().1;
        assert!(last > THROTTLE_NS_MAX / 2, "{backend:?}: the last one before the refusal: {last} ns");
        // The control: without it, as many writes come to the same end, and none is slowed down.
        assert!(not_slowed.iter().all(|one| one.1 == 0));
        assert!(not_slowed.len().abs_diff(slowed.len()) <= slowed.len() / 10, "{backend:?}");
        let end = &not_slowed[not_slowed.len() - late.len() / 3..];
        assert!(mean(end, |one| one.0) < thirds[2], "{backend:?}");
    }
}

#[test]
fn breaking_goes_on_at_the_slowest_pace_and_what_keeps_nothing_is_not_slowed() {
    for backend in BACKENDS {
        let rig = Rig::new(2, 16 * MIB, options(backend, WhenFull::BreakSnapshots));
        rig.runtime.block_on(async {
            let volume = open(&rig, THROTTLE_NS_MAX).await;
            let began = volume.context().now().0;
            let (taken, refused) = fill(&volume, 20 * BLOCKS).await;
            assert_eq!((taken.len() as u64, refused), (20 * BLOCKS, None), "{backend:?}");
            let elapsed = volume.context().now().0 - began;
            assert!(volume.snapshots().iter().any(|one| one.broken), "{backend:?}");
            assert!(elapsed < 20 * BLOCKS * (THROTTLE_NS_MAX + 5_000_000), "{backend:?}: {elapsed}");
        });
        // A volume that is written over and over, with no name: the log is full of what is dead.
        let rig = Rig::new(3, 16 * MIB, options(backend, WhenFull::Refuse));
        rig.runtime.block_on(async {
            let volume = open(&rig, THROTTLE_NS_MAX).await;
            for number in 0..12 * BLOCKS {
                write_at(&volume, number % BLOCKS * BLOCK, 1 + (number % 200) as u8, Durability::OnFlush)
                    .await
                    .unwrap();
            }
            assert_eq!(slowed_ns(&volume), 0, "{backend:?}");
        });
    }
}
