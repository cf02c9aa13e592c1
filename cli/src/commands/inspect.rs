//! `icecore inspect`: shows what the volume on a device is.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use icecore::device::{Caching, Device};
use icecore::runtime::IoPath;
use icecore::volume::{Volume, VolumeInfo, format_id};
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output::Done;
use crate::session::{IoOptions, caching_name};

/// Arguments of `icecore inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The block device or file
    path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which device, and by which way it was reached.
#[derive(Debug)]
pub struct IoPaths {
    device: String,
    io: IoPath,
    caching: Caching,
}

impl IoPaths {
    /// Those of an open device.
    pub fn of(device: &Device) -> Self {
        let io = device.context().io_path().clone();
        Self { device: device.name().to_string(), io, caching: device.caching() }
    }

    /// `io_path` and `caching` of a result.
    pub fn names(&self) -> (&'static str, &'static str) {
        (self.io.kind, caching_name(self.caching))
    }
}

impl std::fmt::Display for IoPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.io, caching_name(self.caching))
    }
}

/// A volume as an object.
pub fn describe(info: &VolumeInfo, paths: &IoPaths) -> Value {
    let (io_path, caching) = paths.names();
    json!({
        "id": format_id(&info.id),
        "format_version": info.format_version,
        "features": info.features,
        "backend": info.backend.name(),
        "size_bytes": info.size_bytes,
        "block_bytes": info.block_bytes,
        "region_bytes": info.region_bytes,
        "epoch": info.epoch.0,
        "sequence": info.sequence.0,
        // No backend of this build keeps any.
        "snapshots": [],
        "pool_id": format_id(&info.pool_id),
        "closed": info.closed,
        "generation": info.generation,
        "data_offset_bytes": info.data_offset_bytes,
        "device": paths.device,
        "io_path": io_path,
        "caching": caching,
    })
}

impl Inspect {
    /// Reads both superblock copies and tells what they say.
    ///
    /// # Errors
    /// As [`Volume::inspect`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.look_at(&runtime, &self.path)?;
        let info = runtime.block_on(Volume::inspect(&device))?;
        let object = describe(&info, &IoPaths::of(&device));
        Ok(Done { text: table(&object), object, remark: String::new() })
    }
}

fn table(object: &Value) -> String {
    let mut text = String::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let value = match value {
            Value::String(value) => value.clone(),
            Value::Array(values) if values.is_empty() => "none".to_string(),
            other => other.to_string(),
        };
        // Writing to a string does not fail.
        let _written = writeln!(text, "{name:<18} {value}");
    }
    text
}
