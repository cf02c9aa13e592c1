//! The part of the report about recovery: how long a volume took to be there again after its process was killed.

use std::fmt::Write;

use super::bars::{Bar, bars};
use super::page::NOT_MEASURED;
use super::svg::{Frame, Scale};
use super::text::{escape, short, size, time};
use crate::results::RecoveryRow;

/// The bound on opening that the engine promises, for the line in the picture.
const BOUND_NS: f64 = 1e9;

/// What is told of a kill: its name, its place in a row, and the radius and shape of its dot.
type Step = (&'static str, fn(&RecoveryRow) -> Option<u64>, f64, &'static str);
const STEPS: [Step; 4] = [
    ("detected", |row| row.detected_ns, 1.8, "full"),
    ("opened", |row| row.opened_ns, 4.5, "hollow"),
    ("first read", |row| row.first_read_ns, 2.6, "full"),
    ("fully applied", |row| row.applied_ns, 6.5, "hollow"),
];

/// The slowest first read, in a sentence; nothing without kills.
pub(super) fn headline(rows: &[RecoveryRow]) -> Option<String> {
    let slowest = rows.iter().filter(|row| row.valid).max_by_key(|row| row.first_read_ns)?;
    let lost = rows.iter().filter(|row| !row.valid).count();
    let failed =
        if lost == 0 { "nothing acknowledged was lost".to_string() } else { format!("{lost} do not count") };
    Some(format!(
        "Of {} recoveries the slowest reached its first read after {} ({} volume, tail of {}); {failed}.",
        rows.len(),
        time(slowest.first_read_ns? as f64),
        size(slowest.volume_bytes),
        size(slowest.tail_bytes.unwrap_or(0)),
    ))
}

/// What distinguishes a colour.
fn series(row: &RecoveryRow) -> (String, u64, u64, u32) {
    (row.cut.clone(), row.volume_bytes, row.checkpoint_bytes, row.queue_depth)
}

/// Table and picture.
pub(super) fn recovery(rows: &[RecoveryRow], page: &mut String) {
    if rows.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Recovery</h2>\n<p>A process that writes was killed with SIGKILL; its unflushed writes were in its memory and \
         went with it. Then another process opened the volume. Times are since that began, with direct I/O: superblock \
         read, volume open, a first block read, and everything that the log held in the index on the device. Rows named \
         simulated are in virtual time. The line is at one second.</p>\n<div class=\"legend\">",
    );
    let mut all: Vec<_> = Vec::new();
    for row in rows {
        if !all.contains(&series(row)) {
            all.push(series(row));
        }
    }
    let colour = |row: &RecoveryRow| all.iter().position(|one| *one == series(row)).unwrap_or(0) % 8;
    for (index, (cut, volume, checkpoint, depth)) in all.iter().enumerate() {
        let (volume, checkpoint) = (size(*volume), size(*checkpoint));
        let words = format!("{cut}, {volume} volume, checkpoint every {checkpoint}, depth {depth}");
        let _ = write!(page, "<span><span class=\"mark s{}\"></span>{}</span>", index % 8, escape(&words));
    }
    page.push_str(
        "</div>\n<p>Small dot: detected; ring: opened; dot in it: first read; large ring: fully applied.</p>\n",
    );
    if let Some(picture) = picture(rows, colour) {
        let _ = writeln!(page, "<figure>{picture}</figure>");
    }
    if let Some(picture) = phases(rows) {
        page.push_str("<h3>Phases until the first read</h3>\n<p>Of several recoveries of one kind the median one.</p>\n<div class=\"legend\">");
        for (index, (name, _)) in PHASES.iter().enumerate() {
            let _ = write!(page, "<span><span class=\"mark s{}\"></span>{name}</span>", index + 1);
        }
        let _ = writeln!(page, "</div>\n<figure>{picture}</figure>");
    }
    page.push_str(
        "<div class=\"scroll\"><table>\n<tr><th class=\"text\">cut</th><th>volume</th><th>checkpoint</th><th>depth</th>\
         <th>tail</th><th>batches</th><th>detected</th><th>opened</th><th>first read</th><th>applied</th><th>durable \
         writes</th><th>lost</th><th class=\"text\">counts</th></tr>\n",
    );
    for row in rows {
        let shown = |ns: Option<u64>| ns.map_or(NOT_MEASURED.to_string(), |ns| time(ns as f64));
        let number = |value: Option<u64>| value.map_or(NOT_MEASURED.to_string(), |value| value.to_string());
        let _ = write!(
            page,
            "<tr><td class=\"text\"><span class=\"mark s{}\"></span>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            colour(row),
            escape(&row.cut),
            size(row.volume_bytes),
            size(row.checkpoint_bytes),
            row.queue_depth
        );
        let tail = row.tail_bytes.map_or(NOT_MEASURED.to_string(), size);
        for cell in [tail, number(row.tail_batches)].into_iter().chain(STEPS.map(|step| shown(step.1(row)))) {
            let _ = write!(page, "<td>{cell}</td>");
        }
        let counts = if row.valid { "yes".to_string() } else { escape(&row.invalid_reason) };
        let _ = writeln!(
            page,
            "<td>{}</td><td>{}</td><td class=\"text wrap\">{counts}</td></tr>",
            row.acknowledged,
            number(row.lost)
        );
    }
    page.push_str("</table></div>\n");
}

