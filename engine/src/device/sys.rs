//! The system calls that the standard library has no safe form of: the block device ioctls, `statx`
//! for the alignment of direct I/O, `statfs` for a file system's name, and the one way a device or a
//! file is opened.
//!
//! The only module in `device/` with `unsafe`. Nothing here decides anything about safety of data:
//! `safety` asks whether a device is in use, and [`open`] is the guard the kernel itself enforces.

#![allow(clippy::disallowed_methods, reason = "devices are the engine's door to files")]
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Reason, Result};
use crate::runtime::Claim;

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read and write, and nobody else may open it exclusively or mount it meanwhile.
    Exclusive,
    /// To read, and nobody else may open it exclusively or mount it meanwhile. Needs no permission to write.
    ExclusiveReadOnly,
    /// To look only. Never fails because somebody else has it open.
    ReadOnly,
}

/// Whether requests pass by the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// `O_DIRECT`, or an error where it is not to be had.
    Direct,
    /// Through the page cache. Only for callers that asked for it; shown in status and results.
    PageCache,
}

/// What a path that can hold a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A block device: a disk, a partition, a loop device.
    BlockDevice,
    /// A regular file.
    File,
}

/// What a device or file asks of direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectIo {
    /// What offsets and lengths must be multiples of, in bytes; 0 when it cannot do direct I/O.
    pub offset_alignment_bytes: u32,
    /// What memory addresses must be multiples of, in bytes; 0 when it cannot do direct I/O.
    pub memory_alignment_bytes: u32,
}

/// What stands behind a loop device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopStatus {
    /// The file system that holds the backing file's node (`st_dev`).
    pub device: u64,
    /// The backing file's inode in it (`st_ino`).
    pub inode: u64,
    /// The backing block device (`st_rdev`), 0 when the backing is a regular file.
    pub raw_device: u64,
}

/// What the node with this metadata is.
///
/// # Errors
/// [`Reason::NotABlockDevice`], naming what it is, when it is neither a block device nor a file.
pub fn node(metadata: &Metadata) -> Result<Node> {
    let kind = metadata.file_type();
    let found = if kind.is_block_device() {
        return Ok(Node::BlockDevice);
    } else if kind.is_file() {
        return Ok(Node::File);
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_char_device() {
        "character device"
    } else if kind.is_fifo() {
        "pipe"
    } else {
        "socket"
    };
    Err(Error::new("open", Reason::NotABlockDevice { found }))
}

/// An open device or file.
#[derive(Debug)]
pub struct Opened {
    /// Where requests go.
    pub fd: OwnedFd,
    /// What keeps others out, until it is closed; with exclusive access only.
    pub claim: Option<Claim>,
}

/// Opens the block device or regular file at `path` (`O_CLOEXEC`, and `O_DIRECT` unless the caller asked for
/// the page cache).
///
/// Exclusive access opens it a second time to keep others out: a block device `O_EXCL`, which the kernel
/// refuses while the device, one of its partitions or the whole it is part of is mounted, used as swap,
/// claimed by another device or opened exclusively by somebody; a regular file, for which `O_EXCL` means
/// nothing, is locked with `flock`. A descriptor of its own, because the kernel's ring may go on holding the other
/// one after it was closed.
///
/// # Errors
/// [`Reason::AlreadyOpen`], [`Reason::NoDirectIo`] naming the file system, [`Reason::NotFound`],
/// [`Reason::NotABlockDevice`], [`Reason::PermissionDenied`], and whatever else the system says.
pub fn open(path: &Path, access: Access, caching: Caching) -> Result<Opened> {
    open_nodes(path, access, caching).map_err(|error| error.on(path.display().to_string()))
}

fn open_nodes(path: &Path, access: Access, caching: Caching) -> Result<Opened> {
    // Looked at before it is opened: opening a pipe waits, opening a character device may act.
    let looked_at = std::fs::metadata(path).map_err(system)?;
    let kind = node(&looked_at)?;
    // The path is used more than once: what is opened must be what was looked at.
    let same = |file: File| {
        let found = file.metadata().map_err(system)?;
        let place = |of: &Metadata| (of.dev(), of.ino(), of.rdev(), of.mode() & libc::S_IFMT);
        if place(&found) == place(&looked_at) {
            Ok(file)
        } else {
            Err(Error::new("open", Reason::DeviceGone))
        }
    };
    let claim = match access {
        Access::ReadOnly => None,
        Access::Exclusive | Access::ExclusiveReadOnly => {
            let flags = if kind == Node::BlockDevice { libc::O_EXCL } else { 0 };
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
            let file = same(file.map_err(system)?)?;
            if kind == Node::File {
                lock(&file)?;
            }
            Some(Claim(file))
        }
    };
    let direct = caching == Caching::Direct;
    let flags = if direct { libc::O_DIRECT } else { 0 };
    // The standard library adds O_CLOEXEC to every descriptor it opens.
    let writes = access == Access::Exclusive;
    let opened = OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) if direct && kind == Node::File => no_direct_io(path),
        _ => system(error),
    })?;
    let fd = OwnedFd::from(same(file)?);
    // Such a file opens, and then fails or silently buffers every request.
    if kind == Node::File
        && direct
        && direct_io(borrow(&fd))?.is_some_and(|direct| direct.offset_alignment_bytes == 0)
    {
        return Err(no_direct_io(path));
    }
    Ok(Opened { fd, claim })
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn system(error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EBUSY) => Error::new("open", Reason::AlreadyOpen),
        _ => Error::from_io("open", &error),
    }
}

fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

fn lock(file: &File) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::new("open", Reason::AlreadyOpen)),
        Err(TryLockError::Error(error)) => Err(Error::from_io("open", &error)),
    }
}

fn no_direct_io(path: &Path) -> Error {
    Error::new("open", Reason::NoDirectIo { filesystem: filesystem_name(path) })
}

/// The exact size of a block device, in bytes.
///
/// # Errors
/// Whatever the system says, as for the functions below.
pub fn size_bytes(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64, whatever the size_t in its definition says.
    unsafe { read_ioctl::<u64>(fd, BLKGETSIZE64, "read the size of") }
}

/// The smallest unit a block device can be addressed in, in bytes.
pub fn logical_block_bytes(fd: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: BLKSSZGET writes one int.
    let bytes = unsafe { read_ioctl::<libc::c_int>(fd, libc::BLKSSZGET, "read the logical block size of") }?;
    Ok(bytes.unsigned_abs())
}

/// The unit a block device writes without reading first, in bytes.
pub fn physical_block_bytes(fd: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: BLKPBSZGET writes one unsigned int.
    unsafe { read_ioctl::<libc::c_uint>(fd, libc::BLKPBSZGET, "read the physical block size of") }
}

/// The smallest request a block device serves without a penalty, in bytes.
pub fn minimum_io_bytes(fd: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: BLKIOMIN writes one unsigned int.
    unsafe { read_ioctl::<libc::c_uint>(fd, libc::BLKIOMIN, "read the minimum request of") }
}

/// The request size a block device serves best, in bytes; 0 when it does not say.
pub fn optimal_io_bytes(fd: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: BLKIOOPT writes one unsigned int.
    unsafe { read_ioctl::<libc::c_uint>(fd, libc::BLKIOOPT, "read the optimal request of") }
}

/// Whether a block device says that it has to seek.
pub fn is_rotational(fd: BorrowedFd<'_>) -> Result<bool> {
    // SAFETY: BLKROTATIONAL writes one unsigned short.
    let value = unsafe { read_ioctl::<libc::c_ushort>(fd, BLKROTATIONAL, "read the kind of") }?;
    Ok(value != 0)
}

/// What stands behind the loop device `fd`, or `None` when nothing does.
pub fn loop_status(fd: BorrowedFd<'_>) -> Result<Option<LoopStatus>> {
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64, whose layout `LoopInfo64` repeats.
    let info = unsafe { read_ioctl::<LoopInfo64>(fd, LOOP_GET_STATUS64, "read the backing of") };
    match info {
        Ok(info) => {
            Ok(Some(LoopStatus { device: info.device, inode: info.inode, raw_device: info.raw_device }))
        }
        Err(error) if *error.reason() == Reason::DeviceGone => Ok(None),
        Err(error) => Err(error),
    }
}

/// What direct I/O on `fd` must be aligned to, or `None` where the kernel or the file system does not
/// say (before Linux 6.1, and some file systems since).
pub fn direct_io(fd: BorrowedFd<'_>) -> Result<Option<DirectIo>> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open for the length of the borrow, the path is an empty C string as
    // AT_EMPTY_PATH wants it, and the kernel writes one statx into memory of that size.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(last_error("read the alignment of"));
    }
    // SAFETY: all-zero bytes are a valid statx, and the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.stx_mask & libc::STATX_DIOALIGN != 0).then_some(DirectIo {
        offset_alignment_bytes: stat.stx_dio_offset_align,
        memory_alignment_bytes: stat.stx_dio_mem_align,
    }))
}

/// The type of the file system that holds `path`, for people: `tmpfs`, or its number where it is not
/// one of the usual ones.
pub fn filesystem_name(path: &Path) -> String {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return "the file system".into();
    };
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is a C string and the kernel writes one statfs into memory of that size.
    let result = unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) };
    if result != 0 {
        return "the file system".into();
    }
    // SAFETY: all-zero bytes are a valid statfs, and the kernel has filled it in.
    let stat = unsafe { stat.assume_init() };
    // The magic is 32 bits; the field's type and sign differ between architectures.
    let magic = stat.f_type as u32;
    match FILESYSTEMS.iter().find(|(known, _)| *known == magic) {
        Some((_, name)) => (*name).into(),
        None => format!("file system type {magic:#x}"),
    }
}

/// Magic numbers from the kernel's `magic.h`.
const FILESYSTEMS: [(u32, &str); 20] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x794c_7630, "overlayfs"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x0000_4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x0000_6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x0000_f15f, "ecryptfs"),
];

