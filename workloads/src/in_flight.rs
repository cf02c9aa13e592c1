//! Which places are being written right now.
//!
//! Two writes that overlap, in flight together, may land in either order, and then nobody knows what the place
//! holds. An arm claims the range of each write before it issues it and skips the operation when the claim
//! fails.
//!
//! A claim is exact: a small table of counters, indexed by a hash of the cells that a range touches, answers "nobody" for
//! nearly every question in one or two loads; otherwise the ranges of all slots are compared. A cell is as long as the longest
//! request, so that a range touches two at most. Claiming and releasing cost a few nanoseconds and allocate nothing.

/// The range of a slot that claims none: it overlaps nothing.
const FREE: (u64, u64) = (u64::MAX, 0);

/// Counters a slot: with 64, a random place finds a counter in use once in 64 claims at full depth, so that the
/// comparison of all slots stays rare.
const COUNTERS_A_SLOT: usize = 64;

/// The set of claimed ranges, at most one for each slot (a request in flight).
#[derive(Clone, Debug)]
pub struct InFlight {
    /// First byte of each range and the one behind its last.
    ranges: Box<[(u64, u64)]>,
    counters: Box<[u32]>,
    /// 64 − log2 of the number of counters.
    shift: u32,
    /// log2 of the cell's length.
    cell_shift: u32,
}

impl InFlight {
    /// A set for `slots` requests of at most `operation_bytes_max` in flight, none of them claiming.
    ///
    /// # Panics
    /// When `slots` or `operation_bytes_max` is 0.
    pub fn new(slots: usize, operation_bytes_max: u32) -> Self {
        assert!(slots > 0 && operation_bytes_max > 0, "at least one slot, and requests of some length");
        let counters = (slots * COUNTERS_A_SLOT).next_power_of_two();
        Self {
            ranges: vec![FREE; slots].into_boxed_slice(),
            counters: vec![0; counters].into_boxed_slice(),
            shift: 64 - counters.trailing_zeros(),
            cell_shift: u64::from(operation_bytes_max).next_power_of_two().trailing_zeros(),
        }
    }

    /// Claims a range for `slot`, which must hold no claim. False, and nothing claimed, when another slot
    /// holds a part of it. The range is no longer than the set was made for, and not empty.
    #[inline]
    pub fn claim(&mut self, slot: usize, offset_bytes: u64, len_bytes: u32) -> bool {
        let range = (offset_bytes, offset_bytes + u64::from(len_bytes));
        debug_assert_eq!(self.ranges[slot], FREE, "slot {slot} already claims a range");
        let (first, last) = self.cells(range);
        let near = self.counters[first] + self.counters[last];
        if near != 0 && self.ranges.iter().any(|other| range.0 < other.1 && other.0 < range.1) {
            return false;
        }
        self.counters[first] += 1;
        self.counters[last] += 1;
        self.ranges[slot] = range;
        true
    }

    /// Gives up the claim of `slot`, if it holds one.
    #[inline]
    pub fn release(&mut self, slot: usize) {
        let range = std::mem::replace(&mut self.ranges[slot], FREE);
        if range != FREE {
            let (first, last) = self.cells(range);
            self.counters[first] -= 1;
            self.counters[last] -= 1;
        }
    }

    /// The counters of the first and the last cell of a range; often the same.
    #[inline]
    const fn cells(&self, range: (u64, u64)) -> (usize, usize) {
        (self.index(range.0 >> self.cell_shift), self.index((range.1 - 1) >> self.cell_shift))
    }

    /// Fibonacci hashing: the high bits of the product, so that neighbours spread.
    #[inline]
    const fn index(&self, cell: u64) -> usize {
        (cell.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn agrees_with_a_list_of_ranges() {
        for (slots, sectors) in [(1, 3), (2, 9), (32, 120), (32, 400_000), (300, 1_200)] {
            for longest in [1, 2, 7, 8] {
                let mut random = Xoshiro256PlusPlus::seed_from_u64(slots as u64 * longest);
                let mut in_flight = InFlight::new(slots, longest as u32 * 512);
                let mut oracle: Vec<Option<std::ops::Range<u64>>> = vec![None; slots];
                for _ in 0..20_000 {
                    let slot = random.next_u64() as usize % slots;
                    if oracle[slot].take().is_some() {
                        in_flight.release(slot);
                        continue;
                    }
                    let from = random.next_u64() % sectors;
                    let range = from..from + 1 + random.next_u64() % longest;
                    let free = !oracle
                        .iter()
                        .flatten()
                        .any(|other| other.clone().any(|sector| range.contains(&sector)));
                    let length = (range.end - range.start) as u32 * 512;
                    assert_eq!(in_flight.claim(slot, range.start * 512, length), free);
                    if free {
                        oracle[slot] = Some(range);
                    } else {
                        in_flight.release(slot);
                    }
                }
            }
        }
    }
}
