//! `recovery`: how long a volume takes to be there again after its process was killed.
//!
//! For each volume size, checkpoint interval, depth and length of the log's tail, a volume is made, a process of its
//! own (`victim`) writes to it and is killed with SIGKILL while it writes, and this process opens it again and times
//! that. The killed process kept its unflushed writes in its memory, so that the kill is a power cut for the volume.
//!
//! Invariants: what the killed process had told to be durable is read back and compared, every time; a recovery that
//! lost something does not count. All I/O is direct: no cache of the system can make an open look fast.

#[cfg(feature = "sim")]
mod simulated;
mod victim;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use icecore::device::{Access, Caching, Device};
use icecore::error::{Error, Reason};
use icecore::runtime::{Context, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Initialise, OpenMode, Volume, VolumeInfo};
use icecore_workloads::{STAMP_BLOCK_BYTES, Stamper};

pub use self::victim::run as be_victim;
use crate::bench::{self, Bench};
use crate::cli::RecoveryOptions;
use crate::failure::Failure;
use crate::results::{DeviceFacts, Manifest, Plan, RecoveryRow, RunData, RunFolder};
use crate::session::Session;
use crate::suite::SuiteEnd;
use crate::{environment, interrupt, plan, resume};

/// What was told to be durable: the last such generation of each block.
pub type Acknowledged = BTreeMap<u64, u32>;

/// Called between the kill and the next open with the device's path and what must have survived: the place for a test
/// to damage either.
pub type AfterKill<'a> = &'a mut dyn FnMut(&Path, &mut Acknowledged);

/// One kill.
#[derive(Clone, Copy, Debug)]
struct Case {
    volume_bytes: Option<u64>,
    checkpoint_bytes: Option<u64>,
    queue_depth: u32,
    tail_percent: u32,
    seed: u64,
}

/// Kills, opens and times as the options say; `program` is the bench-runner to start as the victim. Leaves a run
/// folder with its report.
///
/// # Errors
/// Refusals of the device or folder, before anything is written. What stops it later is told in the [`Session`].
pub fn run(
    options: &RecoveryOptions,
    program: &Path,
    out: &Path,
    after_kill: AfterKill,
) -> Result<Session, Failure> {
    let seed = options.seed.unwrap_or_else(plan::random_seed);
    let cases = cases(options, seed);
    let depth = options.queue_depth.iter().copied().max().unwrap_or(1);
    let Some(path) = &options.device else { return simulated(&cases, options, seed, out, after_kill) };
    if options.resume.is_some() {
        wait_for_victim(path)?;
    }
    let bench = match options.create {
        Some(bytes) if !path.exists() => {
            check_fit(&cases, bytes)?;
            Bench::create(path, bytes, depth)?
        }
        _ => {
            let bench =
                Bench::claim(path, options.overwrite.destroy.as_deref(), depth, options.overwrite.force)?;
            check_fit(&cases, bench.identity().size_bytes)?;
            bench
        }
    };
    let facts = environment::device_facts(bench.path(), bench.identity(), bench.device().geometry());
    let path = bench.path().to_owned();
    let folder = begin(options, (&cases, seed), out, facts)?;
    drop(bench);
    run_all(&cases, folder, |case| one(&path, case, program, after_kill))
}

/// A victim whose runner was killed ends with the next word that nobody hears, and has the device until then.
fn wait_for_victim(path: &Path) -> Result<(), Failure> {
    let runtime = bench::runtime(1)?;
    // What is wrong with it is told when it is claimed.
    let _opened = patiently(|| Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct));
    Ok(())
}

/// The folder, and the recoveries that are there.
fn begin(
    options: &RecoveryOptions,
    (cases, seed): (&[Case], u64),
    out: &Path,
    device: DeviceFacts,
) -> Result<(RunFolder, Vec<RecoveryRow>), Failure> {
    eprintln!("{}: {} kills, seed {seed}", device.path, cases.len());
    let manifest = manifest(device, options, cases, seed);
    if options.resume.is_none() {
        return Ok((RunFolder::create(out, manifest)?, Vec::new()));
    }
    resume::check(out, &manifest)?;
    let (folder, _no_arms) = RunFolder::resume(out, |_, _| true)?;
    Ok((folder, RunData::read(out)?.recovery))
}

