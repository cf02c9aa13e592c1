//! `icecore volume`: the further volumes of a pool: made, listed and given up, also where a program has the pool open.

use clap::{Args, Subcommand};
use icecore::export::control::{Answer, Request};
use icecore::volume::FurtherVolume;
use serde_json::{Value, json};

use super::snapshot::Listed;
use crate::failure::Outcome;
use crate::output::Done;
use crate::session::IoOptions;
use crate::size;

/// What to do with further volumes.
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make a further volume, which reads as zero and takes space as it is written
    Create(Create),
    /// List the further volumes; writes nothing
    List(Listed),
    /// Give a further volume up, with all that it holds; it must have no snapshots
    Delete(Delete),
}

/// Arguments of `icecore volume create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    of: Listed,
    /// Its name: 1 to 64 bytes; snapshots of the pool have other names
    name: String,
    /// Its size, whole regions
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: u64,
}

/// Arguments of `icecore volume delete`.
#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    of: Listed,
    /// Its name
    name: String,
}

impl Volume {
    /// Whether the result is wanted as one JSON object.
    pub fn wants_json(&self) -> bool {
        match self {
            Self::Create(create) => create.of.json,
            Self::List(listed) => listed.json,
            Self::Delete(delete) => delete.of.json,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Whatever stopped it.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        match self {
            Self::Create(Create { of, name, size }) => {
                of.change(io, &Request::MakeVolume { name, size_bytes: size })
            }
            Self::List(listed) => listed.look(io, &Request::Volumes),
            Self::Delete(Delete { of, name }) => of.change(io, &Request::DeleteVolume(name)),
        }
    }
}

fn object_of(volume: &FurtherVolume) -> Value {
    json!({ "name": volume.name, "size_bytes": volume.size_bytes, "time_unix_ns": volume.time_unix_ns })
}

/// An answer about further volumes, as it is printed.
pub fn done_of(answer: &Answer) -> Option<Done> {
    let line = |volume: &FurtherVolume| format!("{} {}\n", volume.size_bytes, volume.name);
    let changed = |volume: &FurtherVolume, what: &str| Done {
        object: object_of(volume),
        text: String::new(),
        remark: format!("volume {:?} {what}", volume.name),
    };
    Some(match answer {
        Answer::VolumeMade(volume) => changed(volume, "made"),
        Answer::VolumeDeleted(volume) => changed(volume, "deleted"),
        Answer::Volumes(volumes) => Done {
            object: json!({ "volumes": volumes.iter().map(object_of).collect::<Vec<_>>() }),
            text: volumes.iter().map(line).collect(),
            remark: format!("{} further volumes", volumes.len()),
        },
        _ => return None,
    })
}
