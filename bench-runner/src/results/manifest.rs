//! `manifest.json`: what was run, on what, and whether it ended.
//!
//! Written when a run begins and again when it ends, so that a folder whose run was cut short says so by itself.
//! `null` means not known, never zero.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ResultsError;

/// The version of the run folder's format. A reader refuses another one by name.
pub const FORMAT_VERSION: u32 = 1;

/// Everything about a run that is not a measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer; set by the folder.
    pub format_version: u32,
    /// When the run began, UTC, RFC 3339; set by the folder.
    pub started_utc: String,
    /// When it ended; `None` while it runs and after a crash; set by the folder.
    pub ended_utc: Option<String>,
    /// The program and its arguments, one element each.
    pub command_line: Vec<String>,
    /// Seed of the addresses, the order of arms and the bootstrap.
    pub seed: u64,
    /// What was measured.
    pub device: DeviceFacts,
    /// What it was measured with.
    pub environment: EnvironmentFacts,
    /// What was meant to be measured.
    pub plan: Plan,
    /// What was left out of the plan, and why.
    pub dropped: Vec<Dropped>,
    /// The trace that was played instead of workloads.
    #[serde(default)]
    pub trace: Option<TraceFacts>,
    /// When it stops; `None` for a fixed number of blocks.
    #[serde(default)]
    pub stopping: Option<Stopping>,
    /// True when every block of the plan was measured; set by the folder.
    pub complete: bool,
    /// True when the run was stopped by a signal; set by the folder.
    pub interrupted: bool,
}

/// The device or file under test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Its path as given.
    pub path: String,
    /// The name that `--destroy` takes before the colon.
    pub serial: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// `block device`, `file` and the like.
    pub kind: String,
    /// Model name.
    pub model: Option<String>,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// File system, for a file.
    pub file_system: Option<String>,
    /// I/O scheduler in use.
    pub scheduler: Option<String>,
    /// Requests the kernel's queue holds.
    pub nr_requests: Option<u64>,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
    /// Smallest addressable unit in bytes.
    pub logical_block_bytes: Option<u64>,
    /// Unit the device writes without reading first, in bytes.
    pub physical_block_bytes: Option<u64>,
    /// Whether it says that it has moving parts.
    pub rotational: Option<bool>,
}

/// The machine and the build.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EnvironmentFacts {
    /// Kernel release.
    pub kernel: String,
    /// Kernel command line.
    pub kernel_command_line: Option<String>,
    /// CPU model name.
    pub cpu_model: Option<String>,
    /// CPUs this process may use.
    pub cores: u64,
    /// The processors that the process may run on: `0-1`.
    #[serde(default)]
    pub processors: Option<String>,
    /// Those of the kernel's unbound workers, as a hexadecimal mask; a loop device's I/O is theirs.
    #[serde(default)]
    pub kernel_worker_processors: Option<String>,
    /// Frequency governor, or `none` where the kernel has no frequency scaling.
    pub governor: String,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Compiler version.
    pub rustc: String,
    /// Commit the program was built from.
    pub git_commit: String,
    /// Whether the tree had changes beyond that commit; `None` where not known.
    pub git_dirty: Option<bool>,
    /// Clock the latencies were taken from.
    pub clock_source: Option<String>,
    /// Features of the engine that the program was built with.
    pub engine_features: Vec<String>,
}

/// What was meant to be measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Names of the arms.
    pub arms: Vec<String>,
    /// Names of the workloads.
    pub workloads: Vec<String>,
    /// Queue depths.
    pub queue_depths: Vec<u32>,
    /// Blocks of every workload and depth.
    pub repeats: u32,
    /// Measured time of one arm in nanoseconds.
    pub measure_ns: u64,
    /// Warm-up of one arm in nanoseconds.
    pub warmup_ns: u64,
    /// First byte of the data span on the device.
    pub span_offset_bytes: u64,
    /// Length of the data span in bytes.
    pub span_bytes: u64,
    /// How the span was brought into its state before each arm.
    pub preconditioning: String,
    /// When a load was steady enough to be measured; `None` where that was a matter of time alone.
    #[serde(default)]
    pub steady_state: Option<String>,
    /// Bound of the p99 of intended latency that loads were to meet.
    #[serde(default)]
    pub slo_ns: Option<u64>,
    /// Of everything that the plan says, also what stands in files; by it a run that goes on knows that nothing has changed.
    #[serde(default)]
    pub digest: String,
}

impl Plan {
    /// The digest of a plan; it means something to the same build alone.
    pub fn digest_of(plan: &impl std::fmt::Debug) -> String {
        // A hasher made like this always begins alike.
        let mut hasher = DefaultHasher::new();
        format!("{plan:?}").hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// A trace, as it was looked at before it was played, and how it was made to fit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceFacts {
    /// Its files.
    pub files: Vec<TraceFile>,
    /// Requests that were looked at: all that can be played in the time asked for.
    pub requests: u64,
    /// Whether there are more behind them.
    pub goes_on: bool,
    /// FNV-1a over time, offset, length, volume and kind of each.
    pub digest: String,
    /// From the first to the last of them, as recorded.
    pub duration_ns: u64,
    /// Their lowest address.
    pub begin_bytes: u64,
    /// The first byte behind their highest.
    pub end_bytes: u64,
    /// Distinct blocks that they touch, in bytes.
    pub footprint_bytes: u64,
    /// Their longest.
    pub request_bytes_max: u64,
    /// Volumes that took part; empty for all.
    pub volumes: Vec<u32>,
    /// `as they are`, `fold` (modulo the span) or `scale` (times the span, over `end_bytes`).
    pub addresses: String,
    /// What offsets and lengths were rounded to.
    pub alignment_bytes: u64,
    /// The longest piece that was handed to a target; longer requests were split.
    pub piece_bytes_max: u64,
}

/// One file of a trace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TraceFile {
    /// Its path as given.
    pub path: String,
    /// Its size, packed as it is.
    pub size_bytes: u64,
    /// Its format.
    pub format: String,
    /// How it is packed.
    pub packing: String,
    /// Bad records that were left out.
    pub bad_records: u64,
    /// Records that were not in order and have been put right.
    pub sorted_records: u64,
}

/// A run that goes on until its intervals are narrow.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stopping {
    /// The rule, in one sentence.
    pub rule: String,
    /// Blocks measured by it.
    pub blocks: u32,
    /// Whether every interval was narrow then.
    pub settled: bool,
    /// Those that were not, the widest first.
    pub open: Vec<String>,
}

/// One thing left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// What was left out.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Manifest {
    /// Replaces the manifest at `path` in one step: a reader sees the old one or the new one.
    pub(super) fn save(&self, path: &Path) -> Result<(), ResultsError> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| ResultsError::malformed(path, error))?;
        text.push('\n');
        let next = path.with_extension("json.next");
        fs::write(&next, text).map_err(ResultsError::io(&next, "write"))?;
        fs::rename(&next, path).map_err(ResultsError::io(path, "write"))
    }

    pub(crate) fn load(path: &Path) -> Result<Self, ResultsError> {
        let text = fs::read_to_string(path).map_err(ResultsError::io(path, "read"))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| ResultsError::malformed(path, error))?;
        if manifest.format_version != FORMAT_VERSION {
            let detail = format!(
                "format version {} is not known here, this program reads {FORMAT_VERSION}",
                manifest.format_version
            );
            return Err(ResultsError::malformed(path, detail));
        }
        Ok(manifest)
    }
}
