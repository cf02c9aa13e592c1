//! R-11 for linear objects: they lie on a device of their own, the log and all metadata on the pool's, the base on a third
//! one or in the pool. What each of them got is judged from the recordings of the simulated disks, and from their bytes.

use std::cell::Cell;

use icecore::device::simulated::{Event, Recorded, SimulatedDisk};
use icecore::error::{Error, Kind, Reason};
use icecore::format::batch;
use icecore::object::ObjectKind;
use icecore::runtime::{OperationKind, Random};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Devices, Durability, OpenMode, Volume};

use crate::apart::{Rig, arrived, id_of, options, v_3a_is_shown, with_objects, write_some};
use crate::base_apart::{lies, play};
use crate::objects::{Object, objects};
use crate::on_disk::superblock;
use crate::vlog::{
    BLOCK, MIB, PREFIXES, SEGMENT_BYTES, byte, current, letters, shown, write, write_at, write_base,
};

const BACKENDS: [Backend; 2] = [Backend::Cow, Backend::Overlay];
const WITH_LOG: [Backend; 3] = [Backend::Cow, Backend::Overlay, Backend::LoggedCow];
const T0: &str = PREFIXES[0];
const T1: &str = PREFIXES[3];
const T2: &str = PREFIXES[6];

/// Everything but looking.
fn acts(kind: OperationKind) -> bool {
    kind != OperationKind::Read
}

fn is_write(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Write { .. })
}

/// These backends, with the base on a device of its own and in the pool.
fn cases_of(backends: &[Backend]) -> impl Iterator<Item = (Backend, bool)> {
    backends.iter().flat_map(|backend| [false, true].map(|base_in_pool| (*backend, base_in_pool)))
}

fn cases() -> impl Iterator<Item = (Backend, bool)> {
    cases_of(&BACKENDS)
}

/// Where a block lies in an object, on its own disk: segments there are numbered behind those of the pool.
fn place(rig: &Rig, object: &Object, lba: u64) -> u64 {
    let of_pool = superblock(&rig.log).data.bytes.get() / SEGMENT_BYTES;
    let extent = object.segments[(lba * BLOCK / SEGMENT_BYTES) as usize];
    assert!(u64::from(extent) >= of_pool, "segment {extent} is one of the pool");
    MIB + (u64::from(extent) - of_pool) * SEGMENT_BYTES + lba * BLOCK % SEGMENT_BYTES
}

/// What lies in an object at the first eight blocks; `-` for nothing.
fn held(rig: &Rig, object: &Object) -> String {
    let letter = |lba| match rig.objects().peek(place(rig, object, lba), BLOCK as usize) {
        bytes if bytes.iter().all(|byte| *byte == 0) => '-',
        bytes => {
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            char::from(bytes[0])
        }
    };
    (0..8).map(letter).collect()
}

/// Where the base begins, and on which disk.
fn base(rig: &Rig) -> (&SimulatedDisk, u64) {
    match rig.base_in_pool {
        true => (&rig.log, superblock(&rig.log).base.offset.get()),
        false => (&rig.volume, MIB),
    }
}

fn letters_of_base(rig: &Rig) -> String {
    let (disk, at) = base(rig);
    letters(disk, at)
}

/// What was not only looked at in the base since the recording began.
fn acts_on_base(rig: &Rig) -> Vec<(u64, u64)> {
    let (disk, at) = base(rig);
    let mut found = arrived(disk, acts);
    if rig.base_in_pool {
        found.retain(|(offset, length)| *length > 0 && *offset + *length > at && *offset < at + 2 * MIB);
    }
    found
}

/// No block that the pool was given since the recording began is one of a region's letters: they are entries and metadata.
fn pool_has_no_letters(rig: &Rig) {
    let writes = arrived(&rig.log, is_write);
    assert!(!writes.is_empty(), "the entries are there");
    let (_, at) = base(rig);
    for (offset, length) in writes {
        if rig.base_in_pool && (at..at + 2 * MIB).contains(&offset) {
            continue;
        }
        for block in 0..length / BLOCK {
            let bytes = rig.log.peek(offset + block * BLOCK, BLOCK as usize);
            let is_letter = bytes[0] != 0 && bytes.iter().all(|byte| *byte == bytes[0]);
            assert!(!is_letter, "{} lies at {offset} of the pool", char::from(bytes[0]));
        }
    }
}

