//! The arms that go through the engine: tasks on its runtime, over a device or a volume.
//!
//! There are `queue_depth` tasks. Each takes the next operation of the shared stream, stamps its content, awaits
//! the operation and records it; all are on the engine's own thread, so that nothing is locked and nothing is
//! allocated once they run. Of a closed load a task begins its next operation when its last one has completed; of an open
//! load (`pace`) not before the schedule says so.
//!
//! **Latency**, as in [`ring`](super::ring), by the readings of `turns`; an operation's is taken after
//! its content was stamped.
//!
//! **Durable workloads.** `durable-4k` on a bare device is a write and then a flush, one flush a writer; on a
//! volume, and for `durable-4k-dsync` everywhere, it is one durable write.
//!
//! **Invariants.** Two writes of one place are never in flight together. All operations have completed when
//! `run` returns.

use std::cell::RefCell;
use std::rc::Rc;

use icecore::buf::Buf;
use icecore::error::Error;
use icecore::runtime::{Context, Runtime};
use icecore_workloads::{Durability, Generations, InFlight, Operation, OperationKind, Stamper, Stream};

use super::pace::{Due, Pace};
use super::target::Target;
use super::turns::TurnClock;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, ArmTask};
use crate::recorder::{Phase, RecordKind, Recorder};

/// What a write's buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The stamp of its place and generation.
    Stamped,
    /// Whatever it held: to see what the loop costs without the content.
    AsItIs,
}

/// Runs one measurement on this runtime.
///
/// # Errors
/// The first operation that fails, or a span that is too short for the workload.
pub(crate) fn run<T: Target>(
    runtime: &Runtime,
    target: T,
    task: &ArmTask,
    content: Content,
) -> Result<ArmOutcome, Failure> {
    let context = runtime.context();
    let shared = Rc::new(RefCell::new(Shared::new(context, task, content)?));
    let pace = task.offered_per_second.map(|per_second| Rc::new(Pace::new(context, task, per_second)));
    let mut workers = Vec::with_capacity(task.queue_depth as usize);
    for slot in 0..task.queue_depth as usize {
        workers.push(Worker::new(slot, &shared, pace.clone(), target.clone(), task, content)?);
    }
    let clock = TurnClock::start(context);
    if let Some(pace) = &pace {
        pace.start(clock.clock());
    }
    shared.borrow_mut().clock = clock;
    let tasks: Vec<_> = workers.into_iter().map(|worker| context.spawn(worker.work())).collect();
    runtime.block_on(async {
        for task in tasks {
            task.await;
        }
    });
    let shared = match Rc::try_unwrap(shared) {
        Ok(shared) => shared.into_inner(),
        Err(_) => unreachable!("every worker has ended and given its share up"),
    };
    match shared.failed {
        Some(error) => Err(error.into()),
        None => {
            let io_path = format!("{}, O_DIRECT", context.io_path());
            Ok(shared.recorder.finish().into_outcome(io_path, shared.generations))
        }
    }
}

/// What the tasks of one measurement share.
struct Shared {
    context: Context,
    clock: TurnClock,
    stream: Stream,
    in_flight: InFlight,
    stamper: Stamper,
    content: Content,
    generations: Generations,
    recorder: Recorder,
    done: bool,
    failed: Option<Error>,
}

impl Shared {
    fn new(context: &Context, task: &ArmTask, content: Content) -> Result<Self, Failure> {
        let stream = Stream::new(&task.workload, task.span_bytes, task.seed)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let recorder = Recorder::new(task.warmup_ns, task.measure_ns);
        Ok(Self {
            context: context.clone(),
            clock: TurnClock::start(context),
            stream,
            in_flight: InFlight::new(task.queue_depth as usize, task.workload.operation_bytes_max()),
            stamper: task.stamper(),
            content,
            generations: task.generations(),
            recorder: match task.offered_per_second {
                Some(per_second) => recorder.open(per_second),
                None => recorder,
            },
            done: false,
            failed: None,
        })
    }

    /// The next operation of this slot with its issue time, its content in the buffer; `None` when it is over.
    #[inline]
    fn next(&mut self, slot: usize, write_buf: Option<&mut Buf>) -> Option<(Operation, u64)> {
        if self.done {
            return None;
        }
        let operation = loop {
            let operation = self.stream.next_operation();
            if operation.kind == OperationKind::Read
                || self.in_flight.claim(slot, operation.offset_bytes, operation.len_bytes)
            {
                break operation;
            }
        };
        if operation.kind == OperationKind::Write
            && let Some(buf) = write_buf
        {
            buf.set_len(operation.len_bytes as usize);
            if self.content == Content::Stamped {
                self.generations.stamp_next(&self.stamper, buf, operation.offset_bytes);
            }
        }
        Some((operation, self.issue_time_ns()))
    }

    /// The time before an operation that is about to be begun.
    #[inline]
    fn issue_time_ns(&mut self) -> u64 {
        self.see_turn();
        self.clock.issue_ns()
    }

