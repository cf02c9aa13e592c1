//! The clock of a load on the engine's runtime: what happens in one turn shares readings, since each costs as much as
//! some I/O where the clock is a system call.
//!
//! Completions that the runtime delivers in one turn share one reading, taken after that turn's wait has returned.
//! Operations begun in one turn share a reading for each `ISSUE_BATCH` of them, taken before the first is begun. So a
//! latency can look longer by the work of its neighbours, never shorter.

use icecore::runtime::Context;

use crate::recorder::Clock;

/// Operations that share one reading of the clock when they are begun: as many as the runtime hands over to the
/// kernel together, so that no reading is older than its batch.
const ISSUE_BATCH: u32 = 8;

/// A clock that is read once a turn for what has completed.
pub(crate) struct TurnClock {
    context: Context,
    clock: Clock,
    /// The turn that the readings below belong to.
    turn: u64,
    now_ns: u64,
    issue_ns: u64,
    /// Operations that may still share `issue_ns`.
    issue_left: u32,
}

impl TurnClock {
    /// A clock that now shows 0.
    pub fn start(context: &Context) -> Self {
        let turn = context.turns();
        Self { context: context.clone(), clock: Clock::start(), turn, now_ns: 0, issue_ns: 0, issue_left: 0 }
    }

    /// Reads the clock if the runtime has waited since; gives the time then.
    #[inline]
    pub fn see_turn(&mut self) -> Option<u64> {
        let turn = self.context.turns();
        if turn == self.turn {
            return None;
        }
        (self.turn, self.issue_left) = (turn, 0);
        self.now_ns = self.clock.now_ns();
        Some(self.now_ns)
    }

    /// The time for what has completed in this turn.
    #[inline]
    pub fn turn_ns(&mut self) -> u64 {
        self.see_turn();
        self.now_ns
    }

    /// The time before an operation that is about to be begun.
    #[inline]
    pub fn issue_ns(&mut self) -> u64 {
        self.see_turn();
        if self.issue_left == 0 {
            self.issue_ns = self.clock.now_ns();
            self.issue_left = ISSUE_BATCH;
        }
        self.issue_left -= 1;
        self.issue_ns
    }

    /// The clock itself.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The time now.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}
