//! What one arm is asked to do and what it gives back.
//!
//! Every arm (`ring`, `raw`, `direct`, `fio`, …) takes an [`ArmTask`] and returns an [`ArmOutcome`]; the suite
//! pairs, repeats and judges them without knowing how each was driven. Times are integer nanoseconds.

use std::path::PathBuf;

use hdrhistogram::Histogram;
use icecore_workloads::{Generations, Stamper, Workload};

use crate::failure::Failure;
use crate::recorder::{Clock, latency_histogram};
use crate::replay::Replay;
use crate::replay::feed::Made;
use crate::stats::steady::{self, Rounds};
use crate::validity::taken_from_this_thread_ns;

/// One measurement of one arm: a workload at a queue depth over a span of a device.
#[derive(Clone, Debug)]
pub struct ArmTask {
    /// The device or file, opened with O_DIRECT.
    pub path: PathBuf,
    /// First byte of the data span on the device; a backend's data area starts here.
    pub span_offset_bytes: u64,
    /// Length of the data span in bytes.
    pub span_bytes: u64,
    /// The workload.
    pub workload: Workload,
    /// Requests kept in flight (for `durable-*`: independent writers).
    pub queue_depth: u32,
    /// Time before measuring starts, with the load already running.
    pub warmup_ns: u64,
    /// Measured time.
    pub measure_ns: u64,
    /// Seed of the address stream and of the content; the same for every arm of a block.
    pub seed: u64,
    /// Operations a second that are to begin, however long those before them take; `None` for a closed load, where an
    /// operation begins when one has completed.
    pub offered_per_second: Option<f64>,
    /// The trace that is played in the place of the workload's stream; the workload then stands for it.
    pub replay: Option<Replay>,
    /// Whether the load goes on until it is steady; of what is measured then, the end is. Closed loads alone.
    pub until_steady: bool,
}

impl ArmTask {
    /// The content that its writes have.
    pub fn stamper(&self) -> Stamper {
        Stamper::with(self.seed, self.workload.unit_bytes(), self.workload.compressible_percent())
    }

    /// Of writes that have not been counted yet; empty where it writes nothing.
    pub fn generations(&self) -> Generations {
        let span_bytes = if self.workload.writes() { self.span_bytes } else { 0 };
        Generations::new(span_bytes, self.workload.unit_bytes())
    }
}

/// What only an open load shows.
#[derive(Clone, Debug)]
pub struct OpenFigures {
    /// Operations a second that were to begin.
    pub offered_per_second: f64,
    /// Latency of reads from when they were to begin, in nanoseconds.
    pub read_ns: Histogram<u64>,
    /// The same of writes.
    pub write_ns: Histogram<u64>,
    /// How much later than it could have an operation was begun: what shares the thread with it, or took it away, in nanoseconds.
    pub lateness_ns: Histogram<u64>,
    /// Most operations that were due and not begun.
    pub backlog_max: u64,
    /// Operations that were given up because as many as [`BACKLOG_MAX`] were due before them.
    pub overflow: u64,
    /// Time that the machine took from the thread over the window, once that has closed; `None` where that is not known.
    pub taken_ns: Option<u64>,
}

/// Operations that an open load keeps waiting. With more of them the target is beyond what it can do, and waiting longer
/// shows nothing new.
pub const BACKLOG_MAX: u64 = 100_000;

/// Share of the offered operations that must be completed for a load not to count as saturated.
pub const ACHIEVED_MIN: f64 = 0.99;

/// One operation in a hundred of an open load may be begun later than this, or than a tenth of the median latency if that is more;
/// beyond it the load counts only where that was the arm's own work (`TAKEN_SHARE_MAX`).
const LATENESS_NS_MAX: u64 = 20_000;

/// The same of a replay: between the pauses of a trace a processor goes to sleep, and its clocks were no more exact.
const REPLAY_LATENESS_NS_MAX: u64 = 1_000_000;

/// Where the machine took no more of the time of an open load than this, what was begun late waited for the arm: engine and load share
/// a thread. Less than the hundredth of the operations that is asked about, since those after an interruption are late too.
const TAKEN_SHARE_MAX: f64 = 0.005;

