//! Reading the log from the device in large pieces: for recovery, and for applying it to a linear volume.
//!
//! Invariant: a batch that is handed out is whole: header, entries, and every payload block.

use super::Geometry;
use crate::buf::Buf;
use crate::device::{Cause, Device, Io};
use crate::error::{Error, Reason, Result};
use crate::format::batch::{self, Batch, Decoded};
use crate::format::crc32c;
use crate::units::ByteOffset;

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 2 << 20;

/// Pieces of segments in memory.
#[derive(Debug)]
pub struct Window<'a> {
    device: &'a Device,
    /// The log's.
    pub geometry: Geometry,
    physical: u32,
    first_block: u32,
    buf: Option<Buf>,
}

impl<'a> Window<'a> {
    /// Nothing is in memory yet.
    pub fn new(device: &'a Device, geometry: Geometry) -> Self {
        Self { device, geometry, physical: 0, first_block: 0, buf: None }
    }

    /// The bytes of a segment from this block on: all that is in memory, and at least the largest batch if the
    /// segment goes on so far.
    pub async fn bytes(&mut self, physical: u32, block: u32) -> Result<&[u8]> {
        let block_bytes = u64::from(self.geometry.block_bytes);
        let left_bytes = u64::from(self.geometry.segment_blocks - block) * block_bytes;
        let wanted = left_bytes.min(self.geometry.batch_bytes_max() as u64);
        let skip = u64::from(block.wrapping_sub(self.first_block)) * block_bytes;
        let held = self.buf.as_ref().map_or(0, |buf| buf.len() as u64);
        if self.buf.is_none() || self.physical != physical || block < self.first_block || skip + wanted > held
        {
            self.buf = None;
            let length = left_bytes.min(WINDOW_BYTES) as usize;
            let buf = self.device.context().buffers().reserved().get(length)?;
            let at = ByteOffset(self.geometry.address(physical, block));
            let (result, buf) = self.device.read(at, buf, Io::of(Cause::Log)).await;
            result?;
            (self.physical, self.first_block) = (physical, block);
            self.buf = Some(buf);
        }
        let skip = u64::from(block - self.first_block) * block_bytes;
        match &self.buf {
            Some(buf) => Ok(&buf[skip as usize..]),
            None => unreachable!("it was read just now"),
        }
    }

    /// The batch that lies there, whole, if one does.
    pub async fn batch(&mut self, physical: u32, block: u32) -> Result<Option<Box<Batch>>> {
        if block >= self.geometry.segment_blocks {
            return Ok(None);
        }
        let geometry = self.geometry;
        let address = geometry.address(physical, block);
        let name = self.device.name().to_string();
        let bytes = self.bytes(physical, block).await?;
        match batch::decode(bytes, address, geometry.block_bytes) {
            Decoded::Absent => Ok(None),
            Decoded::UnknownVersion(found) => {
                Err(Error::new("open", Reason::UnknownVersion { found, known: batch::VERSION }).on(name))
            }
            Decoded::Valid(batch) => {
                let header = batch.header.header_bytes.get() as usize;
                let Some(payload) = bytes.get(header..batch.header.total_bytes() as usize) else {
                    return Ok(None);
                };
                let blocks = payload.chunks_exact(geometry.block_bytes as usize);
                let whole = blocks.zip(&batch.checksums).all(|(block, sum)| crc32c(&[block]) == *sum);
                #[cfg(feature = "mutations")]
                let whole = whole || crate::mutation::is_on(crate::mutation::Mutation::LogPayloadUnchecked);
                Ok(whole.then_some(batch))
            }
        }
    }

    /// The payload of a batch that lies there.
    pub async fn payload(&mut self, physical: u32, block: u32, batch: &Batch) -> Result<Vec<u8>> {
        let (start, end) = (batch.header.header_bytes.get() as usize, batch.header.total_bytes() as usize);
        let bytes = self.bytes(physical, block).await?;
        Ok(bytes.get(start..end).unwrap_or_default().to_vec())
    }
}
