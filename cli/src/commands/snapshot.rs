//! `icecore snapshot`: the named moments of a volume that nobody has open: taking, listing and deleting them, and going
//! back to a moment.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use icecore::error::Error;
use icecore::store::log::SnapshotInfo;
use icecore::units::Seq;
use icecore::volume::{ApplyOptions, OpenMode, OpenOptions, Volume, format_id};
use serde_json::{Value, json};

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};

/// What to do with moments.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Give the present moment of a volume a name, which keeps what it shows
    Create(Named),
    /// List the snapshots of a volume, by their moments; writes nothing
    List(Listed),
    /// Give a name up; what it alone kept comes free, no data is moved
    Delete(Named),
    /// List the regions that differ between two moments; from metadata alone, writes nothing
    Diff(Diff),
    /// Make a volume again what it was at an earlier moment; what was written since can still be read as its past
    Rollback(Rollback),
}

/// A volume.
#[derive(Debug, Args)]
pub struct Listed {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A volume and the name of a snapshot.
#[derive(Debug, Args)]
pub struct Named {
    #[command(flatten)]
    of: Listed,
    /// The snapshot's name: 1 to 64 bytes
    name: String,
}

/// Arguments of `icecore snapshot diff`.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    of: Listed,
    /// The first moment: a snapshot's name, or @N for the sequence N
    #[arg(value_name = "MOMENT")]
    from: String,
    /// The other one; now, if not given
    #[arg(value_name = "MOMENT")]
    to: Option<String>,
}

/// Arguments of `icecore snapshot rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    #[command(flatten)]
    of: Listed,
    /// The snapshot to go back to
    #[arg(required_unless_present = "sequence")]
    name: Option<String>,
    /// The moment, by the sequence of the last write that the volume keeps
    #[arg(long, value_name = "N", conflicts_with = "name")]
    sequence: Option<u64>,
}

impl Snapshot {
    /// Whether the result is wanted as one JSON object.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Create(named) | Self::Delete(named) => named.of.json,
            Self::List(listed) => listed.json,
            Self::Diff(diff) => diff.of.json,
            Self::Rollback(rollback) => rollback.of.json,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        match self {
            Self::Create(Named { of, name }) => of.change(io, async |volume| {
                let taken = volume.create_snapshot(&name).await?;
                Ok((object_of(&taken), taken.sequence.0, format!("snapshot {name:?} taken")))
            }),
            Self::Delete(Named { of, name }) => of.change(io, async |volume| {
                let gone = volume.snapshot(&name)?;
                volume.delete_snapshot(&name).await?;
                Ok((object_of(&gone), gone.sequence.0, format!("snapshot {name:?} deleted")))
            }),
            Self::Rollback(Rollback { of, name, sequence }) => of.change(io, async |volume| {
                let last = volume.info().sequence.0;
                let to = match (&name, sequence) {
                    (Some(name), _) => volume.snapshot(name)?.sequence.0,
                    (None, sequence) => sequence.unwrap_or_default(),
                };
                let at = volume.rollback(Seq(to)).await?.0;
                let object = json!({ "to": to, "at": at, "discarded": last - to });
                let remark = format!("went back to {to}; {} entries behind that are discarded", last - to);
                Ok((object, at, remark))
            }),
            Self::List(listed) => listed.list(io),
            Self::Diff(diff) => diff.run(io),
        }
    }
}

/// A snapshot as scripts see it.
pub fn object_of(snapshot: &SnapshotInfo) -> Value {
    json!({
        "name": snapshot.name,
        "sequence": snapshot.sequence.0,
        "time_unix_ns": snapshot.time_unix_ns,
    })
}

impl Listed {
    /// Opens the volume, does something with it that gives an object, a number and a remark, and closes it.
    fn change(
        self,
        io: IoOptions,
        work: impl AsyncFnOnce(&Volume) -> Result<(Value, u64, String), Error>,
    ) -> Outcome<Done> {
        let runtime = io.runtime()?;
        runtime.block_on(async {
            let device = io.take(&runtime, &self.path)?;
            let paths = IoPaths::of(&device);
            let devices = self.volume.take(io, &runtime, device)?;
            // Nothing that may be discarded goes home meanwhile.
            let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
            let options = OpenOptions { apply, ..OpenOptions::default() };
            let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
            let worked = work(&volume).await;
            // The note that it was closed in order is worth having after a refusal too.
            let closed = volume.close().await;
            let (mut object, number, remark) = worked?;
            closed?;
            object["id"] = format_id(&volume.info().id).into();
            let remark = format!("{}: {remark}", self.path.display());
            Ok(paths.named_in(Done { object, text: format!("{number}\n"), remark }))
        })
    }

    /// Opens the volume for reading, and tells what is seen.
    fn look(self, io: IoOptions, work: impl AsyncFnOnce(&Volume) -> Result<Done, Error>) -> Outcome<Done> {
        let runtime = io.runtime()?;
        runtime.block_on(async {
            let device = io.look_at(&runtime, &self.path)?;
            let paths = IoPaths::of(&device);
            let devices = self.volume.look_at(io, &runtime, device)?;
            let volume = Volume::open(devices, OpenMode::ReadOnly).await?;
            let mut done = work(&volume).await?;
            done.object["id"] = format_id(&volume.info().id).into();
            done.remark = format!("{}: {}", self.path.display(), done.remark);
            Ok(paths.named_in(done))
        })
    }

    fn list(self, io: IoOptions) -> Outcome<Done> {
        self.look(io, async |volume| {
            let snapshots = volume.snapshots();
            let line = |one: &SnapshotInfo| format!("{} {}\n", one.sequence.0, one.name);
            Ok(Done {
                object: json!({ "snapshots": snapshots.iter().map(object_of).collect::<Vec<_>>() }),
                text: snapshots.iter().map(line).collect(),
                remark: format!("{} snapshots", snapshots.len()),
            })
        })
    }
}

/// The moment that a name or `@N` says.
fn moment(volume: &Volume, said: &str) -> Result<Seq, Error> {
    match said.strip_prefix('@').and_then(|number| number.parse().ok()) {
        Some(sequence) => Ok(Seq(sequence)),
        None => Ok(volume.snapshot(said)?.sequence),
    }
}

impl Diff {
    fn run(self, io: IoOptions) -> Outcome<Done> {
        self.of.look(io, async |volume| {
            let from = moment(volume, &self.from)?;
            let to = match &self.to {
                Some(to) => moment(volume, to)?,
                None => volume.info().sequence,
            };
            let changed = volume.difference(from, to).await?;
            let bytes: u64 = changed.iter().map(|range| range.end - range.start).sum();
            let piece =
                |range: &Range<u64>| json!({ "offset": range.start, "length": range.end - range.start });
            let line = |range: &Range<u64>| format!("{} {}\n", range.start, range.end - range.start);
            Ok(Done {
                object: json!({
                    "from": from.0,
                    "to": to.0,
                    "changed_bytes": bytes,
                    "changed": changed.iter().map(piece).collect::<Vec<_>>(),
                }),
                text: changed.iter().map(line).collect(),
                remark: format!(
                    "{bytes} bytes in {} places differ between {} and {}",
                    changed.len(),
                    from.0,
                    to.0
                ),
            })
        })
    }
}
