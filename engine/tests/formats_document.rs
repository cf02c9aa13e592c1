//! `docs/FORMATS.md` says what the code says: every row of every layout table in `engine/src/format` stands in
//! it, under the name of its record, and nothing else does; and the tables say what the compiler lays out.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::Path;

use icecore::format::batch::{BatchEntry, BatchHeader};
use icecore::format::control::ControlHeader;
use icecore::format::index_page::{IndexDeath, IndexEntry, IndexFence, PageHeader};
use icecore::format::journal::{
    Applied, Branch, ChangeHeader, Checkpoint, Dead, Lease, Object, Opening, RecordHeader, Rollback, Row,
    Run, Snapshot, SnapshotGroup, SnapshotLock, Volume,
};
use icecore::format::nbd;
use icecore::format::root::Root;
use icecore::format::superblock::{Area, RoleEntry, Superblock};

/// The rows of a record's layout table: offset, bytes, field, and the row as it is written.
type Table = Vec<(usize, usize, String, String)>;

fn row(line: &str) -> Option<(usize, usize, String, String)> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
    let [offset, bytes, field] = cells.as_slice() else { return None };
    let name = field.split('`').nth(1)?;
    Some((offset.parse().ok()?, bytes.parse().ok()?, name.to_string(), line.trim().to_string()))
}

/// The tables in the doc comments of a source file, by the name of the struct they belong to.
fn tables_of_source(source: &str) -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    let mut table = Table::new();
    for line in source.lines() {
        if let Some(comment) = line.trim().strip_prefix("///") {
            table.extend(row(comment));
        } else if let Some(name) = line.trim().strip_prefix("pub struct ")
            && !table.is_empty()
        {
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(name);
            tables.insert(name.to_string(), std::mem::take(&mut table));
        }
    }
    tables
}

/// The tables of the document, by the name in the heading above them: "### `Superblock`".
fn tables_of_document(text: &str) -> BTreeMap<String, Table> {
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut record = String::new();
    for line in text.lines() {
        if line.starts_with('#') {
            record = line.split('`').nth(1).unwrap_or_default().to_string();
        } else if let Some(row) = row(line) {
            tables.entry(record.clone()).or_default().push(row);
        }
    }
    tables
}

/// What differs between the code's tables and the document's.
fn differences(code: &BTreeMap<String, Table>, document: &BTreeMap<String, Table>) -> Vec<String> {
    let rows = |tables: &BTreeMap<String, Table>| -> Vec<(String, String)> {
        let rows =
            tables.iter().flat_map(|(name, rows)| rows.iter().map(|row| (name.clone(), row.3.clone())));
        rows.collect()
    };
    let (code, document) = (rows(code), rows(document));
    let missing = code.iter().filter(|row| !document.contains(row));
    let foreign = document.iter().filter(|row| !code.contains(row));
    missing
        .map(|row| format!("the document lacks {row:?}"))
        .chain(foreign.map(|row| format!("the code lacks {row:?}")))
        .collect()
}

fn tables_of_code() -> BTreeMap<String, Table> {
    let mut tables = BTreeMap::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            tables.extend(tables_of_source(&std::fs::read_to_string(path).unwrap()));
        }
    }
    tables
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FORMATS.md")).unwrap()
}

