//! Readers of real traces, from files to records: what each format says, what damage does, and what it costs.
//!
//! One program of tests, so that it is linked once.

mod damage;
mod differential;
mod formats;
mod mutations;
mod order;
mod real;
mod support;
