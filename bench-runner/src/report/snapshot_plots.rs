//! The pictures of the suites of snapshots.

use super::svg::{Anchor, Frame, Scale};
use super::text::{count, short, time};
use super::view::View;
use crate::results::{MetricRow, RunRow, WindowRow};
use crate::snapshots::Suite;

/// Width of a character of the names at the ends of lines.
const NAME_CHARACTER_WIDTH: f64 = 6.3;

/// A title and its picture.
type Picture = (String, String);

fn ticks(scale: &Scale, text: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    scale.ticks().into_iter().map(|tick| (tick, short(text(tick)))).collect()
}

/// A number as an axis shows it.
fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// Rate and latency over time of the first block in which every arm counts, each arm from where the part `origin` begins.
pub(super) fn course(view: &View, suite: Suite, origin: &str) -> Vec<Picture> {
    let runs: Vec<&RunRow> = view.data.runs.iter().filter(|run| run.workload == suite.name()).collect();
    // Of an arm that counts, a part may not.
    let counts =
        |arm: &str, block: u32| runs.iter().any(|run| run.block == block && run.arm == arm && run.valid);
    let bad = |block: u32| runs.iter().any(|run| run.block == block && !counts(&run.arm, block));
    let Some(block) = runs.iter().map(|run| run.block).filter(|block| !bad(*block)).min() else {
        return Vec::new();
    };
    // Windows of each run, on the arm's own axis of time.
    let mut lines: Vec<(&RunRow, Vec<(f64, &WindowRow)>)> = Vec::new();
    let mut events: Vec<(f64, &str, &str)> = Vec::new();
    for arm in &view.arms {
        let own: Vec<&&RunRow> = runs.iter().filter(|run| run.arm == *arm && run.block == block).collect();
        let asked = own.iter().find(|run| run.phase == "creation");
        let Some(begin) = asked.or_else(|| own.iter().find(|run| run.phase.starts_with(origin))) else {
            continue;
        };
        let place = |ns: u64| (ns as f64 - begin.started_ns as f64) / 1e9;
        for run in own.iter().filter(|run| run.valid) {
            // Where a window is cut short, its rate says little.
            let is_whole = |window: &&WindowRow| window.run == run.run && window.window_ns >= 20_000_000;
            let windows: Vec<(f64, &WindowRow)> = view
                .data
                .windows
                .iter()
                .filter(is_whole)
                .map(|row| (place(row.since_start_ns), row))
                .collect();
            if !windows.is_empty() {
                lines.push((run, windows));
            }
        }
        let last = own.iter().map(|run| run.started_ns + run.measured_ns.unwrap_or(0)).max().unwrap_or(0);
        let first = own.iter().map(|run| run.started_ns).min().unwrap_or(0);
        let head = format!("{arm}, ");
        for event in view.data.events.iter().filter(|event| event.detail.starts_with(&head)) {
            if (first..=last + 1_000_000_000).contains(&event.since_start_ns) {
                events.push((place(event.since_start_ns), &event.event, arm));
            }
        }
    }
    let ends =
        lines.iter().flat_map(|line| line.1.iter().map(|(at, row)| (*at, at + row.window_ns as f64 / 1e9)));
    let (low, high) =
        ends.fold((f64::MAX, f64::MIN), |(low, high), (from, to)| (low.min(from), high.max(to)));
    if low > high {
        return Vec::new();
    }
    let x = Scale::linear(low, high);
    // What ends a part lies a little behind its last window.
    events.retain(|event| (low..=high + 0.2).contains(&event.0));
    let rate = |row: &WindowRow| row.operations as f64 * 1e9 / row.window_ns.max(1) as f64;
    let mean = |row: &WindowRow| row.latency_mean_ns.unwrap_or(0) as f64;
    let longest = |row: &WindowRow| row.latency_max_ns.unwrap_or(0) as f64;
    let all = |of: &dyn Fn(&WindowRow) -> f64| -> Vec<f64> {
        lines.iter().flat_map(|line| line.1.iter().map(|(_, row)| of(row))).collect()
    };
    let most = all(&rate).into_iter().fold(1.0, f64::max);
    let scales = [
        (format!("IOPS, block {block}"), Scale::linear(0.0, most * 1.08)),
        (
            format!("Latency, block {block}: line mean, dots longest"),
            Scale::logarithmic(all(&mean).into_iter().chain(all(&longest)), 1.2),
        ),
    ];
    let mut pictures = Vec::new();
    for (index, (title, y)) in scales.into_iter().enumerate() {
        let mut frame = Frame::usual(x, y);
        frame.x_axis(&ticks(&x, |tick| format!("{} s", plain(tick))), "seconds, from the event");
        let labels = if index == 0 { ticks(&y, count) } else { ticks(&y, time) };
        frame.y_axis(&labels, if index == 0 { "I/Os a second" } else { "latency" });
        for (run, windows) in &lines {
            let is_thin =
                run.phase == "settled" || run.phase.contains("without") || run.phase.contains("alone");
            let thin = if is_thin { " thin" } else { "" };
            let class = format!("{}{thin}", view.colour(&run.arm));
            let middle = |at: f64, row: &WindowRow| at + row.window_ns as f64 / 2e9;
            let of = |row: &WindowRow| if index == 0 { rate(row) } else { mean(row) };
            frame.line(&class, windows.iter().map(|(at, row)| (middle(*at, row), of(row))));
            if index == 1 {
                for (at, row) in windows {
                    let hover = format!("{} {}: {}", run.arm, run.phase, time(longest(row)));
                    frame.dot(&view.colour(&run.arm), (middle(*at, row), longest(row)), 1.0, &hover);
                }
            }
        }
        for (number, (at, event, arm)) in events.iter().enumerate() {
            frame.vertical(*at, "event");
            let words = format!("{arm}: {}", event.replace('_', " "));
            let is_left = frame.x_of(*at) < super::svg::WIDTH * 0.6;
            let (shift, anchor) = if is_left { (4.0, Anchor::Start) } else { (-4.0, Anchor::End) };
            frame.text(frame.x_of(*at) + shift, 40.0 + 13.0 * (number % 6) as f64, anchor, "small", &words);
        }
        pictures.push((title, frame.finish(&format!("Course of {} over time", suite.name()))));
    }
    pictures
}

