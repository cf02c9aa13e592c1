//! What a trace is like, from one pass in bounded memory.
//!
//! Requests are reads, writes, discards and flushes; only the first three have a place and a length. Everything is exact
//! but the footprint and the hot spots of very large traces ([`Footprint`](super::Footprint)).

use std::collections::BTreeMap;

use super::footprint::{Footprint, FootprintBuilder, HotSpots};
use super::record::{Record, RecordKind};
use super::timeline::Timeline;

/// Classes of sizes: class `n` has the lengths from 2^n to 2^(n+1) - 1 bytes.
pub const SIZE_CLASSES: usize = 32;
/// Volumes that are told apart; what goes to further ones is counted together.
pub const VOLUMES_MAX: usize = 65_536;

const SECOND_NS: u64 = 1_000_000_000;
/// Bins of time begin with 1 µs, those of addresses with 1 MiB.
const TIME_BITS: u32 = 10;
const ADDRESS_BITS: u32 = 20;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// How many.
    pub requests: u64,
    /// Their lengths together.
    pub bytes: u64,
    /// The shortest, 0 if there is none.
    pub len_bytes_min: u32,
    /// The longest.
    pub len_bytes_max: u32,
    /// How many of each class of sizes.
    pub sizes: [u64; SIZE_CLASSES],
}

impl KindCounts {
    fn add(&mut self, len_bytes: u32) {
        self.len_bytes_min = if self.requests == 0 { len_bytes } else { self.len_bytes_min.min(len_bytes) };
        self.len_bytes_max = self.len_bytes_max.max(len_bytes);
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(u64::from(len_bytes));
        if let Some(class) = len_bytes.checked_ilog2() {
            self.sizes[class as usize] += 1;
        }
    }
}

/// Requests of one volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeCounts {
    /// Requests of each kind, in the order of [`RecordKind::ALL`].
    pub requests: [u64; 4],
    /// Bytes of each kind.
    pub bytes: [u64; 4],
    /// The first byte behind everything.
    pub end_bytes: u64,
    /// The end of the latest request that has a place.
    latest_end: Option<u64>,
}

impl VolumeCounts {
    /// Requests of all kinds.
    pub fn all(&self) -> u64 {
        self.requests.iter().sum()
    }
}

/// How requests arrive.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrivals {
    /// From the first to the last.
    pub duration_ns: u64,
    /// Requests a second over the duration; `None` where that is 0.
    pub mean_per_second: Option<f64>,
    /// The most within one second, counted in whole seconds since the first.
    pub peak_second: u64,
    /// Which second that is.
    pub peak_second_at: u64,
    /// Variance over mean of the requests in each second: 1 for a Poisson process, more for bursts. `None` where there
    /// are fewer than two whole seconds; the last, which has not passed, does not count.
    pub dispersion: Option<f64>,
    /// Requests in equal parts of the duration, at most 128.
    pub over_time: Vec<u64>,
    /// Their length.
    pub over_time_ns: u64,
}

/// What a trace is like.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Each kind, in the order of [`RecordKind::ALL`].
    pub kinds: [KindCounts; 4],
    /// Where the first and the last request begin and end, over all volumes.
    pub begin_bytes: u64,
    /// The first byte behind the last of them.
    pub end_bytes: u64,
    /// Distinct blocks.
    pub footprint: Footprint,
    /// How accesses are spread over them.
    pub hot_spots: HotSpots,
    /// Reads, writes and discards that begin where the request before them in the same volume ended.
    pub sequential: u64,
    /// How they arrive.
    pub arrivals: Arrivals,
    /// Requests that begin in equal parts of the address space, from 0, all volumes laid over each other; at most 128.
    pub over_addresses: Vec<u64>,
    /// The length of a part.
    pub over_addresses_bytes: u64,
    /// Every volume, by number.
    pub volumes: BTreeMap<u32, VolumeCounts>,
    /// Requests to volumes beyond [`VOLUMES_MAX`].
    pub other_volumes: u64,
    /// Requests with the latency of the traced system, their sum, and the longest.
    pub latencies: u64,
    /// The sum of these latencies.
    pub latency_ns_sum: u128,
    /// The longest of them.
    pub latency_ns_max: u64,
}

impl Summary {
    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.requests).sum()
    }

    /// Requests that have a place.
    pub fn placed(&self) -> u64 {
        self.requests() - self.kind(RecordKind::Flush).requests
    }

    /// One kind.
    pub fn kind(&self, kind: RecordKind) -> &KindCounts {
        &self.kinds[kind as usize]
    }

    /// Reads among reads and writes, from 0 to 1; `None` where there are neither.
    pub fn read_share(&self) -> Option<f64> {
        let reads = self.kind(RecordKind::Read).requests;
        let both = reads + self.kind(RecordKind::Write).requests;
        (both > 0).then(|| reads as f64 / both as f64)
    }

    /// Sequential requests among those that have a place, from 0 to 1.
    pub fn sequential_share(&self) -> Option<f64> {
        let placed = self.placed();
        (placed > 0).then(|| self.sequential as f64 / placed as f64)
    }
}

