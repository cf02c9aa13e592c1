//! What the tests of the runner ask of the system and of the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use icecore::runtime::{Runtime, RuntimeOptions};
use tempfile::TempDir;

/// Whether the system has no io_uring, without which nothing is measured; says so.
pub fn lacks_io_uring() -> bool {
    match Runtime::new(RuntimeOptions::default()) {
        Ok(_runtime) => false,
        Err(error) => {
            println!("skipped: {error}");
            true
        }
    }
}

/// A temporary folder under the build's own folder: /tmp is often a tmpfs, where nothing is measured.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The file `disk` in a folder.
pub fn make_file(folder: &Path, size_bytes: u64) -> PathBuf {
    let path = folder.join("disk");
    fs::File::create_new(&path).unwrap().set_len(size_bytes).unwrap();
    path
}

/// A folder with the file `disk`; `None`, and said so, where nothing can be measured.
pub fn folder_with_disk(size_bytes: u64) -> Option<TempDir> {
    if lacks_io_uring() {
        return None;
    }
    let folder = folder();
    make_file(folder.path(), size_bytes);
    Some(folder)
}

/// A peer's program of this name in a folder; `here` is where it may leave something.
pub fn peer(scripts: &Path, here: &Path, name: &str, text: &str) {
    let path = scripts.join(name);
    fs::write(&path, format!("#!/bin/sh\nset -eu\nhere={}\n{text}", here.display())).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// A peer that is a file, and copies it.
pub const COPIES: &str = "case $1 in\ndescribe) echo 'durability: a copy' ;;\n\
    prepare) truncate -s $2 $here/copied; echo $here/copied; stat -c %s $PEERS_DEVICE >$here/device ;;\n\
    take) cp $here/copied $here/$2 ;;\nshow) echo $here/$2 ;;\nremove) rm -f $here/copied; echo x >>$here/removed ;;\nesac\n";

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The arguments of a line.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The program with these arguments.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-runner"));
    command.args(arguments);
    command
}

/// Runs the program.
pub fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Runs the program in a folder.
pub fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    program(arguments).current_dir(folder).output().unwrap()
}

/// What it said, with everything of it where another exit code was expected.
#[track_caller]
pub fn expect(output: &Output, exit_code: i32) -> (String, String) {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}
