//! The volume: the engine's public face.
//!
//! A [`Volume`] is an exported address space of bytes. It checks each request, orders overlapping writes,
//! merges writes smaller than a block, and hands whole blocks to its backend.
//!
//! Promises, in the three words of the design. *Complete*: the call returned; overlapping writes take effect
//! in the order of their first poll, and a read begun after a write completed sees it. *Durable*: after
//! `flush` returned, everything that had completed before it was called survives losing power; so does a
//! write with [`Durability::Durable`] once it returned. *Refused*: a request that is wrong changes nothing. A
//! failed flush or durable write poisons the volume: it takes no more writes until it is opened again,
//! because nobody can say what the device still holds. A dropped future leaves each sector of its range with
//! old or new bytes, and a later write of the range still comes after it.

mod alone;
mod branch;
mod create;
mod group;
mod grow;
mod handle;
mod io;
mod open;
mod roles;
mod rollback;
mod snapshot;
mod volumes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

pub use alone::BaseImage;
pub use create::{CreateOptions, Initialise};
pub use group::{HOLD_NS_MAX, IncompleteGroup, incomplete_groups};
pub use grow::Grown;
pub use handle::VolumeHandle;
pub use open::OpenMode;
pub use roles::Devices;

pub use crate::store::log::{
    ApplyMode, ApplyOptions, ApplyStatus, FurtherVolume, LockTime, OpenOptions, SnapshotGroup, SnapshotLock,
    SnapshotSpace, WhenFull,
};

use crate::buf::BUFFER_BYTES_MAX;
use crate::device::{Caching, Cause, Device, Tally};
use crate::error::{Reason, Result};
use crate::format::superblock::{
    FEATURE_BASE, FEATURE_BRANCHES, FEATURE_GROUPS, FEATURE_LOCKS, FEATURE_LOG, FEATURE_OBJECTS,
    FEATURE_ROLLBACK, FEATURE_SNAPSHOTS, FEATURE_VOLUMES, RoleEntry, STATE_CLOSED, Superblock, VOLUME_THIN,
    VOLUME_VOLATILE_LOG,
};
use crate::object::ObjectKind;
use crate::pool::layout;
use crate::runtime::{Context, FailureFlag, IoPath, RangeLock};
use crate::store::log::{Image, ImageOptions, LogStatus, LogStore, VersionInfo};
use crate::store::{Backend, Store};
use crate::units::{ByteOffset, Epoch, Seq};

/// The largest request, in bytes. A merge needs up to two blocks more than the request has.
pub const TRANSFER_BYTES_MAX: u64 = BUFFER_BYTES_MAX as u64 / 2;
/// The largest block, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 64 << 10;

const _: () = assert!(TRANSFER_BYTES_MAX as usize + 2 * BLOCK_BYTES_MAX as usize <= BUFFER_BYTES_MAX);

/// When a write survives losing power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the next flush that is called once the write has completed.
    OnFlush,
    /// When the write completes.
    Durable,
}

/// An open volume; cheap to clone, bound to its runtime's thread. See the [module](self) for its promises.
///
/// Dropping the last clone without [`Volume::close`] is what a crash is: nothing durable is lost.
#[derive(Clone, Debug)]
pub struct Volume(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    device: Device,
    /// The device of a linear volume, or of a base, that does not lie in the pool.
    volume_device: Option<Device>,
    /// The device of linear objects that do not lie in the pool.
    objects_device: Option<Device>,
    store: Store,
    superblock: Rc<RefCell<Superblock>>,
    /// Held while the superblock is written anew.
    superblock_turn: RangeLock,
    lock: RangeLock,
    failed: FailureFlag,
    closed: Cell<bool>,
    read_only: bool,
    size_bytes: u64,
    /// What the store takes as it is; writes of parts of it are merged.
    whole_bytes: u64,
    /// The pool's own volume, where this is a further one, or a writable snapshot.
    origin: Option<Volume>,
    /// The writable snapshots and further volumes that are open, by their names.
    writable: RefCell<BTreeMap<String, Weak<Inner>>>,
    /// What is held for groups that others take.
    loans: group::Loans,
}

impl Volume {
    /// A volume as it is when it has just been opened.
    fn opened(
        store: Store,
        devices: Devices,
        superblock: Rc<RefCell<Superblock>>,
        failed: FailureFlag,
        read_only: bool,
        origin: Option<Volume>,
    ) -> Self {
        let record = *superblock.borrow();
        let superblock_turn = origin.as_ref().map(|pool| pool.0.superblock_turn.clone()).unwrap_or_default();
        let size_bytes =
            store.log().ok().and_then(|log| log.size_bytes()).unwrap_or(record.volume_bytes.get());
        let whole_bytes = store.whole_bytes(record.block_bytes.get()).into();
        Self(Rc::new(Inner {
            device: devices.pool,
            volume_device: devices.volume,
            objects_device: devices.objects,
            store,
            superblock,
            superblock_turn,
            lock: RangeLock::default(),
            failed,
            closed: Cell::new(false),
            read_only,
            size_bytes,
            whole_bytes,
            origin,
            writable: RefCell::default(),
            loans: RefCell::default(),
        }))
    }
}

