//! Counts along an axis whose end is not known: time, or addresses.
//!
//! A fixed number of bins; when something lies beyond the last, neighbours are added up and every bin becomes twice as
//! wide.

pub(super) const BINS: usize = 128;

/// Counts in [`BINS`] bins of one width.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    counts: [u64; BINS],
    /// The width of a bin is 2 to this power.
    width_bits: u32,
}

impl Timeline {
    pub fn new(width_bits: u32) -> Self {
        Self { counts: [0; BINS], width_bits }
    }

    #[inline]
    pub fn add(&mut self, at: u64) {
        while at >> self.width_bits >= BINS as u64 {
            for index in 0..BINS / 2 {
                self.counts[index] = self.counts[2 * index] + self.counts[2 * index + 1];
            }
            self.counts[BINS / 2..].fill(0);
            self.width_bits += 1;
        }
        self.counts[(at >> self.width_bits) as usize] += 1;
    }

    pub fn width(&self) -> u64 {
        1 << self.width_bits
    }

    /// The bins up to the one that holds `last`.
    pub fn up_to(&self, last: u64) -> &[u64] {
        let end = (last >> self.width_bits).min(BINS as u64 - 1) as usize + 1;
        &self.counts[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_widen_and_lose_nothing() {
        let mut timeline = Timeline::new(0);
        for at in 0..1000 {
            timeline.add(at);
        }
        assert_eq!(timeline.width(), 8);
        assert_eq!(timeline.up_to(999), [8; 125]);
        timeline.add(u64::MAX);
        assert_eq!(timeline.up_to(u64::MAX)[0], 1000);
        assert_eq!(timeline.up_to(u64::MAX)[127], 1);
        assert_eq!(timeline.width(), 1 << 57);
    }
}
