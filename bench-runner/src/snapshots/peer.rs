//! Another system's snapshots, behind a program that the user gives: it makes a device, takes its snapshots, and shows
//! them. The runner measures that device as it measures a bare one, so that one load serves all.
//!
//! The program is called with one or two arguments, must end by itself, and says what went wrong on stderr:
//!
//! | arguments | does | prints |
//! |---|---|---|
//! | `prepare BYTES` | takes away what an earlier call has left and makes a device of that size, without snapshots | its path |
//! | `take NAME` | takes a snapshot of the device, which the runner has open | |
//! | `show NAME` | | the path of a device that shows it |
//! | `remove` | takes everything away again | |
//!
//! Invariant: nothing of its device is written that the program has not said is there to be lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use icecore::device::{Access, Caching, Device, Identity};
use icecore::runtime::Context;

use super::subject::Subject;
use crate::arms::Arm;
use crate::arms::target::Bare;
use crate::child;
use crate::failure::Failure;
use crate::interrupt;

/// What a call of the program may take.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Most characters of its messages that an error repeats.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// Another system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The program's name, under which it stands in results.
    pub name: String,
    program: PathBuf,
}

impl Peer {
    /// The peer behind a program.
    ///
    /// # Errors
    /// There is no such file, or it has a name that already means something in results.
    pub fn of(program: &Path) -> Result<Self, Failure> {
        let shown = program.display();
        let program = program.canonicalize().map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_plain =
            name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-') && !name.is_empty();
        if !is_plain || Arm::from_name(&name).is_ok() {
            return Err(Failure::usage(format!(
                "{shown}: a peer is shown under its program's name, which must be letters, digits and hyphens, and of no \
                 arm of this build"
            )));
        }
        Ok(Self { name, program })
    }

    /// Has a device made and takes it.
    ///
    /// # Errors
    /// What the program or the device says.
    pub fn prepare(&self, context: &Context, size_bytes: u64) -> Result<Subject, Failure> {
        let path = self.path(&["prepare", &size_bytes.to_string()])?;
        let destroy = Identity::of(&path)?.destroy_argument();
        let device = Device::claim(context, &path, Some(&destroy), Caching::Direct)?;
        self.whole(&device, &path, size_bytes)
    }

    /// Has a snapshot taken.
    ///
    /// # Errors
    /// What the program says.
    pub fn take(&self, name: &str) -> Result<(), Failure> {
        self.call(&["take", name]).map(drop)
    }

    /// What a snapshot shows.
    ///
    /// # Errors
    /// What the program or the device says.
    pub fn image(&self, context: &Context, name: &str, size_bytes: u64) -> Result<Subject, Failure> {
        let path = self.path(&["show", name])?;
        let device = Device::open(context, &path, Access::ReadOnly, Caching::Direct)?;
        self.whole(&device, &path, size_bytes)
    }

    /// Has everything taken away.
    ///
    /// # Errors
    /// What the program says.
    pub fn remove(&self) -> Result<(), Failure> {
        self.call(&["remove"]).map(drop)
    }

    fn whole(&self, device: &Device, path: &Path, size_bytes: u64) -> Result<Subject, Failure> {
        let has_bytes = device.geometry().size_bytes;
        if has_bytes < size_bytes {
            let message =
                format!("{}: {} has {has_bytes} bytes, not {size_bytes}", self.name, path.display());
            return Err(Failure::environment(message));
        }
        Ok(Subject::Bare(Bare::new(device, 0)))
    }

    /// The path that a call prints.
    fn path(&self, arguments: &[&str]) -> Result<PathBuf, Failure> {
        let printed = self.call(arguments)?;
        let path = Path::new(printed.trim());
        if !path.is_absolute() {
            let message = format!("{} {} printed no absolute path", self.name, arguments.join(" "));
            return Err(Failure::environment(message));
        }
        Ok(path.to_owned())
    }

    fn call(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        let call = format!("{} {}", self.program.display(), arguments.join(" "));
        let output = child::output(command, Some(CALL_LIMIT))
            .map_err(|error| Failure::environment(format!("{call}: {error}")))?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let message: String = message.trim().chars().take(MESSAGE_CHARS_MAX).collect();
            return Err(Failure::environment(format!("{call}: {}: {message}", output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
