//! Loads that go on until they are steady, on a target whose speed is known.

use super::served::{self, MS};
use crate::measure::ArmOutcome;
use crate::stats::steady::{ROUNDS_MAX, WINDOW};

const ROUND_NS: u64 = 40 * MS;
const WARMUP_NS: u64 = 20 * MS;

fn run(until_steady: bool, service_ns: fn(u64) -> u64) -> ArmOutcome {
    let times = (WARMUP_NS, WINDOW as u64 * ROUND_NS);
    served::run("randwrite-4k", times, service_ns, |task| task.until_steady = until_steady)
}

/// Ten times as slow in one of five rounds: no window is level, wherever rounds begin and whatever else the machine does.
#[test]
fn a_target_that_is_never_steady_ends_after_25_rounds_and_says_so() {
    let outcome = run(true, |at_ns| if (at_ns / ROUND_NS).is_multiple_of(5) { 10 * MS } else { MS });
    let rounds = outcome.rounds.as_ref().expect("rounds");
    assert_eq!((rounds.operations.len(), rounds.is_steady()), (ROUNDS_MAX, false), "{rounds:?}");
    assert_eq!(outcome.elapsed_ns, WINDOW as u64 * ROUND_NS);
    assert_eq!(outcome.unsteady_ns(), (ROUNDS_MAX - WINDOW) as u64 * ROUND_NS);
    let measured: u64 = rounds.operations[ROUNDS_MAX - WINDOW..].iter().sum();
    assert!(measured > 0 && outcome.write.operations == measured, "what it did is kept: {rounds:?}");
    assert_eq!(outcome.write.latency_ns.len(), measured);
}

/// Slow at first and then level: what is measured has nothing of the beginning in it.
#[test]
fn what_comes_before_the_window_is_not_measured() {
    const SLOW_NS: u64 = 5 * ROUND_NS;
    let outcome = run(true, |at_ns| if at_ns < SLOW_NS { 2 * ROUND_NS } else { MS });
    let rounds = outcome.rounds.as_ref().expect("rounds");
    // How many it takes is up to what else the machine does; of less than these no window is level.
    assert!(rounds.is_over() && rounds.operations.len() > WINDOW, "{rounds:?}");
    let window = &rounds.operations[rounds.before()..];
    assert_eq!(outcome.write.operations, window.iter().sum::<u64>());
    assert!(rounds.operations[0] * 3 < window[WINDOW - 1], "{rounds:?}");
    // The same without: as long as was asked for, and the slow beginning is most of it.
    let once = run(false, |at_ns| if at_ns < SLOW_NS { 2 * ROUND_NS } else { MS });
    assert!(once.rounds.is_none() && once.unsteady_ns() == 0);
    assert!(once.write.operations * 2 < outcome.write.operations, "{} {rounds:?}", once.write.operations);
}
