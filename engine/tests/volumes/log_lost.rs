//! R-29 on two devices, that of the log being lost: of copy-on-write the current volume is whole and its snapshots are
//! broken; of overlays the base is never shown as current, and as the oldest image only while it is one.
//!
//! What is on the disks is read from them, whatever the engine says.

use std::cell::Cell;

use crate::apart::{Rig, options, v_3a};
use icecore::device::simulated::SimulatedDisk;
use icecore::error::{Error, Kind, Reason};
use icecore::format::superblock::{
    COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock, VOLUME_BASE_MIXED, VOLUME_LOG_LOST,
};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::Seq;
use icecore::volume::{BaseImage, CreateOptions, Initialise, OpenMode, Volume};

use crate::vlog::{MIB, PREFIXES, current, cut_at_each_request, shown, write};

const T0: &str = PREFIXES[0];
const T1: &str = PREFIXES[3];
const T2: &str = PREFIXES[6];
const NOW: BaseImage = BaseImage::Current(OpenMode::ReadOnly);
const GIVING_UP: BaseImage = BaseImage::Current(OpenMode::ReadWriteAcceptingLoss);

async fn alone(rig: &Rig, image: BaseImage) -> Result<Volume, Error> {
    Volume::open_base(&rig.device(&rig.volume), image).await
}

/// The superblock that counts, and a way to write it with other flags.
fn superblock(disk: &SimulatedDisk) -> Superblock {
    let copies = COPY_OFFSETS.map(|at| {
        let bytes: [u8; SUPERBLOCK_BYTES] = disk.peek(at, SUPERBLOCK_BYTES).try_into().unwrap();
        match Superblock::decode(&bytes, at) {
            Decoded::Valid(found) => Some(found),
            _ => None,
        }
    });
    copies.into_iter().flatten().max_by_key(|copy| copy.generation.get()).expect("one copy is whole")
}

/// Takes a flag from both copies.
fn unflag(disk: &SimulatedDisk, flag: u32) {
    let mut record = superblock(disk);
    assert_ne!(record.volume_flags.get() & flag, 0, "it is there");
    record.volume_flags ^= flag;
    COPY_OFFSETS.iter().for_each(|at| disk.poke(*at, &record.encode(*at)));
}

#[test]
fn copy_on_write_goes_on_without_its_log_and_its_snapshots_are_broken() {
    let rig = Rig::new(1, Backend::Cow);
    rig.runtime.block_on(async {
        let volume = v_3a(&rig).await;
        let t0 = volume.snapshot("T0").unwrap().sequence;
        drop(volume);
        rig.cut_power();
        let before = rig.volume.hash();
        {
            let volume = alone(&rig, NOW).await.unwrap();
            assert_eq!(current(&volume).await, T2, "the base needs no log");
            for moment in [t0, Seq(0)] {
                let options = ImageOptions { sequence: Some(moment), ..ImageOptions::default() };
                let refused = volume.image(options).await.unwrap_err();
                assert_eq!(*refused.reason(), Reason::SnapshotBroken { moment: moment.0 });
            }
            let refused = volume.snapshot("T0").unwrap_err();
            assert!(matches!(refused.reason(), Reason::DeviceMissing { role: "log", .. }), "{refused}");
            let refused = write(&volume, 0, b'!').await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::ReadOnly);
            volume.close().await.unwrap();
        }
        let refused = alone(&rig, BaseImage::Oldest).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::SnapshotBroken { .. }), "{refused}");
        let refused = alone(&rig, BaseImage::Current(OpenMode::ReadWrite)).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::DeviceMissing { role: "log", .. }), "{refused}");
        assert_eq!(rig.volume.hash(), before, "looking, and what is refused, writes nothing");
        // The control: so far nothing is given up.
        assert_eq!(shown(&rig.open().await, "T0").await.unwrap(), T0);
        rig.cut_power();
        let volume = alone(&rig, GIVING_UP).await.unwrap();
        write(&volume, 7, b'H').await.unwrap();
        let refused = volume.create_snapshot("S").await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::DeviceMissing { role: "log", .. }), "{refused}");
        assert_eq!(rig.letters(), "1bFyeGgH");
        drop(volume);
        rig.cut_power();
        // The log comes back, and knows nothing of what has been overwritten.
        let hashes = || (rig.volume.hash(), rig.log.hash());
        let before = hashes();
        for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly, OpenMode::ReadWriteAcceptingLoss] {
            let refused = Volume::open(rig.devices(), mode).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "volume", .. }), "{refused}");
            assert!(refused.to_string().contains("written without its log"), "{refused}");
        }
        assert_eq!(hashes(), before);
        let volume = alone(&rig, BaseImage::Current(OpenMode::ReadWrite)).await.unwrap();
        assert_eq!(current(&volume).await, "1bFyeGgH");
        write(&volume, 6, b'!').await.unwrap();
        volume.close().await.unwrap();
        assert!(volume.info().closed);
        drop(volume);
        // Beside a new log it is a volume with snapshots again.
        rig.log.poke(0, &vec![0; 6 * MIB as usize]);
        let keep = CreateOptions { initialise: Initialise::Keep, ..options(Backend::Cow) };
        Volume::create_on(&rig.devices(), keep).await.unwrap();
        let volume = rig.open().await;
        volume.create_snapshot("S").await.unwrap();
        write(&volume, 6, b'g').await.unwrap();
        assert_eq!(
            (current(&volume).await.as_str(), shown(&volume, "S").await.unwrap().as_str()),
            ("1bFyeGgH", "1bFyeG!H")
        );
    });
}

