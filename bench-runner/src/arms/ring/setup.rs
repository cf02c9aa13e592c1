//! What the ring arm opens before it measures: the device, the ring, the buffers.
//!
//! Each step has at most one named fallback, and the `io_path` of the outcome says what was used, so that two
//! results made in different ways are never taken for equal ones.
#![allow(unsafe_code, reason = "registering buffers hands their addresses to the kernel")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use io_uring::IoUring;

use super::arena::Arena;
use crate::measure::ArmTask;

/// Most requests in flight. A ring takes 32,768; far below that a deeper queue only adds waiting.
const QUEUE_DEPTH_MAX: u32 = 4096;

/// Span offset and length are multiples of this: the granularity of stamped content and of direct I/O.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// The ring arm could not measure.
#[derive(Debug)]
pub struct RingError {
    /// The device or file.
    pub path: PathBuf,
    /// What failed, as in "read failed".
    pub action: &'static str,
    /// Where on the device, for an operation.
    pub offset_bytes: Option<u64>,
    /// Why; an operating system error keeps its number.
    pub source: io::Error,
}

impl RingError {
    pub(super) fn new(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self { path: path.to_owned(), action, offset_bytes: None, source }
    }

    pub(super) fn invalid(path: &Path, message: String) -> Self {
        Self::new(path, "checking the task", io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path.display(), self.action)?;
        if let Some(offset_bytes) = self.offset_bytes {
            write!(formatter, " at byte {offset_bytes}")?;
        }
        write!(formatter, " failed: {}", self.source)
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Everything a measurement needs open.
pub(super) struct Setup {
    pub(super) file: File,
    pub(super) ring: IoUring,
    pub(super) arena: Arena,
    pub(super) buffers_registered: bool,
    pub(super) io_path: String,
}

impl Setup {
    pub(super) fn new(task: &ArmTask, buffers: usize) -> Result<Self, RingError> {
        let path = task.path.as_path();
        check(task)?;
        let file = open(task)?;
        let (ring, mode) = build_ring(task.queue_depth).map_err(|source| {
            // ENOSYS: no io_uring. EPERM: kernel.io_uring_disabled or a seccomp filter.
            RingError::new(path, "setting up io_uring", source)
        })?;
        ring.submitter()
            .register_files(&[file.as_raw_fd()])
            .map_err(|source| RingError::new(path, "registering the file with io_uring", source))?;
        let arena = Arena::new(buffers, task.workload.operation_bytes_max() as usize)
            .map_err(|source| RingError::new(path, "allocating buffers", source))?;
        let registered = register_buffers(&ring, &arena);
        let buffers_registered = registered.is_ok();
        let buffers = match registered {
            Ok(()) => "registered buffers".to_owned(),
            // The usual reason is the limit on locked memory.
            Err(error) => format!("unregistered buffers ({error})"),
        };
        let io_path = format!("io_uring, O_DIRECT, {mode}, {buffers}, registered file");
        Ok(Self { file, ring, arena, buffers_registered, io_path })
    }
}

fn check(task: &ArmTask) -> Result<(), RingError> {
    let invalid = |message| Err(RingError::invalid(&task.path, message));
    if !(1..=QUEUE_DEPTH_MAX).contains(&task.queue_depth) {
        return invalid(format!("queue depth {} is not within 1..={QUEUE_DEPTH_MAX}", task.queue_depth));
    }
    if !task.span_offset_bytes.is_multiple_of(BLOCK_BYTES) || !task.span_bytes.is_multiple_of(BLOCK_BYTES) {
        return invalid("the span is not aligned to 4 KiB".to_owned());
    }
    // No two writes of one place may be in flight together: with fewer free places than this the arm would
    // mostly search for one, and with none it would search for ever.
    let places = task.span_bytes / u64::from(task.workload.operation_bytes_max());
    if task.workload.writes() && places < 2 * u64::from(task.queue_depth) {
        return invalid(format!(
            "a span of {} bytes is too short for {} writes of {} bytes in flight; it must hold twice as many",
            task.span_bytes,
            task.queue_depth,
            task.workload.operation_bytes_max()
        ));
    }
    Ok(())
}

fn open(task: &ArmTask) -> Result<File, RingError> {
    let path = task.path.as_path();
    let mut file = OpenOptions::new()
        .read(true)
        .write(task.workload.writes())
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|source| RingError::new(path, "opening with O_DIRECT", source))?;
    // Seeking to the end tells the size of block devices too, where metadata says 0.
    let device_bytes =
        file.seek(SeekFrom::End(0)).map_err(|source| RingError::new(path, "asking for the size", source))?;
    match task.span_offset_bytes.checked_add(task.span_bytes) {
        Some(end_bytes) if end_bytes <= device_bytes => Ok(file),
        _ => Err(RingError::invalid(
            path,
            format!(
                "the span of {} bytes from byte {} does not fit into {device_bytes} bytes",
                task.span_bytes, task.span_offset_bytes
            ),
        )),
    }
}

/// A ring with room for one entry a request, in the cheapest mode the kernel has (6.1, 5.19, any).
fn build_ring(entries: u32) -> io::Result<(IoUring, &'static str)> {
    let deferred = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        other => return other.map(|ring| (ring, "single issuer, deferred task run")),
    }
    match IoUring::builder().setup_coop_taskrun().build(entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        other => return other.map(|ring| (ring, "cooperative task run")),
    }
    IoUring::new(entries).map(|ring| (ring, "default task run"))
}

fn register_buffers(ring: &IoUring, arena: &Arena) -> io::Result<()> {
    let buffers: Vec<_> = (0..arena.buffers())
        .map(|buffer| libc::iovec { iov_base: arena.address(buffer).cast(), iov_len: arena.buffer_bytes() })
        .collect();
    // SAFETY: the arena neither moves nor frees its memory before it is dropped, and the driver that owns it
    // drops it only when the kernel holds no request on it (or never).
    unsafe { ring.submitter().register_buffers(&buffers) }
}
