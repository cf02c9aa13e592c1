//! Writable snapshots: the worked example, trees of any depth against a model, what is refused, and cuts at every
//! request of making and deleting one.

use std::collections::BTreeMap;
use std::ops::Range;

use icecore::error::{Error, Kind, Reason};
use icecore::format::crc32c;
use icecore::format::index_page::INHERITED;
use icecore::runtime::Random;
use icecore::store::Backend;
use icecore::store::log::{Image, ImageOptions};
use icecore::units::ByteOffset;
use icecore::volume::{CreateOptions, Durability, Volume};

use crate::vlog::{
    BLOCK, MANUAL, MIB, Rig, byte, current, cut_at_each_request, is_sound, small, write, write_at, write_base,
};

const BACKENDS: [Backend; 4] = [Backend::Log, Backend::Cow, Backend::Overlay, Backend::LoggedCow];
const BLOCKS: u64 = 64;
/// What these small segments take as one entry.
const ENTRY_BLOCKS: u64 = 4;

fn rig(seed: u64, backend: Backend) -> Rig {
    let disk_bytes = if backend.has_base() { 9 * MIB } else { 6 * MIB };
    Rig::new(seed, disk_bytes, CreateOptions { size_bytes: Some(BLOCKS * BLOCK), ..small(backend) })
}

fn letters_of(bytes: &[u8]) -> String {
    let letter = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "a block is of one piece");
        if block[0] == 0 { '.' } else { char::from(block[0]) }
    };
    bytes.chunks_exact(BLOCK as usize).map(letter).collect()
}

async fn read_image(volume: &Volume, image: &Image, blocks: u64) -> String {
    let buf = volume.context().buffers().get((blocks * BLOCK) as usize).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    letters_of(&buf)
}

async fn shown(volume: &Volume, name: &str) -> String {
    read_image(volume, &volume.image_of(name).await.unwrap(), 8).await
}

async fn all_of(volume: &Volume) -> String {
    let mut bytes = vec![0; (BLOCKS * BLOCK) as usize];
    volume.read_bytes(ByteOffset(0), &mut bytes).await.unwrap();
    letters_of(&bytes)
}

fn reason(error: &Error) -> &Reason {
    error.reason()
}

fn named(name: &str) -> String {
    name.to_string()
}

#[test]
fn a_writable_snapshot_and_a_snapshot_of_it_go_their_own_ways() {
    for backend in BACKENDS {
        let rig = rig(1, backend);
        rig.runtime.block_on(async {
            let mut volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            volume.create_snapshot("S").await.unwrap();
            let made = volume.clone_snapshot("S", "W").await.unwrap();
            assert_eq!((made.of.as_deref(), made.writable), (Some("S"), true));
            let w = volume.open_writable("W").await.unwrap();
            assert_eq!(current(&w).await, "abcdefgh");
            write(&w, 1, b'Q').await.unwrap();
            assert_eq!(current(&w).await, "aQcdefgh");
            let taken = w.create_snapshot("W1").await.unwrap();
            assert_eq!(taken.of.as_deref(), Some("W"));
            write(&w, 2, b'R').await.unwrap();
            for (region, letter) in [(0, b'x'), (3, b'z'), (0, b'1')] {
                write(&volume, region, letter).await.unwrap();
            }
            drop(w);
            for crash in [false, true] {
                let w = volume.open_writable("W").await.unwrap();
                assert_eq!(current(&w).await, "aQRdefgh", "{backend:?}");
                assert_eq!(shown(&volume, "W1").await, "aQcdefgh");
                assert_eq!(shown(&w, "S").await, "abcdefgh");
                assert_eq!(current(&volume).await, "1bczefgh");
                // What is a moment is not written, what began as one keeps it.
                let error = volume.open_writable("S").await.unwrap_err();
                assert_eq!(*reason(&error), Reason::SnapshotReadOnly { name: named("S") });
                let error = volume.open_writable("W1").await.unwrap_err();
                assert_eq!(*reason(&error), Reason::SnapshotReadOnly { name: named("W1") });
                for parent in ["S", "W"] {
                    let error = volume.delete_snapshot(parent).await.unwrap_err();
                    assert_eq!(*reason(&error), Reason::HasChildren { name: named(parent) });
                }
                let error = w.rollback(taken.sequence).await.unwrap_err();
                assert_eq!(*reason(&error), Reason::NotOfSnapshots);
                if crash {
                    break;
                }
                drop(w);
                drop(volume);
                rig.disk.cut_power();
                is_sound(&rig).await;
                volume = rig.open(MANUAL).await;
            }
            volume.close().await.unwrap();
            drop(volume);
            is_sound(&rig).await;
        });
    }
}

