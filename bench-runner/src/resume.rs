//! `--resume DIR`: going on with a run that was cut short, so that it ends with the rows of one that was left alone.
//!
//! Its options are those of the command line in the manifest, and its seed; so every arm has the place and the seed that it would have had,
//! and those that are there are passed over. Leave to write to the device is given anew, as for any device with something on it.
//!
//! Invariant: rows of one folder are of one device, machine, build and plan. Where one of these has changed nothing is written.

use std::path::Path;

use clap::Parser;

use crate::cli::{
    Cli, Command, PeerOptions, QuickOptions, RecoveryOptions, ResultOptions, RunOptions, SnapshotLoadOptions,
    SnapshotOptions,
};
use crate::compare::differences;
use crate::failure::Failure;
use crate::results::{MANIFEST_FILE, Manifest, RunRow};

/// Facts that may change: where the device is found, and what a reboot changes.
const MAY_DIFFER: [&str; 2] = ["device.path", "environment.memory_bytes"];

/// The options of the run that is gone on with; those that are given, if none is.
///
/// # Errors
/// The folder holds no run of this command.
pub(crate) fn run_options(given: &RunOptions) -> Result<RunOptions, Failure> {
    let Some(folder) = &given.resume else { return Ok(given.clone()) };
    let (typed, seed) = match typed(folder)? {
        (Command::Run(typed), seed) => (typed, seed),
        (Command::Replay(typed), seed) => (typed.into_run(), seed),
        _ => return Err(other_command(folder, "run")),
    };
    Ok(RunOptions {
        resume: given.resume.clone(),
        device: given.device.clone().or(typed.device),
        destroy: given.destroy.clone(),
        force: given.force,
        create: None,
        seed: Some(seed),
        results: ResultOptions { out: given.resume.clone(), json: given.results.json },
        ..typed
    })
}

/// The same for `snapshots`.
///
/// # Errors
/// As [`run_options`].
pub(crate) fn snapshot_options(given: &SnapshotOptions) -> Result<SnapshotOptions, Failure> {
    let Some(folder) = &given.resume else { return Ok(given.clone()) };
    let (Command::Snapshots(typed), seed) = typed(folder)? else {
        return Err(other_command(folder, "snapshots"));
    };
    Ok(SnapshotOptions {
        resume: given.resume.clone(),
        device: given.device.clone().or(typed.device),
        overwrite: given.overwrite.clone(),
        create: None,
        load: SnapshotLoadOptions { seed: Some(seed), ..typed.load },
        results: ResultOptions { out: given.resume.clone(), json: given.results.json },
        ..typed
    })
}

/// The same for `peers`.
///
/// # Errors
/// As [`run_options`].
pub(crate) fn peer_options(given: &PeerOptions) -> Result<PeerOptions, Failure> {
    let Some(folder) = &given.resume else { return Ok(given.clone()) };
    let (Command::Peers(typed), seed) = typed(folder)? else { return Err(other_command(folder, "peers")) };
    Ok(PeerOptions {
        resume: given.resume.clone(),
        device: given.device.clone().or(typed.device),
        overwrite: given.overwrite.clone(),
        load: SnapshotLoadOptions { seed: Some(seed), ..typed.load },
        results: ResultOptions { out: given.resume.clone(), json: given.results.json },
        ..typed
    })
}

/// The same for `recovery`.
///
/// # Errors
/// As [`run_options`].
pub(crate) fn recovery_options(given: &RecoveryOptions) -> Result<RecoveryOptions, Failure> {
    let Some(folder) = &given.resume else { return Ok(given.clone()) };
    let (Command::Recovery(typed), seed) = typed(folder)? else {
        return Err(other_command(folder, "recovery"));
    };
    Ok(RecoveryOptions {
        resume: given.resume.clone(),
        device: given.device.clone().or(typed.device),
        overwrite: given.overwrite.clone(),
        // Of a simulated disk it is the size.
        create: typed.create.filter(|_| typed.simulated),
        seed: Some(seed),
        results: ResultOptions { out: given.resume.clone(), json: given.results.json },
        ..typed
    })
}

/// The same for `quick`, whose plan is in the manifest alone.
///
/// # Errors
/// As [`run_options`].
pub(crate) fn quick_options(given: &QuickOptions) -> Result<QuickOptions, Failure> {
    let Some(folder) = &given.resume else { return Ok(given.clone()) };
    match typed(folder)? {
        (Command::Quick(_), _) => Ok(given.clone()),
        _ => Err(other_command(folder, "quick")),
    }
}

/// What was typed when the run began, and its seed.
fn typed(folder: &Path) -> Result<(Command, u64), Failure> {
    let manifest = Manifest::load(&folder.join(MANIFEST_FILE))?;
    let cli = Cli::try_parse_from(&manifest.command_line).map_err(|error| {
        Failure::refused(format!(
            "{}: its run was begun by a command line that this program does not understand: {error}",
            folder.display()
        ))
    })?;
    Ok((cli.command, manifest.seed))
}

fn other_command(folder: &Path, command: &str) -> Failure {
    Failure::refused(format!(
        "{} was not left by `bench-runner {command}`; a run is gone on with by the command that has begun it (of `replay`: by `run`)",
        folder.display()
    ))
}

/// The manifest of a run that has not ended.
///
/// # Errors
/// There is none, or it has.
pub(crate) fn unfinished(folder: &Path) -> Result<Manifest, Failure> {
    let manifest = Manifest::load(&folder.join(MANIFEST_FILE))?;
    if manifest.complete {
        let name = folder.display();
        return Err(Failure::refused(format!("{name} is complete: nothing is left to be measured")));
    }
    Ok(manifest)
}

/// Refuses to go on with a run that has ended, or as another one than it was; `now` is what it would be from now on.
///
/// # Errors
/// What is different, as it was and as it is.
pub(crate) fn check(folder: &Path, now: &Manifest) -> Result<(), Failure> {
    let (name, then) = (folder.display(), unfinished(folder)?);
    let changed: Vec<String> = differences(&then, now, &|_| true)
        .into_iter()
        // Where one side does not know, nothing is known to have changed.
        .filter(|one| !MAY_DIFFER.contains(&one.field.as_str()) && !one.a.is_null() && !one.b.is_null())
        .map(|one| one.text("before", "now"))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{name} cannot be gone on with, since its rows would not be of one run: {}; run anew with another --out",
        changed.join("; ")
    )))
}

/// Refuses a row that the plan would not have led to.
///
/// # Errors
/// The row has another seed or place.
pub(crate) fn check_row(row: &RunRow, seed: u64, place: u32) -> Result<(), Failure> {
    if (row.seed, row.arm_order) == (seed, place) {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "run {} of runs.csv has seed {} and place {}, and by the plan {seed} and {place}: the folder has been changed, and cannot be \
         gone on with",
        row.run, row.seed, row.arm_order
    )))
}
