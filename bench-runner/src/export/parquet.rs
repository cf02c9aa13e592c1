//! The tables of a run folder as Parquet files, one a table, with the manifest in the metadata of each.
//!
//! Columns have the names of the CSV files, whole numbers as 64 bits without sign, others as doubles; an empty field is a null.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::parser::parse_message_type;
use serde::Serialize;

use crate::failure::Failure;
use crate::results::{
    EVENTS_FILE, LATENCIES_FILE, METRICS_FILE, RECOVERY_FILE, RUNS_FILE, ResultsError, RunData, RunFolder,
    SERIES_FILE, TIMESERIES_FILE,
};

/// Key of the manifest in the metadata of a file.
const MANIFEST_KEY: &str = "icecore.manifest";

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Number,
    Truth,
    Text,
}

impl Kind {
    /// Most columns are whole numbers; the others are listed. A value that does not fit is an error, so that a new column cannot be
    /// taken for what it is not.
    fn of(column: &str) -> Self {
        match column {
            "value" | "ci_low" | "ci_high" | "busy_percent" | "foreign_percent" => Kind::Number,
            "steady" | "valid" => Kind::Truth,
            "arm" | "backend" | "workload" | "started_utc" | "io_path" | "invalid_reason" | "hist_file"
            | "phase" | "op" | "metric" | "stat" | "unit" | "utc" | "event" | "detail" | "cut" => Kind::Text,
            _ => Kind::Whole,
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Kind::Whole => "INT64",
            Kind::Number => "DOUBLE",
            Kind::Truth => "BOOLEAN",
            Kind::Text => "BYTE_ARRAY",
        }
    }

    fn annotation(self) -> &'static str {
        match self {
            Kind::Whole => " (INTEGER(64,false))",
            Kind::Number | Kind::Truth => "",
            Kind::Text => " (STRING)",
        }
    }
}

/// Writes the tables that have rows into a folder that is empty or new; gives the files.
///
/// # Errors
/// The folder holds something or cannot be written.
pub(super) fn write(data: &RunData, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    RunFolder::check_empty(folder)?;
    fs::create_dir_all(folder).map_err(ResultsError::io(folder, "create"))?;
    let manifest = serde_json::to_string(&data.manifest)
        .map_err(|error| Failure::environment(format!("the manifest: {error}")))?;
    let mut files = Vec::new();
    table(RUNS_FILE, &data.runs, folder, &manifest, &mut files)?;
    table(METRICS_FILE, &data.metrics, folder, &manifest, &mut files)?;
    table(TIMESERIES_FILE, &data.seconds, folder, &manifest, &mut files)?;
    table(LATENCIES_FILE, &data.bands, folder, &manifest, &mut files)?;
    table(EVENTS_FILE, &data.events, folder, &manifest, &mut files)?;
    table(SERIES_FILE, &data.windows, folder, &manifest, &mut files)?;
    table(RECOVERY_FILE, &data.recovery, folder, &manifest, &mut files)?;
    Ok(files)
}

fn table<Row: Serialize>(
    name: &str,
    rows: &[Row],
    folder: &Path,
    manifest: &str,
    files: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let path = folder.join(name).with_extension("parquet");
    let wrong = |detail: String| Failure::environment(format!("{}: {detail}", path.display()));
    // As the tables are written, so that names, order and rounding are theirs.
    let mut text = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| text.serialize(row)).map_err(|error| wrong(error.to_string()))?;
    let text = text.into_inner().map_err(|error| wrong(error.to_string()))?;
    let mut reader = csv::Reader::from_reader(&text[..]);
    let header: Vec<String> =
        reader.headers().map_err(|error| wrong(error.to_string()))?.iter().map(str::to_owned).collect();
    let records: Vec<csv::StringRecord> =
        reader.records().collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
    let columns: Vec<(&str, Vec<&str>)> = header
        .iter()
        .enumerate()
        .map(|(index, name)| {
            (name.as_str(), records.iter().map(|row| row.get(index).unwrap_or("")).collect())
        })
        .collect();
    let file = File::create_new(&path).map_err(ResultsError::io(&path, "create"))?;
    write_columns(file, &columns, manifest).map_err(|error| wrong(error.to_string()))?;
    files.push(path);
    Ok(())
}

fn write_columns(file: File, columns: &[(&str, Vec<&str>)], manifest: &str) -> Result<(), ParquetError> {
    let fields: String = columns
        .iter()
        .map(|(name, _)| {
            let kind = Kind::of(name);
            format!("OPTIONAL {} {name}{};\n", kind.schema(), kind.annotation())
        })
        .collect();
    let schema = Arc::new(parse_message_type(&format!("message table {{ {fields} }}"))?);
    let metadata = vec![KeyValue::new(MANIFEST_KEY.to_owned(), manifest.to_owned())];
    let properties = WriterProperties::builder().set_key_value_metadata(Some(metadata)).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (name, fields) in columns {
        let Some(mut column) = group.next_column()? else {
            return Err(ParquetError::General("a column is missing".to_owned()));
        };
        write_column(&mut column, Kind::of(name), name, fields)?;
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

fn write_column(
    column: &mut SerializedColumnWriter<'_>,
    kind: Kind,
    name: &str,
    fields: &[&str],
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = fields.iter().map(|field| i16::from(!field.is_empty())).collect();
    let some = fields.iter().filter(|field| !field.is_empty());
    let wrong =
        |field: &str| ParquetError::General(format!("{name}: {field:?} is not what the column holds"));
    let levels = Some(&levels[..]);
    match kind {
        Kind::Whole => {
            // 64 bits without sign are stored as those of a number with one.
            let values: Vec<i64> = some
                .map(|field| field.parse::<u64>().map(u64::cast_signed).map_err(|_| wrong(field)))
                .collect::<Result<_, _>>()?;
            column.typed::<Int64Type>().write_batch(&values, levels, None)?;
        }
        Kind::Number => {
            let values: Vec<f64> =
                some.map(|field| field.parse().map_err(|_| wrong(field))).collect::<Result<_, _>>()?;
            column.typed::<DoubleType>().write_batch(&values, levels, None)?;
        }
        Kind::Truth => {
            let values: Vec<bool> =
                some.map(|field| field.parse().map_err(|_| wrong(field))).collect::<Result<_, _>>()?;
            column.typed::<BoolType>().write_batch(&values, levels, None)?;
        }
        Kind::Text => {
            let values: Vec<ByteArray> = some.map(|field| ByteArray::from(*field)).collect();
            column.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
        }
    }
    Ok(())
}
