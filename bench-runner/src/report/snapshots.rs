//! The part of the report about suites of snapshots: for each a picture and a table of its parts.

use std::fmt::Write;

use super::page::NOT_MEASURED;
use super::snapshot_plots as plots;
use super::text::{escape, percent, size, time, whole};
use super::view::View;
use crate::results::MetricRow;
use crate::snapshots::Suite;
use crate::stats::BLOCKS_FOR_INTERVAL;

/// What a suite does, for those who read its table.
fn words(suite: Suite) -> &'static str {
    match suite {
        Suite::Cliff => {
            "Random writes of 4 KiB go on while a snapshot is taken; from then on each goes to a block that has not been \
             written since, and at the end to those blocks again. The line marks the snapshot; the bare device does the \
             same without one."
        }
        Suite::Chain => {
            "Random reads of 4 KiB of the newest image and of the oldest snapshot as snapshots become many, with \
             scattered writes between two of them. Cold is right after the volume was opened again. The bare device was \
             read beside each; the last column but one sets both beside the shortest chain."
        }
        Suite::Creation => {
            "The time to take a snapshot, and what the device writes meanwhile, as snapshots become many, on volumes of \
             several sizes over which the same number of blocks is scattered. Scattered writes and a flush lie between two of \
             them. A part is all snapshots behind the end of the part before; the last two values set its time beside \
             the fewest snapshots, and beside the smallest volume."
        }
        Suite::FirstTouch => {
            "Random writes of 4 KiB after the last of so many snapshots, each to a unit that has not been written since it was \
             taken, with scattered writes between the snapshots. The bare device does the same without any; other systems \
             do it on devices of their own, and of what they do below nothing is known."
        }
        Suite::Delete => {
            "Random writes while a snapshot is deleted, and the same writes without that, in random order. The foreground \
             ratio is the one rate over the other; for the bare device, where nothing is deleted, it shows the noise."
        }
        Suite::Rollback => {
            "Time to go back to a snapshot after so many writes, and the first read afterwards."
        }
        Suite::Full => {
            "Snapshots are taken and everything is overwritten until a write is refused. Every block is read back then, \
             and once more after the volume was opened again; then snapshots are deleted until it takes writes."
        }
        Suite::ReadHome => {
            "After a snapshot everything was overwritten, and the snapshot deleted, so that all of the image lies in overlays. Then each \
             block is read once, one at a time: by a volume that moves home what it reads, and by one that lets it stay."
        }
        Suite::Merge => {
            "Bringing the oldest overlay into the base. Under load, the foreground with nothing beside it and while that goes on."
        }
        Suite::Backup => {
            "A snapshot is read in order, in pieces of 1 MiB one at a time, without a foreground and beside one: what that costs the \
             foreground, and how fast it is. On the bare device the span itself is read."
        }
        Suite::Aging => {
            "The volume is read in order when it is new, and after a hundred snapshots have come and gone with a twentieth of its \
             blocks overwritten between two of them. On the bare device the same is overwritten, without snapshots."
        }
        Suite::OverwriteFraction => {
            "A part of the volume is overwritten once after a snapshot: what the device wrote and how much space it takes \
             for each changed byte."
        }
    }
}

const UNDER_LOAD: &str = "<p>Under load the foreground is the workload oltp, begun by a schedule at a share of what each arm did of it \
    as fast as it could. Its latencies over time count from when operations were to begin; the foreground ratios set it beside the same with \
    nothing beside it.</p>\n";

/// The pooled rows of one part.
struct Group<'a> {
    first: &'a MetricRow,
    rows: Vec<&'a MetricRow>,
    /// Its ratios to the bare device.
    of_raw: Vec<&'a MetricRow>,
}

impl Group<'_> {
    fn row(&self, op: &str, metric: &str, stat: &str) -> Option<&MetricRow> {
        self.rows.iter().copied().find(|row| row.op == op && row.metric == metric && row.stat == stat)
    }

    fn value(&self, metric: &str, stat: &str) -> Option<f64> {
        self.row("all", metric, stat)?.value
    }

    fn of_raw(&self) -> Option<&MetricRow> {
        self.of_raw.iter().copied().find(|row| row.metric == "iops_ratio")
    }
}

