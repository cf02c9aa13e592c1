//! Statistics of blocks: medians, ratios, bootstrap intervals and percentiles; tests in
//! [`ranks`] and [`student`], what may be called a difference in [`verdict`], and when a load is steady in [`steady`].
//!
//! The unit of replication is a block (one run of every arm), never a single I/O: I/Os of one run share its device
//! state, so counting them as independent would make every interval far too narrow.
//!
//! Invariants: the same values and the same seed give the same interval on every machine and with every number of
//! threads; a percentile is never averaged, only read from merged histograms.

use hdrhistogram::Histogram;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

pub mod ranks;
pub mod steady;
pub mod student;
pub mod verdict;

/// Resamples of a bootstrap. With 10,000 of them about 250 lie beyond each end of a 95 % interval, so that the
/// ends move by less than the interval's own rounding from one seed to another.
pub const RESAMPLES: usize = 10_000;

/// Resamples drawn from one generator. Fixed, so that the split over threads cannot change the result.
const RESAMPLES_PER_TASK: usize = 1_000;

/// Samples that must lie beyond a percentile before it is given: with fewer, the next run gives another value.
pub const SAMPLES_BEYOND_PERCENTILE: u64 = 100;

/// Share of the resamples left out at each end of a 95 % interval.
const TAIL: f64 = 0.025;

/// Blocks below which the 95 % interval cannot be reached by any method that looks at order alone: the range of
/// `n` blocks covers their true median with probability `1 − 2^(1−n)`, 87.5 % for four and 93.75 % for five.
pub const BLOCKS_FOR_INTERVAL: usize = 5;

/// The interval where nothing is known of the spread.
const UNBOUNDED: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// How many times larger one arm's value is than the other's, from paired blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median over the blocks of `a / b`.
    pub median: f64,
    /// Lower end of the 95 % interval; 0 with one block, where nothing is known of the spread.
    pub ci_low: f64,
    /// Upper end of the 95 % interval; infinite with one block.
    pub ci_high: f64,
    /// Half the interval's width as a share of the median; infinite with one block.
    pub half_width: f64,
    /// Pairs it was computed from.
    pub n: usize,
}

/// One value with its 95 % interval, from blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value, in the unit of the samples.
    pub value: f64,
    /// Lower end of the 95 % interval; minus infinity with one block.
    pub ci_low: f64,
    /// Upper end of the 95 % interval; infinite with one block.
    pub ci_high: f64,
    /// Half the interval's width as a share of the value; infinite with one block.
    pub half_width: f64,
    /// Blocks it was computed from.
    pub n: usize,
}

/// The median; the mean of the middle two where their number is even. `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    (!sorted.is_empty()).then(|| median_of_sorted(sorted.len(), |index| sorted[index]))
}

/// The ratio `a / b` of paired blocks: `a[i]` and `b[i]` come from the same block.
///
/// The logarithm of each block's ratio is taken, their median is the estimate, and its interval is the percentile
/// bootstrap over blocks (Efron and Tibshirani, *An Introduction to the Bootstrap*, chapter 13), both taken back
/// by the exponential. In logarithms `a / b` and `b / a` are mirror images, which plain ratios are not.
///
/// `None` where the lengths differ, there is no pair, or a value is not positive and finite.
pub fn paired_ratio(a: &[f64], b: &[f64], seed: u64) -> Option<Ratio> {
    if a.len() != b.len() || !have_logarithms(a) || !have_logarithms(b) {
        return None;
    }
    let logarithms: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a / b).ln()).collect();
    let estimate = block_median(&logarithms, seed)?;
    Some(ratio_of(estimate.value, (estimate.ci_low, estimate.ci_high), estimate.n))
}

