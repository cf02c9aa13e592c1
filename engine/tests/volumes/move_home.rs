//! a read of an overlaid block moves it home, where nobody keeps an older moment. Order, failures and cuts are judged by
//! what the disk got and holds.

use std::cell::Cell;

use icecore::device::simulated::{Event, Fault};
use icecore::error::Reason;
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, OpenOptions, Volume};

use crate::vlog::{
    BLOCK, MIB, PREFIXES, Rig, WRITES, base_at, byte, cut_at_each_request, image_at, is_sound, letters,
    shown, small, write, write_base,
};

const T0: &str = PREFIXES[0];
const T1: &str = PREFIXES[3];
/// Far longer than a batch takes.
const WAIT_NS: u64 = 500_000_000;

fn rig(seed: u64) -> Rig {
    Rig::new(seed, 8 * MIB, CreateOptions { size_bytes: Some(2 * MIB), ..small(Backend::Overlay) })
}

async fn open(rig: &Rig, moves: bool) -> Volume {
    rig.open_with(OpenOptions { move_home_on_read: moves, ..OpenOptions::default() }).await
}

/// V-2: the base, T0 and W1 to W3.
async fn v_2(rig: &Rig, moves: bool) -> Volume {
    let volume = open(rig, moves).await;
    write_base(&volume).await;
    volume.create_snapshot("T0").await.unwrap();
    for (region, letter) in &WRITES[..3] {
        write(&volume, *region, *letter).await.unwrap();
    }
    volume
}

/// The same, and nobody keeps the base any more.
async fn v_2_alone(rig: &Rig, moves: bool) -> Volume {
    let volume = v_2(rig, moves).await;
    volume.delete_snapshot("T0").await.unwrap();
    volume
}

fn base(rig: &Rig) -> String {
    letters(&rig.disk, base_at(rig))
}

/// Which regions lie in an overlay: of what lies in the base, nobody knows a checksum.
async fn bitmap(volume: &Volume) -> String {
    let mut bits = String::new();
    for region in 0..8 {
        let versions = volume.versions(ByteOffset(region * BLOCK)).await.unwrap();
        bits.push(if versions.last().unwrap().checksum == 0 { '0' } else { '1' });
    }
    bits
}

/// The image as it is now, read so that nothing is moved.
async fn image(volume: &Volume) -> String {
    image_at(volume, volume.info().sequence).await.unwrap()
}

async fn wait(volume: &Volume) {
    volume.context().sleep(WAIT_NS).await;
}

