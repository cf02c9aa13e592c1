//! Operations and the slab that owns them while the kernel or the simulator has them.
//!
//! An operation's buffer and file lie in its slot from submission to completion; the future that waits for it
//! holds only the slot's key. So a dropped future frees nothing: its slot becomes an orphan, and buffer and
//! file are released when the completion arrives.
//!
//! Invariants: a slot is freed only by a completion, taken or orphaned; a key with an old generation is never
//! matched; a completion for a slot that is not in flight is a broken invariant and panics.

use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use super::executor::{Core, Waiter};
use super::range_lock::RangeGuard;
use super::socket::Gather;
use crate::buf::Buf;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// Fill the buffer from the target.
    Read,
    /// Write the buffer to the target; with `durable`, it survives losing power once complete.
    Write {
        /// Force unit access.
        durable: bool,
    },
    /// Make everything that completed before durable.
    Flush,
    /// Give the range's space back; it reads as zero afterwards.
    Discard,
    /// Make the range read as zero without giving its space back.
    WriteZeroes,
    /// Wait for bytes of a socket, and put them into the buffer from `offset` on.
    Receive,
    /// Send everything that a gather lists.
    Send,
}

/// An operation before it is submitted.
#[derive(Debug)]
pub struct Operation {
    /// What to do.
    pub kind: OperationKind,
    /// Where to do it.
    pub target: Target,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range; for reads and writes the buffer's length.
    pub length: u64,
    /// Kept until the operation has ended, whether or not anybody still waits for it.
    pub guard: Option<RangeGuard>,
    /// Raised if the operation fails, whether or not anybody still waits for it.
    pub failed: Option<FailureFlag>,
}

/// Says that something whose failure must not be missed has failed; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FailureFlag(Rc<Cell<bool>>);

impl FailureFlag {
    /// Whether an operation that carried this flag has failed.
    pub fn is_raised(&self) -> bool {
        self.0.get()
    }

    /// Notes a failure.
    pub fn raise(&self) {
        self.0.set(true);
    }
}

/// What an operation works on.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file or block device of this machine.
    File(Rc<File>),
    /// What a socket is to send, and that socket. Given up when the operation has ended.
    Gather(Rc<Gather>),
    /// Nothing: the operation completes at the next turn and moves no bytes. It shows what the caller and
    /// the runtime cost by themselves.
    Null,
    /// A simulated disk.
    #[cfg(feature = "sim")]
    Simulated(Rc<dyn super::sim::SimulatedTarget>),
}

/// Keeps others out of a device or file, until it is dropped.
#[derive(Debug)]
pub struct Claim(pub std::fs::File);

impl Drop for Claim {
    fn drop(&mut self) {
        // A process that is being started holds copies of all descriptors until it becomes another program: closing
        // this one would not release the lock.
        let _ = self.0.unlock();
    }
}

/// An open file or block device, known to the ring. Stays open until its last operation has completed.
#[derive(Debug)]
pub struct File {
    pub(super) fd: OwnedFd,
    /// What keeps others out. No operation names it, so that it is free when this file ends, though the kernel may
    /// hold `fd` a moment longer for an operation that has completed.
    pub(super) _claim: Option<Claim>,
    /// Indexes in the ring's table of registered files. The claim has one, so that after a kill it is held until what
    /// the process left in flight has ended.
    pub(super) registered: Option<u32>,
    pub(super) registered_claim: Option<u32>,
    pub(super) core: Weak<Core>,
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Some(core) = self.core.upgrade() else { return };
        [self.registered, self.registered_claim]
            .into_iter()
            .flatten()
            .for_each(|at| core.unregister_file(at));
    }
}

/// Names a slot at one use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationKey {
    index: u32,
    generation: u32,
}

impl OperationKey {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// The outcome of one turn of an operation: bytes moved, or a negative error number.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Which operation.
    pub key: OperationKey,
    /// Bytes moved or `-errno`.
    pub result: i32,
}

enum State {
    Free,
    InFlight(Waiter),
    /// In flight, but the future that asked is gone.
    Orphan,
    Done(i32),
}

/// Aligned so that a slot is two cache lines and shares none with its neighbours.
#[repr(align(64))]
pub(super) struct Slot {
    generation: u32,
    state: State,
    retries: u8,
    /// Bytes moved by earlier, short turns.
    pub done_bytes: u32,
    pub operation: Operation,
    pub buf: Option<Buf>,
}

impl Slot {
    /// Bytes of this operation not yet moved.
    pub fn remaining(&self) -> u64 {
        self.operation.length - u64::from(self.done_bytes)
    }

    /// Where the next turn of this operation begins.
    pub fn next_offset(&self) -> u64 {
        self.operation.offset + u64::from(self.done_bytes)
    }
}

/// All operations of a runtime, at most `capacity` at a time.
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    capacity: usize,
    in_use: usize,
    in_flight: usize,
}

/// What a completion asks the executor to do.
pub(super) enum Next {
    /// Submit the rest of a short transfer.
    Resubmit(OperationKey),
    /// Somebody waits for it.
    Wake(Waiter),
    /// Nobody waits: drop what the slot held.
    Release(Released),
}

