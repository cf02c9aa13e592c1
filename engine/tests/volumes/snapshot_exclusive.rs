//! What a snapshot alone keeps is what deleting it frees, by the count of the offline check, which shares nothing with the
//! engine's own.

use icecore::check::check;
use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

use crate::vlog::{BLOCK, MANUAL, MIB, Rig, go_back_to_one, is_sound, small, write, write_base};

/// Bytes of blocks that live, as an offline check counts them: the volume is closed for it.
async fn live_bytes(rig: &Rig, volume: Volume) -> u64 {
    volume.close().await.unwrap();
    drop(volume);
    is_sound(rig).await;
    let mut live = 0;
    check(&rig.device(), &mut |progress| live = progress.total).await.unwrap();
    live * BLOCK
}

fn exclusive(snapshots: &[icecore::store::log::SnapshotInfo], name: &str) -> u64 {
    snapshots.iter().find(|one| one.name == name).unwrap().exclusive_bytes.unwrap()
}

/// Writes, zeroes, goes back, and takes snapshots, some of them of one moment.
async fn make_history(rig: &Rig, backend: Backend, random: &mut Random) {
    let mut volume = rig.open(MANUAL).await;
    for content in 1..240_u64 {
        let (first, blocks) = (random.below(60), 1 + random.below(4));
        let (at, bytes) = (ByteOffset(first * BLOCK), blocks * BLOCK);
        match random.below(24) {
            0..3 => drop(volume.create_snapshot(&format!("at {content}")).await.unwrap()),
            3 => {
                volume.create_snapshot(&format!("one of two {content}")).await.unwrap();
                volume.create_snapshot(&format!("other of two {content}")).await.unwrap();
            }
            4 => volume.discard(at, bytes).await.unwrap(),
            5 if backend != Backend::Cow => go_back_to_one(&volume, random, 8).await,
            6 => {
                volume = rig.cut_and_open(volume).await;
            }
            _ => {
                let mut buf = volume.context().buffers().zeroed(bytes as usize).unwrap();
                buf.fill(content as u8);
                volume.write(at, buf, Durability::OnFlush).await.0.unwrap();
            }
        }
    }
    volume.close().await.unwrap();
    drop(volume);
    rig.runtime.context().sleep(50_000_000).await;
}

#[test]
fn what_one_keeps_alone_is_what_its_deletion_frees() {
    for backend in [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow] {
        let (mut freed_bytes, mut deleted, mut nothing) = (0, 0, 0);
        for seed in 0..3 {
            let options = CreateOptions { size_bytes: Some(64 * BLOCK), ..small(backend) };
            let rig = Rig::new(seed, 16 * MIB, options);
            rig.runtime.block_on(async {
                let random = &mut Random::from_seed(seed);
                make_history(&rig, backend, random).await;
                loop {
                    let volume = rig.open(MANUAL).await;
                    // What is still to be let go of is nobody's.
                    volume.context().sleep(3_000_000_000).await;
                    let told = volume.snapshots_with_space().await.unwrap();
                    if told.is_empty() {
                        break;
                    }
                    let name = told[random.below(told.len() as u64) as usize].name.clone();
                    let before = live_bytes(&rig, volume).await;
                    // Whoever only reads is told the same.
                    let volume = Volume::open(rig.device(), OpenMode::ReadOnly).await.unwrap();
                    assert_eq!(volume.snapshots_with_space().await.unwrap(), told);
                    drop(volume);
                    rig.runtime.context().sleep(50_000_000).await;
                    let volume = rig.open(MANUAL).await;
                    volume.delete_snapshot(&name).await.unwrap();
                    volume.context().sleep(3_000_000_000).await;
                    let after = live_bytes(&rig, volume).await;
                    let expected = exclusive(&told, &name);
                    assert_eq!(before - after, expected, "{backend:?}, seed {seed}: {name} of {told:?}");
                    freed_bytes += expected;
                    nothing += u32::from(expected == 0);
                    deleted += 1;
                }
            });
        }
        println!(
            "{backend:?}: {deleted} deleted, {nothing} of them kept nothing alone, {freed_bytes} bytes freed"
        );
        assert!(freed_bytes > 50 * BLOCK && nothing > 0 && deleted > 30, "{backend:?}");
    }
}

#[test]
fn an_open_image_a_window_and_a_neighbour_share_what_they_keep() {
    let space = async |volume: &Volume, name: &str| {
        exclusive(&volume.snapshots_with_space().await.unwrap(), name) / BLOCK
    };
    let options = CreateOptions { size_bytes: Some(64 * BLOCK), ..small(Backend::Log) };
    let rig = Rig::new(9, 8 * MIB, options);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        assert_eq!(space(&volume, "T0").await, 0, "all of it is still the volume's");
        write(&volume, 0, b'x').await.unwrap();
        write(&volume, 1, b'x').await.unwrap();
        assert_eq!(space(&volume, "T0").await, 2);
        let moment = volume.snapshot("T0").unwrap().sequence;
        let image =
            volume.image(ImageOptions { sequence: Some(moment), ..ImageOptions::default() }).await.unwrap();
        assert_eq!(space(&volume, "T0").await, 0, "deleting it frees nothing while somebody reads it");
        drop(image);
        volume.create_snapshot("T1").await.unwrap();
        write(&volume, 1, b'y').await.unwrap();
        write(&volume, 2, b'y').await.unwrap();
        // Block 2 as it was is seen by both; block 1 in its two older contents by one each.
        assert_eq!((space(&volume, "T0").await, space(&volume, "T1").await), (2, 1));
        volume.delete_snapshot("T1").await.unwrap();
        volume.context().sleep(1_000_000_000).await;
        assert_eq!(space(&volume, "T0").await, 3, "it is alone with block 2 now");
        assert!(volume.snapshots().iter().all(|one| one.exclusive_bytes.is_none()), "nobody has asked");
    });
    let options = CreateOptions { retention_bytes: MIB, ..options };
    let rig = Rig::new(10, 8 * MIB, options);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        write(&volume, 0, b'x').await.unwrap();
        assert_eq!(space(&volume, "T0").await, 0, "the window keeps it too");
        assert_eq!(volume.info().sequence, Seq(9));
        for round in 0..300 {
            write(&volume, 8 + round % 8, b'!').await.unwrap();
        }
        assert_eq!(space(&volume, "T0").await, 1, "it has left the window");
    });
}