#[test]
fn what_is_read_goes_home_unless_somebody_keeps_the_base() {
    let rig = rig(1);
    rig.runtime.block_on(async {
        let volume = v_2(&rig, true).await;
        let moved = |volume: &Volume| volume.status().log.unwrap().moved_home_blocks;
        // The snapshot keeps the base.
        let before = (rig.disk.peek(base_at(&rig), 2 * MIB as usize), bitmap(&volume).await);
        assert_eq!(before.1, "10010000");
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        assert_eq!((rig.disk.peek(base_at(&rig), 2 * MIB as usize), bitmap(&volume).await), before);
        // So does an image of an older moment, with or without a name.
        let sequence = Some(volume.snapshot("T0").unwrap().sequence);
        let open = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
        volume.delete_snapshot("T0").await.unwrap();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        assert_eq!((bitmap(&volume).await.as_str(), base(&rig).as_str()), ("10010000", T0));
        assert_eq!(moved(&volume), 0);
        drop(open);
        // Nobody does: data, a flush, and only then anything else.
        let live = volume.status().log.unwrap().live_blocks;
        rig.disk.start_recording();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        let events: Vec<_> = rig
            .disk
            .recorded()
            .into_iter()
            .filter(|one| one.event == Event::Arrived && one.kind != OperationKind::Read)
            .map(|one| (one.kind, one.offset))
            .collect();
        assert!(matches!(events[0], (OperationKind::Write { .. }, at) if at == base_at(&rig)), "{events:?}");
        assert_eq!(events[1].0, OperationKind::Flush, "{events:?}");
        assert!(events[2..].iter().any(|one| matches!(one.0, OperationKind::Write { .. })), "{events:?}");
        assert_eq!(base(&rig), "1bcdefgh");
        assert_eq!((bitmap(&volume).await.as_str(), image(&volume).await.as_str()), ("00010000", T1));
        assert_eq!(
            (moved(&volume), volume.status().log.unwrap().live_blocks),
            (1, live - 1),
            "its slot is free"
        );
        // Another read finds it at home, and nothing is moved again.
        rig.disk.start_recording();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        let seen = rig.disk.recorded().into_iter().filter(|one| one.event == Event::Arrived);
        let in_base: Vec<_> =
            seen.filter(|one| (base_at(&rig)..base_at(&rig) + 2 * MIB).contains(&one.offset)).collect();
        assert_eq!((in_base.len(), in_base[0].kind), (1, OperationKind::Read));
        // From then on it is written in place, until a snapshot sees it there.
        write(&volume, 0, b'2').await.unwrap();
        assert_eq!(base(&rig), "2bcdefgh");
        volume.create_snapshot("T2").await.unwrap();
        write(&volume, 0, b'3').await.unwrap();
        assert_eq!(base(&rig), "2bcdefgh");
        // What a newer snapshot sees may go home: it sees the same there.
        assert_eq!(byte(&volume, 3).await.unwrap(), b'z');
        wait(&volume).await;
        assert_eq!((base(&rig).as_str(), bitmap(&volume).await.as_str()), ("2bczefgh", "10000000"));
        write(&volume, 3, b'y').await.unwrap();
        for cut in [false, true] {
            let volume = match cut {
                true => {
                    rig.disk.cut_power();
                    open_again(&rig).await
                }
                false => volume.clone(),
            };
            assert_eq!(shown(&volume, "T2").await.unwrap(), "2bczefgh", "cut: {cut}");
            assert_eq!(image(&volume).await, "3bcyefgh", "cut: {cut}");
        }
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
    });
}

/// Opened where an earlier opener has not let go yet.
async fn open_again(rig: &Rig) -> Volume {
    let twin = rig.disk.after_cut(&rig.calendar, |_, _| true);
    let device = twin.open(rig.runtime.context()).unwrap();
    Volume::open(device, icecore::volume::OpenMode::ReadWrite).await.unwrap()
}

#[test]
fn without_the_policy_nothing_moves() {
    let rig = rig(2);
    rig.runtime.block_on(async {
        let volume = v_2_alone(&rig, false).await;
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        assert_eq!((bitmap(&volume).await.as_str(), base(&rig).as_str()), ("10010000", T0));
    });
}

#[test]
fn a_move_that_fails_fails_no_read_and_moves_nothing() {
    let rig = rig(3);
    rig.runtime.block_on(async {
        let volume = v_2_alone(&rig, true).await;
        let (start, end) = (base_at(&rig), base_at(&rig) + 2 * MIB);
        let is_base = move |offset| (start..end).contains(&offset);
        rig.disk.set_plan(Box::new(move |request, _| {
            let is_write = matches!(request.kind, OperationKind::Write { .. });
            (is_write && is_base(request.offset)).then_some(Fault::Fail(libc_eio()))
        }));
        for _ in 0..3 {
            assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
            wait(&volume).await;
            assert_eq!((bitmap(&volume).await.as_str(), image(&volume).await.as_str()), ("10010000", T1));
        }
        assert!(!volume.status().poisoned);
        // A read of the log that fails is told to who reads it, and moves nothing either.
        rig.disk.set_plan(Box::new(move |request, _| {
            let is_read = request.kind == OperationKind::Read;
            (is_read && !is_base(request.offset)).then_some(Fault::Fail(libc_eio()))
        }));
        byte(&volume, 0).await.unwrap_err();
        wait(&volume).await;
        // The control: it was the disk.
        rig.disk.set_plan(Box::new(|_, _| None));
        assert_eq!(bitmap(&volume).await, "10010000");
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        assert_eq!((bitmap(&volume).await.as_str(), base(&rig).as_str()), ("00010000", "1bcdefgh"));
        // A flush that fails leaves in doubt what the base has: nothing is given up, and no more is written.
        rig.disk.set_plan(Box::new(move |request, _| {
            (request.kind == OperationKind::Flush).then_some(Fault::Fail(libc_eio()))
        }));
        assert_eq!(byte(&volume, 3).await.unwrap(), b'z');
        wait(&volume).await;
        assert_eq!(*write(&volume, 0, b'!').await.unwrap_err().reason(), Reason::Poisoned);
        assert_eq!(bitmap(&volume).await, "00010000");
        drop(volume);
        rig.disk.set_plan(Box::new(|_, _| None));
        rig.disk.cut_power();
        let volume = open(&rig, true).await;
        assert_eq!((bitmap(&volume).await.as_str(), image(&volume).await.as_str()), ("00010000", T1));
    });
}

