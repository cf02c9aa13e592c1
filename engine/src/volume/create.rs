//! Creating a volume.
//!
//! Order: whatever superblock was there is erased; the data area is made to read as zero; the new superblock
//! is written to one place and then the other, with a flush between all of these. So a creation that is cut
//! short leaves the old volume untouched, no volume, or the new one; never a mixture.

use std::ops::RangeInclusive;

use super::{BLOCK_BYTES_MAX, Devices, Volume, VolumeInfo};
use crate::device::signature::{self, Signature};
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{
    Area, FEATURE_BASE, FEATURE_LOG, FEATURE_MANY_SNAPSHOTS, FEATURE_OBJECTS, FEATURE_OBJECTS_DEVICE,
    FEATURE_VOLUME_DEVICE, ROLE_LOG, ROLE_OBJECTS, ROLE_VOLUME, RoleEntry, STATE_CLOSED, Superblock,
    VOLUME_BREAKS_SNAPSHOTS, VOLUME_THIN, VOLUME_VOLATILE_LOG,
};
use crate::object::ObjectKind;
use crate::pool::layout::{BASE_OF, BASE_PARTS, Fill, Layout, Parts, home_area};
use crate::pool::metadata::EXTENTS_MAX;
use crate::pool::snapshots::{SNAPSHOTS_MAX, SNAPSHOTS_MIN};
use crate::pool::superblock;
use crate::runtime::FailureFlag;
use crate::store::log::WhenFull;
use crate::store::{Backend, log};
use crate::units::ByteOffset;

/// Bytes of log between checkpoints, on a device that is large enough.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// On a device of at least this size there is room for so many snapshots, unless something else is asked for: that takes
/// less than a thousandth of it.
const MANY_SNAPSHOTS_FROM_BYTES: u64 = 16 << 30;
const MANY_SNAPSHOTS: u32 = 10_000;
/// A volume whose snapshots have linear objects takes one part in so many of a device that it is to fill: so there is room
/// for two of them at least.
const OBJECTS_BASE_OF: u64 = 4;
/// And one part in so many of a device that objects have for themselves.
const OBJECTS_APART_OF: u64 = 2;
/// Blocks that a segment may have: their numbers have 16 bits.
pub(super) const SEGMENT_BLOCKS: RangeInclusive<u32> = 8..=1 << 16;

/// What the data area of a new volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initialise {
    /// Zeroes, through the device's own means where it has any.
    #[default]
    Zero,
    /// Whatever the device held. For callers that write everything before they read.
    Keep,
}

/// How a volume is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// The way it is kept.
    pub backend: Backend,
    /// Its size in bytes, a multiple of the region; the largest that fits if not given.
    pub size_bytes: Option<u64>,
    /// Unit of I/O and checksum: a power of two from the device's logical block to 64 KiB.
    pub block_bytes: Option<u32>,
    /// Unit of tracking: a power of two, at least the block.
    pub region_bytes: u32,
    /// What it reads before it is written.
    pub initialise: Initialise,
    /// Unit in which a log takes space; from 64 KiB to 8 MiB by the device's size, if not given.
    pub segment_bytes: Option<u32>,
    /// Bytes of log between checkpoints: opening after a crash reads up to twice as many. 64 MiB or a 32nd part of
    /// the device, whichever is less, if not given.
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of superseded blocks that a log keeps, so that moments can be opened; 0 keeps none.
    pub retention_bytes: u64,
    /// Seconds for which it keeps them at most; 0 does not limit it.
    pub retention_age_s: u64,
    /// With a base: what its snapshots may take at most; as much as the pool has, if not given.
    pub snapshot_bytes: Option<u64>,
    /// Snapshots that there is room for at a time, 256 to 16,384; 256, or 10,000 on a device of 16 GiB or more, if not
    /// given.
    pub snapshots_max: Option<u32>,
    /// With snapshots: what is done when there is no room for what they keep.
    pub when_full: WhenFull,
    /// With a base: what takes what its snapshots need. Linear objects leave room for fewer of them, 64 at most, and none
    /// of these is ever full; the volume takes a quarter of the device, if its size is not given.
    pub objects: ObjectKind,
    /// With `linear`: space is taken when a block is first applied, and the volume may be larger than its pool.
    pub thin: bool,
    /// With `direct`: a log in memory. Writes complete there, and a flush forces them to the volume.
    pub volatile_log: bool,
    /// Create it although the device carries somebody else's signature.
    pub force: bool,
    /// Seconds since 1970 (UTC), noted as the time of creation.
    pub created_unix_s: u64,
}

