//! A comparison for people, one line a quantity, and for programs, one object.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Cell, Comparison, Estimate, Left, Line, Side};
use crate::results::MEASURE;
use crate::stats::verdict::Verdict;

/// Where a cell is, in words that a line begins with.
pub(super) fn place(cell: &Cell) -> String {
    let mut text = cell.workload.clone();
    if cell.phase != MEASURE {
        let _ = write!(text, " {}", cell.phase);
    }
    if let Some(chain) = cell.chain_depth {
        let _ = write!(text, " snapshots {chain}");
    }
    if let Some(depth) = cell.queue_depth {
        let _ = write!(text, " depth {depth}");
    }
    if let Some(offered) = cell.offered_iops {
        let _ = write!(text, " offered {offered}/s");
    }
    if cell.op != "all" {
        let _ = write!(text, " {}", cell.op);
    }
    text
}

fn arm_text((a, b): &(String, String)) -> String {
    if a == b { a.clone() } else { format!("{a}={b}") }
}

fn ratio_text(estimate: &Estimate) -> String {
    let ratio = &estimate.ratio;
    let interval = if ratio.ci_high.is_finite() {
        format!("[{:.3}, {:.3}]", ratio.ci_low, ratio.ci_high)
    } else {
        "[one block]".to_owned()
    };
    format!("{:.3} {interval}", ratio.median)
}

/// The table.
pub(super) fn text(comparison: &Comparison, a: &Side, b: &Side) -> String {
    let mut text = String::new();
    for (letter, side) in [("A", a), ("B", b)] {
        let about = side.manifest.as_ref().map_or(String::new(), |manifest| {
            format!(", {}, commit {}", manifest.started_utc, manifest.environment.git_commit)
        });
        let _ = writeln!(text, "{letter}: {}{about}", side.name);
    }
    for difference in &comparison.differences {
        let _ = writeln!(text, "differs: {}", difference.text("in A", "in B"));
    }
    for warning in &comparison.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let places: Vec<String> = comparison
        .lines
        .iter()
        .map(|line| format!("{} {}", arm_text(&line.arms), place(&line.cell)))
        .collect();
    let left: Vec<String> = comparison
        .left
        .iter()
        .map(|left| format!("{} {}", arm_text(&left.arms), place(&left.cell)))
        .collect();
    let width = places.iter().chain(&left).map(String::len).max().unwrap_or(0);
    if !comparison.lines.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<width$} {:<12} {:<22} {:<27} {:<15} {:>6}  verdict",
            "arm, workload, depth", "metric", "B/A [95 %]", "beside the reference", "blocks", "p"
        );
    }
    for (line, place) in comparison.lines.iter().zip(&places) {
        let Line { plain, normalised, verdict, reason, .. } = line;
        let beside = normalised
            .as_ref()
            .map_or("-".to_owned(), |(estimate, name)| format!("{} {name}", ratio_text(estimate)));
        let (blocks_a, blocks_b) = line.judged().blocks;
        let blocks = match line.pairing {
            super::Pairing::Unpaired => format!("{blocks_a}+{blocks_b} unpaired"),
            super::Pairing::SameBlock => format!("{blocks_a} by block"),
            super::Pairing::SameSeed => format!("{blocks_a} by seed"),
        };
        let unsteady = match line.unsteady {
            (0, 0) => String::new(),
            (a, b) => format!("; {a} and {b} blocks were not steady, and are not ranked"),
        };
        let machine = if line.is_of_the_machine() { " (the machine)" } else { "" };
        let _ = writeln!(
            text,
            "{place:<width$} {:<12} {:<22} {beside:<27} {blocks:<15} {:>6.3}  {}{machine}: {reason}{unsteady}",
            line.quantity.name,
            ratio_text(plain),
            line.p_holm,
            verdict.name(),
        );
    }
    for (Left { quantity, reason, .. }, place) in comparison.left.iter().zip(&left) {
        let name = quantity.map_or("-", |quantity| quantity.name);
        let _ = writeln!(text, "{place:<width$} {name:<12} not compared: {reason}");
    }
    let _ = writeln!(
        text,
        "\n{} worse, {} better, {} no difference, {} undecided, {} not compared",
        comparison.count(Verdict::Worse),
        comparison.count(Verdict::Better),
        comparison.count(Verdict::NoDifference),
        comparison.count(Verdict::Undecided),
        comparison.left.len(),
    );
    text
}

