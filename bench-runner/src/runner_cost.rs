//! What the runner itself costs: its loop on a target that completes at once.
//!
//! The same tasks, stream, claims and recorder as in a measurement, over the engine's null device. Without the
//! content it is the floor under every figure of the engine's arms; with it, it shows what stamping adds, which
//! happens outside of latencies but on the measuring thread's CPU time.

use std::path::PathBuf;

use icecore::device::Device;
use icecore_workloads::Workload;

use crate::arms::engine::{self, Content};
use crate::arms::target::Bare;
use crate::bench;
use crate::failure::Failure;
use crate::measure::ArmTask;
use crate::results::MetricRow;

/// Measured time of each case. With it the 1/250 s by which some kernels count CPU time is within 2 %.
const MEASURE_NS: u64 = 300_000_000;
const WARMUP_NS: u64 = 30_000_000;
const SPAN_BYTES: u64 = 1 << 30;

/// The runner's cost at one depth.
#[derive(Clone, Copy, Debug)]
pub struct RunnerCost {
    /// Requests in flight.
    pub queue_depth: u32,
    /// Whether the writes' content was stamped.
    pub with_content: bool,
    /// User CPU time of the measuring thread, in nanoseconds an I/O.
    pub user_ns: f64,
    /// System CPU time, in nanoseconds an I/O.
    pub system_ns: f64,
    /// Heap allocations an I/O, where they are counted.
    pub allocations: Option<f64>,
    /// I/Os it was measured with.
    pub operations: u64,
}

impl RunnerCost {
    /// User and system time together, in nanoseconds an I/O.
    pub fn total_ns(&self) -> f64 {
        self.user_ns + self.system_ns
    }

    /// Its row in `metrics.csv`.
    pub fn row(&self, seed: u64) -> MetricRow {
        let arm = if self.with_content { "null with content" } else { "null" };
        MetricRow::runner_cost(arm, self.queue_depth, self.total_ns(), self.operations, seed)
    }
}

/// Measures 4 KiB random writes on the null device, without and with their content, at each depth.
///
/// # Errors
/// The machine has no io_uring, or tells no CPU times.
pub fn measure(queue_depths: &[u32], seed: u64) -> Result<Vec<RunnerCost>, Failure> {
    let mut costs = Vec::new();
    for &queue_depth in queue_depths {
        for (content, with_content) in [(Content::AsItIs, false), (Content::Stamped, true)] {
            let outcome = on_null(queue_depth, content, MEASURE_NS, seed)?;
            let operations = outcome.write.operations.max(1);
            let (Some(user_ns), Some(system_ns)) = (outcome.cpu_user_ns, outcome.cpu_system_ns) else {
                return Err(Failure::environment("getrusage tells no CPU times of this thread"));
            };
            let per_operation = |total: u64| total as f64 / operations as f64;
            costs.push(RunnerCost {
                queue_depth,
                with_content,
                user_ns: per_operation(user_ns),
                system_ns: per_operation(system_ns),
                allocations: outcome.allocations.map(per_operation),
                operations,
            });
        }
    }
    Ok(costs)
}

/// One measurement on the null device.
///
/// # Errors
/// The machine has no io_uring.
pub fn on_null(
    queue_depth: u32,
    content: Content,
    measure_ns: u64,
    seed: u64,
) -> Result<crate::measure::ArmOutcome, Failure> {
    let runtime = bench::runtime(queue_depth)?;
    let device = Device::null(runtime.context(), SPAN_BYTES);
    let task = ArmTask {
        path: PathBuf::from("null"),
        span_offset_bytes: 0,
        span_bytes: SPAN_BYTES,
        workload: Workload::from_name("randwrite-4k")?,
        queue_depth,
        warmup_ns: WARMUP_NS,
        measure_ns,
        seed,
        offered_per_second: None,
        replay: None,
        until_steady: false,
    };
    engine::run(&runtime, Bare::new(&device, 0), &task, content)
}
