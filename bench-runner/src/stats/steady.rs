//! Steady state: the rule of SNIA's *Solid State Storage Performance Test Specification*.
//!
//! A load is looked at in rounds. It is steady where the last [`WINDOW`] of them lie within 20 % of their mean, and the
//! least-squares line through them rises or falls by at most 10 % of it. A load that is to go on until it is ends
//! after [`ROUNDS_MAX`] rounds all the same: what it did is kept then, and not ranked.

/// Rounds that are looked at together.
pub const WINDOW: usize = 5;
/// Most rounds of a load that goes on until it is steady.
pub const ROUNDS_MAX: usize = 25;
/// Largest distance of two rounds, as a share of the mean.
const RANGE_MAX: f64 = 0.20;
/// Largest rise or fall of the line from the first round to the last, as a share of the mean.
const SLOPE_MAX: f64 = 0.10;

/// The rule in one sentence.
pub fn rule() -> String {
    format!(
        "{WINDOW} rounds in a row whose range is at most {:.0} % of their mean and whose slope from first to last is at most \
         {:.0} % of it",
        RANGE_MAX * 100.0,
        SLOPE_MAX * 100.0
    )
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// The highest round less the lowest, as a share of the mean.
    pub range: f64,
    /// How far the line through the rounds rises or falls from the first to the last, as a share of the mean.
    pub slope: f64,
}

impl Window {
    /// Of the last rounds; `None` where there are too few of them, or nothing was done.
    pub fn of(rounds: &[u64]) -> Option<Self> {
        let last = &rounds[rounds.len().checked_sub(WINDOW)?..];
        let rounds: Vec<f64> = last.iter().map(|round| *round as f64).collect();
        let mean = rounds.iter().sum::<f64>() / WINDOW as f64;
        let highest = rounds.iter().copied().fold(f64::MIN, f64::max);
        let lowest = rounds.iter().copied().fold(f64::MAX, f64::min);
        // Least squares over x = −2 … 2: the sum of x² is 10.
        let slope = rounds.iter().zip(-2i32..).map(|(y, x)| f64::from(x) * (y - mean)).sum::<f64>() / 10.0;
        let steps = (WINDOW - 1) as f64;
        (mean > 0.0).then(|| Self { range: (highest - lowest) / mean, slope: slope.abs() * steps / mean })
    }

    /// Whether both are small enough.
    pub fn is_steady(&self) -> bool {
        self.range <= RANGE_MAX && self.slope <= SLOPE_MAX
    }
}

/// Whether a load was steady at its end. `per_second` are the operations of each whole second; a round is a fifth of them.
/// `None` with fewer than five seconds.
pub fn steady(per_second: &[u64]) -> Option<bool> {
    let seconds_per_round = per_second.len() / WINDOW;
    if seconds_per_round == 0 {
        return None;
    }
    let window = &per_second[per_second.len() - seconds_per_round * WINDOW..];
    let rounds: Vec<u64> = window.chunks(seconds_per_round).map(|round| round.iter().sum()).collect();
    Some(Window::of(&rounds).is_some_and(|window| window.is_steady()))
}

/// The rounds of a load that goes on until it is steady.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Operations of each, from the first.
    pub operations: Vec<u64>,
}

impl Rounds {
    /// The last of them.
    pub fn window(&self) -> Option<Window> {
        Window::of(&self.operations)
    }

    /// Whether the last of them are steady.
    pub fn is_steady(&self) -> bool {
        self.window().is_some_and(|window| window.is_steady())
    }

    /// Whether no further round is needed.
    pub fn is_over(&self) -> bool {
        self.is_steady() || self.operations.len() >= ROUNDS_MAX
    }

    /// Rounds before those that are measured.
    pub fn before(&self) -> usize {
        self.operations.len().saturating_sub(WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds that a load takes whose rounds are these, over and over, and whether it is steady then.
    fn taken(rounds: impl Iterator<Item = u64>) -> (usize, bool) {
        let mut seen = Rounds::default();
        for operations in rounds {
            seen.operations.push(operations);
            if seen.is_over() {
                break;
            }
        }
        (seen.operations.len(), seen.is_steady())
    }

    #[test]
    fn steady_is_flat_and_level() {
        assert_eq!(steady(&[100; 4]), None);
        assert_eq!(steady(&[100, 101, 99, 100, 102]), Some(true));
        assert_eq!(steady(&[100, 100, 100, 100, 130]), Some(false), "range");
        assert_eq!(steady(&[90, 95, 100, 105, 108]), Some(false), "slope");
        assert_eq!(steady(&[0; 5]), Some(false), "nothing done");
        assert_eq!(steady(&[1, 1, 100, 100, 100, 100, 100]), Some(true), "only the last five");
    }

    /// Worked out by hand, on both sides of each limit.
    #[test]
    fn limits_are_the_standards() {
        // A range of just 20 % of 1000, and of more, with little slope.
        assert_eq!(Window::of(&[1000, 1100, 1000, 900, 1000]).map(|window| window.range), Some(0.2));
        assert!(Window::of(&[1000, 900, 1200, 900, 1000]).is_some_and(|window| !window.is_steady()));
        assert!(Window::of(&[1000, 1000, 1000, 1101, 899]).is_some_and(|window| window.range > 0.2));
        // A line of 25 a round about 1000 rises by 100 over four rounds: just 10 %; of 26, more.
        let line = |step: u64| [1000 - 2 * step, 1000 - step, 1000, 1000 + step, 1000 + 2 * step];
        assert!(Window::of(&line(25)).is_some_and(|window| window.slope == 0.1 && window.is_steady()));
        assert!(Window::of(&line(26)).is_some_and(|window| window.range < 0.2 && !window.is_steady()));
        let falling: Vec<u64> = line(26).into_iter().rev().collect();
        assert!(Window::of(&falling).is_some_and(|window| !window.is_steady()), "falling is no better");
    }

    #[test]
    fn loads_end_when_their_window_is_steady_or_after_25_rounds() {
        assert_eq!(taken([1000, 1010, 990, 1005, 995].into_iter().cycle()), (5, true));
        // A new disk: fast for eight rounds, then half as fast. Five level rounds after that.
        assert_eq!(taken([vec![2000; 3], vec![1500; 1], vec![1000; 30]].concat().into_iter()), (5 + 4, true));
        // Sloping ever more slowly: steady where it falls by a tenth in a window.
        let (rounds, is_steady) =
            taken((0..).map(|round: u32| 1000 + (2000.0 / f64::from(round + 1)) as u64));
        assert_eq!((rounds, is_steady), (11, true), "1285, 1250, 1222, 1200, 1181");
        // One collapse in each five rounds, a saw, and a load that loses a twentieth each round: never.
        assert_eq!(taken([1000, 1000, 1000, 1000, 500].into_iter().cycle()), (ROUNDS_MAX, false));
        assert_eq!(taken([800, 1000, 1200].into_iter().cycle()), (ROUNDS_MAX, false));
        assert_eq!(taken((0..).map(|round| (1e6 * 0.95f64.powi(round)) as u64)), (ROUNDS_MAX, false));
        assert_eq!(taken([0].into_iter().cycle()), (ROUNDS_MAX, false), "nothing done is not steady");
    }
}
