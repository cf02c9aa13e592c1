//! `creation`: what taking a snapshot costs as snapshots become many and volumes large. The same number of blocks is
//! scattered over volumes of several sizes. Between two snapshots some of them are written and flushed; then the snapshot is
//! timed, and what the device writes meanwhile is counted. A part is all of them from the end of the part before on.
//!
//! A large device may be a sparse file: before each volume it is emptied, so that one volume's writes are not the next
//! one's space, and what the snapshots' records go to is written, so that none of them waits for space from a file system.

use icecore::device::{Cause, Io};
use icecore::error::Kind;
use icecore::object::ObjectKind;
use icecore::pool::objects::OBJECTS_MAX;
use icecore::pool::snapshots::SNAPSHOTS_MAX;
use icecore::pool::{layout, superblock};
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Volume};
use icecore_workloads::Stamper;

use super::stage::{Part, Stage, figure};
use super::subject::{Kept, Who};
use super::{MIB, WHOLE_BYTES_MAX};
use crate::arms::target::{Bare, Target};
use crate::content;
use crate::failure::{EXIT_INTERRUPTED, Failure};
use crate::measure::Figure;
use crate::stats;
use crate::suite::shuffle;

/// A record of the pool's metadata: what taking a snapshot may write.
const RECORD_BYTES: f64 = 4096.0;
/// Room for the records of one snapshot, with those of the checkpoints between.
const RECORDS_EACH_BYTES: u64 = 2 * 4096;
/// And for what is written before the first one.
const RECORDS_FIRST_BYTES: u64 = 16 * MIB;

pub(super) fn run(stage: &Stage) -> Result<(), Failure> {
    let Who::Engine(kept) = &stage.arm else { return Ok(()) };
    let span_bytes = stage.plan.span_bytes;
    let larger = stage.plan.sizes.iter().copied().filter(|size| *size > span_bytes);
    let mut sizes: Vec<u64> = [span_bytes].into_iter().chain(larger).collect();
    shuffle(&mut sizes, &mut stage.random.borrow_mut());
    for size_bytes in sizes {
        measure(stage, kept, size_bytes)?;
    }
    let parts = &mut *stage.parts.borrow_mut();
    // By size: the number in the name has no zeroes before it.
    parts.sort_by_key(|part| (part.phase.len(), part.phase.clone()));
    compare(parts);
    Ok(())
}

/// Adds to each part its time over that of the first part of its volume, and of the smallest volume at the same number.
fn compare(parts: &mut [Part]) {
    let median = |part: &Part| {
        let of_time = |one: &&Figure| one.metric == "snapshot_creation" && one.stat == "median";
        part.figures.iter().find(of_time).and_then(|figure| figure.value)
    };
    for index in 0..parts.len() {
        let own = &parts[index];
        let first = parts.iter().find(|other| other.phase == own.phase);
        let smallest = parts.iter().find(|other| other.snapshots == own.snapshots);
        let over = |other: Option<&Part>| Some(median(own)? / median(other?)?);
        let figures = [
            figure("creation_of_fewest", "median", "1", over(first)),
            figure("creation_of_smallest", "median", "1", over(smallest)),
        ];
        parts[index].figures.extend(figures);
    }
}

