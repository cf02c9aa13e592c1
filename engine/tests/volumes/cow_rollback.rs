//! R-06 for `cow`: going back to a snapshot overwrites the base. Cuts at every request, failures and full pools leave the
//! volume as it was or as it is to be, and every snapshot what it was.

use icecore::device::simulated::Fault;
use icecore::error::{Kind, Reason};
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::units::Seq;
use icecore::volume::{BaseImage, CreateOptions, OpenMode, OpenOptions, Volume};

use crate::apart;
use crate::vlog::{
    BLOCK, MANUAL, MIB, PREFIXES, Rig, WRITES, base_at, current, cut_at_each_request, is_sound, shown, small,
    write, write_base,
};

const T0: &str = PREFIXES[0];
const T1: &str = PREFIXES[3];
const T2: &str = PREFIXES[6];
const NOW: &str = "nBFyeGgh";
const SNAPSHOTS: [(&str, &str); 3] = [("T0", T0), ("T1", T1), ("T2", T2)];

fn rig(seed: u64, snapshot_blocks: Option<u64>) -> Rig {
    let snapshot_bytes = snapshot_blocks.map(|blocks| blocks * BLOCK);
    let options = CreateOptions { size_bytes: Some(8 * BLOCK), snapshot_bytes, ..small(Backend::Cow) };
    Rig::new(seed, 8 * MIB, options)
}

/// The worked example with three snapshots, and two writes after them.
async fn written(volume: &Volume) {
    write_base(volume).await;
    for (name, writes) in [("T0", &WRITES[..3]), ("T1", &WRITES[3..]), ("T2", &[(0, b'n'), (1, b'B')])] {
        volume.create_snapshot(name).await.unwrap();
        for (region, letter) in writes {
            write(volume, *region, *letter).await.unwrap();
        }
    }
    assert_eq!(current(volume).await, NOW);
}

fn moment(volume: &Volume, name: &str) -> Seq {
    volume.snapshot(name).unwrap().sequence
}

async fn are_shown(volume: &Volume) {
    for (name, image) in SNAPSHOTS {
        assert_eq!(shown(volume, name).await.unwrap(), image, "{name}");
    }
}

#[test]
fn it_goes_back_and_forth_between_its_snapshots() {
    let rig = rig(1, None);
    rig.runtime.block_on(async {
        let mut volume = rig.open(MANUAL).await;
        written(&volume).await;
        for (name, image) in [SNAPSHOTS[1], SNAPSHOTS[0], SNAPSHOTS[2], SNAPSHOTS[0], SNAPSHOTS[1]] {
            volume.rollback(moment(&volume, name)).await.unwrap();
            assert_eq!(current(&volume).await, image);
            are_shown(&volume).await;
            // What was current without a name is gone.
            volume = rig.cut_and_open(volume).await;
            assert_eq!(current(&volume).await, image);
            are_shown(&volume).await;
            write(&volume, 7, b'w').await.unwrap();
            assert_eq!(current(&volume).await, format!("{}w", &image[..7]));
            are_shown(&volume).await;
        }
        let last = volume.info().sequence;
        let unknown = volume.rollback(Seq(last.0 + 1)).await.unwrap_err();
        assert!(matches!(unknown.reason(), Reason::UnknownMoment { .. }), "{unknown}");
        let gone = moment(&volume, "T2");
        volume.delete_snapshot("T2").await.unwrap();
        volume.context().sleep(1_000_000_000).await;
        let expired = volume.rollback(gone).await.unwrap_err();
        assert!(matches!(expired.reason(), Reason::Expired { .. }), "{expired}");
        assert_eq!(current(&volume).await, format!("{}w", &T1[..7]), "what is refused changes nothing");
    });
}

/// Cuts the power at each request of a return. How often the volume was found as it was, and gone back.
fn cut_everywhere(to: &str, image: &str) -> (u64, u64) {
    let (mut before, mut after) = (0, 0);
    cut_at_each_request(|cut_at| {
        let rig = rig(1000 + cut_at, None);
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            written(&volume).await;
            let returning = async { volume.rollback(moment(&volume, to)).await.unwrap() };
            let ended = rig.run_until(cut_at, returning).await;
            drop(volume);
            rig.disk.cut_power();
            is_sound(&rig).await;
            let reader = Volume::open(rig.device(), OpenMode::ReadOnly).await.unwrap();
            let read = current(&reader).await;
            drop(reader);
            let mut volume = rig.open(MANUAL).await;
            let found = current(&volume).await;
            let is_one = if ended { found == image } else { [NOW, image].contains(&found.as_str()) };
            assert!(is_one && found == read, "cut at {cut_at}: {read}, then {found}");
            are_shown(&volume).await;
            if found == NOW {
                before += 1
            } else {
                after += 1
            }
            // What is left is done by the next write; and by a snapshot of now.
            if cut_at % 2 == 0 {
                write(&volume, 7, b'w').await.unwrap();
            } else {
                volume.create_snapshot("T3").await.unwrap();
                assert_eq!(shown(&volume, "T3").await.unwrap(), found);
                write(&volume, 7, b'w').await.unwrap();
            }
            let found = format!("{}w", &found[..7]);
            for _ in 0..2 {
                assert_eq!(current(&volume).await, found, "cut at {cut_at}: after a write");
                are_shown(&volume).await;
                volume = rig.cut_and_open(volume).await;
            }
            ended
        })
    });
    (before, after)
}

