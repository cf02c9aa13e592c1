//! Moving home what is read of an overlay: a block that lies in the log, though no moment before it is kept, goes to
//! its place in the base, and then the index forgets where it lay.
//!
//! A read notes its blocks and goes on; what has been noted while one batch was under way is the next one. A batch is
//! copied, the base flushed, and a checkpoint asked for: its run says where the blocks lie, and the same record of the
//! journal gives up their slots in the log. Only then do readers and writers look for them in the base.
//!
//! Invariants: what is overwritten in the base is seen by no moment that is kept or can be opened, and what supersedes it
//! is durable in the log; while the newest version of a block lies in the log, nobody writes it in the base but whoever
//! has the base's turn; until the record is durable, memory says that the block lies in the log, so that no write goes to
//! a base that a crash would not look at.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bringing::Bringing;
use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::pool::index::Pinned;
use crate::pool::index::current::Version;
use crate::pool::metadata::Metadata;
use crate::runtime::{Context, Signal, join_all};
use crate::store::Backend;

/// Blocks that are noted at most; others are moved when they are read again.
const NOTED_MAX: usize = 4096;
/// Bytes that are moved together: a flush and a checkpoint for all of them, and no more buffers than this.
const BATCH_BYTES: usize = 1 << 20;

/// What is on its way home.
#[derive(Debug)]
pub(super) struct Moving {
    /// Where all blocks go home, read or not.
    pub bringing: Option<Bringing>,
    noted: RefCell<BTreeSet<u64>>,
    noticed: Signal,
    /// Durable in the base; the next checkpoint says so.
    copied: RefCell<Vec<Moved>>,
    moved_blocks: Cell<u64>,
    /// A batch is under way.
    is_busy: Cell<bool>,
    /// Blocks that are being moved, and those that are being overwritten in their places in linear objects: none is both.
    under_way: RefCell<BTreeSet<u64>>,
    overwritten: RefCell<BTreeMap<u64, u32>>,
}

/// A block whose newest version the base has.
#[derive(Debug)]
pub(super) struct Moved {
    lba: u64,
    version: Version,
    /// Its page stays in memory, so that what it says can be asked at once.
    _pinned: Pinned,
}

/// How many blocks of a batch have gone home, and why others could not, if there are any.
#[derive(Default)]
pub(super) struct Batch {
    pub moved: usize,
    pub failed: Option<Error>,
}

impl Batch {
    /// What has been done, without what could not be.
    pub fn done<T>(&mut self, results: impl IntoIterator<Item = Result<T>>) -> Vec<T> {
        let taken =
            results.into_iter().filter_map(|result| result.map_err(|error| self.failed = Some(error)).ok());
        taken.collect()
    }
}

/// Blocks that follow each other, and what they hold.
struct Piece {
    blocks: Vec<Moved>,
    buf: Buf,
}

impl Moved {
    pub fn place(&self) -> (u64, Version) {
        (self.lba, self.version)
    }
}

