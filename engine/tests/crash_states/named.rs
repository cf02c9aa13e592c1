//! Every crash state of triples of overlapping operations with taking and deleting snapshots among them, on `log`, `cow`
//! and `overlay` volumes.
//!
//! A play is stopped at each request of the disk that changes it, and every state that a crash may leave there is
//! recovered. Then the image is a legal one (of a log: a prefix of its entries; in place: each region something that
//! was written since it was last durable), each snapshot that was taken is there and shows its moment, one that was
//! deleted is not, and one under way is there as a whole or not at all.
//!
//! The ordinary run takes a sample; `ICECORE_CRASH_EVERY=n` takes each n-th triple.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use icecore::check::check;
use icecore::device::simulated::SimulatedDisk;
use icecore::object::ObjectKind;
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, OpenMode, Volume};

use crate::REQUESTS_MAX;
use crate::oracle::{ENTRY_REGIONS, Image, Op, REGIONS};
use crate::rig::{self, BLOCK, Rig, SEGMENT_BYTES};
use crate::states::{Coverage, crash_states};

/// Each so-many-th triple is played in the ordinary run.
const SAMPLE: usize = 79;
/// Each so-many-th crash state is recovered with a crash at each request, goes on, or is checked before.
const CRASH_AGAIN_EVERY: u64 = 512;
const GO_ON_EVERY: u64 = 16;
const CHECK_EVERY: u64 = 16;
/// Room for some two dozen segments behind the base.
const DEVICE_BYTES: u64 = (3 << 20) + (256 << 10);

/// An operation of a play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Data(Op),
    Snapshot,
    DeleteOldest,
    DeleteNewest,
}

const STEPS: [Step; 10] = [
    Step::Data(Op::Write(0, 3)),
    Step::Data(Op::Write(1, 3)),
    Step::Data(Op::Write(0, 8)),
    Step::Data(Op::DurableWrite(2, 3)),
    Step::Data(Op::Zero(1, 3)),
    Step::Data(Op::Discard(2, 4)),
    Step::Data(Op::Flush),
    Step::Snapshot,
    Step::DeleteOldest,
    Step::DeleteNewest,
];

/// What has been done before the operations that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// The pool has never had a snapshot.
    Fresh,
    /// The log has gone round; there is a snapshot, some of what it sees has been overwritten, durably.
    One,
    /// There are three, and what was written last is in doubt.
    Three,
    /// There are three, and a checkpoint is due soon.
    Due,
}

impl Setting {
    const ALL: [Setting; 4] = [Setting::Fresh, Setting::One, Setting::Three, Setting::Due];

