//! A log with a linear volume behind it, on the vectors of V-LOG.
//!
//! What the volume holds is read from the disk itself, at the place where eight neighbouring regions carry the
//! letters of the base; what was written there is counted from the disk's own recording.

use std::cell::Cell;
use std::rc::Rc;

use icecore::device::simulated::{Event, SimulatedDisk};
use icecore::error::{Kind, Reason};
use icecore::runtime::OperationKind;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, OpenOptions, Volume};

use crate::vlog::{
    self, BASE, BLOCK, MANUAL, PREFIXES, Rig, SEGMENT_BYTES, byte, byte_at, current, cut_at_each_request,
    letters, linear, write,
};

fn rig(disk_bytes: u64, options: CreateOptions) -> Rig {
    Rig::new(7, disk_bytes, options)
}

async fn write_all(volume: &Volume) {
    vlog::write_all(volume, Durability::Durable).await;
}

/// Writes to a range of the disk since the recording began.
fn writes_to(disk: &SimulatedDisk, at: u64, bytes: u64) -> usize {
    let recorded = disk.recorded();
    let hits = recorded.iter().filter(|one| {
        matches!((one.event, one.kind), (Event::Arrived, OperationKind::Write { .. }))
            && one.offset < at + bytes
            && at < one.offset + one.length
    });
    hits.count()
}

#[test]
fn nothing_reaches_the_volume_before_it_is_applied() {
    let rig = rig(16 << 20, linear(1 << 20));
    rig.runtime.block_on(async {
        let (volume, home) = rig.with_base(MANUAL).await;
        rig.disk.start_recording();
        write_all(&volume).await;
        assert_eq!((current(&volume).await.as_str(), letters(&rig.disk, home).as_str()), ("1bFyeGgh", BASE));
        assert_eq!(writes_to(&rig.disk, home, 8 * BLOCK), 0);
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(MANUAL).await;
        assert_eq!((current(&volume).await.as_str(), letters(&rig.disk, home).as_str()), ("1bFyeGgh", BASE));
        // And both ways of opening give the same.
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(ApplyOptions { at_open: true, ..MANUAL }).await;
        assert_eq!(
            (current(&volume).await.as_str(), letters(&rig.disk, home).as_str()),
            ("1bFyeGgh", "1bFyeGgh")
        );
    });
}

#[test]
fn strict_applying_brings_each_entry_home_in_order() {
    let rig = rig(16 << 20, linear(1 << 20));
    rig.runtime.block_on(async {
        let strict = ApplyOptions { mode: ApplyMode::Strict, ..MANUAL };
        let (volume, home) = rig.with_base(strict).await;
        let base = volume.info().sequence.0;
        write_all(&volume).await;
        for (count, expected) in PREFIXES.iter().enumerate().skip(1) {
            let applied = volume.apply(Some(Seq(base + count as u64))).await.unwrap();
            assert_eq!(applied, Seq(base + count as u64));
            assert_eq!(letters(&rig.disk, home), *expected, "{count} entries");
            assert_eq!(current(&volume).await, "1bFyeGgh");
        }
        let error = volume.apply(Some(Seq(base + 7))).await.unwrap_err();
        assert_eq!(*error.reason(), Reason::UnknownMoment { moment: base + 7, last: base + 6 });
    });
}

#[test]
fn a_cut_at_any_write_of_the_applier_changes_nothing_that_is_read() {
    for mode in [ApplyMode::Strict, ApplyMode::Absorb] {
        let cuts = cut_at_each_request(|cut_at| {
            let rig = rig(16 << 20, linear(1 << 20));
            let options = ApplyOptions { mode, ..MANUAL };
            rig.runtime.block_on(async {
                let (volume, home) = rig.with_base(options).await;
                write_all(&volume).await;
                let applying = async { volume.apply(None).await.unwrap() };
                let ended = rig.run_until(cut_at, applying).await;
                drop(volume);
                rig.disk.cut_power();
                let volume = rig.open(options).await;
                assert_eq!(current(&volume).await, "1bFyeGgh", "{mode:?}, cut at request {cut_at}");
                volume.apply(None).await.unwrap();
                assert_eq!(current(&volume).await, "1bFyeGgh");
                assert_eq!(letters(&rig.disk, home), "1bFyeGgh", "{mode:?}, cut at request {cut_at}");
                ended
            })
        });
        println!("{mode:?}: {cuts} cuts");
        assert!(cuts > 8);
    }
}