impl CreateOptions {
    /// A volume of this backend that fills its device, with regions of 64 KiB.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            size_bytes: None,
            block_bytes: None,
            region_bytes: 64 << 10,
            initialise: Initialise::Zero,
            segment_bytes: None,
            checkpoint_bytes: None,
            retention_bytes: 0,
            retention_age_s: 0,
            snapshot_bytes: None,
            snapshots_max: None,
            when_full: WhenFull::Refuse,
            objects: ObjectKind::Mapped,
            thin: false,
            volatile_log: false,
            force: false,
            created_unix_s: 0,
        }
    }
}

impl Volume {
    /// Makes a volume on a device whose contents may be lost.
    ///
    /// # Errors
    /// `InvalidSetting`, `DeviceTooSmall`, `ForeignSignature` (all before anything is written), and what the
    /// device says.
    pub async fn create(device: &Device, options: CreateOptions) -> Result<VolumeInfo> {
        Self::create_on(&Devices::from(device.clone()), options).await
    }

    /// As [`Volume::create`]; a linear volume, or a base, may have a device of its own, apart from log and metadata, and so
    /// may linear objects.
    ///
    /// # Errors
    /// As [`Volume::create`].
    pub async fn create_on(devices: &Devices, options: CreateOptions) -> Result<VolumeInfo> {
        let device = &devices.pool;
        let (record, home, objects) = plan(devices, &options).map_err(|error| error.or_on(device.name()))?;
        for one in devices.all() {
            if !options.force
                && let Some(signature) = Self::foreign_signature(one).await?
            {
                return Err(signature.refusal().on(one.name()));
            }
        }
        for one in devices.all() {
            superblock::erase(one).await?;
        }
        let apart = devices.volume.as_ref().zip(home);
        let in_place = match (options.backend, apart) {
            (Backend::Direct, _) => Some((device, record.data)),
            (backend, _) if !backend.has_base() => None,
            (_, Some((volume_device, home))) => Some((volume_device, home.base)),
            _ => Some((device, record.base)),
        };
        if let Some((device, area)) = in_place.filter(|_| options.initialise == Initialise::Zero) {
            let (offset, bytes) = (area.offset.get(), area.bytes.get());
            device.discard(ByteOffset(offset), bytes, Io::of(Cause::Zero)).await?;
            device.flush(Io::of(Cause::Zero)).await?;
        }
        // Once the pool is there, its other devices are. A base that says what it is holds the volume.
        for (device, record) in devices.objects.as_ref().zip(objects).into_iter().chain(apart) {
            superblock::write(device, &record, &FailureFlag::default()).await?;
        }
        if options.backend != Backend::Direct {
            log::format(device, &record).await?;
        }
        superblock::write(device, &record, &FailureFlag::default()).await?;
        Ok(VolumeInfo::of(&record, options.backend))
    }

    /// The bytes that a volume of these options has on a device of that size, and where its data area begins.
    ///
    /// # Errors
    /// `InvalidSetting`, `DeviceTooSmall`.
    pub fn capacity(
        device_bytes: u64,
        logical_block_bytes: u32,
        options: &CreateOptions,
    ) -> Result<(u64, ByteOffset)> {
        let shape = shape(device_bytes, logical_block_bytes, (None, None), options)?;
        Ok((shape.volume_bytes, ByteOffset(shape.layout.data.offset.get())))
    }

    /// Somebody else's signature on a device. One that carries an icecore volume has none: it is ours to make
    /// anew, and its data may look like anything. Writes nothing.
    ///
    /// # Errors
    /// What the device says.
    pub async fn foreign_signature(device: &Device) -> Result<Option<Signature>> {
        if superblock::read(device).await.is_ok() {
            return Ok(None);
        }
        let geometry = device.geometry();
        let block_bytes = u64::from(geometry.logical_block_bytes);
        let size_bytes = geometry.size_bytes - geometry.size_bytes % block_bytes;
        let mut pieces = Vec::new();
        for piece in signature::pieces(size_bytes) {
            let buf = device.context().buffers().get((piece.end - piece.start) as usize)?;
            let (result, buf) = device.read(ByteOffset(piece.start), buf, Io::of(Cause::Metadata)).await;
            result?;
            pieces.push(buf);
        }
        Ok(signature::probe_pieces(size_bytes, &pieces[0], &pieces[1]))
    }
}

