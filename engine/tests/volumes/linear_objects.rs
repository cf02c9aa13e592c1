//! Linear objects under `cow` and `overlay`: where each block lies, in which order the disk got it and its entry, that a
//! snapshot is never full, what is refused, and when an object is given back. By the bytes and requests of the disk.

use icecore::device::simulated::{Event, Recorded};
use icecore::error::{Error, Kind, Reason};
use icecore::format::batch;
use icecore::object::ObjectKind;
use icecore::runtime::{OperationKind, join_all};
use icecore::store::Backend;
use icecore::store::log::{ImageOptions, WhenFull};
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenOptions, Volume};

use crate::objects::{Object, objects};
use crate::on_disk::superblock;
use crate::vlog::{self, BLOCK, MIB, Rig, byte, is_sound, shown, small, write, write_at, write_base};

pub const BASES: [Backend; 2] = [Backend::Cow, Backend::Overlay];
/// Blocks of a segment.
pub const SEGMENT: u64 = 16;

pub fn linear(backend: Backend, blocks: u64) -> CreateOptions {
    let size_bytes = Some(blocks * BLOCK);
    CreateOptions { size_bytes, objects: ObjectKind::Linear, ..small(backend) }
}

pub async fn open(rig: &Rig) -> Volume {
    rig.open_with(OpenOptions::default()).await
}

fn letter_at(rig: &Rig, address: u64) -> u8 {
    let bytes = rig.disk.peek(address, BLOCK as usize);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "the block at {address} is of one piece");
    bytes[0]
}

/// The letter that lies at the place of a block in the object.
fn placed(rig: &Rig, object: &Object, block: u64) -> u8 {
    letter_at(rig, object.place(&rig.disk, block))
}

async fn live_blocks(volume: &Volume) -> u64 {
    volume.status().log.unwrap().live_blocks
}

/// Writes one letter to several blocks at the same time.
pub async fn write_together(volume: &Volume, blocks: &[u64], letter: u8) {
    let writes = blocks.iter().map(|block| write_at(volume, block * BLOCK, letter, Durability::OnFlush));
    join_all(writes.collect::<Vec<_>>()).await.into_iter().for_each(|written| written.unwrap());
}

#[test]
fn each_block_goes_to_its_own_place_in_the_object_of_the_newest_snapshot() {
    for backend in BASES {
        let rig = Rig::new(1, 8 * MIB, linear(backend, 3 * SEGMENT));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            // One in each extent, and the last block of all.
            let blocks = [3, SEGMENT + 7, 2 * SEGMENT + 1, 3 * SEGMENT - 1];
            write_together(&volume, &blocks, b'a').await;
            volume.create_snapshot("first").await.unwrap();
            write_together(&volume, &blocks, b'b').await;
            volume.create_snapshot("second").await.unwrap();
            write_together(&volume, &blocks[..2], b'c').await;
            write_together(&volume, &blocks[..1], b'd').await;
            volume.flush().await.unwrap();
            let [first, second] = <[Object; 2]>::try_from(objects(&rig.disk)).unwrap();
            // Copies of what was overwritten, or what overwrote it: the later one in its place.
            let (in_first, in_second) = match backend {
                Backend::Cow => ([b'a'; 4], [b'b', b'b']),
                _ => ([b'b'; 4], [b'd', b'c']),
            };
            for (block, letter) in blocks.into_iter().zip(in_first) {
                assert_eq!(placed(&rig, &first, block), letter, "{backend:?}, block {block}");
            }
            for (block, letter) in blocks.into_iter().zip(in_second) {
                assert_eq!(placed(&rig, &second, block), letter, "{backend:?}, block {block}");
            }
            let all =
                |object: &Object| (0..3 * SEGMENT).filter(|block| placed(&rig, object, *block) != 0).count();
            assert_eq!((all(&first), all(&second)), (4, 2), "nothing else lies there, {backend:?}");
            assert_eq!(live_blocks(&volume).await, 6);
            for (name, letter) in [("first", b'a'), ("second", b'b')] {
                let image = volume.image_of(name).await.unwrap();
                let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
                let (read, buf) = image.read(ByteOffset(blocks[0] * BLOCK), buf).await;
                read.unwrap();
                assert_eq!(buf[0], letter, "{name}, {backend:?}");
            }
            drop(volume);
            rig.disk.cut_power();
            is_sound(&rig).await;
            let volume = open(&rig).await;
            assert_eq!(byte(&volume, blocks[0]).await.unwrap(), b'd');
            assert_eq!(byte(&volume, blocks[1]).await.unwrap(), b'c');
        });
    }
}

