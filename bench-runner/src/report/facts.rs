//! The parts of the report that are not results: the runner's own cost, what does not count, the environment.

use std::fmt::Write;

use super::page::NOT_MEASURED;
use super::text::{escape, size, time, whole};
use super::view::View;
use crate::replay::tell;

/// A share below this is not written out.
const SMALLEST_SHARE: f64 = 0.0001;

/// The runner's own cost as a share of the bare device's latency.
pub(super) fn runner_cost(view: &View, page: &mut String) {
    page.push_str("<h2>What the runner itself costs</h2>\n");
    if view.runner_costs().next().is_none() {
        page.push_str("<p>Not measured in this run.</p>\n");
        return;
    }
    page.push_str("<p>CPU time of the runner for one I/O on a target that completes at once, and its share of the bare \
                   device’s p50.</p>\n<div class=\"scroll\"><table>\n<tr><th class=\"text\">depth</th>\
                   <th class=\"text\">driver</th><th>cost per I/O</th><th class=\"text\">workload</th><th>p50 of raw</th>\
                   <th>share</th></tr>\n");
    for cost in view.runner_costs() {
        let depth = cost.queue_depth.unwrap_or_default();
        // A depth that no workload of this run has is shown without a share.
        let mut with_depth: Vec<Option<&str>> = view
            .workloads
            .iter()
            .filter(|(_, depths)| depths.contains(&depth))
            .map(|(name, _)| Some(*name))
            .collect();
        if with_depth.is_empty() {
            with_depth.push(None);
        }
        let mut class = " class=\"group\"";
        for workload in with_depth {
            let p50_ns =
                workload.and_then(|workload| view.value("raw", (workload, depth), "all", "latency", "p50"));
            let share = match (cost.value, p50_ns) {
                (Some(cost_ns), Some(p50_ns)) if cost_ns < p50_ns * SMALLEST_SHARE => {
                    "&lt; 0.01 %".to_string()
                }
                (Some(cost_ns), Some(p50_ns)) => format!("{:.2} %", cost_ns / p50_ns * 100.0),
                _ => NOT_MEASURED.to_string(),
            };
            let shown = |value: Option<f64>| value.map_or(NOT_MEASURED.to_string(), time);
            let _ = writeln!(
                page,
                "<tr{class}><td class=\"text\">{depth}</td><td class=\"text\">{}</td><td>{}</td><td class=\"text\">{}</td>\
                 <td>{}</td><td>{share}</td></tr>",
                escape(&cost.arm),
                shown(cost.value),
                workload.map_or(NOT_MEASURED.to_string(), escape),
                shown(p50_ns)
            );
            class = "";
        }
    }
    page.push_str("</table></div>\n");
}

/// The trace that was played, and what became of its requests; nothing where none was.
pub(super) fn trace(view: &View, page: &mut String) {
    let Some(trace) = &view.data.manifest.trace else { return };
    let _ = writeln!(page, "<h2>The trace</h2>\n<p>{}</p>\n<ul>", escape(&tell::sentence(trace)));
    for sentence in tell::sentences(view.data) {
        let _ = writeln!(page, "<li>{}</li>", escape(&sentence));
    }
    page.push_str("</ul>\n");
}

/// Runs that do not count, and what of the plan was not run.
pub(super) fn left_out(view: &View, page: &mut String) {
    page.push_str("<h2>What does not count, and what was left out</h2>\n");
    let invalid: Vec<_> = view.data.runs.iter().filter(|run| !run.valid).collect();
    if invalid.is_empty() {
        page.push_str("<p>Every run counts.</p>\n");
    } else {
        page.push_str("<p>These runs are in the folder and in no pooled value, ratio or ranking.</p>\n\
                       <div class=\"scroll\"><table>\n<tr><th>run</th><th class=\"text\">arm</th><th class=\"text\">workload\
                       </th><th>depth</th><th>block</th><th class=\"text\">reason</th></tr>\n");
        for run in invalid {
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td>\
                 <td class=\"text wrap\">{}</td></tr>",
                run.run,
                escape(&run.arm),
                escape(&run.workload),
                run.queue_depth,
                run.block,
                escape(&run.invalid_reason)
            );
        }
        page.push_str("</table></div>\n");
    }
    let dropped = &view.data.manifest.dropped;
    if dropped.is_empty() {
        page.push_str("<p>Nothing of the plan was left out.</p>\n");
    } else {
        page.push_str("<p>Left out of the plan:</p>\n<ul>\n");
        for item in dropped {
            let _ = writeln!(page, "<li>{}: {}</li>", escape(&item.what), escape(&item.why));
        }
        page.push_str("</ul>\n");
    }
}

