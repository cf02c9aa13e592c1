//! What every arm measures with: the clock, the histograms, the seconds and the CPU time.
//!
//! An arm reads the [`Clock`] once for what it issues together and once for what it reaps together, hands each
//! completion to [`Recorder::record`] and tells [`Recorder::advance`] the time once a batch. The recorder knows
//! the warm-up: it counts the operations that complete within the measured window and ignores all others.
//!
//! Everything is allocated by [`Recorder::new`]; recording is a few array updates. Operations still in flight
//! when the window closes are not counted, however long they take.
//!
//! Of a load that goes on until it is steady, the window is the last five of its rounds. Each round has a recorder of its
//! own, made when the one before has ended; those that the window has left behind are dropped.
#![allow(unsafe_code, reason = "getrusage for one thread has no safe wrapper in std")]

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::time::Instant;

use hdrhistogram::Histogram;
use icecore_workloads::Generations;

use crate::bands::{BANDS, band, bounds_ns};
use crate::measure::{ArmOutcome, BandCount, OpenFigures, OperationFigures, Second};
use crate::stats::steady::{self, Rounds};
use crate::{allocations, interrupt};

/// Longest latency a histogram holds; a longer one is counted as this. Well above the 30 s after which the
/// kernel's block layer itself gives up on a request.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Significant digits of a latency: 0.1 % of the value.
const SIGNIFICANT_DIGITS: u8 = 3;

const SECOND_NS: u64 = 1_000_000_000;

/// Monotonic time in nanoseconds since the clock was started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that now shows 0.
    #[allow(clippy::disallowed_methods, reason = "this is the runner's own clock")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// When it showed 0.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Nanoseconds since the start. Costs about 25 ns: call it once a batch, not once an operation.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        // 2^64 ns are 584 years.
        self.started.elapsed().as_nanos() as u64
    }
}

/// CPU time a thread has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In user mode, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
}

impl CpuTimes {
    /// Of the calling thread (getrusage, RUSAGE_THREAD); `None` where the system does not tell. The sum is
    /// exact; kernels without precise accounting divide it into user and system by sampling.
    pub fn of_this_thread() -> Option<Self> {
        let mut usage = MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the pointer is to a writable `rusage` that outlives the call.
        let status = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        if status != 0 {
            return None;
        }
        // SAFETY: getrusage returned 0 and has therefore filled the structure.
        let usage = unsafe { usage.assume_init() };
        let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * SECOND_NS + time.tv_usec as u64 * 1_000;
        Some(Self { user_ns: nanoseconds(usage.ru_utime), system_ns: nanoseconds(usage.ru_stime) })
    }
}

/// Which distribution a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A read.
    Read,
    /// A write; of durable workloads from its issue until it is durable.
    Write,
    /// A flush. It is no operation of the application: it counts in its own figures, not in the seconds.
    Flush,
}

/// Where an arm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Load runs and is not counted.
    WarmUp,
    /// Completions are counted.
    Measuring,
    /// The window is closed: issue nothing more.
    Done,
}

/// An empty histogram of nanoseconds, 1 ns to 60 s at 3 digits, with all of its memory.
pub fn latency_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS) {
        Ok(histogram) => histogram,
        // The bounds are constants; the test below makes one.
        Err(error) => unreachable!("the bounds are valid: {error}"),
    }
}

/// Figures of nothing yet.
pub fn empty_figures() -> OperationFigures {
    OperationFigures { operations: 0, bytes: 0, latency_ns: latency_histogram() }
}

/// What was offered in the window.
#[derive(Clone, Copy, Debug)]
pub enum Offered {
    /// So many reads and writes.
    Due(u64),
    /// Those that completed, in a time shorter by this.
    Completed {
        /// How late the last of them was.
        late_ns: u64,
    },
}

