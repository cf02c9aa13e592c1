//! The program on `cow`, `overlay` and `logged-cow` volumes: their options, snapshots, room for these, folding; and that nobody reads
//! the past of a volume that somebody overwrites in place.

use icecore::device::{Access, Caching, Device};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};

use crate::support::*;

const BACKENDS: [&str; 3] = ["cow", "overlay", "logged-cow"];

fn made(backend: &str, more: &[&str]) -> Image {
    let image = Image::new(64 * MIB);
    let base = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", backend];
    icecore(&[&base, more].concat()).ok();
    image
}

#[test]
fn snapshots_show_what_was_and_the_check_finds_nothing() {
    for backend in BACKENDS {
        let image = made(backend, &[]);
        let path = &image.path;
        write(path, 5000, &[b'A'; 100_000]).ok();
        icecore(&["snapshot", "create", path, "monday"]).ok();
        write(path, 10_000, &[b'B'; 50_000]).ok();
        assert_eq!(read(path, 9_998, 4).ok().text(), "AABB");
        let past = ["read", path, "--offset", "9998", "--length", "4", "--at", "monday"];
        assert_eq!(icecore(&past).ok().text(), "AAAA", "{backend}");
        icecore(&["check", path]).ok();
        let info = icecore(&["inspect", path, "--json"]).ok().json();
        assert_eq!(info["features"], serde_json::json!(["log", "base", "snapshots"]));
        assert_eq!(info["snapshots"][0]["broken"], false);
        // While somebody may overwrite it, nothing tells what was read of it.
        let runtime = Runtime::new(RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() });
        let runtime = runtime.unwrap();
        let held =
            Device::open(runtime.context(), path.as_ref(), Access::Exclusive, Caching::PageCache).unwrap();
        icecore(&past).refused(3, "already open");
        drop(held);
        icecore(&["snapshot", "delete", path, "monday"]).ok();
        assert_eq!(read(path, 9_998, 4).ok().text(), "AABB");
    }
}

#[test]
fn linear_objects_are_asked_for_shown_and_refused_when_one_is_too_many() {
    for backend in ["cow", "overlay", "logged-cow"] {
        let image = made(backend, &["--objects", "linear"]);
        let path = &image.path;
        let info = icecore(&["inspect", path, "--json"]).ok().json();
        assert_eq!((&info["objects"], &info["size_bytes"]), (&"linear".into(), &(16 * MIB).into()));
        assert!(info["features"].as_array().unwrap().contains(&"linear objects".into()), "{info}");
        // What is still in the log takes room that an object needs.
        let write_home = |letter: u8| {
            write(path, 0, &vec![letter; 3 << 20]).ok();
            if backend == "logged-cow" {
                icecore(&["apply", path]).ok();
            }
        };
        write_home(b'A');
        icecore(&["snapshot", "create", path, "monday"]).ok();
        icecore(&["snapshot", "create", path, "tuesday"]).ok();
        icecore(&["snapshot", "create", path, "wednesday"]).refused(4, "delete some, or grow the pool");
        write_home(b'B');
        let past = ["read", path, "--offset", "0", "--length", "4", "--at", "monday"];
        assert_eq!(icecore(&past).ok().text(), "AAAA", "{backend}");
        icecore(&["snapshot", "delete", path, "monday"]).ok();
        icecore(&["snapshot", "create", path, "wednesday"]).ok();
        icecore(&["check", path]).ok();
    }
    let image = Image::new(64 * MIB);
    let wrong = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "log"];
    icecore(&[&wrong[..], &["--objects", "linear"]].concat())
        .refused(64, "only snapshots of cow, overlay and logged-cow");
}

#[test]
fn the_oldest_snapshots_are_broken_or_writes_refused_where_there_is_no_room() {
    for backend in BACKENDS {
        for breaks in [false, true] {
            let options = ["--snapshot-space", "1M", "--break-snapshots"];
            let image = made(backend, if breaks { &options } else { &options[..2] });
            let path = &image.path;
            icecore(&["snapshot", "create", path, "monday"]).ok();
            let written = write(path, 0, &vec![b'A'; 3 << 20]);
            match breaks {
                false => drop(written.refused(4, "take all of the 1048576 bytes")),
                true => drop(written.ok()),
            }
            let listed = icecore(&["snapshot", "list", path]).ok().text();
            assert_eq!(listed.contains("broken"), breaks, "{backend}: {listed}");
            let past = icecore(&["read", path, "--offset", "0", "--length", "4", "--at", "monday"]);
            match breaks {
                false => assert_eq!(past.ok().text(), "\0\0\0\0"),
                true => drop(past.refused(4, "is broken")),
            }
            icecore(&["check", path]).ok();
        }
    }
}

