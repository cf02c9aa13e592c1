//! The line of what is to begin: the moments of a schedule, or the requests of a trace, in the order of their time.
//!
//! What is due and not begun stands in the line; what is not due yet is asked for one by one. At most [`BACKLOG_MAX`] stand in it:
//! those before them are given up and counted.

use std::collections::VecDeque;

use icecore_workloads::Schedule;
use icecore_workloads::trace::RecordKind;

use crate::failure::Failure;
use crate::measure::BACKLOG_MAX;
use crate::replay::feed::{Feed, Next, Request};

/// What is to begin, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// When.
    pub due_ns: u64,
    /// The request, where a trace says which; else it is up to the workload.
    pub request: Option<Request>,
}

/// Where the line comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Moments that follow from a rate.
    Schedule(Schedule),
    /// A trace on its schedule.
    Trace(Feed),
    /// A trace in its order, each request as soon as somebody takes it.
    Order(Feed),
}

/// What stands first in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Something that is to begin then.
    At(u64),
    /// Nothing has been read yet.
    NotYet,
    /// There is nothing more.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line {
    source: Source,
    due: VecDeque<Pending>,
    /// The first that is not due yet, once it was asked for.
    ahead: Option<Pending>,
    has_ended: bool,
    /// Reads and writes of a trace that were due before `window.1` and not before `window.0`.
    in_window: u64,
    window: (u64, u64),
}

impl Line {
    /// A line of this source; what is due in the window is counted.
    pub fn new(source: Source, window: (u64, u64)) -> Self {
        let due = VecDeque::with_capacity(match source {
            Source::Order(_) => 0,
            Source::Schedule(_) | Source::Trace(_) => BACKLOG_MAX as usize + 1,
        });
        Self { source, due, ahead: None, has_ended: false, in_window: 0, window }
    }

    /// Puts what is due by now into the line; gives how many were given up.
    pub fn see(&mut self, now_ns: u64) -> u64 {
        let mut overflow = 0;
        if matches!(self.source, Source::Order(_)) {
            return overflow;
        }
        while let Some(ahead) = self.ask_ahead()
            && ahead.due_ns <= now_ns
        {
            self.ahead = None;
            self.due.push_back(ahead);
            if self.due.len() as u64 > BACKLOG_MAX {
                self.due.pop_front();
                overflow += 1;
            }
        }
        overflow
    }

    /// What is to begin next.
    pub fn first(&mut self) -> First {
        match self.due.front().copied().or_else(|| self.ask_ahead()) {
            Some(_) if matches!(self.source, Source::Order(_)) => First::At(0),
            Some(pending) => First::At(pending.due_ns),
            None if self.has_ended => First::End,
            None => First::NotYet,
        }
    }

    /// Takes it out of the line.
    pub fn take(&mut self) -> Option<Pending> {
        self.due.pop_front().or_else(|| self.ahead.take())
    }

    /// How many are due and not begun.
    pub fn len(&self) -> u64 {
        self.due.len() as u64
    }

    /// Whether everything has been taken.
    pub fn is_over(&self) -> bool {
        self.has_ended && self.due.is_empty() && self.ahead.is_none()
    }

    /// Reads and writes of a trace that were due in the window.
    pub fn count_window(&mut self) -> u64 {
        while let Some(ahead) = self.ask_ahead()
            && ahead.due_ns < self.window.1
        {
            self.ahead = None;
        }
        self.in_window
    }

    /// Ends the reading of a trace.
    ///
    /// # Errors
    /// It could not be read as far as it was played.
    pub fn finish(&mut self) -> Result<(), Failure> {
        match &mut self.source {
            Source::Schedule(_) => Ok(()),
            Source::Trace(feed) | Source::Order(feed) => feed.finish(),
        }
    }

    fn ask_ahead(&mut self) -> Option<Pending> {
        if self.ahead.is_none() && !self.has_ended {
            self.ahead = match &mut self.source {
                Source::Schedule(schedule) => Some(Pending { due_ns: schedule.next_ns(), request: None }),
                Source::Trace(feed) | Source::Order(feed) => match feed.next() {
                    Next::Request(request) => {
                        let counts = matches!(request.kind, RecordKind::Read | RecordKind::Write);
                        let is_inside = (self.window.0..self.window.1).contains(&request.due_ns);
                        self.in_window += u64::from(counts && is_inside);
                        Some(Pending { due_ns: request.due_ns, request: Some(request) })
                    }
                    Next::NotYet => None,
                    Next::End => {
                        self.has_ended = true;
                        None
                    }
                },
            };
        }
        self.ahead
    }
}

#[cfg(test)]
mod tests {
    use icecore_workloads::Arrival;

    use super::*;

    /// Ten thousand a second for twenty seconds of which nothing is begun: half of them are kept, the youngest.
    #[test]
    fn those_for_which_too_many_wait_are_given_up_from_the_front() {
        let schedule = Schedule::new(Arrival::Constant, 10_000.0, 1);
        let mut line = Line::new(Source::Schedule(schedule), (0, u64::MAX));
        let mut given_up = 0;
        for second in 1..=20 {
            given_up += line.see(second * 1_000_000_000);
        }
        assert_eq!((given_up, line.len()), (100_000, BACKLOG_MAX));
        assert_eq!(line.take().map(|first| first.due_ns), Some(10_000_100_000));
        assert_eq!((line.len(), line.is_over()), (BACKLOG_MAX - 1, false));
    }
}
