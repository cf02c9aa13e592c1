//! The control socket, through real processes: a volume that somebody has open is reached there, and what is answered
//! there is true.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

/// Messages as docs/FORMATS.md describes them, made without the engine's own code.
fn message(magic: &[u8; 4], version: u32, kind: u32, body: &[u8], body_bytes: u32) -> Vec<u8> {
    let numbers = [version, kind, body_bytes].map(u32::to_le_bytes).concat();
    [magic.as_slice(), &numbers, body].concat()
}

const STATUS: u32 = 1;
const FAILED: u32 = 512;

/// A volume on an image, with control sockets in a folder beside it.
struct Rig {
    image: Image,
    run: PathBuf,
}

/// A process that has the volume open.
struct Holder {
    process: Process,
    ready: Value,
}

impl Holder {
    fn socket(&self) -> PathBuf {
        PathBuf::from(self.ready["control_socket"].as_str().unwrap())
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn signal(&self, name: &str) {
        must(&format!("kill -{name} {}", self.process.0.id()));
    }

    /// Ends it and tells its exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.process.0.wait().unwrap().code()
    }
}

impl Rig {
    fn new(more: &[&str]) -> Self {
        let image = Image::new(64 * MIB);
        let base = ["create", "--device", &image.path, "--destroy", &image.destroy(), "--backend", "log"];
        icecore(&[&base, more].concat()).ok();
        let run = image.folder().join("run");
        Self { image, run }
    }

