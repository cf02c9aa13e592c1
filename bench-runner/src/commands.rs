//! From the command line to an exit code.
//!
//! stdout is for results: with `--json` one object and nothing else, without it ends with `report: PATH`. Everything
//! for people (progress, tables, errors) goes to stderr. Nothing ever asks.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Parser;
use serde_json::json;

use crate::bench::{Bench, SECTOR_BYTES};
use crate::cli::{Cli, Command, ResultOptions, RunOptions};
use crate::failure::{EXIT_ENVIRONMENT, EXIT_OK, EXIT_USAGE, Failure};
use crate::nbd::Address;
use crate::results::{MANIFEST_FILE, Manifest, RunFolder, rfc3339};
use crate::session::Session;
use crate::suite::Load;
use crate::{
    claims, compare, doctor, export, interrupt, plan, quick, recovery, report, resume, session, snapshots,
    summary, trace_info, workloads,
};

/// Runs the program on its arguments; gives its exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    interrupt::listen();
    let json = cli.command.json();
    match dispatch(cli.command) {
        Ok(exit_code) => exit_code,
        Err(failure) => {
            tell_failure(&failure, json);
            failure.exit_code
        }
    }
}

fn usage(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        // Help or version, asked for.
        print!("{error}");
        return EXIT_OK;
    }
    eprint!("{error}");
    if std::env::args().any(|argument| argument == "--json") {
        println!("{}", json!({ "error": { "exit_code": EXIT_USAGE, "message": error.to_string() } }));
    }
    EXIT_USAGE
}

fn tell_failure(failure: &Failure, json: bool) {
    eprintln!("bench-runner: {failure}");
    if json {
        println!("{}", json!({ "error": { "exit_code": failure.exit_code, "message": failure.message } }));
    }
}

fn dispatch(command: Command) -> Result<i32, Failure> {
    match command {
        Command::Quick(options) => {
            let options = resume::quick_options(&options)?;
            let out = out_folder(options.resume.as_ref(), &options.results)?;
            tell_end(quick::run(&options, &quick::WHOLE, &out), "quick", &out, options.results.json)
        }
        Command::Run(options) => run(&resume::run_options(&options)?),
        Command::Replay(options) => run(&resume::run_options(&options.into_run())?),
        Command::Plan(options) => plan::tell(&options),
        Command::Workloads { json } => {
            workloads::list(json);
            Ok(EXIT_OK)
        }
        Command::Recovery(options) => {
            let options = resume::recovery_options(&options)?;
            let out = out_folder(options.resume.as_ref(), &options.results)?;
            let program = recovery::this_program()?;
            let ended = recovery::run(&options, &program, &out, &mut |_, _| {});
            tell_end(ended, "recovery", &out, options.results.json)
        }
        Command::Snapshots(options) => {
            let options = resume::snapshot_options(&options)?;
            let out = out_folder(options.resume.as_ref(), &options.results)?;
            let ended = snapshots::run(&options, &out, &mut |_, _| {});
            tell_end(ended, "snapshots", &out, options.results.json)
        }
        Command::Peers(options) => {
            let options = resume::peer_options(&options)?;
            let out = out_folder(options.resume.as_ref(), &options.results)?;
            let ended = snapshots::peers::run(&options, &out, &mut |_, _| {});
            let (ended, table) = ended.map_or_else(
                |failure| (Err(failure), String::new()),
                |(session, table)| (Ok(session), format!("\n{table}")),
            );
            let exit_code = tell_end(ended, "peers", &out, options.results.json);
            eprint!("{table}");
            exit_code
        }
        Command::RecoveryVictim(options) => recovery::be_victim(&options),
        Command::Claims(options) => claims::tell(&options),
        Command::Compare(options) => compare::tell(&options),
        Command::Report { folder } => {
            println!("report: {}", report::write(&folder)?.display());
            Ok(EXIT_OK)
        }
        Command::Export(options) => export::tell(&options),
        Command::Doctor(options) => doctor::tell(&options),
        Command::TraceInfo(options) => trace_info::tell(&options),
    }
}

