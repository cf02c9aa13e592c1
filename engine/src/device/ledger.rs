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
}

impl Cause {
    /// All causes, in the order of results.
    pub const ALL: [Cause; 4] = [Cause::Application, Cause::Merge, Cause::Metadata, Cause::Zero];

    /// The cause's name in results.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Application => "application",
            Cause::Merge => "merge",
            Cause::Metadata => "metadata",
            Cause::Zero => "zero",
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

/// The counts of one device, by cause.
#[derive(Debug, Default)]
pub struct Ledger([Cell<Tally>; Cause::ALL.len()]);

impl Ledger {
    /// What this cause has done so far.
    pub fn tally(&self, cause: Cause) -> Tally {
        self.0[cause as usize].get()
    }

    pub(super) fn note(&self, cause: Cause, change: impl FnOnce(&mut Tally)) {
        let cell = &self.0[cause as usize];
        let mut tally = cell.get();
        change(&mut tally);
        cell.set(tally);
    }
}
