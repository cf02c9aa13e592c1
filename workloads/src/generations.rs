//! How often each place of a span has been written: what an arm writes next, and what must be found there afterwards.
//!
//! A place is a unit of 4 KiB, or a sector where the workload has requests that are no multiple of that
//! ([`Workload::unit_bytes`](crate::Workload::unit_bytes)).

use crate::stamp::Stamper;

/// Set in the count of a unit that has been discarded since it was last written: it reads as zero.
const DISCARDED: u32 = 1 << 31;

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
            *count = (*count & !DISCARDED) + 1;
            stamper.stamp(bytes, offset_bytes + index * u64::from(self.unit_bytes), *count);
        }
    }

    /// The range reads as zero until it is written again.
    ///
    /// # Panics
    /// When it reaches beyond the span, or offset or length are no multiple of the unit.
    pub fn discard(&mut self, offset_bytes: u64, len_bytes: u64) {
        let unit_bytes = u64::from(self.unit_bytes);
        assert!(offset_bytes.is_multiple_of(unit_bytes) && len_bytes.is_multiple_of(unit_bytes));
        let first = (offset_bytes / unit_bytes) as usize;
        let units = (len_bytes / unit_bytes) as usize;
        for count in &mut self.counts[first..first + units] {
            *count |= DISCARDED;
        }
    }

    /// Whether a unit of this count has been discarded since it was last written.
    pub const fn is_discarded(count: u32) -> bool {
        count & DISCARDED != 0
    }

    /// One count for each unit of the span; empty where nothing is known of it, and everything is as prefilled.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Bytes that all the writes came to.
    pub fn written_bytes(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count & !DISCARDED)).sum::<u64>()
            * u64::from(self.unit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_reads_as_zero_until_it_is_written_again() {
        let stamper = Stamper::new(1);
        let mut generations = Generations::new(4 * 4096, 4096);
        let mut buffer = vec![0; 2 * 4096];
        stamper.prepare(&mut buffer);
        generations.stamp_next(&stamper, &mut buffer, 0);
        generations.discard(4096, 2 * 4096);
        let discarded = |generations: &Generations| {
            generations.counts().iter().map(|count| Generations::is_discarded(*count)).collect::<Vec<_>>()
        };
        assert_eq!(discarded(&generations), [false, true, true, false]);
        generations.stamp_next(&stamper, &mut buffer, 4096);
        assert_eq!(generations.counts(), [1, 2, 1, 0]);
        assert_eq!(stamper.verify(&buffer[..4096], 4096, 2), Ok(()));
        assert_eq!(generations.written_bytes(), 4 * 4096);
    }
}
