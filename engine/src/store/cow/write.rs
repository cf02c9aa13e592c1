//! Writing: what a moment sees is saved first, then the base is overwritten.

use super::Cow;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::runtime::join_all;
use crate::store::log::Goes;
use crate::units::ByteOffset;

/// Bytes that are saved together before a range of them reads as zero.
const ZERO_STEP_BYTES: u64 = 4 << 20;

impl Cow {
    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        if let Err(error) = self.finish_rollback().await {
            return (Err(error), buf);
        }
        match self.save_seen(offset, buf.len() as u64, &io).await {
            Ok(saved) => {
                let done = self.past.base().write(offset, buf, io).await;
                self.past.slow_down(saved).await;
                done
            }
            Err(error) => (Err(error), buf),
        }
    }

    /// How many blocks had to be saved in the log.
    pub(super) async fn save_seen(&self, offset: ByteOffset, length: u64, io: &Io) -> Result<u64> {
        loop {
            let pieces = self.past.pieces(offset, length).await?;
            let seen = || pieces.iter().filter(|piece| piece.goes != Goes::Base);
            if seen().next().is_none() {
                return Ok(0);
            }
            let blocks = seen().map(|piece| piece.more_blocks).sum();
            // A snapshot that had to be broken for it may have been the one that sees them.
            let Some(_reserved) = self.past.reserve(blocks).await? else { continue };
            let saving: Vec<_> = seen().map(|piece| self.past.save(piece, io.guard.as_ref())).collect();
            join_all(saving).await.into_iter().collect::<Result<()>>()?;
            return Ok(blocks);
        }
    }

    /// Makes everything that has completed durable; what was saved is so already.
    pub async fn flush(&self, io: Io) -> Result<()> {
        self.past.base().flush(io).await
    }

    pub async fn close(&self, io: Io) -> Result<()> {
        self.past.base().flush(io).await?;
        self.past.close().await
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let saved = self.save_all(offset, length, &io).await?;
        let done = self.past.base().discard(offset, length, io).await;
        self.past.slow_down(saved).await;
        done
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        let saved = self.save_all(offset, length, &io).await?;
        let done = self.past.base().write_zeroes(offset, length, io).await;
        self.past.slow_down(saved).await;
        done
    }

    async fn save_all(&self, offset: ByteOffset, length: u64, io: &Io) -> Result<u64> {
        self.finish_rollback().await?;
        let (mut done, mut saved) = (0, 0);
        while done < length {
            let step = (length - done).min(ZERO_STEP_BYTES);
            saved += self.save_seen(ByteOffset(offset.0 + done), step, io).await?;
            done += step;
        }
        Ok(saved)
    }
}
