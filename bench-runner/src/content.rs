//! The content of the data span: how it is prepared before an arm and compared after it.
//!
//! Before each arm the device is formatted and the span filled with generation 0 of the block's stamped content.
//! After it every block of 4 KiB, or sector where the workload has requests of sectors, must hold the generation that the arm
//! says it wrote last.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use icecore::error::Error;
use icecore::object::ObjectKind;
use icecore::runtime::Runtime;
use icecore::store::Backend;
use icecore::volume::{CreateOptions, Initialise, OpenMode, Volume};
use icecore_workloads::{Generations, Mismatch, STAMP_BLOCK_BYTES, Stamper};

use crate::arms::Arm;
use crate::arms::target::{Bare, Target};
use crate::bench::Bench;
use crate::failure::Failure;
use crate::interrupt;
use crate::measure::ArmTask;

/// Bytes of one transfer when filling or comparing: large enough that a disk streams.
pub(crate) const TRANSFER_BYTES: usize = 1 << 20;
/// Transfers in flight when filling or comparing.
pub(crate) const TRANSFERS_IN_FLIGHT: usize = 8;

/// How the span is prepared, in words for results.
pub const PRECONDITIONING: &str =
    "formatted, then the span written once in 1 MiB writes at depth 8 and flushed, before each arm";

/// A block that does not hold what it should.
#[derive(Clone, Copy, Debug)]
pub struct WrongBlock {
    /// Its number in the span, in blocks of 4 KiB.
    pub block: u64,
    /// What is wrong with it; `None` where it was discarded and does not read as zero.
    pub mismatch: Option<Mismatch>,
}

impl fmt::Display for WrongBlock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "wrong content in block {} of the span: ", self.block)?;
        match &self.mismatch {
            Some(mismatch) => mismatch.fmt(formatter),
            None => formatter.write_str("it was discarded, and does not read as zero"),
        }
    }
}

/// Formats the device and fills the task's span with generation 0 of its content.
///
/// # Errors
/// What the device says, or that a signal stopped it.
pub fn prime(bench: &Bench, arm: Arm, task: &ArmTask) -> Result<(), Failure> {
    if let Some(export) = bench.export() {
        return fill(bench.runtime(), export, task.span_bytes, task.stamper());
    }
    let backend = if let Arm::Engine(backend) = arm { backend } else { Backend::Direct };
    format(bench, backend, ObjectKind::Mapped, None)?;
    let runtime = bench.runtime();
    if let Arm::Engine(_) = arm {
        let volume = runtime.block_on(Volume::open(bench.device().clone(), OpenMode::ReadWrite))?;
        fill(runtime, &volume, task.span_bytes, task.stamper())?;
        Ok(runtime.block_on(volume.close())?)
    } else {
        fill(runtime, &Bare::new(bench.device(), task.span_offset_bytes), task.span_bytes, task.stamper())
    }
}

/// Makes a volume on the device, the largest that fits if no size is given.
///
/// # Errors
/// What the engine says.
pub(crate) fn format(
    bench: &Bench,
    backend: Backend,
    objects: ObjectKind,
    size_bytes: Option<u64>,
) -> Result<(), Failure> {
    format_as(bench, CreateOptions { size_bytes, objects, ..CreateOptions::new(backend) })
}

/// Makes a volume of these options on the device, on which nothing is there to be kept.
///
/// # Errors
/// What the engine says.
pub(crate) fn format_as(bench: &Bench, options: CreateOptions) -> Result<(), Failure> {
    let created_unix_s =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since_epoch| since_epoch.as_secs());
    let options = CreateOptions {
        initialise: Initialise::Keep,
        // Asked once, when the device was claimed; by now it carries our own.
        force: true,
        created_unix_s,
        ..options
    };
    bench.runtime().block_on(Volume::create(bench.device(), options))?;
    Ok(())
}

