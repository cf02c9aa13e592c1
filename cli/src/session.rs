//! A runtime and a device for one command, as the caller asked for them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use icecore::buf::BufPoolOptions;
use icecore::device::{Access, Caching, Device, safety};
use icecore::error::{Error, Reason};
use icecore::export::control::{ControlClient, run_directory};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};
use icecore::volume::{Devices, OpenOptions, Volume};

use crate::failure::Outcome;
use crate::holder;

/// Operations in flight at most; a merge at both ends of a write needs a few.
const OPERATIONS_MAX: usize = 64;

/// How I/O is done. Neither fallback is ever chosen silently.
#[derive(Clone, Copy, Debug, Args)]
pub struct IoOptions {
    /// Use blocking calls instead of io_uring
    #[arg(long, global = true)]
    blocking: bool,
    /// Use the page cache instead of direct I/O
    #[arg(long, global = true)]
    page_cache: bool,
}

impl IoOptions {
    /// Whether requests pass by the page cache.
    pub fn caching(self) -> Caching {
        if self.page_cache { Caching::PageCache } else { Caching::Direct }
    }

    /// A runtime on this thread.
    ///
    /// # Errors
    /// `NoIoUring` where there is none and the fallback was not asked for.
    pub fn runtime(self) -> Outcome<Runtime> {
        let io_mode = if self.blocking { IoMode::Blocking } else { IoMode::Uring };
        // A command does one request at a time. Buffers that are registered with the ring would be of no use, and
        // count against what all processes of an ordinary user may lock together.
        let buffers = BufPoolOptions { arena_bytes: 0, ..BufPoolOptions::default() };
        Ok(Runtime::new(RuntimeOptions { io_mode, operations_max: OPERATIONS_MAX, buffers })?)
    }

    /// Opens the device for a look, and never disturbs whoever uses it.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn look_at(self, runtime: &Runtime, path: &Path) -> Outcome<Device> {
        Ok(Device::open(runtime.context(), path, Access::ReadOnly, self.caching())?)
    }

    /// Opens the device of a volume for writing, unless anybody uses it. Writes nothing yet.
    ///
    /// # Errors
    /// As [`safety::refuse_if_in_use`] and [`Device::open`].
    pub fn take(self, runtime: &Runtime, path: &Path) -> Outcome<Device> {
        self.claim(runtime, path, Access::Exclusive)
    }

    /// Opens the device of a volume for reading, unless anybody uses it. Needs no permission to write.
    ///
    /// # Errors
    /// As [`safety::refuse_if_in_use`] and [`Device::open`].
    pub fn take_to_read(self, runtime: &Runtime, path: &Path) -> Outcome<Device> {
        self.claim(runtime, path, Access::ExclusiveReadOnly)
    }

    /// Opens the device for writing, or reaches the program that has it open.
    ///
    /// # Errors
    /// As [`IoOptions::take`]; `NotReachable` where somebody has it and listens nowhere.
    pub fn reach(self, runtime: &Runtime, path: &Path) -> Outcome<Reached<Device>> {
        safety::refuse_if_in_use(path)?;
        let reached =
            patiently(|| match Device::open(runtime.context(), path, Access::Exclusive, self.caching()) {
                Err(busy) if *busy.reason() == Reason::AlreadyOpen => {
                    self.holder(runtime, path)?.map(Reached::Held).ok_or(busy)
                }
                opened => opened.map(Reached::Own),
            });
        reached.map_err(|error| match error.reason() {
            Reason::AlreadyOpen => {
                let reason = Reason::NotReachable { holder: holder::named(path) };
                Error::new("open", reason).on(path.display().to_string()).into()
            }
            _ => error.into(),
        })
    }

    /// Reaches the program that has the device open; where there is none, or none that this process may reach, what `own`
    /// opens for a look.
    ///
    /// # Errors
    /// What `own` says, and what a program says that listens.
    pub fn reach_to_look<T>(
        self,
        runtime: &Runtime,
        path: &Path,
        own: impl FnOnce() -> Outcome<T>,
    ) -> Outcome<Reached<T>> {
        match self.holder(runtime, path) {
            Ok(Some(client)) => Ok(Reached::Held(client)),
            Err(error) if error.reason().name() != Reason::PermissionDenied.name() => Err(error.into()),
            Ok(None) | Err(_) => own().map(Reached::Own),
        }
    }

    /// The program that has the volume open at `path`, if one listens.
    fn holder(self, runtime: &Runtime, path: &Path) -> Result<Option<ControlClient>, Error> {
        // Without a directory, or without a volume, nobody can listen; what is wrong is told elsewhere.
        let Ok(directory) = run_directory() else { return Ok(None) };
        let device = Device::open(runtime.context(), path, Access::ReadOnly, self.caching())?;
        match runtime.block_on(Volume::inspect(&device)) {
            Ok(info) => ControlClient::connect(&directory, path, &info.pool_id),
            Err(_no_volume) => Ok(None),
        }
    }

    fn claim(self, runtime: &Runtime, path: &Path, access: Access) -> Outcome<Device> {
        safety::refuse_if_in_use(path)?;
        let open = || Device::open(runtime.context(), path, access, self.caching());
        Ok(patiently(open)?)
    }
}