#[test]
fn v_2_and_v_3a_write_overlays_to_the_objects_device_alone() {
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(1, Backend::Overlay, base_in_pool);
        rig.runtime.block_on(async {
            let mut volume = rig.open().await;
            let roles: Vec<_> = volume.info().roles.iter().map(|(name, _)| *name).collect();
            assert_eq!(
                roles,
                if base_in_pool { &["volume", "objects"][..] } else { &["volume", "log", "objects"] }
            );
            rig.record();
            write_base(&volume).await;
            assert_eq!(letters_of_base(&rig), T0);
            volume.create_snapshot("T0").await.unwrap();
            assert_eq!(
                arrived(rig.objects(), is_write),
                [],
                "an object is taken without touching its device"
            );
            let [first] = <[Object; 1]>::try_from(objects(&rig.log)).unwrap();
            rig.record();
            for (number, (prefix, overlay)) in
                (1..=3).zip(PREFIXES[1..].iter().zip(["x-------", "x--z----", "1--z----"]))
            {
                write_some(&volume, number..=number).await;
                assert_eq!(current(&volume).await, *prefix);
                assert_eq!(held(&rig, &first), overlay);
            }
            let at = |object: &Object, lba| (place(&rig, object, lba), BLOCK);
            // Region 0 a second time: in its place.
            let wanted = [at(&first, 0), at(&first, 3), at(&first, 0)];
            assert_eq!(arrived(rig.objects(), is_write), wanted);
            volume.create_snapshot("T1").await.unwrap();
            let [first, second] = <[Object; 2]>::try_from(objects(&rig.log)).unwrap();
            write_some(&volume, 4..=6).await;
            volume.flush().await.unwrap();
            assert_eq!(current(&volume).await, T2);
            assert_eq!((held(&rig, &first), held(&rig, &second)), ("1--z----".into(), "--Fy-G--".into()));
            let more = [at(&second, 2), at(&second, 3), at(&second, 5)];
            assert_eq!(
                arrived(rig.objects(), is_write),
                [&wanted[..], &more].concat(),
                "overlays, nothing else"
            );
            assert_eq!(acts_on_base(&rig), [], "none between T0 and T2");
            pool_has_no_letters(&rig);
            assert_eq!(letters_of_base(&rig), T0);
            // Each is read where it lies.
            rig.record();
            assert_eq!(byte(&volume, 3).await.unwrap(), b'y');
            assert_eq!(arrived(rig.objects(), |_| true), [at(&second, 3)]);
            assert_eq!((rig.log.recorded(), rig.volume.recorded()), (vec![], vec![]));
            rig.record();
            assert_eq!(byte(&volume, 7).await.unwrap(), b'h');
            assert_eq!(arrived(base(&rig).0, |_| true), [(base(&rig).1 + 7 * BLOCK, BLOCK)]);
            assert_eq!(rig.objects().recorded(), []);
            volume = v_3a_is_shown(&rig, volume).await;
            // The control: a fold brings them to the base, and writes nothing where they were.
            for name in ["T0", "T1"] {
                volume.delete_snapshot(name).await.unwrap();
            }
            rig.record();
            volume.fold(None).await.unwrap();
            assert_eq!(letters_of_base(&rig), T2);
            assert_eq!(arrived(rig.objects(), acts), []);
            let status = volume.status();
            let (name, ledger) = status.objects_device.unwrap();
            let used: Vec<_> =
                ledger.iter().filter(|(_, tally)| tally.reads > 0).map(|(cause, _)| *cause).collect();
            assert_eq!((name.as_str(), used), ("objects disk", vec!["application", "metadata"]));
            volume.close().await.unwrap();
            drop(volume);
            assert_eq!(current(&rig.open().await).await, T2);
        });
    }
}

