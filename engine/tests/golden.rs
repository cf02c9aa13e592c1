//! Images of volumes as earlier builds wrote them: this build opens them, reads every moment, and finds them clean.
//!
//! `golden/NAME.txt` holds the sectors that are not zero, one a line: the offset, then bytes in hexadecimal, `*N`
//! behind one that comes N times. They are never made anew for a format version that has been released; a new
//! version adds its own. `GOLDEN_WRITE=1 cargo test -p icecore --features sim --test golden -- --test-threads=1` writes those of the
//! version that the build writes.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

use std::fmt::Write as _;
use std::path::PathBuf;

use icecore::check::check;
use icecore::device::Device;
use icecore::device::simulated::SimulatedDisk;
use icecore::runtime::Runtime;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

const DIRECT: (&str, u64) = ("direct-1", 4 << 20);
const LOG: (&str, u64) = ("log-1", 4 << 20);
const LINEAR: (&str, u64) = ("linear-1", 4 << 20);
const BLOCK: u64 = 4096;
/// So many of the writes are at home in the linear volume, and so many may come there.
const APPLIED: u64 = 8;
const ACCEPTED: u64 = 10;
/// Block and letter of each write, by sequence from 1 on; a blank is a discard. The last three lie behind the
/// checkpoint.
const WRITES: [(u64, u8); 17] = [
    (0, b'a'),
    (1, b'b'),
    (2, b'c'),
    (3, b'd'),
    (4, b'e'),
    (5, b'f'),
    (6, b'g'),
    (7, b'h'),
    (0, b'x'),
    (3, b'z'),
    (0, b'1'),
    (2, b'F'),
    (6, b' '),
    (3, b'y'),
    (5, b'G'),
    (7, b' '),
    (6, b'!'),
];
const CLOSED_AFTER: usize = 14;
const NEWEST: &str = "1bFyeG! ";

struct Rig {
    runtime: Runtime,
    disk: SimulatedDisk,
}

fn rig(size: u64) -> Rig {
    let (runtime, calendar) = Runtime::simulated(11).unwrap();
    Rig { disk: SimulatedDisk::new(&calendar, 11, "golden", size, 4096), runtime }
}

impl Rig {
    async fn device(&self) -> Device {
        loop {
            match self.disk.open(self.runtime.context()) {
                Ok(device) => return device,
                Err(_busy) => self.runtime.context().sleep(100_000).await,
            }
        }
    }

    async fn write(&self, volume: &Volume, writes: &[(u64, u8)]) {
        for (block, letter) in writes {
            let offset = ByteOffset(block * BLOCK);
            if *letter == b' ' {
                volume.discard(offset, BLOCK).await.unwrap();
            } else {
                let bytes = [*letter; BLOCK as usize];
                volume.write_bytes(offset, &bytes, Durability::Durable).await.unwrap();
            }
            volume.flush().await.unwrap();
        }
    }

    fn make(&self, backend: Backend) {
        self.runtime.block_on(async {
            let options = CreateOptions {
                size_bytes: Some(32 * BLOCK),
                region_bytes: BLOCK as u32,
                block_bytes: Some(BLOCK as u32),
                segment_bytes: Some(64 << 10),
                checkpoint_bytes: Some(128 << 10),
                retention_bytes: if backend == Backend::Direct { 0 } else { 1 << 20 },
                created_unix_s: 1_700_000_000,
                ..CreateOptions::new(backend)
            };
            Volume::create(&self.device().await, options).await.unwrap();
            let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
            let options = OpenOptions { apply, ..OpenOptions::default() };
            let open = async || Volume::open_with(self.device().await, OpenMode::ReadWrite, options).await;
            let volume = open().await.unwrap();
            self.write(&volume, &WRITES[..CLOSED_AFTER]).await;
            if backend == Backend::Linear {
                volume.apply(Some(Seq(APPLIED))).await.unwrap();
                volume.pin_base().await.unwrap();
                volume.accept(Some(Seq(ACCEPTED))).await.unwrap();
            }
            volume.close().await.unwrap();
            drop(volume);
            let volume = open().await.unwrap();
            self.write(&volume, &WRITES[CLOSED_AFTER..]).await;
            drop(volume);
            self.disk.cut_power();
        });
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"))
}

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (sector, at) in bytes.chunks(512).zip((0..).step_by(512)) {
        if sector.iter().all(|byte| *byte == 0) {
            continue;
        }
        write!(text, "{at}").unwrap();
        for row in sector.chunk_by(|one, next| one == next) {
            write!(text, " {:02x}", row[0]).unwrap();
            if row.len() > 1 {
                write!(text, "*{}", row.len()).unwrap();
            }
        }
        text.push('\n');
    }
    text
}

fn load(name: &str, disk: &SimulatedDisk) {
    let text = std::fs::read_to_string(path(name)).unwrap();
    assert!(text.len() <= 64 << 10, "{} bytes", text.len());
    for line in text.lines() {
        let (at, rows) = line.split_once(' ').unwrap();
        let mut sector = Vec::new();
        for row in rows.split(' ') {
            let (byte, count) = row.split_once('*').unwrap_or((row, "1"));
            sector.resize(
                sector.len() + count.parse::<usize>().unwrap(),
                u8::from_str_radix(byte, 16).unwrap(),
            );
        }
        assert_eq!(sector.len(), 512, "{line}");
        disk.poke(at.parse().unwrap(), &sector);
    }
}

