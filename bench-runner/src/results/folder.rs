//! Writing a run folder, one arm at a time.
//!
//! Rows go to the operating system in whole lines as soon as an arm ends: after [`RunFolder::append_arm`] returns, a
//! crash of the process loses nothing of that arm.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::{
    ArmRun, BandRow, Dropped, EVENTS_FILE, EventRow, FORMAT_VERSION, HISTOGRAM_FOLDER, LATENCIES_FILE,
    MANIFEST_FILE, METRICS_FILE, Manifest, MetricRow, RECOVERY_FILE, RUNS_FILE, RecoveryRow, ResultsError,
    RunData, RunRow, SERIES_FILE, SecondRow, TIMESERIES_FILE, WindowRow, from_rfc3339, histogram_log,
    pooled_rows, rest, rfc3339,
};
use crate::recorder::Clock;

/// A run folder being written.
pub struct RunFolder {
    path: PathBuf,
    manifest: Manifest,
    /// From the run's beginning until this process went on with it.
    before: Duration,
    started: Instant,
    started_at: SystemTime,
    last_run: u64,
    runs: Table,
    metrics: Table,
    timeseries: Table,
    events: Table,
    /// Made with its first row.
    bands: Option<Table>,
    /// Made with its first row.
    recovery: Option<Table>,
    /// Made with its first row.
    series: Option<Table>,
}

impl RunFolder {
    /// Makes the folder (and its parents) with the manifest and tables that have headers alone. Version and times of
    /// the manifest are set here.
    ///
    /// Errors: [`ResultsError::NotEmpty`] where the folder holds anything; [`ResultsError::Io`] where it cannot be
    /// made or written.
    pub fn create(path: &Path, manifest: Manifest) -> Result<Self, ResultsError> {
        fs::create_dir_all(path).map_err(ResultsError::io(path, "create"))?;
        Self::check_empty(path)?;
        let histograms = path.join(HISTOGRAM_FOLDER);
        fs::create_dir(&histograms).map_err(ResultsError::io(&histograms, "create"))?;
        let started_at = SystemTime::now();
        let folder = RunFolder {
            path: path.to_path_buf(),
            manifest: Manifest {
                format_version: FORMAT_VERSION,
                started_utc: rfc3339(started_at),
                ended_utc: None,
                complete: false,
                interrupted: false,
                ..manifest
            },
            before: Duration::ZERO,
            started: Instant::now(),
            started_at,
            last_run: 0,
            runs: Table::create::<RunRow>(path.join(RUNS_FILE))?,
            metrics: Table::create::<MetricRow>(path.join(METRICS_FILE))?,
            timeseries: Table::create::<SecondRow>(path.join(TIMESERIES_FILE))?,
            events: Table::create::<EventRow>(path.join(EVENTS_FILE))?,
            bands: None,
            recovery: None,
            series: None,
        };
        folder.manifest.save(&path.join(MANIFEST_FILE))?;
        Ok(folder)
    }

    /// Goes on with a folder whose run was cut short. Whatever is there in part is taken away, and so are rows that pool blocks and arms
    /// that `stays`, which is shown all of them too, refuses; gives the arms that are there. The time axis goes on, with the pause in it.
    ///
    /// Errors: as for [`RunData::read`], and [`ResultsError::Io`] where the folder cannot be written.
    pub fn resume(
        path: &Path,
        stays: impl Fn(&RunRow, &[RunRow]) -> bool,
    ) -> Result<(Self, Vec<RunRow>), ResultsError> {
        let manifest = Manifest::load(&path.join(MANIFEST_FILE))?;
        let listed: Vec<RunRow> = rest::keep(&path.join(RUNS_FILE), |_: &RunRow| true)?;
        let runs: Vec<RunRow> = rest::keep(&path.join(RUNS_FILE), |row| stays(row, &listed))?;
        let numbers: HashSet<u64> = runs.iter().map(|row| row.run).collect();
        rest::keep(&path.join(METRICS_FILE), |row: &MetricRow| match row.run {
            Some(run) => numbers.contains(&run),
            // What the runner costs is all there once an arm is.
            None => !runs.is_empty() && row.is_runner_cost(),
        })?;
        rest::keep(&path.join(TIMESERIES_FILE), |row: &SecondRow| numbers.contains(&row.run))?;
        rest::keep(&path.join(EVENTS_FILE), |_: &EventRow| true)?;
        rest::keep(&path.join(LATENCIES_FILE), |row: &BandRow| numbers.contains(&row.run))?;
        rest::keep(&path.join(SERIES_FILE), |row: &WindowRow| numbers.contains(&row.run))?;
        let recovered = rest::keep(&path.join(RECOVERY_FILE), |_: &RecoveryRow| true)?.len();
        let histograms = path.join(HISTOGRAM_FOLDER);
        for entry in fs::read_dir(&histograms).map_err(ResultsError::io(&histograms, "read"))? {
            let entry = entry.map_err(ResultsError::io(&histograms, "read"))?;
            let name = format!("{HISTOGRAM_FOLDER}/{}", entry.file_name().display());
            if !runs.iter().any(|row| row.hist_file == name) {
                fs::remove_file(entry.path()).map_err(ResultsError::io(&entry.path(), "write"))?;
            }
        }
        let started_at = from_rfc3339(&manifest.started_utc).ok_or_else(|| {
            let detail = format!("started_utc is {:?}, which is no time", manifest.started_utc);
            ResultsError::malformed(&path.join(MANIFEST_FILE), detail)
        })?;
        let mut folder = RunFolder {
            path: path.to_path_buf(),
            manifest,
            before: SystemTime::now().duration_since(started_at).unwrap_or_default(),
            started: Instant::now(),
            started_at,
            last_run: runs.iter().map(|row| row.run).max().unwrap_or(0),
            runs: Table::open(path.join(RUNS_FILE))?,
            metrics: Table::open(path.join(METRICS_FILE))?,
            timeseries: Table::open(path.join(TIMESERIES_FILE))?,
            events: Table::open(path.join(EVENTS_FILE))?,
            bands: Table::open_if_there(path.join(LATENCIES_FILE))?,
            recovery: Table::open_if_there(path.join(RECOVERY_FILE))?,
            series: Table::open_if_there(path.join(SERIES_FILE))?,
        };
        folder.change_manifest(|manifest| (manifest.ended_utc, manifest.interrupted) = (None, false))?;
        folder.append_event("resumed", &format!("{} runs were there", runs.len() + recovered))?;
        Ok((folder, runs))
    }

