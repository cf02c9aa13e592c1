//! What a play and its tasks share: the model, the disk's confessions, and the operations themselves.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::super::Coverage;
use super::super::model::{Digest, Model, WriteTicket, digest, zero_digest};
use super::HANG_NS;
use super::faults::{Faults, is_lie};
use crate::buf::Buf;
use crate::device::simulated::{Fault, SimulatedDisk};
use crate::error::{Error, Reason};
use crate::runtime::Context;
use crate::units::{ByteOffset, SECTOR_BYTES};
use crate::volume::{Durability, Volume};

/// Why applying may stand still while an image is open.
const IMAGE_IS_OPEN: &str = "an image of an older moment is open; close it";

/// Sectors read at a time where all are.
pub(super) const PIECE_SECTORS: u64 = 512;

/// Where a write leaves its ticket, for the one who may drop the write.
pub(super) type TicketCell = RefCell<Option<WriteTicket>>;

/// What the play and its tasks share.
pub(super) struct Shared {
    pub context: Context,
    pub disk: SimulatedDisk,
    pub model: RefCell<Model>,
    pub coverage: RefCell<Coverage>,
    pub failure: RefCell<Option<String>>,
    pub active: Cell<usize>,
    pub contents: Cell<u64>,
    pub faults: Rc<Faults>,
    /// The volume has said that it is poisoned.
    pub poisoned: Cell<bool>,
    pub data_offset: Cell<u64>,
    /// Blocks in the ranges of all writes called so far: no more have been superseded.
    pub blocks_called: Cell<u64>,
    pub block_bytes: u64,
    /// How often somebody has asked for everything to be applied.
    pub applies: Cell<u64>,
    /// Images that were opened so far, and closed.
    pub images: Cell<(u64, u64)>,
}

/// An image is open while this exists.
pub(super) struct OpenImage(Rc<Shared>);

impl OpenImage {
    pub fn new(shared: &Rc<Shared>) -> Self {
        let (opened, closed) = shared.images.get();
        shared.images.set((opened + 1, closed));
        Self(Rc::clone(shared))
    }
}

impl Drop for OpenImage {
    fn drop(&mut self) {
        let (opened, closed) = self.0.images.get();
        self.0.images.set((opened, closed + 1));
    }
}

