//! What has a name: moments, which of them are locked, and the branches that began as some of them.

use std::collections::{BTreeMap, BTreeSet};

use super::shape::Shape;
use super::state::{Judged, NUMBER_MAX, require};
use crate::format::journal::{Branch, Change, Snapshot, SnapshotGroup, SnapshotLock, Volume};
use crate::units::Moment;

/// What a snapshot's `removed` says.
const KEPT: u32 = 0;
const GIVEN_UP: u32 = 1;
const BREAKING: u32 = 2;
const BROKEN: u32 = 3;
const RESTORING: u32 = 4;

/// Branches that may have begun as snapshots of each other, one as one of the next.
const LEVELS_MAX: usize = 256;

/// What a name is of, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Snapshot(u64),
    Branch(u32),
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A moment.
    Then(Moment),
    /// What a branch is now.
    Now(u32),
    /// A snapshot of this sequence that has been broken.
    Broken(u64),
}

/// The part of an image that one branch has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub branch: u32,
    /// Its entries have higher sequences.
    pub begin: u64,
    /// The last that counts.
    pub last: u64,
}

/// What a branch began as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Number and moment of a snapshot.
    Snapshot(u64, Moment),
    /// A volume of so many bytes, made behind this sequence.
    Nothing(u64, u64),
}

/// A branch, as the journal has it.
#[derive(Clone, Copy, Debug)]
struct BranchState {
    origin: Origin,
    given_up: bool,
}

impl BranchState {
    /// The sequence behind which its entries are.
    fn begin(&self) -> u64 {
        match self.origin {
            Origin::Snapshot(_, moment) => moment.sequence,
            Origin::Nothing(_, sequence) => sequence,
        }
    }

    fn is_from(&self, snapshot: u64) -> bool {
        matches!(self.origin, Origin::Snapshot(number, _) if number == snapshot)
    }
}

/// All names, and what has been given up and not been let go of.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By their numbers: the moment, and what `removed` says.
    snapshots: BTreeMap<u64, (Moment, u32)>,
    /// The groups that some of them were taken in.
    groups: BTreeMap<u64, SnapshotGroup>,
    /// By the identities of groups: how many snapshots each has, and how many of these have been here.
    members: BTreeMap<[u8; 16], (u32, u32)>,
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

/// Whether all of these changes take snapshots of one group.
pub(super) fn are_one_group(changes: &[Change]) -> bool {
    let group = |change: &Change| match change {
        Change::Snapshot(snapshot, _, Some(group)) if snapshot.removed == KEPT => Some(*group),
        _ => None,
    };
    let first = changes.first().and_then(group);
    let is_object = |change: &Change| matches!(change, Change::Object(..));
    first.is_some() && changes.iter().all(|change| group(change) == first || is_object(change))
}

fn is_name(name: &[u8]) -> bool {
    (1..=64).contains(&name.len())
        && std::str::from_utf8(name).is_ok_and(|name| !name.chars().any(char::is_control))
}

impl Names {
    /// A moment gets a name, or its name is given up.
    pub fn snapshot(
        &mut self,
        shape: &Shape,
        next: &Snapshot,
        name: &[u8],
        group: Option<SnapshotGroup>,
    ) -> Judged {
        let number = next.number.get();
        let moment = Moment { branch: next.branch.get().into(), sequence: next.sequence.get() };
        let may_be = shape.has_snapshots && !shape.linear;
        let sound = may_be && is_name(name) && next.removed.get() <= RESTORING;
        require(sound, "a snapshot is none, or has no name")?;
        let (state, given_up) = (next.removed.get(), next.removed.get() == GIVEN_UP);
        let owner = self.names.get(name).copied();
        match self.snapshots.get(&number) {
            Some((known, before)) => {
                let stays = *known == moment && owner == Some(Owner::Snapshot(number));
                let follows = matches!(
                    (*before, state),
                    (KEPT | RESTORING, GIVEN_UP | BREAKING)
                        | (BREAKING, GIVEN_UP | BROKEN)
                        | (BROKEN, GIVEN_UP)
                        | (KEPT, RESTORING)
                        | (RESTORING, KEPT)
                );
                require(
                    stays && follows && self.groups.get(&number) == group.as_ref(),
                    "a snapshot changes",
                )?;
            }
            None => {
                require(owner.is_none() || given_up, "two snapshots have one name")?;
                self.has_room(shape)?;
                group.map_or(Ok(()), |group| self.join(shape, number, group))?;
            }
        }
        // In an image, snapshots stand before the branches that they are of.
        let may_have_branch = shape.has_branches || shape.has_volumes;
        require(moment.branch == 0 || may_have_branch, "a snapshot is of no branch")?;
        require(moment.sequence.max(number) < NUMBER_MAX, "a snapshot's numbers cannot be")?;
        if state == RESTORING {
            let may_be = shape.goes_back && shape.saves && moment.branch == 0;
            let is_one = !self.snapshots.values().any(|(_, state)| *state == RESTORING);
            require(may_be && is_one, "the volume goes back to a snapshot, and cannot")?;
        }
        self.snapshots.insert(number, (moment, state));
        match state {
            KEPT | RESTORING => drop(self.kept.insert((moment, number))),
            _ => drop(self.kept.remove(&(moment, number))),
        }
        self.call(name, Owner::Snapshot(number), given_up);
        Ok(())
    }

