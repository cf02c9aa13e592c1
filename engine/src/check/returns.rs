//! Returns to earlier moments: which versions they have discarded, and which deaths they have taken back.
//!
//! The journal tells of those that the checkpoint covers; one more may be the first entry behind it.

use crate::format::journal::Rollback;

/// The returns of a volume, in order.
pub(super) struct Returns(Vec<Rollback>);

impl Returns {
    /// Those of the journal, and one that it does not know yet: where it stands in the log, and its moment.
    pub fn new(of_journal: &[Rollback], of_tail: Option<(u64, u64)>) -> Self {
        let later = of_tail.map(|(at, to)| Rollback { at: at.into(), to: to.into(), settled: 0.into() });
        Self(of_journal.iter().copied().chain(later).collect())
    }

    /// The first return that discarded a version; `u64::MAX` if none did.
    pub fn discarded_at(&self, sequence: u64) -> u64 {
        let mut all = self.0.iter();
        let first = all.find(|one| one.to.get() < sequence && sequence < one.at.get());
        first.map_or(u64::MAX, |one| one.at.get())
    }

    /// Whether a moment sees a version of this sequence, unless there is a newer one.
    pub fn is_seen(&self, sequence: u64, moment: u64) -> bool {
        sequence <= moment && self.discarded_at(sequence) > moment
    }

    /// What a moment does not see since it was discarded before it: first and last sequence.
    pub fn discarded_before(&self, moment: u64) -> impl Iterator<Item = (u64, u64)> {
        self.0
            .iter()
            .filter(move |one| one.at.get() <= moment)
            .map(|one| (one.to.get() + 1, one.at.get() - 1))
    }

    /// Whether what was born then lives again although it was superseded.
    pub fn revives(&self, birth: u64, death: u64) -> bool {
        self.0.iter().any(|one| birth <= one.to.get() && one.to.get() < death && death < one.at.get())
    }

    /// Whether this return may not have told the deaths of what it discarded yet.
    pub fn may_lack_deaths(&self, at: u64) -> bool {
        self.0.iter().any(|one| one.at.get() == at && one.settled.get() == 0)
    }

    /// Whether a version may live again and not have been brought home yet.
    pub fn may_be_passed(&self, birth: u64) -> bool {
        self.0.iter().any(|one| birth <= one.to.get() && one.settled.get() == 0)
    }
}
