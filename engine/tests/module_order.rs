//! House rules that a compiler does not check: the order of modules, where `unsafe` may stand, how a file
//! begins, how long it may be, and that nothing is left to do.
//!
//! Each rule has a control: a piece of text that breaks it and must be found out.

#![allow(clippy::disallowed_methods, reason = "tests look at the outside world directly")]

use std::path::{Path, PathBuf};

/// The architecture's table, top first. A module may import those above it and those in its own row.
const ORDER: [&[&str]; 13] = [
    &["units", "error", "buf"],
    &["format"],
    &["runtime"],
    &["device"],
    &["pool"],
    &["object"],
    &["store"],
    &["check"],
    &["snapshot"],
    &["volume"],
    &["replication"],
    &["export"],
    &["sim"],
];

/// What a module shares with the write path, where it is to repeat none of its mistakes.
const ALONE: [(&str, &[&str]); 1] = [("check", &["units", "error", "buf", "format", "runtime", "device"])];

/// Switches of deliberate faults: a leaf that any module may ask.
const LEAVES: [&str; 1] = ["mutation"];

/// The only files of the engine with `unsafe`, relative to its sources.
const UNSAFE_FILES: [&str; 3] = ["buf.rs", "runtime/uring.rs", "device/sys.rs"];

const LINES_MAX: usize = 800;

fn row(module: &str) -> Option<usize> {
    ORDER.iter().position(|row| row.contains(&module))
}

