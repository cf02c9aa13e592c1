//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use icecore_workloads::trace::Speed;

use crate::method::{BLOCKS_MAX, Method};
use crate::precondition::Precondition;

/// Measures what each way of keeping a volume costs on your own disks.
#[derive(Debug, Parser)]
#[command(name = "bench-runner", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See in three minutes what this disk does bare and through the engine, on a scratch file.
    Quick(QuickOptions),
    /// Measure a device or file.
    Run(RunOptions),
    /// Say what `run` would do, and the exact --destroy argument. Writes nothing.
    Plan(RunOptions),
    /// Measure a device or file by playing a recorded trace: the same as `run --trace`.
    Replay(ReplayOptions),
    /// Measure what keeping snapshots costs: taking, holding, reading, deleting them, going back, running full.
    Snapshots(SnapshotOptions),
    /// Measure snapshots beside other systems, on the same device: qcow2, nbdkit, XFS, btrfs.
    Peers(PeerOptions),
    /// Kill a process that writes, and time how long its volume takes to be there again.
    Recovery(RecoveryOptions),
    /// The process that is killed.
    #[command(hide = true)]
    RecoveryVictim(VictimOptions),
    /// Say what has changed from one run to another: 1 if anything is worse, 2 if nothing could be compared.
    Compare(CompareOptions),
    /// Set what is said of the cost of logs, snapshots and recovery beside what run folders show. 2 if they show nothing of it.
    Claims(ClaimsOptions),
    /// Make the report of a run folder again.
    Report {
        /// The run folder.
        folder: PathBuf,
    },
    /// Give a run folder in the format of other programs: JSON as fio writes it, or Parquet.
    Export(ExportOptions),
    /// List the workloads: what each asks, and the digest of its first operations.
    Workloads {
        /// Print one JSON object on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Look at this machine: io_uring, direct I/O, flush cost, and what the runner itself costs.
    Doctor(DoctorOptions),
    /// Say what a block trace is like: sizes, mix, footprint, arrivals, hot spots. Opens no device.
    TraceInfo(TraceInfoOptions),
}

impl Command {
    /// Whether stdout is for a program.
    pub fn json(&self) -> bool {
        match self {
            Command::Quick(options) => options.results.json,
            Command::Run(options) | Command::Plan(options) => options.results.json,
            Command::Replay(options) => options.run.results.json,
            Command::Doctor(options) => options.json,
            Command::Recovery(options) => options.results.json,
            Command::Snapshots(options) => options.results.json,
            Command::Workloads { json } => *json,
            Command::TraceInfo(options) => options.json,
            Command::Compare(options) => options.json,
            Command::Claims(options) => options.json,
            Command::Peers(options) => options.results.json,
            Command::Report { .. } | Command::Export(_) | Command::RecoveryVictim(_) => false,
        }
    }
}

