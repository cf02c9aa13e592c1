//! Named moments: taking, listing and deleting snapshots, writable ones too.
//!
//! Taking one flushes the log and writes one record of the metadata: no block is copied, no index entry written. A
//! snapshot that is deleted is marked so at once, and what it alone kept is let go of in the background.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::format::journal::Change;
use crate::pool::branches::Branch;
use crate::pool::index::difference::difference;
use crate::pool::metadata::{Metadata, Named};
use crate::pool::snapshots::{Keeping, Snapshot, SnapshotGroup, SnapshotLock, check_name};
use crate::runtime::RangeGuard;
use crate::store::Backend;
use crate::units::{Moment, Seq};

/// A snapshot of a volume: a named moment, or a writable one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it is called.
    pub name: String,
    /// The writable snapshot that it is a moment of; nothing for a moment of the volume itself. Of a writable one, the
    /// snapshot that it began as.
    pub of: Option<String>,
    /// Whether it can be written.
    pub writable: bool,
    /// The moment: the sequence of the last write that it sees. Of a writable one, the moment that it began as.
    pub sequence: Seq,
    /// Nanoseconds since 1970 (UTC) when it was taken.
    pub time_unix_ns: u64,
    /// It was given up for want of room, and is never shown again.
    pub broken: bool,
    /// What keeps it from being given up now, if anything does.
    pub lock: Option<SnapshotLock>,
    /// The group that it was taken in, if it was: with others, which may lie in other pools.
    pub group: Option<SnapshotGroup>,
    /// What deleting it alone would free, where that was asked for.
    pub exclusive_bytes: Option<u64>,
}

