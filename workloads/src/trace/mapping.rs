//! A trace made to fit a target: volumes selected, addresses folded or scaled into a span, time made faster or slower.
//!
//! Invariant: what comes out lies within the span, and begins and ends at multiples of the alignment. What was asked
//! for ([`Mapping`]) and what it did ([`MappingCounts`]) are kept, so that they can stand in a manifest.

use std::collections::BTreeSet;
use std::fmt;

use super::error::TraceError;
use super::record::{Record, RecordKind};
use super::stream::RecordSource;

/// How addresses of the trace become addresses of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The address modulo the span: what lies near to each other stays so, far places may fall together.
    Fold,
    /// The address times span / source span: every place has its own share, and neighbours move together or apart.
    /// Addresses beyond `source_span_bytes` go to the end.
    Scale {
        /// The end of the trace's addresses.
        source_span_bytes: u64,
    },
}

impl Addresses {
    /// Its name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Addresses::Fold => "fold",
            Addresses::Scale { .. } => "scale",
        }
    }
}

/// How much faster time passes, in millionths, so that arrivals are the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    millionths: u64,
}

impl Speed {
    const ONE: u64 = 1_000_000;

    /// As recorded.
    pub const RECORDED: Speed = Speed { millionths: Self::ONE };

    /// `factor` times as fast.
    ///
    /// # Errors
    /// The factor is not from 0.000001 to 1,000,000,000.
    pub fn new(factor: f64) -> Result<Self, MappingError> {
        let millionths = factor * Self::ONE as f64;
        if !(1.0..=1e15).contains(&millionths) {
            return Err(MappingError("a speed is a number from 0.000001 to 1000000000"));
        }
        Ok(Self { millionths: millionths.round() as u64 })
    }

    /// How many times as fast.
    pub fn factor(self) -> f64 {
        self.millionths as f64 / Self::ONE as f64
    }

    fn apply(self, time_ns: u64) -> u64 {
        let scaled = u128::from(time_ns) * u128::from(Self::ONE) / u128::from(self.millionths);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

/// What is to be done with a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// How addresses are mapped.
    pub addresses: Addresses,
    /// The target's span.
    pub span_bytes: u64,
    /// What offsets and lengths are multiples of; a power of two, and at most the span.
    pub alignment_bytes: u32,
    /// The volumes that take part, laid over each other; all if empty.
    pub volumes: BTreeSet<u32>,
    /// How fast time passes.
    pub speed: Speed,
}

/// What a mapping has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingCounts {
    /// Records passed on.
    pub records: u64,
    /// Records of volumes that take no part.
    pub other_volumes: u64,
    /// Records that lay beyond the span (fold) or the source span (scale).
    pub beyond_span: u64,
    /// Records whose offset was rounded down or whose length was rounded up.
    pub aligned: u64,
    /// Records moved back so that their end is within the span.
    pub moved_back: u64,
    /// Records shortened because they are longer than the span, or than a length can say.
    pub shortened: u64,
    /// When the first record that takes part arrived; arrivals count from there.
    pub first_arrival_ns: u64,
}

/// A mapping cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingError(&'static str);

impl fmt::Display for MappingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for MappingError {}

/// A source of records made to fit.
pub struct Mapped<S> {
    source: S,
    mapping: Mapping,
    /// The span without what is left over behind the last aligned place.
    span_bytes: u64,
    counts: MappingCounts,
}

impl<S: RecordSource> Mapped<S> {
    /// The records of `source`, mapped.
    ///
    /// # Errors
    /// The alignment is no power of two, or longer than the span; the source span is 0.
    pub fn new(source: S, mapping: Mapping) -> Result<Self, MappingError> {
        let alignment = u64::from(mapping.alignment_bytes);
        if !alignment.is_power_of_two() || alignment > 1 << 30 {
            return Err(MappingError("the alignment is a power of two, up to 1 GiB"));
        }
        if mapping.span_bytes < alignment {
            return Err(MappingError("the span is shorter than the alignment"));
        }
        if mapping.addresses == (Addresses::Scale { source_span_bytes: 0 }) {
            return Err(MappingError("a span of 0 bytes cannot be scaled"));
        }
        let span_bytes = mapping.span_bytes - mapping.span_bytes % alignment;
        Ok(Self { source, mapping, span_bytes, counts: MappingCounts::default() })
    }

