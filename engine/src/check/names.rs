//! What has a name: moments, which of them are locked, and the branches that began as some of them.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Judged, NUMBER_MAX, require};
use super::superblock::Shape;
use crate::format::journal::{Branch, Snapshot, SnapshotLock};
use crate::units::Moment;

/// What a snapshot's `removed` says.
const KEPT: u32 = 0;
const GIVEN_UP: u32 = 1;
const BREAKING: u32 = 2;
const BROKEN: u32 = 3;

/// What a name is of, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Snapshot(u64),
    Branch(u32),
}

/// A branch, as the journal has it.
#[derive(Clone, Copy, Debug)]
struct BranchState {
    /// Number and moment of the snapshot that it began as.
    parent: (u64, Moment),
    given_up: bool,
}

/// All names, and what has been given up and not been let go of.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By their numbers: the moment, and what `removed` says.
    snapshots: BTreeMap<u64, (Moment, u32)>,
    /// Moment and number of those that are kept.
    kept: BTreeSet<(Moment, u64)>,
    /// The numbers of those that are locked until somebody unlocks them.
    held: BTreeSet<u64>,
    branches: BTreeMap<u32, BranchState>,
    names: BTreeMap<Vec<u8>, Owner>,
}

pub(super) fn is_broken(snapshot: &Snapshot) -> bool {
    snapshot.removed == BROKEN
}

fn is_name(name: &[u8]) -> bool {
    (1..=64).contains(&name.len())
        && std::str::from_utf8(name).is_ok_and(|name| !name.chars().any(char::is_control))
}

impl Names {
    /// A moment gets a name, or its name is given up.
    pub fn snapshot(&mut self, shape: &Shape, next: &Snapshot, name: &[u8]) -> Judged {
        let number = next.number.get();
        let moment = Moment { branch: next.branch.get().into(), sequence: next.sequence.get() };
        let may_be = shape.has_snapshots && !shape.linear;
        let sound = may_be && is_name(name) && next.removed.get() <= BROKEN;
        require(sound, "a snapshot is none, or has no name")?;
        let (state, given_up) = (next.removed.get(), next.removed.get() == GIVEN_UP);
        let owner = self.names.get(name).copied();
        match self.snapshots.get(&number) {
            Some((known, before)) => {
                let stays = *known == moment && owner == Some(Owner::Snapshot(number));
                let follows = matches!(
                    (*before, state),
                    (KEPT, GIVEN_UP | BREAKING) | (BREAKING, GIVEN_UP | BROKEN) | (BROKEN, GIVEN_UP)
                );
                require(stays && follows, "a snapshot changes")?;
            }
            None => {
                require(owner.is_none() || given_up, "two snapshots have one name")?;
                self.has_room(shape)?;
            }
        }
        // In an image, snapshots stand before the branches that they are of.
        require(moment.branch == 0 || shape.has_branches, "a snapshot is of no branch")?;
        require(moment.sequence.max(number) < NUMBER_MAX, "a snapshot's numbers cannot be")?;
        self.snapshots.insert(number, (moment, state));
        match state {
            KEPT => drop(self.kept.insert((moment, number))),
            _ => drop(self.kept.remove(&(moment, number))),
        }
        self.call(name, Owner::Snapshot(number), given_up);
        Ok(())
    }

    /// A snapshot can be written from now on under a name, or that is given up. `is_image`: it may have been before.
    pub fn branch(&mut self, shape: &Shape, next: &Branch, name: &[u8], is_image: bool) -> Judged {
        let (number, given_up) = (u32::from(next.branch.get()), next.removed.get() == 1);
        let sound = shape.has_branches
            && is_name(name)
            && (1..u32::from(u16::MAX)).contains(&number)
            && next.removed.get() <= 1;
        require(sound, "a writable snapshot is none, or has no name")?;
        let owner = self.names.get(name).copied();
        let parent = self.snapshots.get(&next.parent.get());
        let moment = match self.branches.get(&number) {
            Some(known) => {
                let stays = known.parent.0 == next.parent.get() && owner == Some(Owner::Branch(number));
                require(stays && given_up && !known.given_up, "a writable snapshot changes")?;
                known.parent.1
            }
            None => {
                require(owner.is_none() || given_up, "two snapshots have one name")?;
                self.has_room(shape)?;
                // What is given up may have lost what it began as.
                require(is_image || !given_up, "a writable snapshot that is not there is given up")?;
                let none = Moment { branch: 0, sequence: 0 };
                let found = parent.map(|(moment, _)| *moment).or(given_up.then_some(none));
                found.ok_or("a writable snapshot began as none")?
            }
        };
        let parent = (next.parent.get(), moment);
        self.branches.insert(number, BranchState { parent, given_up });
        self.call(name, Owner::Branch(number), given_up);
        Ok(())
    }

