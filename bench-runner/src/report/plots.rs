//! The pictures of the report, each from the rows of the run folder.

use std::collections::BTreeMap;

use super::svg::{Anchor, Frame, Scale, WIDTH};
use super::text::{count, depth_words, short, time};
use super::view::View;
use crate::open_loads::OpenLoad;
use crate::results::{MetricRow, SecondRow};
use crate::stats;
use crate::suite::Load;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Height of a row of the forest plot: a label, a point with its interval, the numbers.
const FOREST_ROW_HEIGHT: f64 = 22.0;

/// Width of a character of 13 units' height in the forest plot, a little more than a sans-serif font takes.
const CHARACTER_WIDTH: f64 = 7.2;

/// The percentile curve ends here: 1 in 100,000.
const MOST_NINES: f64 = 5.0;

/// Points of the percentile curve for each factor of ten in `1 − q`.
const POINTS_PER_NINE: u32 = 25;

/// Labels of times that stand clear of each other below a picture.
const MOST_TIME_TICKS: usize = 8;

/// Percentiles of the scatter plot with the radius of their dots; the classes fill, ring and shade them.
const SCATTER: [(&str, f64, &str); 3] =
    [("p50", 5.0, "full"), ("p99", 5.0, "hollow"), ("p99.9", 3.0, "hollow")];

/// Paired ratios of one metric over one reference, with a line at 1. `None` without any.
pub(super) fn forest(view: &View, reference: &str, metric: &str) -> Option<String> {
    let rows: Vec<(&MetricRow, &str)> = view
        .ratios()
        .filter(|(row, _, other)| *other == reference && row.metric == metric)
        .map(|(row, arm, _)| (row, arm))
        .collect();
    let label = |row: &MetricRow, arm: &str| {
        let unranked = if row.steady == Some(false) { " (not steady)" } else { "" };
        format!("{arm} {} qd {}{unranked}", row.workload, row.queue_depth.unwrap_or_default())
    };
    let longest = rows.iter().map(|(row, arm)| label(row, arm).chars().count()).max()?;
    let ends = |row: &MetricRow| {
        let value = row.value.unwrap_or(1.0);
        [row.ci_low.unwrap_or(value), row.ci_high.unwrap_or(value)]
    };
    let x = Scale::logarithmic(rows.iter().flat_map(|(row, _)| ends(row)).chain([1.0]), 1.03);
    let left = (longest as f64 * CHARACTER_WIDTH + 10.0).min(WIDTH * 0.45);
    let height = rows.len() as f64 * FOREST_ROW_HEIGHT + 58.0;
    let mut frame = Frame::new(height, (left, 150.0, 6.0, 46.0), x, Scale::linear(0.0, 1.0));
    let ticks: Vec<(f64, String)> = forest_ticks(&x).into_iter().map(|tick| (tick, trimmed(tick))).collect();
    frame.x_axis(&ticks, &format!("times {reference}, with 95 % interval"));
    frame.vertical(1.0, "one");
    for (index, (row, arm)) in rows.iter().enumerate() {
        let y = 6.0 + (index as f64 + 0.5) * FOREST_ROW_HEIGHT;
        let (value, [low, high]) = (row.value.unwrap_or(1.0), ends(row));
        let interval = format!("interval {}", view.colour(arm));
        frame.text(left - 10.0, y + 4.5, Anchor::End, "tick", &label(row, arm));
        let (from, to) = (frame.x_of(low), frame.x_of(high));
        frame.segment(&interval, (from, y), (to, y));
        for end in [from, to] {
            frame.segment(&interval, (end, y - 5.0), (end, y + 5.0));
        }
        let numbers = match (row.ci_low, row.ci_high) {
            (Some(low), Some(high)) => format!("{value:.3} ({low:.3}–{high:.3})"),
            _ => format!("{value:.3} (one block)"),
        };
        frame.dot_at(&view.colour(arm), (frame.x_of(value), y), 3.0, &numbers);
        frame.text(WIDTH - 2.0, y + 4.5, Anchor::End, "tick", &numbers);
    }
    Some(frame.finish(&format!("{metric} beside {reference}, one row an arm, workload and depth")))
}

