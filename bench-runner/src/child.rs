//! Programs that the runner starts and waits for.
//!
//! Invariant: no child is left behind by a signal or by one that does not end; a child never stands still because nobody
//! reads what it writes.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt;

/// How often it is asked whether a child has ended. It adds to no figure.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the program leaves. A request to stop, or the end of the time, ends it.
///
/// # Errors
/// It could not be started, or not be waited for.
pub(crate) fn output(mut command: Command, limit: Option<Duration>) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let since = Instant::now();
    let child = command.spawn()?;
    let process = child.id();
    // Reads both pipes while it waits, so that the child never stands still on a full one.
    let waiting = thread::spawn(move || child.wait_with_output());
    while !waiting.is_finished() {
        if interrupt::requested() || limit.is_some_and(|limit| since.elapsed() > limit) {
            end_process(process);
        }
        thread::sleep(POLL_INTERVAL);
    }
    waiting.join().map_err(|_panic| io::Error::other("the thread that waited for it panicked"))?
}

/// Runs a program that says what it has to say on stderr while it goes on. A request to stop is handed on once; it must end by itself then.
/// Signals of the terminal do not reach it.
///
/// # Errors
/// It could not be started, or not be waited for.
pub(crate) fn watched(mut command: Command) -> io::Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    let mut child = command.spawn()?;
    let mut is_asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::requested() && !is_asked {
            is_asked = true;
            end_process(child.id());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[allow(unsafe_code, reason = "std can end a child only through the value that waits for it")]
fn end_process(process: u32) {
    // SAFETY: kill takes numbers. The child is not reaped before its output has ended, so that the number is still
    // its own; asked again afterwards, a zombie takes no harm.
    unsafe { libc::kill(process as libc::pid_t, libc::SIGTERM) };
}
