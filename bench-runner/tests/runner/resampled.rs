//! What `compare` says of real blocks: pairs of runs are drawn from blocks that were measured once, each arm twice, and
//! given to the comparison as a run folder's rows are. Nothing but the drawing and the planted slow-down is made up.
//!
//! `fixtures/a_a_*.csv` say in their first lines what they are. One is of a disk that was busy with other things, so that
//! blocks of one arm lie 10 % apart and a tail ten times that; one of a device that the kernel holds at a rate.
//!
//! `ICECORE_COMPARE_LONG=1` draws over every number of blocks, for all quantities, and prints the rates.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bench_runner::compare::quantity::IOPS;
use bench_runner::compare::{Choice, Comparison, Line, Quantity, Side, compare};
use bench_runner::method::{BLOCKS_MAX, BLOCKS_MIN};
use bench_runner::results::MetricRow;
use bench_runner::stats::verdict::{SMALLEST_EFFECT, Verdict};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

const BUSY: &str = include_str!("../fixtures/a_a_busy_disk.csv");
const THROTTLED: &str = include_str!("../fixtures/a_a_throttled.csv");

const PAIRS: u64 = 200;
/// Pairs with a planted slow-down, of which nearly all must be found: fewer will do to see that.
const PLANTED_PAIRS: u64 = 40;

/// One run of an arm in a block.
#[derive(Clone, Debug, Deserialize)]
struct Run {
    workload: String,
    queue_depth: u32,
    block: u32,
    arm: String,
    iops: Option<f64>,
    latency_p50_ns: Option<f64>,
    latency_p99_ns: Option<f64>,
    cpu_user_ns: Option<f64>,
    cpu_system_ns: Option<f64>,
}

impl Run {
    /// The rows that a run folder has of it, under another block and name, slower by a factor.
    fn rows(&self, block: u32, arm: &str, slower: f64) -> Vec<MetricRow> {
        let times = |value: Option<f64>, factor: f64| value.map(|value| value * factor);
        [
            ("iops", "mean", times(self.iops, 1.0 / slower)),
            ("latency", "p50", times(self.latency_p50_ns, slower)),
            ("latency", "p99", times(self.latency_p99_ns, slower)),
            ("cpu_user", "mean", times(self.cpu_user_ns, slower)),
            ("cpu_system", "mean", times(self.cpu_system_ns, slower)),
        ]
        .into_iter()
        .map(|(metric, stat, value)| MetricRow {
            block: Some(block),
            arm: arm.to_owned(),
            workload: self.workload.clone(),
            op: "all".to_owned(),
            queue_depth: Some(self.queue_depth),
            phase: "measure".to_owned(),
            metric: metric.to_owned(),
            stat: stat.to_owned(),
            value,
            valid: true,
            seed: u64::from(self.block),
            ..MetricRow::default()
        })
        .collect()
    }
}

/// The blocks of one workload: the runs by arm.
struct Blocks(Vec<BTreeMap<String, Run>>);

impl Blocks {
    fn read(text: &str, workload: &str) -> Self {
        let mut blocks: BTreeMap<u32, BTreeMap<String, Run>> = BTreeMap::new();
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        for run in reader.deserialize::<Run>().map(Result::unwrap) {
            if run.workload == workload {
                blocks.entry(run.block).or_default().insert(run.arm.clone(), run);
            }
        }
        assert!(blocks.len() >= 40 && blocks.values().all(|arms| arms.len() == 4), "{workload}");
        Blocks(blocks.into_values().collect())
    }

    /// Every second block, from the first or the second: noise is not measured on what is judged.
    fn half(&self, first: usize) -> Blocks {
        Blocks(self.0.iter().skip(first).step_by(2).cloned().collect())
    }

    /// A run folder of these blocks: arms under the names on the right, slower by a factor where they are `direct`. Which of an
    /// arm's two runs in a block came first was chance, so that chance may say again which is which.
    fn side(&self, name: &str, chosen: &[(usize, bool)], arms: &[(&str, &str)], slower: f64) -> Side {
        let mut rows = Vec::new();
        for (block, (index, is_swapped)) in (1..).zip(chosen) {
            for (arm, called) in arms {
                let factor = if called.starts_with("direct") { slower } else { 1.0 };
                let other = arm.strip_suffix("-again").map_or(format!("{arm}-again"), str::to_owned);
                let run = if *is_swapped { &self.0[*index][&other] } else { &self.0[*index][*arm] };
                rows.extend(run.rows(block, called, factor));
            }
        }
        Side::of_rows(name.to_owned(), PathBuf::from(name), None, Vec::new(), rows)
    }