fn run(options: &RunOptions) -> Result<i32, Failure> {
    let request = plan::Request::parse(options)?;
    let out = out_folder(options.resume.as_ref(), &options.results)?;
    let bench = claim(options, &request)?;
    let logical_block_bytes = bench.geometry().logical_block_bytes;
    let plan = request.on(options.device(), bench.identity().size_bytes, logical_block_bytes)?;
    if let Some(export) = bench.export() {
        plan::refuse_undurable(export, &request, &plan)?;
    }
    eprintln!("{}", plan::sentence(&plan, bench.path(), bench.identity().size_bytes));
    let ended = match &options.resume {
        None => session::run(&bench, &plan, &out, Vec::new(), &mut |_, _| {}),
        Some(_) => session::resume(&bench, &plan, &out, &mut |_, _| {}),
    };
    tell_end(ended, "run", &out, options.results.json)
}

fn claim(options: &RunOptions, request: &plan::Request) -> Result<Bench, Failure> {
    let queue_depth_max = request.queue_depth_max();
    let device = options.device();
    if let Some(address) = Address::of(device)? {
        let destroy = options.destroy.as_deref();
        return Bench::claim_export(&address, destroy, queue_depth_max, options.force, options.connections);
    }
    match options.create {
        Some(size_bytes) if !device.exists() => {
            // Refused before the file is made.
            request.on(device, size_bytes, SECTOR_BYTES)?;
            Bench::create(device, size_bytes, queue_depth_max)
        }
        _ => Bench::claim(device, options.destroy.as_deref(), queue_depth_max, options.force),
    }
}

/// The folder of the results, which must not hold anything unless a run in it is gone on with.
fn out_folder(resumed: Option<&PathBuf>, given: &ResultOptions) -> Result<PathBuf, Failure> {
    if let Some(folder) = resumed {
        return Ok(folder.clone());
    }
    let out = given.out.clone().unwrap_or_else(|| {
        // A colon is awkward in paths.
        let now = rfc3339(SystemTime::now()).replace(':', "-");
        Path::new("results/local").join(now)
    });
    RunFolder::check_empty(&out)?;
    Ok(out)
}

/// Tells how a run ended, with how it can be gone on with if it was cut short; gives the exit code.
fn tell_end(ended: Result<Session, Failure>, command: &str, out: &Path, json: bool) -> Result<i32, Failure> {
    let folder = out.display();
    let remedy = || {
        let device = Manifest::load(&out.join(MANIFEST_FILE)).ok()?.device;
        // A scratch file is our own, and a simulated disk is none.
        let destroy = if command == "quick" || device.serial.is_empty() {
            String::new()
        } else {
            let own = format!("{}:{}", device.serial, device.size_bytes);
            format!(" --destroy {}", plan::shell_word(&own))
        };
        Some(format!("`bench-runner {command} --resume {folder}{destroy}` goes on with it"))
    };
    match ended {
        Ok(session) => {
            let exit_code = tell(&session, json);
            if let (Some(_), Some(remedy)) = (&session.stopped, remedy()) {
                eprintln!("bench-runner: {remedy}");
            }
            Ok(exit_code)
        }
        // What is written is in the folder: only a folder that was begun has a manifest.
        Err(failure) if failure.exit_code == EXIT_ENVIRONMENT && out.join(MANIFEST_FILE).exists() => {
            let remedy = remedy().map_or(String::new(), |remedy| format!("; when that is mended, {remedy}"));
            let message = format!(
                "{}; what was measured before is kept, and shown by `bench-runner report {folder}`{remedy}",
                failure.message
            );
            Err(Failure { message, ..failure })
        }
        Err(failure) => Err(failure),
    }
}

/// Tells how a run ended and gives the exit code.
fn tell(session: &Session, json: bool) -> i32 {
    if session
        .data
        .runs
        .iter()
        .any(|run| Load::is_closed_phase(&run.phase) || Load::is_open_phase(&run.phase))
    {
        eprint!("\n{}", summary::table(&session.data));
    }
    for sentence in report::headlines(&session.data) {
        eprintln!("{sentence}");
    }
    for reason in &session.invalid {
        eprintln!("bench-runner: a run does not count: {reason}");
    }
    if let Some(failure) = &session.stopped {
        eprintln!("bench-runner: stopped early: {failure}; what was measured by then is in the report");
    }
    if json {
        println!("{}", summary::object(session));
    } else {
        println!("report: {}", session.report.display());
    }
    session.exit_code()
}
