//! The program on files: round trips, refusals, exit codes, and that a refusal has written nothing.

use std::io::{Read, Write};
use std::process::Stdio;

use icecore::device::{Access, Caching, Device};
use icecore::format::superblock::{COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};

use crate::support::*;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8 + 1).collect()
}

#[test]
fn what_was_written_is_read_back_at_any_alignment() {
    for (block, region) in [("512", "512"), ("512", "64K"), ("4096", "4K"), ("64K", "1M")] {
        let image = Image::new(16 * MIB);
        let made = create(&image.path, &image.destroy(), &["--block-bytes", block, "--region-bytes", region]);
        if block == "512" && made.stderr.contains("logical block size") {
            println!("skipped: files here take no blocks of 512 bytes");
            continue;
        }
        let made = made.ok();
        assert_eq!(made.text().len(), 32, "the id and nothing else");
        for (offset, length) in
            [(0, 8), (1, 1), (511, 2), (4095, 4098), (65_535, 3 << 20), (700_001, 1 << 20)]
        {
            let bytes = pattern(length);
            let before = read(&image.path, offset.max(1) - 1, 1).ok().stdout;
            assert!(write(&image.path, offset, &bytes).ok().text().is_empty());
            assert!(read(&image.path, offset, length as u64).ok().stdout == bytes, "{length} at {offset}");
            assert!(offset == 0 || read(&image.path, offset - 1, 1).ok().stdout == before, "its neighbour");
        }
        let info = icecore(&["inspect", &image.path, "--json"]).ok().json();
        assert_eq!(info["id"], made.text());
        assert_eq!(info["closed"], true);
    }
}

#[test]
fn inspect_gives_the_fields_that_scripts_rely_on() {
    let image = Image::new(16 * MIB);
    let made = create(&image.path, &image.destroy(), &["--json", "--size", "8M"]).ok().json();
    let before = image.bytes();
    let info = icecore(&["inspect", &image.path, "--json"]).ok().json();
    let fields =
        "id format_version features backend size_bytes block_bytes region_bytes epoch sequence snapshots";
    for field in fields.split(' ') {
        assert!(!info[field].is_null(), "{field}");
    }
    assert_eq!((&info["backend"], &info["size_bytes"]), (&"direct".into(), &(8 * MIB).into()));
    assert_eq!((&info["region_bytes"], &info["format_version"]), (&65536.into(), &1.into()));
    assert_eq!(info["snapshots"], serde_json::json!([]));
    assert_eq!(info["features"], serde_json::json!([]));
    assert_eq!(info, made);
    let text = icecore(&["inspect", &image.path]).ok().text();
    assert!(text.contains(info["id"].as_str().unwrap()));
    assert_eq!(image.bytes(), before, "a look writes nothing");
}

#[test]
fn a_file_is_made_only_when_asked_for_and_only_kept_when_whole() {
    let image = Image::new(MIB);
    let path = image.folder().join("new.img").to_str().unwrap().to_owned();
    let base = ["create", "--device", &path, "--backend", "direct"];
    icecore(&base).refused(3, "--create BYTES");
    let missing = icecore(&["inspect", &path]).refused(4, "it does not exist; check the path");
    assert!(!missing.stderr.contains("--create"), "no other command makes a file: {}", missing.stderr);
    icecore(&[&base[..], &["--create", "1M"]].concat()).refused(3, "bytes; at least");
    icecore(&[&base[..], &["--create", "16M", "--size", "1000"]].concat()).refused(64, "region size");
    icecore(&[&base[..], &["--create", "16M", "--block-bytes", "3000"]].concat()).refused(64, "block size");
    icecore(&["create", "--device", &path, "--backend", "instant", "--create", "16M"]).refused(64, "direct");
    assert!(!std::fs::exists(&path).unwrap(), "nothing half-made is left");
    icecore(&[&base[..], &["--create", "16M"]].concat()).ok();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 * MIB);
    // Now it is there, and --create is no leave to overwrite it.
    let before = std::fs::read(&path).unwrap();
    icecore(&[&base[..], &["--create", "16M"]].concat()).refused(3, "--destroy new.img:16777216");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn what_exists_is_overwritten_only_by_its_exact_name() {
    let image = Image::new(16 * MIB);
    let before = image.bytes();
    icecore(&["create", "--device", &image.path, "--backend", "direct"]).refused(3, &image.destroy());
    create(&image.path, "disk.img:1", &[]).refused(3, "does not name this device");
    create(&image.path, "other.img:16777216", &[]).refused(3, "does not name this device");
    create(&image.path, &image.destroy(), &["--size", "4097"]).refused(64, "size = 4097");
    create(&image.path, &image.destroy(), &["--size", "1G"]).refused(3, "at least");
    create(&image.path, &image.destroy(), &["--size", "4Q"]).refused(64, "unit Q is not known");
    assert_eq!(image.bytes(), before);
    create(&image.path, &image.destroy(), &[]).ok();
}

