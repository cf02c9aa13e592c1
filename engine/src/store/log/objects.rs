//! Linear objects under `cow`, `overlay` and `logged-cow`: every snapshot has an area with a place for every block.
//!
//! What has to be saved, or written elsewhere, for the sake of a snapshot goes to its own place in the newest object whose
//! snapshot is kept. Then an entry of the log without payload says so, and the index finds it as it finds anything. While
//! nobody sees a version in an object, `overlay` overwrites it there without a word: nobody knows its checksum. Where the
//! place has been used, because an image or a return to an earlier moment needed it, the log takes the block as ever.
//! Behind the log of `logged-cow` no entry is written: the object is that of the newest snapshot which sees the block, and the
//! checkpoint that a round waits for anyway says what lies there.
//!
//! Objects lie in the pool, or on a device of their own, which then has nothing but them, and every object. Should
//! that be lost, what lies there is told from what does not, block by block, and is refused.
//!
//! Invariants: a snapshot has its object, whole, from its first moment on, so that none is ever full; the entry is
//! written, or the index learns of it, after a flush of the objects' device that began when the data was in its place; a
//! place is used once; an object is given back when nobody keeps its snapshot, nothing in it lives and nobody writes
//! there; nothing older is shown for what is lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{KIND_PLACED, KIND_SAVED_IN_PLACE};
use crate::format::crc32c;
use crate::format::index_page::INHERITED;
use crate::format::journal::Change;
use crate::pool::contents::Reading;
use crate::pool::index::current::Version;
use crate::pool::log::append::Entry;
use crate::pool::metadata::Metadata;
use crate::pool::objects::{OBJECT_FIRST, OBJECTS_MAX, Object, choose_runs};
use crate::runtime::{RangeGuard, join_all};
use crate::store::Backend;
use crate::units::ByteOffset;

/// What a store knows of its objects beside the metadata.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// Extents of an object; 0 where snapshots have none.
    extents: u32,
    /// Writers of each object, by its first number.
    users: RefCell<BTreeMap<u32, u32>>,
    /// The flush after which all that was overwritten in objects survives.
    overwritten: Cell<u64>,
    /// Counts what makes a place in an object somebody else's.
    changes: Cell<u64>,
}

impl Placing {
    pub fn new(extents: u32, are_apart: bool) -> Self {
        // What a process that ended has overwritten there, and not flushed, is read as it is: the first flush takes it
        // along. In the pool, opening has flushed it.
        Self { extents, overwritten: Cell::new(u64::from(are_apart)), ..Self::default() }
    }

    /// How often places of objects have become free.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Places of objects are free, or are about to be somebody else's.
    pub fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
    }
}

fn is_kept(state: &Metadata, object: &Object) -> bool {
    let (number, sequence) = object.snapshot;
    state.snapshots.get(number).is_some_and(|one| one.keeping.is_kept() && one.sequence == sequence)
}

impl LogStore {
    /// Writes new content of blocks to their place in an extent, and says so in the log.
    pub(in crate::store) async fn place(
        &self,
        number: u32,
        offset: ByteOffset,
        buf: Buf,
        io: Io,
    ) -> (Result<()>, Buf) {
        let core = &self.core;
        let first = core.enter_object(number);
        let done = core.place_new(number, offset, buf, io).await;
        core.leave_object(first);
        done
    }

    /// Overwrites the newest version of blocks, which nobody else sees, in an extent.
    pub(in crate::store) async fn overwrite(
        &self,
        number: u32,
        offset: ByteOffset,
        buf: Buf,
        io: Io,
    ) -> (Result<()>, Buf) {
        let core = &self.core;
        let Some(moving) = &core.moving else { return core.overwrite(number, offset, buf, io).await };
        let first = offset.0 / self.block_bytes();
        let blocks = first..first + buf.len() as u64 / self.block_bytes();
        if !moving.begin_write(blocks.clone()) {
            return self.write(offset, buf, io).await;
        }
        let done = core.overwrite(number, offset, buf, io).await;
        moving.end_write(blocks);
        done
    }

    /// Makes the newest version of blocks, which nobody else sees, read as zero in an extent. False where they are not to
    /// be touched there.
    pub(in crate::store) async fn zero_in_place(
        &self,
        number: u32,
        blocks: &Range<u64>,
        discard: bool,
        io: Io,
    ) -> Result<bool> {
        let core = &self.core;
        if core.moving.is_some() {
            return Ok(false);
        }
        let bytes = (blocks.end - blocks.start) * self.block_bytes();
        let (device, at) = core.in_object(number, blocks.start)?;
        match discard {
            true => device.discard(at, bytes, io).await?,
            false => device.write_zeroes(at, bytes, io).await?,
        }
        core.note_overwritten()?;
        Ok(true)
    }

