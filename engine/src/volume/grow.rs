//! Growing the pool of a volume that nobody has open, onto what its device has become larger by.
//!
//! Order: metadata for the larger pool where the present one has nothing; a flush; the superblock, one copy after
//! the other. So growing that is cut short leaves the pool as it was, or grown; never a mixture.

use super::open::{check, refuse_unknown_features};
use super::roles::apart;
use super::{Devices, Volume, VolumeInfo};
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::FEATURE_LOG;
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::{Backend, log};

/// What growing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// What the volume is now. Its own size is as it was.
    pub info: VolumeInfo,
    /// Bytes for blocks that the pool had.
    pub before_bytes: u64,
    /// Bytes for blocks that it has.
    pub after_bytes: u64,
}

impl Volume {
    /// Gives the pool on a device all the room that the device has. Nobody may have the volume open; it need
    /// not have been closed in order. A log goes on, and applying that stalled for want of space, once it is opened.
    ///
    /// # Errors
    /// `CannotGrow` where there is no log, `CannotShrink` where the device has become smaller, `DeviceTooSmall` with
    /// the bytes that the next segment takes, what [`Volume::open`] refuses, and what the device says.
    pub async fn grow(device: &Device) -> Result<Grown> {
        Self::grow_on(&Devices::from(device.clone())).await
    }

    /// As [`Volume::grow`]; devices beside the pool's stay as they are.
    ///
    /// # Errors
    /// As [`Volume::grow`].
    pub async fn grow_on(devices: &Devices) -> Result<Grown> {
        let grown = Self::grow_pool(devices).await;
        grown.map_err(|error| error.or_on(devices.pool.name()))
    }

    async fn grow_pool(devices: &Devices) -> Result<Grown> {
        let device = &devices.pool;
        let (before, repair) = superblock::read(device).await?;
        check(&before, device)?;
        refuse_unknown_features(&before)?;
        let backend = Backend::from_number(before.backend.get())?;
        if before.features_incompatible.get() & FEATURE_LOG == 0 {
            return Err(Error::new("grow", Reason::CannotGrow { why: "only a pool with a log grows" }));
        }
        apart(&before, devices, false, false).await?;
        let (was_bytes, found_bytes) = (before.device_bytes.get(), device.geometry().size_bytes);
        if found_bytes < was_bytes {
            return Err(Error::new("grow", Reason::CannotShrink { was_bytes, found_bytes }));
        }
        let failed = FailureFlag::default();
        let mut after = log::grow(device, &before).await?;
        // The whole copy is made safe before it is written over.
        if let Some(copy) = repair {
            superblock::write_copy(device, &before, copy, &failed).await?;
        }
        after.generation += 1;
        superblock::write(device, &after, &failed).await?;
        Ok(Grown {
            info: VolumeInfo::of(&after, backend),
            before_bytes: before.data.bytes.get(),
            after_bytes: after.data.bytes.get(),
        })
    }
}
