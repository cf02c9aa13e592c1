//! `doctor`: what this machine can do and what the runner costs on it.
//!
//! A device is only looked at; what a flush costs is measured on a small scratch file.

use std::path::Path;

use icecore::device::Identity;
use icecore::runtime::Runtime;
use icecore_workloads::{Stamper, Workload};
use serde_json::{Map, Value, json};

use crate::arms::engine::{self, Content};
use crate::arms::target::Bare;
use crate::bench::{self, Bench};
use crate::cli::DoctorOptions;
use crate::failure::{EXIT_OK, Failure};
use crate::measure::ArmTask;
use crate::runner_cost::{self, RunnerCost};
use crate::scratch::Scratch;
use crate::{content, environment};

const SCRATCH_BYTES: u64 = 64 << 20;
const FLUSHING_NS: u64 = 1_000_000_000;
/// The runner's cost that a figure may carry, in nanoseconds of user CPU time an I/O, by depth.
const COST_BOUNDS_NS: [(u32, f64); 2] = [(1, 400.0), (32, 150.0)];

/// The `doctor` command.
///
/// # Errors
/// The machine has no io_uring, or the device or folder cannot be used.
pub fn tell(options: &DoctorOptions) -> Result<i32, Failure> {
    let mut findings = Map::new();
    let runtime = bench::runtime(32)?;
    machine(&runtime, &mut findings);
    match &options.device {
        Some(path) => device(&runtime, path, &mut findings)?,
        None => scratch(&options.scratch, &mut findings)?,
    }
    drop(runtime);
    costs(&mut findings)?;
    if options.json {
        println!("{}", Value::Object(findings));
    } else {
        for (name, value) in &findings {
            match value {
                Value::String(text) => println!("{name}: {text}"),
                Value::Null => println!("{name}: not known"),
                other => println!("{name}: {other}"),
            }
        }
    }
    Ok(EXIT_OK)
}

fn machine(runtime: &Runtime, findings: &mut Map<String, Value>) {
    let facts = environment::environment_facts();
    let io_path = runtime.context().io_path();
    let mut note = |name: &str, value: Value| findings.insert(name.to_owned(), value);
    note("kernel", json!(facts.kernel));
    note("cpu", json!(environment::cpu_model()));
    note("cores", json!(facts.cores));
    note("processors", json!(facts.processors));
    note("kernel_worker_processors", json!(facts.kernel_worker_processors));
    note("governor", json!(environment::governor()));
    note("clock_source", json!(facts.clock_source));
    note("io_uring", json!(io_path.to_string()));
    note("io_uring_single_issuer_deferred", json!(io_path.deferred_completions));
    note("io_uring_registered_buffer_bytes", json!(io_path.registered_buffer_bytes));
    note("io_uring_registered_files", json!(io_path.registered_files));
    note("memlock_bytes", json!(memlock_bytes()));
}

/// What a process may lock, and so register with a ring; `None` for no limit. Root is not held to it.
#[allow(unsafe_code, reason = "getrlimit has no safe form in std")]
fn memlock_bytes() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a writable rlimit that outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

fn device(runtime: &Runtime, path: &Path, findings: &mut Map<String, Value>) -> Result<(), Failure> {
    let device = bench::open_read_only(runtime, path)?;
    let identity = Identity::of(path)?;
    facts(path, &identity, &device, findings);
    let signature = runtime.block_on(icecore::volume::Volume::foreign_signature(&device))?;
    let signature = signature.map(|signature| format!("{} at byte {}", signature.name, signature.at));
    findings.insert("signature".into(), json!(signature));
    findings
        .insert("flush".into(), json!("not measured: a device is only read; use --scratch for a file on it"));
    Ok(())
}

fn facts(
    path: &Path,
    identity: &Identity,
    device: &icecore::device::Device,
    findings: &mut Map<String, Value>,
) {
    let facts = environment::device_facts(path, identity, device.geometry());
    let mut note = |name: &str, value: Value| findings.insert(name.to_owned(), value);
    note("device", json!(facts.path));
    note("device_kind", json!(facts.kind));
    note("device_model", json!(facts.model));
    note("file_system", json!(facts.file_system));
    note("device_size_bytes", json!(facts.size_bytes));
    note("direct_io_alignment_bytes", json!(facts.logical_block_bytes));
    note("physical_block_bytes", json!(facts.physical_block_bytes));
    note("optimal_io_bytes", json!(device.geometry().optimal_io_bytes));
    note("rotational", json!(facts.rotational));
    note("scheduler", json!(facts.scheduler));
    note("nr_requests", json!(facts.nr_requests));
    note("write_cache", json!(facts.write_cache));
}

/// Measured on a scratch file of its own.
fn scratch(folder: &Path, findings: &mut Map<String, Value>) -> Result<(), Failure> {
    let scratch = Scratch::create(folder, SCRATCH_BYTES)?;
    let bench = Bench::claim_own(scratch.path(), 1)?;
    content::fill(bench.runtime(), &Bare::new(bench.device(), 0), SCRATCH_BYTES, Stamper::new(1))?;
    facts(scratch.path(), bench.identity(), bench.device(), findings);
    flush_cost(&bench, findings)
}

fn flush_cost(bench: &Bench, findings: &mut Map<String, Value>) -> Result<(), Failure> {
    let task = ArmTask {
        path: bench.path().to_owned(),
        span_offset_bytes: 0,
        span_bytes: SCRATCH_BYTES,
        workload: Workload::from_name("durable-4k")?,
        queue_depth: 1,
        warmup_ns: 0,
        measure_ns: FLUSHING_NS,
        seed: 1,
        offered_per_second: None,
        replay: None,
        until_steady: false,
    };
    let outcome = engine::run(bench.runtime(), Bare::new(bench.device(), 0), &task, Content::Stamped)?;
    let p50 = |figures: &crate::measure::OperationFigures| figures.latency_ns.value_at_quantile(0.5);
    findings.insert("write_and_flush_4k_p50_ns".into(), json!(p50(&outcome.write)));
    findings.insert("flush_p50_ns".into(), json!(p50(&outcome.flush)));
    Ok(())
}

fn costs(findings: &mut Map<String, Value>) -> Result<(), Failure> {
    let depths = COST_BOUNDS_NS.map(|(depth, _)| depth);
    let costs = runner_cost::measure(&depths, 1)?;
    for (depth, bound_ns) in COST_BOUNDS_NS {
        let of = |with_content| {
            costs.iter().find(|cost| cost.queue_depth == depth && cost.with_content == with_content)
        };
        let (Some(without), Some(with)) = (of(false), of(true)) else { continue };
        findings.insert(format!("runner_cost_depth_{depth}_ns"), json!(rounded(without.user_ns)));
        findings.insert(
            format!("runner_cost_depth_{depth}_within_{bound_ns}_ns"),
            json!(without.user_ns <= bound_ns),
        );
        findings.insert(format!("runner_cost_depth_{depth}_with_content_ns"), json!(rounded(with.user_ns)));
        findings.insert(
            format!("content_cost_depth_{depth}_ns"),
            json!(rounded((with.user_ns - without.user_ns).max(0.0))),
        );
        findings.insert(format!("runner_allocations_depth_{depth}"), json!(allocations(without)));
    }
    Ok(())
}

fn allocations(cost: &RunnerCost) -> Option<f64> {
    cost.allocations.map(rounded)
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