impl OpenFigures {
    /// Of a load of that rate, before anything of it.
    pub fn new(offered_per_second: f64) -> Self {
        let [read_ns, write_ns, lateness_ns] = [(); 3].map(|()| latency_histogram());
        Self {
            offered_per_second,
            read_ns,
            write_ns,
            lateness_ns,
            backlog_max: 0,
            overflow: 0,
            taken_ns: None,
        }
    }

    /// The window opens; from the thread of the load, as [`OpenFigures::end`].
    pub(crate) fn begin(&mut self) {
        self.taken_ns = taken_from_this_thread_ns();
    }

    /// The window closes.
    pub(crate) fn end(&mut self) {
        let before_and_now = self.taken_ns.zip(taken_from_this_thread_ns());
        self.taken_ns = before_and_now.map(|(before_ns, now_ns)| now_ns.saturating_sub(before_ns));
    }

    /// Share of the window in which the machine had taken the processor from the load.
    pub fn taken_share(&self, elapsed_ns: u64) -> Option<f64> {
        Some(self.taken_ns? as f64 / elapsed_ns.max(1) as f64)
    }

    /// Why the load does not count, if the machine let the runner be too late; `service_p50_ns`: the median latency from the
    /// beginning of an operation.
    pub fn refusal(&self, service_p50_ns: u64, elapsed_ns: u64, is_replay: bool) -> Option<String> {
        let taken = self.taken_share(elapsed_ns);
        if !is_replay && taken.is_some_and(|share| share <= TAKEN_SHARE_MAX) {
            return None;
        }
        let least_ns = if is_replay { REPLAY_LATENESS_NS_MAX } else { LATENESS_NS_MAX };
        let bound_ns = least_ns.max(service_p50_ns / 10);
        let late_ns = self.lateness_ns.value_at_quantile(0.99);
        (late_ns > bound_ns).then(|| {
            let taken = taken.map_or("a part of".to_owned(), |share| format!("{:.1} % of", share * 100.0));
            format!(
                "the runner began operations late: p99 {late_ns} ns, above {bound_ns} ns, and the machine took {taken} its time; \
                 leave the processor to it"
            )
        })
    }

    /// Whether the target could not do what was asked of it.
    pub fn is_saturated(&self, operations: u64, elapsed_ns: u64) -> bool {
        let achieved = operations as f64 * 1e9 / elapsed_ns.max(1) as f64;
        self.overflow > 0 || achieved < ACHIEVED_MIN * self.offered_per_second
    }
}

/// What only a replay shows: what became of the requests of the trace that were begun.
#[derive(Clone, Debug, Default)]
pub struct ReplayFigures {
    /// Requests of the trace that were begun, warm-up included.
    pub begun: u64,
    /// Of these, requests that were too long and were begun as several.
    pub split: u64,
    /// Requests beyond the span, which were folded, or scaled to its end.
    pub beyond_span: u64,
    /// Requests that were rounded to whole blocks of the target.
    pub aligned: u64,
    /// Requests moved back to end within the span.
    pub moved_back: u64,
    /// Requests shortened to the span.
    pub shortened: u64,
    /// Discards that were passed over because the target has none.
    pub passed_over: u64,
    /// Discards that were done.
    pub discards: u64,
    /// Changes of a place that waited until an earlier one of it had completed.
    pub waited: u64,
    /// Whether everything was played that was to be: the whole trace, or as far as it is due within the time.
    pub is_whole: bool,
    /// Time in which a request could have been begun and none had been read yet.
    pub starved_ns: u64,
    /// Why the trace could not be read further.
    pub failure: Option<Failure>,
}

/// Share of the time that a replay as fast as possible may have waited for the trace, in percent.
const STARVED_PERCENT_MAX: f64 = 1.0;

impl ReplayFigures {
    /// Counts a request that is begun.
    pub(crate) fn begun(&mut self, made: Made) {
        if made.is(Made::PIECE) {
            return;
        }
        self.begun += 1;
        self.split += u64::from(made.is(Made::SPLIT));
        self.beyond_span += u64::from(made.is(Made::BEYOND));
        self.aligned += u64::from(made.is(Made::ALIGNED));
        self.moved_back += u64::from(made.is(Made::MOVED));
        self.shortened += u64::from(made.is(Made::SHORTENED));
    }

