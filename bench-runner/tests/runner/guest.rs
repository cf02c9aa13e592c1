//! Peers that need a kernel of their own: their rows are labelled and held against ours in the same guest alone, what is missing is named,
//! and, where a guest can be booted, the real thing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bench_runner::results::RunData;

use crate::resume::{kill, rows, start, wait_for_rows};
use crate::support::{self, expect, folder, program, text, words};

const PLAN: &str = "peers --device disk --destroy disk:134217728 --backend log --span 8388608 --repeats 1 --seconds 0.1 --warmup 0.05 \
                    --snapshots 1 --seed 5";

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab")
}

fn script(path: &Path, body: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\nset -eu\n{body}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A lab whose guest is this machine, with a file as its disk, and whose peer is a file that is copied; and no peers of the host.
fn make_lab(there: &Path) {
    let here = there.display();
    fs::create_dir(there.join("peers")).unwrap();
    script(&there.join("lab/check"), "[ $1 = 208 ] || { echo \"not $1\" >&2; exit 1; }\n");
    script(
        &there.join("lab/boot"),
        &format!(
            "truncate -s ${{1}}M {here}/ram0\nprogram=$3\nshift 3\n\
             for word; do shift; [ $word != /dev/ram0 ] || word={here}/ram0; set -- \"$@\" \"$word\"; done\n\
             exec \"$program\" \"$@\"\n"
        ),
    );
    script(
        &there.join("lab/peers/dm-thin"),
        &format!(
            "cd {here}\ncase $1 in\ndescribe) echo 'durability: a copy, here' ;;\n\
             prepare) truncate -s $2 volume; echo {here}/volume ;;\ntake) cp volume $2 ;;\nshow) echo {here}/$2 ;;\n\
             remove) rm -f volume ;;\nesac\n"
        ),
    );
    fs::File::create(there.join("disk")).unwrap().set_len(128 << 20).unwrap();
}

fn peers(there: &Path, more: &[&str]) -> std::process::Output {
    let mut command = program(&[&words(PLAN)[..], more].concat());
    command.current_dir(there).output().unwrap()
}

#[test]
fn rows_of_the_guest_are_labelled_and_beside_ours_there() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let there = there.path();
    make_lab(there);
    let more = ["--scripts", "peers", "--peers", "dm-thin", "--suite", "cliff", "--out", "out"];
    let (_, stderr) = expect(&peers(there, &more), 0);
    assert!(stderr.contains("In a User-Mode-Linux guest, on a memory disk"), "{stderr}");
    let runs = |folder: &str| RunData::read(&there.join(folder)).unwrap();
    let arms = |data: &RunData| {
        let mut arms: Vec<&str> = data.runs.iter().map(|row| row.arm.as_str()).collect();
        arms.sort_unstable();
        arms.dedup();
        arms.join(" ")
    };
    let (host, guest) = (runs("out"), runs("out/guest"));
    assert_eq!((arms(&host).as_str(), arms(&guest).as_str()), ("log raw", "dm-thin log raw"));
    assert!(host.manifest.complete && guest.manifest.complete);
    assert_eq!(guest.manifest.device.path, text(&there.join("ram0")));
    assert_eq!((host.manifest.seed, guest.manifest.seed), (5, 5));
    let rows = |path: &str| {
        let mut reader = csv::Reader::from_path(there.join(path)).unwrap();
        let heads = reader.headers().unwrap().clone();
        assert_eq!(heads.iter().next_back(), Some("measured_in"));
        reader
            .records()
            .map(|row| row.unwrap().iter().map(str::to_owned).collect())
            .collect::<Vec<Vec<String>>>()
    };
    let (all, of_guest) = (rows("out/peers.csv"), rows("out/guest/peers.csv"));
    assert!(all.len() >= 4 && all.len() == of_guest.len(), "ours alone have none: {all:?}");
    for (row, own) in all.iter().zip(&of_guest) {
        let (place, values) = row.split_last().unwrap();
        let (own_place, own_values) = own.split_last().unwrap();
        assert_eq!((place.as_str(), own_place.as_str(), values), ("guest", "device", own_values));
        assert!(row.contains(&"a copy, here".to_owned()), "{row:?}");
    }
    // The ratio is that of the rates in the guest.
    let rate = |data: &RunData, arm: &str| {
        let row = data.runs.iter().find(|row| row.arm == arm && row.phase == "settled").unwrap();
        row.operations.unwrap() as f64 * 1e9 / row.measured_ns.unwrap() as f64
    };
    let row = all.iter().find(|row| row[1] == "settled" && row[3] == "log").unwrap();
    let ratio = rate(&guest, "log") / rate(&guest, "dm-thin");
    assert!((row[6].parse::<f64>().unwrap() / ratio - 1.0).abs() < 1e-3, "{row:?} {ratio}");
}

