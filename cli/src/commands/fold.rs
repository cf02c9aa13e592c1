//! `icecore fold`: brings the oldest overlay of a volume that nobody has open into its base.

use clap::Args;
use icecore::volume::{OpenMode, Volume};
use serde_json::json;

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{ClosedVolume, IoOptions, VolumeDevice};

/// Arguments of `icecore fold`.
#[derive(Debug, Args)]
pub struct Fold {
    #[command(flatten)]
    pub volume: ClosedVolume,
    #[command(flatten)]
    apart: VolumeDevice,
    /// The oldest snapshot, whose image the base is then; without snapshots, now
    #[arg(long, value_name = "NAME")]
    through: Option<String>,
}

impl Fold {
    /// Folds, durably; no image changes.
    ///
    /// # Errors
    /// As [`Volume::open`] and [`Volume::fold`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.take(&runtime, &self.volume.path)?;
        let paths = IoPaths::of(&device);
        let devices = self.apart.take(io, &runtime, device)?;
        let (base, before, after) = runtime.block_on(async {
            let volume = Volume::open(devices, OpenMode::ReadWrite).await?;
            let used =
                || volume.status().log.and_then(|log| log.snapshot_space).map_or(0, |space| space.used_bytes);
            let before = used();
            let base = volume.fold(self.through.as_deref()).await?;
            let after = used();
            volume.close().await?;
            Ok::<_, icecore::error::Error>((base, before, after))
        })?;
        let object =
            json!({ "base_sequence": base.0, "overlay_before_bytes": before, "overlay_bytes": after });
        let remark =
            format!("the base is the image of sequence {}; overlays hold {after} bytes of {before}", base.0);
        Ok(paths.named_in(Done { object, text: format!("{}\n", base.0), remark }))
    }
}