/// Writes and flushes, in the order in which they ended, with the place where the log's batches begin.
fn ended(recorded: &[Recorded], is_wanted: impl Fn(&Recorded) -> bool) -> Vec<Recorded> {
    let ended = recorded.iter().filter(|one| matches!(one.event, Event::Ended(_)) && is_wanted(one));
    ended.copied().collect()
}

#[test]
fn the_log_says_where_blocks_lie_after_a_flush_that_began_when_they_were_there() {
    for backend in BASES {
        let rig = Rig::new(2, 8 * MIB, linear(backend, 2 * SEGMENT));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            let blocks: Vec<u64> = (0..16).map(|block| block * 2).collect();
            write_together(&volume, &blocks, b'a').await;
            volume.create_snapshot("T0").await.unwrap();
            rig.disk.start_recording();
            write_together(&volume, &blocks, b'b').await;
            volume.flush().await.unwrap();
            let recorded = rig.disk.recorded();
            let [object] = <[Object; 1]>::try_from(objects(&rig.disk)).unwrap();
            let found = superblock(&rig.disk);
            let start = found.data.offset.get();
            let is_write = |one: &Recorded| matches!(one.kind, OperationKind::Write { .. });
            let is_batch = |one: &Recorded| {
                is_write(one)
                    && one.event == Event::Arrived
                    && one.offset >= start
                    && matches!(
                        batch::decode(&rig.disk.peek(one.offset, BLOCK as usize), one.offset, BLOCK as u32),
                        batch::Decoded::Valid(_)
                    )
            };
            let batches: Vec<&Recorded> = recorded.iter().filter(|one| is_batch(one)).collect();
            assert!(!batches.is_empty());
            for batch in &batches {
                assert_eq!(batch.length, BLOCK, "a header and nothing else, {backend:?}");
            }
            // One data write a block, at its place, and a flush of its own before the batch that tells of it.
            let mut told = 0;
            for block in &blocks {
                let place = object.place(&rig.disk, *block);
                let written = ended(&recorded, |one| is_write(one) && one.offset == place);
                assert_eq!(written.len(), 1, "{backend:?}, block {block}");
                let tells = batches.iter().find(|one| {
                    let head = rig.disk.peek(one.offset, BLOCK as usize);
                    let batch::Decoded::Valid(batch) = batch::decode(&head, one.offset, BLOCK as u32) else {
                        return false;
                    };
                    batch.entries.iter().any(|entry| entry.lba.get() == *block)
                });
                let tells = tells.expect("an entry tells of each block");
                let flushed = recorded.iter().any(|one| {
                    let began = one.kind == OperationKind::Flush
                        && one.event == Event::Arrived
                        && one.at >= written[0].at;
                    began
                        && ended(&recorded, |end| end.ticket == one.ticket)
                            .iter()
                            .any(|end| end.at <= tells.at)
                });
                assert!(
                    flushed,
                    "{backend:?}, block {block}: no flush between the data and what tells of it"
                );
                told += 1;
            }
            let flushes = ended(&recorded, |one| one.kind == OperationKind::Flush).len();
            println!("{backend:?}: {told} blocks, {} batches, {flushes} flushes", batches.len());
            assert!(
                batches.len() <= 6 && flushes <= 14,
                "they are told together, {backend:?}: {flushes} flushes"
            );
            let reads = ended(&recorded, |one| one.kind == OperationKind::Read).len();
            assert_eq!(reads, if backend == Backend::Cow { blocks.len() } else { 0 }, "{backend:?}");
            // Once more: in place, without a word.
            rig.disk.start_recording();
            write_together(&volume, &blocks, b'c').await;
            let recorded = rig.disk.recorded();
            assert_eq!(ended(&recorded, is_write).len(), blocks.len(), "{backend:?}");
            assert_eq!(shown(&volume, "T0").await.unwrap(), "a.a.a.a.", "{backend:?}");
        });
    }
}