#[cfg(feature = "sim")]
fn simulated(
    cases: &[Case],
    options: &RecoveryOptions,
    seed: u64,
    out: &Path,
    after_kill: AfterKill,
) -> Result<Session, Failure> {
    let size_bytes = options.create.unwrap_or_default();
    check_fit(cases, size_bytes)?;
    let name = || "simulated disk".to_owned();
    let device = DeviceFacts { path: name(), kind: name(), size_bytes, ..DeviceFacts::default() };
    let folder = begin(options, (cases, seed), out, device)?;
    run_all(cases, folder, |case| simulated::one(case, size_bytes, after_kill))
}

#[cfg(not(feature = "sim"))]
fn simulated(_: &[Case], _: &RecoveryOptions, _: u64, _: &Path, _: AfterKill) -> Result<Session, Failure> {
    Err(Failure::usage("this build has no simulator: build it with --features sim"))
}

/// Every case, one after another, and the report of them; those that are there are passed over.
fn run_all(
    cases: &[Case],
    (mut folder, there): (RunFolder, Vec<RecoveryRow>),
    mut run_one: impl FnMut(&Case) -> Result<RecoveryRow, Failure>,
) -> Result<Session, Failure> {
    let mut stopped = None;
    let mut invalid = Vec::new();
    for (number, case) in (1..).zip(cases) {
        if let Some(row) = there.iter().find(|row| row.run == number) {
            case.check(row)?;
            invalid.extend((!row.valid).then(|| row.invalid_reason.clone()));
            continue;
        }
        match run_one(case) {
            Ok(row) => {
                tell(number, cases.len(), &row);
                invalid.extend((!row.valid).then(|| row.invalid_reason.clone()));
                folder.append_recovery(&RecoveryRow { run: number, ..row })?;
            }
            Err(failure) => {
                folder.append_event("failed", &failure.message)?;
                stopped = Some(failure);
            }
        }
        if interrupt::requested() {
            stopped = Some(Failure::interrupted());
        }
        if stopped.is_some() {
            break;
        }
    }
    Session::end(folder, SuiteEnd { invalid, stopped })
}

fn cases(options: &RecoveryOptions, seed: u64) -> Vec<Case> {
    let some = |list: &[u64]| match list {
        [] => vec![None],
        list => list.iter().copied().map(Some).collect(),
    };
    let mut cases = Vec::new();
    for repeat in 0..options.repeats {
        for volume_bytes in some(&options.size) {
            for checkpoint_bytes in some(&options.checkpoint) {
                for queue_depth in options.queue_depth.iter().copied() {
                    for tail_percent in options.tail.iter().copied() {
                        let seed = seed.wrapping_add(u64::from(repeat));
                        cases.push(Case { volume_bytes, checkpoint_bytes, queue_depth, tail_percent, seed });
                    }
                }
            }
        }
    }
    cases
}

fn create_options(case: &Case) -> CreateOptions {
    CreateOptions {
        size_bytes: case.volume_bytes,
        checkpoint_bytes: case.checkpoint_bytes,
        initialise: Initialise::Keep,
        // Asked once, when the device was claimed.
        force: true,
        ..CreateOptions::new(Backend::Log)
    }
}

fn check_fit(cases: &[Case], device_bytes: u64) -> Result<(), Failure> {
    for case in cases {
        Volume::capacity(device_bytes, 512, &create_options(case))?;
    }
    Ok(())
}

/// Makes a volume, has it written and killed, and opens it again.
fn one(path: &Path, case: &Case, program: &Path, after_kill: AfterKill) -> Result<RecoveryRow, Failure> {
    let runtime = bench::runtime(case.queue_depth)?;
    let open = || Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct);
    let device = patiently(open)?;
    let info = runtime.block_on(Volume::create(&device, create_options(case)))?;
    let device_bytes = device.geometry().size_bytes;
    drop(device);
    let mut acknowledged = write_and_kill(path, case, case.kill_bytes(&info), program)?;
    after_kill(path, &mut acknowledged);
    let row = case.row("sigkill", device_bytes, &info);
    Ok(time_open(&runtime, open, &acknowledged, row))
}

