//! Places that are being changed, and whoever waits for one: in a replay, changes of one place are made in the order of the trace.
//!
//! Where two writes of one place were in flight together nobody would know what it holds, and a load that left one out would not be
//! the trace. So the later one waits until the earlier one has completed, and behind one that waits itself, too.
//!
//! Invariant: no two ranges that are claimed overlap, and none is claimed while one that overlaps it waits longer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use icecore::runtime::{Context, Signal};
use icecore_workloads::InFlight;

/// A slot that waits, and what for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: usize,
    offset_bytes: u64,
    len_bytes: u32,
}

impl Waiting {
    fn overlaps(&self, other: &Waiting) -> bool {
        self.offset_bytes < other.offset_bytes + u64::from(other.len_bytes)
            && other.offset_bytes < self.offset_bytes + u64::from(self.len_bytes)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Claims {
    in_flight: RefCell<InFlight>,
    /// In the order in which they asked.
    waiting: RefCell<VecDeque<Waiting>>,
    signals: Box<[Signal]>,
    waited: Cell<u64>,
}

impl Claims {
    /// Of so many slots and requests of at most that length.
    pub fn new(context: &Context, slots: u32, len_bytes_max: u32) -> Self {
        Self {
            in_flight: RefCell::new(InFlight::new(slots as usize, len_bytes_max)),
            waiting: RefCell::new(VecDeque::with_capacity(slots as usize)),
            signals: (0..slots).map(|_| Signal::new(context)).collect(),
            waited: Cell::new(0),
        }
    }

    /// Claims a range for the slot; ends when it has it, and says whether it had to wait.
    pub async fn claim(&self, slot: usize, offset_bytes: u64, len_bytes: u32) -> bool {
        let own = Waiting { slot, offset_bytes, len_bytes };
        let is_free = !self.waiting.borrow().iter().any(|other| other.overlaps(&own))
            && self.in_flight.borrow_mut().claim(slot, offset_bytes, len_bytes);
        if is_free {
            return false;
        }
        self.waited.set(self.waited.get() + 1);
        self.waiting.borrow_mut().push_back(own);
        self.signals[slot].wait().await;
        true
    }

    /// Gives up what the slot holds, if anything, and lets those have it who wait for it.
    pub fn release(&self, slot: usize) {
        self.in_flight.borrow_mut().release(slot);
        while let Some(next) = self.next_free() {
            self.signals[next].give();
        }
    }

    /// The first who waits and need not any more; it has its range now.
    fn next_free(&self) -> Option<usize> {
        let mut waiting = self.waiting.borrow_mut();
        let mut in_flight = self.in_flight.borrow_mut();
        let is_free = |(index, own): (usize, &Waiting)| {
            !waiting.iter().take(index).any(|earlier| earlier.overlaps(own))
                && in_flight.claim(own.slot, own.offset_bytes, own.len_bytes)
        };
        let index = waiting.iter().enumerate().position(is_free)?;
        waiting.remove(index).map(|own| own.slot)
    }

    /// How often somebody waited.
    pub fn waited(&self) -> u64 {
        self.waited.get()
    }
}
