//! The device of the volume's own blocks, where that is not the pool's: which one it is, and that its superblock says
//! what the pool's does.
//!
//! Its bytes have addresses of their own, from [`APART`] on, so that everything that reads a pool reads both.

use zerocopy::IntoBytes;

use super::superblock::{self, Copies, NOTED_FIRST};
use super::{Checker, Code, Place};
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    Area, ROLE_LOG, ROLE_VOLUME, Superblock, VOLUME_BASE_MIXED, VOLUME_LOG_LOST,
};

/// Addresses from here on are bytes of the volume's own device. No device is so large.
pub(super) const APART: u64 = 1 << 63;
/// Where its only area begins.
const AREA_OFFSET: u64 = 1 << 20;

impl<'a> Checker<'a> {
    /// The device that an address is of, and the byte there.
    pub(super) fn device_at(&self, address: u64) -> (&'a Device, u64) {
        match self.volume {
            Some(volume) if address >= APART => (volume, address - APART),
            _ => (self.device, address),
        }
    }
}

/// The part that a device plays, by the table that is on it.
pub(super) fn own_role(record: &Superblock) -> u32 {
    let own = record.roles.iter().find(|entry| entry.role.get() != 0 && entry.device_id == record.device_id);
    own.map_or(0, |entry| entry.role.get())
}

/// The base of a volume that has one, or its segments.
pub(super) fn area(home: &Superblock) -> Area {
    if home.base.bytes.get() > 0 { home.base } else { home.data }
}

fn text_of(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn describe(record: &Superblock) -> String {
    let role = match own_role(record) {
        ROLE_VOLUME => "volume",
        ROLE_LOG => "log",
        _ => "unknown",
    };
    format!("the {role} device {} of pool {}", text_of(&record.device_id), text_of(&record.pool_id))
}

/// The superblock of the volume's own device, where this pool's names one; it must have been given, and be that one.
/// `Err` of the outer kind refuses; `Copies::Damaged` has been told.
pub(super) async fn find(
    checker: &mut Checker<'_>,
    action: &'static str,
    pool: &Superblock,
) -> Result<Option<Copies>> {
    let refuse = |device: &Device, reason| Err(Error::new(action, reason).on(device.name()));
    let wrong = |wanted, found| Reason::WrongDevice { wanted, found };
    let wanted = pool.device_of(ROLE_VOLUME).unwrap_or_default();
    let device = match (pool.has_volume_device(), checker.volume) {
        (false, None) => return Ok(None),
        (false, Some(device)) => {
            let rule = "this volume lies in its pool: name its device alone";
            let value = device.name().to_string();
            return refuse(device, Reason::InvalidSetting { name: "volume device", value, rule });
        }
        (true, _) if own_role(pool) == ROLE_VOLUME => {
            return refuse(checker.device, wrong("log", describe(pool)));
        }
        (true, None) => {
            let missing = Reason::DeviceMissing { role: "volume", id: text_of(&wanted) };
            return refuse(checker.device, missing);
        }
        (true, Some(device)) => device,
    };
    let copies = match superblock::copies(checker, action, APART).await {
        Err(error) if *error.reason() == Reason::NoSuperblock => {
            return refuse(device, wrong("volume", "a device without a superblock".to_string()));
        }
        copies => copies?,
    };
    if let Copies::Whole(record) = &copies {
        if record.pool_id != pool.pool_id || record.device_id != wanted {
            return refuse(device, wrong("volume", describe(record)));
        }
        if record.volume_flags.get() & VOLUME_LOG_LOST != 0 {
            let found = format!("{}, which has been written without its log since", describe(record));
            return refuse(device, wrong("volume", found));
        }
    }
    Ok(Some(copies))
}

/// Whether the superblock of the volume's own device says what the pool's does, on a device of so many bytes.
pub(super) fn is_sound(
    checker: &mut Checker<'_>,
    pool: &Superblock,
    home: &Superblock,
    found_bytes: u64,
) -> bool {
    let before = checker.report.damage;
    let has_base = superblock::has_base(pool);
    let plain = |record: &Superblock| {
        let mut plain = *record;
        (plain.address, plain.checksum, plain.device_id) = (0.into(), 0.into(), [0; 16]);
        (plain.generation, plain.generation_tail, plain.state) = (0.into(), 0.into(), 0.into());
        plain.device_bytes = 0.into();
        plain.features_incompatible &= !NOTED_FIRST;
        plain.volume_flags &= if has_base { !VOLUME_BASE_MIXED } else { u32::MAX };
        let nothing = Area::default();
        (plain.roots, plain.metadata, plain.checksums) = (nothing, nothing, nothing);
        (plain.data, plain.base) = (nothing, nothing);
        plain
    };
    let (first, second) = (plain(pool), plain(home));
    let differs = first.as_bytes().iter().zip(second.as_bytes()).position(|(one, other)| one != other);
    let noted = |record: &Superblock| record.features_incompatible.get() & NOTED_FIRST;
    let (bytes, other) = match has_base {
        true => (pool.volume_bytes.get(), home.data),
        false => (pool.home_bytes.get(), home.base),
    };
    let is_nothing = |area: &Area| (area.offset.get(), area.bytes.get()) == (0, 0);
    let own = area(home);
    let mut rules = vec![
        (home.generation == home.generation_tail && home.generation.get() >= 1, "its generation is none"),
        (superblock::has_state(home), "its state is neither open nor closed"),
        (own_role(home) == ROLE_VOLUME, "its role table does not name this device as the volume's"),
        (noted(home) & !noted(pool) == 0, "it has features that its pool has not"),
        (
            [home.roots, home.metadata, home.checksums, other].iter().all(is_nothing)
                && own.offset.get() == AREA_OFFSET
                && own.bytes.get() == bytes,
            "its area is not that of the volume",
        ),
        (
            own.end() <= home.device_bytes.get() && home.device_bytes.get() <= found_bytes,
            "its area or its device ends behind the device",
        ),
    ];
    let text = differs.map(|at| format!("it differs from that of its pool at byte {at}"));
    rules.extend(text.as_deref().map(|text| (false, text)));
    for (holds, text) in rules {
        if !holds {
            checker.found(Code::Superblock, Place::at(APART + home.address.get()), text);
        }
    }
    checker.report.damage == before
}
