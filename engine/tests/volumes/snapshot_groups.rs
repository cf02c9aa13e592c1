//! Snapshots of several volumes at one write boundary: they show one instant of all of them; a cut of all devices, or a
//! member that fails, leaves each of them there or not, and what is left of a group is told; who holds volumes for a group
//! and dies holds nobody up.
//!
//! A writer gives every volume the same number, one volume after the other, and then the next number: at one instant the
//! numbers fall from the first volume to the last, by one at most.

use std::cell::Cell;
use std::rc::Rc;

use icecore::check::{Code, check};
use icecore::device::simulated::{Fault, SimulatedDisk};
use icecore::error::{Kind, Reason};
use icecore::export::control::{Answer, Request, perform};
use icecore::object::ObjectKind;
use icecore::runtime::sim::Calendar;
use icecore::runtime::{Context, OperationKind, Random, Runtime, join_all};
use icecore::store::Backend;
use icecore::store::log::SnapshotGroup;
use icecore::units::ByteOffset;
use icecore::volume::{
    CreateOptions, Durability, HOLD_NS_MAX, LockTime, OpenMode, Volume, incomplete_groups,
};

use crate::apart;
use crate::vlog::{Kept, cut_at_each_request, run_until};

const BLOCK: usize = 4096;
const BLOCKS: usize = 16;
const ROUNDS: u64 = 60;
const GROUPS: u64 = 8;
const SEEDS: u64 = 12;
const LOG: Kept = (Backend::Log, ObjectKind::Mapped);
const COW: Kept = (Backend::Cow, ObjectKind::Mapped);
const OVERLAY: Kept = (Backend::Overlay, ObjectKind::Mapped);
const LOGGED_COW: Kept = (Backend::LoggedCow, ObjectKind::Mapped);
const LINEAR_COW: Kept = (Backend::Cow, ObjectKind::Linear);
const LINEAR_OVERLAY: Kept = (Backend::Overlay, ObjectKind::Linear);
/// Where the members lie: pools of these backends, and a writable snapshot of the first one.
const MIXES: [&[Kept]; 7] = [
    &[LOG, LOG, LOG],
    &[LOG, COW, OVERLAY],
    &[OVERLAY, COW],
    &[LINEAR_OVERLAY, LINEAR_COW],
    &[COW],
    &[LINEAR_COW],
    &[LOGGED_COW, OVERLAY],
];

/// Pools, each on its disk.
struct Rig {
    runtime: Runtime,
    disks: Vec<SimulatedDisk>,
}

fn disk(calendar: &Calendar, seed: u64, at: usize) -> SimulatedDisk {
    SimulatedDisk::new(calendar, seed + at as u64, &format!("disk {at}"), 16 << 20, BLOCK as u32)
}

impl Rig {
    fn new(seed: u64, backends: &[Kept]) -> Self {
        let (runtime, calendar) = Runtime::simulated(seed).unwrap();
        let disks: Vec<_> = (0..backends.len()).map(|at| disk(&calendar, seed, at)).collect();
        let context = runtime.context().clone();
        runtime.block_on(async {
            for (disk, (backend, objects)) in disks.iter().zip(backends) {
                let options = CreateOptions {
                    objects: *objects,
                    size_bytes: Some((BLOCKS * BLOCK) as u64),
                    block_bytes: Some(BLOCK as u32),
                    region_bytes: BLOCK as u32,
                    segment_bytes: Some(16 * BLOCK as u32),
                    ..CreateOptions::new(*backend)
                };
                Volume::create(&disk.open(&context).unwrap(), options).await.unwrap();
            }
        });
        Self { runtime, disks }
    }

    fn context(&self) -> Context {
        self.runtime.context().clone()
    }

    /// The pools' own volumes.
    async fn open(&self) -> Vec<Volume> {
        let mut volumes = Vec::new();
        for disk in &self.disks {
            let device = disk.open(self.runtime.context()).unwrap();
            volumes.push(Volume::open(device, OpenMode::ReadWrite).await.unwrap());
        }
        volumes
    }

    fn requests(&self) -> u64 {
        self.disks.iter().map(SimulatedDisk::requests).sum()
    }

    fn cut_power(&self) {
        self.disks.iter().for_each(SimulatedDisk::cut_power);
    }

