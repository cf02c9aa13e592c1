//! Writing: each request is one entry of the log, or several where it is longer than an entry may be.

use std::rc::Rc;

use super::read::join_parts;
use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::Io;
use crate::error::{Error, Reason, Result};
use crate::format::batch::{KIND_DATA, KIND_DISCARD, KIND_ZERO};
use crate::pool::log::append::{Entry, Log};
use crate::runtime::join_all;
use crate::units::{ByteOffset, address_of};

/// Blocks that one entry makes read as zero at most, so that the pages it holds in memory are bounded.
const ZERO_BLOCKS_MAX: u64 = 1 << 16;

impl LogStore {
    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let address = self.address(offset);
        if self.branch == 0 {
            return self.core.write(address, buf, io).await;
        }
        let blocks = buf.len() as u64 / self.block_bytes();
        match Box::pin(self.room_in_branch(address, blocks)).await {
            Ok(_reserved) => self.core.write(address, buf, io).await,
            Err(error) => (Err(error), buf),
        }
    }

    /// The number in the index of the block at this place.
    pub(super) fn address(&self, offset: ByteOffset) -> u64 {
        address_of(self.branch, offset.0 / self.block_bytes())
    }

    /// Makes everything that has completed durable.
    pub async fn flush(&self) -> Result<()> {
        self.core.log()?.flush().await?;
        self.flush_overwritten().await
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.core.zero(KIND_DISCARD, self.address(offset), length, io).await
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.core.zero(KIND_ZERO, self.address(offset), length, io).await
    }

    /// Ends in order: a checkpoint, and a mark that everything is durable.
    pub async fn close(&self) -> Result<()> {
        self.core.rest().await;
        self.core.log()?.flush().await?;
        self.core.checkpoint().await?;
        let core = Rc::clone(&self.core);
        let context = self.core.device.context();
        context.to_its_end("close", async move { core.mark_durable().await }).await
    }
}

impl Core {
    pub(super) fn log(&self) -> Result<&Rc<Log>> {
        let refused = || Error::new("write", Reason::ReadOnly).on(self.device.name());
        self.log.as_ref().ok_or_else(refused)
    }

    async fn write(&self, address: u64, mut buf: Buf, io: Io) -> (Result<()>, Buf) {
        let piece_blocks = self.geometry.entry_blocks_max();
        let piece_bytes = piece_blocks as usize * self.geometry.block_bytes as usize;
        if buf.len() <= piece_bytes {
            return self.write_piece(address, buf, io).await;
        }
        let mut pieces = Vec::with_capacity(buf.len().div_ceil(piece_bytes));
        let mut at = address;
        while buf.len() > piece_bytes {
            let rest = buf.split_off(piece_bytes);
            pieces.push(self.write_piece(at, buf, io.clone()));
            (buf, at) = (rest, at + u64::from(piece_blocks));
        }
        pieces.push(self.write_piece(at, buf, io));
        join_parts(join_all(pieces).await)
    }

    async fn write_piece(&self, address: u64, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let blocks = buf.len() as u64 / u64::from(self.geometry.block_bytes);
        let (log, pinned) = match (self.log(), self.contents.index().pin(address, blocks).await) {
            (Ok(log), Ok(pinned)) => (log, pinned),
            (Err(error), _) | (_, Err(error)) => return (Err(error), buf),
        };
        let (durable, guard) = (io.durable, io.guard);
        let (kind, blocks, payload) = (KIND_DATA, blocks as u32, Some(buf));
        let appended = log
            .append(Entry { kind, address, blocks, tag: 0, payload, durable, guard, pinned, after_flush: 0 })
            .await;
        let (result, Some(buf)) = appended else { unreachable!("a payload comes back") };
        (self.judge(result.map(|_| ()), durable), buf)
    }

    async fn zero(&self, kind: u32, mut address: u64, length: u64, io: Io) -> Result<()> {
        let end = address + length / u64::from(self.geometry.block_bytes);
        while address < end {
            let blocks = (end - address).min(ZERO_BLOCKS_MAX);
            let pinned = self.contents.index().pin_written(address, blocks).await?;
            let (durable, guard) = (io.durable, io.guard.clone());
            let (blocks_in, payload) = (blocks as u32, None);
            let entry = Entry {
                kind,
                address,
                blocks: blocks_in,
                tag: 0,
                payload,
                durable,
                guard,
                pinned,
                after_flush: 0,
            };
            let appended = self.log()?.append(entry).await.0;
            self.judge(appended.map(|_| ()), durable)?;
            address += blocks;
        }
        Ok(())
    }

    /// A durable write that failed poisons the volume.
    pub(super) fn judge<T>(&self, result: Result<T>, durable: bool) -> Result<T> {
        let refused = matches!(&result, Err(error) if matches!(error.reason(), Reason::LogFull { .. }));
        if result.is_err() && durable && !refused {
            self.failed.raise();
        }
        result
    }
}
