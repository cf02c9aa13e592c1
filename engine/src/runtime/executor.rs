//! The executor: one thread, one task queue, one driver.
//!
//! A [`Runtime`] owns everything and runs tasks inside [`Runtime::block_on`]; a [`Context`] is the cheap
//! handle that devices, volumes and tasks keep. A turn runs every task that was ready when it began, hands
//! what they submitted to the driver in one system call, waits there if nothing else is ready, and wakes
//! whoever waited for the completions.
//!
//! Invariants: no `RefCell` of the core is borrowed while a future is polled or dropped; dropping the runtime
//! drops all tasks, then waits until the kernel has given every buffer back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context as PollContext, Poll, RawWakerVTable, Waker};

use super::Timestamp;
use super::driver::{Driver, IoPath, Wait};
use super::operation::{Claim, Completion, File, Next, Operation, OperationKey, Orphaned, Refused, Slab};
use super::random::Random;
use super::remote::{Remote, TaskWaker};
use super::timer::Timers;
use crate::buf::{Buf, BufPool};
use crate::error::{self, Error, Reason};

/// Names a task at one use of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    index: u32,
    generation: u32,
}

/// The future given to `block_on`.
const MAIN_TASK: TaskId = TaskId { index: u32::MAX, generation: 0 };

/// Who is told when something ends.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A task of this runtime, woken by number.
    Task(TaskId),
    /// A waker of a combinator or another executor.
    Waker(Waker),
    /// Nobody yet.
    Nobody,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Task(one), Self::Task(other)) => one == other,
            (Self::Waker(one), Self::Waker(other)) => one.will_wake(other),
            (one, other) => matches!((one, other), (Self::Nobody, Self::Nobody)),
        }
    }
}

/// A task's future and the waker it is polled with.
type Body = (Pin<Box<dyn Future<Output = ()>>>, Waker);

struct TaskSlot {
    generation: u32,
    queued: bool,
    /// `None` while the task is being polled, and in a free slot.
    body: Option<Body>,
    live: bool,
}

#[derive(Default)]
struct Tasks {
    slots: Vec<TaskSlot>,
    free: Vec<u32>,
}

/// A waker's data and vtable: two wakers with the same pair wake the same task.
type WakerIdentity = (*const (), &'static RawWakerVTable);

fn identity(waker: &Waker) -> WakerIdentity {
    (waker.data(), waker.vtable())
}

/// What one runtime is made of. Fields are borrowed for single statements only.
pub(crate) struct Core {
    slab: RefCell<Slab>,
    driver: RefCell<Box<dyn Driver>>,
    tasks: RefCell<Tasks>,
    ready: RefCell<VecDeque<TaskId>>,
    main_queued: Cell<bool>,
    /// The task being polled and the identity of its waker.
    current: Cell<Option<(TaskId, WakerIdentity)>>,
    closed: Cell<bool>,
    waiting_for_slot: RefCell<VecDeque<Waiter>>,
    timers: RefCell<Timers>,
    remote: Arc<Remote>,
    random: RefCell<Random>,
    /// The order of ready tasks is drawn instead of first come, first served (simulation only).
    shuffle: bool,
    pool: BufPool,
    io_path: IoPath,
    /// Turns so far; see [`Context::turns`].
    turns: Cell<u64>,
    unix_origin_ns: u64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("io_path", &self.io_path).finish_non_exhaustive()
    }
}

/// A thread's runtime. Owns the ring, the buffers in flight and all tasks.
///
/// Dropping it drops the tasks and waits until every operation in flight has ended.
#[derive(Debug)]
pub struct Runtime {
    context: Context,
}

/// The handle to a runtime that lives on its thread: opens files, spawns tasks, tells the time.
#[derive(Clone, Debug)]
pub struct Context(pub(super) Rc<Core>);

pub(super) struct Parts {
    pub driver: Box<dyn Driver>,
    pub operations_max: usize,
    pub pool: BufPool,
    pub random: Random,
    pub shuffle: bool,
    pub remote: Arc<Remote>,
    /// Nanoseconds from 1970 (UTC) to the origin of the driver's clock.
    pub unix_origin_ns: u64,
}

