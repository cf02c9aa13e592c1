//! From blocks to one value an arm, and to ratios between arms.
//!
//! Rates and costs are means over the blocks; latencies are read from the merged histograms; ratios are medians of
//! what the blocks show pair by pair. Only valid runs count. A row whose value cannot be given is there, empty.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;

use super::arm_rows::{LATENCY_INTENDED, PEER, PERCENTILES};
use super::{MetricRow, RunHistograms, RunRow};
use crate::stats;

/// Arms that others are compared with, the most independent first; other systems come behind them. An arm earlier in
/// this list is never set beside a later one, so that each pair appears once.
const REFERENCES: [&str; 3] = ["fio", "ring", "raw"];

/// The ratios given for each pair: their name and, over the operations `all`, the metrics and stat that are added
/// up on both sides.
const RATIOS: [(&str, &[&str], &str); 4] = [
    ("iops_ratio", &["iops"], "mean"),
    ("latency_p50_ratio", &["latency"], "p50"),
    ("latency_p99_ratio", &["latency"], "p99"),
    ("cpu_ratio", &["cpu_user", "cpu_system"], "mean"),
];

/// Metrics that are read from merged histograms, never averaged.
const MERGED: [&str; 2] = ["latency", LATENCY_INTENDED];

/// The pooled rows of a run: `block` empty, interval filled (from two blocks on). `metrics` are the rows of the
/// blocks, `seed` that of the bootstrap.
pub fn pooled_rows(
    runs: &[RunRow],
    metrics: &[MetricRow],
    histograms: &BTreeMap<u64, RunHistograms>,
    seed: u64,
) -> Vec<MetricRow> {
    let mut rows = Vec::new();
    let mut cells: Vec<Cell> = Vec::new();
    for run in runs {
        match cells.iter_mut().find(|cell| cell.holds(run)) {
            Some(cell) => cell.runs.push(run),
            None => cells.push(Cell { runs: vec![run], first: run }),
        }
    }
    for cell in &cells {
        cell.pool(metrics, histograms, seed, &mut rows);
    }
    for cell in &cells {
        for reference in cells.iter().filter(|other| cell.is_compared_with(other)) {
            cell.compare(reference, metrics, seed, &mut rows);
        }
    }
    rows
}

/// All blocks of one arm at one workload and depth, and one part of it where it is a suite of snapshots.
struct Cell<'a> {
    first: &'a RunRow,
    runs: Vec<&'a RunRow>,
}

