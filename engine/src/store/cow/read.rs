//! Reading: one device read at the block's place; while the volume goes back to a snapshot, what that shows.

use super::Cow;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Cow {
    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        match self.shown() {
            None => self.past.base().read(offset, buf, io).await,
            // Boxed, because it is seldom: in place it would lie in every read.
            Some(image) => Box::pin(image.read(offset, buf)).await,
        }
    }
}
