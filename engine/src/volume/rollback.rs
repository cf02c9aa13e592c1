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
        self.context().to_its_end("roll back", async move { volume.go_back(to).await }).await
    }

    async fn go_back(&self, to: Seq) -> Result<Seq> {
        self.check_writable("roll back")?;
        let guard = self.lock_range(0, self.0.size_bytes).await;
        self.check_writable("roll back")?;
        self.0.store.check_rollback(to)?;
        self.use_feature(FEATURE_ROLLBACK).await?;
        self.0.store.rollback(to, guard).await
    }
}
