//! The program on `linear` volumes: their options, applying, pinning and accepting, on the bytes of the file.

use serde_json::Value;

use crate::support::*;

const BLOCK: u64 = 4096;

fn create_linear(image: &Image, more: &[&str]) -> Ran {
    let base = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "linear"];
    icecore(&[&base, more].concat())
}

fn linear(image: &Image) -> Value {
    icecore(&["inspect", &image.path, "--json"]).ok().json()["linear"].clone()
}

fn fill(image: &Image, block: u64, letter: u8) {
    write(&image.path, block * BLOCK, &[letter; BLOCK as usize]).ok();
}

/// Where two neighbouring blocks of these letters lie in the file: at home, since a log has headers between writes.
fn home_of(image: &Image, letters: &[u8; 2]) -> Option<usize> {
    let bytes = image.bytes().0;
    let blocks: Vec<&[u8]> = bytes.chunks_exact(BLOCK as usize).collect();
    let is_of = |block: &[u8], letter: u8| block.iter().all(|byte| *byte == letter);
    blocks.windows(2).position(|pair| is_of(pair[0], letters[0]) && is_of(pair[1], letters[1]))
}

#[test]
fn a_pinned_base_takes_what_is_accepted_and_no_more() {
    let image = Image::new(64 * MIB);
    // Nothing is applied before somebody asks for it: what is kept of the past holds it back.
    create_linear(&image, &["--retention", "16M"]).ok();
    fill(&image, 0, b'a');
    fill(&image, 1, b'b');
    assert_eq!(home_of(&image, b"ab"), None);
    let applied = icecore(&["apply", &image.path, "--json"]).ok().json();
    assert_eq!((&applied["applied"], &applied["sequence"]), (&2.into(), &2.into()));
    assert_eq!((&applied["accepted"], &applied["extents"]), (&Value::Null, &1.into()));
    let home = home_of(&image, b"ab").expect("both blocks are at home");
    let pinned = icecore(&["pin", &image.path, "--json"]).ok().json();
    assert_eq!((&pinned["accepted"], &pinned["applied"]), (&2.into(), &2.into()));
    [b'x', b'y', b'z'].into_iter().for_each(|letter| fill(&image, 0, letter));
    icecore(&["apply", &image.path]).refused(3, "the base is pinned and takes changes up to sequence 2");
    assert_eq!(home_of(&image, b"ab"), Some(home), "the base is untouched");
    assert_eq!(read(&image.path, 0, 1).ok().stdout, b"z");
    icecore(&["accept", &image.path, "--through", "9"]).refused(64, "there is no sequence 9");
    let accepted = icecore(&["accept", &image.path, "--through", "4", "--json"]).ok().json();
    assert_eq!((&accepted["accepted"], &accepted["applied"]), (&4.into(), &2.into()));
    let one = icecore(&["apply", &image.path, "--entries", "1", "--strict"]).ok();
    assert_eq!(one.text(), "3");
    assert_eq!(home_of(&image, b"xb"), Some(home), "one entry of two");
    icecore(&["apply", &image.path, "--through", "5"]).refused(3, "up to sequence 4");
    icecore(&["apply", &image.path, "--through", "4"]).ok();
    assert_eq!(home_of(&image, b"yb"), Some(home));
    let shown = linear(&image);
    assert_eq!((&shown["applied"], &shown["accepted"]), (&4.into(), &4.into()));
    assert_eq!((&shown["extents"], &shown["stalled"]), (&1.into(), &Value::Null));
    icecore(&["accept", &image.path, "--all"]).ok();
    icecore(&["accept", &image.path, "--through", "5"]).refused(64, "the base is not pinned");
    icecore(&["apply", &image.path, "--entries", "100"]).ok();
    assert_eq!(home_of(&image, b"zb"), Some(home));
    assert_eq!((&linear(&image)["applied"], &linear(&image)["accepted"]), (&5.into(), &Value::Null));
    icecore(&["check", &image.path]).ok();
}

