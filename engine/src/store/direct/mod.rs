//! The `direct` backend: every block in its place on the device, no log.
//!
//! A write goes to the volume's data area at once; a flush is the device's flush, so the durability class is
//! local and nothing needs recovery. It keeps no past: it is the bare device behind a volume's face, and the
//! measure of what that face costs.
//!
//! With a *volatile log*, writes complete in memory, within a bound, and lie there until a flush forces them to
//! their places; the log by itself makes nothing durable. That is the device's volatile cache, in front of the data
//! alone.

mod read;
mod write;

use crate::device::Device;
use crate::format::superblock::{Superblock, VOLUME_VOLATILE_LOG};
use crate::units::ByteOffset;

#[derive(Debug)]
pub(crate) struct Direct {
    device: Device,
    data_offset: u64,
}

impl Direct {
    /// `volatile_log_bytes`: that a volatile log keeps in memory at most, where the volume has one.
    pub fn open(device: &Device, superblock: &Superblock, volatile_log_bytes: usize) -> Self {
        let is_volatile = superblock.volume_flags.get() & VOLUME_VOLATILE_LOG != 0;
        let device = device.clone();
        let device = if is_volatile { device.with_volatile_cache_of(volatile_log_bytes) } else { device };
        Self { device, data_offset: superblock.data.offset.get() }
    }

    fn place(&self, offset: ByteOffset) -> ByteOffset {
        ByteOffset(self.data_offset + offset.0)
    }
}
