//! The system's tables of users of devices: mounts, swaps, loop devices. Read once, then only looked
//! up; each entry carries the device number or inode it means, never just a name.

#![allow(clippy::disallowed_methods, reason = "devices are the engine's door to files")]

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{CLAIM, Host};
use crate::device::identity::sysfs::{BlockNode, DeviceNumber, device_number, parse_number};
use crate::device::sys;
use crate::error::{Error, Result};

/// Major 0 is no device: it numbers file systems that have none.
const NO_DEVICE: u32 = 0;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// The block device it is, or major 0 when it is none.
    pub raw_device: DeviceNumber,
}

impl FileId {
    /// From what `stat` says. `st_rdev` of a character device numbers something else and is left out.
    pub fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::FileTypeExt;
        let raw_device =
            if metadata.file_type().is_block_device() { device_number(metadata.rdev()) } else { (0, 0) };
        Self { device: metadata.dev(), inode: metadata.ino(), raw_device }
    }

    /// Whether it is a block device.
    pub fn is_block_device(self) -> bool {
        self.raw_device.0 != NO_DEVICE
    }

    /// Whether both are one node, through whatever path.
    pub fn same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// One mounted file system.
pub struct Mount {
    /// Its device by the kernel's word; major 0 for file systems that hide theirs, as btrfs does.
    number: DeviceNumber,
    /// What its source leads to, where the kernel's word does not say.
    source: Option<DeviceNumber>,
    /// Where it is mounted.
    pub mount_point: String,
}

impl Mount {
    /// The block devices it is known to stand on.
    pub fn devices(&self) -> impl Iterator<Item = DeviceNumber> {
        [Some(self.number), self.source].into_iter().flatten().filter(|number| number.0 != NO_DEVICE)
    }
}

/// One swap area.
pub struct Swap {
    /// Its path, as the kernel shows it.
    pub path: String,
    /// What that leads to; `None` where it has been deleted or lies in another root.
    pub id: Option<FileId>,
}

/// One loop device with something behind it.
pub struct Loop {
    /// The loop device.
    pub node: BlockNode,
    /// The backing file's path, as the kernel shows it.
    pub path: String,
    /// What stands behind it.
    pub backing: FileId,
    offset_bytes: u64,
    /// `None`: to the end of the backing.
    limit_bytes: Option<u64>,
}

impl Loop {
    /// Whether another loop device over the same backing shows some of the same bytes. False for
    /// itself.
    pub fn overlaps(&self, other: &Loop) -> bool {
        let end =
            |one: &Loop| one.limit_bytes.map_or(u64::MAX, |limit| one.offset_bytes.saturating_add(limit));
        self.node.number != other.node.number
            && self.offset_bytes < end(other)
            && other.offset_bytes < end(self)
    }
}

/// Everything read.
pub struct Tables {
    pub mounts: Vec<Mount>,
    pub swaps: Vec<Swap>,
    pub loops: Vec<Loop>,
}

impl Tables {
    pub fn read(host: &Host) -> Result<Self> {
        let mounts = text(&host.proc.join("self/mountinfo"))?;
        // A kernel without swap has no table of swaps.
        let swaps = host.proc.join("swaps");
        let swaps = if swaps.exists() { text(&swaps)? } else { String::new() };
        Ok(Self {
            mounts: mounts.lines().filter_map(|line| mount(line, host)).collect(),
            // The first line is the table's head.
            swaps: swaps.lines().skip(1).filter_map(|line| swap(line, host)).collect(),
            loops: host.sysfs.blocks().into_iter().filter_map(|node| loop_device(node, host)).collect(),
        })
    }

    /// The loop device that `node` is, if it is one with something behind it.
    pub fn loop_of(&self, node: &BlockNode) -> Option<&Loop> {
        self.loops.iter().find(|one| one.node.number == node.number)
    }

