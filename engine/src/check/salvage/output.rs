//! The device that the image is written to: piece by piece in the volume's order, zeroes wherever nothing was put.

use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::Result;
use crate::units::ByteOffset;

/// What is written at a time.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Where the image goes.
pub(super) struct Output<'a> {
    out: &'a Device,
    size_bytes: u64,
    /// It reads as zero where nothing has been written.
    is_zero: bool,
    /// Everything before is written.
    done: u64,
    /// The piece at hand, and where it begins.
    piece: Option<(u64, Buf)>,
}

impl<'a> Output<'a> {
    pub fn new(out: &'a Device, size_bytes: u64, is_zero: bool) -> Self {
        Self { out, size_bytes, is_zero, done: 0, piece: None }
    }

    /// Bytes of the volume, behind all that was put before, within one piece.
    pub async fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let start = offset - offset % PIECE_BYTES;
        if self.piece.as_ref().is_none_or(|(at, _)| *at != start) {
            self.write_piece().await?;
            let length = PIECE_BYTES.min(self.size_bytes - start);
            self.piece = Some((start, self.out.context().buffers().zeroed(length as usize)?));
        }
        if let Some((_, piece)) = &mut self.piece {
            let at = (offset - start) as usize;
            piece[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    async fn write_piece(&mut self) -> Result<()> {
        let Some((start, piece)) = self.piece.take() else { return Ok(()) };
        if super::super::is_zero(&piece) {
            return Ok(());
        }
        self.zero_to(start).await?;
        self.done = start + piece.len() as u64;
        self.out.write(ByteOffset(start), piece, Io::of(Cause::Application)).await.0
    }

    async fn zero_to(&mut self, end: u64) -> Result<()> {
        if !self.is_zero && self.done < end {
            let io = Io::of(Cause::Application);
            self.out.write_zeroes(ByteOffset(self.done), end - self.done, io).await?;
        }
        Ok(())
    }

    /// All of it is durable once this has returned.
    pub async fn end(mut self) -> Result<()> {
        self.write_piece().await?;
        self.zero_to(self.size_bytes).await?;
        self.out.flush(Io::of(Cause::Application)).await
    }
}
