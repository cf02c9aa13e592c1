//! How a batch is made durable: written through (FUA or DSYNC), or written and then flushed.
//!
//! Which of the two is faster depends on the device and the file system above it, by a factor of three either way, and
//! on what else happens there. So both are timed: the faster one is used, the other one tried now and then.
//!
//! Invariant: what is chosen changes times, never what is durable.

/// A way of making one batch durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its write is durable when it ends.
    Through,
    /// A flush follows the write.
    Flush,
}

/// Batches that are done either way in turn before one is chosen.
const TRIALS: u64 = 16;
/// Of so many later batches one is done the slower way, to see whether it still is.
const RETRY_EVERY: u64 = 256;
/// A new time counts as one part of so many.
const WEIGHT: u64 = 8;

/// What each way has taken.
#[derive(Debug, Default)]
pub struct Persist {
    batches: u64,
    through_ns: u64,
    flush_ns: u64,
}

impl Persist {
    /// The way for the next batch.
    pub fn choose(&mut self) -> Way {
        let number = self.batches;
        self.batches += 1;
        let through_is_faster = self.through_ns <= self.flush_ns;
        let through = if number < TRIALS {
            number.is_multiple_of(2)
        } else {
            through_is_faster != number.is_multiple_of(RETRY_EVERY)
        };
        if through { Way::Through } else { Way::Flush }
    }

    /// A batch took so long.
    pub fn took(&mut self, way: Way, ns: u64) {
        let mean = match way {
            Way::Through => &mut self.through_ns,
            Way::Flush => &mut self.flush_ns,
        };
        // The first one begins the mean.
        *mean = if *mean == 0 { ns } else { (*mean * (WEIGHT - 1) + ns) / WEIGHT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(persist: &mut Persist, batches: u64, through_ns: u64, flush_ns: u64) -> u64 {
        let mut through = 0;
        for _ in 0..batches {
            let way = persist.choose();
            persist.took(way, if way == Way::Through { through_ns } else { flush_ns });
            through += u64::from(way == Way::Through);
        }
        through
    }

    #[test]
    fn the_faster_way_is_chosen_and_a_change_is_noticed() {
        let mut persist = Persist::default();
        assert!(play(&mut persist, 1000, 300, 100) < 16);
        // What was slow has become fast: after some retries it is found out.
        play(&mut persist, 20 * RETRY_EVERY, 10, 100);
        assert!(play(&mut persist, 1000, 10, 100) > 980);
        assert!(play(&mut Persist::default(), 1000, 100, 300) > 980);
    }
}
