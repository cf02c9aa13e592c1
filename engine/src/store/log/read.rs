//! Reading: the index says where each block lies; neighbours on the device are read with one request.
//!
//! A block whose checksum is wrong is never returned. It may have been overwritten and its place used anew while
//! it was read: then the index says so, and it is read again.

use super::{Core, Image, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::format::crc32c;
use crate::pool::index::current::Version;
use crate::runtime::join_all;
use crate::units::{ByteOffset, lba_of};

/// Stands for the base where a place names a segment; no segment has this number.
const IN_BASE: u32 = u32::MAX;
/// Stands for what a branch began as; no segment has this number either.
const IN_PARENT: u32 = u32::MAX - 1;
/// Stands for an extent of a linear object that is not there any more.
const NOWHERE: u32 = u32::MAX - 2;

impl LogStore {
    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let core = &self.core;
        let (mut buf, first, parent) = (buf, self.address(offset), self.parent.as_deref());
        let blocks = buf.len() / core.geometry.block_bytes as usize;
        let (mut one, mut several) = ([Version::NONE], Vec::new());
        loop {
            let changes = core.placing.changes();
            let found = core.find(first, blocks, &mut one, &mut several).await;
            if let Err(error) = found {
                return (Err(error), buf);
            }
            let versions = if blocks == 1 { &one[..] } else { &several };
            let (result, back) = core.read_versions(first, versions, parent, buf, io.cause).await;
            buf = back;
            match result {
                // Somebody may have written it meanwhile: look again where it lies.
                Err(error) if matches!(error.reason(), Reason::BlockDamaged { .. }) => {
                    match Box::pin(core.has_changed(first, versions)).await {
                        Ok(true) => {}
                        Ok(false) => return (Err(error), buf),
                        Err(error) => return (Err(error), buf),
                    }
                }
                // Nothing tells whether it lay there still.
                Ok(()) if core.may_have_moved(versions, changes) => {}
                Ok(()) => {
                    self.note_read(first, versions);
                    return (Ok(()), buf);
                }
                failed => return (failed, buf),
            }
        }
    }
}

impl Core {
    /// Where these blocks lie now: in `one` for a single block, which is what most reads are, else in `several`.
    async fn find(
        &self,
        first: u64,
        blocks: usize,
        one: &mut [Version; 1],
        several: &mut Vec<Version>,
    ) -> Result<()> {
        let index = self.contents.index();
        if blocks == 1 {
            one[0] = index.current(first).await?;
            return Ok(());
        }
        several.clear();
        several.reserve(blocks);
        for lba in first..first + blocks as u64 {
            several.push(index.current(lba).await?);
        }
        Ok(())
    }

    /// Whether some of these versions, which have no checksum, may have lain elsewhere when they were read.
    pub(super) fn may_have_moved(&self, versions: &[Version], changes: u64) -> bool {
        changes != self.placing.changes() && versions.iter().any(|version| self.is_unverified(version))
    }

