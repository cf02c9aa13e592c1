//! A trace: one or several files, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use super::chunk::{Names, Passed};
use super::error::{Place, TraceError, TraceErrorKind};
use super::format::{BlockEvent, Format};
use super::reader::FileReader;
use super::record::Record;
use super::sort::Sorter;
use super::source::Packing;

/// Files of one trace; each has a sort window and a chunk.
pub const FILES_MAX: usize = 256;
/// Records that all files together are sorted within unless more is asked for: 3 MiB.
const SORT_WINDOW_RECORDS: usize = 65_536;

/// Where records come from: a trace, or what is made of one.
pub trait RecordSource {
    /// The next record, in order of time; `None` at the end, and after an error.
    ///
    /// # Errors
    /// The trace is damaged, cannot be read, or is further out of order than its window.
    fn next(&mut self) -> Result<Option<Record>, TraceError>;
}

/// How a trace is read.
#[derive(Clone, Debug, Default)]
pub struct TraceOptions {
    /// The format of all files; found out for each if not given.
    pub format: Option<Format>,
    /// The event that stands for a request where it shows as several.
    pub event: BlockEvent,
    /// How many records a record may have to be put in front of, in each file; 65,536, shared among the files, if not given.
    pub sort_window_records: Option<usize>,
    /// Bad records to be left out and counted, in each file, before it is refused.
    pub bad_records_max: u64,
}

/// What was found in a file so far.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// How it is packed.
    pub packing: Packing,
    /// Unpacked bytes that have been passed on.
    pub content_bytes: u64,
    /// Records that were not in order and have been put right.
    pub sorted_records: u64,
    /// Bad records that have been left out.
    pub bad_records: u64,
    /// What was wrong with the first of them.
    pub bad_messages: Vec<String>,
    /// Rows that rightly are no requests.
    pub passed: Passed,
}

/// One file with its window.
struct SortedFile {
    reader: FileReader,
    sorter: Sorter,
    ended: bool,
    /// Why it ended early.
    failed: Option<TraceError>,
    window_records: usize,
}

impl SortedFile {
    #[inline]
    fn next(&mut self, names: &mut Names) -> Result<Option<Record>, TraceError> {
        while !self.ended && !self.sorter.full() {
            match self.reader.next(names) {
                Ok(Some(record)) => {
                    if let Err(late_ns) = self.sorter.push(record) {
                        return Err(self.too_late(late_ns));
                    }
                }
                Ok(None) => self.ended = true,
                // What stands before it is in the window, and comes first.
                Err(error) => {
                    self.ended = true;
                    self.failed = Some(error);
                }
            }
        }
        match self.sorter.pop() {
            Some(record) => Ok(Some(record)),
            None => self.failed.take().map_or(Ok(None), Err),
        }
    }

    #[cold]
    fn too_late(&self, late_ns: u64) -> TraceError {
        let reason = format!(
            "the record is {}.{:09} s earlier than one that has been passed on; records are sorted within a window of {}, \
             --sort-window takes more",
            late_ns / 1_000_000_000,
            late_ns % 1_000_000_000,
            self.window_records
        );
        TraceError::new(TraceErrorKind::Unsorted, self.reader.path(), self.reader.latest_place(), reason)
    }
}

/// A trace being read. After an error it gives no more records.
pub struct TraceStream {
    files: Vec<SortedFile>,
    names: Names,
    /// The next record of each file, where there are several.
    heads: Vec<Option<Record>>,
    /// Their times and files, earliest first.
    order: BinaryHeap<Reverse<(u64, usize)>>,
    begun: bool,
    ended: bool,
    first_ns: u64,
    records: u64,
}

