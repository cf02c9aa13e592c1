//! A disk with one bad sector: the block on it is told, at its own address, and every other one is judged as ever.

use icecore::check::Code;
use icecore::device::simulated::Fault;
use icecore::runtime::OperationKind;
use icecore::store::Backend;

use crate::checked;
use crate::volumes::{self, BLOCK, Made};

/// Reads of this sector fail from now on.
fn break_sector(made: &Made, sector: u64) {
    made.disk.set_plan(Box::new(move |request, _| {
        let covers = (request.offset..request.offset + request.length).contains(&sector);
        (covers && request.kind == OperationKind::Read).then_some(Fault::Fail(libc::EIO))
    }));
}

/// Breaks every block of the data area once. How many live, and what was told beside what cannot be read.
fn every_block(made: &Made) -> (u64, Vec<(u64, Code)>) {
    let clean = checked(made, false).unwrap();
    assert_eq!(clean.findings, [], "{}", made.name);
    let bytes = made.disk.peek(0, 4096);
    let data = u64::from_le_bytes(bytes[184..192].try_into().unwrap());
    let end = data + u64::from_le_bytes(bytes[192..200].try_into().unwrap());
    let (mut live, mut others) = (0, Vec::new());
    for block in (data..end).step_by(BLOCK as usize) {
        // The last sector of it.
        break_sector(made, block + BLOCK - 512);
        let report = checked(made, false).unwrap();
        let (unreadable, other): (Vec<_>, Vec<_>) =
            report.findings.iter().partition(|finding| finding.code == Code::Unreadable);
        assert!(unreadable.len() <= 1, "{} {block}: {:?}", made.name, report.findings);
        let elsewhere = unreadable.iter().any(|finding| finding.place.address != Some(block));
        assert!(!elsewhere, "{} {block}: {:?}", made.name, report.findings);
        // What is not read is not told.
        assert!(other.is_empty() || unreadable.len() == 1, "{} {block}: {other:?}", made.name);
        let lost = clean.blocks - report.blocks;
        assert!(lost <= 1, "{} {block}: {lost} blocks were not looked at", made.name);
        live += lost;
        others.extend(other.iter().map(|finding| (block, finding.code)));
    }
    made.disk.set_plan(Box::new(|_, _| None));
    assert_eq!(live, clean.blocks, "every block that lives was broken once");
    (live, others)
}

#[test]
fn one_bad_sector_is_one_bad_block() {
    let with_base = [Backend::Cow, Backend::Overlay].map(volumes::with_base);
    for made in [volumes::kept(), volumes::emptied(), volumes::linear()].into_iter().chain(with_base) {
        let (live, others) = every_block(&made);
        println!("{}: {live} blocks live, and {} headers of batches", made.name, others.len());
        // A batch whose header is gone; behind the checkpoint the log ends there.
        assert!(others.iter().all(|(_, code)| matches!(code, Code::OldBatch | Code::Log)), "{others:?}");
    }
}
