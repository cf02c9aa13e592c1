//! The words and tables of the report, and the order of its parts.

use std::fmt::Write;

use super::plots::Course;
use super::text::{bandwidth, depth_words, escape, percent, size, time, whole, workload_words};
use super::view::View;
use super::{cost, facts, heat, loads, noise, plots, recovery, snapshots, writing};
use crate::compare::noise::AGAIN;
use crate::results::{MetricRow, RunRow};
use crate::stats::BLOCKS_FOR_INTERVAL;
use crate::suite::Load;
use crate::validity;

const STYLE: &str = include_str!("style.css");

/// Sentences of the headline; the forest plot shows the rest.
const MOST_HEADLINES: usize = 12;

/// What stands in a table where nothing was measured.
pub(super) const NOT_MEASURED: &str = "–";

pub(super) fn render(view: &View) -> String {
    let manifest = &view.data.manifest;
    let title = format!("icecore benchmark of {}", device_name(view));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n\
         <p class=\"quiet\">Begun {1}, {2} workloads, {3} blocks each, seed {4}</p>\n",
        escape(&title),
        escape(&manifest.started_utc),
        view.workloads.len().max(manifest.plan.workloads.len()),
        manifest.plan.repeats,
        manifest.seed
    );
    warnings(view, &mut page);
    page.push_str("<ul class=\"headline\">\n");
    let sentences = headlines(view);
    for sentence in &sentences {
        let _ = writeln!(page, "<li>{}</li>", escape(sentence));
    }
    page.push_str("</ul>\n");
    let recoveries = &view.data.recovery;
    let is_open = |run: &RunRow| Load::is_open_phase(&run.phase);
    let has_suites = view.data.runs.iter().any(|run| !Load::is_closed_phase(&run.phase) && !is_open(run));
    let has_loads = view.data.runs.iter().any(is_open);
    if sentences.is_empty() && recoveries.is_empty() && !has_suites && !has_loads {
        page.push_str(
            "<p>No two arms were measured beside each other, so there is nothing to compare.</p>\n",
        );
    }
    recovery::recovery(recoveries, &mut page);
    snapshots::snapshots(view, &mut page);
    loads::loads(view, &mut page);
    if (recoveries.is_empty() && !has_suites && !has_loads) || !view.workloads.is_empty() {
        tables(view, &mut page);
        ratios(view, &mut page);
        writing::writing(view, &mut page);
        cost::cost(view, &mut page);
        sweeps(view, &mut page);
        curves(view, &mut page);
        series(view, &mut page);
        noise::noise(view, &mut page);
        facts::runner_cost(view, &mut page);
    }
    facts::trace(view, &mut page);
    facts::left_out(view, &mut page);
    facts::environment(view, &mut page);
    page.push_str(MEANING);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn device_name(view: &View) -> String {
    let device = &view.data.manifest.device;
    let model = device.model.clone().unwrap_or_else(|| device.path.clone());
    format!("{model} ({})", size(device.size_bytes))
}

fn warnings(view: &View, page: &mut String) {
    let manifest = &view.data.manifest;
    let mut warn = |text: String| {
        let _ = writeln!(page, "<p class=\"warning\">{}</p>", escape(&text));
    };
    if manifest.interrupted {
        warn(
            "This run was interrupted: what it had measured by then is here, the rest of the plan is not."
                .into(),
        );
    } else if !manifest.complete && view.data.events.iter().any(|event| event.event == "failed") {
        warn(
            "This run ended with an error, which is in events.csv: what it had measured by then is here."
                .into(),
        );
    } else if !manifest.complete {
        warn(
            "This run did not end: the program is still running or was killed. What is here was measured."
                .into(),
        );
    }
    let invalid = view.data.runs.iter().filter(|run| !run.valid).count();
    if invalid > 0 {
        warn(format!("{invalid} of {} runs do not count; they are listed below.", view.data.runs.len()));
    }
    let busy = view.data.runs.iter().filter(|run| validity::is_core_bound(run)).count();
    if busy > 0 {
        warn(format!(
            "In {busy} of {} runs the runner’s core was busy more than {} % of the time (runs.csv says in which): their figures are \
             of the core rather than of the device.",
            view.data.runs.len(),
            validity::BUSY_PERCENT_MARKED
        ));
    }
    if manifest.environment.git_dirty == Some(true) {
        warn("The program was built from a tree with uncommitted changes.".into());
    }
}