#[test]
fn a_foreign_signature_is_refused_unless_forced() {
    let image = Image::new(16 * MIB);
    if run(&format!("mke2fs -q -F -t ext4 {}", image.path)).is_none() {
        println!("skipped: no mke2fs");
        return;
    }
    let before = image.bytes();
    let refusal = create(&image.path, &image.destroy(), &["--json"]).refused(3, "ext").json();
    assert_eq!(refusal["error"]["kind"], "Denied");
    assert!(refusal["error"]["reason"].as_str().unwrap().contains("--force"));
    assert_eq!(image.bytes(), before);
    create(&image.path, &image.destroy(), &["--force"]).ok();
    assert!(read(&image.path, 0, 4096).ok().stdout == vec![0; 4096]);
}

#[test]
fn contents_are_kept_only_on_request() {
    let image = Image::new(16 * MIB);
    image.poke(0, &vec![7; 16 << 20]);
    create(&image.path, &image.destroy(), &["--keep-contents"]).ok();
    assert!(read(&image.path, 0, MIB).ok().stdout == vec![7; 1 << 20]);
    create(&image.path, &image.destroy(), &[]).ok();
    assert!(read(&image.path, 0, MIB).ok().stdout == vec![0; 1 << 20]);
}

#[test]
fn wrong_ranges_change_nothing() {
    let image = Image::with_volume(16 * MIB, &["--size", "8M"]);
    let before = image.bytes();
    write(&image.path, 8 * MIB - 1, b"ab").refused(64, "passes the end at 8388608");
    write(&image.path, 9 * MIB, b"a").refused(64, "passes the end");
    write(&image.path, u64::MAX, b"a").refused(64, "passes the end");
    assert!(read(&image.path, 8 * MIB - 1, 2).refused(64, "passes the end").stdout.is_empty());
    assert!(read(&image.path, u64::MAX, 1).refused(64, "passes the end").stdout.is_empty());
    icecore(&["write", &image.path]).refused(64, "--offset");
    // A file's length is known, so that one too long is refused although its first pieces would fit.
    let long = image.folder().join("long");
    std::fs::write(&long, vec![1; 8 << 20]).unwrap();
    let arguments = [&["write", &image.path, "--offset", "1M"], io_flags()].concat();
    let ended = command(&arguments).stdin(std::fs::File::open(&long).unwrap()).output().unwrap();
    assert_eq!(ended.status.code(), Some(64), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(image.bytes(), before);
    // The control: the same file fits at 0.
    let arguments = [&["write", &image.path, "--offset", "0"], io_flags()].concat();
    let ended = command(&arguments).stdin(std::fs::File::open(&long).unwrap()).output().unwrap();
    assert!(ended.status.success());
    assert!(read(&image.path, 0, 8 * MIB).ok().stdout == vec![1; 8 << 20]);
}

#[test]
fn one_damaged_copy_is_repaired_both_are_refused() {
    for copy in [0, 1] {
        let image = Image::with_volume(16 * MIB, &[]);
        write(&image.path, 0, b"kept").ok();
        image.poke(COPY_OFFSETS[copy] + 100, &[0xEE; 8]);
        let damaged = image.bytes();
        // A look works on the other copy and repairs nothing.
        icecore(&["inspect", &image.path, "--json"]).ok();
        assert_eq!(read(&image.path, 0, 4).ok().stdout, b"kept");
        assert_eq!(image.bytes(), damaged);
        write(&image.path, 4, b"more").ok();
        for offset in COPY_OFFSETS {
            let bytes = image.bytes().0;
            let found: &[u8; SUPERBLOCK_BYTES] = bytes[offset as usize..].first_chunk().unwrap();
            assert!(matches!(Superblock::decode(found, offset), Decoded::Valid(_)), "copy at {offset}");
        }
        assert_eq!(read(&image.path, 0, 8).ok().stdout, b"keptmore");

        COPY_OFFSETS.iter().for_each(|offset| image.poke(*offset + 100, &[0xEE; 8]));
        let damaged = image.bytes();
        let refusal =
            icecore(&["inspect", &image.path, "--json"]).refused(1, "both superblock copies").json();
        assert_eq!(refusal["error"]["kind"], "Corrupt");
        write(&image.path, 0, b"x").refused(1, "both superblock copies");
        read(&image.path, 0, 1).refused(1, "both superblock copies");
        assert_eq!(image.bytes(), damaged);
    }
}

/// Rewrites both copies of the superblock as `change` makes them.
fn rewrite(image: &Image, change: impl Fn(&mut Superblock)) {
    let bytes = image.bytes().0;
    let found: &[u8; SUPERBLOCK_BYTES] = bytes.first_chunk().unwrap();
    let Decoded::Valid(mut superblock) = Superblock::decode(found, 0) else { panic!("it is whole") };
    change(&mut superblock);
    COPY_OFFSETS.iter().for_each(|offset| image.poke(*offset, &superblock.encode(*offset)));
}

type Change = fn(&mut Superblock);

#[test]
fn what_a_newer_build_wrote_is_refused_by_name() {
    let all: [(Change, &str); 3] = [
        (|superblock| superblock.version = 2.into(), "format version is 2, this build knows up to 1"),
        (|superblock| superblock.features_incompatible = (1 << 40).into(), "features 0x10000000000"),
        (|superblock| superblock.backend = 77.into(), "backend number 77"),
    ];
    for (change, says) in all {
        let image = Image::with_volume(16 * MIB, &[]);
        rewrite(&image, change);
        let before = image.bytes();
        let refusal = icecore(&["inspect", &image.path, "--json"]).refused(4, says).json();
        assert_eq!(refusal["error"]["kind"], "Unsupported");
        read(&image.path, 0, 1).refused(4, says);
        write(&image.path, 0, b"x").refused(4, says);
        assert_eq!(image.bytes(), before);
    }
}

#[test]
fn a_feature_that_forbids_writing_allows_reading() {
    let image = Image::with_volume(16 * MIB, &[]);
    write(&image.path, 0, b"here").ok();
    rewrite(&image, |superblock| superblock.features_read_only = 0x8.into());
    let before = image.bytes();
    write(&image.path, 0, b"x").refused(4, "features 0x8");
    assert_eq!(image.bytes(), before);
    assert_eq!(read(&image.path, 0, 4).ok().stdout, b"here");
    // One that may be ignored is ignored.
    rewrite(&image, |superblock| {
        superblock.features_read_only = 0.into();
        superblock.features_compatible = 0x8.into();
    });
    write(&image.path, 0, b"HERE").ok();
}

#[test]
fn the_second_opener_is_refused_while_another_process_has_it() {
    let image = Image::with_volume(16 * MIB, &[]);
    write(&image.path, 0, b"first").ok();
    // This process holds it; the program is the other one.
    let options = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    let path = std::path::Path::new(&image.path);
    let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::PageCache).unwrap();
    let before = image.bytes();
    write(&image.path, 0, b"other").refused(3, "already open");
    let refusal = create(&image.path, &image.destroy(), &["--json"]).refused(3, "already open").json();
    assert_eq!(refusal["error"]["kind"], "Busy");
    assert_eq!(image.bytes(), before);
    assert_eq!(read(&image.path, 0, 5).ok().stdout, b"first", "a look disturbs nobody");
    drop(device);
    write(&image.path, 0, b"other").ok();
}

