//! The control socket: an open volume can be reached.
//!
//! The process that has a volume open listens on a local socket, so that others can take, list, delete and compare
//! its snapshots, take it back, and see how it is ([`Request`]). The socket's name follows from the pool's identity and
//! from the device that the path leads to: every path to the same device finds it, and a copy of the device does not.
//!
//! Promises: an answer is what the volume's own call returned, so that a snapshot that was answered is durable; only the
//! owner of the serving process and root are served; a client that is slow, silent or wrong is dropped, and holds up
//! neither the others nor the volume. A program that serves needs nothing but a thread:
//!
//! ```no_run
//! # use icecore::{error::Result, export::control::{ControlSocket, run_directory}, volume::Volume};
//! # async fn example(volume: Volume, path: &std::path::Path) -> Result<()> {
//! let (handle, serving) = volume.handle();
//! let socket = ControlSocket::bind(&run_directory()?, path, &volume.info().pool_id)?;
//! let stopper = socket.stopper();
//! let thread = std::thread::spawn(move || socket.serve(&handle));
//! // … the program does its work, on the runtime …
//! stopper.stop();
//! serving.await; // The last answers are given: the thread has ended, or is about to.
//! # Ok(()) }
//! ```

mod client;
mod message;
mod perform;
mod server;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use client::ControlClient;
pub use message::{Answer, ApplyNumbers, LogNumbers, Moment, Request, Status};
pub use perform::perform;
pub use server::{CLIENTS_MAX, ControlSocket, SILENCE, Stopper};

use crate::device::sys::{Node, node};
use crate::error::{Error, Reason, Result};
use crate::volume::format_id;

/// The variable that names the directory of control sockets.
pub const RUN_DIRECTORY_VARIABLE: &str = "ICECORE_RUN_DIR";

/// Where control sockets are: `ICECORE_RUN_DIR`, else `/run/icecore` for root, else `$XDG_RUNTIME_DIR/icecore`.
///
/// # Errors
/// `InvalidSetting` where there is none of them.
pub fn run_directory() -> Result<PathBuf> {
    let said = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = || match rustix::process::geteuid().is_root() {
        true => Some(PathBuf::from("/run/icecore")),
        false => said("XDG_RUNTIME_DIR").map(|runtime| runtime.join("icecore")),
    };
    said(RUN_DIRECTORY_VARIABLE)
        .or_else(own)
        .ok_or_else(|| unfit(Path::new(""), "name the directory of control sockets, or set XDG_RUNTIME_DIR"))
}

fn unfit(directory: &Path, rule: &'static str) -> Error {
    let value = directory.display().to_string();
    Error::new("use control socket", Reason::InvalidSetting { name: RUN_DIRECTORY_VARIABLE, value, rule })
}

/// The socket of the volume of this pool on the device or file at `device`.
fn socket_path(directory: &Path, device: &Path, pool_id: &[u8; 16]) -> Result<PathBuf> {
    let named = |error: Error| error.on(device.display().to_string());
    let metadata = std::fs::metadata(device).map_err(|error| named(failed(&error)))?;
    let place = match node(&metadata).map_err(named)? {
        Node::BlockDevice => format!("{:x}", metadata.rdev()),
        Node::File => format!("{:x}-{:x}", metadata.dev(), metadata.ino()),
    };
    Ok(directory.join(format!("{}-{place}", format_id(pool_id))))
}

fn failed(error: &std::io::Error) -> Error {
    Error::from_io("use control socket", error)
}

/// Whose process is at the other end of a socket, if it may be: this process's own user, or root; to root, anybody.
/// Its number, for messages.
fn peer(stream: &impl AsFd, trusts_all: bool) -> Result<u32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|errno| failed(&errno.into()))?;
    let fits = peer.uid.is_root() || peer.uid == rustix::process::geteuid() || trusts_all;
    if fits {
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    } else {
        Err(Error::new("use control socket", Reason::PermissionDenied))
    }
}
