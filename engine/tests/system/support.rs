//! Files and loop devices that disappear when a test ends, and runtimes that the system has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use icecore::device::{Access, Caching, Device};
use icecore::error::{Reason, Result};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};

/// A runtime of this mode, or `None` with the reason printed.
pub fn runtime(io_mode: IoMode) -> Option<Runtime> {
    match Runtime::new(RuntimeOptions { io_mode, ..RuntimeOptions::default() }) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// io_uring where the system has it, else blocking calls, said so.
pub fn any_runtime() -> Runtime {
    runtime(IoMode::Uring).or_else(|| runtime(IoMode::Blocking)).unwrap()
}

/// Opens for writing. A killed process's ring gives its files back some milliseconds after it.
pub fn open(runtime: &Runtime, path: &Path) -> Result<Device> {
    let open = || Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct);
    for _ in 0..100 {
        match open() {
            Err(error) if *error.reason() == Reason::AlreadyOpen => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done => return done,
        }
    }
    open()
}

pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

/// Runs a program of the system; its output if it succeeded.
pub fn run(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next()?).args(words).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Somewhere a volume can lie.
pub struct Place {
    pub path: PathBuf,
    /// What it is, for messages.
    pub name: String,
    backing: PathBuf,
    is_loop: bool,
    _folder: tempfile::TempDir,
}

impl Place {
    /// A sparse file.
    pub fn file(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        Self { backing: path.clone(), path, name: "file".into(), is_loop: false, _folder: folder }
    }

    /// A loop device over a sparse file, or `None` with the reason printed.
    pub fn loop_device(bytes: u64, sector_bytes: u32) -> Option<Self> {
        if !is_root() {
            println!("skipped: not root");
            return None;
        }
        let mut file = Self::file(bytes);
        let options = format!("-f --show --direct-io=on -b {sector_bytes}");
        let Some(path) = run(&format!("losetup {options} {}", file.path.display())) else {
            println!("skipped: no loop device to be had");
            return None;
        };
        file.path = path.into();
        file.name = format!("loop, {sector_bytes}");
        file.is_loop = true;
        Some(file)
    }

    /// A file, and loop devices of both sector sizes where there are any.
    pub fn all(bytes: u64) -> Vec<Self> {
        let loops = [512, 4096].map(|sector_bytes| Self::loop_device(bytes, sector_bytes));
        std::iter::once(Self::file(bytes)).chain(loops.into_iter().flatten()).collect()
    }

    /// Everything behind it, past the loop device and every cache.
    pub fn bytes(&self) -> Contents {
        if self.is_loop {
            run(&format!("blockdev --flushbufs {}", self.path.display()));
        }
        Contents(std::fs::read(&self.backing).unwrap())
    }

    /// Changes bytes behind everybody's back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_loop {
            run(&format!("losetup -d {}", self.path.display()));
        }
    }
}

/// Every byte of a place; a failed comparison does not print them.
#[derive(PartialEq)]
pub struct Contents(pub Vec<u8>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