/// What a volume of these options is on a device.
struct Shape {
    layout: Layout,
    volume_bytes: u64,
    block_bytes: u32,
    segment_bytes: u32,
    checkpoint_bytes: u64,
    snapshots_max: u32,
    /// The area of the volume's own device: its segments, or its base.
    home: Option<Area>,
    /// The area of the device of linear objects: their segments.
    objects: Option<Area>,
}

/// `apart`: the volume's own device, and that of linear objects, if there are to be such.
fn shape(
    device_bytes: u64,
    logical: u32,
    apart: (Option<&Device>, Option<&Device>),
    options: &CreateOptions,
) -> Result<Shape> {
    let (volume_device, objects_device) = apart;
    let region_bytes = options.region_bytes;
    let block_bytes = options.block_bytes.unwrap_or(region_bytes.min(4096).max(logical));
    let wrong_text = |name, value: &str, rule| {
        Err(Error::new("create", Reason::InvalidSetting { name, value: value.to_string(), rule }))
    };
    let wrong = |name, value: u64, rule| wrong_text(name, &value.to_string(), rule);
    if !block_bytes.is_power_of_two() || block_bytes < logical || block_bytes > BLOCK_BYTES_MAX {
        let rule = "a power of two from the device's logical block size to 64 KiB is needed";
        return wrong("block size", block_bytes.into(), rule);
    }
    if !region_bytes.is_power_of_two() || region_bytes < block_bytes || region_bytes > 1 << 30 {
        let rule = "a power of two from the block size to 1 GiB is needed";
        return wrong("region size", region_bytes.into(), rule);
    }
    if let Some(size_bytes) = options.size_bytes
        && (size_bytes == 0 || !size_bytes.is_multiple_of(region_bytes.into()))
    {
        return wrong("size", size_bytes, "a multiple of the region size, at least one, is needed");
    }
    let misplaced = [
        ("thin", options.thin, Backend::Linear, "only a linear volume behind a log can be thin"),
        ("volatile log", options.volatile_log, Backend::Direct, "this backend's log is on the device"),
    ];
    for (name, wanted, backend, rule) in misplaced {
        if wanted && options.backend != backend {
            let reason = Reason::InvalidSetting { name, value: "yes".to_string(), rule };
            return Err(Error::new("create", reason));
        }
    }
    if options.backend.has_base() && options.retention_bytes > 0 {
        let rule = "this backend overwrites in place, and keeps the moments that have names";
        return wrong("retention", options.retention_bytes, rule);
    }
    if let Some(bytes) = options.snapshot_bytes
        && (!options.backend.has_base() || bytes == 0 || !bytes.is_multiple_of(block_bytes.into()))
    {
        return wrong("snapshot space", bytes, "whole blocks, of a volume with a base, are needed");
    }
    let has_snapshots = !matches!(options.backend, Backend::Direct | Backend::Linear);
    if options.when_full != WhenFull::Refuse && !has_snapshots {
        return wrong_text("when full", "break", "this backend has no snapshots");
    }
    if options.objects == ObjectKind::Linear {
        let why_not = match options {
            options if !options.backend.has_base() => {
                Some("only snapshots of cow, overlay and logged-cow volumes have them")
            }
            options if options.snapshot_bytes.is_some() => {
                Some("snapshots take whole objects, and have no other limit")
            }
            options if options.when_full != WhenFull::Refuse => {
                Some("their snapshots are never full, so none is broken")
            }
            _ => None,
        };
        if let Some(rule) = why_not {
            return wrong_text("objects", options.objects.name(), rule);
        }
    }
    let by_size = if device_bytes < MANY_SNAPSHOTS_FROM_BYTES { SNAPSHOTS_MIN } else { MANY_SNAPSHOTS };
    let by_size = if has_snapshots { by_size } else { SNAPSHOTS_MIN };
    let snapshots_max = options.snapshots_max.unwrap_or(by_size);
    if !(SNAPSHOTS_MIN..=SNAPSHOTS_MAX).contains(&snapshots_max)
        || (options.snapshots_max.is_some() && !has_snapshots)
    {
        let rule =
            "256 to 16384, of a volume that keeps snapshots (log, cow, overlay, logged-cow), are possible";
        return wrong("number of snapshots", snapshots_max.into(), rule);
    }
    if let Some(device) = volume_device
        && matches!(options.backend, Backend::Direct | Backend::Log)
    {
        let rule = "only a linear volume, or a base, lies apart from its log";
        return wrong_text("volume device", device.name(), rule);
    }
    if let Some(device) = objects_device
        && options.objects != ObjectKind::Linear
    {
        let rule = "only linear objects lie on a device of their own: make it with --objects linear";
        return wrong_text("objects device", device.name(), rule);
    }
    let (mut home, mut objects) = (None, None);
    let region = u64::from(region_bytes);
    let checkpoint_bytes = options.checkpoint_bytes.unwrap_or(CHECKPOINT_BYTES.min(device_bytes / 32));
    let (layout, volume_bytes, segment_bytes) = match options.backend {
        Backend::Direct => {
            let layout = Layout::plan(device_bytes, options.size_bytes, region)?;
            (layout, layout.data.bytes.get(), 0)
        }
        _ => {
            let by_size = (device_bytes / 128).next_power_of_two().clamp(64 << 10, 8 << 20) as u32;
            let segment_bytes = options.segment_bytes.unwrap_or(by_size);
            let blocks = segment_bytes / block_bytes;
            if !segment_bytes.is_power_of_two() || !SEGMENT_BLOCKS.contains(&blocks) {
                let rule = "a power of two from 8 to 65536 blocks is needed";
                return wrong("segment size", segment_bytes.into(), rule);
            }
            if checkpoint_bytes > device_bytes {
                let rule = "at most the device's size is possible";
                return wrong("checkpoint interval", checkpoint_bytes, rule);
            }
            let (block, segment) = (u64::from(block_bytes), u64::from(segment_bytes));
            let leases = log::leases(checkpoint_bytes, segment);
            if let Some(device) = volume_device {
                let unit = if options.backend.has_base() { region } else { segment };
                let area = home_area(device.geometry().size_bytes, unit);
                let least = if options.thin { region } else { options.size_bytes.unwrap_or(region) };
                if area.bytes.get() < least {
                    return too_small(device, area, least, unit);
                }
                home = Some(area);
            }
            if let Some(device) = objects_device {
                objects = Some(home_area(device.geometry().size_bytes, segment));
            }
            let of_segments = if options.backend.has_base() { objects } else { home };
            let fill = match (home, options.backend, options.thin) {
                (Some(area), backend, _) if backend.has_base() => Fill::BesideApart(area.bytes.get()),
                (Some(_), _, thin) => Fill::Apart { thin },
                (None, Backend::Linear, true) => Fill::Thin,
                (None, Backend::Linear, false) => Fill::Whole,
                (None, backend, _) if backend.has_base() => Fill::Beside,
                _ => Fill::Cleaned,
            };
            // Beside the volume there is room for some objects.
            let size_bytes = match (options.objects, objects, home) {
                (ObjectKind::Linear, None, None) => Some(device_bytes / OBJECTS_BASE_OF / region * region),
                (_, Some(area), _) => {
                    let base_bytes =
                        home.map_or(device_bytes / BASE_OF * BASE_PARTS, |area| area.bytes.get());
                    let part = base_bytes.min(area.bytes.get() / OBJECTS_APART_OF) / region * region;
                    Some(part.max(region))
                }
                _ => None,
            };
            let size_bytes = options.size_bytes.or(size_bytes);
            let segments_apart = of_segments.map_or(0, |area| area.bytes.get() / segment);
            let parts =
                Parts { block_bytes: block, segment_bytes: segment, leases, snapshots_max, segments_apart };
            let (layout, volume_bytes) = Layout::plan_log(device_bytes, size_bytes, region, parts, fill)?;
            if let Some((device, area)) = objects_device.zip(objects)
                && area.bytes.get() < volume_bytes
            {
                return too_small(device, area, volume_bytes, segment);
            }
            let has_extents = options.backend == Backend::Linear || options.objects == ObjectKind::Linear;
            if has_extents && volume_bytes.div_ceil(segment) > EXTENTS_MAX {
                return wrong("size", volume_bytes, "at most 2147483647 segments are possible");
            }
            (layout, volume_bytes, segment_bytes)
        }
    };
    Ok(Shape {
        layout,
        volume_bytes,
        block_bytes,
        segment_bytes,
        checkpoint_bytes,
        snapshots_max,
        home,
        objects,
    })
}

