//! What a run that was cut short has left: whole rows, and which of them belong to arms that are there in full.

use std::fs;
use std::path::Path;

use csv::{ByteRecord, Reader};
use serde::de::DeserializeOwned;

use super::ResultsError;

/// The length of a table without a last row that is not whole: one without its end, or with an open quote.
pub(super) fn whole_rows(bytes: &[u8]) -> usize {
    let (mut is_quoted, mut end) = (false, 0);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' if !is_quoted => end = at + 1,
            _ => {}
        }
    }
    end
}

/// The rows of a table, and where each begins.
pub(super) fn parse<Row: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<(usize, Row)>, ResultsError> {
    let mut reader = Reader::from_reader(bytes);
    let malformed = |error| ResultsError::malformed(path, error);
    let header = reader.byte_headers().map_err(malformed)?.clone();
    let (mut rows, mut record) = (Vec::new(), ByteRecord::new());
    while reader.read_byte_record(&mut record).map_err(malformed)? {
        let begin = record.position().map_or(0, |position| position.byte() as usize);
        rows.push((begin, record.deserialize(Some(&header)).map_err(malformed)?));
    }
    Ok(rows)
}

/// Takes out of a table what `stays` refuses, and a last row that is not whole, in one step; gives the rows that stay. A table
/// of which not even the header is whole is taken away, one that is not there stays so.
pub(super) fn keep<Row: DeserializeOwned>(
    path: &Path,
    stays: impl Fn(&Row) -> bool,
) -> Result<Vec<Row>, ResultsError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ResultsError::io(path, "read")(error)),
    };
    let end = whole_rows(&bytes);
    if end == 0 {
        fs::remove_file(path).map_err(ResultsError::io(path, "write"))?;
        return Ok(Vec::new());
    }
    let rows: Vec<(usize, Row)> = parse(path, &bytes[..end])?;
    let begins: Vec<usize> = rows.iter().map(|(begin, _)| *begin).chain([end]).collect();
    let mut kept = bytes[..begins[0]].to_vec();
    let mut staying = Vec::new();
    for ((begin, row), next) in rows.into_iter().zip(&begins[1..]) {
        if stays(&row) {
            kept.extend_from_slice(&bytes[begin..*next]);
            staying.push(row);
        }
    }
    if kept != bytes {
        let next = path.with_extension("csv.next");
        fs::write(&next, kept).map_err(ResultsError::io(&next, "write"))?;
        fs::rename(&next, path).map_err(ResultsError::io(path, "write"))?;
    }
    Ok(staying)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::EventRow;

    const HEADER: &str = "utc,since_start_ns,event,detail\n";
    const TABLE: &str = "a,1,one,\"x, \"\"y\"\"\"\nb,22,two,\"lines\nof it\"\nc,333,three,last\n";

    /// A table cut at every byte has the rows that ended before, as they were written.
    #[test]
    fn a_table_cut_anywhere_keeps_its_whole_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        let text = format!("{HEADER}{TABLE}");
        let ends: Vec<usize> =
            ["\"\"\"\n", "it\"\n", "last\n"].map(|end| text.find(end).unwrap() + end.len()).into();
        for cut in 0..=text.len() {
            fs::write(&path, &text.as_bytes()[..cut]).unwrap();
            let rows: Vec<EventRow> = keep(&path, |_| true).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(rows.len(), whole, "cut at {cut}");
            let expected = if whole > 0 { ends[whole - 1] } else { HEADER.len() };
            if cut < HEADER.len() {
                assert!(!path.exists(), "cut at {cut}");
            } else {
                assert_eq!(fs::read(&path).unwrap(), &text.as_bytes()[..expected], "cut at {cut}");
            }
        }
        assert_eq!(keep::<EventRow>(&folder.path().join("none.csv"), |_| true).unwrap(), []);
    }

    #[test]
    fn what_is_refused_goes_and_the_rest_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.csv");
        fs::write(&path, format!("{HEADER}{TABLE}")).unwrap();
        let kept: Vec<EventRow> = keep(&path, |row: &EventRow| row.since_start_ns != 22).unwrap();
        assert_eq!(kept.iter().map(|row| row.event.as_str()).collect::<Vec<_>>(), ["one", "three"]);
        let left = TABLE.replace("b,22,two,\"lines\nof it\"\n", "");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEADER}{left}"));
    }
}
