//! `icecore read`: bytes of a volume to standard output.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use icecore::error::{Error, Reason};
use icecore::units::ByteOffset;
use icecore::volume::{OpenMode, Volume};
use serde_json::Value;

use super::inspect::IoPaths;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::IoOptions;
use crate::size;

/// What is read and printed at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Arguments of `icecore read`.
#[derive(Debug, Args)]
pub struct Read {
    /// The block device or file that holds the volume
    path: PathBuf,
    /// First byte to read; needs no alignment
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    offset: u64,
    /// Bytes to read
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    length: u64,
}

impl Read {
    /// Copies the range; a range that does not fit is refused before anything is printed.
    ///
    /// # Errors
    /// As [`Volume::read_bytes`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.look_at(&runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        runtime.block_on(async {
            let volume = Volume::open(device, OpenMode::ReadOnly).await?;
            self.copy_from(&volume, &self.path).await
        })?;
        let remark = format!("read {} bytes at byte {} ({paths})", self.length, self.offset);
        Ok(Done { object: Value::Null, text: String::new(), remark })
    }

    async fn copy_from(&self, volume: &Volume, path: &Path) -> Outcome<()> {
        let (offset, length, size_bytes) = (self.offset, self.length, volume.size_bytes());
        if offset.checked_add(length).is_none_or(|end| end > size_bytes) {
            let reason = Reason::OutOfRange { offset, length, size_bytes };
            return Err(Error::new("read", reason).on(path.display().to_string()).into());
        }
        let mut stdout = std::io::stdout().lock();
        let mut piece = Vec::new();
        let mut done = 0;
        while done < length {
            let at = offset + done;
            let want = (PIECE_BYTES - at % PIECE_BYTES).min(length - done);
            piece.resize(want as usize, 0);
            volume.read_bytes(ByteOffset(at), &mut piece).await?;
            stdout.write_all(&piece).map_err(Failure::of_output)?;
            done += want;
        }
        stdout.flush().map_err(Failure::of_output)
    }
}
