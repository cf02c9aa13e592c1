//! What going back needs of the log where the base is overwritten for it (`store/cow/restore.rs`): which snapshot that is
//! to, durably, and which blocks have changed since.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Core, Image, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::pool::index::merge::Readers;
use crate::pool::snapshots::{Keeping, Snapshot};
use crate::units::{Moment, Seq, branch_of};

/// Bytes that are copied together.
const PIECE_BYTES: u64 = 1 << 20;

/// The blocks of the volume that have changed since a moment, in order.
pub(in crate::store) struct Changed {
    readers: Readers,
    since: u64,
    piece_blocks: u64,
    /// Those that may go on.
    begun: Option<Range<u64>>,
}

impl Changed {
    /// The next ones, in so many pieces at most; none behind the last.
    pub async fn next(&mut self, pieces: usize) -> Result<Vec<Range<u64>>> {
        let mut found = Vec::with_capacity(pieces);
        while found.len() < pieces {
            // Branches come behind the volume.
            let entry = self.readers.next().await?.filter(|entry| branch_of(entry.lba.get()) == 0);
            let Some(entry) = entry else {
                found.extend(self.begun.take());
                break;
            };
            let lba = entry.lba.get();
            if entry.sequence.get() <= self.since {
                continue;
            }
            match &mut self.begun {
                Some(begun) if lba < begun.end => {}
                Some(begun) if lba == begun.end && lba - begun.start < self.piece_blocks => begun.end += 1,
                begun => found.extend(begun.replace(lba..lba + 1)),
            }
        }
        Ok(found)
    }
}

impl LogStore {
    /// The moment that the volume is being made.
    pub(in crate::store) fn restoring(&self) -> Option<Moment> {
        self.core.contents.journal().state().snapshots.restoring().map(Snapshot::moment)
    }

    /// The image of a moment.
    pub(in crate::store) fn pinned_image(&self, moment: Moment) -> Result<Image> {
        self.core.pin_image(moment, BTreeSet::new())
    }

    /// Refuses a moment that no snapshot has.
    pub(in crate::store) fn find_to_restore(&self, moment: Moment) -> Result<()> {
        let image = self.pinned_image(moment)?;
        let is_named = self.core.contents.journal().state().snapshots.keeps(moment);
        drop(image);
        if is_named { Ok(()) } else { Err(self.core.expired(moment)) }
    }

    /// Says durably that the volume is what the snapshot of this moment shows.
    pub(in crate::store) async fn begin_restoring(&self, moment: Moment) -> Result<()> {
        self.core.restore(moment, Keeping::Kept, Keeping::Restoring).await
    }

    /// Says durably that the base is that.
    pub(in crate::store) async fn end_restoring(&self) -> Result<()> {
        match self.restoring() {
            Some(moment) => self.core.restore(moment, Keeping::Restoring, Keeping::Kept).await,
            None => Ok(()),
        }
    }

    /// The blocks that have changed since a moment, which is kept.
    pub(in crate::store) async fn changed_since(&self, moment: Seq) -> Result<Changed> {
        self.core.checkpoint().await?;
        let readers = Readers::open(self.core.contents.index().runs().iter()).await?;
        Ok(Changed { readers, since: moment.0, piece_blocks: PIECE_BYTES / self.block_bytes(), begun: None })
    }

    /// An I/O of the engine's own, whose failure poisons the volume.
    pub(in crate::store) fn own_io(&self, cause: Cause) -> Io {
        Io { failed: Some(self.core.failed.clone()), ..Io::of(cause) }
    }

    /// A buffer for the engine's own work.
    pub(in crate::store) fn own_buffer(&self, bytes: u64) -> Result<Buf> {
        self.core.device.context().buffers().reserved().get(bytes as usize)
    }
}

impl Core {
    fn expired(&self, moment: Moment) -> Error {
        let reason = Reason::Expired { moment: moment.sequence, earliest: self.contents.window() };
        Error::new("roll back", reason).on(self.device.name())
    }

    async fn restore(&self, moment: Moment, from: Keeping, to: Keeping) -> Result<()> {
        let find = |state: &crate::pool::metadata::Metadata| {
            let found = state.snapshots.at(moment).find(|one| one.keeping == from);
            found.cloned().ok_or_else(|| self.expired(moment))
        };
        self.change_snapshot(find, |found| Snapshot { keeping: to, ..found.clone() }.change()).await.map(drop)
    }
}
