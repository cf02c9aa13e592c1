//! Volumes with a base, writable snapshots and further volumes: what is certain, what is unverified, and what is neither.

use std::collections::BTreeSet;

use icecore::check::{Moment, SalvageOptions, SalvageReport, Status};
use icecore::error::Reason;
use icecore::format::{index_page, journal};
use icecore::object::ObjectKind;
use icecore::runtime::Random;
use icecore::store::Backend;

use crate::made::{self, BLOCK, Made};

/// Of damage, for each pool.
const SEEDS: u64 = 60;

fn all() -> Vec<Made> {
    let (mapped, linear) = (ObjectKind::Mapped, ObjectKind::Linear);
    vec![
        made::cow(mapped),
        made::cow(linear),
        made::overlay(mapped),
        made::overlay(linear),
        made::logged_cow(mapped),
        made::logged_cow(linear),
        made::restoring(),
        made::several(),
    ]
}

fn named(name: &str) -> SalvageOptions {
    SalvageOptions { moment: Moment::Snapshot(name.into()), ..SalvageOptions::default() }
}

/// What there is to salvage: the image of now, and everything that has a name.
fn images(made: &Made) -> Vec<SalvageOptions> {
    let names = made.named.keys().map(|name| named(name));
    [SalvageOptions::default()].into_iter().chain(names).collect()
}

fn word(bytes: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap())
}

fn with_magic(bytes: &[u8], magic: [u8; 8]) -> Vec<u64> {
    (0..bytes.len() as u64).step_by(4096).filter(|at| bytes[*at as usize..].starts_with(&magic)).collect()
}

fn certain(report: &SalvageReport) -> u64 {
    Status::ALL.iter().filter(|status| status.is_certain()).map(|status| report.of(*status)).sum()
}

#[test]
fn every_image_of_a_whole_pool_is_copied() {
    for made in all() {
        assert!(made.is_clean(), "{}", made.name);
        assert!(made.named.len() >= 5, "{}", made.name);
        for options in images(&made) {
            let report = made.salvage(&options);
            assert!(report.is_whole() && report.findings.is_empty(), "{} {options:?}: {report:?}", made.name);
            assert!(!report.scanned, "{}", made.name);
            let small = SalvageOptions { versions_max: Some(8), ..options.clone() };
            assert_eq!(made.salvage(&small), report, "{} {options:?}", made.name);
            // What has no checksum is not said to have one.
            let is_now = options.moment == Moment::Newest;
            match made.backend {
                Backend::Cow if is_now && made.name == "cow" => {
                    assert_eq!(report.of(Status::Unverified), 64, "{report:?}");
                }
                Backend::Cow | Backend::Overlay | Backend::LoggedCow => {
                    assert!(report.of(Status::Unverified) > 0, "{options:?}: {report:?}");
                }
                _ => assert_eq!(report.of(Status::Unverified), 0, "{report:?}"),
            }
        }
        for other in ["gone", "other"] {
            let refused = made.try_salvage(&named(other)).unwrap_err();
            assert!(matches!(refused.reason(), Reason::NoSnapshot { .. }), "{refused}");
        }
        if made.backend != Backend::Log {
            let refused = made.try_salvage(&crate::at(made.names["first"] + 1)).unwrap_err();
            assert!(matches!(refused.reason(), Reason::Expired { .. }), "{refused}");
            assert!(made.salvage(&crate::at(made.names["first"])).is_whole());
        }
    }
}

