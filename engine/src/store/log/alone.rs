//! What the device of a base has to say by itself, should the log's be lost: whether its blocks are one image.
//!
//! The base of an overlay volume is the image at which the oldest overlay began, until a block is written in place while
//! the index names others elsewhere. Before that, its own superblock says that it is *mixed*; after a fold, or when a
//! snapshot is taken and the index names nothing, it is one image again.
//!
//! The base of a `cow` volume is the current image, but for while it goes back to a snapshot.
//!
//! Place: beside the base, where that lies apart.
//! Invariants: *mixed* is durable before the first block that makes it so is written; it is taken back only when what the
//! base is from then on is durable, and while nobody may write in place.

use std::cell::RefCell;

use super::{Core, HomeDevice, LogStore};
use crate::device::Device;
use crate::error::Result;
use crate::format::superblock::{Superblock, VOLUME_BASE_MIXED};
use crate::pool::superblock;
use crate::runtime::{FailureFlag, RangeLock};

/// Whether a base that lies apart is one image.
#[derive(Debug)]
pub(super) struct BaseMark {
    device: Device,
    record: RefCell<Superblock>,
    /// Held while the superblock is rewritten.
    turn: RangeLock,
}

impl BaseMark {
    pub fn of(home: &HomeDevice) -> Self {
        let (device, record) = (home.device.clone(), RefCell::new(*home.record));
        Self { device, record, turn: RangeLock::default() }
    }

    fn is_mixed(&self) -> bool {
        self.record.borrow().volume_flags.get() & VOLUME_BASE_MIXED != 0
    }

    /// Says so, durably.
    async fn set(&self, mixed: bool, failed: &FailureFlag) -> Result<()> {
        if self.is_mixed() == mixed {
            return Ok(());
        }
        // Boxed, because superblocks are long: in place they would lie in every write.
        Box::pin(self.change(mixed, failed)).await
    }

    async fn change(&self, mixed: bool, failed: &FailureFlag) -> Result<()> {
        let _turn = self.turn.lock(0, 1).await;
        if self.is_mixed() == mixed {
            return Ok(());
        }
        let mut record = *self.record.borrow();
        record.volume_flags ^= VOLUME_BASE_MIXED;
        record.generation += 1;
        superblock::write(&self.device, &record, failed).await?;
        *self.record.borrow_mut() = record;
        Ok(())
    }
}

impl LogStore {
    /// Has to be waited for before a block of the base is written that the index does not name.
    pub(in crate::store) async fn before_base_changes(&self) -> Result<()> {
        self.core.before_base_changes().await
    }
}

impl LogStore {
    /// What the base holds is not to be taken for the current image.
    pub(in crate::store) async fn base_is_mixed(&self) -> Result<()> {
        match &self.core.base_mark {
            Some(mark) => mark.set(true, &self.core.failed).await,
            None => Ok(()),
        }
    }

    /// What the base holds is durable, and the current image.
    pub(in crate::store) async fn base_is_whole(&self) -> Result<()> {
        if self.core.log.is_none() {
            return Ok(());
        }
        self.core.base_is_one_image().await
    }
}

impl Core {
    pub(super) async fn before_base_changes(&self) -> Result<()> {
        match &self.base_mark {
            Some(mark) if !self.contents.index().is_blank() => mark.set(true, &self.failed).await,
            _ => Ok(()),
        }
    }

    /// What the base holds is durable, and one image.
    pub(super) async fn base_is_one_image(&self) -> Result<()> {
        match &self.base_mark {
            Some(mark) => mark.set(false, &self.failed).await,
            None => Ok(()),
        }
    }
}
