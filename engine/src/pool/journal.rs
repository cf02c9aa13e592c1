//! The metadata journal on the device: loading the state, and committing changes to it.
//!
//! Generation g of the root names an image and a journal area, both chosen by the parity of g. A commit appends
//! one record; when it does not fit any more, the whole state goes into the other image area and the next root
//! names that. Order of a commit: everything written before is flushed; the record is written; it is flushed. So
//! a record is durable only after all that it names, and takes effect whole or not at all.
//!
//! Invariants: commits are made one at a time; the state in memory changes only after the commit is durable; a
//! commit that fails poisons the volume, because nobody knows whether it took effect.

use std::cell::{Cell, Ref, RefCell, RefMut};

use super::metadata::Metadata;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Kind, Reason, Result};
use crate::format::crc32c;
use crate::format::journal::{Change, Decoded, RECORD_ALIGNMENT_BYTES, RecordHeader};
use crate::format::root::{self, ROOT_BYTES, Root};
use crate::format::superblock::Area;
use crate::runtime::{FailureFlag, RangeLock};
use crate::units::ByteOffset;

/// The pieces in which images and journals are read and written.
const PIECE_BYTES: u64 = 1 << 20;

/// Where the parts of the metadata lie.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The two roots.
    pub roots: [u64; 2],
    /// The two images.
    pub images: [Area; 2],
    /// The two journals.
    pub journals: [Area; 2],
}

/// The journal of an open pool.
#[derive(Debug)]
pub struct Journal {
    device: Device,
    pool_id: [u8; 16],
    places: Places,
    generation: Cell<u64>,
    number: Cell<u64>,
    /// Bytes of the journal area in use.
    used_bytes: Cell<u64>,
    state: RefCell<Metadata>,
    /// Address and bytes of the record that was read last.
    last: (u64, u64),
    turn: RangeLock,
    failed: FailureFlag,
}

fn damaged(device: &Device, at: u64) -> Error {
    Error::new("read metadata", Reason::MetadataDamaged).on(device.name()).at(at)
}

async fn read_area(device: &Device, address: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity(bytes as usize);
    let block_bytes = u64::from(device.geometry().logical_block_bytes);
    while (all.len() as u64) < bytes {
        let at = address + all.len() as u64;
        let length = (bytes - all.len() as u64).min(PIECE_BYTES);
        let buf = device.context().buffers().reserved().get(length.next_multiple_of(block_bytes) as usize)?;
        let (result, buf) = device.read(ByteOffset(at), buf, Io::of(Cause::Metadata)).await;
        result?;
        all.extend_from_slice(&buf[..length as usize]);
    }
    Ok(all)
}

async fn write_area(device: &Device, address: u64, bytes: &[u8]) -> Result<()> {
    let block_bytes = device.geometry().logical_block_bytes as usize;
    for (index, piece) in bytes.chunks(PIECE_BYTES as usize).enumerate() {
        let mut buf =
            device.context().buffers().reserved().zeroed(piece.len().next_multiple_of(block_bytes))?;
        buf[..piece.len()].copy_from_slice(piece);
        let at = ByteOffset(address + index as u64 * PIECE_BYTES);
        device.write(at, buf, Io::of(Cause::Metadata)).await.0?;
    }
    Ok(())
}

impl Journal {
    /// Writes the first root, with this state.
    ///
    /// # Errors
    /// What the device says.
    pub async fn format(device: &Device, pool_id: [u8; 16], places: Places, state: Metadata) -> Result<()> {
        // An old root of the other place must not win over the new one.
        let block = device.context().buffers().reserved().zeroed(ROOT_BYTES)?;
        device.write(ByteOffset(places.roots[0]), block, Io::of(Cause::Metadata)).await.0?;
        let journal = Self {
            device: device.clone(),
            pool_id,
            places,
            generation: Cell::new(0),
            number: Cell::new(0),
            used_bytes: Cell::new(0),
            state: RefCell::new(Metadata::default()),
            last: (0, 0),
            turn: RangeLock::default(),
            failed: FailureFlag::default(),
        };
        journal.write_root(&state).await
    }