#[test]
fn what_was_not_accepted_can_be_discarded() {
    let image = Image::new(64 * MIB);
    create_linear(&image, &[]).ok();
    fill(&image, 0, b'a');
    fill(&image, 1, b'b');
    icecore(&["apply", &image.path]).ok();
    let home = home_of(&image, b"ab").expect("both blocks are at home");
    icecore(&["pin", &image.path]).ok();
    [b'x', b'y', b'z'].into_iter().for_each(|letter| fill(&image, 0, letter));
    icecore(&["snapshot", "rollback", &image.path, "--sequence", "1"]).refused(4, "the earliest is 2");
    let went = icecore(&["snapshot", "rollback", &image.path, "--sequence", "3", "--json"]).ok().json();
    assert_eq!((&went["to"], &went["at"], &went["discarded"]), (&3.into(), &6.into(), &2.into()));
    assert_eq!(read(&image.path, 0, 1).ok().stdout, b"x");
    assert_eq!(home_of(&image, b"ab"), Some(home), "the base is untouched");
    icecore(&["snapshot", "rollback", &image.path, "--sequence", "4"])
        .refused(64, "was discarded when the volume went back at 6");
    icecore(&["snapshot", "rollback", &image.path, "--sequence", "7"]).refused(64, "there is no sequence 7");
    icecore(&["accept", &image.path, "--all"]).ok();
    icecore(&["apply", &image.path]).ok();
    assert_eq!(home_of(&image, b"xb"), Some(home));
    let shown = icecore(&["inspect", &image.path, "--json"]).ok().json();
    assert!(shown["features"].as_array().unwrap().contains(&"rollback".into()), "{shown}");
    icecore(&["check", &image.path]).ok();
}

#[test]
fn a_thin_volume_is_larger_than_its_device() {
    let image = Image::new(64 * MIB);
    create_linear(&image, &["--size", "1G"]).refused(3, "bytes");
    create_linear(&image, &["--size", "1G", "--thin"]).ok();
    let shown = linear(&image);
    assert_eq!((&shown["thin"], &shown["extents"]), (&true.into(), &0.into()));
    write(&image.path, 1000 * MIB, b"far").ok();
    icecore(&["apply", &image.path]).ok();
    assert_eq!(linear(&image)["extents"], 1);
    assert_eq!(read(&image.path, 1000 * MIB, 3).ok().stdout, b"far");
    assert!(icecore(&["inspect", &image.path]).ok().text().contains("extents            1"));
    // More extents than there are numbers for.
    let before = image.bytes();
    create_linear(&image, &["--size", "1048576T", "--thin"]).refused(64, "size = ");
    assert_eq!(image.bytes(), before);
}

#[test]
fn what_is_not_for_this_backend_is_refused_and_writes_nothing() {
    let image = Image::new(64 * MIB);
    create(&image.path, &image.destroy(), &["--thin"]).refused(64, "--thin");
    create_linear(&image, &["--keep-contents"]).refused(64, "--keep-contents");
    for backend in ["direct", "log"] {
        let made = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", backend];
        icecore(&made).ok();
        let before = image.bytes();
        let commands: [&[&str]; 3] = [&["apply"], &["pin"], &["accept", "--all"]];
        for command in commands {
            let says =
                format!("icecore: {} {}: the {backend} backend applies nothing", command[0], image.path);
            icecore(&[command, &[&image.path]].concat()).refused(64, &says);
        }
        icecore(&["accept", &image.path]).refused(64, "--through");
        assert_eq!(image.bytes(), before);
    }
}

#[test]
fn every_result_names_how_its_io_was_done() {
    let image = Image::new(64 * MIB);
    create_linear(&image, &[]).ok();
    let path = image.path.as_str();
    let commands: [&[&str]; 9] = [
        &["inspect", path],
        &["check", path],
        &["write", path, "--offset", "0"],
        &["versions", path, "--offset", "0"],
        &["recover", path],
        &["pin", path],
        &["accept", path, "--all"],
        &["apply", path],
        &["read", path, "--offset", "0", "--length", "1"],
    ];
    for command in commands {
        let fallback = [command, &["--blocking", "--page-cache"]].concat();
        // What is copied to standard output has no object.
        if command[0] != "read" {
            let found = icecore_plain(&[&fallback[..], &["--json"]].concat()).ok().json();
            let found = (&found["io_path"], &found["caching"]);
            assert_eq!(found, (&"blocking".into(), &"page cache".into()), "{command:?}");
        }
        let ran = icecore_plain(&fallback).ok();
        let said = if command[0] == "inspect" { ran.text() } else { ran.stderr };
        assert!(said.contains("blocking") && said.contains("page cache"), "{command:?}: {said}");
    }
}
