//! A log with a linear volume behind it, on the vectors of V-LOG.
//!
//! What the volume holds is read from the disk itself, at the place where eight neighbouring regions carry the
//! letters of the base; what was written there is counted from the disk's own recording.

use icecore::device::simulated::{Event, SimulatedDisk};
use icecore::error::{Error, Kind, Reason};
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

const BLOCK: u64 = 4096;
const BASE: &str = "abcdefgh";
const WRITES: [(u64, u8); 6] = [(0, b'x'), (3, b'z'), (0, b'1'), (2, b'F'), (3, b'y'), (5, b'G')];
/// The volume after each of the writes.
const PREFIXES: [&str; 7] =
    ["abcdefgh", "xbcdefgh", "xbczefgh", "1bczefgh", "1bFzefgh", "1bFyefgh", "1bFyeGgh"];
const MANUAL: ApplyOptions = ApplyOptions { mode: ApplyMode::Absorb, automatic: false, at_open: false };

struct Rig {
    runtime: Runtime,
    disk: SimulatedDisk,
    bytes: u64,
}

fn small(size_bytes: u64) -> CreateOptions {
    CreateOptions {
        size_bytes: Some(size_bytes),
        region_bytes: BLOCK as u32,
        segment_bytes: Some(64 << 10),
        checkpoint_bytes: Some(128 << 10),
        ..CreateOptions::new(Backend::Linear)
    }
}

impl Rig {
    fn new(bytes: u64, options: CreateOptions) -> Self {
        let (runtime, calendar) = Runtime::simulated(7).unwrap();
        let disk = SimulatedDisk::new(&calendar, 7, "disk", bytes, BLOCK as u32);
        let device = disk.open(runtime.context()).unwrap();
        runtime.block_on(Volume::create(&device, options)).unwrap();
        Self { runtime, disk, bytes }
    }

    async fn open(&self, apply: ApplyOptions) -> Volume {
        let device = self.disk.open(self.runtime.context()).unwrap();
        let options = OpenOptions { apply, ..OpenOptions::default() };
        Volume::open_with(device, OpenMode::ReadWrite, options).await.unwrap()
    }

    /// With the base written and applied: the volume, and where its first region lies on the disk.
    async fn with_base(&self, apply: ApplyOptions) -> (Volume, u64) {
        let volume = self.open(apply).await;
        for (region, letter) in (0..).zip(BASE.bytes()) {
            write(&volume, region, letter).await.unwrap();
        }
        volume.apply(None).await.unwrap();
        let is_base = |at: &u64| {
            let letters = self.letters(*at);
            letters.starts_with('a') && letters == BASE
        };
        let home = (0..self.bytes - 8 * BLOCK).step_by(BLOCK as usize).find(is_base);
        (volume, home.expect("the base lies somewhere on the disk"))
    }

    /// What eight neighbouring regions of the disk begin with.
    fn letters(&self, at: u64) -> String {
        (0..8).map(|region| char::from(self.disk.peek(at + region * BLOCK, 1)[0])).collect()
    }

    /// Writes to a range of the disk since the recording began.
    fn writes_to(&self, at: u64, bytes: u64) -> usize {
        let recorded = self.disk.recorded();
        let hits = recorded.iter().filter(|one| {
            matches!((one.event, one.kind), (Event::Arrived, OperationKind::Write { .. }))
                && one.offset < at + bytes
                && at < one.offset + one.length
        });
        hits.count()
    }
}

async fn write(volume: &Volume, region: u64, letter: u8) -> Result<(), Error> {
    let buf = volume.context().buffers().copy_of(&[letter; BLOCK as usize]).unwrap();
    volume.write(ByteOffset(region * BLOCK), buf, Durability::Durable).await.0
}

async fn current(volume: &Volume) -> String {
    let mut letters = String::new();
    for region in 0..8 {
        let mut bytes = [0; BLOCK as usize];
        volume.read_bytes(ByteOffset(region * BLOCK), &mut bytes).await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        letters.push(char::from(bytes[0]));
    }
    letters
}

async fn write_all(volume: &Volume) {
    for (region, letter) in WRITES {
        write(volume, region, letter).await.unwrap();
    }
}

#[test]
fn nothing_reaches_the_volume_before_it_is_applied() {
    let rig = Rig::new(16 << 20, small(1 << 20));
    rig.runtime.block_on(async {
        let (volume, home) = rig.with_base(MANUAL).await;
        rig.disk.start_recording();
        write_all(&volume).await;
        assert_eq!((current(&volume).await.as_str(), rig.letters(home).as_str()), ("1bFyeGgh", BASE));
        assert_eq!(rig.writes_to(home, 8 * BLOCK), 0);
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(MANUAL).await;
        assert_eq!((current(&volume).await.as_str(), rig.letters(home).as_str()), ("1bFyeGgh", BASE));
        // And both ways of opening give the same.
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open(ApplyOptions { at_open: true, ..MANUAL }).await;
        assert_eq!((current(&volume).await.as_str(), rig.letters(home).as_str()), ("1bFyeGgh", "1bFyeGgh"));
    });
}

