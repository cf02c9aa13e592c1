//! The commands, one module each: arguments, and a `run` that gives the result.

mod apply;
mod attach;
mod check;
mod create;
mod fold;
mod group;
mod grow;
mod inspect;
mod read;
mod recover;
mod salvage;
mod simulate;
mod snapshot;
mod versions;
mod volume;
mod write;

use clap::Subcommand;

use crate::failure::Outcome;
use crate::output::Done;
use crate::session::IoOptions;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a volume on a device or file whose contents may be lost
    Create(create::Create),
    /// Show what the volume on a device is; writes nothing
    Inspect(inspect::Inspect),
    /// Check everything on a volume that nobody has open; writes nothing
    Check(check::Check),
    /// Write what can still be read of a damaged volume to a file or another device; writes nothing to the volume
    Salvage(salvage::Salvage),
    /// Write standard input to a volume; durable when it returns
    Write(write::Write),
    /// Copy bytes of a volume to standard output; writes nothing to the volume, unless what is read is to be moved home
    Read(read::Read),
    /// Bring the log of a linear volume home, all of it or some entries; that of a logged-cow volume to its base
    Apply(apply::Apply),
    /// Leave the base of a linear volume as it is: changes stay in its log until they are accepted
    Pin(apply::Pin),
    /// Let the pinned base of a linear volume take changes up to a sequence, or all
    Accept(apply::Accept),
    /// Keep a volume open until a signal comes; others reach it by its control socket meanwhile
    Attach(attach::Attach),
    /// Moments of a volume, which somebody may have open
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Further volumes of a pool made with `log`: they share its log, its space and its past
    #[command(subcommand)]
    Volume(volume::Volume),
    /// Bring the oldest overlay of a volume into its base; no image changes
    Fold(fold::Fold),
    /// List the versions of a block that can still be read; writes nothing
    Versions(versions::Versions),
    /// Say what a damaged log has lost and, where that is accepted, make the volume writable again
    Recover(recover::Recover),
    /// Give the pool of a volume that nobody has open the room that its device has become larger by
    Grow(grow::Grow),
    /// Run seeds of the simulator: the engine on a faulty disk, judged by a model
    Simulate(simulate::Simulate),
}

impl Command {
    /// Whether the result is wanted as one JSON object.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Create(create) => create.json,
            Self::Inspect(inspect) => inspect.json,
            Self::Check(check) => check.volume.json,
            Self::Salvage(salvage) => salvage.volume.json,
            Self::Write(write) => write.json,
            Self::Read(_) => false,
            Self::Apply(apply) => apply.json,
            Self::Pin(pin) => pin.json,
            Self::Accept(accept) => accept.json,
            Self::Attach(attach) => attach.json,
            Self::Snapshot(snapshot) => snapshot.wants_json(),
            Self::Volume(volume) => volume.wants_json(),
            Self::Fold(fold) => fold.volume.json,
            Self::Versions(versions) => versions.json,
            Self::Recover(recover) => recover.json,
            Self::Grow(grow) => grow.volume.json,
            Self::Simulate(simulate) => simulate.json,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        match self {
            Self::Create(create) => create.run(io),
            Self::Inspect(inspect) => inspect.run(io),
            Self::Check(check) => check.run(io),
            Self::Salvage(salvage) => salvage.run(io),
            Self::Write(write) => write.run(io),
            Self::Read(read) => read.run(io),
            Self::Apply(apply) => apply.run(io),
            Self::Pin(pin) => pin.run(io),
            Self::Accept(accept) => accept.run(io),
            Self::Attach(attach) => attach.run(io),
            Self::Snapshot(snapshot) => snapshot.run(io),
            Self::Volume(volume) => volume.run(io),
            Self::Fold(fold) => fold.run(io),
            Self::Versions(versions) => versions.run(io),
            Self::Recover(recover) => recover.run(io),
            Self::Grow(grow) => grow.run(io),
            Self::Simulate(simulate) => simulate.run(),
        }
    }
}
