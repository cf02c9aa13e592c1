//! What a foreground load of a suite did between two looks at it: figures, and a series of short windows.

use icecore_workloads::{Generations, OperationKind};

use crate::measure::{ArmOutcome, OpenFigures, OperationFigures, Window};
use crate::recorder::{CpuTimes, Recorded, empty_figures};
use crate::results::merged;
use crate::stats;

/// Length of a window of the series.
const WINDOW_NS: u64 = 50_000_000;

/// An operation that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub kind: OperationKind,
    pub offset_bytes: u64,
    pub len_bytes: u32,
    pub begun_ns: u64,
    /// When it was to begin, where there is a schedule.
    pub due_ns: Option<u64>,
}

/// What has been measured since the last look.
pub(super) struct Record {
    pub since_ns: u64,
    cpu: Option<CpuTimes>,
    read: OperationFigures,
    write: OperationFigures,
    open: Option<OpenFigures>,
    windows: Vec<Window>,
}

impl Record {
    /// From now on; of a load of that rate, where it has one.
    pub fn from(since_ns: u64, offered_per_second: Option<f64>) -> Self {
        let mut open = offered_per_second.map(OpenFigures::new);
        open.iter_mut().for_each(OpenFigures::begin);
        Self {
            since_ns,
            cpu: CpuTimes::of_this_thread(),
            read: empty_figures(),
            write: empty_figures(),
            open,
            windows: Vec::new(),
        }
    }

    /// Operations that have completed.
    pub fn operations(&self) -> u64 {
        self.read.operations + self.write.operations
    }

    /// How late an operation was begun, and how many were due behind it.
    pub fn begun(&mut self, lateness_ns: u64, backlog: u64, overflow: u64) {
        if let Some(open) = &mut self.open {
            open.lateness_ns.saturating_record(lateness_ns);
            open.backlog_max = open.backlog_max.max(backlog);
            open.overflow += overflow;
        }
    }

    /// Counts an operation that has completed. In the series an operation of a schedule counts from when it was to begin: so a pause
    /// is seen as long as it was.
    pub fn completed(&mut self, begun: &Begun, now_ns: u64) {
        let latency_ns = now_ns.saturating_sub(begun.begun_ns);
        let intended_ns = now_ns.saturating_sub(begun.due_ns.unwrap_or(begun.begun_ns));
        let figures = if begun.kind == OperationKind::Read { &mut self.read } else { &mut self.write };
        figures.operations += 1;
        figures.bytes += u64::from(begun.len_bytes);
        figures.latency_ns.saturating_record(latency_ns);
        if let Some(open) = &mut self.open {
            let intended =
                if begun.kind == OperationKind::Read { &mut open.read_ns } else { &mut open.write_ns };
            intended.saturating_record(intended_ns);
        }
        let index = (now_ns.saturating_sub(self.since_ns) / WINDOW_NS) as usize;
        while self.windows.len() <= index {
            let begin_ns = self.windows.len() as u64 * WINDOW_NS;
            self.windows.push(Window { begin_ns, length_ns: WINDOW_NS, ..Window::default() });
        }
        let window = &mut self.windows[index];
        window.operations += 1;
        window.latency_ns_sum += intended_ns;
        window.latency_ns_max = window.latency_ns_max.max(intended_ns);
    }

    /// Until then.
    pub fn seen(self, now_ns: u64, io_path: String) -> Seen {
        let Self { since_ns, cpu, read, write, mut open, mut windows } = self;
        let elapsed_ns = now_ns - since_ns;
        if let Some(last) = windows.last_mut() {
            last.length_ns = WINDOW_NS.min(elapsed_ns.saturating_sub(last.begin_ns));
        }
        let now = CpuTimes::of_this_thread();
        open.iter_mut().for_each(OpenFigures::end);
        let used = |of: fn(CpuTimes) -> u64| Some(of(now?).saturating_sub(of(cpu?)));
        let recorded = Recorded {
            open,
            read,
            write,
            flush: empty_figures(),
            elapsed_ns,
            cpu_user_ns: used(|cpu| cpu.user_ns),
            cpu_system_ns: used(|cpu| cpu.system_ns),
            allocations: None,
            seconds: Vec::new(),
            bands: Vec::new(),
            rounds: None,
        };
        Seen { outcome: recorded.into_outcome(io_path, Generations::default()), windows }
    }
}

/// What a load did between two looks.
pub(super) struct Seen {
    pub outcome: ArmOutcome,
    pub windows: Vec<Window>,
}

impl Seen {
    pub fn writes(&self) -> u64 {
        self.outcome.write.operations
    }

    /// Reads and writes a second.
    pub fn rate(&self) -> f64 {
        self.outcome.per_second()
    }

    /// A percentile of the latency from when operations were to begin, in nanoseconds.
    pub fn intended_ns(&self, q: f64) -> Option<f64> {
        let open = self.outcome.open.as_ref()?;
        let all = merged([&open.read_ns, &open.write_ns])?;
        stats::percentile(&all, q).map(|ns| ns as f64)
    }

    /// Why it does not count as a load of its rate: the machine made it late.
    pub fn refusal(&self) -> Option<String> {
        let service = merged([&self.outcome.read.latency_ns, &self.outcome.write.latency_ns])?;
        self.outcome.open.as_ref()?.refusal(service.value_at_quantile(0.5), self.outcome.elapsed_ns, false)
    }
}
