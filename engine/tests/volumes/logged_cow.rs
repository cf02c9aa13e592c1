//! A log in front of copy-on-write: the worked example with what lies where on the disk, the order of log, copies and
//! base, cuts between any two requests, failures; with copies in the log and in linear objects.

use std::cell::Cell;

use icecore::check::{Code, check};
use icecore::device::simulated::{Event, Fault, Recorded};
use icecore::error::{Kind, Reason};
use icecore::format::batch::{KIND_COPIED, KIND_DATA};
use icecore::object::ObjectKind;
use icecore::pool::layout::metadata_places;
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, OpenOptions, Volume};

use crate::base_vectors::{
    CUT_FORM, FORMS, Form, Play, T0, T1, T2, batches, cut_at_each_request, forms_and_objects,
};
use crate::linear_objects::{are_shown, write_together};
use crate::objects::{Object, objects};
use crate::on_disk::superblock;
use crate::vlog::{self, BLOCK, MANUAL, MIB, PREFIXES, Rig, is_sound, small, write, write_base};

/// A volume whose base holds `abcdefgh`, and that is brought there when somebody asks for it.
fn begin(form: Form, kind: ObjectKind) -> (Play, Volume) {
    let (play, volume) = Play::new(form, Backend::LoggedCow, kind);
    let volume = play.rig.runtime.block_on(async {
        volume.apply(None).await.unwrap();
        volume.close().await.unwrap();
        drop(volume);
        play.rig.open(MANUAL).await
    });
    (play, volume)
}

/// What has been copied to the log, in the order of regions: the first block of each and its last letter, on the disk.
fn copied(play: &Play) -> Vec<(u64, char)> {
    let (block_bytes, form) = (play.form.block_bytes, play.form);
    let mut copied = Vec::new();
    for (address, batch) in batches(&play.rig.disk) {
        let payload = address + u64::from(batch.header.header_bytes.get());
        for entry in batch.entries.iter().filter(|entry| entry.kind == KIND_COPIED) {
            for at in 0..u64::from(entry.blocks.get()) {
                let offset = (entry.lba.get() + at) * block_bytes;
                let Some(region) = (0..8).find(|region| form.place(*region) == offset) else { continue };
                let at = payload + (u64::from(entry.payload.get()) + at) * block_bytes;
                let bytes = play.rig.disk.peek(at, form.region_bytes as usize);
                copied.push((region, form.letter(region, &bytes)));
            }
        }
    }
    copied.sort_unstable();
    copied
}

/// What the disk was given for linear objects since the recording began, and holds there: number of the object, region and
/// letter, each once.
fn placed(play: &Play) -> Vec<(usize, u64, char)> {
    let (disk, form) = (&play.rig.disk, play.form);
    let mut written = disk.recorded();
    let is_write = |one: &Recorded| matches!(one.kind, OperationKind::Write { .. });
    written.retain(|one| one.event == Event::Arrived && is_write(one));
    let (objects, mut placed, mut bytes) = (objects(disk), Vec::new(), 0);
    for (number, object) in objects.iter().enumerate() {
        for region in 0..8 {
            let at = object.place(disk, form.place(region) / form.block_bytes);
            let end = at + form.region_bytes;
            let of_region =
                |one: &Recorded| (one.offset + one.length).min(end).checked_sub(one.offset.max(at));
            let length: u64 = written.iter().filter_map(of_region).sum();
            assert!(length == 0 || length == form.region_bytes, "all of a region, once, {form:?}");
            if length > 0 {
                let held = disk.peek(at, form.region_bytes as usize);
                placed.push((number, region, form.letter(region, &held)));
            }
            bytes += length;
        }
    }
    let is_in_object = |one: &&Recorded| {
        let found = play.superblock();
        let segment = one.offset.checked_sub(found.data.offset.get());
        let segment = segment.map(|at| (at / u64::from(found.segment_bytes.get())) as u32);
        segment.is_some_and(|at| objects.iter().any(|object| object.segments.contains(&at)))
    };
    let all: u64 = written.iter().filter(is_in_object).map(|one| one.length).sum();
    assert_eq!(all, bytes, "nothing else lies there, {form:?}");
    placed
}