/// The parts of a suite, arms of a part beside each other.
fn groups<'a>(view: &'a View, suite: Suite) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    let is_of = |row: &&MetricRow| row.workload == suite.name();
    let place = |row: &MetricRow| (row.phase.clone(), row.chain_depth);
    for row in view.suites.iter().filter(is_of).filter(|row| !row.arm.contains('/')) {
        let same = |group: &&mut Group| group.first.arm == row.arm && place(group.first) == place(row);
        match groups.iter_mut().find(same) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { first: row, rows: vec![row], of_raw: Vec::new() }),
        }
    }
    for group in &mut groups {
        let pair = format!("{}/raw", group.first.arm);
        let of_raw = view.suites.iter().filter(is_of);
        group.of_raw = of_raw.filter(|row| row.arm == pair && place(row) == place(group.first)).collect();
    }
    let mut order: Vec<(String, Option<u32>)> = Vec::new();
    // The first arm of a block may have fewer parts; the one with most says the order.
    let most = view.arms.iter().max_by_key(|arm| groups.iter().filter(|one| one.first.arm == **arm).count());
    for group in groups.iter().filter(|group| Some(&group.first.arm.as_str()) == most) {
        order.push(place(group.first));
    }
    let arm = |group: &Group| view.arms.iter().position(|arm| *arm == group.first.arm);
    groups.sort_by_key(|group| {
        let part = order.iter().position(|one| *one == place(group.first));
        (part.unwrap_or(usize::MAX), arm(group))
    });
    groups
}

/// One sentence for each backend and suite with something to say at a glance.
pub(super) fn headlines(view: &View) -> Vec<String> {
    let mut sentences = Vec::new();
    let of = |row: &MetricRow| match (row.value, row.ci_low, row.ci_high) {
        (Some(value), Some(low), Some(high)) => {
            let few = row.n < BLOCKS_FOR_INTERVAL as u64;
            let what = if few { format!("range of {} blocks", row.n) } else { "95 % interval".to_string() };
            Some(format!("{} % ({what} {}–{} %)", percent(value), percent(low), percent(high)))
        }
        (Some(value), ..) => Some(format!("{} % (one block)", percent(value))),
        _ => None,
    };
    let backends = |group: &&Group| group.first.arm != "raw";
    for group in groups(view, Suite::Cliff).iter().filter(backends) {
        if group.first.phase == "first-touch"
            && let Some(share) = group.of_raw().and_then(of)
            && let Some((reads, writes)) =
                group.value("device_reads", "total").zip(group.value("device_writes", "total"))
        {
            sentences.push(format!(
                "After a snapshot, first touches on {} reach {share} of the bare device’s random writes, with {reads:.3} \
                 reads and {writes:.3} writes of the device each.",
                group.first.arm
            ));
        }
    }
    let is_peer = |row: &&MetricRow| row.workload == Suite::FirstTouch.name() && row.metric == "iops_ratio";
    for row in view.suites.iter().filter(is_peer) {
        if let Some((arm, peer)) = row.arm.split_once('/').filter(|(_, peer)| *peer != "raw")
            && let (Some(share), Some(snapshots)) = (of(row), row.chain_depth)
        {
            let plural = if snapshots == 1 { "" } else { "s" };
            sentences.push(format!(
                "With {snapshots} snapshot{plural}, first touches on {arm} run at {share} of the rate of {peer}."
            ));
        }
    }
    let chain = groups(view, Suite::Chain);
    let longest = chain.iter().filter_map(|group| group.first.chain_depth).max();
    for group in chain.iter().filter(backends).filter(|group| group.first.chain_depth == longest) {
        let least = group.row("all", "reads_of_least", "median").and_then(of);
        if let Some((share, depth)) = least.zip(longest).filter(|_| group.first.phase.starts_with("oldest")) {
            let warm = if group.first.phase.ends_with("cold") { "cold" } else { "warm" };
            let arm = &group.first.arm;
            sentences.push(format!("With {depth} snapshots, {warm} reads of the oldest on {arm} are {share} of those at the shortest chain."));
        }
    }
    let creation = groups(view, Suite::Creation);
    for group in creation.iter().filter(backends) {
        // Each volume of each arm at its last number.
        let behind = |other: &&Group| {
            (&other.first.arm, &other.first.phase) == (&group.first.arm, &group.first.phase)
                && other.first.chain_depth > group.first.chain_depth
        };
        let least = |metric| group.row("all", metric, "median");
        if let (Some(fewest), Some(number), None) =
            (least("creation_of_fewest").and_then(of), group.first.chain_depth, creation.iter().find(behind))
        {
            // The smallest volume is exactly itself.
            let smallest = least("creation_of_smallest").filter(|row| row.value != Some(1.0)).and_then(of);
            let smallest = smallest
                .map_or(String::new(), |share| format!(", and {share} of that of the smallest volume"));
            sentences.push(format!(
                "Up to {number} snapshots of {} on {}, taking one takes {fewest} of the time at the fewest{smallest}.",
                group.first.phase, group.first.arm
            ));
        }
    }
    let deleting = groups(view, Suite::Delete);
    for group in deleting.iter().filter(backends) {
        let ratio = |group: &Group| group.row("all", "foreground_ratio", "median").and_then(of);
        let Some(share) = ratio(group) else { continue };
        let bare = |other: &&Group| other.first.arm == "raw" && other.first.phase == group.first.phase;
        let noise = deleting.iter().find(bare).and_then(ratio);
        let noise =
            noise.map_or(String::new(), |noise| format!("; the bare device, with nothing deleted, {noise}"));
        let which = group.first.phase.trim_end_matches("-with");
        let arm = &group.first.arm;
        sentences.push(format!(
            "While the {which} snapshot is deleted, writes on {arm} run at {share} of their rate{noise}."
        ));
    }
    for group in groups(view, Suite::Full).iter().filter(backends) {
        let refused = group.rows.iter().find(|row| row.metric == "refused_writes");
        if let Some(refused) = refused.filter(|row| row.valid) {
            let bytes =
                group.value("acknowledged_bytes", "total").map_or(String::new(), |bytes| size(bytes as u64));
            sentences.push(format!(
                "A full pool on {} refuses writes with {} after {bytes}; all of that was read back.",
                group.first.arm, refused.stat
            ));
        }
    }
    sentences
}

