//! The `log` backend by the worked example (V-LOG) and by its rows: images, versions, torn tails, damage, laps.
//!
//! Everything runs on a simulated disk, whose bytes and records the assertions look at.

use std::collections::BTreeSet;

use icecore::device::Device;
use icecore::device::simulated::{Event, SimulatedDisk};
use icecore::error::{Kind, Reason};
use icecore::format::batch::{self, Decoded};
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, OpenMode, OpenOptions, Volume};

use crate::vlog::{self, BLOCK, PREFIXES, WRITES, byte, small, write_at};

/// How the letters are laid out.
#[derive(Clone, Copy, Debug)]
struct Form {
    region_bytes: u64,
    /// Letter `i` stands in region `i × stride mod regions`.
    stride: u64,
    regions: u64,
    /// The first 16 bytes of a region name it and the write.
    tagged: bool,
}

const FORMS: [Form; 5] = [
    Form { region_bytes: 4096, stride: 1, regions: 8, tagged: false },
    Form { region_bytes: 65536, stride: 1, regions: 8, tagged: false },
    Form { region_bytes: 4096, stride: 1, regions: 8, tagged: true },
    Form { region_bytes: 65536, stride: 1, regions: 8, tagged: true },
    Form { region_bytes: 4096, stride: 4099, regions: (1 << 30) / 4096, tagged: true },
];

impl Form {
    fn offset(&self, letter: u64) -> ByteOffset {
        ByteOffset(letter * self.stride % self.regions * self.region_bytes)
    }

    fn content(&self, letter: u64, value: u8, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![value; self.region_bytes as usize];
        if self.tagged {
            bytes[..8].copy_from_slice(&letter.to_le_bytes());
            bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        }
        bytes
    }

    /// The letter that a region's bytes are, after its tag was checked.
    fn letter(&self, letter: u64, bytes: &[u8]) -> char {
        let body = if self.tagged { &bytes[16..] } else { bytes };
        assert!(body.iter().all(|byte| *byte == body[0]), "region {letter} is of one piece");
        if self.tagged && body[0] != 0 {
            assert_eq!(bytes[..8], letter.to_le_bytes(), "region {letter} is the one asked for");
        }
        char::from(body[0])
    }
}

struct Rig {
    runtime: Runtime,
    disk: SimulatedDisk,
    form: Form,
    /// The sequence of the last of the eight writes that make the base.
    base: u64,
}

fn options(form: &Form) -> CreateOptions {
    CreateOptions {
        size_bytes: Some(form.regions * form.region_bytes),
        region_bytes: form.region_bytes as u32,
        block_bytes: Some(4096),
        retention_bytes: 64 << 20,
        ..CreateOptions::new(Backend::Log)
    }
}

fn rig(form: Form) -> Rig {
    let (runtime, calendar) = Runtime::simulated(1).unwrap();
    let bytes = if form.stride == 1 { 64 << 20 } else { 2 << 30 };
    let disk = SimulatedDisk::new(&calendar, 1, "disk", bytes, 4096);
    let context = runtime.context().clone();
    let base = runtime.block_on(async {
        let device = disk.open(&context).unwrap();
        Volume::create(&device, options(&form)).await.unwrap();
        let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
        for (letter, value) in (0..8).zip(b'a'..) {
            write(&volume, &form, letter, value, letter + 1).await;
        }
        let base = volume.info().sequence.0;
        volume.close().await.unwrap();
        base
    });
    Rig { runtime, disk, form, base }
}

async fn write(volume: &Volume, form: &Form, letter: u64, value: u8, sequence: u64) {
    let buf = volume.context().buffers().copy_of(&form.content(letter, value, sequence)).unwrap();
    volume.write(form.offset(letter), buf, Durability::Durable).await.0.unwrap();
}

async fn image_of(volume: &Volume, form: &Form) -> String {
    let mut letters = String::new();
    for letter in 0..8 {
        let mut bytes = vec![0; form.region_bytes as usize];
        volume.read_bytes(form.offset(letter), &mut bytes).await.unwrap();
        letters.push(form.letter(letter, &bytes));
    }
    letters
}

