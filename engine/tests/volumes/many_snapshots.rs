//! Thousands of named moments: what they show against a model, what taking one writes, what opening and checking read,
//! and that the room for them is what was asked for. On a simulated disk.

use icecore::check::check;
use icecore::device::simulated::{Event, SimulatedDisk};
use icecore::error::Reason;
use icecore::runtime::{OperationKind, Random};
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, Volume};

use crate::vlog::{BLOCK, MANUAL, MIB, Rig, is_sound, linear, live_blocks, small};

const BLOCKS: u64 = 64;
/// Bytes of a record of the metadata.
const RECORD_BYTES: u64 = 4096;

/// The content of each block, by the number of the write that made it.
type Model = Vec<u64>;

fn rig(seed: u64, backend: Backend, disk_bytes: u64, snapshots_max: u32) -> Rig {
    let options = CreateOptions {
        size_bytes: Some(BLOCKS * BLOCK),
        snapshots_max: Some(snapshots_max),
        ..small(backend)
    };
    Rig::new(seed, disk_bytes, options)
}

async fn write(volume: &Volume, block: u64, number: u64) {
    let mut buf = volume.context().buffers().zeroed(BLOCK as usize).unwrap();
    buf[..8].copy_from_slice(&number.to_le_bytes());
    volume.write(ByteOffset(block * BLOCK), buf, Durability::OnFlush).await.0.unwrap();
}

/// What a moment shows.
async fn shown(volume: &Volume, sequence: Seq) -> Model {
    let options = ImageOptions { sequence: Some(sequence), ..ImageOptions::default() };
    let image = volume.image(options).await.unwrap();
    let buf = volume.context().buffers().get((BLOCKS * BLOCK) as usize).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    buf.chunks_exact(BLOCK as usize).map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).collect()
}

/// Bytes of metadata that have been written so far.
fn metadata_bytes(volume: &Volume) -> u64 {
    let ledger = volume.status().ledger;
    ledger.iter().find(|(name, _)| *name == "metadata").map_or(0, |(_, tally)| tally.write_bytes)
}

/// Bytes that have been read since recording began.
fn bytes_read(disk: &SimulatedDisk) -> u64 {
    let recorded = disk.recorded();
    let reads =
        recorded.iter().filter(|one| matches!((one.event, one.kind), (Event::Arrived, OperationKind::Read)));
    reads.map(|one| one.length).sum()
}

/// Moments by name, with what they have to show.
struct Taken {
    current: Model,
    named: Vec<(String, Seq, Model)>,
    written: u64,
}

impl Taken {
    fn new() -> Self {
        Self { current: vec![0; BLOCKS as usize], named: Vec::new(), written: 0 }
    }

    /// Writes a little, and takes one. The bytes of metadata that this has written.
    async fn one_more(&mut self, volume: &Volume, random: &mut Random) -> u64 {
        for _ in 0..1 + random.below(2) {
            self.written += 1;
            let block = random.below(BLOCKS);
            write(volume, block, self.written).await;
            self.current[block as usize] = self.written;
        }
        let name = format!("moment {:05} {}", self.named.len(), "n".repeat(50));
        // What a checkpoint writes meanwhile is not the snapshot's.
        volume.flush().await.unwrap();
        let before = metadata_bytes(volume);
        let taken = volume.create_snapshot(&name).await.unwrap();
        let bytes = metadata_bytes(volume) - before;
        self.named.push((name, taken.sequence, self.current.clone()));
        bytes
    }

    async fn judge_some(&self, volume: &Volume, random: &mut Random, count: u64) {
        for _ in 0..count.min(self.named.len() as u64) {
            let (name, sequence, model) = &self.named[random.below(self.named.len() as u64) as usize];
            assert_eq!(volume.snapshot(name).unwrap().sequence, *sequence);
            assert_eq!(shown(volume, *sequence).await, *model, "{name}");
        }
    }
}

#[test]
fn ten_thousand_are_taken_shown_and_deleted_in_any_order() {
    const COUNT: u64 = 10_000;
    for backend in [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow] {
        // A base makes each saved block several entries of the index.
        let rig = rig(1, backend, 256 * MIB, COUNT as u32);
        rig.runtime.block_on(async {
            let random = &mut Random::from_seed(backend as u64);
            let mut volume = rig.open(MANUAL).await;
            let mut taken = Taken::new();
            let mut costs = Vec::new();
            for number in 0..COUNT {
                costs.push(taken.one_more(&volume, random).await);
                if number % 2500 == 2499 {
                    drop(volume);
                    rig.disk.cut_power();
                    is_sound(&rig).await;
                    volume = rig.open(MANUAL).await;
                    taken.judge_some(&volume, random, 50).await;
                }
            }
            let refused = volume.create_snapshot("one more").await.unwrap_err();
            assert_eq!(*refused.reason(), Reason::TooManySnapshots { limit: COUNT as usize });
            let mean = |costs: &[u64]| costs.iter().sum::<u64>() / costs.len() as u64;
            let (first, last) = (mean(&costs[..1000]), mean(&costs[9000..]));
            let alone = costs.iter().filter(|bytes| **bytes == RECORD_BYTES).count();
            let most = costs.iter().max().unwrap();
            println!(
                "{backend:?}: metadata written for each of the first thousand {first} bytes, of the last {last}; \
                 {alone} of {COUNT} one record, {most} bytes at most"
            );
            // Beside it checkpoints go on, and the metadata is written anew.
            // With the very first one, both superblocks say that there are some.
            assert!(costs[1] == RECORD_BYTES && alone as u64 > COUNT * 3 / 4, "{backend:?}: {alone}");
            // A journal is twice as long as its image, so that writing it anew costs half of what was written at most.
            assert!(last <= first + RECORD_BYTES / 2, "{first}, {last}");
            while !taken.named.is_empty() {
                for _ in 0..taken.named.len().min(2000) {
                    let at = random.below(taken.named.len() as u64) as usize;
                    let (name, ..) = taken.named.swap_remove(at);
                    volume.delete_snapshot(&name).await.unwrap();
                }
                assert_eq!(volume.snapshots().len(), taken.named.len());
                taken.judge_some(&volume, random, 50).await;
                drop(volume);
                rig.disk.cut_power();
                is_sound(&rig).await;
                volume = rig.open(MANUAL).await;
            }
            volume.context().sleep(10_000_000_000).await;
            if backend == Backend::Overlay {
                volume.fold(None).await.unwrap();
            }
            let live = live_blocks(&volume).await;
            assert_eq!(live, if backend == Backend::Log { BLOCKS } else { 0 }, "{backend:?}");
            assert_eq!(shown(&volume, volume.info().sequence).await, taken.current);
        });
    }
}

