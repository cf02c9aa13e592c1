//! The reference arm: a hand-written submit-and-reap loop directly over io_uring.
//!
//! It is what every other arm is compared with, so that it does as little as a program can: registered buffers
//! and file, and one `io_uring_enter` a round, which submits the successors of what the last round reaped and
//! waits for at least one completion; one clock read before and one after it. Where a round reaps many, their
//! successors are submitted `SUBMISSION_BATCH_MAX` at a time.
//!
//! **Latency.** An operation's issue time is read just before the call that submits it, one reading for all it
//! submits (after their content was stamped); its completion time is read when the call that reaped it returns,
//! one reading for all it reaped. At depth 1 that is exact; at depth N an operation can look longer by the time
//! its round took to submit, never shorter. The engine's arm measures in the same way.
//!
//! **Durable workloads.** `durable-4k`: each of the N writers issues a write, on its completion an fdatasync,
//! and on that completion its next write; its latency runs from the issue of the write to the completion of the
//! fdatasync, which is also counted by itself as a flush. `durable-4k-dsync`: one write with RWF_DSYNC.
//!
//! **Invariants.** A slot has one request in the kernel at most. A buffer is touched by the program only while
//! its slot has none. Two writes of one place are never in flight together. Memory the kernel may still use is
//! not freed: dropping the driver waits for what is in flight, also after an error or a panic.
#![allow(unsafe_code, reason = "io_uring takes raw addresses; every block says why they are valid")]

mod arena;
mod setup;

use std::io;
use std::path::Path;

use icecore_workloads::{Durability, Generations, InFlight, Operation, OperationKind, Stamper, Stream};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{CompletionQueue, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use self::arena::Arena;
pub use self::setup::RingError;
use self::setup::Setup;
use crate::measure::{ArmOutcome, ArmTask};
use crate::recorder::{Clock, Phase, RecordKind, Recorder};

/// Most requests submitted together while completions still wait to be answered.
///
/// The kernel hands a batch to the device when it has prepared all of it. With one batch of everything, depth 32
/// degenerates into rounds in which the device idles while 31 requests are prepared: measured on a virtual disk,
/// batches of 8 give 10 % more random reads a second than one of 31, at the same CPU time an operation; batches
/// of 4 no more, at the price of more calls.
const SUBMISSION_BATCH_MAX: usize = 8;

/// The device is the only registered file.
const DEVICE: Fixed = Fixed(0);

/// Runs one measurement on the calling thread. Content is stamped by `Stamper::new(task.seed)`.
///
/// Fails before the first operation when the span does not fit the device or is too short for the depth, when
/// the file system refuses O_DIRECT or the kernel io_uring; later with the first operation that fails or is
/// cut short. Everything issued has completed when it returns.
pub fn run(task: &ArmTask) -> Result<ArmOutcome, RingError> {
    if task.offered_per_second.is_some() {
        return Err(RingError::invalid(&task.path, "this arm has closed loads only".to_owned()));
    }
    let mixed = task.workload.reads() && task.workload.writes();
    let slots = task.queue_depth as usize;
    // A read overwrites its buffer, a write needs the filler in it: a mixed workload has both kinds apart.
    let Setup { file, mut ring, arena, buffers_registered, io_path } =
        Setup::new(task, if mixed { 2 * slots } else { slots })?;
    let stream = Stream::new(&task.workload, task.span_bytes, task.seed)
        .map_err(|error| RingError::invalid(&task.path, error.to_string()))?;
    let (mut submitter, submissions, completions) = ring.split();
    // Spares a look-up in the file table at each call. A thread can register few rings, and this one works as
    // well without.
    let ring_registered = submitter.register_ring_fd().is_ok();
    let mut driver = Driver {
        submitter,
        ring_registered,
        submissions,
        completions,
        slots: vec![Slot::default(); slots].into_boxed_slice(),
        unsubmitted: Vec::with_capacity(slots),
        in_kernel: 0,
        arena,
        buffers_registered,
        read_buffers_from: if mixed { slots } else { 0 },
        stream,
        in_flight: InFlight::new(slots, task.workload.operation_bytes_max()),
        stamper: task.stamper(),
        generations: task.generations(),
        durability: task.workload.durability(),
        span_offset_bytes: task.span_offset_bytes,
        clock: Clock::start(),
        path: &task.path,
    };
    if task.workload.writes() {
        driver.prepare_write_buffers();
    }
    let recorder = Recorder::new(task.warmup_ns, task.measure_ns);
    let mut recorder = if task.until_steady { recorder.until_steady() } else { recorder };
    driver.drive(&mut recorder)?;
    let generations = std::mem::take(&mut driver.generations);
    let clock = Some(driver.clock);
    drop(driver);
    drop(file);
    Ok(ArmOutcome { clock, ..recorder.finish().into_outcome(io_path, generations) })
}

/// What a slot's request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Transfer,
    Flush,
}