/// One sentence for each engine arm beside the bare device; where no engine arm ran, for each other pair.
pub(super) fn headlines(view: &View) -> Vec<String> {
    let iops = || view.ratios().filter(|(row, ..)| row.metric == "iops_ratio");
    let engine = |arm: &str| !["raw", "ring", "fio"].contains(&arm) && !arm.ends_with(AGAIN);
    let mut chosen: Vec<_> =
        iops().filter(|(_, arm, reference)| *reference == "raw" && engine(arm)).collect();
    if chosen.is_empty() {
        chosen = iops().collect();
    }
    let recovered = recovery::headline(&view.data.recovery);
    // Steady ones first: the others are shown and not ranked.
    chosen.sort_by_key(|(row, ..)| row.steady == Some(false));
    let more = chosen.len().saturating_sub(MOST_HEADLINES);
    let compared = chosen.iter().take(MOST_HEADLINES).map(|(row, arm, reference)| {
        headline(row, arm, reference, noise::smallest_effect(view, row, [*arm, *reference]))
    });
    let suites = snapshots::headlines(view);
    let mut sentences: Vec<String> = recovered.into_iter().chain(suites).chain(compared).collect();
    if more > 0 {
        sentences.push(format!("{more} further comparisons are in the picture of paired ratios."));
    }
    sentences
}

fn headline(row: &MetricRow, arm: &str, reference: &str, smallest_effect: f64) -> String {
    let value = row.value.unwrap_or(1.0);
    let reference = if reference == "raw" { "the bare device" } else { reference };
    let depth = depth_words(&row.workload, row.queue_depth.unwrap_or_default());
    let blocks = row.n as usize;
    let certainty = match (row.ci_low, row.ci_high) {
        (Some(low), Some(high)) => {
            let (from, to) = (percent(low), percent(high));
            if blocks < BLOCKS_FOR_INTERVAL {
                format!("range {from}–{to} % of {blocks} blocks, too few for a 95 % interval")
            } else {
                let unclear = low <= 1.0 && 1.0 <= high || (value - 1.0).abs() < smallest_effect;
                let verdict = if unclear { "; no difference shown" } else { "" };
                format!("95 % interval {from}–{to} %, {blocks} blocks{verdict}")
            }
        }
        _ => "one block, so no interval".to_string(),
    };
    let unsteady = match row.steady {
        Some(false) => " Not ranked: the load was not steady.",
        _ => "",
    };
    let workload = workload_words(&row.workload);
    format!(
        "{arm} reaches {} % of {reference}’s {workload} IOPS {depth} ({certainty}).{unsteady}",
        percent(value)
    )
}

pub(super) fn legend(view: &View, page: &mut String) {
    page.push_str("<div class=\"legend\">");
    for arm in &view.arms {
        let words = if *arm == "raw" { "raw (the bare device)" } else { arm };
        let _ =
            write!(page, "<span><span class=\"mark {}\"></span>{}</span>", view.colour(arm), escape(words));
    }
    page.push_str("</div>\n");
}

fn tables(view: &View, page: &mut String) {
    page.push_str("<h2>Results</h2>\n<p>Means and merged percentiles over the valid blocks. The small range beside \
                   IOPS is its interval. – stands where nothing was measured or fewer than 100 samples lie beyond a \
                   percentile.</p>\n");
    for (workload, depths) in &view.workloads {
        let words = workload_words(workload);
        let about = if words == *workload { String::new() } else { format!(": {words}") };
        let _ = write!(
            page,
            "<h3>{}{}</h3>\n<div class=\"scroll\"><table>\n<tr><th class=\"text\">depth</th><th class=\"text\">arm</th>\
             <th class=\"text\">op</th><th>IOPS</th><th>interval</th><th>of raw</th><th>bandwidth</th><th>p50</th>\
             <th>p99</th><th>p99.9</th><th>max</th><th>CPU/IO</th><th>alloc/IO</th><th>blocks</th>\
             <th class=\"text\">steady</th></tr>\n",
            escape(workload),
            escape(&about)
        );
        for depth in depths {
            let mut class = " class=\"group\"";
            for arm in &view.arms {
                let panel = (*workload, *depth);
                let has = |op: &str| view.pooled(arm, panel, op, "iops", "mean").is_some();
                let ops: &[&str] =
                    if has("read") && has("write") { &["all", "read", "write"] } else { &["all"] };
                for op in ops.iter().filter(|op| has(op)) {
                    table_row(view, arm, panel, op, class, page);
                    class = "";
                }
                if has("flush") {
                    table_row(view, arm, panel, "flush", "", page);
                }
            }
        }
        page.push_str("</table></div>\n");
    }
}

