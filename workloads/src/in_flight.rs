//! Which places are being written right now.
//!
//! Two writes of one place in flight together may land in either order, and then nobody knows what the place
//! holds. An arm claims the place of each write before it issues it and skips the operation when the claim
//! fails.
//!
//! A claim is exact: a small table of counters, indexed by a hash of the place, answers "nobody" for nearly
//! every question in one load; otherwise the places of all slots are compared. Claiming and releasing cost a
//! few nanoseconds and allocate nothing.

/// The place of a slot that claims none.
const FREE: u64 = u64::MAX;

/// Counters a slot: with 64, a random place finds a counter in use once in 64 claims at full depth, so that the
/// comparison of all slots stays rare.
const COUNTERS_A_SLOT: usize = 64;

/// The set of claimed places, at most one for each slot (a request in flight).
#[derive(Clone, Debug)]
pub struct InFlight {
    places: Box<[u64]>,
    counters: Box<[u32]>,
    /// 64 − log2 of the number of counters.
    shift: u32,
}

impl InFlight {
    /// A set for `slots` requests in flight, none of them claiming.
    ///
    /// # Panics
    /// When `slots` is 0.
    pub fn new(slots: usize) -> Self {
        assert!(slots > 0, "at least one slot");
        let counters = (slots * COUNTERS_A_SLOT).next_power_of_two();
        Self {
            places: vec![FREE; slots].into_boxed_slice(),
            counters: vec![0; counters].into_boxed_slice(),
            shift: 64 - counters.trailing_zeros(),
        }
    }

    /// Claims `place` for `slot`, which must hold no claim. False, and nothing claimed, when another slot
    /// holds it. Places are compared for equality only: count them in units of the operation's length.
    #[inline]
    pub fn claim(&mut self, slot: usize, place: u64) -> bool {
        debug_assert_eq!(self.places[slot], FREE, "slot {slot} already claims a place");
        debug_assert_ne!(place, FREE);
        let index = self.index(place);
        if self.counters[index] != 0 && self.places.contains(&place) {
            return false;
        }
        self.counters[index] += 1;
        self.places[slot] = place;
        true
    }

    /// Gives up the claim of `slot`, if it holds one.
    #[inline]
    pub fn release(&mut self, slot: usize) {
        let place = std::mem::replace(&mut self.places[slot], FREE);
        if place != FREE {
            let index = self.index(place);
            self.counters[index] -= 1;
        }
    }

    /// Fibonacci hashing: the high bits of the product, so that neighbours spread.
    #[inline]
    const fn index(&self, place: u64) -> usize {
        (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn agrees_with_a_map() {
        for (slots, places) in [(1, 3), (2, 3), (32, 40), (32, 100_000), (300, 400)] {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(slots as u64);
            let mut in_flight = InFlight::new(slots);
            let mut oracle: HashMap<usize, u64> = HashMap::new();
            for _ in 0..50_000 {
                let slot = random.next_u64() as usize % slots;
                let place = random.next_u64() % places;
                if oracle.remove(&slot).is_some() {
                    in_flight.release(slot);
                    continue;
                }
                let free = !oracle.values().any(|claimed| *claimed == place);
                assert_eq!(in_flight.claim(slot, place), free);
                if free {
                    oracle.insert(slot, place);
                } else {
                    in_flight.release(slot);
                }
            }
        }
    }
}