    fn path(&self) -> &str {
        &self.image.path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&[arguments, io_flags()].concat());
        command.env("ICECORE_RUN_DIR", &self.run).stdin(Stdio::null());
        command
    }

    fn icecore(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    fn snapshot(&self, what: &str, more: &[&str]) -> Ran {
        self.icecore(&[&["snapshot", what, self.path()], more].concat())
    }

    fn names(&self) -> Vec<String> {
        let listed = self.snapshot("list", &["--json"]).ok().json();
        let all = listed["snapshots"].as_array().unwrap();
        all.iter().map(|one| one["name"].as_str().unwrap().to_string()).collect()
    }

    fn attach(&self, more: &[&str]) -> Holder {
        let mut command = self.command(&[&["attach", self.path(), "--json"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Holder { process: Process(child), ready: serde_json::from_str(&line).unwrap() }
    }
}

/// What a command said, without what differs between two volumes that are copies of each other.
fn comparable(ran: &Ran, folder: &Path) -> (Option<i32>, String, String) {
    let without = |text: &str| text.replace(folder.to_str().unwrap(), "");
    let stdout = match serde_json::from_slice::<Value>(&ran.stdout) {
        Ok(mut object) if object.is_object() => {
            let strip = |object: &mut Value| {
                if let Some(time) = object.get_mut("time_unix_ns") {
                    assert!(time.as_u64() > Some(1 << 60));
                    *time = Value::Null;
                }
            };
            strip(&mut object);
            let snapshots = object.get_mut("snapshots").and_then(Value::as_array_mut);
            snapshots.into_iter().flatten().for_each(strip);
            // Whoever has a volume open knows what has happened since; the other one looks at what is on the device.
            for name in ["generation", "closed"] {
                object.as_object_mut().unwrap().remove(name);
            }
            let log = object.get_mut("log").and_then(Value::as_object_mut);
            log.into_iter().for_each(|log| {
                log.retain(|name, _| {
                    !["index_runs", "free_segments"].contains(&name.as_str()) && !name.starts_with("tail_")
                });
            });
            object.to_string()
        }
        _ => ran.text(),
    };
    (ran.code, without(&stdout), without(&ran.stderr))
}

#[test]
fn the_same_is_printed_whether_somebody_has_it_open_or_nobody() {
    let rig = Rig::new(&["--retention", "4M"]);
    for (offset, bytes) in [(4100, b"first"), (200_000, b"again"), (4100, b"other")] {
        write(rig.path(), offset, bytes).ok();
    }
    // A copy has the same identities. Nobody opens it, and the socket of the first one is not its own.
    let copy = Rig { image: Image::new(64 * MIB), run: rig.run.clone() };
    std::fs::copy(rig.path(), copy.path()).unwrap();
    let holder = rig.attach(&[]);
    let lines: [&[&str]; 33] = [
        &["list", "--json"],
        &["create", "monday", "--json"],
        &["create", "monday", "--json"],
        &["create", "tuesday"],
        &["create", ""],
        &["list"],
        &["diff", "monday", "@1", "--json"],
        &["diff", "@1", "--json"],
        &["diff", "@1", "tuesday"],
        &["diff", "nobody"],
        &["diff", "@999", "--json"],
        &["delete", "nobody", "--json"],
        &["list", "--space"],
        &["lock", "tuesday", "--json"],
        &["delete", "tuesday"],
        &["list"],
        &["unlock", "tuesday", "--json"],
        &["create", "friday"],
        &["lock", "friday", "--until", "2099-01-01T00:00:00+01:00", "--json"],
        &["lock", "friday", "--until", "2098-01-01T00:00:00Z"],
        &["lock", "friday", "--until", "1999-01-01T00:00:00Z"],
        &["lock", "nobody", "--for", "1d"],
        &["unlock", "friday", "--json"],
        &["delete", "friday"],
        &["list", "--json"],
        &["rollback", "--sequence", "999"],
        &["rollback", "--sequence", "1", "--json"],
        &["rollback", "monday"],
        &["list", "--json"],
        &["delete", "monday", "--json"],
        &["delete", "tuesday"],
        &["list", "--json"],
        &["diff", "@0", "@3", "--json"],
    ];
    for line in lines {
        let reached = rig.snapshot(line[0], &line[1..]);
        let alone = copy.snapshot(line[0], &line[1..]);
        let said = comparable(&reached, rig.image.folder());
        assert_eq!(said, comparable(&alone, copy.image.folder()), "{line:?}");
    }
    let [one, other] = [&rig, &copy].map(|rig| {
        let ran = rig.icecore(&["inspect", rig.path(), "--json"]).ok();
        comparable(&ran, rig.image.folder())
    });
    assert_eq!(one, other);
    assert!(one.1.contains("earliest_sequence"), "{}", one.1);
    let listed = copy.snapshot("list", &["--json"]).ok().json()["snapshots"][0].clone();
    assert_eq!(
        (&listed["name"], &listed["locked"], &listed["held"]),
        (&"friday".into(), &true.into(), &false.into())
    );
    assert_eq!(listed["locked_until"], "2098-12-31T23:00:00Z");
    assert_eq!(listed["exclusive_bytes"], 0);
    copy.snapshot("delete", &["friday"]).refused(3, "is locked until 2098-12-31T23:00:00Z");
    copy.snapshot("lock", &["friday", "--until", "soon"]).refused(64, "a time such as");
    assert_eq!(holder.end("TERM"), Some(0));
    assert_eq!(rig.icecore(&["inspect", rig.path(), "--json"]).ok().json()["closed"], true);
    icecore(&["check", rig.path()]).ok();
    icecore(&["check", copy.path()]).ok();
}

#[test]
fn other_backends_are_refused_alike() {
    for (backend, command, says) in [
        ("direct", ["create", "x"], "keeps no past"),
        ("linear", ["create", "x"], "keeps no named moments"),
        ("direct", ["diff", "@0"], "keeps no past"),
    ] {
        let image = Image::new(64 * MIB);
        let destroy = image.destroy();
        icecore(&["create", "--device", &image.path, "--destroy", &destroy, "--backend", backend]).ok();
        let rig = Rig { run: image.folder().join("run"), image };
        let alone = rig.snapshot(command[0], &command[1..]);
        let holder = rig.attach(&["--no-apply"]);
        let reached = rig.snapshot(command[0], &command[1..]);
        assert_eq!((reached.code, &reached.stderr), (alone.code, &alone.stderr));
        reached.refused(64, says);
        let shown = rig.icecore(&["inspect", rig.path(), "--json"]).ok().json();
        assert_eq!(shown["linear"]["applied"].is_u64(), backend == "linear", "{shown}");
        assert_eq!(holder.end("INT"), Some(0));
    }
}

#[test]
fn every_path_to_a_device_finds_its_socket() {
    let rig = Rig::new(&[]);
    let _holder = rig.attach(&[]);
    let (link, hard) = (rig.image.folder().join("link"), rig.image.folder().join("hard"));
    std::os::unix::fs::symlink(rig.path(), &link).unwrap();
    std::fs::hard_link(rig.path(), &hard).unwrap();
    for (path, name) in [(&link, "one"), (&hard, "two")] {
        rig.icecore(&["snapshot", "create", path.to_str().unwrap(), name]).ok();
    }
    assert_eq!(rig.names(), ["one", "two"]);
    if let Some(device) = Loop::new(512) {
        let run = device.image.folder().join("run");
        let create = ["create", "--device", &device.path, "--destroy", &device.destroy(), "--backend", "log"];
        icecore(&create).ok();
        let link = device.image.folder().join("link");
        std::os::unix::fs::symlink(&device.path, &link).unwrap();
        let mut image = Image::new(0);
        image.path.clone_from(&device.path);
        let rig = Rig { image, run };
        let holder = rig.attach(&[]);
        rig.icecore(&["snapshot", "create", link.to_str().unwrap(), "three"]).ok();
        assert_eq!(rig.names(), ["three"]);
        assert_eq!(holder.end("TERM"), Some(0));
    }
}

#[test]
fn a_killed_holder_leaves_its_snapshots_and_a_socket_that_is_replaced() {
    let rig = Rig::new(&[]);
    write(rig.path(), 0, b"first").ok();
    let holder = rig.attach(&[]);
    let socket = holder.socket();
    rig.snapshot("create", &["before"]).ok();
    holder.end("KILL");
    assert!(socket.exists(), "it could not remove it");
    // Nobody has it, so it is opened here.
    assert_eq!(rig.names(), ["before"]);
    rig.snapshot("create", &["after"]).ok();
    write(rig.path(), 0, b"other").ok();
    let holder = rig.attach(&[]);
    assert_eq!(holder.socket(), socket);
    assert_eq!(rig.names(), ["before", "after"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&rig.run)), (0o600, 0o700));
    rig.snapshot("diff", &["before", "after"]).ok();
    rig.snapshot("rollback", &["before"]).ok();
    assert_eq!(holder.end("TERM"), Some(0));
    assert!(!socket.exists());
    assert_eq!(read(rig.path(), 0, 5).ok().stdout, b"first");
}

#[test]
fn a_second_opener_is_refused_and_so_is_everything_else_that_needs_the_device() {
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    rig.icecore(&["attach", rig.path()]).refused(3, "it is already open");
    rig.icecore(&["write", rig.path(), "--offset", "0"]).refused(3, "it is already open");
    assert_eq!(rig.names(), [""; 0], "the refused one has not taken the socket away");
    assert!(holder.socket().exists());
    // Somebody listens where this one is about to: on a copy that lies in the same inode now, which cannot be.
    assert_eq!(holder.end("HUP"), Some(0));
    let name = rig.attach(&[]).socket();
    let _listener = {
        std::fs::remove_file(&name).ok();
        UnixListener::bind(&name).unwrap()
    };
    rig.icecore(&["attach", rig.path()]).refused(3, name.to_str().unwrap());
    assert!(name.exists());
}

#[test]
fn a_holder_that_does_not_listen_is_named() {
    let rig = Rig::new(&[]);
    let file = std::fs::File::open(rig.path()).unwrap();
    file.try_lock().unwrap();
    let says = format!("it is open in process {} (", std::process::id());
    let refused = rig.snapshot("create", &["x", "--json"]).refused(3, &says);
    assert_eq!(refused.json()["error"]["kind"], "Busy");
    refused.refused(3, "ICECORE_RUN_DIR");
    // A look disturbs nobody.
    assert_eq!(rig.names(), [""; 0]);
    drop(file);
    rig.snapshot("create", &["x"]).ok();
}

#[test]
fn a_holder_that_stands_still_is_named() {
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    holder.signal("STOP");
    let begun = Instant::now();
    let says = format!("it is open in process {}", holder.process.0.id());
    rig.snapshot("list", &[]).refused(3, &says);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    holder.signal("CONT");
    rig.snapshot("create", &["x"]).ok();
}

#[test]
fn unfit_directories_are_refused_before_anything_is_written() {
    let rig = Rig::new(&[]);
    let before = rig.image.bytes();
    std::fs::create_dir(&rig.run).unwrap();
    std::fs::set_permissions(&rig.run, std::fs::Permissions::from_mode(0o755)).unwrap();
    rig.icecore(&["attach", rig.path()]).refused(64, "chmod 700");
    let long = rig.image.folder().join("x".repeat(100));
    let with = |directory: &Path| {
        let mut command = rig.command(&["attach", rig.path()]);
        Ran::of(command.env("ICECORE_RUN_DIR", directory).output().unwrap())
    };
    with(&long).refused(64, "too long");
    with(&rig.image.folder().join("none/run")).refused(4, "none/run");
    assert_eq!(rig.image.bytes(), before);
    // Who only asks needs no directory.
    rig.snapshot("create", &["x"]).ok();
    assert_eq!(rig.names(), ["x"]);
}

#[test]
fn what_is_no_message_is_refused_and_disturbs_nobody() {
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    let mut seed = 7_u64;
    let mut noise = |count: usize| -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u8
        };
        (0..count).map(|_| next()).collect()
    };
    let garbage = [noise(1 << 16), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 16]];
    let told = [
        (message(b"ICTL", 1, STATUS, b"", u32::MAX), "TransferTooLong"),
        (message(b"ICTL", 1, 4, b"", 4097), "TransferTooLong"),
        (message(b"ICTL", 2, STATUS, b"", 0), "ControlVersion"),
        (message(b"ICTL", 1, 99, b"", 0), "BadMessage"),
        (message(b"ICTL", 1, FAILED, b"", 0), "BadMessage"),
        (message(b"ICTL", 1, 4, &u64::MAX.to_le_bytes(), 8), "BadMessage"),
        (message(b"ICTL", 1, STATUS, b"x", 1), "BadMessage"),
    ];
    let told = told.into_iter().chain(garbage.map(|bytes| (bytes, "BadMessage")));
    for (bytes, reason) in told {
        let mut stream = holder.connect();
        // It may be refused, and dropped, before all of it is sent.
        let _dropped = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _dropped = stream.read_to_end(&mut answer);
        assert_eq!(answer[..12], message(b"ICTL", 1, FAILED, b"", 0)[..12], "{reason}");
        assert!(answer.windows(reason.len()).any(|window| window == reason.as_bytes()), "{reason}");
    }
    for round in 0..200 {
        let mut stream = holder.connect();
        let _dropped = stream.write_all(&[b"ICTL\x01\0\0\0".to_vec(), noise(round)].concat());
    }
    rig.snapshot("create", &["x"]).ok();
    assert_eq!(rig.names(), ["x"]);
    assert_eq!(holder.end("TERM"), Some(0));
}

