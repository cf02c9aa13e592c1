//! The kernel's own description of block devices under `/sys`: names, numbers, partitions, holders.
//!
//! Everything starts from a device number, which is the same through every alias of a device; names
//! are only what people are told. The root of the tree is a parameter, so that tests can give a tree
//! of devices that cannot be made at will (disks with serials, md, device-mapper).

#![allow(clippy::disallowed_methods, reason = "devices are the engine's door to files")]

use std::path::{Path, PathBuf};

/// A block device's number: major, minor.
pub type DeviceNumber = (u32, u32);

/// Splits what `stat` reports.
pub fn device_number(raw: u64) -> DeviceNumber {
    (libc::major(raw), libc::minor(raw))
}

/// A tree as mounted at `/sys`.
pub struct Sysfs {
    root: PathBuf,
}

/// One block device: a whole one or a partition.
#[derive(Clone, Debug)]
pub struct BlockNode {
    /// The kernel's name of it, with `/` where the kernel writes `!`.
    pub name: String,
    /// Its number, unique among the devices of a running system.
    pub number: DeviceNumber,
    /// The partition's number within its whole, or `None` for a whole device.
    pub partition: Option<u32>,
    folder: PathBuf,
}

impl Sysfs {
    /// The tree at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the device with this number is described.
    pub fn place(&self, number: DeviceNumber) -> PathBuf {
        self.root.join(format!("dev/block/{}:{}", number.0, number.1))
    }

    /// The device with this number, or `None` when the tree does not have it.
    pub fn block(&self, number: DeviceNumber) -> Option<BlockNode> {
        BlockNode::read(&self.place(number))
    }

    /// Every whole block device.
    pub fn blocks(&self) -> Vec<BlockNode> {
        nodes(&self.root.join("block"))
    }

    /// For each btrfs file system that is mounted, the numbers of all its devices. A mount names only
    /// one of them.
    pub fn btrfs_members(&self) -> Vec<Vec<DeviceNumber>> {
        let members = |filesystem: &PathBuf| {
            let devices = entries(&filesystem.join("devices"));
            devices.iter().filter_map(|device| number_of(device)).collect::<Vec<_>>()
        };
        entries(&self.root.join("fs/btrfs")).iter().map(members).collect()
    }
}

impl BlockNode {
    fn read(folder: &Path) -> Option<Self> {
        // The links lead into the tree of real devices, where a partition lies in its whole's folder.
        let folder = folder.canonicalize().ok()?;
        let number = number_of(&folder)?;
        let name = folder.file_name()?.to_string_lossy().replace('!', "/");
        let partition = match attribute(&folder.join("partition")) {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Self { name, number, partition, folder })
    }

    /// The whole device that this is a partition of, or `None` when it is a whole one itself.
    pub fn whole(&self) -> Option<Self> {
        self.partition?;
        Self::read(self.folder.parent()?)
    }

    /// The partitions of a whole device.
    pub fn partitions(&self) -> Vec<Self> {
        let mut found = nodes(&self.folder);
        found.retain(|node| node.partition.is_some() && node.folder.parent() == Some(&self.folder));
        found
    }

    /// The devices that stand directly on this one: device-mapper, md, bcache.
    pub fn holders(&self) -> Vec<Self> {
        nodes(&self.folder.join("holders"))
    }

    /// The first line of one of its attributes without surrounding blanks, or `None` when it has no
    /// such attribute or an empty one.
    pub fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.folder.join(name))
    }

    /// The path people know it by.
    pub fn device_path(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // So that the same tree always gives the same refusal.
    paths.sort();
    paths
}

fn nodes(folder: &Path) -> Vec<BlockNode> {
    entries(folder).iter().filter_map(|path| BlockNode::read(path)).collect()
}

fn number_of(folder: &Path) -> Option<DeviceNumber> {
    parse_number(&attribute(&folder.join("dev"))?)
}

