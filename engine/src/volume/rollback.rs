//! Going back to an earlier moment.

use super::Volume;
use crate::error::Result;
use crate::format::superblock::FEATURE_ROLLBACK;
use crate::units::Seq;

impl Volume {
    /// Makes the volume again what it was at a moment that can still be opened, durably. Sequences go on: what
    /// was written since then is discarded, and can be opened as an image as long as the past is kept. The sequence
    /// at which it went back. Reads go on meanwhile, writes wait; a dropped future does not stop it half way.
    ///
    /// A `cow` volume goes back to its snapshots alone, by overwriting its base; snapshots in between stay, and can be gone
    /// back to as well. From the first record on it shows what it goes back to, also after a crash; where copying stops
    /// for want of room or by an error, the next write goes on with it.
    ///
    /// # Errors
    /// `NoPast`, `UnknownMoment`, `Expired`, `Discarded` where the volume has gone back from that moment before,
    /// `AppliedAlready` where a linear volume holds later changes, `TooManyRollbacks`, `ApplyStalled`, `Poisoned`,
    /// `Closed`, and what the device says.
    pub async fn rollback(&self, to: Seq) -> Result<Seq> {
        let volume = self.clone();
        self.context().to_its_end("roll back", async move { volume.go_back(to, None).await }).await
    }

    /// As [`Volume::rollback`], and what the volume is now gets a name before, so that nothing is lost: a writable snapshot
    /// of it goes on from there. Where power is cut between the two, it has the name and has not gone back.
    ///
    /// # Errors
    /// As there, and as [`Volume::create_snapshot`].
    pub async fn rollback_keeping(&self, to: Seq, name: &str) -> Result<Seq> {
        let (volume, name) = (self.clone(), name.to_string());
        self.context().to_its_end("roll back", async move { volume.go_back(to, Some(name)).await }).await
    }

    async fn go_back(&self, to: Seq, keep: Option<String>) -> Result<Seq> {
        self.check_writable("roll back")?;
        let mut guard = self.lock_range(0, self.0.size_bytes).await;
        self.check_writable("roll back")?;
        self.0.store.check_rollback(to)?;
        if let Some(name) = keep {
            guard = self.name_now(name, guard).await?;
        }
        self.use_feature(FEATURE_ROLLBACK).await?;
        self.0.store.rollback(to, guard).await
    }
}
