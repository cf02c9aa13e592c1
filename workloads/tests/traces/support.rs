//! What the tests of traces share.

use std::path::{Path, PathBuf};

use icecore_workloads::trace::{
    FileReport, Format, Record, RecordKind, RecordSource, TraceError, TraceOptions, TraceStream,
};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Every file of the fixtures that is a trace, whole or damaged.
pub fn fixtures() -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("README.md"))
        .collect();
    all.sort();
    assert!(all.len() > 20, "{all:?}");
    all
}

pub fn format(format: Format) -> TraceOptions {
    TraceOptions { format: Some(format), ..TraceOptions::default() }
}

/// All records of a trace, and what was found beside them.
pub fn read(paths: &[PathBuf], options: &TraceOptions) -> Result<(Vec<Record>, Vec<FileReport>), TraceError> {
    let mut stream = TraceStream::open(paths, options)?;
    let mut records = Vec::new();
    while let Some(record) = stream.next()? {
        records.push(record);
    }
    Ok((records, stream.files()))
}

/// The same from bytes, by way of a file.
pub fn read_bytes(
    bytes: &[u8],
    options: &TraceOptions,
) -> Result<(Vec<Record>, Vec<FileReport>), TraceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace");
    std::fs::write(&path, bytes).unwrap();
    read(&[path], options)
}

#[track_caller]
pub fn refused(result: Result<(Vec<Record>, Vec<FileReport>), TraceError>) -> TraceError {
    match result {
        Ok((records, _)) => panic!("{} records instead of an error", records.len()),
        Err(error) => error,
    }
}

/// A record as a test writes it down: arrival, volume, kind, offset, length, latency.
pub type Row = (u64, u32, RecordKind, u64, u32, Option<u64>);

pub fn rows(records: &[Record]) -> Vec<Row> {
    records
        .iter()
        .map(|record| {
            (
                record.arrival_ns,
                record.volume,
                record.kind,
                record.offset_bytes,
                record.len_bytes,
                record.latency_ns(),
            )
        })
        .collect()
}