#[test]
fn without_its_index_nothing_but_the_base_of_cow_is_certain() {
    for made in all() {
        for options in images(&made) {
            let by_headers = SalvageOptions { scan: true, ..options.clone() };
            let report = made.salvage(&by_headers);
            let is_now = options.moment == Moment::Newest;
            let all = report.blocks.iter().sum::<u64>();
            let expected = match made.backend {
                Backend::Cow if is_now && made.name == "cow" => all,
                Backend::Log if is_now || made.names.contains_key(name_of(&options)) => continue,
                _ => 0,
            };
            assert_eq!(certain(&report), expected, "{} {options:?}: {report:?}", made.name);
            // Much of it is right all the same; of what was folded, the log still has what was there before.
            let doubtful = SalvageOptions { doubtful: true, ..by_headers };
            let (report, image) = made.try_salvage(&doubtful).unwrap();
            made.hold(&doubtful, &report, &image);
            let truth = if is_now { made.last() } else { &made.named[name_of(&options)] };
            let blocks = image.chunks(BLOCK as usize).zip(truth);
            let right = blocks.filter(|(bytes, number)| *bytes == made::content(**number)).count();
            println!("{} {}: {right} of {all}", made.name, name_of(&options));
            assert!(right as u64 * 3 > all, "{} {options:?}: {right} of {all}", made.name);
        }
    }
}

fn name_of(options: &SalvageOptions) -> &str {
    match &options.moment {
        Moment::Snapshot(name) => name,
        _ => "",
    }
}

#[test]
fn every_page_of_the_index_and_every_record() {
    for made in all() {
        let original = made.bytes();
        let (mut hits, mut lost) = (0, 0);
        let pages = with_magic(&original, index_page::MAGIC).into_iter().map(|at| (at, 100));
        let records = with_magic(&original, journal::MAGIC).into_iter().map(|at| (at, 70));
        for (at, byte) in pages.chain(records) {
            made.disk.poke(at + byte, &[original[(at + byte) as usize] ^ 1]);
            for options in images(&made) {
                match made.try_salvage(&options) {
                    Ok((report, image)) => {
                        made.hold(&options, &report, &image);
                        lost += report.blocks.iter().sum::<u64>() - certain(&report);
                    }
                    // Its name was told by that record, or that of what it began as.
                    Err(error) => {
                        let is_lost =
                            matches!(error.reason(), Reason::NoSnapshot { .. } | Reason::NotSalvaged { .. });
                        assert!(is_lost, "{error}");
                    }
                }
                hits += 1;
            }
            made.put(&original);
        }
        println!("{}: {hits} images, {lost} blocks not certain", made.name);
        assert!(lost > 0, "{}", made.name);
    }
}

/// Blocks whose loss leaves no trace: the last record of the journal, and the header of the log's last batch.
fn last_words(bytes: &[u8]) -> BTreeSet<u64> {
    let records = with_magic(bytes, journal::MAGIC).into_iter();
    let record = records.max_by_key(|at| (word(bytes, at + 24), word(bytes, at + 32)));
    let batch = with_magic(bytes, *b"ICEBATCH").into_iter().max_by_key(|at| word(bytes, at + 40));
    record.into_iter().chain(batch).collect()
}

#[test]
fn what_is_not_known_is_never_said_to_be_certain() {
    for made in all() {
        let original = made.bytes();
        *made.whole.borrow_mut() = original.clone();
        let (data, last_words) = (word(&original, 184), last_words(&original));
        let (mut certain_blocks, mut all, mut refused) = (0, 0, 0);
        let images = images(&made);
        for seed in 0..SEEDS {
            let mut random = Random::from_seed(seed);
            let blocks = made.device_bytes / 4096;
            let mut broken = Vec::new();
            for _ in 0..1 + random.below(1 + seed) {
                // Half of it where the metadata and the base lie.
                let last = if random.below(2) == 0 { data / 4096 } else { blocks };
                let at = random.below(last) * 4096;
                if last_words.contains(&at) {
                    continue;
                }
                match random.below(4) {
                    0 => made.disk.poke(at, &[0; 4096]),
                    1 => made.disk.poke(at + random.below(4096), &[random.below(256) as u8]),
                    2 => broken.push(at + 512 * random.below(8)),
                    _ => made.disk.poke(at, &original[(random.below(blocks) * 4096) as usize..][..4096]),
                }
            }
            made.break_sectors(broken);
            for options in &images {
                let doubtful = random.below(3) == 0;
                for options in [options.clone(), SalvageOptions { scan: true, doubtful, ..options.clone() }] {
                    match made.try_salvage(&options) {
                        Ok((report, image)) => {
                            made.hold(&options, &report, &image);
                            certain_blocks += certain(&report);
                            all += report.blocks.iter().sum::<u64>();
                        }
                        Err(error) => {
                            let is_lost = matches!(
                                error.reason(),
                                Reason::NoSnapshot { .. }
                                    | Reason::NotSalvaged { .. }
                                    | Reason::InvalidSetting { .. }
                                    | Reason::UnknownMoment { .. }
                            );
                            assert!(is_lost, "{} {seed}: {error}", made.name);
                            refused += 1;
                        }
                    }
                }
            }
            made.break_sectors(Vec::new());
            made.put(&original);
        }
        println!("{}: {certain_blocks} of {all} blocks certain, {refused} images refused", made.name);
        assert!(certain_blocks > 0);
    }
}

