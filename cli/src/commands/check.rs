//! `icecore check`: compares everything that a volume's records and blocks say of each other.
//!
//! Offline: a volume that somebody has open is refused. Nothing is written. Damage ends with code 1 and the list.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use icecore::check::{Finding, Progress, Report, check_on};
use serde_json::{Value, json};

use super::inspect::IoPaths;
use crate::exit::Code;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{ClosedVolume, IoOptions, VolumeDevice};

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Arguments of `icecore check`.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub volume: ClosedVolume,
    #[command(flatten)]
    volume_device: VolumeDevice,
}

impl Check {
    /// Checks the volume; damage is a result of its own.
    ///
    /// # Errors
    /// As [`check`]; damage that was found.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let path = &self.volume.path;
        let device = io.take_to_read(&runtime, path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume_device.take_to_read(io, &runtime, device)?;
        let shown = std::io::stderr().is_terminal();
        let mut last = Instant::now();
        let mut progress = |progress: Progress| {
            if shown && (last.elapsed() >= PROGRESS_INTERVAL) {
                last = Instant::now();
                eprint!("\r{} of {} blocks ", progress.done, progress.total);
            }
        };
        let report = runtime.block_on(check_on(&devices.pool, devices.beside(), &mut progress))?;
        if shown {
            eprint!("\r");
        }
        let done = paths.named_in(Done {
            object: json!({
                "clean": report.damage == 0,
                "damage": report.damage,
                "warnings": report.warnings,
                "sequence": report.sequence,
                "index_entries": report.entries,
                "blocks": report.blocks,
                "findings": report.findings.iter().map(describe).collect::<Vec<Value>>(),
                "device": path.display().to_string(),
            }),
            text: table(&report),
            remark: format!("checked {} blocks of {}", report.blocks, path.display()),
        });
        if report.damage > 0 { Err(Failure::Found(done, Code::Found)) } else { Ok(done) }
    }
}

/// A finding, for programs.
pub(super) fn describe(finding: &Finding) -> Value {
    json!({
        "code": finding.code.name(),
        "severity": finding.code.severity().name(),
        "address": finding.place.address,
        "on_volume_device": finding.place.on_volume_device,
        "on_objects_device": finding.place.on_objects_device,
        "sequence": finding.place.sequence,
        "block": finding.place.block,
        "text": finding.text,
        "remedy": finding.code.remedy(),
    })
}

fn table(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for finding in &report.findings {
        let _written = writeln!(text, "{finding}");
    }
    let told = report.findings.len() as u64;
    let all = report.damage + report.warnings;
    if all > told {
        let _written = writeln!(text, "and {} more", all - told);
    }
    let verdict = if report.damage == 0 { "clean" } else { "damaged" };
    let _written =
        writeln!(text, "{verdict}: {} findings of damage, {} warnings", report.damage, report.warnings);
    text
}
