//! Named moments: what the journal keeps of them, and which names there may be.
//!
//! A name keeps the versions that its moment sees. One that has been given up stays in the set, *removed*, until all
//! that it alone kept has been let go of (*swept*), so that this is done once more where the process ends before.

use crate::error::{Error, Reason, Result};
use crate::format::journal::{self, Change};
use crate::units::Moment;

/// Named moments that the metadata of a pool has room for.
pub const SNAPSHOTS_MAX: usize = 256;
/// No sequence and no number comes so far.
const NUMBER_MAX: u64 = 1 << 62;
/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether the moment of a name is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It is.
    Kept = 0,
    /// The name has been given up; what it alone kept is to be swept.
    GivenUp = 1,
    /// It has been broken for want of room, the name stays; what it alone kept is to be swept.
    Breaking = 2,
    /// It is broken.
    Broken = 3,
}

impl Keeping {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Kept, Self::GivenUp, Self::Breaking, Self::Broken]
            .into_iter()
            .find(|one| *one as u32 == number)
    }

    /// Whether the name is in use.
    pub fn has_name(self) -> bool {
        self != Self::GivenUp
    }
}

/// A named moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Used once at a time.
    pub number: u64,
    /// The branch whose moment it is; 0 for the volume itself.
    pub branch: u32,
    /// The moment's sequence.
    pub sequence: u64,
    /// When it was taken, by the clock of the one who took it.
    pub time_unix_ns: u64,
    /// Whether its moment is kept.
    pub keeping: Keeping,
    /// What it is called.
    pub name: String,
}

impl Snapshot {
    /// The moment that has the name.
    pub fn moment(&self) -> Moment {
        Moment { branch: self.branch, sequence: self.sequence }
    }

    /// The change that tells the journal of it.
    pub fn change(&self) -> Change {
        let body = journal::Snapshot {
            number: self.number.into(),
            sequence: self.sequence.into(),
            time_unix_ns: self.time_unix_ns.into(),
            removed: (self.keeping as u32).into(),
            name_bytes: (self.name.len() as u16).into(),
            branch: (self.branch as u16).into(),
        };
        Change::Snapshot(body, self.name.clone().into_bytes())
    }

    /// What a change says; `None` where it says nothing possible.
    pub fn from_change(body: &journal::Snapshot, name: &[u8]) -> Option<Self> {
        let name = String::from_utf8(name.to_vec()).ok()?;
        check_name(&name).ok()?;
        if body.number.get().max(body.sequence.get()) >= NUMBER_MAX {
            return None;
        }
        Some(Self {
            number: body.number.get(),
            branch: body.branch.get().into(),
            sequence: body.sequence.get(),
            time_unix_ns: body.time_unix_ns.get(),
            keeping: Keeping::from_number(body.removed.get())?,
            name,
        })
    }
}

/// Whether a snapshot may be called so.
///
/// # Errors
/// `InvalidSetting` with the rule.
pub fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits {
        return Ok(());
    }
    let rule = "1 to 64 bytes without control characters are needed";
    Err(Error::new("name snapshot", Reason::InvalidSetting { name: "name", value: name.to_string(), rule }))
}
