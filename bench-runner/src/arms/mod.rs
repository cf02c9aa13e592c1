//! The arms: each one a way of doing the same I/O.
//!
//! `ring` is the hand-written loop, `raw` the engine's device without a volume, `fio` the program of that name,
//! every backend of the engine is an arm under its own name, and `nbd` an export of an NBD server. [`engine`] drives `raw`, `nbd` and the
//! backends alike.

mod claims;
pub mod engine;
pub mod fio;
mod line;
pub(crate) mod pace;
#[cfg(test)]
mod played;
pub mod reference;
pub mod ring;
#[cfg(test)]
mod served;
pub mod target;
pub(crate) mod turns;
#[cfg(test)]
mod until_steady;

use icecore::store::Backend;
use icecore::volume::{OpenMode, Volume};

use crate::bench::Bench;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, ArmTask, LogBatches, Written};
use engine::Content;
use icecore::device::{Cause, Device};
use target::Bare;

/// One way of doing the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The hand-written loop over io_uring.
    Ring,
    /// The engine's device, without a volume.
    Raw,
    /// The program fio.
    Fio,
    /// An export of an NBD server.
    Nbd,
    /// A volume of this backend.
    Engine(Backend),
}

impl Arm {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Ring => "ring",
            Arm::Raw => "raw",
            Arm::Fio => "fio",
            Arm::Nbd => "nbd",
            Arm::Engine(backend) => backend.name(),
        }
    }

    /// The arm of that name.
    ///
    /// # Errors
    /// A usage failure that lists the names.
    pub fn from_name(name: &str) -> Result<Self, Failure> {
        let all = [Arm::Ring, Arm::Raw, Arm::Fio, Arm::Nbd].into_iter().chain(Backend::ALL.map(Arm::Engine));
        all.clone().find(|arm| arm.name() == name).ok_or_else(|| {
            let names: Vec<&str> = all.map(Arm::name).collect();
            Failure::usage(format!("unknown backend {name:?}; this build has: {}", names.join(", ")))
        })
    }

    /// Whether what it wrote can be read back and compared: fio writes content of its own.
    pub fn writes_stamped_content(self) -> bool {
        self != Arm::Fio
    }

    /// Runs one measurement on a span that has been prepared for it.
    ///
    /// # Errors
    /// The first operation that failed, or that a signal stopped it.
    pub fn run(self, bench: &Bench, task: &ArmTask) -> Result<ArmOutcome, Failure> {
        let outcome = match self {
            Arm::Ring => ring::run(task)?,
            Arm::Fio => fio::run(task)?,
            Arm::Nbd => {
                let Some(export) = bench.export() else {
                    unreachable!("a plan has this arm for exports alone")
                };
                let mut outcome = engine::run(bench.runtime(), export.clone(), task, Content::Stamped)?;
                outcome.io_path = format!("{}, {}", export.io_path(), bench.runtime().context().io_path());
                outcome
            }
            Arm::Raw => {
                let bare = Bare::new(bench.device(), task.span_offset_bytes);
                let before = written_bytes(bench.device());
                let mut outcome = engine::run(bench.runtime(), bare, task, Content::Stamped)?;
                outcome.written = written_since(bench.device(), &before, &outcome);
                outcome
            }
            Arm::Engine(_) => {
                let opening = Volume::open(bench.device().clone(), OpenMode::ReadWrite);
                let volume = bench.runtime().block_on(opening)?;
                let before = written_bytes(bench.device());
                let mut outcome = engine::run(bench.runtime(), volume.clone(), task, Content::Stamped)?;
                if let Some(log) = volume.status().log.filter(|_| task.workload.writes()) {
                    outcome.log = Some(LogBatches {
                        batches: log.batches,
                        entries: log.entries,
                        bytes: log.batch_bytes,
                        in_flight: log.batches_in_flight,
                    });
                    bench.runtime().block_on(volume.flush())?;
                    bench.runtime().block_on(quiet(bench.device()))?;
                }
                bench.runtime().block_on(volume.close())?;
                outcome.written = written_since(bench.device(), &before, &outcome);
                outcome
            }
        };
        if crate::interrupt::requested() { Err(Failure::interrupted()) } else { Ok(outcome) }
    }
}

/// Background work has ended when it has done nothing for this long.
const QUIET_NS: u64 = 100_000_000;
/// How often that is looked for before something is wrong.
const QUIET_TRIES: u32 = 600;

/// Waits until no background work is left, so that it is counted.
pub(crate) async fn quiet(device: &Device) -> Result<(), Failure> {
    let done = || Cause::ALL.map(|cause| device.ledger().tally(cause));
    for _ in 0..QUIET_TRIES {
        let before = done();
        device.context().sleep(QUIET_NS).await;
        if done() == before {
            return Ok(());
        }
    }
    Err(Failure::environment("the backend's background work does not come to an end".to_owned()))
}

/// Bytes that the device has written so far, by cause.
fn written_bytes(device: &Device) -> [u64; Cause::ALL.len()] {
    Cause::ALL.map(|cause| device.ledger().tally(cause).write_bytes)
}

/// What was written for the load; `None` where it only read.
fn written_since(device: &Device, before: &[u64], outcome: &ArmOutcome) -> Option<Written> {
    let application_bytes = outcome.generations.written_bytes();
    let by_cause = Cause::ALL.iter().zip(written_bytes(device)).zip(before);
    (application_bytes > 0).then(|| Written {
        application_bytes,
        by_cause: by_cause.map(|((cause, now), before)| (cause.name(), now - before)).collect(),
    })
}
