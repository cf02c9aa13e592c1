//! `icecore check` on files: clean, damaged, in use, and none at all.

use icecore::device::{Access, Caching, Device};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};

use crate::support::*;

fn create_log(image: &Image) {
    let arguments = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "log"];
    icecore(&arguments).ok();
}

#[test]
fn a_clean_volume_is_clean_and_is_not_written() {
    for backend in ["direct", "log", "linear"] {
        let image = Image::new(16 * MIB);
        let arguments =
            ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", backend];
        icecore(&arguments).ok();
        write(&image.path, 5000, &[7; 40_000]).ok();
        let before = image.bytes();
        let ran = icecore(&["check", &image.path, "--json"]).ok();
        let found = ran.json();
        assert_eq!((&found["clean"], &found["damage"]), (&true.into(), &0.into()), "{backend}");
        assert_eq!(found["findings"], serde_json::json!([]));
        assert_eq!(found["blocks"].as_u64().unwrap() >= 10, backend != "direct");
        assert!(icecore(&["check", &image.path]).ok().text().starts_with("clean"));
        assert_eq!(image.bytes(), before, "a check writes nothing");
    }
}

#[test]
fn damage_is_listed_and_ends_with_1() {
    let image = Image::new(16 * MIB);
    create_log(&image);
    write(&image.path, 0, &[7; 8192]).ok();
    let bytes = image.bytes().0;
    // The payload in the log, changed behind everybody's back.
    let at = bytes.chunks_exact(4096).rposition(|block| block == [7; 4096]).unwrap() as u64 * 4096;
    image.poke(at + 100, &[8]);
    let ran = icecore(&["check", &image.path, "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let found = ran.json();
    assert_eq!(found["clean"], false);
    let finding = &found["findings"][0];
    assert_eq!((&finding["code"], &finding["severity"]), (&"block".into(), &"damage".into()), "{found}");
    assert_eq!((&finding["address"], &finding["block"]), (&at.into(), &1.into()));
    assert!(finding["remedy"].as_str().unwrap().contains("restore"));
    let ran = icecore(&["check", &image.path]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.text().contains(&format!("damage block, byte {at}")), "{}", ran.text());
    image.poke(at + 100, &[7]);
    icecore(&["check", &image.path]).ok();
}

/// A check finds everything whole, and nobody can write there.
fn is_checked_and_cannot_be_written(path: &str, says: &str) {
    assert_eq!(icecore(&["check", path, "--json"]).ok().json()["clean"], true);
    write(path, 0, &[8; 4096]).refused(3, says);
}

#[test]
fn a_read_only_device_is_checked() {
    let image = Image::new(64 * MIB);
    create_log(&image);
    write(&image.path, 0, &[7; 8192]).ok();
    let before = image.bytes();
    let Some(device) = Loop::over(image, "-r") else { return };
    is_checked_and_cannot_be_written(&device.path, "permission denied");
    assert_eq!(device.bytes(), before);
}

#[test]
fn a_file_that_may_only_be_read_is_checked() {
    use std::os::unix::fs::PermissionsExt;
    let image = Image::new(16 * MIB);
    create_log(&image);
    write(&image.path, 0, &[7; 8192]).ok();
    if is_root() {
        println!("skipped: root may write every file");
        return;
    }
    std::fs::set_permissions(&image.path, std::fs::Permissions::from_mode(0o444)).unwrap();
    is_checked_and_cannot_be_written(&image.path, "permission denied");
}

#[test]
fn what_somebody_has_open_or_is_no_volume_is_refused() {
    let image = Image::new(16 * MIB);
    icecore(&["check", &image.path]).refused(4, "no icecore superblock");
    create_log(&image);
    let options = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    let path = std::path::Path::new(&image.path);
    let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::Direct).unwrap();
    let refusal = icecore(&["check", &image.path, "--json"]).refused(3, "already open").json();
    assert_eq!(refusal["error"]["kind"], "Busy");
    drop(device);
    icecore(&["check", &image.path]).ok();
}
