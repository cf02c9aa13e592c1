//! The report as a browser draws it: every picture is there, with a mark for each row of the tables; nothing lies outside of its
//! picture, over other text, or in a colour that cannot be told from what is behind it, in light and in dark.
//!
//! Layout comes from the browser itself, colours from the pixels of a screenshot. The control spoils a page and sees each fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bench_runner::measure::{ArmTask, Figure, OpenFigures, SuitePart, Window};
use bench_runner::report;
use bench_runner::results::{ArmRun, Ending, Manifest, MetricRow, Plan, RecoveryRow, RunData, RunFolder};
use bench_runner::suite::Load;
use icecore_workloads::{Access, Durability, Workload};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use serde_json::Value;

use crate::browser::{Browser, Mode, Pixels};
use crate::report::{append_closed, append_loads, manifest, outcome};

const ARMS: [(&str, f64); 3] = [("raw", 1.0), ("direct", 0.97), ("log", 1.9)];
const SECOND_NS: u64 = 1_000_000_000;
/// Contrast of text that can be read, and of marks that can be told from what is behind them, by WCAG 2.
const TEXT_CONTRAST_MIN: f64 = 4.5;
const MARK_CONTRAST_MIN: f64 = 3.0;
/// The smallest text, in CSS pixels.
const TEXT_HEIGHT_MIN: f64 = 9.0;

/// A run with everything that is ever drawn: closed and open loads, a sweep, suites of snapshots, recoveries.
fn run_of_everything(path: &Path) {
    let workloads = ["durable-4k"];
    let manifest = manifest(&ARMS.map(|(arm, _)| arm), &workloads);
    let plan = Plan { slo_ns: Some(1_000_000), ..manifest.plan.clone() };
    let mut folder = RunFolder::create(path, Manifest { plan, ..manifest }).unwrap();
    append_closed(&mut folder, &ARMS, &workloads, &[1, 32]);
    append_closed(&mut folder, &ARMS[..2], &["snia-matrix:r100-4K", "snia-matrix:r0-1M"], &[32]);
    append_loads(&mut folder, true);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    for block in 1..=5 {
        for (arm, speed) in ARMS {
            cliff(&mut folder, &mut random, block, arm, speed);
            chain(&mut folder, &mut random, block, arm, speed);
            under_load(&mut folder, &mut random, block, arm, speed);
        }
    }
    for tail in [4u64, 16, 64] {
        for depth in [1, 32] {
            folder.append_recovery(&recovery(tail, depth)).unwrap();
        }
    }
    // In the fifth measured second of the first run.
    folder.append_event_at(6_500_000_000, "frequency_drop", "CPU 3 fell, \"2.1\" GHz").unwrap();
    folder.finish(Ending::Complete).unwrap();
}

fn task(workload: &str, seed: u64) -> ArmTask {
    ArmTask {
        replay: None,
        until_steady: false,
        offered_per_second: None,
        path: PathBuf::from("/dev/synthetic"),
        span_offset_bytes: 1 << 20,
        span_bytes: 8 << 30,
        workload: Workload::simple(workload, Access::UniformRandom, 0, 4096, Durability::None),
        queue_depth: 32,
        warmup_ns: 0,
        measure_ns: SECOND_NS,
        seed,
    }
}

pub fn append_part(
    folder: &mut RunFolder,
    random: &mut Xoshiro256PlusPlus,
    (suite, block, arm, speed): (&str, u32, &str, f64),
    started_ns: u64,
    part: SuitePart,
) {
    let task = task(suite, u64::from(block));
    let mut outcome = outcome(random, &task, arm, speed);
    if part.phase.contains("-oltp-") {
        outcome.open = Some(OpenFigures {
            offered_per_second: 1_000.0,
            read_ns: outcome.read.latency_ns.clone(),
            write_ns: outcome.write.latency_ns.clone(),
            lateness_ns: outcome.write.latency_ns.clone(),
            backlog_max: 7,
            overflow: 0,
            taken_ns: Some(10_000_000),
        });
    }
    let run = ArmRun {
        load: Load::Closed,
        block,
        arm_order: 1,
        arm,
        task: &task,
        started_ns,
        outcome: Some(&outcome),
        verified_blocks: Some(1_000),
        foreign_percent: None,
        invalid_reason: None,
        part: Some(part),
    };
    folder.append_arm(&run).unwrap();
}

