//! The checker on volumes that nothing is wrong with: random work, power cuts, closes, images held open over a
//! crash. Whatever it tells of them is a false alarm, or a mistake of the engine.
//!
//! `CHECK_SEEDS=A..B` plays other seeds than the usual ones.

use std::cell::Cell;

use icecore::check::{Code, Report, check};
use icecore::device::simulated::SimulatedDisk;
use icecore::error::{Error, Reason};
use icecore::runtime::{Context, Random, Runtime};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{ApplyMode, ApplyOptions, CreateOptions, Durability, OpenMode, OpenOptions, Volume};

const SEEDS: std::ops::Range<u64> = 0..60;
/// From here on, of volumes with a base.
const BASE_SEEDS: std::ops::Range<u64> = 1_000_000..1_000_060;
/// Snapshots of a volume with a base at most: each takes as much room as the volume.
const SNAPSHOTS_MAX: usize = 4;

/// Longer than any work takes.
const HANG_NS: u64 = 60_000_000_000;

/// What a seed has gone through.
#[derive(Debug, Default)]
struct Seen {
    checks: u64,
    blocks: u64,
    entries: u64,
    torn_superblocks: u64,
    leaks: u64,
    failures: Vec<String>,
}

struct Play {
    seed: u64,
    context: Context,
    disk: SimulatedDisk,
    options: CreateOptions,
    random: Random,
    index_bytes: usize,
    /// A moment was held open over a crash: what was kept for it alone is given up.
    held: Cell<bool>,
    seen: Seen,
}

fn options(random: &mut Random, seed: u64) -> (CreateOptions, u64, u32) {
    let logical = if random.chance(1, 2) { 512 } else { 4096 };
    let block = logical << random.below(2);
    let segment = (block * 8) << random.below(4);
    let size = block * (64 + 8 * random.below(8));
    // Half of them keep a past.
    let retention = if seed.is_multiple_of(2) { 0 } else { 4096 + random.below(size) };
    let backend = match seed % 10 {
        _ if seed >= BASE_SEEDS.start => {
            [Backend::Cow, Backend::Overlay, Backend::LoggedCow][seed as usize % 3]
        }
        9 => Backend::Direct,
        1 | 2 | 4 | 6 | 7 => Backend::Linear,
        _ => Backend::Log,
    };
    let options = CreateOptions {
        size_bytes: Some(size),
        region_bytes: block as u32,
        block_bytes: Some(block as u32),
        segment_bytes: Some(segment as u32),
        checkpoint_bytes: Some(2 * segment),
        retention_bytes: if matches!(backend, Backend::Log | Backend::Linear) { retention } else { 0 },
        thin: backend == Backend::Linear && random.chance(1, 2),
        ..CreateOptions::new(backend)
    };
    // Most are only just large enough, so that segments are emptied all the time.
    let roomy = seed.is_multiple_of(5);
    let more = 2 * options.retention_bytes + if roomy { 40 * segment } else { random.below(4) * segment };
    let more = if backend.has_base() { more + 40 * segment + 8 * size } else { more };
    // Of a thin one too: whoever waits for room would wait for ever.
    let whole = CreateOptions { thin: false, ..options };
    let device_bytes = needed_bytes(&whole, logical as u32) + more.next_multiple_of(64 << 10);
    (options, device_bytes, logical as u32)
}

/// The smallest device for these options.
fn needed_bytes(options: &CreateOptions, logical: u32) -> u64 {
    let (runtime, calendar) = Runtime::simulated(0).unwrap();
    let disk = SimulatedDisk::new(&calendar, 0, "disk", 1 << 20, logical);
    let device = disk.open(runtime.context()).unwrap();
    let error = runtime.block_on(Volume::create(&device, *options)).unwrap_err();
    let Reason::DeviceTooSmall { needed_bytes, .. } = *error.reason() else { panic!("{error}") };
    needed_bytes.next_multiple_of(64 << 10)
}

impl Play {
    async fn check(&mut self, when: &str, cut: bool) {
        let device = self.disk.open(&self.context).unwrap();
        let report = check(&device, &mut |_| ()).await.unwrap();
        self.seen.checks += 1;
        self.seen.blocks += report.blocks;
        self.seen.entries += report.entries;
        self.judge(&report, when, cut);
    }