impl Case {
    /// Bytes of log since the last checkpoint at which the kill comes.
    fn kill_bytes(&self, info: &VolumeInfo) -> u64 {
        info.log.map_or(0, |log| log.checkpoint_bytes) / 100 * u64::from(self.tail_percent)
    }

    /// Refuses a row that is of another kill.
    fn check(&self, row: &RecoveryRow) -> Result<(), Failure> {
        if (row.queue_depth, row.tail_percent, row.seed) == (self.queue_depth, self.tail_percent, self.seed) {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "recovery {} of recovery.csv has depth {}, tail {} % and seed {}, and by the plan {}, {} % and {}: the folder has been \
             changed, and cannot be gone on with",
            row.run,
            row.queue_depth,
            row.tail_percent,
            row.seed,
            self.queue_depth,
            self.tail_percent,
            self.seed
        )))
    }

    fn row(&self, cut: &str, device_bytes: u64, info: &VolumeInfo) -> RecoveryRow {
        RecoveryRow {
            cut: cut.to_string(),
            device_bytes,
            volume_bytes: info.size_bytes,
            checkpoint_bytes: info.log.map_or(0, |log| log.checkpoint_bytes),
            queue_depth: self.queue_depth,
            tail_percent: self.tail_percent,
            seed: self.seed,
            ..RecoveryRow::default()
        }
    }
}

/// Opens the volume under the clock of its runtime and judges what it holds.
fn time_open(
    runtime: &Runtime,
    open: impl Fn() -> Result<Device, Error>,
    acknowledged: &Acknowledged,
    mut row: RecoveryRow,
) -> RecoveryRow {
    row.acknowledged = acknowledged.len() as u64;
    match runtime.block_on(open_and_compare(runtime.context(), open, acknowledged, &mut row)) {
        Ok(()) if acknowledged.is_empty() => {
            row.invalid_reason = "nothing had been acknowledged as durable, so nothing was shown".to_string();
        }
        Ok(()) if row.lost == Some(0) => row.valid = true,
        Ok(()) => row.invalid_reason = "what was acknowledged as durable is not there".to_string(),
        // A volume that does not open is a result, and the worst one.
        Err(error) => row.invalid_reason = error.to_string(),
    }
    row
}

/// Starts the process that writes and kills it when it asks for it.
fn write_and_kill(
    path: &Path,
    case: &Case,
    kill_bytes: u64,
    program: &Path,
) -> Result<Acknowledged, Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("{}: {error}", program.display()));
    let mut child = Command::new(program)
        .args(["recovery-victim", "--device"])
        .arg(path)
        .args(["--seed", &case.seed.to_string(), "--queue-depth", &case.queue_depth.to_string()])
        .args(["--kill-bytes", &kill_bytes.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let listened = listen(&mut child);
    // Also where it ended by itself: then there is nobody to kill, and waiting tells so.
    let killed = child.kill();
    let status = child.wait().map_err(failed)?;
    let (acknowledged, asked) = listened.map_err(failed)?;
    killed.map_err(failed)?;
    if !asked {
        return Err(if interrupt::requested() {
            Failure::interrupted()
        } else {
            Failure::environment(format!("the writing process ended by itself: {status}"))
        });
    }
    Ok(acknowledged)
}

/// Takes note of what is durable, and kills when asked to. What the pipe still holds then was told before the kill.
fn listen(child: &mut Child) -> std::io::Result<(Acknowledged, bool)> {
    let Some(mut told) = child.stdout.take() else { return Ok((Acknowledged::new(), false)) };
    let (mut acknowledged, mut asked) = (Acknowledged::new(), false);
    let mut record = [0; victim::RECORD_BYTES];
    loop {
        match told.read_exact(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok((acknowledged, asked));
            }
            Err(error) => return Err(error),
        }
        let [b0, b1, b2, b3, b4, b5, b6, b7, g0, g1, g2, g3] = record;
        let block = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        if block == victim::KILL {
            asked = true;
            child.kill()?;
        } else {
            acknowledged.insert(block, u32::from_le_bytes([g0, g1, g2, g3]));
        }
    }
}

