//! The engine's units as distinct types, so that a byte is never taken for a block.
//!
//! Every conversion has a name and states which unit it multiplies by. Nothing here does I/O.

/// Bytes in the smallest piece a device writes or tears as one: 512.
pub const SECTOR_BYTES: u64 = 512;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit! {
    /// A position on a device or in a volume, in bytes from its start.
    ByteOffset
}
unit! {
    /// A length in bytes.
    ByteLen
}
unit! {
    /// A block's index in its volume; the volume's block size turns it into bytes.
    Lba
}
unit! {
    /// A region's index in its volume; the volume's region size turns it into bytes.
    RegionIndex
}
unit! {
    /// A position in the order of changes within an epoch. Never used twice.
    Seq
}
unit! {
    /// The generation of a volume's write authority, raised at each promotion.
    Epoch
}

/// Blocks that lie between the same block of two branches in the index: a branch's blocks are numbered from its own
/// multiple of this on, and no volume has more.
pub const BRANCH_BLOCKS: u64 = 1 << 48;

/// The number in the index of a block of a branch; the volume itself is branch 0.
pub fn address_of(branch: u32, lba: u64) -> u64 {
    u64::from(branch) * BRANCH_BLOCKS + lba
}

/// The branch that a block of this number in the index is of.
pub fn branch_of(address: u64) -> u32 {
    (address / BRANCH_BLOCKS) as u32
}

/// The block of its branch that has this number in the index.
pub fn lba_of(address: u64) -> u64 {
    address % BRANCH_BLOCKS
}

/// What a branch was right after the entry of this sequence, and before any later one. In the order of branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The branch: 0 for the volume itself.
    pub branch: u32,
    /// The sequence.
    pub sequence: u64,
}

impl ByteOffset {
    /// The offset `len` bytes further on, or `None` past the end of the 64-bit range.
    pub fn checked_add(self, len: u64) -> Option<Self> {
        self.0.checked_add(len).map(Self)
    }

    /// The block this byte lies in, for blocks of `block_bytes` (a power of two).
    pub fn lba(self, block_bytes: u32) -> Lba {
        Lba(self.0 / u64::from(block_bytes))
    }

    /// The region this byte lies in, for regions of `region_bytes` (a power of two).
    pub fn region(self, region_bytes: u32) -> RegionIndex {
        RegionIndex(self.0 / u64::from(region_bytes))
    }

    /// Whether this offset is a multiple of `granularity_bytes`.
    pub fn is_aligned(self, granularity_bytes: u64) -> bool {
        self.0.is_multiple_of(granularity_bytes)
    }
}

impl Lba {
    /// The first byte of this block, for blocks of `block_bytes`.
    pub fn offset(self, block_bytes: u32) -> ByteOffset {
        ByteOffset(self.0 * u64::from(block_bytes))
    }
}

impl RegionIndex {
    /// The first byte of this region, for regions of `region_bytes`.
    pub fn offset(self, region_bytes: u32) -> ByteOffset {
        ByteOffset(self.0 * u64::from(region_bytes))
    }
}

const SECONDS_PER_DAY: u64 = 86_400;

/// A time in nanoseconds since 1970 as people write it (RFC 3339, UTC), to the second.
pub fn utc(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000;
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    // Years begin in March here, so that the leap day is the last one; eras are 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The nanoseconds since 1970 that such a text says: `2030-01-31T12:00:00Z`, or with an offset as `+01:00`.
pub fn from_utc(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is_sign = |at: usize, signs: &[u8]| text.as_bytes().get(at).is_some_and(|sign| signs.contains(sign));
    let has_signs = [(4, b"-"), (7, b"-"), (10, b"T"), (13, b":"), (16, b":")];
    if !has_signs.into_iter().all(|(at, sign)| is_sign(at, sign)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let offset_s = match text.get(19..)? {
        "Z" => 0,
        zone if zone.len() == 6 && is_sign(19, b"+-") && is_sign(22, b":") => {
            let (hours, minutes) = (number(20..22)?, number(23..25)?);
            let seconds = (hours < 24 && minutes < 60).then_some((hours * 3_600 + minutes * 60) as i64)?;
            if is_sign(19, b"-") { -seconds } else { seconds }
        }
        _ => return None,
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get((month as usize).checked_sub(1)?)?;
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leaps = |before: u64| before / 4 - before / 100 + before / 400;
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
        + lengths[..month as usize - 1].iter().sum::<u64>()
        + day
        - 1;
    let seconds = (days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second) as i64 - offset_s;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_name_their_unit() {
        assert_eq!(ByteOffset(8192).lba(4096), Lba(2));
        assert_eq!(Lba(2).offset(512), ByteOffset(1024));
        assert_eq!(ByteOffset(65537).region(65536), RegionIndex(1));
        assert_eq!(RegionIndex(3).offset(65536), ByteOffset(196_608));
        assert!(ByteOffset(1024).is_aligned(512));
        assert!(!ByteOffset(1025).is_aligned(512));
        assert_eq!(ByteOffset(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn times_are_told_as_people_write_them_and_read_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2100-01-01T00:00:00Z", 4_102_444_800_u64),
        ] {
            assert_eq!(
                (utc(seconds * 1_000_000_000).as_str(), from_utc(text)),
                (text, Some(seconds * 1_000_000_000))
            );
        }
        for day in 0..100_000 {
            let time = (day * SECONDS_PER_DAY + day * 7919 % SECONDS_PER_DAY) * 1_000_000_000;
            assert_eq!(from_utc(&utc(time)), Some(time), "{}", utc(time));
        }
        assert_eq!(from_utc("2024-03-01T00:59:59+01:00"), from_utc("2024-02-29T23:59:59Z"));
        assert_eq!(from_utc("2024-02-29T18:29:59-05:30"), from_utc("2024-02-29T23:59:59Z"));
        for wrong in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01 00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2024-01-01T00:00:00+24:00",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zx",
            "9999-12-31T00:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "2024-01-01T00:00:0ü",
        ] {
            assert_eq!(from_utc(wrong), None, "{wrong}");
        }
    }
}
