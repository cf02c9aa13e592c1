//! Which device plays which part, told by the identity that is stored on each.
//!
//! A linear volume, or the base of one that has a base, may lie on a device of its own, and so may the linear objects of
//! its snapshots; its pool, with the log and all metadata, lies on another. All carry a superblock with the same role
//! table. The pool's counts; the others are written when the volume is made, before the pool's, and say whose devices
//! they are.

use super::format_id;
use crate::check::Beside;
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    FEATURE_BASE, ROLE_LOG, ROLE_OBJECTS, ROLE_VOLUME, Superblock, VOLUME_LOG_LOST,
};
use crate::pool::layout::HEAD_BYTES;
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::log::{Apart, HomeDevice};

/// The devices of a volume, by what they are for.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The pool: superblock, metadata and log, and the volume's blocks unless these have a device of their own.
    pub pool: Device,
    /// The device of a linear volume's blocks, or of a base, if it has one.
    pub volume: Option<Device>,
    /// The device of the linear objects of snapshots, if they have one.
    pub objects: Option<Device>,
}

impl Devices {
    /// All there are, the pool's first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Device> {
        [&self.pool].into_iter().chain(&self.volume).chain(&self.objects)
    }

    /// Those beside the pool's, for the offline check and salvage.
    pub fn beside(&self) -> Beside<'_> {
        Beside { volume: self.volume.as_ref(), objects: self.objects.as_ref() }
    }
}

impl From<Device> for Devices {
    fn from(pool: Device) -> Self {
        Self { pool, volume: None, objects: None }
    }
}

/// The name of a part that a device plays.
pub(super) fn role_name(role: u32) -> Option<&'static str> {
    match role {
        ROLE_VOLUME => Some("volume"),
        ROLE_LOG => Some("log"),
        ROLE_OBJECTS => Some("objects"),
        _ => None,
    }
}

/// The part that the device of this superblock plays, by the table in it.
pub(super) fn own_role(record: &Superblock) -> Option<u32> {
    let own = record.roles.iter().find(|entry| entry.device_id == record.device_id && entry.role.get() != 0);
    own.map(|entry| entry.role.get())
}

pub(super) fn describe(record: &Superblock) -> String {
    let role = own_role(record).and_then(role_name).unwrap_or("unknown");
    format!("the {role} device {} of pool {}", format_id(&record.device_id), format_id(&record.pool_id))
}

/// Refuses the superblock of a device that is not the one of its pool's log, or of the whole pool.
pub(super) fn check_pool_role(record: &Superblock) -> Result<()> {
    let (wanted, name) = if record.has_volume_device() { (ROLE_LOG, "log") } else { (ROLE_VOLUME, "volume") };
    match own_role(record) {
        Some(role) if role == wanted => Ok(()),
        Some(_) if record.has_volume_device() || record.has_objects_device() => {
            Err(Error::new("open", Reason::WrongDevice { wanted: name, found: describe(record) }))
        }
        _ => Err(Error::new("open", Reason::SuperblockDamaged)),
    }
}

/// The devices beside the pool's, where it has such: each must be there, and be that one. `repair`: a copy of a superblock
/// that is not whole is written again. `without_objects`: their device is lost, and is left out; nobody writes then.
pub(super) async fn apart(
    pool: &Superblock,
    devices: &Devices,
    repair: bool,
    without_objects: bool,
) -> Result<Apart> {
    let objects_id = || format_id(&pool.device_of(ROLE_OBJECTS).unwrap_or_default());
    let invalid = |name, value: &str, rule| {
        Err(Error::new("open", Reason::InvalidSetting { name, value: value.to_string(), rule }))
    };
    match (&devices.volume, &devices.objects) {
        (Some(device), _) if !pool.has_volume_device() => {
            return invalid("volume device", device.name(), "this volume lies in its pool: open it without");
        }
        (_, Some(device)) if !pool.has_objects_device() => {
            let rule = "this volume has no objects that lie apart: open it without";
            return invalid("objects device", device.name(), rule);
        }
        (_, Some(device)) if without_objects => {
            let rule = "it is opened without what lies there: leave out one of the two";
            return invalid("objects device", device.name(), rule);
        }
        (_, None) if without_objects && !pool.has_objects_device() => {
            return invalid("without objects", "yes", "this volume has no objects that lie apart");
        }
        (_, None) if without_objects && repair => {
            let missing = Reason::DeviceMissing { role: "objects", id: objects_id() };
            return Err(Error::new("open for writing", missing));
        }
        _ => {}
    }
    let volume = match pool.has_volume_device() {
        true => Some(home_device(pool, ROLE_VOLUME, "volume", devices.volume.as_ref(), repair).await?),
        false => None,
    };
    let objects = match pool.has_objects_device() && !without_objects {
        true => Some(home_device(pool, ROLE_OBJECTS, "objects", devices.objects.as_ref(), repair).await?),
        false => None,
    };
    Ok(Apart { volume, objects, lost_objects: without_objects.then(objects_id) })
}

/// The device with a part of this pool, which has one for it.
async fn home_device(
    pool: &Superblock,
    role: u32,
    name: &'static str,
    device: Option<&Device>,
    repair: bool,
) -> Result<HomeDevice> {
    let wanted = pool.device_of(role).unwrap_or_default();
    let Some(device) = device else {
        return Err(Error::new("open", Reason::DeviceMissing { role: name, id: format_id(&wanted) }));
    };
    let wrong = |found| Error::new("open", Reason::WrongDevice { wanted: name, found }).on(device.name());
    let (record, copy) = match superblock::read(device).await {
        Err(error) if *error.reason() == Reason::NoSuperblock => {
            return Err(wrong("a device without a superblock".to_string()));
        }
        found => found?,
    };
    if record.pool_id != pool.pool_id || record.device_id != wanted {
        return Err(wrong(describe(&record)));
    }
    if record.volume_flags.get() & VOLUME_LOG_LOST != 0 {
        return Err(wrong(format!("{}, which has been written without its log since", describe(&record))));
    }
    let is_base = role == ROLE_VOLUME && pool.features_incompatible.get() & FEATURE_BASE != 0;
    let (area, bytes) = match is_base {
        true => (record.base, pool.volume_bytes),
        false => (record.data, pool.home_bytes),
    };
    let fits = area.bytes == bytes
        && area.offset.get() >= HEAD_BYTES
        && area.offset.get().is_multiple_of(u64::from(pool.block_bytes.get()))
        && record.segment_bytes == pool.segment_bytes
        && record.block_bytes == pool.block_bytes
        && pool.block_bytes.get() >= device.geometry().logical_block_bytes;
    if !fits {
        return Err(Error::new("open", Reason::SuperblockDamaged).on(device.name()));
    }
    if let Some(copy) = copy.filter(|_| repair) {
        superblock::write_copy(device, &record, copy, &FailureFlag::default()).await?;
    }
    Ok(HomeDevice { area, device: device.clone(), record: Box::new(record) })
}
