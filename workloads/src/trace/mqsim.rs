//! MQSim: `ns device LBA sectors op`; nanoseconds, sectors of 512 bytes, 0 writes and 1 reads.

use super::error::Reason;
use super::record::{Record, RecordKind};
use super::text::{Fields, LineContext, LineFormat};

#[derive(Clone, Copy)]
pub(super) struct Mqsim;

impl LineFormat for Mqsim {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::blanks(line);
        let time_ns = fields.number("time")?;
        let volume = fields.number_u32("device")?;
        let sector = fields.number("LBA")?;
        let sectors = fields.number("sectors")?;
        let kind = match fields.word("operation")? {
            b"0" => RecordKind::Write,
            b"1" => RecordKind::Read,
            _ => return Err(Reason("operation", "neither 0 (write) nor 1 (read)")),
        };
        fields.end()?;
        let record = Record::of_sectors(time_ns, volume, kind, sector, sectors)?;
        Ok(context.passed.unless_empty(record))
    }
}