/// What to do about an operation whose future was dropped.
pub(super) enum Orphaned {
    /// It had ended: drop what the slot held.
    Ended(Released),
    /// Ask the driver to end it early.
    Cancel,
    /// Let it run: a cancelled write or flush would be neither done nor undone.
    Runs,
}

/// What a freed slot held; dropped outside the slab, because a guard's last copy wakes others.
pub(super) type Released = (Option<Buf>, Option<RangeGuard>);

/// A finished operation's result, and what its slot held.
pub(super) type Taken = (i32, Option<Buf>, Option<RangeGuard>);

/// What comes back when all slots are in use.
pub(super) type Refused = (Operation, Option<Buf>);

/// How often one operation is tried again after EAGAIN or EINTR before the error is given to the caller.
const RETRIES_MAX: u8 = 16;

impl Slab {
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            in_use: 0,
            in_flight: 0,
        }
    }

    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Operations the driver has.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes a slot, or gives operation and buffer back when all are in use.
    #[inline]
    pub fn insert(&mut self, operation: Operation, buf: Option<Buf>) -> Result<OperationKey, Refused> {
        let state = State::InFlight(Waiter::Nobody);
        let index = match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.state = state;
                slot.retries = 0;
                slot.done_bytes = 0;
                slot.operation = operation;
                slot.buf = buf;
                index
            }
            None if self.slots.len() < self.capacity => {
                let index = self.slots.len() as u32;
                self.slots.push(Slot { generation: 0, state, retries: 0, done_bytes: 0, operation, buf });
                index
            }
            None => return Err((operation, buf)),
        };
        self.in_use += 1;
        self.in_flight += 1;
        Ok(OperationKey { index, generation: self.slots[index as usize].generation })
    }

    #[inline]
    pub fn get_mut(&mut self, key: OperationKey) -> &mut Slot {
        let slot = &mut self.slots[key.index as usize];
        assert_eq!(slot.generation, key.generation, "an operation's key is used only while it is in flight");
        slot
    }

    /// Takes note of a completion.
    pub fn complete(&mut self, completion: Completion) -> Next {
        let slot = self.get_mut(completion.key);
        let mut result = completion.result;
        // A socket gives as many bytes as it has, and whoever receives looks at them before it asks for more.
        let moves_bytes = matches!(
            slot.operation.kind,
            OperationKind::Read | OperationKind::Write { .. } | OperationKind::Send
        );
        // Nobody needs the rest of what nobody waits for.
        let wanted = !matches!(slot.state, State::Orphan);
        if moves_bytes && result > 0 {
            slot.done_bytes += result as u32;
            let rest_aligned = slot.done_bytes.is_multiple_of(crate::units::SECTOR_BYTES as u32)
                || slot.operation.kind == OperationKind::Send;
            if slot.remaining() > 0 && rest_aligned && wanted {
                return Next::Resubmit(completion.key);
            }
            result = slot.done_bytes as i32;
        } else if moves_bytes && result == 0 {
            result = slot.done_bytes as i32;
        } else if wanted && (result == -libc::EAGAIN || result == -libc::EINTR) && slot.retries < RETRIES_MAX
        {
            slot.retries += 1;
            return Next::Resubmit(completion.key);
        }
        let short = moves_bytes && (result as i64) < slot.operation.length as i64;
        if (result < 0 || short)
            && let Some(failed) = &slot.operation.failed
        {
            failed.raise();
        }
        let before = std::mem::replace(&mut slot.state, State::Done(result));
        self.in_flight -= 1;
        match before {
            State::InFlight(waiter) => Next::Wake(waiter),
            State::Orphan => Next::Release(self.free(completion.key)),
            State::Free | State::Done(_) => panic!("an operation completed twice"),
        }
    }

    /// The result and buffer of a finished operation; `None` while it is in flight, noting who waits now.
    #[inline]
    pub fn take(&mut self, key: OperationKey, waiter: impl FnOnce() -> Waiter) -> Option<Taken> {
        let slot = self.get_mut(key);
        match slot.state {
            State::Done(result) => {
                let (buf, guard) = self.free(key);
                Some((result, buf, guard))
            }
            State::InFlight(ref mut waiting) => {
                *waiting = waiter();
                None
            }
            State::Free | State::Orphan => panic!("only a waiting future takes its operation"),
        }
    }

    /// The future of this operation is gone.
    pub fn orphan(&mut self, key: OperationKey) -> Orphaned {
        let slot = self.get_mut(key);
        if let State::Done(_) = slot.state {
            return Orphaned::Ended(self.free(key));
        }
        slot.state = State::Orphan;
        match slot.operation.kind {
            OperationKind::Read | OperationKind::Receive | OperationKind::Send => Orphaned::Cancel,
            _ => Orphaned::Runs,
        }
    }

    #[inline]
    fn free(&mut self, key: OperationKey) -> Released {
        let slot = &mut self.slots[key.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free;
        if let Target::Gather(gather) = std::mem::replace(&mut slot.operation.target, Target::Null) {
            gather.has_ended();
        }
        slot.operation.failed = None;
        let released = (slot.buf.take(), slot.operation.guard.take());
        self.free.push(key.index);
        self.in_use -= 1;
        released
    }
}
