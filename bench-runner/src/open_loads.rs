//! What open loads show: what was offered, what was achieved, and what an operation waited for from when it was to begin.
//!
//! The *SLO point* of an arm is the highest load that it took with a p99 of intended latency within a bound, while it achieved
//! at least 99 % of what was offered; loads above one that failed do not count, even if they passed.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::measure::ACHIEVED_MIN;
use crate::results::{MetricRow, RunData};
use crate::summary::microseconds;

/// One arm at one open load, over its valid blocks.
pub(crate) struct OpenLoad<'a> {
    /// One of its rows.
    pub first: &'a MetricRow,
    /// Operations a second, the mean of the blocks.
    pub offered: f64,
    rows: Vec<&'a MetricRow>,
}

impl OpenLoad<'_> {
    /// A value over all operations.
    pub fn value(&self, metric: &str, stat: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.metric == metric && row.stat == stat)?.value
    }

    /// Operations completed a second.
    pub fn achieved_per_second(&self) -> Option<f64> {
        Some(self.value("achieved_of_offered", "mean")? * self.offered)
    }

    /// Whether it meets a bound of the p99 of intended latency.
    fn meets(&self, slo_ns: u64) -> bool {
        let p99_ns = self.value("latency_intended", "p99");
        let achieved = self.value("achieved_of_offered", "mean");
        p99_ns.is_some_and(|p99_ns| p99_ns <= slo_ns as f64)
            && achieved.is_some_and(|achieved| achieved >= ACHIEVED_MIN)
    }
}

/// By workload and depth, arm and offered load; `metrics` are the rows of blocks, `pooled` those over them.
pub(crate) fn open_loads<'a>(metrics: &[MetricRow], pooled: &'a [MetricRow]) -> Vec<OpenLoad<'a>> {
    let of_blocks = |row: &&MetricRow| row.run.is_some() && row.valid && row.offered_iops.is_some();
    let mut loads: Vec<OpenLoad> = Vec::new();
    let key = |row: &MetricRow| (row.workload.clone(), row.queue_depth, row.arm.clone(), row.phase.clone());
    let is_intended = |row: &&MetricRow| row.metric == "latency_intended" && row.op == "all";
    for row in pooled.iter().filter(|row| row.run.is_none() && row.stat == "p50").filter(is_intended) {
        let beside = |other: &&MetricRow| key(other) == key(row);
        let offered: Vec<f64> = metrics
            .iter()
            .filter(of_blocks)
            .filter(beside)
            .filter(|other| other.metric == "achieved_of_offered")
            .filter_map(|other| other.offered_iops)
            .map(|offered| offered as f64)
            .collect();
        if offered.is_empty() {
            continue;
        }
        let over_blocks = |other: &&MetricRow| other.run.is_none() && other.op == "all";
        let rows = pooled.iter().filter(over_blocks).filter(beside).collect();
        loads.push(OpenLoad {
            first: row,
            offered: offered.iter().sum::<f64>() / offered.len() as f64,
            rows,
        });
    }
    loads.sort_by(|one, other| {
        let place =
            |load: &OpenLoad| (load.first.workload.clone(), load.first.queue_depth, load.first.arm.clone());
        place(one).cmp(&place(other)).then(one.offered.total_cmp(&other.offered))
    });
    loads
}

/// The SLO point of each arm: the load, or none that meets the bound.
pub(crate) fn slo_points<'a>(loads: &'a [OpenLoad<'a>], slo_ns: u64) -> Vec<(&'a MetricRow, Option<f64>)> {
    let same = |one: &OpenLoad, other: &OpenLoad| {
        (&one.first.workload, one.first.queue_depth, &one.first.arm)
            == (&other.first.workload, other.first.queue_depth, &other.first.arm)
    };
    loads
        .chunk_by(same)
        .map(|of_arm| {
            let met = of_arm.iter().take_while(|load| load.meets(slo_ns));
            (of_arm[0].first, met.last().map(|load| load.offered))
        })
        .collect()
}

