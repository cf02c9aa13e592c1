//! The devices beside the pool's: that of the volume's own blocks, and that of linear objects. Which ones they are, and that
//! their superblocks say what the pool's does.
//!
//! Their bytes have addresses of their own, so that everything that reads a pool reads all of them.

use zerocopy::IntoBytes;

use super::superblock::{self, Copies, NOTED_FIRST};
use super::{Beside, Checker, Code, Place};
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    Area, ROLE_LOG, ROLE_OBJECTS, ROLE_VOLUME, Superblock, VOLUME_BASE_MIXED, VOLUME_LOG_LOST,
};

/// Where the only area of such a device begins.
const AREA_OFFSET: u64 = 1 << 20;

/// What may lie on a device of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    role: u32,
    name: &'static str,
    /// Addresses from here on are bytes of its device. No device reaches as far as the next one's.
    pub from: u64,
}

/// The volume's own blocks: its base, or the segments of a linear one.
pub(super) const VOLUME: Part = Part { role: ROLE_VOLUME, name: "volume", from: 1 << 63 };
/// Linear objects.
pub(super) const OBJECTS: Part = Part { role: ROLE_OBJECTS, name: "objects", from: 3 << 62 };

impl Part {
    fn is_apart(self, pool: &Superblock) -> bool {
        if self == VOLUME { pool.has_volume_device() } else { pool.has_objects_device() }
    }

    fn given<'a>(self, beside: &Beside<'a>) -> Option<&'a Device> {
        if self == VOLUME { beside.volume } else { beside.objects }
    }

    /// Whether it is the base of a volume that has one.
    fn is_base(self, pool: &Superblock) -> bool {
        self == VOLUME && superblock::has_base(pool)
    }
}

/// The superblocks of the devices beside the pool's, where it has such.
#[derive(Debug, Default)]
pub(super) struct Homes {
    pub volume: Option<Box<Superblock>>,
    pub objects: Option<Box<Superblock>>,
}

impl Homes {
    pub fn all(&self) -> impl Iterator<Item = (Part, &Superblock)> {
        let all = [(VOLUME, self.volume.as_deref()), (OBJECTS, self.objects.as_deref())];
        all.into_iter().filter_map(|(part, home)| Some((part, home?)))
    }
}

impl<'a> Checker<'a> {
    /// The device that an address is of, and the byte there.
    pub(super) fn device_at(&self, address: u64) -> (&'a Device, u64) {
        for part in [OBJECTS, VOLUME] {
            if let Some((device, at)) = part.given(&self.beside).zip(address.checked_sub(part.from)) {
                return (device, at);
            }
        }
        (self.device, address)
    }
}

/// The part that a device plays, by the table that is on it.
pub(super) fn own_role(record: &Superblock) -> u32 {
    let own = record.roles.iter().find(|entry| entry.role.get() != 0 && entry.device_id == record.device_id);
    own.map_or(0, |entry| entry.role.get())
}

/// The part that the pool's device has to play.
pub(super) fn role_of_pool(pool: &Superblock) -> u32 {
    if pool.has_volume_device() { ROLE_LOG } else { ROLE_VOLUME }
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
        ROLE_OBJECTS => "objects",
        _ => "unknown",
    };
    format!("the {role} device {} of pool {}", text_of(&record.device_id), text_of(&record.pool_id))
}

/// The superblocks of the devices beside the pool's; these must have been given, and be those. `None` where one of them is
/// damaged, and that has been told.
pub(super) async fn find(
    checker: &mut Checker<'_>,
    action: &'static str,
    pool: &Superblock,
) -> Result<Option<Homes>> {
    let is_other = matches!(own_role(pool), ROLE_VOLUME | ROLE_LOG | ROLE_OBJECTS)
        && own_role(pool) != role_of_pool(pool)
        && (pool.has_volume_device() || pool.has_objects_device());
    if is_other {
        let wanted = if pool.has_volume_device() { "log" } else { VOLUME.name };
        let wrong = Reason::WrongDevice { wanted, found: describe(pool) };
        return Err(Error::new(action, wrong).on(checker.device.name()));
    }
    let mut homes = Homes::default();
    for (part, home) in [(VOLUME, &mut homes.volume), (OBJECTS, &mut homes.objects)] {
        match find_one(checker, action, pool, part).await? {
            Some(Copies::Damaged) => return Ok(None),
            Some(Copies::Whole(record)) => *home = Some(record),
            None => {}
        }
    }
    Ok(Some(homes))
}

