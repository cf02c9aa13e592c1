//! Exports, read by other readers than ours and compared with the tables, and fio's JSON with that of fio itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use bench_runner::results::{Ending, RunData, RunFolder};
use serde_json::Value;

use crate::report::{append_closed, append_loads, manifest};

fn run(path: &Path, with_loads: bool) -> RunData {
    let mut folder =
        RunFolder::create(path, manifest(&["raw", "log"], &["randread-4k", "mixed-4k"])).unwrap();
    append_closed(&mut folder, &[("raw", 1.0), ("log", 1.2)], &["mixed-4k", "durable-4k"], &[32]);
    if with_loads {
        append_loads(&mut folder, true);
    }
    folder.append_event("frequency_drop", "CPU 3 fell, \"2.1\" GHz").unwrap();
    folder.finish(Ending::Complete).unwrap();
    RunData::read(path).unwrap()
}

fn export(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-runner"));
    command.arg("export").arg(folder).args(arguments).output().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn fio_json_says_what_the_tables_say() {
    let folder = tempfile::tempdir().unwrap();
    let data = run(folder.path(), true);
    let output = export(&["--to", "fio-json"], folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 runs do not count"));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let jobs = all["jobs"].as_array().unwrap();
    let valid: Vec<_> = data.runs.iter().filter(|run| run.valid).collect();
    assert_eq!((jobs.len(), data.runs.len() - valid.len()), (valid.len(), 2));
    for (job, run) in jobs.iter().zip(valid) {
        let options = &job["job options"];
        assert_eq!(
            (&options["icecore_arm"], &options["icecore_workload"]),
            (&run.arm.clone().into(), &run.workload.clone().into())
        );
        let mut operations = 0;
        for op in ["read", "write"] {
            let side = &job[op];
            let value = |metric: &str, stat: &str| {
                data.metrics.iter().find(|row| {
                    row.run == Some(run.run) && row.op == op && row.metric == metric && row.stat == stat
                })
            };
            let Some(iops) = value("iops", "mean") else {
                assert_eq!(side["total_ios"], 0);
                continue;
            };
            assert_eq!(side["total_ios"].as_u64(), Some(iops.n));
            assert_eq!(side["clat_ns"]["N"].as_u64(), Some(iops.n));
            operations += iops.n;
            // The tables have six digits.
            let near = |seen: &Value, row: Option<f64>, what: &str| {
                let row = row.unwrap();
                assert!((number(seen) / row - 1.0).abs() < 1e-5, "{what} of {op}: {seen}, not {row}");
            };
            near(&side["iops"], iops.value, "iops");
            near(&side["bw_bytes"], value("bandwidth", "mean").unwrap().value, "bandwidth");
            assert_eq!(side["io_bytes"].as_u64(), Some(iops.n * 4096));
            for (stat, percentile) in [("p50", "50.000000"), ("p99", "99.000000"), ("p99.9", "99.900000")] {
                let row = value("latency", stat).unwrap().value.map(|ns| ns as u64);
                assert_eq!(side["clat_ns"]["percentile"][percentile].as_u64(), row, "{stat} of {op}");
                let intended =
                    value("latency_intended", stat).map_or(row, |row| row.value.map(|ns| ns as u64));
                assert_eq!(
                    side["lat_ns"]["percentile"][percentile].as_u64(),
                    intended,
                    "{stat} of {op}, intended"
                );
            }
        }
        assert_eq!(Some(operations), run.operations);
        let shares = ["latency_ns", "latency_us", "latency_ms"]
            .map(|unit| job[unit].as_object().unwrap().values().map(number).sum::<f64>());
        assert!((shares.iter().sum::<f64>() - 100.0).abs() < 1e-6, "{shares:?}");
        let samples = job[if run.workload == "durable-4k" { "write" } else { "read" }]["iops_samples"]
            .as_u64()
            .unwrap();
        assert_eq!(samples > 0, run.workload != "mixed-4k", "{}", run.workload);
    }
    // Into a file, byte for byte the same.
    let path = folder.path().join("fio.json");
    assert!(export(&["--to", "fio-json", "--out", path.to_str().unwrap()], folder.path()).status.success());
    assert_eq!(std::fs::read(&path).unwrap(), output.stdout);
    // Without the raw results there is nothing to export.
    std::fs::remove_file(folder.path().join("runs.csv")).unwrap();
    let output = export(&["--to", "fio-json"], folder.path());
    assert!(output.status.code() == Some(4) && output.stdout.is_empty());
}

/// The kind of every value, by its path; keys that depend on the machine are left out.
fn kinds(path: &str, value: &Value, found: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Object(fields) => {
            let own = ["/disk_util", "/jobs/job options", "/global options"].contains(&path);
            for (name, value) in fields.iter().filter(|_| !own) {
                kinds(&format!("{path}/{name}"), value, found);
            }
            return;
        }
        Value::Array(items) => {
            if let Some(first) = items.first().filter(|_| path != "/disk_util") {
                kinds(path, first, found);
            }
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "truth",
        Value::Number(_) => "number",
        Value::String(_) => "text",
    };
    found.insert(path.to_owned(), kind);
}

/// Every field that fio writes is there, with a value of its kind or null.
#[test]
fn fio_json_has_the_fields_of_fio() {
    let fio = Command::new("fio")
        .args([
            "--name=x",
            "--ioengine=null",
            "--size=4M",
            "--bs=4k",
            "--rw=randrw",
            "--rwmixread=50",
            "--fsync=8",
        ])
        .arg("--output-format=json")
        .output();
    let Ok(fio) = fio else {
        println!("skipped: fio is not installed");
        return;
    };
    let theirs: Value = serde_json::from_slice(&fio.stdout).unwrap();
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), false);
    let ours: Value = serde_json::from_slice(&export(&["--to", "fio-json"], folder.path()).stdout).unwrap();
    let (mut expected, mut found) = (BTreeMap::new(), BTreeMap::new());
    kinds("", &theirs, &mut expected);
    kinds("", &ours, &mut found);
    // Of jobs with reads, writes and flushes there is none here: any job with the field will do.
    for job in ours["jobs"].as_array().unwrap() {
        let mut more = BTreeMap::new();
        kinds("/jobs", job, &mut more);
        more.into_iter().for_each(|(path, kind)| {
            found
                .entry(path)
                .and_modify(|seen| {
                    if *seen == "null" {
                        *seen = kind
                    }
                })
                .or_insert(kind);
        });
    }
    assert!(expected.len() > 150, "{}", expected.len());
    let lacking: Vec<_> = expected
        .iter()
        .filter(|(path, kind)| !found.get(*path).is_some_and(|found| found == *kind || *found == "null"))
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}