#[test]
fn one_that_is_open_stays_and_ends_with_its_volume() {
    let rig = rig(2, Backend::Log);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.create_snapshot("S").await.unwrap();
        for error in [
            volume.clone_snapshot("S", "S").await.unwrap_err(),
            volume.create_snapshot("S").await.unwrap_err(),
        ] {
            assert_eq!(*reason(&error), Reason::SnapshotExists { name: named("S") });
        }
        let error = volume.clone_snapshot("T", "W").await.unwrap_err();
        assert_eq!(*reason(&error), Reason::NoSnapshot { name: named("T") });
        volume.clone_snapshot("S", "W").await.unwrap();
        let (w, again) = (volume.open_writable("W").await.unwrap(), volume.open_writable("W").await.unwrap());
        write(&w, 0, b'1').await.unwrap();
        assert_eq!(current(&again).await, "1bcdefgh");
        let error = volume.delete_snapshot("W").await.unwrap_err();
        assert_eq!((reason(&error), error.kind()), (&Reason::SnapshotInUse { name: named("W") }, Kind::Busy));
        drop(again);
        // A write that nobody waits for any more is still one of it.
        let task = volume.context().spawn({
            let w = w.clone();
            async move { write(&w, 1, b'2').await }
        });
        volume.context().sleep(1_000).await;
        task.abort();
        drop(task);
        drop(w);
        volume.delete_snapshot("W").await.unwrap();
        let error = volume.open_writable("W").await.unwrap_err();
        assert_eq!(*reason(&error), Reason::NoSnapshot { name: named("W") });
        volume.clone_snapshot("S", "W").await.unwrap();
        let w = volume.open_writable("W").await.unwrap();
        assert_eq!(current(&w).await, "abcdefgh", "nothing of the one before is seen");
        volume.close().await.unwrap();
        assert_eq!(*reason(&write(&w, 0, b'1').await.unwrap_err()), Reason::Closed);
        drop((volume, w));
        is_sound(&rig).await;
    });
}