/// All suites of the run.
pub(super) fn snapshots(view: &View, page: &mut String) {
    for suite in Suite::ALL {
        let groups = groups(view, suite);
        if groups.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<h2>Snapshots: {}</h2>\n<p>{}</p>", suite.name(), words(suite));
        page.push_str("<div class=\"legend\">");
        for arm in &view.arms {
            let _ =
                write!(page, "<span><span class=\"mark {}\"></span>{}</span>", view.colour(arm), escape(arm));
        }
        page.push_str("</div>\n");
        let pictures = match suite {
            Suite::Cliff => plots::course(view, suite, "first-touch"),
            Suite::Delete => plots::course(view, suite, "oldest-with"),
            Suite::Chain => plots::chain(view),
            Suite::Creation => plots::creation(view),
            Suite::FirstTouch => plots::first_touch(view),
            Suite::OverwriteFraction => plots::fractions(view),
            Suite::Rollback => plots::rollback(view),
            Suite::Full => plots::course(view, suite, "filling"),
            Suite::Backup => plots::course(view, suite, "foreground-beside"),
            Suite::ReadHome | Suite::Merge | Suite::Aging => Vec::new(),
        };
        if groups.iter().any(|group| group.first.phase.contains("-oltp-")) {
            page.push_str(UNDER_LOAD);
        }
        let pictures: Vec<_> = pictures.into_iter().chain(plots::under_load(view, suite)).collect();
        if !pictures.is_empty() {
            page.push_str("<div class=\"grid\">\n");
            for (title, picture) in pictures {
                let _ = writeln!(page, "<figure><h3>{}</h3>{picture}</figure>", escape(&title));
            }
            page.push_str("</div>\n");
        }
        table(view, &groups, page);
    }
}

