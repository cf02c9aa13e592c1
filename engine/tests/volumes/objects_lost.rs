//! R-29 on devices of their own, that of linear objects being lost: of overlays, what lies there is refused block by block and
//! everything else is right, in the current image and in every older one; of copy-on-write the current image is whole and its
//! snapshots are broken; with a log in front of it, they show what the base and the log hold of them.

use icecore::error::{Error, Kind, Reason};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{BaseImage, Devices, OpenMode, OpenOptions, Volume};

use crate::apart::{Rig, id_of, v_3a, write_some};
use crate::vlog::{BLOCK, MIB, PREFIXES, current, shown, write, write_base};

const T0: &str = PREFIXES[0];
const T1: &str = PREFIXES[3];
const T2: &str = PREFIXES[6];

fn without_objects() -> OpenOptions {
    OpenOptions { without_objects: true, ..OpenOptions::default() }
}

/// V-3A; then the power goes. The identity of the objects' device.
async fn v_3a_and_cut(rig: &Rig) -> String {
    let volume = v_3a(rig).await;
    let id = id_of(&volume, "objects");
    drop(volume);
    rig.cut_power();
    id
}

/// The volume without the device of its objects.
async fn without(rig: &Rig, mode: OpenMode) -> Result<Volume, Error> {
    let devices = Devices { objects: None, ..rig.devices() };
    Volume::open_with(devices, mode, without_objects()).await
}

/// A letter, or `X` for a block that is refused as lost, at its place, with the device and the remedy.
fn letter_of(read: Result<u8, Error>, region: u64, id: &str) -> char {
    match read {
        Ok(letter) => char::from(letter),
        Err(error) => {
            assert_eq!(*error.reason(), Reason::ObjectLost { id: id.to_string() });
            assert_eq!((error.kind(), error.place().offset), (Kind::Unavailable, Some(region * BLOCK)));
            assert!(error.to_string().contains("open it with that device"), "{error}");
            'X'
        }
    }
}

/// The current image, region by region.
async fn now(volume: &Volume, id: &str) -> String {
    let mut found = String::new();
    for region in 0..8 {
        let mut bytes = [0; BLOCK as usize];
        let read = volume.read_bytes(ByteOffset(region * BLOCK), &mut bytes).await;
        found.push(letter_of(read.map(|()| bytes[BLOCK as usize - 1]), region, id));
    }
    found
}

/// That of a snapshot.
async fn at(volume: &Volume, name: &str, id: &str) -> String {
    let image = volume.image_of(name).await.unwrap();
    let mut found = String::new();
    for region in 0..8 {
        let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
        let (read, buf) = image.read(ByteOffset(region * BLOCK), buf).await;
        found.push(letter_of(read.map(|()| buf[0]), region, id));
    }
    found
}

/// V-2 and V-3A: what is seen of the current image, T0 and T1.
async fn seen(rig: &Rig, id: &str) -> [String; 3] {
    let volume = without(rig, OpenMode::ReadOnly).await.unwrap();
    [now(&volume, id).await, at(&volume, "T0", id).await, at(&volume, "T1", id).await]
}