fn table_row(view: &View, arm: &str, panel: (&str, u32), op: &str, class: &str, page: &mut String) {
    let value = |metric: &str, stat: &str| view.value(arm, panel, op, metric, stat);
    let iops = view.pooled(arm, panel, op, "iops", "mean");
    let shown = |value: Option<f64>, text: fn(f64) -> String| value.map_or(NOT_MEASURED.to_string(), text);
    let interval = match iops.map(|row| (row.ci_low, row.ci_high)) {
        Some((Some(low), Some(high))) => format!("{}–{}", whole(low), whole(high)),
        _ => NOT_MEASURED.to_string(),
    };
    // A pair is kept in one direction; the other is its inverse, the median being that of logarithms.
    let of_raw = view
        .value(&format!("{arm}/raw"), panel, op, "iops_ratio", "median")
        .or_else(|| Some(1.0 / view.value(&format!("raw/{arm}"), panel, op, "iops_ratio", "median")?));
    let cpu_ns = match (value("cpu_user", "mean"), value("cpu_system", "mean")) {
        (Some(user), Some(system)) => Some(user + system),
        _ => None,
    };
    let steady = match iops.map(|row| (row.valid, row.steady)) {
        Some((false, _)) => "no valid block",
        Some((_, Some(true))) => "yes",
        Some((_, Some(false))) => "no, not ranked",
        _ => NOT_MEASURED,
    };
    let _ = write!(
        page,
        "<tr{class}><td class=\"text\">{}</td><td class=\"text\"><span class=\"mark {}\"></span>{}</td>\
         <td class=\"text\">{op}</td>",
        panel.1,
        view.colour(arm),
        escape(arm)
    );
    let cells = [
        shown(value("iops", "mean"), whole),
        interval,
        of_raw.map_or(NOT_MEASURED.to_string(), |ratio| format!("{} %", percent(ratio))),
        shown(value("bandwidth", "mean"), bandwidth),
        shown(value("latency", "p50"), time),
        shown(value("latency", "p99"), time),
        shown(value("latency", "p99.9"), time),
        shown(value("latency", "max"), time),
        shown(cpu_ns, time),
        shown(value("allocations", "mean"), |value| format!("{value:.3}")),
        iops.map_or(0, |row| row.n).to_string(),
    ];
    for cell in cells {
        let _ = write!(page, "<td>{cell}</td>");
    }
    let _ = writeln!(page, "<td class=\"text\">{steady}</td></tr>");
}

fn ratios(view: &View, page: &mut String) {
    let metrics = [
        ("iops_ratio", "IOPS (more is better)"),
        ("cpu_ratio", "CPU per I/O (less is better)"),
        ("latency_p50_ratio", "p50 latency (less is better)"),
        ("latency_p99_ratio", "p99 latency (less is better)"),
    ];
    page.push_str(
        "<h2>Paired ratios</h2>\n<p>Each dot is the median over the blocks of one arm’s value divided by the \
         reference’s in the same block. Where the bar crosses the line at 1, no difference is shown; what was not steady is \
         named, and not ranked.</p>\n",
    );
    for (reference, open) in [("raw", " open"), ("ring", ""), ("fio", "")] {
        let pictures: String = metrics
            .iter()
            .filter_map(|(metric, title)| Some((title, plots::forest(view, reference, metric)?)))
            .map(|(title, picture)| format!("<figure><h3>{title}</h3>{picture}</figure>\n"))
            .collect();
        if !pictures.is_empty() {
            let _ = writeln!(
                page,
                "<details{open}><summary>Beside {reference}</summary>\n<div class=\"grid\">\n{pictures}</div></details>"
            );
        }
    }
}

/// The part of pictures that have one for each of these places; nothing without any.
fn pictures(title: &str, words: &str, view: &View, figures: &[String], page: &mut String) {
    if figures.is_empty() {
        return;
    }
    let _ = writeln!(page, "<h2>{title}</h2>\n<p>{words}</p>");
    legend(view, page);
    let _ = writeln!(page, "<div class=\"grid\">\n{}</div>", figures.concat());
}

fn figure(title: &str, picture: &str) -> String {
    format!("<figure><h3>{}</h3>{picture}</figure>\n", escape(title))
}

/// A picture below which its events are listed.
fn figure_with_events(title: &str, picture: &str, events: &[String]) -> String {
    let items: String = events.iter().map(|event| format!("<li>{}</li>", escape(event))).collect();
    let list = if events.is_empty() { String::new() } else { format!("<ol>{items}</ol>") };
    format!("<figure><h3>{}</h3>{picture}{list}</figure>\n", escape(title))
}

fn panel_title((workload, depth): (&str, u32)) -> String {
    format!("{workload}, {}", depth_words(workload, depth))
}

