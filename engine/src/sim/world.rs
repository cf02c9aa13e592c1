//! Plays a script: a runtime in virtual time, a simulated disk, a volume on it, and the model beside it.
//!
//! Operations run as tasks, several at a time; between them power is cut, the volume is reopened or made
//! anew, its superblocks are tampered with. Faults wait in a queue for a request that they fit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::model::{Digest, Model, WriteTicket, digest, zero_digest};
use super::script::{ArmedFault, Script, Step, Tampering};
use super::{Coverage, Report};
use crate::buf::{Buf, BufPoolOptions};
use crate::device::Device;
use crate::device::simulated::{Fault, Request, SimulatedDisk};
use crate::error::{Error, Kind, Reason};
use crate::format::superblock::{COPY_OFFSETS, Decoded, SUPERBLOCK_BYTES, Superblock};
use crate::pool::layout::{HEAD_BYTES, Layout};
use crate::pool::superblock::{Verdict, judge};
use crate::runtime::{Context, OperationKind, Random, Runtime, Task};
use crate::store::Backend;
use crate::units::{ByteOffset, SECTOR_BYTES};
use crate::volume::{CreateOptions, Durability, OpenMode, Volume};

/// Virtual time after which something that has not ended counts as hung. Far above the sum of all stalls.
const HANG_NS: u64 = 600_000_000_000;
/// How often the play looks whether something has happened.
const LOOK_NS: u64 = 20_000;
/// How long a held operation is held.
const HOLD_NS: u64 = 5_000_000;
/// How long a stall lasts.
const STALL_NS: u64 = 50_000_000;
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
    let layout = Layout::plan(64 << 20, Some(script.volume_bytes), script.region_bytes.into());
    let device_bytes = layout.map_or(64 << 20, |layout| layout.data.end() + (64 << 10));
    let disk =
        SimulatedDisk::new(&calendar, script.seed, "simulated disk", device_bytes, script.logical_block_bytes);
    let shared = Rc::new(Shared {
        context: runtime.context().clone(),
        disk: disk.clone(),
        model: RefCell::new(Model::new((script.volume_bytes / SECTOR_BYTES) as usize)),
        coverage: RefCell::default(),
        failure: RefCell::default(),
        active: Cell::new(0),
        contents: Cell::new(script.seed << 20),
        faults: Rc::default(),
        poisoned: Cell::new(false),
        data_offset: Cell::new(0),
    });
    shared.faults.once.set(once);
    shared.faults.install(&disk, device_bytes);
    let mut world = World { shared: Rc::clone(&shared), script, volume: None, tasks: Vec::new() };
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

/// Faults that wait for a request, and what they need to remember.
#[derive(Default)]
struct Faults {
    armed: RefCell<VecDeque<ArmedFault>>,
    /// Faults strike only while this is set; recovery and tampering are judged without them.
    striking: Cell<bool>,
    held: RefCell<Vec<u64>>,
    /// The disk has lied about a superblock since the volume was last opened. It does so once at most: two
    /// copies cannot survive two lies.
    lied_about_head: Cell<bool>,
    failures: Cell<u64>,
    /// One request that fails, whatever the play is doing.
    once: Cell<Option<(u64, Fault)>>,
    /// That request has failed and nobody has been excused for it yet.
    excuse: Cell<bool>,
}

impl Faults {
    fn install(self: &Rc<Self>, disk: &SimulatedDisk, device_bytes: u64) {
        let faults = Rc::clone(self);
        disk.set_plan(Box::new(move |request, random| faults.strike(request, random, device_bytes)));
    }