/// Writes all of these blocks and takes a snapshot, again and again, until there is no room for one more. The snapshots
/// with the letter that each shows, and the refusal; the letter behind the last one is current.
pub async fn fill(volume: &Volume, blocks: &[u64]) -> (Vec<(String, u8)>, Error) {
    let mut names: Vec<(String, u8)> = Vec::new();
    write_together(volume, blocks, b'a').await;
    loop {
        let letter = b'a' + names.len() as u8;
        match volume.create_snapshot(&format!("at {}", char::from(letter))).await {
            Ok(taken) => names.push((taken.name, letter)),
            Err(refused) => return (names, refused),
        }
        for letter in [b'z', b'z', letter + 1] {
            write_together(volume, blocks, letter).await;
        }
        volume.flush().await.unwrap();
    }
}

/// Each snapshot shows its letter.
pub async fn are_shown(volume: &Volume, names: &[(String, u8)]) {
    for (name, letter) in names {
        assert_eq!(shown(volume, name).await.unwrap(), String::from(char::from(*letter)).repeat(8), "{name}");
    }
}

/// The pool is full of objects, and every block of the volume is written after each snapshot.
#[test]
fn a_snapshot_that_was_taken_is_never_full_and_one_too_many_is_refused() {
    for backend in BASES {
        let blocks = 8 * SEGMENT;
        let rig = Rig::new(3, 8 * MIB, linear(backend, blocks));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            let all: Vec<u64> = (0..blocks).collect();
            let (names, refused) = fill(&volume, &all).await;
            assert!(names.len() >= 3, "{backend:?}: {names:?}");
            let Reason::NoRoomForObject { needed_bytes, free_bytes } = *refused.reason() else {
                panic!("{refused}")
            };
            assert_eq!((needed_bytes, refused.kind()), (blocks * BLOCK, Kind::NoSpace));
            assert!(free_bytes < needed_bytes);
            // Full as it is, everything is written again, and every snapshot shows its moment.
            for letter in [b'Y', b'Z'] {
                write_together(&volume, &all, letter).await;
            }
            volume.flush().await.unwrap();
            are_shown(&volume, &names).await;
            // Whichever is deleted, the newest of a `cow` volume, the oldest of an overlay once it is folded: its object
            // is free for the next.
            let before = objects(&rig.disk).len();
            match backend {
                Backend::Cow => volume.delete_snapshot(&names.last().unwrap().0).await.unwrap(),
                _ => {
                    volume.delete_snapshot(&names[0].0).await.unwrap();
                    volume.fold(Some(&names[1].0)).await.unwrap();
                }
            }
            volume.create_snapshot("one more").await.unwrap();
            assert_eq!(objects(&rig.disk).len(), before, "{backend:?}");
            write_together(&volume, &all, b'!').await;
            assert_eq!(shown(&volume, "one more").await.unwrap(), "ZZZZZZZZ");
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
        });
    }
}

#[test]
fn there_are_no_more_than_64_objects() {
    for backend in BASES {
        let rig = Rig::new(4, 12 * MIB, linear(backend, SEGMENT));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            for number in 0..64 {
                volume.create_snapshot(&format!("{number}")).await.unwrap();
            }
            let refused = volume.create_snapshot("64").await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::TooManySnapshots { limit: 64 });
            assert_eq!((refused.kind(), volume.snapshots().len()), (Kind::NoSpace, 64));
            volume.delete_snapshot("17").await.unwrap();
            volume.create_snapshot("64").await.unwrap();
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
            let volume = open(&rig).await;
            // The numbers of extents are not used again.
            let firsts: Vec<u32> = objects(&rig.disk).iter().map(|object| object.first).collect();
            assert!(firsts.is_sorted() && firsts.len() == 64 && firsts[63] == (1 << 31) + 64, "{firsts:?}");
            assert_eq!(volume.snapshots().len(), 64);
        });
    }
}