/// Where the log keeps what has been written, so that it is durable without the volume's own blocks. Whatever it is,
/// after a flush everything is durable, or the flush has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DurabilityClass {
    /// On this machine's devices, as is what a volume without a log has written.
    Local,
    /// Nowhere: it is in memory, and a flush forces it to the volume.
    None,
}

impl DurabilityClass {
    /// Its name in status and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::None => "none",
        }
    }
}

/// What a volume's superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// The volume's identity.
    pub id: [u8; 16],
    /// The identity of the pool that holds it.
    pub pool_id: [u8; 16],
    /// The version of the format on the device.
    pub format_version: u32,
    /// Which part is played by the device of which identity.
    pub roles: Vec<(&'static str, [u8; 16])>,
    /// Names of the features in use.
    pub features: Vec<&'static str>,
    /// The way it is kept.
    pub backend: Backend,
    /// What its log makes durable.
    pub durability_class: DurabilityClass,
    /// How its log is kept, where there is one on the device.
    pub log: Option<LogSettings>,
    /// Its size.
    pub size_bytes: u64,
    /// Unit of I/O and checksum.
    pub block_bytes: u32,
    /// Unit of tracking.
    pub region_bytes: u32,
    /// Where its data lies on the device.
    pub data_offset_bytes: u64,
    /// The generation of its write authority.
    pub epoch: Epoch,
    /// The last sequence; 0 for a backend that keeps no order.
    pub sequence: Seq,
    /// Whether it was closed in order when it was last open.
    pub closed: bool,
    /// Counts rewrites of the superblock.
    pub generation: u64,
}

/// How a log is kept, as chosen when the volume was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Unit in which the log takes space.
    pub segment_bytes: u32,
    /// Bytes of log between checkpoints.
    pub checkpoint_bytes: u64,
    /// Bytes of superseded blocks kept at most; 0 keeps none.
    pub retention_bytes: u64,
    /// Seconds for which they are kept at most; 0 does not limit it.
    pub retention_age_s: u64,
    /// A linear volume behind it takes space when a block is first applied.
    pub thin: bool,
    /// Snapshots that there is room for at a time.
    pub snapshots_max: u32,
    /// What takes what snapshots of a volume with a base need.
    pub objects: ObjectKind,
}

