//! Salvaging: as much of a volume's image as a damaged pool still holds, and an honest list of what is missing.
//!
//! It reads by the checker's own reading of `docs/FORMATS.md`: the index as far as its pages are whole, and batches
//! of the log by their headers. A block's newest version is *certain* where every later change up to the moment is
//! accounted for: told by a whole page of the index, by the header of its batch, or discarded. Without being told to
//! take doubtful bytes it hands out certain blocks alone; all else is zero, and listed.
//!
//! Blocks in the *base* of a copy-on-write or overlay volume have no checksums, and are overwritten in place: one is
//! taken where the metadata is whole and no version is known that lies elsewhere, and is *unverified*. What the log
//! said below its checkpoint counts there only as far as the index has it. The same holds for branches, whose numbers
//! are given anew.
//!
//! Order: superblocks, metadata, index ([`plan`]), then part after part of the volume ([`emit`]).
//!
//! Invariants: the damaged device is not written. Whatever lies on it, this ends and does not panic. Memory: as for
//! a check, [`VERSIONS_MAX`] versions at a time, and [`RANGES_MAX`] ranges of the list; a larger volume takes several
//! passes over index and headers.

mod canvas;
mod emit;
mod image;
mod known;
mod output;
mod plan;
mod scan;
mod sequences;

use super::superblock::{self, Readable};
use super::{Beside, Checker, Finding, Progress};
use crate::device::Device;
use crate::error::{Error, Reason, Result};
use output::Output;
use plan::Plan;

/// Versions that are kept in memory at a time, of about 100 bytes each.
pub const VERSIONS_MAX: usize = 2 << 20;
/// Ranges of the list that are kept, of lost blocks and of all others; further ones are counted.
pub const RANGES_MAX: usize = 1 << 20;

/// Which image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// The newest that can be made out.
    #[default]
    Newest,
    /// As it was after this sequence of its log.
    Sequence(u64),
    /// The named snapshot, or what the writable snapshot or further volume of this name is now.
    Snapshot(String),
}

/// What to salvage, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageOptions {
    /// Which image.
    pub moment: Moment,
    /// Go by the headers of batches alone, wherever they lie: neither index nor rows.
    pub scan: bool,
    /// Hand out what is not certain too.
    pub doubtful: bool,
    /// The volume's size, where no superblock is left that says it.
    pub size_bytes: Option<u64>,
    /// The volume had no base beside its log, where no superblock is left that says so.
    pub no_base: bool,
    /// Where the blocks of a volume without a log begin, where no superblock is left that says it.
    pub direct_offset_bytes: Option<u64>,
    /// Versions in memory at a time; [`VERSIONS_MAX`] unless said otherwise.
    pub versions_max: Option<usize>,
}

/// What a range of blocks is. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It is there, with its checksum if the volume keeps any at all.
    Good,
    /// It lies where it is known to lie, in a base or a linear object, where there are no checksums: what is read there
    /// may be anything.
    Unverified,
    /// Never written, or zero since.
    Zero,
    /// A version is whole, and a newer one may have been lost.
    Uncertain,
    /// The device cannot read it.
    Unreadable,
    /// It has not the checksum that it had.
    Wrong,
    /// Nothing says where it lies, or whether it was written.
    Unknown,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::Unverified,
        Self::Zero,
        Self::Uncertain,
        Self::Unreadable,
        Self::Wrong,
        Self::Unknown,
    ];

    /// The name that programs match.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unverified => "unverified",
            Self::Zero => "zero",
            Self::Uncertain => "uncertain",
            Self::Unreadable => "unreadable",
            Self::Wrong => "wrong",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing is missing that could say that the block was something else at the moment.
    pub fn is_certain(self) -> bool {
        matches!(self, Self::Good | Self::Unverified | Self::Zero)
    }
}

/// What was handed out for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    /// Zeroes.
    Zeroes,
    /// The version's bytes, with its checksum if it has one.
    Whole,
    /// Bytes that have not their checksum.
    AsFound,
    /// An older version, whole.
    Older,
}

impl Given {
    /// The name that programs match.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zeroes => "zeroes",
            Self::Whole => "whole",
            Self::AsFound => "as-found",
            Self::Older => "older",
        }
    }
}

