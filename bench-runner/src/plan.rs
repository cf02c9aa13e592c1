//! What a run would do, worked out without writing anything.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use icecore::device::{Identity, safety};
use icecore::error::Reason;
use icecore::format::nbd::{CAN_MULTI_CONN, READ_ONLY, SEND_FLUSH};
use icecore::volume::Volume;
use icecore_workloads::{Durability, Workload};
use serde_json::{Value, json};

use crate::arms::Arm;
use crate::bench::{self, DataSpan, SECTOR_BYTES, data_span};
use crate::cli::RunOptions;
use crate::failure::{EXIT_OK, Failure};
use crate::nbd::{Address, ConnectOptions, Export};
use crate::precondition::PASSES;
use crate::replay::{self, Asked, tell};
use crate::resume;
use crate::stats::steady;
use crate::suite::{Cell, Load, SuitePlan, time_text};

/// The span if none is given. Every arm fills and compares all of it, so that a larger one costs more time than
/// the measurement; a smaller one fits into the caches of many devices.
const SPAN_BYTES_DEFAULT: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Depths of a workload that says none, if none are asked for.
const QUEUE_DEPTHS_DEFAULT: [u32; 2] = [1, 32];
/// Requests in flight of a trace, if none are asked for: fewer would make a queue of what the traced system did at once.
const QUEUE_DEPTH_OF_TRACES: u32 = 32;
/// Workloads that run if none are named.
const WORKLOADS_DEFAULT: [&str; 2] = ["randread-4k", "randwrite-4k"];
/// Seconds under load before a workload is measured. A trace has a beginning of its own.
const WARMUP_SECONDS_DEFAULT: u64 = 2;
/// Bytes a second at which a plan assumes that a span is filled and compared, for the duration it tells.
const ASSUMED_BYTES_PER_SECOND: u64 = 500_000_000;

/// The options of a run, understood.
#[derive(Clone, Debug)]
pub struct Request {
    plan: SuitePlan,
    span_bytes: Option<u64>,
    trace: Option<Asked>,
}

