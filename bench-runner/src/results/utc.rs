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

/// The instant that [`rfc3339`] has written; `None` for any other text.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let [year, month, day] = date.split('-').map(number).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let (clock, millisecond) = time.split_once('.')?;
    let [hour, minute, second] = clock.split(':').map(number).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    // Estimated from below, then a day at a time: a year has at most 366 days and a month 31.
    let mut days = (year - 1970) * 365 + (month - 1) * 28;
    while civil_date(days) < (year, month, day) {
        days += 1;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
    let time = UNIX_EPOCH
        + Duration::from_millis(seconds * 1_000 + number(millisecond).filter(|part| *part < 1_000)?);
    (rfc3339(time) == text).then_some(time)
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
        for milliseconds in [0, 951_782_400_000, 1_709_251_199_999, 4_102_444_800_000, 1_798_675_199_001] {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }
        for wrong in [
            "",
            "yesterday",
            "2024-02-30T00:00:00.000Z",
            "2024-13-01T00:00:00.000Z",
            "2024-01-01T25:00:00.000Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }
}