/// A range of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First block.
    pub block: u64,
    /// How many.
    pub blocks: u64,
    /// What they are.
    pub status: Status,
    /// An older version of each is whole.
    pub older: bool,
    /// What was handed out.
    pub given: Given,
}

/// What was salvaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// The volume's size.
    pub size_bytes: u64,
    /// Unit of I/O and checksum.
    pub block_bytes: u32,
    /// The volume keeps a checksum of each block, but of those in a base.
    pub has_checksums: bool,
    /// The moment; 0 where the volume keeps no order.
    pub sequence: u64,
    /// The last sequence that anything tells of.
    pub newest_sequence: u64,
    /// Durable sequences up to there of which nothing tells.
    pub lost_sequences: u64,
    /// The index was not enough: batches were looked for in the whole data area.
    pub scanned: bool,
    /// Blocks by what they are, in the order of [`Status::ALL`].
    pub blocks: [u64; 7],
    /// The list, in the order of the volume: at most [`RANGES_MAX`] ranges of lost blocks and as many others.
    pub stretches: Vec<Stretch>,
    /// Ranges that are not in the list.
    pub left_out: u64,
    /// What is damaged, as a check tells it.
    pub findings: Vec<Finding>,
    kept: [usize; 2],
}

impl SalvageReport {
    /// Blocks of this status.
    pub fn of(&self, status: Status) -> u64 {
        Status::ALL.iter().zip(self.blocks).filter(|(one, _)| **one == status).map(|(_, blocks)| blocks).sum()
    }

    /// Whether all of the image was there, and nothing behind it is missing.
    pub fn is_whole(&self) -> bool {
        let missing = Status::ALL.iter().filter(|status| !status.is_certain());
        missing.map(|status| self.of(*status)).sum::<u64>() == 0 && self.lost_sequences == 0
    }

    fn add(&mut self, block: u64, blocks: u64, status: Status, older: bool, given: Given) {
        for (known, count) in Status::ALL.iter().zip(&mut self.blocks) {
            *count += if *known == status { blocks } else { 0 };
        }
        let same = |last: &&mut Stretch| {
            (last.block + last.blocks, last.status, last.older, last.given) == (block, status, older, given)
        };
        if let Some(last) = self.stretches.last_mut().filter(same) {
            last.blocks += blocks;
            return;
        }
        let kept = &mut self.kept[usize::from(status.is_certain())];
        if *kept < RANGES_MAX {
            *kept += 1;
            self.stretches.push(Stretch { block, blocks, status, older, given });
        } else {
            self.left_out += 1;
        }
    }
}

/// Where the volume's blocks come from.
enum Source {
    Direct { offset: u64, bytes: u64, block_bytes: u32 },
    Log(Box<Plan>),
}

/// A damaged pool that has been looked at.
pub struct Salvage<'a> {
    checker: Checker<'a>,
    options: SalvageOptions,
    source: Source,
}

