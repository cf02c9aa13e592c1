//! The linear objects of a pool, and where a block lies in them: read from the disk with the format's own decoders.

use icecore::device::simulated::SimulatedDisk;
use icecore::format::journal::{Change, Decoded as Record, RecordHeader};
use icecore::format::root::{Decoded as FoundRoot, Root};
use icecore::format::superblock::{Decoded as Found, SUPERBLOCK_BYTES, Superblock};

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

pub fn superblock(disk: &SimulatedDisk) -> Superblock {
    let bytes: [u8; SUPERBLOCK_BYTES] = disk.peek(0, SUPERBLOCK_BYTES).try_into().unwrap();
    let Found::Valid(found) = Superblock::decode(&bytes, 0) else { panic!("there is no superblock") };
    found
}

/// Everything that the newest root, image and journal say.
pub fn changes(disk: &SimulatedDisk) -> Vec<Change> {
    let found = superblock(disk);
    let places = [0, 64 << 10].map(|at| found.roots.offset.get() + at);
    let root = places.into_iter().filter_map(|at| {
        let bytes = disk.peek(at, 4096).try_into().unwrap();
        match Root::decode(&bytes, at) {
            FoundRoot::Valid(root) => Some(root),
            _ => None,
        }
    });
    let root = root.max_by_key(|root| root.generation.get()).expect("there is a root");
    let image = disk.peek(root.image_address.get(), root.image_bytes.get() as usize);
    let mut changes = Change::decode_list(&image).expect("the image is whole");
    let records = disk.peek(root.journal_address.get(), root.journal_bytes.get() as usize);
    let (mut used, mut number) = (0, 0);
    while let (Record::Valid(more), bytes) = RecordHeader::decode(
        &records[used as usize..],
        root.journal_address.get() + used,
        root.generation.get(),
        number,
        &found.pool_id,
    ) {
        changes.extend(more);
        (used, number) = (used + bytes, number + 1);
    }
    changes
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
