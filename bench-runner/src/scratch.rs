//! A file of the runner's own that does not outlive it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::interrupt;

/// A sparse file that is removed however the program ends, short of SIGKILL. There is one at a time.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the file in this folder.
    ///
    /// # Errors
    /// What the system says; an existing file is not touched.
    pub fn create(folder: &Path, size_bytes: u64) -> Result<Self, Failure> {
        let path = folder.join(format!("icecore-scratch-{}", std::process::id()));
        let failed = |error: io::Error| Failure::environment(format!("{}: {error}", path.display()));
        let file = fs::File::create_new(&path).map_err(failed)?;
        interrupt::set_scratch(Some(&path));
        let scratch = Self { path: path.clone() };
        file.set_len(size_bytes).map_err(failed)?;
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("bench-runner: {} could not be removed: {error}", self.path.display());
        }
        interrupt::set_scratch(None);
    }
}