/// The ratio of the medians of blocks that do not belong together in pairs. The interval is the percentile bootstrap
/// of two samples: the blocks of either are drawn by themselves (Efron and Tibshirani, chapter 8).
///
/// `None` where either has no block or a value is not positive and finite; `n` is the smaller number of blocks.
pub fn unpaired_ratio(a: &[f64], b: &[f64], seed: u64) -> Option<Ratio> {
    if !have_logarithms(a) || !have_logarithms(b) {
        return None;
    }
    let logarithms = |values: &[f64]| sorted(&values.iter().map(|value| value.ln()).collect::<Vec<_>>());
    let (a, b) = (logarithms(a), logarithms(b));
    let value = median(&a)? - median(&b)?;
    let n = a.len().min(b.len());
    if n < 2 {
        return Some(ratio_of(value, UNBOUNDED, n));
    }
    let results = resampled(seed, |random, drawn| {
        median_of_draw(&a, random, drawn) - median_of_draw(&b, random, drawn)
    });
    Some(ratio_of(value, interval_of(&results), n))
}

fn have_logarithms(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value > 0.0)
}

/// From logarithms to a ratio.
fn ratio_of(value: f64, (low, high): (f64, f64), n: usize) -> Ratio {
    let (median, ci_low, ci_high) = (value.exp(), low.exp(), high.exp());
    Ratio { median, ci_low, ci_high, half_width: half_width(median, ci_low, ci_high), n }
}

/// The median of blocks with its percentile bootstrap interval. `None` for no values.
pub fn block_median(values: &[f64], seed: u64) -> Option<Estimate> {
    let sorted = sorted(values);
    let value = median(&sorted)?;
    let results = match sorted.len() {
        0 | 1 => Vec::new(),
        _ => resampled(seed, |random, drawn| median_of_draw(&sorted, random, drawn)),
    };
    let interval = if results.is_empty() { UNBOUNDED } else { interval_of(&results) };
    Some(estimate(value, interval, sorted.len()))
}

/// The mean of blocks with its percentile bootstrap interval. `None` for no values.
pub fn block_mean(values: &[f64], seed: u64) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let value = values.iter().sum::<f64>() / count;
    let interval =
        bootstrap(values.len(), seed, |drawn| drawn.iter().map(|&index| values[index]).sum::<f64>() / count);
    Some(estimate(value, interval, values.len()))
}

/// The value at quantile `q` (0.99 = p99), in the histogram's unit; `None` unless at least
/// [`SAMPLES_BEYOND_PERCENTILE`] samples lie beyond it.
pub fn percentile(histogram: &Histogram<u64>, q: f64) -> Option<u64> {
    enough_samples(histogram.len(), q).then(|| histogram.value_at_quantile(q))
}