fn curves(view: &View, page: &mut String) {
    let of_panels = |plot: fn(&View, (&str, u32)) -> Option<String>| -> Vec<String> {
        view.panels().filter_map(|panel| Some(figure(&panel_title(panel), &plot(view, panel)?))).collect()
    };
    pictures(
        "Latency",
        "Share of I/Os that were at least this fast, merged over the valid blocks. A curve ends where fewer than 100 samples lie \
         beyond it.",
        view,
        &of_panels(plots::percentile_curves),
        page,
    );
    pictures(
        "Distribution of latency",
        "The same on an even scale, up to 99 %: where the bulk of the I/Os lies, and whether there are several kinds of them.",
        view,
        &of_panels(plots::distribution),
        page,
    );
    let over_iops: Vec<String> = view
        .workloads
        .iter()
        .filter_map(|(name, depths)| Some(figure(name, &plots::latency_over_iops(view, name, depths)?)))
        .collect();
    pictures(
        "Latency over achieved IOPS",
        "For each arm and depth a column: the filled dot is p50, the ring p99, the small ring p99.9.",
        view,
        &over_iops,
        page,
    );
}

fn series(view: &View, page: &mut String) {
    let of = |course: Course| -> Vec<String> {
        let figure = |panel: (&str, u32)| {
            let (picture, events) = plots::seconds(view, panel, course)?;
            Some(figure_with_events(&panel_title(panel), &picture, &events))
        };
        view.panels().filter_map(figure).collect()
    };
    let courses = of(Course::Iops);
    if courses.is_empty() {
        page.push_str(
            "<h2>Second by second</h2>\n<p>The arms of this run were too short for a course over time.</p>\n",
        );
        return;
    }
    pictures(
        "Second by second",
        "Arms of a block run one after another in random order. A faint line is a run that does not count; a numbered line is an \
         event.",
        view,
        &courses,
        page,
    );
    pictures(
        "Latency by second",
        "The line is the mean of each second, a dot its longest.",
        view,
        &of(Course::Latency),
        page,
    );
    latency_over_time(view, page);
}

fn latency_over_time(view: &View, page: &mut String) {
    let mut figures = Vec::new();
    for panel in view.panels() {
        for arm in &view.arms {
            if let Some((picture, events)) = heat::latency_over_time(view, arm, panel) {
                figures.push(figure_with_events(
                    &format!("{arm}: {}", panel_title(panel)),
                    &picture,
                    &events,
                ));
            }
        }
    }
    if figures.is_empty() {
        page.push_str("<h2>Latency over time</h2>\n<p>Latencies by second were not kept in this run.</p>\n");
        return;
    }
    page.push_str(
        "<h2>Latency over time</h2>\n<p>Each second of the valid blocks from below to above: the fuller the colour, the larger \
         the share of its I/Os that took so long. Numbers at the top are blocks.</p>\n<div class=\"legend\">",
    );
    for (shade, (_, words)) in heat::SHADES.iter().enumerate() {
        let _ = write!(page, "<span><span class=\"mark s1 h{shade}\"></span>{words}</span>");
    }
    let _ = writeln!(page, "</div>\n<div class=\"grid\">\n{}</div>", figures.concat());
}

/// Sizes and mixes of the sweeps that were run.
fn sweeps(view: &View, page: &mut String) {
    let mut figures = Vec::new();
    for sweep in heat::sweeps(view) {
        for arm in &view.arms {
            if let Some(picture) = heat::sizes_and_mixes(view, arm, sweep) {
                figures.push(figure(&format!("{arm}: {}", panel_title(sweep)), &picture));
            }
        }
    }
    if !figures.is_empty() {
        let _ = writeln!(
            page,
            "<h2>Sizes and mixes</h2>\n<p>IOPS of each size and share of reads, and below it the share of the bare device’s. The fuller \
             the colour, the more bytes a second.</p>\n<div class=\"grid\">\n{}</div>",
            figures.concat()
        );
    }
}

const MEANING: &str = "<h2>What these numbers mean</h2>\n\
<p><b>A block</b> runs every arm once on the same span, with the same addresses, in random order. Arms are compared within \
a block, so that a disk that slows down for a minute slows both. The unit that is repeated is the block, not the I/O.</p>\n\
<p><b>The interval</b> is a 95 % bootstrap interval over the blocks. With five blocks it is their range, with fewer it is \
too narrow to be called 95 %. Two arms differ only where it excludes 1 and the effect is at least 2 %, and at least what an arm measured twice (A/A) differs from itself.</p>\n\
<p><b>Latency</b> counts from the moment an I/O was issued to its completion; of durable writes to the moment the data \
survives a power cut. The load is closed: a slow I/O delays the next one, so these latencies do not show the queue that \
an application with its own clock would build up.</p>\n\
<p><b>CPU/IO</b> is user and system time of the measuring thread; work that the kernel does elsewhere is not in it.</p>\n\
<p><b>Steady</b> is SNIA’s rule over five rounds, each a fifth of what was measured: their range within 20 % of their mean, their \
slope within 10 %. What is not steady is shown and not ranked.</p>\n\
<p>These numbers hold for this device, kernel and machine. Make this page again from the folder with \
<code>bench-runner report</code>.</p>\n";
