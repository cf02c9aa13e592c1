//! Tests that look at ranks alone, and what looking at several quantities at once costs.
//!
//! Wilcoxon's signed-rank test for blocks in pairs, his rank-sum test (that of Mann and Whitney) for blocks that are
//! not. Both count all arrangements that chance could have made of the very ranks that were seen, tied ones included,
//! so that no table and no assumption of distinct values is needed. Beyond `EXACT_BLOCKS` a normal distribution with
//! corrections for ties and continuity takes the place of counting.

/// Most blocks of one side for which arrangements are counted; a normal distribution is within a few thousandths by
/// then.
const EXACT_BLOCKS: usize = 40;

/// A probability under chance alone, and the smallest one that so many blocks could have given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// Probability, two-sided, of what was seen or something farther from the middle.
    pub p: f64,
    /// The same had every block agreed.
    pub p_least: f64,
}

/// Wilcoxon's signed-rank test of paired differences (here of logarithms) being symmetric around 0.
/// Differences of 0 say nothing and are left out, as Wilcoxon did. `None` for no values.
pub fn signed_rank(differences: &[f64]) -> Option<Chance> {
    if differences.is_empty() {
        return None;
    }
    let differing: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    let p_least = 2.0_f64.powi(1 - differences.len() as i32).min(1.0);
    if differing.is_empty() {
        return Some(Chance { p: 1.0, p_least });
    }
    let ranks = doubled_ranks(&differing.iter().map(|value| value.abs()).collect::<Vec<_>>());
    let positive: u64 =
        ranks.iter().zip(&differing).filter(|(_, value)| **value > 0.0).map(|(rank, _)| rank).sum();
    let p = if ranks.len() <= EXACT_BLOCKS {
        signed_exact(&ranks, positive)
    } else {
        signed_normal(&ranks, positive)
    };
    Some(Chance { p, p_least })
}

/// Wilcoxon's rank-sum test (Mann and Whitney's U) of two samples coming from one distribution.
/// `None` where either is empty.
pub fn rank_sum(a: &[f64], b: &[f64]) -> Option<Chance> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    let ranks = doubled_ranks(&all);
    let seen: u64 = ranks[..a.len()].iter().sum();
    let arrangements = (0..a.len()).fold(1.0, |ways, i| ways * (all.len() - i) as f64 / (i + 1) as f64);
    let p_least = (2.0 / arrangements).min(1.0);
    let p = if a.len().max(b.len()) <= EXACT_BLOCKS {
        sum_exact(&ranks, a.len(), arrangements, seen)
    } else {
        sum_normal(&ranks, a.len(), seen)
    };
    Some(Chance { p, p_least })
}

fn signed_exact(ranks: &[u64], positive: u64) -> f64 {
    // Each rank is positive or not, by the toss of a coin: ways[s] is the share of the 2^n tosses whose sum is s.
    let mut ways = vec![0.0; ranks.iter().sum::<u64>() as usize + 1];
    ways[0] = 1.0;
    for rank in ranks {
        let rank = *rank as usize;
        for sum in (0..ways.len()).rev() {
            let with = if sum >= rank { ways[sum - rank] } else { 0.0 };
            ways[sum] = f64::midpoint(ways[sum], with);
        }
    }
    two_sided(&ways, positive as usize)
}

fn signed_normal(ranks: &[u64], positive: u64) -> f64 {
    // The sum of tosses, each worth its rank or nothing.
    let variance = ranks.iter().map(|rank| (*rank as f64).powi(2)).sum::<f64>() / 4.0;
    normal_two_sided(positive as f64, ranks.iter().sum::<u64>() as f64 / 2.0, variance)
}

fn sum_exact(ranks: &[u64], count: usize, arrangements: f64, seen: u64) -> f64 {
    // ways[k][s]: how many choices of k of the ranks add up to s.
    let total = ranks.iter().sum::<u64>() as usize;
    let mut ways = vec![vec![0.0; total + 1]; count + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        let rank = *rank as usize;
        for k in (1..=count).rev() {
            for sum in rank..=total {
                ways[k][sum] += ways[k - 1][sum - rank];
            }
        }
    }
    let shares: Vec<f64> = ways[count].iter().map(|ways| ways / arrangements).collect();
    two_sided(&shares, seen as usize)
}

fn sum_normal(ranks: &[u64], count: usize, seen: u64) -> f64 {
    let (all, mine) = (ranks.len() as f64, count as f64);
    let mean = ranks.iter().sum::<u64>() as f64 / all;
    let spread = ranks.iter().map(|rank| (*rank as f64 - mean).powi(2)).sum::<f64>();
    normal_two_sided(seen as f64, mine * mean, mine * (all - mine) / (all * (all - 1.0)) * spread)
}

