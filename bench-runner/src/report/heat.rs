//! Pictures whose colour is a value: latency over time, and a matrix of sizes and mixes.

use std::collections::BTreeMap;

use super::plots::{event_lines, time_ticks};
use super::svg::{Anchor, Frame, Scale, WIDTH};
use super::text::{count, percent, short};
use super::view::View;
use crate::results::RunRow;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Columns of the picture of latency over time; of longer runs, several seconds share one.
const COLUMNS_MAX: u64 = 280;

/// Shades from faint to full, by the least share of a column's operations that they stand for.
pub(super) const SHADES: [(f64, &str); 5] =
    [(0.0, "below 0.1 %"), (0.001, "0.1 %"), (0.01, "1 %"), (0.05, "5 %"), (0.2, "20 % and more")];

/// Where the seconds of an arm's valid runs lie when their pauses are cut out: first column, run, whole seconds.
fn places<'a>(view: &View<'a>, arm: &str, panel: (&str, u32)) -> Vec<(u64, &'a RunRow, u64)> {
    let mut runs: Vec<&RunRow> = view.runs(arm, panel).filter(|run| run.valid).collect();
    runs.sort_by_key(|run| run.started_ns);
    let mut at = 0;
    let mut places = Vec::new();
    for run in runs {
        // The last second of a run is a part of one.
        let seconds = run.measured_ns.unwrap_or_default() / NANOSECONDS_PER_SECOND;
        places.push((at, run, seconds));
        at += seconds;
    }
    places
}

/// How many operations took how long, second by second: the darker, the more of that second's. Also returns the texts of the
/// events. `None` where latencies by second were not kept.
pub(super) fn latency_over_time(view: &View, arm: &str, panel: (&str, u32)) -> Option<(String, Vec<String>)> {
    let places = places(view, arm, panel);
    let total = places.last().map(|(at, _, seconds)| at + seconds).filter(|total| *total > 0)?;
    let per_column = total.div_ceil(COLUMNS_MAX);
    let mut cells: BTreeMap<(u64, u64, u64), u64> = BTreeMap::new();
    let mut columns: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, run, seconds) in &places {
        for row in view.data.bands.iter().filter(|row| row.run == run.run) {
            if u64::from(row.second) < *seconds {
                let column = (at + u64::from(row.second)) / per_column;
                *cells.entry((column, row.from_ns, row.below_ns)).or_default() += row.operations;
                *columns.entry(column).or_default() += row.operations;
            }
        }
    }
    // The lowest band begins at nothing, which has no place on a logarithmic scale.
    let ends = |from: u64, below: u64| (if from == 0 { below / 2 } else { from } as f64, below as f64);
    let values = cells.keys().flat_map(|(_, from, below)| <[f64; 2]>::from(ends(*from, *below)));
    if cells.is_empty() {
        return None;
    }
    let (x, y) = (Scale::linear(0.0, total as f64), Scale::logarithmic(values, 1.1));
    let mut frame = Frame::usual(x, y);
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, short(count(tick)))).collect();
    frame.x_axis(&ticks, "measured seconds of this arm, pauses cut out");
    frame.y_axis(&time_ticks(&y), "latency");
    let mut shades: [Vec<[f64; 4]>; SHADES.len()] = Default::default();
    for ((column, from, below), operations) in cells {
        let share = operations as f64 / columns[&column].max(1) as f64;
        let shade = SHADES.iter().rposition(|(least, _)| share >= *least).unwrap_or(0);
        let (left, right) = (column * per_column, ((column + 1) * per_column).min(total));
        let (low, high) = ends(from, below);
        shades[shade].push([left as f64, right as f64, low, high]);
    }
    for (shade, cells) in shades.iter().enumerate() {
        frame.cells(&format!("{} h{shade}", view.colour(arm)), cells);
    }
    let mut events = Vec::new();
    for (at, run, seconds) in places {
        frame.vertical(at as f64, "block");
        frame.text(frame.x_of(at as f64) + 3.0, 26.0, Anchor::Start, "small", &run.block.to_string());
        for row in view.data.seconds.iter().filter(|row| row.run == run.run) {
            if u64::from(row.second) < seconds {
                let start = at as f64 + f64::from(row.second);
                event_lines(&mut frame, view, (start, row.since_start_ns), &mut events);
            }
        }
    }
    let label = format!("Latency over time of {arm}, {} at depth {}", panel.0, panel.1);
    Some((frame.finish(&label), events))
}

