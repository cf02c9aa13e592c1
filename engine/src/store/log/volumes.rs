//! Further volumes of a pool: each is a branch with nothing behind it, and a size of its own.
//!
//! All volumes of a pool share its log, its index and its space, so that what is taken of several of them at once is one
//! record of the metadata. Making one is one record too, and takes no space; what it is given lies in the log.
//!
//! Invariant: entries of a volume have higher sequences than those that were there when it was made.

use super::branch::next_number;
use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::pool::branches::{Branch, Origin};
use crate::pool::metadata::Named;
use crate::pool::snapshots::check_name;
use crate::store::Backend;

/// A further volume of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FurtherVolume {
    /// What it is called.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Nanoseconds since 1970 (UTC) when it was made.
    pub time_unix_ns: u64,
}

impl FurtherVolume {
    fn of(branch: &Branch) -> Option<Self> {
        let Origin::Volume { size_bytes, .. } = branch.origin else { return None };
        Some(Self { name: branch.name.clone(), size_bytes, time_unix_ns: branch.time_unix_ns })
    }
}

impl LogStore {
    /// The further volumes there are, by their names.
    pub fn volumes(&self) -> Vec<FurtherVolume> {
        let state = self.core.contents.journal().state();
        let there = state.branches.values().filter(|branch| !branch.given_up);
        let mut volumes: Vec<FurtherVolume> = there.filter_map(FurtherVolume::of).collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        volumes
    }

    /// The further volume of this name.
    ///
    /// # Errors
    /// `NoVolume`.
    pub fn further_volume(&self, name: &str) -> Result<FurtherVolume> {
        let found = match self.core.contents.journal().state().named(name) {
            Some(Named::Branch(branch)) => FurtherVolume::of(branch),
            _ => None,
        };
        found.ok_or_else(|| self.core.no_volume(name))
    }

    /// The size of the volume that this is, or is a writable snapshot of; none for the pool's own.
    pub fn size_bytes(&self) -> Option<u64> {
        self.core.contents.journal().state().volume_of(self.branch)?.1
    }

    /// Refuses a volume that cannot be made: of whole regions, and no larger than all the room for blocks.
    pub fn check_volume(&self, name: &str, size_bytes: u64, region_bytes: u64) -> Result<()> {
        let core = &self.core;
        let refused = |reason| Err(Error::new("make volume", reason).on(core.device.name()));
        if self.backend() != Backend::Log {
            return refused(Reason::NoVolumes { backend: self.backend().name() });
        }
        check_name(name)?;
        let room_bytes =
            u64::from(core.contents.journal().state().segments()) * core.geometry.segment_bytes();
        if size_bytes == 0 || !size_bytes.is_multiple_of(region_bytes) || size_bytes > room_bytes {
            let rule = "a multiple of the region size, at least one, and at most what the pool has for blocks, is needed";
            return refused(Reason::InvalidSetting { name: "size", value: size_bytes.to_string(), rule });
        }
        core.check_new_name("make volume", name)
    }

    /// Makes a volume that reads as zero. Durable when it returns.
    pub async fn create_volume(&self, name: &str, size_bytes: u64) -> Result<FurtherVolume> {
        let core = &self.core;
        // A sequence that a crash takes back would be another entry's.
        core.log()?.flush().await?;
        let (sequence, time_unix_ns) = (core.sequence(), core.device.context().unix_time_ns());
        let mut made = Err(core.no_volume(name));
        core.contents
            .journal()
            .commit(|state| {
                // Others may have been at it since it was asked.
                if let Err(error) = core.check_name_in(state, "make volume", name, 0) {
                    made = Err(error);
                    return Vec::new();
                }
                let (number, origin) = (next_number(state), Origin::Volume { size_bytes, sequence });
                let volume = Branch { number, origin, time_unix_ns, given_up: false, name: name.to_string() };
                core.contents.index().begin_volume(number);
                made = FurtherVolume::of(&volume).ok_or_else(|| core.no_volume(name));
                vec![volume.change()]
            })
            .await?;
        made
    }

    /// Gives a volume up, which nobody has open and which has no snapshots. Its space comes free in the background.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        self.further_volume(name)?;
        self.delete(name, true).await
    }
}

impl Core {
    fn no_volume(&self, name: &str) -> Error {
        Error::new("find volume", Reason::NoVolume { name: name.to_string() }).on(self.device.name())
    }
}