    async fn is_sound(&self) {
        self.runtime.context().sleep(50_000_000).await;
        for disk in &self.disks {
            let device = disk.open(self.runtime.context()).unwrap();
            let mut findings = check(&device, &mut |_| {}).await.unwrap().findings;
            findings.retain(|finding| finding.code != Code::SuperblockCopy);
            assert!(findings.is_empty(), "{findings:#?}");
        }
    }
}

/// Everything that can be a member: the pools' own volumes, and a writable snapshot of the first.
async fn members_of(pools: &[Volume]) -> Vec<Volume> {
    if pools[0].snapshot("tree").is_err() {
        pools[0].create_snapshot("root").await.unwrap();
        pools[0].clone_snapshot("root", "tree").await.unwrap();
    }
    let tree = pools[0].open_writable("tree").await.unwrap();
    [pools, &[tree]].concat()
}

async fn write(volume: &Volume, block: usize, number: u64, durability: Durability) {
    let bytes = number.to_le_bytes().repeat(BLOCK / 8);
    let buf = volume.context().buffers().copy_of(&bytes).unwrap();
    volume.write(ByteOffset((block * BLOCK) as u64), buf, durability).await.0.unwrap();
}

/// The number that a snapshot shows.
async fn number(volume: &Volume, name: &str) -> u64 {
    let image = volume.image_of(name).await.unwrap();
    let buf = volume.context().buffers().get(BLOCK).unwrap();
    let (result, buf) = image.read(ByteOffset(0), buf).await;
    result.unwrap();
    u64::from_le_bytes(buf[..8].try_into().unwrap())
}

fn named<'a>(volumes: &[Volume], names: &'a [String]) -> Vec<(Volume, &'a str)> {
    volumes.iter().cloned().zip(names.iter().map(String::as_str)).collect()
}

fn names(volumes: &[Volume], group: u64) -> Vec<String> {
    (0..volumes.len()).map(|at| format!("group {group}, {at}")).collect()
}

/// What is wrong with a group of one play, if anything is, and how many numbers its groups show.
fn play(backends: &[Kept], seed: u64) -> (Option<String>, usize) {
    let rig = Rig::new(seed, backends);
    let context = rig.context();
    rig.runtime.block_on(async {
        let volumes = members_of(&rig.open().await).await;
        let done = Rc::new(Cell::new(0));
        let mut writers = Vec::new();
        {
            let (volumes, done, mut random) = (volumes.clone(), Rc::clone(&done), Random::from_seed(seed));
            writers.push(context.spawn(async move {
                for round in 1..=ROUNDS {
                    for volume in &volumes {
                        let durable = random.chance(1, 3);
                        let durability = if durable { Durability::Durable } else { Durability::OnFlush };
                        write(volume, 0, round, durability).await;
                        volume.context().sleep(random.below(60_000)).await;
                    }
                    done.set(round);
                }
            }));
        }
        // Others keep the devices busy.
        for (at, volume) in volumes.iter().enumerate() {
            let (volume, mut random) = (volume.clone(), Random::from_seed(seed * 31 + at as u64));
            writers.push(context.spawn(async move {
                for round in 0..ROUNDS {
                    write(&volume, 1 + random.below(BLOCKS as u64 - 1) as usize, round, Durability::OnFlush)
                        .await;
                    volume.context().sleep(random.below(100_000)).await;
                }
            }));
        }
        let (mut random, mut seen) = (Random::from_seed(!seed), Vec::new());
        for group in 0..GROUPS {
            context.sleep(random.below(1_500_000)).await;
            let before = done.get();
            let names = names(&volumes, group);
            let members = named(&volumes, &names);
            // Two at once must not wait for each other, whichever order they are given in.
            if group.is_multiple_of(3) {
                let others: Vec<String> = names.iter().map(|name| format!("{name}, too")).collect();
                let mut reversed = named(&volumes, &others);
                reversed.reverse();
                let both = join_all([&members, &reversed].map(|members| Volume::create_group(members))).await;
                both.into_iter().for_each(|taken| drop(taken.unwrap()));
            } else {
                let taken = Volume::create_group(&members).await.unwrap();
                let group = taken[0].group.unwrap();
                assert_eq!(group.members as usize, volumes.len());
                assert!(
                    taken.iter().zip(&names).all(|(one, name)| one.group == Some(group) && one.name == *name)
                );
            }
            seen.push((names, before));
        }
        for writer in writers {
            writer.await;
        }
        assert_eq!(Volume::incomplete_groups(&volumes), []);
        let mut all = Vec::new();
        for (names, before) in seen {
            let mut shown = Vec::new();
            for (volume, name) in volumes.iter().zip(&names) {
                shown.push(number(volume, name).await);
            }
            let falls = shown.is_sorted_by(|one, next| one >= next);
            if !falls || shown[0] - shown[shown.len() - 1] > 1 || shown[shown.len() - 1] < before {
                return (Some(format!("{backends:?}, seed {seed}: {shown:?}, {before} had completed")), 0);
            }
            all.extend(shown);
        }
        all.sort_unstable();
        all.dedup();
        for volume in &volumes[..rig.disks.len()] {
            volume.close().await.unwrap();
        }
        drop(volumes);
        rig.is_sound().await;
        (None, all.len())
    })
}

