//! Making and opening a log store: metadata, runs, the log's tail, then a nonce of its own.
//!
//! Order at open: the journal is loaded, the runs are opened, the tail is taken in; nothing is written so far.
//! For writing, one commit then makes this opening's nonce and its first leases durable, with everything that
//! recovery relied on flushed before it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::alone::BaseMark;
use super::apply::Linear;
use super::branch::OpenBranches;
use super::bringing::Bringing;
use super::moving::Moving;
use super::objects::Placing;
use super::space::{Space, WhenFull};
use super::throttle::{THROTTLE_NS_MAX, Throttle};
use super::{Apart, ApplyOptions, Core, LogStore};
use crate::device::{Device, VOLATILE_CACHE_BYTES};
use crate::error::{Error, Reason, Result};
use crate::format::journal::{Applied, Change, Checkpoint, Lease, Opening};
use crate::format::superblock::{FEATURE_OBJECTS, Superblock, VOLUME_BREAKS_SNAPSHOTS, VOLUME_THIN};
use crate::object;
use crate::pool::branches::{Branch, Origin};
use crate::pool::contents::{Contents, Retention};
use crate::pool::history::History;
use crate::pool::index::Index;
use crate::pool::index::current::Version;
use crate::pool::index::run::{Pages, Run};
use crate::pool::journal::Journal;
use crate::pool::layout;
use crate::pool::log::Geometry;
use crate::pool::log::append::{Log, LogOptions};
use crate::pool::log::recover::{Recovered, Verdict, recover, secure};
use crate::pool::metadata::{ALL_ACCEPTED, Metadata};
use crate::pool::snapshots::{Keeping, Snapshot};
use crate::runtime::{FailureFlag, RangeLock, Signal};
use crate::store::Backend;

/// What opening found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Batches of the log behind the last checkpoint.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Batches of them that nothing said were durable, so that they were written again.
    pub in_doubt: u64,
    /// Whole batches of the same opening lie behind the end of the log; one between was lost.
    pub has_later: bool,
    /// The last good sequence, where the log is damaged behind it.
    pub damaged_after: Option<u64>,
    /// The last sequence that anything found says was durable. Behind a damage, at least everything from the last
    /// good sequence to this one is lost.
    pub promised_through: u64,
    /// Nanoseconds that loading the metadata took.
    pub load_ns: u64,
    /// Nanoseconds that reading the log took.
    pub replay_ns: u64,
}

/// How a log is opened, persistent or volatile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Memory for pages of the index; writes wait for a checkpoint where it is full of what only that can write down.
    ///
    /// What a volume holds beside it is bounded too: 192 bytes for each version since the last checkpoint (at most four
    /// checkpoint intervals of blocks), 144 for each superseded block that is kept, half a byte for each version in the
    /// index, 2,048 and 3 a block for each segment in use, and little else. The whole list: "Memory" in
    /// docs/ARCHITECTURE.md. Buffers have limits of their own.
    pub index_bytes: usize,
    /// How the log is applied, where there is a linear volume or the base of a `logged-cow` one.
    pub apply: ApplyOptions,
    /// When the log is full, the past cannot be given up and no space can be won: writes are refused, rather than
    /// wait until there is room.
    pub refuse_when_full: bool,
    /// With overlays: a block of one that is read is moved to the base, where no snapshot and no open image keeps an older
    /// moment.
    pub move_home_on_read: bool,
    /// Nanoseconds by which a write is slowed down at most while room for snapshots runs short, from four fifths of it on;
    /// 0: it is not.
    pub throttle_ns_max: u64,
    /// Memory for a volatile log, besides what the requests under way carry.
    pub volatile_log_bytes: usize,
    /// The device of linear objects is lost: it is left out, and everything that does not lie there can be read.
    pub without_objects: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            index_bytes: INDEX_BYTES,
            apply: ApplyOptions::default(),
            refuse_when_full: true,
            move_home_on_read: false,
            throttle_ns_max: THROTTLE_NS_MAX,
            volatile_log_bytes: VOLATILE_CACHE_BYTES,
            without_objects: false,
        }
    }
}

/// Memory for the index of a log, unless the opener says otherwise.
pub const INDEX_BYTES: usize = 256 << 20;