#[test]
fn no_snapshot_of_a_log_that_comes_back_is_shown_wrong_wherever_the_first_write_is_cut() {
    let (mut together, mut apart) = (0, 0);
    cut_at_each_request(|cut_at| {
        let rig = Rig::new(2, Backend::Cow);
        let ended = rig.runtime.block_on(async {
            drop(v_3a(&rig).await);
            rig.cut_power();
            let work = async {
                let volume = alone(&rig, GIVING_UP).await.unwrap();
                for region in [1, 4, 6] {
                    write(&volume, region, b'!').await.unwrap();
                }
                volume.close().await.unwrap();
            };
            let ended = rig.run_until(cut_at, work).await;
            rig.cut_power();
            match Volume::open(rig.devices(), OpenMode::ReadWrite).await {
                Ok(volume) => {
                    together += 1;
                    assert_eq!(current(&volume).await, T2, "{cut_at}");
                    assert_eq!(shown(&volume, "T0").await.unwrap(), T0, "{cut_at}");
                    assert_eq!(shown(&volume, "T1").await.unwrap(), T1, "{cut_at}");
                }
                Err(refused) => {
                    apart += 1;
                    assert!(refused.to_string().contains("written without its log"), "{cut_at}: {refused}");
                    drop(alone(&rig, BaseImage::Current(OpenMode::ReadWrite)).await.unwrap());
                }
            }
            ended
        });
        if ended {
            // The control: this is what is refused.
            unflag(&rig.volume, VOLUME_LOG_LOST);
            rig.runtime.block_on(async {
                rig.cut_power();
                assert_eq!(shown(&rig.open().await, "T0").await.unwrap(), "a!cd!f!h");
            });
        }
        ended
    });
    println!("{together} times with its log, {apart} times without");
    assert!(together > 1 && apart > 3);
}

#[test]
fn the_base_of_overlays_is_never_shown_as_current() {
    let rig = Rig::new(3, Backend::Overlay);
    rig.runtime.block_on(async {
        drop(v_3a(&rig).await);
        rig.cut_power();
        let before = rig.volume.hash();
        for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite, OpenMode::ReadWriteAcceptingLoss] {
            let refused = alone(&rig, BaseImage::Current(mode)).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::CurrentLost { .. }), "{refused}");
            assert_eq!(refused.kind(), Kind::Unavailable);
            let devices = rig.device(&rig.volume);
            assert!(Volume::open(devices, mode).await.is_err(), "nor by the way that others are opened");
        }
        {
            let volume = alone(&rig, BaseImage::Oldest).await.unwrap();
            assert_eq!(current(&volume).await, T0);
            assert_eq!(*write(&volume, 0, b'!').await.unwrap_err().reason(), Reason::ReadOnly);
            let refused = volume.image(ImageOptions::default()).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::DeviceMissing { role: "log", .. }), "{refused}");
        }
        assert_eq!(rig.volume.hash(), before);
        // The control: with its log it is what it was.
        let volume = rig.open().await;
        assert_eq!((current(&volume).await.as_str(), shown(&volume, "T1").await.unwrap().as_str()), (T2, T1));
        // With T0 given up, the base is still where the oldest overlay began.
        volume.delete_snapshot("T0").await.unwrap();
        volume.fold(Some("T1")).await.unwrap();
        drop(volume);
        rig.cut_power();
        assert_eq!(current(&alone(&rig, BaseImage::Oldest).await.unwrap()).await, T1);
    });
    // The log's own device, and a volume that lies on one, are no bases.
    rig.runtime.block_on(async {
        let refused = Volume::open_base(&rig.device(&rig.log), BaseImage::Oldest).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "volume", .. }), "{refused}");
        let whole = CreateOptions { size_bytes: Some(MIB), ..options(Backend::Cow) };
        rig.log.poke(0, &vec![0; 6 * MIB as usize]);
        Volume::create(&rig.device(&rig.log), whole).await.unwrap();
        let refused = Volume::open_base(&rig.device(&rig.log), NOW).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::InvalidSetting { .. }), "{refused}");
    });
}