    /// What is done.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What it did so far.
    pub fn counts(&self) -> MappingCounts {
        self.counts
    }

    /// The source, which may know more about the trace.
    pub fn source(&self) -> &S {
        &self.source
    }

    fn map(&mut self, record: Record) -> Record {
        if self.counts.records == 0 {
            self.counts.first_arrival_ns = record.arrival_ns;
        }
        self.counts.records += 1;
        let arrival_ns = self.mapping.speed.apply(record.arrival_ns - self.counts.first_arrival_ns);
        if record.kind == RecordKind::Flush {
            return Record { arrival_ns, ..record };
        }
        let alignment = u64::from(self.mapping.alignment_bytes);
        let span = self.span_bytes;
        let (offset, beyond) = match self.mapping.addresses {
            Addresses::Fold => (record.offset_bytes % span, record.end_bytes() > span),
            Addresses::Scale { source_span_bytes } => {
                let inside = record.offset_bytes.min(source_span_bytes);
                let scaled = u128::from(inside) * u128::from(span) / u128::from(source_span_bytes);
                (scaled as u64, record.end_bytes() > source_span_bytes)
            }
        };
        self.counts.beyond_span += u64::from(beyond);
        // The blocks that the request touches, so that it may become longer by two of them.
        let begin = offset - offset % alignment;
        let end = offset.saturating_add(u64::from(record.len_bytes)).next_multiple_of(alignment);
        self.counts.aligned += u64::from(begin != offset || end - offset != u64::from(record.len_bytes));
        let len_max = span.min(u64::from(u32::MAX) / alignment * alignment);
        let len = (end - begin).min(len_max);
        self.counts.shortened += u64::from(len < end - begin);
        let offset_bytes = begin.min(span - len);
        self.counts.moved_back += u64::from(offset_bytes < begin);
        Record { arrival_ns, offset_bytes, len_bytes: len as u32, ..record }
    }
}

