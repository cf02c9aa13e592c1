//! Alibaba 2020: `device_id,opcode,offset,length,timestamp`; bytes and microseconds.

use super::error::Reason;
use super::record::Record;
use super::text::{Fields, LineContext, LineFormat, letter};

#[derive(Clone, Copy)]
pub(super) struct Alibaba;

impl LineFormat for Alibaba {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::commas(line);
        let volume = fields.number_u32("device_id")?;
        let kind = letter(fields.word("opcode")?, "opcode")?;
        let offset_bytes = fields.number("offset")?;
        let len_bytes = fields.number("length")?;
        let time_ns = fields.time("timestamp", 1_000)?;
        fields.end()?;
        let record = Record::of(time_ns, volume, kind, offset_bytes, len_bytes)?;
        Ok(context.passed.unless_empty(record))
    }
}
