//! Content that says what it is: every 512-byte sector of a written block opens with a stamp.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | tag of the run, little-endian like the other fields |
//! | 8 | 8 | sector: the sector's number, counted from the start of the data span |
//! | 16 | 4 | generation: how often this run has written the place; 0 = prefilled |
//! | 20 | 4 | checksum of the three |
//! | 24 | 488 | filler: a fixed function of the tag and of the sector's position within 4 KiB |
//!
//! All 512 bytes follow from (tag, sector, generation), so that verifying is comparing: one wrong byte anywhere
//! is found. The checksum only tells a sector that was written elsewhere, earlier or by another run from one
//! that was damaged. A sector is the unit a device writes whole; an older and a newer half within one sector
//! would differ in the stamp alone, and that difference is found only if it reaches the stamp.
//!
//! A buffer is prepared once; each write rewrites 24 bytes a sector. The filler therefore repeats every 4 KiB (every sector,
//! where requests are no multiples of 4 KiB, so that a prepared buffer fits any place): a device that deduplicates sees
//! more redundancy than most data has. How much of each such unit is zeros, for a device that compresses, is chosen.

use std::fmt;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Bytes of a sector, the unit that carries a stamp.
pub const SECTOR_BYTES: usize = 512;

/// Offsets and lengths of stamped buffers are multiples of this, or of a sector if so chosen.
pub const STAMP_BLOCK_BYTES: usize = 4096;

/// Bytes of a stamp at the start of each sector.
pub const STAMP_BYTES: usize = 24;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The run that wrote it.
    pub tag: u64,
    /// The sector's number in the data span.
    pub sector: u64,
    /// How often the run had written the place; 0 = prefilled.
    pub generation: u32,
}

impl Stamp {
    /// One widening multiplication folded to 32 bits. The constant keeps an all-zero sector from passing.
    #[inline]
    const fn checksum(&self) -> u32 {
        let left = self.tag ^ self.sector.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let right = 0xd6e8_feb8_6659_fd93 ^ self.generation as u64;
        let product = left as u128 * right as u128;
        let folded = product as u64 ^ (product >> 64) as u64;
        (folded ^ (folded >> 32)) as u32 ^ 0x4943_4531
    }

