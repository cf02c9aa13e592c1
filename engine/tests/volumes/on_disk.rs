//! What a pool's disk says of itself, read with the format's own decoders: superblock, newest root, records of the journal.

use icecore::device::simulated::SimulatedDisk;
use icecore::format::journal::{Change, records_of};
use icecore::format::root::{Decoded as FoundRoot, ROOT_BYTES, Root};
use icecore::format::superblock::{Decoded as Found, SUPERBLOCK_BYTES, Superblock};

pub fn superblock(disk: &SimulatedDisk) -> Superblock {
    let bytes: [u8; SUPERBLOCK_BYTES] = disk.peek(0, SUPERBLOCK_BYTES).try_into().unwrap();
    let Found::Valid(found) = Superblock::decode(&bytes, 0) else { panic!("there is no superblock") };
    found
}

pub fn root(disk: &SimulatedDisk) -> Root {
    let roots = superblock(disk).roots;
    let places = [0, roots.bytes.get() / 2].map(|at| roots.offset.get() + at);
    let valid = places.into_iter().filter_map(|at| {
        match Root::decode(disk.peek(at, ROOT_BYTES).first_chunk().unwrap(), at) {
            FoundRoot::Valid(root) => Some(root),
            _ => None,
        }
    });
    valid.max_by_key(|root| root.generation.get()).expect("there is a root")
}

/// The records of the newest journal: where each is, and what it says.
pub fn records(disk: &SimulatedDisk) -> Vec<(u64, Vec<Change>)> {
    let (root, pool_id) = (root(disk), superblock(disk).pool_id);
    let address = root.journal_address.get();
    let bytes = disk.peek(address, root.journal_bytes.get() as usize);
    records_of(&bytes, address, root.generation.get(), &pool_id)
}

/// Everything that the newest root, image and journal say.
pub fn changes(disk: &SimulatedDisk) -> Vec<Change> {
    let root = root(disk);
    let image = disk.peek(root.image_address.get(), root.image_bytes.get() as usize);
    let mut changes = Change::decode_list(&image).expect("the image is whole");
    changes.extend(records(disk).into_iter().flat_map(|(_, record)| record));
    changes
}
