//! Which blocks a trace touches, and how its accesses are spread over them, in bounded memory.
//!
//! Addresses are looked at in pieces of 128 MiB of a volume, each with the blocks of 4 KiB that were touched and the
//! accesses of each MiB, which is called a region. Either is a short list as long as there are few, then a table. As long
//! as all of that takes no more than [`BYTES_MAX`], everything is exact. From then on only half of the pieces are looked
//! at, chosen by a hash of their address, then a quarter and so on, and the numbers are an estimate: those of the pieces
//! looked at, times two, four and so on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use super::record::{Record, RecordKind};

/// What is counted in the footprint.
pub const BLOCK_BYTES: u64 = 4096;
/// What is counted for hot spots.
pub const REGION_BYTES: u64 = 1 << 20;

const PIECE_BYTES: u64 = 128 << 20;
const PIECE_BLOCKS: u64 = PIECE_BYTES / BLOCK_BYTES;
const WORDS: usize = (PIECE_BLOCKS / 64) as usize;
const REGIONS: usize = (PIECE_BYTES / REGION_BYTES) as usize;
/// What is kept may take so much: 440 GiB that are touched everywhere, or 96,000 pieces with one block each.
const BYTES_MAX: usize = 16 << 20;
/// Beside its lists or tables, what a piece takes in the table of pieces.
const PIECE_OVERHEAD_BYTES: usize = 128;
/// The longest list of blocks, an eighth of a table; and of regions, a quarter of one.
const FEW_BLOCKS: usize = 256;
const FEW_REGIONS: usize = 16;

/// The blocks of a piece that were touched.
enum Blocks {
    /// In ascending order.
    Few(Vec<u16>),
    Many(Box<[u64; WORDS]>),
}

/// How many accesses began in each region of a piece.
enum Accesses {
    Few(Vec<(u8, u32)>),
    Many(Box<[u32; REGIONS]>),
}

struct Piece {
    blocks: Blocks,
    accesses: Accesses,
}

impl Piece {
    fn new() -> Self {
        Self { blocks: Blocks::Few(Vec::new()), accesses: Accesses::Few(Vec::new()) }
    }

    /// Marks the blocks from `from` to `to`, both included.
    fn touch(&mut self, from: u16, to: u16) {
        if let Blocks::Few(few) = &mut self.blocks {
            let wanted = usize::from(to - from) + 1;
            let begin = few.partition_point(|block| *block < from);
            let end = begin + few[begin..].partition_point(|block| *block <= to);
            if end - begin == wanted {
                return;
            }
            if few.len() + wanted <= FEW_BLOCKS {
                few.splice(begin..end, from..=to);
                return;
            }
            let mut words = Box::new([0; WORDS]);
            for block in few {
                set(&mut words, usize::from(*block), usize::from(*block));
            }
            self.blocks = Blocks::Many(words);
        }
        if let Blocks::Many(words) = &mut self.blocks {
            set(words, usize::from(from), usize::from(to));
        }
    }

    fn access(&mut self, region: u8) {
        if let Accesses::Few(few) = &mut self.accesses {
            if let Some((_, accesses)) = few.iter_mut().find(|(at, _)| *at == region) {
                *accesses = accesses.saturating_add(1);
                return;
            }
            if few.len() < FEW_REGIONS {
                few.push((region, 1));
                return;
            }
            let mut table = Box::new([0; REGIONS]);
            for (at, accesses) in few {
                table[usize::from(*at)] = *accesses;
            }
            self.accesses = Accesses::Many(table);
        }
        if let Accesses::Many(table) = &mut self.accesses {
            let accesses = &mut table[usize::from(region)];
            *accesses = accesses.saturating_add(1);
        }
    }