/// One object.
pub(super) fn object(comparison: &Comparison, a: &Side, b: &Side) -> Value {
    json!({
        "a": side(a),
        "b": side(b),
        "warnings": comparison.warnings,
        "differences": comparison.differences,
        "comparisons": comparison.lines.iter().map(line).collect::<Vec<_>>(),
        "not_compared": comparison.left.iter().map(left).collect::<Vec<_>>(),
        "worse": comparison.count(Verdict::Worse),
        "better": comparison.count(Verdict::Better),
        "no_difference": comparison.count(Verdict::NoDifference),
        "undecided": comparison.count(Verdict::Undecided),
        "exit_code": comparison.exit_code(),
    })
}

fn side(side: &Side) -> Value {
    let manifest = side.manifest.as_ref();
    json!({
        "path": side.name,
        "started_utc": manifest.map(|manifest| &manifest.started_utc),
        "git_commit": manifest.map(|manifest| &manifest.environment.git_commit),
        "complete": manifest.map(|manifest| manifest.complete),
    })
}

fn of_cell((arm_a, arm_b): &(String, String), cell: &Cell) -> Value {
    json!({
        "arm": arm_a, "arm_b": arm_b, "workload": cell.workload, "op": cell.op, "bs_bytes": cell.bs_bytes,
        "queue_depth": cell.queue_depth, "offered_iops": cell.offered_iops, "chain_depth": cell.chain_depth,
        "phase": cell.phase,
    })
}

fn estimate(estimate: &Estimate) -> Value {
    let ratio = &estimate.ratio;
    let known = |value: f64| (ratio.ci_high.is_finite()).then_some(value);
    json!({
        "ratio": ratio.median, "ci_low": known(ratio.ci_low), "ci_high": known(ratio.ci_high),
        "half_width": known(ratio.half_width), "p_ranks": estimate.ranks.p, "p_t": estimate.student_p,
    })
}

fn line(line: &Line) -> Value {
    let mut object = of_cell(&line.arms, &line.cell);
    let (blocks_a, blocks_b) = line.judged().blocks;
    let own = json!({
        "metric": line.quantity.name,
        "pairing": line.pairing.name(),
        "blocks_a": blocks_a,
        "blocks_b": blocks_b,
        "plain": estimate(&line.plain),
        "normalised": line.normalised.as_ref().map(|(normalised, _)| estimate(normalised)),
        "reference": line.normalised.as_ref().map(|(_, name)| name),
        "judged_by": if line.normalised.is_some() { "normalised" } else { "plain" },
        "p_holm": line.p_holm,
        "test": line.test,
        "noise": line.noise.as_ref().map(|(noise, _)| noise),
        "noise_arm": line.noise.as_ref().map(|(_, arm)| arm),
        "unsteady_a": line.unsteady.0,
        "unsteady_b": line.unsteady.1,
        "of_the_machine": line.is_of_the_machine(),
        "verdict": line.verdict.name(),
        "reason": line.reason,
    });
    if let (Some(object), Value::Object(own)) = (object.as_object_mut(), own) {
        object.extend(own);
    }
    object
}

fn left(left: &Left) -> Value {
    let mut object = of_cell(&left.arms, &left.cell);
    object["metric"] = json!(left.quantity.map(|quantity| quantity.name));
    object["reason"] = json!(left.reason);
    object["invalid"] = json!(left.is_invalid);
    object
}
