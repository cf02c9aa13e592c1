//! What targets see of a trace that is played: every request, once, in order, not before its time, and the content that was said.
//!
//! Targets of the tests write down what they are asked for, with a clock of their own that began before the load's.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use icecore::buf::Buf;
use icecore::error::Result;
use icecore::runtime::{Context, Runtime};
use icecore::store::Backend;
use icecore::volume::{OpenMode, Volume};
use icecore_workloads::trace::{
    Addresses, Mapped, Mapping, Record, RecordKind, RecordSource, Speed, TraceError,
};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::Arm;
use super::engine::{self, Content};
use super::line::Source;
use super::target::{Bare, Target};
use crate::bench::{self, Bench};
use crate::cli::{Cli, Command};
use crate::content;
use crate::measure::{ArmOutcome, ArmTask};
use crate::plan::Request;
use crate::recorder::Clock;
use crate::replay::feed::{Bounds, Feed};

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
const DEVICE_BYTES: u64 = 96 * MIB;
const SPAN_BYTES: u64 = 8 * MIB;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../workloads/tests/fixtures").join(name)
}

/// What the program would ask an arm for.
fn task(trace: &Path, options: &[&str]) -> ArmTask {
    let first = ["bench-runner", "run", "--device", "disk", "--span", "8388608", "--addresses", "fold"];
    let arguments = first.iter().copied().chain(["--trace", trace.to_str().unwrap()]);
    let cli = Cli::try_parse_from(arguments.chain(options.iter().copied())).unwrap();
    let Command::Run(options) = cli.command else { unreachable!("that is its name") };
    let plan = Request::parse(&options).unwrap().on(Path::new("disk"), DEVICE_BYTES, 512).unwrap();
    plan.task(Path::new("disk"), &plan.cells[0], 7)
}

fn runtime() -> Option<Runtime> {
    match bench::runtime(32) {
        Ok(runtime) => Some(runtime),
        Err(failure) => {
            println!("skipped: {failure}");
            None
        }
    }
}

/// A request as a target sees it: when, what, where, how long.
type Seen = (u64, RecordKind, u64, u64);

/// Writes down what it hands on.
#[derive(Clone)]
struct Noted<T> {
    under: T,
    clock: Clock,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl<T> Noted<T> {
    fn new(under: T) -> Self {
        Self { under, clock: Clock::start(), seen: Rc::default() }
    }

    fn note(&self, kind: RecordKind, offset_bytes: u64, len_bytes: u64) {
        self.seen.borrow_mut().push((self.clock.now_ns(), kind, offset_bytes, len_bytes));
    }
}

impl<T: Target> Target for Noted<T> {
    const FLUSHES_APART: bool = T::FLUSHES_APART;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.note(RecordKind::Read, offset_bytes, buf.len() as u64);
        self.under.read(offset_bytes, buf).await
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        self.note(RecordKind::Write, offset_bytes, buf.len() as u64);
        self.under.write(offset_bytes, buf, durable).await
    }

    async fn flush(&self) -> Result<()> {
        self.note(RecordKind::Flush, 0, 0);
        self.under.flush().await
    }

    async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<bool> {
        self.note(RecordKind::Discard, offset_bytes, len_bytes);
        self.under.discard(offset_bytes, len_bytes).await
    }
}

/// The fixtures, worked out by hand as in the tests of the readers: time in ns, kind, offset modulo 8 MiB, length, both in whole
/// sectors of 512 bytes.
fn fixtures() -> Vec<(&'static str, Vec<Seen>)> {
    use RecordKind::{Discard, Flush, Read, Write};
    let fold = |bytes: u64| bytes % SPAN_BYTES;
    vec![
        (
            "alibaba.csv",
            vec![
                (0, Write, fold(13_909_270_528), 16_384),
                (64_000, Read, 4_096, 4_096),
                (MS, Write, fold(13_909_286_912), 512),
            ],
        ),
        (
            "msr.csv",
            vec![
                (0, Read, fold(7_014_609_920), 24_576),
                (1_332_052_600, Write, fold(1_317_441_536), 8_192),
                (2_332_061_600, Write, fold(2_436_440_064), 4_096),
            ],
        ),
        (
            "tencent.csv",
            vec![
                (0, Read, fold(12_910_952 * 512), 65_536),
                (1_000 * MS, Read, fold(1_904_106 * 512), 196_608),
                (2_000 * MS, Write, fold(6_338_688 * 512), 4_096),
            ],
        ),
        ("fio-v3.log", vec![(0, Write, 0, 16_384), (10_000, Read, 16_384, 4_096), (13_000, Flush, 0, 0)]),
        (
            "blkparse.txt",
            vec![
                (0, Write, fold(223_490 * 512), 4_096),
                (499_690, Read, 4_096 * 512, 131_072),
                (999_999_690, Flush, 0, 0),
                (1_499_999_690, Discard, 8_192 * 512, 1_048_576),
            ],
        ),
    ]
}

