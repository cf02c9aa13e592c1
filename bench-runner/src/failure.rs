//! What ends a command, and with which exit code: the only place that knows the codes.

use std::fmt;

use icecore::error::{Error, Kind, Reason};
use icecore_workloads::WorkloadError;

use crate::arms::fio::FioError;
use crate::arms::ring::RingError;
use crate::results::ResultsError;

/// Everything went well.
pub const EXIT_OK: i32 = 0;
/// Damage was found in what was read.
pub const EXIT_DAMAGE: i32 = 1;
/// Something is worse than it was.
pub const EXIT_REGRESSION: i32 = 1;
/// A run that does not count: content was wrong.
pub const EXIT_INVALID_RUN: i32 = 2;
/// Refused to protect data.
pub const EXIT_REFUSED: i32 = 3;
/// The device, the file system or the machine failed or cannot do what is needed.
pub const EXIT_ENVIRONMENT: i32 = 4;
/// The command line is wrong.
pub const EXIT_USAGE: i32 = 64;
/// A signal stopped it.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Why a command ends without having done its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The process's exit code.
    pub exit_code: i32,
    /// What is wrong with which thing, and the remedy.
    pub message: String,
}

impl Failure {
    /// The command line asks for something that cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_USAGE, message: message.into() }
    }

    /// Refused to protect data.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_REFUSED, message: message.into() }
    }

    /// The machine cannot do it or failed to.
    pub fn environment(message: impl Into<String>) -> Self {
        Self { exit_code: EXIT_ENVIRONMENT, message: message.into() }
    }

    /// A signal came.
    pub fn interrupted() -> Self {
        Self { exit_code: EXIT_INTERRUPTED, message: "interrupted".into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_code = match (error.reason(), error.kind()) {
            (Reason::NotFound | Reason::DeviceTooSmall { .. }, _) => EXIT_REFUSED,
            (Reason::Os { .. } | Reason::PermissionDenied, _) => EXIT_ENVIRONMENT,
            (_, Kind::Denied | Kind::Busy) => EXIT_REFUSED,
            (_, Kind::InvalidArgument) => EXIT_USAGE,
            _ => EXIT_ENVIRONMENT,
        };
        // Whatever takes a device takes --create too.
        let message = match error.reason() {
            Reason::NotFound => format!("{error}, or pass --create BYTES to make a file of that size"),
            _ => error.to_string(),
        };
        Self { exit_code, message }
    }
}

impl From<ResultsError> for Failure {
    fn from(error: ResultsError) -> Self {
        Self { exit_code: error.exit_code(), message: error.to_string() }
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::environment(error.to_string())
    }
}

impl From<FioError> for Failure {
    fn from(error: FioError) -> Self {
        Self::environment(error.to_string())
    }
}

impl From<WorkloadError> for Failure {
    fn from(error: WorkloadError) -> Self {
        Self::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_the_code_of_the_contract() {
        let code = |reason| Failure::from(Error::new("test", reason)).exit_code;
        assert_eq!(code(Reason::DestroyRequired { expected: "a:1".into() }), EXIT_REFUSED);
        assert_eq!(code(Reason::AlreadyOpen), EXIT_REFUSED);
        assert_eq!(code(Reason::NotFound), EXIT_REFUSED);
        assert_eq!(code(Reason::ForeignSignature { name: "ext4", at: 1080 }), EXIT_REFUSED);
        assert_eq!(code(Reason::NoDirectIo { filesystem: "tmpfs".into() }), EXIT_ENVIRONMENT);
        assert_eq!(code(Reason::Os { errno: libc::EIO }), EXIT_ENVIRONMENT);
        assert_eq!(code(Reason::PermissionDenied), EXIT_ENVIRONMENT);
        let wrong = Reason::InvalidSetting { name: "backend", value: "x".into(), rule: "no" };
        assert_eq!(code(wrong), EXIT_USAGE);
    }
}
