//! Named moments: what the journal keeps of them, and which names there may be.
//!
//! A name keeps the versions that its moment sees. One that has been given up stays in the set, *removed*, until all
//! that it alone kept has been let go of (*swept*), so that this is done once more where the process ends before.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Reason, Result};
use crate::format::journal::{self, Change};
use crate::units::Moment;

/// Named moments that the metadata of any pool has room for.
pub const SNAPSHOTS_MIN: u32 = 256;
/// As many as a pool may be given room for.
pub const SNAPSHOTS_MAX: u32 = 1 << 14;
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
    /// It is, and the volume is being made what it shows: until that is done, it is what the volume shows (of `cow`).
    Restoring = 4,
}

impl Keeping {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Kept, Self::GivenUp, Self::Breaking, Self::Broken, Self::Restoring]
            .into_iter()
            .find(|one| *one as u32 == number)
    }

    /// Whether the moment is there.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Kept | Self::Restoring)
    }

    /// Whether the name is in use.
    pub fn has_name(self) -> bool {
        self != Self::GivenUp
    }
}

/// What keeps a snapshot from being deleted, or broken for want of room: a time, and somebody who has to agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotLock {
    /// Not before this time, in nanoseconds since 1970 (UTC); 0: at any time.
    pub until_unix_ns: u64,
    /// Not before it is unlocked.
    pub held: bool,
}

impl SnapshotLock {
    /// Whether it holds at a time.
    pub fn holds_at(&self, unix_ns: u64) -> bool {
        let holds = self.held || unix_ns < self.until_unix_ns;
        #[cfg(feature = "mutations")]
        let holds = holds && !crate::mutation::is_on(crate::mutation::Mutation::LockIgnored);
        holds
    }

    /// The change that tells the journal of it.
    pub fn change(&self, number: u64) -> Change {
        Change::SnapshotLock(journal::SnapshotLock {
            number: number.into(),
            until_unix_ns: self.until_unix_ns.into(),
            held: u64::from(self.held).into(),
        })
    }
}

/// Snapshots that were taken together, of volumes of one pool or of several: which ones belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotGroup {
    /// The same in all of its snapshots.
    pub id: [u8; 16],
    /// How many they are.
    pub members: u32,
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
    /// The group that it was taken in, if it was.
    pub group: Option<SnapshotGroup>,
    /// What keeps it from being given up. Stays what it was where a change tells of the rest.
    pub lock: SnapshotLock,
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
        let group = self
            .group
            .map(|SnapshotGroup { id, members }| journal::SnapshotGroup { id, members: members.into() });
        Change::Snapshot(body, self.name.clone().into_bytes(), group)
    }

    /// What a change says; `None` where it says nothing possible.
    pub fn from_change(
        body: &journal::Snapshot,
        name: &[u8],
        group: Option<journal::SnapshotGroup>,
    ) -> Option<Self> {
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
            group: group.map(|group| SnapshotGroup { id: group.id, members: group.members.get() }),
            lock: SnapshotLock::default(),
        })
    }
}

/// All named moments of a pool, in the orders in which they are looked for: none of these looks at all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    by_number: BTreeMap<u64, Snapshot>,
    /// The numbers of names that are in use.
    by_name: BTreeMap<String, u64>,
    /// Moment and number of each.
    by_moment: BTreeSet<(Moment, u64)>,
    /// The numbers of those whose moments are to be swept.
    to_sweep: BTreeSet<u64>,
    /// The number of that which the volume is being made.
    restoring: Option<u64>,
}

impl Snapshots {
    /// Takes one in, in the place of that of its number.
    pub fn insert(&mut self, mut snapshot: Snapshot) {
        if let Some(before) = self.remove(snapshot.number) {
            snapshot.lock = before.lock;
        }
        let (number, moment) = (snapshot.number, snapshot.moment());
        if snapshot.keeping.has_name() {
            self.by_name.insert(snapshot.name.clone(), number);
        }
        if matches!(snapshot.keeping, Keeping::GivenUp | Keeping::Breaking) {
            self.to_sweep.insert(number);
        }
        if snapshot.keeping == Keeping::Restoring {
            self.restoring = Some(number);
        }
        self.by_moment.insert((moment, number));
        self.by_number.insert(number, snapshot);
    }

    /// Forgets that of this number; `None` if there is none.
    pub fn remove(&mut self, number: u64) -> Option<Snapshot> {
        let gone = self.by_number.remove(&number)?;
        if self.by_name.get(&gone.name) == Some(&number) {
            self.by_name.remove(&gone.name);
        }
        self.by_moment.remove(&(gone.moment(), number));
        self.to_sweep.remove(&number);
        self.restoring = self.restoring.filter(|one| *one != number);
        Some(gone)
    }

