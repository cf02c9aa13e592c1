//! The engine's one error type.
//!
//! A [`Kind`] says what the caller can do about it, a [`Reason`] which refusal or failure it was, the
//! operation and [`Place`] where, and the source what the system said. Corruption and bad input are
//! errors; a broken invariant is a panic. The text names the thing and the remedy.

mod reason;

use std::borrow::Cow;
use std::fmt;

pub use reason::Reason;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller can do about an error. At most twelve, matched by programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The same call may succeed later.
    Retry,
    /// The volume serves no more writes: close it, open it again, let it recover.
    Reopen,
    /// A person has to act before this can succeed.
    Operator,
    /// The call was wrong; the same call will always be refused.
    InvalidArgument,
    /// Bytes on the device are not what was written there.
    Corrupt,
    /// The device refused or failed this one request.
    DeviceFailed,
    /// The device or peer is not there, or the object is closed.
    Unavailable,
    /// Not enough room.
    NoSpace,
    /// Refused to protect data or by permission.
    Denied,
    /// Somebody else is using it.
    Busy,
    /// This machine or this build cannot do it.
    Unsupported,
    /// This node may not accept writes now.
    NotPrimary,
}

impl Kind {
    /// All of them, by the number that stands for each where an error is told to another process.
    pub const ALL: [Kind; 12] = [
        Kind::Retry,
        Kind::Reopen,
        Kind::Operator,
        Kind::InvalidArgument,
        Kind::Corrupt,
        Kind::DeviceFailed,
        Kind::Unavailable,
        Kind::NoSpace,
        Kind::Denied,
        Kind::Busy,
        Kind::Unsupported,
        Kind::NotPrimary,
    ];
}

/// Where it happened, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The device's or file's path, or the volume's id.
    pub name: Option<String>,
    /// First byte of the request.
    pub offset: Option<u64>,
}

/// An error of the engine.
///
/// Boxed, so that a `Result` of a small value stays small on the data path.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: Kind,
    reason: Reason,
    operation: Cow<'static, str>,
    place: Place,
}

impl Error {
    /// An error of `operation`, its kind following from the reason.
    pub fn new(operation: &'static str, reason: Reason) -> Self {
        Self::told(Cow::Borrowed(operation), reason, Place::default())
    }

    /// An error that came from elsewhere, operation and place included.
    pub(crate) fn told(operation: Cow<'static, str>, reason: Reason, place: Place) -> Self {
        Self(Box::new(Inner { kind: reason.kind(), reason, operation, place }))
    }

    /// An error from a system error number (positive).
    pub fn from_errno(operation: &'static str, errno: i32) -> Self {
        let reason = match errno {
            libc::EACCES | libc::EPERM => Reason::PermissionDenied,
            libc::ENOENT => Reason::NotFound,
            libc::ENODEV | libc::ENXIO => Reason::DeviceGone,
            libc::ECANCELED => Reason::Cancelled,
            _ => Reason::Os { errno },
        };
        Self::new(operation, reason)
    }

    /// An error from what the standard library reports.
    pub fn from_io(operation: &'static str, error: &std::io::Error) -> Self {
        Self::from_errno(operation, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The same error, with the device's or volume's name.
    #[must_use]
    pub fn on(mut self, name: impl Into<String>) -> Self {
        self.0.place.name = Some(name.into());
        self
    }

    /// The same error, with this name unless it has one.
    #[must_use]
    pub fn or_on(self, name: &str) -> Self {
        if self.0.place.name.is_some() { self } else { self.on(name) }
    }

    /// The same error, with the first byte of the request.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.place.offset = Some(offset);
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Which refusal or failure it was.
    pub fn reason(&self) -> &Reason {
        &self.0.reason
    }

    /// The operation that failed.
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Where it happened.
    pub fn place(&self) -> &Place {
        &self.0.place
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.operation)?;
        if let Some(name) = &self.0.place.name {
            write!(f, " {name}")?;
        }
        if let Some(offset) = self.0.place.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.0.reason)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_thing_and_the_remedy() {
        let error = Error::new("open", Reason::AlreadyOpen).on("/dev/loop0");
        assert_eq!(
            error.to_string(),
            "open /dev/loop0: it is already open in this or another program; close that one first"
        );
        assert_eq!(error.kind(), Kind::Busy);
        let error = Error::from_errno("write", libc::ENOSPC).at(4096);
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.to_string().starts_with("write at byte 4096: No space left on device"));
    }

    #[test]
    fn a_result_of_nothing_is_one_word() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