impl<S: RecordSource> RecordSource for Mapped<S> {
    fn next(&mut self) -> Result<Option<Record>, TraceError> {
        while let Some(record) = self.source.next()? {
            if self.mapping.volumes.is_empty() || self.mapping.volumes.contains(&record.volume) {
                return Ok(Some(self.map(record)));
            }
            self.counts.other_volumes += 1;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    struct Given(std::vec::IntoIter<Record>);

    impl RecordSource for Given {
        fn next(&mut self) -> Result<Option<Record>, TraceError> {
            Ok(self.0.next())
        }
    }

    fn mapping(addresses: Addresses, span_bytes: u64) -> Mapping {
        Mapping {
            addresses,
            span_bytes,
            alignment_bytes: 4096,
            volumes: BTreeSet::new(),
            speed: Speed::RECORDED,
        }
    }

    fn mapped(records: Vec<Record>, mapping: Mapping) -> (Vec<Record>, MappingCounts) {
        let mut source = Mapped::new(Given(records.into_iter()), mapping).expect("possible");
        let mut out = Vec::new();
        while let Some(record) = source.next().expect("no error") {
            out.push(record);
        }
        (out, source.counts())
    }

    fn write(arrival_ns: u64, volume: u32, offset: u64, len: u32) -> Record {
        Record::new(arrival_ns, volume, RecordKind::Write, offset, len)
    }

    fn places(records: &[Record]) -> Vec<(u64, u32)> {
        records.iter().map(|record| (record.offset_bytes, record.len_bytes)).collect()
    }

    #[test]
    fn folding_is_modulo_and_keeps_alignment_and_length() {
        let span = 1 << 20;
        let (out, counts) = mapped(
            vec![
                write(0, 0, 4096, 4096),
                write(0, 0, (7 << 20) + 8192, 4096),
                write(0, 0, (1 << 20) - 4096, 8192),
                write(0, 0, 512, 4096),
                write(0, 0, 0, 3 << 20),
            ],
            mapping(Addresses::Fold, span + 100),
        );
        let expected = [(4096, 4096), (8192, 4096), (span - 8192, 8192), (0, 8192), (0, 1 << 20)];
        assert_eq!(places(&out), expected);
        let expected = MappingCounts {
            records: 5,
            beyond_span: 3,
            aligned: 1,
            moved_back: 1,
            shortened: 1,
            ..MappingCounts::default()
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn scaling_is_linear() {
        let scale = Addresses::Scale { source_span_bytes: 1 << 30 };
        let records = vec![write(0, 0, 0, 4096), write(0, 0, 1 << 29, 4096), write(0, 0, 1 << 30, 4096)];
        let (out, counts) = mapped(records, mapping(scale, 1 << 20));
        assert_eq!(places(&out), [(0, 4096), (1 << 19, 4096), ((1 << 20) - 4096, 4096)]);
        assert_eq!((counts.beyond_span, counts.moved_back), (1, 1));
    }

    #[test]
    fn time_and_volumes() {
        let volumes = BTreeSet::from([2, 5]);
        let speed = Speed::new(2.5).expect("possible");
        let records = vec![
            write(100, 1, 0, 4096),
            write(1_000, 2, 0, 4096),
            write(1_500, 5, 0, 4096),
            write(2_000, 3, 0, 4096),
            Record::new(11_000, 2, RecordKind::Flush, 0, 0),
        ];
        let (out, counts) = mapped(records, Mapping { volumes, speed, ..mapping(Addresses::Fold, 1 << 20) });
        assert_eq!(out.iter().map(|record| record.arrival_ns).collect::<Vec<_>>(), [0, 200, 4_000]);
        assert_eq!((counts.records, counts.other_volumes, counts.first_arrival_ns), (3, 2, 1_000));
        assert_eq!(out[2].kind, RecordKind::Flush);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(Speed::new(wrong).is_err(), "{wrong}");
        }
        let fastest = Speed::new(1e9).expect("possible");
        assert_eq!(fastest.apply(u64::MAX), u64::MAX / 1_000_000_000);
        assert_eq!(Speed::new(0.000_001).expect("possible").apply(u64::MAX), u64::MAX);
    }

    #[test]
    fn everything_lands_within_the_span() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        for round in 0..20_000 {
            let alignment = 1_u64 << (random.next_u64() % 20);
            let span = alignment + (random.next_u64() >> (random.next_u64() % 63));
            let source_span_bytes = 1 + (random.next_u64() >> (random.next_u64() % 63));
            let addresses =
                if round % 2 == 0 { Addresses::Fold } else { Addresses::Scale { source_span_bytes } };
            let offset = random.next_u64() >> 1 >> (random.next_u64() % 63);
            let len = (random.next_u64() >> (32 + random.next_u64() % 32)).max(1) as u32;
            let mapping = Mapping { alignment_bytes: alignment as u32, ..mapping(addresses, span) };
            let (out, _) = mapped(vec![write(0, 0, offset, len)], mapping);
            let record = out[0];
            assert!(record.len_bytes > 0 && record.end_bytes() <= span, "{record:?} in {span}");
            assert_eq!((record.offset_bytes % alignment, u64::from(record.len_bytes) % alignment), (0, 0));
        }
    }

    #[test]
    fn impossible_mappings_are_refused() {
        let refused = |mapping| Mapped::new(Given(Vec::new().into_iter()), mapping).is_err();
        let fold = mapping(Addresses::Fold, 1 << 20);
        assert!(refused(Mapping { alignment_bytes: 0, ..fold.clone() }));
        assert!(refused(Mapping { alignment_bytes: 3000, ..fold.clone() }));
        assert!(refused(Mapping { span_bytes: 4095, ..fold.clone() }));
        assert!(refused(Mapping { addresses: Addresses::Scale { source_span_bytes: 0 }, ..fold.clone() }));
        assert!(!refused(fold));
    }
}