/// One line of a picture over a row of places.
struct Line<'a> {
    arm: &'a str,
    phase: String,
    /// Where, and the low end, the value and the high end there.
    points: Vec<(f64, [f64; 3])>,
}

/// The lines of a metric: for each arm and kind of part its value over `x`, in units of `per`.
fn lines<'a>(
    view: &'a View,
    suite: Suite,
    (metric, stat): (&str, &str),
    per: f64,
    x: impl Fn(&MetricRow) -> Option<(String, f64)>,
) -> Vec<Line<'a>> {
    let mut lines: Vec<Line> = Vec::new();
    let is_it = |row: &&MetricRow| {
        row.workload == suite.name() && row.op == "all" && row.metric == metric && row.stat == stat
    };
    for arm in &view.arms {
        for row in view.suites.iter().filter(is_it).filter(|row| row.arm == *arm && row.value > Some(0.0)) {
            let (Some((phase, at)), Some(value)) = (x(row), row.value) else { continue };
            let ends =
                [row.ci_low.unwrap_or(value), value, row.ci_high.unwrap_or(value)].map(|end| end / per);
            match lines.iter_mut().find(|line| line.arm == *arm && line.phase == phase) {
                Some(line) => line.points.push((at, ends)),
                None => lines.push(Line { arm, phase, points: vec![(at, ends)] }),
            }
        }
    }
    lines.iter_mut().for_each(|line| line.points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    lines
}

/// Draws lines with their intervals; a name stands at the end of each.
fn draw(
    view: &View,
    lines: &[Line],
    x_title: &str,
    y_title: &str,
    text: fn(f64) -> String,
) -> Option<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    points().next()?;
    let x = Scale::logarithmic(points().map(|point| point.0), 1.15);
    let y = Scale::logarithmic(points().flat_map(|point| point.1), 1.25);
    let name = |line: &Line| format!("{} {}", line.arm, line.phase).trim().to_string();
    let longest = lines.iter().map(|line| name(line).chars().count()).max().unwrap_or(0);
    let right = (longest as f64 * NAME_CHARACTER_WIDTH + 12.0).clamp(60.0, super::svg::WIDTH / 3.0);
    let mut frame = Frame::new(300.0, (62.0, right, 28.0, 48.0), x, y);
    let mut places: Vec<f64> = points().map(|point| point.0).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let places: Vec<(f64, String)> = places.into_iter().map(|place| (place, plain(place))).collect();
    frame.x_axis(&places, x_title);
    frame.y_axis(&ticks(&y, text), y_title);
    let mut names: Vec<f64> = Vec::new();
    for line in lines {
        let is_cold = ["cold", "without", "alone", "before"].iter().any(|word| line.phase.contains(word));
        let class = format!("{}{}", view.colour(line.arm), if is_cold { " thin" } else { "" });
        frame.line(&class, line.points.iter().map(|(at, ends)| (*at, ends[1])));
        for (at, ends) in &line.points {
            let [low, middle, high] = ends.map(|value| frame.y_of(value));
            let across = frame.x_of(*at);
            frame.segment(&format!("interval {}", view.colour(line.arm)), (across, low), (across, high));
            let hover = format!("{} {}: {}", line.arm, line.phase, text(ends[1]));
            let shape = if is_cold { "hollow" } else { "full" };
            frame.dot_at(&format!("{shape} {}", view.colour(line.arm)), (across, middle), 3.0, &hover);
        }
        if let Some((at, ends)) = line.points.last() {
            let mut height = frame.y_of(ends[1]) + 4.0;
            while names.iter().any(|other| (other - height).abs() < 12.0) {
                height += 12.0;
            }
            names.push(height);
            frame.text(frame.x_of(*at) + 7.0, height, Anchor::Start, "small", &name(line));
        }
    }
    Some(frame.finish(&format!("{y_title} over {x_title}")))
}

