//! Plays a script: a runtime in virtual time, a simulated disk, a volume on it, and the model beside it.
//!
//! Operations run as tasks, several at a time; between them power is cut, the volume is reopened or made
//! anew, its superblocks are tampered with. Faults wait in a queue for a request that they fit.

mod back;
mod base;
mod branched;
mod faults;
mod named;
mod past;
mod shared;
mod superblocks;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Report;
use super::model::{Digest, Model};
use super::script::{Script, Step};
use crate::buf::BufPoolOptions;
use crate::device::Device;
use crate::device::simulated::{Fault, SimulatedDisk};
use crate::runtime::{Runtime, Task};
use crate::units::SECTOR_BYTES;
use crate::volume::{DurabilityClass, OpenMode, OpenOptions, Volume};
use faults::{Faults, Strikes};
use past::Past;
use shared::{Shared, TicketCell};

/// Virtual time after which something that has not ended counts as hung. Far above the sum of all stalls.
const HANG_NS: u64 = 600_000_000_000;
/// How often the play looks whether something has happened.
const LOOK_NS: u64 = 20_000;
/// How long a held operation is held.
const HOLD_NS: u64 = 5_000_000;
/// Freed buffers are poisoned and kept back, so that a late write of the disk would show.
const QUARANTINE_BUFFERS: usize = 64;

/// Plays a script to its end or its first failure. `once`: this request of the disk, counted from the
/// beginning, fails like this, whatever it belongs to.
pub fn play(script: &Script, once: Option<(u64, Fault)>) -> Report {
    let buffers = BufPoolOptions {
        arena_bytes: 0,
        quarantine_buffers: QUARANTINE_BUFFERS,
        ..BufPoolOptions::default()
    };
    let (runtime, calendar) = match Runtime::simulated_with(script.seed, buffers) {
        Ok(made) => made,
        Err(error) => panic!("the simulation cannot begin: {error}"),
    };
    let device_bytes = script.device_bytes;
    let disk = SimulatedDisk::new(
        &calendar,
        script.seed,
        "simulated disk",
        device_bytes,
        script.logical_block_bytes,
    );
    let shared = Rc::new(Shared {
        context: runtime.context().clone(),
        disk: disk.clone(),
        model: RefCell::new(Model::new((script.volume_bytes / SECTOR_BYTES) as usize)),
        coverage: RefCell::default(),
        failure: RefCell::default(),
        active: Cell::new(0),
        contents: Cell::new(script.seed << 20),
        faults: Rc::new(Faults {
            once,
            leaves_writes: script.volatile_log_bytes.is_some(),
            ..Faults::default()
        }),
        poisoned: Cell::new(false),
        data_offset: Cell::new(0),
        blocks_called: Cell::new(0),
        block_bytes: script.block_bytes.into(),
        applies: Cell::new(0),
        images: Cell::default(),
    });
    shared.faults.install(&disk, device_bytes);
    let past = Past::default();
    let mut world = World { shared: Rc::clone(&shared), script, volume: None, tasks: Vec::new(), past };
    let played = runtime.block_on(world.play());
    let played = played.and_then(|()| shared.failure.borrow_mut().take().map_or(Ok(()), Err));
    drop(world);
    shared.coverage.borrow_mut().add("cut: torn write", disk.torn_writes());
    Report {
        failure: played.err(),
        hash: disk.hash(),
        clock_ns: calendar.now().0,
        requests: disk.requests(),
        trace: calendar.trace(),
        coverage: shared.coverage.borrow().clone(),
    }
}

struct World<'a> {
    shared: Rc<Shared>,
    script: &'a Script,
    volume: Option<Volume>,
    tasks: Vec<Task<()>>,
    past: Past,
}

