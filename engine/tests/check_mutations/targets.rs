//! Every record on a device, found by reading it with the format's own decoders, and how each is sealed.

use std::collections::{BTreeMap, BTreeSet};

use icecore::format::batch::{self, KIND_DATA, KIND_PLACED, KIND_ROLLBACK, KIND_SAVED, KIND_SAVED_IN_PLACE};
use icecore::format::crc32c;
use icecore::format::index_page::{BASE, IndexDeath, IndexEntry, IndexFence, Item, PAGE_BYTES, ZERO};
use icecore::format::journal::{self, Change, RecordHeader};
use icecore::format::root::{self, Root};
use icecore::format::superblock::{COPY_OFFSETS, Decoded, Superblock};

use crate::volumes::Made;

/// How the record that a field lies in is sealed.
#[derive(Clone, Copy, Debug)]
pub enum Seal {
    /// CRC-32C of this many bytes from here, at byte 12.
    Fixed(u64, usize),
    /// As many bytes as 8 bytes at this offset say, or so many where that cannot be.
    Record(u64, usize),
    /// As many bytes as 4 bytes at this offset say, or so many.
    Batch(u64, usize),
    /// The image at this place with so many bytes, whose checksum is in the root at that place.
    Image(u64, usize, u64),
    /// Both copies of the superblock.
    Superblocks,
}

/// A record: which table it has, where it lies, how it is sealed.
#[derive(Clone, Debug)]
pub struct Target {
    /// As in the document's list.
    pub record: String,
    /// The table of its fields; or one field of these bytes.
    pub fields: Fields,
    pub at: u64,
    pub seal: Seal,
}

impl Target {
    /// Whether it is a superblock or part of one.
    pub fn is_superblock(&self) -> bool {
        matches!(self.fields, Fields::Table("Superblock" | "RoleEntry"))
    }
}

