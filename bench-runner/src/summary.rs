//! What a finished run says on the terminal: a table for people on stderr, one object for programs on stdout.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::open_loads;
use crate::replay;
use crate::report;
use crate::results::{MetricRow, RunData};
use crate::session::Session;
use crate::suite::Load;

/// Everything a script wants of a run, as one JSON object.
pub fn object(session: &Session) -> Value {
    let mut object = json!({
        "report": session.report.display().to_string(),
        "exit_code": session.exit_code(),
        "valid": session.invalid.is_empty(),
        "invalid_reasons": session.invalid,
        "complete": session.data.manifest.complete,
        "interrupted": session.data.manifest.interrupted,
        "seed": session.data.manifest.seed,
        "headlines": report::headlines(&session.data),
        "figures": figures(&session.data),
        "ratios": ratios(&session.data),
        "runner_cost": runner_cost(&session.data),
        "suites": suites(&session.data),
        "open": open_loads::object(&session.data),
        "replays": replay::tell::object(&session.data),
    });
    if let Some(failure) = &session.stopped {
        object["error"] = json!({ "exit_code": failure.exit_code, "message": failure.message });
    }
    object
}

/// The pooled values of suites of snapshots.
fn suites(data: &RunData) -> Vec<Value> {
    let is_suite = |row: &&MetricRow| {
        row.run.is_none()
            && row.metric != "runner_cost"
            && !Load::is_closed_phase(&row.phase)
            && row.value.is_some()
            && !Load::is_open_phase(&row.phase)
    };
    data.metrics
        .iter()
        .filter(is_suite)
        .map(|row| {
            json!({
                "arm": row.arm, "suite": row.workload, "phase": row.phase, "snapshots": row.chain_depth,
                "op": row.op, "metric": row.metric, "stat": row.stat, "value": row.value, "unit": row.unit,
                "ci_low": row.ci_low, "ci_high": row.ci_high, "blocks": row.n,
            })
        })
        .collect()
}

fn pooled(data: &RunData) -> impl Iterator<Item = &MetricRow> {
    data.metrics
        .iter()
        .filter(|row| row.run.is_none() && Load::is_closed_phase(&row.phase) && row.op == "all")
}

fn figures(data: &RunData) -> Vec<Value> {
    pooled(data)
        .filter(|row| row.metric == "iops")
        .map(|iops| {
            let value = |metric: &str, stat: &str| figure(data, iops, metric, stat);
            json!({
                "arm": iops.arm, "workload": iops.workload, "queue_depth": iops.queue_depth,
                "blocks": iops.n, "valid": iops.valid, "steady": iops.steady,
                "iops": iops.value, "bandwidth_bytes_s": value("bandwidth", "mean"),
                "latency_p50_ns": value("latency", "p50"), "latency_p99_ns": value("latency", "p99"),
                "latency_p99.9_ns": value("latency", "p99.9"), "latency_max_ns": value("latency", "max"),
                "cpu_user_ns": value("cpu_user", "mean"), "cpu_system_ns": value("cpu_system", "mean"),
                "allocations": value("allocations", "mean"),
            })
        })
        .collect()
}

/// The value beside `row`: of the same arm, workload and depth.
fn figure(data: &RunData, row: &MetricRow, metric: &str, stat: &str) -> Option<f64> {
    pooled(data)
        .find(|other| {
            (&other.arm, &other.workload, other.queue_depth) == (&row.arm, &row.workload, row.queue_depth)
                && other.metric == metric
                && other.stat == stat
        })?
        .value
}

fn ratios(data: &RunData) -> Vec<Value> {
    pooled(data)
        .filter_map(|row| {
            let (arm, reference) = row.arm.split_once('/')?;
            Some(json!({
                "arm": arm, "reference": reference, "workload": row.workload, "queue_depth": row.queue_depth,
                "metric": row.metric, "median": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high,
                "blocks": row.n, "steady": row.steady,
            }))
        })
        .collect()
}

fn runner_cost(data: &RunData) -> Vec<Value> {
    let rows = data.metrics.iter().filter(|row| row.metric == "runner_cost");
    rows.map(|row| json!({ "arm": row.arm, "queue_depth": row.queue_depth, "cpu_ns": row.value })).collect()
}

/// The table of a run's figures.
pub fn table(data: &RunData) -> String {
    let mut text = format!(
        "{:<17} {:>5} {:<8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6}\n",
        "workload", "depth", "arm", "IOPS", "p50", "p99", "p99.9", "max", "CPU/IO", "of raw", "steady"
    );
    for iops in pooled(data).filter(|row| row.metric == "iops") {
        let time = |metric: &str, stat: &str| microseconds(figure(data, iops, metric, stat));
        let cpu = figure(data, iops, "cpu_user", "mean").zip(figure(data, iops, "cpu_system", "mean"));
        let steady = iops.steady.map_or("-", |steady| if steady { "yes" } else { "no" });
        let of_raw = pooled(data).find(|row| {
            row.metric == "iops_ratio"
                && row.arm == format!("{}/raw", iops.arm)
                && (&row.workload, row.queue_depth) == (&iops.workload, iops.queue_depth)
        });
        let _ = writeln!(
            text,
            "{:<17} {:>5} {:<8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {steady:>6}",
            iops.workload,
            iops.queue_depth.unwrap_or_default(),
            iops.arm,
            iops.value.map_or("-".to_owned(), |value| format!("{value:.0}")),
            time("latency", "p50"),
            time("latency", "p99"),
            time("latency", "p99.9"),
            time("latency", "max"),
            microseconds(cpu.map(|(user, system)| user + system)),
            match of_raw {
                Some(row) if row.steady == Some(false) => "unranked".to_owned(),
                row => percent(row.and_then(|row| row.value)),
            },
        );
    }
    text.push_str("times in microseconds; - is not measured, or too few samples; what is not steady in a block is not ranked\n");
    text.push_str(&open_loads::table(data));
    for sentence in replay::tell::sentences(data) {
        let _ = writeln!(text, "{sentence}");
    }
    for row in data.metrics.iter().filter(|row| row.metric == "runner_cost") {
        let depth = row.queue_depth.unwrap_or_default();
        let _ = writeln!(
            text,
            "the runner itself, depth {depth}, {}: {:.0} ns an I/O",
            row.arm,
            row.value.unwrap_or_default()
        );
    }
    text
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

pub(crate) fn microseconds(nanoseconds: Option<f64>) -> String {
    nanoseconds.map_or("-".to_owned(), |nanoseconds| format!("{:.1}", nanoseconds / 1e3))
}
