//! A volatile write cache in the process's memory over a real device.
//!
//! It is the volatile log of a volume, and in tests it makes SIGKILL a power cut: what was written and not
//! flushed lies only here. Reads see it; a flush writes it to the device under it and flushes that one.
//!
//! Invariants: what leaves the cache for the device leaves in an order, one write-back, durable write or
//! zeroing at a time, also where its future is dropped; a block is forgotten only when the very bytes it held have
//! been written, or what replaces them is on the device: no read sees older bytes meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Device, Io};
use crate::buf::Buf;
use crate::error::Result;
use crate::runtime::{OperationKind, RangeLock};
use crate::units::ByteOffset;

/// The longest run written back in one request.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Blocks of the device and what they hold, by address.
type Blocks = Vec<(u64, Rc<[u8]>)>;

#[derive(Debug)]
pub(super) struct Cached {
    device: Device,
    dirty: RefCell<BTreeMap<u64, Rc<[u8]>>>,
    /// Dirty bytes kept at most; beyond it the cache writes back, as a disk's own cache does, without a flush.
    dirty_bytes_max: usize,
    leaving: RangeLock,
}

impl Cached {
    pub fn new(device: Device, dirty_bytes_max: usize) -> Self {
        Self { device, dirty: RefCell::default(), dirty_bytes_max, leaving: RangeLock::default() }
    }

    fn block_bytes(&self) -> usize {
        self.device.geometry().logical_block_bytes as usize
    }

    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        // A block may be written back and forgotten while the device is read, so both views are laid over.
        let before = self.blocks(offset, buf.len() as u64);
        let (result, mut buf) = self.device.read(offset, buf, Io::of(io.cause)).await;
        for (at, bytes) in before.into_iter().chain(self.blocks(offset, buf.len() as u64)) {
            let start = (at - offset.0) as usize;
            buf[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        (result, buf)
    }

    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let kept = self.keep(offset, &buf);
        if io.durable {
            let _turn = self.leaving.lock(0, 1).await;
            let (result, buf) = self.device.write(offset, buf, io).await;
            if result.is_ok() {
                self.forget(&kept);
            }
            return (result, buf);
        }
        if self.dirty.borrow().len() * self.block_bytes() > self.dirty_bytes_max {
            let result = self.write_back(&io).await;
            return (result, buf);
        }
        (Ok(()), buf)
    }

    pub async fn flush(&self, io: &Io) -> Result<()> {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::VolatileLogKept) {
            return self.device.flush(io.clone()).await;
        }
        self.write_back(io).await?;
        self.device.flush(io.clone()).await
    }

    pub async fn zero(&self, kind: OperationKind, offset: ByteOffset, length: u64, io: &Io) -> Result<()> {
        let _turn = self.leaving.lock(0, 1).await;
        let replaced = self.blocks(offset, length);
        match kind {
            OperationKind::Discard => self.device.discard(offset, length, io.clone()).await?,
            _ => self.device.write_zeroes(offset, length, io.clone()).await?,
        }
        self.forget(&replaced);
        Ok(())
    }

    fn keep(&self, offset: ByteOffset, bytes: &[u8]) -> Blocks {
        let blocks = bytes.chunks(self.block_bytes()).map(Rc::from);
        let kept: Blocks = (offset.0..).step_by(self.block_bytes()).zip(blocks).collect();
        self.dirty.borrow_mut().extend(kept.iter().cloned());
        kept
    }

    fn blocks(&self, offset: ByteOffset, length: u64) -> Blocks {
        let range = offset.0..offset.0 + length;
        self.dirty.borrow().range(range).map(|(at, bytes)| (*at, Rc::clone(bytes))).collect()
    }

    /// Forgets blocks that hold exactly these bytes; newer ones stay.
    fn forget(&self, blocks: &[(u64, Rc<[u8]>)]) {
        let mut dirty = self.dirty.borrow_mut();
        for (at, bytes) in blocks {
            if dirty.get(at).is_some_and(|now| Rc::ptr_eq(now, bytes)) {
                dirty.remove(at);
            }
        }
    }

    async fn write_back(&self, io: &Io) -> Result<()> {
        let turn = self.leaving.lock(0, 1).await;
        // A write that is dropped half way still ends before anything else leaves.
        let io = Io { durable: false, guard: Some(turn), ..io.clone() };
        let leaving: Blocks = self.dirty.borrow().iter().map(|(at, bytes)| (*at, Rc::clone(bytes))).collect();
        let mut rest = leaving.as_slice();
        while let Some((start, _)) = rest.first() {
            let blocks = rest
                .iter()
                .enumerate()
                .take(RUN_BYTES_MAX / self.block_bytes())
                .take_while(|(index, (at, _))| *at == start + (index * self.block_bytes()) as u64)
                .count();
            let (run, after) = rest.split_at(blocks);
            let mut buf = self.device.context().buffers().get(blocks * self.block_bytes())?;
            for (target, (_, bytes)) in buf.chunks_mut(self.block_bytes()).zip(run) {
                target.copy_from_slice(bytes);
            }
            self.device.write(ByteOffset(*start), buf, io.clone()).await.0?;
            self.forget(run);
            rest = after;
        }
        Ok(())
    }
}
