//! The foreground load of the suites, which can change its places and be read off while it goes on. It is one of two:
//!
//! - random 4 KiB writes of stamped content, in batches: there are as many tasks as requests in flight. A task whose write has completed
//!   waits until a batch of them does, and then they all begin their next one, as an application does that submits and reaps in batches;
//! - the operations of a workload ([`Load::mix`]), as fast as they complete or at a rate of their own ([`Load::at`]): then their
//!   latency counts from when they were to begin, too (docs/decisions/0032).
//!
//! Generations are counted when a write begins and once more when it has completed, so that what a moment between the two
//! holds is known.
//!
//! Invariants: two writes of one block are never in flight together; after `stop`, none is.

use std::cell::RefCell;
use std::rc::Rc;

use icecore::buf::Buf;
use icecore::error::Error;
use icecore::runtime::{Context, Runtime, Signal, Task};
use icecore_workloads::{InFlight, OperationKind, STAMP_BLOCK_BYTES, Schedule, Stamper, Stream, Workload};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::record::{Begun, Record, Seen};
use super::subject::Subject;
use crate::arms::pace::{Due, Pace};
use crate::arms::target::Target;
use crate::arms::turns::TurnClock;
use crate::failure::Failure;
use crate::recorder::Clock;
use crate::suite::shuffle;

/// The longest operation of a workload that a load takes.
const OPERATION_BYTES_MAX: u32 = 64 << 10;

/// Where the next write goes.
enum Places {
    /// Anywhere in the span.
    Span,
    /// To each of these once, from the end; those that have been written follow.
    Once(Vec<u32>, Vec<u32>),
    /// To any of these.
    Among(Vec<u32>),
    /// Where a workload has it, reads too.
    Mix(Box<Stream>),
}

/// A load that has been started and goes on until it is stopped.
pub(super) struct Load {
    shared: Rc<RefCell<Shared>>,
    gate: Rc<Signal>,
    subject: Subject,
    context: Context,
    tasks: Vec<Task<()>>,
    depth: u32,
    batch: usize,
    /// Streams and schedules that have been begun: each one is another.
    begun: u64,
    seed: u64,
}

struct Shared {
    clock: TurnClock,
    random: Xoshiro256PlusPlus,
    blocks: u64,
    places: Places,
    in_flight: InFlight,
    stamper: Stamper,
    begun: Vec<u32>,
    completed: Vec<u32>,
    record: Record,
    /// Tasks that go on, and those of them that wait for a batch.
    going: usize,
    waiting: usize,
    /// When the last of them ended, if all have.
    ended_ns: Option<u64>,
    /// Operations a second that are to begin, and how they come; `None` where one begins when one has completed.
    rate: Option<(f64, Workload)>,
    /// When the schedule was begun.
    schedule_ns: u64,
    /// Blocks that have been written since they are watched, and how many.
    watched: Vec<bool>,
    changed: u64,
    stopped: bool,
    failed: Option<Error>,
    refused: u64,
}

impl Load {
    /// A load of this many writes in flight, begun `batch` at a time, on a span that holds generation 0 of the seed's
    /// content.
    pub fn new(runtime: &Runtime, subject: &Subject, span_bytes: u64, shape: (u32, u32), seed: u64) -> Self {
        let blocks = span_bytes / STAMP_BLOCK_BYTES as u64;
        let clock = TurnClock::start(runtime.context());
        let shared = Shared {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            blocks,
            places: Places::Span,
            in_flight: InFlight::new(shape.0 as usize, OPERATION_BYTES_MAX),
            stamper: Stamper::new(seed),
            begun: vec![0; blocks as usize],
            completed: vec![0; blocks as usize],
            record: Record::from(clock.now_ns(), None),
            rate: None,
            schedule_ns: 0,
            watched: Vec::new(),
            changed: 0,
            clock,
            going: 0,
            waiting: 0,
            ended_ns: None,
            stopped: false,
            failed: None,
            refused: 0,
        };
        Self {
            shared: Rc::new(RefCell::new(shared)),
            gate: Rc::new(Signal::new(runtime.context())),
            subject: subject.clone(),
            context: runtime.context().clone(),
            tasks: Vec::new(),
            depth: shape.0,
            batch: shape.1 as usize,
            begun: 0,
            seed,
        }
    }

    /// Another way to the same content: a volume that has been opened again.
    pub fn turn_to(&mut self, subject: &Subject) {
        self.subject = subject.clone();
    }

