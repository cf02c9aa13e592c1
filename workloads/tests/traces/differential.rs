//! One random list of requests, written in every format by the tests themselves, is read back the same in each, to the
//! format's resolution.

use icecore_workloads::trace::RecordKind::{Discard, Flush, Read, Write};
use icecore_workloads::trace::{Format, Record, RecordKind, TraceOptions};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::support::read_bytes;

const REQUESTS: u64 = 20_000;

/// A request in terms that every format can say: whole sectors, a small volume.
#[derive(Clone, Copy)]
struct Request {
    time_ns: u64,
    volume: u64,
    kind: RecordKind,
    sector: u64,
    sectors: u64,
    latency_ns: u64,
}

fn requests(seed: u64, kinds: &[RecordKind]) -> Vec<Request> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut time_ns = 1_000_000_000 * 1_500_000_000;
    (0..REQUESTS)
        .map(|_| {
            time_ns += random.next_u64() % 300_000_000;
            Request {
                time_ns,
                volume: random.next_u64() % 5,
                kind: kinds[(random.next_u64() % kinds.len() as u64) as usize],
                sector: random.next_u64() % (1 << (random.next_u64() % 40)),
                sectors: 1 + random.next_u64() % (1 << (random.next_u64() % 12)),
                latency_ns: random.next_u64() % 1_000_000_000,
            }
        })
        .collect()
}

fn letter(kind: RecordKind) -> char {
    match kind {
        Read => 'R',
        Write => 'W',
        Discard => 'D',
        Flush => 'F',
    }
}

fn lines(requests: &[Request], line: impl Fn(&Request) -> String) -> Vec<u8> {
    requests.iter().flat_map(|request| (line(request) + "\n").into_bytes()).collect()
}

/// What is expected of `requests` in a format that tells times in `unit_ns`.
fn expected(
    requests: &[Request],
    unit_ns: u64,
    volume: impl Fn(u64) -> u64,
    latency_unit_ns: Option<u64>,
) -> Vec<Record> {
    let first = requests[0].time_ns / unit_ns * unit_ns;
    requests
        .iter()
        .map(|request| {
            let arrival = request.time_ns / unit_ns * unit_ns - first;
            let (sector, sectors) =
                if request.kind == Flush { (0, 0) } else { (request.sector, request.sectors) };
            let latency = latency_unit_ns.map(|unit| request.latency_ns / unit * unit);
            let volume = volume(request.volume) as u32;
            Record::new(arrival, volume, request.kind, sector * 512, sectors as u32 * 512)
                .with_latency(latency)
        })
        .collect()
}

#[track_caller]
fn reads_back(format: Format, content: &[u8], expected: &[Record]) {
    for options in [
        TraceOptions::default(),
        TraceOptions { format: Some(format), sort_window_records: Some(1), ..TraceOptions::default() },
    ] {
        let (records, reports) = read_bytes(content, &options).unwrap();
        assert_eq!(reports[0].format, format);
        assert_eq!(records.len(), expected.len());
        for (index, (record, expected)) in records.iter().zip(expected).enumerate() {
            assert_eq!(record, expected, "{format}, record {index}");
        }
    }
}

#[test]
fn tables_of_reads_and_writes() {
    let all = requests(11, &[Read, Write]);
    let same = |volume| volume;

    let msr = lines(&all, |r| {
        let kind = if r.kind == Read { "Read" } else { "Write" };
        let (offset, size) = (r.sector * 512, r.sectors * 512);
        format!("{},host,{},{kind},{offset},{size},{}", r.time_ns / 100, r.volume, r.latency_ns / 100)
    });
    reads_back(Format::Msr, &msr, &expected(&all, 100, same, Some(100)));

    let spc = lines(&all, |r| {
        let (seconds, micros) = (r.time_ns / 1_000_000_000, r.time_ns / 1000 % 1_000_000);
        format!("{},{},{},{},{seconds}.{micros:06}", r.volume, r.sector, r.sectors * 512, letter(r.kind))
    });
    reads_back(Format::Spc, &spc, &expected(&all, 1000, same, None));

    let alibaba = lines(&all, |r| {
        let (offset, size) = (r.sector * 512, r.sectors * 512);
        format!("{},{},{offset},{size},{}", r.volume, letter(r.kind), r.time_ns / 1000)
    });
    reads_back(Format::Alibaba, &alibaba, &expected(&all, 1000, same, None));

    let tencent = lines(&all, |r| {
        let kind = u8::from(r.kind == Write);
        format!("{},{},{},{kind},{}", r.time_ns / 1_000_000_000, r.sector, r.sectors, r.volume)
    });
    reads_back(Format::Tencent, &tencent, &expected(&all, 1_000_000_000, same, None));

    let nine = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let mut systor = b"Timestamp,Response,IOType,LUN,Offset,Size\n".to_vec();
    systor.extend(lines(&all, |r| {
        let (offset, size) = (r.sector * 512, r.sectors * 512);
        format!("{},{},{},{},{offset},{size}", nine(r.time_ns), nine(r.latency_ns), letter(r.kind), r.volume)
    }));
    reads_back(Format::Systor17, &systor, &expected(&all, 1, same, Some(1)));

    let sum = "0123456789abcdef0123456789abcdef";
    let fiu = lines(&all, |r| {
        format!("{} 1 a b {} {} {} 8 {} {sum}", r.time_ns, r.sector, r.sectors, letter(r.kind), r.volume)
    });
    reads_back(Format::Fiu, &fiu, &expected(&all, 1, |volume| 8 << 20 | volume, None));

    let mqsim = lines(&all, |r| {
        format!("{} {} {} {} {}", r.time_ns, r.volume, r.sector, r.sectors, u8::from(r.kind == Read))
    });
    reads_back(Format::Mqsim, &mqsim, &expected(&all, 1, same, None));
}

