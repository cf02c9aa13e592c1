//! Damage of every kind, and what it costs.

use std::collections::BTreeSet;

use icecore::check::{Given, SalvageOptions, SalvageReport, Status};
use icecore::error::Reason;
use icecore::format::root::{self, Root};
use icecore::format::{index_page, journal};
use icecore::runtime::Random;

use crate::made::{self, BLOCK, Made};
use crate::{last_sequence, scan};

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The data area.
fn data(bytes: &[u8]) -> std::ops::Range<u64> {
    word(bytes, 184)..word(bytes, 184) + word(bytes, 192)
}

fn lost(report: &SalvageReport) -> u64 {
    report.blocks.iter().sum::<u64>() - report.of(Status::Good) - report.of(Status::Zero)
}

/// Blocks with this beginning.
fn with_magic(bytes: &[u8], magic: [u8; 8]) -> Vec<u64> {
    (0..bytes.len() as u64).step_by(4096).filter(|at| bytes[*at as usize..].starts_with(&magic)).collect()
}

fn roots(bytes: &[u8]) -> Vec<Root> {
    let decode = |at: u64| match Root::decode(bytes[at as usize..][..4096].try_into().unwrap(), at) {
        root::Decoded::Valid(root) => Some(*Box::new(root)),
        _ => None,
    };
    [64 << 10, 128 << 10].into_iter().filter_map(decode).collect()
}

#[test]
fn superblocks() {
    for made in [made::kept(), made::emptied(), made::linear(), made::direct()] {
        let original = made.bytes();
        for copy in [0, 512 << 10] {
            made.disk.poke(copy, &[0xAA; 4096]);
            let report = made.salvage(&SalvageOptions::default());
            assert!(report.is_whole() && report.findings.len() == 1, "{}: {report:?}", made.name);
            made.put(&original);
        }
        [0, 512 << 10].into_iter().for_each(|copy| made.disk.poke(copy, &[0; 4096]));
        if made.name == "direct" {
            let refused = made.try_salvage(&SalvageOptions::default()).unwrap_err();
            assert!(matches!(refused.reason(), Reason::NotSalvaged { .. }), "{refused}");
            assert!(refused.to_string().contains("--direct-offset"), "{refused}");
            let told = SalvageOptions {
                size_bytes: Some(64 * BLOCK),
                direct_offset_bytes: Some(data(&original).start),
                ..SalvageOptions::default()
            };
            assert!(made.salvage(&told).is_whole());
            made.put(&original);
            let refused = made.try_salvage(&told).unwrap_err();
            assert!(matches!(refused.reason(), Reason::InvalidSetting { .. }), "{refused}");
            continue;
        }
        // It may have been an overlay, whose blocks are not all in the log.
        let report = made.salvage(&SalvageOptions::default());
        assert_eq!(report.of(Status::Good) + report.of(Status::Zero), 0, "{}", made.name);
        assert!(report.findings.iter().any(|finding| finding.text.contains("--no-base")), "{report:?}");
        let no_base = SalvageOptions { no_base: true, ..SalvageOptions::default() };
        let report = made.salvage(&no_base);
        assert_eq!(report.sequence, last_sequence(&made), "{}", made.name);
        assert!(report.findings.iter().any(|finding| finding.text.contains("how large")), "{report:?}");
        assert!(made.name != "kept" || report.is_whole(), "{report:?}");
        let size_bytes = Some(made.last().len() as u64 * BLOCK);
        let report = made.salvage(&SalvageOptions { size_bytes, ..no_base.clone() });
        assert_eq!(Some(report.size_bytes), size_bytes);
        made.put(&original);
        let refused = made.try_salvage(&no_base).unwrap_err();
        assert!(matches!(refused.reason(), Reason::InvalidSetting { name: "no-base", .. }), "{refused}");
    }
}

#[test]
fn roots_and_images() {
    for made in [made::kept(), made::emptied(), made::linear()] {
        let original = made.bytes();
        let all = roots(&original);
        let newest = all.iter().max_by_key(|root| root.generation.get()).unwrap();
        // One root, and the image of the newest, and both roots.
        let mut places: Vec<Vec<u64>> = all.iter().map(|root| vec![root.address.get()]).collect();
        places.push(vec![newest.image_address.get()]);
        places.push(all.iter().map(|root| root.address.get()).collect());
        for (which, places) in places.iter().enumerate() {
            for bytes in [[0x55; 4096], [0; 4096]] {
                places.iter().for_each(|at| made.disk.poke(*at, &bytes));
                let report = made.salvage(&SalvageOptions::default());
                println!("{} {which}: {:?}, at {}", made.name, report.blocks, report.sequence);
                // Every batch is there: headers tell all.
                assert!(made.name != "kept" || report.is_whole(), "{which}: {report:?}");
                let is_older = places.len() == 1 && places[0] != newest.address.get() && which < all.len();
                assert!(!is_older || report.is_whole(), "{} {which}: {report:?}", made.name);
                assert!(report.of(Status::Good) > 0, "{} {which}: {report:?}", made.name);
                made.put(&original);
            }
        }
    }
}

