//! Locks: a snapshot that is not deleted, nor broken for want of room, before a time, or before it is unlocked.
//!
//! The clock is the runtime's: the system's time when the process began, and what has passed since. Setting the system's
//! clock while a volume is open changes nothing; a later process whose clock was set back keeps a lock for longer. A lock
//! for a while ends so long after the latest time that either the clock or the log has seen, so that a clock that was set
//! back does not make it shorter than was meant. A clock that is set forward ends locks, and nothing here can know.
//!
//! Invariants: a lock is durable when it has been taken; while its time has not come, it becomes longer, never shorter.

use super::{Core, LogStore};
use crate::error::{Error, Reason, Result};
use crate::pool::metadata::Metadata;
use crate::pool::snapshots::{Snapshot, SnapshotLock};
use crate::store::log::SnapshotInfo;

/// For how long a snapshot is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockTime {
    /// Until it is unlocked.
    Held,
    /// Until this time, in nanoseconds since 1970 (UTC). Nobody can unlock it before.
    Until(u64),
    /// For so many nanoseconds from now. Nobody can unlock it before.
    For(u64),
}

impl LogStore {
    /// Refuses to lock a snapshot that is not there, or not for a shorter time than it is locked for.
    pub fn check_lock(&self, name: &str, time: LockTime) -> Result<()> {
        self.core.log()?;
        self.core.to_lock(&self.core.contents.journal().state(), name, time).map(drop)
    }

    /// Locks a snapshot, durably.
    pub async fn lock_snapshot(&self, name: &str, time: LockTime) -> Result<SnapshotInfo> {
        let core = &self.core;
        core.change_lock(name, |state| core.to_lock(state, name, time)).await
    }

    /// Unlocks a snapshot, durably, unless its time has not come.
    pub async fn unlock_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let core = &self.core;
        let unlocked = |state: &Metadata| {
            let found = core.snapshot(state, name)?;
            core.refuse_if_locked(&Snapshot {
                lock: SnapshotLock { held: false, ..found.lock },
                ..found.clone()
            })
            .map_err(|reason| core.refused_lock("unlock snapshot", reason))?;
            Ok(Snapshot { lock: SnapshotLock::default(), ..found.clone() })
        };
        core.change_lock(name, unlocked).await
    }
}

impl Core {
    fn refused_lock(&self, operation: &'static str, reason: Reason) -> Error {
        Error::new(operation, reason).on(self.device.name())
    }

    /// Whether a snapshot may be given up now, and why not.
    pub(super) fn refuse_if_locked(&self, snapshot: &Snapshot) -> std::result::Result<(), Reason> {
        let (lock, now) = (snapshot.lock, self.device.context().unix_time_ns());
        if !lock.holds_at(now) {
            return Ok(());
        }
        // Of both, the time is what cannot be changed.
        let until_unix_ns = Some(lock.until_unix_ns).filter(|until| now < *until);
        Err(Reason::SnapshotLocked { name: snapshot.name.clone(), until_unix_ns })
    }

    /// A snapshot as it is to be locked.
    fn to_lock(&self, state: &Metadata, name: &str, time: LockTime) -> Result<Snapshot> {
        let refused = |reason| Err(self.refused_lock("lock snapshot", reason));
        let found = self.snapshot(state, name)?;
        if !found.keeping.is_kept() {
            return refused(Reason::SnapshotBroken { moment: found.sequence });
        }
        let now = self.device.context().unix_time_ns();
        let seen = self.log.as_ref().map_or(now, |log| now.max(log.time_unix_ns()));
        let until = match time {
            LockTime::Held => {
                return Ok(Snapshot { lock: SnapshotLock { held: true, ..found.lock }, ..found.clone() });
            }
            LockTime::Until(until) => until,
            LockTime::For(length) => seen.saturating_add(length),
        };
        if until <= now {
            let (name, rule) = ("locked until", "a time that is still to come is needed");
            return refused(Reason::InvalidSetting { name, value: until.to_string(), rule });
        }
        let before = found.lock.until_unix_ns;
        if until < before && now < before {
            let until_unix_ns = Some(before);
            return refused(Reason::SnapshotLocked { name: name.to_string(), until_unix_ns });
        }
        Ok(Snapshot { lock: SnapshotLock { until_unix_ns: until, ..found.lock }, ..found.clone() })
    }

    async fn change_lock(
        &self,
        name: &str,
        find: impl Fn(&Metadata) -> Result<Snapshot>,
    ) -> Result<SnapshotInfo> {
        self.log()?;
        self.change_snapshot(find, |locked| locked.lock.change(locked.number)).await?;
        self.ask_again();
        self.log()?.progress.give();
        let state = self.contents.journal().state();
        self.snapshot(&state, name).map(|snapshot| self.info_of(&state, snapshot))
    }
}