impl Request {
    /// Understands names and numbers; looks at no device.
    ///
    /// # Errors
    /// A usage failure that lists what there is.
    pub fn parse(options: &RunOptions) -> Result<Self, Failure> {
        let is_export = Address::of(options.device())?.is_some();
        let mut arms = vec![if is_export { Arm::Nbd } else { Arm::Raw }];
        let direct = ["direct".to_owned()];
        let named = if options.backend.is_empty() && !is_export { &direct[..] } else { &options.backend };
        for name in named {
            let arm = Arm::from_name(name)?;
            match arm {
                Arm::Nbd | Arm::Fio if is_export => {}
                Arm::Nbd => {
                    let why = "nbd is how an NBD server's export is measured: --device nbd://HOST/EXPORT";
                    return Err(Failure::usage(why));
                }
                other if is_export => {
                    let name = other.name();
                    return Err(Failure::usage(format!(
                        "{name} needs a block device or file; an export has nbd and fio"
                    )));
                }
                _ => {}
            }
            if !arms.contains(&arm) {
                arms.push(arm);
            }
        }
        if options.span.is_some_and(|bytes| bytes == 0 || !bytes.is_multiple_of(MIB)) {
            return Err(Failure::usage("--span must be a multiple of 1048576 bytes, and not 0"));
        }
        let measure_ns = options.seconds * 1_000_000_000;
        let warmup =
            options.warmup.unwrap_or(if options.trace.is_empty() { WARMUP_SECONDS_DEFAULT } else { 0 });
        let warmup_ns = warmup * 1_000_000_000;
        if options.until_steady && !options.trace.is_empty() {
            return Err(Failure::usage("a trace has a course of its own: --until-steady is for workloads"));
        }
        if options.until_steady && !options.seconds.is_multiple_of(steady::WINDOW as u64) {
            return Err(Failure::usage(format!(
                "with --until-steady a round is a fifth of --seconds, in whole seconds: --seconds {}",
                options.seconds.next_multiple_of(steady::WINDOW as u64)
            )));
        }
        let trace = Asked::of(options, warmup_ns + measure_ns)?;
        let mut cells: Vec<Cell> = Vec::new();
        if let Some(trace) = &trace {
            let depths = if options.queue_depth.is_empty() {
                &[QUEUE_DEPTH_OF_TRACES][..]
            } else {
                &options.queue_depth
            };
            for queue_depth in depths {
                for load in replay::loads(&options.playing.speed) {
                    // What stands for the trace is known when its target is.
                    let workload = trace.on(u64::MAX, SECTOR_BYTES).workload;
                    cells.push(Cell { workload, queue_depth: *queue_depth, load });
                }
            }
        }
        let defaults = WORKLOADS_DEFAULT.map(str::to_owned);
        let named = if options.workload.is_empty() { &defaults[..] } else { &options.workload };
        for name in named.iter().filter(|_| trace.is_none()) {
            for workload in Workload::named(name)? {
                let depths = match &options.queue_depth {
                    asked if !asked.is_empty() => &asked[..],
                    _ if !workload.queue_depths().is_empty() => workload.queue_depths(),
                    _ => &QUEUE_DEPTHS_DEFAULT,
                };
                for queue_depth in depths {
                    // A share of the closed load needs it before.
                    let closed =
                        (options.offered.is_empty() || !options.load.is_empty()).then_some(Load::Closed);
                    let offered = options.offered.iter().copied().map(Load::PerSecond);
                    let shares = options.load.iter().copied().map(Load::PercentOfClosed);
                    for load in closed.into_iter().chain(shares).chain(offered) {
                        let cell = Cell { workload: workload.clone(), queue_depth: *queue_depth, load };
                        if !cells.contains(&cell) {
                            cells.push(cell);
                        }
                    }
                }
            }
        }
        let plan = SuitePlan {
            arms,
            cells,
            repeats: options.blocks(),
            warmup_ns,
            measure_ns,
            seed: options.seed.unwrap_or_else(random_seed),
            span_offset_bytes: 0,
            span_bytes: 0,
            references: true,
            slo_ns: options.slo_us.map(|slo_us| slo_us * 1_000),
            method: options.method(),
            trace: None,
        };
        Ok(Self { plan, span_bytes: options.span, trace })
    }

    /// The deepest queue.
    pub fn queue_depth_max(&self) -> u32 {
        self.plan.queue_depth_max()
    }

    /// The plan on a device of this size that takes multiples of `logical_block_bytes`.
    ///
    /// # Errors
    /// The device or the span is too small.
    pub fn on(&self, path: &Path, device_bytes: u64, logical_block_bytes: u32) -> Result<SuitePlan, Failure> {
        let DataSpan { offset_bytes, bytes: largest, least } =
            data_span(device_bytes, path, &self.plan.arms)?;
        let span_bytes = match &self.trace {
            Some(trace) => trace.span_bytes(self.span_bytes, largest, SPAN_BYTES_DEFAULT)?,
            None => self.span_bytes.unwrap_or(largest.min(SPAN_BYTES_DEFAULT)),
        };
        if span_bytes > largest || span_bytes == 0 {
            let name = path.display();
            return Err(Failure::usage(format!(
                "{name} has room for a span of {largest} bytes on {}, not {span_bytes}",
                least.name()
            )));
        }
        let mut plan = SuitePlan { span_offset_bytes: offset_bytes, span_bytes, ..self.plan.clone() };
        if let Some(trace) = &self.trace {
            let trace = trace.on(span_bytes, logical_block_bytes);
            for cell in &mut plan.cells {
                cell.workload = trace.workload.clone();
            }
            plan.trace = Some(Arc::new(trace));
        }
        plan.check()?;
        Ok(plan)
    }
}

