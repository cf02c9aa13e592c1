//! The measuring program's parts: the arms, the suite that pairs and repeats them, the statistics, the run folder
//! and its report.
//!
//! The binary is a thin face over these modules, so that tests reach them without starting a process.
#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod allocations;
pub mod arms;
pub(crate) mod bands;
pub mod bench;
pub(crate) mod child;
pub(crate) mod claims;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod content;
pub mod doctor;
pub mod environment;
pub(crate) mod export;
pub mod failure;
pub mod interrupt;
pub mod measure;
pub mod method;
pub mod nbd;
pub(crate) mod open_loads;
pub mod plan;
pub mod precondition;
pub mod quick;
pub mod recorder;
pub mod recovery;
pub(crate) mod replay;
pub mod report;
pub mod results;
pub(crate) mod resume;
pub mod runner_cost;
pub mod scratch;
pub mod session;
pub mod snapshots;
pub mod stats;
pub mod suite;
pub mod summary;
pub mod trace_info;
pub mod validity;
pub(crate) mod workloads;