#[test]
fn an_object_is_given_back_when_nothing_in_it_lives() {
    for backend in BASES {
        let rig = Rig::new(5, 8 * MIB, linear(backend, 4 * SEGMENT));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            write_base(&volume).await;
            volume.context().sleep(3_000_000_000).await;
            let free = volume.status().log.unwrap().free_segments;
            volume.create_snapshot("T0").await.unwrap();
            assert_eq!(volume.status().log.unwrap().free_segments, free - 4, "it has its space at once");
            write(&volume, 2, b'X').await.unwrap();
            volume.delete_snapshot("T0").await.unwrap();
            volume.context().sleep(3_000_000_000).await;
            if backend == Backend::Overlay {
                assert_eq!(objects(&rig.disk).len(), 1, "the volume itself needs it");
                volume.fold(None).await.unwrap();
                volume.context().sleep(3_000_000_000).await;
            }
            assert_eq!(objects(&rig.disk), [], "{backend:?}");
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
            let volume = open(&rig).await;
            assert!(volume.status().log.unwrap().free_segments >= free - 1, "{backend:?}");
            assert_eq!(vlog::current(&volume).await, "abXdefgh");
            volume.create_snapshot("T1").await.unwrap();
            assert_eq!(objects(&rig.disk)[0].first, (1 << 31) + 4, "numbers are not used twice, {backend:?}");
        });
    }
}

/// What an open image needs beside the snapshot goes to the log, and the place stays the snapshot's.
#[test]
fn a_place_is_used_once() {
    for backend in BASES {
        let rig = Rig::new(6, 8 * MIB, linear(backend, 2 * SEGMENT));
        rig.runtime.block_on(async {
            let volume = open(&rig).await;
            write_base(&volume).await;
            volume.create_snapshot("T0").await.unwrap();
            write(&volume, 1, b'B').await.unwrap();
            let image = volume.image(ImageOptions::default()).await.unwrap();
            write(&volume, 1, b'C').await.unwrap();
            let [object] = <[Object; 1]>::try_from(objects(&rig.disk)).unwrap();
            let at_place = if backend == Backend::Cow { b'b' } else { b'B' };
            assert_eq!(placed(&rig, &object, 1), at_place, "{backend:?}");
            let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
            let (read, buf) = image.read(ByteOffset(BLOCK), buf).await;
            read.unwrap();
            assert_eq!(buf[0], b'B');
            assert_eq!(live_blocks(&volume).await, 2);
            drop((image, buf));
            volume.context().sleep(1_000_000_000).await;
            write(&volume, 1, b'D').await.unwrap();
            assert_eq!(placed(&rig, &object, 1), at_place, "{backend:?}");
            assert_eq!(shown(&volume, "T0").await.unwrap(), "abcdefgh");
            drop(volume);
            rig.disk.cut_power();
            is_sound(&rig).await;
            let volume = open(&rig).await;
            assert_eq!(vlog::current(&volume).await, "aDcdefgh");
            assert_eq!(shown(&volume, "T0").await.unwrap(), "abcdefgh");
        });
    }
}

#[test]
fn what_nobody_sees_is_zeroed_in_its_place() {
    let rig = Rig::new(7, 8 * MIB, linear(Backend::Overlay, 2 * SEGMENT));
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        write(&volume, 1, b'B').await.unwrap();
        let sequence = volume.info().sequence;
        for discard in [false, true] {
            write(&volume, 1, b'B').await.unwrap();
            match discard {
                true => volume.discard(ByteOffset(BLOCK), BLOCK).await.unwrap(),
                false => volume.write_zeroes(ByteOffset(BLOCK), BLOCK).await.unwrap(),
            }
            let [object] = <[Object; 1]>::try_from(objects(&rig.disk)).unwrap();
            assert_eq!(placed(&rig, &object, 1), 0);
            assert_eq!(vlog::current(&volume).await, "a.cdefgh");
        }
        assert_eq!(volume.info().sequence, sequence, "nothing is said of it");
        // What the snapshot sees stays.
        volume.discard(ByteOffset(4 * BLOCK), BLOCK).await.unwrap();
        assert_eq!(vlog::current(&volume).await, "a.cd.fgh");
        assert_eq!(shown(&volume, "T0").await.unwrap(), "abcdefgh");
        write(&volume, 4, b'E').await.unwrap();
        assert_eq!(placed(&rig, &objects(&rig.disk)[0], 4), b'E');
        volume.flush().await.unwrap();
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
        assert_eq!(vlog::current(&open(&rig).await).await, "a.cdEfgh");
    });
}

