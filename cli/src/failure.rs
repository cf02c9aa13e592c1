//! Why a command ended without doing what was asked.

use icecore::error::{Error, Reason};

use crate::exit::{Code, Intent, code_of};
use crate::output::Done;

/// A command's result.
pub type Outcome<T> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The engine refused or failed.
    Engine(Error, Intent),
    /// Standard input or output failed.
    Stream(&'static str, std::io::Error),
    /// It did what was asked and found something that is not as it should be; the result is printed all the
    /// same.
    Found(Done, Code),
    /// Nobody reads the output any more: whoever did has what was wanted.
    ReaderGone,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error, Intent::Use)
    }
}

impl Failure {
    /// A failure of creating something.
    pub fn creating(error: Error) -> Self {
        Self::Engine(error, Intent::Create)
    }

    /// A failure of standard output.
    pub fn of_output(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::Stream("write to standard output", error)
        }
    }

    /// The exit code it stands for.
    pub fn code(&self) -> Code {
        match self {
            Self::Engine(error, intent) => code_of(error, *intent),
            Self::Stream(..) => Code::Environment,
            Self::Found(_, code) => *code,
            Self::ReaderGone => Code::Ok,
        }
    }

    /// The name that programs match.
    pub fn kind(&self) -> String {
        match self {
            Self::Engine(error, _) => format!("{:?}", error.kind()),
            Self::Stream(..) | Self::Found(..) | Self::ReaderGone => "Stream".to_string(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(error, Intent::Create) if *error.reason() == Reason::NotFound => {
                write!(f, "{error}, or pass --create BYTES to make a file of that size")
            }
            Self::Engine(error, _) => error.fmt(f),
            Self::Stream(what, error) => write!(f, "{what}: {error}"),
            Self::Found(..) => f.write_str("something was found"),
            Self::ReaderGone => f.write_str("nobody reads the output"),
        }
    }
}