    /// From now on writes go anywhere in the span.
    pub fn to_span(&self) {
        self.shared.borrow_mut().go_to(Places::Span);
    }

    /// From now on writes go to this many blocks of the span, drawn at random, once to each; then the load ends.
    pub fn once(&self, blocks: u64) {
        let shared = &mut *self.shared.borrow_mut();
        let mut all: Vec<u32> = (0..shared.blocks as u32).collect();
        shuffle(&mut all, &mut shared.random);
        all.truncate(blocks as usize);
        shared.go_to(Places::Once(all, Vec::new()));
    }

    /// From now on once to each of these; then the load ends.
    pub fn once_to(&self, mut blocks: Vec<u32>) {
        let shared = &mut *self.shared.borrow_mut();
        shuffle(&mut blocks, &mut shared.random);
        shared.go_to(Places::Once(blocks, Vec::new()));
    }

    /// Whether it has reached enough of them for [`Load::among`].
    pub fn has_touched_enough(&self) -> bool {
        matches!(&self.shared.borrow().places, Places::Once(_, touched) if touched.len() > self.depth as usize)
    }

    /// From now on writes go to any of these, of which there must be more than writes in flight.
    pub fn among(&self, blocks: Vec<u32>) {
        self.shared.borrow_mut().go_to(Places::Among(blocks));
    }

    /// From now on the operations of a workload, anywhere in the span.
    ///
    /// # Errors
    /// The span is too short for it.
    pub fn mix(&mut self, workload: &Workload) -> Result<(), Failure> {
        let shared = &mut *self.shared.borrow_mut();
        let span_bytes = shared.blocks * STAMP_BLOCK_BYTES as u64;
        assert!(
            workload.operation_bytes_max() <= OPERATION_BYTES_MAX
                && workload.unit_bytes() == STAMP_BLOCK_BYTES as u32
        );
        // Of two streams of one seed the second one would go where the first one went.
        self.begun += 1;
        let stream = Stream::new(workload, span_bytes, self.seed ^ self.begun)
            .map_err(|error| Failure::usage(error.to_string()))?;
        shared.go_to(Places::Mix(Box::new(stream)));
        Ok(())
    }

    /// The same at a rate of its own: so many a second are to begin, whatever becomes of them.
    ///
    /// # Errors
    /// As there.
    pub fn at(&mut self, workload: &Workload, per_second: f64) -> Result<(), Failure> {
        self.mix(workload)?;
        self.shared.borrow_mut().rate = Some((per_second, workload.clone()));
        Ok(())
    }

    /// Operations that have completed since the last look.
    pub fn done(&self) -> u64 {
        self.shared.borrow().record.operations()
    }

    /// From now on counts blocks that are written for the first time since.
    pub fn watch(&self) {
        let shared = &mut *self.shared.borrow_mut();
        (shared.watched, shared.changed) = (vec![false; shared.blocks as usize], 0);
    }

    /// How many it has seen.
    pub fn changed(&self) -> u64 {
        self.shared.borrow().changed
    }

    /// The blocks that [`Load::once`] has reached.
    pub fn touched(&self) -> Vec<u32> {
        match &self.shared.borrow().places {
            Places::Once(_, touched) => touched.clone(),
            Places::Span | Places::Among(_) | Places::Mix(_) => Vec::new(),
        }
    }

