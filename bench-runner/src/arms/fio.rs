//! The outside reference: the `fio` program with the parameters of the ring arm, on the same span.
//!
//! fio runs as a process of its own and reports JSON, from which the outcome is filled. Where the two cannot be
//! the same:
//!
//! - **Latency** is fio's `lat`, from the moment it has prepared a request to its completion: the nearest to
//!   the ring arm's "issued to completed". Its other two clocks are switched off (`disable_slat`,
//!   `disable_clat`), so that fio, too, measures one latency. Histograms are rebuilt from the bins of `json+`,
//!   which are 1/64 of a power of two wide: percentiles are good to 1.6 %, not 0.1 %.
//! - **`durable-4k`** is one thread a writer with `fdatasync=1`, as fio has one flush a job. fio times write and
//!   flush apart and never their sum: the write's histogram stays empty (not measured), the flush has its own.
//!   fio opens with O_DSYNC for `durable-4k-dsync`, the same as RWF_DSYNC on each write.
//! - **CPU** is a share of each job's run time, without the ramp; only the sum of user and system is exact.
//! - There are no seconds and no generations: fio writes content of its own. The addresses come from fio's own
//!   generator; half of the seed is its seed, the addresses are others.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use hdrhistogram::Histogram;
use icecore_workloads::{Access, Durability, Generations, Part, Workload};
use serde_json::Value;

use crate::child;
use crate::measure::{ArmOutcome, ArmTask, OperationFigures};
use crate::nbd::Address;
use crate::recorder::latency_histogram;

/// Most characters of fio's own messages that an error repeats.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// fio could not measure.
#[derive(Debug)]
pub enum FioError {
    /// There is no such program.
    Missing,
    /// It could not be started or its target not be opened.
    Io {
        /// The program, device or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The span does not fit into the device; fio would extend a file.
    Span {
        /// The device or file.
        path: PathBuf,
        /// Its size in bytes.
        device_bytes: u64,
    },
    /// It ended with an error; its messages name the device, the offset and the reason.
    Failed {
        /// The device or file.
        path: PathBuf,
        /// What fio wrote to stderr.
        message: String,
    },
    /// The workload is not one that this arm puts into fio's words.
    Unsupported,
    /// Its report is not what fio 3 writes.
    Report {
        /// What is missing or wrong in it.
        message: String,
    },
}

impl fmt::Display for FioError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => {
                write!(formatter, "fio is asked for closed loads of one size, uniform or sequential, alone")
            }
            Self::Missing => write!(formatter, "fio is not installed: apt-get install fio"),
            Self::Io { path, source } => write!(formatter, "{}: {source}", path.display()),
            Self::Span { path, device_bytes } => {
                write!(formatter, "{}: the span does not fit into {device_bytes} bytes", path.display())
            }
            Self::Failed { path, message } => write!(formatter, "{}: fio failed: {message}", path.display()),
            Self::Report { message } => write!(formatter, "fio's report: {message}"),
        }
    }
}

impl std::error::Error for FioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Runs one measurement in a fio process and waits for it.
pub fn run(task: &ArmTask) -> Result<ArmOutcome, FioError> {
    run_program(Path::new("fio"), task)
}

fn run_program(program: &Path, task: &ArmTask) -> Result<ArmOutcome, FioError> {
    check_span(task)?;
    let mut command = Command::new(program);
    command.args(arguments(task, expressible(task).ok_or(FioError::Unsupported)?));
    // fio measures its own time, so that waiting for it adds to no figure.
    let output = child::output(command, None).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FioError::Missing,
        _ => FioError::Io { path: program.to_owned(), source },
    })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.trim().chars().take(MESSAGE_CHARS_MAX).collect();
        return Err(FioError::Failed { path: task.path.clone(), message });
    }
    let mut outcome = outcome(&String::from_utf8_lossy(&output.stdout), &task.workload)?;
    if is_export(task) {
        outcome.io_path = "fio, NBD over one connection a writer, one thread".to_owned();
    }
    Ok(outcome)
}

/// Whether the target is an export of an NBD server, which fio reaches by an engine of its own.
fn is_export(task: &ArmTask) -> bool {
    matches!(Address::of(&task.path), Ok(Some(_)))
}

