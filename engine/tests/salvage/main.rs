//! What is salvaged from a damaged pool: everything that is said to be certain is what was written, and no more is
//! lost than the damage has hit. Damage of every kind, on simulated disks, against a model of what was written.

mod bases;
mod damage;
mod made;
mod openings;

use icecore::check::{Moment, SalvageOptions, Status};
use icecore::error::Reason;
use made::{BLOCK, Made};

fn scan() -> SalvageOptions {
    SalvageOptions { scan: true, ..SalvageOptions::default() }
}

fn at(sequence: u64) -> SalvageOptions {
    SalvageOptions { moment: Moment::Sequence(sequence), ..SalvageOptions::default() }
}

fn last_sequence(made: &Made) -> u64 {
    *made.pictures.last_key_value().unwrap().0
}

#[test]
fn a_whole_pool_is_copied() {
    for made in [made::kept(), made::emptied(), made::returned(), made::linear(), made::direct()] {
        assert!(made.is_clean());
        let report = made.salvage(&SalvageOptions::default());
        assert!(report.is_whole() && report.findings.is_empty(), "{}: {report:?}", made.name);
        assert!(!report.scanned, "{}: the index is enough", made.name);
        if report.has_checksums {
            assert_eq!(report.sequence, last_sequence(&made), "{}", made.name);
            let zeroes = made.last().iter().filter(|number| **number == 0).count() as u64;
            assert_eq!(report.of(Status::Zero), zeroes, "{}", made.name);
        }
        // In parts as small as can be.
        for options in [SalvageOptions::default(), scan()] {
            let small = SalvageOptions { versions_max: Some(8), ..options.clone() };
            assert_eq!(made.salvage(&small), made.salvage(&options), "{}", made.name);
        }
    }
}

#[test]
fn headers_of_batches_alone_make_the_image() {
    for made in [made::kept(), made::returned()] {
        let report = made.salvage(&scan());
        assert!(report.is_whole() && report.scanned, "{}: {report:?}", made.name);
        assert_eq!(report.sequence, last_sequence(&made), "{}", made.name);
    }
    // What has moved is known from rows and index alone, and what lies at home is.
    for made in [made::emptied(), made::linear()] {
        let report = made.salvage(&scan());
        assert!(!report.is_whole(), "{}", made.name);
        let certain = report.of(Status::Good) + report.of(Status::Zero);
        println!("{}: {certain} certain, {} uncertain", made.name, report.of(Status::Uncertain));
        assert!(certain > 0 && report.of(Status::Uncertain) > 0, "{}: {report:?}", made.name);
        // Doubtful blocks are handed out when that is asked for, and more of them are right than not.
        let doubtful = SalvageOptions { doubtful: true, ..scan() };
        let (told, image) = made.try_salvage(&doubtful).unwrap();
        made.hold(&doubtful, &told, &image);
        let is_right = |block: &usize| {
            image[block * BLOCK as usize..][..BLOCK as usize] == made::content(made.last()[*block])
        };
        let right = (0..made.last().len()).filter(is_right).count() as u64;
        println!("{}: {right} of {} with doubtful ones", made.name, made.last().len());
        assert!(right > certain, "{}", made.name);
    }
}

#[test]
fn every_moment_that_is_kept_can_be_salvaged() {
    for made in [made::kept(), made::returned()] {
        let moments: Vec<u64> = made.pictures.keys().copied().step_by(7).collect();
        for moment in moments {
            for options in [at(moment), SalvageOptions { scan: true, ..at(moment) }] {
                let report = made.salvage(&options);
                assert!(
                    report.is_whole() && report.sequence == moment,
                    "{}, {moment}: {report:?}",
                    made.name
                );
            }
        }
        let refused = made.try_salvage(&at(100_000)).unwrap_err();
        assert!(matches!(refused.reason(), Reason::UnknownMoment { .. }), "{refused}");
    }
    let made = made::kept();
    let named =
        |name: &str| SalvageOptions { moment: Moment::Snapshot(name.into()), ..SalvageOptions::default() };
    let report = made.salvage(&named("name"));
    assert!(report.is_whole() && report.sequence == made.names["name"]);
    let refused = made.try_salvage(&named("other")).unwrap_err();
    assert!(matches!(refused.reason(), Reason::NoSnapshot { .. }), "{refused}");
    let refused = made::emptied().try_salvage(&at(3)).unwrap_err();
    assert!(matches!(refused.reason(), Reason::Expired { .. }), "{refused}");
    let refused = made::direct().try_salvage(&at(3)).unwrap_err();
    assert!(matches!(refused.reason(), Reason::NoPast { .. }), "{refused}");
}
