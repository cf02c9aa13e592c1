//! The simulated disk keeps the contract, and each fault does what it says.

use super::*;
use crate::device::{Cause, Io, contract};
use crate::runtime::Runtime;
use crate::units::ByteOffset;

const SIZE: u64 = 1 << 20;

fn disk(seed: u64, block_bytes: u32) -> (Runtime, SimulatedDisk) {
    let (runtime, calendar) = Runtime::simulated(seed).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", SIZE, block_bytes);
    (runtime, disk)
}

async fn write(device: &Device, offset: u64, byte: u8, length: usize, durable: bool) -> Result<()> {
    let mut buf = device.context().buffers().get(length).unwrap();
    buf.fill(byte);
    device.write(ByteOffset(offset), buf, Io { durable, ..Io::of(Cause::Application) }).await.0
}

#[test]
fn it_keeps_the_contract() {
    for block_bytes in [512, 4096] {
        for seed in 0..20 {
            let (runtime, disk) = disk(seed, block_bytes);
            let device = disk.open(runtime.context()).unwrap();
            runtime.block_on(contract::check(&device));
        }
    }
}

#[test]
fn a_second_opener_is_refused() {
    let (runtime, disk) = disk(1, 512);
    let first = disk.open(runtime.context()).unwrap();
    assert_eq!(disk.open(runtime.context()).unwrap_err().reason(), &Reason::AlreadyOpen);
    drop(first);
    let before_the_cut = disk.open(runtime.context()).unwrap();
    disk.cut_power();
    let after_the_cut = disk.open(runtime.context()).unwrap();
    runtime.block_on(async {
        let error = write(&before_the_cut, 0, 1, 512, false).await.unwrap_err();
        assert_eq!(error.reason(), &Reason::DeviceGone);
        write(&after_the_cut, 0, 1, 512, false).await.unwrap();
    });
    drop(before_the_cut);
    assert!(disk.open(runtime.context()).is_err(), "an old opening does not free the disk");
}

#[test]
fn only_what_was_flushed_is_sure_to_survive() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let (runtime, disk) = disk(seed, 512);
        let device = disk.open(runtime.context()).unwrap();
        runtime.block_on(async {
            write(&device, 0, 1, 1024, false).await.unwrap();
            device.flush(Io::of(Cause::Application)).await.unwrap();
            write(&device, 0, 2, 1024, false).await.unwrap();
            write(&device, 4096, 3, 512, true).await.unwrap();
        });
        disk.cut_power();
        assert_eq!(disk.peek(4096, 1), [3], "a durable write survives");
        seen.insert((disk.peek(0, 1)[0], disk.peek(512, 1)[0]));
    }
    let all = [(1, 1), (1, 2), (2, 1), (2, 2)];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "lost, torn both ways and whole all happen");
}

#[test]
fn a_write_in_flight_may_land_or_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..32 {
        let (runtime, disk) = disk(seed, 512);
        let device = disk.open(runtime.context()).unwrap();
        disk.set_plan(Box::new(|_, _| Some(Fault::Hold)));
        let writer = device.clone();
        runtime.context().spawn(async move { write(&writer, 0, 7, 512, false).await });
        runtime.block_on(async {
            while disk.tickets().is_empty() {
                runtime.context().yield_now().await;
            }
        });
        disk.cut_power();
        seen.insert(disk.peek(0, 1)[0]);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 7]);
}