/// The device, the machine and the build.
pub(super) fn environment(view: &View, page: &mut String) {
    let manifest = &view.data.manifest;
    let (device, machine, plan) = (&manifest.device, &manifest.environment, &manifest.plan);
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| NOT_MEASURED.to_string());
    let bytes = |bytes: Option<u64>| bytes.map_or(NOT_MEASURED.to_string(), |bytes| format!("{bytes} B"));
    let dirty = match machine.git_dirty {
        Some(true) => ", with uncommitted changes",
        Some(false) => "",
        None => ", state of the tree not known",
    };
    let mut paths: Vec<String> = Vec::new();
    for run in view.data.runs.iter().filter(|run| !run.io_path.is_empty()) {
        let path = format!("{}: {}", run.arm, run.io_path);
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    let yes_no = |value: Option<bool>| value.map_or(NOT_MEASURED, |value| if value { "yes" } else { "no" });
    let seconds = |ns: u64| format!("{} s", ns as f64 / 1e9);
    let depths: Vec<String> = plan.queue_depths.iter().map(u32::to_string).collect();
    let rows: Vec<(&str, String)> = vec![
        ("command", manifest.command_line.join(" ")),
        ("begun, ended", format!("{}, {}", manifest.started_utc, known(&manifest.ended_utc))),
        ("device", format!("{} ({}), serial {}", device.path, device.kind, device.serial)),
        ("device size", format!("{} bytes ({})", whole(device.size_bytes as f64), size(device.size_bytes))),
        ("model, firmware", format!("{}, {}", known(&device.model), known(&device.firmware))),
        ("file system", known(&device.file_system)),
        (
            "scheduler, nr_requests",
            format!(
                "{}, {}",
                known(&device.scheduler),
                device.nr_requests.map_or(NOT_MEASURED.to_string(), |requests| requests.to_string())
            ),
        ),
        ("write cache", known(&device.write_cache)),
        (
            "logical, physical block",
            format!("{}, {}", bytes(device.logical_block_bytes), bytes(device.physical_block_bytes)),
        ),
        ("rotational", yes_no(device.rotational).to_string()),
        (
            "data span",
            format!("{} from byte {}", size(plan.span_bytes), whole(plan.span_offset_bytes as f64)),
        ),
        ("preconditioning", plan.preconditioning.clone()),
        ("steady state", plan.steady_state.clone().unwrap_or_default()),
        ("measured, warm-up", format!("{}, {}", seconds(plan.measure_ns), seconds(plan.warmup_ns))),
        ("arms", plan.arms.join(", ")),
        ("workloads", plan.workloads.join(", ")),
        ("queue depths, blocks", format!("{}; {} blocks", depths.join(", "), plan.repeats)),
        ("I/O path", paths.join("; ")),
        ("CPU", format!("{}, {} usable", known(&machine.cpu_model), machine.cores)),
        ("processors allowed", known(&machine.processors)),
        ("those of the kernel's workers (mask)", known(&machine.kernel_worker_processors)),
        ("governor", machine.governor.clone()),
        ("memory", machine.memory_bytes.map_or(NOT_MEASURED.to_string(), size)),
        ("kernel", machine.kernel.clone()),
        ("kernel command line", known(&machine.kernel_command_line)),
        ("clock", known(&machine.clock_source)),
        ("compiler", machine.rustc.clone()),
        ("commit", format!("{}{dirty}", machine.git_commit)),
        ("engine features", machine.engine_features.join(", ")),
    ];
    page.push_str("<h2>Environment</h2>\n<div class=\"scroll\"><table>\n");
    for (name, value) in rows {
        let value = if value.is_empty() { NOT_MEASURED.to_string() } else { value };
        let _ = writeln!(
            page,
            "<tr><th class=\"text\" scope=\"row\">{name}</th><td class=\"text wrap\">{}</td></tr>",
            escape(&value)
        );
    }
    page.push_str("</table></div>\n");
}
