//! Checking a volume that nobody has open: everything that its records and blocks say of each other is compared.
//!
//! It reads the device by its own reading of `docs/FORMATS.md` and shares with the write path only `format`, so
//! that a mistake made there is not made here again. Order: superblocks and areas; roots, image and journal; the
//! state that they make; the runs of the index; the log's tail; the log that a linear volume has not taken in yet;
//! every block that lives, against its index entry and the batch that wrote it.
//!
//! Invariants: nothing is written; whatever lies on the device, it ends, does not panic, and its memory is the
//! rows of the segments, a few pages of each run, the entries of the log's tail, some thousand places that cannot be
//! read, and at most [`SLOTS_MAX`] slots at a time. What a power cut may leave behind is no finding.

mod apart;
mod blocks;
mod index;
mod journal;
mod linear;
mod log;
mod names;
mod objects;
mod reading;
mod returns;
mod rows;
mod salvage;
mod shape;
mod state;
mod superblock;

use crate::device::Device;
use crate::error::Result;
use crate::format::crc32c;
use reading::Unreadable;
pub use salvage::{
    Given, Moment, RANGES_MAX, Salvage, SalvageOptions, SalvageReport, Status, Stretch, VERSIONS_MAX,
};
use shape::Shape;
use state::State;

/// Findings that are kept; further ones are counted.
pub const FINDINGS_MAX: usize = 1000;
/// Slots that are compared with the index at a time, of 32 bytes each. A larger pool takes several passes
/// over the index.
pub const SLOTS_MAX: usize = 4 << 20;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost; room is, or a spare copy.
    Warning,
    /// Something is not what was written.
    Damage,
}

impl Severity {
    /// The name that programs match.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        }
    }
}

/// What a finding is about. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// A copy of the superblock is not whole; the other one is.
    SuperblockCopy,
    /// A superblock contradicts itself, the other copy, or the device.
    Superblock,
    /// A root is not what belongs there, or the newest one is lost.
    Root,
    /// The metadata image is not what its root says.
    Image,
    /// A journal record is not what belongs there, or is missing.
    Journal,
    /// Leases, rows, runs and marks contradict each other.
    State,
    /// A page of the index is not what belongs there.
    IndexPage,
    /// What the index says contradicts the rows, the log or itself.
    Index,
    /// A batch of the log is not what belongs there, or is missing.
    Log,
    /// A block is not what was written.
    Block,
    /// A moment that can be opened needs a block that does not live any more.
    DeadBlock,
    /// The device cannot read it.
    Unreadable,
    /// Blocks live that nothing names.
    Leak,
    /// The header of a batch behind the checkpoint is not whole; nothing needs it.
    OldBatch,
}

impl Code {
    /// The name that programs match.
    pub fn name(self) -> &'static str {
        match self {
            Code::SuperblockCopy => "superblock-copy",
            Code::Superblock => "superblock",
            Code::Root => "root",
            Code::Image => "image",
            Code::Journal => "journal",
            Code::State => "state",
            Code::IndexPage => "index-page",
            Code::Index => "index",
            Code::Log => "log",
            Code::Block => "block",
            Code::DeadBlock => "dead-block",
            Code::Unreadable => "unreadable",
            Code::Leak => "leak",
            Code::OldBatch => "old-batch",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Code::SuperblockCopy | Code::Leak | Code::OldBatch => Severity::Warning,
            _ => Severity::Damage,
        }
    }

    /// What can be done.
    pub fn remedy(self) -> &'static str {
        match self {
            Code::SuperblockCopy => "opening the volume for writing writes it again",
            Code::Superblock | Code::Root | Code::Image | Code::Journal | Code::State => {
                "do not write to the volume; restore it from a replica or a backup"
            }
            Code::IndexPage | Code::Index | Code::DeadBlock => {
                "copy what can still be read, and restore the rest from a replica or a backup"
            }
            Code::Log => "open it for reading up to the last good sequence, or accept the loss",
            Code::Block => "write the block again, or restore it from a replica or a backup",
            Code::Unreadable => "look at the disk's own health; copy what can still be read",
            Code::Leak => "none is needed: the room is used again when the volume is made anew",
            Code::OldBatch => "none is needed: the blocks themselves are whole",
        }
    }
}

/// Where a finding lies, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Byte of the device.
    pub address: Option<u64>,
    /// Which is the volume's own, and not that of its pool.
    pub on_volume_device: bool,
    /// Which is that of linear objects.
    pub on_objects_device: bool,
    /// Sequence of the log.
    pub sequence: Option<u64>,
    /// Block of the volume.
    pub block: Option<u64>,
}

impl Place {
    /// A byte of the device.
    pub fn at(address: u64) -> Self {
        Self { address: Some(address), ..Self::default() }
    }

    fn sequence(self, sequence: u64) -> Self {
        Self { sequence: Some(sequence), ..self }
    }

