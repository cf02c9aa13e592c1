//! Room for snapshots: V-SPACE, every value; what happens when it is full, by the limit or because the pool is, under
//! both policies; cuts at every request of the write that finds no room.

use std::task::Poll;

use icecore::error::{Kind, Reason};
use icecore::runtime::join_all;
use icecore::store::Backend;
use icecore::volume::{ApplyOptions, CreateOptions, Durability, OpenOptions, Volume, WhenFull};

use crate::vlog::{
    self, BLOCK, MIB, PREFIXES, Rig, current, cut_at_each_request, is_sound, live_blocks, small, write,
    write_at, write_base,
};

const T0: &str = PREFIXES[0];
const BASES: [Backend; 3] = [Backend::Cow, Backend::Overlay, Backend::LoggedCow];

/// Eight blocks with a base, and room for so many blocks of snapshots.
fn options(backend: Backend, capacity: u64, when_full: WhenFull) -> CreateOptions {
    let snapshot_bytes = Some(capacity * BLOCK);
    CreateOptions { size_bytes: Some(8 * BLOCK), snapshot_bytes, when_full, ..small(backend) }
}

async fn open(rig: &Rig) -> Volume {
    rig.open_with(OpenOptions { apply: ApplyOptions::default(), ..OpenOptions::default() }).await
}

/// The image of the snapshot, or why there is none.
async fn shown(volume: &Volume, name: &str) -> Result<String, Reason> {
    vlog::shown(volume, name).await.map_err(|error| error.reason().clone())
}

/// The base, T0, W1 to W5.
async fn until_w5(volume: &Volume) {
    write_base(volume).await;
    volume.create_snapshot("T0").await.unwrap();
    for (region, letter) in &vlog::WRITES[..5] {
        write(volume, *region, *letter).await.unwrap();
    }
}

#[test]
fn v_space_with_room_takes_a_slot_for_each_changed_region() {
    for backend in BASES {
        let rig = Rig::new(1, 8 * MIB, options(backend, 8, WhenFull::Refuse));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            write_base(&volume).await;
            assert_eq!(live_blocks(&volume).await, 0, "the base is in its place");
            volume.create_snapshot("T0").await.unwrap();
            let used = [1, 2, 2, 3, 3, 4];
            for ((region, letter), used) in vlog::WRITES.iter().zip(used) {
                write(&volume, *region, *letter).await.unwrap();
                assert_eq!(live_blocks(&volume).await, used, "{backend:?}");
                assert_eq!(shown(&volume, "T0").await.unwrap(), T0);
            }
            let space = volume.status().log.unwrap().snapshot_space.unwrap();
            assert_eq!((space.limit_bytes, space.used_bytes), (Some(8 * BLOCK), 4 * BLOCK));
            assert!(!space.is_short);
            volume.delete_snapshot("T0").await.unwrap();
            volume.context().sleep(3_000_000_000).await;
            if backend == Backend::Overlay {
                volume.fold(None).await.unwrap();
            }
            assert_eq!(live_blocks(&volume).await, 0, "it is empty again, {backend:?}");
            assert_eq!(current(&volume).await, PREFIXES[6]);
        });
    }
}

#[test]
fn v_space_full_refuses_the_write_and_keeps_the_snapshot() {
    for backend in BASES {
        let rig = Rig::new(2, 8 * MIB, options(backend, 3, WhenFull::Refuse));
        rig.runtime.block_on(async {
            let mut volume = open(&rig).await;
            until_w5(&volume).await;
            assert!(volume.status().log.unwrap().snapshot_space.unwrap().is_short, "a warning comes first");
            for reopened in [false, true] {
                if reopened {
                    drop(volume);
                    rig.disk.cut_power();
                    volume = open(&rig).await;
                }
                let refused = write(&volume, 5, b'G').await.unwrap_err();
                assert_eq!(*refused.reason(), Reason::SnapshotSpaceFull { limit_bytes: 3 * BLOCK });
                assert_eq!(refused.kind(), Kind::NoSpace);
                assert_eq!(current(&volume).await, PREFIXES[5]);
                assert_eq!(shown(&volume, "T0").await.unwrap(), T0);
                // What needs no room goes on.
                write(&volume, 3, b'y').await.unwrap();
            }
            volume.delete_snapshot("T0").await.unwrap();
            write(&volume, 5, b'G').await.unwrap();
            assert_eq!(current(&volume).await, PREFIXES[6]);
        });
    }
}