    /// The loop devices on `node`, without those that the target itself stands on, and without those
    /// that show other bytes of it than the target's own loop device does.
    pub fn loops_on(&self, node: &BlockNode, bases: &[BlockNode]) -> impl Iterator<Item = BlockNode> {
        let on_it = |one: &&Loop| one.backing.is_block_device() && one.backing.raw_device == node.number;
        let is_base = |one: &Loop| {
            bases.iter().any(|base| base.whole().as_ref().unwrap_or(base).number == one.node.number)
        };
        let own = self.loops.iter().filter(on_it).find(|one| is_base(one));
        let disturbed = move |one: &&Loop| !is_base(one) && own.is_none_or(|own| own.overlaps(one));
        self.loops
            .iter()
            .filter(on_it)
            .filter(disturbed)
            .map(|one| one.node.clone())
            .collect::<Vec<_>>()
            .into_iter()
    }
}

fn text(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).map_err(|error| Error::from_io(CLAIM, &error).on(path.display().to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `36 35 98:0 /root /mount/point options [optional ...] - type source options`
fn mount(line: &str, host: &Host) -> Option<Mount> {
    let fields: Vec<_> = line.split(' ').collect();
    let number = parse_number(fields.get(2)?)?;
    let mount_point = unescape(fields.get(4)?);
    let separator = fields.iter().skip(6).position(|field| *field == "-")? + 6;
    let source = unescape(fields.get(separator + 2).copied().unwrap_or_default());
    // Asked only where the number does not say: looking at a source may mean asking a server.
    let source = (number.0 == NO_DEVICE && source.starts_with('/'))
        .then(|| (host.look)(Path::new(&source)))
        .flatten()
        .map(|id| id.raw_device);
    Some(Mount { number, source, mount_point })
}

/// `/path type size used priority`
fn swap(line: &str, host: &Host) -> Option<Swap> {
    let path = unescape(line.split_whitespace().next()?);
    let id = (host.look)(Path::new(&path));
    Some(Swap { path, id })
}

fn loop_device(node: BlockNode, host: &Host) -> Option<Loop> {
    // Only a loop device with something behind it has this.
    let path = node.attribute("loop/backing_file")?;
    let status = loop_status(&node, &host.dev);
    let backing = match status {
        // Older kernels report a file's own file system here; no block device lies on itself.
        Some(status) if status.raw_device == status.device => {
            FileId { device: status.device, inode: status.inode, raw_device: (0, 0) }
        }
        Some(status) => FileId {
            device: status.device,
            inode: status.inode,
            raw_device: device_number(status.raw_device),
        },
        // The path is as good only while it leads to the same file. A deleted file has ` (deleted)`
        // appended, which leads to nothing unless a file is really called that.
        None => (host.look)(Path::new(&path))?,
    };
    let bytes = |name| node.attribute(name).and_then(|bytes| bytes.parse::<u64>().ok());
    let offset_bytes = bytes("loop/offset").unwrap_or(0);
    let limit_bytes = bytes("loop/sizelimit").filter(|limit| *limit > 0);
    Some(Loop { node, path, backing, offset_bytes, limit_bytes })
}

/// What the driver says is behind a loop device: right for deleted files and in other roots too.
fn loop_status(node: &BlockNode, dev: &Path) -> Option<sys::LoopStatus> {
    let file = File::open(dev.join(&node.name)).ok()?;
    if FileId::of(&file.metadata().ok()?).raw_device != node.number {
        return None;
    }
    sys::loop_status(file.as_fd()).ok().flatten()
}

/// The kernel writes blanks, tabs, newlines, backslashes and hashes in paths as `\` and three octal
/// digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'\\', Some(octal)) = (first, tail.get(..3).and_then(octal)) {
            bytes.push(octal);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_undone_and_nothing_else() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("\\04"), "\\04");
        assert_eq!(unescape("\\999\\"), "\\999\\");
        assert_eq!(unescape(""), "");
    }
}
