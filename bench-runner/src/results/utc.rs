//! Times of day as UTC text (RFC 3339), for people and for other programs that read a run folder.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// `time` in UTC to the millisecond: `2026-03-01T08:15:30.250Z`. Times before 1970 read as its first instant.
pub fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_epoch.as_secs() / SECONDS_PER_DAY, since_epoch.as_secs() % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millisecond = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// The time of a text that [`rfc3339`] has made.
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, millisecond) =
        (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    let days = days_to(year, month, day)?;
    let seconds = days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
    let time = UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + millisecond);
    (rfc3339(time) == text).then_some(time)
}

/// Days from 1970-01-01 to a date from then on: `days_from_civil` of the same source as [`civil_date`].
fn days_to(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = ((153 * month_from_march + 2) / 5 + day).checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar.
/// Algorithm: Howard Hinnant, *chrono-compatible low-level date algorithms*, `civil_from_days`.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last day of a year; eras are 400 years.
    let days = days_since_epoch + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_millis(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(4_102_444_800_000), "2100-01-01T00:00:00.000Z");
        for milliseconds in (0..5_000_000_000_000).step_by(12_345_678_901) {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(from_rfc3339(&rfc3339(time)), Some(time));
        }
        for wrong in [
            "",
            "2100-01-01",
            "2100-02-30T00:00:00.000Z",
            "2100-01-01T00:00:00.000+01:00",
            "1969-12-31T00:00:00.000Z",
        ] {
            assert_eq!(from_rfc3339(wrong), None, "{wrong}");
        }
    }
}