impl Runtime {
    pub(super) fn from_parts(parts: Parts) -> Self {
        let io_path = parts.driver.io_path();
        Self {
            context: Context(Rc::new(Core {
                slab: RefCell::new(Slab::new(parts.operations_max)),
                driver: RefCell::new(parts.driver),
                tasks: RefCell::default(),
                ready: RefCell::default(),
                main_queued: Cell::new(false),
                current: Cell::new(None),
                closed: Cell::new(false),
                waiting_for_slot: RefCell::default(),
                timers: RefCell::default(),
                remote: parts.remote,
                random: RefCell::new(parts.random),
                shuffle: parts.shuffle,
                pool: parts.pool,
                io_path,
                turns: Cell::new(0),
                unix_origin_ns: parts.unix_origin_ns,
            })),
        }
    }

    /// The handle that devices and tasks keep.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Runs this future, and every task spawned, until the future ends.
    ///
    /// # Panics
    /// If called from inside a task of this runtime, or where a simulation has nothing left that could ever
    /// wake the future.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let core = &self.context.0;
        assert!(core.current.get().is_none(), "block_on is not called from inside a task");
        let waker = core.waker(MAIN_TASK);
        let mut future = pin!(future);
        let mut scratch = Scratch::default();
        core.wake_task(MAIN_TASK);
        loop {
            let mut budget = core.ready.borrow().len();
            while budget > 0
                && let Some(task) = core.next_ready()
            {
                budget -= 1;
                if task == MAIN_TASK {
                    core.main_queued.set(false);
                    core.current.set(Some((MAIN_TASK, identity(&waker))));
                    let polled = future.as_mut().poll(&mut PollContext::from_waker(&waker));
                    core.current.set(None);
                    if let Poll::Ready(output) = polled {
                        return output;
                    }
                } else {
                    core.run_task(task);
                }
            }
            core.turn(&mut scratch);
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let core = &self.context.0;
        let tasks = std::mem::take(&mut *core.tasks.borrow_mut());
        drop(tasks);
        core.closed.set(true);
        // After a panic inside the simulation its calendar may be incomplete; nothing outside has its memory.
        if core.shuffle && std::thread::panicking() {
            return;
        }
        if core.slab.borrow().in_flight() > 0 {
            core.driver.borrow_mut().cancel_all();
        }
        let mut scratch = Scratch::default();
        while core.slab.borrow().in_flight() > 0 {
            core.drive(Wait::Forever, &mut scratch);
        }
    }
}

/// Lists reused from turn to turn.
#[derive(Default)]
struct Scratch {
    completions: Vec<Completion>,
    woken: Vec<TaskId>,
}

