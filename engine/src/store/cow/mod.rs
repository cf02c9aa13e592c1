//! The `cow` backend: every block in its place; what a snapshot sees is copied to the log before it is overwritten
//!
//!
//! The current image is the base, and a read of it is one device read. The first write to a block after a snapshot was
//! taken reads the old content, makes it durable in the log with the entry that finds it, and then overwrites the base;
//! later ones overwrite it at once. However many snapshots see a block, it is saved once: its copy has a birth and a
//! death, as any version, and every moment between sees it. So deleting a snapshot moves no data, whichever it is, and
//! its copies come free when no other moment sees them.
//!
//! Place: over [`LogStore`], which keeps what was saved, the names and the index; the base is a linear object.
//! Invariants: those of `log/save.rs`.

mod read;
mod restore;
mod write;

use std::cell::RefCell;
use std::rc::Rc;

use crate::runtime::RangeLock;
use crate::store::log::{Image, LogStore};

/// An open volume that copies on write.
#[derive(Debug)]
pub(crate) struct Cow {
    /// What has been saved, and the moments that see it.
    pub past: LogStore,
    /// The image that the volume is being made: read in place of the base until that holds it.
    shown: RefCell<Option<Rc<Image>>>,
    /// Held while it is copied.
    turn: RangeLock,
}
