//! Branches: writable snapshots, which begin as a named moment and go on by themselves, and further volumes of a
//! pool, which begin as nothing.
//!
//! A branch has a number, and its blocks have numbers of their own in the index ([`crate::units::address_of`]); a block
//! that it has not written is what the snapshot that it began as sees, or zeroes. Log, segments and sequences are one for all branches.
//!
//! Invariants: the snapshot that a branch began as is kept as long as the branch is; a number is given anew only when
//! neither the index nor what is read of the log at opening has an entry of it.

use super::snapshots::check_name;
use crate::format::journal::{self, Change};

/// No volume is so large: the numbers of its blocks have 48 bits.
const SIZE_BYTES_MAX: u64 = 1 << 56;
/// Numbers of branches lie below it.
pub const BRANCH_NUMBER_MAX: u32 = u16::MAX as u32;

/// What a branch began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The snapshot of this number.
    Snapshot(u64),
    /// Nothing: it is a volume.
    Volume {
        /// Its size.
        size_bytes: u64,
        /// Of the last entry before it was made.
        sequence: u64,
    },
}

/// A writable snapshot, or a further volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number, above 0.
    pub number: u32,
    /// What it began as.
    pub origin: Origin,
    /// When it was made, by the clock of the one who made it.
    pub time_unix_ns: u64,
    /// It has been given up; its blocks are to be let go of.
    pub given_up: bool,
    /// What it is called.
    pub name: String,
}

impl Branch {
    /// The change that tells the journal of it.
    pub fn change(&self) -> Change {
        let (time_unix_ns, removed) = (self.time_unix_ns.into(), u32::from(self.given_up).into());
        let (branch, name_bytes) = ((self.number as u16).into(), (self.name.len() as u16).into());
        let name = self.name.clone().into_bytes();
        match self.origin {
            Origin::Snapshot(parent) => {
                let parent = parent.into();
                Change::Branch(journal::Branch { parent, time_unix_ns, branch, name_bytes, removed }, name)
            }
            Origin::Volume { size_bytes, sequence } => {
                let (size_bytes, sequence) = (size_bytes.into(), sequence.into());
                let body =
                    journal::Volume { size_bytes, sequence, time_unix_ns, branch, name_bytes, removed };
                Change::Volume(body, name)
            }
        }
    }

    /// The number of the snapshot that it began as; none for a volume.
    pub fn parent(&self) -> Option<u64> {
        match self.origin {
            Origin::Snapshot(parent) => Some(parent),
            Origin::Volume { .. } => None,
        }
    }

    /// Whether it is a volume.
    pub fn is_volume(&self) -> bool {
        self.parent().is_none()
    }

    /// What a change says; `None` where it says nothing possible.
    pub fn from_change(body: &journal::Branch, name: &[u8]) -> Option<Self> {
        let origin = Origin::Snapshot(body.parent.get());
        Self::told(origin, body.branch.get(), body.time_unix_ns.get(), body.removed.get(), name)
    }

    /// What a change says of a volume; `None` where it says nothing possible.
    pub fn from_volume(body: &journal::Volume, name: &[u8]) -> Option<Self> {
        let (size_bytes, sequence) = (body.size_bytes.get(), body.sequence.get());
        if size_bytes == 0 || size_bytes > SIZE_BYTES_MAX {
            return None;
        }
        let origin = Origin::Volume { size_bytes, sequence };
        Self::told(origin, body.branch.get(), body.time_unix_ns.get(), body.removed.get(), name)
    }

    fn told(origin: Origin, number: u16, time_unix_ns: u64, removed: u32, name: &[u8]) -> Option<Self> {
        let name = String::from_utf8(name.to_vec()).ok()?;
        check_name(&name).ok()?;
        let (number, given_up) = (u32::from(number), removed == 1);
        let fits = (1..BRANCH_NUMBER_MAX).contains(&number) && removed <= 1;
        fits.then_some(Self { number, origin, time_unix_ns, given_up, name })
    }
}
