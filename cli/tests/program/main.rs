//! The program as its users run it: arguments, outputs, exit codes, other processes.
//!
//! One program of tests, so that it is linked once.

mod bases;
mod check;
mod control;
mod control_embedded;
mod devices;
mod devices_apart;
mod files;
mod groups;
mod linear;
mod log;
mod salvage;
mod support;
mod volumes;
mod writable;