/// Counts an operation as active until it ends or is dropped.
pub(super) struct Active(Rc<Shared>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

impl Shared {
    pub fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(Rc::clone(self))
    }

    fn count_blocks(&self, sector: u64, count: u64) {
        let block = self.block_bytes / SECTOR_BYTES;
        let blocks = (sector + count).div_ceil(block) - sector / block;
        self.blocks_called.set(self.blocks_called.get() + blocks);
    }

    pub fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
    }

    pub fn note(&self, name: &'static str) {
        self.coverage.borrow_mut().note(name);
    }

    /// A buffer of contents that occur nowhere else.
    pub fn content(&self, sectors: u64) -> Buf {
        let mut buf = match self.context.buffers().get((sectors * SECTOR_BYTES) as usize) {
            Ok(buf) => buf,
            Err(error) => panic!("the pool is large enough for a script: {error}"),
        };
        self.contents.set(self.contents.get() + 1);
        let mut word = self.contents.get().wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1;
        for bytes in buf.chunks_exact_mut(8) {
            word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ self.contents.get();
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        buf
    }

    /// Learns what the disk did wrong since the last look.
    pub fn absorb(&self) {
        for injected in self.disk.take_injected() {
            self.note(injected.fault.name());
            if is_lie(injected.fault) {
                self.distrust(injected.offset, injected.length);
                if let Fault::Misdirect(elsewhere) = injected.fault {
                    self.distrust(elsewhere, injected.length);
                }
            }
        }
    }

    fn distrust(&self, offset: u64, length: u64) {
        let data = self.data_offset.get();
        let start = offset.max(data) - data;
        let end = (offset + length).max(data) - data;
        let sectors = (start / SECTOR_BYTES) as usize..(end / SECTOR_BYTES) as usize;
        self.model.borrow_mut().distrust(sectors);
    }

    /// Judges an error that an operation has returned: a request of the same opening must have failed.
    pub fn judge_error(&self, what: &str, error: &Error) {
        self.absorb();
        if !self.faults.strikes.get().excuse(error) {
            self.fail(format!("{what} failed without a reason: {error}"));
        } else if *error.reason() == Reason::Poisoned {
            self.note("refused: poisoned");
            self.poisoned.set(true);
        }
    }

    pub async fn write(&self, volume: &Volume, sector: u64, count: u64, durable: bool, ticket: &TicketCell) {
        self.count_blocks(sector, count);
        let buf = self.content(count);
        let digests: Vec<Digest> = buf.chunks_exact(SECTOR_BYTES as usize).map(digest).collect();
        let begun = self.model.borrow_mut().begin_write(sector as usize, digests.into_iter());
        *ticket.borrow_mut() = Some(begun.clone());
        let durability = if durable { Durability::Durable } else { Durability::OnFlush };
        let (result, _buf) = volume.write(ByteOffset(sector * SECTOR_BYTES), buf, durability).await;
        self.end_write("write", &begun, result, durable);
    }

    pub async fn zero(&self, volume: &Volume, sector: u64, count: u64, discard: bool) {
        self.count_blocks(sector, count);
        let zeroes = std::iter::repeat_n(zero_digest(), count as usize);
        let begun = self.model.borrow_mut().begin_write(sector as usize, zeroes);
        let (offset, length) = (ByteOffset(sector * SECTOR_BYTES), count * SECTOR_BYTES);
        let result = if discard {
            volume.discard(offset, length).await
        } else {
            volume.write_zeroes(offset, length).await
        };
        self.end_write("zero", &begun, result, false);
    }

    fn end_write(&self, what: &str, begun: &WriteTicket, result: crate::error::Result<()>, durable: bool) {
        self.absorb();
        self.model.borrow_mut().end_write(begun, result.is_ok(), durable);
        if let Err(error) = result {
            self.judge_error(what, &error);
        }
    }

    pub async fn read(&self, volume: &Volume, sector: u64, count: u64) {
        let mark = self.model.borrow().mark();
        match self.read_digests(volume, sector, count).await {
            Ok(found) => {
                self.absorb();
                let judged = self.model.borrow().check_read(mark, sector as usize, &found);
                if let Err(what) = judged {
                    self.fail(format!("read: {what}"));
                }
            }
            Err(error) => self.judge_error("read", &error),
        }
    }

    pub async fn read_digests(
        &self,
        volume: &Volume,
        sector: u64,
        count: u64,
    ) -> crate::error::Result<Vec<Digest>> {
        let buf = self.context.buffers().get((count * SECTOR_BYTES) as usize)?;
        let (result, buf) = volume.read(ByteOffset(sector * SECTOR_BYTES), buf).await;
        result?;
        Ok(buf.chunks_exact(SECTOR_BYTES as usize).map(digest).collect())
    }

    /// As many sectors from the first one on.
    pub async fn read_everything(&self, volume: &Volume, sectors: u64) -> crate::error::Result<Vec<Digest>> {
        let mut found = Vec::with_capacity(sectors as usize);
        while (found.len() as u64) < sectors {
            let at = found.len() as u64;
            found.extend(self.read_digests(volume, at, (sectors - at).min(PIECE_SECTORS)).await?);
        }
        Ok(found)
    }

    pub async fn flush(&self, volume: &Volume) {
        let mark = self.model.borrow().mark();
        let result = volume.flush().await;
        self.absorb();
        match result {
            Ok(()) => self.model.borrow_mut().end_flush(mark),
            Err(error) => {
                self.model.borrow_mut().fail_flush();
                self.poisoned.set(true);
                self.judge_error("flush", &error);
            }
        }
    }

    /// Applies everything. What it flushes on the way is not counted; what it fails to flush is.
    pub async fn apply(&self, volume: &Volume) {
        self.applies.set(self.applies.get() + 1);
        let (completed, (_, closed)) = (volume.info().sequence, self.images.get());
        let result = volume.apply(None).await;
        self.absorb();
        match result {
            Ok(applied) if applied < completed => {
                self.fail(format!("{applied:?} is applied, {completed:?} had completed"));
            }
            Ok(_) => {}
            Err(error) => {
                // Meanwhile one was open.
                let may_stall = self.images.get().0 > closed;
                if may_stall && *error.reason() == (Reason::ApplyStalled { why: IMAGE_IS_OPEN }) {
                    return;
                }
                self.model.borrow_mut().fail_flush();
                self.poisoned.set(true);
                self.judge_error("apply", &error);
            }
        }
    }

    /// Runs a future for this long and then drops it where it stands. Whether it finished.
    pub async fn finishes_within(&self, after_ns: u64, future: impl Future<Output = ()>) -> bool {
        let mut future = Box::pin(future);
        let mut limit = pin!(self.context.sleep(after_ns));
        std::future::poll_fn(|poll| match future.as_mut().poll(poll) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => limit.as_mut().poll(poll).map(|()| false),
        })
        .await
    }

    /// Waits for what an operation returns, but not for ever; `None` where it failed and has an excuse.
    pub async fn judged<T>(
        &self,
        what: &str,
        operation: impl Future<Output = crate::error::Result<T>>,
    ) -> Result<Option<T>, String> {
        match self.bounded(what, operation).await? {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.judge_error(what, &error);
                Ok(None)
            }
        }
    }

    /// Waits for a future, but not for ever.
    pub async fn bounded<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T, String> {
        let mut future = pin!(future);
        let mut limit = pin!(self.context.sleep(HANG_NS));
        std::future::poll_fn(|poll| {
            if let Poll::Ready(value) = future.as_mut().poll(poll) {
                return Poll::Ready(Ok(value));
            }
            limit.as_mut().poll(poll).map(|()| Err(format!("{what} hangs")))
        })
        .await
    }
}
