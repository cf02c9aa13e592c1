//! What the engine's driver, the filling and the verification work on: a span of a device, or a volume.

use icecore::buf::Buf;
use icecore::device::{Cause, Device, Io};
use icecore::error::Result;
use icecore::units::ByteOffset;
use icecore::volume::{Durability, Volume};

/// Something with a data span; offsets count from its start. Cheap to clone, and a task may keep it.
pub(crate) trait Target: Clone + 'static {
    /// Whether a writer that waits for durability writes and then flushes, rather than writing durably.
    const FLUSHES_APART: bool;

    /// Fills the buffer.
    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf);

    /// Writes the buffer; with `durable`, it survives losing power once this returned.
    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf);

    /// Makes everything that completed before durable.
    async fn flush(&self) -> Result<()>;

    /// Makes the range read as zero, giving its space back if it can; false where it has no way to, and nothing was done.
    async fn discard(&self, _offset_bytes: u64, _len_bytes: u64) -> Result<bool> {
        Ok(false)
    }
}

/// The data span of a device, without a volume.
#[derive(Clone, Debug)]
pub struct Bare {
    device: Device,
    offset_bytes: u64,
}

impl Bare {
    /// The span that begins at this byte of the device.
    pub fn new(device: &Device, offset_bytes: u64) -> Self {
        Self { device: device.clone(), offset_bytes }
    }

    fn place(&self, offset_bytes: u64) -> ByteOffset {
        ByteOffset(self.offset_bytes + offset_bytes)
    }
}

impl Target for Bare {
    const FLUSHES_APART: bool = true;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.device.read(self.place(offset_bytes), buf, Io::of(Cause::Application)).await
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        let io = Io { durable, ..Io::of(Cause::Application) };
        self.device.write(self.place(offset_bytes), buf, io).await
    }

    async fn flush(&self) -> Result<()> {
        self.device.flush(Io::of(Cause::Application)).await
    }

    async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<bool> {
        let io = Io::of(Cause::Application);
        self.device.discard(self.place(offset_bytes), len_bytes, io).await.map(|()| true)
    }
}

impl Target for Volume {
    const FLUSHES_APART: bool = false;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        Volume::read(self, ByteOffset(offset_bytes), buf).await
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        let durability = if durable { Durability::Durable } else { Durability::OnFlush };
        Volume::write(self, ByteOffset(offset_bytes), buf, durability).await
    }

    async fn flush(&self) -> Result<()> {
        Volume::flush(self).await
    }

    async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<bool> {
        Volume::discard(self, ByteOffset(offset_bytes), len_bytes).await.map(|()| true)
    }
}