/// Reads `MAJOR:MINOR`.
pub fn parse_number(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn attribute(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // Vendors pad serials with blanks, zero bytes or worse; none of it can be typed.
    let line: String = text.lines().next()?.chars().filter(|character| !character.is_control()).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A tree of made-up devices for tests.
#[cfg(test)]
pub mod fake {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A tree as `/sys` would show it.
    pub struct Tree {
        folder: tempfile::TempDir,
    }

    impl Tree {
        pub fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for part in ["block", "dev/block", "devices", "fs/btrfs"] {
                std::fs::create_dir_all(folder.path().join(part)).unwrap();
            }
            Self { folder }
        }

        pub fn root(&self) -> &Path {
            self.folder.path()
        }

        pub fn sysfs(&self) -> Sysfs {
            Sysfs::at(self.root())
        }

        /// A whole device with its attributes.
        pub fn disk(&self, name: &str, number: DeviceNumber, attributes: &[(&str, &str)]) {
            let folder = self.root().join("devices").join(name);
            self.node(&folder, number, attributes);
            symlink(&folder, self.root().join("block").join(name)).unwrap();
        }

        /// Partition `index` of `disk`.
        pub fn partition(&self, disk: &str, index: u32, number: DeviceNumber) {
            let folder = self.root().join("devices").join(disk).join(format!("{disk}{index}"));
            self.node(&folder, number, &[("partition", &index.to_string())]);
        }

        /// Lets `holder` (a whole device) stand on `held`, `disk` or `disk/partition`.
        pub fn hold(&self, held: &str, holder: &str) {
            let devices = self.root().join("devices");
            symlink(devices.join(holder), devices.join(held).join("holders").join(holder)).unwrap();
        }

        /// Makes the devices, `disk` or `disk/partition`, members of one mounted btrfs.
        pub fn btrfs(&self, uuid: &str, members: &[&str]) {
            let folder = self.root().join("fs/btrfs").join(uuid).join("devices");
            std::fs::create_dir_all(&folder).unwrap();
            for member in members {
                let name = member.rsplit('/').next().unwrap();
                symlink(self.root().join("devices").join(member), folder.join(name)).unwrap();
            }
        }

        fn node(&self, folder: &Path, number: DeviceNumber, attributes: &[(&str, &str)]) {
            std::fs::create_dir_all(folder.join("holders")).unwrap();
            let dev = format!("{}:{}\n", number.0, number.1);
            std::fs::write(folder.join("dev"), &dev).unwrap();
            symlink(folder, self.root().join("dev/block").join(dev.trim())).unwrap();
            for (name, value) in attributes {
                let path = folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, format!("{value}\n")).unwrap();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_number_and_knows_its_relatives() {
        let tree = fake::Tree::new();
        tree.disk("sda", (8, 0), &[]);
        tree.partition("sda", 1, (8, 1));
        tree.partition("sda", 2, (8, 2));
        tree.disk("dm-0", (252, 0), &[]);
        tree.hold("sda/sda2", "dm-0");
        let sysfs = tree.sysfs();
        let names = |nodes: Vec<BlockNode>| nodes.into_iter().map(|node| node.name).collect::<Vec<_>>();
        let whole = sysfs.block((8, 0)).unwrap();
        assert_eq!(names(whole.partitions()), ["sda1", "sda2"]);
        assert!(whole.whole().is_none());
        assert!(whole.holders().is_empty());
        let second = sysfs.block((8, 2)).unwrap();
        assert_eq!((second.partition, second.whole().unwrap().number), (Some(2), (8, 0)));
        assert_eq!(names(second.holders()), ["dm-0"]);
        assert_eq!(names(sysfs.blocks()), ["dm-0", "sda"]);
        assert!(sysfs.block((8, 3)).is_none());
    }

    #[test]
    fn attributes_are_what_can_be_typed() {
        let tree = fake::Tree::new();
        let attributes = [("serial", "  S123\0\t  "), ("empty", "   "), ("two", "one\ntwo")];
        tree.disk("cciss!c0d0", (104, 0), &attributes);
        let node = tree.sysfs().block((104, 0)).unwrap();
        assert_eq!(node.device_path(), "/dev/cciss/c0d0");
        assert_eq!(node.attribute("serial").as_deref(), Some("S123"));
        assert_eq!(node.attribute("two").as_deref(), Some("one"));
        assert_eq!((node.attribute("empty"), node.attribute("none")), (None, None));
    }
}
