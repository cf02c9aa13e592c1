//! Every crash state of every triple of operations on a tiny log, recovered and judged.
//!
//! All triples of [`oracle::OPS`] on eight regions, in each [`rig::Setting`]. A play is stopped at each request
//! of the disk in turn. There, the disk may have lost any subset of the writes that no flush has covered (up to
//! six; all of them where there are more), and of the last one any torn part. Each state is recovered; what is
//! found must be a prefix of the order of entries, not shorter than what was durable, and the sequence must name
//! that prefix. Some are recovered again after a crash at each request of recovery, some go on and crash again,
//! and of some every past moment is opened.
//!
//! `named` does the same with snapshots among the operations, on every backend that takes them.
//!
//! The ordinary run takes a sample of the triples; `ICECORE_CRASH_EVERY=1` takes all, and each eighth in the settings
//! in which only the metadata is another; another number n takes each n-th.

mod named;
mod oracle;
mod rig;
mod states;

use std::collections::BTreeMap;

use icecore::device::simulated::{SimulatedDisk, Unflushed};
use icecore::error::Reason;
use icecore::runtime::{OperationKind, Runtime};
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, SECTOR_BYTES, Seq};
use icecore::volume::{OpenMode, Volume};
use oracle::{OPS, Op, REGIONS};
use rig::{BLOCK, Bases, Found, Played, Rig, Setting};
use states::{Coverage, Fates, SUBSET_OF, crash_states};

/// Each so-many-th triple is played in the ordinary run.
const SAMPLE: usize = 601;
/// Each so-many-th crash state is recovered with a crash at each request; each other so-many-th goes on.
const CRASH_AGAIN_EVERY: u64 = 256;
const GO_ON_EVERY: u64 = 8;
/// So many times more triples are played for damage, which has few states each.
const DAMAGE_SHARE: usize = 40;
/// Requests of a play at most, so that a mistake ends.
const REQUESTS_MAX: u64 = 200;

/// What must have happened.
const EXPECTED: [&str; 21] = [
    "crash states",
    "recovery: nothing behind the checkpoint",
    "recovery: batches taken in",
    "verdict: tail",
    "state: nothing lost",
    "state: everything lost",
    "state: six writes in doubt",
    "state: write in flight",
    "state: torn header",
    "state: torn payload",
    "state: torn metadata",
    "state: missing middle batch",
    "state: metadata lost",
    "state: a lap before behind the end",
    "journal: overflow while serving",
    "journal: overflow while recovering",
    "root: other place",
    "past: every moment of a play",
    "past: every moment after recovery",
    "after recovery: crashed again, the same image",
    "after recovery: went on, crashed, nothing old came back",
];

/// And of what is judged by damage.
const EXPECTED_OF_DAMAGE: [&str; 4] = [
    "verdict: tail",
    "verdict: damage, by a later batch",
    "verdict: damage, by a batch of the next segment",
    "verdict: damage, by a watermark",
];

fn every(sample: usize) -> usize {
    std::env::var("ICECORE_CRASH_EVERY").map_or(sample, |every| every.parse().expect("a number"))
}

fn triples() -> impl Iterator<Item = [Op; 3]> {
    let number = OPS.len();
    (0..number.pow(3)).map(move |at| [OPS[at / number / number], OPS[at / number % number], OPS[at % number]])
}

