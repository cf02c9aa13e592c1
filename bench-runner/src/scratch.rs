//! A file of the runner's own that does not outlive it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::interrupt;

/// What the names of such files begin with.
const NAME: &str = "icecore-scratch-";

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
        Self::make(folder.join(format!("{NAME}{}", std::process::id())), size_bytes)
    }

    fn make(path: PathBuf, size_bytes: u64) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::environment(format!("{}: {error}", path.display()));
        let file = fs::File::create_new(&path).map_err(failed)?;
        interrupt::set_scratch(Some(&path));
        let scratch = Self { path: path.clone() };
        file.set_len(size_bytes).map_err(failed)?;
        Ok(scratch)
    }

    /// The file of this name, which a process that was killed has left, or a new one in its place.
    ///
    /// # Errors
    /// What the system says; there is something of that name that is no scratch file, or one that a process has.
    pub fn again(path: &Path, size_bytes: u64) -> Result<Self, Failure> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let failed = |error: io::Error| Failure::environment(format!("{}: {error}", path.display()));
        let is_scratch = name.strip_prefix(NAME).is_some_and(|number| number.parse::<u32>().is_ok());
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_scratch => {
                return Self::make(path.to_owned(), size_bytes);
            }
            Ok(found) if is_scratch && found.is_file() && found.len() == size_bytes => {}
            Ok(_) => {
                return Err(Failure::refused(format!(
                    "{}: no scratch file of {size_bytes} bytes",
                    path.display()
                )));
            }
            Err(error) => return Err(failed(error)),
        }
        // Devices are locked by whoever measures them.
        if fs::File::open(path).map_err(failed)?.try_lock().is_err() {
            return Err(Failure::refused(format!("{}: another process has it", path.display())));
        }
        interrupt::set_scratch(Some(path));
        Ok(Self { path: path.to_owned() })
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
