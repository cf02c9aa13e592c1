//! R-11 for volumes with a base: the base on one device, the log, which holds overlays and saved copies, and all metadata on
//! another. What each of them got is judged from the recordings of two simulated disks, and from their bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::apart::{Rig, arrived, creation_is_whole_or_not, id_of, options, v_3a_is_shown, write_some};
use icecore::device::simulated::{Event, Fault, Recorded, SimulatedDisk};
use icecore::error::Reason;
use icecore::object::ObjectKind;
use icecore::runtime::{OperationKind, Random};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, Volume};

use crate::vlog::{BLOCK, MIB, PREFIXES, WRITES, byte, current, live_blocks, shown, write, write_base};

const BACKENDS: [Backend; 3] = [Backend::Cow, Backend::Overlay, Backend::LoggedCow];
const T0: &str = PREFIXES[0];
const T2: &str = PREFIXES[6];

/// Everything but looking.
fn acts(kind: OperationKind) -> bool {
    kind != OperationKind::Read
}

#[test]
fn v_2_and_v_3a_write_nothing_to_the_device_of_the_base() {
    let rig = Rig::new(1, Backend::Overlay);
    rig.runtime.block_on(async {
        let mut volume = rig.open().await;
        let roles: Vec<_> = volume.info().roles.iter().map(|(name, _)| *name).collect();
        assert_eq!(roles, ["volume", "log"]);
        rig.record();
        write_base(&volume).await;
        assert_eq!(arrived(&rig.log, acts), [], "before there is a snapshot, nothing goes to the log");
        assert_eq!(rig.letters(), T0);
        volume.create_snapshot("T0").await.unwrap();
        let before = rig.volume.hash();
        rig.record();
        for (number, prefix) in (1..=3).zip(&PREFIXES[1..]) {
            write_some(&volume, number..=number).await;
            assert_eq!(current(&volume).await, *prefix);
        }
        volume.create_snapshot("T1").await.unwrap();
        write_some(&volume, 4..=6).await;
        volume.flush().await.unwrap();
        assert_eq!(current(&volume).await, T2);
        assert_eq!(arrived(&rig.volume, acts), [], "none between T0 and T2");
        assert!(arrived(&rig.log, acts).len() > WRITES.len());
        assert_eq!((rig.volume.hash(), rig.letters().as_str()), (before, T0));
        // What nobody has changed is read there, and nothing of it from the log.
        rig.record();
        assert_eq!(byte(&volume, 7).await.unwrap(), b'h');
        assert_eq!(arrived(&rig.volume, |_| true), [(MIB + 7 * BLOCK, BLOCK)]);
        assert_eq!(rig.log.recorded(), []);
        rig.record();
        assert_eq!(byte(&volume, 0).await.unwrap(), b'1');
        assert_eq!(rig.volume.recorded(), []);
        volume = v_3a_is_shown(&rig, volume).await;
        // The control: a fold does write there, and what is written when nobody looks back.
        for name in ["T0", "T1"] {
            volume.delete_snapshot(name).await.unwrap();
        }
        rig.record();
        volume.fold(None).await.unwrap();
        assert_eq!(rig.letters(), T2);
        let mut homes = arrived(&rig.volume, |kind| matches!(kind, OperationKind::Write { .. }));
        homes.retain(|(offset, _)| *offset >= MIB);
        let homes: u64 = homes.iter().map(|one| one.1).sum();
        assert_eq!(homes, 4 * BLOCK, "1, F, y and G");
        rig.record();
        write(&volume, 6, b'g').await.unwrap();
        assert_eq!(arrived(&rig.volume, acts), [(MIB + 6 * BLOCK, BLOCK)]);
        assert_eq!(rig.log.recorded(), []);
        let status = volume.status();
        let (name, ledger) = status.volume_device.unwrap();
        let used: Vec<_> =
            ledger.iter().filter(|(_, tally)| tally.writes > 0).map(|(cause, _)| *cause).collect();
        assert_eq!(name, "volume disk");
        assert_eq!(used, ["application", "metadata", "apply"], "metadata: that it is one image");
        volume.close().await.unwrap();
        drop(volume);
        assert_eq!(current(&rig.open().await).await, T2);
    });
}

