//! The check of a pool on two or three devices: sound ones say nothing whenever power is lost, the other devices' damage is
//! found at its place, and devices that are not the pool's are refused by name.

use icecore::check::{Beside, Code, Report, check_on};
use icecore::device::simulated::SimulatedDisk;
use icecore::error::{Error, Kind, Reason};
use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::volume::Volume;

use crate::apart::Rig;
use crate::vlog::{BLOCK, MIB, write};

const BACKENDS: [Backend; 3] = [Backend::Linear, Backend::Cow, Backend::Overlay];

fn checked<'a>(
    rig: &Rig,
    pool: &SimulatedDisk,
    volume: impl Into<Option<&'a SimulatedDisk>>,
) -> Result<Report, Error> {
    let (pool, volume) = (rig.device(pool), volume.into().map(|disk| rig.device(disk)));
    let beside = Beside { volume: volume.as_ref(), objects: None };
    rig.runtime.block_on(check_on(&pool, beside, &mut |_| ()))
}

/// Writes, and what its backend has beside that.
async fn work(volume: &Volume, random: &mut Random, rounds: u64) {
    for _ in 0..rounds {
        let letter = b'a' + random.below(26) as u8;
        write(volume, random.below(8), letter).await.unwrap();
        let there = volume.snapshots();
        match (volume.info().backend, random.below(8)) {
            (Backend::Linear, 0) => drop(volume.apply(None).await),
            (Backend::Linear, _) => {}
            (_, 0) if there.len() < 4 => {
                let name = format!("at {}", random.next_u64());
                match volume.create_snapshot(&name).await {
                    // What was deleted has not been given back.
                    Err(error) if error.kind() == Kind::NoSpace => {}
                    taken => drop(taken.unwrap()),
                }
            }
            (_, 1) if !there.is_empty() => volume.delete_snapshot(&there[0].name).await.unwrap(),
            (Backend::Overlay, 2) if there.is_empty() => {
                volume.fold(None).await.unwrap();
            }
            (Backend::Cow, 2) if !there.is_empty() => {
                let one = &there[random.below(there.len() as u64) as usize];
                volume.rollback(one.sequence).await.unwrap();
            }
            (_, 3) => volume.flush().await.unwrap(),
            _ => {}
        }
    }
}

#[test]
fn sound_ones_say_nothing_after_cuts_of_both() {
    let (mut checks, mut blocks) = (0, 0);
    // Where linear objects lie apart, and whether the base does.
    let objects = [Backend::Cow, Backend::Overlay, Backend::LoggedCow];
    let objects = objects.into_iter().flat_map(|backend| [(backend, false), (backend, true)]);
    let cases = BACKENDS.map(|backend| (backend, None)).into_iter();
    let cases = cases.chain(objects.map(|(backend, base_in_pool)| (backend, Some(base_in_pool))));
    for ((backend, objects), seed) in cases.flat_map(|case| (0..24).map(move |seed| (case, seed))) {
        let rig = match objects {
            Some(base_in_pool) => Rig::with_objects(20 * seed, backend, base_in_pool),
            None => Rig::new(seed, backend),
        };
        let mut random = Random::from_seed(seed);
        for cut in 0..6 {
            rig.runtime.block_on(async {
                let volume = rig.open().await;
                let requests = 1 + random.below(200);
                rig.run_until(requests, work(&volume, &mut random, 40)).await;
                drop(volume);
                rig.cut_power();
            });
            let report = rig.checked().unwrap();
            // A cut may tear a superblock, and the next opening mends it.
            let wrong =
                report.findings.iter().find(|one| !matches!(one.code, Code::SuperblockCopy | Code::Leak));
            assert!(wrong.is_none(), "{backend:?}, {objects:?}, seed {seed}, cut {cut}: {report:?}");
            checks += 1;
            blocks += report.blocks;
        }
    }
    println!("{checks} checks, {blocks} blocks");
    assert!(blocks > 1000, "{blocks}");
}

#[test]
fn what_is_not_at_home_as_it_was_is_found_there() {
    let rig = Rig::new(7, Backend::Linear);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        for region in 0..8 {
            write(&volume, region, b'a' + region as u8).await.unwrap();
        }
        volume.apply(None).await.unwrap();
        volume.close().await.unwrap();
    });
    assert_eq!(checked(&rig, &rig.log, &rig.volume).unwrap().damage, 0);
    for at in (MIB..MIB + 8 * BLOCK).step_by(BLOCK as usize) {
        let byte = rig.volume.peek(at + 9, 1)[0];
        rig.volume.poke(at + 9, &[byte ^ 1]);
        let report = checked(&rig, &rig.log, &rig.volume).unwrap();
        let [found] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!((found.code, found.place.address), (Code::Block, Some(at)), "{found}");
        assert!(found.place.on_volume_device && found.to_string().contains("volume's device"), "{found}");
        rig.volume.poke(at + 9, &[byte]);
    }
    // Both copies of its superblock.
    let copies = [0, 512 << 10].map(|at| rig.volume.peek(at, 4096));
    for copy in [0, 512 << 10] {
        rig.volume.poke(copy, &[0xAA; 4096]);
        let report = checked(&rig, &rig.log, &rig.volume).unwrap();
        assert_eq!(report.damage, 0, "one is enough: {report:?}");
        assert!(report.findings[0].place.on_volume_device && report.findings[0].place.address == Some(copy));
        if copy == 0 {
            rig.volume.poke(copy, &rig.volume.peek(512 << 10, 4096));
            let found = checked(&rig, &rig.log, &rig.volume).unwrap().findings.remove(0);
            assert!(found.text.contains("does not belong here"), "{found}");
        }
        rig.volume.poke(copy, &copies[usize::from(copy > 0)]);
    }
}

