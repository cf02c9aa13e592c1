//! What can go wrong with a run folder, and the exit code each case asks for.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A run folder that cannot be written or read.
#[derive(Debug)]
pub enum ResultsError {
    /// The folder for a new run already holds something; results are never overwritten.
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file that the report needs is not there.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is there and does not say what its format promises.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where known.
        detail: String,
    },
    /// The operating system refused.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `create`, `write`, `read`.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl ResultsError {
    /// The process exit code: 3 (refused for safety) for a folder that is not empty, else 4 (I/O or environment).
    pub fn exit_code(&self) -> i32 {
        match self {
            ResultsError::NotEmpty { .. } => 3,
            _ => 4,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::NotFound if action == "read" => ResultsError::Missing { path },
            _ => ResultsError::Io { path, action, source },
        }
    }

    pub(crate) fn malformed(path: &Path, detail: impl fmt::Display) -> Self {
        ResultsError::Malformed { path: path.to_path_buf(), detail: detail.to_string() }
    }
}

impl fmt::Display for ResultsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResultsError::NotEmpty { path } => {
                write!(formatter, "{} is not empty: a run folder is never overwritten", path.display())
            }
            ResultsError::Missing { path } => {
                write!(formatter, "{} is missing: the report is made from it alone", path.display())
            }
            ResultsError::Malformed { path, detail } => write!(formatter, "{}: {detail}", path.display()),
            ResultsError::Io { path, action, source } => {
                write!(formatter, "cannot {action} {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for ResultsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ResultsError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
