//! What may be called a difference between two sets of blocks.
//!
//! Different only where the 95 % interval of the ratio excludes 1, the effect is as large as [`SMALLEST_EFFECT`] and
//! as what two measurements of the same thing show, and chance alone does so in fewer than 1 of 20 cases, after Holm.
//! No difference only where interval and noise are narrow enough to show one. Anything else is undecided.

use super::{BLOCKS_FOR_INTERVAL, Ratio};

/// Effects below this are no difference to anybody, however sure they are.
pub const SMALLEST_EFFECT: f64 = 0.02;

/// Probability, after Holm, up to which chance alone is not believed.
pub const SIGNIFICANT: f64 = 0.05;

/// What is said of a ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Different, to the better.
    Better,
    /// Different, to the worse.
    Worse,
    /// The interval is narrow, and there is nothing in it that counts.
    NoDifference,
    /// Too few blocks, or too unlike each other, to say.
    Undecided,
}

impl Verdict {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::NoDifference => "no difference",
            Verdict::Undecided => "undecided",
        }
    }
}

/// What a ratio is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// Half-width of the interval up to which it is narrow: that at which a run may stop.
    pub half_width: f64,
    /// The effect that two measurements of the same thing show (0.03 is 3 %); `None` where that is not known.
    pub noise: Option<f64>,
    /// Probability under chance alone, after Holm.
    pub p_holm: f64,
}

impl Measure {
    /// The smallest effect that counts.
    pub fn threshold(&self) -> f64 {
        self.noise.map_or(SMALLEST_EFFECT, |noise| noise.max(SMALLEST_EFFECT))
    }
}

/// Says what the ratio is, and why.
pub fn judge(ratio: &Ratio, measure: &Measure) -> (Verdict, String) {
    let (low, high) = (ratio.ci_low, ratio.ci_high);
    if ratio.n < BLOCKS_FOR_INTERVAL {
        return (Verdict::Undecided, format!("{} blocks, {BLOCKS_FOR_INTERVAL} are needed", ratio.n));
    }
    let excludes_one = low > 1.0 || high < 1.0;
    // In logarithms, so that a half and a double are as far away.
    let is_large = ratio.median.ln().abs() >= measure.threshold().ln_1p();
    if excludes_one && is_large {
        if measure.p_holm > SIGNIFICANT {
            let reason =
                format!("the interval excludes 1, but p is {:.3} after Holm: more blocks", measure.p_holm);
            return (Verdict::Undecided, reason);
        }
        let verdict =
            if (ratio.median > 1.0) == measure.more_is_better { Verdict::Better } else { Verdict::Worse };
        return (verdict, format!("{} and the interval excludes 1", change(ratio.median)));
    }
    if ratio.half_width > measure.half_width {
        let reason = format!(
            "the interval is ±{}, wider than ±{}: more blocks, or a quieter machine",
            percent(ratio.half_width),
            percent(measure.half_width)
        );
        return (Verdict::Undecided, reason);
    }
    if let Some(noise) = measure.noise.filter(|noise| *noise > measure.half_width) {
        let (noise, limit) = (percent(noise), percent(measure.half_width));
        let reason = format!(
            "A/A shows ±{noise} with so many blocks, more than ±{limit}: more blocks, or a quieter machine"
        );
        return (Verdict::Undecided, reason);
    }
    let reason = match (is_large, measure.threshold()) {
        (true, _) => "the interval holds 1".to_owned(),
        (false, threshold) => format!("less than {}", percent(threshold)),
    };
    (Verdict::NoDifference, reason)
}

/// `12.3 % more` and the like.
fn change(ratio: f64) -> String {
    let word = if ratio > 1.0 { "more" } else { "less" };
    format!("{} {word}", percent((ratio - 1.0).abs()))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Measure = Measure { more_is_better: true, half_width: 0.02, noise: None, p_holm: 0.01 };

    fn ratio(ci_low: f64, median: f64, ci_high: f64) -> Ratio {
        Ratio { median, ci_low, ci_high, half_width: (ci_high - ci_low) / 2.0 / median, n: 10 }
    }

    fn verdict(ratio: Ratio, measure: Measure) -> Verdict {
        judge(&ratio, &measure).0
    }

    #[test]
    fn different_only_with_interval_and_effect() {
        assert_eq!(verdict(ratio(0.79, 0.80, 0.81), RATE), Verdict::Worse);
        assert_eq!(verdict(ratio(1.23, 1.25, 1.27), RATE), Verdict::Better);
        let latency = Measure { more_is_better: false, ..RATE };
        assert_eq!(verdict(ratio(0.79, 0.80, 0.81), latency), Verdict::Better);
        assert_eq!(verdict(ratio(1.23, 1.25, 1.27), latency), Verdict::Worse);
        // Sure, and too small to count.
        assert_eq!(verdict(ratio(0.989, 0.99, 0.991), RATE), Verdict::NoDifference);
        // Large enough, and 1 is in the interval.
        assert_eq!(
            verdict(ratio(0.96, 0.975, 1.001), Measure { half_width: 0.05, ..RATE }),
            Verdict::NoDifference
        );
        // A wide interval with 1 outside shows a difference all the same.
        assert_eq!(verdict(ratio(0.6, 0.8, 0.95), RATE), Verdict::Worse);
    }

    #[test]
    fn too_wide_to_say() {
        assert_eq!(verdict(ratio(0.9, 1.0, 1.1), RATE), Verdict::Undecided);
        // 1 is outside, and the effect that counts is not shown.
        assert_eq!(verdict(ratio(1.001, 1.015, 1.08), RATE), Verdict::Undecided);
        assert_eq!(verdict(Ratio { n: 4, ..ratio(0.79, 0.80, 0.81) }, RATE), Verdict::Undecided);
        let alone =
            Ratio { median: 0.5, ci_low: 0.0, ci_high: f64::INFINITY, half_width: f64::INFINITY, n: 1 };
        assert_eq!(verdict(alone, RATE), Verdict::Undecided);
    }

    #[test]
    fn noise_raises_what_counts() {
        let noisy = Measure { noise: Some(0.06), ..RATE };
        let seen = ratio(0.94, 0.95, 0.96);
        assert_eq!(verdict(seen, RATE), Verdict::Worse);
        // Too much of it for any difference to be told from none.
        assert_eq!(verdict(seen, noisy), Verdict::Undecided);
        assert!(judge(&seen, &noisy).1.contains("A/A shows ±6.0 %"));
        assert_eq!(verdict(seen, Measure { half_width: 0.07, ..noisy }), Verdict::NoDifference);
        // Less noise than 2 % does not lower it.
        let quiet = Measure { noise: Some(0.001), ..RATE };
        assert_eq!(verdict(ratio(0.989, 0.99, 0.991), quiet), Verdict::NoDifference);
    }

    #[test]
    fn what_chance_does_is_no_difference() {
        let seen = ratio(0.94, 0.95, 0.96);
        assert_eq!(verdict(seen, Measure { p_holm: 0.049, ..RATE }), Verdict::Worse);
        assert_eq!(verdict(seen, Measure { p_holm: 0.051, ..RATE }), Verdict::Undecided);
    }
}