/// Opens the volume, noting the time since the beginning at each step, and compares what must be there.
async fn open_and_compare(
    context: &Context,
    open: impl Fn() -> Result<Device, Error>,
    acknowledged: &Acknowledged,
    row: &mut RecoveryRow,
) -> Result<(), Error> {
    let mut began = context.now().0;
    let device = patiently(|| {
        began = context.now().0;
        open()
    })?;
    let now = || Some(context.now().0 - began);
    let first = acknowledged.first_key_value().map_or(0, |(block, _)| *block);
    Volume::inspect(&device).await?;
    row.detected_ns = now();
    let volume = Volume::open(device, OpenMode::ReadWrite).await?;
    row.opened_ns = now();
    let mut buf = context.buffers().get(STAMP_BLOCK_BYTES)?;
    let (read, back) = volume.read(ByteOffset(first * STAMP_BLOCK_BYTES as u64), buf).await;
    read?;
    buf = back;
    row.first_read_ns = now();
    if let Some(recovery) = volume.status().log.map(|log| log.recovery) {
        (row.tail_batches, row.tail_entries) = (Some(recovery.batches), Some(recovery.entries));
        row.tail_bytes = Some(recovery.bytes);
        (row.load_ns, row.replay_ns) = (Some(recovery.load_ns), Some(recovery.replay_ns));
    }
    // An image is opened behind a checkpoint: everything that the log held is then in the index on the device.
    drop(volume.image(ImageOptions::default()).await?);
    row.applied_ns = now();
    let stamper = Stamper::new(row.seed);
    let mut lost = 0;
    for (block, generation) in acknowledged {
        let offset = block * STAMP_BLOCK_BYTES as u64;
        let (read, back) = volume.read(ByteOffset(offset), buf).await;
        read?;
        buf = back;
        // A later write may have become durable too; whichever it is, it must be whole.
        let &[.., g0, g1, g2, g3] = &buf[..20] else { unreachable!("a block is longer than its stamp") };
        let found = u32::from_le_bytes([g0, g1, g2, g3]);
        lost += u64::from(found < *generation || stamper.verify(&buf, offset, found).is_err());
    }
    row.lost = Some(lost);
    volume.close().await
}

/// Tries again for a moment: the kernel gives a killed process's device back some milliseconds after its end.
fn patiently<T>(mut open: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match open() {
            Err(error) if *error.reason() == Reason::AlreadyOpen => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    open()
}

fn tell(number: u64, cases: usize, row: &RecoveryRow) {
    let ms = |time: Option<u64>| time.map_or("-".to_string(), |ns| format!("{:.1} ms", ns as f64 / 1e6));
    let state = if row.valid { "all there" } else { &row.invalid_reason };
    eprintln!(
        "[{number}/{cases}] volume of {} bytes, depth {}, tail of {} bytes in {} batches: detected {}, opened {}, first \
         read {}, applied {}; {} acknowledged, {state}",
        row.volume_bytes,
        row.queue_depth,
        row.tail_bytes.unwrap_or(0),
        row.tail_batches.unwrap_or(0),
        ms(row.detected_ns),
        ms(row.opened_ns),
        ms(row.first_read_ns),
        ms(row.applied_ns),
        row.acknowledged,
    );
}

fn manifest(device: DeviceFacts, options: &RecoveryOptions, cases: &[Case], seed: u64) -> Manifest {
    Manifest {
        command_line: std::env::args().collect(),
        seed,
        device,
        environment: environment::environment_facts(),
        plan: Plan {
            arms: vec![Backend::Log.name().to_owned()],
            workloads: vec!["recovery".to_owned()],
            queue_depths: options.queue_depth.clone(),
            repeats: options.repeats,
            preconditioning: "a new volume before each kill".to_owned(),
            digest: Plan::digest_of(&cases),
            ..Plan::default()
        },
        ..Manifest::default()
    }
}

/// The program that is running, to be started again as the victim.
///
/// # Errors
/// What the system says.
pub fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::environment(format!("own program: {error}")))
}