fn libc_eio() -> i32 {
    5
}

/// Cuts at every request from the reads on, until what has come home has been overwritten there. The images that were not
/// what they should be, and the cuts.
fn cuts() -> (Vec<String>, u64) {
    let mut wrong = Vec::new();
    let cuts = cut_at_each_request(|cut_at| {
        let rig = rig(4);
        rig.runtime.block_on(async {
            let volume = v_2_alone(&rig, true).await;
            let done = Cell::new(0);
            let work = async {
                for region in [0, 3] {
                    byte(&volume, region).await.unwrap();
                }
                wait(&volume).await;
                done.set(1);
                write(&volume, 0, b'Q').await.unwrap();
                done.set(2);
                volume.create_snapshot("T2").await.unwrap();
                write(&volume, 3, b'R').await.unwrap();
                done.set(3);
            };
            let ended = rig.run_until(cut_at, work).await;
            drop(volume);
            rig.disk.cut_power();
            is_sound(&rig).await;
            let volume = open(&rig, true).await;
            let found = image(&volume).await;
            let (now, next) = ([T1, T1, "Qbczefgh", "QbcRefgh"], [T1, "Qbczefgh", "QbcRefgh", "QbcRefgh"]);
            if ![now[done.get()], next[done.get()]].contains(&found.as_str()) {
                wrong.push(format!("cut at request {cut_at}, after {}: {found}", done.get()));
            }
            if volume.snapshot("T2").is_ok() && shown(&volume, "T2").await.unwrap() != "Qbczefgh" {
                wrong.push(format!("cut at request {cut_at}: T2 is not what it was"));
            }
            // It is moved again, and nothing changes.
            let mut bytes = [0; 8 * BLOCK as usize];
            volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
            wait(&volume).await;
            if image(&volume).await != found {
                wrong.push(format!("cut at request {cut_at}: it changes when it is read"));
            }
            ended
        })
    });
    (wrong, cuts)
}

#[test]
fn a_cut_at_each_request_of_a_move_changes_no_image() {
    let (wrong, cuts) = cuts();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(cuts > 10, "{cuts}");
}

/// The control of the cuts: that the base has it is said before it is written there.
#[cfg(feature = "mutations")]
#[test]
fn an_index_that_runs_ahead_of_the_base_is_found_out() {
    use icecore::mutation::{Mutation, switch};
    switch(Some(Mutation::MoveHomeClearsFirst));
    let (wrong, _) = cuts();
    switch(None);
    assert!(!wrong.is_empty());
}

#[test]
fn many_reads_pay_for_few_flushes_and_none_waits_for_one() {
    const BLOCKS: u64 = 256;
    let rig = rig(5);
    rig.runtime.block_on(async {
        let volume = open(&rig, true).await;
        volume.create_snapshot("T0").await.unwrap();
        for at in 0..BLOCKS {
            let letter = [at as u8; BLOCK as usize];
            volume.write_bytes(ByteOffset(at * BLOCK), &letter, Durability::OnFlush).await.unwrap();
        }
        volume.flush().await.unwrap();
        volume.delete_snapshot("T0").await.unwrap();
        wait(&volume).await;
        rig.disk.start_recording();
        let mut flushed_within_reads = 0;
        for at in 0..BLOCKS {
            assert_eq!(byte(&volume, at).await.unwrap(), at as u8);
            flushed_within_reads = flushes(&rig);
        }
        wait(&volume).await;
        let status = volume.status().log.unwrap();
        assert_eq!(status.moved_home_blocks, BLOCKS);
        assert!(flushes(&rig) < 64, "{} flushes, {flushed_within_reads} while it was read", flushes(&rig));
        let homes = rig.disk.recorded().into_iter().filter(|one| {
            let is_write = one.event == Event::Arrived && matches!(one.kind, OperationKind::Write { .. });
            is_write && (base_at(&rig)..base_at(&rig) + BLOCKS * BLOCK).contains(&one.offset)
        });
        assert_eq!(homes.map(|one| one.length).sum::<u64>(), BLOCKS * BLOCK, "each of them once");
        assert_eq!(status.live_blocks, 0);
        println!(
            "{} flushes for {BLOCKS} blocks, {flushed_within_reads} while they were read",
            flushes(&rig)
        );
        for at in 0..BLOCKS {
            assert_eq!(rig.disk.peek(base_at(&rig) + at * BLOCK, 1), [at as u8]);
        }
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
    });
}

