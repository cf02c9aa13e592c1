//! The `log` backend: every write once, in the order of arrival, found by the versioned index.
//!
//! A write is an entry of the record log and its payload there is the block's home; the index says where the
//! current and the wanted past versions of each block lie. Segments whose blocks have died are freed; those with
//! few live ones are emptied by moving these together.
//!
//! Here the parts of the pool are put together: `open` recovers, `write` and `read` are the data path,
//! `image` opens the past, `maintain` keeps checkpoints, leases, runs and free segments in order, `empty` moves blocks.
//!
//! With a linear volume behind it (`apply`, `home`), the log is where writes become durable and the past is kept, and
//! current blocks are brought to their place in the volume; then nothing is emptied, segments of the log come free
//! in the order in which it wrote them.

mod alone;
mod apply;
mod branch;
mod bringing;
mod empty;
mod fold;
mod grow;
mod home;
mod image;
mod lock;
mod maintain;
mod moving;
mod objects;
mod open;
mod read;
mod restore;
mod rollback;
mod save;
mod snapshot;
mod space;
mod throttle;
mod volumes;
mod write;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub use apply::{ApplyMode, ApplyOptions, ApplyStatus};
pub use grow::grow;
pub(crate) use home::{Apart, HomeDevice};
pub use image::{Image, ImageOptions, VersionInfo};
pub use lock::LockTime;
pub(crate) use open::Access;
pub use open::{INDEX_BYTES, OpenOptions, RecoveryReport, format, leases};
pub(super) use read::join_parts;
pub(super) use save::{Goes, Piece};
pub use snapshot::SnapshotInfo;
pub use space::{SnapshotSpace, WhenFull};
pub use throttle::THROTTLE_NS_MAX;
pub use volumes::FurtherVolume;

pub use crate::pool::snapshots::{SnapshotGroup, SnapshotLock};

use super::Backend;
use crate::device::Device;
use crate::object;
use crate::pool::contents::Contents;
use crate::pool::log::Geometry;
use crate::pool::log::append::Log;
use crate::runtime::{FailureFlag, RangeLock, Signal, Task};
use apply::Linear;

/// An open log store. Its background tasks end when it is dropped.
#[derive(Debug)]
pub(crate) struct LogStore {
    core: Rc<Core>,
    /// The writable snapshot that this is the store of; 0 for the volume itself.
    branch: u32,
    /// What a writable snapshot began as.
    parent: Option<Rc<Image>>,
    tasks: Vec<Task<()>>,
}

/// What the data path and the background tasks share.
#[derive(Debug)]
struct Core {
    device: Device,
    /// The recipe that it is part of.
    backend: Backend,
    geometry: Geometry,
    contents: Rc<Contents>,
    /// `None` where it was opened for reading.
    log: Option<Rc<Log>>,
    /// The linear volume that the log is applied to, where there is one.
    linear: Option<Linear>,
    /// The device whose segments are numbered behind those of the pool: of a linear volume, or of linear objects, that
    /// do not lie there. The base knows its own.
    home: Option<HomeDevice>,
    /// Of the linear objects that lie on a device which is lost: its identity.
    lost_objects: Option<String>,
    /// Where every block has its place, in a volume that has a base.
    base: Option<object::linear::Linear>,
    /// Whether the base of overlays is one image, where it lies apart.
    base_mark: Option<alone::BaseMark>,
    /// What snapshots may take.
    space: space::Space,
    /// Their linear objects.
    placing: objects::Placing,
    /// The writable snapshots that somebody has open.
    open_branches: branch::OpenBranches,
    /// How writers are slowed down before that is full.
    throttle: throttle::Throttle,
    failed: FailureFlag,
    /// When the log is full and no room can be made: writes are refused, rather than wait.
    refuse_when_full: bool,
    /// Bytes of log between checkpoints.
    checkpoint_bytes: u64,
    next_run: Cell<u64>,
    /// Checkpoints asked for, begun and ended.
    checkpoints: Cell<Checkpoints>,
    checkpoint_ended: Signal,
    /// The moment whose image the base holds, until the index says so.
    fold_wanted: Cell<Option<u64>>,
    /// What is moved home when it is read, where that was asked for.
    moving: Option<moving::Moving>,
    /// Held while blocks of overlays are brought to the base, and while the volume goes back.
    base_turn: RangeLock,
    /// A return to an earlier moment has been settled, or stands still; or what was folded is in the base.
    settled: Signal,
    /// The sequence from which on segments to empty are looked for again.
    look_again: Cell<u64>,
    /// Free pages of the index when it could not be written anew for want of room. Until there are more, or something has
    /// been given up, only what surely fits is merged.
    index_room: Cell<Option<u32>>,
    /// Segments that emptying goes on to fill.
    targets: RefCell<empty::Targets>,
    /// Held while runs are added and while names in all of them change.
    run_turn: RangeLock,
    report: RecoveryReport,
    /// The last sequence, where it was opened for reading.
    sequence: u64,
}

