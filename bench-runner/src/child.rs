//! Programs that the runner starts and waits for.
//!
//! Invariant: no child is left behind by a signal or by one that does not end; a child never stands still because nobody
//! reads what it writes.

use std::io;
use std::process::{Command, Output, Stdio};
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

#[allow(unsafe_code, reason = "std can end a child only through the value that waits for it")]
fn end_process(process: u32) {
    // SAFETY: kill takes numbers. The child is not reaped before its output has ended, so that the number is still
    // its own; asked again afterwards, a zombie takes no harm.
    unsafe { libc::kill(process as libc::pid_t, libc::SIGTERM) };
}
