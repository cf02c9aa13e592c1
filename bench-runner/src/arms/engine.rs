//! The arms that go through the engine: tasks on its runtime, over a device or a volume.
//!
//! There are `queue_depth` tasks. Each takes the next operation of the shared stream, stamps its content, awaits
//! the operation and records it; all are on the engine's own thread, so that nothing is locked and nothing is
//! allocated once they run. Of a closed load a task begins its next operation when its last one has completed; of an open
//! load (`pace`) not before the schedule says so. A trace (`replay`) takes the place of the stream: its requests are begun in its
//! order, on its schedule or as fast as there are tasks for them.
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
use icecore_workloads::trace::RecordKind;
use icecore_workloads::{
    Durability, Generations, InFlight, Operation, OperationKind, Schedule, Stamper, Stream,
};

use super::claims::Claims;
use super::line::Source;
use super::pace::{Due, Pace};
use super::target::Target;
use super::turns::TurnClock;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, ArmTask, ReplayFigures};
use crate::recorder::{self, Offered, Phase, Recorder};
use crate::replay::feed::{Feed, Request};

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
    let source = match (&task.replay, task.offered_per_second) {
        (Some(replay), _) => {
            let feed = Feed::open(replay, task.warmup_ns + task.measure_ns)?;
            Some(if replay.speed.is_some() { Source::Trace(feed) } else { Source::Order(feed) })
        }
        (None, Some(per_second)) => {
            Some(Source::Schedule(Schedule::new(task.workload.arrival(), per_second, task.seed)))
        }
        (None, None) => None,
    };
    run_from(runtime, target, task, content, source)
}

/// The same from this source of what is to begin; `None`: the workload's stream, as fast as it is completed.
pub(super) fn run_from<T: Target>(
    runtime: &Runtime,
    target: T,
    task: &ArmTask,
    content: Content,
    source: Option<Source>,
) -> Result<ArmOutcome, Failure> {
    let context = runtime.context();
    let shared = Rc::new(RefCell::new(Shared::new(context, task, content)?));
    let window = (task.warmup_ns, task.warmup_ns + task.measure_ns);
    let pace = source.map(|source| Rc::new(Pace::new(context, task.queue_depth, source, window)));
    let claims = Rc::new(Claims::new(context, task.queue_depth, task.workload.operation_bytes_max()));
    let mut workers = Vec::with_capacity(task.queue_depth as usize);
    for slot in 0..task.queue_depth as usize {
        workers.push(Worker::new(slot, &shared, (&pace, &claims), target.clone(), task, content)?);
    }
    let turns = TurnClock::start(context);
    let clock = turns.clock();
    if let Some(pace) = &pace {
        pace.start(clock);
    }
    shared.borrow_mut().clock = turns;
    let tasks: Vec<_> = workers.into_iter().map(|worker| context.spawn(worker.work())).collect();
    runtime.block_on(async {
        for task in tasks {
            task.await;
        }
    });
    let mut shared = match Rc::try_unwrap(shared) {
        Ok(shared) => shared.into_inner(),
        Err(_) => unreachable!("every worker has ended and given its share up"),
    };
    if let Some(error) = shared.failed {
        return Err(error.into());
    }
    let mut replayed = None;
    if let Some(pace) = pace.filter(|_| task.replay.is_some()) {
        let (played, read) = pace.finish();
        // What had begun before the trace ended is all there is to be measured.
        let is_early = played.is_whole && shared.recorder.end_at(shared.completed_ns);
        shared.replayed.waited = claims.waited();
        shared.replayed.is_whole = played.is_whole && read.is_ok();
        shared.replayed.starved_ns = played.starved_ns;
        shared.replayed.failure = read.err();
        shared.recorder.set_offered(match is_early {
            // All were completed, in the time that the last of them stood in the line beside what it would have taken.
            true => Offered::Completed { late_ns: played.last_wait_ns },
            false => Offered::Due(played.in_window),
        });
        replayed = Some(shared.replayed);
    }
    let io_path = format!("{}, O_DIRECT", context.io_path());
    let outcome = shared.recorder.finish().into_outcome(io_path, shared.generations);
    Ok(ArmOutcome { replayed, clock: Some(clock), ..outcome })
}