impl World<'_> {
    async fn play(&mut self) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let janitor = shared.context.spawn(release_held(Rc::clone(&shared)));
        self.make(None).await?;
        for step in &self.script.steps {
            self.step(*step).await.map_err(|what| self.with_status(what))?;
            if let Some(failure) = shared.failure.borrow_mut().take() {
                return Err(failure);
            }
            if shared.poisoned.get() {
                self.reopen_poisoned().await?;
            }
        }
        self.cut(None).await?;
        janitor.abort();
        Ok(())
    }

    /// Where something hangs, how the log stands says most.
    fn with_status(&self, what: String) -> String {
        let log = self.volume.as_ref().and_then(|volume| volume.status().log);
        match log.filter(|_| what.ends_with("hangs")) {
            Some(log) => format!("{what}: {log:?}"),
            None => what,
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Write { sector, count, durable } => {
                let block = u64::from(self.script.block_bytes) / SECTOR_BYTES;
                let partial = !sector.is_multiple_of(block) || !count.is_multiple_of(block);
                let name = if durable { "operation: durable write" } else { "operation: write" };
                self.shared.note(if partial { "operation: partial write" } else { name });
                self.start(async move |shared, volume| {
                    shared.write(volume, sector, count, durable, &TicketCell::default()).await;
                })
                .await
            }
            Step::Read { sector, count } => {
                self.shared.note("operation: read");
                self.start(async move |shared, volume| shared.read(volume, sector, count).await).await
            }
            Step::Zero { sector, count, discard } => {
                self.shared.note(if discard { "operation: discard" } else { "operation: write zeroes" });
                self.start(async move |shared, volume| shared.zero(volume, sector, count, discard).await)
                    .await
            }
            Step::Flush => {
                self.shared.note("operation: flush");
                self.start(async move |shared, volume| shared.flush(volume).await).await
            }
            Step::CancelledWrite { sector, count, after_ns } => {
                self.shared.note("operation: cancelled write");
                self.start(async move |shared, volume| {
                    let ticket = TicketCell::default();
                    let writing = shared.write(volume, sector, count, false, &ticket);
                    if !shared.finishes_within(after_ns, writing).await
                        && let Some(begun) = ticket.take()
                    {
                        shared.model.borrow_mut().end_write(&begun, false, false);
                    }
                })
                .await
            }
            Step::CancelledFlush { after_ns } => {
                self.shared.note("operation: cancelled flush");
                self.start(async move |shared, volume| {
                    shared.finishes_within(after_ns, shared.flush(volume)).await;
                })
                .await
            }
            Step::Apply => {
                self.shared.note("operation: apply");
                self.start(async move |shared, volume| shared.apply(volume).await).await
            }
            Step::Pause { nanoseconds } => {
                self.shared.context.sleep(nanoseconds).await;
                Ok(())
            }
            Step::Settle => self.settle().await,
            Step::Arm(fault) => {
                self.shared.faults.armed.borrow_mut().push_back(fault);
                Ok(())
            }
            Step::Cut { again_after } => {
                self.shared.note("cut: while serving");
                self.cut(again_after).await
            }
            Step::Reopen { cut_after } => self.reopen(cut_after).await,
            Step::Recreate { cut_after } => self.make(cut_after).await,
            Step::Tamper(tampering) => self.tamper(tampering).await,
            Step::Pin => self.pin().await,
            Step::Remember { keep } => self.remember(keep).await,
            Step::Recall { which } => self.recall(which).await,
            Step::GoBack { which } => self.go_back(which).await,
            Step::TakeSnapshot { which } => {
                self.take_snapshot(which).await?;
                self.judge_snapshots().await
            }
            Step::Fold { which } => {
                self.fold(which).await?;
                self.judge_snapshots().await
            }
            Step::Branch { which } => self.branch(which).await,
            Step::DamageLog { byte } => self.damage_log(byte).await,
        }
    }

    /// Starts an operation as a task once fewer than the script's depth are active.
    async fn start<F>(&mut self, operation: F) -> Result<(), String>
    where
        F: AsyncFnOnce(&Shared, &Volume) + 'static,
    {
        let shared = Rc::clone(&self.shared);
        let started = shared.context.now().0;
        while shared.active.get() >= self.script.depth {
            if shared.context.now().0 - started > HANG_NS {
                return Err("an operation hangs".to_string());
            }
            shared.context.sleep(LOOK_NS).await;
        }
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let active = shared.begin();
        let context = shared.context.clone();
        self.tasks.push(context.spawn(async move {
            operation(&shared, &volume).await;
            drop(active);
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let tasks = std::mem::take(&mut self.tasks);
        shared.bounded("an operation", crate::runtime::join_all(tasks)).await?;
        shared.absorb();
        let (held, intact) = shared.context.buffers().quarantine_intact();
        if !intact {
            return Err(format!("one of {held} freed buffers was written to after it was freed"));
        }
        shared.model.borrow_mut().settle();
        Ok(())
    }

    /// The volume, with nothing in flight; `None` where it has said that it is poisoned.
    async fn quiet_volume(&mut self) -> Result<Option<Volume>, String> {
        self.settle().await?;
        let Some(volume) = self.volume.clone() else { return Err("the volume is not open".to_string()) };
        let poisoned = volume.status().poisoned;
        self.shared.poisoned.set(self.shared.poisoned.get() || poisoned);
        Ok((!poisoned).then_some(volume))
    }

    fn abandon(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.volume = None;
    }

    async fn cut(&mut self, again_after: Option<u64>) -> Result<(), String> {
        self.abandon();
        self.power_off();
        if let Some(requests) = again_after {
            self.note_row();
            let device = self.open_disk().await?;
            let options = self.open_options();
            let opening = self.shared.context.spawn(async move {
                let _volume = Volume::open_with(device, OpenMode::ReadWrite, options).await;
            });
            if self.until(requests, &opening).await {
                self.shared.note("cut: while opening");
            }
            opening.abort();
            drop(opening);
            self.power_off();
        }
        self.recover().await
    }

    fn power_off(&self) {
        self.past.close_images();
        self.shared.faults.striking.set(false);
        self.shared.faults.held.borrow_mut().clear();
        self.shared.disk.cut_power();
        self.shared.absorb();
        self.shared.poisoned.set(false);
    }

    /// Lets a task run until the disk has seen this many more requests. False if the task ended first.
    async fn until<T>(&self, requests: u64, task: &Task<T>) -> bool {
        let limit = self.shared.disk.requests() + requests;
        while self.shared.disk.requests() < limit && !task.has_ended() {
            self.shared.context.sleep(LOOK_NS).await;
        }
        !task.has_ended()
    }

    fn open_options(&self) -> OpenOptions {
        self.shared.applies.set(self.shared.applies.get() + u64::from(self.script.apply.at_open));
        let volatile_log_bytes = self.script.volatile_log_bytes.unwrap_or_default();
        // A write that waits is judged like any other; one that is refused would be no write.
        let (index_bytes, apply) = (self.script.index_bytes, self.script.apply);
        // Overlays alone do it.
        let move_home_on_read = self.script.seed.is_multiple_of(2);
        OpenOptions {
            index_bytes,
            apply,
            refuse_when_full: false,
            move_home_on_read,
            volatile_log_bytes,
            ..OpenOptions::default()
        }
    }

    /// Opens after a power cut and judges everything.
    async fn recover(&mut self) -> Result<(), String> {
        self.note_row();
        self.open().await?;
        let found = self.read_all().await?;
        self.shared.model.borrow_mut().check_cut(&found).map_err(|what| format!("after a cut: {what}"))?;
        self.shared.note("cut: recovered and judged");
        self.past.a_cut_has_passed();
        self.shared.faults.striking.set(true);
        Ok(())
    }

    /// Opens the disk, once what an earlier opener left in flight has ended. No fault from before excuses anything.
    async fn open_disk(&self) -> Result<Device, String> {
        self.past.close_images();
        let started = self.shared.context.now().0;
        loop {
            match self.shared.disk.open(&self.shared.context) {
                Ok(device) => {
                    self.shared.faults.strikes.set(Strikes::default());
                    return Ok(device);
                }
                Err(error) if self.shared.context.now().0 - started > HANG_NS => {
                    return Err(error.to_string());
                }
                Err(_busy) => self.shared.context.sleep(LOOK_NS).await,
            }
        }
    }

    async fn open(&mut self) -> Result<(), String> {
        let device = self.open_disk().await?;
        let opening = Volume::open_with(device, OpenMode::ReadWrite, self.open_options());
        let volume = match self.shared.bounded("open", opening).await? {
            Ok(volume) => volume,
            // What opening cannot read, it may call damaged.
            Err(_error) if self.shared.faults.strikes.get().any() => {
                return Box::pin(self.open()).await;
            }
            Err(error) => return Err(format!("open fails: {error}")),
        };
        let info = volume.info();
        if info.size_bytes != self.script.volume_bytes || info.block_bytes != self.script.block_bytes {
            return Err(format!("it opens as something else: {info:?}"));
        }
        self.shared.data_offset.set(info.data_offset_bytes);
        self.shared.faults.lied_about_head.set(false);
        let is_volatile = info.durability_class == DurabilityClass::None;
        if is_volatile != self.script.volatile_log_bytes.is_some() {
            return Err(format!("it says that it is of another durability class: {info:?}"));
        }
        if is_volatile {
            self.shared.note("log: volatile");
        }
        if info.log.is_some_and(|log| log.thin) != self.script.thin {
            return Err(format!("it says the wrong thing of where its space is: {info:?}"));
        }
        if self.script.thin {
            self.shared.note("linear: thin");
        }
        self.note_log(&volume);
        self.past.opened(&volume.info());
        self.volume = Some(volume);
        Ok(())
    }

    async fn read_all(&self) -> Result<Vec<Digest>, String> {
        let Some(volume) = &self.volume else { return Err("the volume is not open".to_string()) };
        let sectors = self.script.volume_bytes / SECTOR_BYTES;
        let mut found = Vec::with_capacity(sectors as usize);
        let mut at = 0;
        while at < sectors {
            let count = (sectors - at).min(512);
            let before = self.shared.faults.strikes.get();
            let reading = self.shared.read_digests(volume, at, count);
            match self.shared.bounded("read", reading).await? {
                Ok(digests) => found.extend(digests),
                // That one request has failed just now; it does so once.
                Err(error)
                    if self.shared.faults.strikes.get() != before
                        && self.shared.faults.strikes.get().excuse(&error) =>
                {
                    continue;
                }
                Err(error) => return Err(format!("reading everything fails: {error}")),
            }
            at += count;
        }
        Ok(found)
    }

    async fn reopen_poisoned(&mut self) -> Result<(), String> {
        self.settle().await?;
        self.shared.note("reopen: after a failed flush");
        // Whoever sees a poisoned volume must take everything that is not durable to be in doubt.
        self.shared.model.borrow_mut().fail_flush();
        self.volume = None;
        self.shared.faults.striking.set(false);
        self.shared.poisoned.set(false);
        self.open().await?;
        self.shared.faults.striking.set(true);
        Ok(())
    }

    async fn reopen(&mut self, cut_after: Option<u64>) -> Result<(), String> {
        self.settle().await?;
        let Some(volume) = self.volume.take() else { return Err("the volume is not open".to_string()) };
        let mark = self.shared.model.borrow().mark();
        let closing = self.shared.context.spawn(async move { volume.close().await });
        if let Some(requests) = cut_after {
            let cut = self.until(requests, &closing).await;
            if cut {
                self.shared.note("cut: while closing");
                closing.abort();
            } else {
                match closing.await {
                    Some(Ok(())) => self.shared.model.borrow_mut().end_flush(mark),
                    Some(Err(error)) => self.shared.judge_error("close", &error),
                    None => return Err("the closing vanished".to_string()),
                }
            }
            self.power_off();
            return self.recover().await;
        }
        let closed = self.shared.bounded("close", closing).await?;
        self.shared.absorb();
        match closed {
            Some(Ok(())) => {
                self.shared.note("reopen: after a close");
                self.shared.model.borrow_mut().end_flush(mark);
                self.shared.faults.striking.set(false);
                self.open().await?;
                self.shared.faults.striking.set(true);
                Ok(())
            }
            Some(Err(error)) => {
                self.shared.judge_error("close", &error);
                self.reopen_poisoned().await
            }
            None => Err("the closing vanished".to_string()),
        }
    }
}

/// Lets held operations end after a while.
async fn release_held(shared: Rc<Shared>) {
    loop {
        shared.context.sleep(HOLD_NS).await;
        let held = std::mem::take(&mut *shared.faults.held.borrow_mut());
        for ticket in held {
            shared.disk.release_held(ticket);
        }
    }
}
