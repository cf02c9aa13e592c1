//! Which device plays which part, told by the identity that is stored on each.
//!
//! A linear volume, or the base of one that has a base, may lie on a device of its own, and its pool, with the log and
//! all metadata, on another. Both carry a superblock with the same role table. The pool's counts; the other one is
//! written when the volume is made, before the pool's, and says whose device it is.

use super::format_id;
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{FEATURE_BASE, ROLE_LOG, ROLE_VOLUME, Superblock, VOLUME_LOG_LOST};
use crate::pool::layout::HEAD_BYTES;
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::log::HomeDevice;

/// The devices of a volume, by what they are for.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The pool: superblock, metadata and log, and the volume's blocks unless these have a device of their own.
    pub pool: Device,
    /// The device of a linear volume's blocks, or of a base, if it has one.
    pub volume: Option<Device>,
}

impl From<Device> for Devices {
    fn from(pool: Device) -> Self {
        Self { pool, volume: None }
    }
}

/// The name of a part that a device plays.
pub(super) fn role_name(role: u32) -> Option<&'static str> {
    match role {
        ROLE_VOLUME => Some("volume"),
        ROLE_LOG => Some("log"),
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
    let wanted = if record.has_volume_device() { ROLE_LOG } else { ROLE_VOLUME };
    match own_role(record) {
        Some(role) if role == wanted => Ok(()),
        Some(_) if record.has_volume_device() => {
            Err(Error::new("open", Reason::WrongDevice { wanted: "log", found: describe(record) }))
        }
        _ => Err(Error::new("open", Reason::SuperblockDamaged)),
    }
}

/// The volume's own device, where this pool has one: it must be there, and be that one. `repair`: a copy of its
/// superblock that is not whole is written again.
pub(super) async fn home_device(
    pool: &Superblock,
    device: Option<Device>,
    repair: bool,
) -> Result<Option<HomeDevice>> {
    let wanted = pool.device_of(ROLE_VOLUME).unwrap_or_default();
    let device = match (pool.has_volume_device(), device) {
        (false, None) => return Ok(None),
        (false, Some(device)) => {
            let rule = "this volume lies in its pool: open it without";
            let value = device.name().to_string();
            return Err(Error::new("open", Reason::InvalidSetting { name: "volume device", value, rule }));
        }
        (true, None) => {
            let id = format_id(&wanted);
            return Err(Error::new("open", Reason::DeviceMissing { role: "volume", id }));
        }
        (true, Some(device)) => device,
    };
    let wrong = |found| Error::new("open", Reason::WrongDevice { wanted: "volume", found }).on(device.name());
    let (record, copy) = match superblock::read(&device).await {
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
    let has_base = pool.features_incompatible.get() & FEATURE_BASE != 0;
    let (area, bytes) = match has_base {
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
        superblock::write_copy(&device, &record, copy, &FailureFlag::default()).await?;
    }
    Ok(Some(HomeDevice { area, device, record: Box::new(record) }))
}
