//! The measuring program's parts: what an arm gives back, the statistics, the run folder and its report.
//!
//! The binary is a thin face over these modules, so that tests reach them without starting a process.

pub mod measure;
pub mod report;
pub mod results;
pub mod stats;
