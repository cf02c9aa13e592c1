//! The text of blkparse: `maj,min cpu seq sec.nsec pid action RWBS sector + n [comm]`.
//!
//! A request shows in several rows, one for each event; which one stands for it is chosen ([`BlockEvent`]). Rows of
//! messages (`m`), other events and packet commands (no `+`) are passed over. The summary at the end ends the trace.
//! A flush is a row whose RWBS has an `F` and that moves nothing; one that moves data is a write. The volume is the
//! device, packed as the kernel does it.

use super::BlockEvent;
use super::error::Reason;
use super::record::{Record, RecordKind};
use super::text::{Fields, LineContext, LineFormat, device, number, seconds};

#[derive(Clone, Copy)]
pub(super) struct Blkparse(pub BlockEvent);

/// What the lines behind the last row begin with.
const SUMMARY: [&[u8]; 5] = [b"CPU", b"Total (", b"Throughput (", b"Events (", b"Skips: "];

impl LineFormat for Blkparse {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        if !line[0].is_ascii_digit() && SUMMARY.iter().any(|start| line.starts_with(start)) {
            *context.ended = true;
            return Ok(None);
        }
        let mut fields = Fields::blanks(line);
        let volume = volume(fields.word("device")?)?;
        fields.number("cpu")?;
        fields.number("sequence")?;
        let time_ns = seconds(fields.word("time")?, "time")?;
        fields.number("pid")?;
        let action = fields.word("action")?;
        if action == b"m" {
            context.passed.not_requests += 1;
            return Ok(None);
        }
        if action != self.0.letter() {
            // A letter or two, so that a damaged row does not pass for an event nobody asked for.
            if action.len() > 2 || !action.iter().all(u8::is_ascii_alphabetic) {
                return Err(Reason("action", "no event"));
            }
            context.passed.other_events += 1;
            return Ok(None);
        }
        let rwbs = fields.word("RWBS")?;
        let flushes = rwbs[0] == b'F';
        let operation = if flushes && rwbs.len() > 1 { rwbs[1] } else { rwbs[0] };
        let kind = match operation {
            b'R' => RecordKind::Read,
            b'W' => RecordKind::Write,
            b'D' => RecordKind::Discard,
            b'F' => RecordKind::Flush,
            letter if letter.is_ascii_alphabetic() => {
                context.passed.not_requests += 1;
                return Ok(None);
            }
            _ => return Err(Reason("RWBS", "not letters")),
        };
        let (sector, sectors) = match fields.next() {
            // Nothing but the name of the process: it moves no data.
            None => (0, 0),
            Some(word) if word[0] == b'[' => (0, 0),
            Some(word) => {
                let sector = number(word, "sector")?;
                if fields.next() != Some(b"+") {
                    context.passed.not_requests += 1;
                    return Ok(None);
                }
                (sector, fields.number("sectors")?)
            }
        };
        let kind = if flushes && sectors == 0 { RecordKind::Flush } else { kind };
        let record = Record::of_sectors(time_ns, volume, kind, sector, sectors)?;
        Ok(context.passed.unless_empty(record))
    }
}

fn volume(field: &[u8]) -> Result<u32, Reason> {
    const NAME: &str = "device";
    let comma = field.iter().position(|byte| *byte == b',').ok_or(Reason(NAME, "not MAJOR,MINOR"))?;
    device(number(&field[..comma], NAME)?, number(&field[comma + 1..], NAME)?, NAME)
}