/// Ticks that keep 1 among them and do not crowd.
fn forest_ticks(scale: &Scale) -> Vec<f64> {
    let ticks = if scale.decades() < 0.35 { scale.even_ticks() } else { scale.ticks() };
    if ticks.len() <= 7 { ticks } else { ticks.into_iter().step_by(2).collect() }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Latency over the share of I/Os that were faster, one curve an arm, merged over its valid blocks.
pub(super) fn percentile_curves(view: &View, panel: (&str, u32)) -> Option<String> {
    let curves: Vec<(&str, Vec<(f64, f64)>)> = view
        .arms
        .iter()
        .filter_map(|arm| {
            let latencies = view.latencies(arm, panel)?;
            let points: Vec<(f64, f64)> = (0..=(MOST_NINES as u32) * POINTS_PER_NINE)
                .map(|step| f64::from(step) / f64::from(POINTS_PER_NINE))
                .map_while(|nines| {
                    let value = stats::percentile(&latencies, 1.0 - 10f64.powf(-nines))?;
                    Some((nines, value.max(1) as f64))
                })
                .collect();
            (!points.is_empty()).then_some((*arm, points))
        })
        .collect();
    let last =
        curves.iter().filter_map(|(_, points)| points.last()).map(|(nines, _)| *nines).reduce(f64::max)?;
    let y = Scale::logarithmic(curves.iter().flat_map(|(_, points)| points.iter().map(|(_, ns)| *ns)), 1.15);
    let mut frame = Frame::usual(Scale::linear(0.0, last.max(1.0) * 1.02), y);
    let quantiles = [
        (0.5, "p50"),
        (0.9, "p90"),
        (0.99, "p99"),
        (0.999, "p99.9"),
        (0.9999, "p99.99"),
        (0.99999, "p99.999"),
    ];
    let ticks: Vec<(f64, String)> = quantiles
        .iter()
        .map(|(q, name)| (-(1.0f64 - q).log10(), name.to_string()))
        .filter(|(nines, _)| *nines <= last.max(1.0) + 1e-6)
        .collect();
    frame.x_axis(&ticks, "percentile, on a scale of log(1/(1−q))");
    frame.y_axis(&time_ticks(&y), "latency");
    // The bare device last: its line is dashed, so that an equal one shows beneath it.
    for (arm, points) in curves.into_iter().rev() {
        frame.line(&format!("curve {}", view.colour(arm)), points);
    }
    Some(frame.finish(&format!("Latency percentiles of {} at depth {}", panel.0, panel.1)))
}

/// p50, p99 and p99.9 over the IOPS achieved, one column of dots for each arm and depth.
pub(super) fn latency_over_iops(view: &View, workload: &str, depths: &[u32]) -> Option<String> {
    let mut points: Vec<(&str, u32, f64, &str, f64)> = Vec::new();
    for (arm, depth) in view.arms.iter().flat_map(|arm| depths.iter().map(move |depth| (*arm, *depth))) {
        let Some(iops) = view.value(arm, (workload, depth), "all", "iops", "mean") else { continue };
        for (stat, ..) in SCATTER {
            if let Some(ns) = view.value(arm, (workload, depth), "all", "latency", stat) {
                points.push((arm, depth, iops, stat, ns));
            }
        }
    }
    let most = points.iter().map(|point| point.2).reduce(f64::max)?;
    let (x, y) =
        (Scale::linear(0.0, most * 1.08), Scale::logarithmic(points.iter().map(|point| point.4), 1.3));
    let mut frame = Frame::usual(x, y);
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, short(count(tick)))).collect();
    frame.x_axis(&ticks, "achieved IOPS");
    frame.y_axis(&time_ticks(&y), "latency");
    for (arm, depth) in view.arms.iter().flat_map(|arm| depths.iter().map(move |depth| (*arm, *depth))) {
        let column = points.iter().filter(|point| point.0 == arm && point.1 == depth);
        frame.line(&format!("thin {}", view.colour(arm)), column.map(|point| (point.2, point.4)));
    }
    for (arm, depth, iops, stat, ns) in points {
        let (_, radius, shape) = SCATTER.into_iter().find(|shape| shape.0 == stat).unwrap_or(SCATTER[0]);
        let hover =
            format!("{arm}, {}: {stat} {} at {} IOPS", depth_words(workload, depth), time(ns), count(iops));
        frame.dot(&format!("{shape} {}", view.colour(arm)), (iops, ns), radius, &hover);
    }
    Some(frame.finish(&format!("p50, p99 and p99.9 of {workload} over achieved IOPS")))
}