#[test]
fn what_holds_no_volume_is_named() {
    let image = Image::new(16 * MIB);
    icecore(&["inspect", &image.path]).refused(4, "no icecore superblock");
    icecore(&["inspect", "/nonexistent"]).refused(4, "does not exist");
    icecore(&["inspect", image.folder().to_str().unwrap()]).refused(64, "directory");
    create("/dev/null", "null:0", &[]).refused(64, "character device");
    let small = Image::new(4096);
    icecore(&["inspect", &small.path]).refused(4, "no icecore superblock");
    create(&small.path, &small.destroy(), &[]).refused(3, "at least");
    assert_eq!(small.bytes(), Contents(vec![0; 4096]));
}

#[test]
fn fallbacks_are_used_when_asked_for_and_say_so() {
    let image = Image::new(16 * MIB);
    let base = ["create", "--device", &image.path, "--backend", "direct"];
    let made =
        icecore_plain(&[&base[..], &["--destroy", &image.destroy(), "--blocking", "--page-cache"]].concat());
    assert!(made.ok().stderr.contains("(blocking; page cache)"));
    let shown = icecore_plain(&["--blocking", "inspect", &image.path, "--json"]).ok().json();
    assert_eq!((&shown["io_path"], &shown["caching"]), (&"blocking".into(), &"O_DIRECT".into()));
    let shown = icecore_plain(&["inspect", &image.path, "--json"]);
    if io_flags().is_empty() {
        assert_eq!(shown.ok().json()["io_path"], "io_uring");
    } else {
        // Never silently.
        let shown = shown.refused(4, "io_uring is not available").json();
        assert_eq!(shown["error"]["kind"], "Unsupported");
    }
}

