//! What a device is: its geometry, and the identity by which a caller says that it may be destroyed.
//!
//! Nothing here writes or opens a device. A name such as `/dev/sdb` may mean another disk after the
//! next boot; a serial together with the exact size does not, which is why [`confirm_destroy`] asks for
//! both.

pub(in crate::device) mod sysfs;

use std::fs::{File, Metadata};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::device::sys::{self, Node};
use crate::error::{Error, Reason, Result};
use crate::units::SECTOR_BYTES;
use sysfs::{BlockNode, DeviceNumber, Sysfs, device_number};

/// Where the kernel describes its devices.
const SYSFS: &str = "/sys";

/// Taken where neither the kernel nor a disk says how direct I/O must be aligned: every device and file
/// system in use takes it.
const FALLBACK_BLOCK_BYTES: u32 = 4096;

/// Sizes and abilities of an open block device or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The exact size, in bytes.
    pub size_bytes: u64,
    /// What offsets and lengths must be multiples of, in bytes. For a file, what direct I/O on it asks.
    pub logical_block_bytes: u32,
    /// The unit that is written without reading first, in bytes; at least the logical block.
    pub physical_block_bytes: u32,
    /// The request size that is served best, in bytes; 0 when the device does not say.
    pub optimal_io_bytes: u32,
    /// Whether the device (for a file, the disk under it) has to seek.
    pub rotational: bool,
    /// Whether blocks can be given back. Taken as given for files, whose holes are punched.
    pub discard: bool,
    /// Whether writes may sit in a volatile cache until a flush. Assumed where it is not known.
    pub write_cache: bool,
}

impl Geometry {
    /// The geometry of the open block device or regular file `fd`.
    ///
    /// # Errors
    /// [`Reason::NotABlockDevice`] for anything else, and what the system says.
    pub fn read(fd: BorrowedFd<'_>) -> Result<Self> {
        let metadata = metadata_of(fd)?;
        let sysfs = Sysfs::at(SYSFS);
        match sys::node(&metadata)? {
            Node::BlockDevice => Self::of_block_device(fd, &Queue::of(&sysfs, metadata.rdev())),
            Node::File => {
                let direct = sys::direct_io(fd)?.map(|direct| direct.offset_alignment_bytes);
                Ok(Self::of_file(&metadata, direct, &Queue::of(&sysfs, metadata.dev())))
            }
        }
    }

    fn of_block_device(fd: BorrowedFd<'_>, queue: &Queue) -> Result<Self> {
        let logical = sys::logical_block_bytes(fd)?;
        let physical = sys::physical_block_bytes(fd)?;
        Ok(Self {
            size_bytes: sys::size_bytes(fd)?,
            logical_block_bytes: logical,
            physical_block_bytes: physical.max(logical),
            optimal_io_bytes: sys::optimal_io_bytes(fd)?,
            rotational: sys::is_rotational(fd)?,
            discard: queue.number("discard_max_bytes").is_some_and(|bytes| bytes > 0),
            write_cache: queue.text("write_cache").is_none_or(|mode| mode == "write back"),
        })
    }

    fn of_file(metadata: &Metadata, direct_alignment_bytes: Option<u32>, disk: &Queue) -> Self {
        let bytes = |name| disk.number(name).and_then(|bytes| u32::try_from(bytes).ok());
        let reported = direct_alignment_bytes.filter(|bytes| bytes.is_power_of_two());
        let logical = reported.or_else(|| bytes("logical_block_size")).unwrap_or(FALLBACK_BLOCK_BYTES);
        let logical = logical.max(SECTOR_BYTES as u32);
        Self {
            size_bytes: metadata.len(),
            logical_block_bytes: logical,
            physical_block_bytes: bytes("physical_block_size").unwrap_or(FALLBACK_BLOCK_BYTES).max(logical),
            optimal_io_bytes: u32::try_from(metadata.blksize()).unwrap_or(0),
            rotational: disk.number("rotational") == Some(1),
            discard: true,
            // A flush must reach the file's metadata, even where the disk under it has no cache.
            write_cache: true,
        }
    }
}

/// The request queue of a block device; a partition shares its whole's. Empty where there is none, as
/// under a file of a network file system.
struct Queue(Option<BlockNode>);

impl Queue {
    fn of(sysfs: &Sysfs, raw_device: u64) -> Self {
        let node = sysfs.block(device_number(raw_device));
        Self(node.map(|node| node.whole().unwrap_or(node)))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.as_ref()?.attribute(&format!("queue/{name}"))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// Which device or file a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The path it was asked by.
    pub path: PathBuf,
    /// The disk's serial number, else its worldwide id, else its kernel name; for a partition that of
    /// its whole and `-p` with its number; for a file its base name, symbolic links resolved.
    pub serial: String,
    /// The exact size, in bytes.
    pub size_bytes: u64,
    /// A block device's major and minor number; `None` for a file.
    pub device_number: Option<DeviceNumber>,
}

impl Identity {
    /// The identity of what `path` means now. Opens nothing.
    ///
    /// # Errors
    /// [`Reason::NotFound`], [`Reason::NotABlockDevice`], and what the system says; a block device that
    /// `/sys` does not describe has no identity.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::from_io("identify", &error));
        metadata
            .and_then(|metadata| Self::read(&Sysfs::at(SYSFS), path, &metadata))
            .map_err(|error| named(error, path))
    }

