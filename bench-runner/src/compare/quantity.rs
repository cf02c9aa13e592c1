//! What can be compared: which rows of `metrics.csv` make up a quantity, which way is better, and how narrow its
//! interval must be.

/// Half-width at which a run of rates may stop.
pub const RATE_HALF_WIDTH: f64 = 0.02;
/// The same of a latency's tail; of times and costs too, which are as unsteady.
pub const TIME_HALF_WIDTH: f64 = 0.05;

/// Something that two runs are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// Its name on the command line and in the output.
    pub name: &'static str,
    /// The metrics that are added up.
    pub metrics: &'static [&'static str],
    /// The statistic of each.
    pub stat: &'static str,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// Whether it is compared if nothing is named.
    pub by_default: bool,
    /// Whether it is a rate.
    is_rate: bool,
}

impl Quantity {
    const fn rate(name: &'static str, metrics: &'static [&'static str], stat: &'static str) -> Self {
        Quantity { name, metrics, stat, more_is_better: true, by_default: true, is_rate: true }
    }

    const fn cost(name: &'static str, metrics: &'static [&'static str], stat: &'static str) -> Self {
        Quantity { name, metrics, stat, more_is_better: false, by_default: true, is_rate: false }
    }

    const fn on_request(self) -> Self {
        Quantity { by_default: false, ..self }
    }

    /// Half-width up to which its interval is narrow.
    pub fn half_width(&self) -> f64 {
        if self.is_rate { RATE_HALF_WIDTH } else { TIME_HALF_WIDTH }
    }

    /// The quantity of that name.
    pub fn from_name(name: &str) -> Option<Quantity> {
        ALL.into_iter().find(|quantity| quantity.name == name)
    }
}

/// Operations a second.
pub const IOPS: Quantity = Quantity::rate("iops", &["iops"], "mean");
/// The latency that 99 of 100 operations keep.
pub const LATENCY_P99: Quantity = Quantity::cost("latency_p99", &["latency"], "p99");

/// Everything that can be compared, the most telling first. Of a closed load four are compared by default, those
/// that the report sets beside each other; the rest is of open loads and of suites of snapshots, or is another view of the same.
pub const ALL: [Quantity; 25] = [
    IOPS,
    Quantity::cost("latency_p50", &["latency"], "p50"),
    LATENCY_P99,
    Quantity::cost("latency_intended_p99", &["latency_intended"], "p99"),
    Quantity::cost("cpu", &["cpu_user", "cpu_system"], "mean"),
    Quantity::cost("snapshot_creation", &["snapshot_creation"], "mean"),
    Quantity::cost("snapshot_creation_bytes", &["snapshot_creation_bytes"], "mean"),
    Quantity::cost("snapshot_deletion", &["snapshot_deletion"], "mean"),
    Quantity::cost("space_back", &["space_back"], "mean"),
    Quantity::cost("rollback", &["rollback"], "mean"),
    Quantity::cost("open", &["open"], "mean"),
    Quantity::cost("first_read", &["first_read"], "mean"),
    Quantity::cost("flush_after", &["flush_after"], "mean"),
    Quantity::cost("works_again", &["works_again"], "mean"),
    Quantity::rate("foreground_ratio", &["foreground_ratio"], "median"),
    Quantity::cost("space_per_changed_byte", &["space_per_changed_byte"], "live"),
    Quantity::cost("write_amplification", &["write_amplification"], "total"),
    Quantity::rate("bandwidth", &["bandwidth"], "mean").on_request(),
    Quantity::cost("latency_p99.9", &["latency"], "p99.9").on_request(),
    Quantity::cost("latency_intended_p99.9", &["latency_intended"], "p99.9").on_request(),
    Quantity::cost("latency_max", &["latency"], "max").on_request(),
    Quantity::cost("cpu_user", &["cpu_user"], "mean").on_request(),
    Quantity::cost("cpu_system", &["cpu_system"], "mean").on_request(),
    Quantity::cost("device_write_bytes", &["device_write_bytes"], "total").on_request(),
    Quantity::cost("device_read_bytes", &["device_read_bytes"], "total").on_request(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found() {
        for quantity in ALL {
            assert_eq!(Quantity::from_name(quantity.name), Some(quantity));
        }
        assert_eq!(Quantity::from_name("nothing"), None);
    }
}
