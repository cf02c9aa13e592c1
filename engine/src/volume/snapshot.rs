//! Named moments of a volume.

use std::ops::Range;

use super::Volume;
use crate::error::Result;
use crate::format::superblock::{FEATURE_LOCKS, FEATURE_SNAPSHOTS};
use crate::pool::superblock;
use crate::store::log::{LockTime, SnapshotInfo};
use crate::units::Seq;

impl Volume {
    /// Names the present moment: everything that has completed before this call is in it, and nothing that is
    /// called after it returned. Durable when it returns. Reads go on meanwhile, writes wait; a dropped future does not
    /// stop it half way.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshots`, `InvalidSetting` for the name, `SnapshotExists`, `TooManySnapshots`, `Poisoned`,
    /// `Closed`, and what the device says.
    pub async fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let (volume, name) = (self.clone(), name.to_string());
        let taking = async move { volume.take_snapshot(&name).await };
        self.context().to_its_end("take snapshot", taking).await
    }

    async fn take_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.check_writable("take snapshot")?;
        let guard = self.lock_range(0, self.0.size_bytes).await;
        self.check_writable("take snapshot")?;
        let log = self.0.store.log()?;
        log.check_snapshot(name)?;
        self.use_feature(FEATURE_SNAPSHOTS).await?;
        // What a crash takes back must not be in it.
        self.0.store.flush(self.flush_io()).await?;
        log.take_snapshot(name, &guard).await
    }

    /// The snapshots there are, by their moments; none where the backend keeps no past.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.0.store.log().map(|log| log.snapshots()).unwrap_or_default()
    }

    /// The same, each with the bytes that come free when it alone is deleted and nothing else has changed: exact, as of
    /// the time of the call, counted from the index's metadata. What somebody has an image open of, or two snapshots of one
    /// moment keep, is nobody's alone.
    ///
    /// # Errors
    /// `Closed`, and what the device says.
    pub async fn snapshots_with_space(&self) -> Result<Vec<SnapshotInfo>> {
        self.check_open("list snapshots")?;
        match self.0.store.log() {
            Ok(log) => log.snapshots_with_space().await,
            Err(_keeps_no_past) => Ok(Vec::new()),
        }
    }

    /// The snapshot of this name: its moment opens as an image, and can be gone back to.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.0.store.log()?.snapshot(name)
    }

    /// The regions that differ between two moments that can be opened: ranges of bytes, in order, of whole regions. From
    /// the index alone: a region that was given the same content again is among them.
    ///
    /// # Errors
    /// `NoPast`, `UnknownMoment`, `Expired`, `Closed`, and what the device says.
    pub async fn difference(&self, one: Seq, other: Seq) -> Result<Vec<Range<u64>>> {
        self.check_open("compare moments")?;
        let region = u64::from(self.info().region_bytes);
        let blocks = self.0.store.log()?.difference(one, other).await?;
        let mut regions: Vec<Range<u64>> = Vec::new();
        for range in blocks {
            let start = range.start * self.0.block_bytes / region * region;
            let end = (range.end * self.0.block_bytes).next_multiple_of(region);
            match regions.last_mut().filter(|last| start <= last.end) {
                Some(last) => last.end = last.end.max(end),
                None => regions.push(start..end),
            }
        }
        Ok(regions)
    }

    /// Deletes a snapshot, durably. No block is moved; what it alone kept comes free in the background. Whoever has an
    /// image of it open keeps that.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotLocked`, `Poisoned`, `Closed`, and what the device says.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable("delete snapshot")?;
        let (volume, name) = (self.clone(), name.to_string());
        let deleting = async move { volume.0.store.log()?.delete_snapshot(&name).await };
        self.context().to_its_end("delete snapshot", deleting).await
    }

    /// Locks a snapshot, durably: it is neither deleted nor broken for want of room before its time has come, or before it
    /// is unlocked. A time that has not come can be put off, and nothing else.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotBroken`, `SnapshotLocked` for a longer time, `InvalidSetting` for a time that has
    /// passed, `Poisoned`, `Closed`, and what the device says.
    pub async fn lock_snapshot(&self, name: &str, time: LockTime) -> Result<SnapshotInfo> {
        self.check_writable("lock snapshot")?;
        let (volume, name) = (self.clone(), name.to_string());
        let locking = async move {
            let log = volume.0.store.log()?;
            log.check_lock(&name, time)?;
            volume.use_feature(FEATURE_LOCKS).await?;
            log.lock_snapshot(&name, time).await
        };
        self.context().to_its_end("lock snapshot", locking).await
    }

    /// Unlocks a snapshot, durably; one that is not locked stays so.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotLocked` while its time has not come, `Poisoned`, `Closed`, and what the device
    /// says.
    pub async fn unlock_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.check_writable("unlock snapshot")?;
        let (volume, name) = (self.clone(), name.to_string());
        let unlocking = async move {
            let log = volume.0.store.log()?;
            match log.snapshot(&name)? {
                unlocked if unlocked.lock.is_none() => Ok(unlocked),
                _ => log.unlock_snapshot(&name).await,
            }
        };
        self.context().to_its_end("unlock snapshot", unlocking).await
    }

    /// Folds the oldest overlay into the base: the image of the oldest snapshot, named by `through`, or of now where
    /// there is no snapshot, is brought to its place there, and the space it took elsewhere comes free. No image
    /// changes. The moment that the base is the image of. Reads and writes go on meanwhile; a dropped future does not
    /// stop it half way.
    ///
    /// # Errors
    /// `NoPast`, `NoOverlays`, `NoSnapshot`, `BasePinned` while an older moment is kept, `OutOfOrder` while an older
    /// overlay is there, `Discarded`, `Poisoned`, `Closed`, and what the device says.
    pub async fn fold(&self, through: Option<&str>) -> Result<Seq> {
        self.check_writable("fold")?;
        let (volume, through) = (self.clone(), through.map(str::to_string));
        // Now is a moment that no write is half before.
        let guard = match through {
            None => Some(self.lock_range(0, self.0.size_bytes).await),
            Some(_) => None,
        };
        let folding = async move { volume.0.store.log()?.fold(through.as_deref(), guard).await };
        self.context().to_its_end("fold", folding).await
    }

    /// Says in the superblock that this volume uses a feature, before it does: a build that does not know it must not
    /// take the volume for one without.
    pub(super) async fn use_feature(&self, feature: u64) -> Result<()> {
        let mut record = *self.0.superblock.borrow();
        if record.features_incompatible.get() & feature != 0 {
            return Ok(());
        }
        record.features_incompatible |= feature;
        record.generation += 1;
        superblock::write(&self.0.device, &record, &self.0.failed).await?;
        *self.0.superblock.borrow_mut() = record;
        Ok(())
    }
}
