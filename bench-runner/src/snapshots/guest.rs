//! Peers that need a kernel of their own: measured by this same program in a User-Mode-Linux guest with one memory disk, beside our arms
//! there. What they are is in `scripts/lab`, whose `boot` has a guest run a command.
//!
//! Invariants: what is measured here is held against nothing that was measured elsewhere; its rows are a run folder of their own, `guest`
//! in the run's. The guest ends with the program that boots it, which ends with this one.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::ratios::{self, Line};
use super::*;
use crate::results::{MANIFEST_FILE, Manifest, RunData};
use crate::{child, interrupt};

/// The peers that are there.
pub(super) const PEERS: [&str; 8] = [
    "dm-thin",
    "dm-snapshot",
    "dm-clone-4k",
    "dm-clone-64k",
    "dm-clone-4k-hydrating",
    "dm-clone-64k-hydrating",
    "dm-clone-4k-hydrated",
    "dm-clone-64k-hydrated",
];
/// The guest's run folder, in that of the run.
const FOLDER: &str = "guest";
/// Its disk.
const DISK: &str = "ram0";
/// The disk has room for so many spans: peers that copy all of it for a snapshot have room for sixteen.
const SPANS: u64 = 18;
/// And for the metadata of others.
const METADATA_BYTES: u64 = 64 * MIB;
/// What an arm of a suite in a block takes at most; a guest that stands still is ended after so much for each.
const ARM_SECONDS_MAX: u64 = 600;

/// What a guest has left.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub lines: Vec<Line>,
    /// Why runs do not count.
    pub invalid: Vec<String>,
    /// What was left out there.
    pub dropped: Vec<Dropped>,
    /// Why the guest ended before its run was complete, which can be gone on with.
    pub stopped: Option<Failure>,
}

/// Peers to be measured in a guest.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// The folder of `boot` and the peers' programs.
    lab: PathBuf,
    pub peers: Vec<String>,
}

impl Guest {
    /// The guest of a folder, without peers yet.
    pub fn of(lab: &Path) -> Self {
        Self { lab: lab.to_owned(), peers: Vec::new() }
    }

    /// Whether there is a peer of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.lab.join("peers").join(name).is_file()
    }

    /// Their names.
    pub fn what(&self) -> String {
        self.peers.join(", ")
    }

    fn disk_bytes(plan: &SnapshotPlan) -> u64 {
        SPANS * plan.span_bytes + METADATA_BYTES
    }

    /// Whether a guest can be booted here for such a plan.
    ///
    /// # Errors
    /// What is missing, with what brings it.
    pub fn check(&self, plan: &SnapshotPlan) -> Result<(), String> {
        let program = self.lab.join("check");
        let output = Command::new(&program).arg((Self::disk_bytes(plan) / MIB).to_string()).output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let lines = String::from_utf8_lossy(&output.stderr);
        Err(lines.trim().lines().collect::<Vec<_>>().join("; "))
    }

    /// Boots it and measures.
    ///
    /// # Errors
    /// It left no table; an interruption.
    pub fn measure(&self, plan: &SnapshotPlan, suites: &[&str], out: &Path) -> Result<Measured, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::environment(format!("this program is not to be found: {error}")))?;
        let here = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Failure::environment(format!("{}: {error}", path.display())))
        };
        let (lab, folder) = (here(&self.lab)?, here(&out.join(FOLDER))?);
        let is_begun = match Self::is_complete(&folder)? {
            Some(true) => return Self::measured(&folder, "has ended before"),
            before => before.is_some(),
        };
        let arms = (1 + plan.backends.len() + self.peers.len() + 1) as u64;
        let limit_s = u64::from(plan.repeats) * arms * suites.len() as u64 * ARM_SECONDS_MAX;
        let disk_bytes = Self::disk_bytes(plan);
        eprintln!("in a guest with a memory disk of {} MiB: {}", disk_bytes / MIB, self.what());
        // It is told to end when this program does, however that comes.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(lab.join("boot"));
        command.arg((disk_bytes / MIB).to_string()).arg(&folder).arg(program);
        if is_begun {
            command.args(["peers", "--resume"]);
        } else {
            command.args(self.arguments(plan, suites)).arg("--scripts").arg(lab.join("peers")).arg("--out");
        }
        command.arg(&folder).env("LAB_LIMIT", limit_s.to_string());
        command.args(["--destroy", &format!("{DISK}:{disk_bytes}")]);
        let status = child::watched(command)
            .map_err(|error| Failure::environment(format!("a guest cannot be booted: {error}")))?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        let end = format!("ended with {status}");
        if Self::is_complete(&folder)? == Some(false) {
            let why = format!("the guest {end} before its run in {} was complete", folder.display());
            return Ok(Measured { stopped: Some(Failure::environment(why)), ..Measured::default() });
        }
        Self::measured(&folder, &end)
    }

    /// Whether the run in the guest's folder is complete; `None` where none has been begun.
    fn is_complete(folder: &Path) -> Result<Option<bool>, Failure> {
        let path = folder.join(MANIFEST_FILE);
        Ok(path.exists().then(|| Manifest::load(&path).map(|manifest| manifest.complete)).transpose()?)
    }

    /// What is in the guest's folder; `end`: how the guest ended.
    fn measured(folder: &Path, end: &str) -> Result<Measured, Failure> {
        let lines = ratios::of_guest(folder)
            .map_err(|failure| Failure::environment(format!("the guest {end}: {failure}")))?;
        let data = RunData::read(folder)?;
        let voided = data.runs.iter().filter(|run| !run.valid);
        let mut invalid: Vec<String> = voided
            .map(|run| format!("in the guest: {} {}: {}", run.workload, run.arm, run.invalid_reason))
            .collect();
        invalid.dedup();
        let mut dropped = data.manifest.dropped;
        for one in &mut dropped {
            one.what = format!("in the guest: {}", one.what);
        }
        Ok(Measured { lines, invalid, dropped, stopped: None })
    }

    /// The same plan, on the guest's disk.
    fn arguments(&self, plan: &SnapshotPlan, suites: &[&str]) -> Vec<String> {
        let backends: Vec<&str> = plan.backends.iter().map(Kept::name).collect();
        let depths: Vec<String> = plan.snapshots.iter().map(u32::to_string).collect();
        let seconds = |ns: u64| format!("{}", ns as f64 / 1e9);
        let pairs = [
            ("--device", format!("/dev/{DISK}")),
            ("--suite", suites.join(",")),
            ("--peers", self.peers.join(",")),
            ("--backend", backends.join(",")),
            ("--snapshots", depths.join(",")),
            ("--changes", plan.changes.to_string()),
            ("--queue-depth", plan.queue_depth.to_string()),
            ("--batch", plan.batch.to_string()),
            ("--repeats", plan.repeats.to_string()),
            ("--seed", plan.seed.to_string()),
            ("--seconds", seconds(plan.measure_ns)),
            ("--warmup", seconds(plan.warmup_ns)),
            ("--span", plan.span_bytes.to_string()),
        ];
        let words = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        ["peers".to_owned()].into_iter().chain(words).collect()
    }
}