#[test]
fn every_record_of_the_journal() {
    for made in [made::kept(), made::returned(), made::emptied(), made::linear()] {
        let original = made.bytes();
        let (mut records, mut worst) = (0, 0);
        for at in with_magic(&original, journal::MAGIC) {
            made.disk.poke(at + 70, &[original[at as usize + 70] ^ 1]);
            let report = made.salvage(&SalvageOptions::default());
            records += 1;
            worst = worst.max(lost(&report));
            assert!(
                matches!(made.name, "emptied" | "linear") || report.is_whole(),
                "{} {at}: {report:?}",
                made.name
            );
            assert!(
                report.sequence == last_sequence(&made)
                    || lost(&report) + report.lost_sequences > 0
                    || matches!(made.name, "emptied" | "linear"),
                "{report:?}"
            );
            made.put(&original);
        }
        println!("{}: {records} records, at most {worst} blocks lost", made.name);
        assert!(records > 3, "{}: {records}", made.name);
    }
}

#[test]
fn every_page_of_the_index() {
    for made in [made::kept(), made::returned(), made::emptied(), made::linear()] {
        let original = made.bytes();
        let (mut pages, mut worst) = (0, 0);
        for at in with_magic(&original, index_page::MAGIC) {
            for unreadable in [false, true] {
                match unreadable {
                    false => made.disk.poke(at + 100, &[original[at as usize + 100] ^ 1]),
                    true => made.break_sectors(vec![at]),
                }
                let report = made.salvage(&SalvageOptions::default());
                made.break_sectors(Vec::new());
                made.put(&original);
                assert!(
                    report.is_whole() || !matches!(made.name, "kept" | "returned"),
                    "{} {at}: {report:?}",
                    made.name
                );
                assert_eq!(report.sequence, last_sequence(&made));
                worst = worst.max(lost(&report));
                pages += u64::from(report.scanned);
            }
        }
        println!("{}: {pages} pages were missed, at most {worst} blocks lost", made.name);
        assert!(pages > 0, "{}: no page was needed", made.name);
    }
}

const UNWRITTEN_EVERY: u64 = 16;

/// Hits every block of the data area once. How many blocks of the image that cost, and how often the log ended there.
fn every_block(made: &Made, hit: impl Fn(&Made, u64), status: Status) -> (u64, u64) {
    let original = made.bytes();
    let (mut hits, mut ends) = (0, 0);
    for at in data(&original).step_by(BLOCK as usize) {
        let bytes = &original[at as usize..][..BLOCK as usize];
        // Where a log has never come, one of a few is enough.
        let is_unwritten = made.name != "direct" && bytes.iter().all(|byte| *byte == 0);
        if is_unwritten && !(at / BLOCK).is_multiple_of(UNWRITTEN_EVERY) {
            continue;
        }
        hit(made, at);
        let report = made.salvage(&SalvageOptions::default());
        made.break_sectors(Vec::new());
        made.disk.poke(at, bytes);
        assert!(lost(&report) <= 1 && lost(&report) == report.of(status), "{} {at}: {report:?}", made.name);
        let is_header = original[at as usize..].starts_with(b"ICEBATCH");
        assert!(!is_header || lost(&report) == 0, "{} {at}: {report:?}", made.name);
        hits += lost(&report);
        if report.has_checksums && report.sequence < last_sequence(made) {
            // What was promised is said to be lost.
            let promised = report.newest_sequence > report.sequence;
            assert_eq!(promised, report.lost_sequences > 0, "{} {at}: {report:?}", made.name);
            assert!(
                promised || last_sequence(made) - report.sequence <= 16,
                "{} {at}: {report:?}",
                made.name
            );
            ends += u64::from(!is_header);
        }
    }
    (hits, ends)
}

#[test]
fn every_block_of_the_data_area() {
    for made in [made::kept(), made::emptied(), made::returned(), made::linear(), made::direct()] {
        let living = made.last().iter().filter(|number| **number != 0).count() as u64;
        let is_direct = made.name == "direct";
        let all = if is_direct { made.last().len() as u64 } else { living };
        // The last sector of it.
        let (hits, ends) =
            every_block(&made, |made, at| made.break_sectors(vec![at + BLOCK - 512]), Status::Unreadable);
        assert_eq!((hits, ends), (all, 0), "{}", made.name);
        if !is_direct {
            // What nobody has promised ends where it is not whole: a power cut leaves it so.
            let flip = |made: &Made, at| made.disk.poke(at, &[made.disk.peek(at, 4096)[9] ^ 4; 10]);
            let (hits, ends) = every_block(&made, flip, Status::Wrong);
            println!("{}: {hits} of {all} wrong, the log ended {ends} times", made.name);
            assert!(
                hits <= all && all <= hits + ends && ends < 20,
                "{}: {hits} and {ends} of {all}",
                made.name
            );
        }
    }
}