/// What has been copied since the recording began: in the log, or in objects. The number of the object is that of the snapshot
/// that it has to be the newest of those that see it.
fn assert_copied(play: &Play, kind: ObjectKind, expected: &[(usize, u64, char)]) {
    match kind {
        ObjectKind::Mapped => {
            let mut expected: Vec<_> = expected.iter().map(|(_, at, letter)| (*at, *letter)).collect();
            expected.sort_unstable();
            assert_eq!(copied(play), expected, "{:?}", play.form);
        }
        ObjectKind::Linear => {
            assert_eq!(placed(play), expected, "{:?}", play.form);
            assert_eq!(copied(play), [], "and the log has none, {:?}", play.form);
        }
    }
}

#[test]
fn every_value_of_the_worked_example_and_where_it_lies() {
    for (form, kind) in forms_and_objects() {
        let (play, mut volume) = begin(form, kind);
        play.rig.runtime.block_on(async {
            assert_eq!(play.base(), T0);
            play.rig.disk.start_recording();
            volume.create_snapshot("S0").await.unwrap();
            for number in 1..=3 {
                play.write_some(&volume, number..=number).await;
                assert_eq!(play.base(), T0, "it is in the log alone, {form:?}");
                assert_eq!(play.current(&volume).await, PREFIXES[number as usize]);
            }
            assert_copied(&play, kind, &[]);
            volume.apply(None).await.unwrap();
            assert_eq!(play.base(), T1, "{form:?}");
            // Two copies for three writes.
            assert_copied(&play, kind, &[(0, 0, 'a'), (0, 3, 'd')]);
            assert_eq!(play.shown(&volume, "S0").await, T0);
            let per_region = form.region_bytes / form.block_bytes;
            let live = |volume: &Volume| volume.status().log.unwrap().live_blocks / per_region;
            assert_eq!(live(&volume), 2, "the copies alone, {form:?}");
            volume.create_snapshot("S1").await.unwrap();
            play.write_some(&volume, 4..=6).await;
            volume.apply(None).await.unwrap();
            assert_eq!(play.base(), T2);
            let copies = [(0, 0, 'a'), (0, 3, 'd'), (1, 2, 'c'), (1, 3, 'z'), (1, 5, 'f')];
            assert_copied(&play, kind, &copies);
            assert_eq!(live(&volume), 5);
            for _ in 0..2 {
                assert_eq!(play.shown(&volume, "S0").await, T0);
                assert_eq!(play.shown(&volume, "S1").await, T1);
                assert_eq!(play.current(&volume).await, T2);
                drop(volume);
                play.rig.disk.cut_power();
                is_sound(&play.rig).await;
                volume = play.rig.open(MANUAL).await;
            }
            // What one alone keeps comes free, and no data moves.
            drop(volume.image(ImageOptions::default()).await.unwrap());
            let found = play.superblock();
            play.rig.disk.start_recording();
            volume.delete_snapshot("S1").await.unwrap();
            volume.context().sleep(3_000_000_000).await;
            let moved = play.rig.disk.recorded();
            assert!(moved.iter().all(|one| one.offset < found.base.offset.get()), "{form:?}");
            assert_eq!(live(&volume), 4, "a, d, c and f are left, z is not, {form:?}");
            assert_eq!(play.shown(&volume, "S0").await, T0);
            volume.delete_snapshot("S0").await.unwrap();
            volume.context().sleep(3_000_000_000).await;
            assert_eq!(live(&volume), 0);
            assert_eq!(objects(&play.rig.disk), [], "no object is left");
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&play.rig).await;
        });
    }
}

/// A snapshot that sees what is still in the log needs no copy of it.
#[test]
fn what_a_snapshot_sees_in_the_log_stays_there_and_is_copied_never() {
    ObjectKind::ALL.into_iter().for_each(two_snapshots_before_a_round);
}

fn two_snapshots_before_a_round(kind: ObjectKind) {
    let (play, mut volume) = begin(CUT_FORM, kind);
    play.rig.runtime.block_on(async {
        play.rig.disk.start_recording();
        volume.create_snapshot("T0").await.unwrap();
        play.write_some(&volume, 1..=3).await;
        volume.create_snapshot("T1").await.unwrap();
        play.write_some(&volume, 4..=6).await;
        volume.apply(None).await.unwrap();
        assert_eq!(play.base(), T2);
        // z is in the log. What T0 alone sees goes to its own object, though there is a newer one.
        assert_copied(&play, kind, &[(0, 0, 'a'), (0, 3, 'd'), (1, 2, 'c'), (1, 5, 'f')]);
        for _ in 0..2 {
            assert_eq!(play.shown(&volume, "T0").await, T0);
            assert_eq!(play.shown(&volume, "T1").await, T1);
            assert_eq!(play.current(&volume).await, T2);
            drop(volume);
            play.rig.disk.cut_power();
            is_sound(&play.rig).await;
            volume = play.rig.open(MANUAL).await;
        }
    });
}