/// What the tasks of one measurement share.
struct Shared {
    context: Context,
    clock: TurnClock,
    /// `None` where a trace is played.
    stream: Option<Stream>,
    in_flight: InFlight,
    stamper: Stamper,
    content: Content,
    generations: Generations,
    recorder: Recorder,
    done: bool,
    failed: Option<Error>,
    replayed: ReplayFigures,
    /// When the last operation of a replay completed.
    completed_ns: u64,
}

impl Shared {
    fn new(context: &Context, task: &ArmTask, content: Content) -> Result<Self, Failure> {
        let stream = || {
            Stream::new(&task.workload, task.span_bytes, task.seed)
                .map_err(|error| Failure::usage(error.to_string()))
        };
        let stream = if task.replay.is_some() { None } else { Some(stream()?) };
        let recorder = Recorder::new(task.warmup_ns, task.measure_ns);
        Ok(Self {
            context: context.clone(),
            clock: TurnClock::start(context),
            stream,
            in_flight: InFlight::new(task.queue_depth as usize, task.workload.operation_bytes_max()),
            stamper: task.stamper(),
            content,
            generations: task.generations(),
            recorder: match (task.offered_per_second, &task.replay) {
                (Some(per_second), _) => recorder.open(per_second),
                // What was offered is known when it was played.
                (None, Some(replay)) if replay.speed.is_some() => recorder.open(0.0),
                (None, None) if task.until_steady => recorder.until_steady(),
                (None, _) => recorder,
            },
            done: false,
            failed: None,
            replayed: ReplayFigures::default(),
            completed_ns: 0,
        })
    }

    /// The next operation of this slot with its issue time, its content in the buffer; `None` when it is over.
    #[inline]
    fn next(&mut self, slot: usize, write_buf: Option<&mut Buf>) -> Option<(Operation, u64)> {
        if self.done {
            return None;
        }
        let operation = loop {
            let operation = self.stream.as_mut()?.next_operation();
            if operation.kind == OperationKind::Read
                || self.in_flight.claim(slot, operation.offset_bytes, operation.len_bytes)
            {
                break operation;
            }
        };
        self.fill(&operation, write_buf);
        Some((operation, self.issue_time_ns()))
    }