/// Chain depth against rate, latency and the time to take a snapshot.
pub(super) fn chain(view: &View) -> Vec<Picture> {
    let by_depth = |row: &MetricRow| Some((row.phase.clone(), f64::from(row.chain_depth?)));
    let of = |title: &str, metric: (&str, &str), y_title: &str, text: fn(f64) -> String| {
        // The bare device was read beside each; one line of it is enough.
        let mut lines = lines(view, Suite::Chain, metric, 1.0, by_depth);
        lines.retain(|line| line.arm != "raw" || line.phase == "newest-warm");
        for line in &mut lines {
            if line.arm == "raw" || metric.0 == "snapshot_creation" {
                line.phase = String::new();
            }
        }
        Some((title.to_string(), draw(view, &lines, "snapshots", y_title, text)?))
    };
    [
        of("Latency (p50) by depth", ("latency", "p50"), "p50 of a 4 KiB read", time),
        of("Rate by depth", ("iops", "mean"), "reads a second", count),
        of("Reads beside the shortest chain, both over raw", ("reads_of_least", "median"), "times", plain),
        of("Taking a snapshot by depth", ("snapshot_creation", "mean"), "time to take one", time),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Number of snapshots against the time to take one and its bytes, for each volume.
pub(super) fn creation(view: &View) -> Vec<Picture> {
    let by_number = |row: &MetricRow| Some((row.phase.clone(), f64::from(row.chain_depth?)));
    let of = |title: &str, metric: (&str, &str), y_title: &str, text: fn(f64) -> String| {
        let lines = lines(view, Suite::Creation, metric, 1.0, by_number);
        Some((title.to_string(), draw(view, &lines, "snapshots", y_title, text)?))
    };
    [
        of("Taking a snapshot (median)", ("snapshot_creation", "median"), "time to take one", time),
        of("Bytes of the device (mean)", ("snapshot_creation_bytes", "mean"), "bytes", count),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Snapshots held against rate and latency of first writes.
pub(super) fn first_touch(view: &View) -> Vec<Picture> {
    let by_depth = |row: &MetricRow| Some((String::new(), f64::from(row.chain_depth?)));
    let of = |title: &str, metric: (&str, &str), y_title: &str, text: fn(f64) -> String| {
        let lines = lines(view, Suite::FirstTouch, metric, 1.0, by_depth);
        Some((title.to_string(), draw(view, &lines, "snapshots", y_title, text)?))
    };
    [
        of("Rate of first writes", ("iops", "mean"), "writes a second", count),
        of("Latency (p50) of first writes", ("latency", "p50"), "p50 of a 4 KiB write", time),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Latency of the foreground over its load, for each kind of part.
pub(super) fn under_load(view: &View, suite: Suite) -> Vec<Picture> {
    let by_load = |row: &MetricRow| {
        let (part, percent) = row.phase.strip_suffix('%')?.split_once("-oltp-")?;
        Some((part.to_owned(), percent.parse().ok()?))
    };
    let of = |stat: &str| {
        let lines = lines(view, suite, ("latency_intended", stat), 1.0, by_load);
        let title = format!("Latency ({stat}) of the foreground over its load");
        let y_title = format!("{stat} from when it was to begin");
        Some((title, draw(view, &lines, "percent of what it can be", &y_title, time)?))
    };
    ["p50", "p99"].into_iter().filter_map(of).collect()
}

/// The number in a name such as `overwrite-25` or `after-128-writes`, with the load that it was under.
fn number(row: &MetricRow) -> Option<(String, f64)> {
    let (part, load) = row.phase.split_once("-oltp-").unwrap_or((&row.phase, ""));
    let number = part.split('-').find_map(|part| part.parse::<f64>().ok())?;
    Some((load.to_owned(), number))
}

/// Bytes of the device, and space, for each changed byte.
pub(super) fn fractions(view: &View) -> Vec<Picture> {
    let of = |title: &str, metric: (&str, &str), per: f64, y_title: &str| {
        let lines = lines(view, Suite::OverwriteFraction, metric, per, number);
        Some((title.to_string(), draw(view, &lines, "percent overwritten", y_title, plain)?))
    };
    // Each write changes a block of 4 KiB.
    let written = ("device_write_bytes", "total");
    [
        of("Bytes written", written, 4096.0, "device bytes for each changed byte"),
        of("Space of live blocks", ("space_per_changed_byte", "live"), 1.0, "bytes for each changed byte"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Time to go back over the writes since.
pub(super) fn rollback(view: &View) -> Vec<Picture> {
    let of = |title: &str, metric: &str| {
        let lines = lines(view, Suite::Rollback, (metric, "mean"), 1.0, number);
        Some((title.to_string(), draw(view, &lines, "writes since the snapshot", "time", time)?))
    };
    [of("Going back", "rollback"), of("The first read", "first_read")].into_iter().flatten().collect()
}
