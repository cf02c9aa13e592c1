//! The summary for a terminal: no line is longer than 100 columns.

use std::fmt::{self, Write};

use icecore_workloads::trace::{HotSpots, RecordKind, SIZE_CLASSES};

use super::Seen;
use crate::report::text::{count, percent, short, size, time, whole};

const COLUMNS: usize = 100;
/// Left of what is told about something.
const LABEL_COLUMNS: usize = 12;
/// Of a bar of sizes.
const BAR_COLUMNS: usize = 50;
/// Of arrivals and of heat.
const AXIS_COLUMNS: usize = 80;
const VOLUMES_TOLD: usize = 8;
const STEPS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

pub(super) fn of(seen: &Seen) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, seen);
    out
}

fn write(out: &mut String, seen: &Seen) -> fmt::Result {
    files(out, seen)?;
    requests(out, seen)?;
    sizes(out, seen)?;
    arrivals(out, seen)?;
    addresses(out, seen)?;
    volumes(out, seen)
}

/// A line about something.
fn line(out: &mut String, label: &str, text: &str) -> fmt::Result {
    let room = COLUMNS - LABEL_COLUMNS;
    let text: String = text.chars().take(room).collect();
    writeln!(out, "{label:<LABEL_COLUMNS$}{text}")
}

/// The end of a text that is too long, as the end of a path tells more than its beginning.
fn end_of(text: &str, columns: usize) -> String {
    // What would move the cursor is no part of a name that is shown.
    let shown: Vec<char> = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if shown.len() <= columns {
        return shown.into_iter().collect();
    }
    format!("...{}", shown[shown.len() - columns + 3..].iter().collect::<String>())
}

fn number(value: u64) -> String {
    whole(value as f64)
}

fn files(out: &mut String, seen: &Seen) -> fmt::Result {
    const TOLD: usize = 8;
    for file in seen.files.iter().take(TOLD) {
        let packing = match file.packing.name() {
            "plain" => String::new(),
            packed => format!(", {packed}"),
        };
        let what = format!(" ({}{packing}, {})", file.format, size(file.content_bytes));
        let path = end_of(&file.path.to_string_lossy(), COLUMNS - LABEL_COLUMNS - what.len());
        line(out, "file", &format!("{path}{what}"))?;
        let passed = &file.passed;
        let beside = [
            (file.sorted_records, "put in order"),
            (file.bad_records, "bad and left out"),
            (passed.not_requests, "no requests"),
            (passed.other_events, "other events"),
            (passed.empty, "of no length"),
        ];
        let beside: Vec<_> = beside
            .iter()
            .filter(|(records, _)| *records > 0)
            .map(|(records, what)| format!("{} {what}", number(*records)))
            .collect();
        if !beside.is_empty() {
            line(out, "", &beside.join(", "))?;
        }
    }
    if seen.files.len() > TOLD {
        line(out, "", &format!("and {} more files", seen.files.len() - TOLD))?;
    }
    if seen.limited {
        line(out, "", "the trace goes on; only its beginning was looked at")?;
    }
    if seen.other_volumes > 0 {
        line(out, "", &format!("{} records of other volumes not counted", number(seen.other_volumes)))?;
    }
    Ok(())
}

fn requests(out: &mut String, seen: &Seen) -> fmt::Result {
    let summary = &seen.summary;
    let arrivals = &summary.arrivals;
    let duration = time(arrivals.duration_ns as f64);
    line(out, "requests", &format!("{} in {duration}", number(summary.requests())))?;
    for kind in RecordKind::ALL {
        let counts = summary.kind(kind);
        if counts.requests == 0 {
            continue;
        }
        let requests = number(counts.requests);
        let share = percent(counts.requests as f64 / summary.requests() as f64);
        let mut text = format!("{:<8}{requests:>15} {share:>6} %", kind.name());
        if kind != RecordKind::Flush {
            let mean = size(counts.bytes / counts.requests);
            let (min, max) = (size(u64::from(counts.len_bytes_min)), size(u64::from(counts.len_bytes_max)));
            let bytes = size(counts.bytes);
            let _ = write!(text, "  {bytes:>10}   {min} to {max}, mean {mean}");
        }
        line(out, "", &text)?;
    }
    if let Some(share) = summary.sequential_share() {
        let text = format!("{} % begin where the request before them in the volume ended", percent(share));
        line(out, "sequential", &text)?;
    }
    if summary.latencies > 0 {
        let mean = time(summary.latency_ns_sum as f64 / summary.latencies as f64);
        let longest = time(summary.latency_ns_max as f64);
        line(out, "latency", &format!("mean {mean}, longest {longest}, in the system that was traced"))?;
    }
    Ok(())
}

fn sizes(out: &mut String, seen: &Seen) -> fmt::Result {
    let summary = &seen.summary;
    let mut classes = [0_u64; SIZE_CLASSES];
    for kind in &summary.kinds {
        for (sum, requests) in classes.iter_mut().zip(kind.sizes) {
            *sum += requests;
        }
    }
    let most = classes.iter().copied().max().unwrap_or(0);
    let all: u64 = classes.iter().sum();
    if most == 0 {
        return Ok(());
    }
    writeln!(out)?;
    line(out, "sizes", "from, up to twice as much")?;
    for (class, requests) in classes.into_iter().enumerate().filter(|(_, requests)| *requests > 0) {
        let columns = scaled(requests, most, BAR_COLUMNS);
        let bar = "█".repeat(columns);
        let from = size(1 << class);
        let (requests, share) = (number(requests), percent(requests as f64 / all as f64));
        writeln!(out, "{from:>11} {bar:<BAR_COLUMNS$} {requests:>15} {share:>6} %")?;
    }
    Ok(())
}