    fn strike(&self, request: Request, random: &mut Random, device_bytes: u64) -> Option<Fault> {
        if let Some((number, fault)) = self.once.get()
            && number == request.number
        {
            self.failures.set(self.failures.get() + 1);
            self.excuse.set(true);
            return Some(fault);
        }
        if !self.striking.get() {
            return None;
        }
        let at = self.armed.borrow().iter().position(|armed| fits(*armed, &request))?;
        let armed = self.armed.borrow()[at];
        let fault = match armed {
            ArmedFault::FailRead | ArmedFault::FailFlush | ArmedFault::FailWrite { no_space: false } => {
                Fault::Fail(libc::EIO)
            }
            ArmedFault::FailWrite { no_space: true } => Fault::Fail(libc::ENOSPC),
            ArmedFault::Short { ragged } => {
                let sectors = request.length / SECTOR_BYTES;
                let whole = (1 + random.below(sectors - 1)) * SECTOR_BYTES;
                Fault::Short((whole - if ragged { 100 } else { 0 }) as u32)
            }
            ArmedFault::Stall => Fault::Stall(STALL_NS),
            ArmedFault::Hold => Fault::Hold,
            ArmedFault::Drop => Fault::Drop,
            ArmedFault::Corrupt { .. } => Fault::Corrupt(random.next_u64()),
            ArmedFault::Misdirect => {
                let places = (device_bytes - request.length) / request.length.max(SECTOR_BYTES);
                Fault::Misdirect(random.below(places) * request.length)
            }
        };
        let touches_head = request.offset < HEAD_BYTES
            || matches!(fault, Fault::Misdirect(elsewhere) if elsewhere < HEAD_BYTES);
        if is_lie(fault) && touches_head && self.lied_about_head.replace(true) {
            return None;
        }
        self.armed.borrow_mut().remove(at);
        match fault {
            Fault::Hold => self.held.borrow_mut().push(request.ticket),
            Fault::Fail(_) | Fault::Short(_) => self.failures.set(self.failures.get() + 1),
            _ => {}
        }
        Some(fault)
    }
}

fn fits(armed: ArmedFault, request: &Request) -> bool {
    let write = matches!(request.kind, OperationKind::Write { .. });
    let read = request.kind == OperationKind::Read;
    match armed {
        ArmedFault::FailRead => read,
        ArmedFault::FailWrite { .. } => write,
        ArmedFault::FailFlush => request.kind == OperationKind::Flush,
        ArmedFault::Short { .. } => (read || write) && request.length > SECTOR_BYTES,
        ArmedFault::Stall | ArmedFault::Hold => true,
        ArmedFault::Drop | ArmedFault::Misdirect => write,
        ArmedFault::Corrupt { read: on_read } => if on_read { read } else { write },
    }
}

fn is_lie(fault: Fault) -> bool {
    matches!(fault, Fault::Drop | Fault::Corrupt(_) | Fault::Misdirect(_))
}

/// What the play and its tasks share.
struct Shared {
    context: Context,
    disk: SimulatedDisk,
    model: RefCell<Model>,
    coverage: RefCell<Coverage>,
    failure: RefCell<Option<String>>,
    active: Cell<usize>,
    contents: Cell<u64>,
    faults: Rc<Faults>,
    /// The volume has said that it is poisoned.
    poisoned: Cell<bool>,
    data_offset: Cell<u64>,
}