    /// Counts a discard, or a piece of one.
    pub(crate) fn discarded(&mut self, is_done: bool) {
        *(if is_done { &mut self.discards } else { &mut self.passed_over }) += 1;
    }

    /// Why the replay does not count, if the reading was in its way or nothing was measured.
    pub fn refusal(&self, elapsed_ns: u64) -> Option<String> {
        if let Some(failure) = &self.failure {
            return Some(failure.message.clone());
        }
        if elapsed_ns == 0 {
            return Some(
                "the trace ended within the warm-up, so that nothing was measured: --warmup 0".to_owned(),
            );
        }
        let percent = self.starved_ns as f64 * 100.0 / elapsed_ns as f64;
        (percent > STARVED_PERCENT_MAX).then(|| {
            format!(
                "the load waited for the trace to be read for {percent:.1} % of the time, above {STARVED_PERCENT_MAX} %; leave \
                 a processor to the reading, or unpack the trace"
            )
        })
    }
}

/// Latencies and counts of one kind of operation.
#[derive(Clone, Debug)]
pub struct OperationFigures {
    /// Operations completed in the measured time.
    pub operations: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Latency from issue to completion in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

/// One second of an arm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Seconds since measuring began.
    pub second: u32,
    /// Operations completed in it.
    pub operations: u64,
    /// Sum of their latencies.
    pub latency_ns_sum: u64,
    /// The longest of their latencies.
    pub latency_ns_max: u64,
}

/// Operations of one second whose latencies lie in one band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandCount {
    /// Seconds since measuring began.
    pub second: u32,
    /// The shortest latency of the band.
    pub from_ns: u64,
    /// The shortest of the band above it.
    pub below_ns: u64,
    /// Operations completed in that second after such a time; at least 1.
    pub operations: u64,
}

/// What an arm measured.
#[derive(Clone, Debug)]
pub struct ArmOutcome {
    /// Reads (of `durable-*` workloads: none).
    pub read: OperationFigures,
    /// Writes; for durable workloads from issue to durable.
    pub write: OperationFigures,
    /// Separate flushes, where the arm issues them.
    pub flush: OperationFigures,
    /// Measured wall time.
    pub elapsed_ns: u64,
    /// User CPU of the measuring thread over the measured time; `None` where not known.
    pub cpu_user_ns: Option<u64>,
    /// System CPU of the measuring thread over the measured time.
    pub cpu_system_ns: Option<u64>,
    /// Heap allocations during the measured time, where counted.
    pub allocations: Option<u64>,
    /// One entry a second.
    pub seconds: Vec<Second>,
    /// Latencies by second, where they are kept.
    pub bands: Vec<BandCount>,
    /// How the I/O was done: `io_uring, registered buffers, registered files` and the like.
    pub io_path: String,
    /// What the device wrote for it, where the arm goes through the engine's device and writes.
    pub written: Option<Written>,
    /// How its log wrote, where it has one.
    pub log: Option<LogBatches>,
    /// What the bare device does in the log's place, measured right after it.
    pub bare: Vec<BareRate>,
    /// The last generation written to each block of the span, where this arm wrote stamped content.
    pub generations: Generations,
    /// Of an open load, what it alone shows.
    pub open: Option<OpenFigures>,
    /// Of a replay, what became of the trace.
    pub replayed: Option<ReplayFigures>,
    /// Of a load that went on until it was steady, its rounds.
    pub rounds: Option<Rounds>,
    /// The clock that showed 0 when the load began; `None` where the arm has none of ours.
    pub clock: Option<Clock>,
}

impl ArmOutcome {
    /// Reads and writes completed in the measured time.
    pub fn operations(&self) -> u64 {
        self.read.operations + self.write.operations
    }

    /// The same a second.
    pub fn per_second(&self) -> f64 {
        self.operations() as f64 * 1e9 / self.elapsed_ns.max(1) as f64
    }

    /// Time under load between the warm-up and what was measured, in which it was not steady yet.
    pub fn unsteady_ns(&self) -> u64 {
        let before = self.rounds.as_ref().map_or(0, Rounds::before);
        before as u64 * (self.elapsed_ns / steady::WINDOW as u64)
    }
}