/// One of the `queue_depth` requests (writers) kept going.
#[derive(Clone, Copy, Debug)]
struct Slot {
    operation: Operation,
    stage: Stage,
    /// Counts the slot's requests; a completion must carry the current one.
    token: u32,
    /// When the transfer was issued.
    issued_ns: u64,
    /// When the flush was issued.
    flush_issued_ns: u64,
}

impl Default for Slot {
    fn default() -> Self {
        let operation =
            Operation { kind: OperationKind::Read, offset_bytes: 0, len_bytes: 0, durable: false };
        Self { operation, stage: Stage::Idle, token: 0, issued_ns: 0, flush_issued_ns: 0 }
    }
}

struct Driver<'a> {
    submitter: Submitter<'a>,
    ring_registered: bool,
    submissions: SubmissionQueue<'a>,
    completions: CompletionQueue<'a>,
    slots: Box<[Slot]>,
    /// Slots whose request was queued since the last submission and has no issue time yet.
    unsubmitted: Vec<u32>,
    /// Requests queued or submitted and not yet reaped.
    in_kernel: usize,
    arena: Arena,
    buffers_registered: bool,
    /// Buffer of slot 0 for reads; writes use the buffers from 0.
    read_buffers_from: usize,
    stream: Stream,
    in_flight: InFlight,
    stamper: Stamper,
    generations: Generations,
    durability: Durability,
    span_offset_bytes: u64,
    clock: Clock,
    path: &'a Path,
}

