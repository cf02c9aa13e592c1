//! `icecore grow`: gives a pool the room that its device or file has become larger by.
//!
//! The volume's own size stays; a log, and a thin volume behind one, go on in the new room. Cut short, it leaves
//! the pool as it was, or grown.

use clap::Args;
use icecore::volume::Volume;

use super::inspect::{IoPaths, describe};
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{ClosedVolume, IoOptions, VolumeDevice};

/// Arguments of `icecore grow`.
#[derive(Debug, Args)]
pub struct Grow {
    #[command(flatten)]
    pub volume: ClosedVolume,
    #[command(flatten)]
    volume_device: VolumeDevice,
}

impl Grow {
    /// Grows the pool of a volume that nobody has open.
    ///
    /// # Errors
    /// As [`Volume::grow`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.take(&runtime, &self.volume.path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume_device.take(io, &runtime, device)?;
        let grown = runtime.block_on(Volume::grow_on(&devices))?;
        let mut object = describe(&grown.info, &paths);
        object["room_before_bytes"] = grown.before_bytes.into();
        object["room_bytes"] = grown.after_bytes.into();
        let (path, before, after) = (self.volume.path.display(), grown.before_bytes, grown.after_bytes);
        let remark = format!("{path}: the pool had room for {before} bytes of blocks and has it for {after}");
        Ok(paths.named_in(Done { object, text: String::new(), remark }))
    }
}
