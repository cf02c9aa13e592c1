//! Runs as `fio --output-format=json` tells them, so that programs made for fio read ours. Each run that counts is a job.
//!
//! `clat_ns` is from when an operation was begun to its completion, and so is `lat_ns`; of an open load `lat_ns` is from when it was to
//! begin. fio's submission latency is part of these and not told apart (`slat_ns` has no samples). A percentile with fewer than
//! 100 samples beyond it, and what the runner does not measure, is `null`.

use std::time::UNIX_EPOCH;

use hdrhistogram::Histogram;
use icecore_workloads::{Access, Workload};
use serde_json::{Map, Value, json};

use crate::results::{MetricRow, RunData, RunHistograms, RunRow, SecondRow, from_rfc3339};
use crate::stats;

/// fio's default percentiles, as shares.
const PERCENTILES: [f64; 17] =
    [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999];
/// Upper ends of fio's buckets of latency, the same in nanoseconds, microseconds and milliseconds.
const BUCKETS: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000];
const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// The whole, and how many runs were left out because they do not count.
pub(super) fn object(data: &RunData) -> (Value, usize) {
    let counts = |run: &&RunRow| run.valid && run.measured_ns.is_some() && !run.hist_file.is_empty();
    let jobs: Vec<Value> = data.runs.iter().filter(counts).map(|run| job(data, run)).collect();
    let left_out = data.runs.len() - jobs.len();
    let ended = data.manifest.ended_utc.as_deref().unwrap_or(&data.manifest.started_utc);
    let since_epoch = from_rfc3339(ended).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let value = json!({
        "fio version": concat!("bench-runner-", env!("CARGO_PKG_VERSION")),
        "timestamp": since_epoch.map(|time| time.as_secs()),
        "timestamp_ms": since_epoch.map(|time| time.as_millis() as u64),
        "time": ended,
        "jobs": jobs,
        "disk_util": [],
    });
    (value, left_out)
}

fn job(data: &RunData, run: &RunRow) -> Value {
    let none = RunHistograms::default();
    let histograms = data.histograms.get(&run.run).unwrap_or(&none);
    let measured_ns = run.measured_ns.unwrap_or_default();
    let row = |op: &str, metric: &str| {
        data.metrics.iter().find(|row| row.run == Some(run.run) && row.op == op && row.metric == metric)
    };
    let seconds: Vec<&SecondRow> = data.seconds.iter().filter(|row| row.run == run.run).collect();
    let side = |op: &str, clat: &Option<Histogram<u64>>, intended: &Option<Histogram<u64>>| {
        // The seconds count reads and writes together, so that they are one's own only without the other.
        let is_alone = run.operations == row(op, "iops").map(|row| row.n);
        let seconds = if is_alone { &seconds[..] } else { &[] };
        direction(
            run,
            measured_ns,
            (row(op, "iops"), row(op, "bandwidth")),
            (clat, intended.as_ref().or(clat.as_ref())),
            seconds,
        )
    };
    let cpu_percent =
        |used_ns: Option<u64>| used_ns.map(|used_ns| used_ns as f64 * 100.0 / measured_ns.max(1) as f64);
    let all = histograms.of("all");
    let unknown =
        |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), Value::Null)).collect::<Map<_, _>>();
    let depths = ["1", "2", "4", "8", "16", "32", ">=64"];
    let batches = ["0", "4", "8", "16", "32", "64", ">=64"];
    let flushes = histograms.flush.as_ref();
    let share = |below: u64, unit_ns: u64, from_ns: u64| share_of(&all, from_ns, below * unit_ns);
    let buckets = |unit_ns: u64| {
        let mut from_ns = if unit_ns == 1 { 0 } else { unit_ns };
        let mut shares = Map::new();
        for below in BUCKETS {
            shares.insert(below.to_string(), json!(share(below, unit_ns, from_ns)));
            from_ns = below * unit_ns;
        }
        shares
    };
    let mut milliseconds = buckets(NANOSECONDS_PER_MILLISECOND);
    milliseconds.insert("2000".to_owned(), json!(share_of(&all, 1_000_000_000, 2_000_000_000)));
    milliseconds.insert(">=2000".to_owned(), json!(share_of(&all, 2_000_000_000, u64::MAX)));
    json!({
        "jobname": job_name(run),
        "groupid": run.block,
        "error": 0,
        "eta": 0,
        "elapsed": (run.warmup_ns + measured_ns).div_ceil(1_000_000_000),
        "job options": options(data, run),
        "read": side("read", &histograms.read, &histograms.read_intended),
        "write": side("write", &histograms.write, &histograms.write_intended),
        "trim": direction(run, 0, (None, None), (&None, None), &[]),
        "sync": {
            "total_ios": flushes.map_or(0, Histogram::len),
            "lat_ns": latencies(flushes, true),
        },
        "job_runtime": measured_ns / NANOSECONDS_PER_MILLISECOND,
        "usr_cpu": cpu_percent(run.cpu_user_ns),
        "sys_cpu": cpu_percent(run.cpu_system_ns),
        "ctx": null,
        "majf": null,
        "minf": null,
        "iodepth_level": unknown(&depths),
        "iodepth_submit": unknown(&batches),
        "iodepth_complete": unknown(&batches),
        "latency_ns": buckets(1),
        "latency_us": buckets(1_000),
        "latency_ms": milliseconds,
        "latency_depth": run.queue_depth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    })
}

