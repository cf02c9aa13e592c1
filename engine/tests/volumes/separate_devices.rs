//! R-11 for `linear`: the log and all metadata on one device, the volume on another. What each of them got is judged
//! from the recordings of two simulated disks, and from the ledgers.

use std::collections::BTreeSet;

use icecore::device::Tally;
use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::{Kind, Reason};
use icecore::runtime::{OperationKind, Random};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{
    ApplyMode, ApplyOptions, CreateOptions, Devices, Durability, OpenMode, OpenOptions, Volume,
};

use crate::apart::{Rig, arrived, creation_is_whole_or_not, id_of};
use crate::vlog::{
    self, BASE, BLOCK, MANUAL, MIB, WRITES, byte as block, current, cut_at_each_request, linear, write,
};

/// With base letters written and applied.
async fn with_base(rig: &Rig) -> Volume {
    let volume = rig.open().await;
    vlog::write_base(&volume).await;
    volume.apply(None).await.unwrap();
    assert_eq!(rig.letters(), BASE);
    volume
}

fn rig(seed: u64, apply: ApplyOptions) -> Rig {
    Rig { opening: OpenOptions { apply, ..OpenOptions::default() }, ..Rig::new(seed, Backend::Linear) }
}

fn changes(kind: OperationKind) -> bool {
    !matches!(kind, OperationKind::Read | OperationKind::Flush)
}

async fn write_all(volume: &Volume) {
    vlog::write_all(volume, Durability::Durable).await;
}

