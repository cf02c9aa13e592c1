//! MSR Cambridge: `Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime`.
//!
//! Timestamps and response times are in units of 100 ns (a Windows FILETIME), offsets and sizes in bytes. There is no
//! header. The volume is the disk number; a second host in one trace adds 65,536, a third 131,072 and so on.

use super::error::Reason;
use super::record::{Record, RecordKind};
use super::text::{Fields, LineContext, LineFormat};

const FILETIME_NS: u64 = 100;
/// Bits of a volume's number that hold the disk; the host is above.
pub(super) const DISK_BITS: u32 = 16;

#[derive(Clone, Copy)]
pub(super) struct Msr;

impl LineFormat for Msr {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::commas(line);
        let time_ns = fields.time("Timestamp", FILETIME_NS)?;
        let host = fields.word("Hostname")?;
        let disk = fields.number("DiskNumber")?;
        let kind = match fields.word("Type")? {
            kind if kind.eq_ignore_ascii_case(b"Read") => RecordKind::Read,
            kind if kind.eq_ignore_ascii_case(b"Write") => RecordKind::Write,
            _ => return Err(Reason("Type", "neither Read nor Write")),
        };
        let offset_bytes = fields.number("Offset")?;
        let len_bytes = fields.number("Size")?;
        let latency_ns = fields.time("ResponseTime", FILETIME_NS)?;
        fields.end()?;
        if disk >= 1 << DISK_BITS {
            return Err(Reason("DiskNumber", "too large"));
        }
        let volume = context.names.number(host)? << DISK_BITS | disk as u32;
        let record = Record::of(time_ns, volume, kind, offset_bytes, len_bytes)?;
        Ok(context.passed.unless_empty(record).map(|record| record.with_latency(Some(latency_ns))))
    }
}
