//! What the suites share: one arm of one block on its device, the clock of the run, the ledger read off at moments, and
//! the verification of everything that has been measured.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use icecore::device::{Cause, Tally};
use icecore::volume::CreateOptions;
use icecore_workloads::{Access, Durability, Generations, Stamper, Workload};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::SnapshotPlan;
use super::load::Load;
use super::record::Seen;
use super::subject::{Keeper, Subject, Who};
use crate::arms;
use crate::arms::engine::{self, Content};
use crate::arms::target::{Bare, Target};
use crate::bench::Bench;
use crate::failure::Failure;
use crate::measure::{ArmOutcome, ArmTask, Figure, Window};
use crate::recorder::{Clock, Phase, RecordKind, Recorded, Recorder, empty_figures};
use crate::suite::AfterArm;
use crate::validity::kernel_bytes;
use crate::{content, interrupt};

/// How often something that is waited for is looked at.
const LOOK_NS: u64 = 2_000_000;
/// What takes longer than this has stood still.
pub(super) const PATIENCE_NS: u64 = 120_000_000_000;
/// What need not come is waited for no longer than so many measurements take.
const MEASURES_MAX: u64 = 20;

/// One measurement of a suite.
#[derive(Debug)]
pub(super) struct Part {
    pub phase: String,
    pub snapshots: Option<u32>,
    /// Since the run began.
    pub started_ns: u64,
    pub outcome: ArmOutcome,
    pub figures: Vec<Figure>,
    pub windows: Vec<Window>,
    /// What its requests were, where they are not the suite's.
    pub workload: Option<Workload>,
    /// Why it alone does not count.
    pub refusal: Option<String>,
}

/// Something that happened while an arm was measured.
#[derive(Debug)]
pub(super) struct Happened {
    pub at_ns: u64,
    pub event: &'static str,
    pub detail: String,
}

/// The ledger, and what the kernel says of this process, at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    at_ns: u64,
    by_cause: [Tally; Cause::ALL.len()],
    kernel: Option<(u64, u64)>,
}

/// One arm of one block.
pub(super) struct Stage<'a> {
    pub bench: &'a Bench,
    pub plan: &'a SnapshotPlan,
    pub arm: Who,
    pub seed: u64,
    pub name: &'static str,
    /// When the clock was started, since the run began.
    pub base_ns: u64,
    pub clock: Clock,
    pub parts: RefCell<Vec<Part>>,
    pub events: RefCell<Vec<Happened>>,
    pub verified_blocks: RefCell<u64>,
    pub wrong: RefCell<Option<String>>,
    pub random: RefCell<Xoshiro256PlusPlus>,
    pub after_arm: RefCell<AfterArm<'a>>,
    /// What was left out, and why.
    pub dropped: RefCell<Vec<(String, String)>>,
}

impl<'a> Stage<'a> {
    /// An arm of a block whose turn begins now, so long after the run.
    pub fn new(
        bench: &'a Bench,
        plan: &'a SnapshotPlan,
        arm: Who,
        (name, seed, block): (&'static str, u64, u32),
        base_ns: u64,
        after_arm: AfterArm<'a>,
    ) -> Self {
        Self {
            bench,
            plan,
            arm,
            seed,
            name,
            base_ns,
            clock: Clock::start(),
            parts: RefCell::default(),
            events: RefCell::default(),
            verified_blocks: RefCell::default(),
            wrong: RefCell::default(),
            random: RefCell::new(Xoshiro256PlusPlus::seed_from_u64(seed ^ u64::from(block))),
            after_arm: RefCell::new(after_arm),
            dropped: RefCell::default(),
        }
    }

    /// Since the run began.
    pub fn now_ns(&self) -> u64 {
        self.base_ns + self.clock.now_ns()
    }

    /// How long to wait for what need not come: so long, and less where measurements are short.
    pub fn at_most(&self, longest_ns: u64) -> u64 {
        longest_ns.min(self.plan.measure_ns.saturating_mul(MEASURES_MAX))
    }

    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.bench.runtime().block_on(future)
    }

