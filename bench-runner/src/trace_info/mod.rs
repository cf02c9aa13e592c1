//! `trace-info`: what a block trace is like, in one pass, without opening any device.
//!
//! The summary goes to stdout, drawn for a terminal or as one JSON object; progress and what was left out go to stderr.

mod object;
mod picture;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use icecore_workloads::trace::{
    BlockEvent, FileReport, Record, RecordSource, Summary, SummaryBuilder, TraceError, TraceErrorKind,
    TraceOptions, TraceStream,
};

use crate::cli::{TraceEvent, TraceInfoOptions, TraceReading};
use crate::failure::{EXIT_DAMAGE, EXIT_ENVIRONMENT, EXIT_OK, EXIT_USAGE, Failure};
use crate::interrupt;

/// Records between two looks at the clock and at signals.
const RECORDS_A_LOOK: u64 = 1 << 16;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// A trace that has been read.
pub(crate) struct Seen {
    /// Its files.
    pub files: Vec<FileReport>,
    /// What is in it.
    pub summary: Summary,
    /// Records of volumes that were not asked for.
    other_volumes: u64,
    /// The trace goes on behind what was asked for.
    pub limited: bool,
    /// The names of volumes that have one.
    names: Vec<(u32, String)>,
}

/// The `trace-info` command.
///
/// # Errors
/// A file cannot be read or is damaged, its format is not known, or a signal came.
pub fn tell(options: &TraceInfoOptions) -> Result<i32, Failure> {
    let seen = read(&options.paths, &options.reading, |_| true)?;
    for file in &seen.files {
        for message in &file.bad_messages {
            eprintln!("bench-runner: left out: {message}");
        }
    }
    if options.json {
        println!("{}", object::of(&seen));
    } else {
        print!("{}", picture::of(&seen));
    }
    Ok(EXIT_OK)
}

/// How a trace is read, as the command line says it.
///
/// # Errors
/// A usage failure that lists the formats.
pub(crate) fn trace_options(reading: &TraceReading) -> Result<TraceOptions, Failure> {
    let format = reading.format.as_deref().map(str::parse).transpose();
    Ok(TraceOptions {
        format: format
            .map_err(|error: icecore_workloads::trace::UnknownFormat| Failure::usage(error.to_string()))?,
        event: match reading.event {
            TraceEvent::Queued => BlockEvent::Queued,
            TraceEvent::Issued => BlockEvent::Issued,
        },
        sort_window_records: reading.sort_window,
        bad_records_max: reading.bad_records,
    })
}

/// Reads a trace to its end, to the limit, or until `goes_on` says no of a record, which then is not part of it.
///
/// # Errors
/// A file cannot be read or is damaged, its format is not known, there is nothing in it, or a signal came.
pub(crate) fn read(
    paths: &[PathBuf],
    reading: &TraceReading,
    mut goes_on: impl FnMut(&Record) -> bool,
) -> Result<Seen, Failure> {
    let mut stream = TraceStream::open(paths, &trace_options(reading)?)?;
    let mut builder = SummaryBuilder::default();
    let (mut records, mut taken, mut other_volumes) = (0_u64, 0_u64, 0_u64);
    let mut limited = false;
    let begun = Instant::now();
    let mut told = begun;
    while let Some(record) = stream.next()? {
        if reading.limit.is_some_and(|limit| taken >= limit) {
            limited = true;
            break;
        }
        if reading.volume.is_empty() || reading.volume.contains(&record.volume) {
            if !goes_on(&record) {
                limited = true;
                break;
            }
            taken += 1;
            builder.add(&record);
        } else {
            other_volumes += 1;
        }
        records += 1;
        if records.is_multiple_of(RECORDS_A_LOOK) {
            if interrupt::requested() {
                return Err(Failure::interrupted());
            }
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let (seconds, mib) = (begun.elapsed().as_secs(), stream.content_bytes() >> 20);
                eprintln!("bench-runner: {records} records, {mib} MiB of content in {seconds} s");
            }
        }
    }
    let summary = builder.finish();
    if records == 0 {
        let path = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
        return Err(Failure::usage(format!("{path}: the trace holds no request")));
    }
    if taken == 0 {
        return Err(Failure::usage(format!(
            "no request is for a volume asked for, {other_volumes} for others"
        )));
    }
    let names = summary
        .volumes
        .keys()
        .filter_map(|volume| stream.volume_name(*volume).map(|name| (*volume, name)))
        .collect();
    Ok(Seen { files: stream.files(), summary, other_volumes, limited, names })
}

impl Seen {
    fn name(&self, volume: u32) -> Option<&str> {
        let found = self.names.binary_search_by_key(&volume, |(volume, _)| *volume).ok()?;
        self.names.get(found).map(|(_, name)| name.as_str())
    }

    /// Volumes with the most requests first.
    fn busiest_volumes(&self) -> Vec<(u32, icecore_workloads::trace::VolumeCounts)> {
        let mut volumes: Vec<_> =
            self.summary.volumes.iter().map(|(number, counts)| (*number, *counts)).collect();
        volumes.sort_by_key(|(number, counts)| (std::cmp::Reverse(counts.all()), *number));
        volumes
    }
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        let exit_code = match error.kind() {
            TraceErrorKind::Io => EXIT_ENVIRONMENT,
            TraceErrorKind::Damaged => EXIT_DAMAGE,
            TraceErrorKind::Format | TraceErrorKind::Unsorted | TraceErrorKind::Usage => EXIT_USAGE,
        };
        Self { exit_code, message: error.to_string() }
    }
}
