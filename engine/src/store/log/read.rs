//! Reading: the index says where each block lies; neighbours on the device are read with one request.
//!
//! A block whose checksum is wrong is never returned. It may have been overwritten and its place used anew while
//! it was read: then the index says so, and it is read again.

use super::{Core, LogStore};
use crate::buf::Buf;
use crate::device::{Cause, Io};
use crate::error::{Error, Reason, Result};
use crate::format::crc32c;
use crate::pool::index::current::Version;
use crate::units::ByteOffset;

impl LogStore {
    pub async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        self.core.read(offset, buf, io).await
    }
}

impl Core {
    async fn read(&self, offset: ByteOffset, buf: Buf, io: Io) -> (Result<()>, Buf) {
        let block_bytes = self.geometry.block_bytes as usize;
        let (first, blocks) = (offset.0 / block_bytes as u64, buf.len() / block_bytes);
        let mut buf = Some(buf);
        let mut found = Ok(());
        let mut versions = Vec::new();
        let mut at = 0;
        while at < blocks && found.is_ok() {
            versions.clear();
            for lba in first + at as u64..first + blocks as u64 {
                match self.contents.index().current(lba).await {
                    Ok(version) => versions.push(version),
                    Err(error) => found = Err(error),
                }
                if found.is_err() || self.row_length(&versions) < versions.len() {
                    break;
                }
            }
            if found.is_err() {
                break;
            }
            let row = self.row_length(&versions);
            let Some(whole) = buf.take() else { unreachable!("it comes back with each read") };
            let (result, back) = self.read_row(&versions[..row], whole, at * block_bytes, io.cause).await;
            buf = Some(back);
            match result {
                Ok(()) => at += row,
                // Somebody may have written it meanwhile: look again where it lies.
                Err(error) if matches!(error.reason(), Reason::BlockDamaged { .. }) => {
                    match self.has_changed(first + at as u64, &versions[..row]).await {
                        Ok(true) => {}
                        Ok(false) => found = Err(error.at(offset.0 + (at * block_bytes) as u64)),
                        Err(error) => found = Err(error),
                    }
                }
                Err(error) => found = Err(error),
            }
        }
        let Some(buf) = buf else { unreachable!("it comes back with each read") };
        (found, buf)
    }

    async fn has_changed(&self, first: u64, versions: &[Version]) -> Result<bool> {
        for (lba, version) in (first..).zip(versions) {
            if self.contents.index().current(lba).await? != *version {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The device address of a version; `None` for zeroes.
    fn place(&self, version: &Version) -> Option<(u32, u64)> {
        if version.is_zero() {
            return None;
        }
        let state = self.contents.journal().state();
        // A version that died and was thrown away since it was looked up: its checksum will not be found there.
        let row = state.rows.get(&version.virtual_segment);
        let place = row.and_then(|row| row.place(version.slot, self.geometry.segment_blocks));
        let (physical, block) = place.unwrap_or((0, 0));
        Some((physical, self.locate(physical, block).1))
    }

    /// How many of these versions lie behind each other, or are zeroes together.
    fn row_length(&self, versions: &[Version]) -> usize {
        let Some(first) = versions.first() else { return 0 };
        let first = self.place(first);
        let block_bytes = u64::from(self.geometry.block_bytes);
        let follows = |(index, version): &(usize, &Version)| match (first, self.place(version)) {
            (None, None) => true,
            (Some((segment, start)), Some((other, at))) => {
                segment == other && at == start + *index as u64 * block_bytes
            }
            _ => false,
        };
        versions.iter().enumerate().take_while(follows).count()
    }

    /// Reads versions that lie behind each other into `buf` from byte `start` on.
    pub(super) async fn read_row(
        &self,
        versions: &[Version],
        mut buf: Buf,
        start: usize,
        cause: Cause,
    ) -> (Result<()>, Buf) {
        let block_bytes = self.geometry.block_bytes as usize;
        let length = versions.len() * block_bytes;
        let Some((physical, address)) = versions.first().and_then(|version| self.place(version)) else {
            buf[start..start + length].fill(0);
            return (Ok(()), buf);
        };
        let device = self.locate(physical, 0).0;
        let reading = self.contents.reading(physical);
        let result = if length == buf.len() {
            let (result, back) = device.read(ByteOffset(address), buf, Io::of(cause)).await;
            buf = back;
            result
        } else {
            match self.device.context().buffers().get(length) {
                Ok(piece) => {
                    let (result, piece) = device.read(ByteOffset(address), piece, Io::of(cause)).await;
                    buf[start..start + length].copy_from_slice(&piece);
                    result
                }
                Err(error) => Err(error),
            }
        };
        drop(reading);
        let result = result.and_then(|()| {
            let blocks = buf[start..start + length].chunks_exact(block_bytes);
            let whole = blocks.zip(versions).all(|(block, version)| crc32c(&[block]) == version.checksum);
            let refused = || Error::new("read", Reason::BlockDamaged { address }).on(device.name());
            if whole { Ok(()) } else { Err(refused()) }
        });
        (result, buf)
    }
}