#[test]
fn opening_and_checking_read_in_proportion() {
    let measured = [1, 1000, 10_000].map(|count| {
        let rig = rig(2, Backend::Log, 256 * MIB, 10_000);
        rig.runtime.block_on(async {
            let random = &mut Random::from_seed(2);
            let volume = rig.open(MANUAL).await;
            let mut taken = Taken::new();
            // The same writes, whatever has a name.
            for number in 0..10_000_u64 {
                match number % (10_000 / count) {
                    0 => drop(taken.one_more(&volume, random).await),
                    _ => {
                        taken.written += 1;
                        let block = random.below(BLOCKS);
                        write(&volume, block, taken.written).await;
                        taken.current[block as usize] = taken.written;
                    }
                }
            }
            volume.flush().await.unwrap();
            drop(volume);
            rig.disk.cut_power();
            rig.runtime.context().sleep(50_000_000).await;
            rig.disk.start_recording();
            let volume = rig.open(MANUAL).await;
            let opening = bytes_read(&rig.disk);
            let report = volume.status().log.unwrap().recovery;
            assert_eq!(volume.snapshots().len(), count as usize);
            taken.judge_some(&volume, random, 20).await;
            volume.close().await.unwrap();
            drop(volume);
            rig.runtime.context().sleep(50_000_000).await;
            rig.disk.start_recording();
            let found = check(&rig.device(), &mut |_| {}).await.unwrap();
            assert!(found.findings.is_empty(), "{:?}", found.findings);
            let checking = bytes_read(&rig.disk);
            println!(
                "{count} snapshots: opening read {opening} bytes in {} us (log {}); the check read {checking}",
                (report.load_ns + report.replay_ns) / 1000,
                report.bytes
            );
            (opening, report.bytes, checking, found.entries)
        })
    });
    let [one, thousand, many] = measured;
    // Behind the image of the metadata, each one taken since is a record, and the oldest of its blocks a death.
    for (count, found) in [(1000, thousand), (10_000, many)] {
        assert!(found.0 <= one.0 + count * (RECORD_BYTES + 160) + 2 * MIB, "{found:?} after {one:?}");
        // For each version that is kept: its block, the batch that wrote it, and pages of the index.
        assert!(found.2 <= one.2 + found.3 * 4 * BLOCK, "{found:?} after {one:?}");
    }
    assert!(many.0 < 16 * MIB, "no more than image, journal and the tail of the log: {many:?}");
}

#[test]
fn the_room_is_what_was_asked_for_and_stays_when_the_pool_grows() {
    let rig = rig(3, Backend::Log, 16 * MIB, 700);
    rig.runtime.block_on(async {
        let random = &mut Random::from_seed(3);
        let volume = rig.open(MANUAL).await;
        let mut taken = Taken::new();
        assert_eq!(volume.info().log.unwrap().snapshots_max, 700);
        for _ in 0..300 {
            taken.one_more(&volume, random).await;
        }
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
        rig.disk.resize(32 * MIB);
        Volume::grow(&rig.device()).await.unwrap();
        is_sound(&rig).await;
        let volume = rig.open(MANUAL).await;
        taken.judge_some(&volume, random, 20).await;
        for _ in 300..700 {
            taken.one_more(&volume, random).await;
        }
        let refused = volume.create_snapshot("one more").await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::TooManySnapshots { limit: 700 });
        taken.judge_some(&volume, random, 20).await;
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
        let device = rig.device();
        let wrong = [
            CreateOptions { snapshots_max: Some(255), ..small(Backend::Log) },
            CreateOptions { snapshots_max: Some(16_385), ..small(Backend::Cow) },
            CreateOptions { snapshots_max: Some(256), ..linear(MIB) },
            CreateOptions { snapshots_max: Some(256), ..CreateOptions::new(Backend::Direct) },
        ];
        for options in wrong {
            let refused = Volume::create(&device, options).await.unwrap_err();
            let is_it =
                matches!(refused.reason(), Reason::InvalidSetting { name: "number of snapshots", .. });
            assert!(is_it, "{refused}");
        }
        // Much room on a large device, unless there is nothing to name; and what every pool has on a small one.
        let of = |device_bytes, backend| {
            let options = |snapshots_max| CreateOptions { snapshots_max, ..CreateOptions::new(backend) };
            let size = |max| Volume::capacity(device_bytes, 4096, &options(max)).unwrap();
            (size(None), size(Some(256)), size(Some(10_000)))
        };
        let (large, few, many) = of(16 << 30, Backend::Log);
        assert!(large == many && large.1 > few.1 && large.1.0 - few.1.0 < (16 << 30) / 1000);
        let (small, few, many) = of(1 << 30, Backend::Log);
        assert!(small == few && many.1 > few.1);
    });
}
