//! A/A in a report: where arms were measured twice, what the two differ by, and what counts as an effect because of it.

use std::fmt::Write;

use super::page::NOT_MEASURED;
use super::text::escape;
use super::view::View;
use crate::compare::noise::{self, AGAIN, Twice};
use crate::compare::quantity::{IOPS, LATENCY_P99, Quantity};
use crate::compare::{Cell, Pairing, Side, estimate};
use crate::results::{MetricRow, RunData};
use crate::stats::verdict::SMALLEST_EFFECT;

/// The blocks of a run whose arms were measured twice.
pub(super) fn twice(data: &RunData) -> Option<Side> {
    let has_again = data.runs.iter().any(|run| run.arm.ends_with(AGAIN));
    has_again.then(|| {
        Side::of_rows("this run".to_owned(), Default::default(), None, Vec::new(), data.metrics.clone())
    })
}

/// The effect from which on the ratio of IOPS counts: 2 %, or the noise of either arm.
pub(super) fn smallest_effect(view: &View, row: &MetricRow, arms: [&str; 2]) -> f64 {
    let Some(side) = &view.twice else { return SMALLEST_EFFECT };
    let cell = Cell::of(row);
    let of_arm = |arm: &str| {
        let blocks = (row.n as usize, row.n as usize);
        let noise = |twice: &Twice| twice.noise(Pairing::SameBlock, blocks, 1, row.seed);
        noise::of_arm(side, arm, &cell, &IOPS, false, noise).map(|(_, noise)| noise)
    };
    arms.into_iter().filter_map(of_arm).fold(SMALLEST_EFFECT, f64::max)
}

/// The table of both runs of each arm.
pub(super) fn noise(view: &View, page: &mut String) {
    let Some(side) = &view.twice else { return };
    page.push_str(
        "<h2>A/A: each arm twice</h2>\n<p>The second run of an arm in a block over the first: what a comparison shows of \
         nothing. Of so many blocks drawn again, 95 of 100 comparisons stay below the noise.</p>\n\
         <div class=\"scroll\"><table>\n<tr><th class=\"text\">workload</th><th>depth</th><th class=\"text\">arm</th>\
         <th class=\"text\">metric</th><th>ratio</th><th>interval</th><th>noise</th><th>blocks</th></tr>\n",
    );
    let cells = side.cells();
    for (arm, cell) in cells.iter().filter(|(arm, cell)| !arm.ends_with(AGAIN) && cell.op == "all") {
        for quantity in [IOPS, LATENCY_P99] {
            row(side, view.data.manifest.seed, arm, cell, &quantity, page);
        }
    }
    page.push_str("</table></div>\n");
}

fn row(side: &Side, seed: u64, arm: &str, cell: &Cell, quantity: &Quantity, page: &mut String) {
    let (first, second) =
        (side.series(arm, cell, quantity), side.series(&format!("{arm}{AGAIN}"), cell, quantity));
    let Some(found) = estimate(Pairing::SameBlock, &first, &second, seed) else { return };
    let noise = Twice::of(side, arm, cell, quantity, false).map_or(NOT_MEASURED.to_owned(), |twice| {
        format!("±{:.1} %", twice.noise(Pairing::SameBlock, found.blocks, 1, seed) * 100.0)
    });
    let ratio = found.ratio;
    let interval = match ratio.ci_high.is_finite() {
        true => format!("{:.3}–{:.3}", ratio.ci_low, ratio.ci_high),
        false => NOT_MEASURED.to_owned(),
    };
    let _ = writeln!(
        page,
        "<tr><td class=\"text\">{}</td><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{:.3}</td>\
         <td>{interval}</td><td>{noise}</td><td>{}</td></tr>",
        escape(&cell.workload),
        cell.queue_depth.unwrap_or_default(),
        escape(arm),
        quantity.name,
        ratio.median,
        ratio.n
    );
}
