//! `icecore recover`: makes a volume with a damaged log writable again, at a price that is told first.
//!
//! A damaged log is served up to the damage and takes no writes: what was durable behind it is missing, and going on
//! from there gives it up for good. That is for a person to decide. Without `--accept-loss` nothing is written.

use std::path::PathBuf;

use clap::Args;
use icecore::store::log::RecoveryReport;
use icecore::volume::{OpenMode, Volume};
use serde_json::{Value, json};

use super::inspect::IoPaths;
use crate::exit::Code;
use crate::failure::{Failure, Outcome};
use crate::output::Done;
use crate::session::{IoOptions, VolumeDevice};

/// Arguments of `icecore recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Give up, for good, what lies behind the damage
    #[arg(long)]
    accept_loss: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Recover {
    /// Looks, tells, and acts only where there is a damage and its loss is accepted.
    ///
    /// # Errors
    /// As [`Volume::open`]; a damage whose loss was not accepted ends with the code of a refusal.
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.take(&runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        let devices = self.volume.take(io, &runtime, device)?;
        let done = |object, remark| paths.named_in(Done { object, text: String::new(), remark });
        runtime.block_on(async {
            let looked = Volume::open(devices.clone(), OpenMode::ReadOnly).await?;
            let recovery = looked.status().log.map(|log| log.recovery);
            drop(looked);
            let path = self.path.display();
            let Some((recovery, good)) = recovery.and_then(|found| Some((found, found.damaged_after?)))
            else {
                let remark = format!("{path}: nothing is damaged; nothing was done");
                return Ok(done(json!({ "damaged": false }), remark));
            };
            let lost = loss(&recovery, good);
            if !self.accept_loss {
                let remark = format!("{path}: {lost}; pass --accept-loss to give it up and write on");
                return Err(Failure::Found(done(describe(&recovery, good, false), remark), Code::Refused));
            }
            eprintln!("icecore: {path}: {lost}");
            let volume = Volume::open(devices, OpenMode::ReadWriteAcceptingLoss).await?;
            volume.close().await?;
            let remark = format!("{path}: writable again from sequence {good} on");
            Ok(done(describe(&recovery, good, true), remark))
        })
    }
}

/// At least so many: what was never said to be durable may be missing too.
fn lost_entries(recovery: &RecoveryReport, good: u64) -> u64 {
    recovery.promised_through.saturating_sub(good)
}

fn loss(recovery: &RecoveryReport, good: u64) -> String {
    format!(
        "its log is good through sequence {good} and was durable through {}: {} entries are lost, at least",
        recovery.promised_through,
        lost_entries(recovery, good)
    )
}

fn describe(recovery: &RecoveryReport, good: u64, accepted: bool) -> Value {
    json!({
        "damaged": true,
        "good_through": good,
        "durable_through": recovery.promised_through,
        "lost_entries_at_least": lost_entries(recovery, good),
        "accepted": accepted,
    })
}
