//! Several volumes in one pool: each reads what it was given, whatever the others are given, whether the pool is cut,
//! emptied or taken back meanwhile; snapshots of several are there together or not at all; one that is deleted leaves
//! nothing; the rest is refused by name.

use std::collections::{BTreeMap, BTreeSet};

use crate::vlog::{BLOCK, MANUAL, MIB, Rig, byte_at, cut_at_each_request, is_sound, linear, small, write_at};
use icecore::error::{Kind, Reason};
use icecore::format::superblock::{FEATURE_VOLUMES, KNOWN_INCOMPATIBLE};
use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::store::log::ImageOptions;
use icecore::units::{ByteOffset, Seq};
use icecore::volume::{CreateOptions, Durability, OpenMode, Volume};

const OWN_BLOCKS: u64 = 64;

fn options() -> CreateOptions {
    CreateOptions { size_bytes: Some(OWN_BLOCKS * BLOCK), ..small(Backend::Log) }
}

fn rig(seed: u64) -> Rig {
    Rig::new(seed, 8 * MIB, options())
}

fn reason(error: &icecore::error::Error) -> &Reason {
    error.reason()
}

/// The letters of all blocks of a volume: zeroes are 0.
async fn all(volume: &Volume) -> Vec<u8> {
    let mut found = Vec::new();
    for block in 0..volume.size_bytes() / BLOCK {
        found.push(byte_at(volume, block * BLOCK).await.unwrap());
    }
    found
}

async fn shown(volume: &Volume, name: &str, blocks: usize) -> Vec<u8> {
    let image = volume.image_of(name).await.unwrap();
    let buf = volume.context().buffers().get(blocks * BLOCK as usize).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    buf.chunks_exact(BLOCK as usize).map(|block| block[0]).collect()
}

