//! The simulator: a volume on a faulty disk, judged by a model.
//!
//! A seed gives a [`script`] of operations, faults and power cuts; [`world`] plays it in virtual time on the
//! engine's own code; [`model`] knows for every sector which contents are allowed and convicts the engine of
//! any other; [`shrink`] drops what a failure does not need. The same seed always gives the same run.
//!
//! The model is independent of the engine: it sees only calls, results, bytes, and the disk's own note of the
//! faults that it injected.

pub mod coverage;
pub mod model;
pub mod script;
pub mod shrink;
pub mod world;

pub use coverage::Coverage;
pub use script::{Script, Step};

use crate::device::simulated::Fault;
use crate::store::Backend;

/// What a run ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the engine did wrong, if anything.
    pub failure: Option<String>,
    /// Hash of the disk's contents at the end.
    pub hash: u64,
    /// Virtual time at the end, in nanoseconds.
    pub clock_ns: u64,
    /// Requests that the disk has seen.
    pub requests: u64,
    /// Hash of every event.
    pub trace: u64,
    /// What the run went through.
    pub coverage: Coverage,
}

/// Plays a script. A panic of the engine, or a hang, is a failure like any other.
pub fn run(script: &Script) -> Report {
    guarded(|| world::play(script, None))
}

/// Plays a script in which the disk's request of this number, counted from the beginning, fails like this.
pub fn run_with_fault(script: &Script, request: u64, fault: Fault) -> Report {
    guarded(|| world::play(script, Some((request, fault))))
}

fn guarded(play: impl FnOnce() -> Report + std::panic::UnwindSafe) -> Report {
    let played = std::panic::catch_unwind(play);
    played.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        let failure = Some(format!("panic: {text}"));
        Report { failure, hash: 0, clock_ns: 0, requests: 0, trace: 0, coverage: Coverage::default() }
    })
}

/// Plays the script of a seed, for this backend.
pub fn run_seed(seed: u64, backend: Backend) -> Report {
    run(&Script::of_backend(seed, backend))
}

#[cfg(test)]
mod tests;