#[test]
fn exchanged_missing_and_foreign_devices_are_refused_by_name() {
    for backend in BACKENDS {
        let rig = Rig::new(3, backend);
        let (log, volume) = (&rig.log, &rig.volume);
        let (foreign_log, foreign) = rig.runtime.block_on(rig.strangers(backend));
        let other = rig.runtime.block_on(async {
            let disk = SimulatedDisk::new(&rig.calendar, 9, "blank disk", 4 * MIB, BLOCK as u32);
            drop(rig.device(&disk));
            disk
        });
        let is_wrong = |error: &Error, role| matches!(error.reason(), Reason::WrongDevice { wanted, .. } if *wanted == role);
        let missing = checked(&rig, log, None).unwrap_err();
        assert!(matches!(missing.reason(), Reason::DeviceMissing { role: "volume", .. }), "{missing}");
        for (pool, second, role, name) in [
            (volume, Some(log), "log", "volume disk"),
            (volume, None, "log", "volume disk"),
            (log, Some(&foreign), "volume", "foreign disk"),
            (log, Some(&foreign_log), "volume", "foreign log"),
            (log, Some(&other), "volume", "blank disk"),
        ] {
            let refused = checked(&rig, pool, second).unwrap_err();
            assert!(is_wrong(&refused, role) && refused.to_string().contains(name), "{backend:?}: {refused}");
        }
    }
    // Who lies in his pool has no other device.
    let rig = Rig::new(4, Backend::Linear);
    let whole = SimulatedDisk::new(&rig.calendar, 6, "whole disk", 8 * MIB, BLOCK as u32);
    let options = crate::apart::options(Backend::Linear);
    rig.runtime.block_on(Volume::create(&rig.device(&whole), options)).unwrap();
    assert!(checked(&rig, &whole, None).is_ok());
    let refused = checked(&rig, &whole, &rig.volume).unwrap_err();
    assert!(matches!(refused.reason(), Reason::InvalidSetting { name: "volume device", .. }), "{refused}");
}

#[test]
fn what_is_not_in_an_object_as_it_was_is_found_there() {
    // What an overlay's object holds has no checksum.
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(9, Backend::Cow, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write(&volume, 1, b'o').await.unwrap();
            volume.create_snapshot("then").await.unwrap();
            write(&volume, 1, b'n').await.unwrap();
            volume.close().await.unwrap();
        });
        assert_eq!(rig.checked().unwrap().findings, []);
        let places = MIB..rig.objects().open(rig.runtime.context()).unwrap().geometry().size_bytes;
        let mut places = places.step_by(BLOCK as usize);
        let at = places.find(|at| rig.objects().peek(*at, 1)[0] == b'o').expect("it lies there");
        rig.objects().poke(at + 9, b"x");
        let report = rig.checked().unwrap();
        let [found] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!((found.code, found.place.address), (Code::Block, Some(at)), "{found}");
        assert!(found.place.on_objects_device && !found.place.on_volume_device, "{found}");
        assert!(found.to_string().contains("byte of the objects' device"), "{found}");
        rig.objects().poke(at + 9, b"o");
        // One copy of its superblock is enough; two that are gone are no device of this pool.
        rig.objects().poke(0, &[0xAA; 4096]);
        let report = rig.checked().unwrap();
        assert_eq!((report.damage, report.warnings), (0, 1), "{report:?}");
        assert!(report.findings[0].place.on_objects_device, "{report:?}");
        rig.objects().poke(512 << 10, &[0xAA; 4096]);
        let refused = rig.checked().unwrap_err();
        assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "objects", .. }), "{refused}");
    }
}

#[test]
fn devices_of_objects_that_are_missing_exchanged_or_of_nobody_are_refused_by_name() {
    let rig = Rig::with_objects(5, Backend::Cow, false);
    let stranger = Rig::with_objects(35, Backend::Cow, false);
    let plain = Rig::new(65, Backend::Cow);
    let refused =
        |rig: &Rig, pool: &SimulatedDisk, volume: &SimulatedDisk, objects: Option<&SimulatedDisk>| {
            let open = |disk: &SimulatedDisk| disk.open(rig.runtime.context()).unwrap();
            let (pool, volume, objects) = (open(pool), open(volume), objects.map(open));
            let beside = Beside { volume: Some(&volume), objects: objects.as_ref() };
            rig.runtime.block_on(check_on(&pool, beside, &mut |_| ())).unwrap_err()
        };
    let wrong =
        |error: &Error, role| matches!(error.reason(), Reason::WrongDevice { wanted, .. } if *wanted == role);
    let missing = refused(&rig, &rig.log, &rig.volume, None);
    assert!(matches!(missing.reason(), Reason::DeviceMissing { role: "objects", .. }), "{missing}");
    let exchanged = refused(&rig, &rig.log, rig.objects(), Some(&rig.volume));
    assert!(wrong(&exchanged, "volume") && exchanged.to_string().contains("objects device"), "{exchanged}");
    let as_pool = refused(&rig, rig.objects(), &rig.volume, Some(&rig.log));
    assert!(wrong(&as_pool, "log") && as_pool.to_string().contains("objects device"), "{as_pool}");
    let bytes = stranger.objects().peek(0, 1 << 20);
    rig.objects().poke(0, &bytes);
    let foreign = refused(&rig, &rig.log, &rig.volume, Some(rig.objects()));
    assert!(wrong(&foreign, "objects"), "{foreign}");
    let extra = refused(
        &plain,
        &plain.log,
        &plain.volume,
        Some(&SimulatedDisk::new(&plain.calendar, 3, "extra", 4 * MIB, BLOCK as u32)),
    );
    assert!(matches!(extra.reason(), Reason::InvalidSetting { name: "objects device", .. }), "{extra}");
}
