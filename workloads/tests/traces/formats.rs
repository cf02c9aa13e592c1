//! Each format's fixture against values worked out by hand from the layout's description.

use icecore_workloads::trace::RecordKind::{Discard, Flush, Read, Write};
use icecore_workloads::trace::{
    BlockEvent, FileReport, Format, Packing, Passed, RecordSource, TraceErrorKind, TraceOptions, TraceStream,
};

use crate::support::{Row, fixture, format, read, read_bytes, refused, rows};

/// Reads a fixture with its format given and with its format found out; both must give `expected`.
#[track_caller]
fn holds(name: &str, of: Format, expected: &[Row]) -> FileReport {
    let (given, _) = read(&[fixture(name)], &format(of)).unwrap();
    assert_eq!(rows(&given), expected, "{name} as {of}");
    let (found, reports) = read(&[fixture(name)], &TraceOptions::default()).unwrap();
    assert_eq!(reports[0].format, of, "{name}");
    assert_eq!(rows(&found), expected, "{name}");
    reports[0].clone()
}

/// 128166372016382155 - 128166372003061629 = 13,320,526 units of 100 ns.
#[test]
fn msr_counts_units_of_100_ns() {
    let report = holds(
        "msr.csv",
        Format::Msr,
        &[
            (0, 0, Read, 7_014_609_920, 24_576, Some(4_128_600)),
            (1_332_052_600, 0, Write, 1_317_441_536, 8_192, Some(196_300)),
            (2_332_061_600, 65_536 + 1, Write, 2_436_440_064, 4_096, Some(183_500)),
        ],
    );
    assert_eq!(report.passed, Passed::default());
    let mut stream = TraceStream::open(&[fixture("msr.csv")], &TraceOptions::default()).unwrap();
    while stream.next().unwrap().is_some() {}
    assert_eq!(stream.volume_name(0).as_deref(), Some("usr.0"));
    assert_eq!(stream.volume_name(65_537).as_deref(), Some("web.1"));
    assert_eq!(stream.volume_name(1 << 30), None);
}

/// The address counts sectors, the size bytes: 20941264 x 512 = 10721927168.
#[test]
fn spc_mixes_sectors_and_bytes() {
    holds(
        "spc.csv",
        Format::Spc,
        &[
            (0, 0, Write, 10_721_927_168, 8_192, None),
            (2_335_000, 0, Read, 10_721_198_080, 8_192, None),
            (460_026_000, 1, Read, 1_759_379_456, 15_872, None),
        ],
    );
}

#[test]
fn alibaba_counts_microseconds_and_bytes() {
    let expected = [
        (0, 419, Write, 13_909_270_528, 16_384, None),
        (64_000, 725, Read, 4_096, 4_096, None),
        (1_000_000, 419, Write, 13_909_286_912, 512, None),
    ];
    assert_eq!(holds("alibaba.csv", Format::Alibaba, &expected).packing, Packing::Plain);
    let gzip = holds("alibaba-two-members.gz", Format::Alibaba, &expected);
    assert_eq!((gzip.packing, gzip.content_bytes), (Packing::Gzip, 113));
    let zstd = holds("alibaba-two-frames.zst", Format::Alibaba, &expected);
    assert_eq!((zstd.packing, zstd.content_bytes), (Packing::Zstd, 113));
}

/// Seconds and sectors; the last line belongs before the second.
#[test]
fn tencent_counts_seconds_and_sectors() {
    let report = holds(
        "tencent.csv",
        Format::Tencent,
        &[
            (0, 1063, Read, 6_610_407_424, 65_536, None),
            (1_000_000_000, 1360, Read, 974_902_272, 196_608, None),
            (2_000_000_000, 1088, Write, 3_245_408_256, 4_096, None),
        ],
    );
    assert_eq!(report.sorted_records, 1);
}

#[test]
fn systor_counts_seconds_to_nine_decimals() {
    let report = holds(
        "systor17.csv",
        Format::Systor17,
        &[(0, 4, Write, 4_096, 512, None), (1_000, 4, Read, 899_056_122_368, 131_072, Some(806_000))],
    );
    assert_eq!(report.passed, Passed { not_requests: 1, ..Passed::default() });
    assert_eq!(report.sorted_records, 1);
}

