//! The past in a play: moments are noted with their contents and looked at again later.
//!
//! A moment is noted when nothing is in flight, by reading everything; the model has judged that. From then on its
//! image is that recording, whatever is written, whichever segments are emptied, and however often power is cut,
//! unless the cut took the moment itself or retention has let it go. It may let go only what it must: while no more
//! blocks have been superseded since than are to be kept, the moment must open.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::super::Coverage;
use super::super::model::{Digest, digest};
use super::super::script::Script;
use super::World;
use super::branched::Branched;
use super::shared::{OpenImage, PIECE_SECTORS, Shared, TicketCell};
use crate::error::{Reason, Result};
use crate::format::batch::{self, Decoded};
use crate::store::Backend;
use crate::store::log::{Image, ImageOptions};
use crate::units::{ByteOffset, SECTOR_BYTES, Seq};
use crate::volume::{OpenMode, Volume, VolumeInfo};

/// So many moments are looked at again.
const RECENT: usize = 5;
/// Images held open at most.
const KEPT_MAX: usize = 2;
/// Longer than the log waits until it notes that everything is durable.
const IDLE_NS: u64 = 3_000_000_000;
/// Blocks of writes that were called before a moment was noted and may end after it: those whose futures were dropped.
const STRAGGLING_BLOCKS: u64 = 64;

#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub sequence: u64,
    pub contents: Rc<Vec<Digest>>,
    blocks_called: u64,
    applies: u64,
    pub is_from_before_a_cut: bool,
}

/// An image that is held open, and what it must show.
struct Kept {
    image: Image,
    contents: Rc<Vec<Digest>>,
    _open: OpenImage,
}

/// What is remembered.
#[derive(Default)]
pub(super) struct Past {
    pool_id: [u8; 16],
    pub moments: Vec<Moment>,
    /// Returns to earlier moments: where they stand, and the moments.
    pub rollbacks: Vec<(u64, u64)>,
    /// Snapshots by name, and how many names have been given.
    pub named: Vec<(String, Moment)>,
    pub names: u64,
    /// Writable snapshots.
    pub branches: Vec<Branched>,
    /// The names of those that are locked.
    pub locked: BTreeSet<String>,
    kept: RefCell<Vec<Kept>>,
}

impl Past {
    /// Lets go of the images that are held open: they hold the device too.
    pub fn close_images(&self) {
        self.kept.borrow_mut().clear();
    }

    /// What a cut has taken is no moment any more; a volume made anew has none.
    pub fn opened(&mut self, info: &VolumeInfo) {
        if self.pool_id != info.pool_id {
            self.moments.clear();
            self.rollbacks.clear();
            self.named.clear();
            self.branches.clear();
            self.locked.clear();
        }
        self.pool_id = info.pool_id;
        self.branches.iter_mut().for_each(|branch| branch.is_opened_anew = true);
        self.rollbacks.retain(|(at, _)| *at <= info.sequence.0);
        self.moments.retain(|moment| moment.sequence <= info.sequence.0);
    }

    /// Whether the volume has gone back from a moment.
    pub fn is_discarded(&self, sequence: u64) -> bool {
        self.rollbacks.iter().any(|(at, to)| *to < sequence && sequence < *at)
    }

    pub fn a_cut_has_passed(&mut self) {
        let named = self.named.iter_mut().map(|(_, moment)| moment);
        named.chain(&mut self.moments).for_each(|moment| moment.is_from_before_a_cut = true);
    }
}

impl Moment {
    /// Whether retention may have let it go by now.
    pub fn may_have_expired(&self, script: &Script, shared: &Shared) -> bool {
        let superseded = shared.blocks_called.get() - self.blocks_called + STRAGGLING_BLOCKS;
        // What applies by itself stays behind the window, where there is room; who asks for more gives up what it
        // overwrites.
        !script.is_roomy
            || shared.applies.get() > self.applies
            || superseded > script.retention_bytes / u64::from(script.block_bytes)
    }
}