impl Core {
    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.borrow_mut();
        if self.shuffle && ready.len() > 1 {
            let chosen = self.random.borrow_mut().below(ready.len() as u64) as usize;
            return ready.swap_remove_front(chosen);
        }
        ready.pop_front()
    }

    fn run_task(&self, task: TaskId) {
        let mut body = {
            let mut tasks = self.tasks.borrow_mut();
            let slot = &mut tasks.slots[task.index as usize];
            if slot.generation != task.generation || !slot.live {
                return;
            }
            slot.queued = false;
            match slot.body.take() {
                Some(body) => body,
                None => return,
            }
        };
        let (future, waker) = &mut body;
        self.current.set(Some((task, identity(waker))));
        let polled = future.as_mut().poll(&mut PollContext::from_waker(waker));
        self.current.set(None);
        let mut tasks = self.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(task.index as usize) else { return };
        if polled.is_pending() && slot.live {
            slot.body = Some(body);
            return;
        }
        tasks.free(task.index);
        drop(tasks);
        drop(body);
    }

    /// Lets the driver work once and fires the timers that are due.
    fn turn(&self, scratch: &mut Scratch) {
        self.turns.set(self.turns.get() + 1);
        let timer = self.timers.borrow_mut().next();
        let wait = if !self.ready.borrow().is_empty() {
            Wait::No
        } else if let Some(deadline) = timer {
            Wait::Until(deadline)
        } else {
            Wait::Forever
        };
        self.drive(wait, scratch);
        if timer.is_some() {
            let now = self.driver.borrow().now();
            while let Some(waiter) = self.next_timer(now) {
                self.wake(waiter);
            }
        }
        self.remote.drain(&mut scratch.woken);
        for task in scratch.woken.drain(..) {
            self.wake_task(task);
        }
    }

    fn next_timer(&self, now: Timestamp) -> Option<Waiter> {
        self.timers.borrow_mut().pop_due(now)
    }

    fn drive(&self, wait: Wait, scratch: &mut Scratch) {
        let completions = &mut scratch.completions;
        self.driver.borrow_mut().turn(wait, &mut self.slab.borrow_mut(), &self.remote, completions);
        for completion in completions.drain(..) {
            let next = self.slab.borrow_mut().complete(completion);
            match next {
                Next::Wake(waiter) => self.wake(waiter),
                Next::Resubmit(key) => self.driver.borrow_mut().submit(key, &mut self.slab.borrow_mut()),
                Next::Release(released) => {
                    drop(released);
                    self.slot_freed();
                }
            }
        }
    }

    fn slot_freed(&self) {
        // All of them: one alone may have found a slot since, or need none any more, and would take the word with it.
        let waiting = std::mem::take(&mut *self.waiting_for_slot.borrow_mut());
        waiting.into_iter().for_each(|waiter| self.wake(waiter));
    }

    pub(super) fn wake(&self, waiter: Waiter) {
        match waiter {
            Waiter::Task(task) => self.wake_task(task),
            Waiter::Waker(waker) => waker.wake(),
            Waiter::Nobody => {}
        }
    }

    fn wake_task(&self, task: TaskId) {
        if task == MAIN_TASK {
            if !self.main_queued.replace(true) {
                self.ready.borrow_mut().push_back(task);
            }
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        if let Some(slot) = tasks.slots.get_mut(task.index as usize)
            && slot.generation == task.generation
            && slot.live
            && !slot.queued
        {
            slot.queued = true;
            self.ready.borrow_mut().push_back(task);
        }
    }

    /// Who this poll is for: the running task where its own waker was handed through, else a copy of it.
    pub(super) fn waiter(&self, context: &PollContext<'_>) -> Waiter {
        match self.current.get() {
            Some((task, (data, vtable)))
                if data == context.waker().data() && std::ptr::eq(vtable, context.waker().vtable()) =>
            {
                Waiter::Task(task)
            }
            _ => Waiter::Waker(context.waker().clone()),
        }
    }

    fn waker(&self, task: TaskId) -> Waker {
        Waker::from(Arc::new(TaskWaker { task, remote: Arc::clone(&self.remote) }))
    }

    pub(super) fn unregister_file(&self, index: u32) {
        self.driver.borrow_mut().unregister_file(index);
    }

    pub(super) fn timers(&self) -> &RefCell<Timers> {
        &self.timers
    }

    /// Begins an operation, or gives it back when all slots are in use.
    #[inline]
    fn begin(&self, operation: Operation, buf: Option<Buf>) -> Result<OperationKey, Refused> {
        let mut slab = self.slab.borrow_mut();
        let key = slab.insert(operation, buf)?;
        self.driver.borrow_mut().submit(key, &mut slab);
        Ok(key)
    }

    #[inline]
    fn finish(&self, key: OperationKey, context: &PollContext<'_>) -> Option<(i32, Option<Buf>)> {
        let (result, buf, guard) = self.slab.borrow_mut().take(key, || self.waiter(context))?;
        drop(guard);
        self.slot_freed();
        Some((result, buf))
    }

    fn abandon(&self, key: OperationKey) {
        let orphaned = self.slab.borrow_mut().orphan(key);
        match orphaned {
            Orphaned::Ended(released) => {
                drop(released);
                self.slot_freed();
            }
            Orphaned::Cancel => self.driver.borrow_mut().cancel(key),
            Orphaned::Runs => {}
        }
    }
}