/// Counts an operation as active until it ends or is dropped.
struct Active(Rc<Shared>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

impl Shared {
    fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(Rc::clone(self))
    }

    fn fail(&self, what: String) {
        self.failure.borrow_mut().get_or_insert(what);
    }

    fn note(&self, name: &'static str) {
        self.coverage.borrow_mut().note(name);
    }

    /// A buffer of contents that occur nowhere else.
    fn content(&self, sectors: u64) -> Buf {
        let mut buf = match self.context.buffers().get((sectors * SECTOR_BYTES) as usize) {
            Ok(buf) => buf,
            Err(error) => panic!("the pool is large enough for a script: {error}"),
        };
        self.contents.set(self.contents.get() + 1);
        let mut word = self.contents.get().wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1;
        for bytes in buf.chunks_exact_mut(8) {
            word = word.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ self.contents.get();
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        buf
    }

    /// Learns what the disk did wrong since the last look.
    fn absorb(&self) {
        for injected in self.disk.take_injected() {
            self.note(injected.fault.name());
            if is_lie(injected.fault) {
                self.distrust(injected.offset, injected.length);
                if let Fault::Misdirect(elsewhere) = injected.fault {
                    self.distrust(elsewhere, injected.length);
                }
            }
        }
    }

    fn distrust(&self, offset: u64, length: u64) {
        let data = self.data_offset.get();
        let start = offset.max(data) - data;
        let end = (offset + length).max(data) - data;
        let sectors = (start / SECTOR_BYTES) as usize..(end / SECTOR_BYTES) as usize;
        self.model.borrow_mut().distrust(sectors);
    }

    /// Judges an error that an operation has returned.
    fn judge_error(&self, what: &str, error: &Error) {
        self.absorb();
        let excused = self.faults.failures.get() > 0;
        match error.kind() {
            Kind::DeviceFailed | Kind::NoSpace if excused => {}
            Kind::Reopen if excused => {
                self.note("refused: poisoned");
                self.poisoned.set(true);
            }
            _ => self.fail(format!("{what} failed without a reason: {error}")),
        }
    }

    async fn write(&self, volume: &Volume, sector: u64, count: u64, durable: bool, ticket: &TicketCell) {
        let buf = self.content(count);
        let digests: Vec<Digest> = buf.chunks_exact(SECTOR_BYTES as usize).map(digest).collect();
        let begun = self.model.borrow_mut().begin_write(sector as usize, digests.into_iter());
        *ticket.borrow_mut() = Some(begun.clone());
        let durability = if durable { Durability::Durable } else { Durability::OnFlush };
        let (result, _buf) = volume.write(ByteOffset(sector * SECTOR_BYTES), buf, durability).await;
        self.end_write("write", &begun, result, durable);
    }

    async fn zero(&self, volume: &Volume, sector: u64, count: u64, discard: bool) {
        let zeroes = std::iter::repeat_n(zero_digest(), count as usize);
        let begun = self.model.borrow_mut().begin_write(sector as usize, zeroes);
        let (offset, length) = (ByteOffset(sector * SECTOR_BYTES), count * SECTOR_BYTES);
        let result = if discard {
            volume.discard(offset, length).await
        } else {
            volume.write_zeroes(offset, length).await
        };
        self.end_write("zero", &begun, result, false);
    }

    fn end_write(&self, what: &str, begun: &WriteTicket, result: crate::error::Result<()>, durable: bool) {
        self.absorb();
        self.model.borrow_mut().end_write(begun, result.is_ok(), durable);
        if let Err(error) = result {
            self.judge_error(what, &error);
        }
    }

    async fn read(&self, volume: &Volume, sector: u64, count: u64) {
        let mark = self.model.borrow().mark();
        match self.read_digests(volume, sector, count).await {
            Ok(found) => {
                self.absorb();
                let judged = self.model.borrow().check_read(mark, sector as usize, &found);
                if let Err(what) = judged {
                    self.fail(format!("read: {what}"));
                }
            }
            Err(error) => self.judge_error("read", &error),
        }
    }

    async fn read_digests(
        &self,
        volume: &Volume,
        sector: u64,
        count: u64,
    ) -> crate::error::Result<Vec<Digest>> {
        let buf = self.context.buffers().get((count * SECTOR_BYTES) as usize)?;
        let (result, buf) = volume.read(ByteOffset(sector * SECTOR_BYTES), buf).await;
        result?;
        Ok(buf.chunks_exact(SECTOR_BYTES as usize).map(digest).collect())
    }

    async fn flush(&self, volume: &Volume) {
        let mark = self.model.borrow().mark();
        let result = volume.flush().await;
        self.absorb();
        match result {
            Ok(()) => self.model.borrow_mut().end_flush(mark),
            Err(error) => {
                self.model.borrow_mut().fail_flush();
                self.poisoned.set(true);
                self.judge_error("flush", &error);
            }
        }
    }

    /// Runs a future for this long and then drops it where it stands. Whether it finished.
    async fn finishes_within(&self, after_ns: u64, future: impl Future<Output = ()>) -> bool {
        let mut future = Box::pin(future);
        let mut limit = pin!(self.context.sleep(after_ns));
        std::future::poll_fn(|poll| match future.as_mut().poll(poll) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => limit.as_mut().poll(poll).map(|()| false),
        })
        .await
    }

    /// Waits for a future, but not for ever.
    async fn bounded<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T, String> {
        let mut future = pin!(future);
        let mut limit = pin!(self.context.sleep(HANG_NS));
        std::future::poll_fn(|poll| {
            if let Poll::Ready(value) = future.as_mut().poll(poll) {
                return Poll::Ready(Ok(value));
            }
            limit.as_mut().poll(poll).map(|()| Err(format!("{what} hangs")))
        })
        .await
    }
}

/// Where a write leaves its ticket, for the one who may drop the write.
type TicketCell = RefCell<Option<WriteTicket>>;

struct World<'a> {
    shared: Rc<Shared>,
    script: &'a Script,
    volume: Option<Volume>,
    tasks: Vec<Task<()>>,
}

/// Where a volume stands after its making was perhaps cut short.
enum Made {
    Old,
    New,
    Nothing,
}

