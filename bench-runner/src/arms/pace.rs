//! The pace of an open load: who begins the next operation, and when.
//!
//! Operations are due by a [`Schedule`] or by a trace, in order. One task at a time, the *next*, waits for
//! the moment at which the operation
//! that comes first is due, begins it and hands over to another idle one; a task whose operation has completed while others
//! are due goes on at once. So an operation waits for its turn only while all of them are under way, which is the queue
//! that an open load is there to show. A trace that is played as fast as possible has an order alone: its next request is due
//! as soon as there is a task for it.
//!
//! Where it is still long until then the task sleeps; for the rest it gives way to others again and again, since no timer of the
//! system is as exact as the schedule. That costs a processor: an open load keeps one busy.
//!
//! Invariants: operations are begun in the order in which they are due, and none before it is; at most
//! [`BACKLOG_MAX`](crate::measure::BACKLOG_MAX) are due and not begun, those before them are given up and counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use icecore::runtime::{Context, Signal};
use icecore_workloads::Schedule;

use super::line::{First, Line, Source};
use crate::failure::Failure;
use crate::recorder::Clock;
use crate::replay::feed::Request;

/// Time before a due operation from which on nobody sleeps: more than a timer of the system is late.
const AWAKE_NS: u64 = 200_000;
/// The longest sleep: a trace may pause for hours, and a load is to end when it is over, or a signal has come.
const SLEEP_NS_MAX: u64 = 50_000_000;

/// An operation that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// When it was to begin.
    pub due_ns: u64,
    /// When it could begin: then, or when there was a task for it.
    pub ready_ns: u64,
    /// Operations due and not begun, itself included.
    pub backlog: u64,
    /// Operations given up right before it.
    pub overflow: u64,
    /// What it is, where a trace says so.
    pub request: Option<Request>,
}

/// How a trace was played, seen from its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Played {
    /// Whether all of it was begun, as far as it was to be.
    pub is_whole: bool,
    /// Reads and writes that were due in the measured window.
    pub in_window: u64,
    /// How long the last one stood in the line.
    pub last_wait_ns: u64,
    /// Time in which a task was idle and nothing had been read for it.
    pub starved_ns: u64,
}

/// The line of what is to begin and the tasks that are idle.
#[derive(Debug)]
pub(crate) struct Pace {
    context: Context,
    clock: Cell<Clock>,
    line: RefCell<Line>,
    /// Somebody waits for the next operation.
    is_awaited: Cell<bool>,
    idle: RefCell<VecDeque<usize>>,
    signals: Box<[Signal]>,
    last_wait_ns: Cell<u64>,
    starved_ns: Cell<u64>,
}

impl Pace {
    /// For so many tasks; what is due in the window is counted.
    pub(super) fn new(context: &Context, queue_depth: u32, source: Source, window: (u64, u64)) -> Self {
        Self {
            context: context.clone(),
            clock: Cell::new(Clock::start()),
            line: RefCell::new(Line::new(source, window)),
            is_awaited: Cell::new(false),
            idle: RefCell::new(VecDeque::with_capacity(queue_depth as usize)),
            signals: (0..queue_depth).map(|_| Signal::new(context)).collect(),
            last_wait_ns: Cell::new(0),
            starved_ns: Cell::new(0),
        }
    }

    /// For so many tasks, by a schedule alone.
    pub fn scheduled(context: &Context, queue_depth: u32, schedule: Schedule) -> Self {
        Self::new(context, queue_depth, Source::Schedule(schedule), (0, 0))
    }

    /// The schedule begins at 0 of this clock.
    pub fn start(&self, clock: Clock) {
        self.clock.set(clock);
    }

    /// Ends when the task of this slot is to begin an operation; `None` when the load is done, or the trace at its end.
    pub async fn wait(&self, slot: usize, is_done: impl FnMut() -> bool) -> Option<Due> {
        let came_ns = self.clock.get().now_ns();
        while self.is_awaited.get() {
            self.idle.borrow_mut().push_back(slot);
            self.signals[slot].wait().await;
        }
        self.is_awaited.set(true);
        let due = self.next(came_ns, is_done).await;
        self.is_awaited.set(false);
        if let Some(next) = self.idle.borrow_mut().pop_front() {
            self.signals[next].give();
        }
        due
    }

    /// The operation that comes first, once it is due.
    async fn next(&self, came_ns: u64, mut is_done: impl FnMut() -> bool) -> Option<Due> {
        let mut now_ns = self.clock.get().now_ns();
        let mut overflow = self.line.borrow_mut().see(now_ns);
        let mut starved_since_ns: Option<u64> = None;
        loop {
            let first = self.line.borrow_mut().first();
            if matches!(first, First::At(_))
                && let Some(since_ns) = starved_since_ns.take()
            {
                self.starved_ns.set(self.starved_ns.get() + (now_ns - since_ns));
            }
            match first {
                First::At(due_ns) if due_ns <= now_ns => break,
                First::End => return None,
                _ if is_done() => return None,
                First::At(due_ns) if due_ns - now_ns > AWAKE_NS => {
                    self.context.sleep((due_ns - now_ns - AWAKE_NS).min(SLEEP_NS_MAX)).await;
                }
                First::NotYet => {
                    starved_since_ns.get_or_insert(now_ns);
                    self.context.yield_now().await;
                }
                First::At(_) => self.context.yield_now().await,
            }
            now_ns = self.clock.get().now_ns();
        }
        let mut line = self.line.borrow_mut();
        let next = line.take()?;
        overflow += line.see(now_ns);
        self.last_wait_ns.set(now_ns.saturating_sub(next.due_ns));
        Some(Due {
            due_ns: next.due_ns,
            ready_ns: next.due_ns.max(came_ns),
            backlog: line.len() + 1,
            overflow,
            request: next.request,
        })
    }

