//! a volume without a log, and one with a log in memory. What the disk got is judged from its own recording.
//!
//! The log on a device is one stream; that it can be read region by region is shown in `log_volume.rs` (decision 16).

use icecore::device::Cause;
use icecore::device::simulated::{Event, Fault, Recorded};
use icecore::error::{Error, Kind, Reason};
use icecore::runtime::OperationKind;
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, DurabilityClass, OpenOptions, Volume};

use crate::vlog::{self, BASE, BLOCK, MIB, PREFIXES, Rig, WRITES, byte, current};

const ROOM_BYTES: usize = 16 * BLOCK as usize;

/// A volume of two mebibytes with the base written.
fn rig(seed: u64, volatile_log: bool) -> Rig {
    let direct = CreateOptions::new(Backend::Direct);
    let options =
        CreateOptions { size_bytes: Some(2 * MIB), region_bytes: BLOCK as u32, volatile_log, ..direct };
    let rig = Rig::new(seed, 8 * MIB, options);
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        for (region, letter) in (0..).zip(BASE.bytes()) {
            write(&volume, region, letter, Durability::OnFlush).await.unwrap();
        }
        volume.close().await.unwrap();
    });
    rig
}

async fn open(rig: &Rig) -> Volume {
    rig.open_with(OpenOptions { volatile_log_bytes: ROOM_BYTES, ..OpenOptions::default() }).await
}

/// Opens once what an earlier opening left behind is gone.
async fn open_again(rig: &Rig) -> Volume {
    rig.disk.cut_power();
    open(rig).await
}

async fn after_a_cut(rig: &Rig, volume: Volume) -> String {
    drop(volume);
    current(&open_again(rig).await).await
}

fn writes(rig: &Rig) -> Vec<Recorded> {
    let is_write = |one: &Recorded| {
        one.event == Event::Arrived && !matches!(one.kind, OperationKind::Read | OperationKind::Flush)
    };
    rig.disk.recorded().into_iter().filter(is_write).collect()
}

fn fail(rig: &Rig, which: impl Fn(OperationKind) -> bool + 'static, fault: Fault) {
    rig.disk.set_plan(Box::new(move |request, _| which(request.kind).then_some(fault)));
}

async fn write(volume: &Volume, region: u64, letter: u8, durability: Durability) -> Result<(), Error> {
    vlog::write_at(volume, region * BLOCK, letter, durability).await
}

async fn write_all(volume: &Volume) {
    vlog::write_all(volume, Durability::OnFlush).await;
}

fn is_write(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Write { .. })
}

fn is_flush(kind: OperationKind) -> bool {
    kind == OperationKind::Flush
}

#[test]
fn without_a_log_each_durable_write_is_one_write_at_its_place_and_survives() {
    for count in 1..=WRITES.len() {
        let rig = rig(count as u64, false);
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            assert_eq!(volume.info().durability_class, DurabilityClass::Local);
            rig.disk.start_recording();
            for (region, letter) in &WRITES[..count] {
                write(&volume, *region, *letter, Durability::Durable).await.unwrap();
            }
            // No log at all: each write once, at its home, and nothing else.
            let data = volume.info().data_offset_bytes;
            let places: Vec<_> = writes(&rig).iter().map(|one| (one.offset, one.length)).collect();
            let homes: Vec<_> =
                WRITES[..count].iter().map(|(region, _)| (data + region * BLOCK, BLOCK)).collect();
            assert_eq!(places, homes);
            let ledger = volume.status().ledger;
            let log = ledger.iter().find(|(cause, _)| *cause == Cause::Log.name()).unwrap();
            assert_eq!((log.1.reads, log.1.writes, log.1.flushes), (0, 0, 0));
            assert_eq!(after_a_cut(&rig, volume).await, PREFIXES[count]);
        });
    }
}

