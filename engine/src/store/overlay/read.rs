//! Reading: the newest overlay that has the block, or the base; the index knows which.

use super::Overlay;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Overlay {
    pub fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        self.layers.read(offset, buf, io)
    }
}
