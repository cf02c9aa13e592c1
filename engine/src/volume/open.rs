//! Opening, inspecting and closing a volume.

use std::cell::RefCell;
use std::rc::Rc;

use super::create::SEGMENT_BLOCKS;
use super::roles::{apart, check_pool_role};
use super::{BLOCK_BYTES_MAX, Devices, Volume, VolumeInfo};
use crate::device::{Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    FEATURE_BASE, FEATURE_LOG, FEATURE_MANY_SNAPSHOTS, FEATURE_OBJECTS, KNOWN_READ_ONLY, STATE_CLOSED,
    STATE_OPEN, Superblock, VOLUME_THIN,
};
use crate::pool::layout::HEAD_BYTES;
use crate::pool::metadata::EXTENTS_MAX;
use crate::pool::snapshots::SNAPSHOTS_MAX;
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::log::{Access, OpenOptions};
use crate::store::{Backend, Store};
use crate::units::SECTOR_BYTES;

/// No volume is opened as often as this; a higher generation is damage, and could not be raised safely.
const GENERATION_MAX: u64 = 1 << 62;

/// No device is as large as this.
const HOME_BYTES_MAX: u64 = 1 << 56;

/// What an opener wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read and write. Repairs a damaged superblock copy and notes that the volume is open.
    ReadWrite,
    /// As `ReadWrite`, and gives up what lies behind a damage of the log, for good.
    ReadWriteAcceptingLoss,
    /// Read. Writes nothing at all; a damaged log is served up to the damage.
    ReadOnly,
}

impl Volume {
    /// Opens the volume on a device, or on several. After it returned, a crash is told from an orderly close.
    ///
    /// # Errors
    /// `NoSuperblock`, `SuperblockDamaged`, `SuperblockConflict`, `UnknownVersion`, `UnknownFeatures`,
    /// `UnknownBackend`, `DeviceTooSmall`, `InvalidSetting` where the block is smaller than the device's own,
    /// `MetadataDamaged`, `LogDamaged`, `WrongDevice` and `DeviceMissing` by the identities stored on the devices, and
    /// what these say.
    pub async fn open(devices: impl Into<Devices>, mode: OpenMode) -> Result<Self> {
        Self::open_with(devices, mode, OpenOptions::default()).await
    }

    /// As [`Volume::open`], with other settings for a log, and with the volume's own device where it has one.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub async fn open_with(
        devices: impl Into<Devices>,
        mode: OpenMode,
        options: OpenOptions,
    ) -> Result<Self> {
        let devices = devices.into();
        let device = devices.pool.clone();
        let (mut record, repair) = superblock::read(&device).await?;
        check(&record, &device).map_err(|error| error.on(device.name()))?;
        let apart = apart(&record, &devices, mode != OpenMode::ReadOnly, options.without_objects).await;
        let apart = apart.map_err(|error| error.or_on(device.name()))?;
        let failed = FailureFlag::default();
        if mode != OpenMode::ReadOnly {
            refuse_unknown_features(&record).map_err(|error| error.on(device.name()))?;
            // The whole copy is made safe before it is written over.
            if let Some(copy) = repair {
                superblock::write_copy(&device, &record, copy, &failed).await?;
            }
            record.state = STATE_OPEN.into();
            record.generation += 1;
            superblock::write(&device, &record, &failed).await?;
        }
        let access = match mode {
            OpenMode::ReadOnly => Access::Read,
            OpenMode::ReadWrite => Access::Write,
            OpenMode::ReadWriteAcceptingLoss => Access::WriteAcceptingLoss,
        };
        let store = Store::open(&device, &record, access, options, apart, failed.clone()).await;
        let store = store.map_err(|error| error.or_on(device.name()))?;
        let superblock = Rc::new(RefCell::new(record));
        Ok(Self::opened(store, devices, superblock, failed, mode == OpenMode::ReadOnly, None))
    }

    /// What the volume on a device is. Writes nothing.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub async fn inspect(device: &Device) -> Result<VolumeInfo> {
        let (record, _repair) = superblock::read(device).await?;
        check(&record, device).map_err(|error| error.on(device.name()))?;
        Ok(VolumeInfo::of(&record, Backend::from_number(record.backend.get())?))
    }

    /// Waits for writes in flight, makes everything durable and notes the orderly close. Every later request
    /// is refused; the device is free when the last clone is dropped.
    ///
    /// # Errors
    /// `Poisoned` where an earlier flush failed, `Closed`, and what the device says.
    pub async fn close(&self) -> Result<()> {
        let writable: Vec<Volume> =
            self.0.writable.borrow().values().filter_map(|one| one.upgrade()).map(Volume).collect();
        if self.0.read_only {
            writable.iter().chain([self]).for_each(|volume| volume.0.closed.set(true));
            return Ok(());
        }
        if self.0.origin.is_some() {
            self.flush().await?;
            self.0.closed.set(true);
            return Ok(());
        }
        self.check_writable("close")?;
        self.0.closed.set(true);
        self.let_all_go();
        let guard = self.0.lock.lock(0, u64::MAX).await;
        for volume in &writable {
            volume.0.closed.set(true);
            // What is under way in it ends before.
            drop(volume.0.lock.lock(0, u64::MAX).await);
        }
        let io = Io { guard: Some(guard.clone()), ..self.flush_io() };
        self.0.store.close(io).await?;
        self.check_unpoisoned("close")?;
        let _turn = self.0.superblock_turn.lock(0, 1).await;
        let mut record = *self.0.superblock.borrow();
        record.state = STATE_CLOSED.into();
        record.generation += 1;
        superblock::write(&self.0.device, &record, &self.0.failed).await?;
        *self.0.superblock.borrow_mut() = record;
        drop(guard);
        Ok(())
    }
}