fn measure(stage: &Stage, kept: &Kept, size_bytes: u64) -> Result<(), Failure> {
    let phase = format!("volume-{}-MiB", size_bytes / MIB);
    let leave_out = |from: u32, why: String| {
        let what = format!("{} on {} from {from} snapshots on", phase, stage.arm.name());
        stage.dropped.borrow_mut().push((what, why));
    };
    let options = CreateOptions { snapshots_max: Some(SNAPSHOTS_MAX), ..kept.options(size_bytes) };
    let geometry = stage.bench.device().geometry();
    if let Err(error) = Volume::capacity(geometry.size_bytes, geometry.logical_block_bytes, &options) {
        leave_out(0, error.to_string());
        return Ok(());
    }
    if geometry.size_bytes > WHOLE_BYTES_MAX {
        empty(stage, options)?;
    }
    let keeper = match stage.volume(options) {
        // Its first snapshot takes as much room again.
        Err(failure) if kept.objects == ObjectKind::Linear && failure.exit_code != EXIT_INTERRUPTED => {
            leave_out(0, failure.message);
            return Ok(());
        }
        made => made?,
    };
    let subject = keeper.subject().scattered(size_bytes, stage.plan.span_bytes);
    content::fill(stage.bench.runtime(), &subject, stage.plan.span_bytes, Stamper::new(stage.seed))?;
    stage.settle(&subject)?;
    let most = if kept.objects == ObjectKind::Linear { OBJECTS_MAX as u32 } else { SNAPSHOTS_MAX };
    let mut ends: Vec<u32> = stage.plan.snapshots.iter().map(|end| (*end).min(most)).collect();
    ends.dedup();
    let mut load = stage.load(&subject);
    let changes = stage.plan.changes.min(stage.blocks());
    let (mut taken, mut oldest) = (0, Vec::new());
    'parts: for end in ends {
        let (begun, mut times, mut bytes) = (stage.mark(), Vec::new(), Vec::new());
        let mut work: Vec<Figure> = Vec::new();
        while taken < end {
            load.once_to(stage.one_of_each(stage.blocks() / changes * 4096));
            match stage.to_its_end(&mut load) {
                Err(failure) if failure.exit_code != EXIT_INTERRUPTED && taken > 0 => {
                    leave_out(taken + 1, failure.message);
                    // Whatever fails after that has failed for the same reason.
                    let _no_room = stage.stop(&mut load);
                    break 'parts;
                }
                ended => drop(ended?),
            }
            // What the load has left behind is not the snapshot's.
            stage.patiently("a flush", subject.flush())?;
            let name = format!("s{}", taken + 1);
            let (since, begun_ns) = (stage.mark(), stage.now_ns());
            let took =
                stage.patiently("taking a snapshot", async { Ok::<_, Failure>(keeper.take(&name).await) })?;
            let took_ns = stage.now_ns() - begun_ns;
            match took {
                Err(error) if error.kind() == Kind::NoSpace => {
                    leave_out(taken + 1, error.to_string());
                    break 'parts;
                }
                took => took?,
            }
            times.push(took_ns as f64);
            add(&mut work, stage.device_figures(&since, 1), &mut bytes);
            taken += 1;
            if taken == 1 {
                oldest = load.completed();
            }
        }
        stage.part_of_figures(&phase, Some(end), &begun, figures(&times, &bytes, work));
    }
    stage.meddle();
    stage.verify("the volume", &subject, (&load.completed(), &load.begun()))?;
    if taken > 0 {
        let image = stage.patiently("opening an image", keeper.image("s1"))?;
        let image = image.scattered(size_bytes, stage.plan.span_bytes);
        stage.verify("the oldest snapshot", &image, (&oldest, &oldest))?;
    }
    drop((load, subject));
    stage.patiently("closing", keeper.0.close())
}

/// Empties a device that has not been written in full, and writes what records will be written to.
fn empty(stage: &Stage, options: CreateOptions) -> Result<(), Failure> {
    let device = stage.bench.device();
    stage.wait(device.discard(ByteOffset(0), device.geometry().size_bytes, Io::of(Cause::Zero)))?;
    content::format_as(stage.bench, options)?;
    let (record, _) = stage.wait(superblock::read(device))?;
    let snapshots = stage.plan.snapshots.iter().copied().max().unwrap_or(0);
    let records_bytes = u64::from(snapshots) * RECORDS_EACH_BYTES + RECORDS_FIRST_BYTES;
    for journal in layout::metadata_places(&record).journal.journals {
        let records_bytes = records_bytes.min(journal.bytes.get());
        let room = Bare::new(device, journal.offset.get());
        content::fill(stage.bench.runtime(), &room, records_bytes, Stamper::new(stage.seed))?;
    }
    Ok(())
}

/// Adds what the device did for one snapshot to what it did for those before; its bytes are kept one by one.
fn add(work: &mut Vec<Figure>, one: Vec<Figure>, bytes: &mut Vec<f64>) {
    let is_written = |figure: &&Figure| figure.metric == "device_write_bytes" && figure.stat == "total";
    bytes.extend(one.iter().find(is_written).and_then(|figure| figure.value));
    if work.is_empty() {
        *work = one;
        return;
    }
    for (sum, figure) in work.iter_mut().zip(one) {
        sum.value = sum.value.zip(figure.value).map(|(sum, value)| sum + value);
        sum.n += figure.n;
    }
}

fn figures(times: &[f64], bytes: &[f64], mut work: Vec<Figure>) -> Vec<Figure> {
    for sum in &mut work {
        sum.value = sum.value.map(|value| value / sum.n as f64);
    }
    let count = times.len() as u64;
    let mean =
        |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let most = |values: &[f64]| values.iter().copied().reduce(f64::max);
    let single = bytes.iter().filter(|bytes| **bytes <= RECORD_BYTES).count() as f64;
    let of = |metric, stat, unit, value| Figure { n: count, ..figure(metric, stat, unit, value) };
    work.extend([
        of("snapshot_creation", "median", "ns", stats::median(times)),
        of("snapshot_creation", "mean", "ns", mean(times)),
        of("snapshot_creation", "max", "ns", most(times)),
        of("snapshot_creation_bytes", "median", "bytes", stats::median(bytes)),
        of("snapshot_creation_bytes", "mean", "bytes", mean(bytes)),
        of("snapshot_creation_bytes", "max", "bytes", most(bytes)),
        of("one_record", "mean", "1", (count > 0).then(|| single / count as f64)),
    ]);
    work
}