fn cliff(folder: &mut RunFolder, random: &mut Xoshiro256PlusPlus, block: u32, arm: &str, speed: f64) {
    let begun_ns = 1_000 * SECOND_NS * u64::from(block) + (speed * 1e11) as u64;
    for (place, (phase, slower)) in
        [("before", 1.0), ("creation", 2.0), ("first-touch", 3.0), ("settled", 1.1)]
            .into_iter()
            .filter(|(phase, _)| arm != "raw" || *phase != "creation")
            .enumerate()
    {
        let windows: Vec<Window> = (0..20u64)
            .map(|window| Window {
                begin_ns: window * 50_000_000,
                length_ns: 50_000_000,
                operations: (2_000.0 * speed / slower) as u64 + window % 3,
                latency_ns_sum: ((2_000.0 * speed / slower) as u64 + window % 3)
                    * (slower / speed * 1e5) as u64,
                latency_ns_max: (slower / speed * 2e6) as u64 + window * 1_000,
            })
            .collect();
        let part = SuitePart { phase, snapshots: None, figures: &[], windows: &windows, is_peer: false };
        let started_ns = begun_ns + SECOND_NS * place as u64;
        append_part(folder, random, ("cliff", block, arm, speed / slower), started_ns, part);
        if phase == "creation" {
            folder
                .append_event_at(started_ns + 30_000_000, "snapshot_taken", &format!("{arm}, cliff"))
                .unwrap();
        }
    }
}

fn chain(folder: &mut RunFolder, random: &mut Xoshiro256PlusPlus, block: u32, arm: &str, speed: f64) {
    for snapshots in [1u32, 16, 256] {
        for (phase, slower) in [("newest-warm", 1.0), ("oldest-warm", 1.2), ("oldest-cold", 1.5)] {
            if arm == "raw" && phase != "newest-warm" {
                continue;
            }
            let slower_phase = phase != "newest-warm";
            let slower = slower * f64::from(snapshots).powf(0.05);
            let figures = [Figure {
                metric: "snapshot_creation",
                stat: "mean".to_owned(),
                unit: "ns",
                value: Some(3e5 * slower * speed),
                n: 8,
            }];
            let figures = if arm == "raw" || slower_phase { &figures[..0] } else { &figures[..] };
            let part = SuitePart { phase, snapshots: Some(snapshots), figures, windows: &[], is_peer: false };
            append_part(folder, random, ("chain", block, arm, speed / slower), SECOND_NS, part);
        }
    }
}

fn under_load(folder: &mut RunFolder, random: &mut Xoshiro256PlusPlus, block: u32, arm: &str, speed: f64) {
    for percent in [50, 80] {
        for (part, slower) in [("before", 1.0), ("going-back", 3.0)] {
            let phase = format!("{part}-oltp-{percent}%");
            let slower = slower * f64::from(percent) / 50.0;
            let part =
                SuitePart { phase: &phase, snapshots: Some(1), figures: &[], windows: &[], is_peer: false };
            append_part(folder, random, ("rollback", block, arm, speed / slower), SECOND_NS, part);
        }
    }
}

pub fn recovery(tail_mib: u64, depth: u32) -> RecoveryRow {
    let replay_ns = tail_mib * 3_000_000 + u64::from(depth) * 1_500_000;
    RecoveryRow {
        run: tail_mib + u64::from(depth),
        cut: "sigkill".to_owned(),
        device_bytes: 8 << 30,
        volume_bytes: 4 << 30,
        checkpoint_bytes: 64 << 20,
        queue_depth: depth,
        tail_percent: tail_mib as u32,
        tail_batches: Some(100),
        tail_entries: Some(1_600),
        tail_bytes: Some(tail_mib << 20),
        detected_ns: Some(8_000_000),
        opened_ns: Some(50_000_000 + replay_ns),
        first_read_ns: Some(60_000_000 + replay_ns),
        applied_ns: Some(90_000_000 + 3 * replay_ns),
        load_ns: Some(20_000_000),
        replay_ns: Some(replay_ns),
        acknowledged: 1_600,
        lost: Some(0),
        valid: true,
        ..RecoveryRow::default()
    }
}

