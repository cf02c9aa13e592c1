//! Every single-field mutation of every record, its checksum made right again: the checker tells of each, but for
//! those that `docs/FORMATS.md` lists under "What a check cannot see". That list is exact both ways.
//!
//! The fields come from the layout tables of the code, so that none is forgotten.

mod tables;
mod targets;
mod unreadable;
mod volumes;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use icecore::check::{Beside, Report, check_on};
use icecore::device::simulated::SimulatedDisk;
use icecore::error::{Error, Reason};
use icecore::store::Backend;
use targets::{Fields, Seal, Target, reseal};
use volumes::{Made, Of};

/// Other values for a field.
fn values(old: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    if old.len() <= 8 {
        let mut wide = [0; 8];
        wide[..old.len()].copy_from_slice(old);
        let value = u64::from_le_bytes(wide);
        let top = 1 << (old.len() * 8 - 1);
        let new = [value.wrapping_add(1), value.wrapping_sub(1), 0, u64::MAX, value ^ 2, value ^ top];
        values.extend(new.map(|new| new.to_le_bytes()[..old.len()].to_vec()));
    } else {
        let mut first = old.to_vec();
        first[0] ^= 1;
        let mut last = old.to_vec();
        *last.last_mut().unwrap() ^= 0x80;
        values.extend([first, last, vec![0; old.len()], vec![0xFF; old.len()]]);
    }
    values.retain(|new| new != old);
    values.sort();
    values.dedup();
    values
}

/// What has been tried and what went unseen, by record and field.
#[derive(Default)]
struct Tried {
    mutations: u64,
    tables: BTreeSet<&'static str>,
    fields: BTreeSet<(String, String)>,
    unseen: BTreeMap<(String, String), Vec<String>>,
}

/// What a check says; that it is no volume which this build can judge, only where its superblock was changed.
fn checked(made: &Made, may_refuse: bool) -> Option<Report> {
    let context = made.runtime.context();
    let open = |disk: &SimulatedDisk| disk.open(context).unwrap();
    let pool = open(made.pool.as_ref().unwrap_or(&made.disk));
    let (volume, objects) = (made.volume.as_ref().map(open), made.objects.as_ref().map(open));
    let beside = Beside { volume: volume.as_ref(), objects: objects.as_ref() };
    match made.runtime.block_on(async { check_on(&pool, beside, &mut |_| ()).await }) {
        Ok(report) => Some(report),
        Err(error) if may_refuse && is_refusal(&error) => None,
        Err(error) => panic!("{}: {error}", made.name),
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error.reason(),
        Reason::NoSuperblock
            | Reason::UnknownVersion { .. }
            | Reason::UnknownFeatures { .. }
            | Reason::UnknownBackend { .. }
            | Reason::DeviceMissing { .. }
            | Reason::WrongDevice { .. }
            | Reason::InvalidSetting { name: "volume device" | "objects device", .. }
    )
}

/// Puts changed sectors on the disk.
fn put(made: &Made, from: &[u8], to: &[u8]) {
    for ((old, new), at) in from.chunks(4096).zip(to.chunks(4096)).zip((0..).step_by(4096)) {
        if old != new {
            made.disk.poke(at, new);
        }
    }
}

fn mutate(made: &Made, targets: &[Target], tried: &mut Tried) {
    let tables = tables::tables();
    let original = made.disk.peek(0, made.device_bytes as usize);
    let report = checked(made, false).unwrap();
    assert_eq!(report.findings, [], "{}", made.name);
    let mut changed = original.clone();
    for target in targets {
        let one;
        let fields = match &target.fields {
            Fields::Table(name) => {
                tried.tables.insert(name);
                &tables[*name]
            }
            Fields::One(name, bytes) => {
                one = vec![(0, *bytes, (*name).to_string())];
                &one
            }
        };
        for (offset, length, field) in fields {
            // The seal itself is what is made right again.
            if field == "checksum" && *offset == 12 {
                continue;
            }
            let key = (target.record.clone(), field.clone());
            tried.fields.insert(key.clone());
            let at = target.at as usize + offset;
            for new in values(&original[at..at + length]) {
                let touched = apply(&mut changed, target, at, &new);
                let pages: Vec<(usize, Vec<u8>)> =
                    touched.iter().map(|page| (*page, changed[*page..page + 4096].to_vec())).collect();
                pages.iter().for_each(|(page, bytes)| made.disk.poke(*page as u64, bytes));
                tried.mutations += 1;
                if checked(made, target.is_superblock()).is_some_and(|report| report.damage == 0) {
                    let text = format!(
                        "{}: {:?} at {at}: {:?} for {:?}",
                        made.name,
                        target.seal,
                        new,
                        &original[at..at + length]
                    );
                    tried.unseen.entry(key.clone()).or_default().push(text);
                }
                for page in touched {
                    changed[page..page + 4096].copy_from_slice(&original[page..page + 4096]);
                    made.disk.poke(page as u64, &original[page..page + 4096]);
                }
            }
        }
    }
    put(made, &changed, &original);
    assert_eq!(changed, original);
}