fn job_name(run: &RunRow) -> String {
    let depth = run.chain_depth.map_or(String::new(), |depth| format!(".snapshots{depth}"));
    format!("{}.{}{depth}.qd{}.{}.block{}", run.workload, run.phase, run.queue_depth, run.arm, run.block)
}

/// What a job file would say, where it could; `icecore_` stands before what fio has no word for.
fn options(data: &RunData, run: &RunRow) -> Value {
    let mut options = Map::new();
    let mut set = |key: &str, value: String| options.insert(key.to_owned(), Value::String(value));
    set("name", job_name(run));
    set("filename", data.manifest.device.path.clone());
    set("offset", run.span_offset_bytes.to_string());
    set("size", run.span_bytes.to_string());
    set("bs", run.bs_bytes.to_string());
    set("iodepth", run.queue_depth.to_string());
    set("direct", "1".to_owned());
    set("ioengine", if run.arm == "fio" { "io_uring" } else { "icecore" }.to_owned());
    set("runtime", (run.measured_ns.unwrap_or_default() / 1_000_000_000).to_string());
    set("ramp_time", (run.warmup_ns / 1_000_000_000).to_string());
    set("randseed", run.seed.to_string());
    // Of a workload of the user's own, and of a suite of snapshots, the name is all that a folder knows.
    if let Ok(workload) = Workload::from_name(&run.workload)
        && let [part] = workload.parts()
    {
        let (is_sequential, reads) = (part.access == Access::Sequential, part.read_percent);
        let random = if is_sequential { "" } else { "rand" };
        let kind = match (reads, is_sequential) {
            (100, _) => "read",
            (0, _) => "write",
            (_, true) => "readwrite",
            (_, false) => "rw",
        };
        set("rw", format!("{random}{kind}"));
        if reads > 0 && reads < 100 {
            set("rwmixread", reads.to_string());
        }
    }
    let offered = data.metrics.iter().find(|row| row.run == Some(run.run)).and_then(|row| row.offered_iops);
    if let Some(offered) = offered {
        set("rate_iops", offered.to_string());
    }
    set("icecore_arm", run.arm.clone());
    set("icecore_backend", run.backend.clone());
    set("icecore_workload", run.workload.clone());
    set("icecore_phase", run.phase.clone());
    set("icecore_block", run.block.to_string());
    if let Some(depth) = run.chain_depth {
        set("icecore_snapshots", depth.to_string());
    }
    Value::Object(options)
}

type Latencies<'a> = (&'a Option<Histogram<u64>>, Option<&'a Histogram<u64>>);

