//! How a run is made: the state of the device before it, how long a load goes on, each arm once or twice in a block, and when there
//! are blocks enough.
//!
//! Blocks are enough when the interval of every arm's ratio to the bare device is narrow. What the ratio is has no say in it:
//! who stops when a difference shows will find one.

use crate::arms::Arm;
use crate::compare::noise::AGAIN;
use crate::compare::quantity::{IOPS, LATENCY_P99, RATE_HALF_WIDTH, TIME_HALF_WIDTH};
use crate::compare::{BARE, Cell, Pairing, Series, Side, estimate};
use crate::content::PRECONDITIONING;
use crate::failure::Failure;
use crate::precondition::Precondition;
use crate::results::{METRICS_FILE, RunFolder, Stopping, read_metrics};
use crate::stats::steady;

/// Fewest blocks of a run that goes on until it is settled: with fewer there is no 95 % interval.
pub const BLOCKS_MIN: u32 = 5;
/// Most blocks of it.
pub const BLOCKS_MAX: u32 = 15;

/// How a run is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// Each arm twice in each block: the second time its name ends with [`AGAIN`].
    pub a_a: bool,
    /// As many blocks as narrow intervals take, from [`BLOCKS_MIN`] to [`BLOCKS_MAX`].
    pub until_settled: bool,
    /// When the device is purged and written over.
    pub precondition: Precondition,
    /// Each closed load as long as it takes to be steady: five rounds at least, which are what is measured, and 25 at most.
    pub until_steady: bool,
}

impl Method {
    /// What runs in each block, with its name.
    pub fn arms(&self, arms: &[Arm]) -> Vec<(Arm, String)> {
        let second: &[Arm] = if self.a_a { arms } else { &[] };
        let named = arms.iter().map(|arm| (*arm, arm.name().to_owned()));
        named.chain(second.iter().map(|arm| (*arm, format!("{}{AGAIN}", arm.name())))).collect()
    }

    /// How the span is prepared, in words for results.
    pub fn preconditioning(&self) -> String {
        format!("{}{PRECONDITIONING}", self.precondition.words())
    }

    /// When a load ends, in words for results; `None` where that is a matter of time alone.
    pub fn steady_state(&self, measure_ns: u64) -> Option<String> {
        let round_s = measure_ns as f64 / 1e9 / steady::WINDOW as f64;
        let rule =
            || format!("{}; rounds of {round_s} s, at most {} of them", steady::rule(), steady::ROUNDS_MAX);
        self.until_steady.then(rule)
    }

    /// Times under load of an arm that is asked for so much: the shortest and the longest.
    pub fn load_ns(&self, is_closed: bool, measure_ns: u64) -> (u64, u64) {
        let most = if self.until_steady && is_closed {
            measure_ns / steady::WINDOW as u64 * steady::ROUNDS_MAX as u64
        } else {
            measure_ns
        };
        (measure_ns, most)
    }

    /// Looks at the folder after a block: whether no further one is needed. Says so in the manifest.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn is_settled(&self, folder: &mut RunFolder, block: u32) -> Result<bool, Failure> {
        if !self.until_settled {
            return Ok(false);
        }
        let rows = read_metrics(&folder.path().join(METRICS_FILE))?;
        let path = folder.path().to_owned();
        let open = unsettled(&Side::of_rows(path.display().to_string(), path, None, Vec::new(), rows));
        let settled = block >= BLOCKS_MIN && open.is_empty();
        match open.first() {
            _ if settled => eprintln!("settled after {block} blocks"),
            Some(first) => eprintln!("after block {block}: {first}; {} in all are not settled", open.len()),
            None => {}
        }
        folder.change_manifest(|manifest| {
            manifest.stopping = Some(Stopping { rule: rule(), blocks: block, settled, open });
        })?;
        Ok(settled)
    }
}

/// The rule in one sentence.
fn rule() -> String {
    format!(
        "{BLOCKS_MIN} to {BLOCKS_MAX} blocks, until the 95 % interval of every arm's ratio to {BARE} is within ±{} % for \
         iops and ±{} % for the p99 latency",
        RATE_HALF_WIDTH * 100.0,
        TIME_HALF_WIDTH * 100.0
    )
}