/// What becomes of the results.
#[derive(Args, Clone, Debug)]
pub struct ResultOptions {
    /// Folder of the results; must be empty (default: `results/local/UTC`).
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Leave to write to a device.
#[derive(Args, Clone, Debug)]
pub struct OverwriteOptions {
    /// The device's serial and exact size; `plan` prints it. Its contents are lost.
    #[arg(long, value_name = "SERIAL:BYTES")]
    pub destroy: Option<String>,
    /// Overwrite somebody else's file system or label on the device.
    #[arg(long)]
    pub force: bool,
}

/// The load on snapshots, and how it is repeated.
#[derive(Args, Clone, Debug)]
pub struct SnapshotLoadOptions {
    /// Scattered writes between two of these snapshots.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub changes: u64,
    /// Requests in flight.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queue_depth: u32,
    /// Writes that are begun together, once as many have completed.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Blocks: how often every arm is repeated.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeats: u32,
    /// Seed of addresses, content and order; random, and printed, if not given.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Options of `quick`.
#[derive(Args, Clone, Debug)]
pub struct QuickOptions {
    /// Go on with the run in this folder, which was cut short: the same plan and seed, without the arms that are there. --scratch
    /// is needed where the folder of the scratch file has another path now.
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// Folder of the 1 GiB scratch file, on the disk to be measured; this one if not given.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// What becomes of the results.
    #[command(flatten)]
    pub results: ResultOptions,
}

/// Options of `run` and `plan`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Go on with the run in this folder, which was cut short: the same plan and seed, without the arms that are there. --destroy is
    /// needed as ever, --device where its path has changed.
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "connections", "create", "backend", "workload", "queue_depth", "load", "offered", "slo_us", "seconds", "warmup", "repeats",
        "until_settled", "precondition", "until_steady", "a_a", "seed", "out", "span"])]
    pub resume: Option<PathBuf>,
    /// Block device or file, or an export of an NBD server: nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH.
    #[arg(long, value_name = "PATH", required_unless_present = "resume")]
    pub device: Option<PathBuf>,
    /// The device's serial and exact size; `plan` prints it. Of an export, its name (`nbd` if it has none) and size. Its contents are
    /// lost.
    #[arg(long, value_name = "SERIAL:BYTES")]
    pub destroy: Option<String>,
    /// Connections to an NBD server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub connections: u32,
    /// Make a file of this size if the device does not exist.
    #[arg(long, value_name = "BYTES")]
    pub create: Option<u64>,
    /// Overwrite somebody else's file system or label on the device.
    #[arg(long)]
    pub force: bool,
    /// Arms: ring, fio, or a backend by its name, direct if not given; raw always runs beside them. Of an export: fio; nbd always runs.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Workloads by name (`bench-runner workloads` lists them), or paths of TOML files; randread-4k,randwrite-4k if not given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub workload: Vec<String>,
    /// Requests in flight (for durable workloads, independent writers; under an open load at most so many); what the workload
    /// says, or 1,32, if not given; for a trace 32.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub queue_depth: Vec<u32>,
    /// Open loads, in percent of what each arm does under the closed one, which runs before them.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = percent)]
    pub load: Vec<f64>,
    /// Open loads, in operations a second, instead of the closed one.
    #[arg(long, value_name = "PER-SECOND", value_delimiter = ',', value_parser = per_second)]
    pub offered: Vec<f64>,
    /// Say up to which open load the p99, from when operations were to begin, stays within so many microseconds.
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    pub slo_us: Option<u64>,
    /// Measured seconds of each arm.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Seconds under load before that; 2 if not given, none for a trace.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub warmup: Option<u64>,
    /// Blocks: how often every arm is repeated.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeats: u32,
    /// Add blocks until each arm's ratio to raw is known within 2 % for IOPS and 5 % for p99; 5 to 15 of them.
    #[arg(long, conflicts_with = "repeats")]
    pub until_settled: bool,
    /// Before the run (=arm: before each arm of each block) discard all of the device, and write it twice over in 128 KiB writes in
    /// order: a device that is new or empty is faster than it will be. `plan` says what that writes, and how long it takes.
    #[arg(long, value_name = "WHEN", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "run")]
    pub precondition: Option<Precondition>,
    /// Let each closed load go on until it is steady: a round is a fifth of --seconds, and the last five are measured once they are
    /// level; 25 rounds at most, after which it is kept and not ranked. Open loads and traces have a course of their own.
    #[arg(long)]
    pub until_steady: bool,
    /// A/A: run each arm twice in each block, as X and X-again. What the two differ by is noise (`compare --noise`).
    #[arg(long)]
    pub a_a: bool,
    /// Seed of addresses, content and order; random, and printed, if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Length of the data span; 1 GiB, or what the device has, if not given; of a trace whose addresses stay as they are, up to
    /// their end.
    #[arg(long, value_name = "BYTES")]
    pub span: Option<u64>,
    /// What becomes of the results.
    #[command(flatten)]
    pub results: ResultOptions,
    /// Play this recorded trace instead of workloads, for --seconds at most; several files are merged by time.
    #[arg(long, value_name = "PATH")]
    pub trace: Vec<PathBuf>,
    /// How it is played.
    #[command(flatten)]
    pub playing: TracePlaying,
    /// How it is read.
    #[command(flatten)]
    pub reading: TraceReading,
}

/// Options of `replay`: those of `run`, for a trace.
#[derive(Args, Clone, Debug)]
pub struct ReplayOptions {
    /// The trace; several files are merged by time. gzip and zstd are unpacked. For blktrace, its output name will do.
    #[arg(value_name = "TRACE", required = true)]
    pub paths: Vec<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub run: RunOptions,
}

