//! What does a record of a trace cost, from the file's bytes to whoever asks for the next?
//!
//! On one core, a million text records a second and five million binary ones are promised, so that a trace is never what
//! a replay waits for: `taskset -c 1 cargo bench -p icecore-workloads --bench traces`. Content is made here, from a
//! seed; files lie in the folder for temporary files.

use std::fmt::Write;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use icecore_workloads::trace::{Format, RecordSource, SummaryBuilder, TraceOptions, TraceStream};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

const RECORDS: u64 = 500_000;

/// A file of `RECORDS` requests that arrive one after another, 100 µs apart on average.
fn content(format: Format) -> Vec<u8> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(9);
    let mut text = String::new();
    let mut binary = Vec::new();
    let mut micros = 0_u64;
    for index in 0..RECORDS {
        micros += random.next_u64() % 200;
        let sector = random.next_u64() % (1 << 28) * 8;
        let sectors = [1, 8, 16, 128][(random.next_u64() % 4) as usize];
        let write = random.next_u64().is_multiple_of(2);
        let letter = if write { 'W' } else { 'R' };
        let (offset, size) = (sector * 512, sectors * 512);
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        // Writing to a String cannot fail.
        let _ = match format {
            Format::Msr => {
                let (time, kind) =
                    (128_166_372_003_061_629 + micros * 10, if write { "Write" } else { "Read" });
                writeln!(text, "{time},usr,0,{kind},{offset},{size},{}", random.next_u64() % 100_000)
            }
            Format::Spc => writeln!(text, "0,{sector},{size},{letter},{seconds}.{fraction:06}"),
            Format::Alibaba => {
                let volume = random.next_u64() % 1000;
                writeln!(text, "{volume},{letter},{offset},{size},{}", 1_577_808_000_000_000 + micros)
            }
            Format::Blkparse => writeln!(
                text,
                "  8,0    3 {index:8} {seconds:5}.{fraction:06}000  1021  Q  {letter}S {sector} + {sectors} [kjournald]"
            ),
            _ => Ok(()),
        };
        let (serial, len) = ((index as u32).to_le_bytes(), (size as u32).to_le_bytes());
        let command = if write { 0x2a_u16 } else { 0x28 };
        match format {
            Format::Vscsi1 => {
                let head = [serial, len, 1_u32.to_le_bytes()].concat();
                let command = [command.to_le_bytes(), 0x100_u16.to_le_bytes()].concat();
                binary
                    .extend([head, command, [sector.to_le_bytes(), micros.to_le_bytes()].concat()].concat());
            }
            Format::Blktrace => {
                let action = 1_u32 | (if write { 2 } else { 1 } | 1 << 4) << 16;
                let words =
                    |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
                binary.extend(words(&[0x6561_7407, index as u32]));
                binary.extend([(micros * 1000).to_le_bytes(), sector.to_le_bytes()].concat());
                binary.extend(words(&[size as u32, action, 77, 8 << 20, 3, 0]));
            }
            _ => {}
        }
    }
    if binary.is_empty() { text.into_bytes() } else { binary }
}

fn read(path: &PathBuf, summary: bool) -> u64 {
    let mut stream =
        TraceStream::open(std::slice::from_ref(path), &TraceOptions::default()).expect("a trace");
    let mut builder = SummaryBuilder::default();
    let mut records = 0;
    while let Some(record) = stream.next().expect("undamaged") {
        records += 1;
        if summary {
            builder.add(&record);
        } else {
            black_box(record);
        }
    }
    black_box(builder);
    records
}

fn traces(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group("trace");
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(10);
    for format in
        [Format::Msr, Format::Spc, Format::Alibaba, Format::Blkparse, Format::Vscsi1, Format::Blktrace]
    {
        let path = folder.path().join(format.name());
        std::fs::write(&path, content(format)).expect("room");
        group.bench_function(format.name(), |bencher| {
            bencher.iter(|| assert_eq!(read(&path, false), RECORDS));
        });
    }
    let path = folder.path().join("alibaba");
    group
        .bench_function("alibaba-summary", |bencher| bencher.iter(|| assert_eq!(read(&path, true), RECORDS)));
    group.finish();
}

criterion_group!(benches, traces);
criterion_main!(benches);
