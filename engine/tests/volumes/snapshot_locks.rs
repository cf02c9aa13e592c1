//! Locked snapshots: neither deleted nor broken, over crashes, full pools and clocks that were set back.

use icecore::device::simulated::Event;
use icecore::error::{Kind, Reason};
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::volume::{CreateOptions, LockTime, OpenMode, SnapshotLock, Volume, WhenFull};

use crate::vlog::{
    BLOCK, MANUAL, MIB, PREFIXES, Rig, current, cut_at_each_request, is_sound, shown, small, write,
    write_base,
};

const SECOND_NS: u64 = 1_000_000_000;
const BACKENDS: [Backend; 4] = [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow];

fn rig(backend: Backend) -> Rig {
    Rig::new(1, 8 * MIB, CreateOptions { size_bytes: Some(64 * BLOCK), ..small(backend) })
}

fn now(volume: &Volume) -> u64 {
    volume.context().unix_time_ns()
}

fn lock_of(volume: &Volume, name: &str) -> Option<SnapshotLock> {
    volume.snapshot(name).unwrap().lock
}

/// It is not deleted, and nothing is written.
async fn is_kept(rig: &Rig, volume: &Volume, name: &str, until_unix_ns: Option<u64>) {
    volume.context().sleep(3 * SECOND_NS / 1000).await;
    rig.disk.start_recording();
    let refused = volume.delete_snapshot(name).await.unwrap_err();
    assert_eq!(*refused.reason(), Reason::SnapshotLocked { name: name.to_string(), until_unix_ns });
    assert_eq!(refused.kind(), Kind::Denied);
    let recorded = rig.disk.recorded();
    let is_write = |kind| matches!(kind, OperationKind::Write { .. });
    assert!(!recorded.iter().any(|one| one.event == Event::Arrived && is_write(one.kind)));
}

#[test]
fn what_is_held_is_kept_until_it_is_unlocked() {
    for backend in BACKENDS {
        let rig = rig(backend);
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            for name in ["T0", "free"] {
                volume.create_snapshot(name).await.unwrap();
            }
            assert!(!volume.info().features.contains(&"snapshot locks"));
            let locked = volume.lock_snapshot("T0", LockTime::Held).await.unwrap();
            assert_eq!(locked.lock, Some(SnapshotLock { until_unix_ns: 0, held: true }));
            assert!(volume.info().features.contains(&"snapshot locks"));
            write(&volume, 0, b'x').await.unwrap();
            is_kept(&rig, &volume, "T0", None).await;
            let volume = rig.cut_and_open(volume).await;
            assert_eq!(lock_of(&volume, "T0"), locked.lock);
            is_kept(&rig, &volume, "T0", None).await;
            // The control: of the same moment, and not locked.
            volume.delete_snapshot("free").await.unwrap();
            assert_eq!(shown(&volume, "T0").await.unwrap(), PREFIXES[0]);
            assert_eq!(volume.unlock_snapshot("T0").await.unwrap().lock, None);
            volume.unlock_snapshot("T0").await.unwrap();
            volume.delete_snapshot("T0").await.unwrap();
            // A name that is given anew has no lock.
            assert_eq!(volume.create_snapshot("T0").await.unwrap().lock, None);
            volume.delete_snapshot("T0").await.unwrap();
            let gone = volume.lock_snapshot("T0", LockTime::Held).await.unwrap_err();
            assert!(matches!(gone.reason(), Reason::NoSnapshot { .. }), "{gone}");
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
        });
    }
}

