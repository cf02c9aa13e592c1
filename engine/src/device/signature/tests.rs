//! Each mark at each of its places, devices too small for it, and what real formatters write.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

fn probe_bytes(image: &[u8]) -> Option<Signature> {
    let read = |at: u64, buffer: &mut [u8]| {
        buffer.copy_from_slice(&image[at as usize..at as usize + buffer.len()]);
        Ok(())
    };
    probe(image.len() as u64, read).unwrap()
}

fn name_of(image: &[u8]) -> Option<&'static str> {
    probe_bytes(image).map(|signature| signature.name)
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

const MIB: usize = 1024 * 1024;

/// The fields beside a short magic number that make it believable.
fn make_plausible(image: &mut [u8], name: &str, at: usize) {
    match name {
        "LVM2 physical volume" => put(image, at + 24, b"LVM2 001"),
        "Linux RAID" => put(image, at + 4, &1_u32.to_le_bytes()),
        "ZFS" if image[at] == 1 => put(image, at + 20, b"\0\0\0\x07version"),
        "ext journal" => put(image, at + 40, &[8]),
        "ext4" => put(image, at + 40, &[0x42]),
        "ext3" => put(image, at + 36, &[4]),
        "HFS+" => put(image, at + 2, &[0, if image[at + 1] == b'+' { 4 } else { 5 }]),
        "HFS" => put(image, at + 18, &[0, 9, 0, 0, 2, 0]),
        "NILFS2" => put(image, at - 6, &[2]),
        "MINIX" => put(image, at - 16, &[100, 0, 0, 0, 1, 0, 1, 0]),
        "FAT" => {
            put(image, 0, &[0xeb, 0x3c, 0x90]);
            put(image, 11, &[0, 2, 4, 1, 0, 2, 0, 2, 0, 8, 0xf8, 1, 0]);
        }
        "MBR" => put(image, 446 + 32, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]),
        _ => {}
    }
    if name.starts_with("ext") {
        put(image, at - 56, &[100]);
    }
}

#[test]
fn every_mark_is_found_at_every_place() {
    // Of several sizes, so that no place is right by accident: odd, and not a multiple of the pieces.
    for size in [3 * MIB, 2 * MIB + 512, 5 * MIB / 2 + 4096 * 7 + 1536] {
        let mut image = vec![0; size];
        for entry in TABLE {
            for place in entry.places {
                let at = place.offset(size as u64).unwrap();
                image.fill(0);
                put(&mut image, at as usize, entry.magic);
                make_plausible(&mut image, entry.name, at as usize);
                let found = probe_bytes(&image).unwrap_or_else(|| panic!("{} at {at} of {size}", entry.name));
                assert_eq!((found.name, found.at), (entry.name, at));
                // One wrong byte of the mark, and it is gone.
                image[at as usize + entry.magic.len() - 1] ^= 0x40;
                assert_ne!(probe_bytes(&image).map(|found| found.name), Some(entry.name));
            }
        }
    }
}

#[test]
fn nothing_is_found_on_nothing() {
    for size in [0, 1, 511, 512, 4095, 4096, MIB, 3 * MIB + 17] {
        assert_eq!(probe_bytes(&vec![0; size]), None, "{size} zero bytes");
        assert_eq!(probe_bytes(&vec![0xff; size]), None, "{size} bytes of 0xff");
    }
}

#[test]
fn a_device_too_small_for_a_mark_has_it_not_and_no_size_panics() {
    for entry in TABLE {
        for place in entry.places {
            // The image that ends just before the mark does, and those around the place.
            let end = match *place {
                Place::Start(at) => at as usize + entry.magic.len() - 1,
                Place::End(back) | Place::AlignedEnd { back, .. } => back as usize - 1,
            };
            for size in [end / 2, end.saturating_sub(1), end] {
                let image: Vec<u8> = entry.magic.iter().copied().cycle().take(size).collect();
                probe_bytes(&image);
                assert!(place.offset(size as u64).is_none_or(|at| {
                    probe_bytes(&vec![0; size]).is_none() && at as usize + entry.magic.len() != size
                }));
            }
        }
    }
    for size in 0..3000 {
        probe_bytes(&vec![1; size]);
    }
}

