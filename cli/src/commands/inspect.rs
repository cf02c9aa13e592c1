//! `icecore inspect`: shows what the volume on a device is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use icecore::device::{Caching, Device};
use icecore::error::{Error, Kind};
use icecore::export::control::{LogNumbers, Request, Status};
use icecore::store::Backend;
use icecore::store::log::SnapshotInfo;
use icecore::volume::{Devices, OpenMode, OpenOptions, Volume, VolumeInfo, format_id};
use serde_json::{Value, json};

use super::snapshot::{self, snapshots_of};
use crate::exit::Code;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{IoOptions, Reached, VolumeDevice, caching_name};

/// Arguments of `icecore inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The block device or file
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which device, and by which way it was reached.
#[derive(Debug)]
pub struct IoPaths {
    device: String,
    kind: String,
    path: String,
    caching: Caching,
}

impl IoPaths {
    /// Those of an open device.
    pub fn of(device: &Device) -> Self {
        let io = device.context().io_path();
        let (kind, path) = (io.kind.to_string(), io.to_string());
        Self { device: device.name().to_string(), kind, path, caching: device.caching() }
    }

    /// Those of the program that has the device open.
    pub fn told(device: &Path, status: &Status) -> Self {
        let (kind, path) = (status.io_kind.clone(), status.io_path.clone());
        let caching = if status.direct_io { Caching::Direct } else { Caching::PageCache };
        Self { device: device.display().to_string(), kind, path, caching }
    }

    /// Names them in a result: for programs, and for people where there is a remark.
    pub fn named_in(&self, mut done: Done) -> Done {
        if done.object.is_object() {
            self.add_to(&mut done.object);
        }
        if !done.remark.is_empty() {
            done.remark = format!("{} ({self})", done.remark);
        }
        done
    }

    fn add_to(&self, object: &mut Value) {
        object["io_path"] = self.kind.as_str().into();
        object["caching"] = caching_name(self.caching).into();
    }
}

impl std::fmt::Display for IoPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.path, caching_name(self.caching))
    }
}

/// A volume as an object.
pub fn describe(info: &VolumeInfo, paths: &IoPaths) -> Value {
    let mut object = json!({
        "id": format_id(&info.id),
        "format_version": info.format_version,
        "features": info.features,
        "backend": info.backend.name(),
        "durability_class": info.durability_class.name(),
        "size_bytes": info.size_bytes,
        "block_bytes": info.block_bytes,
        "region_bytes": info.region_bytes,
        "epoch": info.epoch.0,
        "sequence": info.sequence.0,
        "snapshots": [],
        "pool_id": format_id(&info.pool_id),
        "roles": info.roles.iter().map(|(role, id)| json!({ "role": role, "device_id": format_id(id) }))
            .collect::<Vec<_>>(),
        "closed": info.closed,
        "generation": info.generation,
        "data_offset_bytes": info.data_offset_bytes,
        "device": paths.device,
    });
    paths.add_to(&mut object);
    if let Some(log) = info.log {
        object["log"] = json!({
            "segment_bytes": log.segment_bytes,
            "checkpoint_bytes": log.checkpoint_bytes,
            "retention_bytes": log.retention_bytes,
            "retention_age_s": log.retention_age_s,
            "snapshots_max": log.snapshots_max,
        });
        if info.backend.has_base() {
            object["objects"] = log.objects.name().into();
        }
        if info.backend == Backend::Linear {
            object["linear"] = json!({ "thin": log.thin });
        }
    }
    object
}

/// What only reading its metadata and its log tells of a volume; added to its object.
fn add_status(object: &mut Value, log: &LogNumbers) {
    object["sequence"] = log.sequence.into();
    let status = json!({
        "earliest_sequence": log.earliest_moment,
        "segments": log.segments,
        "free_segments": log.free_segments,
        "live_blocks": log.live_blocks,
        "past_bytes": log.past_bytes,
        "index_runs": log.runs,
        "tail_batches": log.tail_batches,
        "tail_entries": log.tail_entries,
        "tail_bytes": log.tail_bytes,
        "damaged_after": log.damaged_after,
    });
    if let Some(apply) = &log.apply {
        object["linear"]["applied"] = apply.applied.into();
        object["linear"]["accepted"] = apply.accepted.into();
        object["linear"]["extents"] = apply.extents.into();
        object["linear"]["stalled"] = apply.stalled.as_deref().into();
    }
    if let (Some(object), Value::Object(status)) = (object["log"].as_object_mut(), status) {
        object.extend(status);
    }
}

impl Inspect {
    /// Reads both superblock copies and tells what they say, and what the metadata and the tail of a log say: by the
    /// program that has the volume open, where one listens. What a damage leaves to be told is told, with the exit code
    /// of a damage.
    ///
    /// # Errors
    /// As [`Volume::inspect`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.look_at(&runtime, &self.path)?;
        let info = runtime.block_on(Volume::inspect(&device))?;
        let mut object = describe(&info, &IoPaths::of(&device));
        let mut damage = None;
        if info.log.is_some() {
            let reached =
                io.reach_to_look(&runtime, &self.path, || self.volume.look_at(io, &runtime, device));
            match runtime.block_on(status_and_snapshots(reached?, self.volume.opening())) {
                Ok((status, snapshots)) => {
                    let good = status.log.as_ref().and_then(|log| log.damaged_after);
                    damage = good.map(|good| format!("its log is damaged behind sequence {good}"));
                    status.log.iter().for_each(|log| add_status(&mut object, log));
                    object["snapshots"] = snapshots.iter().map(snapshot::object_of).collect();
                    for (key, name) in
                        [("volume_device", status.volume_device), ("objects_device", status.objects_device)]
                    {
                        if let Some(name) = name {
                            object[key] = name.into();
                        }
                    }
                }
                Err(error) if error.kind() == Kind::Corrupt => damage = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        let text = table(&object);
        match damage {
            None => Ok(Done { text, object, remark: String::new() }),
            Some(damage) => {
                object["damage"] = damage.as_str().into();
                let remark = format!("{damage} (a volume that another program has open can look so)");
                Err(Failure::Found(Done { text, object, remark }, Code::Found))
            }
        }
    }
}

async fn status_and_snapshots(
    reached: Reached<Devices>,
    opening: OpenOptions,
) -> Result<(Status, Vec<SnapshotInfo>), Error> {
    match reached {
        Reached::Held(client) => Ok((
            client.status().clone(),
            snapshots_of(client.call(&Request::Snapshots { with_space: false })?),
        )),
        Reached::Own(devices) => {
            let volume = Volume::open_with(devices, OpenMode::ReadOnly, opening).await?;
            Ok((Status::of(&volume.status()), volume.snapshots()))
        }
    }
}

fn table(object: &Value) -> String {
    let mut text = String::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let value = match value {
            Value::Object(_) => {
                text.push_str(&table(value));
                continue;
            }
            Value::String(value) => value.clone(),
            Value::Array(values) if values.is_empty() => "none".to_string(),
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Value::Null => "none".to_string(),
            other => other.to_string(),
        };
        // Writing to a string does not fail.
        let _written = writeln!(text, "{name:<18} {value}");
    }
    text
}
