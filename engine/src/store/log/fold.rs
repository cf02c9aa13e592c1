//! Folding the oldest overlay into the base: what the log holds of a moment's image is written to its place in
//! the base, and then the index forgets where it lay in the log.
//!
//! Invariants: no moment that is kept is older than the one that is folded, so nobody sees what is overwritten in the
//! base; it is durable there before one record of the journal gives up the copies in the log, all of them at once. So a
//! crash leaves the image as it was, in the log, or as it was, in the base; folding again does the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::image::{Image, ImageOptions};
use super::{Core, LogStore};
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::format::index_page::{BASE, ZERO};
use crate::pool::history::Line;
use crate::pool::index::merge::Readers;
use crate::runtime::{RangeGuard, join_all};
use crate::store::Backend;
use crate::units::{ByteOffset, Seq, branch_of};

/// Bytes that are read and written together.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces under way.
const PIECES: usize = 4;

/// Blocks that a moment sees in the log.
struct Overlaid {
    blocks: Range<u64>,
    /// They read as zero.
    zero: bool,
}

impl LogStore {
    /// Brings the image of the oldest snapshot, or of now where there is none, into the base, which is that image then.
    /// `through`: the name of that snapshot. The moment that the base is the image of.
    /// `guard`: holds the volume until that moment is pinned.
    pub async fn fold(&self, through: Option<&str>, guard: Option<RangeGuard>) -> Result<Seq> {
        let core = &self.core;
        let log = core.log()?;
        self.check_is_volume("fold")?;
        let refused = |reason| Err(Error::new("fold", reason).on(core.device.name()));
        if core.backend != Backend::Overlay {
            return refused(Reason::NoOverlays { backend: core.backend.name() });
        }
        // What is left of a branch that has been given up may be older than the moment.
        while core.dropped_branch().is_some() && !core.failed.is_raised() {
            core.settled.wait().await;
        }
        let moment = match through {
            Some(name) => self.own_snapshot(name)?.sequence,
            None => core.sequence(),
        };
        // What is moved home meanwhile would be overwritten.
        let _turn = core.base_turn.lock(0, 1).await;
        let options = ImageOptions { sequence: Some(Seq(moment)), ..ImageOptions::default() };
        let image = self.image(options, guard).await?;
        self.check_fold(moment)?;
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::FoldedBeforeBase) {
            core.fold_index(moment).await?;
            core.device.context().sleep(1_000_000).await;
        }
        core.before_base_changes().await?;
        let index = core.contents.index();
        let line = index.history().line(moment);
        let mut readers = Readers::open(index.runs().iter()).await?;
        let mut pieces = Vec::new();
        loop {
            // The last piece may go on, but for at the end.
            let is_end = core.overlaid(&mut readers, &line, &mut pieces).await?;
            let whole = if is_end { pieces.len() } else { pieces.len() - 1 };
            let folding = pieces.drain(..whole).map(|piece| self.copy_to_base(&image, piece));
            join_all(folding.collect::<Vec<_>>()).await.into_iter().collect::<Result<()>>()?;
            if is_end {
                break;
            }
        }
        let io = Io { failed: Some(core.failed.clone()), ..Io::of(Cause::Apply) };
        self.base().flush(io).await?;
        core.fold_wanted.set(Some(moment));
        log.progress.give();
        while core.fold_wanted.get().is_some() {
            if core.failed.is_raised() {
                return refused(Reason::Poisoned);
            }
            core.settled.wait().await;
        }
        // Nobody has written in place meanwhile, since the image is open.
        core.base_is_one_image().await?;
        drop(image);
        Ok(Seq(moment))
    }

    async fn copy_to_base(&self, image: &Image, piece: Overlaid) -> Result<()> {
        let (at, bytes) = self.core.bytes_of(&piece.blocks);
        let io = Io::of(Cause::Apply);
        if piece.zero {
            return self.base().discard(at, bytes, io).await;
        }
        let buf = self.core.device.context().buffers().reserved().get(bytes as usize)?;
        let (read, buf) = image.read(at, buf).await;
        read?;
        self.base().write(at, buf, io).await.0
    }

    /// Only the oldest image that is kept may go into the base.
    fn check_fold(&self, moment: u64) -> Result<()> {
        let contents = &self.core.contents;
        let refused = |reason| Err(Error::new("fold", reason).on(self.core.device.name()));
        let discarded_at = contents.index().history().discarded_at(moment);
        if discarded_at != u64::MAX {
            return refused(Reason::Discarded { moment, discarded_at });
        }
        let snapshots = self.snapshots();
        let older = snapshots.iter().filter(|one| one.of.is_none() && one.sequence.0 < moment);
        match older.map(|one| one.name.clone()).collect::<Vec<_>>().as_slice() {
            [] if contents.is_pinned_before(moment) => {
                refused(Reason::BasePinned { by: "an open image".to_string() })
            }
            [] => Ok(()),
            [one] => refused(Reason::BasePinned { by: format!("snapshot {one:?}") }),
            [_, next, ..] => refused(Reason::OutOfOrder { first: next.clone() }),
        }
    }
}

