//! The state of a device before it is measured: purged, and written over twice in order, as SNIA's *Solid State Storage Performance
//! Test Specification* has it.
//!
//! A new or emptied device is faster than it will ever be again. Whoever asks for it (`run --precondition`) has everything on the
//! device discarded, so that nothing is left of what was done before, and all of it written twice over, sequentially in 128 KiB. The
//! workload itself comes then, until it is steady (`--until-steady`, [`steady`](crate::stats::steady)).
//!
//! Invariants: nothing is touched but the device or file that `--destroy` names, from its first byte to the last of the size that it
//! names. A discard that a device does not do is never made up for by writing: it is said.
#![allow(unsafe_code, reason = "discards of files and devices have no safe wrapper in std")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use icecore::device::sys;
use icecore_workloads::Stamper;

use crate::arms::target::Bare;
use crate::bench::Bench;
use crate::content::{self, Passes};
use crate::failure::Failure;
use crate::interrupt;
use crate::report::text::size;

/// How often the whole device is written.
pub const PASSES: u32 = 2;
/// Bytes of each of these writes.
pub const WRITE_BYTES: usize = 128 << 10;
/// Discarded at once, so that a signal is heard in between.
const DISCARD_BYTES: u64 = 1 << 30;
/// `BLKDISCARD` of `linux/fs.h`: a range of two u64, its first byte and its length.
const BLKDISCARD: libc::Ioctl = libc::_IO(0x12, 119);

/// When the device is purged and written over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Precondition {
    /// Not at all.
    #[default]
    #[value(skip)]
    Never,
    /// Before the run.
    Run,
    /// Before each arm of each block.
    Arm,
}

impl Precondition {
    /// Times in a plan of so many arms over all blocks.
    pub fn times(self, arms: usize) -> u64 {
        match self {
            Precondition::Never => 0,
            Precondition::Run => 1,
            Precondition::Arm => arms as u64,
        }
    }

    /// In words for results, before what is done for each arm; empty where it is not done.
    pub fn words(self) -> String {
        let when = match self {
            Precondition::Never => return String::new(),
            Precondition::Run => "before the run",
            Precondition::Arm => "before each arm",
        };
        format!(
            "{when} all of the device discarded where it can be, then written {PASSES} times over in {} KiB writes in order at depth \
             {}; ",
            WRITE_BYTES >> 10,
            content::TRANSFERS_IN_FLIGHT
        )
    }
}

/// What was done to a device.
#[derive(Clone, Debug)]
pub struct Done {
    /// For the events of a run.
    pub words: String,
    /// Why it could not be purged.
    pub not_purged: Option<String>,
}

/// Purges the device and writes all of it over. Its contents are lost.
///
/// # Errors
/// What the device says, or that a signal stopped it.
pub fn precondition(bench: &Bench, seed: u64) -> Result<Done, Failure> {
    let begun = Instant::now();
    let size_bytes = bench.identity().size_bytes;
    let not_purged = purge(bench)?;
    let purged_s = begun.elapsed().as_secs_f64();
    let passes = Passes { count: PASSES, transfer_bytes: WRITE_BYTES };
    // What is shorter than a block stays as it is.
    let whole_bytes = size_bytes - size_bytes % 4096;
    let (runtime, stamper) = (bench.runtime(), Stamper::new(seed));
    match bench.export() {
        Some(export) => content::write_over(runtime, export, whole_bytes, stamper, passes)?,
        None => content::write_over(runtime, &Bare::new(bench.device(), 0), whole_bytes, stamper, passes)?,
    }
    let written_s = begun.elapsed().as_secs_f64() - purged_s;
    let purged = not_purged.as_ref().map_or_else(
        || format!("discarded {} in {purged_s:.1} s", size(size_bytes)),
        |why| format!("not discarded: {why}"),
    );
    let words = format!("{purged}; written {} in {written_s:.1} s", size(whole_bytes * u64::from(PASSES)));
    Ok(Done { words, not_purged })
}

