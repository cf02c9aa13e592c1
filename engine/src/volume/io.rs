//! The data path of a volume: check, order, merge, hand on.

use super::{Durability, TRANSFER_BYTES_MAX, Volume};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::runtime::RangeGuard;
use crate::units::{ByteOffset, SECTOR_BYTES};

/// The pieces in which [`Volume::read_bytes`] and [`Volume::write_bytes`] work.
const PIECE_BYTES: u64 = 1 << 20;

/// Which way a range is made to read as zero.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeroing {
    Discard,
    WriteZeroes,
}

impl Volume {
    /// Fills `buf` from `offset`; both offset and length are multiples of 512.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `TransferTooLong`, `Closed`, and what the device says.
    pub async fn read(&self, offset: ByteOffset, buf: Buf) -> (Result<()>, Buf) {
        if let Err(error) = self.check("read", offset, buf.len() as u64, SECTOR_BYTES) {
            return (Err(error), buf);
        }
        if self.is_whole_blocks(offset, buf.len() as u64) {
            return self.0.store.read(offset, buf, Io::of(Cause::Application)).await;
        }
        let mut buf = buf;
        (self.read_within_blocks(offset, &mut buf).await, buf)
    }

    /// Writes `buf` at `offset`; both offset and length are multiples of 512. The buffer comes back.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `TransferTooLong` (nothing is written), `Poisoned`, `Closed`, `ReadOnly`,
    /// and what the device says: then each sector of the range holds its old or its new bytes.
    pub async fn write(&self, offset: ByteOffset, buf: Buf, durability: Durability) -> (Result<()>, Buf) {
        let length = buf.len() as u64;
        let checked = self.check("write", offset, length, SECTOR_BYTES);
        if let Err(error) = checked.and_then(|()| self.check_writable("write")) {
            return (Err(error), buf);
        }
        if !self.is_whole_blocks(offset, length) {
            return (self.write_within_blocks(offset, &buf, durability).await, buf);
        }
        let guard = self.lock_range(offset.0, offset.0 + length).await;
        // The volume may have been poisoned while this write waited for another.
        if let Err(error) = self.check_unpoisoned("write") {
            return (Err(error), buf);
        }
        self.0.store.write(offset, buf, self.write_io(guard, durability)).await
    }