#[test]
fn the_volume_goes_back_moves_home_and_is_cloned() {
    let rig = Rig::new(8, 8 * MIB, linear(Backend::Overlay, 2 * SEGMENT));
    rig.runtime.block_on(async {
        let options = OpenOptions { move_home_on_read: true, ..OpenOptions::default() };
        let volume = rig.open_with(options).await;
        write_base(&volume).await;
        let t0 = volume.create_snapshot("T0").await.unwrap().sequence;
        write(&volume, 1, b'B').await.unwrap();
        volume.clone_snapshot("T0", "child").await.unwrap();
        let child = volume.open_writable("child").await.unwrap();
        write(&child, 1, b'K').await.unwrap();
        assert_eq!(vlog::current(&child).await, "aKcdefgh");
        child.close().await.unwrap();
        drop(child);
        volume.delete_snapshot("child").await.unwrap();
        volume.rollback(t0).await.unwrap();
        assert_eq!(vlog::current(&volume).await, "abcdefgh");
        write(&volume, 1, b'C').await.unwrap();
        volume.context().sleep(3_000_000_000).await;
        assert_eq!(vlog::current(&volume).await, "aCcdefgh");
        assert_eq!(shown(&volume, "T0").await.unwrap(), "abcdefgh");
        volume.create_snapshot("T1").await.unwrap();
        write(&volume, 3, b'D').await.unwrap();
        for name in ["T0", "T1"] {
            volume.delete_snapshot(name).await.unwrap();
        }
        volume.context().sleep(3_000_000_000).await;
        // Reading moves it home while it is overwritten.
        let (shown_now, written) = {
            let reading = vlog::current(&volume);
            let writing = write(&volume, 3, b'd');
            (reading.await, writing.await)
        };
        written.unwrap();
        assert_eq!(shown_now, "aCcDefgh");
        volume.context().sleep(3_000_000_000).await;
        assert_eq!(vlog::current(&volume).await, "aCcdefgh");
        volume.context().sleep(3_000_000_000).await;
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
        assert_eq!(vlog::current(&open(&rig).await).await, "aCcdefgh");
    });
}

/// A durable write over what was placed before it, not durably: both survive.
#[test]
fn a_durable_write_in_place_makes_durable_what_finds_it() {
    let rig = Rig::new(9, 8 * MIB, linear(Backend::Overlay, 2 * SEGMENT));
    rig.runtime.block_on(async {
        let volume = open(&rig).await;
        write_base(&volume).await;
        volume.create_snapshot("T0").await.unwrap();
        write_at(&volume, BLOCK, b'B', Durability::OnFlush).await.unwrap();
        write(&volume, 1, b'C').await.unwrap();
        drop(volume);
        rig.disk.cut_power();
        assert_eq!(vlog::current(&open(&rig).await).await, "aCcdefgh");
    });
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let (runtime, calendar) = icecore::runtime::Runtime::simulated(10).unwrap();
    let disk = icecore::device::simulated::SimulatedDisk::new(&calendar, 10, "disk", 8 * MIB, BLOCK as u32);
    let device = disk.open(runtime.context()).unwrap();
    let wrong = [
        linear(Backend::Log, 16),
        linear(Backend::Linear, 16),
        CreateOptions { snapshot_bytes: Some(MIB), ..linear(Backend::Cow, 16) },
        CreateOptions { when_full: WhenFull::BreakSnapshots, ..linear(Backend::Overlay, 16) },
        CreateOptions { objects: ObjectKind::Linear, ..CreateOptions::new(Backend::Direct) },
    ];
    for options in wrong {
        let refused = runtime.block_on(Volume::create(&device, options)).unwrap_err();
        assert!(matches!(refused.reason(), Reason::InvalidSetting { name: "objects", .. }), "{refused}");
    }
    let options = CreateOptions { size_bytes: None, ..linear(Backend::Cow, 16) };
    let made = runtime.block_on(Volume::create(&device, options)).unwrap();
    assert_eq!(made.log.unwrap().objects, ObjectKind::Linear);
    assert_eq!(made.size_bytes, 2 * MIB, "a quarter of the device");
}
