//! Refusals, geometry and identity of real loop devices, with each refusal's control: once its cause is
//! gone, the same call succeeds.
//!
//! Needs root and free loop devices; says so and passes where there are none. A file system is made
//! with `mke2fs`, swap with `mkswap`, partitions with `addpart`.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use icecore::device::identity::{Geometry, Identity, confirm_destroy};
use icecore::device::safety::refuse_if_in_use;
use icecore::device::sys::{self, Access, Caching};
use icecore::error::{Kind, Reason};

const MIB: u64 = 1024 * 1024;

fn run(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next()?).args(words).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

fn must(line: &str) -> String {
    run(line).unwrap_or_else(|| panic!("{line} failed"))
}

/// A command that undoes something when the test ends, however it ends.
struct Undo(String);

impl Drop for Undo {
    fn drop(&mut self) {
        run(&self.0);
    }
}

/// A loop device over a new file, or over something that is there.
struct Loop {
    name: String,
    path: PathBuf,
    backing: PathBuf,
}

impl Loop {
    fn over(backing: &Path, sector_bytes: u32) -> Option<Self> {
        let path = run(&format!("losetup -f --show -b {sector_bytes} {}", backing.display()))?;
        let name = path.strip_prefix("/dev/")?.to_owned();
        Some(Self { name, path: path.into(), backing: backing.to_owned() })
    }

    fn partition(&self, index: u32) -> PathBuf {
        format!("{}p{index}", self.path.display()).into()
    }

