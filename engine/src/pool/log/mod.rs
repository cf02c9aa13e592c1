//! The record log: an ordered list of batches in segments held by lease.
//!
//! [`append`] writes it, [`recover`] reads it at open. A batch is one write of header and payload; batches follow
//! each other without a gap until one does not fit its segment, and go on in the segment leased next.
//!
//! Invariants: a batch counts only with the number, seal, nonce and sequence that follow from the one before it,
//! so that neither an earlier lap nor an earlier opening's leftovers are taken for the tail; entries are
//! completed in order, so that what is found after a crash is a prefix.

pub mod append;
mod flushes;
mod persist;
pub mod recover;
pub mod window;

use crate::format::journal::Lease;

/// The unit sizes of a log and where its segments lie.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Unit of payload and of batches.
    pub block_bytes: u32,
    /// Blocks of a segment.
    pub segment_blocks: u32,
    /// First byte of the data area.
    pub data_offset: u64,
    /// Segments of the data area.
    pub segments: u32,
}

impl Geometry {
    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * u64::from(self.block_bytes)
    }

    /// The device address of a block of a segment.
    pub fn address(&self, physical: u32, block: u32) -> u64 {
        self.data_offset
            + u64::from(physical) * self.segment_bytes()
            + u64::from(block) * u64::from(self.block_bytes)
    }

    /// Blocks that one entry may have at most; larger writes are several entries.
    pub fn entry_blocks_max(&self) -> u32 {
        let by_size = (512 << 10) / self.block_bytes;
        by_size.min(self.segment_blocks / 4).max(1)
    }

    /// Bytes of a batch at most.
    pub fn batch_bytes_max(&self) -> usize {
        (1_usize << 20).min(self.segment_bytes() as usize)
    }
}

/// Where the next batch goes and what it follows.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// The segment it goes to, unless it does not fit.
    pub lease: Lease,
    /// The block of that segment.
    pub block: u32,
    /// Its number.
    pub batch: u64,
    /// The sequence of the last entry before it.
    pub sequence: u64,
    /// The time of the batch before it.
    pub time_unix_ns: u64,
    /// The seal of the batch before it.
    pub previous: u32,
}