    /// As [`Stage::wait`], for what must come to an end.
    pub fn patiently<T, E>(
        &self,
        what: &str,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure>
    where
        Failure: From<E>,
    {
        let context = self.bench.runtime().context();
        self.wait(async {
            let (mut future, mut end) = (pin!(future), pin!(context.sleep(PATIENCE_NS)));
            std::future::poll_fn(|waker| match future.as_mut().poll(waker) {
                Poll::Ready(done) => Poll::Ready(done.map_err(Failure::from)),
                Poll::Pending => end.as_mut().poll(waker).map(|()| {
                    let seconds = PATIENCE_NS / 1_000_000_000;
                    Err(Failure::environment(format!("{what} has not ended after {seconds} s")))
                }),
            })
            .await
        })
    }

    /// The place for a test to damage the data.
    pub fn meddle(&self) {
        (self.after_arm.borrow_mut())(self.bench.path(), self.plan.span_offset_bytes);
    }

    /// Heads or tails, from the seed.
    pub fn coin(&self) -> bool {
        self.random.borrow_mut().next_u64() >> 63 == 0
    }

    /// Notes an event that happens now.
    pub fn happened(&self, event: &'static str, what: &str) {
        let detail = format!("{}, {}: {what}", self.arm.name(), self.name);
        self.events.borrow_mut().push(Happened { at_ns: self.now_ns(), event, detail });
    }

    /// Prepares the span: the bare one, or that of a new volume of just this size.
    pub fn prepare(&self) -> Result<(Subject, Option<Keeper>), Failure> {
        let runtime = self.bench.runtime();
        let (subject, keeper) = match &self.arm {
            Who::Engine(kept) => {
                let keeper = self.volume(kept.options(self.plan.span_bytes))?;
                (keeper.subject(), Some(keeper))
            }
            Who::Raw | Who::Fio => {
                (Subject::Bare(Bare::new(self.bench.device(), self.plan.span_offset_bytes)), None)
            }
            Who::Peer(peer) => (peer.prepare(runtime, self.plan.span_bytes)?, None),
        };
        content::fill(runtime, &subject, self.plan.span_bytes, Stamper::new(self.seed))?;
        self.settle(&subject)?;
        Ok((subject, keeper))
    }

    /// A new volume of these options, open.
    pub fn volume(&self, options: CreateOptions) -> Result<Keeper, Failure> {
        content::format_as(self.bench, options)?;
        let keeper = self.wait(Keeper::open(self.bench.device()))?;
        // The first snapshot of a volume writes down that it has some: that is nobody's cost here.
        self.patiently("taking a snapshot", keeper.take("first"))?;
        self.patiently("deleting a snapshot", keeper.delete("first"))?;
        Ok(keeper)
    }

    /// Takes a snapshot, where there are any.
    pub fn take(&self, keeper: Option<&Keeper>, name: &str) -> Result<(), Failure> {
        match (&self.arm, keeper) {
            (Who::Peer(peer), _) => peer.take(name).map(drop),
            (_, Some(keeper)) => self.patiently("taking a snapshot", keeper.take(name)),
            (_, None) => Ok(()),
        }
    }

    /// What a snapshot shows, where there are any.
    pub fn image(&self, keeper: Option<&Keeper>, name: &str) -> Result<Option<Subject>, Failure> {
        match (&self.arm, keeper) {
            (Who::Peer(peer), _) => peer.image(self.bench.runtime(), name, self.plan.span_bytes).map(Some),
            (_, Some(keeper)) => self.patiently("opening an image", keeper.image(name)).map(Some),
            (_, None) => Ok(None),
        }
    }

    /// Ends what [`Stage::prepare`] began; nobody may have its subject or an image any more.
    pub fn leave(&self, keeper: Option<Keeper>) -> Result<(), Failure> {
        match (&self.arm, keeper) {
            (Who::Peer(peer), _) => peer.remove(),
            (_, Some(keeper)) => self.patiently("closing", keeper.0.close()),
            (_, None) => Ok(()),
        }
    }

    /// A block of each unit of the span, drawn at random.
    pub fn one_of_each(&self, unit_bytes: u64) -> Vec<u32> {
        let unit = unit_bytes / 4096;
        let random = &mut *self.random.borrow_mut();
        (0..self.blocks() / unit).map(|number| (number * unit + random.next_u64() % unit) as u32).collect()
    }

    pub fn load(&self, subject: &Subject) -> Load {
        let shape = (self.plan.queue_depth, self.plan.batch);
        Load::new(self.bench.runtime(), subject, self.plan.span_bytes, shape, self.seed)
    }

    /// Blocks of the span.
    pub fn blocks(&self) -> u64 {
        self.plan.span_bytes / 4096
    }

    /// Makes everything durable and waits until no background work is left.
    pub fn settle(&self, subject: &Subject) -> Result<(), Failure> {
        self.patiently("a flush", subject.flush())?;
        if self.bench.has_device() { self.wait(arms::quiet(self.bench.device())) } else { Ok(()) }
    }

    /// Lets the load go on for this long, or until it ends or `is_done`.
    pub fn let_go_on(&self, load: &Load, for_ns: u64, is_done: impl Fn() -> bool) -> Result<(), Failure> {
        let until_ns = self.clock.now_ns() + for_ns;
        self.wait(async {
            while self.clock.now_ns() < until_ns && !load.has_ended() && !is_done() {
                if interrupt::requested() {
                    return Err(Failure::interrupted());
                }
                let left_ns = until_ns.saturating_sub(self.clock.now_ns());
                self.bench.runtime().context().sleep(LOOK_NS.min(left_ns)).await;
            }
            Ok(())
        })?;
        Ok(load.check()?)
    }

    /// Runs the load until it ends by itself.
    pub fn to_its_end(&self, load: &mut Load) -> Result<Seen, Failure> {
        load.start()?;
        self.let_go_on(load, PATIENCE_NS, || false)?;
        let seen = load.look();
        self.stop(load)?;
        Ok(seen)
    }

    pub fn stop(&self, load: &mut Load) -> Result<(), Failure> {
        self.patiently("a write", load.stop())
    }

    pub fn mark(&self) -> Mark {
        let tally = |cause| {
            // Of what another system does below its device nothing is known.
            if self.bench.has_device() { self.bench.device().ledger().tally(cause) } else { Tally::default() }
        };
        let by_cause = Cause::ALL.map(tally);
        Mark { at_ns: self.now_ns(), by_cause, kernel: kernel_bytes() }
    }

    /// Adds a part of the load since a mark, with what the device has done for it until now.
    pub fn part(&self, phase: &str, snapshots: Option<u32>, since: &Mark, seen: Seen, more: Vec<Figure>) {
        self.part_until(phase, snapshots, (since, &self.mark()), seen, more);
    }

    /// Adds a part of the load between two marks.
    pub fn part_until(
        &self,
        phase: &str,
        snapshots: Option<u32>,
        (since, until): (&Mark, &Mark),
        seen: Seen,
        more: Vec<Figure>,
    ) {
        // Of what another system does below its device nothing is known.
        let is_known = !matches!(self.arm, Who::Peer(_));
        let mut figures =
            if is_known { until.device_figures(since, seen.outcome.operations()) } else { Vec::new() };
        figures.extend(more);
        self.push(phase, snapshots, since, seen, figures);
    }

    /// Adds a part that is no load: figures alone.
    pub fn part_of_figures(&self, phase: &str, snapshots: Option<u32>, since: &Mark, figures: Vec<Figure>) {
        let nothing = Recorded {
            open: None,
            read: empty_figures(),
            write: empty_figures(),
            flush: empty_figures(),
            elapsed_ns: 0,
            cpu_user_ns: None,
            cpu_system_ns: None,
            allocations: None,
            seconds: Vec::new(),
            bands: Vec::new(),
            rounds: None,
        };
        let outcome = nothing
            .into_outcome(self.bench.runtime().context().io_path().to_string(), Generations::default());
        self.part_of_outcome(phase, snapshots, since, outcome, figures);
    }

    /// What the device has done since a mark, by cause.
    pub fn device_figures(&self, since: &Mark, operations: u64) -> Vec<Figure> {
        self.mark().device_figures(since, operations)
    }

    /// Measures random reads of 4 KiB of a subject.
    pub fn reads(
        &self,
        subject: &Subject,
        phase: &str,
        snapshots: u32,
        more: Vec<Figure>,
    ) -> Result<(), Failure> {
        let since = self.mark();
        let outcome =
            engine::run(self.bench.runtime(), subject.clone(), &self.read_task(), Content::Stamped)?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        let mut figures = if self.bench.has_device() {
            self.device_figures(&since, outcome.read.operations)
        } else {
            Vec::new()
        };
        figures.extend(more);
        self.part_of_outcome(phase, Some(snapshots), &since, outcome, figures);
        Ok(())
    }

    /// Adds a part that was measured by another load.
    pub fn part_of_outcome(
        &self,
        phase: &str,
        snapshots: Option<u32>,
        since: &Mark,
        outcome: ArmOutcome,
        figures: Vec<Figure>,
    ) {
        self.push(phase, snapshots, since, Seen { outcome, windows: Vec::new() }, figures);
    }

    fn push(&self, phase: &str, snapshots: Option<u32>, since: &Mark, seen: Seen, figures: Vec<Figure>) {
        self.parts.borrow_mut().push(Part {
            phase: phase.to_string(),
            snapshots,
            started_ns: since.at_ns,
            outcome: seen.outcome,
            figures,
            windows: seen.windows,
            workload: None,
            refusal: None,
        });
    }

    fn change_last(&self, change: impl FnOnce(&mut Part)) {
        if let Some(last) = self.parts.borrow_mut().last_mut() {
            change(last);
        }
    }

    /// The requests of the last part were those of a workload.
    pub fn of_workload(&self, workload: &Workload) {
        self.change_last(|part| part.workload = Some(workload.clone()));
    }

    /// The last part does not count, if there is a reason.
    pub fn refuse_part(&self, reason: Option<String>) {
        self.change_last(|part| part.refusal = reason);
    }

    /// Adds a figure to the last part.
    pub fn figure_of_part(&self, figure: Figure) {
        self.change_last(|part| part.figures.push(figure));
    }

    /// Adds a part of reads of such a length, in the order of places, with what the device has done since a mark.
    pub fn part_of_reads(
        &self,
        phase: &str,
        snapshots: Option<u32>,
        since: &Mark,
        outcome: ArmOutcome,
        len_bytes: u32,
    ) {
        let figures = self.device_figures(since, outcome.read.operations);
        self.part_of_outcome(phase, snapshots, since, outcome, figures);
        self.of_workload(&Workload::simple(self.name, Access::Sequential, 100, len_bytes, Durability::None));
    }

    /// Reads these places one at a time, until all have been read or the measured time is over.
    pub fn read_places(
        &self,
        subject: &Subject,
        places: impl IntoIterator<Item = u64>,
        len_bytes: u32,
    ) -> Result<ArmOutcome, Failure> {
        let context = self.bench.runtime().context();
        let mut buf = context.buffers().get(len_bytes as usize)?;
        let mut recorder = Recorder::new(0, self.plan.measure_ns);
        let clock = Clock::start();
        self.wait(async {
            for offset_bytes in places {
                let begun_ns = clock.now_ns();
                if recorder.advance(begun_ns) == Phase::Done {
                    break;
                }
                let (result, back) = subject.read(offset_bytes, buf).await;
                result?;
                buf = back;
                recorder.record(RecordKind::Read, begun_ns, clock.now_ns(), u64::from(len_bytes));
            }
            Ok::<(), Failure>(())
        })?;
        if interrupt::requested() {
            return Err(Failure::interrupted());
        }
        let ended_ns = clock.now_ns();
        let mut recorded = recorder.finish();
        recorded.elapsed_ns = recorded.elapsed_ns.min(ended_ns);
        Ok(recorded.into_outcome(format!("{}, O_DIRECT", context.io_path()), Generations::default()))
    }

    fn read_task(&self) -> ArmTask {
        let mut task = self.plan.task(self.bench, self.name, self.seed);
        task.workload = random_4k(self.name, 100);
        task.measure_ns = self.plan.measure_ns;
        task
    }

    /// Compares what a subject shows with the generations that it must show, block by block.
    pub fn verify(&self, what: &str, subject: &Subject, between: (&[u32], &[u32])) -> Result<(), Failure> {
        let (runtime, stamper) = (self.bench.runtime(), Stamper::new(self.seed));
        match content::compare_between(runtime, subject, self.plan.span_bytes, stamper, between)? {
            Ok(blocks) => *self.verified_blocks.borrow_mut() += blocks,
            Err(wrong) => {
                self.wrong.borrow_mut().get_or_insert(format!("{what}: {wrong}"));
            }
        }
        Ok(())
    }
}

/// A metric of the ledger, its unit, and where it stands there.
type Count = (&'static str, &'static str, fn(&Tally) -> u64);

impl Mark {
    /// What the device has done since an earlier mark, by cause, for each of so many operations.
    fn device_figures(&self, since: &Mark, operations: u64) -> Vec<Figure> {
        let share = |amount: u64| (operations > 0).then(|| amount as f64 / operations as f64);
        let counts: [Count; 5] = [
            ("device_reads", "1/io", |tally| tally.reads),
            ("device_writes", "1/io", |tally| tally.writes),
            ("device_flushes", "1/io", |tally| tally.flushes),
            ("device_read_bytes", "bytes/io", |tally| tally.read_bytes),
            ("device_write_bytes", "bytes/io", |tally| tally.write_bytes),
        ];
        let mut figures = Vec::new();
        let kernel = self.kernel.zip(since.kernel);
        for (metric, unit, of) in counts {
            let mut add = |stat: &str, value: Option<f64>| {
                figures.push(Figure { metric, stat: stat.to_string(), unit, value, n: operations });
            };
            let grown = |index: usize| of(&self.by_cause[index]) - of(&since.by_cause[index]);
            add("total", share((0..Cause::ALL.len()).map(grown).sum()));
            for (index, cause) in Cause::ALL.iter().enumerate() {
                add(cause.name(), share(grown(index)));
            }
            match metric {
                "device_read_bytes" => add("kernel", kernel.and_then(|(now, then)| share(now.0 - then.0))),
                "device_write_bytes" => add("kernel", kernel.and_then(|(now, then)| share(now.1 - then.1))),
                _ => {}
            }
        }
        figures
    }
}

impl SnapshotPlan {
    /// What the rows of a suite say of its requests.
    pub(super) fn task(&self, bench: &Bench, name: &'static str, seed: u64) -> ArmTask {
        ArmTask {
            path: bench.path().to_owned(),
            span_offset_bytes: self.span_offset_bytes,
            span_bytes: self.span_bytes,
            workload: random_4k(name, 0),
            queue_depth: self.queue_depth,
            warmup_ns: 0,
            measure_ns: 0,
            seed,
            offered_per_second: None,
            replay: None,
            until_steady: false,
        }
    }
}

/// The suites' requests, as a workload of their name.
pub(super) fn random_4k(name: &str, read_percent: u8) -> Workload {
    Workload::simple(name, Access::UniformRandom, read_percent, 4096, Durability::None)
}

/// A figure that is one value.
pub(super) fn figure(metric: &'static str, stat: &str, unit: &'static str, value: Option<f64>) -> Figure {
    Figure { metric, stat: stat.to_string(), unit, value, n: 1 }
}