/// The guest ends in its run, or with the run outside: it is gone on with in its own folder, and both end with the rows of a run
/// that was left alone.
#[test]
fn a_guest_that_is_cut_short_is_gone_on_with() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let there = there.path();
    make_lab(there);
    let boot = fs::read_to_string(there.join("lab/boot")).unwrap();
    let pid_file = there.join("guest.pid");
    script(
        &there.join("lab/boot"),
        &boot.replace("exec ", &format!("echo $$ >{}\nexec ", pid_file.display())),
    );
    let more = |out: &'static str| {
        ["--scripts", "peers", "--peers", "dm-thin", "--suite", "cliff", "--repeats", "2", "--out", out]
    };
    let plan = PLAN.replace("--repeats 1 ", "");
    let plan = words(&plan);
    expect(&support::run_in(there, &[&plan[..], &more("alone")].concat()), 0);
    let guest_rows = there.join("out/guest/runs.csv");
    // The kernel of the guest is killed.
    let mut child = start(there, &[&plan[..], &more("out")].concat());
    assert!(wait_for_rows(&mut child, &guest_rows, 4));
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
    let (_, stderr) = expect(&child.wait_with_output().unwrap(), 4);
    assert!(stderr.contains("signal: 9") && stderr.contains("before its run in"), "{stderr}");
    let resume = words("peers --resume out --destroy disk:134217728");
    // The run outside is, and the guest with it.
    let mut child = start(there, &resume);
    assert!(wait_for_rows(&mut child, &guest_rows, 10));
    assert!(kill(child, Duration::from_millis(5)), "it ended before");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let is_there = || Path::new("/proc").join(pid.trim()).exists();
    while is_there() {
        std::thread::sleep(Duration::from_millis(5));
    }
    expect(&support::run_in(there, &resume), 0);
    for part in ["", "guest"] {
        assert_eq!(rows(&there.join("out").join(part)), rows(&there.join("alone").join(part)));
    }
    assert_eq!(
        fs::read_to_string(there.join("out/peers.csv")).unwrap().lines().count(),
        fs::read_to_string(there.join("alone/peers.csv")).unwrap().lines().count()
    );
}

#[test]
fn a_guest_that_fails_takes_nothing_of_the_others_away() {
    if support::lacks_io_uring() {
        return;
    }
    let there = folder();
    let there = there.path();
    make_lab(there);
    let ends = |out: &str, exit_code: i32| {
        let more = ["--scripts", "peers", "--peers", "dm-thin", "--suite", "cliff", "--out", out];
        let (_, stderr) = expect(&peers(there, &more), exit_code);
        let data = RunData::read(&there.join(out)).unwrap();
        assert!(data.manifest.complete && data.runs.iter().all(|row| row.valid));
        assert_eq!(data.manifest.dropped.len(), 1);
        assert_eq!(data.manifest.dropped[0].what, "dm-thin");
        assert!(there.join(out).join("peers.csv").exists());
        stderr
    };
    // It does not come up; one that cannot come up is found before anything is measured, and named.
    script(&there.join("lab/boot"), "echo no kernel today >&2\nexit 1\n");
    let stderr = ends("failed", 2);
    assert!(
        stderr.contains("no kernel today") && stderr.contains("the guest ended with exit status: 1"),
        "{stderr}"
    );
    script(&there.join("lab/check"), "echo x is missing: apt-get install y >&2\necho z too >&2\nexit 1\n");
    let stderr = ends("missing", 0);
    assert!(stderr.contains("left out: dm-thin: x is missing: apt-get install y; z too"), "{stderr}");
}