impl ReplayOptions {
    /// The same as options of `run`.
    pub fn into_run(self) -> RunOptions {
        RunOptions { trace: self.paths.into_iter().chain(self.run.trace).collect(), ..self.run }
    }
}

/// How a trace is played.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Playing a trace")]
pub struct TracePlaying {
    /// How many times as fast as recorded (1 if not given), or max: as fast as the queue depth allows.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = speed)]
    pub speed: Vec<ReplaySpeed>,
    /// What is done with addresses beyond the span, for which a trace is refused otherwise: fold takes them modulo the span,
    /// scale shrinks (or stretches) all of them to it.
    #[arg(long, value_enum)]
    pub addresses: Option<TraceAddresses>,
}

/// What is done with a trace's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceAddresses {
    /// Modulo the span.
    Fold,
    /// In proportion to the span.
    Scale,
}

/// How fast a trace is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaySpeed {
    /// On its schedule, at so many times the recorded speed.
    Times(Speed),
    /// In its order, as fast as the queue depth allows.
    Max,
}

fn speed(text: &str) -> Result<ReplaySpeed, String> {
    if text == "max" {
        return Ok(ReplaySpeed::Max);
    }
    let factor = text.parse().map_err(|_| "a number, or max".to_owned())?;
    Speed::new(factor).map(ReplaySpeed::Times).map_err(|error| error.to_string())
}

impl RunOptions {
    /// What is measured. A run that is gone on with has it from the run that began.
    pub fn device(&self) -> &Path {
        self.device.as_deref().unwrap_or(Path::new(""))
    }

    /// How the run is made.
    pub fn method(&self) -> Method {
        Method {
            a_a: self.a_a,
            until_settled: self.until_settled,
            precondition: self.precondition.unwrap_or_default(),
            until_steady: self.until_steady,
        }
    }

    /// Blocks at most.
    pub fn blocks(&self) -> u32 {
        if self.until_settled { BLOCKS_MAX } else { self.repeats }
    }
}

/// Options of `snapshots`.
#[derive(Args, Clone, Debug)]
pub struct SnapshotOptions {
    /// Go on with the run in this folder, which was cut short: the same plan and seed, without the arms that are there. --destroy is
    /// needed as ever, --device where its path has changed.
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "create", "backend", "peer", "suite", "loads", "snapshots", "sizes", "changes", "unit", "queue_depth", "batch", "seconds", "warmup",
        "repeats", "seed", "out", "span"])]
    pub resume: Option<PathBuf>,
    /// Block device or file.
    #[arg(long, value_name = "PATH", required_unless_present = "resume")]
    pub device: Option<PathBuf>,
    /// Leave to write to the device.
    #[command(flatten)]
    pub overwrite: OverwriteOptions,
    /// Make a file of this size if the device does not exist.
    #[arg(long, value_name = "BYTES")]
    pub create: Option<u64>,
    /// Backends; all that keep snapshots if not given. Raw always runs beside them. cow-linear, logged-cow-linear and
    /// overlay-linear: snapshots have linear objects.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub backend: Vec<String>,
    /// Programs behind which other systems take part in first-touch, each under its name (scripts/lab/README.md).
    #[arg(long, value_name = "PROGRAM", value_delimiter = ',')]
    pub peer: Vec<PathBuf>,
    /// cliff, chain, creation, first-touch, delete, rollback, full, overwrite-fraction, read-home, merge, backup, aging; all if not
    /// given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub suite: Vec<String>,
    /// Run suites under load: the workload oltp, begun by a schedule at so many percent of what each arm does of it as fast as it can.
    /// Of backup, delete, rollback, merge, full and overwrite-fraction; all of these if no suite is given. backup takes 50 without it.
    #[arg(long = "load", value_name = "PERCENT", value_delimiter = ',', value_parser = percent)]
    pub loads: Vec<f64>,
    /// Lengths of the chain, snapshots held at first touches, and where a part of creation ends.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16,64,256",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub snapshots: Vec<u32>,
    /// Volumes of creation, beside one as large as the span; 8 and 1,024 times as large if not given. Those that have no room are
    /// left out. For large ones a sparse file will do.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = volume_size)]
    pub sizes: Vec<u64>,
    /// Bytes that first-touch writes once in.
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = unit)]
    pub unit: u64,
    /// The load, and how it is repeated.
    #[command(flatten)]
    pub load: SnapshotLoadOptions,
    /// Measured seconds of each part of a suite.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds under load before that.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
    /// Length of the span; 1 GiB, or a quarter of what the device has, if not given.
    #[arg(long, value_name = "BYTES")]
    pub span: Option<u64>,
    /// What becomes of the results.
    #[command(flatten)]
    pub results: ResultOptions,
}