impl World<'_> {
    async fn play(&mut self) -> Result<(), String> {
        let shared = Rc::clone(&self.shared);
        let janitor = shared.context.spawn(release_held(Rc::clone(&shared)));
        self.make(None).await?;
        for step in &self.script.steps {
            self.step(*step).await?;
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
                self.start(async move |shared, volume| shared.zero(volume, sector, count, discard).await).await
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
            let opening = self.shared.context.spawn(async move {
                let _volume = Volume::open(device, OpenMode::ReadWrite).await;
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

    /// Opens after a power cut and judges everything.
    async fn recover(&mut self) -> Result<(), String> {
        self.note_row();
        self.open().await?;
        let found = self.read_all().await?;
        self.shared.model.borrow_mut().check_cut(&found).map_err(|what| format!("after a cut: {what}"))?;
        self.shared.faults.striking.set(true);
        Ok(())
    }

    /// Opens the disk, once what an earlier opener left in flight has ended.
    async fn open_disk(&self) -> Result<Device, String> {
        let started = self.shared.context.now().0;
        loop {
            match self.shared.disk.open(&self.shared.context) {
                Ok(device) => return Ok(device),
                Err(error) if self.shared.context.now().0 - started > HANG_NS => {
                    return Err(error.to_string());
                }
                Err(_busy) => self.shared.context.sleep(LOOK_NS).await,
            }
        }
    }

    async fn open(&mut self) -> Result<(), String> {
        let device = self.open_disk().await?;
        let opening = Volume::open(device, OpenMode::ReadWrite);
        let volume = match self.shared.bounded("open", opening).await? {
            Ok(volume) => volume,
            Err(_error) if self.shared.faults.excuse.take() => {
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
            let reading = self.shared.read_digests(volume, at, count);
            match self.shared.bounded("read", reading).await? {
                Ok(digests) => found.extend(digests),
                Err(_error) if self.shared.faults.excuse.take() => continue,
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
            } else if matches!(closing.await, Some(Ok(()))) {
                self.shared.model.borrow_mut().end_flush(mark);
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

    /// Makes the volume (anew), perhaps cut short; afterwards a volume is open.
    async fn make(&mut self, cut_after: Option<u64>) -> Result<(), String> {
        self.settle().await?;
        let before = self.volume.take().map(|volume| volume.info().pool_id);
        self.shared.faults.striking.set(false);
        let options = CreateOptions {
            size_bytes: Some(self.script.volume_bytes),
            block_bytes: Some(self.script.block_bytes),
            region_bytes: self.script.region_bytes,
            ..CreateOptions::new(Backend::Direct)
        };
        let device = self.open_disk().await?;
        let making = self.shared.context.spawn(async move { Volume::create(&device, options).await });
        if let Some(requests) = cut_after
            && self.until(requests, &making).await
        {
            self.shared.note("cut: while creating");
            making.abort();
            self.power_off();
            match self.what_is_there(before).await? {
                Made::Old => {
                    let found = self.read_all().await?;
                    let judged = self.shared.model.borrow_mut().check_cut(&found);
                    self.shared.faults.striking.set(true);
                    return judged.map_err(|what| format!("after a cut creation: {what}"));
                }
                Made::New => return self.begin_anew().await,
                Made::Nothing => return Box::pin(self.make(None)).await,
            }
        }
        match self.shared.bounded("create", making).await? {
            Some(Ok(_info)) => {}
            Some(Err(_error)) if self.shared.faults.excuse.take() => {
                return Box::pin(self.make(None)).await;
            }
            Some(Err(error)) => return Err(format!("create fails: {error}")),
            None => return Err("the creation vanished".to_string()),
        }
        self.open().await?;
        self.begin_anew().await
    }

    async fn what_is_there(&mut self, before: Option<[u8; 16]>) -> Result<Made, String> {
        self.note_row();
        let device = self.open_disk().await?;
        match Volume::open(device, OpenMode::ReadWrite).await {
            Ok(volume) => {
                let info = volume.info();
                self.shared.data_offset.set(info.data_offset_bytes);
                self.shared.faults.lied_about_head.set(false);
                self.volume = Some(volume);
                Ok(if Some(info.pool_id) == before { Made::Old } else { Made::New })
            }
            Err(error) => match error.reason() {
                Reason::NoSuperblock | Reason::SuperblockDamaged => Ok(Made::Nothing),
                _ => Err(format!("after a cut creation: {error}")),
            },
        }
    }

    async fn begin_anew(&mut self) -> Result<(), String> {
        *self.shared.model.borrow_mut() = Model::new((self.script.volume_bytes / SECTOR_BYTES) as usize);
        let found = self.read_all().await?;
        let judged = self.shared.model.borrow_mut().check_cut(&found);
        self.shared.faults.striking.set(true);
        judged.map_err(|what| format!("a new volume: {what}"))
    }

    fn copies(&self) -> [[u8; SUPERBLOCK_BYTES]; 2] {
        COPY_OFFSETS.map(|offset| {
            let mut bytes = [0; SUPERBLOCK_BYTES];
            bytes.copy_from_slice(&self.shared.disk.peek(offset, SUPERBLOCK_BYTES));
            bytes
        })
    }

    fn verdict(&self) -> Verdict {
        let copies = self.copies();
        let [first, second] = [0, 1].map(|copy| Superblock::decode(&copies[copy], COPY_OFFSETS[copy]));
        judge(&first, &second)
    }

    fn note_row(&self) {
        self.shared.note(match self.verdict() {
            Verdict::Use(_) => "recovery: use",
            Verdict::Repair(_, 0) => "recovery: repair first",
            Verdict::Repair(..) => "recovery: repair second",
            Verdict::NoSuperblock => "recovery: none",
            Verdict::Damaged => "recovery: damaged",
            Verdict::Conflict => "recovery: conflict",
            Verdict::UnknownVersion(_) => "recovery: unknown version",
        });
    }

    async fn tamper(&mut self, tampering: Tampering) -> Result<(), String> {
        self.reopen(None).await?;
        self.shared.faults.striking.set(false);
        self.volume = None;
        let before = self.copies();
        let Verdict::Use(whole) = self.verdict() else {
            return Err(format!("an open volume has two whole superblocks: {:?}", self.verdict()));
        };
        self.apply(tampering, &before, whole);
        self.note_row();
        let hash = self.shared.disk.hash();
        let device = self.open_disk().await?;
        let opened = Volume::open(device, OpenMode::ReadWrite).await;
        let expected: fn(&Reason) -> bool = match tampering {
            Tampering::DamageOne { .. } => {
                drop(opened.map_err(|error| format!("one damaged superblock: {error}"))?);
                if !matches!(self.verdict(), Verdict::Use(_)) {
                    return Err("a damaged superblock was not repaired".to_string());
                }
                self.open().await?;
                self.shared.faults.striking.set(true);
                return Ok(());
            }
            Tampering::DamageBoth => |reason| *reason == Reason::SuperblockDamaged,
            Tampering::Erase => |reason| *reason == Reason::NoSuperblock,
            Tampering::Conflict => |reason| *reason == Reason::SuperblockConflict,
            Tampering::UnknownVersion => |reason| matches!(reason, Reason::UnknownVersion { .. }),
            Tampering::UnknownFeature => {
                self.shared.note("refused: unknown feature");
                |reason| matches!(reason, Reason::UnknownFeatures { .. })
            }
        };
        match opened {
            Err(error) if expected(error.reason()) => {}
            other => return Err(format!("{tampering:?} ended with {:?}", other.map(|volume| volume.info()))),
        }
        if self.shared.disk.hash() != hash {
            return Err(format!("{tampering:?} was refused, and yet something was written"));
        }
        for (offset, bytes) in COPY_OFFSETS.into_iter().zip(before) {
            self.shared.disk.poke(offset, &bytes);
        }
        self.open().await?;
        self.shared.faults.striking.set(true);
        Ok(())
    }

    fn apply(&self, tampering: Tampering, before: &[[u8; SUPERBLOCK_BYTES]; 2], whole: Superblock) {
        let poke = |copy: usize, bytes: &[u8]| self.shared.disk.poke(COPY_OFFSETS[copy], bytes);
        let damaged = |copy: usize, byte: usize| {
            let mut bytes = before[copy];
            bytes[byte] ^= 0x10;
            bytes
        };
        match tampering {
            Tampering::DamageOne { copy, byte } => poke(copy, &damaged(copy, byte)),
            Tampering::DamageBoth => [0, 1].into_iter().for_each(|copy| poke(copy, &damaged(copy, 700))),
            Tampering::Erase => [0, 1].into_iter().for_each(|copy| poke(copy, &[0; SUPERBLOCK_BYTES])),
            Tampering::Conflict => {
                let mut other = whole;
                other.volume_id[0] ^= 1;
                poke(1, &other.encode(COPY_OFFSETS[1]));
            }
            Tampering::UnknownVersion => {
                let mut other = whole;
                other.version = 77.into();
                poke(0, &other.encode(COPY_OFFSETS[0]));
            }
            Tampering::UnknownFeature => {
                let mut other = whole;
                other.features_incompatible = (1 << 40).into();
                for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
                    poke(copy, &other.encode(offset));
                }
            }
        }
        debug_assert!(!matches!(self.verdict(), Verdict::Use(now) if Decoded::Valid(now) == Decoded::Valid(whole)));
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