#[test]
fn each_volume_has_its_own_blocks_size_and_snapshots() {
    let rig = rig(1);
    rig.runtime.block_on(async {
        let pool = rig.open(MANUAL).await;
        assert!(pool.volumes().is_empty() && !pool.info().features.contains(&"further volumes"));
        pool.create_volume("large", 100 * BLOCK).await.unwrap();
        pool.create_volume("small", 3 * BLOCK).await.unwrap();
        let [large, small] =
            [pool.open_volume("large").await.unwrap(), pool.open_volume("small").await.unwrap()];
        assert_eq!(
            [large.size_bytes(), small.info().size_bytes, pool.size_bytes()],
            [100 * BLOCK, 3 * BLOCK, 64 * BLOCK]
        );
        assert_eq!(all(&small).await, [0; 3], "nothing is behind it");
        // The same block of each, and the last one of the larger, which the others have not.
        for (volume, letter) in [(&pool, b'p'), (&large, b'l'), (&small, b's')] {
            write_at(volume, BLOCK, letter, Durability::Durable).await.unwrap();
        }
        write_at(&large, 99 * BLOCK, b'e', Durability::OnFlush).await.unwrap();
        // A discard of all of a volume that was hardly written costs next to nothing.
        let entries = pool.status().log.unwrap().entries;
        large.discard(ByteOffset(2 * BLOCK), 90 * BLOCK).await.unwrap();
        assert!(pool.status().log.unwrap().entries - entries <= 1);
        let beyond = write_at(&small, 3 * BLOCK, b'x', Durability::OnFlush).await.unwrap_err();
        assert!(matches!(reason(&beyond), Reason::OutOfRange { .. }), "{beyond}");
        small.create_snapshot("s1").await.unwrap();
        write_at(&small, BLOCK, b'S', Durability::OnFlush).await.unwrap();
        small.write_zeroes(ByteOffset(0), BLOCK).await.unwrap();
        assert_eq!(pool.snapshot("s1").unwrap().of.as_deref(), Some("small"));
        // A writable snapshot of a further volume is as large as that.
        pool.clone_snapshot("s1", "tree").await.unwrap();
        let tree = pool.open_writable("tree").await.unwrap();
        assert_eq!((tree.size_bytes(), all(&tree).await), (3 * BLOCK, vec![0, b's', 0]));
        write_at(&tree, 2 * BLOCK, b't', Durability::Durable).await.unwrap();
        tree.create_snapshot("t1").await.unwrap();
        let now = small.versions(ByteOffset(BLOCK)).await.unwrap();
        assert_eq!(now.len(), 2, "{now:?}");
        let blank = small.versions(ByteOffset(2 * BLOCK)).await.unwrap();
        assert!(blank.len() == 1 && blank[0].zero && blank[0].sequence == Seq(0), "{blank:?}");
        // What differs, within a volume alone.
        let [s1, now, t1] =
            [pool.moment_of("s1"), pool.moment_of("small"), pool.moment_of("t1")].map(Result::unwrap);
        assert_eq!(
            pool.difference_between(s1, now).await.unwrap(),
            std::slice::from_ref(&(BLOCK..2 * BLOCK))
        );
        assert_eq!(
            pool.difference_between(s1, t1).await.unwrap(),
            std::slice::from_ref(&(2 * BLOCK..3 * BLOCK))
        );
        let own = pool.moment(None).unwrap();
        for other in [own, pool.moment_of("large").unwrap()] {
            let refused = pool.difference_between(s1, other).await.unwrap_err();
            assert_eq!(*reason(&refused), Reason::OtherVolume);
        }
        let checked = |found: [Vec<u8>; 3]| {
            assert_eq!(
                (found[0][1], found[1][1], found[1][99], &found[2][..]),
                (b'p', b'l', b'e', &[0, b'S', 0][..])
            );
            let written: usize = found.iter().flatten().filter(|letter| **letter != 0).count();
            assert_eq!(written, 4);
        };
        checked([all(&pool).await, all(&large).await, all(&small).await]);
        pool.flush().await.unwrap();
        drop((pool, large, small, tree));
        rig.disk.cut_power();
        is_sound(&rig).await;
        let pool = rig.open(MANUAL).await;
        let listed: Vec<_> = pool.volumes().into_iter().map(|one| (one.name, one.size_bytes)).collect();
        assert_eq!(listed, [("large".to_string(), 100 * BLOCK), ("small".to_string(), 3 * BLOCK)]);
        let names: Vec<_> = pool.snapshots().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["s1", "tree", "t1"], "volumes are no snapshots");
        let [large, small] =
            [pool.open_volume("large").await.unwrap(), pool.open_volume("small").await.unwrap()];
        checked([all(&pool).await, all(&large).await, all(&small).await]);
        assert_eq!(shown(&pool, "s1", 3).await, [0, b's', 0]);
        assert_eq!(shown(&pool, "t1", 3).await, [0, b's', b't']);
        // Going back is the pool's own volume's, and leaves the others as they are.
        let before = pool.create_snapshot("before").await.unwrap().sequence;
        write_at(&pool, BLOCK, b'q', Durability::OnFlush).await.unwrap();
        write_at(&large, BLOCK, b'l', Durability::OnFlush).await.unwrap();
        pool.rollback(before).await.unwrap();
        checked([all(&pool).await, all(&large).await, all(&small).await]);
        assert_eq!(*reason(&small.rollback(before).await.unwrap_err()), Reason::NotOfSnapshots);
        pool.close().await.unwrap();
        drop((pool, large, small));
        is_sound(&rig).await;
    });
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let rig = rig(2);
    rig.runtime.block_on(async {
        let pool = rig.open(MANUAL).await;
        pool.create_snapshot("monday").await.unwrap();
        pool.create_volume("db", 4 * BLOCK).await.unwrap();
        for (name, size, what) in [("db", BLOCK, "db"), ("monday", BLOCK, "monday")] {
            let refused = pool.create_volume(name, size).await.unwrap_err();
            assert_eq!(*reason(&refused), Reason::SnapshotExists { name: what.to_string() });
        }
        for (name, size) in [("", BLOCK), ("x", 0), ("x", 100), ("x", 64 * MIB), ("x", u64::MAX - BLOCK + 1)]
        {
            let refused = pool.create_volume(name, size).await.unwrap_err();
            assert!(matches!(reason(&refused), Reason::InvalidSetting { .. }), "{name} {size}: {refused}");
        }
        let none = |name: &str| Reason::NoVolume { name: name.to_string() };
        let no_snapshot = |name: &str| Reason::NoSnapshot { name: name.to_string() };
        for name in ["nothing", "monday"] {
            assert_eq!(*reason(&pool.open_volume(name).await.unwrap_err()), none(name));
            assert_eq!(*reason(&pool.delete_volume(name).await.unwrap_err()), none(name));
        }
        // A volume is no snapshot: it is neither shown, locked, cloned nor deleted as one.
        assert_eq!(*reason(&pool.snapshot("db").unwrap_err()), no_snapshot("db"));
        assert_eq!(*reason(&pool.delete_snapshot("db").await.unwrap_err()), no_snapshot("db"));
        assert_eq!(*reason(&pool.clone_snapshot("db", "x").await.unwrap_err()), no_snapshot("db"));
        let db = pool.open_volume("db").await.unwrap();
        assert!(matches!(reason(&pool.delete_volume("db").await.unwrap_err()), Reason::SnapshotInUse { .. }));
        db.create_snapshot("of db").await.unwrap();
        drop(db);
        assert!(matches!(reason(&pool.delete_volume("db").await.unwrap_err()), Reason::HasChildren { .. }));
        pool.close().await.unwrap();
        assert_eq!(*reason(&pool.create_volume("late", BLOCK).await.unwrap_err()), Reason::Closed);
        drop(pool);
        let reader = Volume::open(rig.device(), OpenMode::ReadOnly).await.unwrap();
        assert_eq!(*reason(&reader.create_volume("late", BLOCK).await.unwrap_err()), Reason::ReadOnly);
        assert_eq!(all(&reader.open_volume("db").await.unwrap()).await, [0; 4]);
    });
    for options in [linear(64 * BLOCK), small(Backend::Cow), small(Backend::Overlay)] {
        let rig = Rig::new(3, 8 * MIB, CreateOptions { size_bytes: Some(16 * BLOCK), ..options });
        rig.runtime.block_on(async {
            let pool = rig.open(MANUAL).await;
            let refused = pool.create_volume("db", BLOCK).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
            assert!(matches!(reason(&refused), Reason::NoVolumes { .. }), "{refused}");
            assert!(!pool.info().features.contains(&"further volumes"));
        });
    }
}

