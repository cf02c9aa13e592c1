//! The `direct` backend: every block in its place on the device, no log.
//!
//! It is a linear object and nothing else: a write goes to the volume's data area at once; a flush is the device's
//! flush, so the durability class is local and nothing needs recovery. It keeps no past: it is the bare device behind
//! a volume's face, and the measure of what that face costs.
//!
//! With a *volatile log*, writes complete in memory, within a bound, and lie there until a flush forces them to
//! their places; the log by itself makes nothing durable. That is the device's volatile cache, in front of the data
//! alone.

use crate::device::Device;
use crate::format::superblock::{Superblock, VOLUME_VOLATILE_LOG};
use crate::object::linear::Linear;

/// `volatile_log_bytes`: that a volatile log keeps in memory at most, where the volume has one.
pub(crate) fn open(device: &Device, superblock: &Superblock, volatile_log_bytes: usize) -> Linear {
    let is_volatile = superblock.volume_flags.get() & VOLUME_VOLATILE_LOG != 0;
    let device = device.clone();
    let device = if is_volatile { device.with_volatile_cache_of(volatile_log_bytes) } else { device };
    Linear::new(&device, superblock.data)
}