/// Counts checkpoints. One is due while somebody has asked for more than have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoints {
    wanted: u64,
    begun: u64,
    ended: u64,
}

/// What a log store is doing.
#[derive(Clone, Debug)]
pub struct LogStatus {
    /// Of the last entry that has completed.
    pub sequence: u64,
    /// Everything up to this one is durable.
    pub durable_through: u64,
    /// The earliest moment that can be opened.
    pub earliest_moment: u64,
    /// Segments of the data area, and those that nothing uses.
    pub segments: u32,
    /// Segments that nothing uses.
    pub free_segments: u32,
    /// Blocks that live, the past included.
    pub live_blocks: u64,
    /// Bytes of superseded blocks that are kept.
    pub past_bytes: u64,
    /// What snapshots take, where blocks have a place of their own.
    pub snapshot_space: Option<SnapshotSpace>,
    /// Blocks of overlays that were moved home because they were read, since it was opened.
    pub moved_home_blocks: u64,
    /// By how much writes have been slowed down since it was opened, all together, for want of room for snapshots.
    pub slowed_ns: u64,
    /// Runs of the index.
    pub runs: usize,
    /// Bytes of the index in memory.
    pub index_memory_bytes: usize,
    /// Batches and entries written since it was opened.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// How far it is applied, where there is a linear volume.
    pub apply: Option<ApplyStatus>,
    /// Bytes of these batches, headers included.
    pub batch_bytes: u64,
    /// Batches under way when each of them began, itself included, added up: over `batches` it is their mean.
    pub batches_in_flight: u64,
    /// Bytes of log behind the last durable checkpoint: what opening would have to read now.
    pub backlog_bytes: u64,
    /// What opening found and did.
    pub recovery: RecoveryReport,
}

impl Core {
    fn sequence(&self) -> u64 {
        self.log.as_ref().map_or(self.sequence, |log| log.sequence())
    }

    fn take_run_number(&self) -> u64 {
        let number = self.next_run.get();
        self.next_run.set(number + 1);
        number
    }
}

impl LogStore {
    /// What it is doing.
    pub fn status(&self) -> LogStatus {
        let core = &self.core;
        let figures = core.log.as_ref().map(|log| log.figures()).unwrap_or_default();
        let state = core.contents.journal().state();
        LogStatus {
            sequence: core.sequence(),
            durable_through: core.log.as_ref().map_or(core.sequence, |log| log.durable_through()),
            earliest_moment: core.contents.window(),
            segments: state.segments(),
            free_segments: state.free_segments(),
            live_blocks: state.live_blocks(),
            past_bytes: core.contents.past_bytes(),
            snapshot_space: core.base.as_ref().map(|_| core.snapshot_space()),
            moved_home_blocks: core.moving.as_ref().map_or(0, moving::Moving::moved_blocks),
            slowed_ns: core.throttle.slowed_ns(),
            runs: core.contents.index().runs().len(),
            index_memory_bytes: core.contents.index().memory_bytes(),
            batches: figures.batches,
            entries: figures.entries,
            apply: self.apply_status(),
            batch_bytes: figures.bytes,
            batches_in_flight: figures.in_flight,
            backlog_bytes: core.log.as_ref().map_or(core.report.bytes, |log| log.backlog_bytes()),
            recovery: core.report,
        }
    }

    /// Which recipe it is.
    pub fn backend(&self) -> Backend {
        self.core.backend
    }

    /// Of the last entry that has completed.
    pub fn sequence(&self) -> u64 {
        self.core.sequence()
    }
}
