//! Streams against what their workloads say, and workloads' files that are wrong.

use std::collections::HashMap;

use super::*;
use crate::spec;
use crate::workload::Durability;

const SPAN_BYTES: u64 = 1 << 30;
const DRAWS: usize = 400_000;

fn stream(name: &str, span_bytes: u64, seed: u64) -> Stream {
    let workload = Workload::from_name(name).expect("a known name");
    Stream::new(&workload, span_bytes, seed).expect("the span is long enough")
}

/// Whether so many of `draws` agree with a probability: within five standard deviations of the binomial.
fn agrees(count: usize, draws: usize, probability: f64) -> bool {
    let mean = draws as f64 * probability;
    (count as f64 - mean).abs() <= 5.0 * (mean * (1.0 - probability)).sqrt() + 1.0
}

/// The digests of the first seven were computed by a second implementation in another language, the others when their workload was
/// first written. A changed one means that results made before and after the change saw different operations.
#[test]
fn the_first_operations_are_the_ones_they_always_were() {
    let mut found: Vec<(&str, u64)> = Vec::new();
    for workload in Workload::all() {
        let name = workload.name().split(':').next().unwrap();
        let digest = Stream::new(workload, SPAN_BYTES, 42).unwrap().digest(100_000);
        match found.last_mut() {
            // The members of a sweep are one.
            Some((last, all)) if *last == name => *all = all.rotate_left(1) ^ digest,
            _ => found.push((name, digest)),
        }
    }
    assert_eq!(found, GOLDEN, "{found:#x?}");
}

#[test]
fn seeds_make_the_stream() {
    for workload in Workload::all() {
        let of = |seed| Stream::new(workload, SPAN_BYTES, seed).unwrap().digest(10_000);
        assert_eq!(of(7), of(7), "{workload}");
        // A sequential stream of one kind has nothing to draw.
        let draws = workload.only_part().is_none_or(|(part, _)| part.access != Access::Sequential);
        assert_eq!(of(7) != of(8), draws, "{workload}");
    }
}

/// Pearson's chi-square over equal bins. With 1,023 degrees of freedom the statistic has mean 1,023 and
/// standard deviation 45; the bounds are five deviations on either side, so that "too even" fails as well.
#[test]
fn places_are_uniform() {
    const BINS: usize = 1024;
    const DRAWS: usize = 1_024_000;
    // A count of places that is no power of two, where a biased reduction would show.
    for span_bytes in [SPAN_BYTES, 4096 * 3 * 1024 * 85] {
        for seed in 0..4 {
            let mut counts = [0_u32; BINS];
            for operation in stream("randread-4k", span_bytes, seed).take(DRAWS) {
                let bin = u128::from(operation.offset_bytes) * BINS as u128 / u128::from(span_bytes);
                counts[bin as usize] += 1;
            }
            let expected = (DRAWS / BINS) as f64;
            let statistic: f64 =
                counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
            assert!((797.0..1249.0).contains(&statistic), "chi-square {statistic}, seed {seed}");
        }
    }
}

#[test]
fn every_operation_is_aligned_and_inside() {
    for workload in Workload::all() {
        // The least span that is possible, one a little longer, and some that are no round numbers.
        let least =
            (1..).map(|units| units * 4096).find(|span| Stream::new(workload, *span, 3).is_ok()).unwrap();
        assert!(least <= 64 << 20, "{workload}: {least}");
        for span_bytes in [least, least + 4096, 3 * least + 4608, 37 * least + 512] {
            let stream = Stream::new(workload, span_bytes, 3).unwrap();
            for operation in stream.take(20_000) {
                assert!(operation.len_bytes > 0);
                let align_bytes = 1 << operation.len_bytes.trailing_zeros();
                assert_eq!(operation.offset_bytes % align_bytes, 0, "{workload}: {operation:?}");
                assert_eq!(operation.offset_bytes % u64::from(workload.unit_bytes()), 0);
                assert!(operation.offset_bytes + u64::from(operation.len_bytes) <= span_bytes, "{workload}");
                assert!(operation.kind == OperationKind::Write || !operation.durable);
                let durable = operation.durable;
                assert!(!durable || workload.durability() != Durability::None, "{workload}");
            }
        }
    }
}

