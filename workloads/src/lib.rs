//! Streams of operations: what a benchmark asks of a store, without opening any device.
//!
//! A [`Workload`], built in or read from a TOML file, says what is asked for; a [`Stream`] turns it, a span and a seed into
//! [`Operation`]s one at a time, a [`Schedule`] says when those of an open load should begin; [`InFlight`] keeps two
//! overlapping writes from being in flight together; a [`Stamper`] gives every sector content that says where, when and by which
//! run it was written, and [`Generations`] counts the writes of each place.
//!
//! The crate is on the measured path of every arm of the runner, so that all of it is free of allocation after
//! its constructors and costs nanoseconds an operation (`cargo bench -p icecore-workloads`). An arm is paired
//! with another by giving both the same seed: a stream depends on its workload, span and seed alone, never on
//! the order in which operations complete.
//!
//! Another source of operations (a trace reader) is a further module beside `stream` that
//! yields the same [`Operation`]; `in_flight` and `stamp` know nothing of where operations come from.
//!
//! [`trace`] reads real block traces; it opens their files, and no device.
#![forbid(unsafe_code)]

mod arrival;
mod generations;
mod in_flight;
mod operation;
mod spec;
mod stamp;
mod stream;
pub mod trace;
mod workload;
mod zipf;

pub use arrival::{Arrival, Schedule};
pub use generations::Generations;
pub use in_flight::InFlight;
pub use operation::{Operation, OperationKind};
pub use stamp::{Found, Mismatch, SECTOR_BYTES, STAMP_BLOCK_BYTES, STAMP_BYTES, Stamp, Stamper};
pub use stream::{Stream, StreamError};
pub use workload::{Access, Durability, HotRange, Part, SizeShare, Workload, WorkloadError};