/// 904265560 x 512 = 462983966720; device 6,1 is 6 x 2^20 + 1.
#[test]
fn fiu_counts_nanoseconds_and_sectors() {
    holds(
        "fiu.txt",
        Format::Fiu,
        &[
            (0, 6 << 20, Write, 462_983_966_720, 4_096, None),
            (1_000_000, 6 << 20 | 1, Read, 462_983_970_816, 8_192, None),
            (2_000_000, 8 << 20 | 17, Write, 4_096, 4_096, None),
        ],
    );
}

#[test]
fn mqsim_counts_sectors_and_0_writes() {
    holds(
        "mqsim.txt",
        Format::Mqsim,
        &[(0, 4, Write, 135_536_145_408, 8_192, None), (106_000, 0, Read, 4_096, 16_384, None)],
    );
}

/// Waits add up: 1,500 µs, then 500 µs more.
#[test]
fn fio_version_2_waits_after_the_wait_before() {
    let report = holds(
        "fio-v2.log",
        Format::FioV2,
        &[
            (0, 0, Write, 4_096, 8_192, None),
            (1_500_000, 1, Read, 0, 512, None),
            (2_000_000, 0, Discard, 1_048_576, 65_536, None),
            (2_000_000, 0, Flush, 0, 0, None),
        ],
    );
    assert_eq!(report.passed.not_requests, 5);
}

#[test]
fn fio_version_3_counts_microseconds_from_the_beginning() {
    holds(
        "fio-v3.log",
        Format::FioV3,
        &[
            (0, 0, Write, 0, 16_384, None),
            (10_000, 1, Read, 16_384, 4_096, None),
            (13_000, 0, Flush, 0, 0, None),
        ],
    );
}

#[test]
fn blkparse_shows_one_event_of_each_request() {
    let sda = 8 << 20;
    let report = holds(
        "blkparse.txt",
        Format::Blkparse,
        &[
            (0, sda, Write, 114_426_880, 4_096, None),
            (499_690, sda | 16, Read, 2_097_152, 131_072, None),
            (999_999_690, sda, Flush, 0, 0, None),
            (1_499_999_690, sda, Discard, 4_194_304, 1_048_576, None),
        ],
    );
    // The message and the packet command; A, G, D and C.
    assert_eq!(report.passed, Passed { not_requests: 2, other_events: 4, empty: 0 });
    let issued = TraceOptions { event: BlockEvent::Issued, ..TraceOptions::default() };
    let (records, _) = read(&[fixture("blkparse.txt")], &issued).unwrap();
    assert_eq!(rows(&records), [(0, sda, Write, 114_426_880, 4_096, None)]);
}

/// Both CPUs together, by time; each alone is a trace as well.
#[test]
fn blktrace_merges_cpus_and_passes_over_notes() {
    let device = 259 << 20 | 1;
    let files = [fixture("sample.blktrace.0"), fixture("sample.blktrace.1")];
    let expected = [
        (0, device, Write, 8_192, 8_192, None),
        (1_000, device, Read, 1_048_576, 4_096, None),
        (3_000, device, Flush, 0, 0, None),
        (5_000, device, Discard, 2_097_152, 1_048_576, None),
    ];
    let (records, reports) = read(&files, &TraceOptions::default()).unwrap();
    assert_eq!(rows(&records), expected);
    assert_eq!(reports[0].passed, Passed { not_requests: 2, other_events: 1, empty: 0 });
    assert_eq!(reports[1].passed, Passed { not_requests: 0, other_events: 1, empty: 0 });
    // The name that blktrace was given stands for the files that it made.
    let (by_name, _) = read(&[fixture("sample")], &TraceOptions::default()).unwrap();
    assert_eq!(rows(&by_name), expected);
    let issued = TraceOptions { event: BlockEvent::Issued, ..TraceOptions::default() };
    let (records, _) = read(&files, &issued).unwrap();
    let expected = [(0, device, Read, 1_048_576, 4_096, None), (2_800, device, Write, 8_192, 8_192, None)];
    assert_eq!(rows(&records), expected);
}

