//! The rows of the run folder's tables, one struct a file; field order is column order.
//!
//! `results/SCHEMA.md` describes every column and a test compares it with these structs. An empty field means not
//! measured. Whole numbers are written exactly; others to six significant digits, from a million on to whole
//! numbers, which is finer than any difference two runs of the same thing show.

use serde::{Deserialize, Serialize, Serializer};

/// `runs.csv`: one arm of one block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// Number of the row, from 1; the key that the other tables refer to.
    pub run: u64,
    /// Block: the arms of one workload and depth that were run beside each other, from 1.
    pub block: u32,
    /// Place of this arm in its block's random order, from 1.
    pub arm_order: u32,
    /// Name of the arm.
    pub arm: String,
    /// Backend behind the arm; `raw` for the bare device.
    pub backend: String,
    /// Name of the workload.
    pub workload: String,
    /// Bytes of one request.
    pub bs_bytes: u64,
    /// Requests in flight, or independent writers.
    pub queue_depth: u32,
    /// First byte of the data span on the device.
    pub span_offset_bytes: u64,
    /// Length of the data span.
    pub span_bytes: u64,
    /// Measured time; empty where the arm failed.
    pub measured_ns: Option<u64>,
    /// Time under load before measuring.
    pub warmup_ns: u64,
    /// Seed of addresses and content.
    pub seed: u64,
    /// When the arm began, UTC.
    pub started_utc: String,
    /// When the arm began, since the run began.
    pub started_ns: u64,
    /// How the I/O was done.
    pub io_path: String,
    /// Reads and writes completed in the measured time.
    pub operations: Option<u64>,
    /// User CPU of the measuring thread.
    pub cpu_user_ns: Option<u64>,
    /// System CPU of the measuring thread.
    pub cpu_system_ns: Option<u64>,
    /// Heap allocations in the measured time.
    pub allocations: Option<u64>,
    /// Blocks read back and compared afterwards.
    pub verified_blocks: Option<u64>,
    /// Whether the load was steady; empty with fewer than five whole seconds.
    pub steady: Option<bool>,
    /// Whether the run counts.
    pub valid: bool,
    /// Why it does not.
    pub invalid_reason: String,
    /// Its histograms, relative to the folder; empty where there are none.
    pub hist_file: String,
    /// `measure`, or the part of a suite of snapshots.
    #[serde(default = "measure")]
    pub phase: String,
    /// Snapshots held, for a suite of snapshots.
    #[serde(default)]
    pub chain_depth: Option<u32>,
    /// Time that the measuring thread was on its core, of the measured time.
    #[serde(default, serialize_with = "six_digits")]
    pub busy_percent: Option<f64>,
    /// Bytes that others moved on the device meanwhile, of all that it moved.
    #[serde(default, serialize_with = "six_digits")]
    pub foreign_percent: Option<f64>,
}

impl RunRow {
    /// Operations a second; `None` where it failed.
    pub(crate) fn per_second(&self) -> Option<f64> {
        Some(self.operations? as f64 * 1e9 / self.measured_ns?.max(1) as f64)
    }
}

/// The phase of what is no suite of snapshots.
pub(crate) const MEASURE: &str = "measure";

fn measure() -> String {
    MEASURE.to_string()
}

/// `metrics.csv`: one value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// The row of `runs.csv`; empty where blocks are pooled.
    pub run: Option<u64>,
    /// The block; empty where blocks are pooled.
    pub block: Option<u32>,
    /// Name of the arm; `A/B` for a ratio.
    pub arm: String,
    /// Backend behind the arm (of a ratio: behind A); `raw` for the bare device.
    pub backend: String,
    /// Name of the workload.
    pub workload: String,
    /// `read`, `write`, `flush`, or `all` for reads and writes together.
    pub op: String,
    /// Bytes of one request.
    pub bs_bytes: Option<u64>,
    /// Requests in flight.
    pub queue_depth: Option<u32>,
    /// Offered load, where the load is open.
    pub offered_iops: Option<u64>,
    /// Snapshots in the chain, where there is one.
    pub chain_depth: Option<u32>,
    /// `measure`, `null-target` for the runner's own cost, or the part of a suite of snapshots.
    pub phase: String,
    /// What the value is.
    pub metric: String,
    /// Which statistic of it.
    pub stat: String,
    /// The value; empty where it was not measured or has too few samples.
    #[serde(serialize_with = "six_digits")]
    pub value: Option<f64>,
    /// Its unit.
    pub unit: String,
    /// Operations behind the value in a block, blocks behind it where they are pooled.
    pub n: u64,
    /// Lower end of the 95 % interval.
    #[serde(serialize_with = "six_digits")]
    pub ci_low: Option<f64>,
    /// Upper end of the 95 % interval.
    #[serde(serialize_with = "six_digits")]
    pub ci_high: Option<f64>,
    /// Whether the load was steady.
    pub steady: Option<bool>,
    /// Whether the value counts.
    pub valid: bool,
    /// Why it does not.
    pub invalid_reason: String,
    /// Seed of the run's addresses; of the bootstrap where blocks are pooled.
    pub seed: u64,
}

