//! Opening what the device of a base holds when the device of the log, with all metadata, is lost.
//!
//! Of a `cow` volume that is the current image, whole; its snapshots are broken. Of an `overlay` volume it is the image at
//! which the oldest overlay began: nobody can say which blocks are newer elsewhere, so it is never shown as the current
//! one. Asked for by name alone, never chosen by [`Volume::open`].
//!
//! Invariant: before the first write, the device durably says that it has gone on without its log, and from then on the log's
//! device is refused beside it: what that holds of the past knows nothing of what was overwritten.

use std::cell::RefCell;
use std::rc::Rc;

use super::open::{check, refuse_unknown_features};
use super::roles::{describe, own_role};
use super::{OpenMode, Volume, format_id};
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    Area, FEATURE_OBJECTS_DEVICE, FEATURE_VOLUME_DEVICE, ROLE_LOG, ROLE_VOLUME, STATE_OPEN, Superblock,
    VOLUME_BASE_MIXED, VOLUME_LOG_LOST,
};
use crate::object::linear::Linear;
use crate::pool::layout::HEAD_BYTES;
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::{Alone, Backend, Store};

/// Which image is asked for of a base without its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseImage {
    /// The current one: of `cow`. With [`OpenMode::ReadWriteAcceptingLoss`] its snapshots are given up for good; after that
    /// [`OpenMode::ReadWrite`] does.
    Current(OpenMode),
    /// The oldest one, for reading alone: of `overlay`.
    Oldest,
}

impl Volume {
    /// Opens the device of a base alone, since the device of its log is lost. Its size and settings are as they were.
    ///
    /// # Errors
    /// `InvalidSetting` where the device is no base that lies apart, `WrongDevice` where it is the log's, `CurrentLost` and
    /// `BaseMixed` where the base is not the image that is asked for, `SnapshotBroken` for the oldest image of `cow`,
    /// `DeviceMissing` for writing without accepting the loss, and as [`Volume::open`].
    pub async fn open_base(device: &Device, image: BaseImage) -> Result<Self> {
        Self::open_base_alone(device, image).await.map_err(|error| error.or_on(device.name()))
    }

    async fn open_base_alone(device: &Device, image: BaseImage) -> Result<Self> {
        let (mut record, repair) = superblock::read(device).await?;
        let backend = check_base(&record, device)?;
        let refused = |reason| Err(Error::new("open base", reason));
        let id = format_id(&record.device_of(ROLE_LOG).unwrap_or_default());
        let flags = record.volume_flags.get();
        let mode = match (backend, image) {
            // It was going back to a snapshot.
            (Backend::Cow, BaseImage::Current(_)) if flags & VOLUME_BASE_MIXED != 0 => {
                return refused(Reason::BaseMixed { id });
            }
            (Backend::Cow, BaseImage::Current(mode)) => mode,
            (Backend::Cow, BaseImage::Oldest) => return refused(Reason::SnapshotBroken { moment: 0 }),
            (_, BaseImage::Current(_)) => return refused(Reason::CurrentLost { id }),
            (_, BaseImage::Oldest) if flags & VOLUME_BASE_MIXED != 0 => {
                return refused(Reason::BaseMixed { id });
            }
            (_, BaseImage::Oldest) => OpenMode::ReadOnly,
        };
        if mode == OpenMode::ReadWrite && flags & VOLUME_LOG_LOST == 0 {
            return refused(Reason::DeviceMissing { role: "log", id });
        }
        let failed = FailureFlag::default();
        if mode != OpenMode::ReadOnly {
            refuse_unknown_features(&record)?;
            // The whole copy is made safe before it is written over.
            if let Some(copy) = repair {
                superblock::write_copy(device, &record, copy, &failed).await?;
            }
            record.state = STATE_OPEN.into();
            record.volume_flags |= VOLUME_LOG_LOST;
            record.generation += 1;
            superblock::write(device, &record, &failed).await?;
        }
        let base = Linear::new(device, record.base);
        let store = Store::Alone(Alone { base, backend, log_id: id });
        let superblock = Rc::new(RefCell::new(record));
        Ok(Self::opened(store, device.clone().into(), superblock, failed, mode == OpenMode::ReadOnly, None))
    }
}

/// Refuses what is not the superblock of a base that lies apart.
fn check_base(record: &Superblock, device: &Device) -> Result<Backend> {
    let backend = Backend::from_number(record.backend.get())?;
    if !record.has_volume_device() || !backend.has_base() {
        let rule = "only a base that lies apart from its log is opened without it";
        let value = device.name().to_string();
        return Err(Error::new("open base", Reason::InvalidSetting { name: "base", value, rule }));
    }
    if own_role(record) != Some(ROLE_VOLUME) {
        let reason = Reason::WrongDevice { wanted: "volume", found: describe(record) };
        return Err(Error::new("open base", reason));
    }
    // What remains is what a pool with a base says of itself.
    let features = record.features_incompatible.get() & !(FEATURE_VOLUME_DEVICE | FEATURE_OBJECTS_DEVICE);
    let (features_incompatible, data, home_bytes) = (features.into(), Area::new(HEAD_BYTES, 0), 0.into());
    check(&Superblock { features_incompatible, data, home_bytes, ..*record }, device)?;
    Ok(backend)
}