/// Refuses loads that wait for durability where the server promises none.
pub(crate) fn refuse_undurable(export: &Export, request: &Request, plan: &SuitePlan) -> Result<(), Failure> {
    let has_flushes = request.trace.as_ref().is_some_and(|trace| trace.flushes);
    let waits = |cell: &&Cell| has_flushes || cell.workload.durability() != Durability::None;
    match plan.cells.iter().find(waits) {
        Some(cell) if !export.agreed().has(SEND_FLUSH) => Err(Failure::environment(format!(
            "{}: the server takes no flushes, so that nobody knows what is durable; leave {} out",
            export.identity().path.display(),
            cell.workload.name()
        ))),
        _ => Ok(()),
    }
}

/// A seed nobody chose.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hashers are seeded by the system.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos()));
    // Short enough to be typed again.
    hasher.finish() >> 32
}

/// What a plan takes on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takes {
    /// About how long, where every load is steady at once.
    duration: Duration,
    /// Where none ever is.
    duration_most: Duration,
    /// Bytes that filling alone writes; the workloads' own writes come to that.
    filled_bytes: u64,
    /// Bytes that preconditioning writes beside.
    preconditioned_bytes: u64,
}

/// What a plan takes on a device of this size.
pub(crate) fn takes(plan: &SuitePlan, device_bytes: u64) -> Takes {
    let times = plan.method.precondition.times(plan.runs());
    let preconditioned_bytes = device_bytes.saturating_mul(u64::from(PASSES)).saturating_mul(times);
    let moving = |bytes: u128| {
        let ns = bytes * 1_000_000_000 / u128::from(ASSUMED_BYTES_PER_SECOND);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    };
    let filled_bytes = plan.span_bytes * plan.runs() as u64;
    // What is filled is read back.
    let beside = moving(2 * u128::from(filled_bytes) + u128::from(preconditioned_bytes))
        + Duration::from_nanos(plan.warmup_ns + plan.measure_ns) * plan.reference_runs() as u32;
    let loads = |of: fn((u64, u64)) -> u64| {
        let of_cell = |cell: &Cell| {
            let load_ns = of(plan.method.load_ns(cell.load == Load::Closed, plan.measure_ns));
            Duration::from_nanos(plan.warmup_ns + load_ns) * plan.runs_of(cell) as u32
        };
        plan.cells.iter().map(of_cell).sum::<Duration>()
    };
    Takes {
        duration: beside + loads(|(least, _)| least),
        duration_most: beside + loads(|(_, most)| most),
        filled_bytes,
        preconditioned_bytes,
    }
}

/// The plan in one sentence, for stderr.
pub(crate) fn sentence(plan: &SuitePlan, path: &Path, device_bytes: u64) -> String {
    let takes = takes(plan, device_bytes);
    let most = if takes.duration_most > takes.duration {
        format!(" to {}", time_text(takes.duration_most))
    } else {
        String::new()
    };
    let preconditioning = match takes.preconditioned_bytes {
        0 => String::new(),
        bytes => format!(", {bytes} bytes of preconditioning"),
    };
    let trace = plan.trace.as_ref().map(|trace| format!("\n{}", tell::sentence(&trace.facts)));
    format!(
        "{}: {} blocks of {} arms on {} workloads and depths, span of {} bytes from byte {}, seed {}; about {}{most}, {} bytes \
         of filling{preconditioning}{}",
        path.display(),
        plan.repeats,
        plan.arms.len(),
        plan.cells.len(),
        plan.span_bytes,
        plan.span_offset_bytes,
        plan.seed,
        time_text(takes.duration),
        takes.filled_bytes,
        trace.unwrap_or_default(),
    )
}

/// The `plan` command.
///
/// # Errors
/// The options are wrong or the device cannot be looked at. That a run would be refused is part of the answer.
pub fn tell(options: &RunOptions) -> Result<i32, Failure> {
    let object = describe(&resume::run_options(options)?)?;
    if options.results.json {
        println!("{object}");
        return Ok(EXIT_OK);
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => println!("{name}: {text}"),
            other => println!("{name}: {other}"),
        }
    }
    Ok(EXIT_OK)
}

