//! What is wrong with a trace: the file, the place in it, and the reason.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a line or record is none: the field, and what is wrong with it. Cheap, since it is made for every line of a
/// file whose format is being found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason(pub &'static str, pub &'static str);

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.0, self.1)
    }
}

/// Where in a file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A line, counted from 1.
    Line(u64),
    /// A record of a binary trace, counted from 1, and its first byte in the (unpacked) content.
    Record {
        /// Number of the record.
        number: u64,
        /// Its first byte.
        byte: u64,
    },
    /// A byte of the (unpacked) content.
    Byte(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File => Ok(()),
            Place::Line(line) => write!(formatter, "line {line}: "),
            Place::Record { number, byte } => write!(formatter, "record {number} at byte {byte}: "),
            Place::Byte(byte) => write!(formatter, "byte {byte}: "),
        }
    }
}

/// What kind of thing went wrong, for whoever turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceErrorKind {
    /// The file cannot be opened or read.
    Io,
    /// The file's format is not known, or is several.
    Format,
    /// The content is damaged.
    Damaged,
    /// A record comes later than the sort window allows.
    Unsorted,
    /// An option or a mapping cannot be used with this trace.
    Usage,
}

/// A trace cannot be read, or no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: TraceErrorKind,
    path: PathBuf,
    place: Place,
    reason: String,
}

impl TraceError {
    pub(super) fn new(kind: TraceErrorKind, path: &Path, place: Place, reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, path: path.to_owned(), place, reason: reason.into() }))
    }

    pub(super) fn damaged(path: &Path, place: Place, reason: impl Into<String>) -> Self {
        Self::new(TraceErrorKind::Damaged, path, place, reason)
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> TraceErrorKind {
        self.0.kind
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where in the file.
    pub fn place(&self) -> Place {
        self.0.place
    }

    /// What is wrong there.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}{}", self.0.path.display(), self.0.place, self.0.reason)
    }
}

impl std::error::Error for TraceError {}

/// What stands in a line, as far as it fits into a message.
pub(super) fn excerpt(line: &[u8]) -> String {
    const SHOWN_BYTES: usize = 80;
    let shown = &line[..line.len().min(SHOWN_BYTES)];
    let more = if line.len() > SHOWN_BYTES { "..." } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}
