//! Reading: one device read at the block's place.

use super::Direct;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Direct {
    pub fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        self.device.read(self.place(offset), buf, io)
    }
}
