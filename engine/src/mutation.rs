//! Deliberate faults (feature `mutations`), so that tests can prove that the simulator finds them.
//!
//! Exists in test builds alone; without the feature none of this is compiled. One mutation is on at a time,
//! on the thread that switched it on.

use std::cell::Cell;

/// A way to break the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A flush returns without asking the device.
    FlushIgnored,
    /// A flush is begun, and its caller told that it is done, before the device has answered.
    ReplyBeforeFlush,
    /// Writes do not wait for earlier writes of the same range.
    OverlappingWritesReordered,
    /// A superblock is taken without looking at its checksum.
    TornSuperblockAccepted,
    /// A failed flush does not poison the volume.
    FailedFlushForgotten,
    /// A partial write of a block does not hold its range while it reads and writes back.
    MergeUnguarded,
    /// The log answers a durable write or a flush without asking the device.
    LogAckBeforeFlush,
    /// Recovery takes a batch whose header is whole without looking at its payload: the header counts before the
    /// payload is there, as when it is written first. Header and payload are one write, so a cut alone divides them.
    LogPayloadUnchecked,
    /// Recovery takes batches of an earlier lap or opening.
    StaleLapAccepted,
    /// An opening appends before its nonce is durable.
    NonceNotDurable,
    /// A checkpoint lets go of the log before what the log says is in the durable index.
    TrimBeforeApply,
    /// A root or a record of the journal is written before what it names is flushed.
    RootBeforeContents,
    /// A superseded version's block is given up although a moment that can be opened still shows it.
    PastThrownAway,
    /// The same, but only for moments that the window has passed and somebody has open.
    OpenMomentIgnored,
    /// A flush of a volatile log asks the device and leaves in memory what it was to force to it.
    VolatileLogKept,
    /// The cursor of a linear volume, and with it the index, says that blocks are at home before they are written.
    CursorBeforeHome,
    /// Segments of the log come free before the cursor that has passed them is durable.
    FreedBeforeCursor,
    /// A block at home is written over while a moment that can be opened sees it.
    HomeOverwritten,
    /// What a pinned base has not accepted is applied.
    UnacceptedApplied,
    /// What has completed is applied at once, durable in the log or not.
    AppliedBeforeDurable,
    /// Of a volume that was poisoned, a later opening says at its first flush that it is poisoned, without a cause of
    /// its own.
    PoisonedWithoutCause,
    /// A page of the current image that is read from the device shows what was discarded.
    DiscardedShown,
    /// What lives again after a return to an earlier moment still dies when its old death leaves the window.
    RevivedDies,
    /// At open, nothing is kept for the sake of names.
    NamesForgotten,
    /// What a writable snapshot supersedes is kept for the moments of the volume rather than for its own.
    BranchMixedUp,
    /// What a writable snapshot was given stays in the index when it is deleted, and its number is given anew.
    BranchLeftBehind,
    /// What a deleted snapshot saw comes free though another one sees it too.
    SweptTooMuch,
    /// What lies in the base is overwritten though a snapshot sees it.
    OverwrittenUnsaved,
    /// What a snapshot sees of the base is overwritten before the copy of it is durable.
    OverwrittenBeforeSaved,
    /// Of several saved versions of a block an image shows the newest, whichever moment it is of.
    NewerCopyWins,
    /// Of the runs of the index, the oldest one that has a version of a block is believed.
    OldestFirst,
    /// What comes out of the log overwrites the base though a snapshot sees what lies there.
    BroughtUncopied,
    /// What comes out of the log overwrites the base before the index on the device says where the copies lie.
    BroughtBeforeTold,
    /// What an overlay holds is given up before the base has it.
    FoldedBeforeBase,
    /// A snapshot is taken while writes of several entries are under way, some of which it then sees in part.
    SnapshotAmidWrites,
    /// Snapshots of several volumes are taken one after the other, while the others are written.
    GroupOneByOne,
    /// What is moved home on read is said to be in the base before it is written there.
    MoveHomeClearsFirst,
    /// A snapshot that is locked is deleted, or broken.
    LockIgnored,
    /// The log says that a block lies in its place in a linear object before the data there has been flushed.
    MapBeforeData,
    /// A place in a linear object is used again though a moment may see what lies there.
    PlaceReused,
    /// That a copy-on-write volume has gone back to a snapshot is said before its base holds that.
    RestoredBeforeBase,
    /// For a block that is lost with the device of linear objects, the base is shown.
    LostShownAsBase,
    /// A segment that emptying goes on to fill is anybody's as soon as all that it held has died.
    OpenTargetUnheld,
    /// That a copy lives in its place in a linear object is said before the index says what it is.
    CopyToldEarly,
    /// An object is given back though a copy lies there of which no checkpoint has told.
    CopyNotAwaited,
}