impl Tasks {
    fn free(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.live = false;
        self.free.push(index);
    }
}

impl Context {
    /// The time on this runtime's clock.
    pub fn now(&self) -> Timestamp {
        self.0.driver.borrow().now()
    }

    /// Nanoseconds since 1970 (UTC), by this runtime's clock.
    pub fn unix_time_ns(&self) -> u64 {
        self.0.unix_origin_ns + self.now().0
    }

    /// A random number from the runtime's seeded source.
    pub fn random_u64(&self) -> u64 {
        self.0.random.borrow_mut().next_u64()
    }

    /// The source of I/O buffers.
    pub fn buffers(&self) -> &BufPool {
        &self.0.pool
    }

    /// How this runtime does its I/O.
    pub fn io_path(&self) -> &IoPath {
        &self.0.io_path
    }

    /// How often the driver has been given its turn. Tasks see what completed in one turn under one number, so
    /// that they can share one reading of a clock.
    pub fn turns(&self) -> u64 {
        self.0.turns.get()
    }

    /// Operations that hold a slot: in flight, or ended and not yet taken.
    pub fn operations_in_use(&self) -> usize {
        self.0.slab.borrow().in_use()
    }

    /// Runs something to its end though the caller's future may be dropped: a commit of metadata that nobody waits for
    /// any more would otherwise let the next one begin beside it.
    ///
    /// # Errors
    /// What the work returns; `Closed` where the runtime has ended before it.
    pub async fn to_its_end<T: 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = error::Result<T>> + 'static,
    ) -> error::Result<T> {
        match self.spawn(work).await {
            Some(done) => done,
            None => Err(Error::new(operation, Reason::Closed)),
        }
    }

    /// Starts a task. It runs while somebody is inside [`Runtime::block_on`].
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let outcome = Rc::new(RefCell::new(Outcome { value: None, waiter: Waiter::Nobody, ended: false }));
        let core = Rc::downgrade(&self.0);
        let given = Rc::clone(&outcome);
        let end = End { outcome: given, core: Weak::clone(&core) };
        let body = async move {
            let value = future.await;
            end.outcome.borrow_mut().value = Some(value);
            drop(end);
        };
        let mut tasks = self.0.tasks.borrow_mut();
        let index = tasks.free.pop().unwrap_or(tasks.slots.len() as u32);
        let generation = tasks.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let id = TaskId { index, generation };
        let slot = TaskSlot {
            generation,
            queued: false,
            body: Some((Box::pin(body), self.0.waker(id))),
            live: true,
        };
        match tasks.slots.get_mut(index as usize) {
            Some(free) => *free = slot,
            None => tasks.slots.push(slot),
        }
        drop(tasks);
        self.0.wake_task(id);
        Task { id, outcome, core }
    }

    /// Begins an operation; the future ends with its result and buffer.
    #[inline]
    pub(crate) fn operate(&self, operation: Operation, buf: Option<Buf>) -> Operate<'_> {
        let core = &*self.0;
        if core.closed.get() {
            return Operate { core, key: None, refused: Some(Box::new((operation, buf))) };
        }
        match core.begin(operation, buf) {
            Ok(key) => Operate { core, key: Some(key), refused: None },
            Err(refused) => Operate { core, key: None, refused: Some(Box::new(refused)) },
        }
    }

    /// Who this poll is for.
    pub(crate) fn waiter(&self, context: &PollContext<'_>) -> Waiter {
        self.0.waiter(context)
    }

    /// Tells a waiter that what it waits for has come.
    pub(crate) fn wake(&self, waiter: Waiter) {
        self.0.wake(waiter);
    }

    /// Lets the tasks that are ready now run; a simulation draws their order.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            self.wake(self.waiter(context));
            Poll::Pending
        })
        .await;
    }

    /// Takes over an open file or device, with what keeps others out of it, and registers it with the ring where
    /// there is room.
    pub(crate) fn adopt_file(&self, fd: OwnedFd, claim: Option<Claim>) -> Rc<File> {
        let register = |fd| self.0.driver.borrow_mut().register_file(fd);
        Rc::new(File {
            registered: register(fd.as_raw_fd()),
            registered_claim: claim.as_ref().and_then(|claim| register(claim.0.as_raw_fd())),
            fd,
            _claim: claim,
            core: Rc::downgrade(&self.0),
        })
    }
}