/// The value at quantile `q` of the blocks' merged histograms, with the interval of a bootstrap that draws whole
/// blocks (a cluster bootstrap: Davison and Hinkley, *Bootstrap Methods and their Application*, section 3.8).
/// `None` where too few samples lie beyond it, as in [`percentile`].
pub fn pooled_percentile(blocks: &[&Histogram<u64>], q: f64, seed: u64) -> Option<Estimate> {
    let counts = CumulativeCounts::new(blocks);
    let everything: Vec<usize> = (0..blocks.len()).collect();
    if !enough_samples(counts.total(&everything), q) {
        return None;
    }
    let value = counts.quantile(&everything, q);
    let interval = bootstrap(blocks.len(), seed, |drawn| counts.quantile(drawn, q));
    Some(estimate(value, interval, blocks.len()))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The median of `count` (at least one) values which `value` gives in ascending order.
pub(crate) fn median_of_sorted(count: usize, mut value: impl FnMut(usize) -> f64) -> f64 {
    let middle = count / 2;
    if count % 2 == 1 { value(middle) } else { f64::midpoint(value(middle - 1), value(middle)) }
}

fn half_width(value: f64, low: f64, high: f64) -> f64 {
    (high - low) / 2.0 / value.abs()
}

fn estimate(value: f64, (ci_low, ci_high): (f64, f64), n: usize) -> Estimate {
    Estimate { value, ci_low, ci_high, half_width: half_width(value, ci_low, ci_high), n }
}

fn enough_samples(count: u64, q: f64) -> bool {
    count.saturating_sub(rank(count, q)) >= SAMPLES_BEYOND_PERCENTILE
}

/// How many of `count` samples lie at or below the quantile `q`, at least one.
fn rank(count: u64, q: f64) -> u64 {
    // 0.999 × 100,000 is 99,900.000…01 in binary; the tolerance keeps such a product from being rounded up.
    (q * count as f64 * (1.0 - 1e-12)).ceil().max(1.0) as u64
}

/// The 2.5 % and 97.5 % points of `statistic` over [`RESAMPLES`] draws of `count` indices with replacement.
/// The statistic may reorder the indices it is given.
fn bootstrap(count: usize, seed: u64, statistic: impl Fn(&mut [usize]) -> f64 + Sync) -> (f64, f64) {
    if count < 2 {
        return UNBOUNDED;
    }
    let results = resampled(seed, |random, drawn: &mut Vec<usize>| {
        drawn.resize(count, 0);
        drawn.fill_with(|| index_below(random, count));
        statistic(drawn)
    });
    interval_of(&results)
}

/// The median of as many draws from sorted values as there are. What is drawn is counted, which sorts it.
fn median_of_draw(sorted: &[f64], random: &mut Xoshiro256PlusPlus, counts: &mut Vec<u32>) -> f64 {
    let count = sorted.len();
    counts.clear();
    counts.resize(count, 0);
    for _ in 0..count {
        counts[index_below(random, count)] += 1;
    }
    let mut places = counts.iter().enumerate();
    let mut passed = 0;
    let mut at = 0;
    // Ranks are asked for in ascending order.
    median_of_sorted(count, |rank| {
        while passed <= rank {
            let Some((place, drawn)) = places.next() else { break };
            (at, passed) = (place, passed + *drawn as usize);
        }
        sorted[at]
    })
}

/// [`RESAMPLES`] values of a statistic of random draws, in ascending order. The generator decides nothing but what is
/// drawn from it; `Scratch` is memory that draws share.
pub(crate) fn resampled<Scratch: Default>(
    seed: u64,
    statistic: impl Fn(&mut Xoshiro256PlusPlus, &mut Scratch) -> f64 + Sync,
) -> Vec<f64> {
    let mut results: Vec<f64> = (0..RESAMPLES / RESAMPLES_PER_TASK)
        .into_par_iter()
        .flat_map_iter(|task| {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_add(task as u64));
            let mut scratch = Scratch::default();
            let statistic = &statistic;
            (0..RESAMPLES_PER_TASK).map(move |_| statistic(&mut random, &mut scratch))
        })
        .collect();
    results.sort_unstable_by(f64::total_cmp);
    results
}

/// The 2.5 % and 97.5 % points of [`resampled`] values.
fn interval_of(results: &[f64]) -> (f64, f64) {
    let beyond = (TAIL * RESAMPLES as f64) as usize;
    (results[beyond], results[RESAMPLES - 1 - beyond])
}

/// A number below `count`, by multiplication (Lemire, *Fast Random Integer Generation in an Interval*). The bias is
/// below `count / 2^64` and needs no second draw.
pub(crate) fn index_below(random: &mut Xoshiro256PlusPlus, count: usize) -> usize {
    ((u128::from(random.next_u64()) * count as u128) >> 64) as usize
}

/// For each block, how many samples lie at or below each value that any block recorded. A quantile of any
/// combination of blocks is then one binary search, where merging histograms would cost thousands of additions.
struct CumulativeCounts {
    values: Vec<u64>,
    blocks: Vec<Vec<u64>>,
}

impl CumulativeCounts {
    fn new(blocks: &[&Histogram<u64>]) -> Self {
        let mut values: Vec<u64> = blocks
            .iter()
            .flat_map(|block| block.iter_recorded().map(|step| step.value_iterated_to()))
            .collect();
        values.sort_unstable();
        values.dedup();
        let cumulative = |block: &&Histogram<u64>| {
            let mut below = 0;
            let mut steps = block.iter_recorded().peekable();
            let mut counts = Vec::with_capacity(values.len());
            for &value in &values {
                while let Some(step) = steps.next_if(|step| step.value_iterated_to() <= value) {
                    below += step.count_at_value();
                }
                counts.push(below);
            }
            counts
        };
        let blocks = blocks.iter().map(cumulative).collect();
        CumulativeCounts { values, blocks }
    }

    fn total(&self, drawn: &[usize]) -> u64 {
        drawn.iter().filter_map(|&block| self.blocks[block].last()).sum()
    }