impl Mutation {
    /// All mutations.
    pub const ALL: [Mutation; 45] = [
        Mutation::FlushIgnored,
        Mutation::ReplyBeforeFlush,
        Mutation::OverlappingWritesReordered,
        Mutation::TornSuperblockAccepted,
        Mutation::FailedFlushForgotten,
        Mutation::MergeUnguarded,
        Mutation::LogAckBeforeFlush,
        Mutation::LogPayloadUnchecked,
        Mutation::StaleLapAccepted,
        Mutation::NonceNotDurable,
        Mutation::TrimBeforeApply,
        Mutation::RootBeforeContents,
        Mutation::PastThrownAway,
        Mutation::OpenMomentIgnored,
        Mutation::VolatileLogKept,
        Mutation::CursorBeforeHome,
        Mutation::FreedBeforeCursor,
        Mutation::HomeOverwritten,
        Mutation::UnacceptedApplied,
        Mutation::AppliedBeforeDurable,
        Mutation::PoisonedWithoutCause,
        Mutation::DiscardedShown,
        Mutation::RevivedDies,
        Mutation::NamesForgotten,
        Mutation::BranchMixedUp,
        Mutation::BranchLeftBehind,
        Mutation::SweptTooMuch,
        Mutation::OverwrittenUnsaved,
        Mutation::OverwrittenBeforeSaved,
        Mutation::NewerCopyWins,
        Mutation::OldestFirst,
        Mutation::BroughtUncopied,
        Mutation::BroughtBeforeTold,
        Mutation::FoldedBeforeBase,
        Mutation::SnapshotAmidWrites,
        Mutation::GroupOneByOne,
        Mutation::MoveHomeClearsFirst,
        Mutation::LockIgnored,
        Mutation::MapBeforeData,
        Mutation::PlaceReused,
        Mutation::RestoredBeforeBase,
        Mutation::LostShownAsBase,
        Mutation::OpenTargetUnheld,
        Mutation::CopyToldEarly,
        Mutation::CopyNotAwaited,
    ];

    /// Those that the simulator's plays, in which nothing is written while a snapshot is taken or segments are emptied,
    /// power is not cut while a volume goes back or a snapshot is deleted amid a round, and there is one device, do not meet.
    pub const UNMET: [Mutation; 7] = [
        Mutation::SnapshotAmidWrites,
        Mutation::GroupOneByOne,
        Mutation::RestoredBeforeBase,
        Mutation::LostShownAsBase,
        Mutation::OpenTargetUnheld,
        Mutation::CopyToldEarly,
        Mutation::CopyNotAwaited,
    ];

    /// Those of a volume with a base.
    pub const BASE: [Mutation; 8] = [
        Mutation::OverwrittenUnsaved,
        Mutation::OverwrittenBeforeSaved,
        Mutation::NewerCopyWins,
        Mutation::OldestFirst,
        Mutation::FoldedBeforeBase,
        Mutation::MoveHomeClearsFirst,
        Mutation::MapBeforeData,
        Mutation::PlaceReused,
    ];

    /// Those of a log in front of copy-on-write.
    pub const BROUGHT: [Mutation; 2] = [Mutation::BroughtUncopied, Mutation::BroughtBeforeTold];

    /// Those of writable snapshots.
    pub const BRANCHES: [Mutation; 2] = [Mutation::BranchMixedUp, Mutation::BranchLeftBehind];

    /// Those of a linear volume.
    pub const LINEAR: [Mutation; 5] = [
        Mutation::CursorBeforeHome,
        Mutation::FreedBeforeCursor,
        Mutation::HomeOverwritten,
        Mutation::UnacceptedApplied,
        Mutation::AppliedBeforeDurable,
    ];
}

thread_local! {
    static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    static POISONED: Cell<Option<([u8; 16], u64)>> = const { Cell::new(None) };
}

/// Switches one mutation on, on this thread, or all off. What an earlier play has left is forgotten.
pub fn switch(mutation: Option<Mutation>) {
    ON.set(mutation);
    POISONED.set(None);
}

/// Whether this mutation is on.
pub fn is_on(mutation: Mutation) -> bool {
    ON.get() == Some(mutation)
}

/// For [`Mutation::PoisonedWithoutCause`]: the opening of a pool with this generation is poisoned.
pub fn note_poisoned(pool_id: [u8; 16], generation: u64) {
    POISONED.set(Some((pool_id, generation)));
}

/// Whether an earlier opening of this pool was poisoned; once for each.
pub fn take_poisoned(pool_id: [u8; 16], generation: u64) -> bool {
    let was = POISONED.get().is_some_and(|(pool, at)| pool == pool_id && at < generation);
    if was {
        POISONED.set(None);
    }
    was
}
