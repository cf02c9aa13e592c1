//! Ctrl-C and its kin: the program ends with code 130 and leaves no half-made file behind.
//!
//! A volume needs no help here: what a command has not reported as durable may be lost at any moment anyway. A command
//! that stays until it is ended says so ([`end_with`]): the first signal is then its ordinary end.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Code;

/// The file that this run has made and not finished.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What the first signal does instead of ending the program.
type Ending = Box<dyn FnOnce() + Send>;

static ENDING: Mutex<Option<Ending>> = Mutex::new(None);

/// The first signal from now on does this, and ends nothing by itself; the next one interrupts.
pub fn end_with(ending: impl FnOnce() + Send + 'static) {
    *ENDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(ending));
}

fn unfinished() -> MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts listening.
///
/// # Errors
/// What the system says.
pub fn listen() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_string()).spawn(move || {
        for _signal in signals.forever() {
            if let Some(ending) = ENDING.lock().unwrap_or_else(PoisonError::into_inner).take() {
                ending();
                continue;
            }
            // Kept locked, so that the file cannot be declared finished any more.
            let mut file = unfinished();
            remove(file.take());
            eprintln!("icecore: interrupted");
            std::process::exit(Code::Interrupted as i32);
        }
    })?;
    Ok(())
}

fn remove(file: Option<PathBuf>) {
    if let Some(path) = file
        && let Err(error) = std::fs::remove_file(&path)
    {
        eprintln!("icecore: {} is left half-made: {error}", path.display());
    }
}

/// A file that this run has made; removed unless [`NewFile::keep`] says that it is whole.
#[derive(Debug)]
pub struct NewFile(());

impl NewFile {
    /// Takes note of a file just made.
    pub fn made(path: &Path) -> Self {
        *unfinished() = Some(path.to_owned());
        Self(())
    }

    /// The file is whole.
    pub fn keep(self) {
        unfinished().take();
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        remove(unfinished().take());
    }
}