/// `value` of `most` as a part of `whole`; at least 1 of what is not nothing.
fn scaled(value: u64, most: u64, whole: usize) -> usize {
    if value == 0 {
        return 0;
    }
    let scaled = u128::from(value) * whole as u128 / u128::from(most.max(1));
    (scaled as usize).clamp(1, whole)
}

/// At most [`AXIS_COLUMNS`] bins, by adding up neighbours; gives how many bins became one.
fn narrowed(bins: &[u64]) -> (Vec<u64>, u64) {
    let together = bins.len().div_ceil(AXIS_COLUMNS).max(1);
    (bins.chunks(together).map(|bins| bins.iter().sum()).collect(), together as u64)
}

/// One line of characters, `characters` from nothing to the most.
fn drawn(bins: &[u64], characters: &[char]) -> String {
    let most = bins.iter().copied().max().unwrap_or(0);
    bins.iter().map(|bin| characters[scaled(*bin, most, characters.len() - 1)]).collect()
}

fn arrivals(out: &mut String, seen: &Seen) -> fmt::Result {
    let arrivals = &seen.summary.arrivals;
    let Some(mean) = arrivals.mean_per_second else { return Ok(()) };
    writeln!(out)?;
    let mut text = format!("mean {}/s", count(mean));
    if arrivals.duration_ns >= 1_000_000_000 {
        let (most, at) = (number(arrivals.peak_second), number(arrivals.peak_second_at));
        let _ = write!(text, ", most {most} in second {at}");
    }
    if let Some(dispersion) = arrivals.dispersion {
        let dispersion = count(dispersion);
        let _ = write!(text, ", dispersion {dispersion} over seconds (Poisson: 1)");
    }
    line(out, "arrivals", &text)?;
    let (bins, together) = narrowed(&arrivals.over_time);
    line(out, "", &drawn(&bins, &STEPS))?;
    let width = time((arrivals.over_time_ns * together) as f64);
    line(out, "", &format!("a column is {width}"))
}

fn addresses(out: &mut String, seen: &Seen) -> fmt::Result {
    let summary = &seen.summary;
    if summary.placed() == 0 {
        return Ok(());
    }
    writeln!(out)?;
    let about = |exact: bool| if exact { "" } else { "about " };
    let (begin, end) = (short(size(summary.begin_bytes)), size(summary.end_bytes));
    let footprint = &summary.footprint;
    let touched = format!(
        "{begin} to {end}; touched {}{} in blocks of 4 KiB",
        about(footprint.exact),
        size(footprint.bytes())
    );
    line(out, "addresses", &touched)?;
    let (bins, together) = narrowed(&summary.over_addresses);
    line(out, "", &drawn(&bins, &SHADES))?;
    let width = size(summary.over_addresses_bytes * together);
    line(out, "", &format!("a column is {width}, darker has more requests"))?;
    let hot = &summary.hot_spots;
    let shares: Vec<_> = HotSpots::PERCENT
        .iter()
        .zip(hot.shares)
        .map(|(part, share)| format!("{} % of requests to {part} %", percent(share)))
        .collect();
    line(out, "hot spots", &shares.join(", "))?;
    line(
        out,
        "",
        &format!("of {}{} regions of 1 MiB that were touched", about(hot.exact), number(hot.regions)),
    )
}

fn volumes(out: &mut String, seen: &Seen) -> fmt::Result {
    let volumes = seen.busiest_volumes();
    if volumes.len() < 2 && seen.names.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    line(out, "volumes", "requests, share of reads, end")?;
    for (volume, counts) in volumes.iter().take(VOLUMES_TOLD) {
        let reads = counts.requests[RecordKind::Read as usize];
        let both = reads + counts.requests[RecordKind::Write as usize];
        let share = if both > 0 { percent(reads as f64 / both as f64) } else { "-".into() };
        let (requests, end) = (number(counts.all()), size(counts.end_bytes));
        let name = seen.name(*volume).map(|name| end_of(name, 40)).unwrap_or_default();
        writeln!(out, "{volume:>11} {requests:>15} {share:>6} % {end:>10}  {name}")?;
    }
    let further = volumes.len().saturating_sub(VOLUMES_TOLD);
    if further > 0 {
        line(out, "", &format!("and {} further ones", number(further as u64)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_what_is_there_and_only_that() {
        assert_eq!(drawn(&[0, 1, 400, 800], &STEPS), " ▁▄█");
        assert_eq!(drawn(&[0, 0], &SHADES), "  ");
        assert_eq!(scaled(1, 1_000_000, 50), 1);
        assert_eq!(scaled(u64::MAX, u64::MAX, 50), 50);
    }

    #[test]
    fn axes_fit_and_lose_nothing() {
        for bins in [1_usize, 79, 80, 81, 128] {
            let all: Vec<u64> = (0..bins as u64).collect();
            let (narrow, together) = narrowed(&all);
            assert!(narrow.len() <= AXIS_COLUMNS && narrow.len() as u64 * together >= bins as u64);
            assert_eq!(narrow.iter().sum::<u64>(), all.iter().sum::<u64>());
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(end_of("/a/b", 10), "/a/b");
        assert_eq!(end_of("/folder/trace.csv", 12), "...trace.csv");
        assert_eq!(end_of("a\u{1b}[2J", 12), "a?[2J");
    }
}
