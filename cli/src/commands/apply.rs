//! `icecore apply`, `pin` and `accept`: bringing the log of a linear volume home, or that of a `logged-cow` volume to its base
//! and keeping it away.
//!
//! Each opens the volume so that nothing is applied but what it asks for, and what it says is durable when it
//! returns. A volume of another backend is refused before anything is written.

use std::path::{Path, PathBuf};

use clap::Args;
use icecore::error::{Error, Reason};
use icecore::runtime::Runtime;
use icecore::store::Backend;
use icecore::units::Seq;
use icecore::volume::{ApplyMode, ApplyOptions, ApplyStatus, OpenMode, OpenOptions, Volume, format_id};
use serde_json::json;

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};

/// Arguments of `icecore apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Apply so many entries of the log at most, the oldest first; all if not given
    #[arg(long, value_name = "N", conflicts_with = "through")]
    entries: Option<u64>,
    /// Apply up to this sequence
    #[arg(long, value_name = "SEQUENCE")]
    through: Option<u64>,
    /// Write every entry in its order, rather than the newest of each block
    #[arg(long)]
    strict: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `icecore pin`.
#[derive(Debug, Args)]
pub struct Pin {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `icecore accept`.
#[derive(Debug, Args)]
pub struct Accept {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Accept changes up to this sequence; the base stays pinned behind it
    #[arg(long, value_name = "SEQUENCE", required_unless_present = "all")]
    through: Option<u64>,
    /// Accept everything from now on: the base is not pinned any more
    #[arg(long, conflicts_with = "through")]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Apply {
    /// Applies and tells how far the volume is.
    ///
    /// # Errors
    /// As [`Volume::apply`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let mode = if self.strict { ApplyMode::Strict } else { ApplyMode::Absorb };
        with_volume(io, &self.path, &self.volume, mode, ("apply", "applied"), async |volume, before| {
            // It is no entry that is brought to the base, but what is newest.
            let of_entries = [("--strict", self.strict), ("--entries", self.entries.is_some())];
            if let Some((name, _)) = of_entries.into_iter().find(|(_, is_given)| *is_given)
                && volume.info().backend == Backend::LoggedCow
            {
                let (value, rule) = ("yes".to_string(), "it is for linear volumes alone");
                return Err(Error::new("apply", Reason::InvalidSetting { name, value, rule }));
            }
            let through = match (self.entries, self.through) {
                (Some(entries), _) => {
                    Some(volume.info().sequence.0.min(before.applied.saturating_add(entries)))
                }
                (None, through) => through,
            };
            volume.apply(through.map(Seq)).await.map(drop)
        })
    }
}

impl Pin {
    /// Pins the base as it is.
    ///
    /// # Errors
    /// As [`Volume::pin_base`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let mode = ApplyMode::default();
        with_volume(io, &self.path, &self.volume, mode, ("pin", "pinned"), async |volume, _| {
            volume.pin_base().await.map(drop)
        })
    }
}

impl Accept {
    /// Accepts changes; applying them is for `apply`, or for whoever opens the volume next.
    ///
    /// # Errors
    /// As [`Volume::accept`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let through = self.through.map(Seq);
        let mode = ApplyMode::default();
        with_volume(io, &self.path, &self.volume, mode, ("accept", "accepted"), async |volume, _| {
            volume.accept(through).await
        })
    }
}

/// Opens a linear volume, does something with it, which has a name before and one after it, and tells how far it is.
fn with_volume(
    io: IoOptions,
    path: &Path,
    volume: &VolumeDevice,
    mode: ApplyMode,
    (operation, what): (&'static str, &str),
    work: impl AsyncFnOnce(&Volume, ApplyStatus) -> Result<(), Error>,
) -> Outcome<Done> {
    let runtime: Runtime = io.runtime()?;
    runtime.block_on(async {
        let device = io.take(&runtime, path)?;
        let paths = IoPaths::of(&device);
        let backend = Volume::inspect(&device).await?.backend;
        let refused = || Error::new(operation, Reason::NotLinear { backend: backend.name() });
        let is_logged = backend == Backend::LoggedCow;
        if backend != Backend::Linear && !(is_logged && operation == "apply") {
            return Err(refused().on(path.display().to_string()).into());
        }
        let apply = ApplyOptions { mode, automatic: false, ..ApplyOptions::default() };
        let options = OpenOptions { apply, ..OpenOptions::default() };
        let devices = volume.take(io, &runtime, device)?;
        let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
        let status = |volume: &Volume| volume.status().log.and_then(|log| log.apply).ok_or_else(refused);
        let worked = match status(&volume) {
            Ok(before) => work(&volume, before).await,
            Err(error) => Err(error),
        };
        // The note that it was closed in order is worth having after a refusal too.
        let closed = volume.close().await;
        worked?;
        closed?;
        let (info, now) = (volume.info(), status(&volume)?);
        let pinned = match now.accepted {
            Some(accepted) => format!("changes are accepted up to {accepted}"),
            None => "its base is not pinned".to_string(),
        };
        Ok(paths.named_in(Done {
            object: json!({
                "id": format_id(&info.id),
                "sequence": info.sequence.0,
                "applied": now.applied,
                "accepted": now.accepted,
                "extents": now.extents,
            }),
            text: format!("{}\n", now.applied),
            remark: format!(
                "{what}: {} is applied up to {} of {}; {pinned}",
                path.display(),
                now.applied,
                info.sequence.0
            ),
        }))
    })
}
