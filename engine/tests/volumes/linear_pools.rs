//! Linear objects in a pool that grows, and beside a base on a device of its own: no object moves, the next one has its
//! room, each block lies where its address says; cuts of all power at each request. In groups: `snapshot_groups`.

use std::cell::Cell;

use icecore::error::Reason;
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::Volume;

use crate::apart::{self, arrived, write_some};
use crate::linear_objects::{BASES, SEGMENT, are_shown, fill, linear, open, write_together};
use crate::objects::{Object, objects};
use crate::vlog::{
    BLOCK, MIB, PREFIXES, Rig, WRITES, current, cut_at_each_request, is_sound, letters, shown, write_base,
};

const T0: &str = PREFIXES[0];

/// The objects of a pool's disk, and where each begins.
fn places(rig: &Rig) -> Vec<(Object, u64)> {
    objects(&rig.disk).into_iter().map(|one| (one.clone(), one.place(&rig.disk, 0))).collect()
}

#[test]
fn a_pool_that_grows_keeps_its_objects_in_their_places_and_has_room_for_more() {
    for backend in BASES {
        let all: Vec<u64> = (0..8 * SEGMENT).collect();
        let full = Rig::new(1, 8 * MIB, linear(backend, 8 * SEGMENT));
        let (names, before) = full.runtime.block_on(async {
            let volume = open(&full).await;
            let (names, _) = fill(&volume, &all).await;
            drop(volume);
            full.disk.cut_power();
            (names, places(&full))
        });
        assert!(before.len() >= 3, "{before:?}");
        full.disk.resize(16 * MIB);
        let mut seen = [0, 0];
        let cuts = cut_at_each_request(|cut_at| {
            let (runtime, calendar) = Runtime::simulated(cut_at).unwrap();
            let disk = full.disk.after_cut(&calendar, |_, _| true);
            let rig = Rig { runtime, calendar, disk };
            rig.runtime.block_on(async {
                let growing = async { Volume::grow(&rig.device()).await.unwrap() };
                let ended = rig.run_until(cut_at, growing).await;
                rig.disk.cut_power();
                is_sound(&rig).await;
                let volume = open(&rig).await;
                assert_eq!(places(&rig), before, "cut at {cut_at}");
                let mut names = names.clone();
                let now = b'a' + names.len() as u8;
                match volume.create_snapshot("one more").await {
                    Ok(taken) => names.push((taken.name, now)),
                    Err(error) => {
                        assert!(matches!(error.reason(), Reason::NoRoomForObject { .. }), "{error}");
                        assert!(!ended, "it has grown");
                    }
                }
                let has_grown = names.len() > before.len();
                seen[usize::from(has_grown)] += 1;
                write_together(&volume, &all, b'!').await;
                volume.flush().await.unwrap();
                drop(volume);
                rig.disk.cut_power();
                is_sound(&rig).await;
                let volume = open(&rig).await;
                assert_eq!(current(&volume).await, "!!!!!!!!", "cut at {cut_at}");
                are_shown(&volume, &names).await;
                let (after, added) = (places(&rig), usize::from(has_grown));
                assert_eq!((&after[..before.len()], after.len()), (&before[..], before.len() + added));
                ended
            })
        });
        println!("{backend:?}: {cuts} cuts, as before and grown: {seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

/// Two disks, and the base in its place.
async fn with_base(rig: &apart::Rig) -> Volume {
    let volume = rig.open().await;
    write_base(&volume).await;
    volume.create_snapshot("T0").await.unwrap();
    volume
}

#[test]
fn beside_a_base_on_its_own_device_objects_lie_with_the_log() {
    for backend in BASES {
        let rig = apart::Rig::with(2, linear(backend, 3 * SEGMENT));
        rig.runtime.block_on(async {
            let volume = with_base(&rig).await;
            let [object] = <[Object; 1]>::try_from(objects(&rig.log)).unwrap();
            rig.record();
            write_some(&volume, 1..=6).await;
            assert_eq!(current(&volume).await, PREFIXES[6]);
            // Copies in the object and new content in the base, or the other way round.
            let written = arrived(&rig.volume, |kind| kind != OperationKind::Read);
            let written: Vec<_> =
                written.into_iter().filter(|(offset, length)| *offset >= MIB && *length > 0).collect();
            let (base, placed) = match backend {
                Backend::Cow => (PREFIXES[6], "a.cd.f.."),
                _ => (T0, "1.Fy.G.."),
            };
            let in_place = if backend == Backend::Cow { WRITES.len() } else { 0 };
            assert_eq!((written.len(), rig.letters().as_str()), (in_place, base), "{backend:?}: {written:?}");
            let found = letters(&rig.log, object.place(&rig.log, 0)).replace('\0', ".");
            assert_eq!(found, placed, "{backend:?}");
            drop(volume);
            rig.cut_power();
            let volume = rig.open().await;
            assert_eq!(current(&volume).await, PREFIXES[6]);
            assert_eq!(shown(&volume, "T0").await.unwrap(), T0);
        });
    }
}

#[test]
fn a_cut_of_both_disks_at_each_request_leaves_a_prefix_and_the_snapshot() {
    for backend in BASES {
        let cuts = cut_at_each_request(|cut_at| {
            let rig = apart::Rig::with(20 + 2 * cut_at, linear(backend, 3 * SEGMENT));
            rig.runtime.block_on(async {
                let volume = with_base(&rig).await;
                let done = Cell::new(0);
                let work = async {
                    for number in 1..=6 {
                        write_some(&volume, number..=number).await;
                        done.set(number);
                    }
                };
                let ended = rig.run_until(cut_at, work).await;
                drop(volume);
                rig.cut_power();
                let volume = rig.open().await;
                let legal = [PREFIXES[done.get()], PREFIXES[(done.get() + 1).min(6)]];
                let mut bytes = vec![0; 8 * BLOCK as usize];
                volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
                // In place, a write of a block is as atomic as the disk makes it: of its sectors.
                for (sector, found) in bytes.chunks(512).enumerate() {
                    let region = sector * 512 / BLOCK as usize;
                    let is_it = |image: &&str| found.iter().all(|byte| *byte == image.as_bytes()[region]);
                    assert!(legal.iter().any(is_it), "cut at {cut_at}, after {}: {region}", done.get());
                }
                assert_eq!(shown(&volume, "T0").await.unwrap(), T0, "cut at {cut_at}");
                ended
            })
        });
        println!("{backend:?}: {cuts} cuts");
        assert!(cuts > 12, "{backend:?}: {cuts} cuts");
    }
}