/// What an opener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading alone; a damaged log is served up to the damage.
    Read,
    /// Writing; a damaged log is refused.
    Write,
    /// Writing, giving up what lies behind a damage.
    WriteAcceptingLoss,
}

/// The state of a pool that holds nothing, with the segments of the volume's own device behind those of the pool.
pub(super) fn empty_state(superblock: &Superblock) -> Metadata {
    let geometry = geometry(superblock);
    let of_home = (superblock.home_bytes.get() / geometry.segment_bytes()) as u32;
    Metadata::new(geometry.segments + of_home, geometry.segment_blocks)
        .with_room_for(layout::snapshots_max(superblock))
}

pub(super) fn geometry(superblock: &Superblock) -> Geometry {
    let block_bytes = superblock.block_bytes.get();
    let segment_bytes = superblock.segment_bytes.get().max(block_bytes);
    Geometry {
        block_bytes,
        segment_blocks: segment_bytes / block_bytes,
        data_offset: superblock.data.offset.get(),
        segments: (superblock.data.bytes.get() / u64::from(segment_bytes)) as u32,
    }
}

/// Segments that a log leases at most: what it fills until appending waits for a checkpoint, and one more.
pub fn leases(checkpoint_bytes: u64, segment_bytes: u64) -> u64 {
    (2 * checkpoint_bytes.max(segment_bytes)).div_ceil(segment_bytes) + 1
}

/// Writes the metadata of an empty store.
///
/// # Errors
/// What the device says.
pub async fn format(device: &Device, superblock: &Superblock) -> Result<()> {
    let geometry = geometry(superblock);
    let mut state = empty_state(superblock);
    let first = Lease { physical: 0.into(), virtual_segment: 0.into() };
    let opening = Opening { nonce: [0; 16], first_batch: 0.into() };
    let checkpoint = Checkpoint { address: geometry.address(0, 0).into(), ..Checkpoint::default() };
    for change in [Change::Opening(opening), Change::Checkpoint(checkpoint), Change::Lease(first)] {
        assert!(state.apply(&change).is_some(), "the first changes fit an empty state");
    }
    if Backend::from_number(superblock.backend.get())? == Backend::Linear {
        state.applied = Applied { first_sequence: 1.into(), ..Applied::default() };
    }
    let places = layout::metadata_places(superblock);
    Journal::format(device, superblock.pool_id, places.journal, state).await
}

