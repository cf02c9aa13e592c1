//! The volume's promises on a simulated disk: merging, order, refusals, poisoning, dropped futures.

use std::future::Future;
use std::rc::Rc;
use std::task::Poll;

use super::*;
use crate::buf::BufPoolOptions;
use crate::device::Io;
use crate::device::simulated::{Event, Fault, SimulatedDisk};
use crate::error::{Kind, Reason, Result};
use crate::runtime::{OperationKind, Runtime, join_all};
use crate::units::ByteOffset;

const SIZE: u64 = 256 << 10;
const BLOCK: usize = 4096;

struct Rig {
    runtime: Runtime,
    disk: SimulatedDisk,
    volume: Volume,
}

fn rig_on(seed: u64, quarantine_buffers: usize, logical_block_bytes: u32) -> Rig {
    let buffers = BufPoolOptions { arena_bytes: 0, quarantine_buffers, ..BufPoolOptions::default() };
    let (runtime, calendar) = Runtime::simulated_with(seed, buffers).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", 8 << 20, logical_block_bytes);
    let context = runtime.context().clone();
    let volume = runtime.block_on(async {
        let device = disk.open(&context).unwrap();
        let options = CreateOptions {
            size_bytes: Some(SIZE),
            block_bytes: Some(BLOCK as u32),
            ..CreateOptions::new(Backend::Direct)
        };
        let made = Volume::create(&device, options).await.unwrap();
        assert_eq!((made.size_bytes, made.block_bytes), (SIZE, BLOCK as u32));
        Volume::open(device, OpenMode::ReadWrite).await.unwrap()
    });
    Rig { runtime, disk, volume }
}

/// Parts of blocks are merged.
fn rig(seed: u64) -> Rig {
    rig_on(seed, 0, BLOCK as u32)
}

async fn write(volume: &Volume, offset: u64, byte: u8, length: usize) -> Result<()> {
    let mut buf = volume.context().buffers().get(length).unwrap();
    buf.fill(byte);
    volume.write(ByteOffset(offset), buf, Durability::OnFlush).await.0
}

async fn image(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
    bytes
}

#[test]
fn any_range_is_merged_with_what_surrounds_it() {
    let rig = rig(1);
    rig.runtime.block_on(async {
        let mut expected = vec![7; SIZE as usize];
        rig.volume.write_bytes(ByteOffset(0), &expected, Durability::OnFlush).await.unwrap();
        let mut random = crate::runtime::Random::from_seed(5);
        for round in 0..200_u64 {
            let offset = random.below(SIZE - 1);
            let length = (1 + random.below(3 * BLOCK as u64)).min(SIZE - offset);
            let range = offset as usize..(offset + length) as usize;
            let sectors = (offset & !511, ((offset + length).min(SIZE - 512) | 511) + 1);
            match round % 4 {
                0 | 1 => {
                    let bytes = vec![round as u8; length as usize];
                    rig.volume.write_bytes(ByteOffset(offset), &bytes, Durability::OnFlush).await.unwrap();
                    expected[range].fill(round as u8);
                }
                2 => {
                    let (start, end) = sectors;
                    rig.volume.discard(ByteOffset(start), end - start).await.unwrap();
                    expected[start as usize..end as usize].fill(0);
                }
                _ => {
                    let mut found = vec![0; length as usize];
                    rig.volume.read_bytes(ByteOffset(offset), &mut found).await.unwrap();
                    assert_eq!(found, expected[range], "round {round}");
                }
            }
        }
        assert!(image(&rig.volume).await == expected);
    });
}

