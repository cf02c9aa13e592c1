//! CloudPhysics: what a hypervisor saw of its guests' SCSI commands, in records of 32 or 40 bytes, little-endian.
//!
//! | version 1 | version 2 | field |
//! |---|---|---|
//! | 0 | 4 | u32 serial number |
//! | 4 | 8 | u32 length in bytes |
//! | 8 | 12 | u32 segments |
//! | 12 | 0 | u16 command, the SCSI operation code |
//! | 14 | 2 | u16 version, in the upper half |
//! | 16 | 16 | u64 address in sectors of 512 bytes |
//! | 24 | 24 | u64 time in microseconds |
//! |  | 32 | u64 response time; its unit is documented nowhere, so that it is not read |
//!
//! Commands that neither read nor write nor flush are passed over. There is one volume.

use super::blktrace::{u16_at, u32_at, u64_at};
use super::chunk::{Bad, Chunk, Fault, Passed};
use super::error::Reason;
use super::record::{Record, RecordKind, SECTOR_BYTES};

/// Records that must look alike before a file is taken for one of these.
const RECORDS_LOOKED_AT: usize = 64;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub record_bytes: usize,
    version: u16,
    version_at: usize,
    command_at: usize,
    len_at: usize,
}

pub(super) const VSCSI1: Layout =
    Layout { record_bytes: 32, version: 1, version_at: 14, command_at: 12, len_at: 4 };
pub(super) const VSCSI2: Layout =
    Layout { record_bytes: 40, version: 2, version_at: 2, command_at: 0, len_at: 8 };

/// Whether most of the first records are of this layout, and the first is.
pub(super) fn begins(layout: Layout, head: &[u8]) -> bool {
    let matches = |record: &[u8]| u16_at(record, layout.version_at) >> 8 == layout.version;
    let mut looked_at = 0;
    let mut matching = 0;
    for record in head.chunks_exact(layout.record_bytes).take(RECORDS_LOOKED_AT) {
        looked_at += 1;
        matching += usize::from(matches(record));
    }
    // Text has no zero byte; each record of these has some.
    looked_at > 0 && matching * 4 > looked_at * 3 && head.contains(&0)
}

pub(super) fn parse(layout: Layout, chunk: &mut Chunk, bad_max: u64) {
    for bytes in chunk.content.chunks_exact(layout.record_bytes) {
        let unit = chunk.units;
        chunk.units += 1;
        match record(layout, bytes, &mut chunk.passed) {
            Ok(Some(record)) => {
                chunk.records.push(record);
                chunk.places.push(unit);
            }
            Ok(None) => {}
            Err(reason) => {
                let records_before = chunk.records.len();
                chunk.bad.push(Bad {
                    records_before,
                    unit,
                    fault: Fault::Record,
                    reason: reason.to_string(),
                });
                if chunk.bad.len() as u64 > bad_max {
                    return;
                }
            }
        }
    }
}

#[inline]
fn record(layout: Layout, bytes: &[u8], passed: &mut Passed) -> Result<Option<Record>, Reason> {
    if u16_at(bytes, layout.version_at) >> 8 != layout.version {
        return Err(Reason("version", "not that of the format"));
    }
    let kind = match u16_at(bytes, layout.command_at) {
        0x08 | 0x28 | 0xa8 | 0x88 => RecordKind::Read,
        0x0a | 0x2a | 0xaa | 0x8a => RecordKind::Write,
        0x35 | 0x91 => RecordKind::Flush,
        0x00..=0xff => {
            passed.not_requests += 1;
            return Ok(None);
        }
        _ => return Err(Reason("command", "no SCSI operation code")),
    };
    let time_ns = u64_at(bytes, 24).checked_mul(1_000).ok_or(Reason("time", "too large"))?;
    let sector = u64_at(bytes, 16);
    let offset_bytes = match kind {
        RecordKind::Flush => 0,
        _ => sector.checked_mul(SECTOR_BYTES).ok_or(Reason("address", "beyond 2^63 bytes"))?,
    };
    let len_bytes = u64::from(u32_at(bytes, layout.len_at));
    let record = Record::of(time_ns, 0, kind, offset_bytes, len_bytes)?;
    Ok(passed.unless_empty(record))
}
