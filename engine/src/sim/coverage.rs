//! What a run, or many, went through: operations, faults, cuts, recovery rows.

use std::collections::BTreeMap;

/// Counts by name. The names of everything that can happen are listed, so that a gap shows as a zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

/// Everything a campaign is expected to reach.
pub const EXPECTED: [&str; 66] = [
    "operation: write",
    "operation: durable write",
    "operation: partial write",
    "operation: read",
    "operation: flush",
    "operation: discard",
    "operation: write zeroes",
    "operation: cancelled write",
    "operation: cancelled flush",
    "operation: apply",
    "cut: while serving",
    "cut: while creating",
    "cut: while opening",
    "cut: while closing",
    "cut: torn write",
    "fault: fail: I/O error",
    "fault: fail: no space",
    "fault: short transfer",
    "fault: stall",
    "fault: hold",
    "fault: drop",
    "fault: corrupt",
    "fault: misdirect",
    "recovery: use",
    "recovery: repair first",
    "recovery: repair second",
    "recovery: none",
    "recovery: damaged",
    "recovery: conflict",
    "recovery: unknown version",
    "refused: unknown feature",
    "refused: poisoned",
    "reopen: after a failed flush",
    "reopen: after a close",
    "cut: recovered and judged",
    "log: volatile",
    "log: nothing behind the checkpoint",
    "log: batches taken in",
    "log: batches in doubt written again",
    "log: later batches behind the end",
    "log: damage refused",
    "log: first root newest",
    "log: second root newest",
    "past: moment shown",
    "past: moment of before a cut shown",
    "past: moment expired",
    "past: open image kept its moment",
    "past: went back",
    "snapshot: locked",
    "snapshot: taken",
    "snapshot: taken, with a linear object",
    "snapshot: deleted",
    "snapshot: shown",
    "snapshot: shown after a cut",
    "writable snapshot: made",
    "writable snapshot: written",
    "writable snapshot: shown",
    "writable snapshot: shown after a cut",
    "writable snapshot: its own snapshot shown",
    "past: went back to before a cut",
    "past: discarded, refused",
    "linear: thin",
    "linear: pinned base stayed as it was",
    "linear: went back to a pinned base",
    "linear: moment shown that had to be kept",
    "overlay: folded",
];

impl Coverage {
    /// Notes that something happened.
    pub fn note(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Notes that something happened `times`.
    pub fn add(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    /// How often it happened.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Sum of the counts whose names begin so.
    pub fn count_of_group(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// All expected names and all that happened, with their counts.
    pub fn table(&self) -> Vec<(&'static str, u64)> {
        let mut table: BTreeMap<&'static str, u64> = EXPECTED.iter().map(|name| (*name, 0)).collect();
        table.extend(&self.0);
        table.into_iter().collect()
    }

    /// What was expected and has not happened.
    pub fn gaps(&self) -> Vec<&'static str> {
        EXPECTED.into_iter().filter(|name| self.count(name) == 0).collect()
    }
}
