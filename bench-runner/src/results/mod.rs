//! The run folder: everything a run leaves behind, and the only thing a report is made from.
//!
//! A run appends ([`RunFolder`]); a report, a comparison and the pooling at a run's end read ([`RunData`]).
//! `results/SCHEMA.md` describes every file and column.
//!
//! Invariants: a folder is never overwritten; what has been appended is handed to the operating system before the
//! next arm begins, so a run cut short leaves a valid partial folder; the row in `runs.csv` comes last of all that
//! an arm leaves, so a run that is listed is there in full. Of what a killed process was writing, a last row may be
//! there in part: a reader of a folder whose run has not ended passes over it, and a run that goes on takes it away.

mod arm_rows;
mod error;
mod folder;
mod histogram_log;
mod manifest;
mod pool;
mod read;
mod rest;
mod rows;
mod utc;

pub use arm_rows::ArmRun;
pub(crate) use arm_rows::WRITE_AMPLIFICATION;
pub use error::ResultsError;
pub use folder::{Ending, RunFolder};
pub use histogram_log::{RunHistograms, merged};
pub use manifest::{
    DeviceFacts, Dropped, EnvironmentFacts, FORMAT_VERSION, Manifest, Plan, Stopping, TraceFacts, TraceFile,
};
pub use pool::pooled_rows;
pub use read::{RunData, read_metrics};
pub(crate) use rows::MEASURE;
pub use rows::{BandRow, EventRow, MetricRow, RecoveryRow, RunRow, SecondRow, WindowRow};
pub use utc::{from_rfc3339, rfc3339};

/// What was run, on what, and whether it ended.
pub const MANIFEST_FILE: &str = "manifest.json";
/// One row an arm of a block.
pub const RUNS_FILE: &str = "runs.csv";
/// One row a value.
pub const METRICS_FILE: &str = "metrics.csv";
/// One row a second of a run.
pub const TIMESERIES_FILE: &str = "timeseries.csv";
/// One row a second and band of latency; only where latencies were kept by second.
pub const LATENCIES_FILE: &str = "latencies.csv";
/// One row an event.
pub const EVENTS_FILE: &str = "events.csv";
/// One row a recovery; only where recoveries were measured.
pub const RECOVERY_FILE: &str = "recovery.csv";
/// One row a short piece of a run's time; only where suites of snapshots were measured.
pub const SERIES_FILE: &str = "series.csv";
/// Folder of the histograms, one file a run.
pub const HISTOGRAM_FOLDER: &str = "hist";
/// The report, made from all of the above.
pub const REPORT_FILE: &str = "report.html";
