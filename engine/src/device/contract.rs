//! What every device promises, as one function that every implementation runs.
//!
//! It panics where a promise does not hold, so it is used by tests alone.

use super::{Cause, Device, Io};
use crate::error::{Kind, Reason};
use crate::runtime::join_all;
use crate::units::ByteOffset;

fn io() -> Io {
    Io::of(Cause::Application)
}

async fn assert_reads(device: &Device, offset: u64, length: usize, expected: impl Fn(usize) -> u8) {
    let buf = device.context().buffers().zeroed(length).unwrap();
    let (result, buf) = device.read(ByteOffset(offset), buf, io()).await;
    result.unwrap();
    for (index, byte) in buf.iter().enumerate() {
        assert_eq!(*byte, expected(index), "byte {} of {}", offset + index as u64, device.name());
    }
}

/// Checks the promises on a device of at least 1 MiB whose contents may be lost.
///
/// # Panics
/// Where a promise does not hold.
pub async fn check(device: &Device) {
    let block = device.geometry().logical_block_bytes as usize;
    let size = device.geometry().size_bytes;
    assert!(size >= 1 << 20 && block.is_power_of_two());
    refuses_wrong_requests(device, block, size).await;

    // What was written is read back, at the first and the last block and across many.
    for (offset, length) in [(0, block), (size - block as u64, block), (block as u64, 64 * block)] {
        let mut buf = device.context().buffers().get(length).unwrap();
        buf.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index % 251) as u8 + 1);
        let (result, buf) = device.write(ByteOffset(offset), buf, io()).await;
        result.unwrap();
        assert_eq!(buf.len(), length, "the buffer comes back whole");
        assert_reads(device, offset, length, |index| (index % 251) as u8 + 1).await;
    }
    device.flush(io()).await.unwrap();

    // Many at once, durable and not, each to its place.
    let writes = (0..32_u64).map(|index| async move {
        let mut buf = device.context().buffers().get(block).unwrap();
        buf.fill(index as u8 + 1);
        let io = Io { durable: index % 2 == 0, ..io() };
        device.write(ByteOffset(index * block as u64), buf, io).await.0.unwrap();
    });
    join_all(writes).await;
    assert_reads(device, 0, 32 * block, |index| (index / block) as u8 + 1).await;

    // Zeroed and discarded ranges read as zero, their neighbours stay.
    device.write_zeroes(ByteOffset(block as u64), 2 * block as u64, io()).await.unwrap();
    device.discard(ByteOffset(4 * block as u64), 8 * block as u64, io()).await.unwrap();
    device.flush(io()).await.unwrap();
    assert_reads(device, 0, 32 * block, |index| match index / block {
        1..=2 | 4..=11 => 0,
        other => other as u8 + 1,
    })
    .await;

    let tally = device.ledger().tally(Cause::Application);
    assert_eq!((tally.writes, tally.flushes, tally.zeroings), (35, 2, 2));
    assert_eq!(tally.write_bytes, (98 * block) as u64);
    assert_eq!(tally.zeroed_bytes, (10 * block) as u64);
}

async fn refuses_wrong_requests(device: &Device, block: usize, size: u64) {
    for (offset, length) in [(1, block), (0, block + 1), (size, block), (u64::MAX - 511, 512)] {
        let buf = device.context().buffers().zeroed(length).unwrap();
        let (result, buf) = device.write(ByteOffset(offset), buf, io()).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        assert!(matches!(error.reason(), Reason::Misaligned { .. } | Reason::OutOfRange { .. }));
        let error = device.read(ByteOffset(offset), buf, io()).await.0.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        let error = device.discard(ByteOffset(offset), length as u64, io()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    }
    assert_eq!(device.ledger().tally(Cause::Application), super::Tally::default());
}