/// Notes what kind of state it is. Whether a batch is missing with a later one behind it.
fn describe(coverage: &Coverage, unflushed: &[Unflushed], fates: &Fates, data_offset: u64) -> bool {
    let whole = |fate: &BTreeMap<u64, bool>| fate.values().all(|kept| *kept);
    let gone = |fate: &BTreeMap<u64, bool>| fate.values().all(|kept| !*kept);
    let in_log = |fate: &BTreeMap<u64, bool>| fate.keys().all(|sector| sector * SECTOR_BYTES >= data_offset);
    coverage.note("crash states");
    if fates.iter().all(whole) {
        coverage.note("state: nothing lost");
    } else if fates.iter().all(gone) {
        coverage.note("state: everything lost");
    }
    if unflushed.len() >= SUBSET_OF {
        coverage.note("state: six writes in doubt");
    }
    if unflushed.iter().any(|write| write.in_flight) {
        coverage.note("state: write in flight");
    }
    for fate in fates.iter().filter(|fate| !whole(fate)) {
        let first = *fate.values().next().unwrap();
        coverage.note(match (in_log(fate), gone(fate)) {
            (false, true) => "state: metadata lost",
            (false, false) => "state: torn metadata",
            (true, true) => continue,
            (true, false) if first => "state: torn payload",
            (true, false) => "state: torn header",
        });
    }
    let log: Vec<_> = fates.iter().filter(|fate| in_log(fate)).collect();
    let missing = log.iter().position(|fate| !whole(fate));
    let hole = missing.is_some_and(|missing| log[missing..].iter().any(|fate| whole(fate)));
    if hole {
        coverage.note("state: missing middle batch");
    }
    hole
}

/// Plays one triple in one setting, and judges every crash state of it.
fn play_all(bases: &Bases, setting: Setting, ops: [Op; 3], coverage: &Coverage) {
    let (runtime, calendar) = Runtime::simulated(11).unwrap();
    let rig = Rig { calendar, context: runtime.context().clone() };
    runtime.block_on(async {
        for requests in 0..REQUESTS_MAX {
            let played = bases.play(&rig, setting, &ops, requests).await;
            let ended = played.stopped_at.is_none();
            if ended {
                played.disk.set_plan(Box::new(|_, _| None));
            }
            // A request that writes nothing leaves the states that the one before it had.
            if ended || matches!(played.stopped_at, Some(OperationKind::Write { .. })) {
                // All are taken at once, because the play goes on while they are recovered.
                let unflushed = played.disk.unflushed();
                let after = |fates: &Fates| {
                    played.disk.after_cut(&rig.calendar, |write, sector| fates[write][&sector])
                };
                let states: Vec<_> =
                    crash_states(&unflushed).into_iter().map(|fates| (after(&fates), fates)).collect();
                let which = format!("{setting:?} {ops:?}, stopped at request {requests}");
                for (crashed, fates) in states {
                    let hole = describe(coverage, &unflushed, &fates, bases.data_offset);
                    judge(&rig, bases, &played, Crash { crashed, fates, hole }, coverage, &which).await;
                }
            }
            if ended {
                past(&played.volume, &played, played.oracle.entries.len()).await;
                coverage.note("past: every moment of a play");
            }
            drop(played.volume);
            played.disk.cut_power();
            if ended {
                return;
            }
        }
        panic!("{setting:?} {ops:?}: it comes to no end");
    });
}

/// What a crash has left.
struct Crash {
    crashed: SimulatedDisk,
    fates: Fates,
    /// A batch is missing that has a whole one behind it.
    hole: bool,
}

