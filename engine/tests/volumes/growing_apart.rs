//! Growing a pool whose volume, or base, lies on a device of its own: the pool's device grows, and the other one stays.

use icecore::error::{Error, Reason};
use icecore::store::Backend;
use icecore::units::Seq;
use icecore::volume::{Grown, Volume};

use crate::apart::{Rig, arrived, write_some};
use crate::vlog::{MANUAL, MIB, WRITES, current, shown, write, write_base};

/// With linear objects on a third device, or without.
const CASES: [(Backend, bool); 5] = [
    (Backend::Linear, false),
    (Backend::Cow, false),
    (Backend::Overlay, false),
    (Backend::Cow, true),
    (Backend::Overlay, true),
];
/// What is read before and after; the first snapshot of a volume with a base is of the base alone.
const NOW: &str = "1bFyeGgh";
const THEN: &str = "abcdefgh";

async fn grow(rig: &Rig) -> Result<Grown, Error> {
    Volume::grow_on(&rig.devices()).await
}

fn segments(volume: &Volume) -> u32 {
    volume.status().log.unwrap().segments
}

/// A volume with entries at home and in the log, or a snapshot, on a pool whose device has become larger.
fn made(seed: u64, backend: Backend, has_objects: bool) -> (Rig, u32) {
    let mut rig = match has_objects {
        true => Rig::with_objects(seed, backend, false),
        false => Rig::new(seed, backend),
    };
    rig.opening.apply = MANUAL;
    let segments = rig.runtime.block_on(async {
        let volume = rig.open().await;
        write_base(&volume).await;
        if backend != Backend::Linear {
            volume.create_snapshot("then").await.unwrap();
        }
        write_some(&volume, 1..=3).await;
        if backend == Backend::Linear {
            volume.apply(None).await.unwrap();
        }
        write_some(&volume, 4..=WRITES.len()).await;
        volume.flush().await.unwrap();
        segments(&volume)
    });
    rig.cut_power();
    rig.log.resize(10 * MIB);
    (rig, segments)
}

async fn is_as_it_was(volume: &Volume, backend: Backend, place: &str) {
    assert_eq!(current(volume).await, NOW, "{place}");
    if backend != Backend::Linear {
        assert_eq!(shown(volume, "then").await.unwrap(), THEN, "{place}");
    }
}

fn checked(rig: &Rig, place: &str) {
    let report = rig.checked().unwrap();
    assert_eq!(report.damage, 0, "{place}: {report:?}");
}

#[test]
fn the_pool_grows_and_the_other_device_is_not_written() {
    for (backend, has_objects) in CASES {
        let (rig, before) = made(1, backend, has_objects);
        let place = format!("{backend:?}, objects apart: {has_objects}");
        rig.record();
        let grown = rig.runtime.block_on(grow(&rig)).unwrap();
        assert!(grown.after_bytes > grown.before_bytes + 2 * MIB, "{grown:?}");
        for other in rig.disks().skip(1) {
            assert_eq!(arrived(other, |kind| kind != icecore::runtime::OperationKind::Read), [], "{place}");
        }
        checked(&rig, &place);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            assert!(segments(&volume) > before + 30, "{place}");
            is_as_it_was(&volume, backend, &place).await;
            // It goes on in the new room, and what is brought home goes where it went.
            for round in 0..400 {
                let (region, letter) = WRITES[round % WRITES.len()];
                write(&volume, region, letter).await.unwrap();
            }
            for (region, letter) in WRITES {
                write(&volume, region, letter).await.unwrap();
            }
            is_as_it_was(&volume, backend, &place).await;
            if backend == Backend::Linear {
                volume.apply(None).await.unwrap();
                assert_eq!(rig.letters(), NOW);
            }
            volume.close().await.unwrap();
        });
        checked(&rig, &place);
        // And again, when metadata lies behind the segments.
        rig.log.resize(16 * MIB);
        let again = rig.runtime.block_on(grow(&rig)).unwrap();
        assert_eq!(again.before_bytes, grown.after_bytes);
        checked(&rig, &place);
        rig.runtime.block_on(async { is_as_it_was(&rig.open().await, backend, &place).await });
    }
}

#[test]
fn a_cut_at_any_request_leaves_the_old_pool_or_the_new_one() {
    let (mut as_before, mut grown) = (0, 0);
    for (backend, has_objects) in CASES {
        for cut_at in 1.. {
            let (rig, before) = made(20 * cut_at, backend, has_objects);
            let place = format!("{backend:?}, objects apart: {has_objects}, cut at request {cut_at}");
            let ended = rig.runtime.block_on(async {
                let ended = rig.run_until(cut_at, async { drop(grow(&rig).await.unwrap()) }).await;
                rig.cut_power();
                ended
            });
            checked(&rig, &place);
            rig.runtime.block_on(async {
                let volume = rig.open().await;
                is_as_it_was(&volume, backend, &place).await;
                let is_grown = segments(&volume) > before;
                drop(volume);
                rig.cut_power();
                match is_grown {
                    true => grown += 1,
                    false => {
                        as_before += 1;
                        grow(&rig).await.unwrap();
                    }
                }
                let volume = rig.open().await;
                assert!(segments(&volume) > before + 30, "{place}");
                if backend == Backend::Linear {
                    volume.apply(None).await.unwrap();
                    assert_eq!(rig.letters(), NOW, "{place}");
                }
                is_as_it_was(&volume, backend, &place).await;
                assert!(volume.info().sequence > Seq(0));
            });
            if ended {
                break;
            }
        }
    }
    println!("{as_before} times the old pool, {grown} times the new one");
    assert!(as_before > 30 && grown > 3, "{as_before} {grown}");
}

#[test]
fn devices_that_are_not_its_own_are_refused() {
    let (rig, _) = made(2, Backend::Linear, false);
    rig.runtime.block_on(async {
        let (foreign_log, _foreign) = rig.strangers(Backend::Linear).await;
        let hashes = || (rig.log.hash(), rig.volume.hash());
        let before = hashes();
        let missing = Volume::grow(&rig.device(&rig.log)).await.unwrap_err();
        assert!(matches!(missing.reason(), Reason::DeviceMissing { role: "volume", .. }), "{missing}");
        let exchanged = icecore::volume::Devices {
            pool: rig.device(&rig.volume),
            volume: Some(rig.device(&rig.log)),
            objects: None,
        };
        let refused = Volume::grow_on(&exchanged).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "log", .. }), "{refused}");
        drop(exchanged);
        let foreign = icecore::volume::Devices {
            pool: rig.device(&rig.log),
            volume: Some(rig.device(&foreign_log)),
            objects: None,
        };
        let refused = Volume::grow_on(&foreign).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "volume", .. }), "{refused}");
        assert_eq!(hashes(), before, "what is refused writes nothing");
    });
}
