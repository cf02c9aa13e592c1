//! Growing a pool whose device has become larger, while nobody has it open.
//!
//! The segments stay where they are and get more behind them; metadata with room for all of these is written to
//! places where the pool as it is has nothing. Until a superblock names them, nothing has happened.
//!
//! The segments of a volume's own device are numbered behind those of the pool, so that their numbers go up by as many as
//! the pool gets; nothing else knows them, and that device is not written.
//!
//! Invariants: nothing that the present superblock names is written to; damage is refused, not copied.

use super::open::{empty_state, geometry};
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::index_page::{self, PAGE_BYTES};
use crate::format::journal::Change;
use crate::format::superblock::{Area, Superblock};
use crate::pool::journal::Journal;
use crate::pool::layout::{self, Layout};
use crate::pool::metadata::RunInfo;
use crate::runtime::FailureFlag;
use crate::units::ByteOffset;

/// Index pages that are copied with one request.
const COPY_PAGES: u32 = 256;

/// Writes the metadata of the pool as it is going to be on a device of this size. The superblock that makes it so;
/// all that it names is durable.
///
/// # Errors
/// `DeviceTooSmall` where not even one more segment fits, `MetadataDamaged`, `UnknownVersion`, and what the device
/// says.
pub async fn grow(device: &Device, pool: &Superblock) -> Result<Superblock> {
    let device_bytes = device.geometry().size_bytes;
    let layout = Layout::grow_log(pool, device_bytes)?;
    let mut grown = *pool;
    grown.device_bytes = device_bytes.into();
    (grown.roots, grown.metadata, grown.data) = (layout.roots, layout.metadata, layout.data);
    let (from, to) = (layout::metadata_places(pool), layout::metadata_places(&grown));
    let failed = FailureFlag::default();
    let journal = Journal::load(device, pool.pool_id, from.journal, empty_state(pool), failed).await?;
    let mut changes = journal.state().changes();
    if pool.home_bytes.get() > 0 {
        let segments = |of: &Superblock| geometry(of).segments;
        renumber(&mut changes, segments(pool), segments(&grown) - segments(pool));
    }
    let state = empty_state(&grown).with_changes(&changes);
    let Some(state) = state else {
        return Err(Error::new("grow", Reason::MetadataDamaged).on(device.name()));
    };
    for run in &state.runs {
        copy_run(device, run, from.index, to.index).await?;
    }
    // Flushes the pages before the root that names them, and then the root.
    Journal::format(device, pool.pool_id, to.journal, state).await?;
    Ok(grown)
}

/// Segments from `first` on have higher numbers from now on.
fn renumber(changes: &mut [Change], first: u32, more: u32) {
    let renumber = |at: u32| if at >= first { at + more } else { at };
    for change in changes {
        match change {
            Change::Row(row, ..) => row.physical = renumber(row.physical.get()).into(),
            Change::Object(_, runs) => runs.iter_mut().for_each(|(at, _)| *at = renumber(*at)),
            _ => {}
        }
    }
}

/// Copies the pages of a run to the same places of another area.
async fn copy_run(device: &Device, run: &RunInfo, from: Area, to: Area) -> Result<()> {
    let page_bytes = PAGE_BYTES as u64;
    let damaged = |at| Error::new("grow", Reason::MetadataDamaged).on(device.name()).at(at);
    for (first, pages) in &run.extents {
        let end = (u64::from(*first) + u64::from(*pages)) * page_bytes;
        if end > from.bytes.get() {
            return Err(damaged(from.offset.get()));
        }
        for page in (*first..*first + *pages).step_by(COPY_PAGES as usize) {
            let count = COPY_PAGES.min(*first + *pages - page);
            let at = |area: Area| area.offset.get() + u64::from(page) * page_bytes;
            let buf = device.context().buffers().reserved().get(count as usize * PAGE_BYTES)?;
            let (result, mut buf) = device.read(ByteOffset(at(from)), buf, Io::of(Cause::Index)).await;
            result?;
            for (index, bytes) in (0..).zip(buf.chunks_exact_mut(PAGE_BYTES)) {
                let skip = index * page_bytes;
                if !index_page::readdress(bytes, run.run.run.get(), at(from) + skip, at(to) + skip) {
                    return Err(damaged(at(from) + skip));
                }
            }
            device.write(ByteOffset(at(to)), buf, Io::of(Cause::Index)).await.0?;
        }
    }
    Ok(())
}
