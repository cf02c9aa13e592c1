//! The facts about device, machine and build that a result means nothing without.
//!
//! Read from `/proc`, `/sys` and git when a run begins. What cannot be found out stays empty.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use icecore::device::{Geometry, Identity, sys};

use crate::bench::Bench;
use crate::results::{DeviceFacts, EnvironmentFacts};

/// What the system says of the device or file.
pub fn device_facts(path: &Path, identity: &Identity, geometry: &Geometry) -> DeviceFacts {
    let is_block = identity.device_number.is_some();
    let disk = disk_of(path);
    let attribute = |name: &str| disk.as_ref().and_then(|disk| first_line(&disk.join(name)));
    DeviceFacts {
        path: path.display().to_string(),
        serial: identity.serial.clone(),
        size_bytes: identity.size_bytes,
        kind: if is_block { "block device" } else { "file" }.to_owned(),
        model: attribute("device/model").or_else(|| loop_backing(disk.as_deref()?)),
        firmware: attribute("device/firmware_rev").or_else(|| attribute("device/rev")),
        file_system: (!is_block).then(|| sys::filesystem_name(path)),
        scheduler: attribute("queue/scheduler").map(|choices| chosen(&choices)),
        nr_requests: attribute("queue/nr_requests").and_then(|requests| requests.parse().ok()),
        write_cache: attribute("queue/write_cache"),
        logical_block_bytes: Some(u64::from(geometry.logical_block_bytes)),
        physical_block_bytes: Some(u64::from(geometry.physical_block_bytes)),
        rotational: Some(geometry.rotational),
    }
}

/// What is known of what a bench measures.
pub fn bench_facts(bench: &Bench) -> DeviceFacts {
    let geometry = bench.geometry();
    let Some(export) = bench.export() else {
        return device_facts(bench.path(), bench.identity(), &geometry);
    };
    DeviceFacts {
        path: bench.path().display().to_string(),
        serial: bench.identity().serial.clone(),
        size_bytes: bench.identity().size_bytes,
        kind: "NBD export".to_owned(),
        model: Some(export.io_path()),
        firmware: None,
        file_system: None,
        scheduler: None,
        nr_requests: None,
        write_cache: None,
        logical_block_bytes: Some(u64::from(geometry.logical_block_bytes)),
        physical_block_bytes: Some(u64::from(geometry.physical_block_bytes)),
        rotational: Some(geometry.rotational),
    }
}

/// What the machine and the build are.
pub fn environment_facts() -> EnvironmentFacts {
    let line = |path: &str| first_line(Path::new(path));
    let checkout = checkout();
    let commit = checkout.as_deref().and_then(|folder| git(folder, &["rev-parse", "HEAD"]));
    let changes = checkout.as_deref().and_then(|folder| git(folder, &["status", "--porcelain"]));
    EnvironmentFacts {
        kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        kernel_command_line: line("/proc/cmdline").map(|line| kernels_own(&line)),
        cpu_model: cpu_model(),
        cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u64),
        processors: processors(),
        kernel_worker_processors: kernel_worker_processors(),
        governor: governor(),
        memory_bytes: memory_bytes(),
        rustc: env!("ICECORE_RUSTC").to_owned(),
        git_dirty: commit.as_ref().and(changes).map(|changes| !changes.is_empty()),
        git_commit: commit.unwrap_or_else(|| "unknown".to_owned()),
        clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .map(|source| format!("CLOCK_MONOTONIC ({source})")),
        engine_features: Vec::new(),
    }
}

/// Of the kernel's command line what is the kernel's: what names its first program, and what is for that alone, changes no figure, and may
/// be nobody else's business.
fn kernels_own(line: &str) -> String {
    let words = line.split_whitespace().take_while(|word| *word != "--");
    let is_own = |word: &&str| !["init=", "rdinit="].iter().any(|name| word.starts_with(name));
    words.filter(is_own).collect::<Vec<_>>().join(" ")
}

/// The processors that this process may run on, as a list of ranges.
fn processors() -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned())
}

/// The processors that the kernel's unbound workers may run on, as a hexadecimal mask. Such a worker does the I/O of a loop
/// device: at depth 1, where it runs decides more than the device does.
fn kernel_worker_processors() -> Option<String> {
    first_line(Path::new("/sys/devices/virtual/workqueue/cpumask"))
}

/// The frequency governor, or `none` where the kernel scales no frequency.
pub(crate) fn governor() -> String {
    let path = Path::new("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    first_line(path).unwrap_or_else(|| "none".to_owned())
}

/// The CPU's name.
pub(crate) fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Hardware"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// `[none] mq-deadline` means `none`.
fn chosen(choices: &str) -> String {
    let inside = choices.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(choices, |(chosen, _)| chosen).to_owned()
}

/// The folder in `/sys` of the whole disk that a device is or that a file's file system lies on.
fn disk_of(path: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(path).ok()?;
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let link = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    let folder = fs::canonicalize(link).ok()?;
    if folder.join("partition").exists() { folder.parent().map(Path::to_owned) } else { Some(folder) }
}

fn loop_backing(disk: &Path) -> Option<String> {
    first_line(&disk.join("loop/backing_file")).map(|file| format!("loop device on {file}"))
}

fn first_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// The checkout that the program was built from, where it is still there.
fn checkout() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.is_dir().then_some(folder)
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    // Nothing of the checkout is written, its index neither.
    let output =
        Command::new("git").arg("--no-optional-locks").arg("-C").arg(folder).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_in_brackets_is_the_one_in_use() {
        assert_eq!(chosen("[none] mq-deadline"), "none");
        assert_eq!(chosen("none [mq-deadline] kyber"), "mq-deadline");
        assert_eq!(chosen("none"), "none");
    }

    #[test]
    fn what_is_for_the_first_program_is_not_told() {
        let line = "mitigations=off rdinit=/own/program quiet init=/sbin/init nr_cpus=2 -- --token secret";
        assert_eq!(kernels_own(line), "mitigations=off quiet nr_cpus=2");
        assert_eq!(kernels_own(""), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_compiler() {
        let facts = environment_facts();
        assert!(!facts.kernel.is_empty() && facts.rustc.starts_with("rustc "), "{facts:?}");
        assert!(facts.cores > 0 && facts.memory_bytes.is_some());
    }
}
