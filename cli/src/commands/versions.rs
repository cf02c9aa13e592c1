//! `icecore versions`: which versions of a block can still be read.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use icecore::units::ByteOffset;
use icecore::volume::{OpenMode, Volume};
use serde_json::json;

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};
use crate::size;

/// Arguments of `icecore versions`.
#[derive(Debug, Args)]
pub struct Versions {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// The further volume, or the writable snapshot; the pool's own volume, if not given
    #[arg(long = "volume", value_name = "NAME")]
    further: Option<String>,
    /// A byte of the block
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    offset: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Versions {
    /// Lists the versions, oldest first. Sequence 0 is what the block was before it was first written.
    ///
    /// # Errors
    /// As [`Volume::versions`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.look_at(&runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume.look_at(io, &runtime, device)?;
        let versions = runtime.block_on(async {
            let volume = Volume::open_with(devices, OpenMode::ReadOnly, self.volume.opening()).await?;
            match &self.further {
                Some(name) => volume.open_writable(name).await?.versions(ByteOffset(self.offset)).await,
                None => volume.versions(ByteOffset(self.offset)).await,
            }
        })?;
        let mut text = String::new();
        for version in &versions {
            let content = if version.zero { "zero".to_string() } else { format!("{:08x}", version.checksum) };
            // Writing to a string does not fail.
            let _written = writeln!(text, "{} {content}", version.sequence.0);
        }
        let list: Vec<_> = versions
            .iter()
            .map(|version| {
                let crc32c = (!version.zero).then(|| format!("{:08x}", version.checksum));
                json!({ "sequence": version.sequence.0, "zero": version.zero, "crc32c": crc32c })
            })
            .collect();
        let remark = format!("{} versions, oldest first: sequence and CRC-32C", versions.len());
        let object = json!({ "offset_bytes": self.offset, "versions": list });
        Ok(paths.named_in(Done { object, text, remark }))
    }
}