#[test]
fn what_the_base_has_is_as_it_is_found_and_what_cannot_be_read_is_told() {
    for made in [made::cow(ObjectKind::Mapped), made::overlay(ObjectKind::Mapped)] {
        let original = made.bytes();
        *made.whole.borrow_mut() = original.clone();
        let base = word(&original, 240);
        let mut hits = 0;
        for block in 0..64 {
            made.disk.poke(base + block * BLOCK, &[0x3C; 4096]);
            let report = made.salvage(&SalvageOptions::default());
            assert!(report.is_whole(), "{report:?}");
            made.break_sectors(vec![base + block * BLOCK + 512]);
            let report = made.salvage(&SalvageOptions::default());
            hits += report.of(Status::Unreadable);
            assert!(report.of(Status::Unreadable) <= 1, "{report:?}");
            made.break_sectors(Vec::new());
            made.put(&original);
        }
        let unverified = made.salvage(&SalvageOptions::default()).of(Status::Unverified);
        assert_eq!(hits, unverified, "{}", made.name);
    }
}

#[test]
fn a_batch_that_is_missing_is_not_passed_over() {
    for made in
        [made::cow(ObjectKind::Mapped), made::cow(ObjectKind::Linear), made::overlay(ObjectKind::Linear)]
    {
        let original = made.bytes();
        *made.whole.borrow_mut() = original.clone();
        let last_words = last_words(&original);
        let (mut hits, mut lost) = (0, 0);
        for at in with_magic(&original, *b"ICEBATCH").into_iter().filter(|at| !last_words.contains(at)) {
            made.disk.poke(at + 60, &[original[at as usize + 60] ^ 1]);
            for options in images(&made) {
                let report = made.salvage(&options);
                lost += report.blocks.iter().sum::<u64>() - certain(&report);
                hits += 1;
            }
            made.put(&original);
        }
        println!("{}: {hits} images, {lost} blocks not certain", made.name);
        assert!(lost > 0, "{}", made.name);
    }
}

#[test]
fn a_last_record_that_may_have_been_there_makes_nothing_certain() {
    let made = made::folded();
    let original = made.bytes();
    let report = made.salvage(&SalvageOptions::default());
    assert!(report.is_whole(), "{report:?}");
    // What it says is in the base lies in the log too, as it was before the fold.
    let record = *last_words(&original).first().unwrap();
    assert!(original[record as usize..].starts_with(&journal::MAGIC));
    for unreadable in [false, true] {
        match unreadable {
            true => made.break_sectors(vec![record]),
            false => made.disk.poke(record + 90, &[original[record as usize + 90] ^ 1]),
        }
        let report = made.salvage(&SalvageOptions::default());
        assert_eq!(certain(&report), 0, "{report:?}");
        made.break_sectors(Vec::new());
        made.put(&original);
    }
}
