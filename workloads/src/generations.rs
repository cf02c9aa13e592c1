//! How often each place of a span has been written: what an arm writes next, and what must be found there afterwards.
//!
//! A place is a unit of 4 KiB, or a sector where the workload has requests that are no multiple of that
//! ([`Workload::unit_bytes`](crate::Workload::unit_bytes)).

use crate::stamp::Stamper;

/// A count of writes for each unit of a span; 0 = prefilled.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    unit_bytes: u32,
    counts: Vec<u32>,
}

impl Generations {
    /// Nothing has been written yet. A tail of the span that is shorter than a unit is never written.
    ///
    /// # Panics
    /// When the unit is 0.
    pub fn new(span_bytes: u64, unit_bytes: u32) -> Self {
        Self { unit_bytes, counts: vec![0; (span_bytes / u64::from(unit_bytes)) as usize] }
    }

    /// Makes a prepared buffer the next content of its place.
    ///
    /// # Panics
    /// When the buffer reaches beyond the span, or offset or length are no multiple of the unit.
    #[inline]
    pub fn stamp_next(&mut self, stamper: &Stamper, buffer: &mut [u8], offset_bytes: u64) {
        let unit_bytes = self.unit_bytes as usize;
        let first = (offset_bytes / u64::from(self.unit_bytes)) as usize;
        let units = buffer.len() / unit_bytes;
        let counts = self.counts[first..first + units].iter_mut();
        for ((count, bytes), index) in counts.zip(buffer.chunks_exact_mut(unit_bytes)).zip(0..) {
            *count += 1;
            stamper.stamp(bytes, offset_bytes + index * u64::from(self.unit_bytes), *count);
        }
    }

    /// One count for each unit of the span; empty where nothing is known of it, and everything is as prefilled.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Bytes that all the writes came to.
    pub fn written_bytes(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum::<u64>() * u64::from(self.unit_bytes)
    }
}
