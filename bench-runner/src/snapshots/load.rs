//! The foreground load of the suites: random 4 KiB writes of stamped content, in batches, that can change their places
//! and be read off while they go on.
//!
//! There are as many tasks as requests in flight. A task whose write has completed waits until a batch of them does, and
//! then they all begin their next one, as an application does that submits and reaps in batches. Generations are counted
//! when a write begins and once more when it has completed, so that what a moment between the two holds is known.
//!
//! Invariants: two writes of one block are never in flight together; after `stop`, none is.

use std::cell::RefCell;
use std::rc::Rc;

use icecore::error::Error;
use icecore::runtime::{Context, Runtime, Signal, Task};
use icecore_workloads::{Generations, InFlight, STAMP_BLOCK_BYTES, Stamper};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::subject::Subject;
use crate::arms::target::Target;
use crate::arms::turns::TurnClock;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, OperationFigures, Window};
use crate::recorder::{CpuTimes, Recorded, empty_figures};
use crate::suite::shuffle;

/// Length of a window of the series.
const WINDOW_NS: u64 = 50_000_000;

/// Where the next write goes.
enum Places {
    /// Anywhere in the span.
    Span,
    /// To each of these once, from the end; those that have been written follow.
    Once(Vec<u32>, Vec<u32>),
    /// To any of these.
    Among(Vec<u32>),
}

/// Writes that have been started and go on until they are stopped.
pub(super) struct Load {
    shared: Rc<RefCell<Shared>>,
    gate: Rc<Signal>,
    subject: Subject,
    context: Context,
    tasks: Vec<Task<()>>,
    depth: u32,
    batch: usize,
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
    stopped: bool,
    failed: Option<Error>,
    refused: u64,
}

/// What has been measured since the last look.
struct Record {
    since_ns: u64,
    cpu: Option<CpuTimes>,
    write: OperationFigures,
    windows: Vec<Window>,
}

impl Record {
    fn from(since_ns: u64) -> Self {
        Self { since_ns, cpu: CpuTimes::of_this_thread(), write: empty_figures(), windows: Vec::new() }
    }
}

/// What a load did between two looks.
pub(super) struct Seen {
    pub outcome: ArmOutcome,
    pub windows: Vec<Window>,
}

impl Seen {
    pub fn writes(&self) -> u64 {
        self.outcome.write.operations
    }

