//! The seeded generator: workload + span + seed → operations.
//!
//! Xoshiro256++ draws 64 bits; the place is the high half of their product with the number of places
//! (multiply-shift), whose bias is at most places / 2^64. A mixed workload spends a second draw on read or
//! write. Nothing is allocated and nothing depends on completions, so that the same seed gives every arm the
//! same operations in the same order.

use std::fmt;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::operation::{Operation, OperationKind};
use crate::workload::{Access, Durability, Workload};

/// An endless stream of operations over a span.
///
/// A random stream may name a place again while an earlier operation on it is still in flight. An arm whose
/// content is verified skips such writes with [`InFlight`](crate::InFlight); skipping, rather than drawing
/// within a share of the span owned by each writer, leaves the addresses uniform over the whole span and the
/// stream independent of timing. At depth 32 over 1 GiB one operation in 8,000 is skipped.
#[derive(Clone, Debug)]
pub struct Stream {
    random: Xoshiro256PlusPlus,
    /// Places of `operation_bytes` in the span.
    places: u64,
    /// The next place of a sequential stream.
    cursor: u64,
    operation_bytes: u32,
    access: Access,
    /// A draw below this is a read; `None` where every operation is of `only`.
    read_below: Option<u64>,
    only: OperationKind,
    durable: bool,
}

impl Stream {
    /// A stream over `span_bytes`, of which a tail shorter than an operation is left unused. A sequential
    /// stream starts at the span's first byte whatever the seed.
    pub fn new(workload: &Workload, span_bytes: u64, seed: u64) -> Result<Self, StreamError> {
        let places = span_bytes / u64::from(workload.operation_bytes);
        if places == 0 {
            return Err(StreamError { span_bytes, operation_bytes: workload.operation_bytes });
        }
        let mixed = workload.reads() && workload.writes();
        Ok(Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            places,
            cursor: 0,
            operation_bytes: workload.operation_bytes,
            access: workload.access,
            read_below: mixed.then(|| u64::MAX / 100 * u64::from(workload.read_percent)),
            only: if workload.reads() { OperationKind::Read } else { OperationKind::Write },
            durable: workload.durability != Durability::None,
        })
    }

    /// Places an operation can start at: the span divided by the operation's length.
    pub const fn places(&self) -> u64 {
        self.places
    }

    /// The next operation.
    #[inline]
    pub fn next_operation(&mut self) -> Operation {
        let place = match self.access {
            Access::UniformRandom => {
                let product = u128::from(self.random.next_u64()) * u128::from(self.places);
                (product >> 64) as u64
            }
            Access::Sequential => {
                let place = self.cursor;
                self.cursor = if place + 1 == self.places { 0 } else { place + 1 };
                place
            }
        };
        let kind = match self.read_below {
            Some(bound) if self.random.next_u64() < bound => OperationKind::Read,
            Some(_) => OperationKind::Write,
            None => self.only,
        };
        Operation {
            kind,
            offset_bytes: place * u64::from(self.operation_bytes),
            len_bytes: self.operation_bytes,
            durable: self.durable && kind == OperationKind::Write,
        }
    }
}

impl Iterator for Stream {
    type Item = Operation;

    /// Always `Some`: the stream has no end.
    #[inline]
    fn next(&mut self) -> Option<Operation> {
        Some(self.next_operation())
    }
}

/// The span holds not even one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The span asked for, in bytes.
    pub span_bytes: u64,
    /// The length of one operation in bytes.
    pub operation_bytes: u32,
}

