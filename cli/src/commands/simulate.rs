//! `icecore simulate`: seeds of the simulator, in parallel, with a coverage table.
//!
//! Every seed is at least 1,000 operations, five power cuts and five faults on the engine's own code in virtual
//! time, on each backend in turn. A failing seed is shrunk to the steps it needs; the last line of the output is then one JSON object
//! with the seed, the commit and the command that repeats it.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use icecore::sim::{self, Coverage, Report, Script, shrink};
use icecore::store::Backend;
use serde_json::{Map, Value, json};

use crate::exit::Code;
use crate::failure::{Failure, Outcome};
use crate::output::Done;

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Which seeds to run.
#[derive(Debug, Args)]
#[group(required = true, multiple = false, id = "which")]
struct Which {
    /// One seed
    #[arg(long)]
    seed: Option<u64>,
    /// A range of seeds, `A..B` without B
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
}

/// Arguments of `icecore simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    #[command(flatten)]
    which: Which,
    /// Play it on this backend only
    #[arg(long, value_parser = parse_backend)]
    backend: Option<Backend>,
    /// Seeds that run at the same time; as many as there are processors if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no further seed after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// With --seed: play only these steps of its script, as a shrunken failure names them
    #[arg(long, value_delimiter = ',', requires = "seed")]
    steps: Option<Vec<usize>>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn parse_backend(text: &str) -> Result<Backend, String> {
    Backend::from_name(text).map_err(|error| error.to_string())
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parse = |part: &str| part.trim().parse::<u64>().map_err(|error| format!("{part:?}: {error}"));
    let (from, to) = text.split_once("..").ok_or("a range is written A..B")?;
    let (from, to) = (parse(from)?, parse(to)?);
    if from < to { Ok((from, to)) } else { Err(format!("{from} is not below {to}")) }
}

/// A run that failed.
struct Failed {
    seed: u64,
    backend: Backend,
    what: String,
}

/// What a campaign found.
#[derive(Default)]
struct Campaign {
    seeds: u64,
    coverage: Coverage,
    failed: Option<Failed>,
    /// Of the last seed, each backend's.
    reports: Vec<(Backend, Report)>,
}

impl Simulate {
    /// Runs the seeds.
    ///
    /// # Errors
    /// The first failing seed, with the JSON object that names it.
    pub fn run(self) -> Outcome<Done> {
        // The engine's panics are failures of a seed and are told as such.
        std::panic::set_hook(Box::new(|_| {}));
        let (from, to) = match (self.which.seed, self.which.seeds) {
            (Some(seed), _) => (seed, seed.saturating_add(1)),
            (None, Some(range)) => range,
            (None, None) => unreachable!("clap asks for one of them"),
        };
        let campaign = run_seeds(&self, from, to);
        let failure = campaign.failed.as_ref().map(|failed| describe(&self, failed));
        let done = result(&self, &campaign, failure.as_ref());
        match failure {
            None => Ok(done),
            Some(_) => Err(Failure::Found(done, Code::Found)),
        }
    }
}

fn script_of(simulate: &Simulate, seed: u64, backend: Backend) -> Script {
    let script = Script::of_backend(seed, backend);
    match &simulate.steps {
        Some(steps) => script.only(steps),
        None => script,
    }
}

fn run_seeds(simulate: &Simulate, from: u64, to: u64) -> Campaign {
    let jobs = simulate.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let jobs = jobs.clamp(1, (to - from).min(1024) as usize);
    let deadline = simulate.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let next = AtomicU64::new(from);
    let ended = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let backends = Backend::ALL.into_iter().filter(|one| simulate.backend.is_none_or(|only| only == *one));
    let campaign = Mutex::new(Campaign::default());
    let workers_left = AtomicU64::new(jobs as u64);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                    if seed >= to || late || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let play = |backend| (backend, sim::run(&script_of(simulate, seed, backend)));
                    let reports: Vec<(Backend, Report)> = backends.clone().map(play).collect();
                    ended.fetch_add(1, Ordering::Relaxed);
                    let mut campaign = campaign.lock().unwrap_or_else(PoisonError::into_inner);
                    campaign.seeds += 1;
                    for (backend, report) in &reports {
                        campaign.coverage.merge(&report.coverage);
                        let Some(what) = report.failure.clone() else { continue };
                        stop.store(true, Ordering::Relaxed);
                        if campaign.failed.as_ref().is_none_or(|other| seed < other.seed) {
                            campaign.failed = Some(Failed { seed, backend: *backend, what });
                        }
                    }
                    campaign.reports = reports;
                }
                workers_left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        if std::io::stderr().is_terminal() {
            while workers_left.load(Ordering::Relaxed) > 0 {
                eprint!("\r{} of {} seeds ", ended.load(Ordering::Relaxed), to - from);
                std::thread::sleep(PROGRESS_INTERVAL);
            }
            eprintln!();
        }
    });
    campaign.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The coverage table; of a single seed also its hash, clock and trace; a failure as the last line.
fn result(simulate: &Simulate, campaign: &Campaign, failure: Option<&Value>) -> Done {
    let coverage = campaign.coverage.table();
    let table: Map<String, Value> =
        coverage.iter().map(|(name, count)| ((*name).to_string(), (*count).into())).collect();
    let mut object = json!({ "seeds": campaign.seeds, "coverage": table, "failure": failure });
    let mut text = String::new();
    // Writing to a string does not fail.
    for (name, count) in &coverage {
        let _written = writeln!(text, "{count:>12}  {name}");
    }
    if simulate.which.seed.is_some() {
        let mut runs = Map::new();
        for (backend, report) in &campaign.reports {
            let (hash, trace) = (format!("{:016x}", report.hash), format!("{:016x}", report.trace));
            let (name, clock_ns) = (backend.name(), report.clock_ns);
            let _written = writeln!(text, "{name}: hash {hash}, clock {clock_ns} ns, trace {trace}");
            runs.insert(name.to_string(), json!({ "hash": hash, "clock_ns": clock_ns, "trace": trace }));
        }
        object["runs"] = Value::Object(runs);
    }
    let _written = match failure {
        None => writeln!(text, "{} seeds, no failure", campaign.seeds),
        Some(failure) => writeln!(text, "{failure}"),
    };
    Done { object, text, remark: String::new() }
}

/// Shrinks a failing seed, tells its steps on standard error, and names the commands that repeat it.
fn describe(simulate: &Simulate, failed: &Failed) -> serde_json::Value {
    let Failed { seed, what, .. } = failed;
    let backend = failed.backend.name();
    let command = format!("icecore simulate --seed {seed} --backend {backend}");
    let mut object =
        json!({ "seed": seed, "backend": backend, "commit": commit(), "command": command, "what": what });
    if simulate.steps.is_none() {
        eprintln!("seed {seed} fails on {backend}; shrinking");
        let script = script_of(simulate, *seed, failed.backend);
        let (kept, failure) = shrink::shrink(&script);
        for index in &kept {
            eprintln!("{index:>6}: {:?}", script.steps[*index]);
        }
        eprintln!("{failure}");
        let steps: Vec<String> = kept.iter().map(usize::to_string).collect();
        object["shrunk"] = json!(format!("{command} --steps {}", steps.join(",")));
    }
    object
}

/// The commit this program was built from, or of the checkout it runs in.
fn commit() -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => "unknown".to_string(),
    }
}