    /// Begins writing, and measuring.
    ///
    /// # Errors
    /// There are no buffers.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.resume()?;
        let shared = &mut *self.shared.borrow_mut();
        shared.record = Record::from(shared.clock.now_ns(), shared.offered());
        Ok(())
    }

    /// Begins writing; what has been measured stays.
    ///
    /// # Errors
    /// There are no buffers.
    pub fn resume(&mut self) -> Result<(), Failure> {
        let is_mix = matches!(self.shared.borrow().places, Places::Mix(_));
        let length = if is_mix { OPERATION_BYTES_MAX as usize } else { STAMP_BLOCK_BYTES };
        let mut buffers = Vec::new();
        for _ in 0..self.depth {
            let mut buf = self.context.buffers().get(length)?;
            self.shared.borrow().stamper.prepare(&mut buf);
            // A read leaves its content in its buffer, a write needs the filler in it.
            let read_buf = is_mix.then(|| self.context.buffers().get(length)).transpose()?;
            buffers.push((buf, read_buf));
        }
        let shared = &mut *self.shared.borrow_mut();
        (shared.stopped, shared.ended_ns) = (false, None);
        (shared.going, shared.waiting) = (buffers.len(), 0);
        let pace = shared.rate.as_ref().map(|(per_second, workload)| {
            self.begun += 1;
            let schedule = Schedule::new(workload.arrival(), *per_second, self.seed ^ self.begun);
            let pace = Rc::new(Pace::scheduled(&self.context, self.depth, schedule));
            shared.schedule_ns = shared.clock.now_ns();
            pace.start(Clock::start());
            pace
        });
        for (slot, (write_buf, read_buf)) in buffers.into_iter().enumerate() {
            let worker = Worker {
                slot,
                shared: Rc::clone(&self.shared),
                gate: Rc::clone(&self.gate),
                subject: self.subject.clone(),
                batch: if is_mix { 1 } else { self.batch },
                pace: pace.clone(),
                read_buf,
            };
            self.tasks.push(self.context.spawn(worker.work(write_buf)));
        }
        Ok(())
    }

    /// Whether every writer has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.shared.borrow().going == 0
    }

    /// Begins nothing more and waits for what is in flight.
    ///
    /// # Errors
    /// The first operation that failed.
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.shared.borrow_mut().stopped = true;
        self.gate.give();
        for task in self.tasks.drain(..) {
            task.await;
        }
        self.check()
    }

    /// The first operation that failed since this was asked last.
    pub fn check(&self) -> Result<(), Error> {
        self.shared.borrow_mut().failed.take().map_or(Ok(()), Err)
    }

    /// Operations that failed so far.
    pub fn refused(&self) -> u64 {
        self.shared.borrow().refused
    }

    /// What has been measured since the last look.
    pub fn look(&self) -> Seen {
        let shared = &mut *self.shared.borrow_mut();
        // Whoever looks at a load that has ended does so somewhat later.
        let now_ns = shared.ended_ns.unwrap_or_else(|| shared.clock.now_ns());
        let next = Record::from(now_ns, shared.offered());
        let record = std::mem::replace(&mut shared.record, next);
        record.seen(now_ns, format!("{}, O_DIRECT", self.context.io_path()))
    }

    /// The generation of each block whose write has completed last.
    pub fn completed(&self) -> Vec<u32> {
        self.shared.borrow().completed.clone()
    }

    /// The generation of each block whose write has begun last.
    pub fn begun(&self) -> Vec<u32> {
        self.shared.borrow().begun.clone()
    }

    /// The volume has gone back to when these were its generations. Later ones go on from the highest there has been, so
    /// that what was discarded is never taken for what is written next.
    pub fn went_back(&self, generations: &[u32]) {
        self.shared.borrow_mut().completed.copy_from_slice(generations);
    }
}

/// Numbers of the blocks that a range touches.
fn blocks_of(offset_bytes: u64, len_bytes: u32) -> std::ops::Range<usize> {
    let end_bytes = offset_bytes + u64::from(len_bytes);
    (offset_bytes / STAMP_BLOCK_BYTES as u64) as usize..(end_bytes / STAMP_BLOCK_BYTES as u64) as usize
}

impl Shared {
    /// From now on to these places, as fast as operations complete.
    fn go_to(&mut self, places: Places) {
        (self.places, self.rate) = (places, None);
    }

    fn offered(&self) -> Option<f64> {
        self.rate.as_ref().map(|(per_second, _)| *per_second)
    }