#[test]
fn a_pinned_base_stays_as_it_is_until_changes_are_accepted() {
    let rig = rig(16 << 20, linear(1 << 20));
    rig.runtime.block_on(async {
        let (volume, home) = rig.with_base(ApplyOptions::default()).await;
        let base = volume.pin_base().await.unwrap().0;
        let bytes = rig.disk.peek(home, 8 * BLOCK as usize);
        write_all(&volume).await;
        let error = volume.apply(None).await.unwrap_err();
        assert_eq!((error.kind(), error.reason()), (Kind::Denied, &Reason::Pinned { accepted: base }));
        // It stays pinned over a crash.
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(ApplyOptions::default()).await;
        assert!(volume.apply(None).await.is_err());
        assert!(rig.disk.peek(home, 8 * BLOCK as usize) == bytes, "the base is untouched");
        assert_eq!(current(&volume).await, "1bFyeGgh");
        volume.accept(Some(Seq(base + 3))).await.unwrap();
        volume.apply(Some(Seq(base + 3))).await.unwrap();
        assert_eq!(
            (letters(&rig.disk, home).as_str(), current(&volume).await.as_str()),
            ("1bczefgh", "1bFyeGgh")
        );
        assert!(volume.apply(None).await.is_err());
        volume.accept(None).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!(letters(&rig.disk, home), "1bFyeGgh");
    });
}

#[test]
fn absorbed_entries_reach_the_volume_once_and_stay_readable() {
    for (mode, expected) in [(ApplyMode::Absorb, 1), (ApplyMode::Strict, 1000)] {
        let options = CreateOptions { retention_bytes: 16 << 20, ..linear(1 << 20) };
        let rig = rig(64 << 20, CreateOptions { checkpoint_bytes: Some(16 << 20), ..options });
        rig.runtime.block_on(async {
            let (volume, home) = rig.with_base(ApplyOptions { mode, ..MANUAL }).await;
            let base = volume.info().sequence.0;
            rig.disk.start_recording();
            for tag in 1..=1000_u64 {
                let mut bytes = [0; BLOCK as usize];
                bytes[..8].copy_from_slice(&tag.to_le_bytes());
                let buf = volume.context().buffers().copy_of(&bytes).unwrap();
                volume.write(ByteOffset(0), buf, Durability::OnFlush).await.0.unwrap();
            }
            volume.apply(None).await.unwrap();
            assert_eq!(writes_to(&rig.disk, home, BLOCK), expected, "{mode:?}");
            for tag in [17_u64, 500, 999] {
                let options = icecore::store::log::ImageOptions {
                    sequence: Some(Seq(base + tag)),
                    ..icecore::store::log::ImageOptions::default()
                };
                // What the base held is overwritten, but every entry is still in the log.
                let image = volume.image(options).await;
                let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
                let (result, buf) = image.unwrap().read(ByteOffset(0), buf).await;
                result.unwrap();
                assert_eq!(buf[..8], tag.to_le_bytes());
            }
        });
    }
}