#[test]
fn a_trace_without_the_event_asked_for_is_refused() {
    let text = b"8,0 1 1 0.5 7 D R 8 + 8 [x]\n8,0 1 2 0.6 7 C R 8 + 8 [0]\n";
    let error = refused(read_bytes(text, &TraceOptions::default()));
    assert_eq!(error.kind(), TraceErrorKind::Usage);
    assert!(error.reason().contains("--event"), "{error}");
}

#[test]
fn vscsi_has_two_layouts() {
    let expected = [
        (0, 0, Write, 21_981_565_440, 512, None),
        (250_000, 0, Read, 4_096, 4_096, None),
        (400_000, 0, Flush, 0, 0, None),
        (1_000_000, 0, Write, 1 << 42, 65_536, None),
    ];
    let report = holds("cloudphysics.vscsi1", Format::Vscsi1, &expected);
    assert_eq!(report.passed, Passed { not_requests: 1, ..Passed::default() });
    holds("cloudphysics-vscsi1.gz", Format::Vscsi1, &expected);
    holds(
        "cloudphysics.vscsi2",
        Format::Vscsi2,
        &[(0, 0, Write, 512_000, 8_192, None), (2_000, 0, Read, 520_192, 512, None)],
    );
    // Nothing in these says which volume it is: each file is one.
    let files = [fixture("cloudphysics.vscsi1"), fixture("cloudphysics.vscsi2")];
    let (records, _) = read(&files, &TraceOptions::default()).unwrap();
    let volumes: Vec<_> = records.iter().map(|record| (record.volume, record.arrival_ns)).collect();
    let apart = 5_634_000_000_000 - 77_000_000_000;
    let expected =
        [(1, 0), (1, 2_000), (0, apart), (0, apart + 250_000), (0, apart + 400_000), (0, apart + 1_000_000)];
    assert_eq!(volumes, expected);
}

/// Names of hosts and files are those of the whole trace, not of a file.
#[test]
fn names_are_numbered_over_all_files() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], "10,usr,2,Read,0,4096,1\n30,usr,2,Read,0,4096,1\n").unwrap();
    std::fs::write(&paths[1], "20,web,2,Read,0,4096,1\n40,usr,3,Read,0,4096,1\n").unwrap();
    let (records, _) = read(&paths, &TraceOptions::default()).unwrap();
    let volumes: Vec<_> = records.iter().map(|record| record.volume).collect();
    assert_eq!(volumes, [2, 65_536 + 2, 2, 3]);
}

#[test]
fn formats_are_told_apart_or_refused_with_their_names() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    let unknown = "ibm".parse::<Format>().unwrap_err().to_string();
    let nothing_known =
        refused(read_bytes(b"once upon a time\nthere was a disk\n", &TraceOptions::default()));
    assert_eq!(nothing_known.kind(), TraceErrorKind::Format);
    for format in Format::ALL {
        assert!(unknown.contains(format.name()), "{unknown}");
        assert!(nothing_known.reason().contains(format.name()), "{nothing_known}");
    }
    let empty = refused(read_bytes(b"", &TraceOptions::default()));
    assert_eq!((empty.kind(), empty.reason()), (TraceErrorKind::Format, "the file is empty"));
    // As many lines of one as of another.
    let two = b"419,W,0,512,1000\n0,8,512,W,0.5\n419,W,0,512,1001\n0,8,512,W,0.6\n";
    assert_eq!(refused(read_bytes(two, &TraceOptions::default())).kind(), TraceErrorKind::Format);
}

#[test]
fn requests_of_no_length_are_counted_not_passed_on() {
    let (records, reports) = read_bytes(b"1,W,0,0,1000\n1,W,0,512,2000\n", &format(Format::Alibaba)).unwrap();
    assert_eq!((records.len(), reports[0].passed.empty), (1, 1));
}
