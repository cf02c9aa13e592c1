//! Going back to an earlier moment, on the vectors of V-LOG: what is discarded is gone from the current image
//! and stays open as the past, over crashes; its space comes free; a pinned base never learns of it.

use icecore::error::Reason;
use icecore::store::Backend;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, Volume};

use crate::vlog::{
    self, BASE, BLOCK, MANUAL, MIB, PREFIXES, Rig, current, cut_at_each_request, is_sound, letters, linear,
    small, write, write_base,
};

async fn write_all(volume: &Volume) {
    vlog::write_all(volume, Durability::Durable).await;
}

/// The image of a moment.
async fn past(volume: &Volume, sequence: u64) -> String {
    vlog::image_at(volume, Seq(sequence)).await.unwrap()
}

/// A log that keeps its past.
fn log(retention_bytes: u64) -> CreateOptions {
    CreateOptions { size_bytes: Some(MIB), retention_bytes, ..small(Backend::Log) }
}

#[test]
fn the_image_goes_back_and_every_moment_keeps_its_own() {
    for closed in [true, false] {
        let rig = Rig::new(1, 16 * MIB, log(4 * MIB));
        rig.runtime.block_on(async {
            let mut volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            write_all(&volume).await;
            // W1 to W6 are the sequences 9 to 14.
            assert_eq!(volume.rollback(Seq(11)).await.unwrap(), Seq(15));
            assert_eq!(current(&volume).await, PREFIXES[3]);
            write(&volume, 4, b'Q').await.unwrap();
            write(&volume, 3, b'R').await.unwrap();
            for round in 0..3 {
                assert_eq!(current(&volume).await, "1bcRQfgh", "round {round}");
                for (writes, expected) in (0..).zip(PREFIXES) {
                    assert_eq!(past(&volume, 8 + writes).await, expected, "round {round}");
                }
                assert_eq!(past(&volume, 15).await, PREFIXES[3]);
                assert_eq!(past(&volume, 16).await, "1bczQfgh");
                let births = |versions: Vec<icecore::store::log::VersionInfo>| {
                    versions.iter().map(|version| version.sequence.0).collect::<Vec<_>>()
                };
                let of_region_3 = births(volume.versions(ByteOffset(3 * BLOCK)).await.unwrap());
                assert_eq!(of_region_3, [0, 4, 10, 13, 17]);
                if closed {
                    volume.close().await.unwrap();
                }
                drop(volume);
                rig.disk.cut_power();
                is_sound(&rig).await;
                volume = rig.open(MANUAL).await;
            }
            // What was discarded is no place to go back to; what lies before it still is, and the return itself.
            let refused = volume.rollback(Seq(12)).await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::Discarded { moment: 12, discarded_at: 15 });
            assert!(matches!(
                volume.rollback(Seq(18)).await.unwrap_err().reason(),
                Reason::UnknownMoment { moment: 18, last: 17 }
            ));
            assert_eq!(current(&volume).await, "1bcRQfgh");
            volume.rollback(Seq(15)).await.unwrap();
            assert_eq!(current(&volume).await, PREFIXES[3]);
            volume.rollback(Seq(9)).await.unwrap();
            assert_eq!(current(&volume).await, PREFIXES[1]);
            assert_eq!(past(&volume, 14).await, PREFIXES[6]);
            assert_eq!(past(&volume, 17).await, "1bcRQfgh");
            drop(volume);
            rig.disk.cut_power();
            is_sound(&rig).await;
            let volume = rig.open(MANUAL).await;
            assert_eq!(current(&volume).await, PREFIXES[1]);
            assert_eq!(past(&volume, 17).await, "1bcRQfgh");
        });
    }
}

#[test]
fn without_a_past_there_is_nothing_to_go_back_to() {
    let rig = Rig::new(1, 16 * MIB, log(0));
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        write_all(&volume).await;
        let refused = volume.rollback(Seq(11)).await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::Expired { moment: 11, earliest: 14 });
        volume.rollback(Seq(14)).await.unwrap();
        assert_eq!(current(&volume).await, PREFIXES[6]);
    });
}

#[test]
fn a_cut_while_going_back_gives_the_old_image_or_the_new_one() {
    let mut seen = [0, 0];
    let cuts = cut_at_each_request(|cut_at| {
        let rig = Rig::new(5, 16 * MIB, log(4 * MIB));
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            write_all(&volume).await;
            let going = async {
                volume.rollback(Seq(10)).await.unwrap();
                // And what is done about it in the background.
                volume.flush().await.unwrap();
                volume.context().sleep(3_000_000_000).await;
            };
            let ended = rig.run_until(cut_at, going).await;
            let volume = rig.cut_and_open(volume).await;
            let now = current(&volume).await;
            let which = [PREFIXES[6], PREFIXES[2]].iter().position(|image| *image == now);
            seen[which.unwrap_or_else(|| panic!("cut at {cut_at}: {now}"))] += 1;
            for (writes, expected) in (0..).zip(PREFIXES) {
                assert_eq!(past(&volume, 8 + writes).await, expected, "cut at {cut_at}");
            }
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
            ended
        })
    });
    println!("{cuts} cuts; {seen:?} old and new");
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn what_was_discarded_comes_free_when_the_past_is_given_up() {
    let rig = Rig::new(9, 16 * MIB, log(MIB));
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let live = || volume.status().log.unwrap().live_blocks;
        for round in 0..40_u64 {
            let begun = volume.info().sequence;
            for region in 0..64 {
                let letter = b'A' + ((round + region) % 26) as u8;
                vlog::write_at(&volume, region * BLOCK, letter, Durability::OnFlush).await.unwrap();
            }
            if round % 2 == 1 {
                volume.rollback(begun).await.unwrap();
                let byte = vlog::byte(&volume, 5).await.unwrap();
                assert_eq!(byte, b'A' + ((round - 1 + 5) % 26) as u8, "round {round}");
            }
        }
        // The retention is 256 blocks.
        volume.context().sleep(3_000_000_000).await;
        assert!((64..=64 + 256 + 64).contains(&live()), "{} blocks live", live());
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
    });
}