#[test]
fn a_group_shows_one_instant_of_all_its_volumes() {
    for backends in MIXES {
        let mut shown = 0;
        for seed in 0..SEEDS {
            let (wrong, numbers) = play(backends, seed);
            assert_eq!(wrong, None);
            shown += numbers;
        }
        println!("{backends:?}: {SEEDS} plays, {} groups, {shown} different numbers", SEEDS * GROUPS);
        assert!(shown as u64 > SEEDS * 4, "{shown}");
    }
}

/// The control.
#[test]
fn snapshots_taken_one_after_the_other_are_noticed() {
    use icecore::mutation::{Mutation, switch};
    // A single pool takes all in one record, whatever is planted.
    for backends in MIXES.into_iter().filter(|backends| backends.len() > 1) {
        switch(Some(Mutation::GroupOneByOne));
        let found = (0..SEEDS).find_map(|seed| play(backends, seed).0);
        switch(None);
        println!("{found:?}");
        assert!(found.is_some(), "{backends:?}");
    }
}

/// Takes a group, and cuts all power at one request of that. Whether it had ended, and whether none, some, or all of its
/// snapshots are there.
fn cut_short(backends: &[Kept], seed: u64, cut_at: u64) -> (bool, usize) {
    let rig = Rig::new(seed, backends);
    rig.runtime.block_on(async {
        let pools = rig.open().await;
        let volumes = members_of(&pools).await;
        for (at, volume) in volumes.iter().enumerate() {
            write(volume, 0, 7 + at as u64, Durability::OnFlush).await;
        }
        let names = names(&volumes, 0);
        let taking = async { Volume::create_group(&named(&volumes, &names)).await.unwrap() };
        let ended = run_until(&rig.context(), || rig.requests(), cut_at, taking).await;
        drop((pools, volumes));
        rig.cut_power();
        rig.is_sound().await;
        let pools = rig.open().await;
        let volumes = members_of(&pools).await;
        let mut found = Vec::new();
        for (at, (volume, name)) in volumes.iter().zip(&names).enumerate() {
            if volume.snapshot(name).is_ok() {
                assert_eq!(number(volume, name).await, 7 + at as u64, "cut at {cut_at}");
                found.push(name.clone());
            }
        }
        // The first pool's own volume and its writable snapshot are one record's.
        let [first, last] = [&names[0], &names[names.len() - 1]].map(|name| found.contains(name));
        assert_eq!(first, last, "cut at {cut_at}: {found:?}");
        assert!(!ended || found.len() == names.len(), "what was answered is there");
        let told = Volume::incomplete_groups(&volumes);
        if found.is_empty() || found.len() == names.len() {
            assert_eq!(told, []);
        } else {
            let mut one = told[0].found.clone();
            one.sort();
            assert_eq!((told.len(), one), (1, found.clone()), "cut at {cut_at}");
            assert_eq!(told[0].group.members as usize, names.len());
            // Whoever sees only a part of the pools is told as well, and not once the rest is gone.
            for (volume, name) in volumes.iter().zip(&names).filter(|(_, name)| found.contains(name)) {
                assert_eq!(Volume::incomplete_groups(&volumes).len(), 1);
                volume.delete_snapshot(name).await.unwrap();
            }
            assert_eq!(Volume::incomplete_groups(&volumes), []);
        }
        (ended, if found.is_empty() { 0 } else { 1 + usize::from(found.len() == names.len()) })
    })
}