#[test]
fn logs_with_discards_and_flushes() {
    let all = requests(12, &[Read, Write, Discard, Flush]);

    let action = |kind| match kind {
        Read => "read",
        Write => "write",
        Discard => "trim",
        Flush => "sync",
    };
    // Files are numbered by first appearance, so that each appears once before anything else.
    let mut iolog = b"fio version 3 iolog\n".to_vec();
    let mut with_all_files = all.clone();
    for volume in 0..5 {
        with_all_files.insert(volume, Request { volume: volume as u64, ..all[0] });
    }
    iolog.extend(lines(&with_all_files, |r| {
        let (offset, size) = (r.sector * 512, r.sectors * 512);
        format!("{} disk{} {} {offset} {size}", r.time_ns / 1000, r.volume, action(r.kind))
    }));
    let of_v3 = expected(&with_all_files, 1000, |volume| volume, None);
    reads_back(Format::FioV3, &iolog, &of_v3);

    let mut iolog = b"fio version 2 iolog\n".to_vec();
    let mut before = with_all_files[0].time_ns / 1000;
    for r in &with_all_files {
        let (offset, size, now) = (r.sector * 512, r.sectors * 512, r.time_ns / 1000);
        if now > before {
            iolog.extend(format!("disk0 wait {} 0\n", now - before).bytes());
        }
        before = now;
        iolog.extend(format!("disk{} {} {offset} {size}\n", r.volume, action(r.kind)).bytes());
    }
    reads_back(Format::FioV2, &iolog, &of_v3);

    let of_device = expected(&all, 1, |volume| 8 << 20 | volume, None);
    let blkparse = lines(&all, |r| {
        let (seconds, nanos) = (r.time_ns / 1_000_000_000, r.time_ns % 1_000_000_000);
        let place = match r.kind {
            Flush => "FWS [x]".to_owned(),
            kind => format!("{}S {} + {} [x]", letter(kind), r.sector, r.sectors),
        };
        format!("8,{} 0 1 {seconds}.{nanos:09} 77 Q {place}", r.volume)
    });
    reads_back(Format::Blkparse, &blkparse, &of_device);

    let mut blktrace = Vec::new();
    for (index, r) in all.iter().enumerate() {
        let category: u32 = match r.kind {
            Read => 1,
            Write => 2,
            Discard => 2 | 1 << 13,
            Flush => 2 | 1 << 2,
        };
        let (sector, bytes) = if r.kind == Flush { (0, 0) } else { (r.sector, r.sectors * 512) };
        let behind = vec![7; index % 40];
        blktrace.extend(0x6561_7407_u32.to_le_bytes());
        blktrace.extend((index as u32).to_le_bytes());
        blktrace.extend(r.time_ns.to_le_bytes());
        blktrace.extend(sector.to_le_bytes());
        blktrace.extend((bytes as u32).to_le_bytes());
        blktrace.extend((1 | (category | 1 << 4) << 16).to_le_bytes());
        blktrace.extend(99_u32.to_le_bytes());
        blktrace.extend((8 << 20 | r.volume as u32).to_le_bytes());
        blktrace.extend(0_u32.to_le_bytes());
        blktrace.extend(0_u16.to_le_bytes());
        blktrace.extend((behind.len() as u16).to_le_bytes());
        blktrace.extend(behind);
    }
    reads_back(Format::Blktrace, &blktrace, &of_device);
}

#[test]
fn records_of_a_hypervisor() {
    let all = requests(13, &[Read, Write, Flush]);
    let command = |kind| match kind {
        Read => 0x28_u16,
        Write => 0x8a,
        _ => 0x35,
    };
    let of_one = expected(&all, 1000, |_| 0, None);
    let mut first = Vec::new();
    let mut second = Vec::new();
    for (index, r) in all.iter().enumerate() {
        let (serial, bytes) = ((index as u32).to_le_bytes(), (r.sectors as u32 * 512).to_le_bytes());
        let (sector, time) = (r.sector.to_le_bytes(), (r.time_ns / 1000).to_le_bytes());
        let (command, segments) = (command(r.kind).to_le_bytes(), 1_u32.to_le_bytes());
        first.extend(
            [&serial[..], &bytes, &segments, &command, &0x100_u16.to_le_bytes(), &sector, &time].concat(),
        );
        let version = 0x200_u16.to_le_bytes();
        let response = 5_u64.to_le_bytes();
        second
            .extend([&command[..], &version, &serial, &bytes, &segments, &sector, &time, &response].concat());
    }
    reads_back(Format::Vscsi1, &first, &of_one);
    reads_back(Format::Vscsi2, &second, &of_one);
}