impl Core {
    fn bytes_of(&self, blocks: &Range<u64>) -> (ByteOffset, u64) {
        let block_bytes = u64::from(self.geometry.block_bytes);
        (ByteOffset(blocks.start * block_bytes), (blocks.end - blocks.start) * block_bytes)
    }

    /// The next blocks that a moment sees in the log, in order, in pieces behind those there are; whether these are all.
    async fn overlaid(&self, readers: &mut Readers, line: &Line, found: &mut Vec<Overlaid>) -> Result<bool> {
        let most = PIECE_BYTES / u64::from(self.geometry.block_bytes);
        while found.len() <= PIECES {
            let Some(entry) = readers.next().await? else { return Ok(true) };
            let (lba, number) = (entry.lba.get(), entry.virtual_segment.get());
            if branch_of(lba) != 0 || !line.sees(entry.sequence.get()) {
                continue;
            }
            let zero = number == ZERO;
            // A newer version of the same block; one that has been moved home is there.
            if let Some(last) = found.last_mut().filter(|last| last.blocks.end == lba + 1) {
                if last.zero == zero && number != BASE {
                    continue;
                }
                last.blocks.end = lba;
                if last.blocks.is_empty() {
                    found.pop();
                }
            }
            match found.last_mut() {
                _ if number == BASE => {}
                Some(last)
                    if last.blocks.end == lba
                        && last.zero == zero
                        && last.blocks.end - last.blocks.start < most =>
                {
                    last.blocks.end += 1;
                }
                _ => found.push(Overlaid { blocks: lba..lba + 1, zero }),
            }
        }
        Ok(false)
    }

    /// The base holds a moment's image, durably: what the log holds of it is given up, and no entry names it.
    pub(super) async fn fold_index(&self, moment: u64) -> Result<()> {
        let line = self.contents.index().history().line(moment);
        let given_up: RefCell<BTreeMap<u32, Vec<u16>>> = RefCell::default();
        let rename = |birth: u64, place: (u32, u32)| {
            let in_log = !matches!(place.0, BASE | ZERO);
            if place.0 == BASE || birth == 0 || !line.sees(birth) {
                return place;
            }
            if in_log {
                given_up.borrow_mut().entry(place.0).or_default().push(place.1 as u16);
            }
            (BASE, 0)
        };
        let news = |state: &mut _| {
            for (number, slots) in &*given_up.borrow() {
                slots.iter().for_each(|slot| self.contents.kill_in(state, (*number, u32::from(*slot))));
            }
            self.news_of_rows(state, 0)
        };
        self.rewrite_index(None, rename, news).await?;
        self.placing.note_change();
        self.fold_wanted.set(None);
        self.settled.give();
        Ok(())
    }
}