    /// Copies blocks of the base to their place in an extent, durably, and lets the moments that see them find them there.
    pub(in crate::store) async fn save_in_place(
        &self,
        number: u32,
        blocks: &Range<u64>,
        guard: Option<&RangeGuard>,
    ) -> Result<()> {
        let core = &self.core;
        let first = core.enter_object(number);
        let saved = core.save_in_place(number, blocks.clone(), guard.cloned()).await;
        core.leave_object(first);
        saved
    }

    /// Makes durable what was overwritten in objects.
    pub(super) async fn flush_overwritten(&self) -> Result<()> {
        self.core.log()?.flush_data_through(self.core.placing.overwritten.get()).await
    }
}

impl Core {
    /// Whether nobody knows the checksum of a version: it lies where it may be overwritten without a word.
    pub(super) fn is_unverified(&self, version: &Version) -> bool {
        self.backend == Backend::Overlay && version.has_slot() && version.virtual_segment >= OBJECT_FIRST
    }

    /// The extent with the place of a block that is to be saved or placed, if there is one and it has not been used.
    pub(super) fn free_place(&self, lba: u64) -> Option<u32> {
        self.free_place_of(lba, &(0..u64::MAX))
    }

    /// The same, of the newest snapshot that is of one of these moments.
    pub(super) fn free_place_of(&self, lba: u64, moments: &Range<u64>) -> Option<u32> {
        let segment_blocks = u64::from(self.geometry.segment_blocks);
        if self.placing.extents == 0 {
            return None;
        }
        let state = self.contents.journal().state();
        let is_meant = |object: &&Object| moments.contains(&object.snapshot.1) && is_kept(&state, object);
        let object = state.objects.values().rev().find(is_meant)?;
        let number = object.first + (lba / segment_blocks) as u32;
        let row = state.rows.get(&number);
        let is_used = row.is_some_and(|row| row.is_used((lba % segment_blocks) as u32));
        #[cfg(feature = "mutations")]
        let is_used = is_used && !crate::mutation::is_on(crate::mutation::Mutation::PlaceReused);
        (!is_used).then_some(number)
    }

    /// Somebody writes to an object, which stays until it is left. Where the write is dropped half way, it stays until the
    /// volume is opened anew: the device may be writing there still.
    fn enter_object(&self, number: u32) -> u32 {
        let object = self.contents.journal().state().objects.of_extent(number).map(|object| object.first);
        let first = object.unwrap_or(number);
        *self.placing.users.borrow_mut().entry(first).or_default() += 1;
        first
    }

    fn leave_object(&self, first: u32) {
        let users = &mut *self.placing.users.borrow_mut();
        let left = users.remove(&first).map_or(0, |count| count - 1);
        if left > 0 {
            users.insert(first, left);
        }
    }

    /// The device of an extent of an object that is there, and where a block lies in it.
    fn in_object(&self, number: u32, lba: u64) -> Result<(&Device, ByteOffset)> {
        let state = self.contents.journal().state();
        let physical = state.objects.of_extent(number).and_then(|object| object.segment(number));
        let slot = (lba % u64::from(self.geometry.segment_blocks)) as u32;
        let missing = || Error::new("write", Reason::MetadataDamaged).on(self.device.name());
        let (device, address) = self.locate(physical.ok_or_else(missing)?, slot);
        Ok((device, ByteOffset(address)))
    }

    async fn place_new(&self, number: u32, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let (lba, blocks) = (offset.0 / block_bytes, buf.len() as u64 / block_bytes);
        let (log, (device, at)) = match (self.log(), self.in_object(number, lba)) {
            (Ok(log), Ok(place)) => (log, place),
            (Err(error), _) | (_, Err(error)) => return (Err(error), buf),
        };
        let Io { durable, guard, cause, .. } = io;
        let (written, buf) = device.write(at, buf, Io { guard: guard.clone(), ..Io::of(cause) }).await;
        let after_flush = log.next_flush_of_data();
        let pinned = match written {
            Ok(()) => self.contents.index().pin(lba, blocks).await,
            Err(error) => Err(error),
        };
        let pinned = match pinned {
            Ok(pinned) => pinned,
            Err(error) => return (self.judge(Err(error), durable), buf),
        };
        let (kind, blocks, tag) = (KIND_PLACED, blocks as u32, number.into());
        let entry =
            Entry { kind, address: lba, blocks, tag, payload: None, durable, guard, pinned, after_flush };
        (self.judge(log.append(entry).await.0.map(drop), durable), buf)
    }