impl TraceStream {
    /// Opens the files of a trace, which are merged by time. For `NAME`, if there is no such file, stand
    /// `NAME.blktrace.0` and those that follow it.
    ///
    /// # Errors
    /// A file cannot be opened, or its format is not known.
    pub fn open(paths: &[PathBuf], options: &TraceOptions) -> Result<Self, TraceError> {
        let paths: Vec<_> = paths.iter().flat_map(|path| with_cpu_files(path)).collect();
        let refused = |reason: String| {
            let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
            Err(TraceError::new(TraceErrorKind::Usage, path, Place::File, reason))
        };
        if paths.is_empty() {
            return refused("no file was named".into());
        }
        if paths.len() > FILES_MAX {
            return refused(format!(
                "{} files are more than the {FILES_MAX} that can be merged",
                paths.len()
            ));
        }
        let window_records = options.sort_window_records.unwrap_or(SORT_WINDOW_RECORDS / paths.len());
        let mut files = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            files.push(SortedFile {
                reader: FileReader::open(path, number as u32, paths.len(), options)?,
                sorter: Sorter::new(window_records),
                ended: false,
                failed: None,
                window_records,
            });
        }
        Ok(Self {
            heads: vec![None; files.len()],
            files,
            names: Names::default(),
            order: BinaryHeap::new(),
            begun: false,
            ended: false,
            first_ns: 0,
            records: 0,
        })
    }

    /// What was found in each file so far.
    pub fn files(&self) -> Vec<FileReport> {
        self.files
            .iter()
            .map(|SortedFile { reader, sorter, .. }| FileReport {
                path: reader.path().to_owned(),
                format: reader.format(),
                packing: reader.packing(),
                content_bytes: reader.content_bytes(),
                sorted_records: sorter.late_count(),
                bad_records: reader.bad_count(),
                bad_messages: reader.bad_messages().to_vec(),
                passed: *reader.passed(),
            })
            .collect()
    }

    /// Unpacked bytes that have been passed on.
    pub fn content_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.reader.content_bytes()).sum()
    }

    /// The name of a volume, where the format has names.
    pub fn volume_name(&self, volume: u32) -> Option<String> {
        let shift = self.files.first()?.reader.format().name_shift()?;
        let name = String::from_utf8_lossy(self.names.get(volume >> shift)?).into_owned();
        Some(if shift == 0 { name } else { format!("{name}.{}", volume & ((1 << shift) - 1)) })
    }

    /// The next record, at the time that stands in its file.
    #[inline]
    fn next_of_all(&mut self) -> Result<Option<Record>, TraceError> {
        if let [file] = self.files.as_mut_slice() {
            return file.next(&mut self.names);
        }
        if !self.begun {
            for index in 0..self.files.len() {
                self.advance(index)?;
            }
        }
        let Some(Reverse((_, index))) = self.order.pop() else { return Ok(None) };
        let record = self.heads[index].take();
        self.advance(index)?;
        Ok(record)
    }

    fn advance(&mut self, index: usize) -> Result<(), TraceError> {
        self.heads[index] = self.files[index].next(&mut self.names)?;
        if let Some(record) = &self.heads[index] {
            self.order.push(Reverse((record.arrival_ns, index)));
        }
        Ok(())
    }

    /// A trace of which nothing is left because the event asked for is not in it, though others are.
    fn without_event(&self) -> Option<TraceError> {
        let file = self
            .files
            .iter()
            .find(|file| file.reader.format().has_events() && file.reader.passed().other_events > 0)?;
        Some(TraceError::new(
            TraceErrorKind::Usage,
            file.reader.path(),
            Place::File,
            "the trace has events, but none of those asked for; --event queued or issued says which",
        ))
    }
}

impl RecordSource for TraceStream {
    #[inline]
    fn next(&mut self) -> Result<Option<Record>, TraceError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.next_of_all();
        match next {
            Ok(Some(mut record)) => {
                if !self.begun {
                    self.begun = true;
                    self.first_ns = record.arrival_ns;
                }
                record.arrival_ns -= self.first_ns;
                self.records += 1;
                Ok(Some(record))
            }
            Ok(None) => {
                self.ended = true;
                match self.without_event() {
                    Some(error) if self.records == 0 => Err(error),
                    _ => Ok(None),
                }
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }
}

/// The file, or what blktrace makes of its name: one a CPU.
fn with_cpu_files(path: &Path) -> Vec<PathBuf> {
    let of_cpu = |cpu: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".blktrace.{cpu}"));
        PathBuf::from(name)
    };
    if path.exists() || !of_cpu(0).exists() {
        return vec![path.to_owned()];
    }
    // A CPU that is offline has no file.
    (0..=FILES_MAX).map(of_cpu).filter(|path| path.exists()).collect()
}
