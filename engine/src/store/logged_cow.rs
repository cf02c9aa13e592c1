//! The `logged-cow` backend: a log in front of copy-on-write.
//!
//! A write is an entry of the log, durable there and current, as in `log`; so writes take effect in order, and a crash leaves a
//! prefix. Behind the log every block has its place in the base, and `log/bringing.rs` brings the newest versions there, copying
//! first what a snapshot sees of what they overwrite. So snapshots cost what they do with `cow`, later and for fewer
//! blocks: what is superseded in the log never reaches the base.
//!
//! Place: over [`LogStore`], which holds everything but this: room for what snapshots keep is there before the write is.
//! Invariants: those of `log/bringing.rs`; nothing but bringing writes to the base.

use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::store::log::LogStore;
use crate::units::ByteOffset;

/// An open volume with a log in front of copy-on-write.
#[derive(Debug)]
pub(crate) struct LoggedCow {
    /// All of it.
    pub log: LogStore,
}

impl LoggedCow {
    pub async fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        if !self.log.has_limit() {
            let blocks = buf.len() as u64 / self.log.block_bytes();
            let done = self.log.write(offset, buf, io).await;
            self.log.slow_down(blocks).await;
            return done;
        }
        let (more, reserved) = match Box::pin(self.log.room_for(offset, buf.len() as u64)).await {
            Ok((pieces, reserved)) => (pieces.iter().map(|piece| piece.more_blocks).sum(), reserved),
            Err(error) => return (Err(error), buf),
        };
        let done = self.log.write(offset, buf, io).await;
        drop(reserved);
        self.log.slow_down(more).await;
        done
    }
}
