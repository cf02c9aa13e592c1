//! Reading: one device read at the block's place.

use super::Cow;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Cow {
    pub fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        self.past.base().read(offset, buf, io)
    }
}
