//! The program on `log` volumes: their options, the past, and a log that is really damaged.

use icecore::device::{Access, Caching, Device};
use icecore::format::batch::{self, Decoded};
use icecore::format::superblock::{self, SUPERBLOCK_BYTES, Superblock};
use icecore::runtime::{IoMode, Runtime, RuntimeOptions};
use icecore::units::ByteOffset;
use icecore::volume::{Durability, OpenMode, Volume};

use crate::support::*;

const BLOCK: u64 = 4096;

fn create_log(image: &Image, more: &[&str]) -> Ran {
    let base = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "log"];
    icecore(&[&base, more].concat())
}

fn log_volume(more: &[&str]) -> Image {
    let image = Image::new(64 * MIB);
    create_log(&image, more).ok();
    image
}

#[test]
fn options_reach_the_device_and_inspect() {
    let image = Image::new(64 * MIB);
    let options =
        ["--segment", "128K", "--checkpoint", "1M", "--retention", "4M", "--retention-age", "2h", "--json"];
    let made = create_log(&image, &options).ok().json();
    let bytes = image.bytes().0;
    let found: &[u8; SUPERBLOCK_BYTES] = bytes.first_chunk().unwrap();
    let superblock::Decoded::Valid(record) = Superblock::decode(found, 0) else { panic!("it is whole") };
    assert_eq!((record.segment_bytes.get(), record.checkpoint_bytes.get()), (128 << 10, 1 << 20));
    assert_eq!((record.retention_bytes.get(), record.retention_age_s.get()), (4 << 20, 7_200));
    let info = icecore(&["inspect", &image.path, "--json"]).ok().json();
    assert_eq!((&info["backend"], &info["features"]), (&"log".into(), &serde_json::json!(["log"])));
    assert_eq!((&info["id"], &info["epoch"], &info["sequence"]), (&made["id"], &1.into(), &0.into()));
    assert_eq!(
        (&info["log"]["segment_bytes"], &info["log"]["retention_age_s"]),
        (&131_072.into(), &7_200.into())
    );
    let segments = info["log"]["segments"].as_u64().unwrap();
    assert_eq!(segments, record.data.bytes.get() / (128 << 10));
    assert!(info["log"]["free_segments"].as_u64() < Some(segments));
    assert!(image.bytes().0 == bytes, "a look writes nothing");
    let text = icecore(&["inspect", &image.path]).ok().text();
    assert!(text.contains("free_segments") && text.contains("segment_bytes      131072"), "{text}");
}

#[test]
fn wrong_options_are_refused_by_name_and_rule() {
    let image = Image::new(64 * MIB);
    let before = image.bytes();
    create_log(&image, &["--segment", "3000"]).refused(64, "segment size = 3000: a power of two from 8");
    create_log(&image, &["--segment", "16K"]).refused(64, "segment size = 16384");
    create_log(&image, &["--checkpoint", "1T"]).refused(64, "checkpoint interval = 1099511627776: at most");
    create_log(&image, &["--checkpoint", "18446744073709551615"]).refused(64, "checkpoint interval");
    create_log(&image, &["--retention-age", "1h"]).refused(64, "--retention");
    create_log(&image, &["--retention", "1M", "--retention-age", "1w"]).refused(64, "unit w is not known");
    create_log(&image, &["--keep-contents"]).refused(64, "--keep-contents");
    for option in ["--segment", "--checkpoint", "--retention"] {
        let says = format!("{option} = 65536: the direct backend has no log");
        create(&image.path, &image.destroy(), &[option, "64K"]).refused(64, &says);
    }
    assert_eq!(image.bytes(), before);
}