    /// Reads the clock if the runtime has waited since.
    #[inline]
    fn see_turn(&mut self) {
        if let Some(now_ns) = self.clock.see_turn() {
            self.done |= self.recorder.advance(now_ns) == Phase::Done;
        }
    }

    /// Counts an operation that completed in this turn.
    #[inline]
    fn complete(&mut self, slot: usize, operation: &Operation, issued_ns: u64, due: Option<Due>) {
        self.see_turn();
        let kind = match operation.kind {
            OperationKind::Read => RecordKind::Read,
            OperationKind::Write => RecordKind::Write,
        };
        let now_ns = self.clock.turn_ns();
        self.recorder.record(kind, issued_ns, now_ns, u64::from(operation.len_bytes));
        if let Some(due) = due {
            self.recorder.record_intended(kind, due.due_ns, now_ns);
        }
        self.in_flight.release(slot);
    }

    /// Of an open load: the operation is begun now.
    fn begin(&mut self, due: Due, issued_ns: u64) {
        let lateness_ns = issued_ns.saturating_sub(due.ready_ns);
        self.recorder.record_begun(issued_ns, lateness_ns, due.backlog, due.overflow);
    }

    #[inline]
    fn complete_flush(&mut self, issued_ns: u64) {
        self.see_turn();
        self.recorder.record(RecordKind::Flush, issued_ns, self.clock.turn_ns(), 0);
    }

    /// Whether the load is over; of an open one, where nobody may be about to complete anything.
    fn is_done(&mut self) -> bool {
        self.see_turn();
        self.done
    }

    #[cold]
    fn fail(&mut self, error: Error) {
        self.done = true;
        self.failed.get_or_insert(error);
    }
}

/// One of the requests (writers) kept going.
struct Worker<T> {
    slot: usize,
    shared: Rc<RefCell<Shared>>,
    pace: Option<Rc<Pace>>,
    target: T,
    /// A read overwrites its buffer, a write needs the filler in it: a mixed workload has both.
    read_buf: Option<Buf>,
    write_buf: Option<Buf>,
    /// Whether a durable write is a write and then a flush.
    flushes_apart: bool,
}

impl<T: Target> Worker<T> {
    fn new(
        slot: usize,
        shared: &Rc<RefCell<Shared>>,
        pace: Option<Rc<Pace>>,
        target: T,
        task: &ArmTask,
        content: Content,
    ) -> Result<Self, Failure> {
        let state = shared.borrow();
        let get = |wanted: bool| {
            let buffers = state.context.buffers();
            wanted.then(|| buffers.get(task.workload.operation_bytes_max() as usize)).transpose()
        };
        let read_buf = get(task.workload.reads())?;
        let mut write_buf = get(task.workload.writes())?;
        if let Some(buf) = &mut write_buf
            && content == Content::Stamped
        {
            state.stamper.prepare(buf);
        }
        let flushes_apart = T::FLUSHES_APART && task.workload.durability() == Durability::WriteThenFlush;
        Ok(Self { slot, shared: Rc::clone(shared), pace, target, read_buf, write_buf, flushes_apart })
    }

    async fn work(mut self) {
        loop {
            let due = match &self.pace {
                Some(pace) => Some(pace.wait(self.slot, || self.shared.borrow_mut().is_done()).await),
                None => None,
            };
            let next = self.shared.borrow_mut().next(self.slot, self.write_buf.as_mut());
            let Some((operation, issued_ns)) = next else { return };
            if let Some(due) = due {
                self.shared.borrow_mut().begin(due, issued_ns);
            }
            let result = match operation.kind {
                OperationKind::Read => self.read(&operation).await,
                OperationKind::Write => self.write(&operation).await,
            };
            match result {
                Ok(()) => self.shared.borrow_mut().complete(self.slot, &operation, issued_ns, due),
                Err(error) => return self.shared.borrow_mut().fail(error),
            }
        }
    }

    async fn read(&mut self, operation: &Operation) -> Result<(), Error> {
        let Some(mut buf) = self.read_buf.take() else {
            unreachable!("a workload that reads has a read buffer")
        };
        buf.set_len(operation.len_bytes as usize);
        let (result, buf) = self.target.read(operation.offset_bytes, buf).await;
        self.read_buf = Some(buf);
        result
    }

    async fn write(&mut self, operation: &Operation) -> Result<(), Error> {
        let Some(buf) = self.write_buf.take() else { unreachable!("a workload that writes has a buffer") };
        let durable = operation.durable && !self.flushes_apart;
        let (result, buf) = self.target.write(operation.offset_bytes, buf, durable).await;
        self.write_buf = Some(buf);
        result?;
        if operation.durable && self.flushes_apart {
            let issued_ns = self.shared.borrow_mut().issue_time_ns();
            self.target.flush().await?;
            self.shared.borrow_mut().complete_flush(issued_ns);
        }
        Ok(())
    }
}
