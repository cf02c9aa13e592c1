//! Real traces, where there are some: the folder that `ICECORE_TRACES` names.
//!
//! What they hold was counted by other programs, and stands in the description that comes with them.

use std::path::PathBuf;

use icecore_workloads::trace::{
    BlockEvent, Format, RecordKind, RecordSource, Summary, SummaryBuilder, TraceOptions, TraceStream,
};

/// A file of that folder; `None`, with the reason printed, where there is none.
fn real(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("ICECORE_TRACES") else {
        println!("skipped: ICECORE_TRACES names no folder with real traces");
        return None;
    };
    let path = PathBuf::from(folder).join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn summary(path: PathBuf, format: Format, event: BlockEvent) -> Summary {
    let options = TraceOptions { event, ..TraceOptions::default() };
    let mut stream = TraceStream::open(&[path], &options).unwrap();
    let mut builder = SummaryBuilder::default();
    while let Some(record) = stream.next().unwrap() {
        builder.add(&record);
    }
    let report = stream.files().remove(0);
    assert_eq!((report.format, report.bad_records), (format, 0));
    builder.finish()
}

/// 113,872 requests over 7,200 s, 41 % of them reads, over 31.3 GiB.
#[test]
fn cloudphysics() {
    let Some(path) = real("cloudphysics.vscsi") else { return };
    let summary = summary(path, Format::Vscsi1, BlockEvent::Queued);
    assert_eq!(summary.requests(), 113_872);
    let seconds = summary.arrivals.duration_ns as f64 / 1e9;
    assert!((7_199.0..7_200.5).contains(&seconds), "{seconds}");
    let share = summary.read_share().unwrap();
    assert!((0.405..0.415).contains(&share), "{share}");
    let gib = summary.end_bytes as f64 / f64::from(1 << 30);
    assert!((31.25..31.35).contains(&gib), "{gib}");
    assert!(summary.footprint.exact && summary.footprint.bytes() < summary.end_bytes);
}

/// 963 reads over 0.35 s, each seen in several events.
#[test]
fn blktrace() {
    let Some(path) = real("sample.blktrace.0") else { return };
    for event in [BlockEvent::Queued, BlockEvent::Issued] {
        let summary = summary(path.clone(), Format::Blktrace, event);
        let of_kinds: Vec<_> = summary.kinds.iter().map(|kind| kind.requests).collect();
        println!("{}: {of_kinds:?}", event.name());
        assert_eq!(summary.kind(RecordKind::Read).requests, 963, "{}", event.name());
        let seconds = summary.arrivals.duration_ns as f64 / 1e9;
        assert!((0.3..0.4).contains(&seconds), "{seconds}");
    }
}

/// 6,999 requests over 0.14 s.
#[test]
fn mqsim() {
    let Some(path) = real("tpcc-small.mqsim") else { return };
    let summary = summary(path, Format::Mqsim, BlockEvent::Queued);
    assert_eq!(summary.requests(), 6_999);
    let seconds = summary.arrivals.duration_ns as f64 / 1e9;
    assert!((0.13..0.15).contains(&seconds), "{seconds}");
}