#[test]
fn the_past_is_read_by_sequence() {
    let image = log_volume(&["--retention", "4M"]);
    for content in [b"first", b"other"] {
        write(&image.path, 4100, content).ok();
    }
    let before = image.bytes();
    let past = |sequence: &str, length: &str| {
        icecore(&["read", &image.path, "--offset", "4098", "--length", length, "--sequence", sequence])
    };
    let last = icecore(&["inspect", &image.path, "--json"]).ok().json()["sequence"].as_u64().unwrap();
    assert_eq!(past(&last.to_string(), "9").ok().stdout, b"\0\0other\0\0");
    assert_eq!(past(&(last - 1).to_string(), "9").ok().stdout, b"\0\0first\0\0");
    assert!(past("0", "2M").ok().stdout == vec![0; 2 << 20]);
    past("9999", "5").refused(64, "there is no sequence 9999");
    assert_eq!(read(&image.path, 4100, 5).ok().stdout, b"other");
    let versions = icecore(&["versions", &image.path, "--offset", "4100", "--json"]).ok().json();
    let sequences: Vec<_> = versions["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, [0, last - 1, last]);
    let at = ["read", &image.path, "--offset", "0", "--length", "1", "--at", "monday"];
    icecore(&at).refused(64, "no snapshot \"monday\"");
    assert_eq!(image.bytes(), before, "a look writes nothing");

    // What is not kept, and a volume that keeps nothing.
    let forgets = log_volume(&[]);
    [b"first", b"other"].iter().for_each(|content| {
        write(&forgets.path, 0, *content).ok();
    });
    let gone = ["read", &forgets.path, "--offset", "0", "--length", "1", "--sequence", "1"];
    icecore(&gone).refused(4, "not kept any more");
    let direct = Image::with_volume(16 * MIB, &[]);
    let none = ["read", &direct.path, "--offset", "0", "--length", "1", "--sequence", "0"];
    icecore(&none).refused(64, "keeps no past");
    icecore(&["versions", &direct.path, "--offset", "0"]).refused(64, "keeps no past");
}

#[test]
fn a_snapshot_has_a_name_and_keeps_its_moment() {
    let image = log_volume(&[]);
    let snapshot =
        |command: &str, more: &[&str]| icecore(&[&["snapshot", command, image.path.as_str()], more].concat());
    let at = |name: &str| icecore(&["read", &image.path, "--offset", "4100", "--length", "5", "--at", name]);
    write(&image.path, 4100, b"first").ok();
    let taken = snapshot("create", &["monday", "--json"]).ok().json();
    assert_eq!((&taken["name"], taken["sequence"].as_u64().is_some()), (&"monday".into(), true));
    write(&image.path, 4100, b"other").ok();
    snapshot("create", &["tuesday evening"]).ok();
    write(&image.path, 4100, b"third").ok();
    for (name, content) in [("monday", b"first"), ("tuesday evening", b"other")] {
        assert_eq!(at(name).ok().stdout, content);
    }
    snapshot("create", &["monday"]).refused(64, "\"monday\" already");
    let before = image.bytes();
    let listed = snapshot("list", &["--json"]).ok().json();
    let names = |object: &serde_json::Value| -> Vec<String> {
        let all = object["snapshots"].as_array().unwrap();
        all.iter().map(|one| one["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&listed), ["monday", "tuesday evening"]);
    assert!(snapshot("list", &[]).ok().text().ends_with("tuesday evening"));
    let shown = icecore(&["inspect", &image.path, "--json"]).ok().json();
    // What each alone keeps is counted for the list, and for nothing else.
    let mut first = listed["snapshots"][0].clone();
    assert_eq!(first["exclusive_bytes"].take(), 4096);
    assert_eq!((names(&shown), &shown["snapshots"][0]), (names(&listed), &first));
    assert_eq!(image.bytes(), before, "a look writes nothing");
    let diff = snapshot("diff", &["monday", "tuesday evening", "--json"]).ok().json();
    assert_eq!((&diff["changed_bytes"], &diff["changed"][0]["offset"]), (&65536.into(), &0.into()));
    assert_eq!(snapshot("diff", &["tuesday evening"]).ok().text(), "0 65536");
    assert_eq!(snapshot("diff", &["monday", "monday"]).ok().text(), "");
    snapshot("diff", &["monday", "@9999"]).refused(64, "there is no sequence 9999");
    assert_eq!(image.bytes(), before, "a look writes nothing");
    snapshot("rollback", &["tuesday evening"]).ok();
    assert_eq!(read(&image.path, 4100, 5).ok().stdout, b"other");
    snapshot("delete", &["monday"]).ok();
    snapshot("delete", &["monday"]).refused(64, "no snapshot \"monday\"");
    at("monday").refused(64, "no snapshot");
    assert_eq!(at("tuesday evening").ok().stdout, b"other");
    icecore(&["check", &image.path]).ok();
    let direct = Image::with_volume(16 * MIB, &[]);
    icecore(&["snapshot", "create", &direct.path, "monday"]).refused(64, "keeps no past");
}

/// Six durable writes of a block each, and then a crash.
fn write_and_crash(image: &Image) {
    let options = RuntimeOptions { io_mode: IoMode::Blocking, ..RuntimeOptions::default() };
    let runtime = Runtime::new(options).unwrap();
    runtime.block_on(async {
        let path = std::path::Path::new(&image.path);
        let device = Device::open(runtime.context(), path, Access::Exclusive, Caching::PageCache).unwrap();
        let volume = Volume::open(device, OpenMode::ReadWrite).await.unwrap();
        for number in 0..6_u64 {
            let bytes = [number as u8 + 1; BLOCK as usize];
            volume.write_bytes(ByteOffset(number * BLOCK), &bytes, Durability::Durable).await.unwrap();
        }
    });
}

/// Where the payload of the batch that begins with this sequence lies.
fn payload_of(image: &Image, sequence: u64) -> u64 {
    let bytes = image.bytes().0;
    let mut places = (0..bytes.len()).step_by(BLOCK as usize);
    let found = places.find_map(|at| match batch::decode(&bytes[at..], at as u64, BLOCK as u32) {
        Decoded::Valid(batch) if batch.header.first_sequence.get() == sequence => {
            Some(at as u64 + u64::from(batch.header.header_bytes.get()))
        }
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no batch begins with {sequence}"))
}

#[test]
fn a_damaged_log_is_read_to_the_damage_and_written_only_when_the_loss_is_accepted() {
    let image = log_volume(&[]);
    write_and_crash(&image);
    // The control: a crash alone is no damage.
    let whole = icecore(&["recover", &image.path, "--json"]).ok().json();
    assert_eq!(whole["damaged"], false);
    assert!(whole.get("lost_entries_at_least").is_none(), "{whole}");
    let info = icecore(&["inspect", &image.path, "--json"]).ok().json();
    assert_eq!((&info["sequence"], &info["log"]["tail_entries"]), (&6.into(), &6.into()));
    image.poke(payload_of(&image, 3) + 100, &[0xEE; 8]);
    let damaged = image.bytes();

    let prefix = |image: &Image| {
        let read = read(&image.path, 0, 6 * BLOCK).ok();
        let first: Vec<u8> = read.stdout.chunks(BLOCK as usize).map(|block| block[0]).collect();
        (first, read.stderr)
    };
    let (first, says) = prefix(&image);
    assert_eq!(first, [1, 2, 0, 0, 0, 0]);
    assert!(says.contains("its log is damaged; this is how it was at sequence 2"), "{says}");
    let shown = icecore(&["inspect", &image.path, "--json"]);
    let object = shown.json();
    shown.refused(1, "");
    assert_eq!((&object["sequence"], &object["log"]["damaged_after"]), (&2.into(), &2.into()));
    assert!(object["damage"].as_str().unwrap().contains("damaged behind sequence 2"));
    let refused = icecore(&["recover", &image.path]).refused(3, "--accept-loss");
    assert!(refused.stderr.contains("good through sequence 2 and was durable through 5: 3 entries are lost"));
    assert_eq!(image.bytes(), damaged, "nobody has written anything so far");
    write(&image.path, 0, b"x").refused(1, "accept the loss");
    assert_eq!(prefix(&image).0, first, "a refused write has changed nothing that can be read");

    let accepted = icecore(&["recover", &image.path, "--accept-loss", "--json"]).ok();
    assert!(accepted.stderr.contains("3 entries are lost"), "the loss is told first");
    let object = accepted.json();
    assert_eq!((&object["good_through"], &object["lost_entries_at_least"]), (&2.into(), &3.into()));
    assert_eq!(object["accepted"], true);
    assert_eq!(prefix(&image), (first, prefix(&image).1));
    assert!(!prefix(&image).1.contains("damaged"));
    write(&image.path, 2 * BLOCK, b"again").ok();
    assert_eq!(read(&image.path, 2 * BLOCK, 5).ok().stdout, b"again");
    icecore(&["inspect", &image.path, "--json"]).ok();
    // A volume without a log has nothing to give up.
    let direct = Image::with_volume(16 * MIB, &[]);
    let before = direct.bytes();
    icecore(&["recover", &direct.path, "--accept-loss"]).ok();
    assert_eq!(direct.bytes(), before);
}

#[test]
fn a_pool_grows_with_its_file_and_keeps_everything() {
    let image = log_volume(&["--retention", "4M", "--size", "8M"]);
    write(&image.path, 4100, b"before").ok();
    let inspect = || icecore(&["inspect", &image.path, "--json"]).ok().json();
    let before = inspect();
    let bytes = image.bytes();
    icecore(&["grow", &image.path]).refused(3, "at least");
    assert_eq!(image.bytes(), bytes, "what is refused writes nothing");
    let resize =
        |bytes| std::fs::File::options().write(true).open(&image.path).unwrap().set_len(bytes).unwrap();
    resize(128 * MIB);
    let grown = icecore(&["grow", &image.path, "--json"]).ok().json();
    assert_eq!((&grown["id"], &grown["size_bytes"]), (&before["id"], &before["size_bytes"]));
    let after = inspect();
    let segments = |info: &serde_json::Value| info["log"]["segments"].as_u64().unwrap();
    assert_eq!(grown["room_bytes"], segments(&after) * after["log"]["segment_bytes"].as_u64().unwrap());
    assert!(segments(&after) * 10 > segments(&before) * 19, "{} {}", segments(&before), segments(&after));
    assert_eq!(after["sequence"], before["sequence"]);
    assert_eq!(read(&image.path, 4100, 6).ok().stdout, b"before");
    icecore(&["check", &image.path]).ok();
    write(&image.path, 4100, b"behind").ok();
    assert_eq!(read(&image.path, 4100, 6).ok().stdout, b"behind");
    icecore(&["check", &image.path]).ok();
    resize(100 * MIB);
    icecore(&["grow", &image.path]).refused(3, "at least");
    let direct = Image::with_volume(16 * MIB, &[]);
    icecore(&["grow", &direct.path]).refused(64, "only a pool with a log grows");
}