async fn past(volume: &Volume, form: &Form, sequence: u64, without: &[u64]) -> String {
    let without: BTreeSet<Seq> = without.iter().map(|entry| Seq(*entry)).collect();
    let image = volume.image(ImageOptions { sequence: Some(Seq(sequence)), without }).await.unwrap();
    let mut letters = String::new();
    for letter in 0..8 {
        let buf = volume.context().buffers().get(form.region_bytes as usize).unwrap();
        let (result, buf) = image.read(form.offset(letter), buf).await;
        result.unwrap();
        letters.push(form.letter(letter, &buf));
    }
    letters
}

impl Rig {
    fn device(&self) -> Device {
        self.disk.open(self.runtime.context()).unwrap()
    }

    async fn open(&self) -> Volume {
        Volume::open(self.device(), OpenMode::ReadWrite).await.unwrap()
    }

    async fn write_all(&self, volume: &Volume) {
        for (number, (letter, value)) in WRITES.into_iter().enumerate() {
            write(volume, &self.form, letter, value, self.base + number as u64 + 1).await;
        }
    }

    /// Where the batches of W1 to W6 lie: address, header and all bytes.
    fn batches(&self, sequence: u64) -> (u64, Vec<u8>) {
        let size = self.disk_bytes();
        for at in (0..size).step_by(4096) {
            let head = self.disk.peek(at, 4096);
            if !head.starts_with(&batch::MAGIC) {
                continue;
            }
            if let Decoded::Valid(found) = batch::decode(&head, at, 4096)
                && found.header.first_sequence.get() == sequence
            {
                return (at, self.disk.peek(at, found.header.total_bytes() as usize));
            }
        }
        panic!("no batch begins with sequence {sequence}")
    }

    fn disk_bytes(&self) -> u64 {
        if self.form.stride == 1 { 64 << 20 } else { 2 << 30 }
    }
}

#[test]
fn every_prefix_and_every_exclusion_opens_now_and_after_a_crash() {
    for form in FORMS {
        let rig = rig(form);
        rig.runtime.block_on(async {
            let mut volume = rig.open().await;
            rig.write_all(&volume).await;
            for round in 0..2 {
                let base = rig.base;
                for (count, expected) in PREFIXES.iter().enumerate() {
                    assert_eq!(past(&volume, &form, base + count as u64, &[]).await, *expected, "{form:?}");
                }
                for (without, expected) in [
                    (&[5][..], "1bFzeGgh"),
                    (&[3], "xbFyeGgh"),
                    (&[4, 5, 6], "1bczefgh"),
                    (&[1, 3], "abFyeGgh"),
                ] {
                    let without: Vec<u64> = without.iter().map(|entry| base + entry).collect();
                    assert_eq!(past(&volume, &form, base + 6, &without).await, expected, "{without:?}");
                    assert_eq!(image_of(&volume, &form).await, "1bFyeGgh");
                }
                let unknown = volume
                    .image(ImageOptions { sequence: None, without: [Seq(base + 9)].into() })
                    .await
                    .unwrap_err();
                assert!(matches!(unknown.reason(), Reason::UnknownMoment { .. }), "{unknown}");
                for (letter, expected) in [(0, vec![1, 3]), (3, vec![2, 5]), (1, vec![])] {
                    let versions = volume.versions(form.offset(letter)).await.unwrap();
                    let first = letter + 1 + rig.base - 8;
                    let mut wanted = vec![0, first];
                    wanted.extend(expected.iter().map(|write| base + write));
                    let found: Vec<u64> = versions.iter().map(|version| version.sequence.0).collect();
                    assert_eq!(found, wanted, "region {letter}");
                }
                if round == 0 {
                    drop(volume);
                    rig.disk.cut_power();
                    volume = rig.open().await;
                }
            }
        });
    }
}

#[test]
fn after_a_cut_the_image_is_what_was_durable() {
    let rig = rig(FORMS[2]);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        rig.write_all(&volume).await;
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open().await;
        assert_eq!(image_of(&volume, &rig.form).await, "1bFyeGgh");
        assert_eq!(volume.info().sequence.0, rig.base + 6);
        assert_eq!(past(&volume, &rig.form, rig.base + 3, &[]).await, "1bczefgh");
    });
}

