//! Sizes as people write them.

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
}
