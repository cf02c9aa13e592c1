//! Snapshots of several volumes at one instant through the program: volumes that nobody has open, that other programs have
//! open, and a mix; what is refused, and what is told of a group that is not whole.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;
use serde_json::Value;

struct Rig {
    images: Vec<Image>,
    run: PathBuf,
}

/// A process that has a volume open, and its socket.
struct Holder(Process, PathBuf);

impl Rig {
    fn new(backends: &[&str]) -> Self {
        let made = |backend: &&str| {
            let image = Image::new(64 * MIB);
            let what =
                ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", *backend];
            icecore(&what).ok();
            image
        };
        let images: Vec<Image> = backends.iter().map(made).collect();
        let run = images[0].folder().join("run");
        Self { images, run }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&[arguments, io_flags()].concat());
        command.env("ICECORE_RUN_DIR", &self.run).stdin(Stdio::null());
        command
    }

    fn snapshot(&self, what: &str, more: &[&str]) -> Ran {
        let paths = self.images.iter().map(|image| image.path.as_str());
        let all: Vec<&str> =
            ["snapshot", what].into_iter().chain(paths).chain(more.iter().copied()).collect();
        Ran::of(self.command(&all).output().unwrap())
    }

    fn attach(&self, at: usize) -> Holder {
        let mut command = self.command(&["attach", &self.images[at].path, "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Holder(Process(child), PathBuf::from(ready["control_socket"].as_str().unwrap()))
    }

    /// The names of the snapshots of each volume, and the groups that are not whole.
    fn listed(&self) -> (Vec<Vec<String>>, Vec<Value>) {
        let listed = self.snapshot("list", &["--json"]).ok().json();
        let names = |volume: &Value| {
            let snapshots = volume["snapshots"].as_array().unwrap();
            snapshots.iter().map(|one| one["name"].as_str().unwrap().to_string()).collect()
        };
        let volumes = listed["volumes"].as_array().unwrap().iter().map(names).collect();
        (volumes, listed["incomplete_groups"].as_array().unwrap().clone())
    }
}

fn end(holder: Holder) {
    let mut process = holder.0;
    must(&format!("kill -TERM {}", process.0.id()));
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

#[test]
fn several_volumes_are_taken_together_whoever_has_them_open() {
    let rig = Rig::new(&["log", "cow", "overlay"]);
    for (number, open) in [vec![], vec![1], vec![0, 2], vec![0, 1, 2]].into_iter().enumerate() {
        let holders: Vec<Holder> = open.iter().map(|at| rig.attach(*at)).collect();
        let name = format!("night {number}");
        let taken = rig.snapshot("create", &[&name, "--json"]).ok().json();
        let snapshots = taken["snapshots"].as_array().unwrap();
        let paths: Vec<&str> = snapshots.iter().map(|one| one["path"].as_str().unwrap()).collect();
        assert_eq!(paths, rig.images.iter().map(|image| image.path.as_str()).collect::<Vec<_>>());
        assert!(snapshots.iter().all(|one| one["group"] == taken["group"] && one["group_members"] == 3));
        let (names, short) = rig.listed();
        assert!(names.iter().all(|names| names.contains(&name)), "{names:?}");
        assert_eq!(short, Vec::<Value>::new());
        holders.into_iter().for_each(end);
        // A name that one of them has is refused, and nothing is left of it elsewhere.
        let one = &rig.images[1].path;
        icecore(&["snapshot", "create", one, &format!("day {number}")]).ok();
        let holders: Vec<Holder> = open.iter().map(|at| rig.attach(*at)).collect();
        rig.snapshot("create", &[&format!("day {number}")]).refused(64, "already");
        assert!(!rig.listed().0[0].contains(&format!("day {number}")));
        holders.into_iter().for_each(end);
    }
    for image in &rig.images {
        icecore(&["check", &image.path]).ok();
    }
    // One that is gone is missed.
    icecore(&["snapshot", "delete", &rig.images[2].path, "night 1"]).ok();
    let (_, short) = rig.listed();
    assert_eq!((short.len(), &short[0]["members"]), (1, &3.into()));
    assert_eq!(short[0]["found"], serde_json::json!(["night 1", "night 1"]));
    let said = rig.snapshot("list", &[]).ok();
    assert!(said.stderr.contains("2 of 3 snapshots are there"), "{}", said.stderr);
    let twice = &rig.images[0].path;
    icecore(&["snapshot", "create", twice, twice, "x"]).refused(64, "each volume once");
    icecore(&["snapshot", "create", twice, &rig.images[1].path, "x", "--of", "y"])
        .refused(64, "name one volume");
}

/// A message as docs/FORMATS.md describes it.
fn hold(id: u8) -> Vec<u8> {
    let number = |number: u64| number.to_le_bytes().to_vec();
    let body = [vec![id; 16], number(2), number(1), number(0), number(1), b"x".to_vec()].concat();
    let header = [b"ICTL".to_vec(), [1_u32, 12, body.len() as u32].map(u32::to_le_bytes).concat()].concat();
    [header, body].concat()
}

#[test]
fn a_client_that_dies_holds_nobody_up() {
    let rig = Rig::new(&["log"]);
    let holder = rig.attach(0);
    let mut stream = UnixStream::connect(&holder.1).unwrap();
    stream.write_all(&hold(7)).unwrap();
    let mut answer = [0; 16];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(answer[8..12], (256_u32 + 12).to_le_bytes(), "it is held");
    // It dies, and the next one need not wait for the time limit.
    drop(stream);
    let began = Instant::now();
    rig.snapshot("create", &["monday"]).ok();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // One that stays silent holds it for as long as is allowed.
    let mut stream = UnixStream::connect(&holder.1).unwrap();
    stream.write_all(&hold(8)).unwrap();
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    let began = Instant::now();
    rig.snapshot("create", &["tuesday"]).ok();
    let waited = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(30)).contains(&waited), "{waited:?}");
    end(holder);
    icecore(&["check", &rig.images[0].path]).ok();
}
