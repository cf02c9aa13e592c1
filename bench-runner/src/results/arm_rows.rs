//! From what one arm measured to the rows of the run folder.
//!
//! A value that was not measured becomes an empty field and its row stays, so that a reader can tell "not measured"
//! from "not asked for".

use hdrhistogram::Histogram;

use super::{BandRow, MetricRow, RunHistograms, RunRow, SecondRow, WindowRow, merged};
use crate::compare::noise::first_name;
use crate::measure::{
    ArmOutcome, ArmTask, BandCount, BareKind, BareRate, OpenFigures, OperationFigures, SuitePart,
};
use crate::stats::steady;
use crate::suite::Load;
use crate::{stats, validity};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Bytes that the device wrote for each byte of the application.
pub(crate) const WRITE_AMPLIFICATION: &str = "write_amplification";

/// The backend of other systems.
pub(crate) const PEER: &str = "peer";

/// Latencies of an open load, from when operations were to begin.
pub(super) const LATENCY_INTENDED: &str = "latency_intended";

/// The percentiles that every latency is given at, with their names in `stat`.
pub(super) const PERCENTILES: [(&str, f64); 3] = [("p50", 0.50), ("p99", 0.99), ("p99.9", 0.999)];

/// One arm of one block, as the suite hands it to the run folder.
#[derive(Clone, Debug)]
pub struct ArmRun<'a> {
    /// Block, from 1, within its workload and depth.
    pub block: u32,
    /// Place of the arm in the block's random order, from 1.
    pub arm_order: u32,
    /// Name of the arm, of any but a peer also written as its backend: `raw` is the bare device.
    pub arm: &'a str,
    /// What the arm was asked to do.
    pub task: &'a ArmTask,
    /// [`super::RunFolder::since_start_ns`] when the arm's load began, warm-up included.
    pub started_ns: u64,
    /// What it measured; `None` where it failed.
    pub outcome: Option<&'a ArmOutcome>,
    /// Blocks read back and compared; `None` where that was not done.
    pub verified_blocks: Option<u64>,
    /// Share of the device's bytes that others moved meanwhile, in percent; `None` where not known.
    pub foreign_percent: Option<f64>,
    /// Why the run does not count; `None` for a valid one. A failed arm must have a reason.
    pub invalid_reason: Option<String>,
    /// How the load was offered.
    pub load: Load,
    /// The part of a suite of snapshots that it is; `None` for any other run.
    pub part: Option<SuitePart<'a>>,
}

