//! The simulator proves itself: it is repeatable, covers what it claims, and finds planted faults.

use super::script::{CUTS_MIN, FAULTS_MIN, OPERATIONS_MIN};
use super::*;

#[test]
fn seeds_run_clean_and_long_enough() {
    let mut coverage = Coverage::default();
    for (seed, backend) in (0..60).flat_map(|seed| Backend::ALL.map(|backend| (seed, backend))) {
        let report = run_seed(seed, backend);
        assert_eq!(report.failure, None, "seed {seed}, {backend:?}");
        assert!(report.coverage.count_of_group("operation: ") >= OPERATIONS_MIN, "seed {seed}");
        assert!(report.coverage.count("cut: while serving") >= CUTS_MIN, "seed {seed}");
        assert!(report.coverage.count_of_group("fault: ") >= FAULTS_MIN, "seed {seed}");
        coverage.merge(&report.coverage);
    }
    assert_eq!(coverage.gaps(), Vec::<&str>::new());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for (seed, backend) in
        [1, 7, 4_000_000_007].into_iter().zip([Backend::Direct, Backend::Log, Backend::Log])
    {
        assert_eq!(run_seed(seed, backend), run_seed(seed, backend));
    }
    assert_ne!(run_seed(1, Backend::Log).trace, run_seed(2, Backend::Log).trace);
}
