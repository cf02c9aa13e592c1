//! The device under test, held exclusively for the whole run, with the runtime that the engine's arms share.

use std::path::{Path, PathBuf};

use icecore::buf::BufPoolOptions;
use icecore::device::identity::confirm_destroy;
use icecore::device::{self, Access, Caching, Device, Geometry, Identity};
use icecore::runtime::{Runtime, RuntimeOptions};
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Volume};

use crate::arms::Arm;
use crate::arms::target::{Bare, Target};
use crate::content;
use crate::failure::Failure;
use crate::nbd::{Address, ConnectOptions, Export};

/// Buffer memory that superblocks, signatures and rounding need beside the operations'.
const OTHER_BUFFER_BYTES: usize = 4 << 20;
/// The smallest sector; a volume's block is larger where the device's is.
pub(crate) const SECTOR_BYTES: u32 = 512;
const MIB: u64 = 1 << 20;
/// Buffers are given out in powers of two; each size class of the operations is counted by itself.
const BUFFER_KINDS_4K: usize = 2;

/// A claimed device and its runtime.
#[derive(Debug)]
pub struct Bench {
    // Before the runtime: a device is dropped while its runtime lives.
    storage: Storage,
    runtime: Runtime,
    path: PathBuf,
    identity: Identity,
}

/// What is measured.
#[derive(Debug)]
enum Storage {
    /// A block device or file.
    Device(Device),
    /// An export of an NBD server.
    Export(Export),
    /// A device that another system has for the time being.
    LentOut,
}

impl Bench {
    /// Claims a device or file whose contents may be lost; `destroy` is what the caller wrote.
    ///
    /// # Errors
    /// Every refusal of [`Device::claim`].
    pub fn claim(
        path: &Path,
        destroy: Option<&str>,
        queue_depth_max: u32,
        force: bool,
    ) -> Result<Self, Failure> {
        let runtime = runtime(queue_depth_max)?;
        let device = Device::claim(runtime.context(), path, destroy, Caching::Direct)?;
        let storage = Storage::Device(device);
        let bench = Self { storage, runtime, path: path.to_owned(), identity: Identity::of(path)? };
        if !force {
            let found = bench.runtime.block_on(Volume::foreign_signature(bench.device()))?;
            if let Some(signature) = found {
                return Err(signature.refusal().on(path.display().to_string()).into());
            }
        }
        Ok(bench)
    }

    /// Makes a file of `size_bytes` and claims it.
    ///
    /// # Errors
    /// As [`Bench::claim`], and what the system says to the file.
    pub fn create(path: &Path, size_bytes: u64, queue_depth_max: u32) -> Result<Self, Failure> {
        device::create_file(path, size_bytes)?;
        Self::claim_own(path, queue_depth_max)
    }

    /// Claims a file that this program has made.
    ///
    /// # Errors
    /// As [`Bench::claim`].
    pub fn claim_own(path: &Path, queue_depth_max: u32) -> Result<Self, Failure> {
        let own = Identity::of(path)?.destroy_argument();
        Self::claim(path, Some(&own), queue_depth_max, true)
    }

    /// Connects to an export whose contents may be lost. The protocol has no way to keep others out of it.
    ///
    /// # Errors
    /// Every refusal of [`Export::connect`]; it is not the one that `destroy` names, or carries a signature.
    pub fn claim_export(
        address: &Address,
        destroy: Option<&str>,
        queue_depth_max: u32,
        force: bool,
        connections: u32,
    ) -> Result<Self, Failure> {
        let runtime = runtime(queue_depth_max)?;
        let options = ConnectOptions { connections, ..ConnectOptions::default() };
        let export = runtime.block_on(Export::connect(runtime.context(), address, options))?;
        let identity = export.identity();
        confirm_destroy(&identity, destroy)?;
        if !force && let Some(signature) = runtime.block_on(export.foreign_signature(runtime.context()))? {
            return Err(signature.refusal().on(address.to_string()).into());
        }
        let path = identity.path.clone();
        Ok(Self { storage: Storage::Export(export), runtime, path, identity })
    }

    /// The device.
    ///
    /// # Panics
    /// Where an export is measured: no arm of one asks for it.
    pub fn device(&self) -> &Device {
        match &self.storage {
            Storage::Device(device) => device,
            Storage::Export(_) | Storage::LentOut => unreachable!("what is measured has no device of ours"),
        }
    }

