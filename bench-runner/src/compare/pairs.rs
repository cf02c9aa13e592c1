//! Which block of one side belongs to which of the other, and the ratio that follows.

use super::noise::first_name;
use super::side::{BlockValue, Cell, Series, Side};
use crate::stats::ranks::{self, Chance};
use crate::stats::verdict::SIGNIFICANT;
use crate::stats::{self, Ratio, student};

/// Arms that do the I/O without the engine, the first choice first: what the machine itself does. The bare device goes
/// through the engine's device, so that it is measured against these where they run beside it.
const INDEPENDENT: [&str; 2] = ["ring", "fio"];
/// Whether the arm's figures are of the machine alone, so that nothing of ours can make them worse.
pub fn is_of_the_machine(arm: &str) -> bool {
    INDEPENDENT.contains(&first_name(arm))
}

/// What every other arm is measured against.
pub(crate) const BARE: &str = "raw";

/// How the blocks of two sides belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Two arms of one run: blocks with one number were measured beside each other.
    SameBlock,
    /// Two runs with one plan and one seed: blocks with one number did the same I/O in the same order.
    SameSeed,
    /// Nothing but the arm and the cell is shared.
    Unpaired,
}

impl Pairing {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Pairing::SameBlock => "paired by block",
            Pairing::SameSeed => "paired by seed",
            Pairing::Unpaired => "unpaired",
        }
    }

    /// How two series belong together.
    pub fn of(a: &Series, b: &Series, same_folder: bool, plans_agree: bool) -> Self {
        if same_folder {
            return Pairing::SameBlock;
        }
        let same_seed =
            |(block, one): (&u32, &BlockValue)| b.get(block).is_some_and(|two| two.seed == one.seed);
        if plans_agree && a.len() == b.len() && a.iter().all(same_seed) {
            Pairing::SameSeed
        } else {
            Pairing::Unpaired
        }
    }
}

/// The arm by which the arm's values are divided where two runs are compared, if it ran there: what slows the whole
/// machine slows both.
pub fn reference_of(side: &Side, arm: &str, cell: &Cell) -> Option<&'static str> {
    let arm = first_name(arm);
    if is_of_the_machine(arm) {
        return None;
    }
    if arm != BARE {
        return side.has_valid(BARE, cell).then_some(BARE);
    }
    INDEPENDENT.into_iter().find(|name| side.has_valid(name, cell))
}

/// Each block's value divided by the reference's in the same block; blocks without one are left out.
pub fn normalised(series: &Series, references: &Series) -> Series {
    series
        .iter()
        .filter_map(|(block, one)| {
            let value = one.value / references.get(block)?.value;
            Some((*block, BlockValue { value, ..*one }))
        })
        .collect()
}

/// A ratio with what a rank test says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// B's values over A's.
    pub ratio: Ratio,
    /// The rank test that fits the pairing.
    pub ranks: Chance,
    /// Probability by Student's t, where so few blocks leave ranks nothing to say.
    pub student_p: f64,
    /// Blocks of A and of B behind it.
    pub blocks: (usize, usize),
}

impl Estimate {
    /// The probability under chance alone that counts among so many quantities, and the name of its test: that of ranks
    /// wherever so many blocks could make it significant.
    pub fn chance(&self, quantities: usize, pairing: Pairing) -> (f64, &'static str) {
        if self.ranks.p_least * quantities as f64 > SIGNIFICANT {
            (self.student_p, "t")
        } else if pairing == Pairing::Unpaired {
            (self.ranks.p, "rank sum")
        } else {
            (self.ranks.p, "signed rank")
        }
    }
}