    /// A snapshot is one of a group.
    fn join(&mut self, shape: &Shape, number: u64, group: SnapshotGroup) -> Judged {
        let (members, here) = self.members.entry(group.id).or_insert((group.members.get(), 0));
        *here += 1;
        let fits = *members == group.members.get() && *members >= 2 && *here <= *members;
        require(shape.has_groups && fits, "a snapshot is of no group, or of one that has enough")?;
        self.groups.insert(number, group);
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
        let known = self.branches.get(&number).filter(|known| known.is_from(next.parent.get()));
        let found = self.snapshots.get(&next.parent.get()).map(|(moment, _)| *moment);
        // What is given up may have lost what it began as.
        let none = given_up.then_some(Moment { branch: 0, sequence: 0 });
        let origin = match known {
            Some(known) => known.origin,
            None => {
                let moment = found.or(none).ok_or("a writable snapshot began as none")?;
                Origin::Snapshot(next.parent.get(), moment)
            }
        };
        self.begin(shape, (number, BranchState { origin, given_up }), name, is_image)
    }

    /// There is a further volume from now on under a name, or that is given up.
    pub fn volume(&mut self, shape: &Shape, next: &Volume, name: &[u8], is_image: bool) -> Judged {
        let (number, given_up) = (u32::from(next.branch.get()), next.removed.get() == 1);
        let (size_bytes, sequence) = (next.size_bytes.get(), next.sequence.get());
        let room_bytes = u64::from(shape.segments) * shape.segment_bytes();
        let sound = shape.has_volumes
            && !shape.linear
            && !shape.saves
            && !shape.overlays
            && is_name(name)
            && (1..u32::from(u16::MAX)).contains(&number)
            && next.removed.get() <= 1
            && (1..=room_bytes).contains(&size_bytes)
            && size_bytes.is_multiple_of(shape.region_bytes.into())
            && sequence < NUMBER_MAX;
        require(sound, "a volume is none, or has no name")?;
        let origin = Origin::Nothing(size_bytes, sequence);
        self.begin(shape, (number, BranchState { origin, given_up }), name, is_image)
    }

    /// A branch begins, or is given up.
    fn begin(
        &mut self,
        shape: &Shape,
        (number, next): (u32, BranchState),
        name: &[u8],
        is_image: bool,
    ) -> Judged {
        let owner = self.names.get(name).copied();
        match self.branches.get(&number) {
            Some(known) => {
                let stays = known.origin == next.origin && owner == Some(Owner::Branch(number));
                require(
                    stays && next.given_up && !known.given_up,
                    "a writable snapshot, or a volume, changes",
                )?;
            }
            None => {
                require(owner.is_none() || next.given_up, "two snapshots have one name")?;
                self.has_room(shape)?;
                require(is_image || !next.given_up, "what is not there is given up")?;
            }
        }
        self.branches.insert(number, next);
        self.call(name, Owner::Branch(number), next.given_up);
        Ok(())
    }

    /// The blocks that the volume has which a branch is, or is a moment of, and so on.
    pub fn blocks_of(&self, shape: &Shape, branch: u32) -> u64 {
        let blocks = |bytes: u64| bytes / u64::from(shape.block_bytes);
        let mut at = branch;
        // Whatever the device says, it comes to an end.
        for _ in 0..=self.branches.len() {
            match self.branches.get(&at).map(|of| of.origin) {
                Some(Origin::Nothing(size_bytes, _)) => return blocks(size_bytes),
                Some(Origin::Snapshot(_, moment)) => at = moment.branch,
                None => break,
            }
        }
        // Of one that has lost what it began as, nobody knows.
        let largest = || {
            let sizes = self.branches.values().filter_map(|of| match of.origin {
                Origin::Nothing(size_bytes, _) => Some(blocks(size_bytes)),
                Origin::Snapshot(..) => None,
            });
            sizes.fold(shape.volume_blocks, u64::max)
        };
        let is_given_up = self.branches.get(&branch).is_some_and(|of| of.given_up);
        if is_given_up { largest() } else { shape.volume_blocks }
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
        self.groups.remove(&number);
        let is_parent = self.branches.values().any(|one| one.is_from(number) && !one.given_up);
        require(removed && !is_parent, "it forgets a snapshot that has not been given up")
    }