    async fn overwrite(&self, number: u32, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let (device, at) = match self.in_object(number, offset.0 / u64::from(self.geometry.block_bytes)) {
            Ok(place) => place,
            Err(error) => return (Err(error), buf),
        };
        let (durable, blocks) = (io.durable, buf.len() as u64 / u64::from(self.geometry.block_bytes));
        let (written, buf) = device.write(at, buf, io).await;
        let mut done = written.and_then(|()| self.note_overwritten());
        if done.is_ok() && durable {
            let first = offset.0 / u64::from(self.geometry.block_bytes);
            done = self.make_found(first..first + blocks).await;
        }
        (self.judge(done, durable), buf)
    }

    /// What finds the newest versions of these blocks survives from now on.
    async fn make_found(&self, blocks: Range<u64>) -> Result<()> {
        let (log, mut newest) = (self.log()?, 0);
        for lba in blocks {
            newest = self.contents.index().current(lba).await?.birth.max(newest);
        }
        if log.durable_through() < newest { log.flush().await } else { Ok(()) }
    }

    fn note_overwritten(&self) -> Result<()> {
        self.placing.overwritten.set(self.log()?.next_flush_of_data());
        Ok(())
    }

    async fn save_in_place(&self, number: u32, blocks: Range<u64>, guard: Option<RangeGuard>) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let most = u64::from(self.geometry.entry_blocks_max());
        let log = self.log()?;
        let mut at = blocks.start;
        while at < blocks.end {
            let end = (at + most).min(blocks.end);
            let buf = self.device.context().buffers().get(((end - at) * block_bytes) as usize)?;
            let (buf, after_flush) = self.copy_to_place(number, at, buf).await?;
            let mut saving = Vec::with_capacity((end - at) as usize);
            for (lba, block) in (at..end).zip(buf.chunks_exact(block_bytes as usize)) {
                let pinned = self.contents.index().pin(lba, 1).await?;
                let tag = u64::from(crc32c(&[block])) << 32 | u64::from(number);
                let (kind, guard) = (KIND_SAVED_IN_PLACE, guard.clone());
                let (blocks, payload, durable) = (1, None, true);
                saving.push(log.append(Entry {
                    kind,
                    address: lba,
                    blocks,
                    tag,
                    payload,
                    durable,
                    guard,
                    pinned,
                    after_flush,
                }));
            }
            let saved = join_all(saving).await.into_iter().try_for_each(|(saved, _)| saved.map(drop));
            self.judge(saved, true)?;
            at = end;
        }
        Ok(())
    }

    /// Copies what the base holds from a block on, as much as `buf` takes, to its place in an extent. What that was, and the
    /// flush after which it survives there.
    async fn copy_to_place(&self, number: u32, lba: u64, buf: Buf) -> Result<(Buf, u64)> {
        let Some(base) = &self.base else { unreachable!("only a volume with a base saves what it holds") };
        let at = ByteOffset(lba * u64::from(self.geometry.block_bytes));
        let (read, buf) = base.read(at, buf, Io::of(Cause::Copy)).await;
        read?;
        let (device, place) = self.in_object(number, lba)?;
        let (written, buf) = device.write(place, buf, Io::of(Cause::Copy)).await;
        written?;
        Ok((buf, self.log()?.next_flush_of_data()))
    }

    /// The same, durably; then the index learns of it, where these copies are expected.
    pub(super) async fn copy_in_place(&self, number: u32, lba: u64, buf: Buf) -> Result<()> {
        let first = self.enter_object(number);
        let copied = self.copy_and_flush(number, lba, buf).await;
        if let Ok(buf) = &copied {
            let segment_blocks = u64::from(self.geometry.segment_blocks);
            for (lba, block) in (lba..).zip(buf.chunks_exact(self.geometry.block_bytes as usize)) {
                self.contents.take_in_copy(lba, (number, (lba % segment_blocks) as u32), crc32c(&[block]));
            }
        }
        self.leave_object(first);
        copied.map(drop)
    }

    async fn copy_and_flush(&self, number: u32, lba: u64, buf: Buf) -> Result<Buf> {
        let (buf, after_flush) = self.copy_to_place(number, lba, buf).await?;
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::MapBeforeData) {
            return Ok(buf);
        }
        self.log()?.flush_data_through(after_flush).await?;
        Ok(buf)
    }

    /// Why no object can be taken now, if so; its segments otherwise.
    fn choose_object(&self, state: &Metadata) -> std::result::Result<Vec<(u32, u32)>, Reason> {
        let extents = self.placing.extents;
        if state.objects.len() == OBJECTS_MAX {
            return Err(Reason::TooManySnapshots { limit: OBJECTS_MAX });
        }
        if state.objects.next_first().checked_add(extents).is_none_or(|end| end > INHERITED) {
            let why =
                "its snapshots have used up the numbers of their objects; copy the volume to a new pool";
            return Err(Reason::LogFull { why });
        }
        let mut free = self.free_for_home(state);
        free.sort_unstable();
        // What the log is going to need stays; of a device of their own it needs nothing.
        let of_log = match self.home {
            Some(_) => 0,
            None => self.reserved(state) + self.leases_wanted().saturating_sub(state.leases.len()),
        };
        let left = free.len().saturating_sub(of_log);
        let segment_bytes = self.geometry.segment_bytes();
        let (needed_bytes, free_bytes) = (u64::from(extents) * segment_bytes, left as u64 * segment_bytes);
        let runs = choose_runs(&free, extents).filter(|_| free_bytes >= needed_bytes);
        runs.ok_or(Reason::NoRoomForObject { needed_bytes, free_bytes })
    }

    /// Waits for what is about to come free, where a new snapshot has no room for its object.
    pub(super) async fn wait_for_object(&self) -> Result<()> {
        let mut asked = false;
        if self.placing.extents == 0 {
            return Ok(());
        }
        loop {
            let chosen = self.choose_object(&self.contents.journal().state());
            let Err(refused) = chosen else { return Ok(()) };
            let refused = if self.failed.is_raised() { Reason::Poisoned } else { refused };
            let frees_soon = self.room_comes() || self.to_give_back().is_some();
            if refused == Reason::Poisoned || (asked && !frees_soon) {
                return Err(Error::new("take snapshot", refused).on(self.device.name()));
            }
            if frees_soon {
                self.wait_for_room().await?;
            } else {
                // What the log has left behind is free once a checkpoint says so.
                self.checkpoint().await?;
                asked = true;
            }
        }
    }

    /// Inside the commit that takes a snapshot of this number and moment: its object, where snapshots have one. The
    /// segments are `held` until that is durable.
    pub(super) fn take_object<'a>(
        &'a self,
        state: &Metadata,
        snapshot: (u64, u64),
        held: &mut Vec<Reading<'a>>,
    ) -> Result<Option<Change>> {
        if self.placing.extents == 0 {
            return Ok(None);
        }
        let refused = |reason| Error::new("take snapshot", reason).on(self.device.name());
        let runs = self.choose_object(state).map_err(refused)?;
        let object =
            Object { first: state.objects.next_first(), extents: self.placing.extents, snapshot, runs };
        held.extend(object.segments().map(|physical| self.contents.reading(physical)));
        Ok(Some(object.change()))
    }

    /// An object that nobody needs any more, by its first number.
    pub(super) fn to_give_back(&self) -> Option<u32> {
        let state = self.contents.journal().state();
        state.objects.values().find(|object| self.is_unneeded(&state, object)).map(|object| object.first)
    }

    fn is_unneeded(&self, state: &Metadata, object: &Object) -> bool {
        let mut rows = state.rows.range(object.first..object.end());
        !is_kept(state, object)
            && !self.placing.users.borrow().contains_key(&object.first)
            && rows.all(|(number, _)| self.contents.is_empty_at_home(state, *number))
    }

    /// Gives an object back, durably.
    pub(super) async fn give_back(&self, first: u32) -> Result<()> {
        self.contents
            .journal()
            .commit(|state| {
                let object = state.objects.of_extent(first).filter(|object| self.is_unneeded(state, object));
                let Some(object) = object else { return Vec::new() };
                let mut changes = self.news_of_rows(state, 0);
                let rows = state.rows.range(object.first..object.end());
                changes.extend(rows.map(|(number, _)| Change::RowRemoved(*number)));
                changes.push(Object { runs: Vec::new(), ..object.clone() }.change());
                changes
            })
            .await?;
        self.placing.note_change();
        self.settled.give();
        Ok(())
    }
}
