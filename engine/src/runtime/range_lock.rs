//! Orders work on overlapping byte ranges.
//!
//! Invariants: of two overlapping ranges the one asked for first is granted first, so overlapping writes take
//! effect in the order of their calls; ranges that do not overlap never wait for each other. A range is in
//! the table from the first poll of [`RangeLock::lock`] until the unfinished future, or the last copy of its
//! guard, is dropped. An operation takes a copy of the guard into its slot, so that a dropped future does not
//! let a later write overtake the one the kernel still has.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A place that holds no range: it overlaps nothing.
const NOTHING: (u64, u64) = (u64::MAX, 0);

/// What the filter counts by.
const GRANULE_SHIFT: u32 = 12;
/// A longer range is *wide*: while one is held, the filter is no help.
const GRANULES_MAX: u64 = 16;
const BUCKETS: usize = 512;

/// The ranges in use and waited for; cheap to clone. A filter of counters answers "nobody" for nearly every
/// request in one load; otherwise all ranges are compared: there are no more than requests in flight, so that a
/// packed array costs less than a tree would.
#[derive(Clone, Debug, Default)]
pub struct RangeLock(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Start and end of each place, apart from the rest so that a scan touches little memory.
    ranges: Vec<(u64, u64)>,
    filter: Filter,
    holders: Vec<Holder>,
    free: Vec<u32>,
    tickets: u64,
    waiting: usize,
}

/// How many ranges touch each granule, by a hash of it.
#[derive(Debug)]
struct Filter {
    counters: Box<[u32; BUCKETS]>,
    wide: u32,
}

#[derive(Debug)]
struct Holder {
    /// The order of asking.
    ticket: u64,
    /// Copies of the guard.
    guards: u32,
    waker: Option<Waker>,
}

/// A range in use; dropping its last copy lets the next one in.
#[derive(Debug)]
pub struct RangeGuard {
    table: Rc<RefCell<Table>>,
    place: u32,
}

impl RangeLock {
    /// Waits until no earlier request overlaps the bytes `start..end`.
    pub async fn lock(&self, start: u64, end: u64) -> RangeGuard {
        let (place, must_wait) = self.0.borrow_mut().enter(start, end);
        let guard = RangeGuard { table: Rc::clone(&self.0), place };
        if must_wait {
            poll_fn(|context| self.0.borrow_mut().poll(place, context.waker())).await;
        }
        guard
    }

    /// Ranges held and waited for.
    pub fn len(&self) -> usize {
        let table = self.0.borrow();
        table.ranges.len() - table.free.len()
    }

    /// Whether no range is held or waited for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self { counters: Box::new([0; BUCKETS]), wide: 0 }
    }
}

impl Filter {
    /// The counters of a range; `None` for a wide or empty one.
    #[inline]
    fn buckets(start: u64, end: u64) -> Option<impl Iterator<Item = usize>> {
        let first = start >> GRANULE_SHIFT;
        // Of an empty range this wraps.
        let more = (end.wrapping_sub(1) >> GRANULE_SHIFT).wrapping_sub(first);
        let hash = |granule: u64| (granule.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 55) as usize;
        (more < GRANULES_MAX).then(|| (first..first + more + 1).map(hash))
    }

    /// Counts a range in. Whether another may overlap it.
    #[inline]
    fn enter(&mut self, start: u64, end: u64) -> bool {
        let mut maybe = self.wide > 0;
        match Self::buckets(start, end) {
            Some(buckets) => {
                for bucket in buckets {
                    maybe |= self.counters[bucket] > 0;
                    self.counters[bucket] += 1;
                }
            }
            None => {
                maybe = true;
                self.wide += 1;
            }
        }
        maybe
    }

    #[inline]
    fn leave(&mut self, start: u64, end: u64) {
        match Self::buckets(start, end) {
            Some(buckets) => buckets.for_each(|bucket| self.counters[bucket] -= 1),
            None => self.wide -= 1,
        }
    }
}

