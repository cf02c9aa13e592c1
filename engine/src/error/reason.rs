//! Which refusal or failure an error was: one variant for each, the text that names the remedy, and what the caller can do.
//!
//! Place: a part of `error`. Programs match on these names; one that is taken away or changes its meaning breaks them.

use super::Kind;
use crate::units::utc;

/// Which refusal or failure it was. One variant for each, with the values that explain it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// An offset or length is not a multiple of the granularity.
    #[error("offset {offset} or length {length} is not a multiple of {granularity} bytes")]
    Misaligned {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// What both must be multiples of, in bytes.
        granularity: u64,
    },
    /// The range does not lie within the device or volume.
    #[error("offset {offset} + length {length} passes the end at {size_bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The size of the device or volume, in bytes.
        size_bytes: u64,
    },
    /// A transfer is longer than the engine takes in one request.
    #[error("{length} bytes in one request; at most {limit} are taken: split it")]
    TransferTooLong {
        /// Bytes asked for.
        length: u64,
        /// The largest request, in bytes.
        limit: u64,
    },
    /// A setting has a value that is not allowed.
    #[error("{name} = {value}: {rule}")]
    InvalidSetting {
        /// The setting.
        name: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// Another opener holds the device exclusively.
    #[error("it is already open in this or another program; close that one first")]
    AlreadyOpen,
    /// The device, one of its partitions or the whole it is part of is mounted.
    #[error("{device} is mounted at {mount_point}; unmount it first")]
    Mounted {
        /// The mounted device.
        device: String,
        /// Where.
        mount_point: String,
    },
    /// The device or one of its partitions is in use as swap.
    #[error("{device} is used as swap; run swapoff first")]
    UsedAsSwap {
        /// The swap device or file.
        device: String,
    },
    /// A device-mapper, md, bcache or other kernel device stands on it.
    #[error("{device} is held by {holder}; stop {holder} first")]
    Held {
        /// The device that is held.
        device: String,
        /// What stands on it.
        holder: String,
    },
    /// The device carries somebody else's data.
    #[error("it carries a {name} signature at byte {at}; use --force only if that data may be lost")]
    ForeignSignature {
        /// What the signature belongs to.
        name: &'static str,
        /// Where it was found, in bytes.
        at: u64,
    },
    /// The target exists and would be written, and the caller has not said that it may be.
    #[error("its contents would be lost; if that is meant, pass --destroy {expected}")]
    DestroyRequired {
        /// The exact argument that allows it, `SERIAL:BYTES`.
        expected: String,
    },
    /// The caller named another device than this one.
    #[error("--destroy {given} does not name this device, which is {expected}")]
    DestroyMismatch {
        /// What the caller wrote.
        given: String,
        /// What this device is, `SERIAL:BYTES`.
        expected: String,
    },
    /// The path does not exist.
    #[error("it does not exist; check the path")]
    NotFound,
    /// The path is neither a block device nor a regular file.
    #[error("it is a {found}; a block device or a regular file is needed")]
    NotABlockDevice {
        /// What it is.
        found: &'static str,
    },
    /// The device cannot hold what was asked for.
    #[error("it has {found_bytes} bytes; at least {needed_bytes} are needed")]
    DeviceTooSmall {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// The device is smaller than it was when its pool was laid out.
    #[error("it has {found_bytes} bytes, its pool was laid out for {was_bytes}; a pool never shrinks")]
    CannotShrink {
        /// Bytes the device had.
        was_bytes: u64,
        /// Bytes there are.
        found_bytes: u64,
    },
    /// There is no pool here that could grow.
    #[error("it keeps the size it was made with: {why}")]
    CannotGrow {
        /// Why, and the remedy.
        why: &'static str,
    },
    /// Another device is meant: this one plays another part, or belongs to another pool.
    #[error("it is not the {wanted} device of this pool: it is {found}; check the paths")]
    WrongDevice {
        /// The part that is asked for.
        wanted: &'static str,
        /// What was found, by the identity stored on it.
        found: String,
    },
    /// A device of the pool was not given.
    #[error(
        "its {role} device, {id}, is missing; open all devices of it together, here with {}",
        option_of(role)
    )]
    DeviceMissing {
        /// The part it plays.
        role: &'static str,
        /// The identity stored on it.
        id: String,
    },
    /// The device carries no icecore volume.
    #[error("no icecore superblock was found on it; create a volume first")]
    NoSuperblock,
    /// A superblock is there, but no copy of it is intact.
    #[error("both superblock copies are damaged; restore one from a backup")]
    SuperblockDamaged,
    /// The two superblock copies do not belong to one volume.
    #[error("its superblock copies belong to different volumes; restore one from a backup")]
    SuperblockConflict,
    /// A record's version is not known to this build.
    #[error("its format version is {found}, this build knows up to {known}; use a newer build")]
    UnknownVersion {
        /// The version on the device.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// The volume uses a feature that this build does not have.
    #[error("it uses features {unknown:#x} that this build does not have; use a newer build")]
    UnknownFeatures {
        /// The feature bits that are not known.
        unknown: u64,
    },
    /// The volume's backend is not in this build.
    #[error("its backend number {found} is not in this build; use a newer build")]
    UnknownBackend {
        /// The backend's number in the superblock.
        found: u32,
    },
    /// The system offers no io_uring.
    #[error("io_uring is not available ({why}); ask for the blocking runtime if that will do")]
    NoIoUring {
        /// What the system said.
        why: String,
    },
    /// The file system cannot do direct I/O.
    #[error("{filesystem} cannot do O_DIRECT; use another file system or a block device")]
    NoDirectIo {
        /// The file system's type.
        filesystem: String,
    },
    /// No buffer memory is left within the limit.
    #[error("{asked_bytes} bytes of buffer asked, all {limit_bytes} in use; raise the limit or free some")]
    OutOfBuffers {
        /// Bytes asked for.
        asked_bytes: u64,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
    /// A flush or durable write failed earlier; what is on the device is not known.
    #[error("an earlier flush failed, so it takes no more writes; close it and open it again")]
    Poisoned,
    /// It was opened for reading.
    #[error("it was opened for reading only; open it for writing")]
    ReadOnly,
    /// It was closed.
    #[error("it is closed; open it again")]
    Closed,
    /// The device moved fewer bytes than asked and then none.
    #[error("only {done} of {asked} bytes were moved")]
    ShortTransfer {
        /// Bytes asked for.
        asked: u64,
        /// Bytes moved.
        done: u64,
    },
    /// The device has gone away or lost power.
    #[error("the device is gone; check its connection and open it again")]
    DeviceGone,
    /// The device or system failed the request.
    #[error("{}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// The system's error number.
        errno: i32,
    },
    /// The caller gave up on the operation.
    #[error("it was cancelled")]
    Cancelled,
    /// The pool's metadata is not what was written.
    #[error("its metadata is damaged; run `icecore check` on it")]
    MetadataDamaged,
    /// The pool's metadata does not fit its area.
    #[error("its metadata needs {needed_bytes} bytes and has room for {room_bytes}; use a larger device")]
    MetadataFull {
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes there are.
        room_bytes: u64,
    },
    /// An entry of the log that was durable is missing.
    #[error("its log is damaged behind sequence {good_through}; open it for reading, or accept the loss")]
    LogDamaged {
        /// The last sequence that is good.
        good_through: u64,
    },
    /// A block's checksum is wrong.
    #[error("the block at device byte {address} is not what was written there; restore it from a replica")]
    BlockDamaged {
        /// Where it lies on the device.
        address: u64,
    },
    /// A moment that nobody has written yet.
    #[error("there is no sequence {moment}; the last one is {last}")]
    UnknownMoment {
        /// What was asked for.
        moment: u64,
        /// The last there is.
        last: u64,
    },
    /// A moment that is not kept any more.
    #[error("sequence {moment} is not kept any more; the earliest is {earliest}")]
    Expired {
        /// What was asked for.
        moment: u64,
        /// The earliest that can be opened.
        earliest: u64,
    },
    /// A moment that the volume has gone back from.
    #[error(
        "sequence {moment} was discarded when the volume went back at {discarded_at}; open it as an image, for reading"
    )]
    Discarded {
        /// What was asked for.
        moment: u64,
        /// The sequence at which it was discarded.
        discarded_at: u64,
    },
    /// A linear volume holds later changes than those of the moment.
    #[error(
        "changes up to sequence {applied} are in the base already, later ones than {moment}; pin the base first"
    )]
    AppliedAlready {
        /// What was asked for.
        moment: u64,
        /// The last sequence that has been applied.
        applied: u64,
    },
    /// The metadata has room for so many returns.
    #[error("it has gone back {limit} times, and has no room for more; copy it to a new pool")]
    TooManyRollbacks {
        /// How many there is room for.
        limit: usize,
    },
    /// There is no snapshot of this name.
    #[error("it has no snapshot {name:?}; `icecore snapshot list` shows those that it has")]
    NoSnapshot {
        /// The name.
        name: String,
    },
    /// A snapshot, or a further volume, has this name.
    #[error(
        "it has a snapshot, or a volume, {name:?} already; choose another name, or delete that one first"
    )]
    SnapshotExists {
        /// The name.
        name: String,
    },
    /// There is no further volume of this name.
    #[error("it has no volume {name:?}; `icecore volume list` shows those that it has")]
    NoVolume {
        /// The name.
        name: String,
    },
    /// The backend keeps one volume in a pool.
    #[error("the {backend} backend keeps one volume in a pool; this needs a pool made with `log`")]
    NoVolumes {
        /// Its name.
        backend: &'static str,
    },
    /// Two moments are not of one volume.
    #[error("these are moments of two volumes; compare moments of one")]
    OtherVolume,
    /// What was held for a group of snapshots is not held any more.
    #[error("its writes were held for {limit_ms} ms, and nobody said what for; take the snapshots once more")]
    HoldEnded {
        /// How long they are held at most.
        limit_ms: u64,
    },
    /// The metadata has room for so many snapshots.
    #[error("it has {limit} snapshots, and no room for more; delete some")]
    TooManySnapshots {
        /// How many there is room for.
        limit: usize,
    },
    /// Each writable snapshot that began as a moment of another one is looked up in that.
    #[error(
        "{name:?} has {limit} writable snapshots above it, one below the other, and cannot have one more below; copy what it \
         shows to a volume of its own"
    )]
    TooDeep {
        /// The snapshot that another one was to begin as.
        name: String,
        /// How many there may be.
        limit: usize,
    },
    /// The pool has no room for the linear object of one more snapshot.
    #[error(
        "a snapshot takes {needed_bytes} bytes for its linear object, and {free_bytes} are free: delete some, or grow the pool"
    )]
    NoRoomForObject {
        /// What an object takes.
        needed_bytes: u64,
        /// What is free beside what the log needs.
        free_bytes: u64,
    },
    /// Something has begun as this snapshot, or is a moment of this writable snapshot.
    #[error("{name:?} has snapshots of its own; delete these first")]
    HasChildren {
        /// Its name.
        name: String,
    },
    /// Somebody has a writable snapshot, or an image of it, open.
    #[error("{name:?} is open; close it first")]
    SnapshotInUse {
        /// Its name.
        name: String,
    },
    /// A moment is what it is.
    #[error("{name:?} is a snapshot, and snapshots are not written; clone it, and write the clone")]
    SnapshotReadOnly {
        /// Its name.
        name: String,
    },
    /// A writable snapshot cannot do what a volume can.
    #[error("a writable snapshot cannot do this; only the volume can")]
    NotOfSnapshots,
    /// The backend cannot keep named moments.
    #[error("the {backend} backend keeps no named moments; this needs a volume made with `log`")]
    NoSnapshots {
        /// Its name.
        backend: &'static str,
    },
    /// Snapshots take all the room they may.
    #[error("its snapshots take all of the {limit_bytes} bytes that they may; delete some")]
    SnapshotSpaceFull {
        /// What they may take.
        limit_bytes: u64,
    },
    /// A snapshot is locked.
    #[error("snapshot {name:?} is locked {}", locked_how(*until_unix_ns))]
    SnapshotLocked {
        /// Its name.
        name: String,
        /// The time, in nanoseconds since 1970 (UTC), before which nobody can unlock it, if there is one.
        until_unix_ns: Option<u64>,
    },
    /// A snapshot was given up for want of room, or lost with what held it.
    #[error(
        "the snapshot of sequence {moment} is broken: what it kept is lost, or was given up for want of room; delete it"
    )]
    SnapshotBroken {
        /// Its moment.
        moment: u64,
    },
    /// What is current in overlays is lost with the device of the log.
    #[error(
        "what its overlays hold is on its log device, {id}, which is missing: the base is an older image, and \
         can be opened as that alone, for reading"
    )]
    CurrentLost {
        /// The identity of the log's device.
        id: String,
    },
    /// What a block holds there is lost with the device of linear objects; nothing else is shown in its place.
    #[error(
        "this block is on its objects device, {id}, which is missing; open it with that device, or read other \
         blocks, or an older snapshot"
    )]
    ObjectLost {
        /// The identity of that device.
        id: String,
    },
    /// A base is no one image.
    #[error(
        "its base is no one image: blocks of it were written in place while its log device, {id}, which is \
         missing, held others; no image of it is whole"
    )]
    BaseMixed {
        /// The identity of the log's device.
        id: String,
    },
    /// The backend has no overlays to fold.
    #[error("the {backend} backend has no overlays; this needs a volume made with `overlay`")]
    NoOverlays {
        /// Its name.
        backend: &'static str,
    },
    /// The base is an image that somebody keeps.
    #[error("the base is the image of {by}; give that up first")]
    BasePinned {
        /// Who keeps it.
        by: String,
    },
    /// An older overlay has to be folded first.
    #[error("overlays are folded oldest first; fold up to snapshot {first:?} before this one")]
    OutOfOrder {
        /// The snapshot that ends the oldest one.
        first: String,
    },
    /// Nothing but a log and a linear volume together can do this.
    #[error(
        "the {backend} backend applies nothing; this needs a volume made with `linear` or, but for pinning, `logged-cow`"
    )]
    NotLinear {
        /// Its name.
        backend: &'static str,
    },
    /// Nothing can be salvaged from it.
    #[error("it cannot be salvaged: {why}")]
    NotSalvaged {
        /// What it is, and the remedy where there is one.
        why: &'static str,
    },
    /// The base is pinned.
    #[error("the base is pinned and takes changes up to sequence {accepted}; accept more first")]
    Pinned {
        /// The last sequence that is accepted.
        accepted: u64,
    },
    /// The base is not pinned.
    #[error("the base is not pinned: it takes every change already; pin it first")]
    NotPinned,
    /// The log is full and what it holds cannot be applied.
    #[error("its log is full: {why}")]
    LogFull {
        /// Why nothing can be applied, and the remedy.
        why: &'static str,
    },
    /// Applying stands still.
    #[error("it cannot be applied now: {why}")]
    ApplyStalled {
        /// Why, and the remedy.
        why: &'static str,
    },
    /// The backend keeps no past.
    #[error("the {backend} backend keeps no past")]
    NoPast {
        /// Its name.
        backend: &'static str,
    },
    /// The process may not do this.
    #[error("permission denied; run as root or as the owner of it")]
    PermissionDenied,
    /// Somebody has it open and cannot be asked.
    #[error(
        "it is open in {holder}, which answers on no control socket; close it there, or say with ICECORE_RUN_DIR where that one listens"
    )]
    NotReachable {
        /// Who has it, as far as it can be told.
        holder: String,
    },
    /// The other end of a control socket is of another build.
    #[error(
        "one end of the control socket speaks version {found}, the other {known}; use the same build for both"
    )]
    ControlVersion {
        /// The version that came.
        found: u32,
        /// The version that is understood.
        known: u32,
    },
    /// What came over a socket is no message of its protocol.
    #[error("what came over the socket is no message of its protocol: {why}")]
    BadMessage {
        /// What is wrong with it.
        why: &'static str,
    },
    /// What the program said that has the volume open.
    #[error("{text}")]
    Told {
        /// What the caller can do.
        kind: Kind,
        /// The name of the reason there.
        name: String,
        /// The reason's text there.
        text: String,
    },
}