#[test]
fn a_thin_volume_takes_space_when_it_is_applied_and_loses_nothing_without() {
    // Room for the log and a few extents; the volume is far larger.
    let rig = rig(5 << 20, CreateOptions { thin: true, ..linear(64 << 20) });
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let extents = |volume: &Volume| volume.status().log.unwrap().apply.unwrap().extents;
        let regions_of_extent = SEGMENT_BYTES / BLOCK;
        for extent in 0..3 {
            write(&volume, extent * regions_of_extent, b'a' + extent as u8).await.unwrap();
        }
        assert_eq!(extents(&volume), 0);
        volume.apply(None).await.unwrap();
        assert_eq!(extents(&volume), 3);
        volume.discard(ByteOffset(0), SEGMENT_BYTES).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!(extents(&volume), 2);
        assert_eq!(byte(&volume, 0).await.unwrap(), 0);
        volume.close().await.unwrap();
        drop(volume);
        // On until there is no room.
        let volume = rig.open(ApplyOptions::default()).await;
        let mut written = 1_u64;
        let error = loop {
            match write(&volume, written * regions_of_extent, (written % 200) as u8 + 1).await {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 1024, "the pool never fills");
        };
        assert_eq!(error.kind(), Kind::NoSpace, "{error}");
        assert!(written > 10, "{written} extents");
        let mut opened = Some(volume);
        for _ in 0..2 {
            let volume = opened.take().unwrap();
            for extent in 1..written {
                let expected = (extent % 200) as u8 + 1;
                assert_eq!(byte_at(&volume, extent * SEGMENT_BYTES).await.unwrap(), expected, "{extent}");
            }
            drop(volume);
            rig.disk.cut_power();
            opened = Some(rig.open(ApplyOptions::default()).await);
        }
    });
}

/// Each region holds the last of the first `count` writes that went to it.
async fn holds(volume: &Volume, count: u64) {
    for region in 0..256.min(count) {
        let last = (0..count).rev().find(|one| one % 256 == region).unwrap();
        assert_eq!(byte(volume, region).await.unwrap(), (last % 251) as u8, "region {region} of {count}");
    }
}

#[test]
fn a_full_log_refuses_writes_and_goes_on_when_it_has_been_applied() {
    let rig = rig(5 << 20, linear(1 << 20));
    rig.runtime.block_on(async {
        let (volume, _) = rig.with_base(MANUAL).await;
        let mut count = 0_u64;
        let error = loop {
            match write(&volume, count % 256, (count % 251) as u8).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(count < 4096, "the log never fills");
        };
        assert!(matches!(error.reason(), Reason::LogFull { .. }), "{error}");
        assert!(count > 100);
        holds(&volume, count).await;
        // What was acknowledged before the refusal survives it.
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(MANUAL).await;
        holds(&volume, count).await;
        volume.apply(None).await.unwrap();
        for region in 0..256 {
            write(&volume, region, 9).await.unwrap();
            if region % 64 == 63 {
                volume.apply(None).await.unwrap();
            }
        }
        volume.close().await.unwrap();
    });
}

#[test]
fn a_write_that_waits_for_a_full_log_takes_nothing_with_it_when_power_is_cut() {
    let rig = rig(5 << 20, linear(1 << 20));
    rig.runtime.block_on(async {
        let waiting = OpenOptions { apply: MANUAL, refuse_when_full: false, ..OpenOptions::default() };
        let volume = rig.open_with(waiting).await;
        let acknowledged = Rc::new(Cell::new(0_u64));
        let (writing, count) = (volume.clone(), Rc::clone(&acknowledged));
        let task = volume.context().spawn(async move {
            loop {
                let next = count.get();
                write(&writing, next % 256, (next % 251) as u8).await.unwrap();
                count.set(next + 1);
            }
        });
        let mut before = u64::MAX;
        while acknowledged.get() != before {
            before = acknowledged.get();
            volume.context().sleep(10_000_000_000).await;
        }
        assert!((101..4096).contains(&before) && !task.has_ended(), "after {before} one waits");
        task.abort();
        drop((task, volume));
        rig.disk.cut_power();
        let volume = rig.open_with(waiting).await;
        holds(&volume, before).await;
        volume.apply(None).await.unwrap();
        holds(&volume, before).await;
        write(&volume, 0, 9).await.unwrap();
    });
}