#[test]
fn a_time_that_has_not_come_can_only_be_put_off() {
    let rig = rig(Backend::Log);
    rig.runtime.block_on(async {
        let mut volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        let past = volume.lock_snapshot("T0", LockTime::Until(now(&volume))).await.unwrap_err();
        assert!(matches!(past.reason(), Reason::InvalidSetting { name: "locked until", .. }), "{past}");
        let until = now(&volume) + 100 * SECOND_NS;
        volume.lock_snapshot("T0", LockTime::Until(until)).await.unwrap();
        for reopened in [false, true] {
            if reopened {
                volume = rig.cut_and_open(volume).await;
            }
            is_kept(&rig, &volume, "T0", Some(until)).await;
            for time in [LockTime::Until(until - 1), LockTime::For(SECOND_NS)] {
                let shorter = volume.lock_snapshot("T0", time).await.unwrap_err();
                assert!(matches!(shorter.reason(), Reason::SnapshotLocked { .. }), "{shorter}");
            }
            let early = volume.unlock_snapshot("T0").await.unwrap_err();
            assert_eq!(early.kind(), Kind::Denied);
            assert_eq!(lock_of(&volume, "T0").unwrap().until_unix_ns, until);
        }
        // Holding it besides does not make the time shorter.
        volume.lock_snapshot("T0", LockTime::Held).await.unwrap();
        assert!(volume.unlock_snapshot("T0").await.is_err());
        let later = until + 50 * SECOND_NS;
        volume.lock_snapshot("T0", LockTime::Until(later)).await.unwrap();
        let wait = later - now(&volume) - SECOND_NS;
        volume.context().sleep(wait).await;
        is_kept(&rig, &volume, "T0", Some(later)).await;
        volume.context().sleep(2 * SECOND_NS).await;
        assert_eq!(lock_of(&volume, "T0"), Some(SnapshotLock { until_unix_ns: later, held: true }));
        is_kept(&rig, &volume, "T0", None).await;
        volume.unlock_snapshot("T0").await.unwrap();
        volume.lock_snapshot("T0", LockTime::For(10 * SECOND_NS)).await.unwrap();
        volume.context().sleep(11 * SECOND_NS).await;
        assert_eq!(lock_of(&volume, "T0"), None, "its time has come");
        volume.delete_snapshot("T0").await.unwrap();
    });
}

#[test]
fn a_clock_that_was_set_back_makes_no_lock_shorter() {
    let rig = rig(Backend::Log);
    let until = rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        volume.context().sleep(1000 * SECOND_NS).await;
        write_base(&volume).await;
        for name in ["before", "after"] {
            volume.create_snapshot(name).await.unwrap();
        }
        let locked = volume.lock_snapshot("before", LockTime::For(10 * SECOND_NS)).await.unwrap();
        volume.context().sleep(5 * SECOND_NS).await;
        write(&volume, 0, b'x').await.unwrap();
        volume.close().await.unwrap();
        locked.lock.unwrap().until_unix_ns
    });
    // The same disk, in a machine whose clock stands a thousand seconds before.
    let (runtime, calendar) = Runtime::simulated(2).unwrap();
    let disk = rig.disk.after_cut(&calendar, |_, _| true);
    runtime.block_on(async {
        let volume = Volume::open(disk.open(runtime.context()).unwrap(), OpenMode::ReadWrite).await.unwrap();
        assert!(now(&volume) + 900 * SECOND_NS < until);
        volume.context().sleep(100 * SECOND_NS).await;
        assert!(volume.delete_snapshot("before").await.is_err(), "its time has not come");
        // For as long as is said, behind the latest time that the volume has seen.
        let locked = volume.lock_snapshot("after", LockTime::For(10 * SECOND_NS)).await.unwrap();
        assert!(locked.lock.unwrap().until_unix_ns > until);
        volume.context().sleep(1000 * SECOND_NS).await;
        volume.delete_snapshot("before").await.unwrap();
        volume.delete_snapshot("after").await.unwrap();
    });
}