impl<'a> Salvage<'a> {
    /// Looks at what is left of the volume on a device that nobody writes to.
    ///
    /// # Errors
    /// `NotSalvaged` where nothing says what it was; `UnknownVersion`, `UnknownFeatures`, `UnknownBackend` where it is
    /// for another build; `UnknownMoment`, `Expired`, `NoSnapshot`, `SnapshotBroken`; what the device says, unless it is only places
    /// that it cannot read.
    pub async fn prepare(
        device: &'a Device,
        options: SalvageOptions,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self> {
        Self::prepare_on(device, Beside::default(), options, progress).await
    }

    /// As [`Salvage::prepare`], for a pool on several devices.
    ///
    /// # Errors
    /// As [`Salvage::prepare`]; `DeviceMissing`, `WrongDevice` or `InvalidSetting` where the devices are not those of the
    /// pool.
    pub async fn prepare_on(
        device: &'a Device,
        beside: Beside<'a>,
        options: SalvageOptions,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let mut checker = Checker::new(device, beside, progress);
        let readable = superblock::readable(&mut checker).await?;
        let is_told = options.size_bytes.is_some() || options.direct_offset_bytes.is_some();
        if (is_told || options.no_base) && !matches!(readable, Readable::Gone) {
            let name = if is_told { "size" } else { "no-base" };
            let rule = "a superblock is left, and says it";
            let value = options.size_bytes.or(options.direct_offset_bytes).unwrap_or(0).to_string();
            return Err(refusal(device, Reason::InvalidSetting { name, value, rule }));
        }
        let direct = |offset, bytes, block_bytes| Source::Direct { offset, bytes, block_bytes };
        let source = match (readable, options.direct_offset_bytes, options.size_bytes) {
            (Readable::Direct { offset, bytes, block_bytes }, ..) => direct(offset, bytes, block_bytes),
            (Readable::Gone, Some(offset), Some(bytes)) => {
                direct(offset, bytes, device.geometry().logical_block_bytes.max(4096))
            }
            (Readable::Gone, Some(offset), None) => {
                let (name, rule) = ("direct-offset", "the size is needed too");
                return Err(refusal(
                    device,
                    Reason::InvalidSetting { name, value: offset.to_string(), rule },
                ));
            }
            (Readable::Gone, None, size_bytes) => {
                Source::Log(Box::new(Plan::without_superblock(&mut checker, &options, size_bytes).await?))
            }
            (Readable::Log(shape, created_unix_s), ..) => {
                Source::Log(Box::new(Plan::new(&mut checker, &options, *shape, created_unix_s).await?))
            }
        };
        if matches!(source, Source::Direct { .. }) && options.moment != Moment::Newest {
            return Err(refusal(device, Reason::NoPast { backend: "direct" }));
        }
        let salvage = Self { checker, options, source };
        let is_aligned = salvage.size_bytes().is_multiple_of(salvage.block_bytes().into());
        let end = if let Source::Direct { offset, bytes, .. } = &salvage.source {
            offset.checked_add(*bytes)
        } else {
            Some(0)
        };
        let logical = u64::from(device.geometry().logical_block_bytes);
        if !is_aligned || salvage.size_bytes() == 0 || end.is_none_or(|end| !end.is_multiple_of(logical)) {
            let (name, rule) = ("size", "a number of whole blocks is needed");
            let value = salvage.size_bytes().to_string();
            return Err(refusal(device, Reason::InvalidSetting { name, value, rule }));
        }
        Ok(salvage)
    }

    /// The volume's size: what the image needs.
    pub fn size_bytes(&self) -> u64 {
        match &self.source {
            Source::Direct { bytes, .. } => *bytes,
            Source::Log(plan) => plan.volume_blocks * u64::from(plan.area.shape.block_bytes),
        }
    }

    fn block_bytes(&self) -> u32 {
        match &self.source {
            Source::Direct { block_bytes, .. } => *block_bytes,
            Source::Log(plan) => plan.area.shape.block_bytes,
        }
    }

    /// Writes the image to another device, durably. `is_zero`: that one reads as zero already.
    ///
    /// # Errors
    /// `DeviceTooSmall` before anything is written; what the devices say.
    pub async fn write(mut self, out: &Device, is_zero: bool) -> Result<SalvageReport> {
        let (size_bytes, block_bytes) = (self.size_bytes(), self.block_bytes());
        let found_bytes = out.geometry().size_bytes;
        if found_bytes < size_bytes {
            return Err(refusal(out, Reason::DeviceTooSmall { needed_bytes: size_bytes, found_bytes }));
        }
        let mut report = SalvageReport { size_bytes, block_bytes, ..SalvageReport::default() };
        let mut output = Output::new(out, size_bytes, is_zero);
        match &self.source {
            Source::Direct { offset, .. } => {
                emit::copy(&mut self.checker, *offset, &mut output, &mut report).await?;
            }
            Source::Log(plan) => {
                report.has_checksums = true;
                report.sequence = plan.moment;
                report.newest_sequence = plan.newest;
                report.lost_sequences = plan.lost;
                report.scanned = plan.is_scanned;
                emit::emit(&mut self.checker, plan, &self.options, &mut output, &mut report).await?;
            }
        }
        output.end().await?;
        report.findings = self.checker.report.findings;
        Ok(report)
    }
}

fn refusal(device: &Device, reason: Reason) -> Error {
    Error::new("salvage", reason).on(device.name())
}