/// What an open volume is doing and how.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    /// What its superblock says.
    pub info: VolumeInfo,
    /// How its runtime does I/O.
    pub io_path: IoPath,
    /// Whether the page cache is passed by.
    pub caching: Caching,
    /// Whether a flush has failed, so that no more writes are taken.
    pub poisoned: bool,
    /// What the log is doing, where there is one.
    pub log: Option<LogStatus>,
    /// I/Os and bytes of the pool's device by cause.
    pub ledger: Vec<(&'static str, Tally)>,
    /// The device that holds the volume's blocks, and its ledger, where that is not the pool's.
    pub volume_device: Option<(String, Vec<(&'static str, Tally)>)>,
    /// The same of the device that holds linear objects, where that is not the pool's.
    pub objects_device: Option<(String, Vec<(&'static str, Tally)>)>,
}

impl VolumeInfo {
    fn of(superblock: &Superblock, backend: Backend) -> Self {
        let has_log = superblock.features_incompatible.get() & FEATURE_LOG != 0;
        let log = LogSettings {
            segment_bytes: superblock.segment_bytes.get(),
            checkpoint_bytes: superblock.checkpoint_bytes.get(),
            retention_bytes: superblock.retention_bytes.get(),
            retention_age_s: superblock.retention_age_s.get(),
            thin: superblock.volume_flags.get() & VOLUME_THIN != 0,
            snapshots_max: layout::snapshots_max(superblock),
            objects: match superblock.features_incompatible.get() & FEATURE_OBJECTS {
                0 => ObjectKind::Mapped,
                _ => ObjectKind::Linear,
            },
        };
        let is_volatile = superblock.volume_flags.get() & VOLUME_VOLATILE_LOG != 0;
        let features = [
            ("log", has_log),
            ("base", superblock.features_incompatible.get() & FEATURE_BASE != 0),
            ("volume device", superblock.has_volume_device()),
            ("volatile log", is_volatile),
            ("snapshots", superblock.features_incompatible.get() & FEATURE_SNAPSHOTS != 0),
            ("writable snapshots", superblock.features_incompatible.get() & FEATURE_BRANCHES != 0),
            ("linear objects", superblock.features_incompatible.get() & FEATURE_OBJECTS != 0),
            ("objects device", superblock.has_objects_device()),
            ("snapshot locks", superblock.features_incompatible.get() & FEATURE_LOCKS != 0),
            ("further volumes", superblock.features_incompatible.get() & FEATURE_VOLUMES != 0),
            ("snapshot groups", superblock.features_incompatible.get() & FEATURE_GROUPS != 0),
            ("rollback", superblock.features_incompatible.get() & FEATURE_ROLLBACK != 0),
        ];
        let role = |entry: &RoleEntry| Some((roles::role_name(entry.role.get())?, entry.device_id));
        Self {
            id: superblock.volume_id,
            pool_id: superblock.pool_id,
            format_version: superblock.version.get(),
            roles: superblock.roles.iter().filter_map(role).collect(),
            features: features.iter().filter(|(_, used)| *used).map(|(name, _)| *name).collect(),
            durability_class: if is_volatile { DurabilityClass::None } else { DurabilityClass::Local },
            backend,
            log: has_log.then_some(log),
            size_bytes: superblock.volume_bytes.get(),
            block_bytes: superblock.block_bytes.get(),
            region_bytes: superblock.region_bytes.get(),
            data_offset_bytes: superblock.data.offset.get(),
            epoch: Epoch(superblock.epoch.get()),
            sequence: Seq(0),
            closed: superblock.state.get() == STATE_CLOSED,
            generation: superblock.generation.get(),
        }
    }
}

/// An identity as 32 hexadecimal digits.
pub fn format_id(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Volume {
    /// The volume's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    /// What its superblock says now.
    pub fn info(&self) -> VolumeInfo {
        let sequence = self.0.store.log().map_or(0, |log| log.sequence());
        let info = VolumeInfo::of(&self.0.superblock.borrow(), self.backend());
        VolumeInfo { sequence: Seq(sequence), size_bytes: self.0.size_bytes, ..info }
    }

    fn backend(&self) -> Backend {
        self.0.store.backend()
    }

    /// What it is doing and how.
    pub fn status(&self) -> VolumeStatus {
        let ledger =
            |device: &Device| Cause::ALL.map(|cause| (cause.name(), device.ledger().tally(cause))).to_vec();
        let of_part =
            |device: &Option<Device>| device.as_ref().map(|one| (one.name().to_string(), ledger(one)));
        VolumeStatus {
            info: self.info(),
            io_path: self.context().io_path().clone(),
            caching: self.0.device.caching(),
            poisoned: self.0.failed.is_raised(),
            log: self.0.store.log().ok().map(LogStore::status),
            ledger: ledger(&self.0.device),
            volume_device: of_part(&self.0.volume_device),
            objects_device: of_part(&self.0.objects_device),
        }
    }

    /// Opens a read-only image of a moment in the past. What was kept of the past is up to the volume's retention.
    ///
    /// # Errors
    /// `NoPast`, `Expired`, `UnknownMoment`, `SnapshotBroken`, `Closed`, and what the device says.
    pub async fn image(&self, options: ImageOptions) -> Result<Image> {
        self.check_open("open image")?;
        if let (Store::Alone(alone), Some(Seq(moment))) = (&self.0.store, options.sequence)
            && alone.backend == Backend::Cow
        {
            return Err(self.refuse("open image", Reason::SnapshotBroken { moment }));
        }
        // What is overwritten in place must not be half before the moment.
        let guard = match self.backend().has_base() {
            true => Some(self.lock_range(0, self.0.size_bytes).await),
            false => None,
        };
        let mut options = options;
        if let Some(shown) = self.0.store.shown() {
            let now = Seq(self.0.store.log()?.sequence());
            match options.sequence.is_none_or(|sequence| sequence == now) {
                true if self.0.read_only => options.sequence = Some(shown),
                true => self.0.store.finish_rollback().await?,
                false => {}
            }
        }
        self.0.store.log()?.image(options, guard).await
    }

    /// The versions of the block at `offset` that can still be read, oldest first.
    ///
    /// # Errors
    /// `NoPast`, `OutOfRange`, `Closed`, and what the device says.
    pub async fn versions(&self, offset: ByteOffset) -> Result<Vec<VersionInfo>> {
        self.check_range("list versions", offset, 1)?;
        self.0.store.log()?.versions(offset).await
    }

    /// Applies the log to the linear volume up to a sequence, or all of it, and makes that durable. How far
    /// it is then.
    ///
    /// # Errors
    /// `NotLinear`, `Pinned`, `UnknownMoment`, `ApplyStalled`, `Poisoned`, `Closed`, and what the device says.
    pub async fn apply(&self, through: Option<Seq>) -> Result<Seq> {
        self.check_writable("apply")?;
        self.0.store.log()?.apply(through).await
    }

    /// Leaves the base of a linear volume as it is: changes stay in the log until they are accepted. The
    /// sequence that the base holds.
    ///
    /// # Errors
    /// `NotLinear`, `Closed`, and what the device says.
    pub async fn pin_base(&self) -> Result<Seq> {
        self.check_writable("pin the base")?;
        self.0.store.log()?.pin_base().await
    }

    /// Lets a pinned base take changes up to a sequence, or all from now on.
    ///
    /// # Errors
    /// `NotLinear`, `NotPinned` where a sequence is given for nothing, `UnknownMoment`, `Closed`, and what the device says.
    pub async fn accept(&self, through: Option<Seq>) -> Result<()> {
        self.check_writable("accept")?;
        self.0.store.log()?.accept(through).await
    }

    /// The runtime this volume belongs to.
    pub fn context(&self) -> &Context {
        self.0.device.context()
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