#[test]
fn v_cow_puts_copies_on_the_objects_device_alone() {
    for (backend, base_in_pool) in cases_of(&[Backend::Cow, Backend::LoggedCow]) {
        let rig = Rig::with_objects(2, backend, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            let is_logged = backend == Backend::LoggedCow;
            let bring = async || {
                if is_logged {
                    volume.apply(None).await.unwrap();
                }
            };
            write_base(&volume).await;
            bring().await;
            volume.create_snapshot("S0").await.unwrap();
            rig.record();
            write_some(&volume, 1..=3).await;
            bring().await;
            volume.create_snapshot("S1").await.unwrap();
            write_some(&volume, 4..=6).await;
            bring().await;
            let [s0, s1] = <[Object; 2]>::try_from(objects(&rig.log)).unwrap();
            assert_eq!((held(&rig, &s0), held(&rig, &s1)), ("a--d----".into(), "--cz-f--".into()));
            let copies = [(&s0, 0), (&s0, 3), (&s1, 2), (&s1, 3), (&s1, 5)];
            let mut copies = copies.map(|(object, lba)| (place(&rig, object, lba), BLOCK)).to_vec();
            if is_logged {
                // Neighbours go together.
                copies.remove(3);
                copies[2].1 *= 2;
            } else {
                pool_has_no_letters(&rig);
            }
            let mut written = arrived(rig.objects(), is_write);
            if is_logged {
                // A round has them under way together.
                written[..2].sort_unstable();
                written[2..].sort_unstable();
            }
            assert_eq!(written, copies, "five copies, nothing else");
            assert_eq!((current(&volume).await.as_str(), letters_of_base(&rig).as_str()), (T2, T2));
            drop(volume);
            rig.cut_power();
            let volume = rig.open().await;
            assert_eq!(current(&volume).await, T2);
            assert_eq!(shown(&volume, "S0").await.unwrap(), T0);
            assert_eq!(shown(&volume, "S1").await.unwrap(), T1);
            // It goes back by what lies there.
            volume.rollback(volume.snapshot("S1").unwrap().sequence).await.unwrap();
            let of_base = if is_logged { T2 } else { T1 };
            assert_eq!((current(&volume).await.as_str(), letters_of_base(&rig).as_str()), (T1, of_base));
            assert_eq!(shown(&volume, "S0").await.unwrap(), T0);
        });
    }
}

/// The header of a batch that lies at a place of the pool.
fn batch_at(rig: &Rig, offset: u64) -> Option<Vec<u64>> {
    match batch::decode(&rig.log.peek(offset, BLOCK as usize), offset, BLOCK as u32) {
        batch::Decoded::Valid(batch) => Some(batch.entries.iter().map(|entry| entry.lba.get()).collect()),
        _ => None,
    }
}

#[test]
fn the_pool_says_where_a_block_lies_after_a_flush_of_the_objects_device() {
    for (backend, base_in_pool) in cases() {
        let rig = Rig::with_objects(3, backend, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.create_snapshot("T0").await.unwrap();
            let [object] = <[Object; 1]>::try_from(objects(&rig.log)).unwrap();
            rig.record();
            for lba in [1, 6, 4] {
                write(&volume, lba, b'!').await.unwrap();
            }
            let (of_objects, of_pool) = (rig.objects().recorded(), rig.log.recorded());
            let mut told = 0;
            for lba in [1, 6, 4] {
                let is_it = |one: &&Recorded| is_write(one.kind) && one.offset == place(&rig, &object, lba);
                let ended = |one: &&Recorded| matches!(one.event, Event::Ended(_));
                let written = of_objects.iter().filter(is_it).find(ended).unwrap().at;
                let tells = |one: &&Recorded| {
                    let lies = batch_at(&rig, one.offset).is_some_and(|blocks| blocks.contains(&lba));
                    is_write(one.kind) && one.event == Event::Arrived && lies
                };
                let told_at = of_pool.iter().find(tells).expect("the pool tells of it").at;
                let flushed = of_objects.iter().any(|one| {
                    let began =
                        one.kind == OperationKind::Flush && one.event == Event::Arrived && one.at >= written;
                    let end = |other: &Recorded| {
                        other.ticket == one.ticket
                            && matches!(other.event, Event::Ended(_))
                            && other.at <= told_at
                    };
                    began && of_objects.iter().any(end)
                });
                assert!(flushed, "{backend:?}, block {lba}");
                told += 1;
            }
            assert_eq!(told, 3);
            // What is overwritten in its place is durable after a flush of that device alone.
            if backend == Backend::Overlay {
                rig.record();
                write_at(&volume, BLOCK, b'?', Durability::OnFlush).await.unwrap();
                volume.flush().await.unwrap();
                let flushes = |disk: &SimulatedDisk| arrived(disk, |kind| kind == OperationKind::Flush).len();
                assert_eq!((flushes(rig.objects()), arrived(&rig.log, acts).len()), (1, 0));
                drop(volume);
                rig.cut_power();
                assert_eq!(current(&rig.open().await).await, "a?cd!f!h");
            }
        });
    }
}