    fn judge(&mut self, report: &Report, when: &str, cut: bool) {
        for finding in &report.findings {
            match finding.code {
                // A cut may tear a superblock; the next opening mends it.
                Code::SuperblockCopy if cut => self.seen.torn_superblocks += 1,
                // Room that a crash loses where a past is kept: known, and no alarm.
                Code::Leak if self.options.retention_bytes > 0 || self.held.get() => self.seen.leaks += 1,
                _ => self.seen.failures.push(format!("seed {} {when}: {finding}", self.seed)),
            }
        }
    }

    /// Takes a few, deletes some.
    async fn take_snapshots(&mut self, volume: &Volume) {
        for _ in 0..self.random.below(3) {
            let there = volume.snapshots();
            if there.len() == SNAPSHOTS_MAX || (!there.is_empty() && self.random.chance(1, 3)) {
                let gone = &there[self.random.below(there.len() as u64) as usize];
                volume.delete_snapshot(&gone.name).await.unwrap();
            }
            volume.create_snapshot(&format!("{:016x}", self.random.next_u64())).await.unwrap();
        }
        if self.options.backend == Backend::Overlay && self.random.chance(1, 4) {
            let oldest = volume.snapshots().first().map(|oldest| oldest.name.clone());
            volume.fold(oldest.as_deref()).await.unwrap();
        }
    }

    /// Work until the power is cut or the volume is closed.
    async fn serve(&mut self) {
        let device = self.disk.open(&self.context).unwrap();
        let mode = if self.random.chance(1, 2) { ApplyMode::Absorb } else { ApplyMode::Strict };
        let apply = ApplyOptions { mode, at_open: self.random.chance(1, 4), ..ApplyOptions::default() };
        let index_bytes = self.index_bytes;
        let options = OpenOptions { index_bytes, apply, refuse_when_full: false, ..OpenOptions::default() };
        let volume = Volume::open_with(device, OpenMode::ReadWrite, options).await.unwrap();
        if self.options.backend == Backend::Linear {
            // A cut may have left it pinned.
            volume.accept(None).await.unwrap();
        }
        let block = u64::from(volume.info().block_bytes);
        let blocks = volume.size_bytes() / block;
        let image = match self.options.backend {
            // What it holds may leave a small pool no room, and then writers wait for it.
            Backend::Log if self.seed.is_multiple_of(5) && self.random.chance(1, 2) => {
                self.held.set(true);
                let sequence = Some(Seq(volume.info().sequence.0));
                volume.image(ImageOptions { sequence, ..ImageOptions::default() }).await.ok()
            }
            _ => None,
        };
        if self.options.backend.has_base() {
            self.take_snapshots(&volume).await;
        }
        let workers = 1 + self.random.below(6);
        let tasks: Vec<_> = (0..workers)
            .map(|_| {
                let (volume, seed) = (volume.clone(), self.random.next_u64());
                let operations = 20 + self.random.below(300);
                self.context.spawn(async move {
                    let mut random = Random::from_seed(seed);
                    for _ in 0..operations {
                        operate(&volume, &mut random, block, blocks).await;
                    }
                })
            })
            .collect();
        let crash = self.random.chance(2, 3);
        if crash && self.random.chance(2, 3) {
            let requests = self.disk.requests() + self.random.below(600);
            let started = self.context.now().0;
            while self.disk.requests() < requests && !tasks.iter().all(icecore::runtime::Task::has_ended) {
                assert!(self.context.now().0 - started < HANG_NS, "it hangs: {:?}", volume.status().log);
                self.context.sleep(20_000).await;
            }
            tasks.iter().for_each(icecore::runtime::Task::abort);
        } else {
            let started = self.context.now().0;
            while !tasks.iter().all(icecore::runtime::Task::has_ended) {
                assert!(self.context.now().0 - started < HANG_NS, "it hangs: {:?}", volume.status().log);
                self.context.sleep(20_000).await;
            }
            if self.random.chance(1, 3) {
                self.context.sleep(3_000_000_000).await;
            }
        }
        if crash {
            if self.random.chance(1, 4) {
                let closing = self.context.spawn({
                    let volume = volume.clone();
                    async move { volume.close().await }
                });
                let requests = self.disk.requests() + self.random.below(12);
                while self.disk.requests() < requests && !closing.has_ended() {
                    self.context.sleep(20_000).await;
                }
                closing.abort();
            }
            drop((image, volume));
            self.disk.cut_power();
            self.check("after a cut", true).await;
        } else {
            drop(image);
            volume.close().await.unwrap();
            drop(volume);
            while self.disk.open(&self.context).is_err() {
                self.context.sleep(20_000).await;
            }
            self.check("after a close", false).await;
        }
    }
}

