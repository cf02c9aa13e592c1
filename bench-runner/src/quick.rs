//! `quick`: what this disk does bare and through the engine, in three minutes, on a scratch file.
//!
//! The file is written in full before anything is measured: a preallocated, unwritten one would measure how the
//! file system converts extents. Writing it, reading a part back and flushing a few times tell how fast the disk is,
//! and from that follow the span, the measured time and how many of the workloads fit.

use std::path::Path;
use std::time::{Duration, Instant};

use icecore::device::sys;
use icecore::store::Backend;
use icecore_workloads::{Stamper, Workload};

use crate::arms::Arm;
use crate::arms::target::{Bare, Target};
use crate::bench::Bench;
use crate::cli::QuickOptions;
use crate::failure::Failure;
use crate::method::Method;
use crate::results::{Dropped, Manifest};
use crate::scratch::Scratch;
use crate::session::{self, Session};
use crate::suite::{Cell, SuitePlan, time_text};
use crate::{content, plan, resume};

const MIB: u64 = 1 << 20;
/// Durable writes to see what a flush costs.
const CALIBRATION_FLUSHES: u32 = 8;
/// For the runner's own cost, the pooling and the report.
const RESERVE: Duration = Duration::from_secs(14);
/// Blocks: the fewest whose range comes near a 95 % interval.
const REPEATS: u32 = 5;
/// Blocks on a disk so slow that one workload would not fit otherwise.
const REPEATS_SLOW: u32 = 3;
const MEASURE_MAX: Duration = Duration::from_secs(2);
/// Flushes that formatting, filling, opening and closing make for one arm, rounded up.
const FLUSHES_AN_ARM: u32 = 16;
/// What an arm takes beside all that.
const OVERHEAD: Duration = Duration::from_millis(60);

/// How much there is to it.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The scratch file.
    pub scratch_bytes: u64,
    /// What of it is read back to see how fast the disk reads.
    pub calibration_bytes: u64,
    /// The shortest span.
    pub span_bytes_min: u64,
    /// It is as large as filling and comparing it in this time allows.
    pub priming_max: Duration,
    /// All of it is to fit into this.
    pub budget: Duration,
    /// Warm-up of an arm.
    pub warmup: Duration,
    /// The shortest measured time of an arm.
    pub measure_min: Duration,
}

/// What the command does.
pub const WHOLE: Extent = Extent {
    scratch_bytes: 1 << 30,
    calibration_bytes: 256 * MIB,
    span_bytes_min: 64 * MIB,
    priming_max: Duration::from_millis(200),
    budget: Duration::from_secs(180),
    warmup: Duration::from_millis(100),
    measure_min: Duration::from_millis(300),
};

/// What is set beside each other: two ways of driving the bare device, and every backend there is.
fn arms() -> Vec<Arm> {
    [Arm::Ring, Arm::Raw].into_iter().chain(Backend::ALL.map(Arm::Engine)).collect()
}

/// Workloads and depths, the most telling first: what does not fit is dropped from the end.
const CELLS: [(&str, u32); 10] = [
    ("randread-4k", 32),
    ("randwrite-4k", 32),
    ("durable-4k", 1),
    ("seqread-1m", 32),
    ("seqwrite-1m", 32),
    ("randread-4k", 1),
    ("randwrite-4k", 1),
    ("durable-4k", 32),
    ("seqread-1m", 1),
    ("seqwrite-1m", 1),
];

