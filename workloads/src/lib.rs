//! Streams of operations: what a benchmark asks of a store, without opening any device.
//!
//! A [`Workload`] names a pattern; a [`Stream`] turns it, a span and a seed into [`Operation`]s one at a time;
//! [`InFlight`] keeps two writes of the same place from being in flight together; a [`Stamper`] gives every
//! sector content that says where, when and by which run it was written.
//!
//! The crate is on the measured path of every arm of the runner, so that all of it is free of allocation after
//! its constructors and costs nanoseconds an operation (`cargo bench -p icecore-workloads`). An arm is paired
//! with another by giving both the same seed: a stream depends on its workload, span and seed alone, never on
//! the order in which operations complete.
//!
//! Another source of operations (a skewed generator, a trace reader) is a further module beside `stream` that
//! yields the same [`Operation`]; `in_flight` and `stamp` know nothing of where operations come from.
//!
//! [`trace`] reads real block traces; it opens their files, and no device.
#![forbid(unsafe_code)]

mod in_flight;
mod operation;
mod stamp;
mod stream;
pub mod trace;
mod workload;

pub use in_flight::InFlight;
pub use operation::{Operation, OperationKind};
pub use stamp::{Found, Mismatch, SECTOR_BYTES, STAMP_BLOCK_BYTES, STAMP_BYTES, Stamp, Stamper};
pub use stream::{Stream, StreamError};
pub use workload::{Access, Durability, UnknownWorkload, Workload};