/// The golden image on a disk of its own; made anew first if that was asked for.
fn golden((name, size): (&str, u64), backend: Backend) -> Rig {
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        let rig = rig(size);
        rig.make(backend);
        std::fs::write(path(name), to_text(&rig.disk.peek(0, size as usize))).unwrap();
    }
    let rig = rig(size);
    load(name, &rig.disk);
    rig
}

fn letter(bytes: &[u8]) -> char {
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a block is of one piece");
    if bytes[0] == 0 { ' ' } else { char::from(bytes[0]) }
}

async fn contents(volume: &Volume) -> String {
    let mut letters = String::new();
    for block in 0..32 {
        let mut bytes = vec![0; BLOCK as usize];
        volume.read_bytes(ByteOffset(block * BLOCK), &mut bytes).await.unwrap();
        letters.push(letter(&bytes));
    }
    assert_eq!(letters[8..].trim(), "");
    letters.truncate(8);
    letters
}

/// What each moment shows, by the list of writes alone.
fn expected(sequence: usize) -> String {
    let mut letters = [b' '; 8];
    WRITES[..sequence].iter().for_each(|(block, letter)| letters[*block as usize] = *letter);
    letters.iter().map(|letter| char::from(*letter)).collect()
}

async fn is_clean(rig: &Rig) {
    let report = check(&rig.device().await, &mut |_| ()).await.unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn a_direct_volume_of_version_1_opens() {
    let rig = golden(DIRECT, Backend::Direct);
    rig.runtime.block_on(async {
        is_clean(&rig).await;
        let volume = Volume::open(rig.device().await, OpenMode::ReadOnly).await.unwrap();
        let info = volume.info();
        assert_eq!((info.format_version, info.size_bytes, info.closed), (1, 32 * BLOCK, false));
        assert_eq!(contents(&volume).await, NEWEST);
    });
}

#[test]
fn a_log_volume_of_version_1_opens_at_every_moment() {
    assert_eq!(expected(WRITES.len()), NEWEST);
    let rig = golden(LOG, Backend::Log);
    opens_at_every_moment(&rig);
}

#[test]
fn a_linear_volume_of_version_1_opens_at_every_moment_and_is_applied_as_far_as_it_may_be() {
    let rig = golden(LINEAR, Backend::Linear);
    opens_at_every_moment(&rig);
    // The base by its own letters: eight blocks beside each other, which no log has.
    let base = |rig: &Rig, letters: &str| {
        let bytes = rig.disk.peek(0, LINEAR.1 as usize);
        let all: Vec<u8> = bytes.chunks(BLOCK as usize).map(|block| block[0]).collect();
        all.windows(8).any(|row| row == letters.as_bytes())
    };
    assert!(base(&rig, "abcdefgh") && !base(&rig, "xbczefgh"));
    rig.runtime.block_on(async {
        let volume = Volume::open(rig.device().await, OpenMode::ReadWrite).await.unwrap();
        let apply = volume.status().log.unwrap().apply.unwrap();
        assert_eq!((apply.applied, apply.accepted, apply.extents), (APPLIED, Some(ACCEPTED), 1));
        assert!(volume.apply(None).await.is_err(), "the base is pinned");
        volume.apply(Some(Seq(ACCEPTED))).await.unwrap();
        assert_eq!(contents(&volume).await, NEWEST);
        volume.close().await.unwrap();
        drop(volume);
        is_clean(&rig).await;
    });
    assert!(base(&rig, "xbczefgh"));
}

/// What it shows, by the list of writes alone; nothing is written.
fn opens_at_every_moment(rig: &Rig) {
    let before = rig.disk.hash();
    rig.runtime.block_on(async {
        is_clean(rig).await;
        let volume = Volume::open(rig.device().await, OpenMode::ReadOnly).await.unwrap();
        let info = volume.info();
        assert_eq!((info.format_version, info.size_bytes), (1, 32 * BLOCK));
        assert_eq!(info.sequence, Seq(WRITES.len() as u64));
        assert_eq!(volume.status().log.unwrap().recovery.entries, (WRITES.len() - CLOSED_AFTER) as u64);
        assert_eq!(contents(&volume).await, NEWEST);
        // What an index on the device says; the tail is in no run where nothing is written.
        for sequence in 0..=WRITES.len() {
            let options = ImageOptions { sequence: Some(Seq(sequence as u64)), ..ImageOptions::default() };
            let image = volume.image(options).await.unwrap();
            let mut letters = String::new();
            for block in 0..8 {
                let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
                let (result, buf) = image.read(ByteOffset(block * BLOCK), buf).await;
                result.unwrap();
                letters.push(letter(&buf));
            }
            assert_eq!(letters, expected(sequence), "moment {sequence}");
        }
    });
    assert_eq!(rig.disk.hash(), before, "reading writes nothing");
}

#[test]
fn a_changed_image_is_found_out() {
    let rig = golden(LOG, Backend::Log);
    let bytes = rig.disk.peek(0, LOG.1 as usize);
    let at = bytes.chunks(4096).position(|block| block == [b'b'; 4096]).unwrap() as u64 * 4096;
    rig.disk.poke(at + 17, b"c");
    rig.runtime.block_on(async {
        let report = check(&rig.device().await, &mut |_| ()).await.unwrap();
        assert_eq!(report.damage, 1, "{:?}", report.findings);
        let volume = Volume::open(rig.device().await, OpenMode::ReadOnly).await.unwrap();
        volume.read_bytes(ByteOffset(BLOCK), &mut [0; BLOCK as usize]).await.unwrap_err();
    });
}