#[test]
fn the_oldest_that_is_not_locked_is_broken_and_without_one_writes_are_refused() {
    for (backend, locks) in
        [Backend::Cow, Backend::Overlay].into_iter().flat_map(|one| [(one, true), (one, false)])
    {
        let (size_bytes, snapshot_bytes) = (Some(8 * BLOCK), Some(4 * BLOCK));
        let when_full = WhenFull::BreakSnapshots;
        let options = CreateOptions { size_bytes, snapshot_bytes, when_full, ..small(backend) };
        let rig = Rig::new(3, 8 * MIB, options);
        rig.runtime.block_on(async {
            let mut volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            // Each keeps what the next write overwrites, and one more block takes the last of the room.
            for (name, letter) in [("T0", b'x'), ("T1", b'y'), ("T2", b'z')] {
                volume.create_snapshot(name).await.unwrap();
                write(&volume, 0, letter).await.unwrap();
            }
            write(&volume, 1, b'q').await.unwrap();
            if locks {
                volume.lock_snapshot("T0", LockTime::Held).await.unwrap();
            }
            let broken =
                |volume: &Volume| ["T0", "T1", "T2"].map(|name| volume.snapshot(name).unwrap().broken);
            write(&volume, 2, b'q').await.unwrap();
            if !locks {
                assert!(broken(&volume)[0], "the control: the oldest one");
                return;
            }
            assert_eq!(broken(&volume), [false, true, false], "{backend:?}");
            let refused = volume.lock_snapshot("T1", LockTime::Held).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::SnapshotBroken { .. }), "{refused}");
            volume.lock_snapshot("T2", LockTime::For(3600 * SECOND_NS)).await.unwrap();
            for reopened in [false, true] {
                if reopened {
                    volume = rig.cut_and_open(volume).await;
                }
                let full = write(&volume, 3, b'q').await.unwrap_err();
                assert_eq!(*full.reason(), Reason::SnapshotSpaceFull { limit_bytes: 4 * BLOCK });
                assert_eq!(current(&volume).await, "zqqdefgh");
                assert_eq!(shown(&volume, "T0").await.unwrap(), "abcdefgh");
                assert_eq!(shown(&volume, "T2").await.unwrap(), "ybcdefgh");
            }
            volume.unlock_snapshot("T0").await.unwrap();
            volume.context().sleep(3601 * SECOND_NS).await;
            write(&volume, 3, b'q').await.unwrap();
            assert!(broken(&volume)[0], "{backend:?}: nothing keeps it any more");
            assert_eq!(current(&volume).await, "zqqqefgh");
        });
    }
}

#[test]
fn a_pool_full_of_locked_snapshots_refuses_and_goes_on_when_one_is_unlocked() {
    for backend in BACKENDS {
        let options = CreateOptions {
            size_bytes: Some(128 * BLOCK),
            when_full: WhenFull::BreakSnapshots,
            ..small(backend)
        };
        let rig = Rig::new(4, 8 * MIB, options);
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            let mut full = None;
            'rounds: for round in 0..30_u8 {
                let name = format!("{round:02}");
                volume.create_snapshot(&name).await.unwrap();
                volume.lock_snapshot(&name, LockTime::Held).await.unwrap();
                for block in 0..128 {
                    full = write(&volume, block, b'A' + round).await.err();
                    if full.is_some() {
                        break 'rounds;
                    }
                }
            }
            let full = full.expect("they fill it");
            assert!(matches!(full.reason(), Reason::LogFull { .. }), "{full}");
            assert!(volume.snapshots().iter().all(|one| !one.broken && one.lock.is_some()));
            for snapshot in volume.snapshots().iter().take(8) {
                volume.unlock_snapshot(&snapshot.name).await.unwrap();
            }
            volume.context().sleep(3 * SECOND_NS).await;
            for block in 0..128 {
                write(&volume, block, b'!').await.unwrap();
            }
            let broken: Vec<bool> = volume.snapshots().iter().map(|one| one.broken).collect();
            assert!(broken[0] && !broken[8..].contains(&true), "{backend:?}: {broken:?}");
        });
    }
}

#[test]
fn a_cut_while_it_is_locked_or_unlocked_leaves_it_locked_or_not() {
    for unlocking in [false, true] {
        let mut seen = [0, 0];
        let cuts = cut_at_each_request(|cut_at| {
            let rig = rig(Backend::Log);
            rig.runtime.block_on(async {
                let volume = rig.open(MANUAL).await;
                write_base(&volume).await;
                volume.create_snapshot("T0").await.unwrap();
                if unlocking {
                    volume.lock_snapshot("T0", LockTime::Held).await.unwrap();
                }
                let work = async {
                    match unlocking {
                        true => volume.unlock_snapshot("T0").await.unwrap(),
                        false => volume.lock_snapshot("T0", LockTime::Held).await.unwrap(),
                    }
                };
                let ended = rig.run_until(cut_at, work).await;
                let volume = rig.cut_and_open(volume).await;
                let is_locked = lock_of(&volume, "T0").is_some();
                seen[usize::from(is_locked)] += 1;
                assert!(!ended || is_locked != unlocking, "what has been answered is durable");
                assert_eq!(volume.delete_snapshot("T0").await.is_err(), is_locked);
                ended
            })
        });
        println!("unlocking {unlocking}: {cuts} cuts, not locked and locked: {seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}