#[test]
fn a_torn_last_batch_is_the_tail_and_a_damaged_earlier_one_is_damage() {
    let form = FORMS[2];
    let rig = rig(form);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        rig.write_all(&volume).await;
        drop(volume);
        rig.disk.cut_power();
        let base = rig.base;
        let (last, whole) = rig.batches(base + 6);
        // Cut at every sector: the rest is what lay there before.
        for sectors in 0..whole.len() / 512 {
            let mut torn = whole.clone();
            torn[sectors * 512..].fill(0xEE);
            rig.disk.poke(last, &torn);
            let volume = Volume::open(rig.device(), OpenMode::ReadOnly).await.unwrap();
            let changed = torn != whole;
            let expected = if changed { "1bFyefgh" } else { "1bFyeGgh" };
            assert_eq!(image_of(&volume, &form).await, expected, "{sectors} sectors");
        }
        rig.disk.poke(last, &whole);
        // One bit of the fourth, with the fifth and the sixth behind it.
        let (fourth, bytes) = rig.batches(base + 4);
        for at in [20, 130, 5000] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            rig.disk.poke(fourth, &damaged);
            let error = Volume::open(rig.device(), OpenMode::ReadWrite).await.unwrap_err();
            assert_eq!(*error.reason(), Reason::LogDamaged { good_through: base + 3 }, "byte {at}");
            assert_eq!(error.kind(), Kind::Corrupt);
            let volume = Volume::open(rig.device(), OpenMode::ReadOnly).await.unwrap();
            assert_eq!(image_of(&volume, &form).await, "1bczefgh");
            assert_eq!(volume.status().log.unwrap().recovery.damaged_after, Some(base + 3));
        }
        let accepting = OpenMode::ReadWriteAcceptingLoss;
        let volume = Volume::open(rig.device(), accepting).await.unwrap();
        assert_eq!(image_of(&volume, &form).await, "1bczefgh");
        write(&volume, &form, 7, b'!', 0).await;
        drop(volume);
        rig.disk.cut_power();
        let volume = rig.open().await;
        let seventh = Form { tagged: false, ..form };
        let mut bytes = vec![0; 4096];
        volume.read_bytes(seventh.offset(7), &mut bytes).await.unwrap();
        assert_eq!(bytes[100], b'!', "the log goes on, and what was given up stays away");
        assert_eq!(volume.info().sequence.0, base + 4);
    });
}

#[test]
fn a_damaged_last_batch_is_damage_once_a_mark_has_promised_it() {
    let form = FORMS[2];
    let rig = rig(form);
    rig.runtime.block_on(async {
        let volume = rig.open().await;
        rig.write_all(&volume).await;
        // The idle mark follows within two seconds.
        rig.runtime.context().sleep(3_000_000_000).await;
        drop(volume);
        rig.disk.cut_power();
        let (last, mut bytes) = rig.batches(rig.base + 6);
        bytes[5000] ^= 1;
        rig.disk.poke(last, &bytes);
        let error = Volume::open(rig.device(), OpenMode::ReadWrite).await.unwrap_err();
        assert_eq!(*error.reason(), Reason::LogDamaged { good_through: rig.base + 5 });
    });
}

#[test]
fn the_log_laps_its_segments_and_nothing_old_comes_back() {
    let (runtime, calendar) = Runtime::simulated(3).unwrap();
    let disk = SimulatedDisk::new(&calendar, 3, "disk", 6 << 20, 4096);
    let context = runtime.context().clone();
    runtime.block_on(async {
        let options = CreateOptions { size_bytes: Some(256 << 10), ..small(Backend::Log) };
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let mut expected = [0_u8; 64];
        for lap in 0..3_u8 {
            let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
            // Each lap writes more than the pool has room for.
            for round in 0..1200_u64 {
                let (block, value) = ((round * 37 % 64) as usize, lap * 80 + (round % 79) as u8 + 1);
                let durable = if round % 16 == 0 { Durability::Durable } else { Durability::OnFlush };
                write_at(&volume, block as u64 * BLOCK, value, durable).await.unwrap();
                expected[block] = value;
            }
            volume.flush().await.unwrap();
            drop(volume);
            disk.cut_power();
            let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
            for (block, value) in expected.iter().enumerate() {
                assert_eq!(byte(&volume, block as u64).await.unwrap(), *value, "lap {lap}, block {block}");
            }
            volume.close().await.unwrap();
        }
    });
}

