//! Lines of text: the tokens of a line as bytes, and the loop over the lines of a chunk.
//!
//! Nothing is copied and no `str` is made. A line is at most [`LINE_BYTES_MAX`] long.

use memchr::memchr;

use super::chunk::{Bad, Chunk, Fault, Names, Passed};
use super::error::{Reason, excerpt};
use super::record::{Record, RecordKind};

/// The longest line; the longest of any known trace has some hundred bytes. It bounds what is kept of a file without
/// line ends.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What a line may leave beside a record.
pub(super) struct LineContext<'a> {
    pub names: &'a mut Names,
    pub passed: &'a mut Passed,
    /// Time that relative waits have taken so far in this chunk.
    pub waited_ns: &'a mut u64,
    /// What follows is no trace any more.
    pub ended: &'a mut bool,
}

/// A format whose records are lines.
pub(super) trait LineFormat: Copy + Send + Sync {
    /// The record of a line that is not blank; `None` where it rightly holds none.
    fn line(self, line: &[u8], context: &mut LineContext<'_>) -> Result<Option<Record>, Reason>;
}

/// Parses all lines of a chunk, as far as more than `bad_max` of them are no good.
pub(super) fn parse_lines<F: LineFormat>(format: F, chunk: &mut Chunk, bad_max: u64) {
    let Chunk { content, records, places, bad, units, names, passed, waited_ns, ended, .. } = chunk;
    let mut rest = content.as_slice();
    while !rest.is_empty() && !*ended {
        let (line, after) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        *units += 1;
        let mut blamed = |fault: Fault, reason: String| {
            let unit = *units - 1;
            bad.push(Bad { records_before: records.len(), unit, fault, reason });
            fault == Fault::Fatal || bad.len() as u64 > bad_max
        };
        if line.len() > LINE_BYTES_MAX {
            blamed(Fault::Fatal, too_long());
            return;
        }
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let mut context = LineContext { names, passed, waited_ns, ended };
        match format.line(line, &mut context) {
            Ok(Some(record)) => {
                records.push(record);
                places.push(*units - 1);
            }
            Ok(None) => {}
            Err(reason) => {
                if blamed(Fault::Record, format!("{reason} in {}", excerpt(line))) {
                    return;
                }
            }
        }
    }
}

pub(super) fn too_long() -> String {
    format!("the line is longer than {LINE_BYTES_MAX} bytes")
}

/// The fields of a line.
pub(super) struct Fields<'a> {
    rest: Option<&'a [u8]>,
    separator: Separator,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    Comma,
    Blanks,
}

impl<'a> Fields<'a> {
    /// Fields with a comma between them.
    pub fn commas(line: &'a [u8]) -> Self {
        Self { rest: Some(line), separator: Separator::Comma }
    }

    /// Fields with blanks between them, and perhaps before the first.
    pub fn blanks(line: &'a [u8]) -> Self {
        Self { rest: Some(line), separator: Separator::Blanks }
    }

    /// The next field without blanks around it; `None` where the line has ended.
    #[inline]
    pub fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match self.separator {
            Separator::Comma => match rest.iter().position(|byte| *byte == b',') {
                Some(end) => {
                    self.rest = Some(&rest[end + 1..]);
                    Some(rest[..end].trim_ascii())
                }
                None => {
                    self.rest = None;
                    Some(rest.trim_ascii())
                }
            },
            Separator::Blanks => {
                let rest = rest.trim_ascii_start();
                if rest.is_empty() {
                    self.rest = None;
                    return None;
                }
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                self.rest = Some(&rest[end..]);
                Some(&rest[..end])
            }
        }
    }

    /// The next field, which there must be.
    #[inline]
    pub fn word(&mut self, name: &'static str) -> Result<&'a [u8], Reason> {
        self.next().ok_or(Reason(name, "missing"))
    }

    /// The next field as a whole number.
    #[inline]
    pub fn number(&mut self, name: &'static str) -> Result<u64, Reason> {
        number(self.word(name)?, name)
    }

    /// The next field as a whole number of 32 bits.
    #[inline]
    pub fn number_u32(&mut self, name: &'static str) -> Result<u32, Reason> {
        u32::try_from(self.number(name)?).map_err(|_| Reason(name, TOO_LARGE))
    }

    /// The next field, whole units of time, in nanoseconds.
    #[inline]
    pub fn time(&mut self, name: &'static str, unit_ns: u64) -> Result<u64, Reason> {
        self.number(name)?.checked_mul(unit_ns).ok_or(Reason(name, TOO_LARGE))
    }

    /// The next field, seconds with a fraction, in nanoseconds; digits behind the ninth are dropped.
    #[inline]
    pub fn seconds(&mut self, name: &'static str) -> Result<u64, Reason> {
        seconds(self.word(name)?, name)
    }

    /// Nothing may follow.
    pub fn end(&mut self) -> Result<(), Reason> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(Reason("line", "has too many fields")),
        }
    }
}