/// the change is durable in the log, then the old content with what finds it, then the base is overwritten.
#[test]
fn log_then_copies_then_what_finds_them_then_the_base() {
    ObjectKind::ALL.into_iter().for_each(order);
}

fn order(kind: ObjectKind) {
    let form = CUT_FORM;
    let (play, volume) = begin(form, kind);
    play.rig.runtime.block_on(async {
        volume.create_snapshot("S0").await.unwrap();
        let found = play.superblock();
        let base = found.base.offset.get()..found.base.offset.get() + found.base.bytes.get();
        play.rig.disk.start_recording();
        play.write_some(&volume, 1..=6).await;
        volume.apply(None).await.unwrap();
        let mut recorded = play.rig.disk.recorded();
        recorded.retain(|one| one.event == Event::Arrived);
        let batches = batches(&play.rig.disk);
        let places = |what: &dyn Fn(u64) -> bool| -> Vec<usize> {
            let writes = recorded.iter().enumerate();
            let writes = writes.filter(|(_, one)| matches!(one.kind, OperationKind::Write { .. }));
            writes.filter(|(_, one)| what(one.offset)).map(|(at, _)| at).collect()
        };
        let of_kind = |kind: u32| {
            places(&|offset| {
                let mut found = batches.iter().filter(|(address, _)| *address == offset);
                found.any(|(_, batch)| batch.entries.iter().any(|entry| entry.kind == kind))
            })
        };
        let metadata = found.metadata.offset.get()..found.metadata.offset.get() + found.metadata.bytes.get();
        let changes = of_kind(KIND_DATA);
        let objects = objects(&play.rig.disk);
        let copies = match kind {
            ObjectKind::Mapped => of_kind(KIND_COPIED),
            ObjectKind::Linear => {
                let start = objects[0].place(&play.rig.disk, 0);
                places(&|at| (start..start + form.volume_bytes()).contains(&at))
            }
        };
        let (told, brought) = (places(&|at| metadata.contains(&at)), places(&|at| base.contains(&at)));
        let (last_change, last_copy) = (*changes.last().unwrap(), *copies.last().unwrap());
        let flushed =
            |from: usize, to: usize| recorded[from..to].iter().any(|one| one.kind == OperationKind::Flush);
        assert_eq!(changes.len(), 6);
        assert!(last_change < copies[0] && flushed(last_change, copies[0]), "the log before the copies");
        let said = *told.iter().find(|at| **at > last_copy).unwrap();
        assert!(
            said < brought[0] && flushed(said, brought[0]),
            "the copies, and what finds them, before the base"
        );
        let bytes: u64 = brought.iter().map(|at| recorded[*at].length).sum();
        assert_eq!(bytes, 4 * form.region_bytes, "r0, r2, r3 and r5 once each: nothing that was superseded");
    });
}

#[test]
fn a_cut_at_each_request_leaves_a_prefix_and_the_snapshot() {
    ObjectKind::ALL.into_iter().for_each(cut_each_request);
}

fn cut_each_request(kind: ObjectKind) {
    let cuts = cut_at_each_request(
        (Backend::LoggedCow, kind),
        async |_, volume| {
            volume.apply(None).await.unwrap();
            volume.create_snapshot("T0").await.unwrap();
        },
        async |play, volume, done| {
            for number in 1..=3 {
                play.write_some(volume, number..=number).await;
                done.set(number);
            }
            volume.apply(None).await.unwrap();
            play.write_some(volume, 4..=6).await;
            done.set(6);
            volume.apply(None).await.unwrap();
        },
        async |play, volume, done| {
            let found = play.current(volume).await;
            let from = done as usize;
            assert!(PREFIXES[from..].contains(&found.as_str()), "{found} after {done} writes");
            assert_eq!(play.shown(volume, "T0").await, T0, "after {done} writes");
            volume.apply(None).await.unwrap();
            assert_eq!(play.current(volume).await, found);
            assert_eq!(play.base(), found);
            assert_eq!(play.shown(volume, "T0").await, T0, "after {done} writes, all of it in the base");
        },
    );
    assert!(cuts > 30, "{cuts} cuts");
}

/// A read, or a write, that fails on the way to the base is told to whoever asked; nothing is lost, and the next one goes on.
#[test]
fn a_failure_on_the_way_is_told_and_loses_nothing() {
    ObjectKind::ALL.into_iter().for_each(fail_each_request);
}