fn locked_how(until_unix_ns: Option<u64>) -> String {
    match until_unix_ns {
        Some(until) => format!("until {}, and nobody can unlock it before; wait", utc(until)),
        None => "until somebody unlocks it; do that first".to_string(),
    }
}

/// How a device with this part is told to the program.
fn option_of(role: &str) -> &'static str {
    match role {
        "objects" => "--objects-device PATH (or read what does not lie there, with --without-objects)",
        _ => "--volume-device PATH",
    }
}

impl Reason {
    /// Its name, which is the same on both ends of a control socket.
    pub fn name(&self) -> String {
        match self {
            Reason::Told { name, .. } => name.clone(),
            here => format!("{here:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
        }
    }

    /// The kind this reason belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Reason::Misaligned { .. }
            | Reason::OutOfRange { .. }
            | Reason::TransferTooLong { .. }
            | Reason::InvalidSetting { .. }
            | Reason::WrongDevice { .. }
            | Reason::NotPinned
            | Reason::OutOfOrder { .. }
            | Reason::NoSnapshot { .. }
            | Reason::NoVolume { .. }
            | Reason::OtherVolume
            | Reason::SnapshotExists { .. }
            | Reason::SnapshotReadOnly { .. }
            | Reason::HasChildren { .. }
            | Reason::NotABlockDevice { .. } => Kind::InvalidArgument,
            Reason::AlreadyOpen | Reason::NotReachable { .. } | Reason::SnapshotInUse { .. } => Kind::Busy,
            Reason::Mounted { .. }
            | Reason::UsedAsSwap { .. }
            | Reason::Held { .. }
            | Reason::ForeignSignature { .. }
            | Reason::DestroyRequired { .. }
            | Reason::DestroyMismatch { .. }
            | Reason::ReadOnly
            | Reason::Pinned { .. }
            | Reason::BasePinned { .. }
            | Reason::SnapshotLocked { .. }
            | Reason::AppliedAlready { .. }
            | Reason::PermissionDenied => Kind::Denied,
            Reason::NotFound
            | Reason::Closed
            | Reason::DeviceGone
            | Reason::CurrentLost { .. }
            | Reason::ObjectLost { .. }
            | Reason::BaseMixed { .. }
            | Reason::DeviceMissing { .. } => Kind::Unavailable,
            Reason::DeviceTooSmall { .. }
            | Reason::CannotShrink { .. }
            | Reason::MetadataFull { .. }
            | Reason::TooManyRollbacks { .. }
            | Reason::TooManySnapshots { .. }
            | Reason::TooDeep { .. }
            | Reason::NoRoomForObject { .. }
            | Reason::SnapshotSpaceFull { .. }
            | Reason::LogFull { .. } => Kind::NoSpace,
            Reason::UnknownMoment { .. } | Reason::Discarded { .. } => Kind::InvalidArgument,
            Reason::Expired { .. } | Reason::SnapshotBroken { .. } | Reason::ApplyStalled { .. } => {
                Kind::Unavailable
            }
            Reason::NoSuperblock | Reason::SuperblockConflict => Kind::Operator,
            Reason::SuperblockDamaged
            | Reason::MetadataDamaged
            | Reason::LogDamaged { .. }
            | Reason::BlockDamaged { .. } => Kind::Corrupt,
            Reason::UnknownVersion { .. }
            | Reason::UnknownFeatures { .. }
            | Reason::UnknownBackend { .. }
            | Reason::NoIoUring { .. }
            | Reason::NoPast { .. }
            | Reason::NotLinear { .. }
            | Reason::NoSnapshots { .. }
            | Reason::NoVolumes { .. }
            | Reason::NoOverlays { .. }
            | Reason::NotOfSnapshots
            | Reason::CannotGrow { .. }
            | Reason::ControlVersion { .. }
            | Reason::NotSalvaged { .. }
            | Reason::NoDirectIo { .. } => Kind::Unsupported,
            Reason::OutOfBuffers { .. } | Reason::HoldEnded { .. } | Reason::Cancelled => Kind::Retry,
            Reason::Poisoned => Kind::Reopen,
            Reason::BadMessage { .. } => Kind::InvalidArgument,
            Reason::Told { kind, .. } => *kind,
            Reason::ShortTransfer { .. } => Kind::DeviceFailed,
            Reason::Os { errno } => match *errno {
                libc::ENOSPC | libc::EDQUOT => Kind::NoSpace,
                libc::EBUSY => Kind::Busy,
                libc::EINTR | libc::EAGAIN | libc::ENOMEM => Kind::Retry,
                libc::EOPNOTSUPP | libc::ENOSYS => Kind::Unsupported,
                libc::EINVAL => Kind::InvalidArgument,
                _ => Kind::DeviceFailed,
            },
        }
    }
}