/// A pool without further volumes has the bytes that it had; with one, a build that does not know them refuses it.
#[test]
fn a_feature_bit_stands_for_them() {
    let rig = rig(4);
    rig.runtime.block_on(async {
        let features = || u64::from_le_bytes(rig.disk.peek(0, 4096)[80..88].try_into().unwrap());
        let pool = rig.open(MANUAL).await;
        write_at(&pool, 0, b'a', Durability::Durable).await.unwrap();
        assert_eq!(features() & FEATURE_VOLUMES, 0);
        pool.create_volume("db", BLOCK).await.unwrap();
        assert_eq!(features() & FEATURE_VOLUMES, FEATURE_VOLUMES);
        assert_eq!(features() & !KNOWN_INCOMPATIBLE, 0);
        let db = pool.open_volume("db").await.unwrap();
        write_at(&db, 0, b'd', Durability::Durable).await.unwrap();
        drop((pool, db));
        rig.disk.cut_power();
        is_sound(&rig).await;
        // The control: where the bit is missing, the check misses it.
        for copy in [0, 512 << 10] {
            let mut bytes = rig.disk.peek(copy, 4096);
            bytes[80..88].copy_from_slice(&(features() & !FEATURE_VOLUMES).to_le_bytes());
            bytes[12..16].fill(0);
            let sum = icecore::format::crc32c(&[&bytes]);
            bytes[12..16].copy_from_slice(&sum.to_le_bytes());
            rig.disk.poke(copy, &bytes);
        }
        let report = icecore::check::check(&rig.device(), &mut |_| {}).await.unwrap();
        assert!(report.damage > 0);
    });
}

