//! Stopping on SIGINT and SIGTERM: the first asks, the second ends.
//!
//! The first signal raises a flag that every arm looks at once a batch, so that the run ends in order with what
//! it has. The second ends the process at once; the scratch file, if there is one, is removed even then.
#![allow(unsafe_code, reason = "signal handlers have no safe form in std")]

use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::failure::EXIT_INTERRUPTED;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The scratch file's path, or null.
static SCRATCH: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// Whether a signal has asked the program to stop.
#[inline]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on SIGINT and SIGTERM are heard, and a file that may not grow is an error to be told rather than the end.
pub fn listen() {
    // SAFETY: ignoring a signal runs nothing.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = on_signal as extern "C" fn(c_int);
        // SAFETY: the handler does nothing but atomic loads and stores, unlink and _exit, all of which are
        // allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// The file to remove should the process be ended at once; `None` when it is gone.
pub fn set_scratch(path: Option<&Path>) {
    let path = path.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
    let pointer = path.map_or(ptr::null_mut(), CString::into_raw);
    // The former path is not freed: a handler may be reading it, and there are as many as there are runs.
    SCRATCH.store(pointer, Ordering::SeqCst);
}

extern "C" fn on_signal(_signal: c_int) {
    if !REQUESTED.swap(true, Ordering::SeqCst) {
        return;
    }
    let scratch = SCRATCH.load(Ordering::SeqCst);
    if !scratch.is_null() {
        // SAFETY: the pointer is to a C string that is never freed.
        unsafe { libc::unlink(scratch) };
    }
    // SAFETY: _exit may be called at any time.
    unsafe { libc::_exit(EXIT_INTERRUPTED) };
}