#[test]
fn a_wrong_call_is_told_in_both_forms() {
    let wrong = icecore_plain(&["frobnicate", "--json"]).refused(64, "frobnicate").json();
    assert_eq!(wrong["error"]["kind"], "Usage");
    icecore_plain(&[]).refused(64, "Usage");
    assert!(icecore_plain(&["--help"]).ok().text().contains("64 usage"));
    assert!(icecore_plain(&["--version"]).ok().text().starts_with("icecore "));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let image = Image::with_volume(64 * MIB, &[]);
    let arguments = [&["read", &image.path, "--offset", "0", "--length", "32M"], io_flags()].concat();
    let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [1; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn an_interrupt_ends_it_with_130() {
    let image = Image::with_volume(16 * MIB, &[]);
    let arguments = [&["write", &image.path, "--offset", "0"], io_flags()].concat();
    let mut child = command(&arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![1; 3 << 20]).unwrap();
    assert!(run(&format!("kill -INT {}", child.id())).is_some());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // What it left opens again.
    write(&image.path, 0, b"again").ok();
    assert_eq!(read(&image.path, 0, 5).ok().stdout, b"again");
}

#[test]
fn a_volatile_log_is_named_and_a_written_volume_keeps_what_the_command_wrote() {
    let image = Image::with_volume(16 * MIB, &["--volatile-log"]);
    let info = icecore(&["inspect", &image.path, "--json"]).ok().json();
    assert_eq!((&info["durability_class"], &info["features"][0]), (&"none".into(), &"volatile log".into()));
    write(&image.path, 4100, b"forced").ok();
    assert_eq!(read(&image.path, 4100, 6).ok().stdout, b"forced");
    icecore(&["check", &image.path]).ok();
    let plain = Image::with_volume(16 * MIB, &[]);
    let info = icecore(&["inspect", &plain.path, "--json"]).ok().json();
    assert_eq!((&info["durability_class"], &info["features"]), (&"local".into(), &serde_json::json!([])));
    let log = Image::new(64 * MIB);
    let base = ["create", "--device", &log.path, "--destroy", &log.destroy(), "--backend", "log"];
    icecore(&[&base[..], &["--volatile-log"]].concat()).refused(64, "volatile log = yes");
}