#[test]
fn what_overlays_hold_is_refused_and_everything_else_is_right() {
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(1, Backend::Overlay, base_in_pool);
        rig.runtime.block_on(async {
            let id = v_3a_and_cut(&rig).await;
            let hashes = || rig.disks().map(|disk| disk.hash()).collect::<Vec<_>>();
            let before = hashes();
            assert_eq!(seen(&rig, &id).await, ["XbXXeXgh", T0, "XbcXefgh"]);
            {
                let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
                // Several at a time: refused where one of them is, at the first of these.
                let mut bytes = vec![0; 3 * BLOCK as usize];
                let refused = volume.read_bytes(ByteOffset(BLOCK), &mut bytes).await.unwrap_err();
                assert_eq!(refused.place().offset, Some(2 * BLOCK));
                let refused = write(&volume, 1, b'!').await.unwrap_err();
                assert_eq!(*refused.reason(), Reason::ReadOnly);
                assert!(volume.create_snapshot("T2").await.is_err());
                let names: Vec<_> =
                    volume.snapshots().iter().map(|one| (one.name.clone(), one.broken)).collect();
                assert_eq!(names, [("T0".to_string(), false), ("T1".to_string(), false)]);
            }
            for mode in [OpenMode::ReadWrite, OpenMode::ReadWriteAcceptingLoss] {
                let refused = without(&rig, mode).await.unwrap_err();
                assert_eq!(*refused.reason(), Reason::DeviceMissing { role: "objects", id: id.clone() });
            }
            // Never by itself, nor with the device.
            let devices = Devices { objects: None, ..rig.devices() };
            let refused = Volume::open(devices, OpenMode::ReadOnly).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::DeviceMissing { role: "objects", .. }), "{refused}");
            let refused =
                Volume::open_with(rig.devices(), OpenMode::ReadOnly, without_objects()).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::InvalidSetting { .. }), "{refused}");
            assert_eq!(hashes(), before, "looking, and what is refused, writes nothing");
            // The control: with its device it is what it was.
            let volume = rig.open().await;
            assert_eq!(current(&volume).await, T2);
            assert_eq!(
                (shown(&volume, "T0").await.unwrap(), shown(&volume, "T1").await.unwrap()),
                (T0.into(), T1.into())
            );
        });
    }
}

/// With the first overlay in the base, what is lost is the second one alone: the letters of R-29.
#[test]
fn what_was_folded_before_is_not_lost() {
    let rig = Rig::with_objects(2, Backend::Overlay, false);
    rig.runtime.block_on(async {
        let id = v_3a_and_cut(&rig).await;
        let volume = rig.open().await;
        volume.delete_snapshot("T0").await.unwrap();
        volume.fold(Some("T1")).await.unwrap();
        drop(volume);
        rig.cut_power();
        let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
        assert_eq!(now(&volume, &id).await, "1bXXeXgh");
        assert_eq!(at(&volume, "T1", &id).await, T1);
    });
}

/// V-2: one overlay, after each of its writes, and what was discarded there.
#[test]
fn each_write_of_v_2_takes_its_region_with_it() {
    let states = ["abcdefgh", "Xbcdefgh", "XbcXefgh", "XbcXefgh"];
    for (writes, expected) in states.into_iter().enumerate() {
        let rig = Rig::with_objects(3, Backend::Overlay, false);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.create_snapshot("T0").await.unwrap();
            let id = id_of(&volume, "objects");
            if writes > 0 {
                write_some(&volume, 1..=writes).await;
            }
            volume.discard(ByteOffset(7 * BLOCK), BLOCK).await.unwrap();
            volume.flush().await.unwrap();
            drop(volume);
            rig.cut_power();
            let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
            let found = now(&volume, &id).await;
            assert_eq!(
                found,
                format!("{}\0", &expected[..7]),
                "after {writes}: a discard is known without its device"
            );
            assert_eq!(at(&volume, "T0", &id).await, T0);
        });
    }
}

/// What is found in the log is there: writable snapshots write to it, and a place that has been used sends a block there.
#[test]
fn what_the_log_holds_is_read() {
    let rig = Rig::with_objects(4, Backend::Overlay, false);
    rig.runtime.block_on(async {
        let id = v_3a_and_cut(&rig).await;
        let volume = rig.open().await;
        volume.clone_snapshot("T1", "W").await.unwrap();
        let branch = volume.open_writable("W").await.unwrap();
        write(&branch, 3, b'w').await.unwrap();
        drop(branch);
        // Region 5 of the second overlay has been used, and an image needs what lies there.
        let image = volume.image(Default::default()).await.unwrap();
        write(&volume, 5, b'L').await.unwrap();
        drop(image);
        assert_eq!(current(&volume).await, "1bFyeLgh");
        drop(volume);
        rig.cut_power();
        let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
        assert_eq!(now(&volume, &id).await, "XbXXeLgh");
        let branch = volume.open_writable("W").await.unwrap();
        assert_eq!(now(&branch, &id).await, "Xbcwefgh", "its own block, and what it inherits of T1");
    });
}