    /// The identity of what was opened at `path`: true of `fd` even where the path has since come to
    /// mean something else.
    ///
    /// # Errors
    /// As for [`Identity::of`].
    pub fn of_open(path: &Path, fd: BorrowedFd<'_>) -> Result<Self> {
        metadata_of(fd)
            .and_then(|metadata| Self::read(&Sysfs::at(SYSFS), path, &metadata))
            .map_err(|error| named(error, path))
    }

    fn read(sysfs: &Sysfs, path: &Path, metadata: &Metadata) -> Result<Self> {
        match sys::node(metadata)? {
            Node::BlockDevice => Self::of_block_device(sysfs, path, device_number(metadata.rdev())),
            Node::File => {
                let resolved = path.canonicalize().map_err(|error| Error::from_io("identify", &error))?;
                let name = resolved.file_name().unwrap_or(resolved.as_os_str());
                Ok(Self {
                    path: path.to_owned(),
                    serial: name.to_string_lossy().into_owned(),
                    size_bytes: metadata.len(),
                    device_number: None,
                })
            }
        }
    }

    fn of_block_device(sysfs: &Sysfs, path: &Path, number: DeviceNumber) -> Result<Self> {
        let unknown = || {
            Error::from_io("identify", &std::io::Error::from_raw_os_error(libc::EOPNOTSUPP))
                .on(sysfs.place(number).display().to_string())
        };
        let node = sysfs.block(number).ok_or_else(unknown)?;
        let sectors = node.attribute("size").and_then(|sectors| sectors.parse::<u64>().ok());
        // `size` counts sectors of 512 bytes, whatever the device's own block is.
        let size_bytes = sectors.ok_or_else(unknown)? * SECTOR_BYTES;
        Ok(Self { path: path.to_owned(), serial: serial(&node), size_bytes, device_number: Some(number) })
    }

    /// What a caller has to say to allow that this is overwritten: `SERIAL:BYTES`.
    pub fn destroy_argument(&self) -> String {
        format!("{}:{}", self.serial, self.size_bytes)
    }
}

fn serial(node: &BlockNode) -> String {
    if let (Some(index), Some(whole)) = (node.partition, node.whole()) {
        return format!("{}-p{index}", serial(&whole));
    }
    // NVMe keeps its serial with the controller and its worldwide id with the namespace, SCSI the
    // latter with the device, virtio the serial with the disk.
    let places = ["serial", "device/serial", "wwid", "device/wwid"];
    places.iter().find_map(|name| node.attribute(name)).unwrap_or_else(|| node.name.clone())
}

/// Lets a caller pass that has named this device exactly.
///
/// `given` is what the caller wrote for `--destroy`. Blanks around the serial do not count, because
/// vendors pad theirs and a script that reads it from `/sys` passes them on.
///
/// # Errors
/// [`Reason::DestroyRequired`] when nothing was given, [`Reason::DestroyMismatch`] when it names
/// another device or size; both say the exact argument that would do.
pub fn confirm_destroy(identity: &Identity, given: Option<&str>) -> Result<()> {
    let expected = identity.destroy_argument();
    let size = identity.size_bytes.to_string();
    let reason = match given {
        None => Reason::DestroyRequired { expected },
        Some(given) => match given.rsplit_once(':') {
            Some((serial, bytes)) if serial.trim() == identity.serial.trim() && bytes == size => {
                return Ok(());
            }
            _ => Reason::DestroyMismatch { given: given.to_owned(), expected },
        },
    };
    Err(named(Error::new("destroy", reason), &identity.path))
}

fn metadata_of(fd: BorrowedFd<'_>) -> Result<Metadata> {
    let system = |error: std::io::Error| Error::from_io("identify", &error);
    File::from(fd.try_clone_to_owned().map_err(system)?).metadata().map_err(system)
}

/// With the path, unless the error already says what it is about.
fn named(error: Error, path: &Path) -> Error {
    if error.place().name.is_some() { error } else { error.on(path.display().to_string()) }
}

#[cfg(test)]
mod tests {
    use super::sysfs::fake::Tree;
    use super::*;
    use std::os::fd::AsFd;

    fn argument(tree: &Tree, number: DeviceNumber) -> String {
        let identity = Identity::of_block_device(&tree.sysfs(), Path::new("/dev/x"), number).unwrap();
        assert_eq!(identity.device_number, Some(number));
        identity.destroy_argument()
    }

