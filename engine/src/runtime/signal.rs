//! A signal between tasks of one runtime: whoever waits is woken by the next one.
//!
//! Promise: between looking at what one waits for and waiting nothing else runs, so that no signal is missed.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;

use super::executor::{Context, Waiter};

/// Wakes all who wait for it.
#[derive(Debug)]
pub struct Signal {
    context: Context,
    given: Cell<u64>,
    waiting: RefCell<Vec<Waiter>>,
}

impl Signal {
    /// A signal that nobody has given yet.
    pub fn new(context: &Context) -> Self {
        Self { context: context.clone(), given: Cell::new(0), waiting: RefCell::default() }
    }

    /// Wakes everybody who waits.
    pub fn give(&self) {
        self.given.set(self.given.get() + 1);
        // A waker may run code that waits again.
        let mut waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.drain(..).for_each(|waiter| self.context.wake(waiter));
        let mut now = self.waiting.borrow_mut();
        if now.is_empty() {
            *now = waiting;
        }
    }

    /// Ends with the next signal after this call.
    pub async fn wait(&self) {
        let given = self.given.get();
        poll_fn(|context| {
            if self.given.get() != given {
                return Poll::Ready(());
            }
            let waiter = self.context.waiter(context);
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.contains(&waiter) {
                waiting.push(waiter);
            }
            Poll::Pending
        })
        .await;
    }
}
