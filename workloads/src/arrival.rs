//! When operations are meant to begin: the schedule of an open load.
//!
//! A schedule depends on its arrival process, its rate and its seed alone. It says when each operation *should* begin,
//! however long the operations before it take: a latency counted from there shows the queue that a slow device makes, which
//! one counted from the actual beginning hides.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// How operations of an open load arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Arrival {
    /// Independently of each other (a Poisson process): what many users together make.
    #[default]
    Poisson,
    /// At equal distances.
    Constant,
    /// A Poisson process that is silent for a part of each period; its mean rate is the one asked for.
    Bursts {
        /// Length of a period in milliseconds.
        period_ms: u32,
        /// Part of it in which operations arrive, in percent, from 1 to 100.
        on_percent: u8,
    },
}

/// Keeps the arrivals of an operation stream apart from its addresses.
const SEED_SALT: u64 = 0x6172_7269_7661_6c73;
const NS_PER_MS: f64 = 1e6;

/// The intended beginnings, in nanoseconds from 0, never decreasing and without end.
#[derive(Clone, Debug)]
pub struct Schedule {
    random: Xoshiro256PlusPlus,
    arrival: Arrival,
    /// Mean distance while operations arrive.
    gap_ns: f64,
    /// Time spent where operations arrive.
    on_ns: f64,
}

impl Schedule {
    /// # Panics
    /// When the rate is not finite or not above 0.
    pub fn new(arrival: Arrival, per_second: f64, seed: u64) -> Self {
        assert!(per_second.is_finite() && per_second > 0.0, "{per_second} operations a second");
        let share = match arrival {
            Arrival::Bursts { on_percent, .. } => f64::from(on_percent) / 100.0,
            Arrival::Poisson | Arrival::Constant => 1.0,
        };
        let random = Xoshiro256PlusPlus::seed_from_u64(seed ^ SEED_SALT);
        Self { random, arrival, gap_ns: share * 1e9 / per_second, on_ns: 0.0 }
    }

    /// When the next operation should begin.
    #[inline]
    pub fn next_ns(&mut self) -> u64 {
        self.on_ns += match self.arrival {
            Arrival::Constant => self.gap_ns,
            Arrival::Poisson | Arrival::Bursts { .. } => {
                // 53 bits, never 0.
                let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / 9_007_199_254_740_992.0;
                -libm::log(uniform) * self.gap_ns
            }
        };
        match self.arrival {
            Arrival::Poisson | Arrival::Constant => self.on_ns as u64,
            Arrival::Bursts { period_ms, on_percent } => {
                let period_ns = f64::from(period_ms) * NS_PER_MS;
                let each_ns = period_ns * f64::from(on_percent) / 100.0;
                let periods = (self.on_ns / each_ns).floor();
                (periods * period_ns + (self.on_ns - periods * each_ns)) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 50_000.0;

    fn counts(arrival: Arrival, bin_ns: u64, bins: usize, seed: u64) -> Vec<u64> {
        let mut counts = vec![0; bins];
        let mut schedule = Schedule::new(arrival, RATE, seed);
        let mut last_ns = 0;
        loop {
            let at_ns = schedule.next_ns();
            assert!(at_ns >= last_ns);
            last_ns = at_ns;
            match counts.get_mut((at_ns / bin_ns) as usize) {
                Some(count) => *count += 1,
                None => return counts,
            }
        }
    }

    /// Variance over mean of the counts in equal times: 1 for Poisson, 0 for equal distances.
    fn dispersion(counts: &[u64]) -> f64 {
        let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let squares: f64 = counts.iter().map(|count| (*count as f64 - mean).powi(2)).sum();
        squares / (counts.len() - 1) as f64 / mean
    }

    #[test]
    fn each_process_has_its_rate_and_its_spread() {
        let bins = 2_000;
        let bursts = Arrival::Bursts { period_ms: 100, on_percent: 20 };
        for seed in 0..4 {
            for arrival in [Arrival::Poisson, Arrival::Constant, bursts] {
                let counts = counts(arrival, 10_000_000, bins, seed);
                let (total, wanted) = (counts.iter().sum::<u64>() as f64, RATE * bins as f64 / 100.0);
                // Five standard deviations of a Poisson count.
                assert!((total - wanted).abs() <= 5.0 * wanted.sqrt(), "{arrival:?}: {total} of {wanted}");
                let index = dispersion(&counts);
                match arrival {
                    // The index of 2,000 bins has a standard deviation of 0.032.
                    Arrival::Poisson => assert!((0.84..1.16).contains(&index), "{index}"),
                    Arrival::Constant => assert!(index < 0.01, "{index}"),
                    Arrival::Bursts { .. } => {
                        let silent =
                            counts.chunks(10).filter(|period| period[2..].iter().all(|count| *count == 0));
                        assert_eq!(silent.count(), bins / 10);
                        assert!(index > 100.0, "{index}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_seed_makes_the_schedule() {
        let of = |seed| {
            let mut schedule = Schedule::new(Arrival::Poisson, RATE, seed);
            (0..1_000).map(|_| schedule.next_ns()).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
