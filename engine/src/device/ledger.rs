//! The ledger: I/Os and bytes of a device, counted by cause at the device's door.
//!
//! Amplification in results is computed from it; tests hold it against independent recordings.

use std::cell::Cell;

/// Why an I/O is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The application's own data.
    Application,
    /// Reading the rest of a block that the application writes in part.
    Merge,
    /// Superblocks, roots and the metadata journal.
    Metadata,
    /// Making a range read as zero.
    Zero,
    /// Batches of the log and its recovery.
    Log,
    /// Pages of the versioned index: look-ups, checkpoints and merges.
    Index,
    /// Moving live blocks together.
    Clean,
    /// Bringing blocks from the log to their place in a linear volume.
    Apply,
    /// Reading what a snapshot sees, to save it before it is overwritten.
    Copy,
}

impl Cause {
    /// All causes, in the order of results.
    pub const ALL: [Cause; 9] = [
        Cause::Application,
        Cause::Merge,
        Cause::Metadata,
        Cause::Zero,
        Cause::Log,
        Cause::Index,
        Cause::Clean,
        Cause::Apply,
        Cause::Copy,
    ];

    /// The cause's name in results.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Application => "application",
            Cause::Merge => "merge",
            Cause::Metadata => "metadata",
            Cause::Zero => "zero",
            Cause::Log => "log",
            Cause::Index => "index",
            Cause::Clean => "clean",
            Cause::Apply => "apply",
            Cause::Copy => "copy",
        }
    }
}

/// What one cause has done to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completed reads.
    pub reads: u64,
    /// Bytes they moved.
    pub read_bytes: u64,
    /// Completed writes.
    pub writes: u64,
    /// Bytes they moved.
    pub write_bytes: u64,
    /// Completed flushes.
    pub flushes: u64,
    /// Completed discards and write-zeroes.
    pub zeroings: u64,
    /// Bytes they covered.
    pub zeroed_bytes: u64,
}

/// The counts of one cause, each changed in place.
#[derive(Debug, Default)]
struct Counters {
    reads: Cell<u64>,
    read_bytes: Cell<u64>,
    writes: Cell<u64>,
    write_bytes: Cell<u64>,
    flushes: Cell<u64>,
    zeroings: Cell<u64>,
    zeroed_bytes: Cell<u64>,
}

/// The counts of one device, by cause.
#[derive(Debug, Default)]
pub struct Ledger([Counters; Cause::ALL.len()]);

fn add(counter: &Cell<u64>, amount: u64) {
    counter.set(counter.get() + amount);
}

impl Ledger {
    /// What this cause has done so far.
    pub fn tally(&self, cause: Cause) -> Tally {
        let counters = &self.0[cause as usize];
        Tally {
            reads: counters.reads.get(),
            read_bytes: counters.read_bytes.get(),
            writes: counters.writes.get(),
            write_bytes: counters.write_bytes.get(),
            flushes: counters.flushes.get(),
            zeroings: counters.zeroings.get(),
            zeroed_bytes: counters.zeroed_bytes.get(),
        }
    }

    pub(super) fn note_read(&self, cause: Cause, bytes: u64) {
        add(&self.0[cause as usize].reads, 1);
        add(&self.0[cause as usize].read_bytes, bytes);
    }

    pub(super) fn note_write(&self, cause: Cause, bytes: u64) {
        add(&self.0[cause as usize].writes, 1);
        add(&self.0[cause as usize].write_bytes, bytes);
    }

    pub(super) fn note_flush(&self, cause: Cause) {
        add(&self.0[cause as usize].flushes, 1);
    }

    pub(super) fn note_zeroing(&self, cause: Cause, bytes: u64) {
        add(&self.0[cause as usize].zeroings, 1);
        add(&self.0[cause as usize].zeroed_bytes, bytes);
    }
}
