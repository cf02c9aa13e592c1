//! Damaged files: an error that names the file, the place and the reason, in bounded memory.

use std::io::Write;

use icecore_workloads::trace::{Format, LINE_BYTES_MAX, Place, TraceErrorKind, TraceOptions};

use crate::support::{fixture, fixtures, format, read, read_bytes, refused, rows};

#[test]
fn a_letter_in_a_number_is_told_with_its_line() {
    let error = refused(read(&[fixture("damaged-field.csv")], &TraceOptions::default()));
    assert_eq!((error.kind(), error.place()), (TraceErrorKind::Damaged, Place::Line(2)));
    let message = error.to_string();
    let expected =
        "damaged-field.csv: line 2: length: not a whole number in \"725,R,4096,4O96,1577808000000110\"";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn bad_records_can_be_left_out_up_to_a_number() {
    let allowed = |bad_records_max| TraceOptions { bad_records_max, ..TraceOptions::default() };
    let (records, reports) = read(&[fixture("damaged-field.csv")], &allowed(1)).unwrap();
    assert_eq!((records.len(), reports[0].bad_records), (2, 1));
    assert!(reports[0].bad_messages[0].contains("line 2"), "{:?}", reports[0].bad_messages);
    let text = b"1,W,0,512,1000\nx\n1,W,0,512,1001\ny\n1,W,0,512,1002\n";
    let (records, reports) = read_bytes(text, &allowed(2)).unwrap();
    assert_eq!((records.len(), reports[0].bad_records), (3, 2));
    let error = refused(read_bytes(text, &allowed(1)));
    assert_eq!(error.place(), Place::Line(4));
    assert!(error.reason().contains("--bad-records allows 1"), "{error}");
}

#[test]
fn a_binary_file_cut_short_is_told_with_its_byte() {
    let error = refused(read(&[fixture("damaged-cut.vscsi1")], &TraceOptions::default()));
    assert_eq!(error.place(), Place::Record { number: 5, byte: 128 });
    assert!(error.reason().contains("of which 25 bytes are there"), "{error}");
}

#[test]
fn a_lost_event_is_told_with_its_byte() {
    let error = refused(read(&[fixture("damaged-magic.blktrace.0")], &TraceOptions::default()));
    assert_eq!(error.place(), Place::Record { number: 3, byte: 100 });
    assert!(error.reason().starts_with("magic"), "{error}");
    // Nothing behind it can be told, however many bad records are allowed.
    let options = TraceOptions { bad_records_max: 1000, ..TraceOptions::default() };
    refused(read(&[fixture("damaged-magic.blktrace.0")], &options));
}

#[test]
fn damaged_packing_is_an_error_not_an_early_end() {
    for (name, reason) in [("damaged-cut.gz", "ends early"), ("damaged-sum.zst", "sum of a zstd frame")] {
        let error = refused(read(&[fixture(name)], &TraceOptions::default()));
        assert_eq!(error.kind(), TraceErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains(name) && error.reason().contains(reason), "{error}");
    }
}

#[test]
fn other_versions_and_byte_orders_are_named() {
    let first = std::fs::read(fixture("sample.blktrace.1")).unwrap();
    let mut version_8 = first.clone();
    version_8[0] = 8;
    let mut big_endian = first;
    big_endian[..4].reverse();
    for (bytes, reason) in [(version_8, "only version 7"), (big_endian, "big-endian")] {
        let error = refused(read_bytes(&bytes, &TraceOptions::default()));
        assert!(error.reason().contains(reason), "{error}");
    }
}

#[test]
fn a_missing_file_and_a_folder_are_no_damage() {
    for path in [fixture("no-such-file"), fixture("")] {
        let error = refused(read(&[path], &TraceOptions::default()));
        assert_eq!(error.kind(), TraceErrorKind::Io, "{error}");
    }
}

/// At the bound a line is read; one byte more, and it is an error, wherever in a chunk it lies.
#[test]
fn the_bound_of_a_line_is_exact() {
    // SPC allows any fields behind the fifth.
    let line = |number: u64, length: usize| {
        let mut line = format!("0,{number},512,R,{number}.0,").into_bytes();
        line.resize(length, b'x');
        line.push(b'\n');
        line
    };
    for before in [0, 1, 3, 4, 5, 100] {
        let mut text: Vec<u8> = (0..before).flat_map(|number| line(number, LINE_BYTES_MAX)).collect();
        let (records, _) = read_bytes(&text, &format(Format::Spc)).unwrap_or_default();
        assert_eq!(records.len() as u64, before);
        text.extend(line(before, LINE_BYTES_MAX + 1));
        text.extend(line(before + 1, 40));
        let error = refused(read_bytes(&text, &format(Format::Spc)));
        assert_eq!(error.place(), Place::Line(before + 1), "{error}");
        assert!(error.reason().contains("longer than 65536 bytes"), "{error}");
    }
}

/// A gigabyte without a line end, packed into a megabyte, is given up after one chunk.
#[test]
fn a_bomb_is_not_unpacked_into_memory() {
    let bytes: u64 = if cfg!(debug_assertions) { 64 << 20 } else { 1 << 30 };
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        packed.write_all(&zeros).unwrap();
    }
    let packed = packed.finish().unwrap();
    for format in [Format::Msr, Format::FioV2, Format::Blkparse] {
        let error = refused(read_bytes(&packed, &crate::support::format(format)));
        assert_eq!(error.place(), Place::Line(1), "{error}");
    }
    refused(read_bytes(&packed, &TraceOptions::default()));
}

/// Each fixture cut at every byte: an error with a file and a reason, or a clean read of no more records.
#[test]
fn every_length_of_every_fixture_is_read_or_refused() {
    for path in fixtures() {
        let whole = std::fs::read(&path).unwrap();
        let all = read(std::slice::from_ref(&path), &TraceOptions::default())
            .map_or(usize::MAX, |(records, _)| records.len());
        for length in 0..whole.len() {
            match read_bytes(&whole[..length], &TraceOptions::default()) {
                Ok((records, _)) => assert!(records.len() <= all, "{path:?} cut to {length}"),
                Err(error) => assert!(!error.reason().is_empty(), "{path:?} cut to {length}"),
            }
        }
    }
}

#[test]
fn line_ends_of_other_systems_and_blank_lines_do_no_harm() {
    let unix = std::fs::read(fixture("alibaba.csv")).unwrap();
    let text = String::from_utf8(unix.clone()).unwrap();
    let (expected, _) = read_bytes(&unix, &TraceOptions::default()).unwrap();
    for variant in [text.replace('\n', "\r\n"), text.replace('\n', "\n\n"), text.trim_end().to_owned()] {
        let (records, _) = read_bytes(variant.as_bytes(), &TraceOptions::default()).unwrap();
        assert_eq!(rows(&records), rows(&expected), "{variant:?}");
    }
}

/// What can be unpacked is passed on, and then the error comes, with the byte behind the last whole chunk.
#[test]
fn a_packed_file_cut_short_far_behind_its_beginning_is_an_error() {
    let text: String = (0..100_000).map(|number| format!("1,W,{},512,{number}\n", number * 512)).collect();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let (records, _) = read_bytes(&packed, &TraceOptions::default()).unwrap();
    assert_eq!(records.len(), 100_000);
    for length in [packed.len() / 2, packed.len() - 9, packed.len() - 1] {
        let error = refused(read_bytes(&packed[..length], &TraceOptions::default()));
        assert_eq!((error.kind(), error.reason()), (TraceErrorKind::Damaged, "the packed file ends early"));
        assert!(matches!(error.place(), Place::Byte(byte) if byte > 100_000), "{error}");
    }
}
