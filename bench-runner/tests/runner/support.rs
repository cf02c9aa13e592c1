//! What the tests of the runner ask of the system.

use icecore::runtime::{Runtime, RuntimeOptions};

/// Whether the system has no io_uring, without which nothing is measured; says so.
pub fn lacks_io_uring() -> bool {
    match Runtime::new(RuntimeOptions::default()) {
        Ok(_runtime) => false,
        Err(error) => {
            println!("skipped: {error}");
            true
        }
    }
}