    /// The next operation, with the content of a write in the buffer; `None` when it is over.
    fn next(&mut self, slot: usize, buf: &mut Buf, due: Option<Due>) -> Option<Begun> {
        let (kind, offset_bytes, len_bytes) = loop {
            if self.is_over() {
                return None;
            }
            let mut below =
                |count: u64| ((u128::from(self.random.next_u64()) * u128::from(count)) >> 64) as u64;
            let block = match &mut self.places {
                Places::Span => below(self.blocks) as u32,
                Places::Among(blocks) => blocks[below(blocks.len() as u64) as usize],
                Places::Once(left, _) => left.pop()?,
                Places::Mix(stream) => {
                    let operation = stream.next_operation();
                    let place = (operation.offset_bytes, operation.len_bytes);
                    if operation.kind == OperationKind::Read || self.in_flight.claim(slot, place.0, place.1) {
                        break (operation.kind, place.0, place.1);
                    }
                    continue;
                }
            };
            let place = (u64::from(block) * STAMP_BLOCK_BYTES as u64, STAMP_BLOCK_BYTES as u32);
            if self.in_flight.claim(slot, place.0, place.1) {
                if let Places::Once(_, touched) = &mut self.places {
                    touched.push(block);
                }
                break (OperationKind::Write, place.0, place.1);
            }
        };
        if kind == OperationKind::Write {
            buf.set_len(len_bytes as usize);
            for (block, bytes) in
                blocks_of(offset_bytes, len_bytes).zip(buf.chunks_exact_mut(STAMP_BLOCK_BYTES))
            {
                let generation = &mut self.begun[block];
                *generation += 1;
                self.stamper.stamp(bytes, block as u64 * STAMP_BLOCK_BYTES as u64, *generation);
            }
        }
        let begun_ns = self.clock.issue_ns();
        if let Some(due) = due {
            let lateness_ns = begun_ns.saturating_sub(self.schedule_ns + due.ready_ns);
            self.record.begun(lateness_ns, due.backlog, due.overflow);
        }
        let due_ns = due.map(|due| self.schedule_ns + due.due_ns);
        Some(Begun { kind, offset_bytes, len_bytes, begun_ns, due_ns })
    }

    /// Whether nothing more is to begin.
    fn is_over(&self) -> bool {
        self.stopped || self.failed.is_some()
    }

    fn complete(&mut self, slot: usize, begun: &Begun) {
        if begun.kind == OperationKind::Write {
            self.in_flight.release(slot);
            for block in blocks_of(begun.offset_bytes, begun.len_bytes) {
                // Nobody else has written to it meanwhile.
                self.completed[block] = self.begun[block];
                if let Some(seen) = self.watched.get_mut(block) {
                    self.changed += u64::from(!*seen);
                    *seen = true;
                }
            }
        }
        let now_ns = self.clock.turn_ns();
        self.record.completed(begun, now_ns);
    }

    fn fail(&mut self, slot: usize, error: Error) {
        self.in_flight.release(slot);
        self.refused += 1;
        self.failed.get_or_insert(error);
    }

    /// Whether a batch is together, or nobody is left who could complete it.
    fn is_batch(&self, batch: usize) -> bool {
        self.waiting > 0 && (self.waiting >= batch.min(self.going) || self.stopped)
    }
}

struct Worker {
    slot: usize,
    shared: Rc<RefCell<Shared>>,
    gate: Rc<Signal>,
    subject: Subject,
    batch: usize,
    pace: Option<Rc<Pace>>,
    read_buf: Option<Buf>,
}

impl Worker {
    async fn work(mut self, mut write_buf: Buf) {
        loop {
            let due = match &self.pace {
                Some(pace) => match pace.wait(self.slot, || self.shared.borrow().is_over()).await {
                    Some(due) => Some(due),
                    None => break,
                },
                None => None,
            };
            let next = self.shared.borrow_mut().next(self.slot, &mut write_buf, due);
            let Some(begun) = next else { break };
            let result = match (begun.kind, self.read_buf.take()) {
                (OperationKind::Read, Some(mut buf)) => {
                    buf.set_len(begun.len_bytes as usize);
                    let (result, back) = self.subject.read(begun.offset_bytes, buf).await;
                    self.read_buf = Some(back);
                    result
                }
                (_, read_buf) => {
                    let (result, back) = self.subject.write(begun.offset_bytes, write_buf, false).await;
                    (write_buf, self.read_buf) = (back, read_buf);
                    result
                }
            };
            match result {
                Ok(()) => self.shared.borrow_mut().complete(self.slot, &begun),
                Err(error) => {
                    self.shared.borrow_mut().fail(self.slot, error);
                    break;
                }
            }
            if self.pace.is_some() {
                continue;
            }
            self.shared.borrow_mut().waiting += 1;
            if !self.open_gate() {
                self.gate.wait().await;
            }
        }
        {
            let shared = &mut *self.shared.borrow_mut();
            shared.going -= 1;
            shared.ended_ns = (shared.going == 0).then(|| shared.clock.now_ns());
        }
        self.open_gate();
    }