    /// What `--noise` would be.
    fn noise(&self) -> Side {
        let all: Vec<(usize, bool)> = (0..self.0.len()).map(|index| (index, false)).collect();
        let arms = ["raw", "raw-again", "direct", "direct-again"].map(|arm| (arm, arm));
        self.side("noise", &all, &arms, 1.0)
    }
}

/// How a pair of runs comes about.
#[derive(Clone, Copy, Debug)]
enum Pairs {
    /// Two arms of one run.
    OneRun,
    /// One arm in two runs, each with the bare device.
    TwoRuns,
    /// The same, of two times of the day: blocks that follow each other in both.
    TwoTimes,
}

struct Draws<'a> {
    blocks: Blocks,
    noise: Option<&'a Side>,
    pairs: Pairs,
    count: usize,
    quantities: Vec<Quantity>,
}

impl Draws<'_> {
    /// B is slower than A by the factor.
    fn compare(&self, seed: u64, slower: f64) -> Comparison {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut below = |limit: usize| (random.next_u64() % limit as u64) as usize;
        let all = self.blocks.0.len();
        // As many as there may be, so that a comparison of more blocks holds those of one of fewer.
        let mut draw = || -> Vec<(usize, bool)> {
            let mut drawn: Vec<_> = (0..BLOCKS_MAX).map(|_| (below(all), below(2) == 1)).collect();
            drawn.truncate(self.count);
            drawn
        };
        let (a, b, arms) = match self.pairs {
            Pairs::OneRun => {
                let chosen = draw();
                let a = self.blocks.side("one", &chosen, &[("direct", "direct")], 1.0);
                let b = self.blocks.side("one", &chosen, &[("direct-again", "direct-again")], slower);
                (a, b, ("direct", "direct-again"))
            }
            Pairs::TwoRuns => {
                let a = self.blocks.side("a", &draw(), &[("raw", "raw"), ("direct", "direct")], 1.0);
                let second = [("raw-again", "raw"), ("direct-again", "direct")];
                (a, self.blocks.side("b", &draw(), &second, slower), ("direct", "direct"))
            }
            Pairs::TwoTimes => {
                let first = below(all - 2 * self.count + 1);
                let second = first + self.count + below(all - first - 2 * self.count + 1);
                let run =
                    |from: usize| (from..from + self.count).map(|index| (index, false)).collect::<Vec<_>>();
                let arms = [("raw", "raw"), ("direct", "direct")];
                let a = self.blocks.side("a", &run(first), &arms, 1.0);
                (a, self.blocks.side("b", &run(second), &arms, slower), ("direct", "direct"))
            }
        };
        let arms = vec![(arms.0.to_owned(), arms.1.to_owned())];
        compare(&a, &b, self.noise, &Choice { quantities: self.quantities.clone(), arms }).unwrap()
    }

    /// Adds blocks from the fewest on while the IOPS are undecided, as a user would; gives the verdict.
    fn verdict_with_more_blocks(&mut self, seed: u64, slower: f64) -> Verdict {
        for count in BLOCKS_MIN..=BLOCKS_MAX {
            self.count = count as usize;
            let verdict = self.compare(seed, slower).lines[0].verdict;
            if verdict != Verdict::Undecided {
                return verdict;
            }
        }
        Verdict::Undecided
    }

    /// Of so many pairs, those of which this holds.
    fn count(&self, pairs: u64, slower: f64, holds: impl Fn(&Comparison) -> bool) -> u64 {
        (0..pairs).filter(|seed| holds(&self.compare(*seed, slower))).count() as u64
    }
}

fn is_different(line: &Line) -> bool {
    matches!(line.verdict, Verdict::Better | Verdict::Worse)
}

fn has_iops_worse(comparison: &Comparison) -> bool {
    comparison.lines.iter().any(|line| line.quantity == IOPS && line.verdict == Verdict::Worse)
}

/// Whether 95 % is believed of so many of so many: the chance of no more of them is 5 % at least.
fn is_accepted(seen: u64, of: u64) -> bool {
    at_most(seen, of, 0.95) >= 0.05
}

/// The binomial distribution function.
fn at_most(seen: u64, of: u64, share: f64) -> f64 {
    let mut logarithm = of as f64 * (1.0 - share).ln();
    let mut sum = logarithm.exp();
    for k in 1..=seen {
        logarithm += ((of - k + 1) as f64 / k as f64).ln() + (share / (1.0 - share)).ln();
        sum += logarithm.exp();
    }
    sum
}

