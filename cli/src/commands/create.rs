//! `icecore create`: makes a volume.
//!
//! Order: the backend's name, the file if one is to be made, every safety rule ([`Device::claim`]), the volume.
//! A file that was made here disappears again unless the volume on it is whole.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use icecore::device::{Device, Identity, create_file};
use icecore::error::{Error, Reason};
use icecore::object::ObjectKind;
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Devices, Initialise, Volume, WhenFull, format_id};

use super::inspect::{IoPaths, describe};
use crate::failure::{Failure, Outcome};
use crate::interrupt::NewFile;
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice, patiently};
use crate::size;

/// Arguments of `icecore create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The block device or file
    #[arg(long, value_name = "PATH")]
    device: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Says that the contents of exactly the volume's device may be lost; needed with --volume-device
    #[arg(long, value_name = "SERIAL:BYTES", requires = "volume_device")]
    destroy_volume_device: Option<String>,
    /// Says that the contents of exactly the device of linear objects may be lost; needed with --objects-device
    #[arg(long, value_name = "SERIAL:BYTES", requires = "objects_device")]
    destroy_objects_device: Option<String>,
    /// Says that the contents of exactly this device may be lost; needed for whatever exists
    #[arg(long, value_name = "SERIAL:BYTES")]
    destroy: Option<String>,
    /// How the volume is kept: direct, log, linear, cow, overlay, logged-cow
    #[arg(long, value_name = "NAME")]
    backend: String,
    /// Size of the volume; the largest that fits if not given
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: Option<u64>,
    /// Make a sparse file of this size if there is none
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    create: Option<u64>,
    /// Unit of I/O: a power of two from the device's logical block to 64K
    #[arg(long, value_name = "BYTES", value_parser = size::parse_u32)]
    block_bytes: Option<u32>,
    /// Unit of tracking: a power of two from the block to 1G
    #[arg(long, value_name = "BYTES", value_parser = size::parse_u32)]
    region_bytes: Option<u32>,
    /// Unit in which a log takes space: a power of two, at least 8 blocks; by the device's size if not given
    #[arg(long, value_name = "BYTES", value_parser = size::parse_u32)]
    segment: Option<u32>,
    /// Bytes of log between checkpoints: opening after a crash reads up to twice as many (default: 64M, on a
    /// device below 2G a 32nd part of it)
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    checkpoint: Option<u64>,
    /// Overwritten blocks that a log keeps at most, so that moments of the past can be read (default: none)
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    retention: Option<u64>,
    /// How long it keeps them at most, in seconds or with the suffix s, m, h or d (default: as long as they fit)
    #[arg(long, value_name = "TIME", value_parser = size::parse_seconds, requires = "retention")]
    retention_age: Option<u64>,
    /// With cow, overlay and logged-cow: what snapshots may take (default: all that the volume leaves of the device)
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    snapshot_space: Option<u64>,
    /// With cow, overlay and logged-cow: what takes what snapshots need. `mapped`: as much space as they do; `linear`: each snapshot an area
    /// with a place for every block, never full, 64 of them at most
    #[arg(long, value_name = "KIND", default_value = "mapped", value_parser = ["mapped", "linear"])]
    objects: String,
    /// With log, cow, overlay and logged-cow: snapshots that there is room for at a time, 256 to 16384 (default: 256, on a device of
    /// 16G or more 10000)
    #[arg(long, value_name = "N")]
    snapshots_max: Option<u32>,
    /// When there is no room for what snapshots keep, break the oldest ones for good, rather than refuse writes (log, cow,
    /// overlay and logged-cow)
    #[arg(long)]
    break_snapshots: bool,
    /// With linear: space is taken when a block is first applied, and the volume may be larger than its device
    #[arg(long)]
    thin: bool,
    /// Complete writes in memory, up to 64 MiB of them, and force them to the volume when it is flushed (direct alone)
    #[arg(long)]
    volatile_log: bool,
    /// Leave on the device whatever it holds instead of making the volume read as zero
    #[arg(long)]
    keep_contents: bool,
    /// Create it although the device carries somebody else's signature
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Create {
    /// Makes the volume; the result is its id.
    ///
    /// # Errors
    /// As [`Device::claim`] and [`Volume::create`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let options = self.options().map_err(Failure::creating)?;
        let runtime = io.runtime()?;
        let (new_file, destroy) = self.make_file().map_err(Failure::creating)?;
        let made = (|| {
            let (path, destroy) = (&self.device, destroy.as_deref());
            let claim = |path: &Path, destroy| {
                patiently(|| Device::claim(runtime.context(), path, destroy, io.caching()))
            };
            let pool = claim(path, destroy)?;
            let (volume, objects) = self.volume.paths();
            let destroy = self.destroy_volume_device.as_deref();
            let volume = volume.map(|path| claim(path, destroy)).transpose()?;
            let destroy = self.destroy_objects_device.as_deref();
            let objects = objects.map(|path| claim(path, destroy)).transpose()?;
            let devices = Devices { pool, volume, objects };
            let info = runtime.block_on(Volume::create_on(&devices, options))?;
            Ok((info, IoPaths::of(&devices.pool)))
        })();
        let (info, paths) = made.map_err(Failure::creating)?;
        if let Some(file) = new_file {
            file.keep();
        }
        Ok(paths.named_in(Done {
            object: describe(&info, &paths),
            text: format!("{}\n", format_id(&info.id)),
            remark: format!("made a volume of {} bytes on {}", info.size_bytes, self.device.display()),
        }))
    }

    fn options(&self) -> Result<CreateOptions, Error> {
        let mut options = CreateOptions::new(Backend::from_name(&self.backend)?);
        self.check_backend(options.backend)?;
        options.segment_bytes = self.segment;
        options.checkpoint_bytes = self.checkpoint;
        options.retention_bytes = self.retention.unwrap_or(0);
        options.retention_age_s = self.retention_age.unwrap_or(0);
        options.volatile_log = self.volatile_log;
        options.snapshot_bytes = self.snapshot_space;
        options.snapshots_max = self.snapshots_max;
        options.when_full = match self.break_snapshots {
            true => WhenFull::BreakSnapshots,
            false => WhenFull::Refuse,
        };
        options.objects = ObjectKind::from_name(&self.objects)?;
        options.size_bytes = self.size;
        options.block_bytes = self.block_bytes;
        options.region_bytes = self.region_bytes.unwrap_or(options.region_bytes);
        options.initialise = if self.keep_contents { Initialise::Keep } else { Initialise::Zero };
        options.thin = self.thin;
        options.force = self.force;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        options.created_unix_s = now.map(|since| since.as_secs()).unwrap_or(0);
        Ok(options)
    }

    /// Refuses an option that the backend would ignore.
    fn check_backend(&self, backend: Backend) -> Result<(), Error> {
        let of_a_log = [
            ("--segment", self.segment.map(u64::from)),
            ("--checkpoint", self.checkpoint),
            ("--retention", self.retention),
            ("--retention-age", self.retention_age),
        ];
        let wrong =
            |name, value, rule| Err(Error::new("create", Reason::InvalidSetting { name, value, rule }));
        match of_a_log.into_iter().find_map(|(name, value)| Some((name, value?))) {
            Some((name, value)) if backend == Backend::Direct => {
                wrong(name, value.to_string(), "the direct backend has no log")
            }
            _ if self.volume.opening().without_objects => {
                wrong("--without-objects", "true".to_string(), "it is for volumes that there are")
            }
            _ if self.thin && backend != Backend::Linear => {
                wrong("--thin", "true".to_string(), "it is for --backend linear alone")
            }
            _ if self.keep_contents && matches!(backend, Backend::Log | Backend::Linear) => {
                let rule = "a log finds its blocks by what it has written itself; use --backend direct, cow, overlay or logged-cow";
                wrong("--keep-contents", "true".to_string(), rule)
            }
            _ => Ok(()),
        }
    }

    /// Makes the file if that was asked for and there is none, and says what may be destroyed: a file that was
    /// made here holds nothing of anybody's.
    fn make_file(&self) -> Result<(Option<NewFile>, Option<String>), Error> {
        let Some(bytes) = self.create else { return Ok((None, self.destroy.clone())) };
        match create_file(&self.device, bytes) {
            Ok(()) => {
                let file = NewFile::made(&self.device);
                let destroy = Identity::of(&self.device)?.destroy_argument();
                Ok((Some(file), Some(destroy)))
            }
            // Whether what is there may be overwritten is for the caller to say.
            Err(error) if is_there(&error) => Ok((None, self.destroy.clone())),
            Err(error) => {
                self.remove_what_failed();
                Err(error)
            }
        }
    }

    /// A file whose size could not be set was made all the same, if it is empty and was not there before.
    fn remove_what_failed(&self) {
        let empty = std::fs::metadata(&self.device).is_ok_and(|found| found.is_file() && found.len() == 0);
        if empty && let Err(error) = std::fs::remove_file(&self.device) {
            eprintln!("icecore: {} is left half-made: {error}", self.device.display());
        }
    }
}

/// Whether something has that name already.
pub(super) fn is_there(error: &Error) -> bool {
    matches!(error.reason(), Reason::Os { errno: libc::EEXIST })
}