    async fn has_changed(&self, first: u64, versions: &[Version]) -> Result<bool> {
        for (lba, version) in (first..).zip(versions) {
            if self.contents.index().current(lba).await? != *version {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The segment and device address of a version of a block; `None` for zeroes.
    fn place(&self, address: u64, version: &Version) -> Option<(u32, u64)> {
        if version.is_zero() {
            return None;
        }
        let lba = lba_of(address);
        if version.is_inherited() {
            return Some((IN_PARENT, lba * u64::from(self.geometry.block_bytes)));
        }
        if let Some(base) = self.base.as_ref().filter(|_| version.is_in_base()) {
            let address = base.place(ByteOffset(lba * u64::from(self.geometry.block_bytes)));
            return Some((IN_BASE, address.0));
        }
        let state = self.contents.journal().state();
        // A version that died and was thrown away, or was given another name, since it was looked up: its checksum will
        // not be found there.
        let row = state.rows.get(&version.virtual_segment);
        let place = row.and_then(|row| row.place(version.slot, self.geometry.segment_blocks));
        if place.is_none() && self.is_unverified(version) {
            return Some((NOWHERE, 0));
        }
        let (physical, block) = place.unwrap_or((0, 0));
        Some((physical, self.locate(physical, block).1))
    }

    /// How many of these versions of the blocks from `lba` on lie behind each other, or are zeroes together.
    fn row_length(&self, lba: u64, versions: &[Version]) -> usize {
        let [first, _, ..] = versions else { return versions.len() };
        let first = self.place(lba, first);
        let block_bytes = u64::from(self.geometry.block_bytes);
        let follows =
            |(index, version): &(usize, &Version)| match (first, self.place(lba + *index as u64, version)) {
                (None, None) => true,
                (Some((segment, start)), Some((other, at))) => {
                    segment == other && at == start + *index as u64 * block_bytes
                }
                _ => false,
            };
        versions.iter().enumerate().take_while(follows).count()
    }

    /// Reads these versions of the blocks from `first` on: what lies together with one request, and all requests at
    /// the same time.
    pub(super) async fn read_versions(
        &self,
        first: u64,
        versions: &[Version],
        parent: Option<&Image>,
        buf: Buf,
        cause: Cause,
    ) -> (Result<()>, Buf) {
        if self.row_length(first, versions) == versions.len() {
            return self.read_row(first, versions, parent, buf, cause).await;
        }
        // Boxed, because it is seldom: in place it would lie in every read.
        Box::pin(self.read_rows(first, versions, parent, buf, cause)).await
    }

    async fn read_rows(
        &self,
        first: u64,
        versions: &[Version],
        parent: Option<&Image>,
        mut buf: Buf,
        cause: Cause,
    ) -> (Result<()>, Buf) {
        let block_bytes = self.geometry.block_bytes as usize;
        let (mut rows, mut at, mut length) = (Vec::new(), 0, self.row_length(first, versions));
        while at + length < versions.len() {
            let rest = buf.split_off(length * block_bytes);
            rows.push(self.read_row(first + at as u64, &versions[at..at + length], parent, buf, cause));
            (buf, at) = (rest, at + length);
            length = self.row_length(first + at as u64, &versions[at..]);
        }
        rows.push(self.read_row(first + at as u64, &versions[at..], parent, buf, cause));
        join_parts(join_all(rows).await)
    }

    /// Reads versions that lie behind each other.
    async fn read_row(
        &self,
        first: u64,
        versions: &[Version],
        parent: Option<&Image>,
        mut buf: Buf,
        cause: Cause,
    ) -> (Result<()>, Buf) {
        let block_bytes = self.geometry.block_bytes as usize;
        let Some((physical, address)) = versions.first().and_then(|version| self.place(first, version))
        else {
            buf.fill(0);
            return (Ok(()), buf);
        };
        if let Some(base) = self.base.as_ref().filter(|_| physical == IN_BASE) {
            return base.device().read(ByteOffset(address), buf, Io::of(cause)).await;
        }
        if let Some(parent) = parent.filter(|_| physical == IN_PARENT) {
            // Boxed, because it may go on like this.
            return Box::pin(parent.read(ByteOffset(address), buf)).await;
        }
        // Nothing but a branch inherits, whatever the index says.
        if matches!(physical, NOWHERE | IN_PARENT) {
            let gone = Error::new("read", Reason::BlockDamaged { address }).on(self.device.name());
            return (Err(gone.at(lba_of(first) * block_bytes as u64)), buf);
        }
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::LostShownAsBase)
            && let (Some(base), Err(_lost)) = (&self.base, self.check_not_lost(physical))
        {
            return base.read(ByteOffset(lba_of(first) * block_bytes as u64), buf, Io::of(cause)).await;
        }
        if let Err(lost) = self.check_not_lost(physical) {
            return (Err(lost.at(lba_of(first) * block_bytes as u64)), buf);
        }
        let device = self.locate(physical, 0).0;
        let reading = self.contents.reading(physical);
        let (result, buf) = device.read(ByteOffset(address), buf, Io::of(cause)).await;
        drop(reading);
        let result = result.and_then(|()| {
            let blocks = buf.chunks_exact(block_bytes);
            let whole = blocks
                .zip(versions)
                .all(|(block, version)| self.is_unverified(version) || crc32c(&[block]) == version.checksum);
            let refused = || Error::new("read", Reason::BlockDamaged { address }).on(device.name());
            if whole { Ok(()) } else { Err(refused().at(lba_of(first) * block_bytes as u64)) }
        });
        (result, buf)
    }
}

/// Puts the parts of a buffer together again; the first error of them.
pub(in crate::store) fn join_parts(parts: Vec<(Result<()>, Buf)>) -> (Result<()>, Buf) {
    let joined = parts.into_iter().reduce(|(result, mut buf), (next, part)| {
        buf.join(part);
        (result.and(next), buf)
    });
    match joined {
        Some(joined) => joined,
        None => unreachable!("a transfer has at least one part"),
    }
}