    /// Ends the reading of a trace, when every task has ended.
    ///
    /// # Errors
    /// It could not be read as far as it was played, beside what was played of it.
    pub(super) fn finish(&self) -> (Played, Result<(), Failure>) {
        let mut line = self.line.borrow_mut();
        let is_whole = line.is_over();
        let in_window = line.count_window();
        let played = Played {
            is_whole,
            in_window,
            last_wait_ns: self.last_wait_ns.get(),
            starved_ns: self.starved_ns.get(),
        };
        (played, line.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::super::served::{self, DEPTH, MS};
    use crate::measure::ArmOutcome;

    const SERVICE_NS: u64 = 2 * MS;
    const STALL_NS: std::ops::Range<u64> = 1_200 * MS..1_700 * MS;

    fn run(offered_per_second: Option<f64>, measure_ns: u64, service_ns: fn(u64) -> u64) -> ArmOutcome {
        served::run("mixed-4k", (100 * MS, measure_ns), service_ns, |task| {
            task.offered_per_second = offered_per_second;
        })
    }

    /// Beyond capacity the queue grows for as long as the load lasts: in what was intended, not in the service.
    #[test]
    fn a_queue_shows_in_what_was_intended_alone() {
        assert!(run(None, 50 * MS, |_| SERVICE_NS).open.is_none());
        // More than this it never does, and much less where the machine has other things to do.
        let capacity = f64::from(DEPTH) * 1e9 / SERVICE_NS as f64;
        let over = run(Some(1.5 * capacity), 1_000 * MS, |_| SERVICE_NS);
        let open = over.open.as_ref().expect("an open load");
        // A third of all that is offered in a second and a tenth is left waiting, the last of it 300 ms.
        let intended_ns = open.read_ns.value_at_quantile(0.9);
        assert!(intended_ns > 150 * MS, "{intended_ns}");
        let service_ns = over.read.latency_ns.value_at_quantile(0.5);
        assert!(service_ns < 50 * MS, "{service_ns}");
        assert!(open.backlog_max > over.operations() / 8, "{} of {}", open.backlog_max, over.operations());
        assert!(open.is_saturated(over.operations(), over.elapsed_ns));

        let under = run(Some(0.1 * capacity), 1_000 * MS, |_| SERVICE_NS);
        let open = under.open.as_ref().expect("an open load");
        let (intended_ns, service_ns) =
            (open.read_ns.value_at_quantile(0.5), under.read.latency_ns.value_at_quantile(0.5));
        assert!(intended_ns < service_ns + 50 * MS, "{intended_ns} {service_ns}");
        // The schedule's own count, within five standard deviations of a Poisson count.
        let wanted = 0.1 * capacity;
        let counted = under.operations() as f64;
        assert!(
            (counted - wanted).abs() < 5.0 * wanted.sqrt() + 2.0 * f64::from(DEPTH),
            "{counted} {wanted}"
        );
        assert!(!open.lateness_ns.is_empty() && !open.read_ns.is_empty());
        assert_eq!(open.overflow, 0);
    }

    /// What was to begin during a stall has waited for it; a closed load would have seen as many operations as it has in flight.
    #[test]
    fn a_stall_is_seen_by_all_that_were_to_begin_meanwhile() {
        // A second and 100 ms after the beginning: the second second of the window.
        let stalled = run(Some(300.0), 3_000 * MS, |at_ns| {
            SERVICE_NS + if STALL_NS.contains(&at_ns) { STALL_NS.end - at_ns } else { 0 }
        });
        let open = stalled.open.as_ref().expect("an open load");
        let longer = |histogram: &hdrhistogram::Histogram<u64>| {
            histogram.count_between(100 * MS, crate::recorder::LATENCY_NS_MAX)
        };
        // 500 ms at 300 a second, of which the last fifth has waited less than 100 ms.
        let waited = longer(&open.read_ns) + longer(&open.write_ns);
        assert!(waited > 60, "{waited}");
        let served = longer(&stalled.read.latency_ns) + longer(&stalled.write.latency_ns);
        assert!(served <= 4 * u64::from(DEPTH), "{served}");
        let worst = stalled.seconds.iter().max_by_key(|second| second.latency_ns_max).expect("seconds");
        assert_eq!(worst.second, 1, "{:?}", stalled.seconds);
    }
}
