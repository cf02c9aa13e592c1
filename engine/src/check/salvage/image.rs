//! Which image is salvaged: what of which branch makes it, nearest first, and what a block is that none of these has.
//!
//! Sequences are one for all branches, and what a branch began as is older than all of its entries: so the newest
//! version that any part of an image has is the block's.

use std::ops::Range;

use super::super::names::{Level, Named};
use super::super::returns::Returns;
use super::super::shape::Shape;
use super::known::Known;
use super::{Moment as Asked, SalvageOptions};
use crate::error::Reason;
use crate::units::{BRANCH_BLOCKS, Moment, address_of};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What a branch is now.
    Now(u32),
    /// A moment.
    Then(Moment),
    /// What a copy-on-write volume is now: its base, whatever the log says.
    Base,
}

impl Wanted {
    pub fn find(options: &SalvageOptions, known: &Known, shape: &Shape) -> Result<Self, Reason> {
        let of_volume = |sequence| Moment { branch: 0, sequence };
        match &options.moment {
            Asked::Newest if shape.saves => Ok(known.names.restoring().map_or(Self::Base, Self::Then)),
            Asked::Newest => Ok(Self::Now(0)),
            // Beside a base, moments without names are overwritten.
            Asked::Sequence(moment) if shape.has_base() && !known.names.is_named(of_volume(*moment)) => {
                Err(Reason::Expired { moment: *moment, earliest: known.base })
            }
            Asked::Sequence(sequence) => Ok(Self::Then(of_volume(*sequence))),
            Asked::Snapshot(name) => match known.names.named(name.as_bytes()) {
                Some(Named::Then(moment)) => Ok(Self::Then(moment)),
                Some(Named::Now(branch)) => Ok(Self::Now(branch)),
                Some(Named::Broken(moment)) => Err(Reason::SnapshotBroken { moment }),
                None => Err(Reason::NoSnapshot { name: name.clone() }),
            },
        }
    }

    /// Whose size the image has.
    pub fn branch(self) -> u32 {
        match self {
            Self::Now(branch) | Self::Then(Moment { branch, .. }) => branch,
            Self::Base => 0,
        }
    }

    /// Whether the moment has a name, so that nothing of it is let go of.
    pub fn is_named(self, known: &Known) -> bool {
        matches!(self, Self::Then(moment) if known.names.is_named(moment))
    }
}

/// What makes an image.
pub(super) struct Image {
    /// Nearest first; none where it is the base as that lies there.
    pub levels: Vec<Level>,
    /// The moment of the volume itself that it shows, or began as.
    pub of_volume: Option<u64>,
    /// The base has what no version is known of.
    pub over_base: bool,
    /// What lies below the checkpoint is known from a whole index alone: blocks are overwritten in their places, or
    /// the number of a branch is that of an earlier one too.
    pub needs_index: bool,
}

impl Image {
    pub fn new(wanted: Wanted, known: &Known, shape: &Shape, newest: u64) -> Result<Self, Reason> {
        let levels = match wanted {
            Wanted::Base => Some(Vec::new()),
            Wanted::Now(branch) => known.names.levels(Moment { branch, sequence: newest }),
            Wanted::Then(moment) => known.names.levels(moment),
        };
        let why = "nothing is left that says what it began as";
        let levels = levels.ok_or(Reason::NotSalvaged { why })?;
        let of_volume = levels.iter().find(|level| level.branch == 0).map(|level| level.last);
        let over_base = shape.has_base();
        let needs_index = over_base || levels.iter().any(|level| level.branch != 0);
        Ok(Self { levels, of_volume, over_base, needs_index })
    }

    /// The blocks that a range of numbers in the index is of.
    pub fn blocks(&self, numbers: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.levels.iter().filter_map(|level| {
            let first = address_of(level.branch, 0);
            let (start, end) = (numbers.start.max(first), numbers.end.min(first + BRANCH_BLOCKS));
            (start < end).then(|| start - first..end - first)
        })
    }

    /// Whether it sees a version of a branch, unless there is a newer one.
    pub fn sees(&self, returns: &Returns, branch: u32, sequence: u64) -> bool {
        self.levels.iter().any(|level| {
            level.branch == branch
                && match branch {
                    0 => returns.is_seen(sequence, level.last),
                    _ => (level.begin + 1..=level.last).contains(&sequence),
                }
        })
    }
}
