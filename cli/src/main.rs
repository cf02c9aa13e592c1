//! `icecore`, the operator's program. Everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    icecore_cli::main()
}
