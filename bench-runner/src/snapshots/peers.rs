//! `peers`: snapshots beside other systems, on the same device.
//!
//! In each block every arm of a suite has the whole device to itself once, in random order: ours claim it and let it go, a peer's
//! program makes what it needs on it and takes it away. Ratios are of ours to a peer in the same block. A peer behind NBD pays for a server's
//! hop, which ours do not: so a peer is also held against its own kind of raw, the same server without snapshots, and that ratio against ours of
//! the bare device. Peers that need a kernel of their own come last, all in one guest, beside ours there.
//!
//! Invariants: the device is held, or lent to one peer; a peer is taken away before anybody else has it, also after an error or a signal.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::beside::{Beside, SUITES};
use super::guest::{self, Guest};
use super::ratios::{self, TABLE_FILE};
use super::*;
use icecore::device::identity::confirm_destroy;

use crate::cli::{OverwriteOptions, PeerOptions};
use crate::failure::EXIT_REFUSED;

/// The span if none is given: every arm fills and compares it several times.
const SPAN_BYTES: u64 = 256 << 20;
/// The peers that are there, as `scripts/peers/setup` lists them.
const PEERS: [&str; 9] = [
    "raw-qemu-nbd",
    "qcow2-internal",
    "qcow2-overlay",
    "qcow2-overlay-extl2",
    "qcow2-overlay-writeback",
    "raw-nbdkit",
    "nbdkit-cow",
    "xfs-reflink",
    "btrfs-reflink",
];

/// What letting go of a device may take.
const LET_GO: Duration = Duration::from_secs(5);

/// Runs the suites and leaves a run folder with its report; gives the table of ratios too.
///
/// # Errors
/// Refusals of the device or folder, before anything is written. What stops it later is told in the [`Session`].
pub fn run(options: &PeerOptions, out: &Path, after_arm: AfterArm) -> Result<(Session, String), Failure> {
    let mut dropped = Vec::new();
    let lists = (&options.backend[..], &options.snapshots[..]);
    let mut plan = SnapshotPlan::of(lists, &options.load, (options.warmup, options.seconds), options.span)?;
    let suites = suites(&options.suite)?;
    let path = options.device.as_deref().unwrap_or(Path::new(""));
    let OverwriteOptions { destroy, force } = &options.overwrite;
    if options.resume.is_some() {
        // What a peer had made when the run was killed has the device still.
        confirm_destroy(&Identity::of(path)?, destroy.as_deref())?;
        for peer in found(options, path, &mut Vec::new())?.0 {
            peer.remove()?;
        }
    }
    let bench = Bench::claim(path, destroy.as_deref(), plan.queue_depth, *force)?;
    let (peers, mut guest) = found(options, path, &mut dropped)?;
    plan.peers = peers;
    let is_given = plan.span_bytes > 0;
    plan.on(path, bench.identity().size_bytes)?;
    if !is_given {
        plan.span_bytes = plan.span_bytes.min(SPAN_BYTES);
    }
    let mut manifest = manifest(&bench, &plan, Vec::new());
    manifest.plan.workloads = suites.iter().map(|suite| suite.0.to_owned()).collect();
    match &options.resume {
        None => RunFolder::check_empty(out)?,
        Some(_) => resume::check(out, &manifest)?,
    }
    let mut ours = vec![Who::Raw];
    for kept in &plan.backends {
        let can = Abilities::of(&bench, *kept, plan.span_bytes)?;
        match can.take.and(can.image) {
            Ok(()) => ours.push(Who::Engine(*kept)),
            Err(why) => dropped.push(Dropped { what: kept.name().to_owned(), why }),
        }
    }
    if !guest.peers.is_empty()
        && let Err(why) = guest.check(&plan)
    {
        dropped.push(Dropped { what: guest.what(), why });
        guest.peers.clear();
    }
    let arms: Vec<Who> = ours.into_iter().chain(plan.peers.iter().cloned().map(Who::Peer)).collect();
    for one in &dropped {
        eprintln!("left out: {}: {}", one.what, one.why);
    }
    eprintln!(
        "{}: {} blocks of {} suites on {} arms, span of {} bytes, seed {}",
        path.display(),
        plan.repeats,
        suites.len(),
        arms.len(),
        plan.span_bytes,
        plan.seed
    );
    let (mut folder, there) = match &options.resume {
        None => (RunFolder::create(out, Manifest { dropped, ..manifest })?, Vec::new()),
        Some(_) => RunFolder::resume(out, stays)?,
    };
    precondition(&bench, &plan)?;
    drop(bench);
    let names: Vec<&str> = suites.iter().map(|suite| suite.0).collect();
    let work: Vec<Work> = suites.into_iter().map(|suite| work(suite, &arms)).collect();
    let mut end = in_turns(&plan, &work, (&mut folder, &there), after_arm, &mut |who, turn| {
        let bench = match who {
            Who::Peer(_) => soon(|| is_free(path)).and_then(|()| Bench::lent_out(path, plan.queue_depth)),
            // What a peer has left there was made by us.
            _ => soon(|| Bench::claim(path, destroy.as_deref(), plan.queue_depth, true)),
        };
        match bench {
            Ok(bench) => turn(&bench),
            Err(failure) => Ok(Some(failure)),
        }
    })?;
    let mut of_guest = Vec::new();
    if !guest.peers.is_empty() && end.stopped.is_none() {
        match guest.measure(&plan, &names, out) {
            Ok(measured) => {
                of_guest = measured.lines;
                end.stopped = measured.stopped;
                end.invalid.extend(measured.invalid);
                folder.change_manifest(|manifest| {
                    // A run that is gone on with may have told them.
                    let new = measured.dropped.into_iter();
                    let new: Vec<Dropped> = new.filter(|one| !manifest.dropped.contains(one)).collect();
                    manifest.dropped.extend(new);
                })?;
            }
            Err(failure) if failure.exit_code == EXIT_INTERRUPTED => end.stopped = Some(failure),
            // The device's own rows stand without it.
            Err(Failure { message: why, .. }) => {
                end.invalid.push(format!("{}: {why}", guest.what()));
                folder.append_event("failed", &why)?;
                folder
                    .change_manifest(|manifest| manifest.dropped.push(Dropped { what: guest.what(), why }))?;
            }
        }
    }
    let session = Session::end(folder, end)?;
    let mut lines = ratios::table(&session.data.runs, &arms, plan.seed);
    lines.extend(of_guest);
    ratios::write_csv(&out.join(TABLE_FILE), &lines)?;
    let is_file = Identity::of(path)?.device_number.is_none();
    let unsteady = session.data.runs.iter().filter(|run| run.valid && run.steady == Some(false)).count();
    let text = ratios::shown(&lines, unsteady, is_file);
    Ok((session, text))
}