impl LogStore {
    /// The snapshots there are, by their moments, and the writable ones.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let state = self.core.contents.journal().state();
        let moments = state.snapshots.values().filter(|snapshot| snapshot.keeping.has_name());
        let is_one = |branch: &&Branch| !branch.given_up && !branch.is_volume();
        let branches = state.branches.values().filter(is_one);
        let moments = moments.map(|snapshot| self.core.info_of(&state, snapshot));
        let branches = branches.map(|branch| self.core.info_of_branch(&state, branch));
        let mut all: Vec<SnapshotInfo> = moments.chain(branches).collect();
        all.sort_by_key(|snapshot| (snapshot.sequence, snapshot.writable));
        all
    }

    /// The same, with the bytes that deleting each alone would free now: from all deaths that the index knows.
    ///
    /// # Errors
    /// `MetadataDamaged`, and what the device says.
    pub async fn snapshots_with_space(&self) -> Result<Vec<SnapshotInfo>> {
        // Those of the moment for which it is counted.
        let mut named = self.snapshots();
        let alone = self.core.contents.kept_alone().await?;
        let block_bytes = u64::from(self.core.geometry.block_bytes);
        // What a writable one holds is its own, and not counted here.
        for snapshot in named.iter_mut().filter(|snapshot| !snapshot.writable) {
            let moment = self.moment_of(&snapshot.name).ok();
            let blocks = moment.and_then(|moment| alone.get(&moment)).filter(|_| !snapshot.broken);
            snapshot.exclusive_bytes = Some(blocks.map_or(0, |blocks| blocks * block_bytes));
        }
        Ok(named)
    }

    /// The snapshot of this name.
    ///
    /// # Errors
    /// `NoSnapshot`.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let state = self.core.contents.journal().state();
        match state.named(name) {
            Some(Named::Snapshot(snapshot)) => Ok(self.core.info_of(&state, snapshot)),
            Some(Named::Branch(branch)) if !branch.is_volume() => {
                Ok(self.core.info_of_branch(&state, branch))
            }
            _ => Err(self.core.no_snapshot(name)),
        }
    }

    /// The moment of the snapshot of this name, or what a writable one is now.
    pub fn moment_of(&self, name: &str) -> Result<Moment> {
        match self.core.contents.journal().state().named(name) {
            Some(Named::Snapshot(snapshot)) => Ok(snapshot.moment()),
            Some(Named::Branch(branch)) => {
                Ok(Moment { branch: branch.number, sequence: self.core.sequence() })
            }
            None => Err(self.core.no_snapshot(name)),
        }
    }

    /// A moment of the volume, or of this writable snapshot; now, if no sequence is given.
    pub fn moment(&self, sequence: Option<Seq>) -> Moment {
        let sequence = sequence.map_or(self.core.sequence(), |sequence| sequence.0);
        Moment { branch: self.branch, sequence }
    }

    /// The moment of the volume's own snapshot of this name.
    pub(super) fn own_snapshot(&self, name: &str) -> Result<Moment> {
        let moment = self.moment_of(name)?;
        if moment.branch == self.branch { Ok(moment) } else { Err(self.core.no_snapshot(name)) }
    }

    /// The blocks that differ between two moments, whichever branches they are of.
    ///
    /// # Errors
    /// As opening their images.
    pub async fn difference(&self, one: Moment, other: Moment) -> Result<Vec<Range<u64>>> {
        let one = self.core.pin_image(one, BTreeSet::new())?;
        let other = self.core.pin_image(other, BTreeSet::new())?;
        let journal = self.core.contents.journal();
        let [volume, another] = [&one, &other].map(|image| journal.state().volume_of(image.branch()));
        if volume != another {
            return Err(Error::new("compare moments", Reason::OtherVolume).on(self.core.device.name()));
        }
        difference(self.core.contents.index(), &one.view(), &other.view()).await
    }

    /// Refuses a snapshot of this name that cannot be taken.
    pub fn check_snapshot(&self, name: &str) -> Result<()> {
        let refused = |reason| Err(Error::new("take snapshot", reason).on(self.core.device.name()));
        if self.backend() == Backend::Linear {
            // What is overwritten at home is lost to older moments.
            return refused(Reason::NoSnapshots { backend: self.backend().name() });
        }
        check_name(name)?;
        self.core.check_new_name("take snapshot", name)
    }

    /// Names the present moment, for each of these branches of the pool, in one record; `_guards` hold all of each, so
    /// that no write is half before it. All of them are taken, or none.
    pub async fn take_snapshots(
        &self,
        members: &[(u32, &str)],
        group: Option<SnapshotGroup>,
        _guards: &[RangeGuard],
    ) -> Result<Vec<SnapshotInfo>> {
        for (at, (_, name)) in members.iter().enumerate() {
            self.check_snapshot(name)?;
            if members[..at].iter().any(|(_, before)| before == name) {
                let reason = Reason::SnapshotExists { name: name.to_string() };
                return Err(Error::new("take snapshot", reason).on(self.core.device.name()));
            }
        }
        let core = &self.core;
        let log = core.log()?;
        // A sequence that a crash takes back would be another moment's.
        log.flush().await?;
        if core.contents.index().is_blank() {
            core.base_is_one_image().await?;
        }
        if members.iter().any(|(branch, _)| *branch == 0) {
            core.wait_for_object().await?;
        }
        let sequence = log.sequence();
        // Nothing of them may be thrown away while their names are being written down.
        let moments: Vec<Moment> =
            members.iter().map(|(branch, _)| Moment { branch: *branch, sequence }).collect();
        moments.iter().for_each(|moment| core.contents.name(*moment));
        let time_unix_ns = core.device.context().unix_time_ns();
        let mut taken = Ok(Vec::new());
        let mut held = Vec::new();
        let committed = core
            .contents
            .journal()
            .commit(|state| {
                let (mut infos, mut changes) = (Vec::new(), Vec::new());
                for (number, (branch, name)) in (state.snapshots.next_number()..).zip(members) {
                    let is_there = |one: &Branch| !one.given_up;
                    if *branch != 0 && !state.branches.get(*branch).is_some_and(is_there) {
                        taken = Err(core.no_snapshot(name));
                        return Vec::new();
                    }
                    // Writable snapshots take theirs at the same time.
                    if let Err(error) = core.check_name_in(state, "take snapshot", name, changes.len()) {
                        taken = Err(error);
                        return Vec::new();
                    }
                    let (branch, name, keeping) = (*branch, name.to_string(), Keeping::Kept);
                    let lock = SnapshotLock::default();
                    let snapshot =
                        Snapshot { number, branch, sequence, time_unix_ns, keeping, name, group, lock };
                    infos.push(core.info_of(state, &snapshot));
                    changes.push(snapshot.change());
                }
                // What is one of the volume itself has its object.
                if let Some(at) = members.iter().position(|(branch, _)| *branch == 0) {
                    let number = state.snapshots.next_number() + at as u64;
                    match core.take_object(state, (number, sequence), &mut held) {
                        Ok(object) => changes.extend(object),
                        Err(error) => {
                            taken = Err(error);
                            return Vec::new();
                        }
                    }
                }
                taken = Ok(infos);
                changes
            })
            .await;
        drop(held);
        let taken = committed.and(taken);
        if taken.is_err() {
            moments.iter().for_each(|moment| core.contents.unpin(*moment));
        }
        taken
    }

    /// Gives a name up. The moment stays open for whoever has an image of it.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.delete(name, false).await
    }

    /// Gives up a snapshot, or a further volume.
    pub(super) async fn delete(&self, name: &str, is_volume: bool) -> Result<()> {
        let core = Rc::clone(&self.core);
        core.log()?;
        let to_delete = |state: &Metadata| match state.named(name) {
            Some(Named::Branch(found)) if found.is_volume() != is_volume => Err(core.no_snapshot(name)),
            None => Err(core.no_snapshot(name)),
            Some(Named::Snapshot(found)) if state.branches.has_of(found.number) => {
                Err(core.has_children(name))
            }
            Some(Named::Snapshot(found)) => {
                let refused = |reason| Error::new("delete snapshot", reason).on(core.device.name());
                core.refuse_if_locked(found).map_err(refused)?;
                if found.keeping == Keeping::Restoring {
                    return Err(refused(Reason::SnapshotInUse { name: name.to_string() }));
                }
                let moment = found.keeping.is_kept().then(|| found.moment());
                Ok((moment, None, Snapshot { keeping: Keeping::GivenUp, ..found.clone() }.change()))
            }
            Some(Named::Branch(found)) => {
                core.check_unused(state, found)?;
                Ok((None, Some(found.number), Branch { given_up: true, ..found.clone() }.change()))
            }
        };
        // What is refused writes nothing.
        to_delete(&core.contents.journal().state())?;
        // Nothing of a writable snapshot that somebody has stopped waiting for comes later.
        core.log()?.flush().await?;
        let mut removed = Err(core.no_snapshot(name));
        core.contents
            .journal()
            .commit(|state| match to_delete(state) {
                Ok((moment, branch, change)) => {
                    branch.into_iter().for_each(|branch| core.close_branch(branch));
                    removed = Ok(moment);
                    vec![change]
                }
                Err(error) => {
                    removed = Err(error);
                    Vec::new()
                }
            })
            .await?;
        removed?.into_iter().for_each(|moment| core.contents.unpin(moment));
        core.look_for_room(core.log()?);
        Ok(())
    }
}

