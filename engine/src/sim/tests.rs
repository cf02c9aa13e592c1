//! The simulator proves itself: it is repeatable, covers what it claims, and finds planted faults.

use super::script::{CUTS_MIN, FAULTS_MIN, OPERATIONS_MIN};
use super::*;

#[test]
fn seeds_run_clean_and_long_enough() {
    let mut coverage = Coverage::default();
    for seed in 0..60 {
        let report = run_seed(seed);
        assert_eq!(report.failure, None, "seed {seed}");
        assert!(report.coverage.count_of_group("operation: ") >= OPERATIONS_MIN, "seed {seed}");
        assert!(report.coverage.count("cut: while serving") >= CUTS_MIN, "seed {seed}");
        assert!(report.coverage.count_of_group("fault: ") >= FAULTS_MIN, "seed {seed}");
        coverage.merge(&report.coverage);
    }
    assert_eq!(coverage.gaps(), Vec::<&str>::new());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 4_000_000_007] {
        assert_eq!(run_seed(seed), run_seed(seed));
    }
    assert_ne!(run_seed(1).trace, run_seed(2).trace);
}
