//! Student's t, for so few blocks that ranks cannot speak: five pairs that all agree are as likely as 1 in 16 by chance,
//! however far they lie from 1. It believes in the blocks' spread where ranks believe in nothing; with the long tails
//! that blocks have it errs towards saying less.

/// Probability under chance alone, two-sided, that the mean of paired differences is as far from 0. `None` below two.
pub fn paired(differences: &[f64]) -> Option<f64> {
    let (mean, variance) = moments(differences)?;
    let count = differences.len() as f64;
    Some(two_sided(mean, variance / count, count - 1.0))
}

/// The same of the difference of two samples' means, whose spreads may differ (Welch). `None` below two in either.
pub fn unpaired(a: &[f64], b: &[f64]) -> Option<f64> {
    let ((mean_a, variance_a), (mean_b, variance_b)) = (moments(a)?, moments(b)?);
    let (of_a, of_b) = (variance_a / a.len() as f64, variance_b / b.len() as f64);
    let spread = of_a + of_b;
    // Satterthwaite's degrees of freedom.
    let freedom =
        spread.powi(2) / (of_a.powi(2) / (a.len() as f64 - 1.0) + of_b.powi(2) / (b.len() as f64 - 1.0));
    Some(two_sided(mean_a - mean_b, spread, freedom))
}

/// Mean and variance of a sample.
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    Some((mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)))
}

fn two_sided(mean: f64, variance: f64, freedom: f64) -> f64 {
    if variance <= 0.0 {
        return if mean == 0.0 { 1.0 } else { 0.0 };
    }
    let t_squared = mean * mean / variance;
    incomplete_beta(freedom / (freedom + t_squared), freedom / 2.0, 0.5)
}

/// The regularised incomplete beta function by its continued fraction (*Numerical Recipes*, section 6.4).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front = (log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    // The fraction converges quickly on one side of the middle; the other follows by symmetry.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(x, a, b) / a
    } else {
        1.0 - front * beta_fraction(1.0 - x, b, a) / b
    }
}

/// Lentz's evaluation of the continued fraction.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    const STEPS: u32 = 200;
    const SMALLEST: f64 = 1e-300;
    let away_from_zero = |value: f64| if value.abs() < SMALLEST { SMALLEST } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..=STEPS {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0_f64).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

/// Lanczos' approximation of ln Γ for positive values (*Numerical Recipes*, section 6.1).
fn log_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 6] = [
        76.180_091_729_471_46,
        -86.505_320_329_416_77,
        24.014_098_240_830_91,
        -1.231_739_572_450_155,
        0.120_865_097_386_617_9e-2,
        -0.539_523_938_495_3e-5,
    ];
    let shifted = x + 5.5;
    let tail = (x + 0.5) * shifted.ln() - shifted;
    let series = (1..).zip(COEFFICIENTS).map(|(place, coefficient)| coefficient / (x + f64::from(place)));
    tail + (2.506_628_274_631_000_5 * (1.000_000_000_190_015 + series.sum::<f64>()) / x).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two-sided points of Student's distribution as in every table of it.
    #[test]
    fn known_points() {
        for (freedom, t, p) in [
            (1.0, 12.706_204_7, 0.05),
            (4.0, 2.776_445_1, 0.05),
            (4.0, 4.604_094_9, 0.01),
            (4.0, 8.610_301_6, 0.001),
            (8.0, 2.306_004_1, 0.05),
            (14.0, 2.976_842_7, 0.01),
            (30.0, 2.042_272_5, 0.05),
            (10.0, 0.0, 1.0),
        ] {
            let seen = two_sided(t, 1.0, freedom);
            assert!((seen / p - 1.0).abs() < 1e-5, "{freedom} {t}: {seen}");
        }
    }

    /// By hand: 1 … 5 has mean 3 and variance 2.5, so that t is 3 / √0.5 = 4.2426.
    #[test]
    fn worked_by_hand() {
        let p = paired(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((p - two_sided(4.242_640_687, 1.0, 4.0)).abs() < 1e-9 && p < 0.05 && p > 0.01);
        // Two samples of equal size and spread have the degrees of freedom of both.
        let p = unpaired(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]).unwrap();
        assert!((p - two_sided(3.0, 2.0 / 3.0, 4.0)).abs() < 1e-12);
        assert_eq!((paired(&[0.0; 5]), paired(&[1.0; 5]), paired(&[1.0])), (Some(1.0), Some(0.0), None));
    }
}
