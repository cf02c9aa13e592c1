//! Named moments on the vectors of V-LOG: what they show, over overwriting, crashes and deletion in any order; what
//! taking and deleting them costs; and that no write is half before a snapshot.

use icecore::error::Reason;
use icecore::object::ObjectKind;
use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, Volume};

use crate::vlog::{
    self, BLOCK, Kept, MANUAL, MIB, PREFIXES, Rig, current, cut_at_each_request, go_back_to_one, is_sound,
    linear, small, write, write_base,
};

/// What is asked of one is asked of all.
const ALL: [Kept; 7] = [
    (Backend::Log, ObjectKind::Mapped),
    (Backend::Cow, ObjectKind::Mapped),
    (Backend::Overlay, ObjectKind::Mapped),
    (Backend::Cow, ObjectKind::Linear),
    (Backend::Overlay, ObjectKind::Linear),
    (Backend::LoggedCow, ObjectKind::Mapped),
    (Backend::LoggedCow, ObjectKind::Linear),
];

/// A volume of 64 blocks that keeps no past but what has a name, and its disk.
fn rig(seed: u64, (backend, objects): Kept) -> Rig {
    let disk_bytes = if backend.has_base() { 7 * MIB } else { 4 * MIB };
    Rig::new(seed, disk_bytes, CreateOptions { size_bytes: Some(64 * BLOCK), objects, ..small(backend) })
}

/// Blocks that live in the log of such a volume when all has been written since the first snapshot, and none is left.
fn live_blocks(backend: Backend, written: u64) -> u64 {
    match backend {
        Backend::Cow | Backend::LoggedCow => 0,
        Backend::Overlay => written,
        _ => 64,
    }
}

/// The image of a snapshot.
async fn shown(volume: &Volume, name: &str) -> String {
    vlog::shown(volume, name).await.unwrap()
}

/// W from..to of V-LOG.
async fn write_some(volume: &Volume, which: std::ops::Range<usize>) {
    for (region, letter) in &vlog::WRITES[which] {
        write(volume, *region, *letter).await.unwrap();
    }
}

/// T0, W1 to W3, T1, W4 to W6, T2.
async fn take_three(volume: &Volume) {
    write_base(volume).await;
    for (name, which) in [("T0", 0..0), ("T1", 0..3), ("T2", 3..6)] {
        write_some(volume, which).await;
        volume.create_snapshot(name).await.unwrap();
    }
}

/// Overwrites everything behind the eight regions often enough that each segment has been emptied.
async fn churn(volume: &Volume, rounds: u64) {
    for round in 0..rounds {
        for block in 8..64 {
            let letter = b'A' + ((round + block) % 26) as u8;
            vlog::write_at(volume, block * BLOCK, letter, Durability::OnFlush).await.unwrap();
        }
    }
    volume.flush().await.unwrap();
}

const EXPECTED: [(&str, &str); 3] = [("T0", PREFIXES[0]), ("T1", PREFIXES[3]), ("T2", PREFIXES[6])];

async fn names(volume: &Volume) -> Vec<String> {
    volume.snapshots().into_iter().map(|snapshot| snapshot.name).collect()
}

#[test]
fn snapshots_show_their_moments_and_go_in_any_order() {
    ALL.into_iter().for_each(show_and_go);
}

fn show_and_go(kept: Kept) {
    let (backend, _) = kept;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (crash, order) in (0..).zip(orders) {
        let rig = rig(crash, kept);
        rig.runtime.block_on(async {
            let mut volume = rig.open(MANUAL).await;
            take_three(&volume).await;
            write(&volume, 4, b'Q').await.unwrap();
            churn(&volume, 12).await;
            let mut left: Vec<(&str, &str)> = EXPECTED.to_vec();
            for which in order {
                for (name, expected) in &left {
                    assert_eq!(shown(&volume, name).await, *expected, "{name}, {order:?}");
                }
                assert_eq!(names(&volume).await, left.iter().map(|one| one.0).collect::<Vec<_>>());
                let name = EXPECTED[which].0;
                volume.delete_snapshot(name).await.unwrap();
                let gone = volume.delete_snapshot(name).await.unwrap_err();
                assert_eq!(*gone.reason(), Reason::NoSnapshot { name: name.to_string() });
                left.retain(|one| one.0 != name);
                if crash % 2 == 0 {
                    drop(volume);
                    rig.disk.cut_power();
                    is_sound(&rig).await;
                    volume = rig.open(MANUAL).await;
                }
                churn(&volume, 3).await;
            }
            assert_eq!(current(&volume).await, "1bFyQGgh");
            volume.context().sleep(3_000_000_000).await;
            let live = vlog::live_blocks(&volume).await;
            assert_eq!(live, live_blocks(backend, 61), "nothing but the volume lives, {backend:?}");
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
        });
    }
}

