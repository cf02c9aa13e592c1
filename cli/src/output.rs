//! What a command prints: its result on standard output, everything else on standard error.

use std::io::Write;

use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};

/// A command's result, for programs and for people.
#[derive(Debug)]
pub struct Done {
    /// With `--json`; nothing is printed for null.
    pub object: Value,
    /// Without; may be empty.
    pub text: String,
    /// A remark for people, on standard error; may be empty.
    pub remark: String,
}

/// Prints a result.
///
/// # Errors
/// Where standard output cannot be written.
pub fn print(done: &Done, json: bool) -> Outcome<()> {
    if !done.remark.is_empty() && !json {
        eprintln!("icecore: {}", done.remark);
    }
    let text = match (json, done.object.is_null()) {
        (true, true) => String::new(),
        (true, false) => format!("{}\n", done.object),
        (false, _) => done.text.clone(),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::of_output)
}

/// Tells of a failure: the text on standard error, and with `--json` an object on standard output.
pub fn report(failure: &Failure, json: bool) {
    eprintln!("icecore: {failure}");
    if json {
        print_error(&failure.kind(), &failure.to_string());
    }
}

/// Prints the object that stands for a failure.
pub fn print_error(kind: &str, reason: &str) {
    let object = json!({ "error": { "kind": kind, "reason": reason } });
    // A failure to tell of a failure has nobody to be told to; the exit code still says it.
    let _reader_gone = writeln!(std::io::stdout().lock(), "{object}");
}