fn fail_each_request(kind: ObjectKind) {
    let failed = Cell::new(0);
    for at in 0..40_i64 {
        let (play, volume) = begin(CUT_FORM, kind);
        play.rig.runtime.block_on(async {
            volume.create_snapshot("S0").await.unwrap();
            play.write_some(&volume, 1..=6).await;
            let disk = &play.rig.disk;
            let mut left = at;
            disk.set_plan(Box::new(move |_, _| {
                left -= 1;
                (left == -1).then_some(Fault::Fail(5))
            }));
            let first = volume.apply(None).await;
            failed.set(failed.get() + u32::from(first.is_err()));
            disk.set_plan(Box::new(|_, _| None));
            let volume = match volume.apply(None).await {
                Ok(_) => volume,
                // The flush, or a record of the journal, has failed.
                Err(_) => {
                    drop(volume);
                    disk.cut_power();
                    let volume = play.rig.open(MANUAL).await;
                    volume.apply(None).await.unwrap();
                    volume
                }
            };
            assert_eq!(play.current(&volume).await, T2, "request {at}");
            assert_eq!(play.base(), T2);
            assert_eq!(play.shown(&volume, "S0").await, T0);
        });
    }
    assert!(failed.get() > 8, "{} of them failed", failed.get());
}

/// Blocks of a small volume with linear objects.
const BLOCKS: u64 = 32;

fn linear() -> CreateOptions {
    let size_bytes = Some(BLOCKS * BLOCK);
    CreateOptions { size_bytes, objects: ObjectKind::Linear, ..small(Backend::LoggedCow) }
}

fn letter_at(rig: &Rig, object: &Object, lba: u64) -> u8 {
    rig.disk.peek(object.place(&rig.disk, lba), 1)[0]
}

/// What an image needs that has no name goes to the log, and so does nothing that a snapshot sees.
#[test]
fn what_images_alone_see_goes_to_the_log_and_an_object_is_given_back_when_it_is_empty() {
    let rig = Rig::new(1, 8 * MIB, linear());
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.apply(None).await.unwrap();
        volume.create_snapshot("T0").await.unwrap();
        write(&volume, 1, b'B').await.unwrap();
        volume.apply(None).await.unwrap();
        let [object] = <[Object; 1]>::try_from(objects(&rig.disk)).unwrap();
        assert_eq!(letter_at(&rig, &object, 1), b'b');
        let image = volume.image(ImageOptions::default()).await.unwrap();
        write(&volume, 1, b'C').await.unwrap();
        write(&volume, 2, b'!').await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!((letter_at(&rig, &object, 1), letter_at(&rig, &object, 2)), (b'b', b'c'));
        let buf = volume.context().buffers().get(4 * BLOCK as usize).unwrap();
        let (read, buf) = image.read(ByteOffset(0), buf).await;
        read.unwrap();
        let seen: Vec<u8> = buf.iter().step_by(BLOCK as usize).copied().collect();
        assert_eq!(seen, b"aBcd");
        let live = |volume: &Volume| volume.status().log.unwrap().live_blocks;
        assert_eq!(live(&volume), 3, "b and c for the snapshot, B for the image");
        drop((image, buf));
        // A younger snapshot is deleted that is not the only one to see what lies in its object.
        volume.create_snapshot("T1").await.unwrap();
        write(&volume, 4, b'E').await.unwrap();
        volume.apply(None).await.unwrap();
        let second = objects(&rig.disk).pop().unwrap();
        assert_eq!((letter_at(&rig, &object, 4), letter_at(&rig, &second, 4)), (0, b'e'));
        assert_eq!(live(&volume), 3, "nobody needs B any more");
        volume.delete_snapshot("T1").await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        assert_eq!(objects(&rig.disk).len(), 2, "it has what the older one sees");
        let volume = rig.cut_and_open(volume).await;
        assert_eq!(vlog::shown(&volume, "T0").await.unwrap(), T0);
        assert_eq!(vlog::current(&volume).await, "aC!dEfgh");
        // The checksum of a copy is known: of one that has changed the check tells, and no image shows it.
        let at = object.place(&rig.disk, 1);
        volume.close().await.unwrap();
        drop(volume);
        rig.disk.poke(at + 9, b"?");
        let report = check(&rig.device(), &mut |_| {}).await.unwrap();
        let found: Vec<_> = report.findings.iter().map(|one| (one.code, one.place.address)).collect();
        assert!(found.contains(&(Code::Block, Some(at))), "{report:?}");
        let volume = rig.open(MANUAL).await;
        assert_eq!(vlog::shown(&volume, "T0").await.unwrap_err().kind(), Kind::Corrupt);
        rig.disk.poke(at + 9, b"b");
        volume.delete_snapshot("T0").await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        assert_eq!((live(&volume), objects(&rig.disk)), (0, vec![]));
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
    });
}

