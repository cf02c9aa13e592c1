//! Tencent CBS: `Timestamp,Offset,Size,IOType,VolumeID`; whole seconds, sectors of 512 bytes, 0 reads and 1 writes.
//!
//! Lines are not in order of time.

use super::error::Reason;
use super::record::{Record, RecordKind};
use super::text::{Fields, LineContext, LineFormat};

#[derive(Clone, Copy)]
pub(super) struct Tencent;

impl LineFormat for Tencent {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::commas(line);
        let time_ns = fields.time("Timestamp", 1_000_000_000)?;
        let sector = fields.number("Offset")?;
        let sectors = fields.number("Size")?;
        let kind = match fields.word("IOType")? {
            b"0" => RecordKind::Read,
            b"1" => RecordKind::Write,
            _ => return Err(Reason("IOType", "neither 0 (read) nor 1 (write)")),
        };
        let volume = fields.number_u32("VolumeID")?;
        fields.end()?;
        let record = Record::of_sectors(time_ns, volume, kind, sector, sectors)?;
        Ok(context.passed.unless_empty(record))
    }
}