#[test]
fn strict_applying_brings_each_entry_home_in_order() {
    let rig = Rig::new(16 << 20, small(1 << 20));
    rig.runtime.block_on(async {
        let strict = ApplyOptions { mode: ApplyMode::Strict, ..MANUAL };
        let (volume, home) = rig.with_base(strict).await;
        let base = volume.info().sequence.0;
        write_all(&volume).await;
        for (count, expected) in PREFIXES.iter().enumerate().skip(1) {
            let applied = volume.apply(Some(Seq(base + count as u64))).await.unwrap();
            assert_eq!(applied, Seq(base + count as u64));
            assert_eq!(rig.letters(home), *expected, "{count} entries");
            assert_eq!(current(&volume).await, "1bFyeGgh");
        }
        let error = volume.apply(Some(Seq(base + 7))).await.unwrap_err();
        assert_eq!(*error.reason(), Reason::UnknownMoment { moment: base + 7, last: base + 6 });
    });
}

#[test]
fn a_cut_at_any_write_of_the_applier_changes_nothing_that_is_read() {
    for mode in [ApplyMode::Strict, ApplyMode::Absorb] {
        // How many requests applying takes, and then a cut before each of them.
        let mut requests = None;
        let mut cut_at = 0;
        while requests.is_none_or(|requests| cut_at <= requests) {
            let rig = Rig::new(16 << 20, small(1 << 20));
            let options = ApplyOptions { mode, ..MANUAL };
            rig.runtime.block_on(async {
                let (volume, home) = rig.with_base(options).await;
                write_all(&volume).await;
                let before = rig.disk.requests();
                let context = rig.runtime.context().clone();
                let applying = volume.clone();
                let task = context.spawn(async move { applying.apply(None).await.unwrap() });
                if requests.is_none() {
                    task.await;
                    requests = Some(rig.disk.requests() - before);
                } else {
                    while rig.disk.requests() < before + cut_at && !task.has_ended() {
                        context.sleep(1_000).await;
                    }
                    task.abort();
                    drop(volume);
                    rig.disk.cut_power();
                    let volume = rig.open(options).await;
                    assert_eq!(current(&volume).await, "1bFyeGgh", "{mode:?}, cut at request {cut_at}");
                    volume.apply(None).await.unwrap();
                    assert_eq!(current(&volume).await, "1bFyeGgh");
                    assert_eq!(rig.letters(home), "1bFyeGgh", "{mode:?}, cut at request {cut_at}");
                    cut_at += 1;
                }
            });
        }
        println!("{mode:?}: {requests:?} requests");
    }
}

#[test]
fn a_pinned_base_stays_as_it_is_until_changes_are_accepted() {
    let rig = Rig::new(16 << 20, small(1 << 20));
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
        assert_eq!((rig.letters(home).as_str(), current(&volume).await.as_str()), ("1bczefgh", "1bFyeGgh"));
        assert!(volume.apply(None).await.is_err());
        volume.accept(None).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!(rig.letters(home), "1bFyeGgh");
    });
}

#[test]
fn absorbed_entries_reach_the_volume_once_and_stay_readable() {
    for (mode, expected) in [(ApplyMode::Absorb, 1), (ApplyMode::Strict, 1000)] {
        let options = CreateOptions { retention_bytes: 16 << 20, ..small(1 << 20) };
        let rig = Rig::new(64 << 20, CreateOptions { checkpoint_bytes: Some(16 << 20), ..options });
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
            assert_eq!(rig.writes_to(home, BLOCK), expected, "{mode:?}");
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
    let rig = Rig::new(5 << 20, CreateOptions { thin: true, ..small(64 << 20) });
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let extents = |volume: &Volume| volume.status().log.unwrap().apply.unwrap().extents;
        let regions_of_extent = (64 << 10) / BLOCK;
        for extent in 0..3 {
            write(&volume, extent * regions_of_extent, b'a' + extent as u8).await.unwrap();
        }
        assert_eq!(extents(&volume), 0);
        volume.apply(None).await.unwrap();
        assert_eq!(extents(&volume), 3);
        volume.discard(ByteOffset(0), 64 << 10).await.unwrap();
        volume.apply(None).await.unwrap();
        assert_eq!(extents(&volume), 2);
        let mut bytes = [1; BLOCK as usize];
        volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
        assert_eq!(bytes, [0; BLOCK as usize]);
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
                volume.read_bytes(ByteOffset(extent * (64 << 10)), &mut bytes).await.unwrap();
                let expected = (extent % 200) as u8 + 1;
                assert_eq!(bytes[0], expected, "extent {extent}");
            }
            drop(volume);
            rig.disk.cut_power();
            opened = Some(rig.open(ApplyOptions::default()).await);
        }
    });
}

#[test]
fn a_full_log_refuses_writes_and_goes_on_when_it_has_been_applied() {
    let rig = Rig::new(5 << 20, small(1 << 20));
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
        for region in 0..256.min(count) {
            let last = (0..count).rev().find(|one| one % 256 == region).unwrap();
            let mut bytes = [0; BLOCK as usize];
            volume.read_bytes(ByteOffset(region * BLOCK), &mut bytes).await.unwrap();
            assert_eq!(bytes[0], (last % 251) as u8);
        }
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
