//! Named moments of a volume.

use std::ops::Range;

use super::Volume;
use crate::error::Result;
use crate::format::superblock::FEATURE_LOCKS;
use crate::pool::superblock;
use crate::runtime::RangeGuard;
use crate::store::log::{LockTime, SnapshotInfo};
use crate::units::{Moment, Seq};

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

    pub(super) async fn lock_for_snapshot(&self) -> RangeGuard {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::SnapshotAmidWrites) {
            return crate::runtime::RangeLock::default().lock(0, self.0.size_bytes).await;
        }
        self.lock_range(0, self.0.size_bytes).await
    }

    /// The snapshots there are, by their moments, writable ones among them; none where the backend keeps no past.
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

    /// The snapshot of this name, which [`Volume::image_of`] opens; a writable one, [`Volume::open_writable`].
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
        let log = self.0.store.log()?;
        self.difference_between(log.moment(Some(one)), log.moment(Some(other))).await
    }

    /// As [`Volume::difference`], between moments of this volume or of writable snapshots.
    ///
    /// # Errors
    /// As there.
    pub async fn difference_between(&self, one: Moment, other: Moment) -> Result<Vec<Range<u64>>> {
        self.check_open("compare moments")?;
        Ok(self.regions(self.0.store.log()?.difference(one, other).await?))
    }

    /// A moment of this volume; now, if no sequence is given.
    ///
    /// # Errors
    /// `NoPast`.
    pub fn moment(&self, sequence: Option<Seq>) -> Result<Moment> {
        Ok(self.0.store.log()?.moment(sequence))
    }

    /// The moment that a snapshot is; of a writable one, what it is now.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`.
    pub fn moment_of(&self, name: &str) -> Result<Moment> {
        self.0.store.log()?.moment_of(name)
    }

    /// The regions that hold these ranges of blocks.
    fn regions(&self, blocks: Vec<Range<u64>>) -> Vec<Range<u64>> {
        let info = self.info();
        let (region, block) = (u64::from(info.region_bytes), u64::from(info.block_bytes));
        let mut regions: Vec<Range<u64>> = Vec::new();
        for range in blocks {
            let start = range.start * block / region * region;
            let end = (range.end * block).next_multiple_of(region);
            match regions.last_mut().filter(|last| start <= last.end) {
                Some(last) => last.end = last.end.max(end),
                None => regions.push(start..end),
            }
        }
        regions
    }

    /// Deletes a snapshot, or a writable one, durably. No block is moved; what it alone kept comes free in the background. Whoever has an
    /// image of it open keeps that.
    ///
    /// # Errors
    /// `NoPast`, `NoSnapshot`, `SnapshotLocked`, `HasChildren` where a writable one began as it or has snapshots, `SnapshotInUse` where a
    /// writable one is open, `Poisoned`, `Closed`, and what the device says.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.check_writable("delete snapshot")?;
        let (volume, name) = (self.clone(), name.to_string());
        let deleting = async move {
            let log = volume.0.store.log()?;
            let is_shown = |shown| log.moment_of(&name).is_ok_and(|moment| moment == log.moment(Some(shown)));
            if !volume.0.read_only && volume.0.store.shown().is_some_and(is_shown) {
                let _guard = volume.lock_range(0, volume.0.size_bytes).await;
                volume.0.store.finish_rollback().await?;
            }
            log.delete_snapshot(&name).await
        };
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

    /// Waits until no block of an overlay that has been read is on its way to the base any more, where the opener had them
    /// moved. How many blocks have been moved since the volume was opened.
    ///
    /// # Errors
    /// `NoPast`, `NoOverlays`.
    pub async fn moved_home(&self) -> Result<u64> {
        self.0.store.log()?.moved_home().await
    }

    /// Says in the superblock that this volume uses features, before it does: a build that does not know them must not
    /// take the volume for one without.
    pub(super) async fn use_feature(&self, features: u64) -> Result<()> {
        // Of two that begin at once, the second one must not forget what the first one said.
        let _turn = self.0.superblock_turn.lock(0, 1).await;
        let mut record = *self.0.superblock.borrow();
        if record.features_incompatible.get() & features == features {
            return Ok(());
        }
        record.features_incompatible |= features;
        record.generation += 1;
        superblock::write(&self.0.device, &record, &self.0.failed).await?;
        *self.0.superblock.borrow_mut() = record;
        Ok(())
    }
}
