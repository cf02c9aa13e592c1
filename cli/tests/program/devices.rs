//! The program on loop devices, as root: round trips, and every refusal that protects somebody's data. Each
//! refusal leaves every byte of the device as it was, and succeeds once its cause is gone.

use crate::support::*;

#[test]
fn a_volume_on_a_block_device_is_made_shown_written_and_read() {
    for sector_bytes in [512, 4096] {
        let Some(device) = Loop::new(sector_bytes) else { return };
        let id = create(&device.path, &device.destroy(), &["--region-bytes", "64K"]).ok().text();
        let info = icecore(&["inspect", &device.path, "--json"]).ok().json();
        assert_eq!((&info["id"], &info["block_bytes"]), (&id.into(), &4096.into()));
        for (offset, bytes) in [(0, &b"abcdefgh"[..]), (4093, b"across"), (1_000_001, b"unaligned")] {
            write(&device.path, offset, bytes).ok();
            assert_eq!(read(&device.path, offset, bytes.len() as u64).ok().stdout, bytes);
        }
        let small = create(&device.path, &device.destroy(), &["--block-bytes", "512"]);
        if sector_bytes == 512 {
            small.ok();
        } else {
            small.refused(64, "logical block size");
        }
    }
}

/// `create` is refused with this text and changes nothing; a control runs after the cause is gone.
fn is_refused(device: &Loop, path: &str, destroy: &str, says: &str) {
    let before = device.bytes();
    create(path, destroy, &["--force"]).refused(3, says);
    assert!(device.bytes() == before, "a refusal has written to {path}");
}

#[test]
fn a_mounted_device_is_refused() {
    let Some(device) = Loop::new(512) else { return };
    must(&format!("mke2fs -q -F -t ext4 {}", device.path));
    let point = folder_of(&device.image, "point");
    must(&format!("mount -o ro {} {}", device.path, point.display()));
    let unmount = Undo(format!("umount {}", point.display()));
    is_refused(&device, &device.path, &device.destroy(), "is mounted at");
    drop(unmount);
    let before = device.bytes();
    create(&device.path, &device.destroy(), &[]).refused(3, "--force");
    assert!(device.bytes() == before);
    create(&device.path, &device.destroy(), &["--force"]).ok();
}

#[test]
fn the_parent_of_a_mounted_partition_is_refused() {
    let Some(device) = Loop::new(512) else { return };
    let partition = format!("{}p1", device.path);
    if run(&format!("addpart {} 1 2048 65536", device.path)).is_none() || !appears(partition.as_ref()) {
        println!("skipped: no partitions on loop devices here");
        return;
    }
    let delete = Undo(format!("delpart {} 1", device.path));
    must(&format!("mke2fs -q -F -t ext4 {partition}"));
    let point = folder_of(&device.image, "point");
    must(&format!("mount -o ro {partition} {}", point.display()));
    let unmount = Undo(format!("umount {}", point.display()));
    is_refused(&device, &device.path, &device.destroy(), "p1 is mounted at");
    let part = format!("{}-p1:{}", device.name, 65536 * 512);
    is_refused(&device, &partition, &part, "p1 is mounted at");
    drop(unmount);
    create(&partition, &part, &["--force"]).ok();
    write(&partition, 3, b"partition").ok();
    assert_eq!(read(&partition, 3, 9).ok().stdout, b"partition");
    drop(delete);
    create(&device.path, &device.destroy(), &["--force"]).ok();
}

#[test]
fn swap_is_refused() {
    let Some(device) = Loop::new(512) else { return };
    must(&format!("mkswap -q {}", device.path));
    if run(&format!("swapon {}", device.path)).is_none() {
        println!("skipped: no swap here");
        return;
    }
    let off = Undo(format!("swapoff {}", device.path));
    // The kernel may write swap at any time, so only the refusal is compared here.
    create(&device.path, &device.destroy(), &["--force"]).refused(3, "is used as swap");
    drop(off);
    create(&device.path, &device.destroy(), &["--force"]).ok();
}

#[test]
fn a_file_behind_a_loop_device_is_refused() {
    let Some(device) = Loop::new(512) else { return };
    let image = device.image.path.clone();
    is_refused(&device, &image, &device.image.destroy(), &format!("is held by {}", device.name));
    create(&device.path, &device.destroy(), &[]).ok();
    write(&device.path, 0, b"inside").ok();
    // Nor is the volume on it written from behind.
    let before = device.bytes();
    write(&image, 0, b"behind").refused(3, "is held by");
    assert!(device.bytes() == before);
    assert_eq!(read(&image, 0, 6).ok().stdout, b"inside");
}

#[test]
fn an_open_device_is_busy() {
    let Some(device) = Loop::new(512) else { return };
    create(&device.path, &device.destroy(), &[]).ok();
    let runtime = icecore::runtime::Runtime::new(icecore::runtime::RuntimeOptions {
        io_mode: icecore::runtime::IoMode::Blocking,
        ..Default::default()
    })
    .unwrap();
    let path = std::path::Path::new(&device.path);
    let (access, caching) = (icecore::device::Access::Exclusive, icecore::device::Caching::Direct);
    let opened = icecore::device::Device::open(runtime.context(), path, access, caching).unwrap();
    let before = device.bytes();
    write(&device.path, 0, b"second").refused(3, "already open");
    create(&device.path, &device.destroy(), &[]).refused(3, "already open");
    assert!(device.bytes() == before);
    drop(opened);
    write(&device.path, 0, b"second").ok();
}

#[test]
fn a_full_disk_is_told_and_leaves_no_file() {
    let Some(device) = Loop::new(512) else { return };
    must(&format!("mke2fs -q -F -t ext4 -m 0 {}", device.path));
    let point = folder_of(&device.image, "point");
    must(&format!("mount {} {}", device.path, point.display()));
    let _unmount = Undo(format!("umount {}", point.display()));
    let path = point.join("volume.img").to_str().unwrap().to_owned();
    icecore(&["create", "--device", &path, "--create", "1G", "--backend", "direct"]).ok();
    write(&path, 0, b"kept").ok();
    // Fill what is left.
    let mut filler = std::fs::File::create(point.join("filler")).unwrap();
    let piece = vec![1; 1 << 20];
    while std::io::Write::write_all(&mut filler, &piece).is_ok() {}
    drop(filler);
    must("sync");
    let full = write(&path, MIB, &vec![9; 8 << 20]).refused(4, "No space left");
    assert!(full.stderr.contains(&path), "{}", full.stderr);
    // What was there before is there still, and the volume takes writes where there is room.
    assert_eq!(read(&path, 0, 4).ok().stdout, b"kept");
    let second = point.join("second.img").to_str().unwrap().to_owned();
    icecore(&["create", "--device", &second, "--create", "1G", "--backend", "direct"])
        .refused(4, "No space left");
    assert!(!std::fs::exists(&second).unwrap());
    std::fs::remove_file(point.join("filler")).unwrap();
    write(&path, MIB, b"room").ok();
    assert_eq!(read(&path, MIB, 4).ok().stdout, b"room");
}