impl ArmRun<'_> {
    fn valid(&self) -> bool {
        self.invalid_reason.is_none() && self.outcome.is_some()
    }

    fn invalid_reason(&self) -> String {
        match (&self.invalid_reason, self.outcome) {
            (Some(reason), _) => reason.clone(),
            (None, Some(_)) => String::new(),
            (None, None) => "the arm failed".to_string(),
        }
    }

    /// What was asked of an open load; of a trace, what it was seen to ask.
    fn offered_per_second(&self) -> Option<f64> {
        let played =
            self.outcome.and_then(|outcome| outcome.open.as_ref()).map(|open| open.offered_per_second);
        self.task.offered_per_second.or(played)
    }

    fn backend(&self) -> &str {
        if self.part.is_some_and(|part| part.is_peer) { PEER } else { first_name(self.arm) }
    }

    fn phase(&self) -> String {
        self.part.map_or_else(|| self.load.phase(), |part| part.phase.to_string())
    }

    /// Of what a schedule or a trace asks for, how much is done says nothing of the device.
    fn steady(&self) -> Option<bool> {
        let outcome = self.outcome?;
        if self.load.is_replay() || outcome.open.is_some() {
            return None;
        }
        if let Some(rounds) = &outcome.rounds {
            return Some(rounds.is_steady());
        }
        let whole_seconds = outcome.elapsed_ns / NANOSECONDS_PER_SECOND;
        let whole = outcome.seconds.iter().filter(|second| u64::from(second.second) < whole_seconds);
        steady::steady(&whole.map(|second| second.operations).collect::<Vec<_>>())
    }

    /// Time under load before what was measured.
    fn warmup_ns(&self) -> u64 {
        self.task.warmup_ns + self.outcome.map_or(0, ArmOutcome::unsteady_ns)
    }

    pub(super) fn run_row(&self, run: u64, started_utc: String, hist_file: String) -> RunRow {
        let outcome = self.outcome;
        let row = RunRow {
            run,
            block: self.block,
            arm_order: self.arm_order,
            arm: self.arm.to_string(),
            backend: self.backend().to_string(),
            workload: self.task.workload.name().to_string(),
            bs_bytes: u64::from(self.task.workload.operation_bytes_max()),
            queue_depth: self.task.queue_depth,
            span_offset_bytes: self.task.span_offset_bytes,
            span_bytes: self.task.span_bytes,
            measured_ns: outcome.map(|outcome| outcome.elapsed_ns),
            warmup_ns: self.warmup_ns(),
            seed: self.task.seed,
            started_utc,
            started_ns: self.started_ns,
            io_path: outcome.map(|outcome| outcome.io_path.clone()).unwrap_or_default(),
            operations: outcome.map(ArmOutcome::operations),
            cpu_user_ns: outcome.and_then(|outcome| outcome.cpu_user_ns),
            cpu_system_ns: outcome.and_then(|outcome| outcome.cpu_system_ns),
            allocations: outcome.and_then(|outcome| outcome.allocations),
            verified_blocks: self.verified_blocks,
            steady: self.steady(),
            valid: self.valid(),
            invalid_reason: self.invalid_reason(),
            hist_file,
            phase: self.phase(),
            chain_depth: self.part.and_then(|part| part.snapshots),
            busy_percent: None,
            foreign_percent: self.foreign_percent,
        };
        RunRow { busy_percent: validity::busy_percent(&row), ..row }
    }

    pub(super) fn histograms(&self) -> RunHistograms {
        let some =
            |figures: &OperationFigures| (!figures.latency_ns.is_empty()).then(|| figures.latency_ns.clone());
        let open = |outcome: &ArmOutcome, of: fn(&OpenFigures) -> &Histogram<u64>| {
            outcome.open.as_ref().map(of).filter(|histogram| !histogram.is_empty()).cloned()
        };
        self.outcome.map_or_else(RunHistograms::default, |outcome| RunHistograms {
            read: some(&outcome.read),
            write: some(&outcome.write),
            flush: some(&outcome.flush),
            read_intended: open(outcome, |open| &open.read_ns),
            write_intended: open(outcome, |open| &open.write_ns),
            lateness: open(outcome, |open| &open.lateness_ns),
        })
    }

    pub(super) fn second_rows(&self, run: u64) -> Vec<SecondRow> {
        let measuring_since_ns = self.started_ns + self.warmup_ns();
        let seconds = self.outcome.map_or(&[][..], |outcome| &outcome.seconds);
        seconds
            .iter()
            .map(|second| SecondRow {
                run,
                block: self.block,
                arm: self.arm.to_string(),
                workload: self.task.workload.name().to_string(),
                queue_depth: self.task.queue_depth,
                second: second.second,
                since_start_ns: measuring_since_ns + u64::from(second.second) * NANOSECONDS_PER_SECOND,
                operations: second.operations,
                latency_mean_ns: second.latency_ns_sum.checked_div(second.operations),
                latency_max_ns: (second.operations > 0).then_some(second.latency_ns_max),
            })
            .collect()
    }

    pub(super) fn band_rows(&self, run: u64) -> Vec<BandRow> {
        let bands = self.outcome.map_or(&[][..], |outcome| &outcome.bands);
        let row = |count: &BandCount| BandRow {
            run,
            second: count.second,
            from_ns: count.from_ns,
            below_ns: count.below_ns,
            operations: count.operations,
        };
        bands.iter().map(row).collect()
    }

    pub(super) fn window_rows(&self, run: u64) -> Vec<WindowRow> {
        let windows = self.part.map_or(&[][..], |part| part.windows);
        windows
            .iter()
            .map(|window| WindowRow {
                run,
                since_start_ns: self.started_ns + window.begin_ns,
                window_ns: window.length_ns,
                operations: window.operations,
                latency_mean_ns: window.latency_ns_sum.checked_div(window.operations),
                latency_max_ns: (window.operations > 0).then_some(window.latency_ns_max),
            })
            .collect()
    }

    /// The arm's rows of `metrics.csv`.
    pub(super) fn metric_rows(&self, run: u64) -> Vec<MetricRow> {
        let histograms = self.histograms();
        let mut rows = Vec::new();
        self.add_operation(&mut rows, run, "all", &self.totals());
        let Some(outcome) = self.outcome else { return rows };
        let kinds = [
            ("read", &outcome.read, histograms.read),
            ("write", &outcome.write, histograms.write),
            ("flush", &outcome.flush, histograms.flush),
        ];
        for (op, figures, latency_ns) in kinds {
            if figures.operations > 0 {
                let totals = Totals {
                    operations: figures.operations,
                    bytes: (op != "flush").then_some(figures.bytes),
                    latency_ns,
                    elapsed_ns: outcome.elapsed_ns,
                };
                self.add_operation(&mut rows, run, op, &totals);
            }
        }
        self.add_open(&mut rows, run, outcome);
        self.add_replay(&mut rows, run, outcome);
        self.add_rounds(&mut rows, run, outcome);
        self.add_writing(&mut rows, run, outcome);
        for figure in self.part.map_or(&[][..], |part| part.figures) {
            rows.push(MetricRow {
                metric: figure.metric.to_string(),
                stat: figure.stat.clone(),
                value: figure.value,
                unit: figure.unit.to_string(),
                ..self.metric_row(run, "all", figure.n)
            });
        }
        rows
    }

    /// What an open load shows beside a closed one.
    fn add_open(&self, rows: &mut Vec<MetricRow>, run: u64, outcome: &ArmOutcome) {
        let Some(open) = &outcome.open else { return };
        let histograms = self.histograms();
        let operations = outcome.operations();
        let mut add = |op: &str, metric: &str, stat: &str, unit: &str, value: Option<f64>| {
            let row = self.metric_row(run, op, operations);
            let (metric, stat, unit) = (metric.to_string(), stat.to_string(), unit.to_string());
            rows.push(MetricRow { metric, stat, unit, value, ..row });
        };
        for op in ["all", "read", "write"] {
            let Some(intended) = histograms.intended_of(op) else { continue };
            for (stat, q) in PERCENTILES {
                let value = stats::percentile(&intended, q).map(|value| value as f64);
                add(op, LATENCY_INTENDED, stat, "ns", value);
            }
            add(op, LATENCY_INTENDED, "max", "ns", Some(intended.max() as f64));
        }
        for (stat, q) in PERCENTILES {
            let value = stats::percentile(&open.lateness_ns, q).map(|value| value as f64);
            add("all", "lateness", stat, "ns", value);
        }
        add("all", "lateness", "max", "ns", Some(open.lateness_ns.max() as f64));
        add("all", "processor_taken", "mean", "1", open.taken_share(outcome.elapsed_ns));
        let achieved = outcome.per_second() / open.offered_per_second;
        add("all", "achieved_of_offered", "mean", "1", Some(achieved));
        add("all", "backlog", "max", "1", Some(open.backlog_max as f64));
        add("all", "overflow", "total", "1", Some(open.overflow as f64));
        let saturated = open.is_saturated(operations, outcome.elapsed_ns);
        add("all", "saturated", "mean", "1", Some(f64::from(u8::from(saturated))));
    }

    /// What became of the requests of a trace.
    fn add_replay(&self, rows: &mut Vec<MetricRow>, run: u64, outcome: &ArmOutcome) {
        let Some(replayed) = &outcome.replayed else { return };
        let counts = [
            ("begun", replayed.begun),
            ("split", replayed.split),
            ("beyond_span", replayed.beyond_span),
            ("aligned", replayed.aligned),
            ("moved_back", replayed.moved_back),
            ("shortened", replayed.shortened),
            ("discards", replayed.discards),
            ("passed_over", replayed.passed_over),
            ("waited_for_place", replayed.waited),
            ("is_whole", u64::from(replayed.is_whole)),
        ];
        let row = |metric: &str, stat: &str, unit: &str, value: u64| MetricRow {
            metric: metric.to_string(),
            stat: stat.to_string(),
            unit: unit.to_string(),
            value: Some(value as f64),
            ..self.metric_row(run, "all", replayed.begun)
        };
        rows.extend(counts.map(|(stat, value)| row("trace_requests", stat, "1", value)));
        rows.push(row("trace_starved", "total", "ns", replayed.starved_ns));
    }

    /// How long it took a load to be steady, and how steady it was then.
    fn add_rounds(&self, rows: &mut Vec<MetricRow>, run: u64, outcome: &ArmOutcome) {
        let Some(rounds) = &outcome.rounds else { return };
        let window = rounds.window();
        let values = [
            ("rounds", Some(rounds.operations.len() as f64)),
            ("range", window.map(|window| window.range)),
            ("slope", window.map(|window| window.slope)),
        ];
        rows.extend(values.map(|(stat, value)| MetricRow {
            metric: "steady_state".to_string(),
            stat: stat.to_string(),
            unit: "1".to_string(),
            value,
            ..self.metric_row(run, "all", rounds.operations.len() as u64)
        }));
    }

    /// What the device wrote, how the log wrote, and both beside the bare device in its place.
    fn add_writing(&self, rows: &mut Vec<MetricRow>, run: u64, outcome: &ArmOutcome) {
        let mut add = |metric: &str, stat: &str, unit: &str, value: Option<f64>| {
            let row = self.metric_row(run, "write", outcome.write.operations);
            let (metric, stat, unit) = (metric.to_string(), stat.to_string(), unit.to_string());
            rows.push(MetricRow { metric, stat, unit, value, ..row });
        };
        if let Some(written) = &outcome.written {
            let share = |bytes: u64| Some(bytes as f64 / written.application_bytes.max(1) as f64);
            let total = written.by_cause.iter().map(|(_, bytes)| bytes).sum();
            add(WRITE_AMPLIFICATION, "total", "1", share(total));
            for (cause, bytes) in &written.by_cause {
                add(WRITE_AMPLIFICATION, cause, "1", share(*bytes));
            }
        }
        let Some(log) = &outcome.log else { return };
        let entries = log.mean(log.entries);
        add("batch_entries", "mean", "1/batch", entries);
        add("batch_bytes", "mean", "bytes/batch", log.mean(log.bytes));
        add("batches_in_flight", "mean", "1", log.mean(log.in_flight));
        for rate in &outcome.bare {
            add(rate.kind.metric(), "mean", "1/s", Some(rate.per_second));
        }
        let sequential = |rate: &&BareRate| rate.kind == BareKind::Sequential;
        let (sequential, persists): (Vec<&BareRate>, Vec<&BareRate>) =
            outcome.bare.iter().partition(sequential);
        let iops = outcome.write.operations as f64 * NANOSECONDS_PER_SECOND as f64
            / outcome.elapsed_ns.max(1) as f64;
        let of_bound = |per_second: f64| Some(iops / (entries? * per_second));
        if let Some(rate) = sequential.first() {
            add("iops_of_sequential", "median", "1", of_bound(rate.per_second));
        }
        if let Some(rate) = persists.iter().map(|rate| rate.per_second).reduce(f64::max) {
            add("iops_of_persist", "median", "1", of_bound(rate));
        }
        if let Some(bare_ns) = persists.iter().map(|rate| rate.p50_ns).min() {
            let own_ns = stats::percentile(&outcome.write.latency_ns, 0.5);
            let ratio = own_ns.map(|own_ns| own_ns as f64 / bare_ns.max(1) as f64);
            add("latency_p50_of_persist", "median", "1", ratio);
        }
    }

    /// A row of this run with everything but its metric.
    fn metric_row(&self, run: u64, op: &str, operations: u64) -> MetricRow {
        MetricRow {
            run: Some(run),
            block: Some(self.block),
            arm: self.arm.to_string(),
            backend: self.backend().to_string(),
            workload: self.task.workload.name().to_string(),
            op: op.to_string(),
            bs_bytes: Some(u64::from(self.task.workload.operation_bytes_max())),
            queue_depth: Some(self.task.queue_depth),
            offered_iops: self.offered_per_second().map(|per_second| per_second.round() as u64),
            chain_depth: self.part.and_then(|part| part.snapshots),
            phase: self.phase(),
            n: operations,
            steady: self.steady(),
            valid: self.valid(),
            invalid_reason: self.invalid_reason(),
            seed: self.task.seed,
            ..MetricRow::default()
        }
    }

    /// Reads and writes together. A flush is a step of a durable write, not an operation a caller counts.
    fn totals(&self) -> Totals {
        let Some(outcome) = self.outcome else { return Totals::default() };
        let histograms = self.histograms();
        Totals {
            operations: outcome.operations(),
            bytes: Some(outcome.read.bytes + outcome.write.bytes),
            latency_ns: merged(histograms.read.iter().chain(&histograms.write)),
            elapsed_ns: outcome.elapsed_ns,
        }
    }

    fn add_operation(&self, rows: &mut Vec<MetricRow>, run: u64, op: &str, totals: &Totals) {
        let mut add = |metric: &str, stat: &str, unit: &str, value: Option<f64>| {
            let row = self.metric_row(run, op, totals.operations);
            let (metric, stat, unit) = (metric.to_string(), stat.to_string(), unit.to_string());
            rows.push(MetricRow { metric, stat, unit, value, ..row });
        };
        add("iops", "mean", "1/s", totals.per_second(Some(totals.operations)));
        add("bandwidth", "mean", "bytes/s", totals.per_second(totals.bytes));
        let latency_ns = totals.latency_ns.as_ref();
        for (stat, q) in PERCENTILES {
            let value = latency_ns.and_then(|latency_ns| stats::percentile(latency_ns, q));
            add("latency", stat, "ns", value.map(|value| value as f64));
        }
        add("latency", "max", "ns", latency_ns.map(|latency_ns| latency_ns.max() as f64));
        if op == "all" {
            let outcome = self.outcome;
            let per_operation = |total: Option<u64>| {
                total.filter(|_| totals.operations > 0).map(|total| total as f64 / totals.operations as f64)
            };
            add("cpu_user", "mean", "ns/io", per_operation(outcome.and_then(|outcome| outcome.cpu_user_ns)));
            add(
                "cpu_system",
                "mean",
                "ns/io",
                per_operation(outcome.and_then(|outcome| outcome.cpu_system_ns)),
            );
            add(
                "allocations",
                "mean",
                "1/io",
                per_operation(outcome.and_then(|outcome| outcome.allocations)),
            );
        }
    }
}

/// One kind of operation over the measured time.
#[derive(Default)]
struct Totals {
    operations: u64,
    bytes: Option<u64>,
    latency_ns: Option<Histogram<u64>>,
    elapsed_ns: u64,
}

impl Totals {
    fn per_second(&self, amount: Option<u64>) -> Option<f64> {
        amount
            .filter(|_| self.elapsed_ns > 0)
            .map(|amount| amount as f64 * NANOSECONDS_PER_SECOND as f64 / self.elapsed_ns as f64)
    }
}
