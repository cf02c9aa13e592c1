//! `icecore snapshot`: moments of a volume. Going back to one, for now.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use icecore::units::Seq;
use icecore::volume::{ApplyOptions, OpenMode, OpenOptions, Volume, format_id};
use serde_json::json;

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};

/// What to do with moments.
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Make a volume again what it was at an earlier moment; what was written since can still be read as its past
    Rollback(Rollback),
}

/// Arguments of `icecore snapshot rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// The moment: the sequence of the last write that the volume keeps
    #[arg(long, value_name = "N")]
    sequence: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    /// Whether the result is wanted as one JSON object.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Rollback(rollback) => rollback.json,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        match self {
            Self::Rollback(rollback) => rollback.run(io),
        }
    }
}

impl Rollback {
    fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        runtime.block_on(async {
            let device = io.take(&runtime, &self.path)?;
            let paths = IoPaths::of(&device);
            let devices = self.volume.take(io, &runtime, device)?;
            // Nothing that is going to be discarded goes home meanwhile.
            let apply = ApplyOptions { automatic: false, ..ApplyOptions::default() };
            let options = OpenOptions { apply, ..OpenOptions::default() };
            let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
            let last = volume.info().sequence.0;
            let went = volume.rollback(Seq(self.sequence)).await;
            // The note that it was closed in order is worth having after a refusal too.
            let closed = volume.close().await;
            let at = went?.0;
            closed?;
            Ok(paths.named_in(Done {
                object: json!({
                    "id": format_id(&volume.info().id),
                    "to": self.sequence,
                    "at": at,
                    "discarded": last - self.sequence,
                }),
                text: format!("{at}\n"),
                remark: format!(
                    "went back: {} is what it was at {}; {} entries behind that are discarded",
                    self.path.display(),
                    self.sequence,
                    last - self.sequence
                ),
            }))
        })
    }
}