/// What a process that ended without a word has overwritten in an object is in the disk's cache alone. Whoever opens the
/// volume next reads it, and a flush makes it durable.
#[test]
fn what_an_opening_before_has_overwritten_is_made_durable_by_a_flush() {
    let rig = Rig::with_objects(4, Backend::Overlay, false);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        write(&volume, 1, b'!').await.unwrap();
        write_at(&volume, BLOCK, b'?', Durability::OnFlush).await.unwrap();
        drop(volume);
        let volume = rig.open().await;
        assert_eq!(current(&volume).await, "a?cdefgh");
        rig.record();
        volume.flush().await.unwrap();
        volume.flush().await.unwrap();
        let flushes = arrived(rig.objects(), acts);
        assert_eq!(flushes.len(), 1, "whatever the disk would have kept by itself: {flushes:?}");
        drop(volume);
        rig.cut_power();
        assert_eq!(current(&rig.open().await).await, "a?cdefgh");
    });
}

/// Why these are not opened, in any mode; nothing is written to any disk of the rig.
async fn refused(rig: &Rig, [pool, volume, objects]: [Option<&SimulatedDisk>; 3]) -> Error {
    let hashes = || rig.disks().map(|disk| disk.hash()).collect::<Vec<_>>();
    let (before, mut refusal) = (hashes(), None);
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly, OpenMode::ReadWriteAcceptingLoss] {
        let device = |disk: &SimulatedDisk| rig.device(disk);
        let devices =
            Devices { pool: device(pool.unwrap()), volume: volume.map(device), objects: objects.map(device) };
        let error = Volume::open(devices, mode).await.unwrap_err();
        assert_eq!(hashes(), before, "what is refused writes nothing: {error}");
        refusal = Some(error);
    }
    refusal.unwrap()
}

/// Behind a log no entry tells of a copy, but a record of the pool's journal does, whose checkpoint has it in its run.
#[test]
fn a_round_flushes_the_objects_device_before_the_pool_says_what_lies_there() {
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(3, Backend::LoggedCow, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.apply(None).await.unwrap();
            volume.create_snapshot("T0").await.unwrap();
            for lba in [1, 6, 4] {
                write(&volume, lba, b'!').await.unwrap();
            }
            let [object] = <[Object; 1]>::try_from(objects(&rig.log)).unwrap();
            let found = superblock(&rig.log);
            rig.record();
            volume.apply(None).await.unwrap();
            assert_eq!(held(&rig, &object), "-b--e-g-");
            let (of_objects, of_pool) = (rig.objects().recorded(), rig.log.recorded());
            let ended = |one: &&Recorded| matches!(one.event, Event::Ended(_));
            let written = of_objects.iter().filter(|one| is_write(one.kind)).filter(ended);
            let written = written.map(|one| one.at).max().unwrap();
            let begun = |one: &Recorded| one.kind == OperationKind::Flush && one.event == Event::Arrived;
            let flush = of_objects.iter().find(|one| begun(one) && one.at >= written).unwrap();
            let flushed = of_objects.iter().filter(ended).find(|one| one.ticket == flush.ticket).unwrap().at;
            let base_disk = base(&rig).0.recorded();
            let (_, at) = base(&rig);
            let of_base =
                |one: &&Recorded| is_write(one.kind) && one.offset >= at && one.offset < at + 2 * MIB;
            let brought = base_disk.iter().filter(of_base).map(|one| one.at).min().unwrap();
            let metadata = found.metadata.offset.get()..found.metadata.end();
            let tells = |one: &&Recorded| {
                is_write(one.kind) && one.event == Event::Arrived && metadata.contains(&one.offset)
            };
            let told = of_pool.iter().filter(tells).filter(|one| one.at >= flushed).map(|one| one.at).min();
            assert!(told.unwrap() < brought, "copied, flushed, told, overwritten");
        });
    }
}

