//! `hist/*.hlog`: the latency histograms of one run, as HdrHistogram interval logs.
//!
//! One line an operation kind, tagged `read`, `write` or `flush`, and for an open load `read-intended`, `write-intended` (from when
//! operations were to begin) and `lateness`, in the V2 compressed encoding that HdrHistogram's
//! own log tools of every language read. Values are nanoseconds. Kinds with no samples have no line.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use super::ResultsError;

/// Latencies of one run in nanoseconds, by operation kind; `None` where there were none.
#[derive(Clone, Debug, Default)]
pub struct RunHistograms {
    /// Reads.
    pub read: Option<Histogram<u64>>,
    /// Writes.
    pub write: Option<Histogram<u64>>,
    /// Separate flushes.
    pub flush: Option<Histogram<u64>>,
    /// Reads of an open load, from when they were to begin.
    pub read_intended: Option<Histogram<u64>>,
    /// Its writes, likewise.
    pub write_intended: Option<Histogram<u64>>,
    /// How late the runner was to begin them.
    pub lateness: Option<Histogram<u64>>,
}

impl RunHistograms {
    /// The histogram of `op` (`read`, `write`, `flush`, or `all`: reads and writes merged).
    pub fn of(&self, op: &str) -> Option<Histogram<u64>> {
        match op {
            "read" => self.read.clone(),
            "write" => self.write.clone(),
            "flush" => self.flush.clone(),
            "all" => merged(self.read.iter().chain(&self.write)),
            _ => None,
        }
    }

    /// The same from when operations were to begin.
    pub fn intended_of(&self, op: &str) -> Option<Histogram<u64>> {
        match op {
            "read" => self.read_intended.clone(),
            "write" => self.write_intended.clone(),
            "all" => merged(self.read_intended.iter().chain(&self.write_intended)),
            _ => None,
        }
    }
}

/// The histograms added up; `None` for none.
pub fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram<u64>>) -> Option<Histogram<u64>> {
    let mut histograms = histograms.into_iter();
    let mut sum = histograms.next()?.clone();
    sum.auto(true);
    for histogram in histograms {
        // Cannot fail: an automatically resizing histogram takes any value.
        sum.add(histogram).ok()?;
    }
    Some(sum)
}

pub(super) fn save(
    path: &Path,
    histograms: &RunHistograms,
    started: SystemTime,
    measured: Duration,
) -> Result<(), ResultsError> {
    let mut bytes = Vec::new();
    encode(&mut bytes, histograms, started, measured)
        .map_err(|detail| ResultsError::malformed(path, detail))?;
    fs::write(path, bytes).map_err(ResultsError::io(path, "write"))
}

fn encode(
    bytes: &mut Vec<u8>,
    histograms: &RunHistograms,
    started: SystemTime,
    measured: Duration,
) -> Result<(), String> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3; values in nanoseconds]")
        .with_base_time(started)
        .begin_log_with(bytes, &mut serializer)
        .map_err(|error| error.to_string())?;
    let kinds = [
        ("read", &histograms.read),
        ("write", &histograms.write),
        ("flush", &histograms.flush),
        ("read-intended", &histograms.read_intended),
        ("write-intended", &histograms.write_intended),
        ("lateness", &histograms.lateness),
    ];
    for (name, histogram) in kinds {
        if let Some(histogram) = histogram {
            log.write_histogram(histogram, Duration::ZERO, measured, Tag::new(name))
                .map_err(|error| format!("{error:?}"))?;
        }
    }
    Ok(())
}

pub(super) fn load(path: &Path) -> Result<RunHistograms, ResultsError> {
    let bytes = fs::read(path).map_err(ResultsError::io(path, "read"))?;
    decode(&bytes).map_err(|detail| ResultsError::malformed(path, detail))
}

fn decode(bytes: &[u8]) -> Result<RunHistograms, String> {
    let mut histograms = RunHistograms::default();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(bytes) {
        let entry = entry.map_err(|error| format!("not an interval log: {error:?}"))?;
        let LogEntry::Interval(interval) = entry else { continue };
        let encoded = base64_decode(interval.encoded_histogram()).ok_or("not base64")?;
        let histogram =
            deserializer.deserialize(&mut &encoded[..]).map_err(|error| format!("histogram: {error}"))?;
        match interval.tag().map(|tag| tag.as_str()) {
            Some("read") => histograms.read = Some(histogram),
            Some("write") => histograms.write = Some(histogram),
            Some("flush") => histograms.flush = Some(histogram),
            Some("read-intended") => histograms.read_intended = Some(histogram),
            Some("write-intended") => histograms.write_intended = Some(histogram),
            Some("lateness") => histograms.lateness = Some(histogram),
            tag => return Err(format!("unknown tag {tag:?}")),
        }
    }
    Ok(histograms)
}

/// Base64 (RFC 4648, section 4), as the interval log holds it. `None` where a character is not of its alphabet.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        let vectors = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ];
        for (text, plain) in vectors {
            assert_eq!(base64_decode(text).as_deref(), Some(plain.as_bytes()), "{text}");
        }
        assert_eq!(base64_decode("Zm9*"), None);
    }

    #[test]
    fn histograms_come_back_as_they_were() {
        let mut read = Histogram::new(3).unwrap();
        let mut flush = Histogram::new(3).unwrap();
        (1..5_000u64).for_each(|value| read.record(value * value).unwrap());
        flush.record_n(12_345, 678).unwrap();
        let before = RunHistograms { read: Some(read), flush: Some(flush), ..RunHistograms::default() };
        let mut bytes = Vec::new();
        encode(&mut bytes, &before, SystemTime::UNIX_EPOCH, Duration::from_secs(10)).unwrap();
        let after = decode(&bytes).unwrap();
        assert_eq!((after.read, after.write, after.flush), (before.read, None, before.flush));
    }

    #[test]
    fn all_is_reads_and_writes_without_flushes() {
        let mut one = Histogram::new(3).unwrap();
        one.record_n(1_000, 10).unwrap();
        let mut large = Histogram::new(3).unwrap();
        large.record_n(9_000_000_000, 5).unwrap();
        let all = RunHistograms {
            read: Some(one.clone()),
            write: Some(large),
            flush: Some(one),
            ..RunHistograms::default()
        }
        .of("all");
        assert_eq!(all.map(|all| all.len()), Some(15));
    }

    #[test]
    fn damage_is_an_error() {
        assert!(decode(b"Tag=read,0,1,1,AAAA\n").is_err());
        assert!(decode(b"what is this\n").is_err());
    }
}