#[test]
fn clients_that_say_nothing_hold_up_nobody() {
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    let timed = || {
        let begun = Instant::now();
        rig.snapshot("list", &[]).ok();
        begun.elapsed()
    };
    // Beside fifteen, one is served at once: silent ones, some in the middle of a message.
    let mut silent: Vec<UnixStream> = (0..15).map(|_| holder.connect()).collect();
    silent.iter_mut().step_by(2).for_each(|stream| stream.write_all(b"ICTL\x01\0").unwrap());
    assert!(timed() < Duration::from_secs(3));
    // Where they have taken all places, and there are more of them, when they have been dropped.
    silent.extend((0..4).map(|_| holder.connect()));
    let waited = timed();
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(10), "{waited:?}");
    for mut stream in silent.drain(..15) {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "it was dropped");
    }
    // Serving ends although somebody is connected.
    let begun = Instant::now();
    let _connected = holder.connect();
    assert_eq!(holder.end("TERM"), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn many_at_once_are_all_served() {
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    let children: Vec<Child> = (0..24)
        .map(|number| rig.command(&["snapshot", "create", rig.path(), &format!("s{number}")]))
        .map(|mut command| command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        Ran::of(child.wait_with_output().unwrap()).ok();
    }
    let mut names = rig.names();
    names.sort_by_key(|name| name[1..].parse::<u32>().unwrap());
    assert_eq!(names, (0..24).map(|number| format!("s{number}")).collect::<Vec<_>>());
    assert_eq!(holder.end("TERM"), Some(0));
}

#[test]
fn strangers_are_not_served() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let rig = Rig::new(&[]);
    let holder = rig.attach(&[]);
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let program = rig.image.folder().join("icecore");
    std::fs::copy(env!("CARGO_BIN_EXE_icecore"), &program).unwrap();
    open(&program, 0o755);
    open(rig.image.folder(), 0o711);
    open(Path::new(rig.path()), 0o666);
    let stranger = || {
        let mut command = Command::new(&program);
        command.args(["--blocking", "snapshot", "create", rig.path(), "x"]).stdin(Stdio::null());
        Ran::of(command.env("ICECORE_RUN_DIR", &rig.run).uid(65534).gid(65534).output().unwrap())
    };
    // The directory keeps them out; where somebody has opened it and the socket, the peer is looked at.
    stranger().refused(3, "permission denied");
    open(&rig.run, 0o711);
    stranger().refused(3, "permission denied");
    open(&holder.socket(), 0o666);
    stranger().refused(3, "permission denied");
    assert_eq!(rig.names(), [""; 0]);
    assert_eq!(holder.end("TERM"), Some(0));
}
