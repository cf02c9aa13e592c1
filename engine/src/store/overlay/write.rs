//! Writing: in the base where nobody sees it, else as an entry of the log, the newest overlay.

use super::Overlay;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::runtime::join_all;
use crate::store::log::{Goes, Piece, join_parts};
use crate::units::ByteOffset;

/// Bytes that are looked at together before a range of them reads as zero.
const ZERO_STEP_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy)]
enum Zeroing {
    Discard,
    WriteZeroes,
}

impl Overlay {
    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let (pieces, reserved) = match self.layers.room_for(offset, buf.len() as u64).await {
            Ok(found) => found,
            Err(error) => return (Err(error), buf),
        };
        let done = match &pieces[..] {
            [piece] => self.write_piece(piece, offset, buf, io).await,
            // Boxed, because it is seldom: in place it would lie in every write.
            _ => Box::pin(self.write_pieces(&pieces, offset, buf, io)).await,
        };
        drop(reserved);
        self.layers.slow_down(pieces.iter().map(|piece| piece.more_blocks).sum()).await;
        done
    }

    async fn write_piece(&self, piece: &Piece, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match piece.goes {
            Goes::Base => match self.layers.before_base_changes().await {
                Ok(()) => self.layers.base().write(offset, buf, io).await,
                Err(error) => (Err(error), buf),
            },
            // Boxed, because they are long: in place they would lie in every write.
            Goes::Over(number) => Box::pin(self.layers.overwrite(number, offset, buf, io)).await,
            Goes::Place(number) => Box::pin(self.layers.place(number, offset, buf, io)).await,
            Goes::Log => self.layers.write(offset, buf, io).await,
        }
    }

    async fn write_pieces(
        &self,
        pieces: &[Piece],
        offset: ByteOffset,
        mut buf: Buf,
        io: Io,
    ) -> (Result<()>, Buf) {
        let Some((last, rest)) = pieces.split_last() else { return (Ok(()), buf) };
        let (mut parts, mut at) = (Vec::with_capacity(pieces.len()), offset.0);
        for piece in rest {
            let length = (piece.blocks.end - piece.blocks.start) * self.layers.block_bytes();
            let tail = buf.split_off(length as usize);
            parts.push(self.write_piece(piece, ByteOffset(at), buf, io.clone()));
            (buf, at) = (tail, at + length);
        }
        parts.push(self.write_piece(last, ByteOffset(at), buf, io));
        join_parts(join_all(parts).await)
    }

    /// Makes everything that has completed durable, in the base and in the log.
    pub async fn flush(&self, io: Io) -> Result<()> {
        if self.layers.base().is_dirty() {
            self.layers.base().flush(io).await?;
        }
        self.layers.flush().await
    }

    pub async fn close(&self, io: Io) -> Result<()> {
        self.layers.base().flush(io).await?;
        self.layers.flush().await?;
        self.layers.close().await
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.zero(Zeroing::Discard, offset, length, io).await
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.zero(Zeroing::WriteZeroes, offset, length, io).await
    }

    async fn zero(&self, how: Zeroing, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let mut done = 0;
        while done < length {
            let step = (length - done).min(ZERO_STEP_BYTES);
            for piece in self.layers.pieces(ByteOffset(offset.0 + done), step).await? {
                let block_bytes = self.layers.block_bytes();
                let at = ByteOffset(piece.blocks.start * block_bytes);
                let bytes = (piece.blocks.end - piece.blocks.start) * block_bytes;
                let (base, layers, io) = (self.layers.base(), &self.layers, io.clone());
                if let Goes::Over(number) = piece.goes {
                    let discard = matches!(how, Zeroing::Discard);
                    if layers.zero_in_place(number, &piece.blocks, discard, io.clone()).await? {
                        continue;
                    }
                }
                let is_in_base = piece.goes == Goes::Base;
                if is_in_base {
                    layers.before_base_changes().await?;
                }
                match (is_in_base, how) {
                    (true, Zeroing::Discard) => base.discard(at, bytes, io).await?,
                    (true, Zeroing::WriteZeroes) => base.write_zeroes(at, bytes, io).await?,
                    (false, Zeroing::Discard) => layers.discard(at, bytes, io).await?,
                    (false, Zeroing::WriteZeroes) => layers.write_zeroes(at, bytes, io).await?,
                }
            }
            done += step;
        }
        Ok(())
    }
}