    fn blocks(&self) -> u64 {
        match &self.blocks {
            Blocks::Few(few) => few.len() as u64,
            Blocks::Many(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    /// The accesses of each region that had some.
    fn accesses(&self, into: &mut Vec<u32>) {
        match &self.accesses {
            Accesses::Few(few) => into.extend(few.iter().map(|(_, accesses)| *accesses)),
            Accesses::Many(table) => into.extend(table.iter().filter(|accesses| **accesses > 0)),
        }
    }

    fn bytes(&self) -> usize {
        let blocks = match &self.blocks {
            Blocks::Few(few) => few.capacity() * size_of::<u16>(),
            Blocks::Many(_) => size_of::<[u64; WORDS]>(),
        };
        let accesses = match &self.accesses {
            Accesses::Few(few) => few.capacity() * size_of::<(u8, u32)>(),
            Accesses::Many(_) => size_of::<[u32; REGIONS]>(),
        };
        PIECE_OVERHEAD_BYTES + blocks + accesses
    }
}

/// A volume's number and the piece's in it.
type Key = (u32, u64);

/// Spreads a key over 64 bits (the finisher of splitmix64); keys are no secret to be kept from whoever made the trace,
/// who could only make their own summary slow.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn spread(key: Key) -> u64 {
    let mut hasher = Spread::default();
    hasher.write_u32(key.0);
    hasher.write_u64(key.1);
    hasher.finish()
}

/// Distinct blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Blocks of 4 KiB that were touched by reads, writes or discards.
    pub blocks: u64,
    /// Whether that is the number itself, not an estimate.
    pub exact: bool,
}

impl Footprint {
    /// In bytes.
    pub const fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(BLOCK_BYTES)
    }
}

/// How accesses are spread over the touched regions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HotSpots {
    /// Regions of 1 MiB in which an access began.
    pub regions: u64,
    /// Share of accesses in the hottest 1, 5 and 20 % of them, from 0 to 1.
    pub shares: [f64; 3],
    /// Whether all regions were looked at.
    pub exact: bool,
}

impl HotSpots {
    /// The parts of the regions that the shares are of, in percent.
    pub const PERCENT: [u64; 3] = [1, 5, 20];
}

/// What is kept while a trace passes by.
pub(super) struct FootprintBuilder {
    pieces: HashMap<Key, Piece, BuildHasherDefault<Spread>>,
    /// What the pieces take.
    bytes: usize,
    bytes_max: usize,
    /// One piece in 2 to this power is looked at.
    halvings: u32,
}

impl FootprintBuilder {
    pub fn new() -> Self {
        Self::with_bytes_max(BYTES_MAX)
    }

    fn with_bytes_max(bytes_max: usize) -> Self {
        Self { pieces: HashMap::default(), bytes: 0, bytes_max, halvings: 0 }
    }

    pub fn add(&mut self, record: &Record) {
        if record.kind == RecordKind::Flush || record.len_bytes == 0 {
            return;
        }
        let first = record.offset_bytes / BLOCK_BYTES;
        let last = (record.end_bytes() - 1) / BLOCK_BYTES;
        // A request has less than 4 GiB, so that this is at most 33 pieces.
        for number in first / PIECE_BLOCKS..=last / PIECE_BLOCKS {
            let key = (record.volume, number);
            if !self.looked_at(key) {
                continue;
            }
            let base = number * PIECE_BLOCKS;
            let from = first.max(base) - base;
            let to = last.min(base + PIECE_BLOCKS - 1) - base;
            let mut before = 0;
            let piece = match self.pieces.entry(key) {
                Entry::Occupied(entry) => {
                    let piece = entry.into_mut();
                    before = piece.bytes();
                    piece
                }
                Entry::Vacant(entry) => entry.insert(Piece::new()),
            };
            piece.touch(from as u16, to as u16);
            if first >= base {
                piece.access((from / (REGION_BYTES / BLOCK_BYTES)) as u8);
            }
            self.bytes = self.bytes + piece.bytes() - before;
            while self.bytes > self.bytes_max && self.halvings < 32 {
                self.halvings += 1;
                let halvings = self.halvings;
                self.pieces.retain(|key, _| looked_at(*key, halvings));
                self.bytes = self.pieces.values().map(Piece::bytes).sum();
            }
        }
    }

    fn looked_at(&self, key: Key) -> bool {
        self.halvings == 0 || looked_at(key, self.halvings)
    }

    pub fn footprint(&self) -> Footprint {
        let found: u64 = self.pieces.values().map(Piece::blocks).sum();
        Footprint { blocks: found << self.halvings, exact: self.halvings == 0 }
    }

