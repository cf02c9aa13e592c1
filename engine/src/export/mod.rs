//! Ways in which other programs reach an open volume.
//!
//! What stands here runs on threads of the embedding program, beside the runtime, and uses a volume through its
//! handle like any other thread.

pub mod control;
