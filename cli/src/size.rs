//! Sizes and times as people write them.

/// The bytes that `text` means: a whole number, or one with the suffix `K`, `M`, `G` or `T` for powers of 1024.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        other => return Err(format!("the unit {other} is not known; use bytes, K, M, G or T")),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("a whole number is needed, such as 4096 or 64M".to_string());
    }
    let number: u64 = digits.parse().map_err(|_overflow| "the number is too large".to_string())?;
    number.checked_mul(1 << shift).ok_or_else(|| "the number is too large".to_string())
}

/// As [`parse`], for settings of 32 bits.
///
/// # Errors
/// As [`parse`].
pub fn parse_u32(text: &str) -> Result<u32, String> {
    u32::try_from(parse(text)?).map_err(|_overflow| "the number is too large".to_string())
}

/// The seconds that `text` means: a whole number, or one with the suffix `s`, `m`, `h` or `d`.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let seconds: u64 = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        other => return Err(format!("the unit {other} is not known; use s, m, h or d")),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("a whole number is needed, such as 90 or 12h".to_string());
    }
    let number: u64 = digits.parse().map_err(|_overflow| "the number is too large".to_string())?;
    number.checked_mul(seconds).ok_or_else(|| "the number is too large".to_string())
}

/// The nanoseconds since 1970 of a time such as `2030-01-31T12:00:00Z` or `2030-01-31T12:00:00+01:00`.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = "a time such as 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+01:00 is needed";
    icecore::units::from_utc(text).ok_or_else(|| wrong.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("3MiB", 3 << 20),
            ("1G", 1 << 30),
            ("2T", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in
            ["", "K", "-1", "+1", "1.5M", "1 K", "0x10", "1KB", "1P", "18446744073709551616", "20000000T"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse_u32("4G").is_err());
        assert_eq!(parse_u32("1G"), Ok(1 << 30));
    }

    #[test]
    fn times_are_seconds_unless_they_say_otherwise() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)]
        {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for wrong in ["", "s", "-1", "1.5h", "1 h", "1w", "1H", "18446744073709551616", "300000000000000000d"]
        {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