#[test]
fn a_cut_of_all_devices_leaves_each_there_or_not_and_what_is_left_is_told() {
    for backends in MIXES {
        let (mut counts, mut cuts) = ([0; 3], 0);
        for seed in 0..6 {
            cuts += cut_at_each_request(|cut_at| {
                let (ended, found) = cut_short(backends, seed, cut_at);
                counts[found] += 1;
                ended
            });
        }
        let [none, some, all] = counts;
        println!("{backends:?}: {cuts} cuts: {none} with none, {some} with some, {all} with all");
        assert!(none > 5 && all > 0 && (some > 0) == (backends.len() > 1), "{counts:?}");
    }
}

#[test]
fn a_member_that_fails_takes_the_others_back() {
    let rig = Rig::new(3, MIXES[1]);
    rig.runtime.block_on(async {
        let pools = rig.open().await;
        let volumes = members_of(&pools).await;
        let taken = names(&volumes, 0);
        Volume::create_group(&named(&volumes, &taken)).await.unwrap();
        let before: Vec<_> = pools.iter().map(|pool| pool.snapshots()).collect();
        // What is refused before anything is done.
        let wrong = |error: icecore::error::Error| error.reason().clone();
        let twice = [(volumes[0].clone(), "x"), (volumes[1].clone(), "y"), (volumes[0].clone(), "z")];
        let refused = wrong(Volume::create_group(&twice).await.unwrap_err());
        assert!(matches!(refused, Reason::InvalidSetting { name: "volume of a group", .. }), "{refused:?}");
        let mut late = names(&volumes, 1);
        late[2] = taken[2].clone();
        let refused = wrong(Volume::create_group(&named(&volumes, &late)).await.unwrap_err());
        assert_eq!(refused, Reason::SnapshotExists { name: taken[2].clone() });
        let one_name = vec!["same".to_string(); volumes.len()];
        let refused = wrong(Volume::create_group(&named(&volumes, &one_name)).await.unwrap_err());
        assert_eq!(refused, Reason::SnapshotExists { name: "same".to_string() }, "two lie in one pool");
        assert_eq!(pools.iter().map(|pool| pool.snapshots()).collect::<Vec<_>>(), before);
        // And what fails when some have been taken: the last pool's record.
        let names = names(&volumes, 2);
        let fails = |request: icecore::device::simulated::Request, _: &mut Random| {
            let is_record =
                matches!(request.kind, OperationKind::Write { .. }) && request.length == BLOCK as u64;
            is_record.then_some(Fault::Fail(libc::EIO))
        };
        rig.disks[2].set_plan(Box::new(fails));
        let error = Volume::create_group(&named(&volumes, &names)).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::DeviceFailed | Kind::Reopen), "{error}");
        for (pool, before) in pools.iter().zip(&before).take(2) {
            assert_eq!(pool.snapshots(), *before);
        }
        rig.disks[2].set_plan(Box::new(|_, _| None));
        drop((pools, volumes));
        rig.cut_power();
        let pools = rig.open().await;
        let volumes = members_of(&pools).await;
        // Whether the last one was taken nobody knew then; if it was, it is told.
        let there = pools[2].snapshot(&names[2]).is_ok();
        assert_eq!(Volume::incomplete_groups(&volumes).len(), usize::from(there));
        drop((pools, volumes));
        rig.cut_power();
        rig.is_sound().await;
    });
}