#[test]
fn a_volatile_log_is_in_memory_until_a_flush_and_says_so() {
    let rig = rig(1, true);
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        let status = volume.status();
        assert_eq!(status.info.durability_class, DurabilityClass::None);
        assert_eq!(
            (status.info.durability_class.name(), status.info.features),
            ("none", vec!["volatile log"])
        );
        rig.disk.start_recording();
        write_all(&volume).await;
        assert_eq!(current(&volume).await, "1bFyeGgh");
        assert_eq!(writes(&rig), [], "nothing has left memory");
        // Not flushed: gone, as the status had said.
        assert_eq!(after_a_cut(&rig, volume).await, BASE);

        let volume = open_again(&rig).await;
        write_all(&volume).await;
        rig.disk.start_recording();
        volume.flush().await.unwrap();
        let data = volume.info().data_offset_bytes;
        assert!(writes(&rig).iter().all(|one| (data..data + 8 * BLOCK).contains(&one.offset)));
        let bytes: u64 = writes(&rig).iter().map(|one| one.length).sum();
        assert_eq!(bytes, 4 * BLOCK, "the newest of each block, once");
        assert!(matches!(rig.disk.recorded().last(), Some(last) if last.kind == OperationKind::Flush));
        assert_eq!(after_a_cut(&rig, volume).await, "1bFyeGgh");
    });
}

#[test]
fn a_durable_write_survives_by_itself_and_a_close_saves_everything() {
    for count in 1..=WRITES.len() {
        let rig = rig(20 + count as u64, true);
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            for (region, letter) in &WRITES[..count] {
                write(&volume, *region, *letter, Durability::Durable).await.unwrap();
            }
            assert_eq!(after_a_cut(&rig, volume).await, PREFIXES[count]);
            let volume = open_again(&rig).await;
            write_all(&volume).await;
            volume.close().await.unwrap();
            assert_eq!(after_a_cut(&rig, volume).await, "1bFyeGgh");
        });
    }
}

/// Writes, flushes, cuts power. What the flush said, and whether everything was there.
fn flushed(seed: u64, plan: impl Fn(&Rig)) -> (Result<(), Error>, bool) {
    let rig = rig(seed, true);
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        write_all(&volume).await;
        plan(&rig);
        let said = volume.flush().await;
        if let Err(error) = &said {
            assert_eq!(error.kind(), Kind::DeviceFailed, "{error}");
            let later = volume.flush().await.unwrap_err();
            assert_eq!(*later.reason(), Reason::Poisoned, "a later flush does not pretend either");
            assert!(volume.status().poisoned);
        }
        rig.disk.set_plan(Box::new(|_, _| None));
        drop(volume);
        rig.disk.cut_power();
        let volume = open(&rig).await;
        let mut there = true;
        for (region, newest) in "1bFyeGgh".bytes().enumerate() {
            let mut bytes = [0; BLOCK as usize];
            volume.read_bytes(ByteOffset(region as u64 * BLOCK), &mut bytes).await.unwrap();
            // A write that failed has happened in part; each sector is old or new all the same.
            for sector in bytes.chunks(512) {
                let of_prefix = |prefix: &str| sector.iter().all(|byte| *byte == prefix.as_bytes()[region]);
                assert!(PREFIXES.iter().any(|prefix| of_prefix(prefix)), "region {region}: {}", sector[0]);
            }
            there &= bytes == [newest; BLOCK as usize];
        }
        (said, there)
    })
}

#[test]
fn a_flush_has_forced_everything_to_the_volume_or_it_fails() {
    for seed in 0..20 {
        let (said, there) = flushed(seed, |_| {});
        assert!(said.is_ok() && there);
        for which in [is_write as fn(OperationKind) -> bool, is_flush] {
            let (said, _) = flushed(seed, |rig| fail(rig, which, Fault::Fail(libc::EIO)));
            assert!(said.is_err(), "seed {seed}");
        }
    }
    // The control: a disk that lies to the engine is found out by this test.
    assert!((0..20).any(|seed| {
        let (said, there) = flushed(seed, |rig| fail(rig, is_write, Fault::Drop));
        said.is_ok() && !there
    }));
}

