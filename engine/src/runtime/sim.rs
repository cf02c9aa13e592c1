//! The simulated driver: virtual time, and an order of completions drawn from a seed.
//!
//! A simulated target says how long an operation takes and what it does when it ends; the driver keeps the
//! calendar. The same seed gives the same order, the same clock and the same trace hash. When nothing is left
//! that could ever happen, the simulation has hung, and that is a panic.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use super::driver::{Driver, IoPath, Wait};
use super::operation::{Completion, OperationKey, OperationKind, Slab, Target};
use super::remote::Remote;
use super::{Random, Runtime, Timestamp, executor};
use crate::buf::{BufPool, BufPoolOptions};
use crate::error::{Error, Result};

/// A device of the simulation, as the driver sees it.
pub trait SimulatedTarget: std::fmt::Debug {
    /// An operation arrives. Gives nanoseconds until it ends, or `None` if it is held.
    fn begin(&self, arrival: Arrival<'_>) -> Option<u64>;

    /// An operation ends: do it. Gives bytes moved or `-errno`.
    fn finish(&self, ticket: u64, now: Timestamp, bytes: &mut [u8]) -> i32;
}

/// An operation on its way into a simulated target.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Names the operation until it ends.
    pub ticket: u64,
    /// What to do.
    pub kind: OperationKind,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// What a write carries.
    pub bytes: &'a [u8],
    /// When it arrives.
    pub now: Timestamp,
}

/// The calendar of a simulation, shared by its driver and its targets.
#[derive(Clone, Debug)]
pub struct Calendar(Rc<RefCell<CalendarState>>);

#[derive(Debug)]
struct CalendarState {
    now: Timestamp,
    tickets: u64,
    /// Operations by the moment they end; the ticket breaks ties.
    due: BTreeMap<(Timestamp, u64), OperationKey>,
    held: BTreeMap<u64, OperationKey>,
    dead: Vec<OperationKey>,
    trace: u64,
}

impl Calendar {
    /// The virtual time.
    pub fn now(&self) -> Timestamp {
        self.0.borrow().now
    }

    /// A hash over every event so far: what, where, when.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// Lets a held operation end now.
    pub fn release(&self, ticket: u64) {
        let mut state = self.0.borrow_mut();
        if let Some(key) = state.held.remove(&ticket) {
            let now = state.now;
            state.due.insert((now, ticket), key);
        }
    }

    /// Ends these operations without doing them: their device has lost power.
    pub fn kill(&self, tickets: impl IntoIterator<Item = u64>) {
        let mut state = self.0.borrow_mut();
        for ticket in tickets {
            if let Some(key) = state.held.remove(&ticket) {
                state.dead.push(key);
            }
            let due = state.due.iter().find(|((_, other), _)| *other == ticket).map(|(at, _)| *at);
            if let Some(key) = due.and_then(|at| state.due.remove(&at)) {
                state.dead.push(key);
            }
        }
    }