/// Wherever the power went, what is shown without the device is what is shown with it.
#[test]
fn nothing_that_is_shown_without_the_device_is_anything_else_than_with_it() {
    let (mut refused, mut shown_right) = (0, 0);
    for cut_at in 0.. {
        let rig = Rig::with_objects(5, Backend::Overlay, false);
        let ended = rig.runtime.block_on(async {
            let id = v_3a_and_cut(&rig).await;
            let volume = rig.open().await;
            let work = async {
                volume.delete_snapshot("T0").await.unwrap();
                volume.fold(Some("T1")).await.unwrap();
                volume.delete_snapshot("T1").await.unwrap();
                write(&volume, 2, b'P').await.unwrap();
                volume.create_snapshot("T3").await.unwrap();
                write(&volume, 6, b'Q').await.unwrap();
            };
            let ended = rig.run_until(cut_at, work).await;
            drop(volume);
            rig.cut_power();
            let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
            let mut seen = vec![("now".to_string(), now(&volume, &id).await)];
            for one in volume.snapshots() {
                seen.push((one.name.clone(), at(&volume, &one.name, &id).await));
            }
            drop(volume);
            // With it, opened for reading as well: nothing is settled in between.
            let whole = Volume::open(rig.devices(), OpenMode::ReadOnly).await.unwrap();
            for (name, found) in seen {
                let wanted =
                    if name == "now" { now(&whole, &id).await } else { at(&whole, &name, &id).await };
                for (found, wanted) in found.chars().zip(wanted.chars()) {
                    match found {
                        'X' => refused += 1,
                        _ => {
                            shown_right += 1;
                            assert_eq!(found, wanted, "{name}, cut at {cut_at}");
                        }
                    }
                }
            }
            ended
        });
        if ended {
            break;
        }
    }
    println!("{refused} regions refused, {shown_right} shown");
    assert!(refused > 100 && shown_right > 100);
}

/// The control: a build that shows the base for what is lost.
#[cfg(feature = "mutations")]
#[test]
fn a_build_that_falls_back_to_the_base_is_told() {
    use icecore::mutation::{Mutation, switch};
    let rig = Rig::with_objects(1, Backend::Overlay, false);
    rig.runtime.block_on(async {
        let id = v_3a_and_cut(&rig).await;
        switch(Some(Mutation::LostShownAsBase));
        let found = seen(&rig, &id).await;
        switch(None);
        assert_eq!(found, [T0, T0, T0].map(String::from), "every one of them is taken for the oldest image");
        assert_eq!(seen(&rig, &id).await, ["XbXXeXgh", T0, "XbcXefgh"]);
    });
}

#[test]
fn copy_on_write_is_current_without_its_objects_and_its_snapshots_are_broken() {
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(6, Backend::Cow, base_in_pool);
        rig.runtime.block_on(async {
            let id = v_3a_and_cut(&rig).await;
            let hashes = || rig.disks().map(|disk| disk.hash()).collect::<Vec<_>>();
            let before = hashes();
            {
                let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
                assert_eq!(now(&volume, &id).await, T2);
                for one in volume.snapshots() {
                    assert!(one.broken, "{}", one.name);
                    let broken = Reason::SnapshotBroken { moment: one.sequence.0 };
                    assert_eq!(*volume.image_of(&one.name).await.unwrap_err().reason(), broken);
                    assert_eq!(*shown(&volume, &one.name).await.unwrap_err().reason(), broken);
                }
                assert_eq!(volume.snapshots().len(), 2);
                assert_eq!(*write(&volume, 0, b'!').await.unwrap_err().reason(), Reason::ReadOnly);
            }
            for mode in [OpenMode::ReadWrite, OpenMode::ReadWriteAcceptingLoss] {
                let refused = without(&rig, mode).await.unwrap_err();
                assert_eq!(*refused.reason(), Reason::DeviceMissing { role: "objects", id: id.clone() });
            }
            assert_eq!(hashes(), before);
            // The control: with its device they are what they were.
            let volume = rig.open().await;
            assert_eq!(
                (shown(&volume, "T0").await.unwrap(), shown(&volume, "T1").await.unwrap()),
                (T0.into(), T1.into())
            );
            // Taken, and nothing overwritten since: the base has all of it.
            volume.create_snapshot("T2").await.unwrap();
            drop(volume);
            rig.cut_power();
            let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
            assert_eq!(at(&volume, "T2", &id).await, T2);
        });
    }
}

