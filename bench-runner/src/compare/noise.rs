//! A/A: what a comparison says of two measurements of the same thing.
//!
//! A run with `--a-a` measures each arm twice in each block, once under its name and once under the same with
//! [`AGAIN`]. Noise is the effect that a comparison of so many blocks, made the same way, stays below in 95 of 100
//! cases when both sides are drawn from those blocks. Where several quantities are looked at together it is the effect
//! that all of them stay below so often (Bonferroni).

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::Rng;

use super::pairs::{Pairing, reference_of};
use super::quantity::Quantity;
use super::side::{Cell, Side};
use crate::stats::{self, BLOCKS_FOR_INTERVAL};

/// What the name of an arm's second run in a block ends with.
pub const AGAIN: &str = "-again";

/// Share of comparisons of the same thing with itself that may show more than the noise.
const BEYOND: f64 = 0.05;

/// The arm's name without [`AGAIN`].
pub fn first_name(arm: &str) -> &str {
    arm.strip_suffix(AGAIN).unwrap_or(arm)
}

/// The blocks of an arm measured twice: logarithms of the first and the second value, divided by the reference's in
/// the same block where asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Twice(pub Vec<(f64, f64)>);

impl Twice {
    /// Of a run folder; `None` with fewer blocks than an interval needs.
    pub fn of(side: &Side, arm: &str, cell: &Cell, quantity: &Quantity, normalised: bool) -> Option<Self> {
        let first = side.series(arm, cell, quantity);
        let second = side.series(&format!("{arm}{AGAIN}"), cell, quantity);
        let references = match normalised {
            true => Some(side.series(reference_of(side, arm, cell)?, cell, quantity)),
            false => None,
        };
        let pairs: Vec<(f64, f64)> = first
            .iter()
            .filter_map(|(block, first)| {
                let second = second.get(block)?;
                let reference = match &references {
                    Some(references) => references.get(block)?.value.ln(),
                    None => 0.0,
                };
                Some((first.value.ln() - reference, second.value.ln() - reference))
            })
            .filter(|(first, second)| first.is_finite() && second.is_finite())
            .collect();
        (pairs.len() >= BLOCKS_FOR_INTERVAL).then_some(Twice(pairs))
    }

    /// The noise of a comparison of `a` with `b` blocks that is paired like this, one of `quantities` that are looked at
    /// together.
    pub fn noise(&self, pairing: Pairing, (a, b): (usize, usize), quantities: usize, seed: u64) -> f64 {
        let blocks = &self.0;
        let block = |random: &mut Xoshiro256PlusPlus| blocks[stats::index_below(random, blocks.len())];
        // Either of a block's two may be the first one.
        let one = |random: &mut Xoshiro256PlusPlus| {
            let (first, second) = block(random);
            if random.next_u64() & 1 == 0 { first } else { second }
        };
        let effects = stats::resampled(seed, |random, drawn: &mut Vec<f64>| {
            let mut median = |random: &mut Xoshiro256PlusPlus,
                              count: usize,
                              value: &dyn Fn(&mut Xoshiro256PlusPlus) -> f64| {
                drawn.clear();
                drawn.extend((0..count).map(|_| value(random)));
                drawn.sort_unstable_by(f64::total_cmp);
                stats::median_of_sorted(count, |index| drawn[index])
            };
            let effect = match pairing {
                Pairing::SameBlock => median(random, a.min(b), &|random| {
                    let (first, second) = block(random);
                    if random.next_u64() & 1 == 0 { first - second } else { second - first }
                }),
                Pairing::SameSeed => median(random, a.min(b), &|random| one(random) - one(random)),
                Pairing::Unpaired => median(random, a, &one) - median(random, b, &one),
            };
            effect.abs()
        });
        let beyond = (BEYOND / quantities.max(1) as f64 * effects.len() as f64) as usize;
        effects[effects.len() - 1 - beyond].exp_m1()
    }
}

/// The noise that a folder measured with `--a-a` shows of an arm: its own, or where it was not measured twice the
/// largest of the arms that were, in the same cell.
pub fn of_arm<'a>(
    side: &'a Side,
    arm: &str,
    cell: &Cell,
    quantity: &Quantity,
    normalised: bool,
    noise: impl Fn(&Twice) -> f64,
) -> Option<(&'a str, f64)> {
    let of = |name: &'a str| Some((name, noise(&Twice::of(side, name, cell, quantity, normalised)?)));
    let measured = || side.arms().into_iter().filter(|name| !name.ends_with(AGAIN));
    measured()
        .find(|name| *name == first_name(arm))
        .and_then(of)
        .or_else(|| measured().filter_map(of).max_by(|one, two| one.1.total_cmp(&two.1)))
}