impl Table {
    /// Takes a place. Whether an earlier request overlaps it.
    #[inline]
    fn enter(&mut self, start: u64, end: u64) -> (u32, bool) {
        let overlaps =
            self.filter.enter(start, end) && self.ranges.iter().any(|range| range.0 < end && start < range.1);
        self.tickets += 1;
        let holder = Holder { ticket: self.tickets, guards: 1, waker: None };
        let place = match self.free.pop() {
            Some(place) => {
                self.ranges[place as usize] = (start, end);
                self.holders[place as usize] = holder;
                place
            }
            None => {
                self.ranges.push((start, end));
                self.holders.push(holder);
                self.ranges.len() as u32 - 1
            }
        };
        (place, overlaps)
    }

    #[cold]
    fn poll(&mut self, place: u32, waker: &Waker) -> Poll<()> {
        let (start, end) = self.ranges[place as usize];
        let ticket = self.holders[place as usize].ticket;
        let blocked = self
            .ranges
            .iter()
            .zip(&self.holders)
            .any(|(range, holder)| holder.ticket < ticket && range.0 < end && start < range.1);
        if !blocked {
            return Poll::Ready(());
        }
        if self.holders[place as usize].waker.replace(waker.clone()).is_none() {
            self.waiting += 1;
        }
        Poll::Pending
    }

    /// Gives a place back and wakes those who waited for its range.
    #[inline]
    fn leave(&mut self, place: u32) {
        let done = std::mem::replace(&mut self.ranges[place as usize], NOTHING);
        self.filter.leave(done.0, done.1);
        self.free.push(place);
        if self.waiting > 0 {
            self.wake(place, done);
        }
    }

    #[cold]
    fn wake(&mut self, place: u32, done: (u64, u64)) {
        // A wait that is given up takes its waker with it.
        self.waiting -= usize::from(self.holders[place as usize].waker.take().is_some());
        for (range, holder) in self.ranges.iter().zip(&mut self.holders) {
            if range.0 < done.1
                && done.0 < range.1
                && let Some(waker) = holder.waker.take()
            {
                self.waiting -= 1;
                waker.wake();
            }
        }
    }
}

impl Clone for RangeGuard {
    fn clone(&self) -> Self {
        self.table.borrow_mut().holders[self.place as usize].guards += 1;
        Self { table: Rc::clone(&self.table), place: self.place }
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut table = self.table.borrow_mut();
        let holder = &mut table.holders[self.place as usize];
        holder.guards -= 1;
        if holder.guards == 0 {
            table.leave(self.place);
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

    #[test]
    fn a_request_waits_exactly_when_an_earlier_range_overlaps_it() {
        let mut random = crate::runtime::Random::from_seed(3);
        let mut context = Context::from_waker(Waker::noop());
        let lock = RangeLock::default();
        let mut held: Vec<(u64, u64, RangeGuard)> = Vec::new();
        for _ in 0..20_000 {
            if held.len() == 12 {
                held.swap_remove(random.below(12) as usize);
            }
            // Around the limit of the filter, and at both sides of a granule's edge.
            let start = random.below(1 << 18) & !511;
            let end = start + [0, 512, 4096, 60 << 10, 64 << 10, 65 << 10, 1 << 20][random.below(7) as usize];
            let overlaps = held.iter().any(|range| range.0 < end && start < range.1);
            let mut asked = pin!(lock.lock(start, end));
            match asked.as_mut().poll(&mut context) {
                Poll::Ready(guard) => {
                    assert!(!overlaps, "{start}..{end} passed");
                    held.push((start, end, guard));
                }
                Poll::Pending => assert!(overlaps, "{start}..{end} waits for nobody"),
            }
        }
        drop(held);
        let table = lock.0.borrow();
        assert!(table.filter.wide == 0 && table.filter.counters.iter().all(|counter| *counter == 0));
    }
}