#[test]
fn taking_one_writes_a_record_and_deleting_one_moves_no_data() {
    ALL.into_iter().for_each(take_and_delete);
}

fn take_and_delete(kept: Kept) {
    let (backend, _) = kept;
    let rig = rig(4, kept);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        take_three(&volume).await;
        churn(&volume, 4).await;
        let written = |rig: &Rig| -> u64 {
            let recorded = rig.disk.recorded();
            let writes = recorded.iter().filter(|one| {
                matches!(
                    (one.event, one.kind),
                    (
                        icecore::device::simulated::Event::Arrived,
                        icecore::runtime::OperationKind::Write { .. }
                    )
                )
            });
            writes.map(|one| one.length).sum()
        };
        // What goes on in the background has ended then.
        volume.context().sleep(3_000_000_000).await;
        rig.disk.start_recording();
        volume.create_snapshot("T3").await.unwrap();
        assert_eq!(written(&rig), 4096, "one record of the metadata, {backend:?}");
        rig.disk.start_recording();
        volume.delete_snapshot("T1").await.unwrap();
        volume.context().sleep(100_000_000).await;
        // No other one sees anything that its object holds, where that has what was brought to the base alone.
        let given_back = u64::from(kept == (Backend::LoggedCow, ObjectKind::Linear));
        assert_eq!(
            written(&rig),
            (2 + given_back) * 4096,
            "one record that it is given up, one that it is gone, {kept:?}"
        );
    });
}

#[test]
fn a_cut_while_one_is_taken_or_deleted_leaves_it_there_or_not() {
    ALL.into_iter().for_each(cut_short);
}

