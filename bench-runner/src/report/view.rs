//! A run folder arranged for reading: which arms, workloads and depths there are, and the pooled row of each.

use hdrhistogram::Histogram;

use super::noise;
use crate::compare::Side;
use crate::results::{MetricRow, RunData, RunRow, merged, pooled_rows};
use crate::suite::Load;

/// Arms that stand first in tables and legends: the bare device, then other ways of measuring it.
const FIRST_ARMS: [&str; 3] = ["raw", "ring", "fio"];

/// A run folder arranged for reading.
pub(super) struct View<'a> {
    pub data: &'a RunData,
    /// The blocks, where arms were measured twice.
    pub twice: Option<Side>,
    pooled: Vec<MetricRow>,
    /// The pooled rows of suites of snapshots.
    pub suites: Vec<MetricRow>,
    /// The pooled rows of open loads.
    pub loads: Vec<MetricRow>,
    /// Names of the arms; an arm's place decides its colour everywhere.
    pub arms: Vec<&'a str>,
    /// Workloads with their depths, in the order they were run.
    pub workloads: Vec<(&'a str, Vec<u32>)>,
}

impl<'a> View<'a> {
    pub fn new(data: &'a RunData) -> Self {
        let mut arms: Vec<&str> = Vec::new();
        let mut workloads: Vec<(&str, Vec<u32>)> = Vec::new();
        for run in &data.runs {
            if !arms.contains(&run.arm.as_str()) {
                arms.push(&run.arm);
            }
            if !Load::is_closed_phase(&run.phase) {
                continue;
            }
            match workloads.iter_mut().find(|(name, _)| *name == run.workload) {
                Some((_, depths)) if depths.contains(&run.queue_depth) => {}
                Some((_, depths)) => depths.push(run.queue_depth),
                None => workloads.push((&run.workload, vec![run.queue_depth])),
            }
        }
        for (_, depths) in &mut workloads {
            depths.sort_unstable();
        }
        // The order of arms within a block is random: take the plan's instead, behind the bare device.
        let planned = |arm: &str| data.manifest.plan.arms.iter().position(|name| name == arm);
        let first = |arm: &str| FIRST_ARMS.iter().position(|name| *name == arm).unwrap_or(FIRST_ARMS.len());
        arms.sort_by_key(|arm| (first(arm), planned(arm).unwrap_or(usize::MAX)));
        // A run that was cut short has not pooled its blocks; the same function does it here.
        let is_pooled = |row: &&MetricRow| row.run.is_none() && row.metric != "runner_cost";
        let written: Vec<MetricRow> = data.metrics.iter().filter(is_pooled).cloned().collect();
        let all = if written.is_empty() {
            pooled_rows(&data.runs, &data.metrics, &data.histograms, data.manifest.seed)
        } else {
            written
        };
        let (loads, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|row| Load::is_open_phase(&row.phase));
        let (pooled, suites) = all.into_iter().partition(|row| Load::is_closed_phase(&row.phase));
        View { data, twice: noise::twice(data), pooled, suites, loads, arms, workloads }
    }

    /// The CSS class that carries the arm's colour.
    pub fn colour(&self, arm: &str) -> String {
        const COLOURS: usize = 8;
        format!("s{}", self.arms.iter().position(|name| *name == arm).unwrap_or(0) % COLOURS)
    }

    /// Every workload and depth.
    pub fn panels(&self) -> impl Iterator<Item = (&'a str, u32)> + '_ {
        self.workloads
            .iter()
            .flat_map(|(workload, depths)| depths.iter().map(move |depth| (*workload, *depth)))
    }

    /// The pooled row, where there is one.
    pub fn pooled(
        &self,
        arm: &str,
        (workload, depth): (&str, u32),
        op: &str,
        metric: &str,
        stat: &str,
    ) -> Option<&MetricRow> {
        self.pooled.iter().find(|row| {
            row.arm == arm
                && row.workload == workload
                && row.queue_depth == Some(depth)
                && row.op == op
                && row.metric == metric
                && row.stat == stat
        })
    }

    /// All pooled rows.
    pub fn pooled_rows(&self) -> impl Iterator<Item = &MetricRow> {
        self.pooled.iter()
    }

    /// The value of that row.
    pub fn value(&self, arm: &str, panel: (&str, u32), op: &str, metric: &str, stat: &str) -> Option<f64> {
        self.pooled(arm, panel, op, metric, stat)?.value
    }

    /// The rows of paired ratios with a value and the two arms' names.
    pub fn ratios(&self) -> impl Iterator<Item = (&MetricRow, &str, &str)> {
        self.pooled.iter().filter_map(|row| {
            let (arm, reference) = row.arm.split_once('/')?;
            row.value.map(|_| (row, arm, reference))
        })
    }

    /// The rows of the runner's own cost.
    pub fn runner_costs(&self) -> impl Iterator<Item = &MetricRow> {
        self.data.metrics.iter().filter(|row| row.metric == "runner_cost")
    }

    /// Runs of an arm in a panel.
    pub fn runs(&self, arm: &str, (workload, depth): (&str, u32)) -> impl Iterator<Item = &'a RunRow> {
        self.data
            .runs
            .iter()
            .filter(move |run| {
                Load::is_closed_phase(&run.phase) && run.arm == arm && run.workload == workload
            })
            .filter(move |run| run.queue_depth == depth)
    }

    /// Latencies of reads and writes of the valid runs, merged.
    pub fn latencies(&self, arm: &str, panel: (&str, u32)) -> Option<Histogram<u64>> {
        let blocks: Vec<Histogram<u64>> = self
            .runs(arm, panel)
            .filter(|run| run.valid)
            .filter_map(|run| self.data.histograms.get(&run.run)?.of("all"))
            .collect();
        merged(&blocks)
    }
}