fn table(view: &View, groups: &[Group], page: &mut String) {
    page.push_str(
        "<div class=\"scroll\"><table>\n<tr><th class=\"text\">part</th><th>snapshots</th><th class=\"text\">arm</th>\
         <th>IOPS</th><th>of raw</th><th>interval</th><th>p50</th><th>p99</th><th>max</th><th>device reads</th>\
         <th>writes</th><th>flushes</th><th>bytes written</th><th class=\"text\">by cause</th>\
         <th class=\"text\">further</th><th>blocks</th></tr>\n",
    );
    let mut last = None;
    for group in groups {
        let place = Some((&group.first.phase, group.first.chain_depth));
        let class = if last == place { "" } else { " class=\"group\"" };
        last = place;
        let shown =
            |value: Option<f64>, text: &dyn Fn(f64) -> String| value.map_or(NOT_MEASURED.to_string(), text);
        let interval = match group.of_raw().map(|row| (row.ci_low, row.ci_high)) {
            Some((Some(low), Some(high))) => format!("{}–{} %", percent(low), percent(high)),
            _ => NOT_MEASURED.to_string(),
        };
        let each = |metric: &str| shown(group.value(metric, "total"), &|value| format!("{value:.3}"));
        let cells = [
            shown(group.value("iops", "mean"), &whole),
            shown(group.of_raw().and_then(|row| row.value), &|ratio| format!("{} %", percent(ratio))),
            interval,
            shown(group.value("latency", "p50"), &time),
            shown(group.value("latency", "p99"), &time),
            shown(group.value("latency", "max"), &time),
            each("device_reads"),
            each("device_writes"),
            each("device_flushes"),
            shown(group.value("device_write_bytes", "total"), &whole),
        ];
        let _ = write!(
            page,
            "<tr{class}><td class=\"text\">{}</td><td>{}</td><td class=\"text\"><span class=\"mark {}\"></span>{}</td>",
            escape(&group.first.phase),
            group.first.chain_depth.map_or(NOT_MEASURED.to_string(), |depth| depth.to_string()),
            view.colour(&group.first.arm),
            escape(&group.first.arm)
        );
        for cell in cells {
            let _ = write!(page, "<td>{cell}</td>");
        }
        let blocks = group.rows.iter().map(|row| row.n).max().unwrap_or(0);
        let _ = writeln!(
            page,
            "<td class=\"text wrap\">{}</td><td class=\"text wrap\">{}</td><td>{blocks}</td></tr>",
            escape(&by_cause(group)),
            escape(&further(group))
        );
    }
    page.push_str(
        "</table></div>\n<p class=\"quiet\">Reads, writes, flushes and bytes of the device are for each I/O of the \
         application (where there is none, for the whole step), from the engine’s ledger.</p>\n",
    );
}

/// I/Os of the device by cause, as `r` reads and `w` writes for each I/O of the application.
fn by_cause(group: &Group) -> String {
    let mut text = Vec::new();
    for (metric, letter) in [("device_reads", "r"), ("device_writes", "w"), ("device_flushes", "f")] {
        for row in group.rows.iter().filter(|row| row.metric == metric && row.stat != "total") {
            if let Some(value) = row.value.filter(|value| *value >= 0.0005) {
                text.push(format!("{} {value:.3} {letter}", row.stat));
            }
        }
    }
    text.join(", ")
}

/// The values that only some parts have.
fn further(group: &Group) -> String {
    const COMMON: [&str; 7] =
        ["iops", "bandwidth", "latency", "cpu_user", "cpu_system", "allocations", "runner_cost"];
    let is_further = |row: &&&MetricRow| {
        row.op == "all" && !row.metric.starts_with("device_") && !COMMON.contains(&row.metric.as_str())
    };
    let mut text = Vec::new();
    for row in group.rows.iter().filter(is_further) {
        let Some(value) = row.value else {
            text.push(format!("{} not measured", row.metric.replace('_', " ")));
            continue;
        };
        let shown = match row.unit.as_str() {
            "ns" => time(value),
            "bytes" => size(value as u64),
            _ => format!("{value:.3}"),
        };
        let stat = if ["mean", "median", "total"].contains(&row.stat.as_str()) {
            String::new()
        } else {
            format!(" ({})", row.stat)
        };
        text.push(format!("{}{stat} {shown}", row.metric.replace('_', " ")));
    }
    text.join(", ")
}
