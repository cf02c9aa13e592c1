//! Named moments: taking, listing and deleting snapshots.
//!
//! Taking one flushes the log and writes one record of the metadata: no block is copied, no index entry written. A
//! snapshot that is deleted is marked so at once, and what it alone kept is let go of in the background.

use std::ops::Range;
use std::rc::Rc;

use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::format::journal::Change;
use crate::pool::index::difference::difference;
use crate::pool::metadata::Metadata;
use crate::pool::snapshots::{Keeping, Snapshot, SnapshotLock, check_name};
use crate::runtime::RangeGuard;
use crate::store::Backend;
use crate::units::Seq;

/// A named moment of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it is called.
    pub name: String,
    /// The moment: the sequence of the last write that it sees.
    pub sequence: Seq,
    /// Nanoseconds since 1970 (UTC) when it was taken.
    pub time_unix_ns: u64,
    /// It was given up for want of room, and is never shown again.
    pub broken: bool,
    /// What keeps it from being given up now, if anything does.
    pub lock: Option<SnapshotLock>,
    /// What deleting it alone would free, where that was asked for.
    pub exclusive_bytes: Option<u64>,
}

impl LogStore {
    /// The snapshots there are, by their moments.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let state = self.core.contents.journal().state();
        let named = state.snapshots.values().filter(|snapshot| snapshot.keeping.has_name());
        let mut named: Vec<SnapshotInfo> = named.map(|snapshot| self.core.info_of(snapshot)).collect();
        named.sort_by_key(|snapshot| snapshot.sequence);
        named
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
        for snapshot in &mut named {
            let blocks = alone.get(&snapshot.sequence.0).filter(|_| !snapshot.broken);
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
        self.core.snapshot(&state, name).map(|snapshot| self.core.info_of(snapshot))
    }

    /// Whether a moment is a broken snapshot's, and nobody keeps it otherwise.
    pub(super) fn is_broken(&self, moment: u64) -> bool {
        let is_one = |one: &Snapshot| {
            matches!(one.keeping, Keeping::Breaking | Keeping::Broken) && one.sequence == moment
        };
        let state = self.core.contents.journal().state();
        !self.core.contents.can_open(moment) && state.snapshots.values().any(is_one)
    }

    /// The blocks that differ between two moments.
    ///
    /// # Errors
    /// `UnknownMoment`, `Expired`, and what the device says.
    pub async fn difference(&self, one: Seq, other: Seq) -> Result<Vec<Range<u64>>> {
        let core = &self.core;
        let last = core.sequence();
        for moment in [one.0, other.0] {
            let reason = match moment {
                _ if self.is_broken(moment) => Reason::SnapshotBroken { moment },
                _ if moment > last => Reason::UnknownMoment { moment, last },
                _ if core.contents.can_open(moment) => continue,
                _ => Reason::Expired { moment, earliest: core.contents.window() },
            };
            return Err(Error::new("compare moments", reason).on(core.device.name()));
        }
        let _pins = [one.0, other.0].map(|moment| core.contents.pin(moment));
        let index = core.contents.index();
        let lines = [one.0, other.0].map(|moment| index.history().line(moment));
        difference(index, &lines[0], &lines[1]).await
    }

    /// Refuses a snapshot of this name that cannot be taken.
    pub fn check_snapshot(&self, name: &str) -> Result<()> {
        let refused = |reason| Err(Error::new("take snapshot", reason).on(self.core.device.name()));
        if self.backend() == Backend::Linear {
            // What is overwritten at home is lost to older moments.
            return refused(Reason::NoSnapshots { backend: self.backend().name() });
        }
        check_name(name)?;
        let state = self.core.contents.journal().state();
        if state.snapshots.named(name).is_some() {
            return refused(Reason::SnapshotExists { name: name.to_string() });
        }
        if state.snapshots.len() == state.snapshots_max() {
            return refused(Reason::TooManySnapshots { limit: state.snapshots_max() });
        }
        Ok(())
    }