/// What is written in place while overlays hold other blocks makes the base no image of any moment.
#[test]
fn a_base_that_is_no_one_image_says_so_before_it_is_none() {
    let rig = Rig::new(4, Backend::Overlay);
    rig.runtime.block_on(async {
        let volume = v_3a(&rig).await;
        for name in ["T0", "T1"] {
            volume.delete_snapshot(name).await.unwrap();
        }
        write(&volume, 7, b'H').await.unwrap();
        drop(volume);
        rig.cut_power();
        assert_eq!(rig.letters(), "abcdefgH", "this was never the volume");
        let refused = alone(&rig, BaseImage::Oldest).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::BaseMixed { .. }), "{refused}");
        let bytes = COPY_OFFSETS.map(|at| (at, rig.volume.peek(at, SUPERBLOCK_BYTES)));
        // The control: nothing but its own word keeps it from being shown.
        unflag(&rig.volume, VOLUME_BASE_MIXED);
        assert_eq!(current(&alone(&rig, BaseImage::Oldest).await.unwrap()).await, "abcdefgH");
        bytes.iter().for_each(|(at, bytes)| rig.volume.poke(*at, bytes));
        // A fold makes it one image again, and a snapshot above it keeps it so.
        let volume = rig.open().await;
        volume.fold(None).await.unwrap();
        volume.create_snapshot("T3").await.unwrap();
        write(&volume, 0, b'!').await.unwrap();
        drop(volume);
        rig.cut_power();
        assert_eq!(current(&alone(&rig, BaseImage::Oldest).await.unwrap()).await, "1bFyeGgH");
    });
}

#[test]
fn wherever_it_is_cut_the_base_alone_shows_an_image_that_was_or_none() {
    let (mut images, mut refused) = (0, 0);
    cut_at_each_request(|cut_at| {
        let rig = Rig::new(5, Backend::Overlay);
        rig.runtime.block_on(async {
            let volume = v_3a(&rig).await;
            let done = Cell::new(0);
            let work = async {
                let step = |number| done.set(number);
                volume.delete_snapshot("T0").await.unwrap();
                volume.fold(Some("T1")).await.unwrap();
                step(1);
                volume.delete_snapshot("T1").await.unwrap();
                write(&volume, 7, b'H').await.unwrap();
                step(2);
                volume.fold(None).await.unwrap();
                volume.create_snapshot("T3").await.unwrap();
                step(3);
                write(&volume, 1, b'B').await.unwrap();
                volume.delete_snapshot("T3").await.unwrap();
                step(4);
                write(&volume, 6, b'!').await.unwrap();
                step(5);
            };
            let ended = rig.run_until(cut_at, work).await;
            drop(volume);
            rig.cut_power();
            match alone(&rig, BaseImage::Oldest).await {
                Ok(volume) => {
                    images += 1;
                    let found = current(&volume).await;
                    let legal: &[&str] = match done.get() {
                        0 => &[T0, T1],
                        1 => &[T1],
                        2..=4 => &["1bFyeGgH"],
                        _ => &[],
                    };
                    assert!(legal.contains(&found.as_str()), "cut at {cut_at}: {found} after {}", done.get());
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error.reason(), Reason::BaseMixed { .. }), "cut at {cut_at}: {error}");
                    assert_ne!(done.get(), 3, "a snapshot above a base that is one image: cut at {cut_at}");
                }
            }
            // With its log it is whole, wherever it was cut.
            let volume = rig.open().await;
            let found = current(&volume).await;
            let after: &[&str] = match done.get() {
                0 => &[T2],
                1 => &[T2, "1bFyeGgH"],
                2 => &["1bFyeGgH"],
                3 => &["1bFyeGgH", "1BFyeGgH"],
                4 => &["1BFyeGgH", "1BFyeG!H"],
                _ => &["1BFyeG!H"],
            };
            // In place, a write of a block is as atomic as the disk makes it.
            assert!(after.contains(&found.as_str()), "cut at {cut_at}: {found}");
            ended
        })
    });
    println!("{images} images, {refused} refusals");
    assert!(images > 10 && refused > 10);
}
