//! From the command line to an exit code.
//!
//! stdout is for results: with `--json` one object and nothing else, without it ends with `report: PATH`. Everything
//! for people (progress, tables, errors) goes to stderr. Nothing ever asks.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Parser;
use serde_json::json;

use crate::bench::Bench;
use crate::cli::{Cli, Command, RunOptions};
use crate::failure::{EXIT_OK, EXIT_USAGE, Failure};
use crate::nbd::Address;
use crate::results::{MEASURE, RunFolder, rfc3339};
use crate::session::Session;
use crate::suite::Load;
use crate::{
    claims, compare, doctor, export, interrupt, plan, quick, recovery, report, session, snapshots, summary,
    trace_info, workloads,
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
            let out = out_folder(options.out)?;
            Ok(tell(&quick::run(&options.scratch, &out)?, options.json))
        }
        Command::Run(options) => Ok(tell(&run(&options)?, options.json)),
        Command::Plan(options) => plan::tell(&options),
        Command::Workloads { json } => {
            workloads::list(json);
            Ok(EXIT_OK)
        }
        Command::Recovery(options) => {
            let out = out_folder(options.out.clone())?;
            let program = recovery::this_program()?;
            Ok(tell(&recovery::run(&options, &program, &out, &mut |_, _| {})?, options.json))
        }
        Command::Snapshots(options) => {
            let out = out_folder(options.out.clone())?;
            Ok(tell(&snapshots::run(&options, &out, &mut |_, _| {})?, options.json))
        }
        Command::Peers(options) => {
            let out = out_folder(options.out.clone())?;
            let (session, table) = snapshots::peers::run(&options, &out, &mut |_, _| {})?;
            let exit_code = tell(&session, options.json);
            eprint!("\n{table}");
            Ok(exit_code)
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

fn run(options: &RunOptions) -> Result<Session, Failure> {
    let request = plan::Request::parse(options)?;
    let out = out_folder(options.out.clone())?;
    let bench = claim(options, request.queue_depth_max())?;
    let plan = request.on(&options.device, bench.identity().size_bytes)?;
    if let Some(export) = bench.export() {
        plan::refuse_undurable(export, &plan)?;
    }
    eprintln!("{}", plan::sentence(&plan, bench.path()));
    session::run(&bench, &plan, &out, Vec::new(), &mut |_, _| {})
}

fn claim(options: &RunOptions, queue_depth_max: u32) -> Result<Bench, Failure> {
    if let Some(address) = Address::of(&options.device)? {
        let destroy = options.destroy.as_deref();
        return Bench::claim_export(&address, destroy, queue_depth_max, options.force, options.connections);
    }
    match options.create {
        Some(size_bytes) if !options.device.exists() => {
            // Refused before the file is made.
            plan::Request::parse(options)?.on(&options.device, size_bytes)?;
            Bench::create(&options.device, size_bytes, queue_depth_max)
        }
        _ => Bench::claim(&options.device, options.destroy.as_deref(), queue_depth_max, options.force),
    }
}

/// The folder of the results, which must not hold anything.
fn out_folder(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let out = given.unwrap_or_else(|| {
        // A colon is awkward in paths.
        let now = rfc3339(SystemTime::now()).replace(':', "-");
        Path::new("results/local").join(now)
    });
    RunFolder::check_empty(&out)?;
    Ok(out)
}

/// Tells how a run ended and gives the exit code.
fn tell(session: &Session, json: bool) -> i32 {
    if session.data.runs.iter().any(|run| run.phase == MEASURE || Load::is_open_phase(&run.phase)) {
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