/// What opening and the first read consist of, one after another.
type Phase = (&'static str, fn(&RecoveryRow) -> Option<u64>);
const PHASES: [Phase; 5] = [
    ("superblock", |row| row.detected_ns),
    ("metadata", |row| row.load_ns),
    ("log", |row| row.replay_ns),
    ("rest of opening", |row| {
        Some(
            row.opened_ns?
                .saturating_sub(row.detected_ns? + row.load_ns.unwrap_or(0) + row.replay_ns.unwrap_or(0)),
        )
    }),
    ("first read", |row| Some(row.first_read_ns?.saturating_sub(row.opened_ns?))),
];

/// A bar for each kind of recovery: of those that count, the one with the median time to its first read.
fn phases(rows: &[RecoveryRow]) -> Option<String> {
    let mut kinds: Vec<Vec<&RecoveryRow>> = Vec::new();
    for row in rows.iter().filter(|row| row.valid && row.first_read_ns.is_some()) {
        let is_same = |kind: &&mut Vec<&RecoveryRow>| {
            (series(kind[0]), kind[0].tail_percent) == (series(row), row.tail_percent)
        };
        match kinds.iter_mut().find(is_same) {
            Some(kind) => kind.push(row),
            None => kinds.push(vec![row]),
        }
    }
    let bar = |mut kind: Vec<&RecoveryRow>| {
        kind.sort_by_key(|row| row.first_read_ns);
        let row = kind[(kind.len() - 1) / 2];
        let (volume, tail) = (size(row.volume_bytes), row.tail_bytes.map_or(NOT_MEASURED.to_string(), size));
        let part = |(index, (name, of)): (usize, &Phase)| {
            let ns = of(row).filter(|ns| *ns > 0)? as f64;
            Some((format!("s{}", index + 1), ns, format!("{name} {}", time(ns))))
        };
        Bar {
            label: format!("{volume}, {tail} of log, depth {}", row.queue_depth),
            parts: PHASES.iter().enumerate().filter_map(part).collect(),
            total: time(row.first_read_ns.unwrap_or(0) as f64),
        }
    };
    let all: Vec<Bar> = kinds.into_iter().map(bar).collect();
    bars(&all, "time since the open began", |tick| short(time(tick)), false, "Phases of recovery")
}

/// Each step's time over the length of the log's tail.
fn picture(rows: &[RecoveryRow], colour: impl Fn(&RecoveryRow) -> usize) -> Option<String> {
    let mut points: Vec<(&RecoveryRow, f64, &Step, f64)> = rows
        .iter()
        .filter_map(|row| Some((row, row.tail_bytes? as f64)))
        .flat_map(|(row, tail)| {
            STEPS.iter().filter_map(move |step| Some((row, tail, step, step.1(row)? as f64)))
        })
        .collect();
    let most = points.iter().map(|point| point.1).reduce(f64::max)?;
    const MIB: f64 = 1048576.0;
    let x = Scale::linear(0.0, most / MIB * 1.05);
    let y = Scale::logarithmic(points.iter().map(|point| point.3).chain([BOUND_NS]), 1.3);
    let mut frame = Frame::usual(x, y);
    let ticks: Vec<(f64, String)> = x.ticks().into_iter().map(|tick| (tick, format!("{tick} MiB"))).collect();
    frame.x_axis(&ticks, "log behind the last checkpoint");
    let ticks: Vec<(f64, String)> = y.ticks().into_iter().map(|tick| (tick, short(time(tick)))).collect();
    frame.y_axis(&ticks, "time since the open began");
    frame.line("bound", [(0.0, BOUND_NS), (most / MIB * 1.05, BOUND_NS)]);
    // The large ones first: a ring is filled, and would hide what lies in it.
    points.sort_by(|one, other| other.2.2.total_cmp(&one.2.2));
    for (row, tail, (name, _, radius, shape), ns) in points {
        let hover = format!("{}, depth {}: {name} {}", size(row.volume_bytes), row.queue_depth, time(ns));
        frame.dot(&format!("{shape} s{}", colour(row)), (tail / MIB, ns), *radius, &hover);
    }
    Some(frame.finish("Time to each step of recovery over the length of the log's tail"))
}