/// Requests in the seconds that have passed.
#[derive(Default)]
struct Seconds {
    current: u64,
    in_current: u64,
    /// Seconds before the current one are all counted; those without requests add nothing to the sums.
    sum: u64,
    sum_of_squares: u128,
    peak: u64,
    peak_at: u64,
}

impl Seconds {
    fn add(&mut self, second: u64) {
        if second != self.current {
            self.sum += self.in_current;
            self.sum_of_squares += u128::from(self.in_current) * u128::from(self.in_current);
            self.current = second;
            self.in_current = 0;
        }
        self.in_current += 1;
        if self.in_current > self.peak {
            self.peak = self.in_current;
            self.peak_at = second;
        }
    }

    fn dispersion(&self) -> Option<f64> {
        // The variance of the seconds seen, not an estimate for others: n, not n - 1.
        let n = self.current as f64;
        if self.current < 2 || self.sum == 0 {
            return None;
        }
        let mean = self.sum as f64 / n;
        Some((self.sum_of_squares as f64 / n - mean * mean).max(0.0) / mean)
    }
}

/// What is kept while a trace passes by.
pub struct SummaryBuilder {
    kinds: [KindCounts; 4],
    begin_bytes: u64,
    end_bytes: u64,
    footprint: FootprintBuilder,
    sequential: u64,
    last_arrival_ns: u64,
    /// The highest first byte of a request.
    highest_bytes: u64,
    seconds: Seconds,
    over_time: Timeline,
    over_addresses: Timeline,
    volumes: BTreeMap<u32, VolumeCounts>,
    other_volumes: u64,
    latencies: u64,
    latency_ns_sum: u128,
    latency_ns_max: u64,
}

impl Default for SummaryBuilder {
    fn default() -> Self {
        Self {
            kinds: [KindCounts::default(); 4],
            begin_bytes: u64::MAX,
            end_bytes: 0,
            footprint: FootprintBuilder::new(),
            sequential: 0,
            last_arrival_ns: 0,
            highest_bytes: 0,
            seconds: Seconds::default(),
            over_time: Timeline::new(TIME_BITS),
            over_addresses: Timeline::new(ADDRESS_BITS),
            volumes: BTreeMap::new(),
            other_volumes: 0,
            latencies: 0,
            latency_ns_sum: 0,
            latency_ns_max: 0,
        }
    }
}

impl SummaryBuilder {
    /// Takes the next record, in order of time.
    pub fn add(&mut self, record: &Record) {
        self.kinds[record.kind as usize].add(record.len_bytes);
        self.last_arrival_ns = self.last_arrival_ns.max(record.arrival_ns);
        self.seconds.add(record.arrival_ns / SECOND_NS);
        self.over_time.add(record.arrival_ns);
        if let Some(latency_ns) = record.latency_ns() {
            self.latencies += 1;
            self.latency_ns_sum += u128::from(latency_ns);
            self.latency_ns_max = self.latency_ns_max.max(latency_ns);
        }
        let placed = record.kind != RecordKind::Flush;
        if placed {
            self.begin_bytes = self.begin_bytes.min(record.offset_bytes);
            self.end_bytes = self.end_bytes.max(record.end_bytes());
            self.highest_bytes = self.highest_bytes.max(record.offset_bytes);
            self.over_addresses.add(record.offset_bytes);
            self.footprint.add(record);
        }
        let known = self.volumes.len() < VOLUMES_MAX || self.volumes.contains_key(&record.volume);
        if !known {
            self.other_volumes += 1;
            return;
        }
        let volume = self.volumes.entry(record.volume).or_default();
        volume.requests[record.kind as usize] += 1;
        let bytes = &mut volume.bytes[record.kind as usize];
        *bytes = bytes.saturating_add(u64::from(record.len_bytes));
        if placed {
            self.sequential += u64::from(volume.latest_end == Some(record.offset_bytes));
            volume.latest_end = Some(record.end_bytes());
            volume.end_bytes = volume.end_bytes.max(record.end_bytes());
        }
    }

    /// What the records are like.
    pub fn finish(self) -> Summary {
        let requests: u64 = self.kinds.iter().map(|kind| kind.requests).sum();
        let duration_ns = self.last_arrival_ns;
        let arrivals = Arrivals {
            duration_ns,
            mean_per_second: (duration_ns > 0)
                .then(|| requests as f64 * SECOND_NS as f64 / duration_ns as f64),
            peak_second: self.seconds.peak,
            peak_second_at: self.seconds.peak_at,
            dispersion: self.seconds.dispersion(),
            over_time: self.over_time.up_to(duration_ns).to_vec(),
            over_time_ns: self.over_time.width(),
        };
        Summary {
            kinds: self.kinds,
            begin_bytes: self.begin_bytes.min(self.end_bytes),
            end_bytes: self.end_bytes,
            footprint: self.footprint.footprint(),
            hot_spots: self.footprint.hot_spots(),
            sequential: self.sequential,
            arrivals,
            over_addresses: self.over_addresses.up_to(self.highest_bytes).to_vec(),
            over_addresses_bytes: self.over_addresses.width(),
            volumes: self.volumes,
            other_volumes: self.other_volumes,
            latencies: self.latencies,
            latency_ns_sum: self.latency_ns_sum,
            latency_ns_max: self.latency_ns_max,
        }
    }
}