/// Collects one arm's completions.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// Start of the window on the arm's clock.
    begin_ns: u64,
    measure_ns: u64,
    /// By [`RecordKind`].
    figures: [OperationFigures; 3],
    seconds: Vec<Second>,
    /// By second: operations in each band of latency.
    bands: Vec<[u32; BANDS]>,
    phase: Phase,
    begin: Option<Usage>,
    end: Option<Usage>,
    open: Option<OpenFigures>,
    past: Option<Past>,
}

/// The rounds that have ended, of a load that goes on until it is steady.
#[derive(Clone, Debug, Default)]
struct Past {
    rounds: Rounds,
    /// The last of them, which are the window.
    window: VecDeque<Recorder>,
}

/// What the thread had used at a moment.
#[derive(Clone, Copy, Debug)]
struct Usage {
    now_ns: u64,
    cpu: Option<CpuTimes>,
    allocations: Option<u64>,
}

impl Usage {
    fn at(now_ns: u64) -> Self {
        Self { now_ns, cpu: CpuTimes::of_this_thread(), allocations: allocations::count() }
    }
}

impl Recorder {
    /// A recorder whose window opens `warmup_ns` after 0 of the arm's clock and lasts `measure_ns`.
    pub fn new(warmup_ns: u64, measure_ns: u64) -> Self {
        let seconds = (0..measure_ns.div_ceil(SECOND_NS) as u32)
            .map(|second| Second { second, ..Second::default() })
            .collect::<Vec<_>>();
        Self {
            bands: vec![[0; BANDS]; seconds.len()],
            begin_ns: warmup_ns,
            measure_ns,
            figures: [empty_figures(), empty_figures(), empty_figures()],
            seconds,
            phase: Phase::WarmUp,
            begin: None,
            end: None,
            open: None,
            past: None,
        }
    }

    /// The same for a load that goes on until it is steady: a round is a fifth of the window.
    pub fn until_steady(self) -> Self {
        let round_ns = self.measure_ns / steady::WINDOW as u64;
        Self { past: Some(Past::default()), ..Self::new(self.begin_ns, round_ns) }
    }

    /// The same for an open load of that rate.
    pub fn open(self, offered_per_second: f64) -> Self {
        Self { open: Some(OpenFigures::new(offered_per_second)), ..self }
    }

    /// Ends the window now, if it is open: a trace has ended, and its last request completed. False, and nothing done, where it
    /// has been closed before.
    pub fn end_at(&mut self, now_ns: u64) -> bool {
        if self.phase == Phase::Done {
            return false;
        }
        self.measure_ns = now_ns.saturating_sub(self.begin_ns).min(self.measure_ns);
        self.seconds.truncate(self.measure_ns.div_ceil(SECOND_NS) as usize);
        self.enter(Phase::Done, now_ns);
        true
    }

    /// Says what an open load was, where that is known at its end alone.
    pub fn set_offered(&mut self, offered: Offered) {
        let operations: u64 = self.figures[..2].iter().map(|figures| figures.operations).sum();
        let (operations, elapsed_ns) = match offered {
            Offered::Due(operations) => (operations, self.measure_ns),
            Offered::Completed { late_ns } => (operations, self.measure_ns.saturating_sub(late_ns)),
        };
        if let Some(open) = &mut self.open {
            open.offered_per_second = operations as f64 * 1e9 / elapsed_ns.max(1) as f64;
        }
    }

    /// Counts how long after it was to begin an operation of an open load completed, if that was inside the window.
    #[inline]
    pub fn record_intended(&mut self, kind: RecordKind, due_ns: u64, completed_ns: u64) {
        let is_inside = completed_ns.wrapping_sub(self.begin_ns) < self.measure_ns;
        if let (Some(open), true) = (&mut self.open, is_inside) {
            let histogram = if kind == RecordKind::Read { &mut open.read_ns } else { &mut open.write_ns };
            histogram.saturating_record(completed_ns.saturating_sub(due_ns));
        }
    }