/// Making and deleting, cut at each request: it is there or not, and whatever else there is stays.
#[test]
fn a_cut_while_one_is_made_or_deleted_leaves_it_there_or_not() {
    let (mut seen, mut cuts) = ([[0; 2]; 2], 0);
    for (which, is_made) in [true, false].into_iter().enumerate() {
        cuts += cut_at_each_request(|cut_at| {
            let rig = rig(cut_at);
            rig.runtime.block_on(async {
                let pool = rig.open(MANUAL).await;
                pool.create_volume("other", 8 * BLOCK).await.unwrap();
                pool.create_volume("db", 8 * BLOCK).await.unwrap();
                for name in ["other", "db"] {
                    let volume = pool.open_volume(name).await.unwrap();
                    write_at(&volume, 3 * BLOCK, name.as_bytes()[0], Durability::Durable).await.unwrap();
                }
                pool.context().sleep(3_000_000_000).await;
                let work = async {
                    match is_made {
                        true => drop(pool.create_volume("new", 8 * BLOCK).await.unwrap()),
                        false => pool.delete_volume("db").await.unwrap(),
                    }
                    // What it held is let go of in the background.
                    pool.context().sleep(100_000_000).await;
                };
                let ended = rig.run_until(cut_at, work).await;
                let pool = rig.cut_and_open(pool).await;
                let other = pool.open_volume("other").await.unwrap();
                assert_eq!(byte_at(&other, 3 * BLOCK).await.unwrap(), b'o', "cut at {cut_at}");
                let name = if is_made { "new" } else { "db" };
                match pool.open_volume(name).await {
                    Ok(volume) => {
                        let letter = byte_at(&volume, 3 * BLOCK).await.unwrap();
                        assert_eq!(letter, if is_made { 0 } else { b'd' }, "cut at {cut_at}");
                        seen[which][1] += 1;
                    }
                    Err(_) => seen[which][0] += 1,
                }
                // A volume that gets the number of one that is gone is empty.
                pool.create_volume("again", 8 * BLOCK).await.unwrap();
                assert_eq!(all(&pool.open_volume("again").await.unwrap()).await, [0; 8], "cut at {cut_at}");
                ended
            })
        });
    }
    println!("{cuts} cuts; made: {:?}, deleted: {:?} (not there, there)", seen[0], seen[1]);
    assert!(seen.iter().flatten().all(|count| *count > 0), "{seen:?}");
}

const TAKEN: [&str; 3] = ["own", "of a", "of b"];

/// Snapshots of several volumes of one pool, cut at each request: how many of them each cut left.
fn cut_group() -> Vec<usize> {
    let mut counts = Vec::new();
    cut_at_each_request(|cut_at| {
        let rig = rig(6);
        rig.runtime.block_on(async {
            let pool = rig.open(MANUAL).await;
            for name in ["a", "b"] {
                pool.create_volume(name, 4 * BLOCK).await.unwrap();
            }
            let volumes =
                [pool.clone(), pool.open_volume("a").await.unwrap(), pool.open_volume("b").await.unwrap()];
            for volume in &volumes {
                write_at(volume, 0, b'1', Durability::OnFlush).await.unwrap();
            }
            let members: Vec<(Volume, &str)> = volumes.into_iter().zip(TAKEN).collect();
            let taking = async { Volume::create_group(&members).await.unwrap() };
            let ended = rig.run_until(cut_at, taking).await;
            drop(members);
            let pool = rig.cut_and_open(pool).await;
            let found: Vec<&str> = TAKEN.into_iter().filter(|name| pool.snapshot(name).is_ok()).collect();
            for name in &found {
                assert_eq!(shown(&pool, name, 1).await, b"1", "{name}, cut at {cut_at}");
            }
            assert_eq!(
                Volume::incomplete_groups(std::slice::from_ref(&pool)).len(),
                usize::from(!found.len().is_multiple_of(3))
            );
            counts.push(found.len());
            ended
        })
    });
    counts
}

#[test]
fn snapshots_of_several_volumes_of_one_pool_are_there_together_or_not_at_all() {
    let found = cut_group();
    println!("how many snapshots each cut left: {found:?}");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 3]));
}

/// The control: taken one after the other, a cut divides them.
#[test]
fn snapshots_that_are_not_one_record_are_divided_by_a_cut() {
    use icecore::mutation::{Mutation, switch};
    switch(Some(Mutation::GroupOneByOne));
    let found = cut_group();
    switch(None);
    assert!(found.iter().any(|count| [1, 2].contains(count)), "{found:?}");
}

/// What is known of each volume: the letters of its blocks, and those of its snapshots.
#[derive(Clone, Default)]
struct Known {
    blocks: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
}