#[test]
fn a_cut_at_any_request_leaves_it_as_it_was_or_gone_back() {
    for (name, image) in SNAPSHOTS {
        let (before, after) = cut_everywhere(name, image);
        println!("{name}: {before} times as it was, {after} times gone back");
        assert!(before > 1 && after > 2);
    }
}

/// The control: where it is said to be done before it is, a cut leaves half of it.
#[cfg(feature = "mutations")]
#[test]
fn the_planted_fault_of_a_return_is_found() {
    use icecore::mutation::{Mutation, switch};
    switch(Some(Mutation::RestoredBeforeBase));
    let sound = std::panic::catch_unwind(|| cut_everywhere("T0", T0));
    switch(None);
    assert!(sound.is_err(), "{sound:?}");
}

#[test]
fn while_it_lasts_its_snapshot_stays_and_the_next_write_ends_it() {
    let rig = rig(2, None);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        written(&volume).await;
        // The base takes nothing.
        let base = base_at(&rig);
        rig.disk.set_plan(Box::new(move |request, _| {
            let of_base = (base..base + 8 * BLOCK).contains(&request.offset);
            let is_copy = matches!(request.kind, OperationKind::Write { .. }) && of_base;
            is_copy.then_some(Fault::Fail(5))
        }));
        let failed = volume.rollback(moment(&volume, "T0")).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::DeviceFailed, "{failed}");
        rig.disk.set_plan(Box::new(|_, _| None));
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
        let volume = rig.open(MANUAL).await;
        assert_eq!(current(&volume).await, T0);
        let image = volume.image(Default::default()).await.unwrap();
        assert_eq!(image.sequence(), volume.info().sequence);
        drop(image);
        volume.delete_snapshot("T0").await.unwrap();
        assert_eq!(current(&volume).await, T0);
        let volume = rig.cut_and_open(volume).await;
        assert_eq!(current(&volume).await, T0);
        assert_eq!(shown(&volume, "T1").await.unwrap(), T1);
        assert_eq!(shown(&volume, "T2").await.unwrap(), T2);
    });
}

#[test]
fn without_room_it_shows_what_it_goes_back_to_and_ends_when_there_is_some() {
    // W1 to W6 and the two writes take seven blocks; to go back to T0 takes what T2 sees of the base, three more.
    let rig = rig(3, Some(8));
    rig.runtime.block_on(async {
        let mut volume = rig.open_with(OpenOptions::default()).await;
        written(&volume).await;
        let full = volume.rollback(moment(&volume, "T0")).await.unwrap_err();
        assert_eq!(*full.reason(), Reason::SnapshotSpaceFull { limit_bytes: 8 * BLOCK });
        for _ in 0..2 {
            assert_eq!(current(&volume).await, T0);
            are_shown(&volume).await;
            let full = write(&volume, 7, b'w').await.unwrap_err();
            assert_eq!(full.kind(), Kind::NoSpace);
            drop(volume);
            rig.disk.cut_power();
            volume = rig.open_with(OpenOptions::default()).await;
        }
        volume.delete_snapshot("T2").await.unwrap();
        write(&volume, 7, b'w').await.unwrap();
        assert_eq!(current(&volume).await, format!("{}w", &T0[..7]));
        assert_eq!(shown(&volume, "T1").await.unwrap(), T1);
    });
}

#[test]
fn a_base_apart_is_not_taken_for_the_current_image_while_it_is_none() {
    let (mut refused, mut shown) = (0, 0);
    cut_at_each_request(|cut_at| {
        let rig = apart::Rig::new(50 + 2 * cut_at, Backend::Cow);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            written(&volume).await;
            let returning = async { volume.rollback(moment(&volume, "T0")).await.unwrap() };
            let ended = rig.run_until(cut_at, returning).await;
            drop(volume);
            rig.cut_power();
            let alone = BaseImage::Current(OpenMode::ReadOnly);
            match Volume::open_base(&rig.device(&rig.volume), alone).await {
                Ok(volume) => {
                    let found = current(&volume).await;
                    assert!([NOW, T0].contains(&found.as_str()), "{found}");
                    shown += 1;
                }
                Err(error) => {
                    assert!(matches!(error.reason(), Reason::BaseMixed { .. }), "{error}");
                    refused += 1;
                }
            }
            let volume = rig.open().await;
            assert!([NOW, T0].contains(&current(&volume).await.as_str()));
            write(&volume, 0, b'a').await.unwrap();
            drop(volume);
            rig.cut_power();
            let volume = Volume::open_base(&rig.device(&rig.volume), alone).await.unwrap();
            assert!(current(&volume).await.starts_with('a'), "with its log it was one image again");
            ended
        })
    });
    println!("{refused} times refused, {shown} times shown");
    assert!(refused > 2 && shown > 1);
}