#[test]
fn the_document_and_the_code_have_the_same_tables() {
    let code = tables_of_code();
    assert!(code["Superblock"].len() > 20 && code["RoleEntry"].len() == 4, "{:?}", code.keys());
    let differences = differences(&code, &tables_of_document(&document()));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_changed_row_is_found() {
    let code = tables_of_code();
    let text = document();
    for (was, is) in [
        ("| 24 | 8 | `generation`", "| 32 | 8 | `generation`"),
        ("| 112 | 4 | `block_bytes`", "| 112 | 8 | `block_bytes`"),
        ("`epoch`", "`era`"),
    ] {
        let changed = text.replacen(was, is, 1);
        assert_ne!(changed, text, "{was} is in the document");
        assert!(!differences(&code, &tables_of_document(&changed)).is_empty(), "{is} is not found");
    }
}

macro_rules! layout {
    ($record:ty: $($field:ident)*) => {
        &[$((stringify!($field), offset_of!($record, $field))),*]
    };
}

/// Each row begins where the compiler puts the field and ends where the next one begins.
fn assert_laid_out(record: &str, bytes: usize, fields: &[(&str, usize)]) {
    let table = &tables_of_code()[record];
    let told: Vec<(&str, usize)> = table.iter().map(|row| (row.2.as_str(), row.0)).collect();
    assert_eq!(told, fields, "{record}");
    let ends = fields[1..].iter().map(|field| field.1).chain([bytes]);
    for (row, end) in table.iter().zip(ends) {
        assert_eq!(row.0 + row.1, end, "{record}: {}", row.3);
    }
}

#[test]
fn the_tables_say_what_the_compiler_lays_out() {
    let fields = layout!(Superblock: magic version checksum address generation pool_id volume_id
        features_compatible features_read_only features_incompatible backend state device_bytes volume_bytes
        block_bytes region_bytes epoch created_unix_s roots metadata checksums data segment_bytes volume_flags
        checkpoint_bytes retention_bytes retention_age_s home_bytes base snapshot_bytes snapshots_max reserved_0 roles reserved_1 device_id generation_tail
        reserved_2);
    assert_laid_out("Superblock", size_of::<Superblock>(), fields);
    let fields = layout!(RoleEntry: role flags device_id reserved);
    assert_laid_out("RoleEntry", size_of::<RoleEntry>(), fields);
    let fields = layout!(Root: magic version checksum address generation pool_id image_address image_bytes
        image_checksum reserved_0 journal_address journal_bytes reserved_1);
    assert_laid_out("Root", size_of::<Root>(), fields);
    let fields = layout!(RecordHeader: magic version checksum address generation number bytes pool_id);
    assert_laid_out("RecordHeader", size_of::<RecordHeader>(), fields);
    assert_laid_out("ChangeHeader", size_of::<ChangeHeader>(), layout!(ChangeHeader: kind bytes));
    assert_laid_out("Opening", size_of::<Opening>(), layout!(Opening: nonce first_batch));
    let fields = layout!(Applied: sequence batch first_sequence virtual_segment block previous reserved);
    assert_laid_out("Applied", size_of::<Applied>(), fields);
    let fields = layout!(SnapshotLock: number until_unix_ns held);
    assert_laid_out("SnapshotLock", size_of::<SnapshotLock>(), fields);
    let fields = layout!(Object: snapshot sequence first extents);
    assert_laid_out("Object", size_of::<Object>(), fields);
    let fields = layout!(Snapshot: number sequence time_unix_ns removed name_bytes branch);
    assert_laid_out("Snapshot", size_of::<Snapshot>(), fields);
    assert_laid_out("SnapshotGroup", size_of::<SnapshotGroup>(), layout!(SnapshotGroup: id members));
    let fields = layout!(Volume: size_bytes sequence time_unix_ns branch name_bytes removed);
    assert_laid_out("Volume", size_of::<Volume>(), fields);
    let fields = layout!(Branch: parent time_unix_ns branch name_bytes removed);
    assert_laid_out("Branch", size_of::<Branch>(), fields);
    assert_laid_out("Rollback", size_of::<Rollback>(), layout!(Rollback: at to settled));
    assert_laid_out("Lease", size_of::<Lease>(), layout!(Lease: physical virtual_segment));
    let fields = layout!(Checkpoint: address batch sequence time_unix_ns previous released);
    assert_laid_out("Checkpoint", size_of::<Checkpoint>(), fields);
    let fields = layout!(Row: virtual_segment physical first_block slots identity continued written);
    assert_laid_out("Row", size_of::<Row>(), fields);
    assert_laid_out("Dead", size_of::<Dead>(), layout!(Dead: virtual_segment slots));
    let fields = layout!(Run: run first_sequence last_sequence order entries deaths);
    assert_laid_out("Run", size_of::<Run>(), fields);
    let fields = layout!(BatchHeader: magic version checksum address nonce batch first_sequence durable_through
        epoch time_unix_ns previous header_bytes payload_blocks entries block_bytes reserved);
    assert_laid_out("BatchHeader", size_of::<BatchHeader>(), fields);
    let fields = layout!(BatchEntry: kind branch lba blocks payload tag);
    assert_laid_out("BatchEntry", size_of::<BatchEntry>(), fields);
    let fields = layout!(ControlHeader: magic version kind body_bytes);
    assert_laid_out("ControlHeader", size_of::<ControlHeader>(), fields);
    let fields = layout!(nbd::Greeting: magic option_magic flags);
    assert_laid_out("Greeting", size_of::<nbd::Greeting>(), fields);
    let fields = layout!(nbd::OptionHeader: magic option data_bytes);
    assert_laid_out("OptionHeader", size_of::<nbd::OptionHeader>(), fields);
    let fields = layout!(nbd::OptionReply: magic option kind data_bytes);
    assert_laid_out("OptionReply", size_of::<nbd::OptionReply>(), fields);
    let fields = layout!(nbd::ExportInfo: information size_bytes flags);
    assert_laid_out("ExportInfo", size_of::<nbd::ExportInfo>(), fields);
    let fields = layout!(nbd::BlockSizeInfo: information minimum_bytes preferred_bytes maximum_bytes);
    assert_laid_out("BlockSizeInfo", size_of::<nbd::BlockSizeInfo>(), fields);
    let fields = layout!(nbd::Request: magic flags command handle offset_bytes length_bytes);
    assert_laid_out("Request", size_of::<nbd::Request>(), fields);
    let fields = layout!(nbd::SimpleReply: magic error handle);
    assert_laid_out("SimpleReply", size_of::<nbd::SimpleReply>(), fields);
    let fields = layout!(nbd::Chunk: magic flags kind handle payload_bytes);
    assert_laid_out("Chunk", size_of::<nbd::Chunk>(), fields);
    assert_laid_out("Hole", size_of::<nbd::Hole>(), layout!(nbd::Hole: offset_bytes length_bytes));
    assert_laid_out("ChunkError", size_of::<nbd::ChunkError>(), layout!(nbd::ChunkError: error text_bytes));
    let fields = layout!(PageHeader: magic version checksum address run page kind count reserved);
    assert_laid_out("PageHeader", size_of::<PageHeader>(), fields);
    let fields = layout!(IndexEntry: lba sequence reserved virtual_segment slot checksum);
    assert_laid_out("IndexEntry", size_of::<IndexEntry>(), fields);
    let fields = layout!(IndexDeath: birth death virtual_segment slot branch);
    assert_laid_out("IndexDeath", size_of::<IndexDeath>(), fields);
    assert_laid_out("IndexFence", size_of::<IndexFence>(), layout!(IndexFence: lba sequence));
    assert_eq!((offset_of!(Area, offset), offset_of!(Area, bytes), size_of::<Area>()), (0, 8, 16));
}