#[test]
fn the_devices_are_told_by_the_identity_that_is_stored_on_them() {
    for (backend, base_in_pool) in cases_of(&WITH_LOG) {
        let rig = Rig::with_objects(5, backend, base_in_pool);
        let foreign = Rig::with_objects(50, backend, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.create_snapshot("T0").await.unwrap();
            write_some(&volume, 1..=6).await;
            let (of_objects, of_volume) = (id_of(&volume, "objects"), id_of(&volume, "volume"));
            drop(volume);
            rig.cut_power();
            // The same bytes on a disk of this calendar.
            let stranger = SimulatedDisk::new(&rig.calendar, 77, "foreign disk", 9 * MIB, BLOCK as u32);
            stranger.poke(0, &foreign.objects().peek(0, 9 * MIB as usize));
            let (log, objects) = (Some(&rig.log), Some(rig.objects()));
            let base = (!base_in_pool).then_some(&rig.volume);
            let error = refused(&rig, [log, base, None]).await;
            assert_eq!(*error.reason(), Reason::DeviceMissing { role: "objects", id: of_objects.clone() });
            assert_eq!(error.kind(), Kind::Unavailable);
            for remedy in ["--objects-device PATH", "--without-objects"] {
                assert!(error.to_string().contains(remedy), "{error}");
            }
            let error = refused(&rig, [log, base, Some(&stranger)]).await;
            assert!(matches!(error.reason(), Reason::WrongDevice { wanted: "objects", .. }), "{error}");
            assert!(error.to_string().contains("it is the objects device"), "{error}");
            let error = refused(&rig, [objects, base, log]).await;
            let pool = if base_in_pool { "volume" } else { "log" };
            let wanted =
                format!("it is not the {pool} device of this pool: it is the objects device {of_objects}");
            assert!(error.to_string().starts_with(&format!("open objects disk: {wanted}")), "{error}");
            if !base_in_pool {
                // The two beside the pool, exchanged.
                let error = refused(&rig, [log, objects, base]).await;
                let wanted = format!(
                    "it is not the volume device of this pool: it is the objects device {of_objects}"
                );
                assert!(error.to_string().contains(&wanted), "{error}");
                let error = refused(&rig, [log, None, objects]).await;
                assert_eq!(*error.reason(), Reason::DeviceMissing { role: "volume", id: of_volume });
            }
            // The control: these belong together.
            assert_eq!(current(&rig.open().await).await, T2);
            // A volume that has none takes none.
            let options = CreateOptions { size_bytes: Some(MIB), ..options(backend) };
            rig.log.poke(0, &vec![0; 6 * MIB as usize]);
            Volume::create(&rig.device(&rig.log), options).await.unwrap();
            let error = refused(&rig, [log, None, objects]).await;
            assert!(
                matches!(error.reason(), Reason::InvalidSetting { name: "objects device", .. }),
                "{error}"
            );
        });
    }
}

#[test]
fn a_volume_is_made_as_large_as_its_objects_can_be() {
    for backend in WITH_LOG {
        let rig = Rig::blank_with_objects(7, false);
        rig.runtime.block_on(async {
            let largest = CreateOptions { size_bytes: None, ..with_objects(backend) };
            let info = Volume::create_on(&rig.devices(), largest).await.unwrap();
            assert_eq!(
                info.size_bytes,
                3 * MIB,
                "all of the base's device, which is less than half of the objects'"
            );
            assert!(info.features.contains(&"objects device"), "{:?}", info.features);
            let small = SimulatedDisk::new(&rig.calendar, 78, "small disk", 2 * MIB, BLOCK as u32);
            let devices = Devices { objects: Some(rig.device(&small)), ..rig.devices() };
            let info = Volume::create_on(&devices, largest).await.unwrap();
            assert_eq!(info.size_bytes, MIB / 2, "two objects fit");
            let error = Volume::create_on(&devices, with_objects(backend)).await.unwrap_err();
            let text = "create small disk: it has 2097152 bytes; at least 3145728";
            assert!(error.to_string().starts_with(text), "{error}");
            let mapped = CreateOptions { objects: ObjectKind::Mapped, ..with_objects(backend) };
            let error = Volume::create_on(&devices, mapped).await.unwrap_err();
            assert!(
                matches!(error.reason(), Reason::InvalidSetting { name: "objects device", .. }),
                "{error}"
            );
        });
    }
}

