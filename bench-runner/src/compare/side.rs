//! One side of a comparison: the values of each block, by arm and cell.
//!
//! Only rows of blocks are looked at, never the pooled ones beside them: what is compared is what was measured, or
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::quantity::Quantity;
use crate::failure::Failure;
use crate::results::{MANIFEST_FILE, METRICS_FILE, Manifest, MetricRow, RunData, RunRow, read_metrics};
use crate::suite::Load;

/// What must agree for two values to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Name of the workload, or of the suite.
    pub workload: String,
    /// Requests in flight.
    pub queue_depth: Option<u32>,
    /// Offered load, where it is open.
    pub offered_iops: Option<u64>,
    /// Snapshots in the chain.
    pub chain_depth: Option<u32>,
    /// `measure`, or the part of a suite.
    pub phase: String,
    /// Bytes of a request.
    pub bs_bytes: Option<u64>,
    /// `read`, `write`, `flush` or `all`.
    pub op: String,
}

impl Cell {
    /// Of a row of a block, or of one that pools them.
    pub fn of(row: &MetricRow) -> Self {
        Cell {
            workload: row.workload.clone(),
            queue_depth: row.queue_depth,
            // A share of what each arm can do is another number in each block; the phase says which share.
            // What a trace asked for is counted, and differs a little.
            offered_iops: row
                .offered_iops
                .filter(|_| !row.phase.ends_with('%') && !Load::is_replay_phase(&row.phase)),
            chain_depth: row.chain_depth,
            phase: row.phase.clone(),
            bs_bytes: row.bs_bytes,
            op: row.op.clone(),
        }
    }
}

/// A value of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockValue {
    /// The value.
    pub value: f64,
    /// Seed of the block's addresses.
    pub seed: u64,
}

/// Values by block.
pub type Series = BTreeMap<u32, BlockValue>;

/// Rows by metric and stat.
type RowsOfMetric = BTreeMap<(String, String), Vec<MetricRow>>;

/// A run folder or a table of metrics, arranged for comparing.
#[derive(Debug)]
pub struct Side {
    /// The path as given.
    pub name: String,
    /// The path without links, by which two sides are known to be one.
    pub path: PathBuf,
    /// What was run; `None` for a table alone.
    pub manifest: Option<Manifest>,
    /// Its rows of `runs.csv`; none for a table alone.
    pub runs: Vec<RunRow>,
    /// Rows of valid blocks, by arm, cell, metric and stat.
    values: BTreeMap<(String, Cell), RowsOfMetric>,
    /// Why blocks of an arm do not count.
    invalid: BTreeMap<(String, Cell), BTreeSet<String>>,
}