#[test]
fn each_fault_does_what_it_says() {
    let faults = [
        Fault::Fail(libc::EIO),
        Fault::Short(512),
        Fault::Stall(5_000_000_000),
        Fault::Drop,
        Fault::Corrupt(3),
        Fault::Misdirect(65536),
    ];
    for fault in faults {
        let (runtime, disk) = disk(7, 512);
        let device = disk.open(runtime.context()).unwrap();
        disk.set_plan(Box::new(move |request, _| (request.number == 0).then_some(fault)));
        let result = runtime.block_on(write(&device, 0, 9, 1024, false));
        let bytes = disk.peek(0, 1024);
        match fault {
            Fault::Fail(_) => {
                assert!(matches!(result.unwrap_err().reason(), Reason::Os { errno: libc::EIO }))
            }
            Fault::Short(_) => {
                result.unwrap();
                assert_eq!(disk.requests(), 2, "the rest was submitted again");
                assert_eq!(bytes, [9; 1024]);
            }
            Fault::Stall(_) => assert!(runtime.context().now().0 > 5_000_000_000),
            Fault::Drop => assert_eq!(bytes, [0; 1024]),
            Fault::Corrupt(_) => assert_eq!(bytes.iter().filter(|byte| **byte != 9).count(), 1),
            Fault::Misdirect(elsewhere) => {
                assert_eq!(bytes, [0; 1024]);
                assert_eq!(disk.peek(elsewhere, 1024), [9; 1024]);
            }
            Fault::Hold => unreachable!("not in the list"),
        }
        assert_eq!(disk.take_injected().len(), 1);
    }
}

#[test]
fn a_failed_flush_leaves_doubt_that_a_later_one_does_not_clear() {
    let mut lost = 0;
    for seed in 0..32 {
        let (runtime, disk) = disk(seed, 512);
        let device = disk.open(runtime.context()).unwrap();
        disk.set_plan(Box::new(|request, _| (request.number == 1).then_some(Fault::Fail(libc::EIO))));
        runtime.block_on(async {
            write(&device, 0, 5, 512, false).await.unwrap();
            device.flush(Io::of(Cause::Application)).await.unwrap_err();
            device.flush(Io::of(Cause::Application)).await.unwrap();
        });
        disk.cut_power();
        lost += u32::from(disk.peek(0, 1)[0] == 0);
    }
    assert!((5..28).contains(&lost), "{lost} of 32");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let (runtime, calendar) = Runtime::simulated(seed).unwrap();
        let disk = SimulatedDisk::new(&calendar, seed, "disk", SIZE, 512);
        let device = disk.open(runtime.context()).unwrap();
        runtime.block_on(contract::check(&device));
        (disk.hash(), calendar.now(), calendar.trace())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).2, run(4).2);
}

#[test]
fn a_chosen_cut_keeps_what_it_is_told_and_leaves_the_disk_as_it_is() {
    let (runtime, calendar) = Runtime::simulated(5).unwrap();
    let disk = SimulatedDisk::new(&calendar, 5, "disk", SIZE, 512);
    let device = disk.open(runtime.context()).unwrap();
    runtime.block_on(async {
        write(&device, 0, 1, 1536, false).await.unwrap();
        device.flush(Io::of(Cause::Application)).await.unwrap();
        write(&device, 0, 2, 1024, false).await.unwrap();
        write(&device, 512, 3, 1024, false).await.unwrap();
        disk.set_plan(Box::new(|_, _| Some(Fault::Hold)));
        let held = device.clone();
        let writing = runtime.context().spawn(async move { write(&held, 1024, 4, 512, true).await.unwrap() });
        while disk.tickets().is_empty() {
            runtime.context().sleep(1000).await;
        }
        let unflushed = disk.unflushed();
        let expected = [(vec![0, 1], false), (vec![1, 2], false), (vec![2], true)];
        let expected = expected.map(|(sectors, in_flight)| Unflushed { sectors, in_flight });
        assert_eq!(unflushed, expected);
        let before = disk.hash();
        let letters = |disk: &SimulatedDisk| [0, 512, 1024].map(|at| disk.peek(at, 1)[0]);
        assert_eq!(letters(&disk.after_cut(&calendar, |_, _| false)), [1, 1, 1]);
        assert_eq!(letters(&disk.after_cut(&calendar, |_, _| true)), [2, 3, 4]);
        assert_eq!(letters(&disk.after_cut(&calendar, |write, _| write == 0)), [2, 2, 1]);
        assert_eq!(letters(&disk.after_cut(&calendar, |write, sector| write == 1 && sector == 2)), [1, 1, 3]);
        let found = disk.after_cut(&calendar, |write, _| write == 2);
        assert_eq!((letters(&found), found.unflushed()), ([1, 1, 4], Vec::new()));
        assert_eq!((disk.hash(), disk.unflushed().len()), (before, 3));
        writing.abort();
    });
}