impl MetricRow {
    /// Whether it is one that [`MetricRow::runner_cost`] makes.
    pub(crate) fn is_runner_cost(&self) -> bool {
        self.metric == "runner_cost"
    }

    /// The runner's own CPU time per I/O, measured by `arm` on a target that completes at once.
    pub fn runner_cost(arm: &str, queue_depth: u32, cost_ns: f64, operations: u64, seed: u64) -> Self {
        MetricRow {
            arm: arm.to_string(),
            backend: "null".to_string(),
            op: "all".to_string(),
            queue_depth: Some(queue_depth),
            phase: "null-target".to_string(),
            metric: "runner_cost".to_string(),
            stat: "mean".to_string(),
            value: Some(cost_ns),
            unit: "ns/io".to_string(),
            n: operations,
            valid: true,
            seed,
            ..MetricRow::default()
        }
    }
}

/// `timeseries.csv`: one second of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecondRow {
    /// The row of `runs.csv`.
    pub run: u64,
    /// The block.
    pub block: u32,
    /// Name of the arm.
    pub arm: String,
    /// Name of the workload.
    pub workload: String,
    /// Requests in flight.
    pub queue_depth: u32,
    /// Second of the measured time, from 0.
    pub second: u32,
    /// When that second began, since the run began.
    pub since_start_ns: u64,
    /// Reads and writes completed in it; the last second of a run may be a part of one.
    pub operations: u64,
    /// Mean of their latencies.
    pub latency_mean_ns: Option<u64>,
    /// Longest of their latencies.
    pub latency_max_ns: Option<u64>,
}

/// `latencies.csv`: operations of one second of one run whose latencies lie in one band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BandRow {
    /// The row of `runs.csv`.
    pub run: u64,
    /// Second of the measured time, from 0.
    pub second: u32,
    /// The shortest latency of the band.
    pub from_ns: u64,
    /// The shortest latency above it.
    pub below_ns: u64,
    /// Reads and writes completed in that second with such a latency.
    pub operations: u64,
}

/// `series.csv`: a short piece of the time of one run; finer than a second, for suites of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowRow {
    /// The row of `runs.csv`.
    pub run: u64,
    /// When the window began, since the run began.
    pub since_start_ns: u64,
    /// Its length; the last of a run is shorter.
    pub window_ns: u64,
    /// Reads and writes completed in it.
    pub operations: u64,
    /// Mean of their latencies.
    pub latency_mean_ns: Option<u64>,
    /// Longest of their latencies.
    pub latency_max_ns: Option<u64>,
}

/// `recovery.csv`: one recovery after a kill.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecoveryRow {
    /// Number of the row, from 1.
    pub run: u64,
    /// `sigkill` of a process that kept its unflushed writes in memory, or `simulated`.
    pub cut: String,
    /// Size of the device.
    pub device_bytes: u64,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Bytes of log between checkpoints.
    pub checkpoint_bytes: u64,
    /// Writers before the kill.
    pub queue_depth: u32,
    /// Log since the last checkpoint at which the kill was asked for, in percent of the interval.
    pub tail_percent: u32,
    /// Batches of log that opening read.
    pub tail_batches: Option<u64>,
    /// Entries in them.
    pub tail_entries: Option<u64>,
    /// Their bytes.
    pub tail_bytes: Option<u64>,
    /// When the superblock had been read, since the open began.
    pub detected_ns: Option<u64>,
    /// When the volume was open.
    pub opened_ns: Option<u64>,
    /// When a first block had been read.
    pub first_read_ns: Option<u64>,
    /// When everything that the log held was in the index on the device.
    pub applied_ns: Option<u64>,
    /// Of opening: loading the metadata.
    pub load_ns: Option<u64>,
    /// Of opening: reading the log.
    pub replay_ns: Option<u64>,
    /// Blocks of which a write had been acknowledged as durable.
    pub acknowledged: u64,
    /// Of these, blocks that hold something older or broken.
    pub lost: Option<u64>,
    /// Whether the recovery counts.
    pub valid: bool,
    /// Why it does not.
    pub invalid_reason: String,
    /// Seed of addresses and content.
    pub seed: u64,
}

/// `events.csv`: something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// When, UTC.
    pub utc: String,
    /// When, since the run began.
    pub since_start_ns: u64,
    /// What, in one word of lower case and underscores.
    pub event: String,
    /// More about it.
    pub detail: String,
}

/// A number as the tables write it: whole ones exactly, others to six significant digits (from a
/// million on to whole numbers), never in exponents.
fn number_text(value: f64) -> String {
    // 2^53: beyond it a double no longer holds every whole number.
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return format!("{value:.0}");
    }
    let decimals = (5.0 - value.abs().log10().floor()).clamp(0.0, 15.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

fn six_digits<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) if value.is_finite() => serializer.serialize_str(&number_text(*value)),
        _ => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_or_six_digits() {
        for (value, text) in [
            (0.0, "0"),
            (123_456_789.0, "123456789"),
            (123_456.789, "123457"),
            (0.987_654_321, "0.987654"),
            (1.5, "1.5"),
            (0.000_123_456_789, "0.000123457"),
            (99.999_999, "100"),
        ] {
            assert_eq!(number_text(value), text);
        }
    }
}
