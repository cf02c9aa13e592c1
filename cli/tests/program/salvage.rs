//! `icecore salvage` on files: whole, damaged, in use, and the targets that it refuses.

use icecore::device::{Access, Caching, Device};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};

use crate::support::*;

const SIZE: &str = "1M";

/// A volume of 1 MiB with eight blocks of sevens behind one of nines.
fn made(backend: &str) -> (Image, Vec<u8>) {
    let image = Image::new(16 * MIB);
    let destroy = image.destroy();
    let arguments =
        ["create", "--device", &image.path, "--destroy", &destroy, "--backend", backend, "--size", SIZE];
    icecore(&arguments).ok();
    write(&image.path, 0, &[9; 4096]).ok();
    write(&image.path, 4096, &[7; 8 * 4096]).ok();
    let mut wanted = vec![0; MIB as usize];
    wanted[..4096].fill(9);
    wanted[4096..9 * 4096].fill(7);
    (image, wanted)
}

fn out_of(image: &Image) -> String {
    format!("{}.salvaged", image.path)
}

#[test]
fn a_whole_volume_is_copied_and_is_not_written() {
    for backend in ["direct", "log", "linear"] {
        let (image, wanted) = made(backend);
        let (before, out) = (image.bytes(), out_of(&image));
        let found = icecore(&["salvage", &image.path, "--out", &out, "--json"]).ok().json();
        assert_eq!((&found["whole"], &found["size_bytes"]), (&true.into(), &MIB.into()), "{found}");
        assert_eq!(found["checksums"], backend != "direct");
        assert!(std::fs::read(&out).unwrap() == wanted, "{backend}");
        assert_eq!(image.bytes(), before, "the pool is not written");
        let _gone = std::fs::remove_file(&out);
        let text = icecore(&["salvage", &image.path, "--out", &out]).ok().text();
        assert!(text.ends_with("blocks of 4096 bytes"), "{text}");
        let _gone = std::fs::remove_file(&out);
    }
}