#[test]
fn a_hold_for_another_process_ends_by_itself() {
    let rig = Rig::new(5, MIXES[1]);
    rig.runtime.block_on(async {
        let context = rig.context();
        let pools = rig.open().await;
        let tree = members_of(&pools).await.pop().unwrap();
        let group = |id: u8| SnapshotGroup { id: [id; 16], members: 4 };
        let own = |name: &str| (None, name.to_string());
        let hold = |id: u8, members| Request::Hold { group: group(id), members };
        let members = vec![own("a"), (Some("tree".to_string()), "t".to_string())];
        assert_eq!(perform(&pools[0], &hold(1, members)).await.unwrap(), Answer::Held);
        // Both are held; a name takes the moment before what waits.
        let waiting: Vec<_> = [&pools[0], &tree]
            .map(|volume| {
                let volume = volume.clone();
                context.spawn(async move { write(&volume, 0, 99, Durability::OnFlush).await })
            })
            .into_iter()
            .collect();
        context.sleep(HOLD_NS_MAX / 2).await;
        assert!(waiting.iter().all(|task| !task.has_ended()), "writers wait");
        let Answer::Named(named) = perform(&pools[0], &Request::NameHeld([1; 16])).await.unwrap() else {
            panic!("it names them")
        };
        assert!(named.iter().all(|one| one.group == Some(group(1))) && named.len() == 2);
        for task in waiting {
            task.await;
        }
        assert_eq!([number(&pools[0], "a").await, number(&tree, "t").await], [0, 0]);
        // Nobody says what for.
        assert_eq!(perform(&pools[0], &hold(2, vec![own("b")])).await.unwrap(), Answer::Held);
        let began = context.now().0;
        write(&pools[0], 0, 100, Durability::OnFlush).await;
        let waited = context.now().0 - began;
        assert!((HOLD_NS_MAX / 2..HOLD_NS_MAX + 1_000_000_000).contains(&waited), "{waited}");
        let late = perform(&pools[0], &Request::NameHeld([2; 16])).await.unwrap_err();
        assert_eq!((late.kind(), late.reason().name().as_str()), (Kind::Retry, "HoldEnded"));
        // Somebody lets go, and a volume that is closed does.
        perform(&pools[0], &hold(3, vec![own("b")])).await.unwrap();
        perform(&pools[0], &Request::LetGo([3; 16])).await.unwrap();
        write(&pools[0], 0, 101, Durability::OnFlush).await;
        perform(&pools[0], &hold(4, vec![own("b")])).await.unwrap();
        let began = context.now().0;
        pools[0].close().await.unwrap();
        assert!(context.now().0 - began < HOLD_NS_MAX / 4);
        // What was named without the rest of its group is told.
        let listed: Vec<_> = pools.iter().flat_map(|pool| pool.snapshots()).collect();
        let short = incomplete_groups(&listed);
        assert_eq!((short.len(), short[0].found.len(), short[0].group), (1, 2, group(1)));
        drop((pools, tree));
    });
    rig.runtime.block_on(rig.is_sound());
}

/// Two that begin to use a feature at once: the superblock has both.
#[test]
fn features_that_are_used_first_at_once_are_both_noted() {
    for seed in 0..8 {
        let rig = Rig::new(seed, &[LOG]);
        rig.runtime.block_on(async {
            let pools = rig.open().await;
            pools[0].create_snapshot("one").await.unwrap();
            let context = rig.context();
            let [locker, cloner] = [pools[0].clone(), pools[0].clone()];
            let locking = context
                .spawn(async move { drop(locker.lock_snapshot("one", LockTime::Held).await.unwrap()) });
            let cloning =
                context.spawn(async move { drop(cloner.clone_snapshot("one", "tree").await.unwrap()) });
            locking.await;
            cloning.await;
            drop(pools);
            rig.cut_power();
            rig.is_sound().await;
            let features = rig.open().await[0].info().features;
            assert!(
                features.contains(&"snapshot locks") && features.contains(&"writable snapshots"),
                "{features:?}"
            );
        });
    }
}

/// A base on a device of its own is flushed, though the first member is a writable snapshot, which knows nothing of that.
#[test]
fn what_lies_on_a_device_of_its_own_is_durable_whichever_member_comes_first() {
    for (seed, objects) in (0..24).zip(ObjectKind::ALL.into_iter().cycle()) {
        let size_bytes = Some((BLOCKS * BLOCK) as u64);
        let rig =
            apart::Rig::with(seed, CreateOptions { size_bytes, objects, ..apart::options(Backend::Cow) });
        rig.runtime.block_on(async {
            let pool = rig.open().await;
            let tree = members_of(std::slice::from_ref(&pool)).await.pop().unwrap();
            // Saved, and then overwritten in place.
            write(&pool, 0, 7, Durability::OnFlush).await;
            Volume::create_group(&[(tree.clone(), "of tree"), (pool.clone(), "of pool")]).await.unwrap();
            drop((pool, tree));
            rig.cut_power();
            let pool = rig.open().await;
            assert_eq!(
                [number(&pool, "of pool").await, number(&pool, "of tree").await],
                [7, 0],
                "seed {seed}, {objects:?}"
            );
        });
    }
}