    #[inline]
    fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[0..8].copy_from_slice(&self.tag.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sector.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.generation.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.checksum().to_le_bytes());
        bytes
    }

    /// The stamp in the first 24 bytes of a sector, if its checksum holds.
    fn from_sector(sector: &[u8; SECTOR_BYTES]) -> Option<Stamp> {
        let mut fields = [0_u64; 3];
        for (index, byte) in sector[..STAMP_BYTES].iter().enumerate() {
            fields[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let stamp = Stamp { tag: fields[0], sector: fields[1], generation: fields[2] as u32 };
        ((fields[2] >> 32) as u32 == stamp.checksum()).then_some(stamp)
    }
}

/// Writes and verifies the stamped content of one run.
#[derive(Clone)]
pub struct Stamper {
    tag: u64,
    unit_bytes: usize,
    /// The filler of one block; the bytes where stamps go are unused.
    template: Box<[u8; STAMP_BLOCK_BYTES]>,
}

impl fmt::Debug for Stamper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stamper").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Stamper {
    /// The content of the run with this tag. Two runs whose remains must be told apart need different tags.
    pub fn new(tag: u64) -> Self {
        Self::with(tag, STAMP_BLOCK_BYTES as u32, 0)
    }

    /// The same for requests that are multiples of `unit_bytes` (512 or 4096); `compressible_percent` of each unit, at its
    /// end, are zeros.
    ///
    /// # Panics
    /// When the unit is another one, or the percentage is above 100.
    pub fn with(tag: u64, unit_bytes: u32, compressible_percent: u8) -> Self {
        let unit_bytes = unit_bytes as usize;
        assert!(
            unit_bytes == SECTOR_BYTES || unit_bytes == STAMP_BLOCK_BYTES,
            "a unit of {unit_bytes} bytes"
        );
        assert!(compressible_percent <= 100, "{compressible_percent} percent");
        let mut random = Xoshiro256PlusPlus::seed_from_u64(tag);
        let mut template = Box::new([0; STAMP_BLOCK_BYTES]);
        let filled_bytes = unit_bytes - unit_bytes * usize::from(compressible_percent) / 100;
        random.fill_bytes(&mut template[..unit_bytes]);
        template[filled_bytes..unit_bytes].fill(0);
        for start in (unit_bytes..STAMP_BLOCK_BYTES).step_by(unit_bytes) {
            template.copy_within(..unit_bytes, start);
        }
        Self { tag, unit_bytes, template }
    }

    /// What offsets and lengths of its content are multiples of.
    pub const fn unit_bytes(&self) -> u32 {
        self.unit_bytes as u32
    }

    /// The tag it was made with.
    pub const fn tag(&self) -> u64 {
        self.tag
    }

    /// Fills a buffer with the filler, once; [`Stamper::stamp`] then makes it the content of any place.
    ///
    /// # Panics
    /// When the length is no multiple of the unit.
    pub fn prepare(&self, buffer: &mut [u8]) {
        self.check_unit(0, buffer.len());
        for block in buffer.chunks_mut(STAMP_BLOCK_BYTES) {
            block.copy_from_slice(&self.template[..block.len()]);
        }
    }

    #[inline]
    fn check_unit(&self, offset_bytes: u64, length: usize) {
        let whole = (offset_bytes | length as u64).is_multiple_of(self.unit_bytes as u64);
        assert!(whole, "stamped offsets and lengths are whole units of {} bytes", self.unit_bytes);
    }

    /// Makes a prepared buffer the content of `offset_bytes` (in the data span) at `generation`.
    ///
    /// # Panics
    /// When offset or length is no multiple of the unit.
    #[inline]
    pub fn stamp(&self, buffer: &mut [u8], offset_bytes: u64, generation: u32) {
        self.check_unit(offset_bytes, buffer.len());
        let mut stamp = Stamp { tag: self.tag, sector: offset_bytes / SECTOR_BYTES as u64, generation };
        let (sectors, _) = buffer.as_chunks_mut::<SECTOR_BYTES>();
        for sector in sectors {
            sector[..STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
            stamp.sector += 1;
        }
    }

    /// Checks that every byte is the content of `offset_bytes` (in the data span) at `generation`; the error
    /// describes the first sector that differs. Where blocks have different generations, verify each of them.
    ///
    /// # Panics
    /// When offset or length is no multiple of the unit.
    pub fn verify(&self, buffer: &[u8], offset_bytes: u64, generation: u32) -> Result<(), Mismatch> {
        self.check_unit(offset_bytes, buffer.len());
        let mut expected = Stamp { tag: self.tag, sector: offset_bytes / SECTOR_BYTES as u64, generation };
        let (sectors, _) = buffer.as_chunks::<SECTOR_BYTES>();
        let (fillers, _) = self.template.as_chunks::<SECTOR_BYTES>();
        for (sector, filler) in sectors.iter().zip(fillers.iter().cycle()) {
            let stamp = expected.to_bytes();
            if sector[..STAMP_BYTES] != stamp || sector[STAMP_BYTES..] != filler[STAMP_BYTES..] {
                return Err(Mismatch { expected, found: Found::of(sector, &expected, filler) });
            }
            expected.sector += 1;
        }
        Ok(())
    }
}

/// A sector that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What its stamp should say, its place included.
    pub expected: Stamp,
    /// What is there instead.
    pub found: Found,
}

/// What was found in place of the expected content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Content of another run.
    OtherRun(Stamp),
    /// Content of this run that belongs elsewhere.
    WrongPlace(Stamp),
    /// An older generation of the right place: a write that was lost.
    StaleGeneration(Stamp),
    /// A newer generation of the right place: a write nobody was told of.
    NewerGeneration(Stamp),
    /// Nothing but zeros.
    Zeros,
    /// Damage: the first wrong byte.
    Damaged {
        /// Its index in the sector, 0 to 511.
        byte_index: usize,
        /// What it should be.
        expected: u8,
        /// What it is.
        found: u8,
    },
}