/// p50 and p99, from when operations were to begin, over what was achieved of each open load; the loads of one arm are a line.
pub(super) fn latency_over_load(view: &View, loads: &[&OpenLoad]) -> Option<String> {
    let mut points: Vec<(&str, &str, f64, f64)> = Vec::new();
    for load in loads {
        let Some(achieved) = load.achieved_per_second() else { continue };
        for stat in ["p50", "p99"] {
            if let Some(ns) = load.value("latency_intended", stat) {
                points.push((&load.first.arm, stat, achieved, ns));
            }
        }
    }
    let most = points.iter().map(|point| point.2).reduce(f64::max)?;
    let (x, y) =
        (Scale::linear(0.0, most * 1.08), Scale::logarithmic(points.iter().map(|point| point.3), 1.3));
    let mut frame = Frame::usual(x, y);
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, short(count(tick)))).collect();
    frame.x_axis(&ticks, "achieved of the offered load, a second");
    frame.y_axis(&time_ticks(&y), "latency from the intended beginning");
    for (arm, (stat, shape)) in
        view.arms.iter().flat_map(|arm| [("p50", "full"), ("p99", "hollow")].map(|stat| (*arm, stat)))
    {
        let own: Vec<(f64, f64)> = points
            .iter()
            .filter(|point| point.0 == arm && point.1 == stat)
            .map(|point| (point.2, point.3))
            .collect();
        frame.line(&format!("thin {}", view.colour(arm)), own.iter().copied());
        for (achieved, ns) in own {
            let hover = format!("{arm}: {stat} {} at {}/s", time(ns), count(achieved));
            frame.dot(&format!("{shape} {}", view.colour(arm)), (achieved, ns), 5.0, &hover);
        }
    }
    Some(frame.finish("p50 and p99 of intended latency over the achieved load"))
}

/// Share of I/Os over latency, one curve an arm, merged over its valid blocks; up to 99 %, beyond which the percentile curve is
/// the one to look at.
pub(super) fn distribution(view: &View, panel: (&str, u32)) -> Option<String> {
    let curves: Vec<(&str, Vec<(f64, f64)>)> = view
        .arms
        .iter()
        .filter_map(|arm| {
            let latencies = view.latencies(arm, panel)?;
            let points: Vec<(f64, f64)> = (1..100)
                .map(|percent| f64::from(percent) / 100.0)
                .filter_map(|share| {
                    Some((stats::percentile(&latencies, share)?.max(1) as f64, share * 100.0))
                })
                .collect();
            (!points.is_empty()).then_some((*arm, points))
        })
        .collect();
    if curves.is_empty() {
        return None;
    }
    let x = Scale::logarithmic(curves.iter().flat_map(|(_, points)| points.iter().map(|(ns, _)| *ns)), 1.05);
    let y = Scale::linear(0.0, 100.0);
    let mut frame = Frame::usual(x, y);
    let ticks = time_ticks(&x);
    let step = ticks.len().div_ceil(MOST_TIME_TICKS).max(1);
    frame.x_axis(&ticks.into_iter().step_by(step).collect::<Vec<_>>(), "latency");
    let ticks: Vec<(f64, String)> = y.ticks().into_iter().map(|tick| (tick, format!("{tick} %"))).collect();
    frame.y_axis(&ticks, "I/Os at least this fast");
    for (arm, points) in curves.into_iter().rev() {
        frame.line(&format!("curve {}", view.colour(arm)), points);
    }
    Some(frame.finish(&format!("Distribution of latency of {} at depth {}", panel.0, panel.1)))
}

/// What is told of each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Operations completed in it.
    Iops,
    /// Mean of their latencies as a line, the longest as dots.
    Latency,
}

/// A line for each event of a second that is drawn from `start` on; adds its text to `events`, whose place is its number.
pub(super) fn event_lines(
    frame: &mut Frame,
    view: &View,
    (start, since_start_ns): (f64, u64),
    events: &mut Vec<String>,
) {
    for event in &view.data.events {
        let Some(within) = event.since_start_ns.checked_sub(since_start_ns) else { continue };
        if within < NANOSECONDS_PER_SECOND {
            let place = start + within as f64 / NANOSECONDS_PER_SECOND as f64;
            events.push(format!("{}: {}", event.event, event.detail));
            frame.vertical(place, "event");
            let number = events.len().to_string();
            frame.text(frame.x_of(place) + 3.0, 40.0, Anchor::Start, "small strong", &number);
        }
    }
}

