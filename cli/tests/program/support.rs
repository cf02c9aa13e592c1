//! Running the program, and devices that disappear when a test ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use icecore::buf::BufPoolOptions;
use icecore::runtime::{Runtime, RuntimeOptions};

pub const MIB: u64 = 1 << 20;

/// What the program said and how it ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap().trim().to_owned()
    }

    /// The one object on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Ended with this code and said this on standard error.
    #[track_caller]
    pub fn refused(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(self.stderr.contains(says), "{says} is not in: {}", self.stderr);
        self
    }
}

/// `--blocking` where the system has no io_uring, so that everything else is tested there too.
pub fn io_flags() -> &'static [&'static str] {
    static FLAGS: OnceLock<&'static [&'static str]> = OnceLock::new();
    FLAGS.get_or_init(|| {
        let buffers = BufPoolOptions { arena_bytes: 0, ..BufPoolOptions::default() };
        match Runtime::new(RuntimeOptions { buffers, ..RuntimeOptions::default() }) {
            Ok(_) => &[],
            Err(error) => {
                println!("with --blocking: {error}");
                &["--blocking"]
            }
        }
    })
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
    command.args(arguments);
    command
}

/// Runs the program as it is, whatever the system has.
pub fn icecore_plain(arguments: &[&str]) -> Ran {
    Ran::of(command(arguments).stdin(Stdio::null()).output().unwrap())
}

/// Runs the program by a way of I/O that the system has.
pub fn icecore(arguments: &[&str]) -> Ran {
    icecore_plain(&[arguments, io_flags()].concat())
}

/// Runs the program with `input` piped in.
pub fn icecore_with(arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = command(&[arguments, io_flags()].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that refuses reads no input.
        let _refused = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Ran::of(output)
}

pub fn write(path: &str, offset: u64, bytes: &[u8]) -> Ran {
    icecore_with(&["write", path, "--offset", &offset.to_string()], bytes)
}

pub fn read(path: &str, offset: u64, length: u64) -> Ran {
    icecore(&["read", path, "--offset", &offset.to_string(), "--length", &length.to_string()])
}

pub fn create(path: &str, destroy: &str, more: &[&str]) -> Ran {
    let base = ["create", "--device", path, "--destroy", destroy, "--backend", "direct"];
    icecore(&[&base, more].concat())
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

#[track_caller]
pub fn must(line: &str) -> String {
    run(line).unwrap_or_else(|| panic!("{line} failed"))
}

/// A process that is killed when the test ends, however it ends.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A command that undoes something when the test ends, however it ends.
pub struct Undo(pub String);

impl Drop for Undo {
    fn drop(&mut self) {
        run(&self.0);
    }
}

/// Every byte of a device; a failed comparison does not print them.
#[derive(PartialEq)]
pub struct Contents(pub Vec<u8>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A file of zeroes in a folder of its own.
pub struct Image {
    folder: tempfile::TempDir,
    pub path: String,
}

impl Image {
    pub fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img").to_str().unwrap().to_owned();
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        Self { folder, path }
    }

    /// A file with a volume on it.
    pub fn with_volume(bytes: u64, more: &[&str]) -> Self {
        let image = Self::new(bytes);
        create(&image.path, &image.destroy(), more).ok();
        image
    }

    pub fn destroy(&self) -> String {
        format!("disk.img:{}", std::fs::metadata(&self.path).unwrap().len())
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn bytes(&self) -> Contents {
        Contents(std::fs::read(&self.path).unwrap())
    }

    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }
}

/// A loop device over an image of 64 MiB, with direct I/O.
pub struct Loop {
    pub image: Image,
    pub name: String,
    pub path: String,
}

impl Loop {
    /// `None`, with the reason printed, where there is none to be had.
    pub fn new(sector_bytes: u32) -> Option<Self> {
        Self::over(Image::new(64 * MIB), &format!("-b {sector_bytes}"))
    }

    /// The same over this image, with these options of `losetup`.
    pub fn over(image: Image, options: &str) -> Option<Self> {
        if !is_root() {
            println!("skipped: not root");
            return None;
        }
        let line = format!("losetup -f --show --direct-io=on {options} {}", image.path);
        let Some(path) = run(&line) else {
            println!("skipped: no loop device to be had");
            return None;
        };
        let name = path.trim_start_matches("/dev/").to_owned();
        Some(Self { image, name, path })
    }

    pub fn destroy(&self) -> String {
        format!("{}:{}", self.name, 64 * MIB)
    }

    /// Everything on the device, read past every cache.
    pub fn bytes(&self) -> Contents {
        must(&format!("blockdev --flushbufs {}", self.path));
        Contents(std::fs::read(&self.path).unwrap())
    }

    fn is_attached(&self) -> bool {
        let shown = std::fs::read_to_string(format!("/sys/block/{}/loop/backing_file", self.name));
        shown.is_ok_and(|shown| shown.trim() == self.image.path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(&format!("losetup -d {}", self.path));
        // Whoever looks at the device just then, as udev does, delays it.
        for _ in 0..200 {
            if !self.is_attached() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Waits until the block device node is there.
pub fn appears(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    (0..200).any(|_| {
        let there = std::fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device());
        if !there {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        there
    })
}

pub fn folder_of(image: &Image, name: &str) -> PathBuf {
    let path = image.folder().join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}