/// Deletions at any time while a round copies for the snapshot that is deleted, and for an older one.
#[test]
fn a_snapshot_that_goes_while_a_round_copies_takes_nothing_of_another() {
    for after_ns in (0..2_000_000).step_by(20_000) {
        let rig = Rig::new(1, 8 * MIB, linear());
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            volume.apply(None).await.unwrap();
            for name in ["T0", "T1"] {
                volume.create_snapshot(name).await.unwrap();
            }
            for lba in 0..8 {
                write(&volume, lba, b'!').await.unwrap();
            }
            let deleting = volume.clone();
            let deleting = volume.context().spawn(async move {
                deleting.context().sleep(after_ns).await;
                deleting.delete_snapshot("T1").await.unwrap();
            });
            volume.apply(None).await.unwrap();
            deleting.await;
            assert_eq!(vlog::shown(&volume, "T0").await.unwrap(), T0, "deleted after {after_ns} ns");
            volume.context().sleep(1_000_000_000).await;
            let volume = rig.cut_and_open(volume).await;
            assert_eq!(vlog::shown(&volume, "T0").await.unwrap(), T0, "deleted after {after_ns} ns");
            assert_eq!(vlog::current(&volume).await, "!!!!!!!!");
        });
    }
}

/// How long a page of the index takes where that is slow, in nanoseconds.
const SLOW_PAGE_NS: u64 = 10_000_000;

/// Three snapshots, and a round that copies everything for the newest that sees it, while one of them is deleted and its object
/// given back; the power is cut thereafter, while no checkpoint has told of the copies yet, or when the round has ended.
/// Panics where something is not as it must be.
fn delete_while_copies_wait(deleted: &str, after_ns: u64, is_cut: bool) {
    let case = format!("{deleted} deleted after {after_ns} ns, cut: {is_cut}");
    let rig = Rig::new(1, 8 * MIB, linear());
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.apply(None).await.unwrap();
        let mut kept = vec!["T0", "T1", "T2"];
        for name in &kept {
            volume.create_snapshot(name).await.unwrap();
        }
        for lba in 0..8 {
            write(&volume, lba, b'!').await.unwrap();
        }
        let index = metadata_places(&superblock(&rig.disk)).index;
        rig.disk.set_plan(Box::new(move |request, _| {
            let is_page = (index.offset.get()..index.end()).contains(&request.offset);
            (is_page && request.kind != OperationKind::Read).then_some(Fault::Stall(SLOW_PAGE_NS))
        }));
        let applying = volume.clone();
        let applying = volume.context().spawn(async move { applying.apply(None).await.unwrap() });
        volume.context().sleep(after_ns).await;
        volume.delete_snapshot(deleted).await.unwrap();
        kept.retain(|name| *name != deleted);
        volume.context().sleep(SLOW_PAGE_NS / 2).await;
        if is_cut {
            applying.abort();
            drop(applying);
        } else {
            applying.await.unwrap();
        }
        rig.disk.set_plan(Box::new(|_, _| None));
        let volume = rig.cut_and_open(volume).await;
        for name in &kept {
            assert_eq!(vlog::shown(&volume, name).await.unwrap(), T0, "{case}");
        }
        assert_eq!(vlog::current(&volume).await, "!!!!!!!!", "{case}");
        for name in kept {
            volume.delete_snapshot(name).await.unwrap();
        }
        volume.apply(None).await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        let live = volume.status().log.unwrap().live_blocks;
        assert_eq!((live, objects(&rig.disk)), (0, vec![]), "{case}");
    });
}

/// The round begins with a slow checkpoint, and copies are told of by the next.
fn delete_while_copies_wait_at_any_time() {
    for after_ns in (0..3 * SLOW_PAGE_NS).step_by(500_000) {
        for deleted in ["T1", "T2"] {
            [false, true].iter().for_each(|is_cut| delete_while_copies_wait(deleted, after_ns, *is_cut));
        }
    }
}

#[test]
fn an_object_stays_for_copies_of_which_no_checkpoint_has_told() {
    delete_while_copies_wait_at_any_time();
}