/// What was seen is the list, in its order, and nothing before its time.
#[track_caller]
fn expect(seen: &[Seen], expected: &[Seen], speed: u64, what: &str) {
    let places = |list: &[Seen]| list.iter().map(|seen| (seen.1, seen.2, seen.3)).collect::<Vec<_>>();
    assert_eq!(places(seen), places(expected), "{what}");
    for (seen, expected) in seen.iter().zip(expected) {
        assert!(seen.0 >= expected.0 / speed, "{what}: {seen:?} before {expected:?} at {speed}x");
    }
}

/// Plays a trace on a target of the bench; gives what the target saw and what the load says.
fn play<T: Target>(bench: &Bench, under: T, task: &ArmTask) -> (Vec<Seen>, ArmOutcome) {
    let noted = Noted::new(under);
    let outcome = engine::run(bench.runtime(), noted.clone(), task, Content::Stamped).unwrap();
    (noted.seen.take(), outcome)
}

/// Every fixture on the bare device and three backends of a file: what was begun, when, and what lies there afterwards.
#[test]
fn every_arm_plays_the_same_and_is_verified() {
    if runtime().is_none() {
        return;
    }
    // Beside the program: /tmp may be in memory.
    let program = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let bench = Bench::create(&folder.path().join("disk"), DEVICE_BYTES, 32).unwrap();
    let arms = [Backend::Direct, Backend::Log, Backend::Cow].map(Arm::Engine);
    for (name, expected) in fixtures() {
        for arm in [Arm::Raw].into_iter().chain(arms) {
            let what = format!("{name} on {}", arm.name());
            let task = task(&fixture(name), &["--speed", "20"]);
            content::prime(&bench, arm, &task).unwrap();
            let (seen, outcome) = match arm {
                Arm::Engine(_) => {
                    let opening = Volume::open(bench.device().clone(), OpenMode::ReadWrite);
                    let volume = bench.runtime().block_on(opening).unwrap();
                    let played = play(&bench, volume.clone(), &task);
                    bench.runtime().block_on(volume.close()).unwrap();
                    played
                }
                _ => play(&bench, Bare::new(bench.device(), task.span_offset_bytes), &task),
            };
            expect(&seen, &expected, 20, &what);
            let replayed = outcome.replayed.as_ref().unwrap();
            assert!(replayed.is_whole && replayed.failure.is_none(), "{what}: {replayed:?}");
            assert_eq!(replayed.begun, expected.len() as u64, "{what}");
            let verified = content::verify(&bench, arm, &task, &outcome.generations).unwrap();
            assert_eq!(verified.map_err(|wrong| wrong.to_string()), Ok(SPAN_BYTES / 4096), "{what}");
            // The end is that of the last request, not of the time that was asked for.
            assert!(
                outcome.elapsed_ns < task.measure_ns && outcome.elapsed_ns >= expected.last().unwrap().0 / 20
            );
        }
    }
}

/// Records from memory, which may take their time.
struct Given {
    records: std::vec::IntoIter<Record>,
    /// Before the record that so many follow, nothing comes for so long.
    pause: Option<(usize, Duration)>,
}

impl RecordSource for Given {
    fn next(&mut self) -> std::result::Result<Option<Record>, TraceError> {
        if let Some((left, pause)) = self.pause
            && self.records.len() == left
        {
            std::thread::sleep(pause);
        }
        Ok(self.records.next())
    }
}

/// A feed of these records, a batch ahead.
fn feed(records: Vec<Record>, pause: Option<(usize, Duration)>) -> Feed {
    let mapping = Mapping {
        addresses: Addresses::Fold,
        span_bytes: SPAN_BYTES,
        alignment_bytes: 512,
        volumes: Default::default(),
        speed: Speed::RECORDED,
    };
    let mapped = Mapped::new(Given { records: records.into_iter(), pause }, mapping).unwrap();
    let bounds = Bounds {
        request_bytes_max: 65_536,
        limit: u64::MAX,
        until_ns: u64::MAX,
        reads: true,
        writes: true,
        batches_ahead: 1,
    };
    Feed::of(mapped, bounds)
}