/// The members of a sweep over read share and size, as `sweep:rPERCENT-SIZE`.
fn member(workload: &str) -> Option<(&str, u32, &str)> {
    let (sweep, member) = workload.split_once(':')?;
    let (percent, size) = member.strip_prefix('r')?.split_once('-')?;
    Some((sweep, percent.parse().ok()?, size))
}

/// The sweeps of the run with the depths that they were run at.
pub(super) fn sweeps<'a>(view: &View<'a>) -> Vec<(&'a str, u32)> {
    let mut sweeps: Vec<(&str, u32)> = Vec::new();
    for (workload, depth) in view.panels() {
        if let Some((sweep, ..)) = member(workload)
            && !sweeps.contains(&(sweep, depth))
        {
            sweeps.push((sweep, depth));
        }
    }
    sweeps
}

/// IOPS of each size and mix, and the share of the bare device's beside; the fuller the colour, the more bytes a second.
pub(super) fn sizes_and_mixes(view: &View, arm: &str, (sweep, depth): (&str, u32)) -> Option<String> {
    let mut cells: Vec<(u32, &str, &str, f64)> = Vec::new();
    let (mut mixes, mut sizes): (Vec<u32>, Vec<&str>) = (Vec::new(), Vec::new());
    for (workload, of_depth) in view.panels() {
        let Some((name, mix, size)) = member(workload) else { continue };
        if name != sweep || of_depth != depth {
            continue;
        }
        // In the order in which they were run, which is that of the workload's own lists.
        if !mixes.contains(&mix) {
            mixes.push(mix);
        }
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        if let Some(bandwidth) = view.value(arm, (workload, depth), "all", "bandwidth", "mean") {
            cells.push((mix, size, workload, bandwidth));
        }
    }
    let scale = Scale::logarithmic(cells.iter().map(|cell| cell.3), 1.0);
    if cells.is_empty() {
        return None;
    }
    const ROW: f64 = 40.0;
    let height = sizes.len() as f64 * ROW + 60.0;
    let (x, y) = (Scale::linear(0.0, mixes.len() as f64), Scale::linear(0.0, sizes.len() as f64));
    let mut frame = Frame::new(height, (62.0, 6.0, 6.0, 54.0), x, y);
    let width = (WIDTH - 68.0) / mixes.len() as f64;
    for (index, mix) in mixes.iter().enumerate() {
        let middle = frame.x_of(index as f64 + 0.5);
        frame.text(middle, height - 37.0, Anchor::Middle, "tick", &format!("{mix} %"));
    }
    frame.text(frame.x_of(mixes.len() as f64 / 2.0), height - 14.0, Anchor::Middle, "axis", "reads");
    for (index, size) in sizes.iter().enumerate() {
        let top = 6.0 + index as f64 * ROW;
        frame.text(54.0, top + ROW / 2.0 + 4.5, Anchor::End, "tick", size);
        for (mix, _, workload, bandwidth) in cells.iter().filter(|cell| cell.1 == *size) {
            let column = mixes.iter().position(|one| one == mix).unwrap_or(0) as f64;
            let iops = view.value(arm, (workload, depth), "all", "iops", "mean");
            let of_raw = view.value(&format!("{arm}/raw"), (workload, depth), "all", "iops_ratio", "median");
            let numbers = [iops.map(count), of_raw.map(|ratio| format!("{} %", percent(ratio)))];
            let hover = format!("{arm}, {workload}: {} IOPS", numbers[0].clone().unwrap_or_default());
            let shade = (scale.position(*bandwidth) * 4.999) as usize;
            let class = format!("{} cell c{shade}", view.colour(arm));
            frame.bar(&class, (column + 0.02, column + 0.98), (top + 1.0, ROW - 2.0), &hover);
            let middle = frame.x_of(column + 0.5);
            let lines: Vec<&String> = numbers.iter().flatten().collect();
            for (line, words) in lines.iter().enumerate() {
                let class = if line == 0 { "cell" } else { "cell small" };
                let place = top + if lines.len() == 1 { 24.5 } else { 18.0 + 14.0 * line as f64 };
                // Where many mixes leave no room, the pointer still shows the number.
                if words.chars().count() as f64 * 7.2 < width {
                    frame.text(middle, place, Anchor::Middle, class, words);
                }
            }
        }
    }
    Some(frame.finish(&format!("Size and mix of {sweep} on {arm} at depth {depth}")))
}