    /// Puts the content of a write into its buffer.
    #[inline]
    fn fill(&mut self, operation: &Operation, write_buf: Option<&mut Buf>) {
        if operation.kind == OperationKind::Write
            && let Some(buf) = write_buf
        {
            buf.set_len(operation.len_bytes as usize);
            if self.content == Content::Stamped {
                self.generations.stamp_next(&self.stamper, buf, operation.offset_bytes);
            }
        }
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
            OperationKind::Read => recorder::RecordKind::Read,
            OperationKind::Write => recorder::RecordKind::Write,
        };
        let now_ns = self.clock.turn_ns();
        self.recorder.record(kind, issued_ns, now_ns, u64::from(operation.len_bytes));
        if let Some(due) = due {
            self.recorder.record_intended(kind, due.due_ns, now_ns);
        }
        self.in_flight.release(slot);
        self.completed_ns = now_ns;
    }

    /// Of an open load: the operation is begun now.
    fn begin(&mut self, due: Due, issued_ns: u64) {
        let lateness_ns = issued_ns.saturating_sub(due.ready_ns);
        self.recorder.record_begun(issued_ns, lateness_ns, due.backlog, due.overflow);
    }

    /// The same of a request of a trace; gives the time.
    fn begin_request(&mut self, due: Due, request: &Request) -> u64 {
        let issued_ns = self.issue_time_ns();
        self.begin(due, issued_ns);
        self.replayed.begun(request.made);
        issued_ns
    }

    #[inline]
    fn complete_flush(&mut self, issued_ns: u64) {
        self.see_turn();
        let now_ns = self.clock.turn_ns();
        self.recorder.record(recorder::RecordKind::Flush, issued_ns, now_ns, 0);
        self.completed_ns = now_ns;
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
    claims: Rc<Claims>,
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
        (pace, claims): (&Option<Rc<Pace>>, &Rc<Claims>),
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
        let (shared, pace, claims) = (Rc::clone(shared), pace.clone(), Rc::clone(claims));
        Ok(Self { slot, shared, pace, claims, target, read_buf, write_buf, flushes_apart })
    }

    async fn work(mut self) {
        loop {
            let due = match &self.pace {
                Some(pace) => match pace.wait(self.slot, || self.shared.borrow_mut().is_done()).await {
                    Some(due) => Some(due),
                    None => return,
                },
                None => None,
            };
            if let Some((due, request)) = due.and_then(|due| Some((due, due.request?))) {
                match self.play(due, &request).await {
                    Ok(true) => continue,
                    Ok(false) => return,
                    Err(error) => return self.shared.borrow_mut().fail(error),
                }
            }
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

    /// Plays a request of a trace; false where the load is over.
    async fn play(&mut self, mut due: Due, request: &Request) -> Result<bool, Error> {
        if self.shared.borrow_mut().is_done() {
            return Ok(false);
        }
        let changes = matches!(request.kind, RecordKind::Write | RecordKind::Discard);
        if changes {
            let asked_ns = self.shared.borrow().clock.now_ns();
            if self.claims.claim(self.slot, request.offset_bytes, request.len_bytes).await {
                // Waiting for another's place is a queue, and nothing that the runner was late for.
                due.ready_ns += self.shared.borrow().clock.now_ns() - asked_ns;
            }
        }
        let played = self.play_claimed(due, request).await;
        if changes {
            self.claims.release(self.slot);
        }
        played
    }

    /// The same with its place, if it changes one.
    async fn play_claimed(&mut self, due: Due, request: &Request) -> Result<bool, Error> {
        let kind = match request.kind {
            RecordKind::Read => OperationKind::Read,
            RecordKind::Write => OperationKind::Write,
            RecordKind::Discard | RecordKind::Flush => return self.play_other(due, request).await,
        };
        let &Request { offset_bytes, len_bytes, .. } = request;
        let operation = Operation { kind, offset_bytes, len_bytes, durable: false };
        let issued_ns = {
            let mut shared = self.shared.borrow_mut();
            if shared.done {
                return Ok(false);
            }
            shared.fill(&operation, self.write_buf.as_mut());
            shared.begin_request(due, request)
        };
        match kind {
            OperationKind::Read => self.read(&operation).await?,
            OperationKind::Write => self.write(&operation).await?,
        }
        self.shared.borrow_mut().complete(self.slot, &operation, issued_ns, Some(due));
        Ok(true)
    }

    /// Plays what is neither a read nor a write.
    async fn play_other(&mut self, due: Due, request: &Request) -> Result<bool, Error> {
        let issued_ns = self.shared.borrow_mut().begin_request(due, request);
        if request.kind == RecordKind::Flush {
            self.target.flush().await?;
            self.shared.borrow_mut().complete_flush(issued_ns);
            return Ok(true);
        }
        let len_bytes = u64::from(request.len_bytes);
        let is_done = self.target.discard(request.offset_bytes, len_bytes).await?;
        let mut shared = self.shared.borrow_mut();
        shared.see_turn();
        shared.completed_ns = shared.clock.turn_ns();
        if is_done {
            shared.generations.discard(request.offset_bytes, len_bytes);
        }
        shared.replayed.discarded(is_done);
        Ok(true)
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
