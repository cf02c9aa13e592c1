//! Bands of latency: what is kept of the latencies of each second, for the picture of latency over time.
//!
//! A histogram of full precision for each second of a day would take gigabytes. Four bands for each factor of two tell latencies
//! 19 % apart, take 436 bytes a second, and one more addition for each operation.

/// Latencies below this are one band: no device answers that fast.
const LOWEST_NS: u64 = 1 << LOWEST_BITS;
const LOWEST_BITS: u32 = 10;
/// Bands for each factor of two, as a power of two.
const PARTS_BITS: u32 = 2;
/// Factors of two above the lowest band: up to 137 s, more than a histogram holds.
const DOUBLINGS: u32 = 27;

/// Number of bands.
pub const BANDS: usize = 1 + ((DOUBLINGS as usize) << PARTS_BITS);

/// The band that a latency is in; longer ones are in the last.
#[inline]
pub fn band(latency_ns: u64) -> usize {
    if latency_ns < LOWEST_NS {
        return 0;
    }
    let doublings = latency_ns.ilog2();
    let part = (latency_ns >> (doublings - PARTS_BITS)) & ((1 << PARTS_BITS) - 1);
    let band = 1 + ((u64::from(doublings - LOWEST_BITS) << PARTS_BITS) | part) as usize;
    band.min(BANDS - 1)
}

/// The shortest latency of a band, and the shortest of the one above it.
pub fn bounds_ns(band: usize) -> (u64, u64) {
    let from = |band: usize| match band.checked_sub(1) {
        None => 0,
        Some(step) => {
            let (doublings, part) = (step >> PARTS_BITS, step as u64 & ((1 << PARTS_BITS) - 1));
            (LOWEST_NS << doublings) + ((LOWEST_NS << doublings) >> PARTS_BITS) * part
        }
    };
    (from(band), from(band + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_within_the_bounds_of_its_band() {
        let mut last = 0;
        for step in 0..4_000u32 {
            let latency_ns = 1.008f64.powi(step as i32) as u64;
            let (from, below) = bounds_ns(band(latency_ns));
            if latency_ns < bounds_ns(BANDS - 1).0 {
                assert!((from..below).contains(&latency_ns), "{latency_ns}: {from}..{below}");
                assert!(from == 0 || below * 4 <= from * 5, "{from}..{below} is wide");
            }
            assert!(band(latency_ns) >= last, "bands ascend");
            last = band(latency_ns);
        }
        assert_eq!((band(0), bounds_ns(0)), (0, (0, 1024)));
        assert_eq!((band(1024), bounds_ns(1)), (1, (1024, 1280)));
        assert_eq!(band(u64::MAX), BANDS - 1);
        assert!((1..BANDS).all(|band| bounds_ns(band).0 == bounds_ns(band - 1).1));
    }
}
