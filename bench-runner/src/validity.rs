//! Why a run does not count although it ended, and what else stands beside its figures: rule by rule.
//!
//! | rule | limit | consequence |
//! |---|---|---|
//! | wrong content (`content`) | one byte | does not count |
//! | foreign I/O on the device | [`FOREIGN_PERCENT_MAX`] of its bytes | does not count |
//! | busy core of the runner | [`BUSY_PERCENT_MARKED`] of the time | marked; docs/decisions/0031 says why it counts in a closed loop |
//!
//! What cannot be measured is left empty and is no reason.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::Bench;
use crate::results::RunRow;
use crate::suite::Load;

/// Share of the device's bytes that others may move meanwhile, in percent.
pub const FOREIGN_PERCENT_MAX: f64 = 0.5;

/// Share of the time that the runner's core may be busy before the figure is one of the core, in percent.
pub const BUSY_PERCENT_MARKED: f64 = 80.0;

/// Sectors of `/sys/dev/block/…/stat`, whatever the device's own are.
const STAT_SECTOR_BYTES: u64 = 512;

/// How much of the time the measuring thread was on its core, in percent.
pub fn busy_percent(run: &RunRow) -> Option<f64> {
    let cpu_ns = run.cpu_user_ns? + run.cpu_system_ns?;
    let wall_ns = run.measured_ns.filter(|wall_ns| *wall_ns > 0)?;
    Some(cpu_ns as f64 * 100.0 / wall_ns as f64)
}

/// Whether the run's figures are of the runner's core rather than of the device. An open load keeps its core busy between operations.
pub fn is_core_bound(run: &RunRow) -> bool {
    !Load::is_open_phase(&run.phase) && busy_percent(run).is_some_and(|percent| percent > BUSY_PERCENT_MARKED)
}

/// Why the run does not count for what others did on the device.
pub fn foreign_reason(foreign_percent: Option<f64>) -> Option<String> {
    let percent = foreign_percent.filter(|percent| *percent > FOREIGN_PERCENT_MAX)?;
    Some(format!(
        "{percent:.2} % of the bytes that the device moved were not the runner's, at most {FOREIGN_PERCENT_MAX} % may be: \
         find out what else uses it"
    ))
}

/// Counts what moves on the block device from now on, beside what this process moves.
#[derive(Debug)]
pub struct ForeignWatch {
    stat: PathBuf,
    before: Moved,
}

/// Bytes read and written together.
#[derive(Clone, Copy, Debug)]
struct Moved {
    by_device: u64,
    by_us: u64,
}

impl ForeignWatch {
    /// Begins; `None` for a file, whose file system moves more than the file, and where the system does not tell.
    pub fn begin(bench: &Bench) -> Option<Self> {
        let number = bench.identity().device_number?;
        let (major, minor) = number;
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        let before = Moved::now(&stat)?;
        Some(ForeignWatch { stat, before })
    }

    /// The share of the bytes moved since that were not this process's (nor its ended children's), in percent.
    pub fn percent(&self) -> Option<f64> {
        let now = Moved::now(&self.stat)?;
        share(now.by_device - self.before.by_device, now.by_us - self.before.by_us)
    }
}

fn share(by_device: u64, by_us: u64) -> Option<f64> {
    // The process may have moved something elsewhere; that is nobody else's work.
    (by_device > 0).then(|| by_device.saturating_sub(by_us) as f64 * 100.0 / by_device as f64)
}

impl Moved {
    fn now(stat: &Path) -> Option<Self> {
        let by_device = device_bytes(&fs::read_to_string(stat).ok()?)?;
        let (read, written) = kernel_bytes()?;
        Some(Moved { by_device, by_us: read + written })
    }
}

/// Third and seventh field of the kernel's `stat`: sectors read and written.
fn device_bytes(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat.split_whitespace().map_while(|field| field.parse().ok()).collect();
    Some((fields.get(2)? + fields.get(6)?) * STAT_SECTOR_BYTES)
}

/// Time that the machine has taken from the calling thread, in nanoseconds: the thread was ready and did not run, and what the
/// system under this one took from all processors. `None` where the kernel does not tell.
pub(crate) fn taken_from_this_thread_ns() -> Option<u64> {
    let waited_ns = waited_ns(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)?;
    Some(waited_ns + stolen_ns(&fs::read_to_string("/proc/stat").ok()?)?)
}

/// Second field of the kernel's `schedstat` of a thread.
fn waited_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

/// Eighth value of the first line of the kernel's `stat`, in hundredths of a second.
fn stolen_ns(stat: &str) -> Option<u64> {
    let ticks: u64 = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()?;
    Some(ticks * 10_000_000)
}

/// Bytes that this process has had read and written by devices, as the kernel counts them.
pub(crate) fn kernel_bytes() -> Option<(u64, u64)> {
    process_bytes(&fs::read_to_string("/proc/self/io").ok()?)
}

fn process_bytes(io: &str) -> Option<(u64, u64)> {
    let value = |name: &str| io.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some((value("read_bytes:")?, value("write_bytes:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read_as_they_are_written() {
        let stat = "    1093        0    80000      511     2000      7     16000      900        0      700     1411\n";
        assert_eq!(device_bytes(stat), Some((80_000 + 16_000) * 512));
        assert_eq!(device_bytes("1 2 3"), None);
        let io = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 9\n";
        assert_eq!(process_bytes(io), Some((4_096, 8_192)));
        assert_eq!(process_bytes("rchar: 1\n"), None);
        assert_eq!(waited_ns("62114 49410 2\n"), Some(49_410));
        let stat =
            "cpu  7513114 178300 1352261 3682874 1181664 0 128007 5599 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(stolen_ns(stat), Some(55_990_000_000));
        assert_eq!((waited_ns("62114"), stolen_ns("cpu0 1 2 3 4 5 6 7 8 9 10\n")), (None, None));
    }

    #[test]
    fn a_half_percent_of_others_is_too_much() {
        assert_eq!(share(1_000, 1_000), Some(0.0));
        assert_eq!(share(1_000, 2_000), Some(0.0), "our own I/O elsewhere");
        assert_eq!(share(0, 0), None);
        assert_eq!(foreign_reason(share(10_000, 9_950)), None);
        assert!(foreign_reason(share(10_000, 9_949)).unwrap().contains("0.51 %"));
        assert_eq!(foreign_reason(None), None);
    }

    #[test]
    fn a_busy_core_is_marked() {
        let run = |cpu_ns: Option<u64>| RunRow {
            cpu_user_ns: cpu_ns,
            cpu_system_ns: Some(400),
            measured_ns: Some(1_000),
            ..RunRow::default()
        };
        assert_eq!(busy_percent(&run(Some(300))), Some(70.0));
        assert!(!is_core_bound(&run(Some(400))) && is_core_bound(&run(Some(401))));
        assert_eq!(busy_percent(&run(None)), None);
    }
}