    #[test]
    fn the_serial_comes_from_the_first_place_that_has_one() {
        let tree = Tree::new();
        tree.disk("vda", (254, 0), &[("size", "2048"), ("serial", " abc "), ("wwid", "naa.1")]);
        tree.disk("nvme0n1", (259, 0), &[("size", "8"), ("device/serial", "S6  "), ("wwid", "eui.1")]);
        tree.disk("sda", (8, 0), &[("size", "16"), ("device/wwid", "t10.ATA     Disk 1")]);
        tree.disk("vdb", (254, 16), &[("size", "0"), ("serial", "   "), ("wwid", "naa.2")]);
        tree.disk("loop3", (7, 3), &[("size", "10")]);
        assert_eq!(argument(&tree, (254, 0)), "abc:1048576");
        assert_eq!(argument(&tree, (259, 0)), "S6:4096");
        assert_eq!(argument(&tree, (8, 0)), "t10.ATA     Disk 1:8192");
        assert_eq!(argument(&tree, (254, 16)), "naa.2:0");
        assert_eq!(argument(&tree, (7, 3)), "loop3:5120");
    }

    #[test]
    fn a_partition_is_its_whole_with_its_number() {
        let tree = Tree::new();
        tree.disk("sda", (8, 0), &[("size", "100"), ("device/serial", "Z1"), ("sda2/size", "40")]);
        tree.partition("sda", 2, (8, 2));
        assert_eq!(argument(&tree, (8, 2)), "Z1-p2:20480");
    }

    #[test]
    fn a_device_that_sysfs_does_not_describe_has_no_identity() {
        let error = Identity::of_block_device(&Tree::new().sysfs(), Path::new("/dev/x"), (8, 0)).unwrap_err();
        assert!(error.to_string().contains("dev/block/8:0"), "{error}");
    }

    #[test]
    fn a_file_is_its_base_name_and_links_are_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk 1.img");
        std::fs::write(&image, [0; 4096]).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&image, &link).unwrap();
        let identity = Identity::of(&link).unwrap();
        assert_eq!(identity.destroy_argument(), "disk 1.img:4096");
        assert_eq!((identity.path, identity.device_number), (link, None));
        let file = File::open(&image).unwrap();
        assert_eq!(Identity::of_open(&image, file.as_fd()).unwrap().serial, "disk 1.img");
        let geometry = Geometry::read(file.as_fd()).unwrap();
        assert_eq!((geometry.size_bytes, geometry.discard, geometry.write_cache), (4096, true, true));
        assert!(geometry.logical_block_bytes.is_power_of_two() && geometry.logical_block_bytes >= 512);
        assert!(geometry.physical_block_bytes >= geometry.logical_block_bytes);
        let missing = Identity::of(&folder.path().join("none")).unwrap_err();
        assert_eq!(*missing.reason(), Reason::NotFound);
        let directory = Identity::of(folder.path()).unwrap_err();
        assert_eq!(*directory.reason(), Reason::NotABlockDevice { found: "directory" });
    }

    #[test]
    fn a_file_aligns_to_what_is_reported_else_to_the_disk_else_to_4096() {
        let file = tempfile::tempfile().unwrap();
        let metadata = file.metadata().unwrap();
        let tree = Tree::new();
        let queue = [("queue/logical_block_size", "512"), ("queue/rotational", "1")];
        tree.disk("sda", (8, 0), &queue);
        tree.partition("sda", 1, (8, 1));
        let disk = Queue::of(&tree.sysfs(), libc::makedev(8, 1));
        let none = Queue::of(&tree.sysfs(), libc::makedev(0, 45));
        let logical = |direct, queue| Geometry::of_file(&metadata, direct, queue).logical_block_bytes;
        assert_eq!(logical(Some(1024), &disk), 1024);
        assert_eq!(logical(Some(0), &disk), 512);
        assert_eq!(logical(None, &disk), 512);
        assert_eq!(logical(None, &none), 4096);
        assert!(Geometry::of_file(&metadata, None, &disk).rotational);
    }

    #[test]
    fn only_the_exact_argument_confirms() {
        let identity = Identity {
            path: "/dev/sdz".into(),
            serial: "a:b".into(),
            size_bytes: 4096,
            device_number: Some((8, 1)),
        };
        let refusal = |given| confirm_destroy(&identity, given).unwrap_err().reason().clone();
        confirm_destroy(&identity, Some("a:b:4096")).unwrap();
        confirm_destroy(&identity, Some("a:b  :4096")).unwrap();
        let expected = "a:b:4096".to_owned();
        assert_eq!(refusal(None), Reason::DestroyRequired { expected: expected.clone() });
        for wrong in ["", ":", "a:b", "a:b:4095", "a:b:04096", "a:4096", "A:B:4096", "a:b:4096 x", "4096"] {
            let given = wrong.to_owned();
            assert_eq!(refusal(Some(wrong)), Reason::DestroyMismatch { given, expected: expected.clone() });
        }
        let text = confirm_destroy(&identity, None).unwrap_err().to_string();
        assert_eq!(
            text,
            "destroy /dev/sdz: its contents would be lost; if that is meant, pass --destroy a:b:4096"
        );
    }
}