/// Refuses to write what uses features that forbid it to this build.
pub(super) fn refuse_unknown_features(record: &Superblock) -> Result<()> {
    match record.features_read_only.get() & !KNOWN_READ_ONLY {
        0 => Ok(()),
        unknown => Err(Error::new("open", Reason::UnknownFeatures { unknown })),
    }
}

/// Refuses a record whose parts contradict each other or the device, although its checksum is right.
pub(super) fn check(record: &Superblock, device: &Device) -> Result<()> {
    check_pool_role(record)?;
    let block_bytes = record.block_bytes.get();
    let region_bytes = record.region_bytes.get();
    let logical = device.geometry().logical_block_bytes;
    if block_bytes < logical {
        let rule = "the device's logical block is larger: use a device with the block size of the first one";
        let value = block_bytes.to_string();
        return Err(Error::new("open", Reason::InvalidSetting { name: "block size", value, rule }));
    }
    let volume_bytes = record.volume_bytes.get();
    let has_log = record.features_incompatible.get() & FEATURE_LOG != 0;
    let segment_bytes = record.segment_bytes.get();
    let is_linear = record.backend.get() == Backend::Linear.number();
    let has_base = record.features_incompatible.get() & FEATURE_BASE != 0;
    let has_base_here = has_base && !record.has_volume_device();
    let extents_max = if is_linear { EXTENTS_MAX } else { u64::MAX };
    let sound = block_bytes.is_power_of_two()
        && (SECTOR_BYTES as u32..=BLOCK_BYTES_MAX).contains(&block_bytes)
        && region_bytes.is_power_of_two()
        && region_bytes >= block_bytes
        && volume_bytes > 0
        && volume_bytes.is_multiple_of(region_bytes.into())
        && (has_base
            || volume_bytes <= record.data.bytes.get().max(record.home_bytes.get())
            || record.volume_flags.get() & VOLUME_THIN != 0)
        && volume_bytes.div_ceil(u64::from(segment_bytes.max(block_bytes))) <= extents_max
        && (!has_log
            || segment_bytes.is_power_of_two() && SEGMENT_BLOCKS.contains(&(segment_bytes / block_bytes)))
        && record.data.offset.get() >= HEAD_BYTES
        && record.data.offset.get().is_multiple_of(block_bytes.into())
        && record.end() <= record.device_bytes.get()
        && record.generation == record.generation_tail
        && record.generation.get() < GENERATION_MAX
        && record.base.bytes.get() == if has_base_here { volume_bytes } else { 0 }
        && record.base.offset.get().is_multiple_of(block_bytes.into())
        && (!has_base_here || record.base.offset.get() >= HEAD_BYTES)
        && (record.home_bytes.get() != 0)
            == (record.has_volume_device() && !has_base || record.has_objects_device())
        && (!record.has_objects_device() || record.features_incompatible.get() & FEATURE_OBJECTS != 0)
        && record.home_bytes.get() <= HOME_BYTES_MAX
        && (record.snapshots_max.get() != 0)
            == (record.features_incompatible.get() & FEATURE_MANY_SNAPSHOTS != 0)
        && record.snapshots_max.get() <= SNAPSHOTS_MAX;
    if sound { Ok(()) } else { Err(Error::new("open", Reason::SuperblockDamaged)) }
}