#[test]
fn memory_is_bounded_and_what_leaves_it_early_is_what_was_written() {
    let rig = rig(3, true);
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        rig.disk.start_recording();
        for region in 0..256_u64 {
            write(&volume, region, b'A' + (region % 26) as u8, Durability::OnFlush).await.unwrap();
            let left: u64 = writes(&rig).iter().map(|one| one.length).sum();
            let held = (region + 1) * BLOCK - left;
            assert!(held <= ROOM_BYTES as u64, "{held} bytes in memory");
        }
        assert!(!rig.disk.recorded().iter().any(|one| one.kind == OperationKind::Flush), "nobody asked");
        for region in 0..256 {
            assert_eq!(byte(&volume, region).await.unwrap(), b'A' + (region % 26) as u8);
        }
        // A write that finds no room and a disk that fails is told so, and takes nothing else with it.
        fail(&rig, is_write, Fault::Fail(libc::EIO));
        let mut refused = 0;
        for region in 0..32 {
            refused += u32::from(write(&volume, region, b'n', Durability::OnFlush).await.is_err());
        }
        assert!(refused > 0);
        rig.disk.set_plan(Box::new(|_, _| None));
        volume.flush().await.unwrap();
        drop(volume);
        rig.disk.cut_power();
        let volume = open(&rig).await;
        for region in 32..256 {
            assert_eq!(byte(&volume, region).await.unwrap(), b'A' + (region % 26) as u8);
        }
    });
}

/// While something newer is on its way to the disk, nobody reads what was there before what has completed.
#[test]
fn no_read_sees_less_than_what_has_completed() {
    for (kind, allowed) in [(0, b"bc"), (1, b"b\0"), (2, b"b\0")] {
        let rig = rig(4, true);
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            write(&volume, 0, b'b', Durability::OnFlush).await.unwrap();
            fail(&rig, |kind| kind != OperationKind::Read, Fault::Stall(5_000_000));
            let changing = volume.clone();
            let task = volume.context().spawn(async move {
                match kind {
                    0 => write(&changing, 0, b'c', Durability::Durable).await.unwrap(),
                    1 => changing.discard(ByteOffset(0), BLOCK).await.unwrap(),
                    _ => changing.write_zeroes(ByteOffset(0), BLOCK).await.unwrap(),
                }
            });
            let mut reads = 0;
            while !task.has_ended() {
                let found = byte(&volume, 0).await.unwrap();
                assert!(allowed.contains(&found), "{found} while {kind}");
                reads += 1;
            }
            assert!(reads > 3);
            assert_eq!(Some(&byte(&volume, 0).await.unwrap()), allowed.last());
        });
    }
}

/// A flush whose future is dropped leaves a write-back under way; what is written later still comes after it.
#[test]
fn a_dropped_flush_overtakes_nothing() {
    let rig = rig(5, true);
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        let context = volume.context().clone();
        write(&volume, 0, b'b', Durability::OnFlush).await.unwrap();
        fail(&rig, is_write, Fault::Hold);
        let flushing = volume.clone();
        let task = context.spawn(async move { flushing.flush().await });
        while rig.disk.tickets().is_empty() {
            context.sleep(1_000).await;
        }
        task.abort();
        drop(task);
        rig.disk.set_plan(Box::new(|_, _| None));
        let held = rig.disk.tickets();
        let writing = volume.clone();
        let task = context.spawn(async move { write(&writing, 0, b'c', Durability::Durable).await });
        context.sleep(20_000_000).await;
        held.into_iter().for_each(|ticket| rig.disk.release_held(ticket));
        task.await.unwrap().unwrap();
        while context.operations_in_use() > 0 {
            context.sleep(100_000).await;
        }
        let on_disk = rig.disk.peek(volume.info().data_offset_bytes, 1);
        assert_eq!(on_disk, b"c");
        assert_eq!(after_a_cut(&rig, volume).await, "cbcdefgh");
    });
}

#[test]
fn a_log_on_the_device_is_not_volatile_as_well() {
    let rig = Rig::new(9, 32 * MIB, CreateOptions::new(Backend::Log));
    let (runtime, device) = (&rig.runtime, rig.device());
    for backend in [Backend::Log, Backend::Linear] {
        let options = CreateOptions { volatile_log: true, ..CreateOptions::new(backend) };
        let error = runtime.block_on(Volume::create(&device, options)).unwrap_err();
        assert!(error.to_string().contains("volatile log = yes"), "{error}");
        let options = CreateOptions { volatile_log: false, ..options };
        let info = runtime.block_on(Volume::create(&device, options)).unwrap();
        assert_eq!(info.durability_class, DurabilityClass::Local);
    }
}