    fn note(&self, words: [u64; 4]) {
        let mut state = self.0.borrow_mut();
        for word in words {
            // One round of a multiply-rotate hash: the trace must differ, not resist an attacker.
            state.trace = (state.trace ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
    }
}

struct SimulatedDriver {
    calendar: Calendar,
    targets: BTreeMap<u64, (OperationKey, Rc<dyn SimulatedTarget>)>,
}

impl Runtime {
    /// A runtime in virtual time. Task order and random numbers follow from `seed`.
    ///
    /// # Errors
    /// Only if the system is out of descriptors.
    pub fn simulated(seed: u64) -> Result<(Self, Calendar)> {
        Self::simulated_with(seed, BufPoolOptions { arena_bytes: 0, ..BufPoolOptions::default() })
    }

    /// As [`Runtime::simulated`], with a buffer pool of these settings.
    ///
    /// # Errors
    /// Only if the system is out of descriptors.
    pub fn simulated_with(seed: u64, buffers: BufPoolOptions) -> Result<(Self, Calendar)> {
        let calendar = Calendar(Rc::new(RefCell::new(CalendarState {
            now: Timestamp(0),
            tickets: 0,
            due: BTreeMap::new(),
            held: BTreeMap::new(),
            dead: Vec::new(),
            trace: seed,
        })));
        let remote = Remote::new().map_err(|error| Error::from_io("open runtime", &error))?;
        let runtime = Self::from_parts(executor::Parts {
            driver: Box::new(SimulatedDriver { calendar: calendar.clone(), targets: BTreeMap::new() }),
            operations_max: 1024,
            pool: BufPool::new(buffers),
            random: Random::from_seed(seed),
            shuffle: true,
            remote: Arc::new(remote),
            unix_origin_ns: 1_700_000_000_000_000_000,
        });
        Ok((runtime, calendar))
    }
}

fn kind_word(kind: OperationKind) -> u64 {
    match kind {
        OperationKind::Read => 1,
        OperationKind::Write { durable: false } => 2,
        OperationKind::Write { durable: true } => 3,
        OperationKind::Flush => 4,
        OperationKind::Discard => 5,
        OperationKind::WriteZeroes => 6,
        OperationKind::Receive => 7,
        OperationKind::Send => 8,
    }
}

impl Driver for SimulatedDriver {
    fn submit(&mut self, key: OperationKey, slab: &mut Slab) {
        let slot = slab.get_mut(key);
        let (offset, length, done) = (slot.next_offset(), slot.remaining(), slot.done_bytes as usize);
        let kind = slot.operation.kind;
        let (now, ticket) = {
            let mut state = self.calendar.0.borrow_mut();
            state.tickets += 1;
            (state.now, state.tickets)
        };
        self.calendar.note([kind_word(kind), offset, length, now.0]);
        let takes_ns = match &slot.operation.target {
            Target::Simulated(target) => {
                self.targets.insert(ticket, (key, Rc::clone(target)));
                let bytes = slot.buf.as_deref().map_or(&[][..], |buf| &buf[done..]);
                target.begin(Arrival { ticket, kind, offset, length, bytes, now })
            }
            Target::Null => Some(0),
            Target::Gather(_) => panic!("a simulation has no sockets"),
            Target::File(_) => panic!("a simulation opens no real file"),
        };
        let mut state = self.calendar.0.borrow_mut();
        match takes_ns {
            Some(takes_ns) => {
                state.due.insert((Timestamp(now.0 + takes_ns), ticket), key);
            }
            None => {
                state.held.insert(ticket, key);
            }
        }
    }

    fn turn(&mut self, wait: Wait, slab: &mut Slab, remote: &Remote, completions: &mut Vec<Completion>) {
        let dead = std::mem::take(&mut self.calendar.0.borrow_mut().dead);
        for key in dead {
            self.targets.retain(|_, (other, _)| *other != key);
            completions.push(Completion { key, result: -libc::ENODEV });
        }
        if wait == Wait::No || !completions.is_empty() {
            return;
        }
        if !remote.prepare_sleep() {
            return;
        }
        remote.end_sleep();
        let next = self.calendar.0.borrow().due.first_key_value().map(|(at, _)| *at);
        match (next, wait) {
            (Some((at, _)), Wait::Until(deadline)) if deadline < at => {
                self.calendar.0.borrow_mut().now = deadline;
            }
            (Some((at, ticket)), _) => {
                let key = {
                    let mut state = self.calendar.0.borrow_mut();
                    state.now = state.now.max(at);
                    state.due.remove(&(at, ticket))
                };
                let Some(key) = key else { unreachable!("the first entry was just seen") };
                let slot = slab.get_mut(key);
                let done = slot.done_bytes as usize;
                let length = slot.remaining();
                let result = match self.targets.remove(&ticket) {
                    Some((_, target)) => {
                        let bytes = slot.buf.as_deref_mut().map_or(&mut [][..], |buf| &mut buf[done..]);
                        target.finish(ticket, at, bytes)
                    }
                    None => length as i32,
                };
                self.calendar.note([ticket, result as u64, at.0, 0]);
                completions.push(Completion { key, result });
            }
            (None, Wait::Until(deadline)) => {
                let mut state = self.calendar.0.borrow_mut();
                state.now = state.now.max(deadline);
            }
            (None, _) => panic!("the simulation hangs: a task waits and nothing is left to happen"),
        }
    }

    fn cancel(&mut self, _key: OperationKey) {}

    fn cancel_all(&mut self) {
        let mut state = self.calendar.0.borrow_mut();
        let held: Vec<OperationKey> = std::mem::take(&mut state.held).into_values().collect();
        let due: Vec<OperationKey> = std::mem::take(&mut state.due).into_values().collect();
        state.dead.extend(held);
        state.dead.extend(due);
    }

    fn now(&self) -> Timestamp {
        self.calendar.now()
    }

    fn register_file(&mut self, _fd: RawFd) -> Option<u32> {
        None
    }

    fn unregister_file(&mut self, _index: u32) {}

    fn io_path(&self) -> IoPath {
        IoPath {
            kind: "simulated",
            registered_buffer_bytes: 0,
            registered_files: false,
            deferred_completions: false,
        }
    }
}
