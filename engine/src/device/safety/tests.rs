//! Refusals on made-up systems, with devices that cannot be made at will. Each refusal has its
//! control: the same system without the one cause lets the device pass.

use super::*;
use crate::device::identity::sysfs::fake::Tree;
use std::collections::HashMap;

/// A system of made-up devices and the paths that lead to them.
struct World {
    tree: Tree,
    proc: tempfile::TempDir,
    paths: HashMap<PathBuf, FileId>,
    mounts: String,
    swaps: String,
}

impl World {
    /// sda with two partitions, and sdb.
    fn new() -> Self {
        let tree = Tree::new();
        tree.disk("sda", (8, 0), &[]);
        tree.partition("sda", 1, (8, 1));
        tree.partition("sda", 2, (8, 2));
        tree.disk("sdb", (8, 16), &[]);
        let proc = tempfile::tempdir().unwrap();
        let swaps = "Filename Type Size Used Priority\n".into();
        let mut world = Self {
            tree,
            proc,
            paths: HashMap::new(),
            mounts: "22 27 0:21 / /proc rw - proc proc rw\n".into(),
            swaps,
        };
        for (name, number) in [("sda", (8, 0)), ("sda1", (8, 1)), ("sda2", (8, 2)), ("sdb", (8, 16))] {
            world.path(&format!("/dev/{name}"), number);
        }
        world
    }

    fn path(&mut self, path: &str, raw_device: DeviceNumber) {
        let inode = self.paths.len() as u64 + 100;
        self.paths.insert(path.into(), FileId { device: 5, inode, raw_device });
    }

    fn file(&mut self, path: &str, inode: u64) -> FileId {
        let id = FileId { device: 0x801, inode, raw_device: (0, 0) };
        self.paths.insert(path.into(), id);
        id
    }

    fn mount(&mut self, number: &str, kind: &str, source: &str, point: &str) {
        self.mounts += &format!("30 27 {number} / {point} rw shared:1 - {kind} {source} rw\n");
    }

    fn swap(&mut self, path: &str) {
        self.swaps += &format!("{path}\tpartition\t1024\t0\t-2\n");
    }

    fn host(&self) -> Host {
        std::fs::create_dir_all(self.proc.path().join("self")).unwrap();
        std::fs::write(self.proc.path().join("self/mountinfo"), &self.mounts).unwrap();
        std::fs::write(self.proc.path().join("swaps"), &self.swaps).unwrap();
        let paths = self.paths.clone();
        Host {
            sysfs: self.tree.sysfs(),
            proc: self.proc.path().into(),
            dev: self.proc.path().join("no-dev"),
            look: Box::new(move |path| paths.get(path).copied()),
        }
    }

    fn refused(&self, number: DeviceNumber) -> Option<Reason> {
        self.host().refuse_block_device(number).err().map(|error| error.reason().clone())
    }
}

fn mounted_at(device: &str, mount_point: &str) -> Option<Reason> {
    Some(Reason::Mounted { device: device.into(), mount_point: mount_point.into() })
}

fn held(device: &str, holder: &str) -> Option<Reason> {
    Some(Reason::Held { device: device.into(), holder: holder.into() })
}

fn swapped(device: &str) -> Option<Reason> {
    Some(Reason::UsedAsSwap { device: device.into() })
}

#[test]
fn an_unused_disk_passes() {
    let world = World::new();
    for number in [(8, 0), (8, 1), (8, 2), (8, 16)] {
        assert_eq!(world.refused(number), None);
    }
}

#[test]
fn a_mounted_partition_refuses_itself_and_its_whole_but_not_its_sibling() {
    let mut world = World::new();
    // The source's name lies: only the number counts.
    world.mount("8:1", "ext4", "/dev/root", "/my\\040data");
    assert_eq!(world.refused((8, 1)), mounted_at("/dev/sda1", "/my data"));
    assert_eq!(world.refused((8, 0)), mounted_at("/dev/sda1", "/my data"));
    assert_eq!(world.refused((8, 2)), None);
    assert_eq!(world.refused((8, 16)), None);
}

#[test]
fn a_mounted_whole_refuses_its_partitions() {
    let mut world = World::new();
    world.mount("8:0", "ext4", "/dev/sda", "/");
    assert_eq!(world.refused((8, 2)), mounted_at("/dev/sda", "/"));
}

#[test]
fn btrfs_is_found_by_its_source_and_by_its_members() {
    let mut world = World::new();
    world.mount("0:45", "btrfs", "/dev/sda2", "/data");
    assert_eq!(world.refused((8, 2)), mounted_at("/dev/sda2", "/data"));
    assert_eq!(world.refused((8, 16)), None);
    // No mount names sdb; the file system's list of members does.
    world.tree.btrfs("0f3c", &["sda/sda2", "sdb"]);
    assert_eq!(world.refused((8, 16)), mounted_at("/dev/sdb", "/data"));
    assert_eq!(world.refused((8, 1)), None);
}

#[test]
fn swap_on_a_partition_refuses_itself_and_its_whole_but_not_its_sibling() {
    let mut world = World::new();
    world.swap("/dev/sda2");
    assert_eq!(world.refused((8, 2)), swapped("/dev/sda2"));
    assert_eq!(world.refused((8, 0)), swapped("/dev/sda2"));
    assert_eq!(world.refused((8, 1)), None);
}

