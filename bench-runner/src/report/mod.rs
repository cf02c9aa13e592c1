//! The report of a run folder: one HTML file with its pictures inside, no scripts and nothing fetched.
//!
//! It is made from the folder alone, so that anybody can make it again from published results, and it fails where
//! a file it needs is missing instead of leaving a picture out.

mod bars;
mod cost;
mod facts;
mod heat;
mod loads;
mod noise;
mod page;
mod plots;
mod recovery;
mod snapshot_plots;
mod snapshots;
mod svg;
pub(crate) mod text;
mod view;
mod writing;

use std::fs;
use std::path::{Path, PathBuf};

use crate::results::{REPORT_FILE, ResultsError, RunData};
use view::View;

/// Reads the run folder and writes `report.html` into it; returns where.
///
/// Errors: as [`RunData::read`] (each names the file), or the report cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ResultsError> {
    let html = render(&RunData::read(folder)?);
    let path = folder.join(REPORT_FILE);
    fs::write(&path, html).map_err(ResultsError::io(&path, "write"))?;
    Ok(path)
}

/// The headline sentences as plain text, most telling first, for a terminal.
pub fn headlines(data: &RunData) -> Vec<String> {
    page::headlines(&View::new(data))
}

fn render(data: &RunData) -> String {
    page::render(&View::new(data))
}
