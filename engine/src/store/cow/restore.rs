//! Going back to a snapshot: what it shows is copied over the base, where that has changed since.
//!
//! One record says to which snapshot, and from then on its image is what is read; only when the base holds that image,
//! durably, another record ends it. So a crash anywhere leaves the volume as it was or as it is to be, and whoever opens
//! it next and writes copies what is left first. What other snapshots see of the base is saved before it is overwritten,
//! as ever: going back is a write, and every named moment can be gone back to, those in between too.
//!
//! Place: beside the other writes; the caller holds all of the volume.
//! Invariants: nothing but this writes to the base from the first record to the last; the snapshot is not given up
//! meanwhile; where the base lies apart, it says durably that it is no one image before it is not.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use super::Cow;
use crate::device::Cause;
use crate::error::Result;
use crate::runtime::{RangeGuard, RangeLock, join_all};
use crate::store::log::{Image, LogStore};
use crate::units::{ByteOffset, Moment, Seq};

/// Pieces of the volume that are copied at the same time.
const PIECES: usize = 4;

impl Cow {
    /// The store over this log; a return that a crash has cut short goes on being shown.
    pub async fn open(past: LogStore) -> Result<Self> {
        let shown = past.restoring().map(|moment| past.pinned_image(moment)).transpose()?;
        if shown.is_none() {
            past.base_is_whole().await?;
        }
        Ok(Self { past, shown: RefCell::new(shown.map(Rc::new)), turn: RangeLock::default() })
    }

    /// Refuses a moment that cannot be gone back to.
    pub fn check_rollback(&self, to: Seq) -> Result<()> {
        self.past.find_to_restore(Moment { branch: 0, sequence: to.0 })
    }

    /// Makes the volume what its snapshot of this sequence shows; `_guard` holds all of it. The sequence it has then.
    ///
    /// # Errors
    /// `UnknownMoment`, `Expired` where no snapshot has the moment, what writing says where a later snapshot has no room
    /// for what it sees of the base, `Poisoned`, and what the device says. Once it has begun it ends with the next write.
    pub async fn rollback(&self, to: Seq, _guard: RangeGuard) -> Result<Seq> {
        self.finish_rollback().await?;
        self.past.base().flush(self.past.own_io(Cause::Copy)).await?;
        let moment = Moment { branch: 0, sequence: to.0 };
        let image = Rc::new(self.past.pinned_image(moment)?);
        self.past.base_is_mixed().await?;
        self.past.begin_restoring(moment).await?;
        *self.shown.borrow_mut() = Some(image);
        self.finish_rollback().await?;
        Ok(Seq(self.past.sequence()))
    }

    /// The image that is to be read in place of the base.
    pub fn shown(&self) -> Option<Rc<Image>> {
        self.shown.borrow().clone()
    }

    /// Before anything else is written: what a return has still to copy is copied.
    pub async fn finish_rollback(&self) -> Result<()> {
        if self.shown.borrow().is_none() {
            return Ok(());
        }
        // Boxed, because it is seldom: in place it would lie in every write.
        Box::pin(self.restore()).await
    }

    async fn restore(&self) -> Result<()> {
        let _turn = self.turn.lock(0, 1).await;
        let Some(image) = self.shown() else { return Ok(()) };
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::RestoredBeforeBase) {
            self.past.end_restoring().await?;
        }
        let mut changed = self.past.changed_since(image.sequence()).await?;
        loop {
            let pieces = changed.next(PIECES).await?;
            if pieces.is_empty() {
                break;
            }
            let copying = pieces.into_iter().map(|blocks| self.copy_back(&image, blocks));
            join_all(copying.collect::<Vec<_>>()).await.into_iter().collect::<Result<()>>()?;
        }
        self.past.base().flush(self.past.own_io(Cause::Copy)).await?;
        self.past.end_restoring().await?;
        self.past.base_is_whole().await?;
        *self.shown.borrow_mut() = None;
        Ok(())
    }

    async fn copy_back(&self, image: &Image, blocks: Range<u64>) -> Result<()> {
        let block_bytes = self.past.block_bytes();
        let (at, bytes) = (ByteOffset(blocks.start * block_bytes), (blocks.end - blocks.start) * block_bytes);
        self.save_seen(at, bytes, &self.past.own_io(Cause::Copy)).await?;
        let buf = self.past.own_buffer(bytes)?;
        let (read, buf) = image.read(at, buf).await;
        read?;
        self.past.base().write(at, buf, self.past.own_io(Cause::Copy)).await.0
    }
}