/// Changes a field, seals its record, and tells which pages of the disk have changed.
fn apply(bytes: &mut [u8], target: &Target, at: usize, new: &[u8]) -> Vec<usize> {
    bytes[at..at + new.len()].copy_from_slice(new);
    let mut touched = vec![at, at + new.len() - 1];
    match target.seal {
        Seal::Fixed(seal, _) | Seal::Record(seal, _) | Seal::Batch(seal, _) => touched.push(seal as usize),
        Seal::Image(_, _, root) => touched.push(root as usize),
        Seal::Superblocks => {
            let other = at + (512 << 10);
            bytes[other..other + new.len()].copy_from_slice(new);
            touched.extend([other, 0, 512 << 10]);
        }
    }
    reseal(bytes, target.seal);
    touched.iter_mut().for_each(|at| *at -= *at % 4096);
    touched.sort_unstable();
    touched.dedup();
    touched
}

/// Both copies of a superblock changed alike.
fn superblock_alike(record: &str) -> Vec<Target> {
    let at = |at, table| Target {
        record: record.into(),
        fields: Fields::Table(table),
        at,
        seal: Seal::Superblocks,
    };
    vec![at(0, "Superblock")]
}

#[test]
fn every_mutation_is_seen_but_those_that_the_document_lists() {
    let mut tried = Tried::default();
    let direct = volumes::direct();
    mutate(&direct, &targets::of_superblocks(), &mut tried);
    mutate(
        &direct,
        &superblock_alike("Superblock of `direct`, both copies alike".replace('`', "").as_str()),
        &mut tried,
    );
    let made = [
        (volumes::kept(), "log"),
        (volumes::emptied(), "log"),
        (volumes::returned(true), "log"),
        (volumes::returned(false), "log"),
        (volumes::linear(), "linear"),
        (volumes::with_base(Backend::Cow), "cow"),
        (volumes::with_base(Backend::Overlay), "overlay"),
        (volumes::with_base(Backend::LoggedCow), "logged-cow"),
        (volumes::with_objects(Backend::Cow), "cow"),
        (volumes::with_objects(Backend::Overlay), "overlay"),
        (volumes::with_objects(Backend::LoggedCow), "logged-cow"),
    ];
    for (made, backend) in made {
        let bytes = made.disk.peek(0, made.device_bytes as usize);
        mutate(&made, &targets::of_log(&made, &bytes), &mut tried);
        let record = format!("Superblock of {backend}, both copies alike");
        mutate(&made, &superblock_alike(&record), &mut tried);
    }
    for (backend, name) in [(Backend::Linear, "linear"), (Backend::Cow, "cow"), (Backend::Overlay, "overlay")]
    {
        for (has_objects, of) in [
            (false, Of::Pool),
            (false, Of::Volume),
            (true, Of::Pool),
            (true, Of::Volume),
            (true, Of::Objects),
        ] {
            if has_objects && backend == Backend::Linear {
                continue;
            }
            let made = volumes::apart(backend, has_objects, of);
            mutate(&made, &targets::of_superblocks(), &mut tried);
            let of = match of {
                Of::Pool => name,
                Of::Volume => "the device of a volume",
                Of::Objects => "the device of objects",
            };
            let record = format!("Superblock of {of}, both copies alike");
            mutate(&made, &superblock_alike(&record), &mut tried);
        }
    }
    println!("{} mutations of {} fields", tried.mutations, tried.fields.len());
    let all: BTreeSet<&str> = tables::tables().keys().map(|name| &*name.clone().leak()).collect();
    assert_eq!(tried.tables.iter().copied().collect::<BTreeSet<&str>>(), all, "every table has been tried");
    for kind in [
        "watermark",
        "window",
        "row removed",
        "run removed",
        "Dead",
        "Row",
        "Row of an extent",
        "Run",
        "Lease, further on",
        "Applied",
        "accepted",
        "IndexEntry, at home",
        "Rollback",
        "BatchEntry, rollback",
        "Snapshot",
        "snapshot removed",
        "IndexEntry, in the base",
        "BatchEntry, saved",
        "SnapshotLock",
        "Branch",
        "branch removed",
        "Object",
        "Row of an object",
        "IndexEntry, in an object",
        "BatchEntry, placed",
        "BatchEntry, saved in place",
        "SnapshotGroup",
        "Volume",
    ] {
        assert!(tried.fields.iter().any(|(record, _)| record == kind), "there was no {kind}");
    }
    let listed = tables::unseen();
    let found: BTreeSet<(String, String)> = tried.unseen.keys().cloned().collect();
    for key in found.difference(&listed) {
        println!("unseen, and not listed: {key:?}");
        tried.unseen[key].iter().take(6).for_each(|text| println!("    {text}"));
    }
    for key in listed.difference(&found) {
        println!("listed, and seen: {key:?}");
    }
    assert_eq!(found, listed, "the document lists exactly what is not seen");
}
