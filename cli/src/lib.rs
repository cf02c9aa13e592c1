//! The operator's program: makes, shows, reads and writes volumes.
//!
//! Contract: nothing ever prompts; standard output carries a command's result alone (with `--json` one object);
//! all else goes to standard error; the exit code is one of [`exit::Code`]. A command that refuses has written
//! nothing.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod commands;
pub mod exit;
mod failure;
mod holder;
mod interrupt;
mod output;
mod session;
pub mod size;

use std::process::ExitCode;

use clap::Parser;
use commands::Command;
use exit::Code;
use failure::Failure;
use session::IoOptions;

/// Makes, shows, reads and writes icecore volumes.
///
/// Exit codes: 0 ok, 1 damage found, 2 invalid run, 3 refused for safety, 4 I/O or environment, 64 usage,
/// 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "icecore", version, max_term_width = 110)]
struct Arguments {
    #[command(flatten)]
    io: IoOptions,
    #[command(subcommand)]
    command: Command,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error).into(),
    };
    if let Err(error) = interrupt::listen() {
        eprintln!("icecore: cannot listen for signals: {error}");
        return Code::Environment.into();
    }
    let json = arguments.command.wants_json();
    let ended = arguments.command.run(arguments.io).and_then(|done| output::print(&done, json));
    match ended {
        Ok(()) => Code::Ok.into(),
        Err(Failure::ReaderGone) => Code::Ok.into(),
        Err(Failure::Found(done, code)) => match output::print(&done, json) {
            Ok(()) | Err(Failure::ReaderGone) => code.into(),
            Err(failure) => failure.code().into(),
        },
        Err(failure) => {
            output::report(&failure, json);
            failure.code().into()
        }
    }
}

/// Help and version are what was asked for; anything else is a wrong call.
fn usage(error: &clap::Error) -> Code {
    // Where nobody reads the text, nobody misses it.
    let _reader_gone = error.print();
    if !error.use_stderr() {
        return Code::Ok;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        output::print_error("Usage", text.lines().next().unwrap_or_default());
    }
    Code::Usage
}
