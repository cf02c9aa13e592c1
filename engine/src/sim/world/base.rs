//! The base of a linear volume, by its bytes on the disk: while it is pinned, not one of them changes.
//!
//! Where its extents lie is read from the newest root, image and journal with the format's own decoders.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::World;
use super::shared::TicketCell;
use crate::format::journal::{Change, records_of};
use crate::store::log::ImageOptions;
use crate::units::SECTOR_BYTES;
use crate::volume::Volume;

/// The first number of a row that is an extent.
const HOME_FIRST: u32 = 1 << 31;
/// Writes to a volume whose base is pinned.
const WRITES: u64 = 4;
/// Time in which whoever applied them would have done so.
const WAIT_NS: u64 = 200_000_000;

impl World<'_> {
    /// The bytes of every extent, and where each begins; `None` where the metadata cannot be read.
    fn base(&self) -> Option<BTreeMap<u64, Vec<u8>>> {
        let disk = &self.shared.disk;
        let (superblock, root) = self.newest_root()?;
        let image = disk.peek(root.image_address.get(), root.image_bytes.get() as usize);
        let mut changes = Change::decode_list(&image)?;
        let records = disk.peek(root.journal_address.get(), root.journal_bytes.get() as usize);
        let (address, generation) = (root.journal_address.get(), root.generation.get());
        let records = records_of(&records, address, generation, &superblock.pool_id);
        changes.extend(records.into_iter().flat_map(|(_, record)| record));
        let mut extents = BTreeMap::new();
        for change in changes {
            match change {
                Change::Row(row, ..) if row.virtual_segment.get() >= HOME_FIRST => {
                    extents.insert(row.virtual_segment.get(), row.physical.get());
                }
                Change::RowRemoved(number) => drop(extents.remove(&number)),
                _ => {}
            }
        }
        let segment_bytes = u64::from(superblock.segment_bytes.get());
        let place = |physical: u32| superblock.data.offset.get() + u64::from(physical) * segment_bytes;
        let bytes = |at| (at, disk.peek(at, segment_bytes as usize));
        Some(extents.into_values().map(|physical| bytes(place(physical))).collect())
    }

    /// Pins the base, writes, and sees that it stays as it is until that is accepted.
    pub(super) async fn pin(&mut self) -> Result<(), String> {
        let Some(volume) = self.quiet_volume().await? else { return Ok(()) };
        let shared = Rc::clone(&self.shared);
        let was_striking = shared.faults.striking.replace(false);
        shared.applies.set(shared.applies.get() + 1);
        let pinned = self.pinned_base_stays(&volume).await;
        shared.faults.striking.set(was_striking);
        if volume.status().poisoned {
            // What was armed before may have struck a request in the background since.
            drop(volume);
            self.reopen_poisoned().await?;
            let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
            // It may have been pinned by then.
            let accepted = shared.bounded("accept", volume.accept(None)).await?;
            accepted.map_err(|error| format!("accept fails: {error}"))?;
        }
        pinned
    }

    async fn pinned_base_stays(&mut self, volume: &Volume) -> Result<(), String> {
        let shared = &Rc::clone(&self.shared);
        if shared.judged("apply", volume.apply(None)).await?.is_none()
            || shared.judged("pin", volume.pin_base()).await?.is_none()
        {
            return Ok(());
        }
        let Some(before) = self.base() else { return Err("the base cannot be read".to_string()) };
        // As many extents as the volume says it has, so that a comparison of nothing is no comparison.
        let extents = volume.status().log.and_then(|log| log.apply).map(|apply| apply.extents as usize);
        if extents != Some(before.len()) {
            return Err(format!("{extents:?} extents are told, {} are on the disk", before.len()));
        }
        let pinned_at = volume.info().sequence.0;
        let mark = shared.model.borrow().mark();
        let sectors = self.script.volume_bytes / SECTOR_BYTES;
        let reading = shared.read_everything(volume, sectors);
        let Some(contents) = shared.judged("read", reading).await? else { return Ok(()) };
        shared.model.borrow().check_read(mark, 0, &contents)?;
        // A write whose future was dropped may have ended meanwhile.
        let is_one_moment = volume.info().sequence.0 == pinned_at;
        let count = u64::from(self.script.block_bytes) / SECTOR_BYTES;
        let blocks = self.script.volume_bytes / u64::from(self.script.block_bytes);
        for number in 0..WRITES.min(blocks) {
            shared.write(volume, number * count, count, true, &TicketCell::default()).await;
        }
        // Opening an image makes a checkpoint: from there on it could be applied.
        if shared.judged("open image", volume.image(ImageOptions::default())).await?.is_none() {
            return Ok(());
        }
        shared.context.sleep(WAIT_NS).await;
        // Half of the time nothing of it is to be accepted.
        if is_one_moment
            && self.script.seed.is_multiple_of(2)
            && self.return_to(volume, pinned_at, &contents, false).await?
        {
            shared.note("linear: went back to a pinned base");
        }
        let after: BTreeMap<u64, Vec<u8>> =
            before.iter().map(|(at, bytes)| (*at, shared.disk.peek(*at, bytes.len()))).collect();
        if before != after {
            shared.fail("a pinned base has changed".to_string());
        }
        shared.note("linear: pinned base stayed as it was");
        shared.judged("accept", volume.accept(None)).await?;
        Ok(())
    }
}
