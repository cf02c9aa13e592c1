//! `icecore attach`: has a volume open until it is told to end, and lets others reach it there.

use std::path::PathBuf;

use clap::Args;
use icecore::error::Error;
use icecore::export::control::{ControlSocket, run_directory};
use icecore::volume::{ApplyMode, ApplyOptions, OpenMode, OpenOptions, Volume, format_id};
use serde_json::{Value, json};

use super::inspect::IoPaths;
use crate::failure::Outcome;
use crate::interrupt;
use crate::output::{Done, print};
use crate::session::{IoOptions, VolumeDevice};

/// Arguments of `icecore attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The block device or file that holds the volume
    path: PathBuf,
    #[command(flatten)]
    volume: VolumeDevice,
    /// Leave the log of a linear volume where it is, rather than apply it in the background
    #[arg(long)]
    no_apply: bool,
    /// Apply every entry in its order, rather than the newest of each block
    #[arg(long)]
    strict: bool,
    /// Print one JSON object, when it is ready
    #[arg(long)]
    pub json: bool,
}

impl Attach {
    /// Opens the volume, says so, serves its control socket until a signal comes, and closes it in order.
    ///
    /// # Errors
    /// As [`Volume::open`] and [`ControlSocket::bind`].
    pub fn run(self, io: IoOptions) -> Outcome<Done> {
        let runtime = io.runtime()?;
        let device = io.take(&runtime, &self.path)?;
        let paths = IoPaths::of(&device);
        let directory = run_directory()?;
        let mode = if self.strict { ApplyMode::Strict } else { ApplyMode::Absorb };
        let apply = ApplyOptions { mode, automatic: !self.no_apply, ..ApplyOptions::default() };
        let options = OpenOptions { apply, ..OpenOptions::default() };
        let json = self.json;
        runtime.block_on(async {
            let pool_id = Volume::inspect(&device).await?.pool_id;
            let devices = self.volume.take(io, &runtime, device)?;
            // Nothing has been written yet, should it be refused. Whoever comes early waits until it is served.
            let socket = ControlSocket::bind(&directory, &self.path, &pool_id)?;
            let volume = Volume::open_with(devices, OpenMode::ReadWrite, options).await?;
            let stopper = socket.stopper();
            interrupt::end_with(move || stopper.stop());
            let (handle, serving) = volume.handle();
            let (id, place) = (format_id(&volume.info().id), socket.path().display().to_string());
            let thread = std::thread::Builder::new().name("control".to_string());
            let thread = thread.spawn(move || socket.serve(&handle));
            let thread = thread.map_err(|error| Error::from_io("start a thread", &error))?;
            let printed = print(
                &paths.named_in(Done {
                    object: json!({ "id": id, "control_socket": place, "process": std::process::id() }),
                    text: format!("{id} {place}\n"),
                    remark: format!("{} is open; a signal ends it", self.path.display()),
                }),
                json,
            );
            // It ends with the last handle, which the thread drops.
            serving.await;
            let served = thread.join();
            let closed = volume.close().await;
            printed?;
            served.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            closed?;
            let remark = format!("{}: closed", self.path.display());
            Ok(Done { object: Value::Null, text: String::new(), remark })
        })
    }
}