/// Options of `peers`.
#[derive(Args, Clone, Debug)]
pub struct PeerOptions {
    /// Go on with the run in this folder, which was cut short: the same plan and seed, without the arms that are there. --destroy is
    /// needed as ever, --force where a peer's file system is on the device, --device where its path has changed.
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "suite", "peers", "scripts", "backend", "snapshots", "changes", "queue_depth", "batch", "seconds", "warmup", "repeats",
        "seed", "out", "span"])]
    pub resume: Option<PathBuf>,
    /// Block device or file. Ours and the others have it in turns, whole.
    #[arg(long, value_name = "PATH", required_unless_present = "resume")]
    pub device: Option<PathBuf>,
    /// Leave to write to the device.
    #[command(flatten)]
    pub overwrite: OverwriteOptions,
    /// cliff, chain, quick.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "cliff,chain,quick")]
    pub suite: Vec<String>,
    /// Peers, by the names of their programs; all that can run here if not given. What a peer is held against comes with it. Those of
    /// device-mapper (dm-thin, dm-snapshot, dm-clone-4k and more) run in a guest (scripts/lab/README.md), beside ours there.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Folder of these programs; scripts/peers of the checkout if not given. The guest is that of the folder `lab` beside it.
    #[arg(long, value_name = "DIR")]
    pub scripts: Option<PathBuf>,
    /// Backends beside them.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "log,overlay,cow")]
    pub backend: Vec<String>,
    /// Lengths of the chain.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub snapshots: Vec<u32>,
    /// The load, and how it is repeated.
    #[command(flatten)]
    pub load: SnapshotLoadOptions,
    /// Measured seconds of each part of a suite.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds under load before that.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub warmup: f64,
    /// Length of the span; 256 MiB, or a quarter of what the device has, if not given.
    #[arg(long, value_name = "BYTES")]
    pub span: Option<u64>,
    /// What becomes of the results.
    #[command(flatten)]
    pub results: ResultOptions,
}

fn unit(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(bytes @ 4096..=1_048_576) if u64::is_power_of_two(bytes) => Ok(bytes),
        _ => Err("powers of two from 4096 to 1048576 are possible".to_owned()),
    }
}

fn volume_size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(bytes @ 1_048_576..) if u64::is_multiple_of(bytes, 1_048_576) => Ok(bytes),
        _ => Err("multiples of 1048576 are possible".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (1.0..=1_000.0).contains(&percent) => Ok(percent),
        _ => Err("from 1 to 1000 percent are possible".to_owned()),
    }
}

fn per_second(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("from 1 to 10000000 operations a second are possible".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("from 0.05 to 86400 seconds are possible".to_owned()),
    }
}

