//! The seeded generator: workload + span + seed → operations.
//!
//! Xoshiro256++ draws 64 bits; a choice among `n` is the high half of their product with `n` (multiply-shift), whose bias is
//! at most n / 2^64. Drawn are, in this order and only where there is a choice: the part, its size, the place, read or write.
//! Nothing is allocated after the constructor and nothing depends on completions, so that the same seed gives every arm the
//! same operations in the same order.

use std::fmt;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::operation::{Operation, OperationKind};
use crate::workload::{Access, Part, Workload};
use crate::zipf::Zipf;

/// An endless stream of operations over a span.
///
/// A random stream may name a place again while an earlier operation on it is still in flight. An arm whose
/// content is verified skips such writes with [`InFlight`](crate::InFlight); skipping, rather than drawing
/// within a share of the span owned by each writer, leaves the addresses uniform over the whole span and the
/// stream independent of timing. At depth 32 over 1 GiB one operation in 8,000 is skipped.
#[derive(Clone, Debug)]
pub struct Stream {
    random: Xoshiro256PlusPlus,
    lanes: Box<[Lane]>,
    /// A draw below the bound takes the lane of the same index.
    lane_bounds: Box<[u64]>,
    /// The write of a read and write of one place.
    second: Option<Operation>,
}

/// One part on its region.
#[derive(Clone, Debug)]
struct Lane {
    begin_bytes: u64,
    len_bytes: u64,
    sizes: Box<[Size]>,
    size_bounds: Box<[u64]>,
    places: Places,
    /// Where a sequential lane goes on, from the region's beginning.
    cursor_bytes: u64,
    /// A draw below this is a read; `None` where every operation is of `only`.
    read_below: Option<u64>,
    only: OperationKind,
    durable: bool,
    read_modify_write: bool,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    bytes: u32,
    /// What its offsets are multiples of.
    align_bytes: u64,
}

#[derive(Clone, Debug)]
enum Places {
    Uniform,
    Sequential,
    /// Items of the least power of two that holds the longest request.
    Zipf {
        zipf: Zipf,
        items: Scattered,
        item_bytes: u64,
    },
    /// A draw below the bound takes the range of the same index.
    Hot {
        ranges: Box<[(u64, u64)]>,
        bounds: Box<[u64]>,
    },
    /// How far back of the cursor, in items.
    Latest {
        zipf: Zipf,
        items: u64,
        item_bytes: u64,
    },
}

/// The numbers below `count`, each once, in an order that scatters neighbours: multiples of a number that has no divisor in
/// common with it.
#[derive(Clone, Copy, Debug)]
struct Scattered {
    count: u64,
    factor: u64,
}

impl Scattered {
    fn new(count: u64) -> Self {
        // Near the golden section neighbouring ranks lie far apart, and so do those next to them.
        let mut factor = (count as f64 * 0.618_033_988_749_895) as u64 | 1;
        while greatest_common_divisor(factor, count) != 1 {
            factor += 2;
        }
        Self { count, factor }
    }

    #[inline]
    fn at(&self, rank: u64) -> u64 {
        (u128::from(rank) * u128::from(self.factor) % u128::from(self.count)) as u64
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Bounds for 64 drawn bits, by the weights; the last one is never passed.
fn bounds(weights: &[f64]) -> Box<[u64]> {
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let mut bounds: Box<[u64]> = weights
        .iter()
        .map(|weight| {
            sum += weight;
            (sum / total * 18_446_744_073_709_551_616.0) as u64
        })
        .collect();
    if let Some(last) = bounds.last_mut() {
        *last = u64::MAX;
    }
    bounds
}

#[inline]
fn choose(random: &mut Xoshiro256PlusPlus, bounds: &[u64]) -> usize {
    if bounds.len() == 1 {
        return 0;
    }
    let drawn = random.next_u64();
    bounds.iter().position(|bound| drawn < *bound).unwrap_or(bounds.len() - 1)
}

#[inline]
fn below(random: &mut Xoshiro256PlusPlus, count: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(count)) >> 64) as u64
}

