//! The formats by name, which parser each has, and how a format is found out from a file's first bytes.

use std::fmt;
use std::str::FromStr;

use super::chunk::{Chunk, Fault};
use super::text::parse_lines;
use super::vscsi::{self, VSCSI1, VSCSI2};
use super::{alibaba, blkparse, blktrace, fio_iolog, fiu, mqsim, msr, spc, systor, tencent};

/// A layout of traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// MSR Cambridge; the volume is the disk, plus 65,536 for each host before its own.
    Msr,
    /// SPC, as of the UMass repository; the volume is the application storage unit.
    Spc,
    /// Alibaba 2020; the volume is the device.
    Alibaba,
    /// Tencent CBS; the volume is the volume.
    Tencent,
    /// SYSTOR '17; the volume is the LUN.
    Systor17,
    /// FIU; the volume is the device, its major number shifted by 20 bits.
    Fiu,
    /// CloudPhysics, version 1; the volume is the number of the file, from 0.
    Vscsi1,
    /// CloudPhysics, version 2; the volume is the number of the file, from 0.
    Vscsi2,
    /// The text of blkparse; the volume is the device, its major number shifted by 20 bits.
    Blkparse,
    /// The files of blktrace; the volume is the device, its major number shifted by 20 bits.
    Blktrace,
    /// A log of fio, version 2; the volume is the file, by first appearance.
    FioV2,
    /// A log of fio, version 3; the volume is the file, by first appearance.
    FioV3,
    /// MQSim; the volume is the device.
    Mqsim,
}

/// Of a request that shows as several events, the one that stands for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockEvent {
    /// Q: what was asked of the block layer.
    #[default]
    Queued,
    /// D: what was handed to the driver, after merging and splitting.
    Issued,
}

impl BlockEvent {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            BlockEvent::Queued => "queued",
            BlockEvent::Issued => "issued",
        }
    }

    pub(super) const fn letter(self) -> &'static [u8] {
        match self {
            BlockEvent::Queued => b"Q",
            BlockEvent::Issued => b"D",
        }
    }

    pub(super) const fn number(self) -> u32 {
        match self {
            BlockEvent::Queued => 1,
            BlockEvent::Issued => 7,
        }
    }
}

/// How the content is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Behind a line end.
    Lines,
    /// At a multiple of so many bytes.
    Records(usize),
    /// Behind a whole event.
    Events,
}

