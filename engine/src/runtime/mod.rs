//! The runtime: one thread, one ring, one task queue.
//!
//! The engine's code is plain `async fn` on a [`Runtime`]; its futures stay on the runtime's thread. What the
//! runtime touches of the outside world (clock, randomness, files) stands behind a [`driver`] with three
//! forms: io_uring, blocking calls (only when asked for), and the simulator (feature `sim`: seeded, virtual
//! time). Other threads come in through a [`mailbox`].
//!
//! [`driver`]: IoPath
//! [`mailbox`]: mailbox()

mod blocking;
mod driver;
mod executor;
mod mailbox;
mod operation;
mod random;
mod range_lock;
mod remote;
mod signal;
#[cfg(feature = "sim")]
pub mod sim;
mod socket;
mod timer;
mod uring;

use std::sync::Arc;

pub use driver::IoPath;
pub(crate) use executor::Operate;
pub(crate) use executor::Waiter;
pub use executor::{Context, Runtime, Task, join_all};
pub use mailbox::{Receiver, Sender, mailbox};
pub(crate) use operation::Operation;
pub use operation::{Claim, FailureFlag, File, OperationKind, Target};
pub use random::Random;
pub use range_lock::{RangeGuard, RangeLock};
pub use signal::Signal;
pub use socket::{Gather, PIECES_MAX, Socket};
pub use timer::Sleep;

use crate::buf::{BufPool, BufPoolOptions};
use crate::error::{Error, Result};
use driver::Driver;

/// Nanoseconds since the runtime began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// How the runtime does its I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring, or an error where there is none.
    #[default]
    Uring,
    /// One blocking call after the other. Shown in status and results; never chosen silently.
    Blocking,
}

/// Settings of a runtime.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeOptions {
    /// How I/O is done.
    pub io_mode: IoMode,
    /// Operations in flight at most; further ones wait their turn.
    pub operations_max: usize,
    /// The buffer pool.
    pub buffers: BufPoolOptions,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { io_mode: IoMode::Uring, operations_max: 1024, buffers: BufPoolOptions::default() }
    }
}

impl Runtime {
    /// A runtime on this thread.
    ///
    /// # Errors
    /// `NoIoUring` where the system has none and [`IoMode::Blocking`] was not asked for.
    pub fn new(options: RuntimeOptions) -> Result<Self> {
        let system = |error| Error::from_io("open runtime", &error);
        let pool = BufPool::new(options.buffers);
        let driver: Box<dyn Driver> = match options.io_mode {
            IoMode::Uring => Box::new(uring::UringDriver::new(options.operations_max, &pool)?),
            IoMode::Blocking => Box::new(blocking::BlockingDriver::new()),
        };
        Ok(Self::from_parts(executor::Parts {
            driver,
            operations_max: options.operations_max,
            pool,
            random: Random::from_system().map_err(system)?,
            shuffle: false,
            remote: Arc::new(remote::Remote::new().map_err(system)?),
            unix_origin_ns: unix_time_ns(),
        }))
    }
}

/// The system's clock, once: from here on time is the runtime's own.
#[allow(clippy::disallowed_methods, reason = "this is one of the doors to the clock")]
fn unix_time_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests;