/// Serves each request in a time of its own; what is written lands at the end of it.
#[derive(Clone)]
struct Memory {
    context: Context,
    random: Rc<RefCell<Xoshiro256PlusPlus>>,
    service_ns: (u64, u64),
    bytes: Rc<RefCell<Vec<u8>>>,
    in_flight: Rc<Cell<u32>>,
    in_flight_max: Rc<Cell<u32>>,
}

impl Memory {
    fn new(context: &Context, service_ns: (u64, u64)) -> Self {
        Self {
            context: context.clone(),
            random: Rc::new(RefCell::new(Xoshiro256PlusPlus::seed_from_u64(5))),
            service_ns,
            bytes: Rc::new(RefCell::new(vec![0; SPAN_BYTES as usize])),
            in_flight: Rc::default(),
            in_flight_max: Rc::default(),
        }
    }

    async fn serve(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.in_flight_max.set(self.in_flight_max.get().max(self.in_flight.get()));
        let drawn = self.random.borrow_mut().next_u64() % (self.service_ns.1 - self.service_ns.0);
        self.context.sleep(self.service_ns.0 + drawn).await;
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

impl Target for Memory {
    const FLUSHES_APART: bool = false;

    async fn read(&self, _offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.serve().await;
        (Ok(()), buf)
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, _durable: bool) -> (Result<()>, Buf) {
        self.serve().await;
        let at = offset_bytes as usize;
        self.bytes.borrow_mut()[at..at + buf.len()].copy_from_slice(&buf);
        (Ok(()), buf)
    }

    async fn flush(&self) -> Result<()> {
        self.serve().await;
        Ok(())
    }

    async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<bool> {
        self.serve().await;
        self.bytes.borrow_mut()[offset_bytes as usize..][..len_bytes as usize].fill(0);
        Ok(true)
    }
}

/// The task of a trace of memory: of requests of sectors, at most 64 KiB.
fn task_of_memory() -> ArmTask {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    std::fs::write(&path, "1,W,0,65536,1\n1,R,512,512,2\n").unwrap();
    ArmTask { queue_depth: 8, ..task(&path, &["--speed", "max"]) }
}

fn played_from(runtime: &Runtime, target: impl Target, task: &ArmTask, source: Source) -> ArmOutcome {
    engine::run_from(runtime, target, task, Content::Stamped, Some(source)).unwrap()
}

/// Changes that overlap, on a target that completes them in any order: what was begun last must be there at last.
#[test]
fn changes_of_one_place_wait_for_each_other() {
    let Some(runtime) = runtime() else { return };
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut draw = |below: u64| random.next_u64() % below;
    let records: Vec<Record> = (0..600)
        .map(|number| {
            let (kind, sectors) = match draw(10) {
                0 => (RecordKind::Read, 1 + draw(128)),
                1 => (RecordKind::Flush, 0),
                2 => (RecordKind::Discard, 1 + draw(64)),
                _ => (RecordKind::Write, 1 + draw(128)),
            };
            let sector = if kind == RecordKind::Flush { 0 } else { draw(200) };
            Record::new(number, 0, kind, sector * 512, (sectors * 512) as u32)
        })
        .collect();
    let target = Noted::new(Memory::new(runtime.context(), (20_000, 400_000)));
    let task = task_of_memory();
    let outcome = played_from(&runtime, target.clone(), &task, Source::Order(feed(records.clone(), None)));
    // Changes of one place, in the order of the trace; others may overtake one that waits.
    let (seen, bytes) = (target.seen.take(), target.under.bytes.take());
    let touching = |sector: u64, of: &mut dyn Iterator<Item = (RecordKind, u64, u64)>| {
        of.filter(|(kind, ..)| matches!(kind, RecordKind::Write | RecordKind::Discard))
            .filter(|(_, offset, len)| (*offset..offset + len).contains(&(sector * 512)))
            .collect::<Vec<_>>()
    };
    let stamper = task.stamper();
    for sector in 0..400 {
        let mut of_trace =
            records.iter().map(|record| (record.kind, record.offset_bytes, u64::from(record.len_bytes)));
        let expected = touching(sector, &mut of_trace);
        assert_eq!(touching(sector, &mut seen.iter().map(|seen| (seen.1, seen.2, seen.3))), expected);
        let at = sector as usize * 512;
        let held = &bytes[at..at + 512];
        let writes = expected.iter().filter(|(kind, ..)| *kind == RecordKind::Write).count() as u32;
        match expected.last() {
            None | Some((RecordKind::Discard, ..)) => assert!(held.iter().all(|byte| *byte == 0), "{sector}"),
            Some(_) => assert_eq!(stamper.verify(held, at as u64, writes), Ok(()), "sector {sector}"),
        }
    }
    let replayed = outcome.replayed.unwrap();
    assert_eq!((replayed.begun, seen.len()), (600, 600));
    assert!(replayed.waited > 100, "{replayed:?}");
    assert!(target.under.in_flight_max.get() > 1, "others go on beside them");
    assert!(outcome.open.is_none());
}

/// Requests that are due at one moment while every task is idle are under way together.
#[test]
fn what_is_due_together_is_begun_together() {
    let Some(runtime) = runtime() else { return };
    // The last of the first four comes before the pause: all tasks have been idle since.
    let at = |number: u64| if number < 4 { number * MS } else { 1_200 * MS };
    let records = (0..12).map(|number| Record::new(at(number), 0, RecordKind::Read, number * 4096, 4096));
    let mut task = task_of_memory();
    task.replay.as_mut().unwrap().speed = Some(Speed::RECORDED);
    let target = Memory::new(runtime.context(), (800 * MS, 800 * MS + 1));
    let feed = feed(records.collect(), None);
    let outcome = played_from(&runtime, target.clone(), &task, Source::Trace(feed));
    assert_eq!((outcome.read.operations, target.in_flight_max.get()), (12, 8));
}

/// Two thousand a second of a target that serves 4 in 4 ms: what waits for its turn shows in what was intended alone.
#[test]
fn beyond_capacity_the_queue_shows_in_what_was_intended() {
    let Some(runtime) = runtime() else { return };
    let records = (0..1_000_u64)
        .map(|number| Record::new(number * 500_000, 0, RecordKind::Read, number * 4096, 4096))
        .collect();
    let mut task = ArmTask { queue_depth: 4, ..task_of_memory() };
    task.replay.as_mut().unwrap().speed = Some(Speed::RECORDED);
    let target = Memory::new(runtime.context(), (4 * MS, 4 * MS + 1));
    let outcome = played_from(&runtime, target, &task, Source::Trace(feed(records, None)));
    let open = outcome.open.as_ref().unwrap();
    assert_eq!((outcome.read.operations, open.read_ns.len()), (1_000, 1_000));
    // Served in no less than a second, asked for in half of one: the last have waited as long as they were served.
    let intended_ns = open.read_ns.value_at_quantile(0.9);
    assert!(intended_ns > 300 * MS, "{intended_ns}");
    let service_ns = outcome.read.latency_ns.value_at_quantile(0.5);
    assert!(service_ns < intended_ns / 4, "{service_ns} of {intended_ns}");
    assert!(
        open.is_saturated(1_000, outcome.elapsed_ns),
        "{} in {} ns",
        open.offered_per_second,
        outcome.elapsed_ns
    );
    assert!(open.backlog_max > 300, "{}", open.backlog_max);
    assert_eq!(open.overflow, 0);
}

/// What the reading is late for voids the run, on a schedule and without; it is not the target's.
#[test]
fn a_trace_that_is_read_too_slowly_voids_the_run() {
    let Some(runtime) = runtime() else { return };
    let records = || -> Vec<Record> {
        let of = |number: u64| Record::new(number * 1_000, 0, RecordKind::Read, number % 1_000 * 4096, 4096);
        (0..6_000).map(of).collect()
    };
    let pause = Some((2_000, Duration::from_millis(1_000)));
    let mut task = task_of_memory();
    let target = Memory::new(runtime.context(), (1, 2));
    let outcome = played_from(&runtime, target.clone(), &task, Source::Order(feed(records(), pause)));
    let reason = outcome.replayed.unwrap().refusal(outcome.elapsed_ns).unwrap();
    assert!(reason.contains("waited for the trace"), "{reason}");

    task.replay.as_mut().unwrap().speed = Some(Speed::RECORDED);
    let outcome = played_from(&runtime, target, &task, Source::Trace(feed(records(), pause)));
    // Those that could have begun meanwhile are late; those behind them wait for tasks again, and would hide it.
    assert!(outcome.open.as_ref().unwrap().lateness_ns.max() > 300 * MS);
    let reason = outcome.replayed.unwrap().refusal(outcome.elapsed_ns).unwrap();
    assert!(reason.contains("waited for the trace"), "{reason}");
    assert_eq!(outcome.read.operations, 6_000);
}

/// A trace that has changed since it was looked at: the line with its reason, and what was played by then.
#[test]
fn damage_on_the_way_is_told_with_its_line() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    let lines: Vec<String> = (0..50).map(|line| format!("1,W,{},4096,{}\n", line * 4096, line)).collect();
    std::fs::write(&path, lines.concat()).unwrap();
    let task = task(&path, &["--speed", "max"]);
    let target = Memory::new(runtime.context(), (1_000, 2_000));
    let whole = engine::run(&runtime, target.clone(), &task, Content::Stamped).unwrap();
    assert_eq!(whole.replayed.as_ref().map(|replayed| (replayed.begun, replayed.is_whole)), Some((50, true)));
    assert_eq!(whole.replayed.unwrap().refusal(whole.elapsed_ns), None);
    // As fast as possible: as many at once as there are tasks.
    assert_eq!(target.in_flight_max.get(), task.queue_depth);

    let mut damaged = lines.clone();
    damaged[30] = "1,W,4096,x,30\n".to_owned();
    std::fs::write(&path, damaged.concat()).unwrap();
    let cut = engine::run(&runtime, target.clone(), &task, Content::Stamped).unwrap();
    let replayed = cut.replayed.unwrap();
    assert_eq!((replayed.begun, replayed.is_whole, cut.write.operations), (30, false, 30));
    let reason = replayed.refusal(cut.elapsed_ns).unwrap();
    assert!(reason.contains("trace.csv: line 31: length"), "{reason}");

    damaged[30] = "1,R,4096,512,30\n".to_owned();
    std::fs::write(&path, damaged.concat()).unwrap();
    let changed = engine::run(&runtime, target, &task, Content::Stamped).unwrap();
    let reason = changed.replayed.unwrap().refusal(changed.elapsed_ns).unwrap();
    assert!(reason.contains("changed since it was looked at"), "{reason}");
}

/// A target that has no discards.
#[derive(Clone)]
struct WithoutDiscards(Memory);

impl Target for WithoutDiscards {
    const FLUSHES_APART: bool = true;