#[test]
fn a_uniform_stream_leaves_nothing_out() {
    for (name, bytes) in [("randwrite-4k", 4096), ("seqwrite-1m", 1 << 20)] {
        let mut seen = [false; 37];
        for operation in stream(name, 37 * bytes + 512, 3).take(2_000) {
            seen[(operation.offset_bytes / bytes) as usize] = true;
        }
        assert!(seen.iter().all(|seen| *seen), "{name} leaves places out");
    }
}

/// Reads, sizes and parts, each against its share.
#[test]
fn mixes_have_their_shares() {
    for workload in Workload::all().iter().filter(|workload| !workload.name().starts_with("ycsb-f")) {
        let total: f64 = workload.parts().iter().map(|part| part.weight).sum();
        let mut expected: HashMap<(bool, u32), f64> = HashMap::new();
        for part in workload.parts() {
            let sizes: f64 = part.sizes.iter().map(|size| size.weight).sum();
            for size in &part.sizes {
                let share = part.weight / total * size.weight / sizes;
                let reads = f64::from(part.read_percent) / 100.0;
                *expected.entry((true, size.bytes)).or_default() += share * reads;
                *expected.entry((false, size.bytes)).or_default() += share * (1.0 - reads);
            }
        }
        let mut counts: HashMap<(bool, u32), usize> = HashMap::new();
        for operation in Stream::new(workload, SPAN_BYTES, 11).unwrap().take(DRAWS) {
            *counts.entry((operation.kind == OperationKind::Read, operation.len_bytes)).or_default() += 1;
        }
        assert!(counts.keys().all(|key| expected.contains_key(key)), "{workload}: {counts:?}");
        for (key, probability) in expected {
            let count = counts.get(&key).copied().unwrap_or(0);
            assert!(agrees(count, DRAWS, probability), "{workload} {key:?}: {count}, not {probability}");
        }
    }
}

#[test]
fn hot_ranges_have_their_shares_and_each_part_its_region() {
    let mut counts = [0_usize; 3];
    for operation in stream("jesd219", SPAN_BYTES, 5).take(DRAWS) {
        let percent = operation.offset_bytes as f64 / SPAN_BYTES as f64 * 100.0;
        counts[if percent < 5.0 {
            0
        } else if percent < 20.0 {
            1
        } else {
            2
        }] += 1;
    }
    // The ranges end at whole requests of the longest size, which moves less than the spread of the counts.
    for (count, share) in counts.into_iter().zip([0.5, 0.3, 0.2]) {
        assert!((count as f64 / DRAWS as f64 - share).abs() < 0.005, "{counts:?}");
    }
    for operation in stream("database", SPAN_BYTES, 5).take(DRAWS) {
        let in_log = operation.offset_bytes < SPAN_BYTES / 10 / 8192 * 8192;
        assert_eq!(operation.len_bytes == 4096, in_log, "{operation:?}");
        assert_eq!(operation.durable, in_log);
    }
}

/// The most frequent place of all is drawn as often as the law says, and the frequent ones lie apart.
#[test]
fn popular_places_lie_scattered() {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for operation in stream("ycsb-c", SPAN_BYTES, 5).take(DRAWS) {
        *counts.entry(operation.offset_bytes / 4096).or_default() += 1;
    }
    let places = SPAN_BYTES / 4096;
    let total: f64 = (1..=places).map(|rank| (rank as f64).powf(-0.99)).sum();
    let mut by_count: Vec<(usize, u64)> = counts.into_iter().map(|(place, count)| (count, place)).collect();
    by_count.sort_unstable_by(|one, other| other.cmp(one));
    for (rank, (count, _)) in (1..=5).zip(&by_count) {
        let probability = f64::from(rank).powf(-0.99) / total;
        assert!(agrees(*count, DRAWS, probability), "rank {rank}: {count}, not {probability}");
    }
    let mut hottest: Vec<u64> = by_count[..64].iter().map(|(_, place)| *place).collect();
    hottest.sort_unstable();
    let nearest = hottest.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    assert!(nearest > places / 64 / 8, "two of the 64 hottest places are {nearest} apart");
}

