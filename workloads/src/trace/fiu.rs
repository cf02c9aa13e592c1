//! FIU: `ts_ns pid process lba size R|W major minor md5`; address and size in units of 512 bytes.
//!
//! The name of a process may have blanks, so that what follows it is told from the line's end. The volume is the
//! device, packed as the kernel does it (12 bits of major, 20 of minor).

use super::error::Reason;
use super::record::Record;
use super::text::{Fields, LineContext, LineFormat, device, letter, number};

const MD5_DIGITS: usize = 32;

#[derive(Clone, Copy)]
pub(super) struct Fiu;

impl LineFormat for Fiu {
    #[inline]
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason> {
        let mut fields = Fields::blanks(line);
        let time_ns = fields.number("time")?;
        fields.number("pid")?;
        fields.word("process")?;
        // From the end: the last six before the sum of the content, which may be missing.
        let mut from_end = line.rsplit(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut last = |name| from_end.next().ok_or(Reason(name, "missing"));
        let mut word = last("minor")?;
        if word.len() == MD5_DIGITS && word.iter().all(u8::is_ascii_hexdigit) {
            word = last("minor")?;
        }
        let minor = number(word, "minor")?;
        let major = number(last("major")?, "major")?;
        let kind = letter(last("operation")?, "operation")?;
        let sectors = number(last("size")?, "size")?;
        let sector = number(last("lba")?, "lba")?;
        // What is left has to hold the time, the pid and the process.
        if from_end.nth(2).is_none() {
            return Err(Reason("line", "has too few fields"));
        }
        let volume = device(major, minor, "major and minor")?;
        let record = Record::of_sectors(time_ns, volume, kind, sector, sectors)?;
        Ok(context.passed.unless_empty(record))
    }
}