/// Compares every block of the task's span with its generation (where none are counted: all at 0), through the arm's
/// own way to the data. Gives the number of blocks compared.
///
/// # Errors
/// Of the inner result, the lowest wrong block that was seen; of the outer one, what the device says.
pub fn verify(
    bench: &Bench,
    arm: Arm,
    task: &ArmTask,
    generations: &Generations,
) -> Result<Result<u64, WrongBlock>, Failure> {
    let runtime = bench.runtime();
    let counts = generations.counts();
    if let Some(export) = bench.export() {
        return compare(runtime, export, task.span_bytes, task.stamper(), counts);
    }
    if let Arm::Engine(_) = arm {
        let volume = runtime.block_on(Volume::open(bench.device().clone(), OpenMode::ReadOnly))?;
        let compared = compare(runtime, &volume, task.span_bytes, task.stamper(), counts)?;
        runtime.block_on(volume.close())?;
        Ok(compared)
    } else {
        let bare = Bare::new(bench.device(), task.span_offset_bytes);
        compare(runtime, &bare, task.span_bytes, task.stamper(), counts)
    }
}

/// Writes generation 0 of this content to the whole span and makes it durable.
pub(crate) fn fill<T: Target>(
    runtime: &Runtime,
    target: &T,
    span_bytes: u64,
    stamper: Stamper,
) -> Result<(), Failure> {
    write_over(runtime, target, span_bytes, stamper, Passes { count: 1, transfer_bytes: TRANSFER_BYTES })
}

/// How a span is written over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passes {
    /// How often.
    pub count: u32,
    /// Bytes of each write.
    pub transfer_bytes: usize,
}

/// Writes generation 0 of this content to the whole span, as often as is asked, in the order of places; makes it durable.
pub(crate) fn write_over<T: Target>(
    runtime: &Runtime,
    target: &T,
    span_bytes: u64,
    stamper: Stamper,
    passes: Passes,
) -> Result<(), Failure> {
    let stamper = Rc::new(stamper);
    for _ in 0..passes.count {
        write_once(runtime, target, span_bytes, &stamper, passes.transfer_bytes)?;
    }
    Ok(runtime.block_on(target.flush())?)
}

fn write_once<T: Target>(
    runtime: &Runtime,
    target: &T,
    span_bytes: u64,
    stamper: &Rc<Stamper>,
    transfer_bytes: usize,
) -> Result<(), Failure> {
    walk(runtime, (span_bytes, transfer_bytes), |walker| {
        let (target, stamper) = (target.clone(), Rc::clone(stamper));
        async move {
            let mut buf = walker.buffers.get(walker.transfer_bytes)?;
            stamper.prepare(&mut buf);
            while let Some((offset_bytes, length)) = walker.next() {
                buf.set_len(length);
                stamper.stamp(&mut buf, offset_bytes, 0);
                let (result, back) = target.write(offset_bytes, buf, false).await;
                result?;
                buf = back;
            }
            Ok(())
        }
    })
}

/// Compares the whole span.
pub(crate) fn compare<T: Target>(
    runtime: &Runtime,
    target: &T,
    span_bytes: u64,
    stamper: Stamper,
    generations: &[u32],
) -> Result<Result<u64, WrongBlock>, Failure> {
    compare_between(runtime, target, span_bytes, stamper, (generations, generations))
}