/// Measures on a scratch file and leaves a run folder, or goes on with the run that is in it.
///
/// # Errors
/// The file system has no direct I/O or keeps nothing, the disk is full, or the results cannot be written; of a run that is gone on
/// with, what would not be the same.
pub fn run(options: &QuickOptions, extent: &Extent, out: &Path) -> Result<Session, Failure> {
    let started = Instant::now();
    let before = options.resume.as_deref().map(resume::unfinished).transpose()?;
    let file = before.as_ref().map(|before| Path::new(&before.device.path));
    let folder = options.scratch.as_deref().or(file.and_then(Path::parent)).unwrap_or(Path::new("."));
    refuse_memory(folder)?;
    let scratch = match file.and_then(Path::file_name) {
        // Under the name of the one before, since rows of one folder are of one device.
        Some(name) => Scratch::again(&folder.join(name), extent.scratch_bytes)?,
        None => Scratch::create(folder, extent.scratch_bytes)?,
    };
    let depth_max = CELLS.iter().map(|(_, depth)| *depth).max().unwrap_or(1);
    let bench = Bench::claim_own(scratch.path(), depth_max)?;
    let seed = before.as_ref().map_or_else(plan::random_seed, |before| before.seed);
    eprintln!("writing {} bytes to {}", extent.scratch_bytes, scratch.path().display());
    let speed = calibrate(&bench, extent, seed).map_err(|failure| name_folder(failure, folder, extent))?;
    let span = bench.data_span(&arms())?;
    let fitted = match &before {
        Some(before) => fitted_before(before),
        None => fit(&speed, extent, extent.budget.saturating_sub(started.elapsed() + RESERVE), span.bytes),
    };
    let dropped: Vec<Dropped> = fitted.dropped.iter().cloned().chain(beside()).collect();
    for dropped in &dropped {
        eprintln!("left out: {}: {}", dropped.what, dropped.why);
    }
    let cells: Result<Vec<_>, Failure> = fitted
        .cells
        .iter()
        .map(|(name, depth)| Ok(Cell::closed(Workload::from_name(name)?, *depth)))
        .collect();
    let plan = SuitePlan {
        trace: None,
        arms: arms(),
        cells: cells?,
        repeats: fitted.repeats,
        warmup_ns: extent.warmup.as_nanos() as u64,
        measure_ns: fitted.measure.as_nanos() as u64,
        seed,
        span_offset_bytes: span.offset_bytes,
        span_bytes: fitted.span_bytes,
        references: false,
        slo_ns: None,
        method: Method::default(),
    };
    let duration = fitted.duration.map_or(String::new(), |time| format!("; about {}", time_text(time)));
    eprintln!(
        "{} workloads and depths, {} blocks of {} arms, {} ms each on a span of {} MiB, seed {seed}{duration}",
        plan.cells.len(),
        plan.repeats,
        plan.arms.len(),
        fitted.measure.as_millis(),
        plan.span_bytes / MIB,
    );
    if before.is_some() {
        return session::resume(&bench, &plan, out, &mut |_, _| {});
    }
    session::run(&bench, &plan, out, dropped, &mut |_, _| {})
}

/// What the method of `run` has that takes longer than there is time for.
fn beside() -> [Dropped; 2] {
    let of = |what: &str, option: &str| Dropped {
        what: what.to_owned(),
        why: format!("takes longer than three minutes; `run {option}` has it"),
    };
    [
        of("purge and preconditioning of the disk", "--precondition"),
        of("waiting for steady state", "--until-steady"),
    ]
}

/// What is kept in memory shows nothing of a disk, and durability least of all.
fn refuse_memory(folder: &Path) -> Result<(), Failure> {
    let folder_name = folder.display();
    if !folder.is_dir() {
        return Err(Failure::environment(format!(
            "{folder_name} is not a folder: pass --scratch with one that is"
        )));
    }
    let name = sys::filesystem_name(folder);
    if ["tmpfs", "ramfs"].contains(&name.as_str()) {
        return Err(Failure::environment(format!(
            "{folder_name} is on {name}, which keeps files in memory: pass --scratch with a folder on a disk"
        )));
    }
    Ok(())
}

fn name_folder(failure: Failure, folder: &Path, extent: &Extent) -> Failure {
    let (folder, bytes) = (folder.display(), extent.scratch_bytes);
    let message = format!("{}; the scratch file in {folder} needs {bytes} bytes", failure.message);
    Failure { message, ..failure }
}

/// How fast a disk is.
#[derive(Clone, Copy, Debug)]
struct Speed {
    write_bytes_per_s: f64,
    read_bytes_per_s: f64,
    flush: Duration,
}

fn calibrate(bench: &Bench, extent: &Extent, seed: u64) -> Result<Speed, Failure> {
    let bare = Bare::new(bench.device(), 0);
    let begun = Instant::now();
    content::fill(bench.runtime(), &bare, extent.scratch_bytes, Stamper::new(seed))?;
    let writing = begun.elapsed();
    let begun = Instant::now();
    let read_bytes = extent.calibration_bytes;
    if let Err(wrong) = content::compare(bench.runtime(), &bare, read_bytes, Stamper::new(seed), &[])? {
        let path = bench.path().display();
        return Err(Failure::environment(format!("{path} does not hold what was written: {wrong}")));
    }
    let reading = begun.elapsed();
    let begun = Instant::now();
    bench.runtime().block_on(async {
        let mut buf = bench.runtime().context().buffers().zeroed(4096)?;
        for _ in 0..CALIBRATION_FLUSHES {
            let (written, back) = bare.write(0, buf, true).await;
            written?;
            buf = back;
        }
        Ok::<(), icecore::error::Error>(())
    })?;
    Ok(Speed {
        write_bytes_per_s: extent.scratch_bytes as f64 / writing.as_secs_f64(),
        read_bytes_per_s: read_bytes as f64 / reading.as_secs_f64(),
        flush: begun.elapsed() / CALIBRATION_FLUSHES,
    })
}