/// For people; nothing where no load was open.
pub(crate) fn table(data: &RunData) -> String {
    let loads = open_loads(&data.metrics, &data.metrics);
    let mut text = String::new();
    if loads.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\n{:<17} {:>5} {:<8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
        "open loads",
        "depth",
        "arm",
        "offered/s",
        "achieved",
        "p50",
        "p99",
        "p50 serv.",
        "late p99",
        "saturated"
    );
    for load in &loads {
        let percent =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:.1}%", value * 100.0));
        let _ = writeln!(
            text,
            "{:<17} {:>5} {:<8} {:>11.0} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
            load.first.workload,
            load.first.queue_depth.unwrap_or_default(),
            load.first.arm,
            load.offered,
            percent(load.value("achieved_of_offered", "mean")),
            microseconds(load.value("latency_intended", "p50")),
            microseconds(load.value("latency_intended", "p99")),
            microseconds(load.value("latency", "p50")),
            microseconds(load.value("lateness", "p99")),
            percent(load.value("saturated", "mean")),
        );
    }
    text.push_str(
        "from when operations were to begin; p50 serv. from when they were begun; times in microseconds\n",
    );
    if let Some(slo_ns) = data.manifest.plan.slo_ns {
        let within = slo_ns / 1_000;
        for (row, point) in slo_points(&loads, slo_ns) {
            let at = format!("{} depth {} {}", row.workload, row.queue_depth.unwrap_or_default(), row.arm);
            let _ = match point {
                Some(rate) => writeln!(text, "{at}: up to {rate:.0} a second with a p99 within {within} µs"),
                None => writeln!(text, "{at}: at no load was the p99 within {within} µs"),
            };
        }
    }
    text
}

/// For programs.
pub(crate) fn object(data: &RunData) -> Value {
    let loads = open_loads(&data.metrics, &data.metrics);
    let one = |load: &OpenLoad| {
        json!({
            "arm": load.first.arm, "workload": load.first.workload, "queue_depth": load.first.queue_depth,
            "load": load.first.phase, "offered_per_second": load.offered,
            "achieved_of_offered": load.value("achieved_of_offered", "mean"),
            "intended_p50_ns": load.value("latency_intended", "p50"),
            "intended_p99_ns": load.value("latency_intended", "p99"),
            "service_p50_ns": load.value("latency", "p50"), "service_p99_ns": load.value("latency", "p99"),
            "lateness_p99_ns": load.value("lateness", "p99"), "saturated": load.value("saturated", "mean"),
        })
    };
    let points = data.manifest.plan.slo_ns.map(|slo_ns| {
        let points = slo_points(&loads, slo_ns).into_iter();
        let one = |(row, point): (&MetricRow, Option<f64>)| {
            json!({
                "arm": row.arm, "workload": row.workload, "queue_depth": row.queue_depth, "slo_ns": slo_ns,
                "offered_per_second": point,
            })
        };
        points.map(one).collect::<Vec<_>>()
    });
    json!({ "loads": loads.iter().map(one).collect::<Vec<_>>(), "slo_points": points })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(arm: &str, offered: u64, p99_ns: f64, achieved: f64) -> Vec<MetricRow> {
        let row = |metric: &str, stat: &str, value: f64| MetricRow {
            arm: arm.to_owned(),
            workload: "oltp".to_owned(),
            op: "all".to_owned(),
            queue_depth: Some(32),
            phase: format!("open-{offered}-per-s"),
            metric: metric.to_owned(),
            stat: stat.to_owned(),
            value: Some(value),
            valid: true,
            ..MetricRow::default()
        };
        let of_block = row("achieved_of_offered", "mean", achieved);
        vec![
            row("latency_intended", "p50", p99_ns / 2.0),
            row("latency_intended", "p99", p99_ns),
            row("achieved_of_offered", "mean", achieved),
            MetricRow { run: Some(1), block: Some(1), offered_iops: Some(offered), ..of_block },
        ]
    }

    #[test]
    fn the_point_is_the_highest_load_before_the_first_that_fails() {
        let mut data = RunData::default();
        // Of `raw` the third load misses its achievement, so that the fourth does not count; `log` meets none.
        for (offered, p99_ns, achieved) in
            [(100, 1e5, 1.0), (400, 9e5, 0.995), (700, 9e5, 0.98), (800, 5e5, 1.0)]
        {
            data.metrics.extend(rows("raw", offered, p99_ns, achieved));
        }
        data.metrics.extend(rows("log", 100, 1_000_001.0, 1.0));
        data.manifest.plan.slo_ns = Some(1_000_000);
        let loads = open_loads(&data.metrics, &data.metrics);
        assert_eq!(loads.len(), 5);
        let points: Vec<_> =
            slo_points(&loads, 1_000_000).iter().map(|(row, point)| (row.arm.clone(), *point)).collect();
        assert_eq!(points, [("log".to_owned(), None), ("raw".to_owned(), Some(400.0))]);
        let text = table(&data);
        assert!(text.contains("oltp depth 32 raw: up to 400 a second"), "{text}");
        assert!(text.contains("log: at no load"), "{text}");
        assert!(table(&RunData::default()).is_empty());
    }
}