impl Core {
    pub(super) fn no_snapshot(&self, name: &str) -> Error {
        Error::new("find snapshot", Reason::NoSnapshot { name: name.to_string() }).on(self.device.name())
    }

    /// The snapshot of this name in a state.
    pub(super) fn snapshot<'a>(&self, state: &'a Metadata, name: &str) -> Result<&'a Snapshot> {
        state.snapshots.named(name).ok_or_else(|| self.no_snapshot(name))
    }

    /// What is told of a snapshot.
    pub(super) fn info_of(&self, state: &Metadata, snapshot: &Snapshot) -> SnapshotInfo {
        let now_unix_ns = self.device.context().unix_time_ns();
        SnapshotInfo {
            name: snapshot.name.clone(),
            of: state.branches.get(snapshot.branch).map(|branch| branch.name.clone()),
            writable: false,
            sequence: Seq(snapshot.sequence),
            time_unix_ns: snapshot.time_unix_ns,
            broken: !snapshot.keeping.is_kept() || self.is_lost(snapshot.moment()),
            lock: Some(snapshot.lock).filter(|lock| lock.holds_at(now_unix_ns)),
            group: snapshot.group,
            exclusive_bytes: None,
        }
    }

    /// What is told of a writable one.
    pub(super) fn info_of_branch(&self, state: &Metadata, branch: &Branch) -> SnapshotInfo {
        let parent = branch.parent().and_then(|parent| state.snapshots.get(parent));
        SnapshotInfo {
            name: branch.name.clone(),
            of: parent.map(|parent| parent.name.clone()),
            writable: true,
            sequence: Seq(parent.map_or(0, |parent| parent.sequence)),
            time_unix_ns: branch.time_unix_ns,
            broken: parent.is_none_or(|parent| !parent.keeping.is_kept()),
            lock: None,
            group: None,
            exclusive_bytes: None,
        }
    }

    /// Commits a change of the snapshot that `find` finds, and tells what that was before. What `find` refuses changes
    /// nothing; it is asked again once nothing else can change the state before the commit.
    pub(super) async fn change_snapshot(
        &self,
        find: impl Fn(&Metadata) -> Result<Snapshot>,
        change: impl FnOnce(&Snapshot) -> Change,
    ) -> Result<Snapshot> {
        let journal = self.contents.journal();
        let mut found = find(&journal.state());
        if found.is_ok() {
            journal
                .commit(|state| {
                    found = find(state);
                    found.as_ref().ok().map(change).into_iter().collect()
                })
                .await?;
        }
        found
    }

    /// Whether a moment is a broken snapshot's, and nobody keeps it otherwise.
    pub(super) fn is_broken(&self, moment: Moment) -> bool {
        let state = self.contents.journal().state();
        !self.contents.can_open(moment) && state.snapshots.at(moment).any(|one| !one.keeping.is_kept())
    }

    /// A snapshot that has been deleted and not swept, or a moment that nobody has open any more.
    pub(super) fn has_given_up(&self) -> bool {
        self.contents.given_up().is_some() || self.removed().is_some()
    }

    fn removed(&self) -> Option<Snapshot> {
        let state = self.contents.journal().state();
        // While nothing but an image keeps its moment, the metadata has to know of it.
        let is_free = |snapshot: &&Snapshot| {
            let moment = snapshot.moment();
            state.snapshots.keeps(moment) || !self.contents.is_pinned(moment)
        };
        state.snapshots.to_sweep().find(is_free).cloned()
    }

    /// Lets go of what one of these alone has kept.
    pub(super) async fn sweep(&self) -> Result<()> {
        let Some(snapshot) = self.removed() else {
            if let Some(moment) = self.contents.given_up() {
                self.contents.sweep(moment).await?;
                self.settled.give();
            }
            return Ok(());
        };
        self.contents.sweep(snapshot.moment()).await?;
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = self.news_of_rows(state, 0);
                let keeping = state.snapshots.get(snapshot.number).map(|now| now.keeping);
                changes.push(match keeping {
                    Some(Keeping::Breaking) => Snapshot { keeping: Keeping::Broken, ..snapshot }.change(),
                    _ => Change::SnapshotRemoved(snapshot.number),
                });
                changes
            })
            .await?;
        // Whoever waits for room looks again.
        self.settled.give();
        Ok(())
    }
}