#[test]
fn what_a_guest_needs_is_named_with_its_package() {
    let there = folder();
    // Nothing but what the script itself calls.
    for tool in ["id", "ls", "awk", "df"] {
        let path = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        let path = String::from_utf8(path.stdout).unwrap();
        std::os::unix::fs::symlink(path.trim(), there.path().join(tool)).unwrap();
    }
    let check = |disk_mib: &str| {
        let mut command = Command::new("/bin/sh");
        command.arg(lab().join("check")).arg(disk_mib);
        let output = command.env("PATH", there.path()).env("ICECORE_LAB", there.path()).output().unwrap();
        expect(&output, 1).1
    };
    let stderr = check("1");
    for named in [
        "dmsetup is missing: apt-get install dmsetup",
        "setpriv is missing: apt-get install util-linux",
        "user-mode-linux",
    ] {
        assert!(stderr.contains(named), "{named}: {stderr}");
    }
    assert!(check("1000000000").contains("MiB of memory and"), "a disk that no machine has room for");
    // The runner names the same, and goes on without.
    if support::lacks_io_uring() {
        return;
    }
    fs::File::create(there.path().join("disk")).unwrap().set_len(128 << 20).unwrap();
    let mut command =
        program(&[&words(PLAN)[..], &words("--peers dm-clone-4k,dm-thin --suite quick --out out")].concat());
    let output = command.current_dir(there.path()).env("ICECORE_LAB", there.path()).output().unwrap();
    let (_, stderr) = expect(&output, 0);
    assert!(
        stderr.contains("left out: dm-clone-4k, dm-thin: ") && stderr.contains("user-mode-linux"),
        "{stderr}"
    );
}

/// The programs of device-mapper's peers say what they promise, and divide no disk but a guest's.
#[test]
fn peers_of_the_guest_run_nowhere_else() {
    let mut names: Vec<PathBuf> =
        fs::read_dir(lab().join("peers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("dm-"));
    assert_eq!(names.len(), 8);
    for peer in names {
        let call = |verb: &str| Command::new(&peer).args([verb, "4096"]).output().unwrap();
        let (stdout, _) = expect(&call("describe"), 0);
        assert!(stdout.starts_with("durability: ") && stdout.contains("memory disk"), "{stdout}");
        for verb in ["check", "prepare", "take", "show", "remove"] {
            assert!(expect(&call(verb), 1).1.contains("in a guest alone"), "{verb}");
        }
    }
}

/// The real thing, where its parts are there.
#[test]
fn a_guest_measures_what_this_kernel_has_not() {
    if support::lacks_io_uring() {
        return;
    }
    let check = Command::new(lab().join("check")).arg("208").output().unwrap();
    if !check.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&check.stderr));
        return;
    }
    let there = folder();
    let there = there.path();
    fs::File::create(there.join("disk")).unwrap().set_len(128 << 20).unwrap();
    let more = "--peers dm-thin,dm-snapshot,dm-clone-4k,dm-clone-64k-hydrating,dm-clone-64k-hydrated --suite cliff --out out";
    let (_, stderr) = expect(&peers(there, &words(more)), 0);
    let data = RunData::read(&there.join("out/guest")).unwrap();
    assert!(data.manifest.complete && data.runs.iter().all(|row| row.valid), "{stderr}");
    assert_eq!(data.manifest.device.path, "/dev/ram0");
    // Another guest can go on with it: nothing that is told of the machine is of this boot alone.
    let kernel_was_told = data.manifest.environment.kernel_command_line.unwrap();
    assert!(
        kernel_was_told.contains("mem=") && !kernel_was_told.contains("lab_settings"),
        "{kernel_was_told}"
    );
    for peer in words("dm-thin dm-snapshot dm-clone-4k dm-clone-64k-hydrating dm-clone-64k-hydrated") {
        let verified = |row: &&bench_runner::results::RunRow| {
            row.arm == peer && row.phase == "first-touch" && row.verified_blocks == Some(2 * 8388608 / 4096)
        };
        assert!(data.runs.iter().any(|row| verified(&row)), "{peer}: volume and snapshot: {:?}", data.runs);
    }
}