#[test]
fn what_the_device_takes_whole_is_not_merged() {
    for (logical_block_bytes, expected) in [(512, vec![(512, 512)]), (BLOCK as u32, vec![(0, BLOCK as u64)])]
    {
        let rig = rig_on(1, 0, logical_block_bytes);
        let offset = rig.volume.info().data_offset_bytes;
        rig.disk.start_recording();
        rig.runtime.block_on(write(&rig.volume, 512, 1, 512)).unwrap();
        let arrived = rig.disk.recorded().into_iter().filter(|one| one.event == Event::Arrived);
        let (writes, reads): (Vec<_>, Vec<_>) = arrived.partition(|one| one.kind != OperationKind::Read);
        let written: Vec<_> = writes.iter().map(|one| (one.offset - offset, one.length)).collect();
        assert_eq!((written, reads.is_empty()), (expected, logical_block_bytes == 512));
        assert_eq!(rig.runtime.block_on(image(&rig.volume))[..1024], [[0; 512], [1; 512]].concat());
    }
}

/// Every write of every backend carries it, so that what is long and seldom is boxed.
#[test]
fn the_future_of_a_write_is_short() {
    let rig = rig(1);
    let buf = rig.volume.context().buffers().get(BLOCK).unwrap();
    let bytes = size_of_val(&rig.volume.write(ByteOffset(0), buf, Durability::OnFlush));
    println!("{bytes} bytes");
    assert!(bytes <= 2048, "{bytes}");
}

#[test]
fn wrong_requests_change_nothing() {
    let rig = rig(2);
    let before = rig.disk.hash();
    rig.runtime.block_on(async {
        for (offset, length) in [(1, 512), (0, 513), (SIZE, 512), (SIZE - 512, 1024), (u64::MAX - 511, 512)] {
            let error = write(&rig.volume, offset, 1, length).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
            let error = rig.volume.discard(ByteOffset(offset), length as u64).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
        let region_and_one = rig.volume.info().region_bytes as usize + 1;
        assert!(matches!(
            write(&rig.volume, 0, 1, region_and_one).await.unwrap_err().reason(),
            Reason::Misaligned { .. }
        ));
        let long = write(&rig.volume, 0, 1, TRANSFER_BYTES_MAX as usize + 512).await.unwrap_err();
        assert_eq!(long.kind(), Kind::InvalidArgument);
    });
    assert_eq!(rig.disk.hash(), before);
}

#[test]
fn overlapping_writes_take_effect_in_the_order_of_their_calls() {
    for seed in 0..50 {
        let rig = rig(seed);
        rig.runtime.block_on(async {
            let writes = (1..=8_u64).map(|byte| {
                let volume = rig.volume.clone();
                let offset = (byte % 3) * 512;
                async move { write(&volume, offset, byte as u8, 2 * BLOCK).await.unwrap() }
            });
            join_all(writes).await;
            let mut expected = vec![0; SIZE as usize];
            for byte in 1..=8_usize {
                expected[(byte % 3) * 512..][..2 * BLOCK].fill(byte as u8);
            }
            assert!(image(&rig.volume).await == expected, "seed {seed}");
        });
    }
}

#[test]
fn a_failed_flush_poisons_until_the_volume_is_opened_again() {
    let rig = rig(3);
    rig.disk.set_plan(Box::new(|request, _| {
        (request.kind == OperationKind::Flush).then_some(Fault::Fail(libc::EIO))
    }));
    let context = rig.runtime.context().clone();
    rig.runtime.block_on(async {
        write(&rig.volume, 0, 1, BLOCK).await.unwrap();
        assert_eq!(rig.volume.flush().await.unwrap_err().kind(), Kind::DeviceFailed);
        rig.disk.set_plan(Box::new(|_, _| None));
        let requests = rig.disk.requests();
        for error in [
            write(&rig.volume, 0, 2, BLOCK).await.unwrap_err(),
            write(&rig.volume, 512, 2, 512).await.unwrap_err(),
            rig.volume.flush().await.unwrap_err(),
            rig.volume.discard(ByteOffset(0), SIZE).await.unwrap_err(),
            rig.volume.close().await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.reason()), (Kind::Reopen, &Reason::Poisoned));
        }
        assert_eq!(rig.disk.requests(), requests, "the device was not asked");
        assert!(rig.volume.status().poisoned);
        assert_eq!(*rig.disk.open(&context).unwrap_err().reason(), Reason::AlreadyOpen);
        drop(rig.volume);
        let again = Volume::open(rig.disk.open(&context).unwrap(), OpenMode::ReadWrite).await.unwrap();
        assert!(!again.info().closed, "it was not closed in order");
        write(&again, 0, 2, BLOCK).await.unwrap();
        again.close().await.unwrap();
    });
}