/// What fio tells of reads, writes or trims.
fn direction(
    run: &RunRow,
    measured_ns: u64,
    (iops, bandwidth): (Option<&MetricRow>, Option<&MetricRow>),
    (clat, lat): Latencies,
    seconds: &[&SecondRow],
) -> Value {
    let operations = iops.map_or(0, |row| row.n);
    let per_second = |row: Option<&MetricRow>| row.and_then(|row| row.value).unwrap_or(0.0);
    let bytes = bytes(operations, run.bs_bytes, per_second(bandwidth) * measured_ns as f64 / 1e9);
    let bytes_per_second = bytes as f64 * 1e9 / measured_ns.max(1) as f64;
    let whole = measured_ns / 1_000_000_000;
    let rates: Vec<f64> =
        seconds.iter().filter(|row| u64::from(row.second) < whole).map(|row| row.operations as f64).collect();
    let bytes_each = bytes as f64 / operations.max(1) as f64 / 1024.0;
    let of = |values: &[f64]| {
        let (mean, deviation) = mean_and_deviation(values);
        let end =
            |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(0.0).round() as u64;
        (end(f64::min), end(f64::max), mean, deviation, values.len())
    };
    let (iops_min, iops_max, iops_mean, iops_stddev, samples) = of(&rates);
    let bandwidths: Vec<f64> = rates.iter().map(|rate| rate * bytes_each).collect();
    let (bw_min, bw_max, bw_mean, bw_dev, _) = of(&bandwidths);
    json!({
        "io_bytes": bytes,
        "io_kbytes": bytes >> 10,
        "bw_bytes": bytes_per_second.round() as u64,
        "bw": (bytes_per_second / 1024.0).round() as u64,
        "iops": operations as f64 * 1e9 / measured_ns.max(1) as f64,
        "runtime": if operations > 0 { measured_ns / NANOSECONDS_PER_MILLISECOND } else { 0 },
        "total_ios": operations,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": latencies(None, false),
        "clat_ns": latencies(clat.as_ref(), true),
        "lat_ns": latencies(lat, true),
        "bw_min": bw_min, "bw_max": bw_max, "bw_agg": if samples > 0 { 100.0 } else { 0.0 }, "bw_mean": bw_mean,
        "bw_dev": bw_dev, "bw_samples": samples,
        "iops_min": iops_min, "iops_max": iops_max, "iops_mean": iops_mean, "iops_stddev": iops_stddev,
        "iops_samples": samples,
    })
}

/// Rates are written to six digits; where all requests have one length, it tells the bytes exactly.
fn bytes(operations: u64, each: u64, about: f64) -> u64 {
    let exact = operations * each;
    if (about - exact as f64).abs() <= exact as f64 * 1e-5 { exact } else { about.round() as u64 }
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}

fn latencies(histogram: Option<&Histogram<u64>>, with_percentiles: bool) -> Value {
    let histogram = histogram.filter(|histogram| !histogram.is_empty());
    let of = |value: fn(&Histogram<u64>) -> f64| histogram.map_or(0.0, value);
    let mut value = json!({
        "min": histogram.map_or(0, Histogram::min),
        "max": histogram.map_or(0, Histogram::max),
        "mean": of(Histogram::mean),
        "stddev": of(Histogram::stdev),
        "N": histogram.map_or(0, Histogram::len),
    });
    if let (Some(histogram), true, Some(fields)) = (histogram, with_percentiles, value.as_object_mut()) {
        let percentile =
            |share: f64| (format!("{:.6}", share * 100.0), json!(stats::percentile(histogram, share)));
        fields.insert(
            "percentile".to_owned(),
            Value::Object(PERCENTILES.into_iter().map(percentile).collect()),
        );
    }
    value
}

/// Percent of the latencies from `from_ns` (not included, but for 0) up to `through_ns`.
fn share_of(all: &Option<Histogram<u64>>, from_ns: u64, through_ns: u64) -> f64 {
    let Some(all) = all.as_ref().filter(|all| !all.is_empty()) else { return 0.0 };
    let within = |entry: &u64| (*entry > from_ns || from_ns == 0) && *entry <= through_ns;
    let count: u64 = all
        .iter_recorded()
        .filter(|entry| within(&entry.value_iterated_to()))
        .map(|entry| entry.count_at_value())
        .sum();
    count as f64 * 100.0 / all.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact_where_requests_are_alike() {
        assert_eq!(bytes(1_000, 4_096, 4_096_012.0), 4_096_000);
        assert_eq!(bytes(1_000, 65_536, 20_000_000.4), 20_000_000);
        assert_eq!(bytes(0, 4_096, 0.0), 0);
    }

    #[test]
    fn every_latency_is_in_one_bucket() {
        let mut all = Histogram::new(3).unwrap();
        [1, 2, 3, 1_000, 1_001, 2_000, 999_000, 1_500_000, 3_000_000_000]
            .into_iter()
            .for_each(|value| all.record(value).unwrap());
        let all = Some(all);
        let units = [1, 1_000, NANOSECONDS_PER_MILLISECOND];
        let of_unit = |unit_ns: u64| {
            let mut from_ns = if unit_ns == 1 { 0 } else { unit_ns };
            BUCKETS
                .map(|below| {
                    let share = share_of(&all, from_ns, below * unit_ns);
                    from_ns = below * unit_ns;
                    share
                })
                .iter()
                .sum::<f64>()
        };
        let shares: f64 =
            units.into_iter().map(of_unit).sum::<f64>() + share_of(&all, 2_000_000_000, u64::MAX);
        assert!((shares - 100.0).abs() < 1e-9, "{shares}");
    }
}