/// A spawned task. Await it for its result; dropping it lets the task run on.
#[derive(Debug)]
pub struct Task<T> {
    id: TaskId,
    outcome: Rc<RefCell<Outcome<T>>>,
    core: Weak<Core>,
}

struct Outcome<T> {
    value: Option<T>,
    waiter: Waiter,
    ended: bool,
}

impl<T> std::fmt::Debug for Outcome<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcome").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Tells the one who awaits a task that it ended, also when it was dropped unfinished.
struct End<T> {
    outcome: Rc<RefCell<Outcome<T>>>,
    core: Weak<Core>,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.ended = true;
        let waiter = std::mem::replace(&mut outcome.waiter, Waiter::Nobody);
        drop(outcome);
        if let Some(core) = self.core.upgrade() {
            core.wake(waiter);
        }
    }
}

impl<T> Task<T> {
    /// Whether it has ended, with a result or without.
    pub fn has_ended(&self) -> bool {
        self.outcome.borrow().ended
    }

    /// Drops the task where it stands. Operations it began become orphans and end by themselves.
    pub fn abort(&self) {
        let Some(core) = self.core.upgrade() else { return };
        let mut tasks = core.tasks.borrow_mut();
        let Some(slot) = tasks.slots.get_mut(self.id.index as usize) else { return };
        if slot.generation != self.id.generation || !slot.live {
            return;
        }
        let body = slot.body.take();
        // A task that aborts itself is being polled: its executor frees it when the poll returns.
        slot.live = false;
        if body.is_some() {
            tasks.free(self.id.index);
        }
        drop(tasks);
        drop(body);
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    /// The task's result; `None` if it was aborted or its runtime is gone.
    fn poll(self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<Option<T>> {
        let mut outcome = self.outcome.borrow_mut();
        if outcome.ended {
            return Poll::Ready(outcome.value.take());
        }
        match self.core.upgrade() {
            Some(core) => {
                outcome.waiter = core.waiter(context);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

/// An operation as a future. It holds the slot's key, never the buffer, once it has begun.
pub(crate) struct Operate<'a> {
    core: &'a Core,
    /// While it is in flight.
    key: Option<OperationKey>,
    /// While it waits for a slot.
    refused: Option<Box<Refused>>,
}

/// Bytes moved or an error number (positive), and the buffer back.
pub(crate) type Operated = (Result<u64, i32>, Option<Buf>);

impl Future for Operate<'_> {
    type Output = Operated;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<Operated> {
        let Some(key) = self.key else { return self.poll_refused(context) };
        let Some((result, buf)) = self.core.finish(key, context) else { return Poll::Pending };
        self.key = None;
        Poll::Ready((if result < 0 { Err(-result) } else { Ok(result as u64) }, buf))
    }
}

impl Operate<'_> {
    #[cold]
    fn poll_refused(mut self: Pin<&mut Self>, context: &mut PollContext<'_>) -> Poll<Operated> {
        let Some(refused) = self.refused.take() else { panic!("a future is not polled after it has ended") };
        let (operation, buf) = *refused;
        if self.core.closed.get() {
            return Poll::Ready((Err(libc::ESHUTDOWN), buf));
        }
        match self.core.begin(operation, buf) {
            Ok(key) => {
                self.key = Some(key);
                self.poll(context)
            }
            Err(refused) => {
                self.refused = Some(Box::new(refused));
                let waiter = self.core.waiter(context);
                let mut waiting = self.core.waiting_for_slot.borrow_mut();
                if !waiting.contains(&waiter) {
                    waiting.push_back(waiter);
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Operate<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.core.abandon(key);
        }
    }
}

/// Waits for all of these futures and gives their results in order.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}