#[test]
fn the_binomial_test_is_the_binomial_test() {
    assert!((at_most(1, 2, 0.5) - 0.75).abs() < 1e-12);
    assert!((at_most(3, 4, 0.95) - (1.0 - 0.95_f64.powi(4))).abs() < 1e-12);
    assert!(is_accepted(185, 200) && !is_accepted(183, 200));
}

/// A run beside itself, and two runs of the same: 5 blocks each, all quantities, as `compare` does it by default.
#[test]
fn the_same_is_not_called_different() {
    for (name, text) in [("busy", BUSY), ("throttled", THROTTLED)] {
        for pairs in [Pairs::OneRun, Pairs::TwoRuns] {
            let blocks = Blocks::read(text, "randread-4k");
            let draws = Draws { blocks, noise: None, pairs, count: 5, quantities: Vec::new() };
            let (mut same, mut by_interval, mut by_effect, mut verdicts, mut same_verdicts) = (0, 0, 0, 0, 0);
            for seed in 0..PAIRS {
                let lines = draws.compare(seed, 1.0).lines;
                let none = |is_different: fn(&Line) -> bool| u64::from(!lines.iter().any(is_different));
                same += none(is_different);
                by_interval += none(excludes_one);
                by_effect += none(is_large);
                verdicts += lines.len() as u64;
                same_verdicts += lines.iter().filter(|line| !is_different(line)).count() as u64;
            }
            println!(
                "{name}, {pairs:?}: of {PAIRS} A/A pairs {same} without any difference; by the interval alone {by_interval}, by \
                 the effect alone {by_effect}; of {verdicts} verdicts {same_verdicts} without"
            );
            assert!(is_accepted(same, PAIRS), "{name}, {pairs:?}: {same}");
            assert!(is_accepted(same_verdicts, verdicts), "{name}, {pairs:?}: {same_verdicts} of {verdicts}");
            // Either half of the rule by itself calls the same different, or this would be no test of it.
            if matches!(pairs, Pairs::OneRun) {
                assert!(!is_accepted(by_interval, PAIRS), "{name}: {by_interval}");
            }
            if name == "busy" {
                assert!(!is_accepted(by_effect, PAIRS), "{name}, {pairs:?}: {by_effect}");
            }
        }
    }
}

#[test]
fn a_slow_down_of_20_percent_is_found() {
    let quiet = Blocks::read(THROTTLED, "randread-4k");
    let quantities = vec![IOPS];
    let draws =
        Draws { blocks: quiet, noise: None, pairs: Pairs::TwoRuns, count: 5, quantities: quantities.clone() };
    let found = draws.count(PLANTED_PAIRS, 1.2, has_iops_worse);
    assert!(found >= PLANTED_PAIRS * 9 / 10, "with 5 blocks: {found} of {PLANTED_PAIRS}");
    // On a busy disk it takes all the blocks there may be, with the noise known too.
    let busy = Blocks::read(BUSY, "randread-4k");
    let noise = busy.half(1).noise();
    for noise in [None, Some(&noise)] {
        let draws = Draws {
            blocks: busy.half(0),
            noise,
            pairs: Pairs::OneRun,
            count: 15,
            quantities: quantities.clone(),
        };
        let found = draws.count(PLANTED_PAIRS, 1.2, has_iops_worse);
        assert!(found >= PLANTED_PAIRS * 9 / 10, "with 15 blocks of a busy disk: {found} of {PLANTED_PAIRS}");
    }
}