impl fmt::Display for StreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "a span of {} bytes is shorter than one operation of {} bytes",
            self.span_bytes, self.operation_bytes
        )
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN_BYTES: u64 = 1 << 30;

    fn stream(name: &str, span_bytes: u64, seed: u64) -> Stream {
        let workload = Workload::from_name(name).expect("a known name");
        Stream::new(&workload, span_bytes, seed).expect("the span is long enough")
    }

    /// FNV-1a over the fields: simple enough to be recomputed by any other program.
    fn digest(stream: Stream, operations: usize) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for operation in stream.take(operations) {
            let kind = [operation.kind as u8, u8::from(operation.durable)];
            let fields = operation.offset_bytes.to_le_bytes().into_iter();
            for byte in fields.chain(operation.len_bytes.to_le_bytes()).chain(kind) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
    }

    /// The digests were computed by a second implementation in another language. A changed one means that
    /// results made before and after the change saw different operations.
    #[test]
    fn the_first_operations_are_the_ones_they_always_were() {
        let golden = [
            ("randread-4k", 0x0524_870f_a383_5dc4),
            ("randwrite-4k", 0xeb65_c767_e270_c8e0),
            ("seqread-1m", 0x919e_3e04_015c_08e5),
            ("seqwrite-1m", 0x8653_6253_176d_f245),
            ("mixed-4k", 0xcd34_da8d_6386_b10c),
            ("durable-4k", 0x5a9a_2b14_9673_03e8),
            ("durable-4k-dsync", 0x5a9a_2b14_9673_03e8),
        ];
        assert_eq!(golden.len(), Workload::ALL.len());
        let found: Vec<_> =
            golden.iter().map(|(name, _)| (*name, digest(stream(name, SPAN_BYTES, 42), 100_000))).collect();
        assert_eq!(found, golden, "{found:#x?}");
    }

    #[test]
    fn seeds_make_the_stream() {
        let first = digest(stream("mixed-4k", SPAN_BYTES, 7), 10_000);
        assert_eq!(first, digest(stream("mixed-4k", SPAN_BYTES, 7), 10_000));
        assert_ne!(first, digest(stream("mixed-4k", SPAN_BYTES, 8), 10_000));
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
        for workload in Workload::ALL {
            let span_bytes = u64::from(workload.operation_bytes) * 37 + 4096;
            let mut seen = [false; 38];
            let mut stream = Stream::new(&workload, span_bytes, 3).expect("long enough");
            let places = stream.places().min(38);
            for operation in stream.by_ref().take(2_000) {
                assert_eq!(operation.len_bytes, workload.operation_bytes);
                assert_eq!(operation.offset_bytes % u64::from(operation.len_bytes), 0);
                assert!(operation.offset_bytes + u64::from(operation.len_bytes) <= span_bytes);
                let place = (operation.offset_bytes / u64::from(operation.len_bytes)) as usize;
                seen[place] = true;
                if operation.kind == OperationKind::Read {
                    assert!(!operation.durable);
                }
            }
            assert!(seen[..places as usize].iter().all(|seen| *seen), "{workload} leaves places out");
        }
    }

    #[test]
    fn the_mix_is_seventy_percent_reads() {
        let reads = stream("mixed-4k", SPAN_BYTES, 11)
            .take(1_000_000)
            .filter(|operation| operation.kind == OperationKind::Read)
            .count();
        // Five standard deviations of a binomial with n = 1,000,000 and p = 0.7.
        assert!(reads.abs_diff(700_000) < 2_300, "{reads} reads");
    }

    #[test]
    fn a_sequential_stream_wraps() {
        let span_bytes = 3 << 20;
        let offsets: Vec<_> =
            stream("seqwrite-1m", span_bytes, 9).take(7).map(|o| o.offset_bytes >> 20).collect();
        assert_eq!(offsets, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn only_durable_workloads_ask_for_durability() {
        for workload in Workload::ALL {
            let durable = workload.durability != Durability::None;
            let mut stream = Stream::new(&workload, SPAN_BYTES, 1).expect("long enough");
            assert_eq!(stream.next_operation().durable, durable, "{workload}");
        }
    }

    #[test]
    fn a_span_without_room_is_refused() {
        let workload = Workload::from_name("seqread-1m").expect("a known name");
        let error = Stream::new(&workload, (1 << 20) - 1, 0).expect_err("one byte short");
        assert_eq!(error, StreamError { span_bytes: (1 << 20) - 1, operation_bytes: 1 << 20 });
    }
}
