//! Slowing writers down while room for what snapshots keep runs short: after the warning, before anything is refused or
//! broken (architecture 13).
//!
//! From four fifths of the room on, a write that took some of it completes later than it would: by nothing at first, by
//! [`OpenOptions::throttle_ns_max`](super::OpenOptions) when there is none left. It has been done by then, and holds nothing
//! that others wait for. Room is the limit that snapshots were given, or else what the pool has for blocks that nobody can
//! give up by itself: the volume's own and what moments with names, or open images, see.
//!
//! Invariants: a write is delayed once, and by no more than was said; where nothing is short, or nothing is kept, nothing is
//! counted but the blocks that are written.

use std::cell::Cell;

use super::LogStore;
use super::space::{SHORT_OF, SHORT_PARTS};
use crate::pool::layout::RESERVED_SEGMENTS;
use crate::store::Backend;

/// By how much a write is slowed down at most, unless the opener says otherwise.
pub const THROTTLE_NS_MAX: u64 = 5_000_000;
/// It is looked again after this part of the room at the latest, however near the shortage is: to count takes longer than
/// to write.
const LOOK_PARTS: u64 = 256;

/// How writers are slowed down.
#[derive(Debug)]
pub(super) struct Throttle {
    ns_max: u64,
    /// Blocks that may be taken before it is looked again.
    blocks_until_look: Cell<u64>,
    slowed_ns: Cell<u64>,
}

impl Throttle {
    pub fn new(ns_max: u64) -> Self {
        Self { ns_max, blocks_until_look: Cell::default(), slowed_ns: Cell::default() }
    }

    /// By how much writes have been slowed down, all together.
    pub fn slowed_ns(&self) -> u64 {
        self.slowed_ns.get()
    }
}

impl LogStore {
    /// After a write that has taken so many blocks of the room: waits as long as the shortage demands.
    pub(in crate::store) async fn slow_down(&self, blocks: u64) {
        let throttle = &self.core.throttle;
        if throttle.ns_max == 0 || blocks == 0 {
            return;
        }
        if let Some(left) = throttle.blocks_until_look.get().checked_sub(blocks) {
            throttle.blocks_until_look.set(left);
            return;
        }
        let (used, room) = self.used_room();
        let short_from = room / SHORT_OF * SHORT_PARTS;
        throttle.blocks_until_look.set(short_from.saturating_sub(used).max(room / LOOK_PARTS));
        let Some(over) = used.checked_sub(short_from).filter(|over| *over > 0) else { return };
        // Each write is weighed while it is short.
        throttle.blocks_until_look.set(0);
        let scarce = (room - short_from).max(1);
        let delay_ns =
            (u128::from(throttle.ns_max) * u128::from(over.min(scarce)) / u128::from(scarce)) as u64;
        throttle.slowed_ns.set(throttle.slowed_ns.get() + delay_ns);
        self.core.device.context().sleep(delay_ns).await;
    }

    /// Blocks of the room that are taken for good, and all of it. Nothing is taken where nobody keeps a moment.
    fn used_room(&self) -> (u64, u64) {
        let core = &self.core;
        let (contents, state) = (&core.contents, core.contents.journal().state());
        let segment_blocks = u64::from(state.segment_blocks());
        let of_objects = if core.home.is_some() { 0 } else { state.object_segments() };
        let of_log = u64::from(core.geometry.segments).saturating_sub(of_objects);
        let of_pool = of_log.saturating_sub(RESERVED_SEGMENTS) * segment_blocks;
        let room = core.space.limit_blocks.map_or(of_pool, |limit| limit.min(of_pool));
        if core.backend == Backend::Linear || !contents.is_pinned_before(u64::MAX) {
            return (0, room);
        }
        // The past without names is given up when there is no other room.
        let past_blocks = contents.past_bytes() / u64::from(core.geometry.block_bytes);
        (state.mapped_blocks().saturating_sub(past_blocks), room)
    }
}
