//! `export`: a run folder in the formats of other programs: JSON as fio writes it, and Parquet.
//!
//! An export is made from the run folder alone and adds nothing to it. What was not measured is `null` in both.

mod fio;
#[cfg(feature = "parquet")]
mod parquet;

use std::fs;

use crate::cli::{ExportFormat, ExportOptions};
use crate::failure::{EXIT_OK, Failure};
use crate::results::{ResultsError, RunData};

/// The command.
///
/// # Errors
/// The folder is missing, in parts or altogether; what is to be written exists or cannot be written; this build has no Parquet.
pub fn tell(options: &ExportOptions) -> Result<i32, Failure> {
    let data = RunData::read(&options.folder)?;
    match (options.to, &options.out) {
        (ExportFormat::FioJson, out) => {
            let (value, left_out) = fio::object(&data);
            if left_out > 0 {
                eprintln!("bench-runner: {left_out} runs do not count and are left out");
            }
            let text = format!("{value:#}\n");
            match out {
                Some(path) => fs::write(path, text).map_err(ResultsError::io(path, "write"))?,
                None => print!("{text}"),
            }
        }
        (ExportFormat::Parquet, None) => {
            return Err(Failure::usage("parquet needs --out, the folder of its files"));
        }
        #[cfg(feature = "parquet")]
        (ExportFormat::Parquet, Some(folder)) => {
            for path in parquet::write(&data, folder)? {
                println!("{}", path.display());
            }
        }
        #[cfg(not(feature = "parquet"))]
        (ExportFormat::Parquet, Some(_)) => {
            return Err(Failure::environment(
                "this build has no Parquet: build bench-runner with --features parquet",
            ));
        }
    }
    Ok(EXIT_OK)
}
