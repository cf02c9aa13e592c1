//! `icecore read`: bytes of a volume to standard output.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use icecore::error::{Error, Reason};
use icecore::runtime::{Context, Runtime};
use icecore::store::Backend;
use icecore::store::log::{Image, ImageOptions};
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{BaseImage, OpenMode, OpenOptions, Volume};
use serde_json::Value;

use super::inspect::IoPaths;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};
use crate::size;

/// What is read and printed at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Arguments of `icecore read`.
#[derive(Debug, Args)]
pub struct Read {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// PATH is the device of a base, and that of its log is lost: read the current image (cow), or the oldest one (overlay)
    #[arg(long, value_name = "IMAGE", value_parser = ["current", "oldest"], conflicts_with_all = ["volume_device", "objects_device", "without_objects", "at"])]
    without_log: Option<String>,
    /// The further volume that is read; the pool's own, if not given
    #[arg(long = "volume", value_name = "NAME", conflicts_with_all = ["without_log", "at"])]
    further: Option<String>,
    /// Bring what is read home to the base, where no snapshot keeps an older moment (overlay). Opens the volume for writing;
    /// nobody may have it open
    #[arg(long, conflicts_with_all = ["without_log", "further", "at", "sequence"])]
    move_home: bool,
    /// First byte to read; needs no alignment
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    offset: u64,
    /// Bytes to read
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    length: u64,
    /// Read it as it was after this sequence of its log
    #[arg(long, value_name = "N", conflicts_with = "at")]
    sequence: Option<u64>,
    /// Read the named snapshot; of a writable one, what it is now
    #[arg(long, value_name = "SNAPSHOT")]
    at: Option<String>,
}

/// What is read.
enum Source {
    Now(Volume),
    Past(Image, u64),
}

impl Source {
    /// Fills `piece` from byte `at`; a piece crosses no multiple of [`PIECE_BYTES`].
    async fn read(&self, at: u64, piece: &mut [u8], context: &Context) -> Result<(), Error> {
        let (image, block_bytes) = match self {
            Self::Now(volume) => return volume.read_bytes(ByteOffset(at), piece).await,
            Self::Past(image, block_bytes) => (image, *block_bytes),
        };
        let start = at - at % block_bytes;
        let end = (at + piece.len() as u64).next_multiple_of(block_bytes);
        let buf = context.buffers().get((end - start) as usize)?;
        let (result, buf) = image.read(ByteOffset(start), buf).await;
        result?;
        let head = (at - start) as usize;
        piece.copy_from_slice(&buf[head..head + piece.len()]);
        Ok(())
    }
}

impl Read {
    /// Copies the range; a range that does not fit is refused before anything is printed.
    ///
    /// # Errors
    /// As [`Volume::read_bytes`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let remark = format!("read {} bytes at byte {}", self.length, self.offset);
        if let Some(image) = &self.without_log {
            let image = match image.as_str() {
                "oldest" => BaseImage::Oldest,
                _ => BaseImage::Current(OpenMode::ReadOnly),
            };
            let device = io.take_to_read(&runtime, &self.path)?;
            let paths = IoPaths::of(&device);
            runtime.block_on(async {
                let volume = Volume::open_base(&device, image).await?;
                self.copy_from(volume, &self.path).await
            })?;
            return Ok(paths.named_in(Done { object: Value::Null, text: String::new(), remark }));
        }
        if self.move_home {
            return self.run_moving(io, &runtime);
        }
        let mut device = io.look_at(&runtime, &self.path)?;
        // What somebody overwrites in place meanwhile would be taken for what it was: no checksum tells.
        if runtime.block_on(Volume::inspect(&device))?.backend.has_base() {
            drop(device);
            device = io.take_to_read(&runtime, &self.path)?;
        }
        let paths = IoPaths::of(&device);
        let devices = self.volume.look_at(io, &runtime, device)?;
        runtime.block_on(async {
            let volume = Volume::open_with(devices, OpenMode::ReadOnly, self.volume.opening()).await?;
            self.copy_from(volume, &self.path).await
        })?;
        Ok(paths.named_in(Done { object: Value::Null, text: String::new(), remark }))
    }

    /// Reads an overlay's volume that is opened for writing, and moves home what is read.
    fn run_moving(&self, io: IoOptions, runtime: &Runtime) -> Outcome<Done> {
        let device = io.take(runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        let backend = runtime.block_on(Volume::inspect(&device))?.backend;
        if backend != Backend::Overlay {
            let reason = Reason::NoOverlays { backend: backend.name() };
            return Err(Error::new("move home", reason).on(device.name()).into());
        }
        let devices = self.volume.take(io, runtime, device)?;
        let options = OpenOptions { move_home_on_read: true, ..OpenOptions::default() };
        let moved = runtime.block_on(async {
            let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
            let copied = self.copy_from(volume.clone(), &self.path).await;
            let moved = volume.moved_home().await?;
            volume.close().await?;
            copied.map(|()| moved)
        })?;
        let remark =
            format!("read {} bytes at byte {}; {moved} blocks moved to the base", self.length, self.offset);
        Ok(paths.named_in(Done { object: Value::Null, text: String::new(), remark }))
    }

    async fn copy_from(&self, volume: Volume, path: &Path) -> Outcome<()> {
        let volume = match &self.further {
            Some(name) => volume.open_volume(name).await?,
            None => volume,
        };
        let (offset, length) = (self.offset, self.length);
        let status = volume.status();
        if let Some(good) = status.log.and_then(|log| log.recovery.damaged_after) {
            eprintln!(
                "icecore: {}: its log is damaged; this is how it was at sequence {good}",
                path.display()
            );
        }
        let context = volume.context().clone();
        let block_bytes = u64::from(status.info.block_bytes);
        let source = match (&self.at, self.sequence.map(Seq)) {
            (Some(name), _) if volume.snapshot(name)?.writable => {
                Source::Now(volume.open_writable(name).await?)
            }
            (Some(name), _) => Source::Past(volume.image_of(name).await?, block_bytes),
            (None, None) => Source::Now(volume),
            (None, sequence) => {
                let options = ImageOptions { sequence, ..ImageOptions::default() };
                Source::Past(volume.image(options).await?, block_bytes)
            }
        };
        let size_bytes = match &source {
            Source::Now(volume) => volume.size_bytes(),
            Source::Past(image, _) => image.size_bytes().unwrap_or(status.info.size_bytes),
        };
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
            source.read(at, &mut piece, &context).await?;
            if let Source::Now(volume) = &source
                && self.move_home
            {
                // No more is noted at a time than what has been read since.
                volume.moved_home().await?;
            }
            stdout.write_all(&piece).map_err(Failure::of_output)?;
            done += want;
        }
        stdout.flush().map_err(Failure::of_output)
    }
}