#[test]
fn parts_of_blocks_zeroes_and_discards_stay_in_the_branch() {
    for backend in BACKENDS {
        let rig = rig(3, backend);
        rig.runtime.block_on(async {
            let volume = rig.open(MANUAL).await;
            write_base(&volume).await;
            volume.create_snapshot("S").await.unwrap();
            volume.clone_snapshot("S", "W").await.unwrap();
            let w = volume.open_writable("W").await.unwrap();
            w.write_bytes(ByteOffset(4 * BLOCK + 100), &[b'!'; 100], Durability::Durable).await.unwrap();
            let mut block = [0; BLOCK as usize];
            w.read_bytes(ByteOffset(4 * BLOCK), &mut block).await.unwrap();
            let expected = |at: usize| if (100..200).contains(&at) { b'!' } else { b'e' };
            assert!(block.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
            w.discard(ByteOffset(5 * BLOCK), 2 * BLOCK).await.unwrap();
            w.write_zeroes(ByteOffset(0), BLOCK).await.unwrap();
            write(&w, 4, b'E').await.unwrap();
            w.flush().await.unwrap();
            assert_eq!(current(&w).await, ".bcdE..h");
            drop((volume, w));
            rig.disk.cut_power();
            let volume = rig.open(MANUAL).await;
            let w = volume.open_writable("W").await.unwrap();
            assert_eq!(current(&w).await, ".bcdE..h");
            assert_eq!(
                (current(&volume).await.as_str(), shown(&volume, "S").await.as_str()),
                ("abcdefgh", "abcdefgh")
            );
            let moments = [volume.moment_of("S").unwrap(), volume.moment_of("W").unwrap()];
            let changed = volume.difference_between(moments[0], moments[1]).await.unwrap();
            assert_eq!(changed, [0..BLOCK, 4 * BLOCK..7 * BLOCK]);
            volume.close().await.unwrap();
        });
    }
}

/// What a node of the tree shows, and what it began as.
#[derive(Clone, Debug)]
struct Node {
    image: Vec<u8>,
    writable: bool,
    /// The snapshot that a writable one began as; the branch that a snapshot is of.
    parent: Option<String>,
    depth: u32,
}

/// The volume is the node without a name.
struct Model {
    nodes: BTreeMap<String, Node>,
    next: u32,
}

impl Model {
    fn new() -> Self {
        let root = Node { image: vec![b'.'; BLOCKS as usize], writable: true, parent: None, depth: 0 };
        Self { nodes: BTreeMap::from([(String::new(), root)]), next: 0 }
    }

    fn pick(&self, random: &mut Random, writable: bool) -> Option<String> {
        let names: Vec<&String> =
            self.nodes.iter().filter(|(_, node)| node.writable == writable).map(|(name, _)| name).collect();
        // The deepest ones are taken often, so that the tree grows deep.
        let deepest = names.iter().max_by_key(|name| self.nodes[name.as_str()].depth)?;
        let chosen =
            if random.chance(1, 3) { deepest } else { &names[random.below(names.len() as u64) as usize] };
        Some(chosen.to_string())
    }

    fn has_children(&self, name: &str) -> bool {
        self.nodes.values().any(|node| node.parent.as_deref() == Some(name))
    }

    fn add(&mut self, parent: &str, writable: bool) -> String {
        self.next += 1;
        let name = format!("{}{}", if writable { "w" } else { "s" }, self.next);
        let of = &self.nodes[parent];
        let node =
            Node { image: of.image.clone(), writable, parent: Some(named(parent)), depth: of.depth + 1 };
        self.nodes.insert(name.clone(), node);
        name
    }

    fn image(&self, name: &str) -> String {
        self.nodes[name].image.iter().map(|byte| char::from(*byte)).collect()
    }
}

async fn node(volume: &Volume, name: &str) -> Volume {
    if name.is_empty() { volume.clone() } else { volume.open_writable(name).await.unwrap() }
}

async fn compare(volume: &Volume, model: &Model, what: &str) {
    for (name, expected) in &model.nodes {
        let found = match expected.writable {
            true => all_of(&node(volume, name).await).await,
            false => {
                let image = volume.image_of(name).await.unwrap();
                read_image(volume, &image, BLOCKS).await
            }
        };
        assert_eq!(found, model.image(name), "{name:?}, {what}");
    }
}

/// A write of one letter to some blocks of a node.
async fn write_some(volume: &Volume, model: &mut Model, random: &mut Random) -> (String, Range<u64>, u8) {
    let Some(name) = model.pick(random, true) else { unreachable!("the volume is there") };
    let first = random.below(BLOCKS);
    let blocks = first..first + 1 + random.below((BLOCKS - first).min(ENTRY_BLOCKS));
    let letter = b'A' + random.below(26) as u8;
    let target = node(volume, &name).await;
    let (at, bytes) = (ByteOffset(blocks.start * BLOCK), (blocks.end - blocks.start) * BLOCK);
    let letter = match random.below(8) {
        0 => {
            target.discard(at, bytes).await.unwrap();
            b'.'
        }
        1 => {
            target.write_zeroes(at, bytes).await.unwrap();
            b'.'
        }
        _ => {
            let buf = volume.context().buffers().copy_of(&vec![letter; bytes as usize]).unwrap();
            target.write(at, buf, Durability::OnFlush).await.0.unwrap();
            letter
        }
    };
    let image = &mut model.nodes.get_mut(&name).unwrap().image;
    image[blocks.start as usize..blocks.end as usize].fill(letter);
    (name, blocks, letter)
}

fn play(seed: u64, backend: Backend) -> u32 {
    let rig = rig(seed, backend);
    let random = &mut Random::from_seed(seed);
    let mut deepest = 0;
    rig.runtime.block_on(async {
        let mut volume = rig.open(MANUAL).await;
        let mut model = Model::new();
        for step in 0..160 {
            let what = format!("seed {seed}, step {step}, {backend:?}");
            match random.below(20) {
                0..8 => drop(write_some(&volume, &mut model, random).await),
                8..11 if model.nodes.len() < 24 => {
                    let of = model.pick(random, true).unwrap();
                    let name = model.add(&of, false);
                    node(&volume, &of).await.create_snapshot(&name).await.unwrap();
                }
                11..14 if model.nodes.len() < 24 => {
                    if let Some(of) = model.pick(random, false) {
                        let name = model.add(&of, true);
                        volume.clone_snapshot(&of, &name).await.unwrap();
                    }
                }
                14..17 => {
                    let names: Vec<String> =
                        model.nodes.keys().filter(|name| !name.is_empty()).cloned().collect();
                    if !names.is_empty() {
                        let name = &names[random.below(names.len() as u64) as usize];
                        match volume.delete_snapshot(name).await {
                            Ok(()) => {
                                assert!(!model.has_children(name), "{name}, {what}");
                                model.nodes.remove(name);
                            }
                            Err(error) => {
                                assert_eq!(
                                    *reason(&error),
                                    Reason::HasChildren { name: name.clone() },
                                    "{what}"
                                );
                                assert!(model.has_children(name), "{name}, {what}");
                            }
                        }
                    }
                }
                17 => {
                    let names: Vec<&String> = model.nodes.keys().filter(|name| !name.is_empty()).collect();
                    if names.len() > 1 {
                        let pick = |random: &mut Random| names[random.below(names.len() as u64) as usize];
                        let (one, other) = (pick(random), pick(random));
                        let moments = [one, other].map(|name| volume.moment_of(name).unwrap());
                        let changed = volume.difference_between(moments[0], moments[1]).await.unwrap();
                        for block in 0..BLOCKS {
                            let differs = model.nodes[one].image[block as usize]
                                != model.nodes[other].image[block as usize];
                            let told = changed.iter().any(|range| range.contains(&(block * BLOCK)));
                            assert!(told || !differs, "{one} and {other}, block {block}, {what}");
                        }
                        assert!(one != other || changed.is_empty(), "{what}");
                    }
                }
                18 => {
                    // A cut: of what has not been flushed, a log keeps a prefix, over all branches.
                    for name in model.nodes.iter().filter(|(_, node)| node.writable).map(|(name, _)| name) {
                        node(&volume, name).await.flush().await.unwrap();
                    }
                    let mut prefixes = vec![model.nodes.clone()];
                    if backend == Backend::Log {
                        for _ in 0..random.below(12) {
                            write_some(&volume, &mut model, random).await;
                            prefixes.push(model.nodes.clone());
                        }
                    }
                    drop(volume);
                    rig.disk.cut_power();
                    is_sound(&rig).await;
                    volume = rig.open(MANUAL).await;
                    let mut found = BTreeMap::new();
                    for name in model.nodes.iter().filter(|(_, node)| node.writable).map(|(name, _)| name) {
                        found.insert(name.clone(), all_of(&node(&volume, name).await).await.into_bytes());
                    }
                    let is_this = |nodes: &&BTreeMap<String, Node>| {
                        found.iter().all(|(name, image)| nodes[name].image == *image)
                    };
                    let Some(nodes) = prefixes.iter().find(is_this) else { panic!("no prefix, {what}") };
                    model.nodes = nodes.clone();
                    compare(&volume, &model, &what).await;
                }
                19 if random.chance(1, 3) => {
                    volume.close().await.unwrap();
                    drop(volume);
                    is_sound(&rig).await;
                    volume = rig.open(MANUAL).await;
                }
                _ => {}
            }
            deepest = deepest.max(model.nodes.values().map(|node| node.depth).max().unwrap_or(0));
        }
        compare(&volume, &model, "at the end").await;
        // Leaves first, until nothing but the volume is there.
        while model.nodes.len() > 1 {
            let leaf = model
                .nodes
                .keys()
                .find(|name| !name.is_empty() && !model.has_children(name))
                .unwrap()
                .clone();
            volume.delete_snapshot(&leaf).await.unwrap();
            model.nodes.remove(&leaf);
        }
        volume.context().sleep(5_000_000_000).await;
        compare(&volume, &model, "alone").await;
        let written = model.nodes[""].image.iter().filter(|letter| **letter != b'.').count() as u64;
        let live = volume.status().log.unwrap().live_blocks;
        volume.close().await.unwrap();
        drop(volume);
        is_sound(&rig).await;
        match backend {
            Backend::Cow => assert_eq!(live, 0),
            Backend::Log => assert_eq!(live, written),
            _ => assert!(live <= written, "{live} of {written}"),
        }
    });
    deepest
}

#[test]
fn trees_of_snapshots_are_what_the_model_says() {
    let seeds = if std::env::var_os("ICECORE_EVERY_TREE").is_some() { 0..1000 } else { 0..12 };
    for backend in BACKENDS {
        let deepest = seeds.clone().map(|seed| play(seed, backend)).max();
        println!("{backend:?}: {deepest:?} levels at most");
        assert!(deepest >= Some(10), "{backend:?}: ten levels are wanted: {deepest:?}");
    }
}

#[test]
fn a_cut_at_any_request_of_making_or_deleting_one_leaves_it_or_not() {
    for backend in BACKENDS {
        for deletes in [false, true] {
            let cuts = cut_at_each_request(|cut_at| {
                let rig = rig(5, backend);
                rig.runtime.block_on(async {
                    let volume = rig.open(MANUAL).await;
                    write_base(&volume).await;
                    volume.create_snapshot("S").await.unwrap();
                    write(&volume, 0, b'x').await.unwrap();
                    volume.clone_snapshot("S", "V").await.unwrap();
                    let v = volume.open_writable("V").await.unwrap();
                    for region in 1..40 {
                        write_at(&v, region * BLOCK, b'V', Durability::OnFlush).await.unwrap();
                    }
                    v.close().await.unwrap();
                    drop(v);
                    let changing = async {
                        match deletes {
                            true => volume.delete_snapshot("V").await.unwrap(),
                            false => drop(volume.clone_snapshot("S", "W").await.unwrap()),
                        }
                        // And what follows from it in the background.
                        volume.context().sleep(100_000_000).await;
                    };
                    let ended = rig.run_until(cut_at, changing).await;
                    let volume = rig.cut_and_open(volume).await;
                    let names: Vec<String> = volume.snapshots().into_iter().map(|one| one.name).collect();
                    assert!(deletes || names.contains(&named("V")), "{names:?}");
                    assert!(!ended || names.contains(&named("V")) != deletes, "{names:?}");
                    assert!(!ended || names.contains(&named("W")) != deletes, "{names:?}");
                    assert_eq!(
                        (shown(&volume, "S").await.as_str(), current(&volume).await.as_str()),
                        ("abcdefgh", "xbcdefgh")
                    );
                    if names.contains(&named("V")) {
                        let v = volume.open_writable("V").await.unwrap();
                        assert_eq!(current(&v).await, "aVVVVVVV");
                    }
                    if names.contains(&named("W")) {
                        let w = volume.open_writable("W").await.unwrap();
                        assert_eq!(current(&w).await, "abcdefgh");
                        w.close().await.unwrap();
                        drop(w);
                        volume.delete_snapshot("W").await.unwrap();
                    }
                    if names.contains(&named("V")) {
                        volume.delete_snapshot("V").await.unwrap();
                    }
                    volume.delete_snapshot("S").await.unwrap();
                    volume.context().sleep(3_000_000_000).await;
                    let live = volume.status().log.unwrap().live_blocks;
                    assert!(live <= 8, "{live} blocks live");
                    volume.close().await.unwrap();
                    drop(volume);
                    is_sound(&rig).await;
                    ended
                })
            });
            println!("{backend:?}, deleting {deletes}: {cuts} cuts");
        }
    }
}

#[test]
fn as_many_levels_as_there_may_be_are_read_and_one_more_is_refused() {
    let room =
        CreateOptions { snapshots_max: Some(1000), size_bytes: Some(BLOCKS * BLOCK), ..small(Backend::Log) };
    let rig = Rig::new(77, 16 * MIB, room);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        let mut above = volume.clone();
        for level in 0..256_u64 {
            above.create_snapshot(&format!("s{level}")).await.unwrap();
            volume.clone_snapshot(&format!("s{level}"), &format!("b{level}")).await.unwrap();
            above = volume.open_writable(&format!("b{level}")).await.unwrap();
            if level % 64 == 7 {
                write(&above, 1 + level / 64, b'B').await.unwrap();
            }
        }
        above.create_snapshot("last").await.unwrap();
        let deep = volume.clone_snapshot("last", "one more").await.unwrap_err();
        assert!(matches!(deep.reason(), Reason::TooDeep { limit: 256, .. }), "{deep}");
        assert_eq!(current(&above).await, "aBBBBfgh");
        drop(above);
        let volume = rig.cut_and_open(volume).await;
        let deepest = volume.open_writable("b255").await.unwrap();
        assert_eq!(current(&deepest).await, "aBBBBfgh");
        assert_eq!(shown(&volume, "last").await, "aBBBBfgh");
        assert_eq!(shown(&volume, "s8").await, "aBcdefgh");
    });
}