#[test]
fn what_is_missing_is_listed_and_ends_with_1() {
    let (image, mut wanted) = made("log");
    let at = image.bytes().0.chunks_exact(4096).rposition(|block| block == [7; 4096]).unwrap() as u64 * 4096;
    image.poke(at + 100, &[8]);
    let out = out_of(&image);
    let ran = icecore(&["salvage", &image.path, "--out", &out, "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let found = ran.json();
    let lost = found["ranges"].as_array().unwrap().iter().find(|range| range["status"] == "wrong").unwrap();
    assert_eq!((&lost["block"], &lost["blocks"], &lost["written"]), (&8.into(), &1.into(), &"zeroes".into()));
    assert_eq!((&found["blocks"]["wrong"], &found["blocks"]["good"]), (&1.into(), &8.into()));
    wanted[8 * 4096..9 * 4096].fill(0);
    assert!(std::fs::read(&out).unwrap() == wanted);
    // What exists is refused unless it is named exactly; then it is overwritten, with the doubtful bytes too.
    icecore(&["salvage", &image.path, "--out", &out]).refused(3, "--destroy");
    icecore(&["salvage", &image.path, "--out", &out, "--destroy", "x:1"]).refused(3, "does not name");
    assert!(std::fs::read(&out).unwrap() == wanted, "a refusal writes nothing");
    let name = std::path::Path::new(&out).file_name().unwrap().to_str().unwrap().to_owned();
    let destroy = format!("{name}:{MIB}");
    let ran = icecore(&["salvage", &image.path, "--out", &out, "--destroy", &destroy, "--doubtful"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.text().contains("blocks 8 to 8: wrong; written: as-found"), "{}", ran.text());
    wanted[8 * 4096..9 * 4096].fill(7);
    wanted[8 * 4096 + 100] = 8;
    assert!(std::fs::read(&out).unwrap() == wanted);
    let _gone = std::fs::remove_file(&out);
}

#[test]
fn without_superblocks_the_batches_tell() {
    let (image, wanted) = made("log");
    for copy in [0, 512 << 10] {
        image.poke(copy, &[0; 4096]);
    }
    let out = out_of(&image);
    icecore(&["read", &image.path, "--offset", "0", "--length", "1"]).refused(4, "no icecore superblock");
    // It may have been an overlay, whose blocks are not all in the log.
    let ran = icecore(&["salvage", &image.path, "--out", &out, "--size", SIZE]);
    assert!(ran.code == Some(1) && ran.text().contains("--no-base"), "{}", ran.text());
    let _gone = std::fs::remove_file(&out);
    icecore(&["salvage", &image.path, "--out", &out, "--size", SIZE, "--no-base"]).ok();
    assert!(std::fs::read(&out).unwrap() == wanted);
    let _gone = std::fs::remove_file(&out);
    let nothing = Image::new(16 * MIB);
    icecore(&["salvage", &nothing.path, "--out", &out]).refused(4, "--direct-offset");
    assert!(!std::path::Path::new(&out).exists(), "a refusal leaves no file");
}

#[test]
fn a_moment_is_salvaged() {
    let (image, mut wanted) = made("log");
    icecore(&["snapshot", "create", &image.path, "before"]).ok();
    write(&image.path, 0, &[1; 4096]).ok();
    let out = out_of(&image);
    icecore(&["salvage", &image.path, "--out", &out, "--at", "before"]).ok();
    assert!(std::fs::read(&out).unwrap() == wanted);
    let _gone = std::fs::remove_file(&out);
    icecore(&["salvage", &image.path, "--out", &out]).ok();
    wanted[..4096].fill(1);
    assert!(std::fs::read(&out).unwrap() == wanted);
    let _gone = std::fs::remove_file(&out);
    icecore(&["salvage", &image.path, "--out", &out, "--at", "none"]).refused(64, "no snapshot");
    icecore(&["salvage", &image.path, "--out", &out, "--sequence", "9999"]).refused(64, "no sequence");
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn the_pool_itself_and_what_is_too_small_or_in_use_are_refused() {
    let (image, _) = made("log");
    let before = image.bytes();
    let salvage =
        |out: &str, destroy: &str| icecore(&["salvage", &image.path, "--out", out, "--destroy", destroy]);
    salvage(&image.path, &image.destroy()).refused(3, "already open");
    let link = format!("{}.link", image.path);
    std::fs::hard_link(&image.path, &link).unwrap();
    let name = std::path::Path::new(&link).file_name().unwrap().to_str().unwrap().to_owned();
    salvage(&link, &format!("{name}:{}", 16 * MIB)).refused(3, "already open");
    std::fs::remove_file(&link).unwrap();
    let small = Image::new(MIB / 2);
    salvage(&small.path, &small.destroy()).refused(3, "at least");
    assert_eq!(image.bytes(), before);
    let options = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    let path = std::path::Path::new(&image.path);
    let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct).unwrap();
    let out = out_of(&image);
    icecore(&["salvage", &image.path, "--out", &out]).refused(3, "already open");
    drop(device);
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_base_is_copied_as_it_is_found_and_what_is_saved_beside_it_with_its_checksum() {
    for backend in ["cow", "overlay"] {
        let (image, mut wanted) = made(backend);
        icecore(&["snapshot", "create", &image.path, "before"]).ok();
        icecore(&["snapshot", "clone", &image.path, "before", "branch"]).ok();
        write(&image.path, 0, &[1; 4096]).ok();
        let out = out_of(&image);
        let salvage = |more: &[&str]| {
            let arguments = [&["salvage", &image.path, "--out", &out, "--json"], more].concat();
            let found = icecore(&arguments).ok().json();
            let bytes = std::fs::read(&out).unwrap();
            let _gone = std::fs::remove_file(&out);
            (found, bytes)
        };
        for name in ["before", "branch"] {
            let (found, bytes) = salvage(&["--at", name]);
            assert!(bytes == wanted, "{backend} {name}");
            // What was overwritten lies in the log of `cow`; in the base of an overlay, it is as it was.
            let good = u64::from(backend == "cow");
            assert_eq!(found["blocks"]["good"], good, "{found}");
            assert_eq!(found["blocks"]["unverified"], MIB / 4096 - good, "{found}");
        }
        let (found, bytes) = salvage(&[]);
        wanted[..4096].fill(1);
        assert!(bytes == wanted && found["whole"] == true, "{backend}: {found}");
        assert_eq!(found["blocks"]["good"], u64::from(backend == "overlay"), "{found}");
        let text = icecore(&["salvage", &image.path, "--out", &out]).ok().text();
        assert!(text.contains("no checksums"), "{text}");
        let _gone = std::fs::remove_file(&out);
    }
}

#[test]
fn a_further_volume_is_salvaged_by_its_name() {
    let (image, _) = made("log");
    icecore(&["volume", "create", &image.path, "db", "--size", "64K"]).ok();
    let out = out_of(&image);
    let found = icecore(&["salvage", &image.path, "--out", &out, "--at", "db", "--json"]).ok().json();
    assert_eq!((&found["size_bytes"], &found["blocks"]["zero"]), (&(64 << 10).into(), &16.into()), "{found}");
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 64 << 10);
    let _gone = std::fs::remove_file(&out);
}