    /// Everything of a branch has been let go of.
    pub fn forget_branch(&mut self, number: u32) -> Judged {
        let removed = self.branches.remove(&number).is_some_and(|one| one.given_up);
        let has_snapshots = self.snapshots.values().any(|(moment, _)| moment.branch == number);
        require(removed && !has_snapshots, "it forgets a writable snapshot that has not been given up")
    }

    /// Whether a branch has the volume, or nothing, at most so many levels above it.
    fn is_not_too_deep(&self, mut branch: u32) -> bool {
        for _ in 0..=LEVELS_MAX {
            let origin = self.branches.get(&branch).map(|branch| branch.origin);
            let Some(Origin::Snapshot(number, _)) = origin else { return true };
            let Some((moment, _)) = self.snapshots.get(&number) else { return true };
            branch = moment.branch;
        }
        false
    }

    /// Whether everything that there is of branches fits together.
    pub fn fits(&self) -> bool {
        let has_branch = |(moment, _): &(Moment, u32)| {
            moment.branch == 0
                || self.branches.get(&moment.branch).is_some_and(|of| of.begin() <= moment.sequence)
        };
        let has_parent = |one: &BranchState| match one.origin {
            Origin::Snapshot(number, _) => one.given_up || self.snapshots.contains_key(&number),
            Origin::Nothing(..) => true,
        };
        // Who has snapshots is not given up before they are.
        let is_named = |(moment, state): &(Moment, u32)| {
            *state != GIVEN_UP && self.branches.get(&moment.branch).is_some_and(|of| of.given_up)
        };
        self.snapshots.values().all(has_branch)
            && self.branches.keys().all(|branch| self.is_not_too_deep(*branch))
            && self.branches.values().all(has_parent)
            && !self.snapshots.values().any(is_named)
    }

    /// What has a name.
    pub fn named(&self, name: &[u8]) -> Option<Named> {
        match self.names.get(name)? {
            Owner::Branch(branch) => Some(Named::Now(*branch)),
            Owner::Snapshot(number) => self.snapshots.get(number).map(|(moment, state)| match *state {
                KEPT | RESTORING => Named::Then(*moment),
                _ => Named::Broken(moment.sequence),
            }),
        }
    }

    /// Whether a moment has a name.
    pub fn is_named(&self, moment: Moment) -> bool {
        self.kept.range((moment, 0)..=(moment, u64::MAX)).next().is_some()
    }

    /// The moment that a copy-on-write volume goes back to, if it has not got there yet.
    pub fn restoring(&self) -> Option<Moment> {
        self.snapshots.values().find(|(_, state)| *state == RESTORING).map(|(moment, _)| *moment)
    }

    /// What a moment is made of, the branch itself first. `None` where something that it began as is not kept.
    pub fn levels(&self, mut moment: Moment) -> Option<Vec<Level>> {
        let mut levels = Vec::new();
        // Whatever the device says, it comes to an end.
        while levels.len() <= LEVELS_MAX {
            let Moment { branch, sequence: last } = moment;
            let of = if branch == 0 { None } else { Some(self.branches.get(&branch)?) };
            levels.push(Level { branch, begin: of.map_or(0, BranchState::begin), last });
            match of.map(|of| of.origin) {
                None | Some(Origin::Nothing(..)) => return Some(levels),
                Some(Origin::Snapshot(number, origin)) => {
                    let is_kept = self.kept.contains(&(origin, number));
                    moment = is_kept.then_some(origin)?;
                }
            }
        }
        None
    }

    /// The sequence from which on a branch may have entries; none where there is no such branch.
    pub fn begin_of(&self, branch: u32) -> Option<u64> {
        match branch {
            0 => Some(0),
            _ => self.branches.get(&branch).map(BranchState::begin),
        }
    }

    /// Whether a moment that has a name sees a branch's version of these sequences.
    pub fn sees(&self, branch: u32, birth: u64, death: u64) -> bool {
        let [from, to] = [birth, death].map(|sequence| (Moment { branch, sequence }, 0));
        birth < death && self.kept.range(from..to).next().is_some()
    }

    /// Whether there is a snapshot of this number, given up or not.
    pub fn has_snapshot(&self, number: u64) -> bool {
        self.snapshots.contains_key(&number)
    }

    /// Number and sequence of the snapshots of the volume itself that are kept.
    pub fn kept_of_volume(&self) -> impl Iterator<Item = (u64, u64)> {
        self.kept
            .iter()
            .filter(|(moment, _)| moment.branch == 0)
            .map(|(moment, number)| (*number, moment.sequence))
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
