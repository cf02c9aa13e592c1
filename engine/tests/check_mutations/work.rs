//! What a check does is bounded by what lies on the device, whatever that says: several fields changed at once, with
//! their checksums made right again, and a journal made to be read again and again.
//!
//! Work is counted in requests and bytes, not in time.

use icecore::check::{Code, Report, Salvage, SalvageOptions, check};
use icecore::device::{Cause, Device};
use icecore::format::journal::{self, RecordHeader};
use icecore::format::root::{self, Root};
use icecore::runtime::Random;
use icecore::store::Backend;

use crate::targets::{self, Fields, Target};
use crate::volumes::{self, Made};
use crate::{apply, is_refusal, put, tables, values};

const SEEDS: u64 = 150;

/// A check, its requests, and the bytes that it read. `None` in place of a report: it was refused.
fn counted(made: &Made) -> (Option<Report>, u64, u64) {
    let device = made.disk.open(made.runtime.context()).unwrap();
    let before = made.disk.requests();
    let report = match made.runtime.block_on(check(&device, &mut |_| ())) {
        Ok(report) => Some(report),
        Err(error) => {
            assert!(is_refusal(&error), "{}: {error}", made.name);
            None
        }
    };
    let bytes = Cause::ALL.iter().map(|cause| device.ledger().tally(*cause).read_bytes).sum();
    (report, made.disk.requests() - before, bytes)
}

/// One field of a record gets another value.
fn change(bytes: &mut [u8], targets: &[Target], random: &mut Random) {
    let target = &targets[random.below(targets.len() as u64) as usize];
    let all = tables::tables();
    let (offset, length) = match &target.fields {
        Fields::Table(name) => {
            let fields = &all[*name];
            let (offset, length, _) = fields[random.below(fields.len() as u64) as usize];
            (offset, length)
        }
        Fields::One(_, length) => (0, *length),
    };
    let at = target.at as usize + offset;
    let mut values = values(&bytes[at..at + length]);
    let chosen = values.swap_remove(random.below(values.len() as u64) as usize);
    apply(bytes, target, at, &chosen);
}

#[test]
fn many_changes_at_once_make_no_more_work_than_the_device_has_bytes() {
    let (mut most_requests, mut most_bytes) = (0.0_f64, 0.0_f64);
    let with_base = [Backend::Cow, Backend::Overlay].map(volumes::with_base);
    for made in [volumes::kept(), volumes::emptied(), volumes::linear()].into_iter().chain(with_base) {
        let original = made.disk.peek(0, made.device_bytes as usize);
        let targets = targets::of_log(&made, &original);
        let (_, clean_requests, clean_bytes) = counted(&made);
        assert!(clean_bytes <= made.device_bytes * 2, "{} reads {clean_bytes} bytes", made.name);
        let mut seen = 0;
        for seed in 0..SEEDS {
            let mut random = Random::from_seed(seed);
            let mut changed = original.clone();
            for _ in 0..2 + random.below(6) {
                change(&mut changed, &targets, &mut random);
            }
            put(&made, &original, &changed);
            let (report, requests, bytes) = counted(&made);
            put(&made, &changed, &original);
            seen += u64::from(report.is_none_or(|report| report.damage > 0));
            let place = format!("{}, seed {seed}: {requests} requests, {bytes} bytes", made.name);
            assert!(requests <= 2 * clean_requests, "{place}; {clean_requests} where nothing is changed");
            assert!(bytes <= 2 * clean_bytes, "{place}; {clean_bytes} where nothing is changed");
            most_requests = most_requests.max(requests as f64 / clean_requests as f64);
            most_bytes = most_bytes.max(bytes as f64 / clean_bytes as f64);
        }
        assert!(seen > SEEDS * 9 / 10, "{}: {seen} of {SEEDS} were told", made.name);
    }
    println!("at most {most_requests:.2} times the requests and {most_bytes:.2} times the bytes");
}