impl Lane {
    fn new(part: &Part, workload: &Workload, span_bytes: u64) -> Result<Self, StreamError> {
        let largest_bytes = part.operation_bytes_max();
        // Regions begin where any request of any part may, so that those that follow one another meet. The last one ends
        // with the span.
        let unit_bytes = u64::from(workload.operation_bytes_max().next_power_of_two()).max(4096);
        let at = |percent: f64| (span_bytes as f64 * percent / 100.0) as u64 / unit_bytes * unit_bytes;
        let (begin, end) = part.region_percent;
        let begin_bytes = at(begin);
        let end_bytes = if end == 100.0 { span_bytes } else { at(end) };
        let len_bytes = end_bytes.saturating_sub(begin_bytes);
        let item_bytes = u64::from(largest_bytes.next_power_of_two());
        let items = len_bytes / item_bytes;
        if len_bytes < u64::from(largest_bytes) || (items == 0 && part.access.has_items()) {
            return Err(StreamError {
                workload: workload.name().to_owned(),
                span_bytes,
                operation_bytes: largest_bytes,
            });
        }
        let places = match &part.access {
            Access::UniformRandom => Places::Uniform,
            Access::Sequential => Places::Sequential,
            Access::Zipf(theta) => {
                Places::Zipf { zipf: Zipf::new(items, *theta), items: Scattered::new(items), item_bytes }
            }
            Access::Latest(theta) => Places::Latest { zipf: Zipf::new(items, *theta), items, item_bytes },
            Access::Hot(ranges) => {
                let mut from = 0;
                let mut percent = 0.0;
                let mut bytes: Box<[(u64, u64)]> = ranges
                    .iter()
                    .map(|range| {
                        percent += range.space_percent;
                        let to = (len_bytes as f64 * percent / 100.0) as u64 / unit_bytes * unit_bytes;
                        // Each range has room for a request, if need be at the cost of the next one.
                        let to = to.max(from + unit_bytes).min(len_bytes);
                        (std::mem::replace(&mut from, to), to)
                    })
                    .collect();
                if let Some(last) = bytes.last_mut() {
                    last.1 = len_bytes;
                }
                if bytes.iter().any(|(from, to)| to.saturating_sub(*from) < u64::from(largest_bytes)) {
                    return Err(StreamError {
                        workload: workload.name().to_owned(),
                        span_bytes,
                        operation_bytes: largest_bytes,
                    });
                }
                let weights: Vec<f64> = ranges.iter().map(|range| range.access_percent).collect();
                Places::Hot { ranges: bytes, bounds: bounds(&weights) }
            }
        };
        let sizes = part
            .sizes
            .iter()
            .map(|size| Size { bytes: size.bytes, align_bytes: 1 << size.bytes.trailing_zeros() });
        let mixed = part.read_percent > 0 && part.read_percent < 100;
        Ok(Self {
            begin_bytes,
            len_bytes,
            sizes: sizes.collect(),
            size_bounds: bounds(&part.sizes.iter().map(|size| size.weight).collect::<Vec<_>>()),
            places,
            cursor_bytes: 0,
            read_below: mixed.then(|| u64::MAX / 100 * u64::from(part.read_percent)),
            only: if part.read_percent > 0 { OperationKind::Read } else { OperationKind::Write },
            durable: part.durable,
            read_modify_write: part.read_modify_write,
        })
    }

    /// An evenly drawn place for a request within a range of the region.
    #[inline]
    fn within(random: &mut Xoshiro256PlusPlus, (from, to): (u64, u64), size: Size) -> u64 {
        let places = (to - from - u64::from(size.bytes)) / size.align_bytes + 1;
        from + below(random, places) * size.align_bytes
    }

    #[inline]
    fn kind(&self, random: &mut Xoshiro256PlusPlus) -> OperationKind {
        match self.read_below {
            Some(bound) if random.next_u64() < bound => OperationKind::Read,
            Some(_) => OperationKind::Write,
            None => self.only,
        }
    }