/// Applying, pinning and accepting, as far as it can be done now.
async fn apply(volume: &Volume, random: &mut Random) -> Result<(), Error> {
    let through = Some(Seq(random.below(volume.info().sequence.0 + 1)));
    let done = match random.below(8) {
        0 => match volume.pin_base().await {
            // Not for long: writers may wait for room in the log meanwhile.
            Ok(_) => {
                volume.context().sleep(random.below(20_000_000)).await;
                volume.accept(None).await
            }
            Err(error) => Err(error),
        },
        1 => volume.accept(through).await,
        2..5 => volume.apply(through).await.map(drop),
        _ => volume.apply(None).await.map(drop),
    };
    match done {
        Err(error)
            if matches!(
                error.reason(),
                Reason::Pinned { .. } | Reason::NotPinned | Reason::ApplyStalled { .. }
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

async fn operate(volume: &Volume, random: &mut Random, block: u64, blocks: u64) {
    let first = random.below(blocks);
    let count = (1 + random.below(6)).min(blocks - first);
    let offset = ByteOffset(first * block);
    let done = match random.below(20) {
        0 => volume.discard(offset, count * block).await,
        1 => volume.write_zeroes(offset, count * block).await,
        2 => volume.flush().await,
        3 => volume.discard(ByteOffset(0), blocks * block / 2).await,
        4 if volume.info().backend == Backend::Linear => apply(volume, random).await,
        _ => {
            let mut buf = volume.context().buffers().get((count * block) as usize).unwrap();
            buf.fill(random.below(256) as u8);
            buf[..8].copy_from_slice(&random.next_u64().to_le_bytes());
            let durable = if random.chance(1, 3) { Durability::Durable } else { Durability::OnFlush };
            volume.write(offset, buf, durable).await.0
        }
    };
    done.unwrap();
}

fn play(seed: u64) -> Seen {
    let mut random = Random::from_seed(seed ^ 0xC4EC);
    let (options, device_bytes, logical) = options(&mut random, seed);
    let (runtime, calendar) = Runtime::simulated(seed).unwrap();
    let disk = SimulatedDisk::new(&calendar, seed, "disk", device_bytes, logical);
    let context = runtime.context().clone();
    let index_bytes = if random.chance(1, 2) { 1 << 20 } else { 16 << 10 };
    let (held, seen) = (Cell::new(false), Seen::default());
    let mut play = Play { seed, context, disk, options, random, index_bytes, held, seen };
    runtime.block_on(async {
        // What lay on the disk before must not be taken for this pool's.
        for _ in 0..2 {
            play.held.set(false);
            let device = play.disk.open(&play.context).unwrap();
            Volume::create(&device, play.options).await.unwrap();
            drop(device);
            play.check("after creation", false).await;
            for _ in 0..4 {
                play.serve().await;
            }
        }
        play.seen
    })
}

fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("CHECK_SEEDS") else { return usual };
    let (from, to) = text.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn nothing_is_told_of_a_volume_that_nothing_is_wrong_with() {
    check_all(SEEDS);
}

#[test]
fn nothing_is_told_of_a_volume_with_a_base_that_nothing_is_wrong_with() {
    check_all(BASE_SEEDS);
}

fn check_all(usual: std::ops::Range<u64>) {
    let mut all = Seen::default();
    for seed in seeds(usual) {
        let seen = play(seed);
        all.checks += seen.checks;
        all.blocks += seen.blocks;
        all.entries += seen.entries;
        all.torn_superblocks += seen.torn_superblocks;
        all.leaks += seen.leaks;
        all.failures.extend(seen.failures);
    }
    let Seen { checks, blocks, entries, torn_superblocks, leaks, .. } = all;
    println!(
        "{checks} checks, {blocks} blocks, {entries} entries, {torn_superblocks} torn superblocks, {leaks} leaks"
    );
    assert!(all.failures.is_empty(), "{} false alarms:\n{}", all.failures.len(), all.failures.join("\n"));
    assert!(checks > 300 && blocks > 1000 && entries > 1000, "there was something to check");
}