    /// The smallest value with at least a share `q` of the drawn blocks' samples at or below it.
    fn quantile(&self, drawn: &[usize], q: f64) -> f64 {
        let wanted = rank(self.total(drawn), q);
        let at_or_below = |index: usize| drawn.iter().map(|&block| self.blocks[block][index]).sum::<u64>();
        let (mut low, mut high) = (0, self.values.len().saturating_sub(1));
        while low < high {
            let middle = usize::midpoint(low, high);
            if at_or_below(middle) >= wanted { high = middle } else { low = middle + 1 }
        }
        self.values.get(low).map_or(f64::NAN, |&value| value as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal deviates by Box and Muller's transform.
    fn normals(random: &mut Xoshiro256PlusPlus, count: usize) -> Vec<f64> {
        let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (0..count)
            .map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos())
            .collect()
    }

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn median_of_known_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn ratio_of_identical_blocks_is_one_with_no_width() {
        let blocks = [120.0, 80.0, 95.0, 130.0, 101.0];
        let ratio = paired_ratio(&blocks, &blocks, 7).unwrap();
        assert_eq!(ratio, Ratio { median: 1.0, ci_low: 1.0, ci_high: 1.0, half_width: 0.0, n: 5 });
    }

    #[test]
    fn ratio_ignores_what_a_whole_block_shares() {
        // The blocks differ tenfold, the arms always by 2 %: pairing removes the first and shows the second.
        let b = [100.0, 1_000.0, 300.0, 700.0, 150.0];
        let a = b.map(|value| value * 0.98);
        let ratio = paired_ratio(&a, &b, 1).unwrap();
        assert!((ratio.median - 0.98).abs() < 1e-12 && ratio.half_width < 1e-9, "{ratio:?}");
    }

    #[test]
    fn ratio_and_its_inverse_are_mirror_images() {
        let (a, b) = ([10.0, 12.0, 9.0, 14.0, 11.0, 10.5], [11.0, 11.0, 10.0, 12.0, 12.0, 10.0]);
        let (ratio, inverse) = (paired_ratio(&a, &b, 3).unwrap(), paired_ratio(&b, &a, 3).unwrap());
        assert!((ratio.median * inverse.median - 1.0).abs() < 1e-12);
        // The two look at different draws, so the ends agree only as well as a bootstrap repeats itself.
        assert!((ratio.ci_low * inverse.ci_high - 1.0).abs() < 0.05, "{ratio:?} {inverse:?}");
    }

    #[test]
    fn same_seed_same_interval() {
        let (a, b) = ([10.0, 12.0, 9.0, 14.0, 11.0, 13.0, 8.0], [11.0, 11.0, 10.0, 12.0, 12.0, 9.0, 9.5]);
        assert_eq!(paired_ratio(&a, &b, 42), paired_ratio(&a, &b, 42));
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| block_mean(&a, 42)), block_mean(&a, 42));
    }

    #[test]
    fn ratio_refuses_what_it_cannot_pair() {
        assert_eq!(paired_ratio(&[], &[], 1), None);
        assert_eq!(paired_ratio(&[1.0], &[1.0, 2.0], 1), None);
        assert_eq!(paired_ratio(&[0.0], &[1.0], 1), None);
        assert_eq!(paired_ratio(&[f64::NAN], &[1.0], 1), None);
    }

    #[test]
    fn one_block_has_no_interval() {
        let ratio = paired_ratio(&[2.0], &[1.0], 1).unwrap();
        assert_eq!((ratio.median, ratio.ci_low, ratio.ci_high), (2.0, 0.0, f64::INFINITY));
        assert!(ratio.half_width.is_infinite());
    }

    #[test]
    fn five_blocks_give_their_range() {
        let ratio = paired_ratio(&[1.0, 2.0, 3.0, 4.0, 5.0], &[1.0; 5], 1).unwrap();
        assert!((ratio.ci_low - 1.0).abs() < 1e-12 && (ratio.ci_high - 5.0).abs() < 1e-12, "{ratio:?}");
    }

    /// Of 300 experiments with 15 blocks each, about 95 % of the intervals must hold the true ratio. Four standard
    /// deviations of that count are 15; the bootstrap of a median is known to be a little narrow with so few values.
    #[test]
    fn interval_covers_the_truth() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2024);
        let truth = 0.9f64;
        let experiments = 300u64;
        let held = (0..experiments)
            .filter(|&seed| {
                let b: Vec<f64> = normals(&mut random, 15).iter().map(|z| (0.3 * z).exp()).collect();
                let noise = normals(&mut random, 15);
                let a: Vec<f64> = b.iter().zip(noise).map(|(b, z)| b * truth * (0.05 * z).exp()).collect();
                let ratio = paired_ratio(&a, &b, seed).unwrap();
                ratio.ci_low <= truth && truth <= ratio.ci_high
            })
            .count();
        assert!((265..=297).contains(&held), "{held} of {experiments}");
    }

    #[test]
    fn unpaired_is_the_ratio_of_medians() {
        let ratio = unpaired_ratio(&[30.0, 10.0, 20.0], &[5.0, 4.0, 6.0, 1.0, 100.0], 1).unwrap();
        assert!((ratio.median - 4.0).abs() < 1e-12 && ratio.n == 3, "{ratio:?}");
        assert_eq!(unpaired_ratio(&[1.0], &[], 1), None);
        assert_eq!(unpaired_ratio(&[1.0], &[0.0], 1), None);
        let alone = unpaired_ratio(&[2.0], &[1.0, 1.0], 1).unwrap();
        assert_eq!((alone.median, alone.ci_low, alone.ci_high), (2.0, 0.0, f64::INFINITY));
    }

    /// As [`interval_covers_the_truth`], of two samples that have nothing in common but their spread.
    #[test]
    fn unpaired_interval_covers_the_truth() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let truth = 1.1f64;
        let experiments = 300u64;
        let mut sample = |scale: f64| -> Vec<f64> {
            normals(&mut random, 15).iter().map(|z| scale * (0.05 * z).exp()).collect()
        };
        let held = (0..experiments)
            .filter(|&seed| {
                let (a, b) = (sample(truth), sample(1.0));
                let ratio = unpaired_ratio(&a, &b, seed).unwrap();
                ratio.ci_low <= truth && truth <= ratio.ci_high
            })
            .count();
        assert!((265..=299).contains(&held), "{held} of {experiments}");
    }

    #[test]
    fn mean_interval_narrows_with_blocks() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let values: Vec<f64> = normals(&mut random, 400).iter().map(|z| 100.0 + z).collect();
        let (few, many) = (block_mean(&values[..20], 1).unwrap(), block_mean(&values, 1).unwrap());
        assert!(many.half_width < few.half_width / 2.0, "{few:?} {many:?}");
        // 1.96 standard errors of 400 unit normals around 100.
        assert!((many.half_width - 1.96 / 20.0 / 100.0).abs() < 2e-4, "{many:?}");
    }

    #[test]
    fn percentile_needs_a_hundred_samples_beyond() {
        assert_eq!(percentile(&histogram(1..=9_999), 0.99), None);
        assert!(percentile(&histogram(1..=10_000), 0.99).is_some());
        assert_eq!(percentile(&histogram(std::iter::repeat_n(7, 99_999)), 0.999), None);
        assert_eq!(percentile(&histogram(std::iter::repeat_n(7, 100_000)), 0.999), Some(7));
        assert_eq!(percentile(&histogram([]), 0.5), None);
    }

    #[test]
    fn pooled_percentile_is_the_merged_histograms() {
        let (low, high) = (histogram(1_000..11_000), histogram(51_000..81_000));
        let mut merged = Histogram::new(3).unwrap();
        merged.add(&low).unwrap();
        merged.add(&high).unwrap();
        for q in [0.1, 0.5, 0.9, 0.99] {
            let pooled = pooled_percentile(&[&low, &high], q, 1).unwrap();
            assert_eq!(pooled.value as u64, percentile(&merged, q).unwrap(), "q {q}");
            assert!(pooled.ci_low <= pooled.value && pooled.value <= pooled.ci_high);
        }
        assert_eq!(pooled_percentile(&[], 0.5, 1), None);
        assert_eq!(pooled_percentile(&[&histogram([])], 0.5, 1), None);
    }
}