    /// Where the cursor's next request begins; the cursor goes behind it.
    #[inline]
    fn advance(&mut self, size: Size) -> u64 {
        let mut at = self.cursor_bytes.next_multiple_of(size.align_bytes);
        if at + u64::from(size.bytes) > self.len_bytes {
            at = 0;
        }
        self.cursor_bytes = at + u64::from(size.bytes);
        at
    }

    #[inline]
    fn next(&mut self, random: &mut Xoshiro256PlusPlus) -> Operation {
        let size = self.sizes[choose(random, &self.size_bounds)];
        let mut known = None;
        let at = match &self.places {
            Places::Uniform => Self::within(random, (0, self.len_bytes), size),
            Places::Sequential => self.advance(size),
            Places::Zipf { zipf, items, item_bytes } => {
                let from = items.at(zipf.draw(random)) * item_bytes;
                if u64::from(size.bytes) == *item_bytes {
                    from
                } else {
                    Self::within(random, (from, from + item_bytes), size)
                }
            }
            Places::Hot { ranges, bounds } => {
                let range = ranges[choose(random, bounds)];
                Self::within(random, range, size)
            }
            Places::Latest { zipf, items, item_bytes } => {
                let (zipf, items, item_bytes) = (zipf, *items, *item_bytes);
                let kind = self.kind(random);
                known = Some(kind);
                match kind {
                    OperationKind::Read => {
                        let newest = self.cursor_bytes / item_bytes + items - 1;
                        (newest - zipf.draw(random)) % items * item_bytes
                    }
                    OperationKind::Write => self.advance(size),
                }
            }
        };
        let kind = known.unwrap_or_else(|| self.kind(random));
        Operation {
            kind,
            offset_bytes: self.begin_bytes + at,
            len_bytes: size.bytes,
            durable: self.durable && kind == OperationKind::Write,
        }
    }
}

impl Stream {
    /// A stream over `span_bytes`, of which a tail shorter than an operation is left unused. A sequential
    /// part starts at its region's first byte whatever the seed.
    ///
    /// # Errors
    /// The span is so short that a part's region, or one of its ranges, holds not even one operation.
    pub fn new(workload: &Workload, span_bytes: u64, seed: u64) -> Result<Self, StreamError> {
        let parts = workload.parts();
        let lanes = parts.iter().map(|part| Lane::new(part, workload, span_bytes));
        Ok(Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            lanes: lanes.collect::<Result<_, _>>()?,
            lane_bounds: bounds(&parts.iter().map(|part| part.weight).collect::<Vec<_>>()),
            second: None,
        })
    }

    /// The next operation.
    #[inline]
    pub fn next_operation(&mut self) -> Operation {
        if let Some(second) = self.second.take() {
            return second;
        }
        let lane = &mut self.lanes[choose(&mut self.random, &self.lane_bounds)];
        let operation = lane.next(&mut self.random);
        if lane.read_modify_write && operation.kind == OperationKind::Write {
            self.second = Some(operation);
            return Operation { kind: OperationKind::Read, durable: false, ..operation };
        }
        operation
    }

    /// FNV-1a over the next operations, field by field: simple enough to be worked out by any other program. Two
    /// streams of one digest asked for the same.
    pub fn digest(mut self, operations: usize) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for _ in 0..operations {
            let operation = self.next_operation();
            let kind = [operation.kind as u8, u8::from(operation.durable)];
            let fields = operation.offset_bytes.to_le_bytes().into_iter();
            for byte in fields.chain(operation.len_bytes.to_le_bytes()).chain(kind) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        hash
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

/// The span holds not even one operation of some part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The workload.
    pub workload: String,
    /// The span asked for, in bytes.
    pub span_bytes: u64,
    /// The length of the longest operation of that part in bytes.
    pub operation_bytes: u32,
}

impl fmt::Display for StreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: a span of {} bytes is too short: every region and hot range must hold an operation of {} bytes",
            self.workload, self.span_bytes, self.operation_bytes
        )
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests;