async fn judge(rig: &Rig, bases: &Bases, played: &Played, crash: Crash, coverage: &Coverage, which: &str) {
    let Crash { crashed, fates, hole } = crash;
    let number = coverage.count("crash states");
    let before = rig::generation(&crashed);
    if before > played.generation {
        coverage.note("journal: overflow while serving");
    }
    let going_on = crashed.after_cut(&rig.calendar, |_, _| true);
    let (volume, found, report) = rig::recover(rig, &going_on).await;
    coverage.note(if report.batches == 0 {
        "recovery: nothing behind the checkpoint"
    } else {
        "recovery: batches taken in"
    });
    coverage.note("verdict: tail");
    let everything = fates.iter().all(|fate| fate.values().all(|kept| *kept));
    let entries = found.sequence.wrapping_sub(played.base_sequence);
    if let Err(what) = played.oracle.judge(entries, &found.image, everything) {
        panic!("{which}: {what}; sectors that survived of what was not flushed: {fates:?}");
    }
    let generation = rig::generation(&going_on);
    if generation > before {
        coverage.note("journal: overflow while recovering");
    }
    if generation.is_multiple_of(2) {
        coverage.note("root: other place");
    }
    if hole || number.is_multiple_of(GO_ON_EVERY) {
        go_on(rig, volume, &going_on, &found, which).await;
        coverage.note("after recovery: went on, crashed, nothing old came back");
    }
    if number.is_multiple_of(CRASH_AGAIN_EVERY) {
        let find = async |disk: &SimulatedDisk| rig::recover(rig, disk).await.1;
        rig::crash_again(rig, &crashed, &found, find, which).await;
        coverage.note("after recovery: crashed again, the same image");
        let (volume, ..) = rig::recover(rig, &crashed.after_cut(&rig.calendar, |_, _| true)).await;
        past(&volume, played, entries as usize).await;
        coverage.note("past: every moment after recovery");
    }
    if number.is_multiple_of(GO_ON_EVERY) && an_old_lap_follows(&crashed, bases.data_offset) {
        coverage.note("state: a lap before behind the end");
    }
}

/// Every moment of the play, as many entries as there are, shows what it showed then.
async fn past(volume: &Volume, played: &Played, entries: usize) {
    for (number, expected) in played.oracle.images.iter().enumerate().take(entries + 1) {
        let sequence = Some(Seq(played.base_sequence + number as u64));
        let image = volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.unwrap();
        let buf = volume.context().buffers().get(REGIONS * BLOCK).unwrap();
        let (result, buf) = image.read(ByteOffset(0), buf).await;
        result.unwrap();
        assert_eq!(rig::contents(&buf), *expected, "moment {number}");
    }
}

/// Writes where the log ended, and crashes: nothing that lay behind that end comes back.
async fn go_on(rig: &Rig, volume: Volume, disk: &SimulatedDisk, found: &Found, which: &str) {
    rig::apply(&volume, Op::DurableWrite(2, 3), 777_777).await.unwrap();
    let crashed = disk.after_cut(&rig.calendar, |_, _| false);
    drop(volume);
    disk.cut_power();
    let (_volume, again, _) = rig::recover(rig, &crashed).await;
    let mut image = found.image;
    image[2..5].fill(777_777);
    assert_eq!(again, Found { sequence: found.sequence + 1, image }, "{which}: after it went on");
}

/// Whether a batch of an earlier lap lies where the newest batch on the disk ends.
fn an_old_lap_follows(disk: &SimulatedDisk, data_offset: u64) -> bool {
    let batches = rig::batches(disk, data_offset);
    let Some(newest) = batches.last() else { return false };
    let end = newest.header.address.get() + newest.header.total_bytes();
    batches.iter().any(|batch| batch.header.address.get() == end)
}