/// The ratios to the bare device whose intervals are too wide, the widest first. A tail that has too few samples in a
/// block is not waited for.
fn unsettled(side: &Side) -> Vec<String> {
    let mut open: Vec<(f64, String)> = Vec::new();
    let cells = side.cells().into_iter().filter(|(arm, cell)| *arm != BARE && cell.op == "all");
    for (arm, cell) in cells {
        for quantity in [IOPS, LATENCY_P99] {
            let (bare, own) = (side.series(BARE, cell, &quantity), side.series(arm, cell, &quantity));
            if bare.is_empty() || own.is_empty() {
                continue;
            }
            let half_width = width(&bare, &own);
            // A ratio of the limit, so that rates and latencies stand in one order.
            let share = half_width / quantity.half_width();
            if share > 1.0 {
                let name = quantity.name;
                let width = if half_width.is_finite() {
                    format!("±{:.1} %", half_width * 100.0)
                } else {
                    "no interval".to_owned()
                };
                open.push((share, format!("{arm}/{BARE} {} {name} {width}", place(cell))));
            }
        }
    }
    open.sort_by(|a, b| b.0.total_cmp(&a.0));
    open.into_iter().map(|(_, text)| text).collect()
}

fn width(bare: &Series, own: &Series) -> f64 {
    const SEED: u64 = 1;
    let found = estimate(Pairing::SameBlock, bare, own, SEED);
    found
        .filter(|found| found.ratio.n >= BLOCKS_MIN as usize)
        .map_or(f64::INFINITY, |found| found.ratio.half_width)
}

fn place(cell: &Cell) -> String {
    format!("{} depth {}", cell.workload, cell.queue_depth.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::MetricRow;
    use std::path::PathBuf;

    /// Blocks of an arm and the bare device: the arm's rate over its own, block by block.
    fn side(ratios: &[f64], tails: &[f64]) -> Side {
        let row = |arm: &str, block: u32, metric: &str, stat: &str, value: f64| MetricRow {
            block: Some(block),
            arm: arm.to_owned(),
            workload: "randread-4k".to_owned(),
            op: "all".to_owned(),
            queue_depth: Some(1),
            phase: "measure".to_owned(),
            metric: metric.to_owned(),
            stat: stat.to_owned(),
            value: Some(value),
            valid: true,
            ..MetricRow::default()
        };
        let mut rows = Vec::new();
        for (block, ratio) in (1..).zip(ratios) {
            rows.push(row("raw", block, "iops", "mean", 100.0 * f64::from(block)));
            rows.push(row("direct", block, "iops", "mean", 100.0 * f64::from(block) * ratio));
        }
        for (block, ratio) in (1..).zip(tails) {
            rows.push(row("raw", block, "latency", "p99", 9.0));
            rows.push(row("direct", block, "latency", "p99", 9.0 * ratio));
        }
        Side::of_rows("test".to_owned(), PathBuf::new(), None, Vec::new(), rows)
    }

    #[test]
    fn narrow_intervals_settle_it() {
        assert_eq!(unsettled(&side(&[0.90, 0.91, 0.90, 0.91, 0.92], &[])), Vec::<String>::new());
        assert_eq!(unsettled(&side(&[0.90, 0.91, 0.90, 0.91], &[])).len(), 1, "four blocks are too few");
        assert_eq!(unsettled(&side(&[0.90, 0.95, 0.90, 0.91, 0.92], &[])).len(), 1);
        // The tail may be wider than the rate, and is looked at too.
        assert_eq!(unsettled(&side(&[1.0; 5], &[0.97, 1.0, 1.01, 1.03, 1.04])), Vec::<String>::new());
        let open = unsettled(&side(&[1.0, 1.0, 1.0, 1.0, 1.041], &[0.9, 1.0, 1.0, 1.0, 1.3]));
        assert_eq!(open.len(), 2);
        assert!(open[0].contains("latency_p99") && open[1].contains("iops"), "the widest first: {open:?}");
    }

    #[test]
    fn each_arm_twice_under_two_names() {
        let once = Method::default().arms(&[Arm::Raw, Arm::Ring]);
        assert_eq!(once.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["raw", "ring"]);
        let twice = Method { a_a: true, ..Method::default() }.arms(&[Arm::Raw, Arm::Ring]);
        let names: Vec<&str> = twice.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["raw", "ring", "raw-again", "ring-again"]);
    }
}