#[test]
fn nothing_is_broken_for_a_write_that_nobody_waits_for() {
    for (backend, waits) in BASES.into_iter().flat_map(|backend| [(backend, false), (backend, true)]) {
        let rig = Rig::new(4, 8 * MIB, options(backend, 3, WhenFull::BreakSnapshots));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            until_w5(&volume).await;
            let mut writing = Some(Box::pin(write(&volume, 5, b'G')));
            // So far that it asks for room, and no turn of anything else.
            std::future::poll_fn(|context| {
                let begun = writing.as_mut().map(|writing| writing.as_mut().poll(context));
                assert!(begun.is_some_and(|begun| begun.is_pending()));
                Poll::Ready(())
            })
            .await;
            match writing.filter(|_| waits) {
                Some(writing) => writing.await.unwrap(),
                None => volume.context().sleep(3_000_000_000).await,
            }
            assert_eq!(volume.snapshot("T0").unwrap().broken, waits, "{backend:?}");
        });
    }
}

#[test]
fn v_space_full_breaks_the_snapshot_for_good_and_the_write_goes_on() {
    for backend in BASES {
        let rig = Rig::new(3, 8 * MIB, options(backend, 3, WhenFull::BreakSnapshots));
        rig.runtime.block_on(async {
            let mut volume = open(&rig).await;
            until_w5(&volume).await;
            let moment = volume.snapshot("T0").unwrap().sequence.0;
            write(&volume, 5, b'G').await.unwrap();
            for reopened in [false, true] {
                if reopened {
                    drop(volume);
                    rig.disk.cut_power();
                    volume = open(&rig).await;
                }
                assert_eq!(current(&volume).await, PREFIXES[6]);
                assert!(volume.snapshot("T0").unwrap().broken);
                assert_eq!(shown(&volume, "T0").await, Err(Reason::SnapshotBroken { moment }), "{backend:?}");
            }
            volume.delete_snapshot("T0").await.unwrap();
            assert!(volume.snapshots().is_empty());
            volume.create_snapshot("T0").await.unwrap();
            assert_eq!(shown(&volume, "T0").await.unwrap(), PREFIXES[6]);
        });
    }
}

