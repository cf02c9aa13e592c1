//! icecore: a block-storage engine that products embed.
//!
//! A [`volume::Volume`] is an address space of bytes on a [`device::Device`], driven by a [`runtime::Runtime`]:
//! one thread, one io_uring, no locks, no threads of its own, no global state. A request goes down one way:
//! the volume checks it, orders it behind overlapping ones and merges it to whole blocks; the [`store`] (the
//! backend) finds its place; the device hands it to the ring. What an error means for the caller is its
//! [`error::Kind`].
//!
//! The same code runs in the simulator (feature `sim`): virtual time, a disk that fails, lies and loses power,
//! and a model that judges every byte. Modules may import only those above them: `units`, `error`, `buf`;
//! `format`; `runtime`; `device`; `pool`; `object`; `store`; `check`; `volume`; `export`; `sim`.
//!
//! The repository's README has a whole program in twenty lines.

#![deny(unsafe_code)]
// Tests look at the outside world directly; only product code goes through the doors.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]
#![cfg_attr(not(any(test, feature = "sim")), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod buf;
pub mod check;
pub mod device;
pub mod error;
pub mod export;
pub mod format;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod object;
pub mod pool;
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod units;
pub mod volume;

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadMe;
