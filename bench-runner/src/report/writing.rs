//! The part of the report about writing: what the device wrote for the application, how a log batched it, and how
//! near that comes to what the bare device does in its place.

use std::fmt::Write;

use icecore::device::Cause;

use super::bars::{Bar, bars};
use super::page::NOT_MEASURED;
use super::text::{depth_words, escape, percent, size, time, whole};
use super::view::View;
use crate::results::{MetricRow, WRITE_AMPLIFICATION};

/// The whole part; nothing where nothing was written through the engine's device.
pub(super) fn writing(view: &View, page: &mut String) {
    let Some((picture, causes)) = amplification(view) else { return };
    page.push_str(
        "<h2>What was written</h2>\n<p>Bytes that the device wrote for each byte that the application wrote, by cause, \
         from the engine’s ledger: from the beginning of the load until no background work was left.</p>\n\
         <div class=\"legend\">",
    );
    for (index, cause) in causes.iter().enumerate() {
        let _ = write!(page, "<span><span class=\"mark s{index}\"></span>{}</span>", escape(cause));
    }
    let _ = writeln!(page, "</div>\n<figure>{picture}</figure>");
    batches(view, page);
}

/// One stacked bar for each arm, workload and depth, and the causes that appear.
fn amplification(view: &View) -> Option<(String, Vec<&'static str>)> {
    let rows: Vec<&MetricRow> =
        view.pooled_rows().filter(|row| row.metric == WRITE_AMPLIFICATION && row.value.is_some()).collect();
    let appears = |cause: &str| rows.iter().any(|row| row.stat == cause && row.value > Some(0.0));
    let causes: Vec<&str> =
        Cause::ALL.iter().map(|cause| cause.name()).filter(|name| appears(name)).collect();
    let total =
        |(panel, arm): ((&str, u32), &&str)| view.pooled(arm, panel, "write", WRITE_AMPLIFICATION, "total");
    let places = view.panels().flat_map(|panel| view.arms.iter().map(move |arm| (panel, arm)));
    let bar = |total: &MetricRow| {
        let value = total.value?;
        let label = format!("{} {} qd {}", total.arm, total.workload, total.queue_depth.unwrap_or_default());
        let part = |(colour, cause): (usize, &&str)| {
            let of_cause = |row: &&&MetricRow| is_of(row, total) && row.stat == *cause;
            let share = rows.iter().find(of_cause)?.value.filter(|share| *share > 0.0)?;
            Some((format!("s{colour}"), share, format!("{label}: {cause} {share:.3}")))
        };
        let parts = causes.iter().enumerate().filter_map(part).collect();
        Some(Bar { parts, total: format!("{value:.3}"), label })
    };
    let all: Vec<Bar> = places.filter_map(total).filter_map(bar).collect();
    let picture = bars(
        &all,
        "bytes written by the device for each byte of the application",
        |tick| format!("{tick:.1}"),
        true,
        "Bytes written by the device for each byte of the application, by cause",
    );
    Some((picture?, causes))
}

fn is_of(row: &MetricRow, other: &MetricRow) -> bool {
    (&row.arm, &row.workload, row.queue_depth) == (&other.arm, &other.workload, other.queue_depth)
}

/// How logs batched, and what the bare device does with requests of that size.
fn batches(view: &View, page: &mut String) {
    let logs: Vec<&MetricRow> =
        view.pooled_rows().filter(|row| row.metric == "batch_entries" && row.value.is_some()).collect();
    if logs.is_empty() {
        return;
    }
    page.push_str(
        "<h3>Batches of the log</h3>\n<p>The bare device is asked for requests of the size of the log’s own mean batch, \
         one after another and with as many in flight, right after the log in the same block. The bound is the mean \
         entries of a batch times that rate; of the two ways to persist (write and fdatasync, or a write through) the \
         faster counts.</p>\n<div class=\"scroll\"><table>\n<tr><th class=\"text\">arm</th><th class=\"text\">workload</th>\
         <th>entries a batch</th><th>bytes a batch</th><th>in flight</th><th>bare fdatasync</th><th>bare DSYNC</th>\
         <th>bare sequential</th><th>of the bound</th><th>interval</th><th>p50 of bare</th></tr>\n",
    );
    for log in logs {
        let panel = (log.workload.as_str(), log.queue_depth.unwrap_or_default());
        let row = |metric: &str, stat: &str| view.pooled(&log.arm, panel, "write", metric, stat);
        let value = |metric: &str| row(metric, "mean").and_then(|row| row.value);
        let shown = |value: Option<f64>, text: &dyn Fn(f64) -> String| {
            value.map_or_else(|| NOT_MEASURED.to_string(), text)
        };
        let bound = row("iops_of_persist", "median").or_else(|| row("iops_of_sequential", "median"));
        let interval = match bound.map(|row| (row.ci_low, row.ci_high)) {
            Some((Some(low), Some(high))) => format!("{}–{} %", percent(low), percent(high)),
            _ => NOT_MEASURED.to_string(),
        };
        let per_second = |value: f64| format!("{}/s ({})", whole(value), time(1e9 / value));
        let ratio = |value: f64| format!("{} %", percent(value));
        let cells = [
            shown(value("batch_entries"), &|value| format!("{value:.2}")),
            shown(value("batch_bytes"), &|value| size(value as u64)),
            shown(value("batches_in_flight"), &|value| format!("{value:.2}")),
            shown(value("bare_persist_flush"), &per_second),
            shown(value("bare_persist_dsync"), &per_second),
            shown(value("bare_sequential"), &per_second),
            shown(bound.and_then(|row| row.value), &ratio),
            interval,
            shown(row("latency_p50_of_persist", "median").and_then(|row| row.value), &ratio),
        ];
        let _ = write!(
            page,
            "<tr><td class=\"text\"><span class=\"mark {}\"></span>{}</td><td class=\"text\">{}, {}</td>",
            view.colour(&log.arm),
            escape(&log.arm),
            escape(panel.0),
            escape(&depth_words(panel.0, panel.1))
        );
        for cell in cells {
            let _ = write!(page, "<td>{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}