impl Driver<'_> {
    fn prepare_write_buffers(&mut self) {
        for buffer in 0..self.slots.len() {
            // SAFETY: nothing has been issued yet.
            let bytes = unsafe { self.arena.bytes_mut(buffer) };
            self.stamper.prepare(bytes);
        }
    }

    /// The whole measurement: fill the queue, keep it full until the window closes, let it run empty.
    fn drive(&mut self, recorder: &mut Recorder) -> Result<(), RingError> {
        self.clock = Clock::start();
        for slot in 0..self.slots.len() {
            self.issue_next(slot)?;
        }
        while self.in_kernel > 0 {
            self.mark_issued();
            self.submit(1).map_err(|source| RingError::new(self.path, "waiting on io_uring", source))?;
            let now_ns = self.clock.now_ns();
            let refill = recorder.advance(now_ns) != Phase::Done;
            self.reap(now_ns, recorder, refill)?;
        }
        Ok(())
    }

    /// Submits what is queued and waits for that many completions; may return with fewer.
    #[inline]
    fn submit(&mut self, completions: usize) -> io::Result<()> {
        self.submissions.sync();
        let submitted = self.submitter.submit_and_wait(completions);
        // What the kernel has taken makes room for successors.
        self.submissions.sync();
        match submitted {
            Ok(_) => Ok(()),
            // A signal, a full completion queue, or no memory for requests right now: what was not submitted
            // is still queued, and reaping makes room.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Gives what is about to be submitted its issue time.
    #[inline]
    fn mark_issued(&mut self) {
        if self.unsubmitted.is_empty() {
            return;
        }
        let now_ns = self.clock.now_ns();
        for slot in self.unsubmitted.drain(..) {
            let slot = &mut self.slots[slot as usize];
            match slot.stage {
                Stage::Flush => slot.flush_issued_ns = now_ns,
                Stage::Idle | Stage::Transfer => slot.issued_ns = now_ns,
            }
        }
    }

    #[inline]
    fn reap(&mut self, now_ns: u64, recorder: &mut Recorder, refill: bool) -> Result<(), RingError> {
        self.completions.sync();
        while let Some(completion) = self.completions.next() {
            self.complete(&completion, now_ns, recorder, refill)?;
            if self.unsubmitted.len() >= SUBMISSION_BATCH_MAX && !self.completions.is_empty() {
                self.mark_issued();
                self.submit(0)
                    .map_err(|source| RingError::new(self.path, "submitting to io_uring", source))?;
            }
        }
        Ok(())
    }

    #[inline]
    fn complete(
        &mut self,
        completion: &cqueue::Entry,
        now_ns: u64,
        recorder: &mut Recorder,
        refill: bool,
    ) -> Result<(), RingError> {
        self.in_kernel -= 1;
        let index = completion.user_data() as u32 as usize;
        let token = (completion.user_data() >> 32) as u32;
        let slot = self.slots[index];
        // Anything else means that buffers and requests no longer correspond, and nothing can be trusted.
        assert!(slot.token == token && slot.stage != Stage::Idle, "a completion nobody waits for");
        self.slots[index].stage = Stage::Idle;
        let operation = slot.operation;
        let wanted = if slot.stage == Stage::Flush { 0 } else { operation.len_bytes as i32 };
        if completion.result() != wanted {
            return Err(self.refused(&slot, completion.result()));
        }
        let flush_next = operation.durable && self.durability == Durability::WriteThenFlush;
        match (slot.stage, operation.kind) {
            (Stage::Transfer, _) if flush_next => return self.issue_flush(index),
            (Stage::Flush, _) => recorder.record(RecordKind::Flush, slot.flush_issued_ns, now_ns, 0),
            _ => {}
        }
        let kind = match operation.kind {
            OperationKind::Read => RecordKind::Read,
            OperationKind::Write => RecordKind::Write,
        };
        recorder.record(kind, slot.issued_ns, now_ns, u64::from(operation.len_bytes));
        self.in_flight.release(index);
        if refill { self.issue_next(index) } else { Ok(()) }
    }

    #[cold]
    fn refused(&self, slot: &Slot, result: i32) -> RingError {
        let source = match u32::try_from(result) {
            Err(_) => io::Error::from_raw_os_error(-result),
            Ok(moved) => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("only {moved} of {} bytes were moved", slot.operation.len_bytes),
            ),
        };
        let action = match (slot.stage, slot.operation.kind) {
            (Stage::Flush, _) => "fdatasync after the write",
            (_, OperationKind::Read) => "read",
            (_, OperationKind::Write) => "write",
        };
        let offset_bytes = Some(self.span_offset_bytes + slot.operation.offset_bytes);
        RingError { path: self.path.to_owned(), action, offset_bytes, source }
    }

    /// Queues the next operation of the stream for a slot that has no request.
    #[inline]
    fn issue_next(&mut self, index: usize) -> Result<(), RingError> {
        let operation = loop {
            let operation = self.stream.next_operation();
            if operation.kind == OperationKind::Read
                || self.in_flight.claim(index, operation.offset_bytes, operation.len_bytes)
            {
                break operation;
            }
        };
        let buffer = match operation.kind {
            OperationKind::Read => self.read_buffers_from + index,
            OperationKind::Write => {
                self.stamp(index, &operation);
                index
            }
        };
        self.slots[index].operation = operation;
        let entry = self.transfer(&operation, buffer);
        self.push(index, Stage::Transfer, entry)
    }

    /// Gives the slot's write buffer the content of the next generation of its place.
    #[inline]
    fn stamp(&mut self, index: usize, operation: &Operation) {
        // SAFETY: the slot has no request in the kernel, and only this slot's requests use the buffer.
        let bytes = unsafe { self.arena.bytes_mut(index) };
        let bytes = &mut bytes[..operation.len_bytes as usize];
        self.generations.stamp_next(&self.stamper, bytes, operation.offset_bytes);
    }

    #[inline]
    fn transfer(&self, operation: &Operation, buffer: usize) -> squeue::Entry {
        let address = self.arena.address(buffer);
        let len_bytes = operation.len_bytes;
        let offset_bytes = self.span_offset_bytes + operation.offset_bytes;
        let durable_write = operation.durable && self.durability == Durability::DurableWrite;
        let flags = if durable_write { libc::RWF_DSYNC } else { 0 };
        let number = buffer as u16;
        match (operation.kind, self.buffers_registered) {
            (OperationKind::Read, true) => {
                opcode::ReadFixed::new(DEVICE, address, len_bytes, number).offset(offset_bytes).build()
            }
            (OperationKind::Read, false) => {
                opcode::Read::new(DEVICE, address, len_bytes).offset(offset_bytes).build()
            }
            (OperationKind::Write, true) => opcode::WriteFixed::new(DEVICE, address, len_bytes, number)
                .offset(offset_bytes)
                .rw_flags(flags)
                .build(),
            (OperationKind::Write, false) => {
                opcode::Write::new(DEVICE, address, len_bytes).offset(offset_bytes).rw_flags(flags).build()
            }
        }
    }

    /// After this slot's fdatasync completes, its write survives a loss of power.
    #[inline]
    fn issue_flush(&mut self, index: usize) -> Result<(), RingError> {
        let entry = opcode::Fsync::new(DEVICE).flags(FsyncFlags::DATASYNC).build();
        self.push(index, Stage::Flush, entry)
    }

    #[inline]
    fn push(&mut self, index: usize, stage: Stage, entry: squeue::Entry) -> Result<(), RingError> {
        let slot = &mut self.slots[index];
        slot.token = slot.token.wrapping_add(1);
        let entry = entry.user_data(u64::from(slot.token) << 32 | index as u64);
        // SAFETY: the entry names a buffer of the arena, which outlives the request (see `drop`) and is not
        // touched by the program while the slot has a request; the file is registered for as long as the ring.
        let pushed = unsafe { self.submissions.push(&entry) };
        if pushed.is_err() {
            // Only when the kernel accepts less than it is offered: the queue has an entry for each slot.
            let source = io::Error::other("the submission queue is full");
            return Err(RingError::new(self.path, "queueing a request", source));
        }
        slot.stage = stage;
        self.unsubmitted.push(index as u32);
        self.in_kernel += 1;
        Ok(())
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        while self.in_kernel > 0 {
            if self.submit(1).is_err() {
                // The kernel may still write to the buffers: better lost than reused.
                self.arena.leak();
                return;
            }
            self.completions.sync();
            self.in_kernel -= self.completions.by_ref().count();
        }
        if self.ring_registered {
            // A registration left behind keeps the ring until the thread ends; nothing better can be done then.
            let _ = self.submitter.unregister_ring_fd();
        }
    }
}

#[cfg(test)]
mod tests;
