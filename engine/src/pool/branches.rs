//! Branches: writable snapshots, which begin as a named moment and go on by themselves, and further volumes of a
//! pool, which begin as nothing.
//!
//! A branch has a number, and its blocks have numbers of their own in the index ([`crate::units::address_of`]); a block
//! that it has not written is what the snapshot that it began as sees, or zeroes. Log, segments and sequences are one for all branches.
//!
//! Invariants: the snapshot that a branch began as is kept as long as the branch is; a number is given anew only when
//! neither the index nor what is read of the log at opening has an entry of it.

use std::collections::{BTreeMap, BTreeSet};

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

/// All branches of a pool, in the orders in which they are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    by_number: BTreeMap<u32, Branch>,
    /// The numbers of names that are in use.
    by_name: BTreeMap<String, u32>,
    /// The snapshots that those which have names began as, with their numbers.
    by_parent: BTreeSet<(u64, u32)>,
}

impl Branches {
    /// Takes one in, in the place of that of its number.
    pub fn insert(&mut self, branch: Branch) {
        self.remove(branch.number);
        if !branch.given_up {
            self.by_name.insert(branch.name.clone(), branch.number);
            self.by_parent.extend(branch.parent().map(|parent| (parent, branch.number)));
        }
        self.by_number.insert(branch.number, branch);
    }

    /// Forgets that of this number; `None` if there is none.
    pub fn remove(&mut self, number: u32) -> Option<Branch> {
        let gone = self.by_number.remove(&number)?;
        if self.by_name.get(&gone.name) == Some(&number) {
            self.by_name.remove(&gone.name);
        }
        gone.parent().map(|parent| self.by_parent.remove(&(parent, number)));
        Some(gone)
    }

    /// How many there are, with those that have been given up.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// All, by their numbers.
    pub fn values(&self) -> impl Iterator<Item = &Branch> {
        self.by_number.values()
    }

    /// That of this number.
    pub fn get(&self, number: u32) -> Option<&Branch> {
        self.by_number.get(&number)
    }

    /// That of this name.
    pub fn named(&self, name: &str) -> Option<&Branch> {
        self.get(*self.by_name.get(name)?)
    }

    /// Whether one that has a name began as this snapshot.
    pub fn has_of(&self, parent: u64) -> bool {
        self.by_parent.range((parent, 0)..=(parent, u32::MAX)).next().is_some()
    }

    /// The smallest number that none has.
    pub fn free_number(&self) -> Option<u32> {
        (1..BRANCH_NUMBER_MAX).find(|number| !self.by_number.contains_key(number))
    }
}