    /// Names the present moment; `_guard` holds the whole volume, so that no write is half before it.
    pub async fn take_snapshot(&self, name: &str, _guard: &RangeGuard) -> Result<SnapshotInfo> {
        self.check_snapshot(name)?;
        let core = &self.core;
        let log = core.log()?;
        // A sequence that a crash takes back would be another moment's.
        log.flush().await?;
        let sequence = log.sequence();
        // Nothing of it may be thrown away while its name is being written down.
        core.contents.name(sequence);
        let (name, time_unix_ns) = (name.to_string(), core.device.context().unix_time_ns());
        let mut taken = None;
        let committed = core
            .contents
            .journal()
            .commit(|state| {
                let number = state.snapshots.next_number();
                let (keeping, lock) = (Keeping::Kept, SnapshotLock::default());
                let snapshot = Snapshot { number, sequence, time_unix_ns, keeping, name, lock };
                taken = Some(core.info_of(&snapshot));
                vec![snapshot.change()]
            })
            .await;
        if committed.is_err() {
            core.contents.unpin(sequence);
        }
        committed?;
        match taken {
            Some(taken) => Ok(taken),
            None => unreachable!("a commit that succeeded has prepared its changes"),
        }
    }

    /// Gives a name up. The moment stays open for whoever has an image of it.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        let core = Rc::clone(&self.core);
        core.log()?;
        let refused = |reason| Error::new("delete snapshot", reason).on(core.device.name());
        let to_delete = |state: &Metadata| {
            let found = core.snapshot(state, name)?;
            core.refuse_if_locked(found).map_err(refused)?;
            Ok(found.clone())
        };
        let removed = core
            .change_snapshot(to_delete, |found| {
                Snapshot { keeping: Keeping::GivenUp, ..found.clone() }.change()
            })
            .await?;
        if removed.keeping == Keeping::Kept {
            core.contents.unpin(removed.sequence);
        }
        core.log()?.progress.give();
        Ok(())
    }
}

impl Core {
    /// The snapshot of this name in a state.
    pub(super) fn snapshot<'a>(&self, state: &'a Metadata, name: &str) -> Result<&'a Snapshot> {
        let none = || {
            Error::new("find snapshot", Reason::NoSnapshot { name: name.to_string() }).on(self.device.name())
        };
        state.snapshots.named(name).ok_or_else(none)
    }

    /// What is told of a snapshot.
    pub(super) fn info_of(&self, snapshot: &Snapshot) -> SnapshotInfo {
        let (name, sequence) = (snapshot.name.clone(), Seq(snapshot.sequence));
        let broken = snapshot.keeping != Keeping::Kept;
        let lock = Some(snapshot.lock).filter(|lock| lock.holds_at(self.device.context().unix_time_ns()));
        let (time_unix_ns, exclusive_bytes) = (snapshot.time_unix_ns, None);
        SnapshotInfo { name, sequence, time_unix_ns, broken, lock, exclusive_bytes }
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

    /// A snapshot that has been deleted and not swept, or a moment that nobody has open any more.
    pub(super) fn has_given_up(&self) -> bool {
        self.contents.given_up().is_some() || self.removed().is_some()
    }

    fn removed(&self) -> Option<Snapshot> {
        let state = self.contents.journal().state();
        // While nothing but an image keeps its moment, the metadata has to know of it.
        let is_free = |snapshot: &&Snapshot| {
            let moment = snapshot.sequence;
            state.snapshots.keeps(moment) || !self.contents.is_pinned(moment)
        };
        state.snapshots.to_sweep().find(is_free).cloned()
    }

    /// Lets go of what one of these alone has kept.
    pub(super) async fn sweep(&self) -> Result<()> {
        let Some(snapshot) = self.removed() else {
            return match self.contents.given_up() {
                Some(moment) => {
                    self.contents.sweep(moment).await?;
                    self.settled.give();
                    Ok(())
                }
                None => Ok(()),
            };
        };
        self.contents.sweep(snapshot.sequence).await?;
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