/// A piece without the blocks that stay where they are, in parts that hold something.
pub(super) fn split_at(piece: Vec<Moved>, stays: impl Fn(&Moved) -> bool) -> Vec<Vec<Moved>> {
    let mut parts = vec![Vec::new()];
    for moved in piece {
        match (stays(&moved), parts.last_mut()) {
            (false, Some(part)) => part.push(moved),
            _ => parts.push(Vec::new()),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

impl Moving {
    pub fn new(context: &Context, bringing: Option<Bringing>) -> Self {
        Self {
            bringing,
            noted: RefCell::default(),
            noticed: Signal::new(context),
            copied: RefCell::default(),
            moved_blocks: Cell::default(),
            is_busy: Cell::default(),
            under_way: RefCell::default(),
            overwritten: RefCell::default(),
        }
    }

    /// Blocks are about to be overwritten where they lie in a linear object; false where one of them is being moved.
    pub fn begin_write(&self, blocks: Range<u64>) -> bool {
        if self.under_way.borrow().range(blocks.clone()).next().is_some() {
            return false;
        }
        let overwritten = &mut *self.overwritten.borrow_mut();
        blocks.for_each(|lba| *overwritten.entry(lba).or_default() += 1);
        true
    }

    /// They have been. Where nobody says so, because the write was dropped half way, they are not moved any more.
    pub fn end_write(&self, blocks: Range<u64>) {
        let overwritten = &mut *self.overwritten.borrow_mut();
        for lba in blocks {
            let left = overwritten.remove(&lba).map_or(0, |writes| writes - 1);
            if left > 0 {
                overwritten.insert(lba, left);
            }
        }
    }

    /// So many blocks have been moved since the volume was opened.
    pub fn moved_blocks(&self) -> u64 {
        self.moved_blocks.get()
    }

    /// Whether there is something that the next checkpoint tells.
    pub fn has_news(&self) -> bool {
        !self.copied.borrow().is_empty()
    }

    /// Blocks that have been noted, in order.
    pub fn take(&self, most: usize) -> Vec<u64> {
        let noted = &mut *self.noted.borrow_mut();
        std::iter::from_fn(|| noted.pop_first()).take(most).collect()
    }
}

impl LogStore {
    /// Notes blocks that have been read where they may be moved.
    pub(super) fn note_read(&self, first: u64, versions: &[Version]) {
        // What a writable snapshot has been given has no place in the base.
        let moving = self.core.moving.as_ref().filter(|moving| self.branch == 0 && moving.bringing.is_none());
        let Some(moving) = moving else { return };
        let mut noted = moving.noted.borrow_mut();
        let before = noted.len();
        let moves = (first..).zip(versions).filter(|(_, version)| self.core.may_move(version));
        noted.extend(moves.map(|(lba, _)| lba).take(NOTED_MAX.saturating_sub(before)));
        if noted.len() > before {
            moving.noticed.give();
        }
    }

    /// Waits until nothing that has been read is on its way home any more. How many blocks have been moved since the
    /// volume was opened.
    ///
    /// # Errors
    /// `NoOverlays`.
    pub async fn moved_home(&self) -> Result<u64> {
        let core = &*self.core;
        if core.backend != Backend::Overlay {
            let reason = Reason::NoOverlays { backend: core.backend.name() };
            return Err(Error::new("move home", reason).on(core.device.name()));
        }
        let Some(moving) = &core.moving else { return Ok(0) };
        let is_idle = || moving.noted.borrow().is_empty() && !moving.is_busy.get();
        while !is_idle() && !core.failed.is_raised() {
            core.settled.wait().await;
        }
        Ok(moving.moved_blocks())
    }
}

impl Core {
    /// Whether it lies in the log, and no older moment is kept, unless what that sees is copied: then none can be kept any
    /// more, since the window has passed. What was born before a return to an earlier moment stays: discarded versions are
    /// newer, and a run that came after them would hide them from the moments that they are kept for.
    fn may_move(&self, version: &Version) -> bool {
        let copies = self.moving.as_ref().is_some_and(|moving| moving.bringing.is_some());
        if !version.has_slot() || (!copies && self.contents.is_pinned_before(version.birth)) {
            return false;
        }
        let history = self.contents.index().history();
        history.rollbacks().last().is_none_or(|last| last.at < version.birth)
    }

    pub(super) async fn keep_moving(&self) {
        let Some(moving) = &self.moving else { return };
        if let Some(bringing) = &moving.bringing {
            return self.keep_bringing(moving, bringing).await;
        }
        while !self.failed.is_raised() {
            if moving.noted.borrow().is_empty() {
                moving.noticed.wait().await;
            } else if !self.step(self.move_noted(moving)).await {
                return;
            }
        }
    }

    /// Moves what has been noted, and has the index learn of it; until it has, nobody overwrites these blocks in their places.
    async fn move_noted(&self, moving: &Moving) -> Result<()> {
        let _turn = self.base_turn.lock(0, 1).await;
        moving.is_busy.set(true);
        let noted = moving.take(BATCH_BYTES / self.geometry.block_bytes as usize);
        let moved = match self.move_batch(moving, noted, u64::MAX).await {
            Ok(Batch { moved: 0, .. }) => Ok(()),
            Ok(_) => self.checkpoint().await,
            Err(error) => Err(error),
        };
        moving.under_way.borrow_mut().clear();
        moving.is_busy.set(false);
        self.settled.give();
        moved
    }

    /// Moves one batch of blocks that have no linear objects. The next checkpoint tells of it.
    pub(super) async fn move_home(&self, moving: &Moving, blocks: Vec<u64>, through: u64) -> Result<Batch> {
        let _turn = self.base_turn.lock(0, 1).await;
        let moved = self.move_batch(moving, blocks, through).await;
        moving.under_way.borrow_mut().clear();
        moved
    }

    /// Moves, of these blocks, those whose newest version was born at `through` at the latest. One that cannot be looked
    /// up, read or written stays where it is.
    async fn move_batch(&self, moving: &Moving, blocks: Vec<u64>, through: u64) -> Result<Batch> {
        let index = self.contents.index();
        let mut pieces: Vec<Vec<Moved>> = Vec::new();
        let (mut newest, mut batch) = (0, Batch::default());
        for lba in blocks {
            let pinned = match index.pin(lba, 1).await {
                Ok(pinned) => pinned,
                Err(error) => {
                    batch.failed = Some(error);
                    continue;
                }
            };
            let may_move = |version: &Version| version.birth <= through && self.may_move(version);
            let Some(version) = index.current_now(lba).filter(may_move) else { continue };
            if moving.overwritten.borrow().contains_key(&lba) {
                continue;
            }
            moving.under_way.borrow_mut().insert(lba);
            newest = newest.max(version.birth);
            let moved = Moved { lba, version, _pinned: pinned };
            match pieces.last_mut() {
                Some(piece) if piece.last().is_some_and(|last| last.lba + 1 == lba) => piece.push(moved),
                _ => pieces.push(vec![moved]),
            }
        }
        if pieces.is_empty() {
            return Ok(batch);
        }
        let log = self.log()?;
        if log.durable_through() < newest {
            log.flush().await?;
        }
        self.before_base_changes().await?;
        if moving.bringing.is_some() {
            self.copy_seen(moving, &mut batch, &mut pieces).await?;
        }
        let mut pieces = self.read_pieces(moving, &mut batch, pieces).await;
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::MoveHomeClearsFirst) {
            let blocks = pieces.iter_mut().flat_map(|piece| std::mem::take(&mut piece.blocks));
            moving.copied.replace(blocks.collect());
            self.checkpoint().await?;
            self.device.context().sleep(1_000_000).await;
        }
        let first = |piece: &Piece| piece.blocks.first().map_or(0, |block| block.lba);
        let at: Vec<u64> = pieces.iter().map(first).collect();
        let writing = pieces.drain(..).zip(at).map(|(piece, first)| self.write_piece_home(first, piece));
        let written = join_all(writing.collect::<Vec<_>>()).await;
        let copied: Vec<Moved> = batch.done(written).into_iter().flatten().collect();
        batch.moved = copied.len();
        if copied.is_empty() {
            return Ok(batch);
        }
        let Some(base) = &self.base else { unreachable!("what has overlays has a base") };
        // After this flush, what is in the base survives, and the index may say so.
        base.flush(Io { failed: Some(self.failed.clone()), ..Io::of(Cause::Apply) }).await?;
        moving.copied.replace(copied);
        Ok(batch)
    }

    /// Whether this is still the newest version of a block, and lies where it did. One whose row has been gathered with others
    /// meanwhile is to go home all the same: it is noted.
    pub(super) fn is_newest_or_note(&self, moving: &Moving, lba: u64, version: Version) -> bool {
        let now = self.contents.index().current_now(lba);
        if now.is_some_and(|now| now != version && now.birth == version.birth) {
            moving.noted.borrow_mut().insert(lba);
        }
        now == Some(version)
    }

    /// What is read of these. What has been superseded meanwhile may be gone, and is left out.
    async fn read_pieces(
        &self,
        moving: &Moving,
        batch: &mut Batch,
        mut pieces: Vec<Vec<Moved>>,
    ) -> Vec<Piece> {
        let mut found = Vec::with_capacity(pieces.len());
        while !pieces.is_empty() {
            let reading: Vec<_> = pieces.iter().map(|blocks| self.read_piece(blocks)).collect();
            let results = join_all(reading).await;
            for (result, blocks) in results.into_iter().zip(std::mem::take(&mut pieces)) {
                let is_current = |one: &Moved| self.is_newest_or_note(moving, one.lba, one.version);
                match result {
                    Ok(buf) => found.push(Piece { blocks, buf }),
                    Err(error) if blocks.iter().all(is_current) => batch.failed = Some(error),
                    Err(_) => pieces.extend(split_at(blocks, |one| !is_current(one))),
                }
            }
        }
        found
    }

    async fn read_piece(&self, blocks: &[Moved]) -> Result<Buf> {
        let first = blocks.first().map_or(0, |block| block.lba);
        let versions: Vec<Version> = blocks.iter().map(|block| block.version).collect();
        let bytes = versions.len() * self.geometry.block_bytes as usize;
        let buf = self.device.context().buffers().reserved().get(bytes)?;
        let (read, buf) = self.read_versions(first, &versions, None, buf, Cause::Apply).await;
        read.map(|()| buf)
    }

    async fn write_piece_home(&self, first: u64, piece: Piece) -> Result<Vec<Moved>> {
        let Some(base) = &self.base else { unreachable!("what has overlays has a base") };
        let at = crate::units::ByteOffset(first * u64::from(self.geometry.block_bytes));
        let (written, _buf) = base.write(at, piece.buf, Io::of(Cause::Apply)).await;
        written.map(|()| piece.blocks)
    }

    /// A checkpoint begins, and its run is to say what the base has: of which blocks that is still the newest version.
    pub(super) fn tell_moved(&self) -> Vec<Moved> {
        let Some(moving) = &self.moving else { return Vec::new() };
        let index = self.contents.index();
        let mut moved = moving.copied.take();
        moved.retain(|one| self.is_newest_or_note(moving, one.lba, one.version));
        moved.iter().for_each(|one| index.note_in_base(one.lba, one.version.birth));
        moved
    }

    /// The record that says so gives up what the log has of them.
    pub(super) fn give_up_moved(&self, state: &mut Metadata, moved: &[Moved]) {
        let place = |one: &Moved| (one.version.virtual_segment, one.version.slot);
        moved.iter().for_each(|one| self.contents.kill_in(state, place(one)));
    }

    /// It is durable: from now on they are found in the base.
    pub(super) fn found_in_base(&self, moved: &[Moved]) {
        let Some(moving) = &self.moving else { return };
        moving.moved_blocks.set(moving.moved_blocks.get() + moved.len() as u64);
        self.placing.note_change();
        self.contents.found_in_base(moved.iter().map(|one| (one.lba, one.version)));
    }
}