pub(super) async fn contents_of(shared: &Shared, image: &Image, sectors: u64) -> Result<Vec<Digest>> {
    let mut found = Vec::with_capacity(sectors as usize);
    while (found.len() as u64) < sectors {
        let at = found.len() as u64;
        let count = (sectors - at).min(PIECE_SECTORS);
        let buf = shared.context.buffers().get((count * SECTOR_BYTES) as usize)?;
        let (result, buf) = image.read(ByteOffset(at * SECTOR_BYTES), buf).await;
        result?;
        found.extend(buf.chunks_exact(SECTOR_BYTES as usize).map(digest));
    }
    Ok(found)
}

pub(super) fn first_difference(expected: &[Digest], found: &[Digest]) -> Option<usize> {
    expected.iter().zip(found).position(|(expected, found)| expected != found)
}

impl World<'_> {
    /// Notes what opening a log has found.
    pub(super) fn note_log(&self, volume: &Volume) {
        let Some(log) = volume.status().log else { return };
        let report = log.recovery;
        let note =
            |name, happened| Coverage::add(&mut self.shared.coverage.borrow_mut(), name, u64::from(happened));
        note("log: nothing behind the checkpoint", report.batches == 0);
        note("log: batches taken in", report.batches > 0);
        note("log: batches in doubt written again", report.in_doubt > 0);
        note("log: later batches behind the end", report.has_later);
        let Some((_, roots)) = self.roots() else { return };
        let [first, second] = roots.map(|root| root.map_or(0, |root| root.generation.get()));
        note("log: first root newest", first > second);
        note("log: second root newest", second > first);
    }

    pub(super) async fn remember(&mut self, keep: bool) -> std::result::Result<(), String> {
        self.settle().await?;
        let shared = Rc::clone(&self.shared);
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let sectors = self.script.volume_bytes / SECTOR_BYTES;
        if self.script.backend.has_base() {
            // Writes whose futures were dropped end before it opens.
            let drained = shared.judged("open image", volume.image(ImageOptions::default())).await?;
            if drained.is_none() {
                return Ok(());
            }
            // What lies in place and is in doubt after a failed flush may be something else after a cut, in a snapshot
            // as well: who wants it to stay has to write it again.
            let doubtful = shared.model.borrow().doubtful();
            for sector in doubtful {
                shared.write(&volume, sector as u64, 1, true, &TicketCell::default()).await;
            }
            if shared.poisoned.get() {
                return Ok(());
            }
        }
        let sequence = volume.info().sequence.0;
        let mark = shared.model.borrow().mark();
        let reading = shared.read_everything(&volume, sectors);
        let Some(contents) = shared.judged("read", reading).await? else { return Ok(()) };
        shared.model.borrow().check_read(mark, 0, &contents)?;
        // A write whose future was dropped has ended meanwhile: this is no one moment.
        if volume.info().sequence.0 != sequence {
            return Ok(());
        }
        let contents = Rc::new(contents);
        let blocks_called = shared.blocks_called.get();
        self.past.moments.push(Moment {
            sequence,
            contents: Rc::clone(&contents),
            blocks_called,
            applies: shared.applies.get(),
            is_from_before_a_cut: false,
        });
        if keep {
            let options = ImageOptions { sequence: Some(Seq(sequence)), ..ImageOptions::default() };
            let open = OpenImage::new(&shared);
            match shared.bounded("open image", volume.image(options)).await? {
                Ok(image) => self.past.kept.borrow_mut().push(Kept { image, contents, _open: open }),
                // A straggler may have ended since; without retention that is the end of the moment.
                Err(error) if matches!(error.reason(), Reason::Expired { .. }) => {}
                Err(error) => shared.judge_error("open image", &error),
            }
            let mut kept = self.past.kept.borrow_mut();
            if kept.len() > KEPT_MAX {
                kept.remove(0);
            }
        }
        Ok(())
    }

    pub(super) async fn recall(&mut self, which: u64) -> std::result::Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let sectors = self.script.volume_bytes / SECTOR_BYTES;
        let kept = std::mem::take(&mut *self.past.kept.borrow_mut());
        for Kept { image, contents: expected, .. } in &kept {
            let reading = contents_of(&shared, image, sectors);
            match shared.bounded("read image", reading).await? {
                Ok(found) => {
                    if let Some(sector) = first_difference(expected, &found) {
                        let sequence = image.sequence().0;
                        return Err(format!("an open image of {sequence} has changed in sector {sector}"));
                    }
                    shared.note("past: open image kept its moment");
                }
                Err(error) => shared.judge_error("read image", &error),
            }
        }
        *self.past.kept.borrow_mut() = kept;
        // What is overwritten in place has no moments but those that are kept.
        if self.script.backend.has_base() {
            return Ok(());
        }
        // The older ones are most likely gone.
        let moments = &self.past.moments;
        let recent = &moments[moments.len().saturating_sub(RECENT)..];
        let Some(at) = which.checked_rem(recent.len() as u64) else { return Ok(()) };
        let moment = recent[at as usize].clone();
        let options = ImageOptions { sequence: Some(Seq(moment.sequence)), ..ImageOptions::default() };
        let _open = OpenImage::new(&shared);
        let image = match shared.bounded("open image", volume.image(options)).await? {
            Ok(image) => image,
            Err(error) if matches!(error.reason(), Reason::Expired { .. }) => {
                if !moment.may_have_expired(self.script, &shared) {
                    return Err(format!("a moment that is to be kept is gone: {error}"));
                }
                shared.note("past: moment expired");
                return Ok(());
            }
            Err(error) => {
                shared.judge_error("open image", &error);
                return Ok(());
            }
        };
        match shared.bounded("read image", contents_of(&shared, &image, sectors)).await? {
            Ok(found) => {
                if let Some(sector) = first_difference(&moment.contents, &found) {
                    return Err(format!("moment {} shows other bytes in sector {sector}", moment.sequence));
                }
                shared.note("past: moment shown");
                let is_linear = self.script.backend == Backend::Linear;
                if is_linear && !moment.may_have_expired(self.script, &shared) {
                    shared.note("linear: moment shown that had to be kept");
                }
                if moment.is_from_before_a_cut {
                    shared.note("past: moment of before a cut shown");
                }
            }
            Err(error) => shared.judge_error("read image", &error),
        }
        Ok(())
    }

    pub(super) async fn damage_log(&mut self, byte: u64) -> std::result::Result<(), String> {
        self.settle().await?;
        self.shared.faults.striking.set(false);
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let count = u64::from(self.script.block_bytes) / SECTOR_BYTES;
        self.shared.write(&volume, 0, count, true, &TicketCell::default()).await;
        self.shared.context.sleep(IDLE_NS).await;
        let last = volume.info().sequence.0;
        if volume.status().poisoned {
            self.shared.poisoned.set(true);
            return Ok(());
        }
        drop(volume);
        self.abandon();
        self.power_off();
        // Whatever lies on the disk of earlier volumes, the newest batch is the one just written.
        let newest = (self.shared.data_offset.get()..self.script.device_bytes)
            .step_by(self.script.block_bytes as usize)
            .filter_map(|at| {
                let head = self.shared.disk.peek(at, self.script.block_bytes as usize);
                if !head.starts_with(&batch::MAGIC) {
                    return None;
                }
                let head = self.shared.disk.peek(at, 1 << 16);
                match batch::decode(&head, at, self.script.block_bytes) {
                    Decoded::Valid(batch) => Some(batch.header),
                    _ => None,
                }
            })
            .max_by_key(|header| (header.time_unix_ns.get(), header.batch.get()));
        let Some(header) = newest else { return Err("there is no batch".to_string()) };
        let address = header.address.get() + byte % header.total_bytes();
        let sector = address - address % SECTOR_BYTES;
        let before = self.shared.disk.peek(sector, SECTOR_BYTES as usize);
        let mut after = before.clone();
        after[(address - sector) as usize] ^= 1;
        self.shared.disk.poke(sector, &after);
        let device = self.open_disk().await?;
        match Volume::open_with(device, OpenMode::ReadWrite, self.open_options()).await {
            Err(error) => match *error.reason() {
                Reason::LogDamaged { good_through } if good_through < last => {
                    self.shared.note("log: damage refused");
                }
                _ => return Err(format!("a damaged log of {last} entries: {error}")),
            },
            // A checkpoint has taken it into the index: nothing reads it again at open.
            Ok(volume) if volume.info().sequence.0 >= last => {}
            Ok(volume) => {
                return Err(format!("{} of {last} entries, and no damage told", volume.info().sequence.0));
            }
        }
        self.shared.disk.poke(sector, &before);
        self.recover().await
    }
}
