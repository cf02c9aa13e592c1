//! `chain`: reads of the newest image and of the oldest snapshot, and the time to take a snapshot, as snapshots become
//! many. Between two of them lie scattered writes. *Warm* is after the writes; *cold* right after the volume has been
//! opened again. Beside each measurement the same reads of the bare device, in random order: of its span as it lies under
//! the volume, so that nothing is known of the content of these.

use std::collections::BTreeMap;

use super::load::Load;
use super::stage::{Mark, Part, Stage, figure};
use super::subject::{Keeper, Subject, Who};
use crate::arms::target::{Bare, Target};
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::measure::Figure;

/// Of how many snapshots at most, the last before a depth, the mean time is given.
const CREATIONS: usize = 8;

/// The arm's parts, and those of the bare device beside it.
pub(super) fn run(stage: &Stage) -> Result<Vec<Part>, Failure> {
    let mut beside = Vec::new();
    let (subject, keeper) = stage.prepare()?;
    let Some(mut keeper) = keeper else { return Ok(beside) };
    let mut load = stage.load(&subject);
    let mut taken = 0;
    let mut first = Vec::new();
    drop(subject);
    for depth in stage.plan.snapshots.iter().copied() {
        let creation = match grow(stage, &keeper, &mut load, &mut taken, depth, &mut first) {
            Ok(creation) => creation,
            Err(failure) => {
                ends(stage, taken, depth, failure)?;
                break;
            }
        };
        let newest = keeper.subject();
        stage.settle(&newest)?;
        pair(stage, &mut beside, &newest, "newest-warm", depth, creation)?;
        let oldest = stage.patiently("opening an image", keeper.image("s1"))?;
        pair(stage, &mut beside, &oldest, "oldest-warm", depth, Vec::new())?;
        drop((newest, oldest));
        for phase in ["newest-cold", "oldest-cold"] {
            stage.patiently("closing", keeper.0.close())?;
            drop(keeper);
            load.turn_to(&Subject::Bare(Bare::new(stage.bench.device(), 0)));
            let begun_ns = stage.now_ns();
            keeper = stage.patiently("opening", Keeper::open(stage.bench.device()))?;
            let opened_ns = stage.now_ns();
            let read = match phase {
                "newest-cold" => keeper.subject(),
                _ => stage.patiently("opening an image", keeper.image("s1"))?,
            };
            let buf = stage.bench.runtime().context().buffers().get(4096)?;
            let since_ns = stage.now_ns();
            stage.wait(read.read((stage.blocks() / 2) * 4096, buf)).0?;
            let figures = vec![
                figure("open", "mean", "ns", Some((opened_ns - begun_ns) as f64)),
                figure("first_read", "mean", "ns", Some((stage.now_ns() - since_ns) as f64)),
            ];
            pair(stage, &mut beside, &read, phase, depth, figures)?;
        }
        load.turn_to(&keeper.subject());
        stage.meddle();
        let now = load.completed();
        stage.verify("the volume", &keeper.subject(), (&now, &now))?;
        let oldest = stage.patiently("opening an image", keeper.image("s1"))?;
        stage.verify("the oldest snapshot", &oldest, (&first, &first))?;
    }
    stage.patiently("closing", keeper.0.close())?;
    compare_with_least(&mut stage.parts.borrow_mut(), &beside);
    Ok(beside)
}

/// Adds to each part how its reads compare with those of the shortest chain, both taken beside the bare device.
fn compare_with_least(parts: &mut [Part], beside: &[Part]) {
    let rate = |part: &Part| part.outcome.read.operations as f64 / part.outcome.elapsed_ns.max(1) as f64;
    let mut least: BTreeMap<String, f64> = BTreeMap::new();
    for (part, bare) in parts.iter_mut().zip(beside) {
        let of_raw = rate(part) / rate(bare).max(f64::MIN_POSITIVE);
        let first = *least.entry(part.phase.clone()).or_insert(of_raw);
        let value = (first > 0.0).then(|| of_raw / first);
        part.figures.push(figure("reads_of_least", "median", "1", value));
    }
}

/// A chain that grows no further is kept as far as it got, and the rest is named.
///
/// # Errors
/// The failure, where there is no chain yet, or a signal came.
pub(super) fn ends(stage: &Stage, taken: u32, depth: u32, failure: Failure) -> Result<(), Failure> {
    if failure.exit_code == EXIT_INTERRUPTED || taken == 0 {
        return Err(failure);
    }
    let what = format!("chains of {depth} snapshots and more on {}", stage.arm.name());
    stage.dropped.borrow_mut().push((what, failure.message));
    Ok(())
}

/// Takes snapshots until there are so many, with writes before each; gives the time and the device's work of one.
fn grow(
    stage: &Stage,
    keeper: &Keeper,
    load: &mut Load,
    taken: &mut u32,
    depth: u32,
    first: &mut Vec<u32>,
) -> Result<Vec<Figure>, Failure> {
    let mut times: Vec<u64> = Vec::new();
    let mut work: Option<Vec<Figure>> = None;
    while *taken < depth {
        load.once(stage.plan.changes.min(stage.blocks()));
        stage.to_its_end(load)?;
        // What the load has left behind is not the snapshot's: it is timed on a volume that is at rest.
        stage.patiently("a flush", keeper.subject().flush())?;
        let since: Mark = stage.mark();
        let begun_ns = stage.now_ns();
        stage.patiently("taking a snapshot", keeper.take(&format!("s{}", *taken + 1)))?;
        times.push(stage.now_ns() - begun_ns);
        work = Some(stage.device_figures(&since, 1));
        *taken += 1;
        if *taken == 1 {
            *first = load.completed();
        }
    }
    let last = &times[times.len().saturating_sub(CREATIONS)..];
    let mean = (!last.is_empty()).then(|| last.iter().sum::<u64>() as f64 / last.len() as f64);
    let time = Figure { n: last.len() as u64, ..figure("snapshot_creation", "mean", "ns", mean) };
    let bytes =
        work.into_iter().flatten().find(|one| one.metric == "device_write_bytes" && one.stat == "total");
    let bytes = bytes.and_then(|figure| figure.value);
    Ok(vec![time, figure("snapshot_creation_bytes", "mean", "bytes", bytes)])
}

/// Measures reads of a subject, and of the bare device before or after it.
fn pair(
    stage: &Stage,
    beside: &mut Vec<Part>,
    subject: &Subject,
    phase: &str,
    depth: u32,
    figures: Vec<Figure>,
) -> Result<(), Failure> {
    let bare = Subject::Bare(Bare::new(stage.bench.device(), stage.plan.span_offset_bytes));
    // A cold subject is read first: what it has in memory must not be older than its opening.
    let is_bare_first = stage.coin() && !phase.ends_with("cold");
    let reads_bare = |beside: &mut Vec<Part>| {
        stage.reads(&bare, phase, depth, Vec::new())?;
        beside.extend(stage.parts.borrow_mut().pop());
        Ok::<(), Failure>(())
    };
    debug_assert!(matches!(stage.arm, Who::Engine(_)));
    if is_bare_first {
        reads_bare(beside)?;
    }
    stage.reads(subject, phase, depth, figures)?;
    if !is_bare_first {
        reads_bare(beside)?;
    }
    Ok(())
}
