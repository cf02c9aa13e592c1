//! SPC, as of the UMass repository: `ASU,LBA,Size,Opcode,Timestamp`, and what else a line may have is not looked at.
//!
//! The address is in sectors of 512 bytes, the size in bytes, the time in seconds with a fraction. The volume is the
//! application storage unit.

use super::error::Reason;
use super::record::{Record, SECTOR_BYTES};
use super::text::{Fields, LineContext, LineFormat, letter};

#[derive(Clone, Copy)]
pub(super) struct Spc;

impl LineFormat for Spc {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::commas(line);
        let volume = fields.number_u32("ASU")?;
        let sector = fields.number("LBA")?;
        let len_bytes = fields.number("Size")?;
        let kind = letter(fields.word("Opcode")?, "Opcode")?;
        let time_ns = fields.seconds("Timestamp")?;
        let offset_bytes = sector.checked_mul(SECTOR_BYTES).ok_or(Reason("LBA", "too large"))?;
        let record = Record::of(time_ns, volume, kind, offset_bytes, len_bytes)?;
        Ok(context.passed.unless_empty(record))
    }
}