impl Cell<'_> {
    fn holds(&self, run: &RunRow) -> bool {
        self.first.arm == run.arm && self.is_beside(run)
    }

    fn is_beside(&self, run: &RunRow) -> bool {
        self.first.workload == run.workload
            && self.first.queue_depth == run.queue_depth
            && self.first.phase == run.phase
            && self.first.chain_depth == run.chain_depth
    }

    fn is_compared_with(&self, other: &Cell) -> bool {
        let rank = |run: &RunRow| match REFERENCES.iter().position(|reference| *reference == run.arm) {
            None if run.backend == PEER => Some(REFERENCES.len()),
            place => place,
        };
        let (mine, theirs) = (rank(self.first), rank(other.first));
        self.is_beside(other.first) && theirs.is_some_and(|theirs| mine.is_none_or(|mine| theirs < mine))
    }

    fn valid(&self) -> impl Iterator<Item = &RunRow> {
        self.runs.iter().copied().filter(|run| run.valid)
    }

    /// Whether every valid block was steady; `None` where no block was long enough to tell.
    fn steady(&self) -> Option<bool> {
        self.valid().filter_map(|run| run.steady).reduce(|all, one| all && one)
    }

    fn row(&self, op: &str, metric: &str, stat: &str, unit: &str, seed: u64) -> MetricRow {
        let valid = self.valid().next().is_some();
        MetricRow {
            arm: self.first.arm.clone(),
            backend: self.first.backend.clone(),
            workload: self.first.workload.clone(),
            op: op.to_string(),
            bs_bytes: Some(self.first.bs_bytes),
            queue_depth: Some(self.first.queue_depth),
            chain_depth: self.first.chain_depth,
            phase: self.first.phase.clone(),
            metric: metric.to_string(),
            stat: stat.to_string(),
            unit: unit.to_string(),
            steady: self.steady(),
            valid,
            invalid_reason: if valid { String::new() } else { "no valid block".to_string() },
            seed,
            ..MetricRow::default()
        }
    }

    fn pool(
        &self,
        metrics: &[MetricRow],
        histograms: &BTreeMap<u64, RunHistograms>,
        seed: u64,
        rows: &mut Vec<MetricRow>,
    ) {
        let numbers: BTreeSet<u64> = self.runs.iter().map(|run| run.run).collect();
        let valid: BTreeSet<u64> = self.valid().map(|run| run.run).collect();
        let own: Vec<&MetricRow> =
            metrics.iter().filter(|row| row.run.is_some_and(|run| numbers.contains(&run))).collect();
        let mut ops: Vec<&str> = Vec::new();
        for row in &own {
            if !ops.contains(&row.op.as_str()) {
                ops.push(&row.op);
            }
        }
        for op in ops {
            let mut done: Vec<(&str, &str)> = Vec::new();
            let of_op = || own.iter().filter(|row| row.op == op);
            for row in of_op().filter(|row| !MERGED.contains(&row.metric.as_str())) {
                if done.contains(&(&row.metric, &row.stat)) {
                    continue;
                }
                done.push((&row.metric, &row.stat));
                let values: Vec<f64> = of_op()
                    .filter(|other| other.metric == row.metric && other.stat == row.stat)
                    .filter(|other| other.run.is_some_and(|run| valid.contains(&run)))
                    .filter_map(|other| other.value)
                    .collect();
                let mut pooled = self.row(op, &row.metric, &row.stat, &row.unit, seed);
                // A share of a bound was taken within each block, like a ratio of two arms.
                if row.stat == "median" {
                    fill_ratio(&mut pooled, stats::paired_ratio(&values, &vec![1.0; values.len()], seed));
                } else {
                    fill(&mut pooled, stats::block_mean(&values, seed));
                }
                rows.push(pooled);
            }
            let blocks: Vec<Histogram<u64>> =
                valid.iter().filter_map(|run| histograms.get(run)?.of(op)).collect();
            self.pool_latency(op, "latency", &blocks, seed, rows);
            let blocks: Vec<Histogram<u64>> =
                valid.iter().filter_map(|run| histograms.get(run)?.intended_of(op)).collect();
            if !blocks.is_empty() {
                self.pool_latency(op, LATENCY_INTENDED, &blocks, seed, rows);
            }
        }
    }

    fn pool_latency(
        &self,
        op: &str,
        metric: &str,
        blocks: &[Histogram<u64>],
        seed: u64,
        rows: &mut Vec<MetricRow>,
    ) {
        let blocks: Vec<&Histogram<u64>> = blocks.iter().collect();
        for (stat, q) in PERCENTILES {
            let mut pooled = self.row(op, metric, stat, "ns", seed);
            pooled.n = blocks.len() as u64;
            fill(&mut pooled, stats::pooled_percentile(&blocks, q, seed));
            rows.push(pooled);
        }
        // Blocks drawn again never hold a longer latency than the longest: a bootstrap says nothing about it.
        let mut longest = self.row(op, metric, "max", "ns", seed);
        longest.n = blocks.len() as u64;
        longest.value = blocks.iter().map(|block| block.max()).max().map(|max| max as f64);
        rows.push(longest);
    }

    /// The value of each valid block, summed over `names`.
    fn by_block(&self, metrics: &[MetricRow], names: &[&str], stat: &str) -> BTreeMap<u32, f64> {
        let mut sums = BTreeMap::new();
        for run in self.valid() {
            let values = names.iter().map(|name| {
                metrics
                    .iter()
                    .find(|row| {
                        row.run == Some(run.run) && row.op == "all" && row.metric == *name && row.stat == stat
                    })
                    .and_then(|row| row.value)
            });
            if let Some(sum) = values.sum::<Option<f64>>() {
                sums.insert(run.block, sum);
            }
        }
        sums
    }

    fn compare(&self, reference: &Cell, metrics: &[MetricRow], seed: u64, rows: &mut Vec<MetricRow>) {
        for (name, parts, stat) in RATIOS {
            let mine = self.by_block(metrics, parts, stat);
            let theirs = reference.by_block(metrics, parts, stat);
            let (a, b): (Vec<f64>, Vec<f64>) =
                mine.iter().filter_map(|(block, a)| Some((*a, *theirs.get(block)?))).unzip();
            let mut row = self.row("all", name, "median", "1", seed);
            row.arm = format!("{}/{}", self.first.arm, reference.first.arm);
            row.steady = [self.steady(), reference.steady()].into_iter().flatten().reduce(|a, b| a && b);
            if a.is_empty() && row.valid {
                row.valid = reference.valid().next().is_some();
                row.invalid_reason =
                    if row.valid { String::new() } else { "no valid block of the reference".to_string() };
            }
            row.n = a.len() as u64;
            fill_ratio(&mut row, stats::paired_ratio(&a, &b, seed));
            rows.push(row);
        }
    }
}

fn fill(row: &mut MetricRow, estimate: Option<stats::Estimate>) {
    let Some(estimate) = estimate else { return };
    row.value = Some(estimate.value);
    row.n = estimate.n as u64;
    (row.ci_low, row.ci_high) = interval(Some((estimate.ci_low, estimate.ci_high)));
}

fn fill_ratio(row: &mut MetricRow, ratio: Option<stats::Ratio>) {
    row.n = ratio.as_ref().map_or(row.n, |ratio| ratio.n as u64);
    row.value = ratio.as_ref().map(|ratio| ratio.median);
    (row.ci_low, row.ci_high) = interval(ratio.map(|ratio| (ratio.ci_low, ratio.ci_high)));
}

/// Both ends, or neither where the interval is unbounded (one block).
fn interval(ends: Option<(f64, f64)>) -> (Option<f64>, Option<f64>) {
    match ends {
        Some((low, high)) if high.is_finite() => (Some(low), Some(high)),
        _ => (None, None),
    }
}
