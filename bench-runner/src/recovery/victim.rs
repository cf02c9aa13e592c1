//! The process that is killed: it writes until it is.
//!
//! It writes through a device whose unflushed writes lie in its own memory, so that SIGKILL is a power cut. Each
//! writer has blocks of its own and writes them in random order, every [`DURABLE_EVERY`]th time durably. What was
//! acknowledged as durable is told on standard output, at once: from then on it must survive. When the log since the
//! last checkpoint is as long as asked for, it asks to be killed, and goes on.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;

use icecore::device::{Access, Caching, Device};
use icecore::runtime::Task;
use icecore::units::ByteOffset;
use icecore::volume::{Durability, OpenMode, Volume};
use icecore_workloads::{STAMP_BLOCK_BYTES, Stamper};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::patiently;
use crate::bench;
use crate::cli::VictimOptions;
use crate::failure::Failure;

/// Writes of a writer of which one is durable.
const DURABLE_EVERY: u32 = 64;
/// Writes between looks at how long the log is.
const LOOK_EVERY: u32 = 16;
/// Stands for the request to be killed.
pub(super) const KILL: u64 = u64::MAX;
/// A block and its generation.
pub(super) const RECORD_BYTES: usize = 12;

/// Tells a block and its generation that are durable, or [`KILL`].
pub(super) type Tell = Box<dyn Fn(u64, u32) -> Result<(), Failure>>;

/// What the writers share.
pub(super) struct Writers {
    volume: Volume,
    stamper: Stamper,
    blocks: u64,
    writers: u64,
    seed: u64,
    kill_bytes: u64,
    /// Where it is told what is durable.
    tell: Tell,
    writes: Cell<u32>,
    /// The longest log seen since the last checkpoint.
    backlog_bytes: Cell<u64>,
    checkpoints: Cell<u32>,
    asked: Cell<bool>,
}

/// Writes until it is killed.
///
/// # Errors
/// What the device or the volume says: then nothing was measured.
pub fn run(options: &VictimOptions) -> Result<i32, Failure> {
    let runtime = bench::runtime(options.queue_depth)?;
    let context = runtime.context();
    let open = || Device::open(context, &options.device, Access::Exclusive, Caching::Direct);
    let device = patiently(open)?.with_volatile_cache();
    let volume = runtime.block_on(Volume::open(device, OpenMode::ReadWrite))?;
    let writers = Writers::new(volume, options.seed, options.queue_depth, options.kill_bytes, Box::new(tell));
    let writers = writers.start();
    runtime.block_on(async {
        for writer in writers {
            if let Some(Err(failure)) = writer.await {
                return Err(failure);
            }
        }
        Ok(())
    })?;
    Err(Failure::environment("nobody killed the process"))
}

impl Writers {
    /// Writers of a volume that ask to be killed when its log is so long.
    pub fn new(volume: Volume, seed: u64, writers: u32, kill_bytes: u64, tell: Tell) -> Rc<Self> {
        Rc::new(Self {
            blocks: volume.size_bytes() / STAMP_BLOCK_BYTES as u64,
            stamper: Stamper::new(seed),
            writers: u64::from(writers),
            seed,
            kill_bytes,
            tell,
            writes: Cell::new(0),
            backlog_bytes: Cell::new(0),
            checkpoints: Cell::new(0),
            asked: Cell::new(false),
            volume,
        })
    }

    /// Starts them, as tasks of the volume's runtime. They end with an error alone.
    pub fn start(self: &Rc<Self>) -> Vec<Task<Result<(), Failure>>> {
        let start = |writer| {
            let writers = Rc::clone(self);
            self.volume.context().spawn(async move { writers.write(writer).await })
        };
        (0..self.writers).map(start).collect()
    }

    async fn write(&self, writer: u64) -> Result<(), Failure> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ (writer + 1));
        let mut generations: BTreeMap<u64, u32> = BTreeMap::new();
        let mut buf = self.volume.context().buffers().get(STAMP_BLOCK_BYTES)?;
        self.stamper.prepare(&mut buf);
        let own = self.blocks / self.writers;
        // Not all of them at once.
        let first = (writer * u64::from(DURABLE_EVERY) / self.writers) as u32;
        for number in 1_u32.. {
            let block =
                ((u128::from(random.next_u64()) * u128::from(own)) >> 64) as u64 * self.writers + writer;
            let generation = generations.entry(block).or_default();
            *generation += 1;
            let offset = block * STAMP_BLOCK_BYTES as u64;
            self.stamper.stamp(&mut buf, offset, *generation);
            let durable = (number + first).is_multiple_of(DURABLE_EVERY);
            let durability = if durable { Durability::Durable } else { Durability::OnFlush };
            let (written, back) = self.volume.write(ByteOffset(offset), buf, durability).await;
            written?;
            buf = back;
            if durable {
                (self.tell)(block, *generation)?;
            }
            self.look()?;
        }
        Ok(())
    }

    /// Asks to be killed when the log is as long as wanted, behind a checkpoint that ended in order.
    fn look(&self) -> Result<(), Failure> {
        self.writes.set(self.writes.get().wrapping_add(1));
        if !self.writes.get().is_multiple_of(LOOK_EVERY) || self.asked.get() {
            return Ok(());
        }
        let Some(log) = self.volume.status().log else {
            return Err(Failure::usage("only a volume with a log has a tail to recover"));
        };
        if log.backlog_bytes < self.backlog_bytes.replace(log.backlog_bytes) {
            self.checkpoints.set(self.checkpoints.get() + 1);
        }
        if self.checkpoints.get() > 0 && log.backlog_bytes >= self.kill_bytes {
            self.asked.set(true);
            (self.tell)(KILL, 0)?;
        }
        Ok(())
    }
}

fn tell(block: u64, generation: u32) -> Result<(), Failure> {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&block.to_le_bytes());
    record[8..].copy_from_slice(&generation.to_le_bytes());
    let mut stdout = std::io::stdout().lock();
    let told = stdout.write_all(&record).and_then(|()| stdout.flush());
    told.map_err(|error| Failure::environment(format!("cannot tell what is durable: {error}")))
}