    /// The journal and the state of a pool, as the device has them. Writes nothing.
    ///
    /// # Errors
    /// `MetadataDamaged` where no root or image is whole, `UnknownVersion`, and what the device says.
    pub async fn load(
        device: &Device,
        pool_id: [u8; 16],
        places: Places,
        empty: Metadata,
        failed: FailureFlag,
    ) -> Result<Self> {
        let root = newest_root(device, &pool_id, &places).await?;
        let generation = root.generation.get();
        let (image, area) = places.of(generation);
        let sound = root.image_address.get() == image.offset.get()
            && root.image_bytes.get() <= image.bytes.get()
            && root.journal_address.get() == area.offset.get()
            && root.journal_bytes.get() == area.bytes.get();
        if !sound {
            return Err(damaged(device, root.address.get()));
        }
        let bytes = read_area(device, image.offset.get(), root.image_bytes.get()).await?;
        let state = (crc32c(&[&bytes]) == root.image_checksum.get())
            .then(|| Change::decode_list(&bytes))
            .flatten()
            .and_then(|changes| empty.with_changes(&changes));
        let Some(mut state) = state else { return Err(damaged(device, image.offset.get())) };
        // A piece of the area, and where in it that begins.
        let (mut held, mut held_at) = (Vec::new(), 0);
        let (mut used_bytes, mut number) = (0, 0);
        let mut last = (root.address.get(), ROOT_BYTES as u64);
        loop {
            let at = area.offset.get() + used_bytes;
            let left_bytes = area.bytes.get() - used_bytes;
            // Once for the header, once more for a record that is longer than a piece.
            for _ in 0..2 {
                let here = &held[(used_bytes - held_at) as usize..];
                let length = RecordHeader::length(here).filter(|length| *length <= left_bytes).unwrap_or(1);
                let wanted_bytes = length.next_multiple_of(RECORD_ALIGNMENT_BYTES as u64).min(left_bytes);
                if here.len() as u64 >= wanted_bytes {
                    break;
                }
                let piece_bytes = wanted_bytes.max(PIECE_BYTES).min(left_bytes);
                (held, held_at) = (read_area(device, at, piece_bytes).await?, used_bytes);
            }
            let rest = &held[(used_bytes - held_at) as usize..];
            match RecordHeader::decode(rest, at, generation, number, &pool_id) {
                (Decoded::Absent, _) => break,
                (Decoded::UnknownVersion(found), _) => {
                    let known = crate::format::journal::VERSION;
                    return Err(Error::new("open", Reason::UnknownVersion { found, known }).on(device.name()));
                }
                (Decoded::Valid(changes), bytes) => {
                    if changes.iter().try_for_each(|change| state.apply(change)).is_none() {
                        return Err(damaged(device, at));
                    }
                    last = (at, bytes);
                    used_bytes += bytes;
                    number += 1;
                }
            }
        }
        Ok(Self {
            device: device.clone(),
            pool_id,
            places,
            generation: Cell::new(generation),
            number: Cell::new(number),
            used_bytes: Cell::new(used_bytes),
            state: RefCell::new(state),
            last,
            turn: RangeLock::default(),
            failed,
        })
    }

    /// Writes the record that was read last again, in its place. After a flush that failed it can still be read,
    /// and no later flush saves it; what was believed must not vanish later.
    ///
    /// # Errors
    /// What the device says.
    pub async fn secure(&self) -> Result<()> {
        let (at, bytes) = self.last;
        let record = read_area(&self.device, at, bytes).await?;
        write_area(&self.device, at, &record).await
    }

    /// The state as of the last commit.
    pub fn state(&self) -> Ref<'_, Metadata> {
        self.state.borrow()
    }

    /// The state, for what the journal learns at the next checkpoint: the live slots of segments.
    pub fn state_mut(&self) -> RefMut<'_, Metadata> {
        self.state.borrow_mut()
    }

    /// Makes changes durable and then takes them into the state. `prepare` names them when the commit's turn has
    /// come, looking at the state as it is then.
    ///
    /// # Errors
    /// `MetadataFull` where the state does not fit its area; what the device says. All poison the volume.
    pub async fn commit(&self, prepare: impl FnOnce(&mut Metadata) -> Vec<Change>) -> Result<()> {
        let _turn = self.turn.lock(0, 1).await;
        // A commit that failed may have taken effect; another one would write over what its root names.
        self.refuse_if_failed()?;
        let changes = prepare(&mut self.state.borrow_mut());
        let (_, area) = self.places.of(self.generation.get());
        let at = area.offset.get() + self.used_bytes.get();
        let bytes =
            RecordHeader::encode(self.generation.get(), self.number.get(), self.pool_id, at, &changes);
        let done = if self.used_bytes.get() + bytes.len() as u64 <= area.bytes.get() {
            let done = self.append(at, &bytes).await;
            self.used_bytes.set(self.used_bytes.get() + bytes.len() as u64);
            self.number.set(self.number.get() + 1);
            done
        } else {
            let mut next = self.state.borrow().clone();
            let applied = changes.iter().try_for_each(|change| next.apply(change));
            assert!(applied.is_some(), "a change that this process made fits the state");
            self.write_root(&next).await
        };
        if let Err(error) = done {
            self.failed.raise();
            return Err(error);
        }
        let mut state = self.state.borrow_mut();
        changes.iter().for_each(|change| state.apply_own(change));
        Ok(())
    }

    async fn append(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.flush_what_is_named().await?;
        write_area(&self.device, at, bytes).await?;
        self.flush().await
    }

    /// After this, everything that the next record or root names survives.
    async fn flush_what_is_named(&self) -> Result<()> {
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::RootBeforeContents) {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&self) -> Result<()> {
        self.device.flush(Io { failed: Some(self.failed.clone()), ..Io::of(Cause::Metadata) }).await?;
        // Another flush that failed meanwhile may have taken with it what this one was to save.
        self.refuse_if_failed()
    }

    fn refuse_if_failed(&self) -> Result<()> {
        if self.failed.is_raised() {
            return Err(Error::new("write metadata", Reason::Poisoned).on(self.device.name()));
        }
        Ok(())
    }

    async fn write_root(&self, state: &Metadata) -> Result<()> {
        let generation = self.generation.get() + 1;
        let (image, area) = self.places.of(generation);
        let mut bytes = Vec::new();
        state.changes().iter().for_each(|change| change.encode(&mut bytes));
        if bytes.len() as u64 > image.bytes.get() {
            let reason =
                Reason::MetadataFull { needed_bytes: bytes.len() as u64, room_bytes: image.bytes.get() };
            return Err(Error::new("write metadata", reason).on(self.device.name()));
        }
        write_area(&self.device, image.offset.get(), &bytes).await?;
        self.flush_what_is_named().await?;
        let mut root = Root::empty();
        root.generation = generation.into();
        root.pool_id = self.pool_id;
        root.image_address = image.offset;
        root.image_bytes = (bytes.len() as u64).into();
        root.image_checksum = crc32c(&[&bytes]).into();
        root.journal_address = area.offset;
        root.journal_bytes = area.bytes;
        let at = self.places.roots[(generation % 2) as usize];
        write_area(&self.device, at, &root.encode(at)).await?;
        self.flush().await?;
        self.generation.set(generation);
        self.number.set(0);
        self.used_bytes.set(0);
        Ok(())
    }
}

