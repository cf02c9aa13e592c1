//! Numbers and names as a reader wants them, and escaping for HTML.

/// `text` with everything that HTML or SVG would take for markup replaced.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Other control characters are not allowed in HTML at all.
            character if character.is_control() && !character.is_whitespace() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Three significant digits and a unit taken from `steps` (factor, unit), which ascend.
fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let (factor, unit) =
        steps.iter().rev().find(|(factor, _)| value.abs() >= *factor).or(steps.first()).unwrap_or(&(1.0, ""));
    let scaled = value / factor;
    let decimals = match scaled.abs() {
        0.0 => 0,
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let number = format!("{scaled:.decimals$}");
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// `text` without the zeros that end its number's decimals: `5.00 ms` becomes `5 ms`. For labels of axes; in tables the
/// zeros keep columns aligned.
pub(crate) fn short(text: String) -> String {
    let (number, unit) =
        text.split_once(' ').map_or((text.as_str(), None), |(number, unit)| (number, Some(unit)));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    unit.map_or(number.to_string(), |unit| format!("{number} {unit}"))
}

/// A time: `12.3 µs`.
pub(crate) fn time(ns: f64) -> String {
    scaled(ns, &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")])
}

/// A count or rate: `412 k`.
pub(crate) fn count(value: f64) -> String {
    scaled(value, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")])
}

/// A rate in decimal units: `1.61 GB/s`.
pub(super) fn bandwidth(bytes_per_second: f64) -> String {
    scaled(bytes_per_second, &[(1.0, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")])
}

/// A size in binary units: `1 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let steps = [(1.0, "B"), (KIB, "KiB"), (KIB * KIB, "MiB"), (KIB.powi(3), "GiB"), (KIB.powi(4), "TiB")];
    short(scaled(bytes as f64, &steps))
}

/// A whole number with its thousands apart: `412,345`.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A ratio as a share: `98.7`, without the sign.
pub(crate) fn percent(ratio: f64) -> String {
    format!("{:.1}", ratio * 100.0)
}

/// What a workload is, as the middle of a sentence: `4 KiB random-read`. An unknown one keeps its name.
pub(super) fn workload_words(workload: &str) -> &str {
    match workload {
        "randread-4k" => "4 KiB random-read",
        "randwrite-4k" => "4 KiB random-write",
        "seqread-1m" => "1 MiB sequential-read",
        "seqwrite-1m" => "1 MiB sequential-write",
        "mixed-4k" => "4 KiB mixed (70 % reads)",
        "durable-4k" => "durable 4 KiB write",
        "durable-4k-dsync" => "durable 4 KiB write (DSYNC)",
        other => other,
    }
}

/// What a queue depth is for that workload: durable ones count writers.
pub(super) fn depth_words(workload: &str, depth: u32) -> String {
    match (workload.starts_with("durable"), depth) {
        (true, 1) => "with 1 writer".to_string(),
        (true, _) => format!("with {depth} writers"),
        (false, _) => format!("at depth {depth}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(time(850.0), "850 ns");
        assert_eq!(time(12_345.0), "12.3 µs");
        assert_eq!((time(1_000_000.0), short(time(1_000_000.0))), ("1.00 ms".into(), "1 ms".into()));
        assert_eq!((time(0.5), short("100 ns".into())), ("0.50 ns".into(), "100 ns".into()));
        assert_eq!(count(411_700.0), "412 k");
        assert_eq!(count(0.0), "0");
        assert_eq!(bandwidth(1.61e9), "1.61 GB/s");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!(
            (whole(1_234_567.4), whole(999.0), whole(-1_234.0)),
            ("1,234,567".into(), "999".into(), "-1,234".into())
        );
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href=\"x\">'&\u{1}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}");
    }
}