async fn find_one(
    checker: &mut Checker<'_>,
    action: &'static str,
    pool: &Superblock,
    part: Part,
) -> Result<Option<Copies>> {
    let refuse = |device: &Device, reason| Err(Error::new(action, reason).on(device.name()));
    let wrong = |found| Reason::WrongDevice { wanted: part.name, found };
    let wanted = pool.device_of(part.role).unwrap_or_default();
    let device = match (part.is_apart(pool), part.given(&checker.beside)) {
        (false, None) => return Ok(None),
        (false, Some(device)) => {
            let (name, rule) = match part == VOLUME {
                true => ("volume device", "this volume lies in its pool: name its device alone"),
                false => {
                    ("objects device", "this volume has no objects that lie apart: name its other devices")
                }
            };
            let value = device.name().to_string();
            return refuse(device, Reason::InvalidSetting { name, value, rule });
        }
        (true, None) => {
            let missing = Reason::DeviceMissing { role: part.name, id: text_of(&wanted) };
            return refuse(checker.device, missing);
        }
        (true, Some(device)) => device,
    };
    let copies = match superblock::copies(checker, action, part.from).await {
        Err(error) if *error.reason() == Reason::NoSuperblock => {
            return refuse(device, wrong("a device without a superblock".to_string()));
        }
        copies => copies?,
    };
    if let Copies::Whole(record) = &copies {
        if record.pool_id != pool.pool_id || record.device_id != wanted {
            return refuse(device, wrong(describe(record)));
        }
        if record.volume_flags.get() & VOLUME_LOG_LOST != 0 {
            let found = format!("{}, which has been written without its log since", describe(record));
            return refuse(device, wrong(found));
        }
    }
    Ok(Some(copies))
}

/// Whether the superblocks of the devices beside the pool's say what the pool's does. `found_bytes`: of a part's device.
pub(super) fn are_sound(
    checker: &mut Checker<'_>,
    pool: &Superblock,
    homes: &Homes,
    found_bytes: impl Fn(&Device) -> u64,
) -> bool {
    let before = checker.report.damage;
    for (part, home) in homes.all() {
        let bytes = part.given(&checker.beside).map_or(0, &found_bytes);
        check_home(checker, pool, (part, home), bytes);
    }
    checker.report.damage == before
}

fn check_home(
    checker: &mut Checker<'_>,
    pool: &Superblock,
    (part, home): (Part, &Superblock),
    found_bytes: u64,
) {
    let is_base = part.is_base(pool);
    let plain = |record: &Superblock| {
        let mut plain = *record;
        (plain.address, plain.checksum, plain.device_id) = (0.into(), 0.into(), [0; 16]);
        (plain.generation, plain.generation_tail, plain.state) = (0.into(), 0.into(), 0.into());
        plain.device_bytes = 0.into();
        plain.features_incompatible &= !NOTED_FIRST;
        plain.volume_flags &= if is_base { !VOLUME_BASE_MIXED } else { u32::MAX };
        let nothing = Area::default();
        (plain.roots, plain.metadata, plain.checksums) = (nothing, nothing, nothing);
        (plain.data, plain.base) = (nothing, nothing);
        plain
    };
    let (first, second) = (plain(pool), plain(home));
    let differs = first.as_bytes().iter().zip(second.as_bytes()).position(|(one, other)| one != other);
    let noted = |record: &Superblock| record.features_incompatible.get() & NOTED_FIRST;
    let (bytes, other) = match is_base {
        true => (pool.volume_bytes.get(), home.data),
        false => (pool.home_bytes.get(), home.base),
    };
    let is_nothing = |area: &Area| (area.offset.get(), area.bytes.get()) == (0, 0);
    let own = area(home);
    let mut rules = vec![
        (home.generation == home.generation_tail && home.generation.get() >= 1, "its generation is none"),
        (superblock::has_state(home), "its state is neither open nor closed"),
        (own_role(home) == part.role, "its role table does not name this device as what it is"),
        (noted(home) & !noted(pool) == 0, "it has features that its pool has not"),
        (
            [home.roots, home.metadata, home.checksums, other].iter().all(is_nothing)
                && own.offset.get() == AREA_OFFSET
                && own.bytes.get() == bytes,
            "its area is not that of what lies there",
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
            checker.found(Code::Superblock, Place::at(part.from + home.address.get()), text);
        }
    }
}