const NOT_A_NUMBER: &str = "not a whole number";
const TOO_LARGE: &str = "too large";

/// Decimal digits alone: no sign, no exponent.
#[inline]
pub(super) fn number(field: &[u8], name: &'static str) -> Result<u64, Reason> {
    if field.is_empty() {
        return Err(Reason(name, "empty"));
    }
    let mut value = 0_u64;
    for byte in field {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Reason(name, NOT_A_NUMBER));
        }
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit)))
            .ok_or(Reason(name, TOO_LARGE))?;
    }
    Ok(value)
}

/// `12.000345` in nanoseconds, exactly.
#[inline]
pub(super) fn seconds(field: &[u8], name: &'static str) -> Result<u64, Reason> {
    const NS: u64 = 1_000_000_000;
    let (whole, fraction) = match field.iter().position(|byte| *byte == b'.') {
        Some(point) => (&field[..point], &field[point + 1..]),
        None => (field, &[][..]),
    };
    let whole = number(whole, name)?;
    let mut scale = NS;
    let mut below = 0;
    for byte in fraction {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Reason(name, "not a number of seconds"));
        }
        scale /= 10;
        below += u64::from(digit) * scale;
    }
    whole.checked_mul(NS).and_then(|whole| whole.checked_add(below)).ok_or(Reason(name, TOO_LARGE))
}

/// `R` or `W`, in either case.
#[inline]
pub(super) fn letter(field: &[u8], name: &'static str) -> Result<RecordKind, Reason> {
    match field {
        b"R" | b"r" => Ok(RecordKind::Read),
        b"W" | b"w" => Ok(RecordKind::Write),
        _ => Err(Reason(name, "neither R nor W")),
    }
}

/// A device number as the kernel packs it: 12 bits of major, 20 of minor.
#[inline]
pub(super) fn device(major: u64, minor: u64, name: &'static str) -> Result<u32, Reason> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Reason(name, TOO_LARGE));
    }
    Ok((major << 20 | minor) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds(b"0.551706", "t"), Ok(551_706_000));
        assert_eq!(seconds(b"1456135200.013118001", "t"), Ok(1_456_135_200_013_118_001));
        assert_eq!(seconds(b"3", "t"), Ok(3_000_000_000));
        assert_eq!(seconds(b"3.", "t"), Ok(3_000_000_000));
        assert_eq!(seconds(b"0.0000000019", "t"), Ok(1), "digits behind the ninth are dropped");
        for wrong in [&b""[..], b".5", b"-1.0", b"1.5e-3", b"1.2.3", b"18446744074", b"99999999999999999999"]
        {
            assert!(seconds(wrong, "t").is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number(b"18446744073709551615", "n"), Ok(u64::MAX));
        for wrong in [&b""[..], b"18446744073709551616", b"-1", b"+1", b"1 2", b"0x10"] {
            assert!(number(wrong, "n").is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn fields_are_what_stands_between() {
        let mut fields = Fields::commas(b"a, b ,,c");
        let all: Vec<_> = std::iter::from_fn(|| fields.next()).collect();
        assert_eq!(all, [&b"a"[..], b"b", b"", b"c"]);
        let mut fields = Fields::blanks(b"  8,0   3\t1 ");
        let all: Vec<_> = std::iter::from_fn(|| fields.next()).collect();
        assert_eq!(all, [&b"8,0"[..], b"3", b"1"]);
    }
}
