//! The `direct` backend: every block in its place on the device, no log.
//!
//! A write goes to the volume's data area at once; a flush is the device's flush, so the durability class is
//! local and nothing needs recovery. It keeps no past: it is the bare device behind a volume's face, and the
//! measure of what that face costs.

mod read;
mod write;

use crate::device::Device;
use crate::format::superblock::Superblock;
use crate::units::ByteOffset;

#[derive(Debug)]
pub(crate) struct Direct {
    device: Device,
    data_offset: u64,
}

impl Direct {
    pub fn open(device: &Device, superblock: &Superblock) -> Self {
        Self { device: device.clone(), data_offset: superblock.data.offset.get() }
    }

    fn place(&self, offset: ByteOffset) -> ByteOffset {
        ByteOffset(self.data_offset + offset.0)
    }
}