/// The part that is all of the task, if fio can be asked for it.
fn expressible(task: &ArmTask) -> Option<(&Part, u32)> {
    task.workload.only_part().filter(|(part, _)| can_be_asked(part) && task.offered_per_second.is_none())
}

/// Whether places are chosen in a way that fio has under the same meaning.
pub(crate) fn can_be_asked(part: &Part) -> bool {
    matches!(part.access, Access::UniformRandom | Access::Sequential)
}

fn check_span(task: &ArmTask) -> Result<(), FioError> {
    if is_export(task) {
        if task.workload.durability() == Durability::DurableWrite {
            let message = "its NBD engine has no durable writes; leave this workload or fio out".to_owned();
            return Err(FioError::Failed { path: task.path.clone(), message });
        }
        // It has been asked for its size.
        return Ok(());
    }
    let failed = |source| FioError::Io { path: task.path.clone(), source };
    let mut file = File::open(&task.path).map_err(failed)?;
    let device_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    match task.span_offset_bytes.checked_add(task.span_bytes) {
        Some(end_bytes) if end_bytes <= device_bytes => Ok(()),
        _ => Err(FioError::Span { path: task.path.clone(), device_bytes }),
    }
}

/// The command line. Every option that defines the load is given, so that no default of another version counts.
fn arguments(task: &ArmTask, (part, operation_bytes): (&Part, u32)) -> Vec<String> {
    let workload = &task.workload;
    let random = part.access != Access::Sequential;
    let pattern = match (random, workload.reads(), workload.writes()) {
        (true, true, true) => "randrw",
        (true, true, false) => "randread",
        (true, false, _) => "randwrite",
        (false, true, true) => "rw",
        (false, true, false) => "read",
        (false, false, _) => "write",
    };
    let each_flushes = workload.durability() == Durability::WriteThenFlush;
    let (jobs, depth) = if each_flushes { (task.queue_depth, 1) } else { (1, task.queue_depth) };
    let mut arguments: Vec<String> = [
        "--name=icecore",
        "--iodepth_batch_complete_min=1",
        "--norandommap=1",
        "--randrepeat=0",
        "--time_based=1",
        "--thread=1",
        "--group_reporting=1",
        // A file as it is: neither made nor filled.
        "--allow_file_create=0",
        "--fallocate=none",
        "--lat_percentiles=1",
        "--clat_percentiles=0",
        "--output-format=json+",
    ]
    .map(str::to_owned)
    .into();
    if is_export(task) {
        arguments.extend(["--ioengine=nbd".to_owned(), format!("--uri={}", task.path.display())]);
    } else {
        let uring =
            ["--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1", "--nonvectored=1"];
        arguments.extend(uring.map(str::to_owned));
        // A colon separates file names in fio's option.
        let file_name = task.path.to_string_lossy().replace(':', "\\:");
        arguments.push(format!("--filename={file_name}"));
    }
    arguments.extend([
        format!("--offset={}", task.span_offset_bytes),
        format!("--size={}", task.span_bytes),
        format!("--rw={pattern}"),
        format!("--bs={operation_bytes}"),
        format!("--numjobs={jobs}"),
        format!("--iodepth={depth}"),
        format!("--iodepth_batch_submit={depth}"),
        format!("--iodepth_batch_complete_max={depth}"),
        // fio reads a signed number.
        format!("--randseed={}", task.seed >> 1),
        format!("--ramp_time={}us", task.warmup_ns / 1_000),
        format!("--runtime={}us", task.measure_ns / 1_000),
    ]);
    if workload.reads() && workload.writes() {
        arguments.push(format!("--rwmixread={}", part.read_percent));
    }
    // fio keeps the flush's latency only together with the completion latency.
    let durability: &[&str] = match workload.durability() {
        Durability::None => &["--disable_slat=1", "--disable_clat=1"],
        Durability::DurableWrite => &["--disable_slat=1", "--disable_clat=1", "--sync=dsync"],
        // Its NBD engine has one kind of flush.
        Durability::WriteThenFlush if is_export(task) => &["--fsync=1"],
        Durability::WriteThenFlush => &["--fdatasync=1"],
    };
    arguments.extend(durability.iter().map(|option| (*option).to_owned()));
    arguments
}