impl Places {
    /// Image and journal of a generation.
    fn of(&self, generation: u64) -> (Area, Area) {
        let parity = (generation % 2) as usize;
        (self.images[parity], self.journals[parity])
    }
}

async fn newest_root(device: &Device, pool_id: &[u8; 16], places: &Places) -> Result<Root> {
    let mut newest: Option<Root> = None;
    let mut unreadable = None;
    for at in places.roots {
        let buf = device.context().buffers().reserved().get(ROOT_BYTES)?;
        let (result, buf) = device.read(ByteOffset(at), buf, Io::of(Cause::Metadata)).await;
        match result {
            Ok(()) => {}
            // The other one may be whole.
            Err(error) if error.kind() == Kind::DeviceFailed => {
                unreadable = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        }
        let Some(bytes) = buf.first_chunk::<ROOT_BYTES>() else { unreachable!("the buffer has that size") };
        match Root::decode(bytes, at) {
            root::Decoded::Absent => {}
            root::Decoded::UnknownVersion(found) => {
                let reason = Reason::UnknownVersion { found, known: root::VERSION };
                return Err(Error::new("open", reason).on(device.name()));
            }
            root::Decoded::Valid(root) if root.pool_id != *pool_id => {}
            root::Decoded::Valid(root) => {
                if newest.is_none_or(|newest| newest.generation < root.generation) {
                    newest = Some(root);
                }
            }
        }
    }
    newest.ok_or_else(|| unreadable.unwrap_or_else(|| damaged(device, places.roots[0])))
}

const _: () = assert!(RECORD_ALIGNMENT_BYTES == 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::SimulatedDisk;
    use crate::runtime::Runtime;

    const POOL: [u8; 16] = [7; 16];

    fn empty() -> Metadata {
        Metadata::new(8, 64)
    }

    fn first_state() -> Metadata {
        let opening = crate::format::journal::Opening { nonce: [0; 16], first_batch: 0.into() };
        let mut state = empty();
        let changes = [Change::Opening(opening), Change::Checkpoint(Default::default())];
        changes.iter().for_each(|change| state.apply(change).unwrap());
        state
    }

    /// Records that begin and end on both sides of where a piece ends, and one that is longer than a piece.
    #[test]
    fn records_of_any_length_are_read_a_piece_at_a_time() {
        let (runtime, calendar) = Runtime::simulated(1).unwrap();
        let disk = SimulatedDisk::new(&calendar, 1, "disk", 32 << 20, 4096);
        let area = |mib: u64, length: u64| Area::new(mib << 20, length << 20);
        let places = Places {
            roots: [0, 64 << 10],
            images: [area(1, 1), area(2, 1)],
            journals: [area(4, 8), area(12, 8)],
        };
        let load = async || {
            let device = disk.open(runtime.context()).unwrap();
            Journal::load(&device, POOL, places, empty(), FailureFlag::default()).await.unwrap()
        };
        runtime.block_on(async {
            let device = disk.open(runtime.context()).unwrap();
            Journal::format(&device, POOL, places, first_state()).await.unwrap();
            drop(device);
            let mut told = 0;
            // Of 16 bytes each: 250 records of a block, then long ones, then short ones again.
            let lengths = [[1; 250].as_slice(), &[30_000, 90_000, 1, 66_000], &[1; 3]].concat();
            for length in lengths {
                let journal = load().await;
                assert_eq!(journal.state().watermark, told, "before a record of {length} changes");
                told += 1;
                journal.commit(|_| vec![Change::Watermark(told); length]).await.unwrap();
                assert_eq!(journal.generation.get(), 1, "all of it lies in one journal");
            }
            assert_eq!(load().await.state().watermark, told);
            assert!(load().await.used_bytes.get() > 3 << 20);
        });
    }
}