/// Discards everything on the device. `Some`: why it cannot, and nothing was done.
///
/// # Errors
/// What the system says otherwise, or that a signal stopped it.
fn purge(bench: &Bench) -> Result<Option<String>, Failure> {
    if bench.export().is_some() {
        return Ok(Some("exports are not discarded".to_owned()));
    }
    let path = bench.path();
    let failed =
        |what: &str, error: io::Error| Failure::environment(format!("{}: {what}: {error}", path.display()));
    // Not created, and not truncated: the bench holds it.
    let file = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path);
    let file = file.map_err(|error| failed("opening to discard", error))?;
    let kind =
        file.metadata().map_err(|error| failed("looking at what is to be discarded", error))?.file_type();
    for (offset, length) in pieces(bench.identity().size_bytes) {
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        let done = if kind.is_block_device() {
            discard_blocks(&file, offset, length)
        } else {
            punch_hole(&file, offset, length)
        };
        match done {
            Ok(()) => {}
            Err(error) if offset == 0 && is_unsupported(&error) => {
                return Ok(Some(reason(path, kind.is_block_device())));
            }
            Err(error) => return Err(failed("discarding", error)),
        }
    }
    file.sync_all().map_err(|error| failed("a flush after discarding", error))?;
    Ok(None)
}

fn reason(path: &Path, is_block_device: bool) -> String {
    if is_block_device {
        "the device takes no discards".to_owned()
    } else {
        format!("{} cannot give back the space of a file", sys::filesystem_name(path))
    }
}

/// A device in pieces, from its first byte to its last.
fn pieces(size_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size_bytes.div_ceil(DISCARD_BYTES)).map(move |piece| {
        let offset = piece * DISCARD_BYTES;
        (offset, DISCARD_BYTES.min(size_bytes - offset))
    })
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY))
}

fn discard_blocks(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the descriptor is open for the length of the borrow, and the kernel reads the two numbers of the range.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open for the length of the borrow; no memory is passed.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use icecore::device::Cause;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_are_the_device_and_nothing_else() {
        for size_bytes in [512, DISCARD_BYTES - 512, DISCARD_BYTES, 5 * DISCARD_BYTES + 4096] {
            let mut end = 0;
            for (offset, length) in pieces(size_bytes) {
                assert!(offset == end && (1..=DISCARD_BYTES).contains(&length));
                end = offset + length;
            }
            assert_eq!(end, size_bytes);
        }
    }

    /// A file with something on it, on a file system that gives space back, as most do.
    #[test]
    fn a_device_is_emptied_and_written_over_twice_and_its_neighbour_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, neighbour) = (folder.path().join("disk"), folder.path().join("neighbour"));
        // The last write is a short one.
        let size_bytes = 8 * MIB + 12288;
        for path in [&path, &neighbour] {
            fs::write(path, vec![7; size_bytes as usize]).unwrap();
        }
        let Ok(bench) = Bench::claim_own(&path, 8) else {
            println!("skipped: no io_uring, or no direct I/O there");
            return;
        };
        let not_purged = purge(&bench).unwrap();
        if let Some(why) = &not_purged {
            println!("not purged here: {why}");
        } else {
            assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0), "something was left");
            assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), size_bytes);
        let before = bench.device().ledger().tally(Cause::Application);
        let done = precondition(&bench, 5).unwrap();
        assert_eq!(done.not_purged, not_purged);
        let after = bench.device().ledger().tally(Cause::Application);
        assert_eq!(after.write_bytes - before.write_bytes, 2 * size_bytes);
        assert_eq!(after.writes - before.writes, 2 * (64 + 1), "writes of 128 KiB");
        // Every block of it holds what was written, the last one too.
        let bytes = fs::read(&path).unwrap();
        let stamper = Stamper::new(5);
        for (block, bytes) in bytes.chunks(4096).enumerate() {
            stamper.verify(bytes, block as u64 * 4096, 0).unwrap();
        }
        assert!(fs::read(&neighbour).unwrap().iter().all(|byte| *byte == 7));
    }
}
