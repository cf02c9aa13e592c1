//! A base beside the log: which blocks of it may be overwritten, and saving what a moment still sees.
//!
//! A block that no entry of the index names lies in the base, at its place. While a moment that is kept sees it there,
//! it must not be overwritten: `overlay` writes the new content to the log, `cow` writes the old one there and then
//! overwrites it. What the log takes in is found by the index, in both cases.
//!
//! Invariants: what is saved is durable, with the entry that finds it, before the base is overwritten; the caller holds
//! the range, so that nobody else writes it meanwhile; a moment is given a name, or an image of it opened, while nobody
//! holds any range.

use std::ops::Range;

use super::space::Reserved;
use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::Result;
use crate::format::batch::KIND_SAVED;
use crate::object::linear::Linear;
use crate::pool::log::append::Entry;
use crate::runtime::{RangeGuard, join_all};
use crate::units::ByteOffset;

/// Where new content of blocks goes, or with `cow`, what is overwritten by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Goes {
    /// Over what lies in the base, and no moment that is kept sees.
    Base,
    /// Over what lies in this extent of a linear object, and no moment that is kept sees.
    Over(u32),
    /// To its place in this extent, which has not been used.
    Place(u32),
    /// To the log.
    Log,
}

/// A part of a range that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Piece {
    /// Its blocks.
    pub blocks: Range<u64>,
    /// Where they go.
    pub goes: Goes,
    /// Blocks that have to stay where they are, while new content goes to the log.
    pub more_blocks: u64,
}

impl LogStore {
    /// The base of this volume.
    pub(in crate::store) fn base(&self) -> &Linear {
        match &self.core.base {
            Some(base) => base,
            None => unreachable!("a store over a base is opened with one"),
        }
    }

    /// Bytes of a block.
    pub(in crate::store) fn block_bytes(&self) -> u64 {
        self.core.geometry.block_bytes.into()
    }

    /// A range of the volume in parts, in order, by where they go.
    pub(in crate::store) async fn pieces(&self, offset: ByteOffset, length: u64) -> Result<Vec<Piece>> {
        let contents = &self.core.contents;
        let (first, end) = (offset.0 / self.block_bytes(), (offset.0 + length) / self.block_bytes());
        let mut pieces: Vec<Piece> = Vec::with_capacity(1);
        for lba in first..end {
            let now = contents.index().current(lba).await?;
            let is_kept = contents.is_kept(lba, &now);
            let goes = if now.is_in_base() && !is_kept {
                Goes::Base
            } else if self.core.is_unverified(&now) && !is_kept {
                Goes::Over(now.virtual_segment)
            } else {
                self.core.free_place(lba).map_or(Goes::Log, Goes::Place)
            };
            let more = u64::from(goes == Goes::Log && (is_kept || now.is_zero()));
            match pieces.last_mut().filter(|last| last.goes == goes) {
                Some(last) => {
                    last.blocks.end = lba + 1;
                    last.more_blocks += more;
                }
                None => pieces.push(Piece { blocks: lba..lba + 1, goes, more_blocks: more }),
            }
        }
        Ok(pieces)
    }

    /// The parts of a range, with room for what goes to the log and supersedes nothing there.
    pub(in crate::store) async fn room_for(
        &self,
        offset: ByteOffset,
        length: u64,
    ) -> Result<(Vec<Piece>, Reserved<'_>)> {
        loop {
            let pieces = self.pieces(offset, length).await?;
            let blocks = pieces.iter().map(|piece| piece.more_blocks).sum();
            if let Some(reserved) = self.reserve(blocks).await? {
                return Ok((pieces, reserved));
            }
        }
    }

    /// Copies a part of the base to where it goes, durably, and lets the moments that see it find it there.
    pub(in crate::store) async fn save(&self, piece: &Piece, guard: Option<&RangeGuard>) -> Result<()> {
        let blocks = &piece.blocks;
        if let Goes::Place(number) = piece.goes {
            return self.save_in_place(number, blocks, guard).await;
        }
        let most = u64::from(self.core.geometry.entry_blocks_max());
        let parts = blocks.clone().step_by(most as usize);
        let saving = parts.map(|lba| self.core.save(lba, (blocks.end - lba).min(most), guard.cloned()));
        join_all(saving.collect::<Vec<_>>()).await.into_iter().collect()
    }
}

impl Core {
    async fn save(&self, lba: u64, blocks: u64, guard: Option<RangeGuard>) -> Result<()> {
        let bytes = blocks * u64::from(self.geometry.block_bytes);
        let buf = self.device.context().buffers().get(bytes as usize)?;
        let entry = Entry { durable: true, guard, ..self.entry_of_base(KIND_SAVED, lba, buf).await? };
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::OverwrittenBeforeSaved) {
            let log = std::rc::Rc::clone(self.log()?);
            self.device.context().spawn(async move { log.append(entry).await.0.map(drop) });
            return Ok(());
        }
        let appended = self.log()?.append(entry).await.0;
        self.judge(appended.map(drop), true)
    }

    /// An entry with what the base holds from a block on, as much as `buf` takes.
    pub(super) async fn entry_of_base(&self, kind: u32, lba: u64, buf: Buf) -> Result<Entry> {
        let Some(base) = &self.base else { unreachable!("only a volume with a base saves what it holds") };
        let block_bytes = u64::from(self.geometry.block_bytes);
        let blocks = buf.len() as u64 / block_bytes;
        let pinned = self.contents.index().pin(lba, blocks).await?;
        let (read, buf) = base.read(ByteOffset(lba * block_bytes), buf, Io::of(Cause::Copy)).await;
        read?;
        let (payload, blocks) = (Some(buf), blocks as u32);
        let (durable, guard) = (false, None);
        Ok(Entry { kind, address: lba, blocks, tag: 0, payload, durable, guard, pinned, after_flush: 0 })
    }
}