#[test]
fn a_journal_full_of_headers_is_read_twice_at_most() {
    let made = volumes::kept();
    let original = made.disk.peek(0, made.device_bytes as usize);
    let newest = [64 << 10, 128 << 10]
        .into_iter()
        .filter_map(|at: usize| match Root::decode(original[at..at + 4096].try_into().unwrap(), at as u64) {
            root::Decoded::Valid(root) => Some(root),
            _ => None,
        })
        .max_by_key(|root| root.generation.get())
        .unwrap();
    let (_, _, clean_bytes) = counted(&made);
    let (start, length) = (newest.journal_address.get(), newest.journal_bytes.get());
    let mut at = start;
    let mut number = 0;
    loop {
        let rest = &original[at as usize..];
        let found = RecordHeader::decode(rest, at, newest.generation.get(), number, &newest.pool_id);
        let (journal::Decoded::Valid(_), taken) = found else { break };
        (at, number) = (at + taken, number + 1);
    }
    // Each unit behind the end says that it is a record of all that follows; none is sealed.
    let first = original[start as usize..][..64].to_vec();
    let units = (start + length - at) / 4096;
    for unit in (at + 4096..start + length).step_by(4096) {
        let mut header = first.clone();
        header[16..24].copy_from_slice(&unit.to_le_bytes());
        header[40..48].copy_from_slice(&(start + length - unit).to_le_bytes());
        made.disk.poke(unit, &header);
    }
    let (report, _, bytes) = counted(&made);
    let report = report.unwrap();
    assert!(report.findings.iter().any(|finding| finding.code == Code::Journal), "{:?}", report.findings);
    // The first look at each piece, and as many bytes again as the journal has; a unit more for each of those.
    let more = bytes.saturating_sub(clean_bytes);
    assert!(units > 20 && more <= 2 * length, "{units} units, {more} bytes more of {length}");
}

/// What salvaging reads of the device, in requests and bytes. It ends with an image or with a refusal.
fn salvaged(made: &Made, scan: bool) -> (u64, u64) {
    let context = made.runtime.context();
    let (device, out) = (made.disk.open(context).unwrap(), Device::null(context, 1 << 62));
    let before = made.disk.requests();
    let _refused = made.runtime.block_on(async {
        let (options, mut progress) = (SalvageOptions { scan, ..SalvageOptions::default() }, |_| ());
        Salvage::prepare(&device, options, &mut progress).await?.write(&out, true).await
    });
    let bytes = Cause::ALL.iter().map(|cause| device.ledger().tally(*cause).read_bytes).sum();
    (made.disk.requests() - before, bytes)
}

#[test]
fn salvaging_is_bounded_by_what_the_device_has() {
    let (mut most_requests, mut most_bytes) = (0, 0.0_f64);
    for made in [volumes::kept(), volumes::emptied(), volumes::returned(true), volumes::linear()] {
        let original = made.disk.peek(0, made.device_bytes as usize);
        let targets = targets::of_log(&made, &original);
        for seed in 0..SEEDS {
            let mut random = Random::from_seed(1000 + seed);
            let mut changed = original.clone();
            for _ in 0..1 + random.below(6) {
                change(&mut changed, &targets, &mut random);
            }
            put(&made, &original, &changed);
            for scan in [false, true] {
                let (requests, bytes) = salvaged(&made, scan);
                let place = format!("{}, seed {seed}: {requests} requests, {bytes} bytes", made.name);
                // Metadata twice, headers three times, and each block of the image at a few places.
                assert!(bytes <= 8 * made.device_bytes, "{place}");
                assert!(requests <= made.device_bytes / 1024, "{place}");
                most_requests = most_requests.max(requests);
                most_bytes = most_bytes.max(bytes as f64 / made.device_bytes as f64);
            }
            put(&made, &changed, &original);
        }
    }
    println!("at most {most_requests} requests and {most_bytes:.2} times the bytes of the device");
}