    /// Writes a second.
    pub fn rate(&self) -> f64 {
        self.writes() as f64 * 1e9 / self.outcome.elapsed_ns.max(1) as f64
    }
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
            in_flight: InFlight::new(shape.0 as usize, 4096),
            stamper: Stamper::new(seed),
            begun: vec![0; blocks as usize],
            completed: vec![0; blocks as usize],
            record: Record::from(clock.now_ns()),
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
        }
    }

    /// Another way to the same content: a volume that has been opened again.
    pub fn turn_to(&mut self, subject: &Subject) {
        self.subject = subject.clone();
    }

    /// From now on writes go anywhere in the span.
    pub fn to_span(&self) {
        self.shared.borrow_mut().places = Places::Span;
    }

    /// From now on writes go to this many blocks of the span, drawn at random, once to each; then the load ends.
    pub fn once(&self, blocks: u64) {
        let shared = &mut *self.shared.borrow_mut();
        let mut all: Vec<u32> = (0..shared.blocks as u32).collect();
        shuffle(&mut all, &mut shared.random);
        all.truncate(blocks as usize);
        shared.places = Places::Once(all, Vec::new());
    }

    /// From now on once to each of these; then the load ends.
    pub fn once_to(&self, mut blocks: Vec<u32>) {
        let shared = &mut *self.shared.borrow_mut();
        shuffle(&mut blocks, &mut shared.random);
        shared.places = Places::Once(blocks, Vec::new());
    }

    /// Whether it has reached enough of them for [`Load::among`].
    pub fn has_touched_enough(&self) -> bool {
        matches!(&self.shared.borrow().places, Places::Once(_, touched) if touched.len() > self.depth as usize)
    }

    /// From now on writes go to any of these, of which there must be more than writes in flight.
    pub fn among(&self, blocks: Vec<u32>) {
        self.shared.borrow_mut().places = Places::Among(blocks);
    }

    /// The blocks that [`Load::once`] has reached.
    pub fn touched(&self) -> Vec<u32> {
        match &self.shared.borrow().places {
            Places::Once(_, touched) => touched.clone(),
            Places::Span | Places::Among(_) => Vec::new(),
        }
    }

    /// Begins writing, and measuring.
    ///
    /// # Errors
    /// There are no buffers.
    pub fn start(&mut self) -> Result<(), Failure> {
        self.resume()?;
        let shared = &mut *self.shared.borrow_mut();
        shared.record = Record::from(shared.clock.now_ns());
        Ok(())
    }

    /// Begins writing; what has been measured stays.
    ///
    /// # Errors
    /// There are no buffers.
    pub fn resume(&mut self) -> Result<(), Failure> {
        let mut buffers = Vec::new();
        for _ in 0..self.depth {
            let mut buf = self.context.buffers().get(STAMP_BLOCK_BYTES)?;
            self.shared.borrow().stamper.prepare(&mut buf);
            buffers.push(buf);
        }
        let shared = &mut *self.shared.borrow_mut();
        (shared.stopped, shared.ended_ns) = (false, None);
        (shared.going, shared.waiting) = (buffers.len(), 0);
        for (slot, buf) in buffers.into_iter().enumerate() {
            let worker = Worker {
                slot,
                shared: Rc::clone(&self.shared),
                gate: Rc::clone(&self.gate),
                subject: self.subject.clone(),
                batch: self.batch,
            };
            self.tasks.push(self.context.spawn(worker.work(buf)));
        }
        Ok(())
    }

    /// Whether every writer has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.shared.borrow().going == 0
    }

    /// Begins no more writes and waits for those in flight.
    ///
    /// # Errors
    /// The first write that failed.
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.shared.borrow_mut().stopped = true;
        self.gate.give();
        for task in self.tasks.drain(..) {
            task.await;
        }
        self.check()
    }

    /// The first write that failed since this was asked last.
    pub fn check(&self) -> Result<(), Error> {
        self.shared.borrow_mut().failed.take().map_or(Ok(()), Err)
    }

    /// Writes that failed so far.
    pub fn refused(&self) -> u64 {
        self.shared.borrow().refused
    }

    /// What has been measured since the last look.
    pub fn look(&self) -> Seen {
        let shared = &mut *self.shared.borrow_mut();
        // Whoever looks at a load that has ended does so somewhat later.
        let now_ns = shared.ended_ns.unwrap_or_else(|| shared.clock.now_ns());
        let Record { since_ns, cpu, write, mut windows } =
            std::mem::replace(&mut shared.record, Record::from(now_ns));
        let elapsed_ns = now_ns - since_ns;
        if let Some(last) = windows.last_mut() {
            last.length_ns = WINDOW_NS.min(elapsed_ns.saturating_sub(last.begin_ns));
        }
        let used = |of: fn(CpuTimes) -> u64| Some(of(shared.record.cpu?).saturating_sub(of(cpu?)));
        let recorded = Recorded {
            open: None,
            read: empty_figures(),
            write,
            flush: empty_figures(),
            elapsed_ns,
            cpu_user_ns: used(|cpu| cpu.user_ns),
            cpu_system_ns: used(|cpu| cpu.system_ns),
            allocations: None,
            seconds: Vec::new(),
            bands: Vec::new(),
        };
        let io_path = format!("{}, O_DIRECT", self.context.io_path());
        Seen { outcome: recorded.into_outcome(io_path, Generations::default()), windows }
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

impl Shared {
    /// The next block to write, with its generation in the buffer; `None` when it is over.
    fn next(&mut self, slot: usize, buf: &mut [u8]) -> Option<(u32, u32, u64)> {
        let block = loop {
            if self.stopped || self.failed.is_some() {
                return None;
            }
            let mut below =
                |count: u64| ((u128::from(self.random.next_u64()) * u128::from(count)) >> 64) as u64;
            let block = match &mut self.places {
                Places::Span => below(self.blocks) as u32,
                Places::Among(blocks) => blocks[below(blocks.len() as u64) as usize],
                Places::Once(left, _) => left.pop()?,
            };
            if self.in_flight.claim(
                slot,
                u64::from(block) * STAMP_BLOCK_BYTES as u64,
                STAMP_BLOCK_BYTES as u32,
            ) {
                break block;
            }
        };
        if let Places::Once(_, touched) = &mut self.places {
            touched.push(block);
        }
        let generation = &mut self.begun[block as usize];
        *generation += 1;
        self.stamper.stamp(buf, u64::from(block) * STAMP_BLOCK_BYTES as u64, *generation);
        Some((block, *generation, self.clock.issue_ns()))
    }

    fn complete(&mut self, slot: usize, (block, generation, begun_ns): (u32, u32, u64)) {
        self.in_flight.release(slot);
        self.completed[block as usize] = generation;
        let now_ns = self.clock.turn_ns();
        let latency_ns = now_ns.saturating_sub(begun_ns);
        let record = &mut self.record;
        record.write.operations += 1;
        record.write.bytes += STAMP_BLOCK_BYTES as u64;
        record.write.latency_ns.saturating_record(latency_ns);
        let index = (now_ns.saturating_sub(record.since_ns) / WINDOW_NS) as usize;
        while record.windows.len() <= index {
            let begin_ns = record.windows.len() as u64 * WINDOW_NS;
            record.windows.push(Window { begin_ns, length_ns: WINDOW_NS, ..Window::default() });
        }
        let window = &mut record.windows[index];
        window.operations += 1;
        window.latency_ns_sum += latency_ns;
        window.latency_ns_max = window.latency_ns_max.max(latency_ns);
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
}

impl Worker {
    async fn work(self, mut buf: icecore::buf::Buf) {
        loop {
            let next = self.shared.borrow_mut().next(self.slot, &mut buf);
            let Some(write) = next else { break };
            let offset = u64::from(write.0) * STAMP_BLOCK_BYTES as u64;
            let (result, back) = self.subject.write(offset, buf, false).await;
            buf = back;
            match result {
                Ok(()) => self.shared.borrow_mut().complete(self.slot, write),
                Err(error) => {
                    self.shared.borrow_mut().fail(self.slot, error);
                    break;
                }
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
}
