//! Several volumes in one pool through the program: made, written, read, taken together, listed and deleted, also of a
//! pool that another program has open; and what is refused.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::*;
use serde_json::{Value, json};

fn made(backend: &str) -> Image {
    let image = Image::new(64 * MIB);
    let size = ["--size", "8M"];
    let what = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", backend];
    icecore(&[&what[..], &size].concat()).ok();
    image
}

/// The names of the snapshots there are.
fn names(path: &str) -> Vec<String> {
    let listed = icecore(&["snapshot", "list", path, "--json"]).ok().json();
    let all = listed["snapshots"].as_array().unwrap().iter();
    all.map(|one| one["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn further_volumes_are_made_written_read_taken_together_and_deleted() {
    let image = made("log");
    let path = &image.path;
    let volume = |what: &[&str]| icecore(&[&["volume", what[0], path], &what[1..]].concat());
    assert_eq!(volume(&["list"]).ok().text(), "");
    let object = volume(&["create", "db", "--size", "16M", "--json"]).ok().json();
    assert_eq!((&object["name"], &object["size_bytes"]), (&json!("db"), &json!(16 * MIB)));
    volume(&["create", "logs", "--size", "1M"]).ok();
    volume(&["create", "db", "--size", "1M"]).refused(64, "\"db\" already");
    volume(&["create", "x", "--size", "1000"]).refused(64, "a multiple of the region size");
    assert_eq!(volume(&["list"]).ok().text(), format!("{} db\n{} logs", 16 * MIB, MIB));
    // Each has bytes of its own, up to its own end.
    write(path, 4094, b"pool").ok();
    let end = (16 * MIB - 4).to_string();
    icecore_with(&["write", path, "--volume", "db", "--offset", "4094"], b"data").ok();
    icecore_with(&["write", path, "--volume", "db", "--offset", &end], b"last").ok();
    icecore_with(&["write", path, "--volume", "logs", "--offset", &end], b"last")
        .refused(64, "passes the end");
    icecore_with(&["write", path, "--volume", "none", "--offset", "0"], b"x").refused(64, "none");
    let read_of = |name: &str, offset: &str| {
        icecore(&["read", path, "--volume", name, "--offset", offset, "--length", "4"])
    };
    assert_eq!(read(path, 4094, 4).ok().text(), "pool");
    assert_eq!([read_of("db", "4094").ok().text(), read_of("db", &end).ok().text()], ["data", "last"]);
    assert_eq!(read_of("logs", "4094").ok().stdout, [0; 4]);
    read_of("logs", &end).refused(64, "passes the end");
    read_of("none", "0").refused(64, "no volume \"none\"");
    let versions = icecore(&["versions", path, "--volume", "db", "--offset", "4094", "--json"]).ok().json();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "{versions}");
    // One alone, and all of them.
    icecore(&["snapshot", "create", path, "db only", "--volume", "db"]).ok();
    let taken = icecore(&["snapshot", "create", path, "night", "--all-volumes", "--json"]).ok().json();
    assert_eq!(taken["snapshots"].as_array().unwrap().len(), 3);
    let mut all = names(path);
    all.sort();
    assert_eq!(all, ["db only", "db/night", "logs/night", "night"]);
    icecore_with(&["write", path, "--volume", "db", "--offset", "4094"], b"DATA").ok();
    let at = icecore(&["read", path, "--at", "db/night", "--offset", &end, "--length", "4"]).ok().text();
    assert_eq!((at.as_str(), read_of("db", "4094").ok().text().as_str()), ("last", "DATA"));
    icecore(&["snapshot", "diff", path, "night", "db/night"]).refused(64, "moments of two volumes");
    assert!(icecore(&["inspect", path]).ok().text().contains("further volumes"));
    icecore(&["check", path]).ok();
    volume(&["delete", "db"]).refused(64, "has snapshots of its own");
    icecore(&["snapshot", "delete", path, "db"]).refused(64, "no snapshot \"db\"");
    for name in ["db only", "db/night"] {
        icecore(&["snapshot", "delete", path, name]).ok();
    }
    volume(&["delete", "db"]).ok();
    volume(&["delete", "db"]).refused(64, "no volume \"db\"");
    assert_eq!(volume(&["list"]).ok().text(), format!("{MIB} logs"));
    assert_eq!(read(path, 4094, 4).ok().text(), "pool");
    icecore(&["check", path]).ok();
    for backend in ["cow", "linear", "direct"] {
        let other = made(backend);
        let refused = icecore(&["volume", "create", &other.path, "db", "--size", "1M"]);
        refused.refused(64, backend);
    }
}

#[test]
fn a_pool_that_another_program_has_open_is_asked() {
    let image = made("log");
    let run = image.folder().join("run");
    let asked = |arguments: &[&str]| {
        let mut command = command(&[arguments, io_flags()].concat());
        command.env("ICECORE_RUN_DIR", &run).stdin(Stdio::null());
        command
    };
    let ran = |arguments: &[&str]| Ran::of(asked(arguments).output().unwrap());
    let path = image.path.as_str();
    let mut child =
        asked(&["attach", path, "--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut process = Process(child);
    assert!(serde_json::from_str::<Value>(&line).unwrap()["control_socket"].is_string());
    ran(&["volume", "create", path, "db", "--size", "1M"]).ok();
    ran(&["volume", "create", path, "gone", "--size", "1M"]).ok();
    ran(&["volume", "delete", path, "gone"]).ok();
    assert_eq!(ran(&["volume", "list", path]).ok().text(), format!("{MIB} db"));
    let taken = ran(&["snapshot", "create", path, "night", "--all-volumes", "--json"]).ok().json();
    assert_eq!(taken["snapshots"][1]["name"], "db/night");
    ran(&["snapshot", "create", path, "night", "--all-volumes"]).refused(64, "already");
    must(&format!("kill -TERM {}", process.0.id()));
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    icecore(&["check", path]).ok();
    let mut all = names(path);
    all.sort();
    assert_eq!(all, ["db/night", "night"]);
}
