//! Reading a run folder back: everything a report or a comparison may know about a run.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};

use serde::de::DeserializeOwned;

use super::{
    BandRow, EVENTS_FILE, EventRow, LATENCIES_FILE, MANIFEST_FILE, METRICS_FILE, Manifest, MetricRow,
    RECOVERY_FILE, RUNS_FILE, RecoveryRow, ResultsError, RunHistograms, RunRow, SERIES_FILE, SecondRow,
    TIMESERIES_FILE, WindowRow, histogram_log, rest,
};

/// A run folder in memory.
#[derive(Clone, Debug, Default)]
pub struct RunData {
    /// What was run, on what.
    pub manifest: Manifest,
    /// One row an arm of a block.
    pub runs: Vec<RunRow>,
    /// One row a value; rows of a run that `runs.csv` does not list are left out.
    pub metrics: Vec<MetricRow>,
    /// One row a second; likewise.
    pub seconds: Vec<SecondRow>,
    /// One row a second and band of latency; likewise.
    pub bands: Vec<BandRow>,
    /// One row an event.
    pub events: Vec<EventRow>,
    /// One row a recovery.
    pub recovery: Vec<RecoveryRow>,
    /// One row a window of a suite of snapshots; likewise.
    pub windows: Vec<WindowRow>,
    /// The histograms by number of the run.
    pub histograms: BTreeMap<u64, RunHistograms>,
}

impl RunData {
    /// Reads the folder.
    ///
    /// Errors: [`ResultsError::Missing`] names a file that is not there, [`ResultsError::Malformed`] one that cannot
    /// be understood. Nothing is made up for either.
    pub fn read(folder: &Path) -> Result<Self, ResultsError> {
        let manifest = Manifest::load(&folder.join(MANIFEST_FILE))?;
        let is_whole = manifest.complete;
        let runs: Vec<RunRow> = read_table(&folder.join(RUNS_FILE), is_whole)?;
        let mut metrics: Vec<MetricRow> = read_table(&folder.join(METRICS_FILE), is_whole)?;
        let mut seconds: Vec<SecondRow> = read_table(&folder.join(TIMESERIES_FILE), is_whole)?;
        let events = read_table(&folder.join(EVENTS_FILE), is_whole)?;
        // Most runs measure no recovery, and no suite of snapshots.
        let recovery = read_if_there(&folder.join(RECOVERY_FILE), is_whole)?;
        // Runs of earlier versions kept no latencies by second, and fio tells none.
        let mut bands: Vec<BandRow> = read_if_there(&folder.join(LATENCIES_FILE), is_whole)?;
        let mut windows: Vec<WindowRow> = read_if_there(&folder.join(SERIES_FILE), is_whole)?;
        let mut histograms = BTreeMap::new();
        for run in runs.iter().filter(|run| !run.hist_file.is_empty()) {
            let relative = Path::new(&run.hist_file);
            // A folder may come from elsewhere: what it names must lie in it.
            if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
                let detail = format!("hist_file {} leaves the folder", run.hist_file);
                return Err(ResultsError::malformed(&folder.join(RUNS_FILE), detail));
            }
            histograms.insert(run.run, histogram_log::load(&folder.join(relative))?);
        }
        // An arm whose row in runs.csv was not reached is not there in full.
        let listed: HashSet<u64> = runs.iter().map(|run| run.run).collect();
        metrics.retain(|row| row.run.is_none_or(|run| listed.contains(&run)));
        seconds.retain(|row| listed.contains(&row.run));
        bands.retain(|row| listed.contains(&row.run));
        windows.retain(|row| listed.contains(&row.run));
        Ok(RunData { manifest, runs, metrics, seconds, bands, events, recovery, windows, histograms })
    }
}

/// The rows of a table of metrics that lies by itself.
///
/// Errors: as [`RunData::read`].
pub fn read_metrics(path: &Path) -> Result<Vec<MetricRow>, ResultsError> {
    read_table(path, true)
}

/// Every row; of a table that is not known to be whole, all but a last one that is there in part.
fn read_table<Row: DeserializeOwned>(path: &Path, is_whole: bool) -> Result<Vec<Row>, ResultsError> {
    let bytes = std::fs::read(path).map_err(ResultsError::io(path, "read"))?;
    let end = if is_whole { bytes.len() } else { rest::whole_rows(&bytes) };
    Ok(rest::parse(path, &bytes[..end])?.into_iter().map(|(_, row)| row).collect())
}

fn read_if_there<Row: DeserializeOwned>(path: &Path, is_whole: bool) -> Result<Vec<Row>, ResultsError> {
    match read_table(path, is_whole) {
        Err(ResultsError::Missing { .. }) => Ok(Vec::new()),
        read => read,
    }
}
