//! The part of the report about writing: what the device wrote for the application, how a log batched it, and how
//! near that comes to what the bare device does in its place.

use std::fmt::Write;

use icecore::device::Cause;

use super::page::NOT_MEASURED;
use super::svg::{Anchor, Frame, Scale, WIDTH};
use super::text::{depth_words, escape, percent, size, time, whole};
use super::view::View;
use crate::results::{MetricRow, WRITE_AMPLIFICATION};

/// Height of a bar with its space.
const ROW_HEIGHT: f64 = 24.0;
/// Width of a character of a label.
const CHARACTER_WIDTH: f64 = 7.2;

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
    let totals: Vec<&MetricRow> = places.filter_map(total).filter(|row| row.value.is_some()).collect();
    let label =
        |row: &MetricRow| format!("{} {} qd {}", row.arm, row.workload, row.queue_depth.unwrap_or_default());
    let longest = totals.iter().map(|row| label(row).chars().count()).max()?;
    let most = totals.iter().filter_map(|row| row.value).fold(1.0, f64::max);
    let left = (longest as f64 * CHARACTER_WIDTH + 10.0).min(WIDTH * 0.5);
    let x = Scale::linear(0.0, most * 1.02);
    let height = totals.len() as f64 * ROW_HEIGHT + 58.0;
    let mut frame = Frame::new(height, (left, 62.0, 6.0, 46.0), x, Scale::linear(0.0, 1.0));
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, format!("{tick:.1}"))).collect();
    frame.x_axis(&ticks, "bytes written by the device for each byte of the application");
    for (index, total) in totals.iter().enumerate() {
        let top = 6.0 + index as f64 * ROW_HEIGHT + 4.0;
        let middle = top + ROW_HEIGHT / 2.0 - 4.0;
        frame.text(left - 10.0, middle + 4.5, Anchor::End, "tick", &label(total));
        let mut from = 0.0;
        for (colour, cause) in causes.iter().enumerate() {
            let of_cause =
                |row: &&&MetricRow| is_of(row, total) && row.stat == *cause && row.value > Some(0.0);
            let Some(share) = rows.iter().find(of_cause) else {
                continue;
            };
            let to = from + share.value.unwrap_or(0.0);
            let hover = format!("{}: {cause} {:.3}", label(total), to - from);
            frame.bar(&format!("s{colour}"), (from, to), (top, ROW_HEIGHT - 8.0), &hover);
            from = to;
        }
        frame.text(
            WIDTH - 2.0,
            middle + 4.5,
            Anchor::End,
            "tick",
            &format!("{:.3}", total.value.unwrap_or(0.0)),
        );
    }
    frame.vertical(1.0, "one");
    Some((frame.finish("Bytes written by the device for each byte of the application, by cause"), causes))
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
