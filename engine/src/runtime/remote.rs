//! Wakes from outside the executor: other threads, and wakers that combinators keep.
//!
//! Invariant: a wake that arrives before or during a sleep ends it. The sleeper says that it sleeps before it
//! looks at the queue for the last time; the waker fills the queue before it asks whether anybody sleeps.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use super::executor::TaskId;

/// The part of a runtime that other threads may touch.
pub(super) struct Remote {
    queue: Mutex<Vec<TaskId>>,
    filled: AtomicBool,
    sleeping: AtomicBool,
    bell: UnixStream,
    ear: UnixStream,
}

impl Remote {
    pub fn new() -> std::io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        Ok(Self {
            queue: Mutex::new(Vec::new()),
            filled: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            bell,
            ear,
        })
    }

    /// Moves the tasks woken from outside to `into`. One load where there are none.
    pub fn drain(&self, into: &mut Vec<TaskId>) {
        if self.filled.load(Ordering::Acquire) {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.filled.store(false, Ordering::Relaxed);
            into.append(&mut queue);
        }
    }

    /// Announces a sleep. False if there is already something to do.
    pub fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.filled.load(Ordering::SeqCst) {
            self.end_sleep();
            return false;
        }
        true
    }

    pub fn end_sleep(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// The socket that a sleeper reads one byte from for each wake.
    pub fn ear(&self) -> &UnixStream {
        &self.ear
    }

    fn wake(&self, task: TaskId) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(task);
        self.filled.store(true, Ordering::SeqCst);
        drop(queue);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // One byte at most for each sleep, so the socket never fills; it fails only when the runtime is gone.
            let _runtime_gone = (&self.bell).write(&[1]);
        }
    }
}

/// A task's waker. The executor recognises it and then wakes by number alone.
pub(super) struct TaskWaker {
    pub task: TaskId,
    pub remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.remote.wake(self.task);
    }
}
