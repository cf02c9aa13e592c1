//! The section of open loads: for each workload and depth a picture of latency over load, a table, and the highest load within
//! the bound that was asked for.

use std::fmt::Write;

use super::page::{NOT_MEASURED, legend};
use super::plots;
use super::text::{count, escape, percent, time, whole};
use super::view::View;
use crate::open_loads::{OpenLoad, open_loads, slo_points};
use crate::suite::OPEN;

/// Nothing where no load was open.
pub(super) fn loads(view: &View, page: &mut String) {
    let loads = open_loads(&view.data.metrics, &view.loads);
    if loads.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Open loads</h2>\n<p>Operations were begun by a schedule, whatever became of those before them. Latencies are from \
         when an operation was to begin, so that waiting for its turn is part of them; “service” is from when it was begun. \
         Full dots are p50, hollow ones p99.</p>\n",
    );
    legend(view, page);
    let same = |one: &OpenLoad, other: &OpenLoad| {
        (&one.first.workload, one.first.queue_depth) == (&other.first.workload, other.first.queue_depth)
    };
    for panel in loads.chunk_by(same) {
        let first = panel[0].first;
        let depth = first.queue_depth.unwrap_or_default();
        let _ = writeln!(page, "<h3>{}, at most {depth} in flight</h3>", escape(&first.workload));
        if let Some(picture) = plots::latency_over_load(view, &panel.iter().collect::<Vec<_>>()) {
            page.push_str(&picture);
        }
        page.push_str(
            "<div class=\"scroll\"><table>\n<tr><th class=\"text\">arm</th><th class=\"text\">load</th><th>offered/s</th>\
             <th>achieved</th><th>p50</th><th>p99</th><th>p99.9</th><th>service p50</th><th>service p99</th>\
             <th>begun late p99</th><th>saturated blocks</th></tr>\n",
        );
        for load in panel {
            row(view, load, page);
        }
        page.push_str("</table></div>\n");
    }
    let Some(slo_ns) = view.data.manifest.plan.slo_ns else { return };
    page.push_str("<ul>\n");
    for (row, point) in slo_points(&loads, slo_ns) {
        let (workload, depth, bound) =
            (escape(&row.workload), row.queue_depth.unwrap_or_default(), time(slo_ns as f64));
        let arm = escape(&row.arm);
        let _ = match point {
            Some(rate) => writeln!(
                page,
                "<li>{arm} takes up to {} a second of {workload} at depth {depth} with a p99 within {bound}.</li>",
                count(rate)
            ),
            None => writeln!(
                page,
                "<li>{arm} takes none of the loads of {workload} at depth {depth} with a p99 within {bound}.</li>"
            ),
        };
    }
    page.push_str("</ul>\n");
}

fn row(view: &View, load: &OpenLoad, page: &mut String) {
    let shown = |value: Option<f64>, text: fn(f64) -> String| value.map_or(NOT_MEASURED.to_string(), text);
    let share = |value: f64| format!("{} %", percent(value));
    let _ = write!(
        page,
        "<tr><td class=\"text\"><span class=\"mark {}\"></span>{}</td><td class=\"text\">{}</td>",
        view.colour(&load.first.arm),
        escape(&load.first.arm),
        escape(load.first.phase.trim_start_matches(OPEN)),
    );
    let cells = [
        whole(load.offered),
        shown(load.value("achieved_of_offered", "mean"), share),
        shown(load.value("latency_intended", "p50"), time),
        shown(load.value("latency_intended", "p99"), time),
        shown(load.value("latency_intended", "p99.9"), time),
        shown(load.value("latency", "p50"), time),
        shown(load.value("latency", "p99"), time),
        shown(load.value("lateness", "p99"), time),
        shown(load.value("saturated", "mean"), share),
    ];
    for cell in cells {
        let _ = write!(page, "<td>{cell}</td>");
    }
    page.push_str("</tr>\n");
}
