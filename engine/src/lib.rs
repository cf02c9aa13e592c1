//! icecore: a block-storage engine.
#![deny(unsafe_code)]
// Tests look at the outside world directly; only product code goes through the doors.
#![cfg_attr(test, allow(clippy::disallowed_methods, clippy::disallowed_types))]
#![cfg_attr(not(any(test, feature = "sim")), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod buf;
pub mod device;
pub mod error;
pub mod format;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod pool;
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod units;
pub mod volume;