#[derive(Clone, Debug)]
pub enum Fields {
    Table(&'static str),
    One(&'static str, usize),
}

pub fn reseal(bytes: &mut [u8], seal: Seal) {
    let put = |bytes: &mut [u8], at: usize, length: usize| {
        bytes[at + 12..at + 16].fill(0);
        let sum = crc32c(&[&bytes[at..at + length]]);
        bytes[at + 12..at + 16].copy_from_slice(&sum.to_le_bytes());
    };
    match seal {
        Seal::Fixed(at, length) => put(bytes, at as usize, length),
        Seal::Record(at, length) => {
            let at = at as usize;
            let said = u64::from_le_bytes(bytes[at + 40..at + 48].try_into().unwrap());
            put(bytes, at, if (64..65536).contains(&said) { said as usize } else { length });
        }
        Seal::Batch(at, length) => {
            let at = at as usize;
            let said = u32::from_le_bytes(bytes[at + 84..at + 88].try_into().unwrap()) as usize;
            put(bytes, at, if (128..65536).contains(&said) { said } else { length });
        }
        Seal::Image(at, length, root) => {
            let sum = crc32c(&[&bytes[at as usize..][..length]]);
            bytes[root as usize + 64..root as usize + 68].copy_from_slice(&sum.to_le_bytes());
            put(bytes, root as usize, 4096);
        }
        Seal::Superblocks => COPY_OFFSETS.iter().for_each(|at| put(bytes, *at as usize, 4096)),
    }
}

/// The first number of a row that is an extent of a linear volume.
const HOME_FIRST: u32 = 1 << 31;

struct Listing {
    targets: Vec<Target>,
    /// What each change was, where it began, how it is sealed.
    changes: Vec<(Change, u64, Seal)>,
}

impl Listing {
    fn add(&mut self, record: impl Into<String>, table: &'static str, at: u64, seal: Seal) {
        self.targets.push(Target { record: record.into(), fields: Fields::Table(table), at, seal });
    }

    fn one(&mut self, record: &str, name: &'static str, at: u64, bytes: usize, seal: Seal) {
        self.targets.push(Target { record: record.into(), fields: Fields::One(name, bytes), at, seal });
    }

    fn list(&mut self, mut list: &[u8], mut at: u64, seal: Seal) {
        while !list.is_empty() {
            let length = u32::from_le_bytes(list[4..8].try_into().unwrap()) as usize;
            let end = (8 + length).next_multiple_of(8);
            let change = Change::decode_list(&list[..end]).unwrap().remove(0);
            self.changes.push((change, at, seal));
            (list, at) = (&list[end..], at + end as u64);
        }
    }
}

/// All records of a `direct` volume.
pub fn of_superblocks() -> Vec<Target> {
    let mut listing = Listing { targets: Vec::new(), changes: Vec::new() };
    for at in COPY_OFFSETS {
        let seal = Seal::Fixed(at, 4096);
        listing.add("Superblock", "Superblock", at, seal);
        listing.add("RoleEntry", "RoleEntry", at + 512, seal);
        listing.add("RoleEntry", "RoleEntry", at + 544, seal);
    }
    listing.targets
}

/// All records of a volume with a log.
pub fn of_log(made: &Made, bytes: &[u8]) -> Vec<Target> {
    let mut listing = Listing { targets: of_superblocks(), changes: Vec::new() };
    let Decoded::Valid(superblock) = Superblock::decode(bytes[..4096].try_into().unwrap(), 0) else {
        panic!("{} has a superblock", made.name)
    };
    let roots: Vec<Root> = [64 << 10, 128 << 10]
        .into_iter()
        .filter_map(|at: usize| match Root::decode(bytes[at..at + 4096].try_into().unwrap(), at as u64) {
            root::Decoded::Valid(root) => Some(root),
            _ => None,
        })
        .collect();
    let newest = *roots.iter().max_by_key(|root| root.generation.get()).unwrap();
    for root in &roots {
        let name = if root.generation == newest.generation { "Root" } else { "Root, the older one" };
        listing.add(name, "Root", root.address.get(), Seal::Fixed(root.address.get(), 4096));
    }
    let (image, length) = (newest.image_address.get(), newest.image_bytes.get() as usize);
    listing.list(&bytes[image as usize..][..length], image, Seal::Image(image, length, newest.address.get()));
    let mut records = Vec::new();
    let mut at = newest.journal_address.get();
    loop {
        let (generation, number) = (newest.generation.get(), records.len() as u64);
        let found = RecordHeader::decode(&bytes[at as usize..], at, generation, number, &superblock.pool_id);
        let (journal::Decoded::Valid(_), taken) = found else { break };
        let length = u64::from_le_bytes(bytes[at as usize + 40..][..8].try_into().unwrap()) as usize;
        let seal = Seal::Record(at, length);
        listing.list(&bytes[at as usize + 64..at as usize + length], at + 64, seal);
        records.push((at, seal));
        at += taken;
    }
    for (index, (at, seal)) in records.iter().enumerate() {
        let name =
            if index + 1 == records.len() { "RecordHeader, of the last record" } else { "RecordHeader" };
        // Those in the middle are alike.
        if index < 3 || index + 3 > records.len() {
            listing.add(name, "RecordHeader", *at, *seal);
        }
    }
    let mut state = Final::of(&listing.changes);
    state.note_tail(bytes, superblock.block_bytes.get());
    add_changes(&mut listing, &state);
    add_pages(&mut listing, &state, bytes, &superblock);
    add_batches(&mut listing, &state, bytes, &superblock);
    listing.targets
}

/// A run, its extents, and where the change that names it began.
type Named = (journal::Run, Vec<(u32, u32)>, u64);

/// What is left of the changes at the end.
#[derive(Default)]
struct Final {
    leases: Vec<(u32, u32)>,
    rows: BTreeMap<u32, (u64, bool, Vec<u64>)>,
    runs: BTreeMap<u64, Named>,
    checkpoint: (journal::Checkpoint, u64),
    openings: Vec<(journal::Opening, u64)>,
    watermark: u64,
    window: (u64, u64),
    applied: u64,
    accepted: u64,
    /// By where they stand: the moments, and where the change begins that tells of them.
    rollbacks: BTreeMap<u64, (u64, u64)>,
    /// Where the change begins that tells of each snapshot last.
    snapshots: BTreeMap<u64, u64>,
    /// And of each object.
    objects: BTreeMap<u32, u64>,
}

impl Final {
    fn of(changes: &[(Change, u64, Seal)]) -> Self {
        let mut state = Self::default();
        for (change, at, _) in changes {
            match change {
                Change::Opening(opening) => state.openings.push((*opening, *at)),
                Change::Lease(lease) => {
                    state.leases.push((lease.physical.get(), lease.virtual_segment.get()));
                    state.rows.insert(lease.virtual_segment.get(), (*at, true, Vec::new()));
                }
                Change::Checkpoint(checkpoint) => {
                    state.leases.drain(..checkpoint.released.get() as usize);
                    state.checkpoint = (*checkpoint, *at);
                }
                Change::Row(row, live, _) => {
                    let row_state = (*at, row.identity.get() == 1, live.clone());
                    state.rows.insert(row.virtual_segment.get(), row_state);
                }
                Change::RowRemoved(number) => drop(state.rows.remove(number)),
                Change::Dead(number, slots) => {
                    let row = state.rows.get_mut(number).unwrap();
                    slots.iter().for_each(|slot| row.2[*slot as usize / 64] &= !(1 << (slot % 64)));
                }
                Change::Run(run, extents) => {
                    state.runs.insert(run.run.get(), (*run, extents.clone(), *at));
                }
                Change::RunRemoved(run) => drop(state.runs.remove(run)),
                Change::Watermark(_) => state.watermark = *at,
                Change::Window(sequence) => state.window = (state.window.0.max(*sequence), *at),
                Change::Applied(_) => state.applied = *at,
                Change::Accepted(_) => state.accepted = *at,
                Change::Rollback(body) => {
                    state.rollbacks.insert(body.at.get(), (body.to.get(), *at));
                }
                Change::Snapshot(body, ..) => drop(state.snapshots.insert(body.number.get(), *at)),
                Change::SnapshotRemoved(number) => drop(state.snapshots.remove(number)),
                Change::Object(body, runs) => {
                    state.objects.remove(&body.first.get());
                    if !runs.is_empty() {
                        state.objects.insert(body.first.get(), *at);
                    }
                }
                Change::SnapshotLock(_)
                | Change::Branch(..)
                | Change::Volume(..)
                | Change::BranchRemoved(_) => {}
            }
        }
        state
    }

    /// Notes the return that the log's tail begins with, if it does.
    fn note_tail(&mut self, bytes: &[u8], block_bytes: u32) {
        let address = self.checkpoint.0.address.get();
        let batch::Decoded::Valid(batch) = batch::decode(&bytes[address as usize..], address, block_bytes)
        else {
            return;
        };
        let first = batch.entries[0];
        if first.kind.get() == KIND_ROLLBACK {
            self.rollbacks.insert(batch.header.first_sequence.get(), (first.tag.get(), 0));
        }
    }

    /// Whether a return has taken a death back.
    fn revives(&self, birth: u64, death: u64) -> bool {
        self.rollbacks.iter().any(|(at, (to, _))| birth <= *to && *to < death && death < *at)
    }

    fn lives(&self, number: u32, slot: u32) -> bool {
        let row = self.rows.get(&number);
        row.is_some_and(|row| row.2.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1))
    }
}

fn add_changes(listing: &mut Listing, state: &Final) {
    let ahead: BTreeSet<u32> = state.leases.iter().skip(1).map(|lease| lease.1).collect();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (change, at, seal) in listing.changes.clone() {
        let body = at + 8;
        let is_image = matches!(seal, Seal::Image(..));
        let named =
            |name: &str, stays: bool| if stays { name.to_string() } else { format!("{name}, replaced") };
        let name = match &change {
            Change::Opening(_) => named("Opening", state.openings.last().is_some_and(|last| last.1 == at)),
            Change::Lease(lease) if ahead.contains(&lease.virtual_segment.get()) => {
                "Lease, further on".into()
            }
            Change::Lease(lease) => {
                named("Lease", state.leases.iter().any(|own| own.1 == lease.virtual_segment.get()))
            }
            Change::Checkpoint(_) => named("Checkpoint", state.checkpoint.1 == at),
            Change::Row(row, ..) => {
                let name = match row.identity.get() {
                    2 => "Row of an object",
                    _ if row.virtual_segment.get() >= HOME_FIRST => "Row of an extent",
                    _ => "Row",
                };
                named(name, state.rows.get(&row.virtual_segment.get()).is_some_and(|own| own.0 == at))
            }
            Change::Run(run, _) => {
                named("Run", state.runs.get(&run.run.get()).is_some_and(|own| own.2 == at))
            }
            Change::Watermark(_) => named("watermark", state.watermark == at),
            Change::Window(_) => named("window", state.window.1 == at),
            Change::RowRemoved(_) => "row removed".into(),
            Change::RunRemoved(_) => "run removed".into(),
            Change::Dead(..) => "Dead".into(),
            Change::Applied(_) => named("Applied", state.applied == at),
            Change::Accepted(_) => named("accepted", state.accepted == at),
            Change::Rollback(body) => {
                let passed = body.at.get() <= state.window.0;
                let name = if passed { "Rollback, before the window" } else { "Rollback" };
                named(name, state.rollbacks[&body.at.get()].1 == at)
            }
            Change::Snapshot(body, ..) => {
                named("Snapshot", state.snapshots.get(&body.number.get()) == Some(&at))
            }
            Change::SnapshotRemoved(_) => "snapshot removed".into(),
            Change::SnapshotLock(_) => "SnapshotLock".into(),
            Change::Branch(..) => "Branch".into(),
            Change::Volume(..) => "Volume".into(),
            Change::BranchRemoved(_) => "branch removed".into(),
            Change::Object(_, runs) if runs.is_empty() => "Object, given back".into(),
            Change::Object(body, _) => named("Object", state.objects.get(&body.first.get()) == Some(&at)),
        };
        // A few of each, and all that matter most.
        let count = seen.entry(format!("{name} {is_image}")).or_default();
        *count += 1;
        let kept = if name.contains("replaced") || name == "row removed" { 5 } else { 24 };
        if *count > kept {
            continue;
        }
        listing.add("ChangeHeader", "ChangeHeader", at, seal);
        match &change {
            Change::Opening(_) => listing.add(name, "Opening", body, seal),
            Change::Lease(_) => listing.add(name, "Lease", body, seal),
            Change::Checkpoint(_) => listing.add(name, "Checkpoint", body, seal),
            Change::Row(_, live, present) => {
                listing.add(name.clone(), "Row", body, seal);
                listing.one(&name, "live", body + 32, live.len() * 8, seal);
                if !present.is_empty() {
                    let second = if name.contains("object") { "used" } else { "present" };
                    listing.one(&name, second, body + 32 + 8 * live.len() as u64, present.len() * 8, seal);
                }
            }
            Change::Dead(_, slots) => {
                listing.add(name.clone(), "Dead", body, seal);
                for slot in 0..slots.len().min(3) {
                    listing.one(&name, "slot", body + 8 + 2 * slot as u64, 2, seal);
                }
            }
            Change::Run(_, extents) => {
                listing.add(name.clone(), "Run", body, seal);
                for extent in 0..extents.len() {
                    listing.one(&name, "first page", body + 48 + 8 * extent as u64, 4, seal);
                    listing.one(&name, "pages", body + 52 + 8 * extent as u64, 4, seal);
                }
            }
            Change::SnapshotLock(_) => listing.add(name, "SnapshotLock", body, seal),
            Change::Branch(_, called) => {
                listing.add(name.clone(), "Branch", body, seal);
                listing.one(&name, "name", body + 24, called.len(), seal);
            }
            Change::Volume(_, called) => {
                listing.add(name.clone(), "Volume", body, seal);
                listing.one(&name, "name", body + 32, called.len(), seal);
            }
            Change::BranchRemoved(_) => listing.one(&name, "number", body, 4, seal),
            Change::Object(_, runs) => {
                listing.add(name.clone(), "Object", body, seal);
                for run in 0..runs.len() {
                    listing.one(&name, "first segment", body + 24 + 8 * run as u64, 4, seal);
                    listing.one(&name, "segments", body + 28 + 8 * run as u64, 4, seal);
                }
            }
            Change::RowRemoved(_) => listing.one(&name, "number", body, 4, seal),
            Change::RunRemoved(_) => listing.one(&name, "number", body, 8, seal),
            Change::Watermark(_) | Change::Window(_) | Change::Accepted(_) => {
                listing.one(&name, "sequence", body, 8, seal);
            }
            Change::Applied(_) => listing.add(name, "Applied", body, seal),
            Change::Rollback(_) => listing.add(name, "Rollback", body, seal),
            Change::Snapshot(_, called, group) => {
                listing.add(name.clone(), "Snapshot", body, seal);
                listing.one(&name, "name", body + 32, called.len(), seal);
                if group.is_some() {
                    listing.add("SnapshotGroup", "SnapshotGroup", body + 32 + called.len() as u64, seal);
                }
            }
            Change::SnapshotRemoved(_) => listing.one(&name, "number", body, 8, seal),
        }
    }
}

/// The first, the last and a few other items of a page.
fn some(count: u64) -> impl Iterator<Item = u64> {
    let step = (count / 10).max(1);
    (0..count).filter(move |at| at.is_multiple_of(step) || *at == 1 || *at == count - 1)
}

fn add_pages(listing: &mut Listing, state: &Final, bytes: &[u8], superblock: &Superblock) {
    let segments = superblock.data.bytes.get() / u64::from(superblock.segment_bytes.get());
    let blocks = u64::from(superblock.segment_bytes.get() / superblock.block_bytes.get());
    let image = (segments * (64 + 2 * blocks.div_ceil(64) * 8) + 65536).next_multiple_of(65536);
    let index = superblock.metadata.offset.get() + 6 * image;
    // A slot at home holds one version after the other: the newest sequence of each.
    let mut at_home: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for (run, extents, _) in state.runs.values() {
        let pages = extents.iter().flat_map(|(first, pages)| *first..first + pages).enumerate();
        for (number, page) in pages {
            let at = index + u64::from(page) * PAGE_BYTES as u64;
            let page = &bytes[at as usize..][..PAGE_BYTES];
            let run = run.run.get();
            let found = icecore::format::index_page::decode::<IndexEntry>(page, run, number as u32, at);
            for entry in found.into_iter().flatten() {
                let newest = at_home.entry((entry.virtual_segment.get(), entry.slot.get())).or_default();
                *newest = entry.sequence.get().max(*newest);
            }
        }
    }
    for (run, extents, _) in state.runs.values() {
        let pages = extents.iter().flat_map(|(first, pages)| *first..first + pages);
        for page in pages {
            let at = index + u64::from(page) * PAGE_BYTES as u64;
            let seal = Seal::Fixed(at, PAGE_BYTES);
            let word =
                |offset: usize| u32::from_le_bytes(bytes[at as usize + offset..][..4].try_into().unwrap());
            let number = run.run.get();
            let (kind, count, index) = (word(36), u64::from(word(40)), word(32));
            listing.add("PageHeader", "PageHeader", at, seal);
            let page = &bytes[at as usize..][..PAGE_BYTES];
            let decode = |page| icecore::format::index_page::decode::<IndexEntry>(page, number, index, at);
            match kind {
                IndexEntry::KIND => {
                    let entries = decode(page).unwrap();
                    for item in some(count) {
                        let entry = &entries[item as usize];
                        let (segment, slot) = (entry.virtual_segment.get(), entry.slot.get());
                        let name = if segment == ZERO && state.revives(0, entry.sequence.get()) {
                            "IndexEntry, of discarded zeroes"
                        } else if segment == ZERO {
                            "IndexEntry, of zeroes"
                        } else if segment == BASE {
                            "IndexEntry, in the base"
                        } else if !state.lives(segment, slot)
                            || at_home[&(segment, slot)] > entry.sequence.get()
                        {
                            "IndexEntry, of a dead block"
                        } else if segment >= HOME_FIRST && !state.objects.is_empty() {
                            "IndexEntry, in an object"
                        } else if segment >= HOME_FIRST {
                            "IndexEntry, at home"
                        } else if state.rows[&segment].1 {
                            "IndexEntry"
                        } else {
                            "IndexEntry, of a moved block"
                        };
                        listing.add(name, "IndexEntry", at + 64 + 32 * item, seal);
                    }
                }
                IndexDeath::KIND => {
                    for item in some(count) {
                        let death = at + 64 + 24 * item;
                        let word = |at| u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap());
                        let (birth, sequence) = (word(death), word(death + 8));
                        let name = if sequence <= state.window.0 {
                            "IndexDeath, before the window"
                        } else if state.revives(birth, sequence) {
                            "IndexDeath, taken back"
                        } else {
                            "IndexDeath"
                        };
                        listing.add(name, "IndexDeath", death, seal);
                    }
                }
                IndexFence::KIND => {
                    some(count)
                        .for_each(|item| listing.add("IndexFence", "IndexFence", at + 64 + 16 * item, seal));
                }
                other => panic!("kind {other}"),
            }
        }
    }
}

