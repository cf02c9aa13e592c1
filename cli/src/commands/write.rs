//! `icecore write`: standard input to a volume.
//!
//! Promise: when it returns with code 0, every byte survives losing power. If it fails, nothing is promised of
//! the range it was to write, and nothing outside of it has changed.

use std::fs::File;
use std::io::{Read, Seek, StdinLock};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use icecore::error::{Error, Reason};
use icecore::runtime::Runtime;
use icecore::units::ByteOffset;
use icecore::volume::{BaseImage, Durability, OpenMode, Volume, format_id};
use serde_json::json;

use super::inspect::IoPaths;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};
use crate::size;

/// What is read from standard input and written at a time; a multiple of every block, so that only the first
/// and the last piece need merging.
const PIECE_BYTES: u64 = 1 << 20;

/// Arguments of `icecore write`.
#[derive(Debug, Args)]
pub struct Write {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// PATH is the device of a cow volume's base, and that of its log is lost: give its snapshots up for good
    #[arg(long, conflicts_with = "volume_device")]
    without_log: bool,
    /// First byte to write; needs no alignment
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    offset: u64,
    /// The writable snapshot, or the further volume, that is written; the pool's own volume, if not given
    #[arg(long, value_name = "NAME", visible_alias = "volume")]
    to: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Write {
    /// Writes standard input and makes it durable.
    ///
    /// # Errors
    /// As [`Volume::write_bytes`]; input known to be too long is refused before anything is written.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        runtime.block_on(self.copy(&runtime, io))
    }

    async fn copy(&self, runtime: &Runtime, io: IoOptions) -> Outcome<Done> {
        let device = io.take(runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume.take(io, runtime, device.clone())?;
        let size_bytes = match self.without_log {
            true => {
                let image = BaseImage::Current(OpenMode::ReadOnly);
                Volume::open_base(&device, image).await?.size_bytes()
            }
            // How large that is, is known once the pool is open.
            false if self.to.is_some() => u64::MAX,
            false => Volume::inspect(&device).await?.size_bytes,
        };
        let known = length_if_known().map_err(|error| Failure::Stream("look at standard input", error))?;
        self.check_fits(size_bytes, known.unwrap_or(0))?;
        let mut input = Input { stdin: std::io::stdin().lock(), piece: Vec::new() };
        input.read(PIECE_BYTES + up_to_multiple(self.offset))?;
        self.check_fits(size_bytes, input.piece.len() as u64)?;
        // Opening is the first thing that writes: whatever is refused before has changed nothing.
        let volume = match self.without_log {
            true => {
                let image = BaseImage::Current(OpenMode::ReadWriteAcceptingLoss);
                Volume::open_base(&devices.pool, image).await?
            }
            false => Volume::open(devices, OpenMode::ReadWrite).await?,
        };
        let bytes = match &self.to {
            None => self.copy_to(&volume, input, known).await,
            Some(name) => match volume.open_writable(name).await {
                Ok(writable) => self.copy_to(&writable, input, known).await,
                Err(error) => Err(error.into()),
            },
        };
        // The note that it was closed in order is worth having after a failure too.
        let closed = volume.close().await;
        let bytes = bytes?;
        closed?;
        let info = volume.info();
        Ok(paths.named_in(Done {
            object: json!({
                "id": format_id(&info.id),
                "offset_bytes": self.offset,
                "length_bytes": bytes,
                "durable": true,
            }),
            text: String::new(),
            remark: format!("wrote {bytes} bytes at byte {}, durable", self.offset),
        }))
    }

    /// The bytes written, all of them flushed.
    async fn copy_to(&self, volume: &Volume, mut input: Input, known: Option<u64>) -> Outcome<u64> {
        self.check_fits(volume.size_bytes(), known.unwrap_or(0))?;
        let mut done = 0;
        while !input.piece.is_empty() {
            self.check_fits(volume.size_bytes(), done + input.piece.len() as u64)?;
            let at = ByteOffset(self.offset + done);
            volume.write_bytes(at, &input.piece, Durability::OnFlush).await?;
            done += input.piece.len() as u64;
            input.read(up_to_multiple(self.offset + done))?;
        }
        volume.flush().await?;
        Ok(done)
    }

    fn check_fits(&self, size_bytes: u64, length: u64) -> Outcome<()> {
        if self.offset.checked_add(length).is_some_and(|end| end <= size_bytes) {
            return Ok(());
        }
        let reason = Reason::OutOfRange { offset: self.offset, length, size_bytes };
        Err(Error::new("write", reason).on(self.path.display().to_string()).into())
    }
}

/// Standard input, a piece at a time.
struct Input {
    stdin: StdinLock<'static>,
    piece: Vec<u8>,
}

impl Input {
    /// Reads this many bytes, or up to the input's end.
    fn read(&mut self, bytes: u64) -> Outcome<()> {
        self.piece.clear();
        let read = self.stdin.by_ref().take(bytes).read_to_end(&mut self.piece);
        read.map(drop).map_err(|error| Failure::Stream("read from standard input", error))
    }
}

/// Bytes from `offset` up to the next multiple of the piece.
fn up_to_multiple(offset: u64) -> u64 {
    PIECE_BYTES - offset % PIECE_BYTES
}

/// What is left to read where standard input is a file.
fn length_if_known() -> std::io::Result<Option<u64>> {
    let mut file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some(metadata.len().saturating_sub(file.stream_position()?)))
}