    /// Makes every write that had completed before this call durable.
    ///
    /// # Errors
    /// Any error but `Closed` and `ReadOnly` poisons the volume.
    pub async fn flush(&self) -> Result<()> {
        self.check_writable("flush")?;
        #[cfg(feature = "mutations")]
        {
            use crate::mutation::{Mutation, is_on};
            if is_on(Mutation::FlushIgnored) {
                return Ok(());
            }
            if is_on(Mutation::ReplyBeforeFlush) {
                let (volume, io) = (self.clone(), self.flush_io());
                self.context().spawn(async move { volume.0.store.flush(io).await });
                return Ok(());
            }
        }
        self.0.store.flush(self.flush_io()).await?;
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::PoisonedWithoutCause) {
            let info = self.info();
            if crate::mutation::take_poisoned(info.pool_id, info.generation) {
                return Err(self.refuse("flush", Reason::Poisoned));
            }
        }
        // Another flush may have failed meanwhile and taken with it what this one was to save.
        self.check_unpoisoned("flush")
    }

    /// Gives the range's space back where the device can; it reads as zero afterwards. Multiples of 512.
    ///
    /// # Errors
    /// As [`Volume::write`], without a limit on the length.
    pub async fn discard(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.zero("discard", offset, length, Zeroing::Discard).await
    }

    /// Makes the range read as zero, keeping its space. Multiples of 512.
    ///
    /// # Errors
    /// As [`Volume::discard`].
    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64) -> Result<()> {
        self.zero("write zeroes", offset, length, Zeroing::WriteZeroes).await
    }

    /// Reads any range, of any length and alignment, by copying.
    ///
    /// # Errors
    /// As [`Volume::read`], but for alignment and length.
    pub async fn read_bytes(&self, offset: ByteOffset, bytes: &mut [u8]) -> Result<()> {
        self.check_range("read", offset, bytes.len() as u64)?;
        let mut at = offset.0;
        for piece in bytes.chunks_mut(PIECE_BYTES as usize) {
            self.read_within_blocks(ByteOffset(at), piece).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes any range, of any length and alignment, by copying. Ranges above 1 MiB are written in pieces.
    ///
    /// # Errors
    /// As [`Volume::write`], but for alignment and length.
    pub async fn write_bytes(&self, offset: ByteOffset, bytes: &[u8], durability: Durability) -> Result<()> {
        self.check_range("write", offset, bytes.len() as u64)?;
        self.check_writable("write")?;
        let mut at = offset.0;
        for piece in bytes.chunks(PIECE_BYTES as usize) {
            self.write_within_blocks(ByteOffset(at), piece, durability).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn flush_io(&self) -> Io {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::FailedFlushForgotten) {
            return Io::of(Cause::Application);
        }
        Io { failed: Some(self.0.failed.clone()), ..Io::of(Cause::Application) }
    }

    fn write_io(&self, guard: RangeGuard, durability: Durability) -> Io {
        let durable = durability == Durability::Durable;
        let failed = if durable { Some(self.0.failed.clone()) } else { None };
        Io { cause: Cause::Application, durable, guard: Some(guard), failed }
    }

    pub(super) async fn lock_range(&self, start: u64, end: u64) -> RangeGuard {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::OverlappingWritesReordered) {
            return crate::runtime::RangeLock::default().lock(start, end).await;
        }
        self.0.lock.lock(start, end).await
    }

    async fn read_within_blocks(&self, offset: ByteOffset, bytes: &mut [u8]) -> Result<()> {
        let length = bytes.len() as u64;
        let (start, end) = self.covering_blocks(offset, length);
        let buf = self.context().buffers().get((end - start) as usize)?;
        let (result, buf) = self.0.store.read(ByteOffset(start), buf, Io::of(Cause::Application)).await;
        result?;
        let head = (offset.0 - start) as usize;
        bytes.copy_from_slice(&buf[head..head + bytes.len()]);
        Ok(())
    }

    async fn write_within_blocks(
        &self,
        offset: ByteOffset,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, end) = self.covering_blocks(offset, bytes.len() as u64);
        let guard = self.lock_range(start, end).await;
        #[cfg(feature = "mutations")]
        let guard = if crate::mutation::is_on(crate::mutation::Mutation::MergeUnguarded) {
            drop(guard);
            crate::runtime::RangeLock::default().lock(start, end).await
        } else {
            guard
        };
        self.check_unpoisoned("write")?;
        self.merge(start, end, offset, bytes, self.write_io(guard, durability)).await
    }

    /// Writes the blocks `start..end` with `bytes` laid over them at `offset`; the range is held by `io`.
    async fn merge(&self, start: u64, end: u64, offset: ByteOffset, bytes: &[u8], io: Io) -> Result<()> {
        let whole_bytes = self.0.whole_bytes;
        let mut merged = self.context().buffers().get((end - start) as usize)?;
        let head_partial = offset.0 != start;
        let tail_partial = offset.0 + bytes.len() as u64 != end;
        let last = end - whole_bytes;
        if head_partial || (tail_partial && last == start) {
            self.read_block(start, &mut merged[..whole_bytes as usize]).await?;
        }
        if tail_partial && last != start {
            let tail = merged.len() - whole_bytes as usize;
            self.read_block(last, &mut merged[tail..]).await?;
        }
        let head = (offset.0 - start) as usize;
        merged[head..head + bytes.len()].copy_from_slice(bytes);
        self.0.store.write(ByteOffset(start), merged, io).await.0
    }

    async fn read_block(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        let buf = self.context().buffers().get(bytes.len())?;
        let (result, buf) = self.0.store.read(ByteOffset(start), buf, Io::of(Cause::Merge)).await;
        result?;
        bytes.copy_from_slice(&buf);
        Ok(())
    }

    async fn zero(&self, name: &'static str, offset: ByteOffset, length: u64, how: Zeroing) -> Result<()> {
        self.check_alignment(name, offset, length, SECTOR_BYTES)?;
        self.check_range(name, offset, length)?;
        self.check_writable(name)?;
        if length == 0 {
            return Ok(());
        }
        let end = offset.0 + length;
        let (first, last) = self.covering_blocks(offset, length);
        let guard = self.lock_range(first, last).await;
        self.check_unpoisoned(name)?;
        let whole_bytes = self.0.whole_bytes;
        let whole_start = offset.0.next_multiple_of(whole_bytes);
        let whole_end = end - end % whole_bytes;
        let zeroes = [0; super::BLOCK_BYTES_MAX as usize];
        let io = self.write_io(guard, Durability::OnFlush);
        if whole_start > whole_end {
            return self.merge(first, last, offset, &zeroes[..length as usize], io).await;
        }
        if offset.0 < whole_start {
            let head = (whole_start - offset.0) as usize;
            self.merge(first, whole_start, offset, &zeroes[..head], io.clone()).await?;
        }
        if end > whole_end {
            let tail = (end - whole_end) as usize;
            self.merge(whole_end, last, ByteOffset(whole_end), &zeroes[..tail], io.clone()).await?;
        }
        let (start, length) = (ByteOffset(whole_start), whole_end - whole_start);
        if length == 0 {
            return Ok(());
        }
        match how {
            Zeroing::Discard => self.0.store.discard(start, length, io).await,
            Zeroing::WriteZeroes => self.0.store.write_zeroes(start, length, io).await,
        }
    }

    fn covering_blocks(&self, offset: ByteOffset, length: u64) -> (u64, u64) {
        let whole_bytes = self.0.whole_bytes;
        (offset.0 - offset.0 % whole_bytes, (offset.0 + length).next_multiple_of(whole_bytes))
    }

    fn is_whole_blocks(&self, offset: ByteOffset, length: u64) -> bool {
        (offset.0 | length) & (self.0.whole_bytes - 1) == 0
    }

    fn check(&self, name: &'static str, offset: ByteOffset, length: u64, granularity: u64) -> Result<()> {
        self.check_alignment(name, offset, length, granularity)?;
        self.check_range(name, offset, length)?;
        if length > TRANSFER_BYTES_MAX {
            let reason = Reason::TransferTooLong { length, limit: TRANSFER_BYTES_MAX };
            return Err(self.refuse(name, reason));
        }
        Ok(())
    }

    fn check_alignment(
        &self,
        name: &'static str,
        offset: ByteOffset,
        length: u64,
        granularity: u64,
    ) -> Result<()> {
        if (offset.0 | length) & (granularity - 1) != 0 {
            return Err(self.refuse(name, Reason::Misaligned { offset: offset.0, length, granularity }));
        }
        Ok(())
    }

    pub(super) fn check_range(&self, name: &'static str, offset: ByteOffset, length: u64) -> Result<()> {
        let size_bytes = self.0.size_bytes;
        if offset.checked_add(length).is_none_or(|end| end.0 > size_bytes) {
            return Err(self.refuse(name, Reason::OutOfRange { offset: offset.0, length, size_bytes }));
        }
        self.check_open(name)
    }

    pub(super) fn check_open(&self, name: &'static str) -> Result<()> {
        if self.0.closed.get() {
            return Err(self.refuse(name, Reason::Closed));
        }
        Ok(())
    }

    pub(super) fn check_writable(&self, name: &'static str) -> Result<()> {
        self.check_open(name)?;
        if self.0.read_only {
            return Err(self.refuse(name, Reason::ReadOnly));
        }
        self.check_unpoisoned(name)
    }

    pub(super) fn check_unpoisoned(&self, name: &'static str) -> Result<()> {
        if self.0.failed.is_raised() {
            #[cfg(feature = "mutations")]
            crate::mutation::note_poisoned(self.info().pool_id, self.info().generation);
            return Err(self.refuse(name, Reason::Poisoned));
        }
        Ok(())
    }

    pub(super) fn refuse(&self, name: &'static str, reason: Reason) -> Error {
        Error::new(name, reason).on(self.0.device.name())
    }
}