    /// Lets a batch go on, if there is one.
    fn open_gate(&self) -> bool {
        let shared = &mut *self.shared.borrow_mut();
        let opens = shared.is_batch(self.batch) || shared.stopped;
        if opens {
            shared.waiting = 0;
            self.gate.give();
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use icecore::device::Device;

    use super::*;
    use crate::arms::target::Bare;
    use crate::bench;

    /// The load's own counts, held against each other on a device that completes at once.
    #[test]
    fn each_block_once_in_batches_and_nothing_in_flight_afterwards() {
        const BLOCKS: u64 = 500;
        let Ok(runtime) = bench::runtime(8) else {
            println!("skipped: no io_uring");
            return;
        };
        let device = Device::null(runtime.context(), BLOCKS * 4096);
        let subject = Subject::Bare(Bare::new(&device, 0));
        let mut load = Load::new(&runtime, &subject, BLOCKS * 4096, (8, 3), 5);
        // A number of blocks that is no multiple of the batch: the last ones must not wait for others.
        load.once(301);
        load.start().unwrap();
        runtime.block_on(async {
            while !load.has_ended() {
                runtime.context().sleep(1_000_000).await;
            }
            load.stop().await.unwrap();
        });
        let mut touched = load.touched();
        touched.sort_unstable();
        touched.dedup();
        let seen = load.look();
        assert_eq!((touched.len() as u64, seen.writes()), (301, 301));
        assert_eq!(seen.windows.iter().map(|window| window.operations).sum::<u64>(), 301);
        assert_eq!(load.completed(), load.begun());
        assert_eq!(load.completed().iter().sum::<u32>(), 301);
        // And on, until it is stopped, at some of them alone.
        load.among(touched[..20].to_vec());
        load.start().unwrap();
        runtime.block_on(async {
            runtime.context().sleep(20_000_000).await;
            load.stop().await.unwrap();
        });
        assert!(load.look().writes() > 0 && load.completed() == load.begun());
        let written = load.completed().iter().filter(|generation| **generation > 1).count();
        assert!((1..=20).contains(&written), "{written}");
    }

    /// A workload at its own rate on a device that completes at once; what is counted by the load is what the device was asked for.
    #[test]
    fn a_foreground_is_what_the_device_was_asked_for() {
        const BLOCKS: u64 = 512;
        let Ok(runtime) = bench::runtime(8) else {
            println!("skipped: no io_uring");
            return;
        };
        let device = Device::null(runtime.context(), BLOCKS * 4096);
        let tally = || device.ledger().tally(icecore::device::Cause::Application);
        let subject = Subject::Bare(Bare::new(&device, 0));
        let mut load = Load::new(&runtime, &subject, BLOCKS * 4096, (8, 3), 5);
        let oltp = Workload::from_name("oltp").unwrap();
        let run = |load: &mut Load, for_ns: u64| {
            let before = tally();
            load.watch();
            load.start().unwrap();
            runtime.block_on(async {
                runtime.context().sleep(for_ns).await;
                load.stop().await.unwrap();
            });
            let (seen, after) = (load.look(), tally());
            let (reads, writes) = (after.reads - before.reads, after.writes - before.writes);
            assert_eq!((seen.outcome.read.operations, seen.writes()), (reads, writes));
            assert_eq!(seen.outcome.write.bytes, after.write_bytes - before.write_bytes);
            assert_eq!(seen.windows.iter().map(|window| window.operations).sum::<u64>(), reads + writes);
            assert_eq!(load.completed(), load.begun());
            seen
        };
        load.at(&oltp, 2_000.0).unwrap();
        let paced = run(&mut load, 200_000_000);
        let open = paced.outcome.open.as_ref().unwrap();
        assert_eq!(open.offered_per_second, 2_000.0);
        // No more than was due, within five deviations of a Poisson count; how much less is up to the machine.
        let done = paced.outcome.operations();
        assert!((1..=400 + 5 * 20 + 400).contains(&done), "{done}");
        assert_eq!(open.read_ns.len() + open.write_ns.len(), done);
        assert!(open.lateness_ns.len() >= done && paced.intended_ns(0.5).is_some() == (done >= 200));
        let changed = load.completed().iter().filter(|generation| **generation > 0).count() as u64;
        assert_eq!(load.changed(), changed);
        assert_eq!(load.completed().iter().sum::<u32>() as u64, 2 * paced.writes(), "8 KiB are two blocks");
        // As fast as it goes: much more, elsewhere, and no schedule.
        load.mix(&oltp).unwrap();
        let closed = run(&mut load, 50_000_000);
        assert!(closed.outcome.open.is_none() && closed.rate() > 2.0 * paced.rate());
        // And writes as before.
        load.once(100);
        let once = run(&mut load, 50_000_000);
        assert_eq!((once.outcome.operations(), once.writes(), load.changed()), (100, 100, 100));
    }
}