    /// Refuses a folder that holds anything, without making one.
    ///
    /// Errors: as for [`RunFolder::create`].
    pub fn check_empty(path: &Path) -> Result<(), ResultsError> {
        match fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                Some(_) => Err(ResultsError::NotEmpty { path: path.to_path_buf() }),
                None => Ok(()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ResultsError::io(path, "read")(error)),
        }
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nanoseconds since the folder was made: the time axis of events and of the time series.
    pub fn since_start_ns(&self) -> u64 {
        u64::try_from((self.before + self.started.elapsed()).as_nanos()).unwrap_or(u64::MAX)
    }

    /// When this clock showed 0, on the same axis.
    pub(crate) fn began_ns(&self, clock: &Clock) -> u64 {
        let began = self.before + clock.started().saturating_duration_since(self.started);
        u64::try_from(began.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Changes the manifest (a part of the plan dropped while running, a fact learned late) and saves it.
    pub fn change_manifest(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), ResultsError> {
        change(&mut self.manifest);
        self.manifest.save(&self.path.join(MANIFEST_FILE))
    }

    /// Says that a part of the plan was left out, once.
    pub fn drop_part(&mut self, what: &str, why: &str) -> Result<(), ResultsError> {
        if self.manifest.dropped.iter().any(|one| one.what == what) {
            return Ok(());
        }
        self.change_manifest(|manifest| {
            manifest.dropped.push(Dropped { what: what.to_owned(), why: why.to_owned() });
        })
    }

    /// Adds one arm of one block: histograms, seconds, metrics and, last, its row in `runs.csv`. Returns the number
    /// of that row.
    pub fn append_arm(&mut self, arm: &ArmRun) -> Result<u64, ResultsError> {
        let run = self.last_run + 1;
        let started_at = self.started_at + Duration::from_nanos(arm.started_ns);
        let hist_file = match arm.outcome {
            Some(outcome) => {
                let part = arm.part.map_or(String::new(), |part| format!("-{}", file_name_part(part.phase)));
                let name = format!(
                    "{run:04}-{}{part}-qd{}-block{}-{}.hlog",
                    file_name_part(arm.task.workload.name()),
                    arm.task.queue_depth,
                    arm.block,
                    file_name_part(arm.arm)
                );
                let relative = format!("{HISTOGRAM_FOLDER}/{name}");
                let measured = Duration::from_nanos(outcome.elapsed_ns);
                histogram_log::save(&self.path.join(&relative), &arm.histograms(), started_at, measured)?;
                relative
            }
            None => String::new(),
        };
        self.timeseries.append(&arm.second_rows(run))?;
        self.append_bands(&arm.band_rows(run))?;
        self.append_windows(&arm.window_rows(run))?;
        self.metrics.append(&arm.metric_rows(run))?;
        self.runs.append(&[arm.run_row(run, rfc3339(started_at), hist_file)])?;
        self.last_run = run;
        Ok(run)
    }

    /// Adds a row of `metrics.csv` that belongs to no arm, such as [`MetricRow::runner_cost`].
    pub fn append_metric(&mut self, row: &MetricRow) -> Result<(), ResultsError> {
        self.metrics.append(std::slice::from_ref(row))
    }

    /// Adds one recovery.
    pub fn append_recovery(&mut self, row: &RecoveryRow) -> Result<(), ResultsError> {
        Table::append_or_create(&mut self.recovery, self.path.join(RECOVERY_FILE), std::slice::from_ref(row))
    }

    fn append_bands(&mut self, rows: &[BandRow]) -> Result<(), ResultsError> {
        Table::append_or_create(&mut self.bands, self.path.join(LATENCIES_FILE), rows)
    }

    /// Adds windows of a run.
    pub fn append_windows(&mut self, rows: &[WindowRow]) -> Result<(), ResultsError> {
        Table::append_or_create(&mut self.series, self.path.join(SERIES_FILE), rows)
    }

    /// Adds an event that happens now. `event` is one word of lower case and underscores.
    pub fn append_event(&mut self, event: &str, detail: &str) -> Result<(), ResultsError> {
        self.append_event_at(self.since_start_ns(), event, detail)
    }

    /// Adds an event that happened then.
    pub fn append_event_at(
        &mut self,
        since_start_ns: u64,
        event: &str,
        detail: &str,
    ) -> Result<(), ResultsError> {
        self.events.append(&[EventRow {
            utc: rfc3339(self.started_at + Duration::from_nanos(since_start_ns)),
            since_start_ns,
            event: event.to_string(),
            detail: detail.to_string(),
        }])
    }

    /// Ends the run: pools the blocks from what the folder holds, appends and returns the pooled rows, and marks the
    /// manifest. Only a run that reached the end of its plan is complete.
    pub fn finish(mut self, ending: Ending) -> Result<Vec<MetricRow>, ResultsError> {
        let data = RunData::read(&self.path)?;
        let pooled = pooled_rows(&data.runs, &data.metrics, &data.histograms, self.manifest.seed);
        self.metrics.append(&pooled)?;
        self.manifest.ended_utc = Some(rfc3339(SystemTime::now()));
        self.manifest.interrupted = ending == Ending::Interrupted;
        self.manifest.complete = ending == Ending::Complete;
        self.manifest.save(&self.path.join(MANIFEST_FILE))?;
        Ok(pooled)
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything of the plan was measured.
    Complete,
    /// A signal stopped it.
    Interrupted,
    /// The device or the machine failed; `events.csv` says how.
    Failed,
}

/// `name` with everything but letters, digits, `-` and `_` replaced, so that no name of an arm or workload can
/// leave the folder.
fn file_name_part(name: &str) -> String {
    name.chars()
        .map(
            |character| {
                if character.is_ascii_alphanumeric() || "-_".contains(character) { character } else { '_' }
            },
        )
        .collect()
}

/// One CSV file that only grows.
struct Table {
    path: PathBuf,
    file: File,
}

impl Table {
    fn create<Row: Serialize + Default>(path: PathBuf) -> Result<Self, ResultsError> {
        let file = File::options().append(true).create_new(true).open(&path);
        let mut table = Table { file: file.map_err(ResultsError::io(&path, "create"))?, path };
        let mut header = csv::Writer::from_writer(Vec::new());
        header.serialize(Row::default()).map_err(|error| ResultsError::malformed(&table.path, error))?;
        let text =
            header.into_inner().map_err(|error| ResultsError::malformed(&table.path, error.error()))?;
        // The header is taken from the row type itself, so the two cannot differ; the row of defaults is left out.
        let header = text.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
        table.write(header)?;
        Ok(table)
    }

    /// A table that is there.
    fn open(path: PathBuf) -> Result<Self, ResultsError> {
        let file = File::options().append(true).open(&path).map_err(ResultsError::io(&path, "write"))?;
        Ok(Table { path, file })
    }

    /// Adds rows to a table that not every run has: it is made with its first row.
    fn append_or_create<Row: Serialize + Default>(
        table: &mut Option<Self>,
        path: PathBuf,
        rows: &[Row],
    ) -> Result<(), ResultsError> {
        if rows.is_empty() {
            return Ok(());
        }
        let table = match table {
            Some(table) => table,
            none => none.insert(Table::create::<Row>(path)?),
        };
        table.append(rows)
    }

    /// A table that not every run has.
    fn open_if_there(path: PathBuf) -> Result<Option<Self>, ResultsError> {
        if path.exists() { Table::open(path).map(Some) } else { Ok(None) }
    }

    fn append<Row: Serialize>(&mut self, rows: &[Row]) -> Result<(), ResultsError> {
        let mut lines = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        for row in rows {
            lines.serialize(row).map_err(|error| ResultsError::malformed(&self.path, error))?;
        }
        let text = lines.into_inner().map_err(|error| ResultsError::malformed(&self.path, error.error()))?;
        self.write(&text)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ResultsError> {
        let written: io::Result<()> = self.file.write_all(bytes);
        written.map_err(ResultsError::io(&self.path, "write"))
    }
}
