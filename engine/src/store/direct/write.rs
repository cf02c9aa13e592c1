//! Writing, zeroing and flushing: one device operation each.

use super::Direct;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Direct {
    pub fn write(&self, offset: ByteOffset, buf: Buf, io: Io) -> impl Future<Output = (Result<()>, Buf)> {
        self.device.write(self.place(offset), buf, io)
    }

    pub async fn flush(&self, io: Io) -> Result<()> {
        self.device.flush(io).await
    }

    pub async fn discard(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.device.discard(self.place(offset), length, io).await
    }

    pub async fn write_zeroes(&self, offset: ByteOffset, length: u64, io: Io) -> Result<()> {
        self.device.write_zeroes(self.place(offset), length, io).await
    }
}