impl Found {
    fn of(sector: &[u8; SECTOR_BYTES], expected: &Stamp, filler: &[u8; SECTOR_BYTES]) -> Found {
        match Stamp::from_sector(sector) {
            Some(stamp) if stamp.tag != expected.tag => return Found::OtherRun(stamp),
            Some(stamp) if stamp.sector != expected.sector => return Found::WrongPlace(stamp),
            Some(stamp) if stamp.generation < expected.generation => return Found::StaleGeneration(stamp),
            Some(stamp) if stamp.generation > expected.generation => return Found::NewerGeneration(stamp),
            Some(_) => {}
            None if sector.iter().all(|byte| *byte == 0) => return Found::Zeros,
            None => {}
        }
        let mut wanted = *filler;
        wanted[..STAMP_BYTES].copy_from_slice(&expected.to_bytes());
        let differs = |(_, (found, wanted)): &(usize, (&u8, &u8))| found != wanted;
        match sector.iter().zip(&wanted).enumerate().find(differs) {
            Some((byte_index, (found, expected))) => {
                Found::Damaged { byte_index, expected: *expected, found: *found }
            }
            // Reached only for a sector that differs, so that a difference exists.
            None => unreachable!("a sector without a wrong byte is no mismatch"),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { tag, sector, generation } = self.expected;
        write!(formatter, "sector {sector} should hold generation {generation} of run {tag:#x}, but ")?;
        match self.found {
            Found::OtherRun(stamp) => write!(formatter, "holds data of run {:#x}", stamp.tag),
            Found::WrongPlace(stamp) => {
                write!(formatter, "holds generation {} of sector {}", stamp.generation, stamp.sector)
            }
            Found::StaleGeneration(stamp) | Found::NewerGeneration(stamp) => {
                write!(formatter, "holds generation {}", stamp.generation)
            }
            Found::Zeros => write!(formatter, "holds zeros"),
            Found::Damaged { byte_index, expected, found } => {
                write!(formatter, "its byte {byte_index} is {found:#04x} instead of {expected:#04x}")
            }
        }
    }
}

impl std::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET_BYTES: u64 = 5 * STAMP_BLOCK_BYTES as u64;
    const GENERATION: u32 = 7;

    fn written(stamper: &Stamper, blocks: usize, offset_bytes: u64, generation: u32) -> Vec<u8> {
        let mut buffer = vec![0; blocks * STAMP_BLOCK_BYTES];
        stamper.prepare(&mut buffer);
        stamper.stamp(&mut buffer, offset_bytes, generation);
        buffer
    }

    fn found(stamper: &Stamper, buffer: &[u8]) -> Mismatch {
        stamper.verify(buffer, OFFSET_BYTES, GENERATION).expect_err("a difference must be found")
    }

    #[test]
    fn what_was_stamped_verifies() {
        let stamper = Stamper::new(1);
        for blocks in [1, 2, 256] {
            for generation in [0, 1, u32::MAX] {
                let buffer = written(&stamper, blocks, OFFSET_BYTES, generation);
                assert_eq!(stamper.verify(&buffer, OFFSET_BYTES, generation), Ok(()));
            }
        }
        // A buffer is prepared once and stamped for many places.
        let mut buffer = written(&stamper, 1, OFFSET_BYTES, 3);
        stamper.stamp(&mut buffer, 0, 4);
        assert_eq!(stamper.verify(&buffer, 0, 4), Ok(()));
    }

    #[test]
    fn one_large_write_equals_its_blocks() {
        let stamper = Stamper::new(1);
        let large = written(&stamper, 4, OFFSET_BYTES, GENERATION);
        for (index, block) in large.chunks(STAMP_BLOCK_BYTES).enumerate() {
            let offset_bytes = OFFSET_BYTES + (index * STAMP_BLOCK_BYTES) as u64;
            assert_eq!(stamper.verify(block, offset_bytes, GENERATION), Ok(()));
        }
    }