    /// Locks or unlocks that of this number; `None` if there is none.
    pub fn lock(&mut self, body: &journal::SnapshotLock) -> Option<()> {
        let locked = self.by_number.get_mut(&body.number.get())?;
        locked.lock = SnapshotLock { until_unix_ns: body.until_unix_ns.get(), held: body.held.get() == 1 };
        Some(())
    }

    /// How many there are, with those that are still to be swept.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// All, by their numbers.
    pub fn values(&self) -> impl Iterator<Item = &Snapshot> {
        self.by_number.values()
    }

    /// That of this number.
    pub fn get(&self, number: u64) -> Option<&Snapshot> {
        self.by_number.get(&number)
    }

    /// A number that none has.
    pub fn next_number(&self) -> u64 {
        self.by_number.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// That of this name.
    pub fn named(&self, name: &str) -> Option<&Snapshot> {
        self.get(*self.by_name.get(name)?)
    }

    /// Those that are kept, the oldest moment first.
    pub fn kept(&self) -> impl Iterator<Item = &Snapshot> {
        let all = self.by_moment.iter().filter_map(|(_, number)| self.get(*number));
        all.filter(|one| one.keeping.is_kept())
    }

    /// That which the volume is being made.
    pub fn restoring(&self) -> Option<&Snapshot> {
        self.get(self.restoring?)
    }

    /// Those of one moment.
    pub fn at(&self, moment: Moment) -> impl Iterator<Item = &Snapshot> {
        self.between(moment, moment)
    }

    /// Those of one branch, or of the volume itself.
    pub fn of_branch(&self, branch: u32) -> impl Iterator<Item = &Snapshot> {
        self.between(Moment { branch, sequence: 0 }, Moment { branch, sequence: u64::MAX })
    }

    fn between(&self, first: Moment, last: Moment) -> impl Iterator<Item = &Snapshot> {
        self.by_moment.range((first, 0)..=(last, u64::MAX)).filter_map(|(_, number)| self.get(*number))
    }

    /// Whether one that is kept has this moment.
    pub fn keeps(&self, moment: Moment) -> bool {
        self.at(moment).any(|one| one.keeping.is_kept())
    }

    /// Those whose moments are to be swept, by their numbers.
    pub fn to_sweep(&self) -> impl Iterator<Item = &Snapshot> {
        self.to_sweep.iter().filter_map(|number| self.get(*number))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Random;

    /// Each look-up says what looking at all of them says, whatever has been put in and taken out.
    #[test]
    fn every_order_tells_of_the_same() {
        let random = &mut Random::from_seed(1);
        let mut all = Snapshots::default();
        for _ in 0..5000 {
            let number = 1 + random.below(40);
            if random.chance(1, 4) {
                all.remove(number);
            } else {
                let keeping = [Keeping::Kept, Keeping::GivenUp, Keeping::Breaking, Keeping::Broken];
                let keeping = keeping[random.below(4) as usize];
                // A name is one number's, but for those that have been given up.
                let name = format!("of {}", if keeping.has_name() { number } else { random.below(40) });
                let sequence = random.below(20);
                let (group, lock) = (None, SnapshotLock::default());
                let branch = random.below(3) as u32;
                all.insert(Snapshot {
                    number,
                    branch,
                    sequence,
                    time_unix_ns: 0,
                    keeping,
                    name,
                    group,
                    lock,
                });
            }
            let scan = |keeping: &[Keeping]| -> Vec<&Snapshot> {
                all.values().filter(|one| keeping.contains(&one.keeping)).collect()
            };
            let mut kept = scan(&[Keeping::Kept]);
            kept.sort_by_key(|one| (one.moment(), one.number));
            assert_eq!(all.kept().collect::<Vec<_>>(), kept);
            assert_eq!(all.to_sweep().collect::<Vec<_>>(), scan(&[Keeping::GivenUp, Keeping::Breaking]));
            for at in 0..41 {
                let of_name =
                    all.values().find(|one| one.name == format!("of {at}") && one.keeping.has_name());
                assert_eq!(all.named(&format!("of {at}")), of_name);
                let moment = Moment { branch: 1, sequence: at };
                assert_eq!(all.keeps(moment), kept.iter().any(|one| one.moment() == moment));
                assert!(all.at(moment).eq(all.values().filter(|one| one.moment() == moment)));
            }
            let of_one = all.values().filter(|one| one.branch == 1).map(|one| one.number);
            assert_eq!(all.of_branch(1).map(|one| one.number).collect::<BTreeSet<_>>(), of_one.collect());
            assert!(all.get(all.next_number()).is_none() && all.len() <= 40);
            assert_eq!(all.is_empty(), all.values().next().is_none());
        }
    }
}
