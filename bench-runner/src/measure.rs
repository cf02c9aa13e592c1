//! What one arm is asked to do and what it gives back.
//!
//! Every arm (`ring`, `raw`, `direct`, `fio`, …) takes an [`ArmTask`] and returns an [`ArmOutcome`]; the suite
//! pairs, repeats and judges them without knowing how each was driven. Times are integer nanoseconds.

use std::path::PathBuf;

use hdrhistogram::Histogram;
use icecore_workloads::Workload;

/// One measurement of one arm: a workload at a queue depth over a span of a device.
#[derive(Clone, Debug)]
pub struct ArmTask {
    /// The device or file, opened with O_DIRECT.
    pub path: PathBuf,
    /// First byte of the data span on the device; a backend's data area starts here.
    pub span_offset_bytes: u64,
    /// Length of the data span in bytes.
    pub span_bytes: u64,
    /// The workload.
    pub workload: Workload,
    /// Requests kept in flight (for `durable-*`: independent writers).
    pub queue_depth: u32,
    /// Time before measuring starts, with the load already running.
    pub warmup_ns: u64,
    /// Measured time.
    pub measure_ns: u64,
    /// Seed of the address stream and of the content; the same for every arm of a block.
    pub seed: u64,
}

/// Latencies and counts of one kind of operation.
#[derive(Clone, Debug)]
pub struct OperationFigures {
    /// Operations completed in the measured time.
    pub operations: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Latency from issue to completion in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

/// One second of an arm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Seconds since measuring began.
    pub second: u32,
    /// Operations completed in it.
    pub operations: u64,
    /// Sum of their latencies.
    pub latency_ns_sum: u64,
    /// The longest of their latencies.
    pub latency_ns_max: u64,
}

/// What an arm measured.
#[derive(Clone, Debug)]
pub struct ArmOutcome {
    /// Reads (of `durable-*` workloads: none).
    pub read: OperationFigures,
    /// Writes; for durable workloads from issue to durable.
    pub write: OperationFigures,
    /// Separate flushes, where the arm issues them.
    pub flush: OperationFigures,
    /// Measured wall time.
    pub elapsed_ns: u64,
    /// User CPU of the measuring thread over the measured time; `None` where not known.
    pub cpu_user_ns: Option<u64>,
    /// System CPU of the measuring thread over the measured time.
    pub cpu_system_ns: Option<u64>,
    /// Heap allocations during the measured time, where counted.
    pub allocations: Option<u64>,
    /// One entry a second.
    pub seconds: Vec<Second>,
    /// How the I/O was done: `io_uring, registered buffers, registered files` and the like.
    pub io_path: String,
    /// What the device wrote for it, where the arm goes through the engine's device and writes.
    pub written: Option<Written>,
    /// How its log wrote, where it has one.
    pub log: Option<LogBatches>,
    /// What the bare device does in the log's place, measured right after it.
    pub bare: Vec<BareRate>,
    /// The last generation written to each 4 KiB block of the span, where this arm wrote stamped content
    /// (index = block in the span; 0 = as prefilled). Empty for arms that write none.
    pub generations: Vec<u32>,
}

/// Bytes written from the beginning of the load, warm-up included, until nothing was left to be written for it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// By the application.
    pub application_bytes: u64,
    /// By the device, by the cause of the engine's ledger.
    pub by_cause: Vec<(&'static str, u64)>,
}

/// The batches that a log wrote under the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogBatches {
    /// How many.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Batches under way when each of them began, itself included, added up.
    pub in_flight: u64,
}

impl LogBatches {
    /// An amount per batch; `None` without batches.
    pub fn mean(&self, amount: u64) -> Option<f64> {
        (self.batches > 0).then(|| amount as f64 / self.batches as f64)
    }
}

/// What the bare device did with requests of the size of the log's mean batch.
#[derive(Clone, Copy, Debug)]
pub struct BareRate {
    /// What it did.
    pub kind: BareKind,
    /// Requests a second.
    pub per_second: f64,
    /// Their median latency; for persisting, until durable.
    pub p50_ns: u64,
}

/// What a bare device is asked for in a log's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareKind {
    /// Writes one after another, each followed by an fdatasync.
    PersistFlush,
    /// Writes one after another, each written through.
    PersistDsync,
    /// Writes one after another.
    Sequential,
}

impl BareKind {
    /// Its metric.
    pub fn metric(self) -> &'static str {
        match self {
            BareKind::PersistFlush => "bare_persist_flush",
            BareKind::PersistDsync => "bare_persist_dsync",
            BareKind::Sequential => "bare_sequential",
        }
    }
}

/// A value that a part of a suite has beside its rate and latencies.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is.
    pub metric: &'static str,
    /// Which statistic of it, or the cause it is counted under.
    pub stat: String,
    /// Its unit.
    pub unit: &'static str,
    /// The value; `None` where it could not be measured.
    pub value: Option<f64>,
    /// Operations behind it.
    pub n: u64,
}

/// A short piece of the time of a part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// When it began, since the part began.
    pub begin_ns: u64,
    /// Its length.
    pub length_ns: u64,
    /// Operations completed in it.
    pub operations: u64,
    /// Sum of their latencies.
    pub latency_ns_sum: u64,
    /// The longest of their latencies.
    pub latency_ns_max: u64,
}

/// What a suite of snapshots knows of a measurement beside its outcome.
#[derive(Clone, Copy, Debug)]
pub struct SuitePart<'a> {
    /// Which part of the suite.
    pub phase: &'a str,
    /// Snapshots held.
    pub snapshots: Option<u32>,
    /// Its further values.
    pub figures: &'a [Figure],
    /// Its course over time.
    pub windows: &'a [Window],
    /// Whether another system was measured.
    pub is_peer: bool,
}