fn flushes(rig: &Rig) -> usize {
    let is_it = |one: &icecore::device::simulated::Recorded| {
        one.event == Event::Arrived && one.kind == OperationKind::Flush
    };
    rig.disk.recorded().iter().filter(|one| is_it(one)).count()
}

/// A fold of the same blocks, and a return to a snapshot, wait for their turn.
#[test]
fn folds_and_returns_come_between_moves() {
    let rig = rig(6);
    rig.runtime.block_on(async {
        let volume = v_2_alone(&rig, true).await;
        byte(&volume, 0).await.unwrap();
        volume.fold(None).await.unwrap();
        assert_eq!((base(&rig).as_str(), image(&volume).await.as_str()), (T1, T1));
        let t3 = volume.create_snapshot("T3").await.unwrap().sequence;
        write(&volume, 1, b'!').await.unwrap();
        volume.create_snapshot("T4").await.unwrap();
        write(&volume, 2, b'?').await.unwrap();
        for region in 0..8 {
            byte(&volume, region).await.unwrap();
        }
        volume.rollback(Seq(t3.0)).await.unwrap();
        assert_eq!(image(&volume).await, T1);
        wait(&volume).await;
        assert_eq!(
            (image(&volume).await.as_str(), shown(&volume, "T4").await.unwrap().as_str()),
            (T1, "1!czefgh")
        );
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
        assert_eq!(image(&open(&rig, true).await).await, T1);
    });
}

/// A version that lives again after a return has discarded versions behind it, and a snapshot may still see these.
#[test]
fn what_lives_again_stays_where_it_is() {
    let rig = rig(7);
    rig.runtime.block_on(async {
        let volume = v_2(&rig, true).await;
        let t3 = volume.create_snapshot("T3").await.unwrap().sequence;
        write(&volume, 0, b'd').await.unwrap();
        volume.create_snapshot("T4").await.unwrap();
        volume.rollback(t3).await.unwrap();
        volume.delete_snapshot("T0").await.unwrap();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        wait(&volume).await;
        assert_eq!((bitmap(&volume).await.as_str(), base(&rig).as_str()), ("10010000", T0));
        assert_eq!(shown(&volume, "T4").await.unwrap(), "dbczefgh");
        assert_eq!(shown(&volume, "T3").await.unwrap(), T1);
        // The control: without the snapshots, what is written from now on goes home again.
        for name in ["T3", "T4"] {
            volume.delete_snapshot(name).await.unwrap();
        }
        write(&volume, 0, b'n').await.unwrap();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'n');
        wait(&volume).await;
        assert_eq!(base(&rig), "nbcdefgh");
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
        assert_eq!(image(&open(&rig, true).await).await, "nbczefgh");
    });
}

/// A fold does not bring back what was zero before it was written and moved.
#[test]
fn a_fold_leaves_what_is_home_already() {
    let rig = rig(8);
    rig.runtime.block_on(async {
        let volume = v_2(&rig, true).await;
        volume.discard(ByteOffset(0), BLOCK).await.unwrap();
        volume.create_snapshot("T2").await.unwrap();
        write(&volume, 0, b'n').await.unwrap();
        for name in ["T0", "T2"] {
            volume.delete_snapshot(name).await.unwrap();
        }
        assert_eq!(byte(&volume, 0).await.unwrap(), b'n');
        wait(&volume).await;
        assert_eq!(base(&rig), "nbcdefgh");
        volume.fold(None).await.unwrap();
        assert_eq!((base(&rig).as_str(), image(&volume).await.as_str()), ("nbczefgh", "nbczefgh"));
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
    });
}