#[test]
fn folding_brings_an_overlay_home_and_is_refused_where_there_is_none_or_somebody_sees_the_base() {
    let image = made("overlay", &[]);
    let path = &image.path;
    icecore(&["snapshot", "create", path, "monday"]).ok();
    write(path, 0, &[b'A'; 8192]).ok();
    icecore(&["fold", path]).refused(3, "the base is the image of snapshot \"monday\"");
    icecore(&["snapshot", "delete", path, "monday"]).ok();
    let folded = icecore(&["fold", path, "--json"]).ok().json();
    assert_eq!((&folded["overlay_before_bytes"], &folded["overlay_bytes"]), (&8192.into(), &0.into()));
    assert_eq!(read(path, 4095, 2).ok().text(), "AA");
    icecore(&["check", path]).ok();
    let cow = made("cow", &[]);
    icecore(&["fold", &cow.path]).refused(64, "has no overlays");
}

#[test]
fn all_go_back_to_a_snapshot() {
    for backend in BACKENDS {
        let image = made(backend, &[]);
        let path = &image.path;
        write(path, 0, &[b'a'; 8192]).ok();
        icecore(&["snapshot", "create", path, "monday"]).ok();
        write(path, 4096, &[b'b'; 8192]).ok();
        icecore(&["snapshot", "create", path, "tuesday"]).ok();
        for (name, shown) in [("monday", "aa\0\0"), ("tuesday", "abb\0")] {
            icecore(&["snapshot", "rollback", path, name]).ok();
            for (at, letter) in (0..).zip(shown.bytes()) {
                assert_eq!(read(path, at * 4096, 1).ok().stdout, [letter], "{backend}, {name}, block {at}");
            }
            icecore(&["check", path]).ok();
            if backend != "cow" {
                // What was discarded there cannot be gone back to.
                break;
            }
        }
    }
}

#[test]
fn apply_brings_what_a_log_holds_to_the_base_behind_it() {
    let image = made("logged-cow", &[]);
    let path = &image.path;
    write(path, 0, &[b'a'; 8192]).ok();
    icecore(&["snapshot", "create", path, "monday"]).ok();
    write(path, 4096, &[b'b'; 8192]).ok();
    let live = || icecore(&["inspect", path, "--json"]).ok().json()["log"]["live_blocks"].clone();
    assert_eq!(live(), 4, "four blocks, two of the second");
    let applied = icecore(&["apply", path, "--json"]).ok().json();
    assert_eq!(applied["applied"], applied["sequence"]);
    assert_eq!(
        live(),
        2,
        "what the snapshot sees of the second block stays in the log, of the third it is copied"
    );
    for (at, shown) in [(0, "aa"), (4096, "ba"), (8192, "b\0")] {
        let past = ["read", path, "--offset", &at.to_string(), "--length", "1", "--at", "monday"];
        assert_eq!(read(path, at, 1).ok().text() + &icecore(&past).ok().text(), shown);
    }
    icecore(&["check", path]).ok();
    icecore(&["apply", path, "--strict"]).refused(64, "for linear volumes alone");
    icecore(&["pin", path]).refused(64, "applies nothing");
    let overlay = made("overlay", &[]);
    icecore(&["apply", &overlay.path]).refused(64, "applies nothing");
}

#[test]
fn what_is_read_moves_home_where_that_is_asked_for_and_no_snapshot_keeps_the_base() {
    // More blocks than are noted at a time.
    const BYTES: usize = 4 << 20;
    let image = made("overlay", &["--block-bytes", "512"]);
    let path = &image.path;
    write(path, 0, &[b'A'; BYTES]).ok();
    let found = std::fs::read(path).unwrap();
    let base = found.chunks(4096).position(|block| block == [b'A'; 4096]).unwrap() * 4096;
    let in_base = |letter: u8| std::fs::read(path).unwrap()[base..base + BYTES] == vec![letter; BYTES];
    let whole = ["read", path, "--offset", "0", "--length", "4M"];
    let reading = |more: &[&str], letter: u8| {
        let ran = icecore(&[&whole, more].concat()).ok();
        assert_eq!(ran.stdout, vec![letter; BYTES]);
        ran.stderr
    };
    icecore(&["snapshot", "create", path, "monday"]).ok();
    write(path, 0, &[b'B'; BYTES]).ok();
    assert!(reading(&["--move-home"], b'B').contains("; 0 blocks moved"), "monday keeps the base");
    icecore(&["snapshot", "delete", path, "monday"]).ok();
    // The control: it stays where it is unless that is asked for.
    reading(&[], b'B');
    assert!(in_base(b'A'));
    let told = reading(&["--move-home"], b'B');
    assert!(told.contains("; 8192 blocks moved"), "{told}");
    assert!(in_base(b'B'));
    icecore(&["check", path]).ok();
    assert_eq!(icecore(&["fold", path, "--json"]).ok().json()["overlay_before_bytes"], 0);
    for more in [["--at", "monday"], ["--sequence", "1"]] {
        icecore(&[&whole[..], &more, &["--move-home"]].concat()).refused(64, "--move-home");
    }
    for backend in ["cow", "log", "direct"] {
        let other = made(backend, &[]);
        let before = other.bytes();
        let refused = ["read", &other.path, "--offset", "0", "--length", "1", "--move-home"];
        icecore(&refused).refused(64, &format!("the {backend} backend has no overlays"));
        assert!(other.bytes() == before, "{backend}: nothing has been written");
    }
}