    async fn read(&self, offset_bytes: u64, buf: Buf) -> (Result<()>, Buf) {
        self.0.read(offset_bytes, buf).await
    }

    async fn write(&self, offset_bytes: u64, buf: Buf, durable: bool) -> (Result<()>, Buf) {
        self.0.write(offset_bytes, buf, durable).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

/// Discards that cannot be done leave what is there, and are counted; a trace that ends before the measuring begins counts as nothing.
#[test]
fn what_is_passed_over_is_counted() {
    let Some(runtime) = runtime() else { return };
    let records = || {
        let kinds = [RecordKind::Write, RecordKind::Discard, RecordKind::Flush];
        kinds.map(|kind| Record::new(0, 0, kind, 0, 4096)).to_vec()
    };
    let target = WithoutDiscards(Memory::new(runtime.context(), (1, 2)));
    let task = task_of_memory();
    let outcome = played_from(&runtime, target.clone(), &task, Source::Order(feed(records(), None)));
    let replayed = outcome.replayed.unwrap();
    assert_eq!((replayed.begun, replayed.discards, replayed.passed_over), (3, 0, 1));
    assert_eq!(task.stamper().verify(&target.0.bytes.borrow()[..4096], 0, 1), Ok(()));
    assert_eq!(
        (&outcome.generations.counts()[..9], outcome.flush.operations),
        (&[1, 1, 1, 1, 1, 1, 1, 1, 0][..], 1)
    );

    let late = ArmTask { warmup_ns: 60_000 * MS, ..task };
    let outcome = played_from(&runtime, target, &late, Source::Order(feed(records(), None)));
    let reason = outcome.replayed.unwrap().refusal(outcome.elapsed_ns).unwrap();
    assert!(reason.contains("ended within the warm-up"), "{reason}");
}

/// Too long requests are played in pieces, one after another where they change places; counted once.
#[test]
fn long_requests_are_split() {
    let Some(runtime) = runtime() else { return };
    let record = |kind, len| Record::new(0, 0, kind, 512, len);
    let records = vec![record(RecordKind::Write, 200_000), record(RecordKind::Read, 65_536)];
    let target = Noted::new(Memory::new(runtime.context(), (1, 2)));
    let outcome =
        played_from(&runtime, target.clone(), &task_of_memory(), Source::Order(feed(records, None)));
    let lens: Vec<u64> = target.seen.take().iter().map(|seen| seen.3).collect();
    assert_eq!(lens, [65_536, 65_536, 65_536, 200_192 - 3 * 65_536, 65_536]);
    let replayed = outcome.replayed.unwrap();
    assert_eq!((replayed.begun, replayed.split, replayed.aligned), (2, 1, 1));
}