/// The disk of objects is full of them, and everything is written after each snapshot; the pool's log stays what it needs.
#[test]
fn one_snapshot_too_many_is_refused_and_none_is_ever_full() {
    for (backend, base_in_pool) in cases() {
        let rig = Rig::with_objects(8, backend, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            let all = 2 * MIB;
            let fill = async |letter| {
                let bytes = vec![letter; 256 << 10];
                for at in (0..all).step_by(bytes.len()) {
                    volume.write_bytes(ByteOffset(at), &bytes, Durability::OnFlush).await.unwrap();
                }
                volume.flush().await.unwrap();
            };
            fill(b'a').await;
            for number in 0..4 {
                volume.create_snapshot(&format!("{number}")).await.unwrap();
                fill(b'b' + number).await;
                fill(b'b' + number).await;
            }
            let full = volume.create_snapshot("4").await.unwrap_err();
            let Reason::NoRoomForObject { needed_bytes, free_bytes } = *full.reason() else {
                panic!("{full}")
            };
            assert_eq!((needed_bytes, free_bytes), (all, 0), "four objects are all that fits its disk");
            fill(b'!').await;
            for number in 0..4 {
                let expected: String = [char::from(b'a' + number); 8].iter().collect();
                assert_eq!(shown(&volume, &format!("{number}")).await.unwrap(), expected, "{backend:?}");
            }
            // One that comes free is taken again.
            match backend {
                Backend::Cow => volume.delete_snapshot("3").await.unwrap(),
                _ => {
                    volume.delete_snapshot("0").await.unwrap();
                    volume.fold(Some("1")).await.unwrap();
                }
            }
            volume.create_snapshot("4").await.unwrap();
            volume.close().await.unwrap();
            drop(volume);
            let volume = rig.open().await;
            assert_eq!((current(&volume).await.as_str(), volume.snapshots().len()), ("!!!!!!!!", 4));
        });
    }
}

/// Whatever is free on the disk of objects is no room for the log: what is dead there is emptied as ever, and a snapshot has its
/// object while the log is as full as it may be.
#[test]
fn free_space_of_one_device_is_none_of_the_other() {
    let rig = Rig::with_objects(10, Backend::Overlay, false);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        volume.create_snapshot("T0").await.unwrap();
        volume.clone_snapshot("T0", "W").await.unwrap();
        let branch = volume.open_writable("W").await.unwrap();
        let blocks = 384;
        let (mut random, mut newest) = (Random::from_seed(1), vec![0; blocks]);
        // A writable snapshot writes to the log: many times what that has room for.
        for _ in 0..4000 {
            let (at, letter) = (random.below(blocks as u64), 1 + random.below(250) as u8);
            write_at(&branch, at * BLOCK, letter, Durability::OnFlush).await.unwrap();
            newest[at as usize] = letter;
        }
        branch.flush().await.unwrap();
        let log = volume.status().log.unwrap();
        let of_pool = superblock(&rig.log).data.bytes.get();
        assert!(log.batch_bytes > 3 * of_pool, "{} of {of_pool}", log.batch_bytes);
        volume.create_snapshot("T1").await.unwrap();
        write_some(&volume, 1..=6).await;
        let mut bytes = vec![0; blocks * BLOCK as usize];
        branch.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
        let found: Vec<u8> = bytes.chunks(BLOCK as usize).map(|block| block[0]).collect();
        assert_eq!(found, newest);
        assert_eq!(shown(&volume, "T1").await.unwrap(), "........");
    });
}

#[test]
fn a_creation_that_is_cut_leaves_no_volume_or_a_whole_one() {
    let (mut none, mut whole) = (0, 0);
    for cut_at in 1.. {
        let rig = Rig::blank_with_objects(100 + cut_at, false);
        let ended = rig.runtime.block_on(async {
            let options = with_objects(Backend::Overlay);
            let creating = async { drop(Volume::create_on(&rig.devices(), options).await.unwrap()) };
            let ended = rig.run_until(cut_at, creating).await;
            rig.cut_power();
            match Volume::open(rig.devices(), OpenMode::ReadWrite).await {
                Ok(volume) => {
                    whole += 1;
                    assert_eq!(current(&volume).await, "........");
                    volume.create_snapshot("T0").await.unwrap();
                    write(&volume, 0, b'x').await.unwrap();
                }
                Err(error) => {
                    none += 1;
                    let of_pool = matches!(error.reason(), Reason::NoSuperblock | Reason::SuperblockDamaged);
                    assert!(of_pool && error.to_string().contains("log disk"), "{cut_at}: {error}");
                    Volume::create_on(&rig.devices(), options).await.unwrap();
                }
            }
            ended
        });
        if ended {
            break;
        }
    }
    println!("{none} times none, {whole} times a whole one");
    assert!(none > 10 && whole > 1);
}