/// The index lies in the pool, and says of every block whether it has been copied: nothing is shown that is overwritten.
#[test]
fn behind_a_log_the_current_image_is_whole_and_snapshots_are_but_for_their_copies() {
    for base_in_pool in [false, true] {
        let rig = Rig::with_objects(8, Backend::LoggedCow, base_in_pool);
        rig.runtime.block_on(async {
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.apply(None).await.unwrap();
            volume.create_snapshot("T0").await.unwrap();
            write_some(&volume, 1..=3).await;
            volume.create_snapshot("T1").await.unwrap();
            write_some(&volume, 4..=6).await;
            let id = id_of(&volume, "objects");
            let volume = {
                drop(volume);
                rig.cut_power();
                assert_eq!(seen(&rig, &id).await, [T2, T0, T1], "nothing has been copied");
                rig.open().await
            };
            volume.apply(None).await.unwrap();
            drop(volume);
            rig.cut_power();
            // z, which T1 alone sees, is in the log.
            assert_eq!(seen(&rig, &id).await, [T2, "XbXXeXgh", "1bXzeXgh"]);
            let volume = rig.open().await;
            assert_eq!(current(&volume).await, T2);
            assert_eq!(
                (shown(&volume, "T0").await.unwrap(), shown(&volume, "T1").await.unwrap()),
                (T0.into(), T1.into())
            );
        });
    }
}

/// A volume that was going back to a snapshot shows what that held: what of it is lost is refused, the base never shown
/// in its place.
#[test]
fn copy_on_write_that_was_going_back_shows_what_is_left_of_the_snapshot() {
    let (mut whole, mut in_part) = (0, 0);
    for cut_at in 0.. {
        let rig = Rig::with_objects(7, Backend::Cow, false);
        let ended = rig.runtime.block_on(async {
            let id = v_3a_and_cut(&rig).await;
            let volume = rig.open().await;
            let to = volume.snapshot("T1").unwrap().sequence;
            let work = async {
                volume.rollback(to).await.unwrap();
            };
            let ended = rig.run_until(cut_at, work).await;
            drop(volume);
            rig.cut_power();
            let volume = without(&rig, OpenMode::ReadOnly).await.unwrap();
            match now(&volume, &id).await.as_str() {
                T1 | T2 => whole += 1,
                "1bXXeXgh" => in_part += 1,
                other => panic!("{other}, cut at {cut_at}"),
            }
            ended
        });
        if ended {
            break;
        }
    }
    println!("{whole} times whole, {in_part} times in part");
    assert!(whole > 2 && in_part > 2);
}

#[test]
fn a_volume_without_such_a_device_is_not_opened_so() {
    for backend in [Backend::Cow, Backend::Log] {
        let rig = crate::vlog::Rig::new(8, 16 * MIB, crate::vlog::small(backend));
        rig.runtime.block_on(async {
            for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
                let refused = Volume::open_with(rig.device(), mode, without_objects()).await.unwrap_err();
                assert!(
                    matches!(refused.reason(), Reason::InvalidSetting { name: "without objects", .. }),
                    "{refused}"
                );
            }
        });
    }
}

/// With the log lost too, the base is what it is for certain, as beside a log without such a device.
#[test]
fn a_base_is_opened_alone_where_log_and_objects_are_lost() {
    let now = BaseImage::Current(OpenMode::ReadOnly);
    for (backend, image, other, expected) in
        [(Backend::Cow, now, BaseImage::Oldest, T2), (Backend::Overlay, BaseImage::Oldest, now, T0)]
    {
        let rig = Rig::with_objects(9, backend, false);
        rig.runtime.block_on(async {
            v_3a_and_cut(&rig).await;
            let volume = Volume::open_base(&rig.device(&rig.volume), image).await.unwrap();
            assert_eq!(current(&volume).await, expected, "{backend:?}");
            drop(volume);
            let refused = Volume::open_base(&rig.device(&rig.volume), other).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
            let refused = Volume::open_base(&rig.device(rig.objects()), image).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::WrongDevice { wanted: "volume", .. }), "{refused}");
        });
    }
}