#[test]
fn closing_waits_for_writes_and_is_remembered() {
    let rig = rig(4);
    let context = rig.runtime.context().clone();
    rig.runtime.block_on(async {
        let writer = rig.volume.clone();
        let writing = context.spawn(async move { write(&writer, 0, 9, BLOCK).await });
        while rig.disk.tickets().is_empty() {
            context.yield_now().await;
        }
        rig.volume.close().await.unwrap();
        assert!(writing.has_ended() && writing.await.unwrap().is_ok());
        assert_eq!(*write(&rig.volume, 0, 1, 512).await.unwrap_err().reason(), Reason::Closed);
        let buf = context.buffers().get(512).unwrap();
        let read = rig.volume.read(ByteOffset(0), buf).await.0;
        assert_eq!(*read.unwrap_err().reason(), Reason::Closed);
        rig.disk.cut_power();
        let device = rig.disk.open(&context).unwrap();
        let again = Volume::open(device, OpenMode::ReadOnly).await.unwrap();
        assert!(again.info().closed);
        assert_eq!(image(&again).await[..BLOCK], [9; BLOCK]);
        assert_eq!(*write(&again, 0, 1, 512).await.unwrap_err().reason(), Reason::ReadOnly);
    });
}

/// Polls a future at most `polls` times and then drops it. Whether it had ended.
async fn poll_times(future: impl Future<Output = ()>, polls: usize) -> bool {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Every operation of a volume, dropped after each number of polls it can take, while the disk holds what it
/// had asked for; then the disk lets go.
#[test]
fn a_future_may_be_dropped_at_any_await_point() {
    type Start = fn(Volume) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;
    let operations: [Start; 5] = [
        |volume| Box::pin(async move { write(&volume, 0, 2, 4 * BLOCK).await.unwrap() }),
        |volume| Box::pin(async move { write(&volume, 512, 2, 2 * BLOCK).await.unwrap() }),
        |volume| Box::pin(async move { volume.discard(ByteOffset(512), 3 * BLOCK as u64).await.unwrap() }),
        |volume| Box::pin(async move { volume.flush().await.unwrap() }),
        |volume| Box::pin(async move { drop(image(&volume).await) }),
    ];
    for (which, operation) in operations.into_iter().enumerate() {
        let mut polls = 1;
        loop {
            let rig = rig_on(which as u64, 256, BLOCK as u32);
            let context = rig.runtime.context().clone();
            let ended = rig.runtime.block_on(async {
                write(&rig.volume, 0, 1, 8 * BLOCK).await.unwrap();
                let ended = poll_times(operation(rig.volume.clone()), polls).await;
                assert!(ended || context.operations_in_use() <= 1, "one thing at a time");
                if !ended {
                    assert_eq!(
                        context.operations_in_use(),
                        rig.disk.tickets().len(),
                        "the disk still has it"
                    );
                }
                // A later write of the range comes after whatever the disk still has.
                write(&rig.volume, 0, 3, 8 * BLOCK).await.unwrap();
                assert_eq!(image(&rig.volume).await[..8 * BLOCK], [3; 8 * BLOCK]);
                while context.operations_in_use() > 0 {
                    context.sleep(100_000).await;
                }
                assert!(context.buffers().quarantine_intact().1, "nothing wrote to a freed buffer");
                assert!(rig.volume.0.lock.is_empty(), "no range stays locked");
                assert_eq!(image(&rig.volume).await[..8 * BLOCK], [3; 8 * BLOCK]);
                ended
            });
            if ended {
                assert!(polls > 1, "operation {which} waits for something");
                break;
            }
            polls += 1;
        }
    }
}

#[test]
fn a_dropped_flush_that_fails_is_not_forgotten() {
    let rig = rig(6);
    rig.disk.set_plan(Box::new(|request, _| {
        (request.kind == OperationKind::Flush).then_some(Fault::Fail(libc::EIO))
    }));
    let context = rig.runtime.context().clone();
    rig.runtime.block_on(async {
        write(&rig.volume, 0, 1, BLOCK).await.unwrap();
        let volume = rig.volume.clone();
        assert!(!poll_times(async move { volume.flush().await.unwrap() }, 1).await);
        while context.operations_in_use() > 0 {
            context.sleep(100_000).await;
        }
        assert_eq!(*rig.volume.flush().await.unwrap_err().reason(), Reason::Poisoned);
    });
}

#[test]
fn a_flush_returns_after_the_devices_own() {
    let rig = rig(7);
    rig.disk.start_recording();
    let context = rig.runtime.context().clone();
    rig.runtime.block_on(async {
        let returned = Rc::new(Cell::new(0));
        let flushes: Vec<_> = (0..5)
            .map(|index| {
                let (volume, context, returned) = (rig.volume.clone(), context.clone(), Rc::clone(&returned));
                context.clone().spawn(async move {
                    write(&volume, index * BLOCK as u64, 1, BLOCK).await.unwrap();
                    let called = context.now();
                    volume.flush().await.unwrap();
                    let now = context.now();
                    returned.set(returned.get() + 1);
                    (called, now)
                })
            })
            .collect();
        let times = join_all(flushes).await;
        let recorded = rig.disk.recorded();
        for (called, returned) in times.into_iter().flatten() {
            let covered = recorded.iter().any(|end| {
                end.event == Event::Ended(0)
                    && end.kind == OperationKind::Flush
                    && end.at <= returned
                    && recorded.iter().any(|begin| {
                        begin.ticket == end.ticket && begin.event == Event::Arrived && begin.at >= called
                    })
            });
            assert!(covered, "a flush between {called:?} and {returned:?}");
        }
    });
}

#[test]
fn the_ledger_agrees_with_the_disks_own_recording() {
    let rig = rig(8);
    rig.disk.start_recording();
    let before = rig.volume.status().ledger;
    rig.runtime.block_on(async {
        write(&rig.volume, 0, 1, 4 * BLOCK).await.unwrap();
        write(&rig.volume, 512, 1, 512).await.unwrap();
        rig.volume.flush().await.unwrap();
        drop(image(&rig.volume).await);
    });
    let sum = |ledger: &[(&str, Tally)]| {
        ledger.iter().fold((0, 0, 0, 0), |sum, (_, tally)| {
            let written = sum.1 + tally.write_bytes;
            (sum.0 + tally.writes, written, sum.2 + tally.read_bytes, sum.3 + tally.flushes)
        })
    };
    let (before, after) = (sum(&before), sum(&rig.volume.status().ledger));
    let ended: Vec<_> =
        rig.disk.recorded().into_iter().filter(|entry| matches!(entry.event, Event::Ended(_))).collect();
    let writes: Vec<_> =
        ended.iter().filter(|entry| matches!(entry.kind, OperationKind::Write { .. })).collect();
    let read_bytes: u64 =
        ended.iter().filter(|entry| entry.kind == OperationKind::Read).map(|entry| entry.length).sum();
    let flushes = ended.iter().filter(|entry| entry.kind == OperationKind::Flush).count() as u64;
    assert_eq!(after.0 - before.0, writes.len() as u64);
    assert_eq!(after.1 - before.1, writes.iter().map(|entry| entry.length).sum::<u64>());
    assert_eq!(after.2 - before.2, read_bytes);
    assert_eq!(after.3 - before.3, flushes);
    assert_eq!(writes.len(), 2);
}

#[test]
fn creation_refuses_before_it_writes() {
    let (runtime, calendar) = Runtime::simulated(9).unwrap();
    let disk = SimulatedDisk::new(&calendar, 9, "disk", 8 << 20, 4096);
    let device = disk.open(runtime.context()).unwrap();
    let base = CreateOptions::new(Backend::Direct);
    runtime.block_on(async {
        disk.poke(0x438, &[0x53, 0xEF]);
        disk.poke(0x400, &[1, 0, 0, 0, 16, 0, 0, 0]);
        let hash = disk.hash();
        let refused = [
            (CreateOptions { block_bytes: Some(512), ..base }, Kind::InvalidArgument),
            (CreateOptions { block_bytes: Some(6000), ..base }, Kind::InvalidArgument),
            (CreateOptions { region_bytes: 2048, block_bytes: Some(4096), ..base }, Kind::InvalidArgument),
            (CreateOptions { size_bytes: Some(1000), ..base }, Kind::InvalidArgument),
            (CreateOptions { size_bytes: Some(1 << 30), ..base }, Kind::NoSpace),
        ];
        for (options, kind) in refused {
            let error = Volume::create(&device, options).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
        assert_eq!(disk.hash(), hash);
        let io = Io::of(crate::device::Cause::Metadata);
        let buf = device.context().buffers().zeroed(4096).unwrap();
        device.write(ByteOffset(0), buf, io).await.0.unwrap();
        Volume::create(&device, base).await.unwrap();
    });
}

/// Superblocks with any field changed and the checksum made right again: opened or refused, never a panic, and
/// what opens can be read to its end.
#[test]
fn any_sealed_superblock_is_opened_or_refused() {
    use crate::format::superblock::{COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock};
    let (runtime, calendar) = Runtime::simulated(11).unwrap();
    let disk = SimulatedDisk::new(&calendar, 11, "disk", 8 << 20, 512);
    let context = runtime.context().clone();
    let mut random = crate::runtime::Random::from_seed(12);
    let (mut opened, mut refused) = (0, 0);
    runtime.block_on(async {
        let device = disk.open(&context).unwrap();
        let options = CreateOptions { size_bytes: Some(SIZE), ..CreateOptions::new(Backend::Direct) };
        Volume::create(&device, options).await.unwrap();
        let good = disk.peek(COPY_OFFSETS[0], SUPERBLOCK_BYTES);
        for _ in 0..20_000 {
            let mut bytes: [u8; SUPERBLOCK_BYTES] = good.clone().try_into().unwrap();
            for _ in 0..1 + random.below(3) {
                let at = 16 + (random.below(200) * 8) as usize % (SUPERBLOCK_BYTES - 24);
                let value = match random.below(5) {
                    0 => 0,
                    1 => u64::MAX,
                    2 => 1 << random.below(64),
                    3 => u64::MAX << random.below(64),
                    _ => random.next_u64(),
                };
                let length = if random.chance(1, 2) { 4 } else { 8 };
                bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            }
            let record: Superblock = zerocopy::transmute!(bytes);
            // `encode` mends the tail; a record with a torn tail has to be sealed as it is.
            let sealed = record.encode(COPY_OFFSETS[0]);
            assert!(!matches!(Superblock::decode(&sealed, COPY_OFFSETS[0]), Decoded::Damaged));
            disk.poke(COPY_OFFSETS[0], &sealed);
            disk.poke(COPY_OFFSETS[1], &record.encode(COPY_OFFSETS[1]));
            match Volume::open(device.clone(), OpenMode::ReadWrite).await {
                Ok(volume) => {
                    let mut bytes = vec![0; 4096];
                    let last = volume.size_bytes() - 512;
                    volume.read_bytes(ByteOffset(last), &mut bytes[..512]).await.unwrap();
                    volume.write_bytes(ByteOffset(last + 1), &[1], Durability::Durable).await.unwrap();
                    volume.close().await.unwrap();
                    opened += 1;
                }
                Err(error) => {
                    assert_ne!(error.kind(), Kind::DeviceFailed, "{error}");
                    refused += 1;
                }
            }
        }
    });
    assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
}
