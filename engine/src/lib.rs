//! icecore: a block-storage engine.
#![deny(unsafe_code)]
pub mod units;
pub mod buf;
pub mod device;
pub mod error;
pub mod runtime;
