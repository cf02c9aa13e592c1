//! The logs of fio, `write_iolog`: version 2, `file action offset length`, and version 3 with microseconds before it.
//!
//! In version 2 only `wait` moves the time, by its offset in microseconds after the wait before; version 3 knows no
//! `wait`, its times count from the log's beginning. Offsets and lengths are in bytes. `add`, `open` and `close` of a
//! file are no requests; every kind of sync stands for a flush. The volume is the file, numbered by first appearance.

use super::error::Reason;
use super::record::{Record, RecordKind};
use super::text::{Fields, LineContext, LineFormat};

pub(super) const HEADER_V2: &[u8] = b"fio version 2 iolog";
pub(super) const HEADER_V3: &[u8] = b"fio version 3 iolog";
const MICROSECOND_NS: u64 = 1_000;

#[derive(Clone, Copy)]
pub(super) struct FioV2;

#[derive(Clone, Copy)]
pub(super) struct FioV3;

impl LineFormat for FioV2 {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        if line == HEADER_V2 {
            return Ok(None);
        }
        let mut fields = Fields::blanks(line);
        let file = fields.word("file")?;
        let action = fields.word("action")?;
        if action == b"wait" {
            let wait_ns = fields.time("wait", MICROSECOND_NS)?;
            let waited = context.waited_ns.checked_add(wait_ns);
            *context.waited_ns = waited.ok_or(Reason("wait", "the waits add up to more than 584 years"))?;
            context.passed.not_requests += 1;
            return Ok(None);
        }
        let time_ns = *context.waited_ns;
        request(file, action, time_ns, &mut fields, context)
    }
}

impl LineFormat for FioV3 {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        if line == HEADER_V3 {
            return Ok(None);
        }
        let mut fields = Fields::blanks(line);
        let time_ns = fields.time("time", MICROSECOND_NS)?;
        let file = fields.word("file")?;
        let action = fields.word("action")?;
        if action == b"wait" {
            return Err(Reason("action", "version 3 has no wait"));
        }
        request(file, action, time_ns, &mut fields, context)
    }
}

#[inline]
fn request(
    file: &[u8],
    action: &[u8],
    time_ns: u64,
    fields: &mut Fields<'_>,
    context: &mut LineContext<'_>,
) -> Result<Option<Record>, Reason> {
    let kind = match action {
        b"read" => RecordKind::Read,
        b"write" => RecordKind::Write,
        b"trim" => RecordKind::Discard,
        b"sync" | b"datasync" | b"sync_file_range" | b"syncfs" => RecordKind::Flush,
        b"add" | b"open" | b"close" => {
            fields.end()?;
            context.passed.not_requests += 1;
            return Ok(None);
        }
        _ => return Err(Reason("action", "none that fio writes")),
    };
    let offset_bytes = fields.number("offset")?;
    let len_bytes = fields.number("length")?;
    fields.end()?;
    let volume = context.names.number(file)?;
    let record = Record::of(time_ns, volume, kind, offset_bytes, len_bytes)?;
    Ok(context.passed.unless_empty(record))
}
