//! Recorded traces as a load: what is played, how it is made to fit the target, and what is kept of it.
//!
//! A trace is looked at before anything is written: its longest request, where its addresses end, how long it lasts, and that what
//! will be played is not damaged. Then every arm of every block reads it again ([`feed`]) and plays it (`arms::pace`), so that
//! no memory is taken for its length. docs/decisions/0034 says why so.

pub(crate) mod feed;
pub(crate) mod tell;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use icecore_workloads::Workload;
use icecore_workloads::trace::{Addresses, Mapping, Record, RecordKind, Speed, TraceOptions};

use crate::bench::SECTOR_BYTES;
use crate::cli::{ReplaySpeed, RunOptions, TraceAddresses};
use crate::content;
use crate::failure::Failure;
use crate::results::{TraceFacts, TraceFile};
use crate::suite::Load;
use crate::trace_info::{self, Seen};

/// The longest request that a target is handed; longer ones of a trace are split.
const REQUEST_BYTES_MAX: u32 = content::TRANSFER_BYTES as u32;
/// What offsets and lengths are rounded to where all of the trace are multiples of it; else to [`SECTOR_BYTES`].
const BLOCK_BYTES: u32 = 4096;
const MIB: u64 = 1 << 20;
/// What was recorded is looked at a little beyond what will be played, since speeds are rounded.
const LOOK_BEYOND_NS: f64 = 1e9;

/// One way of playing a trace.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The trace.
    pub trace: Arc<TracePlan>,
    /// How many times as fast as recorded; `None`: as fast as the queue depth allows, in the order of the trace.
    pub speed: Option<Speed>,
}

/// A trace that is made to fit a target.
#[derive(Clone, Debug)]
pub struct TracePlan {
    /// Its files.
    pub paths: Vec<PathBuf>,
    /// How they are read.
    pub options: TraceOptions,
    /// Requests from the beginning, at most.
    pub limit: Option<u64>,
    /// How it is made to fit, at the recorded speed.
    pub mapping: Mapping,
    /// What stands for it beside workloads.
    pub workload: Workload,
    /// What the manifest says of it.
    pub facts: TraceFacts,
}

/// A trace as the command line asks for it, looked at.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    paths: Vec<PathBuf>,
    options: TraceOptions,
    limit: Option<u64>,
    volumes: BTreeSet<u32>,
    addresses: Option<TraceAddresses>,
    facts: TraceFacts,
    reads: bool,
    writes: bool,
    /// Whether it has requests that wait for durability.
    pub flushes: bool,
    /// Every offset and length is a multiple of [`BLOCK_BYTES`].
    has_whole_blocks: bool,
}

impl Asked {
    /// Looks at the trace, as far as `play_ns` of it at the highest speed; `None` where none is asked for.
    ///
    /// # Errors
    /// Options of traces without a trace; a trace that cannot be read (twice), is damaged, or holds nothing.
    pub fn of(options: &RunOptions, play_ns: u64) -> Result<Option<Self>, Failure> {
        let (playing, reading) = (&options.playing, &options.reading);
        if options.trace.is_empty() {
            if !reading.is_default() || !playing.speed.is_empty() || playing.addresses.is_some() {
                return Err(Failure::usage(
                    "--speed, --addresses, --format, --volume, --limit, --event, --sort-window and --bad-records are for a --trace",
                ));
            }
            return Ok(None);
        }
        if !options.workload.is_empty() || !options.load.is_empty() || !options.offered.is_empty() {
            return Err(Failure::usage(
                "a --trace takes the place of --workload, --load and --offered: --speed says how fast it is played",
            ));
        }
        if let Some(path) = options.trace.iter().find(|path| path.exists() && !path.is_file()) {
            return Err(Failure::usage(format!(
                "{}: is no file; a trace is read several times, so that it must be one",
                path.display()
            )));
        }
        let until_ns = until_ns(&playing.speed, play_ns);
        let (mut digest, mut has_whole_blocks) = (Digest::default(), true);
        let (mut first_ns, mut duration_ns) = (None, 0);
        let seen = trace_info::read(&options.trace, reading, |record| {
            let since_ns = record.arrival_ns - *first_ns.get_or_insert(record.arrival_ns);
            if since_ns > until_ns {
                return false;
            }
            duration_ns = since_ns;
            digest.add(record);
            let block = u64::from(BLOCK_BYTES);
            has_whole_blocks &= (record.offset_bytes | u64::from(record.len_bytes)).is_multiple_of(block);
            true
        })?;
        let count = |kind| seen.summary.kind(kind).requests;
        let asked = Self {
            paths: options.trace.clone(),
            options: trace_info::trace_options(reading)?,
            limit: reading.limit,
            volumes: reading.volume.iter().copied().collect(),
            addresses: playing.addresses,
            reads: count(RecordKind::Read) > 0,
            writes: count(RecordKind::Write) + count(RecordKind::Discard) > 0,
            flushes: count(RecordKind::Flush) > 0,
            has_whole_blocks,
            facts: TraceFacts {
                digest: format!("{:016x}", digest.0),
                duration_ns,
                volumes: reading.volume.clone(),
                ..facts(&seen)?
            },
        };
        if seen.summary.placed() == 0 {
            return Err(Failure::usage(format!("{}: the trace holds nothing but flushes", asked.name())));
        }
        Ok(Some(asked))
    }

