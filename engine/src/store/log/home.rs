//! The extents of a linear volume: taking space for them, and writing to them, in the pool or on a device of
//! their own.
//!
//! The segments of the pool come first, those of the volume's own device, or of the device of linear objects, are numbered
//! behind them. The log, the metadata and the index lie in the pool alone, extents and objects on their device alone,
//! where they have one.
//!
//! Invariants: space is taken, and the window that lets older versions at home go is durable, before anything is
//! written there; an extent that is written to stays.

use std::collections::{BTreeMap, BTreeSet};

use super::Core;
use super::apply::{Action, Linear, Step, Write};
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::superblock::{Area, Superblock};
use crate::pool::contents::Reading;
use crate::pool::metadata::{HOME_FIRST, Metadata, SegmentRow};
use crate::runtime::join_all;
use crate::units::ByteOffset;

/// The largest write to the volume.
const WRITE_BYTES: usize = 1 << 20;
/// Writes to the volume in flight.
const WRITES: usize = 8;

/// Why entries cannot be applied for want of space.
const NO_SEGMENT: &str = "the pool has no free segment for the volume; grow it";

/// What does not lie in the pool.
#[derive(Debug)]
pub(crate) struct Apart {
    /// A linear volume, or a base.
    pub volume: Option<HomeDevice>,
    /// Linear objects.
    pub objects: Option<HomeDevice>,
    /// The identity of the device of objects, where it is lost and nothing but reading goes on without.
    pub lost_objects: Option<String>,
}

/// The device of a linear volume, of a base or of linear objects, that do not lie in the pool.
#[derive(Clone, Debug)]
pub(crate) struct HomeDevice {
    pub device: Device,
    /// Its segments, or the base.
    pub area: Area,
    /// Its superblock.
    pub record: Box<Superblock>,
}

impl Core {
    /// The device of a segment, and where a block of it lies there.
    pub(super) fn locate(&self, physical: u32, block: u32) -> (&Device, u64) {
        match (&self.home, physical.checked_sub(self.geometry.segments)) {
            (Some(home), Some(at)) => {
                let of_block = u64::from(block) * u64::from(self.geometry.block_bytes);
                let address =
                    home.area.offset.get() + u64::from(at) * self.geometry.segment_bytes() + of_block;
                (&home.device, address)
            }
            _ => (&self.device, self.geometry.address(physical, block)),
        }
    }

    /// What is refused of a segment on a device that is lost: nothing else is read in its place.
    pub(super) fn check_not_lost(&self, physical: u32) -> Result<()> {
        match &self.lost_objects {
            Some(id) if !self.is_of_pool(physical) => {
                Err(Error::new("read", Reason::ObjectLost { id: id.clone() }).on(self.device.name()))
            }
            _ => Ok(()),
        }
    }

    fn is_of_pool(&self, physical: u32) -> bool {
        physical < self.geometry.segments
    }

    /// The device that blocks are brought home to.
    pub(super) fn home_device(&self) -> &Device {
        self.home.as_ref().map_or(&self.device, |home| &home.device)
    }

    /// Whether the log may take this segment.
    pub(super) fn is_for_log(&self, physical: u32) -> bool {
        self.is_of_pool(physical)
    }

    /// Free segments that the log may take, after `after`.
    pub(super) fn free_for_log(&self, state: &Metadata, after: u32) -> Vec<u32> {
        let mut free = self.contents.free_segments_of(state, after);
        free.retain(|physical| self.is_for_log(*physical));
        free
    }

    /// How many free segments the log may take, counted no further than to this number.
    pub(super) fn free_for_log_up_to(&self, state: &Metadata, most: usize) -> usize {
        match self.home {
            None => most.min(state.free_segments() as usize),
            Some(_) => state.free_after(0).filter(|at| self.is_for_log(*at)).take(most).count(),
        }
    }