fn add_batches(listing: &mut Listing, state: &Final, bytes: &[u8], superblock: &Superblock) {
    let segment_bytes = u64::from(superblock.segment_bytes.get());
    let start = |physical: u32| superblock.data.offset.get() + u64::from(physical) * segment_bytes;
    let block_bytes = superblock.block_bytes.get();
    let mut number = state.checkpoint.0.batch.get();
    let mut at = state.checkpoint.0.address.get();
    let mut leases = state.leases.iter().skip(1);
    let mut batches = Vec::new();
    loop {
        let found = bytes.get(at as usize..).map(|rest| batch::decode(rest, at, block_bytes));
        match found {
            Some(batch::Decoded::Valid(batch)) if batch.header.batch.get() == number => {
                (at, number) = (at + batch.header.total_bytes(), number + 1);
                batches.push(batch);
            }
            _ => match leases.next() {
                Some(next) => at = start(next.0),
                None => break,
            },
        }
    }
    for (index, batch) in batches.iter().enumerate() {
        let last = if index + 1 == batches.len() { ", of the last batch" } else { "" };
        let at = batch.header.address.get();
        let seal = Seal::Batch(at, batch.header.header_bytes.get() as usize);
        listing.add(format!("BatchHeader{last}"), "BatchHeader", at, seal);
        for (entry, which) in batch.entries.iter().zip(0..) {
            let what = match entry.kind.get() {
                KIND_DATA => "data",
                KIND_SAVED => "saved",
                KIND_PLACED => "placed",
                KIND_SAVED_IN_PLACE => "saved in place",
                _ => "zeroes",
            };
            let name = match last.is_empty() {
                _ if entry.kind.get() == KIND_ROLLBACK => "BatchEntry, rollback".into(),
                true if what.contains("saved") || what == "placed" => format!("BatchEntry, {what}"),
                true => "BatchEntry".into(),
                false => format!("BatchEntry, {what}{last}"),
            };
            listing.add(name, "BatchEntry", at + 128 + 32 * which, seal);
        }
        let sums = at + 128 + 32 * batch.entries.len() as u64;
        for which in 0..batch.checksums.len().min(2) as u64 {
            listing.one(&format!("BatchHeader{last}"), "checksum of a block", sums + 4 * which, 4, seal);
        }
    }
}
