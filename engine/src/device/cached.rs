//! A volatile write cache in the process's memory over a real device.
//!
//! Makes SIGKILL a power cut: what was written and not flushed lies only here. Reads see it; a flush writes it
//! to the device under it and flushes that one.
//!
//! Invariants: what leaves the cache for the device leaves in an order, one write-back, durable write or
//! zeroing at a time; a block is forgotten only when the very bytes it held have been written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Device, Io};
use crate::buf::Buf;
use crate::error::Result;
use crate::runtime::{OperationKind, RangeLock};
use crate::units::ByteOffset;

/// Dirty bytes kept at most; beyond it the cache writes back, as a disk's own cache does, without a flush.
const DIRTY_BYTES_MAX: usize = 64 << 20;
/// The longest run written back in one request.
const RUN_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Cached {
    device: Device,
    dirty: RefCell<BTreeMap<u64, Rc<[u8]>>>,
    leaving: RangeLock,
}

impl Cached {
    pub fn new(device: Device) -> Self {
        Self { device, dirty: RefCell::default(), leaving: RangeLock::default() }
    }

    fn block_bytes(&self) -> usize {
        self.device.geometry().logical_block_bytes as usize
    }

    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        // A block may be written back and forgotten while the device is read, so both views are laid over.
        let before = self.blocks(offset, buf.len());
        let (result, mut buf) = self.device.read(offset, buf, Io::of(io.cause)).await;
        for (at, bytes) in before.into_iter().chain(self.blocks(offset, buf.len())) {
            let start = (at - offset.0) as usize;
            buf[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        (result, buf)
    }

    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        if io.durable {
            let _turn = self.leaving.lock(0, 1).await;
            // Older bytes of this range must not leave the cache after these.
            self.forget(offset, buf.len() as u64);
            return self.device.write(offset, buf, io).await;
        }
        for (index, block) in buf.chunks(self.block_bytes()).enumerate() {
            let at = offset.0 + (index * self.block_bytes()) as u64;
            self.dirty.borrow_mut().insert(at, Rc::from(block));
        }
        if self.dirty.borrow().len() * self.block_bytes() > DIRTY_BYTES_MAX {
            let result = self.write_back(&io).await;
            return (result, buf);
        }
        (Ok(()), buf)
    }

    pub async fn flush(&self, io: &Io) -> Result<()> {
        self.write_back(io).await?;
        self.device.flush(io.clone()).await
    }

    pub async fn zero(&self, kind: OperationKind, offset: ByteOffset, length: u64, io: &Io) -> Result<()> {
        let _turn = self.leaving.lock(0, 1).await;
        self.forget(offset, length);
        match kind {
            OperationKind::Discard => self.device.discard(offset, length, io.clone()).await,
            _ => self.device.write_zeroes(offset, length, io.clone()).await,
        }
    }

    fn blocks(&self, offset: ByteOffset, length: usize) -> Vec<(u64, Rc<[u8]>)> {
        let range = offset.0..offset.0 + length as u64;
        self.dirty.borrow().range(range).map(|(at, bytes)| (*at, Rc::clone(bytes))).collect()
    }

    fn forget(&self, offset: ByteOffset, length: u64) {
        let mut dirty = self.dirty.borrow_mut();
        let inside: Vec<u64> = dirty.range(offset.0..offset.0 + length).map(|(at, _)| *at).collect();
        for at in inside {
            dirty.remove(&at);
        }
    }

    /// Forgets blocks that hold exactly the bytes that were written; newer ones stay.
    fn forget_written(&self, run: &[(u64, Rc<[u8]>)]) {
        let mut dirty = self.dirty.borrow_mut();
        for (at, written) in run {
            if dirty.get(at).is_some_and(|now| Rc::ptr_eq(now, written)) {
                dirty.remove(at);
            }
        }
    }

    async fn write_back(&self, io: &Io) -> Result<()> {
        let _turn = self.leaving.lock(0, 1).await;
        let leaving: Vec<(u64, Rc<[u8]>)> =
            self.dirty.borrow().iter().map(|(at, bytes)| (*at, Rc::clone(bytes))).collect();
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
            self.device.write(ByteOffset(*start), buf, Io { durable: false, ..io.clone() }).await.0?;
            self.forget_written(run);
            rest = after;
        }
        Ok(())
    }
}