/// For each label the kind of mark and how many of them there must be, from the tables alone.
type Expected = BTreeMap<String, Vec<(&'static str, usize)>>;

fn expected(data: &RunData) -> Expected {
    let mut expected = Expected::new();
    let pooled = |holds: &dyn Fn(&MetricRow) -> bool| {
        data.metrics.iter().filter(|row| row.run.is_none() && row.value.is_some() && holds(row)).count()
    };
    let all = |row: &MetricRow, metric: &str| row.op == "all" && row.metric == metric;
    for metric in ["iops_ratio", "cpu_ratio", "latency_p50_ratio", "latency_p99_ratio"] {
        let points =
            pooled(&|row| row.phase == "measure" && row.metric == metric && row.arm.ends_with("/raw"));
        expected.insert(
            format!("{metric} beside raw, one row an arm, workload and depth"),
            vec![("circle", points)],
        );
    }
    let closed = || data.runs.iter().filter(|run| run.phase == "measure");
    let mut panels: Vec<(&str, u32)> = closed().map(|run| (run.workload.as_str(), run.queue_depth)).collect();
    panels.sort();
    panels.dedup();
    for (workload, depth) in &panels {
        let runs = || closed().filter(|run| (run.workload.as_str(), run.queue_depth) == (*workload, *depth));
        let mut arms: Vec<&str> = runs().filter(|run| run.valid).map(|run| run.arm.as_str()).collect();
        arms.sort();
        arms.dedup();
        let panel = format!("{workload} at depth {depth}");
        expected.insert(format!("Latency percentiles of {panel}"), vec![("polyline", arms.len())]);
        expected.insert(format!("Distribution of latency of {panel}"), vec![("polyline", arms.len())]);
        let numbers: Vec<u64> = runs().map(|run| run.run).collect();
        let seconds = data.seconds.iter().filter(|row| numbers.contains(&row.run)).count();
        expected.insert(format!("IOPS by second of {panel}"), vec![("polyline points", seconds)]);
        expected.insert(
            format!("Latency by second of {panel}"),
            vec![("polyline points", seconds), ("circle", seconds)],
        );
        for arm in arms {
            let valid: Vec<u64> =
                runs().filter(|run| run.valid && run.arm == arm).map(|run| run.run).collect();
            let bands = data.bands.iter().filter(|row| valid.contains(&row.run)).count();
            expected.insert(format!("Latency over time of {arm}, {panel}"), vec![("path cells", bands)]);
        }
        let points = pooled(&|row| {
            row.phase == "measure" && row.workload == *workload && all(row, "latency") && row.stat != "max"
        });
        expected
            .insert(format!("p50, p99 and p99.9 of {workload} over achieved IOPS"), vec![("circle", points)]);
    }
    for arm in ["raw", "direct"] {
        let cells = pooled(&|row| {
            row.workload.starts_with("snia-matrix:") && row.arm == arm && all(row, "bandwidth")
        });
        expected.insert(format!("Size and mix of snia-matrix on {arm} at depth 32"), vec![("rect", cells)]);
    }
    let cpu = pooled(&|row| row.phase == "measure" && (all(row, "cpu_user") || all(row, "cpu_system")));
    expected.insert("CPU time for each I/O, user and system".to_owned(), vec![("rect", cpu)]);
    let written = pooled(&|row| {
        row.phase == "measure"
            && row.metric == "write_amplification"
            && row.stat != "total"
            && row.value > Some(0.0)
    });
    expected.insert(
        "Bytes written by the device for each byte of the application, by cause".to_owned(),
        vec![("rect", written)],
    );
    for stat in ["p50", "p99"] {
        let points =
            pooled(&|row| row.workload == "rollback" && all(row, "latency_intended") && row.stat == stat);
        expected.insert(
            format!("{stat} from when it was to begin over percent of what it can be"),
            vec![("circle", points)],
        );
    }
    let intended = pooled(&|row| {
        row.phase.starts_with("open-")
            && all(row, "latency_intended")
            && ["p50", "p99"].contains(&row.stat.as_str())
    });
    expected.insert(
        "p50 and p99 of intended latency over the achieved load".to_owned(),
        vec![("circle", intended)],
    );
    let of_chain =
        |row: &MetricRow| row.workload == "chain" && row.chain_depth.is_some() && !row.arm.contains('/');
    let p50 = pooled(&|row| of_chain(row) && all(row, "latency") && row.stat == "p50");
    expected.insert("p50 of a 4 KiB read over snapshots".to_owned(), vec![("circle", p50)]);
    let rates = pooled(&|row| of_chain(row) && all(row, "iops"));
    expected.insert("reads a second over snapshots".to_owned(), vec![("circle", rates)]);
    let taken = pooled(&|row| of_chain(row) && all(row, "snapshot_creation"));
    expected.insert("time to take one over snapshots".to_owned(), vec![("circle", taken)]);
    // Of the first block, once as rates and once as latencies, which have a dot each for the longest.
    let first: Vec<u64> =
        data.runs.iter().filter(|run| run.workload == "cliff" && run.block == 1).map(|run| run.run).collect();
    let windows = data.windows.iter().filter(|row| first.contains(&row.run)).count();
    expected.insert(
        "Course of cliff over time".to_owned(),
        vec![("polyline points", 2 * windows), ("circle", windows)],
    );
    expected.insert(
        "Time to each step of recovery over the length of the log's tail".to_owned(),
        vec![("circle", 4 * data.recovery.len())],
    );
    expected.insert("Phases of recovery".to_owned(), vec![("rect", 5 * data.recovery.len())]);
    expected
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn place(value: &Value) -> [f64; 4] {
    std::array::from_fn(|index| number(&value[index]))
}

fn is_within(inner: [f64; 4], outer: [f64; 4]) -> bool {
    const SLACK: f64 = 1.0;
    inner[0] >= outer[0] - SLACK
        && inner[1] >= outer[1] - SLACK
        && inner[2] <= outer[2] + SLACK
        && inner[3] <= outer[3] + SLACK
}

/// Whether the letters of two texts meet: a fifth of the height of a line lies above and below them.
fn meet(one: [f64; 4], other: [f64; 4]) -> bool {
    let letters = |[left, top, right, bottom]: [f64; 4]| {
        let edge = (bottom - top) * 0.2;
        [left + 0.5, top + edge, right - 0.5, bottom - edge]
    };
    let (one, other) = (letters(one), letters(other));
    one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Everything that is wrong with a page as it is drawn.
fn faults(facts: &Value, pixels: &Pixels, expected: &Expected) -> Vec<String> {
    let mut faults = Vec::new();
    if number(&facts["scroll_width"]) > number(&facts["width"]) {
        faults.push("the page is wider than its window".to_owned());
    }
    for words in list(&facts["words"]) {
        if number(&words["contrast"]) < TEXT_CONTRAST_MIN {
            faults.push(format!("text without contrast: {words}"));
        }
    }
    let mut drawn: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for figure in list(&facts["figures"]) {
        let label = figure["label"].as_str().unwrap_or("");
        let counts = drawn.entry(label).or_default();
        for mark in list(&figure["marks"]) {
            let pieces = mark["pieces"].as_u64().unwrap_or(0) as usize;
            match mark["kind"].as_str().unwrap_or("") {
                "polyline" => {
                    *counts.entry("polyline").or_default() += 1;
                    *counts.entry("polyline points").or_default() += pieces;
                }
                "path" => *counts.entry("path cells").or_default() += pieces,
                "circle" => *counts.entry("circle").or_default() += 1,
                _ => *counts.entry("rect").or_default() += 1,
            }
        }
        in_figure(figure, label, pixels, &mut faults);
    }
    for (label, marks) in expected {
        let Some(counts) = drawn.get(label.as_str()) else {
            faults.push(format!("no picture: {label}"));
            continue;
        };
        for (kind, count) in marks {
            let found = counts.get(kind).copied().unwrap_or(0);
            if found != *count {
                faults.push(format!("{found} of {count} {kind}: {label}"));
            }
        }
    }
    for label in drawn.keys().filter(|label| !expected.contains_key(**label)) {
        faults.push(format!("nobody knows of this picture: {label}"));
    }
    faults
}

fn in_figure(figure: &Value, label: &str, pixels: &Pixels, faults: &mut Vec<String>) {
    let frame = place(&figure["box"]);
    if frame[2] - frame[0] < 300.0 || frame[3] - frame[1] < 50.0 {
        faults.push(format!("too small: {label} {frame:?}"));
    }
    let colour = |value: &Value| -> [f64; 3] { std::array::from_fn(|channel| number(&value[channel])) };
    let mut paints: BTreeMap<String, &Value> = BTreeMap::new();
    for mark in list(&figure["marks"]) {
        let place = place(&mark["box"]);
        if mark["is_drawn"] != true {
            faults.push(format!("not drawn: {mark} in {label}"));
            continue;
        }
        if !is_within(place, frame) {
            faults.push(format!("mark outside: {mark} in {label} {frame:?}"));
        }
        if number(&mark["contrast"]) < MARK_CONTRAST_MIN {
            faults.push(format!("mark without contrast: {mark} in {label}"));
        }
        paints.insert(mark["paint"].to_string(), mark);
    }
    for (paint, mark) in paints {
        if !pixels.has(frame, colour(&mark["paint"]), colour(&figure["back"])) {
            faults.push(format!("no pixel of {paint}: {mark} in {label}"));
        }
    }
    let texts = list(&figure["texts"]);
    for (index, text) in texts.iter().enumerate() {
        if !is_within(place(&text["box"]), frame) {
            faults.push(format!("text outside: {text} in {label} {frame:?}"));
        }
        if number(&text["contrast"]) < TEXT_CONTRAST_MIN {
            faults.push(format!("text without contrast: {text} in {label}"));
        }
        if number(&text["height"]) < TEXT_HEIGHT_MIN {
            faults.push(format!("text too small: {text} in {label}"));
        }
        for other in &texts[index + 1..] {
            if meet(place(&text["box"]), place(&other["box"])) {
                faults.push(format!("text over text: {} and {} in {label}", text["text"], other["text"]));
            }
        }
    }
}

/// The report stays in the target folder, with its pictures in both modes, to be looked at.
#[test]
fn every_picture_is_drawn_in_light_and_dark() {
    let Some(browser) = Browser::find() else { return };
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("everything-report");
    let _ = fs::remove_dir_all(&path);
    run_of_everything(&path);
    let html = fs::read_to_string(report::write(&path).unwrap()).unwrap();
    let expected = expected(&RunData::read(&path).unwrap());
    assert!(expected.values().flatten().all(|(_, count)| *count > 0), "{expected:?}");
    let mut papers = Vec::new();
    for (mode, name) in [(Mode::Light, "light.png"), (Mode::Dark, "dark.png")] {
        let facts = browser.facts(&html, mode);
        assert_eq!(facts["is_dark"], mode == Mode::Dark, "the browser is in {mode:?} mode");
        let height = facts["height"].as_u64().unwrap();
        let pixels = browser.pixels(&html, mode, height, &path.join(name));
        assert_eq!(pixels.height as u64, height);
        let faults = faults(&facts, &pixels, &expected);
        assert!(faults.is_empty(), "{mode:?}: {} faults\n{}", faults.len(), faults.join("\n"));
        papers.push(facts["paper"].clone());
    }
    assert_ne!(papers[0], papers[1], "light and dark differ");
}

/// A page with a fault of each kind.
#[test]
fn faults_are_seen() {
    let Some(browser) = Browser::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut run =
        RunFolder::create(&folder.path().join("run"), manifest(&["raw", "direct"], &["randread-4k"]))
            .unwrap();
    append_closed(&mut run, &ARMS[..2], &["randread-4k"], &[1, 32]);
    run.finish(Ending::Complete).unwrap();
    let data = RunData::read(&folder.path().join("run")).unwrap();
    let html = fs::read_to_string(report::write(&folder.path().join("run")).unwrap()).unwrap();
    let all = expected(&data);
    let has = |label: &String| html.contains(&format!("aria-label=\"{label}\""));
    let expected: Expected = all.into_iter().filter(|(label, _)| has(label)).collect();
    let look = |html: &str| {
        let facts = browser.facts(html, Mode::Light);
        let height = facts["height"].as_u64().unwrap();
        faults(&facts, &browser.pixels(html, Mode::Light, height, &folder.path().join("page.png")), &expected)
    };
    let spoil = |html: &str, label: &str, change: &dyn Fn(&str) -> String| {
        let at = html.find(&format!("aria-label=\"{label}")).unwrap_or_else(|| panic!("no {label}"));
        let begin = html[..at].rfind("<svg").unwrap();
        let end = at + html[at..].find("</svg>").unwrap() + 6;
        format!("{}{}{}", &html[..begin], change(&html[begin..end]), &html[end..])
    };
    let before = |svg: &str, more: &str| svg.replace("</svg>", &format!("{more}</svg>"));
    let page = spoil(&html, "iops_ratio beside raw", &|_| String::new());
    let page = spoil(&page, "Latency percentiles of randread-4k at depth 1\"", &|svg| {
        before(svg, "<text class=\"tick\" x=\"540\" y=\"20\">beyond the edge</text>")
    });
    let page = spoil(&page, "Latency percentiles of randread-4k at depth 32", &|svg| {
        before(svg, "<text class=\"axis\" x=\"4\" y=\"12\">upon another</text>")
    });
    let page = spoil(&page, "Distribution of latency of randread-4k at depth 1\"", &|svg| {
        before(svg, "<rect x=\"0\" y=\"0\" width=\"560\" height=\"300\" style=\"fill: #f5f7f9\"/>")
    });
    let page = spoil(&page, "Distribution of latency of randread-4k at depth 32", &|svg| {
        before(
            svg,
            "<text x=\"200\" y=\"150\" style=\"fill: #dddddd\">pale</text><text x=\"200\" y=\"190\" style=\"font-size: 5px\">tiny</text>",
        )
    });
    let page = spoil(&page, "IOPS by second of randread-4k at depth 1\"", &|svg| {
        svg.replacen("class=\"line", "style=\"visibility: hidden\" class=\"line", 1)
    });
    let page = spoil(&page, "IOPS by second of randread-4k at depth 32", &|svg| {
        let begin = svg.find("<polyline").unwrap();
        let end = begin + svg[begin..].find("/>").unwrap() + 2;
        format!("{}{}", &svg[..begin], &svg[end..])
    });
    let page = spoil(&page, "p50, p99 and p99.9 of randread-4k", &|svg| {
        before(svg, "<circle class=\"dot s1\" cx=\"580\" cy=\"20\" r=\"5\"/>")
    });
    let found = look(&page);
    for fault in [
        "no picture: iops_ratio beside raw",
        "text outside: {\"box\"",
        "beyond the edge",
        "text over text: \"latency\" and \"upon another\"",
        "no pixel of",
        "text without contrast",
        "text too small",
        "not drawn",
        "of 100 polyline points: IOPS by second of randread-4k at depth 32",
        "mark outside",
    ] {
        assert!(found.iter().any(|line| line.contains(fault)), "{fault}: {}", found.join("\n"));
    }
    // Nothing but what was spoiled.
    let spoiled = ["iops_ratio", "depth 1", "depth 32", "p50, p99"];
    assert!(
        found.iter().all(|line| spoiled.iter().any(|label| line.contains(label))),
        "{}",
        found.join("\n")
    );
    assert!(!found.iter().any(|line| line.contains("Latency by second")), "{}", found.join("\n"));
}