impl Side {
    /// Reads a run folder, or the table `metrics.csv` of one. A table that still lies in its run folder stands for
    /// the folder.
    ///
    /// # Errors
    /// Whatever a folder lacks or another version of the format, by name.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let canonical = fs::canonicalize(path).map_err(|error| {
            Failure::environment(format!(
                "{name}: {error}: compare takes two run folders, or their {METRICS_FILE}"
            ))
        })?;
        if canonical.is_dir() {
            return Ok(Self::of_folder(name, canonical.clone(), RunData::read(&canonical)?));
        }
        let folder = canonical.parent().filter(|folder| folder.join(MANIFEST_FILE).exists());
        match folder {
            Some(folder) => Ok(Self::of_folder(name, folder.to_owned(), RunData::read(folder)?)),
            None => {
                let rows = read_metrics(&canonical)?;
                Ok(Self::of_rows(name, canonical, None, Vec::new(), rows))
            }
        }
    }

    fn of_folder(name: String, path: PathBuf, data: RunData) -> Self {
        Self::of_rows(name, path, Some(data.manifest), data.runs, data.metrics)
    }

    /// A side of these rows.
    pub fn of_rows(
        name: String,
        path: PathBuf,
        manifest: Option<Manifest>,
        runs: Vec<RunRow>,
        rows: Vec<MetricRow>,
    ) -> Self {
        let mut side = Side { name, path, manifest, runs, values: BTreeMap::new(), invalid: BTreeMap::new() };
        for row in rows.into_iter().filter(|row| row.block.is_some()) {
            let key = (row.arm.clone(), Cell::of(&row));
            if row.valid {
                let metric = (row.metric.clone(), row.stat.clone());
                side.values.entry(key).or_default().entry(metric).or_default().push(row);
            } else {
                side.invalid.entry(key).or_default().insert(row.invalid_reason);
            }
        }
        side
    }

    /// The arms with their cells, whether or not a block of them counts.
    pub fn cells(&self) -> BTreeSet<(&str, &Cell)> {
        self.values.keys().chain(self.invalid.keys()).map(|(arm, cell)| (arm.as_str(), cell)).collect()
    }

    /// The names of the arms.
    pub fn arms(&self) -> BTreeSet<&str> {
        self.cells().into_iter().map(|(arm, _)| arm).collect()
    }

    /// Whether any block of the arm counts there.
    pub fn has_valid(&self, arm: &str, cell: &Cell) -> bool {
        self.values.contains_key(&(arm.to_owned(), cell.clone()))
    }

    /// Why blocks of the arm do not count there.
    pub fn why_invalid(&self, arm: &str, cell: &Cell) -> Vec<&str> {
        self.invalid
            .get(&(arm.to_owned(), cell.clone()))
            .map_or(Vec::new(), |reasons| reasons.iter().map(String::as_str).collect())
    }

    /// Whether the quantity was asked for there, measured or not.
    pub fn has_rows(&self, arm: &str, cell: &Cell, quantity: &Quantity) -> bool {
        let metrics = self.values.get(&(arm.to_owned(), cell.clone()));
        metrics.is_some_and(|metrics| {
            quantity.metrics.iter().all(|name| metrics.contains_key(&key(name, quantity)))
        })
    }

    /// The quantity in each valid block that has it. Where a block has several (the bare device beside several volumes),
    /// their mean.
    pub fn series(&self, arm: &str, cell: &Cell, quantity: &Quantity) -> Series {
        let Some(metrics) = self.values.get(&(arm.to_owned(), cell.clone())) else { return Series::new() };
        let mut whole: Option<Series> = None;
        for name in quantity.metrics {
            let rows = metrics.get(&key(name, quantity)).map_or(&[][..], |rows| rows);
            let mut of_block: BTreeMap<u32, Vec<BlockValue>> = BTreeMap::new();
            for row in rows {
                if let (Some(block), Some(value)) = (row.block, row.value) {
                    of_block.entry(block).or_default().push(BlockValue { value, seed: row.seed });
                }
            }
            let part: Series = of_block
                .into_iter()
                .map(|(block, values)| {
                    let sum: f64 = values.iter().map(|value| value.value).sum();
                    (block, BlockValue { value: sum / values.len() as f64, seed: values[0].seed })
                })
                .collect();
            whole = Some(match whole {
                None => part,
                Some(before) => before
                    .into_iter()
                    .filter_map(|(block, one)| {
                        let other = part.get(&block)?;
                        Some((block, BlockValue { value: one.value + other.value, ..one }))
                    })
                    .collect(),
            });
        }
        whole.unwrap_or_default()
    }

    /// Valid blocks of the arm in which the load was not steady: they are kept, and not ranked.
    pub fn unsteady(&self, arm: &str, cell: &Cell) -> BTreeSet<u32> {
        self.values
            .get(&(arm.to_owned(), cell.clone()))
            .into_iter()
            .flat_map(|metrics| metrics.values().flatten())
            .filter(|row| row.steady == Some(false))
            .filter_map(|row| row.block)
            .collect()
    }
}

fn key(name: &str, quantity: &Quantity) -> (String, String) {
    (name.to_owned(), quantity.stat.to_owned())
}
