//! Every real device keeps the contract of `device::contract`: file and loop device, 512 and 4096 bytes, through
//! io_uring and through blocking calls, and with the volatile cache in front.

// The contract is compiled with the simulator, which runs it too.
#![cfg(feature = "sim")]
use icecore::device::contract;
use icecore::runtime::IoMode;

use crate::support::{Place, open, runtime};

fn check(io_mode: IoMode, cached: bool) {
    let Some(runtime) = runtime(io_mode) else { return };
    for place in Place::all(4 << 20) {
        println!("{}, {io_mode:?}, volatile cache: {cached}", place.name);
        let mut device = open(&runtime, &place.path).unwrap();
        if cached {
            device = device.with_volatile_cache();
        }
        runtime.block_on(contract::check(&device));
        drop(device);
    }
}

#[test]
fn through_io_uring() {
    check(IoMode::Uring, false);
}

#[test]
fn through_blocking_calls() {
    check(IoMode::Blocking, false);
}

#[test]
fn with_a_volatile_cache() {
    check(IoMode::Uring, true);
    check(IoMode::Blocking, true);
}