#[test]
fn each_role_keeps_to_its_device() {
    let rig = rig(1, MANUAL);
    rig.runtime.block_on(async {
        let volume = with_base(&rig).await;
        let roles: Vec<_> = volume.info().roles.iter().map(|(name, _)| *name).collect();
        assert_eq!(roles, ["volume", "log"]);
        let written = |ledger: &[(&'static str, Tally)]| -> BTreeSet<&'static str> {
            let used = ledger.iter().filter(|(_, tally)| tally.writes + tally.zeroings > 0);
            used.map(|(cause, _)| *cause).collect()
        };
        // Writing and reading back what is in the log: nothing of it on the volume's disk.
        rig.record();
        write_all(&volume).await;
        assert_eq!(arrived(&rig.log, changes).len(), WRITES.len());
        assert_eq!(block(&volume, 0).await.unwrap(), b'1');
        assert_eq!(rig.volume.recorded(), []);
        // What lies at home is read from there alone.
        rig.log.start_recording();
        assert_eq!(block(&volume, 7).await.unwrap(), b'h');
        assert_eq!(arrived(&rig.volume, |kind| kind == OperationKind::Read), [(MIB + 7 * BLOCK, BLOCK)]);
        assert_eq!(rig.log.recorded(), []);
        // Applying: the newest of each block, at home, and a flush; the log's disk gets only what is its own.
        rig.volume.start_recording();
        volume.apply(None).await.unwrap();
        let mut homes = arrived(&rig.volume, changes);
        homes.sort_unstable();
        assert_eq!(
            homes,
            [(0, 1), (2, 2), (5, 1)].map(|(first, count)| (MIB + first * BLOCK, count * BLOCK))
        );
        assert_eq!(arrived(&rig.volume, |kind| kind == OperationKind::Flush).len(), 1);
        assert_eq!(rig.letters(), "1bFyeGgh");
        let status = volume.status();
        let (name, ledger) = status.volume_device.unwrap();
        assert_eq!((name.as_str(), written(&ledger)), ("volume disk", BTreeSet::from(["apply"])));
        assert_eq!(written(&status.ledger), BTreeSet::from(["index", "log", "metadata"]));
        let sum = |ledger: &[(&str, Tally)]| ledger.iter().map(|(_, tally)| tally.write_bytes).sum::<u64>();
        assert_eq!(sum(&ledger), 8 * BLOCK + 4 * BLOCK, "the base, and what was changed");
        volume.discard(ByteOffset(0), 2 * BLOCK).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!((block(&volume, 1).await.unwrap(), rig.letters().as_str()), (0, "\0\0FyeGgh"));
        volume.close().await.unwrap();
        drop(volume);
        assert_eq!(&current(&rig.open().await).await[2..], "FyeGgh");
    });
}

#[test]
fn the_devices_are_told_by_the_identity_that_is_stored_on_them() {
    let (rig, other) = (rig(2, MANUAL), Rig::blank(3));
    rig.runtime.block_on(async {
        let (foreign_log, foreign) = rig.strangers(Backend::Linear).await;
        let volume = with_base(&rig).await;
        write_all(&volume).await;
        volume.apply(None).await.unwrap();
        let (of_volume, of_log) = (id_of(&volume, "volume"), id_of(&volume, "log"));
        drop(volume);
        rig.cut_power();
        let disks = [&rig.log, &rig.volume, &foreign, &foreign_log];
        // Exchanged: what was found is named, and where.
        let error = rig.refused(&rig.volume, &rig.log, &disks).await;
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let wanted = format!("it is not the log device of this pool: it is the volume device {of_volume}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("open volume disk: {wanted}")), "{text}");
        // Missing, from either side.
        let error = rig.refused(&rig.log, None, &disks).await;
        assert_eq!(*error.reason(), Reason::DeviceMissing { role: "volume", id: of_volume });
        let error = rig.refused(&rig.volume, None, &disks).await;
        assert!(matches!(error.reason(), Reason::WrongDevice { wanted: "log", .. }), "{error}");
        // Of another pool, the pool's own log in both places, and a blank one.
        let text = rig.refused(&rig.log, &foreign, &disks).await.to_string();
        let wanted = "foreign disk: it is not the volume device of this pool: it is the volume device";
        assert!(text.contains(wanted), "{text}");
        let text = rig.refused(&foreign_log, &rig.log, &disks).await.to_string();
        let wanted = "log disk: it is not the volume device of this pool: it is the log device";
        assert!(text.contains(&format!("{wanted} {of_log}")), "{text}");
        let blank = SimulatedDisk::new(&rig.calendar, 6, "blank disk", 4 * MIB, BLOCK as u32);
        let text = rig.refused(&rig.log, &blank, &disks).await.to_string();
        assert!(text.contains("blank disk") && text.contains("without a superblock"), "{text}");
        // The control: these two belong together.
        assert_eq!(current(&rig.open().await).await, "1bFyeGgh");
        rig.cut_power();
        // One copy of the volume device's superblock is damaged: it is written again.
        rig.volume.poke(100, &[0xEE; 8]);
        assert_eq!(current(&rig.open().await).await, "1bFyeGgh");
        rig.cut_power();
        rig.volume.poke((512 << 10) + 100, &[0xEE; 8]);
        assert_eq!(current(&rig.open().await).await, "1bFyeGgh");
        let error = Volume::grow(&rig.device(&foreign_log)).await.unwrap_err();
        assert!(matches!(error.reason(), Reason::DeviceMissing { role: "volume", .. }), "{error}");
    });
    // A volume that lies in its pool takes no second device, and nothing but a linear one is made on two.
    other.runtime.block_on(async {
        Volume::create(&other.device(&other.log), CreateOptions { thin: true, ..linear(2 * MIB) })
            .await
            .unwrap();
        let error = Volume::open_with(other.devices(), OpenMode::ReadWrite, OpenOptions::default()).await;
        assert!(error.unwrap_err().to_string().contains("volume device = volume disk"));
        let options = CreateOptions { size_bytes: None, ..linear(MIB) };
        for backend in [Backend::Direct, Backend::Log] {
            let error =
                Volume::create_on(&other.devices(), CreateOptions { backend, ..options }).await.unwrap_err();
            assert!(error.to_string().contains("only a linear volume"), "{error}");
        }
        let error = Volume::create_on(&other.devices(), linear(4 * MIB)).await.unwrap_err();
        assert!(
            error.to_string().starts_with("create volume disk: it has 4194304 bytes; at least 5242880"),
            "{error}"
        );
    });
}

#[test]
fn an_older_copy_of_the_volume_is_never_shown() {
    let rig = rig(7, MANUAL);
    rig.runtime.block_on(async {
        let volume = with_base(&rig).await;
        let older = rig.volume.after_cut(&rig.calendar, |_, _| true);
        write_all(&volume).await;
        volume.apply(None).await.unwrap();
        volume.close().await.unwrap();
        drop(volume);
        let devices = Devices { pool: rig.device(&rig.log), volume: Some(rig.device(&older)), objects: None };
        let volume = Volume::open_with(devices, OpenMode::ReadOnly, OpenOptions::default()).await.unwrap();
        for (region, newest) in (0..).zip("1bFyeGgh".bytes()) {
            match block(&volume, region).await {
                Ok(found) => assert_eq!(found, newest, "region {region}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Corrupt);
                    assert!(error.to_string().contains("volume disk"), "{error}");
                    assert!(WRITES.iter().any(|(written, _)| *written == region));
                }
            }
        }
        assert!(block(&volume, 0).await.is_err());
    });
}

#[test]
fn a_cut_of_both_at_any_request_of_the_applier_changes_nothing_that_is_read() {
    for mode in [ApplyMode::Strict, ApplyMode::Absorb] {
        let options = ApplyOptions { mode, ..MANUAL };
        let cuts = cut_at_each_request(|cut_at| {
            let rig = rig(8, options);
            rig.runtime.block_on(async {
                let volume = with_base(&rig).await;
                write_all(&volume).await;
                let applying = async { volume.apply(None).await.unwrap() };
                let ended = rig.run_until(cut_at, applying).await;
                drop(volume);
                rig.cut_power();
                let volume = rig.open().await;
                assert_eq!(current(&volume).await, "1bFyeGgh", "{mode:?}, cut at request {cut_at}");
                volume.apply(None).await.unwrap();
                assert_eq!((current(&volume).await, rig.letters()), ("1bFyeGgh".into(), "1bFyeGgh".into()));
                ended
            })
        });
        println!("{mode:?}: {cuts} cuts");
        assert!(cuts > 9);
    }
}

#[test]
fn a_creation_that_is_cut_leaves_no_volume_or_a_whole_one() {
    creation_is_whole_or_not(Backend::Linear, async |volume| {
        write(volume, 3, b'a').await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!(block(volume, 3).await.unwrap(), b'a');
    });
}

/// Random operations, cuts of both disks at random moments: what was durable is there, and nothing older or foreign.
/// `lies`: the volume's disk says that it has flushed, and has not.
fn play(seed: u64, lies: bool) -> Result<(), String> {
    let mut random = Random::from_seed(seed);
    let mode = if random.chance(1, 2) { ApplyMode::Absorb } else { ApplyMode::Strict };
    let apply = ApplyOptions { mode, automatic: random.chance(1, 2), ..ApplyOptions::default() };
    let rig = rig(1000 + 2 * seed, apply);
    const BLOCKS: usize = 48;
    if lies {
        let flush = |kind| kind == OperationKind::Flush;
        rig.volume.set_plan(Box::new(move |request, _| flush(request.kind).then_some(Fault::Drop)));
    }
    rig.runtime.block_on(async {
        // For each block what it may be: the last durable content, and what was written since.
        let mut allowed: Vec<Vec<u8>> = vec![vec![0]; BLOCKS];
        for _ in 0..8 {
            let volume = rig.open().await;
            for (at, allowed) in allowed.iter_mut().enumerate() {
                let found = block(&volume, at as u64).await;
                let found = found.map_err(|error| format!("seed {seed}, block {at}: {error}"))?;
                if !allowed.contains(&found) {
                    return Err(format!("seed {seed}, block {at}: {found} of {allowed:?}"));
                }
                // What recovery shows stays.
                *allowed = vec![found];
            }
            for _ in 0..random.below(60) {
                let at = random.below(BLOCKS as u64);
                let letter = 1 + random.below(250) as u8;
                let now = &mut allowed[at as usize];
                match random.below(12) {
                    0..5 => {
                        write(&volume, at, letter).await.unwrap();
                        *now = vec![letter];
                    }
                    5..9 => {
                        let bytes = [letter; BLOCK as usize];
                        volume
                            .write_bytes(ByteOffset(at * BLOCK), &bytes, Durability::OnFlush)
                            .await
                            .unwrap();
                        now.push(letter);
                    }
                    9 => {
                        volume.discard(ByteOffset(at * BLOCK), BLOCK).await.unwrap();
                        now.push(0);
                    }
                    10 => {
                        volume.flush().await.unwrap();
                        allowed.iter_mut().for_each(|block| drop(block.drain(..block.len() - 1)));
                    }
                    _ => {
                        volume.apply(None).await.unwrap();
                        allowed.iter_mut().for_each(|block| drop(block.drain(..block.len() - 1)));
                    }
                }
            }
            let context = volume.context().clone();
            let applying = volume.clone();
            let task = context.spawn(async move { applying.apply(None).await.map(|_| ()) });
            context.sleep(random.below(4_000_000)).await;
            task.abort();
            drop((task, volume));
            rig.cut_power();
        }
        Ok(())
    })
}

#[test]
fn random_operations_and_cuts_of_both_disks() {
    for seed in 0..60 {
        assert_eq!(play(seed, false), Ok(()));
    }
    // The control: what is said to be at home and was never flushed there is missed.
    assert!((0..60).any(|seed| play(seed, true).is_err()));
}

#[test]
fn a_log_is_full_when_its_own_device_is_whatever_room_the_volume_has() {
    let rig = rig(11, MANUAL);
    rig.runtime.block_on(async {
        let volume = with_base(&rig).await;
        let mut written = 0;
        let error = loop {
            match write(&volume, written % 128, (written % 251) as u8).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 4096, "it never fills");
        };
        assert!(matches!(error.reason(), Reason::LogFull { .. }), "{error}");
        let log = volume.status().log.unwrap();
        assert!(written > 100 && log.free_segments > 48, "{written} {log:?}");
        volume.apply(None).await.unwrap();
        for at in 0..128 {
            let last = (0..written).rev().find(|one| one % 128 == at).unwrap();
            assert_eq!(block(&volume, at).await.unwrap(), (last % 251) as u8);
        }
        write(&volume, 0, b'n').await.unwrap();
        volume.close().await.unwrap();
    });
}

#[test]
fn a_full_device_of_a_thin_volume_stalls_applying_and_loses_nothing() {
    let rig = Rig::blank(9);
    rig.runtime.block_on(async {
        let options = CreateOptions { thin: true, ..linear(64 * MIB) };
        Volume::create_on(&rig.devices(), options).await.unwrap();
        let volume = rig.open().await;
        // Three mebibytes are 48 extents; each write takes another one.
        let mut written = 0;
        let error = loop {
            match write(&volume, written * 16, (written % 200) as u8 + 1).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 4096, "it never fills");
        };
        assert_eq!(error.kind(), Kind::NoSpace, "{error}");
        let apply = volume.status().log.unwrap().apply.unwrap();
        assert!(apply.extents == 48 && apply.stalled.is_some(), "{apply:?}");
        drop(volume);
        rig.cut_power();
        let volume = rig.open().await;
        assert!(written > 60);
        for at in 0..written {
            assert_eq!(block(&volume, at * 16).await.unwrap(), (at % 200) as u8 + 1);
        }
    });
}
