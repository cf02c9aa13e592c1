//! Storage objects: what a store places blocks in. *Linear* ones keep every block in its place; *mapped* ones take
//! them in the order of arrival and find them by the versioned index, which is `pool::log` with `pool::index`.

pub mod linear;

use crate::error::{Error, Reason, Result};

/// Which kind of object takes what has to be kept, or written elsewhere, for the sake of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectKind {
    /// Space is taken when a block needs it.
    #[default]
    Mapped,
    /// Each snapshot takes an area with a place for every block, so that it is never full.
    Linear,
}

impl ObjectKind {
    /// Both.
    pub const ALL: [ObjectKind; 2] = [ObjectKind::Mapped, ObjectKind::Linear];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Mapped => "mapped",
            ObjectKind::Linear => "linear",
        }
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// `InvalidSetting` listing the names.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let rule = "there are: mapped, linear";
            Error::new("create", Reason::InvalidSetting { name: "objects", value: name.to_string(), rule })
        })
    }
}
