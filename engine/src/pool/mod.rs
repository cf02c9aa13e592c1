//! The pool: what lies where on a device, and the superblock that says so.
//!
//! One device holds: the superblock twice, two places for alternating roots, room reserved for metadata, room
//! reserved for the checksums of a linear volume, and the volume's data. Backends that keep a log or an index
//! put them into the reserved room, so that a `direct` volume can become one of them later.

pub mod branches;
pub mod contents;
mod copies;
pub mod gathered;
pub mod history;
pub mod homecoming;
pub mod index;
pub mod journal;
pub mod layout;
pub mod log;
pub mod metadata;
pub mod objects;
pub mod snapshots;
pub mod superblock;
