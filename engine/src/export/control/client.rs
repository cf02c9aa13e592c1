//! The end of a control socket that asks.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{Answer, Request, Status};
use super::{failed, peer, socket_path};
use crate::error::{Error, Reason, Result};
use crate::format::control::{ANSWER_BYTES_MAX, ControlHeader, HEADER_BYTES, bad};

/// How long a program that listens may take to tell how its volume is, other clients before this one included.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the program that has a volume open. One that asks nothing for [`super::SILENCE`] is dropped there.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    path: PathBuf,
    process: u32,
    status: Box<Status>,
}

impl ControlClient {
    /// Connects to the program that has the volume of this pool open on the device at `device`; `None` where nobody
    /// listens. Whoever does is asked at once how the volume is, so that another build is told by name.
    ///
    /// # Errors
    /// `PermissionDenied`, `ControlVersion`, `NotReachable` where it does not answer, and what it tells.
    pub fn connect(directory: &Path, device: &Path, pool_id: &[u8; 16]) -> Result<Option<Self>> {
        let path = socket_path(directory, device, pool_id)?;
        let named = |error: Error| error.or_on(&path.display().to_string());
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            // Nobody listens, or whoever did has died.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(named(failed(&error))),
        };
        let is_root = rustix::process::geteuid().is_root();
        let process = peer(&stream, is_root).map_err(named)?;
        let patience = |limit| stream.set_read_timeout(limit).map_err(|error| failed(&error));
        patience(Some(PATIENCE))?;
        let answer = ask(&stream, process, &Request::Status).map_err(named)?;
        // From here on it is known to answer, and work takes the time that it takes.
        patience(None)?;
        match answer {
            Answer::Status(status) => Ok(Some(Self { stream, path, process, status })),
            _ => Err(named(bad("an answer to something else"))),
        }
    }

    /// How the volume was when the connection was made.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The number of the process at the other end.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Has something done.
    ///
    /// # Errors
    /// What the program there tells, which has the kind, the text and the place of the error there; `NotReachable`
    /// where it ended meanwhile: then nobody can say whether it was done.
    pub fn call(&self, request: &Request) -> Result<Answer> {
        ask(&self.stream, self.process, request).map_err(|error| match error.reason() {
            // It says itself what it is about, or it is about nothing.
            Reason::Told { .. } => error,
            _ => error.or_on(&self.path.display().to_string()),
        })
    }
}

fn ask(mut stream: &UnixStream, process: u32, request: &Request) -> Result<Answer> {
    let gone = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock
        | ErrorKind::UnexpectedEof
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset => {
            Error::new("ask", Reason::NotReachable { holder: format!("process {process}") })
        }
        _ => failed(&error),
    };
    // A program that has refused already reads no more; what it said can still be read.
    let sent = stream.write_all(&request.encode()?);
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).map_err(|error| gone(sent.err().unwrap_or(error)))?;
    let (kind, length) = ControlHeader::decode(&header, ANSWER_BYTES_MAX)?;
    // It grows with what has come, whatever was announced.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).map_err(gone)?;
    if body.len() < length {
        return Err(gone(ErrorKind::UnexpectedEof.into()));
    }
    Answer::decode(kind, &body)
}