// Not in libc. A few architectures encode the direction of an ioctl in other bits.
const IOCTL_IN_HIGH_BITS: bool = cfg!(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc",
    target_arch = "sparc64"
));
const IOCTL_NONE: libc::Ioctl = if IOCTL_IN_HIGH_BITS { 0x2000_0000 } else { 0 };
// 0x8000_0000 does not fit libc::Ioctl where that is signed; the cast keeps the bits.
const IOCTL_READ: libc::Ioctl = if IOCTL_IN_HIGH_BITS { 0x4000_0000 } else { 0x8000_0000_u32 as libc::Ioctl };
const BLKGETSIZE64: libc::Ioctl = IOCTL_READ | ((size_of::<usize>() as libc::Ioctl) << 16) | 0x1272;
const BLKROTATIONAL: libc::Ioctl = IOCTL_NONE | 0x127e;
/// The loop driver's numbers are older than the scheme and the same everywhere.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;

/// `struct loop_info64` of the kernel's `loop.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_bytes: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

/// Reads one value of a device.
///
/// # Safety
/// `request` must make the kernel write exactly one `T`, and all-zero bytes must be a valid `T`.
unsafe fn read_ioctl<T: Copy>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    operation: &'static str,
) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the descriptor is open for the length of the borrow, and by this function's contract
    // the kernel writes one T into memory of that size.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, value.as_mut_ptr()) };
    if result < 0 {
        return Err(last_error(operation));
    }
    // SAFETY: all-zero bytes are a valid T by this function's contract; the kernel has filled it in.
    Ok(unsafe { value.assume_init() })
}

fn last_error(operation: &'static str) -> Error {
    Error::from_io(operation, &std::io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn refused(path: &Path, access: Access) -> Reason {
        open(path, access, Caching::Direct).expect_err("it must be refused").reason().clone()
    }

    #[test]
    fn a_file_has_one_exclusive_opener_and_any_number_of_onlookers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [0; 8192]).unwrap();
        let first = open(&path, Access::Exclusive, Caching::Direct).unwrap();
        assert_eq!(refused(&path, Access::Exclusive), Reason::AlreadyOpen);
        open(&path, Access::ReadOnly, Caching::Direct).unwrap();
        drop(first);
        let again = open(&path, Access::Exclusive, Caching::Direct).unwrap();
        if let Some(direct) = direct_io(again.fd.as_fd()).unwrap() {
            assert!(direct.offset_alignment_bytes.is_power_of_two());
            assert!(direct.memory_alignment_bytes.is_power_of_two());
        }
    }

    #[test]
    fn a_file_that_is_claimed_for_reading_has_no_writer_and_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [0; 8192]).unwrap();
        let first = open(&path, Access::ExclusiveReadOnly, Caching::Direct).unwrap();
        for access in [Access::Exclusive, Access::ExclusiveReadOnly] {
            assert_eq!(refused(&path, access), Reason::AlreadyOpen);
        }
        open(&path, Access::ReadOnly, Caching::Direct).unwrap();
        let error = std::os::unix::fs::FileExt::write_at(&File::from(first.fd), &[1; 4096], 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        drop(first.claim);
        let writer = open(&path, Access::Exclusive, Caching::Direct).unwrap();
        assert_eq!(refused(&path, Access::ExclusiveReadOnly), Reason::AlreadyOpen);
        drop(writer);
    }

    #[test]
    fn a_file_is_free_at_once_while_processes_are_being_started() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [0; 8192]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Copies of every descriptor live in each child until it becomes another program.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
            let refused = (0..20_000).find_map(|_| open(&path, Access::Exclusive, Caching::Direct).err());
            done.store(true, Ordering::Relaxed);
            assert!(refused.is_none(), "{refused:?}");
        });
    }

    #[test]
    fn what_cannot_hold_a_volume_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let found = |path: &Path| refused(path, Access::Exclusive);
        assert_eq!(found(folder.path()), Reason::NotABlockDevice { found: "directory" });
        assert_eq!(found(Path::new("/dev/null")), Reason::NotABlockDevice { found: "character device" });
        assert_eq!(found(&folder.path().join("none")), Reason::NotFound);
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(found(&socket), Reason::NotABlockDevice { found: "socket" });
        let error = open(folder.path(), Access::ReadOnly, Caching::Direct).unwrap_err();
        assert_eq!(error.place().name.as_deref(), folder.path().to_str());
    }

    #[test]
    fn a_file_system_without_direct_io_is_named() {
        // procfs files take no O_DIRECT on any kernel.
        let path = Path::new("/proc/self/status");
        let Reason::NoDirectIo { filesystem } = refused(path, Access::ReadOnly) else {
            panic!("procfs does no direct I/O");
        };
        assert!(filesystem.starts_with("file system type 0x9fa0"), "{filesystem}");
        open(path, Access::ReadOnly, Caching::PageCache).unwrap();
    }

    #[test]
    fn an_ioctl_of_a_block_device_fails_on_a_file() {
        let file = tempfile::tempfile().unwrap();
        assert!(size_bytes(file.as_fd()).is_err());
        assert!(loop_status(file.as_fd()).is_err());
    }
}
