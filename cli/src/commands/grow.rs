//! `icecore grow`: gives a pool the room that its device or file has become larger by.
//!
//! The volume's own size stays; a log, and a thin volume behind one, go on in the new room. Cut short, it leaves
//! the pool as it was, or grown.

use std::path::PathBuf;

use clap::Args;
use icecore::volume::Volume;

use super::inspect::{IoPaths, describe};
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::IoOptions;

/// Arguments of `icecore grow`.
#[derive(Debug, Args)]
pub struct Grow {
    /// The block device or file that holds the volume
    path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Grow {
    /// Grows the pool of a volume that nobody has open.
    ///
    /// # Errors
    /// As [`Volume::grow`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.take(&runtime, &self.path)?;
        let grown = runtime.block_on(Volume::grow(&device))?;
        let mut object = describe(&grown.info, &IoPaths::of(&device));
        object["room_before_bytes"] = grown.before_bytes.into();
        object["room_bytes"] = grown.after_bytes.into();
        let (path, before, after) = (self.path.display(), grown.before_bytes, grown.after_bytes);
        let remark = format!("{path}: the pool had room for {before} bytes of blocks and has it for {after}");
        Ok(Done { object, text: String::new(), remark })
    }
}