/// Damages each batch of a play in turn: it is damage exactly if something promised that batch.
fn damage_all(bases: &Bases, setting: Setting, ops: [Op; 3], coverage: &Coverage) {
    let (runtime, calendar) = Runtime::simulated(12).unwrap();
    let rig = Rig { calendar, context: runtime.context().clone() };
    runtime.block_on(async {
        let played = bases.play(&rig, setting, &ops, REQUESTS_MAX).await;
        assert_eq!(played.stopped_at, None);
        let all = rig::batches(&played.disk, bases.data_offset);
        // What lies before the checkpoint is in the index; no opening reads it again.
        let whole = played.disk.after_cut(&rig.calendar, |_, _| true);
        let (_volume, _, report) = rig::recover(&rig, &whole).await;
        let ours = || {
            let behind = all.iter().skip(all.len() - report.batches as usize);
            behind.filter(|batch| batch.header.first_sequence.get() > played.base_sequence)
        };
        let last = ours().next_back().map_or(0, |batch| batch.header.address.get() - bases.data_offset);
        let last_segment = bases.data_offset + last - last % u64::from(rig::SEGMENT_BYTES);
        for batch in ours() {
            let header = &batch.header;
            let good_through = header.first_sequence.get() - 1;
            let before = (good_through - played.base_sequence) as usize;
            let op = played.oracle.entries[before].op;
            let by_watermark = setting == Setting::Marked && op < 2;
            let promised = by_watermark || played.oracle.is_promised_by_a_later_batch(op);
            for at in [40, header.total_bytes() - 1] {
                let disk = played.disk.after_cut(&rig.calendar, |_, _| true);
                let address = header.address.get() + at;
                disk.poke(
                    address,
                    &[disk.peek(address - address % SECTOR_BYTES, BLOCK)[at as usize % BLOCK] ^ 1],
                );
                match rig::open(&rig, &disk, OpenMode::ReadWrite).await {
                    Ok(volume) => {
                        coverage.note("verdict: tail");
                        assert!(!promised, "{setting:?} {ops:?}: batch {op} is gone, and nothing is said");
                        assert_eq!(rig::image_of(&volume).await, played.oracle.images[before]);
                    }
                    Err(error) => {
                        assert!(promised, "{setting:?} {ops:?}: batch {op} was not promised: {error}");
                        assert_eq!(*error.reason(), Reason::LogDamaged { good_through });
                        coverage.note(match (by_watermark, header.address.get() < last_segment) {
                            (true, _) => "verdict: damage, by a watermark",
                            (false, true) => "verdict: damage, by a batch of the next segment",
                            (false, false) => "verdict: damage, by a later batch",
                        });
                    }
                }
            }
        }
        drop(played.volume);
        played.disk.cut_power();
    });
}

/// Every so-many-th triple in each of these settings, fewer where only the metadata differs. Each begins elsewhere,
/// so that each has another sample.
fn sample(settings: &[Setting], every: usize) -> impl Iterator<Item = (Setting, [Op; 3])> {
    let parts = settings.len();
    let of = move |(number, setting): (usize, Setting)| {
        let step = if every == 1 { setting.share() } else { every };
        triples().skip(number * step / parts).step_by(step).map(move |ops| (setting, ops))
    };
    settings.iter().copied().enumerate().flat_map(of)
}

#[test]
fn every_crash_state_recovers_to_a_prefix() {
    let coverage = Coverage::default();
    let bases = Bases::make();
    let mut played = 0;
    for (setting, ops) in sample(&Setting::ALL, every(SAMPLE)) {
        play_all(&bases, setting, ops, &coverage);
        played += 1;
    }
    println!("{played} plays of {} triples in {} settings", OPS.len().pow(3), Setting::ALL.len());
    coverage.print_and_check(&EXPECTED);
}

#[test]
fn what_is_missing_is_damage_exactly_if_something_promised_it() {
    let coverage = Coverage::default();
    let bases = Bases::make();
    for (setting, ops) in sample(&[Setting::Plain, Setting::Marked], every(SAMPLE).div_ceil(DAMAGE_SHARE)) {
        damage_all(&bases, setting, ops, &coverage);
    }
    coverage.print_and_check(&EXPECTED_OF_DAMAGE);
}

/// The control: an engine that is broken does not pass.
#[cfg(feature = "mutations")]
#[test]
fn planted_faults_are_found() {
    use icecore::mutation::{Mutation, switch};
    let bases = Bases::make();
    for mutation in [
        Mutation::LogAckBeforeFlush,
        Mutation::LogPayloadUnchecked,
        Mutation::StaleLapAccepted,
        Mutation::NonceNotDurable,
        Mutation::TrimBeforeApply,
        Mutation::RootBeforeContents,
        Mutation::PastThrownAway,
    ] {
        // The plays that are clean without a planted fault.
        let found = sample(&Setting::ALL, every(SAMPLE)).any(|(setting, ops)| {
            switch(Some(mutation));
            let play = || play_all(&bases, setting, ops, &Coverage::default());
            let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play)).is_err();
            switch(None);
            broken
        });
        assert!(found, "{mutation:?}");
    }
}