impl Format {
    /// Every format, in the order in which they are listed.
    pub const ALL: [Format; 13] = [
        Format::Msr,
        Format::Spc,
        Format::Alibaba,
        Format::Tencent,
        Format::Systor17,
        Format::Fiu,
        Format::Vscsi1,
        Format::Vscsi2,
        Format::Blkparse,
        Format::Blktrace,
        Format::FioV2,
        Format::FioV3,
        Format::Mqsim,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Msr => "msr",
            Format::Spc => "spc",
            Format::Alibaba => "alibaba",
            Format::Tencent => "tencent",
            Format::Systor17 => "systor17",
            Format::Fiu => "fiu",
            Format::Vscsi1 => "vscsi1",
            Format::Vscsi2 => "vscsi2",
            Format::Blkparse => "blkparse",
            Format::Blktrace => "blktrace",
            Format::FioV2 => "fio-v2",
            Format::FioV3 => "fio-v3",
            Format::Mqsim => "mqsim",
        }
    }

    /// Whether a record says which volume it is for.
    pub const fn names_volumes(self) -> bool {
        !matches!(self, Format::Vscsi1 | Format::Vscsi2)
    }

    /// Whether requests show as several events, of which one is chosen.
    pub const fn has_events(self) -> bool {
        matches!(self, Format::Blkparse | Format::Blktrace)
    }

    /// The bits of a volume's number below those that number a name; `None` where volumes have no names.
    pub(super) const fn name_shift(self) -> Option<u32> {
        match self {
            Format::Msr => Some(msr::DISK_BITS),
            Format::FioV2 | Format::FioV3 => Some(0),
            _ => None,
        }
    }

    pub(super) const fn cut(self) -> Cut {
        match self {
            Format::Vscsi1 => Cut::Records(VSCSI1.record_bytes),
            Format::Vscsi2 => Cut::Records(VSCSI2.record_bytes),
            Format::Blktrace => Cut::Events,
            _ => Cut::Lines,
        }
    }

    /// Parses a chunk, as far as more than `bad_max` of its records are no good.
    pub(super) fn parse(self, event: BlockEvent, chunk: &mut Chunk, bad_max: u64) {
        match self {
            Format::Msr => parse_lines(msr::Msr, chunk, bad_max),
            Format::Spc => parse_lines(spc::Spc, chunk, bad_max),
            Format::Alibaba => parse_lines(alibaba::Alibaba, chunk, bad_max),
            Format::Tencent => parse_lines(tencent::Tencent, chunk, bad_max),
            Format::Systor17 => parse_lines(systor::Systor, chunk, bad_max),
            Format::Fiu => parse_lines(fiu::Fiu, chunk, bad_max),
            Format::Vscsi1 => vscsi::parse(VSCSI1, chunk, bad_max),
            Format::Vscsi2 => vscsi::parse(VSCSI2, chunk, bad_max),
            Format::Blkparse => parse_lines(blkparse::Blkparse(event), chunk, bad_max),
            Format::Blktrace => blktrace::parse(event, chunk, bad_max),
            Format::FioV2 => parse_lines(fio_iolog::FioV2, chunk, bad_max),
            Format::FioV3 => parse_lines(fio_iolog::FioV3, chunk, bad_max),
            Format::Mqsim => parse_lines(mqsim::Mqsim, chunk, bad_max),
        }
    }

    /// The format of a file that begins with `head`, which is all of it where `whole`; a message if it is none, or
    /// several.
    pub(super) fn detect(head: &[u8], whole: bool) -> Result<Format, String> {
        if head.is_empty() {
            return Err("the file is empty".into());
        }
        if blktrace::begins(head) {
            return Ok(Format::Blktrace);
        }
        // A record of version 2 may by chance look like one of version 1, whose version lies in a length.
        for (format, layout) in [(Format::Vscsi2, VSCSI2), (Format::Vscsi1, VSCSI1)] {
            if vscsi::begins(layout, head) {
                return Ok(format);
            }
        }
        for (header, format) in [
            (fio_iolog::HEADER_V2, Format::FioV2),
            (fio_iolog::HEADER_V3, Format::FioV3),
            (systor::HEADER, Format::Systor17),
        ] {
            if head.split(|byte| *byte == b'\n').next().is_some_and(|line| line.trim_ascii_end() == header) {
                return Ok(format);
            }
        }
        by_lines(head, whole)
    }
}

/// Lines that a format is told by.
const LINES_LOOKED_AT: usize = 64;

/// The format that understands most of the first lines, and more than half of them. Some may be damaged: that is then
/// told with the line and the reason.
fn by_lines(head: &[u8], whole: bool) -> Result<Format, String> {
    let mut sample = Vec::new();
    let mut lines = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if lines == LINES_LOOKED_AT || !(whole || line.ends_with(b"\n")) {
            break;
        }
        sample.extend_from_slice(line);
        lines += usize::from(!line.trim_ascii().is_empty());
    }
    let understood = |format: Format| {
        if format.cut() != Cut::Lines || matches!(format, Format::FioV2 | Format::FioV3) {
            return 0;
        }
        let mut chunk = Chunk { content: sample.clone(), ..Chunk::default() };
        format.parse(BlockEvent::Queued, &mut chunk, u64::MAX);
        if chunk.bad.iter().any(|bad| bad.fault == Fault::Fatal) {
            return 0;
        }
        let passed = chunk.passed.not_requests + chunk.passed.other_events + chunk.passed.empty;
        chunk.records.len() + passed as usize
    };
    let scores: Vec<_> = Format::ALL.into_iter().map(|format| (understood(format), format)).collect();
    let best = scores.iter().map(|(score, _)| *score).max().unwrap_or(0);
    let of_best: Vec<_> =
        scores.iter().filter(|(score, _)| *score == best).map(|(_, format)| format.name()).collect();
    match (best * 2 > lines, of_best.as_slice()) {
        (true, [name]) => name.parse().map_err(|error: UnknownFormat| error.to_string()),
        (true, several) => {
            Err(format!("the format may be any of {}; --format says which", several.join(", ")))
        }
        (false, _) => Err(format!("the format is not known; --format says which: {}", Names)),
    }
}

/// The names of all formats.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, format) in Format::ALL.iter().enumerate() {
            write!(formatter, "{}{}", if index == 0 { "" } else { ", " }, format.name())?;
        }
        Ok(())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat { name: name.to_owned() })
    }
}

/// No format has this name; the message lists those that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat {
    /// What was asked for.
    pub name: String,
}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unknown trace format {:?}; known formats: {Names}", self.name)
    }
}

impl std::error::Error for UnknownFormat {}