    /// Counts how late an operation of an open load was begun, and how many were due behind it, if that was inside the
    /// window.
    #[inline]
    pub fn record_begun(&mut self, now_ns: u64, lateness_ns: u64, backlog: u64, overflow: u64) {
        let is_inside = now_ns.wrapping_sub(self.begin_ns) < self.measure_ns;
        if let (Some(open), true) = (&mut self.open, is_inside) {
            open.lateness_ns.saturating_record(lateness_ns);
            open.backlog_max = open.backlog_max.max(backlog);
            open.overflow += overflow;
        }
    }

    /// Counts one completed operation if it completed inside the window. Times are of the arm's clock.
    #[inline]
    pub fn record(&mut self, kind: RecordKind, issued_ns: u64, completed_ns: u64, bytes: u64) {
        // Before the window this wraps to a huge number, so that one comparison covers both ends.
        let since_begin_ns = completed_ns.wrapping_sub(self.begin_ns);
        if since_begin_ns >= self.measure_ns {
            return;
        }
        let latency_ns = completed_ns.saturating_sub(issued_ns);
        let figures = &mut self.figures[kind as usize];
        figures.operations += 1;
        figures.bytes += bytes;
        figures.latency_ns.saturating_record(latency_ns);
        if kind != RecordKind::Flush {
            let index = (since_begin_ns / SECOND_NS) as usize;
            let count = &mut self.bands[index][band(latency_ns)];
            *count = count.saturating_add(1);
            let second = &mut self.seconds[index];
            second.operations += 1;
            second.latency_ns_sum += latency_ns;
            second.latency_ns_max = second.latency_ns_max.max(latency_ns);
        }
    }

    /// Tells the recorder the time, once a batch and from the measuring thread: it takes that thread's CPU
    /// time when the window opens and when it closes. A request to stop the program closes the window.
    #[inline]
    pub fn advance(&mut self, now_ns: u64) -> Phase {
        if interrupt::requested() {
            return Phase::Done;
        }
        if self.past.is_some() && now_ns >= self.begin_ns + self.measure_ns {
            self.end_rounds(now_ns);
        }
        if self.past.as_ref().is_some_and(|past| past.rounds.is_over()) {
            return Phase::Done;
        }
        let phase = match now_ns.checked_sub(self.begin_ns) {
            None => Phase::WarmUp,
            Some(since_begin_ns) if since_begin_ns < self.measure_ns => Phase::Measuring,
            Some(_) => Phase::Done,
        };
        if phase != self.phase {
            self.enter(phase, now_ns);
        }
        phase
    }