    /// Every bit of every byte.
    #[test]
    fn any_single_flip_is_found_where_it_is() {
        let stamper = Stamper::new(1);
        let mut buffer = written(&stamper, 1, OFFSET_BYTES, GENERATION);
        for index in 0..buffer.len() {
            for bit in 0..8 {
                buffer[index] ^= 1 << bit;
                let mismatch = found(&stamper, &buffer);
                assert_eq!(mismatch.expected.sector, (OFFSET_BYTES as usize + index) as u64 / 512);
                assert!(
                    matches!(mismatch.found, Found::Damaged { byte_index, .. } if byte_index == index % 512),
                    "byte {index} bit {bit}: {mismatch}"
                );
                buffer[index] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn sectors_of_another_place_are_found() {
        let stamper = Stamper::new(1);
        let right = written(&stamper, 2, OFFSET_BYTES, GENERATION);
        let elsewhere = written(&stamper, 2, OFFSET_BYTES + 8192, GENERATION);
        for sector in 0..16 {
            for other in 0..16 {
                let mut buffer = right.clone();
                buffer[sector * 512..][..512].copy_from_slice(&elsewhere[other * 512..][..512]);
                let mismatch = found(&stamper, &buffer);
                assert!(matches!(mismatch.found, Found::WrongPlace(s) if s.sector == 56 + other as u64));
                assert_eq!(mismatch.expected.sector, 40 + sector as u64);
                if other != sector {
                    buffer.copy_from_slice(&right);
                    buffer[sector * 512..][..512].copy_from_slice(&right[other * 512..][..512]);
                    assert!(matches!(found(&stamper, &buffer).found, Found::WrongPlace(_)));
                }
            }
        }
    }

    #[test]
    fn other_generations_are_found() {
        let stamper = Stamper::new(1);
        for generation in (0..64).chain([u32::MAX]).filter(|generation| *generation != GENERATION) {
            let other = written(&stamper, 1, OFFSET_BYTES, generation);
            for sector in 0..8 {
                let mut buffer = written(&stamper, 1, OFFSET_BYTES, GENERATION);
                buffer[sector * 512..][..512].copy_from_slice(&other[sector * 512..][..512]);
                match found(&stamper, &buffer).found {
                    Found::StaleGeneration(stamp) => assert!(stamp.generation < GENERATION),
                    Found::NewerGeneration(stamp) => assert!(stamp.generation > GENERATION),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn other_runs_and_zeros_are_found() {
        let stamper = Stamper::new(1);
        let other = written(&Stamper::new(2), 1, OFFSET_BYTES, GENERATION);
        for sector in 0..8 {
            let mut buffer = written(&stamper, 1, OFFSET_BYTES, GENERATION);
            buffer[sector * 512..][..512].copy_from_slice(&other[sector * 512..][..512]);
            assert!(matches!(found(&stamper, &buffer).found, Found::OtherRun(stamp) if stamp.tag == 2));
            buffer[sector * 512..][..512].fill(0);
            assert_eq!(found(&stamper, &buffer).found, Found::Zeros);
        }
        // The filler of another run under the right stamp.
        let mut buffer = written(&stamper, 1, OFFSET_BYTES, GENERATION);
        buffer[24..512].copy_from_slice(&other[24..512]);
        assert!(matches!(found(&stamper, &buffer).found, Found::Damaged { .. }));
        // Even a run whose tag is 0.
        let zero = Stamper::new(0);
        assert_eq!(zero.verify(&[0; STAMP_BLOCK_BYTES], 0, 0).expect_err("zeros").found, Found::Zeros);
    }

    #[test]
    fn sectors_by_themselves_make_up_the_same_content() {
        let stamper = Stamper::with(3, 512, 0);
        let mut block = vec![0; 4096];
        stamper.prepare(&mut block);
        stamper.stamp(&mut block, 4096, 1);
        // Three sectors written from another buffer, in the middle of the block.
        let mut piece = vec![0; 1536];
        stamper.prepare(&mut piece);
        stamper.stamp(&mut piece, 4096 + 1024, 1);
        assert_eq!(block[1024..2560], piece);
        for (index, sector) in block.chunks(512).enumerate() {
            assert_eq!(stamper.verify(sector, 4096 + 512 * index as u64, 1), Ok(()));
        }
    }

    #[test]
    fn the_zeros_that_were_asked_for_are_there() {
        for (unit, percent) in [(4096, 0_u8), (4096, 50), (4096, 100), (512, 25)] {
            let stamper = Stamper::with(3, unit, percent);
            let buffer = {
                let mut buffer = vec![1; 8192];
                stamper.prepare(&mut buffer);
                stamper.stamp(&mut buffer, 0, 1);
                buffer
            };
            assert_eq!(stamper.verify(&buffer, 0, 1), Ok(()));
            let zeros = buffer.iter().filter(|byte| **byte == 0).count() as f64;
            // Stamps stand over zeros, random bytes are zero once in 256, and most of a stamp's bytes are zero.
            let wanted = f64::from(percent) / 100.0;
            assert!((zeros / 8192.0 - wanted).abs() < 0.06, "{percent}: {zeros}");
        }
    }

    /// Readers of stored images rely on the layout.
    #[test]
    fn golden_bytes() {
        let buffer = written(&Stamper::new(0x0102_0304_0506_0708), 1, 4096, 0x0a0b_0c0d);
        assert_eq!(
            buffer[512..540],
            [
                8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0xea, 0xb8, 0x42,
                0x8f, 0x5d, 0x64, 0x58, 0x46
            ],
            "{:#04x?}",
            &buffer[512..540]
        );
    }

    #[test]
    fn messages_name_place_and_kind() {
        let stamper = Stamper::new(1);
        let old = written(&stamper, 1, OFFSET_BYTES, 3);
        assert_eq!(
            found(&stamper, &old).to_string(),
            "sector 40 should hold generation 7 of run 0x1, but holds generation 3"
        );
    }
}
