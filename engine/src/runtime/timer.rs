//! Timers: who wants to be woken when.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as PollContext, Poll};

use super::Timestamp;
use super::executor::{Context, Core, Waiter};

/// The armed timers of a runtime, in order of time and then of arming.
#[derive(Default)]
pub(super) struct Timers {
    armed: BTreeMap<(Timestamp, u64), Waiter>,
    arms: u64,
}

impl Timers {
    pub fn next(&self) -> Option<Timestamp> {
        self.armed.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    pub fn pop_due(&mut self, now: Timestamp) -> Option<Waiter> {
        let first = self.armed.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }
}

/// A future that ends at a moment of its runtime's clock.
pub struct Sleep {
    core: Rc<Core>,
    deadline: Timestamp,
    armed: Option<u64>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Context {
    /// Ends `duration_ns` nanoseconds from now.
    pub fn sleep(&self, duration_ns: u64) -> Sleep {
        self.sleep_until(Timestamp(self.now().0.saturating_add(duration_ns)))
    }

    /// Ends at `deadline`.
    pub fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Sleep { core: Rc::clone(&self.0), deadline, armed: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<()> {
        let waiter = self.core.waiter(context);
        let mut timers = self.core.timers().borrow_mut();
        match self.armed {
            Some(arm) => match timers.armed.get_mut(&(self.deadline, arm)) {
                Some(armed) => {
                    *armed = waiter;
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
            None => {
                timers.arms += 1;
                let arm = timers.arms;
                timers.armed.insert((self.deadline, arm), waiter);
                drop(timers);
                self.armed = Some(arm);
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(arm) = self.armed {
            self.core.timers().borrow_mut().armed.remove(&(self.deadline, arm));
        }
    }
}