    /// What it is called in results.
    fn name(&self) -> String {
        let path = self.paths.first().map(|path| path.file_name().unwrap_or(path.as_os_str()));
        let name = path.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if self.paths.len() > 1 { format!("{name}+{}", self.paths.len() - 1) } else { name }
    }

    /// The span that it takes, on a target that has room for `largest_bytes`.
    ///
    /// # Errors
    /// Its addresses end beyond that, and nothing was said of what is to be done then.
    pub fn span_bytes(&self, asked: Option<u64>, largest_bytes: u64, default: u64) -> Result<u64, Failure> {
        let needed_bytes = self.facts.end_bytes.next_multiple_of(MIB);
        if self.addresses.is_some() {
            return Ok(asked.unwrap_or(largest_bytes.min(default).min(needed_bytes)));
        }
        let span_bytes = asked.unwrap_or(needed_bytes);
        if span_bytes < self.facts.end_bytes || span_bytes > largest_bytes {
            return Err(Failure::usage(format!(
                "{}: its addresses end at byte {}, and the span has {} at most: --addresses fold or scale makes them fit",
                self.name(),
                self.facts.end_bytes,
                span_bytes.min(largest_bytes)
            )));
        }
        Ok(span_bytes)
    }

    /// The trace on a span of a target that takes multiples of `logical_block_bytes`.
    pub fn on(&self, span_bytes: u64, logical_block_bytes: u32) -> TracePlan {
        let own_bytes = if self.has_whole_blocks { BLOCK_BYTES } else { SECTOR_BYTES };
        let alignment_bytes = own_bytes.max(logical_block_bytes);
        let addresses = match self.addresses {
            Some(TraceAddresses::Scale) => Addresses::Scale { source_span_bytes: self.facts.end_bytes },
            Some(TraceAddresses::Fold) | None => Addresses::Fold,
        };
        let scales = self.addresses == Some(TraceAddresses::Scale);
        // What is moved, or rounded to longer blocks, may touch one block more.
        let is_whole = own_bytes == alignment_bytes && !scales;
        let longest_bytes = self.facts.request_bytes_max.next_multiple_of(u64::from(alignment_bytes))
            + if is_whole { 0 } else { u64::from(alignment_bytes) };
        let operation_bytes_max = longest_bytes.min(u64::from(REQUEST_BYTES_MAX)) as u32;
        let workload =
            Workload::of_trace(&self.name(), operation_bytes_max, alignment_bytes, self.reads, self.writes);
        let facts = TraceFacts {
            addresses: match self.addresses {
                None => "as they are",
                Some(_) => addresses.name(),
            }
            .to_owned(),
            alignment_bytes: u64::from(alignment_bytes),
            piece_bytes_max: u64::from(operation_bytes_max),
            ..self.facts.clone()
        };
        TracePlan {
            paths: self.paths.clone(),
            options: self.options.clone(),
            limit: self.limit,
            mapping: Mapping {
                addresses,
                span_bytes,
                alignment_bytes,
                volumes: self.volumes.clone(),
                speed: Speed::RECORDED,
            },
            workload,
            facts,
        }
    }
}

/// The loads that speeds ask for.
pub(crate) fn loads(speeds: &[ReplaySpeed]) -> Vec<Load> {
    let load = |speed: &ReplaySpeed| match speed {
        ReplaySpeed::Times(speed) => Load::Replay(*speed),
        ReplaySpeed::Max => Load::ReplayMax,
    };
    if speeds.is_empty() { vec![Load::Replay(Speed::RECORDED)] } else { speeds.iter().map(load).collect() }
}

/// How far into the trace it will be played.
fn until_ns(speeds: &[ReplaySpeed], play_ns: u64) -> u64 {
    let until = |load: Load| match load {
        Load::Replay(speed) => play_ns as f64 * speed.factor() + LOOK_BEYOND_NS,
        _ => f64::INFINITY,
    };
    // A conversion that saturates.
    loads(speeds).into_iter().map(until).fold(0.0, f64::max) as u64
}

/// What is known of it before it is made to fit.
fn facts(seen: &Seen) -> Result<TraceFacts, Failure> {
    let mut files = Vec::new();
    for file in &seen.files {
        let path = file.path.display().to_string();
        let metadata = std::fs::metadata(&file.path)
            .map_err(|error| Failure::environment(format!("{path}: {error}")))?;
        files.push(TraceFile {
            path,
            size_bytes: metadata.len(),
            format: file.format.name().to_owned(),
            packing: file.packing.name().to_owned(),
            bad_records: file.bad_records,
            sorted_records: file.sorted_records,
        });
    }
    let longest = RecordKind::ALL.map(|kind| seen.summary.kind(kind).len_bytes_max);
    Ok(TraceFacts {
        files,
        requests: seen.summary.requests(),
        goes_on: seen.limited,
        begin_bytes: seen.summary.begin_bytes,
        end_bytes: seen.summary.end_bytes,
        footprint_bytes: seen.summary.footprint.bytes(),
        request_bytes_max: u64::from(longest.into_iter().max().unwrap_or(0)),
        ..TraceFacts::default()
    })
}

/// FNV-1a over records, field by field, as of a workload's operations: two traces of one digest hold the same requests.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, record: &Record) {
        let numbers = [record.arrival_ns, record.offset_bytes].map(u64::to_le_bytes);
        let shorter = [record.len_bytes, record.volume].map(u32::to_le_bytes);
        let bytes = numbers.iter().flatten().chain(shorter.iter().flatten());
        for byte in bytes.chain(&[record.kind as u8]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