    fn prelude(self) -> Vec<Step> {
        let data = |op| Step::Data(op);
        match self {
            Setting::Fresh => vec![],
            Setting::One => {
                vec![Step::Snapshot, data(Op::Write(2, 4)), data(Op::Zero(0, 1)), data(Op::Flush)]
            }
            Setting::Three => vec![
                Step::Snapshot,
                data(Op::Write(0, 3)),
                Step::Snapshot,
                data(Op::Write(2, 4)),
                Step::Snapshot,
                data(Op::Discard(5, 2)),
                data(Op::Write(6, 2)),
            ],
            Setting::Due => [Step::Snapshot, data(Op::DurableWrite(0, 8))].repeat(3),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    There,
    /// It is being taken or deleted.
    UnderWay,
}

/// What may be found, from the calls and their returns alone.
#[derive(Clone, Debug)]
struct Oracle {
    /// Every write goes to the log, whose entries come in order.
    in_order: bool,
    now: Image,
    /// In order: the image after each entry, from the last durable one on.
    prefixes: Vec<Image>,
    /// In place: what each region has held since it was last durable.
    since_durable: [Vec<u64>; REGIONS],
    snapshots: BTreeMap<String, (Image, Presence)>,
    writes: u64,
    names: u64,
    /// What is under way.
    step: Option<(Step, String)>,
}

impl Oracle {
    fn new(backend: Backend, now: Image) -> Self {
        Self {
            in_order: matches!(backend, Backend::Log | Backend::LoggedCow),
            now,
            prefixes: vec![now],
            since_durable: now.map(|content| vec![content]),
            snapshots: BTreeMap::new(),
            writes: 0,
            names: 0,
            step: None,
        }
    }

    /// A step begins: the content it writes, or the name it is about. `None`: there is nothing to delete.
    fn issue(&mut self, step: Step) -> Option<(u64, String)> {
        self.writes += 1;
        let content = 1 + self.writes;
        let mut name = String::new();
        match step {
            Step::Data(Op::Write(first, count) | Op::DurableWrite(first, count)) => {
                for piece in (first..first + count).step_by(ENTRY_REGIONS) {
                    self.change(piece, (first + count - piece).min(ENTRY_REGIONS), content);
                }
            }
            Step::Data(Op::Zero(first, count) | Op::Discard(first, count)) => self.change(first, count, 0),
            Step::Data(Op::Flush) => {}
            Step::Snapshot => {
                self.names += 1;
                name = format!("s{}", self.names);
                self.snapshots.insert(name.clone(), (self.now, Presence::UnderWay));
            }
            Step::DeleteOldest | Step::DeleteNewest => {
                // The names are in the order of their moments.
                let mut all = self.snapshots.iter_mut();
                let found = if step == Step::DeleteOldest { all.next() } else { all.next_back() };
                let (found, (_, presence)) = found?;
                (name, *presence) = (found.clone(), Presence::UnderWay);
            }
        }
        self.step = Some((step, name.clone()));
        Some((content, name))
    }

    fn change(&mut self, first: usize, count: usize, content: u64) {
        self.now[first..first + count].fill(content);
        self.prefixes.push(self.now);
        self.since_durable[first..first + count].iter_mut().for_each(|held| held.push(content));
    }

    fn completed(&mut self) {
        let Some((step, name)) = self.step.take() else { return };
        match step {
            Step::Data(Op::Flush) => self.all_is_durable(),
            Step::Data(Op::DurableWrite(..)) if self.in_order => self.all_is_durable(),
            Step::Data(Op::DurableWrite(first, count)) => {
                for region in first..first + count {
                    self.since_durable[region] = vec![self.now[region]];
                }
            }
            Step::Data(_) => {}
            Step::Snapshot => {
                self.all_is_durable();
                self.snapshots.insert(name, (self.now, Presence::There));
            }
            Step::DeleteOldest | Step::DeleteNewest => drop(self.snapshots.remove(&name)),
        }
    }

    fn all_is_durable(&mut self) {
        self.prefixes = vec![self.now];
        self.since_durable = self.now.map(|content| vec![content]);
    }

    /// Judges what was found. `whole`: nothing was under way, and nothing was lost.
    fn judge(&self, found: &Found, whole: bool) -> Result<(), String> {
        let image = &found.image;
        let is_legal = match (whole, self.in_order) {
            (true, _) => *image == self.now,
            (false, true) => self.prefixes.contains(image),
            (false, false) => {
                image.iter().zip(&self.since_durable).all(|(content, held)| held.contains(content))
            }
        };
        if !is_legal {
            return Err(format!("{image:?}, and now is {:?}", self.now));
        }
        for (name, shown) in &found.snapshots {
            match self.snapshots.get(name) {
                Some((moment, _)) if moment == shown => {}
                Some((moment, _)) => return Err(format!("{name} shows {shown:?} instead of {moment:?}")),
                None => return Err(format!("{name} is there")),
            }
        }
        let is_missing = |(name, (_, presence)): &(&String, &(Image, Presence))| {
            *presence == Presence::There && !found.snapshots.contains_key(*name)
        };
        match self.snapshots.iter().find(is_missing) {
            Some((name, _)) => Err(format!("{name} is gone")),
            None => Ok(()),
        }
    }
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    image: Image,
    snapshots: BTreeMap<String, Image>,
}

async fn found(volume: &Volume) -> Found {
    let mut snapshots = BTreeMap::new();
    for snapshot in volume.snapshots() {
        assert!(!snapshot.broken, "{} is broken", snapshot.name);
        let sequence = Some(snapshot.sequence);
        let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
        let buf = volume.context().buffers().get(REGIONS * BLOCK).unwrap();
        let (result, buf) = image.read(ByteOffset(0), buf).await;
        result.unwrap();
        snapshots.insert(snapshot.name, rig::contents(&buf));
    }
    Found { image: rig::image_of(volume).await, snapshots }
}

async fn recover(rig: &Rig, disk: &SimulatedDisk) -> (Volume, Found) {
    let volume = rig::open(rig, disk, OpenMode::ReadWrite).await.unwrap();
    let found = found(&volume).await;
    (volume, found)
}

/// Pools to begin with.
struct Pools {
    backend: Backend,
    fresh: SimulatedDisk,
    used: SimulatedDisk,
    _runtime: Runtime,
}

impl Pools {
    fn make((backend, objects): (Backend, ObjectKind)) -> Self {
        let (runtime, calendar) = Runtime::simulated(7).unwrap();
        let rig = Rig { calendar: calendar.clone(), context: runtime.context().clone() };
        let fresh = SimulatedDisk::new(&calendar, 7, "disk", DEVICE_BYTES, BLOCK as u32);
        let used = runtime.block_on(async {
            let options = CreateOptions {
                size_bytes: Some((REGIONS * BLOCK) as u64),
                block_bytes: Some(BLOCK as u32),
                region_bytes: BLOCK as u32,
                segment_bytes: Some(SEGMENT_BYTES),
                checkpoint_bytes: Some(2 * u64::from(SEGMENT_BYTES)),
                objects,
                ..CreateOptions::new(backend)
            };
            Volume::create(&fresh.open(&rig.context).unwrap(), options).await.unwrap();
            let volume = rig::open(&rig, &fresh, OpenMode::ReadWrite).await.unwrap();
            for first in 0..6 {
                rig::apply(&volume, Op::Write(first, 3), 1_000_000 + first as u64).await.unwrap();
            }
            volume.close().await.unwrap();
            drop(volume);
            fresh.cut_power();
            let used = fresh.after_cut(&rig.calendar, |_, _| true);
            let volume = rig::open(&rig, &used, OpenMode::ReadWrite).await.unwrap();
            // Wherever the log goes on, it meets what lay there before.
            for round in 0..40 {
                volume.create_snapshot("lap").await.unwrap();
                for first in 0..6 {
                    let content = 2_000_000 + 10 * round + first as u64;
                    rig::apply(&volume, Op::Write(first, 3), content).await.unwrap();
                }
                volume.delete_snapshot("lap").await.unwrap();
            }
            volume.close().await.unwrap();
            drop(volume);
            used.cut_power();
            used
        });
        Self { backend, fresh, used, _runtime: runtime }
    }

    /// Plays steps in this setting until the disk has had so many requests of them; later ones it holds.
    async fn play(&self, rig: &Rig, setting: Setting, steps: [Step; 3], requests: u64) -> Played {
        let pool = if setting == Setting::Fresh { &self.fresh } else { &self.used };
        let disk = pool.after_cut(&rig.calendar, |_, _| true);
        let (volume, before) = recover(rig, &disk).await;
        let oracle = Rc::new(RefCell::new(Oracle::new(self.backend, before.image)));
        run(&volume, &oracle, &setting.prelude()).await;
        let runs = runs(&volume);
        let (playing, noted) = (volume.clone(), Rc::clone(&oracle));
        let work = async move { run(&playing, &noted, &steps).await };
        let stopped_at = rig::until_request(rig, &disk, requests, work).await;
        let oracle = oracle.borrow().clone();
        Played { disk, oracle, stopped_at, runs, volume }
    }
}

/// What was there when the disk stopped answering.
struct Played {
    disk: SimulatedDisk,
    oracle: Oracle,
    stopped_at: Option<OperationKind>,
    /// Of the index, when it began.
    runs: usize,
    volume: Volume,
}

fn runs(volume: &Volume) -> usize {
    volume.status().log.unwrap().runs
}

async fn run(volume: &Volume, oracle: &RefCell<Oracle>, steps: &[Step]) {
    for step in steps {
        let Some((content, name)) = oracle.borrow_mut().issue(*step) else { continue };
        match step {
            // It brings everything to the base, durably.
            Step::Data(Op::Flush) if volume.info().backend == Backend::LoggedCow => {
                volume.apply(None).await.unwrap();
            }
            Step::Data(op) => rig::apply(volume, *op, content).await.unwrap(),
            Step::Snapshot => drop(volume.create_snapshot(&name).await.unwrap()),
            Step::DeleteOldest | Step::DeleteNewest => volume.delete_snapshot(&name).await.unwrap(),
        }
        oracle.borrow_mut().completed();
    }
}

fn play_all(pools: &Pools, setting: Setting, steps: [Step; 3], coverage: &Coverage) {
    let (runtime, calendar) = Runtime::simulated(13).unwrap();
    let rig = Rig { calendar, context: runtime.context().clone() };
    runtime.block_on(async {
        for requests in 0..REQUESTS_MAX {
            let played = pools.play(&rig, setting, steps, requests).await;
            let ended = played.stopped_at.is_none();
            if ended {
                played.disk.set_plan(Box::new(|_, _| None));
                assert_eq!(played.oracle.judge(&found(&played.volume).await, true), Ok(()));
                if runs(&played.volume) != played.runs {
                    coverage.note("play: with a checkpoint");
                }
            }
            // A request that changes nothing leaves the states that the one before it had.
            if !matches!(played.stopped_at, Some(OperationKind::Read | OperationKind::Flush)) {
                let unflushed = played.disk.unflushed();
                let after = |fates: &crate::states::Fates| {
                    played.disk.after_cut(&rig.calendar, |write, sector| fates[write][&sector])
                };
                let states: Vec<_> =
                    crash_states(&unflushed).into_iter().map(|fates| (after(&fates), fates)).collect();
                for (crashed, fates) in states {
                    let lost = fates.iter().any(|fate| fate.values().any(|kept| !*kept));
                    let which = format!(
                        "{:?}, {setting:?} {steps:?}, stopped at request {requests}; sectors that survived of what was \
                         not flushed: {fates:?}",
                        pools.backend
                    );
                    judge(&rig, &played.oracle, &crashed, ended && !lost, coverage, &which).await;
                }
            }
            drop(played.volume);
            played.disk.cut_power();
            if ended {
                return;
            }
        }
        panic!("{setting:?} {steps:?}: it comes to no end");
    });
}

async fn judge(
    rig: &Rig,
    oracle: &Oracle,
    crashed: &SimulatedDisk,
    whole: bool,
    coverage: &Coverage,
    which: &str,
) {
    let number = coverage.count("crash states");
    coverage.note("crash states");
    if number.is_multiple_of(CHECK_EVERY) {
        let device = crashed.after_cut(&rig.calendar, |_, _| true).open(&rig.context).unwrap();
        let report = check(&device, &mut |_| ()).await.unwrap();
        assert_eq!(report.damage, 0, "{which}: {:?}", report.findings);
        coverage.note("checked");
    }
    let disk = crashed.after_cut(&rig.calendar, |_, _| true);
    let (volume, found) = recover(rig, &disk).await;
    if let Err(what) = oracle.judge(&found, whole) {
        panic!("{which}: {what}");
    }
    note(oracle, &found, coverage);
    if number.is_multiple_of(GO_ON_EVERY) {
        go_on(rig, volume, &disk, &found, which).await;
        coverage.note("after recovery: went on, crashed, every snapshot as it was");
    } else {
        drop(volume);
        disk.cut_power();
    }
    if number.is_multiple_of(CRASH_AGAIN_EVERY) {
        let find = async |disk: &SimulatedDisk| recover(rig, disk).await.1;
        rig::crash_again(rig, crashed, &found, find, which).await;
        coverage.note("after recovery: crashed again, the same images");
    }
}

fn note(oracle: &Oracle, found: &Found, coverage: &Coverage) {
    if found.image != oracle.now {
        coverage.note("image: an earlier one");
    }
    if found.snapshots.values().any(|shown| *shown != found.image) {
        coverage.note("snapshot: shows something else than now");
    }
    let Some((step, name)) = &oracle.step else { return };
    coverage.note(match (step, found.snapshots.contains_key(name)) {
        (Step::Data(_), _) => "cut: while something is written or flushed",
        (Step::Snapshot, false) => "cut: while a snapshot is taken, it is not there",
        (Step::Snapshot, true) => "cut: while a snapshot is taken, it is there",
        (_, true) => "cut: while a snapshot is deleted, it is there",
        (_, false) => "cut: while a snapshot is deleted, it is gone",
    });
}

/// Takes a snapshot and writes over everything, twice; crashes: each snapshot shows what it did.
async fn go_on(rig: &Rig, volume: Volume, disk: &SimulatedDisk, found: &Found, which: &str) {
    let mut expected = found.clone();
    rig::apply(&volume, Op::DurableWrite(0, 8), 777_777).await.unwrap();
    volume.create_snapshot("after").await.unwrap();
    expected.snapshots.insert("after".into(), [777_777; REGIONS]);
    rig::apply(&volume, Op::DurableWrite(0, 8), 888_888).await.unwrap();
    expected.image = [888_888; REGIONS];
    let crashed = disk.after_cut(&rig.calendar, |_, _| false);
    drop(volume);
    disk.cut_power();
    let (volume, again) = recover(rig, &crashed).await;
    assert_eq!(again, expected, "{which}: after it went on");
    // What is left when all are gone is the image alone.
    for name in expected.snapshots.keys() {
        volume.delete_snapshot(name).await.unwrap();
    }
    assert_eq!(rig::image_of(&volume).await, expected.image, "{which}: after all snapshots were deleted");
}

/// The triples with a snapshot or a deletion among them.
fn triples() -> Vec<[Step; 3]> {
    let number = STEPS.len();
    let all = (0..number.pow(3))
        .map(|at| [STEPS[at / number / number], STEPS[at / number % number], STEPS[at % number]]);
    all.filter(|steps| steps.iter().any(|step| !matches!(step, Step::Data(_)))).collect()
}

/// Every so-many-th triple in each setting; each begins elsewhere.
fn sample() -> impl Iterator<Item = (Setting, [Step; 3])> {
    let step = crate::every(SAMPLE);
    let of = move |(number, setting): (usize, Setting)| {
        let chosen = triples().into_iter().skip(number * step / Setting::ALL.len()).step_by(step);
        chosen.map(move |steps| (setting, steps))
    };
    Setting::ALL.into_iter().enumerate().flat_map(of)
}

const EXPECTED: [&str; 11] = [
    "play: with a checkpoint",
    "crash states",
    "checked",
    "image: an earlier one",
    "snapshot: shows something else than now",
    "cut: while something is written or flushed",
    "cut: while a snapshot is taken, it is not there",
    "cut: while a snapshot is taken, it is there",
    "cut: while a snapshot is deleted, it is there",
    "cut: while a snapshot is deleted, it is gone",
    "after recovery: went on, crashed, every snapshot as it was",
];

fn every_crash_state(backend: Backend, objects: ObjectKind) {
    let (coverage, pools) = (Coverage::default(), Pools::make((backend, objects)));
    let mut plays = 0;
    for (setting, steps) in sample() {
        play_all(&pools, setting, steps, &coverage);
        plays += 1;
    }
    println!(
        "{backend:?}, {objects:?}: {plays} plays of {} triples in {} settings",
        triples().len(),
        Setting::ALL.len()
    );
    coverage.print_and_check(&EXPECTED);
}

#[test]
fn snapshots_of_a_log_survive_every_crash_state() {
    every_crash_state(Backend::Log, ObjectKind::Mapped);
}

#[test]
fn snapshots_of_copy_on_write_survive_every_crash_state() {
    every_crash_state(Backend::Cow, ObjectKind::Mapped);
}

#[test]
fn snapshots_of_an_overlay_survive_every_crash_state() {
    every_crash_state(Backend::Overlay, ObjectKind::Mapped);
}

#[test]
fn snapshots_behind_a_log_survive_every_crash_state() {
    every_crash_state(Backend::LoggedCow, ObjectKind::Mapped);
}

#[test]
fn snapshots_with_linear_copies_survive_every_crash_state() {
    every_crash_state(Backend::Cow, ObjectKind::Linear);
}

#[test]
fn snapshots_with_linear_overlays_survive_every_crash_state() {
    every_crash_state(Backend::Overlay, ObjectKind::Linear);
}

#[test]
fn snapshots_behind_a_log_with_linear_copies_survive_every_crash_state() {
    every_crash_state(Backend::LoggedCow, ObjectKind::Linear);
}

/// The control: an engine that is broken does not pass.
#[cfg(feature = "mutations")]
#[test]
fn planted_faults_of_snapshots_are_found() {
    use icecore::mutation::{Mutation, switch};
    let pools = [
        (Backend::Log, ObjectKind::Mapped),
        (Backend::Cow, ObjectKind::Mapped),
        (Backend::Overlay, ObjectKind::Mapped),
        (Backend::Cow, ObjectKind::Linear),
        (Backend::Overlay, ObjectKind::Linear),
        (Backend::LoggedCow, ObjectKind::Mapped),
        (Backend::LoggedCow, ObjectKind::Linear),
    ]
    .map(Pools::make);
    for (mutation, backends) in [
        (Mutation::NamesForgotten, &[0, 1, 2, 3, 4][..]),
        (Mutation::RootBeforeContents, &[0, 1, 2]),
        (Mutation::OverwrittenUnsaved, &[1, 2, 3, 4]),
        (Mutation::MapBeforeData, &[3, 4]),
        (Mutation::BroughtUncopied, &[5, 6]),
        (Mutation::BroughtBeforeTold, &[5, 6]),
        (Mutation::OverwrittenBeforeSaved, &[1]),
    ] {
        for pools in backends.iter().map(|at| &pools[*at]) {
            let found = sample().any(|(setting, steps)| {
                switch(Some(mutation));
                let play = || play_all(pools, setting, steps, &Coverage::default());
                let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play)).is_err();
                switch(None);
                broken
            });
            assert!(found, "{mutation:?} on {:?}", pools.backend);
        }
    }
}
