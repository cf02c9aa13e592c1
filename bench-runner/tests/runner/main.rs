//! The runner as its users run it: suites, their results, and what the reports draw.
//!
//! One program of tests, so that it is linked once.

mod browser;
mod claims;
mod compare;
mod drawn;
mod export;
mod guest;
mod honest;
mod loads;
mod method;
mod nbd;
mod nbd_server;
mod recovery;
mod replay;
mod report;
mod resampled;
mod resume;
mod resume_suites;
mod run;
mod snapshots;
mod stall;
mod support;
mod tables;
mod trace_info;
mod under_load;
