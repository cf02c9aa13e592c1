//! Ranks with Zipf's law: rank `r` of `n` is drawn with a probability proportional to `1 / r^theta`, exactly.
//!
//! The first [`SINGLE_RANKS`] ranks have an entry each; those beyond are gathered in groups of neighbours, each wider than
//! the one before by a fixed share, so that a table for 2^40 ranks has as many entries as one for 2^17. An entry is drawn by
//! an alias table (Vose, *A linear algorithm for generating random numbers with a given distribution*, IEEE Trans. Software
//! Eng. 17, 1991) in one draw; within a group a rank is drawn evenly and kept with the probability that makes it exact
//! (rejection, fewer than one draw in fifty is repeated).
//!
//! Powers and logarithms are those of a library of our own choice, not of the system, so that a seed gives the same ranks on
//! every machine.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

/// Ranks with an entry of their own.
const SINGLE_RANKS: u64 = 1 << 16;
/// A group is wider than its first rank divided by this.
const GROUP_SHARE: u64 = 64;

/// Draws ranks from 0 to `n − 1`, of which 0 is the most frequent.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    theta: f64,
    entries: Box<[Entry]>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A fraction below this keeps the entry, another takes `alias`.
    keep_below: u64,
    alias: u32,
    /// Ranks of the entry, counted from 1.
    first: u64,
    count: u64,
    /// A fraction below this is kept without working out a power.
    surely_below: u64,
}

impl Zipf {
    /// # Panics
    /// When `n` is 0. `theta` must be finite and above 0.
    pub fn new(n: u64, theta: f64) -> Self {
        assert!(n > 0 && theta.is_finite() && theta > 0.0, "{n} ranks with exponent {theta}");
        let mut groups = Vec::new();
        let mut first = 1;
        while first <= n {
            let count = if first <= SINGLE_RANKS { 1 } else { (first / GROUP_SHARE).min(n - first + 1) };
            groups.push((first, count));
            first += count;
        }
        // The envelope: every rank of a group as if it were the first one.
        let weights: Vec<f64> =
            groups.iter().map(|(first, count)| *count as f64 * power(*first, theta)).collect();
        let entries = alias_table(&weights)
            .into_iter()
            .zip(groups)
            .map(|((keep_below, alias), (first, count))| {
                let least = power(first + count - 1, theta) / power(first, theta);
                Entry { keep_below, alias, first, count, surely_below: fraction(least) }
            })
            .collect();
        Self { theta, entries }
    }

    /// A rank, counted from 0.
    #[inline]
    pub fn draw(&self, random: &mut Xoshiro256PlusPlus) -> u64 {
        loop {
            let product = u128::from(random.next_u64()) * self.entries.len() as u128;
            let mut entry = &self.entries[(product >> 64) as usize];
            if product as u64 >= entry.keep_below {
                entry = &self.entries[entry.alias as usize];
            }
            if entry.count == 1 {
                return entry.first - 1;
            }
            let product = u128::from(random.next_u64()) * u128::from(entry.count);
            let rank = entry.first + (product >> 64) as u64;
            let coin = random.next_u64();
            if coin < entry.surely_below
                || coin < fraction(power(rank, self.theta) / power(entry.first, self.theta))
            {
                return rank - 1;
            }
        }
    }
}

fn power(rank: u64, theta: f64) -> f64 {
    libm::pow(rank as f64, -theta)
}

/// A probability as a bound for 64 drawn bits.
fn fraction(probability: f64) -> u64 {
    // Saturates at both ends.
    (probability * 18_446_744_073_709_551_616.0) as u64
}

/// For each weight the fraction below which its entry is kept, and the entry taken otherwise.
fn alias_table(weights: &[f64]) -> Vec<(u64, u32)> {
    let total: f64 = weights.iter().sum();
    let mut scaled: Vec<f64> = weights.iter().map(|weight| weight / total * weights.len() as f64).collect();
    let mut table = vec![(u64::MAX, 0); weights.len()];
    let indices = 0..weights.len() as u32;
    for (index, entry) in indices.clone().zip(&mut table) {
        entry.1 = index;
    }
    let (mut small, mut large): (Vec<u32>, Vec<u32>) =
        indices.partition(|index| scaled[*index as usize] < 1.0);
    while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
        table[less as usize] = (fraction(scaled[less as usize]), more);
        scaled[more as usize] -= 1.0 - scaled[less as usize];
        if scaled[more as usize] < 1.0 {
            large.pop();
            small.push(more);
        }
    }
    // What is left on either side is 1 but for rounding.
    table
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::rand_core::SeedableRng;

    use super::*;

    /// Pearson's chi-square against the law itself, worked out by the plain sum. With groups the table is drawn from far more
    /// ranks than it has entries.
    #[test]
    fn ranks_follow_the_law() {
        for (n, theta) in [(1, 0.99), (2, 0.5), (1_000, 0.99), (1_000, 1.0), (400_000, 0.8), (400_000, 1.2)] {
            let zipf = Zipf::new(n, theta);
            let total: f64 = (1..=n).map(|rank| (rank as f64).powf(-theta)).sum();
            // Bins of about the same probability.
            let bins = 200.min(n as usize);
            let (mut bin_of, mut expected) = (vec![0_usize; n as usize], vec![0.0; bins]);
            let mut sum = 0.0;
            for rank in 1..=n {
                let probability = (rank as f64).powf(-theta) / total;
                let bin = ((sum * bins as f64) as usize).min(bins - 1);
                bin_of[rank as usize - 1] = bin;
                expected[bin] += probability;
                sum += probability;
            }
            const DRAWS: usize = 1_000_000;
            let mut random = Xoshiro256PlusPlus::seed_from_u64(n ^ theta.to_bits());
            let mut counts = vec![0_u64; bins];
            for _ in 0..DRAWS {
                counts[bin_of[zipf.draw(&mut random) as usize]] += 1;
            }
            let used: Vec<_> = counts.iter().zip(&expected).filter(|(_, share)| **share > 0.0).collect();
            let statistic: f64 = used
                .iter()
                .map(|(count, share)| {
                    let mean = **share * DRAWS as f64;
                    (**count as f64 - mean).powi(2) / mean
                })
                .sum();
            let freedom = (used.len() - 1) as f64;
            // Five standard deviations of chi-square on either side.
            let bound = 5.0 * (2.0 * freedom).sqrt();
            assert!((statistic - freedom).abs() <= bound, "n {n} theta {theta}: {statistic} of {freedom}");
        }
    }

    #[test]
    fn a_table_for_a_petabyte_is_small() {
        let zipf = Zipf::new(1 << 38, 0.99);
        assert!(zipf.entries.len() < 70_000, "{}", zipf.entries.len());
        let last = zipf.entries.last().unwrap();
        assert_eq!(last.first + last.count - 1, 1 << 38);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        assert!((0..100_000).map(|_| zipf.draw(&mut random)).all(|rank| rank < 1 << 38));
    }
}
