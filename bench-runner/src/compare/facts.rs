//! What two runs do not share beside what they measured: told before any figure.

use serde::Serialize;
use serde_json::Value;

use super::side::Side;
use crate::results::{Manifest, TraceFacts};
use crate::validity;

/// A fact in which two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its name in `manifest.json`.
    pub field: String,
    /// A's.
    pub a: Value,
    /// B's.
    pub b: Value,
}

impl Difference {
    /// For people, with what tells the two apart.
    pub fn text(&self, a: &str, b: &str) -> String {
        format!("{}: {} {a}, {} {b}", self.field, short(&self.a), short(&self.b))
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Null => "not known".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Facts of the plan that change what a figure means. What else a plan says (arms, workloads, depths, number of blocks) changes
/// only which figures there are.
pub const OF_THE_PLAN: [&str; 6] =
    ["measure_ns", "warmup_ns", "span_offset_bytes", "span_bytes", "preconditioning", "steady_state"];

/// Every fact of device, environment and plan in which the two differ; of the plan those that are `wanted`.
pub fn differences(a: &Manifest, b: &Manifest, wanted: &dyn Fn(&str) -> bool) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |name: &str, a: Value, b: Value, wanted: &dyn Fn(&str) -> bool| {
        let (Value::Object(a), Value::Object(b)) = (a, b) else { return };
        for (field, value) in a.into_iter().filter(|(field, _)| wanted(field)) {
            let other = b.get(&field).cloned().unwrap_or(Value::Null);
            if value != other {
                found.push(Difference { field: format!("{name}.{field}"), a: value, b: other });
            }
        }
    };
    let all = |_: &str| true;
    compare("device", value_of(&a.device), value_of(&b.device), &all);
    compare("environment", value_of(&a.environment), value_of(&b.environment), &all);
    compare("trace", value_of(&a.trace), value_of(&b.trace), &all);
    compare("plan", value_of(&a.plan), value_of(&b.plan), wanted);
    found
}

fn value_of<T: Serialize>(facts: &T) -> Value {
    serde_json::to_value(facts).unwrap_or(Value::Null)
}

/// Whether two runs with one seed did the same in the same order.
pub fn plans_agree(a: &Manifest, b: &Manifest) -> bool {
    let played = |trace: &TraceFacts| (trace.digest.clone(), trace.addresses.clone(), trace.alignment_bytes);
    a.trace.as_ref().map(played) == b.trace.as_ref().map(played)
        && a.seed == b.seed
        && a.plan.arms == b.plan.arms
        && a.plan.workloads == b.plan.workloads
        && a.plan.queue_depths == b.plan.queue_depths
        && a.plan.span_offset_bytes == b.plan.span_offset_bytes
        && a.plan.span_bytes == b.plan.span_bytes
        && a.plan.measure_ns == b.plan.measure_ns
        && a.plan.warmup_ns == b.plan.warmup_ns
}

/// What is to be known of one side, by name.
pub fn of_one(letter: &str, side: &Side) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |text: String| warnings.push(format!("{letter} ({}): {text}", side.name));
    match &side.manifest {
        None => warn("a table alone: device, environment and plan are not known".to_owned()),
        Some(manifest) if manifest.interrupted => {
            warn("the run was interrupted; what it had measured by then is compared".to_owned());
        }
        Some(manifest) if !manifest.complete => {
            let ended = if manifest.ended_utc.is_some() { "ended with an error" } else { "did not end" };
            warn(format!("the run {ended}; what it had measured by then is compared"));
        }
        Some(_) => {}
    }
    let invalid: Vec<_> = side.runs.iter().filter(|run| !run.valid).collect();
    if let Some(first) = invalid.first() {
        warn(format!(
            "{} of {} runs do not count and are left out; the first: {}",
            invalid.len(),
            side.runs.len(),
            first.invalid_reason
        ));
    }
    let busy = side.runs.iter().filter(|run| validity::is_core_bound(run)).count();
    if busy > 0 {
        warnings.push(format!(
            "{letter} ({}): in {busy} of {} runs the runner's core was busy more than {} % of the time: their figures are of the \
             core rather than of the device",
            side.name,
            side.runs.len(),
            validity::BUSY_PERCENT_MARKED
        ));
    }
    warnings
}