/// Random operations on a few volumes of a pool that is full enough to be emptied again and again, with cuts and reopenings,
/// against a model.
#[test]
fn random_operations_on_several_volumes_and_cuts() {
    let (mut operations, mut deleted) = (0, 0);
    for seed in 0..40 {
        let made = CreateOptions { retention_bytes: (seed % 2) * 32 * BLOCK, ..options() };
        let rig = Rig::new(seed, 4 * MIB, made);
        let mut random = Random::from_seed(seed);
        rig.runtime.block_on(async {
            let mut pool = rig.open(MANUAL).await;
            let mut known: BTreeMap<String, Known> = BTreeMap::new();
            known.insert(String::new(), Known { blocks: vec![0; OWN_BLOCKS as usize], ..Known::default() });
            let mut names = 0;
            for step in 0..250 {
                operations += 1;
                let place = format!("seed {seed}, step {step}");
                let at = random.below(known.len() as u64) as usize;
                let name = known.keys().nth(at).unwrap().clone();
                let volume = match name.is_empty() {
                    true => pool.clone(),
                    false => pool.open_volume(&name).await.unwrap(),
                };
                let blocks = volume.size_bytes() / BLOCK;
                names += 1;
                match random.below(40) {
                    0 if known.len() < 5 => {
                        let (name, blocks) = (format!("v{names}"), 1 + random.below(80));
                        pool.create_volume(&name, blocks * BLOCK).await.unwrap();
                        known.insert(name, Known { blocks: vec![0; blocks as usize], ..Known::default() });
                    }
                    1 if !name.is_empty() => {
                        drop(volume);
                        let gone = pool.delete_volume(&name).await;
                        assert_eq!(gone.is_ok(), known[&name].snapshots.is_empty(), "{place}: {gone:?}");
                        if gone.is_ok() {
                            known.remove(&name);
                            deleted += 1;
                        }
                    }
                    2 => {
                        // All at once.
                        let mut members = Vec::new();
                        for (name, known) in &mut known {
                            let volume = match name.is_empty() {
                                true => pool.clone(),
                                false => pool.open_volume(name).await.unwrap(),
                            };
                            known.snapshots.insert(format!("{name}/{names}"), known.blocks.clone());
                            members.push((volume, format!("{name}/{names}")));
                        }
                        let members: Vec<_> =
                            members.iter().map(|(one, name)| (one.clone(), name.as_str())).collect();
                        Volume::create_group(&members).await.unwrap();
                    }
                    3..=5 => {
                        let found = known.get_mut(&name).unwrap().snapshots.pop_first();
                        if let Some((snapshot, blocks)) = found {
                            assert_eq!(
                                shown(&pool, &snapshot, blocks.len()).await,
                                blocks,
                                "{place}: {snapshot}"
                            );
                            pool.delete_snapshot(&snapshot).await.unwrap();
                        }
                    }
                    6 => {
                        pool.flush().await.unwrap();
                        drop((volume, pool));
                        rig.disk.cut_power();
                        is_sound(&rig).await;
                        pool = rig.open(MANUAL).await;
                    }
                    7 => {
                        let first = random.below(blocks);
                        let count = 1 + random.below(blocks - first);
                        volume.discard(ByteOffset(first * BLOCK), count * BLOCK).await.unwrap();
                        known.get_mut(&name).unwrap().blocks[first as usize..(first + count) as usize]
                            .fill(0);
                    }
                    _ => {
                        let (block, letter) = (random.below(blocks), 1 + random.below(255) as u8);
                        write_at(&volume, block * BLOCK, letter, Durability::OnFlush).await.unwrap();
                        known.get_mut(&name).unwrap().blocks[block as usize] = letter;
                    }
                }
            }
            for (name, known) in &known {
                let volume = match name.is_empty() {
                    true => pool.clone(),
                    false => pool.open_volume(name).await.unwrap(),
                };
                assert_eq!(all(&volume).await, known.blocks, "seed {seed}: {name:?}");
                let image = volume.image(ImageOptions::default()).await.unwrap();
                assert_eq!(image.size_bytes(), (!name.is_empty()).then_some(volume.size_bytes()));
                for (snapshot, blocks) in &known.snapshots {
                    assert_eq!(
                        shown(&pool, snapshot, blocks.len()).await,
                        *blocks,
                        "seed {seed}: {snapshot:?}"
                    );
                }
            }
            pool.close().await.unwrap();
            drop(pool);
            is_sound(&rig).await;
        });
    }
    println!("{operations} operations, {deleted} volumes deleted");
    assert!(deleted > 10, "{deleted}");
}
