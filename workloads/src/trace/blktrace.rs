//! What blktrace records: one file a CPU, events of 48 bytes and what `pdu_len` says behind each.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | u32 magic: 0x65617400 or'ed with the version, 7 |
//! | 4 | u32 sequence |
//! | 8 | u64 time, ns |
//! | 16 | u64 sector |
//! | 24 | u32 bytes |
//! | 28 | u32 action: event in the lower half (0x100: a control group's number follows), categories in the upper |
//! | 32 | u32 pid |
//! | 36 | u32 device, packed as the kernel does it |
//! | 40 | u32 cpu |
//! | 44 | u16 error |
//! | 46 | u16 pdu_len |
//!
//! All little-endian; a trace of a big-endian machine is refused. Notes (names of processes, clocks, messages) and
//! packet commands are passed over. Events have no length in common, so that a chunk is cut by walking over it; behind
//! a damaged one nothing can be told.

use super::BlockEvent;
use super::chunk::{Bad, Chunk, Fault};
use super::error::Reason;
use super::record::{Record, RecordKind};

pub(super) const HEADER_BYTES: usize = 48;
pub(super) const MAGIC: u32 = 0x6561_7400;
const MAGIC_MASK: u32 = 0xffff_ff00;
const VERSION: u32 = 7;
const EVENT_MASK: u32 = 0xff;

const CATEGORY_READ: u32 = 1 << 16;
const CATEGORY_WRITE: u32 = 1 << 17;
const CATEGORY_FLUSH: u32 = 1 << 18;
const CATEGORY_PACKET: u32 = 1 << 25;
const CATEGORY_NOTE: u32 = 1 << 26;
const CATEGORY_DISCARD: u32 = 1 << 29;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// Whether these are the first bytes of such a file, of any version and byte order.
pub(super) fn begins(head: &[u8]) -> bool {
    head.len() >= 4 && {
        let magic = u32_at(head, 0);
        magic & MAGIC_MASK == MAGIC || magic.swap_bytes() & MAGIC_MASK == MAGIC
    }
}

fn check(magic: u32) -> Result<(), Reason> {
    if magic == MAGIC | VERSION {
        return Ok(());
    }
    Err(if magic & MAGIC_MASK == MAGIC {
        Reason("version", "only version 7 is read")
    } else if magic.swap_bytes() & MAGIC_MASK == MAGIC {
        Reason("byte order", "the trace of a big-endian machine is not read")
    } else {
        Reason("magic", "no event begins here")
    })
}

/// Where the event at `at` ends; `None` if it is not whole, or damaged.
fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.len() - at < HEADER_BYTES || check(u32_at(bytes, at)).is_err() {
        return None;
    }
    let end = at + HEADER_BYTES + usize::from(u16_at(bytes, at + 46));
    (end <= bytes.len()).then_some(end)
}

/// How much of `bytes` is whole events; all of it where a damaged one is among them.
pub(super) fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(end) = end_of(bytes, at) {
        at = end;
    }
    let damaged = bytes.len() - at >= 4 && check(u32_at(bytes, at)).is_err();
    if damaged { bytes.len() } else { at }
}

/// The first byte of the chunk's event `unit`.
pub(super) fn byte_of(bytes: &[u8], unit: u32) -> usize {
    (0..unit).try_fold(0, |at, _| end_of(bytes, at)).unwrap_or(bytes.len())
}

pub(super) fn parse(wanted: BlockEvent, chunk: &mut Chunk, bad_max: u64) {
    let bytes = chunk.content.as_slice();
    let mut at = 0;
    while at < bytes.len() {
        let unit = chunk.units;
        chunk.units += 1;
        let mut blamed = |fault, reason: Reason| {
            let records_before = chunk.records.len();
            chunk.bad.push(Bad { records_before, unit, fault, reason: reason.to_string() });
            chunk.bad.len() as u64 > bad_max
        };
        let Some(end) = end_of(bytes, at) else {
            // Chunks are cut behind whole events, so that this one is damaged.
            let reason = check(u32_at(bytes, at)).err().unwrap_or(Reason("event", "not whole"));
            blamed(Fault::Fatal, reason);
            return;
        };
        match event(wanted, &bytes[at..end], &mut chunk.passed) {
            Ok(Some(record)) => {
                chunk.records.push(record);
                chunk.places.push(unit);
            }
            Ok(None) => {}
            Err(reason) => {
                if blamed(Fault::Record, reason) {
                    return;
                }
            }
        }
        at = end;
    }
}

#[inline]
fn event(
    wanted: BlockEvent,
    bytes: &[u8],
    passed: &mut super::chunk::Passed,
) -> Result<Option<Record>, Reason> {
    let action = u32_at(bytes, 28);
    if action & (CATEGORY_NOTE | CATEGORY_PACKET) != 0 {
        passed.not_requests += 1;
        return Ok(None);
    }
    if action & EVENT_MASK != wanted.number() {
        passed.other_events += 1;
        return Ok(None);
    }
    let len_bytes = u32_at(bytes, 24);
    let kind = if len_bytes == 0 && action & CATEGORY_FLUSH != 0 {
        RecordKind::Flush
    } else if action & CATEGORY_DISCARD != 0 {
        RecordKind::Discard
    } else if action & CATEGORY_WRITE != 0 {
        RecordKind::Write
    } else if action & CATEGORY_READ != 0 {
        RecordKind::Read
    } else {
        passed.not_requests += 1;
        return Ok(None);
    };
    let sector = u64_at(bytes, 16);
    let offset_bytes = if kind == RecordKind::Flush {
        0
    } else {
        sector.checked_mul(super::record::SECTOR_BYTES).ok_or(Reason("sector", "beyond 2^63 bytes"))?
    };
    let record = Record::of(u64_at(bytes, 8), u32_at(bytes, 36), kind, offset_bytes, u64::from(len_bytes))?;
    Ok(passed.unless_empty(record))
}
