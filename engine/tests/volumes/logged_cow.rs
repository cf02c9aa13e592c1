//! A log in front of copy-on-write: the worked example with what lies where on the disk, the order of log, copies and
//! base, cuts between any two requests, failures.

use std::cell::Cell;

use icecore::device::simulated::{Event, Fault};
use icecore::format::batch::{KIND_COPIED, KIND_DATA};
use icecore::object::ObjectKind;
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::volume::Volume;

use crate::base_vectors::{CUT_FORM, FORMS, Form, Play, T0, T1, T2, batches, cut_at_each_request};
use crate::vlog::{MANUAL, PREFIXES, is_sound};

const KEPT: (Backend, ObjectKind) = (Backend::LoggedCow, ObjectKind::Mapped);

/// A volume whose base holds `abcdefgh`, and that is brought there when somebody asks for it.
fn begin(form: Form) -> (Play, Volume) {
    let (play, volume) = Play::new(form, KEPT.0, KEPT.1);
    let volume = play.rig.runtime.block_on(async {
        volume.apply(None).await.unwrap();
        volume.close().await.unwrap();
        drop(volume);
        play.rig.open(MANUAL).await
    });
    (play, volume)
}

/// What has been copied, in the order of regions: the first block of each and its last letter, on the disk.
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

#[test]
fn every_value_of_the_worked_example_and_where_it_lies() {
    for form in FORMS {
        let (play, mut volume) = begin(form);
        play.rig.runtime.block_on(async {
            assert_eq!(play.base(), T0);
            volume.create_snapshot("S0").await.unwrap();
            for number in 1..=3 {
                play.write_some(&volume, number..=number).await;
                assert_eq!(play.base(), T0, "it is in the log alone, {form:?}");
                assert_eq!(play.current(&volume).await, PREFIXES[number as usize]);
            }
            assert_eq!(copied(&play), [], "nothing has been copied");
            volume.apply(None).await.unwrap();
            assert_eq!(play.base(), T1, "{form:?}");
            assert_eq!(copied(&play), [(0, 'a'), (3, 'd')], "two copies for three writes, {form:?}");
            assert_eq!(play.shown(&volume, "S0").await, T0);
            let per_region = form.region_bytes / form.block_bytes;
            let live = |volume: &Volume| volume.status().log.unwrap().live_blocks / per_region;
            assert_eq!(live(&volume), 2, "the copies alone, {form:?}");
            volume.create_snapshot("S1").await.unwrap();
            play.write_some(&volume, 4..=6).await;
            volume.apply(None).await.unwrap();
            assert_eq!(play.base(), T2);
            assert_eq!(copied(&play), [(0, 'a'), (2, 'c'), (3, 'd'), (3, 'z'), (5, 'f')], "{form:?}");
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
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&play.rig).await;
        });
    }
}

/// A snapshot that sees what is still in the log needs no copy of it.
#[test]
fn what_a_snapshot_sees_in_the_log_stays_there_and_is_copied_never() {
    let form = CUT_FORM;
    let (play, mut volume) = begin(form);
    play.rig.runtime.block_on(async {
        volume.create_snapshot("T0").await.unwrap();
        play.write_some(&volume, 1..=3).await;
        volume.create_snapshot("T1").await.unwrap();
        play.write_some(&volume, 4..=6).await;
        volume.apply(None).await.unwrap();
        assert_eq!(play.base(), T2);
        assert_eq!(copied(&play), [(0, 'a'), (2, 'c'), (3, 'd'), (5, 'f')], "z is in the log");
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
    let form = CUT_FORM;
    let (play, volume) = begin(form);
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
        let (changes, copies) = (of_kind(KIND_DATA), of_kind(KIND_COPIED));
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
    let cuts = cut_at_each_request(
        KEPT,
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
    let failed = Cell::new(0);
    for at in 0..40_i64 {
        let (play, volume) = begin(CUT_FORM);
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
