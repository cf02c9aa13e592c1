//! Taking a device to write on it: every rule that protects somebody's data, in one place.
//!
//! Order: what it is, whether the caller named exactly it, whether anybody uses it, and then the exclusive
//! open, which is the guard that cannot be raced. Nothing is written before all of them have passed.

use std::path::Path;

use super::identity::confirm_destroy;
use super::{Access, Caching, Device, Identity, safety};
use crate::error::{Error, Reason, Result};
use crate::runtime::Context;

impl Device {
    /// Opens a device or file whose contents the caller means to lose. `destroy` is `SERIAL:BYTES` as the
    /// caller wrote it.
    ///
    /// # Errors
    /// `NotFound`, `NotABlockDevice`, `DestroyRequired`, `DestroyMismatch`, `Mounted`, `UsedAsSwap`, `Held`,
    /// `AlreadyOpen`, `NoDirectIo`, `PermissionDenied`.
    pub fn claim(context: &Context, path: &Path, destroy: Option<&str>, caching: Caching) -> Result<Self> {
        let identity = Identity::of(path)?;
        confirm_destroy(&identity, destroy)?;
        safety::refuse_if_in_use(path)?;
        let device = Self::open(context, path, Access::Exclusive, caching)?;
        // The path may have come to mean something else between the look and the open.
        if Identity::of(path)? != identity || device.geometry().size_bytes != identity.size_bytes {
            return Err(Error::new("open", Reason::DeviceGone).on(path.display().to_string()));
        }
        Ok(device)
    }
}

/// Makes a new, sparse file of `size_bytes` to hold a volume.
///
/// # Errors
/// What the system says; an existing file is never touched.
#[allow(clippy::disallowed_methods, reason = "devices are the engine's door to files")]
pub fn create_file(path: &Path, size_bytes: u64) -> Result<()> {
    let made = std::fs::File::create_new(path).and_then(|file| {
        file.set_len(size_bytes).inspect_err(|_too_large| {
            // What was made a moment ago is empty and nobody's; if it cannot go, the first error matters more.
            let _still_there = std::fs::remove_file(path);
        })
    });
    made.map_err(|error| Error::from_io("create", &error).on(path.display().to_string()))
}