impl LogStore {
    /// Opens the store of a superblock; `failed` is raised when it takes no more writes.
    ///
    /// # Errors
    /// `MetadataDamaged`, `LogDamaged` where `access` is for writing and loss was not accepted,
    /// `UnknownVersion`, `NoRoom`, and what the device says.
    pub async fn open(
        device: &Device,
        superblock: &Superblock,
        access: Access,
        options: OpenOptions,
        apart: Apart,
        failed: FailureFlag,
    ) -> Result<Self> {
        let index_bytes = options.index_bytes;
        let clock = device.context().clone();
        let began = clock.now().0;
        let geometry = geometry(superblock);
        let places = layout::metadata_places(superblock);
        let empty = empty_state(superblock);
        let journal =
            Rc::new(Journal::load(device, superblock.pool_id, places.journal, empty, failed.clone()).await?);
        let infos = journal.state().runs.clone();
        let pages = Pages::new(device, places.index, index_bytes / 4);
        let mut runs = Vec::with_capacity(infos.len());
        for info in infos {
            runs.push(Run::open(&pages, info).await?);
        }
        let history = History::new(journal.state().rollbacks.clone());
        let backend = Backend::from_number(superblock.backend.get())?;
        let blank = if backend.has_base() { Version::IN_BASE } else { Version::NONE };
        let Apart { volume, objects, lost_objects } = apart;
        let mark = volume.as_ref().filter(|_| backend.has_base());
        let base_mark = mark.map(BaseMark::of);
        // A base apart has no segments, and nothing but its blocks lies there.
        let (base, home) = match (backend.has_base(), volume) {
            // What lies in the pool is flushed before anything is written there.
            (true, Some(base)) => {
                (Some(object::linear::Linear::new(&base.device, base.area).with_leftovers()), objects)
            }
            (true, None) => (Some(object::linear::Linear::new(device, superblock.base)), objects),
            (false, home) => (None, home),
        };
        let limit = Some(superblock.snapshot_bytes.get()).filter(|bytes| *bytes > 0);
        let breaks = superblock.volume_flags.get() & VOLUME_BREAKS_SNAPSHOTS != 0;
        let space = Space::new(
            limit.map(|bytes| bytes / u64::from(geometry.block_bytes)),
            if breaks { WhenFull::BreakSnapshots } else { WhenFull::Refuse },
        );
        let index = Index::new(pages, runs, history, index_bytes, blank);
        let volumes = |state: &Metadata| -> Vec<u32> {
            state.branches.values().filter(|one| one.is_volume()).map(|one| one.number).collect()
        };
        volumes(&journal.state()).into_iter().for_each(|volume| index.begin_volume(volume));
        let retention = Retention {
            bytes: superblock.retention_bytes.get(),
            age_ns: match superblock.retention_age_s.get() {
                0 => None,
                seconds => Some(seconds.saturating_mul(1_000_000_000)),
            },
        };
        let contents =
            Contents::open(Rc::clone(&journal), index, u64::from(geometry.block_bytes), retention).await?;
        let loaded = clock.now().0;
        let volume_blocks = superblock.volume_bytes.get() / u64::from(geometry.block_bytes);
        let recovered = recover(device, geometry, volume_blocks, &contents).await?;
        let damaged = recovered.verdict == Verdict::Damage;
        let sequence = recovered.tail.sequence;
        contents.let_go();
        // What is applied without a past goes home without a word.
        contents.release(sequence);
        if damaged && access == Access::Write {
            return Err(Error::new("open", Reason::LogDamaged { good_through: sequence }).on(device.name()));
        }
        let report = RecoveryReport {
            batches: recovered.batches,
            entries: recovered.entries,
            bytes: recovered.bytes,
            in_doubt: recovered.in_doubt.len() as u64,
            has_later: recovered.has_later,
            damaged_after: damaged.then_some(sequence),
            promised_through: recovered.promised_through,
            load_ns: loaded - began,
            replay_ns: clock.now().0 - loaded,
        };
        let checkpoint_bytes = superblock.checkpoint_bytes.get().max(geometry.segment_bytes());
        let extents = superblock.volume_bytes.get().div_ceil(geometry.segment_bytes()) as u32;
        let has_objects = superblock.features_incompatible.get() & FEATURE_OBJECTS != 0;
        let linear = (backend == Backend::Linear).then(|| {
            let thin = superblock.volume_flags.get() & VOLUME_THIN != 0;
            Linear::new(device.context(), options.apply, extents, thin, journal.state().applied)
        });
        let bringing =
            (backend == Backend::LoggedCow).then(|| Bringing::new(device.context(), options.apply));
        let moves = bringing.is_some() || (options.move_home_on_read && backend == Backend::Overlay);
        let placing = match has_objects {
            true => Placing::new(extents, home.is_some()),
            false => Placing::default(),
        };
        let mut core = Core {
            device: device.clone(),
            backend,
            geometry,
            log: None,
            linear,
            home,
            lost_objects,
            space,
            placing,
            open_branches: OpenBranches::default(),
            throttle: Throttle::new(options.throttle_ns_max),
            base,
            base_mark,
            failed: failed.clone(),
            refuse_when_full: options.refuse_when_full,
            checkpoint_bytes,
            next_run: Cell::new(journal.state().next_run()),
            checkpoints: Cell::default(),
            checkpoint_ended: Signal::new(device.context()),
            fold_wanted: Cell::default(),
            moving: (moves && access != Access::Read).then(|| Moving::new(device.context(), bringing)),
            base_turn: RangeLock::default(),
            settled: Signal::new(device.context()),
            look_again: Cell::default(),
            index_room: Cell::default(),
            targets: RefCell::default(),
            run_turn: RangeLock::default(),
            report,
            sequence,
            contents,
        };
        if access == Access::Read {
            return Ok(Self { core: Rc::new(core), branch: 0, parent: None, tasks: Vec::new() });
        }
        core.log = Some(core.begin_log(superblock, &recovered, failed).await?);
        let core = Rc::new(core);
        let mut tasks = core.log.as_ref().map(Log::start).unwrap_or_default();
        tasks.extend(core.start_maintenance());
        let store = Self { core, branch: 0, parent: None, tasks };
        store.apply_at_open().await?;
        Ok(store)
    }
}