#[test]
fn an_image_stays_what_it_is_and_an_expired_moment_is_refused() {
    let (runtime, calendar) = Runtime::simulated(4).unwrap();
    let disk = SimulatedDisk::new(&calendar, 4, "disk", 8 << 20, 4096);
    let context = runtime.context().clone();
    runtime.block_on(async {
        let options =
            CreateOptions { size_bytes: Some(64 << 10), retention_bytes: 400 * 4096, ..small(Backend::Log) };
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
        let write = async |tag: u64| {
            let mut buf = context.buffers().zeroed(4096).unwrap();
            buf[..8].copy_from_slice(&tag.to_le_bytes());
            volume.write(ByteOffset(0), buf, Durability::OnFlush).await.0.unwrap();
        };
        let tag = async |moment: u64| {
            let options = ImageOptions { sequence: Some(Seq(moment)), ..ImageOptions::default() };
            let image = volume.image(options).await?;
            let (result, buf) = image.read(ByteOffset(0), context.buffers().get(4096).unwrap()).await;
            result.map(|()| u64::from_le_bytes(buf[..8].try_into().unwrap()))
        };
        for number in 1..=300 {
            write(number).await;
        }
        for moment in [17, 150, 299] {
            assert_eq!(tag(moment).await.unwrap(), moment);
        }
        let pinned = ImageOptions { sequence: Some(Seq(40)), ..ImageOptions::default() };
        let pinned = volume.image(pinned).await.unwrap();
        for number in 301..=1000 {
            write(number).await;
        }
        let earliest = volume.status().log.unwrap().earliest_moment;
        assert!((599..=601).contains(&earliest), "{earliest}");
        let error = tag(500).await.unwrap_err();
        assert_eq!(*error.reason(), Reason::Expired { moment: 500, earliest });
        assert_eq!(tag(earliest).await.unwrap(), earliest);
        let (result, buf) = pinned.read(ByteOffset(0), context.buffers().get(4096).unwrap()).await;
        result.unwrap();
        assert_eq!(buf[..8], 40_u64.to_le_bytes(), "an open image keeps its moment");
        let versions = volume.versions(ByteOffset(0)).await.unwrap();
        assert!(versions.iter().any(|version| version.sequence.0 == 40));
        assert!(!versions.iter().any(|version| version.sequence.0 == 41));
        drop(pinned);
        let versions = volume.versions(ByteOffset(0)).await.unwrap();
        assert!(!versions.iter().any(|version| version.sequence.0 == 40), "and no longer");
    });
}