#[test]
fn a_cut_while_room_is_made_leaves_the_image_or_a_broken_snapshot() {
    for backend in BASES {
        let mut seen = [0, 0];
        let cuts = cut_at_each_request(|cut_at| {
            let rig = Rig::new(4, 8 * MIB, options(backend, 3, WhenFull::BreakSnapshots));
            rig.runtime.block_on(async {
                let volume = open(&rig).await;
                until_w5(&volume).await;
                let ended = rig.run_until(cut_at, async { write(&volume, 5, b'G').await.unwrap() }).await;
                let volume = rig.cut_and_open(volume).await;
                let now = current(&volume).await;
                assert!(PREFIXES[5..].contains(&now.as_str()), "{now}");
                let broken = volume.snapshot("T0").unwrap().broken;
                seen[usize::from(broken)] += 1;
                match shown(&volume, "T0").await {
                    Ok(image) => assert_eq!((image.as_str(), broken), (T0, false), "cut at {cut_at}"),
                    Err(reason) => {
                        assert!(matches!(reason, Reason::SnapshotBroken { .. }) && broken, "{reason}")
                    }
                }
                write(&volume, 5, b'G').await.unwrap();
                write(&volume, 6, b'4').await.unwrap();
                assert_eq!(current(&volume).await, "1bFyeG4h");
                ended
            })
        });
        println!("{backend:?}: {cuts} cuts, kept and broken: {seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

/// Letters of all blocks as they were last acknowledged.
async fn assert_holds(volume: &Volume, expected: &[u8]) {
    for (block, letter) in (0..).zip(expected) {
        assert_eq!(vlog::byte(volume, block).await.unwrap(), *letter, "block {block}");
    }
}

/// Writes rounds of new content, with a snapshot before each, until a write is refused or so many are done.
async fn fill(volume: &Volume, expected: &mut [u8], rounds: u64) -> Option<Reason> {
    for round in 0..rounds {
        volume.create_snapshot(&format!("{round:04}")).await.unwrap();
        for block in 0..expected.len() as u64 {
            let letter = 1 + ((round * 31 + block) % 200) as u8;
            let durability = if block % 7 == 0 { Durability::Durable } else { Durability::OnFlush };
            match write_at(volume, block * BLOCK, letter, durability).await {
                Ok(()) => expected[block as usize] = letter,
                Err(error) => return Some(error.reason().clone()),
            }
        }
    }
    None
}

#[test]
fn a_full_pool_loses_nothing_and_works_again_when_snapshots_are_deleted_or_broken() {
    for backend in [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow] {
        for when_full in [WhenFull::Refuse, WhenFull::BreakSnapshots] {
            let size_bytes = Some(128 * BLOCK);
            let rig = Rig::new(5, 8 * MIB, CreateOptions { size_bytes, when_full, ..small(backend) });
            rig.runtime.block_on(async {
                let mut volume = open(&rig).await;
                let mut expected = vec![0; 128];
                let refused = fill(&volume, &mut expected, 24).await;
                match (when_full, refused) {
                    (WhenFull::Refuse, Some(Reason::LogFull { .. })) => {}
                    (WhenFull::BreakSnapshots, None) => {
                        let broken = volume.snapshots().iter().filter(|one| one.broken).count();
                        assert!((1..24).contains(&broken), "{backend:?}: {broken} of 24 are broken");
                        assert!(volume.snapshots()[..broken].iter().all(|one| one.broken), "the oldest ones");
                    }
                    (_, other) => panic!("{backend:?} {when_full:?}: {other:?}"),
                }
                volume.flush().await.unwrap();
                assert_holds(&volume, &expected).await;
                // At that very moment.
                drop(volume);
                rig.disk.cut_power();
                is_sound(&rig).await;
                volume = open(&rig).await;
                assert_holds(&volume, &expected).await;
                for snapshot in volume.snapshots() {
                    volume.delete_snapshot(&snapshot.name).await.unwrap();
                }
                volume.context().sleep(3_000_000_000).await;
                if backend == Backend::Overlay {
                    volume.fold(None).await.unwrap();
                }
                assert_eq!(fill(&volume, &mut expected, 2).await, None, "{backend:?} {when_full:?}");
                assert_holds(&volume, &expected).await;
                volume.close().await.unwrap();
                drop(volume);
                is_sound(&rig).await;
            });
        }
    }
}

/// Where no room comes, applying says so, and how: it does not wait. Where it does, it does not say so.
#[test]
fn applying_in_a_full_pool_is_refused_until_a_snapshot_is_deleted_and_then_waits() {
    for (automatic, seed) in
        [false, true].into_iter().flat_map(|automatic| (0..6).map(move |seed| (automatic, seed)))
    {
        let size_bytes = Some(128 * BLOCK);
        let rig = Rig::new(seed, 8 * MIB, CreateOptions { size_bytes, ..small(Backend::LoggedCow) });
        rig.runtime.block_on(async {
            let mut volume = open(&rig).await;
            let mut expected = vec![b'z'; 128];
            join_all((0..128).map(|block| write(&volume, block, b'z'))).await;
            let refused = fill(&volume, &mut expected, 24).await;
            assert!(matches!(refused, Some(Reason::LogFull { .. })), "{refused:?}");
            volume.flush().await.unwrap();
            drop(volume);
            rig.disk.cut_power();
            volume = rig.open(ApplyOptions { automatic, ..ApplyOptions::default() }).await;
            for _ in 0..3 {
                let refused = volume.apply(None).await.unwrap_err();
                assert!(matches!(refused.reason(), Reason::LogFull { .. }), "{refused}");
                assert_holds(&volume, &expected).await;
            }
            for snapshot in volume.snapshots() {
                volume.delete_snapshot(&snapshot.name).await.unwrap();
            }
            volume.apply(None).await.unwrap();
            volume.context().sleep(3_000_000_000).await;
            assert_eq!(live_blocks(&volume).await, 0, "automatic {automatic}, seed {seed}");
            assert_holds(&volume, &expected).await;
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
        });
    }
}

#[test]
fn a_full_pool_refuses_nothing_any_more_once_a_deletion_has_made_room_for_it() {
    for backend in [Backend::Log, Backend::Cow, Backend::LoggedCow] {
        for seed in 0..10 {
            let rig =
                Rig::new(seed, 8 * MIB, CreateOptions { size_bytes: Some(128 * BLOCK), ..small(backend) });
            rig.runtime.block_on(async {
                let volume = open(&rig).await;
                let mut expected = vec![b'z'; 128];
                join_all((0..128).map(|block| write(&volume, block, b'z'))).await;
                let refused = fill(&volume, &mut expected, 24).await;
                assert!(matches!(refused, Some(Reason::LogFull { .. })), "{backend:?}: {refused:?}");
                // The oldest snapshot alone keeps a block for each of the volume's.
                volume.delete_snapshot("0000").await.unwrap();
                while write(&volume, 0, b'a').await.is_err() {
                    volume.context().sleep(1_000_000).await;
                }
                expected[0] = b'a';
                let writes = (0..128).step_by(2).map(|block| write(&volume, block, b'b'));
                let refused = join_all(writes).await.into_iter().filter(Result::is_err).count();
                assert_eq!(refused, 0, "{backend:?}, seed {seed}");
                expected.iter_mut().step_by(2).for_each(|letter| *letter = b'b');
                assert_holds(&volume, &expected).await;
            });
        }
    }
}
