//! Shrinking: the fewest steps that still fail.
//!
//! Delta debugging (Zeller and Hildebrandt 2002): drop halves, then quarters, then smaller pieces, as long as
//! what remains still fails.

use super::{Script, run};

/// Runs spent on one failure at most; what is found by then is small enough to read.
const RUNS_MAX: usize = 2000;

/// Indices of the steps that are enough to fail, and how the script with only them fails.
pub fn shrink(script: &Script) -> (Vec<usize>, String) {
    let mut kept: Vec<usize> = (0..script.steps.len()).collect();
    let mut failure = run(script).failure.unwrap_or_default();
    let mut piece = kept.len() / 2;
    let mut runs = 0;
    while piece > 0 && runs < RUNS_MAX {
        let mut at = 0;
        let mut dropped = false;
        while at < kept.len() && runs < RUNS_MAX {
            let without: Vec<usize> = kept
                .iter()
                .enumerate()
                .filter(|(i, _)| !(at..at + piece).contains(i))
                .map(|(_, s)| *s)
                .collect();
            runs += 1;
            match run(&script.only(&without)).failure {
                Some(still) => {
                    (kept, failure, dropped) = (without, still, true);
                }
                None => at += piece,
            }
        }
        if !dropped || piece > 1 {
            piece /= 2;
        }
    }
    (kept, failure)
}