/// Options of `compare`.
#[derive(Args, Debug)]
pub struct CompareOptions {
    /// The run before: a run folder, or its metrics.csv.
    pub a: PathBuf,
    /// The run after. Ratios are B over A.
    pub b: PathBuf,
    /// Run folder of `run --a-a`, which tells how large an effect is none; A and B themselves if not given.
    #[arg(long, value_name = "DIR")]
    pub noise: Option<PathBuf>,
    /// Of iops, latency_p50, latency_p99, cpu, snapshot_creation and more (a wrong name lists them); the main ones if not given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub metric: Vec<String>,
    /// Arms: all that both have if not given. X=Y compares arm X of A with arm Y of B.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub arm: Vec<String>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Options of `claims`.
#[derive(Args, Debug)]
pub struct ClaimsOptions {
    /// Run folders.
    #[arg(value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Options of `export`.
#[derive(Args, Debug)]
pub struct ExportOptions {
    /// The run folder.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The format.
    #[arg(long, value_enum)]
    pub to: ExportFormat,
    /// The file of fio-json (stdout if not given); the folder of Parquet's files, which must be empty.
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
}

/// Formats of other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// What `fio --output-format=json` prints, with each run that counts as a job.
    FioJson,
    /// Each table as a file; only in builds with --features parquet.
    Parquet,
}

/// Options of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorOptions {
    /// Block device or file to look at; it is only read.
    #[arg(long, value_name = "PATH", conflicts_with = "scratch")]
    pub device: Option<PathBuf>,
    /// Folder for a small scratch file, to measure what a flush costs there.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub scratch: PathBuf,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Options of `recovery`.
#[derive(Args, Clone, Debug)]
pub struct RecoveryOptions {
    /// Go on with the run in this folder, which was cut short: the same kills, without those that are there. --destroy is needed as
    /// ever, --device where its path has changed.
    #[arg(long, value_name = "DIR", conflicts_with_all = [
        "simulated", "create", "size", "checkpoint", "queue_depth", "tail", "repeats", "seed", "out"])]
    pub resume: Option<PathBuf>,
    /// Block device or file.
    #[arg(long, value_name = "PATH", required_unless_present_any = ["simulated", "resume"])]
    pub device: Option<PathBuf>,
    /// Cut the power of a simulated disk of --create bytes instead; times are then virtual.
    #[arg(long, requires = "create", conflicts_with = "device")]
    pub simulated: bool,
    /// Leave to write to the device.
    #[command(flatten)]
    pub overwrite: OverwriteOptions,
    /// Make a sparse file of this size if the device does not exist.
    #[arg(long, value_name = "BYTES")]
    pub create: Option<u64>,
    /// Sizes of the volume; the largest that fits if not given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub size: Vec<u64>,
    /// Bytes of log between checkpoints; the engine's own choice if not given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub checkpoint: Vec<u64>,
    /// Writers.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,32",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queue_depth: Vec<u32>,
    /// When to kill: log since the last checkpoint, in percent of the interval.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "25,50,98",
          value_parser = clap::value_parser!(u32).range(1..=99))]
    pub tail: Vec<u32>,
    /// How often each is repeated.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeats: u32,
    /// Seed of addresses and content; random, and printed, if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// What becomes of the results.
    #[command(flatten)]
    pub results: ResultOptions,
}

/// Options of the process that is killed.
#[derive(Args, Clone, Debug)]
pub struct VictimOptions {
    /// Block device or file with a volume.
    #[arg(long)]
    pub device: PathBuf,
    /// Seed of addresses and content.
    #[arg(long)]
    pub seed: u64,
    /// Writers.
    #[arg(long)]
    pub queue_depth: u32,
    /// Bytes of log since the last checkpoint at which it asks to be killed.
    #[arg(long)]
    pub kill_bytes: u64,
}

/// Options of `trace-info`.
#[derive(Args, Clone, Debug)]
pub struct TraceInfoOptions {
    /// The trace; several files are merged by time. gzip and zstd are unpacked. For blktrace, its output name will do.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// How it is read.
    #[command(flatten)]
    pub reading: TraceReading,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// How a trace is read.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reading a trace")]
pub struct TraceReading {
    /// The format, if its first lines or bytes do not tell; an unknown name is answered with all of them.
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// Only these volumes.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub volume: Vec<u32>,
    /// Only so many requests from the beginning.
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// The event that stands for a request, for blktrace and blkparse.
    #[arg(long, value_enum, default_value = "queued")]
    pub event: TraceEvent,
    /// Records that a record may have to be put in front of, in each file; one takes 48 bytes. 65536 over the number of files if not
    /// given.
    #[arg(long, value_name = "RECORDS")]
    pub sort_window: Option<usize>,
    /// Bad records to leave out and count, in each file, before it is refused.
    #[arg(long, value_name = "RECORDS", default_value_t = 0)]
    pub bad_records: u64,
}

impl TraceReading {
    /// Whether nothing was asked for that is not so anyway.
    pub fn is_default(&self) -> bool {
        self.format.is_none()
            && self.volume.is_empty()
            && self.limit.is_none()
            && self.event == TraceEvent::Queued
            && self.sort_window.is_none()
            && self.bad_records == 0
    }
}

/// Events of a request in the block layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceEvent {
    /// Q: what was asked of the block layer.
    Queued,
    /// D: what was handed to the driver.
    Issued,
}
