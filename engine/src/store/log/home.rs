//! Where segments lie when the linear volume has a device of its own.
//!
//! The segments of the pool come first, those of the volume's device are numbered behind them. The log, the
//! metadata and the index lie in the pool alone, extents of the volume on its device alone.

use super::Core;
use crate::device::Device;
use crate::format::superblock::Area;
use crate::pool::metadata::Metadata;

/// The device of a linear volume that does not lie in its pool.
#[derive(Clone, Debug)]
pub(crate) struct HomeDevice {
    pub device: Device,
    /// Its segments.
    pub area: Area,
}

impl Core {
    /// The device of a segment, and where a block of it lies there.
    pub(super) fn locate(&self, physical: u32, block: u32) -> (&Device, u64) {
        match (&self.home, physical.checked_sub(self.geometry.segments)) {
            (Some(home), Some(at)) => {
                let of_block = u64::from(block) * u64::from(self.geometry.block_bytes);
                let address =
                    home.area.offset.get() + u64::from(at) * self.geometry.segment_bytes() + of_block;
                (&home.device, address)
            }
            _ => (&self.device, self.geometry.address(physical, block)),
        }
    }

    /// The device that blocks are brought home to.
    pub(super) fn home_device(&self) -> &Device {
        self.home.as_ref().map_or(&self.device, |home| &home.device)
    }

    /// Free segments that the log may take, after `after`.
    pub(super) fn free_for_log(&self, state: &Metadata, after: u32) -> Vec<u32> {
        let mut free = self.contents.free_segments_of(state, after);
        free.retain(|physical| self.home.is_none() || *physical < self.geometry.segments);
        free
    }

    /// Free segments that extents of the volume may take.
    pub(super) fn free_for_home(&self, state: &Metadata) -> Vec<u32> {
        let mut free = self.contents.free_segments_of(state, 0);
        free.retain(|physical| self.home.is_none() || *physical >= self.geometry.segments);
        free
    }
}