#[test]
fn copies_go_to_the_log_and_current_blocks_to_the_base() {
    let rig = Rig::new(2, Backend::Cow);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        write_base(&volume).await;
        volume.create_snapshot("S0").await.unwrap();
        rig.record();
        write_some(&volume, 1..=6).await;
        assert_eq!((current(&volume).await.as_str(), rig.letters().as_str()), (T2, T2));
        let written = arrived(&rig.volume, |kind| matches!(kind, OperationKind::Write { .. }));
        assert_eq!(written, WRITES.map(|(region, _)| (MIB + region * BLOCK, BLOCK)));
        let reads = arrived(&rig.volume, |kind| kind == OperationKind::Read);
        assert_eq!(reads[..2], [(MIB, BLOCK), (MIB + 3 * BLOCK, BLOCK)], "a and d, to be saved");
        let saved = arrived(&rig.log, |kind| matches!(kind, OperationKind::Write { .. }));
        assert_eq!(saved.len(), 4, "a, d, c and f with what finds them");
        let (saved, overwritten) = (first_of(&rig.log, true), first_of(&rig.volume, false));
        assert!(saved <= overwritten, "the copy is durable before the base is overwritten");
        assert_eq!(shown(&volume, "S0").await.unwrap(), T0);
        drop(volume);
        rig.cut_power();
        let volume = rig.open().await;
        assert_eq!((current(&volume).await.as_str(), shown(&volume, "S0").await.unwrap().as_str()), (T2, T0));
    });
}

/// When the first write of a recording ended, or arrived.
fn first_of(disk: &SimulatedDisk, ended: bool) -> u64 {
    let is_it = |one: &Recorded| {
        matches!(one.kind, OperationKind::Write { .. }) && (one.event == Event::Arrived) != ended
    };
    disk.recorded().into_iter().find(is_it).unwrap().at.0
}

#[test]
fn the_devices_are_told_by_the_identity_that_is_stored_on_them() {
    for backend in BACKENDS {
        let rig = Rig::new(3, backend);
        rig.runtime.block_on(async {
            let (foreign_log, foreign) = rig.strangers(backend).await;
            let volume = rig.open().await;
            write_base(&volume).await;
            volume.create_snapshot("T0").await.unwrap();
            write_some(&volume, 1..=6).await;
            let id = id_of(&volume, "volume");
            drop(volume);
            rig.cut_power();
            let disks = [&rig.log, &rig.volume, &foreign, &foreign_log];
            let text = rig.refused(&rig.volume, &rig.log, &disks).await.to_string();
            let wanted = format!("it is not the log device of this pool: it is the volume device {id}");
            assert!(text.starts_with(&format!("open volume disk: {wanted}")), "{text}");
            let error = rig.refused(&rig.log, None, &disks).await;
            assert_eq!(*error.reason(), Reason::DeviceMissing { role: "volume", id });
            let error = rig.refused(&rig.volume, None, &disks).await;
            assert!(matches!(error.reason(), Reason::WrongDevice { wanted: "log", .. }), "{error}");
            for (pool, base) in [(&rig.log, &foreign), (&foreign_log, &rig.volume), (&rig.log, &foreign_log)]
            {
                let error = rig.refused(pool, base, &disks).await;
                assert!(matches!(error.reason(), Reason::WrongDevice { wanted: "volume", .. }), "{error}");
            }
            // The control: these two belong together.
            assert_eq!(current(&rig.open().await).await, T2);
        });
    }
}