/// Compares the whole span where nobody knows which of a block's writes under way came first: each block must be
/// whole, and of one of the generations between the two.
pub(crate) fn compare_between<T: Target>(
    runtime: &Runtime,
    target: &T,
    span_bytes: u64,
    stamper: Stamper,
    (oldest, newest): (&[u32], &[u32]),
) -> Result<Result<u64, WrongBlock>, Failure> {
    let unit_bytes = u64::from(stamper.unit_bytes());
    let stamper = Rc::new(stamper);
    let (oldest, newest): (Rc<[u32]>, Rc<[u32]>) = (oldest.into(), newest.into());
    let compared = Rc::new(Cell::new(0));
    let wrong: Rc<RefCell<Option<WrongBlock>>> = Rc::default();
    walk(runtime, (span_bytes, TRANSFER_BYTES), |walker| {
        let (target, stamper) = (target.clone(), Rc::clone(&stamper));
        let (oldest, newest) = (Rc::clone(&oldest), Rc::clone(&newest));
        let (compared, wrong) = (Rc::clone(&compared), Rc::clone(&wrong));
        async move {
            let mut buf = walker.buffers.get(TRANSFER_BYTES)?;
            while let Some((offset_bytes, length)) = walker.next() {
                buf.set_len(length);
                let (result, back) = target.read(offset_bytes, buf).await;
                result?;
                buf = back;
                let first_unit = offset_bytes / unit_bytes;
                for (unit, bytes) in (first_unit..).zip(buf.chunks_exact(unit_bytes as usize)) {
                    let of = |generations: &[u32]| generations.get(unit as usize).copied().unwrap_or(0);
                    let at = unit * unit_bytes;
                    if Generations::is_discarded(of(&oldest)) {
                        if bytes.iter().any(|byte| *byte != 0) {
                            let block = at / STAMP_BLOCK_BYTES as u64;
                            note(&wrong, WrongBlock { block, mismatch: None });
                        }
                    } else if let Err(mismatch) = stamper.verify(bytes, at, of(&oldest)) {
                        let later = of(&oldest) + 1..=of(&newest);
                        if !later.into_iter().any(|generation| stamper.verify(bytes, at, generation).is_ok())
                        {
                            let block = at / STAMP_BLOCK_BYTES as u64;
                            note(&wrong, WrongBlock { block, mismatch: Some(mismatch) });
                        }
                    }
                }
                compared.set(compared.get() + (length / STAMP_BLOCK_BYTES) as u64);
            }
            Ok(())
        }
    })?;
    Ok(match wrong.take() {
        Some(wrong) => Err(wrong),
        None => Ok(compared.get()),
    })
}

fn note(lowest: &RefCell<Option<WrongBlock>>, wrong: WrongBlock) {
    let mut lowest = lowest.borrow_mut();
    if lowest.is_none_or(|lowest| wrong.block < lowest.block) {
        *lowest = Some(wrong);
    }
}

/// Deals the pieces of a span to the tasks that walk over it.
struct Walker {
    next_bytes: Rc<Cell<u64>>,
    span_bytes: u64,
    transfer_bytes: usize,
    buffers: icecore::buf::BufPool,
}

impl Walker {
    /// Offset and length of the next piece; `None` at the end or when the program is asked to stop.
    fn next(&self) -> Option<(u64, usize)> {
        let offset_bytes = self.next_bytes.get();
        let left_bytes = self.span_bytes.saturating_sub(offset_bytes);
        if left_bytes == 0 || interrupt::requested() {
            return None;
        }
        let length = left_bytes.min(self.transfer_bytes as u64);
        self.next_bytes.set(offset_bytes + length);
        Some((offset_bytes, length as usize))
    }
}

fn walk<F: Future<Output = Result<(), Error>> + 'static>(
    runtime: &Runtime,
    (span_bytes, transfer_bytes): (u64, usize),
    mut walk_one: impl FnMut(Walker) -> F,
) -> Result<(), Failure> {
    let context = runtime.context();
    let next_bytes = Rc::new(Cell::new(0));
    let tasks: Vec<_> = (0..TRANSFERS_IN_FLIGHT)
        .map(|_| {
            let next_bytes = Rc::clone(&next_bytes);
            let buffers = context.buffers().clone();
            context.spawn(walk_one(Walker { next_bytes, span_bytes, transfer_bytes, buffers }))
        })
        .collect();
    runtime.block_on(async {
        let mut first_failure = Ok(());
        for task in tasks {
            if let Some(Err(error)) = task.await {
                first_failure = first_failure.and(Err(error));
            }
        }
        first_failure
    })?;
    if interrupt::requested() { Err(Failure::interrupted()) } else { Ok(()) }
}