/// What fits into the time there is.
#[derive(Debug)]
struct Fitted {
    cells: Vec<(&'static str, u32)>,
    repeats: u32,
    measure: Duration,
    span_bytes: u64,
    /// `None` where a part of it is there.
    duration: Option<Duration>,
    /// What was not told before.
    dropped: Vec<Dropped>,
}

/// What had fitted when the run began.
fn fitted_before(before: &Manifest) -> Fitted {
    let is_dropped =
        |cell: &&(&str, u32)| before.dropped.iter().any(|dropped| dropped.what == cell_text(**cell));
    Fitted {
        cells: CELLS.iter().filter(|cell| !is_dropped(cell)).copied().collect(),
        repeats: before.plan.repeats,
        measure: Duration::from_nanos(before.plan.measure_ns),
        span_bytes: before.plan.span_bytes,
        duration: None,
        dropped: Vec::new(),
    }
}

fn cell_text((name, depth): (&str, u32)) -> String {
    format!("{name} at depth {depth}")
}

fn fit(speed: &Speed, extent: &Extent, budget: Duration, data_bytes: u64) -> Fitted {
    let arms = arms().len() as u32;
    let priming = |span_bytes: u64| {
        let bytes = span_bytes as f64;
        Duration::from_secs_f64(bytes / speed.write_bytes_per_s + bytes / speed.read_bytes_per_s)
    };
    let mut span_bytes = extent.span_bytes_min;
    while 2 * span_bytes <= data_bytes && priming(2 * span_bytes) <= extent.priming_max {
        span_bytes *= 2;
    }
    let beside = extent.warmup + priming(span_bytes) + speed.flush * FLUSHES_AN_ARM + OVERHEAD;
    let cells_that_fit = |repeats: u32| {
        let cell = (beside + extent.measure_min) * arms * repeats;
        ((budget.as_secs_f64() / cell.as_secs_f64()) as usize).min(CELLS.len())
    };
    let repeats = if cells_that_fit(REPEATS) > 0 { REPEATS } else { REPEATS_SLOW };
    let count = cells_that_fit(repeats).max(1);
    let runs = count as u32 * arms * repeats;
    let measure = (budget / runs).saturating_sub(beside).clamp(extent.measure_min, MEASURE_MAX);
    // To whole hundredths of a second, so that the figure reads well.
    let measure = Duration::from_millis(measure.as_millis() as u64 / 10 * 10);
    let mut dropped: Vec<Dropped> = CELLS[count..]
        .iter()
        .map(|cell| Dropped {
            what: cell_text(*cell),
            why: "does not fit into three minutes on this disk".to_owned(),
        })
        .collect();
    if repeats < REPEATS {
        dropped.push(Dropped {
            what: format!("{} of {REPEATS} blocks", REPEATS - repeats),
            why: "the disk is too slow for more in three minutes".to_owned(),
        });
    }
    if span_bytes < data_bytes - data_bytes % MIB {
        dropped.push(Dropped {
            what: format!("all but the first {} MiB of the scratch file's data area", span_bytes / MIB),
            why: "each arm fills and compares its whole span".to_owned(),
        });
    }
    Fitted {
        cells: CELLS[..count].to_vec(),
        repeats,
        measure,
        span_bytes,
        duration: Some((beside + measure) * runs),
        dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA_BYTES: u64 = 1000 * MIB;
    const MINUTES: Duration = Duration::from_secs(160);

    fn speed(megabytes_per_s: f64, flush_us: u64) -> Speed {
        Speed {
            write_bytes_per_s: megabytes_per_s * 1e6,
            read_bytes_per_s: megabytes_per_s * 1.2e6,
            flush: Duration::from_micros(flush_us),
        }
    }

    #[test]
    fn a_fast_disk_gets_most_workloads_and_a_long_span() {
        let fitted = fit(&speed(4_000.0, 100), &WHOLE, MINUTES, DATA_BYTES);
        assert_eq!((fitted.repeats, fitted.span_bytes), (5, 256 * MIB));
        // How many depends on how many backends there are.
        assert!(fitted.cells.len() >= CELLS.len() / 2, "{fitted:?}");
        assert!(fitted.measure >= WHOLE.measure_min && fitted.duration <= Some(MINUTES), "{fitted:?}");
        assert_eq!(fitted.cells.len() + fitted.dropped.len(), CELLS.len() + 1, "{:?}", fitted.dropped);
    }

    #[test]
    fn a_slow_disk_drops_workloads_and_says_which() {
        let fitted = fit(&speed(150.0, 8_000), &WHOLE, MINUTES, DATA_BYTES);
        assert!(fitted.cells.len() < CELLS.len() && !fitted.cells.is_empty());
        assert_eq!(fitted.cells.len() + fitted.dropped.len(), CELLS.len() + 1);
        assert!(fitted.duration <= Some(MINUTES), "{fitted:?}");
    }

    #[test]
    fn even_the_slowest_disk_measures_something() {
        let fitted = fit(&speed(5.0, 50_000), &WHOLE, Duration::from_secs(20), DATA_BYTES);
        assert_eq!((fitted.cells.len(), fitted.repeats), (1, REPEATS_SLOW));
    }
}