/// Blocks are added one by one while it is undecided, up to the limit.
#[test]
fn a_slow_down_of_3_percent_is_found_when_blocks_are_added_and_half_a_percent_is_not() {
    let blocks = Blocks::read(THROTTLED, "randread-4k");
    let noise = blocks.half(1).noise();
    let mut draws = Draws {
        blocks: blocks.half(0),
        noise: Some(&noise),
        pairs: Pairs::TwoRuns,
        count: 0,
        quantities: vec![IOPS],
    };
    let mut worse = |slower: f64, pairs: u64| {
        let found = (0..pairs).filter(|seed| draws.verdict_with_more_blocks(*seed, slower) == Verdict::Worse);
        found.count() as u64
    };
    let (found, half) = (worse(1.03, PLANTED_PAIRS), worse(1.005, PLANTED_PAIRS));
    println!("of {PLANTED_PAIRS}: 3 % {found}, 0.5 % {half}");
    assert!(found >= PLANTED_PAIRS * 9 / 10, "{found} of {PLANTED_PAIRS}");
    assert!(is_accepted(PLANTED_PAIRS - half, PLANTED_PAIRS), "{half} of {PLANTED_PAIRS} of 0.5 %");
    // A disk whose blocks lie 10 % apart cannot show 3 % with so many, and does not say that there is no difference.
    let busy = Draws {
        blocks: Blocks::read(BUSY, "randread-4k"),
        noise: None,
        pairs: Pairs::TwoRuns,
        count: BLOCKS_MAX as usize,
        quantities: vec![IOPS],
    };
    let is_open = |comparison: &Comparison| comparison.lines[0].verdict != Verdict::NoDifference;
    let open = busy.count(PLANTED_PAIRS, 1.03, is_open);
    assert!(open >= PLANTED_PAIRS * 9 / 10, "{open} of {PLANTED_PAIRS}");
}

#[test]
fn a_slow_down_of_half_a_percent_is_not_called_different() {
    for (name, text) in [("busy", BUSY), ("throttled", THROTTLED)] {
        let (blocks, count) = (Blocks::read(text, "randread-4k"), BLOCKS_MAX as usize);
        let draws = Draws { blocks, noise: None, pairs: Pairs::TwoRuns, count, quantities: vec![IOPS] };
        let same = draws.count(PAIRS / 2, 1.005, |comparison| !comparison.lines.iter().any(is_different));
        assert!(is_accepted(same, PAIRS / 2), "{name}: {same} of {}", PAIRS / 2);
    }
}

/// The rates for every number of blocks, on request.
#[test]
fn rates_over_every_number_of_blocks() {
    if std::env::var_os("ICECORE_COMPARE_LONG").is_none() {
        println!("skipped: set ICECORE_COMPARE_LONG=1 for the table of rates, which takes minutes");
        return;
    }
    for (name, text) in [("busy disk", BUSY), ("throttled", THROTTLED)] {
        for pairs in [Pairs::OneRun, Pairs::TwoRuns, Pairs::TwoTimes] {
            for has_noise in [false, true] {
                let blocks = Blocks::read(text, "randread-4k");
                let noise = blocks.half(1).noise();
                for count in [5, 8, 15] {
                    let draws = Draws {
                        blocks: if matches!(pairs, Pairs::TwoTimes) {
                            Blocks::read(text, "randread-4k")
                        } else {
                            blocks.half(0)
                        },
                        noise: has_noise.then_some(&noise),
                        pairs,
                        count,
                        quantities: Vec::new(),
                    };
                    let mut none = BTreeMap::new();
                    let (mut any, mut interval, mut effect, mut plain) = (0, 0, 0, 0);
                    for seed in 0..PAIRS {
                        let comparison = draws.compare(seed, 1.0);
                        for line in comparison.lines.iter().filter(|line| is_different(line)) {
                            *none.entry(line.quantity.name).or_insert(0) += 1;
                        }
                        any += u64::from(comparison.lines.iter().any(is_different));
                        interval += u64::from(comparison.lines.iter().any(excludes_one));
                        effect += u64::from(comparison.lines.iter().any(is_large));
                        plain += u64::from(comparison.lines.iter().any(|line| {
                            let ratio = line.plain.ratio;
                            (ratio.ci_low > 1.0 || ratio.ci_high < 1.0) && ratio.median.ln().abs() > 0.02
                        }));
                    }
                    let found = |slower: f64| draws.count(PLANTED_PAIRS, slower, has_iops_worse);
                    println!(
                        "{name}, {pairs:?}, noise {has_noise}, {count} blocks: of {PAIRS} A/A pairs different {any} {none:?}, by interval alone {interval}, \
                         by effect alone {effect}, by plain ratio {plain}; of {PLANTED_PAIRS} found: 20 % {}, 3 % {}, 0.5 % {}",
                        found(1.2),
                        found(1.03),
                        found(1.005)
                    );
                }
            }
        }
    }
}

fn excludes_one(line: &Line) -> bool {
    let ratio = line.judged().ratio;
    ratio.ci_low > 1.0 || ratio.ci_high < 1.0
}

fn is_large(line: &Line) -> bool {
    line.judged().ratio.median.ln().abs() >= SMALLEST_EFFECT.ln_1p()
}