#[test]
fn pseudo_random_bytes_never_panic_and_are_hardly_ever_taken_for_something() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = 0;
    for round in 0..64 {
        let image: Vec<u8> = (0..70_000 + round * 513)
            .map(|_| {
                // xorshift: any bytes do, as long as they are the same each time.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        found += usize::from(probe_bytes(&image).is_some());
    }
    assert_eq!(found, 0);
}

#[test]
fn short_marks_alone_are_not_believed() {
    let mut boot_code = vec![0; MIB];
    put(&mut boot_code, 510, &[0x55, 0xaa]);
    assert_eq!(name_of(&boot_code), None);
    put(&mut boot_code, 446, &[0x7f; 64]);
    assert_eq!(name_of(&boot_code), None);
    for (at, magic) in [(1080, [0x53, 0xef]), (1024, *b"BD"), (1024, *b"H+"), (1030, [0x34, 0x34])] {
        let mut image = vec![0; MIB];
        put(&mut image, at, &magic);
        assert_eq!(name_of(&image), None);
    }
}

#[test]
fn an_ext_magic_needs_a_block_size_that_exists() {
    let mut image = vec![0; MIB];
    put(&mut image, 1080, &[0x53, 0xef]);
    put(&mut image, 1024, &[100]);
    assert_eq!(name_of(&image), Some("ext2"));
    put(&mut image, 1024 + 24, &[7]);
    assert_eq!(name_of(&image), None);
}

#[test]
fn the_container_is_told_before_what_lies_in_it() {
    let mut image = vec![0; 3 * MIB];
    for name in ["MBR", "ext4"] {
        let entry = TABLE.iter().find(|entry| entry.name == name).unwrap();
        let at = entry.places[0].offset(0).unwrap() as usize;
        put(&mut image, at, entry.magic);
        make_plausible(&mut image, name, at);
    }
    assert_eq!(name_of(&image), Some("ext4"));
    put(&mut image, 512, b"EFI PART");
    assert_eq!(probe_bytes(&image), Some(Signature { name: "GPT", at: 512 }));
}

#[test]
fn the_pieces_can_be_read_with_direct_io() {
    for size in [0, 512, 4096, 1 << 20, (1 << 20) + 512, 5 << 20, (5 << 20) + 1536, 1 << 62] {
        let [head, tail] = pieces(size);
        assert_eq!((head.start, head.end, tail.end), (0, size.min(PIECE_BYTES), size));
        assert!(tail.start.is_multiple_of(4096) && tail.end - tail.start < PIECE_BYTES + 4096);
        assert!(tail.end - tail.start >= size.min(PIECE_BYTES));
    }
}

#[test]
fn a_failed_read_is_the_answer() {
    let result = probe(8192, |at, _| Err(Error::from_errno("read", libc::EIO).at(at)));
    assert_eq!(*result.unwrap_err().reason(), Reason::Os { errno: libc::EIO });
    let refusal = Signature { name: "ext4", at: 1080 }.refusal();
    assert_eq!(*refusal.reason(), Reason::ForeignSignature { name: "ext4", at: 1080 });
}

fn probe_file(path: &Path) -> Option<&'static str> {
    let file = File::open(path).unwrap();
    let read = |at: u64, buffer: &mut [u8]| {
        file.read_exact_at(buffer, at).map_err(|error| Error::from_io("read", &error))
    };
    probe(file.metadata().unwrap().len(), read).unwrap().map(|found| found.name)
}

/// The oracle: what each program writes, where it is installed. `{}` stands for the image.
#[test]
fn what_formatters_write_is_recognised() {
    let formatters = [
        ("ext2", "mke2fs -q -F -t ext2 {}"),
        ("ext3", "mke2fs -q -F -t ext3 {}"),
        ("ext4", "mke2fs -q -F -t ext4 {}"),
        ("ext4", "mke2fs -q -F -t ext4 -b 4096 -O ^has_journal {}"),
        ("ext journal", "mke2fs -q -F -O journal_dev -b 4096 {}"),
        ("swap", "mkswap -q {}"),
        ("swap", "mkswap -q -p 65536 {}"),
        ("MINIX", "mkfs.minix -1 {}"),
        ("MINIX", "mkfs.minix -2 {}"),
        ("XFS", "mkfs.xfs -q -f {}"),
        ("btrfs", "mkfs.btrfs -q -f {}"),
        ("F2FS", "mkfs.f2fs -q -f {}"),
        ("JFS", "mkfs.jfs -q {}"),
        ("ReiserFS", "mkfs.reiserfs -q -f -f {}"),
        ("NILFS2", "mkfs.nilfs2 -q -f {}"),
        ("OCFS2", "mkfs.ocfs2 -q -F -M local {}"),
        ("GFS2", "mkfs.gfs2 -q -O -p lock_nolock -j 1 -J 8 {}"),
        ("UDF", "mkudffs --new-file {}"),
        ("NTFS", "mkntfs -q -F -Q {}"),
        ("exFAT", "mkfs.exfat {}"),
        ("FAT", "mkfs.fat {}"),
        ("FAT", "mkfs.fat -F 12 -S 4096 {}"),
        ("FAT", "mkfs.fat -F 32 {}"),
        ("LUKS", "cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 {} /etc/hostname"),
        (
            "LUKS",
            "cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {} /etc/hostname",
        ),
        ("GPT", "parted -s {} mklabel gpt mkpart a 1MiB 20MiB"),
        ("MBR", "parted -s {} mklabel msdos mkpart primary 1MiB 20MiB"),
        ("qcow2", "qemu-img create -q -f qcow2 {} 64M"),
        ("QED", "qemu-img create -q -f qed {} 64M"),
        ("VMDK", "qemu-img create -q -f vmdk {} 64M"),
        ("VDI", "qemu-img create -q -f vdi {} 64M"),
        ("VHDX", "qemu-img create -q -f vhdx {} 64M"),
        ("VHD", "qemu-img create -q -f vpc {} 64M"),
        ("VHD", "qemu-img create -q -f vpc -o subformat=fixed {} 64M"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut missing = Vec::new();
    for (name, line) in formatters {
        File::create(&image).unwrap().set_len(600 * MIB as u64).unwrap();
        let mut words = line.split(' ').map(|word| if word == "{}" { image.to_str().unwrap() } else { word });
        let program = words.next().unwrap();
        match Command::new(program).args(words).output() {
            Ok(output) if output.status.success() => {
                assert_eq!(probe_file(&image), Some(name), "after {line}");
            }
            // Another version of the program, or one that needs more than an image.
            Ok(output) => missing.push(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(_) => missing.push(format!("{program} is not installed")),
        }
    }
    if !missing.is_empty() {
        missing.dedup();
        println!("not checked:\n{}", missing.join("\n"));
    }
}
