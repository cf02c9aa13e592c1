//! The layout tables of the formats, from the doc comments of the code, and the list of what a check cannot see,
//! from the document.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A field of a record: offset, bytes, name.
pub type Field = (usize, usize, String);

/// Sources of `format/` whose records go over sockets and lie on no device.
const ON_SOCKETS: [&str; 2] = ["control", "nbd"];

/// The fields of each record that lies on a device, by the record's name.
pub fn tables() -> BTreeMap<String, Vec<Field>> {
    let mut tables = BTreeMap::new();
    let entries = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format")).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        if ON_SOCKETS.iter().any(|name| path.file_stem().is_some_and(|stem| stem == *name)) {
            continue;
        }
        let mut table = Vec::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            if let Some(comment) = line.trim().strip_prefix("///") {
                table.extend(field(comment));
            } else if let Some(name) = line.trim().strip_prefix("pub struct ")
                && !table.is_empty()
            {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                tables.insert(name.to_string(), std::mem::take(&mut table));
            }
        }
    }
    tables
}

fn field(line: &str) -> Option<Field> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
    let [offset, bytes, name] = cells.as_slice() else { return None };
    Some((offset.parse().ok()?, bytes.parse().ok()?, name.split('`').nth(1)?.to_string()))
}

/// Record and field of each row of the table "What a check cannot see".
pub fn unseen() -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FORMATS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("## What a check cannot see").nth(1).expect("the section is there");
    let rows = section.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [record, fields, _why] = cells.as_slice() else { return None };
        fields.contains('`').then(|| (record.replace('`', ""), (*fields).to_string()))
    });
    rows.flat_map(|(record, fields)| {
        let names: Vec<String> = fields.split('`').skip(1).step_by(2).map(str::to_string).collect();
        names.into_iter().map(move |name| (record.clone(), name))
    })
    .collect()
}
