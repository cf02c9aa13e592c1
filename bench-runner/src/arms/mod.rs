//! The arms: each one a way of doing the same I/O.
//!
//! `ring` is the hand-written loop, `raw` the engine's device without a volume, `fio` the program of that name,
//! and every backend of the engine is an arm under its own name. [`engine`] drives `raw` and the backends alike.

pub mod engine;
pub mod fio;
pub mod ring;
pub mod target;

use icecore::store::Backend;
use icecore::volume::{OpenMode, Volume};

use crate::bench::Bench;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, ArmTask};
use engine::Content;
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
            Arm::Engine(backend) => backend.name(),
        }
    }

    /// The arm of that name.
    ///
    /// # Errors
    /// A usage failure that lists the names.
    pub fn from_name(name: &str) -> Result<Self, Failure> {
        let all = [Arm::Ring, Arm::Raw, Arm::Fio].into_iter().chain(Backend::ALL.map(Arm::Engine));
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
            Arm::Raw => {
                let bare = Bare::new(bench.device(), task.span_offset_bytes);
                engine::run(bench.runtime(), bare, task, Content::Stamped)?
            }
            Arm::Engine(_) => {
                let opening = Volume::open(bench.device().clone(), OpenMode::ReadWrite);
                let volume = bench.runtime().block_on(opening)?;
                let outcome = engine::run(bench.runtime(), volume.clone(), task, Content::Stamped)?;
                bench.runtime().block_on(volume.close())?;
                outcome
            }
        };
        if crate::interrupt::requested() { Err(Failure::interrupted()) } else { Ok(outcome) }
    }
}