    /// A bench without its device, which another system has: nothing is held, and nothing of it touched.
    ///
    /// # Errors
    /// No runtime, or no such device.
    pub(crate) fn lent_out(path: &Path, queue_depth_max: u32) -> Result<Self, Failure> {
        let (runtime, identity) = (runtime(queue_depth_max)?, Identity::of(path)?);
        Ok(Self { storage: Storage::LentOut, runtime, path: path.to_owned(), identity })
    }

    /// Whether there is a device.
    pub(crate) fn has_device(&self) -> bool {
        matches!(self.storage, Storage::Device(_))
    }

    /// Whether the device answers no more: not even its first block can be read.
    pub(crate) fn is_gone(&self) -> bool {
        let first_block = async {
            let buf = self.runtime.context().buffers().get(4096)?;
            Bare::new(self.device(), 0).read(0, buf).await.0
        };
        self.has_device() && self.runtime.block_on(first_block).is_err()
    }

    /// The export, if it is one that is measured.
    pub fn export(&self) -> Option<&Export> {
        match &self.storage {
            Storage::Device(_) | Storage::LentOut => None,
            Storage::Export(export) => Some(export),
        }
    }

    /// Sizes and abilities.
    pub fn geometry(&self) -> Geometry {
        match &self.storage {
            Storage::Export(export) => export.geometry(),
            Storage::Device(_) | Storage::LentOut => *self.device().geometry(),
        }
    }

    /// The runtime it belongs to.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serial and size.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The largest data span that all of these arms have room for.
    ///
    /// # Errors
    /// The device is too small for one of them.
    pub fn data_span(&self, arms: &[Arm]) -> Result<DataSpan, Failure> {
        data_span(self.identity.size_bytes, self.path(), arms)
    }
}

/// A data span that every arm of a block has room for: a log keeps a part of its device free, so that a span that
/// others could use would not fit there.
#[derive(Clone, Copy, Debug)]
pub struct DataSpan {
    /// First byte on the bare device.
    pub offset_bytes: u64,
    /// Its length, in whole MiB.
    pub bytes: u64,
    /// The arm that has no room for more.
    pub least: Arm,
}

/// The largest data span that all of these arms have room for on a device of this size.
///
/// # Errors
/// The device is too small for one of them.
pub fn data_span(device_bytes: u64, path: &Path, arms: &[Arm]) -> Result<DataSpan, Failure> {
    if arms.contains(&Arm::Nbd) {
        return Ok(DataSpan { offset_bytes: 0, bytes: device_bytes / MIB * MIB, least: Arm::Nbd });
    }
    let capacity = |backend| {
        Volume::capacity(device_bytes, SECTOR_BYTES, &CreateOptions::new(backend))
            .map_err(|error| error.on(path.display().to_string()))
    };
    // The bare device is measured where `direct` keeps its blocks.
    let (bytes, offset) = capacity(Backend::Direct)?;
    let mut span = DataSpan { offset_bytes: offset.0, bytes, least: Arm::Raw };
    for arm in arms {
        if let Arm::Engine(backend) = arm {
            let (bytes, _offset) = capacity(*backend)?;
            if bytes < span.bytes {
                span = DataSpan { bytes, least: *arm, ..span };
            }
        }
    }
    span.bytes -= span.bytes % MIB;
    Ok(span)
}

/// A runtime with registered buffers for that many operations of either size.
pub(crate) fn runtime(queue_depth_max: u32) -> Result<Runtime, Failure> {
    let depth = queue_depth_max as usize;
    let arena_bytes = depth.max(content::TRANSFERS_IN_FLIGHT) * content::TRANSFER_BYTES
        + BUFFER_KINDS_4K * depth * 4096
        + OTHER_BUFFER_BYTES;
    let limit_bytes = 2 * arena_bytes + BufPoolOptions::default().limit_bytes;
    Ok(Runtime::new(RuntimeOptions {
        operations_max: (2 * depth).max(RuntimeOptions::default().operations_max),
        buffers: BufPoolOptions { arena_bytes, limit_bytes, ..BufPoolOptions::default() },
        ..RuntimeOptions::default()
    })?)
}

/// Opens a device to look at it.
///
/// # Errors
/// As [`Device::open`].
pub(crate) fn open_read_only(runtime: &Runtime, path: &Path) -> Result<Device, Failure> {
    Ok(Device::open(runtime.context(), path, Access::ReadOnly, Caching::Direct)?)
}