#[test]
fn holders_are_followed_to_the_mount_or_swap_on_top() {
    let mut world = World::new();
    world.tree.disk("md0", (9, 0), &[]);
    world.tree.partition("md0", 1, (259, 7));
    world.tree.disk("dm-3", (252, 3), &[]);
    world.tree.hold("sda/sda1", "md0");
    assert_eq!(world.refused((8, 1)), held("/dev/sda1", "md0"));
    assert_eq!(world.refused((8, 0)), held("/dev/sda1", "md0"));
    assert_eq!(world.refused((8, 2)), None);
    assert_eq!(world.refused((9, 0)), None);
    world.tree.hold("md0/md01", "dm-3");
    assert_eq!(world.refused((9, 0)), held("/dev/md01", "dm-3"));
    world.path("/dev/dm-3", (252, 3));
    world.swap("/dev/dm-3");
    assert_eq!(world.refused((8, 1)), swapped("/dev/dm-3"));
    world.mount("252:3", "xfs", "/dev/mapper/home", "/home");
    assert_eq!(world.refused((8, 1)), mounted_at("/dev/dm-3", "/home"));
    assert_eq!(world.refused((8, 0)), mounted_at("/dev/dm-3", "/home"));
    assert_eq!(world.refused((8, 2)), None);
}

#[test]
fn a_whole_that_is_held_refuses_its_partitions() {
    let world = World::new();
    world.tree.disk("dm-0", (252, 0), &[]);
    world.tree.hold("sda", "dm-0");
    assert_eq!(world.refused((8, 1)), held("/dev/sda", "dm-0"));
}

#[test]
fn a_loop_device_on_a_device_holds_it() {
    let mut world = World::new();
    world.tree.disk("loop5", (7, 5), &[("loop/backing_file", "/dev/disk/by-id/x")]);
    assert_eq!(world.refused((8, 16)), None);
    world.path("/dev/disk/by-id/x", (8, 16));
    assert_eq!(world.refused((8, 16)), held("/dev/sdb", "loop5"));
    world.mount("7:5", "ext4", "/dev/loop5", "/mnt");
    assert_eq!(world.refused((8, 16)), mounted_at("/dev/loop5", "/mnt"));
}

#[test]
fn a_loop_device_is_refused_for_what_it_stands_on() {
    let mut world = World::new();
    world.tree.disk("loop5", (7, 5), &[("loop/backing_file", "/dev/sda2")]);
    world.tree.partition("loop5", 1, (259, 1));
    assert_eq!(world.refused((7, 5)), None);
    world.tree.disk("loop6", (7, 6), &[("loop/backing_file", "/dev/loop5")]);
    world.path("/dev/loop5", (7, 5));
    assert_eq!(world.refused((7, 5)), held("/dev/loop5", "loop6"));
    assert_eq!(world.refused((7, 6)), None);
    world.mount("8:2", "ext4", "/dev/sda2", "/mnt");
    assert_eq!(world.refused((7, 6)), mounted_at("/dev/sda2", "/mnt"));
    assert_eq!(world.refused((259, 1)), mounted_at("/dev/sda2", "/mnt"));
}

#[test]
fn loop_devices_over_the_same_bytes_hold_each_other() {
    let mut world = World::new();
    world.file("/image", 9);
    let head = [("loop/backing_file", "/image"), ("loop/offset", "0"), ("loop/sizelimit", "4096")];
    let tail = [("loop/backing_file", "/image"), ("loop/offset", "4096"), ("loop/sizelimit", "0")];
    world.tree.disk("loop1", (7, 1), &head);
    world.tree.disk("loop2", (7, 2), &tail);
    assert_eq!(world.refused((7, 1)), None);
    assert_eq!(world.refused((7, 2)), None);
    world.tree.disk("loop3", (7, 3), &[("loop/backing_file", "/image")]);
    assert_eq!(world.refused((7, 1)), held("/image", "loop3"));
    assert_eq!(world.refused((7, 2)), held("/image", "loop3"));
    assert_eq!(world.refused((7, 3)), held("/image", "loop1"));
}

#[test]
fn a_file_is_refused_as_swap_or_behind_a_loop_device() {
    let mut world = World::new();
    let id = world.file("/swap file", 7);
    let refused = |world: &World| {
        let result = world.host().refuse_file(Path::new("/alias"), id);
        result.err().map(|error| error.reason().clone())
    };
    assert_eq!(refused(&world), None);
    world.tree.disk("loop4", (7, 4), &[("loop/backing_file", "/swap file (deleted)")]);
    assert_eq!(refused(&world), None);
    world.tree.disk("loop5", (7, 5), &[("loop/backing_file", "/swap file")]);
    assert_eq!(refused(&world), held("/alias", "loop5"));
    world.swap("/swap\\040file");
    assert_eq!(refused(&world), swapped("/swap file"));
}

#[test]
fn a_system_that_cannot_be_asked_refuses() {
    let world = World::new();
    let mut host = world.host();
    assert!(host.refuse_block_device((8, 99)).is_err());
    host.proc = "/nowhere".into();
    let error = host.refuse_block_device((8, 16)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/self/mountinfo"), "{error}");
}
