//! Another system's snapshots, behind a program that the user gives: it makes a device or an NBD export, takes its snapshots, and shows
//! them. The runner measures that as it measures a bare one, so that one load serves all.
//!
//! The program is called with one or two arguments, must end by itself, and says what went wrong on stderr:
//!
//! | arguments | does | prints |
//! |---|---|---|
//! | `check` | fails where it cannot run here, and says what is missing | |
//! | `describe` | | lines `durability: …`, and `reference: PEER`, or `self`: what it is held against |
//! | `prepare BYTES` | takes away what an earlier call has left and makes a device of that size, without snapshots | its path or NBD address |
//! | `take NAME` | takes a snapshot: of a device, which the runner has open; of an export, to which nobody is connected | of an export, the address from then on |
//! | `show NAME` | | the path or address of what shows it |
//! | `remove` | takes everything away again | |
//!
//! What it may write over is in `PEERS_DEVICE`, where the runner lends it a device (`bench-runner peers`).
//!
//! Invariant: nothing of its device is written that the program has not said is there to be lost.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use icecore::device::{Access, Caching, Device, Identity};
use icecore::runtime::Runtime;

use super::subject::Subject;
use crate::arms::Arm;
use crate::arms::target::Bare;
use crate::child;
use crate::failure::Failure;
use crate::interrupt;
use crate::nbd::{Address, ConnectOptions, Export};

/// What a call of the program may take.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Most characters of its messages that an error repeats.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// Another system.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// The program's name, under which it stands in results.
    pub name: String,
    program: PathBuf,
    /// What it may write over.
    device: Option<PathBuf>,
    /// What it says of itself.
    pub description: Description,
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    /// When what was written is durable.
    pub durability: String,
    /// The peer that it is held against; `self` where it is one that others are.
    pub reference: Option<String>,
}

/// Without its device, which may have another path when a run is gone on with: what is shown is part of a plan's digest.
impl fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, program, device: _, description } = self;
        write!(formatter, "{name} {program:?} {description:?}")
    }
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
        Ok(Self { name, program, device: None, description: Description::default() })
    }

    /// The same, on a device that it may write over, with what it says of itself.
    ///
    /// # Errors
    /// It cannot run here; the message says what is missing.
    pub fn lent(self, device: &Path) -> Result<Self, Failure> {
        let lent = Self { device: Some(device.to_owned()), ..self };
        lent.call(&["check"])?;
        Ok(Self { description: lent.describe()?, ..lent })
    }

    /// Whether others are held against it: it keeps no snapshots.
    pub fn is_reference(&self) -> bool {
        self.description.reference.as_ref() == Some(&self.name)
    }

    /// What it says of itself.
    fn describe(&self) -> Result<Description, Failure> {
        let printed = self.call(&["describe"])?;
        let value = |name: &str| {
            let rest = printed.lines().find_map(|line| line.strip_prefix(name))?;
            Some(rest.trim().to_owned())
        };
        Ok(Description {
            durability: value("durability:").unwrap_or_else(|| "not told".to_owned()),
            reference: value("reference:").map(|name| if name == "self" { self.name.clone() } else { name }),
        })
    }

    /// Has a device or an export made and takes it.
    ///
    /// # Errors
    /// What the program, the device or the server says.
    pub fn prepare(&self, runtime: &Runtime, size_bytes: u64) -> Result<Subject, Failure> {
        let path = self.path(&["prepare", &size_bytes.to_string()])?;
        if let Some(address) = Address::of(&path)? {
            return self.connect(runtime, &address, size_bytes, false);
        }
        let destroy = Identity::of(&path)?.destroy_argument();
        let device = Device::claim(runtime.context(), &path, Some(&destroy), Caching::Direct)?;
        self.whole(&device, &path, size_bytes)
    }

    /// Has a snapshot taken. Gives the address of an export from then on.
    ///
    /// # Errors
    /// What the program says.
    pub fn take(&self, name: &str) -> Result<Option<Address>, Failure> {
        Address::of(Path::new(self.call(&["take", name])?.trim()))
    }

    /// What a snapshot shows.
    ///
    /// # Errors
    /// What the program, the device or the server says.
    pub fn image(&self, runtime: &Runtime, name: &str, size_bytes: u64) -> Result<Subject, Failure> {
        let path = self.path(&["show", name])?;
        if let Some(address) = Address::of(&path)? {
            return self.connect(runtime, &address, size_bytes, true);
        }
        let device = Device::open(runtime.context(), &path, Access::ReadOnly, Caching::Direct)?;
        self.whole(&device, &path, size_bytes)
    }

    /// Connects to an export that the program has made.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(
        &self,
        runtime: &Runtime,
        address: &Address,
        size_bytes: u64,
        read_only: bool,
    ) -> Result<Subject, Failure> {
        let options = ConnectOptions { read_only, ..ConnectOptions::default() };
        let export = runtime.block_on(Export::connect(runtime.context(), address, options))?;
        self.enough(export.agreed().size_bytes, &address.to_string(), size_bytes)?;
        Ok(Subject::Export(export))
    }

    /// Has everything taken away, also when a signal has come.
    ///
    /// # Errors
    /// What the program says.
    pub fn remove(&self) -> Result<(), Failure> {
        let output = self.command(&["remove"]).output();
        let output =
            output.map_err(|error| Failure::environment(format!("{} remove: {error}", self.name)))?;
        self.ended_well("remove", &output).map(drop)
    }

    fn whole(&self, device: &Device, path: &Path, size_bytes: u64) -> Result<Subject, Failure> {
        self.enough(device.geometry().size_bytes, &path.display().to_string(), size_bytes)?;
        Ok(Subject::Bare(Bare::new(device, 0)))
    }

    fn enough(&self, has_bytes: u64, what: &str, size_bytes: u64) -> Result<(), Failure> {
        if has_bytes < size_bytes {
            let message = format!("{}: {what} has {has_bytes} bytes, not {size_bytes}", self.name);
            return Err(Failure::environment(message));
        }
        Ok(())
    }

    /// The path or address that a call prints.
    fn path(&self, arguments: &[&str]) -> Result<PathBuf, Failure> {
        let printed = self.call(arguments)?;
        let path = Path::new(printed.trim());
        if !path.is_absolute() && Address::of(path)?.is_none() {
            let message =
                format!("{} {} printed no absolute path or address", self.name, arguments.join(" "));
            return Err(Failure::environment(message));
        }
        Ok(path.to_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        if let Some(device) = &self.device {
            command.env("PEERS_DEVICE", device);
        }
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<String, Failure> {
        let call = format!("{} {}", self.program.display(), arguments.join(" "));
        let output = child::output(self.command(arguments), Some(CALL_LIMIT))
            .map_err(|error| Failure::environment(format!("{call}: {error}")))?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        self.ended_well(&arguments.join(" "), &output)
    }

    fn ended_well(&self, arguments: &str, output: &std::process::Output) -> Result<String, Failure> {
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let message: String = message.trim().chars().take(MESSAGE_CHARS_MAX).collect();
            let program = self.program.display();
            return Err(Failure::environment(format!("{program} {arguments}: {}: {message}", output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
