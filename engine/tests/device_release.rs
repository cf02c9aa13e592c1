//! a device that was closed is free for others at once, also while its runtime rests.
//!
//! Alone in its process: a child that another test starts holds this process's descriptors until it becomes
//! another program.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

#[allow(dead_code, reason = "it is here for its places alone")]
#[path = "system/support.rs"]
mod support;

use std::os::unix::fs::OpenOptionsExt;

use icecore::device::{Access, Caching, Device};
use icecore::store::Backend;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

use support::{Place, any_runtime, open};

/// Takes the place as another program would, without entering the runtime that had it.
fn take(place: &Place) -> std::io::Result<()> {
    let block = place.path.starts_with("/dev");
    let flags = if block { libc::O_EXCL } else { 0 };
    let file = std::fs::File::options().read(true).custom_flags(flags).open(&place.path)?;
    if block { Ok(()) } else { Ok(file.try_lock()?) }
}

#[test]
fn what_was_closed_is_free_for_others_at_once() {
    let runtime = any_runtime();
    for place in Place::all(16 << 20) {
        let device = open(&runtime, &place.path).unwrap();
        runtime.block_on(Volume::create(&device, CreateOptions::new(Backend::Direct))).unwrap();
        drop(device);
        for round in 0..200 {
            let device = Device::open(runtime.context(), &place.path, Access::Exclusive, Caching::Direct);
            let volume = runtime.block_on(Volume::open(device.unwrap(), OpenMode::ReadWrite)).unwrap();
            runtime.block_on(async {
                let written = volume.write_bytes(ByteOffset(round * 4096), &[7; 4096], Durability::OnFlush);
                written.await.unwrap();
                volume.flush().await.unwrap();
                assert!(take(&place).is_err(), "{}", place.name);
                volume.close().await.unwrap();
            });
            drop(volume);
            let taken = take(&place);
            assert!(taken.is_ok(), "{}, round {round}: {taken:?}", place.name);
        }
    }
}