    pub fn hot_spots(&self) -> HotSpots {
        let mut accesses = Vec::new();
        self.pieces.values().for_each(|piece| piece.accesses(&mut accesses));
        accesses.sort_unstable_by(|a, b| b.cmp(a));
        let sum = |accesses: &[u32]| accesses.iter().map(|count| u64::from(*count)).sum::<u64>();
        let all = sum(&accesses).max(1);
        let shares = HotSpots::PERCENT.map(|percent| {
            // At least one region, where there is one.
            let hottest = (accesses.len() as u64 * percent).div_ceil(100);
            sum(&accesses[..hottest as usize]) as f64 / all as f64
        });
        HotSpots { regions: (accesses.len() as u64) << self.halvings, shares, exact: self.halvings == 0 }
    }
}

fn looked_at(key: Key, halvings: u32) -> bool {
    // The upper bits; the table uses the others.
    spread(key) >> (64 - halvings) == 0
}

/// Sets the bits from `from` to `to`, both included.
fn set(words: &mut [u64; WORDS], from: usize, to: usize) {
    let (first, last) = (from / 64, to / 64);
    let begin = u64::MAX << (from % 64);
    let end = u64::MAX >> (63 - to % 64);
    if first == last {
        words[first] |= begin & end;
        return;
    }
    words[first] |= begin;
    words[first + 1..last].fill(u64::MAX);
    words[last] |= end;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    fn read(volume: u32, offset: u64, len: u32) -> Record {
        Record::new(0, volume, RecordKind::Read, offset, len)
    }

    /// Against a set of all blocks.
    #[test]
    fn distinct_blocks_are_exact_up_to_the_bound() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut builder = FootprintBuilder::new();
        let mut blocks = BTreeSet::new();
        for _ in 0..3_000 {
            let volume = (random.next_u64() % 3) as u32;
            let offset = random.next_u64() % (1 << 30);
            let len = 1 + (random.next_u64() % (1 << (random.next_u64() % 21))) as u32;
            let record = read(volume, offset, len);
            builder.add(&record);
            blocks.extend((offset / 4096..=(record.end_bytes() - 1) / 4096).map(|block| (volume, block)));
        }
        assert_eq!(builder.footprint(), Footprint { blocks: blocks.len() as u64, exact: true });
    }

    #[test]
    fn a_request_over_several_pieces_counts_once_in_each() {
        let mut builder = FootprintBuilder::new();
        builder.add(&read(0, PIECE_BYTES - 1, 2));
        assert_eq!(builder.footprint().blocks, 2);
        builder.add(&read(0, 0, u32::MAX));
        assert_eq!(builder.footprint().blocks, 1 << 20);
        assert_eq!(builder.hot_spots().regions, 2);
    }

    /// Beyond the bound the error is that of drawing some thousand pieces of 32,768, each with about three blocks: a
    /// deviation is 1 to 2 %, and the bound is five of them or more.
    #[test]
    fn beyond_the_bound_it_is_an_estimate_and_says_so() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let mut builder = FootprintBuilder::with_bytes_max(1 << 20);
        let mut blocks = BTreeSet::new();
        for _ in 0..100_000 {
            let offset = random.next_u64() % (1 << 42);
            builder.add(&read(0, offset / 4096 * 4096, 4096));
            blocks.insert(offset / 4096);
        }
        let footprint = builder.footprint();
        assert!(!footprint.exact && !builder.hot_spots().exact);
        let ratio = footprint.blocks as f64 / blocks.len() as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        assert!(builder.bytes <= 1 << 20 && builder.pieces.len() > 1000, "{}", builder.pieces.len());
    }

    /// 100 regions, the first accessed 901 times, the others once.
    #[test]
    fn hot_spots_are_shares_of_accesses() {
        let mut builder = FootprintBuilder::new();
        for region in 0..100_u64 {
            for _ in 0..if region == 0 { 901 } else { 1 } {
                builder.add(&read(0, region * REGION_BYTES + 4096, 4096));
            }
        }
        let hot = builder.hot_spots();
        assert_eq!((hot.regions, hot.exact), (100, true));
        assert_eq!(hot.shares, [0.901, 0.905, 0.92]);
    }
}
