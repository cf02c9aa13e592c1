//! Fixtures changed at random: whatever comes of it, reading ends, with records or with an error that names the file
//! and the reason.
//!
//! A seed gives a case. `ICECORE_TRACE_MUTATIONS` says how many cases; a few seconds' worth if it is not set.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use icecore_workloads::trace::{
    BlockEvent, Format, Place, RecordSource, TraceErrorKind, TraceOptions, TraceStream,
};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::support::fixtures;

const CASES: u64 = 5_000;
/// The most that a case may become; a few doublings of the largest fixture.
const CASE_BYTES_MAX: usize = 16 * 1024;

struct Case {
    bytes: Vec<u8>,
    options: TraceOptions,
}

fn below(random: &mut Xoshiro256PlusPlus, bound: usize) -> usize {
    if bound == 0 { 0 } else { (random.next_u64() % bound as u64) as usize }
}

/// Numbers at which something may overflow.
const NUMBERS: [&str; 10] = [
    "0",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18014398509481984",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999",
    "-1",
];

fn mutate(random: &mut Xoshiro256PlusPlus, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = below(random, bytes.len());
    match random.next_u64() % 9 {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << (random.next_u64() % 8),
        1 if !bytes.is_empty() => bytes[at] = random.next_u64() as u8,
        2 => bytes.truncate(at),
        3 => {
            let end = at + below(random, bytes.len() - at);
            let piece = bytes[at..end].to_vec();
            let to = below(random, bytes.len());
            bytes.splice(to..to, piece);
        }
        4 => {
            let other = &others[below(random, others.len())];
            let from = below(random, other.len());
            let end = from + below(random, other.len() - from);
            bytes.splice(at..at, other[from..end].iter().copied());
        }
        5 => {
            let end = at + below(random, bytes.len() - at);
            bytes.drain(at..end);
        }
        6 => {
            // A number of the text becomes another.
            let digits = |byte: &u8| byte.is_ascii_digit();
            if let Some(from) = bytes[at..].iter().position(digits).map(|found| at + found) {
                let end =
                    bytes[from..].iter().position(|byte| !digits(byte)).map_or(bytes.len(), |n| from + n);
                bytes.splice(from..end, NUMBERS[below(random, NUMBERS.len())].bytes());
            }
        }
        7 if bytes.len() >= 8 => {
            let at = below(random, bytes.len() - 7) & !3;
            let value = [0, u64::MAX, 1 << 63, u64::MAX >> 1, 0xffff_ffff][below(random, 5)];
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        _ => {
            let fill = [b'\n', b',', b' ', b'0', b'9', 0, 0xff, b'[', b'.'][below(random, 9)];
            let count = below(random, 64);
            bytes.splice(at..at, std::iter::repeat_n(fill, count));
        }
    }
    bytes.truncate(CASE_BYTES_MAX);
}

fn case(seed: u64, originals: &[Vec<u8>]) -> Case {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut bytes = originals[below(&mut random, originals.len())].clone();
    for _ in 0..1 + below(&mut random, 4) {
        mutate(&mut random, &mut bytes, originals);
    }
    let format =
        (random.next_u64().is_multiple_of(3)).then(|| Format::ALL[below(&mut random, Format::ALL.len())]);
    let event = if random.next_u64().is_multiple_of(4) { BlockEvent::Issued } else { BlockEvent::Queued };
    let sort_window_records = Some([0, 1, 3, 1000][below(&mut random, 4)]);
    let bad_records_max = [0, 0, 1, 1000][below(&mut random, 4)];
    Case { bytes, options: TraceOptions { format, event, sort_window_records, bad_records_max } }
}

/// What came of a case.
#[derive(Debug, Default)]
struct Outcomes {
    read: u64,
    damaged: u64,
    unsorted: u64,
    unknown: u64,
    usage: u64,
    records: u64,
}

fn judge(path: &Path, options: &TraceOptions, outcomes: &mut Outcomes) -> Result<(), String> {
    let paths = [PathBuf::from(path)];
    let mut records = 0_u64;
    let mut before = 0;
    let result = TraceStream::open(&paths, options).and_then(|mut stream| {
        while let Some(record) = stream.next()? {
            records += 1;
            assert!(record.arrival_ns >= before, "not in order of time");
            before = record.arrival_ns;
            assert!(record.end_bytes() <= i64::MAX as u64, "{record:?}");
        }
        let report = stream.files().remove(0);
        assert!(report.bad_records <= options.bad_records_max);
        assert!(stream.next()?.is_none(), "a record after the end");
        Ok(())
    });
    outcomes.records += records;
    // No case has more records than bytes.
    if records > CASE_BYTES_MAX as u64 {
        return Err(format!("{records} records"));
    }
    let Err(error) = result else {
        outcomes.read += 1;
        return Ok(());
    };
    let message = error.to_string();
    if error.path() != path || !message.contains(path.to_str().unwrap()) || error.reason().trim().is_empty() {
        return Err(format!("no file or no reason: {message}"));
    }
    // What is damaged within the content has a place there; of a packed file the unpacked byte.
    let placed = !matches!(error.place(), Place::File);
    match error.kind() {
        TraceErrorKind::Damaged if placed || message.contains("pack") || message.contains("zstd") => {
            outcomes.damaged += 1;
        }
        TraceErrorKind::Damaged if before == 0 && records == 0 => outcomes.damaged += 1,
        TraceErrorKind::Unsorted if placed => outcomes.unsorted += 1,
        TraceErrorKind::Format => outcomes.unknown += 1,
        TraceErrorKind::Usage => outcomes.usage += 1,
        _ => return Err(format!("no place: {message}")),
    }
    Ok(())
}

#[test]
fn changed_at_random_they_are_read_or_refused() {
    let cases = match std::env::var("ICECORE_TRACE_MUTATIONS") {
        Ok(number) => number.parse().expect("ICECORE_TRACE_MUTATIONS is a number of cases"),
        Err(_) => CASES,
    };
    let originals: Vec<_> = fixtures().iter().map(|path| std::fs::read(path).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated");
    let mut outcomes = Outcomes::default();
    for seed in 0..cases {
        let case = case(seed, &originals);
        std::fs::write(&path, &case.bytes).unwrap();
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&path, &case.options, &mut outcomes)));
        match judged {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                panic!("seed {seed}: {reason}\n{:?}\n{}", case.options, case.bytes.escape_ascii())
            }
            Err(_) => panic!("seed {seed} panicked\n{:?}\n{}", case.options, case.bytes.escape_ascii()),
        }
    }
    println!("{cases} cases: {outcomes:?}");
    if cases >= CASES {
        // The cases are of every sort, or they would say nothing.
        let Outcomes { read, damaged, unsorted, unknown, usage, .. } = outcomes;
        assert!([read, damaged, unknown].into_iter().all(|count| count > cases / 10), "{outcomes:?}");
        assert!(unsorted > 0 && usage > 0, "{outcomes:?}");
    }
}