/// The text with comments, strings and characters blanked out; lines stay where they were.
fn without_text(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    let blank = |code: &mut String, from: usize, to: usize| {
        code.extend(chars[from..to].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    };
    let find = |from: usize, wanted: &str| {
        let wanted: Vec<char> = wanted.chars().collect();
        (from..chars.len()).find(|at| chars[*at..].starts_with(&wanted)).unwrap_or(chars.len())
    };
    while at < chars.len() {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let is_start = at == 0 || !(chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let end = match chars[at] {
            '/' if next == '/' => find(at, "\n"),
            '/' if next == '*' => (find(at, "*/") + 2).min(chars.len()),
            'r' if is_start && (next == '"' || next == '#') => {
                let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                match chars.get(at + 1 + hashes) {
                    Some('"') => {
                        let close = format!("\"{}", "#".repeat(hashes));
                        (find(at + hashes + 2, &close) + 1 + hashes).min(chars.len())
                    }
                    _ => at,
                }
            }
            '"' => {
                let mut end = at + 1;
                while end < chars.len() && chars[end] != '"' {
                    end += if chars[end] == '\\' { 2 } else { 1 };
                }
                (end + 1).min(chars.len())
            }
            '\'' if next == '\\' => find(at + 3, "'") + 1,
            '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end > at {
            blank(&mut code, at, end);
            at = end;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

/// The code without items that only test builds have.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::new();
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start + MARK.len()..];
        let end = match (item.find(';'), item.find('{')) {
            (Some(semicolon), Some(brace)) if semicolon < brace => semicolon + 1,
            (Some(semicolon), None) => semicolon + 1,
            (_, Some(brace)) => brace + block_length(&item[brace..]),
            (None, None) => item.len(),
        };
        rest = &item[end..];
    }
    kept + rest
}

/// Bytes of the block that begins with the brace at the start of `code`.
fn block_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn words(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            words.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    words
}

/// The top-level modules that a file's code names through `crate` or `super`.
fn imports(file: &str, code: &str) -> Vec<String> {
    let mut depth = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").count();
    if file == "lib.rs" {
        depth = 0;
    }
    let words = words(code);
    let mut found = Vec::new();
    for start in 0..words.len() {
        let mut at = start;
        // How many `super` lead to the crate's root from here.
        let mut up = match words[start] {
            "crate" if words.get(start.wrapping_sub(1)) != Some(&"$") => 0,
            "super" if start == 0 || words[start - 1] != "::" => depth,
            _ => continue,
        };
        while words.get(at) == Some(&"super") {
            up = up.saturating_sub(1);
            if words.get(at + 1) != Some(&"::") {
                break;
            }
            if words.get(at + 2) != Some(&"super") {
                break;
            }
            at += 2;
        }
        if up > 0 || words.get(at + 1) != Some(&"::") {
            continue;
        }
        match words.get(at + 2) {
            Some(&"{") => found.extend(group(&words[at + 2..])),
            Some(name) => found.push((*name).to_string()),
            None => {}
        }
    }
    found
}

/// The first names of the entries of `{a::b, c}`.
fn group(words: &[&str]) -> Vec<String> {
    let mut depth = 0;
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && matches!(words[at - 1], "{" | ",") => found.push(name.to_string()),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// What a file of the engine does against the rules; `file` is relative to `engine/src`.
fn engine_violations(file: &str, source: &str) -> Vec<String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    if matches!(name, "tests.rs" | "contract.rs") {
        return Vec::new();
    }
    let code = without_tests(&without_text(source));
    let mut violations = Vec::new();
    let module = file.split('/').next().unwrap_or(file).trim_end_matches(".rs");
    if module != "lib" && !LEAVES.contains(&module) {
        match row(module) {
            None => violations.push(format!("{file}: module {module} has no place in the table")),
            Some(own) => {
                let is_module = |name: &str| row(name).is_some() || LEAVES.contains(&name);
                for import in imports(file, &code).into_iter().filter(|import| is_module(import)) {
                    if row(&import).is_some_and(|row| row > own) {
                        violations.push(format!("{file}: {module} imports {import}, which is below it"));
                    }
                    let alone = ALONE.iter().find(|(alone, _)| *alone == module);
                    if import != module && alone.is_some_and(|(_, shared)| !shared.contains(&import.as_str()))
                    {
                        violations.push(format!("{file}: {module} imports {import}, and stands alone"));
                    }
                }
            }
        }
    }
    let is_unsafe = words(&code).contains(&"unsafe");
    if is_unsafe && !UNSAFE_FILES.contains(&file) {
        violations.push(format!("{file}: unsafe has no place here"));
    }
    violations
}

/// What a file of the workspace does against the rules.
fn file_violations(file: &str, source: &str) -> Vec<String> {
    let mut violations = Vec::new();
    if !source.starts_with("//!") {
        violations.push(format!("{file}: does not open with //!"));
    }
    let lines = source.lines().count();
    if lines > LINES_MAX {
        violations.push(format!("{file}: {lines} lines"));
    }
    let code = without_text(source);
    let words = words(&code);
    for pair in words.windows(2) {
        if matches!(pair, ["todo" | "unimplemented", "!"]) {
            violations.push(format!("{file}: {}! is left", pair[0]));
        }
    }
    violations
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every `.rs` file under a folder, with its path relative to that folder.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder_now) = pending.pop() {
        for entry in std::fs::read_dir(&folder_now).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_engine_keeps_its_order_and_its_unsafe_in_place() {
    let sources = sources(&root().join("engine/src"));
    assert!(sources.len() > 30, "the sources were found");
    let violations: Vec<String> =
        sources.iter().flat_map(|(file, source)| engine_violations(file, source)).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    for file in UNSAFE_FILES {
        assert!(sources.iter().any(|(name, _)| name == file), "{file} is still there");
    }
}

#[test]
fn every_file_says_what_it_is_and_is_not_too_long() {
    let mut violations = Vec::new();
    for package in ["engine", "workloads", "bench-runner", "cli"] {
        let sources = sources(&root().join(package));
        assert!(!sources.is_empty(), "{package}");
        for (file, source) in sources {
            violations.extend(file_violations(&format!("{package}/{file}"), &source));
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn an_import_from_below_is_found_in_every_form() {
    for (file, source) in [
        ("device/mod.rs", "use crate::volume::Volume;"),
        ("device/cached.rs", "use crate::{error::Error, pool::layout};"),
        ("device/cached.rs", "use crate::{\n    error::{Error, Result},\n    sim,\n};"),
        ("error.rs", "fn f() { crate::runtime::now() }"),
        ("store/direct/read.rs", "use super::super::super::volume::Volume;"),
        ("device/mod.rs", "use super::store::Store;"),
        ("units.rs", "pub use super::format::crc32c;"),
        ("format/superblock.rs", "#[cfg(test)] use crate::volume::X; use crate::device::Device;"),
        ("strange/mod.rs", ""),
        ("check/log.rs", "use crate::pool::log::Geometry;"),
        ("check/mod.rs", "use crate::store::Backend;"),
        ("check/mod.rs", "use crate::mutation::is_on;"),
        ("runtime/sim.rs", "#[cfg(feature = \"sim\")] use crate::sim::World;"),
    ] {
        assert_eq!(engine_violations(file, source).len(), 1, "{file}: {source}");
    }
    for (file, source) in [
        ("volume/mod.rs", "use crate::{device::Device, units::Seq};"),
        ("check/log.rs", "use super::state::State; use crate::format::journal::Run;"),
        ("volume/io.rs", "use super::Volume; use crate::mutation::is_on;"),
        ("device/identity/sysfs.rs", "use super::super::sys; use crate::error::Error;"),
        ("device/tests.rs", "use crate::volume::Volume;"),
        ("device/mod.rs", "// use crate::volume::Volume;\nconst S: &str = \"crate::volume\";"),
        ("device/mod.rs", "#[cfg(test)]\nmod tests {\n use crate::volume::Volume; fn f() {}\n}\nfn g() {}"),
    ] {
        assert_eq!(engine_violations(file, source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn unsafe_elsewhere_is_found() {
    let block = "fn f() { unsafe { g() } }";
    assert_eq!(engine_violations("volume/mod.rs", block).len(), 1);
    assert_eq!(engine_violations("runtime/blocking.rs", "unsafe impl Send for X {}").len(), 1);
    for (file, source) in [
        ("buf.rs", block),
        ("runtime/uring.rs", block),
        ("device/sys.rs", block),
        ("volume/mod.rs", "#![deny(unsafe_code)] // unsafe\n/* unsafe */ const S: &str = \"unsafe\";"),
        ("volume/mod.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }"),
        ("volume/mod.rs", "const C: char = '\"'; const D: char = '\\''; const S: &str = r#\"unsafe \" \"#;"),
    ] {
        assert_eq!(engine_violations(file, source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn a_file_without_a_header_too_long_or_unfinished_is_found() {
    let header = "//! A file.\n";
    assert_eq!(file_violations("a.rs", "fn f() {}").len(), 1);
    assert_eq!(file_violations("a.rs", &format!("{header}{}", "\n".repeat(800))).len(), 1);
    assert_eq!(file_violations("a.rs", &format!("{header}fn f() {{ todo!() }}")).len(), 1);
    assert_eq!(file_violations("a.rs", &format!("{header}fn f() {{ unimplemented !(\"\") }}")).len(), 1);
    let fine = format!("{header}// todo!()\nconst S: &str = \"todo!()\";{}", "\n".repeat(790));
    assert_eq!(file_violations("a.rs", &fine), Vec::<String>::new());
}
