//! Bare references for a log: what the device does with requests like the log's own batches.
//!
//! A log turns scattered writes into few large ones, so that the bare device's scattered writes say little about what
//! it could reach. Its bound is its mean batch times the rate at which the bare device takes requests of that size,
//! one after another over its span, with as many in flight as the log had. They are measured right after the log, in
//! the same block, because the batch is known only then.

use icecore_workloads::{Access, Durability, Workload};

use super::engine::{self, Content};
use super::target::Bare;
use crate::bench::Bench;
use crate::content;
use crate::failure::Failure;
use crate::interrupt;
use crate::measure::{ArmTask, BareKind, BareRate, LogBatches};

/// Blocks of the log's own unit; a batch is a whole number of them.
const BLOCK_BYTES: u64 = 4096;
/// The references write over at most this much, which is written before.
const SPAN_BYTES_MAX: u64 = 256 << 20;

/// The references that a workload has; none where the log is not compared by its batches.
pub fn kinds(workload: &Workload) -> &'static [BareKind] {
    let Some((part, _)) = workload.only_part() else { return &[] };
    match (&part.access, workload.durability()) {
        _ if !workload.writes() || workload.reads() => &[],
        (_, Durability::WriteThenFlush | Durability::DurableWrite) => {
            &[BareKind::PersistFlush, BareKind::PersistDsync]
        }
        (Access::UniformRandom, Durability::None) => &[BareKind::Sequential],
        (_, Durability::None) => &[],
    }
}

/// Measures the references of the task's workload. The content of the bare span is lost.
///
/// # Errors
/// What the device says, or that a signal stopped it.
pub(crate) fn measure(bench: &Bench, task: &ArmTask, log: &LogBatches) -> Result<Vec<BareRate>, Failure> {
    let kinds = kinds(&task.workload);
    let Some((bytes, in_flight)) = log.mean(log.bytes).zip(log.mean(log.in_flight)) else {
        return Ok(Vec::new());
    };
    let batch_bytes = (bytes as u64).next_multiple_of(BLOCK_BYTES);
    let queue_depth = (in_flight.round() as u32).max(1);
    let span_bytes = task.span_bytes.min(SPAN_BYTES_MAX) / batch_bytes * batch_bytes;
    if kinds.is_empty() || span_bytes < u64::from(2 * queue_depth) * batch_bytes {
        return Ok(Vec::new());
    }
    let bare = Bare::new(bench.device(), task.span_offset_bytes);
    content::fill(bench.runtime(), &bare, span_bytes, task.stamper())?;
    let mut rates = Vec::new();
    for kind in kinds {
        let durability = match kind {
            BareKind::PersistFlush => Durability::WriteThenFlush,
            BareKind::PersistDsync => Durability::DurableWrite,
            BareKind::Sequential => Durability::None,
        };
        let workload =
            Workload::simple(task.workload.name(), Access::Sequential, 0, batch_bytes as u32, durability);
        let task = ArmTask {
            span_bytes,
            workload,
            queue_depth,
            offered_per_second: None,
            until_steady: false,
            ..task.clone()
        };
        let outcome = engine::run(bench.runtime(), bare.clone(), &task, Content::AsItIs)?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        if outcome.write.operations > 0 {
            rates.push(BareRate {
                kind: *kind,
                per_second: outcome.write.operations as f64 * 1e9 / outcome.elapsed_ns.max(1) as f64,
                p50_ns: outcome.write.latency_ns.value_at_quantile(0.5),
            });
        }
    }
    Ok(rates)
}