/// How many times larger B's values are than A's; `None` where no blocks belong together or a value is not above 0.
pub fn estimate(pairing: Pairing, a: &Series, b: &Series, seed: u64) -> Option<Estimate> {
    if pairing == Pairing::Unpaired {
        let values = |series: &Series| series.values().map(|block| block.value).collect::<Vec<_>>();
        let (a, b) = (values(a), values(b));
        return estimate_unpaired(&a, &b, seed);
    }
    let (a, b): (Vec<f64>, Vec<f64>) =
        a.iter().filter_map(|(block, one)| Some((one.value, b.get(block)?.value))).unzip();
    estimate_paired(&a, &b, seed)
}

/// Of values that belong together one by one.
pub fn estimate_paired(a: &[f64], b: &[f64], seed: u64) -> Option<Estimate> {
    let ratio = stats::paired_ratio(b, a, seed)?;
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| (b / a).ln()).collect();
    Some(Estimate {
        ratio,
        ranks: ranks::signed_rank(&differences)?,
        student_p: student::paired(&differences).unwrap_or(1.0),
        blocks: (a.len(), b.len()),
    })
}

/// Of values that do not.
pub fn estimate_unpaired(a: &[f64], b: &[f64], seed: u64) -> Option<Estimate> {
    let ratio = stats::unpaired_ratio(b, a, seed)?;
    let logarithms = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
    Some(Estimate {
        ratio,
        ranks: ranks::rank_sum(b, a)?,
        student_p: student::unpaired(&logarithms(b), &logarithms(a)).unwrap_or(1.0),
        blocks: (a.len(), b.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[(u32, f64, u64)]) -> Series {
        values
            .iter()
            .map(|(block, value, seed)| (*block, BlockValue { value: *value, seed: *seed }))
            .collect()
    }

    #[test]
    fn blocks_pair_by_number_only_where_they_did_the_same() {
        let a = series(&[(1, 10.0, 71), (2, 20.0, 72)]);
        let b = series(&[(1, 11.0, 71), (2, 22.0, 72)]);
        assert_eq!(Pairing::of(&a, &b, false, true), Pairing::SameSeed);
        assert_eq!(Pairing::of(&a, &b, false, false), Pairing::Unpaired, "another plan");
        let other_seed = series(&[(1, 11.0, 71), (2, 22.0, 99)]);
        assert_eq!(Pairing::of(&a, &other_seed, false, true), Pairing::Unpaired);
        let fewer = series(&[(1, 11.0, 71)]);
        assert_eq!(Pairing::of(&a, &fewer, false, true), Pairing::Unpaired);
        assert_eq!(Pairing::of(&a, &fewer, true, true), Pairing::SameBlock);
    }

    #[test]
    fn pairs_are_blocks_with_one_number() {
        let a = series(&[(1, 10.0, 1), (2, 20.0, 2), (4, 40.0, 4)]);
        let b = series(&[(2, 22.0, 2), (3, 33.0, 3), (4, 44.0, 4)]);
        let found = estimate(Pairing::SameBlock, &a, &b, 1).unwrap();
        assert!((found.ratio.median - 1.1).abs() < 1e-12);
        assert_eq!((found.ratio.n, found.blocks), (2, (2, 2)));
        // Unpaired, the medians of three each.
        let found = estimate(Pairing::Unpaired, &a, &b, 1).unwrap();
        assert!((found.ratio.median - 33.0 / 20.0).abs() < 1e-12);
        assert_eq!(estimate(Pairing::SameBlock, &a, &series(&[(9, 1.0, 9)]), 1), None);
    }

    #[test]
    fn what_slows_the_whole_block_cancels() {
        let bare = series(&[(1, 100.0, 1), (2, 50.0, 2), (3, 80.0, 3)]);
        let arm = series(&[(1, 90.0, 1), (2, 45.0, 2), (3, 72.0, 3), (4, 1.0, 4)]);
        let shares: Vec<f64> = normalised(&arm, &bare).values().map(|block| block.value).collect();
        assert_eq!(shares.len(), 3, "a block without the reference is left out");
        assert!(shares.iter().all(|share| (share - 0.9).abs() < 1e-12));
    }
}