/// The images that the first eight blocks show, sector by sector: in place, a write is as atomic as a disk makes it.
async fn by_sector(volume: &Volume) -> Vec<String> {
    let mut bytes = vec![0; 8 * BLOCK as usize];
    volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
    let letter = |region: usize, sector: usize| {
        let sector = &bytes[region * BLOCK as usize + sector * 512..][..512];
        assert!(sector.iter().all(|byte| *byte == sector[0]));
        char::from(sector[0])
    };
    (0..BLOCK as usize / 512).map(|sector| (0..8).map(|region| letter(region, sector)).collect()).collect()
}

/// W1 to W3 and a snapshot, the power of all disks cut at each of their requests.
#[test]
fn wherever_all_disks_are_cut_what_was_durable_is_there_and_snapshots_show_their_moments() {
    for (backend, base_in_pool) in cases_of(&WITH_LOG) {
        let (mut cuts, mut taken) = (0, 0);
        for seed in 0..4 {
            let cut = |cut_at| {
                cuts += 1;
                cut_and_look(Rig::with_objects(20 + seed, backend, base_in_pool), cut_at, &mut taken)
            };
            assert!((0..).any(cut));
        }
        println!("{backend:?}, base in the pool: {base_in_pool}: {cuts} cuts, {taken} times with T1");
        assert!(cuts > 50 && taken > 8);
    }
}

/// Cuts after so many requests of the work, and looks at what is there. Whether the work had ended.
fn cut_and_look(rig: Rig, cut_at: u64, taken: &mut u64) -> bool {
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        write_base(&volume).await;
        if volume.info().backend == Backend::LoggedCow {
            volume.apply(None).await.unwrap();
        }
        volume.create_snapshot("T0").await.unwrap();
        let done = Cell::new(0);
        let work = async {
            for number in 1..=3 {
                write_some(&volume, number..=number).await;
                done.set(number);
            }
            volume.create_snapshot("T1").await.unwrap();
            done.set(4);
            write_some(&volume, 4..=4).await;
            done.set(5);
            if volume.info().backend == Backend::LoggedCow {
                volume.apply(None).await.unwrap();
            }
        };
        let ended = rig.run_until(cut_at, work).await;
        drop(volume);
        rig.cut_power();
        let volume = rig.open().await;
        let done = done.get();
        let least = done.min(3) + usize::from(done == 5);
        let legal = &PREFIXES[least..=(least + 1).min(4)];
        for found in by_sector(&volume).await {
            assert!(legal.contains(&found.as_str()), "cut at {cut_at}: {found} after {done}");
        }
        assert_eq!(shown(&volume, "T0").await.unwrap(), T0, "cut at {cut_at}");
        match shown(&volume, "T1").await {
            Ok(image) => {
                *taken += 1;
                assert_eq!(image, T1, "cut at {cut_at}");
            }
            Err(error) => assert!(done < 4, "cut at {cut_at}: {error}"),
        }
        // It goes on from there.
        write(&volume, 7, b'H').await.unwrap();
        assert_eq!(byte(&volume, 7).await.unwrap(), b'H');
        assert_eq!(shown(&volume, "T0").await.unwrap(), T0, "cut at {cut_at}");
        ended
    })
}

#[test]
fn random_operations_and_cuts_of_all_disks() {
    for (backend, base_in_pool) in cases_of(&WITH_LOG) {
        let rig = |seed| Rig::with_objects(2000 + 2 * seed, backend, base_in_pool);
        for seed in 0..40 {
            let played = play(rig(seed), seed, backend);
            assert_eq!(played, Ok(()), "{backend:?}, base in the pool: {base_in_pool}");
        }
        // The control: what is said to lie in an object and was never flushed there is missed.
        let lying = |seed| {
            let rig = rig(seed);
            lies(rig.objects());
            play(rig, seed, backend)
        };
        assert!((0..40).any(|seed| lying(seed).is_err()), "{backend:?}");
    }
}

/// The other control: the pool says where blocks lie before their device has been flushed.
#[cfg(feature = "mutations")]
#[test]
fn a_map_before_its_data_is_found() {
    use icecore::mutation::{Mutation, switch};
    for backend in WITH_LOG {
        switch(Some(Mutation::MapBeforeData));
        let rig = |seed| Rig::with_objects(2000 + 2 * seed, backend, false);
        let found = (0..40).position(|seed| play(rig(seed), seed, backend).is_err());
        switch(None);
        println!("{backend:?}: seed {found:?}");
        assert!(found.is_some(), "{backend:?}");
    }
}
