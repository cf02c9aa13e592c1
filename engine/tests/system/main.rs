//! Devices and runtimes of the system itself: files, loop devices, processes that are killed.
//!
//! One program, so that it is linked once.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

mod device_contract;
mod device_safety;
mod raw_volume;
mod support;