/// What is done with a device that has just been let go, for which the system may take a moment: a ring closes its files in the background.
fn soon<T>(attempt: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(failure) if failure.exit_code == EXIT_REFUSED && since.elapsed() < LET_GO => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Whether nobody has the device to himself.
fn is_free(path: &Path) -> Result<(), Failure> {
    let opened = File::options().read(true).custom_flags(libc::O_EXCL).open(path);
    opened.map(drop).map_err(|error| {
        let what = format!("open {}: {error}", path.display());
        if error.raw_os_error() == Some(libc::EBUSY) {
            Failure::refused(what)
        } else {
            Failure::environment(what)
        }
    })
}

fn suites(names: &[String]) -> Result<Vec<Beside>, Failure> {
    let one = |name: &String| {
        SUITES.into_iter().find(|suite| suite.0 == name).ok_or_else(|| {
            let names = SUITES.map(|suite| suite.0).join(", ");
            Failure::usage(format!("unknown suite {name:?}; there are: {names}"))
        })
    };
    names.iter().map(one).collect()
}

/// A suite with these arms, and fio beside them in `quick`, where it is there.
fn work((name, suite): Beside, arms: &[Who]) -> Work {
    let fio = (name == "quick" && fio_is_here()).then_some(Who::Fio);
    let run = move |stage: &Stage| {
        let ended = suite(stage);
        let removed = match &stage.arm {
            Who::Peer(peer) => peer.remove(),
            _ => Ok(()),
        };
        ended.and(removed).map(|()| Vec::new())
    };
    let arms = arms.iter().cloned().chain(fio).collect();
    Work { name, arms, leaves_out_raw: false, run: Box::new(run) }
}

/// The peers that can run here, with those that they are held against, and those that need a guest. What is missing for the others is told.
fn found(
    options: &PeerOptions,
    path: &Path,
    dropped: &mut Vec<Dropped>,
) -> Result<(Vec<Rc<Peer>>, Guest), Failure> {
    let scripts = options.scripts.clone().unwrap_or_else(|| {
        let of_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/peers");
        if of_checkout.is_dir() { of_checkout } else { PathBuf::from("scripts/peers") }
    });
    let device = path.canonicalize();
    let device = device.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut guest = Guest::of(&scripts.join("../lab"));
    let mut names: Vec<String> = options.peers.clone();
    if names.is_empty() {
        let of_guest = guest::PEERS.into_iter().filter(|name| guest.knows(name));
        names = PEERS.into_iter().chain(of_guest).map(str::to_owned).collect();
    }
    let mut peers: Vec<Rc<Peer>> = Vec::new();
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        at += 1;
        if peers.iter().any(|peer| peer.name == name) || guest.peers.contains(&name) {
            continue;
        }
        let program = scripts.join(&name);
        if guest.knows(&name) && !program.exists() {
            guest.peers.push(name);
            continue;
        }
        match Peer::of(&program)?.lent(&device) {
            Ok(peer) => {
                names.extend(peer.description.reference.clone());
                peers.push(Rc::new(peer));
            }
            Err(failure) if failure.exit_code == EXIT_INTERRUPTED => return Err(failure),
            Err(failure) => dropped.push(Dropped { what: name, why: failure.message }),
        }
    }
    Ok((peers, guest))
}

fn fio_is_here() -> bool {
    let found = std::process::Command::new("fio").arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}