/// Every seal holds and what is said cannot be: nothing is read, and nothing panics.
#[test]
fn a_block_of_no_branch_that_inherits_is_damaged() {
    let rig = rig(78, Backend::Log);
    rig.runtime.block_on(async {
        let volume = rig.open(MANUAL).await;
        write_base(&volume).await;
        volume.close().await.unwrap();
        drop(volume);
        let is_page = |at: &u64| {
            let head = rig.disk.peek(*at, 40);
            head.starts_with(b"ICEINDEX") && head[36..] == [1, 0, 0, 0]
        };
        let at = (MIB..6 * MIB).step_by(4096).find(is_page).unwrap();
        let mut page = rig.disk.peek(at, 4096);
        // The first entry is block 0's.
        assert_eq!(page[64..72], [0; 8]);
        page[84..88].copy_from_slice(&INHERITED.to_le_bytes());
        page[12..16].fill(0);
        let sum = crc32c(&[&page]);
        page[12..16].copy_from_slice(&sum.to_le_bytes());
        rig.disk.poke(at, &page);
        let volume = rig.open(MANUAL).await;
        let refused = byte(&volume, 0).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::BlockDamaged { .. }), "{refused}");
        assert_eq!(byte(&volume, 1).await.unwrap(), b'b');
        let image = volume.image(ImageOptions::default()).await.unwrap();
        let buf = volume.context().buffers().get(BLOCK as usize).unwrap();
        let refused = image.read(ByteOffset(0), buf).await.0.unwrap_err();
        assert!(matches!(refused.reason(), Reason::BlockDamaged { .. }), "{refused}");
    });
}
