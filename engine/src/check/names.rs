//! Named moments, as the image and the records tell of them: which there are, and which are locked.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Judged, NUMBER_MAX, require};
use super::superblock::Shape;
use crate::format::journal::{Snapshot, SnapshotLock};

/// What a snapshot's `removed` says.
const KEPT: u32 = 0;
const GIVEN_UP: u32 = 1;
const BREAKING: u32 = 2;
pub(super) const BROKEN: u32 = 3;

/// The named moments of a pool.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By their numbers: the moment, and whether the name has been given up.
    by_number: BTreeMap<u64, (u64, u32)>,
    /// Moment and number of those that are kept.
    kept: BTreeSet<(u64, u64)>,
    /// The numbers of those that are locked until somebody unlocks them.
    held: BTreeSet<u64>,
    names: BTreeMap<Vec<u8>, u64>,
}

impl Names {
    /// A moment gets a name, or what becomes of it.
    pub fn tell(&mut self, shape: &Shape, next: &Snapshot, name: &[u8]) -> Judged {
        let (number, sequence) = (next.number.get(), next.sequence.get());
        let is_name = (1..=64).contains(&name.len())
            && std::str::from_utf8(name).is_ok_and(|name| !name.chars().any(char::is_control));
        let may_be = shape.has_snapshots && !shape.linear;
        require(may_be && is_name && next.removed.get() <= BROKEN, "a snapshot is none, or has no name")?;
        let (state, given_up) = (next.removed.get(), next.removed.get() == GIVEN_UP);
        let owner = self.names.get(name).copied();
        match self.by_number.get(&number) {
            Some((known, before)) => {
                let stays = *known == sequence && owner == Some(number);
                let follows = matches!(
                    (*before, state),
                    (KEPT, GIVEN_UP | BREAKING) | (BREAKING, GIVEN_UP | BROKEN) | (BROKEN, GIVEN_UP)
                );
                require(stays && follows, "a snapshot changes")?;
            }
            None => require(owner.is_none() || given_up, "two snapshots have one name")?,
        }
        self.by_number.insert(number, (sequence, state));
        let has_room = self.by_number.len() <= shape.snapshots_max as usize;
        require(sequence < NUMBER_MAX && has_room, "there are too many snapshots")?;
        match state {
            KEPT => drop(self.kept.insert((sequence, number))),
            _ => drop(self.kept.remove(&(sequence, number))),
        }
        match given_up {
            true => drop(self.names.remove(name)),
            false => drop(self.names.insert(name.to_vec(), number)),
        }
        Ok(())
    }

    /// Whether this gives up what nobody has unlocked. Whether the time of a lock has come is not known here.
    pub fn is_given_up_locked(&self, next: &Snapshot) -> bool {
        matches!(next.removed.get(), GIVEN_UP | BREAKING) && self.held.contains(&next.number.get())
    }

    /// One that has been given up keeps nothing any more.
    pub fn forget(&mut self, number: u64) -> Judged {
        let was_given_up = self.by_number.remove(&number).is_some_and(|(_, state)| state == GIVEN_UP);
        self.held.remove(&number);
        require(was_given_up, "it forgets a snapshot that has not been given up")
    }

    /// One is locked, or is not any more.
    pub fn lock(&mut self, shape: &Shape, next: &SnapshotLock) -> Judged {
        let number = next.number.get();
        let sound = shape.has_locks && next.held.get() <= 1 && self.by_number.contains_key(&number);
        require(sound, "a lock is none, or of no snapshot")?;
        match next.held.get() {
            1 => drop(self.held.insert(number)),
            _ => drop(self.held.remove(&number)),
        }
        Ok(())
    }

    /// The names of moments, and the moments.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let sequence = |number| self.by_number.get(number).map(|(sequence, _)| *sequence);
        self.names.iter().filter_map(move |(name, number)| Some((&name[..], sequence(number)?)))
    }

    /// Whether a moment that has a name sees a version of these sequences.
    pub fn sees_between(&self, birth: u64, death: u64) -> bool {
        birth < death && self.kept.range((birth, 0)..(death, 0)).next().is_some()
    }
}