#[test]
fn data_is_written_once() {
    let (runtime, calendar) = Runtime::simulated(5).unwrap();
    let disk = SimulatedDisk::new(&calendar, 5, "disk", 128 << 20, 4096);
    let context = runtime.context().clone();
    runtime.block_on(async {
        let options = CreateOptions {
            size_bytes: Some(32 << 20),
            segment_bytes: Some(1 << 20),
            checkpoint_bytes: Some(8 << 20),
            ..CreateOptions::new(Backend::Log)
        };
        Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
        let volume = Volume::open(disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
        disk.start_recording();
        let mut random = icecore::runtime::Random::from_seed(5);
        let workers = (0..32).map(|worker| {
            let (volume, first) = (volume.clone(), random.next_u64());
            context.spawn(async move {
                let mut random = icecore::runtime::Random::from_seed(first ^ worker);
                for _ in 0..32 {
                    let buf = volume.context().buffers().zeroed(64 << 10).unwrap();
                    let at = ByteOffset(random.below(512) * 65536);
                    volume.write(at, buf, Durability::OnFlush).await.0.unwrap();
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        for worker in workers {
            worker.await;
        }
        volume.close().await.unwrap();
        let written: u64 = disk
            .recorded()
            .iter()
            .filter(|record| record.event == Event::Arrived)
            .filter(|record| matches!(record.kind, OperationKind::Write { .. }))
            .map(|record| record.length)
            .sum();
        let ratio = written as f64 / f64::from(64 << 20);
        assert!(ratio <= 1.05, "{ratio} bytes on the device for each of the application's (R-14)");
    });
}

/// A small log, opened so that writes are refused or wait when it is full.
async fn small_log(disk: &SimulatedDisk, runtime: &Runtime, refuse_when_full: bool) -> Volume {
    let options = OpenOptions { refuse_when_full, ..OpenOptions::default() };
    let device = disk.open(runtime.context()).unwrap();
    Volume::open_with(device, OpenMode::ReadWrite, options).await.unwrap()
}

async fn fill(volume: &Volume, number: u64) -> Result<(), icecore::error::Error> {
    vlog::write(volume, number % 64, (number % 251) as u8).await
}

async fn holds(volume: &Volume, count: u64) {
    for block in 0..64.min(count) {
        let last = (0..count).rev().find(|one| one % 64 == block).unwrap();
        assert_eq!(byte(volume, block).await.unwrap(), (last % 251) as u8, "block {block}");
    }
}

#[test]
fn a_full_log_refuses_or_waits_as_chosen_and_goes_on_when_there_is_room() {
    for refuse in [true, false] {
        let (runtime, calendar) = Runtime::simulated(5).unwrap();
        let disk = SimulatedDisk::new(&calendar, 5, "disk", 5 << 20, 4096);
        let options =
            CreateOptions { size_bytes: Some(64 * 4096), retention_bytes: 1 << 20, ..small(Backend::Log) };
        runtime.block_on(async {
            let context = runtime.context().clone();
            Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
            let volume = small_log(&disk, &runtime, refuse).await;
            // Without an image the past is given up, and it never fills.
            let mut count = 0;
            while count < 2000 {
                fill(&volume, count).await.unwrap();
                count += 1;
            }
            // Each of these holds every block as it is now, and they are all different.
            let mut images = Vec::new();
            let filler = context.spawn({
                let volume = volume.clone();
                async move {
                    let mut count = count;
                    loop {
                        if count % 64 == 0 && images.len() < 32 {
                            images.push(volume.image(ImageOptions::default()).await.unwrap());
                        }
                        match fill(&volume, count).await {
                            Ok(()) => count += 1,
                            Err(error) => return (count, images, Some(error)),
                        }
                        if count == 8000 {
                            return (count, images, None);
                        }
                    }
                }
            });
            context.sleep(20_000_000_000).await;
            if refuse {
                assert!(filler.has_ended(), "it is refused");
                let (count, images, error) = filler.await.unwrap();
                let error = error.expect("it has filled up");
                assert!(matches!(error.reason(), Reason::LogFull { .. }), "{error}");
                assert_eq!(error.kind(), Kind::NoSpace);
                assert!(fill(&volume, count).await.is_err(), "and again");
                holds(&volume, count).await;
                drop(images);
                context.sleep(1_000_000_000).await;
                let mut more = count;
                while more < count + 500 {
                    fill(&volume, more).await.unwrap();
                    more += 1;
                }
                drop(volume);
                disk.cut_power();
                let volume = small_log(&disk, &runtime, refuse).await;
                holds(&volume, more).await;
            } else {
                assert!(!filler.has_ended(), "it waits, for as long as the images are open");
                let sequence = volume.info().sequence;
                context.sleep(20_000_000_000).await;
                assert_eq!(volume.info().sequence, sequence, "nothing has been written meanwhile");
                // The images go with whoever holds them.
                filler.abort();
                drop(filler);
                let another = volume.clone();
                let next = context.spawn(async move { fill(&another, 1).await });
                context.sleep(5_000_000_000).await;
                assert!(next.has_ended(), "there is room again");
                next.await.unwrap().unwrap();
            }
        });
    }
}
