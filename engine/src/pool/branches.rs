//! Writable snapshots: branches that begin as a named moment and go on by themselves.
//!
//! A branch has a number, and its blocks have numbers of their own in the index ([`crate::units::address_of`]); a block
//! that it has not written is what the snapshot that it began as sees. Log, segments and sequences are one for all branches.
//!
//! Invariants: the snapshot that a branch began as is kept as long as the branch is; a number is given anew only when
//! neither the index nor what is read of the log at opening has an entry of it.

use super::snapshots::check_name;
use crate::format::journal::{self, Change};

/// Numbers of branches lie below it.
pub const BRANCH_NUMBER_MAX: u32 = u16::MAX as u32;

/// A writable snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its number, above 0.
    pub number: u32,
    /// The number of the snapshot that it began as.
    pub parent: u64,
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
        let body = journal::Branch {
            parent: self.parent.into(),
            time_unix_ns: self.time_unix_ns.into(),
            branch: (self.number as u16).into(),
            name_bytes: (self.name.len() as u16).into(),
            removed: u32::from(self.given_up).into(),
        };
        Change::Branch(body, self.name.clone().into_bytes())
    }

    /// What a change says; `None` where it says nothing possible.
    pub fn from_change(body: &journal::Branch, name: &[u8]) -> Option<Self> {
        let name = String::from_utf8(name.to_vec()).ok()?;
        check_name(&name).ok()?;
        let number = u32::from(body.branch.get());
        if !(1..BRANCH_NUMBER_MAX).contains(&number) || body.removed.get() > 1 {
            return None;
        }
        Some(Self {
            number,
            parent: body.parent.get(),
            time_unix_ns: body.time_unix_ns.get(),
            given_up: body.removed.get() == 1,
            name,
        })
    }
}
