//! SYSTOR '17: a header, then `Timestamp,Response,IOType,LUN,Offset,Size`; seconds to nine decimals, and bytes.
//!
//! Lines are not in order of time. A blank type is a command that neither reads nor writes; a blank response is one
//! that was not seen.

use super::error::Reason;
use super::record::Record;
use super::text::{Fields, LineContext, LineFormat, letter, seconds};

/// The first line, which concatenated files have in between as well.
pub(super) const HEADER: &[u8] = b"Timestamp,Response,IOType,LUN,Offset,Size";

#[derive(Clone, Copy)]
pub(super) struct Systor;

impl LineFormat for Systor {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        if line == HEADER {
            return Ok(None);
        }
        let mut fields = Fields::commas(line);
        let time_ns = fields.seconds("Timestamp")?;
        let latency_ns = match fields.word("Response")? {
            b"" => None,
            response => Some(seconds(response, "Response")?),
        };
        let kind = fields.word("IOType")?;
        let volume = fields.number_u32("LUN")?;
        let offset_bytes = fields.number("Offset")?;
        let len_bytes = fields.number("Size")?;
        fields.end()?;
        if kind.is_empty() {
            context.passed.not_requests += 1;
            return Ok(None);
        }
        let record = Record::of(time_ns, volume, letter(kind, "IOType")?, offset_bytes, len_bytes)?;
        Ok(context.passed.unless_empty(record).map(|record| record.with_latency(latency_ns)))
    }
}