    /// Free segments that extents of the volume, or objects, may take.
    pub(super) fn free_for_home(&self, state: &Metadata) -> Vec<u32> {
        let mut free = self.contents.free_segments_of(state, 0);
        free.retain(|physical| self.home.is_none() || !self.is_of_pool(*physical));
        free
    }

    /// The extent of a block and its place in it.
    pub(super) fn home(&self, lba: u64) -> (u32, u32) {
        let blocks = u64::from(self.geometry.segment_blocks);
        (HOME_FIRST + (lba / blocks) as u32, (lba % blocks) as u32)
    }

    /// The extents of a range, each with its first slot and slots.
    pub(super) fn extents(&self, lba: u64, blocks: u64) -> impl Iterator<Item = (u32, u32, u32)> + use<> {
        let segment = u64::from(self.geometry.segment_blocks);
        (lba / segment..(lba + blocks).div_ceil(segment)).map(move |extent| {
            let (start, end) = (lba.max(extent * segment), (lba + blocks).min((extent + 1) * segment));
            (HOME_FIRST + extent as u32, (start - extent * segment) as u32, (end - start) as u32)
        })
    }

    /// Takes space for the extents of a step, and gives up the moments that see what it overwrites; both are
    /// durable afterwards. Why it cannot be done, if it cannot.
    pub(super) async fn make_room(&self, linear: &Linear, step: &Step) -> Result<Option<&'static str>> {
        let mut missing = BTreeSet::new();
        // What is overwritten and a moment may see.
        let mut overwritten: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        {
            let state = self.contents.journal().state();
            let mut busy = linear.busy.borrow_mut();
            for action in &step.actions {
                let (lba, blocks, sequence, writes) = match action {
                    Action::Write(write) => {
                        let blocks = write.bytes.len() as u64 / u64::from(self.geometry.block_bytes);
                        (write.lba, blocks, write.sequence, true)
                    }
                    Action::Zero { lba, blocks, sequence, .. } => (*lba, *blocks, *sequence, false),
                };
                for (number, first, slots) in self.extents(lba, blocks) {
                    // One that a commit under way gives up is gone when the turn of the next commit has come.
                    let leaves = linear.leaving.borrow().contains(&number);
                    match state.rows.get(&number).filter(|_| !leaves) {
                        Some(_) => {
                            let live = (first..first + slots)
                                .filter(|slot| self.contents.is_live_at_home(&state, (number, *slot)));
                            overwritten.extend(live.map(|slot| ((number, slot), sequence)));
                        }
                        None if writes => {
                            missing.insert(number);
                        }
                        None => continue,
                    }
                    busy.insert(number);
                }
            }
        }
        let given_up = self.contents.last_death(overwritten);
        #[cfg(feature = "mutations")]
        let given_up = match crate::mutation::is_on(crate::mutation::Mutation::HomeOverwritten) {
            true => 0,
            false => given_up,
        };
        if self.contents.is_pinned_before(given_up) {
            return Ok(Some("an image of an older moment is open; close it"));
        }
        self.contents.retire(given_up);
        // Slots that are dead already are written over too, and only a window that is durable lets them die.
        let window = self.contents.window();
        let tell_window = self.contents.keeps_past() && linear.told.get() < window;
        if missing.is_empty() && !tell_window {
            return Ok(None);
        }
        let mut held: Vec<Reading<'_>> = Vec::new();
        let mut short = false;
        self.contents
            .journal()
            .commit(|state| {
                let mut changes = self.news_of_rows(state, 0);
                let free = self.free_for_home(state);
                linear.emptied_are_gone();
                missing.retain(|number| !state.rows.contains_key(number));
                short = free.len() < missing.len();
                if short {
                    return changes;
                }
                for (number, physical) in missing.iter().zip(free) {
                    held.push(self.contents.reading(physical));
                    changes.push(SegmentRow::of_log(physical, state.segment_blocks(), 0).change(*number));
                }
                changes
            })
            .await?;
        linear.told.set(linear.told.get().max(window));
        Ok(short.then_some(NO_SEGMENT))
    }

    /// Does one thing at home.
    pub(super) async fn perform(&self, action: &Action) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        match action {
            Action::Write(write) => {
                let blocks = write.bytes.len() as u64 / block_bytes;
                let mut done = 0;
                for (number, first, slots) in self.extents(write.lba, blocks) {
                    let length = slots as usize * block_bytes as usize;
                    self.write_home(number, first, &write.bytes[done..done + length]).await?;
                    done += length;
                }
            }
            Action::Zero { lba, blocks, .. } => {
                for (number, first, slots) in self.extents(*lba, *blocks) {
                    if let Some((device, address)) = self.home_address(number, first) {
                        let (length, io) = (u64::from(slots) * block_bytes, Io::of(Cause::Apply));
                        device.write_zeroes(ByteOffset(address), length, io).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn home_address(&self, number: u32, slot: u32) -> Option<(&Device, u64)> {
        if self.linear.as_ref().is_some_and(|linear| linear.leaving.borrow().contains(&number)) {
            return None;
        }
        let state = self.contents.journal().state();
        let (physical, block) = state.rows.get(&number)?.place(slot, self.geometry.segment_blocks)?;
        Some(self.locate(physical, block))
    }

    async fn write_home(&self, number: u32, slot: u32, bytes: &[u8]) -> Result<()> {
        let Some((device, address)) = self.home_address(number, slot) else {
            unreachable!("space for the extent has been taken, and a busy extent stays")
        };
        let mut at = address;
        for piece in bytes.chunks(WRITE_BYTES) {
            let buf = device.context().buffers().reserved().copy_of(piece)?;
            device.write(ByteOffset(at), buf, Io::of(Cause::Apply)).await.0?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Does the newest thing for each block, by address, neighbours together.
    pub(super) async fn perform_sorted(&self, actions: &[Action]) -> Result<()> {
        let block_bytes = self.geometry.block_bytes as usize;
        let mut newest: BTreeMap<u64, Option<&[u8]>> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Write(write) => {
                    let blocks = write.bytes.chunks_exact(block_bytes).map(Some);
                    newest.extend((write.lba..).zip(blocks));
                }
                Action::Zero { lba, blocks, .. } => {
                    // Blocks that have no place at home read as zero without one.
                    for (number, first, slots) in self.extents(*lba, *blocks) {
                        if self.home_address(number, first).is_some() {
                            let segment = u64::from(self.geometry.segment_blocks);
                            let start = u64::from(number - HOME_FIRST) * segment + u64::from(first);
                            newest.extend((start..start + u64::from(slots)).map(|at| (at, None)));
                        }
                    }
                }
            }
        }
        let mut writes: Vec<Action> = Vec::new();
        for (lba, bytes) in newest {
            let follows = self.home(lba).1 != 0;
            match (writes.last_mut(), bytes) {
                (Some(Action::Write(write)), Some(bytes))
                    if follows
                        && write.bytes.len() < WRITE_BYTES
                        && write.lba + (write.bytes.len() / block_bytes) as u64 == lba =>
                {
                    write.bytes.extend_from_slice(bytes);
                }
                (Some(Action::Zero { lba: first, blocks, .. }), None)
                    if follows && *first + *blocks == lba =>
                {
                    *blocks += 1;
                }
                (_, Some(bytes)) => {
                    writes.push(Action::Write(Write { lba, sequence: 0, bytes: bytes.to_vec() }));
                }
                (_, None) => writes.push(Action::Zero { lba, blocks: 1, sequence: 0, discard: false }),
            }
        }
        for some in writes.chunks(WRITES) {
            join_all(some.iter().map(|action| self.perform(action)))
                .await
                .into_iter()
                .collect::<Result<()>>()?;
        }
        Ok(())
    }
}