#[test]
fn an_older_version_is_offered_and_taken_when_asked_for() {
    let made = made::kept();
    let original = made.bytes();
    let mut older = 0;
    for (block, number) in made.pictures[&100].iter().enumerate().filter(|(_, number)| **number != 0) {
        let places = (0..).step_by(4096).zip(original.chunks(4096));
        let places: Vec<u64> =
            places.filter(|(_, bytes)| *bytes == made::content(*number)).map(|(at, _)| at).collect();
        let at = places[0];
        places.iter().for_each(|at| made.disk.poke(*at + 8, &[original[*at as usize + 8] ^ 1]));
        for base in [crate::at(100), SalvageOptions { scan: true, ..crate::at(100) }] {
            let report = made.salvage(&base);
            let wrong = report.stretches.iter().find(|stretch| stretch.status == Status::Wrong).unwrap();
            assert_eq!((wrong.block, wrong.blocks, wrong.given), (block as u64, 1, Given::Zeroes));
            let before: Vec<u64> = made.pictures.range(..100).map(|(_, picture)| picture[block]).collect();
            let mut distinct: BTreeSet<u64> = before.iter().copied().collect();
            distinct.remove(number);
            // A block that was never changed before has no older version.
            assert!(wrong.older || distinct.iter().all(|number| *number == 0), "{block}: {wrong:?}");
            let doubtful = SalvageOptions { doubtful: true, ..base };
            let (told, image) = made.try_salvage(&doubtful).unwrap();
            made.hold(&doubtful, &told, &image);
            let bytes = &image[block * BLOCK as usize..][..BLOCK as usize];
            let expected = match wrong.older {
                true => made::content(*before.iter().rfind(|before| *before != number).unwrap()),
                false => made.disk.peek(at, BLOCK as usize),
            };
            assert!(bytes == expected, "{block}");
            let given = if wrong.older { Given::Older } else { Given::AsFound };
            assert!(
                told.stretches.iter().any(|one| one.block == block as u64 && one.given == given),
                "{told:?}"
            );
            older += u64::from(wrong.older);
        }
        made.put(&original);
    }
    assert!(older > 4);
}

#[test]
fn what_looks_whole_and_is_not_is_never_said_to_be_certain() {
    // Sectors lost at random, everywhere.
    for (made, seeds) in
        [(made::kept(), 120), (made::emptied(), 120), (made::returned(), 60), (made::linear(), 120)]
    {
        let original = made.bytes();
        let (mut certain, mut all) = (0, 0);
        for seed in 0..seeds {
            let mut random = Random::from_seed(seed);
            let blocks = made.device_bytes / 4096;
            let mut broken = Vec::new();
            for _ in 0..1 + random.below(60) {
                // Half of it where the metadata lies.
                let last = if random.below(2) == 0 { data(&original).start / 4096 } else { blocks };
                let at = random.below(last) * 4096;
                match random.below(4) {
                    0 => made.disk.poke(at, &[0; 4096]),
                    1 => made.disk.poke(at + random.below(4096), &[random.below(256) as u8]),
                    2 => broken.push(at + 512 * random.below(8)),
                    _ => made.disk.poke(at, &original[(random.below(blocks) * 4096) as usize..][..4096]),
                }
            }
            made.break_sectors(broken);
            for options in [SalvageOptions::default(), scan(), SalvageOptions { doubtful: true, ..scan() }] {
                let size_bytes = None;
                let report = made.salvage(&SalvageOptions { size_bytes, ..options });
                certain += report.blocks.iter().sum::<u64>() - lost(&report);
                all += report.blocks.iter().sum::<u64>();
            }
            made.break_sectors(Vec::new());
            made.put(&original);
        }
        println!("{}: {certain} of {all} blocks certain", made.name);
        assert!(certain > 0);
    }
}

#[test]
fn a_device_that_has_become_shorter() {
    for mut short in [made::kept(), made::direct()] {
        let whole = short.bytes();
        // It ends in the middle of what lives.
        let living: BTreeSet<Vec<u8>> =
            short.last().iter().filter(|number| **number != 0).map(|number| made::content(*number)).collect();
        let mut places =
            (0..).step_by(4096).zip(whole.chunks(4096)).filter(|(_, bytes)| living.contains(*bytes));
        let end: u64 = places.nth(living.len() / 2).unwrap().0;
        short.device_bytes = end;
        short.disk.resize(end);
        let report = short.salvage(&SalvageOptions::default());
        assert_eq!(report.of(Status::Unreadable), lost(&report), "{}: {report:?}", short.name);
        match short.name {
            "direct" => assert_eq!(lost(&report), (data(&whole).start + 64 * BLOCK - end) / BLOCK),
            _ => assert!((8..living.len() as u64).contains(&lost(&report)), "{report:?}"),
        }
    }
}