    #[cold]
    fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        // Of the window are the operations alone, not what is asked of the system at its ends.
        match (phase, &mut self.open) {
            (Phase::WarmUp, _) => {}
            (Phase::Measuring, open) => {
                open.iter_mut().for_each(OpenFigures::begin);
                self.begin = Some(Usage::at(now_ns));
            }
            (Phase::Done, open) => {
                self.end = Some(Usage::at(now_ns));
                open.iter_mut().for_each(OpenFigures::end);
            }
        }
    }

    /// Ends every round that is over by now, until no further one is needed.
    #[cold]
    fn end_rounds(&mut self, now_ns: u64) {
        let Some(mut past) = self.past.take() else { return };
        while now_ns >= self.begin_ns + self.measure_ns && !past.rounds.is_over() {
            self.enter(Phase::Done, now_ns);
            let next = Self::new(self.begin_ns + self.measure_ns, self.measure_ns);
            let ended = std::mem::replace(self, next);
            self.enter(Phase::Measuring, now_ns);
            past.rounds.operations.push(ended.figures[..2].iter().map(|figures| figures.operations).sum());
            past.window.push_back(ended);
            if past.window.len() > steady::WINDOW {
                past.window.pop_front();
            }
        }
        self.past = Some(past);
    }

    /// Adds the round that followed this one.
    fn join(&mut self, next: Self) {
        let before = (self.measure_ns / SECOND_NS) as usize;
        self.measure_ns += next.measure_ns;
        self.end = next.end;
        for (figures, more) in self.figures.iter_mut().zip(next.figures) {
            figures.operations += more.operations;
            figures.bytes += more.bytes;
            // Both have the same bounds, so that it cannot fail.
            let _same_bounds = figures.latency_ns.add(&more.latency_ns);
        }
        let seconds = self.measure_ns.div_ceil(SECOND_NS) as usize;
        self.bands.resize(seconds, [0; BANDS]);
        self.seconds.resize(seconds, Second::default());
        for (second, more) in self.seconds[before..].iter_mut().zip(next.seconds) {
            second.operations += more.operations;
            second.latency_ns_sum += more.latency_ns_sum;
            second.latency_ns_max = second.latency_ns_max.max(more.latency_ns_max);
        }
        (0..).zip(&mut self.seconds).for_each(|(number, second)| second.second = number);
        for (counts, more) in self.bands[before..].iter_mut().zip(next.bands) {
            counts.iter_mut().zip(more).for_each(|(count, more)| *count = count.saturating_add(more));
        }
    }

    /// What was measured.
    pub fn finish(mut self) -> Recorded {
        if let Some(Past { rounds, mut window }) = self.past.take()
            && let Some(mut first) = window.pop_front()
        {
            window.into_iter().for_each(|next| first.join(next));
            return Recorded { rounds: Some(rounds), ..first.finish() };
        }
        let cpu = self.cpu_over_window();
        let allocations = self.allocations_in_window();
        let bands = self.band_counts();
        let [read, write, flush] = self.figures;
        Recorded {
            read,
            write,
            flush,
            elapsed_ns: self.measure_ns,
            cpu_user_ns: cpu.map(|times| times.user_ns),
            cpu_system_ns: cpu.map(|times| times.system_ns),
            allocations,
            seconds: self.seconds,
            bands,
            open: self.open,
            rounds: None,
        }
    }

    /// The bands that hold anything, by second.
    fn band_counts(&self) -> Vec<BandCount> {
        let of_second = |(second, counts): (usize, &[u32; BANDS])| {
            let count = move |(band, count): (usize, &u32)| {
                let (from_ns, below_ns) = bounds_ns(band);
                BandCount { second: second as u32, from_ns, below_ns, operations: u64::from(*count) }
            };
            counts.iter().enumerate().filter(|(_, count)| **count > 0).map(count).collect::<Vec<_>>()
        };
        self.bands.iter().enumerate().flat_map(of_second).collect()
    }

    fn allocations_in_window(&self) -> Option<u64> {
        Some(self.end?.allocations?.saturating_sub(self.begin?.allocations?))
    }

    /// CPU time is taken at the first batches after the window opens and closes; it is scaled from the time
    /// between the two to the window, a correction of about one batch.
    fn cpu_over_window(&self) -> Option<CpuTimes> {
        let (begin, end) = (self.begin?, self.end?);
        let between_ns = end.now_ns.checked_sub(begin.now_ns).filter(|between_ns| *between_ns > 0)?;
        let (begin, end) = (begin.cpu?, end.cpu?);
        let scale = |used_ns: u64| {
            (u128::from(used_ns) * u128::from(self.measure_ns) / u128::from(between_ns)) as u64
        };
        Some(CpuTimes {
            user_ns: scale(end.user_ns.saturating_sub(begin.user_ns)),
            system_ns: scale(end.system_ns.saturating_sub(begin.system_ns)),
        })
    }
}

/// The measured part of an [`ArmOutcome`].
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Reads.
    pub read: OperationFigures,
    /// Writes.
    pub write: OperationFigures,
    /// Separate flushes.
    pub flush: OperationFigures,
    /// The measured window.
    pub elapsed_ns: u64,
    /// User CPU of the measuring thread over the window.
    pub cpu_user_ns: Option<u64>,
    /// System CPU of the measuring thread over the window.
    pub cpu_system_ns: Option<u64>,
    /// Heap allocations within the window, where they are counted.
    pub allocations: Option<u64>,
    /// One entry a second.
    pub seconds: Vec<Second>,
    /// Latencies by second.
    pub bands: Vec<BandCount>,
    /// Of an open load.
    pub open: Option<OpenFigures>,
    /// Of a load that went on until it was steady.
    pub rounds: Option<Rounds>,
}