#[test]
fn the_base_takes_what_its_device_has_and_no_more() {
    for backend in BACKENDS {
        let rig = Rig::blank(7);
        rig.runtime.block_on(async {
            let largest = CreateOptions { size_bytes: None, ..options(backend) };
            let info = Volume::create_on(&rig.devices(), largest).await.unwrap();
            assert_eq!(info.size_bytes, 3 * MIB, "all behind its superblocks");
            let larger = CreateOptions { size_bytes: Some(4 * MIB), ..options(backend) };
            let error = Volume::create_on(&rig.devices(), larger).await.unwrap_err();
            assert!(
                error.to_string().starts_with("create volume disk: it has 4194304 bytes; at least 5242880"),
                "{error}"
            );
            let volume = rig.open().await;
            write(&volume, 767, b'l').await.unwrap();
            live_blocks(&volume).await;
            assert_eq!(rig.volume.peek(4 * MIB - BLOCK, 1), b"l");
        });
    }
}

#[test]
fn a_creation_that_is_cut_leaves_no_volume_or_a_whole_one() {
    creation_is_whole_or_not(Backend::Overlay, async |volume| {
        assert_eq!(current(volume).await, "........");
    });
}

const BLOCKS: usize = 48;

async fn blocks_of(volume: &Volume, moment: Option<Seq>) -> Result<Vec<u8>, icecore::error::Error> {
    let bytes = match moment {
        None => {
            let mut bytes = vec![0; BLOCKS * BLOCK as usize];
            volume.read_bytes(ByteOffset(0), &mut bytes).await?;
            bytes
        }
        Some(sequence) => {
            let options = ImageOptions { sequence: Some(sequence), ..ImageOptions::default() };
            let buf = volume.context().buffers().get(BLOCKS * BLOCK as usize)?;
            let (read, buf) = volume.image(options).await?.read(ByteOffset(0), buf).await;
            read?;
            buf.to_vec()
        }
    };
    Ok(bytes.chunks(BLOCK as usize).map(|block| block[0]).collect())
}

/// From now on this disk says that it has flushed, and has not.
pub fn lies(disk: &SimulatedDisk) {
    let flush = |kind| kind == OperationKind::Flush;
    disk.set_plan(Box::new(move |request, _| flush(request.kind).then_some(Fault::Drop)));
}

