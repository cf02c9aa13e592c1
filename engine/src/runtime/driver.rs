//! What drives operations to completion: the one seam between the executor and the outside world.
//!
//! The ring, the blocking fallback and the simulator stand behind it. A driver takes an operation by its key,
//! reads what to do from the slab, and later hands back one completion for it.

use super::Timestamp;
use super::operation::{Completion, OperationKey, Slab};
use super::remote::Remote;

/// How long a driver may wait for the first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all: there is other work.
    No,
    /// Until a completion, a wake from another thread, or this moment.
    Until(Timestamp),
    /// Until a completion or a wake from another thread.
    Forever,
}

pub(super) trait Driver {
    /// Begin an operation, or the rest of a short one.
    fn submit(&mut self, key: OperationKey, slab: &mut Slab);

    /// Hand over what was begun and collect what has ended. May return without a completion.
    fn turn(&mut self, wait: Wait, slab: &mut Slab, remote: &Remote, completions: &mut Vec<Completion>);

    /// Ask for an operation to end early. It still completes, as cancelled or as if nothing was asked.
    fn cancel(&mut self, key: OperationKey);

    /// Ask for every operation to end early.
    fn cancel_all(&mut self);

    /// The time.
    fn now(&self) -> Timestamp;

    /// Make a file known to the kernel; its index if the driver has a table and room in it.
    fn register_file(&mut self, fd: std::os::fd::RawFd) -> Option<u32>;

    /// Forget a registered file.
    fn unregister_file(&mut self, index: u32);

    /// What this driver is and what the system granted it.
    fn io_path(&self) -> IoPath;
}

/// How a runtime does its I/O, for status and results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoPath {
    /// `io_uring`, `blocking` or `simulated`.
    pub kind: &'static str,
    /// Bytes of buffer memory registered with the ring; 0 where memlock or the kernel forbids it.
    pub registered_buffer_bytes: usize,
    /// Whether files are registered with the ring.
    pub registered_files: bool,
    /// Whether completions run only when the runtime asks for them (SINGLE_ISSUER and DEFER_TASKRUN).
    pub deferred_completions: bool,
}

impl std::fmt::Display for IoPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.kind == "io_uring" {
            match self.registered_buffer_bytes {
                0 => write!(f, ", no registered buffers")?,
                bytes => write!(f, ", {} KiB of registered buffers", bytes >> 10)?,
            }
            write!(f, ", {} files", if self.registered_files { "registered" } else { "unregistered" })?;
            if !self.deferred_completions {
                write!(f, ", no deferred completions")?;
            }
        }
        Ok(())
    }
}