/// Bytes written from the beginning of the load, warm-up included, until nothing was left to be written for it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// By the application.
    pub application_bytes: u64,
    /// By the device, by the cause of the engine's ledger.
    pub by_cause: Vec<(&'static str, u64)>,
}

/// The batches that a log wrote under the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogBatches {
    /// How many.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
    /// Batches under way when each of them began, itself included, added up.
    pub in_flight: u64,
}

impl LogBatches {
    /// An amount per batch; `None` without batches.
    pub fn mean(&self, amount: u64) -> Option<f64> {
        (self.batches > 0).then(|| amount as f64 / self.batches as f64)
    }
}

/// What the bare device did with requests of the size of the log's mean batch.
#[derive(Clone, Copy, Debug)]
pub struct BareRate {
    /// What it did.
    pub kind: BareKind,
    /// Requests a second.
    pub per_second: f64,
    /// Their median latency; for persisting, until durable.
    pub p50_ns: u64,
}

/// What a bare device is asked for in a log's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareKind {
    /// Writes one after another, each followed by an fdatasync.
    PersistFlush,
    /// Writes one after another, each written through.
    PersistDsync,
    /// Writes one after another.
    Sequential,
}

impl BareKind {
    /// Its metric.
    pub fn metric(self) -> &'static str {
        match self {
            BareKind::PersistFlush => "bare_persist_flush",
            BareKind::PersistDsync => "bare_persist_dsync",
            BareKind::Sequential => "bare_sequential",
        }
    }
}

/// A value that a part of a suite has beside its rate and latencies.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is.
    pub metric: &'static str,
    /// Which statistic of it, or the cause it is counted under.
    pub stat: String,
    /// Its unit.
    pub unit: &'static str,
    /// The value; `None` where it could not be measured.
    pub value: Option<f64>,
    /// Operations behind it.
    pub n: u64,
}

/// A short piece of the time of a part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// When it began, since the part began.
    pub begin_ns: u64,
    /// Its length.
    pub length_ns: u64,
    /// Operations completed in it.
    pub operations: u64,
    /// Sum of their latencies.
    pub latency_ns_sum: u64,
    /// The longest of their latencies.
    pub latency_ns_max: u64,
}

/// What a suite of snapshots knows of a measurement beside its outcome.
#[derive(Clone, Copy, Debug)]
pub struct SuitePart<'a> {
    /// Which part of the suite.
    pub phase: &'a str,
    /// Snapshots held.
    pub snapshots: Option<u32>,
    /// Its further values.
    pub figures: &'a [Figure],
    /// Its course over time.
    pub windows: &'a [Window],
    /// Whether another system was measured.
    pub is_peer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Late by the arm's own work counts; late because the machine was busy, or might have been, does not.
    #[test]
    fn a_load_is_refused_for_what_the_machine_took() {
        const SECOND_NS: u64 = 1_000_000_000;
        let mut open = OpenFigures::new(1_000.0);
        open.lateness_ns.record_n(1_000, 980).unwrap();
        open.lateness_ns.record_n(300_000, 20).unwrap();
        let mut refusal = |taken_ns, service_p50_ns| {
            open.taken_ns = taken_ns;
            open.refusal(service_p50_ns, SECOND_NS, false)
        };
        assert_eq!(refusal(Some(4_000_000), 100_000), None);
        let reason = refusal(Some(31_000_000), 100_000).unwrap();
        assert!(reason.contains("above 20000 ns, and the machine took 3.1 % of its time"), "{reason}");
        assert!(refusal(None, 100_000).unwrap().contains("took a part of its time"));
        assert_eq!(refusal(None, 4_000_000), None, "less than a tenth of the latency");

        // Between the requests of a trace a processor sleeps, and the time it takes to wake is nobody's.
        open.taken_ns = Some(0);
        assert_eq!(open.refusal(100_000, SECOND_NS, true), None);
        open.lateness_ns.record_n(2_000_000, 50).unwrap();
        assert!(open.refusal(100_000, SECOND_NS, true).is_some());
    }
}