#[test]
fn every_place_has_one_rank() {
    for count in [1, 2, 3, 4, 97, 4096, 30_030] {
        let scattered = Scattered::new(count);
        let mut places: Vec<u64> = (0..count).map(|rank| scattered.at(rank)).collect();
        places.sort_unstable();
        assert_eq!(places, (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn the_latest_are_read_most() {
    let (mut newest, mut back) = (None, Vec::new());
    for operation in stream("ycsb-d", 64 << 20, 5).take(DRAWS) {
        let place = operation.offset_bytes / 4096;
        match (operation.kind, newest) {
            (OperationKind::Write, _) => newest = Some(place),
            (OperationKind::Read, Some(newest)) => back.push((newest + 16_384 - place) % 16_384),
            (OperationKind::Read, None) => {}
        }
    }
    let total: f64 = (1..=16_384).map(|rank| f64::from(rank).powf(-0.99)).sum();
    for distance in 0..3 {
        let count = back.iter().filter(|other| **other == distance).count();
        let probability = ((distance + 1) as f64).powf(-0.99) / total;
        assert!(agrees(count, back.len(), probability), "{distance} back: {count} of {}", back.len());
    }
}

#[test]
fn what_is_modified_is_read_before() {
    let mut last = None;
    let (mut plain, mut modified) = (0, 0);
    for operation in stream("ycsb-f", SPAN_BYTES, 5).take(DRAWS) {
        if operation.kind == OperationKind::Write {
            let read = last.take().expect("a write follows its read");
            assert_eq!(Operation { kind: OperationKind::Write, ..read }, operation);
            modified += 1;
            plain -= 1;
        } else {
            last = Some(operation);
            plain += 1;
        }
    }
    assert!(agrees(modified, modified + plain, 0.5), "{modified} of {}", modified + plain);
}

#[test]
fn a_sequential_stream_wraps() {
    let span_bytes = 3 << 20;
    let offsets: Vec<_> =
        stream("seqwrite-1m", span_bytes, 9).take(7).map(|o| o.offset_bytes >> 20).collect();
    assert_eq!(offsets, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn a_span_without_room_is_refused() {
    let workload = Workload::from_name("seqread-1m").expect("a known name");
    let error = Stream::new(&workload, (1 << 20) - 1, 0).expect_err("one byte short");
    assert_eq!((error.span_bytes, error.operation_bytes), ((1 << 20) - 1, 1 << 20));
    assert!(error.to_string().starts_with("seqread-1m: a span of 1048575 bytes"), "{error}");
}

const WRONG: [(&str, &str); 14] = [
    ("name = 3", "string"),
    ("name = \"a b\"", "letters"),
    ("read_percent = 101", "above 100"),
    ("read_percent = 300", "300"),
    ("sizes = { \"5\" = 1 }", "\"5\""),
    ("sizes = { \"32M\" = 1 }", "\"32M\""),
    ("sizes = { \"4K\" = 0 }", "weight"),
    ("sizes = { \"4K\" = nan }", "weight"),
    ("sizes = {}", "0 sizes"),
    ("access = { zipf = 0 }", "exponent"),
    ("access = { hot = [{ space_percent = 5, access_percent = 100 }] }", "make 100"),
    ("region_percent = [50, 50]", "begin < end"),
    ("durable = true", "durability"),
    ("reads = 5", "unknown field"),
];

/// Each wrong line alone makes the file refused, with a reason that names it.
#[test]
fn wrong_files_are_refused_with_the_reason() {
    let lines = [
        ("name", "\"x\""),
        ("question", "\"?\""),
        ("part", ""),
        ("access", "\"uniform\""),
        ("read_percent", "50"),
        ("sizes", "{ \"4K\" = 1 }"),
    ];
    let with = |wrong: &str| -> String {
        let key = wrong.split(' ').next().unwrap();
        let mut text = String::new();
        for (name, value) in lines {
            match name {
                "part" => text += "[[part]]\n",
                _ if name == key => text += &format!("{wrong}\n"),
                _ => text += &format!("{name} = {value}\n"),
            }
        }
        if lines.iter().all(|(name, _)| *name != key) { text + wrong } else { text }
    };
    assert_eq!(spec::parse(&with("")).unwrap().len(), 1);
    for (wrong, reason) in WRONG {
        let refused = spec::parse(&with(wrong)).expect_err(wrong);
        assert!(refused.contains(reason), "{wrong}: {refused}");
    }
}

/// Files come from users: whatever stands in them is understood or refused, and what is understood generates.
#[test]
fn damaged_files_do_no_harm() {
    let originals: Vec<&str> = crate::workload::BUILT_IN.to_vec();
    let cases: usize =
        std::env::var("ICECORE_FUZZ_CASES").map_or(3_000, |cases| cases.parse().expect("a number of cases"));
    let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..cases {
        let mut draw = |count: usize| below(&mut random, count as u64) as usize;
        let mut bytes = originals[draw(originals.len())].as_bytes().to_vec();
        for _ in 0..=draw(3) {
            let at = draw(bytes.len());
            match draw(6) {
                0 => bytes[at] = draw(256) as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"0123456789.-e[]{}\"#=,\n"[draw(22)]),
                3 => {
                    let number =
                        [&b"1e308"[..], b"-1", b"18446744073709551616", b"nan", b"0.0000001"][draw(5)];
                    bytes.splice(at..at, number.iter().copied());
                }
                4 => {
                    bytes.remove(at);
                }
                _ => {
                    let from = draw(bytes.len());
                    let piece: Vec<u8> = bytes[from..(from + draw(80)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match spec::parse(&text) {
            Err(reason) => {
                assert!(!reason.is_empty());
                refused += 1;
            }
            Ok(workloads) => {
                understood += 1;
                for workload in workloads.iter().take(2) {
                    if let Ok(stream) = Stream::new(workload, 16 << 20, 1) {
                        let inside = |operation: Operation| {
                            operation.offset_bytes + u64::from(operation.len_bytes) <= 16 << 20
                        };
                        assert!(stream.take(50).all(inside), "{text}");
                    }
                }
            }
        }
    }
    assert!(understood > cases / 20 && refused > cases / 20, "{understood} understood, {refused} refused");
}

const GOLDEN: [(&str, u64); 23] = [
    ("randread-4k", 0x0524_870f_a383_5dc4),
    ("randwrite-4k", 0xeb65_c767_e270_c8e0),
    ("seqread-1m", 0x919e_3e04_015c_08e5),
    ("seqwrite-1m", 0x8653_6253_176d_f245),
    ("mixed-4k", 0xcd34_da8d_6386_b10c),
    ("durable-4k", 0x5a9a_2b14_9673_03e8),
    ("durable-4k-dsync", 0x5a9a_2b14_9673_03e8),
    ("oltp", 0x6f1a_5045_1dc1_856c),
    ("mail", 0x50d2_4252_3470_64c1),
    ("file", 0x6e0b_9cb8_a045_7bc8),
    ("web", 0xf774_0245_fea9_c377),
    ("jesd219", 0x45f0_3869_e533_15d1),
    ("spc1-like", 0x3c87_2c42_6277_4de8),
    ("dblog", 0x3fd6_0732_3b95_c945),
    ("database", 0x4be8_a568_c11a_f72b),
    ("ycsb-a", 0x846c_e42b_190f_83de),
    ("ycsb-b", 0xaac5_84c5_bd5e_0157),
    ("ycsb-c", 0xfd25_f897_fd41_2592),
    ("ycsb-d", 0x2994_82b4_01a6_5086),
    ("ycsb-e", 0x6e6d_17cb_299b_a8b8),
    ("ycsb-f", 0xf296_9717_13de_f367),
    ("hot", 0xe8fc_e5be_a62a_9400),
    ("snia-matrix", 0xf75b_247b_2f38_54f2),
];