impl Core {
    /// Makes this opening's nonce durable, and takes leases.
    async fn begin_log(
        &self,
        superblock: &Superblock,
        recovered: &Recovered,
        failed: FailureFlag,
    ) -> Result<Rc<Log>> {
        let context = self.device.context();
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&context.random_u64().to_le_bytes());
        nonce[8..].copy_from_slice(&context.random_u64().to_le_bytes());
        let tail = recovered.tail;
        let opening = Opening { nonce, first_batch: tail.batch.into() };
        self.contents.journal().secure().await?;
        secure(&self.device, &recovered.in_doubt).await?;
        let mut held = Vec::new();
        let accepted = recovered.verdict == Verdict::Damage;
        #[cfg(feature = "mutations")]
        if crate::mutation::is_on(crate::mutation::Mutation::NonceNotDurable) {
            let applied = self.contents.journal().state_mut().apply(&Change::Opening(opening));
            assert!(applied.is_some(), "an opening fits any state");
        }
        self.contents
            .journal()
            .commit(|state| {
                // Segments that the log had entered beyond a damage are its own again, from the front.
                let at = state.leases.iter().position(|lease| *lease == tail.lease).unwrap_or(0);
                let ahead = state.leases.len() - at - 1;
                let mut changes = vec![Change::Opening(opening)];
                #[cfg(feature = "mutations")]
                if crate::mutation::is_on(crate::mutation::Mutation::NonceNotDurable) {
                    changes.clear();
                }
                if accepted {
                    changes.push(Change::Watermark(tail.sequence));
                    // Its sequences are given to other changes, which nobody has accepted.
                    if (tail.sequence..ALL_ACCEPTED).contains(&state.accepted) {
                        changes.push(Change::Accepted(tail.sequence));
                    }
                    for snapshot in state.snapshots.values() {
                        let keeping = match snapshot.keeping {
                            Keeping::GivenUp => continue,
                            _ if snapshot.sequence > tail.sequence => Keeping::GivenUp,
                            // Its copies of what has been overwritten since may be among what is lost.
                            now if now.is_kept() && self.backend == Backend::Cow => Keeping::Breaking,
                            _ => continue,
                        };
                        if snapshot.keeping.is_kept() {
                            self.contents.unpin(snapshot.moment());
                        }
                        changes.push(Snapshot { keeping, ..snapshot.clone() }.change());
                    }
                    // What has lost the moment that it began as.
                    for branch in state.branches.values() {
                        let began = match branch.origin {
                            Origin::Snapshot(parent) => state.snapshots.get(parent).map(|one| one.sequence),
                            Origin::Volume { sequence, .. } => Some(sequence),
                        };
                        if began.is_none_or(|began| began > tail.sequence) {
                            changes.push(Branch { given_up: true, ..branch.clone() }.change());
                        }
                    }
                }
                changes.extend(self.new_leases(state, ahead, &mut held));
                changes
            })
            .await?;
        let contents = &self.contents;
        let options = LogOptions {
            nonce,
            epoch: superblock.epoch.get(),
            backlog_bytes_max: 2 * self.checkpoint_bytes,
            index_entries_max: self.index_entries_max(),
        };
        let data = self.home.as_ref().map(|home| &home.device);
        let log = Log::new(&self.device, data, self.geometry, contents, options, tail, failed);
        log.add_backlog(recovered.bytes);
        Ok(log)
    }

    /// Versions that may be in memory until a checkpoint has written them down: what two checkpoints' worth of log
    /// brings, as much again for blocks that are brought home, or for zeroes, of which a small entry makes many.
    pub(super) fn index_entries_max(&self) -> usize {
        (4 * self.checkpoint_bytes / u64::from(self.geometry.block_bytes)) as usize
    }

    pub(super) fn leases_wanted(&self) -> usize {
        leases(self.checkpoint_bytes, self.geometry.segment_bytes()) as usize
    }
}
