//! Orders work on overlapping byte ranges.
//!
//! Invariants: of two overlapping ranges the one asked for first is granted first, so overlapping writes take
//! effect in the order of their calls; ranges that do not overlap never wait for each other. A range is in
//! the table from the first poll of [`RangeLock::lock`] until the unfinished future, or the last copy of its
//! guard, is dropped. An operation takes a copy of the guard into its slot, so that a dropped future does not
//! let a later write overtake the one the kernel still has.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The ranges in use and waited for; cheap to clone. The table holds as many entries as there are requests in
/// flight, so a scan of it costs less than a tree would.
#[derive(Clone, Debug, Default)]
pub struct RangeLock(Rc<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: RefCell<Vec<Entry>>,
    tickets: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    start: u64,
    end: u64,
    ticket: u64,
    guards: u32,
    waiting: Option<Waker>,
}

/// A range in use; dropping its last copy lets the next one in.
#[derive(Debug)]
pub struct RangeGuard {
    table: Rc<Table>,
    ticket: u64,
}

impl RangeLock {
    /// Waits until no earlier request overlaps the bytes `start..end`.
    pub async fn lock(&self, start: u64, end: u64) -> RangeGuard {
        let table = &self.0;
        let ticket = table.tickets.get();
        table.tickets.set(ticket + 1);
        table.entries.borrow_mut().push(Entry { start, end, ticket, guards: 1, waiting: None });
        let guard = RangeGuard { table: Rc::clone(table), ticket };
        poll_fn(|context| {
            let mut entries = table.entries.borrow_mut();
            if !entries.iter().any(|other| other.ticket < ticket && other.start < end && start < other.end) {
                return Poll::Ready(());
            }
            own_entry(&mut entries, ticket).1.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        guard
    }

    /// Entries in the table, held and waiting.
    pub fn len(&self) -> usize {
        self.0.entries.borrow().len()
    }

    /// Whether no range is held or waited for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn own_entry(entries: &mut [Entry], ticket: u64) -> (usize, &mut Entry) {
    match entries.iter_mut().enumerate().find(|(_, entry)| entry.ticket == ticket) {
        Some(found) => found,
        None => unreachable!("a guard's entry stays until its last copy is dropped"),
    }
}

impl Clone for RangeGuard {
    fn clone(&self) -> Self {
        own_entry(&mut self.table.entries.borrow_mut(), self.ticket).1.guards += 1;
        Self { table: Rc::clone(&self.table), ticket: self.ticket }
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut entries = self.table.entries.borrow_mut();
        let (at, own) = own_entry(&mut entries, self.ticket);
        own.guards -= 1;
        if own.guards > 0 {
            return;
        }
        let done = entries.swap_remove(at);
        for other in entries.iter_mut() {
            if other.start < done.end
                && done.start < other.end
                && let Some(waker) = other.waiting.take()
            {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn overlapping_ranges_take_turns_in_order_and_others_pass() {
        let lock = RangeLock::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(lock.lock(0, 8));
        let mut second = pin!(lock.lock(4, 12));
        let mut third = pin!(lock.lock(10, 16));
        let mut other = pin!(lock.lock(16, 20));
        let Poll::Ready(first_guard) = first.as_mut().poll(&mut context) else {
            panic!("nothing is before it")
        };
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(
            third.as_mut().poll(&mut context).is_pending(),
            "it waits behind the second, which asked first"
        );
        let Poll::Ready(other_guard) = other.as_mut().poll(&mut context) else {
            panic!("it overlaps nothing")
        };
        let copy = first_guard.clone();
        drop(first_guard);
        assert!(second.as_mut().poll(&mut context).is_pending(), "a copy of the guard still holds the range");
        drop(copy);
        let Poll::Ready(second_guard) = second.as_mut().poll(&mut context) else {
            panic!("the first is gone")
        };
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(second_guard);
        let Poll::Ready(third_guard) = third.as_mut().poll(&mut context) else {
            panic!("the second is gone")
        };
        assert_eq!(lock.len(), 2);
        drop((third_guard, other_guard));
        assert!(lock.is_empty());
    }

    #[test]
    fn a_dropped_wait_frees_its_place() {
        let lock = RangeLock::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(lock.lock(0, 8));
        let Poll::Ready(guard) = first.as_mut().poll(&mut context) else { panic!("nothing is before it") };
        {
            let mut abandoned = pin!(lock.lock(0, 8));
            assert!(abandoned.as_mut().poll(&mut context).is_pending());
        }
        drop(guard);
        assert!(lock.is_empty());
    }
}