/// A device has not the room, in its area, for so many bytes in whole units.
fn too_small<T>(device: &Device, area: Area, least: u64, unit: u64) -> Result<T> {
    let whole = least.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let needed_bytes = area.offset.get().saturating_add(whole);
    let found_bytes = device.geometry().size_bytes;
    Err(Error::new("create", Reason::DeviceTooSmall { needed_bytes, found_bytes }).on(device.name()))
}

/// The superblock of the pool, that of the volume's own device, and that of its objects', if it has such.
fn plan(
    devices: &Devices,
    options: &CreateOptions,
) -> Result<(Superblock, Option<Superblock>, Option<Superblock>)> {
    let device = &devices.pool;
    let device_bytes = device.geometry().size_bytes;
    let logical = devices.all().map(|device| device.geometry().logical_block_bytes).max().unwrap_or(0);
    let apart = (devices.volume.as_ref(), devices.objects.as_ref());
    let shape = shape(device_bytes, logical, apart, options)?;
    let (home, objects) = (shape.home, shape.objects);
    let device_id = random_id(device);
    let mut record = Superblock::empty();
    record.generation = 1.into();
    record.pool_id = random_id(device);
    record.volume_id = random_id(device);
    record.backend = options.backend.number().into();
    record.state = STATE_CLOSED.into();
    record.device_bytes = device_bytes.into();
    record.volume_bytes = shape.volume_bytes.into();
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let breaks = flag(VOLUME_BREAKS_SNAPSHOTS, options.when_full == WhenFull::BreakSnapshots);
    record.volume_flags =
        (flag(VOLUME_THIN, options.thin) | flag(VOLUME_VOLATILE_LOG, options.volatile_log) | breaks).into();
    record.snapshot_bytes = options.snapshot_bytes.unwrap_or(0).into();
    if options.backend != Backend::Direct {
        let base = if options.backend.has_base() { FEATURE_BASE } else { 0 };
        let objects = if options.objects == ObjectKind::Linear { FEATURE_OBJECTS } else { 0 };
        record.features_incompatible = (FEATURE_LOG | base | objects).into();
        if shape.snapshots_max > SNAPSHOTS_MIN {
            record.features_incompatible |= FEATURE_MANY_SNAPSHOTS;
            record.snapshots_max = shape.snapshots_max.into();
        }
        record.segment_bytes = shape.segment_bytes.into();
        record.checkpoint_bytes = shape.checkpoint_bytes.into();
        record.retention_bytes = options.retention_bytes.into();
        record.retention_age_s = options.retention_age_s.into();
    }
    record.block_bytes = shape.block_bytes.into();
    record.region_bytes = options.region_bytes.into();
    record.epoch = 1.into();
    record.created_unix_s = options.created_unix_s.into();
    record.roots = shape.layout.roots;
    record.metadata = shape.layout.metadata;
    record.checksums = shape.layout.checksums;
    record.data = shape.layout.data;
    record.base = shape.layout.base;
    let plays =
        |role: u32, device_id| RoleEntry { role: role.into(), flags: 0.into(), device_id, reserved: [0; 8] };
    record.device_id = device_id;
    let id_of = |area: Option<Area>| area.map_or([0; 16], |_| random_id(device));
    let (volume_id, objects_id) = (id_of(home), id_of(objects));
    let mut parts = match home {
        Some(_) => {
            record.features_incompatible |= FEATURE_VOLUME_DEVICE;
            vec![plays(ROLE_VOLUME, volume_id), plays(ROLE_LOG, device_id)]
        }
        None => vec![plays(ROLE_VOLUME, device_id)],
    };
    if objects.is_some() {
        record.features_incompatible |= FEATURE_OBJECTS_DEVICE;
        parts.push(plays(ROLE_OBJECTS, objects_id));
    }
    record.roles[..parts.len()].copy_from_slice(&parts);
    let nothing = Area::default();
    let (data, base) = match (home, options.backend.has_base()) {
        (Some(area), true) => (nothing, Area::new(area.offset.get(), shape.volume_bytes)),
        (Some(area), false) => (area, nothing),
        (None, _) => (nothing, nothing),
    };
    record.home_bytes = objects.unwrap_or(data).bytes;
    let home = devices.volume.as_ref().map(|device| of_part(&record, device, volume_id, (data, base)));
    let objects = devices.objects.as_ref().zip(objects);
    let objects = objects.map(|(device, area)| of_part(&record, device, objects_id, (area, nothing)));
    Ok((record, home, objects))
}

/// The superblock of a device beside that of the pool, with its data area and its base.
fn of_part(pool: &Superblock, device: &Device, device_id: [u8; 16], areas: (Area, Area)) -> Superblock {
    let ((data, base), nothing) = (areas, Area::default());
    Superblock {
        device_bytes: device.geometry().size_bytes.into(),
        device_id,
        roots: nothing,
        metadata: nothing,
        checksums: nothing,
        data,
        base,
        ..*pool
    }
}

pub(super) fn random_id(device: &Device) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&device.context().random_u64().to_le_bytes());
    id[8..].copy_from_slice(&device.context().random_u64().to_le_bytes());
    id
}