/// A value of every measured second, runs one after another with the pauses between them cut out, and a line for each
/// event that fell into a measured second. Also returns the events' texts, in the order of their numbers.
pub(super) fn seconds(
    view: &View,
    (workload, depth): (&str, u32),
    course: Course,
) -> Option<(String, Vec<String>)> {
    let mut runs: Vec<_> = view
        .data
        .runs
        .iter()
        .filter(|run| {
            Load::is_closed_phase(&run.phase) && run.workload == workload && run.queue_depth == depth
        })
        .filter(|run| run.measured_ns.is_some())
        .collect();
    runs.sort_by_key(|run| run.started_ns);
    let mut of_run: BTreeMap<u64, Vec<&SecondRow>> = BTreeMap::new();
    for second in &view.data.seconds {
        of_run.entry(second.run).or_default().push(second);
    }
    let mut cut = Vec::new();
    let mut at = 0.0;
    for run in runs {
        // The last second of a run is a part of one, and would look like a collapse.
        let whole_seconds = run.measured_ns.unwrap_or_default() / NANOSECONDS_PER_SECOND;
        let seconds = of_run.remove(&run.run).unwrap_or_default();
        let points: Vec<&SecondRow> =
            seconds.into_iter().filter(|row| u64::from(row.second) < whole_seconds).collect();
        let length = points.len() as f64;
        cut.push((at, run, points));
        at += length;
    }
    if at == 0.0 {
        return None;
    }
    let all = || cut.iter().flat_map(|(_, _, points)| points.iter().copied());
    let x = Scale::linear(0.0, at);
    let (y, words) = match course {
        Course::Iops => {
            let most = all().map(|row| row.operations).max().unwrap_or(0);
            (Scale::linear(0.0, most as f64 * 1.08), "IOPS of each second")
        }
        Course::Latency => {
            let values = all().flat_map(|row| [row.latency_mean_ns, row.latency_max_ns]).flatten();
            (Scale::logarithmic(values.map(|ns| ns as f64), 1.3), "latency: line mean, dots longest")
        }
    };
    let mut frame = Frame::usual(x, y);
    let counts =
        |scale: &Scale| scale.ticks().into_iter().map(|tick| (tick, short(count(tick)))).collect::<Vec<_>>();
    frame.x_axis(&counts(&x), "measured seconds in the order they were run, pauses cut out");
    frame.y_axis(&if course == Course::Iops { counts(&y) } else { time_ticks(&y) }, words);
    let mut events = Vec::new();
    let mut block = 0;
    for (start, run, points) in &cut {
        if run.block != block {
            block = run.block;
            frame.vertical(*start, "block");
            frame.text(frame.x_of(*start) + 3.0, 26.0, Anchor::Start, "small", &format!("block {block}"));
        }
        let class = format!("{}{}", view.colour(&run.arm), if run.valid { "" } else { " invalid" });
        // A second is drawn at its middle.
        let place = |index: usize| start + index as f64 + 0.5;
        let of = |row: &SecondRow| match course {
            Course::Iops => Some(row.operations as f64),
            Course::Latency => row.latency_mean_ns.map(|ns| ns as f64),
        };
        frame.line(
            &class,
            points.iter().enumerate().filter_map(|(index, row)| Some((place(index), of(row)?))),
        );
        for (index, row) in points.iter().enumerate() {
            if let (Course::Latency, Some(longest_ns)) = (course, row.latency_max_ns) {
                let hover =
                    format!("{}, second {}: longest {}", run.arm, row.second, time(longest_ns as f64));
                frame.dot(&class, (place(index), longest_ns as f64), 1.2, &hover);
            }
            event_lines(&mut frame, view, (start + index as f64, row.since_start_ns), &mut events);
        }
    }
    let what = if course == Course::Iops { "IOPS" } else { "Latency" };
    Some((frame.finish(&format!("{what} by second of {workload} at depth {depth}")), events))
}

pub(super) fn time_ticks(scale: &Scale) -> Vec<(f64, String)> {
    scale.ticks().into_iter().map(|tick| (tick, short(time(tick)))).collect()
}