/// Holm's adjustment (*A simple sequentially rejective multiple test procedure*): each probability as it counts when
/// all of them are looked at together, in the order given.
pub fn holm(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
    let mut adjusted = vec![0.0; probabilities.len()];
    let mut largest: f64 = 0.0;
    for (place, index) in order.into_iter().enumerate() {
        let left = (probabilities.len() - place) as f64;
        largest = largest.max((probabilities[index] * left).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

/// Twice the ranks from 1, equal values sharing the mean of theirs: doubled, they are whole numbers.
fn doubled_ranks(values: &[f64]) -> Vec<u64> {
    let below = |value: f64| values.iter().filter(|other| **other < value).count() as u64;
    let equal = |value: f64| values.iter().filter(|other| **other == value).count() as u64;
    values.iter().map(|value| 2 * below(*value) + equal(*value) + 1).collect()
}

/// Twice the lighter tail of a distribution at `seen`, both tails including it.
fn two_sided(shares: &[f64], seen: usize) -> f64 {
    let low: f64 = shares[..=seen].iter().sum();
    let high: f64 = shares[seen..].iter().sum();
    (2.0 * low.min(high)).min(1.0)
}

/// The same by a normal distribution. Doubled ranks lie two apart: half a step of continuity is 1.
fn normal_two_sided(seen: f64, mean: f64, variance: f64) -> f64 {
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((seen - mean).abs() - 1.0).max(0.0) / variance.sqrt();
    complementary_error(z / std::f64::consts::SQRT_2).min(1.0)
}

/// `erfc` for values from 0 on: the approximation of *Numerical Recipes*, section 6.2, whose relative error is below
/// 1.2 × 10⁻⁷ everywhere.
fn complementary_error(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    t * (polynomial - x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differences 1 … n, of which these are negative.
    fn differences(count: i32, negative: &[i32]) -> Vec<f64> {
        (1..=count).map(|rank| f64::from(if negative.contains(&rank) { -rank } else { rank })).collect()
    }

    fn signed(count: i32, negative: &[i32]) -> f64 {
        signed_rank(&differences(count, negative)).unwrap().p
    }

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    /// By hand: of the 2^n signs, those whose smaller sum is at most the one seen.
    #[test]
    fn signed_ranks_worked_by_hand() {
        near(signed(5, &[]), 2.0 / 32.0);
        near(signed(5, &[1]), 4.0 / 32.0);
        // Sums up to 3: {}, {1}, {2}, {3}, {1,2}.
        near(signed(5, &[3]), 10.0 / 32.0);
        near(signed(5, &[1, 2]), 10.0 / 32.0);
        near(signed(1, &[]), 1.0);
        // In the middle of three: sums 0 1 2 3 3 4 5 6, seen 3.
        near(signed(3, &[3]), 1.0);
    }

    /// The largest sum of the rarer sign that is still significant at 5 %, two-sided, and one more that is not:
    /// Wilcoxon and Wilcox, *Some Rapid Approximate Statistical Procedures* (1964), table 2.
    #[test]
    fn signed_ranks_agree_with_the_published_table() {
        for (count, critical) in [
            (6, 0),
            (7, 2),
            (8, 3),
            (9, 5),
            (10, 8),
            (11, 10),
            (12, 13),
            (13, 17),
            (14, 21),
            (15, 25),
            (20, 52),
            (25, 89),
        ] {
            let with_sum = |mut sum: i32| {
                let mut negative = Vec::new();
                for rank in (1..=count).rev() {
                    if rank <= sum {
                        negative.push(rank);
                        sum -= rank;
                    }
                }
                signed(count, &negative)
            };
            let (inside, outside) = (with_sum(critical), with_sum(critical + 1));
            assert!(inside <= 0.05 && outside > 0.05, "{count}: {inside} {outside}");
        }
        // Five pairs can never be significant at 5 %.
        assert!(signed(5, &[]) > 0.05);
    }

    /// With ties the ranks are shared: |d| = 1 1 2 have ranks 1.5 1.5 3, whose sums are 0 1.5 1.5 3 3 4.5 4.5 6.
    #[test]
    fn ties_share_their_ranks_and_zeroes_say_nothing() {
        near(signed_rank(&[1.0, -1.0, 2.0]).unwrap().p, 6.0 / 8.0);
        near(signed_rank(&[1.0, 1.0, 2.0]).unwrap().p, 2.0 / 8.0);
        near(signed_rank(&[0.0, 1.0, 1.0, 2.0]).unwrap().p, 2.0 / 8.0);
        assert_eq!(signed_rank(&[0.0; 9]).unwrap().p, 1.0);
        assert_eq!(signed_rank(&[]), None);
    }

    /// By hand: of the choices of three out of six ranks, 20 in all, sums of 6, 7, 8, 8, 9, 9, 9, …
    #[test]
    fn rank_sums_worked_by_hand() {
        let p = |a: &[f64], b: &[f64]| rank_sum(a, b).unwrap().p;
        near(p(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 2.0 / 20.0);
        near(p(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]), 4.0 / 20.0);
        near(p(&[1.0, 2.0, 5.0], &[3.0, 4.0, 6.0]), 8.0 / 20.0);
        near(p(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]), 2.0 / 20.0);
        // All the same: nothing is said.
        near(p(&[1.0, 1.0], &[1.0, 1.0]), 1.0);
        near(rank_sum(&[1.0; 5], &[2.0; 5]).unwrap().p, 2.0 / 252.0);
    }

    /// The largest U that is significant at 5 %, two-sided: Mann and Whitney's table as in Siegel, *Nonparametric
    /// Statistics* (1956), table K.
    #[test]
    fn rank_sums_agree_with_the_published_table() {
        for (m, n, critical) in
            [(4, 4, 0), (5, 5, 2), (5, 8, 6), (7, 7, 8), (8, 8, 13), (10, 10, 23), (15, 15, 64)]
        {
            let with_u = |u: usize| {
                // The first m of m + n numbers; the largest of them moved up until u pairs are the wrong way round.
                let mut a: Vec<usize> = (0..m).collect();
                let mut left = u;
                for place in (0..m).rev() {
                    let step = left.min(n);
                    a[place] += step;
                    left -= step;
                }
                let b: Vec<f64> =
                    (0..m + n).filter(|rank| !a.contains(rank)).map(|rank| rank as f64).collect();
                rank_sum(&a.iter().map(|rank| *rank as f64).collect::<Vec<_>>(), &b).unwrap().p
            };
            let (inside, outside) = (with_u(critical), with_u(critical + 1));
            assert!(inside <= 0.05 && outside > 0.05, "{m} and {n}: {inside} {outside}");
        }
    }

    /// The normal distribution says nearly what counting says, ties included.
    #[test]
    fn the_normal_distribution_agrees_with_counting() {
        for every in [3, 4, 7] {
            let values: Vec<f64> =
                (1..=40).map(|rank| f64::from(if rank % every == 0 { -rank } else { rank } / 2)).collect();
            let ranks = doubled_ranks(&values.iter().map(|value| value.abs()).collect::<Vec<_>>());
            let positive =
                ranks.iter().zip(&values).filter(|(_, value)| **value > 0.0).map(|(rank, _)| rank).sum();
            let (exact, normal) = (signed_exact(&ranks, positive), signed_normal(&ranks, positive));
            assert!((exact - normal).abs() < 0.002, "{every}: {exact} {normal}");
            let all = doubled_ranks(&(0..40).map(|rank| f64::from(rank / 2)).collect::<Vec<_>>());
            let seen = all.iter().step_by(2).sum::<u64>() - 20 * every as u64;
            let arrangements = (0..20).fold(1.0, |ways, i| ways * f64::from(40 - i) / f64::from(i + 1));
            let (exact, normal) = (sum_exact(&all, 20, arrangements, seen), sum_normal(&all, 20, seen));
            // Everything being tied, sums go in double steps, which the continuity correction does not know.
            assert!((exact - normal).abs() < 0.02, "{every}: {exact} {normal}");
        }
    }

    #[test]
    fn the_error_function_at_known_places() {
        for (z, p) in [(0.0, 1.0), (1.0, 0.317_310_507_9), (1.959_963_985, 0.05), (3.290_526_731, 0.001)] {
            let seen = complementary_error(z / std::f64::consts::SQRT_2);
            assert!((seen / p - 1.0).abs() < 1e-6, "{z}: {seen}");
        }
    }

    /// Holm's own procedure on four: 0.01 × 4, 0.02 × 3, 0.03 × 2, 0.04 × 1, never falling.
    #[test]
    fn holm_in_the_order_given() {
        let adjusted = holm(&[0.03, 0.01, 0.04, 0.02]);
        for (value, expected) in adjusted.iter().zip([0.06, 0.04, 0.06, 0.06]) {
            near(*value, expected);
        }
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        assert_eq!(holm(&[]), Vec::<f64>::new());
    }
}