fn describe(options: &RunOptions) -> Result<Value, Failure> {
    let request = Request::parse(options)?;
    let path = options.device();
    let address = Address::of(path)?;
    let (size_bytes, mut object) = match (Identity::of(path), options.create) {
        _ if address.is_some() => existing_export(address.as_ref(), options.connections)?,
        (Ok(identity), _) => (identity.size_bytes, existing(path, &identity)?),
        (Err(error), Some(size_bytes)) if *error.reason() == Reason::NotFound => {
            (size_bytes, json!({ "exists": false, "created_bytes": size_bytes }))
        }
        (Err(error), _) => return Err(error.into()),
    };
    let plan = request.on(path, size_bytes, SECTOR_BYTES)?;
    let cells: Vec<String> = plan.cells.iter().map(Cell::name).collect();
    let takes = takes(&plan, size_bytes);
    let extra = json!({
        "device": path.display().to_string(),
        "size_bytes": size_bytes,
        "arms": plan.arms.iter().map(|arm| arm.name()).collect::<Vec<_>>(),
        "workloads": cells,
        "repeats": plan.repeats,
        "span_offset_bytes": plan.span_offset_bytes,
        "span_bytes": plan.span_bytes,
        "preconditioning": plan.method.preconditioning(),
        "steady_state": plan.method.steady_state(plan.measure_ns),
        "filled_bytes": takes.filled_bytes,
        "preconditioned_bytes": takes.preconditioned_bytes,
        "duration_s": takes.duration.as_secs(),
        "duration_most_s": takes.duration_most.as_secs(),
        "seed": plan.seed,
        "trace": plan.trace.as_ref().map(|trace| &trace.facts),
    });
    if let (Some(object), Value::Object(extra)) = (object.as_object_mut(), extra) {
        object.extend(extra);
    }
    Ok(object)
}

fn existing(path: &Path, identity: &Identity) -> Result<Value, Failure> {
    let in_use = safety::refuse_if_in_use(path).err().map(|error| error.to_string());
    let runtime = bench::runtime(1)?;
    let device = bench::open_read_only(&runtime, path)?;
    let signature = runtime.block_on(Volume::foreign_signature(&device))?;
    Ok(json!({
        "exists": true,
        "serial": identity.serial,
        "destroy": identity.destroy_argument(),
        "destroy_argument": format!("--destroy {}", shell_word(&identity.destroy_argument())),
        "in_use": in_use,
        "signature": signature.map(|signature| format!("{} at byte {}", signature.name, signature.at)),
    }))
}

/// What a server says of an export.
fn existing_export(address: Option<&Address>, connections: u32) -> Result<(u64, Value), Failure> {
    let Some(address) = address else { unreachable!("asked for addresses alone") };
    let runtime = bench::runtime(1)?;
    let options = ConnectOptions { connections, read_only: true, ..ConnectOptions::default() };
    let export = runtime.block_on(Export::connect(runtime.context(), address, options))?;
    let signature = runtime.block_on(export.foreign_signature(runtime.context()))?;
    let (identity, agreed) = (export.identity(), export.agreed());
    let object = json!({
        "exists": true,
        "serial": identity.serial,
        "destroy": identity.destroy_argument(),
        "destroy_argument": format!("--destroy {}", shell_word(&identity.destroy_argument())),
        "read_only": agreed.has(READ_ONLY),
        "several_connections": agreed.has(CAN_MULTI_CONN),
        "minimum_bytes": agreed.blocks.minimum_bytes,
        "maximum_bytes": agreed.blocks.maximum_bytes,
        "io_path": export.io_path(),
        "signature": signature.map(|signature| format!("{} at byte {}", signature.name, signature.at)),
    });
    runtime.block_on(export.close())?;
    Ok((identity.size_bytes, object))
}

/// The text as one word of a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.:/".contains(character);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
