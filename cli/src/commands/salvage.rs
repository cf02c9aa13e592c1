//! `icecore salvage`: as much of a volume's image as a damaged pool still holds, to a file or another device.
//!
//! The damaged pool is not written, and nobody may have it open. Order: what there is to salvage, then every safety
//! rule of the target ([`Device::claim`]), then the image. A file that was made here disappears again unless the
//! image was written to its end. What is missing ends with code 1 and the list.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use icecore::check::{Moment, Progress, Salvage as Engine, SalvageOptions, SalvageReport, Status, Stretch};
use icecore::device::{Device, Identity, create_file};
use icecore::error::Error;
use serde_json::{Map, Value, json};

use super::inspect::IoPaths;
use crate::exit::Code;
use crate::failure::{Failure, Outcome};
use crate::interrupt::NewFile;
use crate::output::Done;
use crate::session::{ClosedVolume, IoOptions, VolumeDevice};
use crate::size;

/// Arguments of `icecore salvage`.
#[derive(Debug, Args)]
pub struct Salvage {
    #[command(flatten)]
    pub volume: ClosedVolume,
    #[command(flatten)]
    volume_device: VolumeDevice,
    /// Where the image goes: a file that is made, or what exists and is named with --destroy
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Says that the contents of exactly the target may be lost; needed for whatever exists
    #[arg(long, value_name = "SERIAL:BYTES")]
    destroy: Option<String>,
    /// The image after this sequence of its log (default: the newest that can be made out)
    #[arg(long, value_name = "N", conflicts_with = "at")]
    sequence: Option<u64>,
    /// The image of the named snapshot, or of the writable snapshot or further volume of this name as it is now
    #[arg(long, value_name = "NAME")]
    at: Option<String>,
    /// Go by the headers of the log's batches alone, wherever they lie, and by no index
    #[arg(long)]
    scan: bool,
    /// Write what is not certain too: versions that may not be the newest, older ones, bytes with a wrong checksum
    #[arg(long)]
    doubtful: bool,
    /// The volume's size, where no superblock is left that says it
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: Option<u64>,
    /// The volume had no base (it was log or linear), where no superblock is left that says it
    #[arg(long, conflicts_with = "direct_offset")]
    no_base: bool,
    /// Where the blocks of a volume without a log begin, where no superblock is left that says it
    #[arg(long, value_name = "BYTES", value_parser = size::parse, requires = "size")]
    direct_offset: Option<u64>,
}

impl Salvage {
    /// Writes the image; what is missing is a result of its own.
    ///
    /// # Errors
    /// As [`Engine::prepare`] and [`Engine::write`]; blocks that are missing.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let path = &self.volume.path;
        let device = io.take_to_read(&runtime, path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume_device.take_to_read(io, &runtime, device)?;
        let mut progress = |_: Progress| ();
        let options = self.options();
        let report = runtime.block_on(async {
            let salvage = Engine::prepare_on(&devices.pool, devices.beside(), options, &mut progress).await?;
            let (new_file, destroy) = self.make_file(salvage.size_bytes())?;
            let out = Device::claim(runtime.context(), &self.out, destroy.as_deref(), io.caching())?;
            let report = salvage.write(&out, new_file.is_some()).await?;
            if let Some(file) = new_file {
                file.keep();
            }
            Ok::<_, Error>(report)
        })?;
        let done = paths.named_in(Done {
            object: object(&report, &path.display().to_string(), &self.out.display().to_string()),
            text: table(&report),
            remark: format!("wrote {} bytes to {}", report.size_bytes, self.out.display()),
        });
        if report.is_whole() { Ok(done) } else { Err(Failure::Found(done, Code::Found)) }
    }

    fn options(&self) -> SalvageOptions {
        let moment = match (self.sequence, &self.at) {
            (Some(sequence), _) => Moment::Sequence(sequence),
            (None, Some(name)) => Moment::Snapshot(name.clone()),
            (None, None) => Moment::Newest,
        };
        SalvageOptions {
            moment,
            scan: self.scan,
            doubtful: self.doubtful,
            size_bytes: self.size,
            no_base: self.no_base,
            direct_offset_bytes: self.direct_offset,
            ..SalvageOptions::default()
        }
    }

    /// Makes the file if there is none, and says what may be destroyed: one that was made here is nobody's.
    fn make_file(&self, bytes: u64) -> Result<(Option<NewFile>, Option<String>), Error> {
        match create_file(&self.out, bytes) {
            Ok(()) => {
                let file = NewFile::made(&self.out);
                Ok((Some(file), Some(Identity::of(&self.out)?.destroy_argument())))
            }
            // Whether what is there may be overwritten is for the caller to say.
            Err(error) if super::create::is_there(&error) => Ok((None, self.destroy.clone())),
            Err(error) => Err(error),
        }
    }
}

fn object(report: &SalvageReport, device: &str, out: &str) -> Value {
    let counts: Map<String, Value> =
        Status::ALL.iter().map(|status| (status.name().to_string(), report.of(*status).into())).collect();
    json!({
        "whole": report.is_whole(),
        "size_bytes": report.size_bytes,
        "block_bytes": report.block_bytes,
        "checksums": report.has_checksums,
        "sequence": report.sequence,
        "newest_sequence": report.newest_sequence,
        "lost_sequences": report.lost_sequences,
        "scanned": report.scanned,
        "blocks": counts,
        "ranges": report.stretches.iter().map(range).collect::<Vec<Value>>(),
        "ranges_left_out": report.left_out,
        "findings": report.findings.iter().map(super::check::describe).collect::<Vec<Value>>(),
        "device": device,
        "out": out,
    })
}

fn range(stretch: &Stretch) -> Value {
    json!({
        "block": stretch.block,
        "blocks": stretch.blocks,
        "status": stretch.status.name(),
        "older": stretch.older,
        "written": stretch.given.name(),
    })
}

/// Every range that is missing, what is known of it, and the sums.
fn table(report: &SalvageReport) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for finding in &report.findings {
        let _written = writeln!(text, "{finding}");
    }
    for stretch in report.stretches.iter().filter(|stretch| !stretch.status.is_certain()) {
        let Stretch { block, blocks, status, given, .. } = stretch;
        let older = if stretch.older { ", an older version is whole" } else { "" };
        let _written = writeln!(
            text,
            "blocks {block} to {}: {}{older}; written: {}",
            block + blocks - 1,
            status.name(),
            given.name()
        );
    }
    if report.left_out > 0 {
        let _written = writeln!(text, "and {} more ranges", report.left_out);
    }
    if report.lost_sequences > 0 {
        let _written = writeln!(
            text,
            "this is sequence {}; {} changes behind it, up to sequence {}, are lost",
            report.sequence, report.lost_sequences, report.newest_sequence
        );
    }
    if report.scanned && report.of(Status::Uncertain) + report.of(Status::Unknown) > 0 {
        let _written = writeln!(
            text,
            "blocks that were moved lie outside of the log's batches and are known from the index alone; \
             --doubtful takes the newest version that was found"
        );
    }
    if report.of(Status::Unverified) > 0 {
        let _written = writeln!(
            text,
            "unverified blocks are written as they were found: they lie in a base or a linear object, where there \
             are no checksums"
        );
    }
    let counts: Vec<String> =
        Status::ALL.iter().map(|status| format!("{} {}", report.of(*status), status.name())).collect();
    let _written = writeln!(text, "{} blocks of {} bytes", counts.join(", "), report.block_bytes);
    text
}