    fn has_room(&self, shape: &Shape) -> Judged {
        let names = self.snapshots.len() + self.branches.len();
        require(names < shape.snapshots_max as usize, "there are too many snapshots")
    }

    fn call(&mut self, name: &[u8], owner: Owner, given_up: bool) {
        match given_up {
            true if self.names.get(name) == Some(&owner) => drop(self.names.remove(name)),
            true => {}
            false => drop(self.names.insert(name.to_vec(), owner)),
        }
    }

    /// Everything that a snapshot alone kept has been let go of.
    pub fn forget_snapshot(&mut self, number: u64) -> Judged {
        let removed = self.snapshots.remove(&number).is_some_and(|(_, state)| state == GIVEN_UP);
        self.held.remove(&number);
        let is_parent = self.branches.values().any(|one| one.parent.0 == number && !one.given_up);
        require(removed && !is_parent, "it forgets a snapshot that has not been given up")
    }

    /// Everything of a branch has been let go of.
    pub fn forget_branch(&mut self, number: u32) -> Judged {
        let removed = self.branches.remove(&number).is_some_and(|one| one.given_up);
        let has_snapshots = self.snapshots.values().any(|(moment, _)| moment.branch == number);
        require(removed && !has_snapshots, "it forgets a writable snapshot that has not been given up")
    }

    /// Whether everything that there is of branches fits together.
    pub fn fits(&self) -> bool {
        let has_branch = |(moment, _): &(Moment, u32)| {
            moment.branch == 0
                || self.branches.get(&moment.branch).is_some_and(|of| of.parent.1.sequence <= moment.sequence)
        };
        let has_parent = |one: &BranchState| one.given_up || self.snapshots.contains_key(&one.parent.0);
        // Who has snapshots is not given up before they are.
        let is_named = |(moment, state): &(Moment, u32)| {
            *state != GIVEN_UP && self.branches.get(&moment.branch).is_some_and(|of| of.given_up)
        };
        self.snapshots.values().all(has_branch)
            && self.branches.values().all(has_parent)
            && !self.snapshots.values().any(is_named)
    }

    /// The names of the volume's own moments, and the moments.
    pub fn of_volume(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.names.iter().filter_map(|(name, owner)| {
            let Owner::Snapshot(number) = owner else { return None };
            let (moment, _) = self.snapshots.get(number)?;
            (moment.branch == 0).then_some((&name[..], moment.sequence))
        })
    }

    /// The sequence from which on a branch may have entries; none where there is no such branch.
    pub fn begin_of(&self, branch: u32) -> Option<u64> {
        match branch {
            0 => Some(0),
            _ => self.branches.get(&branch).map(|branch| branch.parent.1.sequence),
        }
    }

    /// Whether a moment that has a name sees a branch's version of these sequences.
    pub fn sees(&self, branch: u32, birth: u64, death: u64) -> bool {
        let [from, to] = [birth, death].map(|sequence| (Moment { branch, sequence }, 0));
        birth < death && self.kept.range(from..to).next().is_some()
    }

    /// Whether the snapshot of this number and moment of the volume is kept.
    pub fn keeps(&self, number: u64, sequence: u64) -> bool {
        self.kept.contains(&(Moment { branch: 0, sequence }, number))
    }

    /// Whether this gives up what nobody has unlocked. Whether the time of a lock has come is not known here.
    pub fn is_given_up_locked(&self, next: &Snapshot) -> bool {
        matches!(next.removed.get(), GIVEN_UP | BREAKING) && self.held.contains(&next.number.get())
    }

    /// One is locked, or is not any more.
    pub fn lock(&mut self, shape: &Shape, next: &SnapshotLock) -> Judged {
        let number = next.number.get();
        let sound = shape.has_locks && next.held.get() <= 1 && self.snapshots.contains_key(&number);
        require(sound, "a lock is none, or of no snapshot")?;
        match next.held.get() {
            1 => drop(self.held.insert(number)),
            _ => drop(self.held.remove(&number)),
        }
        Ok(())
    }
}