/// Every field of every table, read by the reader of the format's own library.
#[test]
fn parquet_holds_the_tables() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    run(&path, true);
    // Rows of every table; a seed that needs all 64 bits.
    let metrics = path.join("metrics.csv");
    let text = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, text.replace(",42\n", ",18446744073709551615\n")).unwrap();
    let recovery = "run,cut,device_bytes,volume_bytes,checkpoint_bytes,queue_depth,tail_percent,tail_batches,tail_entries,tail_bytes,\
                    detected_ns,opened_ns,first_read_ns,applied_ns,load_ns,replay_ns,acknowledged,lost,valid,invalid_reason,seed\n\
                    1,sigkill,1,2,3,4,5,,,,6,7,8,9,10,11,12,,false,it was cut,13\n";
    std::fs::write(path.join("recovery.csv"), recovery).unwrap();
    std::fs::write(
        path.join("series.csv"),
        "run,since_start_ns,window_ns,operations,latency_mean_ns,latency_max_ns\n1,2,3,0,,\n",
    )
    .unwrap();
    let out = folder.path().join("out");
    let arguments = ["--to", "parquet", "--out", out.to_str().unwrap()];
    let output = export(&arguments, &path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tables = ["runs", "metrics", "timeseries", "latencies", "events", "series", "recovery"];
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), tables.len());
    let mut fields = 0;
    for table in tables {
        let file = std::fs::File::open(out.join(format!("{table}.parquet"))).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
        let manifest = metadata.iter().find(|pair| pair.key == "icecore.manifest").unwrap();
        assert!(manifest.value.as_ref().unwrap().contains("Synthetic device"));
        let mut csv = csv::Reader::from_path(path.join(format!("{table}.csv"))).unwrap();
        let header = csv.headers().unwrap().clone();
        let mut rows = reader.get_row_iter(None).unwrap();
        for record in csv.records() {
            let (record, row) = (record.unwrap(), rows.next().unwrap().unwrap());
            assert_eq!(row.len(), header.len());
            for ((name, text), (column, field)) in header.iter().zip(&record).zip(row.get_column_iter()) {
                assert_eq!(name, column);
                let is_same = match field {
                    Field::Null => text.is_empty(),
                    Field::ULong(value) => text == value.to_string(),
                    Field::Double(value) => text.parse() == Ok(*value),
                    Field::Bool(value) => text == value.to_string(),
                    Field::Str(value) => text == value,
                    other => panic!("{name} of {table} is {other:?}"),
                };
                assert!(is_same, "{name} of {table}: {field:?}, not {text:?}");
                fields += 1;
            }
        }
        assert!(rows.next().is_none(), "{table}");
    }
    assert!(fields > 50_000, "{fields}");
    let again = export(&arguments, &path);
    assert_eq!(again.status.code(), Some(3), "a folder that holds something is not written over");
}
