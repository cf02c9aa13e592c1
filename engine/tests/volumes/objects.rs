//! The linear objects of a pool, and where a block lies in them: read from the disk with the format's own decoders.

use icecore::device::simulated::SimulatedDisk;
use icecore::format::journal::Change;

use crate::on_disk::{changes, superblock};

/// An object, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub first: u32,
    pub snapshot: u64,
    /// Its segments, in the order of the volume's blocks.
    pub segments: Vec<u32>,
}

impl Object {
    /// Where a block of the volume lies in it.
    pub fn place(&self, disk: &SimulatedDisk, lba: u64) -> u64 {
        let found = superblock(disk);
        let block_bytes = u64::from(found.block_bytes.get());
        let segment_bytes = u64::from(found.segment_bytes.get());
        let (extent, within) = (lba * block_bytes / segment_bytes, lba * block_bytes % segment_bytes);
        found.data.offset.get() + u64::from(self.segments[extent as usize]) * segment_bytes + within
    }
}

/// The objects there are, oldest first.
pub fn objects(disk: &SimulatedDisk) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for change in changes(disk) {
        if let Change::Object(body, runs) = change {
            let first = body.first.get();
            objects.retain(|object| object.first != first);
            let segments = runs.iter().flat_map(|(first, count)| *first..first + count).collect();
            objects.push(Object { first, snapshot: body.snapshot.get(), segments });
            objects.retain(|object| !object.segments.is_empty());
        }
    }
    objects
}