    fn block(self, block: u64) -> Self {
        Self { block: Some(block), ..self }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// Where.
    pub place: Place,
    /// What was found, for people.
    pub text: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code.severity().name(), self.code.name())?;
        let byte = match (self.place.on_volume_device, self.place.on_objects_device) {
            (true, _) => "byte of the volume's device",
            (_, true) => "byte of the objects' device",
            _ => "byte",
        };
        for (name, value) in
            [(byte, self.place.address), ("sequence", self.place.sequence), ("block", self.place.block)]
        {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        write!(f, ": {}; {}", self.text, self.code.remedy())
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<Finding>,
    /// Findings of damage.
    pub damage: u64,
    /// Warnings.
    pub warnings: u64,
    /// The last sequence of the log.
    pub sequence: u64,
    /// Index entries that were looked at.
    pub entries: u64,
    /// Blocks whose checksum was compared.
    pub blocks: u64,
}

/// How far a check has come, in blocks of the pool that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Looked at.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Checks the volume on a device that nobody else has open. Damage is in the report, not an error.
///
/// # Errors
/// `NoSuperblock`, `UnknownVersion`, `UnknownFeatures`, `UnknownBackend` where it is not a volume that this build
/// can judge; what the device says, unless it is only one place that it cannot read.
pub async fn check(device: &Device, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    check_on(device, Beside::default(), progress).await
}

/// The devices beside the pool's, where what lies there does not lie in the pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// Of the volume's own blocks: those of a linear volume, or of a base.
    pub volume: Option<&'a Device>,
    /// Of linear objects.
    pub objects: Option<&'a Device>,
}

/// As [`check()`], for a pool on several devices.
///
/// # Errors
/// As [`check()`]; `DeviceMissing`, `WrongDevice` or `InvalidSetting` where the devices are not those of the pool.
pub async fn check_on(
    device: &Device,
    beside: Beside<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    let mut checker = Checker::new(device, beside, progress);
    if let Some(shape) = superblock::check(&mut checker).await?
        && let Some(shape) = shape.log
    {
        check_log(&mut checker, &shape).await?;
    }
    Ok(checker.report)
}

async fn check_log(checker: &mut Checker<'_>, shape: &Shape) -> Result<()> {
    let Some(state) = journal::load(checker, shape).await? else { return Ok(()) };
    if !rows::check(checker, shape, &state) {
        return Ok(());
    }
    let index = index::check(checker, shape, &state).await?;
    let Some(tail) = log::check(checker, shape, &state).await? else { return Ok(()) };
    checker.report.sequence = tail.end.sequence;
    check_marks(checker, shape, &state, &tail);
    if shape.says_mixed == Some(false) && state.names.restoring().is_some() {
        let text = "the volume goes back to a snapshot, and its base says that it is one image";
        checker.found(Code::State, Place::at(apart::VOLUME.from), text);
    }
    if shape.linear {
        linear::check_pin(checker, &state, &tail.end);
        linear::check(checker, shape, &state).await?;
    }
    // What a damaged index says of blocks would only be found again and again.
    if index {
        blocks::check(checker, shape, &state, &tail).await?;
    }
    Ok(())
}

/// Watermark, window and the orderly close, against where the log ends.
fn check_marks(checker: &mut Checker<'_>, shape: &Shape, state: &State, tail: &log::Tail) {
    let (end, place) = (tail.end.sequence, Place::at(tail.end.address).sequence(tail.end.sequence));
    if state.watermark > end {
        let text = format!("the log ends here, and everything up to {} was durable", state.watermark);
        checker.found(Code::Log, place, text);
    }
    if state.window > end {
        let text = format!("the log ends here, and the window begins at {}", state.window);
        checker.found(Code::State, place, text);
    }
    let closed = state.watermark == end && state.checkpoint.sequence.get() == end;
    if shape.closed && !closed {
        let text = format!(
            "it was closed in order, but its checkpoint is at {} and its watermark at {}",
            state.checkpoint.sequence, state.watermark
        );
        checker.found(Code::State, place, text);
    }
}

/// The devices, and what has been found on them.
struct Checker<'a> {
    device: &'a Device,
    beside: Beside<'a>,
    report: Report,
    unreadable: Unreadable,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Checker<'a> {
    fn new(device: &'a Device, beside: Beside<'a>, progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self { device, beside, report: Report::default(), unreadable: Unreadable::default(), progress }
    }

    fn found(&mut self, code: Code, mut place: Place, text: impl Into<String>) {
        let on = |part: apart::Part| place.address.and_then(|address| address.checked_sub(part.from));
        if let Some(address) = on(apart::OBJECTS) {
            (place.address, place.on_objects_device) = (Some(address), true);
        } else if let Some(address) = on(apart::VOLUME) {
            (place.address, place.on_volume_device) = (Some(address), true);
        }
        match code.severity() {
            Severity::Damage => self.report.damage += 1,
            Severity::Warning => self.report.warnings += 1,
        }
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { code, place, text: text.into() });
        }
    }
}

/// Whether bytes carry their own checksum, as every record does in its bytes 12 to 15.
fn is_sealed(bytes: &[u8]) -> bool {
    bytes.len() >= 16 && crc32c(&[&bytes[..12], &[0; 4], &bytes[16..]]).to_le_bytes() == bytes[12..16]
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Whether a bitmap has this bit.
fn bit(words: &[u64], at: u32) -> bool {
    words.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}
