//! Copies of what the base holds, made while newer versions wait in the log to be brought there.
//!
//! Whoever brings a block to the base first asks whether a moment that is kept sees what lies there, and if so has it
//! copied to the log, or to its place in a linear object. The entry with the copy names no version, and a copy in an object
//! has none: when it has been written, and only if nothing has happened to the block meanwhile, the index learns that the
//! version lies there, and the next checkpoint tells the device. So the base is overwritten behind that checkpoint. After a
//! crash before it, the copy is nobody's, and the base still holds what it held.
//!
//! Invariant: what the index learns of a copy and the slot that comes to life for it are of one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::contents::Contents;
use super::index::current::Version;
use super::metadata::HOME_FIRST;
use crate::error::Result;
use crate::format::index_page::{IndexDeath, IndexEntry};

/// A version in the base that is being copied.
#[derive(Debug)]
struct Copy {
    /// When it died; where it lies is not known yet.
    death: IndexDeath,
    /// The newest version of the block, and what the index had counted, when it was looked at.
    now: Version,
    changes: u64,
    /// The versions of the block since, oldest first.
    later: Vec<IndexEntry>,
}

/// What is being copied, by block.
#[derive(Debug, Default)]
pub(super) struct Copies {
    expected: BTreeMap<u64, Copy>,
    /// Copied, or seen by nobody any more.
    done: BTreeSet<u64>,
}

impl Contents {
    /// Whether what the base holds of a block has to be copied before its current version `now` overwrites it: a moment
    /// that is kept sees it. Then the copy is expected, and these are the moments that may see it. The block's page is pinned,
    /// and its other versions are in runs.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn expect_copy(&self, lba: u64, now: Version) -> Result<Option<Range<u64>>> {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::BroughtUncopied) {
            return Ok(None);
        }
        if !self.is_pinned_before(now.birth) {
            return Ok(None);
        }
        let index = self.index();
        let changes = index.changes();
        let Some((held, later)) = index.in_base(lba, &now).await? else { return Ok(None) };
        let births: Vec<u64> = later.iter().map(|entry| entry.sequence.get()).collect();
        let Some(death) = index.history().death(held.birth, &births) else { return Ok(None) };
        let moments = held.birth..death;
        let death = IndexDeath::new(0, held.birth, death, (0, 0));
        if !self.is_pinned_until(&death) {
            return Ok(None);
        }
        self.copies.borrow_mut().expected.insert(lba, Copy { death, now, changes, later });
        Ok(Some(moments))
    }

    /// Whether the copy of a block has been made, or nobody needs it any more. To be asked once, when copying has ended.
    pub fn take_copied(&self, lba: u64) -> bool {
        let copies = &mut *self.copies.borrow_mut();
        copies.expected.remove(&lba);
        copies.done.remove(&lba)
    }

    /// A copy has been written, durably where no entry tells of it. One that nobody expects is of before a crash, and its
    /// slot is free.
    pub fn take_in_copy(&self, lba: u64, place: (u32, u32), checksum: u32) {
        let expected = self.copies.borrow_mut().expected.remove(&lba);
        let index = self.index();
        let is_as_it_was =
            |copy: &Copy| index.changes() == copy.changes && index.current_now(lba) == Some(copy.now);
        let Some(copy) = expected.filter(is_as_it_was) else {
            self.kill(place);
            return;
        };
        self.copies.borrow_mut().done.insert(lba);
        if !self.is_pinned_until(&copy.death) {
            self.kill(place);
            return;
        }
        let mut state = self.journal().state_mut();
        if place.0 >= HOME_FIRST {
            // Should a record say before that run does that it lives, nothing would let it die after a crash.
            state.object_row(place.0);
            self.homecoming.borrow_mut().add(place, None);
            #[cfg(feature = "mutations")]
            if crate::mutation::is_on(crate::mutation::Mutation::CopyToldEarly) {
                state.rows.get_mut(&place.0).into_iter().for_each(|row| row.revive(place.1));
            }
        } else if let Some(row) = state.rows.get_mut(&place.0) {
            row.revive(place.1);
        }
        drop(state);
        self.touch(place.0);
        let (birth, (virtual_segment, slot)) = (copy.death.birth.get(), place);
        index.note_copied(lba, Version { birth, virtual_segment, slot, checksum }, &copy.later);
        index.note_death(IndexDeath::new(0, birth, copy.death.death.get(), place));
    }
}