fn cut_short(kept: Kept) {
    for deleting in [false, true] {
        let mut seen = [0, 0];
        let cuts = cut_at_each_request(|cut_at| {
            let rig = rig(5, kept);
            rig.runtime.block_on(async {
                let volume = rig.open(MANUAL).await;
                take_three(&volume).await;
                write(&volume, 4, b'Q').await.unwrap();
                let work = async {
                    match deleting {
                        true => volume.delete_snapshot("T1").await.unwrap(),
                        false => drop(volume.create_snapshot("T3").await.unwrap()),
                    }
                    volume.context().sleep(100_000_000).await;
                };
                let ended = rig.run_until(cut_at, work).await;
                let volume = rig.cut_and_open(volume).await;
                let now = names(&volume).await;
                let with = now.iter().any(|name| name == if deleting { "T1" } else { "T3" });
                seen[usize::from(with)] += 1;
                assert_eq!(now.len(), 3 - usize::from(deleting) + usize::from(with), "{now:?}");
                churn(&volume, 12).await;
                for (name, expected) in EXPECTED.iter().chain(&[("T3", "1bFyQGgh")]) {
                    if now.iter().any(|one| one == name) {
                        assert_eq!(shown(&volume, name).await, *expected, "{name}, cut at {cut_at}");
                    }
                }
                volume.close().await.unwrap();
                drop(volume);
                is_sound(&rig).await;
                ended
            })
        });
        println!("deleting {deleting}: {cuts} cuts, without and with: {seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}

#[test]
fn no_write_is_half_before_a_snapshot() {
    ALL.into_iter().for_each(take_among_writes);
}

fn take_among_writes((backend, objects): Kept) {
    const BYTES: u64 = 2 * MIB;
    let options = CreateOptions { size_bytes: Some(4 * BYTES), objects, ..small(backend) };
    let rig = Rig::new(6, 160 * MIB, options);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let context = rig.runtime.context().clone();
        // Each write of two MiB is many entries of the log.
        let writers = (0..4_u64).map(|at| {
            let volume = volume.clone();
            context.spawn(async move {
                for round in 1..6_u8 {
                    let buf = volume.context().buffers().copy_of(&vec![round; BYTES as usize]).unwrap();
                    volume.write(ByteOffset(at * BYTES), buf, Durability::OnFlush).await.0.unwrap();
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        for number in 0..6 {
            context.sleep(700_000).await;
            volume.create_snapshot(&format!("moment {number}")).await.unwrap();
        }
        for writer in writers {
            writer.await;
        }
        let mut seen = Vec::new();
        for snapshot in volume.snapshots() {
            let options = ImageOptions { sequence: Some(snapshot.sequence), ..ImageOptions::default() };
            let image = volume.image(options).await.unwrap();
            for at in 0..4 {
                let buf = volume.context().buffers().get(BYTES as usize).unwrap();
                let (result, buf) = image.read(ByteOffset(at * BYTES), buf).await;
                result.unwrap();
                assert!(buf.iter().all(|byte| *byte == buf[0]), "{snapshot:?} at {at}");
                seen.push(buf[0]);
            }
        }
        assert!(seen.iter().any(|round| *round != seen[0]), "the moments lie among the writes: {seen:?}");
    });
}

#[test]
fn a_named_moment_is_gone_back_to_though_the_window_has_passed_it() {
    ALL.into_iter().filter(|(backend, _)| *backend != Backend::Cow).for_each(go_back);
}

fn go_back(kept: Kept) {
    let (backend, _) = kept;
    let rig = rig(7, kept);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        take_three(&volume).await;
        churn(&volume, 6).await;
        let t1 = volume.snapshot("T1").unwrap().sequence;
        let between = Seq(t1.0 + 1);
        assert!(matches!(volume.rollback(between).await.unwrap_err().reason(), Reason::Expired { .. }));
        volume.rollback(t1).await.unwrap();
        assert_eq!(current(&volume).await, PREFIXES[3]);
        assert_eq!(vlog::byte(&volume, 20).await.unwrap(), 0, "what was not written then is zero");
        let refused = volume.rollback(volume.snapshot("T2").unwrap().sequence).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::Discarded { .. }), "{refused}");
        let volume = rig.cut_and_open(volume).await;
        churn(&volume, 6).await;
        assert_eq!(current(&volume).await, PREFIXES[3]);
        for (name, expected) in EXPECTED {
            assert_eq!(shown(&volume, name).await, expected, "{name}");
            volume.delete_snapshot(name).await.unwrap();
        }
        volume.context().sleep(3_000_000_000).await;
        churn(&volume, 1).await;
        volume.context().sleep(3_000_000_000).await;
        let found = vlog::live_blocks(&volume).await;
        let live = match backend {
            // What lives again since the volume went back stays in the log until it is written anew.
            Backend::LoggedCow => 8,
            _ => live_blocks(backend, 58),
        };
        assert_eq!(found, live);
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
    });
}

/// Every block's content at a moment.
async fn blocks_of(volume: &Volume, sequence: Seq) -> Vec<u64> {
    let image =
        volume.image(ImageOptions { sequence: Some(sequence), ..ImageOptions::default() }).await.unwrap();
    let buf = volume.context().buffers().get(64 * BLOCK as usize).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    let word = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
    buf.chunks_exact(BLOCK as usize).map(word).collect()
}

#[test]
fn the_difference_of_two_moments_is_what_their_images_say() {
    ALL.into_iter().for_each(compare);
}

fn compare((backend, objects): Kept) {
    for seed in 0..12 {
        let size_bytes = Some(64 * BLOCK);
        let rig = Rig::new(seed, 16 * MIB, CreateOptions { size_bytes, objects, ..small(backend) });
        rig.runtime.block_on(async {
            let mut volume = rig.open(MANUAL).await;
            let random = &mut Random::from_seed(seed);
            for content in 1..400_u64 {
                let (first, blocks) = (random.below(60), 1 + random.below(4));
                let (at, bytes) = (ByteOffset(first * BLOCK), blocks * BLOCK);
                match random.below(40) {
                    0 => drop(volume.create_snapshot(&format!("at {content}")).await.unwrap()),
                    1 => volume.discard(at, bytes).await.unwrap(),
                    2 => go_back_to_one(&volume, random, 4).await,
                    3 => {
                        volume = rig.cut_and_open(volume).await;
                    }
                    _ => {
                        let mut buf = volume.context().buffers().get(bytes as usize).unwrap();
                        for (number, block) in (0_u64..).zip(buf.chunks_mut(BLOCK as usize)) {
                            block[..8].copy_from_slice(&(content * 8 + number).to_le_bytes());
                        }
                        let durability =
                            if content % 3 == 0 { Durability::Durable } else { Durability::OnFlush };
                        volume.write(at, buf, durability).await.0.unwrap();
                    }
                }
            }
            let mut moments: Vec<Seq> = volume.snapshots().iter().map(|one| one.sequence).collect();
            moments.push(volume.info().sequence);
            assert!(moments.len() > 4, "seed {seed}");
            for (one, other) in moments.iter().flat_map(|one| moments.iter().map(move |other| (*one, *other)))
            {
                let (before, after) = (blocks_of(&volume, one).await, blocks_of(&volume, other).await);
                let differs: Vec<bool> = before.iter().zip(&after).map(|(one, other)| one != other).collect();
                let mut told = [false; 64];
                for range in volume.difference(one, other).await.unwrap() {
                    (range.start / BLOCK..range.end / BLOCK).for_each(|block| told[block as usize] = true);
                }
                // Each content is written once; zeroes may follow zeroes.
                let is_zero = |block: usize| before[block] == 0 && after[block] == 0;
                // A cut may take what overwrote a block of the base, and leave what was saved of it.
                let may_be_same = |block: usize| is_zero(block) || (backend.has_base() && told[block]);
                let wrong = (0..64).find(|block| told[*block] != differs[*block] && !may_be_same(*block));
                assert_eq!(wrong, None, "seed {seed}: {one:?} to {other:?}");
            }
            let unnamed = (1..).map(Seq).find(|moment| !moments.contains(moment)).unwrap();
            let gone = volume.difference(unnamed, moments[0]).await.unwrap_err();
            assert!(matches!(gone.reason(), Reason::Expired { .. }), "{gone}");
        });
    }
}

#[test]
fn what_cannot_be_named_is_refused_and_changes_nothing() {
    let rig = Rig::new(8, 8 * MIB, CreateOptions { size_bytes: Some(64 * BLOCK), ..small(Backend::Log) });
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        for name in ["", "a\nb", &"x".repeat(65)] {
            let refused = volume.create_snapshot(name).await.unwrap_err();
            assert!(matches!(refused.reason(), Reason::InvalidSetting { name: "name", .. }), "{refused}");
        }
        assert!(!volume.info().features.contains(&"snapshots"), "nothing has been written");
        volume.create_snapshot("one").await.unwrap();
        let refused = volume.create_snapshot("one").await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::SnapshotExists { name: "one".to_string() });
        for number in 1..256 {
            volume.create_snapshot(&format!("{number}: {}", "n".repeat(58))).await.unwrap();
        }
        let refused = volume.create_snapshot("too many").await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::TooManySnapshots { limit: 256 });
        volume.delete_snapshot("one").await.unwrap();
        volume.context().sleep(100_000_000).await;
        volume.create_snapshot("two").await.unwrap();
        drop(volume);
        rig.disk.cut_power();
        is_sound(&rig).await;
        assert_eq!(rig.open(MANUAL).await.snapshots().len(), 256);
    });
    let rig = Rig::new(8, 16 * MIB, linear(MIB));
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        let refused = volume.create_snapshot("one").await.unwrap_err();
        assert_eq!(*refused.reason(), Reason::NoSnapshots { backend: "linear" });
    });
}
