//! Reading: one device read at the block's place.

use super::Direct;
use crate::buf::Buf;
use crate::device::Io;
use crate::error::Result;
use crate::units::ByteOffset;

impl Direct {
    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        self.device.read(self.place(offset), buf, io).await
    }
}