#[cfg(feature = "mutations")]
#[test]
fn that_copies_are_told_of_too_early_or_not_waited_for_is_seen() {
    use icecore::mutation::{Mutation, switch};

    for mutation in [Mutation::CopyToldEarly, Mutation::CopyNotAwaited] {
        switch(Some(mutation));
        let played = std::panic::catch_unwind(delete_while_copies_wait_at_any_time);
        switch(None);
        assert!(played.is_err(), "{mutation:?} is not found");
    }
}

/// V-SPACE with linear objects: four of eight places are used, and there is nothing to be full. Should the pool have no room for one
/// more object, the snapshot is refused; what has been taken keeps all that it sees while everything is written again and again.
#[test]
fn v_space_a_snapshot_that_was_taken_is_never_full() {
    for form in FORMS {
        let (play, volume) = begin(form, ObjectKind::Linear);
        play.rig.runtime.block_on(async {
            play.rig.disk.start_recording();
            volume.create_snapshot("T0").await.unwrap();
            let first = [(0, 0, 'a'), (0, 3, 'd')];
            let (both, third) = ([(0, 0, 'a'), (0, 2, 'c'), (0, 3, 'd')], (0, 5, 'f'));
            let after: [&[_]; 6] =
                [&first[..1], &first, &first, &both, &both, &[both[0], both[1], both[2], third]];
            let used = volume.status().log.unwrap().snapshot_space.unwrap().used_bytes;
            for (number, expected) in (1..).zip(after) {
                play.write_some(&volume, number..=number).await;
                volume.apply(None).await.unwrap();
                assert_eq!(placed(&play), expected, "after W{number}, {form:?}");
                assert_eq!(play.base(), PREFIXES[number as usize]);
            }
            assert_eq!(play.shown(&volume, "T0").await, T0);
            let space = volume.status().log.unwrap().snapshot_space.unwrap();
            assert_eq!(space.used_bytes, used, "all of an object is taken with its snapshot, {form:?}");
        });
    }
    let rig = Rig::new(3, 8 * MIB, CreateOptions { size_bytes: Some(128 * BLOCK), ..linear() });
    rig.runtime.block_on(async {
        let volume = rig.open_with(OpenOptions::default()).await;
        let all: Vec<u64> = (0..128).collect();
        let mut names = Vec::new();
        let refused = loop {
            let letter = b'a' + names.len() as u8;
            write_together(&volume, &all, letter).await;
            volume.apply(None).await.unwrap();
            match volume.create_snapshot(&format!("at {}", char::from(letter))).await {
                Ok(taken) => names.push((taken.name, letter)),
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused.reason(), Reason::NoRoomForObject { .. }), "{refused}");
        assert!(names.len() >= 3, "{names:?}");
        for letter in [b'X', b'Y', b'Z'] {
            write_together(&volume, &all, letter).await;
            volume.apply(None).await.unwrap();
        }
        are_shown(&volume, &names).await;
        assert_eq!(vlog::current(&volume).await, "ZZZZZZZZ");
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
    });
}

/// What the log holds goes to the base, and makes room: a snapshot waits for that as a write does, and is refused only where it
/// would be afterwards.
#[test]
fn a_snapshot_waits_for_the_room_that_a_round_makes() {
    let mut most = 0;
    for (seed, blocks) in (0..10).flat_map(|seed| [64, 96, 128, 160].map(|blocks| (seed, blocks))) {
        let rig = Rig::new(seed, 8 * MIB, CreateOptions { size_bytes: Some(blocks * BLOCK), ..linear() });
        rig.runtime.block_on(async {
            let volume = rig.open_with(OpenOptions::default()).await;
            let all: Vec<u64> = (0..blocks).collect();
            let mut names = Vec::new();
            loop {
                let letter = b'a' + names.len() as u8 % 26;
                write_together(&volume, &all, letter).await;
                let name = format!("snapshot {}", names.len());
                match volume.create_snapshot(&name).await {
                    Ok(taken) => names.push((taken.name, letter)),
                    Err(refused) => {
                        assert!(matches!(refused.reason(), Reason::NoRoomForObject { .. }), "{refused}");
                        volume.apply(None).await.unwrap();
                        let again = volume.create_snapshot(&name).await;
                        assert!(again.is_err(), "{blocks} blocks, seed {seed}, after {}", names.len());
                        break;
                    }
                }
            }
            are_shown(&volume, &names).await;
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
            most = most.max(names.len());
        });
    }
    assert!(most >= 4, "{most}");
}