/// Pins the base, writes, and goes back; some of it has been accepted and applied before.
async fn discard_behind(rig: &Rig, accepted: u64, apply: ApplyOptions, retention: bool) {
    let (volume, home) = rig.with_base(apply).await;
    let base = volume.pin_base().await.unwrap().0;
    write_all(&volume).await;
    assert_eq!(letters(&rig.disk, home), BASE);
    if accepted > 0 {
        volume.accept(Some(Seq(base + accepted))).await.unwrap();
        volume.apply(Some(Seq(base + accepted))).await.unwrap();
    }
    let bytes = rig.disk.peek(home, 8 * BLOCK as usize);
    assert_eq!(letters(&rig.disk, home), PREFIXES[accepted as usize]);
    if accepted > 0 && !retention {
        let refused = volume.rollback(Seq(base + accepted - 1)).await.unwrap_err();
        assert!(
            matches!(refused.reason(), Reason::AppliedAlready { .. } | Reason::Expired { .. }),
            "{refused}"
        );
    }
    volume.rollback(Seq(base + 3)).await.unwrap();
    assert_eq!(current(&volume).await, PREFIXES[3]);
    drop(volume);
    rig.disk.cut_power();
    is_sound(rig).await;
    let volume = rig.open(apply).await;
    assert_eq!(current(&volume).await, PREFIXES[3]);
    assert!(rig.disk.peek(home, 8 * BLOCK as usize) == bytes, "the base is as it was");
    write(&volume, 7, b'S').await.unwrap();
    volume.accept(None).await.unwrap();
    volume.apply(None).await.unwrap();
    assert_eq!(letters(&rig.disk, home), "1bczefgS");
    assert_eq!(current(&volume).await, "1bczefgS");
    volume.close().await.unwrap();
    drop(volume);
    is_sound(rig).await;
}

#[test]
fn a_pinned_base_never_learns_of_what_was_discarded() {
    for retention_bytes in [0, 4 * MIB] {
        for mode in [ApplyMode::Absorb, ApplyMode::Strict] {
            for (accepted, automatic) in [(0, false), (0, true), (1, false), (2, true), (3, false), (3, true)]
            {
                let rig = Rig::new(3, 16 * MIB, CreateOptions { retention_bytes, ..linear(MIB) });
                let apply = ApplyOptions { mode, automatic, at_open: false };
                rig.runtime.block_on(discard_behind(&rig, accepted, apply, retention_bytes > 0));
            }
        }
    }
}

#[test]
fn a_block_that_lives_again_is_brought_home_though_applying_had_passed_it() {
    let rig = Rig::new(3, 16 * MIB, linear(MIB));
    rig.runtime.block_on(async {
        let (volume, home) = rig.with_base(MANUAL).await;
        let base = volume.pin_base().await.unwrap().0;
        write_all(&volume).await;
        volume.accept(Some(Seq(base + 3))).await.unwrap();
        volume.apply(Some(Seq(base + 3))).await.unwrap();
        // Region 3 is z at home, and y is current.
        assert_eq!(letters(&rig.disk, home), PREFIXES[3]);
        volume.rollback(Seq(base + 3)).await.unwrap();
        // Whatever the log holds of it comes free, and the block is found at home.
        volume.accept(None).await.unwrap();
        volume.apply(None).await.unwrap();
        for number in 0..600 {
            vlog::write_at(&volume, (64 + number % 64) * BLOCK, b'w', Durability::OnFlush).await.unwrap();
        }
        volume.apply(None).await.unwrap();
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
        let volume = rig.open(MANUAL).await;
        let log = volume.status().log.unwrap();
        assert_eq!(current(&volume).await, PREFIXES[3]);
        assert_eq!(log.live_blocks, 8 + 64, "nothing but the volume lives");
    });
}

#[test]
fn what_is_discarded_stays_as_a_branch_where_it_is_given_a_name() {
    for backend in [Backend::Log, Backend::Cow, Backend::Overlay] {
        let rig = Rig::new(9, 16 * MIB, CreateOptions { size_bytes: Some(2 * MIB), ..small(backend) });
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            let t0 = volume.create_snapshot("T0").await.unwrap();
            write_all(&volume).await;
            let taken = volume.rollback_keeping(t0.sequence, "T0").await.unwrap_err();
            assert!(matches!(taken.reason(), Reason::SnapshotExists { .. }), "{taken}");
            assert_eq!(current(&volume).await, PREFIXES[6], "what is refused changes nothing");
            volume.rollback_keeping(t0.sequence, "tail").await.unwrap();
            assert_eq!(current(&volume).await, PREFIXES[0]);
            volume.clone_snapshot("tail", "branch").await.unwrap();
            let volume = rig.cut_and_open(volume).await;
            let branch = volume.open_writable("branch").await.unwrap();
            assert_eq!(current(&branch).await, PREFIXES[6]);
            vlog::write(&branch, 7, b'H').await.unwrap();
            vlog::write(&volume, 7, b'v').await.unwrap();
            assert_eq!(current(&branch).await, "1bFyeGgH");
            assert_eq!(current(&volume).await, "abcdefgv");
            assert_eq!(vlog::shown(&volume, "tail").await.unwrap(), PREFIXES[6], "{backend:?}");
        });
    }
}
