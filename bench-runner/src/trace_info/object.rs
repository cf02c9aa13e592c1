//! The summary as one JSON object: suffixes of names are units, null is what cannot be told.

use icecore_workloads::trace::{HotSpots, RecordKind};
use serde_json::{Map, Value, json};

use super::Seen;

/// Volumes told one by one; those with the most requests.
const VOLUMES_TOLD: usize = 1000;

pub(super) fn of(seen: &Seen) -> Value {
    let summary = &seen.summary;
    let files: Vec<_> = seen
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path.to_string_lossy(),
                "format": file.format.name(),
                "packing": file.packing.name(),
                "content_bytes": file.content_bytes,
                "sorted_records": file.sorted_records,
                "bad_records": file.bad_records,
                "passed_not_requests": file.passed.not_requests,
                "passed_other_events": file.passed.other_events,
                "passed_empty": file.passed.empty,
            })
        })
        .collect();
    let kinds: Map<_, _> =
        RecordKind::ALL.into_iter().map(|kind| (kind.name().to_owned(), kind_of(seen, kind))).collect();
    let arrivals = &summary.arrivals;
    let hot = &summary.hot_spots;
    let shares: Map<_, _> = HotSpots::PERCENT
        .iter()
        .zip(hot.shares)
        .map(|(percent, share)| (format!("hottest_{percent}_percent"), json!(share)))
        .collect();
    let volumes: Vec<_> = seen
        .busiest_volumes()
        .iter()
        .take(VOLUMES_TOLD)
        .map(|(number, counts)| {
            let mut volume = Map::from_iter([
                ("volume".to_owned(), json!(number)),
                ("name".to_owned(), json!(seen.name(*number))),
            ]);
            for kind in RecordKind::ALL {
                volume.insert(format!("{}_requests", kind.name()), json!(counts.requests[kind as usize]));
                volume.insert(format!("{}_bytes", kind.name()), json!(counts.bytes[kind as usize]));
            }
            volume.insert("end_bytes".into(), json!(counts.end_bytes));
            Value::Object(volume)
        })
        .collect();
    json!({
        "files": files,
        "limited": seen.limited,
        "records_of_other_volumes": seen.other_volumes,
        "requests": summary.requests(),
        "kinds": kinds,
        "read_share": summary.read_share(),
        "sequential_share": summary.sequential_share(),
        "begin_bytes": summary.begin_bytes,
        "end_bytes": summary.end_bytes,
        "footprint_bytes": summary.footprint.bytes(),
        "footprint_exact": summary.footprint.exact,
        "hot_regions": hot.regions,
        "hot_regions_exact": hot.exact,
        "hot_shares": shares,
        "duration_ns": arrivals.duration_ns,
        "mean_per_second": arrivals.mean_per_second,
        "peak_second": arrivals.peak_second,
        "peak_second_at": arrivals.peak_second_at,
        "dispersion": arrivals.dispersion,
        "over_time": { "width_ns": arrivals.over_time_ns, "requests": arrivals.over_time },
        "over_addresses": { "width_bytes": summary.over_addresses_bytes, "requests": summary.over_addresses },
        "latencies": summary.latencies,
        "latency_mean_ns": (summary.latencies > 0).then(|| summary.latency_ns_sum as f64 / summary.latencies as f64),
        "latency_max_ns": (summary.latencies > 0).then_some(summary.latency_ns_max),
        "volumes": volumes,
        "volumes_count": summary.volumes.len(),
        "requests_of_further_volumes": summary.other_volumes,
    })
}

fn kind_of(seen: &Seen, kind: RecordKind) -> Value {
    let counts = seen.summary.kind(kind);
    let any = counts.requests > 0;
    let sizes: Vec<_> = counts
        .sizes
        .iter()
        .enumerate()
        .filter(|(_, requests)| **requests > 0)
        .map(|(class, requests)| json!({ "from_bytes": 1_u64 << class, "requests": requests }))
        .collect();
    json!({
        "requests": counts.requests,
        "bytes": counts.bytes,
        "shortest_bytes": any.then_some(counts.len_bytes_min),
        "longest_bytes": any.then_some(counts.len_bytes_max),
        "sizes": sizes,
    })
}
