//! The `overlay` backend: every block in its place until a snapshot sees it; changes go to the log from then on
//!
//!
//! The snapshots divide the log into overlays, the oldest above the base. A write to a block that a moment sees goes to
//! the newest one: no read, no copy. A block that nobody sees is written in its place. Which overlay has a block, and
//! which of them a moment sees, is one look-up in the index, however many there are.
//!
//! Place: over [`LogStore`], which holds the overlays, the names and the index; the base is a linear object.
//! Invariants: those of `log/save.rs`; the base is not written where a moment that is kept sees it.

mod read;
mod write;

use crate::store::log::LogStore;

/// An open volume with overlays.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// The overlays and the moments that see them.
    pub layers: LogStore,
}