/// Random operations, snapshots and folds, cuts of all disks at random moments: what was durable is there, and every
/// snapshot shows what it saw.
pub fn play(mut rig: Rig, seed: u64, backend: Backend) -> Result<(), String> {
    rig.opening.move_home_on_read = seed.is_multiple_of(2);
    let mut random = Random::from_seed(seed);
    rig.runtime.block_on(async {
        // For each block what it may be: the last durable content, and what was written since.
        let mut allowed: Vec<Vec<u8>> = vec![vec![0]; BLOCKS];
        let mut snapshots: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for life in 0..8 {
            let volume = rig.open().await;
            let found = blocks_of(&volume, None).await.map_err(|error| format!("seed {seed}: {error}"))?;
            for (at, (found, allowed)) in found.into_iter().zip(&mut allowed).enumerate() {
                if !allowed.contains(&found) {
                    return Err(format!("seed {seed}, life {life}, block {at}: {found} of {allowed:?}"));
                }
                *allowed = vec![found];
            }
            let names: BTreeSet<String> = volume.snapshots().into_iter().map(|one| one.name).collect();
            if names != snapshots.keys().cloned().collect() {
                return Err(format!("seed {seed}, life {life}: {names:?} of {snapshots:?}"));
            }
            for (name, saw) in &snapshots {
                let moment = volume.snapshot(name).unwrap().sequence;
                let shown = blocks_of(&volume, Some(moment)).await;
                let shown = shown.map_err(|error| format!("seed {seed}, {name}: {error}"))?;
                if shown != *saw {
                    return Err(format!("seed {seed}, life {life}: {name} shows {shown:?}, not {saw:?}"));
                }
            }
            for step in 0..random.below(60) {
                let at = random.below(BLOCKS as u64);
                let letter = 1 + random.below(250) as u8;
                let now = &mut allowed[at as usize];
                let forget = |allowed: &mut Vec<Vec<u8>>| {
                    allowed.iter_mut().for_each(|block| drop(block.drain(..block.len() - 1)));
                };
                match random.below(20) {
                    0..5 => {
                        write(&volume, at, letter).await.unwrap();
                        *now = vec![letter];
                    }
                    5..11 => {
                        let bytes = [letter; BLOCK as usize];
                        let at = ByteOffset(at * BLOCK);
                        volume.write_bytes(at, &bytes, Durability::OnFlush).await.unwrap();
                        now.push(letter);
                    }
                    11 => {
                        volume.discard(ByteOffset(at * BLOCK), BLOCK).await.unwrap();
                        now.push(0);
                    }
                    12 => {
                        volume.flush().await.unwrap();
                        forget(&mut allowed);
                    }
                    13 if snapshots.len() < 4 => {
                        let name = format!("{life}-{step}");
                        match volume.create_snapshot(&name).await {
                            Ok(_) => {
                                forget(&mut allowed);
                                snapshots.insert(name, allowed.iter().map(|block| block[0]).collect());
                            }
                            // Overlays that are not folded keep objects whose snapshots are gone.
                            Err(full) if matches!(full.reason(), Reason::NoRoomForObject { .. }) => {}
                            Err(error) => return Err(format!("seed {seed}: {error}")),
                        }
                    }
                    14 => {
                        let which = random.below(snapshots.len().max(1) as u64) as usize;
                        if let Some(name) = snapshots.keys().nth(which).cloned() {
                            volume.delete_snapshot(&name).await.unwrap();
                            snapshots.remove(&name);
                        }
                    }
                    15 if backend == Backend::Overlay => {
                        let mut oldest = volume.snapshots();
                        let oldest = (!oldest.is_empty()).then(|| oldest.remove(0).name);
                        volume.fold(oldest.as_deref()).await.unwrap();
                    }
                    _ => {
                        // In place, a block is as atomic as the disk makes it: of sectors.
                        let mut bytes = [0; 512];
                        volume.read_bytes(ByteOffset(at * BLOCK), &mut bytes).await.unwrap();
                        let found = bytes[0];
                        let newest = *now.last().unwrap();
                        if found != newest {
                            return Err(format!("seed {seed}, block {at}: {found}, not {newest}"));
                        }
                    }
                }
            }
            volume.context().sleep(random.below(4_000_000)).await;
            drop(volume);
            rig.cut_power();
        }
        Ok(())
    })
}

#[test]
fn random_operations_and_cuts_of_both_disks() {
    let kinds = BACKENDS.into_iter().flat_map(|backend| ObjectKind::ALL.map(|objects| (backend, objects)));
    // A log in front has none.
    for (backend, objects) in kinds.filter(|kept| *kept != (Backend::LoggedCow, ObjectKind::Linear)) {
        // Small enough that there is room for some linear objects.
        let size_bytes = Some(64 * BLOCK);
        let rig =
            |seed| Rig::with(1000 + 2 * seed, CreateOptions { size_bytes, objects, ..options(backend) });
        for seed in 0..60 {
            assert_eq!(play(rig(seed), seed, backend), Ok(()), "{backend:?}, {objects:?}");
        }
        // The control: what is said to be in the base and was never flushed there is missed.
        let lying = |seed| {
            let rig = rig(seed);
            lies(&rig.volume);
            play(rig, seed, backend)
        };
        assert!((0..60).any(|seed| lying(seed).is_err()), "{backend:?}, {objects:?}");
    }
}

/// What a process that ended without a word has written in place is in the disk's cache alone. Whoever opens the volume next
/// reads it, and a flush makes it durable.
#[test]
fn what_an_opening_before_has_written_is_made_durable_by_a_flush() {
    let rig = Rig::new(3, Backend::Overlay);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        write_base(&volume).await;
        volume.flush().await.unwrap();
        volume.write_bytes(ByteOffset(BLOCK), &[b'?'; BLOCK as usize], Durability::OnFlush).await.unwrap();
        drop(volume);
        let volume = rig.open().await;
        assert_eq!(current(&volume).await, "a?cdefgh");
        volume.flush().await.unwrap();
        drop(volume);
        rig.cut_power();
        assert_eq!(current(&rig.open().await).await, "a?cdefgh");
    });
}
