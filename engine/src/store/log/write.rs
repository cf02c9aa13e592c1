//! Writing: each request is one entry of the log, or several where it is longer than an entry may be.

use std::rc::Rc;

use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::Io;
use crate::error::{Error, Reason, Result};
use crate::format::batch::{KIND_DATA, KIND_DISCARD, KIND_ZERO};
use crate::pool::log::append::{Entry, Log, Payload};
use crate::runtime::join_all;
use crate::units::ByteOffset;

/// Blocks that one entry makes read as zero at most, so that the pages it holds in memory are bounded.
const ZERO_BLOCKS_MAX: u64 = 1 << 16;

impl LogStore {
    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let buf = Rc::new(buf);
        let result = self.core.write(offset, &buf, io).await;
        match Rc::try_unwrap(buf) {
            Ok(buf) => (result, buf),
            Err(_) => unreachable!("the log gives its share up before it answers"),
        }
    }

    /// Makes everything that has completed durable.
    pub async fn flush(&self) -> Result<()> {
        self.core.log()?.flush().await
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.core.zero(KIND_DISCARD, offset, length, io).await
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.core.zero(KIND_ZERO, offset, length, io).await
    }

    /// Ends in order: a checkpoint, and a mark that everything is durable.
    pub async fn close(&self) -> Result<()> {
        self.core.log()?.flush().await?;
        self.core.checkpoint().await?;
        self.core.mark_durable().await
    }
}

impl Core {
    pub(super) fn log(&self) -> Result<&Rc<Log>> {
        let refused = || Error::new("write", Reason::ReadOnly).on(self.device.name());
        self.log.as_ref().ok_or_else(refused)
    }

    async fn write(&self, offset: ByteOffset, buf: &Rc<Buf>, io: Io) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let piece_bytes = u64::from(self.geometry.entry_blocks_max()) * block_bytes;
        let length = buf.len() as u64;
        if length <= piece_bytes {
            return self.write_piece(offset.0, buf, 0, length, io).await;
        }
        let pieces = (0..length).step_by(piece_bytes as usize).map(|start| {
            let bytes = piece_bytes.min(length - start);
            self.write_piece(offset.0 + start, buf, start, bytes, io.clone())
        });
        join_all(pieces).await.into_iter().collect()
    }

    async fn write_piece(&self, offset: u64, buf: &Rc<Buf>, start: u64, length: u64, io: Io) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let (lba, blocks) = (offset / block_bytes, length / block_bytes);
        let pinned = self.contents.index().pin(lba, blocks).await?;
        let payload = Payload { buf: Rc::clone(buf), start: start as usize };
        let (kind, payload) = (KIND_DATA, Some(payload));
        let (durable, guard) = (io.durable, io.guard);
        let entry = Entry { kind, lba, blocks: blocks as u32, payload, durable, guard, pinned };
        let appended = self.log()?.append(entry).await;
        self.judge(appended.map(|_| ()), durable)
    }

    async fn zero(&self, kind: u32, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let (mut lba, end) = (offset.0 / block_bytes, (offset.0 + length) / block_bytes);
        while lba < end {
            let blocks = (end - lba).min(ZERO_BLOCKS_MAX);
            let pinned = self.contents.index().pin_written(lba, blocks).await?;
            let (durable, guard) = (io.durable, io.guard.clone());
            let entry = Entry { kind, lba, blocks: blocks as u32, payload: None, durable, guard, pinned };
            let appended = self.log()?.append(entry).await;
            self.judge(appended.map(|_| ()), durable)?;
            lba += blocks;
        }
        Ok(())
    }

    /// A durable write that failed poisons the volume.
    fn judge(&self, result: Result<()>, durable: bool) -> Result<()> {
        let refused = matches!(&result, Err(error) if matches!(error.reason(), Reason::LogFull { .. }));
        if result.is_err() && durable && !refused {
            self.failed.raise();
        }
        result
    }
}