impl Recorded {
    /// Completes it with what only the arm knows.
    pub fn into_outcome(self, io_path: String, generations: Generations) -> ArmOutcome {
        ArmOutcome {
            read: self.read,
            write: self.write,
            flush: self.flush,
            elapsed_ns: self.elapsed_ns,
            cpu_user_ns: self.cpu_user_ns,
            cpu_system_ns: self.cpu_system_ns,
            allocations: self.allocations,
            seconds: self.seconds,
            bands: self.bands,
            io_path,
            written: None,
            log: None,
            bare: Vec::new(),
            generations,
            open: self.open,
            rounds: self.rounds,
            replayed: None,
            clock: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn only_the_window_counts() {
        let mut recorder = Recorder::new(10 * MS, 1_500 * MS);
        assert_eq!(recorder.seconds.len(), 2);
        for completed_ns in [0, 10 * MS - 1, 10 * MS, 1_009 * MS, 1_010 * MS, 1_510 * MS - 1, 1_510 * MS] {
            recorder.record(RecordKind::Read, completed_ns.saturating_sub(MS), completed_ns, 4096);
        }
        recorder.record(RecordKind::Flush, 20 * MS, 23 * MS, 0);
        recorder.record(RecordKind::Write, 20 * MS, 25 * MS, 512);
        let recorded = recorder.finish();
        assert_eq!((recorded.read.operations, recorded.read.bytes), (4, 4 * 4096));
        assert_eq!((recorded.write.operations, recorded.write.bytes), (1, 512));
        assert_eq!(recorded.flush.operations, 1);
        assert_eq!(recorded.read.latency_ns.len(), 4);
        assert!(recorded.read.latency_ns.max().abs_diff(MS) <= MS / 1_000);
        assert_eq!(recorded.elapsed_ns, 1_500 * MS);
        let operations: Vec<_> = recorded.seconds.iter().map(|second| second.operations).collect();
        assert_eq!(operations, [3, 2]);
        assert_eq!(recorded.seconds[0].latency_ns_max, 5 * MS);
        assert_eq!(recorded.seconds[0].latency_ns_sum, 7 * MS);
        assert_eq!(recorded.seconds[1].second, 1);
        // Of the first second two latencies of 1 ms and one of 5 ms, of the second two of 1 ms.
        let bands: Vec<_> = recorded
            .bands
            .iter()
            .map(|count| {
                (count.second, (count.from_ns..count.below_ns).contains(&(5 * MS)), count.operations)
            })
            .collect();
        assert_eq!(bands, [(0, false, 2), (0, true, 1), (1, false, 2)]);
    }

    #[test]
    fn phases_follow_the_clock_and_take_cpu_times() {
        let mut recorder = Recorder::new(10, 100);
        assert_eq!(recorder.advance(9), Phase::WarmUp);
        assert!(recorder.begin.is_none());
        assert_eq!(recorder.advance(10), Phase::Measuring);
        assert!(recorder.begin.is_some());
        assert_eq!(recorder.advance(109), Phase::Measuring);
        assert_eq!(recorder.advance(110), Phase::Done);
        assert!(recorder.finish().cpu_user_ns.is_some());
        // A window that never closed has no CPU time rather than a wrong one.
        let mut open = Recorder::new(10, 100);
        open.advance(20);
        assert_eq!(open.finish().cpu_user_ns, None);
    }

    /// Rounds of two seconds: operations of the first four are dropped, and those of the window lie in its seconds.
    #[test]
    fn the_window_is_the_last_five_rounds() {
        let mut recorder = Recorder::new(SECOND_NS, 10 * SECOND_NS).until_steady();
        let mut done_at = None;
        for tenth in 0..400_u64 {
            let now_ns = tenth * 100 * MS;
            if recorder.advance(now_ns) == Phase::Done {
                done_at.get_or_insert(tenth);
            }
            let round = now_ns.saturating_sub(SECOND_NS) / (2 * SECOND_NS);
            // Four rounds that are slower and slower, then level ones.
            for _ in 0..[40, 30, 20, 15].get(round as usize).copied().unwrap_or(10) {
                recorder.record(RecordKind::Write, now_ns - now_ns.min(tenth * MS), now_ns, 4096);
            }
        }
        // A second of warm-up, and nine rounds of two.
        assert_eq!(done_at, Some(190));
        let recorded = recorder.finish();
        let rounds = recorded.rounds.unwrap();
        assert_eq!(rounds.operations, [800, 600, 400, 300, 200, 200, 200, 200, 200]);
        assert!(rounds.is_steady() && rounds.before() == 4);
        assert_eq!((recorded.elapsed_ns, recorded.write.operations), (10 * SECOND_NS, 1_000));
        assert_eq!((recorded.write.bytes, recorded.write.latency_ns.len()), (1_000 * 4096, 1_000));
        let seconds: Vec<_> =
            recorded.seconds.iter().map(|second| (second.second, second.operations)).collect();
        assert_eq!(seconds, (0..10).map(|second| (second, 100)).collect::<Vec<_>>());
        assert_eq!(recorded.bands.iter().map(|band| band.operations).sum::<u64>(), 1_000);
        assert_eq!(recorded.bands.iter().map(|band| band.second).max(), Some(9));
        // The tenth operation of a second is a millisecond slower than the first one of it, from 9 s on.
        assert_eq!(recorded.seconds[0].latency_ns_max, 99 * MS);
        assert_eq!(recorded.seconds[9].latency_ns_max, 189 * MS);
        assert!(recorded.cpu_user_ns.is_some());
    }

    /// A stall of many rounds is as many rounds in which nothing was done.
    #[test]
    fn what_never_is_steady_ends_after_25_rounds() {
        let mut recorder = Recorder::new(0, 500 * MS).until_steady();
        for round in 0..9 {
            recorder.advance(round * 100 * MS);
            for _ in 0..=round {
                recorder.record(RecordKind::Read, round * 100 * MS, round * 100 * MS + 5, 1);
            }
        }
        assert_eq!(recorder.advance(2_400 * MS), Phase::Measuring);
        recorder.record(RecordKind::Read, 0, 2_400 * MS, 1);
        assert_eq!((recorder.advance(2_500 * MS), recorder.advance(2_501 * MS)), (Phase::Done, Phase::Done));
        recorder.record(RecordKind::Read, 0, 2_500 * MS, 1);
        let recorded = recorder.finish();
        let rounds = recorded.rounds.unwrap();
        assert_eq!((rounds.operations.len(), rounds.is_steady()), (25, false));
        assert_eq!(
            (&rounds.operations[..10], rounds.operations[24]),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 0][..], 1)
        );
        // What it did is kept.
        assert_eq!((recorded.read.operations, recorded.elapsed_ns), (1, 500 * MS));
    }

    #[test]
    fn extreme_latencies_are_kept() {
        let mut recorder = Recorder::new(0, u64::from(u32::MAX));
        recorder.record(RecordKind::Read, 5, 5, 1);
        recorder.record(RecordKind::Read, 7, 5, 1);
        let mut late = Recorder::new(0, 200 * SECOND_NS);
        late.record(RecordKind::Write, 0, 100 * SECOND_NS, 1);
        assert_eq!(recorder.finish().read.latency_ns.len(), 2);
        let max_ns = late.finish().write.latency_ns.max();
        assert!((LATENCY_NS_MAX..LATENCY_NS_MAX / 100 * 101).contains(&max_ns), "{max_ns}");
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = CpuTimes::of_this_thread().expect("Linux knows a thread's CPU time");
        let clock = Clock::start();
        while clock.now_ns() < 50 * MS {
            std::hint::black_box(0);
        }
        let after = CpuTimes::of_this_thread().expect("Linux knows a thread's CPU time");
        assert!(after.user_ns + after.system_ns > before.user_ns + before.system_ns);
    }
}