fn report_error(message: impl Into<String>) -> FioError {
    FioError::Report { message: message.into() }
}

/// The number at a path such as `/read/runtime`.
fn number(value: &Value, pointer: &str) -> Result<f64, FioError> {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .ok_or_else(|| report_error(format!("no number at {pointer}")))
}

fn outcome(stdout: &str, workload: &Workload) -> Result<ArmOutcome, FioError> {
    // Notes and warnings come before the object, which starts at the start of a line.
    let start = if stdout.starts_with('{') { Some(0) } else { stdout.find("\n{").map(|before| before + 1) };
    let start = start.ok_or_else(|| report_error("no JSON object in its output"))?;
    let report = serde_json::Deserializer::from_str(&stdout[start..])
        .into_iter::<Value>()
        .next()
        .and_then(Result::ok)
        .ok_or_else(|| report_error("its JSON does not parse"))?;
    let jobs = report.pointer("/jobs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let [job] = jobs else {
        return Err(report_error(format!("{} groups of jobs instead of 1", jobs.len())));
    };
    let error = number(job, "/error")?;
    if error != 0.0 {
        return Err(report_error(format!("error {error} ({})", io::Error::from_raw_os_error(error as i32))));
    }
    let read = figures(job, "read", true)?;
    let write = figures(job, "write", workload.durability() != Durability::WriteThenFlush)?;
    let flush_latency_ns = histogram(job, "/sync/lat_ns")?;
    let flush =
        OperationFigures { operations: flush_latency_ns.len(), bytes: 0, latency_ns: flush_latency_ns };
    let elapsed_ms = number(job, "/read/runtime")?.max(number(job, "/write/runtime")?);
    // `job_runtime` is the sum over the jobs of the group, and the shares are of that sum.
    let job_runtime_ns = number(job, "/job_runtime")? * 1e6;
    let cpu_ns = |percent: f64| Some((percent / 100.0 * job_runtime_ns) as u64);
    let version = report.pointer("/fio version").and_then(Value::as_str).unwrap_or("fio");
    let seen = if workload.durability() == Durability::WriteThenFlush {
        "one thread a writer"
    } else {
        "one thread"
    };
    Ok(ArmOutcome {
        replayed: None,
        rounds: None,
        clock: None,
        read,
        write,
        flush,
        elapsed_ns: (elapsed_ms * 1e6) as u64,
        cpu_user_ns: cpu_ns(number(job, "/usr_cpu")?),
        cpu_system_ns: cpu_ns(number(job, "/sys_cpu")?),
        allocations: None,
        seconds: Vec::new(),
        bands: Vec::new(),
        io_path: format!("{version}, io_uring, O_DIRECT, registered buffers, registered file, {seen}"),
        written: None,
        log: None,
        bare: Vec::new(),
        generations: Generations::default(),
        open: None,
    })
}

fn figures(job: &Value, direction: &str, latency_measured: bool) -> Result<OperationFigures, FioError> {
    let operations = number(job, &format!("/{direction}/total_ios"))? as u64;
    let latency_ns = if latency_measured {
        let latency_ns = histogram(job, &format!("/{direction}/lat_ns"))?;
        if operations > 0 && latency_ns.is_empty() {
            return Err(report_error(format!("no latency bins for {direction}; fio 3 or later is needed")));
        }
        latency_ns
    } else {
        latency_histogram()
    };
    Ok(OperationFigures {
        operations,
        bytes: number(job, &format!("/{direction}/io_bytes"))? as u64,
        latency_ns,
    })
}

/// Rebuilds a histogram from `bins`: nanoseconds (the middle of a bin) to count. Absent bins are an empty one.
fn histogram(job: &Value, pointer: &str) -> Result<Histogram<u64>, FioError> {
    let mut histogram = latency_histogram();
    let bins = job.pointer(pointer).and_then(|latency| latency.get("bins")).and_then(Value::as_object);
    for (nanoseconds, count) in bins.into_iter().flatten() {
        let bin = nanoseconds.parse::<u64>().ok().zip(count.as_u64());
        let (nanoseconds, count) =
            bin.ok_or_else(|| report_error(format!("a bin of {pointer} is {nanoseconds}: {count}")))?;
        histogram.saturating_record_n(nanoseconds, count);
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests;