    /// Whether the kernel still shows our backing file; afterwards another test may get the device.
    fn is_attached(&self) -> bool {
        let shown = std::fs::read_to_string(format!("/sys/block/{}/loop/backing_file", self.name));
        shown.is_ok_and(|shown| shown.trim().trim_end_matches(" (deleted)") == self.backing.to_string_lossy())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(&format!("losetup -d {}", self.path.display()));
        // Whoever looks at the device just then, as udev does, delays it.
        for _ in 0..200 {
            if !self.is_attached() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A folder with an image of 64 MiB and a loop device over it, or `None` with the reason printed.
fn loop_device(sector_bytes: u32) -> Option<(tempfile::TempDir, PathBuf, Loop)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: not root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    match Loop::over(&image, sector_bytes) {
        Some(device) => Some((folder, image, device)),
        None => {
            println!("skipped: no loop device to be had");
            None
        }
    }
}

fn mount(device: &Path, point: &Path) -> Undo {
    must(&format!("mke2fs -q -F -t ext4 {}", device.display()));
    std::fs::create_dir_all(point).unwrap();
    must(&format!("mount {} {}", device.display(), point.display()));
    Undo(format!("umount {}", point.display()))
}

/// Two partitions of 16 MiB, made known to the kernel without a table on the disk.
fn add_partitions(device: &Loop) -> Option<[Undo; 2]> {
    let path = device.path.display();
    let add = |index: u32, start_sector: u32| {
        run(&format!("addpart {path} {index} {start_sector} 32768"))?;
        // udev, or the kernel's devtmpfs, makes the node; both take a moment at most.
        for _ in 0..200 {
            if std::fs::metadata(device.partition(index)).is_ok_and(|node| node.file_type().is_block_device())
            {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Some(Undo(format!("delpart {path} {index}")))
    };
    Some([add(1, 2048)?, add(2, 65536)?])
}

fn refusal(path: &Path) -> Option<Reason> {
    refuse_if_in_use(path).err().map(|error| {
        assert_eq!(error.kind(), Kind::Denied, "{error}");
        error.reason().clone()
    })
}

fn cannot_open(path: &Path) -> bool {
    match sys::open(path, Access::Exclusive, Caching::Direct) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(*error.reason(), Reason::AlreadyOpen, "{error}");
            true
        }
    }
}

/// Free, or at least soon: a process that another test starts has copies of all descriptors for a moment.
fn is_free(path: &Path) -> bool {
    (0..100).any(|_| {
        let free = !cannot_open(path);
        if !free {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        free
    })
}

fn mounted(device: &Path, point: &Path) -> Option<Reason> {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    Some(Reason::Mounted { device: text(device), mount_point: text(point) })
}

fn held(device: &Path, holder: &str) -> Option<Reason> {
    Some(Reason::Held { device: device.to_str().unwrap().into(), holder: holder.into() })
}

#[test]
fn a_mounted_device_is_refused_by_any_of_its_names() {
    let Some((folder, _, device)) = loop_device(512) else { return };
    let alias = folder.path().join("alias");
    std::os::unix::fs::symlink(&device.path, &alias).unwrap();
    // Another node of the same number, whose name says nothing.
    let node = folder.path().join("node");
    let raw = std::fs::metadata(&device.path).unwrap().rdev();
    must(&format!("mknod {} b {} {}", node.display(), libc::major(raw), libc::minor(raw)));
    let names = [&device.path, &alias, &node];
    let point = folder.path().join("point");
    assert!(names.iter().all(|name| refusal(name).is_none() && is_free(name)));
    let unmount = mount(&device.path, &point);
    for name in names {
        assert_eq!(refusal(name), mounted(&device.path, &point));
        assert!(cannot_open(name));
        // A look is allowed.
        sys::open(name, Access::ReadOnly, Caching::Direct).unwrap();
    }
    drop(unmount);
    assert!(names.iter().all(|name| refusal(name).is_none() && is_free(name)));
}

#[test]
fn a_mounted_partition_refuses_its_whole_but_not_its_sibling() {
    let Some((folder, _, device)) = loop_device(512) else { return };
    let Some(_partitions) = add_partitions(&device) else {
        println!("skipped: no partitions on loop devices here");
        return;
    };
    let (first, second) = (device.partition(1), device.partition(2));
    let point = folder.path().join("point");
    for path in [&device.path, &first, &second] {
        assert_eq!(refusal(path), None);
    }
    let unmount = mount(&first, &point);
    assert_eq!(refusal(&first), mounted(&first, &point));
    assert_eq!(refusal(&device.path), mounted(&first, &point));
    assert_eq!(refusal(&second), None);
    // The kernel's guard agrees.
    assert!(cannot_open(&first) && cannot_open(&device.path) && is_free(&second));
    drop(unmount);
    for path in [&device.path, &first, &second] {
        assert_eq!(refusal(path), None);
        assert!(is_free(path));
    }
    let size = 32768 * 512;
    let identity = Identity::of(&second).unwrap();
    assert_eq!(identity.destroy_argument(), format!("{}-p2:{size}", device.name));
    let fd = sys::open(&second, Access::ReadOnly, Caching::Direct).unwrap().fd;
    assert_eq!(Geometry::read(fd.as_fd()).unwrap().size_bytes, size);
}

#[test]
fn swap_is_refused() {
    let Some((_folder, _, device)) = loop_device(512) else { return };
    must(&format!("mkswap -q {}", device.path.display()));
    assert_eq!(refusal(&device.path), None);
    if run(&format!("swapon {}", device.path.display())).is_none() {
        println!("skipped: no swap here");
        return;
    }
    let off = Undo(format!("swapoff {}", device.path.display()));
    let swapped = Reason::UsedAsSwap { device: device.path.to_str().unwrap().into() };
    assert_eq!(refusal(&device.path), Some(swapped));
    assert!(cannot_open(&device.path));
    drop(off);
    assert_eq!(refusal(&device.path), None);
}

#[test]
fn a_loop_device_holds_the_device_or_file_behind_it() {
    let Some((folder, image, device)) = loop_device(512) else { return };
    assert_eq!(refusal(&image), held(&image, &device.name));
    let other_name = folder.path().join("hard link");
    std::fs::hard_link(&image, &other_name).unwrap();
    assert_eq!(refusal(&other_name), held(&other_name, &device.name));
    // The name that the kernel shows is gone, the file is not.
    std::fs::remove_file(&image).unwrap();
    assert_eq!(refusal(&other_name), held(&other_name, &device.name));
    // A new file of the old name is another one.
    File::create(&image).unwrap().set_len(MIB).unwrap();
    assert_eq!(refusal(&image), None);

    let Some(upper) = Loop::over(&device.path, 512) else { return };
    assert_eq!(refusal(&device.path), held(&device.path, &upper.name));
    assert_eq!(refusal(&upper.path), None);
    let point = folder.path().join("point");
    let unmount = mount(&upper.path, &point);
    assert_eq!(refusal(&device.path), mounted(&upper.path, &point));
    drop(unmount);
    drop(upper);
    assert_eq!(refusal(&device.path), None);
    drop(device);
    assert_eq!(refusal(&other_name), None);
}

#[test]
fn two_loop_devices_over_one_file_hold_each_other() {
    let Some((_folder, image, device)) = loop_device(512) else { return };
    assert_eq!(refusal(&device.path), None);
    let Some(second) = Loop::over(&image, 512) else { return };
    assert_eq!(refusal(&device.path), held(&image, &second.name));
    assert_eq!(refusal(&second.path), held(&image, &device.name));
    drop(second);
    assert_eq!(refusal(&device.path), None);
}

#[test]
fn the_second_exclusive_opener_is_refused() {
    let Some((_folder, _, device)) = loop_device(512) else { return };
    let first = sys::open(&device.path, Access::Exclusive, Caching::Direct).unwrap();
    let error = sys::open(&device.path, Access::Exclusive, Caching::Direct).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::Busy, &Reason::AlreadyOpen));
    // Having it open oneself is no use by somebody else.
    assert_eq!(refusal(&device.path), None);
    sys::open(&device.path, Access::ReadOnly, Caching::Direct).unwrap();
    drop(first);
    assert!(is_free(&device.path));
}

#[test]
fn geometry_and_identity_are_the_devices_own() {
    for sector_bytes in [512, 4096] {
        let Some((_folder, image, device)) = loop_device(sector_bytes) else { return };
        let fd = sys::open(&device.path, Access::Exclusive, Caching::Direct).unwrap().fd;
        let geometry = Geometry::read(fd.as_fd()).unwrap();
        assert_eq!((geometry.size_bytes, geometry.logical_block_bytes), (64 * MIB, sector_bytes));
        assert!(geometry.physical_block_bytes >= sector_bytes);
        assert!(sys::minimum_io_bytes(fd.as_fd()).unwrap() >= sector_bytes);
        let direct = sys::direct_io(fd.as_fd()).unwrap();
        assert!(direct.is_none_or(|direct| direct.offset_alignment_bytes == sector_bytes));

        let identity = Identity::of(&device.path).unwrap();
        assert_eq!(identity, Identity::of_open(&device.path, fd.as_fd()).unwrap());
        let raw = std::fs::metadata(&device.path).unwrap().rdev();
        assert_eq!(identity.device_number, Some((libc::major(raw), libc::minor(raw))));
        let argument = format!("{}:{}", device.name, 64 * MIB);
        assert_eq!(identity.destroy_argument(), argument);
        confirm_destroy(&identity, Some(&argument)).unwrap();
        let wrong = confirm_destroy(&identity, Some("loop99:1")).unwrap_err();
        assert!(wrong.to_string().contains(&argument), "{wrong}");
        assert_eq!(Identity::of(&image).unwrap().destroy_argument(), format!("disk.img:{}", 64 * MIB));
    }
}