/// A device that a command has opened, or the program that has.
#[derive(Debug)]
pub enum Reached<T> {
    /// Nobody has it.
    Own(T),
    /// This one has it, and does what is asked.
    Held(ControlClient),
}

/// A volume that a command has for itself alone.
#[derive(Debug, Args)]
pub struct ClosedVolume {
    /// The block device or file that holds the volume; nobody may have it open
    pub path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The devices of what does not lie on that of the log: of a linear volume or a base, and of linear objects.
#[derive(Debug, Args)]
pub struct VolumeDevice {
    /// The device of the volume's own blocks, where a linear one, or a base (cow, overlay, logged-cow), does not lie on the device of
    /// its log
    #[arg(long, value_name = "PATH")]
    volume_device: Option<PathBuf>,
    /// The device of the linear objects of snapshots (cow, overlay, logged-cow), where these do not lie on the device of the log
    #[arg(long, value_name = "PATH")]
    objects_device: Option<PathBuf>,
    /// The device of the linear objects is lost: read what does not lie there, and refuse what does. Nothing is written
    #[arg(long, conflicts_with = "objects_device")]
    without_objects: bool,
}

impl VolumeDevice {
    /// Whether any was given.
    pub fn is_given(&self) -> bool {
        self.paths() != (None, None)
    }

    /// How a volume is opened with them.
    pub fn opening(&self) -> OpenOptions {
        OpenOptions { without_objects: self.without_objects, ..OpenOptions::default() }
    }

    /// All devices, where the others are opened for a look.
    ///
    /// # Errors
    /// As [`IoOptions::look_at`].
    pub fn look_at(&self, io: IoOptions, runtime: &Runtime, pool: Device) -> Outcome<Devices> {
        self.with(pool, |path| io.look_at(runtime, path))
    }

    /// All devices, where nobody may have the others open, and nothing is written to them.
    ///
    /// # Errors
    /// As [`IoOptions::take_to_read`].
    pub fn take_to_read(&self, io: IoOptions, runtime: &Runtime, pool: Device) -> Outcome<Devices> {
        self.with(pool, |path| io.take_to_read(runtime, path))
    }

    /// All devices, where the others are opened for writing.
    ///
    /// # Errors
    /// As [`IoOptions::take`].
    pub fn take(&self, io: IoOptions, runtime: &Runtime, pool: Device) -> Outcome<Devices> {
        self.with(pool, |path| io.take(runtime, path))
    }

    fn with(&self, pool: Device, open: impl Fn(&Path) -> Outcome<Device>) -> Outcome<Devices> {
        let volume = self.volume_device.as_deref().map(&open).transpose()?;
        let objects = self.objects_device.as_deref().map(&open).transpose()?;
        Ok(Devices { pool, volume, objects })
    }

    /// The paths that were given: the volume's own, and that of linear objects.
    pub fn paths(&self) -> (Option<&Path>, Option<&Path>) {
        (self.volume_device.as_deref(), self.objects_device.as_deref())
    }
}

/// Tries again for a moment while somebody has the device open. The kernel frees the ring of a process that
/// was killed, and with it the files registered there, some milliseconds after the process is gone.
///
/// # Errors
/// What the last try said.
pub fn patiently<T>(open: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    const TRIES: u32 = 25;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match open() {
            Err(error) if *error.reason() == Reason::AlreadyOpen => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    open()
}

/// `O_DIRECT` or `page cache`, for status and results.
pub fn caching_name(caching: Caching) -> &'static str {
    match caching {
        Caching::Direct => "O_DIRECT",
        Caching::PageCache => "page cache",
    }
}
