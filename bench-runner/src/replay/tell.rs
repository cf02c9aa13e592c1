//! What is said of a trace: what it is, how it was made to fit, and what became of its requests on each arm.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::results::{MetricRow, RunData, RunRow, TraceFacts, merged};
use crate::stats;
use crate::suite::Load;
use crate::summary::microseconds;

/// What may have been done with requests, by the stat of `trace_requests`, in words.
const DONE: [(&str, &str); 8] = [
    ("split", "were played in pieces"),
    ("beyond_span", "lay beyond the span"),
    ("aligned", "were rounded"),
    ("moved_back", "were moved back into the span"),
    ("shortened", "were shortened to the span"),
    ("discards", "discards were done"),
    ("passed_over", "discards were passed over, since the target has none"),
    ("waited_for_place", "changes waited for an earlier one of their place"),
];

/// The trace in one sentence.
pub(crate) fn sentence(trace: &TraceFacts) -> String {
    let files: Vec<&str> = trace.files.iter().map(|file| file.path.as_str()).collect();
    let first = if trace.goes_on { "the first " } else { "" };
    format!(
        "{}: {first}{} requests in {:.3} s, of {} bytes at most, up to byte {}; addresses {}, rounded to {} bytes",
        files.join(", "),
        trace.requests,
        trace.duration_ns as f64 / 1e9,
        trace.request_bytes_max,
        trace.end_bytes,
        trace.addresses,
        trace.alignment_bytes,
    )
}

/// All blocks of an arm at one depth and speed, whether they count or not.
struct Played<'a> {
    first: &'a RunRow,
    runs: Vec<u64>,
}

impl Played<'_> {
    fn of(data: &RunData) -> Vec<Played<'_>> {
        let mut all: Vec<Played> = Vec::new();
        for run in data.runs.iter().filter(|run| Load::is_replay_phase(&run.phase)) {
            let key = |run: &RunRow| (run.arm.clone(), run.queue_depth, run.phase.clone());
            match all.iter_mut().find(|played| key(played.first) == key(run)) {
                Some(played) => played.runs.push(run.run),
                None => all.push(Played { first: run, runs: vec![run.run] }),
            }
        }
        all
    }

    /// Requests of all blocks.
    fn requests(&self, data: &RunData, stat: &str) -> u64 {
        let is_own = |row: &&MetricRow| row.run.is_some_and(|run| self.runs.contains(&run));
        let rows = data.metrics.iter().filter(is_own);
        let wanted = rows.filter(|row| row.metric == "trace_requests" && row.stat == stat);
        wanted.filter_map(|row| row.value).sum::<f64>() as u64
    }

    /// How late requests were begun: p50, p99, the most.
    fn lateness_ns(&self, data: &RunData) -> [Option<f64>; 3] {
        let of_runs = self.runs.iter().filter_map(|run| data.histograms.get(run)?.lateness.as_ref());
        let Some(lateness) = merged(of_runs) else { return [None; 3] };
        let at = |q: f64| stats::percentile(&lateness, q).map(|ns| ns as f64);
        [at(0.5), at(0.99), Some(lateness.max() as f64)]
    }

    fn sentence(&self, data: &RunData) -> String {
        let RunRow { arm, queue_depth, phase, .. } = self.first;
        let begun = self.requests(data, "begun");
        let mut text = format!(
            "{phase} depth {queue_depth} {arm}: {begun} requests begun in {} blocks",
            self.runs.len()
        );
        for (stat, words) in DONE {
            let requests = self.requests(data, stat);
            if requests > 0 {
                let _ = write!(text, ", {requests} {words}");
            }
        }
        if Load::is_open_phase(phase) {
            let [p50, p99, max] = self.lateness_ns(data).map(microseconds);
            let _ = write!(text, "; begun late by p50 {p50}, p99 {p99}, at most {max} microseconds");
        }
        text
    }
}

/// What became of the requests, a sentence for each arm, depth and speed; nothing where no trace was played.
pub(crate) fn sentences(data: &RunData) -> Vec<String> {
    Played::of(data).iter().map(|played| played.sentence(data)).collect()
}

/// The same for programs.
pub(crate) fn object(data: &RunData) -> Vec<Value> {
    let one = |played: &Played| {
        let [p50, p99, max] = played.lateness_ns(data);
        let mut object = json!({
            "arm": played.first.arm, "queue_depth": played.first.queue_depth, "phase": played.first.phase,
            "blocks": played.runs.len(), "begun": played.requests(data, "begun"),
            "lateness_p50_ns": p50, "lateness_p99_ns": p99, "lateness_max_ns": max,
        });
        for (stat, _) in DONE {
            object[stat] = json!(played.requests(data, stat));
        }
        object
    };
    Played::of(data).iter().map(one).collect()
}
